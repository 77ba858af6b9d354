"""Energy of GPUs and what it stands for in CO2e, by project, user, experiment, model, pool and month.

Why     a figure that leaves out what nobody measured looks better than one that does not. So beside each sum
        stands which part of it no counter told, for which part nobody says grams, and how many attempts held
        GPUs and told no energy in the period; none of these is a 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Final

import msgspec

from bursar.clock import format_instant
from bursar.errors import InvalidRequest
from bursar.resources import MILLI
from bursard.ledger import PAID
from bursard.reports.cost import ppm
from bursard.reports.pages import Cell, Column, Page
from bursard.reports.period import Period
from bursard.state.documents import decode
from bursard.state.records import AttemptRecord, JobRecord
from bursard.store import ChargeFilter, ChargeRow, Unposted, Views

KWH_MILLIJOULES: Final = 3_600_000_000
MEASURED: Final = "measured"
UNKNOWN: Final = "unknown"
_NANO: Final = 10**9
_BY: Final[Mapping[str, Callable[[ChargeRow], str]]] = {
    "project": lambda charge: charge.project,
    "user": lambda charge: charge.user,
    "experiment": lambda charge: charge.experiment,
    "model": lambda charge: charge.model,
    "model_version": lambda charge: charge.model_version,
    "pool": lambda charge: charge.pool,
    "month": lambda charge: format_instant(charge.start_at)[:7],
}
_COLUMNS: Final = (
    Column("gpu", "hours", drop=3),
    Column("attempts", "count", drop=2),
    Column("untold", "count"),
    Column("energy_kwh", "kwh"),
    Column("energy_joules", "joules", drop=5),
    Column("energy_cost", "money"),
    Column("not_measured", "percent"),
    Column("carbon_grams", "grams"),
    Column("without_carbon", "percent", drop=4),
    Column("without_cost", "percent", drop=4),
)

Member = tuple[str, int]
"""An attempt's id, and the rank."""
Sources = Mapping[Member, str]
"""Whence the energy of a member is known, as its end told it."""


class _Sum(msgspec.Struct):
    """One row in the making. `members`: by member, thousandths of GPUs times time, and millijoules."""

    gpu_milli_us: int = 0
    millijoules: int = 0
    not_measured: int = 0
    grams: int = 0
    without: int = 0
    nanos: int = 0
    unpriced: int = 0
    members: dict[Member, list[int]] = msgspec.field(default_factory=dict)

    def add(self, charge: ChargeRow, measured: bool, each: Fraction | None, price: Fraction | None) -> None:
        """Take a charge in. `each`: grams for a kWh. `price`: nanos for one."""
        held, energy = charge.gpu_milli * charge.held_us, charge.energy_millijoules
        self.gpu_milli_us += held
        member = self.members.setdefault((charge.attempt_id, charge.rank), [0, 0])
        member[0] += held
        member[1] += energy
        self.millijoules += energy
        self.not_measured += 0 if measured else energy
        if each is None:
            self.without += energy
        else:
            self.grams += int(each * energy * _NANO / KWH_MILLIJOULES)
        if price is None:
            self.unpriced += energy
        else:
            self.nanos += int(price * energy / KWH_MILLIJOULES)

    def attempts(self) -> tuple[int, int]:
        """How many held GPUs or told energy; and of how many a member held GPUs and told none."""
        known = {attempt for (attempt, _), (held, told) in self.members.items() if held > 0 or told > 0}
        silent = {attempt for (attempt, _), (held, told) in self.members.items() if held > 0 and not told}
        return len(known), len(silent)


class Sourced:
    """Whence energy is known: of what is in memory as it was copied (`live`), of the rest by its document."""

    def __init__(self, views: Views, live: Sources) -> None:
        self._views, self._live = views, live
        self._job, self._of_job = "", dict[Member, str]()

    def of(self, charge: ChargeRow) -> str:
        """measured: all of it, by counters; modelled, simulated; unknown: nobody knows it any more."""
        member = charge.attempt_id, charge.rank
        if member in self._live:
            return self._live[member] or UNKNOWN
        if charge.job_id != self._job:  # the charges of a job mostly stand beside each other
            row = self._views.find_job(charge.job_id)
            self._job = charge.job_id
            self._of_job = {} if row is None else sources_of(decode(row.document))
        return self._of_job.get(member) or UNKNOWN


def live_sources(jobs: Iterable[JobRecord]) -> Sources:
    """Whence the energy of members is known of what is in memory."""
    return {member: source for job in jobs for member, source in sources_of(job).items()}


def sources_of(job: JobRecord) -> dict[Member, str]:
    """Whence the energy of each member of a job that has ended is known."""
    return {member: source for attempt in job.attempts for member, source in _told(attempt)}


def _told(attempt: AttemptRecord) -> Iterable[tuple[Member, str]]:
    for rank, member in enumerate(attempt.members):
        if member.report is not None:
            yield (attempt.id, rank), member.report.gpu_energy_source


def read_energy_by(text: str) -> tuple[str, ...]:
    """What rows are by; empty: by project. Raises `InvalidRequest`."""
    names = tuple(name.strip() for name in text.split(",")) if text else ("project",)
    for name in names:
        if name not in _BY:
            raise InvalidRequest(f"by: {name[:40]!r} is not known; known: {', '.join(_BY)}")
    if len({*names}) != len(names):
        raise InvalidRequest("by: names one twice")
    return names


def energy(
    views: Views,
    period: Period,
    currency: str,
    unposted: Unposted,
    project: str,
    by: tuple[str, ...],
    live: Sources,
    carbon: Callable[[ChargeRow], Fraction | None],
    price: Callable[[ChargeRow], Fraction | None],
) -> Page:
    """What was told of energy in a period. Of a charge, `carbon`: grams of CO2e for a kWh; `price`: nanos."""
    query = ChargeFilter(since=period.since, until=period.until, project=project, kinds=PAID)
    sourced, whole = Sourced(views, live), _Sum()
    sums: dict[tuple[str, ...], _Sum] = {}
    for charge in views.charges(query, unposted):
        if not charge.gpu_milli and not charge.energy_millijoules:
            continue
        told = bool(charge.energy_millijoules)
        measured = not told or sourced.of(charge) == MEASURED
        each, nanos = (carbon(charge), price(charge)) if told else (None, None)
        row = sums.setdefault(tuple(_BY[name](charge) for name in by), _Sum())
        for one in (row, whole):
            one.add(charge, measured, each, nanos)
    rows: list[tuple[Cell, ...]] = []
    before = 0
    for names, row in sorted(sums.items(), key=lambda found: found[0]):
        rows.append((*names, *_cells(row, before)))
        before += row.millijoules
    return Page(
        kind="energy",
        period=period,
        currency=currency,
        project=project,
        columns=(*(Column(name, wrap=name != "month") for name in by), *_COLUMNS),
        rows=tuple(rows),
        total=("total", *("" for _ in by[1:]), *_cells(whole, 0)),
        notes=(
            "Energy is of GPUs, of a whole attempt, told when it ended: untold are the attempts that"
            " held GPUs and told none in the period: they run, ended after it, or nothing is known.",
            "Not measured: of devices without a counter or that do not exist, or of several that shared one.",
            "CO2e is of the energy for which somebody says what a kWh stands for, with the building's part"
            " where a cost model has one.",
            "What energy cost is by the tariff of the cost model in the hours in which it was used, with the"
            " building's part; of a machine of a cloud it is in the price. It is a part of what nodes cost.",
        ),
    )


def _cells(row: _Sum, before: int) -> tuple[Cell, ...]:
    """`before`: millijoules of the rows above; kWh are rounded so that they add up to the total."""
    attempts, untold = row.attempts()
    nothing_said = row.without == row.millijoules != 0
    if untold and not row.millijoules:  # nobody told any, which is not none
        return (row.gpu_milli_us // MILLI, attempts, untold, *(None,) * 7)
    return (
        row.gpu_milli_us // MILLI,
        attempts,
        untold,
        _kwh(before + row.millijoules) - _kwh(before),
        row.millijoules,
        None if row.unpriced == row.millijoules != 0 else row.nanos,
        ppm(row.not_measured, row.millijoules) if row.millijoules else None,
        None if nothing_said else row.grams,
        ppm(row.without, row.millijoules) if row.millijoules else None,
        ppm(row.unpriced, row.millijoules) if row.millijoules else None,
    )


def _kwh(millijoules: int) -> int:
    """At nine places."""
    return millijoules * _NANO // KWH_MILLIJOULES
