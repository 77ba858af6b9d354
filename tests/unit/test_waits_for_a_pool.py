"""A job that no node could hold waits where a machine of a pool could, before one is rented too."""

from __future__ import annotations

from pathlib import Path

import pytest
from rented_site import Site, done

from bursar.model import ReasonCode
from bursar.resources import GpuRequest, ResourceRequest
from bursard.access.identity import Identity, Role, set_caller
from bursard.fleet.testing import FACTS
from bursard.services.planning import plan_view
from bursard.state import JobRecord

HUGE = (ResourceRequest(None, 9_000_000, 1 << 20),)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def code_of(site: Site, job: JobRecord) -> ReasonCode:
    key = site.world.state.pending.key_of(job.id)
    assert site.last is not None
    assert key is not None
    reason = site.renting.reason(job.id, site.last.reason(key, job.id))
    assert reason is not None
    return reason.code


def test_a_job_that_a_machine_could_hold_waits_before_the_first_look_and_another_never_starts(
    site: Site,
) -> None:
    job, huge = site.large(), site.world.submit(options=HUGE)
    site.cycle()
    assert code_of(site, job) is ReasonCode.WAITING_FOR_RESOURCES
    assert site.why(job).endswith("pool rented has not yet said which machines it has")
    site.pass_time(1)
    assert site.machines == []
    assert code_of(site, job) is ReasonCode.WAITING_FOR_RESOURCES
    assert code_of(site, huge) is ReasonCode.EXCEEDS_NODE_CAPACITY


def test_what_is_planned_before_a_pool_has_said_what_it_has_is_no_job_that_never_starts(site: Site) -> None:
    set_caller(Identity("ann", Role.ADMIN))
    spec = site.large().spec
    found = done(plan_view(site.world.engine, "ann", spec, rents=site.renting))
    assert found.reason.code == ReasonCode.WAITING_FOR_RESOURCES


@pytest.mark.parametrize("market", ["spot", "gpu-spot"])
def test_a_job_that_asks_for_a_market_waits_for_a_pool_that_has_it(site: Site, market: str) -> None:
    set_caller(Identity("ann", Role.ADMIN))
    site.world.backend.connect(FACTS)
    gpus = GpuRequest(1, ("L4",)) if market == "gpu-spot" else None
    options = (ResourceRequest(gpus, 1_000, 1 << 20),)
    job = site.world.submit(options=options, spot_policy="spot")
    site.pass_time(1)
    planned = done(plan_view(site.world.engine, "ann", job.spec, rents=site.renting))
    if market == "spot":
        assert code_of(site, job) is ReasonCode.WAITING_FOR_RESOURCES
        assert planned.reason.code == ReasonCode.PROVISIONING
        site.pass_time(4)
        assert [(one.job_id, one.market) for one in site.machines] == [(job.id, "spot")]
    else:
        assert code_of(site, job) not in (ReasonCode.WAITING_FOR_RESOURCES, ReasonCode.PROVISIONING)
        assert site.why(job).endswith("pool rented: none of its 3 offers could hold the job")
