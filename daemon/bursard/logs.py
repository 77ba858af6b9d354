"""How bursard logs: one JSON object a line, event first; text for people at a terminal."""

from __future__ import annotations

import json
import logging
import sys

from bursar.clock import format_instant
from bursar.lastword import Unblocked
from bursar.tracebacks import bound_tracebacks

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


RESERVED = frozenset(("at", "level", "event", "logger"))
"""What each line says of itself: no extra takes its place."""


class JsonFormatter(logging.Formatter):
    """`{"at", "level", "event", …extra}`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line. An extra with a name of the line's own has `_` behind it."""
        line: dict[str, object] = {
            "at": format_instant(int(record.created * 1_000_000)),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
        }
        taken = RESERVED | {"error"} if record.exc_info else RESERVED
        for key, value in vars(record).items():
            if key not in _STANDARD:
                line[f"{key}_" if key in taken else key] = value
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(level: str, form: str) -> None:
    """Log to stderr, where systemd and `bursar up` keep it."""
    handler = logging.StreamHandler(Unblocked(sys.stderr))
    if form == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    bound_tracebacks()
