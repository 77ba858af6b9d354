"""State: the fold of the event log, and the only thing that changes when an event is applied.

Input   events in log order (`apply`). Output: the rows the store keeps beside them (`Applied`).
Why     deterministic: no clock, no ids, no I/O; replaying the log gives the same state to the byte, which
        is what crash recovery, the simulator and the tests rely on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bursar_policies.decision import Snapshot
from bursard.events import (
    ApprovalLapsed,
    AttemptAttached,
    AttemptEnded,
    AttemptIdle,
    AttemptPlaced,
    BillKept,
    BudgetApproved,
    BudgetClosed,
    BudgetGranted,
    BudgetOpened,
    BudgetTransferred,
    ChargesCorrected,
    ClockStepped,
    ClusterCreated,
    Event,
    HoldsRolled,
    JobEnded,
    JobHeld,
    JobReleased,
    JobRequeued,
    JobSubmitted,
    JobUpdated,
    KeyIssued,
    KeyRevoked,
    LimitChanged,
    LimitRefused,
    LimitTaken,
    LogResumed,
    MachineEnding,
    MachineGone,
    MachineIntended,
    MachineJoined,
    MachineLaunched,
    MachineUp,
    MemberEnded,
    MemberOverdue,
    MemberStarted,
    NodeBooted,
    NodeCalibrated,
    NodeCondition,
    NodeConnected,
    NodeEnrolled,
    NodeMetered,
    NodeMisbehaved,
    NodePriced,
    NodeQuarantined,
    NodeRegistered,
    NodeRemoved,
    NodeScheduling,
    NodeSilent,
    NodeTokenIssued,
    NodeTokenRevoked,
    PeriodClosed,
    PeriodSigned,
    PolicyApplied,
    PolicyRemoved,
    RestCarried,
    RoleGranted,
    RoleRevoked,
    SecretRemoved,
    SecretSet,
    ServiceMetered,
    ServiceScaled,
    StopRequested,
    TasksEnded,
    ThresholdCrossed,
)
from bursard.state import snapshot
from bursard.state.fold import (
    attempts,
    cluster,
    corrections,
    jobs,
    limits,
    machines,
    nodes,
    periods,
    policies,
    rights,
    services,
)
from bursard.state.tables import Applied, Tables


class State(Tables):
    """The tables with what makes events true in them. Only `apply` writes."""

    def apply(self, event: Event, at: int, applied: Applied) -> None:
        """Make one event true. `at` is when it was recorded."""
        self.version += 1
        _APPLY[type(event)](self, event, at, applied)

    def snapshot(self, asked: str = "") -> Snapshot:
        """The frozen world for one cycle. `asked`: a queued job that it has in any case."""
        return snapshot.take(self, asked)


_APPLY: Mapping[type, Callable[..., None]] = {
    ClockStepped: cluster.clock_stepped,
    ClusterCreated: cluster.cluster_created,
    LogResumed: cluster.log_resumed,
    PolicyApplied: policies.policy_applied,
    PolicyRemoved: policies.policy_removed,
    HoldsRolled: policies.holds_rolled,
    BudgetOpened: policies.budget_opened,
    BudgetClosed: policies.budget_closed,
    BudgetGranted: policies.budget_granted,
    BudgetTransferred: policies.budget_transferred,
    BudgetApproved: policies.budget_approved,
    ApprovalLapsed: policies.approval_lapsed,
    RestCarried: policies.rest_carried,
    ThresholdCrossed: policies.threshold_crossed,
    NodeTokenIssued: cluster.token_issued,
    NodeTokenRevoked: cluster.token_revoked,
    NodeEnrolled: cluster.enrolled,
    RoleGranted: rights.granted,
    RoleRevoked: rights.revoked,
    SecretSet: rights.secret_set,
    SecretRemoved: rights.secret_removed,
    JobSubmitted: jobs.submitted,
    JobHeld: jobs.held,
    JobReleased: jobs.released,
    JobUpdated: jobs.updated,
    JobRequeued: jobs.requeued,
    JobEnded: jobs.ended,
    TasksEnded: jobs.tasks_ended,
    AttemptPlaced: attempts.placed,
    StopRequested: attempts.stop_requested,
    MemberStarted: attempts.member_started,
    LimitChanged: limits.changed,
    LimitTaken: limits.taken,
    LimitRefused: limits.refused,
    MemberOverdue: attempts.member_overdue,
    AttemptIdle: attempts.idle,
    AttemptAttached: attempts.attached,
    MemberEnded: attempts.member_ended,
    AttemptEnded: attempts.attempt_ended,
    NodeRegistered: nodes.registered,
    NodeBooted: nodes.booted,
    NodePriced: nodes.priced,
    NodeConnected: nodes.connected,
    NodeSilent: nodes.silent,
    NodeScheduling: nodes.scheduling,
    NodeQuarantined: nodes.quarantined,
    NodeMisbehaved: nodes.misbehaved,
    NodeCalibrated: nodes.calibrated,
    NodeCondition: nodes.condition,
    MachineIntended: machines.intended,
    MachineLaunched: machines.launched,
    MachineUp: machines.up,
    MachineJoined: machines.joined,
    MachineEnding: machines.ending,
    MachineGone: machines.gone,
    NodeRemoved: nodes.removed,
    NodeMetered: nodes.metered,
    ChargesCorrected: corrections.charges_corrected,
    BillKept: periods.bill_kept,
    PeriodClosed: periods.period_closed,
    PeriodSigned: periods.period_signed,
    ServiceScaled: services.scaled,
    KeyIssued: services.key_issued,
    KeyRevoked: services.key_revoked,
    ServiceMetered: services.metered,
}
