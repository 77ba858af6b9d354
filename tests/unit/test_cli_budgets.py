"""Budgets for people: where one stands, and what is given to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar.cli.budget import budget_text
from bursar.cli.main import run
from bursar.client.fake import FakeServer
from bursar.codec import view
from bursar.v1 import money_pb2 as pb
from bursar.v1 import types_pb2

AT = 1_795_233_600_000_000


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.chdir(tmp_path)
    with FakeServer(tmp_path / "run") as server:
        monkeypatch.setenv("BURSAR_SERVER", server.url)
        yield server


def test_a_budget_that_never_renews_says_so_instead_of_a_period() -> None:
    once = pb.Budget(name="nlp", period="one-time", limit_nanos=5 * 10**9, currency="USD")
    pairs = [line.split(None, 1) for line in budget_text(view.budget(once)).splitlines()]
    assert ["limit", "5.00 USD in all"] in pairs
    assert ["period", "one-time, it never renews"] in pairs


def given_budget(**more: Any) -> pb.Budget:
    nanos = types_pb2.Amount
    return pb.Budget(
        id="bud_nlp",
        name="nlp",
        period="month",
        enforcement="hard",
        limit_nanos=125 * 10**9,
        base_limit=nanos(nanos=str(100 * 10**9)),
        granted=nanos(nanos=str(30 * 10**9)),
        transferred=nanos(nanos=str(-5 * 10**9)),
        settled_nanos=10**9,
        currency="USD",
        period_start=AT,
        period_end=AT + 10**12,
        **more,
    )


def test_budget_grant_says_how_much_until_when_and_what_is_left(
    fake: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers["Money/GrantBudget"] = pb.BudgetPostingResponse(budgets=[given_budget()])
    for words in (["30", "USD"], ["30USD"], ["30 USD"]):
        assert run(["budget", "grant", "nlp", *words, "--reason", "paper", "--idempotency-key", "k"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("30.00 USD granted to budget nlp until ")
    assert out[0].endswith("; limit 125.00 USD, settled 1.00 USD, held 0.00 USD, available 124.00 USD")
    for asked in fake.calls("Money/GrantBudget"):
        assert (asked.budget, asked.amount.nanos, asked.currency) == ("nlp", str(30 * 10**9), "USD")
        assert (asked.reason, asked.key) == ("paper", "k")


def test_budget_grant_takes_back_and_says_when_a_key_gave_already(
    fake: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers["Money/GrantBudget"] = pb.BudgetPostingResponse(budgets=[given_budget()])
    assert run(["budget", "grant", "nlp", "3 USD", "--reason", "r", "--take-back"]) == 0
    assert fake.calls("Money/GrantBudget")[0].amount.nanos == str(-3 * 10**9)
    assert capsys.readouterr().out.startswith("3.00 USD taken back from budget nlp until ")
    fake.answers["Money/GrantBudget"] = pb.BudgetPostingResponse(budgets=[given_budget()], unchanged=True)
    assert run(["budget", "grant", "nlp", "3 USD", "--reason", "r", "--idempotency-key", "k7"]) == 0
    assert capsys.readouterr().out.startswith("nothing was given again for key k7: budget nlp until ")
    for words in (["-3 USD"], ["0 USD"], ["lots"], ["3"]):
        assert run(["budget", "grant", "nlp", "--reason", "r", "--", *words]) == 2


def test_budget_transfer_shows_both(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    other = pb.Budget(name="audio", limit_nanos=5 * 10**9, currency="USD")
    fake.answers["Money/TransferBudget"] = pb.BudgetPostingResponse(budgets=[other, given_budget()])
    assert run(["budget", "transfer", "audio", "nlp", "5", "USD", "--reason", "r", "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["audio", "nlp"]
    [asked] = fake.calls("Money/TransferBudget")
    assert (asked.budget, asked.to, asked.amount.nanos) == ("audio", "nlp", str(5 * 10**9))


def test_budget_show_lists_who_gave_what_and_why(
    fake: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def posting(kind: str, usd: int, **more: Any) -> pb.BudgetPosting:
        return pb.BudgetPosting(
            kind=kind, amount=types_pb2.Amount(nanos=str(usd * 10**9)), at=AT, by="fin", reason="why", **more
        )

    postings = [
        posting("grant", 30),
        posting("grant", -4),
        posting("transfer", -5, other="audio"),
        posting("transfer", 2),
        posting("carry-over", 8, other_period=AT),
        posting("carry-over", -8, other_period=AT),
    ]
    fake.answers["Money/Budgets"] = pb.BudgetsResponse(budgets=[given_budget(postings=postings)])
    assert run(["budget", "show", "nlp"]) == 0
    out = capsys.readouterr().out
    assert "100.00 USD by its document, 30.00 USD granted, -5.00 USD transferred" in out
    told = [line.split("Z  ")[-1] for line in out.splitlines() if "by fin" in line]
    assert [line.partition(" by fin: why")[0].partition(" the period")[0] for line in told] == [
        "30.00 USD granted",
        "4.00 USD taken back",
        "5.00 USD transferred to audio",
        "2.00 USD transferred from another budget",
        "8.00 USD carried over from",
        "8.00 USD carried over to",
    ]


def test_budget_history_lists_periods_with_what_was_passed_in_them(
    fake: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers["Money/Budgets"] = pb.BudgetsResponse(
        budgets=[
            given_budget(),
            given_budget(crossed_percent=[50, 80]),  # as a daemon of before says it
            given_budget(
                crossed_percent=[50],
                crossed=[
                    pb.BudgetThreshold(on="settled", at_ppm=500_000),
                    pb.BudgetThreshold(on="settled+held", at_ppm=505_000),
                ],
            ),
        ]
    )
    assert run(["budget", "history", "nlp", "-o", "csv", "--columns", "limit,settled,crossed"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "125.000000000,1.000000000,,USD",
        '125.000000000,1.000000000,"50 %, 80 %",USD',
        '125.000000000,1.000000000,"50 % settled, 50.5 % settled+held",USD',
    ]
    assert [(asked.name, asked.history) for asked in fake.calls("Money/Budgets")] == [("nlp", True)]


def test_budget_approve_says_for_how_long_and_how_much(
    fake: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    approval = pb.BudgetApproval(at=AT, by="ann", reason="agreed", until=AT + 10**11)
    approval.ceiling.nanos = str(120 * 10**9)
    fake.answers["Money/ApproveBudget"] = pb.BudgetPostingResponse(budgets=[given_budget(approval=approval)])
    words = ["budget", "approve", "nlp", "--reason", "agreed", "--amount", "20 USD", "--until", "2026-11-22"]
    assert run(words) == 0
    said = capsys.readouterr().out
    assert said.startswith("approved: budget nlp until ")
    assert ", up to 120.00 USD settled and held, by ann: agreed; limit 125.00 USD" in said
    [asked] = fake.calls("Money/ApproveBudget")
    assert (asked.budget, asked.reason, asked.amount.nanos, asked.currency) == (
        "nlp",
        "agreed",
        str(20 * 10**9),
        "USD",
    )
    assert asked.until == 1_795_305_600_000_000


def test_a_budget_names_its_stages_what_ends_them_and_what_is_approved() -> None:
    stage = pb.BudgetStage(
        action="hold-queue", on="settled", at_ppm=800_000, since="80 % of it", remedy="wait"
    )
    shown = budget_text(
        view.budget(given_budget(stages=[stage], approval=pb.BudgetApproval(by="ann", reason="r")))
    )
    pairs = [line.split(None, 1) for line in shown.splitlines()]
    assert ["stages", "hold-queue since it passed 80 % of it"] in pairs
    assert ["approved", "until its period ends, by ann: r"] in pairs
    assert "wait" in shown
    [found] = view.budget(given_budget(stages=[stage]))["stages"]
    assert found == {
        "action": "hold-queue",
        "on": "settled",
        "at_percent": 80.0,
        "since": "80 % of it",
        "remedy": "wait",
    }
