"""Usage on disk before it is on the wire.

Owns    the segment files of one agent. Input: `Usage` records, numbered by the core; acknowledgements.
Why     a broker or a stream may lose what it said it had; what was spooled is sent again under its old
        number until the ledger has it. fsync before sending, trim only after the ledger's commit.

A segment `usage-NUMBER.spool` is named by the lowest number it may hold; a record is length, CRC and
MessagePack. A torn tail (power cut, kill -9) ends a segment; anything else behind the last good
record is damage: the file is set aside, and its good records are written anew. The newest record
always stays: the numbering and the last counters survive a restart. Blocking; one thread calls it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bursar.aside import open_to_its_owner, own_directory, read_own, set_aside
from bursar.clock import DAY_US, Clock
from bursar_agent.stimuli import Usage

log = logging.getLogger(__name__)

SEGMENT_BYTES = 1 << 20
"""A segment above this is closed and a new one begun."""

SPOOL_BYTES_MAX = 256 << 20
"""Oldest segments go above this: counters are cumulative, newer records say nearly as much."""

SPOOL_AGE_US_MAX = 7 * DAY_US
"""A daemon that was away for a week gets the last week."""

_HEADER = struct.Struct("<II")
_RECORD_BYTES_MAX = 16 << 20
_SEQ_MAX = (1 << 63) - 1
_SEGMENT = re.compile(r"usage-([0-9]{20})\.spool")


class Spool:
    """The segments in one directory, which it makes with mode 0700.

    Raises:
        OSError: the directory cannot be used; the message says which and why.
    """

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        segment_bytes: int = SEGMENT_BYTES,
        bytes_max: int = SPOOL_BYTES_MAX,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._segment_bytes = segment_bytes
        self._bytes_max = bytes_max
        self._fd = -1
        self._size = 0
        if os.path.lexists(folder) and not folder.is_dir():
            self._set_aside(folder, "it is no directory")
        own_directory(folder)
        names = (_SEGMENT.fullmatch(name) for name in os.listdir(folder))
        found = sorted(int(name[1]) for name in names if name)
        self._segments = [first for first in found if first <= _SEQ_MAX and self._sound(first)]
        self.last: Usage | None = None
        self.dropped_segments = 0
        for record in self.records():
            self.last = record
        self.last_seq = self.last.seq if self.last else 0
        if self._segments:
            # An emptied segment still says which numbers were given out.
            self.last_seq = max(self.last_seq, self._segments[-1] - 1)
            self._open_last()

    def append(self, usages: list[Usage]) -> None:
        """Make these durable together: one fsync. Raises `OSError`; then none of them counts."""
        if not usages:
            return
        data = b"".join(map(_encode, usages))
        if self._fd >= 0 and os.fstat(self._fd).st_nlink == 0:
            self._is_removed()
        if self._fd < 0 or self._size >= self._segment_bytes:
            self._begin(usages[0].seq)
        try:
            _write_all(self._fd, data)
            os.fdatasync(self._fd)
        except OSError:
            # What is in the file now is unknown: cut back, and never append behind a doubt.
            self._abandon()
            raise
        self._size += len(data)
        self.last = usages[-1]
        self.last_seq = usages[-1].seq

    def trim(self, seq: int) -> None:
        """Drop whole segments whose records are all acknowledged, never the newest one."""
        while len(self._segments) > 1 and self._segments[1] - 1 <= seq:
            self._remove_oldest()

    def unacknowledged(self, after_seq: int) -> Iterator[Usage]:
        """What is still here above `after_seq`, ascending."""
        return (usage for usage in self.records() if usage.seq > after_seq)

    def records(self) -> Iterator[Usage]:
        """Everything still here, segment by segment; a damaged rest of a segment is skipped."""
        for first in list(self._segments):
            try:
                data = read_own(self._path(first), SPOOL_BYTES_MAX)
            except FileNotFoundError:
                continue
            for usage, _ in _decode(data):
                yield usage

    def close(self) -> None:
        """Nothing more will be appended."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    # --- files ----------------------------------------------------------------------------------

    def _path(self, first_seq: int) -> Path:
        return self._folder / f"usage-{first_seq:020d}.spool"

    def _sound(self, first_seq: int) -> bool:
        """Make one segment readable up to its end; False when nothing of it is. Raises `OSError`."""
        path = self._path(first_seq)
        try:
            open_to_its_owner(path)
            data = read_own(path, SPOOL_BYTES_MAX)
        except OSError as problem:
            self._set_aside(path, problem.strerror or "it cannot be read")
            return False
        good = 0
        for _, end in _decode(data):
            good = end
        if not _torn(data[good:]):
            self._set_aside(path, f"no record of ours at byte {good}")
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                _write_all(fd, data[:good])
                os.fsync(fd)
            finally:
                os.close(fd)
        return True

    def _set_aside(self, path: Path, why: str) -> None:
        target = set_aside(path)
        log.warning("damaged, set aside", extra={"file": str(path), "as": target.name, "problem": why})

    def _open_last(self) -> None:
        """Go on in the newest segment, cutting off a torn tail."""
        path = self._path(self._segments[-1])
        good = 0
        for _, end in _decode(read_own(path, SPOOL_BYTES_MAX)):
            good = end
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if os.fstat(fd).st_size != good:
            os.ftruncate(fd, good)
            os.fdatasync(fd)
        os.lseek(fd, good, os.SEEK_SET)
        self._fd, self._size = fd, good

    def _begin(self, first_seq: int) -> None:
        self.close()
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._folder, 0o700)  # somebody has removed it
        self._enforce_limits()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._fd = os.open(self._path(first_seq), flags, 0o600)
        self._size = 0
        self._sync_folder()
        if not self._segments or self._segments[-1] != first_seq:
            self._segments.append(first_seq)

    def _is_removed(self) -> None:
        """What we write into has no name any more: what lay there is lost, and a new segment begins."""
        log.error("was removed while it was in use, made anew", extra={"directory": str(self._folder)})
        self.close()
        self._segments = [first for first in self._segments if os.path.lexists(self._path(first))]

    def _abandon(self) -> None:
        try:
            os.ftruncate(self._fd, self._size)
            os.lseek(self._fd, self._size, os.SEEK_SET)
        except OSError:
            self.close()  # the next append begins a new segment

    def _enforce_limits(self) -> None:
        total = 0
        oldest_us = self._clock.now() - SPOOL_AGE_US_MAX
        for first in reversed(self._segments[:]):
            try:
                status = self._path(first).stat()
            except FileNotFoundError:
                continue
            total += status.st_size
            if total > self._bytes_max or status.st_mtime_ns // 1000 < oldest_us:
                while self._segments and self._segments[0] <= first and len(self._segments) > 1:
                    self._remove_oldest()
                    self.dropped_segments += 1
                return

    def _remove_oldest(self) -> None:
        self._path(self._segments.pop(0)).unlink(missing_ok=True)

    def _sync_folder(self) -> None:
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _encode(usage: Usage) -> bytes:
    payload = msgspec.msgpack.encode(usage)
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


_DECODER = msgspec.msgpack.Decoder(Usage)


def _decode(data: bytes) -> Iterator[tuple[Usage, int]]:
    """Records and the offset behind each, up to the first that is torn or damaged."""
    at = 0
    while at + _HEADER.size <= len(data):
        size, crc = _HEADER.unpack_from(data, at)
        start = at + _HEADER.size
        payload = data[start : start + size]
        if size == 0 or size > _RECORD_BYTES_MAX or len(payload) < size:
            return
        if zlib.crc32(payload) != crc:
            return
        try:
            usage = _DECODER.decode(payload)
        except msgspec.DecodeError:
            return
        at = start + size
        yield usage, at


def _torn(rest: bytes) -> bool:
    """Is this what a crash leaves behind the last record: nothing, half a record, or blank pages?"""
    if len(rest) < _HEADER.size or not rest.strip(b"\0"):
        return True
    size: int = _HEADER.unpack_from(rest)[0]
    return _HEADER.size + size > len(rest) and 0 < size <= _RECORD_BYTES_MAX


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
