"""What `Cost` is asked for, read; and what it answers.

Why     which stretch of time a question is about, and what it is compared with, is decided in one place: all
        clients that name `last-month` of a zone mean the same instants.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec

from bursar.clock import DAY_US, HOUR_US
from bursar.codec.amounts import put_amounts, saturated
from bursar.errors import InvalidRequest
from bursar.resources import MILLI
from bursar.v1 import money_pb2 as pb
from bursar.v1 import types_pb2
from bursard.reports.cost import CostRow, CostTable, Shape, Use, ppm
from bursard.reports.period import Period, find_period, find_zone
from bursard.reports.serving import SERVICE
from bursard.reports.zones import offsets_of
from bursard.store import Views

_ANCIENT_US = 365 * DAY_US
"""Nothing was charged before: from where the clocks of a zone are looked at when no time is named."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A question that holds together. `stretch.text`: empty where no period was named."""

    stretch: Period
    before: Period | None
    shape: Shape


def read_cost(request: pb.CostRequest, now: int) -> Asked:
    """Raises `InvalidRequest` for times, zones and comparisons that cannot be."""
    zone = find_zone(request.timezone)
    if request.period and (request.since or request.until):
        raise InvalidRequest("period: name a period, or since and until: one of them")
    if request.until and request.until <= request.since:
        raise InvalidRequest("until: must be after since")
    if request.period:
        stretch = find_period(request.period, now, zone.key)
    else:
        stretch = Period("", request.since, request.until, zone.key)
    if set(request.by) & set(SERVICE):
        stretch = _whole_hours(stretch)
    before = _before(request.compare, stretch)
    first = before.since if before is not None else stretch.since
    last = stretch.until or now + DAY_US
    offsets = offsets_of(zone, max(first, _ANCIENT_US), last)
    shape = Shape(depth=request.depth, top=request.top, offsets=offsets, zone=zone)
    return Asked(stretch=stretch, before=before, shape=shape)


def _whole_hours(stretch: Period) -> Period:
    """What is asked is counted by the minute, and what that cost is charged by the hour of UTC: both are told
    of whole hours, those that a time begins and ends in among them.
    """
    since, until = stretch.since - stretch.since % HOUR_US, -(-stretch.until // HOUR_US) * HOUR_US
    if stretch.text and (since, until) != (stretch.since, stretch.until):
        raise InvalidRequest(
            f"timezone: what services cost is told of whole hours of UTC, and {stretch.text} of"
            f" {stretch.timezone} begins or ends inside one; ask without a timezone, or with since and until"
        )
    return Period(stretch.text, since, until, stretch.timezone)


def _before(compare: str, stretch: Period) -> Period | None:
    """The period before, or a time as long as the one that was named."""
    if not compare:
        return None
    if compare != "previous":
        raise InvalidRequest(f"compare: {compare[:40]!r} is nothing to compare with; known: previous")
    if stretch.text:
        return stretch.before
    length = stretch.until - stretch.since
    if not stretch.since or not stretch.until or length > stretch.since:
        raise InvalidRequest("compare: name a period, or since and until, for there to be one before")
    return Period("", stretch.since - length, stretch.since, stretch.timezone)


def called(views: Views, ids: Iterable[str], live: Mapping[str, str]) -> dict[str, str]:
    """What people call jobs: number and name. `live`: of those in memory; of others the books know it."""
    found = dict(live)
    for job_id in ids:
        if job_id not in found and (row := views.find_job(job_id)) is not None:
            number = f"{row.number}[{row.array_index}]" if row.parent_id else str(row.number)
            found[job_id] = f"{number} {row.name}".rstrip()
    return found


def cost_answer(
    found: CostTable,
    asked: Asked,
    currency: str,
    names: Mapping[str, str] = MappingProxyType({}),
    at: int = 0,
) -> pb.CostResponse:
    """Rows and total on the wire, with the time that they are of. `names`: of the jobs whose ids stand `at` a
    place of the rows' keys.
    """
    stretch, before = asked.stretch, asked.before
    return pb.CostResponse(
        rows=[
            _row(row, found.total, before is not None, names.get(str(row.keys[at]), "") if names else "")
            for row in found.rows
        ],
        total=_row(found.total, found.total, before is not None),
        currency=currency,
        since=stretch.since,
        until=stretch.until,
        period=stretch.text,
        timezone=stretch.timezone,
        before_since=before.since if before is not None else 0,
        before_until=before.until if before is not None else 0,
        before_period=before.text if before is not None else "",
    )


def _row(row: CostRow, total: CostRow, compared: bool, name: str = "") -> pb.CostRow:
    wire = pb.CostRow(
        keys=list(row.keys),
        held_us=saturated(row.held_us),
        jobs=row.jobs,
        unknown_us=saturated(row.unknown_us),
        gpu_us=saturated(row.gpu_milli_us // MILLI),
        cpu_us=saturated(row.cpu_milli_us // MILLI),
        others=row.others,
        called=name,
        share_ppm=_held(ppm(row.nanos, total.nanos)),
    )
    put_amounts(wire, nanos=row.nanos, gpu_nanos=row.gpu, cpu_nanos=row.cpu, memory_nanos=row.memory)
    if row.use is not None:
        wire.use.CopyFrom(use_view(row.use))
    if compared:
        put_amounts(wire, before_nanos=row.before)
        change = _held(ppm(row.nanos - row.before, row.before))
        if change is not None:
            wire.change_ppm = change
    return wire


def use_view(use: Use) -> types_pb2.ServiceUse:
    """What was asked of a service, on the wire."""
    return types_pb2.ServiceUse(
        requests=use.requests,
        failed=use.failed,
        tokens_in=saturated(use.tokens_in),
        tokens_out=saturated(use.tokens_out),
        tokens_cached=saturated(use.tokens_cached),
        counted=use.counted,
        estimated=use.estimated,
        idle=types_pb2.Amount(nanos=str(use.idle)),
    )


def _held(value: int | None) -> int | None:
    return None if value is None else saturated(value)
