"""Events beside the life of a job: what was seen of devices, and who went into its processes.

Why     they are no step of that life and move no money.
"""

from __future__ import annotations

import msgspec

from bursar.model import Calibration


class AttemptIdle(msgspec.Struct, frozen=True, tag="attempt-idle"):
    """Every device of an attempt does nothing, for `idle_us` so far. `ends_in_us`: unless that changes, it is
    acted on then, as its idle policy says; 0: it is told alone.

    Attributes:
        policy: the name of the IdlePolicy; empty: of the job itself. ground: gpu | cpu | attendance.
        action: what is done then. by: what that was read from (`bursar_policies.idleness.Sight`).
        most_ppm: the largest share of work that was seen in it. memory_bytes: of devices, that it held
            meanwhile; -1: not known.
        cost_nanos: what it cost so long, at its rate; -1: not known.
    """

    attempt_id: str
    idle_us: int
    ends_in_us: int
    policy: str = ""
    ground: str = "gpu"
    action: str = "stop"
    by: str = ""
    most_ppm: int = 0
    memory_bytes: int = -1
    cost_nanos: int = -1


class IdleSeen(msgspec.Struct, frozen=True, tag="attempt-idle-seen"):
    """It has been idle for so long, and nothing follows yet: kept so that a restart knows."""

    attempt_id: str
    policy: str
    ground: str
    idle_us: int
    most_ppm: int


class IdleOver(msgspec.Struct, frozen=True, tag="attempt-idle-over"):
    """What was kept of its idleness counts no more. `why`: busy | unknown | snoozed."""

    attempt_id: str
    policy: str
    ground: str
    why: str


class IdleActed(msgspec.Struct, frozen=True, tag="attempt-idle-acted"):
    """An idle policy ends the attempt, on this evidence; the fields are those of `AttemptIdle`. What is done
    is told by the events after it.
    """

    attempt_id: str
    idle_us: int
    policy: str
    ground: str
    action: str
    by: str
    most_ppm: int
    memory_bytes: int = -1
    cost_nanos: int = -1


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
