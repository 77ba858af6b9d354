"""Windows: nodes that are reserved, as one plan sees them.

Owns    which nodes a job may not be put on, because it might still be there when a reservation begins that is
        not for it; and until when, and from when on, that is so.
Why     a reservation closes nodes to a job as a cordon does, and to more jobs the nearer it comes: whom it
        stops depends on how long a job may hold its nodes. So a queue is looked at with the nodes that are
        closed to the job whose turn it is, and a claim looks for its place between the windows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from bursar_policies.decision import JobClass, NodeColumns
from bursar_policies.filters import Ask
from bursar_policies.specs import ReservationSpec

NEVER = int(np.iinfo(np.int64).max)
Mask = NDArray[np.bool_]


class Segment(NamedTuple):
    """A stretch of time in which the same nodes are closed to a job that would start in it."""

    start: int
    end: int
    closed: Mask


class Windows:
    """The reservations of a snapshot, over its nodes.

    Attributes:
        specs: by name.
    """

    def __init__(self, nodes: NodeColumns, specs: Mapping[str, ReservationSpec]) -> None:
        self.specs = specs
        self._count = len(nodes.ids)
        wanted = {name for spec in specs.values() for name in spec.nodes}
        row_of = {name: row for row, name in enumerate(nodes.names) if name in wanted}
        self._rows = {
            name: np.array([row_of[node] for node in spec.nodes if node in row_of], dtype=np.intp)
            for name, spec in specs.items()
        }
        self._masks: dict[tuple[str, ...], Mask] = {}
        self._others: dict[tuple[str, ...], tuple[list[int], list[str]]] = {}

    def _not_for(self, job_class: JobClass) -> tuple[list[int], list[str]]:
        """The starts, rising, and the names of all that are not for a class."""
        found = self._others.get(job_class.reservations)
        if found is None:
            mine = job_class.reservations
            order = sorted((one.starts_at, name) for name, one in self.specs.items() if name not in mine)
            found = self._others[mine] = [at for at, _ in order], [name for _, name in order]
        return found

    def closing(self, job_class: JobClass, now: int, hold_us: int) -> tuple[str, ...]:
        """Those that close their nodes to a job which would hold its own from `now` on."""
        starts, names = self._not_for(job_class)
        before = names[: bisect_left(starts, now + hold_us)]
        return tuple(name for name in before if self.specs[name].ends_at > now)

    def first_of_a_node(self, closing: tuple[str, ...]) -> list[str]:
        """Those of some that are the first to begin on one of their nodes, by their start: who ends before a
        later one has no node more for it.
        """
        closed, found = np.zeros(self._count, dtype=np.bool_), list[str]()
        for name in sorted(closing, key=lambda name: (self.specs[name].starts_at, name)):
            rows = self._rows[name]
            if not closed[rows].all():
                closed[rows] = True
                found.append(name)
        return found

    def open_to(self, job_class: JobClass, now: int) -> tuple[str, ...]:
        """Those in force whose nodes it may use."""
        specs = self.specs
        mine = (name for name in job_class.reservations if name in specs)
        return tuple(name for name in mine if specs[name].starts_at <= now < specs[name].ends_at)

    def from_us(self, closing: tuple[str, ...], now: int) -> int:
        """Jobs that hold for at least so long meet all of these."""
        last = max((self.specs[name].starts_at for name in closing), default=now)
        return max(last - now + 1, 0) if last > now else 0

    def mask(self, names: tuple[str, ...]) -> Mask:
        """The nodes (n) of these."""
        found = self._masks.get(names)
        if found is None:
            found = np.zeros(self._count, dtype=np.bool_)
            for name in names:
                found[self._rows[name]] = True
            found.flags.writeable = False
            self._masks[names] = found
        return found

    def left(self, ask: Ask, usable: Mask) -> Mask:
        """What of the nodes that are ready for an ask is not reserved from it."""
        if ask.closed:
            usable = usable & ~self.mask(ask.closed)
        return usable & self.mask(ask.only) if ask.only else usable

    def asks(self, asks: tuple[Ask, ...], closing: tuple[str, ...]) -> tuple[Ask, ...]:
        """The same asks without the nodes of these."""
        return tuple(replace(ask, closed=closing) for ask in asks)

    def segments(self, job_class: JobClass, now: int) -> Iterator[Segment]:
        """From `now` to the end of time: which nodes are closed to a job of this class with its limit."""
        hold_us = job_class.hold_us
        _, names = self._not_for(job_class)
        # A window closes its nodes to whoever starts from the first edge on, and before the second.
        edges: dict[int, list[tuple[str, int]]] = {now: []}
        for name in names:
            spec = self.specs[name]
            if spec.ends_at > now:
                edges.setdefault(max(spec.starts_at - hold_us + 1, now), []).append((name, 1))
                edges.setdefault(spec.ends_at, []).append((name, -1))
        at, closing = sorted(edges), np.zeros(self._count, dtype=np.int64)
        for start, end in zip(at, [*at[1:], NEVER], strict=True):
            for name, step in edges[start]:
                closing[self._rows[name]] += step
            yield Segment(start, end, closing > 0)

    def next_end(self, now: int) -> int:
        """When the next of all is over; `NEVER` without any."""
        return min((one.ends_at for one in self.specs.values() if one.ends_at > now), default=NEVER)

    def on(self, row: int, names: tuple[str, ...]) -> str:
        """Which of these has a node, the first to begin; "" for none."""
        found = [name for name in names if (self._rows[name] == row).any()]
        return min(found, key=lambda name: (self.specs[name].starts_at, name), default="")


def windows_of(nodes: NodeColumns, specs: Mapping[str, ReservationSpec]) -> Windows | None:
    """None where nothing is reserved."""
    return Windows(nodes, specs) if specs else None
