"""Carrying out what the core decides: the runner's side and the disk's side of each instruction.

Owns    starts, stops, logs, truth (`Members`) and the order of spool operations (`SpoolWriter`).
Input   instructions; answers go back as events.
Why     the core is pure; everything that may wait or fail is here, and each failure becomes an event.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec

from bursar.errors import BursarError, InvalidRequest, NotFound
from bursar.model import DeviceUse, EndCause, Energy, Exit
from bursar_agent import stimuli as s
from bursar_agent.devices import Devices
from bursar_agent.environment import NO_CONTAINERS, Accounts, Containers, start_request
from bursar_agent.mps import Owner
from bursar_agent.probes.energy import Share
from bursar_agent.progress import last_told
from bursar_agent.runner.base import Runner
from bursar_agent.runner.layout import DISK_REFUSES
from bursar_agent.runner.logtimes import Marks, marks_of, offset_since
from bursar_agent.runner.model import (
    AttemptTruth,
    ExitReport,
    RunnerEvent,
    Started,
    StartRequest,
    StopRequest,
)
from bursar_agent.sharing import Sharing
from bursar_agent.spool import Spool
from bursar_agent.statedir import StateDir
from bursar_agent.steptold import told_steps

log = logging.getLogger(__name__)

LOG_REPLY_BYTES_MAX = 512 << 10
"""Messages stay under 1 MB; a reader asks again from `next_offset`."""

LOG_READS_MAX = 4
_LOG_SCAN_BYTES = 1 << 20
DOUBT_S = 1.0
"""Between two tries to read which members were marked."""
RESEND_PAUSE_EVERY = 200
"""Records sent in one go before others get a turn."""

_CAUSES = {cause.value: cause for cause in EndCause}

Emit = Callable[[s.Event], None]


class Tasks:
    """Background work of one owner, cancelled together; a failure is logged, never lost."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run it."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def close(self) -> None:
        """Cancel what is left and wait for it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("background work failed", exc_info=task.exception(), extra={"task": task.get_name()})


class Members:
    """Everything that concerns the processes of members."""

    def __init__(
        self,
        runner: Runner,
        state: StateDir,
        accounts: Accounts,
        boot_id: str,
        emit: Emit,
        devices: Devices,
        look: Callable[[str], Awaitable[None]],
        sharing: Sharing,
        containers: Containers = NO_CONTAINERS,
    ) -> None:
        """`look`: try whether our own directories can be written, and tell the core what is found, or
        else what it is given.
        """
        self._runner = runner
        self._look = look
        self._devices = devices
        self._sharing = sharing
        self._containers = containers
        self._to_share: dict[s.Key, tuple[Share, ...]] = {}
        self._state = state
        self._accounts = accounts
        self._boot_id = boot_id
        self._emit = emit
        self._to_start: list[StartRequest] = []
        self._log_reads = asyncio.Semaphore(LOG_READS_MAX)
        self.tasks = Tasks()

    def start(self, instruction: s.StartMembers) -> None:
        """Start members; everything asked for in one turn of the loop goes to the runner together."""
        for assignment in instruction.assignments:
            self._devices.assigned(assignment.key, assignment.devices)
            try:
                request = start_request(
                    assignment, instruction.epoch, self._accounts, self._state, self._containers
                )
                if assignment.checkpoint_signal:
                    self._state.remember_signal(
                        assignment.key, assignment.checkpoint_signal, assignment.grace_us
                    )
            except InvalidRequest as problem:
                self._not_started(*assignment.key, str(problem))
                continue
            except OSError as problem:
                told = f"{self._state.path}: {problem.strerror or problem}"
                self._not_started(*assignment.key, told, disk=problem.errno in DISK_REFUSES)
                continue
            if self._sharing.wanted(assignment.devices):
                self._to_share[assignment.key] = assignment.devices
            if not self._to_start:
                asyncio.get_running_loop().call_soon(self._flush)
            self._to_start.append(request)

    def refuse(self, instruction: s.StartMembers, trouble: str) -> None:
        """Start none of these: our disk keeps us from it."""
        for assignment in instruction.assignments:
            self._not_started(*assignment.key, trouble, disk=True)

    def stop(self, instruction: s.StopMember) -> None:
        """Ask a supervisor to end its member."""
        self.tasks.spawn(self._stop(instruction), "stop")

    def limit(self, instruction: s.LimitMember) -> None:
        """Give a supervisor another time limit."""
        self.tasks.spawn(self._limit(instruction), "limit")

    def heard(self, event: RunnerEvent) -> None:
        """What the runner tells."""
        if isinstance(event, Started):
            self._devices.started((event.attempt_id, event.rank))
            self._emit(started_of(event))
            return
        key = (event.report.attempt_id, event.report.rank)
        end = s.MemberEnded(*key, self._with_told(key, exit_of(event.report)))
        if event.unwritten or not end.exit.started or event.report.end_cause == EndCause.NODE_LOST.value:
            self.tasks.spawn(self._ended_after_look(end, _trouble_of(event.report)), "look-before-end")
        elif self._devices.holds(key) or self._sharing.serves(key):
            self.tasks.spawn(self._ended(end), "energy-of-end")
        else:
            self._emit(end)

    async def truths(self) -> tuple[s.Truth, ...]:
        """What the supervisors' files say of every member."""
        found = [truth_of(each, self._boot_id) for each in await self._runner.adopt()]
        return tuple([await self._with_rest(truth) for truth in found])

    def release(self, key: s.Key) -> bool:
        """Drop what is kept of an ended member if it left nothing to read; False: it is kept for its log."""
        try:
            return self._runner.release(*key)
        except NotFound:
            return True
        except (BursarError, OSError) as problem:
            log.warning("cannot release", extra={"attempt_id": key[0], "problem": str(problem)})
            return False

    def read_truth(self) -> None:
        """Look at the files and tell the core."""
        self.tasks.spawn(self._read_truth(), "read-truth")

    async def read_log(self, instruction: s.ReadLog) -> tuple[bytes, int, int, int, bool, Marks]:
        """Data, its offset, the next offset, dropped bytes, whether this was the rest, and when it came.

        Raises `NotFound` when nothing of the member is left.
        """
        async with self._log_reads:
            return await asyncio.to_thread(self._read_log, instruction)

    async def _ended(self, end: s.MemberEnded) -> None:
        key = (end.attempt_id, end.rank)
        exit = self._with_devices(key, end.exit, await self._devices.ended(key))
        # Told when its server is gone too: a device is free when nothing of the member is left there.
        self._emit(s.MemberEnded(*key, await self._sharing.leave(key, exit) or exit))

    async def _ended_after_look(self, end: s.MemberEnded, trouble: str = "") -> None:
        """It was no job's fault: what our directories have to do with it is told before. `trouble`:
        that, should a look find none: it takes less room than some starts.
        """
        await self._look(trouble)
        await self._ended(end)

    async def _with_rest(self, truth: s.Truth) -> s.Truth:
        if truth.exit is None:
            return truth
        key = (truth.attempt_id, truth.rank)
        exit = self._with_told(key, self._with_devices(key, truth.exit, await self._devices.ended(key)))
        exit = await self._sharing.leave(key, exit) or exit
        return msgspec.structs.replace(truth, exit=exit)

    def _with_devices(self, key: s.Key, exit: Exit, energy: Energy | None) -> Exit:
        return with_use(with_energy(exit, energy), self._devices.used(key))

    def _with_told(self, key: s.Key, exit: Exit) -> Exit:
        progress, steps = last_told(self._runner.read_last_progress, key), told_steps(self._runner, key, exit)
        if progress is None and steps is None:
            return exit
        return msgspec.structs.replace(exit, progress=progress, steps=steps)

    # --- starting -------------------------------------------------------------------------------

    def _flush(self) -> None:
        requests, self._to_start = self._to_start, []
        self.tasks.spawn(self._start(requests), "start")

    async def _shared(self, requests: list[StartRequest]) -> list[StartRequest]:
        """The same, each that has a part of a device held to it; who cannot be is not started."""
        ready = []
        for request in requests:
            key = (request.attempt_id, request.rank)
            shares = self._to_share.pop(key, None)
            try:
                if shares is not None:
                    over = await self._sharing.take(key, shares, Owner(request.uid, request.gid))
                    request = msgspec.structs.replace(request, over=over)
                ready.append(request)
            except InvalidRequest as problem:
                self._not_started(*key, problem.message)
        return ready

    async def _start(self, requests: list[StartRequest]) -> None:
        if self._to_share:
            requests = await self._shared(requests)
        if not requests:
            return
        try:
            results = await self._runner.start(requests)
        except InvalidRequest as problem:
            # Judged before anything was sent: alone, each tells its own fault.
            if len(requests) == 1:
                self._not_started(requests[0].attempt_id, requests[0].rank, problem.message)
                return
            for request in requests:
                await self._start([request])
            return
        except (BursarError, OSError) as problem:
            await self._start_in_doubt(requests, str(problem))
            return
        for result in results:
            if result.state == "refused":
                self._not_started(result.attempt_id, result.rank, result.message, disk=result.disk)
        if any(result.state == "already" for result in results):
            await self._read_truth()

    async def _start_in_doubt(self, requests: Sequence[StartRequest], problem: str) -> None:
        """The launcher failed under us: what it has marked on disk counts, the rest never ran. As long as the
        marks cannot be read, nobody knows.
        """
        log.error("starts failed", extra={"members": len(requests), "problem": problem})
        truths = await self._readable_truths()
        while truths is None:
            await asyncio.sleep(DOUBT_S)
            truths = await self._readable_truths()
        self._emit(s.TruthRead(truths))
        marked = {(truth.attempt_id, truth.rank) for truth in truths}
        for request in requests:
            if (request.attempt_id, request.rank) not in marked:
                self._not_started(request.attempt_id, request.rank, problem)

    async def _readable_truths(self) -> tuple[s.Truth, ...] | None:
        try:
            return await self.truths()
        except OSError as failed:
            log.error("marks cannot be read", extra={"problem": failed.strerror or str(failed)})
            await self._look("")
            return None

    def _not_started(self, attempt_id: str, rank: int, message: str, disk: bool = False) -> None:
        """`disk`: ours would not take what a start needs, so it is the node that has lost it."""
        cause = EndCause.NODE_LOST if disk else EndCause.START_FAILED
        end = s.MemberEnded(attempt_id, rank, Exit(cause=cause, message=message, started=False))
        trouble = f"a job could not start: {message}" if disk else ""
        self.tasks.spawn(self._ended_after_look(end, trouble), "look-before-end")

    async def _read_truth(self) -> None:
        self._emit(s.TruthRead(await self.truths()))

    async def _stop(self, instruction: s.StopMember) -> None:
        request = StopRequest(instruction.cause, instruction.grace_us, instruction.signal or None)
        try:
            await self._runner.stop(instruction.attempt_id, instruction.rank, request)
        except BursarError as problem:
            log.error(
                "stop failed",
                extra={"attempt_id": instruction.attempt_id, "problem": problem.message},
            )

    async def _limit(self, instruction: s.LimitMember) -> None:
        key, problem = (instruction.attempt_id, instruction.rank), ""
        try:
            await self._runner.limit(*key, instruction.time_limit_us)
        except BursarError as failed:
            problem = failed.message
        except OSError as failed:
            problem = failed.strerror or str(failed)
        self._emit(s.LimitSet(*key, instruction.order, problem))

    # --- logs -----------------------------------------------------------------------------------

    def _read_log(self, instruction: s.ReadLog) -> tuple[bytes, int, int, int, bool, Marks]:
        wanted = instruction.range
        limit = min(wanted.limit_bytes or LOG_REPLY_BYTES_MAX, LOG_REPLY_BYTES_MAX)
        offset = wanted.offset
        if wanted.tail_bytes:
            offset = max(self._log_end(wanted) - wanted.tail_bytes, 0)
        marks: Marks = []
        if wanted.times or wanted.since_us:
            marks = self._runner.read_log_times(wanted.attempt_id, wanted.rank)
            since = offset_since(marks, wanted.since_us)
            offset = max(offset, self._log_end(wanted) if since is None else since)
        data, next_offset, dropped = self._runner.read_log(wanted.attempt_id, wanted.rank, offset, limit)
        hole = 0 if data else missing(instruction, next_offset)
        next_offset, dropped = next_offset + hole, dropped + hole
        ended = False
        if not instruction.live:
            rest, _, _ = self._runner.read_log(wanted.attempt_id, wanted.rank, next_offset, 1)
            ended = not rest
        start = next_offset - len(data)
        told = marks_of(marks, start, next_offset) if wanted.times else []
        return data, start, next_offset, dropped, ended, told

    def _log_end(self, wanted: s.LogRange) -> int:
        """Logical size of a log: read to its end (capped logs are small), for the runner keeps no size."""
        at = 0
        while True:
            data, at, _ = self._runner.read_log(wanted.attempt_id, wanted.rank, at, _LOG_SCAN_BYTES)
            if not data:
                return at


class SpoolWriter:
    """Spool operations in order, in one thread: neighbours share an fsync."""

    def __init__(self, spool: Spool, emit: Emit, send: Callable[[s.Usage], None]) -> None:
        self._spool = spool
        self._emit = emit
        self._send = send
        self._todo: deque[s.SpoolAppend | s.SpoolTrim | s.ResendUsage] = deque()
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")

    def put(self, instruction: s.SpoolAppend | s.SpoolTrim | s.ResendUsage) -> None:
        """Queue it."""
        self._todo.append(instruction)
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            while self._todo:
                match self._todo.popleft():
                    case s.SpoolAppend() as first:
                        await self._append([first.usage, *self._neighbours()])
                    case s.SpoolTrim() as trim:
                        await self._in_thread(partial(self._spool.trim, trim.seq))
                    case s.ResendUsage() as resend:
                        await self._resend(resend.after_seq)
            self._wake.clear()
            await self._wake.wait()

    def close(self) -> None:
        """Nothing more will be put."""
        self._thread.shutdown(wait=True)
        self._spool.close()

    def _neighbours(self) -> list[s.Usage]:
        found = []
        while self._todo and isinstance(self._todo[0], s.SpoolAppend):
            found.append(self._todo.popleft().usage)  # type: ignore[union-attr]
        return found

    async def _append(self, usages: list[s.Usage]) -> None:
        problem = await self._in_thread(lambda: self._spool.append(usages))
        for usage in usages:
            self._emit(s.Spooled(usage) if problem is None else s.SpoolFailed(usage, problem))

    async def _resend(self, after_seq: int) -> None:
        records: list[s.Usage] = []
        await self._in_thread(lambda: records.extend(self._spool.unacknowledged(after_seq)))
        for count, record in enumerate(records):
            self._send(record)
            if count % RESEND_PAUSE_EVERY == RESEND_PAUSE_EVERY - 1:
                await asyncio.sleep(0)

    async def _in_thread(self, work: Callable[[], None]) -> str | None:
        """Run blocking work; what went wrong, in words."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except OSError as problem:
            text = problem.strerror or str(problem)
            log.error("spool", extra={"problem": text})
            return text
        return None


def started_of(event: Started) -> s.MemberStarted:
    """The runner's word for a start, in the core's."""
    return s.MemberStarted(
        attempt_id=event.attempt_id,
        rank=event.rank,
        pid=event.pid,
        boot_us=event.start_boot_us,
        reaped_before_us=event.reaped_before_us,
    )


def _trouble_of(report: ExitReport) -> str:
    """What its end says of the node's disk."""
    return f"a job could not start: {report.message}" if report.unbegun else ""


def missing(instruction: s.ReadLog, offset: int) -> int:
    """What a member that has ended wrote from an offset on, of which its node's disk took nothing."""
    return max(instruction.exit.log_bytes - offset, 0) if instruction.exit is not None else 0


def exit_of(report: ExitReport) -> Exit:
    """How a member ended, from what its supervisor wrote."""
    return Exit(
        cause=EndCause.NODE_LOST if report.unbegun else _CAUSES.get(report.end_cause, EndCause.FAILED),
        exit_code=-1 if report.exit_code is None else report.exit_code,
        signal=report.signal or 0,
        message=report.message,
        started_boot_us=report.start_boot_us or 0,
        held_us=report.held_us or 0,
        cpu_us=report.cpu_user_us + report.cpu_system_us,
        max_rss_bytes=report.max_rss_bytes,
        log_bytes=report.log_bytes,
        started=report.end_cause != "start_failed",
        ran_us=max((report.main_end_boot_us or 0) - (report.start_boot_us or 0), 0),
        stopped=report.stopped,
        image_digest=report.image_digest,
        pull_us=report.pull_us,
    )


def with_energy(exit: Exit, energy: Energy | None) -> Exit:
    """The end, with what its devices drew."""
    if energy is None:
        return exit
    return msgspec.structs.replace(
        exit, gpu_energy_millijoules=energy.millijoules, gpu_energy_source=energy.source
    )


def with_use(exit: Exit, use: DeviceUse | None) -> Exit:
    """The end, with what was made of its devices."""
    return exit if use is None else msgspec.structs.replace(exit, device_use=use)


def truth_of(found: AttemptTruth, boot_id: str) -> s.Truth:
    """What a member's directory says, in the core's words."""
    return s.Truth(
        attempt_id=found.attempt_id,
        rank=found.rank,
        running=found.exit is None,
        boot_id=boot_id if found.exit is None else found.exit.boot_id or boot_id,
        pid=found.pid or 0,
        started_boot_us=found.start_boot_us or 0,
        exit=None if found.exit is None else exit_of(found.exit),
        reaped_before_us=found.reaped_before_us,
    )
