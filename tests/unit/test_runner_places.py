"""What a member has where every account may make something: others cannot take its names, and it is found."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bursar_agent.runner import places, progressfile, scratch, secretfiles, spawning
from bursar_agent.runner.spawning import CannotStart, Job, script_of_another, setup_of_another, write_script

MARKER = "att_1.0@fe-1"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its /tmp and its /dev/shm."""
    monkeypatch.setattr(spawning, "SCRIPTS_OF_OTHERS", str(tmp_path / "tmp"))
    monkeypatch.setattr(secretfiles, "MEMORY", str(tmp_path / "shm"))
    monkeypatch.setattr(
        progressfile, "directory_of_another", lambda name: f"{tmp_path}/tmp/bursar-{name}.progress"
    )
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "shm").mkdir()
    return tmp_path


def job() -> Job:
    launch = {"script": "x", "env": {"TMPDIR": scratch.PLACEHOLDER}, "files": {"KEY": "secret"}}
    return Job(
        {
            "attempt_id": "att_1", "rank": 0, "place": "fe-1", "uid": os.getuid(), "gid": os.getgid(),
            "home": "/", "checkpoint_dir": "", "env": {}, "launch": json.dumps(launch),
        }
    )  # fmt: skip


def give(job: Job) -> bool:
    secretfiles.make(job.secrets_dir, job.secret_files, None, None)
    return True


def there(machine: Path) -> set[str]:
    return {str(path) for name in ("tmp", "shm") for path in (machine / name).iterdir()}


def test_who_knows_of_an_attempt_cannot_take_the_names_that_it_will_have(machine: Path) -> None:
    known = [
        *(f"tmp/bursar-{MARKER}{end}" for end in ("", ".setup", ".scratch", ".progress")),
        f"shm/bursar-{MARKER}.secrets",
    ]
    for name in known:
        (machine / name).mkdir()
    made = job()
    assert places.make(made, give)
    own = {made.progress_dir, made.scratch_dir, made.secrets_dir, write_script(made)}
    assert there(machine) == {f"{machine}/{name}" for name in known} | own
    parts = {
        path.removesuffix(".progress").removesuffix(".scratch").removesuffix(".secrets")[-10:] for path in own
    }
    assert len(parts) == 4  # who sees one of them made knows no name of the next


@pytest.mark.parametrize("which", ["progress_dir", "scratch_dir", "secrets_dir"])
def test_a_name_that_is_taken_is_left_to_its_owner_and_another_is_chosen(machine: Path, which: str) -> None:
    made = job()
    taken = getattr(made, which)
    Path(taken).mkdir()
    assert places.make(made, give)
    assert getattr(made, which) != taken
    own = {made.progress_dir, made.scratch_dir, made.secrets_dir}
    assert there(machine) == {taken} | own
    assert (made.env["TMPDIR"], made.env["KEY"]) == (made.scratch_dir, f"{made.secrets_dir}/KEY")
    assert made.env["BURSAR_PROGRESS_FILE"] == f"{made.progress_dir}/progress"
    assert progressfile.identity(made.progress_dir) == made.progress_made


def test_where_every_name_is_taken_nothing_of_it_stays_and_nothing_of_others_goes(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "urandom", bytes)
    made = job()
    taken = f"{machine}/shm/bursar-{MARKER}.0000000000.secrets"
    Path(taken).mkdir()
    with pytest.raises(FileExistsError):
        places.make(made, give)
    for path in filter(None, (made.progress_dir, made.scratch_dir, made.secrets_dir)):
        scratch.remove(path)
    assert there(machine) == {taken}


def test_a_script_whose_name_is_taken_has_another(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job()
    names = iter(("taken", "free"))
    monkeypatch.setattr(Job, "new_name", lambda self: f"{MARKER}.{next(names)}")
    taken = Path(script_of_another(f"{MARKER}.taken"))
    taken.write_text("of somebody else")
    path = write_script(made)
    assert (path, Path(path).read_text()) == (script_of_another(f"{MARKER}.free"), "x")
    assert taken.read_text() == "of somebody else"
    again = made
    monkeypatch.setattr(Job, "new_name", lambda self: f"{MARKER}.free")
    with pytest.raises(CannotStart, match=f"cannot write the script to {path}: File exists"):
        write_script(again)


def test_what_a_lost_member_left_is_found_by_its_name_also_that_of_older_releases(machine: Path) -> None:
    made = job()
    assert places.make(made, give)
    wanted = {made.progress_dir, made.scratch_dir, made.secrets_dir, write_script(made)}
    old = {
        f"{machine}/{path}"
        for path in (f"tmp/bursar-{MARKER}.scratch", f"shm/bursar-{MARKER}.secrets", f"tmp/bursar-{MARKER}")
    }
    setup = setup_of_another(made.new_name())
    for path in old | {setup}:
        Path(path).mkdir()
    strangers = ("att_1.0@fe-12.0a.scratch", "att_1.0", "att_1.0.3@fe-1.0a.scratch", f"{MARKER}.x", "att_2.0")
    for name in strangers:
        (machine / "tmp" / f"bursar-{name}").mkdir()
    assert set(places.of(MARKER)) == wanted | old | {setup}
    assert places.of("att_1.0") == [f"{machine}/tmp/bursar-att_1.0"]
    (machine / "shm").rename(machine / "gone")
    assert f"{machine}/tmp/bursar-{MARKER}" in places.of(MARKER)


def test_the_record_of_a_start_says_where_its_progress_is_and_which_directory_that_was() -> None:
    made: Any = job()
    scratch.make(made.progress_dir, None, None)
    made.progress_made = progressfile.identity(made.progress_dir)
    start = {"pid": 1, "progress_dir": [made.progress_dir, *made.progress_made]}
    Path(made.progress_dir, "progress").write_bytes(b"mine")
    assert progressfile.read_of_another(start, MARKER, "progress", 9) == b"mine"
