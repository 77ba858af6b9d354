"""A state directory that is copied, or renamed, under its cluster: nothing of the original is touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar.cli import local
from bursar.client import address
from bursar.errors import StoreUnavailable, WrongState
from bursar.local import files, processes
from bursar.local.cluster import LocalCluster
from bursar.local.files import Kept
from bursar.local.processes import Process, place_of
from bursard.store.sqlite import SqliteStore


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Process]:
    """A process that works in the directory of `cluster`, as its keeper does."""
    (tmp_path / "s").mkdir()
    with subprocess.Popen(["sleep", "infinity"], cwd=tmp_path / "s") as child:
        found = processes.noted(child.pid)
        assert found is not None
        yield found
        child.kill()


def cluster_of(directory: Path, runs: Process, place: str) -> LocalCluster:
    made = LocalCluster(directory)
    made.prepare()
    desired = made.desire(2, "", "", "127.0.0.1:7480")
    files.write_json(directory / files.DESIRED, desired.to_json())
    kept = Kept(desired, runs, {"daemon": runs}, {"daemon": 2}, ("daemon", "web"), place=place)
    files.write_json(directory / files.CLUSTER, kept.to_json())
    return made


@pytest.mark.parametrize("noted", [True, False], ids=["place noted", "of an older release"])
def test_a_copy_knows_what_was_wanted_and_nothing_that_runs(
    tmp_path: Path, runs: Process, noted: bool
) -> None:
    place = place_of(tmp_path / "s") if noted else ""
    original = cluster_of(tmp_path / "s", runs, place)
    assert original.keeper() == runs
    assert original.processes() == {"daemon": runs}
    shutil.copytree(original.directory, tmp_path / "s2")
    copy = LocalCluster(tmp_path / "s2")
    assert (copy.keeper(), copy.processes(), copy.moved()) == (None, {}, "")
    assert (copy.kept().ready, copy.kept().failures, copy.kept().served) == ((), {}, True)
    assert copy.server == f"unix://{tmp_path}/s2/run/bursar.sock"
    copy.refuse_moved()
    wanted = copy.desire(None, None, None)
    assert (wanted.agents, wanted.http, wanted.state_dir) == (2, "127.0.0.1:7480", str(tmp_path / "s2"))
    assert str(tmp_path / "s") + "/" not in str(wanted.to_json())


def test_a_directory_that_was_renamed_under_its_cluster_says_so_and_starts_nothing(
    tmp_path: Path, runs: Process, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster_of(tmp_path / "s", runs, place_of(tmp_path / "s"))
    moved = LocalCluster((tmp_path / "s").rename(tmp_path / "new"))
    assert moved.moved() == str(tmp_path / "s")
    assert moved.processes() == {"daemon": runs}
    assert moved.server == f"unix://{tmp_path}/new/run/bursar.sock"
    with pytest.raises(WrongState) as refused:
        local._start(moved, local.Wish(None, None, None, None, None, None), detach=True)
    assert f"mv {tmp_path}/new {tmp_path}/s" in refused.value.message
    assert f"bursar down --state-dir {tmp_path}/new" in refused.value.message
    (tmp_path / "s").symlink_to("new")  # it is found by its old name again
    moved.refuse_moved()


def test_what_works_in_a_directory_of_another_name_by_now_is_not_of_who_has_the_name(
    tmp_path: Path, runs: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = tmp_path / "s"
    cluster_of(at, runs, place_of(at))
    words = ["python", "-P", "-m", "bursard", "--state-dir", f"{at}/daemon"]
    keeper = ["python", "-P", "-m", processes.KEEPER_MODULE, str(at)]
    monkeypatch.setattr(processes, "_command_lines", lambda: [(runs.pid, words), (runs.pid, keeper)])
    assert [one.process for one in processes.running_below(str(at))] == [runs]
    assert processes.keepers(str(at)) == [runs]
    at.rename(tmp_path / "new")
    assert (processes.running_below(str(at)), processes.keepers(str(at))) == ([], [])
    at.mkdir()
    assert (processes.running_below(str(at)), processes.keepers(str(at))) == ([], [])


def test_one_that_was_started_by_hand_from_elsewhere_is_of_the_directory_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["python", "-m", "bursard", "--state-dir", f"{tmp_path}/daemon"]
    monkeypatch.setattr(processes, "_command_lines", lambda: [(os.getpid(), words)])
    assert [one.process.pid for one in processes.running_below(str(tmp_path))] == [os.getpid()]


def test_a_daemon_whose_directory_is_gone_does_not_call_the_disk_full(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "daemon")
    try:
        assert store.free_bytes() > 0
        (tmp_path / "daemon").rename(tmp_path / "moved")
        with pytest.raises(StoreUnavailable, match="is gone: put it back in its place"):
            store.free_bytes()
    finally:
        store.close()


def test_a_cluster_whose_directory_was_moved_is_not_told_as_dead_at_its_old_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    at, new = tmp_path / "s", tmp_path / "new"
    at.mkdir()
    url = f"unix://{at}/run/bursar.sock"
    address.note_cluster(url, str(at))
    words = [sys.executable, "-c", "input()", "-m", processes.KEEPER_MODULE, str(at)]
    with subprocess.Popen(words, cwd=at, stdin=subprocess.PIPE) as child:
        keeper = processes.noted(child.pid)
        assert keeper is not None
        old = cluster_of(at, keeper, place_of(at))
        assert address.moved_words(str(at)) == ""
        at.rename(new)
        told = (
            f"{at} was moved to {new} while its cluster ran, which goes on there: put the directory back"
            f" (mv {new} {at}), or end what runs: bursar down --state-dir {new}"
        )
        assert address.absence(address.parse(url, "BURSAR_SERVER")) == told
        assert local._status_text(local.read_status(old)) == told
        with pytest.raises(WrongState) as refused:
            local._start(old, local.Wish(None, None, None, None, None, None), detach=True)
        assert refused.value.message == told
        assert not at.exists(), "it could not be put back"
        child.communicate(b"\n")
    assert local._status_text(local.read_status(old)).startswith(f"nothing runs: there is no {at}; start")
    gone = address.absence(address.parse(url, "BURSAR_SERVER"))
    assert gone.startswith(f"its state directory {at} is not there any more, and nothing of it runs")
