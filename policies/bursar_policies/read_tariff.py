"""A tariff by the hour from its YAML nodes: a list of hours and days of the week with prices.

Why     every hour of a week has just one price: where several entries name an hour the last one counts, and
        an hour that none names is a fault that says which.
"""

from __future__ import annotations

from typing import Final

from bursar.errors import InvalidRequest
from bursar.money import Money
from bursar.yamlfile import Fields, Node, read_text
from bursar_policies.periods import find_timezone
from bursar_policies.tariffs import WEEK_HOURS

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ENTRIES_MAX: Final = 48
_HOURS: Final = "hours of a day, such as 7-21 or 0-6,22-24"
_DAYS: Final = "days of the week, such as mon-fri or sat,sun"


def read_hours(fields: Fields, tariff: Node) -> tuple[tuple[int, ...], str, Money | None]:
    """Nanos per kWh by hour of the week, the zone whose clocks show it, and one of its prices, which has the
    currency of all; empty with its faults reported.
    """
    faults, timezone = fields.faults, _timezone(fields)
    entries = fields.items("tariff")
    if len(entries) > ENTRIES_MAX:
        faults.add(entries[ENTRIES_MAX], f"a tariff has at most {ENTRIES_MAX} entries")
        return (), timezone, None
    found: list[Money | None] = [None] * WEEK_HOURS
    before = len(faults.found)
    for entry in entries:
        inner = Fields(entry, faults, ("hours", "days", "price"))
        hours = _ranges(inner, "hours", tuple(map(str, range(25))), _HOURS, open_end=True)
        days = _ranges(inner, "days", DAYS, _DAYS)
        price = inner.money_per("price", "kWh", required=True)
        for day in days if price is not None else ():
            for hour in hours:
                found[day * 24 + hour] = price
    if len(faults.found) > before:
        return (), timezone, None
    prices = [price for price in found if price is not None]
    if len(prices) < WEEK_HOURS:
        at = found.index(None)
        where = f"{DAYS[at // 24]} {at % 24:02d}:00"
        faults.add(tariff, f"{where} has no price; begin with an entry of a price alone, for all others")
        return (), timezone, None
    if len({price.currency for price in prices}) > 1:
        faults.add(tariff, "mixes currencies; use one in a model")
        return (), timezone, None
    return tuple(price.nanos for price in prices), timezone, prices[0]


def _timezone(fields: Fields) -> str:
    node = fields.get("timezone")
    text = None if node is None else read_text(node, fields.faults)
    if node is None or text is None:
        return "UTC"
    try:
        return find_timezone(text).key
    except InvalidRequest as error:
        fields.faults.add(node, error.message[:200])
        return "UTC"


def _ranges(
    fields: Fields, key: str, names: tuple[str, ...], expected: str, open_end: bool = False
) -> list[int]:
    """Places of names, from ranges such as `mon-fri,sun`; all where nothing is said. `open_end`: the last of
    a range is not in it, as of hours.
    """
    node = fields.get(key)
    if node is None:
        return list(range(len(names) - open_end))
    text = read_text(node, fields.faults)
    if text is None:
        return []
    found: list[int] = []
    for part in text.lower().split(","):
        first, dash, last = (_plain(word.strip(), open_end) for word in part.partition("-"))
        if first not in names or (last not in names if dash else open_end):
            fields.faults.add(node, f"{text[:40]!r} is not {expected}")
            return []
        begin, end = names.index(first), names.index(last) if dash else names.index(first)
        if end < begin or (open_end and end == begin):
            fields.faults.add(node, f"{part.strip()[:40]!r} ends before it begins; write {expected}")
            return []
        found += range(begin, end if open_end else end + 1)
    return found


def _plain(word: str, number: bool) -> str:
    """`07` as `7`."""
    return str(int(word)) if number and word.isascii() and word.isdecimal() and len(word) < 3 else word
