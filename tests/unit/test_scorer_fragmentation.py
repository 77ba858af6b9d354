"""Fragmentation as its definition says it, and its two forms as one: a node alone, and many at once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.resources import GpuRequest, ResourceRequest
from bursar_policies.scorers.api import NodeState, NodeStates
from bursar_policies.scorers.fragmentation import PARTS, Fragmentation

TYPES = ("A100", "H100")
requests = st.builds(
    lambda count, milli, kinds, cpu, memory: ResourceRequest(
        GpuRequest(count, kinds, milli=milli), cpu, memory
    ),
    st.integers(1, 3),
    st.sampled_from((250, 500, 1000)),
    st.sampled_from(((), ("A100",), ("H100",), ("A100", "H100"))),
    st.integers(0, 4).map(lambda cpus: cpus * 1_000),
    st.integers(0, 4),
)
nodes = st.tuples(
    st.integers(-1, 1),
    st.integers(0, 4).map(lambda cpus: cpus * 1_000),
    st.integers(0, 4),
    st.lists(st.sampled_from((0, 250, 500, 750, 1000)), min_size=3, max_size=3),
)


def defined(
    typical: list[tuple[ResourceRequest, int]], kind: str, cpu: int, memory: int, gpus: list[int]
) -> int:
    """Word by word: of each typical job its part of what it could not use."""
    whole, lost = sum(weight for _, weight in typical), 0
    for asked, weight in typical:
        assert asked.gpus is not None
        large = [left for left in gpus if left >= asked.gpus.milli]
        may = not asked.gpus.types or kind in asked.gpus.types
        fits = len(large) >= asked.gpus.count and cpu >= asked.cpu_milli and memory >= asked.memory_bytes
        unusable = sum(gpus) - sum(large) if may and fits else sum(gpus)
        lost += weight * PARTS // whole * unusable
    return lost


@settings(max_examples=200)
@given(
    st.lists(st.tuples(requests, st.integers(1, 9)), min_size=1, max_size=4),
    st.lists(nodes, min_size=1, max_size=4),
    st.integers(1, 5),
)
def test_what_typical_jobs_cannot_use_is_what_the_definition_says(
    typical: list[tuple[ResourceRequest, int]], there: list[tuple[int, int, int, list[int]]], weight: int
) -> None:
    scorer = Fragmentation(weight, typical, TYPES, [kind for kind, *_ in there])
    expected = [
        weight * defined(typical, (*TYPES, "")[kind], cpu, memory, gpus) // PARTS
        for kind, cpu, memory, gpus in there
    ]
    alone = [
        scorer.of_node(NodeState(row, cpu, memory, tuple(gpus)))
        for row, (_, cpu, memory, gpus) in enumerate(there)
    ]
    together = scorer.of_nodes(
        NodeStates(
            np.arange(len(there), dtype=np.intp),
            np.array([cpu for _, cpu, _, _ in there], dtype=np.int64),
            np.array([memory for _, _, memory, _ in there], dtype=np.int64),
            np.array([gpus for *_, gpus in there], dtype=np.int64),
        )
    )
    assert alone == expected
    assert together.tolist() == expected
