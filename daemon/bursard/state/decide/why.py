"""Why somebody did something, in their own words: the one rule for what is kept of it. PURE.

Why     a reason is shown to others for as long as it holds, in lists of nodes and in terminals, and stays
        in the log for ever: so it is short, and one line of printable text.
"""

from __future__ import annotations

from typing import Final

from bursar.errors import InvalidRequest
from bursar.model.check import quote

REASON_MAX: Final = 500
REASON_EACH_BYTES: Final = 200
"""What is kept of a reason with each of several things that one call ends."""


def read_reason(text: str, length_max: int = REASON_MAX) -> str:
    """A reason as it is kept: one line, its white space single. Empty when there is none.

    Raises `InvalidRequest` for one that is too long or holds what cannot be printed.
    """
    reason = " ".join(text.split())
    if len(reason) > length_max:
        raise InvalidRequest(
            f"reason: {len(reason)} characters; at most {length_max} are kept", {"field": "reason"}
        )
    if not reason.isprintable():
        raise InvalidRequest(
            f"reason: {quote(reason)} holds a character that cannot be printed", {"field": "reason"}
        )
    return reason


def of_each(reason: str) -> str:
    """A reason as it is kept with each of several things: one call must not write it many times over."""
    written = reason.encode()
    if len(written) <= REASON_EACH_BYTES:
        return reason
    return written[:REASON_EACH_BYTES].decode(errors="ignore").rstrip() + "…"


def read_needed_reason(text: str, length_max: int, kept: str) -> str:
    """The same where there must be one; `kept` says what becomes of it."""
    reason = read_reason(text, length_max)
    if not reason:
        raise InvalidRequest(
            f"reason: say in 1 to {length_max} printable characters why; {kept}", {"field": "reason"}
        )
    return reason
