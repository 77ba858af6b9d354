"""With a deadline: a spot machine while there is time to lose one, then one on demand in time."""

from __future__ import annotations

from pathlib import Path

import pytest
from rented_site import CLOUD, POOL, Site

from bursar.clock import HOUR_US, SECOND_US, Instant, format_instant
from bursar.model import CheckpointSpec, EndCause
from bursard.machines import renting
from bursard.machines.choose import choose
from bursard.machines.in_time import SPARE_US, comes_back, in_time, saved_us, worth_moving
from bursard.machines.provider import Wanted
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
        (1.15, True, "on-demand"),
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
    hold_us = site.world.state.class_of(job).hold_us
    kept_us = hold_us * 15 // 100  # a job that comes back to spot keeps so much for later
    until = job.spec.deadline_at - hold_us - kept_us - 2 * (BOOT_S + SPARE_S) * SECOND_US
    left = (until - begin) // SECOND_US
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


def test_offers_are_looked_at_once_for_all_that_wait_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, cloud=CLOUD + NO_SPOT % 9999)
    deadline = site.world.engine.now() + 9 * HOUR_US
    for _ in range(30):
        site.large(deadline_at=deadline, deadline_policy="best-effort", checkpoint=SAVES)
    site.pass_time(5)
    looked = list[str]()
    monkeypatch.setattr(renting, "choose", lambda *given: looked.append("") or choose(*given))
    site.pass_time(1)
    assert len(looked) == 1
    assert len(site.renting.waits_until) == 30


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


def moved(site: Site, job: JobRecord) -> tuple[str, str]:
    """The market that it runs in, and what of the machines there are."""
    assert job.attempt is not None
    node = site.world.state.nodes[job.attempt.members[0].alloc.node_id]
    return node.facts.market, ",".join(sorted(markets(site)))


def on_demand(site: Site, hours: float, **spec: object) -> JobRecord:
    """A job that runs on demand, since there was no spot machine when it began."""
    job = due(site, round(hours * 3600), **{"saves": True, "time_limit_us": 8 * HOUR_US, **spec})
    for _ in range(40):
        site.second()
    assert moved(site, job) == ("on-demand", "on-demand")
    return job


def test_a_job_goes_on_on_a_spot_machine_once_there_is_one_and_it_has_the_time(tmp_path: Path) -> None:
    site = Site(tmp_path, cloud=CLOUD + NO_SPOT % 2)
    job = on_demand(site, 9)
    first = site.machines[0]
    while len(site.machines) < 2:
        site.second()
    for _ in range(15):
        site.second()
    assert moved(site, job) == ("on-demand", "on-demand,spot"), "it works on while the other one comes up"
    spot = next(one for one in site.machines if one.market == "spot")
    assert spot.why == "job 1 runs on demand, and has time to go on where it costs less"
    for _ in range(30):
        site.second()
    assert moved(site, job)[0] == "spot"
    assert len(job.attempts) == 2
    assert job.attempts[0].cause is EndCause.PREEMPTED
    assert job.retries == 0
    for _ in range(20):
        site.second()
    assert markets(site) == ["spot"], "the other one is given back at once"
    ended = {one.machine_id: one.reason for one in site.gone()}
    assert ended[first.id] == f"released: job 1 goes on on {spot.name}, which costs less"
    launched = [row for row in site.rows() if row.kind == "startup"]
    assert {row.job_id for row in launched} == {job.id}
    assert len(launched) == 2, "it ran on both"


def test_who_has_no_time_to_lose_a_machine_stays_where_it_is(tmp_path: Path) -> None:
    site = Site(tmp_path, cloud=CLOUD + NO_SPOT % 2)
    job = on_demand(site, 8.2)
    for _ in range(120):
        site.second()
    assert moved(site, job) == ("on-demand", "on-demand")


def test_a_move_saves_twice_what_it_costs_or_is_not_made(tmp_path: Path) -> None:
    """It costs 320 s on the new machine: its launch, and the work until the job is where it was."""
    site = Site(tmp_path)
    (spot,) = [one for one in site.provider.offers(Wanted()) if one.place.market == "spot"]
    rate, lost_us = 2 * spot.rate_nanos_per_hour, (BOOT_S + SPARE_S) * SECOND_US
    job, now = due(site, 90_000, saves=True), site.world.engine.now()
    assert worth_moving(job, 3 * lost_us + 1, rate, spot, now), "what is left then runs at half the price"
    assert not worth_moving(job, 3 * lost_us, rate, spot, now)
    assert not worth_moving(job, HOUR_US, spot.rate_nanos_per_hour, spot, now)


def test_only_who_saves_itself_takes_both_markets_and_may_be_stopped_is_moved(tmp_path: Path) -> None:
    site = Site(tmp_path)
    assert comes_back(due(site, 9_000, saves=True))
    assert not comes_back(site.large(checkpoint=SAVES))
    assert not comes_back(due(site, 9_000, saves=False))
    for spec in ({"preemptible": False}, {"spot_policy": "on-demand"}, {"nodes": 2}):
        assert not comes_back(due(site, 9_000, saves=True, **spec))


def test_a_job_that_ends_before_it_could_move_leaves_nothing_behind(tmp_path: Path) -> None:
    site = Site(tmp_path, cloud=CLOUD + NO_SPOT % 2)
    site.world.apply("kind: Budget\nname: b\nspec: {scope: {project: p}, limit: 90 USD}\n")
    job = on_demand(site, 9)
    while len(site.machines) < 2:
        site.second()
    assert job.attempt is not None
    site.world.backend.finish(job.attempt.id, 0)
    for _ in range(120):
        site.second()
    assert site.machines == []
    ledger, period = site.world.state.ledger, site.world.state.budgets.records["b"].period_start
    assert ledger.held("b", period) == 0
    assert len({row.node_id for row in site.rows() if row.kind == "startup"}) == 1


def test_nothing_else_starts_on_the_machine_that_a_job_is_to_move_to(tmp_path: Path) -> None:
    site = Site(tmp_path, cloud=CLOUD + NO_SPOT % 2)
    job = on_demand(site, 9)
    while len(site.machines) < 2:
        site.second()
    other = site.world.submit(options=job.spec.options)
    for _ in range(60):
        site.second()
    assert moved(site, job)[0] == "spot"
    assert other.attempt is None
