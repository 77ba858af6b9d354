"""What a simulation says at its end: the JSON summary, the table for people, the rows of `--out-jobs`.

Why     every number comes from integers and is rounded once, so the same input gives the same bytes. What
        was measured with a clock (`cpu_s`, `cycle_ms`) is left empty unless it is asked for.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from bursar.model import JobState
from bursar.money import format_nanos
from bursard.reports.files import defused
from bursard.sim.csvfile import joined
from bursard.sim.runs import JobRun
from bursard.sim.simulation import Simulation
from bursard.state.budgets import limit_of, settled_of

SECOND_US = 1_000_000
GPU_HOUR = 1000 * 3600 * SECOND_US
DONE = JobState.SUCCEEDED.value
WAITING = JobState.PENDING.value
ALIVE = (JobState.STARTING.value, JobState.RUNNING.value, JobState.STOPPING.value)

Json = dict[str, Any]


def summarize(simulation: Simulation, cpu_s: float | None, timing: bool) -> Json:
    """The summary of contract section 9."""
    runs, totals = simulation.runs, simulation.totals
    done = [run for run in runs if run.state == DONE]
    first_us = min((run.row.submit_us for run in runs), default=0)
    return {
        "jobs": _jobs(runs),
        "jct_s": _spread([run.end_us - run.row.submit_us for run in done]),
        "wait_s": _spread([run.start_us - run.row.submit_us for run in runs if run.start_us >= 0]),
        "makespan_s": _seconds(max(run.end_us for run in done) - first_us) if done else None,
        "end_s": _seconds(simulation.end_us),
        "gpu": _gpu(simulation),
        "cost": _cost(simulation),
        "deadlines": _deadlines(simulation),
        "preemptions": totals.preemptions,
        "idle": {"told": totals.idle_told, "acted": totals.idle_acted},
        "budgets": _budgets(simulation),
        "scheduler": {
            "cycles": totals.cycles,
            "decisions": totals.decisions,
            "cpu_s": round(cpu_s, 3) if timing and cpu_s is not None else None,
            "cycle_ms": _cycle_ms(simulation.cycle_ns if timing else []),
        },
        "violations": simulation.checks.count,
    }


def _jobs(runs: Sequence[JobRun]) -> Json:
    states = Counter(run.state for run in runs)
    never = sum(run.never_fits for run in runs)
    return {
        "submitted": sum(count for state, count in states.items() if state),
        "finished": states[DONE],
        "failed": states[JobState.FAILED.value],
        "running": sum(states[state] for state in ALIVE),
        "pending": states[WAITING] - never,
        "never_fit": never,
        "dropped": states["DROPPED"],
        "refused": states["REFUSED"],
    }


def _spread(values_us: Sequence[int]) -> Json:
    if not values_us:
        return {"mean": None, "p50": None, "p90": None, "p99": None}
    seconds = np.array(sorted(values_us), dtype=np.int64)
    p50, p90, p99 = np.percentile(seconds, (50, 90, 99))
    mean = sum(values_us) / len(values_us)
    return {
        name: round(float(value) / SECOND_US, 6)
        for name, value in zip(("mean", "p50", "p90", "p99"), (mean, p50, p90, p99), strict=True)
    }


def _cycle_ms(cycle_ns: Sequence[int]) -> Json:
    if not cycle_ns:
        return {"p50": None, "p99": None, "max": None}
    p50, p99 = np.percentile(np.array(cycle_ns), (50, 99))
    return {
        "p50": round(float(p50) / 1e6, 3),
        "p99": round(float(p99) / 1e6, 3),
        "max": round(max(cycle_ns) / 1e6, 3),
    }


def _gpu(simulation: Simulation) -> Json:
    totals = simulation.totals
    capacity, allocated = totals.capacity_milli_us, totals.allocated_milli_us
    peak = totals.peak_allocated / totals.peak_capacity
    return {
        "capacity_h": round(capacity / GPU_HOUR, 6),
        "allocated_h": round(allocated / GPU_HOUR, 6),
        # Of a simulation that lasts no time at all, the ratio is that of its one instant.
        "allocation_ratio": round(allocated / capacity if capacity else peak, 9),
        "peak_allocation_ratio": round(peak, 9),
    }


def _cost(simulation: Simulation) -> Json:
    totals, currency = simulation.totals, simulation.state.currency
    known = totals.priced_node_us > 0 or not totals.node_us

    def money(nanos: int) -> Json:
        # A price nobody stated is unknown, never 0.
        return {"amount": format_nanos(nanos) if known else None, "currency": currency}

    def rented(nanos: int) -> Json:
        # Its prices are known.
        return {"amount": format_nanos(nanos), "currency": currency}

    total = totals.used_nanos + totals.startup_nanos + totals.idle_nanos - totals.absorbed_nanos
    return {
        "total": money(total),
        "on_demand": rented(totals.on_demand_nanos),
        "spot": rented(totals.spot_nanos),
        "owned": money(total - totals.on_demand_nanos - totals.spot_nanos),
        # What nodes cost is what jobs paid, for runs and for machines that came up for them, less what they
        # paid beyond their share, and what was idle.
        "idle": money(totals.idle_nanos),
        "absorption": money(totals.absorbed_nanos),
        "held_idle": money(sum(run.held_idle_nanos for run in simulation.runs)),
        "wasted_on_preemption": money(sum(run.wasted_nanos for run in simulation.runs)),
        "priced_ratio": round(totals.priced_node_us / totals.node_us, 9) if totals.node_us else None,
    }


def _deadlines(simulation: Simulation) -> Json:
    met = missed = 0
    for run in simulation.runs:
        deadline_us = run.row.deadline_us
        if deadline_us is None or not run.state:
            continue
        if run.state == DONE and run.end_us <= deadline_us:
            met += 1
        elif run.state not in (WAITING, *ALIVE) or deadline_us <= simulation.end_us or run.never_fits:
            missed += 1
    return {"met": met, "missed": missed}


def _budgets(simulation: Simulation) -> list[Json]:
    state, currency = simulation.state, simulation.state.currency

    def money(nanos: int) -> Json:
        return {"amount": format_nanos(nanos), "currency": currency}

    return [
        {
            "name": name,
            "limit": money(limit_of(record, state.ledger)),
            "settled": money(settled_of(record, state.ledger)),
            "peak_settled_plus_held": money(simulation.checks.peaks.get(name, 0)),
        }
        for name, record in sorted(state.budgets.records.items())
    ]


def _seconds(us: int) -> float | int:
    whole, rest = divmod(us, SECOND_US)
    return us / SECOND_US if rest else whole


def _seconds_text(us: int) -> str:
    whole, rest = divmod(us, SECOND_US)
    return f"{whole}.{rest:06d}".rstrip("0") if rest else str(whole)


def jobs_csv(runs: Sequence[JobRun]) -> str:
    """The rows of `--out-jobs`, in the order of JOBS. `nodes` are node ids joined by `|`."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("job_id", "state", "submit_s", "start_s", "end_s", "nodes", "cost", "attempts"))
    for run in runs:
        writer.writerow(
            (
                defused(run.row.job_id),
                run.state or "NOT_SUBMITTED",
                _seconds_text(run.row.submit_us),
                _seconds_text(run.start_us) if run.start_us >= 0 else "",
                _seconds_text(run.end_us) if run.end_us >= 0 else "",
                defused(joined(run.nodes)),
                format_nanos(run.cost_nanos) if run.priced else "",
                run.attempts,
            )
        )
    return out.getvalue()


# ------------------------------------------------------------------ for people


def table(summary: Json) -> str:
    """The summary as lines of two columns."""
    lines: list[tuple[str, str]] = []
    for name, value in summary.items():
        if name == "budgets":
            lines += [
                (f"budget {one['name']}", f"{_text(one['settled'])} settled, at most "
                 f"{_text(one['peak_settled_plus_held'])} committed of {_text(one['limit'])}")
                for one in value
            ]  # fmt: skip
        elif isinstance(value, dict):
            parts = [f"{key} {_text(part)}" for key, part in value.items()]
            lines.append((name, "  ".join(parts)))
        else:
            lines.append((name, _text(value)))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:{width}}  {text}" for name, text in lines)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict) and "currency" in value:
        return "unknown" if value["amount"] is None else f"{_cut(value['amount'])} {value['currency']}"
    if isinstance(value, dict):
        return "(" + " ".join(f"{key} {_text(part)}" for key, part in value.items()) + ")"
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def _cut(amount: str) -> str:
    whole, _, fraction = amount.partition(".")
    return f"{whole}.{fraction[:2]}"
