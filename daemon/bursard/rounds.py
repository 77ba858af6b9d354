"""Rounds: when an allocator is asked, with what, and how its answer becomes what jobs ask for.

Owns    the one way from `PlacementPolicy.spec.allocator` to jobs that run: every `round` it is asked about
        all that contend; between two rounds about those that wait, and what is free.
Why     the daemon's cycle and the simulator both take it, before each plan. Nothing of it is an event: what
        was given is what a job asks for until the next round, and a daemon that starts asks at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from bursar.errors import InvalidRequest
from bursar.model import EndCause, JobSpec, JobState
from bursar_policies import allocators
from bursar_policies.allocators import Allocator, Contender, Problem, Room, Size, Supply
from bursar_policies.allocators.fair import equal_shares
from bursar_policies.decision import NodeColumns
from bursar_policies.specs import AllocatorSpec
from bursard.scheduler import targets
from bursard.scheduler.candidates import asks_of
from bursard.state import AttemptRecord, JobRecord, State

log = logging.getLogger(__name__)
Find = Callable[[str], Allocator | None]

WAITING_MAX = 4_096
"""Jobs that wait of which one round is asked: those that come first."""
OTHERS_MAX = 256
"""Queues of jobs that do not contend, and jobs of each, for which a round leaves what they ask."""
FAILURES_MAX = 3
"""So often in a row an allocator may fail; then it is set aside until the policy changes."""
DONE_SPARE = 1_000
"""Jobs beyond twice those that live of which it is remembered what they did."""


class _Done(NamedTuple):
    """What a job has done in attempts that have ended: `attempts` of them are in it."""

    attempts: int = 0
    work_us: int = 0
    held_us: int = 0


class _Shares:
    """What of an equal share jobs have not had. Kept in memory alone: a daemon that starts owes nobody."""

    def __init__(self) -> None:
        self._at = 0
        self._milli: dict[str, int] = {}
        """By job, its equal share since the newest round, in thousandths of a GPU."""
        self._held_us: dict[str, int] = {}
        """By job, what it had held by then."""
        self._owed_us: dict[str, int] = {}

    def owed_us(self, job_id: str) -> int:
        """See `Contender.owed_us`."""
        return self._owed_us.get(job_id, 0)

    def count(self, contenders: Sequence[Contender], fair: float, now: int, most_us: int) -> None:
        """A round is over: what they should have had in it, against what they had.

        What a job has had too much is forgotten: whoever used what was idle need not pay for it.
        """
        passed_us, owed_us = min(max(now - self._at, 0), most_us), {}
        for one in contenders:
            milli = self._milli.get(one.job_id)
            if milli is None:
                continue
            had_us = one.held_us - self._held_us[one.job_id]
            more_us = int(fair * milli * passed_us / 1000) - max(had_us, 0)
            owed_us[one.job_id] = max(self._owed_us.get(one.job_id, 0) + more_us, 0)
        self._owed_us = owed_us

    def begin(self, contenders: Sequence[Contender], supply: Sequence[Supply], now: int) -> None:
        """A round begins, with these."""
        shares = equal_shares(contenders, supply)
        self._at = now
        self._milli = {one.job_id: share for one, share in zip(contenders, shares, strict=True)}
        self._held_us = {one.job_id: one.held_us for one in contenders}


class Rounds:
    """Belongs to one state. `find`: the allocator of a name; None: not yet."""

    def __init__(self, state: State, find: Find = allocators.at_hand) -> None:
        self._state = state
        self._find = find
        self._places = targets.Places()
        self._done: dict[str, _Done] = {}
        self._sizes: dict[str, tuple[int, JobSpec, tuple[Size, ...]]] = {}
        self._passed: set[str] = set()
        """Jobs that were given something and that this round passes over."""
        self._number = 0
        self._given_in: dict[str, int] = {}
        """By job that was given something and has not started, the round in which it was."""
        self._heads: dict[str, int] = {}
        """By first job of a queue that does not contend, the round that left room for it first."""
        self._shares = _Shares()
        self._looked: tuple[int, int] = (-1, -1)
        self.refused: tuple[str, ...] = ()
        """What of the newest answer could not be given."""
        self._failures = 0
        """Of the allocator of these rules, in a row."""
        self._rules: AllocatorSpec | None = None
        self._aside = ""
        """Why that one is asked no more; "": it is asked."""

    def turn(self, now: int) -> None:
        """Ask, if it is time: about all that contend, or about what waits and what is free."""
        state = self._state
        rules = state.allocator
        if rules != self._rules:
            self._rules, self._failures, self._aside = rules, 0, ""
        if rules is None:
            return
        if self._aside:
            self._without(self._aside, now)
            return
        allotments = state.allotments
        due = now >= allotments.next_at or allotments.next_at - now > rules.round_us
        if not due and (not state.pending.aside or self._looked == (state.version, self._number)):
            return
        allotments.absent = False
        try:
            allocator = self._find(rules.name)
        except InvalidRequest as error:
            self._without(error.message, now)
            return
        if allocator is None:
            return  # its process begins
        if due:
            self._round(allocator, rules, now)
            allotments.next_at = now + rules.round_us
        else:
            self._fill(allocator, rules, now)
        self._looked = (state.version, self._number)

    @property
    def wrong(self) -> str:
        """What an operator has to know of the allocator in force; "" when all is well."""
        absent = self._state.allocator is not None and self._state.allotments.absent
        return self.refused[0] if self.refused and (absent or self._failures) else ""

    def _count(self, rules: AllocatorSpec, why: str) -> None:
        """It has failed. What fails again and again takes the loop's time, and keeps jobs waiting for it."""
        self._failures += 1
        if self._failures >= FAILURES_MAX:
            self._aside = (
                f"allocator {rules.name} is set aside, since it failed {FAILURES_MAX} times in a row"
                f" ({why}); jobs are placed as without it until the PlacementPolicy changes"
            )
            allocators.drop(rules.name)

    def _without(self, why: str, now: int) -> None:
        """The allocator of the document is no longer there: what contends waits for nobody."""
        state = self._state
        if self.refused != (why,):
            log.error("no allocator", extra={"why": why})
            self.refused = (why,)
        state.let_in(now)

    # --- the two ways to ask

    def _round(self, allocator: Allocator, rules: AllocatorSpec, now: int) -> None:
        """About everything that contends, and all that they hold and could hold."""
        state, nodes = self._state, self._state.cluster.columns()
        self._number += 1
        closed = self._closed(nodes, now)
        running = list(self._running(nodes.ready if closed is None else nodes.ready & ~closed))
        devices = self._unpromised(targets.free_devices(nodes))
        for attempt in running:
            for member in attempt.live():
                devices[state.nodes[member.alloc.node_id].row] += len(member.alloc.devices)
        self._pass_over()
        contenders = [self._contender(state.jobs[one.job_id], nodes, rules, now, one) for one in running]
        contenders += [self._contender(job, nodes, rules, now) for job in self._waiting()]
        supply = self._for_them(targets.supply_of(nodes, devices, closed))
        contenders = self._counted(allocator, rules, now, contenders, supply)
        answer = self._ask(allocator, rules, now, contenders, supply)
        live = {one.job_id: one.id for one in running}
        kept = {job_id: size for job_id, size in state.allotments.given.items() if job_id in self._passed}
        state.allot({**kept, **answer.given}, now)
        state.allotments.moves = {live[job_id]: message for job_id, message in answer.moves.items()}
        self._note_given()

    def _fill(self, allocator: Allocator, rules: AllocatorSpec, now: int) -> None:
        """About what waits, for what nobody has: the rest of a round is not idle."""
        state, nodes = self._state, self._state.cluster.columns()
        devices = self._unpromised(targets.free_devices(nodes))
        supply = targets.supply_of(nodes, devices, self._closed(nodes, now))
        if not supply:
            return
        taken = (size for job_id, size in state.allotments.given.items() if self._expected(job_id))
        supply = self._for_them(targets.without(supply, taken))
        if not supply:
            return
        contenders = [
            self._contender(job, nodes, rules, now)
            for job in self._waiting()
            if job.id in state.pending.aside
        ]
        answer = self._ask(allocator, rules, now, contenders, supply)
        if answer.given:
            state.allot({**state.allotments.given, **answer.given}, now)
            self._note_given()

    def _counted(
        self,
        allocator: Allocator,
        rules: AllocatorSpec,
        now: int,
        contenders: list[Contender],
        supply: tuple[Supply, ...],
    ) -> list[Contender]:
        """The same, each with what it is owed by now."""
        fair = _weights(allocator, rules).get("fair", 0.0)
        self._shares.count(contenders, fair, now, 2 * rules.round_us)
        self._shares.begin(contenders, supply, now)
        owed_us = self._shares.owed_us
        return [
            replace(one, owed_us=owed) if (owed := owed_us(one.job_id)) != one.owed_us else one
            for one in contenders
        ]

    def _expected(self, job_id: str) -> bool:
        """Was it given something that is kept for it until it starts?"""
        job = self._state.jobs.get(job_id)
        waits = job is not None and job.state in (JobState.PENDING, JobState.STOPPING)
        return waits and job_id not in self._passed

    def _ask(
        self,
        allocator: Allocator,
        rules: AllocatorSpec,
        now: int,
        contenders: list[Contender],
        supply: tuple[Supply, ...],
    ) -> targets.Targets:
        able = tuple(sorted((one for one in contenders if one.sizes), key=lambda one: one.order))
        problem = Problem(
            contenders=able,
            supply=supply,
            round_us=rules.round_us,
            weights=_weights(allocator, rules),
            now=now,
        )
        answer = targets.ask(allocator, problem)
        if answer.refused and answer.refused != self.refused:
            log.warning("allocator", extra={"allocator": allocator.name, "refused": answer.refused[:10]})
        self.refused = answer.refused
        if answer.failed:
            self._count(rules, answer.refused[0])
        else:
            self._failures = 0
        return answer

    # --- who contends

    def _running(self, open_: NDArray[np.bool_]) -> Iterator[AttemptRecord]:
        """Live attempts of jobs that contend, but for those that end for good or have no room yet. What is on
        a node that takes no work goes on there: nobody could have its place.
        """
        state = self._state
        for attempt in state.attempts.values():
            job = state.jobs[attempt.job_id]
            ends = attempt.stop_cause not in (None, EndCause.PREEMPTED)
            if attempt.after or ends or not targets.contends(job.spec):
                continue
            if all(open_[state.nodes[member.alloc.node_id].row] for member in attempt.live()):
                yield attempt

    def _waiting(self) -> list[JobRecord]:
        """Jobs that wait and contend, those that come first, unless this round passes over them."""
        state = self._state
        ids = [*state.pending.aside, *(one for one in state.allotments.given if one in state.pending)]
        jobs = [state.jobs[one] for one in ids if one not in self._passed]
        if len(jobs) > WAITING_MAX:
            jobs.sort(key=lambda job: (-job.spec.priority, self._past(job).held_us, job.order))
        return jobs[:WAITING_MAX]

    def _contender(
        self,
        job: JobRecord,
        nodes: NodeColumns,
        rules: AllocatorSpec,
        now: int,
        attempt: AttemptRecord | None = None,
    ) -> Contender:
        spec = job.spec
        done, holds, lost_us = self._past(job), None, 0
        work_us, held_us = done.work_us, done.held_us
        if attempt is not None:
            more_us, more_held_us = self._of_attempt(job, attempt, now)
            work_us, held_us = work_us + more_us, held_us + more_held_us
            if attempt.stop_cause is None:
                holds = self._size_of(job, attempt)
                unsaved_us = 0 if spec.checkpoint.signal else now - (attempt.started_at or now)
                lost_us = rules.restart_us + max(unsaved_us, 0)
        return Contender(
            job_id=job.id,
            order=job.order,
            sizes=self._sizes_of(job, nodes),
            holds=holds,
            age_us=max(now - job.submitted_at, 0),
            priority=spec.priority,
            work_us=work_us,
            held_us=held_us,
            owed_us=self._shares.owed_us(job.id),
            restarts=max(len(job.attempts) - 1, 0),
            restart_us=lost_us,
            deadline_us=(spec.deadline_at - now or -1) if spec.deadline_at else 0,
        )

    def _sizes_of(self, job: JobRecord, nodes: NodeColumns) -> tuple[Size, ...]:
        """How it may run on the nodes that there are; worked out again when these, or the job, are others."""
        version, spec = self._state.cluster.facts_version + 1, job.spec
        known = self._sizes.get(job.id)
        if known is None or known[0] != version or known[1] is not spec:
            asks = asks_of(self._state.class_of_spec(spec, (), 0))
            places = [self._places.of(nodes, ask, version) for ask in asks]
            known = self._sizes[job.id] = version, spec, targets.sizes_of(spec, places)
        return known[2]

    def _past(self, job: JobRecord) -> _Done:
        """What its ended attempts did; each is looked at once."""
        done = self._done.get(job.id, _Done())
        ended = len(job.attempts) - (job.attempt is not None)
        if done.attempts > ended:
            done = _Done()
        for attempt in job.attempts[done.attempts : ended]:
            work_us, held_us = self._of_attempt(job, attempt, attempt.finished_at)
            done = _Done(done.attempts + 1, done.work_us + work_us, done.held_us + held_us)
        self._done[job.id] = done
        return done

    def _of_attempt(self, job: JobRecord, attempt: AttemptRecord, until: int) -> tuple[int, int]:
        """Its work at speed 1, and GPUs times time, in microseconds."""
        ran_us = max(until - attempt.started_at, 0) if attempt.started_at else 0
        size = self._size_of(job, attempt)
        return ran_us * size.speed // allocators.ONE, ran_us * size.gpus_in_all

    def _size_of(self, job: JobRecord, attempt: AttemptRecord) -> Size:
        """What an attempt holds, or held: its members are alike. Of a node that has left the type is lost."""
        first = attempt.members[0].alloc
        node, gpus = self._state.nodes.get(first.node_id), len(first.devices)
        gpu_type = node.facts.devices[0].type if node is not None and node.facts.devices else ""
        members = len(attempt.members)
        known = self._sizes.get(job.id)
        for size in known[2] if known is not None else ():
            if (size.gpu_type, size.nodes, size.gpus) == (gpu_type, members, gpus):
                return size
        speed = targets.speed_on(job.spec, gpu_type, gpus * members)
        return Size(gpu_type, members, gpus, speed, attempt.option)

    # --- what there is

    def _unpromised(self, devices: targets.Counts) -> targets.Counts:
        """Without those that are kept for jobs which were promised their deadlines."""
        kept: dict[str, set[int]] = {}
        for job in self._state.promises.waiting():
            for member in job.promise.members if job.promise is not None else ():
                kept.setdefault(member.node_id, set()).update(share.index for share in member.devices)
        for node_id, indices in kept.items():
            node = self._state.nodes.get(node_id)
            if node is not None:
                devices[node.row] = max(int(devices[node.row]) - len(indices), 0)
        return devices

    def _closed(self, nodes: NodeColumns, now: int) -> NDArray[np.bool_] | None:
        """Nodes that are reserved, now or before a job of the usual limit was over."""
        specs = self._state.reservations.specs
        soon = now + self._state.limits.default_time_limit_us
        names = {
            name for one in specs.values() if one.starts_at < soon and one.ends_at > now for name in one.nodes
        }
        if not names:
            return None
        return np.array([name in names for name in nodes.names], dtype=np.bool_)

    def _for_them(self, supply: tuple[Supply, ...]) -> tuple[Supply, ...]:
        """Without what jobs that do not contend wait for: they come first, unless that did not help them."""
        state, room = self._state, Room(supply)
        heads: dict[str, int] = {}
        for queue in state.pending.queues()[:OTHERS_MAX]:
            jobs = [
                job_id for _, job_id in islice(queue.jobs, OTHERS_MAX) if job_id not in state.allotments.given
            ]
            if not jobs:
                continue
            since = heads[jobs[0]] = self._heads.get(jobs[0], self._number)
            if _passes(self._number - since):
                continue
            wanted = [
                Size(kind, queue.job_class.nodes, option.gpus.count)
                for option in queue.job_class.options
                if option.gpus is not None
                for kind in (option.gpus.types or tuple(one.gpu_type for one in supply))
            ]
            for _ in jobs:
                if not any(room.take(size) for size in wanted):
                    break
        self._heads = heads
        return room.left()

    # --- what did not start

    def _pass_over(self) -> None:
        """What had all of a round to start, and did not, is kept from it by something else: money, a quota, a
        node. It stays in its queue, and its share goes to others in more and more of the rounds.
        """
        given_in, number = self._given_in, self._number
        self._passed = {one for one, since in given_in.items() if _passes(number - since)}

    def _note_given(self) -> None:
        pending, before = self._state.pending, self._given_in
        given = self._state.allotments.given
        self._given_in = {one: before.get(one, self._number) for one in given if one in pending}
        alive = self._state.jobs
        if len(self._done) > 2 * len(alive) + DONE_SPARE:
            self._done = {one: done for one, done in self._done.items() if one in alive}
            self._sizes = {one: sizes for one, sizes in self._sizes.items() if one in alive}


def _weights(allocator: Allocator, rules: AllocatorSpec) -> dict[str, float]:
    """Every one that it declares, as the document has it."""
    weights = {name: float(one.default) for name, one in allocator.weights.items()}
    return weights | {name: float(weight) for name, weight in rules.weights if name in weights}


def _passes(waited: int) -> bool:
    """Is a job passed over that has waited for so many rounds with room for it? Not in 0, 1, 3, 7, 15, ..."""
    return waited & (waited + 1) != 0
