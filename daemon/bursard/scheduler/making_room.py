"""Who ends so that the job with the claim can start, where that is worth it.

Owns    `Stops`: of the ways to make room, the first that there is.
Why     a job is within a guarantee, or of so much higher priority; whom it may have stopped differs by that,
        and how they are chosen does not (`preempt`).
"""

from __future__ import annotations

from collections.abc import Iterator

from bursar.model import EndCause
from bursar_policies.decision import PendingQueue, Snapshot, Stop
from bursard.scheduler.admit import Rooms
from bursard.scheduler.backfill import Reservation
from bursard.scheduler.claims import Claims
from bursard.scheduler.gang import gang_rate
from bursard.scheduler.preempt import Preemption, debtors, lower_ones
from bursard.scheduler.quotas import Tenancy
from bursard.scheduler.releases import NEVER
from bursard.scheduler.table import Table
from bursard.scheduler.world import World


class Stops:
    """Whom one plan may have stopped."""

    def __init__(self, world: World, snapshot: Snapshot, tenancy: Tenancy | None, now: int) -> None:
        self._world, self._snapshot, self._tenancy, self._now = world, snapshot, tenancy, now
        self._grace_us = max((one.grace_us for one in snapshot.holders.values()), default=0)
        self._kept: tuple[int, ...] = ()

    def for_job(
        self, job_id: str, index: int, rooms: Rooms, claims: Claims
    ) -> tuple[str, tuple[Stop, ...]] | None:
        """Whom to stop for the job of this queue that has, or would have, the claim; nobody when those that
        it needs are ending already; None where nobody is to end for it. First the quota that guarantees to
        it what they borrowed, "" where its priority is why.
        """
        claim = claims.held
        if not self._snapshot.holders:
            return None
        queue = self._snapshot.queues[index]
        job_class, held = queue.class_at(queue.position_of(job_id)), claim.hold_nanos if claim else 0
        rooms.promise(job_class.payers, -held)
        found = claim or claims.first_of(job_class, job_id)
        at = found.at if isinstance(found, Reservation) else NEVER
        self._kept = claims.kept(job_class.hold_us + self._grace_us, job_id)
        ways = self._ways(queue) if at > self._now else iter(())
        tried = ((quota, told, way.room_for(job_class, rooms, at)) for quota, told, way in ways)
        quota, message, room = next((one for one in tried if one[2] is not None), ("", "", None))
        rooms.promise(job_class.payers, held)
        if room is None:
            return None
        stops = (Stop(one, EndCause.PREEMPTED, job_id, message, quota) for one in room.victims)
        return quota, tuple(stops)

    def _ways(self, queue: PendingQueue) -> Iterator[tuple[str, str, Preemption]]:
        """By which quota, what they are told, and whom a job of this queue may have stopped: first those that
        hold what is guaranteed to it.
        """
        tenancy, rules, job_class = self._tenancy, self._snapshot.priority, queue.job_class
        if tenancy is not None:
            options = (tenancy.at_least(one, job_class.nodes) for one in job_class.options)
            names = {name for uses in options for name in tenancy.guaranteed(job_class, uses)}
            inner_first = [name for name in job_class.quotas if name in names]

            def within(table: Table, rows: list[int]) -> bool:
                uses = tenancy.of_rows(table.request, rows, gang_rate(table, rows))
                return bool(tenancy.guaranteed(job_class, uses)) and tenancy.stops(job_class, uses, 0) is None

            debts = debtors(self._snapshot, job_class, inner_first, tenancy, self._now)
            if debts:
                lost = {attempt_id: debt.lost_nanos for attempt_id, debt in debts.items()}
                named = {attempt_id: debt.named for attempt_id, debt in debts.items()}
                message = f"gives back what quota {inner_first[-1]} guarantees"
                yield (
                    inner_first[-1],
                    message,
                    Preemption(self._world, self._snapshot, lost, self._now, within, self._kept, named),
                )
        if rules is not None and rules.preempt_gap:
            lost = lower_ones(self._snapshot, rules, queue, tenancy, self._now)
            message = f"makes room for a job of priority {queue.priority}"
            yield "", message, Preemption(self._world, self._snapshot, lost, self._now, kept=self._kept)
