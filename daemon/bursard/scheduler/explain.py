"""Explain and what-if: the same plan, looked at from one job.

Owns    `explain` (why a pending job waits, what would start now) and `what_if` (where a job that is
        not submitted yet would go and what it would cost).
Why     both run the real planner on the snapshot, so they cannot say anything the scheduler would
        not do; an alternative is only offered after a plan has started it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from bursar.errors import NotFound
from bursar.model import Reason, ReasonCode
from bursar.money import cumulative
from bursar.resources import MILLI, format_size
from bursar.words import plural
from bursar_policies.decision import (
    AHEAD_SHOWN,
    Ahead,
    Alternative,
    BudgetVerdict,
    Explanation,
    JobClass,
    JobColumns,
    NodeVerdict,
    PendingQueue,
    Plan,
    Snapshot,
    Start,
    WhatIf,
)
from bursar_policies.filters import FILTERS
from bursar_policies.rankers import ONE
from bursard.scheduler import reasons
from bursard.scheduler.admit import Rooms
from bursard.scheduler.alternatives import candidates
from bursard.scheduler.backfill import Reservation, reserve
from bursard.scheduler.foresee import JOBS_MAX, start_at
from bursard.scheduler.plan import Planner, plan
from bursard.scheduler.promises import Beside
from bursard.scheduler.table import Table
from bursard.scheduler.window_reasons import said
from bursard.scheduler.world import World

HOLDERS_SHOWN = 10
WHAT_IF_ID = "what-if"
"""The job id a plan gives to the job that `what_if` asks about."""
NOTHING = Reason(ReasonCode.NONE, "")
_WITHIN = 1 << 62
"""Before every score there is."""
_OF_BUDGETS = frozenset(
    (ReasonCode.BUDGET_EXHAUSTED, ReasonCode.BUDGET_COMMITTED, ReasonCode.APPROVAL_REQUIRED)
)


def explain(snapshot: Snapshot, index: int, now: int, job_id: str = "") -> Explanation:
    """Why a pending job waits, or that it does not.

    Args:
        index: of its `PendingQueue` in the snapshot.
        job_id: one of the queue; its first job when empty.
    """
    snapshot, index = _alone(snapshot, index, job_id or snapshot.queues[index].jobs[0][1])
    planner = Planner(snapshot, now, World(snapshot))
    queue = planner.snapshot.queues[index]
    job_id = queue.jobs[0][1]
    job_class = queue.class_at(0)
    result = planner.run()
    last = len(snapshot.queues) - 1
    closing = planner.doors.closing(job_class) if planner.doors is not None else ()
    tables = planner.world.tables_beside(job_class, closing)
    table = max(tables, key=lambda t: (t.usable_count, t.capable_count))
    before = _before(planner, last)
    ahead, ahead_total = _ahead(planner, before, result.starts)
    starts = _start_of(result.starts, job_id) is not None
    claim = None if starts else _claim(planner, job_class, job_id)
    foreseen = 0
    if not starts:
        foreseen = _room_at(snapshot, result, job_id, now) or _foreseen(
            planner, snapshot, before, result.starts, ahead_total
        )
    names = snapshot.nodes.names
    return Explanation(
        job_id=job_id,
        starts_now=starts,
        reason=NOTHING if starts else _reason(snapshot, result, index),
        counts=_counts(planner.world, table),
        nodes=tuple(_verdict(planner.world, table, row, closing) for row in range(planner.world.count)),
        budgets=_budgets(job_class, planner, table, job_id),
        ahead=_why_ahead(planner, ahead),
        ahead_total=ahead_total,
        holders=_holders(snapshot, table),
        expected_start_at=foreseen or _expected(claim, now),
        foreseen=foreseen > 0,
        expected_nodes=tuple(names[row] for row in claim.left) if claim else (),
        alternatives=() if starts else _alternatives(snapshot, index, now, planner),
        terms=planner.order.terms_of(index) if planner.order is not None else (),
        overdue=_overdue(planner, index),
    )


def _alone(snapshot: Snapshot, index: int, job_id: str) -> tuple[Snapshot, int]:
    """The same world with one job in a queue of its own, so that a plan says what stops this very job: how
    jobs are grouped changes nothing of a plan. Its index.
    """
    queue = snapshot.queues[index]
    position = queue.position_of(job_id)
    if position < 0:
        raise NotFound(f"job {job_id} does not wait in queue {index}")
    own = np.zeros(len(queue.jobs), dtype=np.bool_)
    own[position] = True
    alone = replace(queue, jobs=queue.jobs.kept(own))
    rest = replace(queue, jobs=queue.jobs.kept(~own))
    queues = [rest if row == index else other for row, other in enumerate(snapshot.queues)]
    made = (replace(one, queue=len(queues)) if one.job_id == job_id else one for one in snapshot.made)
    return replace(snapshot, queues=(*queues, alone), made=tuple(made)), len(queues)


def what_if(
    snapshot: Snapshot, job_class: JobClass, now: int, priority: int = 50, project: str = "", user: str = ""
) -> WhatIf:
    """Where a job of this project and user would start now, were it submitted, and its price."""
    asked = _asked(snapshot, job_class, now, priority, project, user)
    planner = Planner(asked, now, World(asked))
    result = planner.run()
    start = _start_of(result.starts, WHAT_IF_ID)
    if start is None:
        claim = _claim(planner, job_class, WHAT_IF_ID)
        reason = _reason(asked, result, len(snapshot.queues))
        unpaid = _unpaid(snapshot, job_class, now, priority, project) if reason.code in _OF_BUDGETS else None
        before = _before(planner, len(snapshot.queues))
        _, ahead_total = _ahead(planner, before, result.starts)
        foreseen = _room_at(asked, result, WHAT_IF_ID, now) or _foreseen(
            planner, asked, before, result.starts, ahead_total
        )
        return WhatIf(
            None,
            reason,
            expected_start_at=foreseen or _expected(claim, now),
            foreseen=foreseen > 0,
            unpaid=unpaid,
            ahead_total=ahead_total,
        )
    rate = sum(member.rates.total for member in start.members)
    priced = all(int(snapshot.nodes.rate[member.node]) >= 0 for member in start.members)
    worst = worst_of(start, job_class) if priced else 0
    rooms = planner.rooms
    known = [name for name in job_class.budgets if name in snapshot.budgets]
    return WhatIf(
        start=start,
        reason=NOTHING,
        nodes=tuple(snapshot.nodes.names[member.node] for member in start.members),
        priced=priced,
        rate_nanos_per_hour=rate,
        expected_nanos=cumulative(rate, start.full_limit_us or start.time_limit_us),
        worst_nanos=worst,
        currency=snapshot.currency,
        rooms_after=tuple((name, rooms.room_nanos(name)) for name in known),
    )


def worst_of(start: Start, job_class: JobClass) -> int:
    """What a start may cost at most, all later leases among it."""
    if not start.full_limit_us:
        return start.hold_nanos
    rate = sum(member.rates.total for member in start.members)
    return cumulative(rate, start.full_limit_us + job_class.hold_us - job_class.time_limit_us)


def _asked(
    snapshot: Snapshot, job_class: JobClass, now: int, priority: int, project: str, user: str = ""
) -> Snapshot:
    """The world with the job that `what_if` asks about, submitted last."""
    last = max((q.jobs[-1][0] for q in snapshot.queues if len(q.jobs)), default=0)
    projects, users = (*snapshot.projects, project), (*snapshot.users, user)
    whose = len(projects) - 1, 0, len(users) - 1
    jobs = JobColumns.of([(last + 1, WHAT_IF_ID, job_class.time_limit_us, now, *whose)])
    queue = PendingQueue(job_class.without_limit(), priority, jobs)
    return replace(snapshot, queues=(*snapshot.queues, queue), projects=projects, users=users)


def _unpaid(snapshot: Snapshot, job_class: JobClass, now: int, priority: int, project: str) -> Start | None:
    """What it would take if no budget had to pay."""
    asked = _asked(snapshot, replace(job_class, budgets=(), gates=()), now, priority, project)
    return _start_of(Planner(asked, now, World(asked)).run().starts, WHAT_IF_ID)


def _start_of(starts: tuple[Start, ...], job_id: str) -> Start | None:
    return next((start for start in starts if start.job_id == job_id), None)


def _reason(snapshot: Snapshot, result: Plan, index: int) -> Reason:
    if result.making_room_for == snapshot.queues[index].jobs[0][1]:
        return reasons.making_room(result, submitted=result.making_room_for != WHAT_IF_ID)
    rules, first = snapshot.priority, result.reserved_job
    if result.limited_until and first == snapshot.queues[index].jobs[0][1] and rules is not None:
        return reasons.limited(result, rules)
    return reasons.reason_of(snapshot, result, index) if index in result.verdicts else NOTHING


def _room_at(snapshot: Snapshot, result: Plan, job_id: str, now: int) -> int:
    """When those are gone that are asked to end for it; 0: nobody is."""
    return reasons.room_at(snapshot, result, now) if result.making_room_for == job_id else 0


def _claim(planner: Planner, job_class: JobClass, job_id: str) -> Reservation | None:
    """When there is room for it by the latest ends of what runs, as if nobody came before it."""
    rooms = Rooms(planner.snapshot.budgets)
    openings = Beside(planner.guard.future(job_id)) if planner.guard else None
    found = reserve(planner.world, job_class, rooms, planner.claims.releases, planner.now, openings)
    return found if isinstance(found, Reservation) else None


def _foreseen(
    planner: Planner, snapshot: Snapshot, before: Sequence[_Before], starts: Sequence[Start], ahead_total: int
) -> int:
    """When the only job of the last queue starts if what runs, and those ahead of it, take their whole
    limits; 0 where that is not known, or there are too many to follow.
    """
    if ahead_total > JOBS_MAX:
        return 0
    started, places = {start.job_id for start in starts}, {start.queue for start in starts}
    *others, own = snapshot.queues
    queues = []
    for row, (queue, ahead) in enumerate(zip(others, before[:-1], strict=True)):
        wanted = np.zeros(len(queue.jobs), dtype=np.bool_)
        wanted[ahead.rows] = True
        if row in places:  # what goes now may be in its way, whatever its place
            wanted |= [job_id in started for job_id in queue.jobs.ids.tolist()]
        queues.append(replace(queue, jobs=queue.jobs.kept(wanted)))
    found = start_at(replace(snapshot, queues=[*queues, own]), own.jobs[0][1], planner.now)
    return found if found > planner.now else 0


def _expected(claim: Reservation | None, now: int) -> int:
    """When there is room for it, 0 for nobody knows: there is at once, and it is another's."""
    return claim.at if claim is not None and claim.at > now else 0


class _Place(NamedTuple):
    """Where a job stands: `key` is what comes first of two, the lower, and then the one submitted first."""

    key: int
    submitted: int
    job_id: str
    queue: int


def _ahead(planner: Planner, before: Sequence[_Before], starts: Sequence[Start]) -> tuple[list[_Place], int]:
    """Jobs that are looked at before another and do not start now: the first of them, as many
    as an explanation names, and how many there are. A queue may have very many, so none is looked at alone.
    """
    started, places = {start.job_id for start in starts}, {start.queue for start in starts}
    ahead, total = list[_Place](), 0
    for row, (rows, key) in enumerate(before):
        jobs = planner.snapshot.queues[row].jobs
        if row in places:
            rows = rows[[job_id not in started for job_id in jobs.ids[rows].tolist()]]
        total += len(rows)
        rows = _first(rows, key)
        found = zip(key[rows].tolist(), jobs.orders[rows].tolist(), jobs.ids[rows].tolist(), strict=True)
        ahead += [_Place(*one, row) for one in found]
    return sorted(ahead)[:AHEAD_SHOWN], total


class _Before(NamedTuple):
    """Of one queue the rows that are looked at before another job, and what ranks all of its jobs."""

    rows: NDArray[np.intp]
    key: NDArray[np.int64]


def _before(planner: Planner, index: int) -> list[_Before]:
    """Of each queue what is looked at before the only job of the queue `index`."""
    queues = planner.snapshot.queues
    own, submitted = _keys(planner, index).item(0), queues[index].jobs.orders.item(0)
    found = list[_Before]()
    for row, queue in enumerate(queues):
        key = _keys(planner, row)
        rows = np.flatnonzero((key < own) | ((key == own) & (queue.jobs.orders < submitted)))
        found.append(_Before(rows, key))
    return found


def _keys(planner: Planner, row: int) -> NDArray[np.int64]:
    """What comes first of two jobs, the lower: of each of a queue."""
    queue, first = planner.snapshot.queues[row], _WITHIN if planner.comes_first(row) else 0
    if planner.order is not None:
        return np.asarray(-planner.order.of_queue(row) - first)
    return np.full(len(queue.jobs), -queue.priority - first, dtype=np.int64)


def _first(rows: NDArray[np.intp], key: NDArray[np.int64]) -> NDArray[np.intp]:
    """Those of the lowest keys, as many as an explanation names. Rows are in the order of submission."""
    if len(rows) <= AHEAD_SHOWN:
        return rows
    keys = key[rows]
    last = np.partition(keys, AHEAD_SHOWN - 1)[AHEAD_SHOWN - 1]
    lower = rows[keys < last]
    return np.concatenate([lower, rows[keys == last][: AHEAD_SHOWN - len(lower)]])


def _why_ahead(planner: Planner, places: Sequence[_Place]) -> tuple[Ahead, ...]:
    """What puts each before the job of the last queue."""
    queues, order = planner.snapshot.queues, planner.order
    own = queues[-1].priority

    def why(place: _Place) -> str:
        if planner.comes_first(place.queue):
            return "within its guarantee"
        priority = queues[place.queue].priority
        if order is None:
            return "submitted first" if priority == own else f"priority {priority}"
        found = order.points(-place.key, priority)
        if found is None:
            return "waited past max_wait"
        if priority != own and order.priority_first:
            return f"priority {priority}"
        return f"{found / ONE:.3f} points"

    return tuple(Ahead(place.job_id, why(place)) for place in places)


def _overdue(planner: Planner, index: int) -> bool:
    """Whether the only job of this queue has waited past the `max_wait` of the policy in force."""
    order = planner.order
    return order is not None and order.points(order.of_queue(index).item(0), 0) is None


def _counts(world: World, table: Table) -> tuple[tuple[str, int], ...]:
    """Nodes turned away by each check in turn, then by what is lacking, then those that fit."""
    found: list[tuple[str, int]] = []
    left = np.ones(world.count, dtype=np.bool_)
    for rule in FILTERS:
        mask = rule.mask(world.nodes, table.ask)
        if mask is not None:
            found.append((rule.name, int((left & ~mask).sum())))
            left = left & mask
    found.append(("ready", int((left & ~world.nodes.ready).sum())))
    if world.windows is not None:
        found.append(("reserved", int((left & world.nodes.ready & ~table.usable).sum())))
    lacking = reasons.lacking(world.free, table)
    return (*found, *lacking.items())


def _verdict(world: World, table: Table, row: int, closing: tuple[str, ...]) -> NodeVerdict:
    """One node as this job sees it, after what starts before it."""
    nodes, request, name = world.nodes, table.request, world.nodes.names[row]
    for rule in FILTERS:
        mask = rule.mask(nodes, table.ask) if not table.capable[row] else None
        if mask is not None and not mask[row]:
            return NodeVerdict(name, False, rule.name, rule.why_not(nodes, row, table.ask))
    if not nodes.ready[row]:
        return NodeVerdict(name, False, "ready", "it is down, unwell, draining, cordoned or quarantined")
    if world.windows is not None and (by := world.windows.on(row, closing)):
        return NodeVerdict(name, False, "reserved", f"it is {said(by, world.windows.specs[by])}")
    state = world.free.state(row)
    if table.fits(world.packing, row):
        return NodeVerdict(name, True, "", "fits now")
    if state.cpu_milli < request.cpu_milli:
        free, asked = state.cpu_milli / MILLI, request.cpu_milli / MILLI
        return NodeVerdict(name, False, "cpus", f"{plural(free, 'CPU')} free, you ask {asked:g}")
    if state.memory_bytes < request.memory_bytes:
        have, want = format_size(state.memory_bytes), format_size(request.memory_bytes)
        return NodeVerdict(name, False, "memory", f"{have} of memory free, you ask {want}")
    gpus = request.gpus
    count, milli = (gpus.count, gpus.milli) if gpus else (0, MILLI)
    fitting = sum(left >= milli for left in state.gpus)
    share = "" if milli == MILLI else f" with {milli / MILLI:g}"
    total = int(nodes.gpu_total[row])
    detail = f"{fitting} of {plural(total, 'GPU')}{share} free, you ask {count}"
    return NodeVerdict(name, False, "gpus", detail)


def _budgets(job_class: JobClass, planner: Planner, table: Table, job_id: str) -> tuple[BudgetVerdict, ...]:
    """Each hard budget's room, what is set aside for this very job in it, against the hold at the cheapest
    place.
    """
    rate = max(table.cheapest_rate(job_class.nodes), 0)
    needed = cumulative(rate, job_class.start_hold_us)
    budgets, own = planner.snapshot.budgets, planner.rooms.aside_for(job_id)
    return tuple(
        BudgetVerdict(budgets[name], needed, needed <= planner.rooms.room_nanos(name) + own.get(name, 0))
        for name in job_class.budgets
        if name in budgets
    )


def _holders(snapshot: Snapshot, table: Table) -> tuple[tuple[str, str, int], ...]:
    """Who runs on the nodes it could use, soonest end first."""
    running, names = snapshot.running, snapshot.nodes.names
    rows = np.flatnonzero(table.usable[running.node]).tolist()
    ends, nodes = running.ends_at.tolist(), running.node.tolist()
    rows.sort(key=lambda row: (ends[row], running.attempt_ids[row], nodes[row]))
    return tuple((names[nodes[row]], running.attempt_ids[row], ends[row]) for row in rows[:HOLDERS_SHOWN])


def _alternatives(snapshot: Snapshot, index: int, now: int, planner: Planner) -> tuple[Alternative, ...]:
    """Changes that a plan has been seen to start now. `index`: of the queue of this one job."""
    queue, found = snapshot.queues[index], []
    order, job_id = queue.jobs[0]
    since_us, project = queue.jobs.since_us.item(0), queue.jobs.projects.item(0)
    deadline_us, user = queue.jobs.deadlines_us.item(0), queue.jobs.users.item(0)
    others = [other for row, other in enumerate(snapshot.queues) if row != index]
    for change, job_class in candidates(planner, queue.class_at(0)):
        row = (order, job_id, job_class.time_limit_us, since_us, project, deadline_us, user)
        jobs = JobColumns.of([row])
        changed = PendingQueue(job_class.without_limit(), queue.priority, jobs)
        trial = plan(replace(snapshot, queues=(*others, changed)), now)
        start = _start_of(trial.starts, job_id)
        if start is None:
            continue
        rows = [member.node for member in start.members]
        priced = all(int(snapshot.nodes.rate[row]) >= 0 for row in rows)
        found.append(
            Alternative(
                change,
                tuple(snapshot.nodes.names[row] for row in rows),
                sum(member.rates.total for member in start.members),
                start.hold_nanos,
                snapshot.currency,
                priced,
            )
        )
    return tuple(found)
