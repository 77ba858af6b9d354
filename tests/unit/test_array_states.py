"""What an array is told as: that it stops, when all that is left of it does."""

from __future__ import annotations

from typing import Any

from whole_site import Site, play

from bursar.model import ArraySpec, JobState
from bursar.v1 import jobs_pb2 as pb


def array(site: Site, started: int) -> str:
    """An array of three, of which so many tasks run."""
    job = site.job("ann", "p", array=ArraySpec(((0, 3, 1),)))
    for index in range(started):
        site.place(f"{job}.{index}")
    return job


async def states(site: Site, method: str, request: Any) -> list[str]:
    (status, details), [answer] = await site.ask(method, request, token=site.token("ann", "admin"))
    assert status == "OK", details
    return [job.state for job in answer.jobs]


def test_a_cancelled_array_answers_that_it_stops_wherever_it_is_told() -> None:
    async def story(site: Site) -> None:
        job = array(site, 2)
        assert await states(site, "Jobs.Cancel", pb.CancelRequest(jobs=[job])) == ["STOPPING"]
        assert await states(site, "Jobs.List", pb.ListJobsRequest(states=["STOPPING"])) == ["STOPPING"]
        assert await states(site, "Jobs.List", pb.ListJobsRequest(states=["RUNNING"])) == []
        _, [shown] = await site.ask("Jobs.Get", pb.GetJobRequest(job=job), token=site.token("ann", "admin"))
        assert shown.state == "STOPPING"
        assert dict(shown.array.counts) == {"STOPPING": 2, "CANCELLED": 1}
        assert site.engine.state.jobs[job].state is JobState.RUNNING

    play(story)


def test_an_array_of_which_something_runs_or_waits_runs_on() -> None:
    async def story(site: Site) -> None:
        job = array(site, 2)
        token = site.token("ann", "admin")
        await site.ask("Jobs.Cancel", pb.CancelRequest(jobs=[f"{job}.0"]), token=token)
        for ended in ("", f"{job}.2"):  # the last one waits, then it is gone, and the second still runs
            if ended:
                await site.ask("Jobs.Cancel", pb.CancelRequest(jobs=[ended]), token=token)
            _, [shown] = await site.ask("Jobs.Get", pb.GetJobRequest(job=job), token=token)
            assert shown.state == "RUNNING"

    play(story)


def test_an_array_that_has_ended_is_told_as_it_ended() -> None:
    async def story(site: Site) -> None:
        job = array(site, 0)
        assert await states(site, "Jobs.Cancel", pb.CancelRequest(jobs=[job])) == ["CANCELLED"]

    play(story)
