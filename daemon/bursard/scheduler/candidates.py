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
    """`capable`: could hold it when empty. `usable`: capable, ready, not reserved from it. Both bool (n)."""

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
        self.usable_count = int(self.usable.sum())
        self.capable_count = int(capable.sum())


def asks_of(job_class: JobClass) -> tuple[Ask, ...]:
    """One ask per alternative."""
    priced = limits_money(job_class)
    return tuple(
        Ask(option, job_class.constraints, job_class.spot_policy, job_class.avoid_nodes, priced)
        for option in job_class.options
    )
