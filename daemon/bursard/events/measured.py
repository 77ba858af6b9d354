"""Events beside the life of a job: what was seen of devices, and who went into its processes.

Why     they are no step of that life and move no money.
"""

from __future__ import annotations

import msgspec

from bursar.model import Calibration


class AttemptIdle(msgspec.Struct, frozen=True, tag="attempt-idle"):
    """Every device of an attempt does nothing, for `idle_us` so far. `ends_in_us`: unless that changes, it is
    stopped then, as its idle policy says; 0: it is told alone.
    """

    attempt_id: str
    idle_us: int
    ends_in_us: int


class AttemptAttached(msgspec.Struct, frozen=True, tag="attempt-attached"):
    """Its actor was let into a member that runs. `kind`: program, one of theirs there; ports, connections to
    those of the job.
    """

    attempt_id: str
    rank: int
    kind: str


class NodeCalibrated(msgspec.Struct, frozen=True, tag="node-calibrated"):
    """What a node delivered, as a job measured it there."""

    node_id: str
    found: Calibration
