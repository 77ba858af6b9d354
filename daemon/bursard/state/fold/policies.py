"""How policy and budget events change the state: documents, prices, periods, thresholds."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import partial

import msgspec

from bursar.clock import DAY_US
from bursar.model import Hold, JobState
from bursar.resources import MILLI
from bursar_policies.compile import Applied as PriceDocument
from bursar_policies.decision import JobClass, QueueKey
from bursar_policies.idleness import most_particular_first
from bursar_policies.specs import (
    AllocatorSpec,
    BudgetSpec,
    Document,
    IdlePolicySpec,
    PlacementPolicySpec,
    Pricing,
    PriorityPolicySpec,
    QuotaSpec,
    ReservationSpec,
)
from bursard.events import (
    AnomalyFound,
    ApprovalLapsed,
    BudgetApproved,
    BudgetClosed,
    BudgetGranted,
    BudgetOpened,
    BudgetTransferred,
    HoldsRolled,
    PolicyApplied,
    PolicyRemoved,
    RestCarried,
    ThresholdCrossed,
)
from bursard.scheduler.targets import contends
from bursard.state.budgets import APPROVAL, BudgetRecord
from bursard.state.given import CARRY_OVER, Approval, Posting
from bursard.state.reservations import NEVER
from bursard.state.tables import Applied, Tables

MATCHED_MAX = 10_000
"""Jobs looked at in one turn after a change of budgets: some ten milliseconds."""

_MATCHED = ("budgets", "gates", "lease_us", "quotas", "pinned", "rated", "reservations")
"""What of a class documents decide."""
Names = tuple[str, ...]
Matching = tuple[Names, Names, Names]
"""Of a job: all budgets that cover it, the hard ones, and those of the others that have stages."""


def policy_applied(state: Tables, event: PolicyApplied, at: int, applied: Applied) -> None:
    """Documents are in force."""
    budgets = any(record.kind == "Budget" for record in event.documents)
    for record in event.documents:
        # In order of application: of several policies of placement, or priority, the one applied last is in
        # force.
        state.policies.pop((record.kind, record.name), None)
        state.policies[record.kind, record.name] = record
        if isinstance(record.spec, BudgetSpec):
            state.budgets.put(record.name, record.spec, record.version, at)
        elif record.spec is None:
            # Neither it nor the version before: that one was replaced.
            _end(state, record.kind, record.name, record.effective_at)
        elif isinstance(record.spec, Pricing):
            document = Document(record.kind, record.name, record.spec)
            state.priced.append(PriceDocument(document, record.version, record.effective_at))
    _policies_changed(state, budgets, at)


def policy_removed(state: Tables, event: PolicyRemoved, at: int, applied: Applied) -> None:
    """A document no longer is; what it priced stays priced."""
    state.policies.pop((event.kind, event.name), None)
    _end(state, event.kind, event.name, at)
    _policies_changed(state, event.kind == "Budget", at)


def _end(state: Tables, kind: str, name: str, at: int) -> None:
    if kind == "Budget":
        state.budgets.remove(name)
    state.priced = [
        msgspec.structs.replace(one, effective_until=min(one.effective_until, at))
        if (one.document.kind, one.document.name) == (kind, name)
        else one
        for one in state.priced
    ]


def redate(state: Tables, now: int, was: int, at: int) -> None:
    """What came into force while the clock was ahead, between two instants, is so much earlier in force."""
    for key, record in state.policies.items():
        if now < record.effective_at <= was:
            moved = msgspec.structs.replace(record, effective_at=record.effective_at - (was - now))
            state.policies[key] = moved
    state.priced = [
        msgspec.structs.replace(
            one,
            effective_from=_redated(one.effective_from, now, was),
            effective_until=_redated(one.effective_until, now, was),
        )
        for one in state.priced
    ]
    _policies_changed(state, False, at)


def _redated(instant: int, now: int, was: int) -> int:
    return instant - (was - now) if now < instant <= was else instant


def placement_in_force(state: Tables) -> PlacementPolicySpec:
    """The PlacementPolicy applied last; the default when there is none."""
    found = PlacementPolicySpec()
    for record in state.policies.values():
        if isinstance(record.spec, PlacementPolicySpec):
            found = record.spec
    return found


def place_by(state: Tables) -> None:
    """Nodes are chosen as the PlacementPolicy in force says."""
    placement = placement_in_force(state)
    state.strategy = placement.strategy
    state.weights = tuple((name, int(weight * MILLI)) for name, weight in placement.weights)


def allocator_in_force(state: Tables) -> AllocatorSpec | None:
    """Of the PlacementPolicy applied last; None when it names none."""
    return placement_in_force(state).allocator


def _allocator_changed(state: Tables, at: int) -> None:
    """What it gave is void: who contends waits for what the next one gives, or is placed as others are."""
    state.allocator = allocator_in_force(state)
    state.allotments.clear()
    for job in list(state.jobs.values()):
        if job.id in state.pending.aside or (job.id in state.pending and contends(job.spec)):
            state.enqueue(job, at)


def priority_in_force(state: Tables) -> PriorityPolicySpec | None:
    """The PriorityPolicy applied last; None when there is none."""
    found = None
    for record in state.policies.values():
        if isinstance(record.spec, PriorityPolicySpec):
            found = record.spec
    return found


def quotas_in_force(state: Tables) -> dict[str, QuotaSpec]:
    """By name."""
    return {one.name: one.spec for one in state.policies.values() if isinstance(one.spec, QuotaSpec)}


def idle_policies_in_force(state: Tables) -> tuple[tuple[str, IdlePolicySpec], ...]:
    """By name, the most particular first."""
    found = [(one.name, one.spec) for one in state.policies.values() if isinstance(one.spec, IdlePolicySpec)]
    return tuple(most_particular_first(found))


def reservations_in_force(state: Tables) -> dict[str, ReservationSpec]:
    """By name."""
    return {one.name: one.spec for one in state.policies.values() if isinstance(one.spec, ReservationSpec)}


def reserved_since(state: Tables) -> dict[str, int]:
    """When each reservation in force came into force, by name."""
    return {
        one.name: one.effective_at for one in state.policies.values() if isinstance(one.spec, ReservationSpec)
    }


def _metered(state: Tables, name: str) -> int:
    node_id = state.node_names.get(name)
    return state.nodes[node_id].through if node_id is not None else NEVER


def _policies_changed(state: Tables, budgets: bool, at: int) -> None:
    state.policies_version += 1
    place_by(state)
    state.priority = priority_in_force(state)
    state.idle_documents = idle_policies_in_force(state)
    if allocator_in_force(state) != state.allocator:
        _allocator_changed(state, at)
    quotas = state.quotas.put(quotas_in_force(state))
    if quotas:
        state.count_again(state.attempts.values())
    in_force = reservations_in_force(state), reserved_since(state)
    if state.reservations.put(*in_force, at, partial(_metered, state)) or budgets or quotas:
        _match_again(state)


def _match_again(state: Tables) -> None:
    """Which budgets and quotas cover what waits: of as many jobs as one turn of the loop can bear at once, of
    the others with the next turns. Until its own, a job is not placed (`Tables.outdated`).
    """
    state.unmatched = deque(state.jobs)
    match_some(state, MATCHED_MAX)


def match_some(state: Tables, most: int) -> bool:
    """The next so many of the jobs that budgets have changed for. True: more are left.

    Each job costs two look-ups; all that costs more is done once for what thousands of them have in common:
    what budgets go by, and the class.
    """
    found: dict[tuple[object, ...], Matching] = {}
    moving: dict[tuple[object, ...], tuple[QueueKey, JobClass, list[str]]] = {}
    left = state.unmatched
    for _ in range(min(most, len(left))):
        job = state.jobs.get(left.popleft())
        if job is None or (job.state is not JobState.PENDING and (job.array is None or job.state.terminal)):
            continue
        spec = job.spec
        covered_by = (job.user, spec.project, spec.experiment, spec.model, spec.labels)
        matching = found.get(covered_by)
        if matching is None:
            names, hard = state.budgets.matching(job.user, spec)
            matching = found[covered_by] = names, hard, state.budgets.gates(names)
        before = job.hard_budgets
        job.budgets, job.hard_budgets, gates = matching
        key = state.pending.key_of(job.id)
        if key is None:
            continue
        # Behind the hard budgets stands the cap of an array, which no policy changes.
        budgets = (*job.hard_budgets, *key.job_class.budgets[len(before) :])
        lease_us = state.budgets.first_us(spec, budgets, job.likely_us)
        reservations = state.reservations.for_whom(job.user, spec.project)
        now = budgets, gates, lease_us, *state.counted_by(job.user, spec), reservations
        of = key.job_class
        if now != tuple(getattr(of, name) for name in _MATCHED):
            if (id(key), *now) not in moving:
                changed = msgspec.structs.replace(of, **dict(zip(_MATCHED, now, strict=True)))
                moving[id(key), *now] = (key, changed, [])
            moving[id(key), *now][2].append(job.id)
    for key, changed, job_ids in moving.values():
        state.pending.move(job_ids, changed, key)
    return bool(left)


def holds_rolled(state: Tables, event: HoldsRolled, at: int, applied: Applied) -> None:
    """A budget enters its next period, with what live attempts hold."""
    rolled = state.ledger.roll(event.budget, event.from_period, event.to_period, event.anew)
    applied.transactions += rolled
    if event.anew and event.budget in state.budgets.records:
        state.budgets.unread.add(event.budget)
    state.budgets.roll(event.budget, event.to_period, at)
    record = state.budgets.records.get(event.budget)
    if record is not None and record.rolling:
        state.budgets.stay_announced(record, event.from_period, state.ledger)


def budget_opened(state: Tables, event: BudgetOpened, at: int, applied: Applied) -> None:
    """Its account begins with what its scope has cost; live attempts in it hold of it, and no others."""
    record = state.budgets.records.get(event.budget)
    if record is not None:  # else it was opened by a version that could read its document
        record.opened = True
        state.budgets.unread.discard(event.budget)
        if record.period_start != event.period_start:  # months are closed that a clock behind has not passed
            state.budgets.roll(event.budget, event.period_start, at)
        _count_past(state, record, event)
    settled, earlier = event.settled_nanos, event.earlier
    if record is not None:  # and what keys were charged of the same time
        starts = (*(start for start, _ in earlier), event.period_start)
        keys = state.keys_charged.by_period(event.budget, starts, record.spec.counts_from)
        settled += keys[event.period_start]
        earlier = tuple((start, nanos + keys[start]) for start, nanos in earlier)
    applied.transactions += state.ledger.open(
        event.budget, event.period_start, settled, event.since, event.holds, earlier
    )
    if event.days is not None:
        # The first day of all may have begun before the first cost.
        first = min((day for day, _ in event.days), default=at // DAY_US)
        state.ledger.learn_days(event.budget, first + 1, event.days)
    holds = {one.attempt_id: Hold(event.budget, event.period_start, one.whole_nanos) for one in event.holds}
    _share(state, event.budget, holds)


def _count_past(state: Tables, record: BudgetRecord, event: BudgetOpened) -> None:
    """What jobs of its scope have cost before is in the account, from the instant on that it counts from."""
    scope = record.spec.scope
    begins = event.earlier[0][0] if event.earlier else event.period_start
    for job in state.jobs.values():
        spec = job.spec
        if job.attempts and scope.covers(
            spec.project, job.user, spec.experiment, spec.model, dict(spec.labels)
        ):
            job.counted_from = {**job.counted_from, event.budget: (begins, event.since)}


def budget_closed(state: Tables, event: BudgetClosed, at: int, applied: Applied) -> None:
    """Live attempts have no part in it any more."""
    applied.transactions += state.ledger.close(event.budget)
    state.ledger.forget_days(event.budget)
    _share(state, event.budget, {})


def _share(state: Tables, budget: str, holds: Mapping[str, Hold]) -> None:
    """These of the live attempts have part in a budget, and their jobs say so."""
    for attempt in state.attempts.values():
        mine = holds.get(attempt.id)
        others = [hold for hold in attempt.holds if hold.budget != budget]
        if mine is None and len(others) == len(attempt.holds):
            continue
        attempt.holds = tuple(sorted([*others, mine] if mine else others, key=lambda hold: hold.budget))
        job = state.jobs[attempt.job_id]
        job.budgets = tuple(hold.budget for hold in attempt.holds)
        job.hard_budgets = tuple(
            name for name in job.budgets if (r := state.budgets.records.get(name)) is not None and r.hard
        )


def budget_granted(state: Tables, event: BudgetGranted, at: int, applied: Applied) -> None:
    """It has more to spend in one of its periods."""
    applied.transactions.append(state.ledger.grant(event.budget, event.period_start, event.nanos))
    state.budgets.postings.add(
        Posting(
            *("grant", event.budget, event.period_start, event.nanos, at, event.by, event.reason),
            key=event.key,
        )
    )


def rest_carried(state: Tables, event: RestCarried, at: int, applied: Applied) -> None:
    """It has less in one of its periods, and as much more in another one."""
    between = (event.from_period, event.to_period)
    applied.transactions.append(state.ledger.carry(event.budget, *between, event.nanos))
    for period, other_period, nanos in ((*between, -event.nanos), (*between[::-1], event.nanos)):
        state.budgets.postings.add(
            Posting(
                *(CARRY_OVER, event.budget, period, nanos, at, "bursard", event.reason),
                other_period=other_period,
            )
        )


def budget_transferred(state: Tables, event: BudgetTransferred, at: int, applied: Applied) -> None:
    """One has less in its period, another one more in its own."""
    ends = (event.budget, event.period_start, event.to, event.to_period)
    applied.transactions.append(state.ledger.transfer(*ends, event.nanos))
    for budget, period_start, nanos, other in (
        (event.budget, event.period_start, -event.nanos, event.to),
        (event.to, event.to_period, event.nanos, event.budget),
    ):
        state.budgets.postings.add(
            Posting(
                *("transfer", budget, period_start, nanos, at, event.by, event.reason),
                key=event.key,
                other=other,
            )
        )


def anomaly_found(state: Tables, event: AnomalyFound, at: int, applied: Applied) -> None:
    """Nothing follows from it: who told it reads it from the log."""


def threshold_crossed(state: Tables, event: ThresholdCrossed, at: int, applied: Applied) -> None:
    """Announced, so not again in this period for the same limit."""
    record = state.budgets.records.get(event.budget)
    if record is not None and record.period_start == event.period_start:
        state.budgets.announce(record, event.on, event.at_ppm, event.limit_nanos)


def budget_approved(state: Tables, event: BudgetApproved, at: int, applied: Applied) -> None:
    """Its jobs may start again, as long as that holds."""
    record = state.budgets.records.get(event.budget)
    if record is not None:
        state.budgets.approvals[record.name, str(record.spec.scope)] = Approval(
            event.period_start,
            event.limit_nanos,
            event.stages,
            event.until,
            event.ceiling_nanos,
            at,
            event.by,
            event.reason,
        )
    said = (APPROVAL, event.budget, event.period_start, 0, at, event.by, event.reason)
    state.budgets.postings.add(Posting(*said, key=event.key, other_period=event.until))


def approval_lapsed(state: Tables, event: ApprovalLapsed, at: int, applied: Applied) -> None:
    """Its time has passed."""
    record = state.budgets.records.get(event.budget)
    if record is not None:
        state.budgets.approvals.pop((record.name, str(record.spec.scope)), None)
