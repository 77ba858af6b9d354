"""What the next days usually cost, learned of the days before, and how far such words were off. PURE.

Input   nanos of complete days, oldest first, up to yesterday. Work grows with `HISTORY_DAYS` alone.
Why     no one rule is right for a team that rests at weekends, one that grows and one that runs bursts. So
        several simple rules say what the next days cost, each is tried on the days that are known, and they
        are mixed by how well they did. The same trials say how far the mixture was off, and that is what the
        quantiles are made of: nobody assumes a bell curve.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import isqrt
from typing import Final, NamedTuple

PPM: Final = 1_000_000
HISTORY_DAYS: Final = 91
"""Thirteen weeks: of what is older nothing is learned."""
DAYS_MIN: Final = 3
"""Of fewer complete days nothing is called usual."""
HORIZON: Final = 28
"""Days ahead that rules are tried on; beyond, what they are off by grows as the root of the days."""
_WEEK: Final = 7
_ORIGINS: Final = 30
"""Days in the past that rules are tried from, the newest."""
_OLDER: Final = 3
"""Where spending jumps, so many days apart rules are tried in the time before, for the spread alone."""
_DOUBTS: Final = (600_000, 1_800_000)
"""Taken in among what was seen: a history of few days is not trusted to have shown all it can do."""
_STEADY: Final = 120_000
"""Where no weekday costs so much more or less than the others, in millionths, nobody rests: what runs, runs
on, until something is added or ends. That changes a level at once, and no trial of calm days knows of it:
"""
_DOUBTED: Final = 3
"""so often do the doubts count there."""
_OPINIONS: Final = 2
"""So many times what each rule says by itself counts among what was seen."""
_WIDER: Final = PPM // 2
"""Trials are on days that the mixture was made for, and those of long stretches overlap: they show less than
happens. So much wider in millionths, and once more by the share of the history that a stretch takes.
"""
_NARROWEST: Final = 20_000
"""Nothing is sure to less than this, in millionths to either side."""
_DAMPING: Final = 56
"""After so many days half of a trend is gone."""

Spread = tuple[int, int]
Rule = Callable[[Sequence[int], int], list[int]]
"""(days before, how many days ahead) to what each of those will cost."""


class Usual(NamedTuple):
    """What is usual from today on.

    Attributes:
        days: nanos of each day ahead, today first, as expected.
        spread: by number of days ahead (first: 1), p10 and p90 of what they cost together, in parts per
            million of what is expected of them.
        learned: complete days that this rests on.
    """

    days: tuple[int, ...]
    spread: tuple[Spread, ...]
    learned: int

    def spread_after(self, ahead: int) -> Spread:
        """The spread of so many days together, also of more than were tried."""
        if ahead <= len(self.spread):
            return self.spread[max(ahead, 1) - 1]
        low, high = self.spread[-1]
        wider = isqrt(ahead * PPM * PPM // len(self.spread))
        return max(PPM - (PPM - low) * wider // PPM, 0), PPM + (high - PPM) * wider // PPM


def usual(days: Sequence[int], ahead: int) -> Usual | None:
    """What so many days from today on usually cost; None where too few days are known.

    Args:
        days: nanos of complete days, oldest first, the last is yesterday's; none below 0.
    """
    days = [max(day, 0) for day in days[-HISTORY_DAYS:]]
    if len(days) < DAYS_MIN or ahead < 1:
        return None
    reach = min(HORIZON, max(len(days) // 3, 1))
    every = range(len(days) - 1, DAYS_MIN - 1, -1)
    origins = [*every[:_ORIGINS], *(every[_ORIGINS::_OLDER] if _jumps(days) else ())]
    trials = {at: [rule(days[:at], min(reach, len(days) - at)) for rule in RULES] for at in origins}
    weights = _weights(days, {at: trials[at] for at in origins[:_ORIGINS]})
    expected = _mixed([rule(days, ahead) for rule in RULES], weights)
    ratios: list[list[int]] = [[] for _ in range(reach)]
    for at, tried in trials.items():
        said, was = 0, 0
        for far, one in enumerate(_mixed(tried, weights)):
            said, was = said + one, was + days[at + far]
            if said:
                ratios[far].append(was * PPM // said)
    opinions = _opinions(days, reach, weights)
    doubts = _DOUBTS * (_DOUBTED if _steady(days) else 1)
    spread = [
        _spread([*found, *opinions[far], *doubts], far + 1, len(days)) for far, found in enumerate(ratios)
    ]
    return Usual(tuple(expected), tuple(spread), len(days))


def _jumps(days: Sequence[int]) -> bool:
    """Has a week cost half as much again as the one beside it? The next jump is nowhere in sight, but that
    there are some is: then trials of all that is known say how far things go, not of the last weeks alone.
    """
    weeks = [sum(days[at - _WEEK : at]) for at in range(len(days), _WEEK - 1, -_WEEK)]
    return any(2 * max(pair) > 3 * min(pair) for pair in pairwise(weeks))


def _steady(days: Sequence[int]) -> bool:
    """Is no weekday another than the others?"""
    return all(abs(share - PPM) <= _STEADY for share in _weekday_shares(days))


def _opinions(days: Sequence[int], reach: int, weights: Sequence[int]) -> list[list[int]]:
    """By number of days ahead, what each rule says by itself: where they disagree, something has just changed
    that no trial knows yet.
    """
    said = [rule(days, reach) for rule in RULES]
    mixed = _mixed(said, weights)
    found = []
    for far in range(1, reach + 1):
        whole = sum(mixed[:far])
        found.append([sum(each[:far]) * PPM // whole for each in said if whole] * _OPINIONS)
    return found


def _weights(days: Sequence[int], trials: Mapping[int, Sequence[Sequence[int]]]) -> list[int]:
    """How much each rule counts: by the inverse cube of what it was off by over all trials."""
    off = [0] * len(RULES)
    for at, tried in trials.items():
        for which, said in enumerate(tried):
            total = sum(said) - sum(days[at : at + len(said)])
            off[which] += abs(total) * 1_000 // len(said)
    least = max(min(off), 1)
    return [max((least * 1_000 // max(one, least)) ** 3, 1) for one in off]


def _mixed(said: Sequence[Sequence[int]], weights: Sequence[int]) -> list[int]:
    whole = sum(weights)
    return [
        sum(one * weight for one, weight in zip(each, weights, strict=True)) // whole
        for each in zip(*said, strict=True)
    ]


def _spread(ratios: Sequence[int], ahead: int, known: int) -> Spread:
    """p10 and p90 of what was seen, made wider by what it does not show."""
    seen = sorted(ratios)
    low = min(_quantile(seen, 10), PPM - _NARROWEST)
    high = max(_quantile(seen, 90), PPM + _NARROWEST)
    wider = PPM + _WIDER + PPM * ahead // known
    return max(PPM - (PPM - low) * wider // PPM, 0), PPM + (high - PPM) * wider // PPM


def _quantile(ordered: Sequence[int], percent: int) -> int:
    """Between the two nearest of them, by the distance to each."""
    place = (len(ordered) - 1) * percent
    below, rest = divmod(place, 100)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * rest // 100


# --- rules


def _flat(window: int) -> Rule:
    """Each day as the mean of the last so many."""

    def rule(days: Sequence[int], ahead: int) -> list[int]:
        last = days[-window:]
        return [sum(last) // len(last)] * ahead

    return rule


def _weekly(window: int, *, trend: bool = False) -> Rule:
    """Each day as its weekday's share of the level of the last so many days, which may go on as it went."""

    def rule(days: Sequence[int], ahead: int) -> list[int]:
        level = _level(days, window)
        shares = _weekday_shares(days)
        slope, lead = (_slope(days) if trend else 0), min(window, len(days)) // 2
        found = []
        for far in range(ahead):
            share = shares[(len(days) + far) % _WEEK]
            grown = slope * (far + lead) * _DAMPING // (_DAMPING + far)
            found.append(max(level * share // PPM * (PPM + grown) // PPM, 0))
        return found

    return rule


def _level(days: Sequence[int], window: int) -> int:
    """The mean of the last whole weeks within a window, or of all there is."""
    size = min(window, len(days))
    size = size // _WEEK * _WEEK or size
    return sum(days[-size:]) // size


def _weekday_shares(days: Sequence[int]) -> list[int]:
    """By position in a week that begins with the first day: its days' mean in millionths of all days'. Drawn
    to the mean of all as if there were one more week in which all days are alike.
    """
    weeks = len(days) // _WEEK
    recent = days[-weeks * _WEEK :] if weeks else []
    whole = sum(recent)
    if not whole:
        return [PPM] * _WEEK
    first = len(days) - len(recent)
    sums = [0] * _WEEK
    for at, nanos in enumerate(recent):
        sums[(first + at) % _WEEK] += nanos
    mean = whole // _WEEK or 1
    return [(one * PPM // mean * weeks + PPM) // (weeks + 1) for one in sums]


def _slope(days: Sequence[int]) -> int:
    """Growth a day in millionths, of the last four weeks against each other, no more than 4 % a day."""
    size = min(len(days) // 4, 14) // _WEEK * _WEEK
    if not size:
        return 0
    late, early = sum(days[-size:]), sum(days[-2 * size : -size])
    if not early or not late:
        return 0
    slope = (late - early) * PPM * 2 // ((late + early) * size)
    return max(min(slope, 40_000), -40_000)


RULES: Final[tuple[Rule, ...]] = (
    _flat(7), _flat(28), _flat(91), _weekly(7), _weekly(14), _weekly(28), _weekly(56),
    _weekly(14, trend=True),
)  # fmt: skip
