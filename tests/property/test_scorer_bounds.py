"""No member makes a node measure less than the scorers say is the least: else the wrong nodes are chosen."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from plan_worlds import REQUESTS, TYPICAL

from bursar.resources import MILLI
from bursar_policies.scorers import (
    BestFit,
    Consolidation,
    Fragmentation,
    NodeState,
    NodeStates,
    OpenedDevices,
    Scarcity,
    Scorer,
    Starvation,
)
from bursard.scheduler import devices
from bursard.scheduler.testing import GIB

MILLION = 1_000_000
WEIGHTS = st.integers(-3, 3).map(lambda weight: weight * 100_000)


@st.composite
def scorers(draw: st.DrawFn) -> list[Scorer]:
    totals = [np.array([value], dtype=np.int64) for value in (16_000, 64 * GIB, 4)]
    return [
        Fragmentation(draw(st.integers(-300, 300)), draw(TYPICAL), ["H100", "A100"], [0]),
        Consolidation(draw(WEIGHTS), np.array([0], dtype=np.int64)),
        Starvation(draw(WEIGHTS), draw(st.sampled_from([0, 2_000, 8_000])), totals[2]),
        Scarcity(draw(WEIGHTS), [draw(st.integers(0, 3 * MILLION)), 0], [draw(st.integers(-1, 1))]),
        OpenedDevices(draw(WEIGHTS)),
        BestFit(draw(WEIGHTS), *totals),
    ]


@st.composite
def states(draw: st.DrawFn) -> NodeState:
    free = st.sampled_from([0, 200, 300, 500, 700, MILLI, MILLI])
    gpus = [draw(free) for _ in range(draw(st.integers(0, 4)))]
    cpu, memory = draw(st.integers(0, 16)) * 1_000, draw(st.integers(0, 64)) * GIB
    return NodeState(0, cpu, memory, [*gpus, *[-1] * (4 - len(gpus))])


@given(scorers(), states(), st.lists(REQUESTS, min_size=1, max_size=3))
def test_no_members_bring_a_node_below_its_bound(all_scorers, state, members):
    """However many it takes: what is kept for a claim is taken of a node before the member is."""
    gpus, cpu, memory = list(state.gpus), state.cpu_milli, state.memory_bytes
    for wanted in members:
        if wanted.gpus is not None:
            for index in devices.choose(gpus, wanted.gpus) or ():
                gpus[index] -= wanted.gpus.milli
        cpu, memory = max(cpu - wanted.cpu_milli, 0), max(memory - wanted.memory_bytes, 0)
    after = NodeState(0, cpu, memory, gpus)
    many = NodeStates(
        np.array([0, 0], dtype=np.intp),
        np.array([state.cpu_milli, after.cpu_milli], dtype=np.int64),
        np.array([state.memory_bytes, after.memory_bytes], dtype=np.int64),
        np.array([state.gpus, after.gpus], dtype=np.int64),
    )
    for scorer in all_scorers:
        assert scorer.of_node(after) >= scorer.least_of_node(state), scorer.name
        bounds = [scorer.least_of_node(state), scorer.least_of_node(after)]
        assert scorer.least_of_nodes(many).tolist() == bounds, scorer.name
        assert scorer.of_nodes(many).tolist() == [scorer.of_node(state), scorer.of_node(after)], scorer.name
