"""Ahead: short jobs placed behind those that run, so that a slot that frees needs nobody's word.

Owns    which jobs wait at their node for the share of another, for how long, and what is known of how short
        the jobs of a class are. All of it is a guess about pace, in memory: the events say what was decided.
Why     a job of a millisecond costs a commit, a pass and a message of its own each way when it is placed at
        the end of the one before. Placed ahead, many ends and many starts share them (docs/adr/0018).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence, Set
from typing import NamedTuple, Protocol

from bursar.clock import SECOND_US
from bursar.ids import Ids
from bursar.model import EndCause, Hold, Reason
from bursar.money import cumulative
from bursar_policies.decision import JobClass, PendingQueue, Plan, Snapshot
from bursard.events import AttemptPlaced, Event, MemberEnded
from bursard.place import Commit, holds_for
from bursard.state import AttemptRecord, JobRecord, NodeRecord, State

SHORT_US = SECOND_US
"""A job that held its share for longer is none of the short ones."""
SHORT_ENDS_MIN = 8
"""So many jobs of a class in a row must have been short before any of it is placed ahead."""
QUEUED_US = SECOND_US // 4
"""How much work waits behind a share at most, by what the last jobs took: so long may an urgent job wait."""
ROUND_US = 2_000
"""What a job takes of its share beside its own time: to be started, and to be seen to have ended."""
DEPTH_MAX = 32
"""Jobs behind one share, at most."""
WAITING_MAX = 64
"""Jobs that wait so in all. With many slots free ones come in company by themselves."""
LIVE_MAX = 128
"""With more attempts live nothing is placed ahead: their ends share commits and messages already."""
WAIT_MAX_US = SECOND_US
"""What waited for so long is taken back: what it waits for is not short."""
PACES_MAX = 256
"""Classes whose pace is remembered."""


class Hands(Protocol):
    """What reaches the nodes."""

    def ahead(self, node_id: str) -> int:
        """How many members a node holds that wait for another's share; 0: none."""
        ...

    def take_back(self, attempt: AttemptRecord) -> None:
        """Have one back, if it still waits. Its end tells."""
        ...


class _Pace:
    """How long the jobs of a class hold their share: the mean of late, and how many in a row were short."""

    def __init__(self) -> None:
        self.short_ends = 0
        self.mean_us = 0

    def add(self, held_us: int) -> None:
        """One more has ended."""
        if held_us > SHORT_US:
            self.short_ends = 0
            return
        self.mean_us = held_us if not self.short_ends else (3 * self.mean_us + held_us) // 4
        self.short_ends += 1

    @property
    def depth(self) -> int:
        """How many may wait behind one share."""
        if self.short_ends < SHORT_ENDS_MIN:
            return 0
        return min(QUEUED_US // (self.mean_us + ROUND_US), DEPTH_MAX)


_Kind = tuple[JobClass, int]
"""What jobs have in common that take each other's place: the class of their queue, and a time limit."""


class _Known(NamedTuple):
    """An attempt of one member: what it is alike to, and the nodes as they were when it was placed."""

    kind: _Kind
    facts_version: int


class _Line(NamedTuple):
    """A share of a node, the attempt that has it, and how many wait for it: the last is `tail`, of `job`."""

    length: int
    node: NodeRecord
    first: AttemptRecord
    tail: str
    job: str


class Ahead:
    """Belongs to one cycle. Without `hands` nothing is placed ahead: so it is in the simulator."""

    def __init__(self, state: State, ids: Ids, hands: Hands | None = None) -> None:
        self.hands = hands
        self._state = state
        self._ids = ids
        self._known: dict[str, _Known] = {}
        self._paces: dict[_Kind, _Pace] = {}
        self._asked: dict[str, int] = {}
        """By attempt that was asked back, when."""

    # --- what is learnt

    def placing(self, events: Sequence[Event]) -> dict[str, _Known]:
        """What is known of the attempts that these events place, before they are true."""
        state, found = self._state, dict[str, _Known]()
        if self.hands is None:
            return found
        for event in events:
            if isinstance(event, AttemptPlaced) and len(event.members) == 1:
                key = state.pending.key_of(event.job_id)
                if key is not None:
                    kind = (key.job_class, state.pending.limit_of(event.job_id))
                    found[event.attempt_id] = _Known(kind, state.cluster.facts_version)
        return found

    def placed(self, known: dict[str, _Known]) -> None:
        """They are true."""
        self._known.update(known)

    def on_event(self, seq: int, event: Event, at: int, actor: str) -> None:
        """A listener of the engine: learns how long jobs take."""
        if not isinstance(event, MemberEnded):
            return
        known = self._known.pop(event.attempt_id, None)
        self._asked.pop(event.attempt_id, None)
        if known is None:
            return
        pace = self._paces.pop(known.kind, None) or _Pace()
        self._paces[known.kind] = pace
        if len(self._paces) > PACES_MAX:
            del self._paces[next(iter(self._paces))]
        if event.report.cause is EndCause.PREEMPTED:
            pace.short_ends = 0  # it came back: what it was placed behind was not short after all
        elif event.report.held_us:
            pace.add(event.report.held_us)

    # --- what is taken back

    def take_back(self, now: int, urgent: int | None = None) -> None:
        """Have back what waited for too long, what waits on a node that gets no new work, and what is less
        urgent than the first that waits for room (`urgent`: its priority).
        """
        state = self._state
        if self.hands is None:
            return
        for attempt_id in state.behind.values():
            attempt = state.attempts[attempt_id]
            node = state.nodes[attempt.members[0].alloc.node_id]
            late = now - attempt.placed_at > WAIT_MAX_US or now < attempt.placed_at
            outrun = urgent is not None and state.jobs[attempt.job_id].spec.priority < urgent
            if not (late or outrun) and state.cluster.ready[node.row]:
                continue
            asked_at = self._asked.get(attempt_id)
            if asked_at is None or abs(now - asked_at) > WAIT_MAX_US:
                self._asked[attempt_id] = now
                self.hands.take_back(attempt)

    # --- what is placed

    def turn(self, snapshot: Snapshot, plan: Plan, now: int, commit: Commit) -> int:
        """After a pass: let the head of the first queue that waits for room wait at the nodes instead.

        Returns how many do so now, more than before. Under a PriorityPolicy none does: a line goes by
        submission, and who is ranked first may have come last. Nor does any while a stage of a budget decides
        who comes later, and where.
        """
        ordered = snapshot.priority is not None or snapshot.quotas
        if self.hands is None or len(self._state.attempts) > LIVE_MAX or ordered:
            return 0
        if any(room.stages for room in snapshot.budgets.values()):
            return 0
        waiting = []
        for index, verdict in plan.verdicts.items():
            queue = snapshot.queues[index]
            first = next(self._left(queue), None)
            if verdict.blocked_by in ("room", "claim") and first is not None:
                waiting.append((-queue.priority, first[0], index, first[1]))
        if not waiting:
            return 0
        waiting.sort()
        _, _, index, job_id = waiting[0]
        queue = snapshot.queues[index]
        self.take_back(now, queue.priority)
        kind = (queue.job_class, self._state.pending.limit_of(job_id))
        pace = self._paces.get(kind)
        if plan.verdicts[index].blocked_by != "room" or pace is None or not pace.depth:
            return 0
        if queue.job_class.nodes != 1 or queue.job_class.max_nodes or len(queue.job_class.options) != 1:
            return 0
        aside = {budget for purse in plan.purses for budget, _ in purse.aside}
        if not aside.isdisjoint(queue.job_class.budgets):
            return 0  # the money that it would hold is another's
        # What stands in front of another queue keeps its turn.
        before = waiting[1][:2] if len(waiting) > 1 else None
        events = list(self._placements(queue, kind, before, pace.depth, now))
        return len(events) if events and commit("places ahead of need", events) else 0

    def _left(self, queue: PendingQueue) -> Iterator[tuple[int, str]]:
        """What of a queue still waits, for the same as when it was planned."""
        key, pending = queue.key, self._state.pending
        for position, (order, job_id) in enumerate(queue.jobs):
            now = pending.key_of(job_id)
            if now is not None and now == key and pending.limit_of(job_id) == queue.jobs.limits_us[position]:
                yield order, job_id

    def _placements(
        self, queue: PendingQueue, kind: _Kind, before: tuple[int, int] | None, depth: int, now: int
    ) -> Iterator[AttemptPlaced]:
        """The next jobs of a queue, each behind the shortest line of its kind, up to one of another kind."""
        state, promised = self._state, dict[str, int]()
        # Who waits behind so many others has ended by then, if all of them take their whole limits.
        until = now + (depth + 2) * (queue.job_class.hold_us + kind[1])
        lines = [
            (line.length, number, line)
            for number, line in enumerate(self._lines(kind, now))
            if not self._state.reservations.closes(line.node.facts.name, queue.job_class, now, until)
            and line.node.id not in self._state.promises.on_node
        ]
        heapq.heapify(lines)
        rooms = self._rooms({line.node.id for _, _, line in lines})
        left = WAITING_MAX - len(state.behind)
        for order, job_id in self._left(queue):
            while lines and (lines[0][0] >= depth or rooms[lines[0][2].node.id] <= 0):
                heapq.heappop(lines)
            job = state.jobs[job_id]
            overtakes = before is not None and (-queue.priority, order) > before
            other = state.pending.limit_of(job_id) != kind[1]
            if left <= 0 or not lines or overtakes or other or job.spec.secrets:
                return
            length, number, line = heapq.heappop(lines)
            nanos = cumulative(line.first.rate, queue.job_class.hold_us + kind[1])
            holds = holds_for(state, job, nanos, promised)
            if isinstance(holds, Reason):
                return
            event = self._placed(job, line, holds)
            yield event
            left -= 1
            rooms[line.node.id] -= 1
            heapq.heappush(lines, (length + 1, number, line._replace(tail=event.attempt_id, job=job.display)))

    def _lines(self, kind: _Kind, now: int) -> Iterator[_Line]:
        """Places that jobs of a kind have now and would be given again: nothing but what is free on any node
        has changed since, and what is there has not been there for long.
        """
        state = self._state
        for attempt_id, known in self._known.items():
            attempt = state.attempts.get(attempt_id)
            if attempt is None or attempt.after or known.facts_version != state.cluster.facts_version:
                continue
            if known.kind != kind:
                continue
            node = state.nodes[attempt.members[0].alloc.node_id]
            since = attempt.started_at or attempt.placed_at
            if (
                attempt.members[0].report is None
                and attempt.stop_cause is None
                and attempt.time_limit_us == kind[1]
                and 0 <= now - since <= SHORT_US
                and state.cluster.ready[node.row]
                and not node.doubtful
            ):
                yield self._line(attempt, node)

    def _line(self, first: AttemptRecord, node: NodeRecord) -> _Line:
        length, tail = 0, first.id
        while tail in self._state.behind:
            length, tail = length + 1, self._state.behind[tail]
        job = self._state.jobs[self._state.attempts[tail].job_id]
        return _Line(length, node, first, tail, job.display)

    def _rooms(self, node_ids: Set[str]) -> dict[str, int]:
        """How many more each node holds."""
        assert self.hands is not None
        rooms = {node_id: self.hands.ahead(node_id) for node_id in node_ids}
        for attempt_id in self._state.behind.values():
            node_id = self._state.attempts[attempt_id].members[0].alloc.node_id
            if node_id in rooms:
                rooms[node_id] -= 1
        return rooms

    def _placed(self, job: JobRecord, line: _Line, holds: tuple[Hold, ...]) -> AttemptPlaced:
        first, state = line.first, self._state
        return AttemptPlaced(
            attempt_id=self._ids.new("att"),
            job_id=job.id,
            number=len(job.attempts) + 1,
            option=first.option,
            members=(first.members[0].alloc,),
            time_limit_us=first.time_limit_us,
            grace_us=state.grace_of(job.spec),
            holds=holds,
            currency=state.currency,
            why=f"ahead of need: it starts on {line.node.facts.name} when job {line.job} ends there",
            after=line.tail,
        )
