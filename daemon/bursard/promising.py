"""Promising: may a job be told that it ends by its deadline, and are those that were told so still in time?

Owns    the admission of deadlines; the refusal, with the first instant that could be promised and its price;
        and the look at what was promised before: another place where the one that was kept is gone, or the
        breach and its cause. PURE: the daemon, `bursar plan` and the simulator ask the same.
Why     a promise is a place for all that a job may hold it, on nodes that are there, with its money: so it is
        kept whatever others submit. What the world takes away is said at once, with why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from bursar.clock import DAY_US, SECOND_US, Instant, format_duration, format_instant
from bursar.errors import DeadlineRefused, InvalidRequest, NotBuilt, RateLimited
from bursar.model import DeviceShare, EndCause, JobSpec, JobState
from bursar.model.allocation import FREE
from bursar.model.check import TIME_LIMIT_MAX_US
from bursar.money import cumulative, format_nanos
from bursar.words import plural
from bursar_policies.allocators import ONE, Size
from bursar_policies.decision import JobClass, Placement, Promised, Snapshot
from bursar_policies.specs import PPM, PROMISES_MAX, PriorityPolicySpec
from bursard.events import DeadlineBroken, DeadlinePromised, Event, PromisedMember
from bursard.scheduler import PlanCache, targets
from bursard.scheduler.admit import Rooms
from bursard.scheduler.candidates import asks_of
from bursard.scheduler.kept import Amounts
from bursard.scheduler.portion import Portion, Span, named
from bursard.scheduler.promises import SLACK_US, Asked, Place, place_for
from bursard.scheduler.releases import NEVER
from bursard.scheduler.text import instant, money
from bursard.state import JobRecord, State
from bursard.state.budgets import promises as asks

_NO_OTHER: Final = "and there is no other room in time"
_WITHOUT: Final = "add --deadline-policy best-effort to wait without a promise"
_NO_RULES: Final = PriorityPolicySpec()
"""What bounds promises where no PriorityPolicy does."""
NAMED_MAX: Final = 3
"""So many of the promises that are in the way of one are named."""
MINUTE_US: Final = 60 * SECOND_US
LOOK_US: Final = SECOND_US
"""Places that are kept are looked at this often."""


Less = Literal["", "money", "all"]
Answer = TypeVar("Answer")


class Spare(Protocol):
    """What there is for what a refusal says beside no: the first deadline that could be promised, and why."""

    def wait_s(self) -> int:
        """Seconds until there is some; 0: there is now."""

    def take(self, work: Callable[[], Answer]) -> Answer:
        """Do it, on account of that."""


class _Plenty:
    """Where nobody else waits."""

    def wait_s(self) -> int:
        return 0

    def take(self, work: Callable[[], Answer]) -> Answer:
        return work()


PLENTY: Final = _Plenty()


_OTHERS_WAIT: Final = "while jobs of others wait"


class _Job(NamedTuple):
    """Who asks, and with what it would be placed."""

    job_id: str
    display: str
    spec: JobSpec
    job_class: JobClass
    user: str
    beside: tuple[tuple[str, Promised], ...] = ()
    """What the same call promises before it, by user."""


class _Found(NamedTuple):
    """A place, and the size that it is for; None: it has one."""

    place: Place
    hold_us: int
    size: Size | None = None
    time_limit_us: int = 0

    @property
    def order(self) -> tuple[bool, int, int]:
        """The cheapest first; of unknown prices the one that takes least of the GPUs' time; then the last."""
        gpus = self.size.gpus_in_all if self.size is not None else 1
        rate = self.place.rate
        return rate < 0, (rate if rate >= 0 else gpus) * self.hold_us, -self.place.at


class Promising:
    """Belongs to one state."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._cache = PlanCache()
        self._places = targets.Places()
        self._looked_at: int | None = None
        self._kept: tuple[tuple[int, int], NDArray[np.intp] | None, NDArray[np.int64]] | None = None
        """Of what it was made, the nodes on which places are kept, and when those begin."""
        self._closed: dict[bool, tuple[object, NDArray[np.bool_]]] = {}
        """Is spot asked for? Of what it was made, and nodes on which nothing is promised then."""

    # --- what is asked for

    def for_new(
        self, user: str, spec: JobSpec, job_id: str, now: int, display: str = "", spare: Spare = PLENTY
    ) -> list[Event]:
        """The promise that a job comes in with; nothing where it asks for none.

        Args:
            spare: for what a refusal says beside no.

        Raises:
            DeadlineRefused: with the first deadline that could be promised, and its price.
            NotBuilt, RateLimited.
        """
        if not asks(spec):
            return []
        state = self._state
        budgets, hard = state.budgets.matching(user, spec)
        limit_us = state.time_limit_of(spec)
        gates = state.budgets.gates(budgets)
        job_class = state.class_of_spec(spec, hard, limit_us, gates=gates, user=user)
        return self._promised(_Job(job_id, display, spec, job_class, user), now, spare)

    def for_changed(
        self,
        job: JobRecord,
        spec: JobSpec,
        now: int,
        beside: Iterable[DeadlinePromised] = (),
        spare: Spare = PLENTY,
    ) -> list[Event]:
        """The promise of a job that waits, once its spec is this one. Raises as `for_new`.

        Args:
            beside: what the same call promises to others, and is not true yet.
            spare: as in `for_new`.
        """
        promise = job.promise
        if not asks(spec):
            if promise is None or promise.broken_at:
                return []
            said = "its owner asks for no promise any more"
            return [DeadlineBroken(job.id, promise.by, "updated", said, given_up=True)]
        if job.array is not None or job.parent_id or job.state is not JobState.PENDING:
            return []
        state = self._state
        budgets, hard = state.budgets.matching(job.user, spec)
        gates, limit_us = state.budgets.gates(budgets), state.time_limit_of(spec)
        job_class = state.class_of_spec(
            spec, hard, limit_us, settled_nanos=job.settled_nanos, gates=gates, user=job.user
        )
        others = tuple((state.jobs[one.job_id].user, self._kept_for(one)) for one in beside)
        return self._promised(_Job(job.id, job.display, spec, job_class, job.user, others), now, spare)

    def _kept_for(self, event: DeadlinePromised) -> Promised:
        """As the next snapshot would say it."""
        state = self._state
        members = tuple(
            Placement(state.nodes[one.node_id].row, one.devices, one.cpu_milli, one.memory_bytes, FREE)
            for one in event.members
        )
        return Promised(
            job_id=event.job_id,
            queue=-1,
            by=event.by,
            start=event.start,
            until=event.until,
            option=event.option,
            members=members,
            rate=event.rate,
            hold_nanos=event.nanos,
            budgets=state.jobs[event.job_id].budgets,
        )

    def _promised(self, job: _Job, now: int, spare: Spare) -> list[Event]:
        if job.job_class.quotas or job.job_class.pinned or self._state.quotas.guarantees:
            raise NotBuilt(
                "deadline: a promise where a Quota counts the job, or guarantees something to anybody, is"
                " part of the contract, not built in this version; add --deadline-policy best-effort"
            )
        if job.spec.deadline_at <= now:
            raise InvalidRequest(
                f"deadline: {instant(job.spec.deadline_at)} is in the past; now it is {instant(now)}",
                {"field": "deadline"},
            )
        self._check_bounds(job)
        found = self._place(job, job.spec.deadline_at - SLACK_US, now, self._last_start(job, now))
        if found is None:
            raise self._refusal(job, now, spare)
        return [self._event(job, found)]

    def _check_bounds(self, job: _Job) -> None:
        """However it comes to ask: anew, changed, or released."""
        table = self._state.promises
        if job.job_id in table.given:
            return  # it has one already
        given = len(table.given) + len(job.beside)
        mine = table.of_user(job.user) + sum(user == job.user for user, _ in job.beside)
        most = self._rules.promise_user_max
        if not most:
            raise DeadlineRefused(f"deadlines are promised to nobody here{self._by_policy()}; {_WITHOUT}")
        if given >= PROMISES_MAX or mine >= most:
            raise RateLimited(
                f"{given} deadlines are promised, {mine} of them to {job.user}; at most {PROMISES_MAX} are"
                f" open at a time, and {most} of one user{self._by_policy()}: wait for some to end, or"
                f" {_WITHOUT}"
            )

    @property
    def _rules(self) -> PriorityPolicySpec:
        return self._state.priority or _NO_RULES

    def _by_policy(self) -> str:
        """Who says so, where a policy bounds promises."""
        if not self._rules.bounds_promises:
            return ""
        records = self._state.policies.values()
        names = [one.name for one in records if isinstance(one.spec, PriorityPolicySpec)]
        return f" (`promises` of PriorityPolicy {names[-1]})" if names else ""

    def _last_start(self, job: _Job, now: int) -> int:
        """A new place begins by then: what begins in a later period of its budgets cannot be paid for from
        this one's money, and what that one will have is not known.
        """
        records = (self._state.budgets.records.get(name) for name in job.job_class.budgets)
        ends = (one.period_end for one in records if one is not None and not one.rolling)
        return min([now + self._rules.promise_horizon_us, *(end - 1 for end in ends if end > now)])

    def _refusal(self, job: _Job, now: int, spare: Spare) -> DeadlineRefused:
        """With alternatives, as long as there is time for them: nobody's refusals hold up the others."""
        wait_s = spare.wait_s()
        if not wait_s:
            return spare.take(partial(self._alternatives, job, now))
        by = job.spec.deadline_at
        return DeadlineRefused(
            f"deadline {instant(by)} cannot be promised: it may hold its nodes for"
            f" {format_duration(job.job_class.hold_us)}; alternatives not computed: {job.user} has been told"
            f" so many of late that there is time for more in {wait_s} s. Ask for this one again then, to"
            f" hear the earliest deadline that can be promised, or {_WITHOUT}",
            {"deadline": format_instant(by), "alternatives": "not computed", "wait_s": str(wait_s)},
        )

    def _alternatives(self, job: _Job, now: int) -> DeadlineRefused:
        """With the first deadline that could be promised, and what it may cost then: it is, when it is asked
        for at once.
        """
        cash, by, last = self._state.currency, job.spec.deadline_at, self._last_start(job, now)
        first = self._place(job, NEVER, now, last)
        way, in_way = self._in_way(job, now, last)
        said = f"deadline {instant(by)} cannot be promised"
        facts = {"deadline": format_instant(by)} | ({"promised_to": ",".join(in_way)} if in_way else {})
        hold_us = job.job_class.hold_us if first is None else first.hold_us
        needs = f"it may hold its nodes for {format_duration(hold_us)}"
        named = None if first is None else self._named(job, first, now, last)
        if first is None or named is None:
            return DeadlineRefused(
                f"{said}: {needs}, and no node that is there could hold it from an instant before"
                f" {instant(last)} on, or no budget pays for it (`bursar plan` says which){way}. Places are"
                f" kept at most {_days(self._rules.promise_horizon_us)} ahead{self._by_policy()},"
                f" and within the period of the budgets that pay; {_WITHOUT}",
                facts,
            )
        earliest, found = named
        facts |= {
            "earliest_deadline": format_instant(earliest),
            "starts_at": format_instant(first.place.at),
            "currency": cash,
        }
        price = ", at a price that is not known"
        if found.place.rate >= 0:
            nanos = cumulative(found.place.rate, found.hold_us)
            facts["cost_at_most"] = format_nanos(nanos)
            price = f", for {money(nanos, cash)} at most"
        return DeadlineRefused(
            f"{said}: {needs}, and the first place for it is there from {instant(first.place.at)}{way}; the"
            f" earliest deadline that can be promised is {format_instant(earliest)}{price}: ask"
            f" for that (--deadline, or `deadline` in the file), for a shorter time limit, or {_WITHOUT}",
            facts,
        )

    def _in_way(self, job: _Job, now: int, last: int) -> tuple[str, list[str]]:
        """What but running jobs is in the way of a deadline, in words, and which promises: those that hold
        the room or the money of the place that it would have without any.
        """
        by, kept = job.spec.deadline_at - SLACK_US, self._portion(job)
        if kept is not None:
            asked = job.job_class
            over = [kept.beyond(one, asked.nodes) for one in asked.options]
            if all(over) and over[0] is not None:
                _, wants, most, _ = over[0]
                amounts = [named(over[0].which, amount) for amount in (wants, most)]
                whose = f"those to {job.user} may, {_OTHERS_WAIT}," if over[0].own else "promises may"
                return f"; it asks for {amounts[0]}, and {whose} have {amounts[1]}{self._by_policy()}", []
        alone = self._place(job, by, now, last, bounded=False, less="all")
        if alone is None:
            return "", []
        if (
            kept is not None
            and kept.own is not None
            and self._place(job, by, now, last, own=False) is not None
        ):
            part = f"{self._rules.promise_user_ppm / 10_000:g}%"
            return (
                f"; by then promises to {job.user} have {part} of what may be promised, all that they may"
                f" {_OTHERS_WAIT}{self._by_policy()}"
            ), []
        if kept is not None and self._place(job, by, now, last, bounded=False) is not None:
            part = f"{self._rules.promise_share_ppm / 10_000:g}%"
            return f"; by then promises have {part} of the cluster, all that they may{self._by_policy()}", []
        others = [one for one in self._state.snapshot().promises if one.job_id != job.job_id]
        what = "its money is set aside for"
        held = [one for one in others if set(one.budgets) & set(job.job_class.budgets)]
        if self._place(job, by, now, last, bounded=False, less="money") is None:
            what, on = "its room then is promised to", {one.node for one in alone.place.members}
            ends = alone.place.at + alone.hold_us
            met = [one for one in others if one.start < ends and alone.place.at < one.until]
            held = [one for one in met if any(member.node in on for member in one.members)]
        held.sort(key=lambda one: (one.until, one.job_id))
        if not held:
            return "", []
        called = [f"{self._called(one.job_id)} until {instant(one.until)}" for one in held[:NAMED_MAX]]
        more = f" and {len(held) - NAMED_MAX} more" if len(held) > NAMED_MAX else ""
        return f"; {what} {', '.join(called)}{more}", [one.job_id for one in held[:NAMED_MAX]]

    def _called(self, job_id: str) -> str:
        return f"job {self._state.jobs[job_id].display}"

    def _portion(self, job: _Job, own: bool = True) -> Portion | None:
        """What may be promised in all, and what is promised to others; None: there is no such bound. `own`:
        and to whoever asks.
        """
        state, ppm = self._state, self._rules.promise_share_ppm
        own_ppm = self._rules.promise_user_ppm
        if not own or own_ppm >= PPM or not self._others_wait(job.user):
            own_ppm = PPM
        if ppm >= PPM and own_ppm >= PPM:
            return None
        spans = list[tuple[str, Span]]()
        for other in state.promises.given.values():
            if other.id == job.job_id or other.promise is None:
                continue
            since, until = other.promise.start, other.promise.until
            if other.state is JobState.PENDING:
                held = [(one.cpu_milli, one.memory_bytes, one.devices) for one in other.promise.members]
            else:
                attempt = other.attempts[-1]
                since, until = attempt.placed_at, attempt.placed_at + until - since
                there = [one.alloc for one in attempt.members]
                held = [(one.cpu_milli, one.memory_bytes, one.devices) for one in there]
            spans.append((other.user, Span(since, until, _sums(held))))
        for user, one in job.beside:
            held = [(member.cpu_milli, member.memory_bytes, member.devices) for member in one.members]
            spans.append((user, Span(one.start, one.until, _sums(held))))
        nodes, mine = state.cluster.columns(), None
        if own_ppm < PPM:
            his = [span for user, span in spans if user == job.user]
            mine = Portion(ppm * own_ppm // PPM, nodes, his)
        return Portion(ppm, nodes, [span for _, span in spans], mine)

    def _others_wait(self, user: str) -> bool:
        """Does anybody else have a job that waits, and was promised no place?"""
        kept = Counter(one.user for one in self._state.promises.waiting())
        everybody = self._state.shares.all()
        return any(share.pending > kept[name] for name, share in everybody.items() if name != user)

    def _named(self, job: _Job, first: _Found, now: int, last: int) -> tuple[Instant, _Found] | None:
        """A deadline that would be promised, the earliest to the second, and its place. What has its place
        now is given a minute to ask for it.
        """
        spare_us = MINUTE_US if first.place.at < now + MINUTE_US else 0
        exact = first.place.at + first.hold_us + SLACK_US
        for at in (exact + spare_us, exact):
            by = -(-at // SECOND_US) * SECOND_US
            if by <= job.spec.deadline_at:
                continue
            found = self._place(job, by - SLACK_US, now, last)
            if found is not None:
                return Instant(by), found
        return None

    def _place(
        self,
        job: _Job,
        by: int,
        now: int,
        last: int = NEVER,
        *,
        bounded: bool = True,
        own: bool = True,
        less: Less = "",
    ) -> _Found | None:
        """The cheapest place from which it has ended by an instant, beside all that runs and all that was
        promised to others; of `NEVER` the one with the first end.

        Args:
            last: it begins by then; `NEVER`: of a place that is lost, which no policy bounds.
            bounded: as far as a policy lets it; own: and lets its user. less: what is promised to others
                that counts for nothing.
        """
        state = self._state
        since = max(now, job.spec.begin_after)
        ways = [one for one in self._ways(job) if since + one[0].job_class.hold_us <= by]
        if not ways or since > last:
            return None
        snapshot = state.snapshot()
        rooms = Rooms(snapshot.budgets, snapshot.currency)
        if job.beside:
            more = tuple(one for _, one in job.beside)
            snapshot = replace(snapshot, promises=(*snapshot.promises, *more))
            for one in more:
                rooms.promise(one.budgets, one.hold_nanos)
        for one in snapshot.promises:
            if one.job_id == job.job_id or less:
                rooms.promise(one.budgets, -one.hold_nanos)
        if less == "all":
            snapshot = replace(snapshot, promises=())
        portion = self._portion(job, own) if bounded and last != NEVER else None
        barred = self._barred(snapshot, job.job_class)
        found = list[_Found]()
        with self._cache.world(replace(snapshot, promises=())) as world:
            for way, size in ways:
                hold_us = way.job_class.hold_us
                latest = by if by == NEVER else min(by - hold_us, last)
                asked = Asked(job.job_id, way.job_class, since, latest, barred, portion)
                place = place_for(world, snapshot, rooms, asked, now)
                if place is not None and place.at <= last:
                    limit_us = way.job_class.time_limit_us if size is not None else 0
                    found.append(_Found(place, hold_us, size, limit_us))
        if by == NEVER:
            return min(found, key=lambda one: (one.place.at + one.hold_us, one.order), default=None)
        return min(found, key=lambda one: one.order, default=None)

    def _ways(self, job: _Job) -> list[tuple[_Job, Size | None]]:
        """How it may be promised to run. One that says how fast it is at which size needs its time limit,
        which is of speed 1, by so much less or more.
        """
        spec, asked = job.spec, job.job_class
        if not targets.scales(spec):
            return [(job, None)]
        nodes, version = self._state.cluster.columns(), self._state.cluster.facts_version + 1
        there = [self._places.of(nodes, ask, version) for ask in asks_of(asked)]
        most = max(option.gpus.count for option in spec.options if option.gpus is not None)
        found = list[tuple[_Job, Size | None]]()
        for size in targets.sizes_of(spec, there):
            if size.nodes > spec.nodes and size.gpus < most:
                continue  # more nodes once one is full
            parts = targets.fitted(spec, size)
            limit_us = -(-asked.time_limit_us * ONE // size.speed)
            if parts is None or limit_us > TIME_LIMIT_MAX_US:
                continue
            sized = replace(asked.limited(limit_us), nodes=parts[0], options=parts[1], max_nodes=0)
            found.append((job._replace(job_class=sized), size))
        return found

    def _barred(self, snapshot: Snapshot, job_class: JobClass) -> NDArray[np.bool_]:
        """Machines that may be given back or taken away: nothing is promised there."""
        state, spot = self._state, job_class.spot_policy == "spot"
        key = state.cluster.facts_version, tuple(sorted(state.rented)), spot
        known = self._closed.get(spot)
        if known is None or known[0] != key:
            names, attributes = snapshot.nodes.names, snapshot.nodes.attributes
            found = [
                name in state.rented or (not spot and one.get("market") == "spot")
                for name, one in zip(names, attributes, strict=True)
            ]
            known = self._closed[spot] = key, np.array(found, dtype=np.bool_)
        return known[1]

    def _event(self, job: _Job, found: _Found) -> DeadlinePromised:
        place, size = found.place, found.size
        ids = self._state.cluster.ids
        members = tuple(
            PromisedMember(ids[one.node], one.cpu_milli, one.memory_bytes, one.devices)
            for one in place.members
        )
        return DeadlinePromised(
            job_id=job.job_id,
            by=job.spec.deadline_at,
            start=place.at,
            until=place.at + found.hold_us,
            option=place.option if size is None else size.option,
            rate=place.rate,
            nanos=place.hold_nanos,
            currency=self._state.currency,
            members=members,
            gpu_type="" if size is None else size.gpu_type,
            time_limit_us=found.time_limit_us,
        )

    # --- what was promised

    def review(self, now: int) -> list[Event]:
        """What has to be said of the promises that are open, at most once a second."""
        state = self._state
        if not state.promises or (self._looked_at is not None and abs(now - self._looked_at) < LOOK_US):
            return []
        self._looked_at = now
        late = [self._late(job) for job in state.promises.given.values() if _is_late(job, now)]
        return [*late, *(self._lost_places(now) if late or not self._all_hold(now) else ())]

    def _all_hold(self, now: int) -> bool:
        """Is every place there, and none late? Mostly so it is, and is seen by a few columns."""
        state, table = self._state, self._state.promises
        key = table.changes, state.cluster.facts_version
        if self._kept is None or self._kept[0] != key:
            self._kept = key, *_columns_of(state)
        _, rows, starts = self._kept
        if rows is None or not bool(state.cluster.ready[rows].all()):
            return False
        if len(starts) and int(starts.min()) + 2 * LOOK_US < now:
            return False
        return all(table.budgets_of(job.id) == job.budgets for job in table.waiting())

    def _late(self, job: JobRecord) -> DeadlineBroken:
        assert job.promise is not None
        cause, said = self._cause(job)
        return DeadlineBroken(job.id, job.promise.by, cause, f"its deadline has passed: {said}")

    def _lost_places(self, now: int) -> Iterable[Event]:
        """Of the first whose place is gone: another one, or the breach. The next look sees to the others."""
        state = self._state
        waiting = [one for one in state.promises.given.values() if one.state is JobState.PENDING]
        if not waiting:
            return []
        snapshot = state.snapshot()
        kept = {one.job_id: one for one in snapshot.promises}
        for job in waiting:
            assert job.promise is not None
            if _is_late(job, now):
                continue
            one = kept.get(job.id)
            ready = one is not None and all(snapshot.nodes.ready[member.node] for member in one.members)
            in_time = one is not None and one.start + 2 * LOOK_US >= now
            same = one is not None and one.budgets == job.budgets
            if ready and in_time and same:
                continue
            event = self._again(job, now, waits=ready and same)
            if event is not None:
                return [event]
        return []

    def _again(self, job: JobRecord, now: int, waits: bool) -> Event | None:
        """Another place; None where it may still begin where it was promised to (`waits`)."""
        promise, state = job.promise, self._state
        assert promise is not None
        if state.outdated(job):
            return None  # its budgets are looked at first
        asker = _Job(job.id, job.display, job.spec, state.class_of(job, sized=False), job.user)
        latest = promise.by - (promise.until - promise.start)
        found = self._place(asker, promise.by - SLACK_US, now) or self._place(asker, promise.by, now)
        if found is not None:
            return self._event(asker, found)
        if waits and now <= latest:
            return None
        cause, said = self._cause(job)
        return DeadlineBroken(job.id, promise.by, cause, said, given_up=cause == "requeued")

    def _cause(self, job: JobRecord) -> tuple[str, str]:
        """Why a promise does not hold, as far as it can be told."""
        state, promise = self._state, job.promise
        assert promise is not None
        for member in promise.members:
            node = state.nodes.get(member.node_id)
            if node is None:
                return "node", f"a node where it was to run is gone, {_NO_OTHER}"
            if not state.cluster.ready[node.row]:
                why = node.reason or (node.mode if node.connected else "out of contact")
                return (
                    "node",
                    f"node {node.facts.name}, where it was to run, takes no work ({why}), {_NO_OTHER}",
                )
        last = job.attempts[-1] if job.attempts else None
        if last is not None and last.cause is not None:
            word = "requeued" if job.requeue else "attempt"
            ends = {EndCause.NODE_LOST: "node", EndCause.PREEMPTED: word}
            return (
                ends.get(last.cause, "attempt"),
                f"attempt {last.number} ended as {last.cause.value}, {_NO_OTHER} for another",
            )
        if last is not None:
            return "late", f"attempt {last.number} still runs"
        return (
            "place",
            "the place and the money that were kept for it were taken away: a node was late, a limit or a"
            " price changed, or nodes were reserved (`bursar events` shows which)",
        )


def _days(us: int) -> str:
    return plural(us // DAY_US, "day") if us % DAY_US == 0 else format_duration(us)


def _sums(held: Iterable[tuple[int, int, Iterable[DeviceShare]]]) -> Amounts:
    cpus = memory = gpus = 0
    for cpu_milli, memory_bytes, devices in held:
        cpus, memory = cpus + cpu_milli, memory + memory_bytes
        gpus += sum(share.milli for share in devices)
    return cpus, memory, gpus


def _columns_of(state: State) -> tuple[NDArray[np.intp] | None, NDArray[np.int64]]:
    """The nodes on which places are kept (members), and when each begins (jobs); None: some are gone, or no
    place is kept for one that waits.
    """
    waiting = [one for one in state.promises.given.values() if one.state is JobState.PENDING]
    members = [member for job in waiting if job.promise is not None for member in job.promise.members]
    nodes = [state.nodes.get(member.node_id) for member in members]
    starts = np.array([job.promise.start for job in waiting if job.promise is not None], dtype=np.int64)
    if None in nodes or any(job.promise is None or not job.promise.members for job in waiting):
        return None, starts
    return np.array([node.row for node in nodes if node is not None], dtype=np.intp), starts


def _is_late(job: JobRecord, now: int) -> bool:
    return job.promise is not None and now > job.promise.by
