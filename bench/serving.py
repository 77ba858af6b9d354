"""Autoscaling of services: what three days of load cost by three rules, and what a decision takes.

Run     python bench/serving.py
Prints  for each generated load (office hours, bursts, nights without anybody) what it costs, and
        who waits, by the daemon's own rule, by as many replicas as its most takes, and by what is
        in hand now; then microseconds of CPU of one decision among 1,000 services with a minute of
        samples of two gateways, and of all together. CPU time, so that others on the machine change
        it little.
Fails   where a decision takes more than a millisecond, or the rule costs more than as many as the
        most of the load takes.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

from bursar.clock import SECOND_US
from bursar.model import ServiceSpec
from bursard.serving.autoscale import Memory, Sample, Seen, Standing, scale
from bursard.sim.serving import MILLI, Load, by_autoscaler, by_concurrency, fixed, peak, serve

DAY_S: Final = 86_400
STEP_S: Final = 60
EACH_MS: Final = 4_000
COLD_S: Final = 90
RATE: Final = 2_500_000_000
SERVICES: Final = 1_000
DECISION_US_MAX: Final = 1_000


def office(at: float, lot: random.Random) -> float:
    """Little at night, most at noon, some noise."""
    return max(2 + 18 * math.sin((at - 0.25) * 2 * math.pi), 0.5) * lot.uniform(0.9, 1.1)


def bursts(at: float, lot: random.Random) -> float:
    """A quiet stream, and now and then ten times that for some minutes."""
    return (30.0 if lot.random() < 0.03 else 3.0) * lot.uniform(0.8, 1.2)


def nights(at: float, lot: random.Random) -> float:
    """Eight hours of work, and nobody otherwise."""
    return lot.uniform(6, 10) if 0.33 < at < 0.67 else 0.0


SHAPES: Final[dict[str, tuple[Callable[[float, random.Random], float], int]]] = {
    "office hours": (office, 1), "bursts": (bursts, 1), "nights without anybody": (nights, 0),
}  # fmt: skip


def loads_of(shape: Callable[[float, random.Random], float]) -> list[Load]:
    """A day, minute by minute; the same each time."""
    lot = random.Random(7)
    rows = [
        Load(second, int(MILLI * shape(second / DAY_S, lot)), EACH_MS) for second in range(0, DAY_S, STEP_S)
    ]
    return [*rows, Load(DAY_S, 0, MILLI)]


def compare(name: str, shape: Callable[[float, random.Random], float], least: int) -> bool:
    """One load, three rules. Returns whether the daemon's costs less than as many as the most takes."""
    spec, loads = ServiceSpec(replicas_min=least, replicas_max=32, target=8), loads_of(shape)
    many = peak(spec, loads)
    rules = {
        "autoscaler": (by_autoscaler(spec, COLD_S, RATE), least),
        f"fixed at {many}": (fixed(many), many),
        "in hand now": (by_concurrency(spec), max(least, 1)),
    }
    costs = []
    for rule, (decide, first) in rules.items():
        found = serve(spec, loads, COLD_S, decide, first)
        costs.append(found.cost(RATE))
        print(
            f"{name:24} {rule:14} {costs[-1] / 1e9:9.2f} USD  {found.replica_s / 3_600:8.1f} replica hours,"
            f" wait p50/p95/p99/longest {found.wait_s(50)}/{found.wait_s(95)}/{found.wait_s(99)}/"
            f"{max(found.waits_s, default=0)} s, {found.changed} changes"
        )
    print(f"{name:24} {costs[0] / costs[1]:.2f} of fixed, {costs[0] / costs[2]:.2f} of in hand now")
    return costs[0] <= costs[1]


def seen() -> Iterator[Seen]:
    """Each of many services at one moment."""
    lot, now = random.Random(3), 10**15
    for _ in range(SERVICES):
        samples = [
            Sample(now - (60 - second) * SECOND_US, SECOND_US, lot.randrange(40 * SECOND_US), gateway)
            for second in range(60)
            for gateway in ("g", "h")
        ]
        replicas = tuple(
            Standing(attempt_id=f"a{n}", ready=lot.random() < 0.9, outstanding=lot.randrange(8), rate=RATE)
            for n in range(lot.randrange(1, 9))
        )
        yield Seen(now=now, replicas=replicas, samples=samples, asked_at=now)


def decisions() -> float:
    """Microseconds of CPU of one."""
    spec, memory, all_seen = ServiceSpec(replicas_min=1, replicas_max=8), Memory(target=3), list(seen())
    best = math.inf
    for _ in range(5):
        began = time.process_time()
        for one in all_seen:
            scale(spec, one, memory)
        best = min(best, time.process_time() - began)
    print(
        f"{SERVICES} services: {best * 1e6 / SERVICES:.1f} us of CPU a decision, {best * 1e3:.1f} ms for all"
    )
    return best * 1e6 / SERVICES


def main() -> int:
    """All of it."""
    cheap = [compare(name, shape, least) for name, (shape, least) in SHAPES.items()]
    return 0 if all(cheap) and decisions() <= DECISION_US_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
