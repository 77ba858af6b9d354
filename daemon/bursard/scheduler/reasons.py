"""Why a job waits: one dominant reason, with the numbers and what the user can change.

Why     "pending" is not an answer, and a sentence that nobody reads should cost nothing: a plan keeps a few
        numbers (`Verdict`), and the sentence is made of them and the snapshot when somebody asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bursar.model import Reason, ReasonCode
from bursar.model.constraints import CONTAINER_GPUS, CONTAINERS, TOPOLOGY, shown
from bursar.resources import MILLI, format_size
from bursar.words import plural
from bursar_policies.decision import (
    UNCOMPUTABLE,
    JobClass,
    NodeColumns,
    PendingQueue,
    Plan,
    Snapshot,
    Start,
    Stop,
)
from bursar_policies.filters import FILTERS, matches
from bursar_policies.specs import PPM, PriorityPolicySpec
from bursard.scheduler import promise_reasons, quota_reasons, text, window_reasons
from bursard.scheduler.admit import Refusal, Rooms
from bursard.scheduler.candidates import Candidates, asks_of
from bursard.scheduler.free import Free, fitting_at_first
from bursard.scheduler.kept import MEMORY, NAMES, Kept
from bursard.scheduler.money_reasons import refused
from bursard.scheduler.pricing import SECOND_US, spared_us
from bursard.scheduler.stages import staged, told
from bursard.scheduler.windows import windows_of


def reason_of(snapshot: Snapshot, plan: Plan, index: int, position: int = -1) -> Reason:
    """Why a job that `plan` did not start waits: the sentence behind what stopped it.

    Everything is looked at as it was when the queue was blocked: what the starts before it took is gone,
    what came after it is not.

    Args:
        plan: made from this very snapshot.
        index: of a queue among `plan.verdicts`.
        position: of the job in its queue; the first that waits when negative.
    """
    why = _reason_of(staged(snapshot), plan, index, position)
    if plan.verdicts[index].blocked_by == "money":
        return why
    return told(why, snapshot.queues[index].job_class, snapshot.budgets)


def _reason_of(snapshot: Snapshot, plan: Plan, index: int, position: int) -> Reason:
    queue, verdict = snapshot.queues[index], plan.verdicts[index]
    position = verdict.position if position < 0 else position
    job_class = queue.class_at(position)
    verdict = verdict.of(job_class.hold_us)
    if verdict.blocked_by == UNCOMPUTABLE:
        return Reason(
            ReasonCode.MISCONFIGURED,
            "its place cannot be computed: a size or a price, its own or a node's, is out of range",
            "ask for ordinary sizes; `bursar nodes` shows a node that reports what cannot be",
        )
    before = plan.starts[: verdict.starts]
    if verdict.blocked_by == "money":
        rooms = Rooms(snapshot.budgets, snapshot.currency)
        for start in before:
            rooms.promise(start.budgets, start.hold_nanos)
        if verdict.claimed:
            rooms.promise(plan.reserved_budgets, plan.reserved_nanos)
        for purse in plan.purses[: verdict.purses]:
            rooms.set_aside(purse)
        refusal = Refusal(verdict.code, verdict.budget, verdict.needed_nanos, verdict.rate_nanos_per_hour)
        return refused(job_class, refusal, rooms)
    if verdict.blocked_by == "quota":
        return quota_reasons.refused(snapshot, plan, job_class, verdict)
    asked = [Candidates(ask, snapshot.nodes) for ask in asks_of(job_class)]
    if verdict.blocked_by == "fault":
        faults = [fault(snapshot.nodes, job_class, one) for one in asked]
        return min(faults, key=lambda reason: reason.code == ReasonCode.MISCONFIGURED)
    free = Free.after(snapshot.nodes, before)
    if (windows := windows_of(snapshot.nodes, snapshot.reservations)) is not None:
        parts = (snapshot.nodes, windows)
        found = [window_reasons.beside(*parts, one, free, job_class, plan.at) for one in asked]
        asked = [one.candidates for one in found]
        reserved = (one.reason for one in (found[verdict.option], *found))
        if verdict.blocked_by == "room" and (why := next(filter(None, reserved), None)) is not None:
            return why
    if verdict.blocked_by == "claim":
        return _behind_claim(snapshot, plan, queue, job_class, before, free, asked)
    if verdict.blocked_by == "promise":
        return promise_reasons.kept_for(snapshot, job_class, plan.at, queue.jobs[position][1])
    if verdict.blocked_by == "dearer":
        return promise_reasons.cheaper(snapshot, queue.jobs[position][1])
    candidates = asked[verdict.option]
    if verdict.blocked_by == "kept" and snapshot.priority is not None:
        return _kept(snapshot, snapshot.priority, job_class, free)
    ahead = _ahead(snapshot, queue, candidates, free, before)
    return ahead or _resources(free, job_class, candidates)


def _behind_claim(
    snapshot: Snapshot,
    plan: Plan,
    queue: PendingQueue,
    job_class: JobClass,
    before: Sequence[Start],
    free: Free,
    asked: list[Candidates],
) -> Reason:
    """The claim stops it; when there is no room for it beside that either, that is what it is told."""
    for one in asked:
        if one.most(one.usable & free.fitting(one.request)) >= job_class.nodes:
            return _claimed(job_class, plan.reserved_job, plan.reserved_at, plan.at)
    candidates = max(asked, key=lambda one: one.usable_count)
    return _ahead(snapshot, queue, candidates, free, before) or _resources(free, job_class, candidates)


def making_room(plan: Plan, submitted: bool = True) -> Reason:
    """Others are asked to end for it, or would be, were it submitted."""
    stopped = [action for action in plan.actions if isinstance(action, Stop)]
    verb = ("is" if len(stopped) < 2 else "are") if submitted else "would be"
    quota = plan.making_room_by
    why = f"that borrowed what quota {quota} guarantees to it" if quota else "of lower priority"
    who = f"{plural(len(stopped), 'attempt')} {why}" if stopped else "what is to make room for it"
    return Reason(
        ReasonCode.PREEMPTION_PENDING,
        f"{who} {verb} asked to end for it, and may take the grace to save",
        "wait: it starts once that is gone (`bursar events` shows whom it is)",
        (("stopped", ",".join(one.attempt_id for one in stopped)), *((("quota", quota),) if quota else ())),
    )


def limited(plan: Plan, rules: PriorityPolicySpec) -> Reason:
    """Others would be stopped for it, had its project or its user not had that done so often."""
    until, whose, key, most = plan.limited_until, "project", "per_project", rules.preempt_max
    if plan.limited_user:
        whose, key, most = "user", "per_user", rules.preempt_user_max or rules.preempt_max
    return Reason(
        ReasonCode.RATE_LIMITED,
        f"jobs of its {whose} have had others stopped {plural(most, 'time')} within an hour, as often as they"
        f" may (`preempt.{key}` of the PriorityPolicy); again from {text.instant(until)}",
        "wait: it starts when there is room, or then has others stopped where that is worth it",
        (("until", str(until)), (key, str(most))),
    )


def room_at(snapshot: Snapshot, plan: Plan, now: int) -> int:
    """When whoever is asked to end has ended at the latest, with the whole grace; 0: nobody is asked now."""
    graces = [
        snapshot.holders[action.attempt_id].grace_us
        for action in plan.actions
        if isinstance(action, Stop) and action.for_job == plan.making_room_for
    ]
    return now + max(graces) if graces else 0


def _kept(snapshot: Snapshot, rules: PriorityPolicySpec, job_class: JobClass, free: Free) -> Reason:
    """It fits now, but would take of the room that is kept for short jobs."""
    kept = Kept(rules, snapshot.nodes, free)
    found = [short for option in job_class.options if (short := kept.short(option, job_class.nodes))]
    short = min(found, key=lambda one: (one.kept - one.left) * PPM // one.total)
    overhead_us = job_class.hold_us - job_class.time_limit_us
    limit_us = rules.short_limit_us + spared_us(overhead_us) - overhead_us
    limit, what = text.duration(rules.short_limit_us), NAMES[short.which]
    way = "set a shorter checkpoint.grace"
    if limit_us >= SECOND_US and not job_class.endless:
        way = f"set --time-limit {text.duration(limit_us)} or less"
    left, stays, total = (
        _amount(short.which, value) for value in (max(short.left, 0), short.kept, short.total)
    )
    return Reason(
        ReasonCode.RESERVED_FOR_OTHER,
        f"fits now, but would leave {left} of the cluster's {total} {what} free, and {stays} are kept for"
        f" jobs of at most {limit}",
        f"{way}, or wait until more is free; what has waited for"
        f" {text.duration(rules.max_wait_us)} need not leave it",
        (("kept_for_limit_us", str(rules.short_limit_us)), ("resource", what), ("kept", str(short.kept))),
    )


def _amount(which: int, value: int) -> str:
    return format_size(value) if which == MEMORY else f"{value / MILLI:g}"


def _claimed(job_class: JobClass, ahead: str, at: int, now: int) -> Reason:
    """It fits now, but would delay the job the queue waits for."""
    overhead = job_class.hold_us - job_class.time_limit_us
    spare = at - now - overhead
    when = text.instant(at)
    remedy = "wait, or ask for fewer resources than the waiting job leaves"
    if spare >= 1_000_000 and not job_class.endless:
        limit = text.duration(spare)
        remedy = f"set --time-limit {limit} or less to end before the waiting job starts"
    return Reason(
        ReasonCode.RESERVED_FOR_OTHER,
        f"fits now, but would delay job {ahead}, which is ahead and starts by {when}",
        remedy,
        (("ahead", ahead), ("reserved_at", str(at)), ("spare_us", str(max(spare, 0)))),
    )


def _ahead(
    snapshot: Snapshot,
    queue: PendingQueue,
    candidates: Candidates,
    free: Free,
    before: Sequence[Start],
) -> Reason | None:
    """Would it have started, had this plan not first served jobs of higher priority?"""
    fits_now = candidates.usable & free.fitting(candidates.request)
    written = np.unique(np.array([one.node for start in before for one in start.members], dtype=np.intp))
    written = written[candidates.usable[written] & ~fits_now[written]]
    fitted = written[fitting_at_first(snapshot.nodes, candidates.request, written)]
    taken = set(fitted.tolist())
    takers: dict[int, tuple[int, str]] = {}
    for start in before if taken else ():
        priority = snapshot.queues[start.queue].priority
        for member in start.members if priority > queue.priority else ():
            if member.node in taken and priority > takers.get(member.node, (priority - 1, ""))[0]:
                takers[member.node] = (priority, start.job_id)
    lost, had = [job_id for _, job_id in takers.values()], fits_now.copy()
    had[list(takers)] = True
    if not lost or candidates.most(had) < queue.job_class.nodes:
        return None
    jobs = sorted(set(lost))
    return Reason(
        ReasonCode.BEHIND_HIGHER_PRIORITY,
        f"{plural(len(jobs), 'job')} of higher priority took the place just now: "
        + ", ".join(jobs[:3])
        + (", …" if len(jobs) > 3 else ""),
        "wait for them to end, or raise its priority (bursar update --priority)",
        (("ahead", ",".join(jobs[:10])), ("ahead_count", str(len(jobs)))),
    )


def lacking(free: Free, candidates: Candidates) -> dict[str, int]:
    """How many usable nodes lack what right now, and how many fit (`fits`)."""
    request, usable = candidates.request, candidates.usable
    counts = {
        "cpus": int((usable & (free.cpu < request.cpu_milli)).sum()),
        "memory": int((usable & (free.memory < request.memory_bytes)).sum()),
    }
    if request.gpus is not None:
        counts["gpus"] = int((usable & (free.devices(request) < request.gpus.count)).sum())
    counts["fits"] = int((usable & free.fitting(request)).sum())
    return counts


_SAID: Final = {"cpus": "CPUs", "memory": "memory", "gpus": "GPUs"}


def _resources(free: Free, job_class: JobClass, candidates: Candidates) -> Reason:
    """Enough nodes could hold it, too few can right now."""
    want, ask = plural(job_class.nodes, "node"), str(candidates.request)
    counts = lacking(free, candidates)
    away = candidates.capable_count - candidates.usable_count
    facts = [("nodes_wanted", str(job_class.nodes)), ("nodes_fit", str(counts["fits"]))]
    facts += [("nodes_usable", str(candidates.usable_count)), ("nodes_not_ready", str(away))]
    facts += [(f"lack_{name}", str(n)) for name, n in counts.items() if name != "fits"]
    if counts["fits"] >= job_class.nodes and (key := candidates.ask.together):
        most = candidates.most(candidates.usable & free.fitting(candidates.request))
        return Reason(
            ReasonCode.WAITING_FOR_TOPOLOGY,
            f"needs {want} with {ask} free in the same {key}; {counts['fits']} have it, at most {most} of"
            " them in one",
            f"wait, ask for {most} nodes, or leave topology out" if most else "wait, or leave topology out",
            (*facts, ("together", key), ("together_fit", str(most))),
        )
    if candidates.usable_count < job_class.nodes:
        one = plural(candidates.capable_count, "node")
        return Reason(
            ReasonCode.WAITING_FOR_RESOURCES,
            f"needs {want} with {ask}; {one} could hold it but {away} of them "
            f"{'is' if away == 1 else 'are'} not ready (down, unwell, draining, cordoned or quarantined)",
            "bring a node back (bursar nodes shows why each is away)",
            tuple(facts),
        )
    short = [
        f"{n} lack{'s' if n == 1 else ''} free {_SAID[what]}"
        for what, n in counts.items()
        if what in _SAID and n
    ]
    detail = f" ({', '.join(short)})" if short else ""
    have = counts["fits"]
    return Reason(
        ReasonCode.WAITING_FOR_RESOURCES,
        f"needs {want} with {ask} free; {have} of {candidates.usable_count} that could hold it "
        f"{'has' if have == 1 else 'have'} that now{detail}",
        _smaller(free, job_class, candidates),
        tuple(facts),
    )


def _smaller(free: Free, job_class: JobClass, candidates: Candidates) -> str:
    """The one quantity to lower, when lowering it alone would help now."""
    request = candidates.request
    cpu_ok = free.cpu >= request.cpu_milli
    memory_ok = free.memory >= request.memory_bytes
    usable = candidates.usable
    gpu_ok = np.ones(free.count, dtype=np.bool_)
    if request.gpus is not None:
        devices = free.devices(request)
        gpu_ok = devices >= request.gpus.count
        best = _nth(devices[usable & cpu_ok & memory_ok], job_class.nodes)
        if 0 < best < request.gpus.count:
            return f"wait, or ask for {best} instead of {plural(request.gpus.count, 'GPU')}"
    best = _nth(free.cpu[usable & memory_ok & gpu_ok], job_class.nodes)
    if 0 < best < request.cpu_milli:
        return f"wait, or set --cpus {best / MILLI:g} instead of {request.cpu_milli / MILLI:g}"
    best = _nth(free.memory[usable & cpu_ok & gpu_ok], job_class.nodes)
    if 0 < best < request.memory_bytes:
        asked = format_size(request.memory_bytes)
        return f"wait, or set --memory {best // 1_000_000}MB instead of {asked}"
    return "wait for running jobs to end (`bursar top` shows what runs on which node)"


def _nth(values: NDArray[np.int64] | NDArray[np.int16], count: int) -> int:
    """The value that `count` nodes reach; 0 when there are fewer."""
    return int(np.sort(values)[-count]) if len(values) >= count else 0


def fault(nodes: NodeColumns, job_class: JobClass, candidates: Candidates) -> Reason:
    """Why this alternative can never start on these nodes."""
    left = np.ones(len(nodes.ids), dtype=np.bool_)
    for rule in FILTERS:
        mask = rule.mask(nodes, candidates.ask)
        passed = left if mask is None else left & mask
        if int(passed.sum()) < job_class.nodes:
            return _fault(nodes, job_class, candidates, rule.name, left, int(passed.sum()))
        left = passed
    many = plural(job_class.nodes, "node")
    key, most = candidates.ask.together, candidates.capable_count
    if not key:
        return Reason(ReasonCode.EXCEEDS_NODE_CAPACITY, f"no set of {many} can hold it")
    return Reason(
        ReasonCode.EXCEEDS_NODE_CAPACITY,
        f"the largest {key} has {plural(most, 'node')} that could hold a member, you ask {job_class.nodes}"
        f" in the same one",
        f"set --nodes {most} or less, or leave topology out" if most else "leave topology out",
        (("check", TOPOLOGY), ("nodes_left", str(most)), ("nodes_wanted", str(job_class.nodes))),
    )


def _fault(
    nodes: NodeColumns,
    job_class: JobClass,
    candidates: Candidates,
    check: str,
    left: np.ndarray[tuple[int], np.dtype[np.bool_]],
    passed: int,
) -> Reason:
    """One sentence per filter. `left`: nodes that reached it; `passed`: that went through."""
    before = int(left.sum())
    facts = (
        ("check", check),
        ("nodes", str(len(nodes.ids))),
        ("nodes_before", str(before)),
        ("nodes_left", str(passed)),
        ("nodes_wanted", str(job_class.nodes)),
    )
    code = ReasonCode.EXCEEDS_NODE_CAPACITY
    if before < job_class.nodes:
        message = f"the cluster has {plural(before, 'node')}, you ask {job_class.nodes}"
        up = f"add nodes (each bursar-agent that joins is one; of `bursar up`: --agents {job_class.nodes})"
        return Reason(code, message, f"{up}, or lower --nodes", facts)
    if passed:
        message = (
            f"only {plural(passed, 'node')} can hold one member ({candidates.request}), "
            f"you ask {job_class.nodes}"
        )
        return Reason(code, message, f"set --nodes {passed} or less, or ask less per node", facts)
    if check == "constraints":
        message, remedy = _unmatched(nodes, candidates)
        return Reason(ReasonCode.MISCONFIGURED, message, remedy, facts)
    if check == "spot_policy":
        policy = candidates.ask.spot_policy
        message = f"no node that matches is of the market you ask (spot_policy {policy})"
        return Reason(
            ReasonCode.MISCONFIGURED,
            message,
            "leave --spot out (spot_policy: auto), or add such nodes",
            facts,
        )
    if check == "price":
        message = (
            f"the job is under a budget or price limit, and none of the {plural(before, 'node')} that could "
            "hold it has a known price"
        )
        remedy = "apply a CostModel or PriceBook for them (bursar policy apply)"
        return Reason(ReasonCode.MISCONFIGURED, message, remedy, facts)
    if check == "avoid_same_node":
        message = "every node that could hold it already failed it, and retry.avoid_same_node is set"
        return Reason(ReasonCode.MISCONFIGURED, message, "unset it, or add nodes", facts)
    message, remedy = _too_large(nodes, candidates, check, left, job_class.nodes)
    return Reason(code, message, remedy, facts)


_CONTAINERS_WANTED: Final = {
    CONTAINERS: (
        "the job has an image, and no node runs containers",
        "install podman on a node (`apt-get install podman`) and start its agent again; `bursar node show"
        " NODE` then has a label `containers`. Or leave image out",
    ),
    CONTAINER_GPUS: (
        "the job has an image and asks for GPUs, and no node gives GPUs to containers",
        "on a node run `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml` and start its agent again",
    ),
}


def _unmatched(nodes: NodeColumns, candidates: Candidates) -> tuple[str, str]:
    """Which constraint nobody satisfies, and which values there are."""
    for key, pattern in candidates.ask.constraints:
        have = sorted({facts[key] for facts in nodes.attributes if facts.get(key)})
        if any(matches(pattern, facts.get(key)) for facts in nodes.attributes):
            continue
        if not have and key in _CONTAINERS_WANTED:
            return _CONTAINERS_WANTED[key]
        named = ", ".join(map(shown, have[:5])) + (", …" if len(have) > 5 else "")
        what = f"values here: {named}" if have else f"no node has a {key}"
        return f"constraint {key}: {pattern} matches no node", f"change or drop it ({what})"
    key = candidates.ask.together
    if key and not any(facts.get(key) for facts in nodes.attributes):
        return f"no node has a {key}, and all members are to be in the same one", "leave topology out"
    pairs = ", ".join(f"{key}: {pattern}" for key, pattern in candidates.ask.constraints)
    return f"no node satisfies all constraints together ({pairs})", "drop one of them"


def _too_large(
    nodes: NodeColumns,
    candidates: Candidates,
    check: str,
    left: np.ndarray[tuple[int], np.dtype[np.bool_]],
    nodes_wanted: int,
) -> tuple[str, str]:
    """Type, memory or size: what is asked against the nearest there is."""
    request = candidates.request
    rows = np.flatnonzero(left)
    gpus = request.gpus
    if gpus is not None and check == "gpu_type":
        have = sorted({nodes.gpu_types[k] for k in nodes.gpu_type[rows].tolist() if k >= 0})
        message = f"no node has {'|'.join(gpus.types)} GPUs"
        if not have:
            return message, "add such nodes (no node has GPUs of any kind)"
        return message, f"ask for a type that is here ({', '.join(have)}), or add such nodes"
    if gpus is not None and check == "gpu_memory":
        most = int(nodes.gpu_memory[rows].max())
        message = (
            f"the largest GPU that matches has {format_size(most)}, you ask {format_size(gpus.memory_bytes)}"
        )
        return message, f"ask for GPU memory of {format_size(most)} or less"
    if gpus is not None and int(nodes.gpu_total[rows].max()) < gpus.count:
        row = min(rows.tolist(), key=lambda r: (-int(nodes.gpu_total[r]), nodes.names[r]))
        most, kind = int(nodes.gpu_total[row]), int(nodes.gpu_type[row])
        name = nodes.gpu_types[kind] if kind >= 0 else ""
        most_text = f"{most} {name}" if kind >= 0 else plural(most, "GPU")
        message = f"largest node has {most_text}, you ask {gpus.count}"
        if most == 0:
            asked = str(gpus) if gpus.types else plural(gpus.count, "GPU")
            return f"no node that matches has GPUs, you ask {asked}", "add a node with GPUs"
        return message, f"ask for {most} per node, over more nodes (--nodes)"
    more = len(rows) > nodes_wanted
    most_cpu, most_memory = int(nodes.cpu_total[rows].max()), int(nodes.memory_total[rows].max())
    if most_cpu < request.cpu_milli:
        most_cpus, asked = most_cpu / MILLI, f"{request.cpu_milli / MILLI:g}"
        return (
            f"largest node has {plural(most_cpus, 'CPU')}, you ask {asked}",
            f"set --cpus {most_cpus:g} or less" + (", or ask for fewer on more nodes (--nodes)" * more),
        )
    if most_memory < request.memory_bytes:
        message = (
            f"largest node has {format_size(most_memory)} of memory, "
            f"you ask {format_size(request.memory_bytes)}"
        )
        return message, f"set --memory {most_memory // 1_000_000}MB or less"
    return f"no single node has all of {request}", "ask less of one of them"
