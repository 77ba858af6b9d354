"""What no cloud should say, and some do: it costs nobody money, starts no storm, and hides nothing else."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from rented_site import POOL, Inline, Site, done

from bursar.clock import HOUR_US, SECOND_US
from bursar.errors import InvalidRequest, ServerUnavailable
from bursar_policies.document import parse_documents
from bursard.machines.azure_prices import nanos_of
from bursard.machines.errors import error_of
from bursard.machines.instants import LEEWAY_US
from bursard.machines.provider import Instance, InstanceState, Order, Place

YEAR_US = 365 * 24 * HOUR_US
YEAR_ONE_US = -62_135_596_800_000_000
RATE = 3_600_000_000
"""Nanos an hour of the dearest machine that these jobs are given."""
MINUTE_NANOS = RATE // 60


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def twist(site: Site, patch: pytest.MonkeyPatch, **said: Any) -> None:
    """From now on the cloud lists machines that are paid for with these fields."""
    real = site.provider.list_owned

    def list_owned(cluster: str, regions: Collection[str] = ()) -> list[Instance]:
        return [replace(one, **said) if one.billed_from else one for one in real(cluster, regions)]

    patch.setattr(site.provider, "list_owned", list_owned)


def total(site: Site) -> int:
    return sum(abs(row.nanos) for row in site.rows())


@pytest.mark.parametrize("since", [1, -1, YEAR_ONE_US, -(2**70), 2**70, 300 * YEAR_US])
def test_a_machine_is_never_paid_for_since_before_its_order_or_since_what_is_to_come(
    since: int, site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    twist(site, monkeypatch, billed_from=since)
    site.large()
    with caplog.at_level(logging.WARNING):
        site.pass_time(60)
    (machine,) = site.machines
    assert machine.intended_at <= machine.billed_from <= site.world.engine.now()
    assert total(site) <= 4 * MINUTE_NANOS
    said = [one for one in caplog.records if "when that cannot be" in one.getMessage()]
    assert len(said) == 1
    assert str(since)[:40] in said[0].said  # type: ignore[attr-defined]


def test_a_clock_that_differs_by_minutes_is_believed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.large()
    site.pass_time(4)
    (machine,) = site.machines
    since = machine.intended_at - LEEWAY_US
    twist(site, monkeypatch, billed_from=since)
    site.pass_time(60)
    assert machine.billed_from == since


@pytest.mark.parametrize("until", [1, YEAR_ONE_US, 2**70, 100 * YEAR_US, 9_999 * YEAR_US])
def test_a_machine_that_is_gone_was_paid_for_until_it_was_seen_to_be_gone_at_most(
    until: int, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.large()
    site.pass_time(120)
    (machine,) = site.machines
    twist(site, monkeypatch, state=InstanceState.GONE, billed_until=until)
    site.pass_time(20)
    assert machine.id not in site.world.state.machines
    (gone,) = (one for one in site.gone() if one.machine_id == machine.id)
    assert machine.billed_from + 80 * SECOND_US <= gone.billed_until <= site.world.engine.now()
    assert total(site) <= 6 * MINUTE_NANOS


def orders(site: Site, patch: pytest.MonkeyPatch) -> list[Order]:
    """Every order from now on."""
    made, real = list[Order](), site.provider.create

    def create(order: Order) -> str:
        made.append(order)
        return real(order)

    patch.setattr(site.provider, "create", create)
    return made


@pytest.mark.parametrize("code", ["Client.InternalError", "Server.InternalError", ""])
@pytest.mark.parametrize("state", [InstanceState.GONE, InstanceState.FAILED])
def test_a_launch_that_fails_again_and_again_is_ordered_ever_more_rarely(
    code: str, state: InstanceState, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order is accepted, its machine never runs, and its provider says neither where nor for how long."""
    made, real = orders(site, monkeypatch), site.provider.list_owned

    def list_owned(cluster: str, regions: Collection[str] = ()) -> list[Instance]:
        return [replace(one, state=state, billed_from=0, billed_until=0) for one in real(cluster, regions)]

    def poll(provider_id: str) -> Instance:
        if code:
            raise error_of("aws", code, "it failed", made[-1].place)
        (one,) = (one for one in list_owned("") if one.provider_id == provider_id)
        return one

    monkeypatch.setattr(site.provider, "list_owned", list_owned)
    monkeypatch.setattr(site.provider, "poll", poll)
    site.large()
    site.pass_time(300)
    first = len(made)
    assert 2 <= first <= 24, "a few for each place, in five minutes"
    site.pass_time(300)
    assert len(made) - first <= 6


def test_a_launch_that_fails_with_a_word_of_another_place_is_ordered_ever_more_rarely(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, real = orders(site, monkeypatch), site.provider.list_owned
    elsewhere = Place("home", "home-b", "cpu", "cpu.other", "spot")

    def poll(provider_id: str) -> Instance:
        raise error_of("aws", "InsufficientInstanceCapacity", "none is left", elsewhere)

    monkeypatch.setattr(
        site.provider,
        "list_owned",
        lambda cluster, regions=(): [
            replace(one, state=InstanceState.GONE, billed_from=0, billed_until=0)
            for one in real(cluster, regions)
        ],
    )
    monkeypatch.setattr(site.provider, "poll", poll)
    site.large()
    site.pass_time(300)
    assert 2 <= len(made) <= 24


def test_a_refusal_that_names_no_place_is_not_asked_for_again_each_second_though_lists_are_well(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = list[int]()

    def create(order: Order) -> str:
        made.append(site.world.engine.now())
        raise error_of("local", "Throttled", "slow down", order.place)

    monkeypatch.setattr(site.provider, "create", create)
    site.large()
    site.pass_time(600)
    assert 4 <= len(made) <= 18
    assert made[-1] - made[-2] >= 30 * SECOND_US


def test_a_launch_that_came_up_makes_the_next_failure_a_first_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.large()
    site.pass_time(4)
    (machine,) = site.machines
    keeper = site.renting.houses["local"].keeper
    place = keeper.place_of(machine)
    keeper._failed[place] = 5, site.world.engine.now()
    site.pass_time(30)
    assert place not in keeper._failed


ODD = [
    {"rate_nanos_per_hour": 10**40},
    {"rate_nanos_per_hour": -5},
    {"currency": "JPY"},
    {"gpu_count": -1},
    {"cpu_milli": 0},
    {"boot_us": 10**18},
]


@pytest.mark.parametrize("odd", ODD)
def test_an_offer_that_cannot_be_is_left_out_and_said_and_the_others_are_rented(
    odd: dict[str, Any], site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = site.provider.offers
    monkeypatch.setattr(
        site.provider, "offers", lambda wanted: [*real(wanted)[:-1], replace(real(wanted)[-1], **odd)]
    )
    site.large()
    site.pass_time(10)
    assert len(site.machines) == 1
    assert site.renting.houses["local"].fault == ""
    checks = {one.name: one for one in done(site.renting.check())}
    assert checks["pool rented"].says == "2 offers"
    assert not checks["pool rented: offers"].good
    assert checks["pool rented: offers"].says.startswith("1 offer left out, such as ")


def test_an_amount_beyond_any_is_no_price() -> None:
    assert [nanos_of(text) for text in ("1E+999999999", "NaN", "-1", "1e30")] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("code", "raised", "says"),
    [
        ("NotAllowed", InvalidRequest, "NotAllowed: no; give bursard credentials"),
        ("Unavailable", ServerUnavailable, "Unavailable: no; nothing was applied"),
    ],
)
def test_a_pool_whose_provider_cannot_be_asked_is_refused_by_name_and_leaves_nothing(
    code: str, raised: type[Exception], says: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offers(wanted: object) -> None:
        raise error_of("local", code, "no")

    monkeypatch.setattr(site.provider, "offers", offers)
    (document,) = parse_documents(POOL, "pool.yaml")
    opened = Inline(site.world.engine, [], "unix:///s", lambda: None, site.cut, lambda name: site.provider)
    done(opened.refuse_empty([document]))
    assert opened.houses == {}
    site.world.state.policies.pop(("CloudPool", "rented"))
    with pytest.raises(raised, match=says):
        done(opened.refuse_empty([document]))
    assert opened.houses == {}
    assert [one.says for one in done(opened.check())] == ["no pool rents machines"]


def test_a_check_names_the_provider(site: Site) -> None:
    site.pass_time(1)
    checks = done(site.renting.check())
    assert all(one.name.startswith(("local: ", "pool ")) for one in checks)
