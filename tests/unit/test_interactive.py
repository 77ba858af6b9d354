"""`type: interactive`: what a file of it means, what its member runs, and how `run --pty` ends it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bursar.cli.main import run
from bursar.cli.session import _TELLS, session_of
from bursar.clock import SECOND_US
from bursar.codec.spec import spec_from_wire, spec_to_wire
from bursar.jobfile import parse_job, spec_to_yaml
from bursar.model import JobSpec, launch_of
from bursar.model.check import check
from bursar.steps.names import SESSION_DIR

MINUTE_US = 60 * SECOND_US


def read(text: str) -> JobSpec:
    return parse_job(text, "job.yaml", "/home/u")


def test_it_needs_no_program_holds_its_places_once_and_is_not_held_for_nobody_for_ever() -> None:
    spec = read("type: interactive\nnodes: 2\n")
    assert (spec.interactive, spec.command, spec.script, spec.launch) == (True, (), "", "once")
    assert spec.idle_policy.detached_us == 30 * MINUTE_US


def test_what_the_file_says_of_it_stands_and_comes_back_from_file_and_wire() -> None:
    text = "type: interactive\nrun: ./serve\nlaunch: per-node\nidle_policy: {detached: 2h}\n"
    spec = read(text)
    assert (spec.script, spec.launch, spec.idle_policy.detached_us) == (
        "./serve",
        "per-node",
        120 * MINUTE_US,
    )
    assert read(spec_to_yaml(spec)) == spec
    assert spec_from_wire(spec_to_wire(spec)) == spec


def test_any_other_job_still_needs_something_to_run() -> None:
    assert [problem.field for problem in check(JobSpec())] == ["run"]
    assert check(JobSpec(interactive=True)) == []


def waits(folder: Path) -> subprocess.Popen[bytes]:
    """What its member runs, with a directory of its own."""
    command = launch_of(JobSpec(interactive=True, launch="once"), {}).command
    return subprocess.Popen(command, env={**os.environ, SESSION_DIR: str(folder)})


@pytest.mark.parametrize(("program", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)])
def test_it_ends_as_the_program_did_that_was_run_at_its_terminal(
    program: str, code: int, tmp_path: Path
) -> None:
    with waits(tmp_path) as member:
        command = ["sh", "-c", _TELLS, "sh", "sh", "-c", program]
        told = subprocess.run(command, env={**os.environ, SESSION_DIR: str(tmp_path)}, check=False)
        assert told.returncode == code
        assert member.wait(20) == code


def test_a_program_may_end_before_its_member_waits(tmp_path: Path) -> None:
    """As while `setup` runs."""
    command = ["sh", "-c", _TELLS, "sh", "sh", "-c", "exit 4"]
    subprocess.run(command, env={**os.environ, SESSION_DIR: str(tmp_path)}, check=False)
    with waits(tmp_path) as member:
        assert member.wait(20) == 4


def test_the_others_of_a_gang_hold_their_place() -> None:
    spec = JobSpec(interactive=True, launch="once", nodes=2)
    assert launch_of(spec, {}, 1).command != launch_of(spec, {}, 0).command


def test_a_job_for_a_terminal_is_what_the_flags_ask_for_without_its_program() -> None:
    spec = session_of(JobSpec(command=("bash",), nodes=2, workdir="/w"))
    assert (spec.command, spec.interactive, spec.launch, spec.workdir) == ((), True, "once", "/w")
    assert spec.idle_policy.detached_us == 30 * MINUTE_US
    assert check(spec) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["run", "--pty", "--", "bash"], "--pty: standard input and output are no terminal"),
        (["run", "--pty", "--follow", "--", "bash"], "--pty stands alone"),
    ],
)
def test_pty_is_for_a_terminal_and_is_refused_before_anything_is_submitted(
    line: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BURSAR_SERVER", f"unix://{tmp_path}/none")
    assert run(line) == 2
    assert said in capsys.readouterr().err
