"""From durable events to agents: what each connected agent must be told, and nothing before it is durable.

Owns    the connected agents and what is on its way to them.
Input   events after their commit, agents' hellos. Output: `Assign`, `Stop`, `Forget`, `Ack`, `MeterNow`.
Why     idempotent by attempt id and rank: everything here may be said twice (a reconnect says it again),
        and an agent starts a member at most once (J3).
"""

from bursard.fleet.fleet import Fleet
from bursard.fleet.link import (
    AgentLink,
    Assign,
    Forget,
    LogAnswer,
    LogAsk,
    MeterNow,
    Outgoing,
    Stop,
    UsageAck,
)

__all__ = [
    "AgentLink",
    "Assign",
    "Fleet",
    "Forget",
    "LogAnswer",
    "LogAsk",
    "MeterNow",
    "Outgoing",
    "Stop",
    "UsageAck",
]
