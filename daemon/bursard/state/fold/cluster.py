"""How the cluster's own events change the state: its name, and who may enrol as a node."""

from __future__ import annotations

import msgspec

from bursard.events import (
    ClockStepped,
    ClusterCreated,
    LogResumed,
    NodeEnrolled,
    NodeTokenIssued,
    NodeTokenRevoked,
)
from bursard.state.tables import Applied, NodeToken, Tables


def cluster_created(state: Tables, event: ClusterCreated, at: int, applied: Applied) -> None:
    """The first event of a log."""
    state.cluster_id, state.currency = event.cluster_id, event.currency


def clock_stepped(state: Tables, event: ClockStepped, at: int, applied: Applied) -> None:
    """Nothing hangs on it: periods and begin times look at the time itself."""


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
