"""What the agent's runner asks of its launcher and of supervisors: none of them, and no job, is started."""

from __future__ import annotations

import json
import os
import signal
import stat
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
    request,
    sent,
    starting,
    turns,
)

from bursar.errors import InvalidRequest, NotFound, WrongState
from bursar_agent.runner import client, handle, starts
from bursar_agent.runner.handle import ProcessRunner
from bursar_agent.runner.layout import (
    AGENT_SOCKET,
    EXIT,
    LIMIT,
    START,
    STARTING,
    STEP,
    STOP,
    boot_id,
)
from bursar_agent.runner.model import Ended, ExitReport, StartResult, StopRequest


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path / "run")
    patched(made, monkeypatch)
    yield made
    for fd in made.locks:
        os.close(fd)


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
                "over": {},
                "home": "/h", "checkpoint_dir": "", "uid": 5, "gid": 6, "time_limit_us": None,
                "grace_us": 30_000_000, "checkpoint_signal": None, "log_cap_bytes": 64 << 20,
                "memory_limit_bytes": None, "cpu_limit_milli": 0, "runtime": None, "gpus": [],
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
            lambda name: runner.forget(name, 2),
            lambda name: runner.release(name, 2),
            lambda name: runner.ask_for_steps(name, 2),
        ):
            with pytest.raises(NotFound, match="attempt att_9 rank 2 was not started on this machine"):
                ask("att_9")
            with pytest.raises(InvalidRequest, match="refused before it becomes a path"):
                ask("../att_9")
        assert runner.read_last_progress("att_9", 2) is None  # as of most jobs, which tell none
        with pytest.raises(InvalidRequest, match="refused before it becomes a path"):
            runner.read_last_progress("../att_9", 2)

    site.play(story)
