"""The external head: how far the log had come, in a file beside the database.

Why     a database without its write-ahead log is whole in itself, only shorter: nothing inside it says so.
        This file says how far the log was when the last commit was acknowledged. It is written after each
        commit and fsynced about as often as the log is folded in, so it costs no fsync per commit.
Safety  it may be older than the log (a power cut), never newer: it is written only once a commit is durable.
"""

from __future__ import annotations

import contextlib
import logging
import os
import zlib
from pathlib import Path

from bursar.errors import StoreUnavailable
from bursar.words import plural
from bursard.store.base import LogHead
from bursard.store.names import saved_beside

log = logging.getLogger(__name__)

NAME = "bursard.head"
_SYNC_EVENTS = 1000
"""About a write-ahead log's length in commits of one event."""


class HeadFile:
    """The file, open while the store is."""

    def __init__(self, directory: Path) -> None:
        """Open or create it. Raises `OSError`."""
        self._path = directory / NAME
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._length = os.fstat(self._handle).st_size
        self._synced_seq = 0
        self._failed = False

    def read(self) -> LogHead | None:
        """What it says; None for an empty file or one that says nothing: then it is told and made anew."""
        data = os.pread(self._handle, 4096, 0)
        if not data:
            return None
        found = parse(data)
        if found is None:
            log.warning("the head file is damaged; it is made anew", extra={"path": str(self._path)})
        return found

    def write(self, head: LogHead, sync: bool = False) -> None:
        """Keep the end of a log whose last commit is durable. A failure is told once and harms nothing."""
        line = render(head)
        try:
            os.pwrite(self._handle, line, 0)
            if self._length != len(line):
                # Numbers grow, so it is needed once in a while: it costs more than the line.
                os.ftruncate(self._handle, len(line))
                self._length = len(line)
            if sync or head.seq - self._synced_seq >= _SYNC_EVENTS:
                os.fsync(self._handle)
                self._synced_seq = head.seq
        except OSError as error:
            if not self._failed:
                log.warning("the head file cannot be written", extra={"reason": str(error)})
            self._failed = True

    def fileno(self) -> int:
        """Its descriptor."""
        return self._handle

    def close(self) -> None:
        """Let go of it."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def render(head: LogHead) -> bytes:
    """One line: sequence, hash, checksum of both."""
    text = f"{head.seq} {head.hash.hex()}"
    return f"{text} {zlib.crc32(text.encode()):08x}\n".encode()


def parse(data: bytes) -> LogHead | None:
    """The inverse of `render`; None for anything else."""
    with contextlib.suppress(ValueError, UnicodeDecodeError):
        seq, digest, check = data.decode("ascii").split()
        if zlib.crc32(f"{seq} {digest}".encode()) == int(check, 16):
            found = LogHead(int(seq), bytes.fromhex(digest))
            return found if len(found.hash) == 32 and found.seq >= 0 else None
    return None


def shorter(path: Path, known: LogHead, ends: int) -> StoreUnavailable:
    """The refusal of a log that lacks events which were acknowledged."""
    lacking = plural(known.seq - ends, "event")
    return StoreUnavailable(
        f"{path} ends at event {ends}, but event {known.seq} was acknowledged ({NAME}):"
        f" {lacking} missing. Was its write-ahead log ({path.name}-wal) removed? Put it back; or restore a"
        " backup (`bursar restore FILE --state-dir DIR`); or give the events up for lost:"
        f" `bursar audit accept-loss --state-dir {path.parent}`{_saved(path)}",
        {"path": str(path), "known_seq": str(known.seq), "last_seq": str(ends)},
    )


def different(path: Path, known: LogHead) -> StoreUnavailable:
    """The refusal of a log that tells another story than the one that was acknowledged."""
    return StoreUnavailable(
        f"{path} is of another history: event {known.seq} is not the one that was acknowledged ({NAME})."
        " Put back the database that belongs to it; or restore a backup"
        " (`bursar restore FILE --state-dir DIR`); or take this log as the true one:"
        f" `bursar audit accept-loss --state-dir {path.parent}`{_saved(path)}",
        {"path": str(path), "known_seq": str(known.seq)},
    )


def _saved(path: Path) -> str:
    """Where the books are in whose place this file was put."""
    found = saved_beside(path)
    return f". The daemon whose books this file took the place of saved them as {found[-1]}" if found else ""
