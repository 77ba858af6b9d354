"""`/metrics`: what Prometheus reads, as the daemon tells it to whoever asks.

Owns    who may scrape (the token of a caller, as for any call), the families, and what a scrape costs.
Why     no figure is anybody's who only reaches a port. A scrape asks for the last two days of charges and not
        for all there are: what is older is summed once a day and kept. Within ten seconds two are one.
        A part that is refused or has no answer is left out and said to be (`bursar_scrape_ok`).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from bursar.client.aio import AsyncWireClient
from bursar.clock import DAY_US, SECOND_US, Clock
from bursar.codec import view
from bursar.errors import BursarError, ServerUnavailable, Unauthenticated
from bursar_web.families import Families, Sums
from bursar_web.sessions import Session, same

SCRAPERS_MAX = 16
"""Tokens that are remembered with what they have summed; the one used longest ago makes room."""
FRESH_US = 10 * SECOND_US
SERIES_MAX = 5_000
"""Of one sum of charges: the dearest; the rest is one series, `others`."""
OLD_DAYS = 1
"""Days before today whose charges are asked for again each time: agents that were away still tell of them."""


class Charges:
    """Sums of charges from the beginning to now, of which only the newest are asked for each time."""

    def __init__(self, by: tuple[str, ...], field: str, **asked: Any) -> None:
        self._by = by
        self._field = field
        self._asked = asked
        self._old: Sums = {}
        self._old_until = 0
        self.unknown_s = 0.0
        self.currency = ""

    async def now(self, client: AsyncWireClient, now: int) -> Sums:
        """By key, amounts. Raises `BursarError`."""
        midnight = now - now % DAY_US - OLD_DAYS * DAY_US
        if midnight != self._old_until:
            self._old = await self._ask(client, until=midnight)
            self._old_until = midnight
        fresh = await self._ask(client, since=midnight)
        return {
            key: self._old.get(key, Decimal()) + fresh.get(key, Decimal()) for key in {**self._old, **fresh}
        }

    async def _ask(self, client: AsyncWireClient, **when: int) -> Sums:
        found = view.cost(
            await client.cost(by=list(self._by), top=SERIES_MAX - 1, **self._asked, **when), list(self._by)
        )
        self.currency = found["currency"]
        if "since" in when:
            self.unknown_s = found["total"]["unknown_price_s"]
        return {
            tuple(row[name] or "" for name in self._by): Decimal(row[self._field]["amount"])
            for row in found["rows"]
        }


class Scraper:
    """One caller that scrapes, and what was summed for it."""

    def __init__(self, client: AsyncWireClient) -> None:
        self.client = client
        self.text = b""
        self.told_at = -FRESH_US
        self.busy = asyncio.Lock()
        self._jobs = Charges(("project", "experiment", "model", "class"), "cost")
        self._idle = Charges(("pool", "kind", "class"), "gpu_cost", include_idle=True)

    async def scrape(self, now: int) -> bytes:
        """All families as text. Raises `Unauthenticated`, `ServerUnavailable`."""
        client = self.client
        asked: dict[str, Callable[[], Awaitable[Any]]] = {
            "server": lambda: client.server(census=True),
            "budgets": client.budgets,
            "nodes": client.nodes,
            "prices": lambda: client.policies(kind="PriceBook"),
            "cost": lambda: self._jobs.now(client, now),
            "idle": lambda: self._idle.now(client, now),
        }
        found = dict(zip(asked, await asyncio.gather(*(_part(one) for one in asked.values())), strict=True))
        registry = CollectorRegistry()
        registry.register(Families(found, self._jobs.currency, self._jobs.unknown_s, now))
        return generate_latest(registry)


class Metrics:
    """The page. `server`: whose figures. local: the secret that scrapes as who runs this; "" for none."""

    def __init__(self, server: str | None, clock: Clock, local: str) -> None:
        self._server = server
        self._clock = clock
        self._local = local
        self._scrapers: dict[str, Scraper] = {}

    async def answer(self, request: Request, session: Session | None) -> Response:
        """GET `/metrics`, with `Authorization: Bearer TOKEN`, or in a browser that is logged in."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            token = ""
        if not token and session is None:
            return _refused("send a token: Authorization: Bearer TOKEN (`credentials_file` in Prometheus)")
        scraper = await self._scraper(token) if token else Scraper(session.client)  # type: ignore[union-attr]
        async with scraper.busy:
            if self._clock.boot_us() - scraper.told_at >= FRESH_US:
                try:
                    scraper.text = await scraper.scrape(self._clock.now())
                except Unauthenticated as problem:
                    await self._forget(token)
                    return _refused(str(problem))
                except ServerUnavailable as problem:
                    return PlainTextResponse(f"{problem}\n", 503)
                scraper.told_at = self._clock.boot_us()
        return Response(scraper.text, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def close(self) -> None:
        """At the end of the process."""
        for digest in list(self._scrapers):
            await self._scrapers.pop(digest).client.close()

    async def _scraper(self, token: str) -> Scraper:
        digest = _digest(token)
        found = self._scrapers.pop(digest, None)
        if found is None:
            if len(self._scrapers) >= SCRAPERS_MAX:
                await self._scrapers.pop(next(iter(self._scrapers))).client.close()
            own = bool(self._local) and same(token, self._local)
            found = Scraper(AsyncWireClient(self._server, None if own else token))
        self._scrapers[digest] = found
        return found

    async def _forget(self, token: str) -> None:
        found = self._scrapers.pop(_digest(token), None)
        if found is not None:
            await found.client.close()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _refused(why: str) -> Response:
    return PlainTextResponse(f"{why}\n", 401, {"WWW-Authenticate": "Bearer"})


async def _part(ask: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await ask()
    except (Unauthenticated, ServerUnavailable):
        raise
    except BursarError:
        return None
