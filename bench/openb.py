"""GPU allocation on Alibaba's openb trace, ours beside the published schedulers.

Input   the folder named by BURSAR_BENCH_DATA (default `../shared`), below it `traces/fgd-openb`.
Why     the protocol of "Beware of Fragmentation" (USENIX ATC'23) run straight on `plan()`: pods
        arrive one at a time, start at once or are dropped, nothing departs. Every decision is made by
        the code the daemon runs; this file only translates the trace.
Tuning  nothing was tuned on the scored seeds 42-51; where the weights come from is said in
        `bursar_policies.scorers.strategy`. `--shuffle` makes other arrival orders to tune on.
Typical requests are counted over the whole pod list before the run, as the published FGD does; the
        policies without fragmentation awareness do not have that knowledge.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from bursar.resources import GpuRequest, ResourceRequest
from bursar_policies.decision import (
    GPU_SLOTS_MAX,
    JobClass,
    JobColumns,
    NodeColumns,
    PendingQueue,
    Snapshot,
    Start,
)
from bursar_policies.scorers import Weights
from bursard.scheduler import PlanCache, plan

MIB = 1 << 20
HOUR_US = 3_600_000_000
POINTS = (1.0, 1.3)


def rows_of(path: Path) -> list[dict[str, str]]:
    """A gzipped CSV as dicts."""
    with gzip.open(path, "rt", newline="") as lines:
        return list(csv.DictReader(lines))


def cluster(folder: Path) -> NodeColumns:
    """The 1,213 GPU nodes, empty and without prices."""
    rows = rows_of(folder / "openb_node_list_gpu_node.csv.gz")
    n = len(rows)
    types = sorted({row["model"] for row in rows})
    cpu = np.array([int(row["cpu_milli"]) for row in rows], dtype=np.int64)
    memory = np.array([int(row["memory_mib"]) * MIB for row in rows], dtype=np.int64)
    total = np.array([int(row["gpu"]) for row in rows], dtype=np.int64)
    free = np.full((n, GPU_SLOTS_MAX), -1, dtype=np.int16)
    for i, gpus in enumerate(total.tolist()):
        free[i, :gpus] = 1000
    unknown = np.full(n, -1, dtype=np.int64)
    zero = np.zeros(n, dtype=np.int64)
    names = [row["sn"] for row in rows]
    return NodeColumns(
        ids=names,
        names=names,
        ready=np.ones(n, dtype=np.bool_),
        cpu_total=cpu,
        cpu_free=cpu.copy(),
        memory_total=memory,
        memory_free=memory.copy(),
        gpu_total=total,
        gpu_free=free,
        gpu_type=np.array([types.index(row["model"]) for row in rows], dtype=np.int16),
        gpu_memory=zero,
        rate=unknown,
        gpu_rate=zero,
        cpu_rate=zero,
        memory_rate=zero,
        gpu_types=types,
        attributes=[{"node": name} for name in names],
        price_ids=[""] * n,
    )


def requests(folder: Path, trace: str) -> list[ResourceRequest]:
    """The pod list as requests, in file order."""
    found = []
    for row in rows_of(folder / f"openb_pod_list_{trace}.csv.gz"):
        count = int(row["num_gpu"])
        types = tuple(sorted(filter(None, (row.get("gpu_spec") or "").split("|"))))
        gpus = GpuRequest(count, types, int(row["gpu_milli"])) if count else None
        found.append(ResourceRequest(gpus, int(row["cpu_milli"]), int(row["memory_mib"]) * MIB))
    return found


def typical(pods: Sequence[ResourceRequest]) -> tuple[tuple[ResourceRequest, int], ...]:
    """The most frequent requests until they cover 95 % of the list, as the paper takes them."""
    counts = Counter(pods).most_common()
    covered, found = 0, []
    for request, many in counts:
        if covered >= 0.95 * len(pods):
            break
        found.append((request, many))
        covered += many
    return tuple(found)


def demand(request: ResourceRequest) -> int:
    """GPU thousandths."""
    return request.gpus.count * request.gpus.milli if request.gpus else 0


def apply(nodes: NodeColumns, start: Start) -> int:
    """What the state would do: subtract the placement. Returns the GPU thousandths given."""
    given = 0
    for member in start.members:
        nodes.cpu_free[member.node] -= member.cpu_milli
        nodes.memory_free[member.node] -= member.memory_bytes
        for share in member.devices:
            nodes.gpu_free[member.node, share.index] -= share.milli
            given += share.milli
        left = nodes.gpu_free[member.node, : nodes.gpu_total[member.node]].min(initial=0)
        if min(left, nodes.cpu_free[member.node], nodes.memory_free[member.node]) < 0:
            raise AssertionError("oversubscribed")
    return given


def run(
    folder: Path,
    trace: str,
    order: Sequence[int],
    pods: Sequence[ResourceRequest],
    weights: Weights | None = None,
) -> tuple[list[float], float, int]:
    """Allocation % at each of POINTS, seconds in all, placements."""
    nodes = cluster(folder)
    capacity = int(nodes.gpu_total.sum()) * 1000
    cache = PlanCache()
    known = typical(pods)
    classes = {pod: JobClass(1, (pod,), False, (), "auto", 0, 0, ()) for pod in set(pods)}
    arrived = given = placed = 0
    marks: list[float] = []
    began = time.perf_counter()
    for number, index in enumerate(order):
        pod = pods[index]
        queue = PendingQueue(classes[pod], 50, JobColumns.of([(number, str(number), HOUR_US)]))
        snapshot = Snapshot(number, nodes, (queue,), (), {}, strategy="pack", typical=known, facts_version=1)
        for start in plan(snapshot, number, cache, weights=weights).starts:
            given += apply(nodes, start)
            placed += 1
        arrived += demand(pod)
        while len(marks) < len(POINTS) - 1 and arrived >= POINTS[len(marks)] * capacity:
            marks.append(100 * given / capacity)
    marks.append(100 * given / capacity)
    return marks, time.perf_counter() - began, placed


def published(folder: Path, trace: str) -> dict[str, tuple[float, float]]:
    """Policy -> mean of the authors' runs at 100 % and 130 %."""
    sums: dict[str, list[tuple[float, float]]] = {}
    for row in rows_of(folder / "published_alloc_pct.csv.gz"):
        if row["workload"] == f"openb_pod_list_{trace}":
            point = (float(row["100"]), float(row["130"]))
            sums.setdefault(row["sc_policy"], []).append(point)
    return {
        name: (sum(a for a, _ in v) / len(v), sum(b for _, b in v) / len(v))
        for name, v in sorted(sums.items())
    }


def shuffled(pods: Sequence[ResourceRequest], seed: int, capacity: int) -> list[int]:
    """An arrival order of our own for tuning: pods drawn with replacement up to 130 %."""
    generator = np.random.default_rng(seed)
    order: list[int] = list(generator.permutation(len(pods)))
    arrived = sum(demand(pods[i]) for i in order)
    while arrived < 1.3 * capacity:
        index = int(generator.integers(len(pods)))
        order.append(index)
        arrived += demand(pods[index])
    return order


def main() -> None:
    """Run the traces asked for and print ours beside the published."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", nargs="*", default=["default"])
    parser.add_argument("--seeds", default="42-51", help="scored arrival orders, such as 42-51")
    parser.add_argument("--shuffle", type=int, help="use this own order instead, for tuning")
    parser.add_argument("--weights", help="JSON of Weights, for tuning")
    args = parser.parse_args()
    folder = Path(os.environ.get("BURSAR_BENCH_DATA", "../shared")) / "traces" / "fgd-openb"
    if not folder.is_dir():
        sys.exit(f"no trace at {folder}; set BURSAR_BENCH_DATA to the folder that holds traces/")
    weights = msgspec.json.decode(args.weights, type=Weights) if args.weights else None
    orders = np.load(folder / "arrival_orders_tune1.3.npz")
    first, _, last = args.seeds.partition("-")
    for trace in args.traces:
        pods = requests(folder, trace)
        results = []
        for seed in range(int(first), int(last or first) + 1):
            if args.shuffle is not None:
                order: Sequence[int] = shuffled(pods, args.shuffle, 6_212_000)
            else:
                order = orders[f"{trace}_{seed}"].tolist()
            marks, seconds, placed = run(folder, trace, order, pods, weights)
            results.append(marks)
            print(
                f"{trace} seed {seed}: {marks[0]:.2f} / {marks[1]:.2f} %, {placed} placed of "
                f"{len(order)}, {seconds:.1f} s, {seconds / len(order) * 1e6:.0f} us a decision",
                flush=True,
            )
            if args.shuffle is not None:
                break
        mean = np.mean(np.array(results), axis=0)
        print(f"{trace:12} {'policy':16} at 100 %  at 130 %")
        for name, (early, late) in published(folder, trace).items():
            print(f"{'':12} {name:16} {early:8.2f}  {late:8.2f}")
        print(f"{'':12} {'bursar':16} {mean[0]:8.2f}  {mean[1]:8.2f}")


if __name__ == "__main__":
    main()
