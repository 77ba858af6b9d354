"""Constraints of the job file over a node's attributes (`bursar.model.constraints`), and nodes to avoid."""

from __future__ import annotations

from typing import Final

import numpy as np

from bursar.model.constraints import CONTAINER_GPUS, CONTAINERS, matches, shown
from bursar_policies.decision import NodeColumns
from bursar_policies.filters.api import Ask, Mask

MISSING: Final = {
    CONTAINERS: "no container runtime works on it, and the job has an image",
    CONTAINER_GPUS: "its containers get no GPUs, and the job has an image",
}


class Constraints:
    """Every (key, pattern) pair of the job holds, and it has what all members are to have in common."""

    name = "constraints"

    def mask(self, nodes: NodeColumns, ask: Ask) -> Mask | None:
        """Nodes whose attributes satisfy all pairs."""
        if not ask.constraints and not ask.together:
            return None
        found = [
            all(matches(pattern, facts.get(key)) for key, pattern in ask.constraints)
            and (not ask.together or bool(facts.get(ask.together)))
            for facts in nodes.attributes
        ]
        return np.array(found, dtype=np.bool_)

    def why_not(self, nodes: NodeColumns, row: int, ask: Ask) -> str:
        """The first pair that fails."""
        facts = nodes.attributes[row]
        for key, pattern in ask.constraints:
            if not matches(pattern, facts.get(key)) and key in MISSING and pattern == "*":
                return MISSING[key]
            if not matches(pattern, facts.get(key)):
                value = facts.get(key)
                return f"{key} is {'not set' if value is None else shown(value)}, you ask {pattern}"
        if ask.together and not facts.get(ask.together):
            return f"{ask.together} is not set, and all members are to be in the same one"
        return "does not match the constraints"


class AvoidNodes:
    """Nodes an earlier attempt failed on, with `retry.avoid_same_node`."""

    name = "avoid_same_node"

    def mask(self, nodes: NodeColumns, ask: Ask) -> Mask | None:
        """All but the nodes to avoid."""
        if not ask.avoid_nodes:
            return None
        return np.array([node_id not in ask.avoid_nodes for node_id in nodes.ids], dtype=np.bool_)

    def why_not(self, nodes: NodeColumns, row: int, ask: Ask) -> str:
        """An earlier attempt failed there."""
        return "an earlier attempt failed here and retry.avoid_same_node is set"
