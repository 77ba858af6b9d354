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
    Scarcity,
    Scorer,
    Starvation,
    Weights,
    scorers_for,
)
from bursar_policies.scorers.fragmentation import cores_per_gpu
from bursar_policies.scorers.scarcity import asked_by_name
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


def test_starvation_is_the_square_of_how_near_free_devices_are_to_lacking_cpus() -> None:
    """Two devices want 8 CPUs; near is what is less than 0.321 of that above what the free ones want."""
    scorer = Starvation(MILLION, 4_000, ints(2, 0))
    states = [
        NodeState(0, 10_400, 0, (1_000, 1_000, -1)),
        NodeState(0, 9_600, 0, (1_000, 1_000, -1)),
        NodeState(0, 0, 0, (1_000, 1_000, -1)),
        NodeState(0, 6_400, 0, (1_000, 0, -1)),
        NodeState(0, 0, 0, (0, 0, -1)),
        NodeState(1, 0, 0, (-1, -1, -1)),
    ]
    assert measures(scorer, *states) == [882, 29_282, 3_490_082, 882, 206_082, 0]
    assert (scorer.name, scorer.relative) == ("starvation", True)


def test_what_worsens_a_bad_node_counts_more_than_what_spoils_a_good_one() -> None:
    scorer = Starvation(MILLION, 4_000, ints(2))

    def rise(cpu: int, taken: int) -> int:
        before, after = (NodeState(0, cpu - less, 0, (1_000, 1_000)) for less in (0, taken))
        return scorer.of_node(after) - scorer.of_node(before)

    assert rise(8_000, 1_000) > rise(9_000, 1_000) > rise(11_000, 1_000) > rise(64_000, 1_000) == 0


def test_scarcity_is_what_is_used_of_a_type_that_is_asked_for_by_name() -> None:
    scorer = Scarcity(MILLION, [500_000, 0], [0, 1, -1])
    states = [NodeState(row, 0, 0, (1_000, 500, -1)) for row in range(3)]
    assert measures(scorer, *states) == [-750_000, 0, 0]
    assert (scorer.name, scorer.relative) == ("scarcity", True)
    beyond = Scarcity(MILLION, [9 * MILLION], [0])
    assert measures(beyond, states[0]) == [-6 * MILLION]


def test_a_type_is_asked_for_as_far_as_jobs_that_name_it_need_all_of_it() -> None:
    def ask(*types: str, count: int = 1) -> ResourceRequest:
        return ResourceRequest(GpuRequest(count, types, milli=1_000), 4_000, GIB)

    types, kinds, gpus = ("A", "B", "C"), [0, 1, 1, -1], [2, 2, 4, 2]
    assert asked_by_name([(ask(), 9)], types, kinds, gpus) == [0, 0, 0]
    assert asked_by_name([(ask("A"), 1), (ask(), 4)], types, kinds, gpus) == [MILLION, 0, 0]
    assert asked_by_name([(ask("A", "B", count=2), 1), (ask(), 2)], types, kinds, gpus) == [625_000] * 2 + [0]
    plain = ResourceRequest(None, 1_000, GIB)
    assert asked_by_name([(ask("C"), 1), (plain, 9)], types, kinds, gpus) == [0] * 3
    assert asked_by_name([], types, kinds, gpus) == [0, 0, 0]


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
    # 16,384 of 16,385 pieces of memory; it is the last to fill; 8 devices
    # want 25.856 CPUs, 8 are there: 1.0115 of it are missing with the margin.
    assert found == {
        "best_fit": 47_999,
        "consolidation": 8_230_000,
        "opened_devices": 0,
        "starvation": 10_231_322,
        "fragmentation": 0,
    }
    full_cpus = NodeState(0, 0, GIB, (1_000,) * 8)
    (lost,) = [
        each.of_node(full_cpus)
        for each in scorers_for("pack", columns(8), TYPICAL, [0])
        if each.name == "fragmentation"
    ]
    assert lost == 45 * 8_000


def test_the_weights_of_the_strategies_are_those_that_were_measured() -> None:
    """Searched and set once (bench/openb.py); another number is another measurement."""
    assert {
        "pack": Weights(45, 8_230_000, 1_250_000, 145_000, 48_000, 1_000_000),
        "spread": Weights(0, 0, 0, 0, -1_000_000, 0),
    } == STRATEGIES
    (worst_fit,) = scorers_for("spread", columns(0), [], [0])
    assert worst_fit.of_node(NodeState(0, 8_000, 0, (-1,))) == -333_334


def test_a_strategy_that_is_none_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidRequest, match="'x' is not a placement strategy; use one of pack, spread"):
        scorers_for("x", columns(0), [], [0])
