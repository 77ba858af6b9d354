"""Why a job that has a place may not go on: a node of it does not answer, is unwell, or is overdue. PURE.

Why     nobody ends such a job (J4): its processes may still run. So all that a user sees is a job that does
        nothing, and whoever looks at it has to be told which node it is, since when, and what can be done.
"""

from __future__ import annotations

from typing import Final
from weakref import WeakKeyDictionary

from bursar.clock import SECOND_US, format_duration, format_instant
from bursar.model import Reason, ReasonCode
from bursar.words import plural
from bursard.events.public import unnamed
from bursard.state.core import State
from bursard.state.decide import overdue
from bursard.state.fold.jobs import tasks_of
from bursard.state.records import AttemptRecord, JobRecord, MemberRecord, NodeRecord

SILENT_TOLD_US: Final = 10 * SECOND_US
"""An agent or a daemon that is started again is back before that: nobody need hear of it."""
_THEN: Final = {
    "STARTING": "it starts once that node answers",
    "RUNNING": "the job goes on if it comes back",
    "STOPPING": "the job ends once that node tells so",
}


def reason(state: State, job: JobRecord, now: int) -> Reason | None:
    """Why a live job, or a task of an array, may not go on; None when all its nodes are well."""
    if job.array is not None:
        return _of_tasks(state, job, now)
    attempt = job.attempt
    if attempt is None:
        return None
    return overdue.reason(state, job) or _silent(state, attempt, now) or _unwell(state, attempt)


def of_silent(node: NodeRecord, now: int) -> str:
    """Why a silent node takes no work, and what its jobs wait for."""
    since = f"its agent has not answered for {format_duration(max(now - node.changed_at, 0))}"
    if not node.live:
        return f"{since}; nothing of a job is left there"
    return (
        f"{since}; {plural(len(node.live), 'job')} there may still run. If the machine is off:"
        f" `bursar node drain {node.facts.name} --confirm-dead`"
    )


_BOUND: WeakKeyDictionary[State, tuple[int, dict[str, int]]] = WeakKeyDictionary()


def of_token(state: State, node: NodeRecord, now: int) -> str:
    """That the secret of a silent node's agent has ended, which is why it may not come back; else empty."""
    version, ends = _BOUND.get(state, (-1, {}))
    if version != state.version:
        ends = {one.name: one.valid_until for one in state.node_tokens.values() if one.instance}
        _BOUND[state] = state.version, ends
    end = ends.get(node.facts.name, 0)
    if node.connected or not 0 < end <= now:
        return ""
    return (
        f"the token of its agent ended at {format_instant(end)}: `bursar node token {node.facts.name}` makes"
        " a new one, for the agent's token file"
    )


def _of_tasks(state: State, job: JobRecord, now: int) -> Reason | None:
    found = [
        (task.array_index, why)
        for task in tasks_of(state, job)
        if task.attempt is not None and (why := reason(state, task, now)) is not None
    ]
    if not found:
        return None
    index, first = min(found, key=lambda one: one[0])
    others = f" (so do {plural(len(found) - 1, 'other task')})" if len(found) > 1 else ""
    facts = (*first.facts, ("task", str(index)), ("tasks", str(len(found))))
    return Reason(first.code, f"task {index}: {first.message}{others}", first.remedy, facts)


def _silent(state: State, attempt: AttemptRecord, now: int) -> Reason | None:
    there = _live_on(state, attempt)
    silent = [
        (member, node)
        for member, node in there
        if not node.connected and now - node.changed_at >= SILENT_TOLD_US
    ]
    if not silent:
        return None
    member, node = silent[0]
    name, since = node.facts.name, node.changed_at
    others = f" (and {plural(len(silent) - 1, 'more rank')} on silent nodes)" if len(silent) > 1 else ""
    return Reason(
        ReasonCode.NODE_SILENT,
        f"{_who(attempt, member)} is on {name}, which has not answered for {format_duration(now - since)}"
        f"{others}; {_THEN[attempt.state]}{_over(attempt)}",
        f"if that machine is off: `bursar node drain {name} --confirm-dead`",
        (("node", name), ("rank", str(member.alloc.rank)), ("since", str(since)), *_more(silent)),
    )


def _unwell(state: State, attempt: AttemptRecord) -> Reason | None:
    unwell = [(member, node) for member, node in _live_on(state, attempt) if node.trouble]
    if not unwell:
        return None
    member, node = unwell[0]
    name = node.facts.name
    return Reason(
        ReasonCode.NODE_UNWELL,
        f"{_who(attempt, member)} is on {name}, which is unwell: {unnamed(node.trouble)}; what runs there"
        f" goes on{_over(attempt)}",
        f"mend that on {name}; it takes work again by itself then",
        (("node", name), ("rank", str(member.alloc.rank)), *_more(unwell)),
    )


def _live_on(state: State, attempt: AttemptRecord) -> list[tuple[MemberRecord, NodeRecord]]:
    return [(member, state.nodes[member.alloc.node_id]) for member in attempt.live()]


def _who(attempt: AttemptRecord, member: MemberRecord) -> str:
    return "it" if len(attempt.members) == 1 else f"rank {member.alloc.rank}"


def _more(found: list[tuple[MemberRecord, NodeRecord]]) -> tuple[tuple[str, str], ...]:
    return (("ranks", ",".join(str(member.alloc.rank) for member, _ in found)),) if len(found) > 1 else ()


def _over(attempt: AttemptRecord) -> str:
    """The members that have ended meanwhile, and wait for the others."""
    ended = [member for member in attempt.members if member.report is not None]
    if not ended:
        return ""
    if len(ended) > 1:
        return f"; {len(ended)} ranks have ended"
    first, report = ended[0], ended[0].report
    assert report is not None
    return f"; rank {first.alloc.rank} has ended ({report.cause.replace('_', ' ')})"
