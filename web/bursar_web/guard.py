"""What stands before every page: names of this server, forms of its own pages, and what browsers may do.

Why     a page on any other site can send a browser here, with its cookie. So a host that is not ours is
        refused (a name that points to 127.0.0.1 is none of ours), a form counts only when the browser says
        that one of our own pages sent it, and nothing but our own files is run or shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_BYTES_MAX = 256 * 1024
"""A job file of 64 kB, each third character of it written as three."""
SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""Sent with every answer."""
CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Guard:
    """Outermost layer of the application. `hosts`: `name` or `name:port` that browsers may call us."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str], secure: bool) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._headers = SECURITY | ({"Strict-Transport-Security": "max-age=31536000"} if secure else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    told[name] = value
                told.setdefault("Cache-Control", "no-store")
            await send(message)

        refused = self._refusal(scope["method"], headers)
        await (refused or self._app)(scope, receive, answer)

    def _refusal(self, method: str, headers: Headers) -> PlainTextResponse | None:
        host = headers.get("host", "").lower()
        if host not in self._hosts and host.rpartition(":")[0] not in self._hosts:
            return PlainTextResponse(
                "this server is not called that; name it with --host when it is started\n", 421
            )
        if method not in CHANGING:
            return None
        if not _own_page(headers, host):
            return PlainTextResponse("a form counts only when a page of this server sent it\n", 403)
        length = headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()) or len(length) > 9 or int(length) > BODY_BYTES_MAX:
            return PlainTextResponse(
                f"at most {BODY_BYTES_MAX} bytes, and their number has to be said\n", 413
            )
        return None


def _own_page(headers: Headers, host: str) -> bool:
    """By the browser's own word; of one that has none, by where it says the form stands."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    return urlsplit(headers.get("origin", "")).netloc.lower() == host
