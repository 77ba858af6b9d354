"""The factors a PriorityPolicy may weigh.

Why     each says one thing about a job, on one scale, so that two weights can be compared: a weight of 2 on
        `run_time` and 1 on `age` says that a full age is worth ten doublings of the run time.
"""

from __future__ import annotations

import numpy as np

from bursar.clock import SECOND_US
from bursar_policies.rankers.api import ONE, Factor, Ints, Waiting
from bursar_policies.rankers.doublings import doublings

PER_DOUBLING = ONE // 20
"""What `run_time` and `size` lose when it doubles: they reach from one to a million times their least."""
SHORTEST_S = 10
"""Jobs of less than so many seconds count as equally short."""


_SHORTEST = doublings(np.array([SHORTEST_S * SECOND_US], dtype=np.int64))


class Age:
    """How long it has waited: from 0 to all after `age_full`, evenly or, with a power, late and then fast."""

    name = "age"

    def of(self, waiting: Waiting) -> Ints:
        """In milliseconds, so that no product passes 64 bits."""
        waited_ms = np.clip(waiting.now - waiting.since_us, 0, waiting.age_full_us) // 1_000
        part: Ints = waited_ms * ONE // max(waiting.age_full_us // 1_000, 1)
        found = part
        for _ in range(waiting.age_power - 1):
            found = found * part // ONE
        return found


class RunTime:
    """How short it is: all up to ten seconds, a twentieth less with every doubling."""

    name = "run_time"

    def of(self, waiting: Waiting) -> Ints:
        """Of the time limit, and what of the grace after it is beyond a minute."""
        return _less(doublings(waiting.limits_us + waiting.graces_us[waiting.queue]) - _SHORTEST)


class Size:
    """How small it is: nothing for the whole cluster, a twentieth more with every half of it."""

    name = "size"

    def of(self, waiting: Waiting) -> Ints:
        """Of the largest share of CPUs, memory and GPUs."""
        return _less(doublings(waiting.sizes))[waiting.queue]


class Deadline:
    """How little slack it has: its time limit as a part of the time left. Nothing without a deadline."""

    name = "deadline"

    def of(self, waiting: Waiting) -> Ints:
        """All once no slack is left, half with twice the time it needs. In milliseconds, as `age` is."""
        limits_ms = np.maximum(waiting.limits_us // 1_000, 1)
        left_ms = (waiting.deadlines_us - waiting.now) // 1_000
        found: Ints = limits_ms * ONE // np.maximum(left_ms, limits_ms)
        return np.where(waiting.deadlines_us > 0, found, 0)


class FairShare:
    """How far its project is below its share of what was spent: half at its share, all without any cost."""

    name = "fair_share"

    def of(self, waiting: Waiting) -> Ints:
        """Gathered from projects."""
        found: Ints = waiting.standings[waiting.projects]
        return found


class Budget:
    """What is left of the scarcest of its budgets; all without one."""

    name = "budget"

    def of(self, waiting: Waiting) -> Ints:
        """Gathered from queues."""
        found: Ints = waiting.rooms[waiting.queue]
        return found


class Qos:
    """Its priority, of 100."""

    name = "qos"

    def of(self, waiting: Waiting) -> Ints:
        """Gathered from queues."""
        found: Ints = waiting.priorities[waiting.queue] * (ONE // 100)
        return found


def _less(doubled: Ints) -> Ints:
    """All, less a twentieth for each doubling."""
    return np.clip(ONE - doubled * PER_DOUBLING // ONE, 0, ONE)


ALL_FACTORS: tuple[Factor, ...] = (Age(), FairShare(), Size(), RunTime(), Deadline(), Budget(), Qos())
"""By name in `specs.FACTORS`."""
