"""How a job ended, as a message: the words of `bursar.model.ends` about what the records say.

Why     lists say the end of each job from its own record; of an array that is looked at alone, the tasks that
        failed (`bursard.services.failures`) are named and grouped by what they failed of.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec.structs import replace

from bursar.model import EndCause, EndFacts, JobState, kind_of, phrase_of, remedy_of, sentence_of
from bursar.model.ends import NOT_EXECUTABLE, NOT_FOUND, REMEDIES, beginning_of
from bursar.model.ranges import Ranges, compress, count
from bursar.model.steps import unnamed
from bursar.v1 import types_pb2 as pb
from bursar.words import plural
from bursard.state import AttemptRecord, JobRecord
from bursard.state.arrays import size_of
from bursard.state.ends import facts_of

TASKS_SHOWN: Final = 1_000
"""Failed tasks of one array that an answer names."""
RANGES_SHOWN: Final = 8
"""Of one group of them, in the sentence."""
GROUPS_SHOWN: Final = 5
QUOTING: Final = frozenset(
    ("workdir", "output_file", "start_failed", "not_found", "not_executable", "never_started")
)
"""Ends whose detail may quote the program, which not everybody may see."""


def end_view(job: JobRecord, private: bool) -> pb.End | None:
    """The end of a job, None before it. `private`: the caller may see what it runs."""
    if not job.state.terminal:
        return None
    if job.array is not None:
        return _array_end(job)
    facts = facts_of(job)
    kind = kind_of(facts)
    quotes = kind in QUOTING or (bool(job.attempts) and may_quote(job.attempts[-1]))
    shown = facts if private or not quotes else _unquoted(facts)
    shown = shown if private else replace(shown, steps=unnamed(shown.steps))
    wire = pb.End(
        cause=facts.cause.value, signal=facts.signal, message=sentence_of(shown), remedy=remedy_of(facts)
    )
    if facts.rank is not None:
        wire.rank = facts.rank
    if facts.exit_code >= 0:
        wire.exit_code = facts.exit_code
    return wire


def _unquoted(facts: EndFacts) -> EndFacts:
    """Without what may quote the program, but still of its kind: our own words that tell it stay."""
    return replace(facts, detail=beginning_of(facts.detail))


def may_quote(attempt: AttemptRecord) -> bool:
    """May its message quote the program? It may be of any of its members, whatever ended the attempt."""
    reports = [member.report for member in attempt.members if member.report is not None]
    return _quotes(attempt.cause or "", attempt.exit_code) or any(
        _quotes(report.cause, report.exit_code) for report in reports
    )


def _quotes(cause: str, exit_code: int) -> bool:
    """May what is said of such an end quote the program?"""
    return cause == EndCause.START_FAILED or exit_code in (NOT_EXECUTABLE, NOT_FOUND)


def _array_end(job: JobRecord) -> pb.End:
    assert job.array is not None
    counts, tasks = job.array.counts, plural(size_of(job), "task")
    failed, cancelled = counts.get(JobState.FAILED, 0), counts.get(JobState.CANCELLED, 0)
    if job.state is JobState.SUCCEEDED:
        wire = pb.End(cause=EndCause.COMPLETED.value, exit_code=0, message=f"completed, all of {tasks}")
        if job.array.stepped:
            wire.message += f", but steps of {plural(job.array.stepped, 'task')} failed"
            wire.remedy = (
                f"`bursar show '{job.number}[INDEX]'` names them, `bursar logs '{job.number}[*]'` shows why"
            )
        return wire
    if job.state is JobState.CANCELLED:
        return pb.End(cause=EndCause.CANCELLED.value, message=f"{cancelled} of {tasks} were cancelled")
    return pb.End(
        cause=EndCause.FAILED.value,
        exit_code=1,
        message=f"{failed} of {tasks} failed",
        remedy=f"`bursar ls --tasks {job.number} --state failed` lists them",
        failed_total=failed,
    )


def name_failed(wire: pb.End, number: int, tasks: Sequence[JobRecord], private: bool) -> None:
    """Name the tasks of an array that failed, and say in its sentence what of."""
    facts = {task.array_index: facts_of(task) for task in tasks}
    for index in sorted(facts)[:TASKS_SHOWN]:
        wire.failed_tasks.append(_task(index, facts[index], private))
    wire.message += ": " + _groups(facts)
    remedies = {REMEDIES[kind_of(one)] for one in facts.values()}
    if len(remedies) == 1:
        [(index, one), *_] = facts.items()
        wire.remedy = remedy_of(replace(one, job=f"{number}[{index}]"))


def _task(index: int, facts: EndFacts, private: bool) -> pb.FailedTask:
    shown = facts if private or kind_of(facts) not in QUOTING else _unquoted(facts)
    shown = shown if private else replace(shown, steps=unnamed(shown.steps))
    wire = pb.FailedTask(
        index=index, cause=facts.cause.value, signal=facts.signal, message=sentence_of(shown)
    )
    if facts.exit_code >= 0:
        wire.exit_code = facts.exit_code
    return wire


def _groups(tasks: dict[int, EndFacts]) -> str:
    """`2 exit code 3 (tasks 4, 7), 1 out of memory (task 9)`: the largest group first."""
    groups: dict[str, list[int]] = {}
    for index in sorted(tasks):
        groups.setdefault(phrase_of(tasks[index]), []).append(index)
    ordered = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    words = [f"{len(indices)} {phrase} ({_named(indices)})" for phrase, indices in ordered[:GROUPS_SHOWN]]
    rest = sum(len(indices) for _, indices in ordered[GROUPS_SHOWN:])
    return ", ".join([*words, *([f"{rest} otherwise"] if rest else [])])


def _named(indices: list[int]) -> str:
    return named_ranges(compress(indices))


def named_ranges(ranges: Ranges) -> str:
    """`task 3`, `tasks 0-8:2, 12, …`: the first few."""
    words = list(_spans(ranges[:RANGES_SHOWN]))
    more = ["…"] if len(ranges) > RANGES_SHOWN else []
    return ("task " if count(ranges) == 1 else "tasks ") + ", ".join([*words, *more])


def _spans(ranges: Ranges) -> Iterable[str]:
    """`3`, `4-9`, `0-8:2`, as an array is written."""
    for start, stop, step in ranges:
        last = range(start, stop, step)[-1]
        yield str(start) if last == start else f"{start}-{last}" + (f":{step}" if step > 1 else "")
