"""What large arrays cost: bytes on disk for each task, and the time and memory of ending 100,000 at once.

Run     `.venv/bin/python bench/large_arrays.py`: the engine, its writer and the Jobs service in this process,
        on a real database; the node is played. Prints the bars beside what was measured.
"""

from __future__ import annotations

import asyncio
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from bursar.clock import SECOND_US, VirtualClock
from bursar.codec.spec import spec_to_wire
from bursar.ids import RandomIds
from bursar.model import ArraySpec, EndCause, JobSpec, NodeFacts
from bursar.resources import ResourceRequest
from bursar.v1 import jobs_pb2 as pb
from bursar_policies.document import parse_documents
from bursard.access.identity import Identity, Role, set_caller
from bursard.cycle import Cycle
from bursard.engine import Engine
from bursard.events import ClusterCreated, ExitReport
from bursard.services.jobs import JobsService
from bursard.state import State
from bursard.state.decide import attempts, nodes, policies
from bursard.store import SqliteStore
from bursard.writer import Writer

START = 1_793_494_800 * SECOND_US
PRICED = """kind: CostModel
name: m
spec: {pool: p, node_capex: 400003 USD, useful_life: 5y}
---
kind: Budget
name: vision
spec: {scope: {project: research/vision}, limit: 9000 USD, period: month}
"""


class Site:
    """One large node and nobody but us."""

    def __init__(self, folder: Path) -> None:
        set_caller(Identity("ann", Role.ADMIN))
        self.folder = folder
        self.clock = VirtualClock(START)
        self.store = SqliteStore(folder)
        self.engine = Engine(State(), self.store, Writer(self.store), self.clock, RandomIds())
        self.cycle = Cycle(self.engine)
        self.jobs = JobsService(self.engine, self.cycle, None)  # type: ignore[arg-type]
        self.engine.commit([ClusterCreated("c1", "USD")], "bursard")
        facts = NodeFacts(name="n1", cpu_milli=64_000, memory_bytes=512 << 30, devices=(), pool="p")
        engine, boot_us = self.engine, self.clock.boot_us()
        hello = nodes.hello(
            engine.state, engine.ids, engine.prices, facts=facts, boot_id="b", boot_us=boot_us, now=START
        )
        engine.commit(hello, "node:n1")

    async def submit(self, tasks: int) -> str:
        """An array that asks for next to nothing. Returns its number."""
        request = ResourceRequest(None, 1, 1 << 20)
        array = ArraySpec(((0, tasks, 1),))
        spec = JobSpec(options=(request,), command=("true",), array=array, project="research/vision")
        answer = await self.jobs.Submit(pb.SubmitRequest(spec=spec_to_wire(spec)), None)
        return str(answer.job.number)

    def apply(self, text: str) -> None:
        """Documents, and the prices that follow from them."""
        engine = self.engine
        engine.commit(policies.apply_documents(engine.state, parse_documents(text, "bench"), START), "ann")
        engine.commit(nodes.reprice(engine.state, engine.prices, START), "bursard")

    async def run_all(self) -> None:
        """Place, start and end everything, as the cycle and one agent would."""
        engine, state = self.engine, self.engine.state
        while state.counts.get("PENDING"):
            self.cycle.once()
            for attempt in list(state.attempts.values()):
                node = state.nodes[attempt.members[0].alloc.node_id]
                boot_us = self.clock.boot_us()
                engine.commit(attempts.started(state, node, attempt.id, 0, boot_us, 4_000_000), "node:n1")
            self.clock.advance(SECOND_US)
            report = ExitReport(cause=EndCause.COMPLETED, exit_code=0, held_us=SECOND_US)
            for attempt in list(state.attempts.values()):
                node = state.nodes[attempt.members[0].alloc.node_id]
                engine.commit(attempts.exited(state, node, attempt.id, 0, report, 0), "node:n1")
            await engine.durable()

    def disk_bytes(self) -> int:
        """Of the database with its log."""
        return sum(path.stat().st_size for path in self.folder.rglob("*.db*"))


def rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def bytes_per_task(tasks: int, priced: bool = False) -> tuple[float, float]:
    """(bytes on disk, CPU milliseconds) for each of so many tasks, submitted and ended.

    `priced`: the node has a price, and one budget pays for all of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder))
        if priced:
            site.apply(PRICED)
        before, cpu = site.disk_bytes(), time.process_time()
        await site.submit(tasks)
        await site.run_all()
        spent = time.process_time() - cpu
        await site.engine.writer.close()
        site.store.close()
        return (site.disk_bytes() - before) / tasks, spent * 1000 / tasks


async def cancel(tasks: int) -> tuple[float, float, float]:
    """(seconds to submit, seconds to cancel, CPU seconds of both) of an array that waits."""
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder))
        cpu, began = time.process_time(), time.perf_counter()
        ref = await site.submit(tasks)
        submitted = time.perf_counter()
        request: Any = pb.CancelRequest(jobs=[ref])
        answer = await site.jobs.Cancel(request, None)
        ended = time.perf_counter()
        assert answer.jobs[0].array.counts == {"CANCELLED": tasks}
        await site.engine.writer.close()
        site.store.close()
        return submitted - began, ended - submitted, time.process_time() - cpu


async def main() -> None:
    submit_s, cancel_s, cpu_s = await cancel(100_000)
    print(
        f"100,000 pending tasks: submit {submit_s:.2f} s, cancel {cancel_s:.2f} s (bar 5), CPU {cpu_s:.2f} s"
    )
    print(f"    largest memory of the process so far: {rss_mb():.0f} MB (bar 300)")
    for tasks in (100, 1_000, 10_000):
        disk, cpu_ms = await bytes_per_task(tasks)
        whole = f" = {disk * tasks / 1e6:.1f} MB (bar 20)" if tasks == 10_000 else ""
        print(f"{tasks:6} tasks run: {disk:6.0f} bytes of disk and {cpu_ms:.2f} ms of CPU each{whole}")
    disk, cpu_ms = await bytes_per_task(10_000, priced=True)
    whole = f" = {disk * 1e4 / 1e6:.1f} MB (bar 20)"
    print(f" 10000 of them priced, under a budget: {disk:.0f} bytes and {cpu_ms:.2f} ms each{whole}")
    print(f"    largest memory of the process: {rss_mb():.0f} MB")


if __name__ == "__main__":
    asyncio.run(main())
