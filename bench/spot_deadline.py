"""Cost and missed deadlines of a long job on recorded spot availability, through `bursar sim --offers`.

Input   the folder named by BURSAR_BENCH_DATA (default `../shared`), below it `traces/spot-deadline`.
Protocol  as the traces' README has it: 48 h of work, a deadline of 52 or 70 h, starting anywhere takes
        0.02, 0.05 or 0.1 h of work; 3.06 $/h on demand, 0.9731 $/h spot; windows of 13 recorded days.
        `--windows N` takes N of each zone's 30, evenly; all 30 of six zones are the published 1,080 runs.
        Whatever is paid counts: boots, idle seconds before a machine is given back, launches that failed.
Why     always on demand is never late and dear, always spot is cheap and late; what a job with a deadline
        gets is judged against both, and a run that ends late disqualifies.
        How long a restart takes the site says (`preempt.restart` of a PriorityPolicy), as it is told there.
Tuning  none on these: what is kept as slack is the middle of what published policies keep.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gzip
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from bursar.cli.main import run as bursar

WORK_H = 48
ON_DEMAND, SPOT = 3.06, 0.9731
DEAREST, CHEAPEST = WORK_H * ON_DEMAND, WORK_H * SPOT
KINDS = {
    "always on demand": ("[on-demand]", False),
    "always spot": ("[spot]", False),
    "cheapest at each start, without its deadline": ("[spot, on-demand]", False),
    "with its deadline": ("[spot, on-demand]", True),
}
"""By name: the markets of its pool, and whether the job says its deadline."""
PUBLISHED = (
    ("greedy baseline", 119.035, 0),
    ("Uniform Progress (NSDI 2024)", 101.683, 0),
    ("LEVI", 95.070, 64),
)
"""Mean dollars and late runs, of all 1,080."""
POLICIES = """\
kind: PriorityPolicy
name: restarts
spec: {preempt: {gap: 100, restart: %ss}}
---
kind: CloudPool
name: cloud
spec: {provider: local, offers: {markets: %s}, limits: {machines: 4}, keep_alive: 10s, max_lifetime: 30d}
"""


class Case(NamedTuple):
    """One run: when spot machines are there (seconds), and what is asked for (hours)."""

    there: list[tuple[int, int]]
    deadline_h: int
    overhead_h: float


def cases(told: dict[str, Any], windows: int) -> Iterator[Case]:
    """So many windows of each zone, for each deadline and overhead."""
    board, gap_s = told["leaderboard"], told["gap_seconds"]
    for zone, chosen in told["windows_selected"]["leaderboard_adrs_70h"].items():
        step = max(len(chosen) // windows, 1)
        for start, end in chosen[::step][:windows]:
            ticks = told["zones"][zone][start:end]
            for deadline_h in board["deadline_hours"]:
                for overhead_h in board["restart_overhead_hours"]:
                    yield Case(list(stretches(ticks, gap_s)), deadline_h, overhead_h)


def stretches(ticks: str, gap_s: int) -> Iterator[tuple[int, int]]:
    """From when to when there were machines; `1` says that there was none."""
    since = None
    for place, tick in enumerate([*ticks, "1"]):
        if tick == "0" and since is None:
            since = place * gap_s
        elif tick == "1" and since is not None:
            yield since, place * gap_s
            since = None


def simulate(case: Case, markets: str, says: bool, folder: Path) -> tuple[float, bool]:
    """(dollars, late) of one run."""
    overhead_s, deadline_s = round(case.overhead_h * 3600), case.deadline_h * 3600
    (folder / "spot.csv").write_text("from_s,to_s\n" + "".join(f"{a},{b}\n" for a, b in case.there))
    (folder / "nodes.csv").write_text("node_id,cpu_milli,memory_mib\n")
    (folder / "offers.csv").write_text(
        "offer_id,instance_type,cpu_milli,memory_mib,price_per_hour,market,availability\n"
        f"o,m,1000,1000,{ON_DEMAND},on-demand,\n" + f"s,m,1000,1000,{SPOT},spot,spot.csv\n" * bool(case.there)
    )
    said = f"{deadline_s},best-effort" if says else ","
    (folder / "jobs.csv").write_text(
        "job_id,submit_s,duration_s,cpu_milli,memory_mib,saves,restart_s,time_limit_s,deadline_s,deadline_policy\n"
        f"j,0,{WORK_H * 3600 + overhead_s},1000,1000,1,{overhead_s},{WORK_H * 3600 + 2 * overhead_s},{said}\n"
    )
    (folder / "policies").mkdir(exist_ok=True)
    (folder / "policies/pool.yaml").write_text(POLICIES % (overhead_s, markets))
    words = [
        "sim",
        "-o",
        "json",
        "--out-jobs",
        str(folder / "out.csv"),
        "--policies",
        str(folder / "policies"),
    ]
    for name in ("jobs", "nodes", "offers"):
        words += [f"--{name}", str(folder / f"{name}.csv")]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = bursar(words)
    if code:
        sys.exit(f"bursar sim ended with {code}: {out.getvalue()}")
    (row,) = csv.DictReader(io.StringIO((folder / "out.csv").read_text()))
    late = row["state"] != "SUCCEEDED" or float(row["end_s"]) > deadline_s
    return float(json.loads(out.getvalue())["cost"]["total"]["amount"]), late


def main(words: Sequence[str] | None = None) -> None:
    """Print each kind's mean dollars, score and late runs; exit code 1 when one with a deadline was late."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--windows", type=int, default=2, help="of each zone's 30")
    args = parser.parse_args(words)
    path = (
        Path(os.environ.get("BURSAR_BENCH_DATA", "../shared")) / "traces/spot-deadline/single_region.json.gz"
    )
    if not path.is_file():
        sys.exit(f"no traces at {path}; set BURSAR_BENCH_DATA to the folder that holds traces/")
    with gzip.open(path, "rt") as text:
        told = json.load(text)
    runs = list(cases(told, args.windows))
    print(f"{len(runs)} runs: mean dollars, score (0: always on demand, 100: spot all the time), late")
    missed = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name, (markets, says) in KINDS.items():
            found = [simulate(case, markets, says, Path(scratch)) for case in runs]
            mean, late = fmean(dollars for dollars, _ in found), sum(late for _, late in found)
            print(f"{'bursar, ' + name:54} {mean:8.3f} {score(mean):7.2f} {late:5}", flush=True)
            missed = late if says else missed
    for name, mean, late in PUBLISHED:
        print(f"{name + ' (published, all 1,080)':54} {mean:8.3f} {score(mean):7.2f} {late:5}")
    sys.exit(1 if missed else 0)


def score(mean: float) -> float:
    """Of a mean cost, as the traces' authors count it."""
    return 100 * (DEAREST - mean) / (DEAREST - CHEAPEST)


if __name__ == "__main__":
    main()
