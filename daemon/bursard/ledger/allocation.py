"""What a node costs beyond its shares: idle, down, and the rounding between them.

Owns    node cost = job shares + idle (or down) + overhead, exactly, for every hour and component.
Why     the sum is what an operator pays; if it did not tie to the nano, each report would need its
        own explanation. Idle is therefore never measured but is what remains.

The node's cost is `cumulative(rate, t)` with `t` counted from a full UTC hour, so a full hour costs
exactly the hourly rate, however it was cut, and the origin's own date does not matter. A member
counts from its own start instead, so that its bill does not depend on the hour grid. Both round
down, hence a segment with `n` shares can be off by at most `n` nanos per component: `overhead`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bursar.clock import HOUR_US
from bursar.errors import InvariantViolation
from bursar.model import ShareRates
from bursar.money import charge
from bursard.events import Charge
from bursard.ledger.metering import hour_segments

Parts = tuple[int, int, int]
"""Nanos by component: gpu, cpu, memory."""

_NOTHING: Parts = (0, 0, 0)


def add_used(used: dict[int, Parts], charges: Iterable[Charge]) -> None:
    """Add charges to the sums that `node_charges` subtracts, by start of their UTC hour."""
    for item in charges:
        hour = item.start - item.start % HOUR_US
        gpu, cpu, memory = used.get(hour, _NOTHING)
        used[hour] = (gpu + item.gpu, cpu + item.cpu, memory + item.memory)


def node_charges(
    *,
    node_id: str,
    price_id: str,
    rates: ShareRates,
    axis_start: int,
    from_at: int,
    to_at: int,
    used: Mapping[int, Parts],
    kind: str = "idle",
    shares: int | None = None,
) -> tuple[Charge, ...]:
    """The charges that complete `[from_at, to_at)` of one node: with `used` they sum to its cost.

    Per hour: a component that is left over goes into one `kind` charge, one that rounding has
    overdrawn into one `overhead` charge with a negative amount. An unknown price (no `price_id`)
    costs 0 and is one charge of 0 in each hour that no share touched, so coverage counts it.

    Args:
        rates: nanos per hour of the whole node.
        axis_start: where the node's cost begins; nothing before it can be charged.
        used: usage of this interval by start of UTC hour (`add_used`), members that ended included.
        kind: `idle` for a node that was up, `down` for one that was not there.
        shares: how many members `used` comes from. When given, what rounding cannot explain is a
            fault, and a leftover that it can explain is overhead rather than a nano of idle.

    Raises:
        InvariantViolation: usage outside the interval, or more of it than the node costs.
    """
    if from_at < axis_start:
        raise InvariantViolation(f"L8: {node_id} costs nothing yet at {from_at}, but from {axis_start}")
    segments = hour_segments(from_at, to_at)
    hours = {start - start % HOUR_US for start, _ in segments}
    if not used.keys() <= hours:
        outside = sorted(used.keys() - hours)
        raise InvariantViolation(f"L8: usage on {node_id} in {outside}, outside {from_at}..{to_at}")
    charges: list[Charge] = []
    for start, end in segments:
        hour = start - start % HOUR_US
        if not price_id:
            if hour not in used:
                charges.append(charge_of(kind, node_id, start, end, "", _NOTHING))
            continue
        rest = _residual(rates, start - hour, end - hour, used.get(hour, _NOTHING))
        left, rounding = _split(rest, shares, node_id, start)
        if any(left):
            charges.append(charge_of(kind, node_id, start, end, price_id, left))
        if any(rounding):
            charges.append(charge_of("overhead", node_id, start, end, price_id, rounding))
    return tuple(charges)


def _residual(rates: ShareRates, a: int, b: int, used: Parts) -> Parts:
    """Node cost less usage, by component; `a` and `b` count from the full hour."""
    return (
        charge(rates.gpu, a, b) - used[0],
        charge(rates.cpu, a, b) - used[1],
        charge(rates.memory, a, b) - used[2],
    )


def _split(rest: Parts, shares: int | None, node_id: str, start: int) -> tuple[Parts, Parts]:
    """(left over, rounding), by component; they sum to `rest`."""
    if shares is not None and min(rest) < -shares:
        raise InvariantViolation(
            f"L8: shares of {node_id} from {start} leave {rest} nanos of its cost;"
            f" rounding explains -{shares}"
        )
    slack = shares or 0
    gpu, cpu, memory = (part if part > slack else 0 for part in rest)
    return (gpu, cpu, memory), (rest[0] - gpu, rest[1] - cpu, rest[2] - memory)


def charge_of(kind: str, node_id: str, start: int, end: int, price_id: str, parts: Parts) -> Charge:
    """A charge of a node's own time, by component."""
    gpu, cpu, memory = parts
    return Charge(
        kind=kind,
        node_id=node_id,
        start=start,
        end=end,
        nanos=gpu + cpu + memory,
        price_id=price_id,
        gpu=gpu,
        cpu=cpu,
        memory=memory,
    )
