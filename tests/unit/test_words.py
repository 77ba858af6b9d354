"""One is one, and nothing else is."""

from __future__ import annotations

import pytest

from bursar.words import plural


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (0, "job", "0 jobs"),
        (1, "job", "1 job"),
        (2, "live job", "2 live jobs"),
        (1.0, "CPU", "1 CPU"),
        (0.5, "CPU", "0.5 CPUs"),
        (1_234_567, "event", "1234567 events"),
    ],
)
def test_a_number_has_its_noun(number: float, noun: str, said: str) -> None:
    assert plural(number, noun) == said
