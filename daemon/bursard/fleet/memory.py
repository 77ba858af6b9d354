"""A backend without processes: members that run in memory, on the clock it is given.

Owns    nodes and members that exist only here. Output: the same reports as any other backend.
Why     the second implementation of `Backend`, which keeps the protocol honest; tests of the daemon and a
        first look at a new backend need no machine, no socket and no waiting.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bursar.clock import Clock
from bursar.errors import ServerUnavailable
from bursar.model import EndCause, NodeFacts
from bursar.model.service import NOWHERE, Way
from bursard.fleet.fleet import Fleet
from bursard.fleet.words import (
    Assign,
    Counter,
    Exited,
    Forget,
    Hello,
    Limit,
    LimitTaken,
    LogAnswer,
    LogRange,
    MemberTruth,
    Probe,
    Readiness,
    Started,
    Stop,
    Usage,
)
from bursard.state import NodeRecord

Key = tuple[str, int]


class Member(msgspec.Struct):
    """One member: it runs from `started_boot_us` until `end` is set. `told`: its start was reported.

    `after`: it waits until nothing is left of this attempt.
    """

    pid: int
    started_boot_us: int
    output: bytes = b""
    told: bool = False
    end: Exited | None = None
    after: str = ""
    limit: Limit | None = None
    limit_told: bool = False


class Machine(msgspec.Struct):
    """One node, its boot, and its members that are not forgotten."""

    facts: NodeFacts
    boot_id: str
    node_id: str = ""
    connected: bool = False
    usage_seq: int = 0
    members: dict[Key, Member] = {}
    over: set[Key] = set()
    """Forgotten ones: they never start again."""


class MemoryBackend:
    """Runs members in memory. Orders take effect at once, and are reported at the next `report`.

    Args:
        output: what every member writes as it starts.
        fixed_limits: names of machines whose members take no other time limit.
        ahead: orders that wait for another's share, held by each machine.
    """

    def __init__(self, clock: Clock, output: bytes = b"", ahead: int = 0) -> None:
        self._ahead = ahead
        self.fixed_limits: set[str] = set()
        self._clock = clock
        self._output = output
        self._machines: dict[str, Machine] = {}
        self._by_id: dict[str, Machine] = {}
        self._next_pid = 1
        self.probed: dict[str, Probe] = {}
        """By attempt, what was to be looked at."""

    def serve(self, fleet: Fleet) -> None:
        """Report to this fleet from now on. Machines that were connected to another are out of contact."""
        self._fleet = fleet
        for machine in self._machines.values():
            machine.connected = False

    # --- what happens on the machines

    def connect(self, facts: NodeFacts, boot_id: str = "boot-1") -> NodeRecord:
        """A machine comes up, or back: with another `boot_id` nothing runs on it any more."""
        machine = self._machines.setdefault(facts.name, Machine(facts, boot_id))
        if machine.boot_id != boot_id:
            machine.members = {key: one for key, one in machine.members.items() if one.end is not None}
            machine.boot_id = boot_id
        machine.facts = facts
        node = self._fleet.hello(
            Hello(
                facts=facts,
                boot_id=boot_id,
                boot_us=self._clock.boot_us(),
                truths=self._truths(machine),
                instance="memory",
            )
        )
        machine.node_id, machine.connected = node.id, True
        self._by_id[node.id] = machine
        self._fleet.join(node, self)
        return node

    def disconnect(self, name: str) -> None:
        """Out of contact; what runs there goes on."""
        machine = self._machines[name]
        machine.connected = False
        machine.members = {key: one for key, one in machine.members.items() if not one.after}
        self._fleet.leave(self._fleet.engine.state.nodes[machine.node_id], self)

    def running(self, name: str) -> list[Key]:
        """What runs on a machine."""
        members = self._machines[name].members
        return [key for key, member in members.items() if member.end is None and not member.after]

    def finish(self, attempt_id: str, rank: int, exit_code: int = 0) -> None:
        """A member's program ends."""
        for machine in self._machines.values():
            member = machine.members.get((attempt_id, rank))
            if member is not None and member.end is None:
                cause = "failed" if exit_code else "completed"
                self._end(machine, (attempt_id, rank), member, cause, exit_code)

    def report(self) -> None:
        """Every connected machine says what is new: starts, ends, and how long each member has run."""
        for machine in self._machines.values():
            if machine.connected:
                self._report(machine)

    def _report(self, machine: Machine) -> None:
        node = self._fleet.engine.state.nodes[machine.node_id]
        for key, member in sorted(machine.members.items(), key=lambda item: item[1].end is None):
            if not member.told and member.pid:
                member.told = True
                self._fleet.started(node, Started(*key, member.pid, member.started_boot_us))
            if member.limit is not None and not member.limit_told and member.end is None:
                member.limit_told = True
                self._fleet.limit_taken(node, LimitTaken(*key, member.limit.order))
            if member.end is not None:
                self._fleet.exited(node, member.end)
        now_us = self._clock.boot_us()
        counters = tuple(
            Counter(*key, now_us - member.started_boot_us)
            for key, member in machine.members.items()
            if member.end is None and not member.after
        )
        machine.usage_seq += 1
        self._fleet.usage(node, Usage(machine.usage_seq, machine.boot_id, now_us, counters))

    def _end(
        self, machine: Machine, key: Key, member: Member, cause: str, exit_code: int | None = None
    ) -> None:
        member.end = Exited(
            attempt_id=key[0],
            rank=key[1],
            cause=EndCause(cause),
            exit_code=-1 if exit_code is None else exit_code,
            signal=0 if exit_code is not None or not member.pid else 15,
            started=bool(member.pid),
            started_boot_us=member.started_boot_us,
            held_us=self._clock.boot_us() - member.started_boot_us if member.pid else 0,
            log_bytes=len(member.output),
        )
        machine.members[key] = machine.members.pop(key)  # ends are told in their order, before what starts
        for other in machine.members.values():
            if other.end is None and other.after == key[0]:
                other.after = member.after
                if not other.after:
                    self._start(other)

    def _start(self, member: Member) -> None:
        member.pid, member.started_boot_us, member.output = (
            self._next_pid,
            self._clock.boot_us(),
            self._output,
        )
        self._next_pid += 1

    def _truths(self, machine: Machine) -> tuple[MemberTruth, ...]:
        return tuple(
            MemberTruth(
                attempt_id=key[0],
                rank=key[1],
                running=member.end is None,
                pid=member.pid,
                started_boot_us=member.started_boot_us,
                exit=member.end,
            )
            for key, member in machine.members.items()
            if not member.after
        )

    # --- Backend

    def assign(self, node_id: str, order: Assign) -> None:
        """Start a member, once."""
        machine = self._by_id[node_id]
        key = (order.attempt_id, order.rank)
        if key in machine.members or key in machine.over:
            return
        member = Member(pid=0, started_boot_us=0)
        machine.members[key] = member
        if order.boot_id != machine.boot_id:
            self._end(machine, key, member, "start_failed")
            return
        after = order.after
        while (before := machine.members.get((after, 0))) is not None and before.end is not None:
            after = before.after  # it left the line while this was on its way
        if before is not None:
            member.after = after
        else:
            self._start(member)

    def ahead(self, node_id: str) -> int:
        """As many as it was told."""
        return self._ahead

    def stop(self, node_id: str, order: Stop) -> None:
        """End a member. One that never came gets an end too, so that it cannot start any more."""
        machine = self._by_id[node_id]
        key = (order.attempt_id, order.rank)
        if key in machine.over:
            return
        if order.only_waiting and not (key in machine.members and machine.members[key].after):
            return
        member = machine.members.setdefault(key, Member(pid=0, started_boot_us=0))
        if member.end is None:
            self._end(machine, key, member, order.cause if member.pid else "start_failed")

    def takes_limits(self, node_id: str) -> bool:
        """But for those in `fixed_limits`."""
        return self._by_id[node_id].facts.name not in self.fixed_limits

    def limit(self, node_id: str, order: Limit) -> None:
        """Keep it; it is reported with all else."""
        member = self._by_id[node_id].members.get((order.attempt_id, order.rank))
        if member is not None and member.end is None:
            member.limit = order
            member.limit_told = False

    def probe(self, node_id: str, order: Probe) -> None:
        """Remember that it is asked for; `ready` answers."""
        self.probed[order.attempt_id] = order

    def ready(self, attempt_id: str, ready: bool = True, message: str = "", way: Way = NOWHERE) -> None:
        """A replica says whether it is ready, and how it is reached from other machines."""
        for machine in self._machines.values():
            if (attempt_id, 0) in machine.members:
                node = self._fleet.engine.state.nodes[machine.node_id]
                self._fleet.readiness(node, Readiness(attempt_id, 0, ready, message, way))

    def forget(self, node_id: str, order: Forget) -> None:
        """An end is in the ledger."""
        machine = self._by_id[node_id]
        key = (order.attempt_id, order.rank)
        member = machine.members.get(key)
        if member is not None and member.end is not None:
            del machine.members[key]
            machine.over.add(key)

    def adopt(self, node_id: str) -> Sequence[MemberTruth]:
        """Every member that is there."""
        return self._truths(self._by_id[node_id])

    async def read_log(self, node_id: str, wanted: LogRange) -> LogAnswer:
        """A piece of what a member wrote."""
        machine = self._by_id[node_id]
        if not machine.connected:
            raise ServerUnavailable(f"node {machine.facts.name} is out of contact")
        member = machine.members.get((wanted.attempt_id, wanted.rank))
        if member is None:
            return LogAnswer(b"", 0, 0, True, 0, "nothing of it is here")
        start = max(len(member.output) - wanted.tail_bytes, 0) if wanted.tail_bytes else wanted.offset
        data = member.output[start : start + wanted.limit_bytes]
        end = start + len(data)
        over = member.end is not None and end >= len(member.output)
        return LogAnswer(data, start, end, over, 0, marks=((0, 0),) if wanted.times else ())
