"""The state: what is true now, and what may become true. `decide(state, command, …) -> events`, `apply`."""

from bursard.state.core import HOLD_MARGIN_US, Applied, Limits, State
from bursard.state.records import ArrayRecord, AttemptRecord, JobRecord, MemberRecord, NodeRecord

__all__ = [
    "HOLD_MARGIN_US",
    "Applied",
    "ArrayRecord",
    "AttemptRecord",
    "JobRecord",
    "Limits",
    "MemberRecord",
    "NodeRecord",
    "State",
]
