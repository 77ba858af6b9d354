"""Lines of several logs as one: of all ranks of a gang, of all tasks of an array, merged by time.

Why     what happened across members is read in the order in which it happened, each line under its name.
"""

from __future__ import annotations

import heapq
import queue
import sys
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bursar.cli.common import now
from bursar.cli.ends import LIVE, NeverStartsError, Troubles, cause_rank, never_starts
from bursar.cli.follow import DROPPED, Ask, chunks_of, watched
from bursar.cli.output import say
from bursar.cli.progress import Progress
from bursar.cli.terminal import LogPrinter
from bursar.clock import SECOND_US, format_instant
from bursar.errors import BursarError
from bursar.model import JobState

if TYPE_CHECKING:
    from bursar.client import WireClient

ALL_TASKS: Final = "[*]"
FOLLOWED_MAX: Final = 32
"""Logs that are followed at once; the next is read, from its beginning, once one of them has ended."""
MILLISECOND_US: Final = 1_000
_ENDED: Final = ("SUCCEEDED", "FAILED", "CANCELLED")


class Source(NamedTuple):
    """One log. `began`: when its member started; `order`: among lines of the same instant."""

    order: int
    label: str
    job: str
    rank: int
    attempt: int
    began: int


class Line(NamedTuple):
    """One line, without its end."""

    at: int
    order: int
    label: str
    text: bytes


def print_all(client: WireClient, ref: str, ask: Ask, ranks: str | None) -> None:
    """Print the logs of all tasks (`ranks` None, `ref` is `JOB[*]`), of all ranks, or of one, merged; of the
    last lines, those of all together.
    """
    lines = _merged(client, _sources(client, ref, ask, ranks), ask)
    for line in deque(lines, ask.tail_lines) if ask.tail_lines else lines:
        _print(LogPrinter(sys.stdout), line, ask.timestamps)


def lines_of(client: WireClient, source: Source, ask: Ask, *, follow: bool = False) -> Iterator[Line]:
    """The lines of one log, whole; each with the time at which its first byte came."""
    marks, whens = [-1], [source.began]
    rest, rest_at = b"", source.began
    for chunk in chunks_of(client, source.job, source.rank, source.attempt, ask, follow=follow):
        if chunk.HasField("trouble"):
            continue  # of the job, of which whoever watches it hears
        marks = [marks[-1], *(mark.offset for mark in chunk.times)]
        whens = [whens[-1], *(mark.at for mark in chunk.times)]
        if chunk.dropped_bytes:
            say(f"{source.label}[{chunk.dropped_bytes} bytes dropped: {DROPPED}]")
        start = chunk.offset
        for piece in chunk.data.splitlines(keepends=True) if b"\n" in chunk.data else [chunk.data]:
            at = rest_at if rest else whens[bisect_right(marks, start) - 1]
            start += len(piece)
            if piece.endswith(b"\n"):
                yield Line(at, source.order, source.label, rest + piece[:-1])
                rest = b""
            else:
                rest, rest_at = rest + piece, at
    if rest:
        yield Line(rest_at, source.order, source.label, rest)


def _sources(client: WireClient, ref: str, ask: Ask, ranks: str | None) -> list[Source]:
    if ranks is not None:
        job = client.get(ref)
        rank = 0 if ranks == "all" else int(ranks)
        # Where there is none, the server says why.
        return _of_ranks(job, ranks, ask.attempt) or [Source(0, "", job.id, rank, ask.attempt, 0)]
    array = client.get(ref.removesuffix(ALL_TASKS))
    return _of_tasks(client.list(tasks_of=array.id, states=["all"]))


def _of_ranks(job: Any, ranks: str, attempt: int = 0) -> list[Source]:
    """All members of one attempt, or the one of a rank; of the newest attempt unless another is asked for."""
    found = [one for one in job.attempts if one.number == attempt or not attempt][-1:]
    return [
        Source(
            member.rank, f"{member.rank}: " if ranks == "all" else "", job.id, member.rank, one.number,
            member.started_at,
        )
        for one in found
        for member in one.members
        if ranks in ("all", str(member.rank))
    ]  # fmt: skip


def _of_tasks(tasks: Iterable[Any]) -> list[Source]:
    """The newest attempt of each task that has one: rank 0, of a gang that failed whoever failed first."""
    return [
        Source(
            task.array_index, f"[{task.array_index}] ", task.id, cause_rank(task), task.attempts[-1].number,
            task.started_at or task.submitted_at,
        )
        for task in tasks
        if task.attempts
    ]  # fmt: skip


def _merged(client: WireClient, sources: list[Source], ask: Ask) -> Iterator[Line]:
    """By time. A log is opened when the lines before its first are out, so few are open at once."""
    heap: list[tuple[int, int, int, Line | None]] = []
    opened: dict[int, Iterator[Line]] = {}
    for place, source in enumerate(sources):
        heapq.heappush(heap, (source.began, source.order, place, None))
    while heap:
        _, _, place, line = heapq.heappop(heap)
        source = sources[place]
        if line is not None:
            yield line
        else:
            opened[place] = lines_of(client, source, ask._replace(timestamps=True))
        following = next(opened[place], None) if len(sources) == 1 else _next(opened[place], source)
        if following is None:
            del opened[place]
        else:
            heapq.heappush(heap, (following.at, following.order, place, following))


def _next(lines: Iterator[Line], source: Source) -> Line | None:
    try:
        return next(lines, None)
    except BursarError as error:
        say(f"{source.label}{error.message}")  # its node may be gone; the others are read all the same
        return None


def _print(printer: LogPrinter, line: Line, timestamps: bool) -> None:
    when = format_instant(line.at - line.at % MILLISECOND_US).removesuffix("Z") if timestamps else ""
    if when:
        when = (when if "." in when else when + ".000000")[:-3] + "Z "
    printer.write(f"{when}{line.label}".encode() + line.text + b"\n")


# ------------------------------------------------------------------ following


def follow_all(client: WireClient, ref: str, ask: Ask, ranks: str | None, *, queued: bool) -> None:
    """Print them as they grow, each line as it comes, until the job has ended.

    Raises `NeverStartsError` where it can never start as things are, unless `queued`.
    """
    heard: queue.Queue[Any] = queue.Queue()
    room = threading.Semaphore(FOLLOWED_MAX)
    job_id = client.get(ref.removesuffix(ALL_TASKS)).id
    printer, progress, troubles = LogPrinter(sys.stdout), Progress(client), Troubles()
    seen: set[tuple[str, int, int]] = set()
    open_logs, since, over = 0, 0, False
    _start(_watch, client, job_id, heard)
    while not over or open_logs:
        word = heard.get()
        if isinstance(word, Exception):
            raise word
        if isinstance(word, Line):
            progress.clear()
            _print(printer, word, ask.timestamps)
        elif word is None:
            open_logs -= 1
        else:
            over = JobState(word.state).terminal
            troubles.tell(word)
            if never_starts(word) and not queued:
                progress.close()
                raise NeverStartsError(word)
            if word.array.size:
                progress.show(word, now())
            sources, since = _grown(client, word, ranks, since)
            for source in sources:
                key = (source.job, source.rank, source.attempt)
                if key not in seen:
                    seen.add(key)
                    open_logs += 1
                    _start(_pump, client, source, ask, heard, room)
    progress.close()


def _grown(client: WireClient, job: Any, ranks: str | None, since: int) -> tuple[list[Source], int]:
    """Logs that there may be now, and from when on ended tasks are new."""
    if ranks is not None:
        return [source for source in _of_ranks(job, ranks) if source.began or JobState(job.state).terminal], 0
    tasks = list(client.list(tasks_of=job.id, states=list(LIVE)))
    tasks += client.list(tasks_of=job.id, states=list(_ENDED), since=since)
    newest = max((task.finished_at for task in tasks), default=0)
    return _of_tasks(task for task in tasks if task.started_at or task.finished_at), max(
        since, newest - SECOND_US
    )


def _start(work: Any, *args: Any) -> None:
    threading.Thread(target=work, args=args, daemon=True).start()


def _watch(client: WireClient, job_id: str, heard: queue.Queue[Any]) -> None:
    try:
        for job in watched(client, job_id):
            heard.put(job)
    except BursarError as error:
        heard.put(error)


def _pump(
    client: WireClient, source: Source, ask: Ask, heard: queue.Queue[Any], room: threading.Semaphore
) -> None:
    with room:
        try:
            for line in lines_of(client, source, ask, follow=True):
                heard.put(line)
        except BursarError as error:
            say(f"{source.label}{error.message}")
        heard.put(None)
