"""How much one caller may write into the log: so many changes a day, and so many bytes.

Owns    the two counts of each caller. They fill with what a caller's calls wrote, once that is written, and
        empty evenly over a day; whoever has filled one is refused until there is room again, a day at most.
Why     the log keeps all for good, and a loop around `bursar update` or `bursar hold` would add gigabytes a
        day without any job being more than before. Quotas of what waits (`state/shares`) do not bound that,
        since a change leaves nothing waiting. Nobody is exempt: an operator's loop fills the disk as well.
        Pure counting: the clock is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from bursar.clock import DAY_US, SECOND_US, format_duration
from bursar.errors import RateLimited
from bursard.access.rules import Writes
from bursard.events import Event, JobEnded, JobSubmitted, NodePriced, StopRequested, TasksEnded
from bursard.state import Limits

ROW_BYTES = 128
"""What an event takes beside its own bytes: its hash, its actor, its place in the indexes."""
_BY_BYTES = (JobSubmitted, JobEnded, TasksEnded, StopRequested, NodePriced)
"""What waits is bounded by user, a job ends once, and a price is of every node: of these the bytes count."""


class _Count:
    """What one caller has written of late. In units times a day, so that it empties in whole numbers."""

    __slots__ = ("filled", "seen_us")

    def __init__(self) -> None:
        self.filled = self.seen_us = 0

    def as_of(self, now_us: int, a_day: int) -> int:
        """Emptied by what the time since has given back."""
        self.filled = max(0, self.filled - (now_us - self.seen_us) * a_day)
        self.seen_us = now_us
        return self.filled


class Allowances:
    """By caller. `now_us`: the daemon's boot clock."""

    def __init__(self, now_us: Callable[[], int], limits: Limits) -> None:
        self._now_us = now_us
        self._limits = limits
        self._changes: dict[str, _Count] = {}
        self._bytes: dict[str, _Count] = {}

    def charge(self, actor: str, events: Sequence[Event], size: int) -> None:
        """One call of this caller has written so much. What the daemon and its nodes write is none of it."""
        if actor == "bursard" or actor.startswith("node:"):
            return
        changes = sum(not isinstance(event, _BY_BYTES) for event in events)
        if changes:
            self._add(self._changes, actor, changes, self._limits.user_changes_a_day)
        self._add(self._bytes, actor, size + len(events) * ROW_BYTES, self._limits.user_log_bytes_a_day)

    def check(self, user: str, writes: Writes) -> None:
        """May this caller write once more? Raises `RateLimited` with the numbers and what to do."""
        if writes is Writes.CHANGES:
            self._refuse_full(
                self._changes,
                user,
                self._limits.user_changes_a_day,
                "changes (of jobs, nodes, policies, rights)",
                "user_changes_max",
            )
        if writes in (Writes.CHANGES, Writes.JOBS):
            self._refuse_full(
                self._bytes, user, self._limits.user_log_bytes_a_day, "bytes of the log", "user_log_max"
            )

    def spares(self, user: str) -> bool:
        """Are there bytes left for a text that nothing depends on? Nobody is refused for that."""
        count, a_day = self._bytes.get(user), self._limits.user_log_bytes_a_day
        return count is None or count.as_of(self._now_us(), a_day) + DAY_US <= a_day * DAY_US

    def _add(self, counts: dict[str, _Count], user: str, units: int, a_day: int) -> None:
        count = counts.setdefault(user, _Count())
        count.as_of(self._now_us(), a_day)
        # What may always be written adds to this as well: nobody is kept out longer than a day for that.
        count.filled = min(count.filled + units * DAY_US, (2 * a_day - 1) * DAY_US)

    def _refuse_full(self, counts: dict[str, _Count], user: str, a_day: int, what: str, setting: str) -> None:
        count = counts.get(user)
        if count is None:
            return
        over = count.as_of(self._now_us(), a_day) + DAY_US - a_day * DAY_US
        if over <= 0:
            return
        wait_s = math.ceil(over / (a_day * SECOND_US))
        raise RateLimited(
            f"{user} has written the {a_day} {what} of one caller in a day; there is room again in"
            f" {format_duration(wait_s * SECOND_US)}. Look for a loop that changes the same things over and"
            f" over, or have `{setting}` of the daemon raised; `bursar cancel` works all the same",
            {"user": user, "limit": str(a_day), "setting": setting, "wait_s": str(wait_s)},
        )
