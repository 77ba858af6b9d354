"""Verbs about the books: `ledger correct` and `ledger retag`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import click

from bursar.cli.common import changing_unless, listing, read_labels, read_since
from bursar.cli.groups import NearGroup
from bursar.cli.output import Column, Output, Row, emit_one
from bursar.cli.terminal import clean, money_text, time_text
from bursar.codec import view
from bursar.errors import InvalidRequest
from bursar.money import parse_money
from bursar.words import plural

if TYPE_CHECKING:
    from bursar.client import WireClient

_PERCENT: Final = re.compile(r"(\d{1,6})(?:\.(\d{1,4}))?\s*%")
CORRECTION_COLUMNS = (
    Column("job"),
    Column("charges", right=True),
    Column("before", right=True),
    Column("after", right=True),
    Column("difference", right=True),
)


@click.group(cls=NearGroup)
def ledger() -> None:
    """Correct what jobs were charged, and whom it is for.

    Example: bursar ledger correct 12 --to 80% --reason "node-3 was throttled"
    """


@ledger.command("correct")
@click.argument("job")
@click.option(
    "--to",
    "target",
    required=True,
    metavar="AMOUNT|N%",
    help="What the charges are to be in all: 12.50 USD, or 80% of what was metered.",
)
@click.option("--since", metavar="TIME", help="Only what was used from then on: 2026-10-01.")
@click.option("--until", metavar="TIME", help="Only what was used until then, exclusive.")
@click.option("--reason", required=True, metavar="TEXT", help="Why: kept for ever, shown in the statement.")
@click.option("--dry-run", is_flag=True, help="Say what would be, and change nothing.")
@listing
@changing_unless(lambda given: bool(given["dry_run"]))
def ledger_correct(
    client: WireClient,
    job: str,
    target: str,
    since: str | None,
    until: str | None,
    output: Output,
    reason: str,
    dry_run: bool,
) -> None:
    """Correct what an ended job was charged (finance, administrators).

    Each charge is reversed and posted anew, as of now: what was published stays as it was. The budgets that
    cover the job follow.

    Example: bursar ledger correct 12 --since 2026-10-03 --until 2026-10-04 --to "0 USD" --reason "outage"
    """
    found = client.correct(
        job,
        reason=reason,
        since=read_since(since),
        until=read_since(until, "--until"),
        dry_run=dry_run,
        **read_target(target),
    )
    row = view.correction(found)
    emit_one(
        row, output, lambda row: correction_text(row, dry_run), columns=CORRECTION_COLUMNS, identity="job"
    )


RETAG_COLUMNS = (Column("job"), Column("charges", right=True), Column("moved", "before", right=True))


@ledger.command("retag")
@click.argument("job")
@click.option("--project", help="The project that they are of.")
@click.option("--user", help="The user that they are of.")
@click.option("--experiment", help="The experiment; empty for none.")
@click.option("--model", help="The model; empty for none.")
@click.option("--model-version", help="Its version; empty for none.")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="A label; K= takes it away.")
@click.option("--since", metavar="TIME", help="Only what was used from then on: 2026-10-01.")
@click.option("--until", metavar="TIME", help="Only what was used until then, exclusive.")
@click.option("--reason", required=True, metavar="TEXT", help="Why: kept for ever, shown in the statement.")
@click.option("--dry-run", is_flag=True, help="Say what would be, and change nothing.")
@listing
@changing_unless(lambda given: bool(given["dry_run"]))
def ledger_retag(
    client: WireClient,
    job: str,
    labels: tuple[str, ...],
    since: str | None,
    until: str | None,
    output: Output,
    reason: str,
    dry_run: bool,
    **marks: str | None,
) -> None:
    """Have what an ended job was charged be for somebody else (finance, administrators).

    No row is written again: each charge is taken back from whom it was for, and posted for whom it is for, at
    the amount and the price that it had, as of now. What was published stays as it was. A budget that covered
    it has settled less, one that covers it now has settled more, in their current periods. The job itself
    still says what it was submitted as.

    Example: bursar ledger retag 12 --model llama-3 --label cost-center=R-7 --reason "label was missing"
    """
    found = client.retag(
        job,
        reason=reason,
        marks={name: value for name, value in marks.items() if value is not None},
        labels=read_labels(labels),
        since=read_since(since),
        until=read_since(until, "--until"),
        dry_run=dry_run,
    )
    row = view.correction(found)
    emit_one(row, output, lambda row: retag_text(row, dry_run), columns=RETAG_COLUMNS, identity="job")


def retag_text(row: Row, dry_run: bool) -> str:
    """What was moved, for people."""
    if not row["charges"]:
        return "nothing to move: the charges are for them already\n"
    verb = "would be" if dry_run else "was" if row["charges"] == 1 else "were"
    first = (
        f"{plural(row['charges'], 'charge')} of {row['job']} {verb} moved: {money_text(row['before'])},"
        f" booked {time_text(row['booked_at'])}"
    )
    return "\n".join([first, *_budget_lines(row)]) + "\n"


def read_target(text: str) -> dict[str, Any]:
    """`amount` or `to_ppm` of `--to`."""
    text = text.strip()
    match = _PERCENT.fullmatch(text)
    if match is not None:
        return {"to_ppm": int(match[1]) * 10_000 + int((match[2] or "0").ljust(4, "0"))}
    if text.endswith("%"):
        raise InvalidRequest(f"--to: {text!r} is not a percentage, such as 80% or 12.5%")
    amount = parse_money(text)
    if amount.nanos < 0:
        raise InvalidRequest(f"--to: {text!r} is below 0; charges can be corrected down to 0")
    return {"amount": amount}


def correction_text(row: Row, dry_run: bool) -> str:
    """What became of it, for people."""
    if not row["charges"]:
        return f"nothing to correct: the charges are {money_text(row['before'])} already\n"
    verb = "would be corrected" if dry_run else "were corrected"
    if row["charges"] == 1:
        verb = verb.replace("were", "was")
    lines = [
        f"{plural(row['charges'], 'charge')} of {row['job']} {verb}: {money_text(row['before'])} before,"
        f" {money_text(row['after'])} now, booked {time_text(row['booked_at'])}"
    ]
    return "\n".join([*lines, *_budget_lines(row)]) + "\n"


def _budget_lines(row: Row) -> Iterator[str]:
    for one in row["budgets"]:
        more = "more" if Decimal(one["amount"]["amount"]) > 0 else "less"
        amount = {**one["amount"], "amount": one["amount"]["amount"].removeprefix("-")}
        yield f"budget {clean(one['budget'])} has settled {money_text(amount)} {more}"
