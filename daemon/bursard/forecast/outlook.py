"""Where a budget ends: what is usual, and what runs and waits already, laid over its days to come. PURE.

Why     what is usual knows nothing of the large job that has just started, and what runs knows nothing of
        next week's. So each day to come costs what is usual, or what is known of it already where that is
        more. What runs and waits is known three ways: what runs, as far as it is expected; with what waits;
        and both until their time limits. They are in p10, p50 and p90, beside how far the usual may be off.
        What waits starts as soon as the nodes there are could pay for it, which is sooner than it will.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from bursar.clock import DAY_US, HOUR_US
from bursar.money import cumulative
from bursard.forecast.usual import DAYS_MIN, HISTORY_DAYS, PPM, Usual, usual

AHEAD_MAX: Final = 366
"""Days: no period is longer, and of what never renews no more is told."""
BURN_DAYS: Final = 7


class Flow(NamedTuple):
    """Work that costs something from now on.

    Attributes:
        rate: nanos per hour. likely_us, most_us: how long it goes on, as expected and at most.
        waits: it has not started.
    """

    rate: int
    likely_us: int
    most_us: int
    waits: bool = False

    @property
    def likely_nanos(self) -> int:
        """What it is expected to cost yet."""
        return cumulative(self.rate, self.likely_us)


class Account(NamedTuple):
    """A budget as its outlook needs it.

    Attributes:
        limit, settled: nanos. until: where its period ends; 0: never.
        days: nanos by day of UTC, counted from 1970. since: the first day that they are whole from.
        leaving: of a rolling one, (instant, nanos) of what will be out of its window by then, by instant.
    """

    limit: int
    settled: int
    until: int
    days: Mapping[int, int]
    since: int
    leaving: Sequence[tuple[int, int]] = ()


class Three(NamedTuple):
    """p10, p50 and p90."""

    p10: int | None
    p50: int | None
    p90: int | None


class Outlook(NamedTuple):
    """What is expected of a budget. Amounts in nanos, rates in nanos per hour.

    Attributes:
        until: the end that is meant. learned: complete days that it rests on; 0: what runs and waits alone.
        burn_rate: the mean of the last week. run_rate: what runs now costs.
        running, queued: what it, and what waits, is expected to cost yet.
        end: settled at the end. peak: the most that is settled at any time until then.
        exhausted: when the limit is reached; None: not before the end. p10 is the earliest.
    """

    until: int
    learned: int
    burn_rate: int
    run_rate: int
    running: int
    queued: int
    end: Three
    peak: Three
    exhausted: Three


def learn(account: Account, now: int) -> Usual | None:
    """What is usual of a budget; the same all day long."""
    today = now // DAY_US
    first = max(account.since, today - HISTORY_DAYS)
    if today - first < DAYS_MIN:
        return None
    ahead = min((account.until - 1) // DAY_US - today + 1, AHEAD_MAX) if account.until else AHEAD_MAX
    return usual([max(account.days.get(day, 0), 0) for day in range(first, today)], max(ahead, 1))


def outlook(
    account: Account, found: Usual | None, flows: Sequence[Flow], now: int, capacity: int | None
) -> Outlook:
    """What is expected of a budget.

    Args:
        found: of `learn` today. capacity: nanos per hour of all nodes there are; None: more can be rented.
    """
    until = min(account.until or now + AHEAD_MAX * DAY_US, now + AHEAD_MAX * DAY_US)
    cuts = _cuts(now, max(until, now))
    running = [one for one in flows if not one.waits]
    known = (
        _known([(one.rate, one.likely_us) for one in running], now, cuts, capacity),
        _known([(one.rate, one.likely_us) for one in flows], now, cuts, capacity),
        _known([(one.rate, max(one.most_us, one.likely_us)) for one in flows], now, cuts, capacity),
    )
    paths = [_path(account, found, one, now, cuts, which) for which, one in enumerate(known)]
    ends = Three(*(path[-1] for path in paths))
    return Outlook(
        until=until,
        learned=found.learned if found is not None else 0,
        burn_rate=_burn_rate(account, now),
        run_rate=sum(one.rate for one in running),
        running=sum(one.likely_nanos for one in running),
        queued=sum(one.likely_nanos for one in flows if one.waits),
        end=ends,
        peak=Three(*(max(path) for path in paths)),
        exhausted=Three(*(_reaches(account, path, now, cuts) for path in reversed(paths))),
    )


def _cuts(now: int, until: int) -> list[int]:
    """Where days of UTC end after now, and the end."""
    first = (now // DAY_US + 1) * DAY_US
    return [*range(first, until, DAY_US), until]


def _known(
    flows: Sequence[tuple[int, int]], now: int, cuts: Sequence[int], capacity: int | None
) -> list[int]:
    """What flows (rate, how long) cost in each stretch; what the nodes cannot run at once comes later."""
    if not flows:
        return [0] * len(cuts)
    ending = sorted((now + left, rate) for rate, left in flows if left > 0)
    going, at, found, late = sum(rate for _, rate in ending), 0, [], 0
    since = now
    for cut in cuts:
        nanos = 0
        while at < len(ending) and ending[at][0] <= cut:
            nanos += cumulative(ending[at][1], ending[at][0] - since)
            going -= ending[at][1]
            at += 1
        nanos += cumulative(going, cut - since) + late
        paid = nanos if capacity is None else min(nanos, cumulative(capacity, cut - since))
        found.append(paid)
        late, since = nanos - paid, cut
    return found


def _path(
    account: Account, found: Usual | None, known: Sequence[int], now: int, cuts: Sequence[int], which: int
) -> list[int]:
    """What is settled at each cut: p10, p50 or p90."""
    since, expected, more, path = now, 0, 0, []
    leaving, gone, at = account.leaving, 0, 0
    for position, (cut, nanos) in enumerate(zip(cuts, known, strict=True)):
        day = found.days[min(position, len(found.days) - 1)] * (cut - since) // DAY_US if found else 0
        expected += day
        more += max(nanos - day, 0)
        share = found.spread_after(position + 1)[which // 2] if found and which != 1 else PPM
        while at < len(leaving) and leaving[at][0] <= cut:
            gone += leaving[at][1]
            at += 1
        path.append(account.settled + expected * share // PPM + more - gone)
        since = cut
    return path


def _reaches(account: Account, path: Sequence[int], now: int, cuts: Sequence[int]) -> int | None:
    """When a path comes up to the limit; within a day, evenly."""
    before, since, limit = account.settled, now, account.limit
    if before >= limit:
        return now
    for cut, nanos in zip(cuts, path, strict=True):
        if nanos >= limit:
            return since + (cut - since) * (limit - before) // (nanos - before)
        before, since = nanos, cut
    return None


def _burn_rate(account: Account, now: int) -> int:
    """Of a week of whole days and today, or since the first day with a cost."""
    today = now // DAY_US
    first = max(today - BURN_DAYS, min(account.days, default=today))
    spent = sum(account.days.get(day, 0) for day in range(first, today + 1))
    return spent * HOUR_US // max(now - first * DAY_US, HOUR_US)
