"""Verbs about the web pages of a `bursar up --http`: a login address that is good once."""

from __future__ import annotations

import click

from bursar.cli.common import listing, now, server_of
from bursar.cli.groups import NearGroup
from bursar.cli.output import Column, Output, emit_one
from bursar.client import address
from bursar.clock import SECOND_US, format_instant
from bursar.errors import NotFound, ServerUnavailable, WrongState
from bursar.local import pages, which

URL_COLUMNS = (Column("url", wrap=True), Column("expires", "expires_at", title="expires_at"))


@click.group(cls=NearGroup)
def web() -> None:
    """Get a login address of the web pages.

    Example: bursar web url
    """


@web.command("url")
@click.option("--state-dir", metavar="DIR", default=None, help="Of which cluster; else the one that runs.")
@listing
def web_url(state_dir: str | None, output: Output) -> None:
    """Print an address that logs you in to the pages of `bursar up --http`, once, within ten minutes.

    It makes whoever opens it the owner of the cluster: give it to nobody. Others log in with a token
    (`bursar config new-token`).

    Example: bursar web url
    """
    meant = which.to_show(state_dir, server_of(None))
    if meant.cluster is None:
        raise NotFound(
            "that server is no `bursar up` of this user; its pages are a site's: log in with a token"
        )
    directory, kept = meant.cluster.directory, meant.cluster.kept()
    serve = address.up_command(directory, "--http 127.0.0.1:7480", "--detach")
    if not meant.cluster.processes() and not meant.cluster.keeper():
        again = address.up_command(directory, "--detach") if kept.desired.http else serve
        raise ServerUnavailable(f"nothing runs in {directory}; start with {again}")
    if not kept.desired.http:
        raise WrongState(f"this cluster serves no pages; {serve} makes it serve them")
    if not kept.served_pages:
        raise ServerUnavailable(
            f"the pages are not served; `bursar status` and {meant.cluster.log('web')} say more"
        )
    link = pages.new_link(pages.folder_of(meant.cluster.directory), kept.desired.http, now() // SECOND_US)
    row = {"url": link.url, "expires_at": format_instant(link.ends_s * SECOND_US)}
    emit_one(row, output, lambda told: str(told["url"]), columns=URL_COLUMNS, identity="url")
