"""Reservations of nodes as they are in force, and whose jobs may use which.

Owns    the windows in which nodes were reserved by what is not in force any more, as far as their time is not
        metered yet; all else follows from the documents in force.
Why     each job's class says which reservations are for it, so a plan need not know users. What a node did is
        told late, by hours when its agent was out of contact: by then its reservation may be over, cancelled
        or another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from bursar.clock import SECOND_US
from bursar_policies.decision import JobClass
from bursar_policies.specs import ReservationSpec

NEVER = (1 << 63) - 1
KEPT_US = 600 * SECOND_US
"""How long one is kept after its end."""
KNOWN_MAX = 10_000
"""Answers kept: which reservations are for one user in one project."""
PAST_MAX = 256
"""Windows kept of the past of a node; of more, the oldest are forgotten."""

Windows = tuple[tuple[int, int], ...]
"""`[start, end)` in microseconds, disjoint, the first first."""


class ReservationTable:
    """Reservations by name."""

    def __init__(self) -> None:
        self.specs: Mapping[str, ReservationSpec] = {}
        """Another mapping with each change."""
        self.since: Mapping[str, int] = {}
        """When each of them came into force: none has kept a node before."""
        self.past: dict[str, Windows] = {}
        """By name of a node, when it was reserved by what is in force no more."""
        self._known: dict[tuple[str, str], tuple[str, ...]] = {}
        self._sets: dict[int, frozenset[str]] = {}
        """Of `specs`, by identity, their nodes."""

    def __bool__(self) -> bool:
        return bool(self.specs)

    def put(
        self,
        specs: Mapping[str, ReservationSpec],
        since: Mapping[str, int],
        at: int,
        metered: Callable[[str], int],
    ) -> bool:
        """These are in force from `at` on. False: they were before.

        Args:
            since: when each came into force. metered: up to when a node's time has been told.
        """
        for name, old in self.specs.items():
            if specs.get(name) != old or since[name] != self.since[name]:
                self._pass(old, max(old.starts_at, self.since[name]), min(old.ends_at, at), metered)
        self.since = dict(since)
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
        """Those whose end came some time ago: until then people still see it."""
        return [name for name, one in self.specs.items() if one.ends_at + KEPT_US <= now]

    def windows(self, node: str, since: int, until: int) -> Windows:
        """When, in this time, a node is or was reserved."""
        if not self.specs and not self.past:
            return ()
        now = (
            (max(one.starts_at, self.since[name]), one.ends_at)
            for name, one in self.specs.items()
            if one.starts_at < until and since < one.ends_at and node in self._nodes_of(one)
        )
        every = (*self.past.get(node, ()), *now)
        return _joined((max(start, since), min(end, until)) for start, end in every)

    def forget(self, node: str, until: int = NEVER) -> None:
        """A node's time is told up to here: nobody asks for it again."""
        if node in self.past:
            kept = tuple(one for one in self.past[node] if one[1] > until)
            if kept:
                self.past[node] = kept
            else:
                del self.past[node]

    def _pass(self, spec: ReservationSpec, start: int, end: int, metered: Callable[[str], int]) -> None:
        for node in spec.nodes if start < end else ():
            if metered(node) < end:
                self.past[node] = _joined([*self.past.get(node, ()), (start, end)])[-PAST_MAX:]

    def _nodes_of(self, spec: ReservationSpec) -> frozenset[str]:
        found = self._sets.get(id(spec))
        if found is None:
            found = self._sets[id(spec)] = frozenset(spec.nodes)
        return found


def _joined(windows: Iterable[tuple[int, int]]) -> Windows:
    """The same instants as windows that do not touch."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(one for one in windows if one[0] < one[1]):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return tuple(found)
