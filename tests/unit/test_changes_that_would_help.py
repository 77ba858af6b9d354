"""The changes to a request that `explain` tries, in numbers worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bursar_policies.decision import JobClass
from bursard.scheduler import alternatives
from bursard.scheduler.testing import GIB, job_class, request

SECOND_US = 1_000_000
NOW = 1_000 * SECOND_US


class Planner:
    """Two nodes that are usable and one that is not, of which so much is free."""

    def __init__(
        self, cpu: tuple[int, ...] = (4_000, 2_500, 9_000), devices: tuple[int, ...] = (3, 2, 8)
    ) -> None:
        self.now = NOW
        self.reservation: Any = None
        self.kept: Any = None
        self.doors: Any = None
        self.free_devices = np.array(devices)
        self.table = SimpleNamespace(
            usable=np.array([True, True, False]), request=None, cheapest_rate=lambda nodes: 3_600 * nodes
        )
        memory = np.array([3 * GIB, 5 * GIB, 9 * GIB])
        free = SimpleNamespace(cpu=np.array(cpu), memory=memory, devices=lambda asked: self.free_devices)
        kinds = SimpleNamespace(gpu_types=["A100", "H100", "L4"])
        self.world = SimpleNamespace(free=free, nodes=kinds, tables=self._tables)
        self.rooms = SimpleNamespace(
            room_nanos=lambda name: {"b": 5_400, "c": 9_999}[name], budgets={"b", "c"}
        )

    def _tables(self, wanted: JobClass) -> list[Any]:
        """One table for each option; all of them are the same nodes."""
        return [SimpleNamespace(**{**vars(self.table), "request": option}) for option in wanted.options]


def changes(planner: Planner, wanted: JobClass) -> list[str]:
    return [sentence for sentence, _ in alternatives.candidates(planner, wanted)]  # type: ignore[arg-type]


def test_a_job_that_asks_for_more_than_is_free_may_take_what_the_freest_node_has() -> None:
    asked = job_class(request(4, 8, 6 * GIB, "H100"))
    found = dict(alternatives.candidates(Planner(), asked))  # type: ignore[arg-type]
    assert list(found) == [
        "ask for gpus A100:4",
        "ask for gpus L4:4",
        "ask for gpus H100:3",
        "set --cpus 4",
        "set --memory 5368MB",
    ]
    (option,) = found["set --memory 5368MB"].options
    assert (option.memory_bytes, option.cpu_milli) == (5_368_000_000, 8_000)
    (option,) = found["ask for gpus H100:3"].options
    assert option.gpus is not None
    assert (option.gpus.count, option.gpus.types) == (3, ("H100",))
    (option,) = found["ask for gpus L4:4"].options
    assert option.gpus is not None
    assert option.gpus.types == ("L4",)
    (option,) = found["set --cpus 4"].options
    assert option.cpu_milli == 4_000


def test_a_gang_may_take_what_so_many_nodes_have_each() -> None:
    asked = job_class(request(4, 8, 6 * GIB), nodes=2)
    assert changes(Planner(), asked) == [
        "ask for gpus any:2", "set --cpus 2.5", "set --memory 3221MB", "set --nodes 1",
    ]  # fmt: skip
    assert changes(Planner(), job_class(request(4, 8, 6 * GIB), nodes=3)) == ["set --nodes 1"]
    found = dict(alternatives.candidates(Planner(), job_class(request(0, 1), nodes=5)))  # type: ignore[arg-type]
    assert {sentence: made.nodes for sentence, made in found.items()} == {
        "set --nodes 2": 2,
        "set --nodes 1": 1,
    }


def test_what_is_free_already_or_not_at_all_is_no_change() -> None:
    assert changes(Planner(), job_class(request(3, 4, 5 * GIB))) == ["set --memory 5368MB"]
    assert changes(Planner(cpu=(0, 0, 9_000), devices=(0, 0, 9)), job_class(request(1, 1))) == []


def test_markets_and_constraints_may_be_left_out() -> None:
    asked = job_class(request(0, 1), spot_policy="spot", constraints=(("zone", "a"),))
    found = dict(alternatives.candidates(Planner(), asked))  # type: ignore[arg-type]
    assert list(found) == ["leave --spot out (spot_policy: auto)", "drop the constraints"]
    assert found["leave --spot out (spot_policy: auto)"].spot_policy == "auto"
    assert found["drop the constraints"].constraints == ()
    assert found["drop the constraints"].spot_policy == "spot"


def test_a_job_with_several_options_is_not_asked_to_take_less_of_one() -> None:
    assert changes(Planner(), job_class(request(9, 99), request(8, 99))) == []


def limits(planner: Planner, wanted: JobClass) -> list[tuple[str, int, int]]:
    found = alternatives._shorter(planner, wanted, [planner.table])  # type: ignore[arg-type,list-item]
    return [
        (sentence, made.time_limit_us // SECOND_US, made.hold_us - made.time_limit_us)
        for sentence, made in found
    ]


def test_a_shorter_limit_ends_before_a_reserved_start_or_with_the_money() -> None:
    planner = Planner()
    asked = job_class(request(0, 1), hours=2, budgets=("b", "c"))
    # 5,400 nanos at one nano a second are 5,400 s, less the minute of grace and margin.
    assert limits(planner, asked) == [("set --time-limit 1h29m", 5_340, 60 * SECOND_US)]
    planner.reservation = SimpleNamespace(at=NOW + 661 * SECOND_US)
    assert [seconds for _, seconds, _ in limits(planner, asked)] == [5_340, 600]
    planner.reservation = SimpleNamespace(at=NOW + 61 * SECOND_US)
    assert [seconds for _, seconds, _ in limits(planner, asked)] == [5_340, 1]
    planner.reservation = SimpleNamespace(at=NOW + 61 * SECOND_US - 1)
    assert [seconds for _, seconds, _ in limits(planner, asked)] == [5_340]
    assert limits(planner, job_class(request(0, 1), hours=1, budgets=("b",))) == []
    assert limits(Planner(), job_class(request(0, 1), hours=2, budgets=("unknown",))) == []


@pytest.mark.parametrize(("rate", "room"), [(0, 5_400), (3_600, 0), (3_600, -1)])
def test_without_a_price_or_money_no_limit_helps(rate: int, room: int) -> None:
    planner = Planner()
    planner.table.cheapest_rate = lambda nodes: rate
    planner.rooms.room_nanos = lambda name: room
    assert limits(planner, job_class(request(0, 1), hours=2, budgets=("b",))) == []


def test_a_limit_short_enough_for_the_room_that_is_kept_for_short_jobs_is_a_change() -> None:
    planner = Planner()
    planner.kept = SimpleNamespace(limit_us=600 * SECOND_US)
    asked = job_class(request(0, 1))
    found = dict(alternatives.candidates(planner, asked))  # type: ignore[arg-type]
    assert found["set --time-limit 10m"].time_limit_us == 600 * SECOND_US
    planner.kept = SimpleNamespace(limit_us=asked.time_limit_us)
    assert not any("--time-limit" in words for words in dict(alternatives.candidates(planner, asked)))  # type: ignore[arg-type]
