"""Who and what is let in: secrets with which nodes enrol, and the browsers that are logged in here.

Why     a secret is shown once, on the page that answers the form, and stands in no address. A browser that
        was left open somewhere is logged out from another: everybody ends their own, an administrator any.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from bursar.cli.output import Column, Row
from bursar.clock import HOUR_US, format_instant
from bursar.codec import view
from bursar.errors import InvalidRequest, NotFound
from bursar_web.asking import client_of, form_of, session_of
from bursar_web.sessions import Session, Sessions
from bursar_web.show import command_line, page
from bursar_web.tables import as_file, number_of, table

HOURS_MAX: Final = 24 * 7
ADMIN: Final = "admin"
ID_CHARS: Final = 12
SESSION_COLUMNS: Final = (
    Column("id"),
    Column("user"),
    Column("role"),
    Column("opened", "opened_at", title="opened_at"),
    Column("used", "used_at", title="used_at"),
    Column("this one", show=lambda row: "yes" if row["own"] else ""),
)


async def enrol(request: Request) -> Response:
    """GET `/admin/enrol`."""
    return _enrol(request)


async def enrolled(request: Request) -> Response:
    """POST `/admin/enrol`: makes a secret, and shows it this once."""
    fields = form_of(request)
    node = fields.get("node", "").strip()
    try:
        if not node:
            raise InvalidRequest("node: give the name that the machine will have")
        hours = number_of(fields.get("hours", "").strip(), "hours", HOURS_MAX) or 1
    except InvalidRequest as problem:
        return _enrol(request, node, str(problem), status=400)
    found = view.node_token(await client_of(request).node_token(node, ttl_us=hours * HOUR_US), node)
    return page(
        request, "enrolled.html", command=command_line("node", "token", node, ttl=f"{hours}h"), found=found
    )


def _enrol(request: Request, node: str = "", problem: str = "", status: int = 200) -> Response:
    return page(
        request,
        "enrol.html",
        status=status,
        command=command_line("node", "token", "NODE"),
        node=node,
        problem=problem,
        most=HOURS_MAX,
    )


async def ask_revoke(request: Request) -> Response:
    """GET `/admin/secrets/NODE/revoke`: what would no longer be good."""
    node = request.path_params["node"]
    known = (await client_of(request).node_tokens(node)).tokens
    return page(
        request,
        "revoke.html",
        command=command_line("node", "token", node, revoke=True),
        node=node,
        secrets=[view.known_token(one) for one in known],
    )


async def revoke(request: Request) -> Response:
    """POST `/admin/secrets/NODE/revoke`: all of a node's, or the one that is named."""
    await client_of(request).revoke_node_tokens(request.path_params["node"], form_of(request).get("id", ""))
    return RedirectResponse("/admin", 303)


async def sessions(request: Request) -> Response:
    """`/sessions`: one's own, and of an administrator all that are open here."""
    own = session_of(request)
    rows = [_row(request, one, own) for one in _seen(request)]
    if (file := as_file(request, "sessions", rows, SESSION_COLUMNS)) is not None:
        return file
    return page(
        request,
        "sessions.html",
        rows=rows,
        table=table("Browsers that are logged in here", rows, SESSION_COLUMNS),
    )


async def end(request: Request) -> Response:
    """POST `/sessions/ID/end`. Raises `NotFound`."""
    wanted = request.path_params["session"]
    found = [one for one in _seen(request) if one.digest[:ID_CHARS] == wanted]
    if not found:
        raise NotFound(f"no session {wanted[:40]!r} is open here; it may have ended meanwhile")
    await _all(request).close(found[0])
    return RedirectResponse("/login" if found[0] is session_of(request) else "/sessions", 303)


def _all(request: Request) -> Sessions:
    found: Sessions = request.app.state.sessions
    return found


def _seen(request: Request) -> list[Session]:
    own = session_of(request)
    return [one for one in _all(request).all() if one is own or own.role == ADMIN or one.user == own.user]


def _row(request: Request, one: Session, own: Session) -> Row:
    clock = request.app.state.clock
    since = clock.now() - clock.boot_us()
    return {
        "id": one.digest[:ID_CHARS],
        "user": one.user,
        "role": one.role,
        "opened_at": format_instant(since + one.opened_at),
        "used_at": format_instant(since + one.used_at),
        "own": one is own,
    }
