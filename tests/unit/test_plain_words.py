"""Sentences that said what is not so: a cap that was not named, a process 0, a success by signal 9."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from bursar.cli import backup
from bursar.cli.happenings import sentence
from bursar.cli.main import run
from bursar.cli.texts import plan_text
from bursar.codec import view
from bursar.v1 import jobs_pb2 as pb


@pytest.mark.parametrize(("worst", "said"), [(3, "(capped by max_cost: 10 tasks"), (10, "(10 tasks")])
def test_the_worst_case_of_an_array_says_when_its_cap_is_less_than_its_tasks(worst: int, said: str) -> None:
    wire = pb.PlanResponse(
        tasks=10, currency="USD", worst_case_nanos=worst * 10**9, task_worst_case_nanos=10**9,
        time_limit_us=3_600_000_000, expected_nanos=-1, task_expected_nanos=-1,
    )  # fmt: skip
    [line] = [line for line in plan_text(view.plan(wire), 0).splitlines() if line.startswith("worst case")]
    assert line == f"worst case  {worst}.00 USD  {said}, each 1.00 USD if it runs its whole 1h00m)"


@pytest.mark.parametrize(
    ("pid", "said"),
    [
        ({"pid": 7}, "runs (pid 7)"),
        ({"pid": 0}, "was over before it was seen to run"),
        ({}, "was over before it was seen to run"),
    ],
)
def test_a_start_that_is_known_by_its_end_alone_has_no_process_id(pid: dict[str, int], said: str) -> None:
    data = {"attempt_id": "att_1", "rank": 1, **pid}
    told = {"kind": "member-started", "data": data, "actor": "node:n", "subject": "att_1", "names": {}}
    assert sentence(told) == f"rank 1 of attempt att_1 {said}"


@pytest.mark.parametrize(
    ("cause", "said"), [("completed", "completed, its place was let go"), ("failed", "signal 9 (SIGKILL)")]
)
def test_a_place_that_is_let_go_has_not_completed_by_a_signal(cause: str, said: str) -> None:
    data = {"attempt_id": "att_1", "rank": 1, "report": {"cause": cause, "signal": 9}}
    told = {"kind": "member-ended", "data": data, "actor": "node:n", "subject": "att_1", "names": {}}
    assert sentence(told) == f"rank 1 of attempt att_1 ended: {said}"


def test_a_sum_beyond_what_can_be_shown_is_not_called_capped() -> None:
    most = 2**63 - 1
    wire = pb.PlanResponse(
        tasks=10, currency="USD", worst_case_nanos=most, task_worst_case_nanos=most // 2,
        time_limit_us=3_600_000_000, expected_nanos=-1, task_expected_nanos=-1,
    )  # fmt: skip
    assert "capped" not in plan_text(view.plan(wire), 0)


def test_a_backup_in_the_place_of_another_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = SimpleNamespace(
        cluster_id="c", seq=7, hash="h", created_at="", epoch=0, tables_schema=3, event_schema=2,
        database_bytes=1, database_sha256="s",
    )  # fmt: skip

    def take(directory: Path, out: Path, clock: object, version: str) -> object:
        out.write_bytes(b"a backup")
        return manifest, SimpleNamespace(findings=())

    monkeypatch.setattr(backup, "_room", lambda: SimpleNamespace(take=take))
    monkeypatch.setattr(backup, "_directory", lambda named: tmp_path)
    out = str(tmp_path / "bk.db")
    said = []
    for _ in range(2):
        assert run(["backup", "--out", out]) == 0
        said.append(capsys.readouterr().err)
    assert said == ["", f"{out} was an older backup, and is replaced\n"]
