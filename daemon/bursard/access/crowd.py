"""Looks at this process's own connections several times a second, and shuts those that are too many.

Why     gRPC accepts by itself and says nothing of it. The kernel does: whose account and which program is
        behind a connection of the unix socket, which address behind one of TCP. What is shut here ends in
        gRPC like any connection whose caller has left.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket
import stat
import struct
import threading
import time
from collections import Counter
from collections.abc import Hashable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from bursar.clock import SECOND_US, Clock
from bursard.access.connections import Held, Kind, Room, surplus

log = logging.getLogger(__name__)

LOOK_S: Final = 0.1
BUSY_SHARE: Final = 4
LOOK_S_MAX: Final = 0.5
"""A look that took long is followed by a pause of so many times as long, but no longer than this."""
NEW_MAX: Final = 1_000
"""So many new ones are examined before those that are too many are shut."""
TOLD_US: Final = 10 * SECOND_US
PROVEN_MAX: Final = 100_000
_OWN_FDS: Final = Path("/proc/self/fd")
_PEER: Final = struct.Struct("3i")


def raise_limit() -> int:
    """As many descriptors as this process may have. Returns how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft > 0 else 1 << 20


class Proven:
    """Which connections over TCP have carried a call with a proof, and whose it was. For any thread."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def note(self, peer: str, name: str) -> None:
        """A call came over this connection, as gRPC names it: `ipv4:10.0.0.1:4711`."""
        if peer.startswith("ipv") and len(self._names) < PROVEN_MAX:
            self._names[peer] = name

    def of(self, peer: str) -> str:
        """Who has proven to be at the other end; empty: nobody has."""
        return self._names.get(peer, "")

    def known(self) -> set[str]:
        """All of them."""
        return set(self._names)

    def forget(self, peers: set[str]) -> None:
        """These are gone."""
        for peer in peers:
            self._names.pop(peer, None)


class Crowd:
    """The connections of one daemon.

    Args:
        path: of the unix socket. port: of TCP; 0: none.
    """

    def __init__(
        self, path: str, port: int, rooms: Mapping[Kind, Room], proven: Proven, clock: Clock
    ) -> None:
        self._path, self._port = path, port
        self._rooms = dict(rooms)
        self._proven = proven
        self._clock = clock
        self._known: dict[int, tuple[int, Held | None, str]] = {}
        """By descriptor: the socket in it, what it is to us, and how gRPC names its peer."""
        self._arrived = 0
        self._told_at = self._failed_at = -TOLD_US
        self._untold: Counter[str] = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="crowd", daemon=True)
        self._more = False
        self.closed = 0

    def start(self) -> None:
        """Look from now on, in a thread of its own: a loop that is busy closes nothing."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def _run(self) -> None:
        pause_s = LOOK_S
        while not self._stop.wait(pause_s):
            began_s = time.monotonic()
            try:
                busy = self.look() > 0 or self._more
            except OSError as error:
                busy = False
                self._tell_failure(error)
            except Exception:
                busy = False
                log.exception("the connections could not be looked at")
            took_s = time.monotonic() - began_s
            pause_s = 0.0 if busy else min(max(LOOK_S, took_s * BUSY_SHARE), LOOK_S_MAX)

    def _tell_failure(self, error: OSError) -> None:
        """In one line, now and then: whoever takes all descriptors of this machine could write it at will."""
        now = self._clock.boot_us()
        if self._stop.is_set() or now - self._failed_at < TOLD_US:
            return
        self._failed_at = now
        log.warning("the connections could not be looked at", extra={"reason": error.strerror or str(error)})

    def look(self) -> int:
        """Shut what is too much now. Returns how many were."""
        before = self._proven.known()
        held = self._held()
        self._proven.forget(before - {peer for _, _, peer in self._known.values()})
        gone = surplus(held, self._rooms)
        fds = {inode: fd for fd, (inode, held, _) in self._known.items() if held is not None} if gone else {}
        for one in gone:
            self._shut(fds[one.key], one.key)
        self._tell(gone)
        return len(gone)

    def _held(self) -> list[Held]:
        """Everybody's connections. What was seen before is not examined again."""
        known, held, new = {}, [], 0
        for name in os.listdir(_OWN_FDS):
            fd = int(name)
            try:
                found = os.fstat(fd)
            except OSError:  # closed meanwhile
                continue
            if not stat.S_ISSOCK(found.st_mode):
                continue
            entry = self._known.get(fd)
            if entry is None or entry[0] != found.st_ino:
                new += 1
                if new > NEW_MAX:
                    continue
                entry = (found.st_ino, *self._examine(fd, found.st_ino))
            known[fd] = entry
            if entry[1] is not None:
                held.append(self._as_of_now(entry[1], entry[2]))
        self._known, self._more = known, new > NEW_MAX
        return held

    def _as_of_now(self, one: Held, peer: str) -> Held:
        name = self._proven.of(peer) if peer else ""
        return one._replace(kind=Kind.PROVEN, caller=name) if name else one

    def _examine(self, fd: int, inode: int) -> tuple[Held | None, str]:
        """What a socket is: nothing, where it is none of a caller of ours; how gRPC names its other end."""
        # Borrowed, not doubled: of thousands of new ones each call of the kernel counts. It is asked of what
        # kind it is by its name alone; the family given here is not looked at.
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd)
        try:
            name = one.getsockname()
            if self._is_ours(name) and not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return self._local(one, inode), ""
            if not self._port or not isinstance(name, tuple) or name[1] != self._port:
                return None, ""
            host, port = one.getpeername()[:2]
        except OSError:  # gone, or never connected
            return None, ""
        finally:
            one.detach()
        return self._made(inode, Kind.STRANGER, _block(host), 0), _named(host, port)

    def _is_ours(self, name: object) -> bool:
        """Is it of our unix socket? Its name may have slashes of gRPC's own, or bytes past its end."""
        if isinstance(name, bytes):
            name = os.fsdecode(name)
        return isinstance(name, str) and "/" + name.strip("/\0") == self._path

    def _local(self, one: socket.socket, inode: int) -> Held:
        pid, uid, _ = _PEER.unpack(one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        kind = Kind.OWN if uid in (0, os.getuid()) else Kind.ACCOUNT
        return self._made(inode, kind, uid, pid)

    def _made(self, inode: int, kind: Kind, caller: Hashable, program: int) -> Held:
        self._arrived += 1
        return Held(inode, kind, caller, program, self._arrived)

    def _shut(self, fd: int, inode: int) -> None:
        """End a connection whose descriptor is gRPC's: by a second one, so that it is surely this socket."""
        with contextlib.suppress(OSError), _twin(fd) as twin:
            if os.fstat(twin.fileno()).st_ino == inode:
                twin.shutdown(socket.SHUT_RDWR)
                self.closed += 1
        self._known[fd] = inode, None, ""  # gRPC lets go of it soon; it is none of anybody's by now

    def _tell(self, gone: list[Held]) -> None:
        self._untold.update(f"{one.kind.value}: {one.caller}" for one in gone)
        now = self._clock.boot_us()
        if self._untold and now - self._told_at >= TOLD_US:
            told = {"counts": dict(self._untold.most_common(5)), "closed": self._untold.total()}
            log.warning("connections were closed: their callers had too many", extra=told)
            self._told_at = now
            self._untold.clear()


def _twin(fd: int) -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=os.dup(fd))


def _block(host: str) -> str:
    """Whose an address is: of IPv6, everybody has a whole network of them."""
    address = ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None or address.version == 4:
        return str(mapped or address)
    return str(ip_address(int(address) >> 64 << 64)) + "/64"


def _named(host: str, port: int) -> str:
    """An address as gRPC names it."""
    address = ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None or address.version == 4:
        return f"ipv4:{mapped or address}:{port}"
    return f"ipv6:%5B{host}%5D:{port}"
