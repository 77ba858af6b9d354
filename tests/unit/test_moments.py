"""A time is written alike wherever one is taken: what is to come by a flag, what has been by another."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from bursar.cli import common
from bursar.clock import HOUR_US, SECOND_US, format_instant, parse_moment
from bursar.errors import InvalidRequest
from bursar.jobfile import Caller, parse_job, parse_script

NOW = int(datetime(2026, 11, 29, 13, tzinfo=UTC).timestamp()) * SECOND_US


@pytest.mark.parametrize(
    ("text", "ahead", "meant"),
    [
        ("now", True, "2026-11-29T13:00:00Z"),
        ("now+3h", True, "2026-11-29T16:00:00Z"),
        ("now + 3hours", True, "2026-11-29T16:00:00Z"),
        ("NOW-90m", False, "2026-11-29T11:30:00Z"),
        ("3h", True, "2026-11-29T16:00:00Z"),
        ("3h", False, "2026-11-29T10:00:00Z"),
        ("tomorrow", True, "2026-11-30T00:00:00Z"),
        ("tomorrow+8h", True, "2026-11-30T08:00:00Z"),
        ("yesterday", False, "2026-11-28T00:00:00Z"),
        ("2026-12-01", True, "2026-12-01T00:00:00Z"),
        ("2026-12-01T08:00", True, "2026-12-01T08:00:00Z"),
        ("2026-12-01T08:00+01:00", True, "2026-12-01T07:00:00Z"),
    ],
)
def test_a_moment_is_meant_as_people_say_it(text: str, ahead: bool, meant: str) -> None:
    assert format_instant(parse_moment(text, NOW, ahead=ahead)) == meant


@pytest.mark.parametrize(
    "text", ["", "soon", "now+", "now+x", "25:00", "now*2", "9" * 500, "now+" + "9" * 500]
)
def test_what_is_no_moment_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_moment(text, NOW, ahead=True)
    assert len(refused.value.message) < 400


def test_flags_take_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "now", lambda: NOW)
    assert common.moment("now+3h") == "2026-11-29T16:00:00Z"
    assert common.read_until("3h") == common.read_until("now+3h") == NOW + 3 * HOUR_US
    assert common.read_since("3h") == common.read_since("now-3h") == NOW - 3 * HOUR_US
    with pytest.raises(InvalidRequest, match="--deadline: 'soon' is neither a time"):
        common.moment("soon")


def test_a_script_says_it_from_the_moment_of_its_submit(tmp_path: Path) -> None:
    caller = Caller({}, datetime(2026, 11, 29, 13, tzinfo=UTC), "login")
    for line in ("#BURSAR --deadline now+3h", "#SBATCH --deadline=now+3hours"):
        text = f"#!/bin/bash\n{line}\n#BURSAR --time-limit 1h\ntrue\n"
        spec, _ = parse_script(text, "x.sh", str(tmp_path), caller=caller)
        assert format_instant(spec.deadline_at) == "2026-11-29T16:00:00Z"


@pytest.mark.parametrize("key", ["deadline", "begin_after"])
def test_a_file_means_the_same_time_whenever_it_is_read(key: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_job(f"run: 'true'\ntime_limit: 1h\n{key}: now+3h\n", "x.yaml", "/")
    assert "is not a time in a file, as it would be another whenever the file is read" in str(refused.value)
    assert "--deadline now+3h" in str(refused.value)


def test_what_an_idle_policy_looks_like_is_shown_to_who_writes_a_duration() -> None:
    with pytest.raises(InvalidRequest, match=r"idle_policy: expected a mapping, such as \{time_window: 30m"):
        parse_job("run: 'true'\ntime_limit: 1h\nidle_policy: 30m\n", "x.yaml", "/")
