"""Numbers as people read and write them: with their noun in every sentence that counts something.

Why     `1 CPUs` and `1 attempts` read like a defect; nobody should have to think of it in each sentence.
"""

from __future__ import annotations

import re
from decimal import Decimal

_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,3})?")


def decimal_of(text: str) -> Decimal | None:
    """A number as people write it, exactly; None of anything else.

    `Decimal` alone takes more than anybody means: `1_0` is 10, and digits of every script are digits.
    """
    return Decimal(text) if _NUMBER.fullmatch(text) else None


def on_one_line(text: str, chars_max: int) -> str:
    """Somebody else's words as they are kept: cut, with a blank for what no file or terminal would take."""
    return "".join(char if char.isprintable() else " " for char in text[:chars_max]).strip()


def plural(number: float, noun: str) -> str:
    """`1 job`, `2 jobs`, `0.5 CPUs`. A noun of several words ends in what is counted: `live job`."""
    shown = f"{number:g}" if isinstance(number, float) else str(number)
    return f"{shown} {noun}" if number == 1 else f"{shown} {noun}s"
