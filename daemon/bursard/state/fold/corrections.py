"""How a correction changes the state: balances, and what a job that has ended cost after all."""

from __future__ import annotations

from bursard.events import ChargesCorrected
from bursard.state.tables import Applied, Tables


def charges_corrected(state: Tables, event: ChargesCorrected, at: int, applied: Applied) -> None:
    """Charges are reversed and posted anew."""
    applied.corrections.append(event)
    posted = state.ledger.correct(event)
    if posted is not None:
        applied.transactions.append(posted)
    more = sum(one.more_nanos for one in event.charges)
    for job_id in {event.job_id, event.job_id.partition(".")[0]}:
        state.corrected[job_id] = state.corrected.get(job_id, 0) + more
        shifted = state.shifted.setdefault(job_id, {})
        for shift in event.budgets:
            shifted[shift.budget] = shifted.get(shift.budget, 0) + shift.nanos
    state.adjusted += 1
