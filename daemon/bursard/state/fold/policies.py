"""How policy and budget events change the state: documents, prices, periods, thresholds."""

from __future__ import annotations

import msgspec

from bursar.model import JobState
from bursar_policies.compile import Applied as PriceDocument
from bursar_policies.document import parse_documents
from bursar_policies.specs import BudgetSpec, PlacementPolicySpec
from bursard.events import HoldsRolled, PolicyApplied, PolicyRemoved, ThresholdCrossed
from bursard.state.tables import Applied, Tables


def policy_applied(state: Tables, event: PolicyApplied, at: int, applied: Applied) -> None:
    """Documents are in force."""
    for record in event.documents:
        document = parse_documents(record.text, f"{record.kind}/{record.name}")[0]
        # In order of application: of several PlacementPolicies the one applied last is in force.
        state.policies.pop((record.kind, record.name), None)
        state.policies[record.kind, record.name] = record
        state.documents[record.kind, record.name] = document
        if isinstance(document.spec, BudgetSpec):
            state.budgets.put(record.name, document.spec, record.version, at)
        elif not isinstance(document.spec, PlacementPolicySpec):
            state.priced.append(PriceDocument(document, record.version, record.effective_at))
    _policies_changed(state, at)


def policy_removed(state: Tables, event: PolicyRemoved, at: int, applied: Applied) -> None:
    """A document no longer is; what it priced stays priced."""
    state.policies.pop((event.kind, event.name), None)
    state.documents.pop((event.kind, event.name), None)
    if event.kind == "Budget":
        state.budgets.remove(event.name)
    state.priced = [
        msgspec.structs.replace(one, effective_until=min(one.effective_until, at))
        if (one.document.kind, one.document.name) == (event.kind, event.name)
        else one
        for one in state.priced
    ]
    _policies_changed(state, at)


def strategy_in_force(state: Tables) -> str:
    """Of the PlacementPolicy applied last; the default when there is none."""
    found = PlacementPolicySpec().strategy
    for key in state.policies:
        spec = state.documents[key].spec
        if isinstance(spec, PlacementPolicySpec):
            found = spec.strategy
    return found


def _policies_changed(state: Tables, at: int) -> None:
    state.policies_version += 1
    state.strategy = strategy_in_force(state)
    for job in state.jobs.values():
        if job.state is JobState.PENDING:
            job.budgets, job.hard_budgets = state.budgets.matching(job.user, job.spec)
            if job.id in state.pending:
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
