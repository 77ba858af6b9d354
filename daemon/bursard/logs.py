"""How bursard logs: one JSON object a line, event first; text for people at a terminal."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from bursar.clock import format_instant

WINDOW_S: Final = 10.0
TRACEBACKS_MAX: Final = 5
"""Of one kind in one window; the others are counted, and the next that is told says how many."""
KINDS_MAX: Final = 256

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """`{"at", "level", "event", …extra}`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, object] = {
            "at": format_instant(int(record.created * 1_000_000)),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


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


def configure(level: str, form: str) -> None:
    """Log to stderr, where systemd and `bursar up` keep it."""
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(Tracebacks())
    logging.basicConfig(level=level, handlers=[handler], force=True)
