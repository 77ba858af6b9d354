"""What was refused, counted; and a log that a stranger cannot fill.

Why     refusals are worth knowing, one line each is a way to write somebody else's disk full.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

from bursar.clock import SECOND_US, Clock
from bursar.errors import BursarError

log = logging.getLogger(__name__)

WINDOW_US: Final = 10 * SECOND_US
"""At most one line of refusals in so long."""
FAULTS_PER_WINDOW: Final = 5
"""Defects of ours that are told with their traceback in one window; the others are counted."""
COUNTED: Final = ("UNAUTHENTICATED", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT")


class Refusals:
    """Counts since the start, by status, and the rate-limited log."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told_at = -WINDOW_US
        self._untold: Counter[str] = Counter()
        self._faults_since = -WINDOW_US
        self._faults = 0
        self.counts: Counter[str] = Counter()

    def note(self, method: str, user: str, error: BursarError) -> None:
        """A call was refused. Calls refused for what they asked of a thing that exists are no news."""
        if error.status not in COUNTED:
            return
        self.counts[error.status] += 1
        self._untold[error.status] += 1
        now = self._clock.boot_us()
        if now - self._told_at >= WINDOW_US:
            log.info(
                "calls were refused",
                extra={"counts": dict(self._untold), "last_method": method, "last_user": user or "unknown"},
            )
            self._told_at = now
            self._untold.clear()

    def fault(self, fault: str, method: str, error: Exception) -> None:
        """A defect of ours: told with its traceback, unless there were many just now."""
        now = self._clock.boot_us()
        if now - self._faults_since >= WINDOW_US:
            self._faults_since, self._faults = now, 0
        self._faults += 1
        self.counts["INTERNAL"] += 1
        if self._faults <= FAULTS_PER_WINDOW:
            log.error("a call failed", extra={"fault": fault, "method": method}, exc_info=error)
