"""What a job that another one submits has of its environment, as with `--export=ALL`."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bursar.jobfile import Caller, RunFlags
from bursar.jobfile.exported import Exported, exported
from bursar.jobfile.request import job_of_script

IN_A_JOB = {
    "BURSAR_SUBMITTED_AS": "/home/user/a.sh",
    "BURSAR_ATTEMPT_MEMBER": "att_1.0",
    "BURSAR_STEPS": "/s/steps",
    "PATH": "/s/steps/slurm:/home/user/bin:/usr/bin:/s/steps/bin:/s/stepson",
    **dict.fromkeys(
        ("HOME", "USER", "SLURM_JOB_ID", "SLURMD_NODENAME", "SBATCH_X", "RANK", "WORLD_SIZE"), "7"
    ),
    **dict.fromkeys(("TMPDIR", "CUDA_VISIBLE_DEVICES", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "BASH_ENV"), "7"),
}
HERE = datetime(2026, 1, 1, tzinfo=UTC)


def spec_of(
    text: str, given: Exported | None, flags: RunFlags | None = None
) -> tuple[dict[str, str], object, list[str]]:
    caller = Caller({"LR": "0.1", "X": "of the shell"}, HERE, "", exported=given)
    spec, said = job_of_script(f"#!/bin/bash\n{text}\ntrue\n", "a.sh", "/home/user", (), flags, caller)
    return {n: v for n, v in spec.env if not n.startswith("SLURM_")}, (spec.secrets, spec.secret_files), said


def test_all_that_is_no_job_s_own_goes_on_and_the_path_without_the_node_s_programs() -> None:
    given = exported(IN_A_JOB | {"LR": "0.1", "CONDA_PREFIX": "/c", "SLURMY": "s", "CUDA_HOME": "/cuda"})
    assert given == Exported(
        {"LR": "0.1", "CONDA_PREFIX": "/c", "SLURMY": "s", "CUDA_HOME": "/cuda",
         "PATH": "/home/user/bin:/usr/bin:/s/stepson"},
        (),
    )  # fmt: skip


def test_what_no_job_may_have_is_left_out() -> None:
    odd = {"BASH_FUNC_module%%": "() { :; }", "ESCAPE": "\x1b[0m", "LONG": "x" * 16_385, "LINES2": "a\nb\tc"}
    given = exported(IN_A_JOB | odd | {"PATH": "/s/steps/slurm"})
    assert given == Exported({"LINES2": "a\nb\tc"}, ())


def test_a_secret_goes_on_by_name_and_its_value_in_no_variable() -> None:
    environ = {
        "BURSAR_SECRET_NAMES": "TOKEN,KEY:file,EMPTY",
        "TOKEN": "hunter2",
        "KEY": "/run/k",
        "EMPTY": "",
    }
    copied = {"AGAIN": "hunter2", "URL": "https://hunter2@host", "KEYS": "/run/key", "OTHER": "x"}
    given = exported({**IN_A_JOB, "PATH": "/usr/bin", **environ, **copied})
    assert given == Exported({"OTHER": "x", "PATH": "/usr/bin"}, ("TOKEN", "KEY:file", "EMPTY"))


@pytest.mark.parametrize("lacks", ["BURSAR_SUBMITTED_AS", "BURSAR_ATTEMPT_MEMBER"])
def test_a_person_s_shell_gives_nothing(lacks: str) -> None:
    assert exported({name: value for name, value in IN_A_JOB.items() if name != lacks}) is None


GIVEN = Exported({"LR": "0.2", "DATA": "in"}, ("TOKEN", "KEY:file"))
SECRETS = (("TOKEN", "KEY"), ("KEY",))


@pytest.mark.parametrize("line", ["#SBATCH -J a", "#SBATCH --export=ALL", "#SBATCH --export=all"])
def test_without_a_word_and_with_all_it_is_all(line: str) -> None:
    assert spec_of(line, GIVEN) == ({"LR": "0.2", "DATA": "in"}, SECRETS, [])


def test_what_the_script_says_stands_above_what_is_copied_and_flags_above_both() -> None:
    line = "#SBATCH --export=ALL,LR=0.3,MORE=1\n#BURSAR --secret TOKEN:file"
    env, secrets, _ = spec_of(line, GIVEN)
    assert (env, secrets) == ({"LR": "0.3", "DATA": "in", "MORE": "1"}, (("TOKEN", "KEY"), ("TOKEN", "KEY")))
    env, secrets, _ = spec_of(line, GIVEN, RunFlags(env=("LR=0.4",), secret=("KEY",)))
    assert env["LR"] == "0.4"


@pytest.mark.parametrize(
    ("line", "env"), [("NONE", {}), ("NIL", {}), ("LR", {"LR": "0.1"}), ("X=1", {"X": "1"})]
)
def test_a_list_without_all_copies_what_it_names_alone(line: str, env: dict[str, str]) -> None:
    assert spec_of(f"#SBATCH --export={line}", GIVEN) == (env, ((), ()), [])


def test_of_a_person_s_shell_it_is_said_that_nothing_is_copied() -> None:
    env, secrets, said = spec_of("#SBATCH --export=ALL,LR", None)
    assert (env, secrets) == ({"LR": "0.1"}, ((), ()))
    assert said == [
        "a.sh:2: --export 'ALL' is not honoured: the submitting shell's variables are not copied; write"
        " NAME=VALUE",
        "a.sh: your shell's variables are not copied, as with --export=NONE; name them with --env",
    ]
