"""Scorers: how good a node looks after it took a member. Lower is better.

Why     price decides first (the scheduler does that); among equally cheap nodes the sum of these
        decides, and each says what it measures so that `explain` and a bench can weigh it alone.
"""

from bursar_policies.scorers.api import NodeState, NodeStates, Scorer
from bursar_policies.scorers.best_fit import BestFit, OpenedDevices
from bursar_policies.scorers.consolidation import Consolidation
from bursar_policies.scorers.fragmentation import Fragmentation
from bursar_policies.scorers.scarcity import Scarcity
from bursar_policies.scorers.starvation import Starvation
from bursar_policies.scorers.strategy import Weights, scorers_for, weighted

__all__ = [
    "BestFit",
    "Consolidation",
    "Fragmentation",
    "NodeState",
    "NodeStates",
    "OpenedDevices",
    "Scarcity",
    "Scorer",
    "Starvation",
    "Weights",
    "scorers_for",
    "weighted",
]
