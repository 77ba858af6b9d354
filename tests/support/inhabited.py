"""A site with something of everything, for tests of what is shown and answered.

Nodes of several kinds, jobs in every state and of every end, and documents of every kind.
"""

from __future__ import annotations

from typing import Any

from whole_site import Site

from bursar.clock import HOUR_US, SECOND_US
from bursar.model import ArraySpec, Dependency, Device, EndCause, NodeFacts, RetrySpec
from bursar.resources import GpuRequest, ResourceRequest
from bursar.v1 import types_pb2 as pb
from bursard.events import ExitReport
from bursard.state.decide import attempts, nodes

POLICIES = """\
kind: CostModel
name: own
spec: {pool: p, node_capex: 100003 USD, useful_life: 5y}
---
kind: Budget
name: nlp
spec: {scope: {project: nlp}, limit: 900 USD, period: month, thresholds: [{at: 1%, do: [notify]}]}
---
kind: Budget
name: small
spec: {scope: {project: cv}, limit: 1 USD, period: one-time}
---
kind: Budget
name: soft
spec: {scope: {user: ann}, limit: 50 USD, enforcement: soft, carry_over: 20%}
---
kind: PriceBook
name: book
spec:
  source: a page
  currency: USD
  defaults: {provider: aws, region: r1, market: on-demand, valid_from: 2026-01-01}
  prices:
    - {instance_type: i1, price: 4 USD/h, cpus: 8, memory: 64GiB, gpus: "H100:2", gpu_memory: 80GB}
    - {instance_type: i1, price: 1 USD/h, market: spot}
    - {instance_type: i2, price: 2 USD/h, region: r2, cpus: 4, memory: 8GiB}
---
kind: SlurmNames
name: names
spec: {partitions: {gpu: {constraints: {pool: p}}}, accounts: {a1: {project: nlp}, a2: {project: hidden}}}
"""
ONE_GPU = (ResourceRequest(GpuRequest(1), 1_000, 1 << 30),)


def add_node(site: Site, name: str, gpus: int = 0, **facts: Any) -> None:
    devices = tuple(Device(at, f"{name}-{at}", "H100", 80 << 30, simulated=True) for at in range(gpus))
    known: dict[str, Any] = {"cpu_milli": 8_000, "memory_bytes": 64 << 30, "pool": "p"} | facts
    has = NodeFacts(name=name, devices=devices, **known)
    said = nodes.hello(
        site.engine.state, site.engine.ids, site.engine.prices, facts=has,
        boot_id="b", boot_us=site.clock.boot_us(), now=site.engine.now(),
    )  # fmt: skip
    site.engine.commit(said, f"node:{name}")


def begin(site: Site, job_id: str) -> Any:
    state, attempt = site.engine.state, site.place(job_id)
    for member in attempt.members:
        node = state.nodes[member.alloc.node_id]
        told = attempts.started(state, node, attempt.id, member.alloc.rank, site.clock.boot_us(), 1)
        site.engine.commit(told, f"node:{node.facts.name}")
    return attempt


def end(site: Site, attempt: Any, *reports: ExitReport) -> None:
    state, began = site.engine.state, site.clock.boot_us()
    site.clock.advance(60 * SECOND_US)
    for member, report in zip(list(attempt.members), reports, strict=True):
        node = state.nodes[member.alloc.node_id]
        told = attempts.exited(state, node, attempt.id, member.alloc.rank, report, began)
        site.engine.commit(told, f"node:{node.facts.name}")


def failed(
    code: int = -1, signal: int = 0, cause: EndCause = EndCause.FAILED, message: str = ""
) -> ExitReport:
    return ExitReport(
        cause=cause, exit_code=code, signal=signal, held_us=60 * SECOND_US, message=message, cpu_us=5_000_000,
        max_rss_bytes=123_456_789, log_bytes=77,
    )  # fmt: skip


def inhabit(site: Site) -> None:
    """Nodes of several kinds, and jobs in every state and of every end."""
    add_node(site, "g1", 4, rack="r1", zone="z1", labels=(("tier", "gold"),))
    add_node(site, "g2", 4, rack="r1", zone="z2")
    add_node(site, "cloud", provider="aws", region="r1", instance_type="i1", market="spot", pool="c")
    add_node(site, "dear", provider="aws", region="r9", instance_type="none", pool="d")
    done = site.job("ann", "nlp", name="done", experiment="e", model="m", labels=(("k", "v"),))
    end(site, begin(site, done), failed(0, cause=EndCause.COMPLETED))
    for name, report in (
        ("code", failed(3)), ("signal", failed(signal=9)), ("memory", failed(cause=EndCause.OUT_OF_MEMORY)),
        ("program", failed(127, message="prog: not found")), ("time", failed(cause=EndCause.TIME_LIMIT)),
        ("nostart", failed(cause=EndCause.START_FAILED, message="no such directory /x")),
        ("lost", failed(cause=EndCause.NODE_LOST)),
    ):  # fmt: skip
        end(site, begin(site, site.job("bob", "nlp/a", name=name)), report)
    gang = begin(site, site.job("ann", "nlp", name="gang", nodes=2, options=ONE_GPU))
    end(site, gang, failed(0, cause=EndCause.COMPLETED), failed(2))
    array = site.job("ann", "nlp", name="array", array=ArraySpec(((0, 6, 1),), 6))
    fine, missing = failed(0, cause=EndCause.COMPLETED), failed(127, message="x: not found")
    for index, report in enumerate((failed(3), failed(3), failed(signal=9), fine, missing, failed(3))):
        end(site, begin(site, f"{array}.{index}"), report)
    begin(
        site,
        site.job(
            "ann", "nlp", name="running", nodes=2, options=(ResourceRequest(GpuRequest(2), 2_000, 1 << 33),)
        ),
    )
    begin(
        site,
        site.job(
            "bob", "ops", name="half", options=(ResourceRequest(GpuRequest(1, milli=500), 1_000, 1 << 30),)
        ),
    )
    site.job("ann", "nlp", name="again", retry=RetrySpec(on=("failed",), max=2))
    site.job("ann", "nlp", name="large", nodes=9)
    site.job("ann", "nlp", name="wide", options=(ResourceRequest(GpuRequest(8), 1_000, 1 << 30),))
    site.job("ann", "nlp", name="type", options=(ResourceRequest(GpuRequest(1, ("A100",)), 1_000, 1 << 30),))
    site.job("ann", "nlp", name="fast", options=(ResourceRequest(None, 900_000, 1 << 30),))
    site.job("ann", "nlp", name="fat", options=(ResourceRequest(None, 1_000, 1 << 50),))
    site.job("ann", "nlp", name="busy", options=(ResourceRequest(GpuRequest(4), 1_000, 1 << 30),))
    site.job("ann", "nlp", name="odd", constraints=(("zone", "zz"),))
    site.job("ann", "nlp", name="later", begin_after=site.engine.now() + HOUR_US)
    site.job("ann", "nlp", name="held", held=True)
    site.job(
        "ann", "nlp", name="after", depends_on=(Dependency(site.job("ann", "nlp", name="first", held=True)),)
    )
    site.job("ann", "nlp", name="many", array=ArraySpec(((0, 500, 1),), 2))
    site.job("cid", "hidden", name="secret", options=ONE_GPU)


def tell_readings(site: Site) -> None:
    """Both nodes with devices tell all that can be read of them, and of each process what it tells."""
    state = site.engine.state
    for name in ("g1", "g2"):
        node = state.node_by_name(name)
        assert node is not None
        batch = pb.TelemetryBatch(cluster_id="c1", node=name)
        live = {}
        for turn in range(2):
            sample = batch.samples.add(
                at=site.engine.now() + turn,
                cpu_utilization_ratio=0.25,
                memory_used_bytes=3 << 30,
                power_watts=410.5,
            )
            for index in range(4):
                gpu = sample.gpus.add(
                    index=index, utilization_ratio=0.5 + index / 10, memory_used_bytes=(index + 1) << 30,
                    power_watts=300 + index, temperature_celsius=60.5, simulated=True, sm_clock_mhz=1_410,
                    clock_reasons=4, sm_ratio=0.25, sm_occupancy_ratio=0.125, tensor_ratio=0.0625,
                    dram_ratio=0.5, fp64_ratio=0.75, fp32_ratio=0.375, fp16_ratio=0.875, ecc_corrected=3,
                    ecc_uncorrected=1, remapped_rows=2,
                )  # fmt: skip
                if not turn:
                    gpu.summary.window_us = 10_000_000
                    gpu.summary.utilization_ratio.mean, gpu.summary.power_watts.max = 0.5, 400
            for attempt_id in node.live:
                attempt = state.attempts[attempt_id]
                rank = next(one.alloc.rank for one in attempt.members if one.alloc.node_id == node.id)
                live[attempt_id] = rank
                sample.attempts.add(
                    attempt_id=attempt_id, rank=rank, cpu_utilization_ratio=1.5, memory_used_bytes=1 << 30,
                    processes=7, gpu_memory_used_bytes=2 << 30, gpu_sm_ratio=0.5,
                    gpu_energy_millijoules=12_345,
                    progress=pb.Progress(
                        step=10, total=100, samples=320, tokens=4_000, elapsed_us=60_000_000,
                        data_wait_us=1_000_000, compute_us=40_000_000, communication_us=9_000_000,
                        checkpoint_us=2_000_000, mfu_ppm=410_000,
                        steps_per_second=0.25, samples_per_second=8, tokens_per_second=100,
                    ),
                )  # fmt: skip
        site.telemetry.take(name, batch, live, node.facts, site.engine.now())
