"""Logging in to a server by the site's identity provider, and out."""

from __future__ import annotations

import click

from bursar.cli.common import listing, server_of
from bursar.cli.output import Column, Output, Row, emit_one
from bursar.cli.terminal import clean
from bursar.client import address, logins
from bursar.clock import SECOND_US, format_instant
from bursar.errors import InvalidRequest, NotFound, Unauthenticated

COLUMNS = (Column("server"), Column("user"), Column("role"), Column("ends_at"))
NO_TOKEN = "none"
"""What is sent to learn where to log in: a server that knows says so when it refuses."""


@click.command()
@click.option("--server", metavar="ADDR", help="grpcs://host:7443.")
@listing
def login(server: str | None, output: Output) -> None:
    """Log in to a server by your site's identity provider.

    It prints an address and a code to type there, in any browser, and waits. The login is kept in
    ~/.config/bursar/logins.json (mode 0600) for that server alone, and refreshed; `bursar logout` ends it.

    Example: bursar login --server grpcs://bursar.example.org:7443
    """
    from bursar.client import WireClient

    found = _remote(server)
    issuer, client_id = _told(found)
    provider = logins.discover(issuer)
    started = logins.start(provider, client_id, logins.wall_s())
    where, code = clean(started.whole or started.address), clean(started.code)
    click.echo(f"open {where}\nand enter the code {code}", err=True)
    made = logins.finish(provider, client_id, started)
    with WireClient(found, made["id_token"]) as client:
        who = client.server()
    logins.keep(found.target, made)
    _, left_s = logins.token(found.target)
    row: Row = {
        "server": found.url,
        "user": who.user,
        "role": who.role,
        "ends_at": format_instant(int(logins.wall_s() + left_s) * SECOND_US),
        "refreshed": bool(made["refresh_token"]),
    }
    emit_one(row, output, _text, columns=COLUMNS, identity="user")


@click.command()
@click.option("--server", metavar="ADDR", help="grpcs://host:7443.")
def logout(server: str | None) -> None:
    """End the login to a server that `bursar login` made.

    Example: bursar logout --server grpcs://bursar.example.org:7443
    """
    found = _remote(server)
    if not logins.forget(found.target):
        raise NotFound(f"there is no login to {found.url}")
    click.echo(f"logged out of {found.url}")


def _remote(server: str | None) -> address.Address:
    found = address.resolve(server_of(server))
    if found.socket is not None:
        raise InvalidRequest(f"{found.url} knows you by your account; a login is for grpcs://host:7443")
    return found


def _told(found: address.Address) -> tuple[str, str]:
    """The provider that a server names when it refuses, and what this program is called there."""
    from bursar.client import WireClient

    try:
        with WireClient(found, NO_TOKEN) as client:
            client.server()
    except Unauthenticated as refused:
        issuer, client_id = refused.facts.get("issuer", ""), refused.facts.get("client_id", "")
        if issuer and client_id:
            return issuer, client_id
    raise InvalidRequest(
        f"{found.url} has no identity provider for `bursar login` ([oidc] client_id of bursard.toml);"
        " call with a token of `bursar config new-token`"
    )


def _text(row: Row) -> str:
    until = "it is refreshed" if row["refreshed"] else f"until {row['ends_at']}"
    return f"logged in to {row['server']} as {row['user']} ({row['role']}); {until}"
