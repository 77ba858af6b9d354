"""Tasks without a number of nodes (`--ntasks=64` alone): on one node that has room, else on several.

Why     Slurm spreads them over as many nodes as it takes. A gang has one size, so the least number of nodes
        is taken that have room for an equal share each; which that is only the nodes of the site can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from bursar.jobfile.site import SiteNode, may, serves
from bursar.model import JobSpec
from bursar.resources import ResourceRequest

By = Literal["node", "task", "job", "gpu"]


class Counted(NamedTuple):
    """What each amount was said for: it stays, or grows with tasks or GPUs, or is shared out."""

    cpus: By
    memory: By
    gpus: By


def spread(
    spec: JobSpec, nodes: Sequence[SiteNode], tasks: int, by: Counted, most: int = 0
) -> tuple[JobSpec, int]:
    """The job on as few nodes as its tasks need, and the tasks of each; as it was, and 0, where one node
    serves or none would do.

    `spec`: with all tasks on one node. `most`: nodes that it may have; 0: any number.
    """
    there = [node for node in nodes if may(node, spec)]
    if any(serves(node, spec, request) for node in there for request in spec.options):
        return spec, 0
    for count in range(2, min(len(there), tasks, most or tasks) + 1):
        each = -(-tasks // count)
        parts = [_part(request, tasks, each, count, by) for request in spec.options]
        options = tuple(part for part in parts if part is not None)
        if len(options) < len(parts):
            continue
        if sum(any(serves(node, spec, part) for part in options) for node in there) >= count:
            return msgspec.structs.replace(spec, options=options, nodes=count), each
    return spec, 0


def _part(request: ResourceRequest, tasks: int, each: int, nodes: int, by: Counted) -> ResourceRequest | None:
    """What a node gives `each` of the tasks; None where its GPUs cannot be shared out evenly."""
    gpus = request.gpus
    before = after = gpus.count if gpus is not None else 0
    if gpus is not None and by.gpus != "node":
        whole, rest = divmod(before * each, tasks) if by.gpus == "task" else divmod(before, nodes)
        if rest or not whole:
            return None
        after, gpus = whole, msgspec.structs.replace(gpus, count=whole)

    def share(amount: int, of: By) -> int:
        if of == "task":
            return amount // tasks * each
        return amount // before * after if of == "gpu" and before else amount

    return ResourceRequest(gpus, share(request.cpu_milli, by.cpus), share(request.memory_bytes, by.memory))
