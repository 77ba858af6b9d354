"""What similar runs took: what is kept of it, and what budgets hold by that pay for what is expected."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bursar.clock import HOUR_US, SECOND_US
from bursar.model import CheckpointSpec, EndCause, JobSpec, JobState, NodeFacts
from bursar.money import cumulative
from bursar.resources import ResourceRequest
from bursard.events import LimitChanged
from bursard.fleet.testing import World
from bursard.housekeeping import Housekeeping
from bursard.state import HOLD_MARGIN_US, JobRecord, image
from bursard.state.compare import differences
from bursard.state.runs import KINDS_KEPT, RUNS_KEPT, PastRuns, RunTimes

MINUTE_US = 60 * SECOND_US
OVERHEAD_US = 5 * SECOND_US + HOLD_MARGIN_US
BUDGET = """\
kind: Budget
name: {name}
spec: {{scope: {{project: p}}, limit: 1000 USD, period: year, hold: {hold}}}
"""
ASKS = (ResourceRequest(None, 1_000, 1 << 20),)


def spec(name: str = "train-1", **more: Any) -> JobSpec:
    return JobSpec(**({"name": name, "project": "p", "options": ASKS} | more))


class Site(World):
    """A node, a budget that holds what is expected, and runs of `train-N` that took so many minutes."""

    def __init__(self, *minutes: int, hold: str = "expected, lease: 20m") -> None:
        super().__init__()
        self.backend.serve(self.fleet)
        self.backend.connect(NodeFacts(name="n-1", cpu_milli=8_000, memory_bytes=1 << 34))
        self.apply(BUDGET.format(name="b", hold=hold))
        self.house = Housekeeping(self.state, lambda: self.engine.prices, self._commit)
        for number, each in enumerate(minutes):
            self.run(f"train-{number}", each)

    def run(self, name: str, minutes: int, cause: EndCause = EndCause.COMPLETED) -> None:
        job = self.start(name)
        held_us = minutes * MINUTE_US
        self.clock.advance(held_us)
        assert job.attempt is not None
        self.exited_of(job.attempt, cause, exit_code=0, started=True, held_us=held_us)
        assert job.state.terminal

    def start(self, name: str = "train-77", **more: Any) -> JobRecord:
        job = self.submit(name=name, time_limit_us=10 * HOUR_US, **more)
        self.cycle()
        self.backend.report()
        assert job.state is JobState.RUNNING
        return job

    def limits(self, job: JobRecord) -> tuple[int, int, int]:
        assert job.attempt is not None
        return job.attempt.time_limit_us, job.attempt.lease_us, job.attempt.full_limit_us


def test_half_of_the_runs_took_no_longer_than_the_median_and_nine_of_ten_than_the_other() -> None:
    runs = PastRuns()
    for each in (7, 3, 10, 1, 5, 9, 2, 8, 4, 6):
        runs.add(spec(f"train-{each}"), each)
    assert runs.expected(spec()) == RunTimes(5, 9, 10)
    runs.add(spec(), 11)
    assert runs.expected(spec()) == RunTimes(6, 10, 11)


@pytest.mark.parametrize(
    "other",
    [
        spec("train-a1"),
        spec("", time_limit_us=1),
        spec(project="p/q"),
        spec(nodes=2),
        spec(options=(ResourceRequest(None, 2_000, 1 << 20),)),
    ],
)
def test_only_runs_of_its_project_name_and_size_are_like_it(other: JobSpec) -> None:
    runs = PastRuns()
    for each in (1, 2, 3):
        runs.add(spec(), each)
    assert runs.expected(other) is None
    assert runs.likely_us(other) == 0
    assert runs.expected(spec("train-0.001", time_limit_us=5, priority=7)) == RunTimes(2, 3, 3)


def test_of_two_runs_nothing_is_expected_and_the_newest_of_many_count() -> None:
    runs = PastRuns()
    runs.add(spec(), 100)
    runs.add(spec(), 100)
    assert runs.expected(spec()) is None
    for _ in range(RUNS_KEPT):
        runs.add(spec(), 7)
    assert runs.expected(spec()) == RunTimes(7, 7, RUNS_KEPT)


def test_what_is_kept_is_bounded_and_what_ran_last_stays() -> None:
    runs = PastRuns()
    for each in range(KINDS_KEPT + 5):
        runs.add(spec(project=f"p{each}"), 1)
        runs.add(spec(project="kept"), each)
    assert len(runs.image()) == KINDS_KEPT
    assert runs.expected(spec(project="kept")) is not None


@pytest.mark.parametrize(("us", "likely"), [(15, 15), (16, 16), (17, 18), (1_000, 1_024), (1_025, 1_152)])
def test_what_is_likely_is_rounded_up_by_an_eighth_at_most(us: int, likely: int) -> None:
    runs = PastRuns([("", ())])
    for _ in range(3):
        runs.add(spec(), us)
    assert runs.likely_us(spec()) == likely


def test_a_start_holds_what_nine_of_ten_runs_took_and_goes_on_by_leases() -> None:
    site = Site(60, 90, 61)
    job = site.start()
    likely_us = site.state.runs.likely_us(job.spec)
    assert 90 * MINUTE_US <= likely_us < 102 * MINUTE_US
    assert site.limits(job) == (likely_us, 20 * MINUTE_US, 10 * HOUR_US)
    assert job.attempt is not None
    start = site.state.budgets.records["b"].period_start
    assert site.state.ledger.held("b", start) == cumulative(job.attempt.rate, likely_us + OVERHEAD_US)
    site.events.clear()
    for _ in range(likely_us // MINUTE_US):
        site.clock.advance(MINUTE_US)
        site.house.turn(site.engine.now())
        site.writer.flush()
        site.backend.report()
        site.writer.flush()
    first, *_ = (event for event in site.events if isinstance(event, LimitChanged))
    assert likely_us + 10 * MINUTE_US <= first.time_limit_us <= likely_us + 11 * MINUTE_US


def test_shorter_runs_than_a_lease_are_held_for_by_a_lease() -> None:
    site = Site(1, 2, 3)
    assert site.limits(site.start()) == (20 * MINUTE_US, 20 * MINUTE_US, 10 * HOUR_US)


def test_a_warning_before_the_limit_is_held_for_beside_what_is_expected() -> None:
    site = Site(60, 60, 60)
    job = site.start(checkpoint=CheckpointSpec(signal="USR1", before_us=5 * MINUTE_US))
    likely_us = site.state.runs.likely_us(job.spec)
    assert site.limits(job) == (likely_us + 5 * MINUTE_US, 25 * MINUTE_US, 10 * HOUR_US)


def test_what_nobody_knows_is_held_for_in_the_worst_case() -> None:
    site = Site(60, 60)
    assert site.limits(site.start()) == (10 * HOUR_US, 0, 0)
    assert site.limits(site.start("other")) == (10 * HOUR_US, 0, 0)


def test_only_runs_that_ended_as_they_were_meant_to_count() -> None:
    site = Site(60, 60)
    site.run("train-8", 1, EndCause.FAILED)
    assert site.state.runs.expected(spec()) is None
    site.run("train-9", 60)
    assert site.state.runs.expected(spec()) == RunTimes(HOUR_US, HOUR_US, 3)


@pytest.mark.parametrize(
    ("other", "first_us"), [("worst-case", 10 * HOUR_US), ("lease, lease: 10m", None), ("expected", None)]
)
def test_with_another_budget_the_most_careful_decides(other: str, first_us: int | None) -> None:
    site = Site(60, 60, 60)
    site.apply(BUDGET.format(name="c", hold=other))
    job = site.start()
    likely_us = site.state.runs.likely_us(job.spec)
    assert site.limits(job)[0] == (first_us or likely_us)


def test_what_was_learnt_is_in_images_and_an_audit_compares_it() -> None:
    site = Site(60, 70, 80)
    site.start()
    data = image.encode(site.state, site.engine.now())
    again = image.decode(data)
    assert again.runs.image() == site.state.runs.image()
    assert differences(data, site.state) == []
    spoilt = data.replace(str(70 * MINUTE_US).encode(), str(71 * MINUTE_US).encode(), 1)
    assert any(line.startswith("runs") for line in differences(spoilt, site.state))


def test_an_image_of_before_it_was_kept_opens_and_is_no_damage() -> None:
    site = Site(60, 70, 80)
    site.start()
    written = msgspec.json.decode(image.encode(site.state, site.engine.now()))
    del written["runs"], written["runs_whole"]
    for job in written["jobs"]:
        job.pop("likely_us", None)
    old = msgspec.json.encode(written)
    assert differences(old, site.state) == []
    opened = image.decode(old)
    assert (opened.runs.image(), opened.runs.whole) == ([], False)
    opened.runs.add(spec(), 5)
    newer = image.encode(opened, site.engine.now())
    assert differences(newer, site.state) == []
    assert image.decode(newer).runs.whole is False
