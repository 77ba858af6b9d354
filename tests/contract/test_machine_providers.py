"""What every provider of machines must do, whatever it is: one suite, run against each of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cloud_stands import STANDS, Stand, stand_of
from msgspec.structs import replace

from bursar.clock import SECOND_US
from bursard.machines.errors import error_of
from bursard.machines.provider import (
    CloudError,
    InstanceState,
    Join,
    Kind,
    Order,
    Place,
    PoolTerms,
    Wanted,
)

LIFETIME_US = 3600 * SECOND_US
STATES_OF_LIFE = (InstanceState.PENDING, InstanceState.RUNNING)


@pytest.fixture(params=sorted(STANDS))
def stand(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stand]:
    made = stand_of(request.param, tmp_path)
    yield made
    made.close()


def order(stand: Stand, machine_id: str = "mach_1", place: Place | None = None) -> Order:
    join = Join(server="grpcs://host:1", name="pool-1", pool="pool", token="node_secret")
    return Order(
        machine_id=machine_id,
        cluster="cluster_1",
        place=place or stand.here,
        join=join,
        lifetime_us=LIFETIME_US,
        launch=stand.launch,
    )


def terms(stand: Stand) -> PoolTerms:
    """A pool that names the machine that can be had here."""
    here = stand.here
    wanted = Wanted(
        regions=(here.region,),
        zones=(here.zone,),
        instance_types=(here.instance_type,),
        markets=(here.market,),
    )
    return PoolTerms(name="pool", wanted=wanted, launch=stand.launch)


def test_a_machine_is_made_runs_is_ended_and_is_billed_by_the_rule(stand: Stand) -> None:
    provider = stand.provider
    key = provider.create(order(stand))
    assert provider.query([key])[key] is not None
    stand.pass_time()
    (up,) = provider.list_owned("cluster_1")
    assert (up.provider_id, up.machine_id, up.state) == (key, "mach_1", InstanceState.RUNNING)
    assert up.place == stand.here
    assert up.billed_from >= up.created_at > 0
    assert up.billed_until == 0
    assert provider.poll(key) == up
    provider.terminate(key)
    stand.pass_time()
    assert provider.terminate(key)
    gone = {one.provider_id: one for one in provider.list_owned("cluster_1")}.get(key)
    if gone is not None:
        assert gone.state is InstanceState.GONE
        assert gone.billed_until >= gone.billed_from == up.billed_from


def test_the_same_order_twice_is_one_machine_also_from_another_daemon(stand: Stand) -> None:
    key = stand.provider.create(order(stand))
    assert stand.provider.create(order(stand)) == key
    assert stand.again().create(order(stand)) == key
    assert len(stand.again().list_owned("cluster_1")) == 1


def test_an_order_whose_machine_has_ended_makes_no_other_one(stand: Stand) -> None:
    key = stand.provider.create(order(stand))
    stand.pass_time()
    stand.provider.terminate(key)
    stand.pass_time()
    with pytest.raises(CloudError) as error:
        stand.provider.create(order(stand))
    assert error.value.kind is Kind.CONFLICT


def test_a_machine_whose_answer_was_lost_is_listed_by_its_order(stand: Stand) -> None:
    with stand.fail("create-lost", Kind.THROTTLED), pytest.raises(CloudError) as error:
        stand.provider.create(order(stand))
    assert error.value.maybe_created
    (found,) = stand.again().list_owned("cluster_1")
    assert found.machine_id == "mach_1"


def test_a_stock_out_makes_nothing_and_says_where_it_is(stand: Stand) -> None:
    with stand.fail("create", Kind.CAPACITY), pytest.raises(CloudError) as error:
        stand.provider.create(order(stand))
    assert (error.value.kind, error.value.maybe_created) == (Kind.CAPACITY, False)
    assert error.value.scope is not None
    assert error.value.scope.covers(stand.here)
    assert error.value.ttl_us > 0
    assert stand.provider.list_owned("cluster_1") == []


@pytest.mark.parametrize("kind", [Kind.QUOTA, Kind.AUTH, Kind.THROTTLED])
def test_what_goes_wrong_is_told_by_its_kind(stand: Stand, kind: Kind) -> None:
    with stand.fail("create", kind), pytest.raises(CloudError) as error:
        stand.provider.create(order(stand))
    assert error.value.kind is kind


def test_a_termination_that_failed_is_asked_again_until_it_is_gone(stand: Stand) -> None:
    key = stand.provider.create(order(stand))
    stand.pass_time()
    with stand.fail("terminate", Kind.THROTTLED), pytest.raises(CloudError):
        stand.provider.terminate(key)
    assert stand.provider.poll(key).state is InstanceState.RUNNING
    stand.provider.terminate(key)
    stand.pass_time()
    assert stand.provider.terminate(key)


def test_what_never_was_is_gone(stand: Stand) -> None:
    assert stand.provider.terminate(stand.never)
    assert stand.provider.query([stand.never]) == {stand.never: None}
    with pytest.raises(CloudError) as error:
        stand.provider.poll(stand.never)
    assert error.value.kind is Kind.MISSING


def test_another_clusters_machines_are_not_listed(stand: Stand) -> None:
    stand.provider.create(order(stand))
    assert stand.provider.list_owned("cluster_2") == []


def test_a_list_of_several_pages_is_whole(stand: Stand) -> None:
    keys = {stand.provider.create(order(stand, f"mach_{number}")) for number in range(7)}
    assert {one.provider_id for one in stand.provider.list_owned("cluster_1")} == keys


def test_offers_are_what_is_wanted_with_a_price_and_its_date(stand: Stand) -> None:
    here = stand.here
    (offer,) = stand.provider.offers(terms(stand).wanted)
    assert (offer.place, offer.currency) == (here, "USD")
    assert offer.rate_nanos_per_hour > 0
    assert offer.as_of > 0
    assert stand.provider.offers(Wanted(instance_types=("nothing.*",))) == []
    listed = [one for one in stand.provider.prices(0) if one.place.covers(here)]
    assert [one.rate_nanos_per_hour for one in listed] == [offer.rate_nanos_per_hour]


def test_a_stand_that_is_sound_passes_every_check(stand: Stand) -> None:
    checks = stand.provider.preflight([terms(stand)])
    assert checks
    assert [one for one in checks if not one.good] == []


def test_a_token_is_in_no_text_of_an_order(stand: Stand) -> None:
    assert "node_secret" not in repr(order(stand))
    assert "node_secret" not in str(order(stand).join)


def test_states_of_life_come_in_order(stand: Stand) -> None:
    key = stand.provider.create(order(stand))
    assert stand.provider.poll(key).state in STATES_OF_LIFE
    stand.pass_time()
    assert stand.provider.poll(key).state is InstanceState.RUNNING
    stand.provider.terminate(key)
    after = stand.provider.query([key])[key]
    assert after is None or after.state in (InstanceState.ENDING, InstanceState.GONE)


def test_every_code_of_its_table_is_told_by_its_kind_for_its_places_and_time(stand: Stand) -> None:
    for number, code in enumerate(stand.codes):
        stand.say(code)
        with pytest.raises(CloudError) as error:
            stand.provider.create(order(stand, f"mach_code_{number}"))
        meant, found = error_of(stand.provider.name, code, "", stand.here), error.value
        assert (found.code, found.kind, found.scope) == (code, meant.kind, meant.scope), code
        assert (found.ttl_us, found.maybe_created) == (meant.ttl_us, meant.maybe_created), code
    assert stand.provider.list_owned("cluster_1", [stand.here.region]) == []


def test_a_code_that_is_in_no_table_may_have_made_a_machine(stand: Stand) -> None:
    stand.say("NeverHeardOf")
    with pytest.raises(CloudError) as error:
        stand.provider.create(order(stand))
    assert error.value.maybe_created


def test_a_spot_machine_that_is_taken_back_is_told_so_and_billed_by_the_rule(stand: Stand) -> None:
    provider = stand.provider
    key = provider.create(order(stand, place=stand.spot_here))
    stand.pass_time()
    (up,) = provider.list_owned("cluster_1")
    assert up.place == stand.spot_here
    assert not up.interrupted
    stand.take_back(key)
    stand.pass_time()
    (gone,) = stand.again().list_owned("cluster_1")
    assert (gone.provider_id, gone.state, gone.interrupted) == (key, InstanceState.GONE, True)
    assert gone.message
    assert gone.billed_until >= gone.billed_from == up.billed_from
    billing = provider.capabilities.billing
    assert billing.billed_us(gone.billed_until - gone.billed_from) >= billing.least_us


def test_only_machines_of_that_cluster_are_listed_whatever_else_is_there(stand: Stand) -> None:
    mine = stand.provider.create(order(stand))
    other = replace(order(stand, "mach_2"), cluster="cluster_2")
    theirs = stand.provider.create(other)
    assert [one.provider_id for one in stand.provider.list_owned("cluster_1")] == [mine]
    assert [one.provider_id for one in stand.provider.list_owned("cluster_2")] == [theirs]


def test_the_token_is_handed_to_the_machine_and_to_nobody_else(stand: Stand) -> None:
    key = stand.provider.create(order(stand))
    stand.pass_time()
    (listed,) = stand.provider.list_owned("cluster_1")
    assert "node_secret" in stand.handed(key)
    assert "node_secret" not in stand.told()
    assert "node_secret" not in repr(listed)


def test_a_list_that_fails_is_an_error_and_no_empty_list(stand: Stand) -> None:
    stand.provider.create(order(stand))
    with stand.fail("list", Kind.THROTTLED), pytest.raises(CloudError) as error:
        stand.provider.list_owned("cluster_1")
    assert error.value.kind is Kind.THROTTLED
    assert len(stand.provider.list_owned("cluster_1")) == 1
