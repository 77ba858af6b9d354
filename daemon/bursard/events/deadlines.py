"""Events of deadlines: what was promised to a job that waits, and that it will not be kept."""

from __future__ import annotations

import msgspec

from bursar.model import DeviceShare


class PromisedMember(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept for one member of it."""

    node_id: str
    cpu_milli: int
    memory_bytes: int
    devices: tuple[DeviceShare, ...] = ()


class DeadlinePromised(msgspec.Struct, frozen=True, tag="deadline-promised", omit_defaults=True):
    """A job ends by its deadline, unless the world breaks it. Told again when its place is another one.

    Attributes:
        by: the deadline. start, until: from when to when its place is kept; it begins by `start`.
        option: of its alternatives.
        rate: nanos per hour of all of it there, -1 for unknown. nanos: its worst case there, which is set
            aside in each of its budgets until it begins.
    """

    job_id: str
    by: int
    start: int
    until: int
    option: int
    rate: int
    nanos: int
    currency: str
    members: tuple[PromisedMember, ...]
    gpu_type: str = ""
    time_limit_us: int = 0


class DeadlineBroken(msgspec.Struct, frozen=True, tag="deadline-broken", omit_defaults=True):
    """What was promised to a job will not be kept, or is not asked for any more (`given_up`).

    Attributes:
        cause: node | budget | price | quota | place | attempt | late; of what was given up held | updated |
            requeued.
    """

    job_id: str
    by: int
    cause: str
    message: str
    given_up: bool = False
