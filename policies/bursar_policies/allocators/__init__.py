"""Allocators: who of many movable jobs runs, on which GPUs and how large, until the next round.

Why     `plan` decides about one job after another; what is best for jobs that run at different speeds on
        different GPUs, or at different sizes, can only be said of all of them together.
"""

from bursar_policies.allocators.api import (
    ONE,
    Allocator,
    Allotment,
    Answer,
    Contender,
    Problem,
    Room,
    Size,
    Supply,
    Weight,
    allotted,
    answered,
    words_of,
)
from bursar_policies.allocators.registry import GROUP, SHIPPED, at_hand, drop, find, names

__all__ = [
    "GROUP",
    "ONE",
    "SHIPPED",
    "Allocator",
    "Allotment",
    "Answer",
    "Contender",
    "Problem",
    "Room",
    "Size",
    "Supply",
    "Weight",
    "allotted",
    "answered",
    "at_hand",
    "drop",
    "find",
    "names",
    "words_of",
]
