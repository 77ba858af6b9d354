"""What users see of devices: the unknown is no 0, idle is judged by work, energy says where it is from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bursar.cli.cluster import TOP_COLUMNS
from bursar.cli.texts import energy_text, gpu_text, job_text
from bursar.codec import view
from bursar.model import Device, DeviceShare, NodeFacts, clock_reasons, is_idle
from bursar.v1 import types_pb2 as pb
from bursar_agent.link.wire import telemetry
from bursar_agent.probes.readings import Activity, AttemptReading, GpuReading, Health, Reading, Stat, Summary
from bursard.services.views import _memory_share, _source_of_both, add_samples
from bursard.telemetry import LiveTelemetry

SUMMARY = Summary(window_us=10_000_000, utilization_ratio=Stat(0.1, 0.2, 0.3, 0.4))
BUSY = GpuReading(
    index=0,
    utilization_ratio=0.99,
    memory_used_bytes=4 << 30,
    power_watts=719.0,
    temperature_celsius=56.0,
    sm_clock_mhz=1350,
    clock_reasons=0x4,
    activity=Activity(sm_ratio=0.959, tensor_ratio=0.931, fp64_ratio=0.0),
    health=Health(ecc_corrected=1, ecc_uncorrected=2, remapped_rows=3, xid=79),
    summary=SUMMARY,
)
TINY = GpuReading(index=1, utilization_ratio=0.18, power_watts=130.0, activity=Activity(sm_ratio=0.0003))
FACTS = NodeFacts(
    name="n",
    cpu_milli=8_000,
    memory_bytes=1 << 30,
    devices=tuple(Device(i, "", "H100", 80 << 30) for i in (0, 1)),
)
ATTEMPT = AttemptReading(
    attempt_id="att_1",
    rank=0,
    gpu_memory_used_bytes=7,
    gpu_sm_ratio=0.5,
    gpu_energy_millijoules=1_500,
    gpu_energy_source="measured",
)


def sample(*gpus: GpuReading, attempts: tuple[AttemptReading, ...] = ()) -> pb.Sample:
    """As it travels."""
    batch = telemetry("c", "n", (Reading(at=1, gpus=gpus, attempts=attempts),))
    return batch.samples[0]


def test_a_reading_arrives_as_it_was_read() -> None:
    (gpu,) = view.sample(sample(BUSY))["gpus"]
    assert gpu == {
        "index": 0, "utilization_ratio": 0.99, "memory_used_bytes": 4 << 30, "power_watts": 719.0,
        "temperature_celsius": 56.0, "sm_clock_mhz": 1350, "clocks_low_because": ["power cap"], "idle": False,
        "sm_ratio": 0.959, "sm_occupancy_ratio": None, "tensor_ratio": 0.931, "dram_ratio": None,
        "fp64_ratio": 0.0, "fp32_ratio": None, "fp16_ratio": None, "ecc_corrected": 1, "ecc_uncorrected": 2,
        "remapped_rows": 3, "xid": 79, "simulated": False,
        "summary": {
            "window_s": 10, "utilization_ratio": {"mean": 0.1, "p50": 0.2, "p95": 0.3, "max": 0.4},
            "memory_used_bytes": None, "power_watts": None, "temperature_celsius": None, "sm_clock_mhz": None,
        },
    }  # fmt: skip


def test_what_a_device_does_not_tell_is_null() -> None:
    (gpu,) = view.sample(sample(GpuReading(index=3)))["gpus"]
    told = {name for name, value in gpu.items() if value is not None}
    assert told == {"index", "clocks_low_because", "simulated"}


def test_what_an_attempt_has_on_its_devices_is_told_where_it_is_known() -> None:
    (one,) = view.sample(sample(attempts=(ATTEMPT,)))["attempts"]
    assert (one["gpu_memory_used_bytes"], one["gpu_sm_ratio"]) == (7, 0.5)
    assert (one["gpu_energy_joules"], one["gpu_energy_source"]) == (1.5, "measured")
    (none,) = view.sample(sample(attempts=(AttemptReading(attempt_id="att_1", rank=0),)))["attempts"]
    names = ("gpu_memory_used_bytes", "gpu_sm_ratio", "gpu_energy_joules", "gpu_energy_source")
    assert [none[name] for name in names] == [None] * 4


@pytest.mark.parametrize(
    ("sm", "utilization", "idle"),
    [
        (0.0003, 0.18, True),
        (0.05, 0.0, False),
        (0.049, 1.0, True),
        (None, 0.04, True),
        (None, 0.05, False),
        (None, None, None),
    ],
)
def test_idle_is_judged_by_the_multiprocessors_where_they_are_told(
    sm: float | None, utilization: float | None, idle: bool | None
) -> None:
    assert is_idle(sm, utilization) is idle


def test_reasons_of_a_low_clock_have_words() -> None:
    assert clock_reasons(0) == []
    assert clock_reasons(0x1 | 0x4 | 0x40) == ["idle", "power cap", "hardware thermal"]
    assert clock_reasons(0x8 | 0x200) == ["hardware slowdown", "reason 0x200"]


def test_a_device_in_words() -> None:
    gpus = view.sample(sample(BUSY, TINY, GpuReading(index=2)))["gpus"]
    assert [gpu_text(gpu) for gpu in gpus] == [
        "sm 95.9 %, tensor 93.1 %, utilization 99 %, 4.29GB, 719 W, 1350 MHz (power cap), Xid 79, "
        "2 ECC errors",
        "idle: sm 0.03 %, utilization 18 %, 130 W",
        "nothing is told",
    ]


@pytest.mark.parametrize(
    ("joules", "source", "text"),
    [
        (None, None, ""),
        (0.0, "measured", "0 J, measured"),
        (3599.0, "modelled", "3599 J, modelled"),
        (5_000_000.0, "measured", "1.39 kWh, measured"),
    ],
)
def test_energy_in_words(joules: float | None, source: str | None, text: str) -> None:
    assert energy_text(joules, source) == text


def test_top_shows_work_beside_utilization() -> None:
    columns = {column.name: column for column in TOP_COLUMNS}

    def shown(name: str, row: dict[str, Any]) -> str:
        show = columns[name].show
        assert show is not None
        return show(row)

    row = {"sample": view.sample(sample(TINY, GpuReading(index=2)))}
    assert (shown("gpu", row), shown("sm", row)) == ("18% ?", "0% ?")
    assert shown("sm", {"sample": view.sample(sample(GpuReading(index=0, utilization_ratio=1.0)))}) == "-"
    assert shown("sm", {"sample": None}) == "-"


def test_the_last_summary_is_shown_until_the_next_and_kept_once() -> None:
    live = LiveTelemetry()
    for gpu in (BUSY, GpuReading(index=0), GpuReading(index=0)):
        live.take("n", pb.TelemetryBatch(samples=[sample(gpu, TINY)]), {}, FACTS, 0)
    newest = live.newest("n")
    assert newest is not None
    assert newest.gpus[0].summary.window_us == 10_000_000
    assert not newest.gpus[1].HasField("summary")
    kept = [one.gpus[0].HasField("summary") for one in live._windows["n"]]
    assert kept == [False, False, True]
    newer = GpuReading(index=0, summary=Summary(window_us=9))
    live.take("n", pb.TelemetryBatch(samples=[sample(newer)]), {}, FACTS, 0)
    newest = live.newest("n")
    assert newest is not None
    assert newest.gpus[0].summary.window_us == 9


def member(node: str, *devices: int) -> pb.Member:
    return pb.Member(
        rank=0, node=node, devices=[pb.DeviceShare(index=index, milli=1000) for index in devices]
    )


def test_a_running_job_is_shown_with_its_own_processes_and_devices_alone() -> None:
    other = AttemptReading(attempt_id="att_2", rank=0)
    reading = sample(BUSY, TINY, attempts=(other, ATTEMPT))
    wire = pb.Job(
        attempts=[
            pb.Attempt(id="att_0", state="ENDED", members=[member("n", 0)]),
            pb.Attempt(id="att_1", state="RUNNING", members=[member("n", 1), member("silent", 0)]),
        ]
    )
    add_samples(wire, lambda node: reading if node == "n" else None)
    ended, (here, silent) = wire.attempts[0].members[0], wire.attempts[1].members
    assert [gpu.index for gpu in here.gpus] == [1]
    assert here.sample.gpu_energy_millijoules == 1_500
    assert (len(ended.gpus), len(silent.gpus)) == (0, 0)
    assert not ended.HasField("sample")
    text = job_text(view.job(wire))
    assert "n[1] idle: sm 0.03 %, utilization 18 %, 130 W" in text
    assert "n energy so far: 2 J, measured" in text


@pytest.mark.parametrize(("used", "told"), [(None, False), (40, False), (41, True)])
def test_memory_beyond_a_members_share_is_told(used: int | None, told: bool) -> None:
    own = AttemptReading(attempt_id="att_1", rank=0, gpu_memory_used_bytes=used)
    running = pb.Attempt(id="att_1", state="RUNNING", members=[member("n", 0)])
    running.members[0].gpu_memory_share_bytes = 40
    wire = pb.Job(attempts=[running])
    add_samples(wire, lambda _: sample(attempts=(own,)))
    assert ("more than its share of" in job_text(view.job(wire))) is told


def test_a_share_of_a_device_is_that_share_of_its_memory() -> None:
    facts = NodeFacts(
        name="n",
        cpu_milli=1,
        memory_bytes=1,
        devices=(Device(0, "a", "H100", 80), Device(1, "b", "H100", 60)),
    )
    node = SimpleNamespace(facts=facts)
    shares = (DeviceShare(0, 500), DeviceShare(1, 1000), DeviceShare(7, 1000))
    assert _memory_share(node, shares) == 100  # type: ignore[arg-type]
    assert _memory_share(None, shares) == 0


def test_energy_of_several_members_is_measured_only_when_all_of_it_is() -> None:
    assert _source_of_both("", "measured") == "measured"
    assert _source_of_both("measured", "") == "measured"
    assert _source_of_both("simulated", "simulated") == "simulated"
    assert _source_of_both("measured", "modelled") == "modelled"
    found = view.job(pb.Job(gpu_energy_millijoules=2_500, gpu_energy_source="modelled"))
    assert (found["gpu_energy_joules"], found["gpu_energy_source"]) == (2.5, "modelled")
    assert view.job(pb.Job())["gpu_energy_joules"] is None


def test_an_order_tells_the_agent_which_devices_are_the_members() -> None:
    from bursard.fleet import Assign
    from bursard.services.agents import _assignment

    order = Assign(
        attempt_id="att_1", rank=0, boot_id="b", job_id="job_1", time_limit_us=0, grace_us=0,
        checkpoint_signal="", user="", memory_bytes=0, cpu_milli=0, log_cap_bytes=0, launch=b"{}",
        devices=(DeviceShare(2, 500), DeviceShare(3, 1000)),
    )  # fmt: skip
    from bursar_agent.link.wire import _assignment as read

    assert read(_assignment(order)).devices == ((2, 500), (3, 1000))  # type: ignore[arg-type]
