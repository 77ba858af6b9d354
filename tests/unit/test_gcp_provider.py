"""What only Google does: errors that come when the order was accepted, operations that tell of what is gone,
zones that do not answer, and a longest life of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cloud_stands.gcp import IMAGE, GcpStand, server
from fake_gcp.cloud import instant
from fake_gcp.token import StubCredentials
from googleapiclient import discovery, errors

from bursar.clock import HOUR_US, SECOND_US
from bursar_policies.specs import LaunchSetting
from bursard.machines import gcp_words as words
from bursard.machines.gcp import LATELY_US, GcpProvider, open_provider
from bursard.machines.gcp_calls import Calls
from bursard.machines.provider import (
    CloudError,
    InstanceState,
    Join,
    Kind,
    Needs,
    Order,
    Place,
    PoolTerms,
    Wanted,
)

STOCK_OUT = "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"
DAY_US = 24 * HOUR_US


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[GcpStand]:
    made = GcpStand(tmp_path)
    yield made
    made.close()


def order(stand: GcpStand, machine_id: str = "mach_1", place: Place | None = None, **more: str) -> Order:
    return Order(
        machine_id=machine_id,
        cluster="cluster_1",
        place=place or stand.here,
        join=Join(server="grpcs://host:1", name="pool-1", pool="pool", token="node_secret"),
        lifetime_us=2 * HOUR_US,
        launch=(*stand.launch, *(LaunchSetting(key, text) for key, text in more.items())),
    )


def row(stand: GcpStand, key: str) -> dict[str, object]:
    return stand.cloud.instances[words.parts_of(key)]


def test_a_stock_out_after_the_order_was_accepted_is_told_with_its_place(stand: GcpStand) -> None:
    stand.cloud.fail("instances.insert", 200, STOCK_OUT, when="late")
    key = stand.provider.create(order(stand))
    assert stand.provider.poll(key).state is InstanceState.PENDING
    stand.pass_time()
    with pytest.raises(CloudError) as error:
        stand.provider.poll(key)
    assert (error.value.kind, error.value.code) == (Kind.CAPACITY, STOCK_OUT)
    assert error.value.scope is not None
    assert error.value.scope.covers(stand.here)
    assert not error.value.maybe_created


def test_what_was_never_made_is_listed_as_gone_and_costs_nothing(stand: GcpStand) -> None:
    stand.cloud.fail("instances.insert", 200, STOCK_OUT, when="late")
    stand.provider.create(order(stand))
    stand.pass_time()
    (gone,) = stand.again().list_owned("cluster_1")
    assert (gone.machine_id, gone.state, gone.billed_from) == ("mach_1", InstanceState.GONE, 0)
    assert STOCK_OUT in gone.message
    with pytest.raises(CloudError) as error:
        stand.again().poll(gone.provider_id)
    assert error.value.kind is Kind.CAPACITY


def test_a_quota_of_no_gpu_anywhere_speaks_of_the_whole_provider_and_for_longer(stand: GcpStand) -> None:
    said = "Quota 'GPUS_ALL_REGIONS' exceeded.  Limit: 0.0 globally."
    stand.cloud.fail("instances.insert", 200, "QUOTA_EXCEEDED", said, when="at once")
    with pytest.raises(CloudError) as error:
        stand.provider.create(order(stand))
    assert (error.value.kind, error.value.scope) == (Kind.QUOTA, Place())
    assert error.value.ttl_us == HOUR_US


def test_an_image_that_is_not_there_is_a_wrong_order_and_no_missing_machine(stand: GcpStand) -> None:
    wrong = "projects/research-1/global/images/family/nothing"
    with pytest.raises(CloudError) as error:
        stand.provider.create(order(stand, image=wrong))
    assert (error.value.kind, error.value.maybe_created) == (Kind.INVALID, False)


def test_google_ends_a_machine_whose_order_is_over_whoever_has_forgotten_it(stand: GcpStand) -> None:
    key = stand.provider.create(order(stand))
    stand.pass_time()
    began = instant(str(row(stand, key)["lastStartTimestamp"]))
    stand.clock.advance(2 * HOUR_US)
    (ending,) = stand.provider.list_owned("cluster_1")
    assert ending.state is InstanceState.ENDING
    stand.pass_time()
    (gone,) = stand.again().list_owned("cluster_1")
    assert (gone.state, gone.interrupted) == (InstanceState.GONE, False)
    assert gone.billed_from == began
    assert gone.billed_until - began >= 2 * HOUR_US


def test_a_machine_that_was_made_long_before_its_end_is_still_billed_from_its_start(stand: GcpStand) -> None:
    key = stand.provider.create(order(stand))
    stand.pass_time()
    (up,) = stand.provider.list_owned("cluster_1")
    stand.clock.advance(LATELY_US + 60 * SECOND_US)
    stand.provider.terminate(key)
    stand.pass_time()
    (gone,) = stand.again().list_owned("cluster_1")
    assert (gone.billed_from, gone.created_at) == (up.billed_from, up.created_at)


def test_what_ended_long_ago_is_not_listed_any_more(stand: GcpStand) -> None:
    key = stand.provider.create(order(stand))
    stand.pass_time()
    stand.provider.terminate(key)
    stand.pass_time()
    assert len(stand.provider.list_owned("cluster_1")) == 1
    stand.clock.advance(LATELY_US)
    assert stand.provider.list_owned("cluster_1") == []


def test_a_machine_that_switched_itself_off_is_to_be_ended_for_its_disk_is_paid_for(stand: GcpStand) -> None:
    key = stand.provider.create(order(stand))
    stand.pass_time()
    row(stand, key)["status"] = "TERMINATED"
    (off,) = stand.provider.list_owned("cluster_1")
    assert (off.state, off.billed_until) == (InstanceState.ENDING, 0)
    assert off.message


def test_a_zone_that_does_not_answer_makes_no_list_without_it(stand: GcpStand) -> None:
    stand.provider.create(order(stand))
    stand.cloud.unreachable = ("europe-west4-a",)
    with pytest.raises(CloudError) as error:
        stand.provider.list_owned("cluster_1")
    assert error.value.kind is Kind.THROTTLED
    assert "europe-west4-a" in error.value.message


def test_without_the_right_to_see_operations_what_is_there_is_listed_all_the_same(stand: GcpStand) -> None:
    key = stand.provider.create(order(stand))
    stand.cloud.fail("globalOperations.aggregatedList", 403, "forbidden")
    assert [one.provider_id for one in stand.provider.list_owned("cluster_1")] == [key]


def test_somebody_elses_instance_of_that_name_is_not_taken_for_ours(stand: GcpStand) -> None:
    key = stand.provider.create(order(stand))
    row(stand, key)["labels"] = {"team": "theirs"}
    stand.cloud.requests.clear()
    with pytest.raises(CloudError) as error:
        stand.provider.create(order(stand))
    assert (error.value.kind, error.value.maybe_created) == (Kind.CONFLICT, False)


def test_an_order_whose_token_google_has_forgotten_finds_its_machine_by_name(stand: GcpStand) -> None:
    key = stand.provider.create(order(stand))
    stand.cloud.requests.clear()
    assert stand.again().create(order(stand)) == key
    assert len(stand.cloud.instances) == 1


def test_a_spot_machine_is_asked_for_as_google_wants_it(stand: GcpStand) -> None:
    settings = {"disk": "200GiB", "service_account": "node@research-1.iam", "network_tags": "a,b"}
    key = stand.provider.create(order(stand, place=stand.spot_here, external_ip="none", **settings))
    made = row(stand, key)
    assert made["scheduling"] == {
        "provisioningModel": "SPOT",
        "automaticRestart": False,
        "onHostMaintenance": "TERMINATE",
        "instanceTerminationAction": "DELETE",
        "maxRunDuration": {"seconds": "7200"},
    }
    (disk,) = made["disks"]  # type: ignore[misc]
    assert (disk["autoDelete"], disk["initializeParams"]["diskSizeGb"]) == (True, "200")
    assert disk["initializeParams"]["sourceImage"] == IMAGE
    (network,) = made["networkInterfaces"]  # type: ignore[misc]
    assert "accessConfigs" not in network
    assert made["tags"] == {"items": ["a", "b"]}
    assert made["serviceAccounts"] == [
        {"email": "node@research-1.iam", "scopes": ["https://www.googleapis.com/auth/cloud-platform"]}
    ]


def test_a_lifetime_is_never_longer_than_google_allows(stand: GcpStand) -> None:
    asked = order(stand)
    for lifetime_us, seconds in ((SECOND_US, 60), (400 * DAY_US, 120 * 86_400)):
        body = words.body_of(_lives(asked, lifetime_us), False, "")
        assert body["scheduling"]["max_run_duration"] == {"seconds": seconds}


def _lives(asked: Order, lifetime_us: int) -> Order:
    return Order(
        machine_id=asked.machine_id,
        cluster=asked.cluster,
        place=asked.place,
        join=asked.join,
        lifetime_us=lifetime_us,
        launch=asked.launch,
    )


@pytest.mark.parametrize(
    "answer", [b"", b"<html>no</html>", b"[]", b'{"items": {"zones/a": 7}}', b'{"items": {"zones/a": {"inst']
)
def test_an_answer_that_cannot_be_read_is_no_answer(stand: GcpStand, answer: bytes) -> None:
    stand.server.raw = answer
    for call in (
        lambda: stand.provider.list_owned("cluster_1"),
        lambda: stand.provider.create(order(stand)),
    ):
        with pytest.raises(CloudError) as error:
            call()
        assert (error.value.kind, error.value.maybe_created) == (Kind.THROTTLED, True)


def test_a_list_without_an_end_is_given_up(stand: GcpStand) -> None:
    stand.server.raw = json.dumps({"kind": "compute#list", "items": {}, "nextPageToken": "again"}).encode()
    with pytest.raises(CloudError) as error:
        stand.provider.list_owned("cluster_1")
    assert error.value.code == "EndlessList"


def test_where_nobody_listens_nobody_knows_whether_a_machine_was_made(stand: GcpStand) -> None:
    calls = Calls("research-1", "http://127.0.0.1:9", StubCredentials())
    needs = Needs(now=stand.clock.now, currency="USD", rate=stand.rate)
    provider = GcpProvider(calls, needs)
    with pytest.raises(CloudError) as error:
        provider.create(order(stand))
    provider.close()
    assert (error.value.kind, error.value.maybe_created) == (Kind.THROTTLED, True)


def test_without_credentials_each_call_says_what_is_missing(
    stand: GcpStand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")
    provider = open_provider(Needs(now=stand.clock.now, currency="USD", rate=stand.rate))
    with pytest.raises(CloudError) as error:
        provider.list_owned("cluster_1")
    assert (error.value.kind, error.value.code) == (Kind.AUTH, "NoCredentials")
    (check,) = provider.preflight([])
    assert (check.name, check.good) == ("credentials", False)
    assert "GOOGLE_APPLICATION_CREDENTIALS" in check.remedy


def test_the_checks_name_each_permission_image_and_subnet_that_is_missing(stand: GcpStand) -> None:
    stand.cloud.granted = {"compute.instances.list", "compute.zones.list"}
    launch = (
        LaunchSetting("image", "projects/research-1/global/images/gone"),
        LaunchSetting("subnet", "no-such-subnet", "us-central1"),
    )
    pool = PoolTerms(name="gpus", wanted=Wanted(regions=("us-central1", "mars-east1")), launch=launch)
    bad = {one.name: one.says for one in stand.provider.preflight([pool]) if not one.good}
    assert "compute.instances.create" in bad["permissions"]
    assert "compute.instances.list" not in bad["permissions"].split(", ")
    assert "images/gone" in bad["pool gpus: image in us-central1"]
    assert "no-such-subnet" in bad["pool gpus: subnet in us-central1"]
    assert "mars-east1" in bad["pool gpus: region"]


def test_quotas_are_told_by_family_and_market_in_gpus(stand: GcpStand) -> None:
    stand.cloud.quotas |= {("us-central1", "PREEMPTIBLE_NVIDIA_L4_GPUS"): 4.0}
    stand.provider.create(order(stand, place=stand.spot_here))
    found = {one.name: one for one in stand.provider.quotas("us-central1")}
    spot = found["PREEMPTIBLE_NVIDIA_L4_GPUS"]
    assert (spot.limit, spot.used, spot.unit) == (4, 1, "GPUs")
    assert spot.scope == Place(region="us-central1", family="g2", market="spot")
    assert found["CPUS"].unit == "vCPUs"


def test_offers_are_of_every_zone_and_page_and_only_with_a_price(stand: GcpStand) -> None:
    found = stand.provider.offers(Wanted())
    kinds = {(one.place.zone, one.place.instance_type, one.place.market) for one in found}
    assert kinds == {
        (zone, "g2-standard-8", market)
        for zone in ("us-central1-a", "us-central1-b")
        for market in ("spot", "on-demand")
    } | {("europe-west4-a", "a2-highgpu-1g", "spot")}
    (large,) = [one for one in found if one.gpu_type == "A100"]
    assert (large.cpu_milli, large.memory_bytes, large.gpu_count) == (12_000, (85 << 30) * 925 // 1000, 1)


def test_what_it_did_by_itself_is_told_in_order(stand: GcpStand) -> None:
    taken = stand.provider.create(order(stand, place=stand.spot_here))
    stand.pass_time()
    stand.cloud.fail("instances.insert", 200, STOCK_OUT, when="late")
    never = stand.provider.create(order(stand, "mach_2"))
    stand.pass_time()
    stand.take_back(taken)
    stand.pass_time()
    found = [(one.provider_id, one.kind) for one in stand.provider.events(0)]
    assert found == [(never, "failed"), (taken, "interrupted")]


def test_google_s_other_client_finds_the_same_cloud_and_the_contract_refuses_what_it_should(
    stand: GcpStand,
) -> None:
    key = stand.provider.create(order(stand))
    stand.pass_time()
    zone, name = words.parts_of(key)
    client = discovery.build(
        "compute",
        "v1",
        static_discovery=True,
        credentials=StubCredentials(),
        client_options={"api_endpoint": f"{server().url}/compute/v1/"},
    )
    try:
        names = {"project": stand.cloud.project, "zone": zone}
        found = client.instances().get(**names, instance=name).execute()
        assert (found["status"], found["labels"][words.MACHINE_LABEL]) == ("RUNNING", "mach_1")
        for wrong in ({"name": "x", "schedulling": {}}, {"scheduling": {"provisioningModel": "CHEAP"}}):
            with pytest.raises(errors.HttpError):
                client.instances().insert(**names, body=wrong).execute()
        client.instances().delete(**names, instance=name).execute()
    finally:
        client.close()
    noted = [method for method, _ in stand.cloud.violations]
    stand.cloud.violations.clear()
    assert noted == ["compute.instances.insert"] * 2
    stand.pass_time()
    assert stand.provider.terminate(key)
