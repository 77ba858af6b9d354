"""The SQLite store: one file, one writer, one fsync for as many commands as were waiting.

Owns    writing: `append`, snapshots, epochs. Reading is `SqliteReader`, which this class is too.
Why     `synchronous=FULL` in WAL mode: with it 0 of 20 simulated power cuts lost an acknowledged
        commit, without it 15 did. A failed commit poisons the store: after an injected fsync error
        the row *was* there on reopen, so only a fresh start can say what is true.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bursar.errors import InvariantViolation, StoreUnavailable
from bursard.store import days, eventfile, extras, headfile, home, names, notes, queries, schema, verify
from bursard.store.base import Batch, CommitUnknown, EventRow, Fenced, Loaded, LogHead, check_batch
from bursard.store.chain import GENESIS, chain_hash
from bursard.store.hours import OpenHours
from bursard.store.reader import SqliteReader
from bursard.store.shared import Shared
from bursard.store.verify import Head

log = logging.getLogger(__name__)

_TAIL_EVENTS = 256
"""How much of the chain's end every start verifies."""

_FREE_BYTES_MIN = 1 << 20
"""Below this a start is refused. Running daemons refuse new work far earlier (see `free_bytes`)."""

_PAGES_CHECKED_BYTES = 4 << 20
"""A database up to this size has all its pages looked at when it is opened: 0.1 s or less. Larger ones wait
for `bursar audit verify`: SQLite computes each event's kind and subject on the way.
"""

_AGAIN_S = 2.0
"""Between tries to write books again that lie nowhere any more."""

_LOAD_CHUNK = 2000
_SNAPSHOTS_KEPT = 2
_OURS = (
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
    OverflowError,
)
"""A doubled key, a value of the wrong type or too large: refused before anything could reach the disk."""

_TELL_HEAD = (
    "update head set seq = ?, hash = ?, charges = ?, entries = ?"
    " where (select value from meta where key = 'epoch') = ?"
)
"""Changes nothing once a later epoch has opened the log."""

_EXACT_MAX = 16
_INSERTS = {
    table: {count: queries.inserts(table, count) for count in (*range(1, _EXACT_MAX + 1), 32, 64)}
    for table in queries.WRITTEN
}
"""Prepared once per size: one step of SQLite for up to 64 rows. A step gives up the interpreter
lock, and getting it back from a busy event loop costs up to a switch interval (5 ms) each time."""


class SqliteStore(SqliteReader):
    """The store of a daemon. Holds the directory's lock until closed."""

    def __init__(self, directory: Path | str, held: home.Home | None = None) -> None:
        """Open, or create, the state directory. Raises `StoreUnavailable` with place and remedy.

        `held`: the directory, when the caller holds it already.
        """
        self._home = held if held is not None else home.Home(Path(directory))
        super().__init__(self._home.database)
        self._write_lock = threading.Lock()
        self._fault: str = ""
        self._writer: sqlite3.Connection | None = None
        self._opened = False
        self._names: names.Names | None = None
        self._passed_over: list[int] = []
        self.trouble = ""
        """What keeps it from taking anything, for who asks; empty: nothing."""
        self.pause: Callable[[float], None] = time.sleep
        self._shared = Shared()
        try:
            self._writer = self._open()
            self._head = self._read_head()
            self._base = eventfile.base_of(self.meta(eventfile.META))
            self._check_pages()
            self._check_tail()
            self._check_head_file()
            self._epoch = self._next_epoch()
            self._names = names.Names(self._path)
            self._opened = True
        except schema.FAULTS as error:
            self.close()
            raise schema.unavailable(error, self._path) from error
        except BaseException:
            self.close()
            raise

    def _open(self) -> sqlite3.Connection:
        free = self.free_bytes()
        if free < _FREE_BYTES_MIN:
            # One small commit may still fit into the old log; the next one would end the daemon.
            raise StoreUnavailable(
                f"{self._home.directory}: the disk is full ({free} bytes are left, {_FREE_BYTES_MIN} are "
                "needed); free some space, then start again",
                {"free_bytes": str(free)},
            )
        writer = schema.connect(self._path)
        try:
            version = schema.version_of(writer, self._path)
            if version < schema.VERSION:
                writer.close()
                schema.migrate(self._path)
                writer = schema.connect(self._path)
            schema.use_wal(writer, self._path)
            schema.claim_events(writer, self._path)
            extras.claim_steps(writer)
            self._tell_unsealed(writer)
        except BaseException:
            writer.close()
            raise
        self._home.created()
        return writer

    def _tell_unsealed(self, writer: sqlite3.Connection) -> None:
        """No number follows from the digests of the notes, so a start goes on without; but it says so."""
        if problem := notes.unsealed(writer):
            log.warning(
                "%s; `bursar audit accept-loss --state-dir DIR` takes the notes as they are",
                problem,
                extra={"path": str(self._path)},
            )

    def _read_head(self) -> Head:
        row = self._connection.execute("select seq, hash, charges, entries from head").fetchone()
        if row is None:
            raise self._damaged("the record of its last commit is gone")
        return Head(*row)

    def _check_pages(self) -> None:
        """A page that cannot be read ends the daemon at the first write that meets it, after each start anew;
        so where looking is cheap, it is refused at once with what mends it.
        """
        pages, size = (
            self._connection.execute(f"pragma {name}").fetchone()[0] for name in ("page_count", "page_size")
        )
        if pages * size <= _PAGES_CHECKED_BYTES:
            found = self._connection.execute("pragma quick_check(1)").fetchone()[0]
            if found != "ok":
                raise self._damaged(f"SQLite finds {found}")

    def _check_tail(self) -> None:
        """The cheap part of `verify`: the log ends where the last commit said, and holds."""
        (newest,) = self._connection.execute(
            "select coalesce(max(seq), ?) from events", (self._base.seq,)
        ).fetchone()
        if newest != self._head.seq:
            raise self._damaged(f"it ends at event {newest}, the last commit wrote {self._head.seq}")
        first = max(self._base.seq, newest - _TAIL_EVENTS)
        last_hash = self._hash_at(first)
        for row in _chained(self._connection, first, newest):
            last_hash = self._checked(last_hash, row)
        if last_hash != self._head.hash:
            raise self._damaged("its last event is not the one that was committed")

    def _check_head_file(self) -> None:
        """The log goes on from where it was acknowledged to, or the start is refused."""
        file = self._home.head_file
        known = file.read() if file is not None else None
        if known is not None and known.seq > self._head.seq:
            raise headfile.shorter(self._path, known, self._head.seq)
        archived = known is not None and 0 < known.seq < self._base.seq
        if known is not None and not archived and self._hash_at(known.seq) != known.hash:
            raise headfile.different(self._path, known)
        self._tell_head(sync=True)

    def _tell_head(self, sync: bool = False) -> None:
        if self._home.head_file is not None:
            self._home.head_file.write(self.head, sync)

    def _next_epoch(self) -> int:
        """Count this start. A real commit: a full or read-only disk is met here, not by a job."""
        note = self.meta("epoch")
        epoch = (schema.number_of(note, self._path) if note is not None else 0) + 1
        self._write_meta("epoch", str(epoch))
        return epoch

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._writer is None:
            raise StoreUnavailable(f"{self._path} is closed; bursard is stopping")
        return self._writer

    @property
    def path(self) -> Path:
        """The database file."""
        return self._path

    @property
    def last_seq(self) -> int:
        """Seq of the newest committed event."""
        return self._head.seq

    @property
    def head(self) -> LogHead:
        """Seq and hash of the newest committed event."""
        return LogHead(self._head.seq, self._head.hash)

    @property
    def epoch(self) -> int:
        """How often this store was opened."""
        return self._epoch

    def raise_epoch(self, epoch: int) -> None:
        """Speak for `epoch` from now on, durably; a lower one changes nothing."""
        with self._write_lock:
            writer = self._sound()
            if epoch <= self._epoch:
                return
            with self._transaction(writer):
                self._refuse_if_fenced(writer)
                self._write_meta("epoch", str(epoch))
            self._epoch = epoch

    def holds(self, seq: int, digest: bytes) -> bool:
        """Is event `seq` in this log, with this hash? True for 0: before the first one all logs agree; and
        for what was archived: its file says.
        """
        if seq > self._head.seq or seq < 0:
            return False
        if seq < self._base.seq or not seq:
            return True
        if seq == self._base.seq:
            return bytes.fromhex(self._base.hash) == digest
        rows = list(self._rows("select hash from events where seq = ?", (seq,)))
        return bool(rows) and bytes(rows[0][0]) == digest

    def free_bytes(self) -> int:
        """Space left on the file system."""
        directory = self._home.directory
        if not directory.is_dir():
            raise StoreUnavailable(f"{directory}, where the books lie, is gone: put it back in its place")
        return home.free_bytes(directory)

    def close(self) -> None:
        """Fold the log into the file, close, let the directory go."""
        super().close()
        with self._write_lock:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
                if self._opened:
                    self._tell_head(sync=True)
            if self._names is not None:
                self._names.close()
            self._home.close()

    # -------------------------------------------------------------- writing

    def append(self, batch: Batch) -> None:
        """One transaction, one fsync."""
        with self._write_lock:
            writer = self._sound()
            seq = check_batch(batch, self._head.seq)
            events, last_hash = self._chain(batch.events)
            head = Head(
                seq,
                last_hash,
                self._head.charges + len(batch.charges),
                self._head.postings + len(batch.postings),
            )
            with self._transaction(writer):
                if writer.execute(_TELL_HEAD, (*head, str(self._epoch))).rowcount != 1:
                    raise self._fenced(writer)
                _insert(writer, "events", events)
                _insert(writer, "postings", self._shared.postings(writer, batch.postings))
                _insert(writer, "charge_rows", self._shared.charges(writer, batch.charges))
                _insert(writer, "jobs", list(map(queries.job_values, batch.jobs)))
                _insert(writer, "keys", batch.keys)
            self._head = head
            self._tell_head()
            self._refuse_nameless(writer)

    def keep_names(self) -> None:
        """Look whether the open files still have their names (`append` does so too).

        Where somebody removed them all of it is written to its old place again, and the store takes nothing
        more: it must be opened anew from there. Raises `CommitUnknown` then.
        """
        with self._write_lock:
            self._refuse_nameless(self._sound())
            if self._names is not None and self._names.is_where_it_was():
                self._home.keep_notes(self.head)

    def _refuse_nameless(self, writer: sqlite3.Connection) -> None:
        gone = self._names.removed() if self._names is not None else ""
        if self._names is None or not gone:
            return
        gone = f"{self._home.directory / gone} was removed while it was in use"
        left = self._names.left()
        place, why = self._path, ""
        if "" not in left or not names.folded(writer):
            place, why = self._written_again(writer, gone, left)
        if why:
            done = f"it cannot be written again: {why}"
        elif place == self._path:
            done = "all that is known was written there again"
        else:
            done = (
                f"another file has been put in its place, and all that is known was written beside it: stop"
                f" bursard, and `mv {place} {self._path}`"
            )
        self._fault = f"{gone}; {done}"
        raise CommitUnknown(self._fault)

    def _written_again(self, writer: sqlite3.Connection, gone: str, left: Sequence[str]) -> tuple[Path, str]:
        """Where, and why not. A disk that is full, or may not be written, is waited for: as long as we have
        the files open nothing is lost, and nobody is told of what is.
        """
        while True:
            try:
                place = names.write_again(writer, self._path, left)
            except (OSError, sqlite3.Error) as problem:
                if not names.can_pass(problem):
                    return self._path, str(problem)
                self.trouble = (
                    f"{gone}, and cannot be written again ({problem}): nothing is accepted until it is, and"
                    f" what was would be lost if bursard ended now; make room in {self._home.directory}, or"
                    " let bursard write there"
                )
                log.critical(self.trouble)
                self.pause(_AGAIN_S)
            else:
                return place, self._home.made_again(self.head) if place == self._path else ""

    def _refuse_if_fenced(self, writer: sqlite3.Connection) -> None:
        if self._newest_epoch(writer) != self._epoch:
            raise self._fenced(writer)

    def _fenced(self, writer: sqlite3.Connection) -> Fenced:
        newest = self._newest_epoch(writer)
        return Fenced(f"{self._path}: epoch {newest} has opened this log, this is epoch {self._epoch}")

    def _newest_epoch(self, writer: sqlite3.Connection) -> int:
        (newest,) = writer.execute("select value from meta where key = 'epoch'").fetchone()
        return int(newest)

    def _chain(self, rows: Sequence[EventRow]) -> tuple[list[tuple[Any, ...]], bytes]:
        last_hash = self._head.hash
        chained: list[tuple[Any, ...]] = []
        for seq, at, actor, payload in rows:
            last_hash = chain_hash(last_hash, seq, at, actor, payload)
            chained.append((seq, at, actor, payload, last_hash))
        return chained, last_hash

    def _sound(self) -> sqlite3.Connection:
        if self._fault:
            raise CommitUnknown(self._fault)
        return self._connection

    @contextlib.contextmanager
    def _transaction(self, writer: sqlite3.Connection) -> Iterator[None]:
        """Commit, or poison the store; a refused row leaves it usable."""
        try:
            writer.execute("begin immediate")
            yield
            writer.execute("commit")
        except _OURS as error:
            self._shared.forget()
            _roll_back(writer)
            raise InvariantViolation(f"nothing was written: {error}") from error
        except sqlite3.Error as error:
            _roll_back(writer)
            self._fault = (
                f"{schema.unavailable(error, self._path).message}; whether the last commit is on "
                "disk is unknown, so bursard must start again and read it"
            )
            raise CommitUnknown(self._fault) from error
        except BaseException:
            self._shared.forget()
            # A value SQLite cannot bind, an interrupt: nothing was committed, the log goes on.
            _roll_back(writer)
            raise

    def save_snapshot(self, seq: int, data: bytes) -> None:
        """Compressed here, outside the lock; the last two are kept."""
        packed = zlib.compress(data, 1)
        with self._write_lock:
            writer = self._sound()
            if not 0 < seq <= self._head.seq:
                raise InvariantViolation(f"a snapshot of event {seq}; the log ends at {self._head.seq}")
            at = self._hash_at(seq)
            with self._transaction(writer):
                writer.execute("insert or replace into snapshots values (?, ?, ?)", (seq, at, packed))
                # An audit folds the log from the image that was made when events left it.
                first = self._base.rows.upto if self._base.rows is not None else 0
                writer.execute(
                    "delete from snapshots where seq <> ? and seq not in "
                    "(select seq from snapshots order by seq desc limit ?)",
                    (first, _SNAPSHOTS_KEPT),
                )
            self._tell_head(sync=True)

    def sum_days(self) -> bool:
        """Sum up the charges of before, so many at once, where as many wait; False: there is nothing to do.

        Read outside of the lock: rows of charges never change.
        """
        with self._reading() as connection:
            batch = days.due(connection)
            if batch is None:
                return False
            number, after, upto, seq = batch
            rows = days.made(connection, after, upto)
        with self._write_lock:
            writer = self._sound()
            with self._transaction(writer):
                self._refuse_if_fenced(writer)
                days.keep(writer, number, upto, seq, rows)
        return True

    def set_meta(self, key: str, value: str) -> None:
        """Keep a note."""
        with self._write_lock:
            writer = self._sound()
            with self._transaction(writer):
                self._write_meta(key, value)

    def _write_meta(self, key: str, value: str) -> None:
        notes.write(self._connection, key, value)

    # -------------------------------------------------------------- starting

    def load(self) -> Loaded:
        """The good snapshots and what came after them."""
        head = self._head
        self._passed_over = []
        return Loaded(
            self._snapshots(),
            lambda after: self._replay(after, head.seq),
            head.seq,
            head.hash,
            self._passed_over,
        )

    def drop_damaged_images(self) -> list[int]:
        """Throw away what a start had to pass over, and older images that are damaged, too. The log has all
        that they said. Returns of which events they were.
        """
        damaged = set(self._passed_over)
        for seq, at_hash, packed in self._rows("select seq, hash, data from snapshots"):
            if not self._is_image(seq, at_hash, packed):
                damaged.add(seq)
        if damaged:
            with self._write_lock:
                writer = self._sound()
                with self._transaction(writer):
                    self._refuse_if_fenced(writer)
                    for seq in damaged:
                        writer.execute("delete from snapshots where seq = ?", (seq,))
            log.warning(
                "images of the state were damaged and are thrown away; the log has all of it",
                extra={"of_events": sorted(damaged)},
            )
        return sorted(damaged)

    def _is_image(self, seq: int, at_hash: bytes, packed: bytes) -> bool:
        try:
            return self._of_this_history(seq, at_hash) and bool(zlib.decompress(packed))
        except (zlib.error, TypeError):
            return False

    def _of_this_history(self, seq: int, at_hash: bytes) -> bool:
        return bool(self._base.seq <= seq <= self._head.seq and seq and self._hash_at(seq) == at_hash)

    def _snapshots(self) -> Iterator[tuple[int, bytes]]:
        """A snapshot only saves time: one that is damaged or of another history is passed over."""
        rows = self._rows("select seq, hash, data from snapshots order by seq desc")
        for seq, at_hash, packed in rows:
            try:
                if self._of_this_history(seq, at_hash):
                    yield seq, zlib.decompress(packed)
                else:
                    log.warning("snapshot is of another history", extra={"seq": seq})
            except zlib.error:
                log.warning("snapshot is damaged", extra={"seq": seq})

    def _replay(self, first: int, last: int) -> Iterator[EventRow]:
        last_hash = self._hash_at(first)
        while first < last:
            upto = min(first + _LOAD_CHUNK, last)
            with self._reading() as connection:
                rows = _chained(connection, first, upto).fetchall()
            if len(rows) != upto - first:
                raise self._damaged(f"events are missing between {first + 1} and {upto}")
            for row in rows:
                last_hash = self._checked(last_hash, row)
                yield EventRow._make(row[:4])
            first = upto

    def _checked(self, last_hash: bytes, row: Any) -> bytes:
        seq, at, actor, payload, stored = row
        found = chain_hash(last_hash, seq, at, actor, payload)
        if found != stored:
            raise self._damaged(f"event {seq} does not match its hash: it was changed")
        return found

    def _hash_at(self, seq: int) -> bytes:
        if not seq and not self._base.seq:
            return GENESIS
        if seq == self._base.seq:
            return bytes.fromhex(self._base.hash)
        if seq < self._base.seq:
            raise self._archived(seq)
        row = self._connection.execute("select hash from events where seq = ?", (seq,)).fetchone()
        if row is None:
            raise self._damaged(f"event {seq} is gone")
        return bytes(row[0])

    def _archived(self, seq: int) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self._path}: no image of the state can be used, and the events after {seq} that would make it"
            f" anew were archived to {self._base.file}; restore a backup:"
            " `bursar restore FILE --state-dir DIR`",
            {"path": str(self._path), "archive": self._base.file},
        )

    # -------------------------------------------------------------- archiving

    @property
    def base(self) -> eventfile.Base:
        """What the events go on from: everything before is in archives."""
        return self._base

    def last_before(self, at: int) -> int:
        """The last event such that it and all before it were recorded before `at`."""
        row = self._connection.execute("select min(seq) from events where at >= ?", (at,)).fetchone()
        return self._head.seq if row[0] is None else int(row[0]) - 1

    def archive_to(self, path: Path, last_seq: int, cluster_id: str) -> eventfile.Contents:
        """Write events up to `last_seq` to a file, proved against their charges. Nothing leaves the log.

        Raises `BursarError` when they are not sound, or the file cannot be written.
        """
        with self._write_lock:
            connection = self._sound()
            end = verify.Head(last_seq, self._hash_at(last_seq), 0, 0)
            hours = OpenHours(self._base.open)
            problems = list(
                verify.limited(
                    eventfile.walk(
                        self._base, end, _chained(connection, self._base.seq, last_seq), connection, hours
                    )
                )
            )
            if problems:
                raise self._damaged("; ".join(problems[:3]))
            contents = eventfile.Contents(
                cluster_id=cluster_id,
                before=self._base,
                last_seq=last_seq,
                last_hash=end.hash.hex(),
                open=hours.kept(),
            )
            eventfile.write(path, contents, _chained(connection, self._base.seq, last_seq))
        return contents

    def check_archive(self, path: Path) -> list[str]:
        """Problems of an archive of this very log, its charges included."""
        with self._write_lock:
            return eventfile.check(path, self._sound())

    def drop_archived(self, base: eventfile.Base) -> None:
        """Remove the events that an archive, which the caller has checked, holds; in one transaction."""
        with self._write_lock:
            writer = self._sound()
            if self._hash_at(base.seq).hex() != base.hash:
                raise InvariantViolation(f"event {base.seq} of the archive is not that of the log")
            (trigger,) = writer.execute(
                "select sql from sqlite_schema where name = 'events_refuse_delete'"
            ).fetchone()
            base = msgspec.structs.replace(base, rows=eventfile.rows_of(writer, self._head.seq))
            with self._transaction(writer):
                self._refuse_if_fenced(writer)
                writer.execute("drop trigger events_refuse_delete")
                # When a row was posted is when its event was committed: that is kept without the event,
                # whatever stands there of an event that is still in the log.
                writer.execute(
                    "insert or replace into posted select seq, at from events where seq <= ? and seq in"
                    " (select seq from charge_rows union select seq from postings)",
                    (base.seq,),
                )
                writer.execute("delete from events where seq <= ?", (base.seq,))
                writer.execute("delete from snapshots where seq < ?", (base.seq,))
                self._write_meta(eventfile.META, msgspec.json.encode(base).decode())
                writer.execute(trigger)
            self._base = base

    def _damaged(self, what: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self._path} is damaged: {what}; keep a copy of it and restore a backup: "
            "`bursar restore FILE --state-dir DIR`",
            {"path": str(self._path)},
        )


def _chained(connection: sqlite3.Connection, after: int, upto: int) -> sqlite3.Cursor:
    return connection.execute(
        f"select {queries.CHAINED_COLUMNS} from events where seq > ? and seq <= ? order by seq",
        (after, upto),
    )


def _insert(writer: sqlite3.Connection, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """All rows, in the fewest statements that are already prepared."""
    sizes = _INSERTS[table]
    at, left = 0, len(rows)
    while left:
        count = left if left <= _EXACT_MAX else _EXACT_MAX if left < 32 else 32 if left < 64 else 64
        writer.execute(sizes[count], list(itertools.chain.from_iterable(rows[at : at + count])))
        at += count
        left -= count


def _roll_back(writer: sqlite3.Connection) -> None:
    if writer.in_transaction:
        with contextlib.suppress(sqlite3.Error):
            writer.execute("rollback")
