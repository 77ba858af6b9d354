"""Numbers that people write are ASCII digits: what Python's own grammar takes beside them is a slip."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.clock import parse_duration
from bursar.errors import InvalidRequest
from bursar.money import parse_amount, parse_money
from bursar.resources import parse_milli, parse_size
from bursar.words import decimal_of

SLIPS = (
    "1_0",
    "\u0661\u0662",
    "\uff11",
    "",
    "+",
    ".",
    "e5",
    "NaN",
    "Infinity",
    "0x10",
    "1,5",
    "1e9999",
)


@pytest.mark.parametrize("text", SLIPS)
def test_what_is_no_number_as_people_write_it_is_none(text: str) -> None:
    assert decimal_of(text) is None
    for parse, tail in ((parse_amount, ""), (parse_money, " USD"), (parse_size, "GB"), (parse_duration, "s")):
        with pytest.raises(InvalidRequest):
            parse(text + tail)
    with pytest.raises(InvalidRequest):
        parse_milli(text)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30))
def test_every_finite_number_is_read_exactly(value: Decimal) -> None:
    assert decimal_of(str(value)) == value


@pytest.mark.parametrize(
    ("text", "value"), [(".5", "0.5"), ("5.", "5"), ("+1e3", "1000"), ("-0.25", "-0.25")]
)
def test_the_short_forms_are_read(text: str, value: str) -> None:
    assert decimal_of(text) == Decimal(value)
