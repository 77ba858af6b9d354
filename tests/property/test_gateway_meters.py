"""What keys used adds up to what was in hand, in every minute; a restart loses nothing, and tells it once."""

from __future__ import annotations

from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bursar_gateway.core import Core
from bursar_gateway.link import Link, Spool
from bursar_gateway.meters import MINUTE_US, USES_MAX, Kept, Meter, Minute, Use

steps = st.lists(
    st.tuples(st.sampled_from(("begin", "end", "room", "wait")), st.sampled_from("ab"),
              st.sampled_from("xyz"), st.integers(0, 90_000_000)),
    max_size=60,
)  # fmt: skip
T0 = 100 * MINUTE_US


@given(steps)
def test_keys_together_have_what_the_service_has_in_every_minute(
    steps: list[tuple[str, str, str, int]],
) -> None:
    meter, now, hands = Meter(Kept(), T0), T0, dict[tuple[str, str], int]()
    for what, job, key, by in steps:
        now += by
        if what == "begin":
            meter.begin(job, key, now)
            hands[job, key] = hands.get((job, key), 0) + 1
        elif what == "end" and hands.get((job, key)):
            meter.end(job, key, Use(requests=1, tokens_out=2), now)
            hands[job, key] -= 1
        elif what == "room":
            meter.room(job, by % 7, now)
        meter.roll(now)
    kept = meter.kept()
    for minute in (*kept.pending, *kept.open):
        assert minute.minute % MINUTE_US == 0
        assert minute.busy_us == sum(use.busy_us for use in minute.uses.values())
    seqs = [minute.seq for minute in kept.pending]
    assert seqs == list(range(1, len(seqs) + 1))


@given(steps)
def test_a_restart_loses_nothing_of_what_was_kept(steps: list[tuple[str, str, str, int]]) -> None:
    meter, now = Meter(Kept(), T0), T0
    for _, job, key, by in steps:
        now += by
        meter.begin(job, key, now)
        meter.end(job, key, Use(requests=1, tokens_in=3), now)
    kept = msgspec.json.decode(msgspec.json.encode(meter.kept()), type=Kept)
    again = Meter(kept, now + 5)
    told = [use for minute in again.pending for use in minute.uses.values()]
    assert sum(use.requests for use in told) == len(steps)
    assert sum(use.tokens_in for use in told) == 3 * len(steps)
    again.acknowledged(again.seq)
    assert not again.pending


def test_a_request_over_two_minutes_is_in_both() -> None:
    meter = Meter(Kept(), T0)
    meter.room("a", 4, T0)
    meter.begin("a", "x", T0 + 30_000_000)
    meter.end("a", "x", Use(requests=1), T0 + 90_000_000)
    [first] = meter.pending
    [second] = meter.kept().open
    assert (first.busy_us, first.capacity_us, first.uses["x"].requests) == (30_000_000, 4 * MINUTE_US, 0)
    assert (second.busy_us, second.uses["x"].requests) == (30_000_000, 1)


def test_a_minute_without_a_key_says_nothing() -> None:
    meter = Meter(Kept(), T0)
    meter.room("a", 4, T0)
    meter.roll(T0 + 5 * MINUTE_US)
    assert not meter.pending


def test_a_clock_that_jumps_shows_no_time() -> None:
    meter = Meter(Kept(), T0)
    meter.begin("a", "x", T0)
    meter.roll(T0 - MINUTE_US)
    meter.roll(T0 + 3 * 3_600_000_000)
    assert meter.busy("a") == 0


def test_very_many_keys_of_one_minute_are_told_in_parts() -> None:
    meter = Meter(Kept(), T0)
    for number in range(USES_MAX + 1):
        meter.begin("a", f"k{number}", T0)
        meter.end("a", f"k{number}", Use(requests=1), T0)
    meter.begin("a", "k0", T0)
    meter.roll(T0 + MINUTE_US)
    assert [len(minute.uses) for minute in meter.pending] == [USES_MAX, 1]
    assert [minute.busy_us for minute in meter.pending] == [MINUTE_US, 0]


def test_no_number_grows_past_what_the_daemon_takes_whatever_a_replica_says() -> None:
    meter = Meter(Kept(), 0)
    for _ in range(3):
        meter.begin("job_1", "key_1", 0)
        meter.end("job_1", "key_1", Use(requests=1, tokens_in=2**52), 0)
    meter.roll(60_000_000)
    assert meter.pending[0].uses["key_1"].tokens_in == 2**53


def test_what_waits_is_told_in_messages_that_the_daemon_takes(tmp_path: Path) -> None:
    uses = {f"key_{n:026}": Use(*[2**53] * 8) for n in range(300)}
    pending = [Minute("job_1", n * MINUTE_US, 1, 1, uses, n + 1) for n in range(100)]
    meter = Meter(Kept(100, pending), 0)
    link = Link(None, "g", "b", "", Core(), meter, Spool(tmp_path), lambda: 0)  # type: ignore[arg-type]
    while meter.pending:
        request = link._request(0, True)
        assert 0 < request.ByteSize() < 1 << 20
        meter.acknowledged(request.minutes[-1].seq)
