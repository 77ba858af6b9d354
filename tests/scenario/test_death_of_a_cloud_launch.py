"""The daemon is killed around each call to a cloud: one machine there, none left, one line in the books.

The clouds are the fakes of their stands, asked by their own SDKs. An agent is a number that says hello once
its machine is listed as running.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
from cloud_stands import stand_of
from msgspec.structs import replace
from rented_site import Inline, Runs, Site, done

from bursar.clock import HOUR_US, SECOND_US
from bursar.model import EndCause
from bursard.engine import unposted
from bursard.events import AttemptEnded, MachineGone, MachineIntended, MachineUp, decode
from bursard.fleet.testing import World
from bursard.machines.choose import facts_of
from bursard.machines.provider import Instance, InstanceState, Order, Wanted
from bursard.state.decide.machines import Decision

POOL = """\
kind: CloudPool
name: rented
spec:
  provider: {provider}
  regions: [{region}]
  offers: {{instance_types: [{instance_type}], markets: [on-demand]}}
  limits: {{machines: 2}}
  keep_alive: 10s
  boot_timeout: 2m
  max_lifetime: 2h
  launch:
    server: grpcs://bursar.example:7443
{launch}
"""
LIMIT_S = 300
RUNS_S = 2
COMPONENTS = 3
"""A node's cost is rounded down by component, counted from full hours."""
POINTS = (
    "",
    "MachineIntended durable",
    "create asked",
    "create answered",
    "MachineLaunched durable",
    "terminate asked",
    "terminate answered",
)
"""Where the daemon dies: nowhere, before and after each call, and when its answer is durable."""


class Killed(BaseException):
    """The daemon died here."""


class Fate:
    """Where the daemon dies, once."""

    def __init__(self, at: str) -> None:
        self.at = at

    def meets(self, point: str) -> None:
        if self.at and point == self.at:
            self.at = ""
            raise Killed


class MortalProvider:
    """A provider around whose calls the daemon may die."""

    def __init__(self, provider: Any, fate: Fate) -> None:
        self._provider, self._fate = provider, fate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    def create(self, order: Order) -> str:
        return self._within("create", lambda: self._provider.create(order))

    def terminate(self, provider_id: str) -> bool:
        return self._within("terminate", lambda: self._provider.terminate(provider_id))

    def list_owned(self, cluster: str, regions: Collection[str] = ()) -> list[Instance]:
        found: list[Instance] = self._provider.list_owned(cluster, regions)
        return found

    def _within(self, name: str, work: Callable[[], Any]) -> Any:
        self._fate.meets(f"{name} asked")
        answer = work()
        self._fate.meets(f"{name} answered")
        return answer


class MortalRenting(Inline):
    """The daemon may die once an event is durable."""

    fate: Fate

    async def commit(self, decisions: Sequence[Decision]) -> None:
        writer: Any = self.engine.writer
        before = len(writer._waiting)
        seq = self.engine.commit_each(decisions, "bursard")
        made = [decode(row.payload) for batch in writer._waiting[before:] for row in batch.events]
        if made:
            await self.engine.durable(seq)
            self.fate.meets(f"{type(made[0]).__name__} durable")


class CloudSite(Site):
    """A daemon that rents from the cloud of a stand."""

    def __init__(self, folder: Path, name: str, fate: Fate, down_s: int) -> None:
        self.fate, self.down_s = fate, down_s
        self.stand: Any = stand_of(name, folder)
        self.stand.cloud.boot_us = self.stand.cloud.ending_us = 2 * SECOND_US
        self.world, self.runs = World(clock=self.stand.clock), Runs()
        self.last, self.agents = None, {}
        here = self.stand.here
        launch = "\n".join(f"    {one.key}: {one.text}" for one in self.stand.launch if one.key != "server")
        self.world.apply(
            POOL.format(provider=name, region=here.region, instance_type=here.instance_type, launch=launch)
        )
        self.open()

    def open(self) -> None:
        provider: Any = MortalProvider(self.stand.again(), self.fate)
        self.provider = provider
        self.renting = MortalRenting(self.world.engine, [provider], "unix:///s", lambda: self.last, self.cut)
        self.renting.fate = self.fate

    def second(self) -> None:
        self.world.clock.advance(SECOND_US)
        self.stand.cloud.pass_time()
        self.cycle()
        self.survive(self.renting.look())
        self.hello()
        self.world.backend.report()
        self.world.writer.flush()

    def survive(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            done(work)
        except Killed:
            self.die(self.down_s)

    def hello(self) -> None:
        """Of each machine that runs, once its node is there; one that ends takes its agent with it."""
        listed = self.stand.provider.list_owned("c") if self.machines else []
        running = {self.name_of(one): one for one in listed if one.state is InstanceState.RUNNING}
        for name, one in running.items():
            node = self.world.state.node_by_name(name)
            if node is None or name in self.agents:
                continue
            wanted = Wanted(regions=(one.place.region,), instance_types=(one.place.instance_type,))
            offer = next(each for each in self.stand.provider.offers(wanted) if each.place == one.place)
            facts = replace(facts_of(offer, "rented", self.stand.provider.name), name=name)
            self.world.backend.connect(facts, f"boot-{name}")
            self.agents[name] = facts
            self.runs.numbers[name] = number = len(self.agents)
            self.runs.alive_ids.add(number)
        for name in self.agents:
            node = self.world.state.node_by_name(name)
            if name not in running and self.runs.runs(name):
                self.runs.alive_ids.discard(self.runs.numbers[name])
                if node is not None and node.connected:
                    self.world.backend.disconnect(name)

    def name_of(self, one: Instance) -> str:
        """Of the node, as the machine was told it."""
        handed = self.stand.handed(one.provider_id)
        return re.findall(r'(?:^|\n|\\n)name = \\?"([^"\\]+)', handed)[0]


def history(folder: Path, name: str, point: str, down_s: int) -> CloudSite:
    """A job fits nowhere, runs on a machine that is rented for it, and that is given back."""
    site = CloudSite(folder, name, Fate(point), down_s)
    job_id = site.large().id
    for _ in range(LIMIT_S):
        site.second()
        job = site.world.state.jobs.get(job_id)
        attempt = job.attempt if job is not None else None
        if attempt is not None and attempt.members[0].started_at:
            ran_us = site.world.engine.now() - attempt.members[0].started_at
            if ran_us >= RUNS_S * SECOND_US:
                site.world.backend.finish(attempt.id, 0)
        if job is None and not site.machines:
            return site
    raise AssertionError(f"after {LIMIT_S} s it is not over: {site.machines}")


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point or "it does not die")
@pytest.mark.parametrize("name", ["azure", "gcp"])
def test_a_daemon_that_dies_around_a_call_leaves_one_machine_and_one_bill(
    name: str, point: str, tmp_path: Path
) -> None:
    site = history(tmp_path, name, point, 5)
    assert site.fate.at == "", "it died where it should"
    cloud, events = site.stand.cloud, site.world.events
    assert len(cloud.created) == 1
    assert cloud.left() == []
    gone = [one for one in events if isinstance(one, MachineGone)]
    intents = [one.machine_id for one in events if isinstance(one, MachineIntended)]
    assert sorted(one.machine_id for one in gone) == sorted(intents)
    (up,) = [one for one in events if isinstance(one, MachineUp)]
    assert [one.cause for one in events if isinstance(one, AttemptEnded)] == [EndCause.COMPLETED]
    (last,) = [one for one in gone if one.machine_id == up.machine_id]
    rate = next(one.rate_nanos_per_hour for one in site.stand.provider.offers(_here(site)))
    rows = [*site.world.writer.charges, *unposted(site.world.state).rows]
    bill = rate * (last.billed_until - up.billed_from) // HOUR_US
    assert abs(sum(row.nanos for row in rows) - bill) <= COMPONENTS
    site.stand.close()


def _here(site: CloudSite) -> Wanted:
    here = site.stand.here
    return Wanted(regions=(here.region,), instance_types=(here.instance_type,), markets=("on-demand",))
