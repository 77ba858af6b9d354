"""What the agent says to a runner and hears from it.

Owns    requests, results, events and the exit report as frozen values, and their JSON.
Why     the agent's pure core, the process runner and the fake share these words; the launcher and
        the supervisors see only the JSON, so this may import what they cannot afford.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from bursar.errors import InvalidRequest
from bursar_agent.runner.layout import member_name

DEFAULT_LOG_CAP_BYTES = 64 << 20
StartState = Literal["starting", "already", "refused"]
AttemptState = Literal["starting", "running", "ended"]


class StartRequest(msgspec.Struct, frozen=True):
    """One member of an attempt to start.

    Attributes:
        attempt_id: the daemon's id; with `rank` it starts at most once on this machine.
        epoch: of the daemon that ordered it; recorded, not judged here.
        launch: `bursar.model.Launch` as JSON: what to run. The supervisor opens it, and it is written to no
            file, for it may hold secrets.
        env: what only this node knows; the launch's own environment stands above it.
        over: likewise, above the launch's environment: how its devices are shared.
        home: working directory where the launch names none.
        checkpoint_dir: takes the place of `CHECKPOINT_PLACEHOLDER`; made before the job runs, and removed
            after it when it is still empty.
        time_limit_us: boot-time microseconds from the start, setup included.
        grace_us: at the time limit, from the first signal to the next step.
        checkpoint_signal: name without SIG, sent first to every process that handles it.
        uid: user to become, with `gid`; None stays the agent's.
        memory_limit_bytes: enforced where a cgroup root is set; `Started` tells.
        cpu_limit_milli: thousandths of CPUs, enforced likewise; 0 for none.
        runtime: what runs containers here (`bursar_agent.containers`); None: nothing does.
        gpus: UUIDs of its devices, for a container to be given; of those that exist alone.
    """

    attempt_id: str
    rank: int = 0
    epoch: int = 0
    launch: bytes = b"{}"
    env: Mapping[str, str] | None = None
    over: Mapping[str, str] | None = None
    home: str = "/"
    checkpoint_dir: str = ""
    uid: int | None = None
    gid: int | None = None
    time_limit_us: int | None = None
    grace_us: int = 30_000_000
    checkpoint_signal: str | None = None
    log_cap_bytes: int = DEFAULT_LOG_CAP_BYTES
    memory_limit_bytes: int | None = None
    cpu_limit_milli: int = 0
    runtime: Mapping[str, Any] | None = None
    gpus: tuple[str, ...] = ()

    def to_wire(self, base_env: Mapping[str, str], boot_id: str, place: str = "") -> dict[str, Any]:
        """The launcher's JSON. Raises `InvalidRequest` with the field that is wrong.

        `place`: of the run directory (`layout.place_of`).
        """
        try:
            member = member_name(self.attempt_id, self.rank)
        except ValueError as problem:
            raise InvalidRequest(str(problem)) from None
        try:
            launch = self.launch.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"{member}: its launch is not text") from None
        if not self.home.startswith("/"):
            raise InvalidRequest(f"{member}: home {self.home!r} is not an absolute path")
        if self.uid is not None and self.gid is None:
            raise InvalidRequest(f"{member}: uid {self.uid} needs a gid with it")
        numbers = (
            self.grace_us,
            self.log_cap_bytes,
            self.time_limit_us or 0,
            self.memory_limit_bytes or 0,
        )
        if min(numbers) < 0:
            raise InvalidRequest(f"{member}: times and sizes must not be negative")
        return {
            "attempt_id": self.attempt_id,
            "rank": self.rank,
            "epoch": self.epoch,
            "boot_id": boot_id,
            "place": place,
            "launch": launch,
            "env": {**base_env, **(self.env or {})},
            "over": {**(self.over or {})},
            "home": self.home,
            "checkpoint_dir": self.checkpoint_dir,
            "uid": self.uid,
            "gid": self.gid,
            "time_limit_us": self.time_limit_us,
            "grace_us": self.grace_us,
            "checkpoint_signal": signal_number(self.checkpoint_signal),
            "log_cap_bytes": self.log_cap_bytes,
            "memory_limit_bytes": self.memory_limit_bytes,
            "cpu_limit_milli": self.cpu_limit_milli,
            "runtime": None if self.runtime is None else dict(self.runtime),
            "gpus": list(self.gpus),
        }


class StartResult(msgspec.Struct, frozen=True):
    """Answer to one request: `already`: an earlier one did it, nothing was executed now."""

    attempt_id: str
    rank: int
    state: StartState
    message: str = ""
    disk: bool = False
    """It was refused since the node's disk will not take what a start needs."""


class StopRequest(msgspec.Struct, frozen=True):
    """End a running member. `grace_us` 0 kills at once; a later request can only hasten the end.

    Attributes:
        cause: becomes `end_cause`: cancelled, budget, preempted, idle, time_limit.
        signal: checkpoint signal, name without SIG; None goes straight to TERM.
    """

    cause: str
    grace_us: int
    signal: str | None = None


class ExitReport(msgspec.Struct, frozen=True):
    """The truth about an end. Times are CLOCK_BOOTTIME microseconds of `boot_id`; None = not known.

    `held_us` runs from the start until the last process was gone: what the devices were held.
    `main_end_boot_us`: when the job's own process ended, `stopped`: after it had been told to. `unbegun`: the
    node's disk would not take what a start needs.
    """

    attempt_id: str
    rank: int
    epoch: int
    end_cause: str
    exit_code: int | None
    signal: int | None
    message: str
    phase: str
    boot_id: str
    start_boot_us: int | None
    end_boot_us: int | None
    held_us: int | None
    cpu_user_us: int
    cpu_system_us: int
    max_rss_bytes: int
    log_bytes: int
    log_dropped_bytes: int
    signal_sent_at: int | None = None
    term_sent_at: int | None = None
    kill_sent_at: int | None = None
    main_end_boot_us: int | None = None
    stopped: bool = False
    image_digest: str = ""
    pull_us: int = 0
    unbegun: bool = False

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ExitReport:
        """Read `exit.json`, ignoring what a newer supervisor may add."""
        return cls(**{name: data[name] for name in _EXIT_FIELDS if name in data})

    def to_json(self) -> dict[str, Any]:
        """The content of `exit.json`."""
        return {name: getattr(self, name) for name in _EXIT_FIELDS}


_EXIT_FIELDS = ExitReport.__struct_fields__


class Started(msgspec.Struct, frozen=True):
    """The job's process runs (`phase` setup or run: with a setup there are two of these).

    `reaped_before_us`: CPU time of what its supervisor had waited for before this attempt; None: not known.
    """

    attempt_id: str
    rank: int
    pid: int
    start_boot_us: int
    phase: str = "run"
    memory_enforced: bool = False
    reaped_before_us: int | None = None


class Ended(msgspec.Struct, frozen=True):
    """The last process of the member is gone. `unwritten`: the disk would not take how it ended."""

    report: ExitReport
    unwritten: bool = False


RunnerEvent = Started | Ended


class AttemptTruth(msgspec.Struct, frozen=True):
    """What a member's directory says about it now. `reaped_before_us`: as in `Started`."""

    attempt_id: str
    rank: int
    epoch: int
    state: AttemptState
    pid: int | None
    start_boot_us: int | None
    exit: ExitReport | None
    reaped_before_us: int | None = None


def signal_number(name: str | None) -> int | None:
    """`USR1` to 10. Raises `InvalidRequest` for what is not a signal that a process can handle."""
    if name is None:
        return None
    try:
        number = signals.Signals[f"SIG{name.upper().removeprefix('SIG')}"]
    except KeyError:
        raise InvalidRequest(f"{name!r} is not a signal; write it as USR1, TERM or INT") from None
    if number in (signals.SIGKILL, signals.SIGSTOP):
        raise InvalidRequest(f"{name} cannot be handled by a process; use USR1, TERM or INT")
    return int(number)
