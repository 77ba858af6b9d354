"""Constraints of the job file: globs over a node's attributes, and nodes to keep away from.

Why     `zone: eu-*`, `node: "!bad-01"` and `rack: r1,r2` must mean the same in the daemon, the
        simulator and `bursar plan`.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

import numpy as np

from bursar_policies.decision import NodeColumns
from bursar_policies.filters.api import Ask, Mask


def matches(pattern: str, value: str | None) -> bool:
    """Does an attribute's value satisfy a pattern?

    Args:
        pattern: globs separated by commas; `!` before one excludes what it matches.
        value: None when the node has no such attribute: then only exclusions are satisfied.
    """
    wanted = False
    found = False
    for part in pattern.split(","):
        glob = part.strip()
        if glob.startswith("!"):
            if value is not None and fnmatchcase(value, glob[1:].strip()):
                return False
        elif glob:
            wanted = True
            found = found or (value is not None and fnmatchcase(value, glob))
    return found or not wanted


class Constraints:
    """Every (key, pattern) pair of the job holds."""

    name = "constraints"

    def mask(self, nodes: NodeColumns, ask: Ask) -> Mask | None:
        """Nodes whose attributes satisfy all pairs."""
        if not ask.constraints:
            return None
        found = [
            all(matches(pattern, facts.get(key)) for key, pattern in ask.constraints)
            for facts in nodes.attributes
        ]
        return np.array(found, dtype=np.bool_)

    def why_not(self, nodes: NodeColumns, row: int, ask: Ask) -> str:
        """The first pair that fails."""
        facts = nodes.attributes[row]
        for key, pattern in ask.constraints:
            if not matches(pattern, facts.get(key)):
                return f"{key} is {facts.get(key, 'not set')}, you ask {pattern}"
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
