"""Budget periods follow each other without gap or overlap, also where clocks change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.clock import HOUR_US, Instant, format_instant, parse_instant
from bursar.errors import InvalidRequest
from bursar_policies.periods import PERIODS, period_bounds

ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe",
    "America/Sao_Paulo", "America/Havana", "Africa/Cairo", "Asia/Beirut", "Pacific/Apia",
    "Atlantic/Azores", "America/Toronto", "America/St_Johns", "Asia/Tehran",
]  # fmt: skip
LOW, HIGH = parse_instant("1905-01-01"), parse_instant("2150-01-01")


def shown(period: str, zone: str, at: str) -> tuple[str, str]:
    start, end = period_bounds(period, zone, parse_instant(at))
    assert end is not None
    return format_instant(start), format_instant(end)


@pytest.mark.parametrize(
    ("period", "zone", "at", "start", "end"),
    [
        ("day", "UTC", "2026-11-21T05:00:00Z", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z"),
        ("week", "UTC", "2026-11-22T23:59:59Z", "2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z"),
        ("month", "UTC", "2024-02-29T00:00:00Z", "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z"),
        ("quarter", "UTC", "2026-12-31T00:00:00Z", "2026-10-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ("year", "UTC", "2026-06-01T00:00:00Z", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        # Berlin: the month of the change from +1 to +2.
        ("month", "Europe/Berlin", "2026-03-15T00:00:00Z", "2026-02-28T23:00:00Z",
         "2026-03-31T22:00:00Z"),
        # Sao Paulo 2018-11-04: 00:00 did not exist; the day began at 01:00 = 03:00Z.
        ("day", "America/Sao_Paulo", "2018-11-04T12:00:00Z", "2018-11-04T03:00:00Z",
         "2018-11-05T02:00:00Z"),
        # Samoa left out 2011-12-30.
        ("day", "Pacific/Apia", "2011-12-30T12:00:00Z", "2011-12-30T10:00:00Z",
         "2011-12-31T10:00:00Z"),
    ],
)  # fmt: skip
def test_periods_start_at_local_midnight(period: str, zone: str, at: str, start: str, end: str) -> None:
    assert shown(period, zone, at) == (start, end)


def test_a_day_has_23_or_25_hours_when_clocks_change() -> None:
    for at, hours in (("2026-03-29T12:00:00Z", 23), ("2026-10-25T12:00:00Z", 25)):
        start, end = period_bounds("day", "Europe/Berlin", parse_instant(at))
        assert end is not None
        assert (end - start) == hours * HOUR_US


def test_one_time_has_one_period_for_ever() -> None:
    at = parse_instant("2026-11-21")
    assert period_bounds("one-time", "UTC", at) == (0, None)


@given(
    st.sampled_from([p for p in PERIODS if p != "one-time"]),
    st.sampled_from(ZONES),
    st.integers(LOW, HIGH),
)
def test_every_instant_lies_in_one_period_and_periods_touch(period: str, zone: str, at: int) -> None:
    start, end = period_bounds(period, zone, Instant(at))
    assert end is not None
    assert start <= at < end
    assert period_bounds(period, zone, start) == (start, end)
    assert period_bounds(period, zone, Instant(end - 1)) == (start, end)
    following, _ = period_bounds(period, zone, end)
    assert following == end
    before, before_end = period_bounds(period, zone, Instant(start - 1))
    assert before < start == before_end


@pytest.mark.parametrize("zone", ["Mars/Base", "../etc/passwd", "/etc/passwd", "", "localtime",
                                  "right/UTC", "Europe", "a\x00b", "x" * 5000])  # fmt: skip
def test_an_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(InvalidRequest, match="is not a time zone"):
        period_bounds("day", zone, Instant(0))


def test_a_misspelt_zone_names_the_right_one() -> None:
    with pytest.raises(InvalidRequest, match="did you mean 'Europe/Berlin'"):
        period_bounds("day", "Europe/Belrin", Instant(0))


@pytest.mark.parametrize("at", [-(10**18), 10**18, -(2**63), 2**63])
def test_an_absurd_instant_is_refused_not_a_crash(at: int) -> None:
    with pytest.raises(InvalidRequest, match="is not between"):
        period_bounds("month", "Asia/Tokyo", Instant(at))
