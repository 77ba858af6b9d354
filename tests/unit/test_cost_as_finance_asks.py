"""Cost by period and zone, cut to levels and to the dearest rows, and held against the period before."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from money_daemon import COST_MODEL, START, Daemon, in_a_daemon

from bursar.cli.main import run
from bursar.client.fake import FakeServer
from bursar.clock import HOUR_US, SECOND_US
from bursar.errors import InvalidRequest
from bursar.model import ArraySpec
from bursar.v1 import money_pb2 as pb
from bursard.reports.cost import CostRow, Shape, cost_table, fold, ppm
from bursard.reports.period import Period, find_period
from bursard.reports.zones import offsets_of
from bursard.store import ChargeFilter, ChargeSum, ScratchStore, Unposted

BERLIN = "Europe/Berlin"


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * SECOND_US


NOW = at("2026-11-15T23:30:00+00:00")


# ------------------------------------------------------------------ periods


@pytest.mark.parametrize(
    ("text", "zone", "canonical", "since", "until"),
    [
        ("2026-10", "", "2026-10", "2026-10-01T00:00:00+00:00", "2026-11-01T00:00:00+00:00"),
        ("2026-10", BERLIN, "2026-10", "2026-10-01T00:00:00+02:00", "2026-11-01T00:00:00+01:00"),
        ("2026-10-25", BERLIN, "2026-10-25", "2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"),
        ("2026-q4", "UTC", "2026-Q4", "2026-10-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00"),
        ("2026", "", "2026", "2026-01-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00"),
        ("this-month", "", "2026-11", "2026-11-01T00:00:00+00:00", "2026-12-01T00:00:00+00:00"),
        ("last-month", BERLIN, "2026-10", "2026-10-01T00:00:00+02:00", "2026-11-01T00:00:00+01:00"),
        ("today", BERLIN, "2026-11-16", "2026-11-16T00:00:00+01:00", "2026-11-17T00:00:00+01:00"),
        ("yesterday", "", "2026-11-14", "2026-11-14T00:00:00+00:00", "2026-11-15T00:00:00+00:00"),
        ("last-quarter", "", "2026-Q3", "2026-07-01T00:00:00+00:00", "2026-10-01T00:00:00+00:00"),
        ("last-year", "", "2025", "2025-01-01T00:00:00+00:00", "2026-01-01T00:00:00+00:00"),
    ],
)
def test_a_period_begins_and_ends_at_midnights_of_its_place(
    text: str, zone: str, canonical: str, since: str, until: str
) -> None:
    found = find_period(text, NOW, zone)
    assert found == Period(canonical, at(since), at(until), zone or "UTC")


def test_the_period_before_ends_where_a_period_begins_and_is_of_its_kind() -> None:
    for text, before in {
        "2026-03": "2026-02", "2026-01": "2025-12", "2026-03-01": "2026-02-28", "2026-Q1": "2025-Q4",
        "2026": "2025",
    }.items():  # fmt: skip
        found = find_period(text, NOW, BERLIN)
        assert (found.before.text, found.before.until, found.before.timezone) == (before, found.since, BERLIN)


@pytest.mark.parametrize(
    "text", ["", "2026-13", "2026-02-30", "2026-Q5", "next-month", "26", "1970", "2026-1"]
)
def test_what_is_no_period_is_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"period: '.*' is no period; known: 2026-11, .*last-month"):
        find_period(text, NOW)


def test_a_day_that_a_place_left_out_is_no_period_there() -> None:
    with pytest.raises(InvalidRequest, match="2011-12-30"):
        find_period("2011-12-30", NOW, "Pacific/Apia")
    assert find_period("2011-12-30", NOW).text == "2011-12-30"


def test_a_zone_that_is_none_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidRequest, match=r"timezone: 'Europe/Berlim' is not a time zone; did you mean"):
        find_period("2026-10", NOW, "Europe/Berlim")


def test_the_offsets_of_a_place_are_those_of_its_clocks_at_every_hour() -> None:
    for name in (BERLIN, "America/New_York", "Asia/Kolkata", "Pacific/Apia", "Australia/Lord_Howe"):
        zone, since, until = ZoneInfo(name), at("2011-12-01T00:00:00+00:00"), at("2012-12-01T00:00:00+00:00")
        found = offsets_of(zone, since, until)
        for hour in range(since, until, 7 * HOUR_US):
            told = next(ahead for begins, ahead in reversed(found) if begins <= hour)
            shown = datetime.fromtimestamp(hour // SECOND_US, zone).replace(tzinfo=UTC)
            assert told == int(shown.timestamp()) * SECOND_US - hour
    assert offsets_of(ZoneInfo("UTC"), 0, NOW) == ()


# ------------------------------------------------------------------ folding


def part(nanos: int, *keys: str) -> ChargeSum:
    used = {"gpu_milli_us": 0, "cpu_milli_us": 1000, "held_us": 1, "unpriced_us": 0}
    return ChargeSum(keys=keys, nanos=nanos, gpu=0, cpu=nanos, memory=0, charges=1, **used)


PARTS = [
    part(5, "nlp/a/x", "job_1"),
    part(7, "nlp/a/y", "job_1"),
    part(11, "nlp/b", "job_2.4"),
    part(13, "cv", "job_2.5"),
    part(-2, "ops", "job_3"),
    part(0, "", ""),
]


def told(rows: tuple[CostRow, ...]) -> list[tuple[str, int, int]]:
    return [(row.keys[0], row.nanos, row.jobs) for row in rows]


def test_deep_projects_are_folded_and_a_job_of_two_of_them_counts_once() -> None:
    at_one = fold(["project"], PARTS, Shape(depth=1))
    assert told(at_one.rows) == [("", 0, 0), ("cv", 13, 1), ("nlp", 23, 2), ("ops", -2, 1)]
    at_two = fold(["project"], PARTS, Shape(depth=2))
    assert told(at_two.rows)[2:4] == [("nlp/a", 12, 1), ("nlp/b", 11, 1)]
    for table in (at_one, at_two, fold(["project"], PARTS)):
        assert (table.total.nanos, table.total.jobs) == (34, 3)
        assert sum(row.nanos for row in table.rows) == 34


def test_the_dearest_rows_stand_first_and_the_others_are_one_that_counts_its_jobs_once() -> None:
    table = fold(["project"], PARTS, Shape(top=2))
    assert told(table.rows) == [("cv", 13, 1), ("nlp/b", 11, 1), ("others", 10, 2)]
    assert [row.others for row in table.rows] == [0, 0, 4]
    assert table.rows[2].cpu == 10
    assert table.total.nanos == sum(row.nanos for row in table.rows)
    assert told(fold(["project"], PARTS, Shape(top=6)).rows)[-1] == ("ops", -2, 1)
    two = fold(["project", "user"], [part(1, "p", "u", "job_1"), part(2, "q", "v", "job_2")], Shape(top=1))
    assert [row.keys for row in two.rows] == [("q", "v"), ("others", "")]


def test_what_cost_something_before_alone_has_a_row_and_both_totals_are_sums() -> None:
    before = [part(6, "cv", "job_0"), part(4, "old", "job_0")]
    table = fold(["project"], PARTS, Shape(depth=1), before)
    rows = {row.keys[0]: (row.nanos, row.before, row.jobs) for row in table.rows}
    assert rows["cv"] == (13, 6, 1)
    assert rows["old"] == (0, 4, 0)
    assert (table.total.nanos, table.total.before, table.total.jobs) == (34, 10, 3)
    others = fold(["project"], PARTS, Shape(depth=1, top=1), before).rows[-1]
    assert (others.before, others.others) == (10, 4)


def test_parts_are_millionths_to_the_nearest_whatever_their_sign() -> None:
    assert [ppm(1, 3), ppm(2, 3), ppm(-2, 3), ppm(1, -4), ppm(0, 5), ppm(5, 0)] == [
        333_333, 666_667, -666_667, -250_000, 0, None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("by", "shape", "before", "message"),
    [
        (["user"], Shape(depth=1), None, "depth: counts levels of projects"),
        (["project", "day"], Shape(), ChargeFilter(), "compare: a day is in one of two periods alone"),
        (["label:"], Shape(), None, "cannot group by 'label:'"),
    ],
)
def test_a_table_that_means_nothing_is_refused(
    by: list[str], shape: Shape, before: ChargeFilter | None, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        cost_table(ScratchStore(), by, ChargeFilter(), Unposted(0, ()), shape, before)


# ------------------------------------------------------------------ asked of a daemon


async def five_hours(daemon: Daemon) -> None:
    """Across midnight of New York, at 04:00 of the first of November UTC, and the change of its clocks."""
    await daemon.apply(COST_MODEL)
    daemon.node("a")
    daemon.submit(project="research/vision", labels=(("team", "a"),), time_limit_us=20 * HOUR_US)
    daemon.clock.advance(5 * HOUR_US + 1_234_567)
    daemon.meter()
    daemon.submit(project="ops", time_limit_us=20 * HOUR_US)
    daemon.clock.advance(3 * HOUR_US)


def ask(daemon: Daemon, **request: Any) -> Any:
    return daemon.money.Cost(pb.CostRequest(**request), None)


def test_days_months_and_periods_are_those_of_the_zone_and_sum_to_the_rows_of_the_books() -> None:
    async def story(daemon: Daemon) -> None:
        await five_hours(daemon)
        answer = await ask(daemon, by=["day"], timezone="America/New_York", include_idle=True)
        books = await daemon.engine.books()
        expected: Counter[str] = Counter()
        for row in daemon.store.charges(ChargeFilter(), books):
            local = datetime.fromtimestamp(row.start_at // SECOND_US, ZoneInfo("America/New_York"))
            expected[local.strftime("%Y-%m-%d")] += row.nanos
        assert {row.keys[0]: row.nanos for row in answer.rows} == expected
        assert set(expected) == {"2026-10-31", "2026-11-01"}
        for month in ("2026-10", "2026-11"):
            part = await ask(daemon, by=["month"], timezone="America/New_York", period=month)
            assert [row.keys[0] for row in part.rows] == [month]
            assert (part.period, part.timezone) == (month, "America/New_York")
        assert (await ask(daemon, period="2026-10")).total.nanos == 0
        hours = await ask(daemon, by=["hour"], timezone="America/New_York", include_idle=True)
        assert hours.rows[0].keys[0] == "2026-10-31T21:00:00-04:00"
        assert hours.rows[-1].keys[0] == "2026-11-01T04:00:00-05:00"

    in_a_daemon(story)


def test_a_comparison_is_with_the_period_before_and_says_which() -> None:
    async def story(daemon: Daemon) -> None:
        await five_hours(daemon)
        zone = "America/New_York"
        answer = await ask(daemon, by=["label:team"], period="2026-11", timezone=zone, compare="previous")
        october = await ask(daemon, by=["label:team"], period="2026-10", timezone=zone)
        assert (answer.before_period, answer.before_since, answer.before_until) == (
            "2026-10", october.since, october.until,
        )  # fmt: skip
        rows = {row.keys[0]: row for row in answer.rows}
        assert rows["a"].before_nanos == october.total.nanos == answer.total.before_nanos > 0
        assert rows[""].before_nanos == 0
        assert not rows[""].HasField("change_ppm")
        assert rows["a"].change_ppm == ppm(rows["a"].nanos - rows["a"].before_nanos, rows["a"].before_nanos)
        assert sum(row.share_ppm for row in answer.rows) in range(999_999, 1_000_002)
        named = await ask(daemon, since=START, until=START + HOUR_US, compare="previous")
        assert (named.before_since, named.before_until, named.before_period) == (START - HOUR_US, START, "")

    in_a_daemon(story)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"period": "2026-10", "since": 5}, "period: name a period, or since and until"),
        ({"compare": "next"}, "compare: 'next' is nothing to compare with; known: previous"),
        ({"compare": "previous"}, "compare: name a period, or since and until"),
        ({"timezone": "Mars"}, "timezone: 'Mars' is not a time zone"),
        ({"depth": 2, "by": ["user"]}, "depth: counts levels of projects"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused(request_: dict[str, Any], message: str) -> None:
    async def story(daemon: Daemon) -> None:
        with pytest.raises(InvalidRequest, match=message):
            await ask(daemon, **request_)

    in_a_daemon(story)


# ------------------------------------------------------------------ typed


@pytest.fixture
def fake(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with FakeServer(tmp_path / "run") as server:
        monkeypatch.setenv("BURSAR_SERVER", server.url)
        yield server


def answer(fake: Any) -> None:
    of_nlp = {"before_nanos": 2 * 10**9, "share_ppm": 750_000, "change_ppm": 500_000}
    rows = [
        pb.CostRow(keys=["nlp", "a"], nanos=3 * 10**9, **of_nlp),
        pb.CostRow(keys=["others", ""], nanos=10**9, share_ppm=250_000, others=4),
    ]
    total = pb.CostRow(nanos=4 * 10**9, before_nanos=2 * 10**9, share_ppm=1_000_000, change_ppm=1_000_000)
    begins, ends = at("2026-09-30T22:00:00+00:00"), at("2026-10-31T23:00:00+00:00")
    fake.answers["Money/Cost"] = pb.CostResponse(
        rows=rows,
        total=total,
        currency="USD",
        period="2026-10",
        timezone=BERLIN,
        since=begins,
        until=ends,
        before_since=1,
        before_until=begins,
        before_period="2026-09",
    )


ASKED = "cost --period last-month --by project,label:team --depth 1 --compare previous --top 1 --percent"


def test_what_is_typed_is_asked_and_the_head_says_which_time_and_zone(fake: Any, capsys: Any) -> None:
    answer(fake)
    assert run([*ASKED.split(), "--timezone", BERLIN]) == 0
    [request] = fake.calls("Money/Cost")
    assert (request.period, list(request.by)) == ("last-month", ["project", "label:team"])
    assert (request.depth, request.top, request.compare, request.timezone) == (1, 1, "previous", BERLIN)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2026-10, days of Europe/Berlin, in USD; before: 2026-09"
    assert "75.0%" in lines[2]
    assert "+50.0%" in lines[2]
    assert lines[3].startswith("others")
    assert lines[-1] == "total 4.00 USD, before 2.00 USD, +100.0%"


def test_files_and_documents_say_the_same_numbers(fake: Any, capsys: Any) -> None:
    answer(fake)
    assert run([*ASKED.split(), "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["compared_with"]["period"] == "2026-09"
    first, others = document["rows"]
    assert (first["percent"], first["change"]["amount"], first["change_percent"]) == (
        75.0,
        "1.000000000",
        50.0,
    )
    assert (others["others"], others["change_percent"]) == (4, None)
    assert run([*ASKED.split(), "-o", "csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [line["cost"] for line in lines] == [row["cost"]["amount"] for row in document["rows"]]
    assert (lines[0]["period"], lines[0]["timezone"], lines[0]["since"]) == (
        "2026-10", BERLIN, "2026-09-30T22:00:00Z",
    )  # fmt: skip
    assert (lines[0]["percent"], lines[0]["before"], lines[0]["currency"]) == ("75", "2.000000000", "USD")


def test_jobs_are_told_by_number_and_name_wherever_their_id_stands_and_whether_they_run_or_not() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a")
        daemon.run(name="train", project="nlp")
        daemon.run(project="nlp")
        daemon.submit(name="runs", project="vision")
        sweep = daemon.submit(name="sweep", project="vision", array=ArraySpec((3, 5)))
        daemon.clock.advance(HOUR_US)
        daemon.meter()
        await daemon.engine.durable()
        told = [sorted(await names(daemon, by)) for by in (["job"], ["project", "job"])]
        assert told[0] == told[1]
        assert {"1 train", "2", "3 runs"} <= set(told[0])
        assert any(name.startswith("4[") and name.endswith("] sweep") for name in told[0]), (sweep, told)
        top = await daemon.money.Cost(pb.CostRequest(by=["job"], top=1), None)
        assert [bool(row.called) for row in top.rows] == [True, False], "the others are no job"
        assert not any((await daemon.money.Cost(pb.CostRequest(by=["user"]), None)).rows[0].called)

    async def names(daemon: Daemon, by: list[str]) -> list[str]:
        return [row.called for row in (await daemon.money.Cost(pb.CostRequest(by=by), None)).rows]

    in_a_daemon(story)


def test_the_verb_shows_what_a_job_is_called_beside_its_id(fake: Any, capsys: Any) -> None:
    row = pb.CostRow(keys=["job_x"], nanos=5, called="12 train-99")
    fake.answers["Money/Cost"] = pb.CostResponse(rows=[row], total=row, currency="USD")
    assert run(["cost", "--by", "job"]) == 0
    assert "12 train-99" in capsys.readouterr().out
    assert run(["cost", "--by", "job", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["called"] == "12 train-99"
    assert run(["cost", "--by", "job", "-o", "csv"]) == 0
    assert "job,called,cost" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_the_verb_says_what_of_a_period_is_of_its_neighbours(fake: Any, capsys: Any, form: str) -> None:
    for zone, of in (("Asia/Kathmandu", 45), ("Europe/Berlin", 0)):
        period = find_period("2026-11", NOW, zone)
        fake.answers["Money/Cost"] = pb.CostResponse(
            currency="USD", since=period.since, until=period.until, period=period.text, timezone=zone
        )
        assert run(["cost", "--period", "2026-11", "--timezone", zone, "-o", form]) == 0
        told = " ".join(capsys.readouterr().err.split())
        assert (f"up to {of} min of this period are counted in the one before" in told) == bool(of)
