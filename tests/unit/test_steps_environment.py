"""What tasks and shells of a job find: Slurm's commands behind a login profile, secrets of their own node."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from bursar.model import JobSpec, launch_of
from bursar.steps import host, modules, names
from bursar.steps.install import install
from bursar_agent.runner import secretfiles
from bursar_agent.runner.spawning import OWN_BASH_ENV_VARIABLE, STEPS_VARIABLE, Job


def job(steps: Path, **env: str) -> Job:
    """A member's job as its supervisor opens it; with Slurm's variables it is of an #SBATCH script."""
    launch = {"script": "srun true", "env": env, "files": {"KUBECONFIG": "hush"}}
    request = {
        "attempt_id": "att_x", "rank": 1, "uid": None, "gid": None, "launch": json.dumps(launch), "home": "/",
        "env": {"PATH": "/usr/bin:/bin", STEPS_VARIABLE: str(steps)}, "checkpoint_dir": "/c",
    }  # fmt: skip
    return Job(request)


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    install(tmp_path / "steps")
    return tmp_path / "steps"


def told(env: dict[str, str], home: Path, *command: str) -> list[str]:
    """PATH as a shell has it whose profile has set it anew."""
    (home / ".bash_profile").write_text("PATH=/usr/bin:/bin\n")
    asked = [*command, 'echo "$PATH"; command -v srun']
    done = subprocess.run(asked, env={**env, "HOME": str(home)}, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize("command", [("bash", "-lc"), ("bash", "-c"), ("bash", "-l", "-u", "-e", "-c")])
def test_a_login_shell_in_a_job_of_slurm_finds_its_commands(
    steps: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    env = job(steps, SLURM_JOB_ID="7").env
    path, srun = told(env, tmp_path, *command)
    assert srun == f"{steps}/{names.SHIMS}/srun"
    assert path.split(":") == [f"{steps}/slurm", "/usr/bin", "/bin", f"{steps}/bin"]


def scripted(steps: Path, tmp_path: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    """A script of a job whose `scontrol` prints its words, on a node where no other is."""
    (steps / names.SHIMS / "scontrol").write_text('#!/bin/sh\necho "$@"\n')
    script = tmp_path / "script"
    script.write_text("".join(f"{line}\n" for line in ("#!/bin/bash", *lines)))
    script.chmod(0o755)
    env = job(steps, SLURM_JOB_ID="7").env
    return subprocess.run([script], env=env, capture_output=True, text=True, check=False, cwd=tmp_path)


def test_a_script_that_reads_a_profile_or_sets_path_finds_them_all_the_same(
    steps: Path, tmp_path: Path
) -> None:
    """What it does in a pipe would be lost, and the job succeed without its work."""
    (tmp_path / "profile").write_text("PATH=/usr/bin:/bin\nX=$1\n")
    done = scripted(
        steps,
        tmp_path,
        "set -eu -o pipefail",
        "f() { return 0; }; f",
        ". ./profile one; echo $X",
        "sh -c 'scontrol a | cat'",
        "PATH=/usr/bin:/bin",
        "scontrol b 'c  d' | cat",
        "nodes=$(scontrol e); echo $nodes",
        "bash -c 'scontrol f'",
    )
    assert (done.stdout.splitlines(), done.stderr) == (["one", "a", "b c  d", "e", "f"], "")


def test_what_is_nowhere_is_said_as_bash_says_it(steps: Path, tmp_path: Path) -> None:
    done = scripted(steps, tmp_path, "true", "nosuch a || echo $?", "exit 0")
    assert done.stdout == "127\n"
    assert done.stderr == f"{tmp_path}/script: line 3: nosuch: command not found\n"


def test_what_the_job_had_every_bash_read_is_read_too(steps: Path, tmp_path: Path) -> None:
    own = tmp_path / "modules.sh"
    own.write_text('PATH="/modules:$PATH"\n')
    env = job(steps, SLURM_JOB_ID="7", BASH_ENV=str(own)).env
    assert env[OWN_BASH_ENV_VARIABLE] == str(own)
    path, _ = told(env, tmp_path, "bash", "-lc")
    assert path.split(":")[:2] == [f"{steps}/slurm", "/modules"]


def test_a_job_that_does_not_speak_slurm_has_no_such_file(steps: Path) -> None:
    assert "BASH_ENV" not in job(steps).env
    assert (OWN_BASH_ENV_VARIABLE, STEPS_VARIABLE) == (names.OWN_BASH_ENV, names.DIRECTORY)
    assert (steps / names.BASH_ENV).is_file()
    assert job(steps, SLURM_JOB_ID="7").env["BASH_ENV"] == str(steps / names.BASH_ENV)


# --- environment modules

INIT = 'module() { echo "module $* $-"; MODULES=$UNSET$*; }; ml() { module load "$@"; }; echo init\n'


def modular(tmp_path: Path, script: str) -> str:
    """What a bash of a job prints on a node that has modules."""
    init = tmp_path / "it's modules.sh"
    init.write_text(INIT)
    install(tmp_path / "steps", "", str(init))
    env = job(tmp_path / "steps", SLURM_JOB_ID="7").env
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_bash_of_a_job_finds_module_and_loads_it_with_its_first_use(tmp_path: Path) -> None:
    assert modular(tmp_path, "module load a b; module purge") == (
        "init\nmodule load a b hBc\nmodule purge hBc\n"
    )
    assert modular(tmp_path, "ml a") == "init\nmodule load a hBc\n"
    assert modular(tmp_path, "type -t module ml; bash -c 'ml b'") == (
        "function\nfunction\ninit\nmodule load b hBc\n"
    )
    assert modular(tmp_path, "true") == ""


def test_loading_it_minds_no_variable_that_is_unset_and_leaves_the_shell_as_strict_as_it_was(
    tmp_path: Path,
) -> None:
    said = modular(
        tmp_path, "UNSET=; set -eu; module load a; set +o | grep -c -e '-o errexit' -e '-o nounset'"
    )
    assert said == "init\nmodule load a ehuBc\n2\n"


def test_a_module_that_the_shell_has_already_is_left_alone(tmp_path: Path) -> None:
    own = tmp_path / "own.sh"
    own.write_text("module() { echo own; }\n")
    install(tmp_path / "steps", "", str(tmp_path / "none.sh"))
    env = job(tmp_path / "steps", SLURM_JOB_ID="7", BASH_ENV=str(own)).env
    assert subprocess.check_output(["bash", "-c", "module x"], env=env, text=True) == "own\n"


def test_a_node_says_whether_it_has_modules_and_which(tmp_path: Path) -> None:
    profiles, lmod = tmp_path / "profile.d", tmp_path / "lmod"
    profiles.mkdir()
    (lmod / "init").mkdir(parents=True)
    assert modules.find({}, str(profiles)) == ""
    assert modules.label_of("") == {}
    assert modules.lines("") == ""
    (profiles / "modules.sh").touch()
    assert modules.find({}, str(profiles)) == f"{profiles}/modules.sh"
    assert modules.label_of(f"{profiles}/modules.sh") == {"modules": "environment-modules"}
    (profiles / "z00_lmod.sh").touch()
    assert modules.find({"MODULESHOME": str(lmod)}, str(profiles)) == f"{profiles}/z00_lmod.sh"
    (lmod / "init" / "bash").touch()
    for env in ({"MODULESHOME": str(lmod)}, {"LMOD_CMD": f"{lmod}/libexec/lmod"}):
        assert modules.find(env, str(profiles)) == f"{lmod}/init/bash"
    assert modules.label_of(f"{lmod}/init/bash") == {"modules": "lmod"}


# --- secrets that are files, of a job whose program runs on its first node alone


def test_a_member_that_holds_its_place_has_the_files_and_no_secret_in_its_environment() -> None:
    spec = JobSpec(command=("train",), launch="once", secrets=("A", "B"), secret_files=("B",))
    held = launch_of(spec, {"HOME": "/h"}, 1, {"A": "a", "B": "b"})
    assert (held.files, held.env) == ({"B": "b"}, {})
    assert launch_of(spec, {}, 1, {}).files == {}


def test_a_step_finds_the_files_of_the_node_that_it_runs_on(steps: Path) -> None:
    made = job(steps)
    mine = made.env
    assert mine[names.SECRETS] == made.secrets_dir
    assert re.fullmatch(secretfiles.path_of(rf"{re.escape(made.marker)}\.[0-9a-f]{{10}}"), made.secrets_dir)
    assert names.SECRETS == secretfiles.VARIABLE
    theirs = "/dev/shm/bursar-other.0.secrets"
    env = {
        "KUBECONFIG": f"{theirs}/KUBECONFIG", "COPY": f"{theirs}/sub/x", "NEAR": f"{theirs}x/y", "ELSE": "/x",
        names.SECRETS: mine[names.SECRETS],
    }  # fmt: skip
    host._own_secrets(env, theirs)
    assert env == {
        "KUBECONFIG": mine["KUBECONFIG"], "COPY": f"{mine[names.SECRETS]}/sub/x", "NEAR": f"{theirs}x/y",
        "ELSE": "/x", names.SECRETS: mine[names.SECRETS],
    }  # fmt: skip
    before = dict(env)
    host._own_secrets(env, "")  # who started it is of an older release
    del env[names.SECRETS]
    host._own_secrets(env, theirs)  # no member with files here
    assert env == {key: value for key, value in before.items() if key != names.SECRETS}
    assert os.environ.get(names.SECRETS) is None
