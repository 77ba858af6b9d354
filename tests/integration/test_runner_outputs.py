"""Files of a job's own beside its log, with real processes: whose rights, what is in them, what fails.

Why     a root agent that opened what a user names would overwrite anything on the node.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bursar.codec.launch import launch_from_bytes, launch_to_bytes
from bursar.model import OutputFiles
from bursar_agent.runner import spawning, supervisor
from bursar_agent.runner.model import ExitReport, StopRequest
from bursar_agent.runner.testing import Bench, alive, play, request, until
from bursar_agent.runner.tree import children

NOBODY = 65534


async def run(made: Bench, attempt: str, script: str, files: OutputFiles, **fields: Any) -> ExitReport:
    await begin(made, attempt, script, files, **fields)
    return await made.ended(attempt)


async def begin(made: Bench, attempt: str, script: str, files: OutputFiles, **fields: Any) -> None:
    asked = request(attempt, script, **fields)
    launch = msgspec.structs.replace(launch_from_bytes(asked.launch), output_files=files)
    await made.runner.start([msgspec.structs.replace(asked, launch=launch_to_bytes(launch))])


def pid_of(made: Bench, attempt: str) -> int:
    return int(json.loads((made.dir(attempt) / "start.json").read_text())["pid"])


def logged(made: Bench, attempt: str) -> bytes:
    return made.runner.read_log(attempt, 0, 0, 1 << 20)[0]


def test_output_is_in_the_log_and_in_its_file_setup_and_error_too(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        script = "echo out; echo bad >&2; echo $BURSAR_OUTPUT_FILE"
        report = await run(
            made, "att_1", script, OutputFiles(output="o"), cwd=str(tmp_path), setup="echo set up"
        )
        assert (report.end_cause, report.exit_code) == ("completed", 0)
        assert (
            logged(made, "att_1")
            == (tmp_path / "o").read_bytes()
            == f"set up\nout\nbad\n{tmp_path}/o\n".encode()
        )

    play(tmp_path / "run", story)


def test_standard_error_has_a_file_of_its_own_and_the_log_has_both(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        script = "echo out; echo bad >&2"
        await run(made, "att_1", script, OutputFiles(output="o", error="e"), cwd=str(tmp_path))
        assert ((tmp_path / "o").read_text(), (tmp_path / "e").read_text()) == ("out\n", "bad\n")
        assert sorted(logged(made, "att_1").splitlines()) == [b"bad", b"out"]
        await run(made, "att_2", script, OutputFiles(error="e2"), cwd=str(tmp_path))
        assert (tmp_path / "e2").read_text() == "bad\n"
        assert sorted(logged(made, "att_2").splitlines()) == [b"bad", b"out"]
        await run(made, "att_3", script, OutputFiles(output="same", error="same"), cwd=str(tmp_path))
        assert (tmp_path / "same").read_text() == "out\nbad\n"

    play(tmp_path / "run", story)


def test_a_file_that_is_there_is_emptied_or_gone_on_with(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        file = tmp_path / "o"
        file.write_text("before\n")
        await run(made, "att_1", "echo new", OutputFiles(output=str(file), append=True))
        assert file.read_text() == "before\nnew\n"
        await run(made, "att_2", "echo again", OutputFiles(output=str(file)))
        assert file.read_text() == "again\n"

    play(tmp_path / "run", story)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory that other users can come into; pytest keeps its own to one."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs jobs as other users")
def test_files_are_written_as_the_jobs_user_and_never_through_a_link_as_root(open_folder: Path) -> None:
    """1. The file is the user's. 2. A file of root's that a link of the user's leads to stays as it is."""
    work = open_folder / "work"
    work.mkdir()
    os.chown(work, NOBODY, NOBODY)
    precious = open_folder / "precious"
    precious.write_text("root's")
    precious.chmod(0o600)
    (work / "link").symlink_to(precious)
    user: dict[str, Any] = {"uid": NOBODY, "gid": NOBODY, "cwd": str(work)}

    async def story(made: Bench) -> None:
        await run(made, "att_1", "id -u", OutputFiles(output="mine"), **user)
        assert ((work / "mine").read_text(), (work / "mine").stat().st_uid) == (f"{NOBODY}\n", NOBODY)
        report = await run(made, "att_2", "echo gotcha", OutputFiles(output="link"), **user)
        assert (report.end_cause, report.exit_code) == ("failed", 126)
        assert report.message == f"output file '{work}/link': Permission denied"
        assert precious.read_text() == "root's"

    play(open_folder / "run", story)


def test_a_file_that_cannot_be_opened_fails_the_job_before_anything_runs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    ran = tmp_path / "ran"

    async def story(made: Bench) -> None:
        for number, (name, why) in enumerate(
            (
                ("no/o", "No such file or directory"),
                (".", "Is a directory"),
                ("pipe", "No such device or address"),
            )
        ):
            report = await run(
                made,
                f"att_{number}",
                f"touch {ran}",
                OutputFiles(error=name),
                cwd=str(tmp_path),
                setup=f"touch {ran}",
            )
            assert (report.end_cause, report.exit_code) == ("failed", 126)
            assert report.message == f"output file '{tmp_path}/{name}': {why}"
        assert not ran.exists()

    play(tmp_path / "run", story)


def test_a_disk_that_is_full_costs_the_log_no_line_and_is_said_there_once(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        script = "echo one; read x < $GATE; echo two"
        os.mkfifo(tmp_path / "gate")
        await begin(
            made, "att_1", script, OutputFiles(output="/dev/full"), env={"GATE": str(tmp_path / "gate")}
        )
        await made.log_has("att_1", b"left on device]\n")
        (tmp_path / "gate").write_text("go\n")
        assert (await made.ended("att_1")).exit_code == 0
        said = b"\n[bursar: /dev/full lacks what follows: No space left on device]\n"
        assert logged(made, "att_1") == b"one\n" + said + b"two\n"

    play(tmp_path / "run", story)


def test_what_a_job_prints_last_is_kept_however_it_ends(tmp_path: Path) -> None:
    """Whatever signal its copier gets, of a stop or of the job itself."""

    async def story(made: Bench) -> None:
        script = "trap 'echo last; exit 7' TERM; echo up; while :; do sleep 0.01; done"
        await begin(made, "att_1", script, OutputFiles(output=str(tmp_path / "o")))
        await made.log_has("att_1", b"up\n")
        [copier] = [pid for pid in children(made.supervisor("att_1")) if pid != pid_of(made, "att_1")]
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT):
            os.kill(copier, number)
        await made.runner.stop("att_1", 0, StopRequest("cancelled", 20_000_000))
        report = await made.ended("att_1")
        assert (report.end_cause, report.exit_code, report.kill_sent_at) == ("cancelled", 7, None)
        assert (tmp_path / "o").read_bytes() == logged(made, "att_1")
        assert logged(made, "att_1").endswith(b"last\n")  # before it bash may tell of its own child's end
        await until(lambda: not alive(copier))

    play(tmp_path / "run", story)


def test_a_process_that_outlives_the_job_is_ended_and_the_files_are_closed(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        script = "trap '' TERM; (sleep 600) & echo $!"
        report = await run(made, "att_1", script, OutputFiles(output=str(tmp_path / "o")))
        assert (report.end_cause, report.exit_code) == ("completed", 0)
        assert not alive(int((tmp_path / "o").read_text()))
        assert (await run(made, "att_2", "exit 3", OutputFiles(output=str(tmp_path / "o")))).exit_code == 3

    play(tmp_path / "run", story)


def test_a_program_that_cannot_be_started_leaves_no_copier(tmp_path: Path) -> None:
    async def story(made: Bench) -> None:
        for attempt, fields in (
            ("att_1", {"script": "#!/no/such\n"}),
            ("att_2", {"script": "true", "setup": "exit 5"}),
        ):
            report = await run(made, attempt, files=OutputFiles(output=str(tmp_path / "o")), **fields)
            assert (report.end_cause, report.exit_code) == ("failed", 127 if attempt == "att_1" else 5)

    play(tmp_path / "run", story)


def test_a_copier_that_hangs_is_killed_and_its_supervisor_takes_no_other_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. While the log is open it may have more to write, until its time is over. 2. Else it is gone."""
    monkeypatch.chdir(tmp_path)
    asked: dict[str, Any] = {"attempt_id": "att_1", "rank": 0, "log_cap_bytes": 1000}
    moments = itertools.count(step=400)
    monkeypatch.setattr(supervisor, "boot_us", lambda: next(moments))
    monkeypatch.setattr(supervisor, "COPY_GRACE_US", 1000)
    made = supervisor.Supervisor(asked, spawning.Host(), None, None, None, -1)  # type: ignore[arg-type]
    slow = subprocess.Popen(["sleep", "600"])
    made._copier_pid = slow.pid
    os.write(made._log_write, b"still")
    made._await_copier()
    assert (slow.wait(), made._copier_pid) == (-signal.SIGKILL, slow.pid)
    assert (tmp_path / "log").read_bytes() == b"still"
    done = subprocess.Popen(["true"])
    made._copier_pid = done.pid
    made._close_outputs()
    made._await_copier()
    done.returncode = 0  # it was waited for by number
    assert made._copier_pid == 0
    os.close(made._log_read)
