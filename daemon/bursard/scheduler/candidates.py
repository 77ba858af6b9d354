"""Which nodes may serve an ask, whatever runs there: what every filter says, and readiness.

Why     it rests on facts alone, so it is computed once per ask; reasons need no more than this.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bursar_policies.decision import JobClass, NodeColumns
from bursar_policies.filters import FILTERS, Ask
from bursard.scheduler.admit import limits_money
from bursard.scheduler.windows import Windows


class Candidates:
    """`capable`: could hold it when empty. `usable`: capable, ready, not reserved from it. Both bool (n).

    Attributes:
        usable_count, capable_count: so many members these can have at once: all of these nodes, or the most
            that are together, where members must be.
        domain: int64 (n), which nodes are together, where members must be; else None.
    """

    def __init__(self, ask: Ask, nodes: NodeColumns, windows: Windows | None = None) -> None:
        self.ask = ask
        self.request = ask.request
        capable = np.ones(len(nodes.ids), dtype=np.bool_)
        for rule in FILTERS:
            mask = rule.mask(nodes, ask)
            if mask is not None:
                capable &= mask
        self.capable: NDArray[np.bool_] = capable
        usable: NDArray[np.bool_] = capable & nodes.ready
        self.usable = usable if windows is None else windows.left(ask, usable)
        self.domain = domains(nodes, ask.together) if ask.together else None
        self.usable_count = self.most(self.usable)
        self.capable_count = self.most(capable)

    def most(self, mask: NDArray[np.bool_]) -> int:
        """So many members at once these nodes (n) can have."""
        if self.domain is None:
            return int(mask.sum())
        return int(np.bincount(self.domain[mask]).max(initial=0))

    def groups(self, rows: NDArray[np.intp], count: int) -> list[NDArray[np.intp]]:
        """Of these nodes, those that are together, where so many are."""
        if self.domain is None:
            return [rows] if len(rows) >= count else []
        rows = rows[np.argsort(self.domain[rows], kind="stable")]
        _, first = np.unique(self.domain[rows], return_index=True)
        return [some for some in np.split(rows, first[1:]) if len(some) >= count]


def domains(nodes: NodeColumns, key: str) -> NDArray[np.int64]:
    """Which nodes (n) have an attribute in common: the same number."""
    values = np.array([facts.get(key, "") for facts in nodes.attributes], dtype=np.str_)
    numbers: NDArray[np.int64] = np.unique(values, return_inverse=True)[1].astype(np.int64)
    return numbers


def asks_of(job_class: JobClass) -> tuple[Ask, ...]:
    """One ask per alternative."""
    parts = (job_class.where, job_class.spot_policy, job_class.avoid_nodes, limits_money(job_class))
    return tuple(Ask(option, *parts, together=job_class.together) for option in job_class.options)
