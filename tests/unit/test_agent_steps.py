"""The agent's door for processes of jobs: who is let in, how many, and what is asked for again."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bursar.steps import names
from bursar_agent import steps
from bursar_agent.link import connection
from bursar_agent.link.wire import Frame
from bursar_agent.steps import Steps
from bursar_agent.stimuli import Key

MEMBER = ("att_a", 1)


class FakeRunner:
    """Knows whose process this test is, and counts what it is asked for."""

    def __init__(self) -> None:
        self.member: Key | None = MEMBER
        self.asked: list[Key] = []

    def member_of(self, pid: int) -> Key | None:
        assert pid == os.getpid()
        return self.member

    def ask_for_steps(self, attempt_id: str, rank: int) -> None:
        self.asked.append((attempt_id, rank))


class Site:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runner: Any = FakeRunner()
        self.sent: list[Frame] = []
        self.steps = Steps(folder, self.runner, self.sent.append, lambda: 0, "")
        self.steps.open()
        self.channels: list[socket.socket] = []

    def close(self) -> None:
        self.steps.close()
        for channel in self.channels:
            channel.close()

    def connect(self) -> socket.socket:
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel.connect(str(self.folder / names.SOCKET))
        channel.setblocking(False)
        self.channels.append(channel)
        return channel

    async def hears(self, channel: socket.socket) -> bytes:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(channel, 1000), 120)

    def known(self) -> int:
        return len(self.steps._connections)


def play(folder: Path, story: Callable[[Site], Awaitable[None]]) -> None:
    async def whole() -> None:
        site = Site(folder)
        try:
            await story(site)
        finally:
            site.close()

    asyncio.run(whole())


def opening() -> Frame:
    return Frame(attempt_id=MEMBER[0], from_rank=0, to_rank=MEMBER[1], channel=7, kind="open")


def test_who_is_no_job_takes_few_places_from_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1. Of three strangers two are looked for, the third is hung up on at once.
    2. In the end all are; and then others of this account are looked for again.
    """
    monkeypatch.setattr(steps, "UNKNOWN_MAX", 2)
    monkeypatch.setattr(steps, "_IDENTITY_PAUSE_S", 0)

    async def story(site: Site) -> None:
        site.runner.member = None
        strangers = [site.connect() for _ in range(3)]
        site.steps._accept()
        assert (site.steps._unknown[os.getuid()], site.known()) == (2, 0)
        words = [await site.hears(one) for one in strangers]
        assert words[2] == b""
        assert {one[:1] for one in words[:2]} == {b"X"}
        assert site.steps._unknown[os.getuid()] == 0
        site.connect()
        site.steps._accept()
        assert site.steps._unknown[os.getuid()] == 1

    play(tmp_path, story)


def test_who_cannot_be_let_in_for_want_of_descriptors_is_tried_again_later_and_not_at_once_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Short:
        """A listener of a process that has no descriptor left."""

        tries = 0

        def __init__(self, listening: socket.socket) -> None:
            self._listening = listening

        def accept(self) -> tuple[socket.socket, Any]:
            Short.tries += 1
            if Short.tries == 1:
                raise OSError(errno.EMFILE, "Too many open files")
            return self._listening.accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._listening, name)

    async def story(site: Site) -> None:
        loop, later = asyncio.get_running_loop(), list[tuple[Any, ...]]()
        call_later = loop.call_later
        monkeypatch.setattr(loop, "call_later", lambda *asked: later.append(asked))
        listening: Any = Short(site.steps._socket)  # type: ignore[arg-type]
        site.steps._socket = listening
        site.connect()
        for _ in range(20):
            await asyncio.sleep(0)
        monkeypatch.setattr(loop, "call_later", call_later)
        assert (Short.tries, site.known()) == (1, 0)
        ((after_s, again, *named),) = later
        assert after_s == steps.ACCEPT_AGAIN_S
        again(*named)
        async with asyncio.timeout(60):
            while not site.known():  # noqa: ASYNC110  (nothing says so)
                await asyncio.sleep(0)

    play(tmp_path, story)


def test_a_process_of_a_job_is_known_at_once_or_as_soon_as_its_start_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "_IDENTITY_PAUSE_S", 0)

    async def story(site: Site) -> None:
        site.connect()
        site.steps._accept()
        assert site.known() == 1
        site.runner.member = None
        site.connect()
        site.steps._accept()
        site.runner.member = MEMBER
        await asyncio.gather(*site.steps._tasks)
        assert site.known() == 2

    play(tmp_path, story)


def test_one_job_cannot_take_all_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "MEMBER_CONNECTIONS_MAX", 2)

    async def story(site: Site) -> None:
        channels = [site.connect() for _ in range(3)]
        site.steps._accept()
        assert site.known() == 2
        assert (await site.hears(channels[2])).startswith(b"Xmore than 256 steps")
        site.runner.member = ("att_other", 0)
        channels.append(site.connect())
        site.steps._accept()
        assert site.known() == 3

    play(tmp_path, story)


def test_however_many_connect_the_agent_takes_so_many_in_a_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "ACCEPTED_MAX", 2)

    async def story(site: Site) -> None:
        channels = [site.connect() for _ in range(5)]
        site.steps._accept()
        assert (len(channels), site.known()) == (5, 2)

    play(tmp_path, story)


def test_a_step_that_is_asked_for_again_is_announced_again(tmp_path: Path) -> None:
    """Its server may have been about to end when it was told first."""

    async def story(site: Site) -> None:
        site.steps.take(opening())
        site.steps.take(opening())
        assert site.runner.asked == [MEMBER, MEMBER]
        server = site.connect()
        site.steps._accept()
        server.send(b"S")
        first = await site.hears(server)
        site.steps.take(opening())
        assert first[:1] == b"O"
        assert await site.hears(server) == first
        assert len(site.runner.asked) == 2

    play(tmp_path, story)


def test_pieces_of_steps_are_counted_however_small_and_lost_behind_too_many() -> None:
    nothing: Any = None
    link = connection.Link(nothing, nothing, nothing, nothing, nothing)
    link._open = link._welcomed = True
    link.send_step(opening())
    assert link.step_bytes == connection.STEP_BYTES_MIN
    most = connection.STEP_BYTES_MAX // connection.STEP_BYTES_MIN
    for _ in range(2 * most):
        link.send_step(opening())
    assert (len(link._queue), link.step_bytes) == (most, connection.STEP_BYTES_MAX)
