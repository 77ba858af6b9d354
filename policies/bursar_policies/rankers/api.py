"""The protocol of a factor, and the columns it reads.

Why     100,000 jobs are ranked by a handful of operations on columns. What is the same for all jobs of a
        queue is worked out once per queue and gathered.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

ONE = 1_000_000
"""A factor in full: what counts most."""
SHARE_ONE = 1 << 20
"""The whole cluster, as `Waiting.sizes` count it."""


class Waiting(NamedTuple):
    """Everything that waits, one row per job (j), queue (q) and project (p), int64 but for `queue`.

    Attributes:
        now: the instant of the plan, microseconds. age_full_us, age_power: of the policy.
        queue: intp (j), the row of the queue of each job.
        limits_us: (j) time limits. since_us: (j) instants since when each waits.
        projects: (j) rows of `standings`. deadlines_us: (j) instants by which each is to have ended; 0: none.
        graces_us: (q) for how long past its limit one may hold its place, beyond a minute.
        sizes: (q) the largest share of the cluster's CPUs, memory or GPUs that a job takes, of `SHARE_ONE`.
        priorities: (q) 0..100.
        rooms: (q) what is left of the scarcest budget of the queue, of `ONE`.
        standings: (p) how far below its share each project is, of `ONE`.
    """

    now: int
    age_full_us: int
    age_power: int
    queue: NDArray[np.intp]
    limits_us: Ints
    since_us: Ints
    projects: Ints
    deadlines_us: Ints
    graces_us: Ints
    sizes: Ints
    priorities: Ints
    rooms: Ints
    standings: Ints


class Factor(Protocol):
    """One reason to come first, from 0 to `ONE` per job; more comes earlier. Pure."""

    @property
    def name(self) -> str:
        """As policies and `explain` say it."""
        ...

    def of(self, waiting: Waiting) -> Ints:
        """Of every job, (j)."""
        ...
