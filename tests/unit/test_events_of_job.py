"""`events --job` tells of a job, of its tasks, and of every attempt of theirs, in the log's order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from whole_site import Site, play

from bursar.model import ArraySpec
from bursar.v1 import events_pb2
from bursard.services import trail

OF_ATTEMPT = ("attempt-placed", "member-started", "member-ended", "attempt-ended")


async def listed(site: Site, job: str, **asked: object) -> list[events_pb2.Event]:
    request = events_pb2.ListEventsRequest(job=job, **asked)  # type: ignore[arg-type]
    (status, details), answers = await site.ask("Events.List", request, token=site.token("oz", "operator"))
    assert status == "OK", details
    return answers


@pytest.mark.parametrize(("page", "followed"), [(200, 64), (200, 0), (2, 64), (2, 1), (1, 0)])
def test_an_array_has_the_starts_and_ends_of_its_tasks_and_of_no_others(
    page: int, followed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail, "PAGE", page)
    monkeypatch.setattr(trail, "FOLLOWED_MAX", followed)

    async def story(site: Site) -> None:
        array = site.job("ann", "p", array=ArraySpec(((0, 2, 1),)))
        other = site.job("ann", "p")
        first, stranger, second = site.place(f"{array}.0"), site.place(other), site.place(f"{array}.1")
        for attempt in (second, stranger, first):
            site.end(attempt)
        site.run(site.job("ann", "p"))
        await site.engine.durable()
        found = await listed(site, array)
        mine = {array, f"{array}.0", f"{array}.1", first.id, second.id}
        assert {event.subject for event in found} == mine
        kinds = [event.kind for event in found]
        assert {kind: kinds.count(kind) for kind in OF_ATTEMPT} == dict.fromkeys(OF_ATTEMPT, 2)
        assert [event.seq for event in found] == sorted(event.seq for event in found)
        for position, event in enumerate(found):
            rest = await listed(site, array, after_seq=event.seq)
            assert rest == found[position + 1 :]
        ends = await listed(site, array, kinds=["member-ended"])
        assert [event.subject for event in ends] == [second.id, first.id]
        task = await listed(site, f"{array}.1")
        assert {event.subject for event in task} == {f"{array}.1", second.id}

    play(story)


@pytest.mark.parametrize("followed", [64, 0])
def test_attempts_that_are_placed_while_one_reads_are_followed(
    followed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail, "FOLLOWED_MAX", followed)

    async def story(site: Site) -> None:
        job = site.job("ann", "p")
        reader = trail.JobTrail(job, ())
        kinds, after = list[str](), 0
        steps: list[Callable[[], object]] = [lambda: None, lambda: site.place(job)]
        steps.append(lambda: site.end(site.engine.state.jobs[job].attempts[0]))
        for step in steps:
            step()
            await site.engine.durable()
            rows, after, is_last = await site.engine.read(
                lambda views, after=after: reader.page(views, after)
            )
            assert is_last
            kinds += [trail.head_of(row.payload)[0] for row in rows]
        assert kinds == ["job-submitted", *OF_ATTEMPT]

    play(story)
