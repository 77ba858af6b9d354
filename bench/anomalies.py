"""How well anomalies are found: planted in generated months, beside "today > mean x (1 + threshold)".

    python bench/anomalies.py [--seeds N] [--tuning]

Each history has sixty days before a month of thirty, of which one to three cost 1.6 to 4 times what they
would have. Told: of those planted how many were found, of those found how many were planted, and F1, which is
high when both are; for the mean of the last 7 and 30 days with several thresholds, as OptScale has it.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from bursard.forecast.anomalies import unusual_days

sys.path.insert(0, str(Path(__file__).parent))
from forecast import KINDS, SCORING_FROM, TUNING_FROM, USD

BEFORE, MONTH = 60, 30
Found = Callable[[list[int]], Iterable[int]]


def ours(days: list[int]) -> Iterable[int]:
    """Days of the month that are called anomalies."""
    return (one.at for one in unusual_days(days, BEFORE))


def by_mean(window: int, percent: int) -> Found:
    """The rule beside it."""

    def found(days: list[int]) -> Iterable[int]:
        for at in range(BEFORE, len(days)):
            mean = sum(days[at - window : at]) / window
            if days[at] > mean * (100 + percent) / 100:
                yield at

    return found


RULES: dict[str, Found] = {
    "bursar": ours,
    **{
        f"mean {window} +{percent}%": by_mean(window, percent)
        for window in (7, 30)
        for percent in (30, 50, 100)
    },
}


def planted(kind: str, seed: int) -> tuple[list[int], set[int]]:
    """A history, and its anomalies."""
    draw = random.Random(seed)
    days = [int(one * USD) for one in KINDS[kind](draw, BEFORE + MONTH)]
    where = set(draw.sample(range(BEFORE, BEFORE + MONTH), draw.randint(1, 3)))
    for at in where:
        days[at] = int(days[at] * draw.uniform(1.6, 4))
    return days, where


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=200, help="histories of each kind")
    parser.add_argument("--tuning", action="store_true", help="the seeds that the rule was tuned on")
    asked = parser.parse_args()
    first = TUNING_FROM if asked.tuning else SCORING_FROM
    print(
        f"{asked.seeds} histories a kind, seeds from {first}; found of planted / planted of found / F1, in %"
    )
    print(f"{'':14}" + "".join(f"{kind:>18}" for kind in (*KINDS, "all")))
    for name, rule in RULES.items():
        cells, sums = [], [0, 0, 0]
        for kind in KINDS:
            counts = [0, 0, 0]
            for seed in range(asked.seeds):
                days, where = planted(kind, first + seed)
                told = set(rule(days))
                counts = [counts[0] + len(told & where), counts[1] + len(where), counts[2] + len(told)]
            sums = [one + more for one, more in zip(sums, counts, strict=True)]
            cells.append(cell(*counts))
        print(f"{name:14}" + "".join(f"{each:>18}" for each in (*cells, cell(*sums))))


def cell(right: int, there: int, told: int) -> str:
    """Of so many planted and so many told, so many were right."""
    return (
        f"{100 * right / there:.0f} / {100 * right / max(told, 1):.0f} / {200 * right / (there + told):.0f}"
    )


if __name__ == "__main__":
    main()
