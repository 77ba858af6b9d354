"""The provider `aws` against a fake account: what EC2 is asked, and what is made of its answers."""

from __future__ import annotations

import base64
import json
import logging
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from cloud_stands.aws import AwsStand
from fake_aws.server import IMAGE
from msgspec.structs import replace

from bursar.clock import HOUR_US, SECOND_US
from bursar_agent.settings import Settings
from bursar_policies.specs import LaunchSetting
from bursard.machines.aws import AwsProvider, token_of
from bursard.machines.aws_check import covers
from bursard.machines.aws_wire import Clients, asked
from bursard.machines.provider import (
    SWEEP_US,
    CloudError,
    InstanceState,
    Join,
    Kind,
    Needs,
    Order,
    Place,
    PoolTerms,
    Rate,
    Wanted,
)

EAST = Wanted(regions=("us-east-1",), instance_types=("g6.xlarge",))


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[AwsStand]:
    made = AwsStand(tmp_path)
    yield made
    made.close()


def order(stand: AwsStand, machine_id: str = "mach_1", **more: object) -> Order:
    join = Join(server="grpcs://bursar.example:7443", name="pool-1", pool="pool", token="node_secret")
    made = Order(
        machine_id=machine_id,
        cluster="cluster_1",
        place=stand.here,
        join=join,
        lifetime_us=2 * HOUR_US,
        launch=stand.launch,
    )
    return replace(made, **more)


def described(stand: AwsStand, key: str) -> dict[str, object]:
    region, _, instance = key.partition("/")
    client = stand.fake.client("ec2", region)
    found = client.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    assert isinstance(found, dict)
    return found


# ------------------------------------------------------------------ what is made


def test_boto3_is_imported_at_the_first_call_and_not_before() -> None:
    code = (
        "import sys; from bursard.machines import aws; from bursard.machines.provider import Needs;"
        "aws.open_provider(Needs(now=lambda: 0, currency='USD', rate=lambda place: None));"
        "assert not {'boto3', 'botocore'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_machine_has_its_tags_its_token_and_a_metadata_service_that_needs_a_session(
    stand: AwsStand,
) -> None:
    wanted = order(stand)
    found = described(stand, stand.provider.create(wanted))
    assert {tag["Key"]: tag["Value"] for tag in found["Tags"]} == {  # type: ignore[attr-defined]
        "Name": "pool-1",
        "bursar-cluster": "cluster_1",
        "bursar-machine": "mach_1",
        "bursar-pool": "pool",
        "bursar-lifetime-s": "7200",
    }
    assert found["ClientToken"] == token_of(wanted)
    assert found["MetadataOptions"]["HttpTokens"] == "required"  # type: ignore[index]
    asking = dict(stand.world.asked)["RunInstances"]
    assert '"InstanceInitiatedShutdownBehavior": ["terminate"]' in asking
    assert '"VolumeSize": ["200"]' in asking.replace("BlockDeviceMapping.1.Ebs.", "")


def test_a_token_is_of_one_order_of_one_cluster(stand: AwsStand) -> None:
    tokens = {
        token_of(order(stand)),
        token_of(order(stand, "mach_2")),
        token_of(order(stand, cluster="cluster_2")),
    }
    assert len(tokens) == 3
    assert all(len(one) <= 64 and one.isascii() for one in tokens)


def test_the_same_order_for_another_machine_is_a_conflict(stand: AwsStand) -> None:
    stand.provider.create(order(stand))
    other = replace(stand.here, instance_type="g6.2xlarge")
    with pytest.raises(CloudError, match="IdempotentParameterMismatch") as error:
        stand.provider.create(order(stand, place=other))
    assert (error.value.kind, error.value.maybe_created) == (Kind.CONFLICT, True)


def test_by_the_default_chain_no_secret_is_in_any_log(
    stand: AwsStand, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With credentials and an endpoint of the environment, and every logger at its most talkative."""
    for name, text in {
        "AWS_ENDPOINT_URL": stand.fake.url,
        "AWS_ACCESS_KEY_ID": "AKIAFAKE",
        "AWS_SECRET_ACCESS_KEY": "fake-secret-key",
    }.items():
        monkeypatch.setenv(name, text)
    for name in ("boto3", "botocore", "urllib3"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.getLogger(name).level)
    caplog.set_level(logging.DEBUG)
    needs = Needs(now=stand.clock.now, currency="USD", rate=lambda place: None)
    provider = AwsProvider(needs, Clients())
    with stand.fail("create", Kind.THROTTLED), pytest.raises(CloudError):
        provider.create(order(stand))
    assert stand.world.calls("RunInstances") == 1, "boto3 asks no second time by itself"
    key = provider.create(order(stand))
    handed = stand.handed(key)
    assert "node_secret" in handed
    said = caplog.text
    assert "node_secret" not in said
    assert base64.b64encode(handed.encode()).decode()[:40] not in said
    assert "fake-secret-key" not in said


def test_a_call_is_one_request_whatever_it_is_answered(stand: AwsStand) -> None:
    with stand.fail("create", Kind.THROTTLED), pytest.raises(CloudError):
        stand.provider.create(order(stand))
    assert stand.world.calls("RunInstances") == 1


def test_a_type_that_a_zone_has_not_is_not_offered_there(stand: AwsStand) -> None:
    zones = stand.provider._offers._zones("us-east-1")
    everywhere = {zone for some in zones.values() for zone in some}
    kind, without = min((kind, zone) for kind, some in zones.items() for zone in everywhere - some)
    nowhere = replace(stand.here, zone=without, instance_type=kind)
    with pytest.raises(CloudError, match="Unsupported") as error:
        stand.provider.create(order(stand, place=nowhere))
    assert error.value.kind is Kind.NOT_OFFERED
    assert error.value.scope == Place("us-east-1", without, "", kind)


def test_a_machine_is_told_who_it_is_how_to_come_up_and_when_to_go(stand: AwsStand) -> None:
    script = "set -x\npip install /wheels/bursar.whl\n"
    launch = (
        *stand.launch,
        LaunchSetting("bootstrap", script),
        LaunchSetting("ca_file", "/etc/bursar/ca.pem", "us-east-1"),
    )
    text = stand.handed(stand.provider.create(order(stand, launch=launch)))
    assert text.startswith("#!/bin/sh\n")
    assert "shutdown -P +120 " in text
    assert 'server = "grpcs://bursar.example:7443"\nname = "pool-1"\npool = "pool"\n' in text
    assert 'instance_type = "g6.xlarge"\nmarket = "on-demand"\nca_file = "/etc/bursar/ca.pem"\n' in text
    assert script in text
    assert text.index("shutdown -P +120") < text.index("pip install") < text.index("systemd-run")
    assert "notices" not in text, "what is not spot is not taken back"
    subprocess.run(["sh", "-n"], input=text, text=True, check=True, timeout=10)


def test_a_spot_machine_listens_for_its_notice(stand: AwsStand) -> None:
    text = stand.handed(stand.provider.create(order(stand, place=stand.spot_here)))
    config = text.partition("cat >/etc/bursar/agent.toml <<'BURSAR_END'\n")[2].partition("BURSAR_END")[0]
    assert tomllib.loads(config)["notices"] == "aws"
    assert set(tomllib.loads(config)) <= {field.name for field in fields(Settings)}


def test_a_bootstrap_is_a_script_of_its_own_and_not_of_the_shell_around_it(stand: AwsStand) -> None:
    script = "cat <<'BURSAR_END'\n$HOME `id`\nBURSAR_END\n"
    launch = (*stand.launch, LaunchSetting("bootstrap", script))
    text = stand.handed(stand.provider.create(order(stand, launch=launch)))
    assert f"<<'BURSAR_END_'\n{script}BURSAR_END_\n" in text
    subprocess.run(["sh", "-n"], input=text, text=True, check=True, timeout=10)


def test_a_zone_of_which_the_pool_names_no_subnet_is_left_alone_without_asking(stand: AwsStand) -> None:
    launch = (*stand.launch, LaunchSetting("subnet", "subnet-0123456789abcdef0", "us-east-1b"))
    with pytest.raises(CloudError, match=r"launch\.subnet names none in us-east-1a") as error:
        stand.provider.create(order(stand, launch=launch))
    assert (error.value.kind, error.value.maybe_created) == (Kind.NOT_OFFERED, False)
    assert error.value.ttl_us == 600 * SECOND_US
    assert stand.world.calls("RunInstances") == 0


def test_user_data_that_ec2_would_not_take_is_refused_before_it_is_asked(stand: AwsStand) -> None:
    launch = (*stand.launch, LaunchSetting("bootstrap", "x" * 17_000))
    with pytest.raises(CloudError, match=r"shorten launch\.bootstrap") as error:
        stand.provider.create(order(stand, launch=launch))
    assert (error.value.kind, error.value.maybe_created) == (Kind.INVALID, False)
    assert stand.world.calls("RunInstances") == 0


# ------------------------------------------------------------------ what is listed


def test_everywhere_is_looked_at_first_and_then_where_something_is(stand: AwsStand) -> None:
    key = stand.provider.create(order(stand))
    again = stand.again()
    assert [one.provider_id for one in again.list_owned("cluster_1")] == [key]
    looked = stand.world.calls("DescribeInstances")
    assert [one.provider_id for one in again.list_owned("cluster_1")] == [key]
    assert stand.world.calls("DescribeInstances") == looked + 1, "only us-east-1"
    again.list_owned("cluster_1", ["us-east-2"])
    assert stand.world.calls("DescribeInstances") == looked + 3
    stand.clock.advance(SWEEP_US)
    again.list_owned("cluster_1")
    assert stand.world.calls("DescribeRegions") == 2


def test_a_region_that_is_closed_to_us_hides_no_other_one(stand: AwsStand) -> None:
    """1. us-east-1 refuses, and nothing of ours is known there. 2. It is known: no list is no empty list."""
    stand.world.fail("DescribeInstances", "UnauthorizedOperation", status=403)
    assert stand.provider.list_owned("cluster_1", ["us-east-2"]) == []
    stand.world.fail("DescribeInstances", "UnauthorizedOperation", status=403)
    with pytest.raises(CloudError):
        stand.provider.list_owned("cluster_1", ["us-east-1"])


def test_an_answer_that_ends_in_the_middle_is_no_list(stand: AwsStand) -> None:
    for number in range(7):
        stand.provider.create(order(stand, f"mach_{number}"))
    stand.provider.list_owned("cluster_1")
    before = stand.world.calls("DescribeInstances")
    stand.provider.list_owned("cluster_1")
    assert stand.world.calls("DescribeInstances") - before == 2, "two pages"
    stand.world.faults.clear()
    good = stand.fake.client("ec2", "us-east-1")

    class Torn:
        """Its second page is refused."""

        def describe_instances(self, **asked: object) -> object:
            if "NextToken" in asked:
                stand.world.fail("DescribeInstances", "InternalError", status=500)
            return good.describe_instances(**asked)

        def __getattr__(self, name: str) -> object:
            return getattr(good, name)

    needs = Needs(now=stand.clock.now, currency="USD", rate=lambda place: None)
    torn = AwsProvider(needs, Clients(lambda service, region: Torn()), page=5)
    with pytest.raises(CloudError, match="InternalError"):
        torn.list_owned("cluster_1", ["us-east-1"])


def test_a_machine_that_somebody_stopped_is_one_that_ends(stand: AwsStand) -> None:
    key = stand.provider.create(order(stand))
    stand.pass_time()
    row = described(stand, key) | {"State": {"Name": "stopped"}}
    found = stand.provider._instance("us-east-1", row)
    assert found.state is InstanceState.ENDING
    assert found.message.startswith("it was stopped")


def test_one_that_never_ran_is_not_billed_and_says_why(stand: AwsStand) -> None:
    key = stand.provider.create(order(stand))
    code = "Server.InsufficientInstanceCapacity"
    reason = {"Code": code, "Message": f"{code}: There is not enough capacity"}
    row = described(stand, key) | {"State": {"Name": "terminated"}, "StateReason": reason}
    found = stand.provider._instance("us-east-1", row)
    assert (found.state, found.billed_from, found.billed_until) == (InstanceState.GONE, 0, 0)
    assert "not enough capacity" in found.message


def test_an_end_without_a_date_is_when_it_was_first_seen(stand: AwsStand) -> None:
    key = stand.provider.create(order(stand))
    stand.pass_time()
    row = described(stand, key) | {"State": {"Name": "terminated"}, "StateTransitionReason": ""}
    first = stand.provider._instance("us-east-1", row).billed_until
    assert first == stand.clock.now()
    stand.pass_time()
    assert stand.provider._instance("us-east-1", row).billed_until == first


def test_what_it_took_back_is_an_event(stand: AwsStand) -> None:
    key = stand.provider.create(order(stand, place=stand.spot_here))
    stand.pass_time()
    stand.provider.list_owned("cluster_1")
    assert stand.provider.events(0) == []
    stand.take_back(key)
    stand.pass_time()
    (found,) = stand.provider.events(0)
    assert (found.provider_id, found.kind) == (key, "interrupted")
    assert stand.provider.events(found.at + 1) == []


# ------------------------------------------------------------------ what it costs


def test_a_spot_machine_that_is_taken_back_in_its_first_hour_is_free(stand: AwsStand) -> None:
    billing = stand.provider.capabilities.billing
    rate = 3_600_000_000_000
    assert billing.nanos(rate, 59 * SECOND_US) == 60_000_000_000
    assert billing.nanos(rate, 61 * SECOND_US) == 61_000_000_000
    assert billing.nanos(rate, HOUR_US - 1, interrupted=True) == 0
    assert billing.nanos(rate, HOUR_US, interrupted=True) == rate


def test_a_spot_price_near_the_list_price_is_no_offer(stand: AwsStand) -> None:
    spot = replace(EAST, markets=("spot",))
    (offer,) = stand.provider.offers(spot)
    assert (offer.place.zone, offer.rate_nanos_per_hour) == ("us-east-1a", 321_900_000)
    assert offer.source == "aws spot price history"
    assert (offer.gpu_type, offer.gpu_count) == ("L4", 1)
    assert offer.memory_bytes < 16 << 30, "the system of the machine has its part"


def test_prices_on_demand_are_the_books_where_the_price_list_is_closed_to_us(stand: AwsStand) -> None:
    stand.world.refused.add("GetProducts")
    book = Rate(nanos_per_hour=804_800_000, currency="USD", as_of=5, source="a book")
    needs = Needs(now=stand.clock.now, currency="USD", rate=lambda place: book)
    provider = AwsProvider(needs, Clients(stand.fake.client), page=5)
    offers = provider.offers(replace(EAST, markets=("on-demand",)))
    assert {(one.rate_nanos_per_hour, one.as_of, one.source) for one in offers} == {
        (804_800_000, 5, "a book")
    }
    assert stand.world.calls("GetProducts") == 1, "for an hour it is not asked again"
    pool = PoolTerms(name="pool", wanted=EAST, launch=stand.launch)
    (check,) = [one for one in provider.preflight([pool]) if one.name == "prices"]
    assert "the price books" in check.says
    assert check.remedy == "allow pricing:GetProducts"


def test_without_any_price_there_is_no_offer(stand: AwsStand) -> None:
    stand.world.on_demand.clear()
    assert stand.provider.offers(replace(EAST, markets=("on-demand",))) == []


def test_types_are_heard_once_a_day_and_spot_prices_every_five_minutes(stand: AwsStand) -> None:
    stand.provider.offers(EAST)
    stand.provider.offers(EAST)
    assert stand.world.calls("DescribeSpotPriceHistory") == 1
    types = stand.world.calls("DescribeInstanceTypes")
    stand.clock.advance(301 * SECOND_US)
    stand.world.spot["us-east-1a", "g6.xlarge"].append((stand.clock.now() - 1, "0.3000"))
    offers = stand.provider.offers(replace(EAST, markets=("spot",)))
    assert [one.rate_nanos_per_hour for one in offers] == [300_000_000]
    assert stand.world.calls("DescribeInstanceTypes") == types
    stand.clock.advance(25 * HOUR_US)
    stand.provider.offers(EAST)
    assert stand.world.calls("DescribeInstanceTypes") == 2 * types


def test_prices_are_dated_facts_and_every_page_of_them_is_read(stand: AwsStand) -> None:
    began = stand.clock.now() - 10 * HOUR_US
    stand.world.spot["us-east-1a", "g6.xlarge"] = [
        (began + n * SECOND_US, f"0.{3000 + n}") for n in range(12)
    ]
    stand.provider.offers(EAST)
    points = [one for one in stand.provider.prices(began) if one.place.zone == "us-east-1a"]
    assert [one.rate_nanos_per_hour for one in points] == [(3000 + n) * 100_000 for n in range(12)]
    assert [one.since for one in points] == [began + n * SECOND_US for n in range(12)]
    later = stand.provider.prices(began + 11 * SECOND_US)
    assert [one.since for one in later if one.place.zone == "us-east-1a"] == [began + 11 * SECOND_US]


# ------------------------------------------------------------------ what is checked


def checks(stand: AwsStand, **more: object) -> dict[str, tuple[bool, str, str]]:
    pool = replace(PoolTerms(name="pool", wanted=EAST, launch=stand.launch), **more)
    return {one.name: (one.good, one.says, one.remedy) for one in stand.provider.preflight([pool])}


def test_a_check_says_who_we_are_and_asks_ec2_without_making_anything(stand: AwsStand) -> None:
    found = checks(stand)
    assert found["credentials"][0]
    assert "arn:aws:" in found["credentials"][1]
    assert found["launch pool us-east-1"] == (True, "EC2 would make a g6.xlarge", "")
    assert stand.provider.list_owned("cluster_1") == []
    assert '"DryRun": ["true"]' in dict(stand.world.asked)["RunInstances"]


@pytest.mark.parametrize(
    ("action", "name", "says"),
    [
        ("GetCallerIdentity", "credentials", "AccessDenied"),
        ("RunInstances", "launch pool us-east-1", "UnauthorizedOperation"),
        ("DescribeInstanceTypes", "launch pool us-east-1", "UnauthorizedOperation"),
    ],
)
def test_what_we_may_not_do_is_said_with_what_to_grant(
    stand: AwsStand, action: str, name: str, says: str
) -> None:
    stand.world.refused.add(action)
    good, said, remedy = checks(stand)[name]
    assert not good
    assert says in said
    assert "docs/clouds.md" in remedy


def test_an_image_that_is_not_there_is_a_fault_of_the_pool(stand: AwsStand) -> None:
    launch = tuple(replace(one, text="ami-00000000") if one.text == IMAGE else one for one in stand.launch)
    good, said, remedy = checks(stand, launch=launch)["launch pool us-east-1"]
    assert (good, remedy) == (False, "mend launch of CloudPool pool")
    assert "ami-00000000" in said


def test_credentials_that_are_not_there_are_said_so_and_nothing_is_asked(stand: AwsStand) -> None:
    from botocore.exceptions import NoCredentialsError

    def none() -> None:
        raise NoCredentialsError

    with pytest.raises(CloudError, match="Unable to locate credentials") as error:
        asked(none)
    assert (error.value.kind, error.value.maybe_created) == (Kind.AUTH, False)


def test_quotas_are_in_vcpus_with_what_runs_of_them(stand: AwsStand) -> None:
    stand.provider.create(order(stand))
    stand.provider.create(order(stand, "mach_2", place=stand.spot_here))
    found = {one.name: one for one in stand.provider.quotas("us-east-1")}
    assert set(found) == set(stand.world.quotas) - {"EC2-VPC Elastic IPs"}
    demand, spot = found["Running On-Demand G and VT instances"], found["All G and VT Spot Instance Requests"]
    assert (demand.limit, demand.used, demand.unit) == (64, 4, "vCPUs")
    assert (spot.scope.market, spot.limit, spot.used) == ("spot", 8, 4)
    assert found["Running On-Demand P instances"].left == 0


def test_a_machine_beyond_its_quota_is_refused_for_an_hour_without_asking_for_it(stand: AwsStand) -> None:
    large = replace(stand.here, instance_type="p5.48xlarge", family="p5")
    with pytest.raises(
        CloudError, match=r"'Running On-Demand P instances' is 0 vCPUs, and a p5\.48xlarge"
    ) as error:
        stand.provider.create(order(stand, place=large))
    found = error.value
    assert (found.kind, found.ttl_us, found.maybe_created) == (Kind.QUOTA, HOUR_US, False)
    assert found.scope == Place("us-east-1", "", "p5", "", "on-demand")
    assert stand.world.calls("RunInstances") == 0
    stand.provider.create(order(stand))
    assert stand.world.calls("ListServiceQuotas") == 1, "for an hour"


def test_quotas_that_we_may_not_see_stop_nothing(stand: AwsStand) -> None:
    stand.world.refused.add("ListServiceQuotas")
    assert stand.provider.create(order(stand))


@pytest.mark.parametrize(
    ("said", "family", "covered"),
    [
        ("G and VT", "g6", True),
        ("G and VT", "vt1", True),
        ("P", "p5en", True),
        ("P5", "p5en", True),
        ("P4, P3 and P2", "p5", False),
        ("Standard (A, C, D, H, I, M, R, T, Z)", "m7i", True),
        ("Standard (A, C, D, H, I, M, R, T, Z)", "inf2", False),
        ("P", "g6", False),
    ],
)
def test_a_quota_covers_the_families_that_its_name_says(said: str, family: str, covered: bool) -> None:
    assert covers(said, family) is covered


def test_the_rights_of_the_documents_are_those_that_are_used_and_no_others(stand: AwsStand) -> None:
    text = (Path(__file__).parents[2] / "docs/clouds.md").read_text()
    policy = json.loads(text.partition("```json\n")[2].partition("```")[0])
    granted = set()
    for statement in policy["Statement"]:
        actions = statement["Action"]
        granted |= {one.partition(":")[2] for one in ([actions] if isinstance(actions, str) else actions)}
    key = stand.provider.create(order(stand))
    stand.provider.list_owned("cluster_1")
    stand.provider.terminate(key)
    stand.provider.quotas("us-east-1")
    checks(stand)
    used = {action for action, _ in stand.world.asked}
    assert used | {"CreateTags"} == granted
