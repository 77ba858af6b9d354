"""Each scorer's measure in numbers worked out by hand; one node alone and many at once give the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bursar.errors import InvalidRequest
from bursar.resources import GpuRequest, ResourceRequest
from bursar_policies.scorers import (
    BestFit,
    Consolidation,
    NodeState,
    NodeStates,
    OpenedDevices,
    Scorer,
    Starvation,
    Weights,
    scorers_for,
)
from bursar_policies.scorers.fragmentation import cores_per_gpu
from bursar_policies.scorers.strategy import STRATEGIES

GIB = 1 << 30
MILLION = 1_000_000


def ints(*values: int) -> Any:
    return np.array(values, dtype=np.int64)


def measures(scorer: Scorer, *states: NodeState) -> list[int]:
    """Of each node; both forms of the scorer say the same."""
    one_by_one = [scorer.of_node(state) for state in states]
    many = scorer.of_nodes(
        NodeStates(
            np.array([state.row for state in states], dtype=np.intp),
            ints(*(state.cpu_milli for state in states)),
            ints(*(state.memory_bytes for state in states)),
            np.array([state.gpus for state in states], dtype=np.int64),
        )
    )
    assert many.tolist() == one_by_one
    return one_by_one


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        # A memory of 1 MiB is 16 pieces of 64 KiB; divided by one more, so that a full share stays below one.
        (NodeState(0, 0, 0, (0, 0)), 0),
        (NodeState(0, 4_000, 0, (0, 0)), 333_333),
        (NodeState(0, 0, 1 << 20, (0, 0)), 313_725),
        (NodeState(0, 0, 0, (1_000, 1_000)), 333_333),
        (NodeState(0, 4_000, 1 << 20, (1_000, 1_000)), 980_392),
        (NodeState(0, 1_000, 0, (500, 0)), 166_666),
        (NodeState(1, 0, 0, (-1, -1)), 0),
        (NodeState(1, 8_000, 0, (-1, -1)), 333_333),
        (NodeState(2, 0, 0, (-1, -1)), 0),
    ],
)
def test_best_fit_is_the_mean_of_what_is_free_of_cpus_memory_and_devices(
    state: NodeState, expected: int
) -> None:
    totals = ints(4_000, 8_000, 0), ints(1 << 20, 2 << 20, 0), ints(2, 0, 0)
    assert measures(BestFit(MILLION, *totals), state, NodeState(1, 0, 0, (-1, -1))) == [expected, 0]
    (spread,) = measures(BestFit(-MILLION, *totals), state)
    assert -spread - expected in (0, 1)  # rounded down, so away from zero
    assert (BestFit(1, *totals).name, BestFit(1, *totals).relative) == ("best_fit", False)


def test_a_device_is_opened_while_it_is_neither_whole_nor_full() -> None:
    states = [
        NodeState(0, 0, 0, (0, 1_000, -1)),
        NodeState(1, 0, 0, (1, 999, 1_000)),
        NodeState(2, 0, 0, (500, 0, -1)),
    ]
    assert measures(OpenedDevices(90), *states) == [0, 180, 90]
    assert (OpenedDevices(1).name, OpenedDevices(1).relative) == ("opened_devices", True)


def test_consolidation_is_the_place_in_the_order_of_filling() -> None:
    states = [NodeState(row, 0, 0, (-1,)) for row in range(3)]
    assert measures(Consolidation(1_000, ints(2, 0, 1)), *states) == [1_000, 0, 500]
    assert measures(Consolidation(1_000, ints(0)), states[0]) == [0]
    assert (Consolidation(1, ints(0)).name, Consolidation(1, ints(0)).relative) == ("consolidation", False)


def test_starvation_is_the_share_of_the_cpus_that_free_devices_lack() -> None:
    scorer = Starvation(MILLION, 4_000)
    states = [
        NodeState(0, 8_000, 0, (1_000, 1_000, -1)),
        NodeState(0, 7_999, 0, (1_000, 1_000, -1)),
        NodeState(0, 6_000, 0, (1_000, 1_000, -1)),
        NodeState(0, 0, 0, (500, 0, -1)),
        NodeState(0, 1_000, 0, (500, 0, -1)),
        NodeState(0, 0, 0, (0, 0, -1)),
    ]
    assert measures(scorer, *states) == [0, 125, 250_000, MILLION, 500_000, 0]
    assert (scorer.name, scorer.relative) == ("starvation", False)


def test_typical_jobs_say_how_many_cpus_go_with_a_device() -> None:
    gpus = GpuRequest(2, (), milli=500)
    plain = ResourceRequest(None, 64_000, GIB)
    assert cores_per_gpu([]) == 0
    assert cores_per_gpu([(plain, 5)]) == 0
    assert cores_per_gpu([(ResourceRequest(gpus, 4_000, GIB), 1), (plain, 9)]) == 4_000
    wide = ResourceRequest(GpuRequest(1, (), milli=1_000), 8_000, GIB)
    assert cores_per_gpu([(ResourceRequest(gpus, 4_000, GIB), 3), (wide, 1)]) == 5_000


def columns(gpus: int) -> Any:
    return SimpleNamespace(
        cpu_total=ints(8_000),
        memory_total=ints(GIB),
        gpu_total=ints(gpus),
        gpu_type=ints(0),
        gpu_types=("H100",),
    )


TYPICAL = [(ResourceRequest(GpuRequest(1, (), milli=1_000), 4_000, GIB), 1)]


@pytest.mark.parametrize(
    ("strategy", "gpus", "typical", "names"),
    [
        ("pack", 0, TYPICAL, ["best_fit", "consolidation"]),
        ("pack", 8, [], ["best_fit", "consolidation", "opened_devices"]),
        ("pack", 8, TYPICAL, ["best_fit", "consolidation", "opened_devices", "starvation", "fragmentation"]),
        ("spread", 8, TYPICAL, ["best_fit"]),
    ],
)
def test_a_strategy_has_the_scorers_that_can_differ_between_these_nodes(
    strategy: str, gpus: int, typical: Any, names: list[str]
) -> None:
    assert [scorer.name for scorer in scorers_for(strategy, columns(gpus), typical, [0])] == names


def test_a_weight_of_none_leaves_its_scorer_out_and_each_other_one_is_its_scorers_own() -> None:
    chosen = Weights(fragmentation=0, consolidation=0, starvation=0, opened_devices=7, best_fit=0)
    (opened,) = scorers_for("pack", columns(8), TYPICAL, [0], chosen)
    assert measures(opened, NodeState(0, 0, 0, (500,))) == [7]
    empty = NodeState(0, 8_000, GIB, (1_000,) * 8)
    found = {each.name: each.of_node(empty) for each in scorers_for("pack", columns(8), TYPICAL, [1])}
    # 16,384 of 16,385 pieces of memory; it is the last to fill; 8 devices want 32 CPUs, 8 are there.
    assert found == {
        "best_fit": 49_998,
        "consolidation": 8_600_000,
        "opened_devices": 0,
        "starvation": 1_222_500,
        "fragmentation": 0,
    }
    full_cpus = NodeState(0, 0, GIB, (1_000,) * 8)
    (lost,) = [
        each.of_node(full_cpus)
        for each in scorers_for("pack", columns(8), TYPICAL, [0])
        if each.name == "fragmentation"
    ]
    assert lost == 280 * 8_000


def test_the_weights_of_the_strategies_are_those_that_were_measured() -> None:
    """Searched and set once (bench/openb.py); another number is another measurement."""
    assert {
        "pack": Weights(280, 8_600_000, 1_630_000, 90_000, 50_000),
        "spread": Weights(0, 0, 0, 0, -1_000_000),
    } == STRATEGIES
    (worst_fit,) = scorers_for("spread", columns(0), [], [0])
    assert worst_fit.of_node(NodeState(0, 8_000, 0, (-1,))) == -333_334


def test_a_strategy_that_is_none_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidRequest, match="'x' is not a placement strategy; use one of pack, spread"):
        scorers_for("x", columns(0), [], [0])
