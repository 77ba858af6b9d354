"""Days and runs that cost what their like do not. PURE.

Input   nanos of consecutive days, or of runs of one kind, whole numbers.
Why     "more than the mean and so many percent" calls each Monday after a weekend an anomaly, and hides the
        second of two of them behind the first. Here a day is held against the same weekdays before, at the
        level of the last two weeks, and against how far days usually are off that; all by medians, which one
        bad day does not move.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, NamedTuple

PPM: Final = 1_000_000
DAYS_BACK: Final = 56
"""Days before a day that it is held against."""
DAYS_MIN: Final = 10
RUNS_MIN: Final = 5
"""Other runs of a kind."""
_WEEK: Final = 7
_RECENT: Final = 14
_LATELY: Final = 3
_TIMES: Final = 5
"""So many times the median deviation, or more, is an anomaly."""
_LEAST: Final = 250_000
"""And so much more than usual, in millionths."""


class Unusual(NamedTuple):
    """Something that cost more than its like. at: its place in what was given. usual: what was expected."""

    at: int
    nanos: int
    usual: int


def unusual_days(days: Sequence[int], first: int) -> list[Unusual]:
    """Days from the one at `first` on that cost more than days before them would have it."""
    found = []
    for at in range(max(first, DAYS_MIN), len(days)):
        before = days[max(at - DAYS_BACK, 0) : at]
        usual, off = _expected(before)
        if days[at] > usual + max(off * _TIMES, usual * _LEAST // PPM) and days[at] > 0:
            found.append(Unusual(at, days[at], usual))
    return found


def unusual_runs(costs: Sequence[int]) -> list[Unusual]:
    """Runs of one kind that cost more than the others of it."""
    if len(costs) <= RUNS_MIN:
        return []
    ordered = sorted(costs)
    offs: dict[int, list[int]] = {}  # by median of the others: of all costs there are no more than three
    found = []
    for at, one in enumerate(costs):
        usual = _median_of_others(ordered, one)
        if usual not in offs:
            offs[usual] = sorted(abs(cost - usual) for cost in costs)
        off = _median_of_others(offs[usual], abs(one - usual))
        if one > usual + max(off * _TIMES, usual * _LEAST // PPM):
            found.append(Unusual(at, one, usual))
    return found


def _expected(before: Sequence[int]) -> tuple[int, int]:
    """What the next day would cost, and how far days usually are off such words."""
    shares = _weekday_shares(before)
    flat = [nanos * PPM // share for nanos, share in zip(before, shares, strict=False)]
    # After three days at another level that is the level, and no anomaly any more.
    level = max(_median(flat[-_RECENT:]), _median(flat[-_LATELY:]))
    offs = sorted(abs(one - _median(flat[max(at - _RECENT, 0) : at])) for at, one in enumerate(flat) if at)
    # Where days jump, half of how far one in ten jumps counts.
    off = max(_median(offs), offs[len(offs) * 9 // 10] // 2)
    share = shares[len(before)]
    return level * share // PPM, off * share // PPM


def _weekday_shares(before: Sequence[int]) -> list[int]:
    """Of each day and the one after them, what its weekday costs in millionths of any day; no less than a
    hundredth. Of less than three weeks, all days are alike.
    """
    if len(before) < 3 * _WEEK:
        return [PPM] * (len(before) + 1)
    by_weekday = [_median(before[at::_WEEK]) for at in range(_WEEK)]
    mean = sum(by_weekday) // _WEEK
    if not mean:
        return [PPM] * (len(before) + 1)
    return [max(by_weekday[at % _WEEK] * PPM // mean, PPM // 100) for at in range(len(before) + 1)]


def _median_of_others(ordered: Sequence[int], one: int) -> int:
    """The median of ascending values but for one of them."""
    at, middle = bisect_left(ordered, one), (len(ordered) - 1) // 2
    upper = ordered[middle + (middle >= at)]
    if len(ordered) % 2 == 0:
        return upper
    return (ordered[middle - 1 + (middle - 1 >= at)] + upper) // 2


def _median(values: Sequence[int]) -> int:
    ordered = sorted(values)
    middle = len(ordered) // 2
    if not ordered:
        return 0
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) // 2
