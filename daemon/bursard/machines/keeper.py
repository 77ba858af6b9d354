"""The keeper of one provider's machines: calls it, and makes every answer an event before the next call.

Owns    the order of calls and commits, and how often the provider is asked.
Why     a machine is asked for only after its intent is durable, and what the provider answered counts only
        once that is durable too. Between any two of these the daemon may die: the next one starts from
        records and the provider's list (`bursard.machines.reconcile`), never from what this one remembered.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

from bursar.clock import SECOND_US, format_duration
from bursar.errors import WrongState
from bursard.events import Event
from bursard.machines import heard
from bursard.machines.errors import Blocks
from bursard.machines.instants import believed
from bursard.machines.provider import CloudError, Kind, Order, Place, Provider
from bursard.machines.reconcile import Adopt, Bury, End, Reconciler, Rise, Step, Terminate
from bursard.state import MachineRecord, MachineState, State
from bursard.state.decide import machines as decide
from bursard.state.decide.machines import Decision

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

IDLE_US: Final = 120 * SECOND_US
"""A list so often while there is no machine: somebody else's daemon may have left one of ours."""
DOUBT_US: Final = 600 * SECOND_US
"""A type in a place, of which a machine did not come up, is left alone for so long."""
QUIET_US: Final = 2 * SECOND_US
QUIET_MAX_US: Final = 60 * SECOND_US
"""A provider that fails is left alone for so long, then for twice as long each time, up to this."""
FAILED_KEPT_US: Final = 3600 * SECOND_US
"""A launch that failed longer ago than this does not make the next wait longer."""


class Hands(Protocol):
    """What the keeper needs of the daemon."""

    def now(self) -> int:
        """The wall clock, microseconds."""

    async def commit(self, decisions: Sequence[Decision]) -> None:
        """Make events true, each decided on what those before it made true; all or none. Return once they are
        durable.
        """

    def rise(self, machine_id: str, billed_from: int) -> Sequence[Event]:
        """A machine is up, and its node is paid for (`decide.machines.rise`)."""

    def bury(self, machine_id: str, billed_until: int, reason: str, free: bool) -> Sequence[Decision]:
        """A machine is gone, and its node with it (`decide.machines.bury`)."""

    def cut(self, node_id: str) -> bool:
        """End the stream of a node whose machine is gone. False: there is none, nothing waits for it."""

    async def call(self, work: Callable[[], Answer]) -> Answer:
        """Make a blocking call of the provider, in its own thread."""


class Keeper:
    """Of one provider. `blocks`: what it said it does not give. `fault`: what its newest list failed with."""

    def __init__(self, provider: Provider, state: State, hands: Hands) -> None:
        self.provider = provider
        self.blocks = Blocks()
        self.fault = ""
        self._state = state
        self._hands = hands
        self._reconciler: Reconciler | None = None
        self._busy: set[str] = set()
        self._listed_at = 0
        self._failures = 0
        self._quiet_until = 0
        self._launches_failed = 0
        self._rents_from = 0
        self._failed: dict[Place, tuple[int, int]] = {}
        """By place, how many launches there failed one after the other, and when the last one did."""

    def records(self) -> dict[str, MachineRecord]:
        """Machines of this provider that may exist."""
        return {
            key: machine
            for key, machine in self._state.machines.items()
            if machine.provider == self.provider.name
        }

    @property
    def quiet(self) -> bool:
        """It failed a moment ago, and is not asked for anything new. If its clock jumped back, it is."""
        now = self._hands.now()
        return now < self._quiet_until or now < self._rents_from <= now + QUIET_MAX_US

    def place_of(self, machine: MachineRecord) -> Place:
        """Where a machine is, and of which type."""
        return Place(
            region=machine.region,
            zone=machine.zone,
            instance_type=machine.instance_type,
            market=machine.market,
        )

    # --- renting

    async def rent(
        self, orders: Mapping[str, Callable[[], Awaitable[Order]]], intents: Sequence[Event]
    ) -> None:
        """Rent machines whose intents nobody knows yet. `orders`: by the id of each, what to ask for, once
        all intents are durable.

        A refusal ends the intent at once, and those that would have been asked for after it; an answer that
        never came leaves it to the provider's list.
        """
        self._busy.update(orders)
        try:
            await self._hands.commit([lambda: intents])
            left = list(orders)
            while left:
                machine_id = left.pop(0)
                if (refused := await self._create(machine_id, orders[machine_id])) is not None:
                    why = f"it was one of {len(orders)}, and another one was refused: {refused}"
                    await self._commit([self._never(one, why) for one in left])
                    return
        finally:
            self._busy.difference_update(orders)

    async def _create(self, machine_id: str, order: Callable[[], Awaitable[Order]]) -> CloudError | None:
        """Ask for one; else why it was refused."""
        try:
            wanted = await order()
            provider_id = await self._hands.call(lambda: heard.provider_id(self.provider.create(wanted)))
        except CloudError as error:
            await self._refused(machine_id, error)
            return error
        self._failures = self._launches_failed = 0
        await self._commit([lambda: decide.launched(self._state, machine_id, provider_id)])
        return None

    def _never(self, machine_id: str, why: str) -> Decision:
        return lambda: decide.gone(self._state, machine_id, self._hands.now(), why)

    async def _refused(self, machine_id: str, error: CloudError) -> None:
        now = self._hands.now()
        log.warning("a machine was not rented", extra={"machine": machine_id, "why": str(error)})
        self._back_off(self._state.machines.get(machine_id), error)
        if error.kind is Kind.THROTTLED:
            self._fail(now)
            # A list that is heard says nothing of whether the next order will be.
            self._rents_from = now + min(QUIET_US << min(self._launches_failed, 16), QUIET_MAX_US)
            self._launches_failed += 1
        if not error.maybe_created:
            await self._commit([lambda: decide.gone(self._state, machine_id, now, str(error))])

    # --- keeping

    def due(self) -> bool:
        """Is it time for another turn?"""
        machines = self.records().values()
        moving = any(one.state is not MachineState.UP or not one.node_id for one in machines)
        capabilities = self.provider.capabilities
        pace = capabilities.busy_us if moving else capabilities.calm_us if machines else IDLE_US
        now = self._hands.now()
        # A clock that jumped back is looked at as one that went on.
        return now >= self._quiet_until and abs(now - self._listed_at) >= pace

    async def turn(self) -> None:
        """Hold what is listed against the records, and do what follows."""
        if self._reconciler is None:
            self._reconciler = Reconciler(self._state.cluster_id)
        reconciler, hands = self._reconciler, self._hands
        self._listed_at = hands.now()
        for late in reconciler.overdue(self.records().values(), hands.now()):
            self._doubt(self._state.machines[late.machine_id], late.reason)
            await self._take(late)
        before = set(self._busy)
        known: Mapping[str, MachineRecord] = self.records()
        try:
            regions = {machine.region for machine in known.values()}
            cluster = self._state.cluster_id
            listed = await hands.call(lambda: heard.instances(self.provider.list_owned(cluster, regions)))
        except CloudError as error:
            self.fault = str(error)
            self._fail(hands.now())
            log.warning("machines are not listed", extra={"provider": self.provider.name, "why": str(error)})
            steps = reconciler.unheard(self.records().values(), hands.now())
        else:
            self._failures, self.fault = 0, ""
            now = self.records()
            unlisted = before | self._busy | (now.keys() - known.keys())
            steps = reconciler.steps(now, believed(listed, now, hands.now()), hands.now(), unlisted)
        for step in steps:
            await self._take(step)

    async def _take(self, step: Step) -> None:
        state = self._state
        if isinstance(step, Adopt):
            await self._commit([lambda: decide.launched(state, step.machine_id, step.provider_id)])
        elif isinstance(step, Rise):
            if (machine := state.machines.get(step.machine_id)) is not None:
                self._failed.pop(self.place_of(machine), None)
            await self._commit([lambda: self._hands.rise(step.machine_id, step.billed_from)])
        elif isinstance(step, End):
            await self._ask_why(step.machine_id, step.reason)
            await self._commit([lambda: decide.ending(state, step.machine_id, step.reason)])
        elif isinstance(step, Bury):
            await self._ask_why(step.machine_id, step.reason)
            await self._bury(step)
        else:
            await self._end(step)

    async def _ask_why(self, machine_id: str, reason: str) -> None:
        """Some providers accept an order and find only then that they have none to give: what they say of one
        that never ran is believed as if they had said it at once. One that says nothing has failed as well.
        """
        machine = self._state.machines.get(machine_id)
        if machine is None or machine.state is not MachineState.LAUNCHING or machine.billed_from:
            return
        provider_id = machine.provider_id
        why = CloudError(Kind.CAPACITY, "NeverRan", reason)
        try:
            await self._hands.call(lambda: self.provider.poll(provider_id))
        except CloudError as error:
            why = error
        self._back_off(machine, why)

    def _back_off(self, machine: MachineRecord | None, error: CloudError) -> None:
        """A launch failed. Where its provider does not say for how long of this place, it is left alone
        for a while, twice as long each time: the next order there would fail as well, and each is a call.
        """
        now = self._hands.now()
        self.blocks.add(error, now)
        if machine is None or self.blocks.of(self.place_of(machine), now) is not None:
            return
        self._failed = {
            place: one for place, one in self._failed.items() if abs(now - one[1]) < FAILED_KEPT_US
        }
        place = self.place_of(machine)
        times = self._failed.get(place, (0, 0))[0]
        self._failed[place] = times + 1, now
        kind = Kind.THROTTLED if error.kind is Kind.THROTTLED else Kind.CAPACITY
        ttl_us = min(QUIET_US << min(times, 16), DOUBT_US)
        self.blocks.add(CloudError(kind, error.code, error.message, scope=place, ttl_us=ttl_us), now)

    async def _bury(self, step: Bury) -> None:
        """It is billed by its provider's rule. An agent that still talks is cut off, and what ran there is
        lost, before that; where either takes its time, the next turn goes on.
        """
        state = self._state
        machine = state.machines.get(step.machine_id)
        if machine is None:
            return
        if not machine.node_id and machine.billed_from and machine.state is not MachineState.ENDING:
            self._doubt(machine, step.reason)
        node = decide.node_of(state, machine)
        if node is not None:
            if self._hands.cut(node.id):
                return
            await self._commit(decide.losses(state, machine, node, step.reason))
            if decide.referenced(state, node):
                return
        until, free, reason = step.billed_until, False, step.reason
        if machine.billed_from:
            ran_us, billing = max(until - machine.billed_from, 0), self.provider.capabilities.billing
            billed_us = billing.billed_us(ran_us, interrupted=step.interrupted)
            until, free = machine.billed_from + billed_us, not billed_us
        if free:
            within = format_duration(billing.interrupted_free_us)
            reason += f"; one that is taken back within {within} is free"
        await self._commit(self._hands.bury(machine.id, until, reason, free))

    def _doubt(self, machine: MachineRecord, why: str) -> None:
        """What did not come up there would not the next time either: elsewhere first."""
        error = CloudError(Kind.CAPACITY, "NeverJoined", why, scope=self.place_of(machine), ttl_us=DOUBT_US)
        self.blocks.add(error, self._hands.now())

    async def _end(self, step: Terminate) -> None:
        log.info(
            "a machine is to end",
            extra={"provider": self.provider.name, "machine": step.provider_id, "why": step.why},
        )
        try:
            await self._hands.call(lambda: self.provider.terminate(step.provider_id))
        except CloudError as error:
            # It is asked again, for ever: it is paid for until it is listed as gone.
            log.warning("it could not be ended", extra={"machine": step.provider_id, "why": str(error)})

    async def _commit(self, decisions: Sequence[Decision]) -> None:
        """An answer that says what cannot be is not believed, and is seen in the log."""
        try:
            await self._hands.commit(decisions)
        except WrongState as error:
            log.warning("an answer of a provider is not believed", extra={"why": error.message})

    def _fail(self, now: int) -> None:
        self._quiet_until = now + min(QUIET_US << min(self._failures, 16), QUIET_MAX_US)
        self._failures += 1
