"""Long texts are refused by their length, before anything is done that takes more than that."""

from __future__ import annotations

import pytest

from bursar import clock
from bursar.clock import DURATION_CHARS_MAX, parse_duration
from bursar.errors import InvalidRequest


class Untouched:
    """In place of a pattern that takes the square of the length of what it searches."""

    def findall(self, text: str) -> list[tuple[str, str]]:
        raise AssertionError(f"{len(text)} characters were searched")


@pytest.mark.parametrize("text", ["9" * 5_000, "1s" * 60, "x" * (DURATION_CHARS_MAX + 1), "1s " * 51])
def test_a_long_duration_is_refused_by_its_length_and_not_searched(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "_DURATION", Untouched())
    many = len(text.replace(" ", ""))
    with pytest.raises(InvalidRequest, match=f"^a duration: at most 100 characters, this has {many}$"):
        parse_duration(text)


def test_a_duration_of_as_many_characters_as_there_may_be_is_read() -> None:
    assert parse_duration("1s" * (DURATION_CHARS_MAX // 2)) == 50_000_000
    assert parse_duration(" " * 500 + "1h 30m") == 5_400_000_000
