"""Random lives of gangs on rented machines that come up one after the other, fail, or are taken back.

What all jobs paid, what was idle and what nobody pays for is what the machines cost, to the nano; nobody pays
for the coming up of a machine that none of its attempts ever ran on; and no machine is given back as idle
while the others of its gang come.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rented_books import a_second_book_says_the_same, cost, what_the_facts_say
from rented_site import CLOUD, Site

from bursar.clock import HOUR_US, SECOND_US
from bursar.model import CheckpointSpec, JobState
from bursar.resources import ResourceRequest
from bursard.events import (
    AttemptPlaced,
    MachineEnding,
    MachineIntended,
    MachineUp,
    MemberStarted,
    NodePriced,
    NodeRegistered,
    decode,
)
from bursard.ledger import PAID
from bursard.state import MachineState
from bursard.state.decide import jobs as verbs
from bursard.state.decide import launches
from bursard.store.hours import OpenHours

POOL = """\
kind: CloudPool
name: rented
spec: {provider: local, limits: {machines: 6}, keep_alive: 10s, boot_timeout: 1m, max_lifetime: 2h}
"""
BUDGET = "kind: Budget\nname: b\nspec: {scope: {user: ann}, limit: %s USD, period: day}\n"
RESTARTS = "---\nkind: PriorityPolicy\nname: p\nspec: {preempt: {gap: 100, restart: 1s}}\n"
LIFE_S = 700


class Gang(NamedTuple):
    """Submitted at a second: so many nodes, CPUs of each, and seconds that it runs; cancelled at a second.
    `due`: it saves itself, and is to end so many seconds later.
    """

    at: int
    nodes: int
    cpus: int
    seconds: int
    cancelled: int
    due: int = 0


class Life(Site):
    """Gangs on machines of one zone or two. `delays`: of the agents, in the order in which they start."""

    def __init__(self, folder: Path, delays: list[int], faults: str, limit: int) -> None:
        text = CLOUD.replace("[home-a]", "[home-a, home-b]").replace("boot: 20s", "boot: 2s")
        super().__init__(folder, POOL, text.replace("ending: 10s", "ending: 2s") + faults)
        self.world.apply(BUDGET % limit + RESTARTS)
        self.delays, self.delay_of = delays, dict[str, int]()
        self.thrown: list[str] = []
        self.world.engine.listeners.append(self.heard)

    def heard(self, seq: int, event: object, at: int, actor: str) -> None:
        state = self.world.state
        if isinstance(event, MachineEnding) and event.reason.startswith("idle"):
            machine = state.machines[event.machine_id]
            waited = self.world.engine.now() - machine.intended_at
            if (
                launches.others_come(state, machine)
                and launches.waited_for(state, machine)
                and waited < 120 * SECOND_US
            ):
                self.thrown.append(f"{machine.name} {event.reason}")

    def hello(self) -> None:
        held = {}
        for name in list(self.runs.joins):
            if name not in self.delay_of:
                self.delay_of[name] = self.delays[len(self.delay_of) % len(self.delays)]
            node = self.world.state.node_by_name(name)
            now = self.world.engine.now()
            if node is None or now - node.axis_start < self.delay_of[name] * SECOND_US:
                held[name] = self.runs.joins.pop(name)
        ending = (one.name for one in self.machines if one.state is MachineState.ENDING)
        refused = {name: self.runs.joins.pop(name) for name in ending if name in self.runs.joins}
        super().hello()
        self.runs.joins |= held | refused

    def live(self, gangs: list[Gang]) -> None:
        todo, ends, cancels = sorted(gangs), dict[str, int](), list[tuple[int, str]]()
        self.world.clock.advance(HOUR_US - 30 * SECOND_US)
        state = self.world.state
        for now in range(LIFE_S):
            while todo and todo[0].at <= now:
                one = todo.pop(0)
                ask = (ResourceRequest(None, one.cpus * 1_000, 1 << 20),)
                deadline = self.world.engine.now() + one.due * SECOND_US if one.due else 0
                job = self.world.submit(
                    options=ask,
                    nodes=one.nodes,
                    time_limit_us=(600 if one.due else 120) * SECOND_US,
                    deadline_at=deadline,
                    deadline_policy="best-effort",
                    checkpoint=CheckpointSpec(signal="USR1" if one.due else ""),
                )
                ends[job.id] = one.seconds * SECOND_US
                if one.cancelled:
                    cancels.append((now + one.cancelled, job.id))
            for at, job_id in cancels:
                if at == now and job_id in state.jobs and state.jobs[job_id].state is JobState.PENDING:
                    self.world.engine.commit(verbs.cancel(state, state.jobs[job_id], 0), "ann")
            if now == LIFE_S - 200:
                for left in list(state.jobs.values()):
                    if left.state is JobState.PENDING:
                        self.world.engine.commit(verbs.cancel(state, left, 0), "ann")
            self.second()
            ledger, record = state.ledger, state.budgets.records["b"]
            committed = ledger.held("b", record.period_start) + ledger.settled("b", record.period_start)
            assert committed <= record.spec.limit.nanos, "B1"
            assert not ledger.violations()
            for attempt in list(state.live_attempts()):
                started = [member.started_at for member in attempt.members]
                if all(started) and self.world.engine.now() - max(started) >= ends[attempt.job_id]:
                    for member in attempt.members:
                        self.world.backend.finish(attempt.id, member.alloc.rank)
            if not todo and self.gone() and not self.machines and not state.pending:
                return


def owed(site: Site) -> int:
    """By the provider's bill."""
    events = site.world.events
    node_of = {one.facts.name: one.node_id for one in events if isinstance(one, NodeRegistered)}
    rates = {one.node_id: one.rates for one in events if isinstance(one, NodePriced)}
    names = {one.machine_id: one.name for one in events if isinstance(one, MachineIntended)}
    up = {one.machine_id: one.billed_from for one in events if isinstance(one, MachineUp)}
    return sum(
        cost(rates[node_of[names[gone.machine_id]]], up[gone.machine_id], gone.billed_until)
        for gone in site.gone()
        if gone.machine_id in up
    )


def ran_on(site: Site) -> set[tuple[str, str]]:
    """Job and node of every member that ever started."""
    placed = {
        (event.attempt_id, alloc.rank): (event.job_id, alloc.node_id)
        for event in site.world.events
        if isinstance(event, AttemptPlaced)
        for alloc in event.members
    }
    return {placed[one.attempt_id, one.rank] for one in site.world.events if isinstance(one, MemberStarted)}


def what_an_audit_finds(site: Site) -> list[str]:
    """Every row held against the log, as `doctor` does."""
    site.world.writer.flush()
    rows, hours = defaultdict[int, list[Any]](list), OpenHours()
    for row in site.world.writer.charges:
        rows[row.seq].append(row)
    found = list[str]()
    for event in site.world.writer.rows:
        found += hours.check(event.seq, decode(event.payload), rows[event.seq], event.at)
    return found


GANGS = st.lists(
    st.builds(
        Gang,
        at=st.integers(0, 60),
        nodes=st.integers(1, 4),
        cpus=st.sampled_from([2, 3]),
        seconds=st.integers(1, 40),
        cancelled=st.sampled_from([0, 0, 0, 5, 12, 30]),
        due=st.sampled_from([0, 0, 690, 900]),
    ),
    min_size=1,
    max_size=4,
)
FAULTS = st.sampled_from([
    "",
    "faults: [{call: vanish, after: 9s}]\n",
    "faults: [{call: vanish, after: 25s, times: 2}]\n",
    "faults: [{call: create, code: NoCapacity, zone: home-a, times: 2}]\n",
    "faults: [{call: create-lost, code: Unavailable, times: 1}]\n",
    "faults: [{call: create, code: NoCapacity, market: spot, times: 3}]\n",
])  # fmt: skip


@settings(max_examples=25, deadline=None)
@example(  # the first one begins on demand, and moves to a spot machine
    gangs=[Gang(0, 1, 3, 40, 0, 690), Gang(3, 2, 2, 20, 0)],
    delays=[3, 9],
    faults="faults: [{call: create, code: NoCapacity, market: spot, times: 2}]\n",
    limit=90,
)
@given(
    gangs=GANGS,
    delays=st.lists(st.sampled_from([3, 5, 9, 20, 45, 90]), min_size=1, max_size=5),
    faults=FAULTS,
    limit=st.sampled_from([1, 2, 90]),
)
def test_every_nano_is_somebodys_and_nobody_pays_for_a_machine_that_he_never_ran_on(
    gangs: list[Gang], delays: list[int], faults: str, limit: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        site = Life(Path(folder), delays, faults, limit)
        site.live(gangs)
    assert not site.machines, "all is given back"
    rows = site.rows()
    assert sum(row.nanos for row in rows) == owed(site)
    facts = what_the_facts_say(site)
    assert sum(facts.nanos.values()) == owed(site)
    launched = {(row.job_id, row.node_id) for row in rows if row.kind == "startup"}
    assert launched <= ran_on(site)
    for job in site.world.state.jobs.values():
        assert job.settled_nanos == sum(row.nanos for row in rows if row.job_id == job.id)
    assert all((row.job_id == "") == (row.kind not in PAID) for row in rows)
    a_second_book_says_the_same(site, rows)
    assert site.thrown == []
    assert what_an_audit_finds(site) == []


def test_a_planted_fault_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines whose gang waits are idle at once, as they were."""
    monkeypatch.setattr("bursard.machines.giving_back.bound_us", lambda spec: 0)
    site = Life(tmp_path, [3, 30], "", 90)
    site.live([Gang(0, 2, 3, 10, 0)])
    assert site.thrown
    intents = [one for one in site.world.events if isinstance(one, MachineIntended)]
    assert len(intents) > 2
