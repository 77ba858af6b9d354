"""What a store is: its rows, its filters, and the two protocols that every store keeps.

Owns    the row types that the state yields and reports read, `Batch` (all that one commit makes
        true), `CommitUnknown`, the one failure that nobody may retry, and the protocols: `Log` (one
        writer: append, load, snapshots) and `Views` (any number of readers: questions).
Why     rows are named tuples because SQLite binds tuples as they are: at thousands of rows a second
        a conversion per row would cost more than the insert. Field order is column order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from bursar.clock import DAY_US
from bursar.errors import InvalidRequest, InvariantViolation

if TYPE_CHECKING:
    from bursard.store.picture import Picture


class CommitUnknown(Exception):
    """A commit failed, and whether its rows are on disk is not known.

    After a failed fsync the rows may be there on reopen. So nobody may retry, and nobody may be
    told "no": the daemon exits (70), starts again and reads what is true.
    """


class Fenced(Exception):
    """A later epoch has opened this log: another daemon serves it, and this one must end (H1)."""


class EventRow(NamedTuple):
    """One event as kept. `payload` is `bursard.events.encode(event)`."""

    seq: int
    at: int
    actor: str
    payload: bytes


class JobRow(NamedTuple):
    """A job that has ended: columns to search by, and the whole record as JSON in `document`.

    Attributes:
        parent_id: of an array task, otherwise empty. array_index: of a task, otherwise -1.
        number: of the job; the tasks of an array may share their parent's.
        labels: JSON object, `{}` for none.
        finished_at: when its end was heard, which only grows from one to the next.
    """

    id: str
    number: int
    parent_id: str
    array_index: int
    name: str
    project: str
    user: str
    experiment: str
    model: str
    model_version: str
    labels: str
    state: str
    priority: int
    submitted_at: int
    started_at: int
    finished_at: int
    settled_nanos: int
    currency: str
    document: bytes


class ChargeRow(NamedTuple):
    """What one owner was charged in an hour, with all that reports group by; event `seq` closed it.

    Attributes:
        start_at, end_at: from the first to the last of it on the node's axis, inside one hour.
        held_us: how much of that was charged; less than all of it when there are gaps.
        rank: of the member. price_id: empty when the price is unknown.
        job_number: 0 for what is nobody's. labels: of the job, JSON object.
        simulated: 1 when the node's devices are simulated, else 0.
        gpu_milli, devices, cpu_milli, memory_bytes: the share that its owner holds, in thousandths of a GPU
            and of a CPU; times `held_us` it is what was used. Of a node's own time: the whole node.
        gpu_rate, cpu_rate, memory_rate: nanos per hour of that share: what a job pays, what a node costs.
            All of these are 0 in what was written before they were kept.
        energy_millijoules: of the share's devices, for the whole attempt, with its last hour.
        posted_at: when it was written; 0: not yet, or before it was kept.
        corrects: of a correction, the event that posted the charge it is about; it stands at the instant when
            it was booked. One that takes back has held below 0. for_start, for_end: the time of that charge.
            reason: why. Without one it is no correction, but of a month that this event closed before it was
            told, and it stands at the instant when it was.
    """

    seq: int
    kind: str
    node_id: str
    node_name: str
    pool: str
    attempt_id: str
    job_id: str
    job_number: int
    rank: int
    start_at: int
    end_at: int
    held_us: int
    nanos: int
    gpu: int
    cpu: int
    memory: int
    price_id: str
    project: str
    user: str
    experiment: str
    model: str
    model_version: str
    labels: str
    simulated: int
    gpu_milli: int = 0
    devices: int = 0
    cpu_milli: int = 0
    memory_bytes: int = 0
    gpu_rate: int = 0
    cpu_rate: int = 0
    memory_rate: int = 0
    energy_millijoules: int = 0
    posted_at: int = 0
    corrects: int = 0
    for_start: int = 0
    for_end: int = 0
    reason: str = ""

    @property
    def told_late(self) -> bool:
        """Of a month that was closed when it was told."""
        return self.corrects > 0 and not self.reason

    @property
    def used_until(self) -> int:
        """Where the time that it is for ends."""
        return self.for_end if self.corrects else self.end_at

    @property
    def used_from(self) -> int:
        """Where the time that it is for begins: of a correction, of what it corrects."""
        return self.for_start if self.corrects else self.start_at

    @property
    def rate(self) -> int:
        """Nanos per hour of its share."""
        return self.gpu_rate + self.cpu_rate + self.memory_rate


class Unposted(NamedTuple):
    """Hours that are still open as of event `seq`, as rows: what reports add to the rows up to there.

    `through`: nodes all of whose time is in the books up to an instant of their axis, and that instant.
    """

    seq: int
    rows: tuple[ChargeRow, ...]
    through: tuple[tuple[str, int], ...] = ()


class PostingRow(NamedTuple):
    """A double-entry transaction: its lines, (account, nanos), sum to zero (L1).

    `ref`: the attempt or node it is about; `job_id`: whose attempt.
    """

    seq: int
    kind: str
    ref: str
    legs: tuple[tuple[str, int], ...]
    job_id: str = ""

    def lines(self) -> Iterator[EntryRow]:
        """Each of its lines by itself."""
        for account, nanos in self.legs:
            yield EntryRow(self.seq, self.kind, account, nanos, self.ref)


class EntryRow(NamedTuple):
    """One line of a double-entry transaction, as it is read."""

    seq: int
    tx_kind: str
    account: str
    nanos: int
    ref: str


class KeyRow(NamedTuple):
    """An idempotency key and the job it made; `digest` is of the request's body."""

    user: str
    key: str
    job_id: str
    digest: bytes


class Batch(msgspec.Struct, kw_only=True):
    """All that becomes true together. `jobs` replace rows of the same id, all else is added."""

    events: Sequence[EventRow] = ()
    jobs: Sequence[JobRow] = ()
    charges: Sequence[ChargeRow] = ()
    postings: Sequence[PostingRow] = ()
    keys: Sequence[KeyRow] = ()

    @property
    def rows(self) -> int:
        """How many rows this writes."""
        tables = (self.events, self.jobs, self.charges, self.postings, self.keys)
        return sum(len(table) for table in tables)


def merge(batches: Sequence[Batch]) -> Batch:
    """Many commands as one commit, in order."""
    if len(batches) == 1:
        return batches[0]
    events: list[EventRow] = []
    jobs: list[JobRow] = []
    charges: list[ChargeRow] = []
    postings: list[PostingRow] = []
    keys: list[KeyRow] = []
    for batch in batches:
        events += batch.events
        jobs += batch.jobs
        charges += batch.charges
        postings += batch.postings
        keys += batch.keys
    return Batch(events=events, jobs=jobs, charges=charges, postings=postings, keys=keys)


def check_batch(batch: Batch, last_seq: int) -> int:
    """The last seq after `batch`. Raises `InvariantViolation` unless it goes on and balances."""
    seq = last_seq
    for event in batch.events:
        seq += 1
        if event[0] != seq:
            raise InvariantViolation(f"event {event[0]} does not follow event {seq - 1}")
    for rows in (batch.charges, batch.postings):
        if rows and not (last_seq < rows[0][0] and rows[-1][0] <= seq):
            raise InvariantViolation(
                f"rows of events {rows[0][0]}..{rows[-1][0]} in a batch of {last_seq + 1}..{seq}"
            )
    for posting in batch.postings:
        total = 0
        for _, nanos in posting.legs:
            total += nanos
        if total:
            raise InvariantViolation(
                f"the entries of event {posting.seq} ({posting.kind}) sum to {total}, not 0"
            )
    return seq


# ------------------------------------------------------------------ questions


class JobFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which finished jobs, newest number first.

    Attributes:
        states: any of these; empty for all. project: the path and everything below it.
        ended_since: finished at or after, and so all that was submitted then.
        labels: (key, value) pairs, all of them.
        parent_id: the tasks of this array instead of jobs.
        cursor: `JobPage.next` of the page before.
        within: any of these paths and everything below them; empty for all.
    """

    states: tuple[str, ...] = ()
    project: str = ""
    within: tuple[str, ...] = ()
    user: str = ""
    experiment: str = ""
    model: str = ""
    name: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    ended_since: int = 0
    parent_id: str = ""
    cursor: tuple[int, int] | None = None
    limit: int = 100


class JobPage(NamedTuple):
    """Rows and, when there may be more, where to go on."""

    rows: list[JobRow]
    next: tuple[int, int] | None


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events. `kinds` are tags such as `job-submitted`.

    Attributes:
        about: the id or name it is about (`events.subject`), tasks of that job included.
        or_about: further ones, any of which will do too: the attempts of a job.
        placed_on: the id of a node: also events about others that name it, above all the placing of every
            attempt with a member there, whatever the rest says but its time; alone when there is no `about`.
    """

    kinds: tuple[str, ...] = ()
    actor: str = ""
    about: str = ""
    or_about: tuple[str, ...] = ()
    placed_on: str = ""
    since: int = 0


class ChargeFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which charges. A charge lies in the window when its start does (none crosses an hour).

    Windows are of whole hours in effect: what an owner was charged in an hour is one row.

    Attributes:
        since, until: `[since, until)` of `start_at`; 0 for open.
        project: the path and everything below it. job_ids: any of these.
        after_seq: written by a later event. corrections: True: these alone.
        simulated: None for both. within: any of these paths and everything below them; empty for all.
    """

    since: int = 0
    until: int = 0
    within: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    job_ids: tuple[str, ...] = ()
    job_number: int = 0
    attempt_id: str = ""
    node: str = ""
    pool: str = ""
    project: str = ""
    user: str = ""
    experiment: str = ""
    model: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    simulated: bool | None = None
    after_seq: int = 0
    corrections: bool = False


Offsets = Sequence[tuple[int, int]]
"""By how much the clocks of a place are ahead of UTC, from which instant on, in order; none: UTC."""


class Dim(StrEnum):
    """What charges are grouped by. `label:<key>` works too. Hours are of UTC; days and months of UTC, or of a
    place whose offsets are given.

    `used_day`: of UTC, of a correction that of what it corrects. `corrected_hour`: the hour of UTC that a
    correction corrects; 0 of all else. `class`: `metered`, `late` (posted when its
    month was published) or `correction`.
    """

    KIND = "kind"
    NODE = "node"
    NODE_ID = "node_id"
    POOL = "pool"
    JOB = "job"
    JOB_NUMBER = "job_number"
    ATTEMPT = "attempt"
    PRICE = "price"
    PROJECT = "project"
    USER = "user"
    EXPERIMENT = "experiment"
    MODEL = "model"
    MODEL_VERSION = "model_version"
    SIMULATED = "simulated"
    CLASS = "class"
    HOUR = "hour"
    DAY = "day"
    USED_DAY = "used_day"
    CORRECTED_HOUR = "corrected_hour"
    MONTH = "month"


LATE_AFTER_US = DAY_US
"""A month counts as published so long after its end: what is posted later is late."""
LABEL_PREFIX = "label:"


def check_dims(by: Sequence[str], further: Sequence[str] = ()) -> None:
    """Raises `InvalidRequest` naming the first dimension there is none of. `further`: those that the caller
    makes of others.
    """
    for dim in by:
        label = dim.startswith(LABEL_PREFIX) and len(dim) > len(LABEL_PREFIX)
        if not label and dim not in further and dim not in Dim._value2member_map_:
            known = ", ".join((*Dim, *further))
            raise InvalidRequest(f"cannot group by {dim!r}; known: {known}, label:<key>")


ADJUSTMENTS = ("overhead", "variance", "absorption", "refund")
"""Kinds that are money alone: their time is that of the shares they adjust, and is not summed again."""


class ChargeSum(NamedTuple):
    """Charges folded by their keys.

    Attributes:
        keys: one per dimension asked for; hour and day as instants, month as `2026-11`.
        charges: how many rows. held_us: their summed length, of `ADJUSTMENTS` 0.
        gpu_milli_us, cpu_milli_us: what jobs used: thousandths of a GPU or CPU, times microseconds.
        unpriced_us: the part of it whose price is unknown: its amount is unknown too, not 0.
        jobs: different ones, an array as one, where they were to be counted.
    """

    keys: tuple[str | int, ...]
    nanos: int
    gpu: int
    cpu: int
    memory: int
    gpu_milli_us: int
    cpu_milli_us: int
    charges: int
    held_us: int
    unpriced_us: int
    jobs: int = 0


class Loaded(NamedTuple):
    """What a start reads: images of the state, and the events after any of them.

    Attributes:
        images: (seq, bytes), newest first, those that are whole and of this history.
        events: every event after a seq. It verifies the hash chain as it goes and raises
            `StoreUnavailable` where that breaks.
        passed_over: images that could not be read, as far as somebody has tried.
    """

    images: Iterator[tuple[int, bytes]]
    events: Callable[[int], Iterator[EventRow]]
    last_seq: int
    last_hash: bytes
    passed_over: list[int]


class LogHead(NamedTuple):
    """Where a log ends: what a copy of it must reach, and what an external witness remembers."""

    seq: int
    hash: bytes


class Log(Protocol):
    """What happened, in order. One thread at a time writes; `epoch` says whose turn it is.

    All of it may wait for a disk or a network: call it from the writer's thread or at a start, never
    from the event loop; `head`, `last_seq` and `epoch` alone are answered from memory.
    """

    trouble: str
    """What keeps it from taking anything now, and what to do; empty: nothing."""

    @property
    def last_seq(self) -> int:
        """Seq of the newest event, 0 for an empty log."""
        ...

    @property
    def head(self) -> LogHead:
        """The newest event committed here."""
        ...

    @property
    def epoch(self) -> int:
        """Grows at every start: nothing older may write, or command agents (H1, H2)."""
        ...

    def raise_epoch(self, epoch: int) -> None:
        """Speak for this epoch from now on, durably, when it is higher than the current one."""
        ...

    def holds(self, seq: int, digest: bytes) -> bool:
        """Is event `seq` in this log, with this hash? True for 0."""
        ...

    def append(self, batch: Batch) -> None:
        """Make a batch true, durably, or not at all.

        Raises `Fenced` (nothing written) when a later epoch has opened the log, `CommitUnknown` when
        the disk failed, `InvariantViolation` (nothing written) when the batch does not continue the log
        or does not balance.
        """
        ...

    def load(self) -> Loaded:
        """Everything a start needs."""
        ...

    def save_snapshot(self, seq: int, data: bytes) -> None:
        """Keep the state as of event `seq`; the last two are kept. `data` is compressed here."""
        ...

    def sum_days(self) -> bool:
        """Sum up charges of before by day, so that reports read less. False: none are due."""
        ...

    def verify(self, full: bool = True) -> list[str]:
        """Every problem found, as sentences; empty means sound.

        Chain, gaps, sums of entries (L1), and each charge against its events. Not `full`:
        the newest part of the chain and what is cheap.
        """
        ...

    def picture(self) -> AbstractContextManager[Picture]:
        """All tables as of one commit, for an audit; opened and closed in one thread."""
        ...

    def free_bytes(self) -> int:
        """Space left under the log: refuse new work below a floor, before a commit fails."""
        ...

    def meta(self, key: str) -> str | None:
        """A note kept with the log, such as `cluster_id`."""
        ...

    def set_meta(self, key: str, value: str) -> None:
        """Keep a note, durably."""
        ...

    def close(self) -> None:
        """Let go of it. Twice is allowed."""
        ...


class Views(Protocol):
    """Questions about what has been committed. From any thread, but never from the event loop."""

    def find_job(self, ref: str) -> JobRow | None:
        """By id, number, `last`, `JOB[7]` for a task, or name (then the newest of that name)."""
        ...

    def jobs_named(self, name: str, limit: int = 2) -> list[JobRow]:
        """Jobs of one name, newest first: more than one makes a name ambiguous."""
        ...

    def jobs(self, query: JobFilter) -> JobPage:
        """One page of finished jobs."""
        ...

    def events(
        self,
        after_seq: int = 0,
        limit: int = 1000,
        query: EventFilter | None = None,
    ) -> list[EventRow]:
        """Events after `after_seq`, oldest first."""
        ...

    def events_before(self, before_seq: int, limit: int, query: EventFilter | None = None) -> list[EventRow]:
        """The last `limit` events before `before_seq`, which is above 0, newest first."""
        ...

    def event_hash(self, seq: int) -> str:
        """The hash of the log up to an event, hexadecimal; empty where the event is not there."""
        ...

    def last_seq_before(self, at: int) -> int:
        """The newest event that was recorded before an instant; 0: none that is known. Clocks that were set
        back make it that of one of the times when it was so late.
        """
        ...

    def charges(
        self, query: ChargeFilter | None = None, unposted: Unposted | None = None
    ) -> Iterator[ChargeRow]:
        """Charges by start, as of the first row asked for; safe while others write.

        With `unposted`: as of its event, and its rows among them.
        """
        ...

    def charge_sums(
        self,
        by: Sequence[str],
        query: ChargeFilter | None = None,
        unposted: Unposted | None = None,
        offsets: Offsets = (),
        count_jobs: bool = False,
    ) -> list[ChargeSum]:
        """Charges folded by `Dim`s or `label:<key>`, in order of the keys; `unposted` as in `charges`.

        `offsets`: whose days and months; a day is told as its midnight, as if that were one of UTC.
        """
        ...

    def entries(self, prefix: str = "") -> Iterator[EntryRow]:
        """Ledger lines of the accounts that begin with `prefix`, in log order; safe while others write."""
        ...

    def balances(self, prefix: str = "") -> dict[str, int]:
        """Nanos per account: the sum of its entries (L3)."""
        ...

    def keys(self, user: str, keys: Sequence[str]) -> dict[str, KeyRow]:
        """What this user's idempotency keys made, by key; those that are unknown are left out."""
        ...

    def keys_after(self, last: tuple[str, str], limit: int) -> list[tuple[str, str]]:
        """The next (user, key) pairs in a fixed order, after `last`; from the first on after a pair of
        empty texts. What is written during such a walk may be in it or not.
        """
        ...


class Store(Log, Views, Protocol):
    """One cluster's memory: its log, and views of what the log made."""
