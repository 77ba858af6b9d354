"""The agent's own directories, tried: what is found, that nothing is left, and a disk that never answers."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from bursar_agent import writable
from bursar_agent.runner.layout import ATTEMPTS, FREE


@pytest.fixture
def state(tmp_path: Path) -> Path:
    for name in ("spool", "checkpoints", f"run/{ATTEMPTS}", f"run/{FREE}"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def found(state: Path) -> str:
    run_fd = os.open(state / "run", os.O_RDONLY | os.O_DIRECTORY)
    try:
        return writable.trouble(state, run_fd)
    finally:
        os.close(run_fd)


def test_directories_that_can_be_written_are_left_as_they_were(state: Path) -> None:
    (state / "run" / ATTEMPTS / writable.PROBE).mkdir()  # of an agent that was killed while it tried
    before = sorted(state.rglob("*"))
    assert found(state) == ""
    assert sorted(state.rglob("*")) == [path for path in before if path.name != writable.PROBE]


@pytest.mark.parametrize("name", ["spool", "checkpoints", f"run/{ATTEMPTS}", "signals", "devices"])
def test_a_directory_that_is_a_file_now_is_named(state: Path, name: str) -> None:
    if (state / name).exists():
        (state / name).rename(state / "away")
    (state / name).write_text("")
    assert found(state) == f"its agent cannot write {name} of its state directory: Not a directory"


def test_what_is_made_when_it_is_first_needed_may_be_missing_and_nothing_else(state: Path) -> None:
    (state / "run" / FREE).rmdir()
    assert found(state) == ""
    (state / "spool").rmdir()
    assert found(state) == "its agent cannot write spool of its state directory: No such file or directory"


def test_free_directories_that_cannot_be_listed_are_named(state: Path) -> None:
    (state / "run" / FREE).rmdir()
    (state / "run" / FREE).write_text("")
    assert found(state) == "its agent cannot read run/free of its state directory: Not a directory"


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("problem", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_is_found_and_leaves_nothing(
    state: Path, monkeypatch: pytest.MonkeyPatch, call: str, problem: int
) -> None:
    def full(*words: object) -> int:
        raise OSError(problem, os.strerror(problem))

    monkeypatch.setattr(writable.os, call, full)
    assert found(state) == f"its agent cannot write its state directory: {os.strerror(problem)}"
    assert not list(state.rglob(f"{writable.PROBE}*"))


def test_a_run_directory_that_was_replaced_is_not_the_one_that_is_written_to(state: Path) -> None:
    run_fd = os.open(state / "run", os.O_RDONLY | os.O_DIRECTORY)
    (state / "run").rename(state / "away")
    (state / "run" / ATTEMPTS).mkdir(parents=True)
    (state / "run" / FREE).mkdir()
    told = writable.trouble(state, run_fd)
    os.close(run_fd)
    assert (
        told == "run of its state directory is not the one it began with; put that back, or restart its agent"
    )


def test_a_disk_that_never_answers_is_trouble_and_who_asks_meanwhile_hears_the_same(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, gate = [], Event()

    def hangs(path: Path, run_fd: int) -> str:
        asked.append(path)
        assert gate.wait(60)
        return "full"

    monkeypatch.setattr(writable, "trouble", hangs)

    here = os.open(state / "run", os.O_RDONLY | os.O_DIRECTORY)

    async def story() -> None:
        made = writable.Writable(state, lambda: here, answer_s_max=0.01)
        late = "its state directory took no file within 0.01 s"
        assert [await made.trouble(), await made.trouble()] == [late, late]
        gate.set()
        made._answer_s_max = 60
        assert await made.trouble() == "full"
        made.close()

    asyncio.run(story())
    os.close(here)
    assert asked[:1] == [state]


def test_who_hears_late_is_not_disturbed_by_who_asks_anew(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between an answer and the turn of who waits for it another may have begun the next try."""
    here = os.open(state / "run", os.O_RDONLY | os.O_DIRECTORY)

    async def story() -> None:
        made = writable.Writable(state, lambda: here)

        async def wait(trying: tuple[asyncio.Future[str]], **_: float) -> tuple[set[Any], set[Any]]:
            await trying[0]
            made._try = asyncio.get_running_loop().create_future()
            return set(trying), set()

        monkeypatch.setattr(writable.asyncio, "wait", wait)
        assert await made.trouble() == ""
        made.close()

    asyncio.run(story())
    os.close(here)
