"""Pages are told that something has changed: by one question for all, so often at most, while logged in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from browser import Browser, play
from starlette.requests import Request
from whole_site import Site

from bursar.errors import RateLimited, ServerUnavailable
from bursar_web import live
from bursar_web.live import Pulse


class Turns:
    """Time that passes when a test says so: whoever waits, waits for the next turn."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self._next = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        await self._next.wait()

    async def turn(self) -> None:
        self._next.set()
        self._next = asyncio.Event()
        for _ in range(10):
            await asyncio.sleep(0)


class Log:
    """A client that says how far the log is, and counts how often it was asked."""

    def __init__(self) -> None:
        self.seq, self.asked, self.fault = 7, 0, False

    async def server(self) -> Any:
        self.asked += 1
        if self.fault:
            raise ServerUnavailable("gone")
        return SimpleNamespace(last_seq=self.seq)


def asking(session: Any, last: str = "") -> Request:
    headers = [(b"last-event-id", last.encode())] if last else []
    return Request({"type": "http", "headers": headers, "session": session})


async def opened(pulse: Pulse, session: Any, last: str = "") -> AsyncIterator[str]:
    answer: Any = await pulse.answer(asking(session, last))
    stream: AsyncIterator[str] = answer.body_iterator
    assert await anext(stream) == "retry: 3000\n\n"
    return stream


def test_many_pages_live_by_one_question_and_each_is_told_once_of_a_change() -> None:
    async def main() -> None:
        log, turns = Log(), Turns()
        session = SimpleNamespace(client=log)
        pulse = Pulse(turns.wait)
        streams = [await opened(pulse, session) for _ in range(6)]
        waiting = [asyncio.create_task(anext(one)) for one in streams]
        await turns.turn()
        asked = log.asked
        await turns.turn()
        assert log.asked == asked + 1
        assert not any(one.done() for one in waiting)
        log.seq = 9
        await turns.turn()
        told = {await one for one in waiting}
        assert told == {"id: 9\nevent: change\ndata: 9\n\n"}
        # The next word comes the later the more pages there are: three of them in a second.
        waiting = [asyncio.create_task(anext(one)) for one in streams]
        await asyncio.sleep(0)
        assert turns.waits[-6:] == [2.0] * 6
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert pulse.streams == 0
        await turns.turn()
        asked = log.asked
        await turns.turn()
        assert log.asked == asked
        await pulse.close()

    asyncio.run(main())


def test_a_page_that_comes_back_is_told_of_what_it_missed() -> None:
    async def main() -> None:
        log, turns = Log(), Turns()
        pulse = Pulse(turns.wait)
        stream = await opened(pulse, SimpleNamespace(client=log), last="5")
        assert await anext(stream) == "id: 7\nevent: change\ndata: 7\n\n"
        same = await opened(pulse, SimpleNamespace(client=log), last="7")
        waiting = asyncio.create_task(anext(same))
        await turns.turn()
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await stream.aclose()  # type: ignore[attr-defined]
        await pulse.close()

    asyncio.run(main())


def test_streams_are_bounded_in_all_and_for_each_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        turns = Turns()
        pulse = Pulse(turns.wait)
        one = SimpleNamespace(client=Log())
        kept = [await opened(pulse, one) for _ in range(live.EACH_MAX)]
        with pytest.raises(RateLimited, match="asks every ten seconds"):
            await pulse.answer(asking(one))
        other = await opened(pulse, SimpleNamespace(client=Log()))
        monkeypatch.setattr(live, "STREAMS_MAX", pulse.streams)
        with pytest.raises(RateLimited):
            await pulse.answer(asking(SimpleNamespace(client=Log())))
        for stream in (*kept, other):
            await stream.aclose()  # type: ignore[attr-defined]
        assert pulse.streams == 0
        monkeypatch.setattr(live, "LIFE_S", 0.0)
        assert [word async for word in await opened(pulse, one)] == []
        await pulse.close()

    asyncio.run(main())


def test_a_session_that_is_over_stops_nobody_else() -> None:
    async def main() -> None:
        good, gone, turns = Log(), Log(), Turns()
        gone.fault = True
        pulse = Pulse(turns.wait)
        stream = await opened(pulse, SimpleNamespace(client=good), last="1")
        late = await opened(pulse, SimpleNamespace(client=gone), last="1")
        assert await anext(stream) == await anext(late) == "id: 7\nevent: change\ndata: 7\n\n"
        assert gone.asked
        for one in (stream, late):
            await one.aclose()  # type: ignore[attr-defined]
        await pulse.close()

    asyncio.run(main())


def test_who_is_not_logged_in_has_no_stream() -> None:
    async def story(site: Site, browser: Browser) -> None:
        answer = await browser.get("/live")
        assert (answer.status, answer.headers["location"]) == (303, "/login?next=%2Flive")
        assert browser.app.state.pulse.streams == 0

    play(story)
