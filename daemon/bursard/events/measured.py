"""Events of what was seen of devices: that they do nothing, and what they deliver.

Why     they are no step of a job's life and move no money.
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


class NodeCalibrated(msgspec.Struct, frozen=True, tag="node-calibrated"):
    """What a node delivered, as a job measured it there."""

    node_id: str
    found: Calibration
