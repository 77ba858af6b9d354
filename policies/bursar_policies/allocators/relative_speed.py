"""`relative-speed`: GPUs of each type to the jobs that gain most by them.

Source  a matching each round in place of the time fractions of Gavel ("Heterogeneity-aware cluster
        scheduling", OSDI'20), and attained service as in Tiresias (NSDI'19), at the speed of the fastest GPU.
Why     no run time has to be known. A job that is hardly slower on an old GPU leaves the new one to another
        that is four times slower there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bursar_policies.allocators.api import ONE, Allotment, Contender, Problem, Size, Weight, allotted
from bursar_policies.allocators.solve import better_than_staying

_MOVE_MAX = 0.95
"""No move costs more than this share of what it is to gain."""
_PRIORITY_HALF = 10
"""So much more priority counts twice as much."""


class RelativeSpeed:
    """See above.

    Weights:
        attained: how much less counts who has had more: a job's weight is its attained GPU time to the power
            of minus this. 0: it does not matter.
        horizon: rounds over which a move must pay for what it costs.
        stay: a move must gain more than this share of what the job has now, whatever it costs.
    """

    name = "relative-speed"
    weights: Mapping[str, Weight] = {
        "attained": Weight(0.1, 0, 4),
        "horizon": Weight(4, 1, 1_000),
        "stay": Weight(0.02, 0, 1),
    }

    def allot(self, problem: Problem) -> Sequence[Allotment]:
        """The sizes whose values add up to most."""
        able = sorted((one for one in problem.contenders if one.sizes), key=lambda one: one.order)
        sizes, values = [one.sizes for one in able], [_values(one, problem) for one in able]
        holds = [_index(one) for one in able]
        chosen = better_than_staying(problem.supply, sizes, values, holds)
        pairs = zip(able, chosen, strict=True)
        return [allotted(one.job_id, one.sizes[index]) for one, index in pairs if index >= 0]


def _values(job: Contender, problem: Problem) -> list[float]:
    """What each of its sizes is worth for a round, beyond what it loses when it gets none."""
    weights = problem.weights
    least = min(size.gpus_in_all for size in job.sizes)
    best = max(size.speed for size in job.sizes if size.gpus_in_all == least)
    attained_us = max(job.work_us * ONE // best * least, problem.round_us)
    weight = (attained_us / problem.round_us) ** -weights["attained"] * least
    weight *= 2 ** ((job.priority - 50) / _PRIORITY_HALF)
    found = [weight * size.speed / best for size in job.sizes]
    if job.holds is None:
        return found
    held = weight * job.holds.speed / best
    cost = min(job.restart_us / (problem.round_us * weights["horizon"]) + weights["stay"], _MOVE_MAX)
    return [
        value * (1 + cost) if _same(size, job.holds) else value * (1 - cost) + held * cost
        for size, value in zip(job.sizes, found, strict=True)
    ]


def _index(job: Contender) -> int:
    """Which of its sizes it has, -1 for none."""
    holds = job.holds
    found = (at for at, size in enumerate(job.sizes) if holds is not None and _same(size, holds))
    return next(found, -1)


def _same(one: Size, other: Size) -> bool:
    return (one.gpu_type, one.nodes, one.gpus) == (other.gpu_type, other.nodes, other.gpus)
