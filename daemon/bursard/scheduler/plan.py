"""One plan: walk the queue in order, start what fits and is paid for, say why the rest waits.

Input   `Snapshot` and `now`; nothing else decides. `PlanCache` only saves work.
Why     daemon, simulator, `bursar plan` and tests call exactly this function.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bursar.model import Reason
from bursar_policies.decision import JobClass, PendingQueue, Placement, Plan, RunningMember, Snapshot, Start
from bursar_policies.filters import Ask
from bursar_policies.scorers import NodeState, Weights
from bursard.scheduler import gang, reasons
from bursard.scheduler.admit import Rooms
from bursard.scheduler.backfill import Reservation, reserve
from bursard.scheduler.rank import Ranking
from bursard.scheduler.table import Table
from bursard.scheduler.world import PlanCache, World


def plan(
    snapshot: Snapshot,
    now: int,
    cache: PlanCache | None = None,
    *,
    weights: Weights | None = None,
) -> Plan:
    """What starts now, and why the rest does not.

    Args:
        now: the instant of the plan, microseconds.
        cache: kept by the caller between plans; the answer is the same without.
        weights: of the packing scorers instead of the strategy's own, for benches.

    Returns:
        Starts in the order they must be applied; for every queue whose first remaining job does
        not start, one reason. `reserved_at` is 0 when nothing had to be held back for the reserved
        job, so its time was not worked out.

    Raises:
        InvalidRequest: unknown strategy, or more nodes than a plan covers.
    """
    return Planner(snapshot, now, cache or PlanCache(), weights).run()


class Planner:
    """The state of one plan while it is made. `explain` looks at it afterwards."""

    def __init__(
        self, snapshot: Snapshot, now: int, cache: PlanCache, weights: Weights | None = None
    ) -> None:
        self.snapshot = snapshot
        self.now = now
        self.world: World = cache.world(snapshot, weights)
        self.rooms = Rooms(snapshot.budgets)
        self.starts: list[Start] = []
        self.reasons: dict[int, Reason] = {}
        self.before: dict[int, NodeState] = {}
        self.takers: dict[int, tuple[int, str]] = {}
        self.ends: list[RunningMember] = []
        self.heads: list[tuple[str, JobClass, tuple[Ask, ...]]] = []
        self.reservation: Reservation | None = None
        self.considered = 0

    def run(self) -> Plan:
        """Walk the whole queue."""
        ranking = Ranking(self.snapshot.queues)
        asks: dict[int, tuple[Ask, ...]] = {}
        while ranking:
            index, job_id = ranking.head()
            queue = self.snapshot.queues[index]
            if index not in asks:
                asks[index] = gang.asks_of(queue.job_class)
            self.considered += 1
            reason = self.attempt(queue, job_id, asks[index])
            if reason is None:
                ranking.advance()
            else:
                self.reasons[index] = reason
                ranking.block()
        return Plan(
            version=self.snapshot.version,
            starts=tuple(self.starts),
            class_reasons=dict(sorted(self.reasons.items())),
            reserved_job=self.heads[0][0] if self.heads else "",
            reserved_at=self.reservation.at if self.reservation else 0,
            considered=self.considered,
        )

    def attempt(self, queue: PendingQueue, job_id: str, asks: tuple[Ask, ...]) -> Reason | None:
        """Start one job, or say why not."""
        job_class = queue.job_class
        answer = gang.choose(self.world, job_class, asks, self.rooms, _all_keys)
        if isinstance(answer, gang.Choice) and self.heads and self.reservation is None:
            self._reserve()
            answer = gang.choose(self.world, job_class, asks, self.rooms, _all_keys)
        if isinstance(answer, gang.NoChoice):
            return self._wait(queue, job_id, asks, answer)
        reservation = self.reservation
        if reservation is None or self.now + answer.admitted.hold_us <= reservation.at:
            members = gang.place(self.world, answer, lambda row: self.world.gpus[row].tolist())
            self._start(queue, job_id, answer, members)
            return None

        def spared(table: Table) -> NDArray[np.int64]:
            return reservation.keys(self.world, table)

        answer = gang.choose(self.world, job_class, asks, self.rooms, spared)
        if isinstance(answer, gang.NoChoice):
            return reasons.reserved(job_class, reservation.job_id, reservation.at, self.now)
        usable = {row: list(reservation.usable(self.world, row).gpus) for row in answer.rows}
        members = gang.place(self.world, answer, usable.__getitem__)
        self._start(queue, job_id, answer, members)
        if self.now + answer.admitted.hold_us > reservation.at:
            for member in members:
                held = [(share.index, share.milli) for share in member.devices]
                reservation.take(member.node, member.cpu_milli, member.memory_bytes, held)
        return None

    def _reserve(self) -> None:
        """The claim of the first job that waits, worked out when a later job could go ahead of it.

        Its money is set aside too: a gap filled with the head's own budget would delay the head.
        """
        while self.reservation is None and self.heads:
            job_id, job_class, asks = self.heads[0]
            running = [*self.snapshot.running, *self.ends]
            found = reserve(self.world, job_id, job_class, asks, self.rooms, running, self.now)
            if found is None:
                self.heads.pop(0)
                continue
            self.reservation = found
            self.rooms.promise(job_class.budgets, found.hold_nanos)

    def _wait(self, queue: PendingQueue, job_id: str, asks: tuple[Ask, ...], answer: gang.NoChoice) -> Reason:
        tables = [self.world.table(ask) for ask in asks]
        refused = {option for option, _ in answer.refusals}
        waiting = [
            option
            for option, table in enumerate(tables)
            if option not in refused and table.capable_count >= queue.job_class.nodes
        ]
        blocked = reasons.blocked(
            self.world, queue, tables, waiting, answer, self.rooms, self.before, self.takers
        )
        if blocked.waits_for_resources and self.reservation is None:
            self.heads.append((job_id, queue.job_class, asks))
        return blocked.reason

    def _start(
        self,
        queue: PendingQueue,
        job_id: str,
        choice: gang.Choice,
        members: tuple[Placement, ...],
    ) -> None:
        job_class, admitted = queue.job_class, choice.admitted
        why = f"{choice.table.usable_count} of {self.world.count} nodes could serve it"
        self.starts.append(
            Start(
                job_id,
                choice.option,
                members,
                admitted.time_limit_us,
                admitted.hold_nanos,
                job_class.budgets,
                why,
            )
        )
        self.rooms.promise(job_class.budgets, admitted.hold_nanos)
        ends_at = self.now + admitted.hold_us
        for member in members:
            row = member.node
            if row not in self.before:
                self.before[row] = self.world.state(row)
            taker = self.takers.get(row)
            if taker is None or taker[0] < queue.priority:
                self.takers[row] = (queue.priority, job_id)
            self.world.take(member)
            self.ends.append(
                RunningMember(row, ends_at, member.cpu_milli, member.memory_bytes, member.devices, job_id)
            )


def _all_keys(table: Table) -> NDArray[np.int64]:
    return table.keys
