"""Rented machines with real processes: the demo as it is shown, and a daemon that is killed at every turn."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster import processes, until

ROOT = Path(__file__).parents[2]
HANGS_S = 600
"""How long things take on a busy machine is no fault of theirs."""
CLOUD = """\
regions: {home: [home-a]}
boot: 1s
ending: 1s
types:
  gpu.small: {cpus: 1, memory: 1GiB, gpus: "L4:1", prices: {on-demand: 0.80 USD/h}}
"""
POOL = """\
kind: CloudPool
name: rented
spec: {provider: local, limits: {machines: 2}, keep_alive: 1h, boot_timeout: 10m}
"""


@pytest.mark.timeout(HANGS_S + 60)
def test_the_demo_rents_loses_replaces_and_gives_back(tmp_path: Path) -> None:
    argv = [sys.executable, str(ROOT / "docs/examples/demo/cloud.py"), str(tmp_path / "s")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=HANGS_S)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "its provider takes it back: a spot machine, in 5s" in " ".join(done.stdout.split())
    assert processes(str(tmp_path)) == []


@pytest.mark.timeout(4 * HANGS_S)
def test_a_daemon_that_is_killed_again_and_again_rents_one_machine_and_down_gives_it_back(
    tmp_path: Path, make_cluster: Callable[..., Any], make_file: Callable[[str, str], str]
) -> None:
    """Killed as soon as a machine is made, while its job runs, and while it is to end; it is one machine, its
    job runs once, and `down` leaves no process of it.
    """
    cluster = make_cluster(1, "--cloud", make_file("cloud.yaml", CLOUD))
    cluster.run("policy", "apply", make_file("pool.yaml", POOL))
    gate = cluster.gate()
    flags = ("--gpus", "L4:1", "--cpus", "1", "--memory", "64MB")
    job = cluster.job(*flags, "--", *gate.words)
    until(lambda: machines(cluster, "launching", "up"), "a machine is made")
    kill(cluster)
    cluster.until_state(job, "RUNNING", limit_s=HANGS_S)
    (machine,) = until(lambda: machines(cluster), "the daemon answers")
    kill(cluster)
    gate.open()
    cluster.until_state(job, "SUCCEEDED", limit_s=HANGS_S)
    assert until(lambda: machines(cluster), "the daemon answers") == [machine]
    assert len(cluster.show(job)["attempts"]) == 1
    folder = str(cluster.state / "daemon" / "machines")
    assert processes(folder, "bursar_agent") != []
    cluster.run("cloud", "terminate", machine)
    kill(cluster)
    until(lambda: machines(cluster) == [], "it is gone", limit_s=HANGS_S)
    assert len(cluster.ask("events", "--kind", "machine-launched")) == 1
    second = cluster.job(*flags, "--", *cluster.gate().words)
    cluster.until_state(second, "RUNNING", limit_s=HANGS_S)
    cluster.down()
    assert processes(folder) == []


def machines(cluster: Any, *states: str) -> list[str] | None:
    """Names of what is rented, in these states or any; None: the daemon does not answer."""
    found = cluster.looks(lambda client: list(client.machines().machines))
    return found and [one.name for one in found if not states or one.state in states]


def kill(cluster: Any) -> None:
    """kill -9 of the daemon; until another one answers."""
    before = cluster.daemon_pid()
    os.kill(before, signal.SIGKILL)
    until(lambda: cluster.looks(lambda client: client.server().pid != before), "another daemon answers")
