"""What the scheduler is given and what it answers: `Snapshot` in, `Plan` out. Frozen, no I/O.

`plan(snapshot, now) -> Plan` takes no other input: daemon, simulator, `bursar plan`, a replay and tests
call exactly that. Nodes and running members are numpy columns (struct of arrays), jobs are grouped into
*classes* that ask for the same thing, so feasibility and scores are computed per class and node, never per
job. A plan says what to do in *groups* of actions, and in a few numbers what stops the rest; sentences are
made of them when somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from bursar.model import DeviceShare, EndCause, Reason, ReasonCode, ShareRates
from bursar.resources import ResourceRequest

GPU_SLOTS_MAX = 16
"""Most GPUs one node may have: the width of the device columns."""


class NodeColumns(msgspec.Struct, frozen=True):
    """Every node of the cluster, one row each; the row order is the order of registration.

    Nothing here changes once it was handed out: arrays are read-only, lists are tuples. Arrays (n = nodes,
    g = GPU_SLOTS_MAX):
        ids: node ids. names: unique names.
        ready: bool (n), up, not draining, not cordoned.
        cpu_total, cpu_free: int64 (n), thousandths. memory_total, memory_free: int64 (n), bytes.
        gpu_total: int64 (n), devices.
        gpu_free: int16 (n, g), thousandths free per device, -1 beyond gpu_total.
        gpu_type: int16 (n), index into `gpu_types`, -1 for none (one type per node).
        gpu_memory: int64 (n), bytes of each device.
        rate: int64 (n), nanos per hour of the whole node, -1 when its price is unknown.
        gpu_rate, cpu_rate, memory_rate: int64 (n), the components of `rate`; they sum to it.
        attributes: per node, (key, value) mapping used by constraints: node, pool, zone, region, rack,
            provider, instance_type, market and the labels.
        price_ids: per node, "" when unknown.
    """

    ids: Sequence[str]
    names: Sequence[str]
    ready: NDArray[np.bool_]
    cpu_total: NDArray[np.int64]
    cpu_free: NDArray[np.int64]
    memory_total: NDArray[np.int64]
    memory_free: NDArray[np.int64]
    gpu_total: NDArray[np.int64]
    gpu_free: NDArray[np.int16]
    gpu_type: NDArray[np.int16]
    gpu_memory: NDArray[np.int64]
    rate: NDArray[np.int64]
    gpu_rate: NDArray[np.int64]
    cpu_rate: NDArray[np.int64]
    memory_rate: NDArray[np.int64]
    gpu_types: Sequence[str]
    attributes: Sequence[Mapping[str, str]]
    price_ids: Sequence[str]


class JobClass(msgspec.Struct, frozen=True):
    """Everything about a pending job that decides where it may go and what it may cost.

    Two jobs of one class differ only in their place in the queue.

    Attributes:
        time_limit_us: always > 0 here: the worst case the hold pays for (grace and margin not included).
        hold_us: what the hold covers: time limit + grace + margin.
        budgets: names of the hard budgets that must all pay; last, of a task, the `max_cost` of its array
            (`cap_of`).
        max_price_nanos_per_hour: 0 for none; of the whole gang.
        max_cost_nanos: 0 for none; what is left of the job's own cap; the time limit is cut to it.
            Nothing left is -1, so that it is not read as none.
        avoid_nodes: node ids not to use (retry.avoid_same_node).
    """

    nodes: int
    options: tuple[ResourceRequest, ...]
    ordered: bool
    constraints: tuple[tuple[str, str], ...]
    spot_policy: str
    time_limit_us: int
    hold_us: int
    budgets: tuple[str, ...]
    max_price_nanos_per_hour: int = 0
    max_cost_nanos: int = 0
    avoid_nodes: tuple[str, ...] = ()


def cap_of(array_id: str) -> str:
    """The name under which an array's own `max_cost` stands among budgets, none of which has a space."""
    return f"max_cost of {array_id}"


class PendingQueue(msgspec.Struct, frozen=True):
    """The eligible jobs of one class at one priority, oldest first (a window; `total` counts all).

    Attributes:
        priority: 0..100, higher first.
        jobs: (order, job_id), ascending; `order` is the submission order, unique in the cluster.
    """

    job_class: JobClass
    priority: int
    jobs: Sequence[tuple[int, str]]
    total: int


class RunningMember(msgspec.Struct, frozen=True):
    """One live allocation: when it ends at the latest and what it gives back."""

    node: int
    ends_at: int
    cpu_milli: int
    memory_bytes: int
    devices: tuple[DeviceShare, ...]
    attempt_id: str = ""


class MemberColumns(msgspec.Struct, frozen=True):
    """Every live allocation, one row each, in no particular order; nothing may depend on it.

    Arrays (m = members, g = GPU_SLOTS_MAX):
        node: int64 (m), rows of `NodeColumns`. ends_at: int64 (m), the latest end, microseconds.
        cpu_milli, memory_bytes: int64 (m).
        gpu_milli: int16 (m, g), thousandths held per device.
        attempt_ids: whose it is.
    """

    node: NDArray[np.int64]
    ends_at: NDArray[np.int64]
    cpu_milli: NDArray[np.int64]
    memory_bytes: NDArray[np.int64]
    gpu_milli: NDArray[np.int16]
    attempt_ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.attempt_ids)

    @classmethod
    def of(cls, members: Sequence[RunningMember]) -> MemberColumns:
        """Columns of records."""
        held = np.zeros((len(members), GPU_SLOTS_MAX), dtype=np.int16)
        for row, member in enumerate(members):
            for share in member.devices:
                held[row, share.index] += share.milli
        return cls(
            node=np.array([member.node for member in members], dtype=np.int64),
            ends_at=np.array([member.ends_at for member in members], dtype=np.int64),
            cpu_milli=np.array([member.cpu_milli for member in members], dtype=np.int64),
            memory_bytes=np.array([member.memory_bytes for member in members], dtype=np.int64),
            gpu_milli=held,
            attempt_ids=tuple(member.attempt_id for member in members),
        )


class BudgetRoom(msgspec.Struct, frozen=True):
    """What one hard budget can still promise: limit - settled - held, in nanos.

    Attributes:
        renews_at: end of the period, 0 when it never renews.
        array: how people name the array whose own `max_cost` this is; empty for a budget.
    """

    name: str
    limit_nanos: int
    settled_nanos: int
    held_nanos: int
    currency: str
    renews_at: int = 0
    array: str = ""

    @property
    def room_nanos(self) -> int:
        """What may still be held; may be negative after a limit was lowered."""
        return self.limit_nanos - self.settled_nanos - self.held_nanos


class Placement(msgspec.Struct, frozen=True):
    """One rank on one node (a row of `NodeColumns`)."""

    node: int
    devices: tuple[DeviceShare, ...]
    cpu_milli: int
    memory_bytes: int
    rates: ShareRates


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Start this job now, there, at this price.

    Attributes:
        option: index into the class's `options`.
        time_limit_us: may be shorter than asked: what `max_cost` pays for at this price.
        hold_nanos: worst case of the whole gang, to be held in each of `budgets`.
        why: short evidence for `explain`: candidates seen, best score, runner-up.
        queue: index of its `PendingQueue`.
    """

    job_id: str
    option: int
    members: tuple[Placement, ...]
    time_limit_us: int
    hold_nanos: int
    budgets: tuple[str, ...]
    why: str = ""
    queue: int = -1


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Ask a live attempt to end. `for_job`: who gets its place, "" when nobody in particular."""

    attempt_id: str
    cause: EndCause
    for_job: str = ""
    message: str = ""


class Resize(msgspec.Struct, frozen=True, tag="resize"):
    """Let an elastic attempt run on so many nodes."""

    attempt_id: str
    nodes: int


class Rent(msgspec.Struct, frozen=True, tag="rent"):
    """Rent machines of an offer."""

    offer: str
    nodes: int


class Return(msgspec.Struct, frozen=True, tag="return"):
    """Give a rented node back."""

    node_id: str


Action = Start | Stop | Resize | Rent | Return


UNCOMPUTABLE = "uncomputable"
"""A figure of this job or of a node it may go to is beyond what can be computed: it alone is left out."""


class Verdict(msgspec.Struct, frozen=True):
    """What stopped the first job of a queue, in numbers; `scheduler.reason_of` makes the sentence.

    Attributes:
        blocked_by: room (too little is free) | money (`code`, `budget`, `needed_nanos` and
            `rate_nanos_per_hour` say which limit) | claim (it would delay the reserved job) | fault (no
            node could ever serve it) | `UNCOMPUTABLE`.
        option: the alternative it waits for, when it waits for room.
        starts: how many starts of this plan came before it: what they took was not there for it.
        claimed: money was already set aside for the reserved job.
    """

    blocked_by: str
    starts: int
    claimed: bool
    option: int = 0
    code: ReasonCode = ReasonCode.NONE
    budget: str = ""
    needed_nanos: int = 0
    rate_nanos_per_hour: int = 0


class Plan(msgspec.Struct, frozen=True):
    """One cycle's answer.

    Attributes:
        version, prices, policies: of the snapshot it was made from. at: the instant it was made for.
        groups: what to do, in this order; of a group, everything or nothing is done.
        verdicts: index of the `PendingQueue` -> why its first job does not start now.
        reserved_job: first job that waits for resources, which backfill protects ("" for none).
        reserved_at: when it starts at the latest; 0 when no other job could go ahead of it, so that it
            was not worked out (`explain` always does).
        reserved_nanos: set aside for it in each of `reserved_budgets` from then on.
        considered: jobs looked at.
    """

    version: int
    at: int
    groups: tuple[tuple[Action, ...], ...]
    verdicts: Mapping[int, Verdict]
    prices: str = ""
    policies: str = ""
    reserved_job: str = ""
    reserved_at: int = 0
    reserved_nanos: int = 0
    reserved_budgets: tuple[str, ...] = ()
    considered: int = 0

    @property
    def actions(self) -> Iterator[Action]:
        """All actions, in order."""
        return (action for group in self.groups for action in group)

    @property
    def starts(self) -> tuple[Start, ...]:
        """The starts among the actions, in order."""
        return tuple(action for action in self.actions if isinstance(action, Start))


class Snapshot(msgspec.Struct, frozen=True):
    """The frozen world of one cycle: nothing in it changes, whatever happens to the cluster meanwhile.

    Attributes:
        strategy: pack | spread.
        typical: what jobs usually ask, (request, weight > 0), from past submissions; what packing
            calls a fragment is what these cannot use. May be empty. Change it seldom: a new list
            makes a `PlanCache` start over.
        facts_version: equal and > 0 in two snapshots promises that every column of `nodes` except
            cpu_free, memory_free and gpu_free is the same; 0 promises nothing (a cache then starts over).
        prices, policies: digests of what the nodes cost and of the documents in force, to name a plan by.
    """

    version: int
    nodes: NodeColumns
    queues: Sequence[PendingQueue]
    running: MemberColumns
    budgets: Mapping[str, BudgetRoom]
    strategy: str = "pack"
    typical: Sequence[tuple[ResourceRequest, int]] = ()
    facts_version: int = 0
    prices: str = ""
    policies: str = ""


class NodeVerdict(msgspec.Struct, frozen=True):
    """One node as seen by one job. `check`: the filter or dimension that said no, "" when it fits."""

    node: str
    fits: bool
    check: str
    detail: str


class BudgetVerdict(msgspec.Struct, frozen=True):
    """One hard budget as seen by one job. `needed_nanos`: the hold at the cheapest place, 0 unknown."""

    room: BudgetRoom
    needed_nanos: int
    pays: bool


class Alternative(msgspec.Struct, frozen=True):
    """A change to the request that would start now, and what it would then cost."""

    change: str
    nodes: tuple[str, ...]
    rate_nanos_per_hour: int
    hold_nanos: int
    currency: str
    priced: bool


class Explanation(msgspec.Struct, frozen=True):
    """Everything `bursar explain` shows of one pending job.

    Attributes:
        starts_now: the next plan starts it; `reason` is then of code NONE.
        counts: (check, nodes it turned away), in the order of the checks; `fits` is the last.
        ahead: jobs that come first, at most `AHEAD_SHOWN`; ahead_total counts all.
        expected_start_at: by the latest ends of running jobs, 0 when unknown; on expected_nodes.
        holders: (node, attempt, ends_at) of who uses the nodes it could use, soonest end first.
    """

    job_id: str
    starts_now: bool
    reason: Reason
    counts: tuple[tuple[str, int], ...]
    nodes: tuple[NodeVerdict, ...]
    budgets: tuple[BudgetVerdict, ...]
    ahead: tuple[str, ...]
    ahead_total: int
    holders: tuple[tuple[str, str, int], ...] = ()
    expected_start_at: int = 0
    expected_nodes: tuple[str, ...] = ()
    alternatives: tuple[Alternative, ...] = ()


AHEAD_SHOWN = 10
"""Jobs ahead that an explanation names."""


class WhatIf(msgspec.Struct, frozen=True):
    """What `bursar plan` answers: where a job would go now and what it may cost.

    Attributes:
        start: None when it would wait; then `reason` says why.
        priced: every node used has a known price; without it costs are unknown, not zero.
        expected_nanos: running until the time limit. worst_nanos: with grace and margin, what is held.
        rooms_after: (budget, room left after the hold).
    """

    start: Start | None
    reason: Reason
    nodes: tuple[str, ...] = ()
    priced: bool = False
    rate_nanos_per_hour: int = 0
    expected_nanos: int = 0
    worst_nanos: int = 0
    currency: str = ""
    rooms_after: tuple[tuple[str, int], ...] = ()
    expected_start_at: int = 0
