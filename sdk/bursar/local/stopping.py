"""Ending the cluster of one state directory: jobs, agents, daemon, keeper, in this order.

Why     `bursar down` must leave nothing running, whichever part of it is dead, hung or damaged.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bursar.errors import BursarError
from bursar.local import clouds, files, processes
from bursar.local.child import STOP_S, child_env
from bursar.local.cluster import DOWN_REASON, LocalCluster, connected
from bursar.local.files import Kept
from bursar.words import plural

if TYPE_CHECKING:
    from bursar.client import WireClient

STOP_JOBS_S: Final = 10.0
STOP_GRACE_US: Final = 5_000_000
"""Grace that `down` leaves a running job, so that it is gone within `STOP_JOBS_S`."""
KEEPER_STOP_S: Final = 20.0
TERMINATE_S: Final = 40.0
"""How long `down` lets the agents' own clean-up end what jobs are left."""
_COUNT: Final = re.compile(r"^(?:ended|left alone) (\d+) members? under ", re.MULTILINE)
LIVE: Final = ("STARTING", "RUNNING", "STOPPING")


def stop(cluster: LocalCluster, progress: Callable[[str], None], jobs: bool = True) -> bool:
    """Stop jobs, agents, daemon and keeper; True when something ran. Without `jobs` those go on, as they do
    when their agent dies.
    """
    running, keeper = cluster.processes(), cluster.keeper()
    if not running and keeper is None:
        if jobs:
            clouds.end_agents(cluster.directory)
        return _terminate(cluster.directory, progress, jobs) > 0
    if jobs and "daemon" in running and not processes.stopped(running["daemon"]):
        _stop_jobs(cluster.server, progress)
        _give_back(cluster, progress)
    if keeper is not None:
        progress("stopping the agents and the daemon")
        limit_s = KEEPER_STOP_S if cluster.keeper_responds(keeper) else 0.0
        processes.kill(keeper, signal.SIGTERM)
        for late in processes.wait_gone([keeper], limit_s):
            processes.kill(late, signal.SIGKILL)
            processes.wait_gone([late], 2.0)
        cluster.ended()
    left = cluster.processes()  # what no keeper ended: agents, then the daemon
    processes.end_all([process for name, process in left.items() if name != "daemon"], STOP_S)
    processes.end_all([process for name, process in left.items() if name == "daemon"], STOP_S)
    desired = cluster.kept().desired
    with contextlib.suppress(OSError):  # a full disk must not keep anything running
        kept = Kept(desired, served=cluster.kept().served)
        files.write_json(cluster.directory / files.CLUSTER, kept.to_json() if desired.agents else {})
    if jobs:
        clouds.end_agents(cluster.directory)
    _terminate(cluster.directory, progress, jobs)
    return True


def _stop_jobs(server: str, progress: Callable[[str], None]) -> None:
    """Cancel what runs. Nodes are cordoned first, so that nothing pending takes its place."""
    try:
        with connected(server) as client:
            client.server(timeout_s=5.0)  # one that does not answer is not asked for more
            for node in client.nodes():
                if node.state == "up":
                    client.cordon(node.facts.name, reason=DOWN_REASON)
            stop_at = time.monotonic() + STOP_JOBS_S
            asked: set[str] = set()
            while live := _live_jobs(client):
                fresh = [job for job in live if job not in asked]
                if fresh:
                    progress(f"stopping {plural(len(fresh), 'running job')}")
                    for i in range(0, len(fresh), 500):
                        _end(client, fresh[i : i + 500], live)
                    asked.update(fresh)
                if time.monotonic() > stop_at:
                    progress(f"{plural(len(live), 'job')} did not stop in {STOP_JOBS_S:g} s; ending them")
                    return
                time.sleep(0.1)
    except BursarError as error:
        progress(f"the daemon cannot stop the jobs ({error.message}); ending them")


def _end(client: WireClient, fresh: list[str], live: dict[str, bool]) -> None:
    """Jobs are cancelled. Replicas of services wait for the next `bursar up`, which starts them again."""
    jobs = [one for one in fresh if not live[one]]
    replicas = [one for one in fresh if live[one]]
    if jobs:
        client.cancel(jobs, grace_us=STOP_GRACE_US, reason=DOWN_REASON)
    if replicas:
        client.requeue(replicas)


def _give_back(cluster: LocalCluster, progress: Callable[[str], None]) -> None:
    """Rented machines, of whichever cloud, end while somebody is there who can write down what they cost."""
    try:
        with connected(cluster.server) as client:
            clouds.give_back(client, DOWN_REASON, progress)
    except BursarError as error:
        progress(f"the daemon cannot give its machines back ({error.message}); ending them")


def _terminate(directory: Path, progress: Callable[[str], None], jobs: bool) -> int:
    """Whatever job, supervisor or launcher is left below an agent's directory ends now; without `jobs` only
    what has no job. How many jobs there were.

    Raises `BursarError` when something does not end.
    """
    stop_at = time.monotonic() + TERMINATE_S
    running = []
    rented = clouds.folders(directory) if jobs else []
    for agent in [*sorted((directory / "agents").glob("*/")), *rented]:
        command = [sys.executable, "-P", "-m", "bursar_agent"]
        command += ["--state-dir", str(agent), "--terminate-all" if jobs else "--terminate-idle"]
        running.append(
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=child_env(),
                text=True,
                errors="replace",
            )
        )
    outcomes = [_outcome(process, stop_at) for process in running]
    count = sum(count for _, count in outcomes)
    if count and jobs:
        progress(
            f"ended {plural(count, 'running job')} without the daemon; the next `bursar up` tells"
            " them as failed, since nobody could cancel them"
        )
    elif count:
        progress(
            f"left alone: {plural(count, 'running job')}, which the next `bursar up` takes over"
            " and `bursar down` ends"
        )
    if complaints := [said for said, _ in outcomes if said]:
        raise BursarError("\n".join(complaints))
    return count


def _outcome(process: subprocess.Popen[str], stop_at: float) -> tuple[str, int]:
    """(what a `--terminate-all` complained about, empty when it went well; how many members it found)."""
    try:
        _, said = process.communicate(timeout=max(0.1, stop_at - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"jobs were not ended within {TERMINATE_S:g} s; look for their processes with ps", 0
    if process.returncode:
        return said.strip() or f"exit code {process.returncode}", 0
    found = _COUNT.search(said)
    return "", int(found[1]) if found else 0


def _live_jobs(client: WireClient) -> dict[str, bool]:
    """Ids of jobs with processes; of an array, of its tasks that have some. True: a replica of a service."""
    found: dict[str, bool] = {}
    for job in client.list(states=LIVE):
        serves = job.spec.HasField("service")
        if job.HasField("array"):
            found |= {task.id: serves for task in client.list(states=LIVE, tasks_of=job.id)}
        else:
            found[job.id] = False
    return found
