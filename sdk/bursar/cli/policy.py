"""The policy verbs: apply, check, ls, show, rm, diff."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from bursar.cli.common import changing, connected, fail, listing
from bursar.cli.groups import NearGroup
from bursar.cli.output import NAME_LEAST, Column, Output, Row, emit, emit_one, say, write_text
from bursar.cli.terminal import clean, money_text, paint, time_text
from bursar.codec import view
from bursar.errors import InvalidRequest, NotFound
from bursar.smallfile import read_small_file
from bursar.words import plural

if TYPE_CHECKING:
    from bursar.client import WireClient

FILES_MAX: Final = 500

POLICY_COLUMNS = (
    Column("kind"),
    Column("name", wrap=True, least=NAME_LEAST),
    Column("version", right=True, drop=2),
    Column("change", drop=1),
    Column("applied_at", drop=4),
    Column("applied_by", shrink=True, drop=3),
    Column("problem", wrap=True, least=20),
)


@click.group(cls=NearGroup)
def policy() -> None:
    """Apply, check, list, show, compare or remove policy documents.

    Example: bursar policy check policies/*.yaml
    """


@policy.command("apply")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@listing
@changing
def policy_apply(client: WireClient, paths: tuple[str, ...], output: Output) -> None:
    """Apply documents, all or none. A folder means its .yaml files; - is standard input.

    Example: bursar policy apply budgets.yaml
    """
    emit_applied([view.policy(each) for each in client.apply_policies(read_sources(paths))], output)


def emit_applied(rows: list[Row], output: Output, opens: str = "opens") -> None:
    """What was applied, or would be, and beside it what follows from it."""
    for row in rows:
        _tell_opening(row, opens)
    emit(rows, POLICY_COLUMNS, output, identity="name")
    for row in rows:
        _note(row)


def _note(row: Row) -> None:
    for note in row["notes"]:
        say(f"note: {clean(note)}")


@policy.command("check")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@listing
@connected
def policy_check(client: WireClient, paths: tuple[str, ...], output: Output) -> None:
    """Find every fault of documents, with its place, without applying them.

    Example: bursar policy check budgets.yaml
    """
    rows = [view.policy(each) for each in client.check_policies(read_sources(paths))]
    emit_applied(rows, output, opens="would open")


@policy.command("ls")
@click.option("--kind", default="", help="Budget, PriceBook, CostModel, …")
@listing
@connected
def policy_ls(client: WireClient, kind: str, output: Output) -> None:
    """List the documents in force.

    Example: bursar policy ls --kind Budget
    """
    rows = [view.policy(each) for each in client.policies(kind=kind)]
    for row in rows:
        if row["problem"]:
            name = f"{row['kind']} {clean(row['name'])}"
            say(f"{name} is not in force, this version cannot read it: {clean(row['problem'])}")
    for row in rows:
        _note(row)
    emit(rows, POLICY_COLUMNS, output, identity="name", empty="no policies")


@policy.command("show")
@click.argument("name")
@click.option("--kind", default="", help="When several kinds have the name.")
@click.option(
    "--version", type=click.IntRange(0, 2**63 - 1), default=0, help="An older one; else the newest."
)
@listing
@connected
def policy_show(client: WireClient, name: str, kind: str, version: int, output: Output) -> None:
    """Show one document as it was applied. NAME, or Kind/NAME.

    Example: bursar policy show Budget/vision-monthly
    """
    kind, name = _split(name, kind)
    row = view.policy(client.policy(name, kind=kind, version=version))
    _note(row)
    emit_one(row, output, _policy_text, columns=POLICY_COLUMNS, identity="name")


@policy.command("rm")
@click.argument("name")
@click.option("--kind", default="", help="When several kinds have the name.")
@listing
@changing
def policy_rm(client: WireClient, name: str, kind: str, output: Output) -> None:
    """Take a document out of force; its history stays.

    Example: bursar policy rm Budget/vision-monthly
    """
    kind, name = _split(name, kind)
    row = view.policy(client.delete_policy(name, kind=kind))
    emit_one(
        row,
        output,
        lambda r: f"{r['kind']} {clean(r['name'])} removed",
        columns=POLICY_COLUMNS,
        identity="name",
    )
    _note(row)


@policy.command("diff")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@connected
def policy_diff(client: WireClient, paths: tuple[str, ...]) -> None:
    """Compare files with what is applied. Exit code 1 when they differ.

    Example: bursar policy diff budgets.yaml
    """
    changed = False
    for source in read_sources(paths):
        for found in client.check_policies([source]):
            if found.change == "unchanged":
                continue
            changed = True
            _print_diff(_applied_text(client, found.kind, found.name), source, found)
    if changed:
        raise fail(1)
    say("nothing would change")


def _applied_text(client: WireClient, kind: str, name: str) -> str:
    try:
        return str(client.policy(name, kind=kind).text)
    except NotFound:
        return ""


def _print_diff(applied: str, source: tuple[str, str], found: Row | object) -> None:
    """One document against its applied text; the server gives the document's own part of a file."""
    title = f"{getattr(found, 'kind', '')}/{getattr(found, 'name', '')}"
    fresh = str(getattr(found, "text", "")) or source[1]
    lines = difflib.unified_diff(
        applied.splitlines(), fresh.splitlines(), f"applied {title}", source[0], lineterm=""
    )
    for line in lines:
        style = "green" if line.startswith("+") else "red" if line.startswith("-") else None
        write_text(paint(clean(line.replace("\t", "    ")), style))


def _tell_opening(row: Row, opens: str) -> None:
    """What a budget has against it from its first moment, if anything."""
    opening = row["opening"]
    if opening is None or not (opening["attempts"] or opening["settled"]["amount"].strip("0.")):
        return
    since = f" since {time_text(opening['since'])}" if opening["since"] else ""
    runs = plural(opening["attempts"], "attempt")
    say(
        f"Budget {clean(row['name'])} {opens} with {money_text(opening['settled'])} that its scope has cost"
        f"{since}; {runs} under it now, {money_text(opening['held'])} held"
    )


def _policy_text(row: Row) -> str:
    say(
        f"{row['kind']} {clean(row['name'])}, version {row['version']}, applied "
        f"{time_text(row['applied_at'])} by {clean(row['applied_by'])}"
    )
    return "\n".join(clean(line) for line in (row["text"] or "").splitlines())


def _split(name: str, kind: str) -> tuple[str, str]:
    """`Budget/vision` names its kind; no document's own name has a slash."""
    before, slash, after = name.partition("/")
    return (before, after) if slash and not kind else (kind, name)


# ------------------------------------------------------------------ files


def read_sources(paths: Sequence[str]) -> list[tuple[str, str]]:
    """(name, text) of each file; a folder stands for the YAML files in and below it."""
    files: list[str] = []
    for path in paths:
        if path != "-" and os.path.isdir(path):  # which takes any path, such as one too long
            inside = sorted(p for p in Path(path).rglob("*.y*ml") if p.suffix in (".yaml", ".yml"))
            if not inside:
                raise InvalidRequest(f"{path}: there is no .yaml file in this folder")
            files += [str(p) for p in inside]
        else:
            files.append(path)
    if len(files) > FILES_MAX:
        raise InvalidRequest(f"{len(files)} files; at most {FILES_MAX} at a time")
    return [("<stdin>" if file == "-" else file, read_small_file(file)) for file in files]
