"""What several pages ask the daemon for."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request

from bursar.cli.cluster import HIDDEN_SHARE, TAIL_MAX
from bursar.cli.happenings import METERING
from bursar.cli.output import Row
from bursar.client.aio import AsyncWireClient
from bursar.codec import view
from bursar_web.sessions import Session


def session_of(request: Request) -> Session:
    """Who asks. Every page but the login has one."""
    found: Session = request.scope["session"]
    return found


def client_of(request: Request) -> AsyncWireClient:
    """What speaks for whoever asks."""
    return session_of(request).client


def form_of(request: Request) -> dict[str, str]:
    """The fields of the form that was sent."""
    found: dict[str, str] = request.scope["form"]
    return found


async def events_shown(
    client: AsyncWireClient, count: int, *, job: str = "", node: str = "", kinds: Sequence[str] = ()
) -> list[Row]:
    """The last events for people, newest first; the metering of each minute only if it is asked for."""
    tail = min(count if kinds else count * HIDDEN_SHARE, TAIL_MAX)
    found = [view.event(each) async for each in client.events(tail=tail, job=job, node=node, kinds=kinds)]
    told = [row for row in found if kinds or row["kind"] != METERING]
    return told[-count:][::-1]
