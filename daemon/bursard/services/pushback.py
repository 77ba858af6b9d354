"""Push-back: a call that changes something waits for a short queue to the disk before it decides anything.

Why     what is decided is true in memory, and stays in the queue until it is on the disk. A disk that
        is behind must hold callers, not fill the memory with what they asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from bursard.engine import Engine


class _Service(Protocol):
    engine: Engine


S = TypeVar("S", bound=_Service)
R = TypeVar("R")
A = TypeVar("A")


def after_room(
    method: Callable[[S, R, Any], Coroutine[Any, Any, A]],
) -> Callable[[S, R, Any], Coroutine[Any, Any, A]]:
    """A unary method that waits for `Writer.room` first. Streams wait for each of their requests."""

    @functools.wraps(method)
    async def held(self: S, request: R, context: Any) -> A:
        await self.engine.writer.room()
        return await method(self, request, context)

    return held
