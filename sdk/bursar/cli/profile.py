"""`show --profile`: what the members and devices of an attempt did over time, in words and small curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from bursar.cli.output import Column, Output, Row, emit
from bursar.cli.terminal import size_text
from bursar.codec import view

if TYPE_CHECKING:
    from bursar.client import WireClient

WIDTH: Final = 40
"""Characters of one curve."""
_BARS: Final = "▁▂▃▄▅▆▇█"


class Metric(NamedTuple):
    """One thing that is measured. top: what the whole height of a curve is; 0: its largest value."""

    field: str
    name: str
    text: Callable[[float], str]
    top: float


def _percent(value: float) -> str:
    return f"{value * 100:.0f} %"


def _size(value: float) -> str:
    return size_text(int(value)) if value >= 1 else "0"


METRICS: Final = (
    Metric("sm_ratio", "GPU multiprocessors at work", _percent, 1.0),
    Metric("tensor_ratio", "GPU tensor cores at work", _percent, 1.0),
    Metric("gpu_utilization_ratio", "GPU busy with anything", _percent, 1.0),
    Metric("gpu_memory_used_bytes", "GPU memory used", _size, 0.0),
    Metric("gpu_power_watts", "GPU power", lambda value: f"{value:.0f} W", 0.0),
    Metric("cpu_cores", "CPUs at work", lambda value: f"{value:.2f}", 0.0),
    Metric("memory_used_bytes", "memory used", _size, 0.0),
)
"""In the order in which they are shown."""
PROFILE_COLUMNS: Final = (
    Column("rank", right=True),
    Column("node"),
    Column("at"),
    *(Column(metric.field, right=True) for metric in METRICS),
)
SUMMARY_COLUMNS: Final = (
    Column("rank", right=True),
    Column("node", shrink=True),
    Column("what"),
    Column("mean", right=True),
    Column("largest", right=True),
    Column("curve", drop=1),
)


def print_profile(client: WireClient, job: str, attempt: int, output: Output) -> None:
    """The verb's answer: points for programs, a line of each metric for people."""
    found = view.profile(client.profile(job, attempt=attempt))
    if output.format != "table":
        emit(found["rows"], PROFILE_COLUMNS, output, identity="at", document=found)
        return
    empty = (
        "nothing is kept of it: it has not run for ten seconds, or ended more than a day or a restart of the"
        " daemon ago"
    )
    emit(summary(found), SUMMARY_COLUMNS, output, identity="rank", empty=empty)


def summary(found: Row) -> list[Row]:
    """A row of each metric of each member that was heard of."""
    rows: list[Row] = []
    for member in found["members"]:
        points = [point for point in found["rows"] if point["rank"] == member["rank"]]
        for metric in METRICS:
            values = [point[metric.field] for point in points]
            known = [value for value in values if value is not None]
            if known:
                rows.append({
                    "rank": member["rank"],
                    "node": member["node"],
                    "what": metric.name,
                    "mean": metric.text(sum(known) / len(known)),
                    "largest": metric.text(max(known)),
                    "curve": curve(values, metric.top or max(known)),
                })  # fmt: skip
    return rows


def curve(values: Sequence[float | None], top: float) -> str:
    """A line of blocks, of at most `WIDTH` means; a space is what was not heard."""
    each = max(1, -(-len(values) // WIDTH))
    pieces = [values[at : at + each] for at in range(0, len(values), each)]
    parts = [[value for value in piece if value is not None] for piece in pieces]
    return "".join(_block(sum(part) / len(part) / top if top else 0.0) if part else " " for part in parts)


def _block(ratio: float) -> str:
    return _BARS[min(max(int(ratio * len(_BARS)), 0), len(_BARS) - 1)]
