"""What a start request may say, and what never becomes a path or an argument."""

from __future__ import annotations

from typing import Any

import pytest

from bursar.errors import InvalidRequest
from bursar_agent.runner.layout import member_name, parse_member
from bursar_agent.runner.model import StartRequest, signal_number


@pytest.mark.parametrize("name", ["att_1.0", "att_7h2k.12", "job_5.3.0"])
def test_member_names_round_trip(name: str) -> None:
    parsed = parse_member(name)
    assert parsed is not None
    assert member_name(*parsed) == name


@pytest.mark.parametrize(
    "bad", ["", "att_", "att", "../x", "att_1/..", "Att_1", "att_1\n", "att_1.", "att_" + "x" * 41]
)
def test_bad_ids_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="refused before it becomes a path"):
        member_name(bad, 0)


@pytest.mark.parametrize("rank", [-1, 1_000_000, True, "0"])
def test_bad_ranks_are_refused(rank: Any) -> None:
    with pytest.raises(ValueError, match="rank"):
        member_name("att_1", rank)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"argv": []},
        {"argv": ["x"], "script": "x"},
        {"argv": ["a\0b"]},
        {"script": "x" * 200_000},
        {"argv": ["x"], "cwd": "relative"},
        {"argv": ["x"], "uid": 5},
        {"argv": ["x"], "grace_us": -1},
        {"argv": ["x"], "time_limit_us": -1},
        {"argv": ["x"], "env": {"A=B": "c"}},
        {"argv": ["x"], "env": {"A": "c\0"}},
        {"argv": ["x"], "checkpoint_signal": "KILL"},
        {"argv": ["x"], "checkpoint_signal": "NOPE"},
    ],
)
def test_impossible_requests_are_refused_before_they_are_sent(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        StartRequest("att_1", **fields).to_wire({}, "boot")


def test_request_environment_wins_over_the_machines_but_not_over_the_marker() -> None:
    env = {"PATH": "/job", "BURSAR_ATTEMPT_MEMBER": "forged", "BURSAR_ATTEMPT": "2"}
    wire = StartRequest("att_1", argv=["x"], env=env).to_wire({"PATH": "/machine", "HOME": "/h"}, "boot")
    assert wire["env"] == {
        "PATH": "/job",
        "HOME": "/h",
        "BURSAR_ATTEMPT": "2",
        "BURSAR_ATTEMPT_MEMBER": "att_1.0",
    }


def test_signal_names_with_and_without_prefix_are_one() -> None:
    assert signal_number("USR1") == signal_number("SIGUSR1") == signal_number("usr1") == 10
    assert signal_number(None) is None
