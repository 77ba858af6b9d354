"""Replicas on another machine: gateways that the daemon named come through their agent, nobody else."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from gateway_site import USAGE, Replica, Site, play, until

from bursar.model.service import NOWHERE
from bursar.pinned import CHARS_MAX, Pair, context, digest_of, is_certificate, make_pair
from bursar_agent import forwarder
from bursar_agent.forwarder import Forwarder
from bursar_gateway.core import Door
from bursar_gateway.http import Gateway


class Elsewhere:
    """A node with one replica `att_0`, and a gateway that reaches it through its agent alone."""

    def __init__(self, folder: Path, replica: Replica) -> None:
        self.replica, self.folder = replica, folder
        self.ours, self.others = make_pair(folder / "ours.pem"), make_pair(folder / "others.pem")

    async def __aenter__(self) -> Elsewhere:
        self.port = await self.replica.open()
        self.forwarder = Forwarder(self.folder, "127.0.0.1", 0, {"att_0": self.port}.get)  # type: ignore[arg-type]
        await self.forwarder.admit((self.ours.certificate,))
        self.site = Site(queue_us=1)
        await self.site.__aenter__()
        self.shows(self.ours)
        return self

    def shows(self, pair: Pair) -> None:
        """The gateway comes with this certificate."""
        self.site.gateway._pair = pair
        self.site.gateway._contexts.clear()
        way = self.forwarder.way
        self.learn(Door("127.0.0.1", way.port, way.certificate))

    def learn(self, door: Door, attempt: str = "att_0") -> None:
        self.site.learn({attempt: 1}, doors={attempt: door})  # port 1 is nobody's: only the door leads there

    async def __aexit__(self, *_: object) -> None:
        await self.site.__aexit__()
        await self.forwarder.close()
        await self.replica.close()


def told(folder: Path, replica: Replica, story: Callable[[Elsewhere], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with Elsewhere(folder, replica) as node:
            await story(node)

    play(whole)


def test_a_request_reaches_a_replica_elsewhere_and_its_answer_comes_back_whole(
    tmp_path: Path,
) -> None:
    sent = b"x" * 900_000

    async def echo(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=await request.read(), headers={"Connection": "close"})

    async def story(node: Elsewhere) -> None:
        for _ in range(3):
            async with node.site.client.post(node.site.url + "/file?a=b", data=sent) as r:
                assert (r.status, await r.read()) == (200, sent)
                assert r.headers["x-bursar-replica"] == "att_0"
        method, path, headers, _ = node.replica.asked[0]
        assert (method, path, headers["Host"]) == ("POST", "/file?a=b", "127.0.0.1:1")

    told(tmp_path, Replica(echo), story)


def test_a_stream_passes_piece_by_piece_and_who_hangs_up_ends_it_there(tmp_path: Path) -> None:
    async def ticks(request: web.BaseRequest) -> web.StreamResponse:
        made = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await made.prepare(request)
        while True:
            await made.write(b"data: {}\n\n")
            await asyncio.sleep(0)

    async def story(node: Elsewhere) -> None:
        async with node.site.client.get(node.site.url + "/") as r:
            assert await r.content.readexactly(10) == b"data: {}\n\n"
        await node.replica.cut.wait()

    told(tmp_path, Replica(ticks), story)


def test_nobody_comes_in_without_the_certificate_of_a_gateway_that_the_daemon_named(tmp_path: Path) -> None:
    async def story(node: Elsewhere) -> None:
        stranger = make_pair(tmp_path / "stranger.pem")
        node.shows(stranger)
        r = await node.site.client.get(node.site.url + "/")
        assert r.status in {502, 503}
        bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
        with pytest.raises((aiohttp.ClientError, OSError)):
            await node.site.client.get(
                f"https://127.0.0.1:{node.forwarder.way.port}/", ssl=bare, server_hostname="att_0"
            )
        assert node.replica.asked == []

    told(tmp_path, Replica(), story)


def test_another_list_lets_in_who_is_on_it_and_no_longer_who_is_not(tmp_path: Path) -> None:
    async def story(node: Elsewhere) -> None:
        before = node.forwarder.way
        await node.forwarder.admit(())
        assert node.forwarder.way == before, "a daemon that has just begun knows none yet"
        await node.forwarder.admit((node.others.certificate,))
        assert node.forwarder.way.admits == (digest_of(node.others.certificate),)
        assert (node.forwarder.way.port, node.forwarder.way.certificate) == (before.port, before.certificate)
        node.shows(node.ours)
        assert (await node.site.client.get(node.site.url + "/")).status in {502, 503}
        node.site.clock += 10_000_000
        node.shows(node.others)
        assert await (await node.site.client.get(node.site.url + "/")).json() == {"usage": USAGE}

    told(tmp_path, Replica(), story)


def test_a_node_that_shows_another_certificate_than_its_agent_told_gets_no_request(tmp_path: Path) -> None:
    async def story(node: Elsewhere) -> None:
        node.learn(Door("127.0.0.1", node.forwarder.way.port, node.others.certificate))
        assert (await node.site.client.post(node.site.url + "/", data=b"secret")).status in {502, 503}
        assert node.replica.asked == []

    told(tmp_path, Replica(), story)


def test_a_replica_that_is_not_there_any_more_is_a_replica_that_was_lost(tmp_path: Path) -> None:
    async def story(node: Elsewhere) -> None:
        way = node.forwarder.way
        node.learn(Door("127.0.0.1", way.port, way.certificate), "att_9")
        assert (await node.site.client.get(node.site.url + "/")).status in {502, 503}

    told(tmp_path, Replica(), story)


def test_strangers_are_few_at_once_and_take_nothing_from_gateways_once_they_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarder, "STRANGERS_MAX", 2)

    async def story(node: Elsewhere) -> None:
        at = ("127.0.0.1", node.forwarder.way.port)
        strangers = [await asyncio.open_connection(*at) for _ in range(2)]
        await until(lambda: node.forwarder._strangers == 2)
        reader, writer = await asyncio.open_connection(*at)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
        for _, one in strangers:
            one.transport.abort()
        await until(lambda: not node.forwarder._strangers)
        assert (await node.site.client.get(node.site.url + "/")).status == 200

    told(tmp_path, Replica(), story)


def test_what_has_no_cryptography_or_no_room_for_a_key_is_reached_from_its_own_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        made = Forwarder(tmp_path / "no" / "folder", "127.0.0.1", 0, lambda _: 0)
        await made.admit((make_pair(tmp_path / "a.pem").certificate,))
        assert made.way == NOWHERE
        await made.close()

    asyncio.run(story())
    assert "cannot reach replicas here" in caplog.text


def test_an_address_of_the_outside_listens_all_the_same(tmp_path: Path) -> None:
    async def story() -> None:
        made = Forwarder(tmp_path, "192.0.2.7", 0, lambda _: 0)  # of nobody's, by RFC 5737
        await made.admit((make_pair(tmp_path / "a.pem").certificate,))
        with socket.create_connection(("127.0.0.1", made.way.port)):
            pass
        await made.close()

    asyncio.run(story())


def test_a_certificate_is_one_and_nothing_else(tmp_path: Path) -> None:
    pair = make_pair(tmp_path / "a.pem")
    for number in range(20):  # signatures are of several lengths
        one = make_pair(tmp_path / f"{number}.pem").certificate
        assert is_certificate(one)
        assert not is_certificate(one * 2)
    assert is_certificate(pair.certificate)
    assert digest_of(pair.certificate) == hashlib.sha256(pair.certificate.encode()).hexdigest()
    assert (tmp_path / "a.pem").stat().st_mode & 0o777 == 0o600
    for other in (
        "", "x", pair.certificate * 2, pair.certificate[:-1], pair.file.read_text(), pair.certificate + "\n",
        pair.certificate + "A" * CHARS_MAX, "AAAA",
    ):  # fmt: skip
        assert not is_certificate(other)
    assert is_certificate("MAA="), "it is not read here"
    with pytest.raises(OSError, match="none of the certificates"):
        context(pair, ("MAA=",), server=True)
    context(pair, ("MAA=", pair.certificate), server=True)


def test_a_gateway_without_a_certificate_reaches_only_its_own_machine(tmp_path: Path) -> None:
    async def story(node: Elsewhere) -> None:
        node.site.gateway._pair = None
        assert (await node.site.client.get(node.site.url + "/")).status in {502, 503}
        assert isinstance(node.site.gateway, Gateway)

    told(tmp_path, Replica(), story)


def test_whatever_lies_where_the_key_belongs_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "forward.pem").mkdir()
    (tmp_path / "forward.pem" / "x").touch()

    async def story() -> None:
        made = Forwarder(tmp_path, "127.0.0.1", 0, lambda _: 0)
        await made.admit((make_pair(tmp_path / "a.pem").certificate,))
        assert made.way.port
        await made.close()

    asyncio.run(story())
    assert (tmp_path / "forward.pem").is_file()
