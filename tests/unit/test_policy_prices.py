"""Rates of owned nodes and the price table: exact, dated, and unknown rather than free."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.clock import Instant, parse_instant
from bursar.errors import InvalidRequest
from bursar.model import Device, NodeFacts
from bursar.money import NANOS_MAX
from bursar_policies.compile import (
    FOREVER,
    Applied,
    PriceQuote,
    PriceTable,
    dearest_rate,
    node_rate,
    split_components,
)
from bursar_policies.document import catalog_dir, parse_documents
from bursar_policies.specs import CostModelSpec, Document, PriceBookSpec, PriceRow, Weights

RACK = (catalog_dir() / "onprem-example.yaml").read_text()
HOUR = 3_600_000_000


def rack() -> CostModelSpec:
    spec = parse_documents(RACK, "rack.yaml")[0].spec
    assert isinstance(spec, CostModelSpec)
    return spec


def book(*rows: tuple[str, int, int, int], name: str = "b") -> Document:
    """A book of (instance_type, nanos, valid_from, valid_until) rows, on demand."""
    prices = tuple(
        PriceRow("aws", "r1", kind, "on-demand", nanos, start, until) for kind, nanos, start, until in rows
    )
    return Document("PriceBook", name, PriceBookSpec("test", "USD", prices))


def rate(table: PriceTable, at: int, kind: str = "x") -> int | None:
    quote = table.lookup_machine("aws", "r1", kind, "on-demand", Instant(at))
    return quote.rate_nanos_per_hour if quote else None


# ------------------------------------------------------------------ owned nodes


def test_the_worked_example_of_an_eight_gpu_rack() -> None:
    got = node_rate(rack(), [("H100", 8)])
    thousands = {p.name: round(p.nanos_per_hour * 8760 / 1e12, 1) for p in got.parts}
    assert thousands == {
        "capex": 62.1, "energy": 7.0, "colo": 22.5, "support": 15.0, "staff": 5.6
    }  # fmt: skip
    assert round(got.capacity_nanos_per_hour * 8760 / 1e12, 1) == 112.3
    per_gpu = [
        round(nanos / 8 / 1e9, 2)
        for nanos in (
            got.capacity_nanos_per_hour,
            got.standard_nanos_per_hour,
            got.full_absorption_nanos_per_hour(Fraction(1, 2)),
        )
    ]
    assert per_gpu == [1.60, 2.00, 3.20]


def test_the_parts_and_components_sum_to_the_rate_exactly() -> None:
    got = node_rate(rack(), [("H100", 8)])
    assert sum(p.nanos_per_hour for p in got.parts) == got.capacity_nanos_per_hour
    assert got.components.total == got.standard_nanos_per_hour
    assert got.components.gpu * 100 // got.standard_nanos_per_hour in (84, 85)


def test_a_node_without_gpus_gives_the_gpu_weight_to_the_rest() -> None:
    got = node_rate(rack())
    assert got.components.gpu == 0
    assert got.components.total == got.standard_nanos_per_hour
    assert abs(got.components.cpu - 2 * got.components.memory) <= 2


def test_no_hours_sold_have_no_full_absorption_rate() -> None:
    with pytest.raises(ValueError, match="more than 0"):
        node_rate(rack()).full_absorption_nanos_per_hour(Fraction(0))


@given(
    st.integers(0, 2**62),
    st.tuples(*[st.decimals(0, 1000, places=9)] * 3),
    st.booleans(),
    st.booleans(),
)
def test_components_always_sum_to_the_rate(
    nanos: int, weights: tuple[Decimal, Decimal, Decimal], has_gpu: bool, has_memory: bool
) -> None:
    got = split_components(nanos, Weights(*weights), has_gpu=has_gpu, has_memory=has_memory)
    assert got.total == nanos
    assert min(got.gpu, got.cpu, got.memory) >= 0
    assert has_gpu or got.gpu == 0
    assert has_memory or got.memory == 0


def test_devices_of_a_mixed_pool_add_their_price_and_power() -> None:
    text = RACK + "  gpus: {H100: {capex: 30000 USD, max_watts: 700}, other: {capex: 1000 USD}}\n"
    text = text.replace("  component_weights: {gpu: 0.85, cpu: 0.10, memory: 0.05}\n", "")
    spec = parse_documents(text, "x")[0].spec
    assert isinstance(spec, CostModelSpec)
    bare, one, other = (
        node_rate(spec, gpus) for gpus in ([], [("H100", 1)], [("K80", 1)])
    )  # fmt: skip
    assert bare.capacity_nanos_per_hour < other.capacity_nanos_per_hour
    assert other.capacity_nanos_per_hour < one.capacity_nanos_per_hour
    # 30 of 330 k$ are the GPU's: so is that share of the rate.
    assert round(one.components.gpu / one.standard_nanos_per_hour, 3) == 0.091


# ------------------------------------------------------------------ the table


@pytest.mark.parametrize(
    ("capex", "more", "rate"),
    [
        ("403980000000000", "", None),
        ("403990000000000", "", "9223515981.74"),
        ("700000000000000", "", "15981735159.82"),
        ("1", ", gpus: {H100: {capex: 25300000000000 KRW, max_watts: 700}}", "9242009132"),
    ],
)
def test_a_node_that_costs_more_an_hour_than_a_rate_can_be_is_refused_with_both(
    capex: str, more: str, rate: str | None
) -> None:
    """Of its devices as many of the dearest as a node may have count."""
    text = (
        f"kind: CostModel\nname: m\nspec: {{pool: p, node_capex: {capex} KRW, useful_life: 5y,"
        f" practical_capacity: 100%{more}}}\n"
    )
    if rate is None:
        [document] = parse_documents(text, "m.yaml")
        assert isinstance(document.spec, CostModelSpec)
        assert dearest_rate(document.spec) <= NANOS_MAX
        return
    with pytest.raises(InvalidRequest, match=rf"m\.yaml:3:\d+: .*cost up to {rate}.* KRW; a rate is at most"):
        parse_documents(text, "m.yaml")


def test_an_unknown_price_is_none_and_never_zero() -> None:
    table = PriceTable([Applied(book(("x", 5, 10, 20)))])
    assert rate(table, 9) is None
    assert rate(table, 10) == 5
    assert rate(table, 20) is None
    assert rate(table, 10, "y") is None
    assert table.lookup_machine("aws", "r1", "x", "spot", Instant(10)) is None
    assert PriceTable().lookup_pool("local", Instant(0)) is None


def test_carbon_is_dated_as_the_cost_model_that_says_it_and_unknown_where_none_does() -> None:
    def model(power: str) -> Document:
        power = f"{{max_watts: 9, tariff: 1 USD/kWh{power}}}"
        text = f"{{pool: a, node_capex: 9 USD, useful_life: 5y, power: {power}}}"
        return parse_documents(f"kind: CostModel\nname: m\nspec: {text}\n", "m.yaml")[0]

    table = PriceTable(
        [
            Applied(model(", pue: 1.54, carbon: 381 g/kWh"), 1, 10),
            Applied(model(", carbon: 0.5g/kWh"), 2, 20),
            Applied(model(""), 3, 30),
        ]
    )
    told = [table.carbon_of("a", Instant(at)) for at in (9, 10, 19, 20, 29, 30)]
    before, after = Fraction("1.54") * 381, Fraction("0.5")
    assert told == [None, before, before, after, after, None]
    assert table.carbon_of("b", Instant(10)) is None


def test_the_newest_price_wins_from_its_day_on() -> None:
    table = PriceTable([Applied(book(("x", 5, 0, 0), ("x", 7, 100, 0), ("x", 6, 50, 200)))])
    assert [rate(table, at) for at in (0, 49, 50, 99, 100, 10**9)] == [5, 5, 6, 6, 7, 7]
    history = table.history("aws", "r1", "x", "on-demand")
    assert [(a, b, q.rate_nanos_per_hour) for a, b, q in history] == [
        (0, 50, 5), (50, 100, 6), (100, FOREVER, 7)
    ]  # fmt: skip


def test_a_new_version_never_reprices_the_past() -> None:
    first = Applied(book(("x", 5, 0, 0)), 1, 0)
    second = Applied(book(("x", 9, 0, 0)), 2, 1000)
    before, after = PriceTable([first]), PriceTable([second, first])
    assert all(rate(before, at) == rate(after, at) == 5 for at in (0, 500, 999))
    assert rate(after, 1000) == 9
    old = after.lookup_machine("aws", "r1", "x", "on-demand", Instant(999))
    new = after.lookup_machine("aws", "r1", "x", "on-demand", Instant(1000))
    assert old is not None
    assert new is not None
    assert old.price_id == "pricebook/b@1#aws/r1/x/on-demand"
    assert new.price_id == "pricebook/b@2#aws/r1/x/on-demand"


def test_a_row_dropped_by_a_new_version_is_unknown_from_then_on() -> None:
    table = PriceTable([Applied(book(("x", 5, 0, 0)), 1, 0), Applied(book(("y", 9, 0, 0)), 2, 1000)])
    assert (rate(table, 999), rate(table, 1000)) == (5, None)


def test_a_removed_document_stops_pricing() -> None:
    table = PriceTable([Applied(book(("x", 5, 0, 0)), 1, 0, 700)])
    assert (rate(table, 699), rate(table, 700)) == (5, None)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30), st.integers(0, 30)), max_size=8),
    st.integers(0, 35),
)
def test_the_table_agrees_with_a_plain_scan(rows: list[tuple[int, int, int]], at: int) -> None:
    documents = [
        Applied(book(("x", nanos, start, start + length if length else 0), name=f"b{i}"))
        for i, (nanos, start, length) in enumerate(rows)
    ]
    alive = [
        (start, f"b{i}", nanos)
        for i, (nanos, start, length) in enumerate(rows)
        if start <= at and (not length or at < start + length)
    ]
    assert rate(PriceTable(documents), at) == (max(alive)[2] if alive else None)


def test_a_node_is_priced_by_its_machine_type_or_its_pool() -> None:
    table = PriceTable([Applied(book(("x", 5, 0, 0))), Applied(parse_documents(RACK, "r")[0], 4)])
    devices = tuple(Device(n, f"u{n}", "H100") for n in range(8))
    owned = NodeFacts(name="n", cpu_milli=1000, memory_bytes=1, devices=devices, pool="onprem-a")
    quote = table.lookup(owned, Instant(0))
    assert quote is not None
    assert quote.price_id == "costmodel/rack-a@4"
    assert quote.components.total == quote.rate_nanos_per_hour == 16_020_498_014
    assert [p.name for p in quote.parts] == ["capex", "energy", "colo", "support", "staff"]
    rented = NodeFacts(
        name="n", cpu_milli=1000, memory_bytes=1, provider="aws", region="r1", instance_type="x"
    )
    quote = table.lookup(rented, Instant(0))
    assert quote is not None
    assert quote.rate_nanos_per_hour == 5
    stranger = NodeFacts(
        name="n", cpu_milli=1000, memory_bytes=1, provider="aws", region="r1", instance_type="z",
        pool="onprem-a",
    )  # fmt: skip
    assert table.lookup(stranger, Instant(0)) is None


def test_offers_are_ranked_by_price_and_filtered_by_what_is_needed() -> None:
    rows = (
        ("small", 1, "T4", 1, 30), ("big", 8, "H100", 8, 10), ("dear", 8, "H100", 8, 20),
        ("cpu", 4, "", 0, 1),
    )  # fmt: skip
    prices = tuple(
        PriceRow("aws", "r1", name, "on-demand", nanos, 0, 0, cpus * 1000, 0, gpu, count)
        for name, cpus, gpu, count, nanos in rows
    )
    table = PriceTable([Applied(Document("PriceBook", "b", PriceBookSpec("t", "USD", prices)))])
    at = Instant(0)
    found = table.offers(at, gpu_types=["H100"], gpu_count=8)
    assert [(o.instance_type, o.per_gpu_nanos_per_hour) for o in found] == [("big", 1), ("dear", 2)]
    assert [o.instance_type for o in table.offers(at, gpu_count=1)] == ["big", "dear", "small"]
    assert [o.instance_type for o in table.offers(at)] == ["cpu"]
    assert table.offers(at, gpu_count=1, cpu_milli=9000) == ()
    assert table.offers(at, gpu_count=1, markets=["spot"]) == ()


def test_prices_of_all_markets_borrow_the_shape_of_the_machine() -> None:
    text = (
        "kind: PriceBook\nname: b\nspec:\n  source: s\n  currency: USD\n"
        "  defaults: {provider: gcp, region: r, valid_from: 2026-01-01}\n  prices:\n"
        "    - {instance_type: a, market: on-demand, price: 8 USD/h, cpus: 4, gpus: L4:2}\n"
        "    - {instance_type: a, market: spot, price: 2 USD/h}\n"
    )
    table = PriceTable(Applied(d) for d in parse_documents(text, "b"))
    spot, demand = table.offers(parse_instant("2026-02-01"), gpu_count=2)
    assert (spot.market, spot.gpu_type, spot.cpu_milli) == ("spot", "L4", 4000)
    assert spot.quote.components.gpu > 0
    assert demand.quote.as_of == parse_instant("2026-01-01")


def test_a_price_of_a_zone_goes_before_its_regions_and_has_the_regions_list_price() -> None:
    prices = (
        PriceRow("aws", "east", "x", "on-demand", 100),
        PriceRow("aws", "east", "x", "spot", 40),
        PriceRow("aws", "east-a", "x", "spot", 30, 0, 50),
    )
    document = Document("PriceBook", "b", PriceBookSpec("test", "USD", prices))
    table = PriceTable([Applied(document, 1, Instant(0))])

    def quote(zone: str, market: str = "spot", at: int = 10) -> PriceQuote:
        facts = NodeFacts(
            name="n", cpu_milli=1, memory_bytes=1, provider="aws", region="east", zone=zone,
            instance_type="x", market=market,
        )  # fmt: skip
        found = table.lookup(facts, Instant(at))
        assert found is not None
        return found

    assert [quote(zone).rate_nanos_per_hour for zone in ("east-a", "east-b", "")] == [30, 40, 40]
    assert quote("east-a").list_nanos_per_hour == 100
    assert quote("east-a").price_id == "pricebook/b@1#aws/east-a/x/spot"
    assert quote("east-a", "on-demand").rate_nanos_per_hour == 100
    assert quote("east-a", at=50).rate_nanos_per_hour == 40, "the zone's own has ended"
