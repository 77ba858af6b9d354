"""Steps on the own node: no agent and no daemon is asked, so a process can try them alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bursar.steps import names
from bursar.steps.install import install
from bursar.steps.queue import program

FOREIGN = "raise SystemExit('a file of the job was loaded')\\n"
RUN = """\
import os, resource, sys
from bursar.steps.client import run
from bursar.steps.request import Request
soft = int(sys.argv[1])
if soft:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
env = dict(os.environ)
for name in sys.argv[4:]:
    os.environb[name.encode()] = b"\\xe9" * 90_000
sys.exit(run(Request(["sh", "-c", sys.argv[3]], tasks=int(sys.argv[2])), os.environ))
"""


RUN_SRUN = """\
import os, sys
from bursar.steps import client, srun
request, env = srun.request_of(["-n3", "sh", "-c", sys.argv[1]], os.environ)
sys.exit(client.run(request, env))
"""
ENV = {
    "PATH": "/usr/bin:/bin",
    names.MEMBER: "att_a.0",
    names.DIRECTORY: "/nowhere",
    names.NODE_NAMES: "n1",
    "BURSAR_NODE_ADDRESSES": "127.0.0.1",
}


def step(tasks: int, text: str, *large: str, soft: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
    env = {**ENV, **more}
    words = [sys.executable, "-c", RUN, str(soft), str(tasks), text, *large]
    return subprocess.run(words, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_a_step_may_have_more_tasks_than_its_script_may_have_files_and_they_keep_that_limit() -> None:
    done = step(40, "ulimit -Sn", soft=64)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["64"] * 40, "")


def test_an_environment_of_other_bytes_is_no_larger_on_its_way() -> None:
    done = step(1, 'printf %s "$L8" | wc -c', *(f"L{number}" for number in range(10)))
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["90000"], "")


def test_every_task_of_srun_gets_all_of_its_input_and_one_that_reads_none_keeps_nobody_waiting() -> None:
    """More than a pipe holds, less than a host may hold for others."""
    waits = "until [ -e $FLAG ]; do sleep 0.05; done"
    text = f"case $SLURM_PROCID in 0) wc -c; touch $FLAG;; 1) {waits};; *) wc -c; esac"
    with tempfile.TemporaryDirectory() as folder:
        given = b"x" * 2_000_000
        done = subprocess.run(
            [sys.executable, "-c", RUN_SRUN, text],
            env={**ENV, "SLURM_JOB_ID": "1", "FLAG": f"{folder}/flag"},
            input=given,
            capture_output=True,
            timeout=120,
            check=False,
        )
    assert (done.returncode, done.stdout.split()) == (0, [b"2000000"] * 2), done.stderr


def test_srun_finds_a_program_of_its_directory_that_path_does_not_have(tmp_path: Path) -> None:
    (tmp_path / "a.out").write_text("#!/bin/sh\necho here\n")
    (tmp_path / "a.out").chmod(0o755)
    (tmp_path / "plain").write_text("")
    words = [sys.executable, "-c", RUN_SRUN.replace('"-n3", "sh", "-c"', '"-n1"')]
    found = []
    for name in ("a.out", "plain"):
        done = subprocess.run(
            [*words, name],
            env={**ENV, "SLURM_JOB_ID": "1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        found.append((done.returncode, done.stdout))
    assert found == [(0, "here\n"), (127, "")]


def test_a_nodes_name_that_never_resolves_is_an_address_for_its_tasks() -> None:
    name = "n1.invalid"
    told = {names.NODE_NAMES: name, "MASTER_ADDR": name}
    done = step(2, f"echo $MASTER_ADDR tcp://{name}:29500 {name}", **told)
    assert (done.returncode, done.stdout) == (0, f"127.0.0.1 tcp://127.0.0.1:29500 {name}\n" * 2)
    assert done.stderr == f"bursar step: {name} does not resolve here; tasks get its address 127.0.0.1\n"


def test_tasks_that_are_lost_are_named_as_ranges() -> None:
    done = step(3, "kill -9 $PPID; sleep 60")
    assert done.returncode == 137
    assert done.stderr.startswith("bursar step: error: n1: lost; its tasks 0-2 are killed")


@pytest.mark.parametrize("tool", ["of the node", "of a login machine", "srun"])
def test_what_lies_in_a_jobs_directory_is_not_loaded_by_the_programs_of_steps(
    tmp_path: Path, tool: str
) -> None:
    for name in ("json", "click", "random", "bursar"):
        (tmp_path / f"{name}.py").write_text(FOREIGN)
    install(tmp_path / "steps")
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)}
    words = {
        "of the node": program({names.DIRECTORY: str(tmp_path / "steps")}),
        "of a login machine": program({}),
        "srun": [str(tmp_path / "steps" / names.SHIMS / "srun")],
    }[tool]
    done = subprocess.run(
        [*words, "--version"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "bursar" in done.stdout


def test_a_program_of_steps_that_has_grown_without_end_is_replaced_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path)
    programs = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for path in programs:
        os.truncate(path, 20 << 30)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"all of {path} was read"))
        install(tmp_path)
    assert {path: path.read_bytes() for path in programs} == programs
