"""The sum of a job's factors, in integers.

Why     one number per job orders them all. Priority stays above whatever is weighed, unless the policy weighs
        it (`qos`); and above everything stands what has waited for too long, oldest first, so that no weight
        and no flood of others keeps a job waiting for ever.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bursar_policies.rankers.api import Ints, Waiting
from bursar_policies.rankers.factors import ALL_FACTORS
from bursar_policies.specs import PriorityPolicySpec

STRIDE = 1 << 44
"""From one priority to the next: more than all factors together, at most 7 of them at 1,000 whole weights."""
OVERDUE = 1 << 62
"""The score of every job that has waited for `max_wait`: above all others; among them the oldest is first."""


class Term(NamedTuple):
    """What one factor gives a job. points: millionths of a point. factor: 0..`ONE`. weight: thousandths."""

    name: str
    weight: int
    factor: int
    points: int


def scores(rules: PriorityPolicySpec, waiting: Waiting) -> Ints:
    """Of each job (j); higher comes first, and of equal ones the one submitted first."""
    weights = dict(rules.weights)
    total: Ints = np.zeros(len(waiting.limits_us), dtype=np.int64)
    if "qos" not in weights:
        total += waiting.priorities[waiting.queue] * STRIDE
    for factor in ALL_FACTORS:
        if factor.name in weights:
            total += factor.of(waiting) * weights[factor.name]
    if rules.max_wait_us:
        total[waiting.now - waiting.since_us >= rules.max_wait_us] = OVERDUE
    return total


def points(score: int, priority: int, rules: PriorityPolicySpec) -> int | None:
    """The points in a score of `scores`, millionths; None of what has waited past `max_wait`."""
    if score == OVERDUE:
        return None
    return (score if "qos" in dict(rules.weights) else score - priority * STRIDE) // 1_000


def terms(rules: PriorityPolicySpec, waiting: Waiting, row: int) -> tuple[Term, ...]:
    """What a score is made of, largest first; priority and `max_wait` stand above it."""
    weights = dict(rules.weights)
    found = []
    for factor in ALL_FACTORS:
        if factor.name in weights:
            weight, value = weights[factor.name], int(factor.of(waiting)[row])
            found.append(Term(factor.name, weight, value, weight * value // 1_000))
    return tuple(sorted(found, key=lambda term: (-term.points, term.name)))
