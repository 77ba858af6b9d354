"""Logs: pieces of what a member wrote, fetched from its node, optionally as it grows.

Why     logs stay on the node that made them (the daemon's disk is for money); the daemon only relays.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from msgspec.structs import replace

from bursar.errors import InvalidRequest, NotFound, ServerUnavailable, WrongState
from bursar.model.ends import RECORDS_REMOVED
from bursar.v1 import jobs_pb2 as pb
from bursar.v1 import types_pb2 as tb
from bursar.words import plural
from bursard.fleet import Fleet, LogAnswer, LogRange
from bursard.fleet.door import BOOT_US_MAX, BYTES_MAX
from bursard.services.watching import WatchHub
from bursard.state import AttemptRecord, JobRecord, MemberRecord

PIECE_BYTES = 256 * 1024
_NOTHING_YET = LogAnswer(b"", 0, 0, False, 0)
FOLLOW_S = 0.25
"""How often a followed log is asked for more while nothing else happens."""


async def stream(
    fleet: Fleet,
    hub: WatchHub,
    job: JobRecord,
    request: pb.LogsRequest,
    trouble: Callable[[], tb.Reason | None] = lambda: None,
) -> AsyncIterator[pb.LogChunk]:
    """The log of one member from an offset to its end, or until it ends when following. Past its end there
    is nothing. Who follows is told once of each `trouble`, and waits for a node that does not answer.

    Raises `InvalidRequest` for a place that no log has.
    """
    _refuse_beyond(request)
    if job.array is not None:
        first = job.spec.array.indices[0] if job.spec.array is not None else 0
        if job.spec.service is not None:
            name = job.spec.name
            raise WrongState(
                f"job {job.display} is the service {name}; `bursar service logs {name}` prints what its"
                f" replicas wrote, `bursar logs '{job.number}[{first}]'` what one place of them did"
            )
        raise WrongState(
            f"job {job.display} is an array; ask for one task, such as {job.number}[{first}], or for all of"
            f" them: `bursar logs '{job.number}[*]'`"
        )
    watcher = hub.add([job.id])
    try:
        attempt, member = _member(job, request)
        begin, known = True, _what(None)
        offset, tail, cut, seen = request.offset, 0, False, False
        while True:
            watcher.ready.clear()
            ended = member.report is not None
            found = trouble() if request.follow else None
            if _what(found) != known:
                known = _what(found)
                yield pb.LogChunk(trouble=found or tb.Reason())
            try:
                if begin:
                    offset, tail, cut = await _start(fleet, attempt, member, request)
                    begin = False
                wanted = _range(attempt, member, request, offset, tail)
                answer = await fleet.read_log(member.alloc.node_id, wanted)
                tail = 0
            except ServerUnavailable:
                if ended or not request.follow:
                    raise
                answer = _NOTHING_YET
            if not answer.data and not seen and _is_removed(member):
                raise NotFound(
                    f"the log of job {job.display} is gone: it was removed on its node while the job ran"
                )
            seen = seen or bool(answer.data)
            if answer.error:
                if member.report is None and request.follow:
                    answer = _NOTHING_YET
                elif member.report is not None and member.report.log_bytes == 0:
                    return
                else:
                    raise NotFound(f"the log of job {job.display} is not there: {answer.error}")
            if answer.data or answer.dropped_bytes:
                offset = answer.next_offset
                # Of the line before, whose time was earlier, the end is not shown.
                skipped = answer.data.find(b"\n") + 1 or len(answer.data) if cut else 0
                cut = cut and not answer.data[:skipped].endswith(b"\n")
                if skipped < len(answer.data) or answer.dropped_bytes:
                    yield _chunk(member, answer, skipped)
                continue
            if ended or not request.follow:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FOLLOW_S):
                    await watcher.ready.wait()
    finally:
        hub.remove(watcher, [job.id])


def _is_removed(member: MemberRecord) -> bool:
    """Did it end because its directory was removed on its node? One that was made anew has an empty log."""
    return member.report is not None and member.report.message.startswith(RECORDS_REMOVED)


def _refuse_beyond(request: pb.LogsRequest) -> None:
    """What is asked for goes to a node and comes back: no caller may have it say what it must not."""
    for field in ("offset", "tail_bytes"):
        value = getattr(request, field)
        if value > BYTES_MAX:
            raise InvalidRequest(f"{field}: is {value}; at most {BYTES_MAX}", {"field": field})


def _what(trouble: tb.Reason | None) -> tuple[str, dict[str, str]]:
    """Without its sentence, of which the numbers change."""
    return (trouble.code, dict(trouble.facts)) if trouble is not None else ("", {})


def _chunk(member: MemberRecord, answer: LogAnswer, skipped: int) -> pb.LogChunk:
    return pb.LogChunk(
        data=answer.data[skipped:],
        offset=answer.offset + skipped,
        dropped_bytes=answer.dropped_bytes,
        times=[pb.LogTime(offset=mark, at=member.started_at + after) for mark, after in answer.marks],
    )


def _range(
    attempt: AttemptRecord, member: MemberRecord, request: pb.LogsRequest, offset: int, tail: int
) -> LogRange:
    times = request.timestamps and member.started_at > 0
    return LogRange(attempt.id, member.alloc.rank, offset, PIECE_BYTES, tail, times=times)


async def _start(
    fleet: Fleet, attempt: AttemptRecord, member: MemberRecord, request: pb.LogsRequest
) -> tuple[int, int, bool]:
    """Where to begin, of how many bytes from the end, and whether that may be amid a line to be left out."""
    offset, tail = request.offset, request.tail_bytes
    if request.tail_lines:
        offset, tail = await _last_lines(fleet, attempt, member, request.tail_lines), 0
    since_us = request.since - member.started_at
    if not request.since or not member.started_at or since_us <= 0:
        return offset, tail, False
    wanted = LogRange(attempt.id, member.alloc.rank, offset, 1, tail, since_us=min(since_us, BOOT_US_MAX))
    answer = await fleet.read_log(member.alloc.node_id, wanted)
    if answer.error or answer.offset <= offset or answer.dropped_bytes:
        return offset, tail, False
    return answer.offset - 1, 0, True


async def _last_lines(fleet: Fleet, attempt: AttemptRecord, member: MemberRecord, lines: int) -> int:
    """Where the last lines of a log begin: looked for from its end, a window at a time. Nothing before a gap,
    where the log passed its cap, is shown.
    """

    async def read(wanted: LogRange) -> LogAnswer:
        return await fleet.read_log(member.alloc.node_id, wanted)

    wanted = LogRange(attempt.id, member.alloc.rank, 0, PIECE_BYTES)
    answer = await read(replace(wanted, tail_bytes=PIECE_BYTES))
    behind = await read(replace(wanted, offset=answer.next_offset))
    if behind.dropped_bytes:  # the window began before a gap, and ended there
        answer = behind
    start, data = answer.offset, answer.data
    end = len(data) - data.endswith(b"\n")
    while not answer.error:
        while (at := data.rfind(b"\n", 0, end)) >= 0:
            lines, end = lines - 1, at
            if not lines:
                return start + at + 1
        before = max(start - PIECE_BYTES, 0)
        if before == start or answer.dropped_bytes:
            break
        answer = await read(replace(wanted, offset=before, limit_bytes=start - before))
        if answer.data and answer.next_offset < start:  # it ended at a gap: what is behind that
            before = answer.next_offset
            answer = await read(replace(wanted, offset=before, limit_bytes=start - before))
        data = answer.data[: max(start - answer.offset, 0)]
        if answer.offset + len(data) != start:
            break
        start, end = answer.offset, len(data)
    return start


def _member(job: JobRecord, request: pb.LogsRequest) -> tuple[AttemptRecord, MemberRecord]:
    if not job.attempts:
        raise WrongState(f"job {job.display} has not started yet, so there is no log")
    if request.attempt:
        attempt = next((a for a in job.attempts if a.number == request.attempt), None)
        if attempt is None:
            raise NotFound(
                f"job {job.display} has {plural(len(job.attempts), 'attempt')}, not {request.attempt}"
            )
    else:
        attempt = job.attempts[-1]
    if request.rank >= len(attempt.members):
        raise NotFound(f"job {job.display} has ranks 0 to {len(attempt.members) - 1}, not {request.rank}")
    return attempt, attempt.members[request.rank]
