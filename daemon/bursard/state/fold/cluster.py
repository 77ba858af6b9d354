"""How the cluster's own events change the state: its name, and who may enrol as a node."""

from __future__ import annotations

import msgspec

from bursard.events import (
    ClockDoubted,
    ClockStepped,
    ClusterCreated,
    LogResumed,
    NodeEnrolled,
    NodeTokenIssued,
    NodeTokenRevoked,
)
from bursard.state.fold.policies import redate as redate_policies
from bursard.state.records import AttemptRecord, JobRecord, NodeRecord
from bursard.state.tables import Applied, Met, NodeToken, Tables


def cluster_created(state: Tables, event: ClusterCreated, at: int, applied: Applied) -> None:
    """The first event of a log."""
    state.cluster_id, state.currency = event.cluster_id, event.currency


def clock_doubted(state: Tables, event: ClockDoubted, at: int, applied: Applied) -> None:
    """Time goes on as it did."""


def clock_stepped(state: Tables, event: ClockStepped, at: int, applied: Applied) -> None:
    """Periods and begin times look at the time itself. What lives is as old as it was by the
    clock of before: else it would wait, or not be in force, until that time has come, or be over.
    """
    ahead_us = event.was - event.became
    if not event.redates:
        return
    if ahead_us > 0:
        redate_policies(state, event.became, event.was, at)
    # What began before the clock was ahead keeps its dates; behind it was for all that lives.
    after = event.became if ahead_us > 0 else 0
    for job in state.jobs.values():
        if job.state.terminal:
            continue
        _redate(job, ("submitted_at", "started_at", "retry_at", "waits_since", "room_until"), after, ahead_us)
        for attempt in job.attempts[-1:]:
            _redate(attempt, ("placed_at", "started_at", "finished_at"), after, ahead_us)
        if job.id not in state.pending:
            state.forget_later(job)
        state.enqueue(job, at)
    for met in state.met.values():
        _redate(met, ("at",), after, ahead_us)
    for node in state.nodes.values():
        _redate(node, ("changed_at",), after, ahead_us)


def _redate(
    record: JobRecord | AttemptRecord | NodeRecord | Met, names: tuple[str, ...], after: int, us: int
) -> None:
    for name in names:
        if getattr(record, name) > after:
            setattr(record, name, getattr(record, name) - us)


def log_resumed(state: Tables, event: LogResumed, at: int, applied: Applied) -> None:
    """What followed event `through` in an earlier life is lost; its numbers are not given out again."""
    state.resumed_through, state.resumed_epoch = event.through, event.epoch
    state.next_number = max(state.next_number, event.next_number)


def token_issued(state: Tables, event: NodeTokenIssued, at: int, applied: Applied) -> None:
    """A node may enrol with this secret."""
    state.node_tokens[event.sha256] = NodeToken(
        event.name, event.sha256, event.expires_at, issued_at=at, valid_until=event.valid_until
    )


def enrolled(state: Tables, event: NodeEnrolled, at: int, applied: Applied) -> None:
    """The secret is now one agent's own; other secrets of the node stop working."""
    used = state.node_tokens.get(event.sha256, NodeToken(event.name, event.sha256, 0))
    state.node_tokens = {key: t for key, t in state.node_tokens.items() if t.name != event.name}
    state.node_tokens[event.sha256] = msgspec.structs.replace(used, expires_at=0, instance=event.instance)


def token_revoked(state: Tables, event: NodeTokenRevoked, at: int, applied: Applied) -> None:
    """A secret is void."""
    state.node_tokens.pop(event.sha256, None)
