"""Verbs about months of the books: `period close`, `period ls`, `period show`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bursar.cli.common import changing_unless, connected, listing
from bursar.cli.groups import NearGroup
from bursar.cli.output import Column, Output, Row, emit, emit_one
from bursar.cli.terminal import clean, money_text, time_text
from bursar.codec.books import book_period

if TYPE_CHECKING:
    from bursar.client import WireClient

PERIOD_COLUMNS = (
    Column("period"),
    Column("state"),
    Column("total", right=True),
    Column("charges", right=True, drop=3),
    Column("closed_at", drop=1),
    Column("closed_by", drop=2, shrink=True),
    Column("hash", shrink=True, drop=4),
)


@click.group(cls=NearGroup)
def period() -> None:
    """Close months of the books, and list them.

    Example: bursar period close last-month
    """


@period.command("close")
@click.argument("month")
@click.option(
    "--force", is_flag=True, help="In spite of what is missing: told later, it is posted in the open month."
)
@click.option("--dry-run", is_flag=True, help="Say what would be, and close nothing.")
@listing
@changing_unless(lambda given: bool(given["dry_run"]))
def period_close(client: WireClient, month: str, force: bool, dry_run: bool, output: Output) -> None:
    """Close a month of the books and sign it (finance, administrators). Months are of UTC.

    Nothing is posted into a closed month any more: what is used in it and told later, and corrections, are
    posted in the open one. It is refused while something of it is not known, and says what.

    Example: bursar period close 2026-10
    """
    row = book_period(client.close_period(month, force=force, dry_run=dry_run))
    emit_one(row, output, period_text, columns=PERIOD_COLUMNS, identity="period")


@period.command("ls")
@listing
@connected
def period_ls(client: WireClient, output: Output) -> None:
    """List months of the books: open or closed, and what they cost in all.

    Example: bursar period ls
    """
    rows = [book_period(one) for one in client.periods()]
    emit(rows, PERIOD_COLUMNS, output, identity="period", empty="nothing was charged yet")


@period.command("show")
@click.argument("month")
@listing
@connected
def period_show(client: WireClient, month: str, output: Output) -> None:
    """Show one month of the books: what it cost by kind, who closed it, and the hash that says of what.

    Example: bursar period show 2026-10
    """
    (found,) = client.periods(month)
    emit_one(book_period(found), output, period_text, columns=PERIOD_COLUMNS, identity="period")


def period_text(row: Row) -> str:
    """One month, for people."""
    lines = [f"period    {row['period']}, of UTC", f"state     {row['state']}"]
    if row["closed_at"]:
        lines.append(f"closed    {time_text(row['closed_at'])} by {clean(row['closed_by'])}")
    if row["hash"]:
        lines.append(f"hash      {row['hash']}  (of the log up to event {row['closed_by_event']})")
    lines += [f"missing   {clean(one)}" for one in row["missing"]]
    span = max(map(len, row["totals"]), default=0)  # absorption is longer than the other names
    lines += [f"{kind:<{max(span, 9)}} {money_text(amount)}" for kind, amount in row["totals"].items()]
    lines.append(f"{'total':<{max(span, 9)}} {money_text(row['total'])} in {row['charges']} charges")
    return "\n".join(lines) + "\n"
