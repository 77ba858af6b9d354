"""Market and price: spot or not, and no money promised at a price nobody knows.

Why     a hard budget that holds 0 for an unpriced node is not a budget.
"""

from __future__ import annotations

import numpy as np

from bursar_policies.decision import NodeColumns
from bursar_policies.filters.api import Ask, Mask


class SpotPolicy:
    """`spot` takes spot machines only, `on-demand` everything else, `auto` any."""

    name = "spot_policy"

    def mask(self, nodes: NodeColumns, ask: Ask) -> Mask | None:
        """Nodes of the wanted market; machines without a market are not spot."""
        if ask.spot_policy not in ("spot", "on-demand"):
            return None
        spot = np.array([facts.get("market") == "spot" for facts in nodes.attributes], dtype=np.bool_)
        return spot if ask.spot_policy == "spot" else ~spot

    def why_not(self, nodes: NodeColumns, row: int, ask: Ask) -> str:
        """The node's market against the asked one."""
        market = nodes.attributes[row].get("market") or "on-demand"
        return f"its market is {market}, you ask spot_policy {ask.spot_policy}"


class KnownPrice:
    """Nodes with a price, when money is limited."""

    name = "price"

    def mask(self, nodes: NodeColumns, ask: Ask) -> Mask | None:
        """Nodes whose price is known."""
        return nodes.rate >= 0 if ask.priced else None

    def why_not(self, nodes: NodeColumns, row: int, ask: Ask) -> str:
        """The price is unknown."""
        return "its price is unknown and the job is under a budget or price limit"
