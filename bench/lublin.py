"""Mean bounded slowdown on the Lublin-256 log through `bursar sim` itself, beside the published schedulers.

Input   the folder named by BURSAR_BENCH_DATA (default `../shared`), below it `traces/lublin`.
Why     the published rules commit to one job until it starts. Here the daemon's own scheduler decides, with
        its backfill, at every event; the documents in `bench/policies/lublin` differ in weights alone. First
        come, first served is no document: the order without one.
Score   ten sequences of 1,024 jobs of the protocol, each on an empty machine of 256 processors. They are
        never tuned on: `--tune` runs sequences that are made of the other parts of the log instead (its
        arrivals from one place, its jobs in blocks of 32 from others, drawn by a seed).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

PROCESSORS = 256
LENGTH = 1_024
SCORED = (1981, 2756, 4299, 8850, 3316, 2714, 5228, 7762, 4022, 7085)
"""Where the sequences of the protocol begin."""
FREE = (range(1981), range(6252, 7085))
"""Jobs of the log that are in none of them."""
BLOCK = 32
PUBLISHED = (("WFP3", 133.87), ("UNICEP", 307.23), ("F1", 75.07), ("SJF", 73.31), ("RLScheduler", 58.64))
"""Of the same sequences, with backfill."""
POLICIES = Path(__file__).parent / "policies/lublin"
GOALS = {"bounded": 37.0, "unbounded": 29.0}


class Job(NamedTuple):
    """Seconds, and processors. The log names no requested time: it is the run time."""

    submit_s: int
    run_s: int
    processors: int


class Result(NamedTuple):
    """Of one sequence. longest_s: the longest wait."""

    slowdown: float
    longest_s: float
    violations: int


def read_log(path: Path) -> list[Job]:
    """Every job, in the order of the log."""
    with gzip.open(path, "rt") as lines:
        rows = [line.split() for line in lines if not line.startswith(";")]
    return [Job(int(row[1]), int(row[3]), max(int(row[4]), int(row[7]))) for row in rows]


def made_up(log: Sequence[Job], seed: int) -> list[Job]:
    """A sequence that holds nothing of those that are scored."""
    lots, bodies = random.Random(seed), [log[i] for part in FREE for i in part]
    begin, found = lots.randrange(len(FREE[0]) - LENGTH), []
    for position in range(LENGTH):
        if position % BLOCK == 0:
            block = lots.randrange(len(bodies) - BLOCK)
        found.append(bodies[block + position % BLOCK]._replace(submit_s=log[begin + position].submit_s))
    return found


def simulate(jobs: Sequence[Job], policy: str) -> Result:
    """One sequence under the documents of one folder; "" for none."""
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        with (work / "jobs.csv").open("w", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(("job_id", "submit_s", "duration_s", "time_limit_s", "cpu_milli"))
            for number, job in enumerate(jobs):
                submit_s = job.submit_s - jobs[0].submit_s
                writer.writerow((number, submit_s, job.run_s, job.run_s, 1_000 * job.processors))
        (work / "nodes.csv").write_text(f"node_id,cpu_milli,memory_mib\nm,{1_000 * PROCESSORS},1\n")
        flags = ["--policies", str(POLICIES / policy)] if policy else []
        files = ("--jobs", "jobs.csv", "--nodes", "nodes.csv", "--out-jobs", "out.csv")
        program = str(Path(sys.executable).with_name("bursar"))
        done = subprocess.run(
            [program, "sim", *files, *flags, "-o", "json"], cwd=work, check=True, capture_output=True
        )
        with (work / "out.csv").open() as rows:
            waits = [float(row["start_s"]) - float(row["submit_s"]) for row in csv.DictReader(rows)]
    slowdowns = [max(1.0, (w + job.run_s) / max(job.run_s, 10)) for w, job in zip(waits, jobs, strict=True)]
    return Result(fmean(slowdowns), max(waits), json.loads(done.stdout)["violations"])


def run(name: str, policy: str, sequences: Sequence[Sequence[Job]]) -> tuple[float, float]:
    """All sequences: (mean, longest wait), printed."""
    found = [simulate(jobs, policy) for jobs in sequences]
    mean, longest_s = fmean(one.slowdown for one in found), max(one.longest_s for one in found)
    broken = sum(one.violations for one in found)
    each = " ".join(f"{one.slowdown:.1f}" for one in found)
    print(f"{name:22} {mean:8.2f} {longest_s:12,.0f} s   violations {broken}   {each}", flush=True)
    return mean, longest_s


def main() -> None:
    """Print ours beside the published; exit code 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--tune", metavar="SEEDS", help="such as 1-8: run made-up sequences, none that is scored"
    )
    parser.add_argument("--policy", choices=sorted(GOALS), help="one of them alone")
    args = parser.parse_args()
    path = Path(os.environ.get("BURSAR_BENCH_DATA", "../shared")) / "traces/lublin/lublin_256.swf.gz"
    if not path.is_file():
        sys.exit(f"no log at {path}; set BURSAR_BENCH_DATA to the folder that holds traces/")
    log = read_log(path)
    if args.tune:
        first, _, last = args.tune.partition("-")
        sequences = [made_up(log, seed) for seed in range(int(first), int(last or first) + 1)]
        print(f"made-up sequences of seeds {args.tune}, none of which is scored")
    else:
        sequences = [log[start : start + LENGTH] for start in SCORED]
        print("the ten sequences of the protocol; nothing was tuned on them")
    print(f"{'':22} {'slowdown':>8} {'longest wait':>14}")
    if not args.tune:
        for name, figure in PUBLISHED:
            print(f"{name + ' (published)':22} {figure:8.2f}")
    _, first_come_s = run("bursar, no policy", "", sequences)
    missed = False
    for policy in [args.policy] if args.policy else sorted(GOALS):
        mean, longest_s = run(f"bursar, {policy}", policy, sequences)
        late = policy == "bounded" and longest_s > 2 * first_come_s
        if late or mean > GOALS[policy]:
            missed = True
            print(
                f"  MISSED: at most {GOALS[policy]:.0f}"
                + (", twice the wait without a policy" if late else "")
            )
    sys.exit(1 if missed and not args.tune else 0)


if __name__ == "__main__":
    main()
