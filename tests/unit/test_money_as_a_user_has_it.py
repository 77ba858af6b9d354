"""Money in the hands of a program: made, added, multiplied, compared and printed, and never mixed up."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from bursar.errors import InvalidRequest
from bursar.money import CurrencyMismatch, Money

FIVE: Any = Money.of("5 USD")


def test_it_is_made_of_words_and_refuses_others() -> None:
    assert Money(5_000_000_000, "USD") == FIVE
    assert Money.of("-0.000000001 EUR") == Money(-1, "EUR")
    with pytest.raises(InvalidRequest, match="500 USD"):
        Money.of("5")


def test_it_computes_exactly() -> None:
    assert sum([FIVE, FIVE * 2, 3 * FIVE]) == Money.of("30 USD")
    assert sum([FIVE]) is FIVE
    assert Money(1, "USD").amount == Decimal("0.000000001")
    assert max(FIVE, FIVE - Money(1, "USD")) is FIVE
    assert Money(0, "USD") < FIVE
    assert f"{Money(10**40 + 1, 'USD').amount}" == "1" + 31 * "0" + ".000000001"


def test_it_is_printed_with_its_currency_in_as_many_places_as_asked() -> None:
    assert f"{Money.of('12.345 USD'):.2f}" == "12.34 USD"
    assert f"{FIVE:>8.2f}" == "    5.00 USD"
    assert f"{FIVE}" == str(FIVE) == "5.000000000 USD"


@pytest.mark.parametrize(
    "mixed",
    [
        lambda: FIVE + 1, lambda: 1 + FIVE, lambda: 0.0 + FIVE, lambda: FIVE - 1, lambda: FIVE * 1.5,
        lambda: FIVE * FIVE, lambda: FIVE < 5, lambda: FIVE >= "5 USD", lambda: FIVE <= None,
    ],
)  # fmt: skip
def test_what_has_no_currency_is_refused_as_python_does(mixed: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match="Money"):
        mixed()


@pytest.mark.parametrize(
    "mixed", [lambda one: FIVE + one, lambda one: sum([FIVE, one]), lambda one: one < FIVE]
)
def test_two_currencies_do_not_mix(mixed: Callable[[Money], Any]) -> None:
    with pytest.raises(CurrencyMismatch):
        mixed(Money.of("5 EUR"))
