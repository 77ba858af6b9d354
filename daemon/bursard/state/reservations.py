"""Reservations of nodes as they are in force, and whose jobs may use which.

Owns    nothing that is persisted: all of it follows from the documents in force.
Why     each job's class says which reservations are for it, so a plan need not know users.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from bursar.clock import SECOND_US
from bursar_policies.decision import JobClass
from bursar_policies.specs import ReservationSpec

NEVER = (1 << 63) - 1
KEPT_US = 600 * SECOND_US
"""How long one is kept after its end."""
KNOWN_MAX = 10_000
"""Answers kept: which reservations are for one user in one project."""


class Idle(NamedTuple):
    """Whether idle time is reserved; from `until` on it is otherwise."""

    reserved: bool
    until: int


class ReservationTable:
    """Reservations by name."""

    def __init__(self) -> None:
        self.specs: Mapping[str, ReservationSpec] = {}
        """Another mapping with each change."""
        self._known: dict[tuple[str, str], tuple[str, ...]] = {}
        self._sets: dict[int, frozenset[str]] = {}
        """Of `specs`, by identity, their nodes."""

    def __bool__(self) -> bool:
        return bool(self.specs)

    def put(self, specs: Mapping[str, ReservationSpec]) -> bool:
        """These are in force from now on. False: they were before."""
        if specs == self.specs:
            return False
        self.specs = dict(sorted(specs.items()))
        self._known.clear()
        self._sets.clear()
        return True

    def for_whom(self, user: str, project: str) -> tuple[str, ...]:
        """Those whose nodes a user's jobs in a project may use."""
        if not self.specs:
            return ()
        key = user, project.lower()
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            found = self._known[key] = tuple(name for name, one in self.specs.items() if one.lets(*key))
        return found

    def closes(self, node: str, job_class: JobClass, since: int, until: int) -> bool:
        """Is a node reserved in this time for others than jobs of a class?"""
        return any(
            one.starts_at < until and since < one.ends_at and node in self._nodes_of(one)
            for name, one in self.specs.items()
            if name not in job_class.reservations
        )

    def over(self, now: int) -> list[str]:
        """Those whose end came some time ago: until then its last minutes are told, and are its own."""
        return [name for name, one in self.specs.items() if one.ends_at + KEPT_US <= now]

    def idle(self, node: str, since: int, until: int) -> Idle:
        """Is what nobody holds of a node reserved? How that is at `since`, and if it changes up to `until`,
        when for the last time.
        """
        if not self.specs:
            return Idle(False, NEVER)
        mine = [one for one in self.specs.values() if node in self._nodes_of(one)]
        edges = sorted({at for one in mine for at in (one.starts_at, one.ends_at) if since < at < until})

        def at(when: int) -> bool:
            return any(one.starts_at <= when < one.ends_at for one in mine)

        changes = [edge for edge in edges if at(edge) is not at(since)]
        return Idle(at(since), changes[0] if changes and at(until - 1) is not at(since) else NEVER)

    def _nodes_of(self, spec: ReservationSpec) -> frozenset[str]:
        found = self._sets.get(id(spec))
        if found is None:
            found = self._sets[id(spec)] = frozenset(spec.nodes)
        return found
