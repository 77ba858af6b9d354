"""Days of projects, and runs, that cost what their like do not, with what caused them.

Why     a sum that is too high at the end of a month is found out too late, and by nobody's fault in
        particular. Days are held against the weeks before, runs against runs of the same name and size; each
        row names the lines that most of it was spent in.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from bursar.clock import DAY_US, format_instant
from bursar.errors import InvalidRequest
from bursar.money import format_nanos
from bursard.forecast.anomalies import DAYS_BACK, unusual_days, unusual_runs
from bursard.ledger import PAID
from bursard.reports.cost import ppm
from bursard.reports.pages import Cell, Column, Page
from bursard.reports.period import Period
from bursard.state.documents import decode
from bursard.state.records import JobRecord
from bursard.state.runs import kind_of
from bursard.store import ChargeFilter, Dim, JobFilter, Unposted, Views

ROWS_MAX: Final = 200
RUNS_READ_MAX: Final = 20_000
_CAUSES: Final = 3
_PAGE: Final = 500
_COLUMNS: Final = (
    Column("what", drop=1), Column("project", wrap=True), Column("day"), Column("job", wrap=True),
    Column("cost", "money", drop=2), Column("usual", "money", drop=3), Column("more", "money"),
    Column("of_usual", "percent", drop=4), Column("mostly", wrap=True),
)  # fmt: skip


class _Run(NamedTuple):
    """A job that has ended, as it is compared. causes: what its attempts cost."""

    number: int
    name: str
    project: str
    ended: int
    nanos: int
    causes: tuple[tuple[str, int], ...]


class _Row(NamedTuple):
    what: str
    project: str
    day: int
    job: str
    nanos: int
    usual: int
    causes: str


def in_utc(period: Period) -> None:
    """Raises `InvalidRequest` for days of another place."""
    if period.timezone != "UTC":
        raise InvalidRequest("timezone: the days that anomalies are looked for in are of UTC")


def anomalies(views: Views, period: Period, currency: str, unposted: Unposted, project: str) -> Page:
    """Those of a period, the dearest first."""
    rows = [*_days(views, period, unposted, project)]
    runs, whole = _read_runs(views, period, project)
    rows += _runs(runs, period)
    rows.sort(key=lambda row: (row.usual - row.nanos, row.project, row.day, row.job))
    notes = [
        "Days of projects are held against the same weekdays of the eight weeks before; runs against those of"
        " the same project, name but for its numbers, and size. Arrays and what runs are in days alone.",
    ]
    if len(rows) > ROWS_MAX:
        notes.append(f"These are the {ROWS_MAX} with the most beyond the usual, of {len(rows)}.")
    if not whole:
        notes.append(f"Only the {RUNS_READ_MAX} runs that were submitted last were compared.")
    return Page(
        kind="anomalies",
        period=period,
        currency=currency,
        project=project,
        columns=_COLUMNS,
        rows=tuple(_cells(row) for row in rows[:ROWS_MAX]),
        notes=tuple(notes),
    )


def _cells(row: _Row) -> tuple[Cell, ...]:
    of_usual = ppm(row.nanos, row.usual) if row.usual else None
    more = row.nanos - row.usual
    day = format_instant(row.day)[:10]
    return (row.what, row.project, day, row.job, row.nanos, row.usual, more, of_usual, row.causes)


def _days(views: Views, period: Period, unposted: Unposted, project: str) -> Iterator[_Row]:
    first, last = period.since // DAY_US, -(-period.until // DAY_US)
    begin = first - DAYS_BACK
    # Until now: what was corrected since is of the day in which it was used, and no news of its own.
    query = ChargeFilter(since=begin * DAY_US, kinds=PAID, project=project)
    by_project: dict[str, Counter[int]] = defaultdict(Counter)
    for part in views.charge_sums([Dim.PROJECT, Dim.USED_DAY], query, unposted):
        if begin <= (day := int(part.keys[1]) // DAY_US) < last:
            by_project[str(part.keys[0])][day] += part.nanos
    for name, nanos in sorted(by_project.items()):
        since = min(nanos)
        days = [nanos[day] for day in range(since, last)]
        for one in unusual_days(days, first - since):
            day = (since + one.at) * DAY_US
            causes = _lines(views, day, name, unposted)
            yield _Row("day", name, day, "", one.nanos, one.usual, causes)


def _lines(views: Views, day: int, project: str, unposted: Unposted) -> str:
    """The jobs that most of a day of a project was spent in."""
    query = ChargeFilter(since=day, until=day + DAY_US, kinds=PAID, project=project)
    parts = views.charge_sums([Dim.PROJECT, Dim.JOB_NUMBER], query, unposted)
    return _mostly([(f"job {part.keys[1]}", part.nanos) for part in parts if part.keys[0] == project])


def _mostly(lines: list[tuple[str, int]]) -> str:
    ordered = sorted(lines, key=lambda line: (-line[1], line[0]))
    told = [f"{name} {format_nanos(nanos, 2)}" for name, nanos in ordered[:_CAUSES]]
    more = len(ordered) - _CAUSES
    return ", ".join([*told, f"{more} more"] if more > 0 else told)


def _read_runs(views: Views, period: Period, project: str) -> tuple[Mapping[str, list[_Run]], bool]:
    """By kind, jobs that ended in the period or in the eight weeks before; were all of them read?"""
    found: dict[str, list[_Run]] = defaultdict(list)
    since, read = period.since - DAYS_BACK * DAY_US, 0
    query = JobFilter(ended_since=max(since, 0), project=project, limit=_PAGE)
    while True:
        page = views.jobs(query)
        for row in page.rows:
            job = decode(row.document)
            if job.array is None and job.spec.name and job.finished_at < period.until:
                found[kind_of(job.spec)].append(_run(job))
        read += len(page.rows)
        if page.next is None or read >= RUNS_READ_MAX:
            return found, page.next is None
        query = JobFilter(ended_since=max(since, 0), project=project, limit=_PAGE, cursor=page.next)


def _run(job: JobRecord) -> _Run:
    causes = tuple(
        (
            f"attempt {one.number} {one.cause.value if one.cause is not None else ''}".rstrip(),
            one.settled_nanos,
        )
        for one in job.attempts
    )
    return _Run(job.number, job.spec.name, job.spec.project, job.finished_at, job.settled_nanos, causes)


def _runs(by_kind: Mapping[str, list[_Run]], period: Period) -> Iterator[_Row]:
    for runs in by_kind.values():
        for one in unusual_runs([run.nanos for run in runs]):
            run = runs[one.at]
            if period.since <= run.ended < period.until:
                named = f"{run.number} {run.name}"
                yield _Row("run", run.project, run.ended, named, one.nanos, one.usual, _mostly([*run.causes]))
