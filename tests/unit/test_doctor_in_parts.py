"""`doctor` and reports walk many jobs bit by bit: others have their turn, and what they do is no fault."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from bursar.model import EndCause, JobState
from bursard import doctor
from bursard.doctor import Finding, check_state_in_parts
from bursard.fleet.testing import FACTS, World
from bursard.services import page_reports


def walked(world: World, between: Callable[[int], object]) -> tuple[list[Finding], int]:
    """What is found, and how often others had their turn: each time something happens."""
    parts, turns = check_state_in_parts(world.state), 0
    while True:
        try:
            next(parts)
        except StopIteration as end:
            return end.value, turns
        between(turns)
        turns += 1


def busy() -> World:
    """One job that runs, and many that wait."""
    world = World()
    world.backend.connect(FACTS)
    for number in range(30):
        world.submit(f"user-{number % 3}")
    world.cycle()
    return world


def of_jobs(found: list[Finding]) -> Finding:
    return next(one for one in found if one.check == "jobs")


def test_what_happens_while_it_looks_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "JOBS_AT_ONCE", 4)
    world = busy()
    running = [job for job in world.state.jobs.values() if job.state is not JobState.PENDING]
    assert running

    def happens(turn: int) -> None:
        world.submit(f"user-{turn % 4}")
        if turn == 7 and running[0].attempt is not None:
            world.exited_of(running[0].attempt, EndCause.COMPLETED)
        if turn % 3 == 0:
            world.cycle()

    found, turns = walked(world, happens)
    assert turns > 10
    assert [one.message for one in found if not one.ok] == []


@pytest.mark.parametrize("busily", [False, True])
def test_what_differs_is_found_whether_or_not_something_happens(
    monkeypatch: pytest.MonkeyPatch, busily: bool
) -> None:
    monkeypatch.setattr(doctor, "JOBS_AT_ONCE", 4)
    world = busy()
    world.state.counts["PENDING"] += 1
    found, _ = walked(world, lambda _: world.submit("ann") if busily else None)
    assert not of_jobs(found).ok
    assert "are counted" in of_jobs(found).message


def test_jobs_that_were_tried_are_found_with_turns_for_others_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(page_reports, "_AT_ONCE", 4)
    world, turns = busy(), list[int]()

    async def others() -> None:
        while True:
            turns.append(1)
            await asyncio.sleep(0)

    async def both() -> list[str]:
        beside = asyncio.create_task(others())
        try:
            return [job.id for job in await page_reports.tried(world.engine)]
        finally:
            beside.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beside

    found = asyncio.run(both())
    assert found == [job.id for job in world.state.jobs.values() if job.attempts]
    assert 0 < len(found) < len(world.state.jobs)
    assert len(turns) >= len(world.state.jobs) // 4
