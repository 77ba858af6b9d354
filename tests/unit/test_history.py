"""Curves that are kept of devices and members: means of spans, gaps where nothing was heard, bounded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.clock import DAY_US, HOUR_US, SECOND_US
from bursar.errors import NotFound
from bursar.v1 import types_pb2 as pb
from bursard.services.profiles import MEMBERS_MAX, hours_of, profile
from bursard.telemetry import LiveTelemetry
from bursard.telemetry.history import DEVICE, EVERY_US, SILENT_US, TIERS, History, tier_for

STEP = TIERS[0][0]
NOON = 1_793_534_400 * SECOND_US


def sample(at: int, sm: float | None = None, cpu: float = 1.0, index: int = 0, **more: Any) -> pb.Sample:
    made = pb.Sample(at=at)
    made.gpus.add(index=index, sm_ratio=sm, **more)
    made.attempts.add(attempt_id="a", rank=0, cpu_utilization_ratio=cpu, memory_used_bytes=1 << 30)
    return made


def sm(history: History, tier: int = 0, since: int = 0, until: int = 2**60) -> list[tuple[int, float | None]]:
    return [(at - NOON, values[1]) for at, values in history.device("n", 0, tier, since, until)]


def test_a_span_is_the_mean_of_what_was_heard_in_it_and_one_without_is_a_gap() -> None:
    history = History()
    for at, ratio in ((0, 0.5), (10, 1.0), (60, 0.25), (80, None)):
        history.take("n", sample(NOON + at * SECOND_US, ratio))
    assert sm(history) == [(0, 0.75), (60 * SECOND_US, 0.25), (80 * SECOND_US, None)]
    assert sm(history, 1) == [(0, pytest.approx((0.5 + 1.0 + 0.25) / 3, abs=1e-6))]
    assert sm(history, 0, NOON + STEP, NOON + 4 * STEP) == [(60 * SECOND_US, 0.25)]
    assert history.device("n", 1, 0, 0, 2**60) == history.device("m", 0, 0, 0, 2**60) == []


def test_one_reading_in_ten_seconds_is_taken() -> None:
    history = History()
    for second in range(20):
        history.take("n", sample(NOON + second * SECOND_US, 1.0 if second % 10 == 0 else 0.0))
    assert sm(history) == [(0, 1.0)]


def test_a_clock_that_steps_back_neither_ends_the_curve_nor_changes_what_is_made() -> None:
    history = History()
    for at in (0, 40, 20, 60):
        history.take("n", sample(NOON + at * SECOND_US, at / 100))
    assert [at // SECOND_US for at, _ in sm(history)] == [0, 20, 40, 60]


def test_a_summary_goes_before_a_reading_of_the_second() -> None:
    history, one = History(), sample(NOON, 0.5, utilization_ratio=0.9, power_watts=100.0)
    one.gpus[0].summary.utilization_ratio.mean = 0.25
    history.take("n", one)
    [(_, values)] = history.device("n", 0, 0, 0, 2**60)
    told = dict(zip(DEVICE, values, strict=True))
    assert (told["utilization_ratio"], told["power_watts"], told["sm_ratio"]) == (0.25, 100.0, 0.5)
    assert (told["tensor_ratio"], told["memory_used_bytes"]) == (None, None)


@given(st.lists(st.integers(0, 3 * DAY_US), min_size=1, max_size=80))
def test_however_readings_come_spans_are_in_order_few_and_none_is_of_a_time_that_was_not_heard(
    times: list[int],
) -> None:
    history = History()
    for at in times:
        history.take("n", sample(NOON + at, 1.0))
    for tier, (step, kept) in enumerate(TIERS):
        found = [at for at, _ in history.device("n", 0, tier, 0, 2**62)]
        assert found == sorted(set(found))
        assert len(found) <= kept
        heard = {(NOON + at) - (NOON + at) % step for at in times}
        assert set(found) <= heard


def test_what_is_kept_is_bounded_and_who_was_silent_longest_goes_first() -> None:
    history = History(series_max=2)
    silent_s = SILENT_US // SECOND_US
    for at, index in ((0, 0), (10, 1), (20, 0), (10 + silent_s, 2)):
        history.take("n", sample(NOON + at * SECOND_US, 1.0, index=index))
    kept = [index for index in range(3) if history.device("n", index, 0, 0, 2**60)]
    assert kept == [0, 2]


def test_where_there_are_more_than_are_kept_those_that_are_keep_all_of_theirs() -> None:
    history = History(series_max=3)
    for turn in range(30):
        for index in range(5):
            history.take(f"n{index}", sample(NOON + turn * EVERY_US + index, 1.0))
    spans = [len(history.device(f"n{index}", 0, 0, 0, 2**60)) for index in range(5)]
    assert spans == [15, 15, 15, 0, 0]
    assert len(history._taken) == 3


def test_a_late_reading_changes_neither_a_span_that_is_made_nor_the_one_that_is_being_made() -> None:
    history = History()
    for at, ratio in ((0, 0.0), (40, 1.0), (5, 0.5), (25, 0.25), (50, 0.0)):
        history.take("n", sample(NOON + at * SECOND_US, ratio))
    assert sm(history) == [(0, 0.0), (20 * SECOND_US, 0.25), (40 * SECOND_US, 0.5)]


def test_the_finest_tier_that_reaches_back_is_taken() -> None:
    assert tier_for(NOON, NOON) == tier_for(NOON - STEP * 179, NOON) == 0
    assert tier_for(NOON - HOUR_US, NOON) == tier_for(NOON - 9 * DAY_US, NOON) == 1


def test_what_the_daemon_hears_is_kept() -> None:
    live = LiveTelemetry()
    for second in range(0, 40, 10):
        live.add("n", sample(NOON + second * SECOND_US, 0.5))
    live.drop("n")
    assert [ratio for _, ratio in sm(live.history)] == [0.5, 0.5]
    assert EVERY_US == 10 * SECOND_US


# ------------------------------------------------------------------ the curves of an attempt


def job(
    *, milli: int = 1_000, devices: int = 1, members: int = 1, started: int = NOON, ended: int = 0
) -> pb.Job:
    made = pb.Job(id="j")
    attempt = made.attempts.add(id="a", number=1, started_at=started, finished_at=ended)
    for rank in range(members):
        member = attempt.members.add(rank=rank, node="n")
        for index in range(devices):
            member.devices.add(index=index, milli=milli)
    return made


def heard(devices: int = 1, **more: Any) -> History:
    history = History()
    for second in range(0, 40, 10):
        made = pb.Sample(at=NOON + second * SECOND_US)
        for index in range(devices):
            values = {"sm_ratio": 0.25 * (index + 1), "tensor_ratio": 0.5, "memory_used_bytes": 10,
                      "power_watts": 100.0, "utilization_ratio": 1.0} | more  # fmt: skip
            made.gpus.add(index=index, **{name: value for name, value in values.items() if value is not None})
        made.attempts.add(
            attempt_id="a", rank=0, cpu_utilization_ratio=1.5, memory_used_bytes=7, gpu_sm_ratio=0.125,
            gpu_memory_used_bytes=3,
        )  # fmt: skip
        history.take("n", made)
    return history


def test_ratios_are_means_over_a_members_devices_and_memory_and_power_sums() -> None:
    told = profile(heard(2), job(devices=2), 0, NOON + 60 * SECOND_US)
    assert (told.attempt, told.step_us, told.members_total) == (1, STEP, 1)
    first = told.members[0].points[0]
    assert (first.at, first.cpu_cores, first.memory_used_bytes) == (NOON, 1.5, 7)
    assert (first.sm_ratio, first.tensor_ratio, first.gpu_utilization_ratio) == (0.375, 0.5, 1.0)
    assert (first.gpu_memory_used_bytes, first.gpu_power_watts) == (20, 200.0)
    assert len(told.members[0].points) == 2


def test_what_one_device_does_not_tell_is_unknown_of_all() -> None:
    history = heard(1)
    [point, *_] = profile(history, job(devices=2), 0, NOON + 60 * SECOND_US).members[0].points
    assert not point.HasField("sm_ratio")
    [point, *_] = profile(heard(1, tensor_ratio=None), job(), 0, NOON + 60 * SECOND_US).members[0].points
    assert (point.HasField("tensor_ratio"), point.HasField("sm_ratio")) == (False, True)


def test_of_a_device_that_others_share_only_its_own_processes_are_told() -> None:
    told = profile(heard(), job(milli=500), 0, NOON + 60 * SECOND_US).members[0]
    assert told.shared
    [point, *_] = told.points
    assert (point.sm_ratio, point.gpu_memory_used_bytes) == (0.125, 3)
    assert not point.HasField("gpu_power_watts")
    assert not point.HasField("tensor_ratio")


def test_nothing_before_an_attempt_and_after_its_end_is_of_it() -> None:
    told = profile(heard(), job(started=NOON + STEP, ended=NOON + STEP + 1), 0, NOON + HOUR_US)
    assert [point.at for point in told.members[0].points] == [NOON + STEP]
    assert not profile(heard(), job(started=NOON + 2 * STEP), 0, NOON + HOUR_US).members[0].points


def test_an_attempt_that_is_not_there_and_one_that_did_not_start_have_no_curve() -> None:
    assert not profile(History(), pb.Job(id="j"), 0, NOON).members
    for one, has in ((pb.Job(number=7), "none yet"), (job(), "attempts 1 to 1")):
        with pytest.raises(NotFound, match=f"has no attempt 3; it has {has}"):
            profile(History(), one, 3, NOON)
    told = profile(History(), job(started=0), 1, NOON)
    assert (told.attempt, told.since, len(told.members)) == (1, 0, 0)


def test_an_answer_has_a_bound_on_members_and_says_how_many_there_are() -> None:
    told = profile(heard(), job(members=MEMBERS_MAX + 9), 0, NOON + HOUR_US)
    assert (len(told.members), told.members_total) == (MEMBERS_MAX, MEMBERS_MAX + 9)


# ------------------------------------------------------------------ the hours of a node


def test_hours_of_a_node_are_means_over_its_devices_and_of_the_last_day_alone() -> None:
    history = History()
    for hours, ratios in ((0, (0.5, 1.0)), (1, (0.25, None)), (30, (0.125, 0.125))):
        made = pb.Sample(at=NOON + hours * HOUR_US)
        for index, ratio in enumerate(ratios):
            made.gpus.add(index=index, sm_ratio=ratio)
        history.take("n", made)
    told = hours_of(history, "n", range(2), NOON + 2 * HOUR_US)
    assert [(hour.at, hour.sm_ratio) for hour in told] == [(NOON, 0.75), (NOON + HOUR_US, 0.25)]
    assert not told[0].HasField("utilization_ratio")
    late = hours_of(history, "n", range(2), NOON + 30 * HOUR_US)
    assert [hour.at - NOON for hour in late] == [30 * HOUR_US]
    assert hours_of(history, "m", range(2), NOON) == []
