"""A warning before the limit, and a private directory for temporary files: real processes.

Waits by `bursar_agent.runner.testing`; never sleeps for a guess.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from bursar.codec.launch import launch_to_bytes
from bursar.model import CheckpointSpec, Launch
from bursar_agent.runner import scratch
from bursar_agent.runner.layout import stat_fields
from bursar_agent.runner.model import StartRequest, StopRequest
from bursar_agent.runner.testing import Bench, bench, marker, play, until

SAVES = """trap 'echo saved; exit 0' USR1
touch $GATE
while :; do sleep 0.02; done
"""
# Both say who they are: a process found by its command line may be a fork that is not its own program yet.
CHILD_SAVES = """trap 'echo script saved; exit 0' USR1
echo $$ > $GATE.script
sh -c 'trap "echo child saved; exit 0" USR1
echo $$ > $GATE.child; mv $GATE.child $GATE; while :; do sleep 0.02; done'
echo script goes on
"""


async def ends(made: Bench, script: str, gate: Path, *, limit_us: int, checkpoint: CheckpointSpec) -> Any:
    launch = Launch(script=script, env={"GATE": str(gate)}, checkpoint=checkpoint)
    asked = StartRequest(
        "att_1",
        launch=launch_to_bytes(launch),
        time_limit_us=limit_us,
        grace_us=checkpoint.grace_us,
        checkpoint_signal=checkpoint.signal,
    )
    await made.runner.start([asked])
    return await made.ended("att_1")


def test_a_job_that_is_warned_and_exits_0_has_succeeded(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        # Due from the start on, and told when the job heeds it.
        checkpoint = CheckpointSpec("USR1", 1_000_000, 3_600_000_000)
        report = await ends(made, SAVES, tmp_path / "gate", limit_us=3_600_000_000, checkpoint=checkpoint)
        assert (report.end_cause, report.exit_code) == ("completed", 0)
        assert (report.signal_sent_at is not None, report.term_sent_at) == (True, None)
        assert made.runner.read_log("att_1", 0, 0, 100)[0] == b"saved\n"

    play(tmp_path / "run", story)


def test_the_signal_can_be_for_the_script_alone(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        launch = Launch(
            script=CHILD_SAVES,
            env={"GATE": str(tmp_path / "gate")},
            checkpoint=CheckpointSpec("USR1", 60_000_000, 0, script_only=True),
        )
        await made.runner.start([StartRequest("att_1", launch=launch_to_bytes(launch), grace_us=60_000_000)])
        await until((tmp_path / "gate").exists)
        script, child = (int((tmp_path / name).read_text()) for name in ("gate.script", "gate"))
        # Stood still, so that the signal can be seen to have come before the child ends.
        os.kill(script, signal.SIGSTOP)
        await until(
            lambda: stat_fields(script)[0] == "T"
        )  # of two signals that wait, the lower is heeded first
        await made.runner.stop("att_1", 0, StopRequest("preempted", 60_000_000, "USR1"))
        await until(lambda: _waits(script, signal.SIGUSR1))
        # The child was not asked; bash heeds its trap when the child has ended.
        os.kill(child, signal.SIGKILL)
        os.kill(script, signal.SIGCONT)
        report = await made.ended("att_1")
        assert report.end_cause == "preempted"
        log = made.runner.read_log("att_1", 0, 0, 400)[0]
        assert log.endswith(b"script saved\n")
        assert b"child saved\n" not in log

    play(tmp_path / "run", story)


def test_a_job_that_does_not_heed_the_warning_ends_at_its_limit(tmp_path: Path) -> None:
    heedless = "trap 'echo told' USR1\nwhile :; do sleep 0.02; done\n"

    async def story(made: Bench) -> None:
        checkpoint = CheckpointSpec("USR1", 1_000_000, 1_000_000)
        report = await ends(made, heedless, tmp_path / "gate", limit_us=1_300_000, checkpoint=checkpoint)
        assert report.end_cause == "time_limit"
        assert report.term_sent_at - report.start_boot_us >= 1_300_000

    play(tmp_path / "run", story)


# ------------------------------------------------------------------ temporary files


def asks_for_scratch(script: str) -> StartRequest:
    names = dict.fromkeys(("TMPDIR", "SLURM_TMPDIR"), scratch.PLACEHOLDER)
    return StartRequest("att_1", launch=launch_to_bytes(Launch(script=script, env=names)))


@pytest.mark.parametrize("end", ["exit 0", "exit 3", "kill -KILL $$"])
def test_temporary_files_are_private_and_go_with_the_member(tmp_path: Path, end: str) -> None:
    script = f"""stat -c %a $TMPDIR; [ $TMPDIR = $SLURM_TMPDIR ] && echo $TMPDIR
mkdir -p $TMPDIR/a/b; echo x > $TMPDIR/a/b/c; ln -s {tmp_path} $TMPDIR/link; chmod 500 $TMPDIR/a/b
touch {tmp_path}/kept
{end}"""

    async def story(made: Bench) -> None:
        await made.runner.start([asks_for_scratch(script)])
        await made.ended("att_1")
        mode, path = made.runner.read_log("att_1", 0, 0, 400)[0].decode().split()
        name = re.escape(marker(tmp_path / "run", "att_1.0"))
        assert mode == "700"
        assert re.fullmatch(rf"{scratch.place()}/bursar-{name}\.[0-9a-f]{{10}}\.scratch", path)
        assert not there(path)
        assert (tmp_path / "kept").exists()

    play(tmp_path / "run", story)


def test_temporary_files_go_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        await made.runner.start([asks_for_scratch("touch $TMPDIR/x; echo $TMPDIR; sleep 600")])
        path = (await made.log_line("att_1")).strip()
        assert there(path)
        os.kill(made.supervisor("att_1"), signal.SIGKILL)
        await made.ended("att_1")
        assert not there(path)

    play(tmp_path / "run", story)


def test_who_makes_what_bears_the_name_of_an_attempt_does_not_keep_it_from_starting(tmp_path: Path) -> None:
    path = Path(scratch.path_of(marker(tmp_path / "run", "att_1.0")))
    path.mkdir()

    async def story(made: Bench) -> None:
        await made.runner.start([asks_for_scratch("touch $TMPDIR/x")])
        assert (await made.ended("att_1")).end_cause == "completed"

    try:
        play(tmp_path / "run", story)
        assert path.is_dir()
    finally:
        path.rmdir()


def test_two_agents_of_one_machine_do_not_bury_each_others_members(tmp_path: Path) -> None:
    """Two daemons give out the same attempt ids."""
    script = f"touch $TMPDIR/x; echo $TMPDIR; until [ -e {tmp_path}/gate ]; do sleep 0.01; done; exit 7"

    async def story(made: Bench) -> None:
        async with bench(tmp_path / "other") as other:
            for one in (made, other):
                await one.runner.start([asks_for_scratch(script)])
            theirs = (await other.log_line("att_1")).strip()
            assert theirs != (await made.log_line("att_1")).strip()
            os.kill(made.supervisor("att_1"), signal.SIGKILL)
            assert (await made.ended("att_1")).message == "supervisor lost; the job's processes were killed"
            assert there(f"{theirs}/x")
            (tmp_path / "gate").touch()
            assert (await other.ended("att_1")).exit_code == 7

    play(tmp_path / "run", story)


def test_a_job_that_heeds_the_warning_late_is_told_when_it_does(tmp_path: Path) -> None:
    script = f"until [ -e {tmp_path}/gate ]; do sleep 0.01; done\n" + SAVES.replace("touch $GATE\n", "")

    async def story(made: Bench) -> None:
        launch = Launch(script=script, checkpoint=CheckpointSpec("USR1", 1_000_000, 3_600_000_000))
        asked = StartRequest(
            "att_1", launch=launch_to_bytes(launch), time_limit_us=3_600_000_000, checkpoint_signal="USR1"
        )
        await made.runner.start([asked])
        await until(lambda: made.recorded("att_1"))
        (tmp_path / "gate").touch()
        report = await made.ended("att_1")
        assert (report.end_cause, report.exit_code) == ("completed", 0)
        assert report.signal_sent_at > report.start_boot_us

    play(tmp_path / "run", story)


def test_without_the_word_there_is_no_directory(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        await made.run("att_1", "ls -d ${TMPDIR:-/tmp}/bursar-att_1.0.scratch")
        assert b"No such file" in made.runner.read_log("att_1", 0, 0, 400)[0]

    play(tmp_path / "run", story)


def there(path: str) -> bool:
    return os.path.lexists(path)


def _waits(pid: int, number: int) -> bool:
    """Has `pid` a signal that it has not taken yet?"""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pending = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (number - 1) & 1 for mask in pending)
