"""The form of an archive: events of closed months in a SQLite file of their own, and what proves them.

Owns    writing such a file from a log, reading what it says of itself, and checking it: alone, or against
        the charge rows that stayed in the live database.
Why     a log that nobody may delete from grows for ever; events whose costs are rows and whose effects are
        in an image are needed only to prove these. The file carries the hash it goes on from and the open
        hours on both sides, so that each file is proved alone and all of them in a row prove everything.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from bursar.errors import BursarError, InvalidRequest
from bursard.store import ledger, queries, verify
from bursard.store.base import ChargeRow, JobRow, PostingRow
from bursard.store.chain import GENESIS
from bursard.store.hours import Kept, OpenHours

APPLICATION_ID = 0x42757241
"""`BurA`: tells an archive from a live database."""

META = "archived"
"""Where the live database keeps its `Base`."""


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """What the tables held when events were archived, which alone could have proved it.

    Attributes:
        upto: the newest event there was. charges, entries: how many rows of events up to there.
        jobs: how many ended jobs; jobs_upto: the highest row number among them.
        nanos: the sum of the charges. digest: SHA-256 of all these rows in order, in hex.
        columns: of which columns the digest is: those of the version that took it (`_DIGESTED`).
    """

    upto: int
    charges: int
    entries: int
    jobs: int
    jobs_upto: int
    nanos: int
    digest: str
    columns: int = 0


_DIGESTED = (
    (ChargeRow._fields[:24], JobRow._fields),
    (ChargeRow._fields[:33], (*JobRow._fields, "nanos_high")),
    (queries.TABLES["charges"], queries.TABLES["jobs"]),
)
"""Columns of charges and jobs, by version: what was digested once is digested the same for ever."""


def rows_of(
    connection: sqlite3.Connection, upto: int, jobs_upto: int | None = None, columns: int = len(_DIGESTED) - 1
) -> Rows:
    """The tables as they are, up to an event. `jobs_upto`: as it once was; None: all jobs there are."""
    of_charges, of_jobs = (", ".join(f'"{name}"' for name in names) for names in _DIGESTED[columns])
    if jobs_upto is None:
        (jobs_upto,) = connection.execute("select coalesce(max(rowid), 0) from jobs").fetchone()
    digest = hashlib.sha256()
    counts: dict[str, int] = {}
    nanos = 0
    for table, rows in (
        ("charges", _rows(connection, f"select {of_charges} from charges where seq <= ? order by id", upto)),
        ("entries", _lines(connection, upto)),
        ("jobs", _rows(connection, f"select {of_jobs} from jobs where rowid <= ? order by rowid", jobs_upto)),
    ):
        counts[table] = 0
        for row in rows:
            digest.update(msgspec.msgpack.encode((table, row)))
            counts[table] += 1
            nanos += row[_NANOS] if table == "charges" else 0
    return Rows(
        upto=upto,
        jobs_upto=jobs_upto or 0,
        nanos=nanos,
        digest=digest.hexdigest(),
        columns=columns,
        **counts,
    )


def _rows(connection: sqlite3.Connection, sql: str, upto: int | None) -> Iterator[tuple[Any, ...]]:
    yield from connection.execute(sql, (upto,))


def _lines(connection: sqlite3.Connection, upto: int) -> Iterator[tuple[Any, ...]]:
    """Ledger lines one by one, as they were kept when the first archives were made: a digest stays good."""
    for posting in ledger.postings(connection, upto=upto):
        yield from posting.lines() if isinstance(posting, PostingRow) else (tuple(posting),)


_NANOS = queries.TABLES["charges"].index("nanos")


def check_rows(connection: sqlite3.Connection, then: Rows) -> Iterator[str]:
    """What is not as it was when events were archived."""
    now = rows_of(connection, then.upto, then.jobs_upto, then.columns)
    if now != then:
        yield (
            f"charges, entries and jobs of before the events up to {then.upto} were archived are not as they"
            f" were: {now.charges}, {now.entries} and {now.jobs} rows, {now.nanos} nanos; then"
            f" {then.charges}, {then.entries} and {then.jobs} rows, {then.nanos} nanos"
            + ("" if now.digest == then.digest else "; their digest is another")
        )


def base_of(text: str | None) -> Base:
    """The base that a live database keeps; of one that was never archived, the very beginning."""
    return msgspec.json.decode(text, type=Base) if text else Base()


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """Where a log goes on from: everything up to `seq` was moved away.

    Attributes:
        seq, hash: of the last event moved, the hash in hex. file: the name of the archive it is in.
        open: the hours that were open after it. rows: what the tables held when it left; None: of nothing.
    """

    seq: int = 0
    hash: str = GENESIS.hex()
    file: str = ""
    open: Kept = Kept()
    rows: Rows | None = None


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive says of itself.

    Attributes:
        before: what it goes on from; `file` is the archive before it. last_seq, last_hash: its own end.
        open: the hours that are open after its last event.
    """

    cluster_id: str
    before: Base
    last_seq: int
    last_hash: str
    open: Kept

    def base(self, file: str) -> Base:
        """Where the log goes on once these events are gone from it."""
        return Base(seq=self.last_seq, hash=self.last_hash, file=file, open=self.open)


def write(path: Path, contents: Contents, events: Iterable[verify.ChainedEvent]) -> None:
    """Make the file, whole or not at all, durable before it has its name. Raises `BursarError`."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.close(handle)
        with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as connection:
            connection.execute("pragma synchronous = full")
            connection.execute("begin")
            connection.execute("create table contents (document text not null) strict")
            connection.execute(
                "create table events (seq integer primary key, at integer not null, actor text not null, "
                "payload blob not null, hash blob not null) strict"
            )
            connection.executemany("insert into events values (?, ?, ?, ?, ?)", events)
            document = msgspec.json.encode(contents).decode()
            connection.execute("insert into contents values (?)", (document,))
            connection.execute(f"pragma application_id = {APPLICATION_ID}")
            connection.execute("commit")
        _sync(draft)
        draft.rename(path)
        _sync(path.parent)
    except (OSError, sqlite3.Error) as error:
        draft.unlink(missing_ok=True)
        raise BursarError(f"{path} cannot be written: {error}; nothing was moved") from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_archive(path: Path) -> bool:
    """Does this file say that it is one?"""
    with contextlib.suppress(OSError):
        with path.open("rb") as stream:
            head = stream.read(72)
        return head[:15] == b"SQLite format 3" and head[68:72] == APPLICATION_ID.to_bytes(4, "big")
    return False


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    if not is_archive(path):
        raise InvalidRequest(f"{path} is no archive of Bursar")
    try:
        uri = path.absolute().as_uri() + "?mode=ro&immutable=1"
        with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            yield connection
    except (sqlite3.Error, UnicodeDecodeError, msgspec.MsgspecError, TypeError) as error:
        raise BursarError(f"{path} is damaged: {error}; take another copy of it") from error


def read_contents(path: Path) -> Contents:
    """What it says of itself. Raises `InvalidRequest` for another file, `BursarError` for a damaged one."""
    with _opened(path) as connection:
        return _contents(connection)


def _contents(connection: sqlite3.Connection) -> Contents:
    (document,) = connection.execute("select document from contents").fetchone() or ("",)
    return msgspec.json.decode(document, type=Contents)


def check(path: Path, live: sqlite3.Connection | None = None) -> list[str]:
    """Every problem of an archive, as sentences: chain, gaps, ends.

    With the connection to the database its events came from: also the charges that follow from them.
    """
    try:
        with _opened(path) as connection:
            contents = _contents(connection)
            return list(verify.limited(_problems(connection, contents, live)))
    except BursarError as error:
        return [error.message]


def _problems(
    connection: sqlite3.Connection, contents: Contents, live: sqlite3.Connection | None
) -> Iterator[str]:
    for (line,) in connection.execute("pragma integrity_check"):
        if line != "ok":
            yield f"the file is damaged: {line}"
    events = connection.execute(f"select {queries.CHAINED_COLUMNS} from events order by seq")
    hours = OpenHours(contents.before.open)
    end = verify.Head(contents.last_seq, bytes.fromhex(contents.last_hash), 0, 0)
    yield from walk(contents.before, end, events, live, hours)
    if live is not None and hours.kept() != contents.open:
        yield f"the hours open after event {end.seq} are not those that follow from its events"


def walk(
    before: Base,
    end: verify.Head,
    events: Iterable[verify.ChainedEvent],
    live: sqlite3.Connection | None,
    hours: OpenHours,
) -> Iterator[str]:
    """Problems of events `(before.seq, end.seq]`, with `live` of their charges too; `hours` goes on."""
    charges: Iterable[tuple[Any, ...]] | None = None
    if live is not None:
        charges = live.execute(
            f"select {queries.columns('charges')} from charges where seq > ? and seq <= ? order by id",
            (before.seq, end.seq),
        )
    start = verify.Start(before.seq, bytes.fromhex(before.hash))
    yield from verify.check(end, events, charges, None, start, hours)
