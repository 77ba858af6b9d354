"""The daemon is killed at every step of a launch and of a termination: one machine, one line in the books.

Each point at which it may die is found by a first history in which it does not; then it dies at each of them
once: before and after an event is durable, before a call, within it, and before its answer is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
from rented_site import CLOUD, POOL, Inline, Runs, Site, done

from bursar.clock import SECOND_US
from bursar.model import EndCause
from bursard.engine import unposted
from bursard.events import AttemptEnded, MachineGone, MachineIntended, MachineUp, decode
from bursard.machines.local import Handle, LocalProvider
from bursard.machines.provider import Instance, Order
from bursard.state.decide.machines import Decision

QUICK_CLOUD = CLOUD.replace("boot: 20s", "boot: 2s").replace("ending: 10s", "ending: 2s")
QUICK_POOL = POOL.replace("keep_alive: 1m", "keep_alive: 10s")
RUNS_S = 3
LIMIT_S = 400
COMPONENTS = 3
"""A node's cost is rounded down by component, counted from full hours; a provider's bill as a whole."""


class Killed(BaseException):
    """The daemon died here."""


class Fate:
    """Where the daemon dies, once; every point that it passes is noted. None: it does not die."""

    def __init__(self, at: str | None = None) -> None:
        self.at = at
        self.passed: list[str] = []

    def meets(self, point: str) -> None:
        self.passed.append(point)
        if point == self.at:
            self.at = None
            raise Killed


class MortalRuns(Runs):
    """The daemon may die before and after it starts and ends the process of a machine."""

    def __init__(self, fate: Fate) -> None:
        super().__init__()
        self.fate = fate
        self.started: set[str] = set()

    def start(self, provider_id: str, *rest: Any) -> Handle:
        self.fate.meets("its process is to start")
        found = super().start(provider_id, *rest)
        self.started.add(provider_id)
        self.fate.meets("its process has started")
        return found

    def end(self, provider_id: str, handle: Handle | None) -> None:
        self.fate.meets("its process is to end")
        super().end(provider_id, handle)
        self.fate.meets("its process has ended")


class MortalProvider(LocalProvider):
    """The daemon may die before a call, within it, and before it takes the answer."""

    fate: Fate

    def create(self, order: Order) -> str:
        return self._within("create", lambda: super(MortalProvider, self).create(order))

    def list_owned(self, cluster: str, regions: Collection[str] = ()) -> list[Instance]:
        when = "empty"
        if self._book.machines:
            when = str(min(one.state.value for one in super().list_owned(cluster)))
        return self._within(f"list {when}", lambda: super(MortalProvider, self).list_owned(cluster))

    def terminate(self, provider_id: str) -> bool:
        return self._within("terminate", lambda: super(MortalProvider, self).terminate(provider_id))

    def _within(self, name: str, work: Callable[[], Any]) -> Any:
        self.fate.meets(f"{name} asked")
        answer = work()
        self.fate.meets(f"{name} answered")
        return answer

    def _write(self) -> None:
        super()._write()
        if hasattr(self, "fate"):
            self.fate.meets(f"{len(self._book.machines)} noted in the provider's file")


class MortalRenting(Inline):
    """The daemon may die before and after an event is durable."""

    fate: Fate

    async def commit(self, decisions: Sequence[Decision]) -> None:
        writer: Any = self.engine.writer
        before = len(writer._waiting)
        seq = self.engine.commit_each(decisions, "bursard")
        made = [decode(row.payload) for batch in writer._waiting[before:] for row in batch.events]
        names = " ".join(type(event).__name__ for event in made)
        if not made:
            return
        self.fate.meets(f"{names} not durable")
        await self.engine.durable(seq)
        self.fate.meets(f"{names} durable")


class MortalSite(Site):
    """A site whose daemon dies where `fate` says, and is started again `down_s` seconds later."""

    def __init__(self, folder: Path, fate: Fate, down_s: int) -> None:
        self.fate, self.down_s = fate, down_s
        super().__init__(folder, QUICK_POOL, QUICK_CLOUD)
        self.runs = MortalRuns(fate)
        self.open()

    def open(self) -> None:
        now = self.world.clock.now
        self.provider = MortalProvider(self.cloud, self.file, self.runs, now)
        self.provider.fate = self.fate
        self.renting = MortalRenting(
            self.world.engine, [self.provider], "unix:///s", lambda: self.last, self.cut
        )
        self.renting.fate = self.fate

    def survive(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            done(work)
        except Killed:
            self.die(self.down_s)

    async def welcomed(self) -> None:
        self.fate.meets("its agent has said hello")

    def second(self) -> None:
        self.world.clock.advance(SECOND_US)
        self.cycle()
        self.survive(self.renting.look())
        known = len(self.agents)
        self.hello()
        if len(self.agents) > known:
            self.survive(self.welcomed())
        self.world.backend.report()
        self.world.writer.flush()


def history(folder: Path, fate: Fate, down_s: int) -> MortalSite:
    """A job fits nowhere, runs on a machine that is rented for it, and that is given back."""
    site = MortalSite(folder, fate, down_s)
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


def judged(site: MortalSite, point: str) -> None:
    """One machine was made and is gone, its job ran there once, and the books say what the provider bills."""
    events = site.world.events
    made = site.provider.list_owned("c")
    assert [one.gone for one in made] == [True], point
    assert len(site.runs.started) == 1, point
    assert site.runs.alive_ids == set(), point
    intents = [one.machine_id for one in events if isinstance(one, MachineIntended)]
    gone = [one for one in events if isinstance(one, MachineGone)]
    assert sorted(one.machine_id for one in gone) == sorted(intents), point
    assert {one.machine_id for one in events if isinstance(one, MachineUp)} == {made[0].machine_id}, point
    ends = [one.cause for one in events if isinstance(one, AttemptEnded)]
    assert ends == [EndCause.COMPLETED], point
    rows = [*site.world.writer.charges, *unposted(site.world.state).rows]
    (bill,) = site.provider.actuals(0, 2**62)
    assert bill.nanos > 0, point
    assert abs(sum(row.nanos for row in rows) - bill.nanos) <= COMPONENTS, point


FIVE = (
    "MachineIntended not durable",
    "MachineIntended durable",
    "1 noted in the provider's file",
    "create answered",
    "MachineUp NodeRegistered NodePriced NodeBooted durable",
    "its process is to end",
    "terminate answered",
)
"""Before and after the intent is durable, within a create, before its answer is, while it is up, within a
termination, and after it.
"""


def test_a_daemon_that_dies_at_any_step_of_a_launch_or_an_end_leaves_one_machine_and_one_bill(
    tmp_path: Path,
) -> None:
    fate = Fate()
    judged(history(tmp_path / "none", fate, 0), "none")
    found = list(dict.fromkeys(fate.passed))
    assert set(FIVE) < set(found)
    for number, point in enumerate(found):
        judged(history(tmp_path / str(number), Fate(point), 0), point)


@pytest.mark.parametrize("point", FIVE)
def test_a_daemon_that_is_dead_for_a_minute_and_a_half_finds_one_machine_and_pays_one_bill(
    point: str, tmp_path: Path
) -> None:
    judged(history(tmp_path, Fate(point), 90), point)
