"""`goodput`: how large each job runs, and on which GPUs, so that all together get on best.

Source  the objective is that of "Sia: Heterogeneity-aware, goodput-optimized ML-cluster scheduling"
        (SOSP'23): each job's speeds relative to its slowest size, to a power below zero, so that the first
        GPUs of a job are worth more than its next ones; what a restart costs discounts every size that a job
        does not hold.
Why     a job that gains little by its last four GPUs gives them to one that gains more, every round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from bursar_policies.allocators.api import Allotment, Contender, Problem, Size, Supply, Weight, allotted
from bursar_policies.allocators.fair import FAIR, believed, fairly, weight_of
from bursar_policies.allocators.solve import best_choice

_LEAST = 1e-9


class Goodput:
    """See above.

    Weights:
        power: of a size's speed relative to the slowest. Below zero the first GPUs count most; the nearer to
            1, the more is given to those who use many GPUs well. 0: its logarithm.
        waiting: how much more than at its slowest size a job that runs is worth than one that waits.
        attained: how much less counts who has had more: the worth of a job is what it has had, in GPUs times
            rounds, to the power of minus this.
        stay: a move must gain more than this share of what the job has now, whatever it costs.
        fair: which part of an equal share of the GPUs each job is sure of, whatever others say.
    """

    name = "goodput"
    weights: Mapping[str, Weight] = {
        "power": Weight(-0.5, -4, 1),
        "waiting": Weight(1, 0, 100),
        "attained": Weight(0, 0, 4),
        "stay": Weight(0.02, 0, 1),
        "fair": FAIR,
    }

    def allot(self, problem: Problem) -> Sequence[Allotment]:
        """The sizes whose worth adds up to most."""
        able = [one for one in problem.contenders if one.sizes]
        worths = [_worths(one, problem) for one in able]

        def solve(supply: Sequence[Supply], jobs: Sequence[int]) -> list[int]:
            return best_choice(supply, [able[job].sizes for job in jobs], [worths[job] for job in jobs])

        chosen = fairly(problem, able, solve)
        pairs = zip(able, chosen, strict=True)
        return [allotted(one.job_id, one.sizes[index]) for one, index in pairs if index >= 0]


def _worths(job: Contender, problem: Problem) -> list[float]:
    """What each of its sizes is worth, beyond what the job is worth when it waits."""
    weights = problem.weights
    speeds = believed(job.sizes)
    slowest = max(min(speeds), 1)
    power = weights["power"]
    weight = weight_of(job.priority)
    weight *= max(job.held_us / problem.round_us, 1) ** -weights["attained"]
    lost = _kept_by_a_restart(job)
    found = []
    for size, speed in zip(job.sizes, speeds, strict=True):
        held = job.holds is not None and _alike(size, job.holds)
        relative = speed / slowest * (1 if held or job.holds is None else lost)
        worth = weight * (_gain(max(relative, _LEAST), power) + weights["waiting"])
        found.append(worth * (1 + weights["stay"]) if held else worth)
    return found


def _gain(relative: float, power: float) -> float:
    """More than the slowest size is worth: 0 there, rising with the speed, ever slower below a power of 1."""
    return (relative**power - 1) / abs(power) * (1 if power > 0 else -1) if power else math.log(relative)


def _kept_by_a_restart(job: Contender) -> float:
    """What of its speed is left on average over its life when it is stopped once more, as Pollux has it."""
    age_us, cost_us = max(job.age_us, 1), max(job.restart_us, 1)
    return float(max(age_us - job.restarts * cost_us, 0) / (age_us + cost_us))


def _alike(one: Size, other: Size) -> bool:
    return (one.gpu_type, one.nodes, one.gpus) == (other.gpu_type, other.nodes, other.gpus)
