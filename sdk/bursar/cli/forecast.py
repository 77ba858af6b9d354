"""The verb that says where budgets end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from bursar.cli.common import connected, listing
from bursar.cli.output import NAME_LEAST, Column, Output, Row, emit, emit_one
from bursar.cli.terminal import clean, money_text, time_text
from bursar.cli.texts import Pair, pairs_text
from bursar.codec import view

if TYPE_CHECKING:
    from bursar.client import WireClient

FORECAST_COLUMNS = (
    Column("name", wrap=True, least=NAME_LEAST),
    Column("period", drop=5),
    Column("ends", "ends_at", drop=4, title="ends_at"),
    Column("limit", right=True),
    Column("settled", right=True, drop=6),
    Column("end_p10", right=True, drop=3),
    Column("end_p50", right=True),
    Column("end_p90", right=True, drop=2),
    Column("exhausted", "exhausted_p50_at", title="exhausted_p50_at"),
    Column("burn_rate", right=True, drop=1, suffix="/h"),
    Column("run_rate", right=True, drop=1, suffix="/h"),
)
_BUDGET = ("name", "scope", "period", "enforcement", "limit", "settled", "held", "period_start", "period_end")


@click.command()
@click.argument("budget", required=False, metavar="[BUDGET]")
@listing
@connected
def forecast(client: WireClient, budget: str | None, output: Output) -> None:
    """Say where a budget ends: what will be settled, and when its limit is reached.

    Each amount is told three ways: with a chance of 10, 50 and 90 percent it is no more than that. They are
    estimates, made of what its scope cost on the days before, what runs and what waits. No job's own word of
    its progress is in them; `show JOB` has that.

    Example: bursar forecast vision-monthly
    """
    from bursar.errors import NotFound

    rows = [forecast_row(view.budget(each)) for each in client.forecasts(name=budget or "")]
    if not budget:
        emit(rows, FORECAST_COLUMNS, output, identity="name", empty="no budgets; `policy apply` makes one")
        return
    if not rows:
        raise NotFound(f"there is no budget {budget!r}; `bursar budget ls` lists them")
    emit_one(rows[0], output, forecast_text, columns=FORECAST_COLUMNS, identity="name")


def forecast_row(budget: Row) -> Row:
    """Of a budget, what a forecast is about, and the forecast. Raises `NotBuilt`."""
    from bursar.errors import NotBuilt

    if budget["forecast"] is None:
        raise NotBuilt("the server is of an earlier version than this command, and says no forecasts")
    return {**{name: budget[name] for name in _BUDGET}, **budget["forecast"]}


def forecast_text(row: Row) -> str:
    """One budget."""
    days = row["learned_days"]
    rests = f"{days} days" if days else "no days yet: on what runs and waits alone"
    pairs: list[Pair] = [
        ("scope", clean(row["scope"])),
        ("until", time_text(row["ends_at"])),
        ("limit", money_text(row["limit"])),
        ("settled", money_text(row["settled"])),
        ("held", money_text(row["held"])),
        ("burn rate", f"{money_text(row['burn_rate'])} an hour, the mean of the last week"),
        ("run rate", f"{money_text(row['run_rate'])} an hour runs now"),
        ("running", f"{money_text(row['running'])} expected of what runs"),
        ("queued", f"{money_text(row['queued'])} expected of what waits"),
        ("at the end", _three(row, "end_{}", money_text)),
        ("exhausted", _three(row, "exhausted_{}_at", lambda at: time_text(at) if at else "not by then")),
        ("rests on", rests),
        ("unpriced", f"{row['unpriced_jobs']} jobs have no price" if row["unpriced_jobs"] else ""),
    ]
    return f"forecast of budget {clean(row['name'])}\n" + pairs_text(pairs, "  ")


def _three(row: Row, name: str, text: Callable[[Any], str]) -> str:
    return ", ".join(f"{each} {text(row[name.format(each)])}" for each in ("p10", "p50", "p90"))
