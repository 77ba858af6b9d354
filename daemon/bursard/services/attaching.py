"""`Jobs.Attach`: one stream between a caller and a member of a running job.

Owns    who may have one, its record in the log, and its life; what it carries is opened by nobody here.
Why     whoever attaches acts as the job's account, so it is its owner's, and of those who run the machines.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from bursar.clock import SECOND_US
from bursar.codec.bounds import check_texts
from bursar.errors import BursarError, Forbidden, InvalidRequest, NotFound, ServerUnavailable, WrongState
from bursar.model import JobState
from bursar.v1 import jobs_pb2 as pb
from bursard.access.authorize import Action
from bursard.access.identity import Identity, caller
from bursard.access.sessions import cut_off
from bursard.engine import Engine
from bursard.events import AttemptAttached
from bursard.fleet.attachments import KINDS, PACKET_BYTES_MAX, Attachment, Attachments
from bursard.services.lookup import find_job
from bursard.state import AttemptRecord, JobRecord
from bursard.turns import in_turn

FIRST_S: Final = 10.0
"""Within which a caller says what it wants."""
ASK_AGAIN_S: Final = 3.0
OPEN_S: Final = 60.0
"""A host that has said nothing by then will not come."""
PACKETS_BURST, PACKETS_PER_S = 2_000, 500
"""Of one caller; what is more waits unread."""


async def serve(
    engine: Engine, attachments: Attachments, requests: AsyncIterator[pb.AttachRequest]
) -> AsyncGenerator[pb.AttachAnswer, None]:
    """One stream, until its caller leaves or its member's end is gone. Of a caller that comes back it is kept
    for a while once its connection is lost, but not where it may not have it any more.

    Raises `Forbidden`, `WrongState` for a job that does not run, `NotFound` for a rank that it does not have.
    """
    asked = await _first(requests)
    kind = asked.kind or KINDS[0]
    if kind not in KINDS:
        raise InvalidRequest(f"kind: is {kind[:40]!r}; one of {', '.join(KINDS)}", {"field": "kind"})
    job = await find_job(engine, asked.job, Action.ATTACH)
    user = caller()
    _refuse_others(user, job, kind)
    attempt = _running(job, asked.rank)
    one = attachments.begin(attempt, asked.rank, kind, asked.resume, user.name if asked.resumes else "")
    opening = asyncio.create_task(_ask(attachments, one), name=f"attach-{attempt.id}")
    reader: asyncio.Task[None] | None = None
    lost = True
    try:
        await engine.writer.room()
        told = AttemptAttached(attempt.id, asked.rank, kind)
        await engine.durable(engine.commit([told], user.name))
        member = attempt.members[asked.rank]
        opened = pb.AttachOpened(
            job_id=job.id,
            number=job.number,
            attempt_id=attempt.id,
            node=member.node,
            channel=one.channel,
        )
        yield pb.AttachAnswer(opened=opened)
        reader = asyncio.create_task(in_turn(_read(engine, attachments, one, requests)), name="attach-read")
        while (packet := await one.packet()) is not None:
            yield pb.AttachAnswer(packet=packet)
        for task in (opening, reader):
            if task.done() and not task.cancelled():
                task.result()
        yield pb.AttachAnswer(closed=one.closed or "")
        lost = False
    except BursarError:
        lost = False
        raise
    finally:
        opening.cancel()
        if reader is not None:
            reader.cancel()
        if lost and not cut_off():
            attachments.lose(one)
        else:
            attachments.end(one)


async def _first(requests: AsyncIterator[pb.AttachRequest]) -> pb.AttachOpen:
    try:
        async with asyncio.timeout(FIRST_S):
            first = await anext(aiter(requests), None)
    except TimeoutError:
        raise InvalidRequest(f"no request came within {FIRST_S:g} s of the call") from None
    if first is None or first.WhichOneof("body") != "open":
        raise InvalidRequest("open: the first message must say which job is meant")
    check_texts(first.open)
    return first.open


def _refuse_others(user: Identity, job: JobRecord, kind: str) -> None:
    """Ports of a job are its owner's alone: what listens there often asks nobody who they are."""
    if kind == "ports" and user.name != job.user:
        raise Forbidden(
            f"{user.name} may not connect to ports of job {job.display}: that is for its owner alone",
            {"user": user.name, "action": "attach"},
        )


def _running(job: JobRecord, rank: int) -> AttemptRecord:
    """Its live attempt, whose member of this rank has started and not ended."""
    if job.array is not None:
        if job.spec.service is not None:
            raise WrongState(
                f"job {job.display} is the service {job.spec.name}; attach to one of its replicas by slot,"
                f" such as {job.display}[0]: `bursar service show {job.spec.name}` lists them"
            )
        raise WrongState(f"job {job.display} is an array; attach to one of its tasks, {job.display}[0]")
    if job.state.terminal or not job.attempts or job.attempts[-1].state == "ENDED":
        what = "has ended" if job.state.terminal else "does not run yet"
        raise WrongState(f"job {job.display} {what} ({job.state.lower()}); only what runs can be attached to")
    attempt = job.attempts[-1]
    if rank >= len(attempt.members):
        raise NotFound(f"job {job.display} has ranks 0 to {len(attempt.members) - 1}, not {rank}")
    member = attempt.members[rank]
    if not member.started_at or member.report is not None or job.state is JobState.PENDING:
        what = "has ended" if member.report is not None else "has not started yet"
        raise WrongState(f"rank {rank} of job {job.display} {what}")
    return attempt


async def _ask(attachments: Attachments, one: Attachment) -> None:
    """Have its host made, and ask again: what says so may be lost. Raises `ServerUnavailable`."""
    for _ in range(int(OPEN_S / ASK_AGAIN_S)):
        if one.heard or one.closed is not None:
            return
        attachments.say(one, "open", one.kind.encode())
        await asyncio.sleep(ASK_AGAIN_S)
    if not one.heard:
        one.close("no answer")
        raise ServerUnavailable(f"its node did not answer within {OPEN_S:g} s; nothing was started there")


async def _read(
    engine: Engine, attachments: Attachments, one: Attachment, requests: AsyncIterator[pb.AttachRequest]
) -> None:
    """What the caller says, to its member; it is over when that ends, or of one that comes back when it says
    so: a connection that is lost ends it too.
    """
    left, counted_us = float(PACKETS_BURST), engine.clock.boot_us()
    async for request in requests:
        if request.WhichOneof("body") == "leave":
            break
        if request.WhichOneof("body") != "packet" or len(request.packet) > PACKET_BYTES_MAX:
            attachments.end(one)
            raise InvalidRequest(f"packet: at most {PACKET_BYTES_MAX} bytes, and nothing else now")
        now_us = engine.clock.boot_us()
        earned = (now_us - counted_us) * PACKETS_PER_S / SECOND_US
        left, counted_us = min(left + earned, PACKETS_BURST) - 1, now_us
        if left < 0:
            await asyncio.sleep(-left / PACKETS_PER_S)
        attachments.say(one, "data", request.packet)
    else:
        if one.of:
            return
    attachments.end(one)
