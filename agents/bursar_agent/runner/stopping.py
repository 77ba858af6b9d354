"""A member's supervisor, told to stop it or to look: by the files that it reads, and by a signal.

Why     it goes straight to the supervisor, and so needs neither a launcher nor memory of any.
"""

from __future__ import annotations

import os
import signal

from bursar_agent.runner import tree, truth
from bursar_agent.runner.layout import write_stop
from bursar_agent.runner.model import StopRequest
from bursar_agent.runner.told_once import ToldOnce


def supervisor_pid(dir_fd: int) -> int | None:
    """Of a member whose job was started."""
    start = truth.read_start(dir_fd)
    return None if start is None else int(start["supervisor_pid"])


def leave_stop(dir_fd: int, request: StopRequest, number: int | None, now: int) -> None:
    """Leave the request for the supervisor. An earlier one that ends sooner stays. Raises `OSError`."""
    earlier = truth.read_stop(dir_fd)
    cause = request.cause
    if earlier is not None:
        if earlier["asked_at"] + earlier["grace_us"] <= now + request.grace_us:
            return
        cause, number = earlier["cause"], earlier["signal"]
    write_stop(cause, number, request.grace_us, now, dir_fd)


def signal_supervisor(dir_fd: int) -> None:
    """Have it look at what was left for it."""
    pid = supervisor_pid(dir_fd)
    if pid is None:
        return  # not far enough: it looks for stop.json after writing start.json
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # While the lock is held, its holder lives, so the pid we opened before is still its.
        if truth.supervisor_lives(dir_fd):
            signal.pidfd_send_signal(pidfd, signal.SIGUSR1)
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)  # one that somebody stopped obeys too
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def ask_below(pid: int, number: int | None, now: int) -> None:
    """Ask the processes of a supervisor that cannot be told: by the checkpoint signal, if any heeds that."""
    pids = tree.descendants(pid)
    if number is None or not ToldOnce().tell(pids, number, now):
        tree.send(pids, signal.SIGTERM)
