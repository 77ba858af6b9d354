"""kill -9 of daemon and agents while jobs wait at their node for the place of another."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar import Client
from bursar.model import JobSpec
from bursar.resources import ResourceRequest

JOBS = 400
ROUNDS = 4
TERMINAL = ("SUCCEEDED", "FAILED", "CANCELLED")
AHEAD = "ahead of need: it starts on"


@pytest.fixture
def cluster(own_cluster: Any) -> Iterator[Any]:
    yield own_cluster
    own_cluster.ready()
    own_cluster.doctor_is_content()


def lines(path: Path) -> Counter[str]:
    return Counter(path.read_text().splitlines()) if path.exists() else Counter()


def wait_for(what: str, probe: Callable[[], bool], limit_s: float = 120) -> None:
    deadline = time.monotonic() + limit_s
    while not probe():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_jobs_that_wait_behind_others_run_once_whoever_is_killed(cluster: Any) -> None:
    """1. Jobs of a few milliseconds that each need a whole CPU: most wait behind others at their node.
    2. Daemon and agents are killed in turn while they do.
    3. Each has run exactly once, whatever was known of it when; nothing is left.
    """
    out = cluster.work / "ran"
    specs = [
        JobSpec(
            command=("sh", "-c", f"echo {number} >> {out}"),
            workdir="/tmp",
            options=(ResourceRequest(None, 1_000, 1 << 20),),
        )
        for number in range(JOBS)
    ]
    with Client(cluster.server) as client:
        ids = [answer.id for answer in client.submit_many(specs)]
    for round_ in range(ROUNDS):
        done = sum(lines(out).values())
        goal = min(done + 50, JOBS)
        wait_for("the jobs go on", lambda goal=goal: sum(lines(out).values()) >= goal)  # type: ignore[misc]
        assert cluster.kill("-m bursard " if round_ % 2 else "-m bursar_agent ")
        cluster.ready()
    found: dict[str, Any] = {}

    def all_over() -> bool:
        answer = cluster.looks(lambda client: {job.id: job for job in client.list(states=["all"])})
        found.update(answer or {})
        return all(job in found and found[job].state in TERMINAL for job in ids)

    wait_for("every job ends", all_over)
    assert Counter(found[job].state for job in ids) == {"SUCCEEDED": JOBS}
    assert lines(out) == Counter(str(number) for number in range(JOBS))
    told = (attempt["placed_because"] or "" for job in ids for attempt in cluster.show(job)["attempts"])
    assert any(AHEAD in text for text in told), "none was placed ahead: this test tries nothing"
