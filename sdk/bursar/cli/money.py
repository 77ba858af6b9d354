"""The verb `cost`: what was charged, by any dimension."""

from __future__ import annotations

import sys
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

from bursar.cli.common import connected, listing, read_since
from bursar.cli.groups import NearChoice, nearest
from bursar.cli.output import Column, Output, Row, emit, say
from bursar.cli.terminal import money_text, seconds_text, time_text
from bursar.cli.texts import within_terminal
from bursar.codec import view
from bursar.errors import InvalidRequest
from bursar.wholehours import within_hours

if TYPE_CHECKING:
    from bursar.client import WireClient


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
    "team",
    "cost-center",
)
LABEL: Final = "label:"
PERIODS: Final = "2026-11, 2026-11-21, 2026-Q4, 2026, this-month, last-month, today and so on"


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
    if found.period and not output.quiet:
        for note in within_hours(found.since, found.until, found.timezone):
            say(within_terminal(f"note: {note}", sys.stderr))


def read_dimensions(by: str, of_job: bool) -> list[str]:
    """`--by` words; by project, or of one job by job, when there are none."""
    words = [word.strip() for word in by.split(",") if word.strip()]
    for word in words:
        if word not in DIMENSIONS and not (word.startswith(LABEL) and len(word) > len(LABEL)):
            hint = nearest(word, [*DIMENSIONS, f"{LABEL}KEY"])
            if word.isidentifier():
                hint += f"; `{LABEL}{word}` is by the label {word} of jobs"
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
    if "job" in dimensions:
        columns.insert(dimensions.index("job") + 1, Column("called", shrink=True))
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
