"""Whom the agent's runner follows, buries, forgets, reads, hears and looks at, without a process."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_directory import (
    GONE,
    HERE,
    NOW_US,
    REPORT,
    STARTED,
    Connection,
    Site,
    patched,
    turns,
    until,
)

from bursar.errors import NotFound, WrongState
from bursar.local.processes import place_of
from bursar_agent.runner import (
    client,
    handle,
    layout,
    leftovers,
    places,
    progressfile,
    pulse,
    scratch,
    secretfiles,
    stopping,
    tree,
    truth,
)
from bursar_agent.runner.handle import ProcessRunner
from bursar_agent.runner.layout import (
    BEAT_US,
    EXIT,
    FREE,
    LOG,
    PROGRESS,
    STARTING,
    boot_id,
)
from bursar_agent.runner.model import AttemptTruth, Ended, ExitReport, StopRequest
from bursar_agent.runner.removed import MESSAGE


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path / "run")
    patched(made, monkeypatch)
    yield made
    for fd in made.locks:
        os.close(fd)


# --- whose process it is


def test_a_process_belongs_to_the_member_whose_supervisor_is_above_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. Over any number of parents. 2. By the record, before the launcher has answered. 3. Else to none."""
    site.member("att_2.1", start={**STARTED, "supervisor_pid": 70})
    above = {9: 8, 8: HERE, HERE: 1, 71: 70, 70: 1, 5: 1, 1: 0, 7: 7}
    monkeypatch.setattr(handle, "stat_fields", lambda pid: ["S", str(above[pid])] if pid in above else None)

    async def story(runner: ProcessRunner) -> None:
        runner._watch("att_1.3", "att_1", 3, HERE)
        runner._watches["att_2.1"] = handle._Watch("att_2", 1)
        runner._watches["att_3.0"] = handle._Watch("att_3", 0)  # it has no directory
        assert [runner.member_of(pid) for pid in (9, 8, 71)] == [("att_1", 3), ("att_1", 3), ("att_2", 1)]
        assert [runner.member_of(pid) for pid in (HERE, 70, 5, 1, 6, 7)] == [None] * 6

    site.play(story)


def test_a_member_has_processes_when_there_are_any_below_its_supervisor(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    below: dict[int, list[int]] = {HERE: [4]}
    monkeypatch.setattr(tree, "descendants", lambda pid: below[pid])

    async def story(runner: ProcessRunner) -> None:
        assert not runner.has_processes("att_1", 0)
        runner._watches["att_1.0"] = handle._Watch("att_1", 0)
        assert not runner.has_processes("att_1", 0)
        runner._watch("att_1.0", "att_1", 0, HERE)
        assert runner.has_processes("att_1", 0)
        below[HERE] = []
        assert not runner.has_processes("att_1", 0)

    site.play(story)


# --- adopting and burying


def test_adopting_finds_what_runs_what_ended_what_was_lost_and_what_never_began(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.member("att_1.0", start=STARTED, lives=True)
    site.member("att_2.0", start=STARTED, report={**REPORT, "attempt_id": "att_2"})
    mark = {"taken": 2, "epoch": 6, "boot_id": boot_id(), "place": place_of(site.folder)}
    lost = site.member("att_3.0", mark=mark, start={**STARTED, "supervisor_pid": GONE})
    never = site.member("att_4.0", mark={"taken": 0})
    site.member("att_5.0", lives=True)
    site.member("no-member")
    (site.folder / "attempts" / "att_6.0").write_text("no directory")
    launcher = Connection()

    async def connect(run_fd: int, answer_s: float) -> Connection:
        return launcher

    monkeypatch.setattr(client, "connect_running", connect)

    async def story(runner: ProcessRunner) -> None:
        found = {each.attempt_id: each for each in await runner.adopt()}
        assert sorted(found) == ["att_1", "att_2", "att_3", "att_5"]
        assert found["att_1"] == AttemptTruth("att_1", 0, 4, "running", 41, 5_000_000, None)
        assert found["att_2"].exit == ExitReport(**{**REPORT, "attempt_id": "att_2"})
        assert (found["att_3"].state, found["att_5"].state) == ("ended", "starting")
        assert not never.exists()
        assert launcher.messages == [{"op": "ping"}]  # once, for all of them
        assert launcher.closed == 1
        assert set(runner._watches) == {"att_1.0", "att_5.0"}
        assert site.events == []
        report = json.loads((lost / EXIT).read_text())
        assert found["att_3"].exit == ExitReport.from_json(report)
        assert (report["message"], report["epoch"], report["held_us"]) == (
            "supervisor lost; the job's processes were killed", 6, 4_000_000,
        )  # fmt: skip

    site.play(story)


def test_an_unbegun_member_that_is_being_started_is_left_to_its_request(site: Site) -> None:
    made = site.member(mark={"taken": 0})

    async def story(runner: ProcessRunner) -> None:
        runner._watches["att_1.0"] = handle._Watch("att_1", 0)
        (found,) = await runner.adopt()
        assert (made.exists(), found.state) == (True, "ended")

    site.play(story)


@pytest.mark.parametrize(
    ("mark", "start", "cause", "message", "times"),
    [
        ({"epoch": 3, "boot_id": boot_id()}, STARTED, "failed",
         "supervisor lost; the job's processes were killed", (5_000_000, NOW_US, 4_000_000)),
        ({"epoch": 3, "boot_id": boot_id(), "taken": 1}, None, "node_lost",
         "supervisor lost while the job was being started", (None, NOW_US, None)),
        ({"epoch": 3, "boot_id": boot_id(), "taken": 2}, None, "failed",
         "supervisor lost while the job was being started", (None, NOW_US, None)),
        ({"epoch": 3, "boot_id": "of another boot"}, STARTED, "node_lost",
         "the machine restarted while the attempt ran", (5_000_000, None, None)),
        ({"epoch": True, "time_limit_us": 1, "grace_us": 0}, STARTED, "time_limit",
         "supervisor lost; the job's processes were killed", (5_000_000, NOW_US, 4_000_000)),
    ],
)  # fmt: skip
def test_the_report_of_one_whose_supervisor_cannot_says_what_is_known(
    site: Site, mark: Any, start: Any, cause: str, message: str, times: tuple[Any, ...]
) -> None:
    made = site.member(mark=mark, start=start)

    async def story(runner: ProcessRunner) -> None:
        runner._watches["att_1.0"] = handle._Watch("att_1", 0)
        runner._check("att_1.0")
        await until(lambda: bool(site.events))

    site.play(story)
    expected = ExitReport(
        attempt_id="att_1", rank=0, epoch=3 if mark["epoch"] == 3 else 0, end_cause=cause, exit_code=None,
        signal=None, message=message, phase="run", boot_id=str(mark.get("boot_id", "")),
        start_boot_us=times[0], end_boot_us=times[1], held_us=times[2], cpu_user_us=0, cpu_system_us=0,
        max_rss_bytes=0, log_bytes=0, log_dropped_bytes=0,
    )  # fmt: skip
    assert site.events == [Ended(expected)]
    assert ExitReport.from_json(json.loads((made / EXIT).read_text())) == expected
    assert site.runner._watches == {}


@pytest.mark.parametrize(("removed", "runs"), [(False, True), (True, True), (False, False)])
def test_of_a_copy_nothing_is_killed_that_the_original_runs(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, removed: bool, runs: bool
) -> None:
    """Only where the original was removed since, its directory was moved, and what runs has nobody else.

    Where nothing runs it is no copy for sure: a file system that is mounted again may have another number.
    """
    work = tmp_path / "original"
    work.mkdir()
    killed: list[Any] = []
    monkeypatch.setattr(leftovers, "kill", lambda *words: killed.append(words) and 0)
    monkeypatch.setattr(leftovers, "find", lambda *words: [41] if runs else [])
    for module, name in ((scratch, "remove"), (scratch, "remove_file"), (secretfiles, "remove")):
        monkeypatch.setattr(module, name, killed.append)
    with subprocess.Popen(["sleep", "infinity"], cwd=work) as supervisor:
        if removed:
            work.rmdir()
        start = {**STARTED, "supervisor_pid": supervisor.pid}
        made = site.member(mark={"place": "1-2", "boot_id": boot_id(), "taken": 2}, start=start)

        async def story(runner: ProcessRunner) -> None:
            (found,) = await runner.adopt()
            assert found.exit is not None
            assert found.exit.end_cause == "failed"
            assert bool(killed) is (removed or not runs)
            assert ("is a copy" in found.exit.message) is (runs and not removed)

        site.play(story)
        supervisor.kill()
    assert (made / EXIT).exists()


def test_nothing_is_buried_before_its_last_process_is_gone_and_nothing_of_it_is_left(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. Killed until none is found, after longer pauses. 2. Then its directories and its script go."""
    site.folder.mkdir(exist_ok=True)
    place = place_of(site.folder)
    made = site.member(mark={"place": place, "boot_id": boot_id()}, start=STARTED)
    left = [2, 1, 0]
    killed: list[Any] = []
    removed: list[str] = []
    waited: list[float] = []

    def kill(*words: Any) -> int:
        killed.append(words)
        assert not removed
        return left.pop(0)

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(leftovers, "kill", kill)
    monkeypatch.setattr(handle, "_LOST_POLL_S", 0.75)
    monkeypatch.setattr(scratch, "remove", removed.append)
    monkeypatch.setattr(places, "of", lambda marker: [f"/tmp/bursar-{marker}.0a.scratch", f"/m/{marker}"])

    async def story(runner: ProcessRunner) -> None:
        dir_fd = os.open(made, os.O_RDONLY)
        await turns(1)  # until its own look has begun to wait
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "sleep", sleep)
            found = await runner._bury("att_1.0", dir_fd, "att_1", 0)
        os.close(dir_fd)
        assert found is not None
        assert killed == [("att_1.0", place, STARTED)] * 3
        assert waited == [0.75, 1.0]
        marker = f"att_1.0@{place}"
        assert removed == [f"/tmp/bursar-{marker}.0a.scratch", f"/m/{marker}"]

    site.play(story)


@pytest.mark.parametrize(
    ("start", "left", "held_us"),
    [
        ({"alive_us": 40_000_000}, [0], 40_000_000 + BEAT_US - 7_000_000),
        ({"alive_us": 98_000_000}, [0], 93_000_000),
        ({"alive_us": 40_000_000, "ended_us": 30_000_000}, [0], 23_000_000),
        ({"alive_us": 40_000_000}, [1, 0], 93_000_000),
        ({"alive_us": 6_000_000}, [0], 93_000_000),
        ({"alive_us": "x"}, [0], 93_000_000),
        ({}, [0], 93_000_000),
    ],
    ids=["dead for long", "now", "seen to end", "something ran", "before its start", "noise", "older"],
)
def test_what_died_with_its_supervisor_is_paid_for_until_that_lived_last(
    site: Site, monkeypatch: pytest.MonkeyPatch, start: dict[str, Any], left: list[int], held_us: int
) -> None:
    """Whatever is found to run is paid for until it was killed. Its start is at 7 s, and now is 100 s."""
    made = site.member(start={**STARTED, "start_boot_us": 7_000_000, **start})
    monkeypatch.setattr(leftovers, "kill", lambda *_: left.pop(0))
    monkeypatch.setattr(handle, "_LOST_POLL_S", 0)
    monkeypatch.setattr(handle, "_boot_us", lambda: 100_000_000)

    async def story(runner: ProcessRunner) -> None:
        dir_fd = os.open(made, os.O_RDONLY)
        found = await runner._bury("att_1.0", dir_fd, "att_1", 0)
        os.close(dir_fd)
        assert found is not None
        assert found.held_us == held_us
        assert found.end_boot_us == held_us + 7_000_000

    site.play(story)


@pytest.mark.parametrize("problem", [errno.EROFS, errno.ENOSPC])
def test_an_end_is_told_although_the_disk_takes_no_report_of_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, problem: int
) -> None:
    made = site.member(start=STARTED)

    def refuses(*words: Any) -> None:
        raise OSError(problem, os.strerror(problem))

    monkeypatch.setattr(handle, "write_atomically", refuses)

    async def story(runner: ProcessRunner) -> None:
        dir_fd = os.open(made, os.O_RDONLY)
        found = await runner._bury("att_1.0", dir_fd, "att_1", 0)
        os.close(dir_fd)
        assert found is not None
        assert found.message.startswith("supervisor lost")

    site.play(story)


def refusing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuses(name: str, *_: object) -> None:
        raise OSError(number, os.strerror(number), name)

    monkeypatch.setattr(handle, "write_atomically", refuses)


@pytest.mark.parametrize("number", sorted(layout.DISK_REFUSES))
def test_an_end_that_cannot_be_written_is_told_from_memory_and_found_anew(
    site: Site, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Nobody would await what wrote it: its member stayed RUNNING, and was charged up to its limit."""
    made = site.member(start={**STARTED, "start_boot_us": 7, "alive_us": 9})
    refusing(monkeypatch, number)

    async def story(runner: ProcessRunner) -> None:
        (state,) = await runner.adopt()
        assert state.state == "running"
        await until(lambda: bool(site.events))
        (end,) = site.events
        assert (end.unwritten, end.report.end_cause) == (True, "failed")
        assert end.report.held_us == min(9 + BEAT_US, NOW_US) - 7
        assert not (made / EXIT).exists()

    site.play(story)


def test_an_end_that_cannot_even_be_read_is_looked_for_again(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site.member(start=STARTED)
    monkeypatch.setattr(handle, "_DOUBT_S", 0)
    whole, tries = truth.take_lock, [errno.EIO, errno.EROFS]

    def broken(*words: Any) -> int | None:
        if tries:
            raise OSError(tries.pop(), "broken")
        return whole(*words)

    async def story(runner: ProcessRunner) -> None:
        runner._watches["att_1.0"] = handle._Watch("att_1", 0)
        monkeypatch.setattr(truth, "take_lock", broken)
        runner._check("att_1.0")
        await until(lambda: bool(site.events))

    site.play(story)
    assert [end.report.attempt_id for end in site.events] == ["att_1"]
    assert caplog.text.count("an end cannot be found out") == 2


def test_work_that_nobody_awaits_is_heard_when_it_fails(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        raise ValueError("of this")

    async def story(runner: ProcessRunner) -> None:
        runner._spawn(fails())
        await turns(5)

    site.play(story)
    assert "background work failed" in caplog.text
    assert "ValueError: of this" in caplog.text


def test_what_a_supervisor_could_not_write_is_heard_as_that(site: Site) -> None:
    site.member(start=STARTED, lives=True)

    async def story(runner: ProcessRunner) -> None:
        runner._watches["att_1.0"] = handle._Watch("att_1", 0)
        for _ in range(2):  # it says so again and again
            runner._hear({"kind": "ended", "unwritten": True, **REPORT})
        assert site.events == [Ended(ExitReport(**REPORT), unwritten=True)]

    site.play(story)


@pytest.mark.parametrize("heeds", [True, False])
def test_a_stop_that_cannot_be_left_reaches_the_processes_themselves(
    site: Site, monkeypatch: pytest.MonkeyPatch, heeds: bool
) -> None:
    made = site.member(start=STARTED, lives=True)
    sent: list[Any] = []

    def refuses(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    def tell(self: Any, pids: list[int], number: int, now: int) -> bool:
        sent.append(("asked", pids, number))
        return heeds

    async def story(runner: ProcessRunner) -> None:
        monkeypatch.setattr(stopping, "write_stop", refuses)
        monkeypatch.setattr(stopping.ToldOnce, "tell", tell)
        monkeypatch.setattr(tree, "descendants", lambda pid: [pid + 1])
        monkeypatch.setattr(tree, "send", lambda pids, number: sent.append(("sent", pids, number)))
        monkeypatch.setattr(pulse, "kill_below", lambda pid: sent.append(("killed", pid)))
        runner._watches["att_1.0"] = watch = handle._Watch("att_1", 0)
        watch.pid, watch.pidfd = 70, os.open(made, os.O_RDONLY)
        await runner.stop("att_1", 0, StopRequest("cancelled", 0, "USR1"))
        await until(lambda: ("killed", 70) in sent)
        os.close(watch.pidfd)
        watch.pidfd = -1

    site.play(story)
    told = [] if heeds else [("sent", [71], 15)]
    assert sent == [("asked", [71], 10), *told, ("killed", 70)]


def test_a_member_that_ended_without_a_report_says_when(site: Site) -> None:
    site.member(start={**STARTED, "start_boot_us": 7, "ended_us": 9}, lives=True)
    site.member("att_2.0", start=STARTED, lives=True)

    async def story(runner: ProcessRunner) -> None:
        assert runner.ended([("att_1", 0), ("att_2", 0), ("att_3", 0), ("x", 0)]) == {("att_1", 0): 9}

    site.play(story)


def test_nobody_buries_what_is_held_and_who_has_a_report_keeps_it(site: Site) -> None:
    held = site.member(start=STARTED, lives=True)
    ended = site.member("att_2.0", report={**REPORT, "attempt_id": "att_2"})

    async def story(runner: ProcessRunner) -> None:
        for made, name in ((held, "att_1"), (ended, "att_2")):
            dir_fd = os.open(made, os.O_RDONLY)
            found = await runner._bury(f"{name}.0", dir_fd, name, 0)
            os.close(dir_fd)
            assert found == (None if made is held else ExitReport(**{**REPORT, "attempt_id": "att_2"}))
        assert not (held / EXIT).exists()

    site.play(story)


def test_a_member_whose_directory_is_gone_is_told_as_lost_once_and_watched_no_more(site: Site) -> None:
    async def story(runner: ProcessRunner) -> None:
        runner._watches["att_1.0"] = watch = handle._Watch("att_1", 0)
        watch.started_us = NOW_US - 5
        runner._check("att_1.0")
        runner.mend()
        await until(lambda: bool(site.events))
        await turns()
        assert runner._watches == {}
        [told] = [event.report for event in site.events]
        assert (told.attempt_id, told.end_cause, told.message) == ("att_1", "failed", MESSAGE)
        assert (told.held_us, told.end_boot_us) == (5, NOW_US)

    site.play(story)


def test_one_whose_start_is_not_answered_yet_is_not_taken_for_removed(site: Site) -> None:
    async def story(runner: ProcessRunner) -> None:
        runner._watches["att_1.0"] = handle._Watch("att_1", 0)
        with runner._unanswered.asking([("att_1", 0)]):
            runner.mend()
            runner._check("att_1.0")
            await turns()
            assert (runner._watches, site.events) == ({}, [])

    site.play(story)


# --- forgetting and reading


def test_only_what_has_ended_is_forgotten(site: Site) -> None:
    made = site.member(start=STARTED, lives=True)

    async def story(runner: ProcessRunner) -> None:
        with pytest.raises(WrongState, match="attempt att_1 rank 0 has not ended; stop it first"):
            runner.forget("att_1", 0)
        (made / EXIT).write_text(json.dumps(REPORT))
        runner.forget("att_1", 0)
        assert not made.exists()

    site.play(story)


def test_directories_that_hold_nothing_are_kept_to_be_used_again_while_there_is_room(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bursar_agent.runner.truth.FREE_MAX", 2)
    for at in range(1, 5):
        site.member(f"att_{at}.0", start=STARTED, report=REPORT)
    spoke = site.member("att_9.0", start=STARTED, report=REPORT)
    (spoke / LOG).write_text("word")

    def free() -> list[str]:
        return sorted(path.name for path in (site.folder / FREE).iterdir())

    async def story(runner: ProcessRunner) -> None:
        assert not runner.release("att_9", 0)
        assert spoke.exists()
        assert [runner.release(f"att_{at}", 0) for at in (1, 2)] == [True, True]
        assert free() == ["att_1.0", "att_2.0"]
        assert runner.release("att_3", 0)
        assert not (site.folder / "attempts" / "att_3.0").exists()
        assert free() == ["att_1.0", "att_2.0"]
        runner._free_room = 1  # and somebody has removed what they wait in
        for name in free():
            for path in (site.folder / FREE / name).iterdir():
                path.unlink()
            (site.folder / FREE / name).rmdir()
        (site.folder / FREE).rmdir()
        assert runner.release("att_4", 0)
        assert free() == ["att_4.0"]

    site.play(story)


def test_a_log_is_read_by_its_members_own_cap_and_never_anothers(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = site.member(mark={"log_cap_bytes": 77})
    other = site.member("att_2.0", mark={})
    for each in (made, other):
        (each / LOG).write_bytes(b"0123456789")
    caps: list[int] = []
    read = handle.logs.read_log

    def noted(dir_fd: int, cap_bytes: int, offset: int, limit: int) -> Any:
        caps.append(cap_bytes)
        return read(dir_fd, 1 << 20, offset, limit)

    monkeypatch.setattr(handle.logs, "read_log", noted)

    async def story(runner: ProcessRunner) -> None:
        assert runner.read_log("att_1", 0, 2, 5) == (b"23456", 7, 0)
        assert runner.read_log("att_2", 0, 0, 99) == (b"0123456789", 10, 0)
        assert caps == [77, 64 << 20]
        assert runner.read_log_times("att_1", 0) == [(0, 0)]

        def changed(*words: Any) -> Any:
            (made / STARTING).write_text(json.dumps({"epoch": 5}))
            return noted(*words)

        monkeypatch.setattr(handle.logs, "read_log", changed)
        with pytest.raises(NotFound, match="attempt att_1 rank 0 left no log on this machine"):
            runner.read_log("att_1", 0, 0, 5)

    site.play(story)


@pytest.mark.parametrize(
    ("user", "own", "expected"), [(0, True, b"own"), (0, False, b"other"), (5, False, None)]
)
def test_progress_is_in_the_members_directory_or_of_another_user_where_we_may_look(
    site: Site, monkeypatch: pytest.MonkeyPatch, user: int, own: bool, expected: bytes | None
) -> None:
    made = site.member(start=STARTED)
    if own:
        (made / PROGRESS).write_bytes(b"own")
    asked: list[str] = []

    def other(start: Any, marker: str, *_: object) -> bytes:
        assert start["pid"] == STARTED["pid"]
        asked.append(marker)
        return b"other"

    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(progressfile, "read_of_another", other)

    async def story(runner: ProcessRunner) -> None:
        assert runner.read_progress("att_1", 0) == expected
        assert runner.read_last_progress("att_1", 0) == (b"own" if own else None)
        run = site.folder.stat()
        assert asked == [f"att_1.0@{run.st_dev:x}-{run.st_ino:x}"] * (expected == b"other")

    site.play(story)


# --- hearing


def test_what_a_supervisor_tells_is_passed_on_and_what_it_does_not_is_asked_of_the_disk(site: Site) -> None:
    """1. A start is told, and its supervisor watched. 2. The end is told once. 3. Strangers say nothing."""
    words = {
        "attempt_id": "att_1", "rank": 0, "kind": "started", "pid": 41, "start_boot_us": 6, "phase": "setup",
        "memory_enforced": True, "supervisor_pid": HERE,
    }  # fmt: skip

    async def story(runner: ProcessRunner) -> None:
        runner._hear(words)
        assert site.events == []
        runner._watches["att_1.0"] = handle._Watch("att_1", 0)
        runner._hear(words)
        watch = runner._watches["att_1.0"]
        assert (watch.pid, watch.pidfd >= 0) == (HERE, True)
        runner._hear({**words, "reaped_before_us": 12})
        assert site.events == [
            handle.Started("att_1", 0, 41, 6, "setup", True),
            handle.Started("att_1", 0, 41, 6, "setup", True, 12),
        ]
        runner._hear({**words, "kind": "news"})
        runner._hear({"kind": "ended", **REPORT})
        runner._hear({"kind": "ended", **REPORT})
        assert site.events[2:] == [Ended(ExitReport(**REPORT))]
        assert (runner._watches, watch.pidfd) == ({}, -1)

    site.play(story)


def test_a_datagram_that_is_no_message_is_passed_over(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    class Door:
        waiting = [
            b"{",
            b"[]",
            b"{}",
            b'{"attempt_id":"../x","rank":0}',
            json.dumps({"kind": "ended", **REPORT}).encode(),
        ]

        def recv(self, size: int) -> bytes:
            if not self.waiting:
                raise BlockingIOError
            return self.waiting.pop(0)

    async def story(runner: ProcessRunner) -> None:
        runner._watches["att_1.0"] = handle._Watch("att_1", 0)
        own, runner._socket = runner._socket, Door()  # type: ignore[assignment]
        runner._receive()
        runner._socket = own
        assert site.events == [Ended(ExitReport(**REPORT))]
        assert [record.message for record in caplog.records] == ["not a supervisor's message"] * 4

    site.play(story)


def test_a_supervisor_that_is_gone_has_its_member_looked_at_on_disk(site: Site) -> None:
    site.member(start=STARTED, lives=True)

    async def story(runner: ProcessRunner) -> None:
        runner._watch("att_1.0", "att_1", 0, GONE)
        await until(lambda: bool(runner._watches) and runner._watches["att_1.0"].pidfd >= 0)
        assert runner._watches["att_1.0"].pid == HERE  # as its record says
        assert site.events == []

    site.play(story)


# --- looking


def test_each_look_wakes_what_is_stopped_and_steps_against_what_is_overdue(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.member(start=STARTED, lives=True)
    site.member("att_2.0", start=STARTED, report=REPORT, lives=True)
    site.member("att_3.0", start=STARTED)
    woken: list[set[int]] = []
    looked: list[tuple[str, int, int]] = []
    kept: list[set[str]] = []
    launchers: list[int | None] = [500, None]
    monkeypatch.setattr(pulse, "launcher_pid", lambda run_fd: launchers.pop(0))
    monkeypatch.setattr(tree, "children", lambda pid: [pid + 1, pid + 2])
    monkeypatch.setattr(pulse, "wake", lambda pids: woken.append(pids) or [])

    async def story(runner: ProcessRunner) -> None:
        monkeypatch.setattr(runner._overdue, "forget", kept.append)
        monkeypatch.setattr(
            runner._overdue, "look", lambda name, fd, pid, now: looked.append((name, pid, now))
        )
        for at in (1, 2, 3, 4):
            runner._watch(f"att_{at}.0", f"att_{at}", 0, HERE)
        runner._watches["att_5.0"] = handle._Watch("att_5", 0)
        runner.look()
        runner.look()
        assert woken == [{HERE, 500, 501, 502}, {HERE}]
        assert looked == [("att_1.0", HERE, NOW_US)] * 2
        assert kept == [{f"att_{at}.0" for at in (1, 2, 3, 4, 5)}] * 2

    site.play(story)
