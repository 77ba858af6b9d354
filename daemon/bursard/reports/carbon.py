"""What a kWh of an attempt's devices stands for, and costs, by the hours in which it was used, as money goes.

Why     the energy of an attempt is known at its end, for all of it. The grid's grams are dated facts of a
        pool, and an attempt may run over a change of them: each hour counts with what was in force in it, by
        how long the attempt held its devices then. Of a machine of a cloud it is the yearly mean of the grid
        where its region is, without the building, of which no provider tells.
"""

from __future__ import annotations

from collections import OrderedDict
from fractions import Fraction
from typing import Final

from bursar.clock import Instant
from bursar_policies.compile import PriceTable
from bursar_policies.regions import grams_of
from bursard.reports.focus import stable_id
from bursard.store import ChargeFilter, ChargeRow, Views

_REMEMBERED: Final = 16
"""Jobs whose hours are kept: the tasks of an array end one after the other."""

_Hours = dict[tuple[str, int], list[tuple[int, int, int]]]
"""By attempt and rank: when what was used in an hour began and ended, and how much of it was held."""


class Carbon:
    """Of one report, as prices and charges are then."""

    def __init__(self, views: Views, prices: PriceTable) -> None:
        """`views`: to look up the hours of an attempt that may have begun before a change."""
        self._views, self._prices = views, prices
        self._jobs: OrderedDict[int, _Hours] = OrderedDict()

    def of(self, charge: ChargeRow) -> Fraction | None:
        """Grams of CO2e for a kWh over the attempt whose energy a charge tells; None where nobody says it of
        all of its hours.
        """
        at, pool = charge.used_from, charge.pool
        if (regional := _regional(charge.price_id)) is not None:
            return regional
        now = self._prices.carbon_of(pool, Instant(at))
        changed = self._prices.carbon_changes(pool, Instant(at))
        if not changed:
            return now
        hours = self._before(charge)
        if not any(start < changed for start, _, _ in hours):
            return now
        grams, held = Fraction(0), 0
        for start, _, held_us in (*hours, (at, 0, abs(charge.held_us))):
            each = self._prices.carbon_of(pool, Instant(start))
            if each is None:
                return None
            grams, held = grams + each * held_us, held + held_us
        return grams / held if held else now

    def price_of(self, charge: ChargeRow) -> Fraction | None:
        """Nanos for a kWh over the attempt whose energy a charge tells, by the tariff of its pool; None where
        no cost model says it of all of its hours: of a machine of a cloud it is in the price.
        """
        at, pool, prices = charge.used_from, charge.pool, self._prices
        if _regional(charge.price_id) is not None:
            return None
        last = (at, max(charge.used_until, at + 1), abs(charge.held_us))
        steady = not prices.tariff_by_hour(pool) and not prices.carbon_changes(pool, Instant(at))
        whole, held = Fraction(0), 0
        for start, until, held_us in (last,) if steady else (*self._before(charge), last):
            each = prices.energy_price_of(pool, Instant(start), Instant(until))
            if each is None:
                return None
            whole, held = whole + each * max(held_us, 1), held + max(held_us, 1)
        return whole / held

    def _before(self, charge: ChargeRow) -> list[tuple[int, int, int]]:
        """The hours of an attempt before the one that a charge is of: from, until, and how much was held."""
        known = self._of_job(charge.job_number).get((charge.attempt_id, charge.rank), [])
        return [one for one in known if one[0] < charge.used_from]

    def _of_job(self, number: int) -> _Hours:
        """What members of a job held, by its rows as they were metered."""
        found = self._jobs.get(number)
        if found is None:
            found = {}
            for row in self._views.charges(ChargeFilter(job_number=number, kinds=("usage",))):
                if not row.reason:
                    hours = found.setdefault((row.attempt_id, row.rank), [])
                    hours.append((row.used_from, row.used_until, row.held_us))
            self._jobs[number] = found
            if len(self._jobs) > _REMEMBERED:
                self._jobs.popitem(last=False)
        return found


def _regional(price_id: str) -> Fraction | None:
    """Of a machine of a cloud, what its region's grid has; None of others."""
    provider, *rest = stable_id(price_id).split("/")
    return grams_of(provider, rest[0]) if len(rest) == 3 else None
