"""How good forecasts are: on generated months, beside a linear rule, with seeds that nothing was tuned on.

    python bench/forecast.py [--seeds N] [--tuning]

Prints, for each kind of spending, the mean absolute percentage error (MAPE) of what a month costs in the
end, as told on a day within it, and of the part that was still to come; how often the truth was between p10
and p90, which is meant to be 80 %; and the same errors of the rule that OptScale has: what the month has
cost, and for each day left the mean of the days since the month before began.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from typing import NamedTuple

from bursard.forecast.usual import usual

USD = 10**9
TUNING_FROM, SCORING_FROM = 1, 1_000_000
"""The first seed of each: rules were tuned on the former alone."""

Kind = Callable[[random.Random, int], list[float]]


def weekdays(draw: random.Random, many: int) -> list[float]:
    """A team that rests at weekends."""
    level, rest, noise = draw.uniform(50, 5_000), draw.uniform(0.05, 0.5), draw.uniform(0.05, 0.25)
    first = draw.randrange(7)
    return [
        level * (rest if (first + day) % 7 >= 5 else 1) * draw.lognormvariate(0, noise) for day in range(many)
    ]


def growth(draw: random.Random, many: int) -> list[float]:
    """More, or less, each week."""
    rate, base = draw.uniform(-0.01, 0.02), weekdays(draw, many)
    return [one * (1 + rate) ** day for day, one in enumerate(base)]


def bursts(draw: random.Random, many: int) -> list[float]:
    """A quiet base, and experiments of some days that cost many times as much."""
    base, found = draw.uniform(20, 200), []
    left, size, chance = 0, 0.0, draw.uniform(0.08, 0.25)
    for _ in range(many):
        if not left and draw.random() < chance:
            left, size = draw.randint(1, 6), base * draw.lognormvariate(1.5, 0.7)
        found.append(base * draw.lognormvariate(0, 0.2) + (size if left else 0))
        left = max(left - 1, 0)
    return found


def steps(draw: random.Random, many: int) -> list[float]:
    """A level that changes at once, and stays."""
    level, noise, found = draw.uniform(50, 5_000), draw.uniform(0.05, 0.2), []
    for _ in range(many):
        if draw.random() < 1 / 40:
            level *= draw.choice([draw.uniform(0.4, 0.8), draw.uniform(1.25, 2.5)])
        found.append(level * draw.lognormvariate(0, noise))
    return found


def mixed(draw: random.Random, many: int) -> list[float]:
    """Some of each."""
    parts = [kind(draw, many) for kind in draw.sample([weekdays, growth, bursts, steps], 2)]
    return [sum(day) for day in zip(*parts, strict=True)]


KINDS: dict[str, Kind] = {
    "weekdays": weekdays, "growth": growth, "bursts": bursts, "steps": steps, "mixed": mixed,
}  # fmt: skip


class Score(NamedTuple):
    """Of one month: relative errors of its end and of its rest, and was the truth within p10 and p90?"""

    ours: float
    linear: float
    ours_rest: float
    linear_rest: float
    inside: bool


def linear(days: list[int], month_start: int, left: int) -> int:
    """OptScale's rule for what is left of a month."""
    since = max(month_start - 30, 0)
    known = days[since:]
    return sum(known) * left // max(len(known), 1)


def score(kind: Kind, seed: int) -> Score:
    """One history, cut on one day of a month of 30 days."""
    draw = random.Random(seed)
    before, passed = draw.randint(20, 120), draw.randint(3, 26)
    whole = [int(day * USD) for day in kind(draw, before + 30)]
    known, left = whole[: before + passed], 30 - passed
    spent, truth = sum(whole[before : before + passed]), sum(whole[before + passed :])
    found = usual(known, left)
    assert found is not None
    point = sum(found.days)
    low, high = (point * share // 1_000_000 for share in found.spread_after(left))
    other = linear(known, before, left)
    return Score(
        abs(point - truth) / (spent + truth),
        abs(other - truth) / (spent + truth),
        abs(point - truth) / max(truth, 1),
        abs(other - truth) / max(truth, 1),
        low <= truth <= high,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=200, help="histories of each kind")
    parser.add_argument("--tuning", action="store_true", help="the seeds that rules were tuned on")
    asked = parser.parse_args()
    first = TUNING_FROM if asked.tuning else SCORING_FROM
    began = time.process_time()
    print(f"{asked.seeds} histories a kind, seeds from {first}")
    print(f"{'':10} {'MAPE month':>11} {'linear':>8} {'MAPE rest':>10} {'linear':>8} {'in p10..p90':>12}")
    every: list[Score] = []
    for name, kind in KINDS.items():
        scores = [score(kind, first + seed) for seed in range(asked.seeds)]
        every += scores
        print(row(name, scores))
    print(row("all", every))
    print(
        f"{(time.process_time() - began) / len(every) * 1_000:.1f} ms of CPU a forecast, histories included"
    )


def row(name: str, scores: list[Score]) -> str:
    """Means of a kind."""
    ours, other, rest, other_rest, inside = (
        100 * sum(each) / len(scores) for each in zip(*scores, strict=True)
    )
    return f"{name:10} {ours:10.1f}% {other:7.1f}% {rest:9.1f}% {other_rest:7.1f}% {inside:11.1f}%"


if __name__ == "__main__":
    main()
