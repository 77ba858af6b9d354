"""Why a job waits for nodes that are reserved: which reservation, from when to when, and what would help."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bursar.clock import SECOND_US
from bursar.model import Reason, ReasonCode
from bursar.words import plural
from bursar_policies.decision import JobClass, NodeColumns
from bursar_policies.specs import ReservationSpec
from bursard.scheduler import text
from bursard.scheduler.candidates import Candidates
from bursard.scheduler.free import Free
from bursard.scheduler.windows import Windows

NAMES_SHOWN = 3
FOR_OTHERS = "for others"
"""What is said of whom nodes are for: not everybody who is told may know. Who may is told their names by
`services.reserved`."""


class Beside(NamedTuple):
    """What reservations leave of the nodes that could hold a job.

    Attributes:
        candidates: with their nodes taken out. reason: set where they are what stops it.
    """

    candidates: Candidates
    reason: Reason | None


def beside(
    nodes: NodeColumns, windows: Windows, candidates: Candidates, free: Free, job_class: JobClass, now: int
) -> Beside:
    """The nodes of an alternative that are left to a job, and whether it would start were none reserved."""
    closing = windows.closing(job_class, now, job_class.hold_us)
    mask = windows.mask(closing)
    closed = candidates.usable & mask
    if not closed.any():
        return Beside(candidates, None)
    fits, wanted = candidates.usable & free.fitting(candidates.request), job_class.nodes
    left = Candidates(windows.asks((candidates.ask,), closing)[0], nodes, windows)
    would_start = candidates.most(fits) >= wanted > candidates.most(fits & ~mask)
    too_few = candidates.usable_count >= wanted > left.usable_count
    if not would_start and not too_few:
        return Beside(left, None)
    rows = np.flatnonzero(fits & mask if would_start else closed).tolist()
    on = {name: rows_of for name in closing if (rows_of := [r for r in rows if windows.mask((name,))[r]])}
    first = min(on, key=lambda name: (windows.specs[name].starts_at, name))
    names = [nodes.names[row] for row in on[first]]
    return Beside(left, _reason(windows, on, first, names, would_start, job_class, now))


def _reason(
    windows: Windows,
    on: dict[str, list[int]],
    first: str,
    names: list[str],
    would_start: bool,
    job_class: JobClass,
    now: int,
) -> Reason:
    spec, others = windows.specs[first], len(on) - 1
    shown = ", ".join(names[:NAMES_SHOWN]) + (", …" if len(names) > NAMES_SHOWN else "")
    what = f"{plural(len(names), 'node')} ({shown})"
    begun = spec.starts_at <= now
    lead = (
        "fits now, but on"
        if would_start
        else f"needs {plural(job_class.nodes, 'node')}, but of those that could hold it"
    )
    verb = "is" if len(names) == 1 else "are"
    until = text.instant(spec.ends_at)
    if would_start:
        sentence = f"{lead} {what} that {verb} {said(first, spec)}"
    else:
        sentence = f"{lead} {what} {verb} {said(first, spec)}"
    if not begun:
        sentence += f", and it may run until {text.instant(now + job_class.hold_us)}"
    if others:
        sentence += f" (and {plural(others, 'reservation')} more)"
    overhead = job_class.hold_us - job_class.time_limit_us
    spare = min(windows.specs[name].starts_at for name in on) - now - overhead
    remedy = f"wait: its nodes are free for others from {until} on, or ask for others (constraints)"
    if spare >= SECOND_US and not job_class.endless:
        limit = text.duration(spare)
        remedy = f"set --time-limit {limit} or less to end before it begins, or wait until {until}"
    facts = (
        ("reservation", first),
        ("starts_at", str(spec.starts_at)),
        ("ends_at", str(spec.ends_at)),
        ("nodes_reserved", str(len(names))),
        ("spare_us", str(max(spare, 0))),
    )
    return Reason(ReasonCode.RESERVED_FOR_OTHER, sentence, remedy, facts)


def said(name: str, spec: ReservationSpec) -> str:
    """What a node's reservation is, as half a sentence about the node."""
    whose = "for maintenance" if spec.maintenance else FOR_OTHERS
    return f"reserved by {name} {whose} from {text.instant(spec.starts_at)} to {text.instant(spec.ends_at)}"
