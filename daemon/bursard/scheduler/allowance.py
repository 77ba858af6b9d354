"""What quotas let one job after the other have, as one plan walks the queue.

Owns    `Allowance`: whether a quota stops a job wherever it goes, or on the nodes that would be best for it.
Why     `Tenancy` counts what is used and owed; here it is asked about lanes and tables.
"""

from __future__ import annotations

from msgspec.structs import replace

from bursard.scheduler import gang
from bursard.scheduler.gang import gang_rate
from bursard.scheduler.quotas import Over, Tenancy, Uses
from bursard.scheduler.rank import Lane
from bursard.scheduler.table import Table
from bursard.scheduler.world import World


class Allowance:
    """Of the quotas of one plan.

    Attributes:
        over: what stopped the job that is looked at on the nodes that were best for it; the caller
            forgets it with the next job.
    """

    def __init__(self, tenancy: Tenancy, world: World, now: int) -> None:
        self._tenancy, self._world, self._now = tenancy, world, now
        self.over: Over | None = None

    def within(self, lane: Lane) -> bool:
        """Is it within a guarantee, at the least that it can cost?"""
        tenancy, job_class = self._tenancy, lane.job_class
        if not job_class.quotas:
            return False
        rate = 0
        if job_class.rated:
            lane.tables = lane.tables or self._world.tables(job_class)
            rate = max(min(table.cheapest_rate(job_class.nodes) for table in lane.tables), 0)
        return tenancy.within(job_class, rate)

    def stops(self, lane: Lane) -> tuple[Over, Uses] | None:
        """Does a quota stop it wherever it goes? Where it goes may stop it too, which `but` sees to."""
        job_class, tenancy = lane.job_class, self._tenancy
        if not tenancy.counts(job_class):
            return None
        found: tuple[Over, Uses] | None = None
        for table in lane.tables:
            rate = table.cheapest_rate(job_class.nodes) if job_class.rated else 0
            uses = tenancy.at_least(table.request, job_class.nodes, rate)
            over = tenancy.stops(job_class, uses, self._now + lane.hold_us)
            if over is None:
                return None
            found = found or (over, uses)
        return found

    def but(self, lane: Lane, best: gang.Best) -> gang.Best:
        """The same without nodes on which quotas do not let it start: of another type of GPU, or dearer."""
        tenancy, job_class, ends_at = self._tenancy, lane.job_class, self._now + lane.hold_us
        if not tenancy.counts(job_class):
            return best

        def stops(table: Table, rows: list[int]) -> Over | None:
            uses = tenancy.of_rows(table.request, rows, gang_rate(table, rows))
            return tenancy.stops(job_class, uses, ends_at)

        def found(table: Table, count: int) -> list[int]:
            rows = best(table, count)
            if len(rows) < count or (over := stops(table, rows)) is None:
                return rows
            self.over = self.over or over
            gpus, (_, _, kind) = table.request.gpus, over.resource.partition("/")
            others = [name for name in self._world.nodes.gpu_types if name != kind]
            if not kind or gpus is None or not (types := set(gpus.types or others) & set(others)):
                return []
            request = replace(table.request, gpus=replace(gpus, types=tuple(sorted(types))))
            rows = best(self._world.table(replace(table.ask, request=request)), count)
            return [] if len(rows) == count and stops(table, rows) is not None else rows

        return found
