"""How a start and an end are written beside a full disk: whole, or not at all, and in the end whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bursar_agent import __main__ as program
from bursar_agent.runner import layout


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


@pytest.mark.parametrize("problem", [errno.ENOSPC, errno.EDQUOT])
def test_an_end_is_written_once_there_is_room(
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
    layout.keep_record("exit.json", b"{}")
    assert (folder / "exit.json").read_bytes() == b"{}"
    assert len(tries) == 3


def test_another_fault_of_the_disk_is_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, data: bytes) -> None:
        raise OSError(errno.EIO, "broken", name)

    monkeypatch.setattr(layout, "write_record", broken)
    with pytest.raises(OSError, match="broken"):
        layout.keep_record("exit.json", b"{}")


def test_an_agent_that_cannot_write_says_where_and_what_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def full(state_dir: Path) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "stop.json")

    monkeypatch.setattr("bursar_agent.terminate.terminate_all", full)
    code = program.main(["--terminate-all", "--state-dir", str(tmp_path)])
    said = capsys.readouterr().err
    assert code == 5
    assert said == (
        "bursar-agent: stop.json: No space left on device; free some space, then run this again\n"
    )
