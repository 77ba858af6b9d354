"""Connections that never say who they are: bounded by account, program and address, told of in few words."""

from __future__ import annotations

import asyncio
import errno
import logging
import select
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest
from whole_site import Site, play

from bursar.clock import VirtualClock
from bursar.tracebacks import TRACEBACKS_MAX, Tracebacks
from bursard.access.connections import Held, Kind, Room, Shares, surplus
from bursard.access.crowd import TOLD_US, Crowd, Proven
from bursard.access.tokens import Authority, Peers
from bursard.app import MESSAGE_BYTES_MAX, SERVER_OPTIONS
from bursard.state import State

ROOMS = {kind: Room(10, 6) for kind in Kind}


def _held(
    count: int, caller: object, program: int = 0, kind: Kind = Kind.ACCOUNT, since: int = 0
) -> list[Held]:
    return [Held(id_, kind, caller, program, id_) for id_ in range(since, since + count)]


def test_descriptors_are_kept_back_and_no_listener_has_anothers() -> None:
    for descriptors in (256, 1_024, 20_000, 65_536, 1 << 20):
        for tcp in (False, True):
            shares = Shares.of(descriptors, tcp=tcp)
            assert shares.unix + shares.tcp <= descriptors - 64
            assert bool(shares.tcp) == tcp
            rooms = shares.rooms()
            assert rooms[Kind.OWN].together + rooms[Kind.ACCOUNT].together < shares.unix
            assert rooms[Kind.PROVEN].together + rooms[Kind.STRANGER].together <= shares.tcp * 3 // 4
            assert rooms[Kind.PROVEN].each >= 8
    assert Shares.of(65_536, tcp=True).rooms()[Kind.PROVEN].together > 8_192, "as many as nodes have streams"


def test_who_has_too_many_loses_the_newest_and_nobody_else_any() -> None:
    crowd, other = _held(9, "eve"), _held(2, "ann", since=100)
    assert [one.key for one in surplus([*crowd, *other], ROOMS)] == [6, 7, 8]


def test_of_one_account_the_program_that_floods_loses_not_the_one_that_came_last() -> None:
    flood, agent = _held(20, "root", program=7), _held(1, "root", program=8, since=100)
    gone = surplus([*flood, *agent], ROOMS)
    assert len(gone) == 15
    assert agent[0] not in gone


def test_of_many_callers_together_those_with_most_lose() -> None:
    crowd = [one for n in range(3) for one in _held(5, f"eve{n}", since=n * 10)]
    late = _held(1, "ann", since=100)
    gone = surplus([*crowd, *late], ROOMS)
    assert len(gone) == 6
    assert late[0] not in gone


def test_who_has_proven_nothing_loses_what_had_time_to() -> None:
    assert [one.key for one in surplus(_held(8, "10.0.0.1", kind=Kind.STRANGER), ROOMS)] == [1, 0]


def _knock(path: str, count: int) -> list[socket.socket]:
    made = []
    for _ in range(count):
        one = socket.socket(socket.AF_UNIX)
        one.connect(path)
        made.append(one)
    return made


def _until_shut(ones: list[socket.socket], most: int) -> None:
    """Returns when no more than so many are open."""
    poller = select.poll()
    left = {one.fileno(): one for one in ones}
    for fd in left:
        poller.register(fd, select.POLLIN)
    while len(left) > most:
        for fd, _ in poller.poll():
            try:
                more = left[fd].recv(4_096)
            except ConnectionError:
                more = b""
            if not more:
                poller.unregister(fd)
                del left[fd]


def _until_some_go(crowd: Crowd, count: int) -> None:
    """gRPC accepts connections in its own time: look until so many were shut."""
    while crowd.closed < count:
        crowd.look()


def test_idle_connections_of_one_program_are_shut_and_calls_go_on() -> None:
    async def story(site: Site) -> None:
        path = site.address.removeprefix("unix:")
        rooms = {kind: Room(12, 12) for kind in Kind}
        crowd = Crowd(path, 0, rooms, Proven(), site.clock)
        flood = await asyncio.to_thread(_knock, path, 40)
        await asyncio.to_thread(_until_some_go, crowd, 28)
        await asyncio.to_thread(_until_shut, flood, 12)
        status, _ = await site.call("Jobs.List", token=site.token("root", "admin"))
        assert status == "OK"
        for one in flood:
            one.close()

    play(story)


def test_whose_a_connection_over_tcp_is_is_known_once_a_call_has_proven_it() -> None:
    async def story(site: Site) -> None:
        port = site.server.add_insecure_port("127.0.0.1:0")
        await site.server.start()
        crowd = Crowd("/nowhere", port, {kind: Room(0, 0) for kind in Kind}, site.door.proven, site.clock)
        crowd._rooms[Kind.PROVEN] = Room(1, 1)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            ask = channel.unary_unary("/bursar.v1.Jobs/List")
            token = site.token("ann", "viewer")
            await ask(b"", metadata=(("authorization", f"Bearer {token}"),))
            stranger = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", port))
            await asyncio.to_thread(_until_some_go, crowd, 1)
            await asyncio.to_thread(_until_shut, [stranger], 0)
            assert channel.get_state() is grpc.ChannelConnectivity.READY
            await ask(b"", metadata=(("authorization", f"Bearer {token}"),))
        stranger.close()

    with pytest.MonkeyPatch.context() as patch:
        _started_later(patch)
        play(story)


def _started_later(patch: pytest.MonkeyPatch) -> None:
    """A story that adds a port starts the server itself."""

    async def enter(site: Site) -> Site:
        site.channel = grpc.aio.insecure_channel(site.address)
        return site

    patch.setattr(Site, "__aenter__", enter)


def test_a_socket_without_descriptors_is_tried_again_and_told_of_in_few_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(State(), VirtualClock(5), local_role=None)
    monkeypatch.setattr("bursard.access.tokens.ACCEPT_AGAIN_S", 0)
    path = str(tmp_path / "s")

    async def story() -> tuple[bytes, int]:
        loop, failures = asyncio.get_running_loop(), 0
        accept = loop.sock_accept

        async def failing(listener: socket.socket) -> Any:
            nonlocal failures
            failures += 1
            if failures <= 100:
                raise OSError(errno.EMFILE, "Too many open files")
            return await accept(listener)

        monkeypatch.setattr(loop, "sock_accept", failing)
        server = Peers(authority, path)
        reader, writer = await asyncio.open_unix_connection(path)
        line = await reader.read()
        writer.close()
        server.close()
        return line, failures

    root, told = logging.getLogger("bursard.access.tokens"), Tracebacks(lambda: 0.0)
    root.addFilter(told)
    try:
        line, failures = asyncio.run(story())
    finally:
        root.removeFilter(told)
    assert b"token" in line
    assert failures > 100
    assert len([one for one in caplog.records if "could not be let in" in one.message]) == TRACEBACKS_MAX


def test_connections_that_cannot_be_looked_at_are_told_of_in_one_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock, looks = VirtualClock(5), [0]
    crowd = Crowd("/nowhere", 0, {kind: Room(1, 1) for kind in Kind}, Proven(), clock)

    def full(_: object) -> list[str]:
        looks[0] += 1
        if looks[0] == 5:
            clock.advance(TOLD_US)
        if looks[0] == 9:
            crowd.stop()
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("bursard.access.crowd.os.listdir", full)
    monkeypatch.setattr("bursard.access.crowd.LOOK_S", 0.0)
    monkeypatch.setattr("bursard.access.crowd.LOOK_S_MAX", 0.0)
    crowd._run()
    assert looks == [9]
    told = [one for one in caplog.records if "could not be looked at" in one.message]
    assert [(one.exc_info, one.__dict__["reason"]) for one in told] == [(None, "Too many open files")] * 2


def test_tracebacks_of_one_kind_are_few_in_ten_seconds_and_the_rest_is_counted() -> None:
    now, seen = [0.0], list[logging.LogRecord]()
    log = logging.Logger("x")
    handler = logging.Handler()
    handler.emit = seen.append  # type: ignore[method-assign]
    handler.addFilter(Tracebacks(lambda: now[0]))
    log.addHandler(handler)

    def fail(error: Exception) -> None:
        log.error("it failed", exc_info=error)

    for _ in range(1_000):
        fail(ValueError())
        log.error("a line")
    fail(KeyError())
    tracebacks = [one for one in seen if one.exc_info]
    assert len(tracebacks) == TRACEBACKS_MAX + 1
    assert len(seen) - len(tracebacks) == 1_000, "lines without a traceback all pass"
    now[0] = 10.0
    fail(ValueError())
    assert seen[-1].untold == 1_000 - TRACEBACKS_MAX  # type: ignore[attr-defined]


def test_what_is_compressed_is_refused_before_anybody_unpacks_it(caplog: pytest.LogCaptureFixture) -> None:
    """A megabyte of zeros is a kilobyte on its way."""

    def squeezed(address: str) -> list[str]:
        found = []
        options = [("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(address, options=options) as channel:
            ask: Any = channel.stream_stream("/bursar.v1.Jobs/Submit")
            for _ in range(3):
                try:
                    list(ask(iter([b"\0" * (2 * MESSAGE_BYTES_MAX)]), compression=grpc.Compression.Gzip))
                except grpc.RpcError as error:
                    found.append(error.code().name)  # type: ignore[attr-defined]
        return found

    async def story(site: Site) -> None:
        assert await asyncio.to_thread(squeezed, site.address) == ["UNIMPLEMENTED"] * 3

    play(story, options=SERVER_OPTIONS)
    assert not [one for one in caplog.records if one.exc_info]


def test_a_connection_that_says_nothing_is_cut_and_their_number_is_gRPCs_to_keep() -> None:
    options = dict(SERVER_OPTIONS)
    assert 1_000 <= int(options["grpc.server_handshake_timeout_ms"]) <= 10_000

    async def story(site: Site) -> None:
        path = site.address.removeprefix("unix:")
        flood = await asyncio.to_thread(_knock, path, 30)
        # The surplus at once, the rest when their time is over.
        await asyncio.to_thread(_until_shut, flood, 0)
        assert (await site.call("Jobs.List", token=site.token("root", "admin")))[0] == "OK"
        for one in flood:
            one.close()

    few = [("grpc.max_allowed_incoming_connections", 5), ("grpc.server_handshake_timeout_ms", 300)]
    play(story, options=few)
