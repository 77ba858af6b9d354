"""The daemon is killed at steps of a launch and of a termination at EC2: one machine, and none is left.

As `test_death_of_a_launch.py` for the provider `local`, at fewer points. What EC2 has is the fake's own list,
not what the provider says of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
from cloud_stands.aws import AwsStand
from fake_aws.server import ACCOUNT
from moto.ec2.models import ec2_backends
from rented_site import Inline, Site, done

from bursar.clock import SECOND_US
from bursard.events import MachineGone, MachineIntended, MachineUp, decode
from bursard.machines.aws import AwsProvider
from bursard.machines.aws_wire import Clients
from bursard.machines.provider import Instance, Needs, Order
from bursard.state import MachineState
from bursard.state.decide import jobs
from bursard.state.decide.machines import Decision

POOL = """\
kind: CloudPool
name: rented
spec:
  provider: aws
  regions: [us-east-1]
  zones: [us-east-1a]
  offers: {instance_types: [g6.xlarge], markets: [on-demand]}
  limits: {machines: 2}
  boot_timeout: 10s
  launch: {server: "grpcs://bursar.example:7443", image: ami-03cf127a}
"""
TURNS_MAX = 200


class Killed(BaseException):
    """The daemon died here."""


class Fate:
    """Where the daemon dies, once; every point that it passes is noted."""

    def __init__(self, at: str | None = None) -> None:
        self.at = at
        self.passed: list[str] = []

    def meets(self, point: str) -> None:
        self.passed.append(point)
        if point == self.at:
            self.at = None
            raise Killed


class MortalAws(AwsProvider):
    """The daemon may die before a call, and before it takes the answer."""

    fate: Fate

    def create(self, order: Order) -> str:
        return self._within("create", lambda: super(MortalAws, self).create(order))

    def list_owned(self, cluster: str, regions: Collection[str] = ()) -> list[Instance]:
        found = self._within("list", lambda: super(MortalAws, self).list_owned(cluster, regions))
        self.fate.meets(f"list of {sorted(one.state.value for one in found)} answered")
        return found

    def terminate(self, provider_id: str) -> bool:
        return self._within("terminate", lambda: super(MortalAws, self).terminate(provider_id))

    def _within(self, name: str, work: Callable[[], Any]) -> Any:
        self.fate.meets(f"{name} asked")
        answer = work()
        self.fate.meets(f"{name} answered")
        return answer


class MortalRenting(Inline):
    """The daemon may die before and after an event is durable."""

    fate: Fate

    async def commit(self, decisions: Sequence[Decision]) -> None:
        writer: Any = self.engine.writer
        before = len(writer._waiting)
        seq = self.engine.commit_each(decisions, "bursard")
        made = [decode(row.payload) for batch in writer._waiting[before:] for row in batch.events]
        names = " ".join(type(event).__name__ for event in made)
        if made:
            self.fate.meets(f"{names} not durable")
            await self.engine.durable(seq)
            self.fate.meets(f"{names} durable")


class MortalSite(Site):
    """A site that rents from the fake account, and whose daemon is started again at once where it dies."""

    def __init__(self, folder: Path, stand: AwsStand, fate: Fate) -> None:
        self.stand, self.fate = stand, fate
        super().__init__(folder, POOL)

    def open(self) -> None:
        now = self.world.clock.now
        self.stand.world.now = now
        needs = Needs(now=now, currency="USD", rate=lambda place: None)
        aws = MortalAws(needs, Clients(self.stand.fake.client))
        aws.fate = self.fate
        self.renting = MortalRenting(self.world.engine, [aws], "", lambda: self.last, self.cut)
        self.renting.fate = self.fate

    def survive(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            done(work)
        except Killed:
            self.die(0)

    def two_seconds(self) -> None:
        self.world.clock.advance(2 * SECOND_US)
        self.cycle()
        self.survive(self.renting.look())
        self.world.writer.flush()


def history(folder: Path, fate: Fate) -> MortalSite:
    """A job fits nowhere; the machine that is rented for it never says hello, and is ended after 10 s."""
    stand = AwsStand(folder)
    stand.world.boot_us = stand.world.ending_us = 2 * SECOND_US
    site = MortalSite(folder, stand, fate)
    job = site.large()
    for _ in range(TURNS_MAX):
        site.two_seconds()
        ended = any(one.state is MachineState.ENDING for one in site.machines)
        waits = site.world.state.jobs.get(job.id)
        if ended and waits is not None:
            site.world.engine.commit(jobs.cancel(site.world.state, waits, 0), "ann")
        if not site.machines and job.id not in site.world.state.jobs:
            return site
    raise AssertionError(f"after {TURNS_MAX} turns it is not over: {site.machines}")


def judged(site: MortalSite, point: str) -> None:
    """EC2 had one machine for the job at most, it is in the records, and it is gone from there and here."""
    there = [one for backend in ec2_backends[ACCOUNT].values() for one in backend.all_instances()]
    assert all(site.stand.world.ended.get(one.id) for one in there), point
    events = site.world.events
    intents = [one.machine_id for one in events if isinstance(one, MachineIntended)]
    gone = [one.machine_id for one in events if isinstance(one, MachineGone)]
    assert sorted(gone) == sorted(intents), point
    tags = [tag for one in there for tag in one.get_tags()]
    named = [tag["value"] for tag in tags if tag["key"] == "bursar-machine"]
    assert len(named) == len(there) <= 1, point
    assert len(there) == (point not in NEVER_MADE), point
    assert [one.machine_id for one in events if isinstance(one, MachineUp)] == named, point


NEVER_MADE = ("MachineIntended durable", "create asked")
"""Who died there has not called EC2, and nobody calls for an intent that is found."""
POINTS = (
    "none",
    "MachineIntended not durable",
    *NEVER_MADE,
    "create answered",
    "MachineUp NodeRegistered NodePriced NodeBooted durable",
    "terminate asked",
    "terminate answered",
)


@pytest.mark.parametrize("point", POINTS)
def test_a_daemon_that_dies_there_leaves_one_machine_at_ec2_and_none_after_it(
    point: str, tmp_path: Path
) -> None:
    fate = Fate(point)
    judged(history(tmp_path, fate), point)
    assert point == "none" or fate.at is None, "it died there"
