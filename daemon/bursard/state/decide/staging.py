"""What thresholds of budgets do: each is announced once, and what it does lasts while it is in force. PURE.

Owns    the announcement of a threshold, and the stops of a stage that ends what runs.
Why     what a stage does to jobs that wait needs no event: it follows from what was announced
        (`BudgetTable.stages`), and plans go by it. So a raised limit, a new period or a restart brings no job
        into a state that somebody must undo.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from bursar.model import EndCause
from bursar_policies.decision import Stage
from bursar_policies.specs import FORECAST
from bursard.events import Event, StopRequested, ThresholdCrossed
from bursard.scheduler import stages
from bursard.state.budgets import BudgetRecord, limit_of, reached, settled_of
from bursard.state.core import State

STOPS_MAX: Final = 1_000
"""Attempts that one turn asks to end."""
STOP: Final = "checkpoint-stop"


def thresholds(state: State, forecasts: Mapping[str, int] = MappingProxyType({})) -> list[Event]:
    """Thresholds passed and not yet announced of their limit in this period.

    Args:
        forecasts: by budget, what it is expected to have settled at the end of its period (p50).
    """
    events: list[Event] = []
    for record in state.budgets.records.values():
        if record.spec.thresholds:
            events += _crossed(state, record, forecasts.get(record.name))
    return events


def forecast_wanted(state: State) -> list[str]:
    """Budgets with a threshold on their forecast that was not announced of the limit in force."""
    return [
        record.name
        for record in state.budgets.records.values()
        if any(
            not state.budgets.was_announced(record, one.on, one.at_ppm, limit_of(record, state.ledger))
            for one in record.spec.thresholds
            if one.on == FORECAST
        )
    ]


def _crossed(state: State, record: BudgetRecord, forecast: int | None) -> list[Event]:
    limit = limit_of(record, state.ledger)
    settled = settled_of(record, state.ledger)
    held = state.ledger.held(record.name, record.period_start)
    return [
        ThresholdCrossed(
            budget=record.name,
            period_start=record.period_start,
            at_ppm=one.at_ppm,
            on=one.on,
            settled_nanos=settled,
            held_nanos=held,
            limit_nanos=limit,
            do=one.do,
            forecast_nanos=max(forecast or 0, settled) if one.on == FORECAST else 0,
        )
        for one in record.spec.thresholds
        if reached(one, settled, held, limit, forecast)
        and not state.budgets.was_announced(record, one.on, one.at_ppm, limit)
    ]


def stops(state: State, most: int = STOPS_MAX) -> list[Event]:
    """Live attempts that hold money of a budget which stops what runs are asked to end, so many at once: with
    their checkpoint signal and grace.
    """
    reasons = {
        name: _why(state, name, stage)
        for name, record in state.budgets.records.items()
        if record.spec.staged
        for stage in state.budgets.stages(record, state.ledger)
        if stage.action == STOP
    }
    if not reasons:
        return []
    events: list[Event] = []
    for attempt in state.live_attempts():
        if attempt.stop_cause is not None:
            continue
        name = next((hold.budget for hold in attempt.holds if hold.budget in reasons), "")
        if name:
            events.append(StopRequested(attempt.id, EndCause.BUDGET, attempt.grace_us, reasons[name]))
            if len(events) == most:
                break
    return events


def _why(state: State, name: str, stage: Stage) -> str:
    room = state.budgets.room(state.budgets.records[name], state.ledger)
    return f"budget {name} stops what runs: it passed {stages.since(room, stage)}"
