"""Live readings are cut to what their node can have, at an instant near the daemon's."""

from __future__ import annotations

from typing import Any

import pytest

from bursar.clock import HOUR_US, format_instant
from bursar.model import Device, NodeFacts
from bursar.v1.types_pb2 import AttemptSample, GpuSample, Sample, TelemetryBatch
from bursard.fleet import readings
from bursard.telemetry import LiveTelemetry

NOW = 1_767_225_600_000_000
SIZE = 80 << 30
FACTS = NodeFacts(
    name="n-1",
    cpu_milli=8_000,
    memory_bytes=1 << 30,
    devices=(Device(0, "a", "H100", SIZE), Device(1, "b", "H100", SIZE)),
)


def cut(facts: NodeFacts = FACTS, **fields: Any) -> Sample:
    one = Sample(**{"at": NOW, **fields})
    readings.cut(one, facts, NOW)
    return one


@pytest.mark.parametrize("at", [NOW - HOUR_US, NOW, NOW + HOUR_US])
def test_a_wall_clock_a_little_off_is_shown_as_it_is(at: int) -> None:
    assert cut(at=at).at == at


@pytest.mark.parametrize("at", [0, NOW - HOUR_US - 1, NOW + HOUR_US + 1, 2**62])
def test_a_reading_of_another_age_is_of_its_arrival(at: int) -> None:
    assert cut(at=at).at == NOW


def test_a_device_that_the_node_lacks_is_not_shown() -> None:
    kept = cut(gpus=[GpuSample(index=15, utilization_ratio=1.0), GpuSample(index=1, utilization_ratio=0.25)])
    assert [(gpu.index, gpu.utilization_ratio) for gpu in kept.gpus] == [(1, 0.25)]
    assert not cut(NodeFacts(name="n", cpu_milli=1, memory_bytes=1 << 30), gpus=[GpuSample()]).gpus


def test_no_more_memory_is_shown_than_there_is() -> None:
    attempts = [AttemptSample(attempt_id="att_1", gpu_memory_used_bytes=2**60)]
    kept = cut(gpus=[GpuSample(index=0, memory_used_bytes=2**60)], attempts=attempts)
    assert kept.gpus[0].memory_used_bytes == SIZE
    assert kept.attempts[0].gpu_memory_used_bytes == 2 * SIZE
    unknown = NodeFacts(name="n", cpu_milli=1, memory_bytes=1 << 30, devices=(Device(0, "", "X"),))
    kept = cut(unknown, gpus=[GpuSample(index=0, memory_used_bytes=2**60)], attempts=attempts)
    assert kept.gpus[0].memory_used_bytes == kept.attempts[0].gpu_memory_used_bytes == 2**60


@pytest.mark.parametrize(
    ("figures", "shown"),
    [
        ({"mean": 0.5, "p50": 0.5, "p95": 0.9, "max": 1.0}, True),
        ({"mean": 0.5, "p50": 0.5, "p95": 0.5, "max": 0.5}, True),
        ({"mean": 0.6, "p50": 0.5, "p95": 0.5, "max": 0.5}, False),
        ({"mean": 0.5, "p50": 0.9, "p95": 0.8, "max": 1.0}, False),
        ({"mean": 0.5, "p50": 0.5, "p95": 1.0, "max": 0.9}, False),
    ],
)
def test_a_summary_out_of_order_is_not_shown(figures: dict[str, float], shown: bool) -> None:
    kept = cut(gpus=[{"index": 0, "summary": {"window_us": 1, "utilization_ratio": figures}}])
    assert kept.gpus[0].HasField("summary") is shown


def test_a_summary_of_more_memory_than_the_device_has_is_not_shown() -> None:
    for most, shown in ((SIZE, True), (SIZE + 1e6, False)):
        kept = cut(gpus=[{"index": 1, "summary": {"memory_used_bytes": {"max": most}}}])
        assert kept.gpus[0].HasField("summary") is shown


def test_what_is_kept_is_cut() -> None:
    live = LiveTelemetry()
    wrong = Sample(at=2**62, gpus=[GpuSample(index=9)])
    live.take("n-1", TelemetryBatch(samples=[wrong]), {}, FACTS, NOW)
    newest = live.newest("n-1")
    assert newest is not None
    assert (newest.at, len(newest.gpus)) == (NOW, 0)


def test_an_instant_that_no_calendar_has_is_written_as_its_nearest() -> None:
    assert format_instant(2**62) == format_instant(2**63 - 1) == "9999-12-31T23:59:59.999999Z"
    assert format_instant(-(2**63)) == "0001-01-01T00:00:00Z"
    assert format_instant(NOW) == "2026-01-01T00:00:00Z"
