"""What is asked on a terminal before many are ended."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from bursar.cli.main import run
from bursar.client.fake import FakeServer
from bursar.v1 import jobs_pb2, types_pb2


@pytest.mark.parametrize(
    ("answer", "flags", "ended"), [("y\n", [], True), ("n\n", [], False), ("", ["--yes"], True)]
)
def test_many_are_ended_only_after_a_yes(
    answer: str,
    flags: list[str],
    ended: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stdin = io.StringIO(answer)
    monkeypatch.setattr(stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", stdin)
    monkeypatch.chdir(tmp_path)
    with FakeServer(tmp_path / "run") as server:
        monkeypatch.setenv("BURSAR_SERVER", server.url)
        job = types_pb2.Job(id="job_1", number=1, state="RUNNING")
        server.answers["Jobs/List"] = jobs_pb2.ListJobsResponse(jobs=[job])
        server.answers["Jobs/Cancel"] = jobs_pb2.JobsResponse(jobs=[job])
        run(["cancel", "--name", "ft", *flags])
        assert bool(server.calls("Jobs/Cancel")) is ended
    said = capsys.readouterr().err
    assert said.startswith("1 job to cancel\n")
    assert ("End them? [y/N]: " in said) is not bool(flags)
