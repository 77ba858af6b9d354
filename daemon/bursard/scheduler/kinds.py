"""Kinds of nodes: those that are alike in all that a price, a size or a score goes by.

Why     10,000 nodes are of a few dozen kinds. What depends on the kind alone, such as the rate of a member,
        is worked out once per kind, with Python's integers, and gathered.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bursar.resources import MILLI, ResourceRequest
from bursar_policies.decision import NodeColumns

Facts = tuple[int, int, int, int, int, int, int, int]


class Kinds:
    """of: intp (n), the kind of each node. facts: per kind, rate, its parts, GPUs, CPU, memory, type."""

    def __init__(self, nodes: NodeColumns) -> None:
        columns = (
            nodes.rate,
            nodes.gpu_rate,
            nodes.cpu_rate,
            nodes.memory_rate,
            nodes.gpu_total,
            nodes.cpu_total,
            nodes.memory_total,
            nodes.gpu_type,
        )
        known: dict[Facts, int] = {}
        found = [
            known.setdefault(facts, len(known))
            for facts in zip(*(column.tolist() for column in columns), strict=True)
        ]
        self.of: NDArray[np.intp] = np.array(found, dtype=np.intp)
        self.facts: list[Facts] = list(known)

    def member_rates(self, request: ResourceRequest) -> list[int]:
        """Nanos per hour of one member on a node of each kind, -1 where the price is unknown or the member is
        larger than the node: it has no share there, and what would be computed has no bound.

        Elsewhere equal to the total of `share_rates`. Products of nanos and bytes pass 64 bits.
        """
        milli = request.gpus.count * request.gpus.milli if request.gpus else 0
        return [_member_rate(facts, request, milli) for facts in self.facts]


def _member_rate(facts: Facts, request: ResourceRequest, milli: int) -> int:
    whole, gpu, cpu, memory, gpu_total, cpu_total, memory_total, _ = facts
    holds = request.cpu_milli <= cpu_total and request.memory_bytes <= memory_total
    if whole < 0 or not holds or milli > MILLI * gpu_total:
        return -1
    rate = gpu * milli // (MILLI * gpu_total) if gpu_total else 0
    rate += cpu * request.cpu_milli // cpu_total if cpu_total else 0
    rate += memory * request.memory_bytes // memory_total if memory_total else 0
    return rate
