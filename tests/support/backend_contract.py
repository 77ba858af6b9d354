"""What the fleet may rely on in every backend, each promise as a test: subclass it with a rig, and run it.

Why     a backend that is new has its tests in a file of its own, and they are the same as everybody's
        (docs/howto-add-a-backend.md).
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import pytest

from bursar.clock import SECOND_US
from bursar.errors import ServerUnavailable, WrongState
from bursar.model import EndCause, JobState, ServiceSpec
from bursard.fleet import Assign, Forget, Limit, LogAnswer, LogRange, Probe, Stop
from bursard.fleet.testing import World
from bursard.place import verify
from bursard.scheduler import plan
from bursard.state import AttemptRecord, JobRecord
from bursard.state.decide import jobs

LOG = b"hello\nworld\n"
Key = tuple[str, int]


class Rig(Protocol):
    """A backend, a small daemon around it, and hands on what happens on its one node."""

    world: World
    backend: Any

    def connect(self) -> None: ...

    def disconnect(self) -> None: ...

    async def settle(self) -> None:
        """All that is on its way arrives, on both sides; what is running is metered."""
        ...

    def running(self) -> list[Key]: ...

    def finish(self, attempt_id: str, exit_code: int) -> None: ...

    async def read(self, wanted: LogRange) -> LogAnswer:
        """Through the fleet."""
        ...


class BackendContract:
    """Each promise of `bursard.fleet.backend.Backend`, and that the fleet comes to one truth by them."""

    def rig(self) -> Rig:
        raise NotImplementedError

    def play(self, story: Any) -> None:
        async def run() -> None:
            rig = self.rig()
            rig.connect()
            await story(rig)

        asyncio.run(run())

    async def start(self, rig: Rig) -> tuple[JobRecord, AttemptRecord]:
        job = rig.world.submit()
        rig.world.cycle()
        await rig.settle()
        assert job.attempt is not None
        return job, job.attempt

    def test_a_member_starts_is_metered_ends_and_is_forgotten(self) -> None:
        async def story(rig: Rig) -> None:
            job, attempt = await self.start(rig)
            assert job.state is JobState.RUNNING
            rig.world.clock.advance(90 * SECOND_US)
            await rig.settle()
            assert attempt.members[0].charged_us == 90 * SECOND_US
            rig.world.clock.advance(SECOND_US)
            rig.finish(attempt.id, 3)
            await rig.settle()
            assert (job.state, job.exit_code) == (JobState.FAILED, 3)
            report = attempt.members[0].report
            assert report is not None
            assert report.held_us == 91 * SECOND_US
            assert report.log_bytes == len(LOG), "of an end that says 0 nobody looks for a log"
            await rig.settle()
            piece = await rig.read(LogRange(attempt.id, 0, 0, 100))
            assert piece.data == LOG or piece.error, "it is there, or why it is not"
            rig.disconnect()
            rig.connect()
            assert rig.backend.adopt(rig.world.node().id) == ()
            assert rig.running() == []

        self.play(story)

    def test_an_order_given_twice_starts_once(self) -> None:
        async def story(rig: Rig) -> None:
            _, attempt = await self.start(rig)
            for _ in range(2):
                rig.disconnect()
                rig.connect()
                rig.backend.assign(rig.world.node().id, order(attempt.id))
                await rig.settle()
            assert rig.running() == [(attempt.id, 0)]
            rig.finish(attempt.id, 0)
            await rig.settle()
            rig.backend.assign(rig.world.node().id, order(attempt.id))
            await rig.settle()
            assert rig.running() == []

        self.play(story)

    def test_an_order_for_another_boot_starts_nothing_and_says_so(self) -> None:
        async def story(rig: Rig) -> None:
            job = rig.world.submit()
            for start in _starts(rig.world):
                rig.world.engine.commit(start, "bursard")
            assert job.attempt is not None
            attempt = job.attempt
            attempt.members[0].boot_id = "boot-0"
            rig.world.writer.flush()
            await rig.settle()
            assert rig.running() == []
            assert attempt.cause is EndCause.START_FAILED

        self.play(story)

    def test_stop_ends_a_member_with_the_cause_it_was_given(self) -> None:
        async def story(rig: Rig) -> None:
            job, attempt = await self.start(rig)
            rig.world.stop(attempt, EndCause.PREEMPTED)
            await rig.settle()
            assert attempt.cause is EndCause.PREEMPTED
            assert job.state is JobState.PENDING
            assert rig.running() == []

        self.play(story)

    def test_stop_of_what_never_started_reports_an_end_and_nothing_starts_later(self) -> None:
        async def story(rig: Rig) -> None:
            rig.backend.stop(rig.world.node().id, Stop("att_x", 0, "cancelled", 0))
            await rig.settle()
            rig.backend.assign(rig.world.node().id, order("att_x"))
            await rig.settle()
            assert rig.running() == []

        self.play(story)

    def test_forget_of_a_member_that_runs_is_ignored(self) -> None:
        async def story(rig: Rig) -> None:
            _, attempt = await self.start(rig)
            rig.backend.forget(rig.world.node().id, Forget(attempt.id, 0))
            rig.backend.forget(rig.world.node().id, Forget("att_unknown", 0))
            await rig.settle()
            assert rig.running() == [(attempt.id, 0)]

        self.play(story)

    def test_what_runs_while_out_of_contact_is_adopted_and_its_end_is_told(self) -> None:
        async def story(rig: Rig) -> None:
            job, attempt = await self.start(rig)
            rig.disconnect()
            assert not rig.world.node().connected
            rig.world.clock.advance(600 * SECOND_US)
            rig.finish(attempt.id, 0)
            rig.connect()
            await rig.settle()
            assert job.state is JobState.SUCCEEDED
            report = attempt.members[0].report
            assert report is not None
            assert report.held_us == 600 * SECOND_US

        self.play(story)

    def test_what_nobody_knows_is_stopped(self) -> None:
        async def story(rig: Rig) -> None:
            rig.backend.assign(rig.world.node().id, order("att_stranger"))
            await rig.settle()
            assert rig.running() == [("att_stranger", 0)]
            rig.disconnect()
            rig.connect()
            await rig.settle()
            assert rig.running() == []

        self.play(story)

    def test_an_order_lost_with_the_connection_is_given_again(self) -> None:
        async def story(rig: Rig) -> None:
            rig.disconnect()
            rig.connect()
            job = rig.world.submit()
            for start in _starts(rig.world):
                rig.world.engine.commit(start, "bursard")
            rig.disconnect()
            rig.world.writer.flush()
            rig.connect()
            await rig.settle()
            assert job.state is JobState.RUNNING

        self.play(story)

    def test_a_log_is_read_by_pieces_from_its_end_and_not_at_all(self) -> None:
        async def story(rig: Rig) -> None:
            _, attempt = await self.start(rig)
            piece = await rig.read(LogRange(attempt.id, 0, 0, 5))
            assert (piece.data, piece.offset, piece.next_offset) == (LOG[:5], 0, 5)
            piece = await rig.read(LogRange(attempt.id, 0, 5, 100))
            assert piece.data == LOG[5:]
            piece = await rig.read(LogRange(attempt.id, 0, 0, 100, tail_bytes=6))
            assert (piece.data, piece.offset) == (LOG[-6:], len(LOG) - 6)
            assert (await rig.read(LogRange("att_x", 0, 0, 5))).error
            rig.disconnect()
            with pytest.raises(ServerUnavailable, match="n-1"):
                await rig.read(LogRange(attempt.id, 0, 0, 5))

        self.play(story)

    def test_nodes_that_are_not_there_are_nobodys_fault(self) -> None:
        async def story(rig: Rig) -> None:
            _, attempt = await self.start(rig)
            node_id = rig.world.node().id
            rig.disconnect()
            rig.backend.stop(node_id, Stop(attempt.id, 0, "cancelled", 0))
            rig.backend.forget(node_id, Forget(attempt.id, 0))
            rig.backend.assign(node_id, order("att_y"))
            rig.backend.limit(node_id, Limit(attempt.id, 0, 1, SECOND_US))
            rig.backend.probe(node_id, Probe.of(attempt.id, 0, 8000, ServiceSpec()))

        self.play(story)

    def test_another_limit_is_taken_by_a_live_member_or_refused_before_it_is_asked(self) -> None:
        async def story(rig: Rig) -> None:
            job, attempt = await self.start(rig)
            world, longer_us = rig.world, 2 * attempt.time_limit_us
            if not rig.backend.takes_limits(world.node().id):
                with pytest.raises(WrongState, match="n-1"):
                    world.fleet.refuse_deaf(attempt)
                return
            world.fleet.refuse_deaf(attempt)
            changed = jobs.update(world.state, job, {"time_limit_us": longer_us}, world.engine.now())
            world.engine.commit(changed, "ann")
            await rig.settle()
            assert attempt.unlimited() == []
            assert attempt.time_limit_us == longer_us
            rig.backend.limit(world.node().id, Limit("att_unknown", 0, 1, longer_us))
            rig.finish(attempt.id, 0)
            rig.backend.limit(world.node().id, Limit(attempt.id, 0, 1, longer_us))
            await rig.settle()
            assert job.state is JobState.SUCCEEDED

        self.play(story)

    def test_an_order_that_waits_for_another_s_share_starts_after_it_where_any_is_held(self) -> None:
        async def story(rig: Rig) -> None:
            _, attempt = await self.start(rig)
            node_id = rig.world.node().id
            held = rig.backend.ahead(node_id)
            assert rig.world.fleet.ahead(node_id) == held
            if not held:
                return  # such an order is never given
            rig.backend.assign(node_id, order("att_next", after=attempt.id))
            await rig.settle()
            assert rig.running() == [(attempt.id, 0)]
            rig.finish(attempt.id, 0)
            await rig.settle()
            assert rig.running() == [("att_next", 0)]

        self.play(story)


def _starts(world: World) -> list[list[Any]]:
    shot = world.state.snapshot()
    found = [verify(world.state, world.ids, shot, group) for group in plan(shot, world.engine.now()).groups]
    return [events for events in found if isinstance(events, list)]


def order(attempt_id: str, after: str = "") -> Assign:
    return Assign(
        attempt_id=attempt_id,
        rank=0,
        boot_id="boot-1",
        job_id="job_x",
        time_limit_us=60 * SECOND_US,
        grace_us=0,
        checkpoint_signal="",
        user="",
        memory_bytes=0,
        cpu_milli=0,
        log_cap_bytes=0,
        launch=b"{}",
        after=after,
    )
