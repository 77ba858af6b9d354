"""The protocol of a scorer: an integer for what a node looks like.

Why     integers add up the same in any order and on any machine, so the same input gives the same
        plan bytes; each scorer has a form for one node (a small cluster, or the one node that just
        changed) and a form for many at once, and a property test holds them equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class NodeState(NamedTuple):
    """What is free on one node. gpus: thousandths per device, -1 where there is none."""

    row: int
    cpu_milli: int
    memory_bytes: int
    gpus: Sequence[int]


class NodeStates(NamedTuple):
    """The same for m nodes: rows, cpu_milli, memory_bytes int64 (m); gpus int64 (m, slots)."""

    rows: NDArray[np.intp]
    cpu_milli: Ints
    memory_bytes: Ints
    gpus: Ints


class Scorer(Protocol):
    """One measure of a node's state, in millionths; lower is better. Pure.

    Attributes of an implementation:
        relative: the score of a placement is how much the measure rises (after - before);
            otherwise it is the measure after it.
    """

    @property
    def name(self) -> str:
        """Stable word, shown by `explain`."""
        ...

    @property
    def relative(self) -> bool:
        """Is the rise counted, or the state reached?"""
        ...

    def of_node(self, state: NodeState) -> int:
        """The measure of one node."""
        ...

    def of_nodes(self, states: NodeStates) -> Ints:
        """The measure of m nodes, (m), equal to `of_node` of each."""
        ...
