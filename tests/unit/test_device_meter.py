"""All devices of a node at their pace: what is dear is asked every ten seconds, and shown until then."""

from __future__ import annotations

import pytest

from bursar.clock import VirtualClock
from bursar_agent.probes import recorded
from bursar_agent.probes.devicemeter import DeviceMeter
from bursar_agent.probes.nvml import NvmlGpus
from bursar_agent.probes.process import TreeReading
from bursar_agent.probes.readings import AttemptReading, Reading, Stat
from bursar_agent.probes.recorded import RecordedNvml
from bursar_agent.probes.simulated import SimulatedGpus

A, B = ("att_a", 0), ("att_b", 1)


class Node:
    """A device meter over recorded devices, read once a second."""

    def __init__(self, devices: int = 1) -> None:
        self.nvml = RecordedNvml(devices)
        self.probe = NvmlGpus(lambda: self.nvml)
        self.clock = VirtualClock()
        self.meter = DeviceMeter(self.probe, self.clock.boot_us)
        self.pids: dict[tuple[str, int], tuple[int, ...]] = {}
        self.looks = 0

    def hold(self, key: tuple[str, int], *shares: tuple[int, int], pid: int) -> None:
        self.meter.energy.begin(key, shares, self.clock.boot_us())
        self.pids[key] = (pid,)

    def second(self) -> Reading:
        self.clock.advance(1_000_000)
        self.nvml.advance(1_000_000)
        trees = {key: TreeReading(0, 0, pids) for key, pids in self.pids.items()}
        attempts = tuple(AttemptReading(attempt_id=key[0], rank=key[1]) for key in self.pids)
        found, look = self.meter.read(Reading(at=1, attempts=attempts), trees)
        self.looks += look
        return found


def test_dear_questions_are_asked_every_ten_seconds_and_their_answers_shown_between() -> None:
    node = Node(8)
    node.nvml.devices[0].load = recorded.BF16_PRODUCT
    for index in range(8):
        node.hold((f"att_{index}", 0), (index, 1000), pid=index)
    node.nvml.asked.clear()
    node.nvml.spent_us = 0
    readings = [node.second() for _ in range(30)]
    assert node.looks == 3
    assert node.nvml.asked["nvmlDeviceGetTotalEnergyConsumption"] == 3 * 8
    assert node.nvml.asked["nvmlGpmSampleGet"] == 3 * 8
    assert node.nvml.asked["nvmlDeviceGetUtilizationRates"] == 30 * 8
    assert node.nvml.asked["nvmlDeviceGetProcessUtilization"] == 0
    assert node.nvml.asked["nvmlDeviceGetPcieThroughput"] == 0
    assert node.nvml.spent_us / 30e6 < 0.005, "half a percent of a core for eight devices and eight jobs"
    told = [reading.gpus[0].activity for reading in readings]
    assert told[8] is not None
    assert told[8].sm_ratio is None
    assert all(
        activity is not None and activity.tensor_ratio == pytest.approx(0.931) for activity in told[9:]
    )


def test_a_summary_ends_its_window_and_is_told_once() -> None:
    node = Node()
    summaries = []
    for second in range(20):
        node.nvml.devices[0].load = recorded.MEMORY_BOUND if second in (3, 4) else recorded.IDLE
        summaries.append(node.second().gpus[0].summary)
    assert [second for second, summary in enumerate(summaries) if summary is not None] == [9, 19]
    first, second = summaries[9], summaries[19]
    assert first is not None
    assert second is not None
    assert first.window_us == second.window_us == 10_000_000
    assert first.utilization_ratio == Stat(mean=pytest.approx(0.198), p50=0.0, p95=0.99, max=0.99)
    assert first.power_watts == Stat(mean=pytest.approx(139.8), p50=83.0, p95=367.0, max=367.0)
    assert first.sm_clock_mhz == Stat(mean=pytest.approx(672.0), p50=345.0, p95=1980.0, max=1980.0)
    assert second.utilization_ratio == Stat(0.0, 0.0, 0.0, 0.0)


def test_a_figure_that_is_not_told_has_no_summary() -> None:
    node = Node()
    node.nvml.devices[0].broken = {"nvmlDeviceGetPowerUsage"}
    summary = [node.second() for _ in range(10)][-1].gpus[0].summary
    assert summary is not None
    assert summary.power_watts is None
    assert summary.utilization_ratio is not None


def test_who_holds_a_device_alone_does_all_its_work_and_has_its_processes_memory() -> None:
    node = Node(2)
    node.nvml.devices[1].load = recorded.FP32_PRODUCT
    node.nvml.devices[1].processes = {7: 100, 99: 5}
    node.hold(A, (1, 1000), pid=7)
    (attempt,) = [node.second() for _ in range(10)][-1].attempts
    assert attempt.gpu_sm_ratio == pytest.approx(0.964)
    assert attempt.gpu_memory_used_bytes == 100
    assert (attempt.gpu_energy_millijoules, attempt.gpu_energy_source) == (10 * 477_000, "measured")


def test_two_that_share_a_device_are_told_apart_by_process() -> None:
    node = Node()
    node.nvml.devices[0].load = recorded.SHARED
    node.nvml.devices[0].processes, node.nvml.devices[0].sm = {7: 100, 8: 30}, {7: 60, 8: 20}
    node.hold(A, (0, 500), pid=7)
    node.hold(B, (0, 500), pid=8)
    one, other = [node.second() for _ in range(10)][-1].attempts
    assert (one.gpu_sm_ratio, other.gpu_sm_ratio) == (0.6, 0.2)
    assert (one.gpu_memory_used_bytes, other.gpu_memory_used_bytes) == (100, 30)
    assert (one.gpu_energy_millijoules, other.gpu_energy_millijoules) == (5_182_500, 1_727_500)


def test_of_several_shared_devices_one_is_asked_each_second_in_turn() -> None:
    node = Node(3)
    for index, device in enumerate(node.nvml.devices):
        device.sm = {7: 10 * (index + 1)}
    node.hold(A, (0, 500), (1, 500), (2, 500), pid=7)
    node.hold(B, (0, 500), (1, 500), (2, 500), pid=8)
    node.nvml.asked.clear()
    told = [node.second().attempts[0].gpu_sm_ratio for _ in range(3)]
    assert node.nvml.asked["nvmlDeviceGetProcessUtilization"] == 3
    assert told == [None, None, pytest.approx(0.2)]
    node.meter.energy.end(B, node.clock.boot_us())
    node.nvml.asked.clear()
    node.second()
    assert node.nvml.asked["nvmlDeviceGetProcessUtilization"] == 0


def test_what_the_driver_does_not_tell_of_processes_is_not_known() -> None:
    node = Node()
    node.nvml.devices[0].processes = {7: None}
    node.hold(A, (0, 1000), pid=7)
    assert node.second().attempts[0].gpu_memory_used_bytes is None
    node.nvml.devices[0].broken = {"nvmlDeviceGetComputeRunningProcesses", "gpm", "nvmlGpmSampleGet"}
    attempt = [node.second() for _ in range(10)][-1].attempts[0]
    assert attempt.gpu_memory_used_bytes is None
    assert attempt.gpu_sm_ratio is None


def test_a_member_without_devices_is_told_as_it_came() -> None:
    node = Node()
    node.pids[A] = (7,)
    assert node.second().attempts == (AttemptReading(attempt_id="att_a", rank=0),)


def test_a_simulated_device_follows_the_cpus_of_what_holds_it() -> None:
    clock = VirtualClock()
    meter = DeviceMeter(SimulatedGpus("n", "H100", 3, clock), clock.boot_us)
    meter.energy.begin(A, ((0, 1000), (1, 500)), 0)
    meter.energy.begin(B, ((1, 500),), 0)
    attempts = (
        AttemptReading(attempt_id="att_a", rank=0, cpu_utilization_ratio=0.8),
        AttemptReading(attempt_id="att_b", rank=1, cpu_utilization_ratio=3.0),
    )
    found, _ = meter.read(Reading(at=1, attempts=attempts), {})
    assert [gpu.utilization_ratio for gpu in found.gpus] == [0.4, 1.0, 0.0]
    assert [attempt.gpu_energy_source for attempt in found.attempts] == ["simulated", ""]
