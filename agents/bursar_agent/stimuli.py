"""What can happen to an agent, and what it can decide to do: the vocabulary of the pure core.

Owns    events (facts that came in) and instructions (effects to carry out); all frozen values.
Why     the core touches neither socket, disk nor clock: every race is a list of events in a test,
        and each finished piece of I/O comes back as the next event.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from bursar.model import Exit

Key = tuple[str, int]
"""Attempt id and rank: one member."""


class Live(NamedTuple):
    """A running member, for whoever reads its processes.

    `reaped_before_us`: CPU time that its supervisor's counters held before it, which is other jobs'; None:
    not known.
    """

    key: Key
    pid: int
    reaped_before_us: int | None = None


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one member: it runs, or it ended like `exit`. `reaped_before_us`: as in `Live`."""

    attempt_id: str
    rank: int
    running: bool
    boot_id: str
    pid: int = 0
    started_boot_us: int = 0
    exit: Exit | None = None
    reaped_before_us: int | None = None


class Counter(msgspec.Struct, frozen=True, array_like=True):
    """What one live member has used since its start."""

    attempt_id: str
    rank: int
    held_us: int
    cpu_us: int


class Usage(msgspec.Struct, frozen=True, array_like=True):
    """Counters of every live member at one instant of boot time; also the record of the spool."""

    seq: int
    boot_id: str
    at_boot_us: int
    counters: tuple[Counter, ...] = ()


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """One member to start, once, in one boot (proto `Assignment`, field by field).

    `launch` says what to run. Nobody here looks into it: it is opened where the process is started.
    `devices` are indexes with the thousandths of each that it may use. `after`: it gets the share of this
    attempt, and starts when nothing is left of it; empty: at once.
    """

    attempt_id: str
    rank: int
    boot_id: str
    job_id: str = ""
    time_limit_us: int = 0
    grace_us: int = 0
    checkpoint_signal: str = ""
    user: str = ""
    memory_limit_bytes: int = 0
    cpu_limit_milli: int = 0
    log_cap_bytes: int = 0
    launch: bytes = b"{}"
    devices: tuple[tuple[int, int], ...] = ()
    after: str = ""

    @property
    def key(self) -> Key:
        """Attempt id and rank."""
        return (self.attempt_id, self.rank)


class LogRange(msgspec.Struct, frozen=True, kw_only=True):
    """Part of a member's log that somebody wants to read; `tail_bytes` counts from the end.

    `since_us`: what came then or later, from the start on; `times`: tell when it came.
    """

    request_id: int
    attempt_id: str
    rank: int
    offset: int = 0
    limit_bytes: int = 0
    tail_bytes: int = 0
    since_us: int = 0
    times: bool = False


# --- events -------------------------------------------------------------------------------------


class Adopted(msgspec.Struct, frozen=True):
    """Start-up: what the supervisors' files tell. Comes before anything else.

    `counters` are the last ones spooled, `checkpoints` the signal and grace of members that have one.
    """

    truths: tuple[Truth, ...]
    counters: tuple[Counter, ...] = ()
    checkpoints: Mapping[Key, tuple[str, int]] = msgspec.field(default_factory=dict)


class Connected(msgspec.Struct, frozen=True):
    """A stream to the daemon is open; nothing was said yet."""

    now_boot_us: int


class Welcomed(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon took our Hello. Zero intervals keep what was; lease 0: none."""

    now_boot_us: int
    epoch: int
    cluster_id: str = ""
    meter_interval_us: int = 0
    heartbeat_interval_us: int = 0
    spend_lease_us: int = 0


class Disconnected(msgspec.Struct, frozen=True):
    """The stream is gone."""


class Assigned(msgspec.Struct, frozen=True):
    """The daemon wants these members started."""

    epoch: int
    assignments: tuple[Assignment, ...]


class StopAsked(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon wants one member ended, with up to `grace_us` to write a checkpoint.

    `only_waiting`: only if it still waits for another's share.
    """

    epoch: int
    attempt_id: str
    rank: int
    cause: str
    grace_us: int = 0
    only_waiting: bool = False


class MemberStarted(msgspec.Struct, frozen=True, kw_only=True):
    """The supervisor says: the process is there. `reaped_before_us`: as in `Live`."""

    attempt_id: str
    rank: int
    pid: int
    boot_us: int
    reaped_before_us: int | None = None


class MemberEnded(msgspec.Struct, frozen=True):
    """The supervisor (or a failed start) says: the whole process tree is gone."""

    attempt_id: str
    rank: int
    exit: Exit


class Tick(msgspec.Struct, frozen=True):
    """Time passed. Heartbeat, metering and the spend lease look at it."""

    now_boot_us: int


class LimitAsked(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon gives one member another time limit, counted from its start. `order` is told back."""

    epoch: int
    attempt_id: str
    rank: int
    order: int
    time_limit_us: int


class LimitSet(msgspec.Struct, frozen=True):
    """The answer to `LimitMember`: it lives by it, durably; or the `problem`, in words."""

    attempt_id: str
    rank: int
    order: int
    problem: str = ""


class MeterAsked(msgspec.Struct, frozen=True):
    """A report or a settlement waits for fresh counters."""


class MeterRead(msgspec.Struct, frozen=True):
    """CPU counters were read at this instant; members without a reading keep their last one. `ended`: of
    members that cannot be told yet, when their last process had ended: a full disk keeps the report.
    """

    at_boot_us: int
    cpu_us: Mapping[Key, int]
    ended: Mapping[Key, int] = {}


class Spooled(msgspec.Struct, frozen=True):
    """This usage is on disk, fsynced."""

    usage: Usage


class SpoolFailed(msgspec.Struct, frozen=True):
    """This usage could not be made durable (full or broken disk)."""

    usage: Usage
    problem: str


class Probed(msgspec.Struct, frozen=True):
    """Our own directories were tried: what keeps members from being started here; empty: nothing."""

    now_boot_us: int
    trouble: str


class Noticed(msgspec.Struct, frozen=True):
    """The provider says that it takes this machine back at an instant of the boot clock. `advice`: it may."""

    said: str
    until_boot_us: int
    advice: bool


class AckReceived(msgspec.Struct, frozen=True):
    """Usage up to here is in the ledger."""

    now_boot_us: int
    seq: int


class ForgetReceived(msgspec.Struct, frozen=True):
    """The end of this member is in the ledger."""

    attempt_id: str
    rank: int


class TruthRead(msgspec.Struct, frozen=True):
    """What the supervisors' files tell now: the answer to `ReadTruth`."""

    truths: tuple[Truth, ...]


class LogAsked(msgspec.Struct, frozen=True):
    """Somebody reads a log."""

    range: LogRange


Event = (
    Adopted
    | Connected
    | Welcomed
    | Disconnected
    | Assigned
    | StopAsked
    | LimitAsked
    | LimitSet
    | MemberStarted
    | MemberEnded
    | Tick
    | MeterAsked
    | MeterRead
    | Spooled
    | SpoolFailed
    | Probed
    | Noticed
    | AckReceived
    | ForgetReceived
    | TruthRead
    | LogAsked
)

# --- instructions -------------------------------------------------------------------------------


class SendHello(msgspec.Struct, frozen=True):
    """Tell the full truth. `trouble`: as in `SendCondition`."""

    epoch: int
    truths: tuple[Truth, ...]
    boot_us: int
    trouble: str = ""


class Probe(msgspec.Struct, frozen=True):
    """Try whether our own directories can be written, then say `Probed`."""


class SendNotice(msgspec.Struct, frozen=True):
    """Tell what the provider of this machine is about to do with it."""

    notice: Noticed


class SendCondition(msgspec.Struct, frozen=True):
    """Tell what keeps members from being started here; empty: nothing any more."""

    trouble: str


class PersistEpoch(msgspec.Struct, frozen=True):
    """Remember the epoch (with the lease that came with it, and whose it is) across restarts, before obeying
    it.
    """

    epoch: int
    spend_lease_us: int
    cluster_id: str = ""


class StartMembers(msgspec.Struct, frozen=True):
    """Start these; each was never started before."""

    assignments: tuple[Assignment, ...]
    epoch: int


class StopMember(msgspec.Struct, frozen=True, kw_only=True):
    """End one member. `signal` is its checkpoint signal, without SIG; empty: none."""

    attempt_id: str
    rank: int
    cause: str
    grace_us: int
    signal: str = ""


class LimitMember(msgspec.Struct, frozen=True):
    """Give a member another time limit, then say `LimitSet`."""

    attempt_id: str
    rank: int
    order: int
    time_limit_us: int


class SendLimitTaken(msgspec.Struct, frozen=True):
    """Tell what became of an order for another time limit."""

    attempt_id: str
    rank: int
    order: int
    problem: str = ""


class SendStarted(msgspec.Struct, frozen=True, kw_only=True):
    """Report a start."""

    attempt_id: str
    rank: int
    pid: int
    boot_us: int


class SendExited(msgspec.Struct, frozen=True):
    """Report an end; repeated until forgotten.

    `fenced_epoch` not 0: this is no end, its assignment was not obeyed, since an order of this higher epoch
    had been. `line`: its share went on to the next, and so many more wait here: nobody waits for this word,
    and as many ends may be told together. 0: its share is free.
    """

    attempt_id: str
    rank: int
    exit: Exit
    fenced_epoch: int = 0
    line: int = 0


class ReadMeters(msgspec.Struct, frozen=True):
    """Read the CPU counters of these live members, then say `MeterRead`."""

    keys: tuple[Key, ...]


class SpoolAppend(msgspec.Struct, frozen=True):
    """Make this usage durable, then say `Spooled`."""

    usage: Usage


class SendUsage(msgspec.Struct, frozen=True):
    """Report usage that is durable already."""

    usage: Usage


class ResendUsage(msgspec.Struct, frozen=True):
    """Send what the spool still holds above `after_seq`, in order, under the old numbers."""

    after_seq: int


class SpoolTrim(msgspec.Struct, frozen=True):
    """Usage up to here may go."""

    seq: int


class SendHeartbeat(msgspec.Struct, frozen=True):
    """Say that we live."""

    boot_us: int


class ForgetMember(msgspec.Struct, frozen=True):
    """The runner may drop this member's directory after the log retention."""

    attempt_id: str
    rank: int
    log_bytes: int = 0
    has_signal: bool = False


class ReadLog(msgspec.Struct, frozen=True):
    """Read part of a log and send it.

    `exit` is set once nothing will be added any more; `live` is False too for a member long forgotten.
    """

    range: LogRange
    live: bool
    exit: Exit | None = None


class ReadTruth(msgspec.Struct, frozen=True):
    """A start was not reported for long: look at the supervisors' files, then say `TruthRead`."""


class Note(msgspec.Struct, frozen=True):
    """Something the operator should read in the log."""

    message: str
    attempt_id: str = ""
    rank: int = 0


Instruction = (
    SendHello
    | Probe
    | SendCondition
    | SendNotice
    | PersistEpoch
    | StartMembers
    | StopMember
    | LimitMember
    | SendLimitTaken
    | SendStarted
    | SendExited
    | ReadMeters
    | SpoolAppend
    | SendUsage
    | ResendUsage
    | SpoolTrim
    | SendHeartbeat
    | ForgetMember
    | ReadLog
    | ReadTruth
    | Note
)
