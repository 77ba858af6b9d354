"""`sinfo`: nodes in Slurm's columns, by pool and state or one by one.

Why     scripts count its lines and look for idle nodes before they submit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from bursar.steps import listing
from bursar.steps.hosts import compress_hosts, expand_hosts
from bursar.steps.listing import Row, Words, filled, known_letters, letters_of, long_form
from bursar.steps.programs import LABELS as PROGRAMS


def _node_state(node: Row) -> str:
    if node["state"] in ("draining", "drained", "cordoned"):
        return "drain"
    if node["state"] != "up":
        return "down"
    if not node.get("jobs"):
        return "idle"
    free = node.get("cpus_free", 0) > 0 and (not node.get("gpus") or node.get("gpus_free", 0) > 0)
    return "mix" if free else "alloc"


def gpus_of(nodes: Sequence[Row]) -> str:
    """Their GPUs as `--gres` writes them."""
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


def _free_mib(node: Row) -> int:
    return int(node.get("memory_free_bytes") or 0) // 1024**2


def _range(nodes: Sequence[Row], of: Callable[[Row], int]) -> str:
    counts = [of(node) for node in nodes]
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}"


def _node_counts(nodes: Sequence[Row]) -> str:
    states = [_node_state(node) for node in nodes]
    used, idle = sum(one in ("mix", "alloc") for one in states), states.count("idle")
    return f"{used}/{idle}/{len(states) - used - idle}/{len(states)}"


def partition_of(node: Row) -> str:
    """Its label `partition`, or its pool: what `--partition` of a job names."""
    return str((node.get("labels") or {}).get("partition") or node["pool"])


def features_of(node: Row) -> str:
    """What `--constraint` of a job may name: its labels, and the type of its GPUs."""
    labels = {name for name in node.get("labels") or {} if name not in ("partition", *PROGRAMS)}
    return ",".join(sorted({*labels, *(kind.lower() for kind in node.get("gpu_types") or ())})) or "(null)"


_WHOLE_STATE: Final[Mapping[str, str]] = {"alloc": "allocated", "mix": "mixed", "drain": "drained"}


def state_of(node: Row) -> str:
    """The long name of its state."""
    return _WHOLE_STATE.get(_node_state(node), _node_state(node))


NODES: Final[Mapping[str, tuple[str, Callable[[Sequence[Row]], str]]]] = {
    "P": ("PARTITION", lambda nodes: partition_of(nodes[0])),
    "R": ("PARTITION", lambda nodes: partition_of(nodes[0])),
    "a": ("AVAIL", lambda nodes: "up"),
    "l": ("TIMELIMIT", lambda nodes: "infinite"),
    "D": ("NODES", lambda nodes: str(len(nodes))),
    "t": ("STATE", lambda nodes: _node_state(nodes[0])),
    "T": ("STATE", lambda nodes: state_of(nodes[0])),
    "N": ("NODELIST", lambda nodes: compress_hosts(node["name"] for node in nodes)),
    "n": ("HOSTNAMES", lambda nodes: ",".join(node["name"] for node in nodes)),
    "o": ("NODE_ADDR", lambda nodes: ",".join(str(node.get("address") or node["name"]) for node in nodes)),
    "c": ("CPUS", lambda nodes: _least(nodes, lambda node: int(node["cpus"]))),
    "m": ("MEMORY", lambda nodes: _least(nodes, lambda node: int(node["memory_bytes"]) // 1024**2)),
    "e": ("FREE_MEM", lambda nodes: _range(nodes, _free_mib)),
    "G": ("GRES", gpus_of),
    "f": ("AVAIL_FEATURES", lambda nodes: features_of(nodes[0])),
    "b": ("ACTIVE_FEATURES", lambda nodes: features_of(nodes[0])),
    "E": ("REASON", lambda nodes: str(nodes[0].get("reason") or "none")),
    "C": ("CPUS(A/I/O/T)", _cpu_counts),
    "A": ("NODES(A/I)", lambda nodes: "/".join(_node_counts(nodes).split("/")[:2])),
    "F": ("NODES(A/I/O/T)", _node_counts),
    "s": ("JOB_SIZE", lambda nodes: "1-infinite"),
    "h": ("OVERSUBS", lambda nodes: "NO"),
    "g": ("GROUPS", lambda nodes: "all"),
}
"""Columns of `sinfo`, of the nodes of one line."""
_LONG_NAMES: Final[Mapping[str, str]] = {
    "NodeList": "N", "NodeHost": "n", "NodeAddr": "o", "Partition": "P", "PartitionName": "R",
    "Available": "a", "Time": "l", "Nodes": "D", "StateCompact": "t", "StateLong": "T", "State": "T",
    "CPUs": "c", "CPUsState": "C", "Memory": "m", "FreeMem": "e", "Gres": "G", "Features": "f",
    "Features_act": "b", "Reason": "E", "NodeAI": "A", "NodeAIOT": "F", "Size": "s", "OverSubscribe": "h",
    "Groups": "g",
}  # fmt: skip
_APART: Final = "PRtTGfbEno"
"""Columns of which a line has one value: nodes that differ in one that is printed are lines of their own."""
_EXACTLY: Final = "cme"
"""Likewise with --exact; without it they say the least, or from where to where."""
_SHORT_STATE: Final = {long: short for short, long in _WHOLE_STATE.items()} | {
    "draining": "drain",
    "drng": "drain",
}
_STATES: Final = ("idle", "alloc", "mix", "drain", "down")
_NEVER: Final = (
    "blocked", "comp", "completing", "fail", "failing", "future", "maint", "no_respond", "perfctrs",
    "planned", "power_down", "power_up", "powered_down", "powering_down", "powering_up", "reboot", "resv",
    "reserved", "unk", "unknown",
)  # fmt: skip
"""States of Slurm in which no node of bursar is."""
_FORM: Final = "%9P %.5a %.10l %.6D %.6t %N"
_LONG_FORM: Final = "%9P %.5a %.10l %.10s %.8h %.10g %.6D %.11T %N"
_SUMMARY: Final = "%9P %.5a %.10l %.16F %N"
_BY_NODE: Final = "%10N %.6D %.9P %.5t"
_LONG_BY_NODE: Final = "%10N %.6D %.9P %.11T %.4c %.8m %.8f %20E"


def _form(found: Mapping[str, str]) -> str:
    if "Format" in found:
        return long_form(found["Format"], _LONG_NAMES)
    if "Node" in found:
        form = _LONG_BY_NODE if "long" in found else _BY_NODE
    else:
        form = _SUMMARY if "summarize" in found else _LONG_FORM if "long" in found else _FORM
    return found.get("format", form)


def _states(text: str) -> list[str]:
    """Short names. Raises `ValueError` for what is no state."""
    found = [_SHORT_STATE.get(one.lower(), one.lower()) for one in text.split(",") if one]
    for one in found:
        if one not in (*_STATES, *_NEVER, "all"):
            raise ValueError(f"{one} is no state of nodes; these are: {' '.join(_STATES)}")
    return [] if "all" in found else found


def _wanted(found: Mapping[str, str]) -> list[Row]:
    """The nodes that all filters let through. Raises `ValueError` for a partition that there is not."""
    nodes: list[Row] = listing.ask("nodes")
    names = expand_hosts(found["nodes"]) if found.get("nodes") else None
    states = _states(found.get("states", ""))
    states += [*_STATES[:4]] if "responding" in found else ["down"] if "dead" in found else []
    asked = found["partition"].split(",") if found.get("partition") else None
    there = {name for node in nodes for name in (partition_of(node), node["pool"])}
    for one in asked or ():
        if one not in there:
            raise ValueError(f"there is no partition {one}; these are: {' '.join(sorted(there))}")
    return [
        node
        for node in nodes
        if (names is None or node["name"] in names)
        and (asked is None or not {partition_of(node), node["pool"]}.isdisjoint(asked))
        and (not states or _node_state(node) in states)
    ]


def sinfo(arguments: Sequence[str]) -> int:
    """Nodes, together where nothing that is printed differs, or one by one; the exit code."""
    words = Words(
        arguments,
        "noheader/h summarize/s Node/N long/l all/a exact/e responding/r dead/d",
        "partition/p nodes/n states/t format/o Format/O",
    )
    found = words.found
    form = _form(found)
    known_letters(form, NODES)
    printed = letters_of(form)
    apart = [letter for letter in _APART + _EXACTLY * ("exact" in found) if letter in printed]
    groups: dict[tuple[str, ...], list[Row]] = {}
    for node in _wanted(found):
        own = [NODES[letter][1]([node]) for letter in apart]
        key = (node["name"], *own) if "Node" in found else tuple(own)
        groups.setdefault(key, []).append(node)
    if "noheader" not in found:
        sys.stdout.write(filled(form, lambda letter: NODES[letter][0]))
    for _, nodes in sorted(groups.items(), key=lambda item: item[0]):
        sys.stdout.write(filled(form, lambda letter, nodes=nodes: NODES[letter][1](nodes)))  # type: ignore[misc]
    return 0
