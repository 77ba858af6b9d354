"""Following a job: its log as it grows, over attempts and over restarts of the server.

Why     `logs -f` and `submit --follow` show the same, and neither may lose or repeat a byte when the
        daemon restarts: the offset is kept here.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Final

from bursar.cli.common import now
from bursar.cli.ends import NeverStartsError, never_starts
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


def print_logs(
    client: WireClient, job: str, *, rank: int, attempt: int, follow: bool, tail_lines: int
) -> None:
    """Print a member's log: what is there, or until the job has ended."""
    printer = LogPrinter(sys.stdout)
    if follow and not attempt:
        follow_job(client, client.get(job).id, rank=rank, tail_lines=tail_lines)
        return
    for chunk in client.logs(job, rank=rank, attempt=attempt, follow=follow, tail_lines=tail_lines):
        _show(printer, chunk)


def follow_job(
    client: WireClient, job_id: str, *, rank: int = 0, tail_lines: int = 0, queue: bool = True
) -> Any:
    """Print the log of each attempt from the newest on, of an array how far it is; the job as it ended.

    Raises `NeverStartsError` for one that can never start as things are, unless `queue`.
    """
    printer, done = LogPrinter(sys.stdout), 0
    while True:
        job = _next_attempt(client, job_id, done, queue)
        if not _has_log(job, done):
            return job
        number = job.attempts[-1].number
        if done:
            say(f"attempt {number}")
        _follow_attempt(client, printer, job_id, number, rank, tail_lines if not done else 0)
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


def _next_attempt(client: WireClient, job_id: str, done: int, queue: bool) -> Any:
    """The job as soon as a member of an attempt after number `done` has started, or it has ended."""
    waited, progress = "", Progress()
    for job in _patient(lambda: client.watch([job_id], until_terminal=True), client):
        if job.array.size:
            progress.show(job, now())
        if JobState(job.state).terminal or _has_log(job, done):
            progress.close()
            return job
        if never_starts(job) and not queue:
            raise NeverStartsError(job)
        if job.reason.message and job.reason.message != waited and job.state == JobState.PENDING:
            waited = job.reason.message
            say(f"waiting: {job.reason.message}")
    return client.get(job_id)


def _follow_attempt(
    client: WireClient, printer: LogPrinter, job_id: str, number: int, rank: int, tail_lines: int
) -> None:
    offset: int | None = None
    lost_at: float | None = None
    while True:
        try:
            where = {"tail_lines": tail_lines} if offset is None else {"offset": offset}
            for chunk in client.logs(job_id, rank=rank, attempt=number, follow=True, **where):
                _show(printer, chunk)
                offset = chunk.offset + len(chunk.data)
                lost_at = None
            return
        except (ServerUnavailable, WrongState):
            # WrongState: the member is placed but has no log yet, or its node is away for a moment.
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at > PATIENCE_S:
                raise
            time.sleep(PAUSE_S)


def _patient(stream: Any, client: WireClient) -> Any:
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
        say(f"[{chunk.dropped_bytes} bytes dropped: the log passed its size limit]")
    printer.write(chunk.data)
