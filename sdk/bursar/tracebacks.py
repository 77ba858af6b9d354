"""A log of a server: nobody can fill it with tracebacks, whatever they send and however often."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

WINDOW_S: Final = 10.0
TRACEBACKS_MAX: Final = 5
"""Of one kind in one window; the others are counted, and the next that is told says how many."""
KINDS_MAX: Final = 256


class Tracebacks(logging.Filter):
    """A log that nobody can fill with our defects: of tracebacks of one kind, a few in ten seconds.

    A kind is where it was logged and what was raised. Lines without a traceback all pass.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now_s = now_s
        self._lock = threading.Lock()
        self._told: dict[tuple[str, int, str], list[float]] = {}
        """When the window began, how many were told in it, and how many since were not."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Shall it be told?"""
        if not record.exc_info or record.exc_info[0] is None:
            return True
        key, now_s = (record.name, record.lineno, record.exc_info[0].__qualname__), self._now_s()
        with self._lock:
            if len(self._told) >= KINDS_MAX and key not in self._told:
                self._told.clear()
            told = self._told.setdefault(key, [now_s, 0.0, 0.0])
            if now_s - told[0] >= WINDOW_S:
                told[:2] = now_s, 0.0
            if told[1] >= TRACEBACKS_MAX:
                told[2] += 1
                return False
            told[1] += 1
            if told[2]:
                record.untold = int(told[2])
                told[2] = 0.0
        return True


def bound_tracebacks() -> None:
    """Of all that the root logger's handlers write."""
    told = Tracebacks()
    for handler in logging.getLogger().handlers:
        handler.addFilter(told)
