"""One connected agent, as the daemon sees it: an outbox, and answers it still owes."""

from __future__ import annotations

import asyncio
from collections import Counter, deque

import msgspec

from bursar.clock import SECOND_US
from bursar.errors import InvalidRequest, ServerUnavailable
from bursard.fleet import door
from bursard.fleet.words import Assign, Forget, Limit, LogAnswer, LogRange, Probe, StepFrame, Stop


class UsageAck(msgspec.Struct, frozen=True):
    """Usage up to this spool sequence is in the ledger, whose log ends here."""

    usage_seq: int
    log_seq: int = 0
    log_hash: bytes = b""


class LogGrew(msgspec.Struct, frozen=True):
    """Remember where the log ends now: whoever is shown an older one by a daemon knows that it is."""


class MeterNow(msgspec.Struct, frozen=True):
    """Report usage at once."""


class LogAsk(msgspec.Struct, frozen=True):
    """Send a piece of a member's log."""

    request_id: int
    wanted: LogRange


Outgoing = Assign | Stop | Limit | Probe | Forget | UsageAck | LogGrew | MeterNow | LogAsk | StepFrame


LAZY_S = 0.05
LAZY_MAX = 64
"""How long the acknowledgement of an end may wait for company, and for how much: a message costs an agent
more than the order in it, and a job that goes alone should cost one, not two."""
LOG_ANSWER_S = 10
STEP_BYTES_MAX = 8 << 20
"""Pieces of steps that wait for one agent; what is more is dropped, for its ends send it again."""
WORDS_BURST = 20_000
"""So many words may come at once: a node that was out of contact tells thousands of ends."""
WORDS_PER_S = 500
"""And so many a second for ever. What is more waits unread at its sender: nothing is lost by that."""
HEAVY_WORDS = 64
"""A message that weighs this much takes its part of what all nodes together may say in such ones."""
HEAVY_BURST = 20_000
HEAVY_PER_S = 4_000
FLOOD_S = 30.0
"""A node that was made to wait so long, with no pause as long as that, for what no node has to say floods."""
FLOOD_FORGOTTEN_US = 60 * SECOND_US


class Allowance:
    """So many words at once, and so many a second for ever."""

    def __init__(self, burst: int, per_s: int) -> None:
        self._burst, self._per_s = burst, per_s
        self._left, self._counted_us = float(burst), 0

    def wait_s(self, now_us: int, words: int) -> float:
        """Take so many. How long to wait before going on: 0 for honest bursts."""
        if self._counted_us:
            earned = (now_us - self._counted_us) * self._per_s / SECOND_US
            self._left = min(self._left + earned, self._burst)
        self._counted_us = now_us
        self._left -= words
        return max(-self._left / self._per_s, 0.0)


class AgentLink:
    """The daemon's end of one agent's stream. Belongs to the event loop.

    Attributes:
        ahead: how many members its agent holds that wait for another's share.
        attaches: its agent takes streams from outside of jobs.
        takes_limits: its agent knows orders for another time limit.
        heard_boot_us: the newest reading of the node's boot clock that came over it.
        fenced: how often each member's order was refused for its epoch.
        log_seq: where it was told last, on a heartbeat, that the log ends.
        parked: why nothing that its agent holds is ours; empty: all of it is.
        token_sha256: of the secret it was admitted with; empty: the unix socket vouched for it.
    """

    def __init__(
        self, node_id: str, name: str, boot_id: str, *, instance: str = "", version: str = ""
    ) -> None:
        self.node_id = node_id
        self.name = name
        self.boot_id = boot_id
        self.instance = instance
        self.version = version
        self.closed = False
        self.joined = False
        self.last_seen_at = 0
        self.heard_boot_us = 0
        self.token_sha256 = self.parked = ""
        self.ahead = self.log_seq = 0
        self.takes_limits = False
        self.attaches = False
        self.fenced: Counter[tuple[str, int]] = Counter()
        self.tasks: set[asyncio.Task[None]] = set()
        self._outbox: deque[Outgoing] = deque()
        self._forgets: list[Forget] = []
        self._ready = asyncio.Event()
        self._lazy: asyncio.TimerHandle | None = None
        self._logs: dict[int, tuple[LogRange, asyncio.Future[LogAnswer]]] = {}
        self._next_log = 0
        self.metered: asyncio.Event = asyncio.Event()
        self._words = Allowance(WORDS_BURST, WORDS_PER_S)
        self._waited_s, self._waited_us = 0.0, 0
        self._step_bytes = 0

    def wait_s(self, now_us: int, words: int = 1) -> float:
        """How long its next message is left unread so that it says no more than it may: 0 for honest bursts.

        Args:
            now_us: the daemon's boot clock.
        """
        return self._words.wait_s(now_us, words)

    def floods(self, now_us: int, wait_s: float) -> bool:
        """It has to wait once more. Is that too often for any honest node?"""
        if now_us - self._waited_us > FLOOD_FORGOTTEN_US:
            self._waited_s = 0.0
        self._waited_us = now_us + int(wait_s * SECOND_US)
        self._waited_s += wait_s
        return self._waited_s >= FLOOD_S

    def send(self, message: Outgoing) -> None:
        """Queue a message; it leaves with everything queued before the writer's next turn.

        A `Forget` can wait: it leaves after `LAZY_S`, or once there are `LAZY_MAX`, with its like.
        """
        if self.closed:
            return
        if not isinstance(message, Forget):
            self._outbox.append(message)
            self._ready.set()
            return
        self._forgets.append(message)
        if len(self._forgets) >= LAZY_MAX:
            self._tell_forgets()
        elif self._lazy is None:
            self._lazy = asyncio.get_running_loop().call_later(LAZY_S, self._tell_forgets)

    def carry(self, frame: StepFrame) -> None:
        """Queue a piece of a step, unless too many wait."""
        if self._step_bytes < STEP_BYTES_MAX:
            self._step_bytes += len(frame.data) + 100
            self.send(frame)

    def _tell_forgets(self) -> None:
        if self._lazy is not None:
            self._lazy.cancel()
            self._lazy = None
        self._outbox += self._forgets
        self._forgets.clear()
        self._ready.set()

    async def take(self) -> list[Outgoing]:
        """All that is queued, waiting for the first. Empty once the link is closed."""
        while not self._outbox and not self.closed:
            await self._ready.wait()
            self._ready.clear()
        self._ready.clear()
        messages = list(self._outbox)
        self._outbox.clear()
        self._step_bytes = 0
        return messages

    def close(self) -> None:
        """The stream is gone: whoever waits for an answer is told."""
        self.closed = True
        self._ready.set()
        for _, future in self._logs.values():
            if not future.done():
                future.set_exception(ServerUnavailable(f"node {self.name} went out of contact"))
        self._logs.clear()
        self.metered.set()

    async def read_log(self, wanted: LogRange) -> LogAnswer:
        """Ask for a piece of a log and wait for it."""
        self._next_log += 1
        request_id = self._next_log
        future: asyncio.Future[LogAnswer] = asyncio.get_running_loop().create_future()
        self._logs[request_id] = (wanted, future)
        self.send(LogAsk(request_id, wanted))
        try:
            async with asyncio.timeout(LOG_ANSWER_S):
                return await future
        except TimeoutError:
            raise ServerUnavailable(f"node {self.name} did not answer within {LOG_ANSWER_S} s") from None
        finally:
            self._logs.pop(request_id, None)

    def owes_log(self, request_id: int) -> bool:
        """Somebody waits for this answer: it is no word of its agent's own, and costs it none."""
        return request_id in self._logs

    def answer_log(self, request_id: int, answer: LogAnswer) -> bool:
        """An answer came in; a late or unknown one is dropped. False: it is none to what was asked. That
        ends the one call that waits for it, and no stream: others rest on that.
        """
        wanted, future = self._logs.get(request_id, (None, None))
        if wanted is None or future is None or future.done():
            return True
        try:
            door.log_answer(wanted, answer)
        except InvalidRequest as error:
            future.set_exception(ServerUnavailable(f"node {self.name} gave no usable log: {error.message}"))
            return False
        future.set_result(answer)
        return True
