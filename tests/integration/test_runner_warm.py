"""One supervisor's process for one attempt after another: what it must not carry over, nor lose dying.

Why     a process that is used again saves more than the job's own cost, and each promise of the runner (at
        most once, true exits, nothing left, nothing lost) must hold also between two attempts.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from pathlib import Path

import pytest

from bursar_agent.probes.process import ProcessTrees
from bursar_agent.runner import truth, worker
from bursar_agent.runner.model import Started, StopRequest
from bursar_agent.runner.testing import Bench, alive, bench, name_of, play, request, until
from bursar_agent.runner.tree import descendants

TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")


async def supervisors(made: Bench) -> list[int]:
    """Pids of the supervisors of this launcher, at work or idle."""
    return [pid for pid in descendants(await made.launcher_pid()) if name_of(pid) == "bursar-attempt"]


async def idle(made: Bench, attempt: str) -> int:
    """The pid of the one supervisor, once it and the launcher have let the ended attempt go."""
    run_fd = os.open(made.directory, os.O_RDONLY)
    dir_fd = truth.open_member(run_fd, attempt, 0)
    try:
        await until(lambda: not truth.supervisor_lives(dir_fd))
    finally:
        os.close(dir_fd)
        os.close(run_fd)
    (pid,) = await supervisors(made)
    return pid


def test_a_clean_supervisor_takes_the_next_attempt_and_carries_nothing_over(tmp_path: Path) -> None:
    """Descriptors, signals, directory, variables, mask, session and usage are each attempt's own."""

    async def story(made: Bench) -> None:
        look = (
            "ls /proc/self/fd | tr '\\n' ' '; pwd; env | sort | tr '\\n' ' '; umask; "
            "grep -E 'SigBlk|SigIgn|SigPnd' /proc/self/status | tr '\\n' ' '; ulimit -a | md5sum"
        )
        burn = "import os; b = bytearray(90 << 20); os.umask(0); os.chdir('/tmp'); sum(range(3 * 10**6))"
        seen = []
        for attempt in ("att_1", "att_2", "att_3"):
            greedy = attempt == "att_2"
            script = f'LEFT=1 python3 -c "{burn}"; exit 3' if greedy else look
            report = await made.run(attempt, script, cwd="/usr", env={"OWN": "x"})
            assert (report.end_cause, report.exit_code) == (("failed", 3) if greedy else ("completed", 0))
            pid = await idle(made, attempt)
            seen.append((pid, report, made.runner.read_log(attempt, 0, 0, 1 << 16)[0].decode()))
        pids = {pid for pid, _, _ in seen}
        assert len(pids) == 1
        (_, first, before), (_, greedy_report, _), (_, last, after) = seen
        assert before.replace("att_1", "att_3") == after
        assert greedy_report.max_rss_bytes > 90 << 20 > last.max_rss_bytes
        assert greedy_report.cpu_user_us > last.cpu_user_us
        assert first.cpu_user_us + last.cpu_user_us < greedy_report.cpu_user_us

    play(tmp_path, story)


def test_the_time_of_earlier_attempts_is_not_in_the_counters_of_the_next(tmp_path: Path) -> None:
    """The kernel sums over all that a process ever waited for; the setup of this one belongs to it."""

    async def story(made: Bench) -> None:
        burn = "exec python3 -c 'import time\nwhile time.process_time() < {}: pass'"
        await made.run("att_1", burn.format(0.6))
        first = await idle(made, "att_1")
        assert await made.start("att_2", "exec sleep 60", setup=burn.format(0.2)) == "starting"

        def told() -> list[Started]:
            return [one for one in made.events if isinstance(one, Started) and one.attempt_id == "att_2"]

        await until(lambda: any(one.phase == "run" for one in told()))
        (found,) = [one for one in await made.runner.adopt() if one.attempt_id == "att_2"]
        assert found.pid is not None
        reading = ProcessTrees().read(found.pid, found.reaped_before_us)
        assert reading is not None
        assert made.supervisor("att_2") == first
        assert 200_000 <= reading.cpu_us + TICK_US < 600_000
        assert {one.reaped_before_us for one in told()} == {found.reaped_before_us}

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("script", "fields"),
    [
        ("setsid sh -c 'trap \"\" TERM; while :; do sleep 0.1; done' & exit 0", {}),
        ("sleep 60", {"time_limit_us": 100_000, "grace_us": 0}),
        ("true", {"uid": 65534, "gid": 65534}),
        ("true", {"cwd": "/no/such/place"}),
    ],
)
def test_a_supervisor_that_is_not_clean_takes_no_further_attempt(
    tmp_path: Path, script: str, fields: dict[str, object]
) -> None:
    if "uid" in fields and os.geteuid() != 0:
        pytest.skip("only root may become another user")

    async def story(made: Bench) -> None:
        await made.run("att_1", script, **fields)
        first = made.supervisor("att_1")
        await until(lambda: not alive(first))
        assert (await made.run("att_2", "true")).end_cause == "completed"
        assert made.supervisor("att_2") != first

    play(tmp_path, story)


def test_an_idle_supervisor_that_was_killed_costs_the_next_attempt_nothing(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        await made.run("att_0", "true")
        for number in range(1, 6):
            os.kill(await idle(made, f"att_{number - 1}"), signal.SIGKILL)
            count = tmp_path / f"count{number}"
            report = await made.run(f"att_{number}", f"echo x >> {count}")
            assert report.end_cause == "completed"
            assert count.read_text() == "x\n"

    play(tmp_path / "run", story)


def test_an_attempt_that_a_stopped_supervisor_never_took_is_run_once_by_another(tmp_path: Path) -> None:
    """
    1. A supervisor is idle, and stopped: it can take nothing, and looks alive.
    2. An attempt is given to it; then it is killed, with the attempt in its hands and not begun.
    3. Another supervisor runs it, once; it is neither lost nor told as failed.
    """

    async def story(made: Bench) -> None:
        await made.run("att_1", "true")
        first = await idle(made, "att_1")
        os.kill(first, signal.SIGSTOP)
        assert await made.start("att_2", f"echo x >> {tmp_path}/count") == "starting"
        assert not (tmp_path / "count").exists()
        os.kill(first, signal.SIGKILL)
        report = await made.ended("att_2")
        assert (report.end_cause, (tmp_path / "count").read_text()) == ("completed", "x\n")
        assert made.supervisor("att_2") != first

    play(tmp_path / "run", story)


def test_a_supervisor_killed_at_work_ends_its_attempt_and_its_earlier_ones_stay_as_they_were(
    tmp_path: Path,
) -> None:
    async def story(made: Bench) -> None:
        await made.run("att_1", "exit 4")
        first = await idle(made, "att_1")
        await made.start("att_2", "echo $$; setsid sleep 300 & sleep 300")
        job = int(await made.log_line("att_2"))
        assert made.supervisor("att_2") == first
        os.kill(first, signal.SIGKILL)
        report = await made.ended("att_2")
        assert report.message.startswith("supervisor lost")
        await until(lambda: not alive(job))
        truths = {t.attempt_id: t.exit for t in await made.runner.adopt()}
        assert truths["att_1"] is not None
        assert (truths["att_1"].exit_code, truths["att_2"]) == (4, report)
        assert (await made.run("att_3", "true")).end_cause == "completed"

    play(tmp_path, story)


def test_killing_launcher_and_supervisors_again_and_again_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Every attempt is told as ended exactly once, and none ran twice, whoever was killed when."""

    async def story(made: Bench) -> None:
        names = [f"att_{number}" for number in range(60)]
        for number, name in enumerate(names):
            await made.start(name, f"echo x >> {tmp_path}/{name}; exit 0")
            victims = await supervisors(made)
            if number % 7 == 3 and victims:
                os.kill(victims[number % len(victims)], signal.SIGKILL)
            if number % 20 == 19:
                os.kill(await made.launcher_pid(), signal.SIGKILL)
        for name in names:
            report = await made.ended(name)
            ran = (tmp_path / name).read_text() if (tmp_path / name).exists() else ""
            assert ran in ("", "x\n")
            assert ran == "x\n" or report.end_cause != "completed"
        assert len([e for e in made.events if type(e).__name__ == "Ended"]) == len(names)

    play(tmp_path / "run", story)


def test_an_end_that_the_agent_could_not_be_told_is_found_by_the_death_of_its_supervisor(
    tmp_path: Path,
) -> None:
    """
    1. The agent is busy and reads nothing; the kernel holds only a few messages for it.
    2. More attempts end than that.
    3. All are told once it reads again, the last one too, after which nothing else would wake it.
    """

    async def story(made: Bench) -> None:
        await made.run("att_first", "true")
        names = [f"att_{number}" for number in range(40)]
        sock = made.runner._socket
        assert sock is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(sock.fileno())
        await made.runner.start([request(name, "true") for name in names])
        for name in names:
            await until(lambda name=name: (made.dir(name) / "exit.json").exists())
            await until(lambda name=name: (made.dir(name) / "exit.json").stat().st_size > 1)
        loop.add_reader(sock.fileno(), made.runner._receive)
        for name in names:
            assert (await made.ended(name)).end_cause == "completed"

    play(tmp_path, story)


def test_a_stop_meant_for_an_earlier_attempt_does_not_reach_the_next_one(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        await made.run("att_1", "true")
        first = await idle(made, "att_1")
        await made.start("att_2", f"until [ -e {tmp_path}/go ]; do sleep 0.01; done; exit 5")
        await until(lambda: made.recorded("att_2"))
        await made.runner.stop("att_1", 0, StopRequest("cancelled", 0))
        os.kill(first, signal.SIGUSR1)
        (tmp_path / "go").touch()
        assert (await made.ended("att_2")).exit_code == 5

    play(tmp_path / "run", story)


def test_the_directory_of_a_forgotten_member_serves_another_and_tells_nothing_of_the_first(
    tmp_path: Path,
) -> None:
    async def story(made: Bench) -> None:
        await made.run("att_1", "exit 9", epoch=3)
        await idle(made, "att_1")
        inode = made.dir("att_1").stat().st_ino
        assert made.runner.release("att_1", 0)
        assert not made.dir("att_1").exists()
        assert not [t for t in await made.runner.adopt() if t.attempt_id == "att_1"]
        # Directories made ahead may serve before it.
        started = []
        while not started or made.dir(started[-1]).stat().st_ino != inode:
            assert len(started) < 10
            started.append(f"att_{2 + len(started)}")
            await made.start(started[-1], f"until [ -e {tmp_path}/go ]; do sleep 0.01; done")
        heir = started[-1]
        (found,) = [t for t in await made.runner.adopt() if t.attempt_id == heir]
        assert (found.epoch, found.exit) == (0, None)
        assert not made.runner.release(heir, 0)
        (tmp_path / "go").touch()
        report = await made.ended(heir)
        assert (report.attempt_id, report.exit_code) == (heir, 0)
        assert await made.start(heir, "true") == "already"

    play(tmp_path / "run", story)


def test_directories_are_made_ahead_once_nothing_is_asked_for(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        free = tmp_path / "run" / "free"
        await made.run("att_1", "echo said")
        inodes = {path.stat().st_ino for path in await until(lambda: two(free))}
        await made.run("att_2", "echo said too")
        assert made.dir("att_2").stat().st_ino in inodes
        assert (await made.ended("att_2")).exit_code == 0
        assert made.runner.read_log("att_2", 0, 0, 100)[0] == b"said too\n"
        await until(lambda: two(free))

    def two(free: Path) -> list[Path]:
        """Two whole ones: what is asked for next finds one, and it is made good."""
        found = [path for path in free.iterdir() if len(list(path.iterdir())) == 3]
        return found if len(found) == 2 else []

    play(tmp_path / "run", story)


def test_a_directory_made_ahead_that_is_not_whole_is_put_away(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        half = tmp_path / "run" / "free" / "made.1.1"
        await made.launcher_pid()
        half.mkdir()
        assert (await made.run("att_1", "exit 4")).exit_code == 4
        assert not half.exists()

    play(tmp_path / "run", story)


def test_a_member_with_something_to_read_is_not_released(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        await made.run("att_1", "echo said")
        assert not made.runner.release("att_1", 0)
        assert made.runner.read_log("att_1", 0, 0, 100)[0] == b"said\n"

    play(tmp_path, story)


def test_an_empty_checkpoint_directory_goes_and_one_with_a_checkpoint_stays(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"

    async def story(made: Bench) -> None:
        folder.mkdir()
        env = {"BURSAR_CHECKPOINT_DIR": "@checkpoint"}
        script = 'cd "$BURSAR_CHECKPOINT_DIR" && stat -c %a . && ls'
        for attempt, more, left in (
            ("att_1", "", []),
            ("att_2", "", []),
            ("att_3", "; chmod 777 .", []),
            ("att_4", "; echo x > saved", ["saved"]),
            ("att_5", "", []),
        ):
            where = str(folder / attempt)
            report = await made.run(attempt, script + more, env=env, checkpoint_dir=where)
            assert report.exit_code == 0
            assert made.runner.read_log(attempt, 0, 0, 99)[0] == b"700\n"
            assert sorted(os.listdir(where) if os.path.isdir(where) else []) == left  # noqa: ASYNC240
        assert os.listdir(folder) == ["att_4"]
        again = await made.run("att_6", script, env=env, checkpoint_dir=str(folder / "att_4"))
        assert again.exit_code == 0
        assert made.runner.read_log("att_6", 0, 0, 99)[0] == b"700\nsaved\n"

    play(tmp_path / "run", story)


def test_a_checkpoint_directory_that_cannot_be_made_fails_the_start_and_names_it(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        env = {"BURSAR_CHECKPOINT_DIR": "@checkpoint"}
        report = await made.run("att_1", "true", env=env, checkpoint_dir="/proc/none/att_1")
        assert report.end_cause == "start_failed"
        assert "/proc/none/att_1" in report.message

    play(tmp_path, story)


def test_what_a_job_is_started_with_is_in_no_file(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        secret = "canary-4711"
        await made.start("att_1", f"until [ -e {tmp_path}/go ]; do sleep 0.01; done", env={"TOKEN": secret})
        await until(lambda: made.recorded("att_1"))
        written = [p.read_bytes() for p in made.directory.rglob("*") if p.is_file()]
        (tmp_path / "go").touch()
        await made.ended("att_1")
        written += [p.read_bytes() for p in made.directory.rglob("*") if p.is_file()]
        assert written
        assert not [data for data in written if secret.encode() in data]

    play(tmp_path / "run", story)


def test_a_new_release_of_the_launcher_takes_over_from_one_of_the_first_protocol(tmp_path: Path) -> None:
    """The old one is told to go; what it started is adopted from its files, which have not changed."""

    async def old_launcher(sock: socket.socket, told: list[bytes]) -> None:
        loop = asyncio.get_running_loop()
        connection, _ = await loop.sock_accept(sock)
        hello = json.dumps({"protocol": 1, "pid": 1, "boot_id": "b"}).encode()
        await loop.sock_sendall(connection, len(hello).to_bytes(4, "little") + hello)
        told.append(await loop.sock_recv(connection, 4096))
        sock.close()
        (tmp_path / "launcher.sock").unlink()
        await loop.sock_sendall(connection, (2).to_bytes(4, "little") + b"{}")
        connection.close()

    async def story() -> None:
        told: list[bytes] = []
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(tmp_path / "launcher.sock"))
        sock.listen()
        sock.setblocking(False)
        playing = asyncio.create_task(old_launcher(sock, told))
        async with bench(tmp_path) as made:
            assert (await made.run("att_1", "true")).end_cause == "completed"
        await playing
        assert b"shutdown" in told[0]

    asyncio.run(story())


def test_a_note_of_what_was_taken_is_read_as_it_was_written() -> None:
    notes = worker.TakenNotes()
    notes.put(3, 1 << 40)
    notes.put(worker.WORKERS_MAX - 1, 7)
    assert [notes.get(slot) for slot in (2, 3, 4, worker.WORKERS_MAX - 1)] == [0, 1 << 40, 0, 7]


def test_an_attempt_larger_than_a_socket_buffer_reaches_the_supervisor_whole(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        env = {f"LONG_{number}": "x" * 100_000 for number in range(12)}
        report = await made.run("att_1", "echo ${#LONG_11}", env=env)
        assert (report.exit_code, made.runner.read_log("att_1", 0, 0, 99)[0]) == (0, b"100000\n")

    play(tmp_path, story)


def test_members_of_the_first_release_are_read_as_they_were_written(tmp_path: Path) -> None:
    """start.json and exit.json of an attempt that ran under the supervisor of schema 1."""
    folder = tmp_path / "attempts" / "att_1.0"
    folder.mkdir(parents=True)
    written = {
        "attempt_id": "att_1", "rank": 0, "epoch": 1, "exit_code": 3, "signal": None, "end_cause": "failed",
        "message": "", "phase": "run", "signal_sent_at": None, "term_sent_at": None, "kill_sent_at": None,
        "boot_id": "b", "start_boot_us": 10, "end_boot_us": 30, "held_us": 20, "cpu_user_us": 5,
        "cpu_system_us": 6, "max_rss_bytes": 7, "log_bytes": 8, "log_dropped_bytes": 0,
    }  # fmt: skip
    mark = {"attempt_id": "att_1", "rank": 0, "epoch": 1, "boot_id": "b", "log_cap_bytes": 4096}
    (folder / "starting").write_text(json.dumps(mark))
    (folder / "exit.json").write_text(json.dumps(written))
    run_fd = os.open(tmp_path, os.O_RDONLY)
    dir_fd = truth.open_member(run_fd, "att_1", 0)
    try:
        found = truth.member_truth(dir_fd, "att_1", 0)
        assert found.exit is not None
        later = {
            "main_end_boot_us": None,
            "stopped": False,
            "unbegun": False,
            "image_digest": "",
            "pull_us": 0,
        }
        assert found.exit.to_json() == written | later
    finally:
        os.close(dir_fd)
        os.close(run_fd)
