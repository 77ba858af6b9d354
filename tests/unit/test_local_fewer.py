"""Nodes of agents that are not wanted any more: removed as soon as they can be, told of when they cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bursar.errors import NotFound, WrongState
from bursar.local import fewer
from bursar.local.cluster import LocalCluster
from bursar.local.files import Desired
from bursar.local.processes import Process


class Clock:
    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Client:
    """A daemon that removes a node once it was asked so often, or never."""

    def __init__(self, refusals: dict[str, int]) -> None:
        self.refusals = refusals

    def remove_node(self, name: str) -> None:
        if name not in self.refusals:
            raise NotFound(f"no node {name}")
        if self.refusals[name]:
            self.refusals[name] -= 1
            raise WrongState(f"node {name} cannot be removed: its agent is in contact")
        del self.refusals[name]


class Ending(LocalCluster):
    """Its dropped agents are seen to run so many times more."""

    def __init__(self, looks: int) -> None:
        super().__init__(Path("/no/such"))
        self.looks = looks

    def processes(self) -> dict[str, Process]:
        if not self.looks:
            return {"local-1": Process(1, 1)}
        self.looks -= 1
        return {"local-1": Process(1, 1), "local-3": Process(3, 1)}


@pytest.mark.parametrize(
    ("refusals", "left"), [({"local-2": 5}, []), ({"local-2": 10**9, "local-3": 0}, ["local-2"])]
)
def test_a_node_is_removed_once_its_agent_is_gone(
    refusals: dict[str, int], left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(refusals)

    @contextmanager
    def connected(_: str) -> Iterator[Client]:
        yield client

    monkeypatch.setattr(fewer, "connected", connected)
    monkeypatch.setattr(fewer, "time", Clock())
    told: list[str] = []
    ending = Ending(3)
    fewer.remove(ending, Desired(), ["local-2", "local-3"], told.append)
    assert ending.looks == 0, "processes of before run beside the nodes that took their names"
    assert list(client.refusals) == left
    assert told == [
        f"{name} stays known: node {name} cannot be removed: its agent is in contact" for name in left
    ]


def test_what_no_agent_has_is_asked_of_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_call: Callable[..., None]
) -> None:
    monkeypatch.setattr(fewer, "connected", no_call)
    cluster = LocalCluster(tmp_path)
    desired = cluster.desire(2, None, None)
    (tmp_path / "agents/local-1").mkdir(parents=True)
    assert fewer.dropped(cluster, desired) == []
    fewer.refuse_busy(desired, [])
    fewer.remove(cluster, desired, [], print)
    (tmp_path / "agents/local-3").mkdir()
    assert fewer.dropped(cluster, desired) == ["local-3"]
    fewer.refuse_busy(desired, ["local-3"])  # no daemon runs that could know


@pytest.fixture
def no_call() -> Callable[..., None]:
    def called(*_: object) -> None:
        raise AssertionError

    return called
