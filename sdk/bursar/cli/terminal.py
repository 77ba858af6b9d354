"""What a terminal may be shown: colour only where it is wanted, control bytes never.

Owns    the decision whether a stream is a terminal, the escape of hostile text, and human forms of
        money, sizes and times.
Why     job names and log lines come from others; an escape sequence in one must not act on a screen.
"""

from __future__ import annotations

import codecs
import os
import re
import shutil
import sys
from decimal import ROUND_FLOOR, Decimal
from typing import IO, Any, Final

from bursar.clock import SECOND_US, format_duration, parse_instant
from bursar.resources import format_size

STYLES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
STATE_STYLES: Final = {
    "PENDING": "yellow",
    "STARTING": "cyan",
    "RUNNING": "cyan",
    "STOPPING": "yellow",
    "SUCCEEDED": "green",
    "FAILED": "red",
    "CANCELLED": "dim",
    "up": "green",
    "silent": "red",
    "unwell": "red",
    "cordoned": "yellow",
    "draining": "yellow",
    "drained": "yellow",
    "quarantined": "red",
}

# C0 and C1 controls, bidirectional overrides and separators that a terminal or a table obeys.
_HOSTILE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_HOSTILE_IN_LOG = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def is_terminal(stream: IO[Any]) -> bool:
    """Is a person looking at this stream?"""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def colour_wanted(stream: IO[Any]) -> bool:
    """A terminal that understands colour, and nobody said no."""
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return is_terminal(stream) and not plain


def paint(text: str, style: str | None, stream: IO[Any] | None = None) -> str:
    """`text` in a style of `STYLES`, or as it is where colour is not wanted."""
    if not style or not colour_wanted(stream or sys.stdout):
        return text
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m"


def width() -> int:
    """Columns of the terminal, 80 when it does not say."""
    return shutil.get_terminal_size((80, 24)).columns


def terminal_columns() -> int | None:
    """Cells that a table may take; None into a pipe."""
    return width() if is_terminal(sys.stdout) else None


def clean(text: str) -> str:
    r"""One line of printable text: controls and direction marks become `\\x1b` and the like."""
    return _HOSTILE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode("ascii")


class LogPrinter:
    r"""Writes a job's output: byte for byte into a pipe, with controls escaped on a terminal.

    Characters split between two chunks are put together again; bytes that are no UTF-8 are shown as
    `\\xff`. Line feeds, tabs and carriage returns pass: progress bars need them.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._terminal = is_terminal(stream)
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def write(self, data: bytes) -> None:
        """Show the next bytes at once."""
        binary = getattr(self._stream, "buffer", None)
        if self._terminal or binary is None:
            text = self._decoder.decode(data)
            self._stream.write(_HOSTILE_IN_LOG.sub(_escape, text) if self._terminal else text)
        else:
            self._stream.flush()
            binary.write(data)
        self._stream.flush()


# ------------------------------------------------------------------ human forms


def money_places(view: dict[str, str]) -> int:
    """Decimals that an amount is shown with: more for small ones, so that no cost is shown as 0."""
    size = abs(Decimal(view["amount"]))
    if size and size < Decimal("0.000001"):
        return 9
    return 2 if size >= 1 or size == 0 else 4 if size >= Decimal("0.01") else 6


def money_text(view: dict[str, str] | None, *, unknown: str = "unknown", places: int | None = None) -> str:
    """`1,234.50 USD`, with the decimals that the amount needs or with those that are asked for."""
    if view is None:
        return unknown
    shown = money_places(view) if places is None else places
    return f"{Decimal(view['amount']):,.{shown}f} {view['currency']}"


def left_text(view: dict[str, str], *, places: int | None = None) -> str:
    """The same of what is left of something: rounded down, so that what is shown is there."""
    shown = money_places(view) if places is None else places
    left = Decimal(view["amount"]).quantize(Decimal(1).scaleb(-shown), ROUND_FLOOR)
    return f"{left:,.{shown}f} {view['currency']}"


def rate_text(view: dict[str, str] | None) -> str:
    """`12.50 USD/h`, or `unknown`."""
    return "unknown" if view is None else money_text(view) + "/h"


def size_text(size_bytes: int) -> str:
    """`16GB`, or `-` for none."""
    return format_size(size_bytes) if size_bytes else "-"


def time_text(at: str | None) -> str:
    """`2026-11-21 08:00:00Z`, to the second."""
    return "-" if at is None else at.partition(".")[0].rstrip("Z").replace("T", " ") + "Z"


def seconds_text(seconds: float | None) -> str:
    """`2h15m`, or `-`."""
    if seconds is not None and seconds < 0:
        return f"-{seconds_text(-seconds)}"
    if seconds is None:
        return "-"
    return format_duration(int(seconds * SECOND_US)) if seconds else "0s"


def age_s(since: str | None, now: int, until: str | None = None) -> float | None:
    """Seconds since `since` (until `until`, else `now`), to the millisecond; None when it has not begun."""
    if since is None:
        return None
    end = parse_instant(until) if until else now
    return round(max(0, end - parse_instant(since)) / SECOND_US, 3)


def age_text(since: str | None, now: int, until: str | None = None) -> str:
    """The same for people; `-` when it has not begun."""
    return seconds_text(age_s(since, now, until))
