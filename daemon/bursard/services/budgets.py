"""Budgets as asked about and given to: where they stand, grants and transfers.

Why     whoever gives money must see what became of it, in the numbers that admission decides on: an answer
        has each budget as it stands after the commit. Decision and commit are one step of the loop, so that
        nobody spends meanwhile what was found free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from bursar.codec.amounts import put_amounts
from bursar.errors import InvalidRequest, NotFound
from bursar.v1 import money_pb2 as pb
from bursar.v1 import types_pb2
from bursar_policies.specs import BudgetSpec
from bursard.access.authorize import Action, allowed, authorize
from bursard.access.identity import caller
from bursard.engine import Engine
from bursard.events import Event, ThresholdCrossed, decode
from bursard.forecast.outlook import Outlook
from bursard.reports.budget_history import Version, budget_history
from bursard.reports.budgets import BudgetView, budget_views
from bursard.services.policies import read_history
from bursard.state import State
from bursard.state.admission import check_currency
from bursard.state.decide import approving, giving, policies
from bursard.state.decide.outlooks import Outlooks
from bursard.store import EventFilter, Views


async def budgets(engine: Engine, name: str, outlooks: Outlooks | None = None) -> pb.BudgetsResponse:
    """One budget, or all that the caller may see, with what is expected of each. Raises `NotFound`."""
    identity = caller()
    found = [
        view
        for view in budget_views(engine.state, name)
        if allowed(identity, Action.SEE_COST, project_of(engine.state, view.name))
    ]
    if name and not found:
        raise _unknown(name)
    answer = pb.BudgetsResponse(budgets=[_budget(engine.state, view) for view in found])
    if outlooks is not None:
        now = engine.now()
        seen = outlooks.seen([view.name for view in found], now)
        expected = await engine.aside(partial(outlooks.made, seen))
        for wire in answer.budgets:
            wire.forecast.CopyFrom(_forecast(*expected[wire.name], now))
    await engine.durable()
    return answer


def _forecast(what: Outlook, unpriced: int, now: int) -> pb.BudgetForecast:
    wire = pb.BudgetForecast(
        at=now,
        ends_at=what.until,
        learned_days=what.learned,
        exhausted_p10_at=what.exhausted.p10 or 0,
        exhausted_p50_at=what.exhausted.p50 or 0,
        exhausted_p90_at=what.exhausted.p90 or 0,
        unpriced_jobs=unpriced,
    )
    wire.burn_rate.CopyFrom(_amount(what.burn_rate))
    wire.run_rate.CopyFrom(_amount(what.run_rate))
    wire.running.CopyFrom(_amount(what.running))
    wire.queued.CopyFrom(_amount(what.queued))
    wire.end_p10.CopyFrom(_amount(what.end.p10 or 0))
    wire.end_p50.CopyFrom(_amount(what.end.p50 or 0))
    wire.end_p90.CopyFrom(_amount(what.end.p90 or 0))
    return wire


async def history(engine: Engine, name: str) -> pb.BudgetsResponse:
    """One budget in each of its periods, the newest first. Raises `NotFound`."""
    if name not in engine.state.budgets.records or not _may_know(engine.state, name):
        raise _unknown(name)
    await engine.durable()
    versions = await engine.read(lambda views: _versions(views, name))
    crossed = await engine.read(lambda views: _crossed(views, name))
    if name not in engine.state.budgets.records:  # removed while the log was read
        raise _unknown(name)
    found = budget_history(engine.state, name, versions, crossed)
    return pb.BudgetsResponse(budgets=[_budget(engine.state, view) for view in found])


def past_limits(views: Views) -> dict[str, list[Version]]:
    """The documents of every budget there ever was, oldest first."""
    found: dict[str, list[Version]] = {}
    for one in read_history(views):
        if isinstance(one.document.spec, BudgetSpec):
            version = Version(one.at, one.document.version, one.document.spec)
            found.setdefault(one.document.name, []).append(version)
    return found


def _versions(views: Views, name: str) -> list[Version]:
    return past_limits(views).get(name, [])


def _crossed(views: Views, name: str) -> dict[int, set[tuple[int, str]]]:
    """By period, the thresholds that a budget has passed, and what each is on."""
    found: dict[int, set[tuple[int, str]]] = {}
    after, asked = 0, EventFilter(kinds=("threshold-crossed",), about=name)
    while rows := views.events(after, 1000, asked):
        for row in rows:
            event = decode(row.payload)
            if isinstance(event, ThresholdCrossed):
                found.setdefault(event.period_start, set()).add((event.at_ppm, event.on))
        after = rows[-1].seq
    return found


async def grant(engine: Engine, request: pb.GrantBudgetRequest) -> pb.BudgetPostingResponse:
    """Give a budget more, or take a grant back. Durable before the answer."""
    _may_give(engine.state, request.budget)
    nanos = _nanos(engine, request.amount, request.currency)

    def decide(by: str) -> Sequence[Event]:
        return giving.grant(engine.state, request.budget, nanos, by, request.reason, request.key)

    return await _given(engine, decide, (request.budget,))


async def transfer(engine: Engine, request: pb.TransferBudgetRequest) -> pb.BudgetPostingResponse:
    """Let one budget have what another one gives. Durable before the answer."""
    for name in (request.budget, request.to):
        _may_give(engine.state, name)
    nanos = _nanos(engine, request.amount, request.currency)

    def decide(by: str) -> Sequence[Event]:
        asked = (request.budget, request.to, nanos, by, request.reason, request.key)
        return giving.transfer(engine.state, *asked)

    return await _given(engine, decide, (request.budget, request.to))


async def approve(engine: Engine, request: pb.ApproveBudgetRequest) -> pb.BudgetPostingResponse:
    """Approve what a threshold of a budget asks for. Durable before the answer."""
    _may_give(engine.state, request.budget, Action.APPROVE_BUDGETS)
    nanos = _nanos(engine, request.amount, request.currency) if request.HasField("amount") else 0
    if request.HasField("amount") and not nanos:
        raise InvalidRequest(
            "amount: must be more than 0; leave it out to approve all of it", {"field": "amount"}
        )

    def decide(by: str) -> Sequence[Event]:
        more = {"until": request.until, "nanos": nanos}
        name, reason, now = request.budget, request.reason, engine.now()
        return approving.approve(engine.state, name, by, reason, now, key=request.key, **more)

    return await _given(engine, decide, (request.budget,))


def project_of(state: State, budget: str) -> str:
    """The project a budget is of; the site's when it covers more than one project's work."""
    return state.budgets.records[budget].spec.scope.project


async def _given(
    engine: Engine, decide: Callable[[str], Sequence[Event]], names: Sequence[str]
) -> pb.BudgetPostingResponse:
    """What is given is of the period that it is now: what has ended rolls first."""
    state, by = engine.state, caller().name
    if state.due(engine.now()):
        engine.commit(policies.roll_periods(state, engine.now()), "bursard")
    events = decide(by)
    engine.commit(events, by)
    answer = pb.BudgetPostingResponse(
        budgets=[_budget(state, view) for name in names for view in budget_views(state, name)],
        unchanged=not events,
    )
    await engine.durable()
    return answer


def _may_give(state: State, name: str, action: Action = Action.FUND_BUDGETS) -> None:
    """Another project's budget is as unknown as one that is not there."""
    if name not in state.budgets.records or not _may_know(state, name):
        raise _unknown(name)
    authorize(action, project_of(state, name), what=f"budget {name}")


def _unknown(name: str) -> NotFound:
    return NotFound(f"there is no budget {name!r}; `bursar budget ls` lists them")


def _nanos(engine: Engine, amount: types_pb2.Amount, currency: str) -> int:
    check_currency(engine.state, currency, "amount")
    sign, digits = ("-", amount.nanos[1:]) if amount.nanos.startswith("-") else ("", amount.nanos)
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 60):
        raise InvalidRequest("amount: is not a whole number of nanos", {"field": "amount"})
    return int(sign + digits)


def _may_know(state: State, name: str) -> bool:
    """May the caller know that there is such a budget?"""
    record = state.budgets.records.get(name)
    return allowed(caller(), Action.SEE_COST, record.spec.scope.project if record is not None else "")


def _budget(state: State, view: BudgetView) -> pb.Budget:
    wire = pb.Budget(
        id=f"bud_{view.name}",
        name=view.name,
        scope=view.scope,
        period=view.period,
        enforcement=view.enforcement,
        hold=view.hold,
        currency=view.currency,
        period_start=view.period_start,
        period_end=view.period_end,
        crossed_percent=list(view.crossed_percent),
        crossed=[pb.BudgetThreshold(on=on, at_ppm=at_ppm) for at_ppm, on in view.crossed],
        live_jobs=list(view.live_jobs),
        version=view.version,
        base_limit=_amount(view.base_limit_nanos),
        granted=_amount(view.granted_nanos),
        transferred=_amount(view.transferred_nanos),
        carried_over=_amount(view.carried_nanos),
        carry_over=view.carry_over,
        stages=[
            pb.BudgetStage(
                action=one.action, on=one.on, at_ppm=one.at_ppm, since=one.since, remedy=one.remedy
            )
            for one in view.stages
        ],
        postings=[
            pb.BudgetPosting(
                kind=one.kind,
                amount=_amount(one.nanos),
                at=one.at,
                by=one.by,
                reason=one.reason,
                other_period=one.other_period,
                other=one.other if one.other and _may_know(state, one.other) else "",
            )
            for one in view.postings
        ],
    )
    if (given := view.approval) is not None:
        wire.approval.MergeFrom(
            pb.BudgetApproval(at=given.at, by=given.by, reason=given.reason, until=given.until)
        )
        if given.ceiling_nanos >= 0:
            wire.approval.ceiling.CopyFrom(_amount(given.ceiling_nanos))
    put_amounts(
        wire,
        limit_nanos=view.limit_nanos,
        settled_nanos=view.settled_nanos,
        held_nanos=view.held_nanos,
    )
    return wire


def _amount(nanos: int) -> types_pb2.Amount:
    return types_pb2.Amount(nanos=str(nanos))
