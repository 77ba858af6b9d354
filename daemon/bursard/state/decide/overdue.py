"""Members whose node is in contact and does not do what it was told: not started, or not ended. PURE.

Why     their processes may still live, so nothing of theirs is given away and the job runs nowhere else (J4).
        What frees them is their node's own word, the loss of the node, or an operator who vouches for it.
"""

from __future__ import annotations

from typing import Literal

from bursar.clock import format_duration
from bursar.model import EndCause, Reason, ReasonCode
from bursard.events import Event, ExitReport, MemberOverdue, NodeQuarantined, StopRequested
from bursard.state.core import State
from bursard.state.decide.attempts import exited
from bursard.state.records import AttemptRecord, JobRecord, MemberRecord, NodeRecord

Phase = Literal["start", "limit", "stop"]
"""What did not happen: the start; the end, although the time limit, or a stop, and the grace have passed."""


def overdue(state: State, attempt: AttemptRecord, member: MemberRecord, phase: Phase) -> list[Event]:
    """It is told, it is asked to stop (again), and its node gets no new work.

    One that was never started goes back to the queue once its node says that it has none of it.
    """
    node = state.nodes[member.alloc.node_id]
    name, after = node.facts.name, format_duration(state.limits.overdue_after_us)
    what = {
        "start": f"node {name} is in contact and has not started it within {after}",
        "limit": f"node {name} is in contact and has not ended it {after} after its time limit and grace",
        "stop": f"node {name} is in contact and has not ended it {after} after a stop and its grace",
    }[phase]
    stop = StopRequested(attempt.id, attempt.stop_cause or EndCause.TIME_LIMIT, 0, attempt.stop_message)
    if attempt.stop_cause is None:
        cause = EndCause.PREEMPTED if phase == "start" else EndCause.TIME_LIMIT
        stop = StopRequested(attempt.id, cause, attempt.grace_us if phase == "start" else 0, what)
    events: list[Event] = [MemberOverdue(attempt.id, member.alloc.rank, phase, what), stop]
    if node.mode != "quarantine":
        did = "started" if phase == "start" else "ended"
        events.append(NodeQuarantined(node.id, f"it has not {did} in time what it was given"))
    return events


def gone(state: State, node: NodeRecord, attempt_id: str, rank: int, message: str) -> list[Event]:
    """An operator vouches that nothing is left of a member that is overdue: it ends as it was told to, billed
    as far as it was reported.
    """
    attempt = state.attempts[attempt_id]
    held_us = attempt.members[rank].charged_us
    report = ExitReport(cause=attempt.stop_cause or EndCause.NODE_LOST, message=message, held_us=held_us)
    return exited(state, node, attempt_id, rank, report, 0)


def reason(state: State, job: JobRecord) -> Reason | None:
    """Why a live job does not go on, with what an operator can do; None when nothing of it is overdue."""
    attempt = job.attempt
    if attempt is None or not attempt.overdue:
        return None
    rank = min(attempt.overdue)
    more = len(attempt.overdue) - 1
    name = attempt.members[rank].node
    others = f"; so have {more} others" if more else ""
    return Reason(
        ReasonCode.NODE_OVERDUE,
        f"rank {rank}: {attempt.overdue[rank]}{others}. Its processes may still run, so it runs nowhere else",
        remedy(name),
        (("node", name), ("rank", str(rank))),
    )


def remedy(name: str) -> str:
    """What an operator can do about members that are overdue on a node."""
    return (
        f"look at {name}: its agent's log and what runs there; restart its agent, which tells what it has."
        f" Once nothing of the job runs there any more: `bursar node drain {name} --confirm-dead`"
    )
