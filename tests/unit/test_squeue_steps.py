"""`squeue --steps` inside a job: which of its steps run now, and since when."""

from __future__ import annotations

from pathlib import Path

import pytest

from bursar.steps import records
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


def test_steps_of_another_job_are_refused_with_what_has_them(
    job: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("squeue", ["-s", "-j", "13"]) == 2
    assert "shows what runs of the job that asks" in capsys.readouterr().err


def test_a_link_in_place_of_the_records_is_not_followed(
    job: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / records.FILE).symlink_to("/etc/passwd")
    assert main("squeue", ["-s", "-h"]) == 0
    assert capsys.readouterr().out == ""
