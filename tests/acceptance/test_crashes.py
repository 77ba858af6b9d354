"""kill -9 of every process, again and again: nothing acknowledged is lost, nothing runs twice."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import until

from bursar.client import WireClient
from bursar.errors import BursarError
from bursar.local import files
from bursar.model import JobSpec

ROUNDS = 4


@pytest.fixture
def cluster(own_cluster: Any) -> Iterator[Any]:
    yield own_cluster
    own_cluster.ready()
    own_cluster.doctor_is_content()


def lines(path: Path) -> Counter[str]:
    return Counter(path.read_text().splitlines()) if path.exists() else Counter()


def settle(cluster: Any, jobs: list[str], limit_s: float = 120) -> dict[str, Any]:
    """Wait until all of these have ended; them, by id."""
    deadline = time.monotonic() + limit_s
    while True:
        states = (
            cluster.looks(lambda client: {job.id: job.state for job in client.list(states=["all"])}) or {}
        )
        open_jobs = [job for job in jobs if states.get(job) not in ("SUCCEEDED", "FAILED", "CANCELLED")]
        if not open_jobs:
            return {each["id"]: each for each in cluster.ask("ls", "--state", "all", "--limit", "100000")}
        assert time.monotonic() < deadline, (
            f"{len(open_jobs)} never ended: {[states.get(j) for j in open_jobs[:2]]}"
        )
        time.sleep(0.3)


def follow_submissions(cluster: Any) -> tuple[list[int], WireClient]:
    """The numbers of submissions as they are told, and the client that follows them until it is closed."""
    told: list[int] = []
    client = WireClient(cluster.server)

    def follow() -> None:
        with contextlib.suppress(BursarError):
            told.extend(event.seq for event in client.events(follow=True, kinds=["job-submitted"]))

    threading.Thread(target=follow, daemon=True).start()
    return told, client


def test_submissions_survive_a_daemon_killed_again_and_again(cluster: Any) -> None:
    out = cluster.work / "ran"
    acknowledged: dict[str, str] = {}
    stop = threading.Event()

    def submit_by_command(worker: int) -> None:
        number = 0
        while not stop.is_set():
            key = f"p{worker}-{number}"
            command = ("sh", "-c", f"echo {key} >> {out}")
            done = cluster.run(
                "run", "-q", "--cpus", "0.05", "--idempotency-key", key, "--", *command, code=None
            )
            if done.returncode == 0:
                acknowledged[key] = done.stdout.strip()
                number += 1
            else:
                assert done.returncode in (1, 5), done.stderr

    def submit_many() -> None:
        batch = 0
        while not stop.is_set():
            keys = [f"m{batch}-{n}" for n in range(20)]
            specs = [JobSpec(command=("sh", "-c", f"echo {key} >> {out}"), workdir="/tmp") for key in keys]
            with contextlib.suppress(BursarError), WireClient(cluster.server) as client:
                for key, answer in zip(keys, client.submit_many(zip(specs, keys, strict=True)), strict=True):
                    assert not answer.error, answer
                    acknowledged[key] = answer.job.id
                batch += 1
            stop.wait(0.1)

    workers = [threading.Thread(target=submit_by_command, args=(n,)) for n in range(2)]
    workers.append(threading.Thread(target=submit_many))
    told, follower = follow_submissions(cluster)
    for worker in workers:
        worker.start()
    try:
        for _ in range(ROUNDS):
            before = len(acknowledged)
            deadline = time.monotonic() + 120
            while len(acknowledged) < before + 15:
                assert time.monotonic() < deadline, "submissions stopped"
                time.sleep(0.05)
            os.kill(cluster.daemon_pid(), signal.SIGKILL)
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    cluster.ready()
    with WireClient(cluster.server) as client:
        happened = [event.seq for event in client.events(kinds=["job-submitted"])]
    until(lambda: told[-1:] == happened[-1:], "events that are followed go on")
    follower.close()
    assert told == happened, "each event once, over every crash"
    assert len(acknowledged) > 15 * ROUNDS
    assert len(set(acknowledged.values())) == len(acknowledged), "one job per key"
    jobs = settle(cluster, list(acknowledged.values()))
    ran = lines(out)
    for key, job in acknowledged.items():
        assert jobs[job]["state"] == "SUCCEEDED", jobs[job]
        assert ran[key] == 1, f"{key} ran {ran[key]} times"
    assert max(ran.values()) == 1
    key = next(key for key in acknowledged if key.startswith("p"))
    again = cluster.run(
        "run", "-q", "--cpus", "0.05", "--idempotency-key", key, "--", "sh", "-c", f"echo {key} >> {out}"
    )
    assert again.stdout.strip() == acknowledged[key], "the same key answers the same job after a crash"


def start_three(cluster: Any, tag: str) -> tuple[list[str], dict[str, int]]:
    """Three running jobs with different ends, and the pid of each."""
    out, go = cluster.work / f"{tag}-ends", cluster.work / f"{tag}-go"
    jobs = []
    for code in (0, 3, 0):
        script = (
            f"echo $$ > {cluster.work}/{tag}-pid-$BURSAR_JOB_ID; "
            f"until test -e {go}; do sleep 0.05; done; echo $BURSAR_JOB_ID >> {out}; exit {code}"
        )
        jobs.append(cluster.job("--cpus", "0.3", "--time-limit", "5m", "--", "sh", "-c", script))
    pids: dict[str, int] = {}
    deadline = time.monotonic() + 120
    while len(pids) < 3:
        assert time.monotonic() < deadline, "the jobs did not start"
        for job in jobs:
            file = cluster.work / f"{tag}-pid-{job}"
            if file.exists() and file.read_text().strip():
                pids[job] = int(file.read_text())
        time.sleep(0.05)
    return jobs, pids


def finish_three(cluster: Any, tag: str, jobs: list[str], pids: dict[str, int]) -> None:
    """They are the same processes still; let them end and compare."""
    cluster.ready()
    for job, pid in pids.items():
        os.kill(pid, 0)
        assert cluster.show(job)["state"] == "RUNNING"
    (cluster.work / f"{tag}-go").touch()
    found = settle(cluster, jobs)
    assert [found[job]["exit_code"] for job in jobs] == [0, 3, 0]
    assert [found[job]["state"] for job in jobs] == ["SUCCEEDED", "FAILED", "SUCCEEDED"]
    assert all(len(cluster.show(job)["attempts"]) == 1 for job in jobs)
    assert lines(cluster.work / f"{tag}-ends") == Counter(jobs)
    assert all(float(found[job]["cost"]["settled"]["amount"]) > 0 for job in jobs)


def kill_launchers(cluster: Any) -> int:
    """kill -9 of what starts supervisors; supervisors, forked from it, look the same but have a job below."""
    pids = set(cluster.pids("bursar_agent.runner.launcher"))
    children = {pid: set(cluster.children(pid)) for pid in pids}
    launchers = [pid for pid in pids if children[pid] <= pids]
    for pid in launchers:
        os.kill(pid, signal.SIGKILL)
    return len(launchers)


KILLS: dict[str, Callable[[Any], int]] = {
    "daemon": lambda cluster: cluster.kill("-m bursard "),
    "agents": lambda cluster: cluster.kill("-m bursar_agent "),
    "launchers": kill_launchers,
    "everything": lambda cluster: cluster.kill("-m bursar") + kill_launchers(cluster),
}


@pytest.mark.parametrize("what", KILLS)
def test_running_jobs_survive_the_death_of(cluster: Any, what: str) -> None:
    jobs, pids = start_three(cluster, what)
    for again in range(2):
        killed = KILLS[what](cluster)
        assert killed or again
        if what == "everything":
            cluster.up()
        cluster.ready()
    finish_three(cluster, what, jobs, pids)


def test_jobs_that_end_while_nobody_watches_are_reported_as_they_ended(cluster: Any) -> None:
    jobs, _ = start_three(cluster, "unseen")
    KILLS["everything"](cluster)
    (cluster.work / "unseen-go").touch()
    deadline = time.monotonic() + 120
    while sum(lines(cluster.work / "unseen-ends").values()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    cluster.up()
    found = settle(cluster, jobs)
    assert [found[job]["exit_code"] for job in jobs] == [0, 3, 0]


def test_a_keeper_that_was_killed_is_replaced_by_what_it_kept(cluster: Any) -> None:
    """1. Nobody calls anything. 2. What ran goes on. 3. With the daemon dead too, agents see to it."""
    before = cluster.status()["daemon"]["pid"]
    first = cluster.pids(KEEPER)
    os.kill(*first, signal.SIGKILL)
    second = until(lambda: set(cluster.pids(KEEPER)) - {*first}, "a keeper is there again")
    assert cluster.status()["daemon"]["pid"] == before, "what ran goes on"
    for pid in (*second, before):
        os.kill(pid, signal.SIGKILL)
    until(lambda: set(cluster.pids(KEEPER)) - second, "agents bring it back")
    cluster.ready()
    assert cluster.status()["daemon"]["pid"] != before
    assert len(cluster.pids(KEEPER)) == 1


def test_down_and_up_again_goes_on_where_it_stopped(cluster: Any) -> None:
    out = cluster.work / "after"
    held = cluster.job("--cpus", "0.1", "--name", "kept", "--", "sh", "-c", f"echo ran >> {out}")
    blocker = cluster.job("--nodes", "2", "--cpus", "1", "--time-limit", "5m", "--", "sleep", "300")
    waiting = cluster.job("--nodes", "2", "--cpus", "1", "--", "sh", "-c", f"echo ran >> {out}")
    cluster.until_state(blocker, "RUNNING")
    cluster.ended(held)
    cluster.down()
    assert cluster.run("ls", code=5).stdout == ""
    cluster.up()
    assert cluster.show(held)["state"] == "SUCCEEDED"
    settle(cluster, [waiting], 40)
    assert cluster.show(waiting)["state"] == "SUCCEEDED"
    assert lines(out)["ran"] == 3
    stopped = cluster.show(blocker)
    if stopped["state"] not in ("FAILED", "CANCELLED"):
        cluster.run("cancel", blocker)
        cluster.ended(blocker)


def test_a_second_up_changes_nothing(make_cluster: Callable[..., Any]) -> None:
    """A second `up` of a running cluster changes nothing and ends with 0."""
    cluster = make_cluster(1)
    pid = cluster.status()["daemon"]["pid"]
    cluster.up()
    assert cluster.status()["daemon"]["pid"] == pid
    cluster.down()


KEEPER = "bursar.local.keeper"
LEASES = """\
kind: CostModel
name: rack
spec: {pool: local, node_capex: 400003 USD, useful_life: 5y}
---
kind: Budget
name: leased
spec: {scope: {project: leased}, limit: 100 USD, period: one-time, hold: lease, lease: 10s}
"""


def test_a_job_that_lives_by_leases_ends_with_its_last_one_when_the_daemon_is_dead(cluster: Any) -> None:
    cluster.apply(LEASES)
    pid_file = cluster.work / "pid"
    command = ("sh", "-c", f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 600")
    job = cluster.job("--project", "leased", "--time-limit", "1h", "--", *command)
    until(pid_file.exists, "it runs")
    at_work = files.lock(cluster.state / files.UP_LOCK)  # nobody else brings the daemon back
    assert at_work is not None
    assert cluster.kill(KEEPER) == 1
    assert cluster.kill("-m bursard ") == 1
    pid = int(pid_file.read_text())
    until(lambda: not Path(f"/proc/{pid}").exists(), "its node ends it")
    os.close(at_work)
    cluster.up()
    cluster.ready()
    found = cluster.ended(job)
    (attempt,) = found["attempts"]
    assert (found["end"]["cause"], attempt["end_cause"]) == ("budget", "budget")
    assert attempt["time_limit_s"] == 3600
    assert attempt["leased_s"] >= 10
    paid_s = attempt["leased_s"] + 5 + 5  # the grace, and how late a last kill may be
    per_hour = sum(float(node["rate_per_hour"]["amount"]) for node in attempt["nodes"])
    assert 0 < float(found["cost"]["settled"]["amount"]) <= per_hour * paid_s / 3600
