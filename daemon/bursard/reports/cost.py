"""Cost by any dimensions, with a total that is the sum of its rows to the nano.

Why     one query gives the rows, the number of jobs and the total, so they cannot disagree. Time without
        a known price is counted beside the amount, never as 0 of it. What is cut off (deep projects, small
        rows) is folded here and not by who shows it, so that a table, a program and a file say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from bursar.clock import SECOND_US, format_instant
from bursar.errors import InvalidRequest
from bursar_policies.attribution import OWNED, Attributions
from bursard.reports.attribution import attributed_sums
from bursard.store import ChargeFilter, ChargeSum, Dim, Offsets, Unposted, Views
from bursard.store.base import check_dims

OTHERS: Final = "others"
PPM: Final = 1_000_000


class Use(msgspec.Struct):
    """What was asked of a service, and how many nanos of its cost were for nobody."""

    requests: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    counted: int = 0
    estimated: int = 0
    idle: int = 0


class CostRow(msgspec.Struct):
    """Charges of one group.

    Attributes:
        keys: one text per dimension; empty where the work does not say (idle has no project).
        gpu_milli_us, cpu_milli_us: what jobs used, in thousandths of a GPU or CPU times microseconds.
        held_us: summed length of the charges. unknown_us: the part of it without a known price.
        jobs: different jobs; an array is one, however many of its tasks are among the charges. One of which
            nothing is left, since all was moved to another group, is none.
        before: nanos of the group in the period before. others: so many small groups in one; else 0.
        use: of services and their keys alone.
    """

    keys: tuple[str, ...]
    nanos: int = 0
    gpu: int = 0
    cpu: int = 0
    memory: int = 0
    gpu_milli_us: int = 0
    cpu_milli_us: int = 0
    held_us: int = 0
    unknown_us: int = 0
    jobs: int = 0
    before: int = 0
    others: int = 0
    use: Use | None = None

    def add(self, part: ChargeSum | CostRow) -> None:
        """Take more charges in; `jobs` is the caller's to count."""
        self.nanos += part.nanos
        self.gpu += part.gpu
        self.cpu += part.cpu
        self.memory += part.memory
        self.gpu_milli_us += part.gpu_milli_us
        self.cpu_milli_us += part.cpu_milli_us
        self.held_us += part.held_us
        self.unknown_us += part.unpriced_us if isinstance(part, ChargeSum) else part.unknown_us


class CostTable(msgspec.Struct, frozen=True):
    """Rows in order of their keys, or from the dearest where only the first are asked for; and their sum."""

    by: tuple[str, ...]
    rows: tuple[CostRow, ...]
    total: CostRow


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """How a table is folded.

    Attributes:
        depth: so many levels of a project; 0: all. top: so many of the dearest rows, the rest as one; 0: all.
        offsets, zone: whose days and months.
    """

    depth: int = 0
    top: int = 0
    offsets: Offsets = ()
    zone: ZoneInfo | None = None


def cost_table(
    views: Views,
    by: Sequence[str],
    query: ChargeFilter,
    unposted: Unposted,
    shape: Shape | None = None,
    before: ChargeFilter | None = None,
    tables: Attributions | None = None,
) -> CostTable:
    """Fold charges by dimensions, teams and cost centres among them. `before`: the charges that each row is
    compared with. `tables`: by which it is told whose these are.

    Raises `InvalidRequest` for a dimension there is none of, a depth without projects, and a comparison of
    times with other times.
    """
    check_dims(by, OWNED)
    shape = shape or Shape()
    if shape.depth and Dim.PROJECT not in by:
        raise InvalidRequest("depth: counts levels of projects; group by project too")
    if before is not None and (timed := [dim for dim in by if dim in _TIMES]):
        raise InvalidRequest(f"compare: a {timed[0]} is in one of two periods alone; group by something else")
    owned = not set(OWNED).isdisjoint(by)
    if Dim.HOUR in by and before is None and not (shape.depth or shape.top or owned):
        return _by_hour(views, by, query, unposted, shape)
    asked = [*by, Dim.JOB]

    def sums(of: ChargeFilter) -> list[ChargeSum]:
        if not owned:
            return views.charge_sums(asked, of, unposted, shape.offsets)
        told, moved = attributed_sums(views, asked, of, unposted, shape.offsets, tables or Attributions())
        return told + moved

    return fold(by, sums(query), shape, sums(before) if before is not None else ())


def _by_hour(
    views: Views, by: Sequence[str], query: ChargeFilter, unposted: Unposted, shape: Shape
) -> CostTable:
    """The same without a row for each job in each hour, of which a month has as many as charges: the store
    counts the jobs.
    """
    rows: list[CostRow] = []
    total = CostRow(())
    for part in views.charge_sums(by, query, unposted, shape.offsets, count_jobs=True):
        keys = tuple(_text(dim, key, shape) for dim, key in zip(by, part.keys, strict=True))
        row = CostRow(keys, jobs=part.jobs)
        row.add(part)
        total.add(part)
        rows.append(row)
    total.jobs = sum(part.jobs for part in views.charge_sums([], query, unposted, count_jobs=True))
    return CostTable(tuple(by), tuple(rows), total)


_TIMES = (Dim.HOUR, Dim.DAY, Dim.MONTH)
Keys = tuple[str | int, ...]


class _Group(msgspec.Struct):
    """`jobs`: of each, whatever it comes to in the group: nanos, time held, and that at no known price."""

    row: CostRow
    jobs: dict[str, _Net] = msgspec.field(default_factory=dict)

    def add(self, other: _Group) -> None:
        self.row.add(other.row)
        self.row.before += other.row.before
        for job, net in other.jobs.items():
            self.count(job, net)

    def count(self, job: str, net: _Net) -> None:
        nanos, held_us, unpriced_us = self.jobs.get(job, _NOTHING)
        self.jobs[job] = nanos + net[0], held_us + net[1], unpriced_us + net[2]


_Net = tuple[int, int, int]
_NOTHING: Final[_Net] = (0, 0, 0)


def nets_to_nothing(part: ChargeSum) -> bool:
    """Was all of it taken back again, as what a retag moves is?"""
    return _net(part) == _NOTHING


def _net(part: ChargeSum) -> _Net:
    return part.nanos, part.held_us, part.unpriced_us


def fold(
    by: Sequence[str],
    sums: Iterable[ChargeSum],
    shape: Shape | None = None,
    before: Iterable[ChargeSum] = (),
) -> CostTable:
    """Sums whose last key is the job or the task, folded over the jobs. A job in several parts counts once: a
    gang of several nodes, an array of several tasks. What cost something before alone has a row too.
    """
    shape = shape or Shape()
    shorten = _shortened(by, shape.depth)
    groups: dict[Keys, _Group] = {}
    total = _Group(CostRow(()))
    for part in sums:
        group = _group(groups, shorten(part.keys[:-1]))
        whole = str(part.keys[-1]).partition(".")[0]  # of the task of an array, the array
        for one in (group, total):
            one.row.add(part)
            if whole:
                one.count(whole, _net(part))
    for part in before:
        for one in (_group(groups, shorten(part.keys[:-1])), total):
            one.row.before += part.nanos
    for keys, group in groups.items():
        group.row.keys = tuple(_text(dim, key, shape) for dim, key in zip(by, keys, strict=True))
    found = [group for _, group in sorted(groups.items())]
    if shape.top and by:
        found = _topped(found, shape.top, len(by))
    for one in (*found, total):
        one.row.jobs = sum(net != _NOTHING for net in one.jobs.values())
    return CostTable(tuple(by), tuple(one.row for one in found) if by else (), total.row)


def _group(groups: dict[Keys, _Group], keys: Keys) -> _Group:
    if keys not in groups:
        groups[keys] = _Group(CostRow(()))
    return groups[keys]


def _shortened(by: Sequence[str], depth: int) -> Callable[[Keys], Keys]:
    if not depth:
        return lambda keys: keys
    at = by.index(Dim.PROJECT)

    def shorten(keys: Keys) -> Keys:
        project = "/".join(str(keys[at]).split("/")[:depth])
        return (*keys[:at], project, *keys[at + 1 :])

    return shorten


def _topped(groups: Sequence[_Group], top: int, width: int) -> list[_Group]:
    """The dearest, from the dearest on, and the others in one; those that cost the same by their keys."""
    ordered = sorted(groups, key=lambda group: (-group.row.nanos, -group.row.before))
    kept, rest = ordered[:top], ordered[top:]
    if rest:
        others = _Group(CostRow((OTHERS, *[""] * (width - 1)), others=len(rest)))
        for group in rest:
            others.add(group)
        kept.append(others)
    return kept


def ppm(part: int, whole: int) -> int | None:
    """So many millionths of a whole, to the nearest, halves away from 0; None of nothing."""
    if not whole:
        return None
    size = (abs(part) * PPM * 2 + abs(whole)) // (2 * abs(whole))
    return size if (part < 0) == (whole < 0) else -size


def _text(dim: str, key: str | int, shape: Shape) -> str:
    if dim == Dim.DAY and isinstance(key, int):
        return datetime.fromtimestamp(key // SECOND_US, UTC).strftime("%Y-%m-%d")
    if dim == Dim.HOUR and isinstance(key, int):
        if shape.zone is None or not shape.offsets:
            return format_instant(key)
        return datetime.fromtimestamp(key // SECOND_US, shape.zone).isoformat()
    return str(key)
