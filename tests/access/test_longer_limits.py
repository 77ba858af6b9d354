"""What a start was allowed for holds: the owner of a job that runs may lower its limit, not raise it."""

from __future__ import annotations

import pytest
from whole_site import Site, play

from bursar.clock import HOUR_US
from bursar.v1 import jobs_pb2


async def asked_for(site: Site, job: str, role: str, hours: int, user: str = "ann") -> tuple[str, str]:
    """The status of an update of the time limit."""
    request = jobs_pb2.UpdateRequest(job=job, time_limit_us=hours * HOUR_US)
    return await site.call("Jobs.Update", request, token=site.token(user, role, "nlp"))


def test_the_owner_of_a_job_that_runs_lowers_its_limit_and_raises_it_no_more() -> None:
    async def story(site: Site) -> None:
        job = site.job("ann", "nlp", time_limit_us=3 * HOUR_US)
        site.start(site.place(job))
        assert (await asked_for(site, job, "submitter", 2))[0] == "OK"
        status, said = await asked_for(site, job, "submitter", 2_000)
        assert status == "PERMISSION_DENIED"
        number = site.engine.state.jobs[job].number
        assert f"may not raise, while it runs, the time limit of job {number};" in said
        assert site.engine.state.jobs[job].spec.time_limit_us == 2 * HOUR_US

    play(story)


def test_nor_beyond_what_its_budget_had_cut_it_to_when_it_was_placed() -> None:
    async def story(site: Site) -> None:
        job = site.job("ann", "nlp", time_limit_us=3 * HOUR_US)
        attempt = site.place(job)
        attempt.time_limit_us, attempt.cut_by_budget = HOUR_US, True
        site.start(attempt)
        status, _ = await asked_for(site, job, "submitter", 2)
        assert status == "PERMISSION_DENIED"

    play(story)


@pytest.mark.parametrize("role", ["project-admin", "operator", "admin"])
def test_who_steers_the_jobs_of_others_raises_it(role: str) -> None:
    async def story(site: Site) -> None:
        job = site.job("ann", "nlp", time_limit_us=3 * HOUR_US)
        site.start(site.place(job))
        assert (await asked_for(site, job, role, 9))[0] == "OK"
        assert (await asked_for(site, job, role, 12, "bob"))[0] == "OK"

    play(story)


def test_a_job_that_waits_asks_for_as_much_as_its_owner_likes() -> None:
    async def story(site: Site) -> None:
        job = site.job("ann", "nlp", time_limit_us=3 * HOUR_US)
        assert (await asked_for(site, job, "submitter", 2_000))[0] == "OK"

    play(story)
