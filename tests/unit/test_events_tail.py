"""The last events of a job, or of some kinds, are the end of all of them, and are found from there."""

from __future__ import annotations

from typing import Any

import pytest
from whole_site import Site, play

from bursar.ids import RandomIds
from bursar.model import ArraySpec
from bursar.v1 import events_pb2
from bursard.services import events, trail


async def listed(site: Site, **asked: Any) -> list[events_pb2.Event]:
    request = events_pb2.ListEventsRequest(**asked)
    (status, details), answers = await site.ask("Events.List", request, token=site.token("oz", "operator"))
    assert status == "OK", details
    return answers


@pytest.mark.parametrize(("page", "followed"), [(200, 64), (3, 64), (1, 64), (2, 1)])
def test_a_tail_is_the_end_of_the_whole(page: int, followed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail, "PAGE", page)
    monkeypatch.setattr(events, "PAGE", page)
    monkeypatch.setattr(trail, "FOLLOWED_MAX", followed)

    async def story(site: Site) -> None:
        array = site.job("ann", "p", array=ArraySpec(((0, 2, 1),)))
        other = site.job("ann", "p")
        first, stranger, second = site.place(f"{array}.0"), site.place(other), site.place(f"{array}.1")
        for attempt in (second, stranger, first):
            site.end(attempt)
        await site.engine.durable()
        kinds = ["attempt-placed", "member-ended"]
        for asked in ({"job": array}, {"job": other}, {"kinds": kinds}, {"job": array, "kinds": kinds}):
            whole = await listed(site, **asked)
            assert len(whole) > 2
            for tail in range(1, len(whole) + 2):
                assert await listed(site, tail=tail, **asked) == whole[-tail:]
            after = whole[-2].seq
            assert await listed(site, tail=9, after_seq=after, **asked) == whole[-1:]
        assert await listed(site, tail=3, kinds=["budget-closed"]) == []

    play(story)


def test_a_tail_is_of_what_its_reader_may_see() -> None:
    async def story(site: Site) -> None:
        mine, others = [site.job("ann", "p") for _ in range(2)], [site.job("bob", "q") for _ in range(3)]
        await site.engine.durable()
        request = events_pb2.ListEventsRequest(kinds=["job-submitted"], tail=2)
        token = site.token("ann", "viewer", "p")
        (status, _), answers = await site.ask("Events.List", request, token=token)
        assert status == "OK"
        assert [event.subject for event in answers] == mine
        assert not {event.subject for event in answers} & set(others)

    play(story)


@pytest.mark.parametrize("by_job", [True, False])
def test_the_last_of_a_few_are_found_without_reading_the_log(by_job: bool) -> None:
    async def story(site: Site) -> None:
        site.engine.ids = RandomIds()  # the index holds the first letters of an id, which are to differ
        steps = 0

        def step() -> None:
            nonlocal steps
            steps += 1

        async def steps_for(job: str) -> int:
            """How many steps of its programs SQLite takes to find the last event."""
            nonlocal steps
            await site.engine.durable()
            steps = 0
            site.store._connection.set_progress_handler(step, 1)
            asked: dict[str, Any] = {"job": job} if by_job else {"kinds": ["job-submitted"]}
            found = await listed(site, tail=1, **asked)
            site.store._connection.set_progress_handler(None, 1)
            assert [(event.kind, event.subject) for event in found] == [("job-submitted", job)]
            return steps

        old = site.job("ann", "p")
        few = await steps_for(old)
        for _ in range(500):
            new = site.job("ann", "p")
        # A page of the log has 200 rows, and each row takes tens of steps.
        assert 0 < await steps_for(new) < few + 200 * (1 if by_job else 30)
        if by_job:
            assert await steps_for(old) < few + 200

    play(story)
