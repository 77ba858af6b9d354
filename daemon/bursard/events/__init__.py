"""Everything that ever happened: the union of events, how they are written, how older ones are read.

Owns    the persistent vocabulary. The log is the truth; state, ledger and reports are folds over it.
Change  `union` has the types. Adding an optional field or an event is free. Anything else bumps `SCHEMA`
        and adds a step to `upgrade`, so that what every released version wrote still opens (P1, ADR-0008).
"""

from __future__ import annotations

from bursard.events.codec import SCHEMA, NewerSchema, decode, encode
from bursard.events.union import (
    AttemptEnded,
    AttemptPlaced,
    Charge,
    ClusterCreated,
    Event,
    ExitReport,
    HoldsRolled,
    JobEnded,
    JobHeld,
    JobReleased,
    JobRequeued,
    JobSubmitted,
    JobUpdated,
    MemberEnded,
    MemberStarted,
    NodeBooted,
    NodeConnected,
    NodeEnrolled,
    NodeMetered,
    NodePriced,
    NodeRegistered,
    NodeScheduling,
    NodeSilent,
    NodeTokenIssued,
    PolicyApplied,
    PolicyDocument,
    PolicyRemoved,
    StopRequested,
    ThresholdCrossed,
)

__all__ = [
    "SCHEMA",
    "AttemptEnded",
    "AttemptPlaced",
    "Charge",
    "ClusterCreated",
    "Event",
    "ExitReport",
    "HoldsRolled",
    "JobEnded",
    "JobHeld",
    "JobReleased",
    "JobRequeued",
    "JobSubmitted",
    "JobUpdated",
    "MemberEnded",
    "MemberStarted",
    "NewerSchema",
    "NodeBooted",
    "NodeConnected",
    "NodeEnrolled",
    "NodeMetered",
    "NodePriced",
    "NodeRegistered",
    "NodeScheduling",
    "NodeSilent",
    "NodeTokenIssued",
    "PolicyApplied",
    "PolicyDocument",
    "PolicyRemoved",
    "StopRequested",
    "ThresholdCrossed",
    "decode",
    "encode",
]
