"""A stream of bytes, whole and in order, over a way that may lose what it carries. Pure.

Owns    numbers of bytes, what was sent and not yet received, how much may be on its way.
Why     agents and daemon are restarted while jobs run, and may drop what they cannot hold: so both ends keep
        what the other has not got, and whoever carries it keeps nothing.
"""

from __future__ import annotations

import struct
from typing import Final

WINDOW_BYTES: Final = 1 << 17
"""Bytes that the other side has not taken yet."""
PACKET_BYTES: Final = 1 << 15
IN_FLIGHT_MAX: Final = 4
"""Packets that have not arrived: small pieces gather while these are on their way."""
RESEND_US, RESEND_US_MAX = 1_000_000, 8_000_000
KEEPALIVE_US: Final = 10_000_000

_HEAD: Final = struct.Struct("!BQQQ")
_PLAIN, _RESEND = 0, 1


class Broken(Exception):
    """The other side lacks what we no longer have: it is another one than before."""


class Flow:
    """One end of a stream in both directions. Times are microseconds of any steady clock."""

    def __init__(self, now_us: int) -> None:
        self._unreceived = bytearray()
        self._base = 0  # number of the first byte in it
        self._sent = 0
        self._flying: list[int] = []
        self._limit = WINDOW_BYTES
        self.inbox = bytearray()
        self._received = 0
        self._tell = True
        self._ask = False
        self._resend_us = RESEND_US
        self._progress_at = self._said_at = now_us

    @property
    def room(self) -> int:
        """Bytes that `put` may take now."""
        return WINDOW_BYTES - len(self._unreceived)

    @property
    def drained(self) -> bool:
        """Has the other side received all?"""
        return not self._unreceived

    @property
    def heard(self) -> bool:
        """Has it ever received anything of ours?"""
        return self._base > 0

    def put(self, data: bytes) -> None:
        """Send these, in time."""
        self._unreceived += data

    def taken(self, count: int) -> None:
        """So many bytes of `inbox` were used: the other side may send as many more."""
        del self.inbox[:count]
        self._tell = True

    def again(self, now_us: int) -> None:
        """The way is a new one: whatever was on the old one may be lost."""
        self._go_back(now_us)
        self._tell = self._ask = True

    def take(self, packet: bytes, now_us: int) -> None:
        """One packet of the other side. Raises `Broken`."""
        if len(packet) < _HEAD.size:
            raise Broken("a packet that is none")
        kind, at, received, consumed = _HEAD.unpack_from(packet)
        data = packet[_HEAD.size :]
        if not self._base <= received <= self._base + len(self._unreceived) and received > self._base:
            raise Broken("it received what was never sent")
        if received < self._base and kind == _RESEND:
            raise Broken("it lacks what it had received before")
        if received > self._base:
            del self._unreceived[: received - self._base]
            self._base = received
            self._sent = max(self._sent, received)
            self._flying = [end for end in self._flying if end > received]
            self._resend_us, self._progress_at = RESEND_US, now_us
        self._limit = max(self._limit, consumed + WINDOW_BYTES)
        if kind == _RESEND and self._base < self._sent:
            self._go_back(now_us)
        self._receive(at, data)

    def _receive(self, at: int, data: bytes) -> None:
        if at > self._received:
            self._tell = self._ask = True
            return
        fresh = data[self._received - at :]
        if fresh and len(self.inbox) + len(fresh) <= 2 * WINDOW_BYTES:
            self.inbox += fresh
            self._received += len(fresh)
        self._tell = self._tell or bool(data)

    def packets(self, now_us: int) -> list[bytes]:
        """What has to go now."""
        if self._flying and now_us - self._progress_at >= self._resend_us:
            self._resend_us = min(2 * self._resend_us, RESEND_US_MAX)
            self._go_back(now_us)
        found = []
        end = self._base + len(self._unreceived)
        while self._sent < min(end, self._limit) and len(self._flying) < IN_FLIGHT_MAX:
            at = self._sent - self._base
            size = min(PACKET_BYTES, self._limit - self._sent)
            data = bytes(self._unreceived[at : at + size])
            found.append(self._pack(self._sent, data))
            if not self._flying:
                self._progress_at = now_us
            self._sent += len(data)
            self._flying.append(self._sent)
        if not found and (self._tell or now_us - self._said_at >= KEEPALIVE_US):
            found.append(self._pack(self._sent, b""))
        if found:
            self._tell = self._ask = False
            self._said_at = now_us
        return found

    def due_us(self) -> int:
        """When `packets` is to be asked again at the latest."""
        due = self._said_at + KEEPALIVE_US
        return min(due, self._progress_at + self._resend_us) if self._flying else due

    def _pack(self, at: int, data: bytes) -> bytes:
        consumed = self._received - len(self.inbox)
        return _HEAD.pack(_RESEND if self._ask else _PLAIN, at, self._received, consumed) + data

    def _go_back(self, now_us: int) -> None:
        self._sent = self._base
        self._flying.clear()
        self._progress_at = now_us
