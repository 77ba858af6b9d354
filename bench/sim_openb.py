"""GPU allocation on Alibaba's openb trace through `bursar sim` itself, beside the published FGD.

Input   the folder named by BURSAR_BENCH_DATA (default `../shared`), below it `traces/fgd-openb`.
Why     bench/openb.py calls `plan()`; this measures what a user gets: two CSV files, the state, the ledger
        and their checks around every decision, and typical requests learned while jobs arrive instead of
        known before. Pods arrive one second apart in the published order, are placed at once or dropped
        (`--drop-unplaced`), and never end.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

Row = dict[str, str]


def rows_of(path: Path) -> list[Row]:
    with gzip.open(path, "rt", newline="") as lines:
        return list(csv.DictReader(lines))


def write_nodes(folder: Path, to: Path) -> int:
    """NODES.csv; returns all GPU thousandths."""
    rows = rows_of(folder / "openb_node_list_gpu_node.csv.gz")
    with to.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(("node_id", "cpu_milli", "memory_mib", "gpus", "gpu_type"))
        writer.writerows((r["sn"], r["cpu_milli"], r["memory_mib"], r["gpu"], r["model"]) for r in rows)
    return 1000 * sum(int(row["gpu"]) for row in rows)


def write_jobs(pods: Sequence[Row], order: Sequence[int], to: Path) -> None:
    """JOBS.csv in order of arrival, one a second."""
    with to.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(("job_id", "submit_s", "gpus", "gpu_milli", "gpu_type", "cpu_milli", "memory_mib"))
        for number, index in enumerate(order):
            pod = pods[index]
            kinds = pod.get("gpu_spec") or ""
            asked = (pod["num_gpu"], pod["gpu_milli"], kinds, pod["cpu_milli"], pod["memory_mib"])
            writer.writerow((number, number, *asked))


def demand(pod: Row) -> int:
    return int(pod["num_gpu"]) * int(pod["gpu_milli"])


def measure(pods: Sequence[Row], order: Sequence[int], capacity: int, out_jobs: Path) -> tuple[float, float]:
    """Allocation % when arrivals reach 100 % of capacity, and at their end (130 %)."""
    arrived = given = 0
    early = None
    for index, row in zip(order, csv.DictReader(out_jobs.open()), strict=True):
        arrived += demand(pods[index])
        given += demand(pods[index]) if row["state"] == "RUNNING" else 0
        if early is None and arrived >= capacity:
            early = 100 * given / capacity
    return early or 0.0, 100 * given / capacity


def simulate(work: Path) -> tuple[dict[str, object], float]:
    program = Path(sys.executable).with_name("bursar")
    files = ("--jobs", "jobs.csv", "--nodes", "nodes.csv", "--out-jobs", "out.csv")
    began = time.perf_counter()
    done = subprocess.run(
        [str(program), "sim", *files, "--drop-unplaced", "-o", "json"],
        cwd=work,
        check=True,
        capture_output=True,
    )
    return json.loads(done.stdout), time.perf_counter() - began


def published(folder: Path, trace: str, policy: str = "06-FGD") -> tuple[float, float]:
    """Mean of the authors' runs at 100 % and 130 %."""
    found = [
        (float(row["100"]), float(row["130"]))
        for row in rows_of(folder / "published_alloc_pct.csv.gz")
        if row["workload"] == f"openb_pod_list_{trace}" and row["sc_policy"] == policy
    ]
    early, late = np.mean(np.array(found), axis=0)
    return float(early), float(late)


def main() -> None:
    """Run the traces asked for and print ours beside FGD."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", nargs="*", default=["default"])
    parser.add_argument("--seeds", default="42-44", help="arrival orders, such as 42-51")
    args = parser.parse_args()
    folder = Path(os.environ.get("BURSAR_BENCH_DATA", "../shared")) / "traces" / "fgd-openb"
    if not folder.is_dir():
        sys.exit(f"no trace at {folder}; set BURSAR_BENCH_DATA to the folder that holds traces/")
    orders = np.load(folder / "arrival_orders_tune1.3.npz")
    first, _, last = args.seeds.partition("-")
    for trace in args.traces:
        pods = rows_of(folder / f"openb_pod_list_{trace}.csv.gz")
        results = []
        for seed in range(int(first), int(last or first) + 1):
            order = orders[f"{trace}_{seed}"].tolist()
            with tempfile.TemporaryDirectory() as scratch:
                work = Path(scratch)
                capacity = write_nodes(folder, work / "nodes.csv")
                write_jobs(pods, order, work / "jobs.csv")
                summary, seconds = simulate(work)
                results.append(measure(pods, order, capacity, work / "out.csv"))
            early, late = results[-1]
            print(
                f"{trace} seed {seed}: {early:.2f} / {late:.2f} %, {len(order)} jobs in {seconds:.1f} s,"
                f" violations {summary['violations']}",
                flush=True,
            )
        ours, theirs = np.mean(np.array(results), axis=0), published(folder, trace)
        print(f"{trace:12} at 100 %  at 130 %")
        print(f"{'FGD':12} {theirs[0]:8.2f}  {theirs[1]:8.2f}")
        print(f"{'bursar sim':12} {ours[0]:8.2f}  {ours[1]:8.2f}", flush=True)


if __name__ == "__main__":
    main()
