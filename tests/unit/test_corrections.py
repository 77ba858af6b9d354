"""Corrections: reversed and posted anew where the books are open, told apart everywhere, never doubled."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from money_daemon import ANN, BUDGET, COST_MODEL, START, Daemon, in_a_daemon

from bursar.clock import HOUR_US
from bursar.errors import (
    BudgetExceeded,
    BursarError,
    Forbidden,
    InvalidRequest,
    NotFound,
    WrongState,
)
from bursar.model import ArraySpec
from bursar.v1 import money_pb2 as pb
from bursard.access.identity import Identity, Role, set_caller
from bursard.audit import problems_of
from bursard.events import ChargesCorrected, Corrected, decode
from bursard.ledger import amended
from bursard.replay import restore
from bursard.services.corrections import standing
from bursard.services.views import job_view, record_of
from bursard.state import Limits
from bursard.state.decide import corrections as decide
from bursard.state.decide.corrections import Target
from bursard.store import ChargeFilter, ChargeRow, JobFilter

DAY = 24 * HOUR_US


async def ended(daemon: Daemon, hours: int = 3, **spec: Any) -> str:
    """A job that ran for so many hours and ended."""
    job_id = daemon.submit(**({"project": "research/vision", "experiment": "e", "model": "m"} | spec))
    for _ in range(hours):
        daemon.clock.advance(HOUR_US)
        daemon.meter()
    daemon.finish(job_id)
    await daemon.engine.durable()
    return job_id


async def site(daemon: Daemon) -> str:
    await daemon.apply(COST_MODEL, BUDGET)
    daemon.node("a")
    return await ended(daemon)


def correct(daemon: Daemon, job: str = "1", **fields: Any) -> Awaitable[pb.CorrectResponse]:
    amount = fields.pop("amount", None)
    request = pb.CorrectRequest(job=job, currency="USD", **({"reason": "throttled"} | fields))
    if amount is not None:
        request.amount.nanos = str(amount)
    return daemon.money.Correct(request, None)


async def total(daemon: Daemon, **fields: Any) -> int:
    return int((await daemon.money.Cost(pb.CostRequest(**fields), None)).total.nanos)


def sound(daemon: Daemon) -> None:
    """Every check that there is of the books."""
    assert daemon.engine.state.ledger.violations() == []
    assert daemon.store.verify() == []
    with daemon.store.picture() as picture:
        assert problems_of(picture, Limits()) == []
    again = restore(daemon.store, Limits())
    assert again.ledger.image() == daemon.engine.state.ledger.image()
    state = daemon.engine.state
    assert (again.corrected, again.shifted, again.adjusted) == (
        state.corrected,
        state.shifted,
        state.adjusted,
    )


def test_a_charge_is_reversed_and_posted_anew_and_the_node_cost_what_it_cost() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        before, whole = await total(daemon), await total(daemon, include_idle=True)
        daemon.clock.advance(40 * DAY)
        found = await correct(daemon, to_ppm=750_000)
        assert (found.charges, found.before_nanos) == (3, before)
        assert found.after_nanos == (before * 3 * 2 + 4) // 8
        more = found.after_nanos - before
        assert await total(daemon) == found.after_nanos
        rows = [row for row in daemon.store.charges() if row.corrects]
        assert sum(row.nanos for row in rows) == 0, "the variance of the node makes up for it"
        assert sum(row.nanos for row in rows if row.kind == "variance") == -more
        assert sum(row.held_us for row in rows) == 0
        assert {row.start_at for row in rows} == {found.booked_at}
        assert {(row.reason, row.corrects < row.seq) for row in rows} == {("throttled", True)}
        december = {"since": found.booked_at - HOUR_US}
        assert await total(daemon, **december) == more
        assert await total(daemon, until=found.booked_at - HOUR_US) == before, "what was published stays"
        daemon.meter()
        assert await total(daemon, include_idle=True, until=START + 3 * HOUR_US) == whole
        sound(daemon)

    in_a_daemon(story)


def test_budgets_that_cover_the_job_follow_in_their_open_period() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        state = daemon.engine.state
        start = state.budgets.records["vision"].period_start
        before = state.ledger.settled("vision", start)
        assert before == await total(daemon)
        found = await correct(daemon, to_ppm=0)
        assert [(one.budget, one.period_start, one.nanos) for one in found.budgets] == [
            ("vision", start, -before)
        ]
        assert state.ledger.settled("vision", start) == await total(daemon) == 0
        found = await correct(daemon, amount=5)
        assert state.ledger.settled("vision", start) == await total(daemon) == found.after_nanos == 5
        sound(daemon)

    in_a_daemon(story)


def test_a_job_says_of_its_budgets_what_it_was_corrected_to() -> None:
    async def story(daemon: Daemon) -> None:
        job_id = await site(daemon)
        before = await total(daemon)

        def settled() -> list[tuple[str, int, int]]:
            [row] = (row for row in daemon.store.jobs(JobFilter()).rows if row.id == job_id)
            state, seen_by = daemon.engine.state, Identity("ann", Role.ADMIN)
            shown = job_view(state, record_of(row), seen_by=seen_by, now=daemon.engine.now())
            return [(one.budget, one.settled_nanos, shown.settled_nanos) for one in shown.budgets]

        assert settled() == [("vision", before, before)]
        await correct(daemon, amount=5)
        assert settled() == [("vision", 5, 5)]

    in_a_daemon(story)


def test_a_hard_budget_is_not_passed_by_a_debt() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        before = await total(daemon)
        with pytest.raises(BudgetExceeded, match="budget vision has no room for the correction") as raised:
            await correct(daemon, amount=90 * 10**9 + 1)
        assert raised.value.facts["budget"] == "vision"
        assert await total(daemon) == before
        assert (await correct(daemon, amount=90 * 10**9)).after_nanos == 90 * 10**9
        sound(daemon)

    in_a_daemon(story)


def test_the_same_correction_twice_changes_nothing_more_and_a_share_is_of_what_was_metered() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        first = await correct(daemon, to_ppm=500_000)
        version = daemon.engine.state.version
        again = await correct(daemon, to_ppm=500_000)
        assert (again.charges, again.booked_at, again.after_nanos) == (0, 0, first.after_nanos)
        assert daemon.engine.state.version == version
        back = await correct(daemon, to_ppm=1_000_000)
        assert back.after_nanos == first.before_nanos == await total(daemon)
        assert list(daemon.engine.state.corrected.values()) == [0]
        sound(daemon)

    in_a_daemon(story)


def test_only_the_charges_of_a_time_are_corrected_also_when_they_were_before() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        rows = sorted(daemon.store.charges(ChargeFilter(kinds=("usage",))), key=lambda row: row.start_at)
        second = rows[1]
        window = {"since": second.start_at, "until": second.end_at}
        found = await correct(daemon, amount=0, **window)
        assert (found.charges, found.before_nanos, found.after_nanos) == (1, second.nanos, 0)
        assert (await correct(daemon, amount=7, **window)).before_nanos == 0
        assert await total(daemon) == sum(row.nanos for row in rows) - second.nanos + 7
        with pytest.raises(NotFound, match="nothing was charged"):
            await correct(daemon, amount=0, since=rows[-1].end_at + DAY)
        sound(daemon)

    in_a_daemon(story)


def test_a_job_shows_what_it_cost_after_all_and_so_does_the_array_of_a_task() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a")
        job_id = daemon.submit(project="ops", array=ArraySpec((0, 1), 2), time_limit_us=HOUR_US)
        daemon.clock.advance(HOUR_US // 2)
        for index in (0, 1):
            daemon.finish(f"{job_id}.{index}")
        before = await total(daemon)
        found = await correct(daemon, f"{job_id}.1", amount=0)
        assert daemon.engine.state.corrected == {
            f"{job_id}.1": -found.before_nanos, job_id: -found.before_nanos
        }  # fmt: skip
        assert await total(daemon, job=job_id) == before - found.before_nanos
        assert (await correct(daemon, job_id, to_ppm=1_000_000)).after_nanos == before
        sound(daemon)

    in_a_daemon(story)


def test_time_at_no_known_price_gets_an_amount_by_its_length() -> None:
    async def story(daemon: Daemon) -> None:
        daemon.node("u", pool="elsewhere")
        job_id = daemon.submit(project="ops")
        daemon.clock.advance(HOUR_US)
        daemon.meter()
        daemon.clock.advance(HOUR_US // 2)
        daemon.finish(job_id)
        assert await total(daemon) == 0
        found = await correct(daemon, amount=3 * 10**9)
        assert found.after_nanos == await total(daemon) == 3 * 10**9
        kept = [row for row in daemon.store.charges() if row.corrects and row.held_us > 0]
        assert [row.nanos for row in kept] == [2 * 10**9, 10**9]
        sound(daemon)

    in_a_daemon(story)


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"amount": -1}, InvalidRequest, "amount"),
        ({}, InvalidRequest, "one of them"),
        ({"amount": 1, "to_ppm": 1}, InvalidRequest, "one of them"),
        ({"amount": 1, "currency": "EUR"}, InvalidRequest, "EUR"),
        ({"amount": 1 << 70}, InvalidRequest, "amount"),
        ({"to_ppm": 1, "reason": "  "}, InvalidRequest, "reason"),
        ({"to_ppm": 1, "reason": "x" * 401}, InvalidRequest, "reason"),
        ({"to_ppm": 1, "reason": "a\x07"}, InvalidRequest, "reason"),
        ({"to_ppm": 1, "since": 9, "until": 9}, InvalidRequest, "until"),
        ({"to_ppm": 1, "job": "77"}, NotFound, "77"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    fields: dict[str, Any], error: type[BursarError], words: str
) -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        version = daemon.engine.state.version
        request = {"job": "1", "reason": "r", "currency": "USD"} | fields
        amount = request.pop("amount", None)
        asked = pb.CorrectRequest(**request)
        if amount is not None:
            asked.amount.nanos = str(amount)
        with pytest.raises(error, match=words):
            await daemon.money.Correct(asked, None)
        assert daemon.engine.state.version == version

    in_a_daemon(story)


def test_what_runs_is_not_corrected() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a")
        daemon.submit(project="ops")
        with pytest.raises(WrongState, match="job 1 has not ended"):
            await correct(daemon, to_ppm=0)

    in_a_daemon(story)


@pytest.mark.parametrize("role", [Role.FINANCE, Role.ADMIN])
def test_finance_and_administrators_may(role: Role) -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        set_caller(Identity("fay", role))
        assert (await correct(daemon, to_ppm=0)).charges == 3
        assert daemon.store.events(limit=1000)[-1].actor == "fay"
        set_caller(ANN)

    in_a_daemon(story)


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.PROJECT_ADMIN, Role.AUDITOR, Role.SUBMITTER])
def test_nobody_else_may(role: Role) -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        set_caller(Identity("ann", role))
        with pytest.raises(Forbidden, match="correct what jobs were charged"):
            await correct(daemon, to_ppm=0)
        set_caller(ANN)

    in_a_daemon(story)


def test_a_trial_says_what_would_be() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        version = daemon.engine.state.version
        found = await correct(daemon, to_ppm=0, dry_run=True)
        assert (found.charges, found.after_nanos, len(found.budgets)) == (3, 0, 1)
        assert daemon.engine.state.version == version
        assert await total(daemon) == found.before_nanos

    in_a_daemon(story)


def test_what_was_read_before_another_correction_is_read_again() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        before = await total(daemon)
        found = await asyncio.gather(correct(daemon, to_ppm=500_000), correct(daemon, to_ppm=250_000))
        # Whose books were read first is the threads' affair.
        first, second = sorted(found, key=lambda one: one.before_nanos != before)
        assert (first.before_nanos, second.before_nanos) == (before, first.after_nanos)
        assert await total(daemon) == second.after_nanos
        sound(daemon)

    in_a_daemon(story)


# ------------------------------------------------------------------ reports


async def reported(daemon: Daemon, period: str, **fields: str) -> bytes:
    request = pb.ReportRequest(period=period, **({"kind": "statement", "format": "json"} | fields))
    return b"".join([chunk.data async for chunk in daemon.money.Report(request, None)])


def test_the_statement_and_focus_tell_corrections_of_a_published_month_apart() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        november = await reported(daemon, "2026-11")
        daemon.clock.advance(35 * DAY)
        daemon.meter()
        found = await correct(daemon, to_ppm=900_000)
        more = Decimal(found.after_nanos - found.before_nanos) / 10**9
        assert json.loads(await reported(daemon, "2026-11"))["projects"] == json.loads(november)["projects"]
        december = json.loads(await reported(daemon, "2026-12"))
        assert december["corrections"]["amount"] == december["total"]["amount"] == f"{more:.9f}"
        assert december["difference"]["amount"] == "0.000000000"
        assert december["variance"]["amount"] == f"{-more:.9f}"
        (told,) = december["adjusted"]
        assert (told["kind"], told["job"], told["month"], told["reason"], told["charges"]) == (
            "correction", 1, "2026-11", "throttled", 3,
        )  # fmt: skip
        text = (await reported(daemon, "2026-12", format="text")).decode()
        assert "of charges of before, booked in this period" in text
        assert "3 charges: throttled" in text
        table = (await reported(daemon, "2026-12", format="csv")).decode()
        assert f"of_which_correction,research/vision,1,0.000000,0.000000,{more:.9f},USD," in table
        rows = list(
            csv.DictReader(
                io.StringIO((await reported(daemon, "2026-12", kind="focus", format="csv")).decode())
            )
        )
        made = [row for row in rows if row["ChargeClass"]]
        assert {row["ChargeClass"] for row in made} == {"Correction"}
        assert {row["BillingPeriodStart"][:7] for row in made} == {"2026-12"}
        assert {row["ChargePeriodStart"][:7] for row in made} == {"2026-11"}
        usage = [row for row in made if row["ChargeCategory"] == "Usage"]
        assert len(usage) == 6
        assert sum(Decimal(row["BilledCost"]) for row in usage) == more
        assert sum(Decimal(row["PricingQuantity"]) for row in usage) == 0
        assert sum(Decimal(row["BilledCost"]) for row in made) == 0
        assert all(row["x_Corrects"] and "throttled" in row["ChargeDescription"] for row in made)

    in_a_daemon(story)


def test_a_correction_in_the_open_month_is_an_adjustment_since_no_month_was_closed() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        await correct(daemon, to_ppm=0)
        text = (await reported(daemon, "2026-11", kind="focus", format="csv")).decode()
        made = [row for row in csv.DictReader(io.StringIO(text)) if row["x_Corrects"]]
        assert {(row["ChargeCategory"], row["ChargeClass"], row["PricingQuantity"]) for row in made} == {
            ("Adjustment", "", "")
        }

    in_a_daemon(story)


def test_cost_by_class_tells_what_was_metered_from_what_was_corrected() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        before = await total(daemon)
        await correct(daemon, to_ppm=0)
        found = await daemon.money.Cost(pb.CostRequest(by=["class"]), None)
        assert [(list(row.keys), row.nanos) for row in found.rows] == [
            (["correction"], -before), (["metered"], before)
        ]  # fmt: skip
        assert [row.held_us > 0 for row in found.rows] == [False, True]

    in_a_daemon(story)


def test_usage_posted_when_its_month_was_published_is_late() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a")
        daemon.submit(project="ops", time_limit_us=2000 * HOUR_US)
        for hours in (1, 1, 35 * 24):
            daemon.clock.advance(hours * HOUR_US)
            daemon.meter()
        november = {"until": 1_796_083_200_000_000}
        found = await daemon.money.Cost(pb.CostRequest(by=["class"], **november), None)
        late, metered = (
            {next(iter(row.keys)): row.nanos for row in found.rows}[key] for key in ("late", "metered")
        )
        assert late > metered > 0
        told = json.loads(await reported(daemon, "2026-11"))
        assert told["late"]["amount"] == f"{Decimal(late) / 10**9:.9f}"
        assert told["published_at"] == "2026-12-02T00:00:00Z"
        assert [(one["kind"], one["job"], one["month"]) for one in told["adjusted"]] == [
            ("late", 1, "2026-11")
        ]
        text = (await reported(daemon, "2026-11", format="text")).decode()
        assert "posted after the month was published (2026-12-02T00:00:00Z)" in " ".join(text.split())

    in_a_daemon(story)


# ------------------------------------------------------------------ what a check finds


def planted(change: Callable[[ChargesCorrected], ChargesCorrected]) -> list[str]:
    """What an audit says of a log with a correction that was made otherwise."""
    found: list[str] = []

    async def story(daemon: Daemon) -> None:
        job_id = await site(daemon)
        state = daemon.engine.state
        rows = daemon.store.charges(ChargeFilter(kinds=("usage",), job_number=1))
        (event,) = decide.correct(state, standing(rows), Target(ppm=0), "r", daemon.engine.now())
        assert event.job_id == job_id
        daemon.engine.commit([change(event)], "eve")
        await daemon.engine.durable()
        with daemon.store.picture() as picture:
            found.extend(problems_of(picture, Limits()))

    in_a_daemon(story)
    return found


def with_first(event: ChargesCorrected, **changes: int) -> ChargesCorrected:
    first: Corrected = msgspec.structs.replace(event.charges[0], **changes)
    return msgspec.structs.replace(event, charges=(first, *event.charges[1:]))


def test_an_audit_finds_a_correction_of_what_was_never_charged() -> None:
    assert planted(lambda event: event) == []
    (said,) = planted(lambda event: with_first(event, of=1))
    assert "the charge of att_0000000003 that event 1 posted is not there" in said
    (said,) = planted(lambda event: with_first(event, gpu=event.charges[0].gpu + 1))
    assert "nanos, not" in said
    (said,) = planted(lambda event: with_first(event, start=event.charges[0].start + 1))
    assert "is not there" in said


def test_an_audit_finds_what_is_taken_back_twice() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        rows = daemon.store.charges(ChargeFilter(kinds=("usage",), job_number=1))
        (event,) = decide.correct(
            daemon.engine.state, standing(rows), Target(ppm=0), "r", daemon.engine.now()
        )
        daemon.engine.commit([event], "eve")
        daemon.engine.commit([event], "eve")
        await daemon.engine.durable()
        with daemon.store.picture() as picture:
            found = problems_of(picture, Limits())
        assert len(found) == 2 * len(event.charges)
        assert "is taken back by events" in found[0]

    in_a_daemon(story)


def test_a_row_of_a_correction_that_was_changed_is_found_by_both_checks() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        await correct(daemon, to_ppm=0)
        store: Any = daemon.store
        store._connection.execute("drop trigger corrections_refuse_update")
        store._connection.execute("update corrections set reason = 'another'")
        assert any("correction of att_0000000003" in line for line in daemon.store.verify())
        with daemon.store.picture() as picture:
            assert any("reason is 'another', not 'throttled'" in line for line in problems_of(picture))

    in_a_daemon(story)


def test_a_correction_is_append_only() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        await correct(daemon, to_ppm=0)
        store: Any = daemon.store
        for sql in ("update corrections set reason = ''", "delete from corrections"):
            with pytest.raises(Exception, match="append-only"):
                store._connection.execute(sql)

    in_a_daemon(story)


def test_an_event_of_a_correction_says_whose_job_it_is() -> None:
    async def story(daemon: Daemon) -> None:
        job_id = await site(daemon)
        await correct(daemon, to_ppm=0)
        event = decode(daemon.store.events(limit=1000)[-1].payload)
        assert isinstance(event, ChargesCorrected)
        assert (event.job_id, event.job_number, event.attempt_id) == (job_id, 1, "att_0000000003")

    in_a_daemon(story)


@pytest.mark.parametrize(
    ("parts", "nanos", "shape", "expected"),
    [
        ((6, 3, 1), 5, (0, 0, 0), (3, 2, 0)),
        ((0, 0, 0), 10, (7, 2, 1), (7, 2, 1)),
        ((0, 0, 0), 10, (0, 0, 0), (0, 10, 0)),
        ((6, 3, 1), 0, (0, 0, 0), (0, 0, 0)),
    ],
)
def test_an_amount_is_by_component_what_the_charge_was(
    parts: tuple[int, int, int], nanos: int, shape: tuple[int, int, int], expected: tuple[int, int, int]
) -> None:
    assert amended(parts, nanos, shape) == expected


def row(**fields: Any) -> ChargeRow:
    blank = dict.fromkeys(ChargeRow._fields, 0) | dict.fromkeys(
        ("kind", "node_id", "node_name", "pool", "job_id", "price_id", "project", "user", "experiment"), ""
    )
    blank |= dict.fromkeys(("model", "model_version", "reason"), "")
    return ChargeRow(**(blank | {"attempt_id": "a", "labels": "{}", "held_us": 5} | fields))


def test_what_stands_is_what_nothing_has_taken_back() -> None:
    rows = [
        row(seq=3, start_at=10, end_at=15, nanos=9),
        row(seq=4, start_at=20, end_at=25, nanos=8),
        row(seq=7, start_at=99, corrects=3, for_start=10, for_end=15, nanos=-9, held_us=-5, reason="r"),
        row(seq=7, start_at=99, corrects=3, for_start=10, for_end=15, nanos=4, cpu=4, reason="r"),
    ]
    found = standing(rows)
    assert [(one.of, one.start, one.end, one.nanos, one.first_nanos) for one in found] == [
        (4, 20, 25, 0, 8), (7, 10, 15, 4, 9)
    ]  # fmt: skip
    assert [one.of for one in standing(rows, since=11)] == [4]
    assert [one.of for one in standing(rows, until=20)] == [7]
