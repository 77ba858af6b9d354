"""How a start and an end are written beside a full disk: whole, or not at all, and in the end whole."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bursar_agent import __main__ as program
from bursar_agent import terminate
from bursar_agent.runner import layout, truth
from bursar_agent.runner.model import AttemptTruth


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_disk_that_takes_a_part_leaves_what_was_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout.write_atomically("exit.json", b"before")
    whole = os.write
    monkeypatch.setattr(layout.os, "write", lambda fd, data: whole(fd, data[:3]))
    with pytest.raises(OSError, match="No space left") as caught:
        layout.write_atomically("exit.json", b"after all")
    assert caught.value.errno == errno.ENOSPC
    assert (folder / "exit.json").read_bytes() == b"before"
    assert [path.name for path in folder.iterdir()] == ["exit.json"]


@pytest.mark.parametrize("problem", sorted(layout.DISK_REFUSES))
def test_an_end_is_written_once_the_disk_takes_it_and_each_try_in_vain_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, problem: int
) -> None:
    tries: list[float] = []
    whole = layout.write_record

    def full(name: str, data: bytes) -> None:
        if len(tries) < 3:
            raise OSError(problem, "full", name)
        whole(name, data)

    monkeypatch.setattr(layout, "write_record", full)
    monkeypatch.setattr(layout.time, "sleep", tries.append)
    told: list[int] = []
    layout.keep_record("exit.json", b"{}", lambda: told.append(len(tries)))
    assert (folder / "exit.json").read_bytes() == b"{}"
    assert tries == [0.5, 1.0, 2.0]
    assert told == [0, 1, 2]


def test_another_fault_of_the_disk_is_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, data: bytes) -> None:
        raise OSError(errno.ENOTDIR, "broken", name)

    monkeypatch.setattr(layout, "write_record", broken)
    with pytest.raises(OSError, match="broken"):
        layout.keep_record("exit.json", b"{}")


def test_an_agent_that_cannot_write_says_where_and_what_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def full(state_dir: Path, members: bool) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "stop.json")

    monkeypatch.setattr("bursar_agent.terminate.terminate", full)
    code = program.main(["--terminate-all", "--state-dir", str(tmp_path)])
    said = capsys.readouterr().err
    assert code == 5
    assert said == (
        "bursar-agent: stop.json: No space left on device; free some space, then run this again\n"
    )


# --- a stop, which must reach a supervisor whatever the disk has left


def asked(folder: Path, **stop: Any) -> dict[str, Any] | None:
    """What a supervisor and an agent read after this request."""
    dir_fd = os.open(folder, os.O_RDONLY)
    try:
        layout.write_stop(**stop, dir_fd=dir_fd)
        return truth.read_stop(dir_fd)
    finally:
        os.close(dir_fd)


@pytest.mark.parametrize("problem", sorted(layout.DISK_REFUSES))
def test_a_stop_on_a_full_disk_is_a_link_that_says_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch, problem: int
) -> None:
    stop: dict[str, Any] = {"cause": "cancelled", "signal": 10, "grace_us": 0, "asked_at": 7}
    whole = layout.write_atomically

    def full(*_: object) -> None:
        raise OSError(problem, "full")

    monkeypatch.setattr(layout, "write_atomically", full)
    assert asked(folder, **stop) == stop == layout.linked_stop()
    [link] = folder.iterdir()
    assert (link.name, os.readlink(link)) == ("stop.json", "cancelled 10 0 7")
    assert asked(folder, **{**stop, "signal": None}) == {**stop, "signal": None}
    monkeypatch.setattr(layout, "write_atomically", whole)
    later = {**stop, "cause": "budget", "asked_at": 9}
    assert asked(folder, **later) == later
    assert (layout.linked_stop(), json.loads((folder / "stop.json").read_text())) == (None, later)


def test_a_stop_that_no_disk_takes_is_a_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.ENOTDIR, "broken")

    monkeypatch.setattr(layout, "write_atomically", broken)
    with pytest.raises(OSError, match="broken"):
        asked(folder, cause="cancelled", signal=None, grace_us=0, asked_at=7)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("target", ["cancelled", "cancelled x 0 7", "cancelled 0 0 7 8", "../exit.json"])
def test_a_link_that_is_none_of_ours_asks_for_nothing(folder: Path, target: str) -> None:
    (folder / "stop.json").symlink_to(target)
    assert layout.linked_stop() is None


@pytest.mark.parametrize(
    ("state", "free_bytes", "flags", "processes", "left"),
    [
        ("ended", 0, 0, True, False),
        ("running", 1 << 30, 0, False, True),
        ("running", 0, 0, True, True),
        ("running", 0, 0, False, False),
        ("running", terminate.ROOM_BYTES, 0, False, True),
        ("running", 1 << 30, os.ST_RDONLY, True, True),
        ("running", 1 << 30, os.ST_RDONLY, False, False),
    ],
)
def test_on_a_disk_that_takes_nothing_an_end_is_waited_for_until_its_processes_are_gone(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: Any,
    free_bytes: int,
    flags: int,
    processes: bool,
    left: bool,
) -> None:
    disk = SimpleNamespace(f_bavail=free_bytes, f_frsize=1, f_flag=flags)
    monkeypatch.setattr(terminate.os, "statvfs", lambda path: disk)
    runner: Any = SimpleNamespace(has_processes=lambda attempt_id, rank: processes)
    member = AttemptTruth("att_x", 0, 1, state, 1, 1, None)
    assert terminate._is_left(runner, member, folder) is left


def test_the_names_on_the_disk_are_those_that_older_supervisors_know() -> None:
    """A supervisor may be weeks older than the agent that adopts it: they meet in these names alone."""
    assert {name: getattr(layout, name) for name in NAMES_ON_DISK} == NAMES_ON_DISK
    assert frozenset(("starting", "start.json", "exit.json")) == layout.RECORDS
    assert [layout.log_segment_name(at) for at in (0, 1, 12_345)] == [
        "log", "log.00000000000000000001", "log.00000000000000012345",
    ]  # fmt: skip


NAMES_ON_DISK = {
    "LAUNCHER_SOCKET": "launcher.sock", "LAUNCHER_LOCK": "launcher.lock", "LAUNCHER_LOG": "launcher.log",
    "AGENT_SOCKET": "agent.sock", "ATTEMPTS": "attempts", "FREE": "free", "SPARE": "spare",
    "STARTING": "starting", "TAKEN_AT": 10, "TAKEN": b"1", "SPAWNING": b"2", "START": "start.json",
    "SCRIPT": "script", "STOP": "stop.json", "LIMIT": "limit", "STEP": "step", "EXIT": "exit.json",
    "PROGRESS": "progress", "LOG": "log", "LOG_TIMES": "log.times",
    "MARKER_VARIABLE": "BURSAR_ATTEMPT_MEMBER", "PROTOCOL": 2, "UNWRITTEN_BYTES": 1,
}  # fmt: skip
