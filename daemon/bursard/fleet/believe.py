"""What may be believed of a well-formed report: no more time than the daemon's own clock saw pass (A1). PURE.

Owns    the bounds of boot readings, starts and counters, and the sentence that says which was passed.
Input   the state, a report, a `Reading` of the daemon's clocks. Output: the report cut to what can be true,
        and why its node lies, empty when it need not be lying.
Why     a report costs somebody money. Cutting keeps the books right whatever is said; the sentence puts the
        node into quarantine. What only repeats, overlaps or comes late is no lie: the largest counter
        decides.

The bound of one boot is counted from its anchor: the pair of its boot clock and the daemon's when it was
first heard. Both clocks are CLOCK_BOOTTIME: they count suspension and never step. Only across a reboot of
the daemon's own machine does the wall clock have to serve, and where that was set back meanwhile nothing is
called a lie, since it is our own clock that is in doubt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from bursar.clock import SECOND_US
from bursar.model import EndCause, NodeFacts
from bursar.model.ends import UNASKED
from bursard.events import ExitReport
from bursard.fleet.door import BOOT_US_MAX
from bursard.fleet.words import Counter, Started, Usage
from bursard.state import HOLD_MARGIN_US, AttemptRecord, MemberRecord, NodeRecord, State
from bursard.state.decide.nodes import Reading

SLACK_US = 30 * SECOND_US
"""What a node may be ahead of the daemon's clock: a message that anchored it late, and two clocks' grain."""
DRIFT = 1_000
"""And one part in so many of the time since: clocks are disciplined by at most 500 in a million."""
MEMBER_SLACK_US = SECOND_US
"""The same for one member whose order this daemon itself gave out: it cannot have begun before.

Both say what is called a lie. Neither is billed but for the lead of a node's clock (`Fleet`), once a boot.
"""

ANCHORS_MAX = 3
"""So often the anchor of one boot is taken again; then a node is ahead of its time, or it is not."""
TOLD_US = 120 * SECOND_US
"""A node that is heard all the while tells an end sooner: its devices are read first, and its disk tried."""
METER_MIN_US = 100_000
"""Usage that brings the books no further than this is not booked: the next counters say it all again."""

DEVICE_WATTS_MAX = 3_000
"""No accelerator draws more: the largest of today are made for 1,400 W."""

EPOCH_STEP_MAX = 1_000_000
"""Epochs grow by one at a daemon's start: nobody has started one so often since a backup was made."""

_ASKED_FOR = (EndCause.CANCELLED, EndCause.PREEMPTED, EndCause.BUDGET, EndCause.IDLE)
"""Ends that only the daemon orders."""


class Order(NamedTuple):
    """When an attempt was given out: by the daemon's boot clock, and by each rank's node as heard last."""

    boot_us: int
    heard_boot_us: Mapping[int, int]


class Bounds(NamedTuple):
    """What one node's boot clock can say now.

    `latest_us`: by the daemon's own clock; `lie_us`: beyond this it lies. `sure`: that clock is reliable.
    """

    latest_us: int
    lie_us: int
    sure: bool


def bounds(node: NodeRecord, now: Reading) -> Bounds:
    """How far a node's boot clock can have come since its anchor."""
    if node.seen_boot_id and node.seen_boot_id == now.boot_id:
        elapsed_us = now.boot_us - node.seen_boot_us
    else:
        elapsed_us = now.at - (node.seen_at or node.anchor_at)
    latest_us = node.anchor_boot_us + max(elapsed_us, 0)
    return Bounds(latest_us, latest_us + SLACK_US + max(elapsed_us, 0) // DRIFT, elapsed_us >= 0)


def unbilled(state: State, node: NodeRecord) -> bool:
    """Nothing rests on the anchor of this boot yet, so it may be taken again."""
    runs = any(state.attempts[attempt].members[rank].started_at for attempt, rank in node.live.items())
    return node.through <= node.anchor_at and not node.ended and not runs


def boot_reading(node: NodeRecord, boot_us: int, now: Reading) -> tuple[int, str]:
    """A reading of the boot clock, cut to what can be true."""
    latest_us, lie_us, sure = bounds(node, now)
    if boot_us <= lie_us:
        return boot_us, ""
    if not sure:
        return latest_us, ""
    return latest_us, f"its boot clock is {(boot_us - latest_us) // SECOND_US} s ahead of the daemon's clock"


def boot_of(node: NodeRecord, at: int) -> int:
    """The reading of the boot clock at an instant on the node's axis."""
    return node.anchor_boot_us + at - node.anchor_at


def lead(node: NodeRecord, boot_us: int, now: Reading) -> int:
    """How far a node's clock is ahead of what its anchor says: by as much was the anchoring hello on its way.

    One tolerance for the whole node: never more than `SLACK_US`.
    """
    return min(max(boot_us - bounds(node, now).latest_us, 0), SLACK_US)


def latest(node: NodeRecord, now: Reading, lead_us: int = 0) -> int | None:
    """The largest reading of the boot clock that can be true; None when our own clocks cannot tell."""
    limits = bounds(node, now)
    return limits.latest_us + lead_us if limits.sure else None


def not_its_own(state: State, node: NodeRecord, attempt_id: str, rank: int) -> str:
    """A live attempt's member that is on another node, or nowhere, is none of this one's business."""
    attempt = state.attempts.get(attempt_id)
    if attempt is None:
        return ""
    if rank < len(attempt.members) and attempt.members[rank].alloc.node_id == node.id:
        return ""
    return "it speaks for an attempt that is not its own"


def started(
    node: NodeRecord, member: MemberRecord, word: Started, order: Order | None, now: Reading
) -> tuple[Started, str]:
    """A start: not before its order, not after now."""
    boot_us, lie = boot_reading(node, word.boot_us, now)
    earliest = boot_of(node, member.placed_axis) if member.placed_axis else 0
    if order is not None:
        earliest = max(earliest, order.heard_boot_us.get(member.alloc.rank, 0))
    if boot_us < earliest:
        boot_us = earliest
        lie = lie or "it started an attempt before that was placed"
    return msgspec.structs.replace(word, boot_us=boot_us), lie


def held(
    attempt: AttemptRecord,
    member: MemberRecord,
    held_us: int,
    started_boot_us: int,
    until_boot_us: int | None,
    order: Order | None,
    now: Reading,
) -> tuple[int, str]:
    """A counter of held time: no longer than since the start, than since the order, than it may live.

    What is billed is cut to the room that the daemon's clock leaves, with the drift of clocks; the slack only
    says from where on it is called a lie. So a share that one attempt after another takes is never billed
    for longer than passed, however many they are.

    Passing the limit alone is no lie: a machine that was suspended counts that time too, and nobody could end
    the member meanwhile. It is cut all the same: no more was held for it. `until_boot_us` None: how far the
    node's clock can have come is not known.
    """
    limit_us = attempt.time_limit_us + attempt.grace_us + HOLD_MARGIN_US
    if order is not None:
        # Nothing else is asked then: a node's clock may be ahead of its anchor by as long as its hello was on
        # its way, and many a job is shorter.
        room_us, slack_us = now.boot_us - order.boot_us, MEMBER_SLACK_US
    else:
        room_us = BOOT_US_MAX if until_boot_us is None else max(until_boot_us - started_boot_us, 0)
        slack_us = SLACK_US
    most_us = room_us + slack_us + room_us // DRIFT
    lie = ""
    if held_us > most_us:
        lie = (
            f"it counts {held_us // SECOND_US} s for an attempt that could hold for {room_us // SECOND_US} s"
        )
    drift_us = 0 if lie else room_us // DRIFT
    return min(held_us, room_us + drift_us, limit_us), lie


def held_to_its_end(
    attempt: AttemptRecord,
    node: NodeRecord,
    member: MemberRecord,
    report: ExitReport,
    started_boot_us: int,
    until_boot_us: int | None,
    order: Order | None,
    now: Reading,
    beat_us: int,
) -> tuple[ExitReport, str]:
    """An end with what was held for it, no longer than `held` says, and no shorter than its node let it run.

    `beat_us`: how far the node's boot clock was when it was heard last over the stream that it tells this end
    on; 0: not since that began. Until `TOLD_US` before then it ran: an end is told at once. Not so where the
    node says that its disk takes nothing: how a job ended is written there first, and waits for room.
    """
    if not (member.started_at or started_boot_us):
        return msgspec.structs.replace(report, held_us=0), ""

    def held_for(us: int) -> tuple[int, str]:
        return held(attempt, member, us, started_boot_us, until_boot_us, order, now)

    held_us, lie = held_for(report.held_us)
    sure_us = min(beat_us - TOLD_US - started_boot_us, attempt.time_limit_us)
    if lie or node.trouble or sure_us <= held_us:
        return msgspec.structs.replace(report, held_us=held_us), lie
    least_us, _ = held_for(sure_us)
    lie = f"it counts {held_us // SECOND_US} s for an attempt that it let run for {least_us // SECOND_US} s"
    message = f"doubtful: its node says that it held for {held_us // SECOND_US} s. {report.message}".rstrip()
    return msgspec.structs.replace(report, held_us=least_us, message=message), lie


def usage(
    state: State, node: NodeRecord, word: Usage, orders: Mapping[str, Order], now: Reading
) -> tuple[Usage, str]:
    """Counters, each cut to what can be true at an instant that can be true."""
    at_boot_us, lie = boot_reading(node, word.at_boot_us, now)
    counters: list[Counter] = []
    if at_boot_us < word.at_boot_us and not lie:
        return Usage(word.seq, word.boot_id, at_boot_us, ()), ""
    for counter in word.counters:
        attempt = state.attempts.get(counter.attempt_id)
        if attempt is None:
            continue
        foreign = not_its_own(state, node, counter.attempt_id, counter.rank)
        if foreign:
            lie = lie or foreign
            continue
        member = attempt.members[counter.rank]
        if member.report is not None or not member.started_at:
            continue
        order = orders.get(attempt.id)
        since = boot_of(node, member.started_at)
        held_us, wrong = held(attempt, member, counter.held_us, since, at_boot_us, order, now)
        if held_us < member.charged_us - SLACK_US and node.axis(at_boot_us) > node.through:
            wrong = wrong or "its counter of an attempt fell"
        lie = lie or wrong
        counters.append(Counter(counter.attempt_id, counter.rank, held_us, counter.cpu_us))
    return Usage(word.seq, word.boot_id, at_boot_us, tuple(counters)), lie


def has_no_room(attempt: AttemptRecord) -> str:
    """What waits for the share of another cannot run: of an honest node that one's end is heard first."""
    return "it ran an attempt before the share that this waits for was free" if attempt.after else ""


def handed_over(order: Order, before: Order | None, held_us: int) -> Order:
    """The order of one that was placed ahead of need, now that it has the share of another: nobody held that
    earlier than the other's own order, plus what the other is billed for. So a share that goes from one to
    the next is never billed for longer than passed.
    """
    if before is None:
        return order
    return order._replace(boot_us=max(order.boot_us, before.boot_us + held_us))


def consumed(facts: NodeFacts, member: MemberRecord, report: ExitReport) -> ExitReport:
    """What a member used, no more than its node could give it in the time it was held.

    CPU time is cut to all cores of the node for that long. Energy beyond what the member's devices can draw
    is not known then: no reading is left of it that would be worth a name. The same of what it says that it
    made of devices for longer than it held them.
    """
    most_us = report.held_us + MEMBER_SLACK_US
    cpu_us = min(report.cpu_us, most_us * facts.cpu_milli // 1000)
    use, held = report.device_use, len(member.alloc.devices)
    if use is not None and (use.heard_us > held * most_us or use.devices > held):
        report = msgspec.structs.replace(report, device_use=None)
    most_millijoules = len(member.alloc.devices) * DEVICE_WATTS_MAX * most_us // 1000
    if report.gpu_energy_millijoules <= most_millijoules and member.alloc.devices:
        return msgspec.structs.replace(report, cpu_us=cpu_us)
    return msgspec.structs.replace(report, cpu_us=cpu_us, gpu_energy_millijoules=0, gpu_energy_source="")


def end(
    attempt: AttemptRecord, member: MemberRecord, node: NodeRecord, report: ExitReport, ran: bool
) -> ExitReport:
    """The end as it may be kept. One that only the daemon orders, of an attempt that it did not stop, is a
    failure like others, and so is `node_lost` in the boot of its node: that is the daemon's verdict. What
    never had a share may come back for no reason at all. What its node lost before it began could not be
    started there, for no fault of its own.
    """
    cause = report.cause
    if attempt.after and not ran:
        return msgspec.structs.replace(report, cause=EndCause.PREEMPTED)
    if cause in _ASKED_FOR and attempt.stop_cause is None:
        doubt = "which nobody asked for"
    elif cause is EndCause.NODE_LOST and member.boot_id == node.boot_id:
        doubt = "in a boot that goes on"
    else:
        return report
    kept = EndCause.FAILED if ran else EndCause.START_FAILED
    told = UNASKED if cause is EndCause.CANCELLED else f"ended as {cause.value}, {doubt}"
    message = f"{told}: {report.message}".rstrip(": ")
    unbegun = kept is EndCause.START_FAILED and cause is EndCause.NODE_LOST and not member.started_at
    return msgspec.structs.replace(report, cause=kept, message=message, unbegun=unbegun)
