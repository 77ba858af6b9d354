"""With a deadline: a spot machine while there is time to lose one, then one on demand in time."""

from __future__ import annotations

from pathlib import Path

import pytest
from rented_site import CLOUD, POOL, Site

from bursar.clock import HOUR_US, SECOND_US, Instant, format_instant
from bursar.model import CheckpointSpec, EndCause
from bursard.machines.in_time import SPARE_US, in_time, saved_us
from bursard.state import JobRecord

SPARE_S = SPARE_US // SECOND_US
BOOT_S = 20
"""Of both markets here."""
NO_SPOT = "faults: [{call: create, code: NoCapacity, market: spot, times: %d}]\n"
SAVES = CheckpointSpec(signal="USR1", grace_us=10 * SECOND_US)


def due(site: Site, seconds: int, saves: bool = False, **spec: object) -> JobRecord:
    """A job that runs for an hour at most, and is to be done by so many seconds from now."""
    deadline = site.world.engine.now() + seconds * SECOND_US
    checkpoint = SAVES if saves else CheckpointSpec()
    return site.large(deadline_at=deadline, deadline_policy="best-effort", checkpoint=checkpoint, **spec)


def markets(site: Site) -> list[str]:
    return [machine.market for machine in site.machines]


def hold_s(site: Site, job: JobRecord) -> int:
    return site.world.state.class_of(job).hold_us // SECOND_US


@pytest.mark.parametrize(
    ("hours", "saves", "market"),
    [
        (3.0, False, "spot"),  # twice its hour, and three quarters of one to begin again
        (2.0, False, "on-demand"),  # all of its hour may be lost, and another one does not fit
        (2.0, True, "spot"),  # what it has done is kept
        (1.5, True, "on-demand"),
        (0.5, True, "on-demand"),  # late in any case: the surest way
    ],
)
def test_spot_is_for_who_could_lose_it(tmp_path: Path, hours: float, saves: bool, market: str) -> None:
    site = Site(tmp_path)
    due(site, round(hours * 3600), saves)
    site.pass_time(4)
    assert markets(site) == [market]
    told = "fits on no node" + ", and has no time to lose a spot machine before its deadline" * (
        market != "spot"
    )
    assert site.machines[0].why == f"job 1 {told}"


def test_without_a_deadline_it_is_the_cheapest(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.large()
    site.pass_time(4)
    assert markets(site) == ["spot"]


def test_who_has_time_waits_for_a_spot_machine_and_no_longer_than_that(tmp_path: Path) -> None:
    site = Site(tmp_path, cloud=CLOUD + NO_SPOT % 9999)
    begin = site.world.engine.now()
    job = due(site, 2 * 3600, saves=True)
    site.pass_time(10)
    assert site.machines == []
    left = 2 * 3600 - hold_s(site, job) - 2 * BOOT_S - 2 * SPARE_S
    until = begin + left * SECOND_US
    said = site.why(job)
    assert "it has time to wait for a spot cpu.small in home-a" in said
    at = format_instant(Instant(until // SECOND_US * SECOND_US))
    assert said.endswith(f"; from {at} on one on demand is rented, so that its deadline holds")
    site.pass_time(left - 20)
    assert site.machines == []
    site.pass_time(20)
    assert markets(site) == ["on-demand"]
    site.pass_time(BOOT_S + 10)
    assert job.attempt is not None
    assert site.world.engine.now() + hold_s(site, job) * SECOND_US <= job.spec.deadline_at


def test_a_spot_machine_that_is_to_be_had_again_is_taken(tmp_path: Path) -> None:
    site = Site(tmp_path, cloud=CLOUD + NO_SPOT % 1)
    due(site, 3 * 3600, saves=True)
    site.pass_time(8)
    assert site.machines == []
    site.pass_time(600)
    assert markets(site) == ["spot"]


def test_nobody_waits_for_a_market_that_he_does_not_take_or_that_no_pool_has(tmp_path: Path) -> None:
    site = Site(tmp_path, cloud=CLOUD + NO_SPOT % 9999)
    due(site, 3 * 3600, saves=True, spot_policy="on-demand")
    site.pass_time(4)
    assert markets(site) == ["on-demand"]
    spot_only = POOL.replace("provider: local", "provider: local, offers: {markets: [spot]}")
    other = Site(tmp_path / "other", spot_only)
    due(other, 1800)
    other.pass_time(4)
    assert markets(other) == ["spot"], "late on a spot machine is sooner than never"


def test_what_a_job_has_saved_is_not_to_be_done_again(tmp_path: Path) -> None:
    site = Site(tmp_path)
    job = due(site, 5 * 3600, saves=True)
    for _ in range(40):
        site.second()
    before = in_time(job, HOUR_US, ())
    for _ in range(1_200):
        site.world.clock.advance(SECOND_US)
    site.world.backend.report()
    assert job.attempt is not None
    held = job.attempt.members[0].charged_us
    first = job.attempt
    site.world.stop(first, EndCause.PREEMPTED)
    site.world.exited_of(first, EndCause.PREEMPTED, held_us=held)
    assert job.attempts[0].cause is EndCause.PREEMPTED
    assert saved_us(job) == held - SPARE_US > 0
    after = in_time(job, HOUR_US, ())
    assert before is not None
    assert after is not None
    assert after.order_by - before.order_by == saved_us(job)
