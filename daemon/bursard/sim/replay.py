"""`bursar sim --replay`: make the plan of a saved snapshot again, and say whether it is the same.

Why     a decision that nobody understands can be looked at on another machine, and by a later version, with
        nothing but the file (`bursar doctor --save-snapshot`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bursar.clock import Instant, format_instant
from bursar.errors import BursarError, InvalidRequest
from bursar.model import Reason
from bursar.words import on_one_line, plural
from bursar_policies.decision import Plan, Snapshot, Start
from bursard.scheduler import reason_of
from bursard.scheduler.saved import Saved, load, plan_bytes

FILE_BYTES_MAX = 256 << 20
_SAME = {
    None: "the file holds no plan to compare with",
    True: "the same plan as the file holds",
    False: "another plan than the file holds",
}


class Waiting(msgspec.Struct, frozen=True):
    """A queue of which not all starts. `first`: its first job that waits. `jobs`: all that it has."""

    first: str
    jobs: int
    priority: int
    reason: Reason


class Replay(msgspec.Struct, frozen=True):
    """What `-o json` prints. `same`: as the plan in the file, to the byte; None when it holds none."""

    same: bool | None
    plan: Plan
    waiting: tuple[Waiting, ...]


def replay(path: str) -> tuple[Saved, Replay]:
    """Read a file and plan. Raises `InvalidRequest` when it cannot be read."""
    saved = load(_read(path), path)
    with _planned_of(path):
        made = saved.again()
        same = None if saved.plan is None else plan_bytes(saved.plan) == plan_bytes(made)
        found = Replay(same, made, tuple(_waiting(saved.snapshot, made)))
        table(saved, found)  # an instant or a row that is none is told before anything is printed
    return saved, found


@contextmanager
def _planned_of(path: str) -> Iterator[None]:
    """Whatever goes wrong within is the file's: a plan trusts what it is made of."""
    try:
        yield
    except BursarError:
        raise
    except Exception as problem:
        said = on_one_line(f"{type(problem).__name__}: {problem}", 200)
        raise InvalidRequest(
            f"--replay {path}: no plan can be made of it ({said}): it is damaged, or was not written by"
            " `bursar doctor --save-snapshot`; if it was, report this together with the file"
        ) from problem


def table(saved: Saved, found: Replay) -> str:
    """The same for people."""
    snapshot, made = saved.snapshot, found.plan
    nodes, jobs = len(snapshot.nodes.ids), sum(len(queue.jobs) for queue in snapshot.queues)
    lines = [
        f"snapshot {snapshot.version} at {format_instant(Instant(saved.at))}: {plural(nodes, 'node')},"
        f" {plural(len(snapshot.running), 'live member')}, {plural(jobs, 'waiting job')} in"
        f" {plural(len(snapshot.queues), 'queue')}"
    ]
    for action in made.actions:
        if isinstance(action, Start):
            on = ", ".join(snapshot.nodes.names[member.node] for member in action.members)
            lines.append(f"start {action.job_id} on {on}")
        else:
            lines.append(f"{type(action).__name__.lower()} {msgspec.json.encode(action).decode()}")
    for one in found.waiting:
        more = f" and {one.jobs - 1} more" if one.jobs > 1 else ""
        lines.append(f"wait {one.first}{more}: {one.reason.code.value}: {one.reason.message}")
    lines.append(_SAME[found.same])
    return "\n".join(on_one_line(line, len(line)) for line in lines)


def _waiting(snapshot: Snapshot, made: Plan) -> Iterator[Waiting]:
    started = {start.job_id for start in made.starts}
    for index in made.verdicts:
        queue = snapshot.queues[index]
        left = [job_id for _, job_id in queue.jobs if job_id not in started]
        yield Waiting(left[0], len(left), queue.priority, reason_of(snapshot, made, index))


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as problem:
        raise InvalidRequest(f"--replay {path}: {problem.strerror or problem}") from None
    if len(data) > FILE_BYTES_MAX:
        raise InvalidRequest(f"--replay {path}: is over {FILE_BYTES_MAX >> 20} MiB")
    return data
