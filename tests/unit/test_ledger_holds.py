"""Hold, settle, release, roll: the ledger by example."""

from __future__ import annotations

import msgspec
import pytest

from bursar.clock import DAY_US, HOUR_US
from bursar.errors import InvariantViolation
from bursar.model import Hold
from bursard.events import Charge, OpeningHold
from bursard.ledger import Entry, Ledger, Transaction, book_of, budget_accounts, budget_of, rows

MAY = 490_000 * HOUR_US
JUNE = MAY + 744 * HOUR_US
JULY = JUNE + 720 * HOUR_US


def usage(nanos: int, at: int = MAY, attempt: str = "a1", job: str = "j1") -> Charge:
    return Charge(
        kind="usage", node_id="n1", start=at, end=at + 1, nanos=nanos, price_id="p",
        attempt_id=attempt, job_id=job,
    )  # fmt: skip


def idle(nanos: int, kind: str = "idle") -> Charge:
    return Charge(kind=kind, node_id="n1", start=MAY, end=MAY + 1, nanos=nanos, price_id="p")


def placed(nanos: int = 100, *budgets: str) -> Ledger:
    ledger = Ledger()
    ledger.place("a1", "j1", [Hold(b, MAY, nanos) for b in budgets or ("team",)])
    return ledger


def position(ledger: Ledger, period: int = MAY, budget: str = "team") -> tuple[int, int, int]:
    return (
        ledger.available(budget, period),
        ledger.held(budget, period),
        ledger.settled(budget, period),
    )


def refused(ledger: Ledger, match: str, *call: object) -> None:
    """The call raises and leaves the ledger as it was."""
    before = msgspec.json.encode(ledger.image())
    method, *arguments = call
    with pytest.raises(InvariantViolation, match=match):
        method(*arguments)  # type: ignore[operator]
    assert msgspec.json.encode(ledger.image()) == before


def test_a_hold_moves_money_from_available_to_held_in_every_budget() -> None:
    ledger = placed(100, "team", "org")
    assert position(ledger) == position(ledger, budget="org") == (-100, 100, 0)
    assert ledger.room("team", MAY, 250) == 150
    assert ledger.open_holds("a1") == (Hold("team", MAY, 100), Hold("org", MAY, 100))


def test_an_attempt_without_a_budget_is_live_and_pays() -> None:
    ledger = Ledger()
    assert ledger.place("a1", "j1", []) is None
    (tx,) = ledger.charge([usage(7)])
    assert tx.entries == (Entry("node/n1", -7), Entry("job/j1", 7))
    assert ledger.release("a1") is None
    assert (ledger.attempt_settled("a1"), ledger.overrun("a1")) == (7, 0)


def test_usage_books_its_cost_and_settles_its_hold_in_one_transaction() -> None:
    ledger = placed(100, "team", "org")
    (tx,) = ledger.charge([usage(30)])
    assert (tx.kind, tx.attempt_id, tx.job_id, tx.node_id) == ("usage", "a1", "j1", "n1")
    assert position(ledger) == position(ledger, budget="org") == (-100, 70, 30)
    assert ledger.job_settled("j1") == ledger.attempt_settled("a1") == 30
    assert ledger.balances["node/n1"] == -30


def test_release_gives_back_what_was_not_spent() -> None:
    ledger = placed(100)
    ledger.charge([usage(30)])
    ledger.release("a1")
    assert position(ledger) == (-30, 0, 30)
    assert not ledger.is_live("a1")
    assert ledger.open_holds("a1") == ()


def test_release_of_a_hold_spent_to_the_nano_moves_nothing_and_still_resolves() -> None:
    ledger = placed(100)
    ledger.charge([usage(100)])
    assert ledger.release("a1") is None
    refused(ledger, "already released", ledger.release, "a1")


def test_a_charge_beyond_its_hold_is_owed_by_the_budget_and_shows_as_overrun() -> None:
    ledger = placed(100)
    ledger.charge([usage(90), usage(30)])
    assert position(ledger) == (-120, 0, 120)
    assert ledger.overrun("a1") == 20
    assert ledger.violations() == []


def test_idle_down_and_overhead_belong_to_nobody() -> None:
    ledger = Ledger()
    ledger.charge([idle(5), idle(4, "down"), idle(-1, "overhead")])
    assert ledger.balances == {
        "node/n1": -8, "idle/n1": 5, "down/n1": 4, "overhead/n1": -1,
    }  # fmt: skip


def test_a_charge_of_zero_moves_no_money() -> None:
    assert placed().charge([usage(0), idle(0)]) == []


def test_a_hold_resolves_once() -> None:
    ledger = placed()
    ledger.release("a1")
    refused(ledger, "already released", ledger.release, "a1")
    refused(ledger, "already released", ledger.charge, [idle(3), usage(1)])
    refused(ledger, "placed twice", ledger.place, "a1", "j1", [])


def test_an_unknown_attempt_can_neither_pay_nor_be_released() -> None:
    ledger = placed()
    refused(ledger, "not known", ledger.release, "a2")
    refused(ledger, "not known", ledger.charge, [usage(1), usage(1, attempt="a2")])


def test_a_charge_on_the_wrong_job_or_of_the_wrong_kind_is_refused_whole() -> None:
    ledger = placed()
    refused(ledger, "on j1", ledger.charge, [usage(1), usage(1, job="j2")])
    refused(ledger, ">= 0", ledger.charge, [usage(1), usage(-1)])
    refused(ledger, "kind", ledger.charge, [usage(1), idle(1, "gift")])


def test_one_attempt_holds_each_budget_once() -> None:
    ledger = Ledger()
    refused(ledger, "one hold", ledger.place, "a1", "j1", [Hold("t", MAY, 1), Hold("t", JUNE, 1)])
    refused(ledger, "one hold", ledger.place, "a1", "j1", [Hold("t", MAY, -1)])


def test_a_transaction_that_does_not_sum_to_zero_is_refused() -> None:
    ledger = placed()
    gift = Transaction("gift", (Entry("job/j1", 1), Entry("node/n1", -2)))
    refused(ledger, "off by -1", ledger.post, gift)


def test_roll_moves_what_live_attempts_hold_into_the_next_period() -> None:
    ledger = placed(100)
    ledger.place("a2", "j2", [Hold("team", MAY, 50)])
    ledger.charge([usage(30)])
    ledger.release("a2")
    (tx,) = ledger.roll("team", MAY, JUNE)
    assert (tx.kind, tx.attempt_id, tx.budget) == ("roll", "a1", "team")
    assert position(ledger, MAY) == (-30, 0, 30)
    assert position(ledger, JUNE) == (-70, 70, 0)
    ledger.charge([usage(20, JUNE)])
    assert position(ledger, JUNE) == (-70, 50, 20)


def test_a_late_charge_settles_in_the_period_of_its_date() -> None:
    """1. a1 holds 100 in May. 2. It rolls into June, then July. 3. A report of June arrives."""
    ledger = placed(100)
    ledger.roll("team", MAY, JUNE)
    ledger.roll("team", JUNE, JULY)
    ledger.charge([usage(10, JUNE + 5), usage(1, MAY), usage(2, MAY - HOUR_US), usage(4, JULY)])
    assert position(ledger, MAY) == (-3, 0, 3)
    assert position(ledger, JUNE) == (-10, 0, 10)
    assert position(ledger, JULY) == (-87, 83, 4)
    assert ledger.violations() == []


def test_a_late_charge_beyond_the_hold_is_an_overrun_of_the_old_period() -> None:
    ledger = placed(100)
    ledger.roll("team", MAY, JUNE)
    ledger.charge([usage(130, MAY)])
    assert position(ledger, MAY) == (-130, 0, 130)
    assert position(ledger, JUNE) == (0, 0, 0)
    assert ledger.overrun("a1") == 30


def test_a_charge_dated_before_the_first_period_of_its_hold_settles_there() -> None:
    ledger = placed(100)
    ledger.charge([usage(5, MAY - 1)])
    assert position(ledger, MAY) == (-100, 95, 5)


def test_a_spent_hold_rolls_too_so_that_its_overrun_is_of_the_new_period() -> None:
    ledger = placed(100)
    ledger.charge([usage(100)])
    assert ledger.roll("team", MAY, JUNE) == []
    ledger.charge([usage(5, JUNE)])
    assert position(ledger, JUNE) == (-5, 0, 5)


def test_a_budget_does_not_roll_into_the_period_it_is_in() -> None:
    ledger = placed()
    refused(ledger, "to itself", ledger.roll, "team", MAY, MAY)


def test_what_a_clock_ahead_took_along_rolls_back_as_if_it_had_never_gone() -> None:
    """1. May, June, then July, which has not begun. 2. Back to June. 3. Reports of all three arrive."""
    ledger = placed(100)
    ledger.roll("team", MAY, JUNE)
    ledger.roll("team", JUNE, JULY)
    (tx,) = ledger.roll("team", JULY, JUNE)
    assert (tx.kind, position(ledger, JULY), position(ledger, JUNE)) == ("roll", (0, 0, 0), (-100, 100, 0))
    ledger.charge([usage(1, MAY), usage(10, JUNE), usage(4, JULY)])
    assert position(ledger, MAY) == (-1, 0, 1)
    assert position(ledger, JUNE) == (-99, 85, 14)
    assert position(ledger, JULY) == (0, 0, 0)
    assert ledger.violations() == []


def test_closing_a_job_frees_its_memory_and_says_what_it_cost() -> None:
    ledger = placed(100)
    ledger.charge([usage(30)])
    refused(ledger, "still hold", ledger.close_job, "j1")
    ledger.release("a1")
    assert ledger.close_job("j1") == 30
    assert ledger.close_job("j1") == 0
    assert ledger.job_settled("j1") == 0
    assert ledger.closed_nanos == 30
    assert ledger.image().attempts == ()
    assert ledger.violations() == []


def test_a_thousand_ended_jobs_leave_nothing_behind() -> None:
    ledger = Ledger()
    for i in range(1000):
        ledger.place(f"a{i}", f"j{i}", [Hold("team", MAY, 100)])
        ledger.charge([usage(60, MAY, f"a{i}", f"j{i}")])
        ledger.release(f"a{i}")
        ledger.close_job(f"j{i}")
    image = ledger.image()
    assert len(image.balances) == 4
    assert image.attempts == ()
    assert not any((ledger._attempts, ledger._jobs, ledger._live))


def test_an_image_is_independent_of_the_ledger_and_restores_it() -> None:
    ledger = placed(100)
    ledger.roll("team", MAY, JUNE)
    image = ledger.image()
    before = msgspec.json.encode(image)
    twin = Ledger.from_image(msgspec.json.decode(before, type=type(image)))
    for each in (ledger, twin):
        each.charge([usage(10, MAY)])
        each.roll("team", JUNE, JULY)
        each.release("a1")
    assert msgspec.json.encode(image) == before
    assert msgspec.json.encode(twin.image()) == msgspec.json.encode(ledger.image())


def test_rows_are_the_entries_with_what_they_are_about() -> None:
    ledger = placed(100)
    assert rows(ledger.charge([usage(30)]))[1] == ("usage", "job/j1", 30, "a1", "j1", "n1")


def test_violations_names_a_balance_changed_behind_its_back() -> None:
    ledger = placed(100)
    ledger.balances[budget_accounts("team", MAY).held] -= 1
    found = " ".join(ledger.violations())
    assert "L1: all balances" in found
    assert "team in" in found


def test_an_account_says_which_book_and_budget_it_is_of() -> None:
    accounts = budget_accounts("nlp/fine", MAY)
    assert budget_of(accounts.held) == ("nlp/fine", MAY, "held")
    assert budget_of("job/j1") is None
    assert book_of(accounts.held) == book_of(accounts.settled) == f"budget/nlp/fine/{MAY}"
    assert book_of("job/j1") == book_of("node/n1") == "cost"


# ------------------------------------------------------------------ an account that opens


def test_an_account_opens_with_what_was_spent_and_with_those_who_run() -> None:
    ledger = placed(100, "team")
    ledger.place("a2", "j2", [Hold("org", MAY, 70)])
    ledger.place("a3", "j3", [])
    made = ledger.open("team", MAY, 40, MAY, [OpeningHold("a1", 100, 100), OpeningHold("a2", 50, 70)])
    assert [(one.kind, one.attempt_id, one.job_id, one.budget) for one in made] == [
        ("opening", "", "", "team"), ("hold", "a2", "j2", "team"),
    ]  # fmt: skip
    assert made[0].entries == (
        Entry(f"budget/team/{MAY}/available", -40), Entry(f"budget/team/{MAY}/settled", 40)
    )  # fmt: skip
    assert position(ledger) == (-190, 150, 40)
    assert ledger.open_holds("a2") == (Hold("org", MAY, 70), Hold("team", MAY, 50))
    assert ledger.violations() == []
    ledger.charge([usage(10, attempt="a2", job="j2")])
    assert position(ledger) == (-190, 140, 50)


def test_an_account_that_opens_again_forgets_what_stood_there() -> None:
    ledger = placed(100, "team", "org")
    ledger.charge([usage(30)])
    made = ledger.open("team", JUNE, 5, JUNE, [])
    assert [one.kind for one in made] == ["release", "opening"]
    assert made[0].budget == "team"
    assert position(ledger) == (-30, 0, 30)
    assert position(ledger, JUNE) == (-5, 0, 5)
    assert position(ledger, budget="org") == (-100, 70, 30)
    assert [one.kind for one in ledger.open("team", MAY, 0, MAY, [])] == ["opening"]
    assert position(ledger) == (0, 0, 0)
    assert ledger.open("team", MAY, 0, MAY, []) == []
    assert ledger.violations() == []


def test_what_is_dated_before_an_opened_account_counts_settles_nowhere() -> None:
    ledger = placed(100, "team")
    ledger.open("team", MAY, 0, MAY + HOUR_US, [OpeningHold("a1", 100, 100)])
    ledger.charge([usage(30, MAY)])
    assert position(ledger) == (-70, 70, 0)
    ledger.charge([usage(30, MAY + HOUR_US)])
    assert position(ledger) == (-70, 40, 30)
    ledger.roll("team", MAY, JUNE)
    ledger.charge([usage(5, MAY), usage(6, MAY + HOUR_US), usage(7, JUNE)])
    assert (position(ledger), position(ledger, JUNE)) == ((-36, 0, 36), (-29, 22, 7))
    assert ledger.violations() == []


def test_an_opening_leaves_what_is_told_late_to_the_period_before() -> None:
    """Who had a hold already keeps the periods that it went through; who joins never was in them."""
    ledger = placed(100, "team")
    ledger.roll("team", MAY, JUNE)
    ledger.place("a2", "j2", [])
    ledger.open("team", JUNE, 0, JUNE, [OpeningHold("a1", 100, 100), OpeningHold("a2", 50, 50)])
    ledger.charge([usage(30, MAY), usage(20, MAY, "a2", "j2")])
    assert (position(ledger), position(ledger, JUNE)) == ((-30, 0, 30), (-100, 100, 0))
    assert ledger.violations() == []


def test_who_leaves_a_budget_gives_back_and_pays_it_no_more() -> None:
    ledger = placed(100, "team", "org")
    ledger.place("a0", "j0", [Hold("team", MAY, 0)])
    (back,) = ledger.close("team")
    assert (back.kind, back.attempt_id, back.job_id, back.budget) == ("release", "a1", "j1", "team")
    assert position(ledger) == (0, 0, 0)
    ledger.charge([usage(30)])
    assert (position(ledger), position(ledger, budget="org")) == ((0, 0, 0), (-100, 70, 30))
    assert ledger.close("team") == []
    ledger.release("a1")
    assert ledger.violations() == []


def test_an_opening_with_an_attempt_that_is_gone_changes_nothing() -> None:
    ledger = placed(100, "team")
    refused(ledger, "cannot be taken in", ledger.open, "team", MAY, 1, MAY, [OpeningHold("a9", 1, 1)])


def test_an_image_keeps_from_when_an_account_counts() -> None:
    ledger = placed(100, "team")
    ledger.open("team", MAY, 0, MAY + HOUR_US, [OpeningHold("a1", 100, 100)])
    again = Ledger.from_image(ledger.image())
    again.charge([usage(30, MAY)])
    assert position(again) == (-70, 70, 0)


def test_what_is_told_late_after_a_month_became_a_rolling_window_settles_on_its_day() -> None:
    """The month began today: who held of it already is in the right period, and was in no day before."""
    ledger = placed(100)
    ledger.roll("team", MAY, JUNE)
    days = [(JUNE - DAY_US, 0)]
    ledger.open("team", JUNE, 0, JUNE - DAY_US, [OpeningHold("a1", 100, 100)], days)
    ledger.charge([usage(30, JUNE - HOUR_US)])
    assert ledger.over("team", (JUNE - DAY_US, JUNE)) == (30, 0)
    assert ledger.settled("team", JUNE - DAY_US) == 30
    assert ledger.held("team", JUNE) == 70


def test_a_window_counts_what_was_settled_while_a_clock_was_back() -> None:
    ledger = placed(100)
    ledger.roll("team", MAY, JUNE)
    assert ledger.over("team", (MAY, JUNE)) == (0, 0)
    ledger.roll("team", JUNE, MAY)
    ledger.charge([usage(30, MAY)])
    ledger.roll("team", MAY, JUNE)
    assert ledger.over("team", (MAY, JUNE)) == (30, 0)


def test_days_of_a_budget_are_whole_from_the_one_after_its_first_charge() -> None:
    day = MAY // DAY_US
    next_day = (day + 1) * DAY_US
    ledger = placed(100)
    ledger.charge([usage(30, MAY), usage(5, next_day), usage(7, next_day + DAY_US - 1)])
    again = Ledger.from_image(ledger.image())
    for one in (ledger, again):
        assert (one.days["team"].since, one.days["team"].nanos) == (day + 1, {day: 30, day + 1: 12})
