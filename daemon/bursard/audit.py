"""Does every row follow from the log, in every column? The log is folded anew and its rows compared.

Owns    the comparison of charges, ledger entries, ended jobs and idempotency keys with what the same fold and
        the same projections make of the events; and L3, of every account, in the same view.
Why     the chain proves the events alone. Whoever edits a row, or a disk that turns a byte of one, leaves no
        other trace than this difference. It takes as long as a replay, so a start does not do it.
Memory  charges and entries are walked in step with the events; what an ended job must say is put aside as
        digests in a temporary file, since a row may be written long after the events it tells of.
Limits  events that were archived are gone: their rows are compared with the digests taken when they left
        (`archived`), and the fold begins at an image of the state from there on.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from bursar.clock import HOUR_US
from bursard.engine import charge_row, job_row, key_digest, posting_rows
from bursard.events import SCHEMA, ChargesCorrected, Event, JobSubmitted, PeriodSigned, decode
from bursard.events.codec import schema_of
from bursard.events.upgrade import FIRST
from bursard.state import Applied, JobRecord, Limits, State, documents
from bursard.state import image as state_image
from bursard.state.arrays import without_spec
from bursard.state.compare import differences
from bursard.store import ChargeRow, EntryRow, EventRow, JobRow, PostingRow, notes
from bursard.store.corrections import correction_rows
from bursard.store.migrations.m0004_usage import RATED_AFTER
from bursard.store.picture import Picture

PROBLEMS_MAX = 100
_NO_LOSS = "the log has all of it, and the next start throws the image away"

_EVICTED_AFTER = 20_000
"""Events that an ended job stays in the fold for, as it does until its commit is on disk."""

_NOT_RATED: dict[str, Any] = dict.fromkeys(
    (*("gpu_milli", "devices", "cpu_milli", "memory_bytes", "gpu_rate", "cpu_rate", "memory_rate"),
     "energy_millijoules"), 0
)  # fmt: skip
"""What charges of before migration 0004 do not all say."""

_SUMMED = ("start_at", "end_at", "held_us", "nanos", "gpu", "cpu", "memory")
_BYTES = 8
_JOBS = "job/"
_JOB_COLUMNS = tuple(name for name in JobRow._fields if name not in ("id", "document"))

Row = TypeVar("Row", ChargeRow, PostingRow)


def problems_of(picture: Picture, limits: Limits | None = None) -> list[str]:
    """Every difference between the rows and the log, as sentences that name the row; at most a hundred."""
    found = list(itertools.islice(_problems(picture, limits or Limits()), PROBLEMS_MAX + 1))
    return found if len(found) <= PROBLEMS_MAX else [*found[:PROBLEMS_MAX], "… and more"]


def _problems(picture: Picture, limits: Limits) -> Iterator[str]:
    state = first_state(picture, limits)
    if state is None:
        yield (
            f"the events up to {picture.base.seq} were archived and no image of the state after them can be"
            " read: rows cannot be compared with the log; restore a backup"
        )
        return
    with contextlib.closing(EndedJobs()) as ended:
        fold = Fold(picture, state, ended)
        try:
            yield from fold.walk()
        except _CannotFold as error:
            yield str(error)
            return
        yield from _jobs(picture, ended, fold.first)
        yield from _ledger(picture, state)
        yield from _notes(picture, fold)
        if not fold.first and fold.keys != picture.key_count():
            yield f"keys: {picture.key_count()} idempotency keys are kept, the log made {fold.keys}"


def wrong_images(picture: Picture, limits: Limits | None = None) -> list[int]:
    """Images of the state that do not say what the log says, by their events: nothing follows from them."""
    state = first_state(picture, limits or Limits())
    if state is None:
        return []
    with contextlib.closing(EndedJobs()) as ended:
        fold = Fold(picture, state, ended)
        with contextlib.suppress(_CannotFold):
            for _ in fold.walk():
                pass
    unknown = {
        seq for seq in picture.image_hashes() if picture.hash_of(seq) is None and seq > picture.base.seq
    }
    return sorted(fold.wrong_images | unknown)


def first_state(picture: Picture, limits: Limits) -> State | None:
    """The state where the log that is there begins, or as soon after it as there is an image."""
    if not picture.base.seq:
        return State(limits)
    for seq, data in picture.images():
        with contextlib.suppress(Exception):
            state = state_image.decode(data, limits)
            if state.version == seq:
                return state
    return None


class _CannotFold(Exception):
    """An event that cannot be read, or not be applied to what came before it."""


class Fold:
    """The log, applied to a state event by event, each compared with the rows it must have made."""

    def __init__(self, picture: Picture, state: State, ended: EndedJobs) -> None:
        self._picture = picture
        self.state = state
        self.first = state.version
        self.keys = 0
        self._ended = ended
        self._applied = Applied()
        self._evict: list[tuple[int, str]] = []
        self._images = picture.image_hashes()
        self.wrong_images: set[int] = set()
        """Of which events the images do not say what the log says."""
        note = picture.notes.get(RATED_AFTER, "0")
        self._rated_after = int(note) if note.isdecimal() else 0
        self._rated_until = 0
        """When that was: hours that were open then were begun without knowing their rates."""
        self.schema = FIRST
        """The newest that wrote an event."""

    def walk(self) -> Iterator[str]:
        """Differences of charges, entries and keys, in log order."""
        charges = _InStep(self._picture.charges(self.first), "charges")
        entries = _InStep(self._picture.postings(self.first), "entries")
        for row in self._picture.events(self.first):
            event = self._apply(row)
            yield from charges.stray_before(row.seq)
            yield from entries.stray_before(row.seq)
            made = [
                charge_row(self.state, row.seq, hour, node, row.at) for hour, node in self._applied.closed
            ]
            kept = charges.take(row.seq)
            if isinstance(event, ChargesCorrected):
                made += correction_rows(row.seq, event, row.at)
                yield from _about(self._picture, row.seq, event)
            if isinstance(event, PeriodSigned):
                yield from _signed(self._picture, row.seq, event, self.state)
            if row.seq == self._rated_after:
                self._rated_until = row.at
            if row.seq <= self._rated_after or any(one.start_at <= self._rated_until for one in kept):
                made, kept = ([one._replace(**_NOT_RATED) for one in rows] for rows in (made, kept))
            yield from _compare_charges(row.seq, made, kept)
            postings = posting_rows(row.seq, self._applied.transactions)
            yield from _compare_postings(row.seq, postings, entries.take(row.seq))
            for job in self._applied.finished:
                self._ended.put(row, self.state, job)
                self._evict.append((row.seq, job.id))
            yield from self._key(row.seq, event)
            yield from self._image(row.seq)
            self._clear(row.seq)
        yield from charges.stray_before(2**62)
        yield from entries.stray_before(2**62)

    def _apply(self, row: EventRow) -> Event:
        try:
            event = decode(row.payload)
            self.schema = max(self.schema, schema_of(row.payload))
            self.state.apply(event, row.at, self._applied)
        except Exception as error:
            raise _CannotFold(
                f"event {row.seq} cannot be applied ({type(error).__name__}: {error}): what follows it is not"
                " compared"
            ) from error
        return event

    def _key(self, seq: int, event: Event) -> Iterator[str]:
        if isinstance(event, JobSubmitted) and event.key:
            self.keys += 1
            kept = self._picture.key(event.user, event.key)
            if kept is None or kept.job_id != event.job_id:
                what = "is not kept" if kept is None else f"is kept for {kept.job_id}"
                yield f"keys: the key of event {seq} {what}, the log says {event.job_id}"
            elif kept.digest != key_digest(event):
                yield f"keys: the digest of the key of event {seq} is not of the job that it made"

    def _image(self, seq: int) -> Iterator[str]:
        """The image of the state after this event, if one is kept, says what the log says."""
        if seq not in self._images:
            return
        for one in self._image_problems(seq):
            self.wrong_images.add(seq)
            yield one

    def _image_problems(self, seq: int) -> Iterator[str]:
        if self._images[seq] != self._picture.hash_of(seq):
            yield f"snapshots: the image of event {seq} is of another history; {_NO_LOSS}"
        try:
            found = differences(self._picture.image(seq), self.state)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            yield f"snapshots: the image of event {seq} is damaged ({why}); {_NO_LOSS}"
        else:
            yield from (f"snapshots: the image of event {seq}: {one}" for one in found)

    def _clear(self, seq: int) -> None:
        applied = self._applied
        applied.charges.clear()
        applied.closed.clear()
        applied.transactions.clear()
        applied.corrections.clear()
        applied.finished.clear()
        if self._evict and self._evict[0][0] < seq - _EVICTED_AFTER:
            for _, job_id in self._evict:
                self.state.evict(job_id)
            self._evict.clear()


def _notes(picture: Picture, fold: Fold) -> Iterator[str]:
    """Notes are as they were written, and go with the log."""
    yield from notes.problems(picture.notes)
    epoch, schema = picture.notes.get("epoch", ""), picture.notes.get("event_schema", str(SCHEMA))
    if not epoch.isdecimal() or int(epoch) < max(fold.state.resumed_epoch, 1):
        yield f"meta: epoch is {epoch!r}, the log was opened as {max(fold.state.resumed_epoch, 1)} at least"
    if not schema.isdecimal() or not fold.schema <= int(schema) <= SCHEMA:
        yield f"meta: event_schema is {schema!r}, the log has events of {fold.schema}, this version {SCHEMA}"
    first = picture.base.rows.upto if picture.base.rows is not None else 0
    yield from (
        f"snapshots: there is an image of event {seq}, of which nothing is known"
        for seq in picture.image_hashes()
        if not max(picture.base.seq, min(first, fold.first), 1) <= seq <= picture.head.seq
    )


class _InStep(Generic[Row]):
    """Stored rows by event, in step with the walk over the events."""

    def __init__(self, rows: Iterator[Row], table: str) -> None:
        self._groups: Iterator[tuple[int, list[Row]]] = (
            (seq, list(group)) for seq, group in itertools.groupby(rows, key=lambda row: row.seq)
        )
        self._table = table
        self._next: tuple[int, list[Row]] | None = next(self._groups, None)

    def stray_before(self, seq: int) -> Iterator[str]:
        """Rows that stand before those of `seq` and belong to no event met since."""
        while self._next is not None and self._next[0] < seq:
            yield f"{self._table} of event {self._next[0]} stand where no event of that number is"
            self._next = next(self._groups, None)

    def take(self, seq: int) -> list[Row]:
        """The rows of event `seq`."""
        if self._next is None or self._next[0] != seq:
            return []
        rows = self._next[1]
        self._next = next(self._groups, None)
        return rows


def _compare_charges(seq: int, made: list[ChargeRow], kept: list[ChargeRow]) -> Iterator[str]:
    if made == kept:
        return
    expected, found = _by_hour(made), _by_hour(kept)
    for key in {**expected, **found}:
        one, other = expected.get(key), found.get(key)
        name = f"charges of event {seq}: {key[0]} of {key[2] or key[1]}"
        if one is None or other is None:
            yield f"{name} is {'kept' if one is None else 'not kept'}, the log says otherwise"
        elif one != other:
            columns = [column for column in one if one[column] != other[column]]
            said = ", ".join(f"{column} is {other[column]!r}, not {one[column]!r}" for column in columns[:3])
            yield f"{name}: {said}"


def _signed(picture: Picture, seq: int, event: PeriodSigned, state: State) -> Iterator[str]:
    """A closed month is what was signed off, and what was signed is of this history."""
    period = state.closed.named(event.name)
    name = f"period {event.name}, signed with event {seq}"
    if period is None or period.seq != event.of:
        yield f"{name}: event {event.of} closed no such month"
        return
    hashed = picture.hash_of(event.of)
    if hashed is not None and hashed.hex() != event.hash:
        yield f"{name}: the log up to event {event.of} has another hash than was signed"
    kept, rows = picture.kinds_of(period.since, period.until)
    said = dict(event.totals)
    yield from (
        f"{name}: {kind} is {kept.get(kind, 0)} nanos, not the {said.get(kind, 0)} that were signed"
        for kind in sorted({*kept, *said})
        if kept.get(kind, 0) != said.get(kind, 0)
    )
    if rows != event.charges:
        yield f"{name}: there are {rows} charges, not the {event.charges} that were signed"


def _about(picture: Picture, seq: int, event: ChargesCorrected) -> Iterator[str]:
    """What a correction takes back was charged, just so, and nothing has taken it back before."""
    stood: dict[tuple[int, int], tuple[int, int, int]] = {}
    taken: dict[tuple[int, int], list[int]] = {}
    for row in picture.usage_of(event.job_number):
        if (row.attempt_id, row.rank) != (event.attempt_id, event.rank):
            continue
        if row.held_us > 0:
            stood[row.seq, row.used_from] = (row.gpu, row.cpu, row.memory)
        else:
            taken.setdefault((row.corrects, row.for_start), []).append(row.seq)
    for one in event.charges:
        name = f"correction of event {seq}: the charge of {event.attempt_id} that event {one.of} posted"
        found = stood.get((one.of, one.start)) if one.of < seq else None
        if found is None:
            yield f"{name} is not there"
        elif found != (one.gpu, one.cpu, one.memory):
            yield f"{name} was {sum(found)} nanos, not {one.gpu + one.cpu + one.memory}"
        elif (by := taken.get((one.of, one.start), [])) != [seq]:
            yield f"{name} is taken back by events {by}, not by this one alone"


def _by_hour(rows: Iterable[ChargeRow]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Rows by owner and hour; of before there were hours, an event may have several of one."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = (
            *(row.kind, row.node_id, row.attempt_id, row.rank, row.start_at // HOUR_US, row.price_id),
            *((row.for_start, row.held_us < 0) if row.corrects else ()),
        )
        one = found.get(key)
        if one is None:
            found[key] = row._asdict()
            continue
        one["start_at"] = min(one["start_at"], row.start_at)
        one["end_at"] = max(one["end_at"], row.end_at)
        for column in _SUMMED[2:]:
            one[column] += getattr(row, column)
        for column, value in row._asdict().items():
            if column not in _SUMMED and one[column] != value:
                one[column] = (one[column], value)
    return found


def _compare_postings(seq: int, made: list[PostingRow], kept: list[PostingRow]) -> Iterator[str]:
    lines = ([line for one in each for line in one.lines()] for each in (made, kept))
    yield from _compare_entries(seq, *lines)
    job_of = {one.ref: one.job_id for one in made}
    for one in kept:
        # What was written before transactions said whose they are says nothing.
        if one.job_id and one.job_id != job_of.get(one.ref, one.job_id):
            yield f"entries of event {seq}: {one.ref} is of {one.job_id}, the log says {job_of[one.ref]}"


def _compare_entries(seq: int, made: list[EntryRow], kept: list[EntryRow]) -> Iterator[str]:
    if made == kept:
        return
    expected, found = _by_account(made), _by_account(kept)
    for key in {**expected, **found}:
        if expected[key] != found[key]:
            kind, account, ref = key
            yield (
                f"entries of event {seq}: {account} ({kind}, {ref}) has {found[key]} nanos, the log says "
                f"{expected[key]}"
            )


def _by_account(rows: Iterable[EntryRow]) -> Counter[tuple[str, str, str]]:
    found = Counter[tuple[str, str, str]]()
    for row in rows:
        found[row.tx_kind, row.account, row.ref] += row.nanos
    return found


# --- ended jobs


class Expected(NamedTuple):
    """What the row of an ended job must be.

    Attributes:
        seq: of the event that ended it. columns: a digest of each.
        documents: digests of the document: without its array's spec and with it, of an array also without
            when its last task ended, which was kept later, and each without since when it waited. first: as
            the first release wrote it, when that ended the job.
    """

    id: str
    seq: int
    columns: bytes
    documents: bytes
    first: bytes


class EndedJobs:
    """What the log makes of jobs that ended, as digests by column in a temporary file."""

    def __init__(self) -> None:
        # An unnamed database of SQLite is a temporary file that only exceeds its cache to disk.
        self._kept = sqlite3.connect("", isolation_level=None)
        self._kept.execute("create table ended (id text primary key, seq, columns, documents, first)")
        self._kept.execute("begin")

    def close(self) -> None:
        """Let the file go."""
        self._kept.close()

    def put(self, event: EventRow, state: State, job: JobRecord) -> None:
        """A job ended with this event."""
        row = job_row(state, job)
        record = documents.decode(documents.encode(job, None))
        digests = [_digest(without_spec(record)), _digest(record)]
        if record.array is not None:
            digests.append(_digest(_undated(record)))
        if record.waits_since:
            old = _unwaited(record)
            digests += [_digest(without_spec(old)), _digest(old), _digest(_undated(old))]
        first = _digest(_of_first(_unwaited(_undated(record)))) if schema_of(event.payload) <= FIRST else b""
        values = (job.id, event.seq, _columns(row), b"".join(digests), first)
        self._kept.execute("insert or replace into ended values (?, ?, ?, ?, ?)", values)

    def expected(self) -> Iterator[Expected]:
        """By id."""
        return map(Expected._make, self._kept.execute("select * from ended order by id"))


def _columns(row: JobRow) -> bytes:
    return b"".join(
        blake2b(repr(getattr(row, name)).encode(), digest_size=_BYTES).digest() for name in _JOB_COLUMNS
    )


def _of_first(record: JobRecord) -> JobRecord:
    """As the first release wrote it down: it did not say where and when a member was placed."""
    attempts = [
        msgspec.structs.replace(
            attempt,
            members=[msgspec.structs.replace(member, placed_axis=0, node="") for member in attempt.members],
        )
        for attempt in record.attempts
    ]
    return msgspec.structs.replace(record, attempts=attempts)


def _undated(record: JobRecord) -> JobRecord:
    """As it was written down before an array kept when the last of its tasks ended."""
    if record.array is None:
        return record
    return msgspec.structs.replace(record, array=msgspec.structs.replace(record.array, ended_at=-1))


def _unwaited(record: JobRecord) -> JobRecord:
    """As it was written down before what it waited for was kept, or counted in since when it waits."""
    return msgspec.structs.replace(record, waits_since=0)


def _digest(record: JobRecord) -> bytes:
    return blake2b(msgspec.json.encode(record), digest_size=16).digest()


def _jobs(picture: Picture, ended: EndedJobs, first: int) -> Iterator[str]:
    expected = ended.expected()
    one = next(expected, None)
    for row in picture.jobs():
        while one is not None and one[0] < row.id:
            yield f"jobs: {one[0]} ended with event {one[1]} and is not kept"
            one = next(expected, None)
        if one is not None and one[0] == row.id:
            yield from _compare_job(row, one)
            one = next(expected, None)
        elif not first:
            yield f"jobs: {row.id} is kept as ended, the log knows of no such end"
        else:
            yield from _readable(row)
    while one is not None:
        yield f"jobs: {one[0]} ended with event {one[1]} and is not kept"
        one = next(expected, None)


def _compare_job(row: JobRow, expected: Expected) -> Iterator[str]:
    found = _columns(row)
    for at, name in enumerate(_JOB_COLUMNS):
        part = slice(at * _BYTES, (at + 1) * _BYTES)
        if found[part] != expected.columns[part]:
            yield f"jobs: {name} of {row.id} is {getattr(row, name)!r}, not what event {expected.seq} made it"
    try:
        record = documents.decode_whole(row.document)
    except Exception as error:
        yield f"jobs: the document of {row.id} is damaged ({type(error).__name__}: {error})"
        return
    digests = [expected.documents[at : at + 16] for at in range(0, len(expected.documents), 16)]
    if _digest(record) not in digests and _digest(_of_first(_unwaited(record))) != expected.first:
        yield f"jobs: the document of {row.id} is not what event {expected.seq} made it"


def _readable(row: JobRow) -> Iterator[str]:
    """Of a job whose events were archived: can its document be read, and is it of this job?"""
    try:
        record = documents.decode_whole(row.document)
    except Exception as error:
        yield f"jobs: the document of {row.id} is damaged ({type(error).__name__}: {error})"
        return
    said = (record.id, record.number, record.state.value, record.settled_nanos, record.finished_at)
    if said != (row.id, row.number, row.state, row.settled_nanos, row.finished_at):
        yield f"jobs: the document of {row.id} says something else than its columns"


# --- ledger


def _ledger(picture: Picture, state: State) -> Iterator[str]:
    """L3, L10: the balance of an account by the log is the sum of its entries, those kept and those of hours
    that are still open. Of every account, also of periods that are over and budgets that are gone; what a job
    owed is forgotten with the job, and its entries are compared one by one.
    """
    said = {name: nanos for name, nanos in state.ledger.balances.items() if not name.startswith(_JOBS)}
    found = Counter(picture.balances_but(_JOBS))
    for hour in state.open_hours():
        found.update({name: nanos for name, nanos in hour.entries.items() if not name.startswith(_JOBS)})
    for account in sorted({*said, *found}):
        if found[account] != said.get(account, 0):
            yield (
                f"L3: {account} is {found[account]} nanos by its entries, {said.get(account, 0)} by the log"
            )
