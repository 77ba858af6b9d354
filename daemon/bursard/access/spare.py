"""How much of the loop's time each caller's refusals may take for what they say beside no.

Owns    of each caller a count of time, which what was worked out for it fills, and which empties evenly.
Why     the first deadline that could be promised, and what is in its way, are worth a look at all that is to
        come: of one job a few milliseconds up to a second. Who asks and is refused writes nothing and keeps
        no room, so nothing else bounds how often. Beyond this a refusal says so, and is as good a refusal.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

Answer = TypeVar("Answer")

BURST_NS: Final = 500_000_000
"""What one may use at once: of ordinary refusals some fifty."""
PART: Final = 50
"""And of all time one part in so many."""
CALLERS_MAX: Final = 10_000


class Spares:
    """By caller.

    Args:
        now_us: the daemon's boot clock. meter: nanoseconds of work.
    """

    def __init__(self, now_us: Callable[[], int], meter: Callable[[], int] = time.thread_time_ns) -> None:
        self._now_us = now_us
        self._meter = meter
        self._used: dict[str, tuple[int, int]] = {}
        """Nanoseconds that were used and not given back yet, as of when."""

    def of(self, user: str) -> SpareOf:
        """This caller's."""
        return SpareOf(self, user)

    def used_ns(self, user: str) -> int:
        """What has not been given back by now."""
        used, since_us = self._used.get(user, (0, 0))
        return max(0, used - (self._now_us() - since_us) * 1_000 // PART)

    def wait_s(self, user: str) -> int:
        """Seconds until some of it is left; 0: some is."""
        over = self.used_ns(user) - BURST_NS
        return 0 if over < 0 else over * PART // 1_000_000_000 + 1

    def take(self, user: str, work: Callable[[], Answer]) -> Answer:
        """Do it, and count what it takes."""
        began = self._meter()
        try:
            return work()
        finally:
            used = self.used_ns(user) + self._meter() - began
            if len(self._used) >= CALLERS_MAX:
                self._used = {name: one for name, one in self._used.items() if self.used_ns(name)}
            self._used[user] = used, self._now_us()


class SpareOf:
    """One caller's (`bursard.promising.Spare`)."""

    __slots__ = ("_spares", "_user")

    def __init__(self, spares: Spares, user: str) -> None:
        self._spares = spares
        self._user = user

    def wait_s(self) -> int:
        """Seconds until there is some; 0: there is now."""
        return self._spares.wait_s(self._user)

    def take(self, work: Callable[[], Answer]) -> Answer:
        """Do it, on account of that."""
        return self._spares.take(self._user, work)
