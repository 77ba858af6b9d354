"""Which scorers make a strategy, and with what weight.

Why     weights are the only thing that differs between strategies, so a bench tunes numbers and
        never code.
Source  a random search on arrival orders of our own (`bench/openb.py --shuffle`, 7 to 15) of two of openb's
        pod lists, `default` and `gpuspec33`; held against orders 21 and 22 of these, 31 and 32 of six more
        lists. bench/openb.py scores seeds 42-51.
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
from bursar_policies.scorers.scarcity import Scarcity, asked_by_name
from bursar_policies.scorers.starvation import Starvation


class Weights(msgspec.Struct, frozen=True):
    """Millionths per unit of each measure.

    Attributes:
        fragmentation: per thousandth of a GPU made unusable.
        consolidation: from the first to the last node of the filling order.
        starvation: per GPU of a node whose free GPUs want twice the CPUs that it has beside the margin.
        opened_devices: per device opened. best_fit: from a full to an empty node.
        scarcity: per GPU of a type of which as many are asked for by name as there are.
    """

    fragmentation: int = 45
    consolidation: int = 8_230_000
    starvation: int = 1_250_000
    opened_devices: int = 145_000
    best_fit: int = 48_000
    scarcity: int = 1_000_000


CORES_PPM = 808_000
"""Which part of the CPUs that go with a GPU on average is enough for it: many jobs want fewer."""
PACK = Weights()
SPREAD = Weights(0, 0, 0, 0, best_fit=-1_000_000, scarcity=0)
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
    kinds = nodes.gpu_type.tolist()
    if chosen.starvation and cores:
        found.append(Starvation(chosen.starvation, cores * CORES_PPM // 1_000_000, nodes.gpu_total))
    if chosen.scarcity and cores:
        asked = asked_by_name(typical, nodes.gpu_types, kinds, nodes.gpu_total.tolist())
        if any(asked):
            found.append(Scarcity(chosen.scarcity, asked, kinds))
    if chosen.fragmentation and cores:
        found.append(Fragmentation(chosen.fragmentation, typical, nodes.gpu_types, kinds))
    return tuple(found)
