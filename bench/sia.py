"""Mean job completion time of elastic jobs on Sia's workloads, decided by the daemon's allocator `goodput`.

Input   the folder named by BURSAR_BENCH_DATA (default `../shared`), below it `traces/sia`: workloads of 160
        jobs that come within 8 hours, and profiles of what they train on each type of GPU.
Protocol  6 nodes of 4 T4, 3 of 8 RTX 2080 Ti, 2 of 8 A100; each job may have 1, 2, 4 or 8 GPUs of a node, or
        whole nodes of one type. Every start costs the model's delay (25 to 250 s), rounds are of 60 s. How a
        job gets on is Sia's own model of it: the measured time of a step (interpolated between what was
        measured, as theirs is), statistical efficiency by the gradient statistics of the epoch that it is in,
        the batch size that is best at each epoch, slowed down by their calibration.
Told    to the allocator: how fast a job is on each size, as the mean of its whole run. Sia profiles one GPU
        of each type first, and estimates the rest from round to round; both are told no run time.
Why     the simulation is `bursar sim`'s; only how a job's speed changes as it gets on is added here. Weights
        were looked at on saturn 1 to 3 alone; philly is what is scored.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import tarfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from bursar.resources import GpuRequest, ResourceRequest
from bursar_policies.document import parse_documents
from bursard import rounds
from bursard.sim.rows import JobRow, NodeRow, Pace
from bursard.sim.simulation import Simulation

TYPES = {"T4": ("aws", 6, 4), "RTX2080TI": ("rtx", 3, 8), "A100": ("dgx-ext", 2, 8)}
"""By type of GPU: its name in the profiles, how many nodes, GPUs of each."""
EPOCHS = {"bert": 2, "cifar10": 100, "ncf": 10, "imagenet": 90, "deepspeech2": 80, "yolov3": 50}
DELAY_S = {"cifar10": 50, "deepspeech2": 25, "bert": 120, "yolov3": 80, "imagenet": 250, "ncf": 15}
SLOWED = {"cifar10": 1.8, "imagenet": 1.2, "yolov3": 1.2, "bert": 1.2, "deepspeech2": 1.2, "ncf": 1.5}
"""Sia's calibration: how much longer than in the profiles a job took on real machines."""
LARGEST_LOCAL = {("deepspeech2", "rtx"): 57}
BATCHES = 50
PUBLISHED = {
    "philly": ("Sia 0.6, Pollux 1.0, Gavel 1.9", 0.55),
    "saturn": ("Sia 0.7, Pollux 1.0, Gavel 2.5", 0),
}
"""Hours, means over the workloads (Table 3), and what is to be reached."""
RERUN = {"philly": "Sia 0.539, Gavel 1.671 (workload-1)", "saturn": "Sia 0.580, Gavel 1.798 (workload-1)"}
Floats = NDArray[np.float64]
US = 1_000_000


# ------------------------------------------------------------------ what Sia measured


Member = Mapping[str, Floats]
"""A table of a tar file, by column."""


def tables(archive: Path) -> dict[str, Member]:
    """All CSV files of an archive, by their path in it."""
    found = {}
    with tarfile.open(archive) as tar:
        for item in tar:
            data = tar.extractfile(item) if item.name.endswith(".csv") else None
            if data is None:
                continue
            rows = list(csv.DictReader(io.TextIOWrapper(data)))
            numbers = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
            found["/".join(Path(item.name).parts[-2:])] = numbers
    return found


class Steps:
    """Times of a step of one model on one type of GPU."""

    def __init__(self, placements: Member, scalability: Member) -> None:
        names = [str(int(one)) for one in placements["placement"]]
        self._by_placement: dict[str, list[int]] = defaultdict(list)
        for row, name in enumerate(names):
            self._by_placement[name].append(row)
        self._placements, self._scalability = placements, scalability
        nodes = np.array([len(name) for name in names], dtype=float)
        replicas = np.array([sum(map(int, name)) for name in names], dtype=float)
        self.local = (float(placements["local_bsz"].min()), float(placements["local_bsz"].max()))
        self._points = self._all(nodes, replicas)

    def _all(self, nodes: Floats, replicas: Floats) -> tuple[Floats, Floats]:
        """Every (nodes, replicas, batch of each) that was measured, equal ones as their mean."""
        mean: dict[tuple[float, float, float], list[tuple[float, float]]] = defaultdict(list)
        one, other = self._placements, self._scalability
        for row in range(len(nodes)):
            key = (nodes[row], replicas[row], one["local_bsz"][row])
            mean[key].append((one["step_time"][row], one["sync_time"][row]))
        points = [(key, tuple(np.mean(times, axis=0))) for key, times in sorted(mean.items())]
        for row in range(len(other["num_nodes"])):
            key = (other["num_nodes"][row], other["num_replicas"][row], other["local_bsz"][row])
            points.append((key, (other["step_time"][row], other["sync_time"][row])))
        return np.array([key for key, _ in points]), np.array([times for _, times in points])

    def largest_local(self, placement: str) -> float:
        """The most samples of one replica at once."""
        rows = self._by_placement.get(placement)
        if rows:
            return float(self._placements["local_bsz"][rows].max())
        nodes, replicas = len(placement), sum(map(int, placement))
        scale = self._scalability
        kept = (scale["num_nodes"] >= nodes) & (scale["num_replicas"] >= replicas)
        return float(scale["local_bsz"][kept].max()) if kept.any() else 0.0

    def times(self, placement: str, local: Floats) -> Floats:
        """(step, of which in synchronising) at batches of a replica; nan where nobody knows."""
        from scipy.interpolate import LinearNDInterpolator

        rows = self._by_placement.get(placement)
        if rows:
            order = np.argsort(self._placements["local_bsz"][rows])
            known = self._placements["local_bsz"][rows][order]
            pairs = [
                np.interp(local, known, self._placements[name][rows][order], left=np.nan, right=np.nan)
                for name in ("step_time", "sync_time")
            ]
            return np.stack(pairs, axis=1)
        nodes, replicas = len(placement), sum(map(int, placement))
        at = np.stack([np.full(len(local), n, dtype=float) for n in (nodes, replicas)] + [local], axis=1)
        found: Floats = LinearNDInterpolator(*self._points)(at)
        return found


class Model:
    """What one application trains: its progress, and how fast it makes it where."""

    def __init__(self, name: str, found: Mapping[str, Member]) -> None:
        self.name = name
        prefix = f"{name}/validation-"
        valid = {int(path[len(prefix) : -4]): one for path, one in found.items() if path.startswith(prefix)}
        self._sizes = sorted(valid)
        self._valid = valid
        self._steps = {
            kind: Steps(found[f"{name}/placements-{file}.csv"], found[f"{name}/scalability-{file}.csv"])
            for kind, (file, _, _) in TYPES.items()
        }
        epochs = EPOCHS[name]
        ends = np.min([one["progress"][:epochs] for one in valid.values()], axis=0)
        self.progress: Floats = np.concatenate([[0.0], ends])
        self.taken: dict[tuple[str, int], Floats] = {}
        """By (type, GPUs), how long it takes to each of `progress`, seconds."""
        for kind, (file, nodes, gpus) in TYPES.items():
            counts = [1 << n for n in range(gpus.bit_length())]
            for count in [*counts, *(gpus * many for many in range(2, nodes + 1))]:
                taken = self._over(kind, file, count, gpus)
                if taken is not None:
                    self.taken[kind, count] = taken
                elif (kind, count - 1) in self.taken or count > 1:
                    self.taken[kind, count] = self.taken[max(one for one in self.taken if one[0] == kind)]

    def _grad(self, batch: Floats, name: str) -> Floats:
        """(batches, epochs), interpolated between the batches that were measured."""
        epochs = EPOCHS[self.name]
        table = np.array([self._valid[size][name][:epochs] for size in self._sizes])
        sizes = np.array(self._sizes, dtype=float)
        columns = [np.interp(batch, sizes, table[:, epoch]) for epoch in range(epochs)]
        return np.stack(columns, axis=1)

    def _over(self, kind: str, file: str, count: int, gpus: int) -> Floats | None:
        """How long it takes to the end of each epoch on so many GPUs; None where it cannot use so many."""
        placement = str(count) if count <= gpus else str(gpus) * (count // gpus)
        steps = self._steps[kind]
        first, most = float(self._sizes[0]), float(self._sizes[-1])
        least_local = steps.local[0]
        largest = min(steps.largest_local(placement), LARGEST_LOCAL.get((self.name, file), np.inf))
        if count * least_local > most or largest <= 0:
            return None
        batch = np.geomspace(max(first, least_local * count), most, BATCHES)
        local = batch / count
        accumulated = np.ceil(local / largest - 1e-8) - 1
        if count == 1:
            accumulated = np.where(local > first + 1e-8, np.maximum(accumulated, 1), accumulated)
        atomic = np.ceil(local / (accumulated + 1) - 1e-8)
        atomic = np.minimum(atomic, np.floor(most / (count * (accumulated + 1))))
        batch = atomic * count * (accumulated + 1)
        times = steps.times(placement, np.clip(atomic, least_local, largest))
        total = times[:, 0] + (times[:, 0] - times[:, 1]) * accumulated
        sqr, var = self._grad(batch, "grad_sqr"), self._grad(batch, "grad_var")
        gain = (var + sqr) / (var / (batch / first)[:, None] + sqr)
        fits = (atomic >= least_local) & (atomic <= largest) & (batch >= first) & np.isfinite(total)
        rates = np.where(fits[:, None], gain / total[:, None], 0.0)
        best: Floats = rates.max(axis=0)
        if not (best > 0).all():
            return None
        return np.concatenate([[0.0], np.cumsum(np.diff(self.progress) / best)]) * SLOWED[self.name]


# ------------------------------------------------------------------ as jobs of a simulation


class Learning(NamedTuple):
    """How a job gets on at one size: see `Pace`. Work is counted in how far it is, of `whole_us`."""

    progress: Floats
    taken: Floats
    whole_us: int

    def _at(self, work_us: float) -> float:
        return float(np.interp(work_us / self.whole_us * self.progress[-1], self.progress, self.taken))

    def needs_us(self, from_us: Fraction, to_us: int) -> int:
        """See `Pace`."""
        return round((self._at(to_us) - self._at(float(from_us))) * US)

    def reaches_us(self, from_us: Fraction, held_us: int) -> Fraction:
        """See `Pace`."""
        at = float(np.interp(self._at(float(from_us)) + held_us / US, self.taken, self.progress))
        return Fraction(min(round(at / self.progress[-1] * self.whole_us), self.whole_us))


class SiaJob(JobRow, kw_only=True):
    """One job of a workload."""

    model: Any

    def pace_on(self, gpu_type: str, gpus: int) -> Pace:
        """By the profiles."""
        assert self.duration_us is not None
        return Learning(self.model.progress, self.model.taken[gpu_type, gpus], self.duration_us)


def jobs_of(rows: Sequence[Mapping[str, str]], models: Mapping[str, Model]) -> list[SiaJob]:
    """The jobs of a workload; speed 1 is that of one T4."""
    found = []
    for row in rows:
        model = models[row["application"]]
        whole_s = float(model.taken["T4", 1][-1])
        delay_us = DELAY_S[model.name] * US
        found.append(
            SiaJob(
                model=model,
                job_id=row["name"],
                submit_us=round(float(row["time"]) * US),
                duration_us=round(whole_s * US),
                nodes=1,
                max_nodes=max(nodes for _, nodes, _ in TYPES.values()),
                request=ResourceRequest(GpuRequest(8), 0, 0),
                least_gpus=1,
                priority=50,
                project="sia",
                user="sia",
                experiment="",
                deadline_us=None,
                deadline_policy="best-effort",
                time_limit_us=0,
                preemptible=True,
                max_cost_nanos=0,
                checkpoint_us=0,
                saves=True,
                throughput={
                    key: Fraction(whole_s / float(taken[-1])).limit_denominator(10**6)
                    for key, taken in model.taken.items()
                },
                restart_us=delay_us,
                first_us=delay_us,
            )
        )
    return found


def nodes_of() -> list[NodeRow]:
    """The cluster."""
    return [
        NodeRow(
            node_id=f"{kind.lower()}-{n}", cpu_milli=64_000, memory_bytes=1 << 40, gpus=gpus, gpu_type=kind,
            gpu_memory_bytes=0, pool="", rack="", rate_nanos=None, from_us=0, until_us=None,
        )
        for kind, (_, nodes, gpus) in TYPES.items()
        for n in range(nodes)
    ]  # fmt: skip


class Outcome(NamedTuple):
    """Of one workload: hours, GPU-hours of a job, restarts of a job, milliseconds of a decision."""

    jct_h: float
    p99_h: float
    makespan_h: float
    gpu_h: float
    restarts: float
    decision_ms: float
    violations: int
    unfinished: int


def simulate(rows: Sequence[Mapping[str, str]], models: Mapping[str, Model], document: str) -> Outcome:
    """One workload to its end."""
    took: list[float] = []
    turn = rounds.Rounds._round

    def timed(*given: Any) -> None:
        began = time.process_time()
        turn(*given)
        took.append((time.process_time() - began) * 1000)

    with mock.patch.object(rounds.Rounds, "_round", timed):
        made = Simulation(jobs_of(rows, models), nodes_of(), parse_documents(document, "policy"))
        made.run()
    done = [run for run in made.runs if run.end_us >= 0 and run.state == "SUCCEEDED"]
    jct = sorted((run.end_us - run.row.submit_us) / US / 3600 for run in done)
    first = min(run.row.submit_us for run in made.runs)
    return Outcome(
        fmean(jct),
        float(np.percentile(jct, 99)),
        (max(run.end_us for run in done) - first) / US / 3600,
        made.totals.allocated_milli_us / 1000 / US / 3600 / len(made.runs),
        fmean(run.attempts - 1 for run in made.runs),
        float(np.percentile(took, 99)),
        len(made.checks.found),
        len(made.runs) - len(done),
    )


def workloads(archive: Path, family: str, numbers: Sequence[int]) -> list[tuple[int, list[dict[str, str]]]]:
    """Rows of each."""
    found = {}
    with tarfile.open(archive) as tar:
        for item in tar:
            path = Path(item.name)
            if path.parts[-2:-1] == (family,) and path.stem.startswith("workload-"):
                data = tar.extractfile(item)
                assert data is not None
                found[int(path.stem.partition("-")[2])] = list(csv.DictReader(io.TextIOWrapper(data)))
    return [(number, found[number]) for number in sorted(found) if not numbers or number in numbers]


def main() -> None:
    """Run, and say what was reached."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", choices=("philly", "saturn"), default="philly")
    parser.add_argument("--numbers", default="", help="such as 1,2; all without")
    here = Path(__file__).parent
    parser.add_argument("--policy", type=Path, default=here / "policies/sia/goodput.yaml")
    parser.add_argument("--jobs", type=int, default=0, help="the first so many alone, to try something")
    asked = parser.parse_args()
    data = Path(os.environ.get("BURSAR_BENCH_DATA", here.parent.parent / "shared")) / "traces/sia"
    found = tables(data / "profiles.tar.gz")
    models = {name: Model(name, found) for name in EPOCHS if name != "ncf"}
    numbers = [int(one) for one in asked.numbers.split(",") if one]
    document = asked.policy.read_text()
    outcomes = []
    print("workload   JCT h  p99 h  makespan h  GPU-h/job  restarts/job  decision p99 ms (CPU)  violations")
    for number, rows in workloads(data / "workloads.tar.gz", asked.workload, numbers):
        one = simulate(rows[: asked.jobs or None], models, document)
        outcomes.append(one)
        print(
            f"{asked.workload}-{number:<3} {one.jct_h:6.3f} {one.p99_h:6.2f} {one.makespan_h:11.2f}"
            f" {one.gpu_h:10.2f} {one.restarts:13.2f} {one.decision_ms:22.1f} {one.violations:11}"
            + (f"  {one.unfinished} unfinished" if one.unfinished else ""),
            flush=True,
        )
    mean = fmean(one.jct_h for one in outcomes)
    published, goal = PUBLISHED[asked.workload]
    print(
        f"mean JCT {mean:.3f} h; published, mean over workloads: {published}; re-run: {RERUN[asked.workload]}"
    )
    if goal:
        print(f"to be reached: {goal} h: {'yes' if mean <= goal else 'no'}")


if __name__ == "__main__":
    main()
