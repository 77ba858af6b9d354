"""Steps of a job as `show` tells of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bursar.cli.output import Row
from bursar.cli.terminal import clean, seconds_text
from bursar.words import plural

SHOWN_MAX: Final = 8
_WORDS: Final = {
    "running": "runs", "completed": "completed", "failed": "failed", "cancelled": "ended by its script",
    "time_limit": "ended at its time limit", "cut_off": "still ran when its script ended",
}  # fmt: skip


def step_lines(attempt: Row) -> Iterator[str]:
    """How many steps an attempt started, and how the first of them ended, those that failed before others."""
    total, told = attempt.get("steps_total") or 0, attempt.get("steps") or []
    if not total:
        return
    parts = [plural(total, "step")]
    parts += [f"{attempt['steps_failed']} failed"] if attempt["steps_failed"] else []
    parts += [f"{attempt['steps_cut_off']} cut off"] if attempt["steps_cut_off"] else []
    runs = sum(step["state"] == "running" for step in told)
    parts += [f"{runs} running"] if runs else []
    yield f"attempt {attempt['number']}: {', '.join(parts)}"
    bad = [step for step in told if step["state"] not in ("completed", "running")]
    shown = told if runs or not bad else bad
    for step in shown[:SHOWN_MAX]:
        yield f"  {_step(step)}"
    left = (total if shown is told else len(bad)) - min(len(shown), SHOWN_MAX)
    if left > 0:
        yield f"  and {left} more"


def _step(step: Row) -> str:
    name = f" ({clean(step['name'])})" if step["name"] else ""
    where = f" of rank {step['rank']}" if step["rank"] else ""
    size = plural(step["tasks"], "task") + (f" on {step['nodes']} nodes" if step["nodes"] > 1 else "")
    code = f", exit code {step['exit_code']}" if step["exit_code"] else ""
    code = code or (f", signal {step['signal']}" if step["signal"] else "")
    first = (
        f", task {step['failed_task']} first" if step["failed_task"] is not None and step["tasks"] > 1 else ""
    )
    ran = f", {'since' if step['state'] == 'running' else 'after'} {seconds_text(step['elapsed_s'])}"
    state = _WORDS.get(step["state"], clean(step["state"]))
    return f"step {step['number']}{where}{name}, {size}: {state}{code}{first}{ran}"
