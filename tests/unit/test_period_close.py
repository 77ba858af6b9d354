"""A month that was closed reads the same for ever; what is told of it later counts in the open one."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from money_daemon import BUDGET, COST_MODEL, START, Daemon, in_a_daemon

from bursar.cli.main import run
from bursar.client.fake import FakeServer
from bursar.clock import DAY_US, HOUR_US
from bursar.errors import InvalidRequest, NotFound, WrongState
from bursar.v1 import money_pb2 as pb
from bursard.access.identity import Identity, Role, set_caller
from bursard.audit import problems_of
from bursard.events import PeriodClosed, PeriodSigned, decode, encode
from bursard.replay import restore
from bursard.state import Limits, image
from bursard.state.decide import policies
from bursard.store import ChargeFilter, ChargeRow

DECEMBER = START + 30 * DAY_US - HOUR_US  # 2026-12-01T00:00:00Z
NOVEMBER = ChargeFilter(since=START - HOUR_US, until=DECEMBER)


async def a_month(daemon: Daemon, told_until_us: int = 0) -> str:
    """One node, a job over the end of November; the node last told so long before that, or after it."""
    await daemon.apply(COST_MODEL, BUDGET)
    daemon.node("a")
    first = daemon.submit(project="research/vision")
    daemon.clock.advance(2 * HOUR_US + 123_457)
    daemon.meter()
    daemon.finish(first)
    daemon.clock.advance(DECEMBER - daemon.clock.now() - 2 * HOUR_US)
    daemon.meter()
    job = daemon.submit(project="research/vision")
    daemon.clock.advance(2 * HOUR_US - told_until_us)
    daemon.meter()
    daemon.clock.advance(told_until_us + HOUR_US // 2)
    return job


class Silent:
    """The node's agent is cut off: whoever settles hears nothing of it."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    async def __aenter__(self) -> None:
        async def nothing(whole: bool) -> None:
            pass

        self.daemon.money.settle = nothing

    async def __aexit__(self, *error: object) -> None:
        self.daemon.money.settle = self.daemon.settle


def close(daemon: Daemon, month: str = "2026-11", **how: bool) -> Any:
    return daemon.money.ClosePeriod(pb.ClosePeriodRequest(period=month, **how), None)


async def rows(daemon: Daemon, query: ChargeFilter) -> list[ChargeRow]:
    return list(daemon.store.charges(query, await daemon.engine.books()))


def told(daemon: Daemon) -> list[str]:
    """Every check that there is of the books."""
    found = [*daemon.engine.state.ledger.violations(), *daemon.store.verify()]
    with daemon.store.picture() as picture:
        return found + problems_of(picture, Limits())


def test_a_closed_month_is_signed_as_the_sum_of_its_rows_with_the_hash_of_the_log() -> None:
    async def story(daemon: Daemon) -> None:
        await a_month(daemon)
        found = await close(daemon)
        assert (found.period, found.state, found.closed_by, list(found.missing)) == (
            "2026-11",
            "closed",
            "ann",
            [],
        )
        kept = list(daemon.store.charges(NOVEMBER))
        assert found.charges == len(kept)
        assert {one.kind: one.nanos for one in found.totals} == {
            kind: sum(row.nanos for row in kept if row.kind == kind) for kind in {row.kind for row in kept}
        }
        assert found.total_nanos == sum(row.nanos for row in kept) > 0
        assert found.hash == daemon.store.event_hash(found.closed_by_event) != ""
        event = decode(daemon.store.events(found.closed_by_event - 1, 1)[0].payload)
        assert event == PeriodClosed(name="2026-11", since=START - HOUR_US, until=DECEMBER, by="ann")
        assert await close(daemon) == found  # said twice, nothing more
        assert told(daemon) == []
        # An image, and the log alone, know as much.
        state = daemon.engine.state
        assert image.decode(image.encode(state, 0)).closed.all == state.closed.all
        assert restore(daemon.store, state.limits).closed.all == state.closed.all

    in_a_daemon(story)


def test_what_a_silent_node_tells_after_the_close_counts_in_the_open_month_and_in_its_budget() -> None:
    async def story(daemon: Daemon) -> None:
        job = await a_month(daemon, told_until_us=HOUR_US + 7)
        async with Silent(daemon):
            with pytest.raises(
                WrongState, match=r"2026-11 cannot be closed yet: node a has told its usage up to"
            ):
                await close(daemon)
            would = await close(daemon, force=True, dry_run=True)
            assert (would.state, len(would.missing)) == ("open", 1)
            found = await close(daemon, force=True)
            assert found.state == "closed"
            assert list(found.missing) == list(would.missing)
            assert "node a has told its usage up to 2026-11-30T22:59:59" in found.missing[0]
        before = list(daemon.store.charges(NOVEMBER))
        state = daemon.engine.state
        daemon.engine.commit(policies.roll_periods(state, daemon.clock.now()), "bursard")
        daemon.finish(job)
        daemon.meter()
        assert list(daemon.store.charges(NOVEMBER)) == before
        late = [row for row in await rows(daemon, ChargeFilter(since=DECEMBER)) if row.told_late]
        assert {row.kind for row in late} >= {"usage", "idle"}
        booked = daemon.clock.now()
        for row in late:
            assert (row.start_at, row.end_at, row.corrects) == (booked, booked, found.closed_by_event)
            assert DECEMBER - HOUR_US - 7 <= row.for_start < row.for_end <= DECEMBER
        assert sum(row.held_us for row in late if row.kind == "usage") == HOUR_US + 7
        # Nothing is lost: all that the node cost is in one of the two months.
        node = next(iter(daemon.engine.state.nodes.values()))
        everything = sum(row.nanos for row in await rows(daemon, ChargeFilter()))
        rates = (node.cost_rates.gpu, node.cost_rates.cpu, node.cost_rates.memory)
        assert everything == sum(rate * (node.through - node.axis_start) // HOUR_US for rate in rates)
        # B5: what the budget of December has settled is what the month cost its scope.
        (budget,) = (await daemon.money.Budgets(pb.BudgetsRequest(name="vision"), None)).budgets
        december = await daemon.money.Cost(pb.CostRequest(period="2026-12", project="research"), None)
        assert (budget.period_start, budget.settled_nanos) == (DECEMBER, december.total.nanos)
        of_jobs = [
            row.nanos for row in await rows(daemon, ChargeFilter(since=DECEMBER)) if row.kind == "usage"
        ]
        assert (
            sum(of_jobs) == december.total.nanos > sum(row.nanos for row in late if row.kind == "usage") > 0
        )
        assert told(daemon) == []
        shown = await daemon.money.Periods(pb.PeriodsRequest(period="2026-11"), None)
        assert list(shown.periods) == [found]

    in_a_daemon(story)


def test_statements_say_whether_they_can_change_and_both_months_tie_with_the_facts() -> None:
    async def story(daemon: Daemon) -> None:
        job = await a_month(daemon, told_until_us=HOUR_US)

        async def page(month: str, form: str = "json") -> Any:
            request = pb.ReportRequest(kind="statement", period=month, format=form)
            data = b"".join([chunk.data async for chunk in daemon.money.Report(request, None)]).decode()
            return json.loads(data) if form == "json" else data

        async with Silent(daemon):
            assert (await page("2026-11"))["status"] == "provisional"
            found = await close(daemon, force=True, month="last-month")
            closed = await page("2026-11")
        assert (closed["status"], closed["closed_by"], closed["ledger_hash"]) == ("closed", "ann", found.hash)
        assert closed["missing"] == list(found.missing)
        daemon.finish(job)
        daemon.meter()
        for month in ("2026-11", "2026-12"):
            assert (await page(month))["difference"]["amount"] == "0.000000000"
        after = await page("2026-11")
        assert after["node_cost"] == closed["node_cost"]
        december = await page("2026-12")
        (one,) = [one for one in december["adjusted"] if one["kind"] == "late"]
        assert (one["month"], one["project"], one["cost"]) == ("2026-11", "research/vision", december["late"])
        assert Decimal(december["late"]["amount"]) > 0
        text = await page("2026-11", "text")
        assert text.startswith("Statement 2026-11, in USD, days of UTC: closed 2026-12-01T00:30:00Z by ann\n")
        assert f"Ledger hash {found.hash} of event {found.closed_by_event}." in text
        assert "Closed in spite of: node a has told" in text
        assert (await page("2026-12", "text")).startswith(
            "Statement 2026-12, in USD, days of UTC: provisional\n"
        )
        lines = list(csv.DictReader(io.StringIO(await page("2026-11", "csv"))))
        assert lines[0]["line"] == "status"
        assert lines[0]["about"].startswith("closed 2026-12-01T00:30:00Z by ann; Ledger hash")

    in_a_daemon(story)


def test_focus_calls_what_was_told_late_a_correction_with_what_was_used_and_at_which_price() -> None:
    async def story(daemon: Daemon) -> None:
        job = await a_month(daemon, told_until_us=HOUR_US)
        async with Silent(daemon):
            await close(daemon, force=True)
        daemon.finish(job)
        request = pb.ReportRequest(kind="focus", period="2026-12")
        data = b"".join([chunk.data async for chunk in daemon.money.Report(request, None)]).decode()
        lines = list(csv.DictReader(io.StringIO(data)))
        (used,) = [one for one in lines if one["ChargeClass"] and one["x_JobId"]]
        assert (used["ChargeClass"], used["ChargeCategory"], used["x_Late"]) == (
            "Correction",
            "Usage",
            "true",
        )
        assert used["BillingPeriodStart"] == "2026-12-01T00:00:00Z"
        assert used["ChargePeriodStart"] == "2026-11-30T23:00:00Z"
        assert used["ChargePeriodEnd"] == "2026-12-01T00:00:00Z"
        assert Decimal(used["PricingQuantity"]) == 1
        assert Decimal(used["ListUnitPrice"]) > 0
        total = sum(Decimal(one["BilledCost"]) for one in lines)
        cost = await daemon.money.Cost(pb.CostRequest(period="2026-12", include_idle=True), None)
        assert total * 10**9 == cost.total.nanos

    in_a_daemon(story)


def test_months_are_closed_in_their_order_once_they_ended_by_who_may() -> None:
    async def story(daemon: Daemon) -> None:
        await a_month(daemon)
        daemon.clock.advance(DAY_US)
        daemon.meter()
        with pytest.raises(WrongState, match=r"2026-12 has not ended: it can be closed from 2027-01-01"):
            await close(daemon, "2026-12", force=True)
        with pytest.raises(
            InvalidRequest, match=r"period: '2026-Q4' is no month; the books are closed by months"
        ):
            await close(daemon, "2026-Q4")
        with pytest.raises(NotFound, match=r"nothing of 2026-09"):
            await daemon.money.Periods(pb.PeriodsRequest(period="2026-09"), None)
        daemon.clock.advance(DECEMBER + 31 * DAY_US - daemon.clock.now() + HOUR_US)
        daemon.meter()
        with pytest.raises(
            WrongState, match=r"2026-11 is open and has charges: months are closed in their order"
        ):
            await close(daemon, "2026-12", force=True)
        await close(daemon, "2026-11", force=True)
        with pytest.raises(WrongState, match=r"2026-10 is before 2026-11, which is closed"):
            await close(daemon, "2026-10")
        listed = await daemon.money.Periods(pb.PeriodsRequest(), None)
        assert [(one.period, one.state) for one in listed.periods] == [
            ("2026-11", "closed"), ("2026-12", "open"), ("2027-01", "open"),
        ]  # fmt: skip
        set_caller(Identity("bob", Role.OPERATOR))
        with pytest.raises(Exception, match=r"bob .* may not close months of the books"):
            await close(daemon, "2026-12")

    in_a_daemon(story)


def test_time_without_a_price_is_named_before_a_month_is_closed() -> None:
    async def story(daemon: Daemon) -> None:
        daemon.node("u", pool="elsewhere")
        daemon.clock.advance(DECEMBER - daemon.clock.now() + HOUR_US)
        daemon.meter()
        with pytest.raises(WrongState, match=r"719\.000 hours of shares and nodes have no known price"):
            await close(daemon)
        assert (await close(daemon, force=True)).missing == [
            "719.000 hours of shares and nodes have no known price"
        ]

    in_a_daemon(story)


def test_a_close_that_was_not_signed_is_signed_by_closing_again() -> None:
    async def story(daemon: Daemon) -> None:
        await a_month(daemon)
        daemon.engine.commit(
            [PeriodClosed(name="2026-11", since=START - HOUR_US, until=DECEMBER, by="ann")], "ann"
        )
        (one,) = (await daemon.money.Periods(pb.PeriodsRequest(period="2026-11"), None)).periods
        assert (one.state, one.hash) == ("closing", "")
        found = await close(daemon)
        assert (found.state, len(found.hash)) == ("closed", 64)
        assert told(daemon) == []

    in_a_daemon(story)


def test_a_correction_is_never_booked_into_a_closed_month_whatever_the_clock_says() -> None:
    async def story(daemon: Daemon) -> None:
        job = await a_month(daemon)
        daemon.finish(job)
        await close(daemon)
        daemon.clock.step_wall(-5 * DAY_US)
        request = pb.CorrectRequest(job=job, to_ppm=500_000, reason="throttled")
        found = await daemon.money.Correct(request, None)
        assert found.booked_at == DECEMBER
        assert told(daemon) == []

    in_a_daemon(story)


@pytest.mark.parametrize(
    ("changed", "finding"),
    [
        ({"charges": 1}, r"there are \d+ charges, not the 1 that were signed"),
        ({"totals": (("usage", 5),)}, r"usage is \d+ nanos, not the 5 that were signed"),
        ({"hash": "00"}, r"the log up to event \d+ has another hash than was signed"),
        ({"of": 3}, r"event 3 closed no such month"),
    ],
)
def test_an_audit_finds_a_month_that_is_not_what_was_signed_off(
    changed: dict[str, Any], finding: str
) -> None:
    async def story(daemon: Daemon) -> None:
        await a_month(daemon)
        found = await close(daemon)
        totals = tuple((one.kind, one.nanos) for one in found.totals)
        said = {"of": found.closed_by_event, "hash": found.hash, "totals": totals, "charges": found.charges}
        daemon.engine.commit([PeriodSigned(name="2026-11", **{**said, **changed})], "ann")
        await daemon.engine.durable()
        assert any(re.search(finding, one) for one in told(daemon))

    in_a_daemon(story)


def test_events_of_periods_are_read_as_they_were_written() -> None:
    for event in (
        PeriodClosed(name="2026-10", since=1, until=2, by="ann", missing=("node a",)),
        PeriodSigned(name="2026-10", of=7, hash="ab", totals=(("usage", 10**30),), charges=3),
    ):
        assert decode(encode(event)) == event


# ------------------------------------------------------------------ typed


@pytest.fixture
def fake(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with FakeServer(tmp_path / "run") as server:
        monkeypatch.setenv("BURSAR_SERVER", server.url)
        yield server


def test_what_is_typed_closes_a_month_and_shows_what_it_was_signed_as(fake: Any, capsys: Any) -> None:
    month = pb.BookPeriod(
        period="2026-10", since=START, until=DECEMBER, state="closed", closed_at=DECEMBER, closed_by="ann",
        closed_by_event=7, hash="ab" * 32, missing=["node a has told nothing"], currency="USD", charges=3,
        totals=[pb.KindTotal(kind="idle", nanos=10**9), pb.KindTotal(kind="usage", nanos=4 * 10**9)],
        total_nanos=5 * 10**9,
    )  # fmt: skip
    fake.answers["Money/ClosePeriod"] = month
    fake.answers["Money/Periods"] = pb.PeriodsResponse(periods=[month])
    assert run(["period", "close", "2026-10", "--force"]) == 0
    [request] = fake.calls("Money/ClosePeriod")
    assert (request.period, request.force, request.dry_run) == ("2026-10", True, False)
    assert capsys.readouterr().out.splitlines() == [
        "period    2026-10, of UTC",
        "state     closed",
        "closed    2026-12-01 00:00:00Z by ann",
        f"hash      {'ab' * 32}  (of the log up to event 7)",
        "missing   node a has told nothing",
        "idle      1.00 USD",
        "usage     4.00 USD",
        "total     5.00 USD in 3 charges",
    ]
    assert run(["period", "show", "2026-10", "-o", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["totals"]["usage"]["amount"]) == ("closed", "4.000000000")
    assert run(["period", "ls", "-o", "csv"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith("2026-10,closed,5.000000000,3,2026-12-01T00:00:00Z,ann,")
