"""Probes of devices: what is asked, how often, and that what is not told is never a 0."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from bursar.clock import VirtualClock
from bursar_agent.probes import recorded
from bursar_agent.probes.gpm import METRICS
from bursar_agent.probes.nvml import NvmlGpus
from bursar_agent.probes.readings import Activity, GpuProbe, Health, NoGpus, Stat, stat
from bursar_agent.probes.recorded import RecordedNvml
from bursar_agent.probes.simulated import SimulatedGpus


@pytest.fixture
def nvml() -> RecordedNvml:
    return RecordedNvml(2)


@pytest.fixture
def gpus(nvml: RecordedNvml) -> Any:
    probe = NvmlGpus(lambda: nvml)
    yield probe
    probe.close()


def test_devices_are_told_by_index_and_model(gpus: NvmlGpus) -> None:
    assert [(d.index, d.uuid, d.type, d.memory_bytes, d.simulated) for d in gpus.devices()] == [
        (0, "GPU-0", "H200", recorded.TOTAL_BYTES, False),
        (1, "GPU-1", "H200", recorded.TOTAL_BYTES, False),
    ]


def test_an_idle_device_uses_no_memory_although_its_driver_keeps_some(
    nvml: RecordedNvml, gpus: NvmlGpus
) -> None:
    assert nvml.nvmlDeviceGetMemoryInfo(0).used == recorded.RESERVED_BYTES
    assert gpus.read(0, {})[0].memory_used_bytes == 0
    nvml.devices[0].processes = {7: 4 << 30}
    assert gpus.read(0, {})[0].memory_used_bytes == 4 << 30


def test_memory_of_an_old_library_is_that_of_its_only_version() -> None:
    class Old(RecordedNvml):
        nvmlMemory_v2 = None  # type: ignore[assignment]

    assert NvmlGpus(Old).read(0, {})[0].memory_used_bytes == recorded.RESERVED_BYTES


def test_a_second_costs_microseconds_and_asks_nothing_dear(nvml: RecordedNvml, gpus: NvmlGpus) -> None:
    nvml.devices[0].load = recorded.BF16_PRODUCT
    nvml.asked.clear()
    nvml.spent_us = 0
    reading = gpus.read(0, {})[0]
    assert (reading.utilization_ratio, reading.power_watts, reading.temperature_celsius) == (0.99, 719, 40)
    assert (reading.sm_clock_mhz, reading.clock_reasons) == (1470, 0x4)
    assert nvml.spent_us == 2 * 16
    assert not nvml.asked.keys() & {
        "nvmlDeviceGetTotalEnergyConsumption", "nvmlGpmSampleGet", "nvmlDeviceGetPcieThroughput",
    }  # fmt: skip


def test_what_a_device_does_not_support_is_not_known(nvml: RecordedNvml, gpus: NvmlGpus) -> None:
    nvml.devices[1].broken = set(recorded.COST_US) | {"nvmlDeviceGetProcessUtilization"}
    reading = gpus.read(0, {})[1]
    assert reading.index == 1
    assert {
        getattr(reading, name)
        for name in (
            "utilization_ratio", "memory_used_bytes", "power_watts", "temperature_celsius", "sm_clock_mhz",
            "clock_reasons",
        )
    } == {None}  # fmt: skip
    assert gpus.energy_millijoules(1) is None
    assert gpus.process_memory(1) is None
    assert gpus.process_activity(1) is None
    gpus.look()
    activity, health = gpus.look()[1]
    assert activity == Activity()
    assert health == Health(xid=0)
    assert gpus.read(0, {})[0].utilization_ratio == 0.0


def test_activity_is_what_happened_between_two_looks(nvml: RecordedNvml, gpus: NvmlGpus) -> None:
    nvml.devices[0].load = recorded.BF16_PRODUCT
    assert gpus.look()[0][0] == Activity()
    activity = gpus.look()[0][0]
    figures = [activity.sm_ratio, activity.sm_occupancy_ratio, activity.tensor_ratio, activity.dram_ratio]
    assert figures == pytest.approx([0.959, 0.142, 0.931, 0.161])
    assert (activity.fp64_ratio, activity.fp32_ratio, activity.fp16_ratio) == (0.0, 0.0, 0.0)
    nvml.devices[0].load = recorded.TINY_KERNELS
    assert gpus.look()[0][0].sm_ratio == pytest.approx(0.0003)
    assert nvml.asked["nvmlGpmSampleAlloc"] == 2 * len(nvml.devices)


def test_one_figure_that_is_not_supported_leaves_the_others(nvml: RecordedNvml, gpus: NvmlGpus) -> None:
    nvml.devices[0].load = recorded.FP32_PRODUCT
    nvml.devices[0].broken = {f"gpm:{METRICS['fp64_ratio']}"}
    gpus.look()
    activity = gpus.look()[0][0]
    assert (activity.fp64_ratio, activity.fp32_ratio, activity.fp16_ratio) == (None, 0.768, 0.0)


def test_a_device_before_hopper_has_no_activity_and_is_asked_for_none() -> None:
    nvml = RecordedNvml()
    nvml.devices[0].broken = {"gpm"}
    gpus = NvmlGpus(lambda: nvml)
    gpus.look()
    assert gpus.look()[0][0] == Activity()
    assert nvml.asked["nvmlGpmSampleGet"] == 0


def test_after_a_failed_look_activity_begins_anew(nvml: RecordedNvml, gpus: NvmlGpus) -> None:
    gpus.look()
    nvml.devices[0].broken = {"nvmlGpmSampleGet"}
    assert gpus.look()[0][0] == Activity()
    nvml.devices[0].broken = set()
    assert gpus.look()[0][0] == Activity()
    assert gpus.look()[0][0].sm_ratio == 0.0
    assert nvml.asked["nvmlGpmSampleAlloc"] == 2 * len(nvml.devices)


@pytest.mark.parametrize(("value", "ratio"), [(-0.1, 0.0), (100.4, 1.0), (float("nan"), None)])
def test_a_figure_past_its_bounds_is_brought_back(
    nvml: RecordedNvml, gpus: NvmlGpus, value: float, ratio: float | None
) -> None:
    nvml.devices[0].load = recorded.Load(sm=value)
    gpus.look()
    assert gpus.look()[0][0].sm_ratio == ratio


def test_faults_are_counted_by_their_kind(nvml: RecordedNvml, gpus: NvmlGpus) -> None:
    nvml.devices[1].ecc, nvml.devices[1].rows = (5, 2), (3, 1)
    assert gpus.look()[1][1] == Health(ecc_corrected=5, ecc_uncorrected=2, remapped_rows=4, xid=0)


def test_memory_of_a_process_that_is_not_told_is_not_0(nvml: RecordedNvml, gpus: NvmlGpus) -> None:
    nvml.devices[0].processes = {7: 100, 8: None}
    assert gpus.process_memory(0) == {7: 100, 8: None}
    assert gpus.process_memory(1) == {}


def test_activity_of_processes_is_since_the_last_question(nvml: RecordedNvml, gpus: NvmlGpus) -> None:
    assert gpus.process_activity(0) == {}
    nvml.devices[0].sm = {7: 68, 8: 32}
    assert gpus.process_activity(0) == {7: 0.68, 8: 0.32}
    assert gpus.process_activity(0) == {}, "the same sample again is left over"
    nvml.advance(1)
    assert gpus.process_activity(0) == {7: 0.68, 8: 0.32}


def test_several_samples_of_a_process_are_their_mean(nvml: RecordedNvml, gpus: NvmlGpus) -> None:
    def samples(handle: int, since_us: int) -> list[Any]:
        return [SimpleNamespace(pid=7, smUtil=sm, timeStamp=since_us + sm) for sm in (10, 120)]

    nvml.nvmlDeviceGetProcessUtilization = samples  # type: ignore[method-assign]
    assert gpus.process_activity(0) == {7: pytest.approx(0.55)}


def test_an_event_is_told_until_the_next_one_and_the_watch_ends_with_the_probe() -> None:
    before = threading.active_count()
    nvml, waited = RecordedNvml(2), threading.Event()
    nvml.events = [(1, 48), (1, 79)]
    nvml.waited = waited.set
    gpus = NvmlGpus(lambda: nvml)
    assert waited.wait(10)
    assert gpus.look()[0][1].xid == 0
    assert gpus.look()[1][1].xid == 79
    gpus.close()
    assert threading.active_count() == before


def test_a_device_without_events_is_not_watched() -> None:
    nvml = RecordedNvml(2)
    nvml.devices[0].broken = {"events"}
    gpus = NvmlGpus(lambda: nvml)
    assert gpus.look()[0][1].xid is None
    assert gpus.look()[1][1].xid == 0
    gpus.close()
    assert nvml.asked["nvmlDeviceRegisterEvents"] == 1


def test_a_watch_that_fails_knows_nothing_any_more() -> None:
    class Failing(RecordedNvml):
        def nvmlEventSetWait_v2(self, events: object, timeout_ms: int) -> Any:
            raise RuntimeError("GPU is lost")

    gpus = NvmlGpus(Failing)
    gpus.close()
    assert gpus.look()[0][1].xid is None


def missing() -> Any:
    raise ImportError("No module named 'pynvml'")


def broken() -> Any:
    raise RuntimeError("Driver Not Loaded")


@pytest.mark.parametrize("load", [missing, broken])
def test_no_library_or_no_driver_means_no_devices(load: Any) -> None:
    gpus = NvmlGpus(load)
    assert gpus.devices() == ()
    assert gpus.read(0, {}) == ()
    assert gpus.look() == {}
    gpus.close()


def simulated(kind: str = "H100", count: int = 2, clock: VirtualClock | None = None) -> SimulatedGpus:
    return SimulatedGpus("n1", kind, count, clock or VirtualClock())


def test_simulated_devices_are_marked() -> None:
    gpus = simulated()
    assert [d.uuid for d in gpus.devices()] == ["SIM-n1-0", "SIM-n1-1"]
    assert all(d.simulated and d.memory_bytes == 80 * 10**9 for d in gpus.devices())
    assert all(reading.simulated for reading in gpus.read(7, {}))
    assert simulated("Odd", 1).devices()[0].memory_bytes == 16 * 10**9


def test_a_simulated_device_is_idle_when_nothing_holds_it_and_follows_what_does() -> None:
    gpus = simulated(count=3)
    nobody, asleep, busy = gpus.read(1, {1: 0.0, 2: 0.5})
    assert [r.utilization_ratio for r in (nobody, asleep, busy)] == [0.0, 0.0, 0.5]
    assert [r.power_watts for r in (nobody, asleep, busy)] == [60.0, 110.0, 375.0]
    assert [r.memory_used_bytes for r in (nobody, asleep, busy)] == [0, 0, 28 * 10**9]
    assert [(r.sm_clock_mhz, r.clock_reasons) for r in (nobody, asleep)] == [(345, 1), (1980, 0)]
    assert [r.temperature_celsius for r in (nobody, asleep, busy)] == [30.0, 30.0, 50.0]
    assert [gpus.look()[index][0].sm_ratio for index in range(3)] == [0.0, 0.0, 0.5]
    assert gpus.read(2, {2: 7.0})[2].utilization_ratio == 1.0


def test_energy_of_a_simulated_device_is_its_power_added_up() -> None:
    clock = VirtualClock()
    gpus = simulated(count=2, clock=clock)
    gpus.read(0, {0: 1.0})
    clock.advance(2_000_000)
    assert (gpus.energy_millijoules(0), gpus.energy_millijoules(1)) == (1_280_000, 120_000)
    gpus.read(0, {})
    clock.advance(1_000_000)
    assert gpus.energy_millijoules(0) == 1_340_000


@pytest.mark.parametrize("probe", [NoGpus(), simulated("T4", 3), NvmlGpus(RecordedNvml)])
def test_every_probe_reads_only_devices_it_has(probe: GpuProbe) -> None:
    known = {device.index for device in probe.devices()}
    assert {reading.index for reading in probe.read(1, {})} == known
    assert probe.look().keys() == known
    probe.close()


def test_figures_of_a_window_are_values_that_were_read() -> None:
    assert stat([]) is None
    assert stat([3.0]) == Stat(3.0, 3.0, 3.0, 3.0)
    assert stat([4.0, 1.0, 3.0, 2.0]) == Stat(2.5, 2.0, 4.0, 4.0)
    assert stat([float(value) for value in range(1, 101)]) == Stat(50.5, 50.0, 95.0, 100.0)
