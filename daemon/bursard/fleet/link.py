"""One connected agent, as the daemon sees it: an outbox, and answers it still owes."""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec

from bursar.errors import ServerUnavailable
from bursar.model import DeviceShare


class Assign(msgspec.Struct, frozen=True, kw_only=True):
    """Start one member, once, in this boot only. `env` is complete."""

    attempt_id: str
    rank: int
    boot_id: str
    job_id: str
    time_limit_us: int
    grace_us: int
    checkpoint_signal: str
    command: tuple[str, ...]
    script: str
    setup: str
    workdir: str
    env: dict[str, str]
    devices: tuple[DeviceShare, ...]
    user: str
    memory_bytes: int
    log_cap_bytes: int


class Stop(msgspec.Struct, frozen=True):
    """End one member."""

    attempt_id: str
    rank: int
    cause: str
    grace_us: int


class Forget(msgspec.Struct, frozen=True):
    """The end of this member is in the ledger."""

    attempt_id: str
    rank: int


class UsageAck(msgspec.Struct, frozen=True):
    """Usage up to this spool sequence is in the ledger."""

    usage_seq: int


class MeterNow(msgspec.Struct, frozen=True):
    """Report usage at once."""


class LogAsk(msgspec.Struct, frozen=True):
    """Send a piece of a member's log."""

    request_id: int
    attempt_id: str
    rank: int
    offset: int
    limit_bytes: int
    tail_bytes: int


class LogAnswer(msgspec.Struct, frozen=True):
    """A piece of a log. `ended`: the member is gone and this was the rest."""

    data: bytes
    offset: int
    next_offset: int
    ended: bool
    dropped_bytes: int
    error: str = ""


Outgoing = Assign | Stop | Forget | UsageAck | MeterNow | LogAsk


LAZY_S = 0.05
"""How long the acknowledgement of an end may wait for company."""


class AgentLink:
    """The daemon's end of one agent's stream. Belongs to the event loop."""

    def __init__(self, node_id: str, name: str, boot_id: str) -> None:
        self.node_id = node_id
        self.name = name
        self.boot_id = boot_id
        self.closed = False
        self.last_seen_at = 0
        self.instance = ""
        self.version = ""
        self.tasks: set[asyncio.Task[None]] = set()
        self._outbox: deque[Outgoing] = deque()
        self._ready = asyncio.Event()
        self._lazy: asyncio.TimerHandle | None = None
        self._logs: dict[int, asyncio.Future[LogAnswer]] = {}
        self._next_log = 0
        self.metered: asyncio.Event = asyncio.Event()

    def send(self, message: Outgoing) -> None:
        """Queue a message; it leaves with everything queued before the writer's next turn.

        A `Forget` can wait: it leaves with the next message, or after `LAZY_S`, with its like.
        """
        if self.closed:
            return
        self._outbox.append(message)
        if not isinstance(message, Forget):
            self._ready.set()
        elif self._lazy is None:
            self._lazy = asyncio.get_running_loop().call_later(LAZY_S, self._ready.set)

    async def take(self) -> list[Outgoing]:
        """All that is queued, waiting for the first. Empty once the link is closed."""
        while not self._outbox and not self.closed:
            await self._ready.wait()
            self._ready.clear()
        self._ready.clear()
        messages = list(self._outbox)
        self._outbox.clear()
        if self._lazy is not None:
            self._lazy.cancel()
            self._lazy = None
        return messages

    def close(self) -> None:
        """The stream is gone: whoever waits for an answer is told."""
        self.closed = True
        self._ready.set()
        for future in self._logs.values():
            if not future.done():
                future.set_exception(ServerUnavailable(f"node {self.name} went out of contact"))
        self._logs.clear()
        self.metered.set()

    async def read_log(
        self, attempt_id: str, rank: int, offset: int, limit_bytes: int, tail_bytes: int
    ) -> LogAnswer:
        """Ask for a piece of a log and wait for it."""
        self._next_log += 1
        request_id = self._next_log
        future: asyncio.Future[LogAnswer] = asyncio.get_running_loop().create_future()
        self._logs[request_id] = future
        self.send(LogAsk(request_id, attempt_id, rank, offset, limit_bytes, tail_bytes))
        try:
            async with asyncio.timeout(10):
                return await future
        finally:
            self._logs.pop(request_id, None)

    def answer_log(self, request_id: int, answer: LogAnswer) -> None:
        """An answer came in; a late or unknown one is dropped."""
        future = self._logs.get(request_id)
        if future is not None and not future.done():
            future.set_result(answer)
