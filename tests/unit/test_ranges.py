"""Sets of indices as ranges: each operation as on the set itself, and one form for equal sets."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.codec.spec import spec_from_wire, spec_to_wire
from bursar.errors import InvalidRequest
from bursar.model import ArraySpec, JobSpec
from bursar.model.ranges import (
    Indices,
    Ranges,
    above,
    compress,
    contains,
    count,
    subtract,
    union,
    with_index,
    without,
)
from bursar.resources import ResourceRequest
from bursar.v1 import types_pb2 as pb

SETS = st.sets(st.integers(0, 30) | st.integers(0, 4_000_000), max_size=30)


@given(SETS, st.integers(0, 31))
def test_every_operation_is_as_on_the_set(found: set[int], index: int) -> None:
    ordered = sorted(found)
    ranges = compress(ordered)
    assert list(Indices(ranges)) == ordered
    assert list(reversed(Indices(ranges))) == ordered[::-1]
    assert count(ranges) == len(Indices(ranges)) == len(found)
    assert contains(ranges, index) == (index in Indices(ranges)) == (index in found)
    assert list(Indices(without(ranges, index))) == sorted(found - {index})
    assert list(Indices(with_index(ranges, index))) == sorted(found | {index})
    assert [Indices(ranges)[place] for place in range(len(found))] == ordered
    assert [Indices(ranges).place_of(one) for one in ordered] == list(range(len(found)))
    assert list(above(ranges, index)) == [one for one in ordered if one > index]
    for _, stop, step in ranges:
        assert step >= 1
        assert stop - 1 in found, "`stop` is one past the last index"


@pytest.mark.parametrize(
    ("indices", "ranges"),
    [
        ((), ()),
        ((7,), ((7, 8, 1),)),
        ((0, 1), ((0, 2, 1),)),
        ((0, 5), ((0, 1, 1), (5, 6, 1))),
        ((0, 5, 10), ((0, 11, 5),)),
        ((0, 5, 6, 7), ((0, 1, 1), (5, 8, 1))),
        ((0, 1, 2, 4, 6, 8), ((0, 3, 1), (4, 9, 2))),
        (tuple(range(100_000)), ((0, 100_000, 1),)),
        ((3, 5, 4), ((3, 4, 1), (5, 6, 1), (4, 5, 1))),
        ((1, 1), ((1, 2, 1), (1, 2, 1))),
        ((-1, 0), ((-1, 1, 1),)),
    ],
)
def test_runs_become_ranges_and_faults_stay_to_be_found(
    indices: tuple[int, ...], ranges: tuple[tuple[int, int, int], ...]
) -> None:
    assert compress(indices) == ranges


def test_what_was_written_down_before_reads_as_the_same_array() -> None:
    old = b'{"indices":[0,1,2,3,7],"max_parallel":2}'
    array = msgspec.json.decode(old, type=ArraySpec)
    assert array == ArraySpec((0, 1, 2, 3, 7), 2)
    new = msgspec.json.encode(array)
    assert new == b'{"indices":[[0,4,1],[7,8,1]],"max_parallel":2}'
    assert msgspec.json.decode(new, type=ArraySpec) == array


def wire_of(array: pb.ArraySpec) -> pb.JobSpec:
    spec = JobSpec(project="p", options=(ResourceRequest(None, 1_000, 1 << 30),), command=("true",))
    wire = spec_to_wire(spec)
    wire.array.CopyFrom(array)
    return wire


def ranges_of(*ranges: tuple[int, int, int]) -> pb.ArraySpec:
    return pb.ArraySpec(ranges=[pb.IndexRange(start=a, stop=b, step=c) for a, b, c in ranges])


@pytest.mark.parametrize(
    "array",
    [
        pb.ArraySpec(indices=range(0, 12, 3)),
        ranges_of((0, 10, 3)),
        ranges_of((0, 12, 3)),
        ranges_of((0, 4, 3), (6, 7, 9), (9, 10, 1)),
    ],
)
def test_equal_arrays_are_equal_however_the_wire_has_them(array: pb.ArraySpec) -> None:
    spec = spec_from_wire(wire_of(array))
    assert spec.array == ArraySpec((0, 3, 6, 9))
    assert spec_from_wire(spec_to_wire(spec)) == spec


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (ranges_of((0, 0, 1)), "start < stop"),
        (ranges_of((5, 3, 1)), "start < stop"),
        (ranges_of((0, 5, 0)), "step of 1 or more"),
        (ranges_of((0, 4_294_967_295, 1)), "more than 100000 tasks"),
        (ranges_of((0, 100_001, 1)), "more than 100000 tasks"),
        (ranges_of((5, 7, 1), (0, 2, 1)), "do not ascend"),
        (ranges_of((0, 10, 1), (9, 12, 1)), "do not ascend"),
        (ranges_of((4_000_001, 4_000_002, 1)), "largest task index"),
        (pb.ArraySpec(indices=[i * i for i in range(1_900) for _ in "ab"]), "do not ascend"),
        (pb.ArraySpec(), "no task"),
    ],
)
def test_ranges_that_are_none_are_refused(array: pb.ArraySpec, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        spec_from_wire(wire_of(array))


class _Counted(tuple[tuple[int, int, int], ...]):
    """Ranges that count how many of them were looked at."""

    looked = 0

    def __getitem__(self, place: Any) -> Any:
        type(self).looked += 1
        return super().__getitem__(place)

    def __iter__(self) -> Any:
        raise AssertionError("all ranges were gone through")


def test_one_index_is_found_without_looking_at_every_range() -> None:
    ranges = _Counted((start, start + 10, 1) for start in range(0, 200_000, 20))
    assert contains(ranges, 199_985)
    assert not contains(ranges, 199_995)
    assert not contains(ranges, -1)
    assert _Counted.looked < 100, "some twenty steps of a search for each"


def test_an_array_keeps_the_places_of_its_tasks() -> None:
    array = ArraySpec(tuple((start, start + 10, 1) for start in range(0, 200, 20)))
    assert array.indices is array.indices
    assert array.indices.place_of(189) == 99
    with pytest.raises(ValueError, match="190 is not an index of this array"):
        array.indices.place_of(190)
    assert array == ArraySpec(array.parts), "what is kept is no part of what an array is"


@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)))
def test_what_is_taken_from_ranges_and_added_to_them_is_what_it_is_of_sets(
    one: set[int], other: set[int]
) -> None:
    def ranges(indices: set[int]) -> Ranges:
        return compress(sorted(indices))

    def indices(found: Ranges) -> list[int]:
        return [index for part in found for index in range(*part)]

    assert indices(subtract(ranges(one), ranges(other))) == sorted(one - other)
    assert indices(union(ranges(one), ranges(other))) == sorted(one | other)
