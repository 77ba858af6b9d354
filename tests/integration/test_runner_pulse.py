"""Launchers and supervisors that were stopped or hang: noticed, and no job lost, doubled or left running.

Why     a stopped process keeps its pid, its lock and its socket, so nothing that notices a death notices it.
The times that the runner waits for are short here; nothing is assumed to take less than it may. Attempt ids
are of this file alone: leftovers are found by them on the whole machine, and other tests run beside.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from bursar.errors import BursarError
from bursar_agent.runner import pulse
from bursar_agent.runner.layout import stat_fields
from bursar_agent.runner.model import StopRequest
from bursar_agent.runner.testing import Bench, alive, bench, play, request, until
from bursar_agent.runner.tree import descendants

NEVER = 3600.0
"""No look at the processes while a test is about something else."""


def stopped(pid: int) -> bool:
    return (stat_fields(pid) or ["gone"])[0] == "T"


def pidfds() -> int:
    """How many descriptors of processes this one holds."""
    found = 0
    for entry in os.scandir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists is gone by now
            found += "pidfd" in os.readlink(entry.path)
    return found


async def stop_process(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    await until(lambda: stopped(pid))


def test_a_stopped_launcher_is_woken_by_the_next_start_and_runs_it_once(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        launcher = await made.launcher_pid()
        held = pidfds()
        await stop_process(launcher)
        report = await made.run("att_pulse1", f"echo x >> {tmp_path}/count")
        assert pidfds() == held
        assert (report.end_cause, (tmp_path / "count").read_text()) == ("completed", "x\n")
        assert await made.launcher_pid() == launcher

    play(tmp_path / "run", story, answer_s=1.0, look_s=NEVER)


def test_a_stopped_launcher_is_woken_by_the_look_though_nobody_asks_it_for_anything(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        launcher = await made.launcher_pid()
        await stop_process(launcher)
        made.runner.look()
        await until(lambda: not stopped(launcher))

    play(tmp_path, story, answer_s=NEVER, look_s=NEVER)


def test_a_launcher_that_does_not_answer_when_woken_is_killed_and_its_start_runs_once_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waking is taken away, so that the stopped launcher stands for one that hangs."""
    plain = pulse.signal_launcher

    def deaf(run_fd: int, number: int) -> int | None:
        return None if number == signal.SIGCONT else plain(run_fd, number)

    monkeypatch.setattr(pulse, "signal_launcher", deaf)

    async def story(made: Bench) -> None:
        await made.start("att_pulse1", f"until [ -e {tmp_path}/gate ]; do sleep 0.01; done; exit 3")
        await until(lambda: made.recorded("att_pulse1"))
        first = await made.launcher_pid()
        await stop_process(first)
        states = await asyncio.gather(
            *(made.start(f"att_pulse{n}", f"echo {n} >> {tmp_path}/count") for n in (2, 3))
        )
        assert set(states) <= {"starting", "already"}
        for attempt in ("att_pulse2", "att_pulse3"):
            assert (await made.ended(attempt)).end_cause == "completed"
        assert sorted((tmp_path / "count").read_text().split()) == ["2", "3"]
        assert not alive(first)
        assert await made.launcher_pid() != first
        (tmp_path / "gate").touch()
        assert (await made.ended("att_pulse1")).exit_code == 3

    play(tmp_path / "run", story, answer_s=1.0, look_s=NEVER)


def test_what_a_killed_launcher_marked_and_gave_to_nobody_is_started_by_the_next(tmp_path: Path) -> None:
    """The mark as a launcher leaves it that was killed between mark and fork."""

    async def story(made: Bench) -> None:
        await made.launcher_pid()
        made.dir("att_pulse1").mkdir(parents=True)
        (made.dir("att_pulse1") / "starting").write_text('{"taken": 0, "attempt_id": "att_pulse1"}')
        assert (await made.run("att_pulse1", f"echo x >> {tmp_path}/count")).end_cause == "completed"
        assert (tmp_path / "count").read_text() == "x\n"
        assert await made.start("att_pulse1", f"echo x >> {tmp_path}/count") == "already"

    play(tmp_path / "run", story)


@pytest.mark.parametrize(
    "mark", ['{"taken": 1, "attempt_id": "att_pulse1"}', '{"attempt_id": "att_pulse1"}', ""]
)
def test_what_may_have_been_begun_is_never_started_again(tmp_path: Path, mark: str) -> None:
    """Taken, or marked by a release that did not say, or a mark that cannot be read."""

    async def story(made: Bench) -> None:
        await made.launcher_pid()
        made.dir("att_pulse1").mkdir(parents=True)
        (made.dir("att_pulse1") / "starting").write_text(mark)
        assert await made.start("att_pulse1", f"echo x >> {tmp_path}/count") == "already"
        # Taken, and no process of it made: it is not started again here, and may be elsewhere.
        unbegun = '"taken": 1' in mark
        assert (await made.ended("att_pulse1")).end_cause == ("node_lost" if unbegun else "failed")
        assert not (tmp_path / "count").exists()

    play(tmp_path / "run", story)


def test_a_mark_that_nobody_took_is_gone_after_the_agent_came_back_so_that_its_daemon_says_it_again(
    tmp_path: Path,
) -> None:
    async def story(made: Bench) -> None:
        for number, taken in (("1", 0), ("2", 1)):
            made.dir(f"att_pulse{number}").mkdir(parents=True)
            mark = {"taken": taken, "attempt_id": f"att_pulse{number}"}
            (made.dir(f"att_pulse{number}") / "starting").write_text(json.dumps(mark))
        found = {truth.attempt_id: truth.state for truth in await made.runner.adopt()}
        assert found == {"att_pulse2": "ended"}
        assert not made.dir("att_pulse1").exists()

    play(tmp_path, story)


@pytest.mark.parametrize("seen_by", ["the agent that started it", "the next agent"])
def test_a_stopped_supervisor_is_woken_and_tells_the_true_end(tmp_path: Path, seen_by: str) -> None:
    async def story(made: Bench) -> None:
        await made.start("att_pulse1", f"until [ -e {tmp_path}/gate ]; do sleep 0.01; done; exit 7")
        await until(lambda: made.recorded("att_pulse1"))
        await stop_process(made.supervisor("att_pulse1"))
        (tmp_path / "gate").touch()
        if seen_by == "the agent that started it":
            made.runner.look()
            assert (await made.ended("att_pulse1")).exit_code == 7
            return
        async with bench(tmp_path / "run", look_s=0.05) as later:
            assert [truth.state for truth in await later.runner.adopt()] == ["running"]
            assert (await later.ended("att_pulse1")).exit_code == 7

    play(tmp_path / "run", story, look_s=NEVER)


def test_a_stopped_idle_supervisor_is_woken_with_the_attempt_that_it_was_given(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        assert (await made.run("att_pulse1", "true")).end_cause == "completed"
        for pid in descendants(await made.launcher_pid()):
            await stop_process(pid)
        assert await made.start("att_pulse2", f"echo x >> {tmp_path}/count") == "starting"
        made.runner.look()
        assert (await made.ended("att_pulse2")).end_cause == "completed"
        assert (tmp_path / "count").read_text() == "x\n"

    play(tmp_path / "run", story, look_s=NEVER)


def test_a_cancel_reaches_a_stopped_supervisor_at_once(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        await made.start("att_pulse1", "sleep 300")
        await until(lambda: made.recorded("att_pulse1"))
        await stop_process(made.supervisor("att_pulse1"))
        await made.runner.stop("att_pulse1", 0, StopRequest("cancelled", 0))
        report = await made.ended("att_pulse1")
        assert (report.end_cause, report.signal, report.message) == ("cancelled", 9, "")

    play(tmp_path, story, look_s=NEVER)


@pytest.mark.parametrize("how", ["time limit", "stop"])
def test_a_job_whose_supervisor_hangs_ends_all_the_same_with_the_cause_that_was_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Waking is taken away, so that the stopped supervisor stands for one that hangs."""
    plain = os.kill
    monkeypatch.setattr(
        os, "kill", lambda pid, number: None if number == signal.SIGCONT else plain(pid, number)
    )
    monkeypatch.setattr("bursar_agent.runner.stopping.signal_supervisor", lambda dir_fd: None)
    limit: dict[str, Any] = {"time_limit_us": 100_000, "grace_us": 0} if how == "time limit" else {}

    async def story(made: Bench) -> None:
        await made.start(
            "att_pulse1", "echo $$; setsid sh -c 'trap \"\" TERM; sleep 300' & sleep 300", **limit
        )
        job = int(await made.log_line("att_pulse1"))
        first = made.supervisor("att_pulse1")
        await until(lambda: len(descendants(first)) >= 3)
        plain(first, signal.SIGSTOP)
        await until(lambda: stopped(first))
        below = descendants(first)
        if how == "stop":
            await made.runner.stop("att_pulse1", 0, StopRequest("budget", 0))
        report = await made.ended("att_pulse1")
        assert (report.end_cause, report.exit_code) == ({"stop": "budget"}.get(how, "time_limit"), None)
        assert report.message == "supervisor lost; the job's processes were killed"
        assert job in below
        assert [pid for pid in [first, *below] if alive(pid)] == []

    play(tmp_path, story, look_s=0.02, overdue_us=0)


def test_a_supervisor_with_no_promise_broken_is_left_alone(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        gate = f"until [ -e {tmp_path}/gate ]; do sleep 0.01; done"
        await made.start("att_pulse1", gate, time_limit_us=3_600_000_000)
        await made.start("att_pulse2", gate)
        looks = 0
        plain = made.runner._overdue.look

        def counted(*args: Any) -> None:
            nonlocal looks
            looks += 1
            plain(*args)

        made.runner._overdue.look = counted  # type: ignore[method-assign]
        await until(lambda: looks > 20)
        (tmp_path / "gate").touch()
        for attempt in ("att_pulse1", "att_pulse2"):
            assert (await made.ended(attempt)).end_cause == "completed"

    play(tmp_path / "run", story, look_s=0.01, overdue_us=0)


def test_a_launcher_that_holds_the_lock_and_never_listens_is_killed(tmp_path: Path) -> None:
    """
    1. A process takes the launcher's lock as a launcher does, and does nothing more.
    2. The first start wakes it, kills it, starts a launcher and runs.
    """
    hold = (
        "import fcntl,os,sys; fd=os.open(sys.argv[1],os.O_RDWR|os.O_CREAT,0o600); "
        "fcntl.lockf(fd,fcntl.LOCK_EX); print('held',flush=True); sys.stdin.read()"
    )

    async def story(made: Bench) -> None:
        pipe = asyncio.subprocess.PIPE
        holder = await asyncio.create_subprocess_exec(
            "python3", "-c", hold, str(made.directory / "launcher.lock"), stdin=pipe, stdout=pipe
        )
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"held\n"
        assert (await made.run("att_pulse1", "true")).end_cause == "completed"
        assert await holder.wait() == -signal.SIGKILL

    play(tmp_path, story, answer_s=1.0, look_s=NEVER)


def test_a_start_that_no_launcher_answers_is_refused_in_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither waking nor killing helps, as with a process in an endless wait of the kernel."""
    monkeypatch.setattr(pulse, "signal_launcher", lambda run_fd, number: None)

    async def story(made: Bench) -> None:
        launcher = await made.launcher_pid()
        await stop_process(launcher)
        try:
            with pytest.raises((BursarError, OSError)):
                await made.runner.start([request("att_pulse1", "true")])
        finally:
            os.kill(launcher, signal.SIGCONT)

    play(tmp_path, story, answer_s=0.02, look_s=NEVER)
