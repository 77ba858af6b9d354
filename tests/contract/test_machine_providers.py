"""What every provider of machines must do, whatever it is: one suite, run against each of them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import pytest
from msgspec.structs import replace

from bursar.clock import SECOND_US, VirtualClock
from bursard.machines.local import Handle, LocalProvider
from bursard.machines.localfile import LocalFault, LocalType, parse_cloud
from bursard.machines.provider import (
    CloudError,
    InstanceState,
    Join,
    Kind,
    Order,
    Place,
    Provider,
    Wanted,
)

LIFETIME_US = 3600 * SECOND_US
STATES_OF_LIFE = (InstanceState.PENDING, InstanceState.RUNNING)


class Stand(Protocol):
    """A provider, and how a test makes things happen there."""

    provider: Provider
    here: Place
    """Of a machine that can be had. """

    def fail(self, call: str, kind: Kind) -> AbstractContextManager[None]:
        """The next such call fails so; `create-lost`: after it has been done."""

    def pass_time(self) -> None:
        """Long enough for a machine to boot, or to be gone."""

    def again(self) -> Provider:
        """The same cloud, asked by a daemon that was started again."""


CLOUD = """
regions: {home: [home-a, home-b]}
boot: 20s
ending: 10s
quotas: {spot: 1}
types:
  gpu.small: {cpus: 4, memory: 8GiB, gpus: "L4:1", prices: {on-demand: 1.20 USD/h, spot: 0.40 USD/h}}
  cpu.large: {cpus: 16, memory: 64GiB, prices: {on-demand: 0.60 USD/h}}
"""


class FakeRuns:
    """Processes that are numbers."""

    def __init__(self) -> None:
        self.alive_ids: dict[str, int] = {}
        self.started: list[str] = []
        self.told: dict[str, tuple[str, int]] = {}

    def start(self, provider_id: str, join: Join, place: Place, kind: LocalType) -> Handle:
        self.started.append(provider_id)
        self.alive_ids.setdefault(provider_id, len(self.started))
        return Handle(self.alive_ids[provider_id], 0)

    def notify(self, provider_id: str, said: str, left_us: int) -> None:
        self.told[provider_id] = said, left_us

    def end(self, provider_id: str, handle: Handle | None) -> None:
        self.alive_ids.pop(provider_id, None)

    def alive(self, handle: Handle) -> bool:
        return handle.pid in self.alive_ids.values()


_CODES = {
    Kind.CAPACITY: "NoCapacity",
    Kind.QUOTA: "QuotaExceeded",
    Kind.AUTH: "NotAllowed",
    Kind.THROTTLED: "Throttled",
}


class LocalStand:
    """The provider `local`, with processes that are none."""

    here = Place("home", "home-a", "gpu", "gpu.small", "on-demand")

    def __init__(self, folder: Path) -> None:
        self.clock, self.runs, self.file = VirtualClock(), FakeRuns(), folder / "cloud.json"
        self.cloud = parse_cloud(CLOUD, "cloud.yaml")
        self.provider: LocalProvider = self.again()

    def again(self) -> LocalProvider:
        return LocalProvider(self.cloud, self.file, self.runs, self.clock.now)

    def fail(self, call: str, kind: Kind) -> AbstractContextManager[None]:
        fault = LocalFault(call=call, code=_CODES[kind], place=Place(), times=1, after_us=0)
        self.provider.cloud = replace(self.cloud, faults=(fault,))
        return nullcontext()

    def pass_time(self) -> None:
        self.clock.advance(30 * SECOND_US)


STANDS = {"local": LocalStand}


@pytest.fixture(params=sorted(STANDS))
def stand(request: pytest.FixtureRequest, tmp_path: Path) -> Stand:
    return STANDS[request.param](tmp_path)


def order(stand: Stand, machine_id: str = "mach_1", place: Place | None = None) -> Order:
    join = Join(server="grpcs://host:1", name="pool-1", pool="pool", token="node_secret")
    return Order(
        machine_id=machine_id,
        cluster="cluster_1",
        place=place or stand.here,
        join=join,
        lifetime_us=LIFETIME_US,
    )


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
    assert stand.provider.terminate("i-0123456789abcdef0")
    assert stand.provider.query(["i-0123456789abcdef0"]) == {"i-0123456789abcdef0": None}
    with pytest.raises(CloudError) as error:
        stand.provider.poll("i-0123456789abcdef0")
    assert error.value.kind is Kind.MISSING


def test_another_clusters_machines_are_not_listed(stand: Stand) -> None:
    stand.provider.create(order(stand))
    assert stand.provider.list_owned("cluster_2") == []


def test_a_list_of_several_pages_is_whole(stand: Stand) -> None:
    keys = {stand.provider.create(order(stand, f"mach_{number}")) for number in range(7)}
    assert {one.provider_id for one in stand.provider.list_owned("cluster_1")} == keys


def test_offers_are_what_is_wanted_with_a_price_and_its_date(stand: Stand) -> None:
    here = stand.here
    wanted = Wanted(
        regions=(here.region,),
        zones=(here.zone,),
        instance_types=(here.instance_type,),
        markets=("on-demand",),
    )
    (offer,) = stand.provider.offers(wanted)
    assert (offer.place, offer.currency) == (here, "USD")
    assert offer.rate_nanos_per_hour > 0
    assert offer.as_of > 0
    assert stand.provider.offers(Wanted(instance_types=("nothing.*",))) == []
    listed = [one for one in stand.provider.prices(0) if one.place.covers(here)]
    assert [one.rate_nanos_per_hour for one in listed] == [offer.rate_nanos_per_hour]


def test_a_stand_that_is_sound_passes_every_check(stand: Stand) -> None:
    checks = stand.provider.preflight()
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
