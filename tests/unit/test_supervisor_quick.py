"""A job of no length: what a supervisor does when all is over before it has looked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bursar_agent.runner import spawning, supervisor, tree
from bursar_agent.runner.layout import START
from bursar_agent.runner.supervisor import Supervisor

MAIN = 70


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Supervisor]:
    """One that is about to start its job, which is no process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(supervisor, "start_ticks", lambda pid: pid + 1)
    monkeypatch.setattr(tree, "descendants", lambda pid: [])
    monkeypatch.setattr(spawning, "spawn", lambda *_: MAIN)
    monkeypatch.setattr(os, "pwrite", lambda *_: 1)
    made = Supervisor(
        {"attempt_id": "att_1", "rank": 2, "epoch": 5, "boot_id": "b", "log_cap_bytes": 1000},
        spawning.Host(), None, None, 33, -1,  # type: ignore[arg-type]
    )  # fmt: skip
    made._attempt_dir_fd = -1
    made._job = SimpleNamespace(  # type: ignore[assignment]
        argv=["a"], engine_script="", setup="", warn_us=0, progress_dir=""
    )
    yield made
    for fd in (made._log_read, made._log_write):
        if fd >= 0:
            os.close(fd)


@pytest.mark.parametrize(
    ("ends", "left", "over"),
    [
        ([(MAIN, 0)], False, True),
        ([(MAIN, 256)], False, True),
        ([(MAIN, 0)], True, False),
        ([(71, 0)], True, False),
        ([], True, False),
    ],
)
def test_a_job_of_no_length_leaves_no_record_of_its_start(
    made: Supervisor,
    monkeypatch: pytest.MonkeyPatch,
    ends: list[tuple[int, int]],
    left: bool,
    over: bool,
) -> None:
    told, tell = os.pipe2(os.O_NONBLOCK)
    monkeypatch.setattr(supervisor, "SIGNAL_FD", told)
    monkeypatch.setattr(supervisor, "QUICK_MS", 60_000 if ends else 0)
    if ends:
        os.write(tell, bytes(128))
    used, dead = SimpleNamespace(ru_utime=0.0, ru_stime=0.0, ru_maxrss=1), iter(ends)

    def wait4(pid: int, how: int) -> tuple[int, int, Any]:
        ended = next(dead, None)
        if ended is None and not left:
            raise ChildProcessError
        return (*(ended or (0, 0)), used)

    monkeypatch.setattr(os, "wait4", wait4)
    assert made._spawn(made._job) is True  # type: ignore[arg-type]
    assert made._over is over
    assert Path(START).exists() is not over
    assert (made._start_notice is None) is over
    if over:
        assert made._report["end_cause"] == ("failed" if ends[0][1] else "completed")
    with pytest.raises(BlockingIOError):
        os.read(told, 1)
    os.close(told)
    os.close(tell)


def test_a_run_of_no_length_after_a_setup_ends_the_attempt(
    made: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    made._phase = "setup"
    made._report["end_cause"] = "completed"
    monkeypatch.setattr(made, "_ends_at_once", lambda: True)
    assert made._next_phase() is False
    assert (made._phase, made._over) == ("run", True)
