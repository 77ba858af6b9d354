"""The verbs of services: `service` and `key`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bursar.cli.common import changing, connected, listing
from bursar.cli.groups import NearGroup
from bursar.cli.output import NAME_LEAST, Column, Output, Row, emit, emit_one, say, write_lines
from bursar.cli.terminal import clean, money_text, terminal_columns, time_text
from bursar.codec import view
from bursar.errors import InvalidRequest, WrongState
from bursar.words import plural

if TYPE_CHECKING:
    from bursar.client import WireClient
    from bursar.model import JobSpec

SERVICE_COLUMNS = (
    Column("name", wrap=True, least=NAME_LEAST),
    Column("state"),
    Column("ready", right=True),
    Column("target", right=True),
    Column("replicas", "bounds", title="bounds"),
    Column("revision", right=True, drop=5),
    Column("rps", right=True, drop=4),
    Column("concurrency", right=True, drop=6),
    Column("price", "rate_per_hour", right=True, drop=2, title="rate_per_hour", suffix="/h"),
    Column("project", shrink=True, drop=3),
    Column("url", wrap=True, least=20, drop=7),
)
REPLICA_COLUMNS = (
    Column("slot", right=True),
    Column("state"),
    Column("node"),
    Column("port", right=True),
    Column("outstanding", right=True),
    Column("revision", right=True),
    Column("price", "rate_per_hour", right=True, title="rate_per_hour", suffix="/h"),
    Column("message", shrink=True),
)
KEY_COLUMNS = (
    Column("id"),
    Column("name", wrap=True, least=NAME_LEAST),
    Column("service", wrap=True, least=NAME_LEAST),
    Column("project", shrink=True, drop=3),
    Column("budget", shrink=True, drop=3),
    Column("rpm", right=True, drop=2),
    Column("concurrency", right=True, drop=2),
    Column("issued_at", "issued_at", lambda row: time_text(row["issued_at"]), drop=4),
    Column("expires_at", "expires_at", lambda row: time_text(row["expires_at"]), drop=1),
)


@click.group(cls=NearGroup)
def service() -> None:
    """List, show, scale, update or roll back services: `type: service` in a job file.

    Example: bursar service ls
    """


@service.command("ls")
@click.option("--project", default="", metavar="PATH", help="Of this project and all below it.")
@listing
@connected
def service_ls(client: WireClient, project: str, output: Output) -> None:
    """List services that have not ended.

    Example: bursar service ls --project nlp
    """
    rows = [shown(view.service(one)) for one in client.services(project=project)]
    emit(rows, SERVICE_COLUMNS, output, identity="name", empty="no services")


@service.command("show")
@click.argument("name")
@listing
@connected
def service_show(client: WireClient, name: str, output: Output) -> None:
    """Show one service with its replicas.

    Example: bursar service show chat -o json
    """
    row = shown(view.service(client.services(name)[0]))
    emit_one(row, output, _text, columns=SERVICE_COLUMNS, identity="name")


@service.command("url")
@click.argument("name")
@connected
def service_url(client: WireClient, name: str) -> None:
    """Print where a service is asked: the address of its gateway, and its name.

    Example: bursar service url chat
    """
    found = client.services(name)[0]
    if not found.url:
        raise WrongState(
            f"no gateway serves {found.name}; `bursar up --gateway 127.0.0.1:7481` starts one, or"
            " `bursar-gateway` by hand"
        )
    write_lines([found.url])


@service.command("logs")
@click.argument("name")
@click.option("--slot", type=click.IntRange(0, 1_000), metavar="N", help="Of this place alone; else of all.")
@click.option("-f", "--follow", is_flag=True, help="Go on as it grows.")
@click.option("-n", "--lines", type=click.IntRange(1, 2**31), metavar="LINES", help="Only the last lines.")
@connected
@click.pass_context
def service_logs(
    context: click.Context, client: WireClient, name: str, slot: int | None, follow: bool, lines: int | None
) -> None:
    """Print what the replicas of a service wrote.

    Example: bursar service logs chat -n 20
    """
    from bursar.cli.jobs import logs

    found = client.services(name)[0]
    which = "*" if slot is None else str(slot)
    arguments = [f"{found.number}[{which}]"]
    arguments += ["--follow"] if follow else []
    arguments += ["--lines", str(lines)] if lines is not None else []
    with logs.make_context("logs", arguments, parent=context.find_root()) as inner:
        logs.invoke(inner)


@service.command("scale")
@click.argument("name")
@click.argument("replicas")
@listing
@changing
def service_scale(client: WireClient, name: str, replicas: str, output: Output) -> None:
    """Say how many replicas a service may have: `3`, or `0..8`.

    Example: bursar service scale chat 2..8
    """
    found = re.fullmatch(r"(\d{1,6})(?:\.\.(\d{1,6}))?", replicas)
    if found is None:
        raise InvalidRequest(f"{replicas!r} is no number of replicas; write 3, or 0..8")
    least = int(found[1])
    most = int(found[2]) if found[2] is not None else least
    row = shown(view.service(client.scale_service(name, least, max(most, 1) if not least else most)))
    emit_one(row, output, _changed, columns=SERVICE_COLUMNS, identity="name")


@service.command("update")
@click.argument("name")
@click.argument("file", required=False)
@listing
@changing
def service_update(client: WireClient, name: str, file: str | None, output: Output) -> None:
    """Let another revision take over, replica by replica: `update NAME FILE`, or FILE alone.

    Example: bursar service update chat chat.yaml
    """
    path = Path(file if file is not None else name)
    if not path.is_file():
        raise InvalidRequest(f"there is no file {str(path)!r}; `bursar service update NAME FILE`")
    spec = service_spec(path)
    if spec.service is None:
        raise InvalidRequest(f"{path}: is no service; write type: service")
    row = shown(view.service(client.update_service(name if file is not None else spec.name, spec)))
    emit_one(row, output, _changed, columns=SERVICE_COLUMNS, identity="name")


def service_spec(path: Path) -> JobSpec:
    """What a file asks for. As at a submit, what is relative begins here; one that says no `workdir` has
    none, and leaves the service its own. Raises `InvalidRequest`.
    """
    import msgspec

    from bursar.jobfile import parse_job
    from bursar.jobfile.document import says

    text = path.read_bytes()
    spec = parse_job(text, str(path), str(Path.cwd()))
    return spec if says(text, "workdir") else msgspec.structs.replace(spec, workdir="")


@service.command("rollback")
@click.argument("name")
@listing
@changing
def service_rollback(client: WireClient, name: str, output: Output) -> None:
    """Let the revision before take over again, replica by replica.

    Example: bursar service rollback chat
    """
    row = shown(view.service(client.rollback_service(name)))
    emit_one(row, output, _changed, columns=SERVICE_COLUMNS, identity="name")


def shown(row: Row) -> Row:
    """A row of the table: what may be said as one word is."""
    least, most = row["replicas_min"], row["replicas_max"]
    return {**row, "bounds": str(least) if least == most else f"{least}..{most}"}


def _changed(row: Row) -> str:
    return (
        f"service {clean(row['name'])}: revision {row['revision']}, {row['bounds']} replicas, {row['state']}"
    )


def _text(row: Row) -> str:
    from bursar.cli.output import table_text

    cost = row["cost"]["settled"]
    lines = [
        f"{clean(row['name'])}  {row['state']}  job {row['number']}  project {clean(row['project'])}",
        f"  replicas   {row['ready']} ready of {row['target']} wanted, {row['bounds']} allowed",
        f"  revision   {row['revision']}",
        f"  address    {row['url'] or 'no gateway serves it'}",
        f"  cost       {money_text(cost)} settled; with what is not yet: `bursar show {row['number']}`",
        f"  balance    {clean(row['balance'] or 'not told')}",
    ]
    if row["fallback"]:
        lines.append(f"  fallback   {_fallback_text(row)}")
    if row["rps"] is not None:
        lines.append(
            f"  load       {row['rps']:g} requests/s, {row['concurrency']:g} in hand,"
            f" p50 {row['p50_ms']:g} ms, p95 {row['p95_ms']:g} ms"
        )
    lines += _use_lines(row)
    if row["update"]:
        lines.append(f"  update     {clean(row['update'])}")
    if row["rolled_back"]:
        lines.append(f"  back       {clean(row['rolled_back'])}")
    if row["reason"]:
        lines.append(f"  reason     {clean(row['reason']['message'])}")
        if row["reason"]["remedy"]:
            lines.append(f"  remedy     {clean(row['reason']['remedy'])}")
    if row["replicas"]:
        lines.append(table_text(row["replicas"], REPLICA_COLUMNS, terminal_columns()).rstrip("\n"))
    return "\n".join(lines)


def _fallback_text(row: Row) -> str:
    """Who answers where its money is at an end."""
    name, state = clean(row["fallback"]), row["fallback_state"]
    if state == "missing":
        return f"{name}, and no service of that name, owner and project is there: nobody answers for it"
    return f"{name} ({state})" if state else name


def _use_lines(row: Row) -> list[str]:
    """What it was asked lately, and what that cost."""
    cost = row["cost"]
    if not row["requests"]:
        return []
    told = f"  asked      {plural(row['requests'], 'request')}"
    if row["tokens_in"] or row["tokens_out"]:
        told += f", {row['tokens_in']} tokens read, {row['tokens_out']} written"
        told += f", {cost['coverage']:.0%} of them counted" if cost["coverage"] is not None else ""
    per = [f"{money_text(cost['per_request'])} a request"] if cost["per_request"] else []
    per += [f"{money_text(cost['per_million_tokens'])} for 1M tokens"] if cost["per_million_tokens"] else []
    per.append(f"{money_text(cost['idle'])} of {money_text(cost['charged'])} idle")
    return [f"{told}; since {time_text(cost['since'])}", f"             {', '.join(per)}"]


@click.group(cls=NearGroup)
def key() -> None:
    """Make, list or revoke the keys with which services are asked.

    Example: bursar key new --service chat --name ci --rpm 60
    """


@key.command("new")
@click.option("--service", "service_name", required=True, metavar="NAME", help="That it opens.")
@click.option("--name", default="", metavar="TEXT", help="To tell it by.")
@click.option("--project", default="", metavar="PATH", help="Whom its use is told of; else the service's.")
@click.option("--rpm", type=click.IntRange(1, 1_000_000), help="Requests a minute, at one gateway.")
@click.option("--concurrency", type=click.IntRange(1, 1_000_000), help="Requests at once, at one gateway.")
@click.option("--valid", default="", metavar="DURATION", help="Until it is void; else until it is revoked.")
@click.option("--budget", default="", metavar="NAME", help="What it is charged counts there too.")
@listing
@changing
def key_new(
    client: WireClient,
    service_name: str,
    name: str,
    project: str,
    rpm: int | None,
    concurrency: int | None,
    valid: str,
    budget: str,
    output: Output,
) -> None:
    """Make a key. Its secret is printed now and never again.

    Example: bursar key new --service chat --name ci --rpm 60
    """
    from bursar.clock import parse_duration

    valid_us = parse_duration(valid) if valid else 0
    if valid and not valid_us:
        raise InvalidRequest("--valid: is to be more than 0; without it a key is good until it is revoked")
    made = client.new_key(
        service_name,
        name=name,
        project=project,
        requests_per_minute=rpm or 0,
        concurrency=concurrency or 0,
        valid_us=valid_us,
        budget=budget,
    )
    row = view.service_key(made)
    emit_one(row, output, lambda told: str(told["secret"]), columns=KEY_COLUMNS)
    if output.format == "table" and not output.quiet:
        say(f"{row['id']} opens service {clean(row['service'])}; its secret is not shown again")


@key.command("ls")
@click.option("--service", "service_name", default="", metavar="NAME", help="Of this service alone.")
@listing
@connected
def key_ls(client: WireClient, service_name: str, output: Output) -> None:
    """List keys, without their secrets.

    Example: bursar key ls --service chat
    """
    rows = [view.service_key(one) for one in client.service_keys(service_name)]
    emit(rows, KEY_COLUMNS, output, empty="no keys")


@key.command("revoke")
@click.argument("key_id", metavar="ID")
@listing
@changing
def key_revoke(client: WireClient, key_id: str, output: Output) -> None:
    """Void a key. What it has in hand is answered.

    Example: bursar key revoke key_01
    """
    emit_one(view.service_key(client.revoke_key(key_id)), output, _revoked_text, columns=KEY_COLUMNS)


def _revoked_text(row: Row) -> str:
    return f"{row['id']} of service {clean(row['service'])} is void"
