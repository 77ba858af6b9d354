"""What a node costs beyond its shares, by example."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bursar.clock import HOUR_US
from bursar.errors import InvariantViolation
from bursar.model import ShareRates
from bursard.events import Charge
from bursard.ledger import Parts, add_used, node_charges

HOUR = 490_000 * HOUR_US
RATES = ShareRates(gpu=850, cpu=100, memory=50)


def complete(
    from_at: int,
    to_at: int,
    used: dict[int, Parts] | None = None,
    *,
    kind: str = "idle",
    price_id: str = "p1",
    shares: int | None = None,
) -> list[tuple[str, int, int]]:
    found = node_charges(
        node_id="n",
        price_id=price_id,
        rates=RATES,
        axis_start=HOUR,
        from_at=from_at,
        to_at=to_at,
        used=used or {},
        kind=kind,
        shares=shares,
    )
    return [(c.kind, c.start, c.nanos) for c in found]


def test_a_full_hour_without_jobs_is_idle_at_exactly_the_rate_of_the_node() -> None:
    assert complete(HOUR, HOUR + HOUR_US) == [("idle", HOUR, 1000)]


def test_the_full_hour_costs_the_same_however_it_was_cut() -> None:
    cuts = [HOUR, HOUR + 1, HOUR + 7_000_003, HOUR + HOUR_US // 3, HOUR + HOUR_US]
    parts = [part for a, b in pairwise(cuts) for part in complete(a, b)]
    assert sum(nanos for _, _, nanos in parts) == 1000


def test_what_a_share_took_is_not_idle() -> None:
    used = {HOUR: (850, 40, 0)}
    assert complete(HOUR, HOUR + HOUR_US, used) == [("idle", HOUR, 110)]


def test_time_that_the_node_was_not_there_is_down() -> None:
    assert complete(HOUR, HOUR + HOUR_US, kind="down") == [("down", HOUR, 1000)]


def test_a_component_overdrawn_by_rounding_is_negative_overhead_beside_idle() -> None:
    used = {HOUR: (851, 100, 30)}
    assert complete(HOUR, HOUR + HOUR_US, used) == [("idle", HOUR, 20), ("overhead", HOUR, -1)]


def test_a_nano_that_rounding_explains_is_overhead_when_the_shares_are_known() -> None:
    used = {HOUR: (849, 100, 50)}
    assert complete(HOUR, HOUR + HOUR_US, used) == [("idle", HOUR, 1)]
    assert complete(HOUR, HOUR + HOUR_US, used, shares=1) == [("overhead", HOUR, 1)]


def test_two_attempts_billed_for_the_same_device_are_a_fault_not_overhead() -> None:
    with pytest.raises(InvariantViolation, match="L8"):
        complete(HOUR, HOUR + HOUR_US, {HOUR: (1700, 0, 0)}, shares=2)


def test_usage_outside_the_interval_is_a_fault() -> None:
    with pytest.raises(InvariantViolation, match="outside"):
        complete(HOUR, HOUR + HOUR_US, {HOUR + HOUR_US: (1, 0, 0)})


def test_nothing_is_charged_before_the_node_costs_anything() -> None:
    with pytest.raises(InvariantViolation, match="nothing yet"):
        complete(HOUR - 1, HOUR)


def test_no_time_costs_nothing() -> None:
    assert complete(HOUR, HOUR) == []


def test_an_unknown_price_leaves_one_zero_charge_per_untouched_hour() -> None:
    end = HOUR + 3 * HOUR_US
    used: dict[int, Parts] = {HOUR + HOUR_US: (0, 0, 0)}
    assert complete(HOUR, end, used, price_id="") == [
        ("idle", HOUR, 0),
        ("idle", HOUR + 2 * HOUR_US, 0),
    ]


def test_usage_is_summed_by_hour_and_component() -> None:
    def usage(start: int, gpu: int) -> Charge:
        return Charge(
            kind="usage", node_id="n", start=start, end=start + 1, nanos=gpu + 1, price_id="p",
            gpu=gpu, memory=1,
        )  # fmt: skip

    used: dict[int, Parts] = {}
    add_used(used, [usage(HOUR, 3), usage(HOUR + 9, 4)])
    add_used(used, [usage(HOUR + HOUR_US, 5)])
    assert used == {HOUR: (7, 0, 2), HOUR + HOUR_US: (5, 0, 1)}
