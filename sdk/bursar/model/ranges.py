"""Sets of task indices as ranges: what an array of 100,000 tasks is kept, sent and written down as.

Why     whatever costs a little for each index costs much for an array; `0-99999` is three numbers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate, chain
from operator import itemgetter
from typing import overload

Range = tuple[int, int, int]
"""(start, stop, step) as of `range`: not empty, `stop` is one past the last index; of one index, step 1."""
Ranges = tuple[Range, ...]
"""Ascending and apart: every range begins after the last index of the one before."""


def compress(parts: Iterable[int | Range]) -> Ranges:
    """Indices and ranges, as given, as few ranges: runs of even distance, from the left.

    Ascending input gives the one form that equal sets share. Anything else keeps its order and its faults
    (`bursar.model.check` names them), and nothing here takes longer than the input is long.
    """
    whole: list[Range] = []
    run: list[int] = []
    for part in parts:
        if isinstance(part, int):
            if len(run) > 1 and part - run[-1] != run[1] - run[0]:
                whole += _closed(run)
                run = run[-1:] if _is_pair_apart(run) else []
            if len(run) == 1 and part <= run[0]:
                whole += _closed(run)
                run = []
            run.append(part)
        else:
            whole += _closed(run)
            run = []
            whole.append(part)
    return (*whole, *_closed(run, last=True))


def _is_pair_apart(run: list[int]) -> bool:
    """Two indices with a gap: the second may begin a longer run."""
    return len(run) == 2 and run[1] - run[0] > 1


def _closed(run: list[int], last: bool = False) -> list[Range]:
    if _is_pair_apart(run):
        alone = [(run[0], run[0] + 1, 1)]
        return [*alone, (run[1], run[1] + 1, 1)] if last else alone
    if len(run) > 1:
        return [(run[0], run[-1] + 1, run[1] - run[0])]
    return [(run[0], run[0] + 1, 1)] if run else []


def count(ranges: Ranges) -> int:
    """How many indices."""
    return sum(len(range(*one)) for one in ranges)


_START = itemgetter(0)


def _behind(ranges: Ranges, index: int) -> int:
    """The place of the first range that begins after an index: only the one before can have it."""
    return bisect_right(ranges, index, key=_START)


def contains(ranges: Ranges, index: int) -> bool:
    """Is this index among them?"""
    place = _behind(ranges, index)
    return place > 0 and index in range(*ranges[place - 1])


def above(ranges: Ranges, index: int) -> Iterator[int]:
    """Those greater than an index, ascending, made when asked for."""
    place = max(_behind(ranges, index) - 1, 0)
    if place < len(ranges):
        yield from (one for one in range(*ranges[place]) if one > index)
        yield from chain.from_iterable(range(*one) for one in ranges[place + 1 :])


def without_first(ranges: Ranges) -> Ranges:
    """All but the least index."""
    start, stop, step = ranges[0]
    return ((start + step, stop, step), *ranges[1:]) if start + step < stop else ranges[1:]


def without(ranges: Ranges, index: int) -> Ranges:
    """All but one index; the same when it is not there."""
    if not contains(ranges, index):
        return ranges
    place = _behind(ranges, index) - 1
    start, stop, step = ranges[place]
    left = [(start, index - step + 1, step)] if index > start else []
    right = [(index + step, stop, step)] if index + step < stop else []
    return (*ranges[:place], *left, *right, *ranges[place + 1 :])


def with_index(ranges: Ranges, index: int) -> Ranges:
    """These and one more index, wherever it belongs."""
    if contains(ranges, index):
        return ranges
    place, alone = _behind(ranges, index), (index, index + 1, 1)
    start, stop, step = ranges[place - 1] if place else (0, 0, 1)
    if index >= stop - 1:
        return (*ranges[:place], alone, *ranges[place:])
    below = range(start, index, step)
    left, right = (start, below[-1] + 1, step), (below[-1] + step, stop, step)
    return (*ranges[: place - 1], left, alone, right, *ranges[place:])


def subtract(ranges: Ranges, gone: Ranges) -> Ranges:
    """Those that are not among `gone`."""
    if len(gone) == 1 and gone[0][1] == gone[0][0] + 1:
        return without(ranges, gone[0][0])
    if not ranges or not gone:
        return ranges
    taken = set(chain.from_iterable(range(*one) for one in gone))
    return compress(index for one in ranges for index in range(*one) if index not in taken)


def union(ranges: Ranges, more: Ranges) -> Ranges:
    """Both."""
    if len(more) == 1 and more[0][1] == more[0][0] + 1:
        return with_index(ranges, more[0][0])
    if not ranges or not more:
        return ranges or more
    return compress(sorted({index for one in (*ranges, *more) for index in range(*one)}))


class Indices(Sequence[int]):
    """The indices of some ranges, made when asked for."""

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = tuple(range(*one) for one in ranges)

    def __len__(self) -> int:
        return sum(map(len, self._ranges))

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(self._ranges)

    def __reversed__(self) -> Iterator[int]:
        return chain.from_iterable(map(reversed, reversed(self._ranges)))

    def __contains__(self, index: object) -> bool:
        return any(index in one for one in self._ranges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(int.__eq__, self, other))

    def __hash__(self) -> int:
        return hash(self._ranges)

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[int]: ...
    def __getitem__(self, place: int | slice) -> int | Sequence[int]:
        if isinstance(place, slice):
            return tuple(self)[place]
        left = place if place >= 0 else place + len(self)
        for one in self._ranges:
            if 0 <= left < len(one):
                return one[left]
            left -= len(one)
        raise IndexError(place)

    def place_of(self, index: int) -> int:
        """Where an index stands, from 0. Raises `ValueError` for one that is not there."""
        place = bisect_right(self._starts, index) - 1
        if place < 0 or index not in self._ranges[place]:
            raise ValueError(f"{index} is not an index of this array")
        return self._before[place] + self._ranges[place].index(index)

    @cached_property
    def _starts(self) -> list[int]:
        return [one.start for one in self._ranges]

    @cached_property
    def _before(self) -> list[int]:
        """How many indices the ranges before each have."""
        return list(accumulate(map(len, self._ranges), initial=0))
