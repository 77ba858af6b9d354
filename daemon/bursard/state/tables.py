"""What the fold remembers, all of it, and the indexes that find it: data without a word of what events mean.

Owns    jobs, attempts, nodes, budgets, policies, the ledger and the queue, as of the last event.
Why     the fold (`state/fold`) writes here, decisions and services read here, and neither knows the other;
        so an event's meaning can be changed without touching what it is kept in.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from bursar.clock import HOUR_US, SECOND_US
from bursar.model import JobSpec, JobState
from bursar.model.check import TIME_LIMIT_MAX_US
from bursar.money import cumulative
from bursar.projects import top_of
from bursar_policies.allocators import Size
from bursar_policies.compile import Applied as PriceDocument
from bursar_policies.decision import BudgetRoom, JobClass, PendingQueue, cap_of
from bursar_policies.specs import AllocatorSpec, IdlePolicySpec, PriorityPolicySpec
from bursard.events import Charge, ChargesCorrected, PolicyDocument
from bursard.ledger import HourCharge, Ledger, Transaction
from bursard.scheduler.targets import contends, fitted, narrowed
from bursard.state import arrays, waits
from bursard.state.allotted import Allotments
from bursard.state.budgets import BudgetRecord, BudgetTable, promises
from bursard.state.cluster import DIGEST_BYTES, Cluster
from bursard.state.columns import Members
from bursard.state.counted_keys import KeysCounted
from bursard.state.pending import PendingIndex
from bursard.state.periods import ClosedPeriods
from bursard.state.projects import ProjectCosts
from bursard.state.promises import PromiseTable
from bursard.state.quotas import (
    QuotaTable,
)
from bursard.state.records import (
    AttemptRecord,
    JobRecord,
    MachineRecord,
    MemberRecord,
    NodeRecord,
    ServiceKey,
)
from bursard.state.reservations import ReservationTable
from bursard.state.rights import GrantTable, SealedSecret
from bursard.state.runs import PastRuns
from bursard.state.shares import Shares, bytes_of_spec
from bursard.state.typical import TypicalRequests

HOLD_MARGIN_US = 5_000_000
"""Added to time limit + grace in every worst-case hold: how late a supervisor's last kill may be."""
DEFAULT_GRACE_US = 5_000_000
"""Between TERM and KILL when the job asks for nothing else."""

EVERY_BUDGET: Final = ""
"""In `Tables.shifted`: all of a job's budgets, since an image of before did not tell them apart."""
STARTED: Final = "started"
"""What a job waits for of another: its start alone, or `ENDED`."""
TASK_SUCCEEDED: Final = "task-succeeded"
"""What each task of an array waits for of the task of another that has its index."""
ENDED: Final = "ended"


class Limits(msgspec.Struct, frozen=True):
    """Cluster-wide defaults that decisions rest on; fixed for the life of a process.

    Attributes:
        default_time_limit_us: of a job that names none; the worst case must be finite to be held.
        meter_interval_us: how often agents report usage.
        silent_after_us: out of contact for so long is announced.
        overdue_after_us: so late an agent in contact may start a member, or end one past its limit and grace.
        grace_max_us: the longest grace of a job: so long others wait for the place that it gives back.
        pending_max: jobs that may wait at once; more are refused as RateLimited.
        user_pending_max: likewise, of one user. user_texts_bytes: what descriptions of one user's jobs take.
        user_changes_a_day, user_log_bytes_a_day: what one user's calls may write into the log.
    """

    default_time_limit_us: int = 24 * 3600 * 1_000_000
    meter_interval_us: int = 60 * 1_000_000
    silent_after_us: int = 30 * 1_000_000
    overdue_after_us: int = 120 * 1_000_000
    grace_max_us: int = HOUR_US
    pending_max: int = 1_000_000
    user_pending_max: int = 250_000
    user_texts_bytes: int = 64 << 20
    user_changes_a_day: int = 100_000
    user_log_bytes_a_day: int = 1 << 30


class Applied(msgspec.Struct):
    """What one or more events changed that lives outside memory.

    Attributes:
        charges: every piece that was metered; the simulator counts them.
        closed: whole hours, to be rows, with their nodes.
        transactions: double entry to be written: of what is closed, and holds and releases.
        finished: jobs that became terminal, whole.
        corrections: charges that were reversed and posted anew, to be rows.
    """

    charges: list[Charge] = []
    closed: list[tuple[HourCharge, NodeRecord]] = []
    transactions: list[Transaction] = []
    finished: list[JobRecord] = []
    corrections: list[ChargesCorrected] = []


class ArrayMoney(msgspec.Struct):
    """What an array has committed of its `max_cost`. Made anew from its tasks, so no image keeps it.

    Attributes:
        settled_nanos: what all its attempts have cost so far.
        held_nanos: what live ones may still cost at most.
    """

    settled_nanos: int = 0
    held_nanos: int = 0

    @property
    def committed_nanos(self) -> int:
        """Both."""
        return self.settled_nanos + self.held_nanos


class NodeToken(msgspec.Struct, frozen=True):
    """A secret of a node, hashed.

    Attributes:
        expires_at: of its first use. instance: the agent it belongs to since then.
        valid_until: the end of a bound one; 0: none.
    """

    name: str
    sha256: str
    expires_at: int
    instance: str = ""
    issued_at: int = 0
    valid_until: int = 0

    def good(self, now: int) -> bool:
        """May an agent use it at `now`?"""
        end = self.valid_until if self.instance else self.expires_at
        return end > now if end else bool(self.instance)


class Doom(msgspec.Struct, frozen=True):
    """Why a job can never start: `other` (as people name it) ended `final`, it waited for `when`."""

    other: str
    when: str
    final: JobState


ROOM_KEPT_US = 300 * SECOND_US
"""So long after the grace of those that were stopped for a job what they left is its own at most."""
ROOMS_KNOWN = 1_000
"""So many times that others were stopped are known of one project, and of one user."""


class Met(msgspec.Struct):
    """A job that has started (`final` None) or ended at that time, and who waited for that and was not told
    yet.
    """

    display: str
    final: JobState | None
    waiting: deque[str]
    at: int


class Tables:
    """What is true, with its indexes. Reads are free for everybody; only the fold writes."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.cluster_id = ""
        self.currency = "USD"
        self.version = 0
        """Events applied: also the sequence number of the last one."""
        self.resumed_through = 0
        """The last event that this log shares with its life before the last restore; 0: it had none."""
        self.resumed_epoch = 0
        self.jobs: dict[str, JobRecord] = {}
        self.tasks: dict[str, dict[int, JobRecord]] = {}
        """By array, those of its tasks that are records."""
        self.array_money: dict[str, ArrayMoney] = {}
        """By array that is to end."""
        self.numbers: dict[int, str] = {}
        self.names: dict[str, dict[str, None]] = {}
        self.keys: dict[tuple[str, str], str] = {}
        self.last_of_user: dict[str, str] = {}
        self.next_number = 1
        self.next_order = 0
        self.attempts: dict[str, AttemptRecord] = {}
        self.leased: dict[str, None] = {}
        """Attempts whose budgets pay by leases, in the order in which they were placed."""
        self.behind: dict[str, str] = {}
        """By attempt, the one that gets its share and takes no room before."""
        self.nodes: dict[str, NodeRecord] = {}
        self.node_names: dict[str, str] = {}
        self.machines: dict[str, MachineRecord] = {}
        """Rented machines that may exist, by id."""
        self.rented: dict[str, str] = {}
        """By name of its node, the id of a machine."""
        self.node_tokens: dict[str, NodeToken] = {}
        self.cluster = Cluster()
        self.members = Members()
        self.pending = PendingIndex()
        self.begin_times: list[tuple[int, int, str]] = []
        """(when, order, job id) of what may not be queued before, a heap."""
        self._beginning: set[str] = set()
        self.unmatched: deque[str] = deque()
        """Jobs that budgets have changed for and that were not looked at since: oldest first."""
        self.dependents: dict[str, dict[str, None]] = {}
        """By the job waited for, the jobs that wait for its end, in the order of their submission."""
        self.starters: dict[str, dict[str, None]] = {}
        """The same of those that wait for its start alone."""
        self.followers: dict[str, dict[str, None]] = {}
        """By array, the arrays whose tasks wait for its own, one by one."""
        self.met: OrderedDict[tuple[str, str], Met] = OrderedDict()
        """By (job id, `STARTED` or `ENDED`), what jobs waited for and has come: first come first told, so
        many each turn.
        """
        self.told = 0
        """How many, since a turn began: the ends of one turn share what it can bear."""
        self.doomed: dict[str, Doom] = {}
        """Jobs whose dependency ended otherwise than they need, to be ended: first come, first ended."""
        self.budgets = BudgetTable()
        self.promises = PromiseTable(self.budgets.promised)
        self.quotas = QuotaTable()
        self.reservations = ReservationTable()
        self.policies: dict[tuple[str, str], PolicyDocument] = {}
        self.priced: list[PriceDocument] = []
        """Every version of every CostModel and PriceBook, oldest first: what prices are looked up in."""
        self.policies_version = 0
        self.strategy = "pack"
        self.weights: tuple[tuple[str, int], ...] = ()
        """See `Snapshot.weights`."""
        self.priority: PriorityPolicySpec | None = None
        self.idle_documents: tuple[tuple[str, IdlePolicySpec], ...] = ()
        self.allocator: AllocatorSpec | None = None
        self.allotments = Allotments()
        self.made: dict[str, None] = {}
        """Jobs that others were asked to end for and that have not started since: the first such first."""
        self.rooms_made: dict[str, tuple[int, ...]] = {}
        """By top-level project, when others were asked to end for its jobs, in the hour to the last time."""
        self.rooms_by_user: dict[str, tuple[int, ...]] = {}
        """The same by user."""
        self.costs = ProjectCosts()
        self.typical = TypicalRequests()
        self.runs = PastRuns()
        self.ledger = Ledger()
        self.corrected: dict[str, int] = {}
        """By job and task, what corrections made it cost more, or less: its row says what it did before."""
        self.shifted: dict[str, dict[str, int]] = {}
        """Of the same, what each budget followed by."""
        self.counted_whole = True
        """`shifted`, and what jobs say of it, is all there is: not of an image of before they were kept."""
        self.adjusted = 0
        """How often posted charges were corrected: what was read of them before is out of date."""
        self.closed = ClosedPeriods()
        self.grants = GrantTable()
        self.secrets: dict[tuple[str, str], SealedSecret] = {}
        """By (project, name)."""
        self.service_keys: dict[str, ServiceKey] = {}
        """Keys to services, by id."""
        self.keys_charged = KeysCounted()
        self.counts: dict[str, int] = {}
        self.shares = Shares()
        """Live jobs by state, tasks counted one by one."""
        self._policies_digest = (-1, "")

    def make_room(self, job: JobRecord, at: int, grace_us: int) -> None:
        """Others are asked to end for it, and have so long."""
        if not job.room_until:
            self.made[job.id] = None
        job.room_until = max(job.room_until, at + grace_us + ROOM_KEPT_US)
        for rooms, name in ((self.rooms_made, top_of(job.spec.project)), (self.rooms_by_user, job.user)):
            known = [one for one in rooms.get(name, ()) if at - HOUR_US < one <= at]
            if at not in known:  # those of one commit are stopped together
                rooms[name] = (*known, at)[-ROOMS_KNOWN:]

    def leave_room(self, job: JobRecord) -> None:
        """It has started, or wants that room no more: what is left of it is anybody's."""
        if job.room_until:
            job.room_until = 0
            self.made.pop(job.id, None)

    # --- reads

    def job(self, job_id: str) -> JobRecord | None:
        """A job, array or task in memory. A task that is no record is made one for this answer alone."""
        found = self.jobs.get(job_id)
        if found is None:
            parent_id, dot, index = job_id.partition(".")
            parent = self.jobs.get(parent_id) if dot and index.isdecimal() else None
            if parent is not None:
                return arrays.unrecorded(parent, int(index))
        return found

    def node_by_name(self, name: str) -> NodeRecord | None:
        """A node by name or id."""
        return self.nodes.get(self.node_names.get(name, name))

    def time_limit_of(self, spec: JobSpec) -> int:
        """The limit an attempt of this job gets before any cost cap."""
        if spec.service is not None:
            return TIME_LIMIT_MAX_US  # it goes on: what is paid for is its leases
        return spec.time_limit_us or self.limits.default_time_limit_us

    def grace_of(self, spec: JobSpec) -> int:
        """How long it may take to end once asked."""
        return max(spec.checkpoint.grace_us, DEFAULT_GRACE_US)

    def class_of(self, job: JobRecord, sized: bool = True) -> JobClass:
        """What decides where a job may go and what it may cost. `sized`: at the size that it was promised."""
        limit_us, size = self.time_limit_of(job.spec), self.allotments.given.get(job.id)
        if sized and job.promise is not None and job.promise.size is not None:
            limit_us, size = job.promise.time_limit_us, job.promise.size
        return self.class_of_spec(
            job.spec,
            (*job.hard_budgets, cap_of(job.parent_id or job.id)) if job.spec.caps_array else job.hard_budgets,
            limit_us,
            settled_nanos=job.settled_nanos,
            avoid=_failed_nodes(job) if job.spec.retry.avoid_same_node else (),
            gates=self.budgets.gates(job.budgets),
            likely_us=job.likely_us,
            user=job.user,
            size=size,
        )

    def option_of(self, job_id: str, option: int) -> int:
        """Which of a job's alternatives the one of its class is that was chosen."""
        size = self.allotments.given.get(job_id)
        job = self.jobs.get(job_id)
        if job is not None and job.promise is not None:
            size = job.promise.size or size
        return option if size is None else size.option

    def class_of_spec(
        self,
        spec: JobSpec,
        hard_budgets: tuple[str, ...],
        limit_us: int,
        settled_nanos: int = 0,
        avoid: tuple[str, ...] = (),
        gates: tuple[str, ...] = (),
        likely_us: int = 0,
        user: str = "",
        size: Size | None = None,
    ) -> JobClass:
        """The class of a spec that need not be a job yet (`bursar plan`).

        A cap on a whole array cuts nobody's time limit: `hard_budgets` names it, and a task that it cannot
        pay for in full waits. `likely_us`: how long runs like it take, 0 where that is not known. `user`:
        whose quotas count it and which reservations are for it; without, none. `size`: what an allocator gave
        it, which is all that it asks for.
        """
        promised = size is not None and promises(spec)
        given = fitted(spec, size) if promised and size is not None else narrowed(spec, size)
        nodes, options = given or (spec.nodes, spec.options)
        # A cap that is spent must still be a cap: below 0 nothing is left, 0 says that there is none.
        left = spec.max_cost_nanos - settled_nanos
        cap = (left or -1) if spec.max_cost_nanos and not spec.caps_array else 0
        quotas, pinned, rated = self.counted_by(user, spec) if user else ((), False, False)
        reservations = self.reservations.for_whom(user, spec.project) if user else ()
        return JobClass(
            nodes=nodes,
            options=options,
            ordered=spec.ordered,
            constraints=spec.where,
            spot_policy=spec.spot_policy,
            time_limit_us=limit_us,
            hold_us=limit_us + self.grace_of(spec) + HOLD_MARGIN_US,
            budgets=hard_budgets,
            max_price_nanos_per_hour=spec.max_price_nanos_per_hour,
            max_cost_nanos=cap,
            avoid_nodes=avoid,
            gates=gates,
            lease_us=self.budgets.first_us(spec, hard_budgets, likely_us),
            quotas=quotas,
            pinned=pinned,
            rated=rated,
            reservations=reservations,
            max_nodes=0 if given is not None else spec.max_nodes,
            endless=spec.service is not None,
        )

    def counted_by(self, user: str, spec: JobSpec) -> tuple[tuple[str, ...], bool, bool]:
        """`quotas`, `pinned` and `rated` of a `JobClass`, by the quotas in force now."""
        if not self.quotas:
            return (), False, False
        names = self.quotas.covering(user, spec.project)
        return names, self.quotas.guarantees and stays(spec), self.quotas.bounds_rates(names)

    def shifted_in(self, job_id: str, budget: str) -> int:
        """By how much corrections changed what a budget counted of a job or task."""
        shifted = self.shifted.get(job_id, {})
        return shifted.get(budget, 0) + shifted.get(EVERY_BUDGET, 0)

    def due(self, now: int) -> list[BudgetRecord]:
        """Budgets that are not in the period that the books are in: what is charged now would count in one
        and be spent of another one.
        """
        return self.budgets.due(self.closed.open_at(now))

    def outdated(self, job: JobRecord) -> bool:
        """Have budgets changed for it, and nobody has looked at it since?"""
        return bool(self.unmatched) and self.budgets.matching(job.user, job.spec) != (
            job.budgets,
            job.hard_budgets,
        )

    def rooms(self, queues: Iterable[PendingQueue]) -> dict[str, BudgetRoom]:
        """What each budget can still promise, and each array of these queues of its own `max_cost`."""
        rooms = self.budgets.rooms(self.ledger)
        for queue in queues:
            task = self.jobs[queue.jobs[0][1]]
            if task.spec.caps_array:
                room = self.cap_room(self.jobs[task.parent_id])
                rooms[room.name] = room
        return rooms

    def cap_room(self, array: JobRecord) -> BudgetRoom:
        """What is left of the `max_cost` of an array that has one as a whole."""
        money = self.array_money[array.id]
        return BudgetRoom(
            name=cap_of(array.id),
            limit_nanos=array.spec.max_cost_nanos,
            settled_nanos=money.settled_nanos,
            held_nanos=money.held_nanos,
            currency=self.currency,
            array=array.display,
        )

    def borders(self, attempt: AttemptRecord) -> set[int]:
        """Where a period ends, inside an hour, that a charge of this attempt may settle in: in zones of half
        hours they do. Of all that its holds went through, since what it used then may be told late.
        """
        found = self.ledger.periods(attempt.id) | self.budgets.ends(attempt.holds)
        return {at for at in found if at % HOUR_US}

    def open_hours(self) -> Iterator[HourCharge]:
        """What is charged and not yet posted."""
        for node in self.nodes.values():
            yield from node.open.values()
        for attempt in self.attempts.values():
            yield from (member.open for member in attempt.members if member.open is not None)

    def live_attempts(self) -> Iterator[AttemptRecord]:
        """Attempts that hold something, oldest first."""
        return iter(self.attempts.values())

    def policies_digest(self) -> str:
        """Names the documents in force: equal when they are."""
        if self._policies_digest[0] != self.policies_version:
            digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
            for key in sorted(self.policies):
                digest.update(msgspec.json.encode(self.policies[key]))
            self._policies_digest = (self.policies_version, digest.hexdigest())
        return self._policies_digest[1]

    def just_met(self, job_id: str) -> Met | None:
        """A job that others are still to be told of: it may be forgotten by itself already."""
        return self.met.get((job_id, ENDED)) or self.met.get((job_id, STARTED))

    # --- the indexes: for the fold alone

    def waits(self, job_id: str, other: str, when: str) -> None:
        """A job waits for the start of another, or for its end."""
        index = self.starters if when == STARTED else self.dependents
        index.setdefault(other, {})[job_id] = None

    def take(self, attempt: AttemptRecord, member: MemberRecord) -> None:
        """What a member was given is no longer free. Raises `InvariantViolation` when it was not (R1)."""
        row = self.nodes[member.alloc.node_id].row
        self.cluster.take(row, member.alloc)
        self.members.add(attempt.id, row, member.alloc, latest_end(attempt))
        if self.quotas:
            self._count(attempt, member)

    def _count(self, attempt: AttemptRecord, member: MemberRecord) -> None:
        job = self.jobs[attempt.job_id]
        names = self.quotas.covering(job.user, job.spec.project)
        types = [device.type for device in self.nodes[member.alloc.node_id].facts.devices]
        self.quotas.take(attempt.id, names, member.alloc, types, attempt.placed_at, stays(job.spec))

    def count_again(self, attempts: Iterable[AttemptRecord]) -> None:
        """What quotas count of these is to be looked at anew: their jobs, or the quotas, are others."""
        for attempt in attempts if self.quotas else ():
            self.quotas.forget(attempt.id)
            for member in attempt.live() if not attempt.after else ():
                self._count(attempt, member)

    def give(self, attempt: AttemptRecord, member: MemberRecord) -> None:
        """What a member held is free again."""
        self.cluster.give(self.nodes[member.alloc.node_id].row, member.alloc)
        self.members.remove(attempt.id, member.alloc.rank)
        self.quotas.give(attempt.id, member.alloc.rank)

    def evict(self, job_id: str) -> None:
        """Forget a terminal job once the store has it; its parent array keeps the counts."""
        job = self.jobs.pop(job_id, None)
        if job is None:
            return
        self.ledger.close_job(job_id)
        self.dependents.pop(job_id, None)
        self.starters.pop(job_id, None)
        self.followers.pop(job_id, None)
        self.tasks.pop(job_id, None)
        self.array_money.pop(job_id, None)
        if job.spec.service is not None and not job.parent_id:
            self.service_keys = {k: one for k, one in self.service_keys.items() if one.job_id != job_id}
        if job.parent_id:
            self.tasks.get(job.parent_id, {}).pop(job.array_index, None)
        else:
            self.shares.add(job.user, spec_bytes=-bytes_of_spec(job.spec))
            self.numbers.pop(job.number, None)
            self.unname(job)
            if job.key:
                self.keys.pop((job.user, job.key), None)

    def unname(self, job: JobRecord) -> None:
        """Its name, if it has one, no longer finds it."""
        named = self.names.get(job.spec.name, {})
        named.pop(job.id, None)
        if not named:
            self.names.pop(job.spec.name, None)

    def count(self, job: JobRecord, state: JobState) -> None:
        """Move a job (not an array parent) to a state, keeping the counts."""
        counts = self.counts
        counts[job.state] = counts.get(job.state, 0) - 1
        pending = (state is JobState.PENDING) - (job.state is JobState.PENDING)
        if pending:
            self.shares.add(job.user, pending)
        job.state = state
        if job.promise is not None:
            if state is not JobState.PENDING:
                job.promise.members = ()
            self.promises.put(job)
        if not state.terminal:
            counts[state] = counts.get(state, 0) + 1

    def enqueue(self, job: JobRecord, now: int) -> None:
        """Put a job into the queue if it could start at `now`; else it waits for what it lacks."""
        self.pending.remove(job.id)
        if job.state is not JobState.PENDING or job.held or job.waiting_on or job.array is not None:
            return
        if job.parent_id:
            parent = self.jobs[job.parent_id]
            if parent.held or parent.waiting_on or not job.has_slot:
                return
        if job.begins_at > now:
            self.queue_later(job, job.begins_at)
            return
        if self.allocator is not None and not self.allotments.absent and contends(job.spec):
            size = self.allotments.given.get(job.id)
            if size is None or narrowed(job.spec, size) is None:
                self.pending.set_aside(job.id)
                return
        self.pending.add(
            job.id,
            self.class_of(job),
            job.spec.priority,
            job.order,
            job.user,
            since_us=waits.since(job),
            project=job.spec.project,
            deadline_us=job.spec.deadline_at,
        )

    def allot(self, given: dict[str, Size], now: int) -> None:
        """This is what an allocator gives, in place of all that it gave before: `bursard.rounds`.

        No event, since it holds until the next round alone. Those that wait join the queue of what they got,
        and those that got nothing leave it.
        """
        before, self.allotments.given = self.allotments.given, given
        for job_id in {**before, **given}:
            job = self.jobs.get(job_id)
            if job is not None and before.get(job_id) != given.get(job_id):
                self.enqueue(job, now)

    def let_in(self, now: int) -> None:
        """Nobody waits for an allocator that is not there."""
        self.allotments.absent = True
        for job_id in list(self.pending.aside):
            self.enqueue(self.jobs[job_id], now)

    def queue_later(self, job: JobRecord, at: int) -> None:
        """Let `wake` put a job into the queue, not before `at`."""
        if job.id not in self._beginning:
            self._beginning.add(job.id)
            heapq.heappush(self.begin_times, (at, job.order, job.id))

    def forget_later(self, job: JobRecord) -> None:
        """Let the next `queue_later` of a job count, though an instant after it may stand there already."""
        self._beginning.discard(job.id)

    def wake(self, now: int, most: int = 2**62) -> bool:
        """Queue the jobs whose begin time has come, at most so many: housekeeping, before each plan.

        No event, since the time is in the record: a replay leaves them among `begin_times`, and the first
        looks at the clock after it bring them here, to the same place in the queue. True: more are due.
        """
        while self.begin_times and self.begin_times[0][0] <= now:
            if most <= 0:
                return True
            most -= 1
            _, _, job_id = heapq.heappop(self.begin_times)
            self._beginning.discard(job_id)
            job = self.jobs.get(job_id)
            if job is not None and job_id not in self.pending:
                self.enqueue(job, now)
        return False

    def take_over(self, fresh: Tables) -> None:
        """Become another state, read again from the log, for everybody who holds this one or records of it.

        What caches go by (`facts_version`, `policies_version`) only grows, so nothing made of the state
        before is taken for the state that comes.
        """
        for old, new in ((self.nodes, fresh.nodes), (self.jobs, fresh.jobs)):
            _keep_records(old, new)
        for tasks in fresh.tasks.values():
            tasks.update({index: fresh.jobs[task.id] for index, task in tasks.items()})
        fresh.cluster.facts_version = max(self.cluster.facts_version, fresh.cluster.facts_version) + 1
        fresh.policies_version = max(self.policies_version, fresh.policies_version) + 1
        vars(self).update(vars(fresh))


def _keep_records(old: dict[str, Any], new: dict[str, Any]) -> None:
    """The same objects with the new contents."""
    for key, record in new.items():
        if (kept := old.get(key)) is not None:
            for field in record.__struct_fields__:
                setattr(kept, field, getattr(record, field))
            new[key] = kept


def stays(spec: JobSpec) -> bool:
    """May what runs of it not be stopped for others?"""
    return not spec.preemptible or spec.retry.never


def latest_end(attempt: AttemptRecord) -> int:
    """When the last of its processes is gone at the latest."""
    since = attempt.started_at or attempt.placed_at
    return since + attempt.longest_us + attempt.grace_us + HOLD_MARGIN_US


def worst_case(attempt: AttemptRecord) -> int:
    """The most that a live attempt may cost in all: of one with leases, by the one it has."""
    return cumulative(attempt.rate, attempt.time_limit_us + attempt.grace_us + HOLD_MARGIN_US)


def still_to_cost(attempt: AttemptRecord) -> int:
    """The most that a live attempt may yet cost: its worst case, less what it spent."""
    return max(worst_case(attempt) - attempt.settled_nanos, 0)


def _failed_nodes(job: JobRecord) -> tuple[str, ...]:
    nodes = {m.alloc.node_id for a in job.attempts for m in a.members if a.cause != "completed"}
    return tuple(sorted(nodes))
