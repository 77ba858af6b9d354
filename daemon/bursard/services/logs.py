"""Logs: pieces of what a member wrote, fetched from its node, optionally as it grows.

Why     logs stay on the node that made them (the daemon's disk is for money); the daemon only relays.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from msgspec.structs import replace

from bursar.errors import NotFound, WrongState
from bursar.v1 import jobs_pb2 as pb
from bursard.fleet import Fleet, LogAnswer, LogRange
from bursard.services.watching import WatchHub
from bursard.state import AttemptRecord, JobRecord, MemberRecord

PIECE_BYTES = 256 * 1024
_NOTHING_YET = LogAnswer(b"", 0, 0, False, 0)
FOLLOW_S = 0.25
"""How often a followed log is asked for more while nothing else happens."""


async def stream(
    fleet: Fleet, hub: WatchHub, job: JobRecord, request: pb.LogsRequest
) -> AsyncIterator[pb.LogChunk]:
    """The log of one member from an offset to its end, or until it ends when following."""
    if job.array is not None:
        raise WrongState(f"job {job.display} is an array; ask for one task, such as {job.number}[0]")
    watcher = hub.add([job.id])
    try:
        attempt, member = _member(job, request)
        offset, tail = request.offset, request.tail_bytes
        if request.tail_lines:
            offset = await _last_lines(fleet, attempt, member, request.tail_lines)
        while True:
            watcher.ready.clear()
            ended = member.report is not None
            wanted = LogRange(attempt.id, member.alloc.rank, offset, PIECE_BYTES, tail)
            answer = await fleet.read_log(member.alloc.node_id, wanted)
            tail = 0
            if answer.error:
                if member.report is None and request.follow:
                    answer = _NOTHING_YET
                elif member.report is not None and member.report.log_bytes == 0:
                    return
                else:
                    raise NotFound(f"the log of job {job.display} is not there: {answer.error}")
            if answer.data or answer.dropped_bytes:
                yield pb.LogChunk(data=answer.data, offset=answer.offset, dropped_bytes=answer.dropped_bytes)
                offset = answer.next_offset
                continue
            if ended or not request.follow:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FOLLOW_S):
                    await watcher.ready.wait()
    finally:
        hub.remove(watcher, [job.id])


async def _last_lines(fleet: Fleet, attempt: AttemptRecord, member: MemberRecord, lines: int) -> int:
    """Where the last lines of a log begin: looked for from its end, a window at a time. Nothing before a gap,
    where the log passed its cap, is shown.
    """
    node, wanted = member.alloc.node_id, LogRange(attempt.id, member.alloc.rank, 0, PIECE_BYTES)
    answer = await fleet.read_log(node, replace(wanted, tail_bytes=PIECE_BYTES))
    start, end = answer.offset, len(answer.data) - answer.data.endswith(b"\n")
    while not answer.error:
        while (at := answer.data.rfind(b"\n", 0, end)) >= 0:
            lines, end = lines - 1, at
            if not lines:
                return start + at + 1
        before = max(start - PIECE_BYTES, 0)
        answer = await fleet.read_log(node, replace(wanted, offset=before, limit_bytes=start - before or 1))
        if not start or answer.next_offset != start or answer.dropped_bytes:
            break
        start, end = before, len(answer.data)
    return start


def _member(job: JobRecord, request: pb.LogsRequest) -> tuple[AttemptRecord, MemberRecord]:
    if not job.attempts:
        raise WrongState(f"job {job.display} has not started yet, so there is no log")
    if request.attempt:
        attempt = next((a for a in job.attempts if a.number == request.attempt), None)
        if attempt is None:
            raise NotFound(f"job {job.display} has {len(job.attempts)} attempts, not {request.attempt}")
    else:
        attempt = job.attempts[-1]
    if request.rank >= len(attempt.members):
        raise NotFound(f"job {job.display} has ranks 0 to {len(attempt.members) - 1}, not {request.rank}")
    return attempt, attempt.members[request.rank]
