"""A provider's bill against the books: each machine and hour against its own; faults all at once."""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import os
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cloud_month import RESERVED, month
from money_daemon import ANN, Daemon, in_a_daemon
from msgspec.structs import replace

from bursar.cli import reconcile
from bursar.cli.main import run
from bursar.clock import HOUR_US, parse_instant
from bursar.codec.bounds import check_counts
from bursar.errors import InvalidRequest, WrongState
from bursar.v1 import money_pb2, types_pb2
from bursard.access.identity import Identity, Role, set_caller
from bursard.events import BillKept, decode
from bursard.reports import bills
from bursard.reports.period import find_period
from bursard.services.money import MoneyService

HOUR = int(parse_instant("2026-11-01T00:00:00Z"))
HEAD = "ResourceId,ResourceName,ChargePeriodStart,ChargePeriodEnd,BillingCurrency,EffectiveCost,Tags\n"
OURS = (
    "ResourceId,ResourceName,ResourceType,HostProviderName,InvoiceIssuerName,ChargePeriodStart,BillingCurrency,"
    "EffectiveCost\n"
)


def line(resource: str, hour: int, cost: str, name: str = "", hours: int = 1, tags: str = "") -> str:
    quoted = '"' + tags.replace('"', '""') + '"'
    times = f"2026-11-01T{hour:02}:00:00Z,2026-11-01T{hour + hours:02}:00:00Z"
    return f"{resource},{name},{times},USD,{cost},{quoted}\n"


def ours(node: str, hour: int, cost: str, host: str = "aws", name: str = "n") -> str:
    return f"{node},{name},GPU Node,{host},Bursar c1,2026-11-01T{hour:02}:00:00Z,USD,{cost}\n"


def bill(text: str, folder: Path, **more: Any) -> reconcile.Bill:
    file = folder / "bill.csv"
    file.write_text(text)
    asked = {"cost": "EffectiveCost", "since": HOUR, "until": HOUR + 720 * HOUR_US} | more
    with reconcile.open_bill(str(file)) as lines:
        return reconcile.read_bill(str(file), lines, **asked)


def test_a_machine_is_known_by_id_name_or_tag_and_each_hour_is_held_against_its_own(tmp_path: Path) -> None:
    text = HEAD + line("i-1", 0, "1.5", tags='{"bursar-node": "a"}') + line("i-2", 1, "2", name="b")
    text += line("node_c", 2, "3.0000000001") + line("i-9", 0, "7") + line("i-1", 1, "4", tags='{"x": 1}')
    books = reconcile.read_books(
        [OURS, ours("node_a", 0, "1", name="a"), ours("node_a", 0, "0.25", name="a"),
         ours("node_b", 3, "9", name="b"), ours("node_c", 2, "3", name="c"),
         ours("node_own", 0, "5", host="Bursar c1")], "EffectiveCost",
    )  # fmt: skip
    rows = reconcile.matched(bill(text, tmp_path), books)

    def amount(row: dict[str, Any], name: str) -> str:
        return row[name]["amount"] if row[name] else "-"

    assert [
        (row["resource"], row["hour_start"][11:13], row["state"],
         *(amount(row, name) for name in ("estimate", "final", "variance")))
        for row in rows
    ] == [
        ("a", "00", "matched", "1.250000000", "1.500000000", "0.250000000"),
        ("a", "01", "provider-only", "-", "4.000000000", "4.000000000"),
        ("b", "01", "provider-only", "-", "2.000000000", "2.000000000"),
        ("b", "03", "books-only", "9.000000000", "-", "-9.000000000"),
        ("c", "02", "matched", "3.000000000", "3.000000000", "0.000000000"),
        ("i-9", "00", "provider-only", "-", "7.000000000", "7.000000000"),
    ]  # fmt: skip
    by = {(row["resource"], row["state"]): row for row in reconcile.by_resource(rows)}
    assert len(by) == 6
    total = reconcile.summary(rows, Decimal("0.01"), lambda text: {"amount": text, "currency": "USD"})
    assert (total["matched"], total["books_only"], total["provider_only"], total["differing"]) == (2, 1, 3, 1)
    assert Decimal(total["variance"]["amount"]) == Decimal("4.25")


def test_what_is_charged_for_more_than_an_hour_or_another_time_matches_no_hour(tmp_path: Path) -> None:
    text = HEAD + line("n", 0, "5", name="n", hours=3) + line("n", 0, "1", name="n")
    text += line("n", 0, "8").replace("2026-11", "2026-10")
    found = bill(text, tmp_path)
    assert (found.left_out, list(found.longer.values())) == (1, [(Decimal(5), 3)])
    rows = reconcile.matched(found, reconcile.read_books([OURS, ours("node_n", 0, "1")], "EffectiveCost"))
    assert [(row["state"], row["hours"]) for row in rows] == [("matched", 1), ("provider-only", 3)]


def test_a_packed_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress((HEAD + line("n", 0, "1")).encode()))
    with reconcile.open_bill(str(tmp_path / "b.csv.gz")) as lines:
        found = reconcile.read_bill("b", lines, "EffectiveCost", HOUR, HOUR + HOUR_US)
    assert list(found.amounts.values()) == [Decimal(1)]


@pytest.mark.parametrize("packed", [False, True])
def test_a_pipe_is_read_once(packed: bool) -> None:
    text = (HEAD + line("n", 0, "1")).encode()
    there, here = os.pipe()
    os.write(here, gzip.compress(text) if packed else text)
    os.close(here)
    with reconcile.open_bill(f"/dev/fd/{there}") as lines:
        found = reconcile.read_bill("b", lines, "EffectiveCost", HOUR, HOUR + HOUR_US)
    os.close(there)
    assert list(found.amounts.values()) == [Decimal(1)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ["1: ResourceId: there is no such column; the file is empty"]),
        (HEAD.replace("EffectiveCost", "EffectivCost"), ["1: EffectiveCost: there is no such column; did"]),
        (HEAD.replace("ResourceId", "x").replace("BillingC", "y"), ["ResourceId:", "BillingCurrency:"]),
        (HEAD + "a,b\n" + line("n", 0, "x"), ["2: has 2 cells; the head has 7", "3: EffectiveCost: 'x' is"]),
        (HEAD + line("n", 0, "1").replace("2026-11-01T00:00:00Z", "now"), ["2: ChargePeriodStart: 'now'"]),
        (HEAD + line("n", 0, "1", hours=0), ["2: ChargePeriodEnd: is not after ChargePeriodStart"]),
        (HEAD + line("n", 0, "1") + line("n", 1, "1").replace("USD", "EUR"), ["EUR (line 3) and USD (l"]),
        (HEAD + line("n", 0, "1e40") + line("n", 0, "NaN"), ["2: EffectiveCost", "3: EffectiveCost: 'NaN'"]),
        (HEAD + 'n,"' + "a" * 70_000 + '"\n', ["is not CSV: field larger than"]),
        (HEAD + "".join(line("n", 0, "x") for _ in range(30)), ["21: EffectiveCost", "and 10 more"]),
        (HEAD.replace("\n", ",EffectiveCost\n"), ["1: EffectiveCost: the column is there 2 times"]),
        (HEAD + line("n", 0, "1").replace("USD", " "), ["2: BillingCurrency: is empty"]),
    ],
)  # fmt: skip
def test_every_fault_of_a_file_is_told_with_line_column_and_what_would_be_right(
    text: str, told: list[str], tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        bill(text, tmp_path)
    for words in told:
        assert words in str(caught.value)


def test_a_file_that_is_no_text_or_cut_or_not_there_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress((HEAD + line("n", 0, "1") * 2_000).encode())
    for name, data, words in (
        ("b.csv", HEAD.encode() + b"\xff\xfe\n", "is not UTF-8"),
        ("c.gz", whole[: len(whole) // 2], "damaged from here on"),
    ):
        (tmp_path / name).write_bytes(data)
        with reconcile.open_bill(str(tmp_path / name)) as lines, pytest.raises(InvalidRequest, match=words):
            reconcile.read_bill(name, lines, "EffectiveCost", HOUR, HOUR + HOUR_US)
    with pytest.raises(InvalidRequest, match="cannot be read: No such file"):
        reconcile.open_bill(str(tmp_path / "none"))


def test_the_books_side_is_our_own_export_to_the_last_digit(tmp_path: Path) -> None:
    async def story(daemon: Daemon) -> None:
        await month(daemon, RESERVED)
        text = (await daemon.report(kind="focus"))[0].decode()
        books = reconcile.read_books(text.splitlines(keepends=True), "EffectiveCost")
        assert set(books.called.values()) == {"a", "b", "c", "s"}
        file = HEAD + "".join(
            line(f"i-{books.called[node]}", (hour - HOUR) // HOUR_US, f"{amount:f}", name=books.called[node])
            for (node, hour), amount in books.amounts.items()
        )
        rows = reconcile.matched(bill(file, tmp_path), books)
        assert rows
        assert {row["state"] for row in rows} == {"matched"}
        assert {row["variance"]["amount"] for row in rows} == {"0.000000000"}

    in_a_daemon(story)


def test_the_verb_ends_with_1_where_something_differs_and_prints_both_sides(
    fake: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fake.answers["Money/Cost"] = money_pb2.CostResponse(
        since=HOUR, until=HOUR + 720 * HOUR_US, period="2026-11", currency="USD", timezone="UTC",
        total=money_pb2.CostRow(),
    )  # fmt: skip
    data = (OURS + ours("node_n", 0, "1") + ours("node_n", 1, "2")).encode()
    fake.answers["Money/Report"] = [money_pb2.ReportChunk(data=part) for part in (data[:50], data[50:])]
    Path("same.csv").write_text(HEAD + line("i", 0, "1.009", name="n") + line("i", 1, "2", name="n"))
    Path("other.csv").write_text(HEAD + line("i", 0, "1.5", name="n"))
    Path("euro.csv").write_text(HEAD + line("i", 0, "1.5", name="n").replace("USD", "EUR"))
    assert run(["report", "reconcile", "same.csv", "--period", "2026-11", "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["state"], row["hours"], row["variance"]["amount"]) for row in found["rows"]] == [
        ("matched", 2, "0.009000000")
    ]
    assert run(["report", "reconcile", "other.csv", "--period", "2026-11", "--by", "hour"]) == 1
    assert "1 matched, 1 differ, 1 in the books only" in capsys.readouterr().err
    assert run(["report", "reconcile", "euro.csv", "--period", "2026-11"]) == 2
    assert run(["report", "reconcile", "same.csv", "--period", "2026-11", "--tolerance", "-1"]) == 2
    kept = len(fake.calls("Money/KeepBill"))
    assert kept == 0, "nothing is kept unless it is asked for"
    fake.answers["Money/KeepBill"] = money_pb2.KeepBillResponse(kept=True)
    assert run(["report", "reconcile", "same.csv", "--period", "2026-11", "--keep"]) == 0
    assert "kept: `bursar report bills --period 2026-11`" in capsys.readouterr().err
    (request,) = fake.calls("Money/KeepBill")
    assert (request.source, request.period, request.currency, request.cost, request.part, request.parts) == (
        "same.csv", "2026-11", "USD", "EffectiveCost", 0, 1
    )  # fmt: skip
    assert [(one.resource, one.hour, one.estimate.nanos, one.final.nanos) for one in request.lines] == [
        ("n", HOUR, "1000000000", "1009000000"), ("n", HOUR + HOUR_US, "2000000000", "2000000000")
    ]  # fmt: skip


def test_hours_that_agree_to_the_nano_are_kept_as_one_line_and_each_other_by_itself(tmp_path: Path) -> None:
    text = HEAD + "".join(line("n", hour, "1.5", name="n") for hour in range(5)) + line("n", 6, "2", name="n")
    text += line("i-9", 0, "7")
    told = [OURS, *(ours("node_n", hour, "1.5") for hour in range(6)), ours("node_n", 6, "1")]
    rows = reconcile.matched(bill(text, tmp_path), reconcile.read_books(told, "EffectiveCost"))
    (lines,) = reconcile.parts_of(rows)
    assert [
        (one.resource, (one.hour - HOUR) // HOUR_US, one.hours, one.estimate.nanos, one.final.nanos)
        for one in lines
    ] == [
        ("i-9", 0, 1, "", "7000000000"),
        ("n", 0, 5, "7500000000", "7500000000"),
        ("n", 5, 1, "1500000000", ""),
        ("n", 6, 1, "1000000000", "2000000000"),
    ]
    alone = [row for row in rows if row["state"] != "matched"]
    assert [len(part) for part in reconcile.parts_of(alone * 700)] == [1_000, 400]


NAME = "a" * 64
HUGE = money_pb2.BillLine(resource="n", hour=HOUR, hours=1, final={"nanos": "9" * 20})


def wire(part: int = 0, parts: int = 1, **changes: Any) -> money_pb2.KeepBillRequest:
    amount = types_pb2.Amount
    lines = [
        money_pb2.BillLine(
            resource="n", hour=HOUR, hours=3, estimate=amount(nanos="6"), final=amount(nanos="6")
        ),
        money_pb2.BillLine(resource="n", hour=HOUR + 3 * HOUR_US, hours=1, estimate=amount(nanos="2")),
        money_pb2.BillLine(resource="i-9", hour=HOUR, hours=1, final=amount(nanos="-7")),
    ]
    fields: dict[str, Any] = {
        **{"name": NAME, "source": "aws.csv", "period": "2026-11", "currency": "USD"},
        **{"cost": "EffectiveCost", "part": part, "parts": parts, "lines": lines},
    }
    return money_pb2.KeepBillRequest(**(fields | changes))


async def bills_of(daemon: Daemon, period: str = "2026-11") -> list[list[str]]:
    request = money_pb2.ReportRequest(kind="bills", period=period, format="csv")
    pieces = [chunk.data async for chunk in daemon.money.Report(request, None)]
    return [cells[1:] for cells in csv.reader(b"".join(pieces).decode().splitlines())]


def test_what_was_kept_is_told_again_with_estimate_and_final_apart_and_what_matched_nothing() -> None:
    async def story(daemon: Daemon) -> None:
        assert (await daemon.money.KeepBill(wire(), None)).kept
        assert not (await daemon.money.KeepBill(wire(), None)).kept, "the same part is kept once"
        rows = await bills_of(daemon)
        told = [tuple(cells[:3]) for cells in rows[1:] if cells[:1] in (["n"], ["i-9"])]
        assert rows[-1][0] == "total"
        assert told == [("i-9", "provider-only", "1"), ("n", "books-only", "1"), ("n", "matched", "3")]
        first = wire(lines=[wire().lines[0]], name="b" * 64, parts=2)
        await daemon.money.KeepBill(first, None)
        assert await bills_of(daemon) == rows, "a bill of which a part is missing does not count"
        await daemon.money.KeepBill(wire(1, 2, name="b" * 64, lines=[wire().lines[2]]), None)
        assert [cells[1] for cells in (await bills_of(daemon))[1:3]] == ["provider-only", "matched"]
        theirs = [money_pb2.BillLine(resource="g", hour=HOUR, hours=1, final=types_pb2.Amount(nanos="9"))]
        await daemon.money.KeepBill(wire(source="gcp.csv", name="c" * 64, lines=theirs), None)
        assert len(await bills_of(daemon)) == len(rows), "each source has its own"
        assert len(await bills_of(daemon, "2026-10")) == 1
        events = [decode(row.payload) for row in daemon.store.events()]
        assert sum(isinstance(event, BillKept) for event in events) == 4
        assert daemon.store.verify() == []

    in_a_daemon(story)


def kept_events(daemon: Daemon) -> int:
    return sum(isinstance(decode(row.payload), BillKept) for row in daemon.store.events())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"part": 1, "parts": 2}, "parts: 1 then, 2 now"),
        ({"source": "other.csv"}, "source: 'aws.csv' then, 'other.csv' now"),
        ({"period": "2026-11-01"}, "period: '2026-11' then, '2026-11-01' now"),
        ({"cost": "BilledCost"}, "cost: 'EffectiveCost' then, 'BilledCost' now"),
        ({"lines": [wire().lines[0]]}, "lines: are not those that were kept as part 0"),
    ],
)
def test_nothing_is_added_to_a_bill_that_another_kept(changes: dict[str, Any], said: str) -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.money.KeepBill(wire(), None)
        rows = await bills_of(daemon)
        set_caller(Identity("eve", Role.ADMIN))
        with pytest.raises(WrongState) as caught:
            await daemon.money.KeepBill(wire(**changes), None)
        assert said in caught.value.message
        assert not (await daemon.money.KeepBill(wire(), None)).kept, "the very same changes nothing"
        assert await bills_of(daemon) == rows
        assert kept_events(daemon) == 1

    in_a_daemon(story)


def test_a_bill_that_somebody_began_is_finished_by_nobody_else() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.money.KeepBill(wire(0, 2), None)
        set_caller(Identity("eve", Role.ADMIN))
        with pytest.raises(WrongState, match="by: 'ann', who has not kept all of it yet, 'eve' now"):
            await daemon.money.KeepBill(wire(1, 2), None)
        set_caller(ANN)
        assert (await daemon.money.KeepBill(wire(1, 2), None)).kept
        assert len(await bills_of(daemon)) == 5

    in_a_daemon(story)


def test_what_an_older_version_added_to_a_bill_of_another_does_not_count() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.money.KeepBill(wire(), None)
        rows = await bills_of(daemon)
        (row,) = [row for row in daemon.store.events() if isinstance(decode(row.payload), BillKept)]
        own = decode(row.payload)
        assert isinstance(own, BillKept)
        foreign = [replace(own, part=part, parts=2, source="other.csv", by="eve") for part in (0, 1)]
        await daemon.engine.durable(daemon.engine.commit(foreign, "eve"))
        assert await bills_of(daemon) == rows

    in_a_daemon(story)


def test_a_part_that_comes_many_times_at_once_is_kept_once() -> None:
    async def story(daemon: Daemon) -> None:
        told = await asyncio.gather(*(daemon.money.KeepBill(wire(), None) for _ in range(20)))
        assert sum(one.kept for one in told) == 1
        assert kept_events(daemon) == 1

    in_a_daemon(story)


def test_a_call_that_is_given_up_before_the_disk_has_it_leaves_one_event() -> None:
    async def story(daemon: Daemon) -> None:
        append, commit, read = daemon.store.append, daemon.engine.commit, daemon.engine.read
        gate, committed, reads = threading.Event(), asyncio.Event(), 0

        def slow(batch: Any) -> None:
            gate.wait(60)
            append(batch)

        def told(events: Any, actor: str) -> int:
            committed.set()
            return commit(events, actor)

        async def counted(question: Any) -> Any:
            nonlocal reads
            reads += 1
            return await read(question)

        await daemon.engine.durable()
        for owner, name, put in (
            (daemon.store, "append", slow), (daemon.engine, "commit", told), (daemon.engine, "read", counted)
        ):  # fmt: skip
            setattr(owner, name, put)
        first = asyncio.ensure_future(daemon.money.KeepBill(wire(), None))
        await committed.wait()
        first.cancel()
        second = asyncio.ensure_future(daemon.money.KeepBill(wire(), None))
        for _ in range(20):
            await asyncio.sleep(0)
        assert reads == 1, "what is on no disk yet cannot be read"
        gate.set()
        assert not (await second).kept
        assert kept_events(daemon) == 1

    in_a_daemon(story)


def test_an_older_bill_that_is_kept_again_counts_again() -> None:
    async def story(daemon: Daemon) -> None:
        old = [wire(part, 2, lines=[wire().lines[part]]) for part in (0, 1)]
        new = wire(name="b" * 64, lines=[wire().lines[2]])

        async def keep(*requests: money_pb2.KeepBillRequest) -> list[bool]:
            return [(await daemon.money.KeepBill(request, None)).kept for request in requests]

        assert await keep(*old) == [True, True]
        first = await bills_of(daemon)
        assert await keep(new, new) == [True, False]
        second = await bills_of(daemon)
        assert second != first
        assert await keep(old[0], old[0]) == [True, False]
        assert await bills_of(daemon) == second, "a part of it is missing still"
        assert await keep(old[1], *old) == [True, False, False]
        assert await bills_of(daemon) == first
        assert await keep(new) == [True]
        assert await bills_of(daemon) == second
        again = MoneyService(daemon.engine, daemon.settle)
        assert not (await again.KeepBill(new, None)).kept, "as after a restart"

    in_a_daemon(story)


def test_a_report_makes_lines_of_the_bills_that_count_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(payload: bytes) -> Any:
        made.append(payload)
        return decode(payload)

    async def story(daemon: Daemon) -> None:
        for name in "abcdef":
            await daemon.money.KeepBill(wire(0, 2, name=name * 64), None)
            await daemon.money.KeepBill(wire(1, 2, name=name * 64), None)
        monkeypatch.setattr(bills, "decode", counted)
        rows = await bills_of(daemon)
        assert len(rows) == 5
        assert len(made) == 2, "two parts of one bill"

    in_a_daemon(story)


def test_a_report_goes_no_further_than_the_event_it_is_of() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.money.KeepBill(wire(), None)
        upto = daemon.engine.state.version
        await daemon.money.KeepBill(wire(name="b" * 64, lines=[]), None)
        page = bills.bills(daemon.store, find_period("2026-11", daemon.engine.now()), "USD", upto)
        assert len(page.rows) == 3

    in_a_daemon(story)


def test_a_part_of_more_lines_than_the_loop_can_bear_is_refused_at_the_door() -> None:
    check_counts(wire(lines=[wire().lines[0]] * 1_000))
    with pytest.raises(InvalidRequest, match="lines: 1001 are given; at most 1000"):
        check_counts(wire(lines=[wire().lines[0]] * 1_001))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lines": [HUGE]}, "lines[0].final: is too large for a machine"),
        ({"name": "A" * 64}, "name: is no SHA-256"),
        ({"source": "a\x1b"}, "source: has 1 to 200 characters"),
        ({"source": ""}, "source: has 1 to 200"),
        ({"period": "2026"}, "2026"),
        ({"period": "2026-10"}, "lines[0].hour: is not in 2026-10"),
        ({"currency": "EUR"}, "the books are in USD"),
        ({"cost": "ListCost"}, "cost: 'ListCost'; known: EffectiveCost, BilledCost"),
        ({"part": 1}, "part: 1 of 1"),
        ({"part": -1}, "part: -1 of 1"),
        ({"parts": 1_001}, "at most 1000"),
        ({"lines": [money_pb2.BillLine(resource="n", hour=HOUR, hours=1)]}, "says no amount"),
        ({"lines": [money_pb2.BillLine(resource="n", hour=HOUR, hours=0)]}, "lines[0].hours: 0"),
        ({"lines": [money_pb2.BillLine(resource="n", hour=HOUR, hours=1, final={"nanos": "1.5"})]}, "whole"),
    ],
)  # fmt: skip
def test_what_could_be_of_no_bill_is_refused_by_its_field(changes: dict[str, Any], said: str) -> None:
    async def story(daemon: Daemon) -> None:
        with pytest.raises(InvalidRequest) as caught:
            await daemon.money.KeepBill(wire(**changes), None)
        assert said in caught.value.message
        assert daemon.engine.state.version == before

    before = 0

    async def told(daemon: Daemon) -> None:
        nonlocal before
        before = daemon.engine.state.version
        await story(daemon)

    in_a_daemon(told)


def test_a_variance_is_of_what_is_shown_and_a_credit_of_no_machine_has_a_name(tmp_path: Path) -> None:
    text = HEAD + line("i-1", 0, "1.0000000005", name="a") + line("", 0, "-3.5")
    text += line("i-1", 1, "-0.0000000001", name="a")
    books = reconcile.read_books([OURS, ours("node_a", 0, "0.000000001", name="a")], "EffectiveCost")
    rows = {
        (row["resource"], row["hour_start"][11:13]): row
        for row in reconcile.matched(bill(text, tmp_path), books)
    }
    met = rows["a", "00"]
    assert met["variance"]["amount"] == str(
        Decimal(met["final"]["amount"]) - Decimal(met["estimate"]["amount"])
    )
    assert rows["a", "01"]["final"]["amount"] == "0.000000000"
    assert rows[reconcile.NO_RESOURCE, "00"]["final"]["amount"] == "-3.500000000"
    kept = [one.resource for part in reconcile.parts_of(rows.values()) for one in part]
    assert reconcile.NO_RESOURCE in kept


def test_of_two_machines_of_one_name_each_hour_is_that_of_the_one_that_was_there(tmp_path: Path) -> None:
    text = (
        HEAD + line("i-1", 0, "1", name="w") + line("i-2", 1, "2", name="w") + line("i-3", 2, "4", name="w")
    )
    told = [OURS, ours("node_1", 0, "1", name="w"), ours("node_2", 1, "2", name="w")]
    rows = reconcile.matched(bill(text, tmp_path), reconcile.read_books(told, "EffectiveCost"))
    assert [(row["resource"], row["hour_start"][11:13], row["state"]) for row in rows] == [
        ("i-3", "02", "provider-only"),
        ("w", "00", "matched"),
        ("w", "01", "matched"),
    ]


def test_where_two_machines_of_one_name_were_there_at_once_it_is_not_guessed(tmp_path: Path) -> None:
    text = HEAD + line("i-1", 0, "1", name="w")
    told = [OURS, ours("node_1", 0, "1", name="w"), ours("node_2", 0, "2", name="w")]
    rows = reconcile.matched(bill(text, tmp_path), reconcile.read_books(told, "EffectiveCost"))
    assert [row["state"] for row in rows] == ["provider-only", "books-only", "books-only"]


def machine(resource: str, first: int, hours: int = 1) -> money_pb2.BillLine:
    at = HOUR + first * HOUR_US
    return money_pb2.BillLine(resource=resource, hour=at, hours=hours, final=types_pb2.Amount(nanos="5"))


@pytest.mark.parametrize(
    ("lines", "period", "twice"),
    [
        ([machine("n", 2)], "2026-11", True),
        ([machine("n", 2)], "2026-11-01", True),
        ([machine("n", 3), machine("i-9", 1)], "2026-11", False),
        ([machine("n", 3, 9), machine("i-9", 0)], "2026-11", True),
        ([machine("other", 0, 9), machine("(no resource)", 0)], "2026-11", False),
    ],
)
def test_what_another_bill_that_counts_says_of_a_machine_and_hour_counts_once(
    lines: list[money_pb2.BillLine], period: str, twice: bool
) -> None:
    """The same bill under two files' names, or of a month and of one of its days, was two bills."""

    async def story(daemon: Daemon) -> None:
        mine = [*wire().lines, machine("(no resource)", 0)]
        await daemon.money.KeepBill(wire(lines=mine), None)
        again = wire(source="copy.csv", name="d" * 64, lines=lines, period=period)
        if not twice:
            assert (await daemon.money.KeepBill(again, None)).kept
            return
        rows = await bills_of(daemon)
        with pytest.raises(WrongState) as caught:
            await daemon.money.KeepBill(again, None)
        assert "are in aws.csv of 2026-11 too, which ann kept, and would count twice" in caught.value.message
        assert "--replace aws.csv" in caught.value.message
        assert await bills_of(daemon) == rows
        again.replaces = "aws.csv"
        assert (await daemon.money.KeepBill(again, None)).kept
        assert not (await daemon.money.KeepBill(again, None)).kept
        cells = await bills_of(daemon)
        assert {row[0] for row in cells[1:-1]} == {one.resource for one in lines}, "it counts alone"
        with pytest.raises(WrongState, match=r"are in copy\.csv"):
            await daemon.money.KeepBill(wire(lines=mine), None)
        back = wire(lines=mine, replaces="copy.csv")
        assert (await daemon.money.KeepBill(back, None)).kept
        assert await bills_of(daemon) == rows
        assert daemon.store.verify() == []

    in_a_daemon(story)


@pytest.mark.parametrize(
    ("since", "until", "hours", "twice"),
    [
        ("2026-11-01T10:00:00Z", "2026-11-01T13:00:00Z", 3, True),
        ("2026-11-01T09:30:00Z", "2026-11-01T12:30:00Z", 3, True),
        ("2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z", 24, True),
        ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", 720, True),
        ("2026-11-01T00:00:00Z", "2027-11-01T00:00:00Z", 720, True),
        ("2026-11-01T09:00:00Z", "2026-11-01T11:00:00Z", 2, False),
        ("2026-11-01T12:00:00Z", "2026-11-03T12:00:00Z", 48, False),
    ],
)
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("short_first", [False, True])
def test_rows_of_any_length_meet_hours_that_another_file_has(
    tmp_path: Path, since: str, until: str, hours: int, twice: bool, known: bool, short_first: bool
) -> None:
    """Whichever is kept first; `known`: the books know the machine, and call it by its node's name."""
    books = reconcile.read_books([OURS, *[ours("node_n", 11, "1")] * known], "EffectiveCost")
    name = "n" if known else ""
    short = HEAD + line("i-1", 11, "1", name=name)
    long = HEAD + f"i-1,{name},{since},{until},USD,9,\n"
    order = (short, long) if short_first else (long, short)

    def request(text: str, source: str) -> money_pb2.KeepBillRequest:
        (lines,) = reconcile.parts_of(reconcile.matched(bill(text, tmp_path), books))
        theirs = [one for one in lines if one.HasField("final")]
        return wire(source=source, name=source[0] * 64, lines=theirs)

    async def story(daemon: Daemon) -> None:
        first, then = (request(text, f"{at}.csv") for at, text in zip("ab", order, strict=True))
        await daemon.money.KeepBill(first, None)
        if twice:
            with pytest.raises(WrongState, match=r"are in a\.csv of 2026-11 too.*--replace a\.csv"):
                await daemon.money.KeepBill(then, None)
            then.replaces = "a.csv"
        await daemon.money.KeepBill(then, None)
        told = sorted(int(row[2]) for row in (await bills_of(daemon))[1:-1])
        both = {short: 1, long: hours}
        assert told == sorted([both[order[1]]] if twice else both.values())

    in_a_daemon(story)


CREDIT = "ChargeCategory,InvoiceIssuerName,BillingAccountId," + HEAD.replace(",Tags", "")


def credit(cost: str, account: str = "1234", hour: int = 5, resource: str = "") -> str:
    times = f"2026-11-01T{hour:02}:00:00Z,2026-11-01T{hour + 1:02}:00:00Z"
    return f"Credit,AWS,{account},{resource},,{times},USD,{cost}\n"


def kept_as(text: str, folder: Path, source: str, period: str = "2026-11") -> money_pb2.KeepBillRequest:
    of = find_period(period, HOUR)
    found = bill(text, folder, since=of.since, until=of.until)
    (lines,) = reconcile.parts_of(reconcile.matched(found, reconcile.read_books([OURS], "EffectiveCost")))
    return wire(source=source, name=source[0] * 64, lines=lines, period=period)


@pytest.mark.parametrize(
    ("other", "twice"),
    [
        (credit("-3.5"), True),
        (credit("-3.5") + credit("-1", hour=6), True),
        (credit("-3.6"), False),
        (credit("-3.5", account="77"), False),
        (credit("-3.5", hour=6), False),
    ],
)
def test_a_credit_that_another_file_has_of_the_same_account_hour_and_amount_counts_once(
    tmp_path: Path, other: str, twice: bool
) -> None:
    """Credits are of no machine, and of a bill of credits alone two copies both counted."""

    async def story(daemon: Daemon) -> None:
        await daemon.money.KeepBill(kept_as(CREDIT + credit("-3.5"), tmp_path, "a.csv"), None)
        then = kept_as(CREDIT + other, tmp_path, "b.csv")
        if not twice:
            assert (await daemon.money.KeepBill(then, None)).kept
            return
        with pytest.raises(WrongState, match=r"\(no resource: Credit, AWS, 1234\) are in a\.csv of 2026-11"):
            await daemon.money.KeepBill(then, None)
        then.replaces = "a.csv"
        assert (await daemon.money.KeepBill(then, None)).kept
        assert {row[0] for row in (await bills_of(daemon))[1:-1]} == {"(no resource: Credit, AWS, 1234)"}

    in_a_daemon(story)


def test_what_names_a_machine_or_nobody_is_called_as_before(tmp_path: Path) -> None:
    found = bill(
        CREDIT + credit("1", resource="i-1") + "Tax,,,,w," + credit("2")[len("Credit,AWS,1234,,,") :],
        tmp_path,
    )
    assert {name for name, _ in found.amounts} == {"i-1", ""}
    assert {name for name, _ in bill(HEAD + line("", 0, "-3"), tmp_path).amounts} == {""}


@pytest.mark.parametrize("long_first", [False, True])
@pytest.mark.parametrize(("hour", "twice"), [(0, True), (11, True), (12, False)])
def test_a_row_that_goes_on_over_the_end_of_its_month_meets_hours_of_the_next(
    tmp_path: Path, hour: int, twice: bool, long_first: bool
) -> None:
    long = HEAD + "i-1,,2026-10-31T12:00:00Z,2026-11-01T12:00:00Z,USD,9,\n"
    both = [
        kept_as(long, tmp_path, "a.csv", "2026-10"),
        kept_as(HEAD + line("i-1", hour, "1"), tmp_path, "b.csv", "2026-11"),
    ]

    async def story(daemon: Daemon) -> None:
        first, then = both if long_first else reversed(both)
        await daemon.money.KeepBill(first, None)
        if not twice:
            assert (await daemon.money.KeepBill(then, None)).kept
            return
        with pytest.raises(WrongState, match="a row goes on over the end of 2026-10: leave it out of one"):
            await daemon.money.KeepBill(then, None)

    in_a_daemon(story)


def test_a_bill_that_is_replaced_counts_until_the_other_one_is_whole() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.money.KeepBill(wire(), None)
        rows = await bills_of(daemon)
        for part in (0, 1):
            assert await bills_of(daemon) == rows
            line = [machine("n", part)]
            asked = wire(part, 2, source="new.csv", name="e" * 64, lines=line, replaces="aws.csv")
            await daemon.money.KeepBill(asked, None)
        assert [row[0] for row in await bills_of(daemon)] == ["resource", "n", "total"]

    in_a_daemon(story)


def test_only_a_bill_that_counts_is_replaced() -> None:
    async def story(daemon: Daemon) -> None:
        with pytest.raises(InvalidRequest, match=r"replaces: no bill 'gone.csv' counts in 2026-11"):
            await daemon.money.KeepBill(wire(replaces="gone.csv"), None)
        assert kept_events(daemon) == 0

    in_a_daemon(story)


def test_names_of_machines_are_as_long_as_those_of_azure() -> None:
    long = (
        "/subscriptions/"
        + "0" * 36
        + "/resourceGroups/"
        + "g" * 90
        + "/providers/Microsoft.Compute/virtualMachines/"
    )

    async def story(daemon: Daemon) -> None:
        lines = [machine(long + "m" * 64, 0), machine(long.ljust(1_024, "x"), 0)]
        assert len(lines[0].resource) > 250
        assert (await daemon.money.KeepBill(wire(lines=lines), None)).kept
        text = (await daemon.report(kind="bills", format="text"))[0].decode()
        assert max(map(len, text.splitlines())) <= 100, "they go on in further lines"
        with pytest.raises(InvalidRequest, match=r"lines\[0\].resource: has 1 to 1024 characters"):
            await daemon.money.KeepBill(wire(lines=[machine("x" * 1_025, 0)], name="b" * 64), None)

    in_a_daemon(story)


def test_a_part_is_no_larger_than_a_message_and_hours_with_a_gap_are_apart(tmp_path: Path) -> None:
    name = "n" * 1_000
    text = HEAD + "".join(line(name, hour, "1.5") for hour in (0, 1, 3, 4))
    told = [OURS, *(ours(f"node_{hour}", hour, "1.5", host="aws", name=name) for hour in (0, 1, 3, 4))]
    rows = reconcile.matched(bill(text, tmp_path), reconcile.read_books(told, "EffectiveCost"))
    (lines,) = reconcile.parts_of(rows)
    assert [((one.hour - HOUR) // HOUR_US, one.hours) for one in lines if one.HasField("final")] == [
        (0, 2),
        (3, 2),
    ]
    alone = [row | {"state": "provider-only"} for row in rows]
    parts = [*reconcile.parts_of(alone * 300)]
    assert sum(map(len, parts)) == len(alone) * 300
    assert all(sum(each.ByteSize() for each in part) < 900_000 for part in parts)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("bills", "bills are kept by days and months of UTC"),
        ("anomalies", "anomalies are looked for in are of UTC"),
        ("energy", "months of energy are of UTC"),
    ],
)
def test_a_report_of_utc_says_in_its_own_words_that_it_is(kind: str, said: str) -> None:
    async def story(daemon: Daemon) -> None:
        with pytest.raises(InvalidRequest, match=f"{said}.*; leave out Asia/Kolkata"):
            await daemon.report(kind=kind, timezone="Asia/Kolkata", format="json")

    in_a_daemon(story)
