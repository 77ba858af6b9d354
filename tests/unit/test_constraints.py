"""What a constraint means of names that a list or a pattern would read otherwise, and how they are told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.model.constraints import matches, shown
from bursard.scheduler import plan, reason_of
from bursard.scheduler.testing import Node, columns, job_class, queue, request, snapshot

NOW = 1_767_225_600_000_000
ODD = ("*", "!r", "r,s")


def racked(*racks: str) -> list[Node]:
    return [Node(name=f"n{at}", labels={"rack": rack}) for at, rack in enumerate(racks)]


def placed(rack: str, *racks: str) -> list[int]:
    wanted = job_class(request(), nodes=1, constraints=(("rack", rack),))
    world = snapshot(columns(racked(*racks)), queue(wanted, *((n, f"j{n}") for n in range(1))))
    return [member.node for start in plan(world, NOW).starts for member in start.members]


@pytest.mark.parametrize("rack", ODD)
def test_a_rack_is_found_by_its_own_name_whatever_that_means_as_a_pattern(rack: str) -> None:
    assert placed(rack, rack) == [0]


@pytest.mark.parametrize(("pattern", "wanted"), [("[*]", "*"), ("?r", "!r"), ("r?s", "r,s")])
def test_alone_it_is_found_by_a_pattern_that_nothing_else_matches(pattern: str, wanted: str) -> None:
    assert [rack for rack in (*ODD, "r", "s") if matches(pattern, rack)] == [wanted]


def test_members_together_are_in_one_rack_whatever_it_is_called() -> None:
    for rack in ODD:
        both = job_class(request(cpus=16), nodes=2, constraints=(("topology", "same-rack"),))
        world = snapshot(columns(racked("r", rack, "s", rack)), queue(both, (1, "j")))
        (start,) = plan(world, NOW).starts
        assert [member.node for member in start.members] == [1, 3]


def test_a_reason_quotes_the_names_that_would_be_read_otherwise() -> None:
    wanted = job_class(request(), constraints=(("rack", "t"),))
    world = snapshot(columns(racked("r,s", "!r", "plain-7", "*")), queue(wanted, (1, "j")))
    why = reason_of(world, plan(world, NOW), 0)
    assert why.message == "constraint rack: t matches no node"
    assert "values here: '!r', '*', plain-7, 'r,s'" in why.remedy
    assert [shown(one) for one in ("r,s", " r", "eu-west 1")] == ["'r,s'", "' r'", "eu-west 1"]


@given(st.text(alphabet="ab*?![],- ", max_size=6), st.text(alphabet="ab*?![],- ", max_size=6))
def test_a_value_satisfies_itself_and_an_exclusion_alone_excludes(value: str, other: str) -> None:
    assert matches(value, value)
    assert matches("", other)
    if not {",", "!", "*", "?", "[", "]"} & set(value + other) and value.strip():
        assert matches(value, other) is (value.strip() == other or value == other)
        assert matches(f"!{value}", other) is (value.strip() != other)
