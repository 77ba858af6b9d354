"""How much of a cluster may be promised at a time: when a job that asks for a promise would be beyond it.

Owns    `Portion`: what a PriorityPolicy's `promises: {share: …}` gives of all CPUs, memory and GPUs, and
        what of it is promised from when to when.
Why     whoever gives a deadline gets a place that nobody else does, whatever his priority. A site that means
        priority to count lets promises have a part of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bursar.resources import MILLI, ResourceRequest
from bursar_policies.decision import NodeColumns
from bursar_policies.specs import PPM
from bursard.scheduler.kept import NAMES, Amounts, asked_of


class Span(NamedTuple):
    """So much is promised in `[since, until)`."""

    since: int
    until: int
    amounts: Amounts


class Beyond(NamedTuple):
    """One of `NAMES` of which a job asks for more than promises may have: `asked` of `most`.

    `own`: than those of its user may.
    """

    which: int
    asked: int
    most: int
    own: bool = False


class Portion:
    """Of all ready nodes together.

    Args:
        ppm: what part of them, per million. spans: what is promised to others.
        own: of it, what those of one user may have, beside what is promised to him; None: all of it.
    """

    def __init__(
        self, ppm: int, nodes: NodeColumns, spans: Iterable[Span], own: Portion | None = None
    ) -> None:
        self.own = own
        columns = (nodes.cpu_total, nodes.memory_total, nodes.gpu_total)
        cpus, memory, gpus = (sum(column[nodes.ready].tolist()) for column in columns)
        self._most = tuple(total * ppm // PPM for total in (cpus, memory, gpus * MILLI))
        self._spans = tuple(spans)

    def beyond(self, request: ResourceRequest, nodes: int) -> Beyond | None:
        """Does a job ask for more than all that may be promised?"""
        for which, (asked, most) in enumerate(zip(asked_of(request, nodes), self._most, strict=True)):
            if asked > most:
                return Beyond(which, asked, most)
        found = self.own.beyond(request, nodes) if self.own is not None else None
        return None if found is None else found._replace(own=True)

    def closed(self, request: ResourceRequest, nodes: int, now: int) -> tuple[tuple[int, int], ...]:
        """From when to when a job of that size, which is not `beyond` it, has no place, since promises have
        their part.
        """
        asked = asked_of(request, nodes)
        found = list[tuple[int, int]]()
        for which, wanted in enumerate(asked):
            if wanted:
                found += self._over(which, self._most[which] - wanted, now)
        if self.own is not None:
            found += self.own.closed(request, nodes, now)
        return _joined(found)

    def _over(self, which: int, most: int, now: int) -> list[tuple[int, int]]:
        changes = dict[int, int]()
        for since, until, amounts in self._spans:
            # What is due and has not begun is still to come.
            begins, ends = max(since, now), max(until, now + until - since)
            changes[begins] = changes.get(begins, 0) + amounts[which]
            changes[ends] = changes.get(ends, 0) - amounts[which]
        total, began, found = 0, -1, list[tuple[int, int]]()
        for at in sorted(changes):
            total += changes[at]
            if total > most and began < 0:
                began = at
            elif total <= most and began >= 0:
                found.append((began, at))
                began = -1
        return found


def _joined(windows: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    found = list[tuple[int, int]]()
    for since, until in sorted(windows):
        if found and since <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], until)
        else:
            found.append((since, until))
    return tuple(found)


def named(which: int, amount: int) -> str:
    """An amount of one of `NAMES` for people: `12 GPUs`."""
    if NAMES[which] == "memory":
        return f"{amount // (1 << 30)} GiB of memory"
    whole = f"{amount / MILLI:.3f}".rstrip("0").rstrip(".")
    return f"{whole} {NAMES[which]}"
