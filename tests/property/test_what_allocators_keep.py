"""What every allocator that ships must keep, on problems that nobody would think of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from scipy.optimize import linear_sum_assignment

from bursar_policies.allocators import SHIPPED, Allocator, Contender, Problem, Room, Size, Supply
from bursar_policies.allocators.relative_speed import RelativeSpeed, _index, _values
from bursar_policies.allocators.solve import best_choice
from bursard.scheduler import targets

MINUTE_US = 60_000_000
KINDS = ("A", "B", "C")
speeds = st.sampled_from((100_000, 250_000, 500_000, 900_000, 1_000_000, 2_600_000))
ONE_GPU = ((1, 1),)
SHAPES = ((1, 1), (1, 2), (1, 4), (2, 4))


@st.composite
def problems(draw: st.DrawFn, shapes: Sequence[tuple[int, int]] = SHAPES) -> Problem:
    """Jobs of which some run, within the supply."""
    supply = tuple(
        Supply(kind, ((draw(st.sampled_from((1, 4))), draw(st.integers(1, 4))),))
        for kind in draw(st.lists(st.sampled_from(KINDS), unique=True, min_size=1).map(sorted))
    )
    room, contenders = Room(supply), []
    for order in range(draw(st.integers(0, 12))):
        keys = draw(
            st.lists(
                st.tuples(st.sampled_from(KINDS), st.sampled_from(shapes)),
                min_size=1,
                max_size=5,
                unique=True,
            )
        )
        sizes = tuple(Size(kind, nodes, gpus, draw(speeds)) for kind, (nodes, gpus) in keys)
        holds = draw(st.none() | st.sampled_from(sizes))
        if holds is not None and not room.take(holds):
            holds = None
        contenders.append(
            Contender(
                job_id=f"job_{order}",
                order=order,
                sizes=sizes,
                holds=holds,
                movable=draw(st.integers(0, 5)) > 0,
                priority=draw(st.sampled_from((0, 50, 50, 80))),
                work_us=draw(st.integers(0, 100)) * MINUTE_US,
                held_us=draw(st.integers(0, 100)) * MINUTE_US,
                restart_us=draw(st.sampled_from((0, 5 * MINUTE_US))),
            )
        )
    return Problem(contenders=tuple(contenders), supply=supply, round_us=6 * MINUTE_US, weights={})


def asked(allocator: Allocator, problem: Problem) -> Problem:
    return replace(problem, weights={name: one.default for name, one in allocator.weights.items()})


every = pytest.mark.parametrize("allocator", SHIPPED, ids=lambda one: one.name)


@every
@settings(max_examples=60, deadline=None)
@given(problem=problems())
def test_no_more_is_given_than_there_is_and_all_that_is_given_holds(allocator: Allocator, problem: Problem):
    problem = asked(allocator, problem)
    found = targets.ask(allocator, problem)
    fixed = {one.job_id for one in problem.contenders if not one.movable and one.holds is not None}
    assert [said for said in found.refused if not any(name in said for name in fixed)] == []
    room = Room(problem.supply)
    given = sorted(found.given.values(), key=lambda size: (-size.gpus, -size.nodes))
    assert all(room.take(size) for size in given)
    assert all(found.given[name] == one.holds for one in problem.contenders if (name := one.job_id) in fixed)


@every
@settings(max_examples=40, deadline=None)
@given(problem=problems(), data=st.data())
def test_the_order_in_which_jobs_are_told_decides_nothing(
    allocator: Allocator, problem: Problem, data: st.DataObject
):
    problem = asked(allocator, problem)
    shuffled = replace(problem, contenders=tuple(data.draw(st.permutations(problem.contenders))))
    first, second = targets.ask(allocator, problem), targets.ask(allocator, shuffled)
    assert dict(first.given) == dict(second.given)
    assert dict(first.given) == dict(targets.ask(allocator, problem).given), "nor does what was asked before"


@every
@settings(max_examples=60, deadline=None)
@given(problem=problems())
def test_whoever_was_just_given_something_is_not_moved_again(allocator: Allocator, problem: Problem):
    problem = asked(allocator, problem)
    first = targets.ask(allocator, problem)
    after = [replace(one, holds=first.given.get(one.job_id)) for one in problem.contenders]
    assert dict(targets.ask(allocator, replace(problem, contenders=tuple(after))).moves) == {}


@every
@settings(max_examples=40, deadline=None)
@given(problem=problems())
def test_nothing_is_idle_that_a_waiting_job_could_use(allocator: Allocator, problem: Problem):
    problem = asked(allocator, problem)
    found = targets.ask(allocator, problem)
    room = Room(problem.supply)
    for size in sorted(found.given.values(), key=lambda size: (-size.gpus, -size.nodes)):
        room.take(size)
    left = room.left()
    waiting = [one for one in problem.contenders if one.job_id not in found.given]
    assert not any(Room(left).take(size) for one in waiting for size in one.sizes)


@settings(max_examples=60, deadline=None)
@given(problem=problems())
def test_relative_speed_moves_nobody_unless_all_together_gain(problem: Problem):
    allocator = RelativeSpeed()
    problem = asked(allocator, problem)
    found = targets.ask(allocator, problem)
    if not found.moves:
        return
    worth = 0.0
    for one in problem.contenders:
        held = _index(one)
        if one.movable and held >= 0:
            values = _values(one, problem)
            size = found.given.get(one.job_id)
            worth += (values[one.sizes.index(size)] if size is not None else 0) - values[held]
    waited = [one for one in problem.contenders if one.holds is None and one.job_id in found.given]
    worth += sum(_values(one, problem)[one.sizes.index(found.given[one.job_id])] for one in waited)
    assert worth > 0


@settings(max_examples=60, deadline=None)
@given(problem=problems(ONE_GPU), data=st.data())
def test_jobs_of_one_gpu_are_matched_as_well_as_can_be(problem: Problem, data: st.DataObject):
    sizes = [one.sizes for one in problem.contenders]
    values = [[data.draw(st.integers(0, 8)) / 4 for _ in each] for each in sizes]
    chosen = best_choice(problem.supply, sizes, values)
    mine = math.fsum(values[job][index] for job, index in enumerate(chosen) if index >= 0)
    slots = [one.gpu_type for one in problem.supply for _ in range(one.gpus)]
    table = np.zeros((len(sizes), len(slots)))
    for job, each in enumerate(sizes):
        for size, value in zip(each, values[job], strict=True):
            for at, kind in enumerate(slots):
                table[job, at] = max(table[job, at], value) if kind == size.gpu_type else table[job, at]
    rows, columns = linear_sum_assignment(table, maximize=True) if len(sizes) else ([], [])
    assert mine == pytest.approx(float(table[rows, columns].sum()) if len(sizes) else 0.0)
