"""Room that is kept for short jobs: what a long one must leave free.

Owns    `Kept`: what a PriorityPolicy's `short_jobs` keeps of all CPUs, memory and GPUs, and how much
        of that is still free as one plan spends it.
Why     a site that long jobs fill to the last processor makes every short one wait for hours. A part that
        they alone may use turns over by the minute, and costs long jobs little.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bursar.resources import MILLI, ResourceRequest
from bursar_policies.decision import JobClass, NodeColumns, Placement
from bursar_policies.specs import PPM, PriorityPolicySpec
from bursard.scheduler.free import Free

NAMES = ("CPUs", "memory", "GPUs")
MEMORY = 1
Amounts = tuple[int, int, int]
"""Thousandths of CPUs, bytes, thousandths of GPUs."""


class Short(NamedTuple):
    """A start would leave less of one of `NAMES` free than is kept: `left` of `total`, `kept` must stay."""

    which: int
    left: int
    kept: int
    total: int


class Kept:
    """Of all ready nodes together; whoever takes room calls `take`.

    Attributes:
        limit_us: jobs with a longer time limit must leave the room that is kept.
    """

    def __init__(self, rules: PriorityPolicySpec, nodes: NodeColumns, free: Free) -> None:
        self.limit_us = rules.short_limit_us
        ready = nodes.ready
        columns = (nodes.cpu_total, nodes.memory_total, nodes.gpu_total)
        cpus, memory, gpus = (sum(column[ready].tolist()) for column in columns)
        self._totals: Amounts = (cpus, memory, gpus * MILLI)
        self._kept = tuple(-(-total * rules.kept_ppm // PPM) for total in self._totals)
        have = (free.cpu, free.memory, free.gpus.clip(0).sum(axis=1))
        self._free = [sum(column[ready].tolist()) for column in have]

    def binds(self, job_class: JobClass, limit_us: int) -> bool:
        """Must such a job leave it? One that no cluster of this size could hold beside it need not, or it
        would never start.
        """
        if limit_us <= self.limit_us:
            return False
        return all(self._holds_beside(job_class, option) for option in job_class.options)

    def _holds_beside(self, job_class: JobClass, request: ResourceRequest) -> bool:
        parts = zip(asked_of(request, job_class.nodes), self._kept, self._totals, strict=True)
        return all(asked + kept <= total for asked, kept, total in parts if asked)

    def short(self, request: ResourceRequest, nodes: int) -> Short | None:
        """What would be left too little of, of what is asked for; None when enough stays."""
        for which, asked in enumerate(asked_of(request, nodes)):
            left = self._free[which] - asked
            if asked and left < self._kept[which]:
                return Short(which, left, self._kept[which], self._totals[which])
        return None

    def take(self, members: Iterable[Placement]) -> None:
        """These start."""
        for member in members:
            self._free[0] -= member.cpu_milli
            self._free[1] -= member.memory_bytes
            self._free[2] -= sum(share.milli for share in member.devices)


def asked_of(request: ResourceRequest, nodes: int) -> Amounts:
    """What all members of a job take together."""
    gpus = request.gpus.count * request.gpus.milli if request.gpus is not None else 0
    return nodes * request.cpu_milli, nodes * request.memory_bytes, nodes * gpus
