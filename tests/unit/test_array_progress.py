"""How far an array is: in place on a terminal, else a line for each change."""

from __future__ import annotations

from typing import Any

import pytest

from bursar.cli import progress as room
from bursar.cli.progress import Progress, progress_text
from bursar.v1 import types_pb2

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
    shown = Progress()
    shown.clear()
    shown.close()
    shown.show(job(SUCCEEDED=1), 0)
    shown.show(job(SUCCEEDED=1, RUNNING=9), 0)
    shown.clear()
    shown.show(job(SUCCEEDED=1, FAILED=1), 0)
    shown.close()
    assert capsys.readouterr().err == said
