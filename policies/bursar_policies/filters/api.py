"""The protocol of a filter, and what a filter is asked.

Why     one signature for every rule that takes nodes away, so a new rule is one small module and
        `explain` can count and name what each of them turned away.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from bursar.resources import ResourceRequest
from bursar_policies.decision import NodeColumns

Mask = NDArray[np.bool_]


class Ask(msgspec.Struct, frozen=True):
    """What one member of a job wants of one node.

    Attributes:
        together: an attribute that all members must have in common, "" for none: no node is without it.
        priced: a hard budget, `max_cost` or `max_price` applies, so the price must be known.
        closed: reservations whose nodes are not for it. only: those whose nodes alone are, when any.
            No filter goes by them, since they come and go with time; whoever plans does.
    """

    request: ResourceRequest
    constraints: tuple[tuple[str, str], ...] = ()
    spot_policy: str = "auto"
    avoid_nodes: tuple[str, ...] = ()
    priced: bool = False
    together: str = ""
    closed: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


class Filter(Protocol):
    """One rule over facts. Pure."""

    @property
    def name(self) -> str:
        """Stable word, shown and counted by `explain`."""
        ...

    def mask(self, nodes: NodeColumns, ask: Ask) -> Mask | None:
        """True (n) where the node may serve the ask; None when the rule does not apply."""
        ...

    def why_not(self, nodes: NodeColumns, row: int, ask: Ask) -> str:
        """Why this node may not, as half a sentence about the node."""
        ...
