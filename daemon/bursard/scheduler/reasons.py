"""Why a job waits: one dominant reason, with the numbers and what the user can change.

Why     "pending" is not an answer. Alternatives of one job may fail differently; the most hopeful
        failure is told, because that is the one that will resolve first or is easiest to mend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bursar.model import Reason, ReasonCode
from bursar.resources import MILLI, ResourceRequest, format_size
from bursar_policies.decision import JobClass, NodeColumns, PendingQueue
from bursar_policies.filters import FILTERS, matches
from bursar_policies.scorers import NodeState
from bursard.scheduler import text
from bursard.scheduler.admit import Admitted, Refusal, Rooms
from bursard.scheduler.gang import NoChoice
from bursard.scheduler.money_reasons import refused
from bursard.scheduler.table import NO, Table
from bursard.scheduler.world import World

_HOPE = (
    ReasonCode.BUDGET_COMMITTED,
    ReasonCode.PRICE_CAP_EXCEEDED,
    ReasonCode.BUDGET_EXHAUSTED,
    ReasonCode.MISCONFIGURED,
)


class Blocked(NamedTuple):
    """A reason, and whether the job may claim a reservation."""

    reason: Reason
    waits_for_resources: bool


def blocked(
    world: World,
    queue: PendingQueue,
    tables: Sequence[Table],
    waiting: Sequence[int],
    answer: NoChoice,
    rooms: Rooms,
    before: Mapping[int, NodeState],
    takers: Mapping[int, tuple[int, str]],
) -> Blocked:
    """The reason of a job that found no place.

    Args:
        waiting: alternatives that enough nodes could hold when empty.
        before: nodes this plan has used, as they were before. takers: by whom (priority, job).
    """
    job_class = queue.job_class
    refusals: list[tuple[int, Refusal]] = list(answer.refusals)
    for option in waiting:
        verdict = rooms.admit(job_class, tables[option].cheapest_rate(job_class.nodes))
        if isinstance(verdict, Admitted):
            table = tables[option]
            ahead = _ahead(world, queue, table, before, takers)
            reason = ahead or _resources(world, job_class, table)
            return Blocked(reason, table.usable_count >= job_class.nodes)
        refusals.append((option, verdict))
    if refusals:
        _, refusal = min(refusals, key=lambda entry: (_HOPE.index(entry[1].code), entry[0]))
        return Blocked(refused(job_class, refusal, rooms), waits_for_resources=False)
    faults = [fault(world.nodes, job_class, table) for table in tables]
    worst_last = sorted(faults, key=lambda reason: reason.code == ReasonCode.MISCONFIGURED)
    return Blocked(worst_last[0], waits_for_resources=False)


def reserved(job_class: JobClass, ahead: str, at: int, now: int) -> Reason:
    """It fits now, but would delay the job the queue waits for."""
    overhead = job_class.hold_us - job_class.time_limit_us
    spare = at - now - overhead
    when = text.instant(at)
    remedy = "wait, or ask for fewer resources than the waiting job leaves"
    if spare >= 1_000_000:
        limit = text.duration(spare)
        remedy = f"set --time-limit {limit} or less to end before the waiting job starts"
    return Reason(
        ReasonCode.RESERVED_FOR_OTHER,
        f"fits now, but would delay job {ahead}, which is ahead and starts by {when}",
        remedy,
        (("ahead", ahead), ("reserved_at", str(at)), ("spare_us", str(max(spare, 0)))),
    )


def _ahead(
    world: World,
    queue: PendingQueue,
    table: Table,
    before: Mapping[int, NodeState],
    takers: Mapping[int, tuple[int, str]],
) -> Reason | None:
    """Would it have started, had this plan not first served jobs of higher priority?"""
    nodes = queue.job_class.nodes
    lost = []
    for row, state in before.items():
        priority, job_id = takers[row]
        if priority <= queue.priority or not table.usable[row] or table.keys[row] != NO:
            continue
        if _fits(table.request, state):
            lost.append(job_id)
    fits = int((table.keys != NO).sum())
    if not lost or fits + len(lost) < nodes:
        return None
    jobs = sorted(set(lost))
    return Reason(
        ReasonCode.BEHIND_HIGHER_PRIORITY,
        f"{text.count(len(jobs), 'job')} of higher priority took the place just now: "
        + ", ".join(jobs[:3])
        + (", …" if len(jobs) > 3 else ""),
        "wait for them to end, or raise its priority (bursar update --priority)",
        (("ahead", ",".join(jobs[:10])), ("ahead_count", str(len(jobs)))),
    )


def _fits(request: ResourceRequest, state: NodeState) -> bool:
    if state.cpu_milli < request.cpu_milli or state.memory_bytes < request.memory_bytes:
        return False
    return request.gpus is None or _devices(request, state.gpus) >= request.gpus.count


def _devices(request: ResourceRequest, free: Sequence[int]) -> int:
    """Devices with enough free for one share of the request."""
    milli = request.gpus.milli if request.gpus else MILLI
    return sum(left >= milli for left in free)


def lacking(world: World, table: Table) -> dict[str, int]:
    """How many usable nodes lack what right now, and how many fit (`fits`)."""
    request, usable = table.request, table.usable
    counts = {
        "cpus": int((usable & (world.cpu < request.cpu_milli)).sum()),
        "memory": int((usable & (world.memory < request.memory_bytes)).sum()),
    }
    if request.gpus is not None:
        free = (world.gpus >= request.gpus.milli).sum(axis=1)
        counts["gpus"] = int((usable & (free < request.gpus.count)).sum())
    counts["fits"] = int((table.keys != NO).sum())
    return counts


def _resources(world: World, job_class: JobClass, table: Table) -> Reason:
    """Enough nodes could hold it, too few can right now."""
    want, ask = text.count(job_class.nodes, "node"), str(table.request)
    counts = lacking(world, table)
    away = table.capable_count - table.usable_count
    facts = [("nodes_wanted", str(job_class.nodes)), ("nodes_fit", str(counts["fits"]))]
    facts += [("nodes_usable", str(table.usable_count)), ("nodes_not_ready", str(away))]
    facts += [(f"lack_{name}", str(n)) for name, n in counts.items() if name != "fits"]
    if table.usable_count < job_class.nodes:
        one = text.count(table.capable_count, "node")
        return Reason(
            ReasonCode.WAITING_FOR_RESOURCES,
            f"needs {want} with {ask}; {one} could hold it but {away} of them "
            f"{'is' if away == 1 else 'are'} not ready (down, draining, cordoned or quarantined)",
            "bring a node back (bursar nodes shows why each is away)",
            tuple(facts),
        )
    short = [f"{n} lack{'s' if n == 1 else ''} {what}" for what, n in counts.items() if what != "fits" and n]
    detail = f" ({', '.join(short)})" if short else ""
    have = counts["fits"]
    return Reason(
        ReasonCode.WAITING_FOR_RESOURCES,
        f"needs {want} with {ask} free; {have} of {table.usable_count} that could hold it "
        f"{'has' if have == 1 else 'have'} that now{detail}",
        _smaller(world, job_class, table),
        tuple(facts),
    )


def _smaller(world: World, job_class: JobClass, table: Table) -> str:
    """The one quantity to lower, when lowering it alone would help now."""
    request = table.request
    cpu_ok = world.cpu >= request.cpu_milli
    memory_ok = world.memory >= request.memory_bytes
    usable = table.usable
    gpu_ok = np.ones(world.count, dtype=np.bool_)
    if request.gpus is not None:
        free = (world.gpus >= request.gpus.milli).sum(axis=1)
        gpu_ok = free >= request.gpus.count
        best = _nth(free[usable & cpu_ok & memory_ok], job_class.nodes)
        if 0 < best < request.gpus.count:
            return f"wait, or ask for {best} instead of {text.count(request.gpus.count, 'GPU')}"
    best = _nth(world.cpu[usable & memory_ok & gpu_ok], job_class.nodes)
    if 0 < best < request.cpu_milli:
        return f"wait, or set --cpus {best / MILLI:g} instead of {request.cpu_milli / MILLI:g}"
    best = _nth(world.memory[usable & cpu_ok & gpu_ok], job_class.nodes)
    if 0 < best < request.memory_bytes:
        asked = format_size(request.memory_bytes)
        return f"wait, or set --memory {best // 1_000_000}MB instead of {asked}"
    return "wait for running jobs to end; bursar explain shows who holds the nodes and until when"


def _nth(values: np.ndarray[tuple[int], np.dtype[np.int64]], count: int) -> int:
    """The value that `count` nodes reach; 0 when there are fewer."""
    return int(np.sort(values)[-count]) if len(values) >= count else 0


def fault(nodes: NodeColumns, job_class: JobClass, table: Table) -> Reason:
    """Why this alternative can never start on these nodes."""
    left = np.ones(len(nodes.ids), dtype=np.bool_)
    for rule in FILTERS:
        mask = rule.mask(nodes, table.ask)
        passed = left if mask is None else left & mask
        if int(passed.sum()) < job_class.nodes:
            return _fault(nodes, job_class, table, rule.name, left, int(passed.sum()))
        left = passed
    many = text.count(job_class.nodes, "node")
    return Reason(ReasonCode.EXCEEDS_NODE_CAPACITY, f"no set of {many} can hold it")


def _fault(
    nodes: NodeColumns,
    job_class: JobClass,
    table: Table,
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
        message = f"the cluster has {text.count(before, 'node')}, you ask {job_class.nodes}"
        return Reason(code, message, "add nodes, or lower --nodes", facts)
    if passed:
        message = (
            f"only {text.count(passed, 'node')} can hold one member ({table.request}), "
            f"you ask {job_class.nodes}"
        )
        return Reason(code, message, f"set --nodes {passed} or less, or ask less per node", facts)
    if check == "constraints":
        message, remedy = _unmatched(nodes, table)
        return Reason(ReasonCode.MISCONFIGURED, message, remedy, facts)
    if check == "spot_policy":
        policy = table.ask.spot_policy
        message = f"no node that matches is of the market you ask (spot_policy {policy})"
        return Reason(ReasonCode.MISCONFIGURED, message, "set --spot auto, or add such nodes", facts)
    if check == "price":
        message = (
            f"the job is under a budget or price limit, and none of the {before} nodes that could "
            "hold it has a known price"
        )
        remedy = "apply a CostModel or PriceBook for them (bursar policy apply)"
        return Reason(ReasonCode.MISCONFIGURED, message, remedy, facts)
    if check == "avoid_same_node":
        message = "every node that could hold it already failed it, and retry.avoid_same_node is set"
        return Reason(ReasonCode.MISCONFIGURED, message, "unset it, or add nodes", facts)
    message, remedy = _too_large(nodes, table, check, left)
    return Reason(code, message, remedy, facts)


def _unmatched(nodes: NodeColumns, table: Table) -> tuple[str, str]:
    """Which constraint nobody satisfies, and which values there are."""
    for key, pattern in table.ask.constraints:
        have = sorted({facts[key] for facts in nodes.attributes if facts.get(key)})
        if any(matches(pattern, facts.get(key)) for facts in nodes.attributes):
            continue
        shown = ", ".join(have[:5]) + (", …" if len(have) > 5 else "")
        what = f"values here: {shown}" if have else f"no node has a {key}"
        return f"constraint {key}: {pattern} matches no node", f"change or drop it ({what})"
    pairs = ", ".join(f"{key}: {pattern}" for key, pattern in table.ask.constraints)
    return f"no node satisfies all constraints together ({pairs})", "drop one of them"


def _too_large(
    nodes: NodeColumns,
    table: Table,
    check: str,
    left: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> tuple[str, str]:
    """Type, memory or size: what is asked against the nearest there is."""
    request = table.request
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
        name = nodes.gpu_types[kind] if kind >= 0 else "GPUs"
        message = f"largest node has {most} {name}, you ask {gpus.count}"
        if most == 0:
            return f"no node that matches has GPUs, you ask {gpus}", "add a node with GPUs"
        return message, f"ask for {most} per node, over more nodes (--nodes)"
    most_cpu, most_memory = int(nodes.cpu_total[rows].max()), int(nodes.memory_total[rows].max())
    if most_cpu < request.cpu_milli:
        most_text = f"{most_cpu / MILLI:g}"
        asked = f"{request.cpu_milli / MILLI:g}"
        return f"largest node has {most_text} CPUs, you ask {asked}", f"set --cpus {most_text} or less"
    if most_memory < request.memory_bytes:
        message = (
            f"largest node has {format_size(most_memory)} of memory, "
            f"you ask {format_size(request.memory_bytes)}"
        )
        return message, f"set --memory {most_memory // 1_000_000}MB or less"
    return f"no single node has all of {request}", "ask less of one of them"
