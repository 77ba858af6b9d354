"""Ports of a running job: many connections over one stream, bounded, held back where nobody reads."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bursar.cli.main import run
from bursar.cli.portforward import Forward, Ports, listen, read_ports
from bursar.errors import BursarError, InvalidRequest, ServerUnavailable
from bursar.steps import forward, frames
from bursar.steps.far import Far
from bursar.steps.forward import (
    CLOSED,
    CONNECT,
    CONNECTIONS_MAX,
    DATA,
    END,
    KNOWN,
    KNOWS,
    TAKEN,
    WINDOW_BYTES,
    Forwarder,
)


class Listener(socket.socket):
    """A port of this machine. What it accepts is closed with it."""

    kept: contextlib.ExitStack

    def __init__(self) -> None:
        super().__init__()
        self.bind(("127.0.0.1", 0))
        self.listen()
        self.settimeout(20)

    def next(self) -> socket.socket:
        return self.kept.enter_context(self.accept()[0])


class There:
    """The node's end in a thread, and the caller's end of its stream."""

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(20)
        self.forwarder = Forwarder(theirs)
        self.thread = threading.Thread(target=self.forwarder.run)
        self.thread.start()
        self.reader = frames.Reader()
        self.came: list[tuple[int, int, bytes]] = []

    def say(self, kind: int, number: int, data: bytes = b"") -> None:
        self.channel.sendall(frames.encode(kind, number, data))

    def hear(self, kind: int, number: int) -> bytes:
        """The next frame of this kind about this connection."""
        while True:
            for one in self.came:
                if one[:2] == (kind, number):
                    self.came.remove(one)
                    return one[2]
            data = self.channel.recv(1 << 16)
            assert data, "the forwarder is gone"
            self.came += self.reader.feed(data)

    def end(self) -> None:
        self.channel.close()
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture
def there() -> Iterator[There]:
    made = There()
    yield made
    made.end()


@pytest.fixture
def listener() -> Iterator[Listener]:
    with contextlib.ExitStack() as kept:
        made = kept.enter_context(Listener())
        made.kept = kept
        yield made


def port_of(listener: Listener) -> bytes:
    return str(listener.getsockname()[1]).encode()


def test_what_is_said_reaches_the_port_and_its_answer_the_caller(there: There, listener: Listener) -> None:
    there.say(CONNECT, 7, port_of(listener))
    there.say(DATA, 7, b"hello")
    ours = listener.next()
    assert ours.recv(100) == b"hello"
    assert there.hear(TAKEN, 7) == b"5"
    ours.sendall(b"answer")
    assert there.hear(DATA, 7) == b"answer"
    ours.close()
    assert there.hear(CLOSED, 7) == b""


def test_a_port_that_nobody_listens_at_is_said_to_be_one(there: There) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        there.say(CONNECT, 1, str(free.getsockname()[1]).encode())
        assert there.hear(CLOSED, 1) == b"Connection refused"


def test_one_that_nobody_reads_is_held_back_and_keeps_nothing_from_the_others(
    there: There, listener: Listener
) -> None:
    there.say(CONNECT, 1, port_of(listener))
    flood = listener.next()
    there.say(CONNECT, 2, port_of(listener))
    quiet = listener.next()
    flood.sendall(bytes(WINDOW_BYTES + 4096))
    got = 0
    while got < WINDOW_BYTES:
        got += len(there.hear(DATA, 1))
    quiet.sendall(b"still")
    assert there.hear(DATA, 2) == b"still"
    assert got == WINDOW_BYTES
    assert not [one for one in there.came if one[:2] == (DATA, 1)]
    there.say(TAKEN, 1, b"1000")
    assert len(there.hear(DATA, 1)) == 1000


def test_only_so_many_are_open_at_once(there: There, listener: Listener) -> None:
    listener.listen(CONNECTIONS_MAX + 1)
    for number in range(CONNECTIONS_MAX):
        there.say(CONNECT, number, port_of(listener))
    there.say(CONNECT, 900, port_of(listener))
    assert there.hear(CLOSED, 900) == b"too many connections at once"


def test_what_was_said_before_the_end_still_arrives(there: There, listener: Listener) -> None:
    there.say(CONNECT, 1, port_of(listener))
    there.say(DATA, 1, b"last words")
    there.say(CLOSED, 1)
    ours = listener.next()
    assert ours.recv(100) == b"last words"
    assert ours.recv(100) == b""


def test_with_the_caller_all_connections_end(listener: Listener) -> None:
    there = There()
    there.say(CONNECT, 1, port_of(listener))
    ours = listener.next()
    there.end()
    assert ours.recv(100) == b""


@pytest.mark.parametrize(
    "said",
    [(CONNECT, 1, b"0"), (CONNECT, 1, b"65536"), (CONNECT, 1, b"http"), (200, 1, b""), (TAKEN, 1, b"999999")],
)
def test_a_caller_that_says_what_means_nothing_is_left(
    said: tuple[int, int, bytes], listener: Listener
) -> None:
    there = There()
    if said[0] != CONNECT:
        there.say(CONNECT, 1, port_of(listener))
    there.say(*said)
    there.thread.join(20)
    assert not there.thread.is_alive()
    there.channel.close()


# --- the caller's end


class Stream:
    """What `Attached` is, with a forwarder of this process behind it: no daemon is between."""

    def __init__(self) -> None:
        self.there = There()
        self.fd = self.there.channel.fileno()
        self.opened: Any = type("Opened", (), {"number": 9, "node": "n1"})()
        self.closed: str | None = None
        self.lost = ""
        self.far = self
        self.full = False
        self.there.channel.setblocking(False)

    def say(self, kind: int, number: int = 0, data: bytes = b"") -> None:
        self.there.channel.setblocking(True)
        self.there.say(kind, number, data)
        self.there.channel.setblocking(False)

    def flush(self) -> int:
        return 100

    def frames(self) -> Iterator[tuple[int, int, bytes]]:
        try:
            data = self.there.channel.recv(1 << 16)
        except BlockingIOError:
            return
        yield from self.there.reader.feed(data)


def test_a_port_here_leads_to_the_one_there_with_a_megabyte_each_way(listener: Listener) -> None:
    stream = Stream()
    here = listen([Ports(0, listener.getsockname()[1])])
    port = next(iter(here)).getsockname()[1]
    ended: list[str] = []

    def loop() -> None:
        try:
            Forward(stream, here).run()  # type: ignore[arg-type]
        except ServerUnavailable as gone:
            ended.append(gone.message)

    def serve() -> None:
        ours = listener.next()
        left = 1 << 20
        while left:
            left -= len(ours.recv(1 << 16))
        ours.sendall(bytes(1 << 20))
        ours.close()

    threads = [threading.Thread(target=each) for each in (loop, serve)]
    for each in threads:
        each.start()
    with socket.create_connection(("127.0.0.1", port)) as caller:
        caller.settimeout(20)
        caller.sendall(bytes(1 << 20))
        got = 0
        while data := caller.recv(1 << 16):
            got += len(data)
    assert got == 1 << 20
    stream.closed = "the job's attempt has ended (completed)"
    for each in threads:
        each.join(20)
    assert ended == ["the job's attempt has ended (completed); its ports are closed here"]
    stream.there.end()
    for sock in here:
        sock.close()


def test_a_connection_that_cannot_be_taken_is_tried_again_later_and_not_at_once_for_ever(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now_s, tries = [100.0], list[float]()

    class Short:
        """A listener of a process that has no descriptor left until a second later."""

        def accept(self) -> tuple[socket.socket, Any]:
            tries.append(now_s[0])
            if now_s[0] < 101:
                raise OSError(errno.EMFILE, "Too many open files")
            made, other = socket.socketpair()
            other.close()
            return made, ""

    monkeypatch.setattr("bursar.cli.portforward.time.monotonic", lambda: now_s[0])
    stream = Stream()
    here = listen([Ports(0, 9)])
    made = Forward(stream, here)  # type: ignore[arg-type]
    (fd,) = made._listening
    with socket.create_connection(("127.0.0.1", next(iter(here)).getsockname()[1])):
        made._listening[fd] = Short(), 9  # type: ignore[assignment]
        made._told = True
        for ms in (0, 100, 199, 210, 400, 420, 600, 800, 1010):
            now_s[0] = 100 + ms / 1000
            made._turn()
    assert tries == [100, 100.21, 100.42, 100.8, 101.01]
    assert capsys.readouterr().err.count("no connection can be taken now") == 1
    for number in list(made._all.open):
        made._all.close(number)
    stream.there.end()
    for sock in here:
        sock.close()


@pytest.mark.parametrize(
    ("text", "pair"), [("8888", (8888, 8888)), ("9000:8888", (9000, 8888)), (":8888", (0, 8888))]
)
def test_ports_are_written_as_elsewhere(text: str, pair: tuple[int, int]) -> None:
    assert read_ports(text) == pair


@pytest.mark.parametrize("text", ["", ":", "x", "8888:", "0", "70000", "70000:80", "1:2:3", "-1"])
def test_what_is_no_pair_of_ports_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="no pair of ports"):
        read_ports(text)


def test_a_port_that_is_taken_here_is_said_with_what_helps(listener: Listener) -> None:
    taken = listener.getsockname()[1]
    with pytest.raises(BursarError, match=f"port {taken} here: Address already in use; name another"):
        listen([Ports(taken, 80)])


def test_more_ports_than_one_call_carries_are_refused_before_anybody_is_asked(
    capsys: pytest.CaptureFixture[str], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURSAR_SERVER", f"unix://{tmp_path}/none")
    assert run(["port-forward", "9", *(f":{port}" for port in range(1, 18))]) == 2
    assert "17 ports; at most 16 at once" in capsys.readouterr().err


def test_frames_of_connections_are_no_frames_of_programs() -> None:
    theirs = {frames.SPEC, frames.STDIN, frames.OUT, frames.ERR, frames.EXIT, frames.CREDIT, frames.DONE}
    assert not theirs & {CONNECT, DATA, TAKEN, CLOSED}
    assert forward.HOST == "127.0.0.1"
    assert Far(0).full is False


def test_one_side_may_end_and_hear_the_other_to_its_end(there: There, listener: Listener) -> None:
    assert there.hear(KNOWS, 0) == KNOWN
    there.say(KNOWS, 0, KNOWN)
    there.say(CONNECT, 7, port_of(listener))
    there.say(DATA, 7, b"all that I have")
    there.say(END, 7)
    ours = listener.next()
    asked = b""
    while data := ours.recv(1 << 16):
        asked += data
    assert asked == b"all that I have"
    ours.sendall(b"then this is my answer")
    assert there.hear(DATA, 7) == b"then this is my answer"
    ours.close()
    assert there.hear(END, 7) == b""
    assert there.hear(CLOSED, 7) == b""


def test_the_node_may_end_first_and_still_be_told(there: There, listener: Listener) -> None:
    there.say(KNOWS, 0, KNOWN)
    there.say(CONNECT, 7, port_of(listener))
    ours = listener.next()
    ours.sendall(b"a page")
    ours.shutdown(socket.SHUT_WR)
    assert there.hear(DATA, 7) == b"a page"
    assert there.hear(END, 7) == b""
    there.say(DATA, 7, b"thanks")
    there.say(END, 7)
    said = b""
    while data := ours.recv(1 << 16):
        said += data
    assert said == b"thanks"


def test_who_does_not_know_of_halves_has_both_ended(there: There, listener: Listener) -> None:
    there.say(CONNECT, 7, port_of(listener))
    ours = listener.next()
    ours.shutdown(socket.SHUT_WR)
    assert there.hear(CLOSED, 7) == b""
    assert ours.recv(1) == b""
