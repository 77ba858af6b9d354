"""Clusters that tests share or have alone; all of them are stopped and removed at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import Cluster


@pytest.fixture(scope="session")
def make_cluster() -> Iterator[Callable[..., Cluster]]:
    """Start clusters; all of them are stopped and removed at the end."""
    made: list[Cluster] = []

    def make(agents: int = 2, *flags: str) -> Cluster:
        cluster = Cluster(agents, *flags)
        made.append(cluster)
        cluster.up()
        return cluster

    yield make
    # All of them first: one that misbehaves must not leave the others running.
    left = [pid for cluster in made for pid in cluster.remove()]
    assert not left, f"`bursar down` left {len(left)} processes"


@pytest.fixture(scope="session")
def shared_cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    """Two agents, for tests that leave the cluster as they found it."""
    return make_cluster(2)


@pytest.fixture(autouse=True)
def no_gate_stays_closed(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that failed leaves nothing waiting in the cluster that it shares: others would fail for it."""
    shared = request.getfixturevalue("shared_cluster") if "shared_cluster" in request.fixturenames else None
    yield
    for gate in shared.gates if shared is not None else ():
        gate.open()


@pytest.fixture(scope="module")
def own_cluster(make_cluster: Callable[..., Cluster]) -> Iterator[Cluster]:
    """Two agents, for one module whose sums or crashes would disturb others."""
    cluster = make_cluster(2)
    yield cluster
    cluster.down()


@pytest.fixture
def make_file(tmp_path: Path) -> Callable[[str, str | bytes], str]:
    """Write a file; its path."""

    def make(name: str, text: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return make
