"""The shipped catalogue: every file loads, every price is a dated fact, every GPU family is there."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import cache

import pytest

from bursar.clock import Instant, parse_instant
from bursar.yamlfile import BYTES_MAX
from bursar_policies.compile import Applied, PriceTable
from bursar_policies.document import catalog_dir, parse_documents, parse_files
from bursar_policies.specs import Document, PriceBookSpec

FILES = sorted(catalog_dir().glob("*.yaml"))
AT = parse_instant("2026-11-21")


@cache
def documents() -> tuple[Document, ...]:
    return parse_files([(path.name, path.read_bytes()) for path in FILES])


@cache
def table() -> PriceTable:
    return PriceTable(Applied(document) for document in documents())


def books() -> list[PriceBookSpec]:
    return [d.spec for d in documents() if isinstance(d.spec, PriceBookSpec)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_loads_alone_and_is_small(path) -> None:  # type: ignore[no-untyped-def]
    assert path.stat().st_size < BYTES_MAX
    assert parse_documents(path.read_bytes(), path.name)


def test_every_price_has_a_date_a_source_and_is_more_than_zero() -> None:
    rows = [(book, row) for book in books() for row in book.prices]
    assert len(rows) > 1500
    for book, row in rows:
        assert row.rate_nanos_per_hour > 0
        assert parse_instant("2025-01-01") < row.valid_from < AT
        assert "20" in (row.source or book.source)


def test_three_regions_of_each_cloud_and_the_markets_there_are() -> None:
    found: dict[str, set[str]] = {}
    markets: dict[str, set[str]] = {}
    for book in books():
        for row in book.prices:
            found.setdefault(row.provider, set()).add(row.region)
            markets.setdefault(row.provider, set()).add(row.market)
    assert {provider: len(regions) >= 3 for provider, regions in found.items()} == {
        "aws": True, "gcp": True, "azure": True
    }  # fmt: skip
    assert markets == {
        "aws": {"on-demand", "spot"},
        "gcp": {"on-demand", "spot", "committed-1y", "committed-3y"},
        "azure": {"on-demand"},
    }


@pytest.mark.parametrize(
    ("provider", "gpus"),
    [
        ("aws", "A100 A10G B200 B300 H100 H200 L4 L40S RTXPRO4500 RTXPRO6000 T4 T4G V100 V520"),
        ("gcp", "A100 H100 L4 RTXPRO6000"),
        ("azure", "A10 A100 GB200 H100 H200 M60 MI300X T4 V100 V620 V710"),
    ],
)
def test_every_gpu_family_is_there(provider: str, gpus: str) -> None:
    found = {o.gpu_type for o in table().prices(AT, provider=provider)} - {""}
    assert found == set(gpus.split())


def test_every_machine_has_its_shape() -> None:
    for offer in table().prices(AT):
        assert offer.cpu_milli > 0, offer
        assert offer.memory_bytes > 0, offer
        assert (offer.gpu_count > 0) == (offer.gpu_memory_bytes > 0), offer


def test_spot_is_never_dearer_than_on_demand() -> None:
    for offer in table().prices(AT, market="spot"):
        demand = table().lookup_machine(offer.provider, offer.region, offer.instance_type, "on-demand", AT)
        if demand is not None:
            assert offer.quote.rate_nanos_per_hour <= demand.rate_nanos_per_hour + 10**6, offer


def test_plain_hosts_are_there_for_jobs_without_gpus() -> None:
    for provider in ("aws", "gcp", "azure"):
        hosts = [
            o for o in table().offers(AT, cpu_milli=8000, memory_bytes=16 * 10**9)
            if o.provider == provider
        ]  # fmt: skip
        assert len(hosts) >= 10


def test_a_known_price_is_the_listed_one() -> None:
    quote = table().lookup_machine("aws", "us-east-1", "p5.48xlarge", "on-demand", AT)
    assert quote is not None
    assert quote.rate_nanos_per_hour == 55_040_000_000
    assert quote.as_of == parse_instant("2026-07-20")
    assert table().offers(AT, gpu_types=["H100"], gpu_count=8)


def test_the_local_pool_prices_any_node_at_any_time() -> None:
    rates = []
    for gpus in ((), (("T4", 1),), (("SOMETHING-NEW", 1),), (("H100", 8),)):
        quote = table().lookup_pool("local", Instant(0), gpus)
        assert quote is not None
        assert quote.components.total == quote.rate_nanos_per_hour
        rates.append(quote.rate_nanos_per_hour)
    assert rates == sorted(rates)
    assert 10**8 < rates[0] < 10**9
    assert 4 * 10**9 < rates[-1] < 30 * 10**9


def test_shipped_names_do_not_clash_and_the_default_policies_exist() -> None:
    names = {(d.kind, d.name) for d in documents()}
    assert {("PlacementPolicy", "default"), ("CostModel", "onprem-local")} <= names
    assert len(names) == len(documents())


def test_sizes_of_one_family_cost_the_same_for_each_cpu() -> None:
    """Some listed prices of Azure had the licence of Windows in them: twice what their siblings cost."""
    families: dict[tuple[str, str], dict[str, Decimal]] = {}
    for book in books():
        for row in book.prices:
            found = re.fullmatch(r"Standard_([DEF])\d+(a?s_v\d)", row.instance_type)
            if found is not None and row.market == "on-demand":
                each = families.setdefault((row.region, "".join(found.groups())), {})
                each[row.instance_type] = Decimal(row.rate_nanos_per_hour) * 1000 / row.cpu_milli
    assert len(families) == 24
    for each in families.values():
        assert len(each) >= 4
        assert max(each.values()) < min(each.values()) * Decimal("1.02"), each
