"""The agent's directory: who owns it, and the few facts that must survive a restart.

Owns    the directory (0711), its lock, `agent.json` (epoch and lease), the checkpoint signals of live
        members, and which ended members the daemon has told us to forget.
Why     two agents on one directory would each meter the same jobs; an agent that forgot its epoch
        would obey a daemon that has been replaced. What is damaged is set aside, and what it said is
        taken from where else it is known: no file here may keep the node away.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TextIO

import msgspec

from bursar.aside import (
    Damaged,
    clear_for_file,
    open_to_its_owner,
    own_directory,
    read_object,
    read_own,
    set_aside,
)
from bursar.clock import DAY_US, Clock
from bursar.errors import InvalidRequest, StoreUnavailable
from bursar.ids import Ids
from bursar.logend import check_of
from bursar.model import DeviceUse, EnergySource
from bursar_agent.runner.layout import (
    AGENT_SOCKET,
    ATTEMPTS,
    FREE,
    LAUNCHER_LOCK,
    LAUNCHER_LOG,
    LAUNCHER_SOCKET,
    SPARE,
    STARTING,
    member_name,
)
from bursar_agent.runner.model import signal_number
from bursar_agent.stimuli import Key

log = logging.getLogger(__name__)

LOG_RETENTION_US = 7 * DAY_US
"""How long the log of a forgotten member can still be read."""

SILENT_RETENTION_US = 5_000_000
"""A member without a log has nothing to keep."""

RETAINED_LOG_BYTES_MAX = 10_000_000_000
RETAINED_MEMBERS_MAX = 20_000


_LOCK = "agent.lock"
_CHECKPOINTS = "checkpoints"
_FOLDER = re.compile(r"(?!\.)[\w.-]+")
_INSTANCE = re.compile(r"agent_[0-9a-z]{4,40}")
_Number = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


def unusable(problem: OSError, path: Path) -> StoreUnavailable:
    """What the system's refusal of a state directory, or of something in it, means to an operator."""
    where = f"state directory {path}: {problem.filename or path}: {problem.strerror}"
    if problem.errno == errno.EROFS:
        return StoreUnavailable(
            f"{where}; its disk is mounted read-only, perhaps after an error (`dmesg` says which). Members"
            " that run there go on, and so does what they cost: they are adopted once this agent starts."
            " Mount it writable again (mount -o remount,rw), and start the agent. With another"
            " --state-dir nobody would look after them"
        )
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreUnavailable(f"{where}; free some space there, then start again")
    return StoreUnavailable(
        f"{where}; make it writable for this account (chmod -R u+rwX {path}), or give another one with"
        " --state-dir"
    )


class Remembered(msgspec.Struct, frozen=True):
    """The content of `agent.json`. `instance` is a second copy of the file of that name; `cluster_id`: whose
    members are here, unknown to an older release.
    """

    epoch: _Number = 0
    spend_lease_us: _Number = 0
    instance: str = ""
    cluster_id: str = ""


class HeldDevices(msgspec.Struct, frozen=True, kw_only=True):
    """What must outlive the agent of a member's devices: the content of `devices/ID.RANK`.

    `counters`: of energy, by device, when `millijoules` was reckoned; they mean something in this boot alone.
    """

    boot_id: str
    shares: tuple[tuple[_Number, _Number], ...]
    counters: dict[int, _Number]
    millijoules: _Number
    source: EnergySource
    ended: bool
    use: DeviceUse | None = None


class LogEnd(msgspec.Struct, frozen=True):
    """The end of a daemon's log as it was told last."""

    cluster_id: str
    seq: int
    digest: bytes


class _KeptLogEnd(LogEnd, frozen=True):
    """The same as it lies on disk. `check`: of `bursar.logend`; empty in what an older release wrote."""

    check: str = ""


def _own(path: str, flags: int) -> int:
    """An opener: whatever the umask is, nobody else reads or writes it. Jobs pass through our directory."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _lines(path: Path) -> TextIO:
    """To add lines to, each of which is written at once."""
    return open(path, "a", buffering=1, opener=_own)


def _check(end: LogEnd) -> str:
    return check_of(end.cluster_id, end.seq, end.digest)


def _open_files(folder: Path) -> None:
    """Put right what shuts us out of our own files, before anybody takes them for damaged."""
    if folder.is_dir() and not folder.is_symlink():
        own_directory(folder, stat.S_IMODE(folder.stat().st_mode) | stat.S_IRWXU)
        for path in folder.iterdir():
            if path.is_file() and not os.access(path, os.R_OK | os.W_OK):
                open_to_its_owner(path)


class StateDir:
    """One agent's directory, locked for this process until `close`.

    Raises:
        InvalidRequest: another agent lives in it.
        StoreUnavailable: it cannot be made, locked or read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._instance = ""
        self._persisted: Remembered | None = None
        try:
            path.mkdir(mode=0o711, parents=True, exist_ok=True)
            # Jobs under other accounts pass through to their own checkpoint directory; nothing can be listed.
            path.chmod(0o711)
            own_directory(path / _CHECKPOINTS, 0o711)
            for folder in (path, path / "signals", path / "run"):
                _open_files(folder)
            self._lock_fd = self._open_lock()
        except OSError as problem:
            raise unusable(problem, path) from None
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock_fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._lock_fd)
            raise InvalidRequest(
                f"another agent (pid {holder}) runs in {path}; stop it or give another --state-dir"
            ) from None
        self._note_holder()

    def _open_lock(self) -> int:
        clear_for_file(self.path / _LOCK)
        return os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _note_holder(self) -> None:
        try:
            os.ftruncate(self._lock_fd, 0)
            os.pwrite(self._lock_fd, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            pass  # a full disk: the lock holds all the same, only its note is missing

    def mend(self) -> None:
        """Make anew what somebody removed of the directory while we have it: itself, the lock, what this
        agent remembers. What others write into it makes its own folders.

        A directory whose parent is gone too, or that was moved away, is left so.

        Raises:
            InvalidRequest: another agent has come to live in it meanwhile.
            OSError: it cannot be done.
        """
        if os.fstat(self._lock_fd).st_nlink == 0:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.path, 0o711)
                self.path.chmod(0o711)
            fd = self._open_lock()
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                raise InvalidRequest(f"{self.path} was removed, and another agent runs in it now") from None
            os.close(self._lock_fd)
            self._lock_fd = fd
            self._note_holder()
            log.error("was removed while it was in use, made anew", extra={"directory": str(self.path)})
        if not os.path.samestat(os.fstat(self._lock_fd), os.stat(self.path / _LOCK)):
            return  # moved: this is another one's
        for folder in (self.path / _CHECKPOINTS, self.mps_dir):
            if not os.path.lexists(folder):
                own_directory(folder, 0o711)
        if self._persisted is not None and not os.path.lexists(self.path / "agent.json"):
            self._replace("agent.json", msgspec.json.encode(self._persisted))
        if self._instance and not os.path.lexists(self.path / "instance"):
            self._replace("instance", self._instance.encode("ascii"))

    def close(self) -> None:
        """Let another agent in."""
        os.close(self._lock_fd)

    # --- epoch ----------------------------------------------------------------------------------

    def remembered(self) -> Remembered:
        """What `persist` wrote last.

        A damaged file is set aside. The epoch is then the highest that a start was ordered under: what
        is older than that is still refused.
        """
        path = self.path / "agent.json"
        try:
            self._persisted = msgspec.json.decode(read_own(path), type=Remembered)
            return self._persisted
        except FileNotFoundError:
            return Remembered()
        except (OSError, ValueError, RecursionError, msgspec.DecodeError) as problem:
            aside(path, problem)
            return Remembered(epoch=max(self._epochs_of_starts(), default=0))

    def _epochs_of_starts(self) -> Iterator[int]:
        for mark in (self.path / "run" / ATTEMPTS).glob(f"*/{STARTING}"):
            with contextlib.suppress(Damaged):
                epoch = read_object(mark).get("epoch")
                if type(epoch) is int and 0 <= epoch <= 1 << 53:
                    yield epoch

    def persist(self, epoch: int, spend_lease_us: int, cluster_id: str = "") -> None:
        """Durable before it returns: once per daemon restart, so the wait does not matter."""
        remembered = Remembered(epoch, spend_lease_us, self._instance, cluster_id)
        self._replace("agent.json", msgspec.json.encode(remembered))
        self._persisted = remembered

    def cluster_id(self) -> str:
        """Whose members are here; empty: nobody has said so yet."""
        known = self.remembered().cluster_id
        if known:
            return known
        end = self.log_end()
        return end.cluster_id if end is not None else ""

    def forsake(self) -> None:
        """Belong to no cluster any more. Raises `OSError`."""
        kept = self.remembered()
        self._instance = kept.instance
        (self.path / "log-end.json").unlink(missing_ok=True)
        self.persist(kept.epoch, kept.spend_lease_us)

    def log_end(self) -> LogEnd | None:
        """What `remember_log_end` wrote last; None for nothing, or what had to be set aside."""
        path = self.path / "log-end.json"
        try:
            found = msgspec.json.decode(read_own(path), type=_KeptLogEnd)
            end = LogEnd(found.cluster_id, found.seq, found.digest)
            if found.check and found.check != _check(end):
                raise ValueError("its checksum is not that of its fields")
            return end
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError, msgspec.DecodeError) as problem:
            aside(path, problem)
            return None

    def remember_log_end(self, end: LogEnd) -> None:
        """Keep the end of the daemon's log. Not fsynced: an older end is as true as a newer one."""
        kept = _KeptLogEnd(end.cluster_id, end.seq, end.digest, _check(end))
        path = self.path / "log-end.json"
        temporary = path.with_suffix(".new")
        with contextlib.suppress(OSError):  # a full disk: the older one stays
            clear_for_file(temporary)
            with open(temporary, "wb", opener=_own) as made:
                made.write(msgspec.json.encode(kept))
            temporary.rename(path)

    def instance(self, ids: Ids) -> str:
        """A name for this directory, made once: the daemon tells a reconnect from a namesake by it."""
        path, copy = self.path / "instance", self.remembered().instance
        try:
            found = read_own(path).decode("ascii")
        except FileNotFoundError:
            found = ""
        except (OSError, ValueError) as problem:
            aside(path, problem)
            found = ""
        copy = copy if _INSTANCE.fullmatch(copy) else ""
        if path.exists() and (_INSTANCE.fullmatch(found) is None or found != (copy or found)):
            aside(path, ValueError("it is not the name of an agent"))
            found = ""
        self._instance = found or copy or ids.new("agent")
        if not found:
            self._replace("instance", self._instance.encode("ascii"))
        return self._instance

    def _replace(self, name: str, data: bytes) -> None:
        """Write a file whole and durable. Raises `OSError`."""
        path = self.path / name
        draft = path.with_name(f"{name}.new")
        clear_for_file(draft)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        if path.is_dir():
            aside(path, IsADirectoryError("it is a directory"))
        draft.rename(path)

    # --- attempts -------------------------------------------------------------------------------

    def run_directory(self) -> Path:
        """Where attempts lie, usable: what is no file, socket or directory of ours there is set aside."""
        run = self.path / "run"
        for folder in (run, run / ATTEMPTS, run / FREE, run / SPARE):
            if os.path.lexists(folder) and not folder.is_dir():
                aside(folder, NotADirectoryError("it is no directory"))
            own_directory(folder)
        for name in (LAUNCHER_LOCK, LAUNCHER_LOG):
            clear_for_file(run / name)
        for name in (LAUNCHER_SOCKET, AGENT_SOCKET):
            path = run / name
            if os.path.lexists(path) and not stat.S_ISSOCK(path.lstat().st_mode):
                aside(path, ValueError("it is no socket"))
        for entry in os.scandir(run / ATTEMPTS):
            if not entry.is_dir(follow_symlinks=False):
                aside(Path(entry.path), NotADirectoryError("it is no attempt"), into=run)
        return run

    @functools.cached_property
    def steps_dir(self) -> str:
        """Where jobs find the programs and the socket for steps."""
        return str(self.path / "steps")

    @functools.cached_property
    def mps_dir(self) -> Path:
        """Where servers lie through which members share a device."""
        return self.path / "mps"

    # --- checkpoints ----------------------------------------------------------------------------

    def checkpoint_dir(self, job_id: str) -> str:
        """Where a job keeps its checkpoints on this node; its supervisor makes it, with the job's own rights.

        Empty for no job. Raises `InvalidRequest` for an id that must not become a path.
        """
        if not job_id:
            return ""
        if not _FOLDER.fullmatch(job_id):
            raise InvalidRequest(f"job id {job_id!r} cannot name a checkpoint directory")
        return f"{self.path}/checkpoints/{job_id}"

    def remember_signal(self, key: Key, signal: str, grace_us: int) -> None:
        """Keep what only the assignment said, for an agent that adopts this member later."""
        folder = self.path / "signals"
        own_directory(folder)
        path = folder / f"{key[0]}.{key[1]}"
        clear_for_file(path)
        with open(path, "w", opener=_own) as made:
            made.write(json.dumps([signal, grace_us]))

    def forget_signal(self, key: Key) -> None:
        """The member has ended."""
        with contextlib.suppress(OSError):  # it is no file any more: nothing of ours is left
            (self.path / "signals" / f"{key[0]}.{key[1]}").unlink(missing_ok=True)

    def signals(self) -> dict[Key, tuple[str, int]]:
        """Signal and grace of each member that has one; what is damaged is set aside."""
        found: dict[Key, tuple[str, int]] = {}
        folder = self.path / "signals"
        if os.path.lexists(folder) and not folder.is_dir():
            aside(folder, NotADirectoryError("it is no directory"))
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if ".damaged-" in path.name or path.name.startswith("."):
                continue
            try:
                attempt_id, _, rank = path.name.rpartition(".")
                member_name(attempt_id, int(rank))
                signal, grace_us = json.loads(read_own(path).decode())
                signal_number(signal)
                if type(grace_us) is not int or not 0 <= grace_us <= 1 << 53:
                    raise ValueError(f"a grace of {grace_us!r}")
                found[attempt_id, int(rank)] = (signal, grace_us)
            except (OSError, ValueError, TypeError, RecursionError, InvalidRequest) as problem:
                aside(path, problem)
        return found

    # --- devices --------------------------------------------------------------------------------

    def remember_devices(self, key: Key, held: HeldDevices) -> None:
        """Keep what only this agent knows, for one that adopts this member later. Raises `OSError`.

        Not fsynced: after a power cut the counters in it mean nothing.
        """
        folder = self.path / "devices"
        own_directory(folder)
        draft = folder / f".{key[0]}.{key[1]}.new"
        clear_for_file(draft)
        with open(draft, "wb", opener=_own) as made:
            made.write(msgspec.json.encode(held))
        draft.rename(folder / f"{key[0]}.{key[1]}")

    def forget_devices(self, key: Key) -> None:
        """The end of the member is in the ledger."""
        with contextlib.suppress(OSError):
            (self.path / "devices" / f"{key[0]}.{key[1]}").unlink(missing_ok=True)

    def held_devices(self) -> dict[Key, HeldDevices]:
        """Of each member that has devices; what is damaged is set aside."""
        found: dict[Key, HeldDevices] = {}
        folder = self.path / "devices"
        if os.path.lexists(folder) and not folder.is_dir():
            aside(folder, NotADirectoryError("it is no directory"))
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if ".damaged-" in path.name or path.name.startswith("."):
                continue
            try:
                attempt_id, _, rank = path.name.rpartition(".")
                member_name(attempt_id, int(rank))
                found[attempt_id, int(rank)] = msgspec.json.decode(read_own(path), type=HeldDevices)
            except (OSError, ValueError, RecursionError, msgspec.DecodeError) as problem:
                aside(path, problem)
        return found


def aside(path: Path, problem: Exception, into: Path | None = None) -> None:
    """Set a damaged file aside (in the folder `into`, else beside it) and say so. Raises `OSError`."""
    if into is not None:
        path = path.rename(into / path.name)
    target = set_aside(path)
    log.warning("damaged, set aside", extra={"file": str(path), "as": target.name, "problem": str(problem)})


_FORGOTTEN = re.compile(rb"([a-z]{1,16}_[0-9a-z.]{1,48}) ([0-9]{1,6}) ([0-9]{1,18}) ([0-9]{1,18})")


FORGOTTEN_BYTES_MAX = 64 << 20


class Forgotten:
    """Ended members whose end is in the ledger, kept for their logs until they are too old or too many.

    The file is appended without fsync: a lost line means that an end is told once more.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._members: dict[Key, tuple[int, int]] = {}  # forgotten at, log bytes
        self._log_bytes = 0
        if self._load():
            clear_for_file(path)  # a link that leads nowhere reads like a file that is not there
            self._file = _lines(path)
        else:
            aside(path, ValueError("it holds what is not ours"))
            self._file = _lines(path)
            self.rewrite()

    def _load(self) -> bool:
        """Read the members; False when there is something else in the file. A torn last line is no damage."""
        try:
            lines = read_own(self._path, FORGOTTEN_BYTES_MAX).split(b"\n")
        except FileNotFoundError:
            return True
        except OSError:
            return False
        good = True
        for line in lines[:-1]:
            match = _FORGOTTEN.fullmatch(line)
            if match is None:
                good = False
                continue
            self._put((match[1].decode("ascii"), int(match[2])), int(match[3]), int(match[4]))
        return good

    def __contains__(self, key: object) -> bool:
        return key in self._members

    def __len__(self) -> int:
        return len(self._members)

    def add(self, key: Key, log_bytes: int) -> None:
        """The daemon has this end."""
        now = self._clock.now()
        self._put(key, now, log_bytes)
        with contextlib.suppress(OSError):  # then it is told once more after a restart
            if not os.fstat(self._file.fileno()).st_nlink:
                self.rewrite()  # somebody has removed it
            else:
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
        clear_for_file(temporary)
        with open(temporary, "w", opener=_own) as made:
            made.writelines(lines)
        self._file.close()
        temporary.rename(self._path)
        self._file = _lines(self._path)

    def close(self) -> None:
        """Nothing more will be added."""
        self._file.close()

    def _put(self, key: Key, at: int, log_bytes: int) -> None:
        if key not in self._members:
            self._log_bytes += log_bytes
            self._members[key] = (at, log_bytes)
