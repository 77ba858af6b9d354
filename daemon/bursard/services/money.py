"""The Money service: cost, budgets, prices and reports.

Why     totals include running work and everything acknowledged: live agents meter first, and the store
        is read once all events so far are in it. Reads and files are made in threads, so that a large
        report never holds up scheduling.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from itertools import chain

from msgspec.structs import replace

from bursar.errors import InvalidRequest
from bursar.v1 import money_pb2 as pb
from bursar.v1 import money_pb2_grpc
from bursar_policies.attribution import OWNED, Attributions
from bursar_policies.commitments import purchases
from bursar_policies.specs import CostModelSpec
from bursard.access.authorize import Action, authorize, projects
from bursard.engine import Engine
from bursard.ledger import PAID
from bursard.machines.renting import Renting
from bursard.reports.attribution import Owners, reattributed
from bursard.reports.budget_page import budget_page
from bursard.reports.carbon import Carbon
from bursard.reports.commitments import Commitments, covered
from bursard.reports.cost import cost_table
from bursard.reports.energy import Sourced, live_sources
from bursard.reports.files import FORMATS as FOCUS_FORMATS
from bursard.reports.focus import Coverage, FocusContext, focus_lines
from bursard.reports.focus_columns import DEFAULT_VERSION, focus_columns
from bursard.reports.focus_moves import moved_lines
from bursard.reports.pages import FORMATS as PAGE_FORMATS
from bursard.reports.period import Period, find_period, month_of
from bursard.reports.serving import SERVICE, service_table
from bursard.reports.statement import read_by, statement
from bursard.reports.statement_forms import FORMATS as STATEMENT_FORMATS
from bursard.services.asked_cost import called, cost_answer, read_cost
from bursard.services.bills import Bills
from bursard.services.budgets import approve, budgets, grant, history, past_limits, transfer
from bursard.services.corrections import correct
from bursard.services.explain_price import explanation, sold, subjects
from bursard.services.kinds import refuse_unknown_kinds
from bursard.services.known import refuse_unknown_project
from bursard.services.lookup import find_job
from bursard.services.offers import offers_for
from bursard.services.page_reports import OF_TRIED, REPORTS, Past, energy_page, page_maker, tried
from bursard.services.periods import book_periods, close_period
from bursard.services.policies import past_commitments
from bursard.services.prices import answer_prices, read_gpus
from bursard.services.pushback import after_room
from bursard.services.serviceviews import service_named, service_target
from bursard.services.whatif import whatif_page
from bursard.services.whose import past_attributions
from bursard.state.decide.outlooks import Outlooks
from bursard.store import ChargeFilter, ChargeRow, Dim, Unposted

log = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024
ROWS_MAX = 5_000
"""Of one cost answer: more than a message of 1 MB holds, and than anybody reads."""
WHATIF = "whatif"
ENERGY = "energy"
_ENDINGS = {"text": "txt"}

Maker = Callable[[Unposted], Iterator[bytes]]
"""Makes a file from the rows and the open hours of one moment."""

Settle = Callable[[bool], Awaitable[None]]


class MoneyService(money_pb2_grpc.MoneyServicer):
    """Answers what finance asks. `settle(whole)` sees to it that what was used is charged; `whole`: and what
    was idle. `unheard`: what silent nodes cost meanwhile, which is in no book until they tell. `rents`: who
    rents machines.
    """

    def __init__(
        self,
        engine: Engine,
        settle: Settle,
        unheard: Callable[[], Sequence[ChargeRow]] = tuple,
        rents: Callable[[], Renting | None] = lambda: None,
    ) -> None:
        self.engine = engine
        self.settle = settle
        self.unheard = unheard
        self.rents = rents
        self.outlooks = Outlooks(engine.state)
        self.bills = Bills(engine)

    async def Cost(self, request: pb.CostRequest, context: object) -> pb.CostResponse:
        """Cost grouped by dimensions; the rows sum to the total."""
        engine = self.engine
        asked = read_cost(request, engine.now())
        if request.include_idle:
            authorize(Action.SEE_BOOKS)
        query = await self._cost_filter(request, asked.stretch)
        then = asked.before
        before = replace(query, since=then.since, until=then.until) if then is not None else None
        unposted = await self._settled(request.include_idle)
        by, shape = tuple(request.by), asked.shape
        if set(by) & set(SERVICE):
            if request.compare or request.top or request.depth:
                raise InvalidRequest("by: services are neither compared nor cut; no compare, top or depth")
            of = partial(service_named, engine), partial(service_target, engine)
            found = await engine.aside(partial(service_table, engine.views, by, query, unposted, *of))
            return cost_answer(found, asked, engine.state.currency)
        tables = await self._tables() if set(by) & set(OWNED) else None
        made = partial(cost_table, engine.views, by, query, unposted, shape, before, tables)
        found = await engine.aside(made)
        if len(found.rows) > ROWS_MAX:
            raise InvalidRequest(
                f"the answer has {len(found.rows)} rows, more than {ROWS_MAX}; ask for a shorter time,"
                " fewer dimensions or the first rows alone, or use `bursar report focus`"
            )
        if "job" not in by:
            return cost_answer(found, asked, engine.state.currency)
        at = by.index("job")
        ids = {str(row.keys[at]) for row in found.rows}
        known = ((job_id, engine.state.jobs.get(job_id)) for job_id in ids)
        live = {job_id: f"{job.display} {job.spec.name}".rstrip() for job_id, job in known if job is not None}
        names = await engine.read(lambda views: called(views, ids, live))
        return cost_answer(found, asked, engine.state.currency, names, at)

    async def Budgets(self, request: pb.BudgetsRequest, context: object) -> pb.BudgetsResponse:
        """One budget, or all, in their current periods."""
        if request.history and request.forecast:
            raise InvalidRequest("history, forecast: ask for one of them", {"field": "forecast"})
        if request.history:
            return await history(self.engine, request.name)
        return await budgets(self.engine, request.name, self.outlooks if request.forecast else None)

    @after_room
    async def GrantBudget(self, request: pb.GrantBudgetRequest, context: object) -> pb.BudgetPostingResponse:
        """Give a budget more in its period."""
        return await grant(self.engine, request)

    @after_room
    async def ApproveBudget(
        self, request: pb.ApproveBudgetRequest, context: object
    ) -> pb.BudgetPostingResponse:
        """Let jobs start that a threshold of a budget keeps waiting for an approval."""
        return await approve(self.engine, request)

    @after_room
    async def TransferBudget(
        self, request: pb.TransferBudgetRequest, context: object
    ) -> pb.BudgetPostingResponse:
        """Let one budget have what another one gives."""
        return await transfer(self.engine, request)

    async def Prices(self, request: pb.PricesRequest, context: object) -> pb.PricesResponse:
        """Prices in force, their history, or machines for a number of GPUs or for a job."""
        engine = self.engine
        if request.job:
            job = await find_job(engine, request.job)
            return await offers_for(engine, self.rents(), job, request)
        table, now = engine.prices, engine.now()
        if request.gpus and not request.history:
            refuse_unknown_kinds(engine, read_gpus(request.gpus)[0])
        facts = tuple(node.facts for node in engine.state.nodes.values())
        return await engine.aside(partial(answer_prices, table, facts, now, request))

    async def ExplainPrice(self, request: pb.ExplainPriceRequest, context: object) -> pb.ExplainPriceResponse:
        """Every part of a price, and what the hours sold this month would have to cost."""
        authorize(Action.SEE_BOOKS)
        engine, now = self.engine, self.engine.now()
        nodes = tuple(node.facts for node in engine.state.nodes.values())
        models = [
            one.spec
            for (kind, name), one in engine.state.policies.items()
            if kind == "CostModel" and name == request.name and isinstance(one.spec, CostModelSpec)
        ]
        found = subjects(engine.prices, nodes, now, models, request.name)
        since, _ = month_of(now)
        unposted = await self._settled(True)
        sums: dict[str, Fraction | None] = {"": None}
        for pool in {one.pool for one in found} - {""}:
            query = ChargeFilter(since=since, pool=pool)
            table = partial(cost_table, engine.views, [Dim.KIND], query, unposted)
            sums[pool] = sold(await engine.aside(table))
        return pb.ExplainPriceResponse(
            explanations=[explanation(one, sums[one.pool]) for one in found], since=since
        )

    @after_room
    async def Correct(self, request: pb.CorrectRequest, context: object) -> pb.CorrectResponse:
        """Correct what an ended job was charged."""
        return await correct(self.engine, request)

    @after_room
    async def ClosePeriod(self, request: pb.ClosePeriodRequest, context: object) -> pb.BookPeriod:
        """Close a month of the books, and sign it."""
        return await close_period(self.engine, self._settled, request)

    @after_room
    async def KeepBill(self, request: pb.KeepBillRequest, context: object) -> pb.KeepBillResponse:
        """Keep a part of a provider's bill beside what the books said."""
        return await self.bills.keep(request)

    async def Periods(self, request: pb.PeriodsRequest, context: object) -> pb.PeriodsResponse:
        """Months of the books."""
        return pb.PeriodsResponse(periods=await book_periods(self.engine, self._settled, request.period))

    async def Report(self, request: pb.ReportRequest, context: object) -> AsyncIterator[pb.ReportChunk]:
        """A report as one file, in chunks."""
        authorize(Action.SEE_BOOKS, request.project)
        period = find_period(request.period, self.engine.now(), request.timezone)
        if request.kind in ("focus", "statement"):
            _within_a_month(period, request.kind)
        past = Past()
        if request.kind in ("budgets", "statement"):
            past = Past(limits=await self.engine.read(past_limits))
        if request.kind in ("statement", "chargeback"):
            past = past._replace(tables=await self._tables())
        if request.kind in ("commitments", "focus"):
            await self.engine.durable()
            months = tuple(self.engine.state.closed.all)
            past = Past(promises=await self.engine.read(partial(past_commitments, months)))
        if request.kind == "focus":
            past = past._replace(tables=await self._tables())
        if request.kind in OF_TRIED:
            past = past._replace(tried=await tried(self.engine))
        make, name = self._maker(request, period, past)
        await refuse_unknown_project(self.engine, request.project, Action.SEE_BOOKS)
        pieces = partial(make, await self._settled(True))
        first = True
        async for piece in in_one_thread(self.engine, pieces):
            for start in range(0, len(piece), CHUNK_BYTES):
                part = piece[start : start + CHUNK_BYTES]
                yield pb.ReportChunk(data=part, file_name=name if first else "")
                first = False

    # --- inside

    async def _tables(self) -> Attributions:
        """Whose costs are when, as of all that was acknowledged."""
        await self.engine.durable()
        months = tuple(self.engine.state.closed.all)
        return await self.engine.read(partial(past_attributions, months))

    async def _settled(self, whole: bool) -> Unposted:
        """Everything used so far is charged; what reports add to the rows."""
        await self.settle(whole)
        books = await self.engine.books()
        return books._replace(rows=(*books.rows, *self.unheard())) if whole else books

    async def _cost_filter(self, request: pb.CostRequest, stretch: Period) -> ChargeFilter:
        number, ids = 0, tuple[str, ...]()
        if request.job:
            job = await find_job(self.engine, request.job)
            # By number, which all tasks of an array share; one task by its id among them.
            number, ids = job.number, (job.id,) if job.parent_id else ()
        return ChargeFilter(
            since=stretch.since,
            until=stretch.until,
            kinds=() if request.include_idle else PAID,
            job_number=number,
            job_ids=ids,
            project=request.project,
            within=projects(Action.SEE_COST),
            user=request.user,
            experiment=request.experiment,
            model=request.model,
        )

    def _maker(self, request: pb.ReportRequest, period: Period, past: Past) -> tuple[Maker, str]:
        """What makes the file, and its name. Faults of the request are raised here, before any work."""
        kind, stem = request.kind, f"{request.kind}-{period.text}"
        if kind != WHATIF and request.sources:
            raise InvalidRequest("sources: are of whatif alone")
        if kind not in (WHATIF, ENERGY, "statement") and request.by:
            raise InvalidRequest("by: is of energy, statement and whatif alone")
        if kind == "focus":
            form = request.format or "csv"
            version = request.focus_version or DEFAULT_VERSION
            focus_columns(version)
            _known(form, FOCUS_FORMATS, kind)
            return self._focus(period, form, version, request.project, past), f"{stem}-v{version}.{form}"
        if kind == "statement":
            form = request.format or "text"
            _known(form, STATEMENT_FORMATS, kind)
            by = read_by(request.by)
            made = self._statement(period, form, request.project, by, past)
            return made, f"{stem}.{_ENDINGS.get(form, form)}"
        if kind in REPORTS or kind in (ENERGY, WHATIF):
            form = request.format or "text"
            _known(form, PAGE_FORMATS, kind)
            if kind == WHATIF:
                page = whatif_page(self.engine, request, period)
            elif kind == ENERGY:
                page = energy_page(self.engine, period, request.project, request.by, past)
            else:
                page = REPORTS[kind](self.engine, period, request.project, past)
            return page_maker(page, PAGE_FORMATS[form]), f"{stem}.{_ENDINGS.get(form, form)}"
        known = ", ".join(("focus", "statement", *sorted((*REPORTS, ENERGY)), WHATIF))
        raise InvalidRequest(f"kind: there is no report {kind[:40]!r}; known: {known}")

    def _focus(self, period: Period, form: str, version: str, project: str, past: Past) -> Maker:
        state, views = self.engine.state, self.engine.views
        query = ChargeFilter(since=period.since, until=period.until, project=project)

        def make(unposted: Unposted) -> Iterator[bytes]:
            coverage, told = Coverage(), about
            if mine:
                covers = covered(views, period, unposted, promised)
                told = replace(
                    about,
                    covered=covers.hours,
                    promises={one.key: one for one in mine},
                    purchases=() if project else tuple(purchases(mine, hours.start, hours.stop)),
                    unused=not project,
                )
            moves = reattributed(views, query, unposted, past.tables)
            charged = focus_lines(views.charges(query, unposted), told, coverage)
            lines = chain(charged, moved_lines(moves, told))
            yield from FOCUS_FORMATS[form](lines, focus_columns(version), bool(mine))
            facts = {"rows": coverage.rows, "held_us": coverage.held_us, "unknown_us": coverage.unknown_us}
            log.info("focus report written", extra={"period": period.text, **facts})

        promised = Commitments(past.promises, self.engine.prices, self.engine.now())
        mine, hours = promised.within(period)
        prices = self.engine.prices
        # On the loop's thread: what a node is does not change under the writer's hands.
        about = FocusContext(
            cluster_id=state.cluster_id,
            provider=f"Bursar {state.cluster_id}",
            currency=state.currency,
            nodes={node.id: node.facts for node in state.nodes.values()},
            carbon=Carbon(views, prices).of,
            energy_source=Sourced(views, live_sources(past.tried)).of,
            owner=Owners(past.tables).of,
        )
        return make

    def _statement(self, period: Period, form: str, project: str, by: tuple[str, ...], past: Past) -> Maker:
        views, state = self.engine.views, self.engine.state
        currency, closed = state.currency, tuple(state.closed.all)
        budgets = budget_page(state, period, self.engine.now(), project, past.limits)

        def make(unposted: Unposted) -> Iterator[bytes]:
            found = statement(views, period, currency, unposted, project, closed, by, budgets, past.tables)
            yield from STATEMENT_FORMATS[form](found)

        return make


def _within_a_month(period: Period, kind: str) -> None:
    """What is late, corrected or closed is told of months of UTC. Raises `InvalidRequest`."""
    if period.timezone != "UTC":
        raise InvalidRequest(f"timezone: the months of {kind} are of UTC, as those that are closed are")
    if period.until > month_of(period.since)[1]:
        raise InvalidRequest(
            f"period: {kind} is of a month or a day such as 2026-11, and {period.text} is longer"
        )


def _known(form: str, formats: object, kind: str) -> None:
    names = tuple(formats) if isinstance(formats, dict) else ()
    if form not in names:
        raise InvalidRequest(f"format: {form[:40]!r} is not written for {kind}; known: {', '.join(names)}")


async def in_one_thread(engine: Engine, make: Callable[[], Iterator[bytes]]) -> AsyncIterator[bytes]:
    """Run a generator in a thread of its own, a piece at a time, each in its caller's turn: a slow reader
    stops it, not the loop.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="bursard-report")
    pieces: Iterator[bytes] | None = None
    try:
        pieces = await engine.aside(make, pool)
        while (piece := await engine.aside(partial(_next, pieces), pool)) is not None:
            yield piece
    finally:
        # When the caller goes away: the generator lets go of its cursor and file, in its own thread.
        if close := getattr(pieces, "close", None):
            pool.submit(close)
        pool.shutdown(wait=False)


def _next(pieces: Iterator[bytes]) -> bytes | None:
    # The interpreter's lock is let go here, so that the loop runs between two pieces.
    time.sleep(0)
    return next(pieces, None)
