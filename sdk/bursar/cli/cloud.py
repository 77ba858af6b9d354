"""Verbs about rented machines: which there are and were, whether more could be rented, and their end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from bursar.cli.common import changing, connected, fail, listing
from bursar.cli.groups import NearGroup
from bursar.cli.output import NAME_LEAST, Column, Output, Row, emit, emit_one
from bursar.cli.terminal import clean, money_text, rate_text, time_text
from bursar.codec import view

if TYPE_CHECKING:
    from bursar.client import WireClient

MACHINE_COLUMNS = (
    Column("name", wrap=True, least=NAME_LEAST),
    Column("state"),
    Column("job", drop=4),
    Column("instance_type", wrap=True, least=10),
    Column("market", drop=5),
    Column("zone", whole=True, drop=6),
    Column("provider", drop=8),
    Column("price", "rate_per_hour", right=True, drop=2, title="rate_per_hour", suffix="/h"),
    Column("cost", right=True),
    Column("launched", "launched_at", drop=7, title="launched_at"),
    Column("ends", "ends_at", drop=3, title="ends_at"),
    Column("why", "reason", shrink=True, drop=1, title="reason"),
)
CHECK_COLUMNS = (
    Column("check", "name", title="name"),
    Column("ok", "good", title="good"),
    Column("message", "says", wrap=True, least=20, title="says"),
    Column("remedy", wrap=True, least=20, drop=1),
)


@click.group(cls=NearGroup)
def cloud() -> None:
    """List and show rented machines, check whether more could be rented, give back or end one.

    Example: bursar cloud ls
    """


@cloud.command("ls")
@listing
@connected
def cloud_ls(client: WireClient, output: Output) -> None:
    """List machines from when they are asked for until their provider lists them as gone.

    Example: bursar cloud ls --sort-by cost
    """
    rows = [view.machine(each) for each in client.machines().machines]
    emit(rows, MACHINE_COLUMNS, output, identity="name", empty="no machine is rented")


@cloud.command("show")
@click.argument("name")
@listing
@connected
def cloud_show(client: WireClient, name: str, output: Output) -> None:
    """Show one machine, whole; also one that was given back.

    Example: bursar cloud show gpus-2b43bhnf1t
    """
    found = view.machine(client.machine(name))
    emit_one(found, output, machine_text, columns=MACHINE_COLUMNS, identity="name")


def machine_text(row: Row) -> str:
    """All of one machine, a line for each thing that there is to say."""
    where = (row["provider"], row["zone"] or row["region"], row["instance_type"], row["market"])
    lines = [
        ("machine", f"{row['name'] or row['id']}, {row['state']}"),
        ("where", " ".join(filter(None, where)) + f", pool {row['pool']}"),
        ("its name there", row["provider_id"]),
        ("why", row["why"]),
        ("job", row["job"]),
        ("attempt", row["attempt"]),
        ("launched", time_text(row["launched_at"])),
        ("billed from", time_text(row["billed_from"]) if row["billed_from"] else "not yet"),
        ("billed until", time_text(row["billed_until"]) if row["billed_until"] else None),
        ("ends", f"{time_text(row['ends_at'])} at the latest" if row["ends_at"] else None),
        ("ended" if row["state"] == "gone" else "ending", row["reason"]),
        ("price", rate_text(row["rate_per_hour"])),
        ("cost", money_text(row["cost"])),
    ]
    return "\n".join(f"{name:14}  {clean(str(said))}" for name, said in lines if said)


def _ends(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a verb that ends a machine."""
    for option in (changing, listing, click.option("--reason", default="", help="Shown in `cloud ls`.")):
        command = option(command)
    return click.argument("name")(command)


def _told(found: Any, output: Output, becomes: str) -> None:
    """The machine as it is now; to people, what becomes of it."""
    emit_one(
        view.machine(found),
        output,
        lambda row: f"machine {clean(row['name'])} {becomes}",
        columns=MACHINE_COLUMNS,
        identity="name",
    )


@cloud.command("release")
@_ends
def cloud_release(client: WireClient, name: str, reason: str, output: Output) -> None:
    """Give a machine back once nothing runs there; nothing new starts there (`node resume` takes it back).

    Example: bursar cloud release gpus-2b43bhnf1t --reason "enough for today"
    """
    _told(client.release_machine(name, reason=reason), output, "is given back once nothing runs there")


@cloud.command("check")
@listing
@connected
def cloud_check(client: WireClient, output: Output) -> None:
    """Say whether machines could be rented, and what to mend; nothing is rented.

    Example: bursar cloud check
    """
    rows = [view.cloud_check(each) for each in client.check_clouds().checks]
    emit(rows, CHECK_COLUMNS, output, identity="name")
    if not all(row["good"] for row in rows):
        raise fail(1)


@cloud.command("terminate")
@_ends
def cloud_terminate(client: WireClient, name: str, reason: str, output: Output) -> None:
    """End a machine and all that runs on it; it costs until its provider lists it as gone.

    Example: bursar cloud terminate gpus-2b43bhnf1t --reason "wrong type"
    """
    _told(client.end_machine(name, reason=reason), output, "is to end")
