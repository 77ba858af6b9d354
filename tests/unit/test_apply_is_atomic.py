"""An event that cannot be applied fails its one call, before anything of it is true, and nobody else's."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from bursar.errors import NotApplied
from bursar.model import ArraySpec, Dependency, JobState
from bursard import cycle
from bursard.doctor import check_ends, check_state, second_ends
from bursard.events import AttemptPlaced, JobEnded, JobHeld, JobSubmitted, encode
from bursard.replay import restore
from bursard.state import core, image
from bursard.store import Batch, CommitUnknown, EventRow


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A fold with a defect: what it should do to `bad` it does by half, and fails."""
    bad: dict[str, Any] = {"job": ""}
    plain = dict(core._APPLY)

    def faulty(kind: type) -> Any:
        def apply(state: Any, event: Any, at: int, applied: Any) -> None:
            plain[kind](state, event, at, applied)
            if event.job_id == bad["job"]:
                state.nodes["node_x"] = state.jobs.pop(event.job_id)
                raise KeyError(event.job_id)

        return apply

    monkeypatch.setattr(core, "_APPLY", {**plain, **{k: faulty(k) for k in (JobHeld, AttemptPlaced)}})
    return bad


def contents(desk: Any) -> bytes:
    return image.encode(desk.state, 0)


def test_the_call_fails_with_nothing_of_it_true_and_the_next_one_works(
    at_a_desk: Any, planted: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def story(desk: Any) -> None:
        first, second, third = [await desk.submit() for _ in range(3)]
        await desk.settled()
        planted["job"] = desk.job(second).id
        before, events = contents(desk), len(desk.log())
        node = next(iter(desk.state.nodes.values()))
        with pytest.raises(NotApplied, match=r"KeyError.*nothing of it was done"):
            await desk.verb("hold", first, second, third)
        assert contents(desk) == before
        assert len(desk.log()) == events
        assert next(iter(desk.state.nodes.values())) is node, "who holds a record holds the same one"
        (line,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert line.kind == "JobHeld"  # type: ignore[attr-defined]
        assert line.exc_info is not None
        assert await desk.verb("hold", first, third) == [f"JobHeld {first}", f"JobHeld {third}"]
        assert contents(desk) == image.encode(restore(desk.store, desk.state.limits), 0)

    at_a_desk(story)


def test_calls_beside_it_lose_nothing(at_a_desk: Any, planted: dict[str, Any]) -> None:
    async def story(desk: Any) -> None:
        bad = await desk.submit()
        planted["job"] = desk.job(bad).id
        calls = []
        for _ in range(20):
            calls += [desk.submit(), desk.verb("hold", bad), desk.submit()]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        numbers = [answer for answer in answers if isinstance(answer, str)]
        refused = [answer for answer in answers if isinstance(answer, NotApplied)]
        assert (len(numbers), len(set(numbers)), len(refused)) == (40, 40, 20)
        assert {str(job.number) for job in desk.state.jobs.values()} == {bad, *numbers}
        submitted = [about for event, about in desk.log() if isinstance(event, JobSubmitted)]
        assert sorted(submitted) == sorted([bad, *numbers])
        assert contents(desk) == image.encode(restore(desk.store, desk.state.limits), 0)
        assert desk.store.verify() == []

    at_a_desk(story)


def test_the_cycle_leaves_a_job_alone_that_cannot_be_placed_and_goes_on(
    at_a_desk: Any, planted: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def story(desk: Any) -> None:
        first, bad, third = [await desk.submit() for _ in range(3)]
        planted["job"] = desk.job(bad).id
        for _ in range(3):
            desk.plan()
        assert [desk.job(ref).state.value for ref in (first, bad, third)] == [
            "STARTING",
            "PENDING",
            "STARTING",
        ]
        assert len([r for r in caplog.records if r.levelno >= logging.ERROR]) == 1
        planted["job"] = ""
        desk.plan()
        assert desk.job(bad).state.value == "PENDING"
        desk.clock.advance(cycle.LEFT_ALONE_US)
        desk.plan()
        assert desk.job(bad).state.value == "STARTING"

    at_a_desk(story)


def test_caches_of_prices_and_plans_are_made_anew(at_a_desk: Any, planted: dict[str, Any]) -> None:
    async def story(desk: Any) -> None:
        ref = await desk.submit()
        planted["job"] = desk.job(ref).id
        prices, version = desk.engine.prices, desk.state.policies_version
        facts = desk.state.cluster.facts_version
        with pytest.raises(NotApplied):
            await desk.verb("hold", ref)
        assert desk.engine.prices is not prices
        assert desk.state.policies_version > version
        assert desk.state.cluster.facts_version > facts

    at_a_desk(story)


def test_a_doubt_about_the_disk_still_ends_the_process(at_a_desk: Any, planted: dict[str, Any]) -> None:
    async def story(desk: Any) -> None:
        ref = await desk.submit()
        planted["job"] = desk.job(ref).id

        def unknown() -> None:
            raise CommitUnknown("the disk is gone")

        desk.engine.writer.drain = unknown
        with pytest.raises(CommitUnknown):
            await desk.verb("hold", ref)
        (fault,) = desk.faults
        assert isinstance(fault, CommitUnknown)
        desk.faults.clear()

    at_a_desk(story)


def test_doctor_finds_a_job_that_ended_twice(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        ref = await desk.submit()
        end = JobEnded(desk.job(ref).id, JobState.CANCELLED)
        await desk.verb("cancel", ref)
        assert second_ends(desk.store, 0) == []
        seq = desk.state.version + 1
        late = EventRow(seq, desk.engine.now(), "ann", encode(end))
        desk.store.append(Batch(events=[late], jobs=[], charges=[], postings=[], keys=[]))
        assert second_ends(desk.store, 0) == [f"J5: {end.job_id} ends once more with event {seq}"]
        assert not check_ends(desk.store, seq, True).ok
        restored = restore(desk.store, desk.state.limits)
        assert not restored.jobs, "such a log still opens"

    at_a_desk(story)


def test_a_second_end_is_refused_before_it_is_true(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        ref = await desk.submit()
        end = JobEnded(desk.job(ref).id, JobState.CANCELLED)
        with pytest.raises(NotApplied, match="J5"):
            desk.engine.commit([end, end], "ann")
        assert desk.job(ref).state is JobState.PENDING

    at_a_desk(story)


BROKEN: list[tuple[str, str]] = [
    ("state.counts['PENDING'] += 1", "PENDING: 8 jobs, 9 are counted"),
    ("array.unopened = ()", "array 1 has 2 pending tasks, 5 are counted"),
    ("array.open_slots += 1", "array 1 has 1 free and 2 taken of 2 slots"),
    ("array.counts['SUCCEEDED'] = 1", "array 1 counts 6 tasks of 5"),
    ("task.held = True", "job 1[0] is in the queue, but may not start"),
    ("waits.waiting_on['job_gone'] = 'succeeded'", "job 3 waits for job_gone, which is over"),
    ("state.jobs.pop(first)", "task 1[0] has no array"),
]


@pytest.mark.parametrize(("fault", "message"), BROKEN)
def test_doctor_finds_where_the_views_of_one_thing_differ(at_a_desk: Any, fault: str, message: str) -> None:
    async def story(desk: Any) -> None:
        ref = await desk.submit(array=ArraySpec((0, 1, 2, 3, 4), 2))
        held = await desk.submit(held=True)
        last = await desk.submit(depends_on=(Dependency(held, "succeeded"),), array=ArraySpec((7,)))
        await desk.submit()
        state = desk.state
        first = desk.job(ref).id
        names = {"state": state, "array": desk.job(ref).array, "waits": desk.job(last), "first": first}
        assert [one.ok for one in check_state(state) if one.check == "jobs"] == [True]
        exec(fault, {**names, "task": desk.job(f"{ref}[0]")})
        (found,) = [one for one in check_state(state) if one.check == "jobs"]
        assert not found.ok
        assert message in found.message

    at_a_desk(story)
