"""What a share of a node costs per hour, what a hold must cover, how long a cap pays for.

Owns    `share_rates`, used by placement and by the daemon when it freezes a price into an attempt.
Why     every quotient is floored, so the shares of one node never sum to more than the node's own
        rate; what is left over is the node's idle cost.
"""

from __future__ import annotations

from collections.abc import Sequence

from bursar.model import DeviceShare, ShareRates
from bursar.model.allocation import FREE, Capacity, part_of
from bursar.money import US_PER_HOUR, cumulative
from bursar.resources import MILLI
from bursar_policies.decision import NodeColumns

SECOND_US = US_PER_HOUR // 3600


def share_rates(
    nodes: NodeColumns, row: int, devices: Sequence[DeviceShare], cpu_milli: int, memory_bytes: int
) -> ShareRates:
    """Nanos per hour of one member's share of a node, by component.

    All zero when the node's price is unknown (`nodes.rate[row] < 0`): the caller must then record
    the cost as unknown, never as free.
    """
    if int(nodes.rate[row]) < 0:
        return FREE
    whole = ShareRates(int(nodes.gpu_rate[row]), int(nodes.cpu_rate[row]), int(nodes.memory_rate[row]))
    of = Capacity(MILLI * int(nodes.gpu_total[row]), int(nodes.cpu_total[row]), int(nodes.memory_total[row]))
    return part_of(whole, of, Capacity(sum(share.milli for share in devices), cpu_milli, memory_bytes))


SPARED_US = 65 * SECOND_US
"""Of the time that a job may hold its place past its limit, so much does not count where rules go by the
limit: a minute of grace, which every job has that saves itself, and the margin."""


def spared_us(overhead_us: int) -> int:
    """What of `overhead_us` past its limit does not count."""
    return min(overhead_us, SPARED_US)


def worst_hold(rate_nanos_per_hour: int, hold_us: int) -> int:
    """Nanos that cover holding at this rate for the whole of `hold_us`."""
    return cumulative(rate_nanos_per_hour, hold_us)


def longest_hold_us(rate_nanos_per_hour: int, nanos: int) -> int:
    """The longest time whose cost is at most `nanos`; `rate_nanos_per_hour` > 0."""
    return ((nanos + 1) * US_PER_HOUR - 1) // rate_nanos_per_hour


def capped_time_limit_us(
    rate_nanos_per_hour: int, time_limit_us: int, hold_us: int, max_cost_nanos: int
) -> int:
    """The time limit that a job's own cap pays for, at most the one asked.

    Grace and margin (`hold_us - time_limit_us`) must be paid for too, so the result may be zero or
    negative; under one second the job must not start.
    """
    if max_cost_nanos == 0 or rate_nanos_per_hour == 0:
        return time_limit_us
    longest = longest_hold_us(rate_nanos_per_hour, max_cost_nanos)
    return min(time_limit_us, longest - (hold_us - time_limit_us))
