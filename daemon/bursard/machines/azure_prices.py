"""What Azure asks for its machines: the Retail Prices service, which anybody may ask without an account.

Owns    which of its rows are prices of a machine by the hour, and for how long they are believed.
Why     spot prices of Azure are in no catalogue, and a price that is guessed would make work look cheap. What
        the service does not say is what the books say, and what neither says is no offer.

Its lists of a whole region have hundreds of pages that shift while they are read, so it is asked for the
sizes that pools name, a few at a time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation, Overflow
from typing import Any, Final

from bursar.clock import HOUR_US
from bursar.money import NANOS, NANOS_MAX
from bursard.machines.azure_calls import public
from bursard.machines.azure_words import instant
from bursard.machines.errors import error_of
from bursard.machines.provider import CloudError, Needs, Place, Rate

log = logging.getLogger(__name__)

KEPT_US: Final = 12 * HOUR_US
REFUSED_KEPT_US: Final = HOUR_US
"""So long it is not asked again after it did not answer."""
SIZES_AT_ONCE: Final = 10
SIZES_MAX: Final = 200
"""Of so many sizes of a region it is asked; of the rest the books are."""
SPARE_PERCENT: Final = 95
"""A spot price of so much of the price on demand says that there is no spare capacity."""
ENDPOINT: Final = "https://prices.azure.com"
PAGES_MAX: Final = 50
SOURCE: Final = "Azure retail prices"
_NOT_THESE: Final = ("Windows", "CloudServices", "Cloud Services", "Dedicated Host")
"""Products of the same size that are something else."""


class RetailPrices:
    """Of all regions. A price is one of a region, a size and a market."""

    def __init__(self, needs: Needs, endpoint: str = "", ca_file: str = "") -> None:
        self._needs = needs
        self._endpoint = endpoint or ENDPOINT
        self._ca_file = ca_file
        self._rates: dict[tuple[str, str], dict[str, Rate]] = {}
        self._asked: dict[tuple[str, str], int] = {}
        """By region and size, until when what is known of it is believed."""
        self._quiet_until = 0

    def of(self, place: Place) -> Rate | None:
        """What is asked there, by the service, else by the books; None where neither says, and of a spot
        machine where there is no spare capacity.
        """
        listed = self._listed(place, "on-demand")
        if place.market != "spot":
            return listed
        spot = self._listed(place, "spot")
        if spot is None or listed is None:
            return spot
        dear = spot.nanos_per_hour * 100 >= listed.nanos_per_hour * SPARE_PERCENT
        return None if dear else spot

    def _listed(self, place: Place, market: str) -> Rate | None:
        known = self._rates.get((place.region, place.instance_type), {}).get(market)
        if known is not None:
            return known
        return self._needs.rate(Place(place.region, "", "", place.instance_type, market))

    def learn(self, region: str, sizes: Sequence[str]) -> None:
        """Ask for sizes whose prices are not known, or too old. Where it does not answer, the books do."""
        now = self._needs.now()
        wanted = [size for size in sizes[:SIZES_MAX] if self._asked.get((region, size), 0) <= now]
        if now < self._quiet_until:
            return
        for start in range(0, len(wanted), SIZES_AT_ONCE):
            some = wanted[start : start + SIZES_AT_ONCE]
            try:
                found = rates_of(self._rows(region, some), now)
            except CloudError as error:
                log.warning("prices of Azure are not known", extra={"region": region, "why": str(error)})
                self._quiet_until = now + REFUSED_KEPT_US
                return
            for size in some:
                self._rates[region, size] = found.get(size, {})
                self._asked[region, size] = now + KEPT_US

    def _rows(self, region: str, sizes: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Every row of some sizes. Raises `CloudError`, also for pages without an end or of somebody else."""
        names = " or ".join(f"armSkuName eq '{size}'" for size in sizes)
        wanted = f"serviceName eq 'Virtual Machines' and armRegionName eq '{region}' and ({names})"
        query = {
            "api-version": "2023-01-01-preview",
            "currencyCode": f"'{self._needs.currency}'",
            "$filter": f"{wanted} and priceType eq 'Consumption'",
        }
        url = f"{self._endpoint}/api/retail/prices"
        for _ in range(PAGES_MAX):
            text = public(url, query, self._ca_file)
            try:
                rows, more = read_page(text)
            except ValueError as error:
                raise error_of("azure", "Nonsense", f"prices that cannot be read: {error}") from None
            yield from rows
            if not more:
                return
            if more == url or not more.startswith(self._endpoint + "/"):
                break
            url, query = more, {}
        raise error_of("azure", "EndlessList", "prices: a list of pages that has no end")


def rates_of(rows: Iterable[Mapping[str, Any]], now: int) -> dict[str, dict[str, Rate]]:
    """By size and market, of what is asked now by the hour for Linux; of several prices the dearest."""
    found: dict[str, dict[str, Rate]] = {}
    for row in rows:
        market = _market(row)
        nanos, as_of = nanos_of(row.get("retailPrice")), _instant(row.get("effectiveStartDate"))
        if not market or not nanos or not as_of or as_of > now:
            continue
        size, currency = str(row.get("armSkuName")), str(row.get("currencyCode"))
        rate = Rate(nanos_per_hour=nanos, currency=currency, as_of=as_of, source=SOURCE)
        known = found.setdefault(size, {}).get(market)
        if known is None or (known.as_of, known.nanos_per_hour) < (as_of, nanos):
            found[size][market] = rate
    return found


def _market(row: Mapping[str, Any]) -> str:
    """Of which market a row is the price; "" of what is no price of a machine here."""
    product, meter = str(row.get("productName", "")), str(row.get("meterName", ""))
    by_hour = row.get("unitOfMeasure") == "1 Hour" and row.get("type") == "Consumption"
    if not by_hour or any(word in product for word in _NOT_THESE) or "Low Priority" in meter:
        return ""
    return "spot" if meter.endswith(" Spot") else "on-demand"


def _instant(text: object) -> int:
    try:
        return instant(text)
    except ValueError:
        return 0


def nanos_of(value: object) -> int:
    """An amount as it was read, in nanos; 0 of none."""
    try:
        amount = Decimal(str(value)) * NANOS
    except (InvalidOperation, Overflow):
        return 0
    return int(amount.to_integral_value()) if amount.is_finite() and 0 < amount <= NANOS_MAX else 0


def read_page(text: str) -> tuple[list[dict[str, Any]], str]:
    """Rows and the next link of a page; amounts are never floats. Raises `ValueError`."""
    page = json.loads(text, parse_float=Decimal)
    rows = page.get("Items") if isinstance(page, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("no list of prices")
    return rows, str(page.get("NextPageLink") or "")
