"""One plan: walk the queue in order, start what fits and is paid for, note what stops the rest.

Input   `Snapshot` and `now`; nothing else decides. `PlanCache` only saves work.
Why     daemon, simulator, `bursar plan` and tests call exactly this function.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from bursar.model import ReasonCode
from bursar_policies.decision import (
    UNCOMPUTABLE,
    Action,
    JobClass,
    PendingQueue,
    Placement,
    Plan,
    Promised,
    Purse,
    Snapshot,
    Start,
    Verdict,
)
from bursar_policies.scorers import Weights
from bursard.scheduler import gang, quiet
from bursard.scheduler.admit import Admitted, Refusal, Rooms
from bursard.scheduler.allowance import Allowance
from bursard.scheduler.backfill import Reservation
from bursard.scheduler.claims import Claims, Head
from bursard.scheduler.doors import Doors
from bursard.scheduler.kept import Kept
from bursard.scheduler.making_room import Stops
from bursard.scheduler.order import Order
from bursard.scheduler.pricing import spared_us
from bursard.scheduler.promises import NO_LIMITS, Guard, has_devices, within
from bursard.scheduler.quiet import Quiet
from bursard.scheduler.quotas import Over, Tenancy, Uses
from bursard.scheduler.rank import NO_BOUND, Lane, RankedLane, Ranking
from bursard.scheduler.releases import ending
from bursard.scheduler.stages import staged
from bursard.scheduler.table import PRICES_MAX, Table
from bursard.scheduler.world import PlanCache, World

_HOPE = (
    ReasonCode.BUDGET_COMMITTED,
    ReasonCode.PRICE_CAP_EXCEEDED,
    ReasonCode.APPROVAL_REQUIRED,
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
        Actions in the order they must be applied; for every queue of which something is left, what stops
        it, of which `reason_of` makes the sentence. `reserved_at` is 0 when nothing had to be held back for
        the reserved job, so its time was not worked out.

    Raises:
        InvalidRequest: unknown strategy, or more nodes than a plan covers.
    """
    with (cache or PlanCache()).world(snapshot, weights) as world:
        return Planner(snapshot, now, world).run()


class Planner:
    """The state of one plan while it is made. `explain` looks at it afterwards."""

    def __init__(self, snapshot: Snapshot, now: int, world: World) -> None:
        self.snapshot = snapshot = ending(staged(snapshot), now)
        self.now = now
        self.world = world
        self.rooms = Rooms(snapshot.budgets, snapshot.currency)
        self.groups: list[tuple[Action, ...]] = []
        self.considered = 0
        self.purses: list[Purse] = []
        self.claims = Claims(world, snapshot, self.rooms, now, self._bound)
        self.doors = None if world.windows is None else Doors(world, world.windows, snapshot, now)
        rules = snapshot.priority
        self.order = None if rules is None else Order(snapshot, rules, world.sizes, now)
        keeping = rules if rules is not None and rules.kept_ppm > 0 else None
        self.kept = Kept(keeping, snapshot.nodes, world.free) if keeping is not None else None
        self.tenancy = Tenancy(snapshot) if snapshot.quotas else None
        self._allowance = Allowance(self.tenancy, world, now) if self.tenancy is not None else None
        self._quiet: Quiet | None = None
        if self.kept is None and self.tenancy is None and len(snapshot.queues) > quiet.FEW:
            self._quiet = Quiet(world, snapshot, self.order)
            self.rooms.watch(self._quiet.marks())
        firsts = self._quiet.firsts if self._quiet is not None else None
        within = self._allowance.within if self._allowance is not None else None
        self._ranking = Ranking(snapshot.queues, self.order, firsts, within)
        self._begun: set[str] = set()
        """Of those that were promised, what this plan has started before all others."""
        self.guard: Guard | None = None
        self._limits = NO_LIMITS
        """What the job that is looked at may use of nodes on which places are kept for others."""
        self._reaches = False
        """Does nothing else matter beside places that are kept but price?"""
        self._is_full = False
        """Is it known that the job that is looked at finds no room?"""
        if snapshot.promises:
            alone = self.kept is None and self._allowance is None and self.doors is None
            self._reaches = alone and len(world.kinds.facts) <= PRICES_MAX
            self.guard = Guard(world, snapshot.promises, lambda: self.claims.releases, now)
            self.claims.guard = self.guard
        self._limited_until, self._limited_user = 0, False
        self._told: dict[int, Verdict] = {}
        """By queue, what stops those that were passed over."""

    @property
    def reservation(self) -> Reservation | None:
        """The claim, once there is one."""
        return self.claims.held

    def run(self) -> Plan:
        """Walk the whole queue."""
        ranking, quiet = self._ranking, self._quiet
        if self.guard is not None:
            self._start_due(self.guard)
        if self.snapshot.made:
            self._start_made()
        plain = self.guard is None and not self.snapshot.made
        while ranking:
            if quiet is not None and ranking.is_first() and self._pass_over(quiet):
                continue
            self.considered += 1
            lane = ranking.head()
            try:
                lane.tables = lane.tables or self.world.tables(lane.job_class)
                if self.doors is not None:
                    self.doors.open_to(lane)
                verdict = self.attempt(lane) if plain else self._look(lane)
            except ArithmeticError:
                # A figure that no column can hold is the trouble of whoever asks for it, and nobody else's.
                verdict = self._verdict(lane, UNCOMPUTABLE)
            if verdict is not None:
                lane.note(verdict)
            ranking.go_on()
        return self._answer()

    def _look(self, lane: Lane) -> Verdict | None:
        """Start the job that a lane shows, or say what stops it, where something is kept for others."""
        if self.snapshot.made:
            job_id, claim = lane.job_id, self.reservation
            if job_id in self._begun:
                return None
            if claim is not None and claim.job_id == job_id:  # it was looked at before all others
                if self.world.may_start(lane.tables, lane.job_class.nodes):
                    return self._verdict(lane, "room", NO_BOUND)
                return self._wait(lane, gang.NO_ROOM)
        return self.attempt(lane) if self.guard is None else self._beside(self.guard, lane)

    def _start_made(self) -> None:
        """Start what others were stopped for, or keep what they leave for it: else another one would have
        it, and more would be stopped. The first for whom it was made has the claim.
        """
        for one in self.snapshot.made:
            queue = self.snapshot.queues[one.queue] if one.queue >= 0 and one.until > self.now else None
            position = queue.position_of(one.job_id) if queue is not None else -1
            if queue is None or position < 0 or one.job_id in self._begun:
                continue
            lane = self._alone(one.queue, queue, position)
            try:
                lane.tables = self.world.tables(lane.job_class)
                if self.doors is not None:
                    self.doors.open_to(lane)
                verdict = self._look(lane)
            except ArithmeticError:
                continue
            if verdict is None:
                self._begun.add(one.job_id)
            elif self.claims.hold(queue.class_at(position), one.job_id, one.queue):
                return

    def _alone(self, index: int, queue: PendingQueue, position: int) -> Lane:
        """A lane of one job of a queue."""
        alone = replace(queue, jobs=queue.jobs.only(position))
        if self.order is None:
            return Lane(index, alone)
        return RankedLane(index, alone, self.order.of_queue(index)[position : position + 1])

    def comes_first(self, index: int) -> bool:
        """Does a queue come before all others, because what it asks for is guaranteed to it?"""
        return bool(self._ranking.lane(index).before)

    def _pass_over(self, quiet: Quiet) -> bool:
        """Pass over the queues whose first jobs are next and need no look. Were there any?"""
        while self.rooms.low:
            quiet.wake(self.rooms.low.pop())
        passed = self._ranking.pass_over(quiet.passes)
        self.considered += len(passed)
        claimed, doors = self.reservation is not None, self.doors
        stopped = Verdict("room", len(self.groups), claimed, purses=len(self.purses))
        for rank, order, index, row in passed:
            if not claimed and quiet.may_claim(index) and (doors is None or doors.may_claim(index, row)):
                self.claims.wait(Head((rank, order), index, 0, 0))
            self._told[index] = replace(stopped, position=row) if row else stopped
        return bool(passed)

    def _answer(self) -> Plan:
        snapshot, claim = self.snapshot, self.reservation
        looked_at = ((lane.index, lane.verdict()) for lane in self._ranking.lanes())
        verdicts = self._told | {index: found for index, found in looked_at if found is not None}
        reserved = claim.job_id if claim else ""
        budgets: tuple[str, ...] = ()
        making_room: str | None = None
        if claim is not None:
            budgets = snapshot.queues[claim.queue].job_class.payers
            making_room = self._make_room(reserved, claim.queue)
        elif (head := self.claims.first()) is not None:
            row = self._ranking.lane(head.lane).row(head.position)
            reserved = snapshot.queues[head.lane].jobs[row][1]
            making_room = self._make_room(reserved, head.lane)
        return Plan(
            version=snapshot.version,
            at=self.now,
            groups=(*self.groups, *((stop,) for stop in snapshot.moves)),
            verdicts={index: verdicts[index] for index in sorted(verdicts)},
            prices=snapshot.prices,
            policies=snapshot.policies,
            reserved_job=reserved,
            reserved_at=claim.at if claim else 0,
            reserved_nanos=claim.hold_nanos if claim else 0,
            reserved_budgets=budgets,
            considered=self.considered,
            purses=tuple(self.purses),
            making_room_for=reserved if making_room is not None else "",
            making_room_by=making_room or "",
            limited_until=self._limited_until,
            limited_user=self._limited_user,
        )

    def _make_room(self, job_id: str, index: int) -> str | None:
        """Stop others for the job with the claim, where that is worth it. The quota by which somebody is
        ending for it, "" for its priority; None: nobody is.
        """
        ways = Stops(self.world, self.snapshot, self.tenancy, self.now)
        found = ways.for_job(job_id, index, self.rooms, self.claims)
        self._limited_until, self._limited_user = ways.limited_until, ways.limited_user
        if found is None:
            return None
        quota, stops = found
        if stops:
            self.groups.append(stops)
        return quota

    def _start_due(self, guard: Guard) -> None:
        """Begin what was promised to begin by now, where it was promised. Nothing else comes before it."""
        for one in guard.due():
            if one.queue < 0 or not self._start_promised(guard, one):
                continue
            self._begun.add(one.job_id)

    def _start_promised(self, guard: Guard, one: Promised) -> bool:
        queue = self.snapshot.queues[one.queue]
        position = queue.position_of(one.job_id)
        if position < 0:
            return False
        job_class, rows = queue.class_at(position), [member.node for member in one.members]
        table = self.world.tables(queue.job_class)[one.option]
        here = [(self.world.free.state(member.node), member) for member in one.members]
        if not all(table.usable.item(state.row) and has_devices(state, member) for state, member in here):
            return False
        self.rooms.promise(one.budgets, -one.hold_nanos)
        answer = self.rooms.admit(job_class, gang.gang_rate(table, rows))
        if not isinstance(answer, Admitted) or answer.time_limit_us < job_class.time_limit_us:
            self.rooms.promise(one.budgets, one.hold_nanos)
            return False
        guard.begun(one.job_id)
        members = tuple(
            replace(one, rates=table.share_rates(self.world.nodes, one.node, one.devices))
            for one in one.members
        )
        choice = gang.Choice(one.option, table, rows, answer)
        self._put(one.job_id, one.queue, job_class, choice, members)
        return True

    def _beside(self, guard: Guard, lane: Lane) -> Verdict | None:
        """The same where places are kept for jobs that were promised their deadlines."""
        job_id = lane.job_id
        if job_id in self._begun:
            return None
        own = guard.of(job_id)
        self._limits, self._is_full = NO_LIMITS, False
        if self.world.may_start(lane.tables, lane.job_class.nodes):
            rate = self._foreknown(guard, lane, own)
            if rate is not None and own is not None and self._waits_for_cheaper(lane, own, rate):
                return self._verdict(lane, "dearer", NO_BOUND)
            if not self._is_full:
                self._limits = guard.limits(lane.hold_us, job_id, lane.tables)
        if own is None:
            return self._kept_from(guard, lane, self.attempt(lane))
        self.rooms.promise(own.budgets, -own.hold_nanos)
        verdict = self._kept_from(guard, lane, self.attempt(lane))
        if verdict is None:
            guard.begun(job_id)
        else:
            self.rooms.promise(own.budgets, own.hold_nanos)
        return verdict

    def _kept_from(self, guard: Guard, lane: Lane, verdict: Verdict | None) -> Verdict | None:
        """What stops a job that has room but for what is kept for others stops those that hold for as long as
        no node could be held: a shorter one may end before.
        """
        kept = self._is_full or bool(self._limits)
        if verdict is None or verdict.blocked_by != "room" or not kept or not self._fits_alone(lane):
            return verdict
        longest_us = lane.hold_us
        # One behind it that has a place of its own may have room there, where others have none.
        known = self._reaches and not guard.waits_in(lane.index)
        if known and not any(table.domain is not None for table in lane.tables):
            nodes = lane.job_class.nodes
            longest_us = max(guard.reach(table).until(nodes) for table in lane.tables) - self.now + 1
        from_us = max(verdict.from_hold_us, min(longest_us, lane.hold_us))
        return replace(verdict, blocked_by="promise", from_hold_us=from_us)

    def _foreknown(self, guard: Guard, lane: Lane, own: Promised | None) -> int | None:
        """At which rate a look would find room for a job, where that is known without. Sets `_is_full`."""
        tables, nodes, until = lane.tables, lane.job_class.nodes, self.now + lane.hold_us
        if not self._reaches or len(tables) > 1 or tables[0].domain is not None or lane.job_class.max_nodes:
            return None
        if own is None and guard.has_spare(tables[0], nodes):
            return None
        mine = guard.own_room(tables[0], own, until) if own is not None else ()
        rate = guard.reach(tables[0]).rate(nodes, until, mine)
        self._is_full = rate is None
        return rate

    def _waits_for_cheaper(self, lane: Lane, own: Promised, rate: int) -> bool:
        """Is it plain that a promised job would find nothing but what is dearer than its place?"""
        claims = self.claims
        if own.start <= self.now or own.rate < 0 or 0 <= rate <= own.rate:
            return False
        if claims.held is not None or claims.open:
            return False
        if own.budgets:
            self.rooms.promise(own.budgets, -own.hold_nanos)
        answer = self.rooms.admit(lane.job_class, rate, lane.limit_us)
        if own.budgets:
            self.rooms.promise(own.budgets, own.hold_nanos)
        return isinstance(answer, Admitted)

    def _is_dearer(self, lane: Lane, choice: gang.Choice) -> bool:
        """Would a job that is promised a cheaper place cost more here? Until that is due it waits for it."""
        own = self.guard.of(lane.job_id) if self.guard is not None else None
        if own is None or own.start <= self.now or own.rate < 0:
            return False
        rate = gang.gang_rate(choice.table, choice.rows)
        return rate < 0 or rate > own.rate

    def _fits_alone(self, lane: Lane) -> bool:
        """Is there room for a job, but for what is kept for others?"""
        nodes = lane.job_class.nodes
        return any(self.world.has_room(table, nodes) for table in lane.tables)

    def attempt(self, lane: Lane) -> Verdict | None:
        """Start the job that a lane shows, or say what stops it."""
        job_class, tables = lane.job_class, lane.tables
        if self._allowance is not None:
            self._allowance.over = None
            if (refused := self._allowance.stops(lane)) is not None:
                return self._beyond_quota(lane, *refused)
        if not self.world.may_start(tables, job_class.nodes):
            # On a full site that is nearly every queue.
            return self._wait(lane, gang.NO_ROOM)
        if self.kept is not None and self._must_leave(self.kept, lane):
            return self._verdict(lane, "kept")
        claims = self.claims
        if claims.held is not None and self._stopped_by(claims.held, lane):
            return self._verdict(lane, "claim", claims.held.at - self.now + 1)
        answer, met = self._find(lane, job_class)
        if isinstance(answer, gang.NoChoice):
            verdict = self._wait(lane, answer) if met is None else self._delays(lane, met, answer)
            self._set_aside(lane, answer.refusals)
            return verdict
        if self._is_dearer(lane, answer):
            return self._verdict(lane, "dearer", NO_BOUND)
        if job_class.max_nodes and (self.guard is None or self.guard.of(lane.job_id) is None):
            answer, met = self._largest(lane, answer, met)
        self._begin(lane, answer, met)
        return None

    def _find(
        self, lane: Lane, job_class: JobClass
    ) -> tuple[gang.Choice | gang.NoChoice, Reservation | None]:
        """Where the job that a lane shows could start with as many nodes as the class says; and the claim,
        where it was looked for among what that leaves.
        """
        tables, limit_us, claims = lane.tables, lane.limit_us, self.claims
        if self._is_full:
            return gang.NO_ROOM, None
        larger = len(tables) > 1 and job_class.nodes > lane.job_class.nodes
        leaving = self._leaving_whole if larger else self._leaving
        best = leaving(lane, self._best)
        answer = gang.choose(tables, job_class, self.rooms, best, limit_us)
        if isinstance(answer, gang.Choice) and claims.open:
            claims.settle(self._ranking, lane.key(lane.position))
            answer = gang.choose(tables, job_class, self.rooms, best, limit_us)
        claim = claims.held
        if (
            isinstance(answer, gang.NoChoice)
            or claim is None
            or self.now + answer.admitted.hold_us <= claim.at
            or (len(tables) == 1 and claim.is_clear_of(answer.table, answer.rows))
        ):
            return answer, None
        spared = leaving(lane, self._spared(claim))
        return gang.choose(tables, job_class, self.rooms, spared, limit_us), claim

    def _largest(
        self, lane: Lane, answer: gang.Choice, met: Reservation | None
    ) -> tuple[gang.Choice, Reservation | None]:
        """Of a range of sizes that can start as its least, the same with the most nodes that can start.

        Room, quotas and money refuse more nodes wherever they refuse fewer, so the sizes are halved. A size
        whose time limit `max_cost` would cut shorter is no better than a smaller one.
        """
        least = lane.job_class
        low, high = least.nodes, max(self.world.fits_count(table) for table in lane.tables)
        high = size = min(least.max_nodes, high)
        while low < high:
            found, claim = self._find(lane, replace(least, nodes=size))
            if isinstance(found, gang.Choice) and (
                found.admitted.time_limit_us >= answer.admitted.time_limit_us
            ):
                answer, met, low = found, claim, size
            else:
                high = size - 1
            size = (low + high + 1) // 2
        return answer, met

    def _delays(self, lane: Lane, claim: Reservation, answer: gang.NoChoice) -> Verdict:
        """What stops a job that would delay the one with the claim."""
        from_us = max(claim.at - self.now + 1, self._refused_from_us(lane, answer.refusals))
        return self._verdict(lane, "claim", from_us)

    def _begin(self, lane: Lane, answer: gang.Choice, claim: Reservation | None) -> None:
        """Start a job there. `claim`: what it has to leave on these nodes."""
        gpus, limits = self.world.free.gpus, self._limits
        free = limits is NO_LIMITS

        def usable(row: int) -> list[int]:
            limit = None if free else limits.get(row)
            return gpus[row].tolist() if limit is None else list(limit.gpus)

        if claim is None:
            self._start(lane, answer, gang.place(self.world.nodes, answer, usable))
            return
        states = (claim.usable(self.world.free, row) for row in answer.rows)
        left = {one.row: list(within(one, limits).gpus) for one in states}
        members = gang.place(self.world.nodes, answer, left.__getitem__)
        self._start(lane, answer, members)
        for member in members:
            held = [(share.index, share.milli) for share in member.devices]
            claim.take(member.node, member.cpu_milli, member.memory_bytes, held)

    def _beyond_quota(self, lane: Lane, over: Over, uses: Uses) -> Verdict:
        if self.tenancy is not None:
            self.tenancy.set_aside(lane.job_id, over, uses)
        from_us = over.until - self.now + 1 if over.for_job else 0
        made = self._verdict(lane, "quota", max(from_us, 0))
        return replace(
            made, quota=over.quota, resource=over.resource, needed_nanos=over.asked, for_job=over.for_job
        )

    def _stopped_by(self, claim: Reservation, lane: Lane) -> bool:
        """Would it outlive the beginning of the claim wherever it went? Whether there is room for it at all
        is left to `reason_of`, when somebody asks. A cap may shorten a job: such a one is always looked at.
        """
        job_class, world = lane.job_class, self.world
        if job_class.max_cost_nanos or self.now + lane.hold_us <= claim.at:
            return False
        nodes = job_class.nodes
        tables = lane.tables
        if len(tables) == 1:
            return claim.stops(world, tables[0], nodes)
        return all(claim.stops(world, table, nodes) for table in tables)

    def _bound(self, lane: Lane, position: int) -> bool:
        """Must this job leave the room that is kept for short ones?"""
        if self.kept is None or lane.overdue(position):
            return False
        return self.kept.binds(lane.job_class, lane.hold_at(position) - spared_us(lane.overhead_us))

    def _must_leave(self, kept: Kept, lane: Lane) -> bool:
        """Would it take of the room that is kept from it, wherever it has room?"""
        nodes = lane.job_class.nodes
        if not self._bound(lane, lane.position):
            return False
        return all(kept.short(one.request, nodes) for one in lane.tables if self.world.has_room(one, nodes))

    def _leaving(self, lane: Lane, best: gang.Best) -> gang.Best:
        """The same without alternatives that take of the room that is kept from the job, or that its quotas
        do not let it have.
        """
        kept = self.kept
        if self.doors is not None:
            best = self.doors.own_first(lane, best)
        if self._allowance is not None:
            best = self._allowance.but(lane, best)
        alone = len(lane.tables) == 1 and not lane.job_class.max_nodes  # `_must_leave` has looked at it
        if kept is None or alone or not self._bound(lane, lane.position):
            return best
        return lambda table, count: [] if kept.short(table.request, count) else best(table, count)

    def _leaving_whole(self, lane: Lane, best: gang.Best) -> gang.Best:
        """The same of alternatives with the most GPUs alone: a gang grows by nodes that are full of it."""
        best = self._leaving(lane, best)
        most = max(_gpus_of(table) for table in lane.tables)
        return lambda table, count: best(table, count) if _gpus_of(table) == most else []

    def _best(self, table: Table, count: int) -> list[int]:
        if not self.world.has_room(table, count):
            return []
        limits = self._limits
        if limits is not NO_LIMITS and limits:
            return table.best_but(self.world.packing, count, limits, limits.fitting(table))
        return table.best(self.world.packing, count)

    def _wait(self, lane: Lane, answer: gang.NoChoice) -> Verdict:
        """What stops a job that found no place: room if any alternative is only short of that, else money."""
        job_class, limit_us = lane.job_class, lane.limit_us
        nodes, refusals = job_class.nodes, list(answer.refusals)
        if self._allowance is not None and (over := self._allowance.over) is not None:
            return self._beyond_quota(lane, over, {over.resource: over.asked})
        refused = [option for option, _ in refusals]
        for option, table in enumerate(lane.tables):
            if option in refused or table.capable_count < nodes:
                continue
            verdict = self.rooms.admit(job_class, table.cheapest_rate(nodes), limit_us)
            if isinstance(verdict, Admitted):
                from_us = self._refused_from_us(lane, answer.refusals)
                if self.doors is not None:
                    from_us = max(from_us, self.doors.from_us)
                # Its place to come may be one of another alternative, which is for the claim to find out.
                usable = any(one.usable_count >= nodes for one in lane.tables)
                if self.reservation is None and usable and not self._bound(lane, lane.position):
                    self.claims.wait(Head(lane.key(lane.position), lane.index, lane.position, from_us))
                return self._verdict(lane, "room", from_us, option)
            refusals.append((option, verdict))
        if not refusals:
            return self._verdict(lane, "fault")
        from_us = self._refused_from_us(lane, refusals)
        option, refusal = min(refusals, key=lambda entry: (_HOPE.index(entry[1].code), entry[0]))
        return self._verdict(lane, "money", from_us, option, refusal)

    def _set_aside(self, lane: Lane, refusals: Sequence[tuple[int, Refusal]]) -> None:
        """A claim on money, which nobody behind may take: of a job that has room for an alternative that is
        refused for what others hold. Of all such jobs the first in each budget has one.

        What the claim on nodes would stop has none: more money would not start it.
        """
        if not any(refusal.code is ReasonCode.BUDGET_COMMITTED for _, refusal in refusals):
            return
        if self.claims.open:
            rank, order = lane.key(lane.position)
            self.claims.settle(self._ranking, (rank, order + 1))
        claim = self.reservation
        if claim is not None and claim.job_id != lane.job_id and self.now + lane.hold_us > claim.at:
            spared = self._leaving(lane, self._spared(claim))
            answer = gang.choose(lane.tables, lane.job_class, self.rooms, spared, lane.limit_us)
            refusals = answer.refusals if isinstance(answer, gang.NoChoice) else ()
        best = min(refusals, key=lambda one: (_HOPE.index(one[1].code), one[0]), default=None)
        purse = None if best is None else self.rooms.purse(lane.job_id, lane.job_class, best[1])
        if purse is not None:
            self.purses.append(purse)
            self.rooms.set_aside(purse)

    def _spared(self, claim: Reservation) -> gang.Best:
        """The best of what a claim leaves."""
        return lambda table, count: claim.best(self.world, table, count, self._limits)

    def _refused_from_us(self, lane: Lane, refusals: Sequence[tuple[int, Refusal]]) -> int:
        """Jobs of the lane that hold for so long are refused every one of these as well."""
        if not refusals:
            return 0
        bounds = (self.rooms.refused_from_us(lane.job_class, refusal) for _, refusal in refusals)
        return min(max(bounds, default=0), lane.hold_us)

    def _verdict(
        self, lane: Lane, blocked_by: str, from_us: int = 0, option: int = 0, refusal: Refusal | None = None
    ) -> Verdict:
        if self.kept is not None and blocked_by != "fault" and self._bound(lane, lane.position):
            # What stops one that must leave room need not stop a short one.
            from_us = max(from_us, self.kept.limit_us + spared_us(lane.overhead_us) + 1)
        if self.doors is not None and blocked_by != "fault":
            from_us = max(from_us, self.doors.from_us)
        made = Verdict(
            blocked_by=blocked_by,
            starts=len(self.groups),
            claimed=self.reservation is not None,
            purses=len(self.purses),
            option=option,
            position=lane.row(lane.position),
            from_hold_us=from_us,
        )
        return made if refusal is None else replace(made, **refusal._asdict())

    def _start(self, lane: Lane, choice: gang.Choice, members: tuple[Placement, ...]) -> None:
        self._put(lane.job_id, lane.index, lane.job_class, choice, members, lane.limit_us)

    def _put(
        self,
        job_id: str,
        index: int,
        job_class: JobClass,
        choice: gang.Choice,
        members: tuple[Placement, ...],
        limit_us: int = 0,
    ) -> None:
        budgets, admitted = job_class.payers, choice.admitted
        start = Start(
            job_id=job_id,
            option=choice.option,
            members=members,
            time_limit_us=admitted.leased_us,
            hold_nanos=admitted.hold_nanos,
            budgets=budgets,
            why=choice.table.served,
            queue=index,
            asked_us=limit_us or job_class.time_limit_us,
            full_limit_us=admitted.time_limit_us if job_class.lease_us else 0,
        )
        self.groups.append((start,))
        self.rooms.promise(budgets, admitted.hold_nanos)
        self.world.take(members)
        if self.tenancy is not None:
            uses = self.tenancy.of_members(members)
            self.tenancy.take(job_class, job_id, uses, self.now + admitted.hold_us)
        if self.kept is not None:
            self.kept.take(members)
        self.claims.started(members, self.now + admitted.hold_us)
        if self.guard is not None:
            self.guard.took(members)


def _gpus_of(table: Table) -> int:
    return table.request.gpus.count if table.request.gpus is not None else 0
