"""`relative-speed`: GPUs of each type to the jobs that gain most by them.

Source  a matching each round in place of the time fractions of Gavel ("Heterogeneity-aware cluster
        scheduling", OSDI'20), and attained service as in Tiresias (NSDI'19), at the speed of the fastest GPU.
Why     no run time has to be known. A job that is hardly slower on an old GPU leaves the new one to another
        that is four times slower there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bursar_policies.allocators.api import ONE, Allotment, Contender, Problem, Size, Supply, Weight, allotted
from bursar_policies.allocators.fair import FAIR, fairly, weight_of
from bursar_policies.allocators.solve import better_than_staying

_MOVE_MAX = 0.95
"""No move costs more than this share of what it is to gain."""


class RelativeSpeed:
    """See above.

    Weights:
        attained: how much less counts who has had more: a job's weight is its attained GPU time to the power
            of minus this. 0: it does not matter.
        horizon: rounds over which a move must pay for what it costs.
        stay: a move must gain more than this share of what the job has now, whatever it costs.
        fair: which part of an equal share of the GPUs each job is sure of, whatever others say.
    """

    name = "relative-speed"
    weights: Mapping[str, Weight] = {
        "attained": Weight(0.1, 0, 4),
        "horizon": Weight(4, 1, 1_000),
        "stay": Weight(0.02, 0, 1),
        "fair": FAIR,
    }

    def allot(self, problem: Problem) -> Sequence[Allotment]:
        """The sizes whose values add up to most."""
        able = sorted((one for one in problem.contenders if one.sizes), key=lambda one: one.order)
        sizes, values = [one.sizes for one in able], [_values(one, problem) for one in able]
        holds = [_index(one) for one in able]

        def solve(supply: Sequence[Supply], jobs: Sequence[int]) -> list[int]:
            theirs = [sizes[job] for job in jobs], [values[job] for job in jobs]
            return better_than_staying(supply, *theirs, [holds[job] for job in jobs])

        chosen = fairly(problem, able, solve)
        pairs = zip(able, chosen, strict=True)
        return [allotted(one.job_id, one.sizes[index]) for one, index in pairs if index >= 0]


def _values(job: Contender, problem: Problem) -> list[float]:
    """What each of its sizes is worth for a round, beyond what it loses when it gets none."""
    weights = problem.weights
    # By the GPU, so that no size counts more than its GPUs, however fast it is said to be.
    best = max(max(size.speed / size.gpus_in_all for size in job.sizes), 1)
    attained_us = max(int(job.work_us * ONE / best), problem.round_us)
    weight = (attained_us / problem.round_us) ** -weights["attained"] * weight_of(job.priority)
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
