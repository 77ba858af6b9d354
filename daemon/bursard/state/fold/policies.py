"""How policy and budget events change the state: documents, prices, periods, thresholds."""

from __future__ import annotations

import msgspec

from bursar.model import JobState
from bursar_policies.compile import Applied as PriceDocument
from bursar_policies.specs import BudgetSpec, Document, PlacementPolicySpec
from bursard.events import HoldsRolled, PolicyApplied, PolicyRemoved, ThresholdCrossed
from bursard.state.tables import Applied, Tables


def policy_applied(state: Tables, event: PolicyApplied, at: int, applied: Applied) -> None:
    """Documents are in force."""
    for record in event.documents:
        # In order of application: of several PlacementPolicies the one applied last is in force.
        state.policies.pop((record.kind, record.name), None)
        state.policies[record.kind, record.name] = record
        if isinstance(record.spec, BudgetSpec):
            state.budgets.put(record.name, record.spec, record.version, at)
        elif record.spec is None:
            # Neither it nor the version before: that one was replaced.
            _end(state, record.kind, record.name, record.effective_at)
        elif not isinstance(record.spec, PlacementPolicySpec):
            document = Document(record.kind, record.name, record.spec)
            state.priced.append(PriceDocument(document, record.version, record.effective_at))
    _policies_changed(state, at)


def policy_removed(state: Tables, event: PolicyRemoved, at: int, applied: Applied) -> None:
    """A document no longer is; what it priced stays priced."""
    state.policies.pop((event.kind, event.name), None)
    _end(state, event.kind, event.name, at)
    _policies_changed(state, at)


def _end(state: Tables, kind: str, name: str, at: int) -> None:
    if kind == "Budget":
        state.budgets.remove(name)
    state.priced = [
        msgspec.structs.replace(one, effective_until=min(one.effective_until, at))
        if (one.document.kind, one.document.name) == (kind, name)
        else one
        for one in state.priced
    ]


def strategy_in_force(state: Tables) -> str:
    """Of the PlacementPolicy applied last; the default when there is none."""
    found = PlacementPolicySpec().strategy
    for record in state.policies.values():
        if isinstance(record.spec, PlacementPolicySpec):
            found = record.spec.strategy
    return found


def _policies_changed(state: Tables, at: int) -> None:
    state.policies_version += 1
    state.strategy = strategy_in_force(state)
    found: dict[tuple[object, ...], tuple[tuple[str, ...], tuple[str, ...]]] = {}
    for job in state.jobs.values():
        if job.state is not JobState.PENDING and (job.array is None or job.state.terminal):
            continue
        # What budgets go by is the same for thousands of jobs, and most policies change none of it.
        spec = job.spec
        key = (job.user, spec.project, spec.experiment, spec.model, spec.labels)
        if key not in found:
            found[key] = state.budgets.matching(job.user, spec)
        hard_before = job.hard_budgets
        job.budgets, job.hard_budgets = found[key]
        if job.hard_budgets != hard_before and job.id in state.pending:
            state.enqueue(job, at)


def holds_rolled(state: Tables, event: HoldsRolled, at: int, applied: Applied) -> None:
    """A budget enters its next period, with what live attempts hold."""
    applied.transactions += state.ledger.roll(event.budget, event.from_period, event.to_period)
    state.budgets.roll(event.budget, event.to_period)


def threshold_crossed(state: Tables, event: ThresholdCrossed, at: int, applied: Applied) -> None:
    """Announced, so not again in this period."""
    record = state.budgets.records.get(event.budget)
    if record is not None and record.period_start == event.period_start:
        record.crossed.add((event.on, event.at_ppm))
