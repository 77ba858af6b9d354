"""The provider `local`: its file, what goes wrong as the file says, and what outlives the daemon."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from bursar.clock import SECOND_US, VirtualClock
from bursar.errors import InvalidRequest
from bursar.resources import parse_size
from bursard.machines.local import Handle, LocalProvider
from bursard.machines.localfile import LocalType, parse_cloud, read_cloud
from bursard.machines.provider import CloudError, InstanceState, Join, Kind, Order, Place

CLOUD = """\
regions: {home: [home-a, home-b]}
boot: 20s
ending: 10s
quotas: {spot: 1}
types:
  gpu.small: {cpus: 4, memory: 8GiB, gpus: "L4:1", prices: {on-demand: 1.20 USD/h, spot: 0.40 USD/h}}
"""
HERE = Place("home", "home-a", "gpu", "gpu.small", "spot")


class Runs:
    """Processes that are numbers; `broken`: none can be started."""

    def __init__(self) -> None:
        self.alive_ids: set[str] = set()
        self.joins: list[Join] = []
        self.broken = False
        self.told: dict[str, tuple[str, int]] = {}

    def start(self, provider_id: str, join: Join, place: Place, kind: LocalType) -> Handle:
        if self.broken:
            raise OSError(12, "Cannot allocate memory")
        self.joins.append(join)
        self.alive_ids.add(provider_id)
        return Handle(int(provider_id.rpartition("-")[2]), 1)

    def notify(self, provider_id: str, said: str, left_us: int) -> None:
        self.told[provider_id] = said, left_us

    def end(self, provider_id: str, handle: Handle | None) -> None:
        self.alive_ids.discard(provider_id)

    def alive(self, handle: Handle) -> bool:
        return f"local-{handle.pid:06d}" in self.alive_ids


class Home:
    """A cloud whose clock a test moves."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.clock, self.runs, self.file = VirtualClock(), Runs(), folder / "cloud" / "machines.json"
        self.cloud = parse_cloud(CLOUD + more, "cloud.yaml")
        self.provider = self.again()

    def again(self) -> LocalProvider:
        return LocalProvider(self.cloud, self.file, self.runs, self.clock.now)

    def create(self, machine_id: str = "mach_1", place: Place = HERE) -> str:
        join = Join(server="s", name="n", pool="p", token="node_secret")
        return self.provider.create(
            Order(machine_id=machine_id, cluster="c", place=place, join=join, lifetime_us=3600 * SECOND_US)
        )

    def after(self, seconds: int, key: str) -> InstanceState:
        self.clock.advance(seconds * SECOND_US)
        return self.provider.poll(key).state


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_a_process_starts_when_the_boot_time_has_passed_and_is_billed_from_then(home: Home) -> None:
    key = home.create()
    began = home.clock.now()
    assert home.after(19, key) is InstanceState.PENDING
    assert home.runs.joins == []
    assert home.after(1, key) is InstanceState.RUNNING
    assert [join.token for join in home.runs.joins] == ["node_secret"]
    assert home.provider.poll(key).billed_from == began + 20 * SECOND_US


def test_what_ends_is_listed_as_gone_when_its_ending_time_has_passed(home: Home) -> None:
    key = home.create()
    home.after(25, key)
    assert not home.provider.terminate(key)
    assert home.runs.alive_ids == set()
    ended = home.clock.now()
    assert home.after(9, key) is InstanceState.ENDING
    assert home.after(1, key) is InstanceState.GONE
    assert home.provider.poll(key).billed_until == ended + 10 * SECOND_US
    (row,) = home.provider.actuals(0, 2**62)
    assert (row.billed_us, row.nanos) == (60 * SECOND_US, 400_000_000 // 60)


def test_machines_outlive_the_daemon_and_the_token_does_not_outlive_its_use(home: Home) -> None:
    key = home.create()
    assert stat.S_IMODE(home.file.stat().st_mode) == 0o600
    assert "node_secret" in home.file.read_text()
    home.provider = home.again()
    assert home.after(20, key) is InstanceState.RUNNING
    assert "node_secret" not in home.file.read_text()
    assert home.again().poll(key).state is InstanceState.RUNNING


def test_a_machine_whose_process_is_gone_is_gone(home: Home) -> None:
    key = home.create()
    home.after(20, key)
    home.runs.alive_ids.clear()
    assert home.after(1, key) is InstanceState.GONE
    assert home.provider.poll(key).message == "its process is gone"


def test_a_machine_that_cannot_be_started_failed_and_is_still_to_be_ended(home: Home) -> None:
    key = home.create()
    home.runs.broken = True
    home.clock.advance(20 * SECOND_US)
    with pytest.raises(CloudError, match="its process cannot be started: Cannot allocate memory"):
        home.provider.poll(key)
    (found,) = home.provider.list_owned("c")
    assert (found.state, found.billed_from) == (InstanceState.FAILED, 0)
    home.provider.terminate(key)
    assert home.after(10, key) is InstanceState.GONE


def test_a_machine_lives_no_longer_than_its_order_said(home: Home) -> None:
    key = home.create()
    home.after(20, key)
    assert home.after(3580, key) is InstanceState.ENDING
    assert home.runs.alive_ids == set()


def test_a_quota_refuses_what_is_beyond_it_until_a_machine_is_gone(home: Home) -> None:
    key = home.create()
    with pytest.raises(CloudError, match="1 of 1 machines are there") as error:
        home.create("mach_2", Place("home", "home-b", "gpu", "gpu.small", "spot"))
    assert error.value.kind is Kind.QUOTA
    home.provider.terminate(key)
    home.after(10, key)
    assert home.create("mach_2")


def test_what_is_not_offered_is_refused_by_its_name(home: Home) -> None:
    with pytest.raises(CloudError, match=r"there is no gpu.huge in home-a") as error:
        home.create(place=Place("home", "home-a", "gpu", "gpu.huge", "spot"))
    assert error.value.kind is Kind.NOT_OFFERED


FAULTS = """\
faults:
  - {call: create, code: NoCapacity, zone: home-a, times: 2}
  - {call: vanish, market: spot, after: 30s}
"""


def test_faults_happen_as_often_as_the_file_says_whoever_restarts(tmp_path: Path) -> None:
    home = Home(tmp_path, FAULTS)
    for _ in range(2):
        with pytest.raises(CloudError, match="NoCapacity: the fault plan says so"):
            home.create()
        home.provider = home.again()
    key = home.create()
    assert home.after(20, key) is InstanceState.RUNNING
    assert home.after(29, key) is InstanceState.RUNNING
    assert home.after(1, key) is InstanceState.GONE
    assert home.provider.poll(key).interrupted
    assert [(one.kind, one.message) for one in home.provider.events(0)] == [
        ("interrupted", "it was taken back")
    ]


def test_a_damaged_file_is_set_aside(home: Home) -> None:
    home.create()
    home.file.write_text("{")
    assert home.again().list_owned("c") == []
    assert [path.name.partition(".damaged-")[0] for path in home.file.parent.iterdir()] == ["machines.json"]


def test_a_file_is_read_as_it_stands(home: Home) -> None:
    (kind,) = home.cloud.types
    assert (kind.cpu_milli, kind.memory_bytes, kind.gpu_type, kind.gpu_count) == (
        4000,
        parse_size("8GiB"),
        "L4",
        1,
    )
    assert kind.rates == (("on-demand", 1_200_000_000), ("spot", 400_000_000))
    assert (home.cloud.currency, home.cloud.boot_us, home.cloud.ending_us) == (
        "USD",
        20 * SECOND_US,
        10 * SECOND_US,
    )


WRONG = [
    ("regions: {}", "c.yaml:1:1: regions: has no zone"),
    ("regions: {home: [a]}", "the key 'types' is missing"),
    (CLOUD + "colour: red", "c.yaml:7:1: colour: unknown key 'colour'"),
    (CLOUD.replace("quotas: {spot: 1}", "quotas: {spott: 1}"), "did you mean 'spot'"),
    (CLOUD.replace("1.20 USD/h", "1.20 EUR/h"), "has prices in EUR and USD"),
    (CLOUD.replace("on-demand: 1.20", "ondemand: 1.20"), "did you mean 'on-demand'"),
    (CLOUD.replace("L4:1", "L4:17"), "a node has at most 16 GPUs"),
    (CLOUD.replace("L4:1", "4"), "'4' is not TYPE:COUNT, such as L4:1"),
    (CLOUD.replace("4 USD", "four USD").replace("0.40", "four"), "c.yaml:6"),
    (CLOUD + "faults: [{call: creat}]", "did you mean 'create'"),
    (CLOUD + "faults: [{call: create, code: NoCapacty}]", "did you mean 'NoCapacity'"),
    (CLOUD + "faults: [{call: create, zone: home-c}]", "home-a"),
    ("", "must hold one document"),
]


@pytest.mark.parametrize(("text", "says"), WRONG, ids=str)
def test_what_is_wrong_with_a_file_is_said_with_its_line(text: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        parse_cloud(text, "c.yaml")
    assert says in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"local_cloud: .*none\.yaml cannot be read: No such file"):
        read_cloud(tmp_path / "none.yaml")
