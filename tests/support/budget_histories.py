"""A site under histories of budgets: a daemon that may die between any two commits, nodes that go on then.

Owns    what happens to it and what must hold after each step, of budgets that pay by leases; tests of other
        budgets make a class of their own of it.
"""

from __future__ import annotations

from typing import Any

from obedient import Obedient

from bursar.clock import SECOND_US, VirtualClock
from bursar.errors import BursarError
from bursar.model import NodeFacts
from bursar.money import cumulative
from bursard.engine import unposted
from bursard.events import AttemptPlaced, Event
from bursard.fleet.testing import World
from bursard.housekeeping import Housekeeping
from bursard.state import Applied, Limits, State
from bursard.state.budgets import limit_of
from bursard.state.decide import jobs

MINUTE_US = 60 * SECOND_US
NODES = ("n-1", "n-2")
HOLDS = ("lease, lease: 20m", "lease, lease: 7m", "worst-case")
BUDGET = (
    "kind: Budget\nname: {name}\nspec: {{scope: {{project: {project}}}, limit: {cents}e-2 USD, period: day,"
    " hold: {hold}}}\n"
)
SCOPES = {"wide": "p", "narrow": "p/a"}


class History:
    """A daemon that may die, two nodes that go on without it, and two budgets, one within the other."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.nodes = Obedient(self.clock)
        self.log: list[tuple[Event, int]] = []
        self.rows: list[Any] = []
        self.rates: dict[str, int] = {}
        self._begin(World(clock=self.clock))
        for name in NODES:
            self.find(name)
        self.document("wide", 300, HOLDS[0])
        self.document("narrow", 200, HOLDS[1])

    def _begin(self, world: World) -> None:
        """A daemon opens on what is durable."""
        self.world = world
        world.backend = self.nodes
        self.nodes.serve(world.fleet)
        if not self.log:  # what made the cluster came before anybody listened
            self.log += [(event, world.engine.now()) for event in world.events]
        world.writer.flush()
        world.engine.listeners.append(self._note)
        self.house = Housekeeping(world.state, lambda: world.engine.prices, world._commit)

    def _note(self, seq: int, event: Event, at: int, actor: str) -> None:
        self.log.append((event, at))
        if isinstance(event, AttemptPlaced):
            self.rates[event.attempt_id] = sum(member.rates.total for member in event.members)

    # --- what happens

    def document(self, name: str, cents: int, hold: str) -> None:
        text = BUDGET.format(name=name, project=SCOPES[name], cents=cents, hold=hold)
        try:
            self.world.apply(text.replace(f"{cents}e-2", f"{cents // 100}.{cents % 100:02d}"))
        except BursarError:
            return
        self.world.writer.flush()

    def submit(self, project: str, minutes: int, nodes: int) -> None:
        try:
            self.world.submit(project=project, time_limit_us=minutes * MINUTE_US, nodes=nodes)
        except BursarError:
            return
        self.world.writer.flush()

    def passes(self, minutes: int) -> None:
        for _ in range(minutes):
            self.clock.advance(MINUTE_US)
            self.nodes.enforce()
            self.house.turn(self.world.engine.now())
            self.world.writer.flush()
            self.nodes.report()
            self.world.cycle()
            self.nodes.report()
            self.world.writer.flush()

    def dies(self, minutes: int, half_done: bool) -> None:
        """Killed, perhaps with commits on their way that nobody heard of; started after so long."""
        self.clock.advance(MINUTE_US)
        self.nodes.enforce()
        if half_done:
            self.house.turn(self.world.engine.now())
        self.rows += self.world.writer.charges
        for name in NODES:
            self.nodes._machines[name].connected = False
        for _ in range(minutes):
            self.clock.advance(MINUTE_US)
            self.nodes.enforce()
        fresh, ids = State(Limits()), vars(self.world.ids)
        for event, at in self.log:
            applied = Applied()
            fresh.apply(event, at, applied)
            for job in applied.finished:
                fresh.evict(job.id)
        for node in fresh.nodes.values():
            node.connected = False
        self._begin(World(fresh, self.clock))
        vars(self.world.ids).update(ids)
        for name in NODES:
            self.find(name)

    def find(self, name: str) -> None:
        self.nodes.connect(NodeFacts(name=name, cpu_milli=3_000, memory_bytes=1 << 34))
        self.world.writer.flush()

    def lose(self, name: str) -> None:
        if self.nodes._machines[name].connected:
            self.nodes.disconnect(name)
            self.world.writer.flush()

    def finish(self, pick: int) -> None:
        live = self.nodes.live()
        if live:
            self.nodes.finish(*live[pick % len(live)])
            self.nodes.enforce()

    def cancel(self, pick: int) -> None:
        here = list(self.world.state.jobs.values())
        if here:
            job = here[pick % len(here)]
            self.world.engine.commit(jobs.cancel(self.world.state, job, None), "ann")
            self.world.writer.flush()

    # --- what holds

    def check(self) -> None:
        state, ledger = self.world.state, self.world.state.ledger
        assert ledger.violations() == []
        for record in state.budgets.records.values():
            spent = ledger.settled(record.name, record.period_start)
            held = ledger.held(record.name, record.period_start)
            assert spent + held <= limit_of(record, ledger), f"B1: {record.name}: {spent} + {held}"
        for attempt in state.attempts.values():
            assert ledger.overrun(attempt.id) == 0, f"B2: {attempt.id} passed its hold"
            for hold in ledger.open_holds(attempt.id):
                left = hold.nanos
                longest = max(self.nodes.ran.get((attempt.id, m.alloc.rank), 0) for m in attempt.members)
                real = cumulative(attempt.rate, longest)
                assert real <= attempt.settled_nanos + left, f"B2: {attempt.id} has spent what was not held"
            for member in attempt.live():
                lives_by = self.nodes.limits.get((attempt.id, member.alloc.rank), 0)
                assert lives_by <= attempt.time_limit_us, f"{attempt.id} lives by what nobody holds for"

    def ends(self) -> None:
        """All is over: nothing is held, and each budget has settled what its scope has cost."""
        for job in list(self.world.state.jobs.values()):
            self.world.engine.commit(jobs.cancel(self.world.state, job, None), "ann")
        self.world.writer.flush()
        for name in NODES:
            self.find(name)
        self.passes(3)
        state, ledger = self.world.state, self.world.state.ledger
        assert (state.attempts, state.leased) == ({}, {})
        rows = [*self.rows, *self.world.writer.charges, *unposted(state).rows]
        for record in state.budgets.records.values():
            assert ledger.held(record.name, record.period_start) == 0, "B3"
            mine = [row for row in rows if row.kind == "usage" and self._within(row.project, record.name)]
            assert sum(row.nanos for row in mine) == ledger.settled(record.name, record.period_start), "B5"

    def _within(self, project: str, budget: str) -> bool:
        return f"{project}/".startswith(f"{SCOPES[budget]}/")
