"""A gateway of one service in this process, replicas that answer as they are told, and a client."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from aiohttp import web

from bursar_gateway.core import Core, Key, Route
from bursar_gateway.http import Gateway
from bursar_gateway.meters import Kept, Meter
from bursar_gateway.purses import Purse, Purses

S = 1_000_000
ASK = {"Authorization": "Bearer bsk_a"}
USAGE = {"prompt_tokens": 7, "completion_tokens": 3}


Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Replica:
    """Answers as it is told, and remembers what it was asked."""

    def __init__(
        self, answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]] | None = None
    ) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self._answer = answer
        self.cut = asyncio.Event()

    async def open(self) -> int:
        self._runner = web.ServerRunner(
            web.Server(self._handle, handler_cancellation=True), shutdown_timeout=0
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append((request.method, request.raw_path, dict(request.headers), await request.read()))
        try:
            if self._answer is not None:
                return await self._answer(request)
        except asyncio.CancelledError:
            self.cut.set()
            raise
        return web.json_response(
            {"usage": USAGE}, headers={"Connection": "x-hop", "x-hop": "1", "x-own": "2"}
        )


class Site:
    """A gateway of one service `chat`, and its client."""

    def __init__(self, *replicas: Replica, **route: Any) -> None:
        self.replicas, self.more = replicas, route
        self.clock = 60 * S
        self.meter = Meter(Kept(), self.clock)
        self.core = Core(Purses(lambda key_id: self.meter.untold.get(key_id, {})))
        self.purses: list[Purse] = []
        """Budgets of keys: the key of the client names the first."""
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1

    def learn(self, ports: dict[str, int], **more: Any) -> None:
        given: dict[str, Any] = {
            "job_id": "job_1", "name": "chat", "api": "openai", "target": 8, "queue_us": 5 * S,
            "cold_us": 5 * S, "first_byte_us": 5 * S, "idle_us": 5 * S, "total_us": 9 * S,
        }  # fmt: skip
        key = Key(id="key_1", job_id="job_1", budget=self.purses[0].name if self.purses else "")
        digest = hashlib.sha256(b"bsk_a").hexdigest()
        route = Route(**{**given, **self.more, **more}, replicas=ports)
        self.meter.room("job_1", len(ports) * route.target, self.clock)
        self.core.learn([route], {digest: key}, self.clock, self.purses)

    async def __aenter__(self) -> Site:
        self.gateway = Gateway(self.core, self.meter, lambda: self.clock, self.wake)
        await self.gateway.open()
        self.runner = web.ServerRunner(self.gateway.server(), shutdown_timeout=0)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.address = self.runner.addresses[0][:2]
        self.url = f"http://127.0.0.1:{self.address[1]}/chat"
        self.ports = {f"att_{n}": await replica.open() for n, replica in enumerate(self.replicas)}
        self.learn(self.ports)
        self.client = aiohttp.ClientSession(headers=ASK)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        await self.gateway.close()
        await self.runner.cleanup()
        for replica in self.replicas:
            await replica.close()

    def used(self) -> Any:
        self.meter.roll(self.clock)
        return self.meter.kept().open[0].uses["key_1"]


async def until(true: Callable[[], bool]) -> None:
    """Let others have their turns until it is so; the story's own bound ends it otherwise."""
    while not true():  # noqa: ASYNC110 (turns of the loop, not time)
        await asyncio.sleep(0)


def play(story: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await story()

    asyncio.run(bounded())
