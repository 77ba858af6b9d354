"""Verbs about reservations: nodes that are kept for some, or for nobody, in a window of time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from bursar.cli.common import changing, connected, listing, now, read_until
from bursar.cli.groups import NearGroup
from bursar.cli.output import NAME_LEAST, Column, Output, Row, emit, emit_one, say
from bursar.cli.terminal import clean, time_text
from bursar.clock import SECOND_US, Instant, format_instant, parse_duration
from bursar.codec import view
from bursar.errors import InvalidRequest, NotFound, WrongState
from bursar.words import plural

if TYPE_CHECKING:
    from bursar.client import WireClient

KIND: Final = "Reservation"
RESERVATION_COLUMNS = (
    Column("name", wrap=True, least=NAME_LEAST),
    Column("state"),
    Column("nodes", "count", right=True, title="count"),
    Column("starts", "starts_at", title="starts_at"),
    Column("ends", "ends_at", title="ends_at"),
    Column("for", "whose", wrap=True, least=10, title="whose"),
    Column("own", right=True, drop=3),
    Column("others", right=True, drop=2),
    Column("reason", shrink=True, drop=1),
)


@click.group(cls=NearGroup)
def reserve() -> None:
    """Reserve nodes for projects, users or maintenance, list and show reservations, or cancel one.

    Example: bursar reserve new rack-7 --nodes n1,n2 --start 2026-12-01T08:00:00Z --duration 4h --maintenance
    """


@reserve.command("new")
@click.argument("name")
@click.option("--nodes", default="", metavar="A,B", help="Which nodes.")
@click.option("--count", type=click.IntRange(1, 10_000), help="How many, chosen for you.")
@click.option("--where", multiple=True, metavar="KEY=PATTERN", help="Of which: pool=a, rack=r7, zone=eu-*.")
@click.option("--gpu-type", default="", metavar="TYPE", help="Of those with such GPUs.")
@click.option(
    "--start",
    default="now",
    metavar="TIME",
    help="A time, or how long from now: 2h, tomorrow+9h.  [default: now]",
)
@click.option("--end", default="", metavar="TIME", help="A time, or how long from now.")
@click.option("--duration", default="", metavar="D", help="In place of --end: 4h, 2d.")
@click.option("--project", "projects", multiple=True, help="Its jobs, and those below it, may use the nodes.")
@click.option("--user", "users", multiple=True, help="Jobs of this user may.")
@click.option("--maintenance", is_flag=True, help="Nobody's may.")
@click.option("--preempt", is_flag=True, help="Have jobs stopped in time that would run into it.")
@click.option("--ignore-running", is_flag=True, help="Let them go on.")
@click.option("--reason", default="", help="For people.")
@listing
@changing
def reserve_new(client: WireClient, name: str, output: Output, **given: Any) -> None:
    """Keep nodes for some, or for nobody, in a window. It is refused where a job may run into it, without
    --preempt or --ignore-running. It is applied as a policy document of kind Reservation.

    Example: bursar reserve new big-run --count 4 --gpu-type H100 --start 2026-12-01T08:00:00Z --duration 12h
    --project nlp
    """
    text = document(name, given)
    if any(each.name == name for each in client.reservations().reservations):
        raise WrongState(
            f"there is a reservation {name[:63]!r} already; take another name, or `bursar reserve cancel` it"
            " first (`bursar policy apply` changes one)"
        )
    applied = client.apply_policies([("reservation", text)])
    found = _found(client, name)
    emit_one(found, output, reservation_text, columns=RESERVATION_COLUMNS, identity="name")
    for note in (one for each in applied for one in each.notes):
        say(f"note: {clean(note)}")


def document(name: str, given: Mapping[str, Any]) -> str:
    """The policy document that these flags mean."""
    names = [one.strip() for one in given["nodes"].split(",") if one.strip()]
    if names and given["count"]:
        raise InvalidRequest("--nodes names them, --count has them chosen for you; give one of the two")
    if not names and not given["count"]:
        raise InvalidRequest("give --nodes A,B, or --count N for nodes that are chosen for you")
    if bool(given["end"]) == bool(given["duration"]):
        raise InvalidRequest("give --end TIME, or --duration D")
    if given["duration"]:
        try:
            parse_duration(given["duration"])
        except InvalidRequest as error:
            raise InvalidRequest(f"--duration: {error.message}") from None
    if given["preempt"] and given["ignore_running"]:
        raise InvalidRequest("--preempt stops what --ignore-running lets go on; give one of them")
    start = (
        now() // SECOND_US * SECOND_US if given["start"] == "now" else read_until(given["start"], "--start")
    )
    spec: dict[str, Any] = {
        "nodes": names or given["count"],
        "start": _written(start),
    }
    where = dict[str, str]()
    for pair in given["where"]:
        key, equals, pattern = pair.partition("=")
        if not equals:
            raise InvalidRequest(f"--where {pair}: write it as KEY=PATTERN, such as pool=a")
        where[key.strip()] = pattern.strip()
    whose = {key: list(given[key]) for key in ("projects", "users") if given[key]}
    running = "preempt" if given["preempt"] else "leave" if given["ignore_running"] else ""
    optional = {
        "where": where,
        "gpu_type": given["gpu_type"],
        "end": _written(read_until(given["end"], "--end")) if given["end"] else "",
        "duration": given["duration"],
        "for": whose,
        "maintenance": given["maintenance"],
        "running": running,
        "reason": given["reason"],
    }
    spec |= {key: value for key, value in optional.items() if value}
    return json.dumps({"kind": KIND, "name": name, "spec": spec}, indent=1) + "\n"


@reserve.command("ls")
@listing
@connected
def reserve_ls(client: WireClient, output: Output) -> None:
    """List reservations in force and to come, the first to begin first.

    Example: bursar reserve ls --columns name,nodes,starts_at
    """
    rows = [view.reservation(each) for each in client.reservations().reservations]
    emit(rows, RESERVATION_COLUMNS, output, identity="name", empty="no node is reserved")


@reserve.command("show")
@click.argument("name")
@listing
@connected
def reserve_show(client: WireClient, name: str, output: Output) -> None:
    """Show one reservation, with its nodes and what runs there.

    Example: bursar reserve show rack-7
    """
    emit_one(_found(client, name), output, reservation_text, columns=RESERVATION_COLUMNS, identity="name")


@reserve.command("cancel")
@click.argument("name")
@listing
@changing
def reserve_cancel(client: WireClient, name: str, output: Output) -> None:
    """Give the nodes of a reservation back, before or in its window.

    Example: bursar reserve cancel rack-7
    """
    row = view.policy(client.delete_policy(name, kind=KIND))
    emit_one(row, output, lambda r: f"reservation {clean(r['name'])} is cancelled", identity="name")


def _written(at: int) -> str:
    return format_instant(Instant(at // SECOND_US * SECOND_US))


def _found(client: WireClient, name: str) -> Row:
    for each in client.reservations().reservations:
        if each.name == name:
            return view.reservation(each)
    raise NotFound(f"there is no reservation {name[:63]!r}; `bursar reserve ls` lists them")


def reservation_text(row: Row) -> str:
    """All of one reservation, a line for each thing that there is to say."""
    whose = "nobody (maintenance)" if row["maintenance"] else row["whose"]
    others = plural(row["others"], "attempt") + " of others"
    does = {
        "preempt": "asked to end so early that they are gone when it begins",
        "leave": "that go on",
        "refuse": "that end soon after it begins",
    }.get(row["running"], clean(row["running"]))
    lines = [
        ("reservation", f"{row['name']}, {row['state']}"),
        ("window", f"{time_text(row['starts_at'])} to {time_text(row['ends_at'])}"),
        ("for", whose),
        ("nodes", ", ".join(row["nodes"])),
        ("reason", row["reason"]),
        ("runs there", f"{plural(row['own'], 'attempt')} for which it is" if row["own"] else None),
        ("meets", f"{others}, {does}, until {time_text(row['others_until'])}" if row["others"] else None),
    ]
    return "\n".join(f"{name:11}  {clean(str(said))}" for name, said in lines if said)
