"""Rankers: in which order waiting jobs are looked at.

Why     a PriorityPolicy weighs factors, each of them an integer from 0 to a million per job, so that the same
        input gives the same order on every machine and a sum can be shown term by term.
"""

from bursar_policies.rankers.api import ONE, SHARE_ONE, Factor, Waiting
from bursar_policies.rankers.factors import ALL_FACTORS
from bursar_policies.rankers.fairness import standings
from bursar_policies.rankers.score import OVERDUE, STRIDE, Term, points, scores, terms

__all__ = [
    "ALL_FACTORS",
    "ONE",
    "OVERDUE",
    "SHARE_ONE",
    "STRIDE",
    "Factor",
    "Term",
    "Waiting",
    "points",
    "scores",
    "standings",
    "terms",
]
