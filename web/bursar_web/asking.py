"""What several pages ask the daemon for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.requests import Request

from bursar.cli.cluster import HIDDEN_SHARE
from bursar.cli.happenings import HIDDEN
from bursar.cli.output import Row
from bursar.client.aio import AsyncWireClient
from bursar.codec import view
from bursar.v1 import events_pb2 as pb
from bursar_web.sessions import Session

FIRST_SHARE: Final = 2
"""How many times as many events as are shown are asked for first: mostly fewer than half are metering."""


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


def text_of(fields: dict[str, str]) -> str:
    """The document of a form, as it was written: browsers send each end of a line as two characters."""
    return fields.get("text", "").replace("\r\n", "\n")


async def events_shown(
    client: AsyncWireClient, count: int, *, job: str = "", node: str = "", kinds: Sequence[str] = ()
) -> list[Row]:
    """The last events for people, newest first; the metering of each minute only if it is asked for."""
    told = list[pb.Event]()
    for share in (1,) if kinds else (FIRST_SHARE, HIDDEN_SHARE):
        last = client.events(tail=count * share, job=job, node=node, kinds=kinds)
        told = [each async for each in last if kinds or each.kind not in HIDDEN]
        if len(told) >= count:
            break
    return [view.event(each) for each in reversed(told[-count:])]
