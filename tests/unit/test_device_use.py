"""What members made of their devices, from recorded loads of a real H200 to what is advised."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bursar.cli.advice import Paid, findings
from bursar.codec.progress import device_use_from_wire, device_use_to_wire
from bursar.codec.view.jobs import device_use
from bursar.model import DeviceUse
from bursar.model.deviceuse import KINDS
from bursar_agent.probes import recorded
from bursar_agent.probes.devicemeter import DeviceMeter
from bursar_agent.probes.nvml import NvmlGpus
from bursar_agent.probes.process import TreeReading
from bursar_agent.probes.readings import AttemptReading, Reading
from bursar_agent.probes.recorded import Load, RecordedNvml

KEY = ("att_1", 0)
MINUTE = 60_000_000
DOLLAR = 10**9


class Node:
    """One device, or several, read each second."""

    def __init__(self, devices: int = 1) -> None:
        self.nvml = RecordedNvml(devices)
        self.now = 1_000_000
        self.meter = DeviceMeter(NvmlGpus(lambda: self.nvml), lambda: self.now)

    def hold(self, key: tuple[str, int], *indexes: int, milli: int = 1000) -> None:
        self.meter.energy.begin(key, [(index, milli) for index in indexes], self.now)
        self.meter.use.begin(key, self.now)

    def passes(self, seconds: int, keys: Any = (KEY,), pids: Any = (7,)) -> None:
        for _ in range(seconds):
            self.now += 1_000_000
            self.nvml.advance(1_000_000)
            reading = Reading(
                at=self.now, attempts=tuple(AttemptReading(attempt_id=a, rank=r) for a, r in keys)
            )
            trees = {key: TreeReading(0, 0, (pid,)) for key, pid in zip(keys, pids, strict=True)}
            self.meter.read(reading, trees)

    def use(self, key: tuple[str, int] = KEY) -> DeviceUse:
        found = self.meter.use.so_far(key)
        assert found is not None
        return found


def used(load: Load, seconds: int = 60, present: bool = True) -> DeviceUse:
    node = Node()
    node.hold(KEY, 0)
    node.nvml.devices[0].load = load
    node.nvml.devices[0].processes = {7: 40 * 10**9} if present else {}
    node.passes(seconds)
    return node.use()


@pytest.mark.parametrize(
    ("load", "kind"),
    [
        (recorded.HELD, "idle_us"),
        (recorded.TINY_KERNELS, "launch_us"),
        (recorded.MEMORY_BOUND, "memory_us"),
        (recorded.BF16_PRODUCT, ""),
        (recorded.FP32_PRODUCT, ""),
        (Load(99, 30.0, 10.0, 20.0, 5.0, 0.0, 300, 1980, 0), "partial_us"),
    ],
)
def test_each_recorded_load_is_what_it_was(load: Load, kind: str) -> None:
    use = used(load)
    assert use.heard_us == MINUTE
    kinds = {f"{name}_us": getattr(use, f"{name}_us") for name in KINDS}
    assert kinds == {name: MINUTE if name == kind else 0 for name in kinds}
    assert use.memory_bytes == 40 * 10**9
    assert abs(use.sm_us - MINUTE * load.sm / 100) < MINUTE / 1000
    assert use.throttled_us == 0  # the power cap is normal


def test_a_device_without_a_process_of_it_is_empty() -> None:
    assert used(recorded.IDLE, present=False).empty_us == MINUTE


def test_what_no_device_tells_is_in_no_sum() -> None:
    node = Node()
    node.nvml.devices[0].broken = {"gpm", "nvmlDeviceGetUtilizationRates"}
    node.meter = DeviceMeter(NvmlGpus(lambda: node.nvml), lambda: node.now)
    node.hold(KEY, 0)
    node.passes(60)
    found = node.meter.use.so_far(KEY)
    assert found is None or found.heard_us == 0


def test_a_member_is_not_given_the_time_before_it_began() -> None:
    node = Node()
    node.passes(7, (), ())
    node.hold(KEY, 0)
    node.nvml.devices[0].processes = {7: 10**9}
    node.passes(13)
    assert node.use().heard_us == 13_000_000


def test_slowdowns_and_faults_are_counted_while_it_held_the_device() -> None:
    node = Node()
    device = node.nvml.devices[0]
    device.ecc, device.rows = (0, 3), (0, 1)
    node.passes(10, (), ())
    node.hold(KEY, 0)
    device.load = Load(99, 95.0, 14.0, 90.0, 16.0, 0.0, 500, 900, 0x40)
    device.processes = {7: 10**9}
    node.passes(20)
    device.ecc, device.rows = (0, 5), (0, 2)
    node.passes(20)
    use = node.use()
    assert (use.throttled_us, use.ecc_uncorrected, use.remapped_rows) == (40_000_000, 2, 1)
    assert use.clock_mhz_us // use.busy_us == 900


def test_an_agent_that_came_after_goes_on_with_the_sums() -> None:
    before, node = used(recorded.HELD), Node()
    node.meter.energy.begin(KEY, [(0, 1000)], node.now)
    node.meter.use.begin(KEY, node.now, before)
    node.nvml.devices[0].load = recorded.BF16_PRODUCT
    node.nvml.devices[0].processes = {7: 50 * 10**9}
    node.passes(60)
    use = node.use()
    assert (use.heard_us, use.idle_us, use.busy_us) == (2 * MINUTE, MINUTE, MINUTE)
    assert (use.devices, use.unused_devices, use.memory_bytes) == (1, 0, 50 * 10**9)


def test_it_travels_as_it_is() -> None:
    use = used(recorded.BF16_PRODUCT)
    assert device_use_from_wire(device_use_to_wire(use)) == use


# ------------------------------------------------------------------ what is advised of it


def member(use: DeviceUse | None, node: str = "n1", rank: int = 0, gpus: int = 1) -> Any:
    shown = None if use is None else device_use(device_use_to_wire(use))
    return {
        "node": node, "rank": rank, "devices": list(range(gpus)), "held_s": 60.0, "device_use": shown,
    }  # fmt: skip


def job(*members: Any, cpu_s: float = 1.0, gpus: int = 1, memory: int = 0) -> Any:
    attempt = {"id": "a", "number": 1, "elapsed_s": 60.0, "end_cause": "completed", "nodes": list(members)}
    resources = {"cpus": 1, "memory_bytes": 0, "gpus": gpus, "gpu_memory_bytes": memory}
    return {
        "state": "SUCCEEDED", "resources": resources, "max_rss_bytes": 0, "cpu_s": cpu_s, "time_limit_s": 0,
        "progress": None, "attempts": [attempt],
    }  # fmt: skip


PAID = Paid(
    nanos=100 * DOLLAR, cpu_nanos=0, memory_nanos=0, cpu_held_s=60.0, attempts={}, gpu_nanos=90 * DOLLAR
)


def told(shown: Any, paid: Paid = PAID) -> dict[str, Any]:
    return {one.code: one for one in findings(shown, paid)}


@pytest.mark.parametrize(
    ("load", "present", "code", "ask"),
    [
        (recorded.IDLE, False, "held-without-a-process", "no GPUs"),
        (recorded.HELD, True, "held-idle", "no GPUs"),
        (recorded.TINY_KERNELS, True, "launch-bound", "CUDA graphs"),
        (recorded.MEMORY_BOUND, True, "memory-bound", "bandwidth"),
    ],
)
def test_each_is_found_with_all_that_its_gpus_cost(load: Load, present: bool, code: str, ask: str) -> None:
    found = told(job(member(used(load, present=present))))
    assert code in found
    assert found[code].cost_nanos == 90 * DOLLAR
    assert ask in found[code].ask
    assert set(found) == {code}


@pytest.mark.parametrize("load", [recorded.BF16_PRODUCT, recorded.FP32_PRODUCT])
def test_of_gpus_that_worked_nothing_is_said(load: Load) -> None:
    assert told(job(member(used(load)))) == {}


def test_half_of_the_time_costs_half_and_what_nobody_heard_costs_nothing() -> None:
    use = used(recorded.HELD, seconds=30)
    assert told(job(member(use)))["held-idle"].cost_nanos == 45 * DOLLAR
    worked = msgspec.structs.replace(use, unused_devices=0)
    assert "idle_policy" in told(job(member(worked)))["held-idle"].ask
    assert told(job(member(None))) == {}


def test_loading_that_cannot_keep_up_is_told_where_its_cpus_are_busy() -> None:
    use = used(Load(99, 30.0, 10.0, 20.0, 5.0, 0.0, 300, 1980, 0))
    assert told(job(member(use), cpu_s=57.0))["data-starved"].ask.startswith("twice the --cpus")
    assert "data-starved" not in told(job(member(use), cpu_s=6.0))


def test_gpus_of_a_gang_that_never_worked_are_named_with_what_would_do() -> None:
    node = Node(4)
    node.hold(KEY, 0, 1, 2, 3)
    for index in (0, 1):
        node.nvml.devices[index].load = recorded.BF16_PRODUCT
    for device in node.nvml.devices:
        device.processes = {7: 10**9}
    node.passes(60)
    found = told(job(member(node.use(), gpus=4), gpus=4))
    one = found["over-requested-gpus"]
    assert (one.evidence, one.ask, one.saves_nanos) == ("2 of 4 GPUs never had work", "--gpus 2", 45 * DOLLAR)


def test_memory_and_half_of_a_gpu_that_would_have_done_are_told() -> None:
    use = used(Load(80, 40.0, 10.0, 35.0, 5.0, 0.0, 300, 1980, 0))
    found = told(job(member(use), memory=141 * 10**9))
    assert found["over-requested-gpu"].ask == "--gpus 0.5"
    assert found["over-requested-gpu-memory"].ask.startswith("a GPU with 48GB")


def test_heat_a_fault_and_a_slow_member_are_named_with_their_node() -> None:
    hot = used(Load(99, 95.0, 14.0, 90.0, 16.0, 0.0, 500, 1200, 0x40))
    fine = used(Load(99, 95.0, 14.0, 90.0, 16.0, 0.0, 700, 1900, 0))
    broken = DeviceUse(**{**{n: getattr(fine, n) for n in fine.__struct_fields__}, "xid": 79})
    found = told(job(member(hot, "hot", 0), member(fine, "a", 1), member(broken, "b", 2)))
    assert "1200 MHz" in found["throttled"].evidence
    assert "hot" in found["throttled"].ask
    assert found["straggler"].evidence.startswith("hot worked at 1200 MHz")
    assert found["failing-device"].evidence == "on b: Xid 79"
    assert "bursar node drain b" in found["failing-device"].ask


def test_of_a_job_that_runs_its_curves_tell() -> None:
    shown = {**job(member(None)), "state": "RUNNING"}
    row = {"rank": 0, "sm_ratio": 0.0003, "gpu_utilization_ratio": 0.18, "tensor_ratio": 0.0}
    profile = {
        "since": "2026-11-29T08:00:00Z", "until": "2026-11-29T08:01:00Z", "step_s": 20,
        "members": [{"rank": 0, "node": "n1", "gpus": 1}], "rows": [row, row, row],
    }  # fmt: skip
    (one,) = findings(shown, PAID, profile)
    assert (one.code, one.cost_nanos) == ("launch-bound", 90 * DOLLAR)
