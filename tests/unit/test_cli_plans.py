"""What `explain` and a plan say of jobs that are ahead, and of a place that a budget holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bursar.cli.main import run
from bursar.client.fake import FakeServer
from bursar.v1 import jobs_pb2, types_pb2


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    with FakeServer(tmp_path / "run") as server:
        monkeypatch.setenv("BURSAR_SERVER", server.url)
        yield server


@pytest.mark.parametrize(
    ("ahead", "total", "told"), [(["job_a"], 1, "job_a"), ([], 3, "3 of others"), ([], 1, "1 of others")]
)
def test_who_may_not_be_seen_is_counted_and_of_an_older_daemon_there_are_ids(
    ahead: list[str], total: int, told: str, fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    job = types_pb2.Job(id="job_1", number=12, state="PENDING")
    fake.answers["Jobs/Explain"] = jobs_pb2.ExplainResponse(job=job, ahead=ahead, ahead_total=total)
    assert run(["explain", "12"]) == 0
    assert f"ahead of it: {told}\n" in capsys.readouterr().out


def test_who_is_ahead_is_named_by_number_and_name(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    called = [jobs_pb2.NamedJob(id="job_a", number="7[2]", name="sweep"), jobs_pb2.NamedJob(number="9")]
    job = types_pb2.Job(id="job_1", number=12, state="PENDING")
    fake.answers["Jobs/Explain"] = jobs_pb2.ExplainResponse(
        job=job, ahead=["job_a", "job_b"], ahead_jobs=called, ahead_total=4
    )
    assert run(["explain", "12"]) == 0
    assert "ahead of it: 7[2] sweep, 9 and 2 more\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overdue", "start"),
    [(False, "its score:"), (True, "it has waited past max_wait, which stands above its score:")],
)
def test_a_ranked_job_shows_what_its_score_is_made_of_and_what_puts_others_first(
    overdue: bool, start: str, fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    called = [jobs_pb2.NamedJob(id="job_a", number="7", name="sweep", why="2.913 points")]
    terms = [
        jobs_pb2.ScoreTerm(factor=factor, weight_milli=weight, factor_micro=value, points_micro=points)
        for factor, weight, value, points in (
            ("fair_share", 2_000, 830_000, 1_660_000),
            ("age", 500, 42_000, 21_000),
        )
    ]
    job = types_pb2.Job(id="job_1", number=12, state="PENDING")
    fake.answers["Jobs/Explain"] = jobs_pb2.ExplainResponse(
        job=job, ahead=["job_a"], ahead_jobs=called, ahead_total=1, terms=terms, overdue=overdue
    )
    assert run(["explain", "12"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "ahead of it: 7 sweep (2.913 points)" in told
    assert f"{start} 1.681 points = fair_share 1.660 (2 x 0.830) + age 0.021 (0.5 x 0.042)" in told


@pytest.mark.parametrize(
    ("code", "held"), [("BudgetCommitted", True), ("BudgetExhausted", True), ("BeginTime", False)]
)
def test_a_plan_that_only_a_budget_holds_says_where_it_would_go(
    code: str, held: bool, fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers["Jobs/Plan"] = jobs_pb2.PlanResponse(
        members=[types_pb2.Member(node="gpu-01", cpu_milli=2000)], reason=types_pb2.Reason(code=code)
    )
    assert run(["run", "--dry-run", "--", "true"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0].endswith("gpu-01 (2 cpus)")
    assert (lines[1] == "once its budget pays") is held
