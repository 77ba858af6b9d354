"""What jobs of this cluster usually ask for: learned from every submission, read by the packing scorers.

Owns    the counts by request and the short list made of them (`Snapshot.typical`).
Why     what packing calls a fragment is what typical jobs cannot use. A new list makes the scheduler score
        every node anew, so it is made seldom: the waits between two lists grow with what was seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bursar.model import JobSpec
from bursar.resources import ResourceRequest

COVERED_PERCENT = 95
"""The most frequent requests that together make up so much of all; the rest is noise."""
TYPICAL_MAX = 256
"""Longest list; each entry costs every score a few nanoseconds a node."""
WEIGHT_MAX = 1 << 16
"""Past this total all counts are halved: what was usual long ago fades."""
STEP_MAX = 4096
"""Submissions between two lists, at most."""


class TypicalImage(msgspec.Struct, frozen=True):
    """All of it as data."""

    counts: tuple[tuple[ResourceRequest, int], ...] = ()
    seen: int = 0
    renew_at: int = 1
    requests: tuple[tuple[ResourceRequest, int], ...] = ()


class TypicalRequests:
    """Counts of what was asked, and the list in force. `requests` stays the same object until it changes."""

    def __init__(self, image: TypicalImage | None = None) -> None:
        image = image or TypicalImage()
        self.requests: Sequence[tuple[ResourceRequest, int]] = image.requests
        self._counts = dict(image.counts)
        self._weight = sum(self._counts.values())
        self._seen = image.seen
        self._renew_at = image.renew_at

    def add(self, spec: JobSpec) -> None:
        """Count one submission: every member of every task, each alternative."""
        members = spec.nodes * (len(spec.array.indices) if spec.array is not None else 1)
        many = min(members, STEP_MAX)
        for option in spec.options:
            self._counts[option] = self._counts.get(option, 0) + many
            self._weight += many
        if self._weight > WEIGHT_MAX:
            self._counts = {request: half for request, n in self._counts.items() if (half := n // 2)}
            self._weight = sum(self._counts.values())
        self._seen += 1
        if self._seen >= self._renew_at:
            self._renew_at = min(self._seen * 2, self._seen + STEP_MAX)
            self._renew()

    def _renew(self) -> None:
        # Ties stay in the order of the first submission: a dict remembers it, and so does its image.
        ranked = sorted(self._counts.items(), key=lambda item: -item[1])
        found: list[tuple[ResourceRequest, int]] = []
        covered = 0
        for request, many in ranked[:TYPICAL_MAX]:
            if covered * 100 >= COVERED_PERCENT * self._weight:
                break
            found.append((request, many))
            covered += many
        if (fresh := tuple(found)) != self.requests:
            self.requests = fresh

    def image(self) -> TypicalImage:
        """Everything, to go on exactly from here."""
        return TypicalImage(tuple(self._counts.items()), self._seen, self._renew_at, tuple(self.requests))
