"""The form of a backup file: a tar of `manifest.json` and `bursard.db`, in this order.

Why     one file that any system can look into. It holds the database alone: no key that opens secrets, no
        token file, nothing of the agents.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sqlite3
import stat
import tarfile
from pathlib import Path
from typing import Annotated

import msgspec

from bursar.errors import BursarError, InvalidRequest
from bursard.store import schema
from bursard.store.home import DATABASE

FORMAT = 1
MANIFEST = "manifest.json"
_MANIFEST_BYTES_MAX = 64 * 1024
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Word = Annotated[str, msgspec.Meta(max_length=128, pattern=r"^[ -~]*\Z")]
_TIED = ("cluster_id", "seq", "hash", "tables_schema", "event_schema", "epoch")
"""What a manifest says that the database says too."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup says of itself.

    Attributes:
        created_at: RFC 3339. cluster_id: of the cluster it was taken of.
        seq, hash: of the last event in it, the hash in hex.
        tables_schema, event_schema: of the database and the events in it. epoch: of the daemon's last start.
        layout: `up` or `plain`, where the daemon's directory was.
        database_bytes, database_sha256: of the database file.
    """

    format: _Count
    version: _Word
    created_at: _Word
    cluster_id: _Word
    seq: _Count
    hash: _Word
    tables_schema: _Count
    event_schema: _Count
    epoch: _Count
    layout: _Word
    database_bytes: _Count
    database_sha256: _Word


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a database says of itself, by the names that a `Manifest` has for it."""

    cluster_id: str
    seq: int
    hash: str
    tables_schema: int
    event_schema: int
    epoch: int


def facts_of(database: Path) -> Facts:
    """Read before anything opens it as a daemon would, which changes it. Raises `sqlite3.Error`."""
    connection = schema.connect(database, read_only=True)
    try:
        seq, digest = connection.execute("select seq, hash from head").fetchone()
        notes = dict(connection.execute("select key, value from meta"))
        tables = int(connection.execute("pragma user_version").fetchone()[0])
        first = connection.execute("select payload from events where seq = 1").fetchone()
    finally:
        connection.close()
    return Facts(
        cluster_id=str(msgspec.json.decode(first[0]).get("cluster_id", "")) if first else "",
        seq=seq,
        hash=bytes(digest).hex(),
        tables_schema=tables,
        event_schema=int(notes.get("event_schema", 1)),
        epoch=int(notes.get("epoch", 0)),
    )


def told_otherwise(manifest: Manifest, database: Path) -> tuple[str, ...]:
    """Where a manifest and the database beside it differ, as sentences."""
    try:
        facts = facts_of(database)
    except (sqlite3.Error, msgspec.MsgspecError, TypeError, ValueError, AttributeError) as error:
        return (f"the database does not say what the manifest is to be compared with ({error})",)
    pairs = ((name, getattr(manifest, name), getattr(facts, name)) for name in _TIED)
    return tuple(
        f"the manifest says {name} {said}, the database has {has}" for name, said, has in pairs if said != has
    )


def write(out: Path, database: Path, manifest: Manifest) -> None:
    """Make the file, whole or not at all, for its owner alone. Raises `BursarError`."""
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as stream:
            with tarfile.open(fileobj=stream, mode="w") as archive:
                note = msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"
                archive.addfile(_entry(MANIFEST, len(note)), io.BytesIO(note))
                with database.open("rb") as source:
                    archive.addfile(_entry(DATABASE, manifest.database_bytes), source)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(out)
        _sync_directory(out.parent)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise BursarError(f"--out: {out} cannot be written: {error.strerror}") from error


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    return entry


def read_manifest(file: Path) -> Manifest:
    """What a backup says of itself. Raises `InvalidRequest` for anything that is no backup."""
    with _opened(file) as archive:
        return _manifest(archive, file)


def extract(file: Path, directory: Path) -> Manifest:
    """Put the database of a backup into `directory`; the bytes are those it was made of, or `BursarError`."""
    with _opened(file) as archive:
        manifest = _manifest(archive, file)
        database = directory / DATABASE
        try:
            member = archive.extractfile(DATABASE)
            if member is None:
                raise _no_backup(file, f"{DATABASE} in it is no file")
            handle = os.open(database, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with member, os.fdopen(handle, "wb") as stream:
                shutil.copyfileobj(member, stream, 1 << 20)
                stream.flush()
                os.fsync(stream.fileno())
        except (KeyError, tarfile.TarError, EOFError) as error:
            raise _no_backup(file, f"it was cut short ({error})") from error
        except OSError as error:
            raise BursarError(f"{database} cannot be written: {error.strerror}") from error
    if digest_of(database) != manifest.database_sha256:
        raise BursarError(f"{file} is damaged: its database is not the one that was backed up; take another")
    return manifest


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _opened(file: Path) -> tarfile.TarFile:
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # it is read more than once, and a pipe may never speak
            raise _no_backup(file, "it is no plain file")
        return tarfile.open(file, mode="r:")
    except tarfile.TarError as error:
        raise _no_backup(file, str(error)) from error
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}") from error


def _manifest(archive: tarfile.TarFile, file: Path) -> Manifest:
    try:
        member = archive.extractfile(MANIFEST)
        data = member.read(_MANIFEST_BYTES_MAX) if member is not None else b""
        found = msgspec.json.decode(data, type=Manifest)
    except (KeyError, tarfile.TarError, EOFError, OSError, msgspec.MsgspecError) as error:
        raise _no_backup(file, f"its {MANIFEST} cannot be read ({error})") from error
    if found.format > FORMAT:
        raise InvalidRequest(
            f"{file} is a backup of format {found.format}; this version reads up to {FORMAT}:"
            f" restore it with version {found.version[:40]}, or a later one"
        )
    return found


def _no_backup(file: Path, why: str) -> InvalidRequest:
    return InvalidRequest(f"{file} is no backup of Bursar: {why}")


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
