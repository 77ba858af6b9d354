"""State: the fold of the event log, and the only thing that changes when an event is applied.

Owns    jobs, attempts, nodes, budgets, policies, the ledger and the queue, as of the last event.
Input   events in log order (`apply`). Output: the rows the store keeps beside them (`Applied`).
Why     deterministic: no clock, no ids, no I/O; replaying the log gives the same state to the byte, which
        is what crash recovery, the simulator and the tests rely on.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import overload

import msgspec

from bursar.model import JobSpec, JobState
from bursar_policies.compile import Applied as PriceDocument
from bursar_policies.decision import JobClass, RunningMember, Snapshot
from bursar_policies.document import parse_documents
from bursar_policies.specs import BudgetSpec, Document, PlacementPolicySpec
from bursard.events import (
    AttemptEnded,
    AttemptPlaced,
    Charge,
    ClusterCreated,
    Event,
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
from bursard.ledger import Ledger, Transaction
from bursard.state import jobs as jobs_fold
from bursard.state import nodes as nodes_fold
from bursard.state.budgets import BudgetTable
from bursard.state.cluster import Cluster
from bursard.state.pending import PendingIndex
from bursard.state.records import AttemptRecord, JobRecord, NodeRecord
from bursard.state.typical import TypicalRequests

HOLD_MARGIN_US = 5_000_000
"""Added to time limit + grace in every worst-case hold: how late a supervisor's last kill may be."""
DEFAULT_GRACE_US = 5_000_000
"""Between TERM and KILL when the job asks for nothing else."""


class Limits(msgspec.Struct, frozen=True):
    """Cluster-wide defaults that decisions rest on; fixed for the life of a process.

    Attributes:
        default_time_limit_us: of a job that names none; the worst case must be finite to be held.
        meter_interval_us: how often agents report usage.
        silent_after_us: out of contact for so long is announced.
        pending_max: jobs that may wait at once; more are refused as RateLimited.
    """

    default_time_limit_us: int = 24 * 3600 * 1_000_000
    meter_interval_us: int = 60 * 1_000_000
    silent_after_us: int = 30 * 1_000_000
    pending_max: int = 1_000_000


class Applied(msgspec.Struct):
    """What one or more events changed that lives outside memory.

    Attributes:
        charges: in posting order. transactions: their double entry, holds and releases included.
        finished: jobs that became terminal, whole.
    """

    charges: list[Charge] = []
    transactions: list[Transaction] = []
    finished: list[JobRecord] = []


class NodeToken(msgspec.Struct, frozen=True):
    """A secret a node may enrol with, hashed. `instance`: the agent it belongs to since its first use."""

    name: str
    sha256: str
    expires_at: int
    instance: str = ""


class State:
    """The fold. Reads are free for everybody; only `apply` writes."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.cluster_id = ""
        self.currency = "USD"
        self.version = 0
        """Events applied: also the sequence number of the last one."""
        self.jobs: dict[str, JobRecord] = {}
        self.numbers: dict[int, str] = {}
        self.names: dict[str, list[str]] = {}
        self.keys: dict[tuple[str, str], str] = {}
        self.last_of_user: dict[str, str] = {}
        self.next_number = 1
        self.next_order = 0
        self.attempts: dict[str, AttemptRecord] = {}
        self.nodes: dict[str, NodeRecord] = {}
        self.node_names: dict[str, str] = {}
        self.node_tokens: dict[str, NodeToken] = {}
        self.cluster = Cluster()
        self.pending = PendingIndex()
        self.begin_times: list[tuple[int, str]] = []
        self.dependents: dict[str, list[str]] = {}
        self.budgets = BudgetTable()
        self.policies: dict[tuple[str, str], PolicyDocument] = {}
        self.documents: dict[tuple[str, str], Document] = {}
        self.priced: list[PriceDocument] = []
        """Every version of every CostModel and PriceBook, oldest first: what prices are looked up in."""
        self.policies_version = 0
        self.strategy = "pack"
        self.typical = TypicalRequests()
        self.ledger = Ledger()
        self.counts: dict[str, int] = {}
        """Live jobs by state, tasks counted one by one."""

    # --- reads

    def node_by_name(self, name: str) -> NodeRecord | None:
        """A node by name or id."""
        return self.nodes.get(self.node_names.get(name, name))

    def time_limit_of(self, spec: JobSpec) -> int:
        """The limit an attempt of this job gets before any cost cap."""
        return spec.time_limit_us or self.limits.default_time_limit_us

    def grace_of(self, spec: JobSpec) -> int:
        """How long it may take to end once asked."""
        return max(spec.checkpoint.grace_us, DEFAULT_GRACE_US)

    def class_of(self, job: JobRecord) -> JobClass:
        """What decides where a job may go and what it may cost."""
        limit_us = self.time_limit_of(job.spec)
        return self.class_of_spec(
            job.spec,
            job.hard_budgets,
            limit_us,
            settled_nanos=job.settled_nanos,
            avoid=_failed_nodes(job) if job.spec.retry.avoid_same_node else (),
        )

    def class_of_spec(
        self,
        spec: JobSpec,
        hard_budgets: tuple[str, ...],
        limit_us: int,
        settled_nanos: int = 0,
        avoid: tuple[str, ...] = (),
    ) -> JobClass:
        """The class of a spec that need not be a job yet (`bursar plan`)."""
        # A cap that is spent must still be a cap: -1 says that nothing is left, 0 that there is none.
        left = spec.max_cost_nanos - settled_nanos
        cap = (left if left > 0 else -1) if spec.max_cost_nanos else 0
        return JobClass(
            nodes=spec.nodes,
            options=spec.options,
            ordered=spec.ordered,
            constraints=spec.constraints,
            spot_policy=spec.spot_policy,
            time_limit_us=limit_us,
            hold_us=limit_us + self.grace_of(spec) + HOLD_MARGIN_US,
            budgets=hard_budgets,
            max_price_nanos_per_hour=spec.max_price_nanos_per_hour,
            max_cost_nanos=cap,
            avoid_nodes=avoid,
        )

    def snapshot(self) -> Snapshot:
        """The frozen world for one cycle."""
        return Snapshot(
            version=self.version,
            nodes=self.cluster.columns(),
            queues=self.pending.queues(),
            running=LiveMembers(self),
            budgets=self.budgets.rooms(self.ledger),
            strategy=self.strategy,
            typical=self.typical.requests,
            facts_version=self.cluster.facts_version + 1,
        )

    def live_attempts(self) -> Iterator[AttemptRecord]:
        """Attempts that hold something, oldest first."""
        return iter(self.attempts.values())

    # --- the fold

    def apply(self, event: Event, at: int, applied: Applied) -> None:
        """Make one event true. `at` is when it was recorded."""
        self.version += 1
        _APPLY[type(event)](self, event, at, applied)

    def evict(self, job_id: str) -> None:
        """Forget a terminal job once the store has it; its parent array keeps the counts."""
        job = self.jobs.pop(job_id, None)
        if job is None:
            return
        self.ledger.close_job(job_id)
        self.dependents.pop(job_id, None)
        if not job.parent_id:
            self.numbers.pop(job.number, None)
            named = self.names.get(job.spec.name, [])
            if job_id in named:
                named.remove(job_id)
                if not named:
                    del self.names[job.spec.name]
            if job.key:
                self.keys.pop((job.user, job.key), None)

    def count(self, job: JobRecord, state: JobState) -> None:
        """Move a job (not an array parent) to a state, keeping the counts."""
        counts = self.counts
        counts[job.state] = counts.get(job.state, 0) - 1
        job.state = state
        if not state.terminal:
            counts[state] = counts.get(state, 0) + 1

    def enqueue(self, job: JobRecord, now: int) -> None:
        """Put a job into the queue if it could start at `now`; else it waits for what it lacks."""
        self.pending.remove(job.id)
        if job.state is not JobState.PENDING or job.held or job.waiting_on or job.array is not None:
            return
        if job.spec.begin_after > now:
            heapq.heappush(self.begin_times, (job.spec.begin_after, job.id))
            return
        self.pending.add(job.id, self.class_of(job), job.spec.priority, job.order)


class LiveMembers(Sequence[RunningMember]):
    """`Snapshot.running`, made only when a reservation needs it: most cycles never look."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._made: list[RunningMember] | None = None

    def _members(self) -> list[RunningMember]:
        if self._made is None:
            self._made = []
            nodes = self._state.nodes
            for attempt in self._state.attempts.values():
                since = attempt.started_at or attempt.placed_at
                ends_at = since + attempt.time_limit_us + attempt.grace_us + HOLD_MARGIN_US
                for member in attempt.live():
                    alloc = member.alloc
                    self._made.append(
                        RunningMember(
                            node=nodes[alloc.node_id].row,
                            ends_at=ends_at,
                            cpu_milli=alloc.cpu_milli,
                            memory_bytes=alloc.memory_bytes,
                            devices=alloc.devices,
                            attempt_id=attempt.id,
                        )
                    )
        return self._made

    def __len__(self) -> int:
        return len(self._members())

    def __iter__(self) -> Iterator[RunningMember]:
        return iter(self._members())

    @overload
    def __getitem__(self, index: int) -> RunningMember: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RunningMember]: ...
    def __getitem__(self, index: int | slice) -> RunningMember | Sequence[RunningMember]:
        return self._members()[index]


def _failed_nodes(job: JobRecord) -> tuple[str, ...]:
    nodes = {m.alloc.node_id for a in job.attempts for m in a.members if a.cause != "completed"}
    return tuple(sorted(nodes))


# --- policies, budgets, cluster


def _cluster_created(state: State, event: ClusterCreated, at: int, applied: Applied) -> None:
    state.cluster_id, state.currency = event.cluster_id, event.currency


def _policy_applied(state: State, event: PolicyApplied, at: int, applied: Applied) -> None:
    for record in event.documents:
        document = parse_documents(record.text, f"{record.kind}/{record.name}")[0]
        # In order of application: of several PlacementPolicies the one applied last is in force.
        state.policies.pop((record.kind, record.name), None)
        state.policies[record.kind, record.name] = record
        state.documents[record.kind, record.name] = document
        if isinstance(document.spec, BudgetSpec):
            state.budgets.put(record.name, document.spec, record.version, at)
        elif not isinstance(document.spec, PlacementPolicySpec):
            state.priced.append(PriceDocument(document, record.version, record.effective_at))
    _policies_changed(state, at)


def _policy_removed(state: State, event: PolicyRemoved, at: int, applied: Applied) -> None:
    state.policies.pop((event.kind, event.name), None)
    state.documents.pop((event.kind, event.name), None)
    if event.kind == "Budget":
        state.budgets.remove(event.name)
    state.priced = [
        msgspec.structs.replace(one, effective_until=min(one.effective_until, at))
        if (one.document.kind, one.document.name) == (event.kind, event.name)
        else one
        for one in state.priced
    ]
    _policies_changed(state, at)


def strategy_in_force(state: State) -> str:
    """Of the PlacementPolicy applied last; the default when there is none."""
    found = PlacementPolicySpec().strategy
    for key in state.policies:
        spec = state.documents[key].spec
        if isinstance(spec, PlacementPolicySpec):
            found = spec.strategy
    return found


def _policies_changed(state: State, at: int) -> None:
    state.policies_version += 1
    state.strategy = strategy_in_force(state)
    for job in state.jobs.values():
        if job.state is JobState.PENDING:
            job.budgets, job.hard_budgets = state.budgets.matching(job.user, job.spec)
            if job.id in state.pending:
                state.enqueue(job, at)


def _holds_rolled(state: State, event: HoldsRolled, at: int, applied: Applied) -> None:
    applied.transactions += state.ledger.roll(event.budget, event.from_period, event.to_period)
    state.budgets.roll(event.budget, event.to_period)


def _threshold_crossed(state: State, event: ThresholdCrossed, at: int, applied: Applied) -> None:
    record = state.budgets.records.get(event.budget)
    if record is not None and record.period_start == event.period_start:
        record.crossed.add((event.on, event.at_ppm))


def _token_issued(state: State, event: NodeTokenIssued, at: int, applied: Applied) -> None:
    state.node_tokens[event.sha256] = NodeToken(event.name, event.sha256, event.expires_at)


def _enrolled(state: State, event: NodeEnrolled, at: int, applied: Applied) -> None:
    state.node_tokens = {key: t for key, t in state.node_tokens.items() if t.name != event.name}
    state.node_tokens[event.sha256] = NodeToken(event.name, event.sha256, 0, event.instance)


_APPLY: Mapping[type, Callable[..., None]] = {
    ClusterCreated: _cluster_created,
    PolicyApplied: _policy_applied,
    PolicyRemoved: _policy_removed,
    HoldsRolled: _holds_rolled,
    ThresholdCrossed: _threshold_crossed,
    NodeTokenIssued: _token_issued,
    NodeEnrolled: _enrolled,
    JobSubmitted: jobs_fold.submitted,
    JobHeld: jobs_fold.held,
    JobReleased: jobs_fold.released,
    JobUpdated: jobs_fold.updated,
    JobRequeued: jobs_fold.requeued,
    JobEnded: jobs_fold.ended,
    AttemptPlaced: jobs_fold.placed,
    StopRequested: jobs_fold.stop_requested,
    MemberStarted: jobs_fold.member_started,
    MemberEnded: jobs_fold.member_ended,
    AttemptEnded: jobs_fold.attempt_ended,
    NodeRegistered: nodes_fold.registered,
    NodeBooted: nodes_fold.booted,
    NodePriced: nodes_fold.priced,
    NodeConnected: nodes_fold.connected,
    NodeSilent: nodes_fold.silent,
    NodeScheduling: nodes_fold.scheduling,
    NodeMetered: nodes_fold.metered,
}
