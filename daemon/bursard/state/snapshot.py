"""The world as one cycle sees it.

Why     a plan can be made in a thread, saved and made again only if nothing it was made from moves. Columns
        are shared until the next write (`cluster`, `columns`), queues and rooms are values.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_not

from msgspec.structs import replace

from bursar.model import EndCause
from bursar.model.allocation import FREE
from bursar_policies.decision import Holder, Made, PendingQueue, Placement, Promised, Snapshot, Stop
from bursard.state.promises import Seen
from bursard.state.records import JobRecord
from bursard.state.tables import Tables, stays


def take(tables: Tables, asked: str = "") -> Snapshot:
    """The frozen world for one cycle. `asked`: a queued job that it has in any case."""
    waiting = tables.promises.waiting_ids() if tables.pending.crowded else ()
    shown = [job_id for job_id in (*waiting, *tables.made) if job_id in tables.pending]
    queues, rules = tables.pending.queues(asked, *shown), tables.priority
    fair = rules is not None and "fair_share" in dict(rules.weights)
    preempts = rules is not None and rules.preempt_gap
    return Snapshot(
        version=tables.version,
        nodes=tables.cluster.columns(),
        queues=queues,
        running=tables.members.columns(),
        budgets=tables.rooms(queues),
        strategy=tables.strategy,
        weights=tables.weights,
        typical=tables.typical.requests,
        facts_version=tables.cluster.facts_version + 1,
        prices=tables.cluster.prices_digest(),
        policies=tables.policies_digest(),
        currency=tables.currency,
        priority=rules,
        projects=tables.pending.projects(),
        users=tables.pending.users(),
        spent=tables.costs.of_last(rules.share_days) if rules is not None and fair else {},
        holders=_holders(tables) if preempts or tables.quotas.guarantees else {},
        quotas=tables.quotas.specs,
        holdings=tables.quotas.holdings() if tables.quotas else {},
        reservations=tables.reservations.specs,
        promises=_promises(tables, queues) if tables.promises else (),
        made=_made(tables, queues) if tables.made else (),
        rooms_made=dict(tables.rooms_made) if preempts else {},
        rooms_by_user=dict(tables.rooms_by_user) if preempts else {},
        moves=_moves(tables),
    )


def _moves(tables: Tables) -> tuple[Stop, ...]:
    """Of what an allocator wants to end, what lives and was not asked to yet."""
    live = ((tables.attempts.get(one), message) for one, message in tables.allotments.moves.items())
    return tuple(
        Stop(attempt.id, EndCause.PREEMPTED, message=message)
        for attempt, message in live
        if attempt is not None and attempt.stop_cause is None
    )


def _promises(tables: Tables, queues: Sequence[PendingQueue]) -> tuple[Promised, ...]:
    """Places that are kept, on nodes that are there. What did not change is the same object as before, and so
    are all of them together where nothing did.
    """
    table, facts = tables.promises, tables.cluster.facts_version
    waiting, seen_of, found = table.waiting_ids(), table.seen, list[Promised]()
    for job_id, queue in zip(waiting, tables.pending.indices(waiting, queues), strict=True):
        seen = seen_of.get(job_id)
        if seen is None or seen.facts != facts:
            made = _promised(tables, table.given[job_id], queue)
            seen = seen_of[job_id] = Seen(facts, queue, made)
        elif seen.queue != queue:
            made = None if seen.made is None else replace(seen.made, queue=queue)
            seen = seen_of[job_id] = Seen(facts, queue, made)
        if seen.made is not None:
            found.append(seen.made)
    before = table.shown
    if len(found) != len(before) or any(map(is_not, found, before)):
        table.shown = tuple(found)
    return table.shown


def _made(tables: Tables, queues: Sequence[PendingQueue]) -> tuple[Made, ...]:
    found = zip(tables.made, tables.pending.indices(tables.made, queues), strict=True)
    return tuple(Made(job_id, queue, tables.jobs[job_id].room_until) for job_id, queue in found)


def _promised(tables: Tables, job: JobRecord, queue: int) -> Promised | None:
    """What is kept for a job; None where a node of it is gone."""
    promise = job.promise
    assert promise is not None
    nodes = [tables.nodes.get(member.node_id) for member in promise.members]
    members = tuple(
        Placement(node.row, member.devices, member.cpu_milli, member.memory_bytes, FREE)
        for node, member in zip(nodes, promise.members, strict=True)
        if node is not None
    )
    if len(members) < len(promise.members):
        return None
    return Promised(
        job_id=job.id,
        queue=queue,
        by=promise.by,
        start=promise.start,
        until=promise.until,
        option=0 if promise.size is not None else promise.option,
        members=members,
        rate=promise.rate,
        hold_nanos=promise.nanos,
        budgets=tables.promises.budgets_of(job.id),
    )


def _holders(tables: Tables) -> dict[str, Holder]:
    """What lives, by attempt. A job that is told to save itself loses nothing when it is stopped."""
    found = {}
    for attempt in tables.attempts.values():
        spec = tables.jobs[attempt.job_id].spec
        found[attempt.id] = Holder(
            priority=spec.priority,
            rate=attempt.rate if attempt.priced else -1,
            unsaved_since=0 if spec.checkpoint.signal else attempt.started_at,
            grace_us=attempt.stop_grace_us if attempt.stop_cause is not None else attempt.grace_us,
            stopping=attempt.stop_cause is not None,
            exempt=stays(spec) or bool(attempt.after) or attempt.job_id in tables.promises.given,
        )
    return found
