"""Money: integer nano-units of one currency, exactly.

Owns    the two quantities every other room uses: an amount (`Money`) and a price per hour
        (nanos per hour, a plain int), and the one formula that turns time into cost (`cumulative`).
Why     $0.15 per million tokens is 150 nanos a token; a ledger's scale can never change later (ADR-0001).
        No float touches money: `Decimal` parses and displays, integers compute.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

import msgspec

from bursar.errors import InvalidRequest
from bursar.words import decimal_of

NANOS = 1_000_000_000
"""Nanos in one unit of currency."""
US_PER_HOUR = 3_600_000_000
"""Microseconds in one hour, the time base of every rate."""
NANOS_MAX = 2**63 - 1
"""The largest rate of one node, and of what `max_price` names: about 9.2 billion units an hour."""
AMOUNT_MAX = 10**24
"""The largest amount that is read, and the most that one attempt may hold: 10^15 units, in nanos. Sites in
KRW, VND or IDR need 10^12 and more. Sums have no bound.
"""

_ONE_NANO = Decimal(1).scaleb(-9)
_AMOUNT = re.compile(r"^\s*([+-]?\d{1,60}(?:\.\d{1,60})?)\s*([A-Z]{3})\s*$", re.ASCII)


class Money(msgspec.Struct, frozen=True, order=False):
    """An amount of one currency. `nanos` may be negative (corrections).

    Adds, subtracts, compares and sums with what is of the same currency, and is multiplied by whole numbers.
    A bare number has no currency and is a `TypeError`. Raises `CurrencyMismatch`.
    """

    nanos: int
    currency: str

    @classmethod
    def of(cls, text: str) -> Money:
        """`Money.of("12.50 USD")`. Raises `InvalidRequest` naming the expected form."""
        return parse_money(text)

    @property
    def amount(self) -> Decimal:
        """The exact number without its currency."""
        return Decimal(format_nanos(self.nanos))

    def __add__(self, other: Money) -> Money:
        if not isinstance(other, Money):
            return NotImplemented
        return Money(self.nanos + self._same(other).nanos, self.currency)

    def __radd__(self, other: int) -> Money:
        """`sum` begins with 0."""
        return self if type(other) is int and other == 0 else NotImplemented

    def __sub__(self, other: Money) -> Money:
        if not isinstance(other, Money):
            return NotImplemented
        return Money(self.nanos - self._same(other).nanos, self.currency)

    def __mul__(self, times: int) -> Money:
        return Money(self.nanos * times, self.currency) if isinstance(times, int) else NotImplemented

    __rmul__ = __mul__

    def __lt__(self, other: Money) -> bool:
        return self.nanos < self._same(other).nanos if isinstance(other, Money) else NotImplemented

    def __le__(self, other: Money) -> bool:
        return self.nanos <= self._same(other).nanos if isinstance(other, Money) else NotImplemented

    def _same(self, other: Money) -> Money:
        if other.currency != self.currency:
            raise CurrencyMismatch(
                f"cannot combine {self.currency} with {other.currency}; convert one of them first"
            )
        return other

    def __format__(self, spec: str) -> str:
        """`f"{cost:.2f}"` is `12.50 USD`."""
        return f"{format(self.amount, spec)} {self.currency}" if spec else str(self)

    def __str__(self) -> str:
        return f"{format_nanos(self.nanos)} {self.currency}"


class CurrencyMismatch(InvalidRequest):
    """Two amounts of different currencies met."""


def parse_amount(text: str) -> int:
    """Read a decimal number with at most 9 places into nanos. Raises `InvalidRequest`."""
    value = decimal_of(text)
    if value is None:
        raise InvalidRequest(f"{text!r} is not a decimal amount, such as 12.50")
    if abs(value) > AMOUNT_MAX // NANOS:
        most = format_nanos(AMOUNT_MAX, 0)
        raise InvalidRequest(f"{text!r} is out of range: the largest amount is {most}")
    if value != value.quantize(_ONE_NANO):
        raise InvalidRequest(f"{text!r} has more than 9 decimal places")
    return int(value.scaleb(9))


def parse_money(text: str) -> Money:
    """Read `500 USD` or `12.50 EUR`. Raises `InvalidRequest` naming the expected form."""
    match = _AMOUNT.match(text)
    if match is None:
        raise InvalidRequest(
            f"{text!r} is not an amount of money; write a number and a currency, such as 500 USD"
        )
    return Money(parse_amount(match.group(1)), match.group(2))


def format_nanos(nanos: int, places: int = 9) -> str:
    """A decimal string with `places` places, rounded half to even only when `places` < 9."""
    if places >= 9:
        sign = "-" if nanos < 0 else ""
        whole, rest = divmod(abs(nanos), NANOS)
        return f"{sign}{whole}.{rest:09d}"
    value = (Decimal(nanos) / NANOS).quantize(Decimal(1).scaleb(-places))
    return f"{value:f}"


def cumulative(rate_nanos_per_hour: int, held_us: int) -> int:
    """Cost in nanos of holding something at a rate from its start until `held_us` later.

    A charge over `[a, b)` is `cumulative(rate, b) - cumulative(rate, a)`, so any split of an
    interval sums to the same total; rounding each part separately would lose nanos.
    """
    return rate_nanos_per_hour * held_us // US_PER_HOUR


def charge(rate_nanos_per_hour: int, from_us: int, to_us: int) -> int:
    """Cost in nanos of `[from_us, to_us)`, both counted from the start of the holding."""
    return cumulative(rate_nanos_per_hour, to_us) - cumulative(rate_nanos_per_hour, from_us)


def split_largest_remainder(total: int, weights: Sequence[int]) -> tuple[int, ...]:
    """Split `total` >= 0 by integer `weights` >= 0 so that the parts sum to `total`, exactly.

    Ties go to the earlier part. All weights zero: everything goes to the first part.
    """
    weight_sum = sum(weights)
    if weight_sum == 0:
        return (total,) + (0,) * (len(weights) - 1) if weights else ()
    parts = [total * weight // weight_sum for weight in weights]
    remainders = [total * weight % weight_sum for weight in weights]
    order = sorted(range(len(weights)), key=lambda i: (-remainders[i], i))
    for i in order[: total - sum(parts)]:
        parts[i] += 1
    return tuple(parts)
