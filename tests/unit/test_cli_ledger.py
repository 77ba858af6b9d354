"""`bursar ledger`: what it sends, prints and refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar.cli.main import run
from bursar.client.fake import FakeServer
from bursar.v1 import money_pb2


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.chdir(tmp_path)
    with FakeServer(tmp_path / "run") as server:
        monkeypatch.setenv("BURSAR_SERVER", server.url)
        yield server


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--to", "80%"], (800_000, "")),
        (["--to", "12.5 %"], (125_000, "")),
        (["--to", "0.0001%"], (1, "")),
        (["--to", "12.50 EUR"], (None, "12500000000")),
        (["--to", "0 USD"], (None, "0")),
    ],
)
def test_ledger_correct_says_what_charges_are_to_be(
    fake: FakeServer, capsys: pytest.CaptureFixture[str], words: list[str], expected: tuple[int | None, str]
) -> None:
    fake.answers["Money/Correct"] = money_pb2.CorrectResponse(
        job_id="job_1", charges=2, before_nanos=10**9, after_nanos=8 * 10**8, currency="EUR", booked_at=1,
        budgets=[money_pb2.BudgetShift(budget="b", period_start=1, nanos=-(2 * 10**8))],
    )  # fmt: skip
    assert run(["ledger", "correct", "1", *words, "--reason", "throttled"]) == 0
    printed = capsys.readouterr().out
    request = fake.calls("Money/Correct")[0]
    assert (request.job, request.reason, request.dry_run) == ("1", "throttled", False)
    found = (
        request.to_ppm if request.HasField("to_ppm") else None,
        request.amount.nanos if request.HasField("amount") else "",
    )
    assert found == expected
    assert "2 charges of job_1 were corrected: 1.00 EUR before, 0.8000 EUR now" in printed
    assert "budget b has settled 0.2000 EUR less" in printed


@pytest.mark.parametrize("target", ["-1 USD", "80", "x%", "-3%", "1.23456%"])
def test_ledger_correct_refuses_what_charges_cannot_be(fake: FakeServer, target: str) -> None:
    assert run(["ledger", "correct", "1", f"--to={target}", "--reason", "r"]) == 2
    assert fake.calls("Money/Correct") == []


def test_a_correction_that_changes_nothing_says_so(
    fake: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers["Money/Correct"] = money_pb2.CorrectResponse(
        job_id="job_1", before_nanos=3 * 10**9, after_nanos=3 * 10**9, currency="EUR"
    )
    assert run(["ledger", "correct", "1", "--to", "100%", "--reason", "r"]) == 0
    assert capsys.readouterr().out == "nothing to correct: the charges are 3.00 EUR already\n"


def test_a_trial_says_what_would_be(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers["Money/Correct"] = money_pb2.CorrectResponse(
        job_id="job_1", charges=1, before_nanos=10**9, after_nanos=2 * 10**9, currency="EUR", booked_at=10**6
    )
    words = ["--since", "2026-10-03", "--until", "2026-10-04", "--dry-run"]
    assert run(["ledger", "correct", "1", "--to", "2 EUR", "--reason", "r", *words]) == 0
    assert "1 charge of job_1 would be corrected: 1.00 EUR before, 2.00 EUR now" in capsys.readouterr().out
    (request,) = fake.calls("Money/Correct")
    assert (request.dry_run, request.until - request.since) == (True, 86_400_000_000)
