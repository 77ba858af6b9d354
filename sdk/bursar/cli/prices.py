"""The verb `prices`: which are in force, what they were and are made of, and where they come from."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from bursar.cli.cluster import PRICE_COLUMNS, RATE
from bursar.cli.common import changing, connected, listing
from bursar.cli.groups import NearChoice, NearGroup, nearest
from bursar.cli.output import Column, Output, Row, emit, say
from bursar.cli.policy import emit_applied, read_sources
from bursar.cli.pricefile import FIXED, HEADERS, Book, read_table
from bursar.cli.terminal import money_text, time_text
from bursar.codec import view
from bursar.errors import BursarError, InvalidRequest
from bursar.model import MARKETS
from bursar.smallfile import FILES_PER_CALL_MAX
from bursar.words import plural

if TYPE_CHECKING:
    from bursar.client import WireClient


PRICE_HISTORY_COLUMNS = (
    *PRICE_COLUMNS[:5],
    RATE,
    Column("valid_from", "valid_from", lambda row: time_text(row["valid_from"])),
    Column("valid_until", "valid_until", lambda row: time_text(row["valid_until"]), drop=1),
    Column("source", shrink=True, drop=2),
)


@click.group(cls=NearGroup)
def prices() -> None:
    """List or apply prices.

    Example: bursar prices ls --provider aws
    """


PRICES_MAX: Final = 2_000
"""That one answer holds."""


def _price_filters(command: Any) -> Any:
    for option in (
        click.option("--provider", default="", help="aws, gcp, azure, onprem."),
        click.option("--region", default="", help="Of the provider."),
        click.option("--instance-type", default="", help="Of the provider."),
        click.option("--market", default="", help="on-demand, spot, committed-1y …"),
        click.option(
            "--limit",
            type=click.IntRange(1, PRICES_MAX),
            default=PRICES_MAX,
            show_default=True,
            help="At most.",
        ),
    ):
        command = option(command)
    return command


@prices.command("ls")
@_price_filters
@listing
@connected
def prices_ls(client: WireClient, output: Output, limit: int, **filters: str) -> None:
    """List the prices in force.

    Example: bursar prices ls --provider gcp --market spot
    """
    rows = [view.price(each) for each in client.prices(limit=limit, **filters)]
    emit(rows, PRICE_COLUMNS, output, identity="price_id", empty="no price matches")
    _tell_cut(rows, limit)


def _tell_cut(rows: Sequence[Row], limit: int) -> None:
    if len(rows) == limit:
        say(f"the first {limit}; narrow it with --provider, --region, --instance-type or --market")


@prices.command("history")
@_price_filters
@listing
@connected
def prices_history(client: WireClient, output: Output, limit: int, **filters: str) -> None:
    """List prices with their dates, past ones included.

    Example: bursar prices history --instance-type p5.48xlarge
    """
    found = client.prices(history=True, limit=limit, **filters)
    rows = [view.price(each) for each in found]
    emit(rows, PRICE_HISTORY_COLUMNS, output, identity="price_id", empty="no price matches")
    _tell_cut(rows, limit)


EXPLAIN_COLUMNS = (
    Column("of", "name", shrink=True, drop=1),
    Column("rate"),
    Column("per_hour", "per_hour", lambda row: _rate_text(row["per_hour"]), right=True),
    Column("per_gpu_hour", "per_gpu_hour", lambda row: _rate_text(row["per_gpu_hour"]), right=True),
    Column("means", shrink=True, drop=2),
)
_MEANS = {
    "cost": "what it costs its site, used or not",
    "mean_cost": "the cost in the mean of a week, by its tariff",
    "charge": "what jobs pay",
    "full_absorption": "at which the hours sold would have paid for it",
    "list": "before any discount",
    "effective": "purchases spread over their life",
    "marginal": "what an hour of use adds",
    "charge_gpu": "of what jobs pay: its GPUs",
    "charge_cpu": "of what jobs pay: its CPUs",
    "charge_memory": "of what jobs pay: its memory",
}


@prices.command("explain")
@click.argument("name")
@listing
@connected
def prices_explain(client: WireClient, name: str, output: Output) -> None:
    """Explain a price: every part of what a node, a pool or a machine type costs, and who pays which rate.

    Example: bursar prices explain rack-a
    """
    found = client.explain_price(name)
    documents = [view.price_explanation(one) for one in found.explanations]
    rows = [
        {"name": one["name"], "means": _means(one, rate["rate"]), **rate}
        for one in documents
        for rate in one["rates"]
    ]
    since = view.instant(found.since)
    document = {"since": since, "explanations": documents}
    emit(rows, EXPLAIN_COLUMNS, output, identity="rate", document=document, empty="no price")
    if output.format == "table" and not output.quiet:
        for one in documents:
            told = _sold_text(one["sold"], time_text(since))
            sys.stdout.write(f"{one['name']}: {told}; {one['price_id']}, {one['source']}\n")


def _means(document: Row, rate: str) -> str:
    rates = {one["rate"]: one["per_hour"] for one in document["rates"]}
    charge, cost = rates["charge"], rates.get("mean_cost") or rates["cost"]
    if rate == "charge" and charge != cost:
        part = Decimal(cost["amount"]) / Decimal(charge["amount"])
        what = "mean cost" if "mean_cost" in rates else "cost"
        return f"{_MEANS[rate]}: the {what} over the {part:.0%} of its hours that can be sold"
    return _MEANS.get(rate, "a part of the cost")


def _rate_text(amount: Row | None) -> str:
    return money_text(amount) if amount is not None else "-"


def _sold_text(sold: float | None, since: str) -> str:
    return "nothing is known of what was sold" if sold is None else f"{sold:.1%} was sold since {since}"


@prices.command("apply")
@click.argument("paths", nargs=-1, required=True, metavar="FILE...")
@listing
@changing
def prices_apply(client: WireClient, paths: tuple[str, ...], output: Output) -> None:
    """Apply price books: all files or none. The past is never repriced.

    Example: bursar prices apply aws-us-east-1.yaml
    """
    emit_applied([view.policy(each) for each in client.apply_policies(read_sources(paths))], output)


IMPORT_BYTES: Final = 900_000
"""Of the books of one call: a message is at most 1 MiB."""


@prices.command("import")
@click.argument("file")
@click.option("--provider", help="Of all lines; else a column.")
@click.option("--region", help="Of all lines; else a column.")
@click.option("--market", type=NearChoice(MARKETS), help="Of all lines; else a column.")
@click.option("--currency", default="USD", show_default=True, help="Unless a column says it.")
@click.option("--valid-from", metavar="TIME", help="Of all lines; else a column, else from now on.")
@click.option("--column", "named", multiple=True, metavar="PART=HEADER", help="Where a part of a price is.")
@click.option("--source", default="", help="Where the prices are from.  [default: the file's name]")
@click.option("--skip-unpriced", is_flag=True, help="Leave out lines without a price.")
@click.option("--dry-run", is_flag=True, help="Say what would be applied.")
@listing
@changing
def prices_import(
    client: WireClient, file: str, named: tuple[str, ...], output: Output, dry_run: bool, **asked: Any
) -> None:
    """Import a table of prices: a CSV, or one packed as .gz, with one price an hour a line.

    It becomes price books named after the file. The past is never repriced; the same file again changes
    nothing.

    Example: bursar prices import aws.csv --provider aws --market on-demand --column price=usd_per_hour
    """
    found = read_table(
        file,
        {part: asked[part] for part in FIXED if asked[part]},
        _column_names(named),
        source=asked["source"] or Path(file).name,
        skip_unpriced=asked["skip_unpriced"],
    )
    rows: list[Row] = []
    for part in _portions(found.books):
        call = client.check_policies if dry_run else client.apply_policies
        try:
            rows += [view.policy(each) for each in call([(book.name, book.text) for book in part])]
        except BursarError:
            if rows and not dry_run:
                say(f"{len(rows)} of {len(found.books)} books are in force; the same command goes on")
            raise
    emit_applied(rows, output)
    left = f", {found.unpriced} without one left out" if found.unpriced else ""
    left += f", {found.rounded} rounded to 9 places" if found.rounded else ""
    left += ", nothing was applied" if dry_run else ""
    say(f"{plural(found.rows, 'price')} in {plural(len(found.books), 'book')}{left}")


def _column_names(told: tuple[str, ...]) -> dict[str, str]:
    """By part of a price, the header of its column."""
    named = {}
    for words in told:
        part, _, header = words.partition("=")
        if part not in HEADERS or not header:
            hint = "" if part in HEADERS else f"; {nearest(part, list(HEADERS))}"
            raise InvalidRequest(f"--column: {words[:60]!r} is not PART=HEADER{hint}")
        named[part] = header
    return named


def _portions(books: Sequence[Book]) -> Iterator[list[Book]]:
    """As many at once as one call takes."""
    part: list[Book] = []
    size = 0
    for book in books:
        size += len(book.text.encode())
        if part and (size > IMPORT_BYTES or len(part) == FILES_PER_CALL_MAX):
            yield part
            part, size = [], len(book.text.encode())
        part.append(book)
    yield part
