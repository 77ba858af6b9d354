"""The state: what is true now, and what may become true. `decide(state, command, …) -> events`, `apply`."""

from bursard.state.core import State
from bursard.state.records import (
    ArrayRecord,
    AttemptRecord,
    JobRecord,
    MachineRecord,
    MachineState,
    MemberRecord,
    NodeRecord,
)
from bursard.state.tables import HOLD_MARGIN_US, Applied, Limits, NodeToken

__all__ = [
    "HOLD_MARGIN_US",
    "Applied",
    "ArrayRecord",
    "AttemptRecord",
    "JobRecord",
    "Limits",
    "MachineRecord",
    "MachineState",
    "MemberRecord",
    "NodeRecord",
    "NodeToken",
    "State",
]
