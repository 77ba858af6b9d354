"""Teams and cost centres over real books: told by the table of each hour, moved where that was published."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from money_daemon import COST_MODEL, START, Daemon, in_a_daemon, set_clock

from bursar.clock import DAY_US, HOUR_US, format_instant
from bursar.errors import InvalidRequest, NotBuilt, PolicyInvalid
from bursar.v1 import money_pb2 as pb
from bursar_policies.document import parse_documents
from bursar_policies.specs import AttributionSpec

DECEMBER = START + 30 * DAY_US - HOUR_US
VISION = "{scope: {project: research/vision}, team: vision, cost_center: %s}"
REST = "{scope: {project: research}, cost_center: R-1}"


def table(*owners: str, since: int = 0, reason: str = "", shared: str = "") -> str:
    lines = ["kind: Attribution", "name: org"]
    lines += [f"effective_at: {format_instant(since)}"] if since else []  # type: ignore[arg-type]
    lines += ["spec:"] + ([f"  reason: {reason}"] if reason else [])
    lines += ["  owners:", *(f"    - {one}" for one in owners)] if owners else []
    return "\n".join([*lines, *([shared] if shared else [])]) + "\n"


async def by(daemon: Daemon, *dims: str, **asked: Any) -> dict[Any, int]:
    request = {"by": dims, "period": "2026-11"} | asked
    found = await daemon.money.Cost(pb.CostRequest(**request), None)
    rows = {tuple(row.keys) if len(dims) > 1 else row.keys[0]: row.nanos for row in found.rows}
    assert sum(rows.values()) == found.total.nanos
    return rows


async def statement(daemon: Daemon, **asked: str) -> dict[str, Any]:
    found = json.loads((await daemon.report(kind="statement", format="json", **asked))[0])
    assert isinstance(found, dict)
    return found


def group(found: dict[str, Any], name: str) -> dict[str, Decimal]:
    [rows] = [one["rows"] for one in found["groups"] if one["by"] == name]
    return {row["name"]: Decimal(row["cost"]["amount"]) for row in rows}


async def two_projects(daemon: Daemon) -> None:
    await daemon.apply(COST_MODEL)
    daemon.node("a")
    daemon.run(hours=2, project="research/vision")
    daemon.run(hours=1, project="research/nlp", labels=(("cost-center", "L-9"),))
    daemon.run(hours=1, project="ops", labels=(("cost-center", "L-9"), ("team", "night")))


def test_without_a_table_teams_and_cost_centres_are_those_of_labels() -> None:
    async def story(daemon: Daemon) -> None:
        await two_projects(daemon)
        assert await by(daemon, "cost-center") == await by(daemon, "label:cost-center")
        assert await by(daemon, "team") == await by(daemon, "label:team")
        assert set(await by(daemon, "team")) == {"", "night"}

    in_a_daemon(story)


def test_the_first_line_that_covers_a_job_says_whose_it_is_and_labels_say_the_rest() -> None:
    async def story(daemon: Daemon) -> None:
        await two_projects(daemon)
        text = table(VISION % "R-2", REST, since=START - HOUR_US, reason="first table")
        await daemon.apply(text)
        projects = await by(daemon, "project")
        assert await by(daemon, "cost-center") == {
            "R-2": projects["research/vision"], "R-1": projects["research/nlp"], "L-9": projects["ops"],
        }  # fmt: skip
        assert await by(daemon, "team", "cost-center") == {
            ("vision", "R-2"): projects["research/vision"], ("", "R-1"): projects["research/nlp"],
            ("night", "L-9"): projects["ops"],
        }  # fmt: skip
        found = await statement(daemon)
        assert group(found, "cost-center")["R-2"] * 10**9 == projects["research/vision"]
        assert found["reattributed"] == []

    in_a_daemon(story)


def test_a_team_that_moves_takes_what_it_costs_from_that_hour_on_and_nothing_of_before() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL, table(VISION % "R-2"))
        daemon.node("a")
        daemon.run(hours=2, project="research/vision")
        before = await by(daemon, "cost-center")
        daemon.clock.advance(2 * HOUR_US)
        await daemon.apply(table(VISION % "R-3"))
        daemon.run(hours=1, project="research/vision")
        after = await by(daemon, "cost-center")
        assert after["R-2"] == before["R-2"] > 0 < after["R-3"]
        assert sum(after.values()) == sum((await by(daemon, "project")).values())
        days = await by(daemon, "hour", "cost-center")
        assert {hour for hour, name in days if name == "R-2"} == {
            "2026-11-01T01:00:00Z",
            "2026-11-01T02:00:00Z",
            "2026-11-01T03:00:00Z",
        }
        assert {hour for hour, name in days if name == "R-3"} == {
            "2026-11-01T05:00:00Z",
            "2026-11-01T06:00:00Z",
        }

    in_a_daemon(story)


async def november(daemon: Daemon) -> None:
    """A month that is over, published and closed; a job of it and one of December."""
    await daemon.apply(COST_MODEL, table(VISION % "R-2", REST))
    daemon.node("a")
    daemon.run(hours=2, project="research/vision")
    daemon.run(hours=1, project="research/nlp")
    daemon.clock.advance(DECEMBER - daemon.clock.now() + HOUR_US // 2)
    daemon.meter()
    await daemon.money.ClosePeriod(pb.ClosePeriodRequest(period="2026-11"), None)
    daemon.run(hours=1, project="research/vision")


def test_a_published_month_stays_as_it_was_told_and_what_moves_is_booked_in_the_open_one() -> None:
    async def story(daemon: Daemon) -> None:
        await november(daemon)
        told, whole = await by(daemon, "cost-center"), await statement(daemon)
        now_before = await by(daemon, "cost-center", period="2026-12")
        moved = told["R-2"]
        reason = "vision joined R-3 on November 1st"
        text = table(VISION % "R-3", REST, since=START - HOUR_US, reason=reason)
        sources = [pb.PolicySource(name="t.yaml", text=text)]
        for call in (daemon.policies.Check, daemon.policies.Apply):
            [one] = (await call(pb.ApplyRequest(sources=sources), None)).policies
            assert list(one.notes) == [
                "months before 2026-12 were published, and stay as they were told: what org says otherwise of"
                " them is booked in 2026-12 as reattributed"
            ]
        assert await by(daemon, "cost-center") == told
        assert await statement(daemon) == whole
        assert await by(daemon, "cost-center", period="2026-12") == {
            "R-2": -moved, "R-3": moved + now_before["R-2"],
        }  # fmt: skip
        assert await by(daemon, "class", "cost-center", period="2026-12") == {
            ("metered", "R-3"): now_before["R-2"],
            ("reattributed", "R-2"): -moved,
            ("reattributed", "R-3"): moved,
        }
        december = await statement(daemon, period="2026-12")
        [row] = december["reattributed"]
        assert Decimal(row["cost"]["amount"]) * 10**9 == moved
        assert (row["month"], row["by"], row["reason"]) == ("2026-11", "ann", reason)
        assert (row["from"]["cost_center"], row["to"]["cost_center"]) == ("R-2", "R-3")
        assert group(december, "cost-center")["R-2"] * 10**9 == -moved
        projects = group(december, "project")  # moves are of no project's sum
        assert projects == {"research/nlp": 0, "research/vision": Decimal(now_before["R-2"]) / 10**9}
        for form in ("text", "csv", "html"):
            text = (await daemon.report(kind="statement", format=form, period="2026-12"))[0].decode()
            assert reason in " ".join(text.split())

    in_a_daemon(story)


def test_jobs_are_counted_once_and_in_no_move() -> None:
    async def story(daemon: Daemon) -> None:
        await november(daemon)
        await daemon.apply(table(VISION % "R-3", since=START - HOUR_US, reason="so"))
        found = await daemon.money.Cost(pb.CostRequest(by=["cost-center"], period="2026-12"), None)
        assert {row.keys[0]: row.jobs for row in found.rows} == {"R-1": 0, "": 0, "R-2": 0, "R-3": 1}
        assert found.total.jobs == 1
        assert sum(row.held_us for row in found.rows) == found.total.held_us

    in_a_daemon(story)


def test_a_month_that_ended_more_than_a_day_ago_was_published_and_one_that_has_just_ended_was_not() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a")
        daemon.run(hours=2, project="research/vision")
        daemon.clock.advance(DECEMBER - daemon.clock.now() + DAY_US - HOUR_US)
        await daemon.apply(table(VISION % "R-2", since=START - HOUR_US, reason="in time"))
        assert set(await by(daemon, "cost-center")) == {"R-2"}
        daemon.clock.advance(2 * HOUR_US)
        await daemon.apply(table(VISION % "R-3", since=START - HOUR_US, reason="too late"))
        assert set(await by(daemon, "cost-center")) == {"R-2"}
        assert set(await by(daemon, "cost-center", period="2026-12")) == {"R-2", "R-3"}

    in_a_daemon(story)


def test_a_correction_of_a_published_month_is_for_who_has_its_costs_by_then() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL, table(VISION % "R-2"))
        daemon.node("a")
        job = daemon.run(hours=2, project="research/vision")
        daemon.clock.advance(DECEMBER - daemon.clock.now() + HOUR_US // 2)
        daemon.meter()
        await daemon.money.ClosePeriod(pb.ClosePeriodRequest(period="2026-11"), None)
        # From December on it is another one's; what is taken back of November is of the one that paid.
        await daemon.apply(table(VISION % "R-3"))
        whole = (await by(daemon, "cost-center"))["R-2"]
        await daemon.money.Correct(pb.CorrectRequest(job=job, to_ppm=500_000, reason="throttled"), None)
        found = await by(daemon, "cost-center", period="2026-12")
        assert found == {"R-2": whole // 2 - whole}
        # A table that reaches back moves all of it: what was published, and what was corrected since.
        await daemon.apply(table(VISION % "R-4", since=START - HOUR_US, reason="from the start"))
        found = await by(daemon, "cost-center", period="2026-12")
        assert found == {"R-2": -whole, "R-4": whole + (whole // 2 - whole)}

    in_a_daemon(story)


def test_a_table_that_is_removed_tells_what_it_told() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL, table(VISION % "R-2"))
        daemon.node("a")
        daemon.run(hours=1, project="research/vision")
        daemon.clock.advance(HOUR_US)
        await daemon.policies.Delete(pb.PolicyRequest(kind="Attribution", name="org"), None)
        before = await by(daemon, "cost-center")
        daemon.run(hours=1, project="research/vision")
        found = await by(daemon, "cost-center")
        assert found == {"R-2": before["R-2"], "": found[""]}
        assert found[""] > 0

    in_a_daemon(story)


def test_a_table_may_hold_from_a_later_hour_on() -> None:
    async def story(daemon: Daemon) -> None:
        later = START + 3 * HOUR_US
        await daemon.apply(COST_MODEL, table(VISION % "R-2"))
        await daemon.apply(table(VISION % "R-3", since=later))
        daemon.node("a")
        daemon.run(hours=6, project="research/vision")
        hours = await by(daemon, "hour", "cost-center")
        assert {name for hour, name in hours if hour < format_instant(later)} == {"R-2"}
        assert {name for hour, name in hours if hour >= format_instant(later)} == {"R-3"}

    in_a_daemon(story)


def test_what_cannot_hold_is_refused_with_what_would() -> None:
    async def story(daemon: Daemon) -> None:
        daemon.clock.advance(5 * HOUR_US)
        for text, message in (
            (
                table(VISION % "R", since=START),
                "has passed, so it tells what was used since then anew; say why",
            ),
            (table(VISION % "R", since=START + 1_000_000), "is within an hour, .* 2026-11-01T01:00:00Z"),
        ):
            with pytest.raises(InvalidRequest, match=message):
                await daemon.apply(text)
        await daemon.apply(table(VISION % "R"))
        with pytest.raises(InvalidRequest, match="one table of teams and cost centres, and org is in force"):
            await daemon.apply(table(VISION % "R").replace("name: org", "name: other"))
        with pytest.raises(InvalidRequest, match=r"cannot group by 'tem'; known: .*team, cost-center"):
            await by(daemon, "tem")

    in_a_daemon(story)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{}", "says nothing; give `owners`, `shared` or both"),
        ("{owners: [{scope: {project: a}}]}", "names nobody; give `team`, `cost_center` or both"),
        ("{owners: [{team: x}, {scope: {user: ann}, team: y}]}", "never counts: line 3 covers all of it"),
        ("{owners: [{team: ' x'}, {scope: {}, team: y}]}", "covers nothing"),
        ("{shared: [{by: even}]}", "give what is divided: `kinds`, or `cost_center`, one of them"),
        ("{shared: [{kinds: [idle], cost_center: P}]}", "one of them"),
        ("{shared: [{kinds: [usage]}]}", "'usage' is not one of idle"),
        ("{shared: [{kinds: []}]}", "names no kind"),
        ("{shared: [{kinds: [idle, idle]}]}", "names a kind twice"),
        ("{shared: [{kinds: [idle]}, {kinds: [down, idle]}]}", "idle is divided twice"),
        ("{shared: [{cost_center: P}, {cost_center: P}]}", "cost centre P is divided twice"),
        ("{shared: [{kinds: [idle], by: shares}]}", "belong together"),
        ("{shared: [{kinds: [idle], shares: {A: 100%}}]}", "belong together"),
        ("{shared: [{kinds: [idle], by: shares, shares: {A: 60%, B: 39.9999%}}]}", "is 99.9999% together"),
        ("{shared: [{kinds: [idle], by: shares, shares: {A: 33.33333%, B: 66.66667%}}]}", "four places"),
        ("{shared: [{kinds: [idle], by: shares, shares: {A: 200%, B: -100%}}]}", "200"),
        ("{shared: [{cost_center: A, by: shares, shares: {A: 100%}}]}", "A is divided itself"),
    ],
)
def test_a_table_that_means_nothing_or_two_things_is_refused_with_its_line(spec: str, message: str) -> None:
    with pytest.raises((PolicyInvalid, NotBuilt), match=message):
        parse_documents(f"kind: Attribution\nname: org\nspec: {spec}\n", "t.yaml")


def test_a_narrower_line_may_stand_behind_one_that_names_something_else() -> None:
    text = "kind: Attribution\nname: o\nspec: {owners: [{team: x}, {scope: {user: ann}, cost_center: y}]}\n"
    [found] = parse_documents(text, "t.yaml")
    assert isinstance(found.spec, AttributionSpec)
    assert [one.cost_center for one in found.spec.owners] == ["", "y"]


def test_what_is_shared_is_borne_by_cost_centres_in_every_form_and_nobodys_part_stays_in_sight() -> None:
    shared = "  shared:\n    - {kinds: [idle, absorption], by: even}\n    - {cost_center: L-9}"

    async def story(daemon: Daemon) -> None:
        await two_projects(daemon)
        text = table(VISION % "R-2", REST, since=START - HOUR_US, reason="first", shared=shared)
        await daemon.apply(text)
        own = await by(daemon, "cost-center")
        kinds = await by(daemon, "kind", include_idle=True)
        found = json.loads((await daemon.report(kind="chargeback", format="json"))[0])
        rows = {
            row["cost_center"]: {k: v["amount"] for k, v in row.items() if isinstance(v, dict)}
            for row in found["rows"]
        }
        told = {name: int(Decimal(row["own"]) * 10**9) for name, row in rows.items()}
        assert {name: told[name] for name in own} == own
        even, nobody = kinds["idle"] + kinds["absorption"], sum(kinds.values()) - sum(own.values())
        assert told[None] == nobody
        assert Decimal(rows[None]["cost"]) * 10**9 == nobody - even
        assert rows["L-9"]["cost"] == "0.000000000"
        share = own["L-9"] * own["R-2"] / (own["R-1"] + own["R-2"])
        assert float(rows["R-2"]["shared"]) * 1e9 == pytest.approx(even / 2 + share, abs=2)
        assert Decimal(found["total"]["cost"]["amount"]) * 10**9 == sum(kinds.values())
        text = (await daemon.report(kind="chargeback", format="text"))[0].decode()
        assert "What is idle, absorption is divided: the same for each" in " ".join(text.split())
        assert "(nobody's)" in text
        for wrong in ({"period": "2026-11-03"}, {"timezone": "Europe/Berlin"}, {"project": "research"}):
            with pytest.raises(InvalidRequest, match=r"month by month of UTC|of the whole site"):
                await daemon.report(kind="chargeback", format="text", **wrong)

    in_a_daemon(story)


@pytest.mark.parametrize("dated", [False, True])
def test_a_table_that_was_applied_while_the_clock_was_ahead_freezes_no_month(
    dated: bool, tmp_path: Path
) -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL, table(VISION % "R-1"))
        daemon.node("a")
        daemon.run(project="research/vision")
        await set_clock(daemon, tmp_path, 45 * DAY_US)
        await daemon.apply(table(VISION % "R-2", since=DECEMBER if dated else 0, reason="it is December"))
        assert set(await by(daemon, "cost-center")) == {"R-1"}
        await set_clock(daemon, tmp_path, -45 * DAY_US)
        daemon.run(project="research/vision")
        told = await by(daemon, "class", "cost-center")
        assert told.keys() == {("metered", "R-1"), ("metered", "R-1" if dated else "R-2")}
        await daemon.apply(table(VISION % "R-3", since=START - HOUR_US, reason="November is open"))
        assert set(await by(daemon, "class", "cost-center")) == {("metered", "R-3")}, "and is told anew"
        assert await by(daemon, "cost-center", period="2026-12") == {}, "nothing is moved there"

    in_a_daemon(story)


def test_what_a_month_was_told_by_stays_when_a_clock_is_behind_for_a_while(tmp_path: Path) -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL, table(VISION % "R-1"))
        daemon.node("a")
        daemon.run(project="research/vision")
        daemon.clock.advance(DECEMBER - daemon.clock.now() + 2 * DAY_US)
        daemon.meter()
        await daemon.apply(table(VISION % "R-2", since=START - HOUR_US, reason="too late for November"))
        november = await by(daemon, "class", "cost-center")
        december = await by(daemon, "class", "cost-center", period="2026-12")
        await set_clock(daemon, tmp_path, -45 * DAY_US)
        await set_clock(daemon, tmp_path, 45 * DAY_US)
        assert await by(daemon, "class", "cost-center") == november
        assert await by(daemon, "class", "cost-center", period="2026-12") == december
        assert ("reattributed", "R-2") in december

    in_a_daemon(story)


def test_a_table_that_was_removed_while_the_clock_was_ahead_is_gone_since_then_by_the_right_clock(
    tmp_path: Path,
) -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL, table(VISION % "R-1"))
        daemon.node("a")
        daemon.run(project="research/vision")
        await set_clock(daemon, tmp_path, 45 * DAY_US)
        await daemon.policies.Delete(pb.PolicyRequest(kind="Attribution", name="org"), None)
        await set_clock(daemon, tmp_path, -45 * DAY_US)
        daemon.clock.advance(HOUR_US)
        daemon.run(project="research/vision")
        assert set(await by(daemon, "cost-center")) == {"R-1", ""}

    in_a_daemon(story)


async def focus(daemon: Daemon, **asked: str) -> list[dict[str, str]]:
    text = (await daemon.report(kind="focus", format="csv", **asked))[0].decode()
    return list(csv.DictReader(io.StringIO(text)))


def of_owners(rows: list[dict[str, str]]) -> dict[tuple[str, str], Decimal]:
    found = Counter[tuple[str, str]]()
    for row in rows:
        if row["SubAccountId"] or row["ChargeDescription"].startswith("reattributed"):
            found[row["x_Team"], row["x_CostCenter"]] += Decimal(row["EffectiveCost"])  # type: ignore[assignment]
    return {owner: Decimal(amount) for owner, amount in found.items() if amount}


def test_rows_of_focus_have_the_owners_of_cost_and_what_was_moved_is_two_that_sum_to_nothing() -> None:
    async def story(daemon: Daemon) -> None:
        await two_projects(daemon)
        await daemon.apply(table(VISION % "R-2", REST, since=START - HOUR_US, reason="first table"))
        daemon.clock.advance(DECEMBER - daemon.clock.now() + 2 * DAY_US)
        daemon.meter()
        before = len(await focus(daemon, period="2026-12"))
        await daemon.apply(table(VISION % "R-9", REST, since=START - HOUR_US, reason="too late"))
        for month in ("2026-11", "2026-12"):
            cost = await by(daemon, "team", "cost-center", period=month)
            rows = await focus(daemon, period=month)
            assert of_owners(rows) == {key: Decimal(n).scaleb(-9) for key, n in cost.items() if n}
        moved = rows[-2:]
        assert len(rows) == before + 2
        assert sum(Decimal(row["EffectiveCost"]) for row in moved) == 0
        for row in moved:
            assert (row["ChargeCategory"], row["ChargeClass"]) == ("Adjustment", "Correction")
            assert (row["ChargePeriodStart"], row["ChargePeriodEnd"]) == (
                "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z",
            )  # fmt: skip
            assert row["BillingPeriodStart"] == "2026-12-01T00:00:00Z"
            assert Decimal(row["ListCost"]) == Decimal(row["EffectiveCost"])
            assert row["ChargeDescription"] == "reattributed: too late"
        assert {row["x_CostCenter"] for row in moved} == {"R-2", "R-9"}

    in_a_daemon(story)
