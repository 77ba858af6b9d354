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
        by_row: the measure lies in which node it is alone, not in its state. Otherwise it is the same for
            nodes that are alike (totals, type of devices, price) and have the same free.
    """

    @property
    def name(self) -> str:
        """Stable word, shown by `explain`."""
        ...

    @property
    def relative(self) -> bool:
        """Is the rise counted, or the state reached?"""
        ...

    @property
    def by_row(self) -> bool:
        """Is it the node alone that counts?"""
        ...

    def of_node(self, state: NodeState) -> int:
        """The measure of one node."""
        ...

    def of_nodes(self, states: NodeStates) -> Ints:
        """The measure of m nodes, (m), equal to `of_node` of each."""
        ...

    def least_of_node(self, state: NodeState) -> int:
        """No node that takes a member in this state measures less after it, whatever the member is; nor does
        it when others, or what is kept for them, take of it as well.

        The closer it is, the fewer nodes are looked at; a bound that is too high chooses wrong nodes.
        """
        ...

    def least_of_nodes(self, states: NodeStates) -> Ints:
        """The same for m nodes, (m), equal to `least_of_node` of each."""
        ...
