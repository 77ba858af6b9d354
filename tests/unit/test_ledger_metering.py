"""Held time to charges, by example."""

from __future__ import annotations

import pytest

from bursar.clock import HOUR_US, SECOND_US
from bursar.errors import InvariantViolation
from bursar.model import ShareRates
from bursard.events import Charge
from bursard.ledger import held_nanos, hour_segments, member_charges

HOUR = 490_000 * HOUR_US
RATES = ShareRates(gpu=1_000_000_007, cpu=333, memory=7)


def charges(from_us: int, to_us: int, price_id: str = "p1") -> tuple[Charge, ...]:
    return member_charges(
        attempt_id="att_1",
        job_id="job_1",
        rank=2,
        node_id="node_1",
        price_id=price_id,
        rates=RATES,
        started_at=HOUR + 1_500 * SECOND_US,
        from_us=from_us,
        to_us=to_us,
    )


def test_time_is_cut_at_full_utc_hours() -> None:
    assert hour_segments(HOUR + 1, HOUR + 2 * HOUR_US + 1) == [
        (HOUR + 1, HOUR + HOUR_US),
        (HOUR + HOUR_US, HOUR + 2 * HOUR_US),
        (HOUR + 2 * HOUR_US, HOUR + 2 * HOUR_US + 1),
    ]


def test_a_whole_hour_is_one_segment_and_no_time_is_none() -> None:
    assert hour_segments(HOUR, HOUR + HOUR_US) == [(HOUR, HOUR + HOUR_US)]
    assert hour_segments(HOUR, HOUR) == []
    assert hour_segments(HOUR, HOUR - 1) == []


def test_one_hour_from_the_start_of_a_member_costs_the_hourly_rate() -> None:
    parts = charges(0, HOUR_US)
    assert [(c.start, c.end) for c in parts] == [
        (HOUR + 1_500 * SECOND_US, HOUR + HOUR_US),
        (HOUR + HOUR_US, HOUR + HOUR_US + 1_500 * SECOND_US),
    ]
    assert sum(c.nanos for c in parts) == RATES.total == held_nanos(RATES, HOUR_US)
    assert sum(c.gpu for c in parts) == RATES.gpu
    assert all(c.nanos == c.gpu + c.cpu + c.memory for c in parts)


def test_a_charge_names_its_price_job_attempt_rank_and_node() -> None:
    (only,) = charges(5, 6)
    assert (only.kind, only.price_id, only.job_id) == ("usage", "p1", "job_1")
    assert (only.attempt_id, only.rank, only.node_id) == ("att_1", 2, "node_1")


def test_a_repeated_or_stale_counter_charges_nothing() -> None:
    assert charges(10 * SECOND_US, 10 * SECOND_US) == ()
    assert charges(10 * SECOND_US, 4 * SECOND_US) == ()


def test_time_at_an_unknown_price_is_charged_at_zero() -> None:
    parts = charges(0, HOUR_US, price_id="")
    assert sum(c.end - c.start for c in parts) == HOUR_US
    assert all((c.nanos, c.gpu, c.cpu, c.memory, c.price_id) == (0, 0, 0, 0, "") for c in parts)


def test_a_century_is_the_longest_that_anything_lasts() -> None:
    century_us = 100 * 366 * 24 * HOUR_US
    assert len(hour_segments(0, century_us)) == 100 * 366 * 24
    with pytest.raises(InvariantViolation, match="longer than anything lasts"):
        hour_segments(1, century_us + 2)
