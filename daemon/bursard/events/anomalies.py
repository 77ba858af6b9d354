"""Events about what cost more than its like.

Why     what was told of it is a fact: it is told once, and a restart of the daemon does not tell it again.
"""

from __future__ import annotations

import msgspec


class AnomalyFound(msgspec.Struct, frozen=True, tag="anomaly-found", kw_only=True, omit_defaults=True):
    """A day of a project, or a run of it, cost more than its like did before.

    Attributes:
        name: the project. what: day | run.
        day: where that day of UTC begins; of a run, when it ended.
        nanos, usual_nanos: what it had cost when this was found, and what its like cost.
        lines: what most of it was spent in, in words.
        job_number, run: of a run, its job and that one's name.
    """

    name: str
    what: str
    day: int
    nanos: int
    usual_nanos: int
    lines: str
    job_number: int = 0
    run: str = ""
