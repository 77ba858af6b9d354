"""How the scheduler does: what its passes took and did since the daemon began, of its counters alone."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from bursar import pictures
from bursar.cli.output import Column, Row
from bursar.cli.terminal import seconds_text, time_text
from bursar.clock import SECOND_US
from bursar.pictures import Picture

HEALTH_COLUMNS: Final = (Column("figure"), Column("value", right=True), Column("means"))
_CYCLE: Final = "cycle_le_"


def took(server: Row) -> Picture:
    """How many passes took how long."""
    counters = server["counters"]
    cumulative = sorted(
        (int(name.removeprefix(_CYCLE).removesuffix("_us")), count)
        for name, count in counters.items()
        if name.startswith(_CYCLE)
    )
    parts, before, last = list[tuple[str, Decimal]](), 0, 0
    for us, count in cumulative:
        parts.append((f"to {_round(us)}", Decimal(count - before)))
        before, last = count, us
    parts.append((f"over {_round(last)}", Decimal(counters["cycles"] - before)))
    cycles = counters["cycles"]
    told = f"{cycles} {'pass' if cycles == 1 else 'passes'} since {time_text(server['started_at'])}"
    if cycles:
        told += (
            f", {_us(counters['cycle_total_us'] // cycles)} on average, {_us(counters['cycle_last_us'])} the"
        )
        told += f" last, {_us(counters['cycle_longest_us'])} the longest"
    drawn = pictures.bars(parts if cycles else [])
    return drawn._replace(caption="How long passes of the scheduler took", sentence=f"{told}.")


def health(server: Row) -> list[Row]:
    """The figures, each with what it means."""
    counters = server["counters"]
    refused = sum(count for name, count in counters.items() if name.startswith("refused_"))
    cycles = counters["cycles"]
    rows = (
        ("passes", cycles, "looks at the queue that planned"),
        ("mean pass", _us(counters["cycle_total_us"] // cycles) if cycles else "-", "of all of them"),
        ("longest pass", _us(counters["cycle_longest_us"]), "of all of them"),
        ("placed", counters["placed"], "jobs that passes placed"),
        ("dropped", counters["dropped"], "actions of plans that no longer held when they were due"),
        ("commits", counters["commits"], "of the log"),
        ("last commit", _us(counters["commit_last_us"]), "until the disk had it"),
        ("longest commit", _us(counters["commit_longest_us"]), "a second and more: the disk is slow"),
        ("ledger entries", counters["ledger_entries"], "that were made"),
        ("calls refused", refused, "the page of administration has them by status"),
    )
    return [{"figure": name, "value": str(value), "means": means} for name, value, means in rows]


def _us(value: int) -> str:
    return f"{value / 1_000:.1f} ms" if value < SECOND_US else seconds_text(value / SECOND_US)


def _round(us: int) -> str:
    return f"{us / 1_000:g} ms" if us < SECOND_US else f"{us / SECOND_US:g} s"
