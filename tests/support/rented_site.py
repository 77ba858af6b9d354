"""A daemon in memory without nodes of its own, and a local cloud whose machines are numbers.

Why     renting is judged from outside, by what the cloud has and what the books say, second after second; a
        test moves the clock, so nothing of it waits.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from bursar.clock import SECOND_US
from bursar.model import NodeFacts
from bursar.resources import ResourceRequest
from bursard.engine import unposted
from bursard.events import MachineGone
from bursard.fleet.testing import World
from bursard.machines.choose import facts_of
from bursard.machines.local import Handle, LocalProvider
from bursard.machines.localfile import LocalType, parse_cloud
from bursard.machines.provider import Join, Place, Wanted
from bursard.machines.renting import House, Renting, asked
from bursard.place import LastPlan, one_pass
from bursard.state import JobRecord

CLOUD = """\
regions: {home: [home-a]}
boot: 20s
ending: 10s
types:
  cpu.small: {cpus: 4, memory: 8GiB, prices: {on-demand: 3.60 USD/h, spot: 1.80 USD/h}}
  gpu.small: {cpus: 4, memory: 8GiB, gpus: "L4:1", prices: {on-demand: 7.20 USD/h}}
"""
POOL = """\
kind: CloudPool
name: rented
spec: {provider: local, limits: {machines: 2}, keep_alive: 1m, boot_timeout: 2m, max_lifetime: 2h}
"""
LARGE = (ResourceRequest(None, 3_000, 1 << 20),)
Answer = TypeVar("Answer")
AGENT_S = 5
"""From the start of its process to an agent's hello."""


class Runs:
    """Processes that are numbers; each is given what it joins with."""

    def __init__(self) -> None:
        self.joins: dict[str, tuple[Join, Place]] = {}
        self.numbers: dict[str, int] = {}
        """By name of the node; also of those that have ended."""
        self.alive_ids: set[int] = set()
        self.told: dict[str, tuple[str, int]] = {}

    def start(self, provider_id: str, join: Join, place: Place, kind: LocalType) -> Handle:
        number = int(provider_id.rpartition("-")[2])
        if number not in self.alive_ids:
            self.joins[join.name] = join, place
            self.numbers[join.name] = number
            self.alive_ids.add(number)
        return Handle(number, 1)

    def runs(self, name: str) -> bool:
        """Does the agent of this node run?"""
        return self.numbers.get(name) in self.alive_ids

    def notify(self, provider_id: str, said: str, left_us: int) -> None:
        self.told[provider_id] = said, left_us

    def end(self, provider_id: str, handle: Handle | None) -> None:
        if handle is not None:
            self.alive_ids.discard(handle.pid)

    def alive(self, handle: Handle) -> bool:
        return handle.pid in self.alive_ids


class Inline(Renting):
    """Without a thread: nothing in a test waits."""

    async def call(self, work: Callable[[], Answer], house: House) -> Answer:
        return asked(work)


def done(work: Coroutine[Any, Any, Answer]) -> Answer:
    """What a coroutine that never waits returns."""
    try:
        work.send(None)
    except StopIteration as end:
        answer: Answer = end.value
        return answer
    raise AssertionError("nothing in here waits")


class Site:
    """A daemon without nodes of its own, and a local cloud."""

    def __init__(self, folder: Path, pool: str = POOL, cloud: str = CLOUD) -> None:
        self.world, self.runs = World(), Runs()
        self.file, self.cloud = folder / "machines.json", parse_cloud(cloud, "cloud.yaml")
        self.last: LastPlan | None = None
        self.agents: dict[str, NodeFacts] = {}
        self.world.apply(pool)
        self.open()

    def open(self) -> None:
        provider = LocalProvider(self.cloud, self.file, self.runs, self.world.clock.now)
        self.provider = provider
        self.renting = Inline(self.world.engine, [provider], "unix:///s", lambda: self.last, self.cut)

    def die(self, seconds: int) -> None:
        """The daemon is killed, and for so long there is none: what was not durable never was."""
        self.world = self.world.killed()
        self.world.clock.advance(seconds * SECOND_US)
        self.last = None
        self.open()
        for name, facts in self.agents.items():
            node = self.world.state.node_by_name(name)
            if node is not None and self.runs.runs(name):
                self.world.backend.connect(facts, f"boot-{name}")

    def cut(self, node_id: str) -> bool:
        node = self.world.state.nodes[node_id]
        if node.connected:
            self.world.backend.disconnect(node.facts.name)
        return False

    def cycle(self) -> None:
        made = one_pass(self.world.state, self.world.ids, self.world.engine.now(), self.world._commit)
        self.last = LastPlan(made.snapshot, made.plan) if self.world.state.pending else None
        self.world.writer.flush()

    def pass_time(self, seconds: int) -> None:
        """Second after second: a plan, a look, and agents that come up say hello."""
        for _ in range(seconds):
            self.world.clock.advance(SECOND_US)
            self.cycle()
            done(self.renting.look())
            self.hello()

    def second(self) -> None:
        """As `pass_time`, and agents report what runs."""
        self.pass_time(1)
        self.world.backend.report()
        self.world.writer.flush()

    def hello(self) -> None:
        for name, (join, place) in list(self.runs.joins.items()):
            node = self.world.state.node_by_name(name)
            if node is not None and self.world.engine.now() - node.through >= AGENT_S * SECOND_US:
                offer = next(one for one in self.provider.offers(Wanted()) if one.place == place)
                facts = replace(facts_of(offer, join.pool, "local"), name=name)
                self.world.backend.connect(facts, f"boot-{name}")
                self.agents[name] = facts
                del self.runs.joins[name]

    def machine_of(self, name: str) -> Any:
        return next(one for one in self.world.state.machines.values() if one.name == name)

    @property
    def machines(self) -> list[Any]:
        return list(self.world.state.machines.values())

    def large(self, **spec: Any) -> JobRecord:
        return self.world.submit(**{"options": LARGE, **spec})

    def why(self, job: JobRecord) -> str:
        """Why a job waits, by the newest plan and the newest look."""
        key = self.world.state.pending.key_of(job.id)
        assert self.last is not None
        assert key is not None
        reason = self.renting.reason(job.id, self.last.reason(key, job.id))
        assert reason is not None
        return reason.message

    def rows(self) -> list[Any]:
        self.world.writer.flush()
        return [*self.world.writer.charges, *unposted(self.world.state).rows]

    def gone(self) -> list[MachineGone]:
        return [one for one in self.world.events if isinstance(one, MachineGone)]
