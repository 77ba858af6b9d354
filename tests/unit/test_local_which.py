"""Which cluster `status` and a bare `down` mean, and what they say when that is in doubt."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bursar.cli import local
from bursar.client import address
from bursar.errors import InvalidRequest
from bursar.local import which
from bursar.local.cluster import LocalCluster
from bursar.local.processes import Process


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Clusters `a` and `b` as `up` has noted them, and which of them runs; the newest is `b`."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR", "BURSAR_SERVER"):
        monkeypatch.delenv(name, raising=False)
    runs = {"a": True, "b": True}
    for name in runs:
        (tmp_path / name).mkdir()
        address.note_cluster(f"unix://{tmp_path / name}/run/bursar.sock", str(tmp_path / name))
    me = Process(os.getpid(), 1)
    monkeypatch.setattr(
        LocalCluster, "processes", lambda self: {"daemon": me} if runs.get(self.directory.name) else {}
    )
    monkeypatch.setattr(LocalCluster, "keeper", lambda self: None)
    return runs


def test_bare_down_with_two_clusters_is_refused_with_both_commands(noted, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as refused:
        which.to_end(None, None)
    assert f"bursar down --state-dir {tmp_path / 'a'}" in refused.value.message
    assert f"bursar down --state-dir {tmp_path / 'b'}" in refused.value.message
    assert refused.value.exit_code == 2


def test_bare_down_means_the_only_one_that_runs(noted, tmp_path: Path) -> None:
    noted["b"] = False
    assert which.to_end(None, None).directory == tmp_path / "a"


def test_the_server_address_says_which(noted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURSAR_SERVER", f"unix://{tmp_path}/a/run/bursar.sock")
    assert which.to_end(None, None).directory == tmp_path / "a"
    shown = which.to_show(None, None)
    assert shown.cluster is not None
    assert shown.cluster.directory == tmp_path / "a"
    flag = which.to_show(None, f"unix://{tmp_path}/b/run/bursar.sock")
    assert flag.cluster is not None
    assert flag.cluster.directory == tmp_path / "b"


def test_one_socket_by_two_names_is_one_cluster(noted, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert which.to_end(None, f"unix://{tmp_path}/link/run/bursar.sock").directory == tmp_path / "a"


@pytest.mark.parametrize("server", ["unix:///elsewhere/bursar.sock", "grpcs://host:7443"])
def test_down_of_a_server_that_is_no_local_cluster_is_refused(noted, monkeypatch, server: str) -> None:
    monkeypatch.setenv("BURSAR_SERVER", server)
    with pytest.raises(InvalidRequest, match=r"BURSAR_SERVER names .* --state-dir"):
        which.to_end(None, None)
    shown = which.to_show(None, None)
    assert shown.cluster is None
    assert shown.server is not None
    assert shown.server.url == server


def test_state_dir_wins_over_everything(noted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURSAR_SERVER", "grpcs://host:7443")
    assert which.to_end(str(tmp_path / "b"), None).directory == tmp_path / "b"
    with pytest.raises(InvalidRequest, match="empty"):
        which.to_end("", None)


def test_status_of_several_shows_the_newest_and_names_the_others(noted, tmp_path: Path) -> None:
    shown = which.to_show(None, None)
    assert shown.cluster is not None
    assert shown.cluster.directory == tmp_path / "b"
    assert shown.note == f"also running: {tmp_path / 'a'}; name one with --state-dir"


def test_where_nothing_runs_the_default_directory_is_meant(noted, tmp_path: Path) -> None:
    noted.update(a=False, b=False)
    assert which.to_end(None, None).directory == tmp_path / "home/.local/state/bursar"
    address.forget_cluster(str(tmp_path / "b"))
    # What a killed cluster left behind is still ended: the one directory that was used.
    assert which.to_end(None, None).directory == tmp_path / "a"


@pytest.mark.parametrize("text", ["", "{", "[1, null]", '[{"server": 1}]', "[" * 100_000, "\x00"])
def test_damaged_pointer_names_no_cluster(noted, tmp_path: Path, text: str) -> None:
    path = tmp_path / "home/.local/state/bursar/current.json"
    assert len(json.loads(path.read_text())) == 2
    path.write_text(text)
    assert address.known_clusters() == []
    address.note_cluster("unix:///x", "/x")
    assert address.known_clusters() == [{"server": "unix:///x", "state_dir": "/x"}]


AGAIN = "`bursar up --state-dir DIR --detach`"


@pytest.mark.parametrize(
    ("keeper", "line"),
    [
        ("ready", "daemon     not running; its keeper starts it again"),
        (
            "stopped",
            "daemon     not running; `bursar up --state-dir DIR --detach` starts it and keeps what runs",
        ),
        (
            "not responding",
            "daemon     not running; `bursar up --state-dir DIR --detach` starts it and keeps what runs",
        ),
    ],
)
def test_status_says_of_a_daemon_that_is_gone_that_it_does_not_run(
    noted, keeper: str, line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    me = Process(os.getpid(), 1)
    monkeypatch.setattr(LocalCluster, "processes", lambda self: {"local-1": me})
    monkeypatch.setattr(LocalCluster, "agent_names", lambda self: ["local-1"])
    monkeypatch.setattr(LocalCluster, "keeper", lambda self: None if keeper == "stopped" else me)
    monkeypatch.setattr(LocalCluster, "keeper_responds", lambda self, process: keeper == "ready")
    row = local.read_status(LocalCluster(tmp_path / "a"))
    assert local._status_text(row).splitlines()[2] == line.replace("DIR", str(tmp_path / "a"))
