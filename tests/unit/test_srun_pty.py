"""`srun --pty`: on a login machine a job at this terminal, inside a job one task at that of `attach`."""

from __future__ import annotations

import contextlib
import os
import pty
import shlex
import termios
from types import SimpleNamespace
from typing import Any

import pytest

from bursar.cli.submit import spec_of_sbatch_words
from bursar.steps import login, srun, terminal
from bursar.steps.names import SBATCH_WORDS
from bursar.steps.request import Refused

INSIDE = {"BURSAR_ATTEMPT_MEMBER": "att.0@x", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}


class Became(Exception):
    """What this process would be now."""


@pytest.fixture
def becomes(monkeypatch: pytest.MonkeyPatch) -> None:
    def become(program: str, argv: list[str], env: dict[str, str]) -> None:
        raise Became(argv[argv.index("run") :], shlex.split(env[SBATCH_WORDS]))

    monkeypatch.setattr(os, "execvpe", become)
    monkeypatch.delenv("BURSAR_ATTEMPT_MEMBER", raising=False)


@pytest.mark.parametrize(
    ("typed", "words", "command"),
    [
        ("--pty bash", [], ["bash"]),
        ("--gres=gpu:1 -t 10 --pty bash -l", ["--gres=gpu:1", "--time=10"], ["bash", "-l"]),
        ("-p gpu --pty -N 1 -c 4 python", ["--partition=gpu", "--nodes=1", "--cpus-per-task=4"], ["python"]),
        ("--mem 8G --pty sh -c '--pty x'", ["--mem=8G"], ["sh", "-c", "--pty x"]),
    ],
)
def test_outside_of_a_job_it_is_run_at_this_terminal(
    becomes: None, typed: str, words: list[str], command: list[str]
) -> None:
    with pytest.raises(Became) as became:
        srun.main(shlex.split(typed))
    assert became.value.args == (["run", "--pty", "--", *command], words)


def test_without_a_command_it_says_what_a_shell_is(becomes: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert srun.main(["--pty"]) == 2
    assert "a shell is `srun --pty bash`" in capsys.readouterr().err
    assert login.srun_pty(["-@", "x"]) == 2


def test_its_words_mean_what_they_mean_to_sbatch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SBATCH_WORDS, "--gres=gpu:a100:2 --time=10 --cpus-per-task=4 --job-name=desk")
    client: Any = SimpleNamespace(nodes=list, slurm_names=list)
    spec = spec_of_sbatch_words(client, None)
    [option] = spec.options
    assert option.gpus is not None
    assert (option.gpus.count, option.gpus.types, option.cpu_milli) == (2, ("A100",), 4_000)
    assert (spec.name, spec.time_limit_us, spec.script, spec.command) == ("desk", 600_000_000, "", ())


def test_inside_a_job_it_is_one_task_with_this_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda fd: True)
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((120, 40)))
    request, _ = srun.request_of(["--pty", "-w", "n2", "bash"], INSIDE)
    assert (request.tasks, request.argv, request.node) == (1, ["bash"], ["n2"])
    assert request.terminal == 40 << 16 | 120


@pytest.mark.parametrize(
    ("typed", "at_terminal", "why"),
    [
        ("--pty bash", False, "a job has no terminal"),
        ("--pty -n 2 bash", True, "for one task"),
        ("--pty -o f bash", True, "leave out --output"),
    ],
)
def test_what_has_no_terminal_or_no_one_task_is_refused(
    typed: str, at_terminal: bool, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "isatty", lambda fd: at_terminal)
    with pytest.raises(Refused, match=why):
        srun.request_of(shlex.split(typed), INSIDE)


def test_a_script_that_asks_for_it_is_told_as_it_is_submitted() -> None:
    assert srun.refusal_of(["--pty", "bash"]).startswith("--pty cannot be done: a job has no terminal")


def test_the_terminal_is_as_it_was_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    kept = os.dup(0)
    try:
        os.dup2(theirs, 0)
        before = termios.tcgetattr(0)
        with contextlib.suppress(KeyboardInterrupt), terminal.raw():
            assert not termios.tcgetattr(0)[3] & termios.ICANON
            raise KeyboardInterrupt
        assert termios.tcgetattr(0) == before
    finally:
        os.dup2(kept, 0)
        for fd in (kept, ours, theirs):
            os.close(fd)


def test_an_allocation_is_a_shell_in_a_job_of_its_own(
    becomes: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Became) as became:
        login.salloc(["-N", "2", "--gres=gpu:1"])
    command, words = became.value.args
    assert words == ["--nodes=2", "--gres=gpu:1"]
    assert command == ["run", "--pty", "--", "/bin/sh", "-c", 'exec "${SHELL:-/bin/sh}"']
    assert "the shell is on the job's first node" in capsys.readouterr().err


def test_what_an_allocation_cannot_be_is_said(
    becomes: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert login.salloc(["-N", "2", "make"]) == 2
    assert "write `srun --pty` and it" in capsys.readouterr().err
    monkeypatch.setenv("BURSAR_ATTEMPT_MEMBER", "att.0@x")
    assert login.salloc([]) == 2
    assert "inside of a job already" in capsys.readouterr().err
