"""Prices of a simulation: those that NODES state, and those of the policies."""

from __future__ import annotations

from collections.abc import Sequence

from bursar.clock import Instant
from bursar.model import NodeFacts
from bursar_policies.compile import DEFAULT_WEIGHTS, FOREVER, PriceQuote, PriceTable, split_components
from bursard.sim.rows import NodeRow
from bursard.state import State


class RowPrices(PriceTable):
    """Prices of nodes as NODES states them; of the others as the policies say."""

    def __init__(self, rows: Sequence[NodeRow], state: State) -> None:
        super().__init__(state.priced)
        self._rows = {row.node_id: row for row in rows if row.rate_nanos is not None}
        self._currency = state.currency

    def lookup(self, facts: NodeFacts, at: Instant) -> PriceQuote | None:
        """The price of a node at an instant."""
        row = self._rows.get(facts.name)
        if row is None or row.rate_nanos is None:
            return super().lookup(facts, at) if facts.pool else None
        parts = split_components(
            row.rate_nanos,
            DEFAULT_WEIGHTS,
            has_gpu=bool(facts.devices),
            has_memory=facts.memory_bytes > 0,
        )
        return PriceQuote(
            rate_nanos_per_hour=row.rate_nanos,
            currency=self._currency,
            price_id=f"nodes/{facts.name}",
            source="price_per_hour",
            as_of=Instant(0),
            valid_from=Instant(0),
            valid_until=Instant(FOREVER),
            components=parts,
            cost=parts,
            stable_id=f"nodes/{facts.name}",
            list_nanos_per_hour=row.rate_nanos,
            marginal_nanos_per_hour=row.rate_nanos,
        )
