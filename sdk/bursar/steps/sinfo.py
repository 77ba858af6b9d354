"""`sinfo`: nodes in Slurm's columns, by pool and state or one by one.

Why     scripts count its lines and look for idle nodes before they submit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from bursar.steps import listing
from bursar.steps.hosts import compress_hosts, expand_hosts
from bursar.steps.listing import Row, Words, filled, known_letters


def _node_state(node: Row) -> str:
    if node["state"] in ("draining", "drained", "cordoned"):
        return "drain"
    if node["state"] != "up":
        return "down"
    if not node.get("jobs"):
        return "idle"
    free = node.get("cpus_free", 0) > 0 and (not node.get("gpus") or node.get("gpus_free", 0) > 0)
    return "mix" if free else "alloc"


def _gpus_of(nodes: Sequence[Row]) -> str:
    kinds = ((node, (node["gpu_types"] or ["any"])[0].lower()) for node in nodes if node["gpus"])
    found = {f"gpu:{kind}:{node['gpus']:g}" for node, kind in kinds}
    return ",".join(sorted(found)) or "(null)"


def _least(nodes: Sequence[Row], of: Callable[[Row], int]) -> str:
    counts = {of(node) for node in nodes}
    return f"{min(counts)}{'+' if len(counts) > 1 else ''}"


def _cpu_counts(nodes: Sequence[Row]) -> str:
    total, free = sum(int(node["cpus"]) for node in nodes), 0
    for node in nodes:
        free += int(node["cpus_free"]) if _node_state(node) in ("idle", "mix", "alloc") else 0
    other = sum(int(node["cpus"]) for node in nodes if _node_state(node) in ("down", "drain"))
    return f"{total - free - other}/{free}/{other}/{total}"


_WHOLE_STATE: Final[Mapping[str, str]] = {"alloc": "allocated", "mix": "mixed", "drain": "drained"}
NODES: Final[Mapping[str, tuple[str, Callable[[Sequence[Row]], str]]]] = {
    "P": ("PARTITION", lambda nodes: str(nodes[0]["pool"])),
    "R": ("PARTITION", lambda nodes: str(nodes[0]["pool"])),
    "a": ("AVAIL", lambda nodes: "up"),
    "l": ("TIMELIMIT", lambda nodes: "infinite"),
    "D": ("NODES", lambda nodes: str(len(nodes))),
    "t": ("STATE", lambda nodes: _node_state(nodes[0])),
    "T": ("STATE", lambda nodes: _WHOLE_STATE.get(_node_state(nodes[0]), _node_state(nodes[0]))),
    "N": ("NODELIST", lambda nodes: compress_hosts(node["name"] for node in nodes)),
    "n": ("HOSTNAMES", lambda nodes: ",".join(node["name"] for node in nodes)),
    "c": ("CPUS", lambda nodes: _least(nodes, lambda node: int(node["cpus"]))),
    "m": ("MEMORY", lambda nodes: _least(nodes, lambda node: int(node["memory_bytes"]) // 1024**2)),
    "G": ("GRES", _gpus_of),
    "C": ("CPUS(A/I/O/T)", _cpu_counts),
}
"""Columns of `sinfo`, of the nodes of one line."""
_SHORT_STATE: Final = {long: short for short, long in _WHOLE_STATE.items()}
_SINFO: Final = "%9P %.5a %.10l %.6D %.6t %N"
_SINFO_NODES: Final = "%10N %.6D %.9P %.5t"


def sinfo(arguments: Sequence[str]) -> int:
    """Nodes by pool and state, or one by one; the exit code."""
    words = Words(arguments, "noheader/h summarize/s Node/N", "partition/p nodes/n states/t format/o")
    found = words.found
    alone = "Node" in found
    form = found.get("format", _SINFO_NODES if alone else _SINFO)
    known_letters(form, NODES)
    names = expand_hosts(found["nodes"]) if found.get("nodes") else None
    states = [_SHORT_STATE.get(one.lower(), one.lower()) for one in found.get("states", "").split(",") if one]
    groups: dict[tuple[str, str], list[Row]] = {}
    for node in listing.ask("nodes"):
        state = _node_state(node)
        pools = found.get("partition", node["pool"]).split(",")
        named = names is None or node["name"] in names
        if named and node["pool"] in pools and (not states or state in states):
            groups.setdefault((node["pool"], node["name"] if alone else state), []).append(node)
    if "noheader" not in found:
        sys.stdout.write(filled(form, lambda letter: NODES[letter][0]))
    for _, nodes in sorted(groups.items(), key=lambda item: item[0]):
        sys.stdout.write(filled(form, lambda letter, nodes=nodes: NODES[letter][1](nodes)))  # type: ignore[misc]
    return 0
