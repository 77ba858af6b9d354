"""The cluster itself: how it does, who may what, which secrets there are, and what to do for its books.

Why     each part has rights of its own. One that its reader may not see says so in its place, in the daemon's
        own words, and blanks none of the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from bursar.cli.cluster import TOKEN_COLUMNS
from bursar.cli.output import Column, Row
from bursar.cli.rights import GRANT_COLUMNS, SECRET_COLUMNS
from bursar.client.aio import AsyncWireClient
from bursar.codec import view
from bursar.errors import Forbidden, InvalidRequest
from bursar_web.asking import client_of
from bursar_web.show import command_line, page
from bursar_web.tables import Table, as_file, node_link, table

FINDING_COLUMNS: Final = (
    Column("check"),
    Column("ok", show=lambda row: "ok" if row["ok"] else "BROKEN"),
    Column("message"),
    Column("remedy"),
)


class Part(NamedTuple):
    """One table. command: what prints the same. asked: its rows; raises `Forbidden`."""

    caption: str
    command: str
    columns: tuple[Column, ...]
    empty: str
    asked: Callable[[AsyncWireClient], Awaitable[list[Row]]]


class Shown(NamedTuple):
    """A part on the page. table: None where it is not for its reader, and `problem` says why."""

    name: str
    command: str
    table: Table | None
    problem: str


async def _doctor(client: AsyncWireClient) -> list[Row]:
    return view.findings(await client.doctor())


async def _grants(client: AsyncWireClient) -> list[Row]:
    return [view.grant(one) for one in await client.grants()]


async def _tokens(client: AsyncWireClient) -> list[Row]:
    return [view.known_token(one) for one in (await client.node_tokens()).tokens]


async def _secrets(client: AsyncWireClient) -> list[Row]:
    return [view.secret(one) for one in await client.secrets()]


DOCTOR: Final = "doctor"
FIRST: Final = "grants"
"""What a file has that names no table."""
PARTS: Final[dict[str, Part]] = {
    "doctor": Part(
        "Is everything right?", command_line("doctor"), FINDING_COLUMNS, "nothing was looked at",
        _doctor,
    ),
    "grants": Part("Who holds which role", command_line("grant", "ls"), GRANT_COLUMNS, "no grants", _grants),
    "tokens": Part(
        "Secrets of nodes that are good now", command_line("node", "token", list=True), TOKEN_COLUMNS,
        "none is good now", _tokens,
    ),
    "secrets": Part(
        "Names of the secrets of jobs", command_line("secret", "ls"), SECRET_COLUMNS, "no secrets", _secrets
    ),
}  # fmt: skip
"""By the word that names it in the address of its files."""


async def admin(request: Request) -> Response:
    """`/admin`; `?show=` is one of its tables alone, as page and as file. `doctor` walks all there is, so it
    does that when it is asked to.
    """
    client, wanted = client_of(request), request.query_params.get("show", "")
    if wanted and wanted not in PARTS:
        raise InvalidRequest(
            f"show: {wanted[:40]!r} is none of {', '.join(PARTS)}; without it the page has all"
        )
    if request.scope.get("file", ""):
        name = wanted or FIRST
        file = as_file(request, name, await PARTS[name].asked(client), PARTS[name].columns)
        assert file is not None
        return file
    server = view.server(await client.server())
    return page(
        request,
        "admin.html",
        command=PARTS[wanted].command if wanted else command_line("status"),
        server=server,
        store_bytes=server["counters"].get("store_bytes"),
        free_bytes=server["counters"].get("store_free_bytes"),
        refused=_refused(server["counters"]),
        wanted=wanted,
        parts=[
            await _shown(client, name, part)
            for name, part in PARTS.items()
            if name == wanted or not (wanted or name == DOCTOR)
        ],
    )


async def _shown(client: AsyncWireClient, name: str, part: Part) -> Shown:
    try:
        rows = await part.asked(client)
    except Forbidden as problem:
        return Shown(part.caption, part.command, None, str(problem))
    links: dict[str, Any] = {}
    if name == "tokens":
        links = {"node": lambda row: node_link(row["node"]), "id": lambda row: revoke_link(row["node"])}
    made = table(part.caption, rows, part.columns, links=links, empty=part.empty)
    return Shown(name, part.command, made, "")


def revoke_link(node: str) -> str:
    """Where the secrets of a node are voided."""
    return f"/admin/secrets/{quote(node, safe='')}/revoke"


def _refused(counters: dict[str, int]) -> Sequence[tuple[str, int]]:
    """Calls that were refused since the start, by what they were told."""
    begin = "refused_"
    return [
        (name.removeprefix(begin).replace("_", " "), count)
        for name, count in counters.items()
        if name.startswith(begin)
    ]
