"""What `down` says of jobs that it ends when the daemon is not there to cancel them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bursar.errors import BursarError
from bursar.local import stopping
from bursar.v1 import types_pb2


class Ended:
    """A `--terminate-all` that has come to its end."""

    def __init__(self, code: int, said: str) -> None:
        self.returncode, self._said = code, said

    def communicate(self, timeout: float = 0) -> tuple[None, str]:
        return None, self._said


def terminate(
    monkeypatch: pytest.MonkeyPatch, directory: Path, *agents: tuple[int, str], jobs: bool = True
) -> tuple[int, list[str]]:
    for number, _ in enumerate(agents):
        (directory / "agents" / f"local-{number}").mkdir(parents=True)
    outcomes = iter(agents)
    asked: list[str] = []

    def popen(command: list[str], **_: Any) -> Ended:
        asked.append(command[-1])
        return Ended(*next(outcomes))

    monkeypatch.setattr(stopping.subprocess, "Popen", popen)
    told: list[str] = []
    found = stopping._terminate(directory, told.append, jobs)
    assert asked == ["--terminate-all" if jobs else "--terminate-idle"] * len(agents)
    return found, told


def test_jobs_ended_without_the_daemon_are_counted_and_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ended, told = terminate(
        monkeypatch, tmp_path, (0, "ended 2 members under /s/local-0\n"), (0, "ended 1 members under /s\n")
    )
    assert ended == 3
    assert told == [
        "ended 3 running jobs without the daemon; the next `bursar up` tells them as failed, since nobody"
        " could cancel them"
    ]


def test_jobs_that_an_up_that_failed_leaves_are_counted_and_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    left, told = terminate(
        monkeypatch,
        tmp_path,
        (0, "left alone 1 member under /s\n"),
        (0, "left alone 0 members\n"),
        jobs=False,
    )
    assert left == 1
    assert told == ["left alone: 1 running job, which the next `bursar up` takes over and `bursar down` ends"]


def test_where_nothing_ran_nothing_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert terminate(monkeypatch, tmp_path, (0, "ended 0 members under /s\n"), (0, "")) == (0, [])


def test_an_agent_that_cannot_end_its_jobs_is_an_error_in_its_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(BursarError, match=r"^bursar-agent: the disk is full$"):
        terminate(monkeypatch, tmp_path, (5, "bursar-agent: the disk is full\n"), (0, ""))


def test_a_silent_failure_is_told_by_its_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(BursarError, match=r"^exit code 3$"):
        terminate(monkeypatch, tmp_path, (3, ""))


class Daemon:
    """A job and a service that run, until they are told to end."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.live = {"job_1", "job_2.0"}

    def list(self, states: object, tasks_of: str = "") -> list[types_pb2.Job]:
        if tasks_of:
            return [types_pb2.Job(id=one) for one in sorted(self.live) if one.startswith(f"{tasks_of}.")]
        service = types_pb2.Job(id="job_2", array=types_pb2.ArrayStatus(size=2))
        service.spec.service.replicas_max = 1
        return [types_pb2.Job(id="job_1"), service]

    def cancel(self, jobs: list[str], **_: object) -> None:
        self.asked.append(("cancel", jobs))

    def requeue(self, jobs: list[str]) -> None:
        self.asked.append(("requeue", jobs))


def test_down_cancels_jobs_and_lets_services_go_on_with_the_next_up() -> None:
    client: Any = Daemon()
    live = stopping._live_jobs(client)
    assert live == {"job_1": False, "job_2.0": True}
    stopping._end(client, list(live), live)
    assert client.asked == [("cancel", ["job_1"]), ("requeue", ["job_2.0"])]
