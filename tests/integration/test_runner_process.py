"""Real processes through `ProcessRunner`: starts, exits, stops, and crashes of everybody.

Why     these promises (at most once, true exits, nothing left) hold only if the kernel agrees.
Waits by `bursar_agent.runner.testing`; never sleeps for a guess.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bursar.errors import InvalidRequest, NotFound, WrongState
from bursar_agent.cgroups import limited
from bursar_agent.runner.handle import ProcessRunner
from bursar_agent.runner.model import (
    Ended,
    Started,
    StopRequest,
)
from bursar_agent.runner.testing import Bench, alive, bench, marker, name_of, play, request, until
from bursar_agent.runner.tree import descendants


@pytest.mark.parametrize(
    ("fields", "cause", "code", "number"),
    [
        ({"script": "exit 0"}, "completed", 0, None),
        ({"script": "exit 7"}, "failed", 7, None),
        ({"script": "kill -SEGV $$"}, "failed", None, 11),
        ({"script": "kill -KILL $$"}, "failed", None, 9),
        ({"argv": ["sh", "-c", "exit 3"]}, "failed", 3, None),
        ({"argv": ["no-such-tool", "x"]}, "failed", 127, None),
        ({"argv": ["/etc/passwd"]}, "failed", 126, None),
        ({"script": "exit 0", "setup": "exit 4"}, "failed", 4, None),
    ],
)
def test_exit_is_reported_as_it_was(
    tmp_path: Path, fields: dict[str, Any], cause: str, code: int | None, number: int | None
) -> None:
    async def story(made: Bench) -> None:
        report = await made.run("att_1", **fields)
        assert (report.end_cause, report.exit_code, report.signal) == (cause, code, number)
        assert report.held_us == (report.end_boot_us or 0) - (report.start_boot_us or 0)
        if code == 127:
            assert report.message == "no such command: no-such-tool"
        assert report.phase == ("setup" if "setup" in fields else "run")
        assert [type(e) for e in made.events][-1] is Ended

    play(tmp_path, story)


def test_what_a_script_leaves_in_the_background_is_counted_where_it_does_work(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        for number, (script, told) in enumerate((
            ("sleep 300 & (sleep 300; echo late) & exit 0", "left in the background"),
            (f"cd {tmp_path}; exec > >(tee out) 2>&1\nuntil [ -e out ]; do :; done", ""),
            ("sleep 0 & wait", ""),
            ("sleep 300 & exit 3", ""),
        )):  # fmt: skip
            report = await made.run(f"att_{number}", script=script)
            assert report.message.lstrip("0123456789 ") == told
        report = await made.run("att_csh", script="#!/bin/nosuchshell -f\necho a")
        assert (report.end_cause, report.exit_code) == ("failed", 127)
        assert report.message == "the interpreter /bin/nosuchshell of its first line is not there"

    play(tmp_path, story)


def test_missing_working_directory_fails_the_job_and_is_named(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        report = await made.run("att_1", "true", cwd="/no/such/place")
        assert (report.end_cause, report.exit_code) == ("failed", 126)
        assert "/no/such/place" in report.message

    play(tmp_path, story)


def test_whatever_a_job_names_that_cannot_be_started_is_its_own_failure(tmp_path: Path) -> None:
    """By both ways in: posix_spawn, and the fork for another user."""
    loop, short = tmp_path / "loop", tmp_path / "short"
    loop.symlink_to(loop)
    short.write_bytes(Path("/bin/sh").read_bytes()[:100])
    short.chmod(0o755)
    named: list[dict[str, Any]] = [
        {"argv": [f"/tmp/{'a' * 300}"]},
        {"argv": ["b" * 5_000]},
        {"argv": [str(loop)]},
        {"argv": [str(short)]},
        {"argv": [f"{loop}/x"]},
        {"argv": ["/"]},
        {"argv": ["/bin/true", "x" * 200_000]},
        {"argv": ["/bin/true"], "env": {"X": "x" * 200_000}},
        {"argv": ["/bin/true"], "env": {"A=B": "x"}},
        {"argv": ["/bin/true"], "cwd": f"/{'c' * 800}"},
        {"argv": ["/bin/true"], "cwd": str(loop)},
        {"argv": ["/bin/true"], "cwd": "/bin/sh"},
        {"script": f"#!{loop}\n"},
    ]

    async def story(made: Bench) -> None:
        for uid in (None, 65534) if os.geteuid() == 0 else (None,):
            ends = [
                await made.run(f"att_{number}u{uid or 0}", uid=uid, gid=uid, **fields)
                for number, fields in enumerate(named)
            ]
            assert [(end.end_cause, end.exit_code) for end in ends] == [
                ("failed", 127 if number == 1 else 126) for number in range(len(named))
            ]
            assert max(len(end.message) for end in ends) < 300

    play(tmp_path, story)


def test_run_directory_may_be_longer_than_a_socket_address(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        assert (await made.run("att_1", "true")).end_cause == "completed"
        assert (
            made.directory.stat().st_mode & 0o777,
            made.dir("att_1").stat().st_mode & 0o777,
        ) == (0o700, 0o700)

    play(tmp_path / ("d" * 100) / ("e" * 100), story)


def test_setup_runs_first_into_the_same_log(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        wait = "until [ -e $GATE.$PHASE ]; do sleep 0.01; done"
        env = {"WHO": "me", "GATE": str(tmp_path / "gate")}
        setup, script = f"PHASE=setup; echo one; {wait}", f"PHASE=run; echo two $WHO; echo err >&2; {wait}"
        await made.start("att_1", script, setup=setup, env=env)
        for count, phase in enumerate(("setup", "run"), 1):
            await until(lambda count=count: sum(isinstance(e, Started) for e in made.events) == count)
            (tmp_path / f"gate.{phase}").touch()
        assert (await made.ended("att_1")).end_cause == "completed"
        assert made.runner.read_log("att_1", 0, 0, 100) == (b"one\ntwo me\nerr\n", 15, 0)
        assert [e.phase for e in made.events if isinstance(e, Started)] == ["setup", "run"]
        assert (made.dir("att_1") / "log").stat().st_mode & 0o777 == 0o600

    play(tmp_path, story)


def test_second_start_of_a_member_executes_nothing(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        once = request("att_1", f"echo x >> {tmp_path}/count; sleep 60")
        states = [r.state for r in await made.runner.start([once, once])]
        assert states == ["starting", "already"]
        await until(lambda: (tmp_path / "count").exists() and (tmp_path / "count").read_text())
        assert await made.start("att_1", "echo again") == "already"
        await made.runner.stop("att_1", 0, StopRequest("cancelled", 0))
        assert (await made.ended("att_1")).end_cause == "cancelled"
        assert await made.start("att_1", "echo again") == "already"
        assert (tmp_path / "count").read_text() == "x\n"

    play(tmp_path / "run", story)


def test_nothing_of_the_agents_environment_reaches_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_SECRET", "s3cret")
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", "") + ":/agent/only")

    async def story(made: Bench) -> None:
        await made.run("att_1", argv=["env"], env={"TOKEN": "for-the-job"})
        lines = made.runner.read_log("att_1", 0, 0, 1 << 16)[0].decode().split("\n")
        names = {line.split("=")[0] for line in lines if "=" in line}
        assert "TOKEN=for-the-job" in lines
        allowed = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR"}
        assert names <= allowed | {"TOKEN", "BURSAR_ATTEMPT", "BURSAR_ATTEMPT_MEMBER", "BURSAR_PROGRESS_FILE"}
        for path in made.directory.rglob("*"):
            if path.is_file() and path.name != "log":
                assert b"for-the-job" not in path.read_bytes()

    play(tmp_path, story)


PYTHON_SCRIPT = """#!/usr/bin/env python3
import os, sys
print([1, 2][-1], sys.argv[1:], os.getcwd(), oct(os.stat(__file__).st_mode & 0o777))
"""


@pytest.mark.parametrize(
    ("script", "line"),
    [
        (PYTHON_SCRIPT, "2 [] /usr 0o700"),
        ("#!/bin/bash -e\nset -- a 'b c'\nfalse\necho after", ""),
        ("#! /bin/bash\nset -- a 'b c'\necho ran $2 in $PWD; false; true", "ran b c in /usr"),
        ("#!/usr/bin/env -S python3 -E\nimport sys; print(sys.flags.ignore_environment)", "1"),
        ("#!/bin/sh\r\necho carriage #", "carriage"),
        ("# no interpreter\necho ${BASH_VERSION:+bash}", "bash"),
    ],
)
def test_a_script_is_run_by_the_interpreter_of_its_first_line(tmp_path: Path, script: str, line: str) -> None:
    async def story(made: Bench) -> None:
        report = await made.run("att_1", script, cwd="/usr", setup="true")
        assert report.exit_code == (0 if line else 1)
        assert made.runner.read_log("att_1", 0, 0, 4096)[0].decode().strip() == line

    play(tmp_path, story)


def test_a_script_reads_itself_as_it_was_given_and_its_words_beside_it(tmp_path: Path) -> None:
    words = ("a b", "$x", "it's", "", "line\nend")

    async def story(made: Bench) -> None:
        for number, first in enumerate(("#!/bin/bash", "#!/usr/bin/env python3", "# no interpreter")):
            shown = "import sys; sys.stdout.write(open(sys.argv[0]).read() + repr(sys.argv[1:]))"
            shell = 'cat "$0"; printf "%q " "$@"' if first == "#!/bin/bash" else 'printf "%q " "$@"'
            text = f"{first}\n{shown if 'python' in first else shell}\n"
            await made.run(f"att_{number}", text, arguments=words, cwd="/usr")
            told = made.runner.read_log(f"att_{number}", 0, 0, 4096)[0].decode()
            quoted = repr(list(words)) if "python" in first else "a\\ b \\$x it\\'s '' $'line\\nend' "
            assert told == (quoted if first.startswith("# ") else text + quoted)

    play(tmp_path, story)


@pytest.mark.parametrize("shell", ["", "#!/bin/sh\n", "#!/usr/bin/env python3\n"])
def test_no_text_of_a_job_stands_in_any_command_line_while_it_runs(tmp_path: Path, shell: str) -> None:
    """1. Neither of its setup nor of its script, in no process. 2. Both are files of its account alone, and
    gone with it, so that its directory can be used again.
    """
    secret, gates = f"canary-{os.getpid()}-{len(shell)}", [tmp_path / "1", tmp_path / "2"]
    waits = "until test -e {}; do sleep 0.02; done"
    if "python" in shell:
        waits = "import os, time\nwhile not os.path.exists('{}'): time.sleep(0.02)"
    setup = f"touch {gates[0]}.on # {secret}\nuntil test -e {gates[0]}; do sleep 0.02; done"
    begins = f"open('{gates[1]}.on', 'w')" if "python" in shell else f"touch {gates[1]}.on"
    script = f"{shell}{begins} # {secret}\n{waits.format(gates[1])}"

    async def story(made: Bench) -> None:
        await made.runner.start([request("att_1", script, setup=setup)])
        folder = made.dir("att_1")
        for gate, name in zip(gates, ("setup", "script"), strict=True):
            await until(Path(f"{gate}.on").exists)
            assert secrets_in_sight(secret) == []
            assert secret in (folder / name).read_text()
            assert (folder / name).stat().st_mode & 0o077 == 0
            gate.touch()
        await until(lambda: isinstance(made.events[-1], Ended))
        assert not {"setup", "script"} & {path.name for path in folder.iterdir()}

    play(tmp_path, story)


def secrets_in_sight(secret: str) -> list[str]:
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if secret.encode() in place.read_bytes() and int(place.parent.name) != os.getpid():
                found.append(place.parent.name)
    return found


def test_a_script_whose_interpreter_is_missing_says_so(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        report = await made.run("att_1", "#!/opt/none/perl -w\nprint 1")
        assert (report.end_cause, report.exit_code) == ("failed", 127)
        assert "/opt/none/perl" in report.message

    play(tmp_path, story)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start jobs of others")
def test_a_script_of_another_user_is_private_to_that_user_and_gone_afterwards(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        text = "#!/bin/sh\nid -u; stat -c '%u %a' $0; echo $0"
        report = await made.run("att_1", text, uid=65534, gid=65534)
        assert report.exit_code == 0, report
        user, mode, path = made.runner.read_log("att_1", 0, 0, 4096)[0].decode().splitlines()
        assert (user, mode) == ("65534", "65534 700")
        assert not os.path.exists(path)  # noqa: ASYNC240

    play(tmp_path, story)


def test_job_gets_no_descriptor_and_no_blocked_signal(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        report = await made.run(
            "att_1",
            argv=["sh", "-c", "ls /proc/self/fd; grep -E 'SigBlk|SigIgn' /proc/self/status"],
        )
        text = made.runner.read_log("att_1", 0, 0, 4096)[0].decode()
        assert report.exit_code == 0
        assert text.split("SigBlk")[0].split() == ["0", "1", "2", "3"]  # 3 is the listing itself
        assert "SigBlk:\t0000000000000000" in text
        ignored = int(text.split("SigIgn:")[1].split()[0], 16)
        assert ignored & ~(0b11 << 31) == 0  # 32 and 33 belong to the C library

    play(tmp_path, story)


def test_time_limit_kills_a_job_that_ignores_every_request(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        report = await made.run(
            "att_1",
            "trap '' TERM USR1; while :; do sleep 0.05; done",
            time_limit_us=300_000,
            grace_us=200_000,
        )
        assert (report.end_cause, report.signal) == ("time_limit", 9)
        assert report.start_boot_us is not None
        assert report.term_sent_at is not None
        assert report.kill_sent_at is not None
        assert report.term_sent_at - report.start_boot_us >= 300_000
        assert report.kill_sent_at - report.term_sent_at >= 200_000
        assert (report.held_us or 0) < 5_000_000

    play(tmp_path, story)


def test_checkpoint_signal_reaches_the_trainer_and_spares_its_shell(tmp_path: Path) -> None:
    """A script of several lines: the shell has no handler and must survive its child's signal."""
    trainer = (
        "import os,signal,sys,time\n"
        "signal.signal(signal.SIGUSR1, lambda *_: (os.write(1, b'saved\\n'), sys.exit(0)))\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(1)\n"
    )

    async def story(made: Bench) -> None:
        program = tmp_path / "t.py"
        program.write_text(trainer)
        await made.start("att_1", f"python3 {program}\necho shell went on")
        await made.log_has("att_1", b"ready")
        await made.runner.stop("att_1", 0, StopRequest("preempted", 15_000_000, "USR1"))
        report = await made.ended("att_1")
        assert (report.end_cause, report.exit_code) == ("preempted", 0)
        assert report.signal_sent_at is not None
        assert report.term_sent_at is None
        assert made.runner.read_log("att_1", 0, 0, 100)[0] == b"ready\nsaved\nshell went on\n"

    play(tmp_path / "run", story)


def test_grace_after_the_checkpoint_signal_ends_in_term_then_kill(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        await made.start("att_1", "trap 'echo got' USR1; trap '' TERM; echo up; while :; do sleep 0.05; done")
        await made.log_has("att_1", b"up")
        await made.runner.stop("att_1", 0, StopRequest("budget", 300_000, "USR1"))
        report = await made.ended("att_1")
        assert (report.end_cause, report.signal) == ("budget", 9)
        signalled, termed, killed = report.signal_sent_at, report.term_sent_at, report.kill_sent_at
        assert signalled is not None
        assert termed is not None
        assert killed is not None
        assert termed - signalled >= 300_000
        # Counted from the signal: how late the TERM went out on a loaded machine does not delay the end.
        assert killed - signalled >= 2_300_000
        assert killed > termed
        assert b"got" in made.runner.read_log("att_1", 0, 0, 100)[0]

    play(tmp_path, story)


def test_later_stop_hastens_but_never_delays(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        await made.start("att_1", "trap '' TERM; echo up; while :; do sleep 0.05; done")
        await made.log_has("att_1", b"up")
        await made.runner.stop("att_1", 0, StopRequest("preempted", 3_600_000_000))
        await made.runner.stop("att_1", 0, StopRequest("budget", 0))
        await made.runner.stop("att_1", 0, StopRequest("cancelled", 3_600_000_000))
        report = await made.ended("att_1")
        assert (report.end_cause, report.signal) == ("preempted", 9)

    play(tmp_path, story)


def test_daemonised_child_dies_with_its_job(tmp_path: Path) -> None:
    """setsid and a double fork: out of session and group, away from its parent; ignores TERM."""

    async def story(made: Bench) -> None:
        await made.start(
            "att_1",
            "setsid bash -c \"trap '' TERM; (while :; do sleep 0.1; done) & echo \\$!; exit\"\nexit 5",
        )
        daemon = int(await made.log_line("att_1"))
        report = await made.ended("att_1")
        assert not alive(daemon)
        assert (report.end_cause, report.exit_code) == ("failed", 5)
        assert report.kill_sent_at is not None

    play(tmp_path, story)


def test_log_bomb_keeps_head_and_tail_and_says_what_is_missing(tmp_path: Path) -> None:
    cap = 1 << 20

    async def story(made: Bench) -> None:
        report = await made.run("att_1", "seq 1 2000000", log_cap_bytes=cap)
        total = sum(len(str(n)) + 1 for n in range(1, 2_000_001))
        assert report.log_bytes == total
        on_disk = sum(p.stat().st_size for p in made.dir("att_1").glob("log*"))
        assert on_disk <= cap + 200
        offset, kept, dropped = 0, [], 0
        while True:
            data, offset, gap = made.runner.read_log("att_1", 0, offset, 100_000)
            dropped += gap
            if not data:
                break
            kept.append(data)
        text = b"".join(kept)
        assert offset == total
        assert len(text) + dropped == total
        assert dropped == report.log_dropped_bytes > 0
        assert text.startswith(b"1\n2\n")
        assert text.endswith(b"1999999\n2000000\n")
        assert b"%020d bytes dropped" % dropped in (made.dir("att_1") / "log").read_bytes()

    play(tmp_path, story)


def test_new_agent_adopts_what_runs_and_what_ended_meanwhile(tmp_path: Path) -> None:
    """1 three jobs start. 2 the agent goes. 3 one job ends. 4 a new agent adopts, stops one."""

    async def story() -> None:
        first = Bench(tmp_path)
        await first.runner.open()
        for name in ("att_1", "att_2", "att_3"):
            await first.start(
                name,
                f"echo up; while [ ! -e {tmp_path}/{name}.go ]; do sleep 0.02; done; exit 6",
                epoch=9,
            )
            await first.log_has(name, b"up")
        await first.runner.close()
        (tmp_path / "att_1.go").touch()
        await until((first.dir("att_1") / "exit.json").exists)
        async with bench(tmp_path) as second:
            truths = {t.attempt_id: t for t in await second.runner.adopt()}
            assert {n: t.state for n, t in truths.items()} == {
                "att_1": "ended",
                "att_2": "running",
                "att_3": "running",
            }
            ended = truths["att_1"].exit
            assert ended is not None
            assert (ended.exit_code, truths["att_2"].epoch) == (6, 9)
            (tmp_path / "att_2.go").touch()
            assert (await second.ended("att_2")).exit_code == 6
            await second.runner.stop("att_3", 0, StopRequest("cancelled", 5_000_000))
            assert (await second.ended("att_3")).end_cause == "cancelled"
            assert await second.start("att_2", "true") == "already"

    asyncio.run(story())


def test_jobs_and_reports_survive_the_launchers_death(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        await made.start("att_1", "echo up; sleep 60")
        await made.start("att_2", f"echo up; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; exit 3")
        await made.log_has("att_1", b"up")
        await made.log_has("att_2", b"up")
        launcher = await made.launcher_pid()
        os.kill(launcher, signal.SIGKILL)
        await until(lambda: not alive(launcher))
        (tmp_path / "go").touch()
        assert (await made.ended("att_2")).exit_code == 3
        assert (await made.run("att_4", "exit 4")).exit_code == 4
        assert await made.launcher_pid() != launcher
        await made.runner.stop("att_1", 0, StopRequest("cancelled", 5_000_000))
        report = await made.ended("att_1")
        assert (report.end_cause, report.signal) == ("cancelled", 15)

    play(tmp_path / "run", story)


@pytest.mark.parametrize("launcher_too", [False, True])
def test_lost_supervisor_is_told_and_its_processes_are_gone(tmp_path: Path, launcher_too: bool) -> None:
    async def story(made: Bench) -> None:
        await made.start("att_1", "setsid sleep 300 & echo $!; echo $$; sleep 300")
        pids = [int(await made.log_line("att_1", 0)), int(await made.log_line("att_1", 1))]
        if launcher_too:
            os.kill(await made.launcher_pid(), signal.SIGKILL)
        os.kill(made.supervisor("att_1"), signal.SIGKILL)
        report = await made.ended("att_1")
        assert report.end_cause == "failed"
        assert report.message.startswith("supervisor lost")
        assert not any(alive(pid) for pid in pids)
        assert await made.start("att_1", "true") == "already"

    play(tmp_path, story)


def test_launcher_finds_leftovers_that_cleared_their_environment(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        await made.start("att_1", "env -i setsid /bin/sleep 300 & echo up; sleep 300")
        await made.log_has("att_1", b"up")
        tree = await until(lambda: _sleepers_below(made.supervisor("att_1"), 2))
        os.kill(made.supervisor("att_1"), signal.SIGKILL)
        await made.ended("att_1")
        await until(lambda: not any(alive(pid) for pid in tree))

    play(tmp_path, story)


def test_supervisor_lost_while_no_agent_looked_is_found_at_adoption(tmp_path: Path) -> None:
    async def story() -> None:
        first = Bench(tmp_path)
        await first.runner.open()
        await first.start("att_1", "echo $$; sleep 300")
        job = int(await first.log_line("att_1"))
        await first.runner.close()
        supervisor = first.supervisor("att_1")
        os.kill(supervisor, signal.SIGKILL)
        await until(lambda: not alive(supervisor))
        async with bench(tmp_path) as second:
            (truth,) = await second.runner.adopt()
            # Between its death and its reaping the launcher still holds its lock: then the end follows.
            end = truth.exit if truth.state == "ended" else await second.ended("att_1")
            assert end is not None
            assert end.message.startswith("supervisor lost")
            assert not alive(job)

    asyncio.run(story())


def test_attempt_of_an_earlier_boot_is_a_lost_node(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        directory = made.dir("att_1")
        directory.mkdir()
        mark = {
            "attempt_id": "att_1",
            "rank": 0,
            "epoch": 3,
            "boot_id": "another",
            "log_cap_bytes": 4096,
        }
        (directory / "starting").write_text(json.dumps(mark))
        (truth,) = await made.runner.adopt()
        assert truth.exit is not None
        assert (truth.exit.end_cause, truth.exit.held_us, truth.epoch) == ("node_lost", None, 3)

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("taken", "stopped", "cause"),
    [(1, False, "node_lost"), (1, True, "cancelled"), (2, False, "failed")],
)
def test_a_supervisor_lost_before_any_process_of_its_job_is_no_failure_of_the_job(
    tmp_path: Path, taken: int, stopped: bool, cause: str
) -> None:
    async def story(made: Bench) -> None:
        directory = made.dir("att_1")
        directory.mkdir()
        (directory / "starting").write_text(json.dumps({"taken": taken, "attempt_id": "att_1", "rank": 0}))
        if stopped:
            stop = {"cause": "cancelled", "signal": None, "grace_us": 0, "asked_at": 1}
            (directory / "stop.json").write_text(json.dumps(stop))
        (truth,) = await made.runner.adopt()
        assert truth.exit is not None
        assert (truth.exit.end_cause, truth.exit.start_boot_us) == (cause, None)
        assert truth.exit.message == "supervisor lost while the job was being started"

    play(tmp_path, story)


def test_forget_removes_ended_members_only(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        await made.start("att_1", "sleep 60")
        with pytest.raises(WrongState, match="stop it first"):
            made.runner.forget("att_1", 0)
        await made.runner.stop("att_1", 0, StopRequest("cancelled", 0))
        await made.ended("att_1")
        made.runner.forget("att_1", 0)
        assert not made.dir("att_1").exists()
        with pytest.raises(NotFound):
            made.runner.forget("att_1", 0)

    play(tmp_path, story)


def test_an_id_never_becomes_a_foreign_path(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        for bad in ("../../etc", "att_1/../x", "att_", "ATT_1", "att_1\n", "att_" + "a" * 41, ""):
            with pytest.raises(InvalidRequest):
                await made.start(bad, "true")
            with pytest.raises(InvalidRequest):
                made.runner.read_log(bad, 0, 0, 1)

    play(tmp_path, story)


def test_stop_right_after_start_is_not_lost(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        for number in range(20):
            name = f"att_{number}"
            await made.start(name, "sleep 60")
            await made.runner.stop(name, 0, StopRequest("cancelled", 0))
        for number in range(20):
            assert (await made.ended(f"att_{number}")).end_cause == "cancelled"

    play(tmp_path, story)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_job_runs_as_the_user_it_asks_for(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        report = await made.run("att_1", "id -u; id -g; grep SigBlk /proc/self/status", uid=65534, gid=65534)
        assert report.exit_code == 0
        assert made.runner.read_log("att_1", 0, 0, 100)[0] == b"65534\n65534\nSigBlk:\t0000000000000000\n"
        missing = await made.run("att_2", argv=["no-such-tool"], uid=65534, gid=65534)
        assert (missing.exit_code, missing.message) == (127, "no such command: no-such-tool")
        nowhere = await made.run("att_3", "true", uid=65534, gid=65534, cwd="/no/such/place")
        assert (nowhere.end_cause, nowhere.exit_code) == ("failed", 126)

    play(tmp_path, story)


def test_memory_limit_is_enforced_and_named_where_a_cgroup_can_be_made(tmp_path: Path) -> None:
    root = _memory_cgroup()
    if root is None:
        pytest.skip("no writable memory cgroup on this machine")

    async def story() -> None:
        made = Bench(tmp_path)
        made.runner = ProcessRunner(tmp_path, made.events.append, cgroup_root=str(root))
        await made.runner.open()
        try:
            os.mkfifo(tmp_path / "gate")
            greedy = "import os; b = bytearray(200 << 20); print(len(b))"
            report = await made.run("att_1", argv=["python3", "-c", greedy], memory_limit_bytes=64 << 20)
            assert (report.end_cause, report.signal) == ("out_of_memory", 9)
            assert str(64 << 20) in report.message
            await made.start("att_2", f"read line < {tmp_path}/gate", memory_limit_bytes=64 << 20)
            await until(lambda: made.recorded("att_2"))
            assert json.loads((made.dir("att_2") / "start.json").read_text())["memory_enforced"] is True
            (tmp_path / "gate").write_text("go\n")
            assert (await made.ended("att_2")).end_cause == "completed"
            assert not list(root.glob("bursar-*"))
        finally:
            await made.runner.shutdown_launcher()
            await made.runner.close()

    asyncio.run(story())


def test_job_is_held_to_memory_processes_and_cpu_where_cgroups_can_be_made(tmp_path: Path) -> None:
    own = [root for name in ("memory", "pids", "cpu") if (root := _own_cgroup(name)) is not None]
    if len(own) < 3:
        pytest.skip("no writable cgroups of version 1 on this machine")
    roots = [root / f"bursar-test-{os.getpid()}" for root in own]  # the top of a hierarchy has no limits
    for root in roots:
        root.mkdir()
    found = limited(os.pathsep.join(map(str, roots)))

    async def story() -> None:
        assert found.limits == ("memory", "cpu", "pids")
        made = Bench(tmp_path)
        made.runner = ProcessRunner(tmp_path, made.events.append, cgroup_root=os.pathsep.join(found.roots))
        await made.runner.open()
        name = marker(tmp_path, "att_1.0")
        files = [
            f"{roots[0]}/bursar-{name}/memory.limit_in_bytes",
            f"{roots[1]}/bursar-{name}/pids.max",
            f"{roots[2]}/bursar-{name}/cpu.cfs_quota_us",
        ]
        try:
            text = f"cat {' '.join(files)}; grep -c $$ {roots[1]}/bursar-{name}/cgroup.procs"
            limits = {"memory_limit_bytes": 64 << 20, "cpu_limit_milli": 1500}
            report = await made.run("att_1", text, **limits)
            assert report.end_cause == "completed"
            said = made.runner.read_log("att_1", 0, 0, 1000)[0].decode().split()
            assert said == [str(64 << 20), "32768", "150000", "1"]
            assert not [one for root in roots for one in root.glob("bursar-*")]
        finally:
            await made.runner.shutdown_launcher()
            await made.runner.close()

    try:
        asyncio.run(story())
    finally:
        for root in roots:
            root.rmdir()


@pytest.mark.parametrize("user", [{}, {"uid": os.getuid(), "gid": os.getgid()}], ids=["spawn", "fork"])
def test_job_starts_with_every_signal_at_its_default(tmp_path: Path, user: dict[str, int]) -> None:
    """Whatever the agent was started with: nohup, a shell's `&`, a mask."""
    numbers = {n for n in signal.valid_signals() if n not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD)}
    ignored = {number: signal.signal(number, signal.SIG_IGN) for number in numbers - {signal.SIGALRM}}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGTERM})

    async def story(made: Bench) -> None:
        argv = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]
        assert (await made.run("att_1", argv=argv, **user)).exit_code == 0
        said = made.runner.read_log("att_1", 0, 0, 1000)[0].decode().split()
        # posix_spawn itself ignores 32 and 33, the C library's own, which no program can set.
        assert (said[0], said[2], int(said[3], 16) & ~(3 << 31)) == ("SigBlk:", "SigIgn:", 0)
        assert said[1] == "0" * 16

    try:
        play(tmp_path, story)
    finally:
        for number, handler in ignored.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def test_many_short_jobs_each_end_once_and_leave_no_process(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        requests = [request(f"att_{n}", argv=["/bin/true"]) for n in range(200)]
        assert {r.state for r in await made.runner.start(requests)} == {"starting"}
        await until(lambda: sum(isinstance(e, Ended) for e in made.events) >= 200)
        ends = [e.report.attempt_id for e in made.events if isinstance(e, Ended)]
        assert len(ends) == len(set(ends)) == 200
        launcher = await made.launcher_pid()
        await until(lambda: not [pid for pid in descendants(launcher) if name_of(pid) != "bursar-attempt"])

    play(tmp_path, story)


def test_report_survives_its_json(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        report = await made.run("att_1", "exit 2", epoch=4)
        (truth,) = await made.runner.adopt()
        assert truth.exit == report
        assert msgspec.structs.asdict(report) == report.to_json()

    play(tmp_path, story)


def _sleepers_below(pid: int, count: int) -> list[int]:
    found: list[int] = []
    queue = [pid]
    while queue:
        parent = queue.pop()
        kids = [int(k) for k in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
        found += [k for k in kids if Path(f"/proc/{k}/comm").read_text() == "sleep\n"]
        queue += kids
    return found if len(found) >= count else []


def _memory_cgroup() -> Path | None:
    """Our own memory cgroup (v1), if a child can be made in it."""
    return _own_cgroup("memory")


def _own_cgroup(controller: str) -> Path | None:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        folder = Path(f"/sys/fs/cgroup/{controller}{path}")
        if controllers == controller and os.access(folder, os.W_OK) and folder.is_dir():
            return folder
    return None
