"""Place: what a plan wants, checked against now, and made true group by group.

Owns    the only way from a plan to events; the daemon's cycle and the simulator both take it.
Why     a plan was made of a moment that has passed, perhaps in another thread. Each group of actions is held
        against the state as it is: either all of it becomes events, or none, and then there is a reason.
        What was dropped is not lost: the next plan looks again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import msgspec

from bursar.ids import Ids
from bursar.model import EndCause, Hold, JobSpec, MemberAllocation, Reason, ReasonCode
from bursar_policies.decision import (
    UNCOMPUTABLE,
    Action,
    Holding,
    JobClass,
    NodeColumns,
    Placement,
    Plan,
    QueueKey,
    Snapshot,
    Start,
    Stop,
    Verdict,
)
from bursar_policies.specs import STOPPING, QuotaSpec
from bursard.events import AttemptPlaced, Event, StopRequested
from bursard.scheduler import PlanCache, limited, making_room, plan, reason_of, stages
from bursard.scheduler.quotas import (
    uses_of,
)
from bursard.state import (
    JobRecord,
    NodeRecord,
    State,
)

Commit = Callable[[str, Sequence[Event]], bool]
"""Makes events true at once, all or none; False when they could not be applied. First what it is about."""
_SAME_FOR_ALL = ("room", "fault", UNCOMPUTABLE)
"""What stops a job whatever its time limit, so that one sentence serves all of a queue."""
PORTS_TRIED = 16
"""Replicas that end in a row begin so far apart."""
GANG_PORT_FIRST = 29_500
"""Rendezvous ports of gangs count up from torch's own default."""


class Dropped(msgspec.Struct, frozen=True):
    """A group that was not done. `action`: the one of it that no longer holds."""

    group: tuple[Action, ...]
    action: Action
    reason: Reason


class Outcome(msgspec.Struct, frozen=True):
    """What became of a plan. `done`: actions carried out."""

    done: int
    dropped: tuple[Dropped, ...]

    @property
    def stale(self) -> bool:
        """Something was dropped that another plan, made of what is true now, may do."""
        return any(one.reason.code is not ReasonCode.MISCONFIGURED for one in self.dropped)


class Pass(NamedTuple):
    """One pass: what was seen, what was wanted, what became of it."""

    snapshot: Snapshot
    plan: Plan
    outcome: Outcome


def one_pass(state: State, ids: Ids, now: int, commit: Commit, cache: PlanCache | None = None) -> Pass:
    """Plan on the state as it is, and do it at once."""
    snapshot = state.snapshot()
    answer = plan(snapshot, now, cache)
    return Pass(snapshot, answer, carry_out(state, ids, snapshot, answer, commit))


def carry_out(state: State, ids: Ids, snapshot: Snapshot, wanted: Plan, commit: Commit) -> Outcome:
    """Do what still holds of a plan. `commit` makes events true at once: later groups see them.

    Of a user with very many queues, the next plan is shown others.
    """
    done = 0
    dropped = []
    promises = Promises(state, snapshot)
    for group in wanted.groups:
        answer = verify(state, ids, snapshot, group, promises)
        if isinstance(answer, Dropped):
            dropped.append(answer)
        elif commit(_subject(group[0]), answer):
            done += len(group)
        else:
            reason = Reason(ReasonCode.MISCONFIGURED, "the state refused it", "see the daemon's log")
            dropped.append(Dropped(group, group[0], reason))
    state.pending.turn()
    return Outcome(done, tuple(dropped))


class Promises:
    """What quotas guarantee, of a snapshot and now, and which places are kept. A plan has worked out what may
    be taken of it, its own actions among that: so what matters is what others have changed since. Made
    before it is carried out.
    """

    def __init__(self, state: State, snapshot: Snapshot) -> None:
        self._seen, self._now = snapshot, state.quotas.holdings()
        self._specs = dict(state.quotas.specs)
        self._same = _guaranteed(snapshot.quotas) == _guaranteed(self._specs)
        self._guarantees = bool(_guaranteed(self._specs))
        self._nodes: NodeColumns | None = state.cluster.columns() if self._guarantees else None

    @cached_property
    def moved(self) -> str:
        """What of all that is guaranteed is otherwise by now, so that what may not be stopped has to be
        looked at anew; "" when nothing is.
        """
        if not self._same:
            return "what quotas guarantee is otherwise by now"
        if self._nodes is None:
            return ""
        planned = self._seen.nodes.ready
        if bool((planned & ~self._nodes.ready[: len(planned)]).any()):
            return "a node that guarantees rest on takes no work any more"
        pinned = {one for one, holding in self._now.items() if holding.pinned}
        if any(one not in self._seen.holdings or not self._seen.holdings[one].pinned for one in pinned):
            return "more runs that may not be stopped, so that guarantees have less room"
        return ""

    @cached_property
    def places(self) -> dict[str, tuple[int, int, int]]:
        """What the plan knew of places that are kept, by job: from when to when, and of which alternative."""
        return {one.job_id: (one.start, one.until, one.option) for one in self._seen.promises}

    def not_owed(self, stop: Stop) -> str:
        """Why an attempt need not give back what a quota guarantees any more; "" when it still has to."""
        if not self._same:
            return "what quotas guarantee is otherwise by now"
        if self._now is self._seen.holdings:
            return ""
        if self._more(stop.quota):
            return f"more of the guarantee of quota {stop.quota} is used by now"
        seen, now = self._seen.holdings.get(stop.attempt_id), self._now.get(stop.attempt_id)
        theirs = now.quotas if now is not None else ()
        sheltering = [name for name in theirs if self._specs[name].guaranteed]
        if seen is None or theirs != seen.quotas or any(self._less(name) for name in sheltering):
            return f"attempt {stop.attempt_id} may be within its own guarantee by now"
        return ""

    def _more(self, name: str) -> bool:
        before, now = self._used(self._seen.holdings, name), self._used(self._now, name)
        return any(now[resource] > before[resource] for resource, _ in self._specs[name].guaranteed)

    def _less(self, name: str) -> bool:
        before, now = self._used(self._seen.holdings, name), self._used(self._now, name)
        return any(now[resource] < before[resource] for resource, _ in self._specs[name].guaranteed)

    @staticmethod
    def _used(holdings: Mapping[str, Holding], name: str) -> Counter[str]:
        found = Counter[str]()
        for holding in holdings.values():
            if name in holding.quotas:
                found.update(dict(holding.uses))
        return found


def verify(
    state: State, ids: Ids, snapshot: Snapshot, group: Sequence[Action], promises: Promises | None = None
) -> list[Event] | Dropped:
    """The events of a whole group, or the first thing in it that the world has moved away from."""
    check = _Check(state, ids, snapshot, promises or Promises(state, snapshot))
    for action in group:
        if isinstance(action, Start):
            reason = check.start(action)
        elif isinstance(action, Stop):
            reason = check.stop(action)
        else:
            kind = type(action).__name__.lower()
            reason = Reason(
                ReasonCode.MISCONFIGURED, f"{kind} is not built", "use policies that do not ask it"
            )
        if reason is not None:
            return Dropped(tuple(group), action, reason)
    return check.events


class _Check:
    """One group as it is checked: what its earlier actions take is no longer there for its later ones."""

    def __init__(self, state: State, ids: Ids, snapshot: Snapshot, promises: Promises) -> None:
        self.events: list[Event] = []
        self._promises = promises
        self._state = state
        self._ids = ids
        self._snapshot = snapshot
        self._started: set[str] = set()
        self._stopped: set[str] = set()
        self._taken: dict[int, list[Placement]] = {}
        self._held: dict[str, int] = {}
        self._uses: list[Counter[str]] = []
        self._ports: set[tuple[str, int]] = set()

    def start(self, start: Start) -> Reason | None:
        """Still pending, as it was; still free, at that price; still within every hard budget."""
        state = self._state
        job = state.jobs.get(start.job_id)
        key = state.pending.key_of(start.job_id)
        if job is None or key is None or start.job_id in self._started:
            return _gone(f"job {start.job_id} no longer waits")
        same = _same(key[0], self._snapshot.queues[start.queue].job_class)
        if not same or state.pending.limit_of(start.job_id) != start.asked_us:
            return _gone(f"job {start.job_id} asks for something else by now")
        if any(self._staged_since(name) for name in job.budgets):
            return _gone(f"a budget of job {start.job_id} has come into another stage")
        if (reason := self._quotas(job, key[0], start)) is not None:
            return reason
        if self._promised_since(start):
            return _gone(f"places are kept for others by now where job {job.id} was to start")
        if self._reserved_since(job, key[0]):
            return _gone(f"other nodes are reserved by now, or not for job {job.id}")
        for placement in start.members:
            if (reason := self._room(placement)) is not None:
                return reason
        holds = holds_for(state, job, start.hold_nanos, self._held)
        if isinstance(holds, Reason):
            return holds
        hard = key[0].budgets
        first = state.budgets.first_us(job.spec, hard, job.likely_us)
        if bool(first) != bool(start.full_limit_us):
            return _gone(f"budgets of job {job.id} hold otherwise by now")
        self._started.add(start.job_id)
        self._uses.append(uses_of(self._snapshot.nodes, start.members))
        self.events.append(
            self._placed(job, start, holds, state.budgets.lease_us(job.spec, hard) if first else 0)
        )
        return None

    def stop(self, stop: Stop) -> Reason | None:
        """Still live, not yet asked to end, and it still may be; who gets its place still waits."""
        attempt = self._state.attempts.get(stop.attempt_id)
        if attempt is None or attempt.stop_cause is not None or stop.attempt_id in self._stopped:
            return _gone(f"attempt {stop.attempt_id} has ended or is ending")
        if stop.for_job and self._state.pending.key_of(stop.for_job) is None:
            return _gone(f"job {stop.for_job} no longer waits")
        if stop.cause is EndCause.PREEMPTED and not self._state.jobs[attempt.job_id].spec.preemptible:
            return _gone(f"attempt {stop.attempt_id} may not be stopped for others any more")
        if stop.quota and (why := self._promises.not_owed(stop)):
            return _gone(why)
        self._stopped.add(stop.attempt_id)
        self.events.append(
            StopRequested(stop.attempt_id, stop.cause, attempt.grace_us, stop.message, stop.for_job)
        )
        return None

    def _quotas(self, job: JobRecord, job_class: JobClass, start: Start) -> Reason | None:
        """Still counted by the same quotas, and none of them is passed."""
        state, seen = self._state, self._snapshot.quotas
        if not state.quotas and not seen:
            return None
        counted = job_class.quotas, job_class.pinned, job_class.rated
        now = state.quotas.specs
        moved = state.counted_by(job.user, job.spec) != counted
        moved = moved or any(seen.get(name) != now.get(name) for name in job_class.quotas)
        if moved:
            return _gone(f"the quotas of job {job.id} are others by now")
        if job_class.pinned and self._promises.moved:
            return _gone(self._promises.moved)
        uses = uses_of(self._snapshot.nodes, start.members)
        for other in self._uses:
            uses.update(other)  # of the same group, whoever counts it: groups are small
        beyond = state.quotas.beyond(job_class.quotas, uses)
        if beyond is not None:
            return _gone(f"quota {beyond[0]} no longer has so much of {beyond[1]} for job {job.id}")
        return None

    def _staged_since(self, name: str) -> bool:
        """Is a budget in another stage than the plan saw it in?"""
        seen, record = self._snapshot.budgets.get(name), self._state.budgets.records.get(name)
        if seen is None or record is None:
            return False  # it is not in force on one of the sides, which is another matter
        return seen.stages != self._state.budgets.stages(record, self._state.ledger)

    def _reserved_since(self, job: JobRecord, job_class: JobClass) -> bool:
        """Are other nodes reserved than the plan saw, or for others than the job's class says?"""
        seen, table = self._snapshot.reservations, self._state.reservations
        if table.specs is not seen and table.specs != seen:
            return True
        return bool(table) and table.for_whom(job.user, job.spec.project) != job_class.reservations

    def _promised_since(self, start: Start) -> bool:
        """Are places kept on its nodes that the plan did not know of?"""
        state = self._state
        if not state.promises:
            return False
        seen = self._promises.places
        for member in start.members:
            for job_id in state.promises.on_node.get(state.cluster.ids[member.node], ()):
                promise = state.promises.given[job_id].promise
                if promise is None or job_id == start.job_id:
                    continue
                option = 0 if promise.size is not None else promise.option
                if seen.get(job_id) != (promise.start, promise.until, option):
                    return True
        return False

    def _room(self, placement: Placement) -> Reason | None:
        cluster, row, planned = self._state.cluster, placement.node, self._snapshot.nodes
        name = planned.names[row]
        if not cluster.same(row, planned):
            return _gone(f"node {name} is another than it was planned for")
        taken = self._taken.setdefault(row, [])
        if self._state.nodes[cluster.ids[row]].doubtful and (taken or not cluster.ready[row]):
            return _gone(f"node {name} could not start what it was given last: it gets one job at a time")
        devices = [(share.index, share.milli) for share in placement.devices]
        for other in taken:
            devices += [(share.index, share.milli) for share in other.devices]
        sums: dict[int, int] = {}
        for index, milli in devices:
            sums[index] = sums.get(index, 0) + milli
        cpu_milli = placement.cpu_milli + sum(other.cpu_milli for other in taken)
        memory_bytes = placement.memory_bytes + sum(other.memory_bytes for other in taken)
        if not cluster.fits(row, cpu_milli, memory_bytes, tuple(sums.items())):
            return Reason(
                ReasonCode.WAITING_FOR_RESOURCES,
                f"node {name} no longer has the room it was planned with",
                "the next plan looks again",
                (("node", name),),
            )
        taken.append(placement)
        return None

    def _placed(self, job: JobRecord, start: Start, holds: tuple[Hold, ...], lease: int) -> AttemptPlaced:
        state = self._state
        nodes = [state.nodes[state.cluster.ids[placement.node]] for placement in start.members]
        members = tuple(
            MemberAllocation(
                rank=rank,
                node_id=node.id,
                devices=placement.devices,
                cpu_milli=placement.cpu_milli,
                memory_bytes=placement.memory_bytes,
                rates=placement.rates,
                price_id=node.price_id,
            )
            for rank, (placement, node) in enumerate(zip(start.members, nodes, strict=True))
        )
        return AttemptPlaced(
            attempt_id=self._ids.new("att"),
            job_id=job.id,
            number=len(job.attempts) + 1,
            option=state.option_of(job.id, start.option),
            members=members,
            time_limit_us=start.time_limit_us,
            grace_us=state.grace_of(job.spec),
            holds=holds,
            currency=state.currency,
            why=start.why,
            port=self._port_of(job, nodes[0]) if _meets(job.spec, len(nodes)) else 0,
            cut_by_budget=start.time_limit_us < (start.asked_us or state.time_limit_of(job.spec)),
            lease_us=lease,
            full_limit_us=start.full_limit_us,
        )

    def _port_of(self, job: JobRecord, node: NodeRecord) -> int:
        service = job.spec.service
        if service is None:
            return self._port(node.id)
        # Nodes may be one machine, with one loopback. A start that failed may have met another's port.
        used = {one.port for one in self._state.attempts.values()} | {port for _, port in self._ports}
        port = service.port + job.free_retries % PORTS_TRIED
        while port in used:
            port += 1
        self._ports.add((node.id, port))
        return port

    def _port(self, node_id: str) -> int:
        state = self._state
        live = (state.attempts.get(attempt_id) for attempt_id in state.nodes[node_id].live)
        used = {attempt.port for attempt in live if attempt is not None}
        port = GANG_PORT_FIRST
        while port in used or (node_id, port) in self._ports:
            port += 1
        self._ports.add((node_id, port))
        return port


def _meets(spec: JobSpec, nodes: int) -> bool:
    """Has a start of this size a port of its own, for its members to meet or for others to reach it?"""
    return nodes > 1 or spec.max_nodes > 0 or spec.service is not None


def _guaranteed(quotas: Mapping[str, QuotaSpec]) -> dict[str, QuotaSpec]:
    return {name: spec for name, spec in quotas.items() if spec.guaranteed}


def _subject(action: Action) -> str:
    return str(getattr(action, action.__struct_fields__[0]))


def holds_for(
    state: State, job: JobRecord, nanos: int, promised: dict[str, int]
) -> tuple[Hold, ...] | Reason:
    """What one start holds in each of its job's budgets, or which of them no longer has room for it.

    Args:
        promised: by budget, what was decided and is no event yet; this start's part is added to it.
    """
    if state.outdated(job):
        return _gone(f"job {job.id} is covered by other budgets by now")
    holds = []
    aside = state.promises.budgets_of(job.id)  # what was promised to it is its own
    for name in job.budgets:
        record = state.budgets.records[name]
        seen = state.budgets.room(record, state.ledger)
        if (stage := seen.stage(*STOPPING)) is not None:
            return stages.reason(seen, stage)
        own = job.promise.nanos if job.promise is not None and name in aside else 0
        if seen.beyond(promised.get(name, 0) + nanos - own):
            return stages.unapproved(seen, nanos, promised.get(name, 0), job.spec.service is not None)
        room = seen.room_nanos + own
        room -= promised.get(name, 0)
        if record.hard and nanos > room:
            return Reason(
                ReasonCode.BUDGET_COMMITTED,
                f"budget {name} no longer has room for the hold",
                "the next plan looks again",
                (("budget", name), ("room", str(room)), ("needed", str(nanos))),
            )
        holds.append(Hold(name, record.period_start, nanos))
    if job.spec.caps_array:
        cap = state.cap_room(state.jobs[job.parent_id])
        room = cap.room_nanos - promised.get(cap.name, 0)
        if nanos > room:
            return Reason(
                ReasonCode.BUDGET_COMMITTED,
                f"max_cost of array {cap.array} no longer has room for the hold",
                "the next plan looks again",
                (("array", cap.array), ("room", str(room)), ("needed", str(nanos))),
            )
        promised[cap.name] = promised.get(cap.name, 0) + nanos
    for hold in holds:
        promised[hold.budget] = promised.get(hold.budget, 0) + nanos
    return tuple(holds)


def _same(now: JobClass, planned: JobClass) -> bool:
    return now is planned or now == planned


def _gone(message: str) -> Reason:
    return Reason(ReasonCode.NONE, message, "the next plan looks again")


class LastPlan:
    """The plan made last and what it was made of, for whoever asks why a job waits."""

    def __init__(self, snapshot: Snapshot, made: Plan) -> None:
        self.snapshot = snapshot
        self.plan = made
        self._index: dict[QueueKey, int] | None = None
        self._reasons: dict[tuple[int, Verdict], Reason] = {}

    def blocked(self) -> dict[QueueKey, int]:
        """Queues of which something did not start: their index in the snapshot."""
        if self._index is None:
            queues = self.snapshot.queues
            self._index = {queues[index].key: index for index in self.plan.verdicts}
        return self._index

    def reason(self, key: QueueKey, job_id: str) -> Reason | None:
        """Why a job of a queue waits; None when the plan did not see the queue, or starts all of it. A job
        that it did not see, or that started, waits for the same as the first of its queue.
        """
        index = self.blocked().get(key)
        if index is None:
            return None
        if job_id == self.plan.making_room_for:
            return making_room(self.plan)
        if (
            job_id == self.plan.reserved_job
            and self.plan.limited_until
            and self.snapshot.priority is not None
        ):
            return limited(self.plan, self.snapshot.priority)
        queue, verdict = self.snapshot.queues[index], self.plan.verdicts[index]
        same = verdict.shorter is None and verdict.blocked_by in _SAME_FOR_ALL
        same = same and not self.snapshot.reservations  # who meets one of them depends on the time limit
        position = -1 if same else queue.position_of(job_id)
        if position < 0:
            position = verdict.position
        which = verdict.of(queue.class_at(position).hold_us)
        if which.blocked_by not in _SAME_FOR_ALL or self.snapshot.reservations:
            return reason_of(self.snapshot, self.plan, index, position)
        if (index, which) not in self._reasons:
            self._reasons[index, which] = reason_of(self.snapshot, self.plan, index, position)
        return self._reasons[index, which]
