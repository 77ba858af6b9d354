"""What those who follow a job read while it waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from bursar.cli.main import run
from bursar.client.fake import FakeServer
from bursar.v1 import jobs_pb2, types_pb2


def test_who_follows_a_job_that_waits_reads_why_once_for_each_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(state: str, why: str = "") -> types_pb2.Job:
        reason = types_pb2.Reason(code="WaitingForResources", message=why)
        return types_pb2.Job(id="job_1", number=1, state=state, reason=reason)

    monkeypatch.chdir(tmp_path)
    with FakeServer(tmp_path / "run") as server:
        monkeypatch.setenv("BURSAR_SERVER", server.url)
        server.answers["Jobs/Submit"] = jobs_pb2.SubmitResponse(job=job("PENDING"))
        server.answers["Jobs/Watch"] = [
            job("PENDING"), job("PENDING", "no room"), job("PENDING", "no room"), job("PENDING", "no money"),
            job("CANCELLED"),
        ]  # fmt: skip
        server.answers["Jobs/Get"] = job("CANCELLED")
        run(["run", "--follow", "-q", "--", "true"])
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("waiting")] == ["waiting: no room", "waiting: no money"]
