"""What a node delivers: the job that measures it, what is kept of it, and what a PFLOP-day costs there."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from money_daemon import ANN, COST_MODEL, Daemon, in_a_daemon

from bursar import calibration
from bursar.cli.calibrate import _why_failed, found_in, job_of
from bursar.cli.texts import node_text
from bursar.codec import view
from bursar.codec.spec import calibration_to_wire
from bursar.codec.view.scalars import money
from bursar.errors import InvalidRequest, WrongState
from bursar.model import Calibration
from bursar.model.check import check
from bursar.resources import GpuRequest
from bursar.v1 import nodes_pb2, types_pb2
from bursard.access.identity import set_caller
from bursard.events import NodeCalibrated, NodeRegistered
from bursard.services.nodes import RATE_MAX, NodesService
from bursard.services.views import node_view

FOUND = Calibration(
    at=7, job_id="job_1", torch="2.11", devices=2, bf16_flops_per_second=500 * 10**12,
    fp32_flops_per_second=50 * 10**12, memory_bytes_per_second=4 * 10**12,
)  # fmt: skip


def node(**changes: Any) -> dict[str, Any]:
    free = [{"free": 1}, {"free": 1}, {"free": 0.5}]
    base = {
        "name": "n", "simulated": False, "state": "up", "devices": free, "cpus_free": 64,
        "memory_free_bytes": 64 << 30,
    }  # fmt: skip
    return base | changes


def test_the_job_takes_every_device_that_is_wholly_free_on_that_node_and_no_other() -> None:
    job = job_of(node(), "ops", "/opt/python3")
    assert check(job) == []
    (asked,) = job.options
    assert (asked.gpus, asked.cpu_milli, asked.memory_bytes) == (GpuRequest(2), 4_000, 16 << 30)
    assert (job.constraints, job.project) == ((("node", "n"),), "ops")
    assert job.script.startswith("#!/opt/python3\n")
    compile(job.script, "calibration", "exec")
    assert job_of(node(), "ops", "python3").script.startswith("#!/usr/bin/env python3\n")


@pytest.mark.parametrize(
    ("code", "message", "said"),
    [
        (
            3,
            "",
            "python9 on n has no torch; run `python9 -m pip install torch` there, or name another --python",
        ),
        (
            127,
            "command not found",
            "there is no program python9 on n; name one that is there, and has torch, by --python",
        ),
        (1, "it failed by itself", "job 7 FAILED: it failed by itself; `bursar logs 7` has what it printed"),
        (1, "", "job 7 FAILED; `bursar logs 7` has what it printed"),
    ],
)
def test_what_kept_it_from_measuring_is_said_with_what_to_do(code: int, message: str, said: str) -> None:
    ended = types_pb2.Job(state="FAILED", exit_code=code, end=types_pb2.End(message=message))
    assert _why_failed(7, ended, "python9", "n") == said


def test_a_node_without_devices_is_measured_by_its_cpus() -> None:
    (asked,) = job_of(node(devices=[], cpus_free=3), "p", "python3").options
    assert (asked.gpus, asked.cpu_milli) == (None, 3_000)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"simulated": True}, "simulated devices"),
        ({"state": "cordoned"}, "is cordoned and takes no job"),
        ({"devices": [{"free": 0.5}]}, "no device of n is free now"),
        ({"cpus_free": 0.5}, "less than one CPU free"),
    ],
)
def test_where_nothing_can_be_measured_now_no_job_is_submitted(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(WrongState, match=why):
        job_of(node(**changes), "p", "python3")


def test_what_it_prints_is_what_is_read() -> None:
    told = {
        "torch": "2.11", "devices": 2, "matmul_flops_per_second": {"bf16": 5, "other": 1},
        "memory_bytes_per_second": 6, "allreduce_bytes_per_second": None, "disk_read_bytes_per_second": 8,
    }  # fmt: skip
    log = f"a warning\n{calibration.MARK} {{}}\n{calibration.MARK} {json.dumps(told)}\n"
    assert found_in(log, "job_1") == types_pb2.Calibration(
        job="job_1", torch="2.11", devices=2, bf16_flops_per_second=5, memory_bytes_per_second=6,
        disk_read_bytes_per_second=8,
    )  # fmt: skip


@pytest.mark.parametrize("log", ["", "bursar-calibration", "bursar-calibration {", "bursar-calibration 7"])
def test_a_log_without_figures_is_said(log: str) -> None:
    with pytest.raises(WrongState, match="printed nothing that could be kept"):
        found_in(log, "job_1")


def test_of_several_devices_the_slowest_counts_and_what_is_not_there_is_not_known() -> None:
    class Torch:
        """Two devices that multiply, one slower than the other, and copy nothing."""

        __version__ = "9"
        float64 = float32 = bfloat16 = float16 = uint8 = None
        backends = SimpleNamespace(cuda=SimpleNamespace(matmul=SimpleNamespace(allow_tf32=False)))
        cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 2)

    rates = {"cuda:0": 9.0, "cuda:1": 4.4}
    found: dict[str, Any] = {}

    class Bench(calibration.Bench):
        def matmul(self, name: str, device: str) -> float | None:
            return None if name == "fp64" else rates[device]

        def copy(self, device: str) -> float | None:
            return None if device == "cuda:1" else 3.0

        def allreduce(self, devices: list[str]) -> float | None:
            found["devices"] = devices
            return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "Bench", Bench)
        patch.setattr(calibration, "disk", lambda folder: {"disk_write": 1.5, "disk_read": None})
        told = calibration.measure(Torch, "/nowhere")
    assert found["devices"] == ["cuda:0", "cuda:1"]
    assert told == {
        "torch": "9", "devices": 2,
        "matmul_flops_per_second": {"bf16": 4, "fp16": 4, "tf32": 4, "fp32": 4},
        "memory_bytes_per_second": None, "allreduce_bytes_per_second": None,
        "disk_write_bytes_per_second": 2, "disk_read_bytes_per_second": None,
    }  # fmt: skip


def in_a_site(story: Callable[[Daemon, NodesService], Awaitable[None]]) -> None:
    async def whole(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("n")
        service = NodesService(daemon.engine, None, None, None)  # type: ignore[arg-type]
        await story(daemon, service)

    in_a_daemon(whole)


def test_a_pflop_day_costs_a_day_of_the_node_by_what_all_its_devices_deliver() -> None:
    async def story(daemon: Daemon, service: NodesService) -> None:
        state = daemon.engine.state
        record = state.node_by_name("n")
        assert record is not None
        daemon.engine.commit([NodeCalibrated(record.id, FOUND)], "ann")
        row = view.node(node_view(state, record, None, 0, ANN, 0))
        # 2 devices of 0.5 PFLOP/s are one: a day of the node, cut to the nano.
        day = money(record.rates.total * 24, state.currency)
        assert row["calibration"]["cost_per_pflop_day"] == day
        assert row["calibration"]["pflop_day_precision"] == "bf16"
        assert "bf16 500 TFLOP/s, fp32 50 TFLOP/s" in node_text(row)

    in_a_site(story)


def test_it_is_forgotten_when_the_node_comes_with_other_devices_and_outlives_a_restart() -> None:
    async def story(daemon: Daemon, service: NodesService) -> None:
        state = daemon.engine.state
        record = state.node_by_name("n")
        assert record is not None
        daemon.engine.commit([NodeCalibrated(record.id, FOUND)], "ann")
        same = msgspec.structs.replace(record.facts, cpu_milli=1)
        daemon.engine.commit([NodeRegistered(record.id, same)], "node:n")
        assert record.calibration == FOUND
        less = msgspec.structs.replace(record.facts, devices=record.facts.devices[:1])
        daemon.engine.commit([NodeRegistered(record.id, less)], "node:n")
        assert record.calibration is None

    in_a_site(story)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"job": "7"}, "found.job"),
        ({"job": "job_" + "x" * 99}, "found.job"),
        ({"torch": "2\n"}, "found.torch"),
        ({"torch": "2" * 99}, "found.torch"),
        ({"devices": 3}, "n has 2"),
        ({"bf16_flops_per_second": RATE_MAX + 1}, "each at most"),
    ],
)
def test_what_cannot_be_is_not_kept(changes: dict[str, Any], why: str) -> None:
    async def story(daemon: Daemon, service: NodesService) -> None:
        wire = calibration_to_wire(FOUND)
        for name, value in changes.items():
            setattr(wire, name, value)
        set_caller(ANN)
        with pytest.raises(InvalidRequest, match=why):
            await service.Calibrate(nodes_pb2.CalibrateRequest(node="n", found=wire), None)

    in_a_site(story)
