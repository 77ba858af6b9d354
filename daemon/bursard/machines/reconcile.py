"""What follows from a provider's list of its machines: the one place where ours are held against theirs.

Owns    the rules by which a machine is adopted, believed to be gone, or ended; neither call nor clock.
Why     an answer may be lost, the daemon may die between any two instructions, and a cloud's list lags.
        So nothing is concluded from what we remember having done, but from the records, which are durable,
        and from what is listed now:
        - an intent that is listed is adopted; one that is not, for `SETTLE_US` of complete lists, never was;
        - of two machines of one intent, one is ended;
        - a machine with our tag that no record names is ended once it was seen for `SETTLE_US`;
        - a machine without our tag is never touched;
        - one that is to end is asked to, again and again, until it is listed as gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from bursar.clock import SECOND_US
from bursard.machines.provider import Instance, InstanceState
from bursard.state import MachineRecord, MachineState

SETTLE_US: Final = 60 * SECOND_US
"""For so long a list may lag behind what is there."""
AGAIN_US: Final = 2 * SECOND_US
AGAIN_MAX_US: Final = 60 * SECOND_US
"""A termination is asked again after so long at first, then after twice as long each time, up to this."""


class Adopt(msgspec.Struct, frozen=True):
    """The machine of an intent is known by this name."""

    machine_id: str
    provider_id: str


class Rise(msgspec.Struct, frozen=True):
    """It runs, and is paid for since then."""

    machine_id: str
    billed_from: int


class End(msgspec.Struct, frozen=True):
    """It is not wanted any more."""

    machine_id: str
    reason: str


class Bury(msgspec.Struct, frozen=True):
    """It is gone, and was paid for until then."""

    machine_id: str
    billed_until: int
    reason: str
    interrupted: bool = False


class Terminate(msgspec.Struct, frozen=True):
    """Ask the provider to end this machine. `machine_id`: of its record, "" of one that nobody owns."""

    provider_id: str
    machine_id: str
    why: str


Step = Adopt | Rise | End | Bury | Terminate


class _Asked(msgspec.Struct):
    """How often a machine was asked to end, and when it is asked again."""

    times: int = 0
    next_at: int = 0


class Reconciler:
    """Of one provider and one cluster. What it remembers only delays: forgotten, all comes out the same."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._missing: dict[str, int] = {}
        self._strangers: dict[str, int] = {}
        self._asked: dict[str, _Asked] = {}

    def overdue(self, machines: Iterable[MachineRecord], now: int) -> list[End]:
        """What follows from the time alone."""
        return [
            End(
                machine.id,
                f"its agent has not said hello within {(now - machine.intended_at) // SECOND_US} s",
            )
            for machine in machines
            if machine.state is not MachineState.ENDING
            and not machine.node_id
            and 0 < machine.lease_until <= now
        ]

    def steps(
        self,
        machines: Mapping[str, MachineRecord],
        listed: Sequence[Instance],
        now: int,
        busy: Collection[str] = (),
    ) -> list[Step]:
        """What follows from a complete list.

        Args:
            machines: the records of this provider as they are now; those that were intended after the list
                was asked for are among `busy`.
            busy: machines whose making is under way: that they are not listed says nothing.
        """
        ours = [one for one in listed if one.cluster == self._cluster]
        by_machine: dict[str, list[Instance]] = {}
        for one in sorted(ours, key=lambda one: (one.created_at, one.provider_id)):
            by_machine.setdefault(one.machine_id, []).append(one)
        self._forget(machines, ours)
        found: list[Step] = []
        for machine in machines.values():
            found += self._of(machine, by_machine.pop(machine.id, []), now, machine.id in busy)
        for rest in by_machine.values():
            for one in rest:
                if not one.gone and now - self._strangers.setdefault(one.provider_id, now) >= SETTLE_US:
                    found += self._terminate(one.provider_id, "", "nobody owns it", now)
        return found

    def unheard(self, machines: Iterable[MachineRecord], now: int) -> list[Step]:
        """What is done when the provider gives no list: what is to end is still told so."""
        return [
            step
            for machine in machines
            if machine.state is MachineState.ENDING and machine.provider_id
            for step in self._terminate(machine.provider_id, machine.id, machine.reason, now)
        ]

    def _of(self, machine: MachineRecord, listed: list[Instance], now: int, busy: bool) -> list[Step]:
        there = [one for one in listed if not one.gone]
        own = next((one for one in listed if one.provider_id == machine.provider_id), None)
        found: list[Step] = []
        if own is None and not machine.provider_id and there:
            own = there[0]
            found.append(Adopt(machine.id, own.provider_id))
        for one in there:
            if one is not own:
                found += self._terminate(one.provider_id, machine.id, "its intent has a machine", now)
        if own is None:
            return found + ([] if busy else self._absent(machine, listed, now))
        self._missing.pop(machine.id, None)
        return found + self._known(machine, own, now)

    def _known(self, machine: MachineRecord, own: Instance, now: int) -> list[Step]:
        found: list[Step] = []
        if own.billed_from and not machine.billed_from:
            found.append(Rise(machine.id, own.billed_from))
        if own.gone:
            reason = machine.reason or own.message or "it was ended at its provider"
            found.append(Bury(machine.id, own.billed_until, reason, own.interrupted))
            return found
        if machine.state is MachineState.ENDING:
            return found + self._terminate(own.provider_id, machine.id, machine.reason, now)
        if own.state is InstanceState.FAILED:
            found.append(End(machine.id, own.message or "its provider could not make it run"))
        elif own.state is InstanceState.ENDING:
            found.append(End(machine.id, own.message or "it was ended at its provider"))
        return found

    def _absent(self, machine: MachineRecord, listed: list[Instance], now: int) -> list[Step]:
        """It is in no list. One that its provider remembers under another name has been and gone."""
        since = self._missing.setdefault(machine.id, now)
        if listed and not machine.provider_id:
            last = listed[-1]
            return [Bury(machine.id, last.billed_until, last.message or "it has ended", last.interrupted)]
        if now - since < SETTLE_US:
            return []
        if machine.provider_id:
            return [Bury(machine.id, since, machine.reason or "its provider knows nothing of it any more")]
        return [Bury(machine.id, since, machine.reason or "it was never made")]

    def _terminate(self, provider_id: str, machine_id: str, why: str, now: int) -> list[Step]:
        asked = self._asked.setdefault(provider_id, _Asked())
        if now < asked.next_at:
            return []
        asked.next_at = now + min(AGAIN_US << min(asked.times, 16), AGAIN_MAX_US)
        asked.times += 1
        return [Terminate(provider_id, machine_id, why)]

    def _forget(self, machines: Mapping[str, MachineRecord], ours: Sequence[Instance]) -> None:
        here = {one.provider_id for one in ours if not one.gone}
        kept = here | {machine.provider_id for machine in machines.values()}
        self._missing = {key: at for key, at in self._missing.items() if key in machines}
        self._strangers = {key: at for key, at in self._strangers.items() if key in here}
        self._asked = {key: asked for key, asked in self._asked.items() if key in kept}
