"""Numbers with their noun, for every sentence that counts something.

Why     `1 CPUs` and `1 attempts` read like a defect; nobody should have to think of it in each sentence.
"""

from __future__ import annotations


def plural(number: float, noun: str) -> str:
    """`1 job`, `2 jobs`, `0.5 CPUs`. A noun of several words ends in what is counted: `live job`."""
    shown = f"{number:g}" if isinstance(number, float) else str(number)
    return f"{shown} {noun}" if number == 1 else f"{shown} {noun}s"
