"""What the agent's runner asks, finds, follows and buries: no launcher, no supervisor, no job is started."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar.errors import InvalidRequest, NotFound, WrongState
from bursar_agent.runner import client, handle, leftovers, pulse, scratch, secretfiles, starts, tree
from bursar_agent.runner.handle import ProcessRunner
from bursar_agent.runner.layout import (
    AGENT_SOCKET,
    EXIT,
    FREE,
    LIMIT,
    LOG,
    PROGRESS,
    START,
    STARTING,
    STEP,
    STOP,
    boot_id,
)
from bursar_agent.runner.model import AttemptTruth, Ended, ExitReport, StartRequest, StartResult, StopRequest

NOW_US = 9_000_000
GONE = 2**22 + 1  # no pid is so large
HERE = os.getpid()
STARTED = {"pid": 41, "pid_start_ticks": 3, "start_boot_us": 5_000_000, "supervisor_pid": HERE}
REPORT: dict[str, Any] = {
    "attempt_id": "att_1", "rank": 0, "epoch": 4, "end_cause": "completed", "exit_code": 0, "signal": None,
    "message": "", "phase": "run", "boot_id": "b", "start_boot_us": 5, "end_boot_us": 8, "held_us": 3,
    "cpu_user_us": 1, "cpu_system_us": 2, "max_rss_bytes": 6, "log_bytes": 0, "log_dropped_bytes": 0,
}  # fmt: skip


class Connection:
    """A launcher's end of the line: it answers start requests with what it was given, in order."""

    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        self.answers = list(answers)
        self.messages: list[dict[str, Any]] = []
        self.lost = False
        self.closed = 0

    async def request(self, body: bytes) -> dict[str, Any]:
        message = json.loads(body)
        self.messages.append(message)
        if message["op"] != "start":
            return {}
        results = []
        for _ in message["requests"]:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            results.append(answer)
        return {"results": results}

    def close(self) -> None:
        self.closed += 1

    def asked(self) -> list[list[str]]:
        """Attempt ids by message."""
        return [[one["attempt_id"] for one in each.get("requests", ())] for each in self.messages]


class Site:
    """A run directory whose members are made by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[Any] = []
        self.signals: list[tuple[int, int]] = []
        self.locks: list[int] = []
        self.runner = ProcessRunner(folder, self.events.append, inherited_variables=("PATH",), look_s=3600)

    def play(self, story: Callable[[ProcessRunner], Awaitable[None]]) -> None:
        async def whole() -> None:
            await self.runner.open()
            try:
                await story(self.runner)
            finally:
                await self.runner.close()

        asyncio.run(whole())

    def uses(self, *answers: dict[str, Any] | Exception) -> Connection:
        made = Connection(*answers)
        self.runner._connection = made  # type: ignore[assignment]
        return made

    def member(
        self,
        name: str = "att_1.0",
        mark: Any = None,
        start: Any = None,
        report: Any = None,
        lives: bool = False,
    ) -> Path:
        made = self.folder / "attempts" / name
        made.mkdir(parents=True)
        (made / STARTING).write_text(json.dumps({"taken": 2, "epoch": 4} if mark is None else mark))
        for file, record in ((START, start), (EXIT, report)):
            if record is not None:
                (made / file).write_text(json.dumps(record))
        if lives:
            self.locks.append(os.open(made / STARTING, os.O_RDONLY))
            fcntl.flock(self.locks[-1], fcntl.LOCK_EX)
        return made


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path / "run")
    monkeypatch.setattr(handle, "_boot_us", lambda: NOW_US)
    monkeypatch.setattr(pulse, "boot_us", lambda: NOW_US)
    monkeypatch.setattr(handle, "_LOST_POLL_S", 0.0)
    monkeypatch.setattr(leftovers, "kill", lambda *_: 0)
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda fd, number: made.signals.append((fd, number)))
    yield made
    for fd in made.locks:
        os.close(fd)


def request(attempt_id: str = "att_1", **changes: Any) -> StartRequest:
    return StartRequest(attempt_id, **changes)


def starting(pid: int = HERE) -> dict[str, Any]:
    return {"state": "starting", "supervisor_pid": pid}


def sent(site: Site) -> list[int]:
    return [number for _, number in site.signals]


async def turns(many: int = 20) -> None:
    for _ in range(many):
        await asyncio.sleep(0)


async def until(so: Callable[[], bool]) -> None:
    for _ in range(60_000):
        if so():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it does not come to pass")


# --- opening and leaving


def test_the_run_directory_and_the_door_of_supervisors_are_the_agents_alone(site: Site) -> None:
    async def story(runner: ProcessRunner) -> None:
        assert stat.S_IMODE(site.folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((site.folder / "attempts").stat().st_mode) == 0o700
        door = (site.folder / AGENT_SOCKET).stat()
        assert (stat.S_ISSOCK(door.st_mode), stat.S_IMODE(door.st_mode)) == (True, 0o600)
        assert sorted(path.name for path in site.folder.iterdir()) == [AGENT_SOCKET, "attempts"]

    site.play(story)
    assert (site.runner._run_fd, site.runner._socket, len(site.runner._tasks)) == (-1, None, 0)


def test_who_leaves_hangs_up_and_lets_go_of_every_member(site: Site) -> None:
    connection = site.uses()

    async def story(runner: ProcessRunner) -> None:
        runner._watch("att_1.0", "att_1", 0, HERE)
        assert runner._watches["att_1.0"].pidfd >= 0

    site.play(story)
    assert (connection.closed, site.runner._watches["att_1.0"].pidfd) == (1, -1)


@pytest.mark.parametrize(
    ("lost", "running", "expected"), [(False, True, 1), (True, True, 2), (True, False, 0)]
)
def test_the_launcher_that_answers_is_told_to_end(
    site: Site, monkeypatch: pytest.MonkeyPatch, lost: bool, running: bool, expected: int
) -> None:
    known, found = site.uses(), Connection()
    known.lost = lost

    async def connect(run_fd: int, answer_s: float) -> Connection | None:
        assert (run_fd, answer_s) == (site.runner._run_fd, client.ANSWER_S)
        return found if running else None

    monkeypatch.setattr(client, "connect_running", connect)

    async def story(runner: ProcessRunner) -> None:
        await runner.shutdown_launcher()
        told = [{"op": "shutdown"}]
        assert (known.messages, found.messages) == (told * (expected == 1), told * (expected == 2))
        assert (known.closed, found.closed) == (int(expected == 1), int(expected == 2))

    site.play(story)


# --- starting


def test_each_request_gets_its_own_answer_however_many_messages_they_take(site: Site) -> None:
    """1. Sixteen to a message. 2. Answers stand in the order of the requests. 3. What started is watched."""
    answers = [starting() if at != 17 else {"state": "refused", "message": "no room"} for at in range(20)]
    connection = site.uses(*answers)

    async def story(runner: ProcessRunner) -> None:
        names = [f"att_{at}" for at in range(20)]
        found = await runner.start([request(name) for name in names])
        assert connection.asked() == [names[:16], names[16:]]
        assert found == [
            StartResult(name, 0, *(("refused", "no room") if name == "att_17" else ("starting",)))
            for name in names
        ]
        assert set(runner._watches) == {f"{name}.0" for name in names} - {"att_17.0"}
        assert {watch.pid for watch in runner._watches.values()} == {HERE}

    site.play(story)


def test_a_request_says_all_that_the_launcher_must_know(site: Site) -> None:
    connection = site.uses(starting())

    async def story(runner: ProcessRunner) -> None:
        await runner.start([request(rank=3, epoch=7, env={"A": "b"}, home="/h", uid=5, gid=6)])
        run = site.folder.stat()
        assert connection.messages[0]["requests"] == [
            {
                "attempt_id": "att_1", "rank": 3, "epoch": 7, "boot_id": boot_id(), "launch": "{}",
                "place": f"{run.st_dev:x}-{run.st_ino:x}", "env": {"PATH": os.environ["PATH"], "A": "b"},
                "home": "/h", "checkpoint_dir": "", "uid": 5, "gid": 6, "time_limit_us": None,
                "grace_us": 30_000_000, "checkpoint_signal": None, "log_cap_bytes": 64 << 20,
                "memory_limit_bytes": None, "cpu_limit_milli": 0,
            }
        ]  # fmt: skip

    site.play(story)


def test_a_request_that_is_too_long_is_refused_before_anything_is_sent(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = site.uses(starting())

    async def story(runner: ProcessRunner) -> None:
        await runner.start([request()])
        size = len(json.dumps(connection.messages[0]["requests"][0], separators=(",", ":")))
        monkeypatch.setattr(handle, "FRAME_BYTES_MAX", size + 1024)
        connection.answers.append(starting())
        await runner.start([request()])
        monkeypatch.setattr(handle, "FRAME_BYTES_MAX", size + 1023)
        with pytest.raises(InvalidRequest, match="att_1: the start request is over 16 MiB"):
            await runner.start([request()])
        assert len(connection.messages) == 2

    site.play(story)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([1] * 16, [16]),
        ([1] * 17, [16, 1]),
        ([1 << 19, 1 << 19], [2]),
        ([1 << 19, (1 << 19) + 1], [1, 1]),
        ([1 << 21], [1]),
        ([1, 1 << 20, 1, 1], [1, 1, 2]),
        ([1 << 20, 1], [1, 1]),
    ],
)
def test_messages_hold_so_many_requests_and_so_many_bytes(sizes: list[int], expected: list[int]) -> None:
    bodies = [b"x" * size for size in sizes]
    found = starts.batches(bodies)
    assert [len(batch) for batch in found] == expected
    assert [body for batch in found for body in batch] == bodies


def test_a_path_that_is_no_text_is_sent_all_the_same() -> None:
    assert starts.encoded({"a": "b"}) == b'{"a":"b"}'
    assert starts.encoded({"a": "\udcff"}) == b'{"a": "\\udcff"}'


@pytest.mark.parametrize("failures", [0, 3, 4])
def test_a_launcher_that_goes_under_a_request_is_replaced_three_times(
    site: Site, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    made: list[Connection] = []

    async def connect(run_fd: int, run_dir: str, cgroup_root: str | None, answer_s: float) -> Connection:
        assert (run_fd, run_dir, cgroup_root) == (site.runner._run_fd, str(site.folder), None)
        broken = len(made) < failures
        made.append(Connection(ConnectionResetError("gone") if broken else starting()))
        made[-1].lost = broken
        return made[-1]

    monkeypatch.setattr(client, "connect", connect)

    async def story(runner: ProcessRunner) -> None:
        if failures == 4:
            with pytest.raises(ConnectionResetError, match="gone"):
                await runner.start([request()])
            assert runner._watches == {}
            assert len(made) == 4
            return
        assert await runner.start([request()]) == [StartResult("att_1", 0, "starting")]
        made[-1].answers.append(starting())
        await runner.start([request("att_2")])  # the same one is asked again
        assert len(made) == failures + 1

    site.play(story)


@pytest.mark.parametrize(
    ("mark", "report", "lives", "again"),
    [
        ({"taken": 0}, None, False, True),
        ({"taken": 1}, None, False, False),
        ({"taken": 0}, REPORT, False, False),
        ({"taken": 0}, None, True, False),
    ],
)
def test_a_mark_that_nobody_took_is_taken_back_and_the_member_started(
    site: Site, mark: Any, report: Any, lives: bool, again: bool
) -> None:
    made = site.member(mark=mark, report=report, lives=lives)
    connection = site.uses({"state": "already"}, starting(), starting())

    async def story(runner: ProcessRunner) -> None:
        found = await runner.start([request(), request("att_2")])
        assert connection.asked() == [["att_1", "att_2"], ["att_1"]][: 1 + again]
        assert found == [
            StartResult("att_1", 0, "starting" if again else "already"),
            StartResult("att_2", 0, "starting"),
        ]
        assert made.exists() is not again

    site.play(story)


def test_a_member_that_runs_already_is_followed_and_one_that_ended_is_told_again(site: Site) -> None:
    site.member(start=STARTED, lives=True)
    site.member("att_2.0", start=STARTED, report={**REPORT, "attempt_id": "att_2"})
    site.uses({"state": "already"}, {"state": "already"})

    async def story(runner: ProcessRunner) -> None:
        await runner.start([request(), request("att_2")])
        await turns()
        assert {name: watch.pid for name, watch in runner._watches.items()} == {"att_1.0": HERE}
        assert site.events == [Ended(ExitReport(**{**REPORT, "attempt_id": "att_2"}))]

    site.play(story)


# --- stopping, limits, steps


@pytest.mark.parametrize(
    ("earlier", "expected"),
    [
        (None, ("budget", 10, 2_000, NOW_US)),
        ((1_000, NOW_US), None),
        ((2_000, NOW_US), None),
        ((2_001, NOW_US), ("idle", 12, 2_000, NOW_US)),
        ((0, NOW_US - 5), None),
    ],
)
def test_a_later_stop_can_only_hasten_the_end_and_the_first_cause_stays(
    site: Site, earlier: tuple[int, int] | None, expected: tuple[Any, ...] | None
) -> None:
    made = site.member(start=STARTED, lives=True)
    if earlier is not None:
        first = {"cause": "idle", "signal": 12, "grace_us": earlier[0], "asked_at": earlier[1]}
        (made / STOP).write_text(json.dumps(first))

    async def story(runner: ProcessRunner) -> None:
        await runner.stop("att_1", 0, StopRequest("budget", 2_000, "USR1"))
        found = json.loads((made / STOP).read_text())
        keys = ("cause", "signal", "grace_us", "asked_at")
        assert found == (first if expected is None else dict(zip(keys, expected, strict=True)))
        assert sent(site) == [signal.SIGUSR1, signal.SIGCONT]

    site.play(story)


def test_a_stop_without_a_signal_goes_straight_to_term(site: Site) -> None:
    made = site.member(start=STARTED, lives=True)

    async def story(runner: ProcessRunner) -> None:
        await runner.stop("att_1", 0, StopRequest("cancelled", 0))
        assert json.loads((made / STOP).read_text()) == {
            "cause": "cancelled", "signal": None, "grace_us": 0, "asked_at": NOW_US,
        }  # fmt: skip

    site.play(story)


@pytest.mark.parametrize(
    ("start", "lives", "expected"),
    [
        (STARTED, True, [signal.SIGUSR1, signal.SIGCONT]),
        (STARTED, False, []),
        (None, True, []),
        ({**STARTED, "supervisor_pid": GONE}, True, []),
    ],
)
def test_only_a_supervisor_that_lives_is_signalled(
    site: Site, start: Any, lives: bool, expected: Any
) -> None:
    made = site.member(start=start, lives=lives)

    async def story(runner: ProcessRunner) -> None:
        await runner.stop("att_1", 0, StopRequest("cancelled", 1))
        assert (made / STOP).exists()
        assert sent(site) == expected

    site.play(story)


def test_what_has_ended_is_neither_stopped_nor_limited_nor_given_steps(site: Site) -> None:
    made = site.member(start={**STARTED, "takes_limits": True}, report=REPORT, lives=True)

    async def story(runner: ProcessRunner) -> None:
        await runner.stop("att_1", 0, StopRequest("cancelled", 1))
        await runner.limit("att_1", 0, 5)
        with pytest.raises(WrongState, match="rank 0 has ended"):
            runner.ask_for_steps("att_1", 0)
        assert sorted(path.name for path in made.iterdir()) == [EXIT, START, STARTING]
        assert sent(site) == []

    site.play(story)


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (StopRequest("", 1), "stop of att_1: needs a cause and a grace of 0 or more"),
        (StopRequest("idle", -1), "stop of att_1: needs a cause and a grace of 0 or more"),
        (StopRequest("idle", 1, "KILL"), "KILL cannot be handled"),
    ],
)
def test_a_stop_that_means_nothing_is_refused(site: Site, asked: StopRequest, problem: str) -> None:
    made = site.member(start=STARTED, lives=True)

    async def story(runner: ProcessRunner) -> None:
        with pytest.raises(InvalidRequest, match=problem):
            await runner.stop("att_1", 0, asked)
        assert not (made / STOP).exists()

    site.play(story)


def test_a_limit_is_kept_on_disk_and_the_supervisor_told(site: Site) -> None:
    made = site.member(start={**STARTED, "takes_limits": True}, lives=True)
    old = site.member("att_2.0", start=STARTED, lives=True)
    site.member("att_3.0", lives=True)

    async def story(runner: ProcessRunner) -> None:
        await runner.limit("att_1", 0, 1)
        assert (os.readlink(made / LIMIT), sent(site)) == ("1", [signal.SIGUSR1, signal.SIGCONT])
        with pytest.raises(InvalidRequest, match="limit of att_1: must be more than 0"):
            await runner.limit("att_1", 0, 0)
        for other in ("att_2", "att_3"):
            with pytest.raises(WrongState, match="of an older release and keeps the limit it began with"):
                await runner.limit(other, 0, 9)
        assert LIMIT not in [path.name for path in old.iterdir()]
        assert len(site.signals) == 2

    site.play(story)


def test_a_supervisor_is_asked_for_steps_by_a_file_of_our_own_account(site: Site) -> None:
    made = site.member(start=STARTED, lives=True)

    async def story(runner: ProcessRunner) -> None:
        for _ in range(2):
            runner.ask_for_steps("att_1", 0)
        assert stat.S_IMODE((made / STEP).stat().st_mode) == 0o600
        assert sent(site) == [signal.SIGUSR1, signal.SIGCONT] * 2

    site.play(story)


def test_who_was_never_here_is_not_found_and_what_is_no_id_is_refused(site: Site) -> None:
    async def story(runner: ProcessRunner) -> None:
        for ask in (
            lambda name: runner.read_log(name, 2, 0, 1),
            lambda name: runner.read_log_times(name, 2),
            lambda name: runner.read_progress(name, 2),
            lambda name: runner.read_last_progress(name, 2),
            lambda name: runner.forget(name, 2),
            lambda name: runner.release(name, 2),
            lambda name: runner.ask_for_steps(name, 2),
        ):
            with pytest.raises(NotFound, match="attempt att_9 rank 2 was not started on this machine"):
                ask("att_9")
            with pytest.raises(InvalidRequest, match="refused before it becomes a path"):
                ask("../att_9")

    site.play(story)


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
    mark = {"taken": 2, "epoch": 6, "boot_id": boot_id(), "place": "p"}
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
         "supervisor lost before the job was started", (None, NOW_US, None)),
        ({"epoch": 3, "boot_id": boot_id(), "taken": 2}, None, "failed",
         "supervisor lost before the job was started", (None, NOW_US, None)),
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


def test_nothing_is_buried_before_its_last_process_is_gone_and_nothing_of_it_is_left(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. Killed until none is found, after longer pauses. 2. Then its directories and its script go."""
    made = site.member(mark={"place": "p", "boot_id": boot_id()}, start=STARTED)
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
    for module, name in ((scratch, "remove"), (scratch, "remove_file"), (secretfiles, "remove")):
        monkeypatch.setattr(module, name, removed.append)

    async def story(runner: ProcessRunner) -> None:
        dir_fd = os.open(made, os.O_RDONLY)
        await turns(1)  # until its own look has begun to wait
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "sleep", sleep)
            found = await runner._bury("att_1.0", dir_fd, "att_1", 0)
        os.close(dir_fd)
        assert found is not None
        assert killed == [("att_1.0", "p", STARTED)] * 3
        assert waited == [0.75, 1.0]
        marker = "att_1.0@p"
        assert removed == [
            scratch.path_of(marker), secretfiles.path_of(marker), handle.script_of_another(marker),
            f"/tmp/bursar-{marker}.progress",
        ]  # fmt: skip

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


def test_a_member_whose_directory_is_gone_is_watched_no_more(site: Site) -> None:
    async def story(runner: ProcessRunner) -> None:
        runner._watches["att_1.0"] = handle._Watch("att_1", 0)
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
    made = site.member()
    if own:
        (made / PROGRESS).write_bytes(b"own")
    asked: list[str] = []

    def other(marker: str) -> bytes:
        asked.append(marker)
        return b"other"

    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(handle.progressfile, "read_of_another", other)

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
        assert site.events == [handle.Started("att_1", 0, 41, 6, "setup", True)]
        runner._hear({**words, "kind": "news"})
        runner._hear({"kind": "ended", **REPORT})
        runner._hear({"kind": "ended", **REPORT})
        assert site.events[1:] == [Ended(ExitReport(**REPORT))]
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
