"""The verbs `report` and `whatif`: what the books say of a period, as a file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from bursar.cli.common import connected, now
from bursar.cli.files import write_whole
from bursar.cli.groups import NearChoice, NearGroup
from bursar.cli.output import say
from bursar.cli.policy import read_sources
from bursar.cli.reconcile import report_reconcile
from bursar.clock import format_instant
from bursar.errors import InvalidRequest

if TYPE_CHECKING:
    from bursar.client import WireClient
    from bursar.v1 import money_pb2

FOCUS_VERSIONS: Final = ("1.4", "1.2", "1.0")


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
    help="project, cost-center, user, model, team, experiment, label:KEY.  [default: the first four]",
)
@connected
def report_statement(
    client: WireClient, period: str, out: str | None, form: str, project: str, by: str
) -> None:
    """Write what each project, cost centre, user and model owes for a period.

    Whose costs are: by the Attribution in force when they were used, else by the labels `team` and
    `cost-center`.
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


@report.command("chargeback")
@_page_options
@connected
def report_chargeback(client: WireClient, period: str, out: str | None, form: str, timezone: str) -> None:
    """Write what each cost centre bears: its own, what was moved to it, and its part of what is shared.

    Months of UTC. Together it is what the nodes cost; what nobody bears has a row of its own. Whose what is
    and how the rest is divided says the Attribution that was in force (`bursar policy apply`).

    Example: bursar report chargeback --period last-month
    """
    _write_report(client, "chargeback", period, _text_form(out, form), out, "", "", timezone)


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
