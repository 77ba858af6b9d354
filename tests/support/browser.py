"""A browser of the pages in this process: the application is called as a server would call it."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Awaitable, Callable
from html.parser import HTMLParser
from typing import NamedTuple
from urllib.parse import urlencode

from whole_site import Site

from bursar.clock import VirtualClock
from bursar_web.app import Options, make_app
from bursar_web.provider import Client

HOST = "bursar.test:7480"
OWN = {"sec-fetch-site": "same-origin"}


VOID = {"meta", "link", "input", "br"}


class Tags(HTMLParser):
    """Every element that is opened is closed, in order; collects what a strict policy forbids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.feed(text)
        self.faults += self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.faults += [
            f"{tag} {name}" for name, _ in attrs if name == "style" or name.startswith(("on", "hx-on"))
        ]
        if tag == "script" and "src" not in dict(attrs):
            self.faults.append("script without src")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"/{tag}")


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str


def server_of(site: Site) -> str:
    """Its address as clients write it."""
    return site.address.replace("unix:", "unix://")


class Browser:
    """Asks the application as a browser would, and keeps its cookie."""

    def __init__(
        self, site: Site, *, link: str = "", secure: bool = False, provider: Client | None = None
    ) -> None:
        self.clock = VirtualClock(0)
        self.world = self.clock
        self._secrets = iter(range(10_000))
        options = Options(server_of(site), (HOST,), secure=secure, link=link, provider=provider)
        self.app = make_app(options, self.clock, lambda: f"secret-{next(self._secrets)}")
        self.cookie = ""

    async def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        where, _, query = path.partition("?")
        told = {"host": HOST, **({"cookie": self.cookie} if self.cookie else {}), **(headers or {})}
        if body is not None:
            told = {"content-length": str(len(body)), **told}
        scope = {
            "type": "http", "http_version": "1.1", "method": method, "scheme": "http", "path": where,
            "raw_path": where.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in told.items()],
            "server": ("127.0.0.1", 7480), "client": ("127.0.0.1", 1),
        }  # fmt: skip
        parts: list[dict[str, object]] = []

        asked = iter(({"type": "http.request", "body": body or b"", "more_body": False},))

        async def receive() -> dict[str, object]:
            return next(asked, None) or await asyncio.get_running_loop().create_future()

        async def send(message: dict[str, object]) -> None:
            parts.append(message)

        await self.app(scope, receive, send)
        found = {name.decode(): value.decode() for name, value in parts[0]["headers"]}  # type: ignore[attr-defined]
        content = b"".join(part.get("body", b"") for part in parts[1:])  # type: ignore[misc]
        if "set-cookie" in found:
            self.cookie = found["set-cookie"].partition(";")[0]
        return Answer(int(parts[0]["status"]), found, content.decode())  # type: ignore[call-overload]

    async def get(self, path: str) -> Answer:
        return await self.ask("GET", path)

    async def post(self, path: str, headers: dict[str, str] | None = None, **fields: str) -> Answer:
        return await self.ask("POST", path, OWN | (headers or {}), urlencode(fields).encode())

    async def log_in(self, token: str) -> Answer:
        return await self.post("/login", token=token)

    async def form_token(self) -> str:
        found = re.search(r'name="form_token" value="([^"]+)"', (await self.get("/jobs")).text)
        assert found is not None
        return found[1]


Story = Callable[[Site, Browser], Awaitable[None]]


def play(story: Story) -> None:
    """A site of its own, and a browser that is at home there."""

    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="b") as folder:
            async with Site(folder) as site:
                browser = Browser(site)
                async with browser.app.router.lifespan_context(browser.app):
                    await story(site, browser)

    asyncio.run(main())
