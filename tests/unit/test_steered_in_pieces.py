"""A command on many jobs is decided on all of them first, and done in pieces between which others go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from whole_site import Site, play

from bursar.clock import HOUR_US
from bursar.codec.spec import spec_to_wire
from bursar.model import ArraySpec, JobSpec, JobState
from bursar.resources import ResourceRequest
from bursar.v1 import jobs_pb2
from bursard.services.jobs import _PIECE


def pieces(site: Site) -> list[int]:
    """How many jobs each commit of a command steers, from now on."""
    found: list[int] = []
    commit = site.engine.commit_each

    def counted(decisions: Iterable[Callable[[], Any]], actor: str) -> int:
        some = list(decisions)
        if actor == "ann":
            found.append(len(some))
        return commit(some, actor)

    site.engine.commit_each = counted  # type: ignore[method-assign]
    return found


async def steer(site: Site, method: str, jobs: list[str]) -> tuple[tuple[str, str], list[Any]]:
    request = jobs_pb2.JobsRequest(jobs=jobs)
    return await site.ask(f"Jobs.{method}", request, token=site.token("ann", "submitter"))


def test_many_jobs_are_steered_in_pieces_and_all_of_them_are_answered() -> None:
    async def story(site: Site) -> None:
        ids = [site.job("ann", "p") for _ in range(2 * _PIECE + 3)]
        found = pieces(site)
        (status, said), [answer] = await steer(site, "Hold", ids)
        assert status == "OK", said
        assert found == [_PIECE, _PIECE, 3]
        assert [job.id for job in answer.jobs] == ids
        assert all(site.engine.state.jobs[one].held for one in ids)
        assert site.engine.writer.durable_seq == site.engine.state.version

    play(story)


def test_an_array_is_a_piece_of_its_own() -> None:
    async def story(site: Site) -> None:
        ids = [site.job("ann", "p", **more) for more in ({}, {"array": ArraySpec(((0, 9, 1),))}, {}, {})]
        found = pieces(site)
        (status, _), _ = await steer(site, "Hold", ids)
        assert (status, found) == ("OK", [1, 1, 2])

    play(story)


def test_where_one_of_many_cannot_be_steered_none_is() -> None:
    async def story(site: Site) -> None:
        ids = [site.job("ann", "p") for _ in range(2 * _PIECE)]
        site.run(ids[0])
        before = site.engine.state.version
        (status, _), _ = await steer(site, "Hold", [*ids[1:], ids[0]])
        assert status != "OK"
        assert site.engine.state.version == before
        assert not any(job.held for job in site.engine.state.jobs.values())

    play(story)


def test_promises_that_hold_beside_each_other_are_made_at_one_instant() -> None:
    async def story(site: Site) -> None:
        token = site.token("ann", "submitter")
        ids = []
        for hours in range(2, 2 + _PIECE + 2):
            spec = JobSpec(
                command=("true",),
                project="p",
                options=(ResourceRequest(None, 8_000, 1 << 30),),
                time_limit_us=HOUR_US // 2,
                deadline_at=site.engine.now() + hours * HOUR_US,
            )
            request = jobs_pb2.SubmitRequest(spec=spec_to_wire(spec))
            (status, said), [answer] = await site.ask("Jobs.Submit", request, token=token)
            assert status == "OK", said
            ids.append(answer.job.id)
        (status, said), _ = await steer(site, "Hold", ids)
        assert status == "OK", said
        found = pieces(site)
        (status, said), _ = await steer(site, "Release", ids)
        assert (status, found) == ("OK", [len(ids)]), said
        state = site.engine.state
        assert set(state.promises.given) == set(ids)
        assert {state.jobs[one].state for one in ids} == {JobState.PENDING}

    play(story)
