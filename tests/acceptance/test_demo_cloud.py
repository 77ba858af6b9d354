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
    assert "a gpu.small of local in demo-east-a (spot, 0.25 USD/h) is rented" in " ".join(done.stderr.split())
    assert "its provider takes it back: a spot machine, in 5s" in done.stdout
    assert processes(str(tmp_path)) == []


@pytest.mark.timeout(HANGS_S)
def test_a_daemon_that_is_killed_again_and_again_rents_one_machine_and_down_gives_it_back(
    tmp_path: Path, make_cluster: Callable[..., Any], make_file: Callable[[str, str], str]
) -> None:
    """Killed as soon as a machine is asked for, while it runs, and while it is to end; it is one machine, its
    job runs once, and `down` leaves no process of it.
    """
    cluster = make_cluster(1, "--cloud", make_file("cloud.yaml", CLOUD))
    cluster.run("policy", "apply", make_file("pool.yaml", POOL))
    gate = cluster.gate()
    flags = ("--gpus", "L4:1", "--cpus", "1", "--memory", "64MB")
    job = cluster.job(*flags, "--", *gate.words)
    until(lambda: machines(cluster), "a machine is asked for")
    kill(cluster)
    cluster.until_state(job, "RUNNING")
    (machine,) = machines(cluster)
    kill(cluster)
    gate.open()
    cluster.until_state(job, "SUCCEEDED")
    assert machines(cluster) == [machine]
    assert len(cluster.show(job)["attempts"]) == 1
    folder = str(cluster.state / "daemon" / "machines")
    assert processes(folder, "bursar_agent") != []
    cluster.run("cloud", "terminate", machine)
    kill(cluster)
    until(lambda: machines(cluster) == [], "it is gone")
    told = cluster.ask("events", "--kind", "machine-launched", "--kind", "machine-gone")
    assert [one["kind"] for one in told] == ["machine-launched", "machine-gone"]
    second = cluster.job(*flags, "--", *cluster.gate().words)
    cluster.until_state(second, "RUNNING")
    cluster.down()
    assert processes(folder) == []


def machines(cluster: Any) -> list[str] | None:
    """Names of what is rented; None: the daemon does not answer."""
    found = cluster.looks(lambda client: [one.name for one in client.machines().machines])
    return found if found is None else list(found)


def kill(cluster: Any) -> None:
    """kill -9 of the daemon; until another one answers."""
    before = cluster.daemon_pid()
    os.kill(before, signal.SIGKILL)
    until(lambda: cluster.looks(lambda client: client.server().pid != before), "another daemon answers")
