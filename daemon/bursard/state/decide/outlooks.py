"""What is expected of budgets, by what the state knows: their days, what runs, what waits. PURE.

Why     thresholds on a forecast and `bursar forecast` must say the same, and a replay and the simulator what
        the daemon said; so nothing is asked of the store, and nothing that a job tells of its own progress
        counts: a job that lies moves no threshold. The work is bounded by days and by `LOOKED_MAX` jobs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from itertools import islice
from typing import Final, NamedTuple

from bursar.clock import DAY_US
from bursar.model import JobSpec
from bursar.model.ranges import count
from bursar_policies.periods import rolling_days
from bursard.forecast.completion import Left, left
from bursard.forecast.outlook import AHEAD_MAX, Account, Flow, Outlook, learn, outlook
from bursard.forecast.usual import HISTORY_DAYS, Usual
from bursard.state.admission import cheapest_rate
from bursard.state.budgets import BudgetRecord, limit_of, settled_of
from bursard.state.core import State
from bursard.state.records import AttemptRecord, JobRecord

LOOKED_MAX: Final = 5_000
"""Live attempts, and as many jobs that wait, whose costs to come are added up: the oldest of more."""


class Coming(NamedTuple):
    """What of one budget runs and waits. `unpriced`: jobs whose cost no price tells."""

    flows: list[Flow]
    unpriced: int


class Seen(NamedTuple):
    """What outlooks are made of: accounts and what is coming by budget, as of one instant."""

    now: int
    capacity: int | None
    accounts: dict[str, Account]
    coming: dict[str, Coming]


class Outlooks:
    """Belongs to one state; remembers what is usual, which changes once a day."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._usual: dict[str, tuple[object, Usual | None]] = {}

    def of(self, names: Collection[str], now: int) -> dict[str, tuple[Outlook, int]]:
        """By budget in force of these names, its outlook, and how many jobs have no price."""
        return self.made(self.seen(names, now))

    def seen(self, names: Collection[str], now: int) -> Seen:
        """What the state says of them now: quick, and nothing in it changes afterwards."""
        state, coming = self._state, self._coming(set(names), now)
        self._usual = {name: one for name, one in self._usual.items() if name in state.budgets.records}
        accounts = {name: _account(state, state.budgets.records[name], now) for name in sorted(coming)}
        return Seen(now, _capacity(state), accounts, coming)

    def made(self, seen: Seen) -> dict[str, tuple[Outlook, int]]:
        """The outlooks. It asks nothing of the state, so a thread may do it: the first of a day takes some
        milliseconds for each budget.
        """
        found = {}
        for name, account in seen.accounts.items():
            flows, unpriced = seen.coming[name]
            learned = self._learned(name, account, seen.now)
            found[name] = outlook(account, learned, flows, seen.now, seen.capacity), unpriced
        return found

    def _learned(self, name: str, account: Account, now: int) -> Usual | None:
        today = now // DAY_US
        days = tuple(account.days.get(day, 0) for day in range(today - HISTORY_DAYS, today))
        key = (today, account.since, account.until, days)
        known = self._usual.get(name)
        if known is None or known[0] != key:
            known = self._usual[name] = key, learn(account, now)
        return known[1]

    def _coming(self, names: Collection[str], now: int) -> dict[str, Coming]:
        state = self._state
        likely, kept = _Likely(state), Counter[str]()
        found = {name: Coming([], 0) for name in names if name in state.budgets.records}
        for attempt in islice(state.live_attempts(), LOOKED_MAX):
            job = state.jobs[attempt.job_id]
            mine = [hold.budget for hold in attempt.holds if hold.budget in found]
            if not mine:
                continue
            if not attempt.priced:
                _skip(found, mine)
                continue
            goes = _goes(job, attempt, likely, now, kept)
            _add(found, mine, Flow(attempt.rate, goes.likely_us, goes.most_us))
        self._waiting(found, likely, kept)
        return found

    def _waiting(self, found: dict[str, Coming], likely: _Likely, kept: Counter[str]) -> None:
        """What could start now, and the tasks behind those that could."""
        state, looked, arrays = self._state, 0, set[str]()
        for queue in state.pending.queues():
            if not found or looked >= LOOKED_MAX:
                return
            rate = cheapest_rate(state, queue.job_class)
            alike = Counter[tuple[tuple[str, ...], int, int]]()
            for position, (_, job_id) in enumerate(islice(queue.jobs, LOOKED_MAX - looked)):
                looked += 1
                job = state.jobs[job_id]
                mine = tuple(name for name in job.budgets if name in found)
                if mine:
                    goes = left(0, int(queue.jobs.limits_us[position]), likely.of(job.spec, 0))
                    if job.spec.service is not None:
                        goes = _lasts(job, kept)
                    alike[mine, goes.likely_us, goes.most_us] += 1 + _behind(state, job, arrays)
            for (mine, likely_us, most_us), many in alike.items():
                if rate is None:
                    _skip(found, mine, many)
                else:
                    _add(found, mine, Flow(rate * many, likely_us, most_us, waits=True))


class _Likely:
    """How long runs like a job take, asked once for all that are alike."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._known: dict[object, tuple[int, int]] = {}

    def of(self, spec: JobSpec, ran_us: int) -> int:
        """In all, of one that has run for so long already; 0 where nobody knows."""
        if not spec.name:
            return 0
        key = (spec.project, spec.name, spec.nodes, spec.max_nodes, spec.options)
        if key not in self._known:
            times = self._state.runs.expected(spec)
            self._known[key] = (times.p50_us, times.p90_us) if times is not None else (0, 0)
        half, most = self._known[key]
        return half if half > ran_us else most


def _goes(job: JobRecord, attempt: AttemptRecord, likely: _Likely, now: int, kept: Counter[str]) -> Left:
    if job.spec.service is not None:
        return _lasts(job, kept)
    ran_us = max(now - (attempt.started_at or attempt.placed_at), 0)
    return left(ran_us, attempt.longest_us, likely.of(job.spec, ran_us))


def _lasts(place: JobRecord, kept: Counter[str]) -> Left:
    """As many replicas as a service must have go on for ever, whatever became of those before them; what came
    with the load goes on as long as it takes to let it go at least, and for ever at most.

    Args:
        kept: of each service, how many were looked at.
    """
    service, ever_us = place.spec.service, AHEAD_MAX * DAY_US
    assert service is not None
    kept[place.parent_id] += 1
    must = kept[place.parent_id] <= service.replicas_min
    return Left(ever_us if must else service.down_delay_us, ever_us)


def _behind(state: State, task: JobRecord, arrays: set[str]) -> int:
    """Tasks of its array that are no records yet, said once of each array."""
    if not task.parent_id or task.parent_id in arrays or task.spec.service is not None:
        return 0
    arrays.add(task.parent_id)
    array = state.jobs[task.parent_id].array
    return count(array.unopened) if array is not None else 0


def _add(found: dict[str, Coming], names: Iterable[str], flow: Flow) -> None:
    for name in names:
        found[name].flows.append(flow)


def _skip(found: dict[str, Coming], names: Iterable[str], many: int = 1) -> None:
    for name in names:
        found[name] = found[name]._replace(unpriced=found[name].unpriced + many)


def _capacity(state: State) -> int | None:
    """What all nodes cost in an hour; None where more of them can be rented."""
    if any(kind == "CloudPool" for kind, _ in state.policies):
        return None
    return sum(node.rates.total for node in state.nodes.values() if node.price_id)


def _account(state: State, record: BudgetRecord, now: int) -> Account:
    """Of a rolling one the end that is meant is when all that counts today has left its window."""
    ledger, days = state.ledger, state.ledger.days.get(record.name)
    long_us = rolling_days(record.spec.period) * DAY_US
    leaving = [(start + long_us, ledger.settled(record.name, start)) for start in record.window() if long_us]
    return Account(
        limit=limit_of(record, ledger),
        settled=settled_of(record, ledger),
        until=now + long_us if long_us else record.period_end,
        days=dict(days.nanos) if days is not None else {},
        since=days.since if days is not None else now // DAY_US + 1,
        leaving=[one for one in leaving if one[1]],
    )
