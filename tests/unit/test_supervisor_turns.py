"""What a supervisor decides at each turn, by a clock that the test moves; no process is started or ended."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from supervised import MAIN, NOW, Cgroup, Job, World, worlds

from bursar_agent.runner import layout, progressfile, scratch, secretfiles, spawning, supervisor
from bursar_agent.runner.layout import BEAT_US, EXIT, LIMIT, START, STEP, STOP
from bursar_agent.runner.supervisor import LEFTOVER_GRACE_US, TERM_TO_KILL_US, Supervisor

BEAT_MS = BEAT_US // 1000
PWRITE = os.pwrite
USR1, TERM, KILL = signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[World]:
    yield from worlds(monkeypatch, tmp_path)


# --- stopping


@pytest.mark.parametrize(
    ("number", "grace_us", "heeds", "sent", "term_at", "kill_at"),
    [
        (10, 5_000_000, True, [(71, 10)], NOW + 5_000_000, NOW + 5_000_000 + TERM_TO_KILL_US),
        (10, 5_000_000, False, [(-MAIN, 15)], NOW, NOW + 5_000_000),
        (None, 5_000_000, True, [(-MAIN, 15)], NOW, NOW + 5_000_000),
        (10, 1, True, [(71, 10)], NOW + 1, NOW + 1 + TERM_TO_KILL_US),
        (10, 0, True, [(MAIN, 9), (71, 9)], NOW, NOW),
        (None, 0, False, [(MAIN, 9), (71, 9)], NOW, NOW),
    ],
)
def test_a_stop_asks_who_heeds_it_and_sets_when_it_ends(
    world: World, number: int | None, grace_us: int, heeds: bool, sent: Any, term_at: int, kill_at: int
) -> None:
    made = world.job()
    world.heeds = {71} if heeds else set()
    made._stop("idle", number, grace_us)
    assert (world.sent, made._term_at, made._kill_at, made._stop_cause) == (sent, term_at, kill_at, "idle")
    said = made._report
    asked = number is not None and grace_us > 0
    unheard = asked and not heeds
    assert said["message"] == (
        "no process handled checkpoint signal 10; sent TERM instead" if unheard else ""
    )
    assert said["signal_sent_at"] == (NOW if asked and heeds else None)
    assert said["term_sent_at"] == (NOW if sent[0][0] < 0 else None)
    assert said["kill_sent_at"] == (NOW if grace_us == 0 else None)


@pytest.mark.parametrize(
    ("grace_us", "term_at", "kill_at"),
    [
        (8_000_000, NOW + 9_000_000, NOW + 9_000_000 + TERM_TO_KILL_US),
        (99_000_000, NOW + 60_000_000, NOW + 60_000_000 + TERM_TO_KILL_US),
        (0, NOW + 1_000_000, NOW + 1_000_000),
    ],
)
def test_a_second_stop_can_only_hasten_it_and_the_first_cause_stays(
    world: World, grace_us: int, term_at: int, kill_at: int
) -> None:
    made = world.job()
    world.heeds = {71}
    made._stop("idle", 10, 60_000_000)
    world.now += 1_000_000
    made._stop("budget", 12, grace_us)
    assert (made._stop_cause, made._term_at, made._kill_at) == ("idle", term_at, kill_at)
    assert [number for _, number in world.sent if number in (10, 12)] == [10]


def test_one_that_was_told_to_end_without_a_signal_is_killed_earlier_by_a_second_stop(world: World) -> None:
    made = world.job()
    made._stop("idle", None, 60_000_000)
    world.now += 5
    made._stop("budget", 10, 7)
    assert (made._term_at, made._kill_at) == (NOW, NOW + 12)
    assert world.sent == [(-MAIN, TERM)]


def test_what_ended_by_itself_is_not_stopped(world: World) -> None:
    made = world.job()
    made._main_ended = True
    made._stop("idle", 10, 5)
    assert (made._stop_cause, made._term_at, made._kill_at, world.sent) == (None, None, None, [])


def test_the_end_comes_in_its_order_and_each_word_of_it_once(world: World) -> None:
    """1. TERM when the grace is over. 2. KILL after it, to all that is left, again and again."""
    made = world.job()
    world.heeds = {71}
    made._stop("idle", 10, 100)
    world.sent.clear()
    world.at(made, NOW + 99)
    assert world.sent == []
    world.at(made, NOW + 100)
    world.at(made, NOW + 101)
    assert world.sent == [(-MAIN, TERM)]
    world.at(made, NOW + 100 + TERM_TO_KILL_US - 1)
    assert world.sent == [(-MAIN, TERM)]
    world.at(made, NOW + 100 + TERM_TO_KILL_US)
    world.at(made, NOW + 101 + TERM_TO_KILL_US)
    assert world.sent[1:] == [(MAIN, KILL), (71, KILL)] * 2
    report = made._report
    assert (report["term_sent_at"], report["kill_sent_at"]) == (NOW + 100, NOW + 100 + TERM_TO_KILL_US)


def test_the_number_of_a_group_that_may_be_anothers_is_not_signalled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world.job()
    made._stop_cause, made._term_at, made._main_ended = "idle", NOW, True
    world.at(made, NOW)
    assert (world.sent, made._report["term_sent_at"]) == ([], NOW)

    def gone(pid: int, number: int) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(os, "killpg", gone)
    other = world.job()
    other._stop("idle", None, 1)
    assert other._report["term_sent_at"] == NOW


def test_what_the_main_process_left_is_killed_when_its_time_is_over(world: World) -> None:
    made = world.job()
    made._main_ended, made._leftover_kill_at = True, NOW + 5
    world.at(made, NOW + 4)
    assert world.sent == []
    world.at(made, NOW + 5)
    assert (world.sent, made._report["kill_sent_at"]) == ([(MAIN, KILL), (71, KILL)], NOW + 5)


@pytest.mark.parametrize(
    ("signal_asked", "heeds", "sent"), [(10, True, 10), (10, False, 15), (None, True, 15)]
)
def test_at_its_limit_it_is_stopped_by_its_own_signal_and_grace(
    world: World, signal_asked: int | None, heeds: bool, sent: int
) -> None:
    made = world.job(time_limit_us=50, grace_us=7, checkpoint_signal=signal_asked)
    world.heeds = {MAIN} if heeds else set()
    world.at(made, NOW + 49)
    assert (made._stop_cause, world.sent) == (None, [])
    world.at(made, NOW + 50)
    assert (made._stop_cause, [number for _, number in world.sent]) == ("time_limit", [sent])
    assert made._kill_at == NOW + 57 + (TERM_TO_KILL_US if sent == 10 else 0)


def test_a_script_alone_is_signalled_itself_and_nothing_below_it(world: World) -> None:
    made = world.job(Job(script_only=True))
    world.heeds = {MAIN, 71}
    made._stop("idle", 10, 5)
    assert world.sent == [(MAIN, 10)]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ('{"cause": "idle", "grace_us": 9, "signal": 10}', "idle"),
        ('{"cause": "idle", "grace_us": -9}', "idle"),
        ('{"cause": "idle"}', None),
        ("[]", None),
        ("{", None),
        (None, None),
    ],
)
def test_a_request_to_stop_is_read_and_what_is_none_is_said(
    world: World, capfd: pytest.CaptureFixture[str], text: str | None, cause: str | None
) -> None:
    made = world.job()
    world.heeds = {71}
    if text is not None:
        (world.folder / STOP).write_text(text)
    made._read_stop()
    assert made._stop_cause == cause
    said = capfd.readouterr().err
    assert said.startswith("stop.json of att_1: ") == (text is not None and cause is None)
    if cause is not None:
        heeded = "10" in (text or "")
        assert made._kill_at == (NOW + 9 + TERM_TO_KILL_US if heeded else NOW)


def test_a_request_to_stop_that_a_full_disk_left_is_read_first(world: World) -> None:
    os.symlink("budget 10 9 4", world.folder / STOP)
    world.heeds = {71}
    made = world.job()
    made._read_stop()
    assert (made._stop_cause, made._term_at) == ("budget", NOW + 9)


def test_another_limit_counts_from_the_start_and_is_warned_of_anew(world: World) -> None:
    made = world.job(Job(warn_us=10), time_limit_us=50)
    made._warned = True
    world.now += 7
    made._read_limit()
    assert (made._limit_at, made._warn_at, made._warned) == (NOW + 50, None, True)
    os.symlink("50", world.folder / LIMIT)
    made._read_limit()
    assert (made._limit_at, made._warn_at, made._warned) == (NOW + 50, None, True)
    (world.folder / LIMIT).unlink()
    os.symlink("90", world.folder / LIMIT)
    made._read_limit()
    assert (made._limit_at, made._warn_at, made._warned) == (NOW + 90, NOW + 80, False)
    made._stop_cause = "idle"
    (world.folder / LIMIT).unlink()
    os.symlink("20", world.folder / LIMIT)
    made._read_limit()
    assert made._limit_at == NOW + 90


@pytest.mark.parametrize(
    ("warn_us", "limit_us", "expected"), [(10, 50, NOW + 40), (0, 50, None), (10, None, None)]
)
def test_a_job_is_warned_so_long_before_its_limit_if_it_has_one(
    world: World, warn_us: int, limit_us: int | None, expected: int | None
) -> None:
    made = world.job(Job(warn_us=warn_us), time_limit_us=limit_us)
    made._warn_before_limit()
    assert made._warn_at == expected


# --- waiting


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, BEAT_MS),
        ({"_limit_at": NOW + 5_000}, 6),
        ({"_limit_at": NOW + 5_999}, 6),
        ({"_limit_at": NOW}, 20),
        ({"_limit_at": NOW + 1}, 1),
        ({"_limit_at": NOW + 900_000_000}, BEAT_MS),
        ({"_limit_at": NOW + 5_000, "_stop_cause": "idle"}, BEAT_MS),
        ({"_warn_at": NOW + 3_000}, 4),
        ({"_warn_at": NOW + 3_000, "_stop_cause": "idle"}, BEAT_MS),
        ({"_term_at": NOW + 4_000}, 5),
        ({"_kill_at": NOW + 7_000}, 8),
        ({"_leftover_kill_at": NOW + 8_000}, 9),
        ({"_start_notice": (NOW + 2_000, b"")}, 3),
        ({"_kill_at": NOW + 7_000, "_leftover_kill_at": NOW + 8_000, "_limit_at": NOW + 9_000}, 8),
    ],
)
def test_it_sleeps_until_the_first_thing_that_is_due(
    world: World, fields: dict[str, Any], expected: int | None
) -> None:
    made = world.job()
    for name, value in fields.items():
        setattr(made, name, value)
    assert made._timeout_ms() == expected


def test_a_term_that_was_sent_is_waited_for_no_more(world: World) -> None:
    made = world.job()
    made._term_at, made._report["term_sent_at"] = NOW, NOW
    assert made._timeout_ms() == BEAT_MS


def test_signals_are_drained_and_one_among_them_announces_a_stop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = os.pipe2(os.O_NONBLOCK)
    monkeypatch.setattr(supervisor, "SIGNAL_FD", ours)
    made = world.job()
    record = {number: bytes([number]) + bytes(127) for number in (USR1, signal.SIGCHLD)}
    for numbers, expected in (
        ([], False),
        ([signal.SIGCHLD], False),
        ([USR1], True),
        ([signal.SIGCHLD, USR1, signal.SIGCHLD], True),
        ([USR1] + [signal.SIGCHLD] * 16, True),
    ):
        os.write(theirs, b"".join(record[number] for number in numbers))
        assert made._drain_signals() is expected
    os.close(ours)
    os.close(theirs)


# --- the dead


def used(user_s: float, system_s: float, rss_kib: int) -> Any:
    return resource.struct_rusage((user_s, system_s, rss_kib, *([0] * 13)))


def test_the_dead_are_summed_and_what_outlives_the_main_process_is_told_to_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. Time is summed, the largest memory kept. 2. The main one's status is the job's. 3. TERM once."""
    dead: list[tuple[int, int, Any]] = [
        (99, 9, used(1.0, 0.5, 900)), (0, 0, None),
        (MAIN, 3 << 8, used(2.0, 0.25, 400)), (0, 0, None), (0, 0, None),
    ]  # fmt: skip
    asked: list[tuple[int, int]] = []

    def wait4(pid: int, how: int) -> tuple[int, int, Any]:
        asked.append((pid, how))
        if not dead:
            raise ChildProcessError
        return dead.pop(0)

    monkeypatch.setattr(os, "wait4", wait4)
    made = world.job()
    made._step_server_pid = 99
    assert made._reap() is False
    assert (made._step_server_pid, made._main_ended, made._leftover_kill_at, world.sent) == (
        0,
        False,
        None,
        [],
    )
    assert made._reap() is False
    assert (made._main_ended, made._leftover_kill_at) == (True, NOW + LEFTOVER_GRACE_US)
    assert (made._report["exit_code"], made._report["main_end_boot_us"]) == (3, NOW)
    world.now += 1
    assert made._reap() is False
    assert world.sent == [(MAIN, TERM), (71, TERM)]
    assert made._leftover_kill_at == NOW + LEFTOVER_GRACE_US
    assert made._reap() is True
    assert (made._user_s, made._system_s, made._max_rss_kib) == (3.0, 0.75, 900)
    assert set(asked) == {(-1, os.WNOHANG)}


@pytest.mark.parametrize(
    ("status", "phase", "stopped", "code", "number", "cause", "message"),
    [
        (0, "run", None, 0, None, "completed", ""),
        (3 << 8, "run", None, 3, None, "failed", ""),
        (9, "run", None, None, 9, "failed", ""),
        (0, "run", "idle", 0, None, "idle", ""),
        (15, "run", "budget", None, 15, "budget", ""),
        (0, "setup", None, 0, None, "completed", ""),
        (1 << 8, "setup", None, 1, None, "failed", "setup failed; the run text was not started"),
        (1 << 8, "setup", "idle", 1, None, "idle", ""),
    ],
)
def test_how_the_main_process_ended_is_how_the_job_did(
    world: World,
    status: int,
    phase: str,
    stopped: str | None,
    code: Any,
    number: Any,
    cause: str,
    message: str,
) -> None:
    made = world.job()
    made._phase, made._stop_cause = phase, stopped
    made._record_status(status)
    report = made._report
    assert (report["exit_code"], report["signal"], report["end_cause"], report["message"]) == (
        code, number, cause, message,
    )  # fmt: skip
    assert (report["phase"], report["main_end_boot_us"], report["stopped"]) == (phase, NOW, bool(stopped))


@pytest.mark.parametrize(
    ("phase", "cause", "stopped", "goes_on"),
    [
        ("setup", "completed", None, True),
        ("setup", "failed", None, False),
        ("setup", "completed", "idle", False),
        ("run", "completed", None, False),
    ],
)
def test_only_after_a_good_setup_comes_the_run(
    world: World, phase: str, cause: str, stopped: str | None, goes_on: bool
) -> None:
    made = world.job(Job(argv=["a", "b"], setup="x"))
    made._phase, made._report["end_cause"], made._stop_cause = phase, cause, stopped
    made._main_ended, made._leftover_kill_at, made._report["exit_code"] = True, 5, 0
    assert made._next_phase() is goes_on
    assert world.spawned == ([(("a", "b"), None)] if goes_on else [])
    if goes_on:
        report = made._report
        assert (made._phase, made._main_ended, made._leftover_kill_at) == ("run", False, None)
        assert (report["exit_code"], report["end_cause"], made._log_write) == (None, "failed", -1)


# --- starting


def test_a_start_is_written_down_before_a_stop_is_looked_for_and_told_a_moment_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "times", lambda: os.times_result((9.0, 9.0, 4.25, 0.5, 9.0)))
    made = world.job(Job())
    made._cgroup = Cgroup()  # type: ignore[assignment]
    monkeypatch.setattr(os, "times", lambda: os.times_result((9.0, 9.0, 7.0, 7.0, 9.0)))
    (world.folder / STOP).write_text('{"cause": "idle", "grace_us": 9}')
    (world.folder / STEP).touch()  # asked for before that, as is a stop
    made._record_start()
    assert not (world.folder / STEP).exists()
    start = json.loads((world.folder / START).read_text())
    assert start == {
        "alive_us": NOW, "ended_us": 0,
        "attempt_id": "att_1", "rank": 2, "phase": "run", "pid": MAIN, "pgid": MAIN,
        "pid_start_ticks": MAIN + 1,
        "supervisor_pid": os.getpid(), "supervisor_start_ticks": 33, "boot_id": "b", "start_boot_us": NOW,
        "memory_enforced": True, "takes_limits": True, "reaped_before_us": 4_750_000,
    }  # fmt: skip
    assert made._stop_cause == "idle"
    world.at(made, NOW + supervisor.START_NOTICE_DELAY_US - 1)
    assert world.door.sent == []
    world.at(made, NOW + supervisor.START_NOTICE_DELAY_US)
    world.at(made, NOW + supervisor.START_NOTICE_DELAY_US + 1)
    ((data, address),) = world.door.sent
    assert json.loads(data) == {"kind": "started", **start}
    assert address == "../../agent.sock"


def test_that_it_lives_and_when_all_had_ended_is_written_into_the_record_of_the_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", PWRITE)
    made = world.job(Job())
    made._beat(NOW + 10**9)
    assert not (world.folder / START).exists(), "there is none yet"
    made._record_start()
    before = json.loads((world.folder / START).read_text())
    made._beat(NOW + BEAT_US - 1)
    assert json.loads((world.folder / START).read_text()) == before
    made._beat(NOW + BEAT_US)
    assert json.loads((world.folder / START).read_text()) == {**before, "alive_us": NOW + BEAT_US}
    layout.write_instant(layout.ENDED_AT, (1 << 63) - 1)
    assert json.loads((world.folder / START).read_text())["ended_us"] == (1 << 63) - 1


def test_a_memory_limit_that_nothing_enforces_is_not_told_as_one(world: World) -> None:
    world.job(Job())._record_start()
    assert json.loads((world.folder / START).read_text())["memory_enforced"] is False


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (Job(argv=["a", "b"]), (["a", "b"], "")),
        (Job(argv=[], script="echo 1", arguments=["a b"]), (["/bin/sh", "/s", "a b"], "/s")),
        (Job(argv=[], script="#!/x y\n1", arguments=["-n", "2"]), (["/x", "y", "/s", "-n", "2"], "/s")),
        (Job(argv=["engine", "text"], engine_script="text"), (["engine", "/s"], "/s")),
    ],
)
def test_a_command_a_text_or_a_script_with_its_interpreter_is_run(
    world: World, monkeypatch: pytest.MonkeyPatch, job: Job, expected: Any
) -> None:
    monkeypatch.setattr(spawning, "write_script", lambda job: "/s")
    monkeypatch.setattr(spawning, "write_setup", lambda job: "/p")
    made = world.job(job)
    made._host.shell = "/bin/sh"
    assert (made._argv(job), "".join(made._texts)) == expected  # type: ignore[arg-type]
    made._phase = "setup"
    job.setup = "prepare"
    assert made._argv(job) == ["/bin/sh", "/p"]  # type: ignore[arg-type]


def test_its_folders_are_made_before_its_first_phase(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made_dirs: list[Any] = []
    monkeypatch.setattr(scratch, "make", lambda *words: made_dirs.append(words))
    monkeypatch.setattr(progressfile, "identity", lambda path: (1, 2))
    for setup, phase in (("prepare", "setup"), ("", "run")):
        job = Job(uid=5, gid=6, scratch_dir="/t", progress_dir="/p", setup=setup, warn_us=10)
        monkeypatch.setattr(spawning, "Job", lambda request, job=job: job)
        monkeypatch.setattr(spawning, "write_setup", lambda job: "/x")
        made = world.job(time_limit_us=50)
        assert made._begin()
        assert (made._phase, made._warn_at) == (phase, NOW + 40)
        assert made_dirs[-2:] == [("/p", 5, 6), ("/t", 5, 6)]
        assert world.folders.did[-1] == ("enter", "/ck", 5, 6)
    assert [argv for argv, _ in world.spawned] == [(made._host.shell, "/x"), ("true",)]


@pytest.mark.parametrize(("where", "left"), [("/t", ("", "/p")), ("/p", ("", "")), ("/ck", ("/t", "/p"))])
def test_a_folder_that_cannot_be_made_is_named_and_left_to_whoever_has_it(
    world: World, monkeypatch: pytest.MonkeyPatch, where: str, left: tuple[str, str]
) -> None:
    job = Job(scratch_dir="/t", progress_dir="/p")
    monkeypatch.setattr(spawning, "Job", lambda request: job)

    def make(path: str, *_: object) -> None:
        if path == where:
            raise OSError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(scratch, "make", make)
    monkeypatch.setattr(progressfile, "identity", lambda path: (1, 2))
    if where == "/ck":
        world.folders.problem = OSError(errno.EACCES, "Permission denied", where)
    made = world.job()
    assert not made._begin()
    report = made._report
    assert (report["end_cause"], report["exit_code"]) == ("start_failed", None)
    assert (report["message"], report["phase"]) == (f"directory {where}: Permission denied", "run")
    assert (job.scratch_dir, job.progress_dir, world.spawned) == (*left, [])


def test_a_launch_that_cannot_be_opened_says_whose_fault_it_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(request: Any) -> Any:
        raise spawning.CannotStart("no such program", 127)

    monkeypatch.setattr(spawning, "Job", opened)
    made = world.job()
    assert not made._begin()
    assert (made._report["end_cause"], made._report["exit_code"]) == ("failed", 127)
    assert (made._report["message"], world.folders.did) == ("no such program", [])


@pytest.mark.parametrize(
    ("memory", "problem", "message"),
    [
        (True, None, ""),
        (False, None, f"secrets as files: this node has no tmpfs at {secretfiles.MEMORY}"),
        (True, OSError(errno.ENOSPC, "full"), "secrets as files: /s: full"),
    ],
)
def test_secrets_that_are_files_are_in_memory_or_the_job_does_not_start(
    world: World, monkeypatch: pytest.MonkeyPatch, memory: bool, problem: OSError | None, message: str
) -> None:
    made_files: list[Any] = []

    def make(*words: Any) -> None:
        made_files.append(words)
        if problem is not None:
            raise problem

    monkeypatch.setattr(secretfiles, "is_memory", lambda: memory)
    monkeypatch.setattr(secretfiles, "make", make)
    job = Job(secrets_dir="/s", uid=5, gid=6)
    made = world.job(job)
    assert made._write_secrets(job) is (message == "")  # type: ignore[arg-type]
    assert made_files == ([("/s", {"A": "b"}, 5, 6)] if memory else [])
    assert (made._report["message"], job.secrets_dir) == (message, "" if message else "/s")
    assert made._write_secrets(Job())  # type: ignore[arg-type]


# --- steps


@pytest.mark.parametrize(
    ("job", "asked", "fields", "starts"),
    [
        (Job(steps_dir="/st"), True, {}, True),
        (Job(steps_dir="/st"), False, {}, False),
        (Job(), True, {}, False),
        (None, True, {}, False),
        (Job(steps_dir="/st"), True, {"_main_ended": True}, False),
        (Job(steps_dir="/st"), True, {"_step_server_pid": 4}, False),
    ],
)
def test_what_takes_steps_is_started_once_while_the_job_runs(
    world: World, job: Job | None, asked: bool, fields: dict[str, Any], starts: bool
) -> None:
    made = world.job(job)
    for name, value in fields.items():
        setattr(made, name, value)
    if asked:
        (world.folder / STEP).touch()
    made._serve_steps()
    assert not (world.folder / STEP).exists()
    assert [argv[1:] for argv, _ in world.spawned] == ([("-IS", "/st/serve")] if starts else [])
    assert made._step_server_pid == (MAIN if starts else fields.get("_step_server_pid", 0))


def test_what_takes_steps_and_cannot_start_is_said(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def spawn(*_: Any) -> int:
        raise spawning.CannotStart("no")

    monkeypatch.setattr(spawning, "spawn", spawn)
    (world.folder / STEP).touch()
    made = world.job(Job(steps_dir="/st"))
    made._serve_steps()
    assert (capfd.readouterr().err, made._step_server_pid) == ("steps of att_1: no\n", 0)


# --- the end


def finished(world: World, made: Supervisor) -> dict[str, Any]:
    world.now = NOW + 40
    made._finish()
    made._log_read = made._log_write = -1  # closed
    report: dict[str, Any] = json.loads((world.folder / EXIT).read_text())
    ((data, address),) = world.door.sent
    assert json.loads(data) == {"kind": "ended", **report}
    assert address == "../../agent.sock"
    return report


def test_the_report_says_all_and_nothing_of_the_job_is_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: list[str] = []
    for module, name in (
        (scratch, "remove"), (scratch, "remove_file"), (secretfiles, "remove"), (progressfile, "keep"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, lambda path, *_, name=name: gone.append(f"{name} {path}"))
    made = world.job(Job(uid=5, scratch_dir="/t", secrets_dir="/s", progress_dir="/p"))
    made._texts = ["/tmp/script", "/tmp/setup"]
    os.write(made._log_write, b"its last words")
    made._user_s, made._system_s, made._max_rss_kib = 1.5, 0.25, 7
    assert finished(world, made) == {
        "attempt_id": "att_1", "rank": 2, "epoch": 5, "exit_code": None, "signal": None,
        "end_cause": "failed", "message": "", "phase": "run", "signal_sent_at": None,
        "term_sent_at": None, "kill_sent_at": None, "main_end_boot_us": None, "stopped": False,
        "supervisor_pid": os.getpid(), "boot_id": "b", "start_boot_us": NOW,
        "end_boot_us": NOW + 40, "held_us": 40, "cpu_user_us": 1_500_000, "cpu_system_us": 250_000,
        "max_rss_bytes": 7168, "log_bytes": 14, "log_dropped_bytes": 0,
    }  # fmt: skip
    assert (world.folder / "log").read_bytes() == b"its last words"
    texts = ["remove_file /tmp/script", "remove_file /tmp/setup"]
    assert gone == [*texts, "remove /t", "remove /s", "keep /p", "remove /p"]
    assert world.folders.did == [("leave", "/ck", 5)]
    assert made._told


def test_of_a_job_of_our_own_account_nothing_lies_outside_its_directory(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: list[str] = []
    for module, name in ((scratch, "remove"), (scratch, "remove_file"), (secretfiles, "remove")):
        monkeypatch.setattr(module, name, gone.append)
    made = world.job(Job())
    finished(world, made)
    assert gone == []
    (world.folder / EXIT).unlink()
    world.door.sent.clear()
    world.folders.did.clear()
    finished(world, world.job())  # its launch could not be opened
    assert world.folders.did == []


@pytest.mark.parametrize(
    ("memory", "number", "killed_at", "limit", "cause", "message"),
    [
        (True, 9, None, 77, "out_of_memory", "killed by the kernel at its memory limit of 77 bytes"),
        (True, 9, None, None, "out_of_memory", "killed by the kernel for want of memory on this machine"),
        (True, 9, 5, 77, "failed", ""),
        (True, 15, None, 77, "failed", ""),
        (False, 9, None, 77, "failed", ""),
    ],
)
def test_one_that_the_kernel_killed_for_its_memory_says_so(
    world: World,
    memory: bool,
    number: int,
    killed_at: int | None,
    limit: int | None,
    cause: str,
    message: str,
) -> None:
    made = world.job(memory_limit_bytes=limit)
    made._cgroup = Cgroup(memory)  # type: ignore[assignment]
    made._report["signal"], made._report["kill_sent_at"] = number, killed_at
    report = finished(world, made)
    assert (report["end_cause"], report["message"]) == (cause, message)


@pytest.mark.parametrize(("code", "cause"), [(137, "out_of_memory"), (9, "failed"), (1, "failed")])
def test_a_shell_tells_of_a_command_that_the_kernel_killed_for_its_memory(
    world: World, code: int, cause: str
) -> None:
    made = world.job()
    made._cgroup = Cgroup(True)  # type: ignore[assignment]
    made._report["exit_code"] = code
    assert finished(world, made)["end_cause"] == cause


def test_an_end_that_the_disk_will_not_take_is_told_at_once_and_written_when_it_does(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its job would be charged for as long as the disk is read-only."""
    whole, tries = layout.write_record, [errno.EROFS, errno.EROFS]

    def refuses(name: str, data: bytes) -> None:
        if tries:
            raise OSError(tries.pop(), "refused", name)
        whole(name, data)

    monkeypatch.setattr(layout, "write_record", refuses)
    monkeypatch.setattr(layout.time, "sleep", lambda _: None)
    made = world.job()
    world.now = NOW + 40
    made._finish()
    made._log_read = made._log_write = -1  # closed
    report = json.loads((world.folder / EXIT).read_text())
    told = [json.loads(data) for data, _ in world.door.sent]
    unwritten = {"kind": "ended", "unwritten": True, **report}
    assert told == [unwritten, unwritten, {"kind": "ended", **report}]
    assert report["held_us"] == 40


@pytest.mark.parametrize(("problem", "unbegun"), [(errno.EROFS, True), (errno.EACCES, False)])
def test_what_cannot_start_for_the_disk_of_its_node_says_that(
    world: World, monkeypatch: pytest.MonkeyPatch, problem: int, unbegun: bool
) -> None:
    monkeypatch.setattr(spawning, "Job", lambda request: Job())
    world.folders.problem = OSError(problem, "no", "/ck")
    made = world.job()
    assert not made._begin()
    assert made._report["unbegun"] is unbegun


GOOD = {"_told": True, "_main_ended": True}


@pytest.mark.parametrize(
    ("fields", "job", "again"),
    [
        (GOOD, Job(), True),
        ({**GOOD, "_told": False}, Job(), False),
        ({**GOOD, "_main_ended": False}, Job(), False),
        ({**GOOD, "_stop_cause": "idle"}, Job(), False),
        ({**GOOD, "_leftover_kill_at": 5}, Job(), False),
        ({**GOOD, "_cgroup": Cgroup()}, Job(), False),
        (GOOD, None, False),
        (GOOD, Job(uid=0), False),
    ],
)
@pytest.mark.parametrize("begins", [True, False])
def test_it_may_take_another_when_nothing_of_this_one_could_reach_it(
    world: World, monkeypatch: pytest.MonkeyPatch, fields: Any, job: Job | None, again: bool, begins: bool
) -> None:
    made = world.job(job)
    did: list[str] = []
    monkeypatch.setattr(made, "_begin", lambda: begins)
    monkeypatch.setattr(made, "_supervise", lambda: did.append("stay"))
    monkeypatch.setattr(made, "_finish", lambda: did.append("end"))
    for name, value in fields.items():
        setattr(made, name, value)
    assert made.run() is again
    assert did == ["stay", "end"][not begins :]


@pytest.mark.parametrize(
    ("problems", "tries", "told", "slept", "said"),
    [
        ([], 1, True, 0, ""),
        ([errno.ENOENT], 3, False, 0, ""),
        ([errno.ECONNREFUSED], 3, False, 0, ""),
        ([errno.EAGAIN, errno.ENOBUFS], 3, True, 2, ""),
        ([errno.EAGAIN] * 3, 3, False, 2, ""),
        ([errno.EAGAIN], 1, False, 0, ""),
        ([errno.EPERM], 3, False, 0, "agent.sock: PermissionError(1, 'no')\n"),
    ],
)
def test_the_agent_is_told_as_often_as_it_may_yet_listen(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    problems: list[int], tries: int, told: bool, slept: int, said: str,
) -> None:  # fmt: skip
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    world.door.problems = list(problems)
    assert world.job()._notify(b"word", tries) is told
    assert (pauses, capfd.readouterr().err) == ([supervisor.NOTICE_PAUSE_S] * slept, said)
    assert world.door.sent == [(b"word", "../../agent.sock")] * told
