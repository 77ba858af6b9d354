"""The stream to the daemon: dialled by us, kept alive, dialled again.

Owns    connecting, backoff, the outgoing queue, and turning messages into events.
Input   messages to send; a callback that takes events. Both in the event loop.
Why     the daemon may be killed at any moment and the network may be silent: everything that matters
        is told again in the next Hello, so this may drop its whole queue and start afresh.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc

from bursar.clock import Clock
from bursar.errors import BursarError, Forbidden
from bursar.v1 import agents_pb2 as pb
from bursar.v1.agents_pb2_grpc import AgentsStub
from bursar_agent import stimuli as s
from bursar_agent.link import wire
from bursar_agent.link.identity import Door
from bursar_agent.link.wire import Frame
from bursar_agent.readiness import Probe
from bursar_agent.stimuli import Key

log = logging.getLogger(__name__)

BACKOFF_S_MIN, BACKOFF_S_MAX = 0.2, 15.0
WELCOME_TIMEOUT_S = 15.0
QUEUE_MAX = 50_000
"""More than this waiting means that nobody reads: the connection is dropped, the truth told afresh."""

TELEMETRY_QUEUE_MAX = 100
"""Live readings are not queued behind this many messages."""

START_DELAY_S = 0.05
"""A job that has ended before its start is told is told as ended alone."""

END_GATHER_S = 0.008
"""How long an end waits for others where much runs: a message costs more than an end, on both sides."""

LINE_GATHER_S = 0.08
"""How long one waits whose share went on to the next, as long as those behind it are short as well: a start
that is told (`START_DELAY_S`) takes the ends before it along."""

ENDS_MAX = 200
"""Ends of one message, which stays below a megabyte."""

STEP_BYTES_MIN = 16 << 10
"""Each piece of a step counts as so much: the daemon reads messages at a bounded rate, however small they
are, and what a job has said must not keep the heartbeats and ends of all others waiting."""
STEP_BYTES_MAX = 8 << 20

_SAME_PROBLEM_LOG_EVERY = 20
_EOF: Any = getattr(grpc.aio, "EOF")  # noqa: B009  not in grpc's stubs


class RefusedByDaemon(Forbidden):
    """The daemon will not have this agent: duplicate node name, or a protocol it does not speak."""

    exit_code = 2


class Link:
    """One agent's connection.

    Args:
        on_event: takes each event, in order; may call `send`.
        on_welcome: takes what the Welcome says to the shell, before the core hears of it.
        on_step: takes each piece of a step. on_probe: takes each order to look at a replica.
        on_log_end: takes the end of the daemon's log, as (sequence, hash), whenever it is told.
        uniform: a random number between two bounds, for jitter.
    """

    def __init__(
        self,
        door: Door,
        clock: Clock,
        on_event: Callable[[s.Event], None],
        on_welcome: Callable[[wire.Welcome], None],
        uniform: Callable[[float, float], float],
        on_log_end: Callable[[int, bytes], None] = lambda seq, digest: None,
        on_step: Callable[[Frame], None] = lambda frame: None,
        on_probe: Callable[[Probe], None] = lambda probe: None,
    ) -> None:
        self._door = door
        self._clock = clock
        self._on_event = on_event
        self._on_welcome = on_welcome
        self._uniform = uniform
        self._on_log_end = on_log_end
        self._on_step = on_step
        self._on_probe = on_probe
        self.step_bytes = 0
        """Of steps that wait to leave, each counted as `STEP_BYTES_MIN` at least."""
        self._queue: deque[pb.AgentMessage] = deque()
        self._starts: dict[Key, tuple[float, pb.AgentMessage]] = {}
        self._start_timer: asyncio.TimerHandle | None = None
        self._ends: list[pb.Exited] = []
        self._end_timer: asyncio.TimerHandle | None = None
        self._unanswered = False
        """The daemon has given no work since it was told of ends."""
        self._wake = asyncio.Event()
        self._open = False
        self._welcomed = False
        self._overflow = False
        self._problem = ""
        self._problem_count = 0
        self.telemetry_dropped = 0

    # --- out ------------------------------------------------------------------------------------

    def send(self, message: pb.AgentMessage) -> None:
        """Queue for the open stream; without one it is dropped, the next Hello tells the truth."""
        if not self._open:
            return
        self._queue.append(message)
        if len(self._queue) > QUEUE_MAX:
            self._overflow = True
        self._wake.set()

    def send_step(self, frame: Frame) -> None:
        """A piece of a step; without a daemon, or behind too many, it is lost, and its end sends it again."""
        if self._welcomed and self.step_bytes < STEP_BYTES_MAX:
            self.step_bytes += _step_bytes(len(frame.data))
            self.send(wire.step(frame))

    def send_limit_taken(self, instruction: s.SendLimitTaken) -> None:
        """Tell what became of an order for another time limit; with the connection it is asked again."""
        self.send(wire.limit_taken(instruction))

    def send_condition(self, instruction: s.SendCondition) -> None:
        """Tell what keeps members from being started here, after the ends that were before."""
        self.flush_ends()
        self.send(wire.condition(instruction))

    def send_started(self, instruction: s.SendStarted) -> None:
        """Report a start, a moment later: an Exited that comes meanwhile says all of it.

        A message costs more than anything else here does for a job, on both sides.
        """
        if not self._open:
            return
        loop = asyncio.get_running_loop()
        if self._start_timer is None:
            self._start_timer = loop.call_later(START_DELAY_S, self._send_due_starts)
        key = (instruction.attempt_id, instruction.rank)
        self._starts[key] = (loop.time() + START_DELAY_S, wire.started(instruction))

    def flush_starts(self) -> None:
        """Report every start at once: something that builds on them is about to be told. Ends go first: what
        started may have the share of what ended.
        """
        self.flush_ends()
        for _, message in self._starts.values():
            self.send(message)
        self._starts.clear()

    def _send_due_starts(self) -> None:
        loop = asyncio.get_running_loop()
        while self._starts:
            key = next(iter(self._starts))
            due, message = self._starts[key]
            if due > loop.time():
                self._start_timer = loop.call_at(due, self._send_due_starts)
                return
            del self._starts[key]
            self.flush_ends()
            self.send(message)
        self._start_timer = None

    def send_exited(self, instruction: s.SendExited, *, gather: bool = False) -> None:
        """Report an end, with all others of this turn of the loop; `gather`: wait a moment for more. One
        whose share went on waits longer, while more of the line is left than there are ends to tell, or more
        work may be on its way: telling of the shrinking rest in ever smaller messages would not hasten it.
        """
        if not self._open:
            return
        self._starts.pop((instruction.attempt_id, instruction.rank), None)
        self._ends.append(wire.exited(instruction))
        if len(self._ends) >= ENDS_MAX:
            self.flush_ends()
        elif instruction.line and (self._unanswered or len(self._ends) < instruction.line):
            self._flush_within(LINE_GATHER_S)
        else:
            self._flush_within(END_GATHER_S if gather else 0.0)

    def _flush_within(self, wait_s: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + wait_s
        if self._end_timer is not None:
            if self._end_timer.when() <= due:
                return
            self._end_timer.cancel()
        self._end_timer = loop.call_at(due, self.flush_ends)

    def flush_ends(self) -> None:
        """Report the ends that were gathered."""
        if self._end_timer is not None:
            self._end_timer.cancel()
            self._end_timer = None
        ends, self._ends = self._ends, []
        if ends:
            self.send(wire.exits(ends))
            self._unanswered = True

    def send_telemetry(self, message: pb.AgentMessage) -> None:
        """Lossy: not behind a long queue, not before the Welcome."""
        if not self._welcomed or len(self._queue) > TELEMETRY_QUEUE_MAX:
            self.telemetry_dropped += 1
            return
        self.send(message)

    # --- life -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect and connect again, until cancelled. Raises `RefusedByDaemon`, `InvalidRequest`."""
        backoff_s = BACKOFF_S_MIN
        while True:
            try:
                await self._once()
                problem = "the daemon closed the stream"
            except grpc.aio.AioRpcError as error:
                _refused(error.code(), error.details())
                problem = f"{error.code().name}: {error.details()}"
            except (ConnectionError, TimeoutError) as error:
                problem = str(error) or type(error).__name__
            except BursarError as error:
                if not error.transient:
                    raise
                problem = error.message
            finally:
                welcomed = self._closed()
            if welcomed:
                backoff_s = BACKOFF_S_MIN
            self._tell(problem, welcomed)
            await asyncio.sleep(self._uniform(BACKOFF_S_MIN, backoff_s))
            backoff_s = min(backoff_s * 2, BACKOFF_S_MAX)

    async def _once(self) -> None:
        """One connection, from the token to its end."""
        metadata = await self._door.metadata()
        channel = self._door.channel()
        try:
            connect: Any = AgentsStub(channel).Connect  # grpc's stubs do not know its aio side
            call = connect(metadata=metadata)
            self._open = True
            self._on_event(s.Connected(self._clock.boot_us()))
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(self._write(call), name="link-write")
                try:
                    await self._read(call)
                finally:
                    writer.cancel()
        except BaseExceptionGroup as problems:
            raise problems.exceptions[0] from None
        finally:
            self._open = False
            await channel.close(None)

    async def _read(self, call: Any) -> None:
        async with asyncio.timeout(WELCOME_TIMEOUT_S) as deadline:
            while True:
                message = await call.read()
                if message is _EOF:
                    break
                self._take(message)
                if self._welcomed and deadline.when() is not None:
                    deadline.reschedule(None)
        code = await call.code()
        if code is not grpc.StatusCode.OK:
            _refused(code, await call.details())
            raise ConnectionError(f"{code.name}: {await call.details()}")

    def _take(self, message: pb.DaemonMessage) -> None:
        if message.WhichOneof("body") == "step":
            self._on_step(wire.step_frame(message.step))
            return
        if message.WhichOneof("body") == "probe":
            self._on_probe(wire.probe(message.probe))
            return
        event = wire.event(message, self._clock.boot_us())
        if event is None:
            return
        if isinstance(event, wire.Refusal):
            raise RefusedByDaemon(f"{event.message} ({event.reason})")
        if isinstance(event, s.Assigned):
            self._unanswered = False
        if isinstance(event, s.Welcomed):
            self._welcomed = True
            self._problem, self._problem_count = "", 0
            self._on_welcome(wire.welcome(message))
        end = wire.log_end(message)
        if end is not None:
            self._on_log_end(*end)
        for one in event if isinstance(event, tuple) else (event,):
            self._on_event(one)

    async def _write(self, call: Any) -> None:
        queue = self._queue
        while True:
            while queue:
                if self._overflow:
                    raise ConnectionError("the daemon does not read; dropping the connection")
                message = queue.popleft()
                if message.WhichOneof("body") == "step":
                    self.step_bytes -= _step_bytes(len(message.step.data))
                try:
                    await call.write(message)
                except asyncio.InvalidStateError:
                    return  # the stream ended; the reader knows why
            self._wake.clear()
            await self._wake.wait()

    def _closed(self) -> bool:
        """Forget the connection; was it a working one?"""
        welcomed, self._welcomed = self._welcomed, False
        self._queue.clear()
        self.step_bytes = 0
        self._starts.clear()
        self._ends.clear()
        self.flush_ends()
        self._unanswered = False
        self._overflow = False
        self._on_event(s.Disconnected())
        return welcomed

    def _tell(self, problem: str, was_connected: bool) -> None:
        """One line when something changed, then only now and then."""
        self._problem_count += 1
        if was_connected:
            log.warning("lost the daemon", extra={"problem": problem})
        elif problem != self._problem or self._problem_count % _SAME_PROBLEM_LOG_EVERY == 0:
            log.warning("no daemon yet", extra={"problem": problem, "attempts": self._problem_count})
        self._problem = problem


def _step_bytes(size: int) -> int:
    return max(size, STEP_BYTES_MIN)


def _refused(code: grpc.StatusCode, details: str | None) -> None:
    """Who may not connect as an agent is told so by the door; trying again cannot help."""
    if code is grpc.StatusCode.PERMISSION_DENIED:
        raise RefusedByDaemon(f"{details} (Forbidden)")
