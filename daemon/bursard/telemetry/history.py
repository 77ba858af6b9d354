"""What devices and members did in the last day: a mean of each span of time, in bounded memory.

Owns    two tiers of spans (20 s for an hour, 5 min for a day) of each device and each member heard of.
Why     a curve needs more than the newest minute, and every reading of a cluster for a day is a hundred times
        what memory has room for. Spans are means of the readings in them; what was not heard has no value,
        never a 0. It is in memory alone: a restart of the daemon begins anew. No money rests on it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from bursar.clock import SECOND_US

TIERS: Final = ((20 * SECOND_US, 180), (300 * SECOND_US, 288))
"""(length of a span, how many are kept), the finest first."""
EVERY_US: Final = 10 * SECOND_US
"""One reading of a node in so long is taken: its summaries and counters are of ten seconds."""
SERIES_MAX: Final = 4_096
"""Devices, and members, that are kept; a new one takes the place of the one that was silent longest."""
SILENT_US: Final = 120 * SECOND_US
"""Who is heard of more often than this keeps its place: a table in which each new one puts out the next to be
heard would keep nothing of anybody."""
DEVICE: Final = ("utilization_ratio", "sm_ratio", "tensor_ratio", "memory_used_bytes", "power_watts")
MEMBER: Final = ("cpu_cores", "memory_used_bytes", "sm_ratio", "gpu_memory_used_bytes")
_UNHEARD: Final = float("nan")


class Value(NamedTuple):
    """Means of one span. at: its begin. values: in the order of the names; None where nothing was heard."""

    at: int
    values: tuple[float | None, ...]


class _Tier:
    """A ring of spans."""

    __slots__ = ("_begins", "_counts", "_newest", "_step", "_sums", "_values", "_width")

    def __init__(self, step_us: int, kept: int, width: int) -> None:
        self._step, self._width = step_us, width
        self._begins = array("q", [-1]) * kept
        self._newest = -1
        self._values = array("f", [_UNHEARD]) * (kept * width)
        self._sums = [0.0] * width
        self._counts = [0] * width

    def add(self, at: int, values: Sequence[float | None]) -> None:
        """One reading. One of a span before the newest stands alone in it, and changes none that was made."""
        begin = at - at % self._step
        slot = begin // self._step % len(self._begins)
        if begin != self._newest:
            if self._begins[slot] >= begin:
                return
            self._begins[slot] = begin
            if begin < self._newest:
                for number, value in enumerate(values):
                    self._values[slot * self._width + number] = _UNHEARD if value is None else value
                return
            self._newest = begin
            self._sums, self._counts = [0.0] * self._width, [0] * self._width
        place = slot * self._width
        for number, value in enumerate(values):
            if value is not None:
                self._sums[number] += value
                self._counts[number] += 1
            counted = self._counts[number]
            self._values[place + number] = self._sums[number] / counted if counted else _UNHEARD

    def read(self, since: int, until: int) -> list[Value]:
        """Its spans that begin in this time and are still kept, oldest first."""
        found = sorted(
            (begin, slot) for slot, begin in enumerate(self._begins) if since <= begin < until and begin >= 0
        )
        return [Value(begin, tuple(self._of(slot))) for begin, slot in found]

    def _of(self, slot: int) -> Iterator[float | None]:
        place = slot * self._width
        for value in self._values[place : place + self._width]:
            yield None if value != value else value


class _Series:
    """All tiers of one thing."""

    __slots__ = ("heard_at", "tiers")

    def __init__(self, width: int) -> None:
        self.heard_at = 0
        self.tiers = tuple(_Tier(step_us, kept, width) for step_us, kept in TIERS)


class History:
    """Of a whole cluster. Readings are opaque samples of the wire, cut to what their node can have."""

    def __init__(self, series_max: int = SERIES_MAX) -> None:
        self._max = series_max
        self._taken: dict[str, int] = {}
        self._devices: dict[tuple[str, int], _Series] = {}
        self._members: dict[tuple[str, int], _Series] = {}

    def take(self, node: str, sample: Any) -> None:
        """One reading of a node, if the last that was taken is long enough ago."""
        at = sample.at
        if 0 <= at - self._taken.get(node, -EVERY_US) < EVERY_US:
            return
        self._taken.pop(node, None)
        if len(self._taken) >= self._max:
            del self._taken[next(iter(self._taken))]
        self._taken[node] = at
        for gpu in sample.gpus:
            self._add(self._devices, (node, gpu.index), len(DEVICE), at, _device(gpu))
        for one in sample.attempts:
            self._add(self._members, (one.attempt_id, one.rank), len(MEMBER), at, _member(one))

    def _add(
        self,
        kept: dict[tuple[str, int], _Series],
        key: tuple[str, int],
        width: int,
        at: int,
        values: Sequence[float | None],
    ) -> None:
        # What was just heard of is the last of the table, so that the first is who was silent longest.
        series = kept.pop(key, None)
        if series is None:
            if len(kept) >= self._max:
                silent = next(iter(kept))
                if 0 <= at - kept[silent].heard_at < SILENT_US:
                    return
                del kept[silent]
            series = _Series(width)
        kept[key] = series
        series.heard_at = at
        for tier in series.tiers:
            tier.add(at, values)

    def device(self, node: str, index: int, tier: int, since: int, until: int) -> list[Value]:
        """What a device did, by `DEVICE`."""
        series = self._devices.get((node, index))
        return series.tiers[tier].read(since, until) if series is not None else []

    def member(self, attempt_id: str, rank: int, tier: int, since: int, until: int) -> list[Value]:
        """What a member of an attempt took, by `MEMBER`."""
        series = self._members.get((attempt_id, rank))
        return series.tiers[tier].read(since, until) if series is not None else []


def tier_for(since: int, now: int) -> int:
    """The finest tier that reaches back so far; the coarsest where none does."""
    for number, (step_us, kept) in enumerate(TIERS):
        if now - since <= step_us * (kept - 1):
            return number
    return len(TIERS) - 1


def _device(gpu: Any) -> tuple[float | None, ...]:
    """Of the last ten seconds where that is summed up, else of this second."""
    summary = gpu.summary if gpu.HasField("summary") else None
    found: list[float | None] = []
    for name in DEVICE:
        if summary is not None and name in _SUMMED and summary.HasField(name):
            found.append(getattr(summary, name).mean)
        else:
            found.append(float(getattr(gpu, name)) if gpu.HasField(name) else None)
    return tuple(found)


def _member(one: Any) -> tuple[float | None, ...]:
    """Its own processes alone, also where its devices are shared."""
    own = [
        float(getattr(one, name)) if one.HasField(name) else None
        for name in ("gpu_sm_ratio", "gpu_memory_used_bytes")
    ]
    return (one.cpu_utilization_ratio, float(one.memory_used_bytes), *own)


_SUMMED: Final = frozenset({"utilization_ratio", "memory_used_bytes", "power_watts"})
