"""`squeue --steps` inside a job: which of its steps run now, and since when."""

from __future__ import annotations

from pathlib import Path

import pytest

from bursar.steps import records, running
from bursar.steps.queue import main


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    env = {
        "SLURM_JOB_ID": "12", "SLURM_JOB_USER": "ann", "SLURM_JOB_PARTITION": "local",
        "SLURM_JOB_NODELIST": "n[1-2]", records.VARIABLE: str(tmp_path / "progress"),
    }  # fmt: skip
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return env


def test_those_that_run_are_told_and_those_that_ended_are_not(
    job: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    done = records.Record(job, "/usr/bin/hostname", 2, 2)
    records.Record(job, "/opt/train.py", 4, 2)
    done.end(records.COMPLETED, 0, 0, None)
    assert main("squeue", ["--steps"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == ["STEPID", "NAME", "PARTITION", "USER", "TIME", "NODELIST"]
    assert line.split() == ["12.1", "train.py", "local", "ann", "0:00", "n[1-2]"]
    assert main("squeue", ["-s", "-h", "-j", "12"]) == 0
    assert capsys.readouterr().out.splitlines() == [line]


def test_where_no_step_was_there_is_none(job: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main("squeue", ["-s", "-h"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("words", [["-j", "13"], []])
def test_steps_of_other_jobs_are_as_the_server_was_told_last(
    words: list[str], job: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not words:
        monkeypatch.delenv("SLURM_JOB_ID")
        monkeypatch.setattr(running.tables.Filters, "jobs", lambda self, states: iter([{"id": "13"}]))
    step = {"number": 0, "rank": 0, "name": "a", "state": "completed", "nodes": 2, "elapsed_s": 1.0}
    runs = {**step, "number": 1, "name": "train.py", "state": "running", "elapsed_s": 61.5}
    elsewhere = {**runs, "number": 0, "rank": 1, "nodes": 1}
    nodes = [{"node": "n1"}, {"node": "n2"}]
    told = {"number": 13, "id": "job_x", "user": "ann", "partition": "gpu", "state": "RUNNING"}
    told["attempts"] = [{"nodes": nodes, "steps": [step, runs, elsewhere]}]
    monkeypatch.setattr(running, "job_of", lambda word: told if word == "13" else None)
    assert main("squeue", ["-s", "-h", *words]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["13.1", "train.py", "gpu", "ann", "1:01", "n[1-2]"],
        ["13.0+1", "train.py", "gpu", "ann", "1:01", "(1", "of", "them)"],
    ]


def test_a_link_in_place_of_the_records_is_not_followed(
    job: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / records.FILE).symlink_to("/etc/passwd")
    assert main("squeue", ["-s", "-h"]) == 0
    assert capsys.readouterr().out == ""
