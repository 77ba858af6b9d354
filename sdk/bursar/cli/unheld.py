"""What nodes cannot hold jobs to: said where somebody would take what a job asks for as a limit.

Why     without a cgroup a job that asks for 4 GB may take 40. `plan` and `doctor` say so; who starts a
        cluster, looks at it or at a job has not read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from bursar.cli.output import Row
from bursar.cli.terminal import clean
from bursar.errors import BursarError

if TYPE_CHECKING:
    from bursar.client import WireClient

_LIMITS: Final = ("memory", "cpu", "pids")
_LIVE: Final = ("STARTING", "RUNNING", "STOPPING")


def not_held(limits: Iterable[str]) -> list[str]:
    """What a node that can hold jobs to these cannot hold them to."""
    held = set(limits)
    return [name for name in _LIMITS if name not in held]


def said_of(nodes: Sequence[tuple[str, Iterable[str]]]) -> str:
    """One sentence on nodes, each by name with the limits that it holds; empty where all hold all."""
    lacking: dict[tuple[str, ...], list[str]] = {}
    for name, limits in nodes:
        if names := tuple(not_held(limits)):
            lacking.setdefault(names, []).append(clean(name))
    parts = [f"{', '.join(names)} on {', '.join(where)}" for names, where in lacking.items()]
    if not parts:
        return ""
    return f"jobs can take more than they ask for of {'; '.join(parts)} (see `bursar doctor`)"


def of_job(client: WireClient, row: Row) -> str:
    """The same of a job that runs, of its first node; empty where nothing is to say of it."""
    attempts: list[Any] = row["attempts"]
    if row["state"] not in _LIVE or not attempts or not attempts[-1]["nodes"]:
        return ""
    name = attempts[-1]["nodes"][0]["node"]
    try:
        limits = client.node(name).facts.limits
    except BursarError:
        return ""
    lacking = ", ".join(not_held(limits))
    return f"it can take more than it asks for of {lacking} (see `bursar doctor`)" if lacking else ""
