"""What a kWh costs by the hour of the week, as the clocks of a place show it. PURE.

Owns    the tariff of a cost model (`Power.hours`) at an instant, when it changes next, and its mean over a
        stretch of time.
Why     a node's energy is dearer by day than by night, and its cost rate changes where the tariff does. What
        jobs pay goes by the mean of a week (`Power.tariff`): it does not hang on the hour at which a job was
        placed, and the difference is absorption.
How     days on which clocks are set have 23 or 25 hours: each hour counts as the clock of the place shows it.
        Clocks anywhere are ahead of UTC by quarters of an hour, so nothing changes between two of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from bursar.clock import HOUR_US
from bursar_policies.specs import Power

WEEK_HOURS: Final = 7 * 24
"""An hour of the week: 0 is Monday from 00:00 on."""
NEVER: Final = 2**63 - 1
_STEP_US: Final = HOUR_US // 4
_STEPS_MAX: Final = 4 * (WEEK_HOURS + 48)
"""Whatever clocks do, an hour of another price comes within so many quarters."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def price_at(power: Power, at: int) -> int:
    """Nanos per kWh at an instant."""
    return power.hours[_hour(power.timezone, at)] if power.hours else power.tariff.nanos


def next_change(power: Power, after: int) -> int:
    """The first instant after this one at which a kWh costs something else; `NEVER` when none does."""
    if len({*power.hours}) < 2:
        return NEVER
    return _next_change(power.hours, power.timezone, after // _STEP_US * _STEP_US)


def mean_over(power: Power, since: int, until: int) -> Fraction:
    """Nanos per kWh over `[since, until)`, by how long each price held in it."""
    whole, at = Fraction(0), since
    while at < until:
        end = min(next_change(power, at), until)
        whole += price_at(power, at) * (end - at)
        at = end
    return whole / (until - since) if until > since else Fraction(price_at(power, since))


def mean_of_week(hours: Sequence[int]) -> int:
    """Nanos per kWh in the mean of a week, to the next whole one."""
    return round(Fraction(sum(hours), len(hours)))


@lru_cache(maxsize=4_096)
def _next_change(hours: tuple[int, ...], timezone: str, at: int) -> int:
    now = hours[_hour(timezone, at)]
    for _ in range(_STEPS_MAX):
        at += _STEP_US
        if hours[_hour(timezone, at)] != now:
            return at
    return NEVER


def _hour(timezone: str, at: int) -> int:
    shown = (_EPOCH + timedelta(microseconds=at)).astimezone(ZoneInfo(timezone))
    return shown.weekday() * 24 + shown.hour
