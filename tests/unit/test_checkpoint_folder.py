"""The empty directory that one attempt of a supervisor hands to the next: none that is in use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bursar_agent.runner.folder import CheckpointFolder


@pytest.fixture
def folders(tmp_path: Path) -> CheckpointFolder:
    return CheckpointFolder(str(tmp_path / "spare"))


def used(folders: CheckpointFolder, path: Path) -> None:
    folders.enter(str(path), None, None)
    assert list(os.scandir(path)) == []
    folders.leave(str(path), None)


def test_an_empty_directory_goes_from_job_to_job_and_is_looked_into_once_each(
    folders: CheckpointFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: (looked.append(os.path.basename(path)), listdir(path))[1])
    for number in range(3):
        used(folders, tmp_path / f"job_{number}")
        assert (listdir(tmp_path), (tmp_path / "spare").is_dir()) == (["spare"], True)
    assert looked == ["job_0", "spare", "spare", "spare"]
    folders.close()
    assert listdir(tmp_path) == []


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("hidden", [False, True])
def test_what_a_job_has_kept_stays_where_it_is_whatever_the_time_says(
    folders: CheckpointFolder, tmp_path: Path, at: int, hidden: bool
) -> None:
    for number in range(at):
        used(folders, tmp_path / f"job_{number}")
    kept = tmp_path / "kept"
    folders.enter(str(kept), None, None)
    before = kept.stat()
    (kept / "model").write_text("weights")
    if hidden:
        os.utime(kept, ns=(before.st_atime_ns, before.st_mtime_ns))
    folders.leave(str(kept), None)
    assert (kept / "model").read_text() == "weights"
    used(folders, tmp_path / "next")
    folders.enter(str(kept), None, None)
    folders.leave(str(kept), None)
    assert (kept / "model").read_text() == "weights"


def test_a_directory_that_others_may_read_is_not_handed_on(folders: CheckpointFolder, tmp_path: Path) -> None:
    used(folders, tmp_path / "job_0")
    folders.enter(str(tmp_path / "job_1"), None, None)
    (tmp_path / "job_1").chmod(0o755)
    folders.leave(str(tmp_path / "job_1"), None)
    assert os.listdir(tmp_path) == []
