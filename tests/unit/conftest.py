"""A desk to ask the Jobs service at: real engine, writer and store, agents played by the test."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from verbs_server import fake as fake

from bursar.clock import SECOND_US, VirtualClock
from bursar.codec.spec import spec_to_wire
from bursar.ids import SequentialIds
from bursar.model import Device, EndCause, JobSpec, NodeFacts
from bursar.resources import ResourceRequest
from bursar.v1 import jobs_pb2 as pb
from bursard.access.identity import Identity, Role, set_caller
from bursard.cycle import Cycle
from bursard.engine import Engine
from bursard.events import ClusterCreated, Event, ExitReport, decode
from bursard.replay import restore
from bursard.services.jobs import JobsService
from bursard.state import JobRecord, Limits, State
from bursard.state.decide import attempts, nodes
from bursard.store import SqliteStore
from bursard.writer import Writer

START = 1_793_494_800 * SECOND_US  # 2026-11-01T01:00:00Z


KEPT_OPEN = ("bursard.db", ".sqlite")
"""What a store keeps open, which a test may leave to be collected."""


HOLDERS = (
    "test_agent_spool", "test_agent_damage", "test_runner_log", "test_small_judgements", "test_step_client",
    "test_steps_reach",
)  # fmt: skip
"""Tests of what holds a file as long as its process lives, which is theirs."""


def held_open() -> dict[str, str]:
    """Descriptors of plain files and folders of tests, and of processes: those that nobody collects."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{number}")
            plain = target.startswith(tempfile.gettempdir()) and not any(each in target for each in KEPT_OPEN)
            if plain or target == "anon_inode:[pidfd]":
                found[number] = target
    return found


@pytest.fixture(autouse=True)
def nothing_is_left_open(request: pytest.FixtureRequest) -> Iterator[None]:
    """A descriptor that each call leaves behind ends an agent after some days."""
    before = held_open()
    yield
    if request.path.stem not in HOLDERS and not held_open().items() <= before.items():
        gc.collect()
        left = held_open().items() - before.items()
        assert not left, f"left open: {dict(left)}"


class Desk:
    """One node of 8 CPUs; nothing is placed until a test says `plan`."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        set_caller(Identity("ann", Role.ADMIN))
        self.clock = VirtualClock(START)
        self.store = SqliteStore(folder)
        self.faults: list[BaseException] = []
        self.engine = Engine(
            restore(self.store, limits or Limits()),
            self.store,
            Writer(self.store),
            self.clock,
            SequentialIds(),
        )
        self.engine.on_fault = self.faults.append
        self.cycle = Cycle(self.engine)
        self.service = JobsService(self.engine, self.cycle, None)  # type: ignore[arg-type]
        if not self.state.cluster_id:
            self.engine.commit([ClusterCreated("c1", "USD")], "bursard")
            self.hello("n1")

    @property
    def state(self) -> State:
        return self.engine.state

    def hello(self, name: str) -> None:
        devices = tuple(Device(i, f"{name}{i}", "H100", 80 << 30, simulated=True) for i in range(2))
        facts = NodeFacts(name=name, cpu_milli=8_000, memory_bytes=64 << 30, devices=devices, pool="p")
        engine = self.engine
        self.engine.commit(
            nodes.hello(
                self.state, engine.ids, engine.prices, facts=facts, boot_id="b",
                boot_us=self.clock.boot_us(), now=engine.now(),
            ),
            f"node:{name}",
        )  # fmt: skip

    async def submit(self, key: str = "", **spec: Any) -> str:
        """A job of one CPU. Returns its number."""
        asked = {"options": (ResourceRequest(None, 1_000, 1 << 30),), "command": ("true",)}
        wire = spec_to_wire(JobSpec(**(asked | spec)))
        answer = await self.service.Submit(pb.SubmitRequest(spec=wire, idempotency_key=key), None)
        return str(answer.job.number)

    async def verb(self, verb: str, *refs: str) -> list[str]:
        """Ask for one verb. Returns what the log says of it, once it is there."""
        before = self.state.version
        if verb == "update":
            await self.service.Update(pb.UpdateRequest(job=refs[0], priority=99), None)
        else:
            request: Any = pb.CancelRequest if verb == "cancel" else pb.JobsRequest
            await getattr(self.service, verb.capitalize())(request(jobs=refs), None)
        return [f"{type(event).__name__} {about}" for event, about in self.log(before)]

    def log(self, after: int = 0) -> list[tuple[Event, str]]:
        """Every event on disk, and the job it is about as people name it."""
        named = {}
        found = []
        for row in self.store.load().events(0):
            event = decode(row.payload)
            if (number := getattr(event, "number", 0)) and hasattr(event, "user"):
                named[event.job_id] = str(number)  # type: ignore[union-attr]
            job_id, dot, index = getattr(event, "job_id", "").partition(".")
            if row.seq > after:
                found.append((event, named.get(job_id, "") + (f"[{index}]" if dot else "")))
        return found

    # --- the cycle and the node

    def plan(self) -> None:
        """One pass of the scheduler."""
        self.cycle.once()

    def members(self) -> Iterator[tuple[str, Any]]:
        for attempt in list(self.state.attempts.values()):
            yield attempt.id, self.state.nodes[attempt.members[0].alloc.node_id]

    def start_all(self) -> None:
        """The node says that everything placed there runs."""
        for attempt_id, node in self.members():
            boot_us = self.clock.boot_us()
            self.engine.commit(attempts.started(self.state, node, attempt_id, 0, boot_us, 1), "node:n1")

    def end_all(self, cause: EndCause = EndCause.COMPLETED) -> None:
        """The node says that everything placed there has ended."""
        self.clock.advance(SECOND_US)
        code = 0 if cause is EndCause.COMPLETED else 1
        for attempt_id, node in self.members():
            report = ExitReport(cause=cause, exit_code=code, held_us=SECOND_US)
            self.engine.commit(attempts.exited(self.state, node, attempt_id, 0, report, 0), "node:n1")

    async def settled(self) -> None:
        """Everything is on disk, and what ended has left memory."""
        await self.engine.durable()

    def job(self, ref: str) -> JobRecord:
        """A job in memory."""
        number, _, index = ref.rstrip("]").partition("[")
        job_id = self.state.numbers[int(number)]
        return self.state.jobs[f"{job_id}.{index}" if index else job_id]


Story = Callable[[Desk], Awaitable[None]]


@pytest.fixture
def at_a_desk(tmp_path: Path) -> Callable[[Story], None]:
    """Run one story at a fresh desk, or at the desk of the story before with what is on its disk."""

    def run(story: Story, limits: Limits | None = None) -> None:
        async def main() -> None:
            desk = Desk(tmp_path, limits)
            try:
                await story(desk)
            finally:
                await desk.engine.writer.close()
                desk.store.close()
            assert desk.faults == []

        asyncio.run(main())

    return run
