"""Who ends so that the job with the claim can start, where that is worth it.

Owns    `Stops`: of the ways to make room, the first that there is.
Why     a job is within a guarantee, or of so much higher priority; whom it may have stopped differs by that,
        and how they are chosen does not (`preempt`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bursar.clock import HOUR_US
from bursar.model import EndCause
from bursar.projects import top_of
from bursar_policies.decision import PendingQueue, Snapshot, Stop
from bursard.scheduler.admit import Rooms
from bursard.scheduler.backfill import Reservation
from bursard.scheduler.claims import Claims
from bursard.scheduler.gang import gang_rate
from bursard.scheduler.preempt import Preemption, Room, debtors, lower_ones
from bursard.scheduler.quotas import Tenancy
from bursard.scheduler.releases import NEVER
from bursard.scheduler.table import Table
from bursard.scheduler.text import money
from bursard.scheduler.world import World

_Way = tuple[str, str, Preemption]
"""By which quota, what they are told, and whom a job may have stopped."""


class Stops:
    """Whom one plan may have stopped."""

    def __init__(self, world: World, snapshot: Snapshot, tenancy: Tenancy | None, now: int) -> None:
        self._world, self._snapshot, self._tenancy, self._now = world, snapshot, tenancy, now
        self._grace_us = max((one.grace_us for one in snapshot.holders.values()), default=0)
        self._kept: tuple[int, ...] = ()
        self.limited_until = 0
        """Until when nobody is stopped, since the job's project or user had that done so often; 0: not for
        that.
        """
        self.limited_user = False
        """Is it the user?"""

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
        found_way = self._first(ways, queue, job_id, lambda way: way.room_for(job_class, rooms, at))
        rooms.promise(job_class.payers, held)
        if found_way is None:
            return None
        quota, message, way, room = found_way
        stops = (
            Stop(
                one, EndCause.PREEMPTED, job_id, message + (self._loses(way, one) if not quota else ""), quota
            )
            for one in room.victims
        )
        return quota, tuple(stops)

    def _first(
        self,
        ways: Iterator[_Way],
        queue: PendingQueue,
        job_id: str,
        room_by: Callable[[Preemption], Room | None],
    ) -> tuple[str, str, Preemption, Room] | None:
        """The first way to room, but for stops by priority beyond what its project and its user may have
        in an hour.
        """
        for quota, message, way in ways:
            room = room_by(way)
            if room is None:
                continue
            if room.victims and not quota:
                self.limited_until, self.limited_user = self._often(queue, job_id)
                if self.limited_until:
                    continue
            return quota, message, way, room
        return None

    def _often(self, queue: PendingQueue, job_id: str) -> tuple[int, bool]:
        """Until when a job's project or user has had others stopped as often as it may, 0: both may now; and
        whether the user is why.
        """
        shot, rules, position = self._snapshot, self._snapshot.priority, queue.position_of(job_id)
        if rules is None:
            return 0, False
        tenant = top_of(_named(shot.projects, queue.jobs.projects.item(position)))
        user = _named(shot.users, queue.jobs.users.item(position))
        of_project = self._until(shot.rooms_made.get(tenant, ()), rules.preempt_max)
        of_user = self._until(shot.rooms_by_user.get(user, ()), rules.preempt_user_max or rules.preempt_max)
        return max(of_project, of_user), of_user > of_project

    def _until(self, times: tuple[int, ...], most: int) -> int:
        """Until when that was as often as it may be; 0: it was not."""
        times = tuple(at for at in times if self._now - HOUR_US < at <= self._now)
        return times[-most] + HOUR_US if 0 < most <= len(times) else 0

    def _loses(self, way: Preemption, attempt_id: str) -> str:
        """Who pays for it is told what it costs him."""
        return f", and loses {money(way.lost[attempt_id], self._snapshot.currency)} of work and restart"

    def _ways(self, queue: PendingQueue) -> Iterator[_Way]:
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


def _named(names: Sequence[str], index: int) -> str:
    """The name that a column gives as a number; "" where none was told."""
    return names[index] if index < len(names) else ""
