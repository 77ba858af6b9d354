"""The invariants, checked from the events alone while a simulation runs.

Owns    its own tally of who holds what. Input: every event and charge, after the state took it.
Why     the state refuses what it knows to be wrong; a second book, kept another way, finds what it does not.

R1 nothing is held twice · J4 one attempt of a job at a time · J5 an attempt ends once · B1 a hard budget is
never passed · L1 the ledger sums to zero · L8 every hour of a node is paid by somebody, to the nano ·
Q1 no start passes the `max` of a quota · R5 no start may run into a reservation that is not for it ·
D1 a promise is kept, or broken by a node that went away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bursar.model import MemberAllocation, ShareRates
from bursar.money import charge
from bursar.resources import MILLI
from bursard.events import (
    AttemptEnded,
    AttemptPlaced,
    Charge,
    DeadlineBroken,
    DeadlinePromised,
    Event,
    HoldsRolled,
    MemberEnded,
    NodeMetered,
)
from bursard.ledger import hour_segments
from bursard.state import NodeRecord, State
from bursard.state.budgets import limit_of, settled_of
from bursard.state.quotas import uses_of

LEDGER_EVERY = 1 << 16
"""Events between two looks at every balance."""
SHOWN_MAX = 20


class _Held:
    """What is held of one node."""

    __slots__ = ("cpu", "gpus", "memory")

    def __init__(self, gpus: int) -> None:
        self.cpu = self.memory = 0
        self.gpus = [0] * gpus

    def add(self, alloc: MemberAllocation, sign: int) -> None:
        self.cpu += sign * alloc.cpu_milli
        self.memory += sign * alloc.memory_bytes
        for share in alloc.devices:
            self.gpus[share.index] += sign * share.milli

    def within(self, node: NodeRecord) -> bool:
        return (
            self.cpu <= node.facts.cpu_milli
            and self.memory <= node.facts.memory_bytes
            and max(self.gpus, default=0) <= MILLI
        )


class Checks:
    """Counts what is broken, and keeps the first few sentences."""

    def __init__(self, state: State) -> None:
        self.count = 0
        self.found: list[str] = []
        self.peaks: dict[str, int] = {}
        """Most that was settled and held of each budget at once."""
        self._state = state
        self._held: dict[str, _Held] = {}
        self._live: dict[str, str] = {}
        self._allocs: dict[tuple[str, int], MemberAllocation] = {}
        self._job_of: dict[str, str] = {}
        self._paid: dict[str, int] = {}
        self._events = 0
        self._promised: dict[str, int] = {}
        """By job that was promised one and has not ended, its deadline."""

    def broken(self, sentence: str) -> None:
        """Count one."""
        self.count += 1
        if len(self.found) < SHOWN_MAX:
            self.found.append(sentence)

    def after(self, event: Event, charges: Sequence[Charge]) -> None:
        """An event is true now."""
        self._events += 1
        for item in charges:
            self._paid[item.node_id] = self._paid.get(item.node_id, 0) + item.nanos
        if isinstance(event, AttemptPlaced):
            self._placed(event)
        elif isinstance(event, MemberEnded):
            self._member_ended(event)
        elif isinstance(event, AttemptEnded):
            self._attempt_ended(event)
        elif isinstance(event, DeadlinePromised):
            self._promised[event.job_id] = event.by
        elif isinstance(event, DeadlineBroken):
            self._promise_broken(event)
        if isinstance(event, AttemptPlaced | AttemptEnded | HoldsRolled | NodeMetered):
            self._budgets()
        if self._events % LEDGER_EVERY == 0:
            self.ledger()

    def _promise_broken(self, event: DeadlineBroken) -> None:
        del self._promised[event.job_id]
        if event.cause != "node" and not event.given_up:
            self.broken(f"D1: the deadline of {event.job_id} is broken, and no node was lost: {event.cause}")

    def ended(self, job_id: str, at: int) -> None:
        """A job has ended at an instant."""
        if at > self._promised.pop(job_id, at):
            self.broken(f"D1: {job_id} has ended after the deadline that it was promised")

    def _placed(self, event: AttemptPlaced) -> None:
        if event.job_id in self._live:
            self.broken(f"J4: {event.job_id} has two live attempts")
        self._live[event.job_id] = event.attempt_id
        self._job_of[event.attempt_id] = event.job_id
        if len({member.node_id for member in event.members}) != len(event.members):
            self.broken(f"J6: two members of {event.attempt_id} share a node")
        for member in event.members:
            node = self._state.nodes[member.node_id]
            held = self._held.setdefault(node.id, _Held(len(node.facts.devices)))
            held.add(member, 1)
            self._allocs[event.attempt_id, member.rank] = member
            if not held.within(node):
                self.broken(f"R1: {node.facts.name} is oversubscribed by {event.attempt_id}")
        self._quotas(event)
        self._reserved(event)

    def _reserved(self, event: AttemptPlaced) -> None:
        """What is placed ends before its nodes are another's."""
        specs = self._state.reservations.specs
        if not specs:
            return
        attempt, job = self._state.attempts[event.attempt_id], self._state.jobs[event.job_id]
        names = {self._state.nodes[member.node_id].facts.name for member in event.members}
        since = attempt.placed_at
        until = since + (event.full_limit_us or event.time_limit_us) + event.grace_us
        for name, spec in specs.items():
            met = spec.starts_at < until and since < spec.ends_at and not names.isdisjoint(spec.nodes)
            if met and not spec.lets(job.user, job.spec.project):
                self.broken(f"R5: {event.attempt_id} may run into reservation {name}")

    def _quotas(self, event: AttemptPlaced) -> None:
        """What the second book says is held under each quota of this start."""
        quotas = self._state.quotas.specs
        if not quotas:
            return
        job = self._state.jobs[event.job_id]
        for name, spec in quotas.items():
            if not spec.max or not spec.covers(job.user, job.spec.project):
                continue
            used: Counter[str] = Counter()
            for (attempt_id, _), alloc in self._allocs.items():
                other = self._state.jobs[self._job_of[attempt_id]]
                if spec.covers(other.user, other.spec.project):
                    types = [device.type for device in self._state.nodes[alloc.node_id].facts.devices]
                    used.update(uses_of(alloc, types))
            mine: Counter[str] = Counter()
            for alloc in event.members:
                types = [device.type for device in self._state.nodes[alloc.node_id].facts.devices]
                mine.update(uses_of(alloc, types))
            for resource, most in spec.max:
                if mine[resource] and used[resource] > most:
                    self.broken(f"Q1: quota {name} has {used[resource]} of {most} {resource}")

    def _member_ended(self, event: MemberEnded) -> None:
        alloc = self._allocs.pop((event.attempt_id, event.rank), None)
        if alloc is None:
            self.broken(f"J5: rank {event.rank} of {event.attempt_id} ended, but does not live")
        else:
            self._held[alloc.node_id].add(alloc, -1)

    def _attempt_ended(self, event: AttemptEnded) -> None:
        job_id = self._job_of.pop(event.attempt_id, "")
        if self._live.get(job_id) != event.attempt_id:
            self.broken(f"J5: {event.attempt_id} ended, but does not live")
            return
        del self._live[job_id]

    def _budgets(self) -> None:
        ledger = self._state.ledger
        for name, record in self._state.budgets.records.items():
            committed = settled_of(record, ledger) + ledger.held(name, record.period_start)
            if committed > self.peaks.get(name, 0):
                self.peaks[name] = committed
            limit = limit_of(record, ledger)
            if record.hard and committed > limit:
                self.broken(f"B1: {name} has {committed} of {limit} nanos committed")

    def ledger(self) -> None:
        """Look at every balance."""
        for sentence in self._state.ledger.violations():
            self.broken(sentence)

    def node_hours(self, node: NodeRecord, priced_once: bool) -> None:
        """All time of a node up to `through` is paid: shares, idle and rounding sum to its own cost."""
        if not priced_once or not node.price_id:
            return
        owed = node_cost(node.cost_rates, node.axis_start, node.through)
        paid = self._paid.get(node.id, 0)
        if owed != paid:
            self.broken(f"L8: {node.facts.name} cost {owed} nanos, {paid} were charged")


def node_cost(rates: ShareRates, from_at: int, to_at: int) -> int:
    """What a node costs over `[from_at, to_at)`, each UTC hour by itself."""
    parts = (rates.gpu, rates.cpu, rates.memory)
    first, *rest = hour_segments(from_at, to_at) or [(0, 0)]
    edges = [first, *rest[-1:]]
    whole = max(len(rest) - 1, 0) * sum(parts)
    hour_us = 3_600_000_000
    cut = sum(charge(rate, a % hour_us, a % hour_us + b - a) for a, b in edges for rate in parts)
    return whole + cut
