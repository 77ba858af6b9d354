"""What carries a program inside a job (`bursar.client.execution`) in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from bursar.client.execution import Execution, steady_us
from bursar.v1 import jobs_pb2 as pb

if TYPE_CHECKING:
    from bursar.results import Executed


class AsyncPump:
    """As `Pump`."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._changed = asyncio.Event()
        self._ended = False

    @property
    def over(self) -> bool:
        """Nothing more is to be taken."""
        return self._execution.over

    async def requests(self) -> AsyncIterator[pb.AttachRequest]:
        """What goes, until it is over."""
        while not self._ended:
            self._changed.clear()
            found = self._execution.requests(steady_us())
            for request in found:
                yield request
            if found:
                continue
            if self._execution.over:
                return
            try:
                await asyncio.wait_for(self._changed.wait(), self._execution.due_us(steady_us()) / 1e6)
            except TimeoutError:
                continue

    def take(self, answer: pb.AttachAnswer) -> None:
        """What came. Raises `BursarError`."""
        self._execution.take(answer, steady_us())
        self._changed.set()

    def result(self) -> Executed:
        """How it ended. Raises `ServerUnavailable` where that is not known."""
        return self._execution.result()

    def end(self) -> None:
        """Nobody waits for it any more."""
        self._ended = True
        self._changed.set()
