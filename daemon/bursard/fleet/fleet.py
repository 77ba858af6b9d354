"""The fleet: tells backends what became true, takes in what they report, and brings both to one truth.

Owns    which backend serves which node, what was ordered, and the way from a report to events.
Input   events after their commit; reports, of which nothing is used before `door` and `believe` have seen it.
Why     a report that lies must cost nobody anything, wherever it came from, so there is one way in.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter as Counts
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from bursar.codec.launch import launch_to_bytes
from bursar.errors import BursarError, ServerUnavailable, StoreUnavailable, WrongState
from bursar.model import EndCause, JobSpec, NodeFacts, holds_its_place, launch_of
from bursard.engine import Engine, unheard_rows
from bursard.events import (
    AttemptEnded,
    AttemptPlaced,
    Event,
    ExitReport,
    LimitChanged,
    MemberStarted,
    NodeQuarantined,
    NodeRemoved,
    StopRequested,
)
from bursard.events import LimitTaken as Taken
from bursard.fleet import believe, door
from bursard.fleet.backend import Backend
from bursard.fleet.beats import Beats
from bursard.fleet.believe import Order
from bursard.fleet.clocks import Clocks
from bursard.fleet.conditions import Conditions
from bursard.fleet.deadlines import LATE_MAX, LOOK_EVERY_S, Deadlines
from bursard.fleet.environment import job_environment
from bursard.fleet.outputs import output_files
from bursard.fleet.replicas import Replicas
from bursard.fleet.words import (
    Assign,
    Condition,
    Exited,
    Forget,
    Hello,
    Limit,
    LimitTaken,
    LogAnswer,
    LogRange,
    MemberTruth,
    Notice,
    Readiness,
    Started,
    Stop,
    Usage,
)
from bursard.state import HOLD_MARGIN_US, AttemptRecord, MemberRecord, NodeRecord
from bursard.state.decide import attempts as decide
from bursard.state.decide import conduct, limits, machines, nodes, overdue, policies
from bursard.state.decide.nodes import Reading
from bursard.store import ChargeRow

log = logging.getLogger(__name__)


Secrets = Callable[[JobSpec], Mapping[str, str]]
STRANGERS_A_TURN = 1_000


def _no_secrets(spec: JobSpec) -> Mapping[str, str]:
    raise StoreUnavailable("secrets cannot be used: nothing here opens them")


def _kind(facts: NodeFacts) -> str:
    return facts.devices[0].type if facts.devices else ""


class Ordered(NamedTuple):
    """A time limit that an attempt is to live by; `order` 0: the one that it was placed with."""

    order: int
    time_limit_us: int

    @classmethod
    def of(cls, attempt: AttemptRecord) -> Ordered:
        """What the newest order says."""
        return cls(attempt.limit_order, attempt.wanted_limit_us or attempt.time_limit_us)


class Fleet:
    """Nodes by the backend that serves them, and the one listener that turns events into orders.

    Args:
        boot_id: of the daemon's own machine, so that what was anchored by its boot clock outlives a restart.
    """

    def __init__(
        self, engine: Engine, *, log_cap_bytes: int, run_as_submitter: bool, boot_id: str = "this boot"
    ) -> None:
        self.engine = engine
        self._boot_id = boot_id
        self._backends: dict[str, Backend] = {}
        self._heard: dict[str, int] = {}
        """The newest reading of each node's boot clock in this boot."""
        self._beats = Beats()
        self._lead: dict[str, int] = {}
        """How far each node's clock has shown itself ahead of its anchor, since that was taken."""
        self._small: dict[str, tuple[NodeFacts, str]] = {}
        """Nodes that hold more than they came with: what that was, and what they said of themselves."""
        self._conditions = Conditions()
        self._anchored: Counts[str] = Counts()
        """How often the anchor of each node's boot was taken again."""
        self.clocks = Clocks()
        self._orders: dict[str, Order] = {}
        self._log_cap_bytes = log_cap_bytes
        self._run_as_submitter = run_as_submitter
        self._durable = {attempt.id for attempt in engine.state.live_attempts()}
        """Live attempts whose placement is on disk: only these may be told to a backend."""
        self._limits = {one.id: Ordered.of(one) for one in engine.state.live_attempts()}
        """The time limits that live attempts are to live by, as far as that is on disk."""
        self.replicas = Replicas(engine, self._backends)
        self.secrets: Secrets = _no_secrets
        """Gives a job's secrets when a member is ordered to start; they are kept nowhere here."""
        self._deadlines = Deadlines(engine.state, engine.clock.boot_us())
        self._owed: deque[tuple[int, str, Forget]] = deque()
        engine.listeners += [self.on_event, self.clocks.on_event]

    # --- durable events go out

    def on_event(self, seq: int, event: Event, at: int, actor: str) -> None:
        """Tell the backends concerned. Called once the event is durable."""
        if isinstance(event, AttemptPlaced):
            attempt = self.engine.state.attempts.get(event.attempt_id)
            if attempt is not None:
                self._durable.add(attempt.id)
                self._orders[attempt.id] = self._order(attempt)
                self._limits[attempt.id] = Ordered(0, event.time_limit_us)
                self._deadlines.ordered(attempt, self.engine.clock.boot_us())
                for member in attempt.live():
                    self._assign(attempt, member)
        elif isinstance(event, LimitChanged):
            attempt = self.engine.state.attempts.get(event.attempt_id)
            if attempt is not None:
                self._limits[attempt.id] = Ordered(event.order, event.time_limit_us)
                for member in attempt.live():
                    self._limit(attempt, member)
        elif isinstance(event, Taken) and event.time_limit_us:
            self._deadlines.limited(event.attempt_id, self.engine.clock.boot_us())
        elif isinstance(event, MemberStarted):
            self.replicas.probe(event.attempt_id, event.rank)
        elif isinstance(event, StopRequested):
            attempt = self.engine.state.attempts.get(event.attempt_id)
            if attempt is not None:
                self._deadlines.stopped(attempt.id, self.engine.clock.boot_us())
                for member in attempt.live():
                    self._stop(attempt, member)
        elif isinstance(event, NodeRemoved):
            for known in (self._heard, self._lead, self._anchored, self._small):
                known.pop(event.node_id, None)
            self._beats.opened(event.node_id)
            self._conditions.forget(event.node_id)
        elif isinstance(event, AttemptEnded):
            self._durable.discard(event.attempt_id)
            self._orders.pop(event.attempt_id, None)
            self._limits.pop(event.attempt_id, None)
            self._deadlines.ended(event.attempt_id)
        while self._owed and self._owed[0][0] <= seq:
            _, node_id, forget = self._owed.popleft()
            self._send_forget(node_id, forget)

    def _limit_of(self, attempt: AttemptRecord, member: MemberRecord) -> int:
        """What a member is to live by. A place that is held until the first member's end has a limit that
        only stands in for a lost order.
        """
        limit_us = self._limits[attempt.id].time_limit_us
        if holds_its_place(self.engine.state.jobs[attempt.job_id].spec, member.alloc.rank):
            return limit_us + attempt.grace_us + HOLD_MARGIN_US
        return limit_us

    def _limit(self, attempt: AttemptRecord, member: MemberRecord) -> None:
        """Have a member live by what was ordered last, if it does not yet."""
        node_id, order = member.alloc.node_id, self._limits[attempt.id].order
        backend = self._backends.get(node_id)
        if backend is None or order != attempt.limit_order or member not in attempt.unlimited():
            return
        if not backend.takes_limits(node_id):
            name = self.engine.state.nodes[node_id].facts.name
            log.warning("an agent takes no other time limit", extra={"attempt": attempt.id, "node": name})
            return
        rank = member.alloc.rank
        backend.limit(node_id, Limit(attempt.id, rank, order, self._limit_of(attempt, member)))

    def refuse_deaf(self, attempt: AttemptRecord) -> None:
        """Raise `WrongState` where an agent in contact could not be told of another time limit. One that is
        out of contact is told when it is back, and until then nothing rests on it.
        """
        ids = [member.alloc.node_id for member in attempt.live()]
        deaf = [one for one in ids if one in self._backends and not self._backends[one].takes_limits(one)]
        if deaf:
            names = ", ".join(sorted(self.engine.state.nodes[one].facts.name for one in deaf))
            raise WrongState(
                f"the agent on {names} is of an older release, which keeps the time limit that a"
                " job began with; install this release there and restart the agent (jobs go on meanwhile),"
                " then ask again",
                {"nodes": names},
            )

    def _order(self, attempt: AttemptRecord) -> Order:
        heard = {m.alloc.rank: self._heard.get(m.alloc.node_id, 0) for m in attempt.members}
        return Order(self.engine.clock.boot_us(), heard)

    def _assign(self, attempt: AttemptRecord, member: MemberRecord) -> None:
        backend = self._backends.get(member.alloc.node_id)
        if backend is None:
            return
        if attempt.after and not backend.ahead(member.alloc.node_id):
            asyncio.get_running_loop().call_soon(self._comes_back, attempt.id)
            return
        job = self.engine.state.jobs[attempt.job_id]
        try:
            secrets = self.secrets(job.spec) if job.spec.secrets else {}
        except BursarError as error:
            asyncio.get_running_loop().call_soon(self._cannot_start, attempt.id, member, error.message)
            return
        environment = job_environment(self.engine.state, job, attempt, member)
        rank = member.alloc.rank
        name = self.engine.state.nodes[member.alloc.node_id].facts.name
        files = output_files(job, attempt, rank, name, environment)
        launch = launch_of(job.spec, environment, rank, secrets, files)
        holds = holds_its_place(job.spec, rank)
        order = Assign(
            attempt_id=attempt.id,
            rank=rank,
            boot_id=member.boot_id,
            job_id=job.id,
            time_limit_us=self._limit_of(attempt, member),
            grace_us=0 if holds else attempt.grace_us,
            checkpoint_signal="" if holds else job.spec.checkpoint.signal,
            user=job.user if self._run_as_submitter else "",
            memory_bytes=member.alloc.memory_bytes,
            cpu_milli=member.alloc.cpu_milli,
            log_cap_bytes=self._log_cap_bytes,
            launch=launch_to_bytes(launch),
            devices=member.alloc.devices,
            after=attempt.after,
        )
        backend.assign(member.alloc.node_id, order)

    # --- ahead of need

    def ahead(self, node_id: str) -> int:
        """How many members a node holds that wait for another's share."""
        backend = self._backends.get(node_id)
        return backend.ahead(node_id) if backend is not None else 0

    def take_back(self, attempt: AttemptRecord) -> None:
        """Have it back if it still waits for another's share. The answer is its end, as one that never
        started; none comes when it has its turn already.
        """
        node_id = attempt.members[0].alloc.node_id
        backend = self._backends.get(node_id)
        if backend is not None and attempt.after and attempt.id in self._durable:
            backend.stop(node_id, Stop(attempt.id, 0, EndCause.PREEMPTED.value, 0, only_waiting=True))

    def _comes_back(self, attempt_id: str) -> None:
        """It waits for a share of a node that holds no such order any more."""
        state = self.engine.state
        attempt = state.attempts.get(attempt_id)
        if attempt is not None and attempt.after:
            node = state.nodes[attempt.members[0].alloc.node_id]
            report = ExitReport(cause=EndCause.PREEMPTED, message="its node takes no work ahead of need")
            self.engine.commit(decide.exited(state, node, attempt_id, 0, report, 0), "bursard")

    def assign_again(self, node: NodeRecord, attempt_id: str, rank: int) -> None:
        """An order was not obeyed, for no fault of its job: give it again if it still stands (safe: J3)."""
        attempt = self.engine.state.attempts.get(attempt_id)
        if attempt is None or attempt_id not in self._durable or node.live.get(attempt_id) != rank:
            return
        if attempt.stop_cause is None:
            self._assign(attempt, attempt.members[rank])
            self._limit(attempt, attempt.members[rank])
        else:
            self._missing(node, attempt_id, rank, f"node:{node.facts.name}")

    def _cannot_start(self, attempt_id: str, member: MemberRecord, message: str) -> None:
        """A member that must not be ordered ends as one that could not start."""
        state = self.engine.state
        if attempt_id in state.attempts and member.report is None:
            node = state.nodes[member.alloc.node_id]
            report = ExitReport(cause=EndCause.START_FAILED, message=message[:500])
            events = decide.exited(state, node, attempt_id, member.alloc.rank, report, 0)
            self.engine.commit(events, "bursard")

    def _stop(self, attempt: AttemptRecord, member: MemberRecord) -> None:
        backend = self._backends.get(member.alloc.node_id)
        if backend is not None and attempt.stop_cause is not None:
            cause = attempt.stop_cause.value
            order = Stop(attempt.id, member.alloc.rank, cause, attempt.stop_grace_us)
            backend.stop(member.alloc.node_id, order)

    def _acknowledge(self, node_id: str, attempt_id: str, rank: int) -> None:
        """Let a node forget an end once everything known now is durable: one that forgot earlier could not
        tell it again after a crash.
        """
        forget, version = Forget(attempt_id, rank), self.engine.state.version
        if self.engine.writer.durable_seq >= version:
            self._send_forget(node_id, forget)
        else:
            self._owed.append((version, node_id, forget))

    def _send_forget(self, node_id: str, forget: Forget) -> None:
        backend = self._backends.get(node_id)
        if backend is not None:
            backend.forget(node_id, forget)

    async def read_log(self, node_id: str, wanted: LogRange) -> LogAnswer:
        """A piece of a member's log, from the node that has it. Raises `ServerUnavailable`."""
        backend = self._backends.get(node_id)
        if backend is None:
            node = self.engine.state.nodes.get(node_id)
            name = node.facts.name if node is not None else node_id
            raise ServerUnavailable(f"node {name}, which has the log, is out of contact; try again later")
        return await backend.read_log(node_id, wanted)

    # --- nodes come and go

    def hello(
        self, word: Hello, *, enrol: Sequence[Event] = (), refused: int = 0, checked: bool = False
    ) -> NodeRecord:
        """A node presents itself. It is served by nobody until `join`.

        Args:
            refused: how many of its hellos were refused since the last, as too many.
            checked: the door has read it, piece by piece.

        Raises:
            InvalidRequest: a field has no acceptable form.
        """
        if not checked:
            door.hello(word)
        state, now = self.engine.state, self.reading()
        door.known_kind(word.facts, state.cluster.kinds())
        actor = f"node:{word.facts.name}"
        known = state.node_by_name(word.facts.name)
        lies: list[str] = []
        kind_changed = known is not None and _kind(known.facts) != _kind(word.facts)
        if word.epoch > self.engine.log.epoch + believe.EPOCH_STEP_MAX:
            lies.append(f"it says that it obeyed epoch {word.epoch}, which no daemon can have had")
        boot_us = word.boot_us
        booted = known is not None and known.boot_id not in ("", word.boot_id)
        if known is not None and known.boot_id == word.boot_id:
            self._refuse_past(known, boot_us)
            self._renew_anchor(known, boot_us, now)
            self._note_lead(known, boot_us, now)
            boot_us, lie = believe.boot_reading(known, boot_us, now)
            lies.append(lie)
        spooled: dict[tuple[str, int], int] = {}
        for truth in word.truths:
            if known is not None and truth.exit is not None:
                held_us, lie = self._spooled(known, truth, truth.exit, now)
                lies.append(lie)
                spooled[truth.attempt_id, truth.rank] = held_us
        self._roll(now)
        joining = machines.welcome(state, self.engine.prices, word.facts.name, self.engine.now())
        hello = partial(
            nodes.hello,
            state,
            self.engine.ids,
            self.engine.prices,
            facts=word.facts,
            boot_id=word.boot_id,
            boot_us=boot_us,
            now=self.engine.now(),
            spooled=spooled,
            seen=now,
            refused=refused,
        )
        if joining:
            self.engine.commit_each([lambda: [*enrol, *joining], hello], actor)
        else:
            self.engine.commit([*enrol, *hello()], actor)
        node = state.node_by_name(word.facts.name)
        assert node is not None
        self._heard[node.id] = boot_us
        self._beats.opened(node.id)
        if booted:
            self._lead.pop(node.id, None)
            self._anchored.pop(node.id, None)
            self._misbehaved(node, conduct.BOOTED)
        if kind_changed:
            self._misbehaved(node, conduct.KIND_CHANGED)
        self._small.pop(node.id, None)
        if nodes.too_small(state, node, word.facts):
            self._small[node.id] = word.facts, ""
        self.condition(node, Condition(word.trouble))
        self.suspect(node, next((lie for lie in lies if lie), ""))
        return node

    def _refuse_past(self, node: NodeRecord, boot_us: int) -> None:
        behind_us = self._heard.get(node.id, 0) - boot_us
        if behind_us > believe.SLACK_US:
            raise ServerUnavailable(
                f"hello.boot_us: {behind_us // 1_000_000} s before what {node.facts.name} said before:"
                " a hello from the past, or a machine that was set back to an earlier moment; reboot it"
            )

    def _spooled(self, node: NodeRecord, truth: MemberTruth, end: Exited, now: Reading) -> tuple[int, str]:
        """What a member of an earlier boot may be billed for, from what its node still knows."""
        attempt = self.engine.state.attempts.get(truth.attempt_id)
        if attempt is None or node.live.get(attempt.id) != truth.rank:
            return 0, ""
        member = attempt.members[truth.rank]
        if not member.started_at:
            return 0, ""
        since = believe.boot_of(node, member.started_at)
        latest = believe.latest(node, now, self._lead.get(node.id, 0))
        return believe.held(attempt, member, end.held_us, since, latest, self._orders.get(attempt.id), now)

    def join(self, node: NodeRecord, backend: Backend) -> None:
        """A node is served: bring its processes and our books to one truth (R3)."""
        self._backends[node.id] = backend
        actor = f"node:{node.facts.name}"
        known: set[tuple[str, int]] = set()
        ran = {attempt_id for attempt_id, rank in node.live.items() if self._started_at(attempt_id, rank)}
        # As they were placed: of two that had one share, the end of the first makes room for the second.
        order = {attempt_id: place for place, attempt_id in enumerate(node.live)}
        truths = sorted(backend.adopt(node.id), key=lambda truth: order.get(truth.attempt_id, -1))
        strange = []
        for truth in truths:
            known.add((truth.attempt_id, truth.rank))
            if node.live.get(truth.attempt_id) == truth.rank:
                self._reconcile(node, truth)
            else:
                strange.append(truth)
        self._end_strangers(backend, node, strange)
        for attempt_id, rank in list(node.live.items()):
            if (attempt_id, rank) not in known:
                self._missing(node, attempt_id, rank, actor)
        if ran - {attempt_id for attempt_id, _ in known}:
            self._misbehaved(node, conduct.LOST)
        self._deadlines.joined(node, self.engine.clock.boot_us())

    def _started_at(self, attempt_id: str, rank: int) -> int:
        return self.engine.state.attempts[attempt_id].members[rank].started_at

    def _end_strangers(self, backend: Backend, node: NodeRecord, strange: Sequence[MemberTruth]) -> None:
        """What a node tells of and our books do not have there is ended, or forgotten; so many a turn, since
        an agent may tell of 50,000.
        """
        if self._backends.get(node.id) is not backend:
            return
        running = 0
        for truth in strange[:STRANGERS_A_TURN]:
            lie = believe.not_its_own(self.engine.state, node, truth.attempt_id, truth.rank)
            self.suspect(node, lie, truth.attempt_id)
            if truth.running:
                running += 1
                backend.stop(node.id, Stop(truth.attempt_id, truth.rank, EndCause.CANCELLED.value, 0))
            else:
                self._acknowledge(node.id, truth.attempt_id, truth.rank)
        if running:
            told = {"node": node.facts.name, "count": running, "first": strange[0].attempt_id}
            log.warning("unknown attempts run on a node; they are ended", extra=told)
        if len(strange) > STRANGERS_A_TURN:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._end_strangers, backend, node, strange[STRANGERS_A_TURN:])

    def _reconcile(self, node: NodeRecord, truth: MemberTruth) -> None:
        attempt = self.engine.state.attempts[truth.attempt_id]
        if truth.running:
            if truth.pid:
                self.started(node, Started(truth.attempt_id, truth.rank, truth.pid, truth.started_boot_us))
            self._limit(attempt, attempt.members[truth.rank])
            self.replicas.probe(truth.attempt_id, truth.rank)
            self._stop(attempt, attempt.members[truth.rank])
        elif truth.exit is not None:
            report = door.exit_report(truth.exit)
            self._ended(node, truth.attempt_id, truth.rank, report, truth.started_boot_us)

    def _missing(self, node: NodeRecord, attempt_id: str, rank: int, actor: str) -> None:
        """The node holds a member that its backend knows nothing of."""
        state = self.engine.state
        attempt = state.attempts[attempt_id]
        member = attempt.members[rank]
        if member.started_at:
            message = "its agent has no trace of it"
            self._hand_over(attempt, member.charged_us)
            self.engine.commit(decide.lost(state, node, attempt_id, rank, message), actor)
        elif attempt.stop_cause is not None:
            report = ExitReport(cause=attempt.stop_cause, message="stopped before it started")
            self.engine.commit(decide.exited(state, node, attempt_id, rank, report, 0), actor)
            self._acknowledge(node.id, attempt_id, rank)
        elif attempt.id in self._durable:
            # The assignment may have been lost on its way; saying it again is safe (J3). One that is
            # not yet durable is said when it is.
            self._assign(attempt, member)
            self._limit(attempt, member)

    def leave(self, node: NodeRecord, backend: Backend) -> bool:
        """A backend serves a node no longer, or never came to. False when another has taken its place."""
        if self._backends.get(node.id, backend) is not backend:
            return False
        self._backends.pop(node.id, None)
        self.engine.commit(nodes.silent(self.engine.state, node), "bursard")
        return True

    def remove(self, node: NodeRecord) -> list[Event]:
        """The events that take a node out for good. Raises `WrongState` while anything of it is live."""
        latest_us = believe.latest(node, self.reading())
        until = node.axis(latest_us) if latest_us is not None else node.through
        return nodes.remove(self.engine.state, self.engine.prices, node, until)

    def unheard(self) -> list[ChargeRow]:
        """What silent nodes cost since their last reports, as rows that are in no book yet, a day each."""
        found: list[ChargeRow] = []
        for node in self.engine.state.nodes.values():
            latest_us = believe.latest(node, self.reading())
            if not node.connected and latest_us is not None:
                found += unheard_rows(self.engine.state, node, nodes.unheard(node, node.axis(latest_us)))
        return found

    # --- what is overdue

    async def keep_deadlines(self) -> None:
        """Look after what nodes in contact owe, for ever."""
        while True:
            more = self.look()
            await asyncio.sleep(0 if more else LOOK_EVERY_S)

    def look(self) -> bool:
        """Tell what is overdue now, and ask for it again. True when there may be more."""
        self._resize()
        for node_id, said in self._conditions.due(self.engine.clock.boot_us()):
            self._says(self.engine.state.nodes[node_id], said)
        late = self._deadlines.look(self.reading(), self._backends.keys())
        for attempt, member, phase, known in late:
            if known:
                self._stop(attempt, member)
            elif member.alloc.rank not in attempt.overdue and member.report is None:
                name = self.engine.state.nodes[member.alloc.node_id].facts.name
                log.warning("an attempt is overdue", extra={"attempt": attempt.id, "node": name, "of": phase})
                self.engine.commit(overdue.overdue(self.engine.state, attempt, member, phase), "bursard")
        return len(late) == LATE_MAX

    # --- what backends report

    def reading(self) -> Reading:
        """The daemon's clocks, now."""
        return Reading(self._boot_id, self.engine.clock.boot_us(), self.engine.now())

    def heartbeat(self, node: NodeRecord, boot_us: int, wall_at: int = 0) -> None:
        """A node gives a reading of its boot clock, and says what time it takes it for."""
        self._beats.heard(node.id, self._heard_boot(node, boot_us), node.trouble)
        self.clocks.heard(node, wall_at, self.engine.now())

    def condition(self, node: NodeRecord, word: Condition) -> None:
        """What keeps a node from starting anything. What is known already changes nothing, and what comes too
        often waits for its turn.
        """
        if node.trouble or word.trouble:
            self._beats.troubled(node.id, self._heard.get(node.id, 0))
        self._says(node, door.condition(word))

    def notice(self, node: NodeRecord, word: Notice) -> None:
        """Its machine is about to be taken back: no new work, and what runs there is stopped in time."""
        events = conduct.noticed(self.engine.state, node, door.notice(word), word.left_us, word.advice)
        self.engine.commit(events, f"node:{node.facts.name}")

    def readiness(self, node: NodeRecord, word: Readiness) -> None:
        """A replica is ready, or not any more."""
        self.replicas.readiness(node, word)

    def _says(self, node: NodeRecord, said: str) -> None:
        trouble = said
        if node.id in self._small:
            facts, _ = self._small[node.id]
            self._small[node.id] = facts, said
            trouble = said or nodes.too_small(self.engine.state, node, facts)
        if trouble == node.trouble:
            self._conditions.known(node.id)
            return
        if not self._conditions.take(node.id, said, self.engine.clock.boot_us()):
            return
        events = conduct.condition(node, trouble, self.engine.now())
        self.engine.commit(events, f"node:{node.facts.name}")

    def _resize(self) -> None:
        """Nodes whose jobs fit by now what they came with get that size."""
        state = self.engine.state
        for node_id, (facts, trouble) in list(self._small.items()):
            node = state.nodes[node_id]
            if not nodes.too_small(state, node, facts):
                del self._small[node_id]
                now = self.engine.now()
                events = nodes.resized(state, node, facts, self.engine.prices, now, trouble)
                self.engine.commit(events, f"node:{facts.name}")

    def started(self, node: NodeRecord, word: Started) -> None:
        """A member runs. What is known already, or is over, changes nothing."""
        door.started(word)
        state, now = self.engine.state, self.reading()
        lie = believe.not_its_own(state, node, word.attempt_id, word.rank)
        attempt = state.attempts.get(word.attempt_id)
        if attempt is not None and not lie:
            lie = believe.has_no_room(attempt)
        if attempt is not None and not lie and attempt.members[word.rank].report is None:
            self._renew_anchor(node, word.boot_us, now)
            order = self._orders.get(attempt.id)
            word, lie = believe.started(node, attempt.members[word.rank], word, order, now)
            events = decide.started(state, node, word.attempt_id, word.rank, word.boot_us, word.pid)
            self.engine.commit(events, f"node:{node.facts.name}")
        self.suspect(node, lie, word.attempt_id)

    def exited(self, node: NodeRecord, word: Exited) -> None:
        """A member ended. What is already known is acknowledged again."""
        started_boot_us = word.started_boot_us if word.started else 0
        self._ended(node, word.attempt_id, word.rank, door.exited(word), started_boot_us)

    def _ended(
        self, node: NodeRecord, attempt_id: str, rank: int, report: ExitReport, started_boot_us: int
    ) -> None:
        """A member ended, as the door has read it."""
        state, now = self.engine.state, self.reading()
        lie = believe.not_its_own(state, node, attempt_id, rank)
        attempt = state.attempts.get(attempt_id)
        if attempt is None or lie or attempt.members[rank].report is not None:
            self.suspect(node, lie, attempt_id)
            self._acknowledge(node.id, attempt_id, rank)
            return
        no_room = believe.has_no_room(attempt) if started_boot_us else ""
        if no_room:
            started_boot_us, lie = 0, no_room
        self._renew_anchor(node, started_boot_us + report.held_us, now)
        member, order = attempt.members[rank], self._orders.get(attempt_id)
        if member.started_at:
            started_boot_us = believe.boot_of(node, member.started_at)
        elif started_boot_us:
            start = Started(attempt_id, rank, 1, started_boot_us)
            start, lie = believe.started(node, member, start, order, now)
            started_boot_us = start.boot_us
        latest, beat = believe.latest(node, now, self._lead.get(node.id, 0)), self._beats.sure(node.id)
        report, wrong = believe.held_to_its_end(
            attempt, node, member, report, started_boot_us, latest, order, now, beat
        )
        lie = lie or wrong
        report = believe.consumed(node.facts, member, report)
        kept = believe.end(attempt, member, node, report, bool(started_boot_us or no_room))
        self._roll(now, node.axis(started_boot_us + kept.held_us) if started_boot_us else 0)
        events = decide.exited(state, node, attempt_id, rank, kept, started_boot_us)
        self._hand_over(attempt, kept.held_us)
        self.engine.commit([*events, *self._judge(node, attempt, report, kept)], f"node:{node.facts.name}")
        if attempt_id in state.attempts:
            self.engine.commit(limits.left_behind(attempt, rank), "bursard")
        self._acknowledge(node.id, attempt_id, rank)
        self.suspect(node, lie, attempt_id)

    def _hand_over(self, attempt: AttemptRecord, held_us: int) -> None:
        """One that had a share ends, after so long: what was ordered in its place began no earlier."""
        following = self.engine.state.behind.get(attempt.id, "") if not attempt.after else ""
        if following in self._orders:
            before = self._orders.get(attempt.id)
            self._orders[following] = believe.handed_over(self._orders[following], before, held_us)

    def _judge(
        self, node: NodeRecord, attempt: AttemptRecord, said: ExitReport, kept: ExitReport
    ) -> list[Event]:
        """What an end tells about its node. What its job's own words keep from starting is no such end: that
        is told as `failed`; and a node that says itself that it can start nothing gets nothing meanwhile.
        """
        if node.trouble and kept.cause is EndCause.START_FAILED:
            return []
        if said.cause is EndCause.NODE_LOST and kept.cause is not EndCause.NODE_LOST:
            return conduct.misbehaved(node, conduct.LOST, self.engine.now())
        if kept.cause is not EndCause.START_FAILED or attempt.stop_cause is not None:
            return []
        job = self.engine.state.jobs[attempt.job_id]
        return conduct.not_started(node, job, kept.message, self.engine.now())

    def _misbehaved(self, node: NodeRecord, how: str) -> None:
        self.engine.commit(conduct.misbehaved(node, how, self.engine.now()), "bursard")

    def misanswered(self, node: NodeRecord) -> None:
        """A node gave an answer that is none to what it was asked."""
        if node.mode != "quarantine":  # callers ask as often as they like: it is told until it is enough
            self._misbehaved(node, conduct.MISANSWERED)

    def limit_taken(self, node: NodeRecord, word: LimitTaken) -> None:
        """A member lives by another time limit, or says why not. What is known, or old, changes nothing."""
        problem = door.limit_taken(word)
        lie = believe.not_its_own(self.engine.state, node, word.attempt_id, word.rank)
        attempt = self.engine.state.attempts.get(word.attempt_id)
        if attempt is not None and not lie:
            if problem:
                events = limits.refused(attempt, word.rank, word.order, problem)
            else:
                ran_us = self._ran_us(node, attempt, attempt.members[word.rank])
                events = limits.taken(attempt, word.rank, word.order, ran_us)
            self.engine.commit(events, f"node:{node.facts.name}")
        self.suspect(node, lie, word.attempt_id)

    def _ran_us(self, node: NodeRecord, attempt: AttemptRecord, member: MemberRecord) -> int:
        """How long a member can have run by now at most, by the daemon's own clock; as long as it may where
        that cannot tell.
        """
        now, order = self.reading(), self._orders.get(attempt.id)
        latest_us = believe.latest(node, now, self._lead.get(node.id, 0))
        if not member.started_at:
            return attempt.time_limit_us if order is None else now.boot_us - order.boot_us
        if latest_us is None:
            return attempt.time_limit_us
        return max(latest_us - believe.boot_of(node, member.started_at), member.charged_us)

    def usage(self, node: NodeRecord, word: Usage) -> int:
        """Counters of a node. Returns the sequence number after which they may be trimmed."""
        word = door.known_counters(word, len(node.live), self.engine.state.attempts)
        door.usage(word)
        state, now = self.engine.state, self.reading()
        lie = ""
        if word.boot_id == node.boot_id:
            self._renew_anchor(node, word.at_boot_us, now)
            self._note_lead(node, word.at_boot_us, now)
            word, lie = believe.usage(state, node, word, self._orders, now)
        events: list[Event] = []
        if node.axis(word.at_boot_us) - node.through >= believe.METER_MIN_US:
            # What came into force since the last look values its own part of the interval.
            self.engine.commit(nodes.reprice(state, self.engine.prices, now.at, (node,)), "bursard")
            self._roll(now, node.axis(word.at_boot_us))
            events = nodes.usage(
                state,
                node,
                boot_id=word.boot_id,
                at_boot_us=word.at_boot_us,
                counters=[(c.attempt_id, c.rank, c.held_us) for c in word.counters],
            )
        seq = self.engine.commit(events, f"node:{node.facts.name}")
        self.suspect(node, lie)
        return seq

    def _roll(self, now: Reading, until: int = 0) -> None:
        """Before anything is charged, up to an instant of its node's time, which may be ahead of now: a
        period that is over takes in nothing of the next one, however long ago housekeeping looked.
        """
        state = self.engine.state
        at = until if any(record.period_end <= until for record in state.due(until)) else now.at
        if state.due(at):
            self.engine.commit(policies.roll_periods(state, at), "bursard")

    # --- who says what cannot be

    def _heard_boot(self, node: NodeRecord, boot_us: int) -> int:
        now = self.reading()
        self._renew_anchor(node, boot_us, now)
        self._note_lead(node, boot_us, now)
        boot_us, lie = believe.boot_reading(node, boot_us, now)
        self._heard[node.id] = max(self._heard.get(node.id, 0), boot_us)
        self.suspect(node, lie)
        return boot_us

    def _note_lead(self, node: NodeRecord, boot_us: int, now: Reading) -> None:
        self._lead[node.id] = max(self._lead.get(node.id, 0), believe.lead(node, boot_us, now))

    def _renew_anchor(self, node: NodeRecord, boot_us: int, now: Reading) -> None:
        """The hello that anchored this boot may have been long on its way, which the first later reading
        shows. As long as nothing rests on the anchor it is taken again, so that no honest node looks ahead
        of its time. A few times only: more is no delay.
        """
        if self._anchored[node.id] >= believe.ANCHORS_MAX:
            return
        ahead_us = boot_us - believe.bounds(node, now).latest_us
        if ahead_us > believe.MEMBER_SLACK_US and believe.unbilled(self.engine.state, node):
            self.engine.commit(
                nodes.reprice(self.engine.state, self.engine.prices, now.at, (node,)), "bursard"
            )
            events = nodes.anchored(self.engine.state, node, boot_us, self.engine.now(), now)
            self.engine.commit(events, f"node:{node.facts.name}")
            self._lead.pop(node.id, None)
            self._anchored[node.id] += 1

    def suspect(self, node: NodeRecord, lie: str, attempt_id: str = "") -> None:
        """A node that says what cannot be gets no new work until somebody has looked at it. Everybody sees
        the reason, so it names no attempt: which one it was, where one alone is meant, the log alone says.
        """
        if lie and node.mode != "quarantine":
            told = {"node": node.facts.name, "reason": lie}
            log.warning("a node is quarantined", extra=told | ({"attempt": attempt_id} if attempt_id else {}))
            self.engine.commit([NodeQuarantined(node.id, lie)], "bursard")
