"""Who does what a remedy says has what was missing: amounts to be reached are written rounded up, amounts
that are left rounded down.
"""

from __future__ import annotations

import re
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bursar.cli.output import Column, human
from bursar.cli.terminal import left_text
from bursar.codec import view
from bursar.model import Reason, ReasonCode
from bursar.money import parse_amount, parse_money
from bursar_policies.decision import BudgetRoom, JobClass, cap_of
from bursard.scheduler import plan, reason_of, text
from bursard.scheduler.testing import Node, columns, job_class, queue, snapshot

NOW = 1_767_225_600_000_000
USD = 10**9
RATES = st.integers(1, 50 * USD)
LIMITS = st.integers(0, 20 * USD)
AMOUNTS = st.integers(-(10**12), 10**12)
SOME = settings(max_examples=50, deadline=None)


def answer(wanted: JobClass, rate: int, *budgets: BudgetRoom) -> Reason | None:
    """Why it waits on an empty node; None: it starts."""
    nodes = columns([Node(name="a", gpus=0, rates=(0, rate, 0))])
    world = replace(snapshot(nodes, queue(wanted, (1, "j")), budgets=budgets), currency="USD")
    found = plan(world, NOW)
    return None if found.starts else reason_of(world, found, 0)


def advised(reason: Reason, before: str) -> int:
    """The amount after these words in a remedy."""
    match = re.search(rf"{re.escape(before)} (\S+ USD)", reason.remedy)
    assert match is not None, reason
    return parse_money(match.group(1)).nanos


@given(nanos=AMOUNTS)
@SOME
def test_what_must_be_reached_is_written_up_and_what_can_be_had_down(nanos: int) -> None:
    enough, there = text.at_least(nanos, "USD"), text.at_most(nanos, "USD")
    least, most = parse_amount(enough.split()[0]), parse_amount(there.split()[0])
    assert most <= nanos <= least
    assert least - most in ({0} if nanos % (USD // 100) == 0 or abs(nanos) < USD // 10 else {USD // 100})


@given(nanos=AMOUNTS)
@SOME
def test_the_command_line_shows_no_more_as_left_than_there_is(nanos: int) -> None:
    amount = view.money(nanos // 1_000 * 1_000, "USD")
    (cell,) = human([{"left": amount}], Column("left", left=True))
    for shown in (left_text(amount), cell):
        number = Decimal(shown.removesuffix(" USD").replace(",", ""))
        assert 0 <= Decimal(amount["amount"]) - number < Decimal("0.01")
    assert left_text(view.money(0, "USD")) == "0.00 USD"
    assert left_text(view.money(4_999_999_999, "USD")) == "4.99 USD"


@given(rate=RATES, limit=LIMITS, settled=LIMITS, held=LIMITS)
@SOME
def test_a_budget_raised_by_what_the_remedy_says_pays(rate: int, limit: int, settled: int, held: int) -> None:
    wanted = job_class(budgets=("b",))
    reason = answer(wanted, rate, BudgetRoom("b", limit, settled, held, "USD"))
    if reason is not None:
        more = advised(reason, "raise the budget by")
        assert answer(wanted, rate, BudgetRoom("b", limit + more, settled, held, "USD")) is None


@given(rate=RATES, limits=st.tuples(LIMITS, LIMITS, LIMITS))
@SOME
def test_each_limit_that_is_too_low_is_named_with_what_it_lacks(
    rate: int, limits: tuple[int, int, int]
) -> None:
    cap = cap_of("arr-1")
    wanted = job_class(budgets=("x", "y", cap))
    rooms = [BudgetRoom(name, limit, 0, 0, "USD") for name, limit in zip("xy", limits, strict=False)]
    rooms.append(BudgetRoom(cap, limits[2], 0, 0, "USD", array="7"))
    reason = answer(wanted, rate, *rooms)
    if reason is None:
        return
    raised = {}
    for name, words in (("x", "budget x by"), ("y", "budget y by"), (cap, "max_cost of array 7 by")):
        if words in reason.remedy:
            raised[name] = advised(reason, words)
    if "budget" in reason.message.split("has")[0]:
        first = re.match(r"budget (\w+) has", reason.message)
        assert first is not None
        raised[first.group(1)] = advised(reason, "the budget by")
        more = [replace(room, limit_nanos=room.limit_nanos + raised.get(room.name, 0)) for room in rooms]
    else:
        more = [*rooms[:2], replace(rooms[2], limit_nanos=advised(reason, "raise it to"))]
    assert answer(wanted, rate, *more) is None


@given(rate=st.integers(70 * USD, 5_000 * USD), left=st.integers(-3 * USD, USD))
@SOME
def test_a_cap_raised_by_what_the_remedy_says_pays_for_a_second(rate: int, left: int) -> None:
    wanted = job_class(max_cost_nanos=left or -1)
    reason = answer(wanted, rate)
    if reason is not None:
        assert reason.code is ReasonCode.BUDGET_EXHAUSTED
        more = advised(reason, "raise max_cost by at least")
        assert answer(job_class(max_cost_nanos=(left or -1) + more), rate) is None


@given(rate=RATES, cap=st.integers(1, 50 * USD))
@SOME
def test_a_price_limit_raised_to_what_the_remedy_says_is_kept(rate: int, cap: int) -> None:
    reason = answer(job_class(max_price_nanos_per_hour=cap), rate)
    if reason is not None:
        match = re.search(r"raise max_price to (\S+ USD)/h", reason.remedy)
        assert match is not None
        most = parse_money(match.group(1)).nanos
        assert answer(job_class(max_price_nanos_per_hour=most), rate) is None
