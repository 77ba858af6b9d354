"""How a node behaves over time: what is no lie once, and no accident when it comes again and again.

Owns    how often a node may come with a new boot or another kind of device, lose members, or fail to start
        one job after another, before it gets no new work.
Input   what happened. Output: the event that keeps it, and the quarantine when it was once too often.
Why     each of these is free for the node and costs its jobs a try. The counts are facts of the log, so no
        restart of the daemon forgives anything; an operator does, who resumes the node.
"""

from __future__ import annotations

from typing import Final

from bursar.clock import SECOND_US
from bursar.model import EndCause
from bursar.model.ends import NO_ACCOUNT
from bursard.events import (
    Event,
    NodeCondition,
    NodeMisbehaved,
    NodeQuarantined,
    NodeScheduling,
    StopRequested,
)
from bursard.state.core import State
from bursard.state.records import JobRecord, NodeRecord

BOOTED: Final = "was booted"
KIND_CHANGED: Final = "changed its kind of devices"
LOST: Final = "lost what ran there"
NOT_STARTED: Final = "could not start"

TAKEN_BACK: Final = "its provider takes it back"
"""How a node's reason begins whose machine will not be there much longer."""

UNWELL: Final = "could start nothing"
MISANSWERED: Final = "gave no usable log"

WINDOW_US = 600 * SECOND_US
MOST: Final = {BOOTED: 5, KIND_CHANGED: 3, LOST: 5, UNWELL: 5, MISANSWERED: 5}
"""So often within `WINDOW_US`, and not once more."""
START_FAILURES_MAX = 5
"""Jobs in a row that could not be started, with none in between that was."""


def not_started(node: NodeRecord, job: JobRecord, message: str, at: int) -> list[Event]:
    """It could not start this job, and said why. For want of an account it is the user that counts, once: the
    jobs are as many as that user likes, and others may have an account there.
    """
    counted = f"user:{job.user}" if message.startswith(NO_ACCOUNT) else job.id
    return misbehaved(node, NOT_STARTED, at, counted)


def condition(node: NodeRecord, trouble: str, at: int) -> list[Event]:
    """It says what keeps it from starting anything, or, empty, that nothing does any more."""
    if trouble == node.trouble:
        return []
    events: list[Event] = [NodeCondition(node.id, trouble)]
    return events if node.trouble or not trouble else [*events, *misbehaved(node, UNWELL, at)]


def noticed(state: State, node: NodeRecord, said: str, left_us: int, advice: bool) -> list[Event]:
    """Its provider takes its machine back in so long: it gets no new work, and what runs there is stopped by
    then. With advice alone nothing is stopped: often nothing follows it.
    """
    why = f"{TAKEN_BACK}: {said}" if not advice else f"its provider may take it back: {said}"
    events: list[Event] = []
    if node.mode in ("open", "cordon"):
        events.append(NodeScheduling(node.id, "drain", why))
    for attempt_id in () if advice else node.live:
        attempt = state.attempts[attempt_id]
        if attempt.stop_cause is None:
            grace_us = min(attempt.grace_us, left_us)
            message = f"node {node.facts.name}: {why}"
            events.append(StopRequested(attempt_id, EndCause.PREEMPTED, grace_us, message))
    return events


def misbehaved(node: NodeRecord, how: str, at: int, job_id: str = "") -> list[Event]:
    """It did this now: `BOOTED`, `KIND_CHANGED`, `LOST`, `UNWELL` or so, or `NOT_STARTED` with the job."""
    if how == NOT_STARTED and job_id in node.not_started:
        return []
    events: list[Event] = [NodeMisbehaved(node.id, how, job_id)]
    if node.mode != "quarantine" and (reason := _too_often(node, how, at)):
        events.append(NodeQuarantined(node.id, reason))
    return events


def _too_often(node: NodeRecord, how: str, at: int) -> str:
    if how == NOT_STARTED:
        jobs = len(node.not_started) + 1
        return f"it could not start any of {jobs} jobs in a row" if jobs >= START_FAILURES_MAX else ""
    times = [*node.misbehaved.get(how, ()), at][-(MOST[how] + 1) :]
    if len(times) <= MOST[how] or at - times[0] > WINDOW_US:
        return ""
    return f"it {how} {len(times)} times in {WINDOW_US // (60 * SECOND_US)} minutes"
