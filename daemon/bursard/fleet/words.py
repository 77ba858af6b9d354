"""What is said between the daemon and whatever runs members: words without a wire.

Owns    the orders a `Backend` takes and the reports it makes, as frozen values.
Why     agents say them over gRPC, another backend in its own way; neither belongs in the decisions. Numbers
        are as they were told: `bursard.fleet.door` says which of them make sense.
"""

from __future__ import annotations

import msgspec

from bursar.model import DeviceShare, Exit, NodeFacts, ServiceSpec
from bursar.model.service import NOWHERE, Way

# --- orders


class Assign(msgspec.Struct, frozen=True, kw_only=True):
    """Start one member, once, in this boot only: what the core decided, and what to run.

    `launch` is a `bursar.model.Launch` as `bursar.codec.launch` encodes it; nobody on the way opens it.
    `after`: start it once nothing is left of this attempt, whose share it gets; empty: at once.
    """

    attempt_id: str
    rank: int
    boot_id: str
    job_id: str
    time_limit_us: int
    grace_us: int
    checkpoint_signal: str
    user: str
    memory_bytes: int
    cpu_milli: int
    log_cap_bytes: int
    launch: bytes
    devices: tuple[DeviceShare, ...] = ()
    after: str = ""


class Stop(msgspec.Struct, frozen=True):
    """End one member. `only_waiting`: only if it waits for another's share; then it never starts."""

    attempt_id: str
    rank: int
    cause: str
    grace_us: int
    only_waiting: bool = False


class Limit(msgspec.Struct, frozen=True):
    """Another time limit for one member, counted from its start. `order`: of its attempt; told back."""

    attempt_id: str
    rank: int
    order: int
    time_limit_us: int


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """Look whether a replica is ready, from now on: by a GET of `path`, or by a connection without one."""

    attempt_id: str
    rank: int
    port: int
    path: str
    interval_us: int
    timeout_us: int
    failures: int
    gateways: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, attempt_id: str, rank: int, port: int, service: ServiceSpec, gateways: tuple[str, ...] = ()
    ) -> Probe:
        """As a service asks for it. `gateways`: certificates of those on other machines."""
        return cls(
            attempt_id=attempt_id,
            rank=rank,
            port=port,
            path=service.probe_path,
            interval_us=service.probe_interval_us,
            timeout_us=service.probe_timeout_us,
            failures=service.probe_failures,
            gateways=gateways,
        )


class Forget(msgspec.Struct, frozen=True):
    """The end of this member is in the ledger."""

    attempt_id: str
    rank: int


class LogRange(msgspec.Struct, frozen=True):
    """A piece of a member's log: from `offset`, or the last `tail_bytes` when that is not 0.

    `since_us`: what came so long after its start or later; `times`: tell when it came.
    """

    attempt_id: str
    rank: int
    offset: int
    limit_bytes: int
    tail_bytes: int = 0
    since_us: int = 0
    times: bool = False


class LogAnswer(msgspec.Struct, frozen=True):
    """A piece of a log. `ended`: the member is gone and this was the rest.

    `marks`: (offset, microseconds since the start), of those that tell when the data came.
    """

    data: bytes
    offset: int
    next_offset: int
    ended: bool
    dropped_bytes: int
    error: str = ""
    marks: tuple[tuple[int, int], ...] = ()


class StepFrame(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of what two members of one attempt say to each other: an order and a report in one.

    Attributes:
        kind: open, resume, data or close.
        to_client: goes to who asked for the step, else to its host.
    """

    attempt_id: str
    from_rank: int
    to_rank: int
    channel: int
    kind: str
    data: bytes = b""
    to_client: bool = False


# --- reports


class Exited(Exit, frozen=True, kw_only=True):
    """An exit, and whose: a member's process tree is gone.

    `fenced_epoch` not 0: this is no end. Its order was not obeyed, since one of this epoch had been.
    """

    attempt_id: str
    rank: int
    fenced_epoch: int = 0


class Started(msgspec.Struct, frozen=True):
    """A member's process exists since this reading of its node's boot clock."""

    attempt_id: str
    rank: int
    pid: int
    boot_us: int


class LimitTaken(msgspec.Struct, frozen=True):
    """A member lives by the limit of an order, whatever is killed; or it does not: `problem` says why."""

    attempt_id: str
    rank: int
    order: int
    problem: str = ""


class Condition(msgspec.Struct, frozen=True):
    """What keeps a node from starting anything, in its words; empty: nothing any more."""

    trouble: str


class Readiness(msgspec.Struct, frozen=True):
    """A replica is ready, or is not any more. `message`: why not."""

    attempt_id: str
    rank: int
    ready: bool
    message: str = ""
    way: Way = NOWHERE


class Notice(msgspec.Struct, frozen=True):
    """The node's provider takes its machine back in so long. `advice`: it may."""

    said: str
    left_us: int
    advice: bool


class Counter(msgspec.Struct, frozen=True):
    """How long one member has held its share so far."""

    attempt_id: str
    rank: int
    held_us: int
    cpu_us: int = 0


class Usage(msgspec.Struct, frozen=True):
    """Counters of everything live on a node, read at one instant of its boot clock."""

    seq: int
    boot_id: str
    at_boot_us: int
    counters: tuple[Counter, ...]


class Heartbeat(msgspec.Struct, frozen=True):
    """A sign of life, with a reading of the boot clock. `wall_at`: what its wall clock says; 0: nothing."""

    boot_us: int
    wall_at: int = 0


class MemberTruth(msgspec.Struct, frozen=True, kw_only=True):
    """One member as its node finds it. `exit` is set when it has ended."""

    attempt_id: str
    rank: int
    running: bool
    pid: int = 0
    started_boot_us: int = 0
    boot_id: str = ""
    exit: Exited | None = None


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """A node presents itself: what it has, which boot this is, and all it knows of members.

    Attributes:
        instance: tells a node that comes back from another of the same name.
        epoch: the highest that was ever obeyed there.
        attaches: it takes streams from outside of jobs; else it must get none.
        takes_limits: it knows orders for another time limit; else it must get none.
        trouble: what keeps it from starting anything; empty: nothing.
        ahead: members it will hold that wait for another's share; 0: it must get none.
        log_seq, log_hash: the end of the log of `log_cluster_id` as it was told there; 0: never.
    """

    facts: NodeFacts
    boot_id: str
    boot_us: int
    truths: tuple[MemberTruth, ...] = ()
    instance: str = ""
    version: str = ""
    epoch: int = 0
    log_seq: int = 0
    log_hash: bytes = b""
    log_cluster_id: str = ""
    ahead: int = 0
    takes_limits: bool = False
    attaches: bool = False
    trouble: str = ""
