"""What models cost: by version, beside how often each was run and what a step, a sample and a token cost.

Why     a model's price is asked for per run and per token, and the ledger knows neither. Amounts are those of
        the period, as `cost` has them. A run and its work count once, in the period in which it ended: what
        one of them cost is of whole jobs, since a job tells how far it came in all and not how far in a
        month; of a unit of those alone that told it, or the others' money would be in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

import msgspec

from bursar.model import Progress
from bursar.resources import MILLI
from bursard.reports.cost import nets_to_nothing, ppm
from bursard.reports.pages import Cell, Column, Page
from bursard.reports.period import Period
from bursard.state.documents import decode
from bursard.state.ends import job_ended_at
from bursard.state.records import JobRecord
from bursard.state.told import told_progress
from bursard.store import ChargeFilter, Dim, Unposted, Views

_MILLION: Final = 1_000_000
_COLUMNS: Final = (
    Column("model", wrap=True), Column("version", wrap=True), Column("runs", "count"),
    Column("gpu", "hours", drop=4), Column("cost", "money"), Column("share", "percent", drop=5),
    Column("cost_per_run", "money", drop=2), Column("runs_that_told", "count", drop=9),
    Column("steps", "count", drop=10), Column("cost_per_step", "money", drop=3),
    Column("samples", "count", drop=8), Column("cost_per_million_samples", "money", drop=6),
    Column("tokens", "count", drop=7), Column("cost_per_million_tokens", "money", drop=1),
)  # fmt: skip


class Work(msgspec.Struct, frozen=True):
    """What a job cost in all, and how far it came by what its attempts told at their ends: None, nothing.
    `ended_at`: 0 while it has not ended.
    """

    nanos: int
    progress: Progress | None
    ended_at: int = 0


class _Model(msgspec.Struct):
    """One row in the making. `runs`: jobs that ended in the period; an array is one. `told`: jobs and tasks
    that ended in it and told their work.
    """

    nanos: int = 0
    gpu_milli_us: int = 0
    unpriced_us: int = 0
    runs: dict[str, Work] = msgspec.field(default_factory=dict)
    told: dict[str, Work] = msgspec.field(default_factory=dict)

    def add(self, other: _Model) -> None:
        """Take another's in."""
        self.nanos += other.nanos
        self.gpu_milli_us += other.gpu_milli_us
        self.unpriced_us += other.unpriced_us
        self.runs |= other.runs
        self.told |= other.told


def work_of(job: JobRecord) -> Work:
    """Of a job or a task."""
    return Work(job.settled_nanos, told_progress(job), job_ended_at(job))


def models(
    views: Views, period: Period, currency: str, unposted: Unposted, project: str, live: Mapping[str, Work]
) -> Page:
    """Cost and work of each version of each model. `live`: what jobs and arrays in memory did."""
    query = ChargeFilter(since=period.since, until=period.until, project=project)
    found: dict[tuple[str, str], _Model] = {}
    ended = partial(_ended_within, views, period, live, {})
    for part in views.charge_sums([Dim.MODEL, Dim.MODEL_VERSION, Dim.JOB], query, unposted):
        model, version, job_id = map(str, part.keys)
        if not job_id:  # what no job held is of no model
            continue
        row = found.setdefault((model, version), _Model())
        row.nanos += part.nanos
        row.gpu_milli_us += part.gpu_milli_us
        row.unpriced_us += part.unpriced_us
        if nets_to_nothing(part):  # all of it was moved to another name
            continue
        whole_id = job_id.partition(".")[0]
        if (run := ended(whole_id)) is not None:
            row.runs[whole_id] = run
        if (work := ended(job_id)) is not None and work.progress is not None:
            row.told[job_id] = work
    whole = _Model()
    for row in found.values():
        whole.add(row)
    return Page(
        kind="models",
        period=period,
        currency=currency,
        project=project,
        columns=_COLUMNS,
        rows=tuple(_row(names, row, whole.nanos) for names, row in sorted(found.items())),
        total=_row(("total", ""), whole, whole.nanos),
        notes=(
            "A run is a job that ended in the period; an array is one. Without a name: jobs that named no"
            " model.",
            "Steps, samples and tokens are of whole jobs, told when their attempts ended; what a run or a"
            " unit cost is what these jobs cost in all, before corrections. What jobs cost that run on, or"
            " that ended in another period, is in the cost alone.",
        ),
    )


def _ended_within(
    views: Views, period: Period, live: Mapping[str, Work], known: dict[str, Work | None], job_id: str
) -> Work | None:
    """What a job, array or task did that ended in a period; None of one that did not."""
    if job_id not in known:
        work = live.get(job_id)
        if work is None and (row := views.find_job(job_id)) is not None:
            work = work_of(decode(row.document))
        within = work is not None and period.since < work.ended_at <= period.until
        known[job_id] = work if within else None
    return known[job_id]


def _row(names: tuple[str, str], row: _Model, total: int) -> tuple[Cell, ...]:
    nanos = None if row.unpriced_us and not row.nanos else row.nanos
    return (
        *names,
        len(row.runs),
        row.gpu_milli_us // MILLI,
        nanos,
        None if nanos is None else ppm(nanos, total),
        None if nanos is None else _over(sum(run.nanos for run in row.runs.values()), len(row.runs)),
        len(row.told),
        *_unit(row, "step", 1),
        *_unit(row, "samples", _MILLION),
        *_unit(row, "tokens", _MILLION),
    )


def _unit(row: _Model, name: str, size: int) -> tuple[int | None, int | None]:
    """How many were told, and what so many cost; None for what nobody told."""
    counts = [(getattr(work.progress, name), work.nanos) for work in row.told.values()]
    count = sum(told for told, _ in counts)
    nanos = sum(paid for told, paid in counts if told)
    return count or None, _over(nanos * size, count)


def _over(nanos: int, count: int) -> int | None:
    """To the nearest nano, halves up; None of nothing."""
    return (2 * nanos + count) // (2 * count) if count else None
