"""Pools of several providers side by side: the cheapest machine of all, and none waits for another."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rented_site import Inline, Runs, Site, done

from bursar.clock import SECOND_US
from bursar.errors import InvalidRequest
from bursar_policies.document import parse_documents
from bursar_policies.specs import PriceBookSpec
from bursard.machines.houses import BookRates, price_book
from bursard.machines.local import LocalProvider
from bursard.machines.localfile import parse_cloud
from bursard.machines.opening import open_needed
from bursard.machines.provider import CloudError, Instance, Kind, MachineOffer, Place, Provider, Wanted
from bursard.services import clouds

FAR_CLOUD = """\
regions: {far: [far-a]}
boot: 20s
ending: 10s
types:
  cpu.far: {cpus: 4, memory: 8GiB, prices: {on-demand: 1.20 USD/h}}
"""
FAR_POOL = """\
kind: CloudPool
name: far
spec:
  provider: aws
  regions: [far]
  limits: {machines: 2}
  boot_timeout: 2m
  launch: {server: "grpcs://bursar.example:7443", image: ami-0123456789abcdef0}
"""
AWAY = CloudError(Kind.THROTTLED, "Unavailable", "it is away")


class Far(LocalProvider):
    """Another provider. `away`: it answers nothing."""

    name = "aws"
    away = False
    calls = 0

    def offers(self, wanted: Wanted) -> list[MachineOffer]:
        self._answer()
        return super().offers(wanted)

    def list_owned(self, cluster: str, regions: Collection[str] = ()) -> list[Instance]:
        self._answer()
        return super().list_owned(cluster, regions)

    def _answer(self) -> None:
        self.calls += 1
        if self.away:
            raise AWAY


class Two(Site):
    """A site with the local cloud and another one."""

    def open(self) -> None:
        super().open()
        if not hasattr(self, "far_runs"):
            self.far_runs = Runs()
            self.world.apply(FAR_POOL)
        cloud, now = parse_cloud(FAR_CLOUD, "far.yaml"), self.world.clock.now
        self.far = Far(cloud, self.file.with_name("far.json"), self.far_runs, now)
        self.renting = Inline(
            self.world.engine, [self.provider, self.far], "unix:///s", lambda: self.last, self.cut
        )


@pytest.fixture
def site(tmp_path: Path) -> Two:
    return Two(tmp_path)


def test_the_cheapest_machine_of_all_providers_is_rented(site: Two) -> None:
    site.large()
    site.pass_time(4)
    (machine,) = site.machines
    assert (machine.provider, machine.region, machine.pool) == ("aws", "far", "far")


def test_what_is_rented_elsewhere_is_told_where_its_pool_says_that_bursard_is(site: Two) -> None:
    site.large()
    site.pass_time(25)
    ((join, _),) = site.far_runs.joins.values()
    assert join.server == "grpcs://bursar.example:7443"
    site.large()
    site.large()
    site.pass_time(25)
    ours = [join for join, _ in site.runs.joins.values()]
    assert {join.server for join in ours} <= {"unix:///s"}


def test_a_provider_that_is_away_keeps_no_other_one_from_renting(site: Two) -> None:
    """1. The cheaper one never answered: the other one's machine. 2. It is back: the next one is its."""
    site.far.away = True
    job = site.large()
    site.pass_time(10)
    (machine,) = site.machines
    assert (machine.provider, machine.job_id) == ("local", job.id)
    checks = {one.name: one for one in done(site.renting.check())}
    assert not checks["pool far"].good
    assert "it is away" in checks["pool far"].says
    assert checks["pool rented"].good
    site.far.away = False
    site.pass_time(70)
    site.large()
    site.pass_time(4)
    assert {one.provider for one in site.machines} == {"local", "aws"}


def test_a_provider_that_is_away_for_an_hour_is_asked_ever_more_slowly(site: Two) -> None:
    site.far.away = True
    site.large()
    site.pass_time(600)
    before = site.far.calls
    site.pass_time(600)
    assert site.far.calls - before <= 2 * 10 + 2, "offers and list, once a minute each"


def test_a_machine_of_one_provider_is_ended_by_that_one_alone(site: Two) -> None:
    site.large()
    site.pass_time(25)
    (machine,) = site.machines
    done(site.renting.commit(clouds.end(site.world.state, machine, "ann ended it")))
    site.pass_time(40)
    assert machine.id not in site.world.state.machines
    assert site.far.list_owned("c")[0].gone
    assert site.provider.list_owned("c") == []


def test_a_pool_opens_its_provider_and_one_that_cannot_be_asked_is_told(tmp_path: Path) -> None:
    """1. Its SDK is not there. 2. It is: the next look rents."""
    site = Two(tmp_path)
    far, opened = site.far, list[str]()

    def opener(name: str) -> Provider:
        opened.append(name)
        if len(opened) < 20:
            raise InvalidRequest("provider aws needs boto3")
        return far

    site.renting = Inline(
        site.world.engine, [], "unix:///s", lambda: site.last, site.cut, opener, BookRates(lambda: 0)
    )
    site.world.engine.state.policies.pop(("CloudPool", "rented"))
    (check,) = done(site.renting.check())
    assert (check.name, check.good, check.says) == ("provider aws", False, "provider aws needs boto3")
    (document,) = parse_documents(FAR_POOL, "far.yaml")
    with pytest.raises(InvalidRequest, match=r"far\.yaml:1: CloudPool far: provider aws needs boto3"):
        done(site.renting.refuse_empty([document]))
    site.large()
    site.pass_time(30)
    assert [one.provider for one in site.machines] == ["aws"]
    assert site.renting.unopened == {}
    assert len(opened) == 20


def test_a_daemon_that_cannot_ask_the_provider_of_a_machine_does_not_start(
    site: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.large()
    site.pass_time(4)
    (machine,) = site.machines

    def missing(name: str) -> Any:
        return SimpleNamespace(module="bursard.machines.none", sdk=("no_such_sdk",))

    monkeypatch.setattr("bursard.machines.opening.CLOUDS", {"aws": missing("aws")})
    with pytest.raises(InvalidRequest, match=rf"1 machine of provider aws \({machine.name}\) may still be"):
        open_needed(site.world.state, lambda name: SimpleNamespace())  # type: ignore[arg-type, return-value]


def test_providers_are_told_what_the_books_say_of_a_place(site: Two) -> None:
    rates = BookRates(site.world.engine.now)
    place = Place("far", "far-a", "cpu", "cpu.far", "on-demand")
    assert rates.of("aws", place) is None, "before the first look"
    site.large()
    site.pass_time(4)
    rates.table = site.world.engine.prices
    rate = rates.of("aws", place)
    assert rate is not None
    assert (rate.nanos_per_hour, rate.currency, rate.source) == (1_200_000_000, "USD", "provider aws")
    assert rates.of("aws", Place("nowhere", "", "", "cpu.far", "on-demand")) is None


def test_a_pool_that_names_too_many_machines_is_refused(site: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bursard.machines.renting.OFFERS_MAX", 0)
    (document,) = parse_documents(FAR_POOL, "far.yaml")
    with pytest.raises(InvalidRequest, match="it names 1 machines of the provider aws, at most 0"):
        done(site.renting.refuse_empty([document]))


def test_time_that_jumped_back_asks_a_provider_that_failed_again(site: Two) -> None:
    site.far.away = True
    site.pass_time(200)
    assert "far" not in site.renting.houses["aws"].offers
    site.far.away = False
    site.world.clock.step_wall(-100 * SECOND_US)
    site.pass_time(1)
    assert "far" in site.renting.houses["aws"].offers


def test_a_zone_that_is_cheaper_than_its_region_has_its_own_price_in_the_book() -> None:
    def offer(zone: str, rate: int, region: str = "east") -> MachineOffer:
        return MachineOffer(
            place=Place(region, zone, "x", "x.1", "spot"), cpu_milli=1, memory_bytes=1,
            rate_nanos_per_hour=rate, currency="USD", as_of=0, source="s",
        )  # fmt: skip

    book = price_book(
        "far", [offer("east-a", 30), offer("east-b", 40), offer("1", 20, "west"), offer("2", 25, "west")]
    )
    assert book is not None
    assert isinstance(book.spec, PriceBookSpec)
    assert {row.region: row.rate_nanos_per_hour for row in book.spec.prices} == {
        "east": 40,
        "east-a": 30,
        "west": 25,
    }
