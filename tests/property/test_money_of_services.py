"""What keys and idle were charged is what replicas were, to the nano, whatever is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.errors import InvalidRequest
from bursard.events import JobUpdated, KeyUse, ServiceMetered, encode
from bursard.reports.replicas import MINUTE_US
from bursard.reports.serving import IDLE, by_minute, minutes_of, of_minute, service_table, shares
from bursard.store import ChargeFilter, ChargeRow, EventRow, Unposted

T0 = 100 * MINUTE_US
count = st.integers(0, 10**9)
uses = st.builds(KeyUse, st.sampled_from(("k1", "k2", "k3", "")), count, count, count, count, count, count)
told = st.builds(
    ServiceMetered, st.just("job_1"), st.sampled_from(("g", "h")), st.integers(1, 9),
    st.sampled_from([T0 + n * MINUTE_US for n in range(4)]), count, count,
    st.lists(uses, max_size=4).map(tuple),
)  # fmt: skip


def charge(start: int, length: int, nanos: int, job_id: str = "job_1.0") -> ChargeRow:
    given: dict[str, Any] = dict.fromkeys(ChargeRow._fields, 0) | {
        "kind": "usage", "job_id": job_id, "start_at": start, "end_at": start + length, "held_us": length,
        "nanos": nanos, "cpu": nanos, "cpu_milli": 100, "price_id": "p",
    }  # fmt: skip
    return ChargeRow(**given)


def named(job_id: str) -> str:
    return "chat" if job_id == "job_1" else ""


class Books:
    """Charges and events, and nothing else of a store."""

    def __init__(self, charges: list[ChargeRow], events: list[ServiceMetered]) -> None:
        self._charges = charges
        self._rows = [EventRow(n + 1, one.minute, "g", encode(one)) for n, one in enumerate(events)]

    def charges(self, query: Any, unposted: Any) -> Any:
        return iter(self._charges)

    def events(self, after: int, limit: int, query: Any) -> Any:
        return [row for row in self._rows if row.seq > after][:limit]

    def last_seq_before(self, at: int) -> int:
        return 0


charges = st.lists(
    st.builds(
        charge, st.integers(T0 - MINUTE_US, T0 + 3 * MINUTE_US), st.integers(0, 5 * MINUTE_US),
        st.integers(-(10**15), 10**15), st.sampled_from(("job_1.0", "job_1.1", "job_2", "")),
    ),
    max_size=8,
)  # fmt: skip


@given(charges, st.lists(told, max_size=8))
def test_keys_and_idle_are_what_replicas_were_charged_to_the_nano(
    rows: list[ChargeRow], events: list[ServiceMetered]
) -> None:
    views: Any = Books(rows, events)
    table = service_table(views, ("service", "key"), ChargeFilter(), Unposted(0, ()), named)
    mine = [row for row in rows if row.job_id.startswith("job_1")]
    chat = [row for row in table.rows if row.keys[0] == "chat"]
    for name in ("nanos", "cpu", "held_us"):
        assert sum(getattr(row, name) for row in chat) == sum(getattr(row, name) for row in mine)
        assert getattr(table.total, name) == sum(getattr(row, name) for row in rows)
    whole = service_table(views, ("service",), ChargeFilter(), Unposted(0, ()), named)
    assert {row.keys[0]: row.nanos for row in whole.rows}.get("chat", 0) == sum(row.nanos for row in chat)


@given(st.integers(-(10**18), 10**18), st.lists(st.integers(0, 10**12), min_size=1, max_size=9))
def test_parts_are_as_their_weights_and_all_of_the_whole(total: int, weights: list[int]) -> None:
    if not any(weights):
        with pytest.raises(ValueError, match="nothing weighs"):
            shares(total, weights)
        return
    parts = shares(total, weights)
    assert sum(parts) == total
    assert all(
        abs(part * sum(weights) - total * one) < sum(weights)
        for part, one in zip(parts, weights, strict=True)
    )


def test_an_hour_is_divided_by_minutes_and_they_are_the_hour() -> None:
    parts = list(by_minute(charge(T0 + 10, 3_600_000_000, 10**9 + 7)))
    assert len(parts) == 61
    assert sum(amounts[0] for _, amounts in parts) == 10**9 + 7


def test_who_asked_pays_by_tokens_and_what_nobody_had_in_hand_is_idle() -> None:
    used = (KeyUse("k1", requests=1, tokens_in=100, tokens_out=25), KeyUse("k2", requests=9, tokens_out=50))
    event = ServiceMetered("job_1", "g", 1, T0, 15_000_000, 60_000_000, used)
    found = dict(of_minute((4_000,), minutes_of([event])[T0]))
    assert found == {"k1": (500,), "k2": (500,), IDLE: (3_000,)}


def test_what_counts_no_tokens_is_divided_by_requests_and_a_minute_without_either_by_time_in_hand() -> None:
    asked = (KeyUse("k1", requests=1), KeyUse("k2", requests=3))
    event = ServiceMetered("job_1", "g", 1, T0, 60_000_000, 60_000_000, asked)
    assert dict(of_minute((400,), minutes_of([event])[T0])) == {"k1": (100,), "k2": (300,), IDLE: (0,)}
    held = (KeyUse("k1", busy_us=10_000_000), KeyUse("k2", busy_us=30_000_000))
    event = ServiceMetered("job_1", "g", 1, T0, 40_000_000, 40_000_000, held)
    assert dict(of_minute((400,), minutes_of([event])[T0])) == {"k1": (100,), "k2": (300,), IDLE: (0,)}


def test_a_minute_of_which_nobody_told_is_idle() -> None:
    assert dict(of_minute((7,), None)) == {IDLE: (7,)}


def test_other_dimensions_are_refused_beside_them() -> None:
    with pytest.raises(InvalidRequest, match="by service,key"):
        service_table(SimpleNamespace(), ("key",), ChargeFilter(), Unposted(0, ()), str)  # type: ignore[arg-type]


@given(charges, st.lists(told, max_size=8), st.integers(0, 4))
def test_what_was_asked_is_told_once_however_it_is_asked_for(
    rows: list[ChargeRow], events: list[ServiceMetered], since: int
) -> None:
    views: Any = Books([charge(T0, MINUTE_US, 10), *rows], events)
    query = ChargeFilter(since=T0 + since * MINUTE_US if since else 0)

    by_key = service_table(views, ("service", "key"), query, Unposted(0, ()), named)
    whole = service_table(views, ("service",), query, Unposted(0, ()), named)
    [chat] = [row for row in whole.rows if row.keys == ("chat",)]
    parts = [row for row in by_key.rows if row.keys[0] == "chat"]
    assert chat.use is not None
    for name in ("requests", "failed", "tokens_in", "tokens_out", "counted", "idle"):
        assert sum(getattr(row.use, name) for row in parts if row.use) == getattr(chat.use, name)
    asked = sum(use.requests for one in events if one.minute >= query.since for use in one.uses)
    assert chat.use.requests == asked
    assert chat.use.idle == sum(row.nanos for row in parts if row.keys[1] == IDLE)


def taken_back(row: ChargeRow, booked_at: int) -> ChargeRow:
    return row._replace(
        start_at=booked_at, end_at=booked_at, held_us=-row.held_us, nanos=-row.nanos, cpu=-row.cpu,
        corrects=7, for_start=row.start_at, for_end=row.end_at, reason="agreed",
    )  # fmt: skip


@given(charges, st.lists(told, max_size=8), st.integers(0, 10**9))
def test_what_a_correction_takes_back_is_taken_from_those_who_paid_it_to_the_nano(
    rows: list[ChargeRow], events: list[ServiceMetered], later: int
) -> None:
    rows = [row for row in rows if row.end_at > row.start_at]
    back = [taken_back(row, T0 + 9 * MINUTE_US + later) for row in rows]
    views: Any = Books([*rows, *back], events)
    table = service_table(views, ("service", "key"), ChargeFilter(), Unposted(0, ()), named)
    assert [(row.keys, row.nanos, row.held_us) for row in table.rows if row.nanos or row.held_us] == []


class _Recorded(Books):
    """Events that were recorded in their own minutes."""

    def last_seq_before(self, at: int) -> int:
        return max((row.seq for row in self._rows if row.at < at), default=0)


def test_a_correction_that_is_booked_in_a_later_time_is_of_the_keys_of_the_time_that_it_corrects() -> None:
    used = ServiceMetered("job_1", "g", 1, T0, MINUTE_US, MINUTE_US, (KeyUse("k1", requests=3),))
    month = T0 + 100_000 * MINUTE_US
    views: Any = _Recorded([taken_back(charge(T0, MINUTE_US, 500), month + 5)], [used])
    table = service_table(views, ("service", "key"), ChargeFilter(since=month), Unposted(0, ()), named)
    assert {row.keys[1]: row.nanos for row in table.rows} == {"k1": -500, IDLE: 0}
    assert [row.use.requests for row in table.rows if row.use] == [0, 0]  # asked in another month


def test_minutes_that_are_told_long_after_a_time_are_of_it_however_many_events_lie_between() -> None:
    near = [
        ServiceMetered("job_1", "g", n, T0 + n * MINUTE_US, MINUTE_US, MINUTE_US, (KeyUse("k1", requests=1),))
        for n in range(1, 2_500)
    ]
    late = ServiceMetered("job_1", "far", 1, T0, MINUTE_US, MINUTE_US, (KeyUse("k2", requests=4),))
    views: Any = Books([charge(T0, MINUTE_US, 500)], [*near, late])
    query = ChargeFilter(until=T0 + MINUTE_US)
    table = service_table(views, ("service", "key"), query, Unposted(0, ()), named)
    assert {row.keys[1]: (row.nanos, row.use.requests) for row in table.rows if row.use} == {
        "k2": (500, 4), IDLE: (0, 0),
    }  # fmt: skip


def by_key(rows: list[ChargeRow], events: list[ServiceMetered], target: int) -> dict[str, int]:
    views: Any = Books(rows, events)
    table = service_table(
        views, ("service", "key"), ChargeFilter(), Unposted(0, ()), named, lambda _: target
    )  # fmt: skip
    return {row.keys[1]: row.nanos for row in table.rows}


def full(gateway: str, key: str, busy_us: int = MINUTE_US) -> ServiceMetered:
    """A minute of a gateway that knows one replica, which takes one request."""
    return ServiceMetered("job_1", gateway, 1, T0, busy_us, MINUTE_US, (KeyUse(key, requests=1),))


def test_a_replica_that_no_gateway_is_asked_for_is_idle() -> None:
    rows = [charge(T0, MINUTE_US, 10_000, f"job_1.{place}") for place in (0, 1)]
    assert by_key(rows, [full("a", "k1")], 1) == {"k1": 10_000, IDLE: 10_000}


def test_a_replica_that_is_full_is_not_idle_however_many_gateways_know_it() -> None:
    rows = [charge(T0, MINUTE_US, 10_000, "job_1.0")]
    events = [full("a", "k1"), full("b", "k2", busy_us=0)]
    assert by_key(rows, events, 1) == {"k1": 5_000, "k2": 5_000, IDLE: 0}


def test_a_replica_is_idle_while_it_is_charged_and_not_ready_yet() -> None:
    tenth = MINUTE_US // 10
    event = ServiceMetered("job_1", "a", 1, T0, tenth, tenth, (KeyUse("k1", requests=1),))
    assert by_key([charge(T0, MINUTE_US, 10_000, "job_1.0")], [event], 1) == {"k1": 1_000, IDLE: 9_000}


def test_a_correction_changes_nothing_of_how_many_replicas_there_were() -> None:
    rows = [charge(T0, MINUTE_US, 10_000, f"job_1.{place}") for place in (0, 1)]
    back = taken_back(rows[1], T0 + 9 * MINUTE_US)
    assert by_key([*rows, back], [full("a", "k1", busy_us=MINUTE_US // 2)], 1) == {"k1": 2_500, IDLE: 7_500}


@given(charges, st.lists(told, max_size=8), st.integers(0, 100))
def test_whatever_a_replica_takes_all_parts_are_what_replicas_were_charged(
    rows: list[ChargeRow], events: list[ServiceMetered], target: int
) -> None:
    found = by_key([row for row in rows if row.job_id.startswith("job_1")], events, target)
    assert sum(found.values()) == sum(row.nanos for row in rows if row.job_id.startswith("job_1"))


def test_before_the_first_change_in_an_archived_log_gateways_are_believed() -> None:
    class Archived(Books):
        """Of its log only an update of the service is left, and what came after it."""

        def events(self, after: int, limit: int, query: Any) -> Any:
            if "service-metered" in query.kinds:
                return super().events(after, limit, query)
            update = JobUpdated("job_1", {"service": {"target": 4}})
            return [EventRow(1, T0 + MINUTE_US, "ann", encode(update))][after:]

    rows = [charge(T0, 2 * MINUTE_US, 10_000, f"job_1.{place}") for place in (0, 1)]
    told = [full("a", "k1"), full("a", "k2")]
    told[1] = msgspec.structs.replace(told[1], minute=T0 + MINUTE_US)
    views: Any = Archived(rows, told)
    table = service_table(views, ("service", "key"), ChargeFilter(), Unposted(0, ()), named, lambda _: 4)
    assert {row.keys[1]: row.nanos for row in table.rows} == {"k1": 10_000, "k2": 1_250, IDLE: 8_750}
