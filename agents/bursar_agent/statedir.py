"""The agent's directory: who owns it, and the few facts that must survive a restart.

Owns    the directory (0700), its lock, `agent.json` (epoch and lease), the checkpoint signals of live
        members, and which ended members the daemon has told us to forget.
Why     two agents on one directory would each meter the same jobs; an agent that forgot its epoch
        would obey a daemon that has been replaced.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path

import msgspec

from bursar.clock import DAY_US, Clock
from bursar.errors import InvalidRequest, StoreUnavailable
from bursar.ids import Ids
from bursar_agent.stimuli import Key

LOG_RETENTION_US = 7 * DAY_US
"""How long the log of a forgotten member can still be read."""

SILENT_RETENTION_US = 5_000_000
"""A member without a log has nothing to keep."""

RETAINED_LOG_BYTES_MAX = 10_000_000_000
RETAINED_MEMBERS_MAX = 20_000


class Remembered(msgspec.Struct, frozen=True):
    """The content of `agent.json`."""

    epoch: int = 0
    spend_lease_us: int = 0


class LogEnd(msgspec.Struct, frozen=True):
    """The end of a daemon's log as it was told last: the content of `log-end.json`."""

    cluster_id: str
    seq: int
    digest: bytes


class StateDir:
    """One agent's directory, locked for this process until `close`.

    Raises:
        InvalidRequest: another agent lives in it.
        StoreUnavailable: it cannot be made, locked or read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o711, parents=True, exist_ok=True)
            # Jobs under other accounts pass through to their own checkpoint directory; nothing can be listed.
            path.chmod(0o711)
            self._lock_fd = os.open(path / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as problem:
            raise StoreUnavailable(
                f"state directory {path}: {problem.strerror}; give a writable one with --state-dir"
            ) from None
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock_fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._lock_fd)
            raise InvalidRequest(
                f"another agent (pid {holder}) runs in {path}; stop it or give another --state-dir"
            ) from None
        try:
            os.ftruncate(self._lock_fd, 0)
            os.pwrite(self._lock_fd, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            pass  # a full disk: the lock holds all the same, only its note is missing

    def close(self) -> None:
        """Let another agent in."""
        os.close(self._lock_fd)

    # --- epoch ----------------------------------------------------------------------------------

    def remembered(self) -> Remembered:
        """What `persist` wrote last. Raises `StoreUnavailable` when the file is damaged."""
        path = self.path / "agent.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Remembered)
        except FileNotFoundError:
            return Remembered()
        except (OSError, msgspec.DecodeError) as problem:
            raise StoreUnavailable(
                f"{path} cannot be read ({problem}); remove it to obey any daemon again"
            ) from None

    def persist(self, epoch: int, spend_lease_us: int) -> None:
        """Durable before it returns: once per daemon restart, so the wait does not matter."""
        path = self.path / "agent.json"
        temporary = path.with_suffix(".new")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, msgspec.json.encode(Remembered(epoch, spend_lease_us)))
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.rename(path)

    def log_end(self) -> LogEnd | None:
        """What `remember_log_end` wrote last; None when nothing, or what cannot be read: it only helps."""
        try:
            return msgspec.json.decode((self.path / "log-end.json").read_bytes(), type=LogEnd)
        except (OSError, msgspec.DecodeError):
            return None

    def remember_log_end(self, end: LogEnd) -> None:
        """Keep the end of the daemon's log. Not fsynced: an older end is as true as a newer one."""
        path = self.path / "log-end.json"
        temporary = path.with_suffix(".new")
        with contextlib.suppress(OSError):  # a full disk: the older one stays
            temporary.write_bytes(msgspec.json.encode(end))
            temporary.rename(path)

    def instance(self, ids: Ids) -> str:
        """A name for this directory, made once: the daemon tells a reconnect from a namesake by it."""
        path = self.path / "instance"
        try:
            return path.read_text(encoding="ascii")
        except FileNotFoundError:
            name = ids.new("agent")
            path.write_text(name, encoding="ascii")
            return name

    # --- checkpoints ----------------------------------------------------------------------------

    def checkpoint_dir(self, job_id: str, uid: int = -1, gid: int = -1) -> Path:
        """The directory in which a job keeps its checkpoints on this node, made 0700."""
        parent = self.path / "checkpoints"
        parent.mkdir(mode=0o711, exist_ok=True)
        folder = parent / job_id
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            return folder
        if uid >= 0:
            os.chown(folder, uid, gid)
        return folder

    def remember_signal(self, key: Key, signal: str, grace_us: int) -> None:
        """Keep what only the assignment said, for an agent that adopts this member later."""
        folder = self.path / "signals"
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / f"{key[0]}.{key[1]}").write_text(json.dumps([signal, grace_us]))

    def forget_signal(self, key: Key) -> None:
        """The member has ended."""
        (self.path / "signals" / f"{key[0]}.{key[1]}").unlink(missing_ok=True)

    def signals(self) -> dict[Key, tuple[str, int]]:
        """Signal and grace of each member that has one."""
        found: dict[Key, tuple[str, int]] = {}
        folder = self.path / "signals"
        for path in folder.iterdir() if folder.is_dir() else ():
            attempt_id, _, rank = path.name.rpartition(".")
            try:
                signal, grace_us = json.loads(path.read_text())
                found[attempt_id, int(rank)] = (str(signal), int(grace_us))
            except (ValueError, TypeError):
                path.unlink(missing_ok=True)
        return found


class Forgotten:
    """Ended members whose end is in the ledger, kept for their logs until they are too old or too many.

    The file is appended without fsync: a lost line means that an end is told once more.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._members: dict[Key, tuple[int, int]] = {}  # forgotten at, log bytes
        self._log_bytes = 0
        for line in path.read_text().splitlines() if path.exists() else ():
            words = line.split()
            if len(words) == 4 and all(word.isdigit() for word in words[1:]):
                self._put((words[0], int(words[1])), int(words[2]), int(words[3]))
        self._file = path.open("a", buffering=1)

    def __contains__(self, key: object) -> bool:
        return key in self._members

    def __len__(self) -> int:
        return len(self._members)

    def add(self, key: Key, log_bytes: int) -> None:
        """The daemon has this end."""
        now = self._clock.now()
        self._put(key, now, log_bytes)
        with contextlib.suppress(OSError):  # then it is told once more after a restart
            self._file.write(f"{key[0]} {key[1]} {now} {log_bytes}\n")

    def take_expired(self) -> list[Key]:
        """Members whose directories may go now; they are not known here any more."""
        now = self._clock.now()
        expired: list[Key] = []
        for key, (at, log_bytes) in self._members.items():
            too_many = len(self._members) - len(expired) > RETAINED_MEMBERS_MAX
            keep_us = LOG_RETENTION_US if log_bytes else SILENT_RETENTION_US
            if now - at > keep_us or too_many or self._log_bytes > RETAINED_LOG_BYTES_MAX:
                expired.append(key)
                self._log_bytes -= log_bytes
        for key in expired:
            del self._members[key]
        return expired

    def rewrite(self) -> None:
        """Drop expired lines from the file."""
        temporary = self._path.with_suffix(".new")
        lines = [f"{k[0]} {k[1]} {at} {size}\n" for k, (at, size) in self._members.items()]
        temporary.write_text("".join(lines))
        self._file.close()
        temporary.rename(self._path)
        self._file = self._path.open("a", buffering=1)

    def close(self) -> None:
        """Nothing more will be added."""
        self._file.close()

    def _put(self, key: Key, at: int, log_bytes: int) -> None:
        if key not in self._members:
            self._log_bytes += log_bytes
            self._members[key] = (at, log_bytes)
