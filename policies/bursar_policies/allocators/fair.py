"""What nobody can be kept from: a part of an equal share of the GPUs, whatever others say of themselves.

Why     how fast a job is on more GPUs, or on others, is its owner's word. Whoever says too much would have
        everything, round after round. So each job that contends is counted what an equal share would be, and
        one that has had too little of it is served before all others, at a size no larger than it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bursar_policies.allocators.api import ONE, Contender, Problem, Room, Size, Supply, Weight

FAIR = Weight(0.25, 0, 0.5)
"""The weight `fair`: which part of its equal share a job is sure of. Beyond half of it rounds are too few to
keep the word, since a GPU is given for a round or not at all."""
PATIENCE = 4
"""Rounds on what it needs that a job is owed before others give way to it: so that it runs as long, and no
start is in vain."""
USEFUL = 0.5
"""A size is useful whose GPUs bring, by the job's own word, at least so much of what they bring at best."""
TYPES_APART = 100
"""So many times as fast as on the slowest GPUs that it may have a job is on others, at most."""
_REPEATS = 3
"""How often the rest is decided anew for one more that was left out; then all who are owed come first."""
_PRIORITY_HALF = 10
Solve = Callable[[Sequence[Supply], Sequence[int]], list[int]]


def weight_of(priority: int) -> float:
    """How much a job counts: twice as much for ten points of priority more."""
    return float(2 ** ((priority - 50) / _PRIORITY_HALF))


def useful_gpus(sizes: Sequence[Size]) -> int:
    """The most GPUs of a size of which each still brings something; 0 without any size."""
    best: dict[str, float] = {}
    for size in sizes:
        best[size.gpu_type] = max(best.get(size.gpu_type, 0), size.speed / size.gpus_in_all)
    enough = (
        size.gpus_in_all for size in sizes if size.speed / size.gpus_in_all >= USEFUL * best[size.gpu_type]
    )
    return max(enough, default=0)


def equal_shares(contenders: Sequence[Contender], supply: Sequence[Supply]) -> list[int]:
    """The equal share of each, in thousandths of a GPU: of all that it can run on, by its priority, and no
    more than is of use to it.
    """
    there = {one.gpu_type: one.gpus for one in supply}
    weights = [weight_of(one.priority) for one in contenders]
    whole = sum(weights)
    able: dict[frozenset[str], int] = {}
    found = []
    for one, weight in zip(contenders, weights, strict=True):
        types = frozenset(size.gpu_type for size in one.sizes)
        if types not in able:
            able[types] = sum(there.get(kind, 0) for kind in types)
        found.append(int(1000 * min(able[types] * weight / whole, useful_gpus(one.sizes))))
    return found


def fairly(problem: Problem, jobs: Sequence[Contender], solve: Solve) -> list[int]:
    """Which of its sizes each job gets, -1 for none: what is best, once nobody is left out who is owed.

    Args:
        jobs: each with a size or more.
        solve: the best choice for some of them (places in `jobs`) out of a supply.
    """
    everyone = list(range(len(jobs)))
    chosen = solve(problem.supply, everyone)
    needs = {at: need for at, one in enumerate(jobs) if (need := _need(one, problem.round_us))}
    first: set[int] = set()
    for repeat in range(_REPEATS + 1):
        left_out = {
            at for at, need in needs.items() if at not in first and _given(jobs[at], chosen[at]) < need
        }
        if not left_out:
            break
        first |= left_out if repeat < _REPEATS else needs.keys()
        chosen = _after(problem, jobs, solve, {at: needs[at] for at in first})
    return chosen


def _after(problem: Problem, jobs: Sequence[Contender], solve: Solve, first: dict[int, int]) -> list[int]:
    """Those who come first, the one that is owed most before the others; then the rest."""
    room, chosen = Room(problem.supply), [-1] * len(jobs)
    for at in sorted(first, key=lambda at: (-jobs[at].owed_us / first[at], jobs[at].order)):
        chosen[at] = next(
            (index for index in _best_first(jobs[at], first[at]) if _take(room, jobs[at], index)), -1
        )
    rest = [at for at, index in enumerate(chosen) if index < 0]
    for at, index in zip(rest, solve(room.left(), rest), strict=True):
        chosen[at] = index
    return chosen


def _take(room: Room, job: Contender, index: int) -> bool:
    return room.take(job.sizes[index])


def _best_first(job: Contender, need: int) -> list[int]:
    """Its sizes: what it holds if that is enough, then from what it needs upwards, at last what is smaller;
    of equal ones the fastest.
    """

    def key(index: int) -> tuple[bool, int, int, int]:
        size = job.sizes[index]
        gpus, enough = size.gpus_in_all, size.gpus_in_all >= need
        return (not (enough and _held(job, size)), 0 if enough else 1, gpus if enough else -gpus, -size.speed)

    return sorted(range(len(job.sizes)), key=key)


def _need(job: Contender, round_us: int) -> int:
    """How many GPUs it must have in this round; 0: it may be left out."""
    if job.owed_us <= 0:
        return 0
    held = job.holds.gpus_in_all if job.holds is not None else 0
    counts = {size.gpus_in_all for size in job.sizes}
    useful = max(useful_gpus(job.sizes), min(counts))
    larger = min((count for count in counts if held < count <= useful), default=0)
    if larger and job.owed_us >= PATIENCE * larger * round_us:
        return larger
    return min(held, max(counts))


def _given(job: Contender, index: int) -> int:
    return job.sizes[index].gpus_in_all if index >= 0 else 0


def _held(job: Contender, size: Size) -> bool:
    holds = job.holds
    return holds is not None and (size.gpu_type, size.nodes, size.gpus) == (
        holds.gpu_type,
        holds.nodes,
        holds.gpus,
    )


def believed(sizes: Sequence[Size]) -> list[int]:
    """How fast each size is, as far as that is believed: so many times more GPUs of a type are at most so
    many times faster, and no type is more than `TYPES_APART` times as fast as another.
    """
    least: dict[str, Size] = {}
    for size in sorted(sizes, key=lambda size: (size.gpus_in_all, -size.speed)):
        least.setdefault(size.gpu_type, size)
    found = [
        min(size.speed, first.speed * size.gpus_in_all // first.gpus_in_all)
        for size in sizes
        for first in (least[size.gpu_type],)
    ]
    slowest = min(speed * ONE // size.gpus_in_all for speed, size in zip(found, sizes, strict=True))
    return [
        min(speed, max(slowest, 1) * size.gpus_in_all * TYPES_APART // ONE)
        for speed, size in zip(found, sizes, strict=True)
    ]
