"""Times as words of the command line: a date, how long ago, or a day by its name."""

from __future__ import annotations

import pytest

from bursar.cli import common
from bursar.clock import parse_instant
from bursar.errors import InvalidRequest

NOW = parse_instant("2026-11-03T08:30:00Z")


@pytest.fixture(autouse=True)
def _at_a_known_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "now", lambda: NOW)


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("2h", "2026-11-03T06:30:00Z"),
        ("2026-11-01", "2026-11-01T00:00:00Z"),
        ("now", "2026-11-03T08:30:00Z"),
        ("now-90m", "2026-11-03T07:00:00Z"),
        ("today", "2026-11-03T00:00:00Z"),
        ("midnight", "2026-11-03T00:00:00Z"),
        ("Yesterday", "2026-11-02T00:00:00Z"),
        ("yesterday+8h", "2026-11-02T08:00:00Z"),
    ],
)
def test_a_time_back_from_now_is_a_date_a_duration_or_a_day_by_its_name(text: str, means: str) -> None:
    assert common.read_since(text) == parse_instant(means)


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("30m", "2026-11-03T09:00:00Z"),
        ("now+30m", "2026-11-03T09:00:00Z"),
        ("tomorrow", "2026-11-04T00:00:00Z"),
        ("tomorrow+9h", "2026-11-04T09:00:00Z"),
    ],
)
def test_a_time_ahead_is_one_too(text: str, means: str) -> None:
    assert common.read_until(text) == parse_instant(means)


@pytest.mark.parametrize("text", ["tomorow", "now+", "now+soon", "yesterday-", "today 8", "2h ago"])
def test_what_is_none_of_these_is_refused_with_the_flag_and_what_would_do(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        common.read_since(text)
    assert "--since" in refused.value.message
    assert repr(text) in refused.value.message


@pytest.mark.parametrize("text", ["2026-12-01T08:00", "2026-12-01", "tomorrow", "today+8h"])
def test_a_time_of_a_job_that_names_no_zone_is_told_to_be_of_utc(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    at = common.moment(text, "--begin-after")
    said = capsys.readouterr().err
    assert said.startswith(f"--begin-after: {text!r} names no zone and is taken as UTC, {at};")


@pytest.mark.parametrize("text", ["2026-12-01T08:00Z", "2026-12-01T08:00+02:00", "now+3h", "90m"])
def test_one_that_names_its_zone_or_is_of_no_zone_is_not(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    common.moment(text)
    assert capsys.readouterr().err == ""
