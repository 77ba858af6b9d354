"""The cloud of a `bursar up`: which one it is, what the shipped one may rent, and who remembers it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bursar.errors import InvalidRequest
from bursar.local import clouds, files, processes
from bursar.local.cluster import LocalCluster
from bursar.local.processes import Ours, Process
from bursar_policies.document import parse_documents
from bursar_policies.specs import CloudPoolSpec
from bursard.machines.localfile import read_cloud
from bursard.machines.provider import Wanted


def test_the_shipped_cloud_is_one_and_its_pool_can_rent_of_it() -> None:
    cloud = read_cloud(clouds.file_of(clouds.DEMO))
    text = Path(clouds.__file__).with_name("demo-pool.yaml").read_text()
    (document,) = parse_documents(text, "demo-pool.yaml")
    assert isinstance(document.spec, CloudPoolSpec)
    assert document.spec.provider == "local"
    wanted = Wanted(regions=document.spec.regions)
    assert [place for place, kind, _ in cloud.places() if wanted.includes(place, kind.gpu_type)]


def test_a_cloud_is_the_demo_or_a_file_that_is_there(tmp_path: Path) -> None:
    file = tmp_path / "cloud.yaml"
    with pytest.raises(InvalidRequest, match=r"\S+cloud.yaml is neither demo nor the file of a cloud"):
        clouds.checked(str(file))
    file.write_text("")
    assert clouds.checked(str(file)) == str(file)
    assert clouds.checked("demo") == "demo"
    assert clouds.file_of(str(file)) == file


def test_a_command_line_tells_its_cloud() -> None:
    assert clouds.flag_of(["-m", "bursard", "--local-cloud", "/c.yaml"]) == "/c.yaml"
    assert clouds.flag_of(["-m", "bursard", "--local-cloud"]) == ""
    assert clouds.flag_of(["-m", "bursard"]) == ""


def test_the_next_up_wants_the_same_cloud_until_it_is_taken_back(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path)
    first = cluster.desire(1, "", "", "", "demo")
    assert clouds.flag_of(first.children[0].command).endswith("demo-cloud.yaml")
    files.write_json(tmp_path / files.DESIRED, first.to_json())
    assert files.read_desired(tmp_path).cloud == "demo"
    assert cluster.desire(None, None, None).cloud == "demo"
    assert cluster.desire(None, None, None, None, "").cloud == ""
    before = {name: value for name, value in first.to_json().items() if name != "cloud"}
    files.write_json(tmp_path / files.DESIRED, before)
    assert files.read_desired(tmp_path).cloud == ""


def test_a_daemon_that_runs_keeps_its_cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = LocalCluster(tmp_path)
    plain, rents = cluster.desire(1, "", "", "", ""), cluster.desire(1, "", "", "", "demo")
    running = [Ours("daemon", Process(1, 1), plain.children[0].command)]
    monkeypatch.setattr(processes, "running_below", lambda _: running)
    cluster.refuse_other_cloud(plain)
    with pytest.raises(InvalidRequest, match="the daemon runs already, with another cloud or none"):
        cluster.refuse_other_cloud(rents)
    running[0] = running[0]._replace(name="web")
    cluster.refuse_other_cloud(rents)


class Cloud:
    """A daemon that ends the machines it is asked to, but for those whose provider does not answer."""

    def __init__(self, *left: str) -> None:
        self.left = left
        self.asked: list[str] = []
        self.closed = False
        self.rented = [
            SimpleNamespace(name=name, state="up", provider="aws", provider_id=f"i-{name}")
            for name in ("a", "b")
        ]

    def machines(self) -> Any:
        return SimpleNamespace(machines=[one for one in self.rented if one.name not in self.asked])

    def end_machine(self, name: str, reason: str, close: bool = False) -> None:
        self.closed = self.closed or close
        assert self.closed, "what waits would rent another meanwhile"
        if name and name not in self.left:
            self.asked.append(name)


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ((), ["giving 2 rented machines back"]),
        (
            ("b",),
            [
                "giving 2 rented machines back",
                "1 machine may be there still, and cost: b (aws i-b); `bursar up` goes on ending what is"
                " left, or end it at its provider",
            ],
        ),
    ],
    ids=["all are gone", "one cannot be ended"],
)
def test_who_leaves_a_cluster_is_told_which_machines_may_still_cost(
    monkeypatch: pytest.MonkeyPatch, left: tuple[str, ...], said: list[str]
) -> None:
    times = iter(range(0, 1_000, 7))
    monkeypatch.setattr(
        clouds, "time", SimpleNamespace(monotonic=lambda: next(times), sleep=lambda seconds: None)
    )
    told: list[str] = []
    cloud = Cloud(*left)
    clouds.give_back(cast(Any, cloud), "bursar down", told.append)
    assert told == said
    assert cloud.closed


def test_renting_is_closed_also_where_no_machine_is_rented_yet() -> None:
    cloud = Cloud()
    cloud.rented = []
    clouds.give_back(cast(Any, cloud), "bursar down", lambda said: None)
    assert cloud.closed
