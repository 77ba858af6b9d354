"""What the keeper decides about one child, with a clock that the test moves; and the keeper's own beat."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar.local import child as child_module
from bursar.local import heartbeat, processes
from bursar.local.child import BACKOFF_MAX_S, BACKOFF_S, HEALTHY_AFTER_S, SILENT_S, START_S, STOPPED_S, Child
from bursar.local.files import ChildSpec

SLEEPER = ("sleep", "infinity")
FAILING = ("sh", "-c", "exit 3")


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(child_module, "time", made)
    return made


@pytest.fixture
def sleeper(tmp_path: Path, clock: Clock) -> Iterator[Child]:
    kept = Child(ChildSpec("daemon", "bursard", str(tmp_path), SLEEPER), tmp_path / "logs" / "daemon.log")
    kept.start(dict(os.environ), tmp_path)
    yield kept
    if kept.process is not None:
        assert kept.popen is not None
        kept.popen.kill()
        kept.ended(clock.now_s)


def started(tmp_path: Path, command: tuple[str, ...]) -> Child:
    kept = Child(ChildSpec("daemon", "bursard", str(tmp_path), command), tmp_path / "logs" / "daemon.log")
    kept.start(dict(os.environ), tmp_path)
    return kept


def await_state(process: processes.Process, letter: str) -> None:
    """Signals are delivered by the kernel when it likes."""
    while (seen := processes.glance(process.pid)) is None or seen.state != letter:
        os.sched_yield()


def test_stopped_process_counts_as_hung_after_five_seconds(sleeper: Child, clock: Clock) -> None:
    assert sleeper.process is not None
    os.kill(sleeper.process.pid, signal.SIGSTOP)
    await_state(sleeper.process, "T")
    assert sleeper.hung(clock.now_s) == ""
    assert sleeper.hung(clock.now_s + STOPPED_S - 0.1) == ""
    assert sleeper.hung(clock.now_s + STOPPED_S) == "stopped for 5 s"
    os.kill(sleeper.process.pid, signal.SIGCONT)
    await_state(sleeper.process, "S")
    assert sleeper.hung(clock.now_s + STOPPED_S) == ""


def test_ready_process_that_falls_silent_counts_as_hung(sleeper: Child, clock: Clock) -> None:
    sleeper.heard(b"READY=1", clock.now_s)
    assert sleeper.ready
    assert sleeper.hung(clock.now_s + SILENT_S) == ""
    assert sleeper.hung(clock.now_s + SILENT_S + 0.1) == "no sign of life for 30 s"
    sleeper.heard(b"WATCHDOG=1", clock.now_s + SILENT_S)
    assert sleeper.hung(clock.now_s + 2 * SILENT_S) == ""


def test_process_that_starts_may_take_long_while_it_works(sleeper: Child, clock: Clock, monkeypatch) -> None:
    at_work = [processes.Glance("R", 1, ticks) for ticks in (5, 6)]
    at_rest = processes.Glance("S", 1, 6)
    monkeypatch.setattr(processes, "glance", lambda pid: at_work.pop(0) if at_work else at_rest)
    assert sleeper.hung(clock.now_s + START_S + 1) == ""
    assert sleeper.hung(clock.now_s + 2 * START_S + 2) == ""
    assert sleeper.hung(clock.now_s + 3 * START_S + 2) == ""
    assert sleeper.hung(clock.now_s + 3 * START_S + 2.1) == "no sign of life for 60 s"


def test_what_the_keeper_slept_through_is_nobodys_silence(sleeper: Child, clock: Clock) -> None:
    sleeper.heard(b"READY=1", clock.now_s)
    sleeper.forgive(3600.0)
    assert sleeper.hung(clock.now_s + 3600.0 + SILENT_S) == ""
    assert sleeper.hung(clock.now_s + 3600.0 + SILENT_S + 0.1) != ""


def test_restarts_slow_down_and_never_stop(tmp_path: Path, clock: Clock) -> None:
    waits = []
    kept = started(tmp_path, FAILING)
    for _ in range(12):
        assert kept.ended(clock.now_s) == 3
        waits.append(kept.start_at_s - clock.now_s)
        kept.start(dict(os.environ), tmp_path)
    kept.ended(clock.now_s)
    assert waits[:6] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, BACKOFF_MAX_S])
    assert set(waits[5:]) == {BACKOFF_MAX_S}
    assert kept.failures == 13


def test_a_healthy_time_resets_the_restarts(tmp_path: Path, clock: Clock) -> None:
    kept = started(tmp_path, FAILING)
    kept.ended(clock.now_s)
    kept.start(dict(os.environ), tmp_path)
    clock.now_s += HEALTHY_AFTER_S
    kept.ended(clock.now_s)
    assert kept.start_at_s - clock.now_s == pytest.approx(BACKOFF_S)


def test_being_killed_is_no_failure_of_its_own(sleeper: Child, clock: Clock) -> None:
    """Four quick kill -9 from outside say nothing against the next `up`."""
    processes.kill(sleeper.process, signal.SIGKILL)
    assert sleeper.ended(clock.now_s) == -signal.SIGKILL
    assert sleeper.failures == 0


def test_up_hurries_what_waits(tmp_path: Path, clock: Clock) -> None:
    kept = started(tmp_path, FAILING)
    for _ in range(5):
        kept.ended(clock.now_s)
        kept.start(dict(os.environ), tmp_path)
    kept.ended(clock.now_s)
    kept.hurry()
    assert kept.start_at_s <= clock.now_s
    kept.start(dict(os.environ), tmp_path)
    kept.ended(clock.now_s)
    assert kept.start_at_s - clock.now_s == pytest.approx(BACKOFF_S)


@pytest.mark.parametrize("damage", ["directory in place of the log", "file in place of the folder"])
def test_damaged_log_does_not_keep_a_process_from_starting(tmp_path: Path, clock: Clock, damage: str) -> None:
    if damage == "file in place of the folder":
        (tmp_path / "logs").write_text("")
    else:
        (tmp_path / "logs" / "daemon.log").mkdir(parents=True)
    kept = started(tmp_path, FAILING)
    assert kept.ended(clock.now_s) == 3
    assert (tmp_path / "logs" / "daemon.log").is_file()
    assert list(tmp_path.rglob("*.damaged-*"))


def test_a_process_is_started_without_a_log_where_there_can_be_none(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "logs").symlink_to(tmp_path / "unmounted")
    kept = started(tmp_path, FAILING)
    assert kept.ended(clock.now_s) == 3
    assert not (tmp_path / "unmounted").exists()


def test_large_log_is_rotated_once(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "LOG_BYTES_MAX", 10)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "daemon.log").write_text("x" * 11)
    kept = started(tmp_path, FAILING)
    kept.ended(clock.now_s)
    assert (tmp_path / "logs" / "daemon.log.1").read_text() == "x" * 11


def test_notification_socket_names_its_sender(tmp_path: Path) -> None:
    with contextlib.closing(heartbeat.Door(tmp_path)) as door:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"READY=1", str(tmp_path / "notify.sock"))
        assert list(door.messages()) == [(os.getpid(), b"READY=1")]
        assert list(door.messages()) == []
        with contextlib.closing(heartbeat.Door(tmp_path)) as newer:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"WATCHDOG=1", str(tmp_path / "notify.sock"))
            assert list(newer.messages()) == [(os.getpid(), b"WATCHDOG=1")]


def test_keeper_that_beats_responds_and_a_stopped_one_does_not(tmp_path: Path) -> None:
    lock = tmp_path / "keeper.lock"
    lock.write_text("")
    me = processes.noted(os.getpid())
    assert me is not None
    assert heartbeat.responds(me, lock)
    with subprocess.Popen(SLEEPER) as sleeping:
        process = processes.noted(sleeping.pid)
        assert process is not None
        assert heartbeat.responds(process, lock)
        sleeping.send_signal(signal.SIGSTOP)
        await_state(process, "T")
        assert not heartbeat.responds(process, lock)
        sleeping.kill()


def test_beat_of_another_time_is_looked_at_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock may have jumped: only a beat that does not move is a keeper that does not."""
    lock = tmp_path / "keeper.lock"
    lock.write_text("")
    os.utime(lock, (1, 1))
    me = processes.noted(os.getpid())
    assert me is not None
    monkeypatch.setattr(heartbeat, "BEAT_LATE_S", 0.0)
    assert not heartbeat.responds(me, lock)
    monkeypatch.setattr(heartbeat, "BEAT_LATE_S", 60.0)
    fd = os.open(lock, os.O_RDWR)
    monkeypatch.setattr(heartbeat.time, "sleep", lambda _: heartbeat.beat(fd))
    assert heartbeat.responds(me, lock)
    os.close(fd)
