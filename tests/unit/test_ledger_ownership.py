"""Who owns a node's time when its price changes: by example, and however the time is split."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.clock import HOUR_US
from bursar.model import ShareRates
from bursard.ledger import Held, PriceInForce, Share, Span, owned, spans

HOUR = 490_000 * HOUR_US
HALF = HOUR + HOUR_US // 2
OLD, NEW = ShareRates(gpu=800, cpu=160, memory=40), ShareRates(gpu=1600, cpu=320, memory=80)
CHANGE = (PriceInForce(0, "p@1", OLD), PriceInForce(HALF, "p@2", NEW))
QUARTER = Share(gpu=(1000, 4000), cpu=(2, 8), memory=(1, 4))


def held(start: int, end: int, rates: ShareRates, share: Share | None = QUARTER) -> Held:
    return Held(start, end, start, rates, share)


def charges(cut: list[Span], *shares: Held, kind: str = "idle") -> list[tuple[str, str, int, int, int]]:
    found = owned("n", HOUR, cut, shares, kind)
    return [
        (one.kind, one.price_id, one.start - HOUR, one.end - HOUR, one.nanos)
        for part in found
        for one in part.charges
    ]


def test_an_interval_is_cut_where_the_price_changed_and_each_part_costs_what_it_cost_then() -> None:
    assert charges(spans(CHANGE, HOUR, HOUR + HOUR_US)) == [
        ("idle", "p@1", 0, HOUR_US // 2, 500),
        ("idle", "p@2", HOUR_US // 2, HOUR_US, 1000),
    ]


def test_prices_before_and_after_an_interval_cut_nothing() -> None:
    assert [(one.start, one.end, one.price_id) for one in spans(CHANGE, HALF, HALF + 5)] == [
        (HALF, HALF + 5, "p@2")
    ]
    assert [one.price_id for one in spans(CHANGE, HOUR, HALF)] == ["p@1"]
    assert [one.price_id for one in spans(CHANGE[1:], HOUR, HALF + 5)] == ["p@2"]
    assert spans(CHANGE, HALF, HALF) == []


def test_what_a_frozen_price_leaves_open_is_variance_and_not_idle() -> None:
    """A quarter of the node, placed at the old price: 250 a hour. From the half hour on it is worth 500."""
    frozen = ShareRates(gpu=200, cpu=40, memory=10)
    found = charges(spans(CHANGE, HOUR, HOUR + HOUR_US), held(HOUR, HOUR + HOUR_US, frozen))
    assert found == [
        ("idle", "p@1", 0, HOUR_US // 2, 375),
        ("idle", "p@2", HOUR_US // 2, HOUR_US, 750),
        ("variance", "p@2", HOUR_US // 2, HOUR_US, 125),
    ]
    assert sum(nanos for *_, nanos in found) + 250 == 1500


def test_a_price_that_fell_is_a_variance_below_zero() -> None:
    dear = ShareRates(gpu=400, cpu=80, memory=20)
    (_, variance) = charges([Span(HOUR, HOUR + HOUR_US, "p@1", OLD)], held(HOUR, HOUR + HOUR_US, dear))
    assert variance == ("variance", "p@1", 0, HOUR_US, -250)


def test_while_the_price_of_a_node_is_unknown_nobody_can_tell_a_variance() -> None:
    frozen = ShareRates(gpu=200, cpu=40, memory=10)
    found = charges([Span(HOUR, HOUR + HOUR_US, "", ShareRates())], held(HOUR, HOUR + HOUR_US // 2, frozen))
    assert found == []


def test_what_was_placed_at_an_unknown_price_is_variance_once_the_price_is_known() -> None:
    cut = [Span(HOUR, HOUR + HOUR_US, "p@1", OLD)]
    assert charges(cut, held(HOUR, HOUR + HOUR_US, ShareRates())) == [
        ("idle", "p@1", 0, HOUR_US, 750),
        ("variance", "p@1", 0, HOUR_US, 250),
    ]


def test_a_share_of_before_its_size_was_kept_costs_what_it_pays() -> None:
    frozen = ShareRates(gpu=200, cpu=40, memory=10)
    share = held(HOUR, HOUR + HOUR_US, frozen, None)
    assert charges([Span(HOUR, HOUR + HOUR_US, "p@2", NEW)], share) == [("idle", "p@2", 0, HOUR_US, 1750)]


def test_a_start_that_was_told_late_counts_in_the_first_hour_of_the_interval() -> None:
    frozen = ShareRates(gpu=200, cpu=40, memory=10)
    late = held(HOUR - HOUR_US // 2, HALF, frozen)
    assert charges([Span(HOUR, HOUR + HOUR_US, "p@1", OLD)], late) == [("idle", "p@1", 0, HOUR_US, 750)]


def test_a_node_without_gpus_has_no_part_of_them() -> None:
    none = Share(gpu=(0, 0), cpu=(8, 8), memory=(0, 0))
    assert none.of(ShareRates(gpu=9, cpu=160, memory=3)) == ShareRates(cpu=160)


INSTANTS = st.integers(0, 5 * HOUR_US)
RATES = st.builds(ShareRates, *[st.integers(0, 10**13)] * 3)


@settings(max_examples=50)
@given(
    prices=st.lists(st.tuples(INSTANTS, RATES), min_size=1, max_size=4, unique_by=lambda one: one[0]),
    stays=st.lists(st.tuples(INSTANTS, INSTANTS, st.integers(1, 8)), max_size=4),
    cuts=st.sets(INSTANTS, max_size=5),
)
def test_however_an_interval_is_split_every_price_is_charged_the_same(
    prices: list[tuple[int, ShareRates]], stays: list[tuple[int, int, int]], cuts: set[int]
) -> None:
    in_force = [PriceInForce(HOUR + at, f"p@{at}", rates) for at, rates in sorted(prices, key=lambda p: p[0])]
    first = in_force[0].rates
    shares = []
    for one, other, eighths in stays:
        share = Share((eighths * 125, 1000), (eighths, 8), (eighths, 8))
        shares.append(held(HOUR + min(one, other), HOUR + max(one, other), share.of(first), share))

    def sums(edges: list[int]) -> Counter[tuple[str, str]]:
        found = Counter[tuple[str, str]]()
        for start, end in pairwise(edges):
            # What was charged up to `start` is not charged again: a report goes on where the last one ended.
            still = [
                Held(max(s.start, start), min(s.end, end), s.started_at, s.rates, s.share) for s in shares
            ]
            for part in owned("n", HOUR, spans(in_force, start, end), still, "idle"):
                for one in part.charges:
                    name = "variance" if one.kind == "variance" else "rest"
                    found[name, one.price_id] += one.nanos
        return found

    end = HOUR + 5 * HOUR_US
    # Shares may overlap here, which no node allows: then the rest is below zero, and must tie all the same.
    assert +sums([HOUR, *sorted({HOUR + at for at in cuts} - {HOUR, end}), end]) == +sums([HOUR, end])
