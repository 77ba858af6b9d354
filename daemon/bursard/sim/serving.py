"""`bursar sim --service`: a service under a load, scaled by the daemon's own function. PURE but for reading.

Why     how many replicas a load takes, what they cost and who waits is worth knowing before any of them runs;
        and the same function decides here and in the daemon, so both decide alike (a test compares them).
Limits  requests are a stream, not one by one: in each second so many come, and a replica does `target` of
        them at once, no more and none slower; what is too much waits in line. A replica is ready `cold_start`
        after it was asked for, and none fails. What is in hand of one that goes is done first.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import msgspec

from bursar.clock import HOUR_US, SECOND_US
from bursar.errors import InvalidRequest
from bursar.model import ServiceSpec
from bursar.money import format_nanos
from bursard.serving.autoscale import Memory, Sample, Seen, Standing, scale
from bursard.sim.csvfile import BadCell, Table, number

SECONDS_MAX: Final = 7 * 86_400
RATE_MAX: Final = 1_000_000
COLUMNS: Final = ("from_s", "requests_per_s", "seconds")
CHANGES_SHOWN: Final = 1_000
MILLI: Final = 1_000


class Load(msgspec.Struct, frozen=True):
    """From a second on: thousandths of requests that come each second, and milliseconds that each takes."""

    from_s: int
    milli: int
    each_ms: int


class Served(msgspec.Struct, kw_only=True):
    """What became of a load. Amounts are nanos.

    Attributes:
        replica_s: seconds of replicas that were paid for. changed: how often another number was wanted.
        changes: the first of these: (second, replicas wanted, why).
        waits_s: by how many seconds, thousandths of requests that waited so long.
    """

    seconds: int = 0
    requests_milli: int = 0
    replica_s: int = 0
    ready_s: int = 0
    busy_milli_s: int = 0
    most: int = 0
    changed: int = 0
    changes: list[tuple[int, int, str]] = []
    waits_s: dict[int, int] = {}
    left_milli: int = 0

    def cost(self, rate: int) -> int:
        """At so many nanos an hour for a replica."""
        return self.replica_s * rate // 3_600

    def wait_s(self, percent: int) -> int:
        """So many of all requests waited no longer, in whole seconds."""
        seen, want = 0, self.requests_milli * percent
        for wait, many in sorted(self.waits_s.items()):
            seen += many
            if seen * 100 >= want:
                return wait
        return max(self.waits_s, default=0)


Rule = Callable[[int, int, list["Replica"], int, int], tuple[int, list["Replica"], str]]
"""Called each second with (second, requests in hand in thousandths over it, replicas, thousandths that wait,
second of the last request): how many there are to be, which of those that are ready go, and why.
"""


class Replica:
    """One of them: since when it is paid for, and from when on it answers; `leaves`: 0: it stays."""

    __slots__ = ("leaves", "name", "ready", "since")

    def __init__(self, name: str, since: int, ready: int) -> None:
        self.name, self.since, self.ready, self.leaves = name, since, ready, 0


def read_load(path: str) -> list[Load]:
    """Raises `InvalidRequest` with every fault."""
    table, found = Table(path, COLUMNS, ("from_s", "requests_per_s")), list[Load]()
    for _ in table.rows():
        second = table.require("from_s", 0, lambda text: _whole(text, SECONDS_MAX))
        milli = table.require("requests_per_s", 0, lambda text: _thousandths(text, RATE_MAX))
        each = table.cell("seconds", MILLI, lambda text: _thousandths(text, 3_600))
        if found and second <= found[-1].from_s:
            table.wrong("from_s", "is not after the row before")
        found.append(Load(second, milli, max(each, 1)))
    table.finish()
    if len(found) < 2:
        raise InvalidRequest(f"{table.name}: needs a row more: the last one says where the load ends")
    return found


def _whole(text: str, most: int) -> int:
    value = number(text)
    if value % 1 or not 0 <= value <= most:
        raise BadCell(f"is {text[:40]}; whole seconds from 0 to {most}")
    return int(value)


def _thousandths(text: str, most: int) -> int:
    value = number(text)
    if not 0 <= value <= most:
        raise BadCell(f"is {text[:40]}; 0 to {most}")
    return int((value * MILLI).to_integral_value())


def by_autoscaler(service: ServiceSpec, cold_s: int, rate: int) -> Rule:
    """The daemon's own: what it is told each second is what gateways and agents would tell."""
    memory = Memory(target=service.replicas_min)
    samples = deque[Sample](maxlen=service.window_us // SECOND_US + 2)

    def decide(
        second: int, busy_milli: int, replicas: list[Replica], waiting: int, asked_at: int
    ) -> tuple[int, list[Replica], str]:
        nonlocal memory
        now = (second + 1) * SECOND_US
        samples.append(Sample(now, SECOND_US, busy_milli * (SECOND_US // MILLI)))
        standing = [
            Standing(attempt_id=one.name, ready=one.ready <= second, leaving=one.leaves > 0, rate=rate)
            for one in replicas
        ]
        seen = Seen(
            now=now, replicas=standing, samples=samples, asked_at=asked_at and (asked_at + 1) * SECOND_US,
            waiting=-(-waiting // MILLI), cold_us=cold_s * SECOND_US,
        )  # fmt: skip
        scaled, memory = scale(service, seen, memory)
        names = set(scaled.drain)
        return scaled.places, [one for one in replicas if one.name in names], scaled.why

    return decide


def by_concurrency(service: ServiceSpec) -> Rule:
    """What is in hand now over the target, no window and no delay: never none."""

    def decide(
        second: int, busy_milli: int, replicas: list[Replica], waiting: int, asked_at: int
    ) -> tuple[int, list[Replica], str]:
        wanted = -(-busy_milli // (service.target * MILLI))
        wanted = min(max(wanted, service.replicas_min, 1), service.replicas_max)
        ready = [one for one in replicas if one.ready <= second and not one.leaves]
        live = sum(not one.leaves for one in replicas)
        return wanted, ready[: max(live - wanted, 0)], "in hand now"

    return decide


def fixed(many: int) -> Rule:
    """Always so many."""
    return lambda second, busy, replicas, waiting, asked: (many, [], "fixed")


def peak(service: ServiceSpec, loads: Sequence[Load]) -> int:
    """How many replicas the most of a load takes, as whoever knew it would choose them."""
    most = max((Fraction(one.milli * one.each_ms, MILLI * MILLI) for one in loads[:-1]), default=Fraction())
    return min(max(math.ceil(most / service.target), 1), service.replicas_max)


def serve(service: ServiceSpec, loads: Sequence[Load], cold_s: int, rule: Rule, first: int = 0) -> Served:
    """Second by second until the load ends. `first`: replicas that are ready when it begins."""
    found, line = Served(), deque[tuple[int, int, int]]()
    replicas = [Replica(f"r{n}", 0, 0) for n in range(first)]
    made, asked_at, wanted, place = first, 0, first, 0
    for second in range(loads[0].from_s, loads[-1].from_s):
        if second >= loads[place + 1].from_s:
            place += 1
        load = loads[place]
        if load.milli:
            line.append((second, load.milli, load.each_ms))
            found.requests_milli += load.milli
            asked_at = second
        ready = sum(one.ready <= second and not one.leaves for one in replicas)
        served = _work(line, ready * service.target * MILLI, second, found)
        left = sum(milli for _, milli, _ in line)
        if left:
            asked_at = second
        found.busy_milli_s += served
        found.replica_s += len(replicas)
        found.ready_s += ready
        found.most = max(found.most, len(replicas))
        places, going, why = rule(second, served + left, replicas, left, asked_at)
        for one in going:
            # It does first what it has in hand.
            one.leaves = second + 1 + -(-load.each_ms // MILLI)
        for _ in range(places - sum(not one.leaves for one in replicas)):
            replicas.append(Replica(f"r{made}", second + 1, second + 1 + cold_s))
            made += 1
        replicas = [one for one in replicas if not one.leaves or one.leaves > second + 1]
        found.changed += places != wanted
        if places != wanted and len(found.changes) < CHANGES_SHOWN:
            found.changes.append((second, places, why))
        wanted = places
    found.seconds = loads[-1].from_s - loads[0].from_s
    found.left_milli = sum(milli for _, milli, _ in line)
    return found


def _work(line: deque[tuple[int, int, int]], room: int, second: int, found: Served) -> int:
    """Take of the line what there is room for in this second, the first first; returns how much of it was
    used, in thousandths of a place.
    """
    used = 0
    while line and used < room:
        came, milli, each_ms = line[0]
        # A request takes `each_ms` thousandths of a place for a second.
        fits = min((room - used) * MILLI // each_ms, milli)
        if not fits:
            break
        used += -(-fits * each_ms // MILLI)
        found.waits_s[second - came] = found.waits_s.get(second - came, 0) + fits
        if fits == milli:
            line.popleft()
        else:
            line[0] = came, milli - fits, each_ms
            break
    return used


def told(
    service: ServiceSpec, loads: Sequence[Load], cold_s: int, rate: int, currency: str
) -> dict[str, Any]:
    """The daemon's rule beside as many as the most of the load takes, and what is in hand now."""
    ours = by_autoscaler(service, cold_s, rate)
    rules = {
        "autoscaler": serve(service, loads, cold_s, ours, service.replicas_min),
        "fixed": serve(service, loads, cold_s, fixed(peak(service, loads)), peak(service, loads)),
        "concurrency": serve(service, loads, cold_s, by_concurrency(service), max(service.replicas_min, 1)),
    }
    rows = {name: _row(one, rate, currency) for name, one in rules.items()}
    changes = [list(one) for one in rules["autoscaler"].changes]
    return {"service": {"rules": rows, "changes": changes}}


def _row(one: Served, rate: int, currency: str) -> dict[str, object]:
    cost, requests = one.cost(rate), one.requests_milli // MILLI
    return {
        "cost": f"{format_nanos(cost)} {currency}",
        "cost_per_request": f"{format_nanos(cost * MILLI // one.requests_milli)} {currency}"
        if one.requests_milli
        else None,
        "requests": requests,
        "unanswered": one.left_milli // MILLI,
        "replica_hours": round(one.replica_s * SECOND_US / HOUR_US, 3),
        "most_replicas": one.most,
        "changes": one.changed,
        "wait_p50_s": one.wait_s(50),
        "wait_p95_s": one.wait_s(95),
        "wait_p99_s": one.wait_s(99),
        "wait_max_s": max(one.waits_s, default=0),
    }


def price_of(text: str) -> tuple[int, str]:
    """`2.50 USD/h` in nanos, and the currency. Raises `InvalidRequest`."""
    amount, _, currency = text.strip().removesuffix("/h").strip().partition(" ")
    try:
        value = Decimal(amount)
    except ArithmeticError:
        value = Decimal(-1)
    if (
        not value.is_finite()
        or not 0 <= value <= 10**6
        or len(currency) != 3
        or not currency.isalpha()
        or not currency.isupper()
    ):
        raise InvalidRequest(f"--price: {text[:40]!r} is no price of a replica, such as 2.50 USD/h")
    return int(value * 10**9), currency


def table(found: dict[str, Any]) -> str:
    """For people."""
    rows = found["service"]["rules"]
    heads = ("rule", "cost", "replica hours", "most", "changes", "wait p50", "p95", "p99", "longest", "left")
    lines = [heads] + [
        (
            name, str(row["cost"]), str(row["replica_hours"]), str(row["most_replicas"]), str(row["changes"]),
            *(f"{row[key]} s" for key in ("wait_p50_s", "wait_p95_s", "wait_p99_s", "wait_max_s")),
            str(row["unanswered"]),
        )
        for name, row in rows.items()
    ]  # fmt: skip
    widths = [max(len(line[at]) for line in lines) for at in range(len(heads))]
    return "\n".join(_padded(line, widths) for line in lines)


def _padded(line: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
    return "  ".join([line[0].ljust(widths[0]), *cells[1:]])
