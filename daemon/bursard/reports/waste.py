"""Where the money of a period went: what was of use, what was not, and what the books cannot tell.

Why     categories that exclude each other and sum to what the nodes cost, to the nano, cannot hide anything.
        What an attempt was good for is known by how it ended. Categories that need more than the books have
        are named as not known: their money is within the others, and a 0 would say that there was none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from bursar.model import EndCause
from bursar.model.ends import REQUEUED
from bursard.ledger import PAID
from bursard.reports.cost import ppm
from bursard.reports.pages import Cell, Column, Page
from bursard.reports.period import Period
from bursard.reports.statement_words import OF_NODES
from bursard.state.documents import decode
from bursard.state.records import AttemptRecord
from bursard.store import ChargeFilter, Dim, JobFilter, Unposted, Views

_PAGE: Final = 1_000
IN_PROGRESS: Final = "in_progress"
MEANINGS: Final = {
    "productive": "attempts that completed",
    "in_progress": "attempts that have not ended",
    "interrupted": "attempts that a preemption or a lost node ended: lost work is at most this",
    "requeued": "attempts that somebody ended to run the job again: lost work is at most this",
    "failed": "attempts that failed, did not start or met a limit",
    "cancelled": "attempts that were cancelled",
    "held_idle": "GPUs that were held and did nothing, as their nodes saw it",
    "launch_bound": "GPUs on which only tiny kernels ran: their multiprocessors did nothing",
    "launch": "machines that were rented, until their agents said hello",
    "corrections": "of charges of before, booked in this period",
    "unallocated": "nodes that were up, held by no job",
    **OF_NODES,
}
"""Categories that the books can tell, in order; each charge is of exactly one."""
UNTOLD: Final = {
    "queue_hold": "members that waited for the others of their gang",
    "startup": "environments and containers until the program ran",
    "data_stall": "devices that waited for data",
    "checkpoint_io": "writing and reading checkpoints",
    "recomputed": "work since the last checkpoint that was done again",
    "over_request": "CPUs and memory that were held and not used",
    "unused_commitment": "commitments that were paid for and not used",
}
_BY_CAUSE: Final = {
    EndCause.COMPLETED: "productive",
    EndCause.CANCELLED: "cancelled",
    EndCause.PREEMPTED: "interrupted",
    EndCause.NODE_LOST: "interrupted",
}
_BY_KIND: Final = {"idle": "unallocated", "startup": "launch"}
_COLUMNS: Final = (
    Column("category"),
    Column("cost", "money"),
    Column("share", "percent"),
    Column("means", wrap=True),
)

PPM: Final = 1_000_000


class Fate(NamedTuple):
    """What became of what an attempt cost: its category; and of its GPUs' cost, in millionths, what they did
    nothing for, and what only launched kernels.
    """

    category: str
    idle_ppm: int = 0
    launch_ppm: int = 0


Fates = Mapping[str, Fate]


def waste(views: Views, period: Period, currency: str, unposted: Unposted, project: str, live: Fates) -> Page:
    """The waste identity of a period. `live`: of every attempt in memory, its fate."""
    query = ChargeFilter(
        since=period.since, until=period.until, project=project, kinds=PAID if project else ()
    )
    fates = dict(_ended(views, period.since)) | dict(live)
    nanos = dict.fromkeys(MEANINGS, 0)
    for part in views.charge_sums([Dim.KIND, Dim.CLASS, Dim.ATTEMPT, Dim.JOB], query, unposted):
        kind, kept_as, attempt_id, job_id = map(str, part.keys)
        if kind in PAID and kept_as == "correction":
            nanos["corrections"] += part.nanos
        elif kind != "usage":
            nanos[_BY_KIND.get(kind, kind)] += part.nanos
        else:
            if attempt_id not in fates:  # of a task, or one that ended before and was told late
                fates |= dict(_of_job(views, job_id))
            fate = fates.get(attempt_id, Fate(IN_PROGRESS))
            idle, launch = part.gpu * fate.idle_ppm // PPM, part.gpu * fate.launch_ppm // PPM
            nanos["held_idle"] += idle
            nanos["launch_bound"] += launch
            nanos[fate.category] += part.nanos - idle - launch
    total = sum(nanos.values())
    told = [name for name in MEANINGS if not project or name not in _OF_NODES or nanos[name]]
    rows: list[tuple[Cell, ...]] = [
        (name, nanos[name], ppm(nanos[name], total), MEANINGS[name]) for name in told
    ]
    rows += [(name, None, None, means) for name, means in UNTOLD.items()]
    return Page(
        kind="waste",
        period=period,
        currency=currency,
        project=project,
        columns=_COLUMNS,
        rows=tuple(rows),
        total=("total", total, ppm(total, total), "what jobs paid" if project else "what the nodes cost"),
        notes=(
            "What is not known is within the other rows; it is not 0.",
            "What GPUs did is known of attempts that have ended, as far as their nodes heard it.",
        ),
    )


_OF_NODES: Final = ("unallocated", *OF_NODES)


def category_of(attempt: AttemptRecord) -> str:
    """Where what an attempt cost belongs, by how it ended."""
    if attempt.cause is None:
        return IN_PROGRESS
    if attempt.cause is EndCause.PREEMPTED and REQUEUED in (attempt.stop_message, attempt.message):
        return "requeued"
    return _BY_CAUSE.get(attempt.cause, "failed")


def fate_of(attempt: AttemptRecord) -> Fate:
    """Where what it cost belongs; what nobody heard of its GPUs is in no part of it."""
    held_us = idle_us = launch_us = 0
    for member in attempt.members:
        if member.report is not None:
            held_us += len(member.alloc.devices) * member.report.held_us
            use = member.report.device_use
            if use is not None:
                idle_us += use.empty_us + use.idle_us
                launch_us += use.launch_us
    if not held_us:
        return Fate(category_of(attempt))
    idle_ppm = min(idle_us * PPM // held_us, PPM)
    return Fate(category_of(attempt), idle_ppm, min(launch_us * PPM // held_us, PPM - idle_ppm))


def _ended(views: Views, since: int) -> Iterator[tuple[str, Fate]]:
    """How the attempts of jobs ended that ended since; those of tasks are looked up one by one."""
    query = JobFilter(ended_since=since, limit=_PAGE)
    while True:
        page = views.jobs(query)
        for row in page.rows:
            yield from _of_document(row.document)
        if page.next is None:
            return
        query = JobFilter(ended_since=since, limit=_PAGE, cursor=page.next)


def _of_job(views: Views, job_id: str) -> Iterator[tuple[str, Fate]]:
    row = views.find_job(job_id)
    if row is not None:
        yield from _of_document(row.document)


def _of_document(document: bytes) -> Iterator[tuple[str, Fate]]:
    for attempt in decode(document).attempts:
        yield attempt.id, fate_of(attempt)
