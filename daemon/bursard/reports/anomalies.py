"""Days of projects, and runs, that cost what their like do not, with what caused them.

Why     a sum that is too high at the end of a month is found out too late, and by nobody's fault in
        particular. Days are held against the weeks before, runs against runs of the same name and size; each
        row names the lines that most of it was spent in.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from bursar.clock import DAY_US, format_instant
from bursar.projects import is_within
from bursard.forecast.anomalies import DAYS_BACK, unusual_days, unusual_runs
from bursard.ledger import PAID
from bursard.reports.cost import ppm
from bursard.reports.pages import Cell, Column, Page
from bursard.reports.period import Period
from bursard.scheduler.text import money
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
    """A job that has ended, as it is compared: what its charges in one project are now. causes: what its
    attempts cost.
    """

    number: int
    name: str
    project: str
    ended: int
    nanos: int
    causes: tuple[tuple[str, int], ...]


class Anomaly(NamedTuple):
    """What cost more than its like. what: day | run. day: where it begins, or when the run ended.
    number, run: of a run, its job's number and name. causes: what most of it was spent in, in words.
    """

    what: str
    project: str
    day: int
    number: int
    run: str
    nanos: int
    usual: int
    causes: str

    @property
    def job(self) -> str:
        """The run, as it is shown."""
        return f"{self.number} {self.run}" if self.number else ""


def unusual(views: Views, period: Period, unposted: Unposted, project: str) -> tuple[list[Anomaly], bool]:
    """Those of a period of UTC, the most beyond the usual first; were all runs read?"""
    rows = [*_days(views, period, unposted, project)]
    runs, whole = _read_runs(views, period, unposted, project)
    rows += _runs(runs, period)
    return sorted(rows, key=lambda row: (row.usual - row.nanos, row.project, row.day, row.job)), whole


def anomalies(views: Views, period: Period, currency: str, unposted: Unposted, project: str) -> Page:
    """Those of a period, the dearest first."""
    rows, whole = unusual(views, period, unposted, project)
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


def _cells(row: Anomaly) -> tuple[Cell, ...]:
    of_usual = ppm(row.nanos, row.usual) if row.usual else None
    more = row.nanos - row.usual
    day = format_instant(row.day)[:10]
    return (row.what, row.project, day, row.job, row.nanos, row.usual, more, of_usual, row.causes)


def _days(views: Views, period: Period, unposted: Unposted, project: str) -> Iterator[Anomaly]:
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
            yield Anomaly("day", name, day, 0, "", one.nanos, one.usual, causes)


def _lines(views: Views, day: int, project: str, unposted: Unposted) -> str:
    """The jobs that most of a day of a project was spent in, as it is corrected now."""
    booked = ChargeFilter(since=day, until=day + DAY_US, kinds=PAID, project=project)
    later = ChargeFilter(since=day + DAY_US, kinds=PAID, project=project, corrections=True)
    jobs: Counter[str] = Counter()
    for query in (booked, later):
        for part in views.charge_sums([Dim.PROJECT, Dim.USED_DAY, Dim.JOB_NUMBER], query, unposted):
            if part.keys[0] == project and int(part.keys[1]) == day:
                jobs[f"job {part.keys[2]}"] += part.nanos
    return _mostly([(name, nanos) for name, nanos in jobs.items() if nanos])


def _mostly(lines: list[tuple[str, int]]) -> str:
    ordered = sorted(lines, key=lambda line: (-line[1], line[0]))
    told = [f"{name} {money(nanos, '')}" for name, nanos in ordered[:_CAUSES]]
    more = len(ordered) - _CAUSES
    return ", ".join([*told, f"{more} more"] if more > 0 else told)


def _read_runs(
    views: Views, period: Period, unposted: Unposted, project: str
) -> tuple[Mapping[str, list[_Run]], bool]:
    """By kind, jobs that ended in the period or in the eight weeks before; were all of them read?"""
    found: dict[str, list[_Run]] = defaultdict(list)
    since, read = max(period.since - DAYS_BACK * DAY_US, 0), 0
    moved = _corrected(views, since, unposted)
    # What was retagged to a project is a run of it, and its job still names another.
    elsewhere = {number for number, by in moved.items() if any(is_within(one, project) for one in by)}

    def add(job: JobRecord) -> None:
        elsewhere.discard(job.number)
        if job.array is None and job.spec.name and since <= job.finished_at < period.until:
            for run in _of_job(job, moved.get(job.number, {})):
                if is_within(run.project, project):
                    found[kind_of(msgspec.structs.replace(job.spec, project=run.project))].append(run)

    query, whole = JobFilter(ended_since=since, project=project, limit=_PAGE), False
    while not whole and read < RUNS_READ_MAX:
        page = views.jobs(query)
        for row in page.rows:
            add(decode(row.document))
        read, whole = read + len(page.rows), page.next is None
        query = JobFilter(ended_since=since, project=project, limit=_PAGE, cursor=page.next)
    for number in sorted(elsewhere, reverse=True)[: RUNS_READ_MAX if project else 0]:
        if (known := views.find_job(str(number))) is not None:
            add(decode(known.document))
    return found, whole


_Corrected = dict[int, dict[str, Counter[str]]]


def _corrected(views: Views, since: int, unposted: Unposted) -> _Corrected:
    """What corrections changed, by number of the job, project and attempt: few jobs have any."""
    found: _Corrected = defaultdict(lambda: defaultdict(Counter))
    query = ChargeFilter(since=since, kinds=PAID, corrections=True)
    for part in views.charge_sums([Dim.CLASS, Dim.JOB_NUMBER, Dim.PROJECT, Dim.ATTEMPT], query, unposted):
        what, number, project, attempt_id = part.keys
        if what == "correction":
            found[int(number)][str(project)][str(attempt_id)] += part.nanos
    return found


def _of_job(job: JobRecord, moved: Mapping[str, Mapping[str, int]]) -> Iterator[_Run]:
    """A job as a run of its project, and of each to which something of it was retagged."""
    home = job.spec.project
    settled = Counter({one.id: one.settled_nanos for one in job.attempts})
    for project in sorted({home, *moved}):
        changes = moved.get(project, {})
        before = settled if project == home else Counter[str]()
        nanos = (job.settled_nanos if project == home else 0) + sum(changes.values())
        others = any(sum(by.values()) for name, by in moved.items() if name != home)
        if not nanos and (project != home or others):
            continue  # all of it is for somebody else
        causes = tuple(
            (
                f"attempt {one.number} {one.cause.value if one.cause is not None else ''}".rstrip(),
                before[one.id] + changes.get(one.id, 0),
            )
            for one in job.attempts
        )
        causes = tuple(cause for cause in causes if cause[1]) or causes
        yield _Run(job.number, job.spec.name, project, job.finished_at, nanos, causes)


def _runs(by_kind: Mapping[str, list[_Run]], period: Period) -> Iterator[Anomaly]:
    for runs in by_kind.values():
        for one in unusual_runs([run.nanos for run in runs]):
            run = runs[one.at]
            if period.since <= run.ended < period.until:
                causes = _mostly([*run.causes])
                yield Anomaly(
                    "run", run.project, run.ended, run.number, run.name, one.nanos, one.usual, causes
                )
