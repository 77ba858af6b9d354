"""How long a plan takes on a large site: snapshot, plan and sentences, in milliseconds of CPU.

Load    nodes of 8 GPUs in 8 types, nearly full; as many pending jobs as asked of some hundred shapes at three
        priorities, under three budgets, with as many different time limits as jobs; in each cycle half of the
        events are ends, half submissions. The site is filled by hand, not by plans, so that a run is short.
        The state's own columns and queues are used.
Prints  p50 and p99 over the cycles of snapshot and plan together (`cycle`); CPU time, since
        wall time says more about the neighbours. `--slopes`: the same for 1,000 and 10,000 nodes, for 10,000
        and 1,000,000 pending jobs. `--drain`: placements a second onto empty nodes, by the fastest of several
        plans: one alone says how busy the machine was.
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
import time

import numpy as np

from bursar.model import Device, DeviceShare, MemberAllocation, NodeFacts, ShareRates
from bursar.resources import MILLI, GpuRequest, ResourceRequest
from bursar_policies.decision import BudgetRoom, JobClass, Plan, Snapshot
from bursar_policies.specs import ReservationSpec
from bursard.scheduler import PlanCache, plan, reason_of
from bursard.state.cluster import Cluster
from bursard.state.columns import Members
from bursard.state.pending import PendingIndex

TYPES = ("T4", "L4", "A10", "V100", "A100", "H100", "H200", "B200")
GIB = 1 << 30
HOUR_US = 3_600_000_000
NOW = 1_767_225_600_000_000
CYCLE_US = 60_000_000
BUDGETS = ("a", "b", "c")
REASONS_ASKED = 100
"""Sentences of one page of `bursar ls`."""


def shapes(count: int, draw: random.Random) -> list[JobClass]:
    """Different things to ask for: CPUs alone, shares of a GPU, GPUs, gangs."""
    found: dict[JobClass, None] = {}
    while len(found) < count:
        kind = draw.random()
        gpus = None
        if kind >= 0.35:
            types = tuple(sorted(draw.sample(TYPES, draw.choice([1, 1, 2])))) if draw.random() < 0.6 else ()
            gpus = GpuRequest(draw.choice([1, 1, 1, 2, 2, 4, 8]), types)
        elif kind >= 0.15:
            types = tuple(draw.sample(TYPES, 1)) if draw.random() < 0.5 else ()
            gpus = GpuRequest(1, types, draw.choice([100, 200, 250, 300, 500, 700]))
        whole = gpus is not None and gpus.milli == MILLI and gpus.count == 8
        cpus = draw.choice([1, 2, 4, 6, 8, 12, 16]) * (gpus.count if gpus is not None else 1)
        limit_us = draw.choice([1, 4, 12, 24]) * HOUR_US
        asked = JobClass(
            nodes=draw.choice([1] * 9 + [2, 4, 8, 16]) if whole else 1,
            options=(ResourceRequest(gpus, min(cpus, 120) * MILLI, draw.choice([4, 8, 16, 32, 64]) * GIB),),
            ordered=False,
            constraints=(),
            spot_policy="auto",
            time_limit_us=limit_us,
            hold_us=limit_us + 90_000_000,
            budgets=(draw.choice(BUDGETS),),
        )
        found[asked] = None
    return list(found)


class Site:
    """The state's own columns and queues, moved by hand."""

    def __init__(self, nodes: int, classes: list[JobClass], draw: random.Random) -> None:
        self.cluster, self.members, self.pending = Cluster(), Members(), PendingIndex()
        self.classes, self.draw = classes, draw
        self.live: dict[str, list[tuple[int, MemberAllocation]]] = {}
        self.of: dict[str, JobClass] = {}
        self.orders = self.now = 0
        self.reservations: dict[str, ReservationSpec] = {}
        self.typical = tuple((one.options[0], draw.randint(1, 50)) for one in classes[:35])
        for number in range(nodes):
            kind = number % len(TYPES)
            devices = tuple(Device(i, f"{number}-{i}", TYPES[kind], 80 * GIB) for i in range(8))
            facts = NodeFacts(
                name=f"n{number:06}", cpu_milli=128_000, memory_bytes=1 << 40, devices=devices, pool="p"
            )
            row = self.cluster.add(f"node_{number:06}", facts)
            rate = (kind + 1) * 4_000_000_000
            self.cluster.set_price(row, "x", ShareRates(rate * 85 // 100, rate * 10 // 100, rate * 5 // 100))
            self.cluster.set_ready(row, True)

    def fill(self) -> None:
        """Something on every node: mostly whole GPUs, some shares, until half a dozen draws did not fit."""
        large = [one for one in self.classes if (gpus := one.options[0].gpus) and gpus.count >= 2]
        for row in range(len(self.cluster.ids)):
            misses = 0
            while misses < 6:
                asked = self.draw.choice(large if self.draw.random() < 0.8 else self.classes)
                if asked.nodes > 1 or not self._put(row, asked):
                    misses += 1

    def _put(self, row: int, asked: JobClass) -> bool:
        request, cluster = asked.options[0], self.cluster
        if cluster.cpu_free[row] < request.cpu_milli or cluster.memory_free[row] < request.memory_bytes:
            return False
        devices: tuple[DeviceShare, ...] = ()
        if (gpus := request.gpus) is not None:
            if gpus.types and TYPES[row % len(TYPES)] not in gpus.types:
                return False
            fitting = np.flatnonzero(cluster.gpu_free[row] >= gpus.milli)[: gpus.count].tolist()
            if len(fitting) < gpus.count:
                return False
            devices = tuple(DeviceShare(index, gpus.milli) for index in fitting)
        job_id = f"f{len(self.of)}"
        self.of[job_id] = asked
        ends_at = NOW + self.draw.randint(1, 24) * HOUR_US
        self._take(job_id, row, _alloc(0, devices, request), ends_at)
        return True

    def _take(self, job_id: str, row: int, alloc: MemberAllocation, ends_at: int) -> None:
        self.cluster.take(row, alloc)
        self.members.add(job_id, row, alloc, ends_at)
        self.live.setdefault(job_id, []).append((row, alloc))

    def submit(self) -> None:
        """One more waits."""
        # Every limit is another: users' own, to the millisecond.
        limit_us = self.draw.randrange(HOUR_US // 60_000, 24 * HOUR_US // 1_000) * 1_000 + self.orders % 1_000
        asked = self.draw.choice(self.classes).limited(limit_us)
        job_id = f"j{self.orders}"
        self.of[job_id] = asked
        self.pending.add(job_id, asked, 25 + 25 * (self.orders % 3), self.orders)
        self.orders += 1

    def end(self, job_id: str) -> None:
        """One that ran is gone."""
        for row, alloc in self.live.pop(job_id):
            self.cluster.give(row, alloc)
            self.members.remove(job_id, alloc.rank)

    def snapshot(self) -> Snapshot:
        """As the state takes it."""
        return Snapshot(
            version=self.now,
            nodes=self.cluster.columns(),
            queues=self.pending.queues(),
            running=self.members.columns(),
            budgets={name: BudgetRoom(name, 10**18, 0, 0, "USD") for name in BUDGETS},
            typical=self.typical,
            facts_version=self.cluster.facts_version + 1,
            reservations=self.reservations,
        )

    def reserve(self, count: int) -> None:
        """So many windows of a hundredth of the nodes each, two hours after one another, for nobody here."""
        each = max(len(self.cluster.names) // 100, 1)
        for number in range(count):
            names = tuple(self.cluster.names[number * each : (number + 1) * each])
            starts_at = NOW + (1 + 2 * number) * HOUR_US
            self.reservations[f"r{number:02}"] = ReservationSpec(names, starts_at, starts_at + 4 * HOUR_US)

    def do(self, made: Plan) -> None:
        """Start what the plan wants."""
        for start in made.starts:
            self.pending.remove(start.job_id)
            asked = self.of[start.job_id]
            ends_at = NOW + self.now + asked.hold_us
            for rank, member in enumerate(start.members):
                alloc = _alloc(rank, member.devices, asked.options[start.option])
                self._take(start.job_id, member.node, alloc, ends_at)


def _alloc(rank: int, devices: tuple[DeviceShare, ...], request: ResourceRequest) -> MemberAllocation:
    return MemberAllocation(
        rank=rank,
        node_id="",
        devices=devices,
        cpu_milli=request.cpu_milli,
        memory_bytes=request.memory_bytes,
        rates=ShareRates(),
        price_id="x",
    )


def cpu_ms() -> float:
    return time.process_time() * 1e3


def measure(site: Site, cycles: int, events: int) -> dict[str, list[float]]:
    """CPU milliseconds by part, one entry a cycle; the first cycle, which fills the cache, is left out."""
    # As the daemon does once it has read its state: a plan is not timed for a look at all that there is.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    cache = PlanCache()
    found: dict[str, list[float]] = {"cycle": [], "snapshot": [], "plan": [], "reasons": [], "starts": []}
    for cycle in range(cycles + 1):
        site.now += CYCLE_US
        for job_id in site.draw.sample(sorted(site.live), min(events // 2, len(site.live))):
            site.end(job_id)
        for _ in range(events // 2):
            site.submit()
        began = cpu_ms()
        shot = site.snapshot()
        frozen = cpu_ms()
        made = plan(shot, NOW + site.now, cache)
        planned = cpu_ms()
        for index in list(made.verdicts)[:REASONS_ASKED]:
            reason_of(shot, made, index)
        asked = cpu_ms()
        site.do(made)
        if cycle:
            parts = (planned - began, frozen - began, planned - frozen, asked - planned, len(made.starts))
            for name, value in zip(found, parts, strict=True):
                found[name].append(value)
    return found


def steady(nodes: int, pending: int, flags: argparse.Namespace) -> float:
    """Print a site that is nearly full; its median cycle in milliseconds."""
    draw = random.Random(1)
    site = Site(nodes, shapes(flags.shapes, draw), draw)
    site.fill()
    site.reserve(flags.reserved)
    for _ in range(pending):
        site.submit()
    found = measure(site, flags.cycles, flags.events)
    print(
        f"{nodes} nodes, {len(site.pending)} pending, {len(site.members)} members run,"
        f" {flags.events} events a cycle, {flags.cycles} cycles"
    )
    for name in ("cycle", "snapshot", "plan", "reasons"):
        p50, p99 = np.percentile(found[name], (50, 99))
        print(f"{name:<10} p50 {p50:8.1f} ms CPU   p99 {p99:8.1f} ms CPU")
    print(f"{'starts':<10} p50 {np.median(found['starts']):8.0f} a cycle")
    print(f"{'memory':<10} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:12.0f} MB", flush=True)
    return float(np.median(found["cycle"]))


def slopes(flags: argparse.Namespace) -> None:
    """How the median cycle grows with nodes and with what waits: 1 is linear."""
    for what, sizes in (
        ("nodes", ((1_000, flags.pending), (10_000, flags.pending))),
        ("pending", ((flags.nodes, 10_000), (flags.nodes, 1_000_000))),
    ):
        few, many = (steady(nodes, pending, flags) for nodes, pending in sizes)
        at = 0 if what == "nodes" else 1
        slope = np.log(many / few) / np.log(sizes[1][at] / sizes[0][at])
        print(f"slope over {what}, {sizes[0][at]} to {sizes[1][at]}: {slope:.2f} (1 is linear)", flush=True)


def drain(nodes: int, jobs: int, classes: list[JobClass], what: str, times: int) -> None:
    """Plans of many jobs onto empty nodes, each without a cache: what the fastest of them starts a second,
    the snapshot included.
    """
    draw = random.Random(2)
    site = Site(nodes, classes, draw)
    for _ in range(jobs):
        site.submit()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    took: list[float] = []
    for _ in range(times):
        began = cpu_ms()
        made = plan(site.snapshot(), NOW)
        took.append((cpu_ms() - began) / 1e3)
        started = len(made.starts)
    seconds = min(took)
    print(
        f"{what}: {started} of {jobs} start on {nodes} empty nodes in {seconds:.2f} s CPU,"
        f" the least of {times} plans ({max(took):.2f} s the most): {started / seconds:,.0f} a second",
        flush=True,
    )


def drains(nodes: int, jobs: int, times: int) -> None:
    """Single GPUs of many shapes, and gangs of 16 whole nodes, whose plans are short."""
    draw = random.Random(3)
    single: dict[JobClass, None] = {}
    while len(single) < 500:
        types = tuple(sorted(draw.sample(TYPES, draw.choice([1, 1, 2])))) if draw.random() < 0.6 else ()
        request = ResourceRequest(
            GpuRequest(1, types), draw.choice(range(500, 12_500, 500)), draw.choice(range(1, 65)) * GIB
        )
        single[_class(request, 1)] = None
    drain(nodes, jobs, list(single), "single GPUs of 500 shapes", times)
    whole = [_class(ResourceRequest(GpuRequest(8), 64_000, 256 * GIB), 16)]
    drain(nodes, nodes // 16, whole, "gangs of 128 GPUs", 4 * times)


def _class(request: ResourceRequest, nodes: int) -> JobClass:
    return JobClass(nodes, (request,), False, (), "auto", HOUR_US, HOUR_US + 90_000_000, ("a",))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--pending", type=int, default=100_000)
    parser.add_argument("--shapes", type=int, default=500)
    parser.add_argument("--events", type=int, default=1_000)
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--reserved", type=int, default=0, help="so many reservations to come")
    parser.add_argument("--slopes", action="store_true")
    parser.add_argument("--drain", action="store_true")
    parser.add_argument("--plans", type=int, default=3, help="of a drain; four times so many of gangs")
    flags = parser.parse_args()
    if flags.slopes:
        slopes(flags)
        return
    if not flags.drain:
        steady(flags.nodes, flags.pending, flags)
    drains(flags.nodes, flags.pending, max(flags.plans, 1))


if __name__ == "__main__":
    main()
