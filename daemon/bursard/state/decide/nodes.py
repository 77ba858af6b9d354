"""What agents and operators say about nodes: hello, usage, silence, scheduling mode.

Why     a node's time is owned by somebody at every moment (L8). Every report closes the interval since the
        last one: what live members used, what ended ones used, and what remains is idle or down.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise, zip_longest
from typing import NamedTuple

from bursar.clock import HOUR_US, SECOND_US, Instant
from bursar.errors import WrongState
from bursar.ids import Ids
from bursar.model import NodeFacts, ShareRates
from bursar_policies.compile import PriceTable
from bursard.events import (
    Charge,
    Event,
    MemberEnded,
    NodeBooted,
    NodeCondition,
    NodeConnected,
    NodeMetered,
    NodePriced,
    NodeRedated,
    NodeRegistered,
    NodeRemoved,
    NodeScheduling,
    NodeSilent,
    Rest,
    Used,
)
from bursard.ledger import NEVER, Held, OwnedSpan, member_charges
from bursard.state.core import State
from bursard.state.decide import ownership
from bursard.state.decide.attempts import lost
from bursard.state.decide.overdue import gone
from bursard.state.records import NodeRecord
from bursard.state.reservations import Windows

MIB = 1 << 20
REDATED_FROM_US = 600 * SECOND_US
"""An axis that is off by no more than this stays where it is: corrections of a clock are followed so far."""


class Reading(NamedTuple):
    """The daemon's clocks at one instant: boot id and boot clock of its machine, and the wall."""

    boot_id: str
    boot_us: int
    at: int


def hello(
    state: State,
    ids: Ids,
    prices: PriceTable,
    *,
    facts: NodeFacts,
    boot_id: str,
    boot_us: int,
    now: int,
    spooled: Mapping[tuple[str, int], int] | None = None,
    seen: Reading | None = None,
    refused: int = 0,
) -> list[Event]:
    """An agent presents its node: register or refresh it, anchor a new boot, close the time it was away.

    `spooled`: (attempt id, rank) -> held time of members of an earlier boot that the agent still knows,
    so that what was used before a reboot is billed although its report never arrived (L5).
    `seen`: the daemon's own clocks, by which a new boot is bounded from now on.
    `refused`: hellos of it that were refused since the last, as too many.

    One that is smaller than what its jobs hold keeps its size until it is not (`resized`): they run there,
    and can be watched and stopped.
    """
    node = state.node_by_name(facts.name)
    events: list[Event] = []
    node_id = node.id if node is not None else ids.new("node")
    if node is not None and (short := too_small(state, node, facts)):
        facts = node.facts
        events.append(NodeCondition(node_id, short))
    if node is None or node.facts != facts:
        events.append(NodeRegistered(node_id, facts))
    priced = _priced(node, node_id, facts, prices, now)
    events += priced
    if node is None or node.boot_id != boot_id:
        if node is not None:
            for attempt_id, rank in list(node.live.items()):
                held_us = (spooled or {}).get((attempt_id, rank), 0)
                message = f"node {facts.name} was rebooted"
                events += lost(state, node, attempt_id, rank, message, held_us)
        start, away = now, tuple[Charge, ...]()
        if node is not None:
            late = [_settled(state, node, event) for event in events if isinstance(event, MemberEnded)]
            start = max([now, node.through, *(one.end for one in late)])
            apart, away = _away(state, node, late, start, priced, boot_us)
            events += apart
        events.append(NodeBooted(node_id, boot_id, start, boot_us, away, *(seen or Reading("", 0, now))))
    elif not node.live and node.axis(boot_us) - node.through > 2 * state.limits.meter_interval_us:
        # Its boot clock went on: the machine was there, and nobody held any of it.
        parts = _owned(state, node, node.axis(boot_us), (), priced)
        events += [*_at_another_rate(node, parts), *metered(node, parts)]
    events.append(NodeConnected(node_id, refused))
    return events


def _settled(state: State, node: NodeRecord, event: MemberEnded) -> Held:
    """What a member's end is about to settle."""
    member = state.attempts[event.attempt_id].members[event.rank]
    return ownership.held(node, member, max([member.charged_us, *(piece.held_us for piece in event.pieces)]))


def paid_for(ids: Ids, prices: PriceTable, facts: NodeFacts, since: int, now: int) -> list[Event]:
    """A node that nobody has heard of yet, and that is paid for since then: a rented machine. At the price
    of then; where none was known yet, at that of now.
    """
    node_id = ids.new("node")
    known = _price(facts, prices, since)
    if not known.price_id:
        known = _price(facts, prices, now)
    return [
        NodeRegistered(node_id, facts),
        known.event(node_id, since),
        NodeBooted(node_id, "", since, 0),
    ]


def anchored(state: State, node: NodeRecord, boot_us: int, now: int, seen: Reading) -> list[Event]:
    """The anchor of the current boot, taken again: nothing rests on it yet, and it was taken too early."""
    start = max(now, node.through)
    apart, away = _away(state, node, (), start, (), boot_us)
    return [*apart, NodeBooted(node.id, node.boot_id, start, boot_us, away, *seen)]


def redated(
    state: State, node: NodeRecord, prices: PriceTable, axis_now: int | None, now: int, passed: bool
) -> list[Event]:
    """A node's axis after a step of the clock to `now`: what it tells from here on is dated by that.

    Args:
        axis_now: where its axis is by its boot clock; None: nobody can tell. Then no more is known than
            that nothing can have been metered later than now.
        passed: so much time has passed while the machine was off, and nobody was there; else none has.
    """
    if not node.axis_start:
        return []
    by_us = now - axis_now if axis_now is not None else min(now - node.through, 0)
    if abs(by_us) <= REDATED_FROM_US:
        return []
    to_at = node.through + by_us
    if by_us > 0 and passed:
        return _passed(state, node, prices, to_at)
    return [NodeRedated(node.id, node.through, to_at)]


def _passed(state: State, node: NodeRecord, prices: PriceTable, to_at: int) -> list[Event]:
    """The time in which its machine was off: each rate of it by itself, since a row is of one rate. What is
    in force at its end is said again there: what has not been metered moves with its prices.
    """
    priced = came(node, prices, to_at)
    parts = ownership.of(node, to_at, (), "down", priced, reserved=reserved(state, node, to_at))
    events = [*priced, *_at_another_rate(node, parts), *metered(node, parts)[:-1]]
    events.append(NodeRedated(node.id, node.through, to_at, parts[-1].charges if parts else ()))
    changes = [(one.since, one.price_id, one.rates, one.cost) for one in node.prices]
    changes += [(one.since, one.price_id, one.rates, one.cost) for one in priced]
    if changes and changes[-1][0] > node.through:
        events.append(_Price(*changes[-1][1:]).event(node.id, to_at))
    return events


def too_small(state: State, node: NodeRecord, facts: NodeFacts) -> str:
    """What keeps a node from starting anything while its jobs hold more than it says it has; else empty."""
    held = state.cluster.held(node.row)
    less = [
        f"{found:g} of {wanted:g} {unit}"
        for unit, wanted, found in (
            ("CPUs", held.cpu_milli / 1000, facts.cpu_milli / 1000),
            ("MiB of memory", held.memory_bytes / MIB, facts.memory_bytes / MIB),
            ("devices", held.devices, len(facts.devices)),
        )
        if wanted > found
    ]
    if not less:
        return ""
    return (
        f"it came back with less than its running jobs hold ({', '.join(less)}): it takes new work once they"
        f" have ended, or are stopped with `bursar node drain {facts.name} --stop`"
    )


def resized(
    state: State, node: NodeRecord, facts: NodeFacts, prices: PriceTable, now: int, trouble: str
) -> list[Event]:
    """The size that a node came with, which what it holds fits by now. `trouble`: what it said of itself."""
    priced = _priced(node, node.id, facts, prices, now)
    return [NodeRegistered(node.id, facts), *priced, NodeCondition(node.id, trouble)]


def _priced(
    node: NodeRecord | None, node_id: str, facts: NodeFacts, prices: PriceTable, now: int
) -> list[NodePriced]:
    """Each price that came into force since the last one, dated; what a node has changes from now on."""
    if node is None:
        return [_price(facts, prices, now).event(node_id, now)]
    events: list[NodePriced] = []
    known = _Price(node.price_id, node.rates, node.cost)
    at = max(node.through, node.prices[-1].since if node.prices else 0)
    # A price that is in force already is not undone by who looks at an instant before it.
    now = max(now, at)
    for instant in _changes(prices, at, now):
        found = _price(node.facts if instant < now else facts, prices, instant)
        if found != known:
            # What is owned already stays as it was valued: on its axis a node may be ahead of the wall.
            events.append(found.event(node_id, max(instant, node.through)))
            known = found
    return events


def _changes(prices: PriceTable, after: int, now: int) -> Iterator[int]:
    """Every instant since then at which a price may have changed, and now."""
    while (after := prices.next_change(after)) < now:
        yield after
    yield now


class _Price(NamedTuple):
    """What jobs pay for a node, and what it costs where that is not the same."""

    price_id: str
    rates: ShareRates
    cost: ShareRates | None

    def event(self, node_id: str, since: int) -> NodePriced:
        return NodePriced(node_id, self.price_id, self.rates, since, self.cost)


def _price(facts: NodeFacts, prices: PriceTable, at: int) -> _Price:
    quote = prices.lookup(facts, Instant(at))
    if quote is None:
        return _Price("", ShareRates(), None)
    return _Price(quote.price_id, quote.components, quote.cost if quote.cost != quote.components else None)


def reprice(
    state: State, prices: PriceTable, now: int, only: Iterable[NodeRecord] | None = None
) -> list[Event]:
    """Nodes whose price changed, after a policy or with time. What runs keeps its frozen price."""
    events: list[Event] = []
    for node in state.nodes.values() if only is None else only:
        events += came(node, prices, now)
    return events


def _away(
    state: State,
    node: NodeRecord,
    late: Sequence[Held],
    to_at: int,
    priced: Sequence[NodePriced],
    boot_us: int,
) -> tuple[list[Event], tuple[Charge, ...]]:
    """The time between the last report of the old boot and now; `late` is usage reported only now. Where a
    tariff changes within an hour of it, each rate is metered by itself, since a row is of one rate; else
    charges that its boot closes.

    Another boot is the evidence that the machine was off, until its boot clock began: since then it was
    there, and nobody's. A clock that began before the last report of the boot before is no evidence of that.
    """
    booted_at = to_at - boot_us
    up_at = booted_at if booted_at > node.through else NEVER
    after = up_at, nobodys(state, node)
    parts = ownership.of(node, to_at, late, "down", priced, after, reserved(state, node, to_at))
    before = _at_another_rate(node, parts)
    if before or _changes_within_an_hour(parts):
        return [*before, *metered(node, parts)], ()
    return [], tuple(one for part in parts for one in part.charges)


def _changes_within_an_hour(parts: Sequence[OwnedSpan]) -> bool:
    """Is there another rate under the same price that begins inside an hour?"""
    return any(_another_rate(one, following) for one, following in pairwise(parts))


def _another_rate(part: OwnedSpan, following: OwnedSpan) -> bool:
    span, later = part.span, following.span
    same_price = later.price_id == span.price_id
    return same_price and later.cost_rates != span.cost_rates and span.end % HOUR_US > 0


def unheard(node: NodeRecord, to_at: int) -> tuple[Charge, ...]:
    """What a silent node costs since its last report: nobody knows of what until it tells. In no book yet."""
    if not node.axis_start:
        return ()
    return tuple(one for part in ownership.of(node, to_at, (), "unknown") for one in part.charges)


def usage(
    state: State,
    node: NodeRecord,
    *,
    boot_id: str,
    at_boot_us: int,
    counters: Iterable[tuple[str, int, int]],
) -> list[Event]:
    """Cumulative counters of everything live on a node, read at one instant. A repeated or stale report
    changes nothing: only the largest counter decides (L5).
    """
    through = node.axis(at_boot_us)
    if boot_id != node.boot_id or through <= node.through:
        return []
    used: list[tuple[int, Used]] = []
    shares: list[Held] = []
    cuts = {span.start for span in node.spans(through)[1:]}
    borders = _borders(state, node, through)
    for (attempt_id, rank), held_us in _largest(counters).items():
        attempt = state.attempts.get(attempt_id)
        if attempt is None or not 0 <= rank < len(attempt.members):
            continue
        member = attempt.members[rank]
        if member.alloc.node_id != node.id or member.report is not None or not member.started_at:
            continue
        # Nobody holds a share for longer than time has passed on its node (L6).
        held_us = min(max(held_us, member.charged_us), through - member.started_at)
        if held_us <= member.charged_us:
            continue
        pieces = member_charges(
            attempt_id=attempt_id,
            job_id=attempt.job_id,
            rank=rank,
            node_id=node.id,
            price_id=member.alloc.price_id,
            rates=member.alloc.rates,
            started_at=member.started_at,
            from_us=member.charged_us,
            to_us=held_us,
            cuts=cuts | borders | state.borders(attempt),
        )
        shares.append(ownership.held(node, member, held_us))
        used += (
            (one.end, Used(attempt_id, rank, one.end - member.started_at, one.gpu, one.cpu, one.memory))
            for one in pieces
        )
    owned = _owned(state, node, through, shares, cuts=sorted(borders))
    return [*_at_another_rate(node, owned), *metered(node, owned, used, borders)]


def _at_another_rate(node: NodeRecord, parts: Sequence[OwnedSpan]) -> list[NodeMetered]:
    """What is open of an hour at another rate than is in force from `through` on, under the same price, is a
    row before more is added to it: so it is where a tariff changes within an hour of UTC.
    """
    if not parts:
        return []
    now, price_id = parts[0].span.cost_rates, parts[0].span.price_id
    for hour in node.open.values():
        if hour.price_id == price_id and hour.rates != now and node.through < hour.hour + HOUR_US:
            return [NodeMetered(node.id, node.through, posted=True)]
    return []


def _borders(state: State, node: NodeRecord, through: int) -> set[int]:
    """Where a budget's period ends inside an hour, of what runs on a node: rows of that hour end there, so
    that each is of one period.
    """
    found: set[int] = set()
    for attempt_id in node.live:
        found |= state.borders(state.attempts[attempt_id])
    return {at for at in found if at <= through}


def _owned(
    state: State,
    node: NodeRecord,
    through: int,
    shares: Sequence[Held],
    priced: Sequence[NodePriced] = (),
    cuts: Sequence[int] = (),
) -> list[OwnedSpan]:
    """What jobs leave of a rented machine is idle, and the whole of it, while nobody runs there, is kept.
    What they leave of a reserved one is reserved, in its windows.
    """
    kind = nobodys(state, node)
    left_at = NEVER if shares else max((usage.end for usage in node.ended), default=node.through)
    return ownership.of(
        node, through, shares, "idle", priced, (left_at, kind), reserved(state, node, through), cuts
    )


def reserved(state: State, node: NodeRecord, to_at: int) -> Windows:
    """When a node was kept for somebody since it was metered."""
    return state.reservations.windows(node.facts.name, node.through, to_at)


def nobodys(state: State, node: NodeRecord) -> str:
    """The kind of a node's time in which nobody holds any of it: a rented one is kept for who comes next."""
    return "keep-alive" if node.facts.name in state.rented else "idle"


def _largest(counters: Iterable[tuple[str, int, int]]) -> dict[tuple[str, int], int]:
    """One counter of each member: a report that names one twice bills it once."""
    found: dict[tuple[str, int], int] = {}
    for attempt_id, rank, held_us in counters:
        found[attempt_id, rank] = max(held_us, found.get((attempt_id, rank), 0))
    return found


def metered(
    node: NodeRecord,
    parts: Sequence[OwnedSpan],
    used: Sequence[tuple[int, Used]] = (),
    borders: Collection[int] = (),
) -> list[Event]:
    """One event for each price that was in force. `used`: with where each piece ends. `borders`: where rows
    end inside their hour.
    """
    events: list[Event] = []
    before = -(2**62)
    for part, following in zip_longest(parts, parts[1:]):
        through = part.span.end
        ends = [end for end, _ in used if before < end <= through]
        pieces = tuple(piece for end, piece in used if before < end <= through)
        posted = through in borders or any(end in borders for end in ends)
        posted = posted or (following is not None and _another_rate(part, following))
        rest = tuple(
            Rest(one.kind, through - one.start, through - one.end, one.gpu, one.cpu, one.memory)
            for one in part.charges
        )
        events.append(NodeMetered(node.id, through, part.span.price_id if rest else "", pieces, rest, posted))
        before = through
    return events


def silent(state: State, node: NodeRecord) -> list[Event]:
    """Its agent is out of contact."""
    return [NodeSilent(node.id)] if node.connected else []


def scheduling(node: NodeRecord, mode: str, reason: str) -> list[Event]:
    """Open, cordon or drain a node; what it did until now is forgiven."""
    remembered = bool(node.misbehaved or node.not_started)
    same = (node.mode, node.reason) == (mode, reason)
    return [] if same and not remembered else [NodeScheduling(node.id, mode, reason)]


def remove(
    state: State, prices: PriceTable, node: NodeRecord, axis_now: int, kind: str = "unknown"
) -> list[Event]:
    """A node that is gone for good. Its cost is closed at `axis_now`: nobody knows what it did since its last
    report; of a rented one it is known that it was paid for (`kind`).

    Raises:
        WrongState: something of it is live; all reasons at once.
    """
    name = node.facts.name
    reasons = [f"its agent is in contact: stop it (and drain {name} first)"] if node.connected else []
    for attempt in state.live_attempts():
        for member in attempt.members:
            if member.alloc.node_id == node.id:
                job = state.jobs[attempt.job_id]
                reasons.append(
                    f"rank {member.alloc.rank} of job {job.display} has ended there and its gang runs"
                    if member.report is not None
                    else f"job {job.display} holds it: `bursar node drain {name} --confirm-dead` if it is off"
                )
    reasons += [
        f"machine {machine.id} ({machine.provider} {machine.provider_id}) is {machine.state.value}"
        for machine in state.machines.values()
        if machine.node_id == node.id or machine.name == name
    ]
    if reasons:
        more = f"; and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        raise WrongState(f"node {name} cannot be removed: {'; '.join(reasons[:5])}{more}")
    return [*closed(state, prices, node, axis_now, kind), NodeRemoved(node.id, name)]


def closed(state: State, prices: PriceTable, node: NodeRecord, until: int, kind: str) -> list[Event]:
    """A node's cost until an instant of its axis, behind which nothing is owned yet. What came into force
    before that values its own part, however long ago prices were looked at.
    """
    if not node.axis_start:
        return []
    through = max([node.through, until, *(usage.end for usage in node.ended)])
    priced = came(node, prices, through) if through > node.through else []
    parts = ownership.of(node, through, (), kind, priced, reserved=reserved(state, node, through))
    return [*priced, *_at_another_rate(node, parts), *metered(node, parts)]


def came(node: NodeRecord, prices: PriceTable, until: int) -> list[NodePriced]:
    """Prices of a node that came into force before an instant, and that it does not have yet: to be said
    before its time up to then is owned.
    """
    return _priced(node, node.id, node.facts, prices, until)


def confirm_dead(state: State, node: NodeRecord) -> list[Event]:
    """An operator vouches that a silent node's processes are gone: its attempts may run elsewhere (J4). Of a
    node in contact that is only to be said of what is overdue there; what it tells of the others is believed.
    """
    events: list[Event] = []
    if node.connected:
        late = [key for key in node.live.items() if key[1] in state.attempts[key[0]].overdue]
        if not late:
            raise WrongState(
                f"node {node.facts.name} is in contact, and nothing on it is overdue; drain it with --stop"
                " instead"
            )
        for attempt_id, rank in late:
            events += gone(state, node, attempt_id, rank, "the operator confirmed that nothing is left of it")
        return events
    for attempt_id, rank in list(node.live.items()):
        events += lost(state, node, attempt_id, rank, "the operator confirmed that the node is dead")
    return events
