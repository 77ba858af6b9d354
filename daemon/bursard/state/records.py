"""What the fold remembers: jobs, attempts, members and nodes as they are now. Mutable, owned by `State`.

Why     a record is changed only by `State.apply`, so its whole history is the event log; everybody else
        reads. msgspec structs keep 10,000 pending jobs in tens of megabytes and make snapshots one call.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

import msgspec

from bursar.model import (
    Calibration,
    EndCause,
    Hold,
    JobSpec,
    JobState,
    MemberAllocation,
    NodeFacts,
    ShareRates,
)
from bursar.model.allocation import FREE
from bursar.model.ranges import Ranges
from bursar_policies.allocators import Size
from bursar_policies.idleness import Mark
from bursard.events import Charge, ExitReport, PromisedMember
from bursard.ledger import HourCharge, PriceInForce, Span, spans


class MemberRecord(msgspec.Struct, omit_defaults=True):
    """One rank of an attempt.

    Attributes:
        boot_id: the boot it is bound to. started_at: on the node's axis, 0 = not started.
        charged_us: held time already charged; only grows. report: set when its process tree is gone.
        node: the name of its node, which may leave before the job is forgotten.
        placed_axis: how far its node had reported when it was placed: it cannot have started before.
        open: what it was charged in its current hour, not yet posted.
    """

    alloc: MemberAllocation
    boot_id: str
    pid: int = 0
    started_at: int = 0
    charged_us: int = 0
    placed_axis: int = 0
    node: str = ""
    report: ExitReport | None = None
    open: HourCharge | None = None


class AttemptRecord(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One try at running a job. `state`: STARTING | RUNNING | STOPPING | ENDED.

    Attributes:
        stops: how often it was asked to end; 0 again once it has ended.
        after: the attempt whose share it gets; empty once it has room of its own. What ends without keeps it.
        overdue: by rank, what its node in contact has not done in time.
        time_limit_us: what it is billed and money is held by: of the limits that a member may live by, the
            longest.
        limit_order: of the newest change of it, 0 for none. wanted_limit_us: by that order; 0: nothing waits.
        lease_us: its budgets pay by leases of so long; 0: they hold its worst case. full_limit_us: how far
            those may go.
        idle_told_at: when it was told last that its devices do nothing.
        idle: how far idle policies are with it, by `bursar_policies.idleness.Rule.key`.
        taken: by rank that lives by the newest order, how long it had run by then. refused: by rank, why it
            does not.
    """

    id: str
    job_id: str
    number: int
    option: int
    members: list[MemberRecord]
    time_limit_us: int
    grace_us: int
    holds: tuple[Hold, ...]
    placed_at: int
    state: str = "STARTING"
    started_at: int = 0
    finished_at: int = 0
    stop_cause: EndCause | None = None
    stop_grace_us: int = 0
    stop_message: str = ""
    stops: int = 0
    cause: EndCause | None = None
    exit_code: int = -1
    message: str = ""
    why: str = ""
    port: int = 0
    cut_by_budget: bool = False
    settled_nanos: int = 0
    after: str = ""
    overdue: dict[int, str] = {}
    limit_order: int = 0
    wanted_limit_us: int = 0
    taken: dict[int, int] = {}
    refused: dict[int, str] = {}
    lease_us: int = 0
    idle_told_at: int = 0
    idle: dict[str, Mark] = {}
    full_limit_us: int = 0

    @property
    def longest_us(self) -> int:
        """The longest it may run: its time limit, and what leases may add to it."""
        return max(self.time_limit_us, self.full_limit_us)

    @property
    def rate(self) -> int:
        """Nanos per hour of the whole attempt."""
        return sum(member.alloc.rates.total for member in self.members)

    @property
    def priced(self) -> bool:
        """Every node of it has a known price."""
        return all(member.alloc.price_id for member in self.members)

    def live(self) -> list[MemberRecord]:
        """Members whose process trees may still exist."""
        return [member for member in self.members if member.report is None]

    def unlimited(self) -> list[MemberRecord]:
        """Live members that have not taken the newest order for another time limit."""
        if not self.wanted_limit_us:
            return []
        return [member for member in self.live() if member.alloc.rank not in self.taken]


class EndedTasks(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tasks of one array that ended together while they waited."""

    ranges: Ranges
    state: JobState
    at: int
    message: str = ""


class ServiceKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key to a service; `sha256` is of its secret, which is kept nowhere. As in `KeyIssued`."""

    id: str
    job_id: str
    sha256: str
    name: str
    project: str
    user: str
    issued_at: int
    requests_per_minute: int = 0
    concurrency: int = 0
    expires_at: int = 0
    budget: str = ""

    def lapsed(self, now: int) -> bool:
        """It is good for nothing any more."""
        return 0 < self.expires_at <= now


class RolledBack(msgspec.Struct, frozen=True):
    """What was tried before the revision of now, `to` whose replicas it went back, and in words why."""

    revision: int
    to: int
    why: str


class ArrayRecord(msgspec.Struct, omit_defaults=True):
    """The book-keeping of an array's parent.

    Attributes:
        counts: tasks by state, all of them.
        unopened: indices of tasks that wait for their turn; they are no records.
        open_slots: how many more may be in the queue or alive at once.
        queued: tasks in the queue.
        ended: tasks that ended without ever having been a record.
        ended_at: the latest end of a task so far, as its nodes measured it; 0: none has ended. -1: not known,
            as in what was written before it was kept.
        follows: by array whose tasks its own follow one by one, those that wait for theirs. lost: by what
            people call such an array, those whose own there did not succeed: they are to end.
        ready: of `unopened`, those that wait for no task of another array; None: all, since it follows none.
        stepped: tasks that completed over a step that failed.
    """

    max_parallel: int = 0
    counts: dict[str, int] = {}
    unopened: Ranges = ()
    open_slots: int = 0
    queued: int = 0
    ended: list[EndedTasks] = []
    ended_at: int = -1
    follows: dict[str, Ranges] = {}
    lost: dict[str, Ranges] = {}
    ready: Ranges | None = None
    stepped: int = 0

    @property
    def openable(self) -> Ranges:
        """Tasks that may have their turn."""
        return self.unopened if self.ready is None else self.ready


class PromiseRecord(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What was promised to a job, as in `DeadlinePromised`, and what became of it (`DeadlineBroken`).

    Attributes:
        given_at: when this deadline was promised first.
        broken_at: 0: it stands, or was kept.
    """

    by: int
    given_at: int
    start: int = 0
    until: int = 0
    option: int = 0
    rate: int = 0
    nanos: int = 0
    members: tuple[PromisedMember, ...] = ()
    gpu_type: str = ""
    time_limit_us: int = 0
    broken_at: int = 0
    cause: str = ""
    message: str = ""
    given_up: bool = False

    @property
    def size(self) -> Size | None:
        """What it is to have, while its place is kept; None: it has one size."""
        if not self.members or not self.time_limit_us:
            return None
        return Size(self.gpu_type, len(self.members), len(self.members[0].devices), option=self.option)


class JobRecord(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One job, or one task of an array (`parent_id`), or the array itself (`array`).

    Attributes:
        order: place in the queue among equals: the submission order of the cluster.
        waiting_on: job ids still to end, with the condition.
        attempts: ended ones and, last, the live one if there is one.
        budgets: names of all matching budgets; `hard_budgets` those that can refuse.
        retries: attempts that used up `retry.max`.
        free_retries: in a row, that used up nothing. retry_at: not before this is the next try.
        waits_since: it was released, asked for more, or had what it depends on, while it waited:
            `waits.since`; 0: none of these.
        finished_at: when its end was heard, as of its attempts; when it was, `ends.job_ended_at` tells.
        has_slot: an array task that has taken one of the parallel slots of its array.
        likely_us: how long runs like it took when it was made a record; 0: too few were known.
        counted_from: by budget whose account was opened after it had begun, where the account's period begins
            and the instant from which on it counts what was spent.
        uncounted: of an array, by budget, what of its ended tasks the budget did not count.
        replaced: of a service, what it asked for before its last update.
        back: of a service, if its revision was come back to since the one before was no good.
        gateways: of a service, by gateway, the number of what it told last.
        promise: of its deadline.
        room_until: others were asked to end for it, and until then what they leave is its own; 0: nobody was,
            or it has started since.
    """

    id: str
    number: int
    user: str
    spec: JobSpec
    order: int
    submitted_at: int
    state: JobState = JobState.PENDING
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = -1
    held: bool = False
    requeue: bool = False
    key: str = ""
    message: str = ""
    waiting_on: dict[str, str] = {}
    attempts: list[AttemptRecord] = []
    budgets: tuple[str, ...] = ()
    hard_budgets: tuple[str, ...] = ()
    retries: int = 0
    free_retries: int = 0
    retry_at: int = 0
    waits_since: int = 0
    settled_nanos: int = 0
    unpriced: bool = False
    simulated: bool = False
    parent_id: str = ""
    array_index: int = -1
    has_slot: bool = False
    likely_us: int = 0
    counted_from: dict[str, tuple[int, int]] = {}
    uncounted: dict[str, int] = {}
    array: ArrayRecord | None = None
    replaced: JobSpec | None = None
    back: RolledBack | None = None
    gateways: dict[str, int] = {}
    promise: PromiseRecord | None = None
    room_until: int = 0

    @property
    def begins_at(self) -> int:
        """It may not start before this."""
        return max(self.spec.begin_after, self.retry_at)

    @property
    def attempt(self) -> AttemptRecord | None:
        """The live attempt."""
        last = self.attempts[-1] if self.attempts else None
        return last if last is not None and last.state != "ENDED" else None

    @property
    def display(self) -> str:
        """How people name it: `12` or `12[3]`."""
        return f"{self.number}[{self.array_index}]" if self.parent_id else str(self.number)


class EndedUsage(msgspec.Struct, frozen=True):
    """Held time of a member that ended after its node was last metered: `[start, end)` on the axis.

    `alloc`: what it held; None in images of before it was kept.
    """

    start: int
    end: int
    started_at: int
    rates: ShareRates
    alloc: MemberAllocation | None = None


class MachineState(Enum):
    """Where a rented machine is in its life. Its cost runs from `up` until `gone`."""

    INTENDED = "intended"
    LAUNCHING = "launching"
    UP = "up"
    ENDING = "ending"
    GONE = "gone"


class MachineRecord(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One rented machine, from the intent until its provider lists it as gone. No node is needed for that.

    Attributes:
        provider_id: its name at the provider; empty until that has answered.
        node_id: of its agent, once that has said hello.
        billed_from: since when its provider bills it. lease_until: its agent is to be here by then.
        why: what it was rented for. reason: why it is to end.
        name, pool, job_id, facts, rate: as in `MachineIntended`; no `job_id` once its job has ended.
        holding: what was set aside for its launch still is: of one that is here, until its job runs there.
        waits: its job's other machines come, and nothing starts there until they are here.
        launch: what it cost until its agent said hello, while nobody has paid that.
        moves: as in `MachineIntended`.
        purse: the machine by whose id its job holds money for it; empty: its own.
        user, project: of the job that it was rented for, as that was then; empty: nobody knows any more.
    """

    id: str
    provider: str
    region: str
    zone: str
    instance_type: str
    market: str
    intended_at: int
    state: MachineState = MachineState.INTENDED
    provider_id: str = ""
    node_id: str = ""
    billed_from: int = 0
    lease_until: int = 0
    why: str = ""
    reason: str = ""
    name: str = ""
    pool: str = ""
    job_id: str = ""
    holding: bool = False
    facts: NodeFacts | None = None
    rate: int = 0
    waits: bool = False
    launch: tuple[Charge, ...] = ()
    purse: str = ""
    moves: bool = False
    user: str = ""
    project: str = ""

    @property
    def payer(self) -> str:
        """By which id its job holds money for it."""
        return self.purse or self.id


TIMES_KEPT = 6
PROBE_AFTER = 2


class NodeRecord(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One node.

    Attributes:
        row: of the node columns. mode: open | cordon | drain | quarantine.
        connected: its agent is in contact.
        anchor_at, anchor_boot_us: of the current boot's axis. axis_start: where its cost begins.
        seen_boot_id, seen_boot_us, seen_at: the daemon's own clocks when the boot was anchored.
        through: on the axis; cost up to here is owned by somebody.
        price_id, rates, cost: its price now: what jobs pay, and what it costs where that is not the same.
        prices: by `since`, as many as `through` has not passed.
        ended: usage charged since `through` by members that are gone.
        live: (attempt id, rank) of what it holds.
        open: by kind, what its own time cost in the current hour, not yet posted.
        misbehaved: by kind (`decide.conduct`), when, the newest `TIMES_KEPT`.
        not_started: jobs that could not be started there, since the last one that was; `user:NAME` for all of
            one who has no account there.
        trouble: what it says keeps it from starting anything; empty: nothing.
        calibration: what it delivered when it was measured with the devices that it has.
    """

    id: str
    facts: NodeFacts
    row: int
    boot_id: str = ""
    anchor_at: int = 0
    anchor_boot_us: int = 0
    seen_boot_id: str = ""
    seen_boot_us: int = 0
    seen_at: int = 0
    axis_start: int = 0
    through: int = 0
    connected: bool = False
    changed_at: int = 0
    mode: str = "open"
    reason: str = ""
    price_id: str = ""
    rates: ShareRates = ShareRates()
    cost: ShareRates | None = None
    prices: list[PriceInForce] = []
    ended: list[EndedUsage] = []
    live: dict[str, int] = {}
    open: dict[str, HourCharge] = {}
    misbehaved: dict[str, list[int]] = {}
    not_started: list[str] = []
    trouble: str = ""
    calibration: Calibration | None = None

    @property
    def doubtful(self) -> bool:
        """So many jobs in a row could not be started there that it gets one at a time."""
        return len(self.not_started) >= PROBE_AFTER

    @property
    def cost_rates(self) -> ShareRates:
        """What it costs its site now."""
        return self.rates if self.cost is None else self.cost

    def cost_at(self, instant: int) -> ShareRates:
        """What it costs its site at an instant since `through`; FREE while its price is unknown."""
        price = next((one for one in reversed(self.prices) if one.since <= instant), None)
        if price is None:
            return self.cost_rates if self.price_id else FREE
        return price.cost or price.rates

    def prices_with(self, changes: Iterable[PriceInForce]) -> list[PriceInForce]:
        """By `since`, what it costs when these came into force: without what `through` has passed."""
        found = list(self.prices)
        if not found and self.axis_start:
            found.append(PriceInForce(0, self.price_id, self.rates, self.cost))
        for change in changes:
            found = [*(price for price in found if price.since < change.since), change]
        passed = sum(price.since <= self.through for price in found[1:])
        return found[passed:]

    def spans(self, to_at: int, changes: Iterable[PriceInForce] = ()) -> list[Span]:
        """What it costs from `through` to an instant, cut where its price changed."""
        return spans(self.prices_with(changes), self.through, to_at)

    def axis(self, boot_us: int) -> int:
        """The instant on this node's axis at one reading of its boot clock."""
        return self.anchor_at + boot_us - self.anchor_boot_us
