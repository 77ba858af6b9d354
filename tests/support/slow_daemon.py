"""The services of a daemon over one engine and a store that can be held up, in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from bursar.clock import SECOND_US, VirtualClock
from bursar.codec.spec import spec_to_wire
from bursar.ids import RandomIds
from bursar.model import JobSpec
from bursar.v1 import jobs_pb2
from bursard.access.identity import Identity, Role, set_caller
from bursard.access.refusals import Refusals
from bursard.access.vault import Vault
from bursard.cycle import Cycle
from bursard.engine import Engine
from bursard.events import ClusterCreated
from bursard.fleet import Agents, Fleet
from bursard.replay import restore
from bursard.services.events import EventsService
from bursard.services.jobs import JobsService
from bursard.services.money import MoneyService
from bursard.services.policies import PoliciesService
from bursard.state import Limits
from bursard.state.decide import jobs as decide
from bursard.store import ScratchStore
from bursard.writer import Writer

START = 1_793_494_800 * SECOND_US


class SlowStore(ScratchStore):
    """Reads wait for the gate, and know on which thread they were asked."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.began = threading.Semaphore(0)
        self.readers: set[int] = set()
        super().__init__()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        self.readers.add(threading.get_ident())
        self.began.release()
        assert self.gate.wait(30)
        with super()._reading() as connection:
            yield connection

    def free_bytes(self) -> int:
        self.readers.add(threading.get_ident())
        return super().free_bytes()


class Daemon:
    """The services over one engine, in one event loop."""

    def __init__(self, store: SlowStore | None = None) -> None:
        """`store`: of a daemon before this one."""
        set_caller(Identity("ann", Role.ADMIN))
        self.store = SlowStore() if store is None else store
        state = restore(self.store, Limits())
        self.engine = Engine(state, self.store, Writer(self.store), VirtualClock(START), RandomIds())
        cycle = Cycle(self.engine)
        fleet = Fleet(self.engine, log_cap_bytes=1 << 20, run_as_submitter=False)
        self.jobs = JobsService(self.engine, cycle, fleet)
        self.events = EventsService(
            self.engine,
            cycle,
            Refusals(self.engine.clock),
            Vault(None),
            started_at=START,
            state_dir=Path("/s"),
        )
        self.money = MoneyService(self.engine, Agents(self.engine, fleet).settle)
        self.policies = PoliciesService(self.engine)
        if store is None:
            self.engine.commit([ClusterCreated("c1", "USD")], "bursard")
        self.store.readers.clear()

    def learn_no_keys(self) -> None:
        """As if it were still learning the keys of before: it asks for each."""
        self.jobs._keys._learning = asyncio.Future()  # type: ignore[assignment]

    async def submit(self, key: str = "", name: str = "train") -> str:
        spec = spec_to_wire(JobSpec(name=name, command=("true",)))
        request = jobs_pb2.SubmitRequest(spec=spec, idempotency_key=key)
        return (await self.jobs.Submit(request, None)).job.id

    async def ended(self, key: str = "", name: str = "old") -> str:
        """A job that is in the store alone."""
        job_id = await self.submit(key, name)
        job = self.engine.state.jobs[job_id]
        await self.engine.durable(self.engine.commit(decide.cancel(self.engine.state, job, None), "ann"))
        assert job_id not in self.engine.state.jobs
        return job_id

    async def get(self, ref: str) -> str:
        return (await self.jobs.Get(jobs_pb2.GetJobRequest(job=ref), None)).id

    async def close(self) -> None:
        self.store.gate.set()
        await self.engine.writer.close()
        self.store.close()


def scenario(play: Callable[[Daemon], Awaitable[None]]) -> None:
    async def whole() -> None:
        daemon = Daemon()
        try:
            await asyncio.wait_for(play(daemon), 120)
        finally:
            await daemon.close()

    asyncio.run(whole())
