"""What a user may be called: one rule for tokens, grants, identity providers and corrections.

Why     the name is in every audit row and on every bill. It is ASCII, so that no two look alike, and never
        one under which the daemon and its nodes write themselves.
"""

from __future__ import annotations

import re
from typing import Final

USER_CHARS_MAX: Final = 63
RESERVED: Final = frozenset({"bursard"})
"""Who acts in the audit where no user does; nodes act as `node:NAME`, which the form refuses."""
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]{0,62}", re.ASCII)


def problem_of(name: str) -> str:
    """What is wrong with a user's name, to follow the name in a sentence; empty when nothing is."""
    if _USER.fullmatch(name) is None:
        return f"is no user name; use 1 to {USER_CHARS_MAX} letters, digits, . _ @ + -"
    if name.lower() in RESERVED:
        return "is no user name: the daemon writes under it in the audit; use another"
    return ""
