"""The number of replicas: within its bounds, letting go of what is spare alone, without flapping."""

from __future__ import annotations

from itertools import pairwise

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bursar.clock import SECOND_US
from bursar.model import ServiceSpec
from bursard.serving.autoscale import Memory, Sample, Seen, Standing, scale, zero_after_us

specs = st.builds(
    lambda least, more, target, down, surge: ServiceSpec(
        replicas_min=least, replicas_max=least + more, target=target, down_delay_us=down * SECOND_US,
        max_surge=surge,
    ),
    st.integers(0, 5), st.integers(1, 40), st.integers(1, 20), st.integers(0, 400), st.integers(1, 3),
)  # fmt: skip
standings = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.booleans(), st.integers(0, 9), st.integers(0, 5)), max_size=12
)
samples = st.lists(st.integers(0, 400), max_size=90)


def replicas(rows: list[tuple[bool, bool, bool, int, int]]) -> list[Standing]:
    return [
        Standing(attempt_id=f"a{n}", ready=ready, old=old, leaving=leaving, outstanding=busy, rate=rate)
        for n, (ready, old, leaving, busy, rate) in enumerate(rows)
    ]


def seen(rows: list[Standing], loads: list[int], now: int = 10**12, **more: int | None) -> Seen:
    held = [Sample(now - (len(loads) - n) * SECOND_US + SECOND_US, SECOND_US, load * SECOND_US) for n, load in
            enumerate(loads)]  # fmt: skip
    asked = now if any(loads[-5:]) else 0
    return Seen(now=now, replicas=rows, samples=held, asked_at=asked, **more)  # type: ignore[arg-type]


@given(specs, standings, samples, st.integers(0, 60), st.none() | st.integers(0, 50))
def test_it_stays_within_its_bounds_and_lets_go_only_of_what_is_spare(
    spec: ServiceSpec, rows: list[tuple[bool, bool, bool, int, int]], loads: list[int], target: int,
    cap: int | None,
) -> None:  # fmt: skip
    standing = replicas(rows)
    start = min(max(target, spec.replicas_min), spec.replicas_max)
    scaled, memory = scale(spec, seen(standing, loads, cap=cap), Memory(target=start))
    most = spec.replicas_max if cap is None else min(spec.replicas_max, cap)
    assert min(spec.replicas_min, most) <= memory.target <= most
    assert memory.target <= scaled.places <= memory.target + spec.max_surge
    ready = {one.attempt_id for one in standing if one.ready and not one.leaving}
    assert set(scaled.drain) <= ready
    assert len(scaled.drain) == max(len(ready) - memory.target, 0)
    starting = {one.attempt_id for one in standing if not one.ready and not one.old}
    assert starting.isdisjoint({*scaled.drain, *scaled.replace}), "one that starts is left alone"


@given(specs, standings, samples, st.integers(0, 4), st.integers(0, 4), st.integers(0, 2))
def test_an_update_leaves_no_more_missing_than_may_be_and_only_where_there_is_no_room(
    spec: ServiceSpec, rows: list[tuple[bool, bool, bool, int, int]], loads: list[int], unplaced: int,
    missing: int, surge: int,
) -> None:  # fmt: skip
    spec = msgspec.structs.replace(spec, max_unavailable=missing, max_surge=surge)
    standing = replicas(rows)
    scaled, memory = scale(spec, seen(standing, loads, unplaced=unplaced), Memory(target=spec.replicas_min))
    ready = {one.attempt_id: one for one in standing if one.ready and not one.leaving}
    left = len(ready) - len(scaled.drain)
    assert left >= min(len(ready), memory.target - missing)
    if left < min(len(ready), memory.target):
        assert all(ready[one].old for one in scaled.drain)
        assert unplaced or not surge


@given(specs, standings, samples)
def test_a_blue_green_update_asks_one_revision_alone_and_never_fewer_than_it_could(
    spec: ServiceSpec, rows: list[tuple[bool, bool, bool, int, int]], loads: list[int]
) -> None:
    spec = msgspec.structs.replace(spec, strategy="blue-green")
    standing = replicas(rows)
    scaled, memory = scale(spec, seen(standing, loads), Memory(target=spec.replicas_min))
    ready = [one for one in standing if one.ready and not one.leaving]
    asked = [one for one in ready if one.attempt_id not in (*scaled.hidden, *scaled.drain)]
    if memory.target:
        assert len({one.old for one in asked}) <= 1
    old, fresh = (sum(one.old is which for one in ready) for which in (True, False))
    assert len(asked) >= min(max(old, fresh), memory.target)


@given(specs, standings, samples)
def test_the_same_is_answered_to_the_same(
    spec: ServiceSpec, rows: list[tuple[bool, bool, bool, int, int]], loads: list[int]
) -> None:
    asked = seen(replicas(rows), loads)
    assert scale(spec, asked, Memory(target=1)) == scale(spec, asked, Memory(target=1))


@given(st.integers(1, 500), st.integers(1, 20))
def test_from_none_one_is_started_whatever_waits(waiting: int, target: int) -> None:
    spec = ServiceSpec(replicas_min=0, replicas_max=64, target=target)
    now = 10**12
    cold = Seen(now=now, replicas=(), asked_at=now, waiting=waiting,
                samples=(Sample(now, SECOND_US, waiting * SECOND_US),))  # fmt: skip
    scaled, memory = scale(spec, cold, Memory(target=0))
    assert scaled.places == 1
    scaled, memory = scale(spec, cold, memory)
    assert scaled.places == 1


def walk(spec: ServiceSpec, loads: list[int]) -> list[int]:
    """Targets, second by second, where every replica is ready the second after it is wanted."""
    memory, found, held = Memory(target=max(spec.replicas_min, 1)), [], []
    for second, load in enumerate(loads):
        now = 10**12 + second * SECOND_US
        held.append(Sample(now, SECOND_US, load * SECOND_US))
        rows = [Standing(attempt_id=f"a{n}", ready=True) for n in range(memory.target)]
        asked = Seen(now=now, replicas=rows, samples=held[-120:], asked_at=now if load else 10**12)
        _, memory = scale(spec, asked, memory)
        found.append(memory.target)
    return found


def test_a_step_of_ten_times_the_load_is_followed_within_fifteen_seconds() -> None:
    """G4."""
    spec = ServiceSpec(replicas_min=1, replicas_max=40, target=2)
    targets = walk(spec, [2] * 60 + [20] * 60)
    assert targets[59] == 1
    assert targets[74] >= 10


@given(st.lists(st.integers(7, 9), min_size=600, max_size=600))
def test_ten_minutes_of_noise_move_nothing_to_and_fro(noise: list[int]) -> None:
    """G4: what goes up goes down at most once in ten minutes, since fewer wait for their delay."""
    spec = ServiceSpec(replicas_min=1, replicas_max=40, target=2)
    targets = walk(spec, [8] * 60 + noise)[60:]
    falls = sum(after < before for before, after in pairwise(targets))
    assert falls <= 2
    assert max(targets) <= 6


def test_fewer_are_done_after_their_delay_and_none_after_the_idle_time() -> None:
    spec = ServiceSpec(replicas_min=0, replicas_max=40, target=2, down_delay_us=100 * SECOND_US)
    targets = walk(spec, [20] * 80 + [2] * 200)
    assert targets[80 + 99] >= 10, "the least of the last 100 s was not yet less"
    assert targets[-1] == 1


@given(st.integers(0, 10**13))
def test_keeping_a_replica_never_costs_more_than_an_hour_of_it(cold_us: int) -> None:
    assert 60 * SECOND_US <= zero_after_us(ServiceSpec(), cold_us) <= 3_600 * SECOND_US
