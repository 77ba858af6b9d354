"""Following a job: its log as it grows, over attempts and over restarts of the server.

Why     `logs -f` and `submit --follow` show the same, and neither may lose or repeat a byte when the
        daemon restarts: the offset is kept here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bursar.cli.common import now
from bursar.cli.ends import AttemptEnds, NeverStartsError, Troubles, never_starts
from bursar.cli.output import say
from bursar.cli.progress import Progress
from bursar.cli.terminal import LogPrinter
from bursar.errors import ServerUnavailable, WrongState
from bursar.model import JobState

if TYPE_CHECKING:
    from bursar.client import WireClient

PATIENCE_S: Final = 60.0
"""How long a server may be gone before following gives up."""
PAUSE_S: Final = 0.3
DROPPED: Final = "past the log's size limit, or its node's disk took no more"
"""Why bytes of a log are not there."""


class Ask(NamedTuple):
    """What of a log is wanted. `attempt` 0: the newest; `tail_lines` 0: all; `since`: lines from then on."""

    attempt: int = 0
    tail_lines: int = 0
    since: int = 0
    timestamps: bool = False


WHOLE: Final = Ask()


def print_logs(client: WireClient, job: str, *, rank: int, follow: bool, ask: Ask, queue: bool) -> None:
    """Print a member's log: what is there, or until the job has ended.

    Raises `NeverStartsError` when following one that can never start as things are, unless `queue`.
    """
    if follow and not ask.attempt:
        follow_job(client, client.get(job).id, rank=rank, ask=ask, queue=queue)
        return
    printer = LogPrinter(sys.stdout)
    for chunk in chunks_of(client, job, rank, ask.attempt, ask, follow=follow):
        _show(printer, chunk)


def follow_job(
    client: WireClient, job_id: str, *, rank: int = 0, ask: Ask = WHOLE, queue: bool = True
) -> Any:
    """Print the log of each attempt from the newest on, of an array how far it is; the job as it ended.

    Raises `NeverStartsError` for one that can never start as things are, unless `queue`.
    """
    printer, done, ends, troubles = LogPrinter(sys.stdout), 0, AttemptEnds(), Troubles()
    while True:
        job = _next_attempt(client, job_id, done, queue, ends, troubles)
        if not _has_log(job, done):
            return job
        number = job.attempts[-1].number
        if done:
            say(f"attempt {number}")
        wanted = ask._replace(tail_lines=0) if done else ask
        for chunk in chunks_of(client, job_id, rank, number, wanted, follow=True):
            if chunk.HasField("trouble"):
                job.reason.CopyFrom(chunk.trouble)
                troubles.tell(job)
            _show(printer, chunk)
        done = number


def exit_code(job: Any) -> int:
    """The code with which a program ends that ran the job on behalf of the shell."""
    if job.state == JobState.SUCCEEDED:
        return 0
    code = job.exit_code if job.HasField("exit_code") else 1
    return 128 - code if code < 0 else code or 1


def _has_log(job: Any, done: int) -> bool:
    """Did an attempt start that has not been shown yet?"""
    last = job.attempts[-1] if job.attempts else None
    if last is None or last.number <= done:
        return False
    return last.started_at > 0 or any(member.started_at for member in last.members)


def _next_attempt(
    client: WireClient, job_id: str, done: int, queue: bool, ends: AttemptEnds, troubles: Troubles
) -> Any:
    """The job as soon as a member of an attempt after number `done` has started, or it has ended."""
    waited, progress = "", Progress(client)
    for job in watched(client, job_id):
        if job.array.size:
            progress.show(job, now())
        if done:
            ends.tell(job)
        troubles.tell(job)
        if JobState(job.state).terminal or _has_log(job, done):
            progress.close()
            return job
        if never_starts(job) and not queue:
            raise NeverStartsError(job)
        if job.reason.message and job.reason.message != waited and job.state == JobState.PENDING:
            waited = job.reason.message
            say(f"waiting: {job.reason.message}")
    return client.get(job_id)


def chunks_of(
    client: WireClient, job: str, rank: int, attempt: int, ask: Ask, *, follow: bool
) -> Iterator[Any]:
    """Pieces of one log; when following, over restarts of the server and each byte once."""
    offset: int | None = None
    lost_at: float | None = None
    while True:
        where: dict[str, Any] = {"offset": offset}
        if offset is None:
            where = {"tail_lines": ask.tail_lines, "since": ask.since}
        stream = client.logs(
            job, rank=rank, attempt=attempt, follow=follow, timestamps=ask.timestamps, **where
        )
        try:
            for chunk in stream:
                yield chunk
                lost_at = None
                if not chunk.HasField("trouble"):
                    offset = chunk.offset + len(chunk.data)
            return
        except (ServerUnavailable, WrongState):
            # WrongState: the member is placed but has no log yet, or its node is away for a moment.
            lost_at = lost_at or time.monotonic()
            if not follow or time.monotonic() - lost_at > PATIENCE_S:
                raise
            time.sleep(PAUSE_S)


def watched(client: WireClient, job_id: str) -> Iterator[Any]:
    """A job as it changes until it has ended, over restarts of the server."""
    return _patient(lambda: client.watch([job_id], until_terminal=True), client)


def _patient(stream: Any, client: WireClient) -> Iterator[Any]:
    """Items of a stream that is opened again after the server was gone for a while."""
    lost_at: float | None = None
    while True:
        try:
            for item in stream():
                lost_at = None
                yield item
            return
        except ServerUnavailable:
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at > PATIENCE_S:
                raise
            time.sleep(PAUSE_S)


def _show(printer: LogPrinter, chunk: Any) -> None:
    if chunk.dropped_bytes:
        say(f"[{chunk.dropped_bytes} bytes dropped: {DROPPED}]")
    printer.write(chunk.data)
