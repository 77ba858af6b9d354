"""Deadlines through the daemon's door: what `Release` answers, and which promises are refused in words."""

from __future__ import annotations

from typing import Any

from whole_site import Site, play

from bursar.clock import HOUR_US
from bursar.codec.spec import spec_to_wire
from bursar.model import ArraySpec, Dependency, JobSpec, JobState
from bursar.resources import ResourceRequest
from bursar.v1 import jobs_pb2, money_pb2

WHOLE = (ResourceRequest(None, 8_000, 1 << 30),)


async def submit(site: Site, by_h: float, **more: Any) -> tuple[tuple[str, str], list[Any]]:
    """A job of the whole node for an hour, by so many hours from now."""
    at = site.engine.now() + int(by_h * HOUR_US)
    wanted = {"project": "p", "options": WHOLE, "time_limit_us": HOUR_US, "deadline_at": at} | more
    request = jobs_pb2.SubmitRequest(spec=spec_to_wire(JobSpec(command=("true",), **wanted)))
    return await site.ask("Jobs.Submit", request, token=site.token("ann", "submitter"))


async def steer(site: Site, method: str, *jobs: str) -> tuple[str, str]:
    verdict, _ = await site.ask(
        f"Jobs.{method}", jobs_pb2.JobsRequest(jobs=jobs), token=site.token("ann", "submitter")
    )
    return verdict


def test_release_promises_anew_or_changes_nothing_and_says_of_which_job() -> None:
    async def story(site: Site) -> None:
        _, [first] = await submit(site, 1.5)
        _, [second] = await submit(site, 3)
        mine, other = site.engine.state.jobs[first.job.id], site.engine.state.jobs[second.job.id]
        assert (await steer(site, "Hold", mine.id, other.id))[0] == "OK"
        assert site.engine.state.promises.given == {}
        _, [third] = await submit(site, 1.5)
        status, said = await steer(site, "Release", other.id, mine.id)
        assert status == "RESOURCE_EXHAUSTED"
        assert f"job {mine.display}: deadline" in said
        assert (mine.held, other.held) == (True, True)  # neither, since one of them cannot be
        assert list(site.engine.state.promises.given) == [third.job.id]
        assert (await steer(site, "Release", other.id)) == ("OK", "")
        assert (mine.held, other.held) == (True, False)
        assert list(site.engine.state.promises.given) == [third.job.id, other.id]
        assert other.state is JobState.PENDING

    play(story)


def test_what_is_promised_nothing_is_refused_in_words_that_say_what_to_add() -> None:
    async def story(site: Site) -> None:
        _, [plain] = await submit(site, 9)
        asks: list[tuple[dict[str, Any], str]] = [
            ({"array": ArraySpec((0, 1))}, "array"),
            ({"depends_on": (Dependency(plain.job.id, "succeeded"),)}, "waits for others"),
            ({"held": True}, "hold"),
        ]
        for more, word in asks:
            (status, said), _ = await submit(site, 9, **more)
            assert (status, word in said, "not built yet" in said) == ("INVALID_ARGUMENT", True, True), said
            assert "best-effort" in said
            (status, said), _ = await submit(site, 9, **more, deadline_policy="best-effort")
            assert status == "OK", said
        text = "kind: Quota\nname: q\nspec: {scope: {project: p}, max: {cpus: 40}}\n"
        request = money_pb2.ApplyRequest(sources=[money_pb2.PolicySource(name="q.yaml", text=text)])
        await site.ask("Policies.Apply", request, token=site.token("oz", "admin"))
        (status, said), _ = await submit(site, 9)
        assert (status, "Quota" in said, "best-effort" in said) == ("INVALID_ARGUMENT", True, True), said

    play(story)
