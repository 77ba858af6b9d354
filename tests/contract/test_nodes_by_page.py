"""Nodes are listed by page: each once, by name, no message beyond its bound, whatever comes and goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from whole_site import Site, play

from bursar.cli.cluster import _top_text
from bursar.client import AsyncWireClient, WireClient
from bursar.client.fake import FakeServer
from bursar.codec import view
from bursar.v1 import nodes_pb2, types_pb2
from bursard.services import views


async def pages(site: Site, **asked: Any) -> list[list[str]]:
    """The names on each page, until the last."""
    found: list[list[str]] = []
    token = ""
    while True:
        request = nodes_pb2.ListNodesRequest(page_token=token, **asked)
        (status, details), (page,) = await site.ask("Nodes.List", request, token=site.token("op", "operator"))
        assert status == "OK", details
        found.append([node.facts.name for node in page.nodes])
        token = page.next_page_token
        if not token:
            return found


def test_pages_hold_as_many_as_were_asked_for_and_each_node_once() -> None:
    async def story(site: Site) -> None:
        for number in range(6, 1, -1):
            site.node(f"n{number}")
        assert await pages(site) == [["n1", "n2", "n3", "n4", "n5", "n6"]]
        assert await pages(site, page_size=4) == [["n1", "n2", "n3", "n4"], ["n5", "n6"]]
        assert await pages(site, page_size=3) == [["n1", "n2", "n3"], ["n4", "n5", "n6"]]
        assert await pages(site, pool="p", page_size=5) == [["n1", "n2", "n3", "n4", "n5"], ["n6"]]
        assert await pages(site, pool="q") == [[]]

    play(story)


def test_a_page_ends_where_its_message_would_be_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(site: Site) -> None:
        site.node("n2")
        monkeypatch.setattr(views, "ROWS_BYTES_MAX", 1)
        assert await pages(site) == [["n1"], ["n2"]]
        (_, (top,)) = await site.ask("Nodes.Top", nodes_pb2.TopRequest(), token=site.token("op", "operator"))
        assert ([node.facts.name for node in top.nodes], top.nodes_total) == (["n1"], 2)
        assert _top_text(view.top(top), None).startswith("1 node of 2, 0 live jobs")

    play(story)


@pytest.mark.parametrize(
    ("asked", "words"),
    [({"page_size": 1001}, "page_size: at most 1000"), ({"page_token": "../n"}, "page_token is not one")],
)
def test_a_page_that_nobody_gave_out_is_refused(asked: dict[str, Any], words: str) -> None:
    async def story(site: Site) -> None:
        request = nodes_pb2.ListNodesRequest(**asked)
        status, details = await site.call("Nodes.List", request, token=site.token("op", "operator"))
        assert (status, words in details) == ("INVALID_ARGUMENT", True)

    play(story)


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeServer]:
    with FakeServer(tmp_path / "run") as server:

        def page(request: Any) -> Any:
            number = int(request.page_token or 0)
            node = types_pb2.Node(facts=types_pb2.NodeFacts(name=str(number)))
            more = str(number + 1) if number < 2 else ""
            return nodes_pb2.ListNodesResponse(nodes=[node], next_page_token=more)

        server.answers["Nodes/List"] = page
        yield server


def test_clients_follow_the_pages(fake: FakeServer) -> None:
    with WireClient(fake.url) as client:
        assert [node.facts.name for node in client.nodes(pool="p")] == ["0", "1", "2"]
    asked = [(request.pool, request.page_token) for request in fake.calls("Nodes/List")]
    assert asked == [("p", ""), ("p", "1"), ("p", "2")]


def test_the_async_client_follows_them_too(fake: FakeServer) -> None:
    import asyncio

    async def story() -> list[str]:
        async with AsyncWireClient(fake.url) as client:
            return [node.facts.name for node in await client.nodes()]

    assert asyncio.run(story()) == ["0", "1", "2"]
