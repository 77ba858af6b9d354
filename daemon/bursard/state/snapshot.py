"""The world as one cycle sees it.

Why     a plan can be made in a thread, saved and made again only if nothing it was made from moves. Columns
        are shared until the next write (`cluster`, `columns`), queues and rooms are values.
"""

from __future__ import annotations

from bursar.model import EndCause
from bursar_policies.decision import Holder, Snapshot, Stop
from bursard.state.tables import Tables, stays


def take(tables: Tables, asked: str = "") -> Snapshot:
    """The frozen world for one cycle. `asked`: a queued job that it has in any case."""
    queues, rules = tables.pending.queues(asked), tables.priority
    fair = rules is not None and "fair_share" in dict(rules.weights)
    preempts = rules is not None and rules.preempt_gap
    return Snapshot(
        version=tables.version,
        nodes=tables.cluster.columns(),
        queues=queues,
        running=tables.members.columns(),
        budgets=tables.rooms(queues),
        strategy=tables.strategy,
        typical=tables.typical.requests,
        facts_version=tables.cluster.facts_version + 1,
        prices=tables.cluster.prices_digest(),
        policies=tables.policies_digest(),
        currency=tables.currency,
        priority=rules,
        projects=tables.pending.projects(),
        spent=tables.costs.of_last(rules.share_days) if rules is not None and fair else {},
        holders=_holders(tables) if preempts or tables.quotas.guarantees else {},
        quotas=tables.quotas.specs,
        holdings=tables.quotas.holdings() if tables.quotas else {},
        reservations=tables.reservations.specs,
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
            exempt=stays(spec) or bool(attempt.after),
        )
    return found
