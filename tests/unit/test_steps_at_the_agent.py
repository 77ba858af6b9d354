"""Steps between nodes, at an agent and at its bridge: who is heard, what goes where, and what is lost."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bursar.errors import BursarError, NotFound
from bursar.steps import bridge, frames
from bursar.steps.bridge import OPEN_US, Bridge, NoAgent
from bursar.steps.flow import WINDOW_BYTES, Flow
from bursar_agent import steps as room
from bursar_agent.link.wire import Frame
from bursar_agent.steps import Steps, _Connection
from bursard.fleet.link import WORDS_BURST, WORDS_PER_S


class Bench:
    """One agent's side, whose processes are sockets."""

    def __init__(self) -> None:
        self.said: list[Frame] = []
        self.backlog = 0
        self.asked: list[tuple[str, int]] = []
        self.problem: Exception | None = None
        runner = SimpleNamespace(ask_for_steps=self._ask, member_of=lambda pid: ("att_1", 0))
        self.steps = Steps(Path("/none"), runner, self.said.append, lambda: self.backlog, "unix:///s")  # type: ignore[arg-type]
        self.ends: list[socket.socket] = []

    def _ask(self, attempt: str, rank: int) -> None:
        self.asked.append((attempt, rank))
        if self.problem is not None:
            raise self.problem

    def process(self, attempt: str = "att_1", rank: int = 0) -> tuple[_Connection, socket.socket]:
        """A process of a member, connected."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for each in (ours, theirs):
            each.setblocking(False)
        self.ends += [ours, theirs]
        connection = _Connection(ours, (attempt, rank))
        self.steps._connections[ours.fileno()] = connection
        asyncio.get_running_loop().add_reader(ours.fileno(), self.steps._read, ours.fileno())
        return connection, theirs

    def hello(self, connection: _Connection, kind: bytes = bridge.CONNECT, **changes: Any) -> None:
        words = {"attempt": connection.member[0], "to": 1, "channel": 7, "resume": False} | changes
        self.steps._hear(connection, kind, json.dumps(words).encode())

    def frames(self) -> list[tuple[str, int, int, int, str, bytes, bool]]:
        """What went to the daemon since."""
        said, self.said[:] = list(self.said), []
        return [(f.attempt_id, f.from_rank, f.to_rank, f.channel, f.kind, f.data, f.to_client) for f in said]


def read(channel: socket.socket) -> list[bytes]:
    """All that waits; an empty one is the end."""
    found = []
    while True:
        try:
            found.append(channel.recv(1 << 16))
        except OSError:
            return found
        if not found[-1]:
            return found


def frame(kind: str, data: bytes = b"", *, to_client: bool = False, **changes: Any) -> Frame:
    words = {"attempt_id": "att_1", "from_rank": 1, "to_rank": 0, "channel": 7} | changes
    return Frame(**words, kind=kind, data=data, to_client=to_client)


def play(story: Callable[[Bench], Awaitable[None]]) -> None:
    async def whole() -> None:
        bench = Bench()
        try:
            await story(bench)
        finally:
            bench.steps.close()
            for each in bench.ends:
                each.close()

    asyncio.run(whole())


def test_small_pieces_leave_room_for_what_else_their_node_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their processes wait, and lose nothing: a flood of them would keep heartbeats from the daemon."""
    assert room.FRAMES_PER_S < WORDS_PER_S
    assert room.FRAMES_BURST < WORDS_BURST
    now = [1_000.0]
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])

    async def story(bench: Bench) -> None:
        client, theirs = bench.process()
        bench.hello(client)
        fd = client.channel.fileno()
        bench.steps._pieces_left = 3.0
        for _ in range(3):
            theirs.send(bridge.DATA + b"x")
            bench.steps._read(fd)
        theirs.send(bridge.DATA + b"y")
        bench.steps._read(fd)
        assert [one[5] for one in bench.frames()] == [b"", b"x", b"x", b"x"]
        now[0] += 1 / room.FRAMES_PER_S
        bench.steps._read(fd)
        assert [one[5] for one in bench.frames()] == [b"y"]
        now[0] += 10_000
        assert (bench.steps._may_read(), bench.steps._pieces_left) == (True, room.FRAMES_BURST - 1)

    play(story)


def test_a_client_opens_its_step_and_its_words_go_on_with_it() -> None:
    async def story(bench: Bench) -> None:
        client, theirs = bench.process()
        bench.hello(client)
        assert bench.frames() == [("att_1", 0, 1, 7, "open", b"", False)]
        theirs.send(bridge.DATA + b"abc")
        bench.steps._read(client.channel.fileno())
        assert bench.frames() == [("att_1", 0, 1, 7, "data", b"abc", False)]
        bench.steps.take(frame("data", b"xyz", to_client=True))
        assert read(theirs) == [bridge.DATA + b"xyz"]
        bench.hello(client, resume=True)
        assert bench.frames() == [("att_1", 0, 1, 7, "resume", b"", False)]
        theirs.close()
        bench.steps._read(client.channel.fileno())
        assert bench.frames() == [("att_1", 0, 1, 7, "close", b"the other end has ended", False)]
        assert (bench.steps._connections, bench.steps._ends) == ({}, {})

    play(story)


def test_a_host_takes_what_came_while_it_was_made() -> None:
    async def story(bench: Bench) -> None:
        server, serving = bench.process()
        bench.steps._hear(server, bridge.SERVE, b"")
        bench.steps.take(frame("open"))
        told = {"attempt": "att_1", "from": 0, "to": 1, "channel": 7}
        assert read(serving) == [bridge.OPEN + json.dumps(told).encode()]
        bench.steps.take(frame("open"))  # the server may not have heard of it
        assert read(serving) == [bridge.OPEN + json.dumps(told).encode()]
        for number in range(room.OPENING_PACKETS_MAX + 1):
            bench.steps.take(frame("data", b"%d" % number))
        bench.steps.take(frame("resume"))
        host, theirs = bench.process()
        bench.hello(host, bridge.ACCEPT)
        assert read(theirs) == [bridge.DATA + b"%d" % number for number in range(room.OPENING_PACKETS_MAX)]
        assert (bench.frames(), bench.steps._opening) == ([], {})
        theirs.send(bridge.DATA + b"out")
        bench.steps._read(host.channel.fileno())
        assert bench.frames() == [("att_1", 0, 1, 7, "data", b"out", True)]
        bench.steps.take(frame("open"))
        assert bench.asked == []

    play(story)


def test_without_a_server_the_supervisor_is_asked_for_one_and_it_is_told_what_waits() -> None:
    async def story(bench: Bench) -> None:
        bench.steps.take(frame("open"))
        bench.steps.take(frame("open", to_rank=3))
        assert bench.asked == [("att_1", 0), ("att_1", 3)]
        server, serving = bench.process()
        bench.steps._hear(server, bridge.SERVE, b"")
        assert len(read(serving)) == 1
        bench.problem = BursarError("it has ended")
        bench.steps.take(frame("open", channel=8, to_rank=3))
        assert bench.frames() == [("att_1", 3, 1, 8, "close", b"it has ended", True)]
        assert len(bench.steps._opening) == 2

    play(story)


def test_a_step_for_a_member_whose_start_is_on_its_way_waits_for_it() -> None:
    """Its first member runs as soon as its own node has started it, whatever the other nodes have done."""
    gate = asyncio.Event()

    async def story(bench: Bench) -> None:
        def ask(attempt: str, rank: int) -> None:
            bench.asked.append((attempt, rank))
            if len(bench.asked) == 3:
                gate.set()
            else:
                raise NotFound("attempt att_1 rank 0 was not started on this machine")

        bench.steps._runner.ask_for_steps = ask  # type: ignore[method-assign]
        bench.steps.take(frame("open"))
        bench.steps.take(frame("open"))  # said again, it is asked for once
        assert (bench.asked, bench.frames()) == ([("att_1", 0)], [])
        await gate.wait()
        assert (len(bench.asked), bench.frames()) == (3, [])
        server, serving = bench.process()
        bench.steps._hear(server, bridge.SERVE, b"")
        assert len(read(serving)) == 1

    play(story)


def test_a_step_for_a_member_that_never_starts_is_answered_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(bench: Bench) -> None:
        now = [50.0]
        monkeypatch.setattr(room.time, "monotonic", lambda: now[0])
        bench.problem = NotFound("was not started")
        bench.steps.take(frame("open"))
        (opening,) = bench.steps._opening.values()
        now[0] += room.OPENING_S
        bench.steps._ask(("att_1", 0, 7, False), opening, frame("open"))
        assert bench.frames() == [("att_1", 0, 1, 7, "close", b"was not started", True)]
        assert bench.steps._opening == {}

    play(story)


def test_what_waits_for_a_member_to_start_ends_with_its_client_and_with_the_agent() -> None:
    async def story(bench: Bench) -> None:
        bench.problem = NotFound("was not started")
        bench.steps.take(frame("open"))
        (opening,) = bench.steps._opening.values()
        bench.steps.take(frame("close"))
        bench.steps._ask(("att_1", 0, 7, False), opening, frame("open"))
        assert (len(bench.asked), bench.frames()) == (1, [])
        bench.steps.take(frame("open", channel=8))
        (opening,) = bench.steps._opening.values()
        bench.steps.close()
        bench.steps._ask(("att_1", 0, 8, False), opening, frame("open", channel=8))
        assert (len(bench.asked), bench.frames()) == (2, [])

    play(story)


def test_a_server_that_hung_up_is_told_nothing_more_and_another_one_is_asked_for() -> None:
    async def story(bench: Bench) -> None:
        server, serving = bench.process()
        bench.steps._hear(server, bridge.SERVE, b"")
        bench.steps.take(frame("open"))
        assert (len(read(serving)), bench.asked) == (1, [])
        serving.close()
        bench.steps._read(server.channel.fileno())
        bench.steps.take(frame("open", channel=8))
        assert bench.asked == [("att_1", 0)]

    play(story)


def test_a_step_that_was_not_begun_in_time_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(bench: Bench) -> None:
        now_s = 50.0
        monkeypatch.setattr(room.time, "monotonic", lambda: now_s)
        bench.steps.take(frame("open"))
        now_s += room.OPENING_S
        bench.steps.take(frame("open", channel=8))
        assert [end[2] for end in bench.steps._opening] == [8]
        now_s += room.OPENING_S - 0.1
        bench.steps.take(frame("open", channel=9))
        assert [end[2] for end in bench.steps._opening] == [8, 9]

    play(story)


@pytest.mark.parametrize(("since_s", "answered"), [(room.GRACE_S, False), (room.GRACE_S + 0.1, True)])
def test_a_word_for_who_is_gone_is_answered_once_it_might_have_come_again(
    since_s: float, answered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(bench: Bench) -> None:
        monkeypatch.setattr(room.time, "monotonic", lambda: since_s)
        bench.steps.take(frame("data", b"x", to_client=True))
        closed = [("att_1", 0, 1, 7, "close", b"its process has ended", False)]
        assert bench.frames() == (closed if answered else [])
        bench.steps.take(frame("close", b"x"))
        assert bench.frames() == []

    play(story)


def test_an_end_that_lost_its_connection_alone_connects_again_and_its_peer_hears_of_no_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1. Its process lives: what the peer sends meanwhile is lost, and answered by nobody. 2. It goes on.
    3. Once its process is gone, or has not come again in time, the peer is told.
    """
    living = {7}
    monkeypatch.setattr(room, "_lives", lambda pid: pid in living)
    now = [1000.0]
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: now[0]))

    async def story(bench: Bench) -> None:
        over = ("att_1", 0, 1, 7, "close", b"the other end has ended", False)

        def again() -> _Connection:
            connection, _ = bench.process()
            connection.pid = 7
            bench.hello(connection, resume=True)
            assert [one[4] for one in bench.frames()] == ["resume"]
            return connection

        first = again()
        bench.steps._hang_up(first, tell=True)
        bench.steps.take(frame("data", b"xyz", to_client=True))
        assert bench.frames() == []
        second = again()
        bench.steps._look_after(first, ("att_1", 0, 7, True))
        assert bench.frames() == []
        second.pid = 0
        stranger, _ = bench.process()
        stranger.pid = 7
        bench.hello(stranger, resume=True)
        assert (bench.frames(), bench.steps._ends[("att_1", 0, 7, True)]) == ([], second)
        second.pid = 7
        unread, second = second, again()
        assert unread.channel.fileno() == -1
        bench.steps._hang_up(second, tell=True)
        living.clear()
        bench.steps._look_after(second, ("att_1", 0, 7, True))
        assert bench.frames() == [over]
        living.add(7)
        third = again()
        bench.steps._hang_up(third, tell=True)
        now[0] += room.GRACE_S
        bench.steps._look_after(third, ("att_1", 0, 7, True))
        assert bench.frames() == [over]

    play(story)


def test_a_close_ends_the_process_with_its_words() -> None:
    async def story(bench: Bench) -> None:
        for data, words in ((b"no more", b"no more"), (b"", b"lost")):
            client, theirs = bench.process()
            bench.hello(client)
            bench.frames()
            bench.steps.take(frame("close", data, to_client=True))
            assert read(theirs) == [bridge.CLOSE + words, b""]
            assert (bench.frames(), bench.steps._ends) == ([], {})
        bench.steps.take(frame("open"))
        bench.steps.take(frame("close"))
        assert bench.steps._opening == {}

    play(story)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attempt": "att_2"}, b"it is of attempt att_1, not att_2"),
        ({"channel": -1}, b"it is of attempt att_1, not att_1"),
        ({"channel": 1 << 63}, b"it is of attempt att_1, not att_1"),
        ({"to": -1}, b"it is of attempt att_1, not att_1"),
        ({"to": 1 << 16}, b"it is of attempt att_1, not att_1"),
    ],
)
def test_a_process_speaks_for_its_own_attempt_alone(changes: dict[str, Any], words: bytes) -> None:
    async def story(bench: Bench) -> None:
        client, theirs = bench.process()
        bench.hello(client, **changes)
        assert read(theirs) == [bridge.CLOSE + words, b""]
        assert (bench.frames(), bench.steps._ends) == ([], {})

    play(story)


def test_bounds_of_what_is_said_are_taken() -> None:
    async def story(bench: Bench) -> None:
        client, _ = bench.process()
        bench.hello(client, channel=(1 << 63) - 1, to=(1 << 16) - 1)
        assert bench.frames() == [("att_1", 0, (1 << 16) - 1, (1 << 63) - 1, "open", b"", False)]

    play(story)


def test_one_end_of_a_step_has_one_process_and_a_member_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "CHANNELS_MAX", 2)

    async def story(bench: Bench) -> None:
        first, theirs = bench.process()
        bench.hello(first)
        other, others = bench.process()
        bench.hello(other)
        assert read(others) == [bridge.CLOSE + b"another process has this end of the step", b""]
        second, _ = bench.process()
        bench.hello(second, channel=8)
        third, thirds = bench.process()
        bench.hello(third, channel=9)
        assert read(thirds) == [bridge.CLOSE + b"more than 2 steps between nodes at once", b""]
        stranger, _ = bench.process(rank=1)
        bench.hello(stranger)
        assert len(bench.steps._ends) == 3
        assert read(theirs) == []
        for channel in (7, 8, 9):
            bench.steps.take(frame("open", channel=channel, to_rank=5))
        assert bench.frames()[-1] == (
            "att_1",
            5,
            1,
            9,
            "close",
            b"more than 2 steps between nodes at once",
            True,
        )

    play(story)


@pytest.mark.parametrize(
    "message", [b"?", bridge.DATA + b"early", bridge.CONNECT + b"{", bridge.CONNECT + b"{}"]
)
def test_what_is_no_word_of_a_step_is_refused(message: bytes) -> None:
    async def story(bench: Bench) -> None:
        client, theirs = bench.process()
        theirs.send(message)
        bench.steps._read(client.channel.fileno())
        (said, end) = read(theirs)
        assert said.startswith(bridge.CLOSE + b"not understood: ")
        assert end == b""

    play(story)


def test_while_too_much_waits_for_the_daemon_no_process_is_read() -> None:
    async def story(bench: Bench) -> None:
        client, theirs = bench.process()
        bench.hello(client)
        bench.frames()
        theirs.send(bridge.DATA + b"abc")
        bench.backlog = room.BACKLOG_BYTES_MAX + 1
        later: list[Any] = []
        loop = asyncio.get_running_loop()
        fd = client.channel.fileno()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "call_later", lambda delay, work, *words: later.append((delay, work, words)))
            bench.steps._read(fd)
        assert bench.frames() == []
        assert [(delay, words) for delay, _, words in later] == [(0.02, (fd, client))]
        assert not loop.remove_reader(fd)
        bench.backlog = room.BACKLOG_BYTES_MAX
        later[0][1](*later[0][2])
        assert loop.remove_reader(fd)
        bench.steps._read(fd)
        assert [kind for *_, kind, _, _ in bench.frames()] == ["data"]

    play(story)


def test_a_process_of_no_job_is_hung_up_on_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await real(0)

    async def story(bench: Bench) -> None:
        monkeypatch.setattr(room.asyncio, "sleep", sleep)
        known = [None, None, ("att_1", 0)]
        bench.steps._runner.member_of = lambda pid: known.pop(0)  # type: ignore[method-assign]
        late, _ = pair(bench)
        await bench.steps._identify(late, os.getpid(), os.getuid())
        assert [each.member for each in bench.steps._connections.values()] == [("att_1", 0)]
        assert slept == [0.05] * 3
        slept.clear()
        bench.steps._runner.member_of = lambda pid: ("att_1", 0)  # type: ignore[method-assign]
        other, theirs = pair(bench)
        await bench.steps._identify(other, os.getpid(), os.getuid() + 1)
        assert slept == [0.05] * 20
        assert read(theirs) == [bridge.CLOSE + b"the agent knows of no job that this process is of", b""]
        assert len(bench.steps._connections) == 1
        assert room._owner(os.getpid()) == os.getuid()
        assert room._owner(2**22 + 1) == -1

    play(story)


def test_who_connects_without_end_gets_one_line_in_ten_seconds_into_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [100.0]
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(room, "_IDENTITY_TRIES", 0)

    async def story(bench: Bench) -> None:
        for at in [100.0] * 30 + [109.9, 110.0, 119.0]:
            now[0] = at
            channel, theirs = pair(bench)
            await bench.steps._identify(channel, 7, 1000)
            assert read(theirs)[0] == bridge.CLOSE + b"the agent knows of no job that this process is of"

    with caplog.at_level(logging.WARNING):
        play(story)
    said = [vars(record) for record in caplog.records if "not a process of a job" in record.getMessage()]
    assert [(one["times"], one["pid"], one["uid"]) for one in said] == [(1, 7, 1000), (31, 7, 1000)]


def pair(bench: Bench) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    bench.ends += [ours, theirs]
    for each in (ours, theirs):
        each.setblocking(False)
    return ours, theirs


# --- the bridge


class Far:
    """The agent at the other end of a bridge's connection."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now_us, self.now_s = 1_000_000, 100.0
        self.refuses = False
        self.sockets: list[socket.socket] = []
        self.own: socket.socket | None = None
        self.flow = Flow(0)
        patch.setattr(bridge, "connect", self._connect)
        patch.setattr(bridge, "_now_us", lambda: self.now_us)
        patch.setattr(bridge.time, "monotonic", lambda: self.now_s)
        self.stream, theirs = socket.socketpair()
        self.sockets += [self.stream, theirs]
        self.stream.setblocking(False)
        self.theirs = theirs

    def _connect(self, directory: str) -> socket.socket:
        if self.refuses:
            raise NoAgent(directory)
        ours, self.own = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sockets += [ours, self.own]
        for each in (ours, self.own):
            each.setblocking(False)
        return ours

    def bridge(self, opens: bool = True) -> Bridge:
        return Bridge("/d", self.theirs, {"attempt": "a", "channel": 3}, opens)

    def heard(self) -> list[bytes]:
        assert self.own is not None
        return read(self.own)

    def packets(self, data: bytes) -> None:
        """Say this over the way."""
        assert self.own is not None
        self.flow.put(data)
        for packet in self.flow.packets(self.now_us):
            self.own.send(bridge.DATA + packet)


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    made = Far(monkeypatch)
    yield made
    for each in made.sockets:
        each.close()


def turns(made: Bridge, count: int = 3) -> str | None:
    for _ in range(count):
        problem = made._turn()
        if problem is not None:
            return problem
    return None


def greeting(opens: bool, resume: bool = False) -> bytes:
    kind = bridge.CONNECT if opens else bridge.ACCEPT
    return kind + json.dumps({"attempt": "a", "channel": 3, "resume": resume}).encode()


@pytest.mark.parametrize("opens", [True, False])
def test_a_bridge_greets_its_agent_and_carries_both_ways(far: Far, opens: bool) -> None:
    made = far.bridge(opens)
    made._connect()
    far.stream.send(b"to the other")
    assert turns(made) is None
    said = far.heard()
    assert said[0] == greeting(opens)
    for message in said[1:]:
        assert message[:1] == bridge.DATA
        far.flow.take(message[1:], far.now_us)
    assert bytes(far.flow.inbox) == b"to the other"
    far.packets(b"from the other")
    assert turns(made) is None
    assert read(far.stream) == [b"from the other"]
    assert made._heard


def test_a_bridge_that_lost_its_agent_dials_ever_more_slowly_and_greets_it_again(far: Far) -> None:
    made = far.bridge()
    made._connect()
    turns(made, 1)
    far.packets(b"x")
    turns(made)
    assert far.own is not None
    far.own.close()
    turns(made, 2)
    assert made._agent is None
    assert made._retry_at == pytest.approx(far.now_s + 0.1)
    far.refuses = True
    waits = []
    for _ in range(7):
        made._connect()
        waits.append(made._retry_at - far.now_s)
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])
    far.refuses = False
    made._connect()
    turns(made, 1)
    assert far.heard()[0] == greeting(True, resume=True)
    assert made._retry_s == pytest.approx(0.1)


def test_a_step_that_nobody_answers_is_asked_for_again_and_then_given_up(far: Far) -> None:
    made = far.bridge()
    made._connect()
    turns(made, 1)
    assert [message for message in far.heard() if message[:1] == bridge.CONNECT] == [greeting(True)]
    far.now_us += 3_000_000
    turns(made, 1)
    assert [message for message in far.heard() if message[:1] == bridge.CONNECT] == []
    far.now_us += 1
    turns(made, 1)
    assert [message for message in far.heard() if message[:1] == bridge.CONNECT] == [greeting(True)]
    far.now_us = 1_000_000 + OPEN_US
    assert turns(made, 1) is None
    far.now_us += 1
    assert turns(made, 1) == (
        "no answer from its node, or from the daemon on the way to it; nothing was started there"
    )
    host = far.bridge(opens=False)
    host._connect()
    far.now_us += 2 * OPEN_US
    assert turns(host, 1) is None


@pytest.mark.parametrize(
    ("message", "why"),
    [(bridge.CLOSE + b"bye", "bye"), (bridge.CLOSE, "lost"), (bridge.DATA + b"x", "a packet that is none")],
)
def test_a_way_that_is_closed_or_broken_says_why(far: Far, message: bytes, why: str) -> None:
    made = far.bridge()
    made._connect()
    turns(made, 1)
    assert far.own is not None
    far.own.send(message)
    assert turns(made) == why


def test_a_client_that_is_gone_ends_its_bridge_and_a_host_first_says_all(far: Far) -> None:
    made = far.bridge(opens=True)
    made._connect()
    far.stream.close()
    assert turns(made) == ""


def test_a_host_that_has_ended_is_not_gone_before_all_it_said_has_arrived(far: Far) -> None:
    made = far.bridge(opens=False)
    far.stream.send(b"last words")
    made._connect()
    turns(made, 2)
    far.stream.close()
    assert turns(made) is None
    assert made._ending
    assert not made._flow.drained
    for message in far.heard()[1:]:
        far.flow.take(message[1:], far.now_us)
    assert bytes(far.flow.inbox) == b"last words"
    far.packets(b"")
    assert made.run() == ""


def test_a_stream_is_read_no_further_than_a_window(far: Far) -> None:
    made = far.bridge()
    sent = 0
    while True:
        try:
            sent += far.stream.send(bytes(1 << 16))
        except BlockingIOError:
            break
        made._turn()
        if sent > 4 * WINDOW_BYTES:
            break
    assert made._flow.room == 0
    assert not made._flow.drained


def test_the_last_words_reach_the_client_behind_what_came_before(far: Far) -> None:
    made = far.bridge()
    made._flow.inbox += b"before"
    made.tell_gone("no way")
    assert far.stream.recv(1_000) == b"before" + frames.encode(bridge.GONE, 0, b"no way")
    far.stream.close()
    made.tell_gone("nobody listens")


def test_an_agent_that_does_not_listen_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoAgent, match=f"the agent of this node does not listen at {tmp_path}: No such file"):
        bridge.connect(str(tmp_path))
