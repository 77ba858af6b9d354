"""Who gets what, so that the sum of what it is worth is the most: the part that allocators have in common.

Owns    `best_choice`: of each contender at most one of its sizes, all together within the supply; and
        `better_than_staying`: the same where nothing is moved unless all together gain by it.
Why     where every size is one GPU this is a matching of jobs and GPUs, solved exactly. Else it is a knapsack
        with a compartment for each type: each type gets a price per GPU at which about as many are wanted as
        there are, and jobs are served in the order of what they gain beyond it: within a few per cent of the
        best, for thousands of jobs in a fraction of a second.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bursar_policies.allocators.api import Room, Size, Supply

MATCHED_MAX = 4_096
"""Jobs up to which they are matched exactly: some tenths of a second at most."""
_EQUAL = 1e-12
"""What gains no more than that gains nothing."""
_FEW = 64
"""Jobs of a type up to which plain Python is faster than numpy."""
_ROUNDS = 80
"""Steps in which prices are found."""
_STEP = 0.5
Floats = NDArray[np.float64]


def best_choice(
    supply: Sequence[Supply], sizes: Sequence[Sequence[Size]], values: Sequence[Sequence[float]]
) -> list[int]:
    """Which of its sizes each job gets, -1 for none: as much value in all as can be had.

    Args:
        sizes: of each job, in the order of submission: of jobs that are worth the same the first is served.
        values: of each of these sizes; what is not above 0 is not given.
    """
    there = [one for one in supply if one.gpus]
    if not there or not sizes:
        return [-1] * len(sizes)
    if len(sizes) <= MATCHED_MAX and all(size.gpus_in_all == 1 for each in sizes for size in each):
        return _matched(there, sizes, values)
    return _priced(there, sizes, values)


def better_than_staying(
    supply: Sequence[Supply],
    sizes: Sequence[Sequence[Size]],
    values: Sequence[Sequence[float]],
    holds: Sequence[int],
) -> list[int]:
    """The best choice, if it is worth more in all than what is best when whoever runs goes on as it does.

    Args:
        holds: of each job which of its sizes it has, -1 for none.
    """
    found = best_choice(supply, sizes, values)
    running = [job for job, index in enumerate(holds) if index >= 0]
    if all(found[job] == holds[job] for job in running):
        return found
    room, kept = Room(supply), [-1] * len(sizes)
    for job in sorted(running, key=lambda job: -sizes[job][holds[job]].gpus):
        if room.take(sizes[job][holds[job]]):
            kept[job] = holds[job]
    others = [job for job, index in enumerate(kept) if index < 0]
    rest = best_choice(room.left(), [sizes[job] for job in others], [values[job] for job in others])
    for job, index in zip(others, rest, strict=True):
        kept[job] = index
    return found if _worth(found, values) > _worth(kept, values) + _EQUAL else kept


def _worth(chosen: Sequence[int], values: Sequence[Sequence[float]]) -> float:
    return math.fsum(values[job][index] for job, index in enumerate(chosen) if index >= 0)


# ------------------------------------------------------------------ one GPU each


class _Matching:
    """Jobs and GPUs of a few types, matched exactly: one job after another is let in, and each time the best
    chain of moves is made (it takes a GPU, whose job goes to another type, whose job ... ends, or is let go).

    The shortest augmenting paths of a transportation problem, whose graph has a node for each type alone.
    """

    def __init__(self, worth: Floats, caps: Sequence[int]) -> None:
        self._worth, self._caps, self._types = worth, caps, len(caps)
        self._held: list[list[int]] = [[] for _ in caps]
        self._rows: list[list[float]] = worth.tolist()
        self._gain = [[-math.inf] * (self._types + 1) for _ in caps]
        """What it brings that the best job of one type goes to another, or (last) is let go."""
        self._who = [[0] * (self._types + 1) for _ in caps]
        self.of = [-1] * len(worth)
        """By job its type, -1 for none."""

    def let_in(self, job: int) -> None:
        """The same matching, with a job more to choose from."""
        types, caps, held = self._types, self._caps, self._held
        best, before = list(self._rows[job]), [-1] * types
        gain = self._gain
        for _ in range(types):
            changed = False
            for a in range(types):
                if len(held[a]) >= caps[a]:
                    for b in range(types):
                        if best[a] + gain[a][b] > best[b] + _EQUAL:
                            best[b], before[b], changed = best[a] + gain[a][b], a, True
            if not changed:
                break
        ends = [one if len(held[a]) < caps[a] else one + gain[a][types] for a, one in enumerate(best)]
        last = max(range(types), key=lambda a: (ends[a], -a))
        if ends[last] > _EQUAL:
            self._follow(job, last, before)

    def _follow(self, job: int, last: int, before: list[int]) -> None:
        """Make the chain that ends at a type: from its end to the job that is let in."""
        types = self._types
        if len(self._held[last]) >= self._caps[last]:
            self._go(self._who[last][types], last, -1)
        changed, to = {last}, last
        while before[to] >= 0:
            a = before[to]
            self._go(self._who[a][to], a, to)
            changed.add(a)
            to = a
        self._go(job, -1, to)
        for a in changed:
            self._look(a)

    def _go(self, job: int, a: int, b: int) -> None:
        if a >= 0:
            self._held[a].remove(job)
        if b >= 0:
            self._held[b].append(job)
        self.of[job] = b

    def _look(self, a: int) -> None:
        """Who would leave a type for which other: of one that is full, since nobody has to leave another."""
        held, types = self._held[a], self._types
        if len(held) < self._caps[a]:
            return
        if len(held) > _FEW:
            self._look_at_many(a)
            return
        best, who, rows = [-math.inf] * (types + 1), [0] * (types + 1), self._rows
        for job in held:
            row = rows[job]
            mine = row[a]
            for b in range(types):
                if row[b] - mine > best[b] and b != a:
                    best[b], who[b] = row[b] - mine, job
            if -mine > best[types]:
                best[types], who[types] = -mine, job
        self._gain[a], self._who[a] = best, who

    def _look_at_many(self, a: int) -> None:
        held = np.array(self._held[a], dtype=np.int64)
        mine = self._worth[held]
        moves = np.column_stack((mine, np.zeros(len(held)))) - mine[:, a, None]
        moves[:, a] = -np.inf
        which = moves.argmax(axis=0)
        self._gain[a] = moves[which, np.arange(self._types + 1)].tolist()
        self._who[a] = held[which].tolist()


def _matched(
    supply: Sequence[Supply], sizes: Sequence[Sequence[Size]], values: Sequence[Sequence[float]]
) -> list[int]:
    """The matching of the most value."""
    row_of = {one.gpu_type: row for row, one in enumerate(supply)}
    worth = np.full((len(sizes), len(supply)), -np.inf)
    which = np.full((len(sizes), len(supply)), -1)
    for job, (each, mine) in enumerate(zip(sizes, values, strict=True)):
        for index, (size, value) in enumerate(zip(each, mine, strict=True)):
            row = row_of.get(size.gpu_type, -1)
            if row >= 0 and value > max(worth[job, row], 0):
                worth[job, row], which[job, row] = value, index
    caps = [one.gpus for one in supply]
    matching = _Matching(worth, caps)
    for job in _those_that_matter(worth, sum(caps)).tolist():
        matching.let_in(job)
    return [int(which[job, kind]) if kind >= 0 else -1 for job, kind in enumerate(matching.of)]


def _those_that_matter(worth: Floats, gpus: int) -> NDArray[np.intp]:
    """Rows of jobs that could be matched: of each type as many of those that are worth the most there as
    there are GPUs in all, since one beyond them could give its place to one of them that has none.
    """
    if len(worth) <= gpus:
        return np.arange(len(worth))
    order = np.argsort(-worth, axis=0, kind="stable")[:gpus]
    found: NDArray[np.intp] = np.unique(order)
    return found


# ------------------------------------------------------------------ sizes of many GPUs


def _priced(
    supply: Sequence[Supply], sizes: Sequence[Sequence[Size]], values: Sequence[Sequence[float]]
) -> list[int]:
    """By prices, then greedily."""
    row_of = {one.gpu_type: row for row, one in enumerate(supply)}
    ways = [
        (job, index, row_of[size.gpu_type], size.gpus_in_all, value)
        for job, (each, mine) in enumerate(zip(sizes, values, strict=True))
        for index, (size, value) in enumerate(zip(each, mine, strict=True))
        if value > 0 and size.gpu_type in row_of
    ]
    if not ways:
        return [-1] * len(sizes)
    prices = _prices(ways, np.array([float(one.gpus) for one in supply]))
    return _served(Room(supply), sizes, ways, prices)


_Way = tuple[int, int, int, int, float]
"""Job, index of its size, type, GPUs, value."""


def _prices(ways: Sequence[_Way], there: Floats) -> Floats:
    """A price per GPU of each type at which about as many are wanted as there are."""
    jobs, types, gpus = (np.array([way[at] for way in ways]) for at in (0, 2, 3))
    worth = np.array([way[4] for way in ways])
    first = np.flatnonzero(np.diff(jobs, prepend=-1))  # the ways of one job stand together
    group = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(jobs))))
    dense = worth / gpus
    top = float(dense.max())
    prices = np.array(
        [_marginal(dense[types == kind], gpus[types == kind], there[kind]) for kind in range(len(there))]
    )
    best, least = prices.copy(), np.inf
    for step in range(_ROUNDS):
        left = worth - prices[types] * gpus
        most = np.maximum.reduceat(left, first)
        chosen = (left >= most[group]) & (left > 0)
        wanted = np.bincount(types[chosen], weights=gpus[chosen].astype(float), minlength=len(there))
        bound = float(np.maximum(most, 0).sum() + prices @ there)
        if bound < least:
            best, least = prices.copy(), bound
        pull = np.clip(wanted / there - 1, -1, 1) * _STEP / (1 + step / 8)
        prices = np.clip(prices + pull * np.maximum(prices, top / 1_000), 0, top)
    return best


def _marginal(dense: Floats, gpus: NDArray[np.int64], there: float) -> float:
    """What the last GPU is worth when those who value it most get it."""
    order = np.argsort(-dense, kind="stable")
    within = np.cumsum(gpus[order]) > there
    return float(dense[order][within.argmax()]) if within.any() else 0.0


def _served(room: Room, sizes: Sequence[Sequence[Size]], ways: Sequence[_Way], prices: Floats) -> list[int]:
    """Whoever gains most beyond the price of what it takes chooses first; then what is left, to any."""
    of_job: dict[int, list[tuple[float, float, int]]] = {}
    for job, index, kind, gpus, value in ways:
        of_job.setdefault(job, []).append((value - float(prices[kind]) * gpus, value / gpus, index))
    found = [-1] * len(sizes)
    heap: list[tuple[float, float, int, int]] = []
    for job, mine in of_job.items():
        mine.sort(key=lambda one: (-one[0], -one[1], one[2]))
        heap.append((-mine[0][0], -mine[0][1], job, 0))
    heapq.heapify(heap)
    while heap:
        _, _, job, at = heapq.heappop(heap)
        mine = of_job[job]
        if room.take(sizes[job][mine[at][2]]):
            found[job] = mine[at][2]
        elif at + 1 < len(mine):
            heapq.heappush(heap, (-mine[at + 1][0], -mine[at + 1][1], job, at + 1))
    return found
