"""Names of the files in a run directory, shared by launcher, supervisor and agent.

Owns    the on-disk layout and the atomic small-file write. Input: attempt id and rank.
Why     three programs of different age meet only in these files (a supervisor may be weeks older
        than the agent that adopts it), so the names live in one place. Imports only what the
        launcher can afford.

    RUN_DIR/                    0700
      launcher.sock .lock .log  the launcher: its door, its single-instance lock, its stderr
      agent.sock                where supervisors tell of starts and ends (loss is tolerated)
      free/                     directories of forgotten members, to be used again; spare/: empty ones
      attempts/ID.RANK/         0700
        starting                there before anything runs, locked until the supervisor is gone
        start.json              the job runs: pids and boot time; of one that was over at once, nothing
        setup  script           the job's texts, while it runs
        stop.json               what the agent asked for last
        limit                   a link that leads nowhere: its target is the time limit it was given last
        step                    a step from another node waits to be begun here
        container               of a job with an image: its container's name and runtime, and how that went
        progress                how far the job says it has come; of another user's, as its end left it
        step-records            which steps it has started, and how they ended; likewise
        exit.json               the truth about the end; written once
        (a start.json or exit.json of one byte is not yet written, in a directory that is used again)
        log  log.OFFSET         head and tail of the output; OFFSET is the logical byte it starts at
        log.times               when what was written came
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
from typing import Any

PROTOCOL = 2
"""Raised when launcher and agent of different ages would misread each other."""

LAUNCHER_SOCKET = "launcher.sock"
LAUNCHER_LOCK = "launcher.lock"
LAUNCHER_LOG = "launcher.log"
AGENT_SOCKET = "agent.sock"
ATTEMPTS = "attempts"
FREE = "free"
SPARE = "spare"

STARTING = "starting"
TAKEN_AT = 10
"""Where `starting` says how far a supervisor came with the attempt: `{"taken": 0`, `1` (taken) or `2` (its
first process may exist). The digit is written before anything of it is done, so what is not taken, and not
locked, was never begun."""
TAKEN, SPAWNING = b"1", b"2"
START = "start.json"
ALIVE_AT, ENDED_AT = 13, 47
"""Where `start.json` says when its supervisor lived last, and when the last process of the job had ended:
written in place, so that it needs no room on a full disk."""
BEAT_US = 10_000_000
"""How often a supervisor writes that it lives."""
SCRIPT, SETUP = "script", "setup"
STOP = "stop.json"
LIMIT = "limit"
STEP = "step"
EXIT = "exit.json"
PROGRESS = "progress"
STEP_RECORDS = "step-records"
"""`bursar.steps.records.FILE`, which is not loaded here."""
CONTAINER = "container"
LOG = "log"
LOG_TIMES = "log.times"

RECORDS = frozenset((STARTING, START, EXIT))
"""All that is in the directory of a member without output, script or stop: it can be used again."""

MARKER_VARIABLE = "BURSAR_ATTEMPT_MEMBER"
"""`ID.RANK@PLACE` in the environment of every process of an attempt: how leftovers are found."""

FRAME_BYTES_MAX = 16 << 20
"""Longest message on the launcher's socket; a longer length is not ours: we hang up."""

UNWRITTEN_BYTES = 1
"""What is left of a record in a directory that is used again. Not nothing: ext4 takes a file that was cut to
nothing for one being replaced, and writes it to the disk when it is closed."""

_ONE_PAGE_BYTES = 4096
DISK_REFUSES = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO))
"""The disk will not take it, whatever it is: full, over a quota, read-only or broken. No fault of any job,
and what is to be written waits for its mending."""

_DISK_S_MIN, _DISK_S_MAX = 0.5, 4.0
"""Between two tries to write how a job ended."""

_ATTEMPT_ID = re.compile(r"[a-z]{1,16}_[0-9a-z]{1,40}(\.[0-9]{1,6})?\Z")
_MEMBER = re.compile(r"([a-z]{1,16}_[0-9a-z]{1,40}(?:\.[0-9]{1,6})?)\.([0-9]{1,6})\Z")


def member_name(attempt_id: str, rank: int) -> str:
    """The directory name `ID.RANK`. Raises `ValueError` for an id that must not become a path."""
    if not _ATTEMPT_ID.match(attempt_id):
        raise ValueError(
            f"attempt id {attempt_id!r} is not prefix_ followed by 1 to 40 of 0-9a-z; "
            "refused before it becomes a path"
        )
    if type(rank) is not int or not 0 <= rank <= 999_999:
        raise ValueError(f"rank {rank!r} of attempt {attempt_id} is not an integer from 0 to 999999")
    return f"{attempt_id}.{rank}"


def place_of(run_fd: int) -> str:
    """What tells this run directory from every other on the machine: agents of two daemons give out the same
    attempt ids. It stands in each member's mark, so a directory that is a copy leaves the original's alone.
    """
    found = os.fstat(run_fd)
    return f"{found.st_dev:x}-{found.st_ino:x}"


def marker_of(member: str, place: str) -> str:
    """The value of `MARKER_VARIABLE`; members of the release before have no place."""
    return f"{member}@{place}" if place else member


def parse_member(name: str) -> tuple[str, int] | None:
    """Attempt id and rank of a directory name, or None when it is not one of ours."""
    match = _MEMBER.match(name)
    return (match.group(1), int(match.group(2))) if match else None


def write_atomically(name: str, data: bytes, dir_fd: int | None = None) -> None:
    """Replace the file `name` as a whole, mode 0600.

    No fsync: a power cut ends the job as well, and the next boot has another boot id, which already
    says that what these files told is over. An fsync each would cost more than the whole start.
    """
    temporary = f".{name}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)
    try:
        # A disk that fills up takes a part and says nothing.
        if os.write(fd, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    except OSError:
        os.unlink(temporary, dir_fd=dir_fd)
        raise
    finally:
        os.close(fd)
    os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)


def start_record(found: dict[str, Any], alive_us: int) -> bytes:
    """`start.json`, with room for what is written into it later."""
    head = b'{"alive_us": %20d, "ended_us": %20d, ' % (alive_us, 0)
    return head + json.dumps(found).encode()[1:]


def write_instant(at: int, us: int) -> None:
    """Write into `start.json` of the current directory, at `ALIVE_AT` or `ENDED_AT`. Where that cannot be, a
    bill is bounded less well, and no more.
    """
    try:
        fd = os.open(START, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.pwrite(fd, b"%20d" % us, at)
    except OSError:
        pass
    finally:
        os.close(fd)


def write_record(name: str, data: bytes) -> None:
    """Write `start.json` or `exit.json` of the current directory for the first time.

    One small write is whole or not there for whoever reads, and one byte is no record to anybody. So in a
    directory that is used again the file is filled in place: making a file costs more than all else here.
    """
    if len(data) <= _ONE_PAGE_BYTES:
        try:
            fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            pass
        else:
            try:
                if os.fstat(fd).st_size <= UNWRITTEN_BYTES:
                    os.pwrite(fd, data, 0)
                    return
            finally:
                os.close(fd)
    write_atomically(name, data)


def keep_record(name: str, data: bytes, refused: Any = None) -> None:
    """`write_record`, and on a disk that will not take it again and again: no end is lost for that.
    `refused`: called, with nothing, at each try in vain.
    """
    pause_s = _DISK_S_MIN
    while True:
        try:
            write_record(name, data)
        except OSError as problem:
            if problem.errno not in DISK_REFUSES:
                raise
            if refused is not None:
                refused()
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _DISK_S_MAX)
        else:
            return


def write_stop(cause: str, signal: int | None, grace_us: int, asked_at: int, dir_fd: int) -> None:
    """Leave the request to stop for a member's supervisor, whatever the disk has left.

    On a full disk it is a link that leads nowhere, whose target says the same: that takes no room. Raises
    `OSError` where not even that can be made.
    """
    stop = {"cause": cause, "signal": signal, "grace_us": grace_us, "asked_at": asked_at}
    try:
        write_atomically(STOP, json.dumps(stop).encode(), dir_fd)
    except OSError as problem:
        if problem.errno not in DISK_REFUSES:
            raise
        temporary = f".{STOP}.{os.getpid()}.link"
        os.symlink(f"{cause} {signal or 0} {grace_us} {asked_at}", temporary, dir_fd=dir_fd)
        os.rename(temporary, STOP, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)


def linked_stop(dir_fd: int | None = None) -> dict[str, Any] | None:
    """The request to stop that `write_stop` left on a full disk; None when there is none."""
    try:
        cause, number, grace_us, asked_at = os.readlink(STOP, dir_fd=dir_fd).split()
        stop = {"cause": cause, "grace_us": int(grace_us), "asked_at": int(asked_at)}
        return stop | {"signal": int(number) or None}
    except (OSError, ValueError):
        return None


def write_limit(time_limit_us: int, dir_fd: int) -> None:
    """Leave a new time limit for a member's supervisor: a link, which is whole or not there, on any disk."""
    temporary = f".{LIMIT}.{os.getpid()}"
    try:  # noqa: SIM105  contextlib is not loaded here
        os.unlink(temporary, dir_fd=dir_fd)
    except FileNotFoundError:
        pass
    os.symlink(str(time_limit_us), temporary, dir_fd=dir_fd)
    os.rename(temporary, LIMIT, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)


def written_limit(dir_fd: int | None = None) -> int | None:
    """The time limit that `write_limit` left; None when a member keeps the one that it began with."""
    try:
        limit_us = int(os.readlink(LIMIT, dir_fd=dir_fd))
    except (OSError, ValueError):
        return None
    return limit_us if limit_us > 0 else None


def log_segment_name(offset: int) -> str:
    """File of the log segment that starts at the logical byte `offset`; the head is `log`."""
    return f"{LOG}.{offset:020d}" if offset else LOG


def boot_id() -> str:
    """The kernel's id of this boot: pids and boot times of another boot mean nothing."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def start_ticks(pid: int) -> int | None:
    """Start time of `pid` in clock ticks since boot: with the pid it names one process for good."""
    fields = stat_fields(pid)
    return int(fields[19]) if fields else None


def stat_fields(pid: int | str) -> list[str] | None:
    """`/proc/PID/stat` from the state on (state, ppid, pgrp, session, …); None: it is gone."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(fd, 4096).decode("utf-8", "replace")
    except OSError:
        return None
    finally:
        os.close(fd)
    # The name may hold spaces and brackets; the last ")" ends it.
    return text[text.rindex(")") + 2 :].split()
