"""Every hour of a node is owned, to the nano, whoever came and went and whenever it was metered.

A small node is played here: slots hold members one after the other, metering points fall anywhere, some
stretches are down. What comes out is compared with the hourly rate alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.clock import HOUR_US
from bursar.errors import InvariantViolation
from bursar.model import ShareRates
from bursar.money import split_largest_remainder
from bursard.events import Charge
from bursard.ledger import Ledger, Parts, add_used, held_nanos, member_charges, node_charges

EPOCH = 490_000 * HOUR_US
SPAN_US = 3 * HOUR_US

NodeCharges = Callable[..., tuple[Charge, ...]]
instants = st.integers(0, SPAN_US) | st.sampled_from([0, 1, HOUR_US, HOUR_US - 1, 2 * HOUR_US])
rates = st.builds(
    ShareRates,
    gpu=st.integers(0, 98_000_000_000),
    cpu=st.integers(0, 3_000_000_019),
    memory=st.integers(0, 97),
)


class Stay(NamedTuple):
    """One member in one slot, `[start, end)` from the epoch."""

    slot: int
    start: int
    end: int


class Day(NamedTuple):
    """One history of one node."""

    rates: ShareRates
    shares: list[ShareRates]
    stays: list[Stay]
    cuts: list[int]
    down: set[int]


@st.composite
def days(draw: st.DrawFn) -> Day:
    whole = draw(rates)
    weights = draw(st.lists(st.integers(0, 7), min_size=1, max_size=4))
    parts = [split_largest_remainder(total, weights) for total in (whole.gpu, whole.cpu, whole.memory)]
    shares = [ShareRates(*part) for part in zip(*parts, strict=True)]
    stays = []
    for slot in range(len(shares)):
        ends = sorted(draw(st.lists(instants, max_size=6)))
        stays += [Stay(slot, a, b) for a, b in zip(ends[::2], ends[1::2], strict=False) if a < b]
    cuts = [*sorted(draw(st.lists(instants, max_size=8))), SPAN_US]
    return Day(whole, shares, stays, cuts, draw(st.sets(st.integers(0, 8))))


def play(
    day: Day, complete: NodeCharges = node_charges, *, known: bool = True
) -> tuple[list[Charge], dict[tuple[int, int], int]]:
    """All charges of the day, and how many members were in each metered interval."""
    found: list[Charge] = []
    counts: dict[tuple[int, int], int] = {}
    through = 0
    for number, cut in enumerate(day.cuts):
        used: dict[int, Parts] = {}
        present = [stay for stay in day.stays if stay.start < cut and stay.end > through]
        for stay in present:
            charges = member_charges(
                attempt_id=f"a{stay.slot}-{stay.start}",
                job_id=f"j{stay.slot}",
                rank=0,
                node_id="n",
                price_id="p",
                rates=day.shares[stay.slot],
                started_at=EPOCH + stay.start,
                from_us=max(0, through - stay.start),
                to_us=min(cut, stay.end) - stay.start,
            )
            add_used(used, charges)
            found += charges
        found += complete(
            node_id="n",
            price_id="p",
            rates=day.rates,
            axis_start=EPOCH,
            from_at=EPOCH + through,
            to_at=EPOCH + cut,
            used=used,
            kind="down" if number in day.down else "idle",
            shares=len(present) if known else None,
        )
        counts[through, cut] = len(present)
        through = cut
    return found, counts


def hours_that_do_not_tie(charges: list[Charge], whole: ShareRates) -> list[str]:
    """The checker: each of the three hours must cost the rate, by component and in all."""
    sums = Counter[tuple[int, str]]()
    for each in charges:
        for part in ("gpu", "cpu", "memory", "nanos"):
            sums[each.start // HOUR_US, part] += getattr(each, part)
    expected = {"gpu": whole.gpu, "cpu": whole.cpu, "memory": whole.memory, "nanos": whole.total}
    return [
        f"hour {hour}: {part} is {sums[hour, part]}, not {nanos}"
        for hour in range(EPOCH // HOUR_US, (EPOCH + SPAN_US) // HOUR_US)
        for part, nanos in expected.items()
        if sums[hour, part] != nanos
    ]


@given(days(), st.booleans())
def test_every_full_hour_of_a_node_costs_exactly_its_rate(day: Day, known: bool) -> None:
    charges, _ = play(day, known=known)
    assert hours_that_do_not_tie(charges, day.rates) == []


@given(days(), st.booleans())
def test_idle_is_never_negative_and_overhead_is_only_rounding(day: Day, known: bool) -> None:
    charges, counts = play(day, known=known)
    for each in charges:
        assert each.nanos == each.gpu + each.cpu + each.memory
        if each.kind in ("idle", "down"):
            assert min(each.gpu, each.cpu, each.memory) >= 0
            assert each.nanos > 0
        if each.kind == "overhead":
            at = each.start - EPOCH
            members = next(count for (a, b), count in counts.items() if a <= at < b)
            assert abs(each.nanos) <= 3 * (members + 1)


@given(days())
def test_a_fully_held_node_has_no_idle_when_the_shares_are_known(day: Day) -> None:
    full = day._replace(stays=[Stay(slot, 0, SPAN_US) for slot in range(len(day.shares))])
    charges, _ = play(full)
    assert {each.kind for each in charges} <= {"usage", "overhead"}
    assert hours_that_do_not_tie(charges, day.rates) == []


@given(days())
def test_posting_a_day_leaves_the_ledger_sound_and_the_node_credited(day: Day) -> None:
    charges, _ = play(day)
    ledger = Ledger()
    for attempt, job in sorted({(c.attempt_id, c.job_id) for c in charges if c.attempt_id}):
        ledger.place(attempt, job, [])
    ledger.charge(charges)
    assert ledger.violations() == []
    assert ledger.balances.get("node/n", 0) == -3 * day.rates.total


@given(
    rates,
    st.integers(0, HOUR_US),
    st.lists(st.integers(0, SPAN_US), min_size=1, max_size=12),
    st.data(),
)
def test_the_largest_counter_alone_decides_the_bill(
    share: ShareRates, offset: int, counters: list[int], data: st.DataObject
) -> None:
    """Reports are drawn with loss, repetition and any order; the last word is the largest."""
    arrived = [*data.draw(st.lists(st.sampled_from(counters), max_size=20)), max(counters)]
    seen, bill, time_us = 0, 0, 0
    for counter in arrived:
        for each in member_charges(
            attempt_id="a", job_id="j", rank=0, node_id="n", price_id="p", rates=share,
            started_at=EPOCH + offset, from_us=seen, to_us=counter,
        ):  # fmt: skip
            bill += each.nanos
            time_us += each.end - each.start
        seen = max(seen, counter)
    assert time_us == max(counters)
    assert bill == held_nanos(share, max(counters))


@given(days())
def test_a_device_billed_twice_is_a_fault_when_the_shares_are_known(day: Day) -> None:
    share = ShareRates(gpu=day.rates.gpu + 2_000_000_000)
    twice = day._replace(shares=[share], stays=[Stay(0, 0, SPAN_US)], cuts=[SPAN_US])
    with pytest.raises(InvariantViolation, match="L8"):
        play(twice)


# --- planted faults

UNEVEN = Day(ShareRates(7, 5, 3), [ShareRates(7, 5, 3)], [Stay(0, 11, HOUR_US)], [1, 9, SPAN_US], set())


def rounds_from_each_cut(**arguments: object) -> tuple[Charge, ...]:
    """Counts the node's cost from the last metering point instead of the full hour."""
    found = []
    for each in node_charges(**{**arguments, "used": {}}):  # type: ignore[arg-type]
        whole = arguments["rates"]
        assert isinstance(whole, ShareRates)
        found.append(msgspec.structs.replace(each, gpu=whole.gpu * (each.end - each.start) // HOUR_US))
    return tuple(found)


def forgets_overhead(**arguments: object) -> tuple[Charge, ...]:
    """Leaves rounding to nobody."""
    kept = node_charges(**arguments)  # type: ignore[arg-type]
    return tuple(each for each in kept if each.kind != "overhead")


@pytest.mark.parametrize("complete", [rounds_from_each_cut, forgets_overhead])
def test_a_planted_fault_in_the_node_cost_is_caught(complete: NodeCharges) -> None:
    charges, _ = play(UNEVEN, complete)
    assert hours_that_do_not_tie(charges, UNEVEN.rates) != []


def test_the_same_uneven_day_ties_without_the_fault() -> None:
    charges, _ = play(UNEVEN)
    assert hours_that_do_not_tie(charges, UNEVEN.rates) == []
    assert "overhead" in {each.kind for each in charges}
