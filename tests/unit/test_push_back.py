"""A disk that is behind holds submissions back before they are decided: no queue grows without end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


def test_a_submission_waits_for_room_before_it_is_decided(at_a_desk: Callable[..., None]) -> None:
    async def story(desk: Any) -> None:
        gate, asked = asyncio.Event(), asyncio.Event()

        async def room() -> None:
            asked.set()
            await gate.wait()

        desk.engine.writer.room = room
        before = desk.state.version
        task = asyncio.create_task(desk.submit())
        await asyncio.wait({task, asyncio.create_task(asked.wait())}, return_when=asyncio.FIRST_COMPLETED)
        assert asked.is_set()
        assert desk.state.version == before
        gate.set()
        await task
        assert desk.state.version > before

    at_a_desk(story)
