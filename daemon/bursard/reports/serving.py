"""What services cost, divided among the keys that asked them.

Why     requests make no money: replicas are charged as any attempt, and what they were charged in a minute is
        for those who had something in hand then, and for the service as far as nobody had. Each part is an
        integer, and all parts of a minute are that minute's charge: whatever a gateway says, no nano is
        made or lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from bursar.clock import HOUR_US
from bursar.errors import InvalidRequest
from bursard.events import KeyUse, ServiceMetered, decode
from bursard.ledger import PAID
from bursard.reports.cost import CostRow, CostTable, Use
from bursard.reports.replicas import Amounts, Room, split
from bursard.store import ChargeFilter, ChargeRow, EventFilter, Unposted, Views

IDLE: Final = "idle"
SERVICE: Final = ("service", "key")
WEIGHTS: Final = (10, 40, 1)
"""What a token that is read, one that is written, and one that was cached weigh beside each other."""
_COUNTS: Final = ("requests", "failed", "tokens_in", "tokens_out", "tokens_cached", "counted", "estimated")
_PAGE: Final = 1_000
_AHEAD_US: Final = 300_000_000
"""So far a gateway's clock may be ahead of the time at which the daemon wrote down what it told; and more."""
_PARTS: Final = ("nanos", "gpu", "cpu", "memory", "gpu_milli_us", "cpu_milli_us", "held_us", "unknown_us")


class Minute(NamedTuple):
    """One minute of one service at all gateways."""

    busy_us: int
    capacity_us: int
    uses: dict[str, KeyUse]


def weights_of(uses: Sequence[KeyUse]) -> list[int]:
    """How much of a minute's work was for each key: its tokens; where nothing counts any, its requests.

    Requests whose answers said nothing took as much as the others did in the mean: one measure for all.
    """
    tokens = list(map(_tokens, uses))
    told = sum(use.counted for use, weight in zip(uses, tokens, strict=True) if weight)
    if not told:
        return [weight or use.requests for use, weight in zip(uses, tokens, strict=True)]
    mean = sum(tokens) // told
    return [
        weight or (use.estimated * mean if use.estimated else use.requests)
        for use, weight in zip(uses, tokens, strict=True)
    ]


def _tokens(use: KeyUse) -> int:
    read = max(use.tokens_in - use.tokens_cached, 0)
    return WEIGHTS[0] * read + WEIGHTS[1] * use.tokens_out + WEIGHTS[2] * use.tokens_cached


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """A total in parts as their weights are: the largest remainders get what is left over."""
    whole = sum(weights)
    if not whole:
        raise ValueError("nothing weighs anything")
    sign, total = (-1, -total) if total < 0 else (1, total)
    parts = [total * weight // whole for weight in weights]
    order = sorted(range(len(weights)), key=lambda at: (-(total * weights[at] % whole), at))
    for at in order[: total - sum(parts)]:
        parts[at] += 1
    return [sign * part for part in parts]


def of_minute(amounts: Amounts, minute: Minute | None) -> Iterator[tuple[str, Amounts]]:
    """What was charged in a minute, by key, and idle; together exactly that."""
    if minute is None or not minute.uses or not minute.busy_us:
        yield IDLE, amounts
        return
    capacity_us = max(minute.capacity_us, minute.busy_us)
    weights = weights_of(list(minute.uses.values()))
    if not any(weights):
        weights = [use.busy_us for use in minute.uses.values()]
    if not any(weights):
        yield IDLE, amounts
        return
    busy = [shares(one, (minute.busy_us, capacity_us - minute.busy_us))[0] for one in amounts]
    divided = [shares(one, weights) for one in busy]
    for at, key in enumerate(minute.uses):
        yield key, tuple(part[at] for part in divided)
    yield IDLE, tuple(whole - part for whole, part in zip(amounts, busy, strict=True))


def by_minute(row: ChargeRow) -> Iterator[tuple[int, Amounts]]:
    """A charge, minute by minute: its price was one all along, so its time is what divides it. A correction
    is divided as what it corrects, and what it takes back takes back each part of that to the nano.
    """
    return split(row.used_from, row.used_until, _amounts(row))


def _amounts(row: ChargeRow) -> Amounts:
    unknown_us = 0 if row.price_id else row.held_us
    return (
        row.nanos, row.gpu, row.cpu, row.memory, row.gpu_milli * row.held_us, row.cpu_milli * row.held_us,
        row.held_us, unknown_us,
    )  # fmt: skip


def minutes_of(events: Iterable[ServiceMetered]) -> dict[int, Minute]:
    """What gateways told of one service, by minute: that of several together."""
    found: dict[int, Minute] = {}
    for event in events:
        before = found.get(event.minute, Minute(0, 0, {}))
        uses = dict(before.uses)
        for use in event.uses:
            known = uses.get(use.key_id)
            uses[use.key_id] = use if known is None else _sum(known, use)
        busy_us = before.busy_us + event.busy_us
        found[event.minute] = Minute(busy_us, before.capacity_us + event.capacity_us, uses)
    return found


def _sum(one: KeyUse, other: KeyUse) -> KeyUse:
    names = KeyUse.__struct_fields__[1:]
    return KeyUse(one.key_id, *(getattr(one, name) + getattr(other, name) for name in names))


def service_table(
    views: Views,
    by: Sequence[str],
    query: ChargeFilter,
    unposted: Unposted,
    name_of: Callable[[str], str],
    target_of: Callable[[str], int] = lambda _: 0,
) -> CostTable:
    """Cost by service, or by service and key. What is of no service is one row, so that all ties with the
    same question asked otherwise.

    Args:
        name_of: of a job, the name of the service that it is; empty for any other.
        target_of: of a service, requests that one replica takes now; 0: not known, and gateways are believed.

    Raises `InvalidRequest` for any other dimension beside these.
    """
    if tuple(by) not in (SERVICE[:1], SERVICE):
        raise InvalidRequest("by: a service is divided among its keys alone: by service, or by service,key")
    told: dict[str, _Told] = {}
    names: dict[str, str] = {}
    rows: dict[tuple[str, ...], CostRow] = {}
    jobs: dict[tuple[str, ...], set[str]] = {}
    for charge in views.charges(query, unposted):
        job_id = charge.job_id.partition(".")[0]
        if job_id not in names:
            names[job_id] = name_of(job_id) if job_id else ""
        if names[job_id] and job_id not in told:
            room = Room(views, job_id, target_of(job_id), unposted)
            told[job_id] = _Told(views, job_id, query.since, room, charge.job_number)
        for key, amounts in _divided(charge, told.get(job_id)):
            keys = (names[job_id], key)[: len(by)]
            row = rows.setdefault(keys, CostRow(keys))
            _add(row, amounts)
            if names[job_id]:
                row.use = row.use or Use()
                row.use.idle += amounts[0] if key == IDLE else 0
            jobs.setdefault(keys, set()).add(job_id)
    for job_id, minutes in told.items():
        _use(rows, names[job_id], minutes.minutes, by, query)
    total = CostRow(())
    for keys, row in rows.items():
        row.jobs = len(jobs.get(keys, {""}) - {""})
        total.add(row)
    total.jobs = len(set().union(*jobs.values()) - {""}) if jobs else 0
    return CostTable(tuple(by), tuple(row for _, row in sorted(rows.items())), total)


def keys_by_hour(
    views: Views, job_id: str, number: int, target: int, since: int, unposted: Unposted
) -> dict[str, dict[int, int]]:
    """What each key was charged of one service, in nanos, by the hour in which that was booked: as
    `service_table` says it of each of these hours. Idle time is not among it.

    Args:
        number: of the job. target: as `target_of` tells it. since: the beginning of an hour.
    """
    told = _Told(views, job_id, since, Room(views, job_id, target, unposted), number)
    found: dict[str, dict[int, int]] = {}
    query = ChargeFilter(since=since, kinds=PAID, job_number=number)
    for charge in views.charges(query, unposted):
        if charge.job_id.partition(".")[0] != job_id:
            continue
        hour = charge.start_at - charge.start_at % HOUR_US
        for key, amounts in _divided(charge, told):
            if key not in (IDLE, ""):
                hours = found.setdefault(key, {})
                hours[hour] = hours.get(hour, 0) + amounts[0]
    return found


class _Told:
    """What gateways told of one service since a time, and of all before it once a correction is of that."""

    def __init__(self, views: Views, job_id: str, since: int, room: Room, number: int) -> None:
        self._views, self._job_id, self._room, self._number = views, job_id, room, number
        self._read(since)

    def of(self, charge: ChargeRow) -> Mapping[int, Minute]:
        """The minutes that a charge is of are among these."""
        if self._since and charge.used_from < self._since:
            self._read(0)
        return self.minutes

    def _read(self, since: int) -> None:
        self._since = since
        told = minutes_of(_events(self._views, self._job_id, since))
        room = self._room.of(told, self._number, since)
        self.minutes = {
            at: minute._replace(capacity_us=room.get(at, minute.capacity_us)) for at, minute in told.items()
        }


def _divided(charge: ChargeRow, told: _Told | None) -> Iterator[tuple[str, Amounts]]:
    if told is None:
        yield "", _amounts(charge)
        return
    minutes = told.of(charge)
    for at, amounts in by_minute(charge):
        yield from of_minute(amounts, minutes.get(at))


def _use(
    rows: dict[tuple[str, ...], CostRow],
    name: str,
    minutes: Mapping[int, Minute],
    by: Sequence[str],
    query: ChargeFilter,
) -> None:
    """What was asked in the time that a question is of, beside what it cost."""
    for at, minute in minutes.items():
        if at < query.since or (query.until and at >= query.until):
            continue
        for key, used in minute.uses.items():
            keys = (name, key)[: len(by)]
            row = rows.setdefault(keys, CostRow(keys))
            row.use = row.use or Use()
            for field in _COUNTS:
                setattr(row.use, field, getattr(row.use, field) + getattr(used, field))


def _events(views: Views, job_id: str, since: int) -> Iterator[ServiceMetered]:
    """All that were recorded since: a gateway that was cut off tells its minutes whenever it is back."""
    after = views.last_seq_before(since - _AHEAD_US) if since > _AHEAD_US else 0
    asked = EventFilter(kinds=("service-metered",), about=job_id)
    while rows := views.events(after, _PAGE, asked):
        for row in rows:
            event = decode(row.payload)
            if isinstance(event, ServiceMetered):
                yield event
        after = rows[-1].seq
        if len(rows) < _PAGE:
            return


def _add(row: CostRow, amounts: Amounts) -> None:
    for name, amount in zip(_PARTS, amounts, strict=True):
        setattr(row, name, getattr(row, name) + amount)
