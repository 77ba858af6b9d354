"""Budgets in force: which jobs they cover, which period it is, what room is left.

Owns    the current Budget documents and their period bounds. The money itself is in the ledger.
Why     admission asks for the room of a handful of budgets in every cycle; matching and calendar
        arithmetic are done once per job and once per period.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from bursar.clock import DAY_US, SECOND_US, Instant
from bursar.model import Hold, JobSpec
from bursar_policies.decision import BudgetRoom, Stage
from bursar_policies.periods import period_bounds, rolling_days, window
from bursar_policies.specs import FORECAST, NOTIFY, PPM, BudgetSpec, Threshold
from bursard.events import Attribution
from bursard.ledger import Ledger
from bursard.state.given import Approval, Postings

Announced = tuple[int, str, int, int]
"""A threshold that was announced: in which period, on what, at how many millionths of which limit."""


class BudgetRecord(msgspec.Struct):
    """One budget in force.

    Attributes:
        period_start, period_end: the period it is in now; the end is 0 when it never renews.
        opened: its account began with what its scope had cost; budgets of before there was that did not.
    """

    name: str
    spec: BudgetSpec
    version: int
    period_start: int
    period_end: int
    opened: bool = False

    @property
    def hard(self) -> bool:
        """Refuses what it cannot pay for."""
        return self.spec.enforcement == "hard"

    @property
    def rolling(self) -> bool:
        """Each day is a period of it, and several count together."""
        return rolling_days(self.spec.period) > 0

    def window(self, start: int | None = None) -> tuple[int, ...]:
        """Where the periods begin that count together now, or while that of `start` does, which is last."""
        return window(self.spec.period, self.spec.timezone, self.period_start if start is None else start)


def same_periods(one: BudgetSpec, other: BudgetSpec) -> bool:
    """Do both cut time into the same periods?"""
    return (one.period, one.timezone) == (other.period, other.timezone)


def same_money(one: BudgetSpec, other: BudgetSpec) -> bool:
    """Do both count the same cost in the same periods?"""
    return (one.scope, one.counts_from) == (other.scope, other.counts_from) and same_periods(one, other)


def limit_of(record: BudgetRecord, ledger: Ledger, start: int | None = None) -> int:
    """The limit in force in its period, or that of `start`: its document's, and what was given to it, or
    taken, beside that.
    """
    return record.spec.limit.nanos + ledger.over(record.name, record.window(start))[1]


def settled_of(record: BudgetRecord, ledger: Ledger, start: int | None = None) -> int:
    """What was spent in its period, or that of `start`; of a rolling one in all of its window."""
    return ledger.over(record.name, record.window(start))[0]


SERVICE_LEASE_US = 1800 * SECOND_US
"""Of a replica, where its budgets do not say: it outlives its daemon by half of that at least."""
UNBOUNDED_LEASE_US = DAY_US
"""The same where no hard budget holds anything for it."""
APPROVAL = "approval"
LASTING = (APPROVAL, "checkpoint-stop")
"""Stages that stay when what is held falls below their threshold again: else what they stopped would start
anew, to be stopped again.
"""


def reached(threshold: Threshold, settled: int, held: int, limit: int, forecast: int | None = None) -> bool:
    """Does what is spent, or will be, come up to a threshold of a limit? `forecast`: None, nobody knows."""
    if threshold.on == FORECAST:
        # What is spent already is the least that will be.
        spent = max(settled, forecast) if forecast is not None else settled
    else:
        spent = settled + held if threshold.on == "settled+held" else settled
    return spent * PPM >= limit * threshold.at_ppm


def promises(spec: JobSpec) -> bool:
    """Does a job ask for a promise of its deadline?"""
    return spec.deadline_at > 0 and spec.deadline_policy == "promise"


class BudgetTable:
    """All budgets by name.

    Attributes:
        postings: what was given to them, also to those that were removed: applied again, it is theirs.
        approvals: the last of each, by name and scope; it may be of another period or limit.
        announced: by name and scope, also of budgets that were removed: applied again, none says it twice.
    """

    def __init__(self) -> None:
        self.records: dict[str, BudgetRecord] = {}
        self.announced: dict[tuple[str, str], set[Announced]] = {}
        self.approvals: dict[tuple[str, str], Approval] = {}
        self.postings = Postings()
        self.unread: set[str] = set()
        """Budgets whose accounts are to begin with what the books say, which nobody has read yet."""
        self.promised: Counter[str] = Counter()
        """Nanos that are set aside for jobs that were promised their deadlines and have not begun."""

    def approval(self, record: BudgetRecord, limit_nanos: int) -> Approval | None:
        """What is approved of it, in its period and under this limit."""
        found = self.approvals.get((record.name, str(record.spec.scope)))
        now = record.period_start, limit_nanos
        return found if found is not None and (found.period_start, found.limit_nanos) == now else None

    def announce(self, record: BudgetRecord, on: str, at_ppm: int, limit_nanos: int) -> None:
        """A threshold of its limit was passed in its period: that is said once."""
        said = self.announced.setdefault((record.name, str(record.spec.scope)), set())
        said.add((record.period_start, on, at_ppm, limit_nanos))

    def was_announced(self, record: BudgetRecord, on: str, at_ppm: int, limit_nanos: int) -> bool:
        """Was this said of this limit, in this period? Of another limit it is another matter."""
        said = self.announced.get((record.name, str(record.spec.scope)), ())
        return (record.period_start, on, at_ppm, limit_nanos) in said

    def crossed(self, record: BudgetRecord, limit_nanos: int) -> list[tuple[str, int]]:
        """(on, at_ppm) that were announced of this limit, in this period."""
        said = self.announced.get((record.name, str(record.spec.scope)), ())
        now = record.period_start, limit_nanos
        return sorted((on, at_ppm) for start, on, at_ppm, limit in said if (start, limit) == now)

    def stages(self, record: BudgetRecord, ledger: Ledger) -> tuple[Stage, ...]:
        """What its thresholds do now: those that were announced of the limit in force, in its period."""
        if not record.spec.staged:
            return ()
        limit, found = limit_of(record, ledger), []
        settled = settled_of(record, ledger)
        held = ledger.held(record.name, record.period_start)
        given = self.approval(record, limit)
        approved = given.stages if given is not None else ()
        for one in record.spec.thresholds:
            if not self.was_announced(record, one.on, one.at_ppm, limit):
                continue
            # What it does bends what will be: so it stays as long as its limit does, or it would come and go.
            over = one.on == FORECAST or reached(one, settled, held, limit)
            agreed = (one.on, one.at_ppm) in approved
            doing = (
                each
                for each in one.do
                if each != NOTIFY and (over or each in LASTING) and not (agreed and each == APPROVAL)
            )
            found += [Stage(action, one.on, one.at_ppm) for action in doing]
        return tuple(found)

    def lease_us(self, spec: JobSpec, hard: Iterable[str]) -> int:
        """How long each lease of a job is that these hard budgets pay for; 0: they hold its worst case.

        The most careful of them decides: the worst case where any of them wants it, or the `max_cost` of an
        array, which stands among them; else the shortest lease. Beside that comes the time that the job asked
        to be warned before its limit, or it would be warned of every lease.
        """
        records = [self.records.get(name) for name in hard]
        if promises(spec):
            return 0  # nothing may end it before its limit
        if spec.service is not None:  # it has no worst case
            given = [one.spec.lease_us for one in records if one is not None and one.spec.lease_us]
            most_us = SERVICE_LEASE_US if records else UNBOUNDED_LEASE_US
            return min([most_us, *given]) + spec.checkpoint.before_us
        found = [0 if record is None else record.spec.lease_us for record in records]
        return min(found) + spec.checkpoint.before_us if found and all(found) else 0

    def first_us(self, spec: JobSpec, hard: Iterable[str], likely_us: int) -> int:
        """For how long a start of it holds money, of its time limit; 0: for all of it.

        Args:
            likely_us: how long runs like it take; 0: nobody knows.
        """
        names = tuple(hard)
        lease_us = self.lease_us(spec, names)
        if (
            not lease_us
            or spec.service is not None
            or all(self.records[name].spec.hold != "expected" for name in names)
        ):
            return lease_us
        return max(lease_us, likely_us + spec.checkpoint.before_us) if likely_us else 0

    def gates(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of these budgets that refuse nothing for want of money, and have stages."""
        records = ((name, self.records.get(name)) for name in names)
        return tuple(name for name, one in records if one is not None and not one.hard and one.spec.staged)

    def _forget(self, name: str, before: int) -> None:
        """What was announced and approved in periods that began before then."""
        self.approvals = {
            key: one for key, one in self.approvals.items() if key[0] != name or one.period_start >= before
        }
        for key in [one for one in self.announced if one[0] == name]:
            said = self.announced[key] = {one for one in self.announced[key] if one[0] >= before}
            if not said:
                del self.announced[key]

    def ends(self, holds: Iterable[Hold]) -> set[int]:
        """Where the current periods of these budgets end."""
        records = (self.records.get(hold.budget) for hold in holds)
        return {record.period_end for record in records if record is not None}

    def put(self, name: str, spec: BudgetSpec, version: int, now: int) -> None:
        """Bring a budget into force, or change it. A change keeps the period; what was announced in it of the
        same limit stays said.

        Only `roll` moves on to the next period, because it takes along what live attempts hold; a
        document applied between the end of a period and its roll must not leave that behind (B1).
        """
        old = self.records.get(name)
        if old is not None and same_periods(old.spec, spec):
            self.records[name] = BudgetRecord(
                name, spec, version, old.period_start, old.period_end, old.opened
            )
            return
        start, end = period_bounds(spec.period, spec.timezone, Instant(now))
        self.records[name] = BudgetRecord(name, spec, version, start, end or 0)
        self._forget(name, start)

    def roll(self, name: str, to_period: int, at: int) -> None:
        """Begin the period that starts at `to_period`; its thresholds are announced anew. What was announced
        in the one before is remembered: a clock that steps back leads there again.
        """
        record = self.records.get(name)
        if record is None:
            return  # rolled by a version that could read its document
        start, end = period_bounds(record.spec.period, record.spec.timezone, Instant(to_period))
        earlier = min(record.period_start, start)
        self._forget(name, earlier)
        self.postings.forget(name, record.window(earlier)[0], at)
        record.period_start, record.period_end = start, end or 0

    def stay_announced(self, record: BudgetRecord, before: int, ledger: Ledger) -> None:
        """Of a rolling one that has come from the day that began at `before`: a threshold that is still
        passed stays said, with what was approved of it. One that is not is armed again.
        """
        limit, now = limit_of(record, ledger), record.period_start
        settled, held = settled_of(record, ledger), ledger.held(record.name, now)
        still = [
            one
            for one in record.spec.thresholds
            if (before, one.on, one.at_ppm, limit)
            in self.announced.get((record.name, str(record.spec.scope)), ())
            and reached(one, settled, held, limit)
        ]
        for one in still:
            self.announce(record, one.on, one.at_ppm, limit)
        key = (record.name, str(record.spec.scope))
        given = self.approvals.get(key)
        if given is not None and given.period_start == before and still:
            self.approvals[key] = msgspec.structs.replace(given, period_start=now)

    def remove(self, name: str) -> None:
        """Take a budget out of force; what it settled stays in the ledger."""
        self.records.pop(name, None)
        self.unread.discard(name)

    def matching(self, user: str, spec: JobSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(all, hard) budgets that cover a job, sorted by name."""
        labels = dict(spec.labels)
        found = [
            record
            for name, record in sorted(self.records.items())
            if record.spec.scope.covers(spec.project, user, spec.experiment, spec.model, labels)
        ]
        return tuple(r.name for r in found), tuple(r.name for r in found if r.hard)

    def covers(self, record: BudgetRecord, whose: Attribution) -> bool:
        """Is a charge that is booked on this one's?"""
        labels = msgspec.json.decode(whose.labels, type=dict[str, str])
        return record.spec.scope.covers(whose.project, whose.user, whose.experiment, whose.model, labels)

    def rooms(self, ledger: Ledger) -> dict[str, BudgetRoom]:
        """What every budget can still promise in its current period."""
        return {name: self.room(record, ledger) for name, record in self.records.items()}

    def room(self, record: BudgetRecord, ledger: Ledger) -> BudgetRoom:
        """The same of one."""
        limit = limit_of(record, ledger)
        given = self.approval(record, limit) if record.spec.staged else None
        return BudgetRoom(
            name=record.name,
            limit_nanos=limit,
            settled_nanos=settled_of(record, ledger),
            held_nanos=self.held(record, ledger),
            currency=record.spec.limit.currency,
            renews_at=record.period_end,
            stages=self.stages(record, ledger),
            ceiling_nanos=given.ceiling_nanos if given is not None else -1,
        )

    def held(self, record: BudgetRecord, ledger: Ledger) -> int:
        """What is held in its period: by attempts and machines, and set aside for promises of deadlines."""
        return ledger.held(record.name, record.period_start) + self.promised[record.name]

    def due(self, now: int) -> list[BudgetRecord]:
        """Budgets that are not in the period of `now`: it has ended, or it was entered by a clock ahead."""
        return [r for r in self.records.values() if r.period_end and not r.period_start <= now < r.period_end]
