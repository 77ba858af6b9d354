"""What constraints of a job ask nodes for: which attributes a node has, and when a pattern holds.

Why     `zone: eu-*`, `node: "!bad-01"` and `rack: r1,r2` must mean the same wherever nodes are looked at: in
        the daemon, the simulator, and where a script's words become sizes of the nodes that it may have.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final, Protocol

TOPOLOGY: Final = "topology"
"""The constraint that is of all members of a gang together, and of no node."""
TOGETHER: Final = {"same-rack": "rack", "same-zone": "zone", "same-region": "region", "same-pool": "pool"}
"""What it may say, and which field of their nodes is then the same."""

CONTAINERS: Final = "containers"
"""The label of a node that runs containers: with which runtime, and its version."""
CONTAINER_GPUS: Final = "container-gpus"
"""The label of one that gives them its devices, and how."""

PLACE_FIELDS: Final = ("pool", "provider", "region", "zone", "rack", "instance_type", "market")
"""Fields of a node's facts that say where and what it is."""


_READ_OTHERWISE: Final = frozenset(",!*?[]'\"")


def shown(value: str) -> str:
    """A value as sentences name it: in quotes where a list or a pattern would read it otherwise."""
    return value if _READ_OTHERWISE.isdisjoint(value) and value == value.strip() else repr(value)


class Named(Protocol):
    """Facts of a node, ours or the wire's, with `PLACE_FIELDS` beside its name."""

    @property
    def name(self) -> str:
        """Of the node."""
        ...


def attributes(facts: Named, labels: Mapping[str, str]) -> dict[str, str]:
    """By key, what constraints ask of: its name as `node`, its place, and its labels behind these."""
    return {**labels, "node": facts.name, **{key: getattr(facts, key) for key in PLACE_FIELDS}}


def matches(pattern: str, value: str | None) -> bool:
    """Does an attribute's value satisfy a pattern?

    Args:
        pattern: globs separated by commas; `!` before one excludes what it matches. What is the value itself,
            to the letter, is satisfied by it: a rack may be called `r,s`.
        value: None when the node has no such attribute: then only exclusions are satisfied.
    """
    if pattern == value:
        return True
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
