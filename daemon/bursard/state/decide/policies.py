"""Policies and time: applying documents, rolling budget periods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Final

from bursar.clock import Instant, format_instant
from bursar.errors import InvalidRequest, NotBuilt, NotFound, StaleVersion
from bursar_policies.periods import period_bounds
from bursar_policies.specs import (
    AttributionSpec,
    BudgetSpec,
    CommitmentSpec,
    CostModelSpec,
    Document,
    PriceBookSpec,
    Pricing,
    QuotaSpec,
    ReservationSpec,
)
from bursard.events import (
    BudgetClosed,
    Event,
    HoldsRolled,
    PolicyApplied,
    PolicyDocument,
    PolicyRemoved,
)
from bursard.state.admission import check_currency
from bursard.state.core import State
from bursard.state.decide import reservations
from bursard.state.decide.attributions import check_one_table, check_since
from bursard.state.decide.carrying import carried_over, entered, taken_back
from bursard.state.decide.names import check_names
from bursard.state.decide.opening import NOTHING, Before, by_marks, in_force, open_account, posted

SPOT: Final = "spot"
OF_A_KIND_MAX: Final = 2_000
"""Documents of one kind in force."""


def apply_documents(
    state: State,
    documents: Sequence[Document],
    now: int,
    spent: Mapping[str, int] = MappingProxyType({}),
    used: Mapping[tuple[str, str], int] = MappingProxyType({}),
    before: Mapping[str, Before] = MappingProxyType({}),
) -> list[Event]:
    """All documents or none. Unchanged ones are passed over; an empty answer means nothing changed.

    Args:
        spent: by budget of `opening.openings`, what its scope has cost in that time; nothing where it is not
            named.
        used: by kind and name of those that are not in force, the last version they had before they were
            removed: it goes on counting when one comes back, so that a version names one text for ever.
        before: by budget of `opening.openings`, the same by day.

    Raises:
        StaleVersion: a document names a version that is not the one in force.
        BudgetExceeded: a hard limit below what is already settled and held.
        InvalidRequest: more documents of a kind than a site may have; a name of SlurmNames in two of them; a
            second Attribution; a reservation of nodes that are not there.
        WrongState: a reservation of nodes that are another's then, or on which something may still run.
    """
    _check_number(state, documents)
    check_names(state, documents)
    check_one_table(state, documents)
    changed, opened = [], list[Event]()
    reserved = dict[str, ReservationSpec]()
    live = by_marks(state)
    for document in documents:
        if in_force(state, document):
            continue
        current = state.policies.get((document.kind, document.name))
        version = current.version if current is not None else 0
        if document.version is not None and document.version != version:
            raise StaleVersion(
                f"{document.source}:{document.line}: {document.kind} {document.name} is at version"
                f" {version}, your document says {document.version}; read it again with"
                f" `bursar policy show {document.name}`, merge, and apply",
                {"version": str(version)},
            )
        _check(state, document, now)
        spec = document.spec
        if isinstance(spec, ReservationSpec):
            spec = reservations.resolved(state, document.name, spec, _where(document), now, reserved)
            reserved[document.name] = spec
        if isinstance(document.spec, BudgetSpec):
            opened += open_account(
                state,
                document,
                document.spec,
                live,
                now,
                spent.get(document.name, 0),
                before.get(document.name, NOTHING),
            )
        effective = document.effective_at if document.effective_at is not None else Instant(now)
        last = max(used.get((document.kind, document.name), 0), _last_priced_version(state, document))
        version = max(version, last) + 1
        changed.append(
            PolicyDocument(document.kind, document.name, version, effective, document.text, spec=spec)
        )
    return [PolicyApplied(tuple(changed)), *opened, *posted(state, opened)] if changed else []


def _check_number(state: State, documents: Sequence[Document]) -> None:
    """Each start of a job asks every budget: their number bounds what one start may cost everybody. What a
    site has already may still be changed.
    """
    fresh = Counter(kind for kind, _ in {(one.kind, one.name) for one in documents} - state.policies.keys())
    for kind, added in sorted(fresh.items()):
        kept = sum(have == kind for have, _ in state.policies)
        if kept + added > OF_A_KIND_MAX:
            raise InvalidRequest(
                f"{kind}: {kept} are in force and {added} would be added, but a site has at most"
                f" {OF_A_KIND_MAX}; remove some first (`bursar policy ls --kind {kind}`, `bursar policy rm"
                f" {kind}/NAME`), or put several into one with a wider scope",
                {"in_force": str(kept), "added": str(added), "max": str(OF_A_KIND_MAX)},
            )


def _last_priced_version(state: State, document: Document) -> int:
    """A price id names one fact for ever: a name that was removed goes on counting when it comes back."""
    return max(
        (
            one.version
            for one in state.priced
            if (one.document.kind, one.document.name) == (document.kind, document.name)
        ),
        default=0,
    )


def _where(document: Document) -> str:
    return f"{document.source}:{document.line}: {document.kind} {document.name}"


def _check(state: State, document: Document, now: int) -> None:
    spec = document.spec
    where = _where(document)
    _check_effective(document, where, now)
    if isinstance(spec, BudgetSpec):
        check_currency(state, spec.limit.currency, f"{where}: limit")
        _check_market(state, spec, where)
        if spec.counts_from > now:
            raise InvalidRequest(
                f"{where}: counts_from {format_instant(spec.counts_from)} has not come yet; apply the budget"
                " then, or leave it out"
            )
    elif isinstance(spec, CostModelSpec):
        check_currency(state, spec.node_capex.currency, where)
    elif isinstance(spec, PriceBookSpec | CommitmentSpec):
        check_currency(state, spec.currency, where)
    elif isinstance(spec, QuotaSpec) and spec.currency:
        check_currency(state, spec.currency, f"{where}: spend_rate")


def _check_market(state: State, spec: BudgetSpec, where: str) -> None:
    """Where nobody sells spot machines, a stage that lets jobs use nothing else would be a stop by another
    name.
    """
    wanted = any("spot-only" in threshold.do for threshold in spec.thresholds)
    if wanted and not any(node.facts.market == SPOT for node in state.nodes.values()):
        raise InvalidRequest(
            f"{where}: spot-only cannot be kept: no node here is of the market spot, so its jobs could run"
            " nowhere; use hold-queue, or apply it once there are such nodes (market of the agent's settings)"
        )


def _check_effective(document: Document, where: str, now: int) -> None:
    at = document.effective_at
    if isinstance(document.spec, AttributionSpec):
        check_since(document, document.spec, where, now)
        return
    if at is None or at == now:
        return
    if at < now:
        raise InvalidRequest(
            f"{where}: effective_at {format_instant(at)} has passed, and the past is never repriced; leave"
            " it out to apply the document from now on"
        )
    if not isinstance(document.spec, Pricing | CommitmentSpec):
        raise NotBuilt(
            f"{where}: effective_at in the future is built for PriceBook, CostModel, Commitment and"
            f" Attribution only; leave it out and apply the {document.kind} when it shall hold"
        )


def remove(state: State, kind: str, name: str) -> list[Event]:
    """Take a document out of force."""
    if (kind, name) not in state.policies:
        raise NotFound(f"there is no {kind} named {name!r}")
    closed = [BudgetClosed(name)] if kind == "Budget" and name in state.budgets.records else []
    return [*closed, PolicyRemoved(kind, name)]


def roll_periods(state: State, now: int) -> list[Event]:
    """Budgets whose period has ended: what is held moves on, before anything new is placed.

    Their period is that of the books: what is charged in a month that is closed already counts behind it, and
    is spent there. A budget in a period that has not begun was taken there by a clock that was ahead, and
    comes back to where the charges are. What its jobs hold comes with them: where that takes it over a hard
    limit, so much of the money of the period in which they began does too.
    A clock that is behind what has been charged takes nothing anywhere.

    Of a period that is come back to, or was charged before it began, the books are asked what its account
    begins with (`opening.reopenings`): the budget may have been applied since, or have counted other jobs.
    """
    events: list[Event] = []
    now = state.closed.open_at(now)
    charged = max((node.through for node in state.nodes.values()), default=0)
    for record in state.due(now):
        start, end = period_bounds(record.spec.period, record.spec.timezone, Instant(now))
        back = start < record.period_start
        if back and charged >= (end or 0):
            continue
        carried = taken_back(state, record, start) if back else carried_over(state, record, start)
        # Each day of a rolling window is entered, also those that passed unseen: what is told late of one of
        # them is to leave the window with it.
        days = entered(record, start) if record.rolling and not back else [start]
        anew = back or state.costs.charged_from(start)
        events += [
            HoldsRolled(record.name, *step, anew=anew and step[1] == start)
            for step in pairwise([record.period_start, *days])
        ]
        events += carried
    return events
