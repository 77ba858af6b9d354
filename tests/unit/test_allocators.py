"""Allocators: what is asked of one, what of its answer holds, and who brings them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from bursar.errors import InvalidRequest, PolicyInvalid
from bursar_policies import allocators
from bursar_policies.allocators import (
    Allotment,
    Contender,
    Problem,
    Room,
    Size,
    Supply,
    Weight,
    answered,
    registry,
)
from bursar_policies.document import parse_documents
from bursar_policies.specs import AllocatorSpec, PlacementPolicySpec
from bursard.scheduler import targets

MINUTE_US = 60_000_000
V, K = Size("V100"), Size("K80", speed=200_000)


def contender(
    order: int, *sizes: Size, holds: Size | None = None, movable: bool = True, **more: int
) -> Contender:
    return Contender(
        job_id=f"job_{order}", order=order, sizes=sizes or (V, K), holds=holds, movable=movable, **more
    )


def problem(*contenders: Contender, **supply: Sequence[tuple[int, int]]) -> Problem:
    there = tuple(Supply(kind, tuple(nodes)) for kind, nodes in supply.items())
    return Problem(contenders=contenders, supply=there, round_us=6 * MINUTE_US, weights={})


def spec(text: str) -> PlacementPolicySpec:
    (document,) = parse_documents(
        f"kind: PlacementPolicy\nname: p\nspec:\n  strategy: pack\n{text}", "p.yaml"
    )
    assert isinstance(document.spec, PlacementPolicySpec)
    return document.spec


def test_a_document_names_an_allocator():
    assert spec("").allocator is None
    assert spec("  allocator: {name: in-order}\n").allocator == AllocatorSpec(
        "in-order", 6 * MINUTE_US, 5 * MINUTE_US
    )
    told = spec("  allocator: {name: in-order, round: 90s, restart: 0s}\n").allocator
    assert told == AllocatorSpec("in-order", 90_000_000, 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "{name: in-ordr}",
            "p.yaml:5:21: spec.allocator.name: 'in-ordr' is not an allocator; known: goodput, in-order",
        ),
        ("{name: in-ordr}", "did you mean 'in-order'?"),
        ("{name: in-order, rund: 6m}", "p.yaml:5:31: spec.allocator.rund: unknown key 'rund'"),
        ("{name: in-order, round: 9s}", "must be from 10s to 1d"),
        ("{name: in-order, round: 25h}", "must be from 10s to 1d"),
        ("{name: in-order, restart: 25h}", "must be from 0s to 1d"),
        ("{name: [in-order]}", "expected one value"),
        ("{round: 6m}", "the key 'name' is missing"),
        ("in-order", "expected a mapping"),
    ],
)
def test_what_nobody_could_mean_is_refused_with_its_line(text: str, said: str):
    with pytest.raises(PolicyInvalid) as failed:
        spec(f"  allocator: {text}\n")
    assert said in str(failed.value)


def test_room_takes_from_the_fullest_nodes_that_have_room_and_all_or_nothing():
    room = Room((Supply("A", ((8, 2), (4, 1), (1, 1))),))
    assert room.take(Size("A", 1, 2))
    assert room.left() == (Supply("A", ((8, 2), (2, 1), (1, 1))),)
    assert not room.take(Size("A", 3, 8)), "only two nodes have eight"
    assert room.left() == (Supply("A", ((8, 2), (2, 1), (1, 1))),)
    assert room.take(Size("A", 2, 8))
    assert room.gpus("A") == 3
    assert not room.take(Size("B"))


def test_an_answer_is_checked_before_anything_is_given():
    asked = problem(contender(0), contender(1), contender(2, V), V100=((1, 1),), K80=((1, 1),))
    answer = answered(
        asked,
        [
            Allotment("job_9", "V100", 1, 1),
            Allotment("job_2", "K80", 1, 1),
            Allotment("job_1", "V100", 1, 1),
            Allotment("job_1", "K80", 1, 1),
            Allotment("job_0", "V100", 1, 1),
        ],
    )
    assert answer.given == {"job_0": V}, "of two that want the same, the one submitted first"
    assert answer.refused == (
        "job_9 is no contender",
        "job_2 may not run on 1 x 1 K80",
        "job_1 is given something twice",
        "job_1 is given 1 V100, of which too few are left",
    )


def test_what_may_not_be_moved_keeps_what_it_holds_whatever_is_answered():
    asked = problem(contender(0), contender(1, holds=V, movable=False), V100=((1, 1),))
    answer = answered(asked, [Allotment("job_0", "V100", 1, 1), Allotment("job_1")])
    assert answer.given == {"job_1": V}


def test_in_order_lets_run_what_runs_and_gives_the_rest_to_who_comes_first():
    asked = problem(
        contender(0),
        contender(1, holds=K),
        contender(2, priority=80),
        contender(3),
        V100=((2, 1),),
        K80=((1, 1),),
    )
    found = targets.ask(allocators.find("in-order"), asked)
    assert dict(found.given) == {"job_0": V, "job_1": K, "job_2": V}
    assert not found.moves
    assert not found.refused


class Failing:
    name = "failing"
    weights: dict[str, Weight] = {}

    def allot(self, problem: Problem) -> Sequence[Allotment]:
        raise ZeroDivisionError("by nothing")


def test_an_allocator_that_fails_moves_nobody():
    asked = problem(contender(0, holds=K), contender(1), V100=((1, 1),), K80=((1, 1),))
    found = targets.ask(Failing(), asked)
    assert dict(found.given) == {"job_0": K}
    assert not found.moves
    assert found.refused == ("failing failed: ZeroDivisionError: by nothing",)


class Swaps:
    name = "swaps"
    weights: dict[str, Weight] = {}

    def allot(self, problem: Problem) -> Sequence[Allotment]:
        return [Allotment("job_0", "V100", 1, 1), Allotment("job_2", "V100", 2, 2)]


def test_whoever_runs_otherwise_from_now_on_is_told_how():
    asked = problem(
        contender(0, holds=K),
        contender(1, holds=V),
        contender(2, Size("V100", 2, 2), V, holds=V),
        V100=((4, 2),),
        K80=((1, 1),),
    )
    assert dict(targets.ask(Swaps(), asked).moves) == {
        "job_0": "moved from 1 K80 to 1 V100",
        "job_1": "others have their turn until the next round",
        "job_2": "resized from 1 V100 to 2 x 2 V100",
    }


def point(found: object) -> SimpleNamespace:
    def load() -> object:
        if isinstance(found, Exception):
            raise found
        return found

    return SimpleNamespace(value="theirs:Theirs", load=load)


def test_a_package_brings_its_own_allocator_as_a_class_or_an_object():
    assert isinstance(registry.loaded("swaps", [point(Swaps)]), Swaps)
    assert isinstance(registry.loaded("swaps", [point(Swaps())]), Swaps)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (ImportError("no theirs"), "cannot be loaded: ImportError: no theirs"),
        (SimpleNamespace(name="other"), "calls itself 'other'"),
        (SimpleNamespace(name="swaps"), "has no method allot"),
        (SimpleNamespace(name="swaps", allot=print), "has no `weights`"),
        (SimpleNamespace(name="swaps", allot=print, weights={"a": 1.0}), "has no `weights`"),
    ],
)
def test_what_a_package_brings_is_looked_at_first(found: object, said: str):
    with pytest.raises(InvalidRequest, match="allocator swaps of theirs:Theirs") as failed:
        registry.loaded("swaps", [point(found)])
    assert said in str(failed.value)


def test_the_example_of_the_guide_is_twenty_lines_and_works_as_it_is():
    page = (Path(__file__).parents[2] / "docs/howto-add-a-policy.md").read_text()
    text = page.partition("```python\n")[2].partition("```")[0]
    assert len([line for line in text.splitlines() if line.strip()]) <= 20
    module: dict[str, Any] = {}
    exec(compile(text, "howto-add-a-policy.md", "exec"), module)
    theirs = registry.loaded("fastest-first", [point(module["FastestFirst"])])
    asked = problem(
        contender(0, V, Size("K80", speed=500_000)),
        contender(1, V, K),
        contender(2, V, K, holds=V),
        V100=((1, 2),),
        K80=((1, 1),),
    )
    asked = replace(asked, weights={name: weight.default for name, weight in theirs.weights.items()})
    found = targets.ask(theirs, asked)
    assert not found.refused
    assert dict(found.given) == {"job_0": V, "job_2": V, "job_1": K}
    asked = replace(
        asked, weights={"stay": 1.0}, contenders=(*asked.contenders[:2], contender(2, K, holds=V))
    )
    assert targets.ask(theirs, asked).moves == {"job_2": "moved from 1 V100 to 1 K80"}
