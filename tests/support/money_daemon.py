"""An engine, nodes and the services that finance asks, in one event loop: agents are played by the test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bursar.clock import HOUR_US, SECOND_US, VirtualClock
from bursar.ids import SequentialIds
from bursar.model import Device, DeviceUse, EndCause, JobSpec, NodeFacts, Progress
from bursar.resources import GpuRequest, ResourceRequest
from bursar.v1 import money_pb2 as pb
from bursard import startup
from bursard.access.identity import Identity, Role, set_caller
from bursard.engine import Engine
from bursard.events import ClusterCreated, ExitReport
from bursard.place import one_pass
from bursard.services.money import MoneyService
from bursard.services.policies import PoliciesService
from bursard.state import State
from bursard.state.decide import attempts, jobs, nodes
from bursard.steady import SteadyClock
from bursard.store import ScratchStore
from bursard.writer import Writer

START = 1_793_494_800 * SECOND_US  # 2026-11-01T01:00:00Z
ANN = Identity("ann", Role.ADMIN)
COST_MODEL = "kind: CostModel\nname: p\nspec:\n  pool: p\n  node_capex: 100003 USD\n  useful_life: 5y\n"
BUDGET = "kind: Budget\nname: vision\nspec:\n  scope: {project: research}\n  limit: 90 USD\n  period: month\n"


class Daemon:
    """An engine, two nodes and the services, in one event loop."""

    def __init__(self) -> None:
        set_caller(ANN)
        self.clock = VirtualClock(START)
        self.store = ScratchStore()
        self.engine = Engine(State(), self.store, Writer(self.store), self.clock, SequentialIds())
        self.settled = 0
        self.counters: dict[tuple[str, int], int] = {}
        self.money = MoneyService(self.engine, self.settle)
        self.policies = PoliciesService(self.engine)
        self.engine.commit([ClusterCreated("c1", "USD")], "bursard")

    async def settle(self, whole: bool) -> None:
        self.settled += 1
        self.meter()

    async def apply(self, *texts: str) -> list[tuple[str, str, int]]:
        sources = [pb.PolicySource(name=f"f{i}.yaml", text=text) for i, text in enumerate(texts)]
        answer = await self.policies.Apply(pb.ApplyRequest(sources=sources), None)
        return [(one.name, one.change, one.version) for one in answer.policies]

    def node(
        self,
        name: str,
        pool: str = "p",
        gpus: int = 2,
        limits: tuple[str, ...] = (),
        simulated: bool = True,
    ) -> None:
        devices = tuple(Device(i, f"{name}{i}", "H100", 80 << 30, simulated=simulated) for i in range(gpus))
        facts = NodeFacts(
            name=name, cpu_milli=8_000, memory_bytes=64 << 30, devices=devices, pool=pool, limits=limits
        )
        self.engine.commit(
            nodes.hello(
                self.engine.state, self.engine.ids, self.engine.prices, facts=facts, boot_id="b",
                boot_us=self.clock.boot_us(), now=self.engine.now(),
            ),
            f"node:{name}",
        )  # fmt: skip

    def submit(self, **spec: Any) -> str:
        asked = {"options": (ResourceRequest(GpuRequest(1), 1_000, 1 << 30),), "time_limit_us": 9 * HOUR_US}
        state, engine = self.engine.state, self.engine
        events = jobs.submit(state, engine.ids, user="ann", spec=JobSpec(**(asked | spec)))
        engine.commit(events, "ann")
        one_pass(state, engine.ids, engine.now(), lambda _, events: bool(engine.commit(events, "bursard")))
        for attempt in list(state.attempts.values()):
            for member in attempt.members:
                node = state.nodes[member.alloc.node_id]
                found = attempts.started(state, node, attempt.id, member.alloc.rank, self.clock.boot_us(), 1)
                engine.commit(found, "node")
        return str(events[0].job_id)  # type: ignore[union-attr]

    def meter(self) -> None:
        state, now_us = self.engine.state, self.clock.boot_us()
        for node in state.nodes.values():
            counters = [
                (attempt_id, rank, node.axis(now_us) - state.attempts[attempt_id].members[rank].started_at)
                for attempt_id, rank in node.live.items()
            ]
            events = nodes.usage(state, node, boot_id="b", at_boot_us=now_us, counters=counters)
            self.engine.commit(events, "node")

    def finish(
        self,
        job_id: str,
        told: Progress | None = None,
        energy_millijoules: int = 0,
        source: str = "",
        use: DeviceUse | None = None,
    ) -> None:
        state = self.engine.state
        attempt = state.jobs[job_id].attempt
        assert attempt is not None
        for member in attempt.members:
            node = state.nodes[member.alloc.node_id]
            held = node.axis(self.clock.boot_us()) - member.started_at
            report = ExitReport(
                cause=EndCause.COMPLETED, exit_code=0, held_us=held, progress=told,
                gpu_energy_millijoules=energy_millijoules, gpu_energy_source=source, device_use=use,
            )  # fmt: skip
            found = attempts.exited(state, node, attempt.id, member.alloc.rank, report, 0)
            self.engine.commit(found, "node")

    def run(self, hours: int = 1, told: Progress | None = None, **spec: Any) -> str:
        """A job that completes after so many hours and a bit, with what it told of its progress."""
        job_id = self.submit(**spec)
        self.clock.advance(hours * HOUR_US + 7_919)
        self.meter()
        self.finish(job_id, told)
        return job_id

    async def report(self, **request: str) -> tuple[bytes, list[pb.ReportChunk]]:
        asked = pb.ReportRequest(**({"period": "2026-11"} | request))
        chunks = [c async for c in self.money.Report(asked, None)]
        return b"".join(chunk.data for chunk in chunks), chunks


def in_a_daemon(story: Callable[[Daemon], Awaitable[None]]) -> None:
    async def main() -> None:
        daemon = Daemon()
        await story(daemon)
        await daemon.engine.writer.close()

    asyncio.run(main())


async def set_clock(daemon: Daemon, folder: Path, off_us: int) -> None:
    """The clock jumps, and an operator trusts it."""
    if not isinstance(daemon.engine.clock, SteadyClock):
        daemon.engine.clock = SteadyClock(daemon.clock, "boot")
    daemon.clock.step_wall(off_us)
    (folder / startup.TRUST).touch()
    assert startup.settle_time(daemon.engine, daemon.engine.clock, folder)
