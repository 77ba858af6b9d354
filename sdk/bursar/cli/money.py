"""Verbs about money: cost, prices, report."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from bursar.cli.cluster import PRICE_COLUMNS, RATE
from bursar.cli.common import changing, connected, listing, now, read_since
from bursar.cli.files import write_whole
from bursar.cli.groups import NearChoice, NearGroup, nearest
from bursar.cli.output import Column, Output, Row, emit, say
from bursar.cli.policy import emit_applied, read_sources
from bursar.cli.pricefile import FIXED, HEADERS, Book, read_table
from bursar.cli.reconcile import report_reconcile
from bursar.cli.terminal import money_text, seconds_text, time_text
from bursar.cli.texts import within_terminal
from bursar.clock import format_instant
from bursar.codec import view
from bursar.errors import BursarError, InvalidRequest
from bursar.model import MARKETS
from bursar.smallfile import FILES_PER_CALL_MAX
from bursar.words import plural

if TYPE_CHECKING:
    from bursar.client import WireClient
    from bursar.v1 import money_pb2

DIMENSIONS: Final = (
    "project",
    "user",
    "experiment",
    "model",
    "model_version",
    "node",
    "pool",
    "price",
    "job",
    "attempt",
    "kind",
    "class",
    "hour",
    "day",
    "month",
    "service",
    "key",
)
LABEL: Final = "label:"
PERIODS: Final = "2026-11, 2026-11-21, 2026-Q4, 2026, this-month, last-month, today and so on"
FOCUS_VERSIONS: Final = ("1.4", "1.2", "1.0")


@click.command()
@click.argument("job", required=False, default="")
@click.option("--by", default="", metavar="A,B", help=", ".join(DIMENSIONS) + ", label:KEY.")
@click.option("--period", default="", metavar="P", help=PERIODS + ".")
@click.option(
    "--since", metavar="TIME", help="From then: 7d, yesterday, 2026-11-01. Hours that begin then or later."
)
@click.option("--until", metavar="TIME", help="Hours that begin before then, each as a whole.")
@click.option("--timezone", default="", metavar="ZONE", help="Of periods, days and months.  [default: UTC]")
@click.option("--project", default="", help="This project and those below it.")
@click.option("--user", default="", help="Jobs of this user.")
@click.option("--experiment", default="", help="Jobs of this experiment.")
@click.option("--model", default="", help="Jobs of this model.")
@click.option("--depth", type=click.IntRange(1, 64), metavar="N", help="So many levels of a project.")
@click.option("--top", type=click.IntRange(1, 5000), metavar="N", help="The dearest, the rest as one row.")
@click.option("--percent", is_flag=True, help="What part of the total each row is.")
@click.option("--compare", type=NearChoice(["previous"]), help="With the period before.")
@click.option(
    "--idle",
    "include_idle",
    is_flag=True,
    help="What no job pays as well: idle, down, unknown, overhead, variance, absorption.",
)
@listing
@connected
def cost(
    client: WireClient,
    job: str,
    by: str,
    since: str | None,
    until: str | None,
    percent: bool,
    output: Output,
    **filters: Any,
) -> None:
    """Sum up cost, of one job or by any dimension; live work is settled first, so totals tie.

    Example: bursar cost --period last-month --by project,label:team --depth 1 --compare previous --top 10
    """
    dimensions = read_dimensions(by, bool(job))
    found = client.cost(
        by=dimensions,
        job=job,
        since=read_since(since),
        until=read_since(until, "--until"),
        **{name: value for name, value in filters.items() if value is not None},
    )
    document = view.cost(found, dimensions)
    told = output.format == "table" and not output.quiet
    if told and document["rows"]:
        sys.stdout.write(within_terminal(_head_text(document), sys.stdout) + "\n")
    emit(
        dated_rows(document) if output.format == "csv" else document["rows"],
        cost_columns(
            dimensions,
            percent=percent,
            compared="compared_with" in document,
            dated=output.format == "csv",
        ),
        output,
        identity=dimensions[0],
        document=document,
        empty="no cost yet",
    )
    if told:
        sys.stdout.write(within_terminal(_total_text(document["total"]), sys.stdout) + "\n")


def read_dimensions(by: str, of_job: bool) -> list[str]:
    """`--by` words; by project, or of one job by job, when there are none."""
    words = [word.strip() for word in by.split(",") if word.strip()]
    for word in words:
        if word not in DIMENSIONS and not (word.startswith(LABEL) and len(word) > len(LABEL)):
            hint = nearest(word, [*DIMENSIONS, f"{LABEL}KEY"])
            raise InvalidRequest(f"--by: there is no dimension {word!r}; {hint}")
    if len(set(words)) != len(words):
        raise InvalidRequest(f"--by: {by!r} names a dimension twice")
    return words or (["job"] if of_job else ["project"])


def cost_columns(
    dimensions: list[str], *, percent: bool = False, compared: bool = False, dated: bool = False
) -> tuple[Column, ...]:
    """The keys, then what they cost; what part of the total that is, what it was before, of which time it is.

    `dated`: for files, which are read where nobody sees what was asked.
    """
    columns = [Column(name, shrink=name != "job") for name in dimensions]
    for name, drop in (("cost", 0), ("gpu_cost", 1), ("cpu_cost", 3), ("memory_cost", 4)):
        columns.append(Column(name, right=True, drop=drop, value=partial(_known, name), missing="unknown"))
    if dimensions[0] == "service":
        columns += _use_columns(len(dimensions) == 1)
    if percent:
        columns.append(Column("percent", show=partial(_percent_text, "percent"), right=True))
    if compared:
        columns += (Column("before", right=True), Column("change", right=True))
        columns.append(Column("change_percent", show=partial(_percent_text, "change_percent"), right=True))
    columns += (
        Column("time", "held_s", lambda row: seconds_text(row["held_s"]), right=True, drop=2, title="held_s"),
        Column("gpu_hours", "gpu_s", _gpu_hours, right=True, drop=7, title="gpu_s"),
        Column("jobs", right=True, drop=6),
        Column("unpriced", "unknown_price_s", _unknown, right=True, title="unknown_price_s"),
    )
    if dated:
        columns += (Column("period"), Column("since"), Column("until"), Column("timezone"))
    return tuple(columns)


def _tokens(row: Row) -> str:
    return "-" if row["tokens_in"] is None else f"{row['tokens_in']}+{row['tokens_out']}"


def _use_columns(whole: bool) -> tuple[Column, ...]:
    """What was asked of a service, or with a key, and what that cost; of a `whole` one what was idle."""
    columns = (
        Column("requests", right=True),
        Column("tokens", "", _tokens, right=True, value=lambda row: _all_tokens(row)),
        Column("per_request", "cost_per_request", right=True, title="cost_per_request"),
        Column("per_1m_tokens", "cost_per_million_tokens", right=True, title="cost_per_million_tokens"),
        Column("coverage", show=_coverage_text, right=True),
    )
    return (*columns, Column("idle", right=True)) if whole else columns


def _all_tokens(row: Row) -> int | None:
    return None if row["tokens_in"] is None else int(row["tokens_in"] + row["tokens_out"])


def _coverage_text(row: Row) -> str:
    return "-" if row["coverage"] is None else f"{row['coverage']:.0%}"


def _percent_text(name: str, row: Row) -> str:
    return "-" if row[name] is None else f"{row[name]:+.1f}%" if "change" in name else f"{row[name]:.1f}%"


def dated_rows(document: Row) -> list[Row]:
    """The rows of a cost, each with the time that it is of: for files."""
    of_time = {name: document[name] for name in ("period", "since", "until", "timezone")}
    return [{**row, **of_time} for row in document["rows"]]


def _head_text(document: Row) -> str:
    """Which time the rows are of, in whose days, and what they are compared with."""
    return f"{covered(document)}, days of {document['timezone']}, in {document['currency']}" + (
        f"; before: {covered(document['compared_with'])}" if "compared_with" in document else ""
    )


def covered(told: Row) -> str:
    """The time that a document of `cost` is of, in words."""
    if told["period"]:
        return str(told["period"])
    since = time_text(told["since"]) if told["since"] else "the first charge"
    return f"from {since} to {time_text(told['until']) if told['until'] else 'now'}"


def _known(name: str, row: Row) -> Row | None:
    """An amount of a row; None where none of its time has a known price."""
    amount: Row = row[name]
    return None if row["unknown_price_s"] and not Decimal(row["cost"]["amount"]) else amount


def _gpu_hours(row: Row) -> str:
    return f"{row['gpu_s'] / 3600:.2f}" if row["gpu_s"] else "-"


def _unknown(row: Row) -> str:
    return seconds_text(row["unknown_price_s"]) if row["unknown_price_s"] else "-"


def _total_text(total: Row) -> str:
    text = f"total {money_text(_known('cost', total))}"
    if "before" in total:
        text += f", before {money_text(total['before'])}, {_percent_text('change_percent', total)}"
    if total["unknown_price_s"]:
        text += f", with {seconds_text(total['unknown_price_s'])} at an unknown price"
    return text


# ------------------------------------------------------------------ prices


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
    charge = next(one["per_hour"] for one in document["rates"] if one["rate"] == "charge")
    cost = next(one["per_hour"] for one in document["rates"] if one["rate"] == "cost")
    if rate == "charge" and charge != cost:
        part = Decimal(cost["amount"]) / Decimal(charge["amount"])
        return f"{_MEANS[rate]}: the cost over the {part:.0%} of its hours that can be sold"
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


# ------------------------------------------------------------------ reports


@click.group(cls=NearGroup)
def report() -> None:
    """Write a report over a month or a day.

    Example: bursar report focus --period 2026-11 --out focus.csv
    """


_PERIOD_OPTION = click.option(
    "--period", default="", metavar="P", help="2026-11, 2026-11-21, last-month.  [default: this month]"
)
_OUT_OPTION = click.option("--out", metavar="FILE", help=".txt, .csv or .json; else text to standard output.")
_FORM_OPTION = click.option(
    "-o",
    "--output",
    "form",
    type=NearChoice(["table", "json", "csv"]),
    default="table",
    help="Form on standard output.  [default: table]",
)
_ZONE_OPTION = click.option("--timezone", default="", metavar="ZONE", help="Of the period.  [default: UTC]")


def _page_options(command: Any) -> Any:
    """Those of a report that is one table."""
    for option in (_ZONE_OPTION, _FORM_OPTION, _OUT_OPTION, _PERIOD_OPTION):
        command = option(command)
    return command


@report.command("focus")
@_PERIOD_OPTION
@click.option("--out", metavar="FILE", help=".csv or .parquet; else CSV to standard output.")
@click.option("--focus-version", type=NearChoice(FOCUS_VERSIONS), default="1.4", help="[default: 1.4]")
@click.option("--project", default="", help="This project and those below it.")
@connected
def report_focus(client: WireClient, period: str, out: str | None, focus_version: str, project: str) -> None:
    """Export cost as FOCUS rows: one per attempt, node and hour, with idle and corrections.

    Example: bursar report focus --period 2026-11 --out focus.csv
    """
    form = _form(out, {".csv": "csv", ".parquet": "parquet"}, "csv")
    if form == "parquet" and out is None:
        raise InvalidRequest("Parquet is binary; name a file with --out")
    _write_report(client, "focus", period, form, out, focus_version, project)


STATEMENT_ENDINGS: Final = {
    ".txt": "text", ".csv": "csv", ".json": "json", ".html": "html", ".pdf": "pdf",
}  # fmt: skip


@report.command("statement")
@_PERIOD_OPTION
@click.option("--out", metavar="FILE", help=".txt, .csv, .json, .html or .pdf; else standard output.")
@click.option(
    "-o",
    "--output",
    "form",
    type=NearChoice(["table", "json", "csv", "html"]),
    default="table",
    help="Form on standard output.  [default: table]",
)
@click.option("--project", default="", help="This project and those below it.")
@click.option(
    "--by",
    default="",
    metavar="A,B",
    help="project, cost-center (a label), user, model, experiment, label:KEY.  [default: the first four]",
)
@connected
def report_statement(
    client: WireClient, period: str, out: str | None, form: str, project: str, by: str
) -> None:
    """Write what each project, cost centre, user and model owes for a period.

    Beside each row stands the period before, and how much of it has a known price; below, budgets against
    what was settled, and how it all adds up to what the nodes cost. HTML is one file, with pictures, that
    prints as it is. PDF is made of it here, by WeasyPrint.

    Example: bursar report statement --period 2026-11 --out november.html
    """
    form = _form(out, STATEMENT_ENDINGS, "text" if form == "table" else form)
    if form != "pdf":
        _write_report(client, "statement", period, form, out, "", project, by=by)
        return
    from bursar.cli.pdf import pdf_of, writer

    writer()  # what is not installed is said before anything is asked
    chunks = client.report("statement", _period(period), format="html", project=project, by=by)
    write_whole(str(out), [pdf_of(b"".join(chunk.data for chunk in chunks))])


@report.command("anomalies")
@_page_options
@click.option("--project", default="", help="This project and those below it.")
@connected
def report_anomalies(
    client: WireClient, period: str, out: str | None, form: str, timezone: str, project: str
) -> None:
    """Write which days of projects and which runs cost more than their like, and what in.

    Days are held against the same weekdays of eight weeks, runs against runs of the same name and size.

    Example: bursar report anomalies --period this-month
    """
    _write_report(client, "anomalies", period, _text_form(out, form), out, "", project, timezone)


@report.command("bills")
@_page_options
@connected
def report_bills(client: WireClient, period: str, out: str | None, form: str, timezone: str) -> None:
    """Write what bills of providers that were kept differed in from the books, and what matched nothing.

    `bursar report reconcile FILE --keep` keeps one. By machine: the hours that both know, those of the books
    alone, those of the provider alone, with estimate and final apart.

    Example: bursar report bills --period 2026-10
    """
    _write_report(client, "bills", period, _text_form(out, form), out, "", "", timezone)


@report.command("waste")
@_page_options
@click.option("--project", default="", help="This project and those below it.")
@connected
def report_waste(
    client: WireClient, period: str, out: str | None, form: str, timezone: str, project: str
) -> None:
    """Write where the money went: what was of use, what was not, and what the books cannot tell.

    The categories exclude each other and sum to what the nodes cost.

    Example: bursar report waste --period last-month
    """
    _write_report(client, "waste", period, _text_form(out, form), out, "", project, timezone)


@report.command("idle")
@_page_options
@connected
def report_idle(client: WireClient, period: str, out: str | None, form: str, timezone: str) -> None:
    """Write what no job held, by node and cause.

    Example: bursar report idle --period 2026-11 --out idle.csv
    """
    _write_report(client, "idle", period, _text_form(out, form), out, "", "", timezone)


@report.command("utilization")
@_page_options
@connected
def report_utilization(client: WireClient, period: str, out: str | None, form: str, timezone: str) -> None:
    """Write what part of each node jobs held, by what it cost.

    Example: bursar report utilization --period 2026-Q4
    """
    _write_report(client, "utilization", period, _text_form(out, form), out, "", "", timezone)


@report.command("models")
@_page_options
@click.option("--project", default="", help="Models of this project and those below it.")
@connected
def report_models(
    client: WireClient, period: str, out: str | None, form: str, timezone: str, project: str
) -> None:
    """Write what each version of each model cost, and what a run, a step and a million tokens came to.

    Example: bursar report models --period last-month --out models.csv
    """
    _write_report(client, "models", period, _text_form(out, form), out, "", project, timezone)


@report.command("commitments")
@_page_options
@connected
def report_commitments(client: WireClient, period: str, out: str | None, form: str, timezone: str) -> None:
    """Write what was used, and what was not, of reservations, savings plans and committed use.

    Used and unused are what was promised for the hours that have passed. What jobs pay does not change by it.

    Example: bursar report commitments --period last-month
    """
    _write_report(client, "commitments", period, _text_form(out, form), out, "", "", timezone)


@report.command("budgets")
@_page_options
@click.option("--project", default="", help="Budgets of this project and those below it.")
@connected
def report_budgets(
    client: WireClient, period: str, out: str | None, form: str, timezone: str, project: str
) -> None:
    """Write the limit of each budget against what was settled.

    Example: bursar report budgets --period last-month
    """
    _write_report(client, "budgets", period, _text_form(out, form), out, "", project, timezone)


@report.command("energy")
@_page_options
@click.option("--project", default="", help="This project and those below it.")
@click.option("--by", default="", metavar="A,B", help="Several, as below.  [default: project]")
@connected
def report_energy(
    client: WireClient, period: str, out: str | None, form: str, timezone: str, project: str, by: str
) -> None:
    """Write the energy of GPUs and its CO2e, with what of it was not measured or is not known.

    Of whole attempts, in the period in which they ended, as the FOCUS export has it. Rows are by project,
    user, experiment, model, model_version, pool and month.

    Example: bursar report energy --period 2026-Q4 --by project,month
    """
    _write_report(client, "energy", period, _text_form(out, form), out, "", project, timezone, by)


@report.command("quotas")
@_page_options
@click.option("--project", default="", help="Quotas of this project and those below it.")
@connected
def report_quotas(
    client: WireClient, period: str, out: str | None, form: str, timezone: str, project: str
) -> None:
    """Write what running jobs hold of each quota now, what is guaranteed and the most there may be.

    Example: bursar report quotas --project nlp
    """
    _write_report(client, "quotas", period, _text_form(out, form), out, "", project, timezone)


report.add_command(report_reconcile)


def _text_form(out: str | None, form: str) -> str:
    default = "text" if form == "table" else form
    return _form(out, {".txt": "text", ".csv": "csv", ".json": "json"}, default)


def _form(out: str | None, endings: dict[str, str], default: str) -> str:
    if out is None:
        return default
    ending = Path(out).suffix.lower()
    if ending not in endings:
        raise InvalidRequest(f"--out: {out!r} should end in {' or '.join(endings)}")
    return endings[ending]


def _write_report(
    client: WireClient,
    kind: str,
    period: str,
    form: str,
    out: str | None,
    version: str,
    project: str,
    timezone: str = "",
    by: str = "",
) -> None:
    period = _period(period)
    chunks = client.report(
        kind, period, format=form, focus_version=version, project=project, timezone=timezone, by=by
    )
    _write_chunks(chunks, out)


def _period(period: str) -> str:
    """The month that has not ended, which is said, where none is named."""
    if not period:
        period = format_instant(now())[:7]
        say(f"--period {period}, which has not ended")
    return period


def _write_chunks(chunks: Iterable[money_pb2.ReportChunk], out: str | None) -> None:
    if out is None:
        for chunk in chunks:
            sys.stdout.buffer.write(chunk.data)
        sys.stdout.buffer.flush()
        return
    write_whole(out, (chunk.data for chunk in chunks))


# ------------------------------------------------------------------ whatif


@click.command()
@click.option(
    "--prices",
    "files",
    multiple=True,
    required=True,
    metavar="FILE",
    help="A PriceBook or a CostModel; or several.",
)
@click.option(
    "--by",
    type=NearChoice(["project", "user", "experiment", "model", "pool", "node"]),
    default="project",
    show_default=True,
    help="What a row is of.",
)
@click.option("--project", default="", help="This project and those below it.")
@_page_options
@connected
def whatif(
    client: WireClient,
    files: tuple[str, ...],
    by: str,
    project: str,
    period: str,
    out: str | None,
    form: str,
    timezone: str,
) -> None:
    """Write what jobs would have paid in a period at other prices. Nothing is changed.

    A PriceBook with another price, or a CostModel with another tariff or practical capacity: what it prices
    is rated once more, hour by hour, at the prices that it has for that hour.

    Example: bursar whatif --period last-month --prices rack-a-2027.yaml
    """
    chunks = client.what_if(
        _period(period),
        read_sources(files),
        by=by,
        format=_text_form(out, form),
        project=project,
        timezone=timezone,
    )
    _write_chunks(chunks, out)
