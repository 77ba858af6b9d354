"""The head of a stream's answer, which leaves by itself: what becomes of it when its caller leaves."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace
from typing import Any

from bursard.services.interceptors import Door


def test_a_caller_who_leaves_before_the_head_of_the_answer_is_no_fault_in_the_log() -> None:
    logged: list[dict[str, Any]] = []

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, told: logged.append(told))
        asked, left = asyncio.Event(), asyncio.Event()

        async def send_initial_metadata(metadata: tuple[()]) -> None:
            asked.set()
            await left.wait()
            raise RuntimeError("the call is over")

        door = Door.__new__(Door)
        door._clock = SimpleNamespace(boot_us=lambda: 7)  # type: ignore[assignment]
        session: Any = SimpleNamespace(opening=None, sending_since=0)
        context: Any = SimpleNamespace(send_initial_metadata=send_initial_metadata)
        sending = asyncio.ensure_future(door._send(context, b"a word", session))
        await asked.wait()
        assert session.sending_since == 7
        sending.cancel()
        await asyncio.wait([sending])
        left.set()
        await asyncio.wait([session.opening])
        del session
        gc.collect()
        await asyncio.sleep(0)

    asyncio.run(story())
    assert logged == []
