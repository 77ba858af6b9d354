"""The policy CloudPool: what it says is read whole, and what would not be kept is refused with its line."""

from __future__ import annotations

import pytest

from bursar.clock import DAY_US, SECOND_US
from bursar.errors import InvalidRequest, PolicyInvalid
from bursar.money import Money
from bursar_policies.document import parse_documents
from bursar_policies.launch_keys import KEYS
from bursar_policies.specs import CloudPoolSpec, LaunchSetting
from bursard.machines.opening import CLOUDS, Cloud, open_cloud, refuse_pools
from bursard.machines.provider import Needs, Place, setting

WHOLE = """\
kind: CloudPool
name: rented
spec:
  provider: local
  regions: [home]
  zones: [home-a, home-b]
  offers: {gpus: [l4], instance_types: ["g6.*"], markets: [spot, on-demand]}
  limits: {machines: 16, spend_rate: 300 USD/h}
  keep_alive: 10s
  max_lifetime: 10m
  boot_timeout: 10s
"""


def spec(text: str) -> CloudPoolSpec:
    (document,) = parse_documents(text, "pool.yaml")
    assert isinstance(document.spec, CloudPoolSpec)
    return document.spec


def test_a_pool_is_read_as_it_stands() -> None:
    assert spec(WHOLE) == CloudPoolSpec(
        provider="local",
        machines=16,
        regions=("home",),
        zones=("home-a", "home-b"),
        gpus=("L4",),
        instance_types=("g6.*",),
        markets=("spot", "on-demand"),
        spend_rate=Money(300_000_000_000, "USD"),
        keep_alive_us=10 * SECOND_US,
        max_lifetime_us=600 * SECOND_US,
        boot_timeout_us=10 * SECOND_US,
    )


def test_what_is_left_out_is_any_machine_for_a_while() -> None:
    found = spec("kind: CloudPool\nname: p\nspec: {provider: local, limits: {machines: 0}}\n")
    assert found == CloudPoolSpec(provider="local", machines=0)
    assert (found.keep_alive_us, found.max_lifetime_us, found.boot_timeout_us) == (
        300 * SECOND_US,
        3 * DAY_US,
        900 * SECOND_US,
    )


WRONG = [
    ("provider: local", "provider: locl", "pool.yaml:4:13: spec.provider: ", "did you mean 'local'"),
    ("  limits: {machines: 16, spend_rate: 300 USD/h}\n", "", "pool.yaml:4:3: spec.limits", "is missing"),
    ("machines: 16", "machines: 1001", "pool.yaml:8", "1000"),
    ("machines: 16", "machine: 16", "pool.yaml:8", "did you mean 'machines'"),
    ("300 USD/h", "300 USD", "pool.yaml:8", "USD/h"),
    ("keep_alive: 10s", "keep_alive: 9s", "pool.yaml:9:15: spec.keep_alive: ", "must be from 10s to 1d"),
    ("max_lifetime: 10m", "max_lifetime: 31d", "pool.yaml:10", "must be from 600s to 30d"),
    ("boot_timeout: 10s", "boot_timeout: 2d", "pool.yaml:11", "must be from 10s to 1d"),
    ("[spot, on-demand]", "[spot, committed-1y]", "pool.yaml:7", "on-demand"),
    ("machines: 16", "machines: 16, per_job_machines: 0", "pool.yaml:8", "per_job_machines"),
    ("machines: 16", "machines: 16, per_user_machines: 0", "pool.yaml:8", "per_user_machines"),
    ("machines: 16", "machines: 16, per_project_machines: 1001", "pool.yaml:8", "per_project_machines"),
    ("regions: [home]", "regions: []", "pool.yaml:5:12: spec.regions: ", "nothing could be rented"),
    ("regions: [home]", "region: [home]", "pool.yaml:5", "did you mean 'regions'"),
    ('["g6.*"]', '["g6 *"]', "pool.yaml:7", "a name of letters"),
]


@pytest.mark.parametrize(("old", "new", "place", "says"), WRONG, ids=str)
def test_what_is_wrong_is_named_with_its_line(old: str, new: str, place: str, says: str) -> None:
    assert old in WHOLE
    with pytest.raises(PolicyInvalid) as error:
        parse_documents(WHOLE.replace(old, new), "pool.yaml")
    assert place in str(error.value)
    assert says in str(error.value)


AWS = """\
kind: CloudPool
name: aws-gpus
spec:
  provider: aws
  regions: [us-east-1, us-east-2]
  limits: {machines: 2}
  launch:
    server: grpcs://bursar.example:7443
    image: {us-east-1: ami-0123456789abcdef0, us-east-2: "resolve:ssm:/site/image"}
    subnet: {us-east-1a: subnet-0123456789abcdef0}
    bootstrap: |
      python3 -m pip install bursar
      echo done
"""


def test_what_a_cloud_launches_by_is_one_text_or_one_for_each_place() -> None:
    launch = spec(AWS).launch
    assert LaunchSetting("server", "grpcs://bursar.example:7443") in launch
    assert LaunchSetting("image", "resolve:ssm:/site/image", "us-east-2") in launch
    assert LaunchSetting("bootstrap", "python3 -m pip install bursar\necho done\n") in launch
    east, west = Place("us-east-1", "us-east-1a"), Place("us-west-2", "us-west-2a")
    assert setting(launch, "image", east) == "ami-0123456789abcdef0"
    assert setting(launch, "image", west) == ""
    assert setting(launch, "server", west) == "grpcs://bursar.example:7443"
    assert setting(launch, "subnet", east) == "subnet-0123456789abcdef0"


WRONG_LAUNCH = [
    ("  regions: [us-east-1, us-east-2]\n", "", "spec.regions", "is missing"),
    ("    server: grpcs://bursar.example:7443\n", "", "spec.launch", "the key 'server' is missing"),
    (
        "grpcs://bursar.example:7443",
        "http://bursar.example",
        "spec.launch.server",
        "grpcs://bursar.example:7443",
    ),
    ("ami-0123456789abcdef0", "ubuntu", "pool.yaml:9", "ami-0123456789abcdef0"),
    ("    subnet:", "    network:", "pool.yaml:10", "unknown key 'network'"),
    ("us-east-1a:", "us-east-1:", "pool.yaml:10", "is of one zone"),
    ("{us-east-1a: subnet-0123456789abcdef0}", "subnet-0123456789abcdef0", "pool.yaml:10", "is of one zone"),
    ("us-east-1a:", '"us east":', "pool.yaml:10", "no name of a region or zone"),
    ("echo done", "x" * 9_000, "pool.yaml:11", "at most 8192"),
]


@pytest.mark.parametrize(
    ("old", "new", "place", "says"), WRONG_LAUNCH, ids=[one[2] + one[3] for one in WRONG_LAUNCH]
)
def test_a_wrong_launch_setting_is_named_with_its_line(old: str, new: str, place: str, says: str) -> None:
    assert old in AWS
    with pytest.raises(PolicyInvalid) as error:
        parse_documents(AWS.replace(old, new), "pool.yaml")
    assert place in str(error.value)
    assert says in str(error.value)


GROUP = "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/ml"
OTHERS = {
    "gcp": """\
    server: grpcs://bursar.example:7443
    image: projects/p-1/global/images/family/node
    subnet: {us-central1: default}
    external_ip: none
""",
    "azure": f"""\
    server: grpcs://bursar.example:7443
    resource_group: ml
    image: microsoft-dsvm:ubuntu-hpc:2204:latest
    subnet: {GROUP}/providers/Microsoft.Network/virtualNetworks/n/subnets/s
    ssh_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5
    disk_type: Premium_LRS
""",
}
WRONG_OTHERS = [
    ("gcp", "projects/p-1/global/images/family/node", "debian-12", "projects/PROJECT/global/images"),
    ("gcp", "external_ip: none", "external_ip: static", "ephemeral or none"),
    ("gcp", "external_ip", "resource_group", "unknown key"),
    ("azure", "    ssh_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5\n", "", "the key 'ssh_key' is missing"),
    ("azure", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5", "not a key", "a public key such as"),
    ("azure", ":2204:latest", "", "PUBLISHER:OFFER:SKU:VERSION"),
    ("azure", "/subnets/s", "", "the id of a subnet"),
]


def other(provider: str) -> str:
    head = AWS.partition("  launch:\n")[0].replace("provider: aws", f"provider: {provider}")
    return f"{head}  launch:\n{OTHERS[provider]}"


@pytest.mark.parametrize("provider", sorted(OTHERS))
def test_each_cloud_launches_by_keys_of_its_own(provider: str) -> None:
    keys = {one.key for one in spec(other(provider)).launch}
    assert keys == {line.split(":")[0].strip() for line in OTHERS[provider].splitlines()}


@pytest.mark.parametrize(("provider", "old", "new", "says"), WRONG_OTHERS, ids=str)
def test_a_wrong_setting_of_each_cloud_is_named(provider: str, old: str, new: str, says: str) -> None:
    text = other(provider)
    assert old in text
    with pytest.raises(PolicyInvalid) as error:
        parse_documents(text.replace(old, new), "pool.yaml")
    assert "spec.launch" in str(error.value)
    assert says in str(error.value)


def test_a_subnet_is_one_text_where_one_zone_is_named() -> None:
    text = AWS.replace("{us-east-1a: subnet-0123456789abcdef0}", "subnet-0123456789abcdef0")
    found = spec(text.replace("  limits:", "  zones: [us-east-1a]\n  limits:"))
    assert LaunchSetting("subnet", "subnet-0123456789abcdef0") in found.launch


def test_the_local_cloud_has_nothing_to_launch_by() -> None:
    text = WHOLE.replace("  keep_alive", "  launch: {image: ami-0123456789abcdef0}\n  keep_alive")
    with pytest.raises(PolicyInvalid, match=r"spec\.launch: the provider local has nothing to launch by"):
        parse_documents(text, "pool.yaml")


def test_every_provider_of_pools_has_its_line_where_providers_are_opened() -> None:
    assert set(KEYS) - {"local"} == set(CLOUDS)


def test_a_provider_without_its_sdk_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CLOUDS, "aws", Cloud("bursard.machines.none", ("no_such_sdk",)))
    with pytest.raises(InvalidRequest, match=r"aws needs no_such_sdk.*pip install 'bursar\[daemon,aws\]'"):
        open_cloud("aws", Needs(now=lambda: 0, currency="USD", rate=lambda place: None))
    with pytest.raises(InvalidRequest, match=r"pool\.yaml:1: CloudPool aws-gpus: provider aws needs no_such"):
        refuse_pools(parse_documents(AWS, "pool.yaml"))


def test_a_daemon_that_rents_nothing_takes_no_pool() -> None:
    with pytest.raises(InvalidRequest, match=r"pool\.yaml:1: CloudPool rented: this daemon rents no"):
        refuse_pools(parse_documents(WHOLE, "pool.yaml"))
