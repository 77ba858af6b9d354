"""A supervisor's process: waits for an attempt, stays with it to its end, and takes another if it is clean.

Owns    the loop around `supervisor.Supervisor`, both ends of the channel, the note of what was taken.
Input   one message for each attempt: its number, its directory, its request, and its lock as a descriptor.
Why     a fork of Python for each attempt costs as much as the job itself. One attempt at a time: each has its
        own session, directory, log and lock, and a process that is not clean afterwards ends.

Killed at any instant, nothing is lost or doubled. `TakenNotes` are memory shared with the launcher: a number
is written there before anything of its attempt is done. The launcher keeps the attempt's lock and request
until the worker is idle again or dead; an attempt that was not taken goes to another worker, and one that was
is buried by whoever finds its lock free.
"""

from __future__ import annotations

import marshal
import mmap
import os
import resource
import socket
from typing import Any, NoReturn

from bursar_agent.runner import spawning
from bursar_agent.runner.folder import CheckpointFolder
from bursar_agent.runner.layout import SPARE, TAKEN, TAKEN_AT, start_ticks
from bursar_agent.runner.supervisor import Supervisor

CHANNEL_FD = 5
FIRST_FREE_FD = 6
WORKERS_MAX = 8192
IDLE = b"\0"
SEND_TIMEOUT_S = 5.0

GROWTH_KIB_MAX = 8 << 10
"""A worker that has grown by more ends after its attempt."""

_HEADER_BYTES = 8
_NOTE_BYTES = 8
_DESCRIPTOR_BYTES = 4


class TakenNotes:
    """One number for each worker, in memory that survives the death of either side."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, WORKERS_MAX * _NOTE_BYTES)

    def put(self, slot: int, number: int) -> None:
        """The worker in `slot` has taken attempt `number`: from now on it may have done anything."""
        at = slot * _NOTE_BYTES
        self._memory[at : at + _NOTE_BYTES] = number.to_bytes(_NOTE_BYTES, "little")

    def get(self, slot: int) -> int:
        """The last attempt taken in `slot`."""
        at = slot * _NOTE_BYTES
        return int.from_bytes(self._memory[at : at + _NOTE_BYTES], "little")


def send_attempt(
    channel: socket.socket, number: int, directory: str, request: dict[str, Any], lock_fd: int
) -> None:
    """Hand an attempt to an idle worker. Raises `OSError` when it is gone or does not read."""
    body = marshal.dumps((number, directory, request))
    data = len(body).to_bytes(_HEADER_BYTES, "little") + body
    descriptor = lock_fd.to_bytes(_DESCRIPTOR_BYTES, "little")
    # An idle worker has read all there was, so there is room for the beginning at least.
    sent = channel.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)])
    if sent < len(data):
        channel.settimeout(SEND_TIMEOUT_S)
        channel.sendall(data[sent:])
        channel.setblocking(False)


def _receive(channel: socket.socket) -> tuple[int, str, dict[str, Any], int] | None:
    """Wait for an attempt; None when the launcher wants no more of us or is gone."""
    room = socket.CMSG_LEN(_DESCRIPTOR_BYTES)
    data, extra, _, _ = channel.recvmsg(1 << 16, room, socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None
    lock_fd = int.from_bytes(extra[0][2][:_DESCRIPTOR_BYTES], "little")
    size = int.from_bytes(data[:_HEADER_BYTES], "little")
    parts, missing = [data[_HEADER_BYTES:]], size + _HEADER_BYTES - len(data)
    while missing > 0:
        more = channel.recv(min(missing, 1 << 20))
        if not more:
            return None
        parts.append(more)
        missing -= len(more)
    number, directory, request = marshal.loads(b"".join(parts))
    return number, directory, request, lock_fd


def main(host: spawning.Host, notify: socket.socket, notes: TakenNotes, slot: int) -> NoReturn:
    """Entry of the forked child; never returns into the launcher's code. It starts in the run directory."""
    code = 1
    try:
        _work(host, notify, notes, slot)
        code = 0
    except BaseException as problem:
        import traceback

        os.write(2, "".join(traceback.format_exception(problem)).encode())
    finally:
        os._exit(code)


def _work(host: spawning.Host, notify: socket.socket, notes: TakenNotes, slot: int) -> None:
    channel = socket.socket(fileno=CHANNEL_FD)
    run_fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    folders = CheckpointFolder(f"{os.getcwd()}/{SPARE}/{os.getpid()}")
    ticks = start_ticks(os.getpid())
    small_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while True:
        received = _receive(channel)
        if received is None:
            break
        number, directory, request, lock_fd = received
        notes.put(slot, number)
        os.pwrite(lock_fd, TAKEN, TAKEN_AT)
        os.chdir(directory)
        clean = Supervisor(request, host, notify, folders, ticks, lock_fd).run()
        os.close(lock_fd)
        os.fchdir(run_fd)
        if not clean or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - small_kib > GROWTH_KIB_MAX:
            break
        try:
            channel.send(IDLE)
        except OSError:
            break  # the launcher is gone, and with it whoever could give us more
    folders.close()
