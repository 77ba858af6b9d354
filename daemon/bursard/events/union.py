"""The event union: everything that ever happened, in the order it became true.

Owns    the types. How they are written and how older ones are read is `codec`'s and `upgrade`'s.
Why     a fact that money rests on is stored as decided (charges carry their amounts and price ids), so
        replaying the log gives the identical ledger whatever a later version computes (L10, ADR-0002).
"""

from __future__ import annotations

from typing import Any

import msgspec

from bursar.model import (
    DeviceUse,
    EndCause,
    Hold,
    JobSpec,
    JobState,
    MemberAllocation,
    NodeFacts,
    Progress,
    ShareRates,
    Steps,
)
from bursar_policies.specs import Spec
from bursard.events.anomalies import AnomalyFound
from bursard.events.bills import BillKept
from bursard.events.budgets import (
    ApprovalLapsed,
    BudgetApproved,
    BudgetClosed,
    BudgetGranted,
    BudgetOpened,
    BudgetTransferred,
    HoldsRolled,
    RestCarried,
    ThresholdCrossed,
)
from bursard.events.clock import ClockDoubted, ClockStepped
from bursard.events.condition import NodeCondition
from bursard.events.deadlines import DeadlineBroken, DeadlinePromised
from bursard.events.follow import Follow
from bursard.events.lives import LogResumed
from bursard.events.measured import (
    AttemptAttached,
    AttemptIdle,
    IdleActed,
    IdleOver,
    IdleSeen,
    NodeCalibrated,
)
from bursard.events.periods import PeriodClosed, PeriodSigned
from bursard.events.rights import RoleGranted, RoleRevoked, SecretRemoved, SecretSet
from bursard.events.services import OfServices


class Charge(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Cost of one thing on one node over `[start, end)`, inside one hour of the node's own axis.

    Attributes:
        kind: `usage` (an attempt's share), `idle` (nobody's share of a node that was up), `down` (the machine
            was off: it came back with another boot), `unknown` (nobody ever said), `overhead` (rounding:
            makes shares and node cost tie to the nano), `variance` (what shares are to pay at the price in
            force, less what they pay at the one they were placed at), `absorption` (what shares cost the
            site, less what they are to pay: below 0 when jobs pay more).
        start, end: instants on the node's axis (anchored wall time + boot time since).
        gpu, cpu, memory: nanos by component; `nanos` is their sum for usage and idle.
        nanos: amount. price_id: what it was priced by; empty: the price is unknown, amount 0.
    """

    kind: str
    node_id: str
    start: int
    end: int
    nanos: int
    price_id: str
    attempt_id: str = ""
    job_id: str = ""
    rank: int = 0
    gpu: int = 0
    cpu: int = 0
    memory: int = 0


class ExitReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one member ended, as its supervisor saw it. Durations are boot-time microseconds.

    Attributes:
        ran_us: until its own process was gone; 0: not known. stopped: it had been told to end.
        unbegun: its node lost it before any process of it was made. progress: that it told last.
        device_use: as its agent saw it. image_digest: of its container. pull_us: until its image was there.
    """

    cause: EndCause
    exit_code: int = -1
    signal: int = 0
    message: str = ""
    held_us: int = 0
    cpu_us: int = 0
    max_rss_bytes: int = 0
    log_bytes: int = 0
    gpu_energy_millijoules: int = 0
    gpu_energy_source: str = ""
    ran_us: int = 0
    stopped: bool = False
    unbegun: bool = False
    progress: Progress | None = None
    device_use: DeviceUse | None = None
    steps: Steps | None = None
    image_digest: str = ""
    pull_us: int = 0


class PolicyDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """One applied document, as it was understood when it was applied.

    Attributes:
        text: its YAML, to be shown; nothing is decided on it.
        spec: what it says; None when this version cannot read the document: then it is not in force.
        problem: why it could not be read.
    """

    kind: str
    name: str
    version: int
    effective_at: int
    text: str
    spec: Spec | None = None
    problem: str = ""


class ClusterCreated(msgspec.Struct, frozen=True, tag="cluster-created"):
    """The first event of a log."""

    cluster_id: str
    currency: str


class JobSubmitted(msgspec.Struct, frozen=True, tag="job-submitted", omit_defaults=True):
    """A job was accepted. Array tasks are `job_id.index`, derived, not stored.

    `dependencies` holds (job id, when) for those not yet satisfied at submission, `follows` those of its
    tasks one by one. `digest` is of the job as it was asked for, where that is not `spec`: its dependencies
    were named otherwise than by their ids.
    """

    job_id: str
    number: int
    user: str
    spec: JobSpec
    key: str = ""
    dependencies: tuple[tuple[str, str], ...] = ()
    digest: bytes = b""
    follows: tuple[Follow, ...] = ()


class JobHeld(msgspec.Struct, frozen=True, tag="job-held"):
    """A pending job was put on hold."""

    job_id: str


class JobReleased(msgspec.Struct, frozen=True, tag="job-released"):
    """A held job may start again."""

    job_id: str


class JobUpdated(msgspec.Struct, frozen=True, tag="job-updated", omit_defaults=True):
    """The spec of a job was changed. What of it a live attempt lives by is told by events of its own.

    Attributes:
        fields: those that changed (`events.changes`). whole: all there are, what is left out being at its
            default; so it was up to schema 2.
        changed: field, old, new, in words; of private fields neither.
    """

    job_id: str
    fields: dict[str, Any]
    changed: tuple[tuple[str, str, str], ...] = ()
    whole: bool = False


class JobRequeued(msgspec.Struct, frozen=True, tag="job-requeued"):
    """An operator or its owner asked that a job runs again after its live attempt has ended."""

    job_id: str


class JobEnded(msgspec.Struct, frozen=True, tag="job-ended", omit_defaults=True):
    """A job reached a terminal state. `message` says why when no attempt does."""

    job_id: str
    state: JobState
    message: str = ""


class TasksEnded(msgspec.Struct, frozen=True, tag="tasks-ended", omit_defaults=True):
    """Every task of an array that was pending reached a terminal state, however many there were."""

    job_id: str
    state: JobState
    message: str = ""


class AttemptPlaced(msgspec.Struct, frozen=True, tag="attempt-placed", kw_only=True, omit_defaults=True):
    """Money is held and devices are taken for one attempt; its agents are told only after this is durable.

    Each member is bound to the boot its node is in at this event: an assignment never outlives a reboot.

    Attributes:
        number: 1 for the first attempt of the job.
        time_limit_us: enforced by the supervisor. grace_us: between signal and kill.
        holds: one per matching budget, the same worst case in each.
        currency: of the rates and holds. port: rendezvous port of a gang on rank 0's node.
        cut_by_budget: the time limit is what money pays for, so reaching it ends in `budget`.
        after: of a single member that was placed ahead of need, the attempt whose share it gets: the same
            share of the same node, once that one's processes are gone. Until then it takes no room.
        lease_us: its budgets pay by leases of so long; 0: they hold its worst case. full_limit_us: how far
            those may go.
    """

    attempt_id: str
    job_id: str
    number: int = 1
    option: int = 0
    members: tuple[MemberAllocation, ...]
    time_limit_us: int
    grace_us: int
    holds: tuple[Hold, ...] = ()
    currency: str
    why: str = ""
    port: int = 0
    cut_by_budget: bool = False
    after: str = ""
    lease_us: int = 0
    full_limit_us: int = 0


class MemberStarted(msgspec.Struct, frozen=True, tag="member-started"):
    """A member's process exists. `at` is on the node's axis, `boot_us` the agent's boot time.

    `measured`: the attempt and its job run since `at`; else, as it was before, since this was recorded.
    """

    attempt_id: str
    rank: int
    at: int
    boot_us: int
    pid: int
    measured: bool = False


class StopRequested(msgspec.Struct, frozen=True, tag="stop-requested"):
    """A live attempt must end, and why. `grace_us` 0 means kill now. `for_job`: who gets its place."""

    attempt_id: str
    cause: EndCause
    grace_us: int
    message: str = ""
    for_job: str = ""


class LimitChanged(msgspec.Struct, frozen=True, tag="limit-changed", omit_defaults=True):
    """A live attempt gets another time limit, counted from its start; its agents are told once it is durable.

    A later limit is paid for from this event on. An earlier one is believed once every live member has taken
    it: until then the attempt is billed, and money is held, by the one before.

    Attributes:
        order: 1 for the first change of the attempt, counted up.
        hold_nanos: the worst case held for it in each of its budgets from now on, less what is settled.
        cut_by_budget: as in `AttemptPlaced`.
        full_limit_us: how far leases go from now on; 0: as far as before, or there are none.
    """

    attempt_id: str
    order: int
    time_limit_us: int
    hold_nanos: int
    cut_by_budget: bool = False
    full_limit_us: int = 0


class LimitTaken(msgspec.Struct, frozen=True, tag="limit-taken", omit_defaults=True):
    """A member lives by the limit of an order, whatever is killed.

    Attributes:
        ran_us: how long it had run at most by then: a limit that has passed already ends it no earlier.
        time_limit_us, hold_nanos: in force from now on, since all members have taken it; 0: others have not.
    """

    attempt_id: str
    rank: int
    order: int
    ran_us: int = 0
    time_limit_us: int = 0
    hold_nanos: int = 0


class LimitRefused(msgspec.Struct, frozen=True, tag="limit-refused"):
    """A member goes on by the limit it had. It is asked again whenever its agent connects."""

    attempt_id: str
    rank: int
    order: int
    problem: str


class MemberOverdue(msgspec.Struct, frozen=True, tag="member-overdue"):
    """A member's node is in contact and has not done in time what it was told.

    Attributes:
        phase: what did not happen: `start`, or the end: `limit` (time limit and grace have passed) or `stop`
            (it was told to stop, and its grace has passed). message: that in words.
    """

    attempt_id: str
    rank: int
    phase: str
    message: str


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """What a member held since it was charged last, written as an array: `Used` of one that is known.

    Attributes:
        held_us: its cumulative counter up to where this piece ends: it begins at the counter before.
        gpu, cpu, memory: nanos by component, at the price the member was placed with.
    """

    held_us: int
    gpu: int
    cpu: int
    memory: int


class MemberEnded(msgspec.Struct, frozen=True, tag="member-ended", omit_defaults=True):
    """A member's process tree is gone; `pieces`, cut at full hours, settle what was not yet settled."""

    attempt_id: str
    rank: int
    report: ExitReport
    pieces: tuple[Piece, ...] = ()


class AttemptEnded(msgspec.Struct, frozen=True, tag="attempt-ended", omit_defaults=True):
    """All members are gone: exactly one terminal state, immutable. What was held is released.

    `requeue`: the job goes back to PENDING, and waits `wait_us`; `counts`: this used up one of `retry.max`.
    """

    attempt_id: str
    cause: EndCause
    exit_code: int = 0
    message: str = ""
    requeue: bool = False
    counts: bool = True
    wait_us: int = 0


class NodeRegistered(msgspec.Struct, frozen=True, tag="node-registered"):
    """A node said what it has, for the first time or after a change."""

    node_id: str
    facts: NodeFacts


class NodePriced(msgspec.Struct, frozen=True, tag="node-priced", omit_defaults=True):
    """A node's price from `since` on: nanos per hour by component; no `price_id` means unknown.

    Attributes:
        rates: the charge rate: what jobs pay for all of it.
        since: on the node's axis; 0, as in what was written before there was one: from the event on.
        cost: what it costs its site; None where that is the same, as in all that was written before the two
            were told apart.
    """

    node_id: str
    price_id: str
    rates: ShareRates
    since: int = 0
    cost: ShareRates | None = None


class NodeBooted(msgspec.Struct, frozen=True, tag="node-booted"):
    """A new boot of a node: anchors its axis: axis(b) = anchor_at + (b - anchor_boot_us).

    `seen_*`: the daemon's own clocks at that moment (boot id and boot clock of its machine, wall time), by
    which everything this boot says is bounded later; empty in what the first release wrote.
    """

    node_id: str
    boot_id: str
    anchor_at: int
    anchor_boot_us: int
    charges: tuple[Charge, ...] = ()
    seen_boot_id: str = ""
    seen_boot_us: int = 0
    seen_at: int = 0


class NodeRedated(msgspec.Struct, frozen=True, tag="node-redated", omit_defaults=True):
    """A node's axis follows a step of the clock that was believed: what came behind `from_at` on it comes
    behind `to_at`. What was booked keeps its dates.

    `charges`: who owns what lies between where time has passed there; none where only the clock was wrong.
    """

    node_id: str
    from_at: int
    to_at: int
    charges: tuple[Charge, ...] = ()


class NodeConnected(msgspec.Struct, frozen=True, tag="node-connected", omit_defaults=True):
    """The node's agent is in contact. `refused`: hellos since the last one that were refused as too many."""

    node_id: str
    refused: int = 0


class NodeSilent(msgspec.Struct, frozen=True, tag="node-silent"):
    """The node's agent is out of contact; its jobs may still run, so nothing of theirs is given away."""

    node_id: str


class NodeScheduling(msgspec.Struct, frozen=True, tag="node-scheduling"):
    """`mode`: open | cordon (no new work) | drain (no new work, then stop what runs past `deadline_us`)."""

    node_id: str
    mode: str
    reason: str = ""


class NodeQuarantined(msgspec.Struct, frozen=True, tag="node-quarantined"):
    """A node said what cannot be true, or does not do what it was told: no new work until an operator resumes
    it. Its running work goes on.
    """

    node_id: str
    reason: str


class NodeMisbehaved(msgspec.Struct, frozen=True, tag="node-misbehaved"):
    """A node did what is no lie once: `how`, in words; `job_id`: the job that it could not start,
    or `user:NAME` who has no account there.
    """

    node_id: str
    how: str
    job_id: str = ""


class NodeRemoved(msgspec.Struct, frozen=True, tag="node-removed"):
    """A node is gone for good: its time is owned up to here, its secrets are void. Its name may return."""

    node_id: str
    name: str


class Used(msgspec.Struct, frozen=True, array_like=True):
    """What a live member held since it was charged last, written as an array.

    Attributes:
        held_us: its cumulative counter up to where this piece ends: it begins at the counter before.
        gpu, cpu, memory: nanos by component, at the price the member was placed with.
    """

    attempt_id: str
    rank: int
    held_us: int
    gpu: int
    cpu: int
    memory: int


class Rest(msgspec.Struct, frozen=True, array_like=True):
    """A part of the node's time that no member holds, written as an array.

    Attributes:
        kind: idle | down | unknown | overhead | variance | absorption.
        from_us, to_us: how long before `through` it begins and ends.
        gpu, cpu, memory: nanos by component, at the event's own price.
    """

    kind: str
    from_us: int
    to_us: int
    gpu: int
    cpu: int
    memory: int


class NodeMetered(msgspec.Struct, frozen=True, tag="node-metered", omit_defaults=True):
    """One node's time up to `through` is owned by somebody, to the nano.

    It is written once a minute and node, so it says nothing twice: what a member belongs to, its price and
    where its time began follow from the events before.

    Attributes:
        through: on the node's axis; from the previous `through`.
        price_id: of the node's own time. used: of live members, cut at full hours (ended ones were settled
            at their end). rest: so that all of the interval sums to the node's own cost.
        posted: its pieces, with what is open of their hours, are rows: where the period of a budget ends
            inside an hour. Each piece was one of its own before rows stood for whole hours.
    """

    node_id: str
    through: int
    price_id: str = ""
    used: tuple[Used, ...] = ()
    rest: tuple[Rest, ...] = ()
    posted: bool = False


class Attribution(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whom a charge is for, as it is written beside it. `labels`: a JSON object."""

    project: str = ""
    user: str = ""
    experiment: str = ""
    model: str = ""
    model_version: str = ""
    labels: str = "{}"


class Corrected(msgspec.Struct, frozen=True, array_like=True):
    """One charge that is taken back, and what stands in its place; written as an array.

    Attributes:
        of: the event that posted it; of one that stands in the place of another, its own.
        start, end, held_us: the time that it is for, however often it was corrected.
        gpu, cpu, memory: nanos by component as it stood. to_gpu, to_cpu, to_memory: from now on.
        energy_millijoules: of what it is about: it goes with the charge, to whom that is for. 0 in what was
            written before, when it stayed where it was.
    """

    of: int
    start: int
    end: int
    held_us: int
    gpu: int
    cpu: int
    memory: int
    to_gpu: int
    to_cpu: int
    to_memory: int
    energy_millijoules: int = 0

    @property
    def more_nanos(self) -> int:
        """What is to be paid more, below zero less."""
        return self.to_gpu + self.to_cpu + self.to_memory - self.gpu - self.cpu - self.memory


class BudgetShift(msgspec.Struct, frozen=True, array_like=True):
    """A budget's account has settled so much more in one of its periods, below zero less."""

    budget: str
    period_start: int
    nanos: int


class ChargesCorrected(
    msgspec.Struct, frozen=True, tag="charges-corrected", kw_only=True, omit_defaults=True
):
    """Charges of one member of an ended attempt are reversed and posted anew, where the books are open.

    The node cost what it cost: what its job pays less or more is the node's variance. All that the rows say
    is in here, since neither the job nor the node need be known any more.

    Attributes:
        booked_at: the instant that the new rows are of.
        attribution: as the charges were written. share: thousandths of a GPU, devices, thousandths of a CPU
            and bytes of memory. rates: that they were priced at.
        budgets: accounts that cover the job now, each in its current period.
        kind: of the charges; those of a launch have the machine's id for that of an attempt.
        moved_to: whom they are for from now on, at the same amounts and prices; None: for whom they were.
    """

    job_id: str
    job_number: int
    attempt_id: str
    rank: int = 0
    booked_at: int
    node_id: str
    node_name: str
    pool: str = ""
    simulated: int = 0
    price_id: str = ""
    attribution: Attribution
    share: tuple[int, int, int, int] = (0, 0, 0, 0)
    rates: ShareRates = ShareRates()
    reason: str
    charges: tuple[Corrected, ...]
    budgets: tuple[BudgetShift, ...] = ()
    kind: str = "usage"
    moved_to: Attribution | None = None


class MachineIntended(msgspec.Struct, frozen=True, tag="machine-intended", kw_only=True, omit_defaults=True):
    """A machine is to be rented: written before its provider is called, who is given `machine_id`.

    Attributes:
        why: what it is for. lease_until: it is to end then unless its agent has said hello.
        name, pool: of the node that its agent will be.
        job_id: whose launch it is: it holds what that may cost, and pays for it until the agent is there.
        holds: one per budget of the job, for the launch and the job's own run.
        facts: what the node will be, as the offer has it. rate: nanos per hour of the offer.
        moves: its job runs elsewhere, and goes on there once it is up.
    """

    machine_id: str
    provider: str
    region: str
    zone: str
    instance_type: str
    market: str
    why: str
    lease_until: int
    name: str = ""
    pool: str = ""
    job_id: str = ""
    holds: tuple[Hold, ...] = ()
    facts: NodeFacts | None = None
    rate: int = 0
    moves: bool = False


class MachineLaunched(msgspec.Struct, frozen=True, tag="machine-launched"):
    """The provider took the call; `provider_id` is its own name for the machine."""

    machine_id: str
    provider_id: str


class MachineUp(msgspec.Struct, frozen=True, tag="machine-up"):
    """The provider says that it runs, and bills it since `billed_from`."""

    machine_id: str
    billed_from: int


class MachineJoined(msgspec.Struct, frozen=True, tag="machine-joined", omit_defaults=True):
    """Its agent said hello as this node; later, who pays for its launch (`decide/launches`): `charges` of the
    time up to `through`, `pending`, or paid: by a job from what it holds by the id of a machine, or nobody.
    `waits`: nothing starts there yet. `keeps`: what was held stays so; in logs of before there was `pending`.
    """

    machine_id: str
    node_id: str
    through: int = 0
    charges: tuple[Charge, ...] = ()
    keeps: bool = False
    pending: bool = False
    waits: bool = False


class MachineEnding(msgspec.Struct, frozen=True, tag="machine-ending"):
    """It is not wanted any more, and still paid for."""

    machine_id: str
    reason: str


class MachineGone(msgspec.Struct, frozen=True, tag="machine-gone", omit_defaults=True):
    """The provider lists it as gone: it was billed until `billed_until`. `refund`: what its node cost by the
    meter and its provider does not bill, with its sign turned.
    """

    machine_id: str
    billed_until: int
    reason: str
    refund: tuple[Charge, ...] = ()


class PolicyApplied(msgspec.Struct, frozen=True, tag="policy-applied"):
    """Documents applied together."""

    documents: tuple[PolicyDocument, ...]


class PolicyRemoved(msgspec.Struct, frozen=True, tag="policy-removed"):
    """A document stops being in force from now on."""

    kind: str
    name: str


class NodeTokenIssued(msgspec.Struct, frozen=True, tag="node-token-issued"):
    """A node may enrol with a secret whose SHA-256 this is, until `expires_at`.

    `valid_until`: the end of the secret, also once it is bound to an agent; 0: none.
    """

    name: str
    sha256: str
    expires_at: int
    valid_until: int = 0


class NodeEnrolled(msgspec.Struct, frozen=True, tag="node-enrolled"):
    """A node used its secret for the first time: from now on it is this agent's own.

    `instance` names the agent's state directory. Other secrets of the node stop working.
    """

    name: str
    sha256: str
    instance: str


class NodeTokenRevoked(msgspec.Struct, frozen=True, tag="node-token-revoked"):
    """A node's secret is void from now on."""

    name: str
    sha256: str


Event = (
    ClusterCreated
    | ClockDoubted
    | ClockStepped
    | LogResumed
    | JobSubmitted
    | JobHeld
    | JobReleased
    | JobUpdated
    | JobRequeued
    | JobEnded
    | TasksEnded
    | AttemptPlaced
    | MemberStarted
    | StopRequested
    | LimitChanged
    | LimitTaken
    | LimitRefused
    | MemberOverdue
    | AttemptIdle
    | IdleActed
    | IdleOver
    | IdleSeen
    | AttemptAttached
    | DeadlinePromised
    | DeadlineBroken
    | MemberEnded
    | AttemptEnded
    | NodeRegistered
    | NodePriced
    | NodeBooted
    | NodeRedated
    | NodeConnected
    | NodeSilent
    | NodeScheduling
    | NodeQuarantined
    | NodeMisbehaved
    | NodeCalibrated
    | NodeCondition
    | NodeRemoved
    | NodeMetered
    | ChargesCorrected
    | AnomalyFound
    | BillKept
    | PeriodClosed
    | PeriodSigned
    | MachineIntended
    | MachineLaunched
    | MachineUp
    | MachineJoined
    | MachineEnding
    | MachineGone
    | PolicyApplied
    | PolicyRemoved
    | HoldsRolled
    | BudgetOpened
    | BudgetClosed
    | BudgetGranted
    | BudgetTransferred
    | BudgetApproved
    | ApprovalLapsed
    | RestCarried
    | ThresholdCrossed
    | NodeTokenIssued
    | NodeEnrolled
    | NodeTokenRevoked
    | RoleGranted
    | RoleRevoked
    | SecretSet
    | SecretRemoved
    | OfServices
)
