"""Which rented machines are not kept: idle for too long, worn out, or for a job that is over.

Owns    since when a machine is idle, and until when one waits for the other machines of its job.
Why     a machine on which nothing runs is idle, and costs as much as one that works. But one that a waiting
        gang has been given is not idle while the others come: given back, it would be rented again at once.
        It is not kept for ever either: `bound_us`.

What is remembered here only delays: forgotten, a machine is kept a little longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

from bursar.clock import SECOND_US, format_duration
from bursar.model import EndCause
from bursar_policies.specs import CloudPoolSpec
from bursard.events import Event, NodeScheduling, StopRequested
from bursard.machines.houses import Ground
from bursard.state import MachineRecord, MachineState, NodeRecord, State
from bursard.state.decide import launches
from bursard.state.decide import machines as decide
from bursard.state.decide.conduct import TAKEN_BACK
from bursard.state.decide.launches import RELEASED
from bursard.state.decide.machines import Decision

NOTICED_US: Final = 180 * SECOND_US
"""So long one that its provider said it takes back is left to it: a provider may bill nothing then."""
ALONE_US: Final = 5 * SECOND_US
"""So long after another machine of its gang was lost it is seen whether one is rented in its place."""
BOOTS_WAITED: Final = 2
"""For so many boot timeouts of its pool a machine waits for others: one of them may be rented twice."""


def bound_us(spec: CloudPoolSpec) -> int:
    """How long a machine on which nothing runs waits for the other machines of its job, at most."""
    return max(spec.keep_alive_us, BOOTS_WAITED * spec.boot_timeout_us)


class GivingBack:
    """Machines of all pools.

    Args:
        lacks: is a job, by its id, about to be given machines that it lacks?
    """

    def __init__(self, engine: Ground, lacks: Callable[[str], bool]) -> None:
        self._engine, self._lacks = engine, lacks
        self._idle_since: dict[str, int] = {}
        self._waits_since: dict[str, int] = {}
        self._alone_since: dict[str, int] = {}
        """By machine that waits for its gang, since when nothing else comes for that."""

    @property
    def _state(self) -> State:
        return self._engine.state

    def unwanted(self, specs: Mapping[str, CloudPoolSpec]) -> Iterator[list[Decision]]:
        """What becomes of machines that are not kept, each as one commit."""
        state, now = self._state, self._engine.now()
        for known in (self._idle_since, self._waits_since, self._alone_since):
            for key in known.keys() - state.machines.keys():
                del known[key]
        for machine in list(state.machines.values()):
            if machine.state is MachineState.ENDING:
                continue
            node = decide.node_of(state, machine)
            spec = specs.get(machine.pool)
            if (machine.holding and launches.left_over(state, machine)) or (
                machine.launch and not machine.holding
            ):
                yield [partial(launches.by_pool, machine)]
            if not machine.node_id or node is None:
                if spec is None:
                    yield [self._ending(machine, f"pool {machine.pool} was removed")]
                elif not machine.job_id:
                    yield [self._ending(machine, "the job that it was for is over")]
                continue
            if not node.live and node.connected and launches.moving(state, machine) is not None:
                yield [partial(launches.moved, state, machine)]
                continue
            waits = self._waits(machine, node, spec, now)
            if machine.waits and not waits:
                yield [partial(launches.opened, machine)]
            if why := _worn_out(machine, node, spec, now):
                yield self._retire(machine, node, why)
            elif why := "" if waits else self._idle(machine, node, spec, now):
                yield [partial(_drained, node, why), self._ending(machine, why)]

    def _waits(self, machine: MachineRecord, node: NodeRecord, spec: CloudPoolSpec | None, now: int) -> bool:
        """Does it wait for other machines of its job, and may it?"""
        state = self._state
        if spec is None or node.live or node.mode != "open" or not launches.waited_for(state, machine):
            self._waits_since.pop(machine.id, None)
            self._alone_since.pop(machine.id, None)
            return False
        if state.class_of(state.jobs[machine.job_id]).nodes == 1:
            return False
        since = self._waits_since.setdefault(machine.id, now)
        if abs(now - since) >= bound_us(spec):
            return False
        if launches.others_come(state, machine):
            self._alone_since.pop(machine.id, None)
        else:
            alone = self._alone_since.setdefault(machine.id, now)
            if abs(now - alone) >= ALONE_US and not self._lacks(machine.job_id):
                return False
        self._idle_since.pop(machine.id, None)
        return True

    def _idle(self, machine: MachineRecord, node: NodeRecord, spec: CloudPoolSpec | None, now: int) -> str:
        """Why a machine on which nothing runs is not kept; "" while it is."""
        if node.live:
            self._idle_since.pop(machine.id, None)
            return ""
        if spec is None:
            return f"pool {machine.pool} was removed"
        since = self._idle_since.setdefault(machine.id, now)
        kept_us = spec.keep_alive_us
        if node.reason.startswith(TAKEN_BACK):
            kept_us = max(kept_us, NOTICED_US)
        if node.mode == "drain" and node.reason.startswith(RELEASED):
            return node.reason
        if abs(now - since) < kept_us:
            return ""
        waited = self._waits_since.get(machine.id)
        if waited is None or since <= waited:
            return f"idle for {format_duration(kept_us)}"
        display = self._state.jobs[machine.job_id].display
        long = format_duration((since - waited) // SECOND_US * SECOND_US)
        return f"idle for {format_duration(kept_us)}, after {long} for the other machines of job {display}"

    def _retire(self, machine: MachineRecord, node: NodeRecord, why: str) -> list[Decision]:
        """No new work, what runs is stopped; once nothing does, or nobody can be told, it ends."""
        state = self._state
        if not node.live or not node.connected:
            return [partial(_drained, node, why), self._ending(machine, why)]
        stops: list[Event] = [
            StopRequested(
                attempt_id, EndCause.PREEMPTED, state.attempts[attempt_id].grace_us, f"{machine.name}: {why}"
            )
            for attempt_id in node.live
            if state.attempts[attempt_id].stop_cause is None
        ]
        return [lambda: [*_drained(node, why), *stops]]

    def _ending(self, machine: MachineRecord, why: str) -> Decision:
        return lambda: decide.ending(self._state, machine.id, why)

    def dues(self, specs: Mapping[str, CloudPoolSpec]) -> Iterator[int]:
        """When a wait ends that this code knows of."""
        for machine in self._state.machines.values():
            if (spec := specs.get(machine.pool)) is None:
                continue
            yield machine.intended_at + spec.max_lifetime_us
            for known, after_us in (
                (self._idle_since, spec.keep_alive_us),
                (self._waits_since, bound_us(spec)),
                (self._alone_since, ALONE_US),
            ):
                if machine.id in known:
                    yield known[machine.id] + after_us


def _worn_out(machine: MachineRecord, node: NodeRecord, spec: CloudPoolSpec | None, now: int) -> str:
    """Why a machine must go, whatever runs there; "" when it may stay."""
    if spec is None:
        return ""
    if now - machine.intended_at >= spec.max_lifetime_us:
        return f"its lifetime of {format_duration(spec.max_lifetime_us)} is over"
    if not node.connected and now - node.changed_at >= spec.boot_timeout_us:
        return f"its agent is silent for {format_duration(spec.boot_timeout_us)}"
    return ""


def _drained(node: NodeRecord, why: str) -> list[Event]:
    return [] if node.mode != "open" else [NodeScheduling(node.id, "drain", why)]
