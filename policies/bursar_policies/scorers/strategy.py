"""Which scorers make a strategy, and with what weight.

Why     weights are the only thing that differs between strategies, so a bench tunes numbers and
        never code.
Source  fragmentation, consolidation and starvation: a prototype's random search on one openb arrival
        order (seed 1000) of two pod lists; opened_devices and best_fit: set by hand, not searched.
        bench/openb.py scores seeds 42-51.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from bursar.errors import InvalidRequest
from bursar.resources import ResourceRequest
from bursar_policies.decision import NodeColumns
from bursar_policies.scorers.api import Scorer
from bursar_policies.scorers.best_fit import BestFit, OpenedDevices
from bursar_policies.scorers.consolidation import Consolidation
from bursar_policies.scorers.fragmentation import Fragmentation, cores_per_gpu
from bursar_policies.scorers.starvation import Starvation


class Weights(msgspec.Struct, frozen=True):
    """Millionths per unit of each measure.

    Attributes:
        fragmentation: per thousandth of a GPU made unusable.
        consolidation: from the first to the last node of the filling order.
        starvation: from no CPU missing to all CPUs missing beside free GPUs.
        opened_devices: per device opened. best_fit: from a full to an empty node.
    """

    fragmentation: int = 280
    consolidation: int = 8_600_000
    starvation: int = 1_630_000
    opened_devices: int = 90_000
    best_fit: int = 50_000


PACK = Weights()
SPREAD = Weights(fragmentation=0, consolidation=0, starvation=0, opened_devices=0, best_fit=-1_000_000)
STRATEGIES = {"pack": PACK, "spread": SPREAD}


WEIGHT_MAX = 100
"""Times what a strategy has of its own."""


def scorers_of(strategy: str) -> tuple[str, ...]:
    """By which it goes, so that a weight changes anything."""
    own = STRATEGIES[strategy]
    return tuple(name for name in own.__struct_fields__ if getattr(own, name))


def weighted(strategy: str, weights: Sequence[tuple[str, int]]) -> Weights | None:
    """What a PlacementPolicy makes of a strategy's weights; None: nothing.

    Args:
        weights: (scorer, thousandths of what it has of its own) pairs. What is none is of a document of
            before there was a check, and changes nothing.
    """
    if strategy not in STRATEGIES or not weights:
        return None
    own = STRATEGIES[strategy]
    times = {name: min(milli, WEIGHT_MAX * 1_000) for name, milli in weights}
    made = {name: getattr(own, name) * times.get(name, 1_000) // 1_000 for name in own.__struct_fields__}
    return Weights(**made)


def scorers_for(
    strategy: str,
    nodes: NodeColumns,
    typical: Sequence[tuple[ResourceRequest, int]],
    place: Sequence[int],
    weights: Weights | None = None,
) -> tuple[Scorer, ...]:
    """The scorers of a strategy over these nodes. Raises `InvalidRequest` for an unknown one.

    Args:
        place: per node, its position in the order of consolidation.
        weights: instead of the strategy's own, for benches.
    """
    if strategy not in STRATEGIES:
        known = ", ".join(STRATEGIES)
        raise InvalidRequest(f"{strategy!r} is not a placement strategy; use one of {known}")
    chosen = weights or STRATEGIES[strategy]
    found: list[Scorer] = []
    if chosen.best_fit:
        totals = (nodes.cpu_total, nodes.memory_total, nodes.gpu_total)
        found.append(BestFit(chosen.best_fit, *totals))
    if chosen.consolidation:
        found.append(Consolidation(chosen.consolidation, np.array(place, dtype=np.int64)))
    if not any(nodes.gpu_total.tolist()):
        return tuple(found)
    if chosen.opened_devices:
        found.append(OpenedDevices(chosen.opened_devices))
    cores = cores_per_gpu(typical)
    if chosen.starvation and cores:
        found.append(Starvation(chosen.starvation, cores))
    if chosen.fragmentation and cores:
        kinds = nodes.gpu_type.tolist()
        found.append(Fragmentation(chosen.fragmentation, typical, nodes.gpu_types, kinds))
    return tuple(found)
