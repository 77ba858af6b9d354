"""Connections and schema: each connection is set up here, each database brought to this version.

Why     `synchronous=FULL` is what an acknowledgement means (with NORMAL, 15 of 20 power cuts lost
        acknowledged commits), and neither sqlite3 nor sqlite_utils promises it: set, then read.
        sqlite_utils makes and migrates the schema; it takes 0.17 s to import, so only a start that
        has something to migrate pays for it.
"""

from __future__ import annotations

import functools
import resource
import sqlite3
from pathlib import Path

from bursar.errors import StoreUnavailable
from bursard.events import SCHEMA
from bursard.store import notes
from bursard.store.migrations import STEPS

VERSION = len(STEPS)
"""Schema version of this code, kept in `PRAGMA user_version`."""

APPLICATION_ID = 0x42757273
"""`Burs`: tells a Bursar database from any other SQLite file."""

BUSY_MS = 10_000
"""How long a lock held by another program (a backup, a shell) is waited for."""

_CHECKPOINT_PAGES = 4000
"""16 MB of log before it is folded in: fewer, larger checkpoints; recovery stays short."""

_WAL_KEPT_BYTES = 64 << 20

_SETTINGS: tuple[tuple[str, int], ...] = (
    ("synchronous", 2),
    ("foreign_keys", 1),
    ("busy_timeout", BUSY_MS),
    ("cell_size_check", 1),
    ("trusted_schema", 0),
)


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection, every setting asserted. Transactions are explicit; threads the caller's."""
    uri = path.absolute().as_uri() + ("?mode=ro" if read_only else "?mode=rw")
    connection = _connection(uri)
    try:
        for name, value in _SETTINGS:
            _set(connection, path, name, value)
        if read_only:
            _set(connection, path, "query_only", 1)
    except UnicodeDecodeError as error:
        # SQLite names what of its schema it cannot read, with the damaged bytes in it.
        connection.close()
        raise StoreUnavailable(
            f"{path} is damaged: its schema cannot be read; {RESTORE}", {"path": str(path)}
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection


def connect_memory() -> sqlite3.Connection:
    """A database of its own that lives as long as the connection."""
    connection = _connection("file::memory:")
    for name, value in _SETTINGS:
        _set(connection, Path(":memory:"), name, value)
    return connection


def _connection(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=512
    )


def _set(connection: sqlite3.Connection, path: Path, name: str, value: int) -> None:
    connection.execute(f"pragma {name} = {value}").fetchall()
    got = connection.execute(f"pragma {name}").fetchone()
    if got is None or got[0] != value:
        raise StoreUnavailable(f"{path}: SQLite refuses {name} = {value} (it is {got and got[0]}): unsafe")


def use_wal(connection: sqlite3.Connection, path: Path) -> None:
    """Write-ahead log, asserted: file systems without shared memory cannot do it."""
    mode = connection.execute("pragma journal_mode = wal").fetchone()[0]
    if mode != "wal":
        raise StoreUnavailable(
            f"{path}: the file system cannot hold a write-ahead log (journal mode {mode!r}); "
            "keep the state directory on a local disk"
        )
    connection.execute(f"pragma wal_autocheckpoint = {_CHECKPOINT_PAGES}").fetchall()
    connection.execute(f"pragma journal_size_limit = {_WAL_KEPT_BYTES}").fetchall()
    # What a refused row takes back within a transaction is kept in memory: as a file it was made and removed
    # with every commit, a quarter of the kernel's part in it. Nothing of it outlives the process either way.
    connection.execute("pragma temp_store = memory").fetchall()


def version_of(connection: sqlite3.Connection, path: Path) -> int:
    """The schema version, 0 for a new file. Refuses other programs' files and newer schemas."""
    version = int(connection.execute("pragma user_version").fetchone()[0])
    owner = int(connection.execute("pragma application_id").fetchone()[0])
    tables = int(connection.execute("select count(*) from sqlite_schema").fetchone()[0])
    if owner != APPLICATION_ID and (version or tables) and not _half_made(connection):
        raise StoreUnavailable(
            f"{path} is a database of another program; give Bursar a state directory of its own"
        )
    if version > VERSION:
        raise StoreUnavailable(
            f"{path} has schema {version}, newer than this bursard's {VERSION}; "
            "run the version that wrote it, or a later one",
            {"schema": str(version), "known": str(VERSION)},
        )
    return version


def number_of(note: str, path: Path) -> int:
    """A number that was noted in the database. Raises `StoreUnavailable` when it is none."""
    if not (note.isascii() and note.isdecimal() and len(note) < 19):
        raise StoreUnavailable(f"{path} is damaged: {note[:20]!r} stands where a number was; {RESTORE}")
    return int(note)


def claim_events(connection: sqlite3.Connection, path: Path) -> None:
    """Write down which schema of events this version writes. Refuses a log that a later one wrote to."""
    row = connection.execute("select value from meta where key = 'event_schema'").fetchone()
    found = number_of(row[0], path) if row is not None else 0
    if found > SCHEMA:
        raise StoreUnavailable(
            f"{path} holds events of schema {found}, newer than this bursard's {SCHEMA}; "
            "run the version that wrote it, or a later one",
            {"event_schema": str(found), "known": str(SCHEMA)},
        )
    if found < SCHEMA:
        notes.write(connection, "event_schema", str(SCHEMA))


def _half_made(connection: sqlite3.Connection) -> bool:
    """Did a first start die before its one transaction? Then only the record of steps is there."""
    names = connection.execute("select name from sqlite_schema where type = 'table'").fetchall()
    return {name for (name,) in names} == {"_sqlite_migrations"}


def migrate(path: Path) -> None:
    """Bring a database file to this version."""
    connection = connect(path)
    try:
        use_wal(connection, path)
        migrate_connection(connection)
    finally:
        connection.close()


def migrate_connection(connection: sqlite3.Connection) -> None:
    """Apply the steps this database lacks, each in one transaction with the record of it."""
    from sqlite_utils import Database, Migrations

    steps = Migrations("bursard")
    for number, (name, apply) in enumerate(STEPS, start=1):

        def step(db: Database, number: int = number, apply: object = apply) -> None:
            assert callable(apply)
            apply(db)
            db.execute(f"pragma application_id = {APPLICATION_ID}")
            db.execute(f"pragma user_version = {number}")

        steps(name=name)(step)
    steps.apply(Database(connection, execute_plugins=False))


@functools.cache
def blank() -> bytes:
    """An empty database of this schema: copied, since the migrations take longer than many a test."""
    connection = connect_memory()
    try:
        migrate_connection(connection)
        return connection.serialize()
    finally:
        connection.close()


def missing(connection: sqlite3.Connection) -> list[str]:
    """Tables, indexes and triggers that are not as this version makes them, as sentences.

    Triggers are what refuses changes of money rows (L2), and the columns of a table are what SQLite derives
    `kind` and `subject` from: without them nothing else notices.
    """
    whole = connect_memory()
    try:
        whole.deserialize(blank())
        expected = _objects(whole)
    finally:
        whole.close()
    found = _objects(connection)
    gone = [f"the {kind} {name} is gone" for kind, name in expected if (kind, name) not in found]
    other = [
        f"the {kind} {name} is not as this version makes it"
        for (kind, name), sql in expected.items()
        if found.get((kind, name), sql) != sql
    ]
    more = [
        f"there is a {kind} {name} of another program" for kind, name in found if (kind, name) not in expected
    ]
    return gone + other + more


def _objects(connection: sqlite3.Connection) -> dict[tuple[str, str], str]:
    rows = connection.execute(
        "select type, name, sql from sqlite_schema where sql is not null"
        " and name not like 'sqlite_%' and tbl_name <> '_sqlite_migrations'"
    )
    # How names are quoted, and what is in lines of its own, depends on the version of a library.
    return {(kind, name): "".join(sql.translate(_QUOTES).lower().split()) for kind, name, sql in rows}


_QUOTES = str.maketrans("", "", '[]"`')


def unavailable(error: Exception, path: Path) -> StoreUnavailable:
    """What one of `FAULTS` means to an operator: place, reason, remedy."""
    if isinstance(error, UnicodeDecodeError) or any(words in str(error) for words in _OF_DAMAGE):
        told = "a text in it is none" if isinstance(error, UnicodeDecodeError) else str(error)
        said = told.encode("ascii", "backslashreplace").decode()[:200]
        return StoreUnavailable(f"{path} is damaged ({said}); {RESTORE}", {"path": str(path)})
    if "integer overflow" in str(error):
        return StoreUnavailable(
            f"a sum over {path} passes 64 bits ({error}); nothing is damaged: ask for less at once",
            {"path": str(path)},
        )
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL) and most != resource.RLIM_INFINITY:
        return StoreUnavailable(
            f"{path} cannot be written: files of this process may have {most} bytes at most ({error}); raise"
            " that limit (`ulimit -f unlimited`, LimitFSIZE of the unit), then start again",
            {"path": str(path)},
        )
    if code in _OF_THE_QUESTION and not str(error).startswith("no such "):
        return StoreUnavailable(
            f"{path} cannot answer this ({error}); nothing is damaged: ask for less at once",
            {"path": str(path)},
        )
    text, remedy = {
        sqlite3.SQLITE_NOTADB: ("is not a database, or damaged", RESTORE),
        sqlite3.SQLITE_CORRUPT: ("is damaged", RESTORE),
        sqlite3.SQLITE_FULL: ("cannot grow: the disk is full", "free some space, then start again"),
        sqlite3.SQLITE_READONLY: ("cannot be written", _WRITABLE),
        sqlite3.SQLITE_CANTOPEN: ("cannot be opened", _WRITABLE),
        sqlite3.SQLITE_PERM: ("cannot be opened", _WRITABLE),
        sqlite3.SQLITE_IOERR: ("cannot be read or written: the disk fails", "see the kernel's log"),
        sqlite3.SQLITE_BUSY: ("is locked by another program", "end that program"),
    }.get(code, ("cannot be used", RESTORE))
    return StoreUnavailable(f"{path} {text} ({error}); {remedy}", {"path": str(path)})


FAULTS = (sqlite3.Error, UnicodeDecodeError)
"""What reading a database raises: where a byte of a text or of the schema was changed, also Python itself."""
_OF_DAMAGE = ("Could not decode to UTF-8", "unsupported file format", "malformed database schema")
"""Sentences of damage whose code is that of a wrong question, or none."""
_OF_THE_QUESTION = frozenset(
    {
        0,
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_MISUSE,
        sqlite3.SQLITE_RANGE,
    }
)
"""Codes that tell of a statement, or of what was bound to it; 0: Python itself refused it. A table that is
not there is the file's fault, whatever its code.
"""
RESTORE = "keep a copy of it and restore a backup: `bursar restore FILE --state-dir DIR`"
_WRITABLE = "make the state directory writable for the user bursard runs as (is it mounted read-only?)"
