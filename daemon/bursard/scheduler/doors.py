"""Doors: which nodes a plan leaves to the job whose turn it is, where nodes are reserved.

Owns    the reservations that close their nodes to the job that a lane shows, and tables without these.
Why     whom a reservation stops depends on how long a job may hold its nodes, so each job of a lane is looked
        at with the nodes that are open to it; a plan without reservations never comes here.
"""

from __future__ import annotations

from msgspec.structs import replace

from bursar_policies.decision import JobClass, Snapshot
from bursard.scheduler import gang
from bursard.scheduler.rank import Lane
from bursard.scheduler.table import Table
from bursard.scheduler.windows import Windows
from bursard.scheduler.world import World


class Doors:
    """The reservations of one plan.

    Attributes:
        windows: over the nodes of the plan. shut: those that close their nodes to the job looked at last.
    """

    def __init__(self, world: World, windows: Windows, snapshot: Snapshot, now: int) -> None:
        self._world, self._snapshot, self._now = world, snapshot, now
        self.windows = windows
        self.shut: tuple[str, ...] = ()

    def closing(self, job_class: JobClass) -> tuple[str, ...]:
        """Reservations that close their nodes to a job of a class with its limit."""
        return self.windows.closing(job_class, self._now, job_class.hold_us)

    def open_to(self, lane: Lane) -> None:
        """Leave the lane the nodes that are not reserved from the job that it shows."""
        self.shut = self.windows.closing(lane.job_class, self._now, lane.hold_us)
        lane.tables = self._world.tables_beside(lane.job_class, self.shut)

    def may_claim(self, index: int, row: int) -> bool:
        """Are enough nodes open to a job of a queue?"""
        queue = self._snapshot.queues[index]
        closing = self.closing(queue.class_at(row))
        tables = self._world.tables_beside(queue.job_class, closing) if closing else ()
        return not closing or any(one.usable_count >= queue.job_class.nodes for one in tables)

    @property
    def from_us(self) -> int:
        """Jobs of the lane that hold for so long meet the same."""
        return self.windows.from_us(self.shut, self._now) if self.shut else 0

    def own_first(self, lane: Lane, best: gang.Best) -> gang.Best:
        """Nodes that are reserved for it first: nobody else may have them."""
        mine = self.windows.open_to(lane.job_class, self._now) if lane.job_class.reservations else ()
        if not mine:
            return best

        def found(table: Table, count: int) -> list[int]:
            rows = best(self._world.table(replace(table.ask, only=mine)), count)
            return rows if len(rows) == count else best(table, count)

        return found
