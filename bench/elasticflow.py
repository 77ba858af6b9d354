"""Deadlines met on ElasticFlow's Philly trace through `bursar sim` itself, beside the published.

Input   the folder named by BURSAR_BENCH_DATA (default `../shared`), below it `traces/elasticflow`.
Protocol  32 nodes of 8 A100; the 876 jobs of Philly's virtual cluster 103959 with the authors' deadlines. A
        job may have 1, 2, 4 or 8 GPUs of a node, or whole nodes up to 8, and does so many iterations a second
        at each as the authors measured; how many it has to do is known. Met: of all jobs, those that are
        accepted and end by their deadline. Theirs decides each 60 s and resizes; ours decides at once, and
        keeps the size that it promised.
Why     every deadline is promised or refused by the daemon's own admission. A promise that is broken, or a
        job that ends late, is a violation and disqualifies the run. Nothing is tuned: there is no parameter.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path

NODES, GPUS = 32, 8
PUBLISHED = (("ElasticFlow", 91.0), ("Tiresias", 46.6), ("EDF", 43.6))
"""Percent; the authors' own program, run on the same input."""
GOAL = 92.0
Speeds = dict[int, float]


def speeds_of(path: Path) -> dict[tuple[str, int], Speeds]:
    """By model and batch size, iterations a second on so many GPUs."""
    found: dict[tuple[str, int], Speeds] = {}
    with tarfile.open(path) as packed:
        for member in packed.getmembers():
            folder, _, name = member.name.partition("/")
            file = packed.extractfile(member) if folder == "throughputs_A100" and name else None
            for row in csv.DictReader(TextIOWrapper(file)) if file is not None else ():
                rates = {int(key): float(value) for key, value in row.items() if key.isdigit() and value}
                key = name.removesuffix(".csv"), int(row["global_batch_size"])
                found[key] = {gpus: rate for gpus, rate in rates.items() if rate > 0}
    return found


def write_jobs(trace: Path, out: Path, speeds: dict[tuple[str, int], Speeds]) -> tuple[int, int]:
    """JOBS of the trace. Returns how many there are, and how many could end in time alone on the cluster."""
    count = alone = 0
    with gzip.open(trace, "rt") as lines, out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            (
                "job_id", "submit_s", "duration_s", "time_limit_s", "deadline_s", "deadline_policy", "nodes",
                "gpus", "throughput",
            )
        )  # fmt: skip
        for row in csv.DictReader(lines):
            mine = speeds[row["model_name"], int(row["batch_size"])]
            least = min(mine)
            told = {gpus: max(round(rate / mine[least], 6), 1e-6) for gpus, rate in mine.items()}
            needs_s = float(row["iteration"]) / mine[least]
            has_s = float(row["ddl"]) - float(row["submit_time"])
            count += 1
            alone += needs_s / max(told.values()) <= has_s
            most, fewest = min(max(mine), GPUS), min(least, GPUS)
            writer.writerow(
                (
                    row["job_id"],
                    row["submit_time"],
                    f"{needs_s:.6f}",
                    f"{needs_s:.6f}",
                    max(float(row["ddl"]), float(row["submit_time"])),
                    "promise",
                    f"1..{max(mine) // GPUS}" if max(mine) >= 2 * GPUS else 1,
                    f"{fewest}..{most}" if most > fewest else most,
                    ";".join(f"A100x{gpus}={speed:.6f}" for gpus, speed in sorted(told.items())),
                )
            )
    return count, alone


def main(words: Sequence[str] | None = None) -> None:
    """Print ours beside the published and the ceiling; exit code 1 when the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", default="", help="folder for JOBS, NODES and what became of them")
    args = parser.parse_args(words)
    folder = Path(os.environ.get("BURSAR_BENCH_DATA", "../shared")) / "traces/elasticflow"
    trace = folder / "philly_103959.csv.gz"
    if not trace.is_file():
        sys.exit(f"no trace at {trace}; set BURSAR_BENCH_DATA to the folder that holds traces/")
    speeds = speeds_of(folder / "throughputs_A100.tar.gz")
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(args.keep or scratch)
        work.mkdir(parents=True, exist_ok=True)
        count, alone = write_jobs(trace, work / "jobs.csv", speeds)
        nodes = [f"n{n},64000,1000000,{GPUS},A100" for n in range(NODES)]
        (work / "nodes.csv").write_text(
            "\n".join(["node_id,cpu_milli,memory_mib,gpus,gpu_type", *nodes]) + "\n"
        )
        program = str(Path(sys.executable).with_name("bursar"))
        files = ("--jobs", "jobs.csv", "--nodes", "nodes.csv", "--out-jobs", "out.csv")
        done = subprocess.run([program, "sim", *files, "-o", "json"], cwd=work, capture_output=True)
        if not done.stdout:
            sys.exit(done.stderr.decode())
        told = json.loads(done.stdout)
    met, violations = told["deadlines"]["met"], told["violations"]
    print(f"deadlines met, percent of {count} jobs; nothing is tuned")
    for name, percent in PUBLISHED:
        print(f"{name + ' (published)':24} {percent:6.2f}")
    percent = 100 * met / count
    refused = told["jobs"]["refused"]
    print(f"{'bursar':24} {percent:6.2f}   {met} met, {refused} refused, violations {violations}")
    print(f"{'ceiling':24} {100 * alone / count:6.2f}   each job alone on the cluster;  must reach {GOAL}")
    sys.stderr.write(done.stderr.decode())
    sys.exit(0 if percent >= GOAL and not violations else 1)


if __name__ == "__main__":
    main()
