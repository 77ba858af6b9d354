"""Connections to the pages: each comes with its request in time, and no number of them keeps others out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import uvicorn

from bursar.heads import Heads
from bursar_web import listening


def test_of_too_many_the_one_goes_that_has_owed_its_request_longest() -> None:
    cut: list[int] = []
    heads: Heads[int] = Heads(3, cut.append)
    for one in range(3):
        heads.opened(one)
    heads.here(0)
    heads.opened(3)
    assert (cut, len(heads)) == ([1], 3), "who is being answered stays"
    heads.answered(0)
    heads.opened(4)
    heads.opened(5)
    assert cut == [1, 2, 3], "and after that it is the last of those that owe one"
    heads.here(0)
    heads.here(4)
    heads.here(5)
    heads.opened(6)
    assert cut[-1] == 6, "where all are being answered, whoever comes goes"
    heads.gone(6)
    heads.answered(6)
    assert len(heads) == 3


Story = Callable[[int, asyncio.Event], Awaitable[None]]


def _served(story: Story, most: int, opened: Sequence[asyncio.StreamWriter] = ()) -> None:
    """opened: connections that are left open until the server has stopped."""
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            more = (await receive()).get("more_body", False)
        if scope["path"] == "/slow":
            await go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        if scope["path"] == listening.STREAM:
            await send({"type": "http.response.body", "body": b"o", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await send({"type": "http.response.body", "body": b"ok"})

    async def main() -> None:
        config = uvicorn.Config(app, http=listening.listener(most), port=0, lifespan="off", log_level="error")
        server = uvicorn.Server(config)
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        try:
            await story(server.servers[0].sockets[0].getsockname()[1], go)
        finally:
            await server.shutdown()
            for writer in opened:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    asyncio.run(main())


async def _ask(port: int, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    return reader, writer


def test_unfinished_heads_keep_nobody_out_and_who_is_answered_is_not_cut() -> None:
    async def story(port: int, go: asyncio.Event) -> None:
        busy = await _ask(port, "/slow")
        flood = []
        for _ in range(40):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\nX: ")
            flood.append((reader, writer))
        reader, writer = await _ask(port, "/")
        assert b"200 OK" in await reader.readline()
        go.set()
        assert b"200 OK" in await busy[0].readline()
        for old, _ in flood[:30]:
            with contextlib.suppress(ConnectionError):
                assert await old.read() == b""
        for _, one in (*flood, busy, (reader, writer)):
            one.close()

    _served(story, 8)


@pytest.mark.parametrize(
    "begun", [b"", b"GET / HTTP/1.1\r\nX: ", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\na"]
)
def test_a_request_that_does_not_come_to_its_end_is_cut(
    monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(listening, "REQUEST_S", 0.05)

    async def story(port: int, go: asyncio.Event) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begun)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()

    _served(story, 8)


def test_a_page_that_is_open_keeps_no_server_from_stopping() -> None:
    opened: list[asyncio.StreamWriter] = []

    async def story(port: int, go: asyncio.Event) -> None:
        reader, writer = await _ask(port, listening.STREAM)
        assert (await reader.readuntil(b"\r\n\r\no")).startswith(b"HTTP/1.1 200")
        opened.append(writer)

    _served(story, 9, opened)  # it stops once the story is over, and no time limit helps it


def test_the_next_request_of_a_connection_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "REQUEST_S", 0.05)

    async def story(port: int, go: asyncio.Event) -> None:
        reader, writer = await _ask(port, "/")
        assert b"200 OK" in await reader.readline()
        await reader.readuntil(b"\r\n\r\nok")
        writer.write(b"GET / HTTP/1.1\r\nX: ")
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()

    _served(story, 8)


def test_pages_keep_descriptors_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, most in ((400, 144), (1 << 20, listening.CONNECTIONS_MAX), (-1, listening.CONNECTIONS_MAX)):
        monkeypatch.setattr(listening.resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        monkeypatch.setattr(listening.resource, "setrlimit", lambda *_: None)
        assert listening.connections_max() == most
