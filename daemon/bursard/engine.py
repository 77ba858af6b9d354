"""The engine: one place where events become true, durable, and heard, in that order.

Owns    the state, the writer and the order between them: decide → apply → append → (durable) → release.
Why     later commands must be decided on what earlier ones made true, so events are applied in memory at
        once; but nothing leaves the process (a reply, an assignment, a watch) before the commit that
        holds its event is on disk. A failed commit ends the process: memory would be ahead of the disk.
        An event that cannot be applied is a defect of ours and no doubt about the disk: the call fails,
        and memory is read again from the log, so that nothing of it was ever true.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from bursar.clock import DAY_US, Clock, Instant
from bursar.errors import BursarError, NotApplied
from bursar.ids import Ids
from bursar.model import DeviceShare, JobSpec, MemberAllocation
from bursar_policies.compile import Applied as PriceDocument
from bursar_policies.compile import PriceTable
from bursard.events import Charge, ChargesCorrected, Event, JobSubmitted, encode
from bursard.ledger import HourCharge, Transaction
from bursard.replay import restore
from bursard.state import Applied, JobRecord, MemberRecord, NodeRecord, State, documents
from bursard.state import image as state_image
from bursard.state.decide.jobs import doomed, refuse_second_end
from bursard.store import Batch, ChargeRow, EventRow, JobRow, KeyRow, Log, PostingRow, Store, Unposted, Views
from bursard.store.corrections import correction_rows, told_late
from bursard.turns import Threads
from bursard.writer import Writer

log = logging.getLogger(__name__)

SNAPSHOT_EVERY = 20_000
"""Events between snapshots: about half a second of replay at a start."""
SNAPSHOT_JOBS = 5
"""Of more jobs than so many times that, an event between for each so many of them: an image takes as long as
there are jobs, in one turn of the loop, and reading it longer than the replay of what came since.
"""

READERS = 4
"""Threads that answer short questions to the store."""
MAKERS = 16
"""Threads for what takes longer, up to seconds: reports, large plans. So many that several callers with as
many as they may have leave some.
"""
THREADS_EACH = 2
"""Of either kind, that one caller has at a time."""

Answer = TypeVar("Answer")

EVENTS_MAX = 1_000
"""Events that follow by themselves within one commit; the rest come with the next turns of the cycle."""

Listener = Callable[[int, Event, int, str], None]
"""Called with (seq, event, at, actor) once the event is durable, in log order."""


Meter = Callable[[Sequence[Charge]], None]
"""Called with the charges of one event."""


class Engine:
    """State and writer behind one door. Belongs to the event loop's thread."""

    def __init__(
        self,
        state: State,
        store: Store,
        writer: Writer,
        clock: Clock,
        ids: Ids,
        catalog: Sequence[PriceDocument] = (),
    ) -> None:
        self.state = state
        self.log: Log = store
        """For its `epoch`; whatever may wait for the disk is asked through `read` or in a thread."""
        self.views: Views = store
        """For threads alone: the loop asks through `read`."""
        self.writer = writer
        self.clock = clock
        self.ids = ids
        self.listeners: list[Listener] = []
        self.meters: list[Meter] = []
        """Hear of every charge as it is made true, before it is durable. None is left once something that
        they heard of has turned out not to be true, or what was charged before was corrected.
        """
        self.on_dirty: Callable[[], None] = lambda: None
        self.on_written: Callable[[str, Sequence[Event], int], None] = lambda actor, events, size: None
        """Called with the actor of a call, the events that it made true, and their bytes."""
        self.on_fault: Callable[[BaseException], None] = lambda error: None
        """Called when memory may differ from the disk: end the process, the next start reads what is true."""
        self.entries = 0
        """Of the ledger, that were made true since this process began."""
        self._catalog = tuple(catalog)
        self._prices: tuple[int, PriceTable] | None = None
        self._unreleased: deque[tuple[int, Event, int, str]] = deque()
        self._evictions: deque[tuple[int, str]] = deque()
        self._snapshot_seq = state.version
        self._snapshotting = False
        self._readers = Threads(READERS, THREADS_EACH, "bursard-read")
        self._makers = Threads(MAKERS, THREADS_EACH, "bursard-make")
        writer.after_commit.append(self._released)

    @property
    def prices(self) -> PriceTable:
        """All prices in force: the shipped catalogue and what was applied."""
        version = self.state.policies_version
        if self._prices is None or self._prices[0] != version:
            self._prices = (version, PriceTable([*self._catalog, *self.state.priced]))
        return self._prices[1]

    async def same_history(self, seq: int, digest: bytes, epoch: int) -> bool:
        """Is what was once acknowledged as event `seq` still in the log, or known to be lost?

        Args:
            seq, digest: the end of the log as somebody outside remembers it; 0: remembers nothing.
            epoch: the highest that somebody obeyed. Below that of the last restore it may remember
                what was lost with it.
        """
        if not seq or epoch < self.state.resumed_epoch:
            return True
        return await asyncio.to_thread(self.log.holds, seq, digest)

    def now(self) -> Instant:
        """Bursard's wall clock."""
        return self.clock.now()

    def commit(self, events: Sequence[Event], actor: str) -> int:
        """Make events true and send them to disk. Returns the sequence number to wait for.

        Raises:
            NotApplied: one of them cannot be applied; none of them is true.
        """
        if not events:
            return self.state.version
        return self.commit_each([lambda: events], actor)

    def commit_each(self, decisions: Iterable[Callable[[], Sequence[Event]]], actor: str) -> int:
        """Decide and apply one after the other, each on what those before it made true; all or none of it.

        Raises what a decision raises, and `NotApplied`. Either way nothing of the whole call is true.
        """
        transaction = _Transaction(self.clock.now(), actor)
        try:
            for decide in decisions:
                for event in decide():
                    self._apply(event, transaction)
                self._follow(transaction)
        except Exception as error:
            if transaction.touched:
                self._undo(transaction, error)
            if isinstance(error, BursarError):
                raise
            raise _not_applied(error) from error
        if transaction.batch.events:
            self._enqueue(transaction)
        return self.state.version

    def _follow(self, transaction: _Transaction) -> None:
        """Jobs whose dependency ended otherwise end with it: as many as fit one commit. The cycle goes on
        with the rest, which the state remembers.
        """
        while self.state.doomed and len(transaction.batch.events) < EVENTS_MAX:
            for event in doomed(self.state, 1):
                self._apply(event, transaction)

    def _apply(self, event: Event, transaction: _Transaction) -> None:
        state, applied, batch = self.state, transaction.applied, transaction.batch
        now, actor = transaction.now, transaction.actor
        transaction.touched = True
        transaction.last = event
        refuse_second_end(state, event)
        state.apply(event, now, applied)
        seq = state.version
        batch.events.append(EventRow(seq, now, actor, encode(event)))  # type: ignore[attr-defined]
        for meter in self.meters:
            meter(applied.charges)
        if isinstance(event, ChargesCorrected):
            self.meters = []  # what they were to add to has changed
        applied.charges.clear()
        if applied.closed:
            rows = [charge_row(state, seq, hour, node, now) for hour, node in applied.closed]
            batch.charges.extend(rows)  # type: ignore[attr-defined]
            applied.closed.clear()
        for correction in applied.corrections:
            batch.charges.extend(correction_rows(seq, correction, now))  # type: ignore[attr-defined]
        applied.corrections.clear()
        if applied.transactions:
            batch.postings.extend(posting_rows(seq, applied.transactions))  # type: ignore[attr-defined]
            self.entries += sum(len(tx.entries) for tx in applied.transactions)
            applied.transactions.clear()
        for job in applied.finished:
            transaction.evictions.append((seq, job.id))
            batch.jobs.append(job_row(state, job))  # type: ignore[attr-defined]
        applied.finished.clear()
        if isinstance(event, JobSubmitted) and event.key:
            row = KeyRow(event.user, event.key, event.job_id, key_digest(event))
            batch.keys.append(row)  # type: ignore[attr-defined]
        transaction.unreleased.append((seq, event, now, actor))

    def _enqueue(self, transaction: _Transaction) -> None:
        self._unreleased += transaction.unreleased
        self._evictions += transaction.evictions
        size = sum(len(row.payload) for row in transaction.batch.events)
        self.on_written(transaction.actor, [event for _, event, _, _ in transaction.unreleased], size)
        try:
            # First the cycle, then the writer: both run in the loop's next turn, in this order, so that
            # what the cycle places because of these events is in the same commit.
            self.on_dirty()
            self.writer.enqueue(transaction.batch)
        except Exception as error:
            # Memory holds what the disk may never hear of: nothing may be decided on it.
            self.on_fault(error)
            raise

    def _undo(self, transaction: _Transaction, error: Exception) -> None:
        """Back to what is on disk or on its way there: the same state, read again from the log.

        The loop stands still for it, which a defect may cost and an everyday refusal may not: whoever
        expects a refusal decides before the first event.
        """
        log.error(
            "an event could not be applied; what is true is read again from the log",
            extra={"kind": type(transaction.last).__name__, "actor": transaction.actor},
            exc_info=error,
        )
        try:
            self.writer.drain()
            self.state.take_over(restore(self.log, self.state.limits))
        except BaseException as fault:
            self.on_fault(fault)
            raise
        self._prices = None
        self.meters = []
        self.on_dirty()

    async def durable(self, seq: int | None = None) -> None:
        """Wait until an event (all so far when None) is on disk: replies and reads pass here."""
        await self.writer.durable(self.state.version if seq is None else seq)

    async def read(self, question: Callable[[Views], Answer]) -> Answer:
        """Ask the store, in a thread: a slow disk or a large answer holds up nobody but the caller.

        The state may have changed by the time of the answer: decide nothing on what was read before.
        """
        return await self._readers.run(lambda: question(self.views))

    async def aside(self, work: Callable[[], Answer], pool: Executor | None = None) -> Answer:
        """Do long work in a thread: a report, a large plan, parsing.

        Args:
            pool: of one thread of its own, where work goes on in the same one.
        """
        return await self._makers.run(work, pool)

    async def books(self) -> Unposted:
        """The open hours as of now, once everything that closed others is on disk.

        Reports add them to the rows of the same moment: what is posted while they read changes no total.
        """
        found = unposted(self.state)
        await self.durable(found.seq)
        return found

    def _released(self, durable_seq: int) -> None:
        while self._unreleased and self._unreleased[0][0] <= durable_seq:
            seq, event, at, actor = self._unreleased.popleft()
            for listener in self.listeners:
                listener(seq, event, at, actor)
        while self._evictions and self._evictions[0][0] <= durable_seq:
            self.state.evict(self._evictions.popleft()[1])

    def snapshot_due(self) -> bool:
        """Enough happened since the last snapshot, none is being written, and nothing is left over that it
        would have to finish in one turn.
        """
        pace = max(SNAPSHOT_EVERY, len(self.state.jobs) // SNAPSHOT_JOBS)
        due = self.state.version - self._snapshot_seq >= pace
        return due and not self._snapshotting and not self.state.unmatched and not self.state.met

    async def save_snapshot(self) -> None:
        """Keep the state as it is now, so that a start replays only what follows."""
        self._snapshotting = True
        try:
            seq = self.state.version
            started = time.perf_counter()
            data = state_image.encode(self.state, self.clock.now())
            log.info(
                "snapshot taken",
                extra={"seq": seq, "bytes": len(data), "ms": int((time.perf_counter() - started) * 1000)},
            )
            await self.writer.save_snapshot(seq, data)
            self._snapshot_seq = seq
        finally:
            self._snapshotting = False


class _Transaction:
    """What one call makes true, until all of it is."""

    def __init__(self, now: int, actor: str) -> None:
        self.now = now
        self.actor = actor
        self.touched = False
        """The state may differ from what it was: something was applied, or was begun."""
        self.last: Event | None = None
        self.applied = Applied()
        self.batch = Batch(events=[], jobs=[], charges=[], postings=[], keys=[])
        self.unreleased: list[tuple[int, Event, int, str]] = []
        self.evictions: list[tuple[int, str]] = []


def _not_applied(error: Exception) -> NotApplied:
    return NotApplied(
        f"the daemon could not carry this out ({type(error).__name__}: {error}), and nothing of it was done;"
        " this is a defect of the daemon: its log has the details"
    )


_ADDED = (b',"never":false', b',"before_us":0', b',"script_only":false')
"""What parts of a spec say by default that they once did not say at all: a key is bound to the same digest
before and after. In a text these quotes would be escaped.
"""


def spec_bytes(spec: JobSpec) -> bytes:
    """What an idempotency key is bound to: a digest of a spec, of an array with its indices one by one, as
    they once were written down.
    """
    document = msgspec.json.encode(spec)
    if spec.array is not None:
        plain = msgspec.to_builtins(spec)
        plain["array"]["indices"] = tuple(spec.array.indices)
        document = msgspec.json.encode(plain)
    for text in _ADDED:
        document = document.replace(text, b"")
    return hashlib.sha256(document).digest()


def key_digest(event: JobSubmitted) -> bytes:
    """What the key of a submission is bound to: the job as it was asked for."""
    return event.digest or spec_bytes(event.spec)


# --- projections: what the store keeps beside the events, so that reports and lists are queries


def job_row(state: State, job: JobRecord) -> JobRow:
    """A terminal job as a row."""
    spec = job.spec
    return JobRow(
        id=job.id,
        number=job.number,
        parent_id=job.parent_id,
        array_index=job.array_index,
        name=spec.name,
        project=spec.project,
        user=job.user,
        experiment=spec.experiment,
        model=spec.model,
        model_version=spec.model_version,
        labels=_labels(spec.labels),
        state=job.state.value,
        priority=spec.priority,
        submitted_at=job.submitted_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        settled_nanos=job.settled_nanos,
        currency=state.currency,
        document=documents.encode(job, state.jobs.get(job.parent_id)),
    )


def _labels(labels: tuple[tuple[str, str], ...]) -> str:
    return msgspec.json.encode(dict(labels)).decode() if labels else "{}"


def charge_row(state: State, seq: int, hour: HourCharge, node: NodeRecord, posted_at: int = 0) -> ChargeRow:
    """A charge with everything reports group by, as it is now: later changes do not reach back."""
    job = state.jobs.get(hour.job_id)
    spec = job.spec if job is not None else None
    share = _share_of(job, hour, node)
    closing = state.closed.closing(hour.start) if hour.booked_at else None
    row = ChargeRow(
        seq=seq,
        kind=hour.kind,
        node_id=hour.node_id,
        node_name=node.facts.name,
        pool=node.facts.pool,
        attempt_id=hour.attempt_id,
        job_id=hour.job_id,
        job_number=job.number if job is not None else 0,
        rank=hour.rank,
        start_at=hour.start,
        end_at=hour.end,
        held_us=hour.held_us,
        nanos=hour.nanos,
        gpu=hour.gpu,
        cpu=hour.cpu,
        memory=hour.memory,
        price_id=hour.price_id,
        project=spec.project if spec else "",
        user=job.user if job is not None else "",
        experiment=spec.experiment if spec else "",
        model=spec.model if spec else "",
        model_version=spec.model_version if spec else "",
        labels=_labels(spec.labels) if spec else "{}",
        simulated=int(any(device.simulated for device in node.facts.devices)),
        gpu_milli=sum(device.milli for device in share.devices),
        devices=len(share.devices),
        cpu_milli=share.cpu_milli,
        memory_bytes=share.memory_bytes,
        gpu_rate=share.rates.gpu,
        cpu_rate=share.rates.cpu,
        memory_rate=share.rates.memory,
        energy_millijoules=_energy_of(job, hour),
        posted_at=posted_at,
    )
    return row if closing is None else told_late(row, hour.booked_at, closing.seq)


def _member_of(job: JobRecord | None, hour: HourCharge) -> MemberRecord | None:
    attempts = job.attempts if job is not None else ()
    return next((one.members[hour.rank] for one in attempts if one.id == hour.attempt_id), None)


def _share_of(job: JobRecord | None, hour: HourCharge, node: NodeRecord) -> MemberAllocation:
    """What the owner of an hour holds: a member its allocation, the node itself all that it has."""
    member = _member_of(job, hour)
    if member is not None:
        return member.alloc
    facts = node.facts
    return MemberAllocation(
        node_id=node.id,
        devices=tuple(DeviceShare(device.index) for device in facts.devices),
        cpu_milli=facts.cpu_milli,
        memory_bytes=facts.memory_bytes,
        rates=hour.rates,
    )


def _energy_of(job: JobRecord | None, hour: HourCharge) -> int:
    """Of all the attempt, with its last hour: devices are asked for it once, at the end."""
    member = _member_of(job, hour)
    if member is None or member.report is None:
        return 0
    last = hour.end == member.started_at + member.charged_us
    return member.report.gpu_energy_millijoules if last else 0


def unposted(state: State) -> Unposted:
    """What has been charged in hours that are still open: rows of their own until they are posted."""
    rows = [charge_row(state, 0, hour, state.nodes[hour.node_id]) for hour in state.open_hours()]
    for machine in state.machines.values():
        if machine.launch:  # nobody has paid for it yet: so long it is nobody's
            launch = [replace(one, kind="idle") for one in machine.launch]
            rows += unheard_rows(state, state.nodes[machine.node_id], launch)
    # What a member used after its node's last report is in the books before the node's own time.
    through = ((node.id, node.through) for node in state.nodes.values() if not node.ended)
    return Unposted(state.version, tuple(rows), tuple(through))


def unheard_rows(state: State, node: NodeRecord, charges: Sequence[Charge]) -> list[ChargeRow]:
    """Time that nobody has told of, by day and price: rows of their own until the node tells."""
    days: dict[tuple[int, str, str], ChargeRow] = {}
    for piece in charges:
        booked_at = state.closed.booked_at(piece.start, 0)
        hour = HourCharge.of(piece, node.cost_at(piece.start), booked_at)
        hour.add(piece, ())
        row = charge_row(state, 0, hour, node)
        key = (piece.start // DAY_US, piece.kind, piece.price_id)
        one = days.get(key)
        if one is not None:
            row = one._replace(
                end_at=row.end_at,
                for_end=row.for_end,
                held_us=one.held_us + row.held_us,
                nanos=one.nanos + row.nanos,
                gpu=one.gpu + row.gpu,
                cpu=one.cpu + row.cpu,
                memory=one.memory + row.memory,
            )
        days[key] = row
    return list(days.values())


def posting_rows(seq: int, transactions: Sequence[Transaction]) -> list[PostingRow]:
    """What event `seq` moved in the ledger."""
    return [
        PostingRow(
            seq,
            tx.kind,
            tx.attempt_id or tx.node_id,
            tuple((one.account, one.nanos) for one in tx.entries),
            tx.job_id,
        )
        for tx in transactions
    ]
