"""The agent's heart: facts in, instructions out. PURE: no clock, no socket, no disk.

Owns    what this node knows of each member (a `Run`), the epoch it obeys, its usage numbers.
Input   events in the order they became true. Output: instructions, to be carried out in order.
Why     that an attempt never starts twice (J3), that counters never fall (L6) and that an end is told
        until it is in the ledger must hold for every order of events; here they can all be played.

A run is `waiting` (for the share of another, which has not ended), `starting` (handed to the runner),
`running`, or `ended` (its `Exit` is told at every connection until `ForgetReceived`). Only `Adopted`,
`Assigned` and an unknown `StopAsked` make runs; with the connection, those that wait are forgotten.
"""

from __future__ import annotations

from enum import Enum
from typing import assert_never

import msgspec

from bursar.logend import of_another
from bursar.model import EndCause, Exit
from bursar_agent import stimuli as s
from bursar_agent.stimuli import Instruction, Key, Truth, Usage

METER_INTERVAL_US = 60_000_000
"""Until the daemon says otherwise."""

HEARTBEAT_INTERVAL_US = 5_000_000
"""Until the daemon says otherwise."""

GRACE_US = 30_000_000
"""For adopted members of which nothing else is known."""

START_OVERDUE_US = 5_000_000
"""A start takes milliseconds; its report may be lost, the files are not."""

PROBE_INTERVAL_US = 5_000_000
"""Between two looks at directories that could not be written."""

BUSY_MEMBERS = 8

WAITING_MAX = 64
"""Assignments held that wait for another's share; what is more goes back."""

FORGOTTEN_MAX = 4096
"""Ends kept after Forget, to answer a late duplicate of their assignment with the truth."""


_ORDERS = (
    s.Assigned,
    s.ForgetReceived,
    s.MeterAsked,
    s.AckReceived,
    s.StopAsked,
    s.LimitAsked,
    s.LogAsked,
)
"""What a daemon of another cluster says in vain to an agent that holds members of its own."""


class Phase(Enum):
    """Where a run is."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"


class Run:
    """One member on this node. Mutable, never leaves the core."""

    __slots__ = (
        "boot_id", "checkpoint_signal", "cpu_us", "exit", "grace_us", "held_us", "key", "limit",
        "phase", "pid", "reaped_before_us", "started_boot_us", "stop", "stop_cause",
    )  # fmt: skip

    def __init__(self, key: Key, boot_id: str, phase: Phase) -> None:
        self.key = key
        self.boot_id = boot_id
        self.phase = phase
        self.pid = 0
        self.reaped_before_us: int | None = None
        self.started_boot_us = 0
        self.held_us = 0
        self.cpu_us = 0
        self.exit: Exit | None = None
        self.checkpoint_signal = ""
        self.grace_us = 0
        self.stop: s.StopMember | None = None
        self.stop_cause = ""
        self.limit: s.LimitMember | None = None

    def truth(self) -> Truth:
        """For Hello. A run being started counts as running: its end will be told."""
        return Truth(
            attempt_id=self.key[0],
            rank=self.key[1],
            running=self.phase is not Phase.ENDED,
            boot_id=self.boot_id,
            pid=self.pid,
            started_boot_us=0 if self.phase is Phase.STARTING else self.started_boot_us,
            exit=self.exit,
        )


class Agent:
    """The state of one agent in one boot.

    Args:
        boot_id: of this boot; an assignment for another one is refused.
        epoch: the highest ever obeyed, as persisted.
        usage_seq: not below any number ever given out.
        spend_lease_us: as persisted with the epoch; 0: none.
        now_boot_us: the lease of an agent that restarted while the daemon was gone runs from here.
        cluster_id: whose members are here, as persisted; empty: nobody has said so yet.
    """

    def __init__(
        self,
        boot_id: str,
        epoch: int = 0,
        usage_seq: int = 0,
        spend_lease_us: int = 0,
        now_boot_us: int = 0,
        cluster_id: str = "",
    ) -> None:
        self.boot_id = boot_id
        self.cluster_id = cluster_id
        self._stranger = ""
        """The cluster of the daemon at the other end, which is not that of what is here."""
        self.epoch = epoch
        self.meter_interval_us = METER_INTERVAL_US
        self.heartbeat_interval_us = HEARTBEAT_INTERVAL_US
        self.trouble = ""
        """What keeps members from being started here, as it was found last."""
        self._notice: s.Noticed | None = None
        self._probed_at_us = now_boot_us
        self._spend_lease_us = spend_lease_us
        self._ledger_seen_at_us = now_boot_us
        self._connected = False
        self._seq = usage_seq
        self._acked_seq = 0
        self._unacked = False
        self._metered_at_us = now_boot_us
        self._heartbeat_at_us = now_boot_us
        self._meter_asked = False
        self._runs: dict[Key, Run] = {}
        self._live: dict[Key, Run] = {}
        self._starting: dict[Key, Run] = {}
        self._forgotten: dict[Key, Exit] = {}
        self._waiting: dict[Key, s.Assignment] = {}
        self._in_place_of: dict[Key, Key] = {}
        """By what has not ended, what starts in its share."""
        self._gave_back: dict[Key, Key] = {}
        """What went back before its turn, and what it waited for: who comes behind it waits for the same."""

    # --- questions ------------------------------------------------------------------------------

    def truths(self) -> tuple[Truth, ...]:
        """Everything this agent knows of members not yet forgotten."""
        return tuple(run.truth() for run in self._runs.values())

    def holds_for_another(self, cluster_id: str) -> bool:
        """Something lives here, or has an end that was not acknowledged, which is of another cluster."""
        return bool(self._runs) and bool(self.cluster_id) and cluster_id not in ("", self.cluster_id)

    def live(self) -> tuple[s.Live, ...]:
        """The running members."""
        return tuple(s.Live(key, run.pid, run.reaped_before_us) for key, run in self._live.items())

    @property
    def busy(self) -> bool:
        """So much runs that the next end will not be long."""
        return len(self._live) + len(self._starting) + len(self._waiting) >= BUSY_MEMBERS

    # --- the door -------------------------------------------------------------------------------

    def handle(self, event: s.Event) -> list[Instruction]:
        """Take one fact, return what to do, in order."""
        if self._stranger and isinstance(event, _ORDERS):
            return self._disobeyed(event)
        match event:
            case s.Assigned():
                return self._assigned(event)
            case s.MemberStarted():
                return self._started(event)
            case s.MemberEnded():
                return self._ended((event.attempt_id, event.rank), event.exit)
            case s.ForgetReceived():
                return self._forget(event)
            case s.Tick():
                return self._tick(event.now_boot_us)
            case s.MeterAsked():
                self._meter_asked = True
                return [s.ReadMeters(tuple(self._live))]
            case s.MeterRead():
                return self._metered(event)
            case s.Spooled():
                return [s.SendUsage(event.usage)] if self._connected else []
            case s.SpoolFailed():
                # Counters are cumulative: telling them without a copy on disk can only help.
                note = s.Note(f"usage {event.usage.seq} not spooled: {event.problem}")
                told = [s.SendUsage(event.usage)] if self._connected else []
                return [note, s.Probe(), *told]
            case s.Probed():
                return self._probed(event)
            case s.Noticed():
                return self._noticed(event)
            case s.AckReceived():
                return self._acked(event)
            case s.StopAsked():
                return self._stop(event)
            case s.LimitAsked():
                return self._limit(event)
            case s.LimitSet():
                return [s.SendLimitTaken(event.attempt_id, event.rank, event.order, event.problem)]
            case s.TruthRead():
                return self._truth_read(event.truths)
            case s.LogAsked():
                return self._log(event.range)
            case s.Connected():
                return [s.SendHello(self.epoch, self.truths(), event.now_boot_us, self.trouble)]
            case s.Welcomed():
                return self._welcomed(event)
            case s.Disconnected():
                return self._disconnected()
            case s.Adopted():
                return self._adopted(event)
            case _:
                assert_never(event)

    # --- connection -----------------------------------------------------------------------------

    def _adopted(self, event: s.Adopted) -> list[Instruction]:
        spooled = {(c.attempt_id, c.rank): c for c in event.counters}
        for truth in event.truths:
            key = (truth.attempt_id, truth.rank)
            run = Run(key, truth.boot_id, Phase.RUNNING)
            run.pid, run.started_boot_us = truth.pid, truth.started_boot_us
            run.reaped_before_us = truth.reaped_before_us
            run.checkpoint_signal, run.grace_us = event.checkpoints.get(key, ("", GRACE_US))
            if key in spooled:
                run.held_us, run.cpu_us = spooled[key].held_us, spooled[key].cpu_us
            self._runs[key] = run
            if truth.running and truth.boot_id == self.boot_id:
                if run.pid:
                    self._live[key] = run
                else:
                    run.phase = Phase.STARTING
                    self._starting[key] = run
            else:
                self._ended(key, truth.exit or _lost(truth))
        return []

    def _disobeyed(self, event: s.Event) -> list[Instruction]:
        """An order of a daemon whose cluster is not that of what is here."""
        if not isinstance(event, s.Assigned):
            return []
        refusal = _never_started(of_another(self.cluster_id, self._stranger))
        return [s.SendExited(*one.key, refusal) for one in event.assignments]

    def _goes_over(self, cluster_id: str) -> list[Instruction]:
        """Nothing here is of the cluster before any more, nor is there anything to tell it."""
        before, self.cluster_id = self.cluster_id, cluster_id
        if not before:
            return []
        self._acked_seq, self._unacked = self._seq, False
        return [s.Note(f"goes over from cluster {before} to {cluster_id}"), s.SpoolTrim(self._seq)]

    def _welcomed(self, event: s.Welcomed) -> list[Instruction]:
        if self.holds_for_another(event.cluster_id):
            # Told nothing and obeyed in nothing: it would end what it does not know, or swallow its end.
            self._stranger = event.cluster_id
            self.heartbeat_interval_us = event.heartbeat_interval_us or self.heartbeat_interval_us
            return [s.SendCondition(of_another(self.cluster_id, self._stranger))]
        out: list[Instruction] = []
        moved = event.cluster_id not in ("", self.cluster_id)
        if moved:
            out += self._goes_over(event.cluster_id)
        if event.epoch < self.epoch:
            # A daemon that lost its lease may still be talking: its commands are refused one by one.
            out.append(s.Note(f"the daemon speaks for epoch {event.epoch}, obeyed is {self.epoch}"))
            changed = moved
        else:
            changed = moved or event.epoch > self.epoch or event.spend_lease_us != self._spend_lease_us
            self.epoch, self._spend_lease_us = event.epoch, event.spend_lease_us
        if changed:
            out.append(s.PersistEpoch(self.epoch, self._spend_lease_us, self.cluster_id))
        self.meter_interval_us = event.meter_interval_us or self.meter_interval_us
        self.heartbeat_interval_us = event.heartbeat_interval_us or self.heartbeat_interval_us
        self._connected = True
        self._ledger_seen_at_us = event.now_boot_us
        out += [s.SendExited(*run.key, run.exit) for run in self._runs.values() if run.exit is not None]
        out.append(s.ResendUsage(self._acked_seq))
        if self._notice is not None:
            out.append(s.SendNotice(self._notice))
        return out

    def _noticed(self, event: s.Noticed) -> list[Instruction]:
        """What was told already is not told again."""
        if event == self._notice:
            return []
        self._notice = event
        told = [s.SendNotice(event)] if self._connected else []
        return [s.Note(f"the provider takes this machine back: {event.said}"), *told]

    def _probed(self, event: s.Probed) -> list[Instruction]:
        """Told before any end that it explains. What waits its turn goes back: it could not start either."""
        self._probed_at_us = event.now_boot_us
        if event.trouble == self.trouble:
            return []
        self.trouble = event.trouble
        out: list[Instruction] = [s.SendCondition(event.trouble)] if self._connected else []
        out.append(s.Note(event.trouble or "members can be started again"))
        if event.trouble:
            for key in list(self._waiting):
                out += self._take_back(self._runs[key], event.trouble)
        return out

    # --- starting -------------------------------------------------------------------------------

    def _assigned(self, event: s.Assigned) -> list[Instruction]:
        out: list[Instruction] = []
        fresh: list[s.Assignment] = []
        obeyed = False
        for assignment in event.assignments:
            known = self._known(assignment.key)
            if known is not None:
                out += known
            elif event.epoch < self.epoch:
                # Not remembered: the daemon that rules now may assign this attempt rightfully.
                refusal = _never_started(
                    f"assignment of epoch {event.epoch} refused: epoch {self.epoch} was obeyed before"
                )
                out.append(s.SendExited(*assignment.key, refusal, self.epoch))
            elif assignment.boot_id != self.boot_id:
                out += self._refuse(
                    assignment.key,
                    f"assignment for boot {assignment.boot_id} refused: this boot is {self.boot_id}",
                )
            elif self.trouble:
                out += self._refuse(assignment.key, self.trouble)
            else:
                run = Run(assignment.key, self.boot_id, Phase.STARTING)
                run.checkpoint_signal = assignment.checkpoint_signal
                run.grace_us = assignment.grace_us
                self._runs[assignment.key] = run
                obeyed = True
                before = self._waits_for(assignment)
                if before is not None:
                    out += self._wait(run, assignment, before)
                else:
                    self._starting[assignment.key] = run
                    fresh.append(assignment)
        if obeyed and event.epoch > self.epoch:
            self.epoch = event.epoch
            out.append(s.PersistEpoch(event.epoch, self._spend_lease_us, self.cluster_id))
        if fresh:
            out.append(s.StartMembers(tuple(fresh), event.epoch))
        return out

    # --- ahead of need --------------------------------------------------------------------------

    def _waits_for(self, assignment: s.Assignment) -> Key | None:
        """Whose end it waits for; None: it starts at once. What it was placed behind may have left the line
        while it was on its way: its share is still that of the one before.
        """
        key = (assignment.after, 0)
        while key in self._gave_back:
            key = self._gave_back[key]
        before = self._runs.get(key)
        return key if before is not None and before.exit is None else None

    def _wait(self, run: Run, assignment: s.Assignment, before: Key) -> list[Instruction]:
        """It starts when what is there now has ended: no message and no commit lies between."""
        if before in self._in_place_of or len(self._waiting) >= WAITING_MAX:
            return self._went_back(run, before, "this node holds as many as it may")
        run.phase = Phase.WAITING
        self._waiting[run.key] = assignment
        self._in_place_of[before] = run.key
        return []

    def _next(self, key: Key) -> list[Instruction]:
        """Nothing is left of this member: start what gets its share."""
        following = self._in_place_of.pop(key, None)
        if following is None:
            return []
        run = self._runs[following]
        run.phase = Phase.STARTING
        self._starting[following] = run
        return [s.StartMembers((self._waiting.pop(following),), self.epoch)]

    def _take_back(self, run: Run, why: str) -> list[Instruction]:
        """It gives up its turn: who waits for it waits for what it waited for."""
        del self._waiting[run.key]
        following = self._in_place_of.pop(run.key, None)
        before = next(key for key, waits in self._in_place_of.items() if waits == run.key)
        del self._in_place_of[before]
        if following is not None:
            self._in_place_of[before] = following
        return self._went_back(run, before, why)

    def _went_back(self, run: Run, before: Key, why: str) -> list[Instruction]:
        run.phase = Phase.ENDED
        run.exit = Exit(cause=EndCause.PREEMPTED, message=why, started=False)
        self._gave_back[run.key] = before
        return [s.SendExited(*run.key, run.exit)]

    def _disconnected(self) -> list[Instruction]:
        """What waits is forgotten, and what was given back: whoever comes back says anew what is to be done.
        Told later, behind the end of what it waited for, a word of that would mean another thing.
        """
        self._connected = False
        self._stranger = ""
        for key in (*self._waiting, *self._gave_back):
            del self._runs[key]
        self._waiting.clear()
        self._gave_back.clear()
        self._in_place_of.clear()
        return []

    def _known(self, key: Key) -> list[Instruction] | None:
        """The truth about a member that must not start again; None when it is new."""
        run = self._runs.get(key)
        if run is None:
            old = self._forgotten.get(key)
            return None if old is None else [s.SendExited(*key, old)]
        if run.exit is not None:
            return [s.SendExited(*key, run.exit)]
        if run.phase in (Phase.WAITING, Phase.STARTING):
            return []  # its start or its end will be told
        return [_started_report(run)]

    def _refuse(self, key: Key, message: str) -> list[Instruction]:
        """This member ended without a start, and stays so."""
        run = Run(key, self.boot_id, Phase.ENDED)
        run.exit = _never_started(message)
        self._runs[key] = run
        return [s.SendExited(*key, run.exit)] if self._connected else []

    def _started(self, event: s.MemberStarted) -> list[Instruction]:
        run = self._runs.get((event.attempt_id, event.rank))
        if run is None or run.phase is Phase.ENDED:
            return []
        run.pid = event.pid
        if run.phase is Phase.RUNNING:
            return []  # after the setup comes the run: another process of the same member
        del self._starting[run.key]
        run.phase = Phase.RUNNING
        run.started_boot_us = event.boot_us
        run.reaped_before_us = event.reaped_before_us
        self._live[run.key] = run
        out: list[Instruction] = [_started_report(run)] if self._connected else []
        if run.limit is not None:
            out.append(run.limit)
            run.limit = None
        if run.stop is not None:
            out.append(run.stop)
            run.stop = None
        return out

    def _truth_read(self, truths: tuple[Truth, ...]) -> list[Instruction]:
        """Catch up on starts whose report was lost."""
        out: list[Instruction] = []
        for truth in truths:
            if (truth.attempt_id, truth.rank) not in self._starting:
                continue
            if truth.exit is not None:
                out += self._ended((truth.attempt_id, truth.rank), truth.exit)
            elif truth.pid:
                out += self._started(
                    s.MemberStarted(
                        attempt_id=truth.attempt_id,
                        rank=truth.rank,
                        pid=truth.pid,
                        boot_us=truth.started_boot_us,
                        reaped_before_us=truth.reaped_before_us,
                    )
                )
        return out

    # --- another limit --------------------------------------------------------------------------

    def _limit(self, event: s.LimitAsked) -> list[Instruction]:
        """One that has ended is told as that; one that waits has nothing but its order."""
        key = (event.attempt_id, event.rank)
        if event.epoch < self.epoch:
            return [s.Note(f"limit of epoch {event.epoch} refused: obeyed is {self.epoch}", *key)]
        run = self._runs.get(key)
        if run is None or run.exit is not None:
            return []
        if run.phase is Phase.WAITING:
            self._waiting[key] = msgspec.structs.replace(
                self._waiting[key], time_limit_us=event.time_limit_us
            )
            return [s.SendLimitTaken(*key, event.order)]
        limit = s.LimitMember(*key, event.order, event.time_limit_us)
        if run.phase is Phase.STARTING:
            run.limit = limit  # the supervisor may not exist yet
            return []
        return [limit]

    # --- ending ---------------------------------------------------------------------------------

    def _stop(self, event: s.StopAsked) -> list[Instruction]:
        key = (event.attempt_id, event.rank)
        if event.epoch < self.epoch:
            return [s.Note(f"stop of epoch {event.epoch} refused: obeyed is {self.epoch}", *key)]
        known = self._runs.get(key)
        if known is not None and known.phase is Phase.WAITING:
            return self._take_back(known, "taken back before its turn")
        if event.only_waiting:
            return []
        if known is None:
            old = self._forgotten.get(key)
            if old is not None:
                return [s.SendExited(*key, old)]
            return self._refuse(key, "stopped before this node was told to start it")
        if known.exit is not None:
            return [s.SendExited(*key, known.exit)]
        return self._stop_run(known, event.cause, event.grace_us)

    def _stop_run(self, run: Run, cause: str, grace_us: int) -> list[Instruction]:
        run.stop_cause = run.stop_cause or cause
        stop = s.StopMember(
            attempt_id=run.key[0],
            rank=run.key[1],
            cause=cause,
            grace_us=grace_us,
            signal=run.checkpoint_signal,
        )
        if run.phase is Phase.STARTING:
            # The supervisor may not exist yet; told to it the moment it does.
            run.stop = stop
            return []
        return [stop]

    def _ended(self, key: Key, exit: Exit) -> list[Instruction]:
        run = self._runs.get(key)
        if run is None or run.phase is Phase.ENDED:
            return []
        run.phase = Phase.ENDED
        run.stop = run.limit = None
        self._live.pop(key, None)
        self._starting.pop(key, None)
        run.exit = msgspec.structs.replace(
            exit,
            # Counters never fall: what was reported may have been charged already.
            held_us=max(exit.held_us, run.held_us),
            cpu_us=max(exit.cpu_us, run.cpu_us),
            started_boot_us=exit.started_boot_us or (run.started_boot_us if run.pid else 0),
            started=exit.started or run.pid != 0,
        )
        following = self._next(key)
        if not self._connected:
            return following
        return [s.SendExited(*key, run.exit, line=len(self._waiting) if following else 0), *following]

    def _forget(self, event: s.ForgetReceived) -> list[Instruction]:
        key = (event.attempt_id, event.rank)
        run = self._runs.get(key)
        if run is None:
            return []
        if run.exit is None:
            return [s.Note("asked to forget a member that has not ended; kept", *key)]
        del self._runs[key]
        self._gave_back.pop(key, None)
        self._forgotten[key] = run.exit
        if len(self._forgotten) > FORGOTTEN_MAX:
            del self._forgotten[next(iter(self._forgotten))]
        return [s.ForgetMember(*key, run.exit.log_bytes, bool(run.checkpoint_signal))]

    # --- metering -------------------------------------------------------------------------------

    def _tick(self, now: int) -> list[Instruction]:
        out: list[Instruction] = []
        if (self._connected or self._stranger) and now - self._heartbeat_at_us >= self.heartbeat_interval_us:
            self._heartbeat_at_us = now
            out.append(s.SendHeartbeat(now))
        if now - self._metered_at_us >= self.meter_interval_us:
            self._metered_at_us = now
            if self._live:
                out.append(s.ReadMeters(tuple(self._live)))
        if self._start_overdue(now):
            out.append(s.ReadTruth())
        if self.trouble and now - self._probed_at_us >= PROBE_INTERVAL_US:
            self._probed_at_us = now
            out.append(s.Probe())
        if self._connected and not self._unacked:
            self._ledger_seen_at_us = now
        lease = self._spend_lease_us
        if lease and now - self._ledger_seen_at_us > lease:
            out += self._lease_expired()
        return out

    def _start_overdue(self, now: int) -> bool:
        overdue = False
        for run in self._starting.values():
            if run.started_boot_us == 0:
                run.started_boot_us = now  # first seen here; replaced by the supervisor's own time
            elif now - run.started_boot_us > START_OVERDUE_US:
                run.started_boot_us = now
                overdue = True
        return overdue

    def _lease_expired(self) -> list[Instruction]:
        """Nobody has charged for this long: what runs could pass any budget, so it ends (B2)."""
        out: list[Instruction] = []
        for key in list(self._waiting):
            out += self._take_back(self._runs[key], "no daemon charges for what runs here")
        for run in self._live.values():
            if not run.stop_cause:
                out += self._stop_run(run, "budget", run.grace_us)
                out.append(s.Note("spend lease expired: no daemon charges for this", *run.key))
        return out

    def _metered(self, event: s.MeterRead) -> list[Instruction]:
        asked, self._meter_asked = self._meter_asked, False
        if not self._live and not asked:
            return []
        self._metered_at_us = max(self._metered_at_us, event.at_boot_us)
        counters = []
        for key, run in self._live.items():
            until_us = min(event.at_boot_us, event.ended.get(key, event.at_boot_us))
            run.held_us = max(run.held_us, until_us - run.started_boot_us)
            run.cpu_us = max(run.cpu_us, event.cpu_us.get(key, 0))
            counters.append(s.Counter(key[0], key[1], run.held_us, run.cpu_us))
        self._seq += 1
        self._unacked = True
        return [s.SpoolAppend(Usage(self._seq, self.boot_id, event.at_boot_us, tuple(counters)))]

    def _acked(self, event: s.AckReceived) -> list[Instruction]:
        if event.seq > self._seq:
            return [s.Note(f"usage {event.seq} acknowledged, but {self._seq} is the last; ignored")]
        self._ledger_seen_at_us = max(self._ledger_seen_at_us, event.now_boot_us)
        if event.seq <= self._acked_seq:
            return []
        self._acked_seq = event.seq
        self._unacked = event.seq < self._seq
        return [s.SpoolTrim(event.seq)]

    def _log(self, range: s.LogRange) -> list[Instruction]:
        key = (range.attempt_id, range.rank)
        run = self._runs.get(key)
        if run is None:
            return [s.ReadLog(range, live=False, exit=self._forgotten.get(key))]
        return [s.ReadLog(range, live=run.exit is None, exit=run.exit)]


def _never_started(message: str) -> Exit:
    return Exit(cause=EndCause.START_FAILED, message=message, started=False)


def _lost(truth: Truth) -> Exit:
    """The machine went down under it: nobody saw its end."""
    return Exit(
        cause=EndCause.NODE_LOST,
        message="the machine was restarted while this ran",
        started_boot_us=truth.started_boot_us,
    )


def _started_report(run: Run) -> s.SendStarted:
    return s.SendStarted(attempt_id=run.key[0], rank=run.key[1], pid=run.pid, boot_us=run.started_boot_us)
