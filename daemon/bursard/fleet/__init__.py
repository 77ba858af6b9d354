"""The fleet: the machines, whatever runs on them, and what may be believed of what they say.

Owns    connected nodes, what is on its way to them, and every report of theirs on its way to the books.
Input   events after their commit; words of a `Backend` (`bursard.fleet.agents` is the first).
Why     idempotent by attempt id and rank: everything here may be said twice (a reconnect says it again),
        and a member starts at most once (J3). Nothing is said before it is durable.
"""

from bursard.fleet.agents import Agents
from bursard.fleet.backend import Backend
from bursard.fleet.fleet import Fleet
from bursard.fleet.link import AgentLink, LogAsk, LogGrew, MeterNow, Outgoing, UsageAck
from bursard.fleet.words import (
    Assign,
    Condition,
    Counter,
    Exited,
    Forget,
    Heartbeat,
    Hello,
    Limit,
    LimitTaken,
    LogAnswer,
    LogRange,
    MemberTruth,
    Notice,
    Probe,
    Readiness,
    Started,
    StepFrame,
    Stop,
    Usage,
)

__all__ = [
    "AgentLink",
    "Agents",
    "Assign",
    "Backend",
    "Condition",
    "Counter",
    "Exited",
    "Fleet",
    "Forget",
    "Heartbeat",
    "Hello",
    "Limit",
    "LimitTaken",
    "LogAnswer",
    "LogAsk",
    "LogGrew",
    "LogRange",
    "MemberTruth",
    "MeterNow",
    "Notice",
    "Outgoing",
    "Probe",
    "Readiness",
    "Started",
    "StepFrame",
    "Stop",
    "Usage",
    "UsageAck",
]
