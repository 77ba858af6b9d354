"""Signs of life: the children's, heard as systemd hears them, and the keeper's own, for `up` and `status`.

Owns    the notification socket (`notify.sock` in the socket directory) and the beat, which is the
        modification time of `keeper.lock`.
Why     daemon and agents already feed systemd's watchdog; where `bursar up` stands in for systemd it
        listens in the same words. A new keeper binds the same name, so adopted children reach it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bursar.clock import SystemClock
from bursar.local import processes
from bursar.local.processes import Process

NOTIFY_SOCKET: Final = "notify.sock"
BEAT_S: Final = 2.0
"""How often the keeper looks around, and says that it lives."""
BEAT_LATE_S: Final = 8.0
_POLL_S: Final = 0.1
_CREDENTIALS = struct.Struct("iII")
_MESSAGE_BYTES_MAX: Final = 4096


class Door:
    """The keeper's end of the notification socket. Raises `OSError` when it cannot be made."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / NOTIFY_SOCKET
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        # Bound aside and renamed: the name always leads to the newest keeper.
        draft = self.path.with_name(f".notify.{os.getpid()}")
        draft.unlink(missing_ok=True)
        self._socket.bind(str(draft))
        draft.chmod(0o600)
        draft.replace(self.path)

    def fileno(self) -> int:
        """For poll."""
        return self._socket.fileno()

    def messages(self) -> Iterator[tuple[int, bytes]]:
        """(pid of the sender as the kernel knows it, what it said), all that waits."""
        size = socket.CMSG_SPACE(_CREDENTIALS.size)
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(_MESSAGE_BYTES_MAX, size)
            except BlockingIOError:
                return
            except OSError:
                return
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                    yield _CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0], data

    def close(self) -> None:
        """Nobody listens any more."""
        self._socket.close()


def beat(lock_fd: int) -> None:
    """The keeper lives."""
    with contextlib.suppress(OSError):  # a full disk must not end the keeping
        os.utime(lock_fd)


def responds(keeper: Process, lock: Path) -> bool:
    """Does the keeper live, not only run? Takes up to `BEAT_LATE_S` where that is not plain to see."""
    if processes.stopped(keeper):
        return False
    first = _beat_us(lock)
    # A jump of the wall clock only makes us look twice.
    if abs(SystemClock().now() - first) < BEAT_LATE_S * 1_000_000:
        return True
    stop_at = time.monotonic() + BEAT_LATE_S
    while time.monotonic() < stop_at:
        if _beat_us(lock) != first:
            return True
        time.sleep(_POLL_S)
    return False


def _beat_us(lock: Path) -> int:
    try:
        return lock.stat().st_mtime_ns // 1000
    except OSError:
        return 0
