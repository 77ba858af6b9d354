"""What only Azure does: machines whose making fails when the order was accepted, parts that stay behind,
sizes that are closed in a zone, and a log that tells later what became of a machine.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError
from azure.mgmt.compute import ComputeManagementClient
from cloud_stands.azure import AzureStand
from fake_azure.cloud import GROUP, IMAGE, SUBNET, SUBSCRIPTION, machine_id
from fake_azure.token import StubCredential

from bursar.clock import HOUR_US, SECOND_US
from bursar_policies.specs import LaunchSetting
from bursard.machines import azure_words as words
from bursard.machines.azure import LATELY_US, SWEEP_US, AzureProvider, open_provider
from bursard.machines.azure_calls import Calls
from bursard.machines.azure_prices import SOURCE, RetailPrices, nanos_of, rates_of, read_page
from bursard.machines.houses import asked
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

CREATE = "virtual_machines_create_or_update"


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[AzureStand]:
    made = AzureStand(tmp_path)
    yield made
    made.close()


def order(stand: AzureStand, machine_id: str = "mach_1", place: Place | None = None, **more: str) -> Order:
    return Order(
        machine_id=machine_id,
        cluster="cluster_1",
        place=place or stand.here,
        join=Join(server="grpcs://host:1", name="pool-1", pool="pool", token="node_secret"),
        lifetime_us=2 * HOUR_US,
        launch=(*stand.launch, *(LaunchSetting(key, text) for key, text in more.items())),
    )


def row(stand: AzureStand, key: str) -> dict[str, Any]:
    return stand.cloud.machines[machine_id(*words.parts_of(key)).lower()].row


def sweep(stand: AzureStand) -> None:
    stand.clock.advance(SWEEP_US)
    stand.cloud.pass_time()


@pytest.mark.parametrize("code", ["AllocationFailed", "ZonalAllocationFailed"])
def test_a_machine_whose_making_fails_is_told_with_its_place_and_is_there_to_be_ended(
    stand: AzureStand, code: str
) -> None:
    stand.cloud.fail(CREATE, 0, code, "We do not have sufficient capacity.", when="late")
    key = stand.provider.create(order(stand))
    assert stand.provider.poll(key).state is InstanceState.PENDING
    stand.pass_time()
    (failed,) = stand.again().list_owned("cluster_1")
    assert (failed.provider_id, failed.state, failed.billed_from) == (key, InstanceState.FAILED, 0)
    assert "sufficient capacity" in failed.message
    with pytest.raises(CloudError) as error:
        stand.again().poll(key)
    assert (error.value.kind, error.value.code, error.value.scope) == (
        Kind.CAPACITY,
        code,
        Place(region="eastus", zone="eastus-1", instance_type=stand.here.instance_type, market="on-demand"),
    )
    assert not stand.provider.terminate(key)
    stand.pass_time()
    assert stand.provider.terminate(key)
    assert stand.cloud.parts == {}


def test_all_that_was_made_with_a_machine_goes_with_it(stand: AzureStand) -> None:
    key = stand.provider.create(order(stand))
    assert len(stand.cloud.parts) == 3
    stand.pass_time()
    assert stand.provider.list_owned("cluster_1")[0].provider_id == key
    stand.provider.terminate(key)
    stand.pass_time()
    assert stand.cloud.parts == {}


def test_a_part_that_is_left_behind_is_listed_as_a_machine_to_be_ended(stand: AzureStand) -> None:
    stand.cloud.leaves = ("Microsoft.Compute/disks", "Microsoft.Network/publicIPAddresses")
    key = stand.provider.create(order(stand))
    stand.pass_time()
    assert [one.provider_id for one in stand.provider.list_owned("cluster_1")] == [key]
    stand.provider.terminate(key)
    stand.pass_time()
    sweep(stand)
    left = [one for one in stand.again().list_owned("cluster_1") if not one.gone]
    assert {one.message.rpartition(" ")[2] for one in left} == set(stand.cloud.leaves)
    assert {(one.machine_id, one.state, one.billed_from) for one in left} == {("", InstanceState.FAILED, 0)}
    for one in left:
        stand.provider.terminate(one.provider_id)
        assert stand.provider.terminate(one.provider_id)
    assert stand.cloud.parts == {}
    assert [one for one in stand.again().list_owned("cluster_1") if not one.gone] == []


def test_parts_of_a_machine_that_is_there_and_of_other_clusters_are_left_alone(stand: AzureStand) -> None:
    stand.provider.create(order(stand))
    other = stand.provider.create(order(stand, "mach_2"))
    theirs = words.name_of("cluster_2", "mach_3")
    stand.cloud.parts["/x"] = {
        "id": "/x",
        "name": f"{theirs}-os",
        "type": "Microsoft.Compute/disks",
        "location": "eastus",
        "of": "",
        "goes": True,
    }
    stand.provider.terminate(other)
    stand.pass_time()
    sweep(stand)
    (kept,) = [one for one in stand.provider.list_owned("cluster_1") if not one.gone]
    assert kept.machine_id == "mach_1"
    assert len(stand.cloud.parts) == 4


def test_one_code_means_two_things_by_the_market_that_was_asked_for(stand: AzureStand) -> None:
    found = []
    for number, place in enumerate((stand.here, stand.spot_here)):
        stand.cloud.fail(CREATE, 409, "SkuNotAvailable")
        with pytest.raises(CloudError) as error:
            stand.provider.create(order(stand, f"mach_{number}", place))
        found.append((error.value.kind, error.value.ttl_us // HOUR_US))
    assert found == [(Kind.NOT_OFFERED, 23), (Kind.CAPACITY, 1)]


def test_a_quota_of_nothing_is_believed_for_longer(stand: AzureStand) -> None:
    stand.cloud.fail(CREATE, 409, "QuotaExceeded", "Location: eastus, Current Limit: 0, Current Usage: 0")
    with pytest.raises(CloudError) as error:
        stand.provider.create(order(stand))
    assert (error.value.kind, error.value.ttl_us) == (Kind.QUOTA, HOUR_US)


def test_a_machine_that_switched_itself_off_still_holds_its_host_and_is_paid_for(stand: AzureStand) -> None:
    key = stand.provider.create(order(stand))
    stand.pass_time()
    stand.cloud.machines[machine_id(*words.parts_of(key)).lower()].power = "stopped"
    (off,) = stand.provider.list_owned("cluster_1")
    assert (off.state, off.billed_until) == (InstanceState.ENDING, 0)
    assert off.billed_from == off.created_at
    assert off.message


def test_a_machine_that_failed_while_it_runs_is_billed_for_it_runs(stand: AzureStand) -> None:
    key = stand.provider.create(order(stand))
    stand.pass_time()
    row(stand, key)["properties"]["provisioningState"] = "Failed"
    (failed,) = stand.provider.list_owned("cluster_1")
    assert (failed.state, failed.billed_from) == (InstanceState.FAILED, failed.created_at)


def test_somebody_elses_machine_of_that_name_is_not_taken_for_ours(stand: AzureStand) -> None:
    key = stand.provider.create(order(stand))
    row(stand, key)["tags"] = {"team": "theirs"}
    with pytest.raises(CloudError) as error:
        stand.again().create(order(stand))
    assert (error.value.kind, error.value.maybe_created) == (Kind.CONFLICT, False)
    assert stand.provider.list_owned("cluster_1") == []


def test_a_spot_machine_is_asked_for_as_azure_wants_it(stand: AzureStand) -> None:
    key = stand.provider.create(
        order(stand, place=stand.spot_here, external_ip="none", disk="200GiB", identity="/subscriptions/i")
    )
    made = row(stand, key)
    properties = made["properties"]
    assert (properties["priority"], properties["evictionPolicy"]) == ("Spot", "Delete")
    assert properties["billingProfile"] == {"maxPrice": -1}
    assert (made["zones"], made["location"]) == (["1"], "eastus")
    assert properties["storageProfile"]["osDisk"]["diskSizeGB"] == 200
    assert properties["storageProfile"]["imageReference"] == {"id": IMAGE}
    assert made["identity"] == {
        "type": "UserAssigned",
        "userAssignedIdentities": {"/subscriptions/i": {}},
    }
    assert len(stand.cloud.parts) == 2


def test_a_machine_with_an_identity_deletes_itself_when_its_time_is_over(
    stand: AzureStand, tmp_path: Path
) -> None:
    """Its script is run with programs that note what they are asked, as the machine would run it then."""
    key = stand.provider.create(order(stand, identity="/subscriptions/i"))
    lines = stand.handed(key).split("\n")
    assert lines[0] == "#!/bin/sh"
    begin, end = lines.index("cat >/run/bursar-end <<'BURSAR_OWN_END'"), lines.index("BURSAR_OWN_END")
    assert lines[end + 1].startswith("systemd-run --unit=bursar-end --on-active=120min sh /run/bursar-end")
    curl = tmp_path / "curl"
    curl.write_text(
        '#!/bin/sh\necho "$@" >>"$0.asked"\necho \'{"access_token": "secret.token-1", "a": "b"}\'\n'
    )
    curl.chmod(0o755)
    text = "\n".join(lines[begin + 1 : end])
    subprocess.run(["/bin/sh", "-c", text], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True, timeout=20)
    first, second = (tmp_path / "curl.asked").read_text().splitlines()
    assert "Metadata:true http://169.254.169.254/metadata/identity/oauth2/token?" in first
    assert first.endswith("&msi_res_id=/subscriptions/i")
    assert "-X DELETE -H Authorization: Bearer secret.token-1 https://management.azure.com" in second
    assert machine_id(*words.parts_of(key)) in second


def test_a_machine_without_an_identity_is_given_no_such_script(stand: AzureStand) -> None:
    assert "bursar-end" not in stand.handed(stand.provider.create(order(stand)))


def test_an_image_of_the_marketplace_is_named_by_four_words() -> None:
    found = words.image_of("microsoft-dsvm:ubuntu-hpc:2204:latest")
    assert found == {
        "publisher": "microsoft-dsvm",
        "offer": "ubuntu-hpc",
        "sku": "2204",
        "version": "latest",
    }


def test_an_eviction_is_told_by_the_log_also_when_it_comes_late(stand: AzureStand) -> None:
    key = stand.provider.create(order(stand, place=stand.spot_here))
    stand.pass_time()
    assert len(stand.provider.list_owned("cluster_1")) == 1
    stand.take_back(key)
    stand.pass_time()
    told, stand.cloud.activities = stand.cloud.activities, []
    assert stand.provider.list_owned("cluster_1") == []
    stand.cloud.activities = told
    (gone,) = stand.provider.list_owned("cluster_1")
    assert (gone.state, gone.interrupted, gone.machine_id) == (InstanceState.GONE, True, "mach_1")
    assert [one.kind for one in stand.provider.events(0)] == ["interrupted"]
    stand.clock.advance(LATELY_US)
    assert stand.provider.list_owned("cluster_1") == []


def test_a_log_that_may_not_be_read_keeps_nothing_from_being_listed(stand: AzureStand) -> None:
    key = stand.provider.create(order(stand))
    stand.cloud.fail("activities", 403, "AuthorizationFailed")
    assert [one.provider_id for one in stand.provider.list_owned("cluster_1")] == [key]


@pytest.mark.parametrize("answer", [b"", b"<html>no</html>", b"[]", b"{}", b'{"value": 7}', b'{"value": ['])
def test_an_answer_that_cannot_be_read_is_no_answer(stand: AzureStand, answer: bytes) -> None:
    stand.server.raw = answer
    with pytest.raises(CloudError) as error:
        stand.provider.list_owned("cluster_1")
    assert (error.value.kind, error.value.maybe_created) == (Kind.THROTTLED, True)


def test_a_list_without_an_end_or_at_another_service_is_given_up(stand: AzureStand) -> None:
    path = f"/subscriptions/{SUBSCRIPTION}/x"
    for link in (f"{stand.server.url}{path}", "https://elsewhere.example/x"):
        stand.server.raw = json.dumps({"value": [], "nextLink": link}).encode()
        with pytest.raises(CloudError) as error:
            stand.provider.list_owned("cluster_1")
        assert error.value.code == "EndlessList"


def test_a_404_of_whoever_stands_before_azure_does_not_say_that_a_machine_is_gone(stand: AzureStand) -> None:
    key = stand.provider.create(order(stand))
    stand.cloud.fail("virtual_machines_get", 404, "")
    with pytest.raises(CloudError) as error:
        stand.provider.query([key])
    assert error.value.kind is Kind.THROTTLED


def test_a_server_that_nobody_vouches_for_is_told_nothing(stand: AzureStand) -> None:
    credential = StubCredential()
    calls = Calls(SUBSCRIPTION, stand.server.url, "", credential)
    needs = Needs(now=stand.clock.now, currency="USD", rate=stand.rate)
    provider = AzureProvider(calls, needs, RetailPrices(needs))
    with pytest.raises(CloudError) as error:
        provider.create(order(stand))
    provider.close()
    assert (error.value.kind, error.value.maybe_created) == (Kind.THROTTLED, True)
    assert stand.cloud.calls == []


def test_without_credentials_each_call_says_what_is_missing(
    stand: AzureStand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_SUBSCRIPTION_ID", raising=False)
    provider = open_provider(Needs(now=stand.clock.now, currency="USD", rate=stand.rate))
    with pytest.raises(CloudError) as error:
        provider.list_owned("cluster_1")
    assert (error.value.kind, error.value.code) == (Kind.AUTH, "NoCredentials")
    (check,) = provider.preflight([])
    assert (check.name, check.good) == ("credentials", False)
    assert "AZURE_SUBSCRIPTION_ID" in check.says


def test_the_checks_name_each_permission_image_and_subnet_that_is_missing(stand: AzureStand) -> None:
    stand.cloud.granted = ("Microsoft.Compute/*", "Microsoft.Network/networkInterfaces/*")
    launch = [one for one in stand.launch if one.key not in ("image", "subnet")]
    launch += [LaunchSetting("image", f"{IMAGE}9"), LaunchSetting("subnet", f"{SUBNET}9", "eastus")]
    wanted = Wanted(regions=("eastus", "mars"))
    pool = PoolTerms(name="gpus", wanted=wanted, launch=tuple(launch))
    bad = {one.name: one.says for one in stand.provider.preflight([pool]) if not one.good}
    lacking = bad["pool gpus: permissions"]
    assert "Microsoft.Network/publicIPAddresses/write" in lacking
    assert "Microsoft.Compute" not in lacking
    assert f"{IMAGE}9" in bad["pool gpus: image in eastus"]
    assert f"{SUBNET}9" in bad["pool gpus: subnet in eastus"]
    assert "mars" in bad["pool gpus: region in mars"]
    assert "pool gpus: security_group in eastus" not in bad


def test_offers_are_of_zones_that_are_open_with_gpus_that_are_known_and_a_price(stand: AzureStand) -> None:
    found = stand.provider.offers(Wanted(regions=("eastus", "northcentralus")))
    kinds = {(one.place.instance_type, one.place.zone, one.place.market) for one in found}
    small, large = "Standard_NC4as_T4_v3", "Standard_NC24ads_A100_v4"
    assert kinds == {
        *((small, f"eastus-{zone}", market) for zone in (1, 2, 3) for market in ("spot", "on-demand")),
        *((large, f"eastus-{zone}", "on-demand") for zone in (1, 2)),
        *(("Standard_ND96isr_H100_v5", f"eastus-{zone}", "on-demand") for zone in (1, 2, 3)),
        ("Standard_D4s_v5", "northcentralus", "on-demand"),
    }
    one = next(one for one in found if one.place.instance_type == large)
    assert (one.gpu_type, one.gpu_count, one.gpu_memory_bytes) == ("A100", 1, 80 * 10**9)
    assert (one.cpu_milli, one.memory_bytes) == (24_000, (220 << 30) * 925 // 1000)


def test_where_there_are_no_zones_a_machine_is_asked_for_in_none(stand: AzureStand) -> None:
    place = Place("northcentralus", "northcentralus", "Standard_D", "Standard_D4s_v5", "on-demand")
    key = stand.provider.create(order(stand, place=place))
    assert "zones" not in row(stand, key)
    assert stand.provider.poll(key).place == place


def test_quotas_are_told_in_vcpus_by_family_and_market(stand: AzureStand) -> None:
    stand.cloud.quotas |= {"Standard NCASv3_T4 Family": (4, 16)}
    found = {one.name: one for one in stand.provider.quotas("eastus")}
    family = found["Standard NCASv3_T4 Family"]
    assert (family.limit, family.used, family.left, family.unit) == (16, 4, 12, "vCPUs")
    assert family.scope == Place(region="eastus", family="Standard_NC", market="on-demand")
    assert found["lowPriorityCores"].scope == Place(region="eastus", market="spot")


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("1970-01-01T00:00:01.0000000Z", SECOND_US),
        ("1970-01-01T00:00:01.1234567+00:00", 1_123_456),
        ("1970-01-01T00:00:01Z", SECOND_US),
        ("", 0),
        (None, 0),
    ],
)
def test_times_are_read_as_azure_writes_them(text: object, at: int) -> None:
    assert words.instant(text) == at


def test_the_library_s_own_words_for_the_same_cloud_and_what_the_contract_refuses(stand: AzureStand) -> None:
    key = stand.provider.create(order(stand))
    stand.pass_time()
    client = ComputeManagementClient(
        stand.credential,
        SUBSCRIPTION,
        base_url=stand.server.url,
        credential_scopes=["https://management.azure.com/.default"],
        connection_verify=stand.server.ca_file,
    )
    try:
        name = words.parts_of(key)[1]
        assert [one.name for one in client.virtual_machines.list_all()] == [name]
        view = client.virtual_machines.instance_view(GROUP, name)
        assert [one.code for one in view.statuses] == ["ProvisioningState/succeeded", "PowerState/running"]
        skus = list(client.resource_skus.list(filter="location eq 'northcentralus'"))
        assert {one.name for one in skus} >= {"Standard_D4s_v5"}
        assert [(one.name.value, one.limit) for one in client.usage.list("eastus")] == [
            ("cores", 350),
            ("lowPriorityCores", 100),
        ]
        wrong: Any = {"location": "eastus", "properties": {"hardwareProfile": {"vmsize": "x"}}}
        with pytest.raises(HttpResponseError):
            client.virtual_machines.begin_create_or_update(GROUP, "x", wrong, polling=False)
    finally:
        client.close()
    noted = [method for method, _ in stand.cloud.violations]
    stand.cloud.violations.clear()
    assert noted == [CREATE]


T4, H100 = "Standard_NC4as_T4_v3", "Standard_ND96isr_H100_v5"
EAST = Wanted(regions=("eastus",), gpus=("T4", "H100"))


def rates(stand: AzureStand, wanted: Wanted = EAST) -> dict[tuple[str, str], tuple[int, str]]:
    """By size and market, what is asked for it and who says so."""
    return {
        (one.place.instance_type, one.place.market): (one.rate_nanos_per_hour, one.source)
        for one in stand.provider.offers(wanted)
    }


def test_prices_are_those_that_azure_publishes_and_what_it_does_not_say_is_what_the_books_say(
    stand: AzureStand,
) -> None:
    stand.cloud.price("eastus", T4, 0.6)
    stand.cloud.price("eastus", T4, 0.111111, meterName="NC4as T4 v3 Spot")
    assert rates(stand) == {
        (T4, "on-demand"): (600_000_000, SOURCE),
        (T4, "spot"): (111_111_000, SOURCE),
        (H100, "on-demand"): (98_320_000_000, "a book"),
    }


def test_rows_that_are_no_price_of_such_a_machine_by_the_hour_now_are_passed_over(stand: AzureStand) -> None:
    cloud = stand.cloud
    cloud.price("eastus", T4, 0.6)
    cloud.price("eastus", T4, 0.01, productName="Virtual Machines NCasT4 v3 Series Windows")
    cloud.price("eastus", T4, 0.01, meterName="NC4as T4 v3 Low Priority")
    cloud.price("eastus", T4, 0.01, unitOfMeasure="1 Month")
    cloud.price("eastus", T4, 0.01, type="Reservation")
    cloud.price("eastus", T4, 0.01, productName="NCasT4 v3 Series CloudServices")
    cloud.price("eastus", T4, 0.01, effectiveStartDate="2026-06-01T00:00:00Z")
    cloud.price("eastus", T4, 0.01, effectiveStartDate="2025-10-01T00:00:00Z")
    cloud.price("eastus", T4, 0.5)
    cloud.price("westus", T4, 0.9)
    assert rates(stand)[T4, "on-demand"] == (600_000_000, SOURCE)


def test_a_spot_price_that_is_near_the_price_on_demand_says_that_there_is_no_room(stand: AzureStand) -> None:
    stand.cloud.price("eastus", T4, 1.0)
    stand.cloud.price("eastus", T4, 0.949, meterName="NC4as T4 v3 Spot")
    assert (T4, "spot") in rates(stand)
    stand.cloud.prices[-1]["retailPrice"] = 0.95
    stand.provider = stand.again()
    assert (T4, "spot") not in rates(stand)


def test_only_sizes_that_are_wanted_are_asked_for_and_not_again_for_half_a_day(stand: AzureStand) -> None:
    stand.cloud.price("eastus", T4, 0.6)
    rates(stand, Wanted(regions=("eastus",), instance_types=("Standard_NC4as*",)))
    asked = stand.cloud.calls.count("retail")
    assert asked == 1
    rates(stand, Wanted(regions=("eastus",), instance_types=("Standard_NC4as*",)))
    assert stand.cloud.calls.count("retail") == asked
    stand.clock.advance(12 * HOUR_US)
    stand.cloud.prices[0]["retailPrice"] = 0.7
    found = rates(stand, Wanted(regions=("eastus",), instance_types=("Standard_NC4as*",)))
    assert found[T4, "on-demand"] == (700_000_000, SOURCE)


def test_a_service_of_prices_that_is_away_leaves_the_books_and_is_left_alone(
    stand: AzureStand,
) -> None:
    stand.cloud.fail("retail", 429, "TooManyRequests")
    assert rates(stand)[T4, "spot"] == (158_000_000, "a book")
    asked = stand.cloud.calls.count("retail")
    stand.cloud.price("eastus", T4, 0.111111, meterName="NC4as T4 v3 Spot")
    assert rates(stand)[T4, "spot"] == (158_000_000, "a book")
    assert stand.cloud.calls.count("retail") == asked
    stand.clock.advance(HOUR_US)
    assert rates(stand)[T4, "spot"] == (111_111_000, SOURCE)


@pytest.mark.parametrize("amount", [None, "", "nonsense", "NaN", "Infinity", -1, 0])
def test_an_amount_that_is_none_is_no_price(amount: object) -> None:
    assert nanos_of(amount) == 0
    row = {"retailPrice": amount, "unitOfMeasure": "1 Hour", "type": "Consumption"}
    assert rates_of([{**row, "effectiveStartDate": "2025-11-01T00:00:00Z"}], 2**60) == {}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"Items": 7}', '{"Items": [7]}', "<html>"])
def test_a_page_that_is_no_list_of_prices_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_page(text)


def test_amounts_are_read_to_the_last_digit() -> None:
    rows, _ = read_page('{"Items": [{"retailPrice": 0.123456789}]}')
    assert nanos_of(rows[0]["retailPrice"]) == 123_456_789


@pytest.mark.parametrize(
    ("row", "heard"),
    [({}, False), ({"id": "/x", "name": 5, "properties": "?", "tags": ["x"]}, True)],
)
def test_a_row_of_a_stranger_that_cannot_be_read_is_passed_over_and_one_without_a_name_is_no_list(
    row: dict[str, object], heard: bool, stand: AzureStand, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = stand.provider.create(order(stand, "mach_1"))
    real = stand.provider._calls.machines
    monkeypatch.setattr(
        stand.provider._calls, "machines", lambda statuses=False: [*real(statuses=statuses), row]
    )
    if heard:
        assert [one.provider_id for one in stand.provider.list_owned("cluster_1")] == [key]
    else:
        with pytest.raises(CloudError, match="could not be read"):
            asked(lambda: stand.provider.list_owned("cluster_1"))
