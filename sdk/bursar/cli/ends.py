"""How an end is told: the sentence, the remedy, and the last lines of the member that caused it.

Why     `show`, `explain`, `wait`, `--wait` and `--follow` say the same about the same end.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from bursar.cli.output import Row, say
from bursar.cli.terminal import clean
from bursar.cli.texts import end_lines
from bursar.codec import view
from bursar.errors import BursarError
from bursar.model import ReasonCode

if TYPE_CHECKING:
    from bursar.client import WireClient

LINES: Final = 20
"""Of the log, shown beside an end."""
NEVER_STARTS: Final = frozenset(
    (ReasonCode.MISCONFIGURED, ReasonCode.EXCEEDS_MAX_QUOTA, ReasonCode.EXCEEDS_NODE_CAPACITY)
)
"""Reasons that no other job's end takes away."""
_QUIET: Final = ("completed", "cancelled")
"""Ends that nobody asks the log about."""


def never_starts(job: Any) -> bool:
    """Does a pending job wait for what will not come by itself? Of a message of `bursar.v1`."""
    return job.state == "PENDING" and job.reason.code in NEVER_STARTS


class NeverStartsError(Exception):
    """What is waited for can never start as things are."""

    def __init__(self, job: Any) -> None:
        reason = job.reason
        super().__init__(
            f"job {job.number} cannot start: {reason.code}: {clean(reason.message)}\n"
            f"remedy: {clean(reason.remedy)}\n"
            f"it stays in the queue; `bursar cancel {job.number}` takes it out, --queue waits for it"
        )


def tell_end(client: WireClient, job: Any, *, shown_rank: int | None = None) -> None:
    """Say on standard error how a job has ended. `shown_rank`: whose log has just been printed whole."""
    if job.array.size and job.state == "FAILED":
        job = client.get(job.id)  # with the tasks that failed, which lists lack
    row = view.job(job)
    if row["end"] is None:
        return
    for line in end_lines(row["end"]):
        say(line)
    text = "" if shown_rank is not None and shown_rank == (row["end"]["rank"] or 0) else log_text(client, row)
    if text:
        say(text)


def log_text(client: WireClient, row: Row) -> str:
    """The last lines of whoever caused the end, under a line that says whose; empty where there are none."""
    end = row["end"]
    if end is None or end["cause"] in _QUIET or (row["array"] and not end["failed_tasks"]):
        return ""
    job, whose, rank = row["id"], "", end["rank"] or 0
    if row["array"]:
        index = end["failed_tasks"][0]["index"]
        job, whose = f"{job}[{index}]", f" of task {index}"
    elif len(row["attempts"][-1]["nodes"] if row["attempts"] else ()) > 1:
        whose = f" of rank {rank}"
    try:
        data = b"".join(chunk.data for chunk in client.logs(job, rank=rank, tail_lines=LINES))
    except BursarError:
        return ""  # it is not there any more, or not for this caller: the end is told all the same
    lines = [clean(re.sub(r".*\r", "", line)) for line in data.decode(errors="backslashreplace").splitlines()]
    if not lines:
        return ""
    return "\n".join([f"last lines{whose}:", *(f"  {line}" for line in lines[-LINES:])])
