"""A backup of a cluster that went on, put back after everything died: what runs is told, and life goes on."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def restored(own_cluster: Any) -> Iterator[tuple[Any, dict[str, str]]]:
    """A cluster after: jobs, a backup, more jobs, `kill -9` of daemon, keeper and agents, a restore, a start.

    `before` runs in log and world; `ended` ran at the backup and ended after it; `lost` came after it.
    """
    cluster = own_cluster
    gates = {name: cluster.work / f"gate-{name}" for name in ("before", "ended", "lost")}

    def gated(name: str) -> str:
        return str(
            cluster.job(
                "--name", name, "--cpus", "0.1", "--", "sh", "-c",
                f"echo start >> {cluster.work}/{name}; until test -e {gates[name]}; do sleep 0.05; done;"
                f" echo end >> {cluster.work}/{name}",
            )
        )  # fmt: skip

    jobs = {"done": cluster.job("--", "true")}
    cluster.ended(jobs["done"])
    jobs |= {name: gated(name) for name in ("before", "ended")}
    for name in ("before", "ended"):
        cluster.until_state(jobs[name], "RUNNING")
    backup = cluster.home / "b.tar"
    cluster.run("backup", "--out", str(backup), "--state-dir", str(cluster.state))
    gates["ended"].touch()
    assert cluster.ended(jobs["ended"])["state"] == "SUCCEEDED"
    jobs["lost"] = gated("lost")
    cluster.until_state(jobs["lost"], "RUNNING")
    for words in (("bursar.local.keeper",), ("-m bursard",), ("-m bursar_agent",)):
        cluster.kill(*words)
    (cluster.state / "daemon").rename(cluster.home / "daemon.before")
    cluster.run("restore", str(backup), "--state-dir", str(cluster.state))
    cluster.up()
    cluster.ready()
    yield cluster, jobs
    for gate in gates.values():
        gate.touch()


def running(words: str) -> bool:
    """Does any process have this in its command line?"""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if words.encode() in entry.read_bytes():
                return True
    return False


def lines(cluster: Any, name: str) -> list[str]:
    path = cluster.work / name
    return path.read_text().split() if path.exists() else []


def test_a_job_that_log_and_node_know_goes_on_and_ends_as_it_would_have(restored: Any) -> None:
    cluster, jobs = restored
    assert cluster.until_state(jobs["before"], "RUNNING")["attempts"][-1]["number"] == 1
    (cluster.work / "gate-before").touch()
    assert cluster.ended(jobs["before"])["state"] == "SUCCEEDED"
    assert lines(cluster, "before") == ["start", "end"]


def test_a_job_that_ended_after_the_backup_comes_to_an_end_again(restored: Any) -> None:
    cluster, jobs = restored
    found = cluster.ended(jobs["ended"], 60)
    assert found["state"] == "SUCCEEDED"
    assert [attempt["end_cause"] for attempt in found["attempts"]] == ["node_lost", "completed"]
    assert lines(cluster, "ended") == ["start", "end", "start", "end"]


def test_what_the_log_does_not_know_is_ended_on_its_node(restored: Any) -> None:
    cluster, jobs = restored
    cluster.run("show", jobs["lost"], code=4)
    deadline = time.monotonic() + 120
    while running(str(cluster.work / "gate-lost")):
        assert time.monotonic() < deadline, "the job of a lost life still runs"
        time.sleep(0.1)
    assert lines(cluster, "lost") == ["start"]


def test_new_jobs_run_with_numbers_that_were_never_given_out(restored: Any) -> None:
    cluster, _ = restored
    found = cluster.ended(cluster.job("--", "true"), 60)
    assert found["state"] == "SUCCEEDED", found
    assert found["number"] > 10_000


def test_the_log_says_who_restored_it_and_everything_holds(restored: Any) -> None:
    cluster, _ = restored
    (event,) = cluster.ask("events", "--kind", "log-resumed")
    assert event["data"]["cause"] == "restored"
    cluster.run("audit", "verify")
    cluster.run("audit", "verify", "--state-dir", str(cluster.state))
    shutil.rmtree(cluster.home / "daemon.before")
    assert not Path(cluster.home / "daemon.before").exists()
