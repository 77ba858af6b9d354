"""Waiting for the first word of a call: one timer, and everybody has equally long."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from bursard.services.firstword import FirstWords

PATIENCE_S = 10.0


class SteppedLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes when a test says so, and at once where it would wait."""

    now_s = 1000.0

    def time(self) -> float:
        return self.now_s


def run(test: Callable[[SteppedLoop], Coroutine[Any, Any, None]]) -> None:
    loop = SteppedLoop()
    try:
        loop.run_until_complete(test(loop))
    finally:
        loop.close()


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def pass_s(loop: SteppedLoop, seconds: float) -> None:
    loop.now_s += seconds
    await turns()


async def hearing(words: FirstWords, read: Callable[[], Awaitable[bytes]]) -> asyncio.Task[bytes]:
    begun = asyncio.ensure_future(words.hear(read, PATIENCE_S))
    await turns()
    return begun


def test_a_word_that_is_there_is_heard_and_leaves_nothing_behind() -> None:
    async def test(loop: SteppedLoop) -> None:
        words = FirstWords()

        async def read() -> bytes:
            return b"word"

        assert [await words.hear(read, PATIENCE_S) for _ in range(3)] == [b"word"] * 3
        assert not words._until
        assert len(loop._scheduled) == 1  # type: ignore[attr-defined]
        await pass_s(loop, PATIENCE_S)
        assert words._timer is None

    run(test)


def test_each_has_as_long_as_it_was_promised_and_no_longer() -> None:
    async def test(loop: SteppedLoop) -> None:
        words, never = FirstWords(), asyncio.Event()

        async def read() -> bytes:
            await never.wait()
            return b"late"

        first = await hearing(words, read)
        await pass_s(loop, 4)
        second = await hearing(words, read)
        await pass_s(loop, 5.9)
        assert (first.done(), second.done()) == (False, False)
        await pass_s(loop, 0.1)
        assert isinstance(first.exception(), TimeoutError)
        assert first.cancelling() == 0
        assert not second.done()
        await pass_s(loop, 3.9)
        assert not second.done()
        await pass_s(loop, 0.1)
        assert isinstance(second.exception(), TimeoutError)
        assert (words._until, words._late, words._timer) == ({}, set(), None)

    run(test)


def test_one_who_is_ended_by_others_is_ended_also_when_its_time_is_over() -> None:
    async def test(loop: SteppedLoop) -> None:
        words, never = FirstWords(), asyncio.Event()

        async def read() -> bytes:
            await never.wait()
            return b"late"

        early, late = await hearing(words, read), await hearing(words, read)
        early.cancel()
        await turns()
        assert early.cancelled()
        loop.now_s += PATIENCE_S
        words._look()
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        assert (late.cancelled(), late.cancelling()) == (True, 1)
        assert (words._until, words._late) == ({}, set())

    run(test)


def test_a_word_that_comes_before_the_end_stays_heard() -> None:
    async def test(loop: SteppedLoop) -> None:
        words, come = FirstWords(), asyncio.Event()

        async def read() -> bytes:
            await come.wait()
            return b"word"

        heard = await hearing(words, read)
        await pass_s(loop, PATIENCE_S - 0.1)
        come.set()
        await turns()
        await pass_s(loop, PATIENCE_S)
        assert heard.result() == b"word"

    run(test)
