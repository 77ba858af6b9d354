"""Whoever is kept sees to it that there is a keeper: never two, and none where none is wanted."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar.local import child, files, guard, processes
from bursar.local.files import ChildSpec, Desired, Kept
from bursar.local.guard import LOOK_S, Guard
from bursar.local.heartbeat import BEAT_LATE_S
from bursar.local.processes import Process

KEEPER = Process(77, 5)


class Scene:
    """The directory of a cluster whose keeper the test holds the lock of, and a clock that it moves."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.now_s = 100.0
        self.lock: int | None = None
        self.found: list[Process] = []
        self.killed: list[tuple[int, int]] = []
        self.started: list[Path] = []
        self.stubborn = False
        patch.setattr(guard.time, "monotonic", lambda: self.now_s)
        patch.setattr(guard.time, "sleep", self.sleep)
        patch.setattr(guard, "start_keeper", self.start)
        patch.setattr(processes, "keepers", lambda directory: list(self.found))
        patch.setattr(processes, "stopped", lambda process: False)
        patch.setattr(processes, "kill", self.kill)
        patch.setattr(processes, "wait_gone", lambda found, limit_s: found if self.stubborn else [])
        patch.setattr(os, "waitpid", lambda pid, options: (0, 0))
        self.wish()
        self.note(KEEPER)
        self.hold()
        self.guard = Guard(folder)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def start(self, directory: Path) -> int:
        self.started.append(directory)
        self.hold()
        return 88

    def kill(self, process: Process, number: int) -> None:
        self.killed.append((process.pid, number))
        self.dies()

    def hold(self) -> None:
        self.lock = files.lock(self.folder / files.KEEPER_LOCK)
        assert self.lock is not None

    def dies(self) -> None:
        assert self.lock is not None
        os.close(self.lock)
        self.lock = None

    def beats(self) -> None:
        at = (self.folder / files.KEEPER_LOCK).stat().st_mtime_ns + 10**9
        os.utime(self.folder / files.KEEPER_LOCK, ns=(at, at))

    def wish(self, state_dir: str = "") -> None:
        specs = tuple(ChildSpec(name, "m", "/d", ("c",)) for name in ("daemon", "local-1"))
        self.desired = Desired("unix:///s", state_dir or str(self.folder), "/r", 1, "", "", specs)
        files.write_json(self.folder / files.DESIRED, self.desired.to_json())

    def note(self, keeper: Process | None) -> None:
        kept = Kept(self.desired, keeper, place=processes.place_of(self.folder))
        files.write_json(self.folder / files.CLUSTER, kept.to_json())

    def look(self, times: int = 1) -> list[str]:
        told = []
        for _ in range(times):
            self.now_s += LOOK_S
            told.append(self.guard.look())
        return [line for line in told if line]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    made = Scene(tmp_path, monkeypatch)
    yield made
    if made.lock is not None:
        os.close(made.lock)


def test_a_keeper_that_is_found_dead_twice_is_replaced_once(scene: Scene) -> None:
    assert scene.look(3) == []
    scene.dies()
    assert scene.look() == []
    assert scene.look() == [f"the keeper of {scene.folder} was gone: started another, pid 88"]
    assert scene.look(5) == []
    assert (scene.started, scene.killed) == ([scene.folder], [])


def test_one_that_stands_still_is_killed_and_replaced_and_one_that_beats_is_not(scene: Scene) -> None:
    scene.found = [KEEPER]
    for _ in range(20):
        scene.beats()
        assert scene.look() == []
    looks = round(BEAT_LATE_S / LOOK_S)
    assert scene.look(looks) == []
    assert scene.look() == [f"the keeper of {scene.folder} stood still: started another, pid 88"]
    assert scene.killed == [(KEEPER.pid, signal.SIGKILL)]
    assert scene.started == [scene.folder]


def test_one_that_was_stopped_before_it_had_the_lock_is_replaced_too(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.dies()
    scene.found = [KEEPER]
    monkeypatch.setattr(Scene, "dies", lambda scene: None)
    monkeypatch.setattr(processes, "stopped", lambda process: True)
    assert scene.look(2) == [f"the keeper of {scene.folder} was gone: started another, pid 88"]
    assert scene.killed == [(KEEPER.pid, signal.SIGKILL)]


def test_whoever_stood_still_itself_says_nothing_of_the_others(scene: Scene) -> None:
    """A machine that was suspended, or all of a cluster that was stopped and let go on."""
    scene.look()
    scene.now_s += 3600
    assert scene.look(2) == []
    assert scene.killed == []


def test_on_a_disk_that_takes_no_beat_nobody_is_hung(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert scene.look(30) == []


def test_while_an_up_or_down_is_at_work_it_sees_to_the_keeper(scene: Scene) -> None:
    up = files.lock(scene.folder / files.UP_LOCK)
    assert up is not None
    scene.dies()
    assert scene.look(6) == []
    os.close(up)
    assert len(scene.look(2)) == 1


def _ended(scene: Scene) -> None:
    scene.note(None)


def _another(scene: Scene) -> None:
    scene.wish("/elsewhere")


def _damaged(scene: Scene) -> None:
    (scene.folder / files.DESIRED).write_text("{")


def _moved(scene: Scene) -> None:
    scene.folder.rename(scene.folder.with_name(f"{scene.folder.name}-moved"))
    shutil.copytree(scene.folder.with_name(f"{scene.folder.name}-moved"), scene.folder)


def _removed(scene: Scene) -> None:
    shutil.rmtree(scene.folder)


def _begins(scene: Scene) -> None:
    scene.found, scene.stubborn = [Process(90, 1)], True


@pytest.mark.parametrize("so", [_ended, _another, _damaged, _moved, _removed, _begins])
def test_none_is_started_where_none_is_wanted(scene: Scene, so: Any) -> None:
    """Where `down` ended it, a copy of another's directory, damage, a moved or removed directory, and where
    one begins or has lost its lock file.
    """
    scene.dies()
    so(scene)
    assert scene.look(6) == []
    assert (scene.started, scene.killed) == ([], [])


def test_damaged_notes_of_the_keeper_keep_no_other_away(scene: Scene) -> None:
    (scene.folder / files.CLUSTER).write_text("{")
    scene.dies()
    assert len(scene.look(2)) == 1


def test_of_many_that_look_at_once_one_starts_it(scene: Scene) -> None:
    guards = [Guard(scene.folder) for _ in range(5)]
    scene.dies()
    told = [each.look() for _ in range(4) for each in guards]
    assert len([line for line in told if line]) == len(scene.started) == 1


def test_to_look_makes_no_lock_and_keeps_none_from_it(scene: Scene) -> None:
    scene.dies()
    scene.look()
    scene.hold()
    (scene.folder / files.KEEPER_LOCK).unlink()
    scene.found, scene.stubborn = [KEEPER], True
    assert scene.look(3) == []
    assert not (scene.folder / files.KEEPER_LOCK).exists()


def test_only_what_a_keeper_keeps_has_a_guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Guard.of({}) is None
    assert Guard.of({guard.VARIABLE: str(tmp_path)}) is not None
    monkeypatch.setenv(guard.VARIABLE, str(tmp_path))
    assert guard.VARIABLE not in child.child_env()


def test_what_cannot_be_seen_is_said_and_looked_at_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: list[str] = []
    answers: list[Any] = [OSError(5, "Input/output error"), "", "started another"]
    monkeypatch.setattr(guard, "LOOK_S", 0)

    def look(_: Guard) -> str:
        answer = answers.pop(0) if answers else ""
        if isinstance(answer, OSError):
            raise answer
        return str(answer)

    monkeypatch.setattr(Guard, "look", look)

    async def story() -> None:
        task = asyncio.create_task(guard.watch({guard.VARIABLE: str(tmp_path)}, said.append))
        async with asyncio.timeout(30):
            while len(said) < 2:  # noqa: ASYNC110  a thread has no event here
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(story())
    assert said == [
        "whether there is a keeper cannot be seen: [Errno 5] Input/output error",
        "started another",
    ]
