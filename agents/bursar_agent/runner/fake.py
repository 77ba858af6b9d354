"""A runner without processes: the same promises on a virtual clock, for the simulator and tests.

Owns    members in memory, how long each would run, how it answers a stop. Input: calls, the clock.
Why     a simulated day takes seconds, and a test can say "this job ignores TERM" without a process.
        Ships in the package because `bursard --demo` and the simulator use it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from bursar.clock import VirtualClock
from bursar.errors import InvalidRequest, NotFound, WrongState
from bursar_agent.runner.layout import member_name
from bursar_agent.runner.logtimes import Marks
from bursar_agent.runner.model import (
    AttemptTruth,
    Ended,
    ExitReport,
    RunnerEvent,
    Started,
    StartRequest,
    StartResult,
    StopRequest,
    signal_number,
)

FAKE_BOOT_ID = "00000000-0000-4000-8000-000000000000"
TERM_TO_KILL_US = 2_000_000
_SIGKILL, _SIGTERM = 9, 15


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a fake job does.

    Attributes:
        duration_us: run time when left alone; None runs until stopped or `finish`ed.
        exit_code: at the end of `duration_us`.
        checkpoint_us: time to exit 0 after its checkpoint signal; None does not handle the signal.
        ignores_term: only KILL ends it.
        output: its whole log, there from the start. progress, steps: its files of these at the end.
        refused: the start is refused with this sentence.
    """

    duration_us: int | None = None
    exit_code: int = 0
    checkpoint_us: int | None = None
    ignores_term: bool = False
    output: bytes = b""
    progress: bytes | None = None
    steps: bytes | None = None
    refused: str = ""


@dataclass(slots=True)
class _Member:
    request: StartRequest
    behaviour: Behaviour
    pid: int
    start_at: int
    stop_cause: str | None = None
    asked: bool = False
    end_at: int | None = None
    end_code: int | None = None
    end_signal: int | None = None
    kill_at: int | None = None
    report: ExitReport | None = None


class FakeRunner:
    """Implements `Runner`. Time passes only through `clock`; call `tick()` after moving it."""

    def __init__(
        self,
        clock: VirtualClock,
        on_event: Callable[[RunnerEvent], None],
        behave: Callable[[StartRequest], Behaviour] = lambda _: Behaviour(),
    ) -> None:
        self._clock = clock
        self._on_event = on_event
        self._behave = behave
        self._members: dict[str, _Member] = {}
        self._next_pid = 1000

    async def start(self, requests: Sequence[StartRequest]) -> list[StartResult]:
        """See `Runner.start`."""
        for request in requests:
            request.to_wire({}, FAKE_BOOT_ID)  # the same checks as the real one
        return [self._start(request) for request in requests]

    async def stop(self, attempt_id: str, rank: int, request: StopRequest) -> None:
        """See `Runner.stop`."""
        number = signal_number(request.signal)
        if request.grace_us < 0 or not request.cause:
            raise InvalidRequest(f"stop of {attempt_id}: needs a cause and a grace of 0 or more")
        member = self._member(attempt_id, rank)
        if member.report is None:
            self._stop(member, request.cause, number, request.grace_us, self._clock.boot_us())
            self.tick()

    async def limit(self, attempt_id: str, rank: int, time_limit_us: int) -> None:
        """See `Runner.limit`."""
        member = self._member(attempt_id, rank)
        if member.report is None:
            member.request = msgspec.structs.replace(member.request, time_limit_us=time_limit_us)
            self.tick()

    async def adopt(self) -> list[AttemptTruth]:
        """See `Runner.adopt`."""
        return [
            AttemptTruth(
                member.request.attempt_id,
                member.request.rank,
                member.request.epoch,
                "ended" if member.report else "running",
                member.pid,
                member.start_at,
                member.report,
            )
            for member in self._members.values()
        ]

    def forget(self, attempt_id: str, rank: int) -> None:
        """See `Runner.forget`."""
        if self._member(attempt_id, rank).report is None:
            raise WrongState(f"attempt {attempt_id} rank {rank} has not ended; stop it first")
        del self._members[member_name(attempt_id, rank)]

    def release(self, attempt_id: str, rank: int) -> bool:
        """See `Runner.release`."""
        member = self._member(attempt_id, rank)
        if member.report is None or member.behaviour.output:
            return False
        self.forget(attempt_id, rank)
        return True

    def read_progress(self, attempt_id: str, rank: int) -> bytes | None:
        """See `Runner.read_progress`: a fake job tells nothing while it runs."""
        return None

    def read_last_progress(self, attempt_id: str, rank: int) -> bytes | None:
        """See `Runner.read_last_progress`."""
        return self._member(attempt_id, rank).behaviour.progress

    def read_steps(self, attempt_id: str, rank: int, *, running: bool = False) -> bytes | None:
        """See `Runner.read_steps`."""
        return self._member(attempt_id, rank).behaviour.steps

    def read_log_times(self, attempt_id: str, rank: int) -> Marks:
        """See `Runner.read_log_times`."""
        return [(0, 0)]

    def read_log(self, attempt_id: str, rank: int, offset: int, limit: int) -> tuple[bytes, int, int]:
        """See `Runner.read_log`; a fake log drops nothing."""
        data = self._member(attempt_id, rank).behaviour.output[offset : offset + limit]
        return data, offset + len(data), 0

    def finish(self, attempt_id: str, rank: int = 0, *, exit_code: int = 0) -> None:
        """End a member now, as if its program had exited."""
        member = self._member(attempt_id, rank)
        member.end_at, member.end_code, member.end_signal = self._clock.boot_us(), exit_code, None
        self.tick()

    def next_due_us(self) -> int | None:
        """Boot time of the next thing that happens by itself, for an event heap."""
        times = [at for m in self._members.values() if m.report is None for at in _due(m) if at is not None]
        return min(times, default=None)

    def tick(self) -> None:
        """Let everything happen that is due by now, in time order."""
        while (at := self.next_due_us()) is not None and at <= self._clock.boot_us():
            for member in list(self._members.values()):
                if member.report is None and at in _due(member):
                    self._happen(member, at)
                    break

    def _start(self, request: StartRequest) -> StartResult:
        name = member_name(request.attempt_id, request.rank)
        if name in self._members:
            return StartResult(request.attempt_id, request.rank, "already", f"{name} was started before")
        behaviour = self._behave(request)
        if behaviour.refused:
            return StartResult(request.attempt_id, request.rank, "refused", behaviour.refused)
        now = self._clock.boot_us()
        self._next_pid += 1
        member = _Member(request, behaviour, self._next_pid, now)
        if behaviour.duration_us is not None:
            member.end_at, member.end_code = now + behaviour.duration_us, behaviour.exit_code
        self._members[name] = member
        self._on_event(Started(request.attempt_id, request.rank, member.pid, now))
        return StartResult(request.attempt_id, request.rank, "starting")

    def _happen(self, member: _Member, at: int) -> None:
        if member.end_at is not None and member.end_at <= at:
            self._end(member, at)
        elif member.kill_at is not None and member.kill_at <= at:
            member.end_at, member.end_code, member.end_signal = at, None, _SIGKILL
            self._end(member, at)
        else:
            signal = signal_number(member.request.checkpoint_signal)
            self._stop(member, "time_limit", signal, member.request.grace_us, at)

    def _stop(self, member: _Member, cause: str, signal: int | None, grace_us: int, now: int) -> None:
        first = member.stop_cause is None
        behaviour = member.behaviour
        if first:
            member.stop_cause = cause
            member.asked = signal is not None and grace_us > 0 and behaviour.checkpoint_us is not None
        term_at = now + grace_us if member.asked and grace_us > 0 else now
        kill_at = term_at + TERM_TO_KILL_US if member.asked and grace_us > 0 else now + grace_us
        member.kill_at = kill_at if member.kill_at is None else min(member.kill_at, kill_at)
        if member.asked and first and behaviour.checkpoint_us is not None:
            self._end_by(member, now + behaviour.checkpoint_us, 0, None)
        if not behaviour.ignores_term and kill_at > term_at:
            self._end_by(member, term_at, None, _SIGTERM)

    @staticmethod
    def _end_by(member: _Member, at: int, code: int | None, signal: int | None) -> None:
        if member.end_at is None or at < member.end_at:
            member.end_at, member.end_code, member.end_signal = at, code, signal

    def _end(self, member: _Member, at: int) -> None:
        natural = "completed" if member.end_code == 0 else "failed"
        request = member.request
        member.report = ExitReport(
            attempt_id=request.attempt_id,
            rank=request.rank,
            epoch=request.epoch,
            end_cause=member.stop_cause or natural,
            exit_code=member.end_code,
            signal=member.end_signal,
            message="",
            phase="run",
            boot_id=FAKE_BOOT_ID,
            start_boot_us=member.start_at,
            end_boot_us=at,
            held_us=at - member.start_at,
            cpu_user_us=0,
            cpu_system_us=0,
            max_rss_bytes=0,
            log_bytes=len(member.behaviour.output),
            log_dropped_bytes=0,
        )
        self._on_event(Ended(member.report))

    def _member(self, attempt_id: str, rank: int) -> _Member:
        try:
            return self._members[member_name(attempt_id, rank)]
        except ValueError as problem:
            raise InvalidRequest(str(problem)) from None
        except KeyError:
            raise NotFound(f"attempt {attempt_id} rank {rank} was not started on this machine") from None


def _due(member: _Member) -> tuple[int | None, ...]:
    limit_us = member.request.time_limit_us
    limit_at = None if limit_us is None or member.stop_cause else member.start_at + limit_us
    return (member.end_at, member.kill_at, limit_at)
