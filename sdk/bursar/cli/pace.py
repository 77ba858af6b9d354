"""How far a job says that it has come, in words: one place, so that `show` and what follows it agree."""

from __future__ import annotations

from bursar.cli.output import Row
from bursar.cli.terminal import clean, money_text, seconds_text

Pair = tuple[str, str]

_PARTS = (
    ("compute_s", "compute"),
    ("communication_s", "communication"),
    ("data_wait_s", "waiting for data"),
    ("checkpoint_s", "checkpoints"),
)


def progress_pairs(job: Row) -> list[Pair]:
    """Lines of `show`: how far and how fast, where the time went, what it cost; empty: it tells nothing."""
    problem = job["progress_problem"]
    pairs = [("progress", f"its file is not believed: {clean(problem)}")] if problem else []
    told = job["progress"]
    if told is None:
        return pairs
    return [
        *pairs,
        ("steps", ", ".join(filter(None, (_steps(told), _speed(told, "steps"), _left(told))))),
        ("samples", _counted(told, "samples")),
        ("tokens", _counted(told, "tokens")),
        ("goodput", _goodput(told)),
        ("mfu", "" if told["mfu_ratio"] is None else f"{100 * told['mfu_ratio']:.3g} %"),
        ("cost per step", "" if told["cost_per_step"] is None else money_text(told["cost_per_step"])),
    ]


def _steps(told: Row) -> str:
    if told["total"] is None:
        return f"{told['step']:,}"
    return f"{told['step']:,} of {told['total']:,} ({100 * told['step'] / told['total']:.3g} %)"


def _speed(told: Row, name: str) -> str:
    speed = told[f"{name}_per_second"]
    return "" if speed is None else f"{speed:,.3g}/s" if speed < 1000 else f"{speed:,.0f}/s"


def _left(told: Row) -> str:
    return f"{seconds_text(max(round(told['left_s']), 1))} left" if told["left_s"] else ""


def _counted(told: Row, name: str) -> str:
    if told[name] is None:
        return ""
    cost = told[f"cost_per_million_{name}"]
    price = "" if cost is None else f"{money_text(cost)} per million"
    return ", ".join(filter(None, (f"{told[name]:,}", _speed(told, name), price)))


def _goodput(told: Row) -> str:
    if told["goodput_ratio"] is None:
        return ""
    elapsed_s = told["elapsed_s"]
    parts = [f"{100 * told[name] / elapsed_s:.3g} % {word}" for name, word in _PARTS if told[name]]
    return f"{100 * told['goodput_ratio']:.3g} %: {', '.join(parts)}"
