"""Random clusters, queues and budgets, for properties of plans."""

from __future__ import annotations

from hypothesis import strategies as st
from msgspec.structs import replace

from bursar_policies.decision import (
    BudgetRoom,
    JobClass,
    NodeColumns,
    PendingQueue,
    RunningMember,
    Snapshot,
)
from bursard.scheduler import plan
from bursard.scheduler.testing import GIB, Node, columns, job_class, occupy, queue, request, snapshot

NOW = 1_767_225_600_000_000
HOUR_US = 3_600_000_000
USD = 10**9
TYPES = ("H100", "A100")

PRICES = st.one_of(st.none(), *[st.tuples(*(st.integers(0, 3 * USD) for _ in range(3)))] * 3)
REQUESTS = st.builds(
    request,
    gpus=st.sampled_from([0, 0, 0.3, 0.5, 0.7, 1, 1, 2, 4]),
    cpus=st.sampled_from([0, 0.5, 1, 2, 6]),
    memory_bytes=st.sampled_from([0, GIB, 20 * GIB]),
    types=st.sampled_from(["", "", "H100", "A100", "A100|H100"]),
)
TYPICAL = st.lists(st.tuples(REQUESTS, st.integers(1, 50)), max_size=6)


@st.composite
def clusters(draw: st.DrawFn, largest: int = 9) -> list[Node]:
    names = draw(st.permutations([f"n{i}" for i in range(draw(st.integers(1, largest)))]))
    return [
        Node(
            name=name,
            gpus=draw(st.integers(0, 5)),
            gpu_type=draw(st.sampled_from(TYPES)),
            cpu_milli=draw(st.sampled_from([2_000, 8_000, 16_000])),
            memory_bytes=draw(st.sampled_from([8 * GIB, 64 * GIB])),
            rates=draw(PRICES),
            ready=draw(st.sampled_from([True, True, True, False])),
            market=draw(st.sampled_from(["on-demand", "spot"])),
            labels=draw(st.sampled_from([{"rack": "r1"}, {"rack": "r1"}, {"rack": "r2"}, {}])),
        )
        for name in names
    ]


@st.composite
def classes(draw: st.DrawFn, money: bool = True) -> JobClass:
    budgets = draw(st.sampled_from([(), (), ("x",), ("x", "y")])) if money else ()
    options = draw(st.lists(REQUESTS, min_size=1, max_size=2))
    nodes = draw(st.sampled_from([1, 1, 1, 2, 3]))
    more = draw(st.sampled_from([0, 0, 1, 4])) if len(options) == 1 else 0
    return job_class(
        *options,
        hours=draw(st.sampled_from([0.1, 1, 3])),
        nodes=nodes,
        max_nodes=nodes + more if more else 0,
        ordered=draw(st.booleans()),
        constraints=draw(st.sampled_from([(), (), (), (("topology", "same-rack"),)])),
        spot_policy=draw(st.sampled_from(["auto", "auto", "spot", "on-demand"])),
        budgets=budgets,
        max_cost_nanos=draw(st.sampled_from([0, 0, USD])) if money else 0,
        max_price_nanos_per_hour=draw(st.sampled_from([0, 0, 2 * USD])) if money else 0,
    )


@st.composite
def queues(draw: st.DrawFn, money: bool = True, most: int = 6) -> list[PendingQueue]:
    found, order = [], 0
    for wanted in draw(st.lists(classes(money), min_size=1, max_size=most)):
        jobs = []
        for _ in range(draw(st.integers(1, 4))):
            order += 1
            jobs.append((order, f"j{order}"))
        found.append(queue(wanted, *jobs, priority=draw(st.sampled_from([25, 50, 75]))))
    return found


@st.composite
def worlds(draw: st.DrawFn, money: bool = True) -> Snapshot:
    """Anything."""
    limits = st.one_of(st.integers(0, USD), st.integers(0, 8 * USD))
    rooms = [BudgetRoom(n, draw(limits), USD // 30, USD // 70, "USD") for n in "xy"]
    nodes = columns(draw(clusters()))
    running: list[RunningMember] = []
    for i, wanted in enumerate(draw(st.lists(REQUESTS, max_size=5))):
        busy = plan(snapshot(nodes, queue(job_class(wanted), (0, f"r{i}"))), NOW)
        for start in busy.starts:
            running += occupy(nodes, start, NOW + draw(st.integers(1, 4)) * HOUR_US)
    return snapshot(
        nodes,
        *draw(queues(money)),
        running=running,
        budgets=rooms if money else (),
        typical=draw(TYPICAL),
        strategy=draw(st.sampled_from(["pack", "pack", "spread"])),
    )


def fresh(nodes: NodeColumns) -> NodeColumns:
    """The same nodes with free columns of their own."""
    return replace(
        nodes,
        cpu_free=nodes.cpu_free.copy(),
        memory_free=nodes.memory_free.copy(),
        gpu_free=nodes.gpu_free.copy(),
    )
