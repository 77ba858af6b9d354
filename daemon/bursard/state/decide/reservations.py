"""Reservations of nodes: which nodes one gets, whom it may turn away, and what its time brings. PURE.

Owns    the choice of nodes where a document gives a number; the refusal of one whose nodes are another's, or
        in whose window somebody may still run; who is asked to end for it; and its end.
Why     a window that is promised must be empty when it begins. So what runs into it is told when it is made,
        and what is placed, or given a later time limit, afterwards ends before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from msgspec.structs import replace

from bursar.clock import HOUR_US, SECOND_US, Instant, format_duration, format_instant
from bursar.errors import InvalidRequest, WrongState
from bursar.model import EndCause
from bursar.model.constraints import attributes, matches
from bursar.words import plural
from bursar_policies.specs import ReservationSpec
from bursard.events import Event, PolicyRemoved, StopRequested
from bursard.state.core import State
from bursard.state.records import AttemptRecord, JobRecord, NodeRecord
from bursard.state.tables import HOLD_MARGIN_US, latest_end, stays

SHOWN: Final = 5
STOPS_MAX: Final = 200
"""So many are asked to end in one turn; the others with the next."""
SOON_US: Final = 25 * HOUR_US
"""Windows that begin later are not looked at for whom to stop: no grace is longer than a day."""


class Meets(NamedTuple):
    """An attempt that may still run on a node of a reservation when it begins, and its latest end."""

    attempt: AttemptRecord
    job: JobRecord
    until: int


def resolved(
    state: State,
    name: str,
    spec: ReservationSpec,
    where: str,
    now: int,
    others: Mapping[str, ReservationSpec] = MappingProxyType({}),
) -> ReservationSpec:
    """The reservation with its nodes, if it may be made.

    Args:
        where: the document, for messages. others: that come into force with it.

    Raises:
        InvalidRequest: it is over, names a node that is not there, or there are not so many.
        WrongState: a node is reserved for others then, or something may still run there.
    """
    if spec.ends_at <= now:
        raise InvalidRequest(f"{where}: is over since {_at(spec.ends_at)}; give a window to come")
    known = {**state.reservations.specs, **others}
    known.pop(name, None)
    chosen = replace(spec, nodes=_chosen(state, spec, known, where)) if spec.count else spec
    unknown = [one for one in chosen.nodes if state.node_by_name(one) is None]
    if unknown:
        raise InvalidRequest(f"{where}: there is no node {_some(unknown)}; `bursar nodes` lists them")
    if taken := _taken(known, chosen, chosen.nodes):
        node, other = taken[0]
        its = known[other]
        raise WrongState(
            f"{where}: node {node} is reserved by {other} for {its.whose} from {_at(its.starts_at)}"
            f" to {_at(its.ends_at)}; take another window or other nodes, or cancel that one (`bursar"
            f" reserve cancel {other}`)",
            {"node": node, "reservation": other},
        )
    _refuse_running(state, chosen, where)
    _refuse_promised(state, chosen, where)
    return chosen


def _refuse_promised(state: State, spec: ReservationSpec, where: str) -> None:
    """A place that is kept for a job to meet its deadline is not taken away unawares."""
    if spec.running == "leave":
        return
    found = dict[str, JobRecord]()
    for node in _nodes(state, spec.nodes):
        for job_id in state.promises.on_node.get(node.id, ()):
            job = state.promises.given[job_id]
            promise = job.promise
            meets = promise is not None and promise.start < spec.ends_at and promise.until > spec.starts_at
            if meets and not spec.lets(job.user, job.spec.project):
                found[job_id] = job
    if found:
        raise WrongState(
            f"{where}: on its nodes places are kept then for {plural(len(found), 'job')} that were promised"
            f" their deadlines: {_some([one.display for one in found.values()])}; take another window or"
            " other nodes, or use `running: leave` (--ignore-running): they are placed elsewhere, or told"
            " that the promise is broken",
            {"jobs": ",".join([*found][:SHOWN])},
        )


def _refuse_running(state: State, spec: ReservationSpec, where: str) -> None:
    found = meeting(state, spec)
    if spec.running == "preempt":
        found = [one for one in found if stays(one.job.spec)]
    if not found or spec.running == "leave":
        return
    last = max(one.until for one in found)
    may = (
        "may not be stopped for others (preemptible: false) and may run"
        if spec.running == "preempt"
        else "may run"
    )
    ways = ["begin after that", "use `running: leave` (--ignore-running) to let them go on"]
    if spec.running == "refuse":
        ways.append("`running: preempt` (--preempt) to have them stopped in time")
    raise WrongState(
        f"{where}: on its nodes {plural(len(found), 'job')} {may} past its start, until {_at(last)} at the"
        f" latest: {_some([one.job.display for one in found])}; {', or '.join(ways)}",
        {"jobs": ",".join(one.job.id for one in found[:SHOWN]), "until": str(last)},
    )


def meeting(state: State, spec: ReservationSpec) -> list[Meets]:
    """What runs on the nodes of a reservation that is not for it and may do so when it begins, the first to
    end first.
    """
    found: dict[str, Meets] = {}
    for node in _nodes(state, spec.nodes):
        for attempt_id in node.live:
            attempt = state.attempts.get(attempt_id)
            if attempt is None or attempt_id in found:
                continue
            job, until = state.jobs[attempt.job_id], _until(state, attempt)
            if until > spec.starts_at and not spec.lets(job.user, job.spec.project):
                found[attempt_id] = Meets(attempt, job, until)
    return sorted(found.values(), key=lambda one: (one.until, one.attempt.id))


def _until(state: State, attempt: AttemptRecord) -> int:
    """When it has ended at the latest; one that waits for the place of another begins with its end."""
    until, waits_us = latest_end(attempt), 0
    while attempt.after in state.attempts:
        waits_us += latest_end(attempt) - (attempt.started_at or attempt.placed_at)
        attempt = state.attempts[attempt.after]
        until = latest_end(attempt) + waits_us
    return until


def seen(state: State, spec: ReservationSpec) -> tuple[int, int, int]:
    """How many attempts run on its nodes for which it is, how many others that may meet it, and the latest
    end of those; 0 without any.
    """
    others = meeting(state, spec)
    here = {attempt_id for node in _nodes(state, spec.nodes) for attempt_id in node.live}
    jobs = (state.jobs[one.job_id] for one in map(state.attempts.get, here) if one is not None)
    own = sum(spec.lets(job.user, job.spec.project) for job in jobs)
    return own, len(others), max((one.until for one in others), default=0)


def _chosen(
    state: State, spec: ReservationSpec, known: Mapping[str, ReservationSpec], where: str
) -> tuple[str, ...]:
    """Those on which nobody may still run when it begins come first, then those that are free the soonest."""
    able = [node for node in state.nodes.values() if _matches(node, spec)]
    names = [node.facts.name for node in able]
    taken = {node for node, _ in _taken(known, spec, names)}
    free = [node for node in able if node.facts.name not in taken]
    if len(free) < spec.count:
        raise InvalidRequest(
            f"{where}: asks for {plural(spec.count, 'node')}, and {len(free)} can be had"
            + (
                f": {plural(len(able), 'node')} match, {len(able) - len(free)} are reserved then"
                if taken
                else ""
            )
            + "; ask for fewer, for others (where, gpu_type), or take another window",
            {"asked": str(spec.count), "free": str(len(free))},
        )

    def order(node: NodeRecord) -> tuple[int, bool, str]:
        runs = meeting(state, replace(spec, nodes=(node.facts.name,)))
        last = max((one.until for one in runs), default=0)
        return last, not state.cluster.ready[node.row], node.facts.name

    return tuple(sorted(node.facts.name for node in sorted(free, key=order)[: spec.count]))


def _matches(node: NodeRecord, spec: ReservationSpec) -> bool:
    facts = node.facts
    if spec.gpu_type and spec.gpu_type not in {device.type for device in facts.devices}:
        return False
    known = attributes(facts, dict(facts.labels))
    return all(matches(pattern, known.get(key)) for key, pattern in spec.where)


def _taken(
    known: Mapping[str, ReservationSpec], spec: ReservationSpec, nodes: Iterable[str]
) -> list[tuple[str, str]]:
    """(node, reservation) where both would be for somebody at a time. Maintenance may meet any other."""
    if spec.maintenance:
        return []
    found, wanted = list[tuple[str, str]](), set(nodes)
    for other, one in known.items():
        meets = one.starts_at < spec.ends_at and spec.starts_at < one.ends_at
        if meets and not one.maintenance:
            found += [(node, other) for node in one.nodes if node in wanted]
    return sorted(found)


def _nodes(state: State, names: Iterable[str]) -> Iterable[NodeRecord]:
    return (node for node in map(state.node_by_name, names) if node is not None)


def due(state: State, now: int) -> list[Event]:
    """Those that are over end; who must be gone when one begins is asked to end, so early that its grace and
    what a last kill may take end with the start.
    """
    events: list[Event] = [PolicyRemoved("Reservation", name) for name in state.reservations.over(now)]
    for name, spec in state.reservations.specs.items():
        if spec.running != "preempt" or not spec.starts_at - SOON_US <= now < spec.ends_at:
            continue
        for one in meeting(state, spec):
            attempt = one.attempt
            leaves_us = attempt.grace_us + HOLD_MARGIN_US
            if attempt.stop_cause is not None or stays(one.job.spec) or now + leaves_us < spec.starts_at:
                continue
            message = f"its node is reserved by {name} from {_at(spec.starts_at)}"
            events.append(StopRequested(attempt.id, EndCause.PREEMPTED, attempt.grace_us, message))
            if len(events) >= STOPS_MAX:
                return events
    return events


def refuse_later_end(state: State, job: JobRecord, attempt: AttemptRecord, limit_us: int) -> None:
    """An attempt must not run into a reservation that is not for it with this limit. Raises `WrongState`."""
    if not state.reservations:
        return
    since = attempt.started_at or attempt.placed_at
    until = since + limit_us + attempt.grace_us + HOLD_MARGIN_US
    if until <= latest_end(attempt):
        return
    here = {state.nodes[one.alloc.node_id].facts.name for one in attempt.live()}
    for name, spec in state.reservations.specs.items():
        met = spec.starts_at < until and spec.ends_at > latest_end(attempt)
        if met and not here.isdisjoint(spec.nodes) and not spec.lets(job.user, job.spec.project):
            spare_us = max(spec.starts_at - since - attempt.grace_us - HOLD_MARGIN_US, 0)
            way = (
                f"set --time-limit {format_duration(spare_us)} or less"
                if spare_us >= SECOND_US
                else "leave its time limit as it is"
            )
            raise WrongState(
                f"job {job.display} would run into reservation {name}, which begins on its node at"
                f" {_at(spec.starts_at)}; {way}",
                {"reservation": name, "most_us": str(spare_us)},
            )


def refuse_promised_place(state: State, job: JobRecord, attempt: AttemptRecord, limit_us: int) -> None:
    """Nor into a place that is kept for a job that was promised its deadline. Raises `WrongState`."""
    since, before = attempt.started_at or attempt.placed_at, latest_end(attempt)
    until = since + limit_us + attempt.grace_us + HOLD_MARGIN_US
    for one in attempt.live() if until > before else ():
        for other_id in state.promises.on_node.get(one.alloc.node_id, ()):
            promise = state.promises.given[other_id].promise
            if promise is None or promise.start >= until or promise.until <= before:
                continue
            held = {share.index for share in one.alloc.devices}
            kept = [member for member in promise.members if member.node_id == one.alloc.node_id]
            wanted = {share.index for member in kept for share in member.devices}
            node = state.nodes[one.alloc.node_id].facts
            cpu = one.alloc.cpu_milli + sum(member.cpu_milli for member in kept)
            memory = one.alloc.memory_bytes + sum(member.memory_bytes for member in kept)
            if held.isdisjoint(wanted) and cpu <= node.cpu_milli and memory <= node.memory_bytes:
                continue
            spare_us = max(promise.start - since - attempt.grace_us - HOLD_MARGIN_US, 0)
            raise WrongState(
                f"job {job.display} would run into a place that is kept for job {other_id}, which was"
                f" promised its deadline and begins there at {_at(promise.start)}; set --time-limit"
                f" {format_duration(max(spare_us, SECOND_US))} or less",
                {"job": other_id, "most_us": str(spare_us)},
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def _at(when: int) -> str:
    """To the second, and never before it is."""
    return format_instant(Instant(-(-when // SECOND_US) * SECOND_US))
