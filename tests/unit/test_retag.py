"""Late re-tagging: charges are moved to somebody else where the books are open, and no row is touched."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Awaitable
from typing import Any

import pytest
from money_daemon import ANN, COST_MODEL, START, Daemon, in_a_daemon

from bursar.clock import HOUR_US
from bursar.errors import BudgetExceeded, Forbidden, InvalidRequest, NotFound, WrongState
from bursar.v1 import money_pb2 as pb
from bursard.access.identity import Grant, Identity, Role, set_caller
from bursard.audit import problems_of
from bursard.events import RoleGranted
from bursard.replay import restore
from bursard.state import Limits

DAY = 24 * HOUR_US
OLD = "kind: Budget\nname: old\nspec:\n  scope: {project: research}\n  limit: 90 USD\n  period: month\n"
NEW = "kind: Budget\nname: new\nspec:\n  scope: {label: cost-center=R-7}\n  limit: 90 USD\n  period: month\n"


OPS = "kind: Budget\nname: ops\nspec:\n  scope: {project: ops}\n  limit: 90 USD\n  period: month\n"


async def ended(daemon: Daemon, hours: int = 3, **spec: Any) -> str:
    job_id = daemon.submit(**({"project": "research/vision", "experiment": "e", "model": "m"} | spec))
    for _ in range(hours):
        daemon.clock.advance(HOUR_US)
        daemon.meter()
    daemon.finish(job_id)
    await daemon.engine.durable()
    return job_id


async def site(daemon: Daemon) -> str:
    await daemon.apply(COST_MODEL, OLD, NEW)
    known = [RoleGranted("bob", "submitter", "ops/x"), RoleGranted("cy", "submitter", "research/b")]
    daemon.engine.commit(known, "ann")
    daemon.node("a")
    return await ended(daemon)


def retag(daemon: Daemon, job: str = "1", **fields: Any) -> Awaitable[pb.CorrectResponse]:
    rest = {key: fields.pop(key) for key in ("since", "until", "dry_run", "reason") if key in fields}
    request = pb.CorrectRequest(job=job, **({"reason": "label was missing"} | rest))
    request.retag.CopyFrom(pb.Retag(**fields))
    return daemon.money.Correct(request, None)


async def total(daemon: Daemon, **fields: Any) -> int:
    return int((await daemon.money.Cost(pb.CostRequest(**fields), None)).total.nanos)


async def by(daemon: Daemon, dim: str, **fields: Any) -> dict[str, int]:
    found = await daemon.money.Cost(pb.CostRequest(by=[dim], **fields), None)
    return {row.keys[0]: row.nanos for row in found.rows if row.nanos}


def sound(daemon: Daemon) -> None:
    """Every check that there is of the books."""
    state = daemon.engine.state
    assert state.ledger.violations() == []
    assert daemon.store.verify() == []
    with daemon.store.picture() as picture:
        assert problems_of(picture, Limits()) == []
    again = restore(daemon.store, Limits())
    assert again.ledger.image() == state.ledger.image()
    assert (again.corrected, again.shifted, again.adjusted) == (
        state.corrected,
        state.shifted,
        state.adjusted,
    )


def test_charges_move_to_whom_they_are_for_and_no_row_that_was_there_changes() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        whole, before = await total(daemon), list(daemon.store.charges())
        gpu_s = (await daemon.money.Cost(pb.CostRequest(), None)).total.gpu_us
        found = await retag(
            daemon, project="Ops/x", user="bob", experiment="", model="llama", model_version="v2",
            labels={"cost-center": "R-7"},
        )  # fmt: skip
        assert (found.charges, found.before_nanos, found.after_nanos) == (3, whole, whole)
        assert list(daemon.store.charges())[: len(before)] == before
        for dim, name in (
            ("project", "ops/x"), ("user", "bob"), ("experiment", ""), ("model", "llama"),
            ("model_version", "v2"), ("label:cost-center", "R-7"), ("job", "job_1"),
        ):  # fmt: skip
            keys = await by(daemon, dim)
            assert list(keys.values()) == [whole], (dim, keys)
            assert dim == "job" or list(keys) == [name]
        assert (await daemon.money.Cost(pb.CostRequest(), None)).total.gpu_us == gpu_s
        sound(daemon)

    in_a_daemon(story)


def test_what_was_published_stays_and_the_open_month_takes_both_sides_as_a_transfer() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        november = await by(daemon, "project", period="2026-11")
        daemon.clock.advance(31 * DAY)
        daemon.meter()
        await daemon.money.ClosePeriod(pb.ClosePeriodRequest(period="2026-11"), None)
        found = await retag(daemon, project="ops")
        assert await by(daemon, "project", period="2026-11") == november
        moved = found.before_nanos
        assert await by(daemon, "project", period="2026-12") == {"research/vision": -moved, "ops": moved}
        assert await total(daemon, period="2026-12") == 0
        text = (await daemon.report(kind="statement", period="2026-12", format="json"))[0]
        adjusted = json.loads(text)["adjusted"]
        assert [(one["project"], one["month"], one["charges"], one["reason"]) for one in adjusted] == [
            ("research/vision", "2026-11", 3, "retag: label was missing"),
            ("ops", "2026-11", 3, "retag: label was missing"),
        ]
        assert json.loads(text)["corrections"]["amount"] == "0.000000000"
        sound(daemon)

    in_a_daemon(story)


def test_budgets_follow_where_cost_does_each_in_its_current_period() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        state = daemon.engine.state
        whole = await total(daemon)

        def settled(name: str) -> int:
            return state.ledger.settled(name, state.budgets.records[name].period_start)

        assert (settled("old"), settled("new")) == (whole, 0)
        found = await retag(daemon, labels={"cost-center": "R-7"})
        assert [(one.budget, one.nanos) for one in found.budgets] == [("new", whole)]
        assert (settled("old"), settled("new")) == (whole, whole), "its project is what it was"
        found = await retag(daemon, project="ops", labels={"cost-center": ""})
        assert [(one.budget, one.nanos) for one in found.budgets] == [("new", -whole), ("old", -whole)]
        assert (settled("old"), settled("new")) == (0, 0)
        assert (await by(daemon, "label:cost-center")) == {"": whole}
        assert await retag(daemon, project="ops") == pb.CorrectResponse(job_id=found.job_id, currency="USD")
        sound(daemon)

    in_a_daemon(story)


def test_forecasts_hear_what_was_moved_or_corrected_on_the_days_in_which_it_was_used() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        days = daemon.engine.state.ledger.days
        daemon.clock.advance(DAY)  # the day in which a budget began is known in part
        await daemon.apply(OPS)
        daemon.clock.advance(DAY)
        await ended(daemon, hours=30, project="research/b")
        before = dict(days["old"].nanos)
        daemon.clock.advance(5 * DAY)
        daemon.meter()
        await retag(daemon, job="2", project="ops")
        used = {day: nanos for day, nanos in before.items() if day >= days["old"].since and nanos}
        assert len(used) == 2
        assert {day: days["old"].nanos[day] for day in used} == dict.fromkeys(used, 0)
        assert {day: days["ops"].nanos[day] for day in used} == used
        await daemon.money.Correct(pb.CorrectRequest(job="2", reason="throttled", to_ppm=500_000), None)
        half = {day: days["ops"].nanos[day] for day in used}
        assert all(abs(2 * half[day] - used[day]) <= 2 * 60 for day in used), "a nano or so for each charge"
        await daemon.policies.Delete(pb.PolicyRequest(kind="Budget", name="ops"), None)
        await daemon.apply(OPS)
        again = daemon.engine.state.ledger.days["ops"].nanos
        assert {day: again[day] for day in used} == half, "as the books say"
        sound(daemon)

    in_a_daemon(story)


def test_a_budget_that_opens_later_counts_what_was_moved_to_its_scope() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        await retag(daemon, project="ops")
        await daemon.apply(OLD.replace("research", "ops").replace("old", "later"))
        state = daemon.engine.state
        start = state.budgets.records["later"].period_start
        assert state.ledger.settled("later", start) == await total(daemon, project="ops") > 0
        sound(daemon)

    in_a_daemon(story)


def test_a_budget_whose_day_has_just_ended_counts_what_is_moved_in_the_day_it_is_booked_in() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        await daemon.apply(OLD.replace("research", "ops").replace("old", "daily").replace("month", "day"))
        daemon.clock.advance(DAY)
        found = await retag(daemon, project="ops")
        state = daemon.engine.state
        record = state.budgets.records["daily"]
        assert record.period_start <= found.booked_at < record.period_end
        assert state.ledger.settled("daily", record.period_start) == found.before_nanos
        sound(daemon)

    in_a_daemon(story)


def test_a_hard_budget_is_not_passed_by_what_is_moved_to_it() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        await daemon.apply(OLD.replace("90", "0.000001").replace("research", "ops").replace("old", "small"))
        with pytest.raises(BudgetExceeded, match="budget small has no room for the retag"):
            await retag(daemon, project="ops")
        assert list(await by(daemon, "project")) == ["research/vision"]
        sound(daemon)

    in_a_daemon(story)


def test_only_what_was_used_in_the_time_asked_for_moves_and_is_corrected_for_its_new_owner() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        found = await retag(daemon, project="ops", since=START + HOUR_US, until=START + 2 * HOUR_US)
        assert found.charges == 1
        assert set(await by(daemon, "project")) == {"research/vision", "ops"}
        await daemon.money.Correct(pb.CorrectRequest(job="1", to_ppm=500_000, reason="half"), None)
        halves = await by(daemon, "project")
        assert abs(halves["ops"] * 2 - found.before_nanos) <= 3
        again = await retag(daemon, project="research/vision")
        assert (again.charges, again.before_nanos) == (1, halves["ops"])
        sound(daemon)

    in_a_daemon(story)


def test_a_dry_run_says_what_would_be_and_changes_nothing() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        before = daemon.engine.state.adjusted, list(daemon.store.charges())
        found = await retag(daemon, project="ops", dry_run=True)
        assert (found.charges, [one.budget for one in found.budgets]) == (3, ["old"])
        assert (daemon.engine.state.adjusted, list(daemon.store.charges())) == before
        assert list(await by(daemon, "project")) == ["research/vision"]

    in_a_daemon(story)


def test_focus_has_both_sides_with_quantities_and_the_unit_price_they_had() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        daemon.clock.advance(31 * DAY)
        daemon.meter()
        await retag(daemon, project="ops", model="llama")
        text = (await daemon.report(kind="focus", period="2026-12"))[0].decode()
        rows = [row for row in csv.DictReader(io.StringIO(text)) if row["x_Corrects"]]
        assert {row["ChargeClass"] for row in rows} == {"Correction"}
        for project, sign in (("research/vision", "-"), ("ops", "")):
            mine = [row for row in rows if row["x_Project"] == project]
            assert len(mine) == 3
            assert all(row["BilledCost"].startswith(sign or "0") or not sign for row in mine)
            assert all(row["ListUnitPrice"] for row in mine)
        assert sum(int(row["PricingQuantity"].replace(".", "")) for row in rows) == 0

    in_a_daemon(story)


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({}, InvalidRequest, "say what is to be another"),
        ({"project": ""}, InvalidRequest, "project: may not be empty"),
        ({"user": ""}, InvalidRequest, "user: may not be empty"),
        ({"user": "a b"}, InvalidRequest, "user: 'a b' is no user name"),
        ({"project": "a//b"}, InvalidRequest, "is not a project path"),
        (
            {"project": "a b", "model": "x y", "labels": {"!": "v"}},
            InvalidRequest,
            "project.*; model.*; labels",
        ),
        ({"labels": {"k": "\x1b"}}, InvalidRequest, "labels.k"),
        ({"labels": {f"k{at}": "v" for at in range(65)}}, InvalidRequest, "labels"),
        ({"project": "opps"}, InvalidRequest, "project 'opps'; did you mean 'ops'"),
        (
            {"project": "zzz"},
            InvalidRequest,
            "one is known from its first job, charge, budget, quota or grant on",
        ),
        ({"user": "bobb"}, InvalidRequest, "user 'bobb'; did you mean 'bob'"),
        ({"project": "ops", "reason": ""}, InvalidRequest, "reason"),
        ({"project": "ops", "since": 9, "until": 9}, InvalidRequest, "until: must be after since"),
        ({"project": "ops", "job": "99"}, NotFound, "99"),
        ({"project": "ops", "since": START + 99 * DAY}, NotFound, "no charges to correct"),
    ],
)
def test_what_cannot_be_moved_is_refused_and_changes_nothing(
    fields: dict[str, Any], error: type[Exception], words: str
) -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        with pytest.raises(error, match=f"(?s){words}"):
            await retag(daemon, **fields)
        assert list(await by(daemon, "project")) == ["research/vision"]

    in_a_daemon(story)


def test_an_amount_and_a_move_at_once_and_a_job_that_runs_are_refused() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        request = pb.CorrectRequest(job="1", reason="r", to_ppm=1, retag=pb.Retag(project="ops"))
        with pytest.raises(InvalidRequest, match="moves the charges as they are"):
            await daemon.money.Correct(request, None)
        daemon.submit(project="research/vision")
        with pytest.raises(WrongState, match="has not ended"):
            await retag(daemon, job="2", project="ops")

    in_a_daemon(story)


def test_nobody_moves_charges_into_or_out_of_a_project_whose_books_are_not_theirs() -> None:
    async def story(daemon: Daemon) -> None:
        await site(daemon)
        of_one = Identity("flo", None, grants=(Grant(Role.FINANCE, "research"),))
        of_other = Identity("flo", None, grants=(Grant(Role.FINANCE, "ops"),))
        for who in (of_one, of_other, Identity("flo", Role.SUBMITTER)):
            set_caller(who)
            with pytest.raises((Forbidden, NotFound)):
                await retag(daemon, project="ops")
        set_caller(of_one)
        assert (await retag(daemon, project="research/b", dry_run=True)).charges == 3
        set_caller(ANN)
        assert list(await by(daemon, "project")) == ["research/vision"]

    in_a_daemon(story)
