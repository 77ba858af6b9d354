"""How an end is told: the sentence, the remedy, and the last lines of the member that caused it.

Why     `show`, `explain`, `wait`, `--wait` and `--follow` say the same about the same end.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from bursar.cli.output import Row, say
from bursar.cli.terminal import clean
from bursar.cli.texts import end_lines, wrapped
from bursar.codec import view
from bursar.errors import BursarError
from bursar.model import JobState, ReasonCode
from bursar.model.ends import REQUEUED, hint_of, shell_faults
from bursar.model.reason import MEANINGS_LIVE

if TYPE_CHECKING:
    from bursar.client import WireClient

LIVE: Final = ("STARTING", "RUNNING", "STOPPING")
LINES: Final = 20
"""Of the log, shown beside an end."""
NEVER_STARTS: Final = frozenset(
    (ReasonCode.MISCONFIGURED, ReasonCode.EXCEEDS_MAX_QUOTA, ReasonCode.EXCEEDS_NODE_CAPACITY)
)
"""Reasons that no other job's end takes away."""
EVIDENCE_BYTES: Final = 65_536
SHOWN_MAX: Final = 3
_QUIET: Final = ("completed", "cancelled")
"""Ends that nobody asks the log about."""


def never_starts(job: Any) -> bool:
    """Does a pending job wait for what will not come by itself? Of a message of `bursar.v1`."""
    return job.state == "PENDING" and job.reason.code in NEVER_STARTS


def called(job: Any) -> str:
    """What people call it: `12`, a task of an array `12[3]`. Of a message of `bursar.v1`."""
    return f"{job.number}[{job.array_index}]" if job.parent_id else str(job.number)


def cause_rank(job: Any) -> int:
    """Whose log says why a job ended: of a gang the member that failed first. Of a message of `bursar.v1`."""
    return job.end.rank if job.HasField("end") and job.end.HasField("rank") else 0


class NeverStartsError(Exception):
    """What is waited for can never start as things are."""

    def __init__(self, job: Any) -> None:
        reason, name = job.reason, called(job)
        typed = f"'{name}'" if "[" in name else name
        super().__init__(
            f"job {name} cannot start: {reason.code}: {clean(reason.message)}\n"
            f"remedy: {clean(reason.remedy)}\n"
            f"it stays in the queue; `bursar cancel {typed}` takes it out, --queue waits for it"
        )


def attempt_end(attempt: Any) -> str:
    """How an attempt ended that another one follows. Of a message of `bursar.v1`."""
    if attempt.message.startswith(REQUEUED):
        return f"attempt {attempt.number} ended: {clean(attempt.message)}"
    code = (
        f", exit code {attempt.exit_code}" if attempt.HasField("exit_code") and attempt.exit_code > 0 else ""
    )
    why = f": {clean(attempt.message)}" if attempt.message else ""
    return f"attempt {attempt.number} ended: {attempt.end_cause.replace('_', ' ')}{code}{why}"


class AttemptEnds:
    """Says once of each attempt how it ended, while its job goes on."""

    def __init__(self) -> None:
        self._said: dict[str, int] = {}

    def tell(self, job: Any) -> None:
        """Those that are new. Of the last one the end of the job says more."""
        last = self._said.get(job.id, 0)
        for attempt in job.attempts:
            if attempt.number > last and attempt.state == "ENDED" and not JobState(job.state).terminal:
                say(f"job {called(job)}: {attempt_end(attempt)}")
                self._said[job.id] = attempt.number


class Troubles:
    """Says once of each job that a node of it does not answer or is unwell, and once that this is over."""

    def __init__(self) -> None:
        self._said: dict[str, dict[str, str]] = {}

    def tell(self, job: Any) -> None:
        """What is new of a job, as a message of `bursar.v1`. An end, or another try, is told by others."""
        known = self._said.get(job.id)
        if job.state in LIVE and job.reason.code in MEANINGS_LIVE:
            facts = {"code": job.reason.code, **job.reason.facts}
            if facts != known:
                self._said[job.id] = facts
                words = (job.reason.message, job.reason.remedy)
                say(f"job {called(job)}: " + "; ".join(clean(word) for word in words if word))
        elif known is not None:
            del self._said[job.id]
            if job.state in LIVE:
                say(f"job {called(job)}: node {clean(known['node'])} answers and is well again")


def tell_end(client: WireClient, job: Any, *, shown_rank: int | None = None) -> None:
    """Say on standard error how a job has ended. `shown_rank`: whose log has just been printed whole."""
    if job.array.size and job.state == "FAILED":
        job = client.get(job.id)  # with the tasks that failed, which lists lack
    row = view.job(job)
    if row["end"] is None:
        return
    for line in end_lines(row["end"]):
        say(line)
    if evidence := _evidence(client, row):
        say(evidence)
    whose, lines = _last_lines(client, row)
    if shown_rank is not None and shown_rank == (row["end"]["rank"] or 0):
        text = _hint(row, lines)
    else:
        text = _log_text(row, whose, lines)
    if text:
        say(text)


def log_text(client: WireClient, row: Row) -> str:
    """The last lines of whoever caused the end, under a line that says whose, and what they tell of it.

    Empty where there are none.
    """
    return _evidence(client, row) or _log_text(row, *_last_lines(client, row))


def _evidence(client: WireClient, row: Row) -> str:
    """What a shell said in the log of a job that completed all the same: commands that were not there.

    The log's beginning and its end are read, `EVIDENCE_BYTES` of each: a missing environment is told early.
    """
    end = row["end"]
    if end is None or end["cause"] != "completed" or row["array"] or row["type"] != "job":
        return ""
    try:
        head = _bytes_of(client, row["id"], 0)
        text = (
            head
            if len(head) < EVIDENCE_BYTES
            else head + b"\n" + _bytes_of(client, row["id"], EVIDENCE_BYTES)
        )
    except BursarError:
        return ""
    said = shell_faults(text.decode(errors="backslashreplace"))
    if not said:
        return ""
    shown = "; ".join(clean(one) for one in said[:SHOWN_MAX])
    more = f" (and {len(said) - SHOWN_MAX} more)" if len(said) > SHOWN_MAX else ""
    return wrapped(
        f"its log says {shown}{more}: a script goes on after that, unless `set -e` stands above it"
    )


def _bytes_of(client: WireClient, job: str, tail: int) -> bytes:
    """A part of a log: its beginning, or its last `tail` bytes."""
    data = b""
    for chunk in client.logs(job, tail_bytes=tail):
        data += chunk.data
        if len(data) >= EVIDENCE_BYTES:
            break
    return data[:EVIDENCE_BYTES]


def _log_text(row: Row, whose: str, lines: list[str]) -> str:
    if not lines:
        return ""
    return "\n".join(
        [f"last lines{whose}:", *(f"  {line}" for line in lines), *filter(None, [_hint(row, lines)])]
    )


def _hint(row: Row, lines: list[str]) -> str:
    """What the lines say of what it died of, where the end itself does not know."""
    hint = hint_of("\n".join(lines)) if lines and row["end"]["cause"] == "failed" else ""
    return wrapped(f"its last lines say: {hint}") if hint else ""


def _last_lines(client: WireClient, row: Row) -> tuple[str, list[str]]:
    """Whose they are, in words, and the lines; none where nobody asks, or they are not there."""
    end = row["end"]
    if end is None or end["cause"] in _QUIET or (row["array"] and not end["failed_tasks"]):
        return "", []
    job, whose, rank = row["id"], "", end["rank"] or 0
    if row["array"]:
        index = end["failed_tasks"][0]["index"]
        job, whose = f"{job}[{index}]", f" of task {index}"
    elif len(row["attempts"][-1]["nodes"] if row["attempts"] else ()) > 1:
        whose = f" of rank {rank}"
    try:
        data = b"".join(chunk.data for chunk in client.logs(job, rank=rank, tail_lines=LINES))
    except BursarError:
        return "", []  # it is not there any more, or not for this caller: the end is told all the same
    lines = [clean(re.sub(r".*\r", "", line)) for line in data.decode(errors="backslashreplace").splitlines()]
    return whose, lines[-LINES:]
