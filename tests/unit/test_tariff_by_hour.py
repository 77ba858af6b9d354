"""A tariff by the hour of the week: what a node costs follows it, piece by piece and to the nano; what jobs
pay is by its mean; days on which clocks are set have the hours that they have.
"""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from money_daemon import Daemon, in_a_daemon

from bursar.cli.prices import _means
from bursar.clock import HOUR_US, SECOND_US, Instant, format_instant
from bursar.codec import view
from bursar.errors import PolicyInvalid
from bursar.v1 import money_pb2 as pb
from bursar_policies.compile import Applied, PriceTable, node_rate
from bursar_policies.document import parse_documents
from bursar_policies.specs import CostModelSpec, Power
from bursar_policies.tariffs import NEVER, WEEK_HOURS, mean_over, next_change, price_at
from bursard.audit import problems_of
from bursard.services.explain_price import Subject, explanation
from bursard.state import Limits
from bursard.state.decide import nodes
from bursard.store import ChargeFilter

USD = 10**9
MODEL = (
    "kind: CostModel\nname: m\nspec:\n  pool: p\n  node_capex: 90003 USD\n  useful_life: 5y\n"
    "  power:\n    max_watts: 10200\n    load_factor: 0.6\n    pue: 1.54\n    carbon: 100 g/kWh\n"
    "    timezone: {zone}\n    tariff:\n{tariff}"
)
NIGHT = (
    "      - {price: 0.30 USD/kWh}\n"
    "      - {days: mon-fri, hours: 22-24, price: 0.10 USD/kWh}\n"
    "      - {days: mon-fri, hours: 0-6, price: 0.10 USD/kWh}\n"
    "      - {days: 'sat,sun', price: 0.05 USD/kWh}\n"
)


def model(tariff: str = NIGHT, zone: str = "Europe/Berlin") -> str:
    return MODEL.format(tariff=tariff, zone=zone)


def spec_of(text: str) -> CostModelSpec:
    spec = parse_documents(text, "m.yaml")[0].spec
    assert isinstance(spec, CostModelSpec)
    return spec


def power_of(text: str) -> Power:
    power = spec_of(text).power
    assert power is not None
    return power


def instant(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * SECOND_US


@pytest.mark.parametrize(
    ("at", "cents"),
    [
        ("2026-11-30T05:59:59+01:00", 10),
        ("2026-11-30T06:00:00+01:00", 30),
        ("2026-11-30T21:59:59+01:00", 30),
        ("2026-11-30T22:00:00+01:00", 10),
        ("2026-11-28T12:00:00+01:00", 5),
        ("2026-11-29T23:59:59+01:00", 5),
        ("2026-07-06T06:00:00+02:00", 30),  # in summer, by the clock of the place
        ("2026-07-06T05:00:00+02:00", 10),
    ],
)
def test_an_hour_costs_what_the_tariff_says_by_the_clocks_of_the_place(at: str, cents: int) -> None:
    assert price_at(power_of(model()), instant(at)) == cents * USD // 100


def test_the_mean_is_of_the_week() -> None:
    power = power_of(model())
    week = 5 * (16 * 300 + 8 * 100) + 2 * 24 * 50
    assert power.tariff.nanos == round(Fraction(week * USD, 1000 * WEEK_HOURS))
    assert len(power.hours) == WEEK_HOURS


@pytest.mark.parametrize(
    ("tariff", "said"),
    [
        ("{hours: 7-21, price: 1 USD/kWh}", "mon 00:00 has no price; begin with an entry of a price alone"),
        ("ALL{hours: 22-6, price: 1 USD/kWh}", "'22-6' ends before it begins"),
        ("ALL{hours: 7-25, price: 1 USD/kWh}", "'7-25' is not hours of a day"),
        ("ALL{hours: 7, price: 1 USD/kWh}", "'7' is not hours of a day"),
        ("ALL{hours: 7-, price: 1 USD/kWh}", "is not hours of a day"),
        ("ALL{hours: 7-7, price: 1 USD/kWh}", "'7-7' ends before it begins"),
        ("ALL{days: monday, price: 1 USD/kWh}", "'monday' is not days of the week"),
        ("ALL{days: sat-mon, price: 1 USD/kWh}", "'sat-mon' ends before it begins"),
        ("ALL{day: mon, price: 1 USD/kWh}", "day"),
        ("ALL{days: mon}", "price"),
        ("ALL{days: mon, price: 1 EUR/kWh}", "mixes currencies"),
        ("{price: 1 EUR/kWh}", "mixes EUR with USD"),
        ("ALL" * 48 + "{price: 1 USD/kWh}", "at most 48 entries"),
    ],
)  # fmt: skip
def test_a_wrong_tariff_is_refused_with_its_place(tariff: str, said: str) -> None:
    entry = "      - "
    text = entry + tariff.replace("ALL", "{price: 1 USD/kWh}\n" + entry) + "\n"
    with pytest.raises(PolicyInvalid) as found:
        parse_documents(model(text), "m.yaml")
    assert said in str(found.value)
    assert "m.yaml:" in str(found.value)


def test_a_wrong_zone_and_one_of_a_single_price_are_refused() -> None:
    with pytest.raises(PolicyInvalid, match="did you mean 'Europe/Berlin'"):
        parse_documents(model(zone="Europe/Berlim"), "m.yaml")
    with pytest.raises(PolicyInvalid, match="is of a tariff by the hour"):
        parse_documents(model().replace("    tariff:\n" + NIGHT, "    tariff: 1 USD/kWh\n"), "m.yaml")


def test_of_several_entries_that_name_an_hour_the_last_one_counts() -> None:
    power = power_of(model("      - {price: 1 USD/kWh}\n      - {hours: '0-6,07-24', price: 2 USD/kWh}\n"))
    assert [power.hours[hour] // USD for hour in (5, 6, 7, 23, 24 + 6)] == [2, 1, 2, 2, 1]


ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Asia/Kathmandu")
TARIFFS = st.lists(st.sampled_from([0, 50, 100, 300, 301]), min_size=WEEK_HOURS, max_size=WEEK_HOURS)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(ZONES), TARIFFS, st.integers(0, 366 * 24 * 60), st.integers(1, 60 * 100))
def test_next_changes_and_means_are_what_each_minute_says(
    zone: str, hours: list[int], minute: int, minutes: int
) -> None:
    power = Power(1, *[power_of(model()).load_factor] * 2, power_of(model()).tariff, None, tuple(hours), zone)
    start = instant("2026-01-01T00:00:00+00:00") + minute * 60 * SECOND_US

    def told(at: int) -> int:
        shown = datetime.fromtimestamp(at // SECOND_US, UTC).astimezone(ZoneInfo(zone))
        return hours[shown.weekday() * 24 + shown.hour]

    each = [told(start + k * 60 * SECOND_US) for k in range(minutes)]
    assert [price_at(power, start + k * 60 * SECOND_US) for k in range(minutes)] == each
    first = next((k for k, price in enumerate(each) if price != each[0]), None)
    change = next_change(power, start)
    assert (
        change == start + first * 60 * SECOND_US
        if first is not None
        else change >= start + minutes * 60 * SECOND_US
    )
    assert mean_over(power, start, start + minutes * 60 * SECOND_US) == Fraction(sum(each), minutes)


def test_a_tariff_that_never_changes_has_no_next_change() -> None:
    assert next_change(power_of(model("      - {price: 1 USD/kWh}\n")), 0) == NEVER
    assert (
        PriceTable([Applied(parse_documents(model("      - {price: 1 USD/kWh}\n"), "m")[0])]).next_change(0)
        == NEVER
    )


def test_jobs_pay_by_the_mean_and_a_node_costs_what_the_hour_costs() -> None:
    table = PriceTable([Applied(parse_documents(model(), "m.yaml")[0])])
    night, day = (
        table.lookup_pool("p", Instant(instant(f"2026-11-30T{hour}:00:00+01:00"))) for hour in ("03", "12")
    )
    assert night is not None
    assert day is not None
    assert (night.components, night.price_id) == (day.components, day.price_id)
    watts = Fraction("10.2") * Fraction("0.6") * Fraction("1.54")
    assert day.cost.total - night.cost.total == pytest.approx(watts * (USD * 20 // 100), abs=1)
    assert day.marginal_nanos_per_hour - night.marginal_nanos_per_hour == day.cost.total - night.cost.total
    mean = node_rate(spec_of(model())).capacity_nanos_per_hour
    assert day.mean_nanos_per_hour == night.mean_nanos_per_hour == mean
    assert day.rate_nanos_per_hour == round(Fraction(mean) / Fraction("0.8"))
    wire = explanation(Subject("p", day), None)
    assert {part.name: part.rate_nanos_per_hour for part in wire.parts}["mean_cost"] == mean
    said = _means(view.price_explanation(wire), "charge")
    assert said == "what jobs pay: the mean cost over the 80% of its hours that can be sold"


async def passes(daemon: Daemon, minutes: int) -> None:
    """As the daemon does: what prices became is said before what a node tells is booked."""
    daemon.clock.advance(minutes * 60 * SECOND_US)
    state, engine = daemon.engine.state, daemon.engine
    for node in state.nodes.values():
        engine.commit(nodes.came(node, engine.prices, engine.now()), "bursard")
    daemon.meter()


async def rows_of(daemon: Daemon) -> list[Any]:
    return list(daemon.store.charges(ChargeFilter(), await daemon.engine.books()))


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Kolkata"])
@pytest.mark.parametrize(
    "begin", ["2027-10-30T20:00:00+00:00", "2026-11-27T13:00:00+00:00", "2027-03-27T20:00:00+00:00"]
)
@pytest.mark.parametrize("every", [13, 500])
def test_what_a_node_cost_is_the_tariff_of_each_hour_to_the_nano(zone: str, begin: str, every: int) -> None:
    """Over the end of summer time, a weekend, and its beginning; jobs come and go meanwhile."""

    async def story(daemon: Daemon) -> None:
        daemon.clock.advance(instant(begin) - daemon.engine.now())
        await daemon.apply(model(zone=zone))
        daemon.node("a")
        start, power = daemon.engine.now(), power_of(model(zone=zone))
        jobs = [daemon.submit(project="p")]
        for turn in range(-(-40 * 60 // every)):
            await passes(daemon, every)
            if turn % 5 == 3:
                daemon.finish(jobs.pop())
                jobs.append(daemon.submit(project="q"))
        end = daemon.engine.state.nodes[next(iter(daemon.engine.state.nodes))].through
        rows = await rows_of(daemon)
        expected, at = Fraction(0), start
        while at < end:
            until = min(next_change(power, at), end)
            rate = node_rate(spec_of(model(zone=zone)), (("H100", 2),), tariff_nanos=price_at(power, at))
            expected += Fraction(rate.capacity_nanos_per_hour * (until - at), HOUR_US)
            at = until
        cost = sum(row.nanos for row in rows)
        assert abs(cost - expected) <= 3, "three components of the last, broken hour are rounded"
        paid = sum(row.nanos for row in rows if row.kind == "usage")
        standard = node_rate(spec_of(model(zone=zone)), (("H100", 2),)).components
        held = sum(row.held_us for row in rows if row.kind == "usage")
        whole = Fraction(standard.gpu, 2) + Fraction(standard.cpu, 8) + Fraction(standard.memory, 64)
        assert abs(paid - whole * Fraction(held, HOUR_US)) < 100 * len(rows), "whenever it was placed"
        for month in {begin[:7], format_instant(Instant(end))[:7]}:
            text, _ = await daemon.report(kind="statement", format="json", period=month)
            assert json.loads(text)["difference"]["amount"] == "0.000000000"
        assert [*daemon.engine.state.ledger.violations(), *daemon.store.verify()] == []
        with daemon.store.picture() as picture:
            assert problems_of(picture, Limits()) == []

    in_a_daemon(story)


def test_the_report_of_energy_values_each_hour_at_its_tariff() -> None:
    """Two hours at 0.30 and two at 0.10: four kWh at 1.54 cost 0.20 each in the mean."""

    async def story(daemon: Daemon) -> None:
        daemon.clock.advance(instant("2026-11-30T20:00:00+01:00") - daemon.engine.now())
        await daemon.apply(model())
        daemon.node("a")
        job = daemon.submit(project="nlp")
        for _ in range(4):
            await passes(daemon, 60)
        daemon.finish(job, energy_millijoules=4 * 3_600_000_000, source="measured")
        await daemon.engine.durable()
        text, _ = await daemon.report(kind="energy", format="json", by="project")
        [row] = json.loads(text)["rows"]
        assert row["energy_cost"]["amount"] == "1.232000000"
        assert row["without_cost_percent"] == 0

    in_a_daemon(story)


def test_a_what_if_tries_a_tariff_by_the_hour_at_what_jobs_would_pay() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(model("      - {price: 0.20 USD/kWh}\n"))
        daemon.node("a")
        daemon.run(hours=5, project="nlp")
        await daemon.engine.durable()
        source = pb.PolicySource(name="m.yaml", text=model())
        asked = pb.ReportRequest(kind="whatif", period="2026-11", format="json", sources=[source])
        data = b"".join([chunk.data async for chunk in daemon.money.Report(asked, None)])
        [row] = json.loads(data)["rows"]
        rates = [
            node_rate(spec_of(model(t)), (("H100", 2),)).standard_nanos_per_hour
            for t in (NIGHT, "      - {price: 0.20 USD/kWh}\n")
        ]
        assert row["change_percent"] == pytest.approx(100 * (rates[0] / rates[1] - 1), abs=0.01)

    in_a_daemon(story)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Kolkata"])
def test_rows_of_focus_have_one_unit_price_for_each_price_id_and_cost_what_was_booked(zone: str) -> None:
    async def story(daemon: Daemon) -> None:
        daemon.clock.advance(instant("2026-11-27T13:00:00+00:00") - daemon.engine.now())
        await daemon.apply(model(zone=zone))
        daemon.node("a")
        job = daemon.submit(project="p")
        for _ in range(30):
            await passes(daemon, 37)
        daemon.finish(job)
        await passes(daemon, 300)
        await daemon.engine.durable()
        text, _ = await daemon.report(kind="focus", format="csv")
        lines = [*csv.DictReader(io.StringIO(text.decode()))]
        prices: dict[str, set[str]] = {}
        for line in lines:
            if line["SkuPriceId"]:
                prices.setdefault(line["SkuPriceId"], set()).add(line["ListUnitPrice"])
        assert all(len(each) == 1 for each in prices.values())
        assert len(prices) == 4, "what the job pays, and a node that is idle at three tariffs"
        for line in lines:
            if line["SkuPriceId"]:
                costs = [Decimal(line[name]) for name in ("EffectiveCost", "ListCost")]
                assert abs(costs[0] - costs[1]) < Decimal("0.00000001"), line
        assert sum(Decimal(line["EffectiveCost"]) for line in lines) * USD == sum(
            row.nanos for row in await rows_of(daemon)
        )

    in_a_daemon(story)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Kolkata"])
@pytest.mark.parametrize("every", [7, 30, 250])
def test_where_a_tariff_changes_within_an_hour_each_part_is_a_row_of_the_hours_that_it_was(
    zone: str, every: int
) -> None:
    """An hour at two rates in one row had the price of the one, and a quantity that nobody used."""

    async def story(daemon: Daemon) -> None:
        daemon.clock.advance(instant("2026-11-27T13:00:00+00:00") - daemon.engine.now())
        await daemon.apply(model(zone=zone))
        daemon.node("a")
        for _ in range(1_500 // every):
            await passes(daemon, every)
        await daemon.engine.durable()
        text, _ = await daemon.report(kind="focus", format="csv")
        each = set()
        for line in csv.DictReader(io.StringIO(text.decode())):
            if line["SkuPriceId"]:
                begin, end = (instant(line[name]) for name in ("ChargePeriodStart", "ChargePeriodEnd"))
                each.add(round(float(line["PricingQuantity"]) * HOUR_US / (end - begin), 5))
        assert len(each) == 1, each
        assert [*daemon.engine.state.ledger.violations(), *daemon.store.verify()] == []
        with daemon.store.picture() as picture:
            assert problems_of(picture, Limits()) == []

    in_a_daemon(story)


@pytest.mark.parametrize("reboots", [1, 3])
@pytest.mark.parametrize("told", [7, 33])
def test_over_a_reboot_too_each_part_of_an_hour_at_two_rates_is_a_row_of_its_own(
    reboots: int, told: int
) -> None:
    async def story(daemon: Daemon) -> None:
        daemon.clock.advance(instant("2026-11-27T15:00:00+00:00") - daemon.engine.now())  # 20:30 in Kolkata
        await daemon.apply(model(zone="Asia/Kolkata"))
        daemon.node("a")
        await passes(daemon, told)
        for boot in range(reboots):
            daemon.clock.advance(40 * 60 * SECOND_US)
            again(daemon, f"b{boot}", up_us=11 * 60 * SECOND_US)
        engine = daemon.engine
        [node] = engine.state.nodes.values()
        engine.commit(nodes.closed(engine.state, engine.prices, node, node.through + HOUR_US, "unknown"), "d")
        await engine.durable()
        text, _ = await daemon.report(kind="focus", format="csv")
        lines = [line for line in csv.DictReader(io.StringIO(text.decode())) if line["SkuPriceId"]]
        used = sum(float(line["PricingQuantity"]) for line in lines)
        assert used == pytest.approx((node.through - node.axis_start) / HOUR_US, abs=1e-6)
        assert len({line["ListUnitPrice"] for line in lines}) >= 2
        rows = await rows_of(daemon)
        for row in rows:
            assert abs(Fraction(row.rate * row.held_us, HOUR_US) - row.nanos) <= 3 * 60, row
        assert [*engine.state.ledger.violations(), *daemon.store.verify()] == []
        with daemon.store.picture() as picture:
            assert problems_of(picture, Limits()) == []

    in_a_daemon(story)


def again(daemon: Daemon, boot_id: str, up_us: int) -> None:
    """The node comes back in another boot, which began so long ago."""
    state, engine = daemon.engine.state, daemon.engine
    [node] = state.nodes.values()
    found = nodes.hello(
        state, engine.ids, engine.prices, facts=node.facts, boot_id=boot_id, boot_us=up_us, now=engine.now()
    )
    engine.commit(found, "node:a")
