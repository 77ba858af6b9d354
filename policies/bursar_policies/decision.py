"""What the scheduler is given and what it answers: `Snapshot` in, `Plan` out. Frozen, no I/O.

`plan(snapshot, now) -> Plan` takes no other input: daemon, simulator, `bursar plan`, a replay and tests
call exactly that. Nodes, running members and pending jobs are numpy columns (struct of arrays). Jobs are
grouped into *classes* that ask for the same thing, whatever their time limits, so feasibility and scores are
computed per class and node, never per job. A plan says what to do in *groups* of actions, and in a few
numbers what stops the rest; sentences are made of them when somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from bursar.model import DeviceShare, EndCause, Reason, ReasonCode, ShareRates
from bursar.model.constraints import TOGETHER, TOPOLOGY
from bursar.resources import ResourceRequest
from bursar_policies.rankers.score import Term
from bursar_policies.specs import Amounts, PriorityPolicySpec, QuotaSpec, ReservationSpec

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

    Two jobs of one class differ only in their place in the queue. The class of a whole queue names no time
    limit (`without_limit`): users' limits differ as often as their jobs do.

    Attributes:
        max_nodes: of a range of sizes the most, of which `nodes` is the least; 0: it has one size.
        time_limit_us: the worst case the hold pays for (grace and margin not included); 0 in the class of a
            queue, whose jobs have a limit each.
        hold_us: what the hold covers: time limit + grace + margin.
        budgets: names of the hard budgets that must all pay; last, of a task, the `max_cost` of its array
            (`cap_of`).
        max_price_nanos_per_hour: 0 for none; of the whole gang.
        max_cost_nanos: 0 for none; what is left of the job's own cap; the time limit is cut to it.
            Nothing left is below 0, by what it is short and at least by 1: it is not read as none.
        avoid_nodes: node ids not to use (retry.avoid_same_node).
        gates: names of the soft budgets whose stages it is under: they pay without limit.
        lease_us: of its time limit, so much is paid for at its start, and the rest by later leases; 0: all.
        quotas: names of those that count it: of its project, the innermost first, then of its user.
        pinned: it may not be stopped for others, and something is guaranteed to some.
        rated: one of its quotas bounds a spend rate, so that prices must be known.
        reservations: names of those whose nodes it may use.
        endless: a replica of a service: it goes on as long as it is paid for, and takes no time limit.
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
    gates: tuple[str, ...] = ()
    lease_us: int = 0
    quotas: tuple[str, ...] = ()
    pinned: bool = False
    rated: bool = False
    reservations: tuple[str, ...] = ()
    max_nodes: int = 0
    endless: bool = False

    @property
    def start_hold_us(self) -> int:
        """What a start holds for: all of `hold_us`, or its first lease, grace and margin."""
        return self.hold_us - self.time_limit_us + self.leased_us(self.time_limit_us)

    def leased_us(self, time_limit_us: int) -> int:
        """What of a time limit is paid for at the start."""
        return min(time_limit_us, self.lease_us) if self.lease_us else time_limit_us

    @property
    def together(self) -> str:
        """Which attribute the nodes of all members must have in common, "" for none."""
        if max(self.nodes, self.max_nodes) == 1:
            return ""
        return next((TOGETHER[said] for key, said in self.constraints if key == TOPOLOGY), "")

    @property
    def where(self) -> tuple[tuple[str, str], ...]:
        """What is asked of each node by itself."""
        if all(key != TOPOLOGY for key, _ in self.constraints):
            return self.constraints
        return tuple(pair for pair in self.constraints if pair[0] != TOPOLOGY)

    @property
    def payers(self) -> tuple[str, ...]:
        """All budgets whose stages and approvals it is under."""
        return (*self.budgets, *self.gates) if self.gates else self.budgets

    def without_limit(self) -> JobClass:
        """What jobs that differ in nothing but their time limits have in common."""
        return self.limited(0) if self.time_limit_us else self

    def limited(self, time_limit_us: int) -> JobClass:
        """The same with another time limit."""
        overhead_us = self.hold_us - self.time_limit_us
        return replace(self, time_limit_us=time_limit_us, hold_us=time_limit_us + overhead_us)


def cap_of(array_id: str) -> str:
    """The name under which an array's own `max_cost` stands among budgets, none of which has a space."""
    return f"max_cost of {array_id}"


_FEW = 64


_JobRow = (
    tuple[int, str, int]
    | tuple[int, str, int, int, int]
    | tuple[int, str, int, int, int, int]
    | tuple[int, str, int, int, int, int, int]
)


class JobColumns(msgspec.Struct, frozen=True, eq=False):
    """The jobs of one queue, one row each, oldest first. Nothing here changes once it was handed out.

    Arrays (j = jobs):
        orders: int64 (j), ascending: the order of submission, unique in the cluster.
        limits_us: int64 (j), > 0, the time limit of each.
        since_us: int64 (j), the instant from which each waits.
        projects: int64 (j), index into `Snapshot.projects`.
        deadlines_us: int64 (j), the instant by which each is to have ended; 0: none.
        users: int64 (j), index into `Snapshot.users`.
        ids: object (j), str.
    """

    orders: NDArray[np.int64]
    limits_us: NDArray[np.int64]
    since_us: NDArray[np.int64]
    projects: NDArray[np.int64]
    deadlines_us: NDArray[np.int64]
    users: NDArray[np.int64]
    ids: NDArray[np.object_]

    @classmethod
    def of(cls, jobs: Iterable[_JobRow]) -> JobColumns:
        """Columns of (order, job id, time limit) in any order; with since when, of which project, with which
        deadline and whose, when a plan goes by that.
        """
        rows = sorted((*job, 0, 0, 0, 0)[:7] for job in jobs)
        ids = np.empty(len(rows), dtype=np.object_)
        ids[:] = [row[1] for row in rows]
        orders, limits_us, since_us, projects, deadlines_us, users = (
            np.array([row[at] for row in rows], dtype=np.int64) for at in (0, 2, 3, 4, 5, 6)
        )
        return cls(orders, limits_us, since_us, projects, deadlines_us, users, ids)

    def __len__(self) -> int:
        return len(self.orders)

    def __iter__(self) -> Iterator[tuple[int, str]]:
        """(order, job id) of each; few are made at a time, since most readers stop early."""
        for at in range(0, len(self.orders), _FEW):
            orders, ids = self.orders[at : at + _FEW], self.ids[at : at + _FEW]
            yield from zip(orders.tolist(), ids.tolist(), strict=True)

    def __getitem__(self, position: int) -> tuple[int, str]:
        """(order, job id) of one."""
        return int(self.orders[position]), str(self.ids[position])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JobColumns) and self._rows() == other._rows()

    def _rows(self) -> list[list[object]]:
        return [*(column.tolist() for column in self._numbers()), self.ids.tolist()]

    def _numbers(self) -> tuple[NDArray[np.int64], ...]:
        return self.orders, self.limits_us, self.since_us, self.projects, self.deadlines_us, self.users

    def only(self, position: int) -> JobColumns:
        """One of them, alone."""
        row = slice(position, position + 1)
        orders, limits_us, since_us, projects, deadlines_us, users = (one[row] for one in self._numbers())
        return JobColumns(orders, limits_us, since_us, projects, deadlines_us, users, self.ids[row])

    def kept(self, wanted: Iterable[bool] | NDArray[np.bool_]) -> JobColumns:
        """Only those for which it says so."""
        mask = wanted if isinstance(wanted, np.ndarray) else np.array(list(wanted), dtype=np.bool_)
        orders, limits_us, since_us, projects, deadlines_us, users = (one[mask] for one in self._numbers())
        return JobColumns(orders, limits_us, since_us, projects, deadlines_us, users, self.ids[mask])


NO_JOBS = JobColumns.of(())


class QueueKey(NamedTuple):
    """What a queue is known by: no two have the same.

    Attributes:
        job_class: without a time limit. priority: 0..100.
        owner: whose alone it is, of a queue that not every plan looks at; "" for any user's.
    """

    job_class: JobClass
    priority: int
    owner: str = ""


class PendingQueue(msgspec.Struct, frozen=True):
    """The eligible jobs of one class at one priority.

    Attributes:
        job_class: without a time limit; `class_at` has it.
        priority: 0..100, higher first.
        owner: as in `QueueKey`.
    """

    job_class: JobClass
    priority: int
    jobs: JobColumns
    owner: str = ""

    @property
    def key(self) -> QueueKey:
        """What it is known by."""
        return QueueKey(self.job_class, self.priority, self.owner)

    def class_at(self, position: int) -> JobClass:
        """The class of one of its jobs, with its time limit."""
        return self.job_class.limited(int(self.jobs.limits_us[position]))

    def position_of(self, job_id: str) -> int:
        """Where a job stands, -1 when it is none of these."""
        found = np.flatnonzero(self.jobs.ids == job_id)
        return int(found[0]) if len(found) else -1


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


class Holder(msgspec.Struct, frozen=True):
    """A live attempt, as far as it matters whether it may be stopped for another job.

    Attributes:
        priority: of its job. rate: nanos per hour of all its members, -1 when unknown.
        unsaved_since: its work from then on is lost when it ends now; 0: none is.
        grace_us: so long after it was asked to end it is gone at the latest.
        stopping: it was asked to end. exempt: it may not be stopped for others.
    """

    priority: int
    rate: int
    unsaved_since: int = 0
    grace_us: int = 0
    stopping: bool = False
    exempt: bool = False


class Holding(msgspec.Struct, frozen=True):
    """What a live attempt holds, as quotas count it.

    Attributes:
        quotas: names of those that count it, as in `JobClass`.
        uses: what its live members hold, GPUs in all and by type.
        since: when it was placed.
        pinned: it may not be stopped for others.
    """

    quotas: tuple[str, ...]
    uses: Amounts
    since: int
    pinned: bool = False


class Stage(msgspec.Struct, frozen=True):
    """Something that a threshold of a budget does for as long as it is in force.

    Attributes:
        action: of `specs.ACTIONS`, but for notify.
        on, at_ppm: the threshold: at which share of the limit, in parts per million, and of what.
    """

    action: str
    on: str
    at_ppm: int


class BudgetRoom(msgspec.Struct, frozen=True):
    """What one budget can still promise: limit - settled - held, in nanos.

    Attributes:
        stages: in force, in the order of their thresholds.
        ceiling_nanos: what is approved to be settled and held in all; below zero: there is no such bound.
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
    stages: tuple[Stage, ...] = ()
    ceiling_nanos: int = -1

    def beyond(self, nanos: int) -> bool:
        """Does so much more go beyond what is approved?"""
        return 0 <= self.ceiling_nanos < self.settled_nanos + self.held_nanos + nanos

    @property
    def room_nanos(self) -> int:
        """What may still be held; may be negative after a limit was lowered."""
        return self.limit_nanos - self.settled_nanos - self.held_nanos

    def stage(self, *actions: str) -> Stage | None:
        """The first of these actions that is in force."""
        found = (one for action in actions for one in self.stages if one.action == action)
        return next(found, None) if self.stages else None


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
        hold_nanos: worst case of the whole gang, to be held in each of `budgets`, soft ones with stages too.
        why: short evidence for `explain`: candidates seen, best score, runner-up.
        queue: index of its `PendingQueue`. asked_us: the time limit it has there.
        full_limit_us: how far later leases may go, of a start that pays for the first; 0: it pays for all.
    """

    job_id: str
    option: int
    members: tuple[Placement, ...]
    time_limit_us: int
    hold_nanos: int
    budgets: tuple[str, ...]
    why: str = ""
    queue: int = -1
    asked_us: int = 0
    full_limit_us: int = 0


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Ask a live attempt to end.

    Attributes:
        for_job: who gets its place, "" when nobody in particular.
        quota: that guarantees to this job what the attempt borrowed; "" where no quota has to do with it.
    """

    attempt_id: str
    cause: EndCause
    for_job: str = ""
    message: str = ""
    quota: str = ""


class Rent(msgspec.Struct, frozen=True, tag="rent"):
    """Rent machines of an offer."""

    offer: str
    nodes: int


class Return(msgspec.Struct, frozen=True, tag="return"):
    """Give a rented node back."""

    node_id: str


Action = Start | Stop | Rent | Return


UNCOMPUTABLE = "uncomputable"
"""A figure of this job or of a node it may go to is beyond what can be computed: it alone is left out."""


class Verdict(msgspec.Struct, frozen=True):
    """What stopped jobs of a queue, in numbers; `scheduler.reason_of` makes the sentence.

    Attributes:
        blocked_by: room (too little is free) | money (`code`, `budget`, `needed_nanos` and
            `rate_nanos_per_hour` say which limit) | claim (it would delay the reserved job) | kept (it would
            take of the room that a policy keeps for short jobs) | quota (`quota` and `resource` say which; it
            asks for `needed_nanos` of it, in the unit of the resource) | fault (no node could ever serve it)
            | `UNCOMPUTABLE`.
        option: the alternative it waits for, when it waits for room.
        starts: how many starts of this plan came before it: what they took was not there for it.
        claimed: money was already set aside for the reserved job.
        purses: how many of `Plan.purses` came before it.
        quota, resource, for_job: what stops it of which quota; "" for what is guaranteed to others. The job
            of that quota that waits before it, if that is what stops it.
        position: of the job that it stopped first.
        from_hold_us: it stops the jobs of the queue that hold for at least so long; 0: all that are left.
        shorter: what stops the others, when there are any.
    """

    blocked_by: str
    starts: int
    claimed: bool
    option: int = 0
    code: ReasonCode = ReasonCode.NONE
    budget: str = ""
    needed_nanos: int = 0
    rate_nanos_per_hour: int = 0
    position: int = 0
    from_hold_us: int = 0
    shorter: Verdict | None = None
    purses: int = 0
    quota: str = ""
    resource: str = ""
    for_job: str = ""

    def of(self, hold_us: int) -> Verdict:
        """The one that stops a job that holds for so long."""
        verdict = self
        while verdict.shorter is not None and hold_us < verdict.from_hold_us:
            verdict = verdict.shorter
        return verdict


class Purse(msgspec.Struct, frozen=True):
    """Money set aside for a job that waits until others give back what they hold of a budget.

    Attributes:
        aside: (budget, nanos), what there was of what it needs.
        needed_nanos: what it needs of each.
    """

    job_id: str
    aside: tuple[tuple[str, int], ...]
    needed_nanos: int = 0


class Promised(msgspec.Struct, frozen=True):
    """A job that waits, was promised to end by its deadline, and begins there at the latest.

    Attributes:
        queue: index of its `PendingQueue`; -1: it is in none, since its time has not come.
        by: its deadline. start, until: from when to when its place is kept: for all that it may hold it.
        option: index into the class's `options`. members: with no rates.
        rate: nanos per hour of all of it there, -1 for unknown: before `start` it takes nothing dearer.
        hold_nanos, budgets: set aside for it in each of these, of which it stands among what is held.
    """

    job_id: str
    queue: int
    by: int
    start: int
    until: int
    option: int
    members: tuple[Placement, ...]
    rate: int
    hold_nanos: int
    budgets: tuple[str, ...]


class Made(msgspec.Struct, frozen=True):
    """Room that others were asked to leave to a job that waits: it comes first until it has started.

    Attributes:
        queue: index of its queue. until: from then on it waits like others.
    """

    job_id: str
    queue: int
    until: int


class Plan(msgspec.Struct, frozen=True):
    """One cycle's answer.

    Attributes:
        version, prices, policies: of the snapshot it was made from. at: the instant it was made for.
        groups: what to do, in this order; of a group, everything or nothing is done.
        verdicts: index of the `PendingQueue` -> why the first job of it that does not start now waits, and
            those behind it.
        reserved_job: first job that waits for resources, which backfill protects ("" for none).
        reserved_at: when it starts at the latest; 0 when no other job could go ahead of it, so that it
            was not worked out (`explain` always does).
        reserved_nanos: set aside for it in each of `reserved_budgets` from then on.
        considered: jobs looked at.
        purses: money set aside for jobs that wait for more of it: for the first of each budget.
        making_room_for: the job that others are asked to end for, now or by an earlier plan; "" for none.
        making_room_by: the quota that guarantees to it what they borrowed; "": by its priority.
        limited_until: the `reserved_job` would have others stopped, had not its project had that done so
            often of late; until then. 0: it has not. limited_user: not its project has, but its user.
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
    purses: tuple[Purse, ...] = ()
    making_room_for: str = ""
    making_room_by: str = ""
    limited_until: int = 0
    limited_user: bool = False

    @property
    def actions(self) -> Iterator[Action]:
        """All actions, in order."""
        return (action for group in self.groups for action in group)

    @property
    def starts(self) -> tuple[Start, ...]:
        """The starts among the actions, in order."""
        return tuple([one for group in self.groups for one in group if isinstance(one, Start)])


class Snapshot(msgspec.Struct, frozen=True):
    """The frozen world of one cycle: nothing in it changes, whatever happens to the cluster meanwhile.

    Attributes:
        strategy: pack | spread. weights: of its scorers, (name, thousandths of what it has of its own) pairs.
        typical: what jobs usually ask, (request, weight > 0), from past submissions; what packing
            calls a fragment is what these cannot use. May be empty. Change it seldom: a new list
            makes a `PlanCache` start over.
        queues: those that a plan is to look at: of a user with very many, some in turn (ADR 0024).
        facts_version: equal and > 0 in two snapshots promises that every column of `nodes` except
            cpu_free, memory_free and gpu_free is the same; 0 promises nothing (a cache then starts over).
        prices, policies: digests of what the nodes cost and of the documents in force, to name a plan by.
        currency: of the cluster's books; what reasons say amounts in.
        priority: what puts jobs into another order than priority and submission; None: nothing does.
        projects: names of what `JobColumns.projects` counts. users: of what `JobColumns.users` does.
        spent: nanos that projects have cost in the time `priority` looks back on.
        holders: live attempts by id, where `priority` lets jobs have others stopped, or a quota guarantees
            something; else none.
        quotas: in force, by name. holdings: where there are any, what live attempts hold, by id.
        reservations: of nodes, by name; those that are over mean nothing.
        moves: live attempts that are to end because an allocator has their jobs run otherwise, or others.
        promises: places kept for jobs that were promised their deadlines.
        made: room that was made for jobs that wait, the first made first.
        rooms_made: by top-level project, when others were stopped for its jobs within the last hour.
        rooms_by_user: the same by user: projects are names that whoever submits may invent.
    """

    version: int
    nodes: NodeColumns
    queues: Sequence[PendingQueue]
    running: MemberColumns
    budgets: Mapping[str, BudgetRoom]
    strategy: str = "pack"
    weights: tuple[tuple[str, int], ...] = ()
    typical: Sequence[tuple[ResourceRequest, int]] = ()
    facts_version: int = 0
    prices: str = ""
    policies: str = ""
    currency: str = ""
    priority: PriorityPolicySpec | None = None
    projects: Sequence[str] = ()
    spent: Mapping[str, int] = {}
    holders: Mapping[str, Holder] = {}
    quotas: Mapping[str, QuotaSpec] = {}
    holdings: Mapping[str, Holding] = {}
    reservations: Mapping[str, ReservationSpec] = {}
    moves: Sequence[Stop] = ()
    promises: tuple[Promised, ...] = ()
    made: tuple[Made, ...] = ()
    rooms_made: Mapping[str, tuple[int, ...]] = {}
    users: Sequence[str] = ()
    rooms_by_user: Mapping[str, tuple[int, ...]] = {}


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


class Ahead(NamedTuple):
    """A job that comes before another. why: `priority 80`, `2.913 points`, `submitted first`, ..."""

    job_id: str
    why: str


class Explanation(msgspec.Struct, frozen=True):
    """Everything `bursar explain` shows of one pending job.

    Attributes:
        starts_now: the next plan starts it; `reason` is then of code NONE.
        counts: (check, nodes it turned away), in the order of the checks; `fits` is the last.
        ahead: jobs that come first, at most `AHEAD_SHOWN`, and why each does; ahead_total counts all.
        expected_start_at: by the latest ends of what runs, 0 when unknown. foreseen: and of those ahead of
            it. expected_nodes: where there is room for it first, as if nobody was ahead.
        holders: (node, attempt, ends_at) of who uses the nodes it could use, soonest end first.
        terms: what its score is made of, largest first; none where no policy ranks.
        overdue: it has waited past the policy's `max_wait`, which stands above its score.
    """

    job_id: str
    starts_now: bool
    reason: Reason
    counts: tuple[tuple[str, int], ...]
    nodes: tuple[NodeVerdict, ...]
    budgets: tuple[BudgetVerdict, ...]
    ahead: tuple[Ahead, ...]
    ahead_total: int
    holders: tuple[tuple[str, str, int], ...] = ()
    expected_start_at: int = 0
    foreseen: bool = False
    expected_nodes: tuple[str, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    terms: tuple[Term, ...] = ()
    overdue: bool = False


AHEAD_SHOWN = 10
"""Jobs ahead that an explanation names."""


class WhatIf(msgspec.Struct, frozen=True):
    """What `bursar plan` answers: where a job would go now and what it may cost.

    Attributes:
        start: None when it would wait; then `reason` says why.
        priced: every node used has a known price; without it costs are unknown, not zero.
        expected_nanos: running until the time limit. worst_nanos: with grace and margin, what is held.
        rooms_after: (budget, room left after the hold).
        expected_start_at, foreseen: as of an `Explanation`.
        unpaid: what it would take, where nothing but a budget keeps it from starting.
        ahead_total: jobs that are looked at before it and wait.
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
    foreseen: bool = False
    unpaid: Start | None = None
    ahead_total: int = 0
