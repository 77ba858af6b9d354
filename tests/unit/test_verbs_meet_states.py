"""Every verb in every state a job can be in: what it does there, to the event, or that it is refused (J8)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bursar.clock import SECOND_US
from bursar.errors import WrongState
from bursar.model import ArraySpec, Dependency, EndCause
from bursard.events import AttemptEnded, JobEnded
from bursard.replay import restore
from bursard.state import image

VERBS = ("hold", "release", "cancel", "requeue", "update")
NO = WrongState
NOTHING: list[str] = []


async def pending(desk: Any) -> str:
    return str(await desk.submit())


async def held(desk: Any) -> str:
    return str(await desk.submit(held=True))


async def waiting(desk: Any) -> str:
    first = await desk.submit(held=True)
    return str(await desk.submit(depends_on=(Dependency(first, "succeeded"),)))


async def begins_later(desk: Any) -> str:
    return str(await desk.submit(begin_after=desk.engine.now() + SECOND_US))


async def starting(desk: Any) -> str:
    ref = await desk.submit()
    desk.plan()
    return str(ref)


async def running(desk: Any) -> str:
    ref = await starting(desk)
    desk.start_all()
    return ref


async def stopping_for_cancel(desk: Any) -> str:
    ref = await running(desk)
    await desk.verb("cancel", ref)
    return ref


async def stopping_for_requeue(desk: Any) -> str:
    ref = await running(desk)
    await desk.verb("requeue", ref)
    return ref


async def requeued(desk: Any) -> str:
    ref = await stopping_for_requeue(desk)
    desk.end_all(EndCause.PREEMPTED)
    return ref


async def succeeded(desk: Any) -> str:
    ref = await running(desk)
    desk.end_all()
    return ref


async def failed(desk: Any) -> str:
    ref = await running(desk)
    desk.end_all(EndCause.FAILED)
    return ref


async def cancelled_while_held(desk: Any) -> str:
    ref = await held(desk)
    desk.engine.commit([JobEnded(desk.job(ref).id, desk.job(ref).state.CANCELLED)], "ann")
    return ref


async def array(desk: Any) -> str:
    return str(await desk.submit(array=ArraySpec((0, 1, 2), 1)))


async def held_array(desk: Any) -> str:
    ref = await array(desk)
    await desk.verb("hold", ref)
    return ref


async def array_with_one_running(desk: Any) -> str:
    ref = await array(desk)
    desk.plan()
    desk.start_all()
    return ref


async def array_running(desk: Any) -> str:
    ref = str(await desk.submit(array=ArraySpec((0, 1))))
    desk.plan()
    desk.start_all()
    return ref


async def array_with_one_done(desk: Any) -> str:
    ref = await array_with_one_running(desk)
    desk.end_all()
    await desk.settled()
    return ref


async def array_ended(desk: Any) -> str:
    ref = await array_running(desk)
    desk.end_all()
    return ref


def task(of: Callable[[Any], Awaitable[str]], index: int) -> Callable[[Any], Awaitable[str]]:
    async def build(desk: Any) -> str:
        return f"{await of(desk)}[{index}]"

    build.__name__ = f"task {index} of {of.__name__}"
    return build


async def held_task(desk: Any) -> str:
    ref = f"{await array(desk)}[0]"
    await desk.verb("hold", ref)
    return ref


async def held_waiting_task(desk: Any) -> str:
    ref = f"{await array(desk)}[2]"
    await desk.verb("hold", ref)
    return ref


ENDED = (NO, NO, NOTHING, NO, NO)
RUNS = (
    NO,
    NO,
    ["StopRequested"],
    ["JobRequeued", "StopRequested"],
    ["JobUpdated"],
)  # update: of its priority

TABLE: list[tuple[Callable[[Any], Awaitable[str]], tuple[Any, ...]]] = [
    (pending, (["JobHeld"], NO, ["JobEnded"], NO, ["JobUpdated"])),
    (held, (NOTHING, ["JobReleased"], ["JobEnded"], NO, ["JobUpdated"])),
    (waiting, (["JobHeld"], NO, ["JobEnded"], NO, ["JobUpdated"])),
    (begins_later, (["JobHeld"], NO, ["JobEnded"], NO, ["JobUpdated"])),
    (starting, RUNS),
    (running, RUNS),
    (stopping_for_cancel, (NO, NO, NOTHING, NO, ["JobUpdated"])),
    (stopping_for_requeue, (NO, NO, ["StopRequested"], NOTHING, ["JobUpdated"])),
    (requeued, (["JobHeld"], NO, ["JobEnded"], NO, ["JobUpdated"])),
    (succeeded, ENDED),
    (failed, ENDED),
    (cancelled_while_held, ENDED),
    (array, (["JobHeld"], NO, ["TasksEnded"], NO, ["JobUpdated"])),
    (held_array, (NOTHING, ["JobReleased"], ["TasksEnded"], NO, ["JobUpdated"])),
    (
        array_with_one_running,
        (["JobHeld"], NO, ["TasksEnded", "StopRequested"], NO, ["JobUpdated"]),
    ),
    (array_running, (NO, NO, ["StopRequested"] * 2, NO, ["JobUpdated"])),
    (array_with_one_done, (["JobHeld"], NO, ["TasksEnded"], NO, ["JobUpdated"])),
    (array_ended, ENDED),
    (task(array, 0), (["JobHeld"], NO, ["JobEnded"], NO, NO)),
    (task(array, 2), (["JobHeld"], NO, ["JobEnded"], NO, NO)),
    (held_task, (NOTHING, ["JobReleased"], ["JobEnded"], NO, NO)),
    (held_waiting_task, (NOTHING, ["JobReleased"], ["JobEnded"], NO, NO)),
    (task(array_with_one_running, 0), (*RUNS[:4], NO)),
    (task(array_with_one_done, 0), ENDED),
    (task(array_ended, 1), ENDED),
]


def contents(desk: Any) -> bytes:
    return image.encode(desk.state, 0)


@pytest.mark.parametrize("evicted", [False, True], ids=["as it comes", "once it is on disk"])
@pytest.mark.parametrize(("build", "outcomes"), TABLE, ids=[row[0].__name__ for row in TABLE])
def test_a_verb_does_this_or_is_refused_and_changes_nothing(
    at_a_desk: Any, build: Callable[[Any], Awaitable[str]], outcomes: tuple[Any, ...], evicted: bool
) -> None:
    async def story(desk: Any) -> None:
        for verb, expected in zip(VERBS, outcomes, strict=True):
            ref = await build(desk)
            if evicted:
                await desk.settled()
            before = contents(desk)
            if expected is NO:
                with pytest.raises(WrongState):
                    await desk.verb(verb, ref)
                assert contents(desk) == before, verb
            else:
                found = await desk.verb(verb, ref)
                assert [one.partition(" ")[0] for one in found] == expected, verb
                assert contents(desk) == image.encode(restore(desk.store, desk.state.limits), 0), (
                    f"L10: {verb}"
                )
            await clear(desk)

    at_a_desk(story)


async def clear(desk: Any) -> None:
    """Nothing is left of the case before."""
    if desk.state.jobs:
        await desk.verb("cancel", *(job.id for job in desk.state.jobs.values() if not job.parent_id))
    desk.end_all(EndCause.CANCELLED)
    await desk.settled()
    assert not desk.state.jobs


@pytest.mark.parametrize("verb", VERBS)
def test_what_the_store_remembers_as_held_can_still_do_nothing(at_a_desk: Any, verb: str) -> None:
    async def story(desk: Any) -> None:
        ref = await held(desk)
        await desk.verb("cancel", ref)
        with pytest.raises(WrongState) if verb != "cancel" else pytest.MonkeyPatch.context():
            await desk.verb(verb, ref)
        await desk.submit()

    at_a_desk(story)


async def chain(desk: Any) -> list[str]:
    """A and B, and C that waits for both."""
    a, b = await desk.submit(), await desk.submit()
    c = await desk.submit(depends_on=(Dependency(a, "succeeded"), Dependency(b, "succeeded")))
    return [a, b, c]


def ends(desk: Any) -> Counter[str]:
    """How often each job or attempt ends in the log."""
    found: Counter[str] = Counter()
    for event, about in desk.log():
        if isinstance(event, JobEnded):
            found[about] += 1
        elif isinstance(event, AttemptEnded):
            found[event.attempt_id] += 1
    return found


@pytest.mark.parametrize(
    "refs",
    [(0,), (1,), (0, 1), (0, 2), (2, 0), (0, 1, 2), (2, 1, 0)],
    ids=["A", "B", "A B", "A C", "C A", "A B C", "C B A"],
)
def test_a_dependant_ends_once_whoever_is_cancelled_with_it(at_a_desk: Any, refs: tuple[int, ...]) -> None:
    async def story(desk: Any) -> None:
        jobs = await chain(desk)
        await desk.verb("cancel", *(jobs[i] for i in refs))
        await desk.settled()
        gone = {jobs[i] for i in refs} | {jobs[2]}
        assert ends(desk) == Counter(gone)
        assert {str(job.number) for job in desk.state.jobs.values()} == set(jobs) - gone

    at_a_desk(story)


def test_a_job_named_twice_by_id_and_number_is_held_once(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        ref = await desk.submit(name="train")
        found = await desk.verb("hold", ref, "train", desk.job(ref).id, "last", ref)
        assert found == [f"JobHeld {ref}"]

    at_a_desk(story)


@pytest.mark.parametrize("order", ["parent first", "parent last"])
def test_an_array_and_its_tasks_cancelled_together_end_once_each(at_a_desk: Any, order: str) -> None:
    async def story(desk: Any) -> None:
        ref = await array_with_one_running(desk)
        refs = [ref, f"{ref}[0]", f"{ref}[1]", f"{ref}[2]"]
        await desk.verb("cancel", *(refs if order == "parent first" else reversed(refs)))
        desk.end_all(EndCause.CANCELLED)
        await desk.settled()
        assert max(ends(desk).values()) == 1
        assert not desk.state.jobs
        assert desk.state.counts == {"PENDING": 0, "STARTING": 0, "RUNNING": 0, "STOPPING": 0}

    at_a_desk(story)


def test_release_of_an_array_and_its_task_together_is_one_release(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        ref = await array(desk)
        await desk.verb("hold", f"{ref}[0]")
        await desk.verb("hold", ref)
        assert await desk.verb("release", ref, f"{ref}[0]") == [f"JobReleased {ref}"]
        assert not desk.job(f"{ref}[0]").held

    at_a_desk(story)


def test_all_refs_are_checked_before_any_changes(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        good, bad = await desk.submit(), await running(desk)
        before = contents(desk)
        with pytest.raises(WrongState):
            await desk.verb("hold", good, bad)
        assert contents(desk) == before

    at_a_desk(story)


def test_a_long_chain_of_dependants_ends_in_pieces_and_all_of_it(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        last = first = await desk.submit()
        for _ in range(2_500):
            last = await desk.submit(depends_on=(Dependency(last, "succeeded"),))
        assert len(await desk.verb("cancel", first)) == 1_000
        assert len(desk.state.doomed) == 1
        assert restore(desk.store, desk.state.limits).doomed == desk.state.doomed
        desk.plan()
        desk.plan()
        await desk.settled()
        assert not desk.state.jobs
        assert not desk.state.doomed
        assert ends(desk) == Counter(str(n) for n in range(int(first), int(last) + 1))

    at_a_desk(story)
