"""Putting a backup back, and giving lost events up: two ways in which a log goes on from an earlier point.

Why     both leave a note in the database. The next start makes it an event (`log-resumed`) and speaks for an
        epoch above every one of the life before, so that agents obey and no number means two jobs.
"""

from __future__ import annotations

import getpass
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bursar.errors import BursarError, InvalidRequest, StoreUnavailable, WrongState
from bursar.local import books
from bursar.logend import is_cluster_id
from bursar.words import on_one_line
from bursard import audit
from bursard.backup import archive, places
from bursard.backup.archive import Manifest
from bursard.backup.inspect import Report, inspect_with
from bursard.events import ClusterCreated, decode
from bursard.startup import RESUMPTION, TRUST, Resumption
from bursard.store import LogHead, SqliteStore, days, eventfile, headfile, notes, schema
from bursard.store.headfile import NAME as HEAD
from bursard.store.home import CREATED, DATABASE, LOCK, Home, free_bytes, refused
from bursard.store.picture import Picture

EPOCHS_SKIPPED = 1_000_000
"""More starts than there will have been since any backup."""
_HEADROOM_BYTES = 64 << 20


def restore(file: Path, state_dir: Path) -> tuple[Manifest, Path, Report]:
    """Put a backup into an empty directory. Returns what it is, where it lies, and what is in it.

    Raises:
        WrongState: the directory is in use, or not empty.
        BursarError: the backup is damaged; nothing is left behind.
    """
    manifest = archive.read_manifest(file)
    directory = places.target(state_dir, manifest.layout)
    _refuse_unless_empty(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        if free_bytes(directory.parent) < 2 * manifest.database_bytes + _HEADROOM_BYTES:
            raise StoreUnavailable(f"{directory.parent} has no room for it; free some space there")
        folder = Path(tempfile.mkdtemp(prefix=".bursar-restore-", dir=directory.parent))
    except OSError as error:
        raise refused(error, directory) from error
    try:
        report = _checked_copy(file, folder)
        archive.extract(file, folder)
        note = Resumption(cause="restored", through=manifest.seq, known_seq=0, by=_who())
        _mark(folder / DATABASE, note)
        os.chmod(folder, 0o700)
        if directory.exists():
            directory.rmdir()
        folder.rename(directory)
    except OSError as error:
        raise refused(error, directory) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return manifest, directory, report


def _checked_copy(file: Path, folder: Path) -> Report:
    """Open a copy first: looking at it as a daemon would changes it."""
    aside = folder / "tried"
    aside.mkdir(mode=0o700)
    report = inspect_with(aside, archive.extract(file, aside))
    shutil.rmtree(aside)
    if report.damage:
        raise BursarError(f"{file} is damaged and was not restored: {'; '.join(report.damage[:3])}")
    return report


def _refuse_unless_empty(directory: Path) -> None:
    try:
        held = sorted(path.name for path in directory.iterdir()) if directory.exists() else []
    except OSError as error:
        raise refused(error, directory) from error
    if not held:
        return
    if (directory / LOCK).exists():
        try:
            Home.check_free(directory)
        except StoreUnavailable as error:
            raise WrongState(f"{error.message}; a backup goes into an empty directory") from error
    raise WrongState(
        f"{directory} is not empty (it holds {', '.join(held[:4])}): move it away first, it is what you have"
        f" beside the backup: mv {directory} {directory}.before"
    )


def accept_loss(state_dir: Path, cluster_id: str = "") -> tuple[LogHead, LogHead]:
    """Take the log as it is for the true one; where none is left, begin an empty one. Notes whose digests
    are gone are taken as they are, too; sums of days that are not what their charges say, and images of the
    state that are not what the log says, are thrown away.

    Args:
        cluster_id: whose life an empty log goes on with; empty: that of which the agents of a `bursar up`
            know, else a new cluster's.

    Returns (what was known of it, here or by the agents of a `bursar up`; where it ends).
    Raises `InvalidRequest` when nothing is missing, or the id is none or another's.
    """
    if cluster_id and not is_cluster_id(cluster_id):
        raise InvalidRequest(f"--cluster-id: {on_one_line(cluster_id, 80)} is no id of a cluster")
    directory = places.held_in(state_dir)
    beside = directory.parent if places.layout_of(directory) == places.UP else None
    signs = books.signs(beside) if beside is not None else books.Signs()
    database = directory / DATABASE
    if not database.exists() or (database.is_file() and not database.stat().st_size):
        note = _begin_anew(state_dir, directory, signs, cluster_id or signs.cluster_id)
        epochs = [each.epoch for each in books.told(beside)] if beside is not None else []
        _mark(directory / DATABASE, note, max(epochs, default=0))
        return LogHead(note.known_seq, b""), LogHead(0, b"")
    if cluster_id:
        raise InvalidRequest(f"--cluster-id is for an empty log; {database} has one, with its own")
    home = Home(directory)
    try:
        assert home.head_file is not None
        told = [] if beside is None else [each.end for each in books.told(beside) if each.end is not None]
        heads = [home.head_file.read(), *(LogHead(end.seq, end.digest) for end in told)]
        connection = schema.connect(home.database, read_only=True)
        try:
            version = schema.version_of(connection, home.database)
            stale = version >= days.SUMMED_FROM and any(days.problems(connection))
            unsealed = version >= notes.SEALED_FROM and bool(notes.unsealed(connection))
            ends = LogHead(*connection.execute("select seq, hash from head").fetchone())
            lacking = [head for head in heads if head is not None and not _holds(connection, head)]
            # It takes as long as a replay, so only where nothing else was what somebody came for.
            images = [] if lacking or unsealed or stale else audit.wrong_images(Picture(connection))
        finally:
            connection.close()
        if not (lacking or unsealed or stale or images):
            raise InvalidRequest(f"{directory}: nothing is missing: the log ends at event {ends.seq}")
        if unsealed:
            _seal_anew(home.database)
        if stale:
            _forget_days(home.database)
        if images:
            _forget_images(home.database, images)
        if not lacking:
            return ends, ends
        known = max(lacking, key=lambda head: head.seq)
        note = Resumption(cause="accepted", through=ends.seq, known_seq=known.seq, by=_who())
        _mark(home.database, note)
        home.head_file.write(ends, sync=True)
        return known, ends
    finally:
        home.close()


def _forget_days(database: Path) -> None:
    connection = schema.connect(database)
    try:
        connection.execute("begin immediate")
        days.forget(connection)
        connection.execute("commit")
    finally:
        connection.close()


def _forget_images(database: Path, seqs: Sequence[int]) -> None:
    connection = schema.connect(database)
    try:
        connection.execute("begin immediate")
        connection.executemany("delete from snapshots where seq = ?", [(seq,) for seq in seqs])
        connection.execute("commit")
    finally:
        connection.close()


def _seal_anew(database: Path) -> None:
    connection = schema.connect(database)
    try:
        connection.execute("begin immediate")
        notes.write(connection, "sealed_by", _who())
        notes.seal_all(connection)
        connection.execute("commit")
        connection.execute("pragma wal_checkpoint(truncate)").fetchall()
    finally:
        connection.close()


def _holds(connection: sqlite3.Connection, head: LogHead) -> bool:
    """Is that event in the log, with that hash? What was moved to an archive is not missing."""
    row = connection.execute("select value from meta where key = ?", (eventfile.META,)).fetchone()
    if head.seq <= eventfile.base_of(row[0] if row else None).seq:
        return True
    found = connection.execute("select hash from events where seq = ?", (head.seq,)).fetchone()
    return found is not None and bytes(found[0]) == head.hash


def goes_on_as(state_dir: Path) -> str:
    """Whose books these are, or will be with their next start; empty: a new cluster's, or they cannot be
    read.
    """
    database = places.held_in(state_dir) / DATABASE
    connection = schema.connect(database, read_only=True)
    try:
        first = connection.execute("select payload from events where kind = 'cluster-created'").fetchone()
        if first is not None and isinstance(event := decode(first[0]), ClusterCreated):
            return event.cluster_id
        row = connection.execute("select value from meta where key = ?", (RESUMPTION,)).fetchone()
        return msgspec.json.decode(row[0], type=Resumption).cluster_id if row and row[0] else ""
    finally:
        connection.close()


def _begin_anew(asked: Path, directory: Path, signs: books.Signs, cluster_id: str) -> Resumption:
    """An empty log in place of one that is gone. What it says with its first start."""
    head, lock = directory / HEAD, directory / LOCK
    ours = headfile.parse(head.read_bytes()) if head.is_file() else None
    known = max(signs.seq, ours.seq if ours is not None else 0)
    if not (known or signs.told or (lock.is_file() and CREATED in lock.read_text(errors="replace"))):
        raise InvalidRequest(
            f"{asked}: nothing is missing: there were no books of a bursard; is it the place?"
        )
    home = Home(directory, anew=True)
    SqliteStore(directory, home).close()
    return Resumption(cause="accepted", through=0, known_seq=known, by=_who(), cluster_id=cluster_id)


def trust_clock(state_dir: Path) -> Path:
    """Leave the file by which a running daemon is told that its machine's clock is right."""
    path = places.daemon_directory(state_dir) / TRUST
    try:
        path.touch(mode=0o600)
    except OSError as error:
        raise refused(error, path.parent) from error
    return path


def _mark(database: Path, note: Resumption, obeyed: int = 0) -> None:
    """The next start begins with it. `obeyed`: an epoch that agents are known to obey."""
    connection = schema.connect(database)
    try:
        (epoch,) = connection.execute("select value from meta where key = 'epoch'").fetchone()
        connection.execute("begin immediate")
        notes.write(connection, "epoch", str(max(int(epoch), obeyed) + EPOCHS_SKIPPED))
        notes.write(connection, RESUMPTION, msgspec.json.encode(note).decode())
        connection.execute("commit")
        connection.execute("pragma wal_checkpoint(truncate)").fetchall()
    finally:
        connection.close()


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid:{os.getuid()}"
