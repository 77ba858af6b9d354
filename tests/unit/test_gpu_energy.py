"""Whose energy it was: every millijoule of a counter has one owner, and it is said how that was found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.model import Energy
from bursar_agent.probes import recorded
from bursar_agent.probes.energy import EnergyMeter, Held, modelled_watts, split
from bursar_agent.probes.nvml import NvmlGpus
from bursar_agent.probes.recorded import RecordedNvml

A, B = ("att_a", 0), ("att_b", 0)
WHOLE = ((0, 1000),)
HALF = ((0, 500),)


class Bench:
    """A meter over recorded devices, with a clock that moves both."""

    def __init__(self, devices: int = 1) -> None:
        self.nvml = RecordedNvml(devices)
        self.probe = NvmlGpus(lambda: self.nvml)
        self.meter = EnergyMeter(self.probe, self.probe.devices())
        self.now_us = 0
        self.nvml.devices[0].load = recorded.HELD

    def passes(self, seconds: float) -> None:
        self.nvml.advance(round(seconds * 1e6))
        self.now_us += round(seconds * 1e6)

    def begin(self, key: tuple[str, int], shares: tuple[tuple[int, int], ...], pid: int = 0) -> None:
        self.meter.begin(key, shares, self.now_us)
        self.meter.bind([pid], key)

    def end(self, key: tuple[str, int]) -> tuple[int, str]:
        energy = self.meter.end(key, self.now_us)
        assert energy is not None
        return energy.millijoules, energy.source


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_what_a_device_draws_while_nobody_holds_it_is_nobodys(bench: Bench) -> None:
    bench.passes(100)
    bench.begin(A, WHOLE)
    bench.passes(2)
    assert bench.end(A) == (2 * 131_000, "measured")
    bench.passes(50)
    bench.begin(B, WHOLE)
    bench.passes(1)
    assert bench.end(B) == (131_000, "measured")


def test_behind_a_server_nobody_s_work_is_asked_for_and_energy_follows_what_was_granted() -> None:
    bench = Bench()
    bench.meter = EnergyMeter(bench.probe, bench.probe.devices(), served=lambda key: key == A)
    bench.nvml.devices[0].sm = {1: 90, 2: 10}
    bench.begin(A, ((0, 750),), 1)
    bench.begin(B, ((0, 250),), 2)
    bench.passes(4)
    assert bench.meter.weigh(0) is None
    assert bench.end(A) == (3 * 131_000, "modelled")
    assert bench.nvml.asked["nvmlDeviceGetProcessUtilization"] == 0
    bench.passes(1)
    assert bench.end(B) == (2 * 131_000, "modelled")


def test_what_was_seen_of_a_device_before_anybody_held_it_says_nothing_of_who_does(bench: Bench) -> None:
    meter = bench.meter._meters[0]
    meter.activity, meter.unbound, meter.watts = {A: 0.5}, True, [1.0]  # type: ignore[dict-item]
    bench.begin(B, WHOLE)
    assert (meter.activity, meter.unbound, meter.watts) == ({}, False, [])


def test_energy_of_several_devices_is_their_sum_and_reads_each_counter_at_start_and_end_alone() -> None:
    bench = Bench(3)
    bench.begin(A, ((0, 1000), (2, 1000)))
    bench.passes(10)
    assert bench.end(A) == (10 * (131_000 + 83_000), "measured")
    assert bench.nvml.asked["nvmlDeviceGetTotalEnergyConsumption"] == 4


def test_who_holds_no_device_has_no_energy(bench: Bench) -> None:
    bench.begin(A, ())
    bench.begin(B, ((7, 1000),))
    assert bench.meter.members() == []
    assert bench.meter.so_far(A) is None
    assert bench.meter.end(A, 0) is None
    assert bench.meter.end(B, 0) is None
    assert bench.meter.end(("att_unknown", 0), 0) is None


def test_two_that_share_a_device_are_told_apart_by_what_they_did(bench: Bench) -> None:
    bench.begin(A, HALF, pid=7)
    bench.begin(B, HALF, pid=8)
    bench.nvml.devices[0].sm = {7: 75, 8: 25}
    bench.passes(4)
    assert bench.end(A) == (3 * 131_000, "measured")
    assert bench.end(B) == (131_000, "measured")


def test_two_that_share_and_do_nothing_are_told_apart_by_what_they_were_granted(bench: Bench) -> None:
    bench.begin(A, ((0, 250),))
    bench.begin(B, ((0, 750),))
    bench.passes(4)
    assert bench.end(A) == (131_000, "measured")
    assert bench.end(B) == (3 * 131_000, "measured")


@pytest.mark.parametrize("problem", ["not told", "a server's own"])
def test_energy_of_two_whose_work_cannot_be_told_apart_is_modelled(bench: Bench, problem: str) -> None:
    bench.begin(A, HALF, pid=7)
    bench.begin(B, HALF, pid=8)
    if problem == "not told":
        bench.nvml.devices[0].broken = {"nvmlDeviceGetProcessUtilization"}
    bench.nvml.devices[0].sm = {99: 100}
    bench.passes(2)
    assert bench.end(A) == (131_000, "modelled")


def test_each_second_of_work_counts_not_only_the_last(bench: Bench) -> None:
    bench.begin(A, HALF, pid=7)
    bench.begin(B, HALF, pid=8)
    for sm in ({7: 90}, {7: 60}, {8: 50}):
        bench.passes(1)
        bench.nvml.devices[0].sm = sm
        bench.meter.weigh(0)
    bench.nvml.devices[0].sm = {}
    assert bench.end(A)[0] == round(3 * 131_000 * 1.5 / 2.0)


def test_what_one_drew_before_the_other_came_is_its_own(bench: Bench) -> None:
    bench.begin(A, HALF, pid=7)
    bench.passes(10)
    bench.begin(B, HALF, pid=8)
    bench.nvml.devices[0].sm = {8: 100}
    bench.passes(1)
    assert bench.end(B) == (131_000, "measured")
    bench.passes(1)
    assert bench.end(A) == (11 * 131_000, "measured")


def test_without_a_counter_energy_is_the_power_that_was_read_and_said_to_be_modelled(bench: Bench) -> None:
    bench.nvml.devices[0].broken = {"nvmlDeviceGetTotalEnergyConsumption"}
    bench.begin(A, WHOLE)
    for watts in (100.0, 300.0):
        bench.passes(1)
        bench.meter.saw(0, watts, 0.5)
    assert bench.end(A) == (400_000, "modelled")


def test_without_counter_and_power_energy_follows_the_model_and_its_utilization(bench: Bench) -> None:
    bench.nvml.devices[0].broken = {"nvmlDeviceGetTotalEnergyConsumption"}
    bench.begin(A, WHOLE)
    bench.passes(2)
    bench.meter.saw(0, None, 0.2)
    assert bench.end(A) == (2 * round(1000 * (85 + 615 * 0.2)), "modelled")
    assert modelled_watts("H200", None) == (85 + 700) / 2
    assert modelled_watts("ODD", 1.0) == 300


def test_readings_of_a_device_that_nobody_holds_are_not_kept(bench: Bench) -> None:
    bench.nvml.devices[0].broken = {"nvmlDeviceGetTotalEnergyConsumption"}
    bench.meter.saw(0, 999.0, 1.0)
    bench.begin(A, WHOLE)
    bench.passes(1)
    bench.meter.saw(0, 100.0, 1.0)
    assert bench.end(A) == (100_000, "modelled")


def test_a_counter_that_fell_is_of_a_driver_loaded_anew(bench: Bench) -> None:
    bench.begin(A, WHOLE)
    bench.passes(10)
    bench.meter.settle(bench.now_us, [0])
    bench.nvml.devices[0].millijoules = 5
    bench.passes(2)
    bench.meter.saw(0, 200.0, 1.0)
    bench.meter.settle(bench.now_us, [0])
    bench.passes(1)
    assert bench.end(A) == (10 * 131_000 + 2 * 200_000 + 131_000, "modelled")


def test_members_of_an_earlier_agent_go_on_where_its_readings_end(bench: Bench) -> None:
    bench.begin(A, HALF, pid=7)
    bench.begin(B, HALF, pid=8)
    bench.passes(10)
    bench.meter.settle(bench.now_us, [0])
    held = []
    for key in (A, B):
        energy = bench.meter.so_far(key)
        assert energy is not None
        held.append(Held(key, HALF, energy, bench.meter.counters(key)))
    bench.passes(6)
    after = EnergyMeter(bench.probe, bench.probe.devices())
    after.resume(held, bench.now_us)
    bench.passes(4)
    bench.meter = after
    told = [bench.end(A), bench.end(B)]
    assert told == [(10 * 131_000, "measured")] * 2
    assert sum(part for part, _ in told) == 20 * 131_000


def test_a_member_whose_counters_are_not_known_goes_on_from_now(bench: Bench) -> None:
    bench.passes(50)
    bench.meter.resume([Held(A, WHOLE, Energy(millijoules=5, source="measured"), {})], bench.now_us)
    bench.passes(1)
    millijoules, source = bench.end(A)
    assert source == "modelled"
    assert millijoules == 5 + round(1000 * modelled_watts("H200", None))


@given(
    total=st.integers(0, 10**12),
    grants=st.dictionaries(st.sampled_from([A, B, ("att_c", 1)]), st.integers(1, 1000), min_size=1),
    activity=st.none()
    | st.dictionaries(st.sampled_from([A, B, ("att_c", 1)]), st.floats(0, 100), max_size=3),
)
def test_parts_are_of_the_holders_alone_and_sum_to_the_whole(
    total: int, grants: dict[tuple[str, int], int], activity: dict[tuple[str, int], float] | None
) -> None:
    parts, measured = split(total, grants, activity)
    assert parts.keys() == grants.keys()
    assert sum(parts.values()) == total
    assert all(part >= 0 for part in parts.values())
    assert measured == (activity is not None or len(grants) == 1)
