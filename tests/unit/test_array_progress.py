"""How far an array or a service is: in place on a terminal, else a line for each change."""

from __future__ import annotations

from typing import Any

import pytest

from bursar.cli import progress as room
from bursar.cli.progress import Progress, progress_text
from bursar.errors import NotFound
from bursar.v1 import services_pb2, types_pb2

MINUTE_US = 60_000_000


def job(started_at: int = 0, **counts: int) -> types_pb2.Job:
    return types_pb2.Job(started_at=started_at, array=types_pb2.ArrayStatus(size=20, counts=counts))


@pytest.mark.parametrize(
    ("made", "now", "said"),
    [
        (job(), 0, "0/20 done"),
        (job(SUCCEEDED=5, RUNNING=3), 0, "5/20 done"),
        (job(SUCCEEDED=4, FAILED=2, CANCELLED=1), 0, "7/20 done, 2 failed, 1 cancelled"),
        (job(1, SUCCEEDED=10), 1 + 30_000_000, "10/20 done, about 30 s left"),
        (job(1, SUCCEEDED=10), 1 + 59_999_999, "10/20 done, about 59 s left"),
        (job(1, SUCCEEDED=10), 1 + MINUTE_US, "10/20 done, about 1 min left"),
        (job(1, SUCCEEDED=10), 1, "10/20 done, about 1 s left"),
        (job(9, SUCCEEDED=10), 1, "10/20 done, about 1 s left"),
        (job(1, SUCCEEDED=5), 1 + 10 * MINUTE_US, "5/20 done, about 30 min left"),
        (job(1, SUCCEEDED=10), 1 + 119 * MINUTE_US, "10/20 done, about 119 min left"),
        (job(1, SUCCEEDED=10), 1 + 120 * MINUTE_US, "10/20 done, about 2 h left"),
        (job(1, SUCCEEDED=20), 1 + MINUTE_US, "20/20 done"),
    ],
)
def test_it_says_what_is_done_and_about_what_is_left(made: Any, now: int, said: str) -> None:
    assert progress_text(made, now) == said


@pytest.mark.parametrize(
    ("terminal", "said"),
    [
        (False, "1/20 done\n2/20 done, 1 failed\n"),
        (True, "\r\x1b[K1/20 done\r\x1b[K\r\x1b[K2/20 done, 1 failed\n"),
    ],
)
def test_each_change_is_shown_once(
    terminal: bool, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(room, "is_terminal", lambda stream: terminal)
    shown = Progress(None)  # type: ignore[arg-type]  # of an array nothing is asked
    shown.clear()
    shown.close()
    shown.show(job(SUCCEEDED=1), 0)
    shown.show(job(SUCCEEDED=1, RUNNING=9), 0)
    shown.clear()
    shown.show(job(SUCCEEDED=1, FAILED=1), 0)
    shown.close()
    assert capsys.readouterr().err == said


class Services:
    """Answers what a service lacks."""

    def __init__(self, *reasons: str) -> None:
        self.reasons = list(reasons)

    def services(self, job: str) -> list[services_pb2.Service]:
        assert job == "job_s"
        if not self.reasons:
            raise NotFound("no service of that name")
        reason = types_pb2.Reason(message=self.reasons.pop(0), remedy="look at its log")
        return [services_pb2.Service(reason=reason)]


def service(state: str = "RUNNING", **counts: int) -> types_pb2.Job:
    spec = types_pb2.JobSpec(service=types_pb2.ServiceSpec(replicas_min=1, replicas_max=4))
    status = types_pb2.ArrayStatus(size=5, counts=counts)
    return types_pb2.Job(id="job_s", state=state, spec=spec, array=status)


@pytest.mark.parametrize("terminal", [False, True])
def test_of_a_service_it_says_how_many_replicas_run_and_why_not_more(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(room, "is_terminal", lambda stream: terminal)
    shown = Progress(Services("", "it ended 2 times", "it ended 2 times"))  # type: ignore[arg-type]
    shown.show(service(state="PENDING", PENDING=5), 0)
    shown.show(service(RUNNING=1, PENDING=4), 0)
    shown.show(service(STOPPING=1, PENDING=4), 0)
    shown.show(service(PENDING=5), 0)
    shown.clear()
    shown.show(service(STARTING=1, RUNNING=1, PENDING=3), 0)
    shown.show(service(RUNNING=1, PENDING=4), 0)  # it does not answer now
    shown.show(service(state="CANCELLED", CANCELLED=5), 0)
    shown.close()
    assert capsys.readouterr().err.splitlines() == [
        "1 of 1..4 replicas run",
        "0 of 1..4 replicas run",
        "it ended 2 times; look at its log",
        "2 of 1..4 replicas run",
        "1 of 1..4 replicas run",
    ]
