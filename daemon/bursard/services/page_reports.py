"""Reports that are one table: what each needs of the state, taken on the loop's thread, and how it is made.

Why     the state changes under the hands of whoever reads it in a thread: what a report needs of it is copied
        before, and the rest is asked of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from msgspec.structs import replace

from bursar.errors import InvalidRequest
from bursar.wholehours import within_hours
from bursar_policies.attribution import Attributions
from bursar_policies.commitments import Promise
from bursard.engine import Engine
from bursard.reports.anomalies import anomalies
from bursard.reports.bills import bills
from bursard.reports.budget_page import Limits, budget_page
from bursard.reports.carbon import Carbon
from bursard.reports.chargeback import chargeback, whole_months
from bursard.reports.commitments import Commitments, commitments
from bursard.reports.energy import energy, live_sources, read_energy_by
from bursard.reports.machines import idle, utilization
from bursard.reports.models import models, work_of
from bursard.reports.pages import Page
from bursard.reports.period import Period
from bursard.reports.quota_page import quota_page
from bursard.reports.waste import fate_of, waste
from bursard.state import JobRecord
from bursard.store import Unposted
from bursard.turns import breathe

MakePage = Callable[[Unposted], Page]


class Past(NamedTuple):
    """What is looked for before a report is made, as far as it needs it: documents that are in force no more,
    which only the log has, and `tried`, the jobs in memory that have attempts.
    """

    limits: Limits = MappingProxyType({})
    promises: tuple[Promise, ...] = ()
    tables: Attributions = Attributions()
    tried: Sequence[JobRecord] = ()


OF_TRIED: Final = ("energy", "focus", "models", "waste")
"""Reports that need to know what jobs in memory have done."""
_AT_ONCE: Final = 5_000


async def tried(engine: Engine) -> list[JobRecord]:
    """Jobs in memory that have attempts. Most of many wait; between some of them others have their turn."""
    jobs, found = list(engine.state.jobs.values()), list[JobRecord]()
    for start in range(0, len(jobs), _AT_ONCE):
        found += [job for job in jobs[start : start + _AT_ONCE] if job.attempts]
        await breathe()
    return found


def page_maker(
    page: MakePage, form: Callable[[Page], Iterator[bytes]]
) -> Callable[[Unposted], Iterator[bytes]]:
    """What makes the file of a page, in a form."""

    def make(unposted: Unposted) -> Iterator[bytes]:
        yield from form(page(unposted))

    return make


def _stamped(engine: Engine, period: Period, page: MakePage) -> MakePage:
    """With by which close nothing of it changes any more."""
    closed = next((one for one in engine.state.closed.all if period.until <= one.until), None)

    notes = within_hours(period.since, period.until, period.timezone)

    def stamped(unposted: Unposted) -> Page:
        made = page(unposted)
        return replace(made, closed=closed, notes=(*made.notes, *notes))

    return stamped


def _waste(engine: Engine, period: Period, project: str, past: Past) -> MakePage:
    views, currency = engine.views, engine.state.currency
    live = {attempt.id: fate_of(attempt) for job in past.tried for attempt in job.attempts}
    return _stamped(engine, period, lambda unposted: waste(views, period, currency, unposted, project, live))


def _idle(engine: Engine, period: Period, project: str, _: Past) -> MakePage:
    _of_no_project("idle", project)
    views, currency = engine.views, engine.state.currency
    return _stamped(engine, period, lambda unposted: idle(views, period, currency, unposted))


def _utilization(engine: Engine, period: Period, project: str, _: Past) -> MakePage:
    _of_no_project("utilization", project)
    views, currency = engine.views, engine.state.currency
    return _stamped(engine, period, lambda unposted: utilization(views, period, currency, unposted))


def _budgets(engine: Engine, period: Period, project: str, past: Past) -> MakePage:
    found = budget_page(engine.state, period, engine.now(), project, past.limits)
    return lambda unposted: found


def _quotas(engine: Engine, period: Period, project: str, _: Past) -> MakePage:
    found = quota_page(engine.state, period, project)
    return lambda unposted: found


def _models(engine: Engine, period: Period, project: str, past: Past) -> MakePage:
    views, currency = engine.views, engine.state.currency
    known = engine.state.jobs
    arrays = {job.parent_id: known[job.parent_id] for job in past.tried if job.parent_id in known}
    live = {job.id: work_of(job) for job in (*past.tried, *arrays.values())}
    return _stamped(engine, period, lambda unposted: models(views, period, currency, unposted, project, live))


def _commitments(engine: Engine, period: Period, project: str, past: Past) -> MakePage:
    _of_no_project("commitments", project)
    views, currency = engine.views, engine.state.currency
    about = Commitments(past.promises, engine.prices, engine.now())
    return _stamped(engine, period, lambda unposted: commitments(views, period, currency, unposted, about))


def _chargeback(engine: Engine, period: Period, project: str, past: Past) -> MakePage:
    if project:
        raise InvalidRequest(
            "project: what is shared is divided among all, so chargeback is of the whole site"
        )
    whole_months(period)
    views, currency, tables = engine.views, engine.state.currency, past.tables
    return _stamped(engine, period, lambda unposted: chargeback(views, period, currency, unposted, tables))


def _bills(engine: Engine, period: Period, project: str, _: Past) -> MakePage:
    _of_no_project("bills", project)
    _of_utc(period, "bills are kept by days and months of UTC, as providers have them")
    views, currency = engine.views, engine.state.currency
    return lambda unposted: bills(views, period, currency, unposted.seq)


def _of_utc(period: Period, why: str) -> None:
    """Raises `InvalidRequest` for days of another place."""
    if period.timezone != "UTC":
        raise InvalidRequest(f"timezone: {why}; leave out {period.timezone}")


def _of_no_project(kind: str, project: str) -> None:
    if project:
        raise InvalidRequest(f"project: nodes are of no project, so {kind} is of the whole site")


def _anomalies(engine: Engine, period: Period, project: str, _: Past) -> MakePage:
    _of_utc(period, "the days that anomalies are looked for in are of UTC")
    views, currency = engine.views, engine.state.currency
    return _stamped(engine, period, lambda unposted: anomalies(views, period, currency, unposted, project))


def energy_page(engine: Engine, period: Period, project: str, by: str, past: Past) -> MakePage:
    """Energy and CO2e by what is asked for. Raises `InvalidRequest`."""
    names = read_energy_by(by)
    _of_utc(period, "the months of energy are of UTC, as those of focus")
    views, currency, prices = engine.views, engine.state.currency, engine.prices
    live = live_sources(past.tried)

    def make(unposted: Unposted) -> Page:
        told = Carbon(views, prices)
        return energy(views, period, currency, unposted, project, names, live, told.of, told.price_of)

    return _stamped(engine, period, make)


REPORTS: Final[Mapping[str, Callable[[Engine, Period, str, Past], MakePage]]] = {
    "anomalies": _anomalies,
    "bills": _bills,
    "budgets": _budgets,
    "chargeback": _chargeback,
    "commitments": _commitments,
    "idle": _idle,
    "models": _models,
    "quotas": _quotas,
    "utilization": _utilization,
    "waste": _waste,
}
