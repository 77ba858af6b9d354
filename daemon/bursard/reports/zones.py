"""By how much the clocks of a place are ahead of UTC, as the store is told it.

Why     rows are grouped by the store, which knows no calendars: it is given the few instants at which the
        clocks of a place were set, and adds what holds from each on.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from bursar.clock import DAY_US, SECOND_US
from bursard.store import Offsets


def offsets_of(zone: ZoneInfo, since: int, until: int) -> Offsets:
    """From which instant of `[since, until)` on by how much; what is before them is as at the first."""
    if zone.key == "UTC":
        return ()
    return _offsets(zone, since - since % DAY_US, until + -until % DAY_US)


@lru_cache(maxsize=64)
def _offsets(zone: ZoneInfo, since: int, until: int) -> Offsets:
    found = [(since, _ahead(zone, since))]
    for day in range(since, until, DAY_US):
        before, after = day, day + DAY_US
        if _ahead(zone, after) == found[-1][1]:
            continue
        while after - before > SECOND_US:
            middle = (before + after) // 2 // SECOND_US * SECOND_US
            if _ahead(zone, middle) == found[-1][1]:
                before = middle
            else:
                after = middle
        found.append((after, _ahead(zone, after)))
    return tuple(found)


def _ahead(zone: ZoneInfo, at: int) -> int:
    ahead = datetime.fromtimestamp(at // SECOND_US, zone).utcoffset()
    assert ahead is not None
    return (ahead.days * 86_400 + ahead.seconds) * SECOND_US
