"""One plan: walk the queue in order, start what fits and is paid for, note what stops the rest.

Input   `Snapshot` and `now`; nothing else decides. `PlanCache` only saves work.
Why     daemon, simulator, `bursar plan` and tests call exactly this function.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bursar.model import ReasonCode
from bursar.words import plural
from bursar_policies.decision import (
    UNCOMPUTABLE,
    Action,
    JobClass,
    PendingQueue,
    Placement,
    Plan,
    Snapshot,
    Start,
    Verdict,
)
from bursar_policies.filters import Ask
from bursar_policies.scorers import Weights
from bursard.scheduler import gang
from bursard.scheduler.admit import Admitted, Refusal, Rooms
from bursard.scheduler.backfill import Reservation, reserve
from bursard.scheduler.rank import Ranking
from bursard.scheduler.releases import Releases
from bursard.scheduler.table import Table
from bursard.scheduler.world import PlanCache, World

_HOPE = (
    ReasonCode.BUDGET_COMMITTED,
    ReasonCode.PRICE_CAP_EXCEEDED,
    ReasonCode.BUDGET_EXHAUSTED,
    ReasonCode.MISCONFIGURED,
)
"""Alternatives of one job may be refused differently. The most hopeful refusal is told: it is the one that
will resolve first, or is easiest to mend."""


def plan(
    snapshot: Snapshot,
    now: int,
    cache: PlanCache | None = None,
    *,
    weights: Weights | None = None,
) -> Plan:
    """What starts now, and what stops the rest.

    Args:
        now: the instant of the plan, microseconds.
        cache: kept by the caller between plans; the answer is the same without.
        weights: of the packing scorers instead of the strategy's own, for benches.

    Returns:
        Actions in the order they must be applied; for every queue whose first remaining job does not
        start, one verdict, of which `reason_of` makes the sentence. `reserved_at` is 0 when nothing had to
        be held back for the reserved job, so its time was not worked out.

    Raises:
        InvalidRequest: unknown strategy, or more nodes than a plan covers.
    """
    with (cache or PlanCache()).world(snapshot, weights) as world:
        return Planner(snapshot, now, world).run()


class Planner:
    """The state of one plan while it is made. `explain` looks at it afterwards."""

    def __init__(self, snapshot: Snapshot, now: int, world: World) -> None:
        self.snapshot = snapshot
        self.now = now
        self.world = world
        self.rooms = Rooms(snapshot.budgets)
        self.groups: list[tuple[Action, ...]] = []
        self.verdicts: dict[int, Verdict] = {}
        self.heads: list[tuple[str, JobClass, tuple[Ask, ...]]] = []
        self.reservation: Reservation | None = None
        self.considered = 0
        self._releases: Releases | None = None
        self._started: list[tuple[tuple[Placement, ...], int]] = []

    def run(self) -> Plan:
        """Walk the whole queue."""
        snapshot, ranking = self.snapshot, Ranking(self.snapshot.queues)
        asks: dict[int, tuple[Ask, ...]] = {}
        while ranking:
            index, job_id = ranking.head()
            if index not in asks:
                asks[index] = gang.asks_of(snapshot.queues[index].job_class)
            self.considered += 1
            try:
                verdict = self.attempt(index, job_id, asks[index])
            except ArithmeticError:
                # A figure that no column can hold is the trouble of whoever asks for it, and nobody else's.
                verdict = self._verdict(UNCOMPUTABLE)
            if verdict is None:
                ranking.advance()
            else:
                self.verdicts[index] = verdict
                ranking.block()
        claim = self.reservation
        return Plan(
            version=snapshot.version,
            at=self.now,
            groups=tuple(self.groups),
            verdicts=dict(sorted(self.verdicts.items())),
            prices=snapshot.prices,
            policies=snapshot.policies,
            reserved_job=self.heads[0][0] if self.heads else "",
            reserved_at=claim.at if claim else 0,
            reserved_nanos=claim.hold_nanos if claim else 0,
            reserved_budgets=self.heads[0][1].budgets if claim else (),
            considered=self.considered,
        )

    def attempt(self, index: int, job_id: str, asks: tuple[Ask, ...]) -> Verdict | None:
        """Start the first job of a queue, or say what stops it."""
        queue = self.snapshot.queues[index]
        job_class = queue.job_class
        answer = gang.choose(self.world, job_class, asks, self.rooms, _all_keys)
        if isinstance(answer, gang.Choice) and self.heads and self.reservation is None:
            self._reserve()
            answer = gang.choose(self.world, job_class, asks, self.rooms, _all_keys)
        if isinstance(answer, gang.NoChoice):
            return self._wait(queue, job_id, asks, answer)
        reservation, gpus = self.reservation, self.world.free.gpus
        if reservation is None or self.now + answer.admitted.hold_us <= reservation.at:
            members = gang.place(self.world, answer, lambda row: gpus[row].tolist())
            self._start(index, job_id, answer, members)
            return None

        def spared(table: Table) -> NDArray[np.int64]:
            return reservation.keys(self.world, table)

        answer = gang.choose(self.world, job_class, asks, self.rooms, spared)
        if isinstance(answer, gang.NoChoice):
            return self._verdict("claim")
        usable = {row: list(reservation.usable(self.world, row).gpus) for row in answer.rows}
        members = gang.place(self.world, answer, usable.__getitem__)
        self._start(index, job_id, answer, members)
        if self.now + answer.admitted.hold_us > reservation.at:
            for member in members:
                held = [(share.index, share.milli) for share in member.devices]
                reservation.take(member.node, member.cpu_milli, member.memory_bytes, held)
        return None

    @property
    def releases(self) -> Releases:
        """What ends when, the starts of this plan among it. Most plans never look."""
        if self._releases is None:
            self._releases = Releases(self.snapshot.running, self.world.count)
        while self._started:
            members, ends_at = self._started.pop()
            for member in members:
                self._releases.add(member, ends_at)
        return self._releases

    def _reserve(self) -> None:
        """The claim of the first job that waits, worked out when a later job could go ahead of it.

        Its money is set aside too: a gap filled with the head's own budget would delay the head.
        """
        while self.reservation is None and self.heads:
            job_id, job_class, asks = self.heads[0]
            try:
                found = reserve(self.world, job_id, job_class, asks, self.rooms, self.releases, self.now)
            except ArithmeticError:
                found = None
            if found is None:
                self.heads.pop(0)
                continue
            self.reservation = found
            self.rooms.promise(job_class.budgets, found.hold_nanos)

    def _wait(
        self, queue: PendingQueue, job_id: str, asks: tuple[Ask, ...], answer: gang.NoChoice
    ) -> Verdict:
        """What stops a job that found no place: room if any alternative is only short of that, else money."""
        job_class = queue.job_class
        refusals: list[tuple[int, Refusal]] = list(answer.refusals)
        refused = {option for option, _ in refusals}
        for option, ask in enumerate(asks):
            table = self.world.table(ask)
            if option in refused or table.capable_count < job_class.nodes:
                continue
            verdict = self.rooms.admit(job_class, table.cheapest_rate(job_class.nodes))
            if isinstance(verdict, Admitted):
                if self.reservation is None and table.usable_count >= job_class.nodes:
                    self.heads.append((job_id, job_class, asks))
                return self._verdict("room", option)
            refusals.append((option, verdict))
        if not refusals:
            return self._verdict("fault")
        option, refusal = min(refusals, key=lambda entry: (_HOPE.index(entry[1].code), entry[0]))
        return self._verdict("money", option, refusal)

    def _verdict(self, blocked_by: str, option: int = 0, refusal: Refusal | None = None) -> Verdict:
        claimed, starts = self.reservation is not None, len(self.groups)
        if refusal is None:
            return Verdict(blocked_by, starts, claimed, option)
        return Verdict(blocked_by, starts, claimed, option, *refusal)

    def _start(
        self,
        index: int,
        job_id: str,
        choice: gang.Choice,
        members: tuple[Placement, ...],
    ) -> None:
        budgets, admitted = self.snapshot.queues[index].job_class.budgets, choice.admitted
        start = Start(
            job_id=job_id,
            option=choice.option,
            members=members,
            time_limit_us=admitted.time_limit_us,
            hold_nanos=admitted.hold_nanos,
            budgets=budgets,
            why=f"{choice.table.usable_count} of {plural(self.world.count, 'node')} could serve it",
            queue=index,
        )
        self.groups.append((start,))
        self.rooms.promise(budgets, admitted.hold_nanos)
        for member in members:
            self.world.take(member)
        self._started.append((members, self.now + admitted.hold_us))


def _all_keys(table: Table) -> NDArray[np.int64]:
    return table.keys
