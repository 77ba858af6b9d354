"""The planner as it is meant, one job after the other, in plain Python: slow, and obviously right.

Why     the planner of the daemon looks at queues instead of jobs and keeps what it
        worked out. `test_planners_agree.py` holds that this changes nothing. Filters, scorers and rules
        of money are shared with it; what is looked at, and in which order, is not.
Rule    jobs by priority, or as a PriorityPolicy ranks them, then submission. Each starts on the best nodes
        that are free and paid for; of a range of nodes, on the most that can start and that its own cap gives
        no less time than the least. The first that cannot for lack of room gets a claim on the nodes where
        it can start soonest, and on its money. Jobs behind it start only where they end before the claim
        begins, or leave it what it needs. No job is put where it may still be when a reservation that is not
        for it begins; one that has a reservation in force goes to its nodes first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from math import ceil
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from bursar.model import ReasonCode
from bursar.resources import MILLI, ResourceRequest
from bursar_policies.decision import JobClass, NodeColumns, PendingQueue, Snapshot
from bursar_policies.filters import FILTERS, Ask
from bursar_policies.rankers import ONE, SHARE_ONE, standings
from bursar_policies.rankers.doublings import doublings
from bursar_policies.scorers import NodeState, scorers_for
from bursard.scheduler import devices
from bursard.scheduler.admit import Admitted, Refusal, Rooms, limits_money
from bursard.scheduler.pricing import share_rates

HOPE = (
    ReasonCode.BUDGET_COMMITTED,
    ReasonCode.PRICE_CAP_EXCEEDED,
    ReasonCode.APPROVAL_REQUIRED,
    ReasonCode.BUDGET_EXHAUSTED,
    ReasonCode.MISCONFIGURED,
)
Held = tuple[tuple[int, int], ...]
OVERDUE = -1_000
"""The rank of what has waited past `max_wait`."""


class Started(NamedTuple):
    """One start. members: (row, devices held as (index, thousandths))."""

    job_id: str
    option: int
    members: tuple[tuple[int, Held], ...]
    time_limit_us: int
    hold_nanos: int


class Claim(NamedTuple):
    """left: by row, what is free beside the claim once it begins."""

    job_id: str
    at: int
    left: dict[int, NodeState]
    hold_nanos: int


class Place(NamedTuple):
    """A node that takes a member now: lower is better."""

    price: tuple[bool, int]
    cost: int
    name: str
    row: int
    held: Held


Choice = tuple[int, list[Place], Admitted]
"""The alternative, its nodes, and on what terms."""


class Running(NamedTuple):
    """A member, when it ends, and what it gives back."""

    row: int
    ends_at: int
    cpu_milli: int
    memory_bytes: int
    gpus: list[int]


class Reference:
    """One plan. `starts`, `claim` and `waiting` (job -> blocked by) are the answer."""

    def __init__(self, snapshot: Snapshot, now: int) -> None:
        self.nodes: NodeColumns = snapshot.nodes
        self.now = now
        self.rooms = Rooms(snapshot.budgets)
        self.starts: list[Started] = []
        self.waiting: dict[str, str] = {}
        self.claim: Claim | None = None
        self.asides: dict[str, tuple[str, int]] = {}
        self.reservations = snapshot.reservations
        self.rules, self.bound, self.kept = snapshot.priority, False, [0, 0, 0]
        self.ready = [row for row in range(len(self.nodes.ids)) if self.nodes.ready[row]]
        self.overdue = {
            job_id
            for queue in snapshot.queues
            for position, (_, job_id) in enumerate(queue.jobs)
            if rank(snapshot, queue, position, now)[0] == OVERDUE
        }
        rows = range(len(self.nodes.ids))
        order = sorted(rows, key=lambda row: (self.pace(row), self.nodes.names[row]))
        place = [order.index(row) for row in rows]
        self.scorers = scorers_for(snapshot.strategy, self.nodes, snapshot.typical, place, None)
        self.free = [
            NodeState(
                row,
                int(self.nodes.cpu_free[row]),
                int(self.nodes.memory_free[row]),
                self.nodes.gpu_free[row, : int(self.nodes.gpu_total.max(initial=0))].tolist(),
            )
            for row in rows
        ]
        running = snapshot.running
        self.running = [
            Running(
                int(running.node[i]),
                int(running.ends_at[i]),
                int(running.cpu_milli[i]),
                int(running.memory_bytes[i]),
                running.gpu_milli[i].tolist(),
            )
            for i in range(len(running))
        ]
        jobs = [
            (rank(snapshot, queue, position, now), order, job_id, queue.class_at(position))
            for queue in snapshot.queues
            for position, (order, job_id) in enumerate(queue.jobs)
        ]
        for _, _, job_id, job_class in sorted(jobs, key=lambda job: job[:2]):
            self.attempt(job_id, job_class)

    # --- one job

    def attempt(self, job_id: str, job_class: JobClass) -> None:
        """Start it, or note what stops it."""
        self.bound = self.must_leave_room(job_id, job_class)
        if self.bound and self.takes_kept_room(job_class):
            self.waiting[job_id] = "kept"
            return
        choice = self.choose(job_class, self.free)
        claim = self.claim
        if choice is None:
            self.waiting[job_id] = self.why(job_class)
            if (
                self.waiting[job_id] == "room"
                and claim is None
                and not self.bound
                and self.open_to(job_class)
            ):
                self.reserve(job_id, job_class)
            self.set_aside(job_id, job_class)
            return
        found = self.find(job_class)
        if found is None:
            self.waiting[job_id] = "claim"
            self.set_aside(job_id, job_class)
            return
        for nodes in range(job_class.max_nodes, job_class.nodes, -1):
            larger = self.find(replace(job_class, nodes=nodes))
            if larger is not None and larger[0][2].time_limit_us >= found[0][2].time_limit_us:
                found = larger
                break
        self.start(job_id, job_class, *found[0], found[1])

    def find(self, job_class: JobClass) -> tuple[Choice, bool] | None:
        """Where so many members could start, and whether they are to leave the claim its room."""
        choice, claim = self.choose(job_class, self.free), self.claim
        long = claim is not None and choice is not None and self.now + choice[2].hold_us > claim.at
        if claim is not None and long:
            choice = self.choose(job_class, [self.beside(state, claim) for state in self.free])
        return None if choice is None else (choice, long)

    # --- reservations

    def closed(self, row: int, job_class: JobClass, at: int) -> bool:
        """Would a job that starts then still hold this node in a window that is not for it?"""
        return any(
            self.nodes.names[row] in one.nodes
            and name not in job_class.reservations
            and one.starts_at < at + job_class.hold_us
            and at < one.ends_at
            for name, one in self.reservations.items()
        )

    def open_to(self, job_class: JobClass) -> bool:
        """Are enough nodes for an alternative not closed to it now?"""
        asks = [self.ask(job_class, request) for request in job_class.options]
        rows = ([row for row in self.capable(ask) if self.nodes.ready[row]] for ask in asks)
        return any(
            self.most([row for row in some if not self.closed(row, job_class, self.now)], job_class)
            >= job_class.nodes
            for some in rows
        )

    def most(self, rows: Iterable[int], job_class: JobClass) -> int:
        """So many members these nodes can have at once."""
        found = Counter(self.nodes.attributes[row].get(job_class.together, "") for row in rows)
        return max(found.values(), default=0)

    def mine(self, job_class: JobClass) -> set[str]:
        """Nodes that are reserved for it now."""
        of = (one for name, one in self.reservations.items() if name in job_class.reservations)
        return {node for one in of if one.starts_at <= self.now < one.ends_at for node in one.nodes}

    # --- room kept for short jobs

    def must_leave_room(self, job_id: str, job_class: JobClass) -> bool:
        """A long job that has not waited for too long, of which more than the kept room would be left."""
        rules = self.rules
        if rules is None or not rules.kept_ppm or held_for(job_class) <= rules.short_limit_us:
            return False
        wholes = self.sums(
            (
                int(self.nodes.cpu_total[row]),
                int(self.nodes.memory_total[row]),
                int(self.nodes.gpu_total[row]) * MILLI,
            )
            for row in self.ready
        )
        self.kept = [ceil(Fraction(whole * rules.kept_ppm, 10**6)) for whole in wholes]
        parts = (
            (part, kept, whole)
            for one in job_class.options
            for part, kept, whole in zip(parts_of(one, job_class.nodes), self.kept, wholes, strict=True)
        )
        too_large = any(part and part + kept > whole for part, kept, whole in parts)
        return not too_large and job_id not in self.overdue

    def takes_kept_room(self, job_class: JobClass) -> bool:
        """All alternatives that have room do."""
        have = [
            one for one in job_class.options if len(self.places(job_class, one, self.free)) >= job_class.nodes
        ]
        return bool(have) and all(self.is_short(one, job_class.nodes) for one in have)

    def is_short(self, request: ResourceRequest, nodes: int) -> bool:
        """Would it leave less than is kept?"""
        free = self.sums(
            (
                self.free[row].cpu_milli,
                self.free[row].memory_bytes,
                sum(left for left in self.free[row].gpus if left > 0),
            )
            for row in self.ready
        )
        parts = zip(free, parts_of(request, nodes), self.kept, strict=True)
        return any(part and left - part < kept for left, part, kept in parts)

    def sums(self, rows: Iterable[tuple[int, int, int]]) -> list[int]:
        """By column."""
        return [sum(column) for column in zip(*[(0, 0, 0), *rows], strict=True)]

    def beside(self, now: NodeState, claim: Claim) -> NodeState:
        """What a job that outlives the beginning of the claim may use of a node."""
        later = claim.left.get(now.row)
        if later is None:
            return now
        gpus = [min(pair) for pair in zip(now.gpus, later.gpus, strict=True)]
        cpu, memory = min(now.cpu_milli, later.cpu_milli), min(now.memory_bytes, later.memory_bytes)
        return NodeState(now.row, cpu, memory, gpus)

    def choose(self, job_class: JobClass, free: list[NodeState]) -> Choice | None:
        """The first alternative, or the cheapest, that has enough nodes and is paid for."""
        found = []
        for option, request in enumerate(job_class.options):
            if self.bound and self.is_short(request, job_class.nodes):
                continue
            every, mine = self.places(job_class, request, free), self.mine(job_class)
            own = [place for place in every if place.name in mine]
            places = self.together(own, job_class) or self.together(every, job_class)
            if len(places) == job_class.nodes:
                unknown = any(place.price[0] for place in places)
                rate = -1 if unknown else sum(place.price[1] for place in places)
                order = (False, 0, option) if job_class.ordered else (unknown, rate, option)
                found.append((order, rate, places))
        for (_, _, option), rate, places in sorted(found, key=lambda entry: entry[0]):
            answer = self.rooms.admit(job_class, rate)
            if isinstance(answer, Admitted):
                return option, places, answer
        return None

    def pace(self, row: int) -> Fraction:
        """Nodes of each shape are filled by name, and of all shapes the same part at a time."""
        nodes = self.nodes
        columns = (nodes.gpu_type, nodes.gpu_total, nodes.cpu_total, nodes.memory_total)
        alike = [
            name
            for other, name in enumerate(nodes.names)
            if all(column[other] == column[row] for column in columns)
        ]
        return Fraction(2 * sorted(alike).index(nodes.names[row]) + 1, 2 * len(alike))

    def together(self, places: list[Place], job_class: JobClass) -> list[Place]:
        """The best for a gang; where members must be together, of the cheapest place that has so many, the
        one where fewest have room.
        """
        by_place: dict[str, list[Place]] = {}
        for one in places:
            facts = self.nodes.attributes[one.row]
            by_place.setdefault(facts.get(job_class.together, ""), []).append(one)
        found = []
        for group in by_place.values():
            best = sorted(group)[: job_class.nodes]
            if len(best) == job_class.nodes:
                unknown = any(one.price[0] for one in best)
                found.append((unknown, sum(one.price[1] for one in best), len(group), best))
        return min(found, key=lambda one: (one[0], 0 if one[0] else one[1], *one[2:]))[3] if found else []

    def places(self, job_class: JobClass, request: ResourceRequest, free: list[NodeState]) -> list[Place]:
        """Every node that takes a member now."""
        ask = self.ask(job_class, request)
        found = []
        for row in self.capable(ask):
            state = free[row]
            held = taken(state, request)
            if not self.nodes.ready[row] or held is None or self.closed(row, job_class, self.now):
                continue
            rate = self.rate(row, request)
            name = self.nodes.names[row]
            found.append(Place((rate < 0, rate), self.cost(state, request, held), name, row, held))
        return found

    def ask(self, job_class: JobClass, request: ResourceRequest) -> Ask:
        """As filters want it."""
        priced = limits_money(job_class)
        parts = (job_class.where, job_class.spot_policy, job_class.avoid_nodes, priced)
        return Ask(request, *parts, together=job_class.together)

    def capable(self, ask: Ask) -> list[int]:
        """Nodes that could hold one member if nothing ran."""
        masks = [mask for rule in FILTERS if (mask := rule.mask(self.nodes, ask)) is not None]
        return [row for row in range(len(self.nodes.ids)) if all(mask[row] for mask in masks)]

    def rate(self, row: int, request: ResourceRequest) -> int:
        """Nanos per hour of one member; -1 unknown."""
        if int(self.nodes.rate[row]) < 0:
            return -1
        gpus = request.gpus
        held = devices.shares(range(gpus.count), gpus) if gpus is not None else ()
        return share_rates(self.nodes, row, held, request.cpu_milli, request.memory_bytes).total

    def cost(self, state: NodeState, request: ResourceRequest, held: Held) -> int:
        """How good the node looks with the member on it."""
        now = self.free[state.row]
        after = less(state, request, held)
        before = sum(scorer.of_node(now) for scorer in self.scorers if scorer.relative)
        return sum(scorer.of_node(after) for scorer in self.scorers) - before

    def start(
        self,
        job_id: str,
        job_class: JobClass,
        option: int,
        places: list[Place],
        admitted: Admitted,
        long: bool,
    ) -> None:
        """Take what it gets."""
        request = job_class.options[option]
        for place in places:
            self.free[place.row] = less(self.free[place.row], request, place.held)
            gpus = [0] * len(self.free[place.row].gpus)
            for index, milli in place.held:
                gpus[index] += milli
            ends_at = self.now + admitted.hold_us
            self.running.append(Running(place.row, ends_at, request.cpu_milli, request.memory_bytes, gpus))
            if long and self.claim is not None and place.row in self.claim.left:
                self.claim.left[place.row] = less(self.claim.left[place.row], request, place.held)
        self.rooms.promise(job_class.budgets, admitted.hold_nanos)
        members = tuple((place.row, place.held) for place in places)
        self.starts.append(Started(job_id, option, members, admitted.time_limit_us, admitted.hold_nanos))

    # --- what stops it

    def why(self, job_class: JobClass) -> str:
        """Room, if an alternative that no money refuses now is only short of that; else money, else fault."""
        refused = False
        for request in job_class.options:
            rows = self.capable(self.ask(job_class, request))
            places = self.together(self.places(job_class, request, self.free), job_class)
            if len(places) == job_class.nodes and not (
                self.bound and self.is_short(request, job_class.nodes)
            ):
                refused = True
                continue
            if self.most(rows, job_class) < job_class.nodes:
                continue
            rates = sorted(rate for row in rows if (rate := self.rate(row, request)) >= 0)
            rate = sum(rates[: job_class.nodes]) if len(rates) >= job_class.nodes else -1
            if isinstance(self.rooms.admit(job_class, rate), Admitted):
                return "room"
            refused = True
        return "money" if refused else "fault"

    def set_aside(self, job_id: str, job_class: JobClass) -> None:
        """Money of a job that has room, beside the claim where it outlives that, but is refused because
        others hold the money: of each of its budgets as much as there is of what it needs, unless somebody
        before it waits for one of them, or one cannot pay in this period whoever gives back what.
        """
        claim, free, refusals = self.claim, self.free, []
        if claim is not None and claim.job_id != job_id and self.now + job_class.hold_us > claim.at:
            free = [self.beside(state, claim) for state in free]
        for option, request in enumerate(job_class.options):
            if self.bound and self.is_short(request, job_class.nodes):
                continue
            every, mine = self.places(job_class, request, free), self.mine(job_class)
            own = [place for place in every if place.name in mine]
            places = self.together(own, job_class) or self.together(every, job_class)
            if len(places) == job_class.nodes:
                unknown = any(place.price[0] for place in places)
                answer = self.rooms.admit(
                    job_class, -1 if unknown else sum(place.price[1] for place in places)
                )
                if isinstance(answer, Refusal):
                    refusals.append((HOPE.index(answer.code), option, answer))
        if not refusals or min(refusals)[2].code is not ReasonCode.BUDGET_COMMITTED:
            return
        refusal, budgets = min(refusals)[2], self.rooms.budgets
        pays = all(
            name in budgets
            and budgets[name].limit_nanos - budgets[name].settled_nanos >= refusal.needed_nanos
            for name in job_class.budgets
        )
        if not pays or any(name in self.asides for name in job_class.budgets):
            return
        own_cap = bool(budgets[refusal.budget].array)
        for budget in (refusal.budget,) if own_cap else job_class.budgets:
            nanos = min(refusal.needed_nanos, max(self.rooms.room_nanos(budget), 0))
            self.asides[budget] = (job_id, nanos)
            self.rooms.promise((budget,), nanos)

    # --- the claim

    def reserve(self, job_id: str, job_class: JobClass) -> None:
        """The soonest time at which enough ends have come, on the cheapest nodes that have room then."""
        options = []
        for option, request in enumerate(job_class.options):
            found = self.soonest(job_class, request)
            if found is not None:
                at, rate, rows = found
                options.append((at, 0 if job_class.ordered else rate, option, rows, rate))
        if not options:
            return
        at, _, option, rows, rate = min(options, key=lambda one: one[:3])
        request = job_class.options[option]
        left = {}
        for row in rows:
            state = self.later(row, at)
            left[row] = less(state, request, taken(state, request) or ())
        answer = self.rooms.admit(job_class, rate)
        hold_nanos = answer.hold_nanos if isinstance(answer, Admitted) else 0
        self.claim = Claim(job_id, at, left, hold_nanos)
        self.rooms.promise(job_class.budgets, hold_nanos)

    def soonest(self, job_class: JobClass, request: ResourceRequest) -> tuple[int, int, list[int]] | None:
        """(when, rate, rows) of one alternative."""
        rows = [row for row in self.capable(self.ask(job_class, request)) if self.nodes.ready[row]]
        over = (one.ends_at for one in self.reservations.values())
        ends = (*(one.ends_at for one in self.running), *over)
        for at in sorted({self.now, *(max(end, self.now) for end in ends)}):
            fitting = [
                row
                for row in rows
                if taken(self.later(row, at), request) is not None and not self.closed(row, job_class, at)
            ]
            by_place: dict[str, list[int]] = {}
            for row in fitting:
                facts = self.nodes.attributes[row]
                by_place.setdefault(facts.get(job_class.together, ""), []).append(row)
            found = []
            for group in by_place.values():
                if len(group) < job_class.nodes:
                    continue
                rates = {row: self.rate(row, request) for row in group}
                group.sort(key=lambda row: (rates[row] < 0, rates[row], self.nodes.names[row]))
                chosen = group[: job_class.nodes]
                unknown = any(rates[row] < 0 for row in chosen)
                rate = -1 if unknown else sum(rates[row] for row in chosen)
                if isinstance(self.rooms.admit(job_class, rate), Admitted):
                    found.append((unknown, rate, [self.nodes.names[row] for row in chosen], chosen))
            if found:
                _, rate, _, chosen = min(found)
                return at, rate, chosen
        return None

    def later(self, row: int, at: int) -> NodeState:
        """A node once everything that ends by then has ended."""
        state = self.free[row]
        cpu, memory, gpus = state.cpu_milli, state.memory_bytes, list(state.gpus)
        for one in self.running:
            if one.row == row and max(one.ends_at, self.now) <= at:
                cpu += one.cpu_milli
                memory += one.memory_bytes
                gpus = [
                    left if left < 0 else min(MILLI, left + milli)
                    for left, milli in zip(gpus, one.gpus, strict=False)
                ]
        return NodeState(row, cpu, memory, gpus)


def rank(snapshot: Snapshot, queue: PendingQueue, position: int, now: int) -> tuple[int, int]:
    """What comes first of two jobs: the lower."""
    rules = snapshot.priority
    if rules is None:
        return -queue.priority, 0
    waited_us = now - int(queue.jobs.since_us[position])
    if rules.max_wait_us and waited_us >= rules.max_wait_us:
        return OVERDUE, 0
    nodes, job_class = snapshot.nodes, queue.class_at(position)
    totals = [nodes.cpu_total, nodes.memory_total, nodes.gpu_total * MILLI]
    cpu, memory, gpus = (sum(total.tolist()) for total in totals)
    sizes = []
    for one in job_class.options:
        held = one.gpus.count * one.gpus.milli if one.gpus is not None else 0
        parts = [(one.cpu_milli, cpu), (one.memory_bytes, memory), (held, gpus)]
        shares = [
            ceil(Fraction(SHARE_ONE * job_class.nodes * part, total or part)) for part, total in parts if part
        ]
        sizes.append(min(max(shares, default=1), SHARE_ONE))
    left = [
        Fraction(max(snapshot.budgets[name].room_nanos, 0), max(snapshot.budgets[name].limit_nanos, 1))
        if name in snapshot.budgets
        else Fraction(0)
        for name in job_class.budgets
    ]
    age = part = int(min(max(waited_us, 0), rules.age_full_us) // 1000 * ONE // (rules.age_full_us // 1000))
    for _ in range(rules.age_power - 1):
        age = age * part // ONE
    known = {
        "age": age,
        "run_time": smaller(held_for(job_class)) + int(doublings(np.array([10_000_000]))[0]) // 20,
        "size": smaller(min(sizes)),
        "budget": int(min(min(left, default=Fraction(1)), 1) * ONE),
        "qos": queue.priority * ONE // 100,
        "deadline": urgency(job_class.time_limit_us, int(queue.jobs.deadlines_us[position]), now),
        "fair_share": standings(snapshot.projects, snapshot.spent, rules.shares)[
            queue.jobs.projects[position]
        ]
        if snapshot.projects
        else ONE,
    }
    sum_ = sum(weight * min(max(known[factor], 0), ONE) for factor, weight in rules.weights)
    return (0 if "qos" in dict(rules.weights) else -queue.priority), -sum_


def urgency(limit_us: int, deadline_us: int, now: int) -> int:
    """The time that it needs, of the time that it has."""
    needs_ms = max(limit_us // 1000, 1)
    return needs_ms * ONE // max((deadline_us - now) // 1000, needs_ms) if deadline_us else 0


def parts_of(request: ResourceRequest, nodes: int) -> tuple[int, int, int]:
    """CPUs, memory and GPUs of a whole gang."""
    gpus = request.gpus.count * request.gpus.milli if request.gpus is not None else 0
    return nodes * request.cpu_milli, nodes * request.memory_bytes, nodes * gpus


def held_for(job_class: JobClass) -> int:
    """Its time limit, and what of its grace is beyond a minute and five seconds."""
    return job_class.time_limit_us + max(job_class.hold_us - job_class.time_limit_us - 65_000_000, 0)


def smaller(value: int) -> int:
    """All, less a twentieth for each doubling."""
    return ONE - int(doublings(np.array([value]))[0]) // 20


def taken(state: NodeState, request: ResourceRequest) -> Held | None:
    """The devices that one member gets of a node; None when it has no room."""
    if state.cpu_milli < request.cpu_milli or state.memory_bytes < request.memory_bytes:
        return None
    if request.gpus is None:
        return ()
    chosen = devices.choose(state.gpus, request.gpus)
    return None if chosen is None else tuple((index, request.gpus.milli) for index in chosen)


def less(state: NodeState, request: ResourceRequest, held: Held) -> NodeState:
    """A node with a member more."""
    gpus = list(state.gpus)
    for index, milli in held:
        gpus[index] -= milli
    cpu, memory = state.cpu_milli - request.cpu_milli, state.memory_bytes - request.memory_bytes
    return NodeState(state.row, cpu, memory, gpus)
