"""The claim of the first job that waits for room, as one plan comes to it.

Owns    `Claims`: the jobs that wait for room so far, first ones first; which of them has the claim; and what
        ends when, the starts of this plan among it.
Why     most plans need no claim: it is worked out when a later job could go ahead of one that waits.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bursar_policies.decision import JobClass, Placement, Snapshot
from bursard.scheduler.admit import Rooms
from bursard.scheduler.backfill import NoClaim, Reservation, reserve
from bursard.scheduler.promises import Beside, Guard
from bursard.scheduler.rank import Key, Lane, Ranking
from bursard.scheduler.releases import Releases
from bursard.scheduler.world import World


class Head(NamedTuple):
    """A job that waits for room, and so may have the claim.

    Attributes:
        key: its place among all jobs. position: in its lane.
        from_hold_us: jobs of the lane that hold for at least so long wait for the same.
    """

    key: Key
    lane: int
    position: int
    from_hold_us: int


class Claims:
    """Of one plan.

    Args:
        bound: must the job at a position of a lane leave room to others? Such a one claims none.

    Attributes:
        held: the claim, once there is one. guard: what is promised to others.
    """

    def __init__(
        self, world: World, snapshot: Snapshot, rooms: Rooms, now: int, bound: Callable[[Lane, int], bool]
    ) -> None:
        self.held: Reservation | None = None
        self.guard: Guard | None = None
        self._world, self._snapshot, self._rooms, self._now = world, snapshot, rooms, now
        self._bound = bound
        self._heads: list[Head] = []
        self._releases: Releases | None = None
        self._started: list[tuple[Sequence[Placement], int]] = []

    def wait(self, head: Head) -> None:
        """One more waits for room."""
        heapq.heappush(self._heads, head)

    @property
    def open(self) -> bool:
        """Does anybody wait who may still get the claim?"""
        return self.held is None and bool(self._heads)

    def first(self) -> Head | None:
        """Who waits before all others, as far as is known."""
        return self._heads[0] if self._heads else None

    def started(self, members: Sequence[Placement], ends_at: int) -> None:
        """This plan starts these, which end by then."""
        self._started.append((members, ends_at))

    @property
    def releases(self) -> Releases:
        """What ends when, the starts of this plan among it. Most plans never look."""
        if self._releases is None:
            self._releases = Releases(self._snapshot.running, self._world.free)
        while self._started:
            members, ends_at = self._started.pop()
            for member in members:
                self._releases.add(member, ends_at)
        return self._releases

    def settle(self, ranking: Ranking, before: Key) -> None:
        """The claim of the first job that waits, worked out when a later job could go ahead of it: the one at
        `before`, whose turn it is.

        Its money is set aside too: a gap filled with the head's own budget would delay the head.
        """
        while self.held is None and self._heads and self._heads[0].key < before:
            head = heapq.heappop(self._heads)
            lane = ranking.lane(head.lane)
            row = lane.row(head.position)
            job_class = lane.queue.class_at(row)
            try:
                found = self.first_of(job_class, lane.queue.jobs[row][1])
            except ArithmeticError:
                continue
            if isinstance(found, Reservation):
                found.job_id, found.queue = lane.queue.jobs[row][1], head.lane
                self.held = found
                self._rooms.promise(job_class.payers, found.hold_nanos)
            elif found.money:
                self._next_head(lane, head, job_class.hold_us)

    def hold(self, job_class: JobClass, job_id: str, queue: int) -> bool:
        """The claim is this job's, before anybody was looked at. False: there is no place for it to come."""
        self._heads.clear()
        try:
            found = self.first_of(job_class, job_id)
        except ArithmeticError:
            return False
        if not isinstance(found, Reservation):
            return False
        found.job_id, found.queue = job_id, queue
        self.held = found
        self._rooms.promise(job_class.payers, found.hold_nanos)
        return True

    def first_of(self, job_class: JobClass, job_id: str) -> Reservation | NoClaim:
        """The earliest claim of a job that waits for room."""
        openings = Beside(self.guard.future(job_id)) if self.guard else None
        return reserve(self._world, job_class, self._rooms, self.releases, self._now, openings)

    def kept(self, hold_us: int, job_id: str) -> tuple[int, ...]:
        """Nodes that a job that holds them for so long may not use all of: places are kept there."""
        return tuple(self.guard.limits(hold_us, job_id)) if self.guard else ()

    def _next_head(self, lane: Lane, head: Head, below_us: int) -> None:
        """Money refuses a head its place to come; a job of its lane that holds for less may have one."""
        position = lane.following(head.position, below_us)
        while position >= 0 and (lane.hold_at(position) < head.from_hold_us or self._bound(lane, position)):
            position = lane.following(position, below_us)
        if position >= 0:
            self.wait(head._replace(key=lane.key(position), position=position))
