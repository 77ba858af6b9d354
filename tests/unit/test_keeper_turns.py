"""One turn of the keeper after another, with children that are stand-ins and a clock that the test moves."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar.local import books, files, heartbeat, keeper, processes
from bursar.local.child import STOP_S, Child
from bursar.local.files import ChildSpec, Desired
from bursar.local.keeper import PAUSE_S, Keeper
from bursar.local.processes import Process


class Bench:
    """A keeper whose children live and die as the test says."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.now_s = 1_000.0
        self.alive: set[Process] = set()
        self.ended: list[list[int]] = []
        self.killed: list[tuple[int, int]] = []
        self.started: list[str] = []
        self.polled: list[tuple[float, set[int]]] = []
        self.below: list[processes.Ours] = []
        self.missing = ""
        self.handlers: dict[int, Any] = {}
        patch.setattr(keeper.signal, "signal", self.handlers.__setitem__)
        patch.setattr(keeper.signal, "set_wakeup_fd", lambda fd, warn_on_full_buffer: self.wakeups.append(fd))
        patch.setattr(keeper.time, "monotonic", lambda: self.now_s)
        patch.setattr(keeper.select, "poll", lambda: Poll(self))
        patch.setattr(processes, "alive", lambda process: process in self.alive)
        patch.setattr(processes, "running_below", lambda directory: self.below)
        patch.setattr(processes, "end_all", self._end_all)
        patch.setattr(processes, "kill", lambda process, number: self.killed.append((process.pid, number)))
        patch.setattr(books, "missing", lambda directory: self.missing)
        patch.setattr(Child, "start", lambda child, env, directory: self._start(child, env, directory))
        patch.setattr(Child, "hung", lambda child, now_s: self.hung.get(child.name, ""))
        patch.setattr(heartbeat, "Door", lambda run_dir: self._door(run_dir))
        self.wakeups: list[int] = []
        self.hung: dict[str, str] = {}
        self.doors: list[Any] = []
        self.said: list[tuple[int, bytes]] = []
        self.late: list[Process] = []
        self.lock = os.open(folder / "keeper.lock", os.O_RDWR | os.O_CREAT)
        self.made = Keeper(folder, self.lock)

    def _start(self, child: Child, env: Any, directory: Path) -> None:
        if child.name in self.missing:
            raise OSError("no room")
        self.started.append(child.name)
        self.env = env
        child.process = Process(100 + len(self.started), 1)
        child.pidfd = -1
        child._started_at_s = self.now_s
        self.alive.add(child.process)

    def _end_all(self, running: Any, limit_s: float) -> list[Process]:
        assert limit_s == STOP_S
        self.ended.append([process.pid for process in running if process])
        return self.late

    def _door(self, run_dir: Path) -> Any:
        if run_dir.name == "closed":
            raise OSError("it is closed")
        made = Door(run_dir, self)
        self.doors.append(made)
        return made

    def wish(self, *names: str, run_dir: str = "run") -> None:
        for folder in (run_dir, "agents", "logs"):
            (self.folder / folder).mkdir(exist_ok=True)
        children = tuple(ChildSpec(name, "m", str(self.folder / name), ("cmd", name)) for name in names)
        wish = Desired(
            "unix:///s", str(self.folder), str(self.folder / run_dir), len(names) - 1, "", "", children
        )
        files.write_json(self.folder / files.DESIRED, wish.to_json())

    def load(self) -> None:
        self.made._load(files.read_desired(self.folder))
        assert {child.log for child in self.made._children.values()} == {
            self.folder / "logs" / f"{name}.log" for name in self.made._children
        }

    def noted(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / files.CLUSTER).read_text()))

    def close(self) -> None:
        for fd in (self.lock, self.made._wake, self.made._here, *self.wakeups):
            os.close(fd)


class Door:
    def __init__(self, run_dir: Path, bench: Bench) -> None:
        self.path = run_dir / "notify.sock"
        self.path.touch()
        self.bench = bench
        self.closed = False

    def fileno(self) -> int:
        return 990

    def messages(self) -> list[tuple[int, bytes]]:
        said, self.bench.said = self.bench.said, []
        return said

    def close(self) -> None:
        self.closed = True


class Poll:
    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.fds: set[int] = set()

    def register(self, fd: Any, mask: int) -> None:
        assert mask == select.POLLIN
        self.fds.add(fd if isinstance(fd, int) else fd.fileno())

    def poll(self, wait_ms: float) -> None:
        self.bench.polled.append((wait_ms, self.fds))
        self.bench.now_s += wait_ms / 1000


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench(tmp_path, monkeypatch)
    yield made
    monkeypatch.undo()
    made.close()


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.partition("Z ")[2] for line in capsys.readouterr().err.splitlines()]


def test_what_is_wanted_is_started_and_noted(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.wish("daemon", "a1")
    bench.load()
    assert bench.started == []
    assert bench.noted()["processes"] == {}
    bench.made._start_due()
    assert bench.started == ["daemon", "a1"]
    assert lines(capsys) == ["daemon: started pid 101", "a1: started pid 102"]
    noted = bench.noted()
    assert noted["processes"] == {"daemon": {"pid": 101, "start": 1}, "a1": {"pid": 102, "start": 1}}
    assert (noted["failures"], noted["ready"], noted["served"]) == ({"daemon": 0, "a1": 0}, [], False)
    assert noted["keeper"]["pid"] == os.getpid()
    assert (noted["agents"], noted["server"]) == (1, "unix:///s")
    assert (bench.env["NOTIFY_SOCKET"], bench.env["WATCHDOG_USEC"]) == (str(bench.doors[0].path), "30000000")
    bench.made._start_due()
    assert len(bench.started) == 2


def test_a_daemon_without_its_books_and_a_child_that_cannot_start_are_tried_again(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.wish("daemon", "a1")
    bench.load()
    bench.missing = "the books are gone, a1 too"
    bench.made._start_due()
    assert bench.started == []
    assert lines(capsys) == ["daemon: cannot start: the books are gone, a1 too", "a1: cannot start: no room"]
    assert bench.noted()["failures"] == {"daemon": 1, "a1": 1}
    bench.missing = ""
    bench.made._start_due()
    assert bench.started == []
    bench.now_s += 0.2
    bench.made._start_due()
    assert bench.started == ["daemon", "a1"]


def test_what_runs_already_is_adopted_by_note_or_by_its_command_line(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, old, other = Process(7, 1), Process(8, 1), Process(9, 1)
    bench.alive |= {mine, other}
    adopted: list[tuple[Process | None, bool]] = []

    def adopt(child: Child, before: Process | None, ready: bool) -> bool:
        adopted.append((before, ready))
        child.process = before
        return before is not None

    monkeypatch.setattr(Child, "adopt", adopt)
    bench.wish("daemon", "a1", "a2")
    note = {
        **files.read_desired(bench.folder).to_json(),
        "processes": {"daemon": mine.to_json(), "a1": old.to_json()},
        "ready": ["daemon"],
        "served": False,
    }
    files.write_json(bench.folder / files.CLUSTER, note)
    bench.below = [processes.Ours("daemon", Process(70, 1), ()), processes.Ours("a1", other, ())]
    bench.load()
    assert adopted == [(mine, True), (other, False), (None, False)]
    assert lines(capsys) == ["daemon: adopted pid 7", "a1: adopted pid 9"]
    assert bench.noted()["served"] is True
    (bench.folder / files.CLUSTER).write_text("[")
    assert bench.made._running().processes == {"daemon": Process(70, 1), "a1": other}
    assert "cluster.json cannot be used: " in lines(capsys)[0]


def test_what_is_wanted_no_more_is_ended_and_the_others_stay(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.wish("daemon", "a1", "a2")
    bench.load()
    bench.made._start_due()
    bench.late = [Process(103, 1)]
    bench.wish("daemon", "a1")
    bench.made._reload()
    assert bench.ended == [[103]]
    assert lines(capsys)[3:] == ["pid 103 did not end in 8 s: killed"]
    assert set(bench.noted()["processes"]) == {"daemon", "a1"}
    assert len(bench.doors) == 1
    (bench.folder / files.DESIRED).write_text("{")
    bench.made._children["a1"].start_at_s = 9e9
    bench.made._reload()
    assert "; keeping what was wanted before" in lines(capsys)[0]
    assert set(bench.made._children) == {"daemon", "a1"}
    assert bench.made._children["a1"].start_at_s == 0.0


def test_a_dead_child_starts_again_after_a_pause(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.wish("daemon", "a1")
    bench.load()
    bench.made._start_due()
    lines(capsys)
    bench.made._children["daemon"].pidfd = 33
    bench.alive.discard(Process(102, 1))
    bench.made._wait()
    assert bench.polled == [(0.0, {bench.made._wake, 990, 33})]
    assert lines(capsys) == ["a1: ended; starts again in 0.2 s"]
    assert set(bench.noted()["processes"]) == {"daemon"}
    bench.made._wait()
    assert bench.polled[1:] == [(pytest.approx(200.0), {bench.made._wake, 990, 33})]
    bench.made._start_due()
    assert bench.started == ["daemon", "a1", "a1"]
    bench.made._children["a1"].pidfd = 34
    bench.made._wait()
    assert bench.polled[2:] == [(heartbeat.BEAT_S * 1000, {bench.made._wake, 990, 33, 34})]
    bench.made._children["daemon"].pidfd = bench.made._children["a1"].pidfd = -1


def test_a_hung_child_is_killed(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.wish("daemon", "a1")
    bench.load()
    bench.made._start_due()
    lines(capsys)
    bench.hung = {"a1": "no sign of life for 30 s"}
    bench.made._look(bench.now_s, 0.0)
    assert bench.killed == [(102, signal.SIGKILL)]
    assert lines(capsys) == ["a1: no sign of life for 30 s: killed"]


@pytest.mark.parametrize(("slept_s", "forgiven"), [(PAUSE_S, []), (PAUSE_S + 0.5, [PAUSE_S + 0.5] * 2)])
def test_a_keeper_that_stood_still_forgives_the_silence(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, slept_s: float, forgiven: list[float]
) -> None:
    bench.wish("daemon", "a1")
    bench.load()
    seen: list[float] = []
    monkeypatch.setattr(Child, "forgive", lambda child, pause_s: seen.append(pause_s))
    bench.made._look(bench.now_s - 1.0 - slept_s, 1.0)
    assert seen == forgiven


def test_what_a_child_says_is_heard_and_readiness_is_noted(bench: Bench) -> None:
    bench.wish("daemon", "a1")
    bench.load()
    bench.made._start_due()
    bench.said = [(102, b"READY=1"), (999, b"READY=1")]
    bench.made._look(bench.now_s, 0.0)
    assert (bench.noted()["ready"], bench.noted()["served"]) == (["a1"], False)
    (bench.folder / files.CLUSTER).unlink()
    bench.said = [(102, b"WATCHDOG=1")]
    bench.made._look(bench.now_s, 0.0)
    assert not (bench.folder / files.CLUSTER).exists()
    bench.said = [(101, b"READY=1")]
    bench.made._look(bench.now_s, 0.0)
    assert (bench.noted()["ready"], bench.noted()["served"]) == (["daemon", "a1"], True)


def test_without_a_door_children_are_kept_and_nobody_is_told_to_speak(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.wish("daemon", "a1", run_dir="closed")
    bench.load()
    assert lines(capsys)[0].endswith(
        "closed: signs of life cannot be heard: it is closed; a process that hangs stays"
    )
    bench.made._start_due()
    assert "NOTIFY_SOCKET" not in bench.env
    bench.made._wait()
    assert bench.polled == [(0.0, {bench.made._wake})]
    bench.wish("daemon", "a1", run_dir="run")
    bench.load()
    bench.wish("daemon", "a1", run_dir="other")
    bench.load()
    assert [door.path.parent.name for door in bench.doors] == ["run", "other"]


def test_told_to_stop_it_ends_agents_before_the_daemon_and_forgets_them(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.wish("daemon", "a1", "a2")
    bench.load()
    bench.made._start_due()
    bench.said = [(101, b"READY=1")]
    bench.made._look(bench.now_s, 0.0)
    bench.handlers[signal.SIGTERM]()
    bench.made._door, door = bench.made._door, bench.made._door
    lines(capsys)
    assert bench.made.run() == 0
    assert bench.ended == [[102, 103], [101]]
    assert bench.doors[0].closed
    assert not bench.doors[0].path.exists()
    noted = bench.noted()
    assert (noted["processes"], noted["served"], noted["keeper"], noted["agents"]) == ({}, True, None, 2)
    assert lines(capsys) == ["stopped"]
    assert door is bench.doors[0]


def test_it_keeps_going_and_reads_the_wish_again_when_told(bench: Bench) -> None:
    bench.wish("daemon", "a1")
    turns = iter(("reread", "", "stop"))

    def poll(self: Poll, wait_ms: float) -> None:
        what = next(turns)
        if what == "reread":
            bench.wish("daemon", "a1", "a2")
            bench.handlers[signal.SIGHUP]()
        elif what == "stop":
            bench.handlers[signal.SIGINT]()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Poll, "poll", poll)
        assert bench.made.run() == 0
    assert bench.started == ["daemon", "a1", "a2"]
    assert not bench.made._reread


def test_a_wish_that_says_nothing_ends_the_keeper(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    (bench.folder / files.DESIRED).write_text("{")
    assert bench.made.run() == 1
    assert lines(capsys)[0].endswith("; `bursar up` writes it anew")


def test_a_full_disk_does_not_end_the_keeping(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, value: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr(files, "write_json", full)
    bench.made._note()
    assert lines(capsys) == ["cluster.json cannot be written: no space"]


def test_a_keeper_whose_directory_was_moved_starts_and_writes_nothing_in_its_place(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.wish("daemon", "a1")
    bench.load()
    moved = bench.folder.rename(bench.folder.with_name("moved"))
    bench.folder.mkdir()
    bench.made._start_due()
    bench.made._note()
    assert bench.started == []
    assert list(bench.folder.iterdir()) == []
    assert lines(capsys)[0] == (
        f"daemon: cannot start: {bench.folder} is not this cluster's any more: moved, or removed"
    )
    bench.folder.rmdir()
    moved.rename(bench.folder)
    bench.now_s += 10
    bench.made._start_due()
    assert bench.started == ["daemon", "a1"]
    assert bench.noted()["processes"].keys() == {"daemon", "a1"}


def test_a_wish_that_is_the_copy_of_anothers_is_not_kept(
    bench: Bench, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    bench.wish("daemon", "a1")
    wish = bench.folder / files.DESIRED
    wish.write_text(wish.read_text().replace(f'"state_dir": "{bench.folder}"', '"state_dir": "/other"'))
    assert bench.made.run() == 1
    assert "it is a copy of that of /other" in lines(capsys)[0]


def test_two_keepers_do_not_keep_one_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = files.lock(tmp_path / files.KEEPER_LOCK)
    assert held is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "lock", lambda path, wait_s: None if wait_s == 2.0 else held)
        assert keeper.main([str(tmp_path)]) == 1
    os.close(held)
    assert lines(capsys) == ["another keeper keeps this directory"]


def test_folders_that_somebody_removed_are_made_anew(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where children hear of it, the newest door is the one that they find."""
    bench.wish("daemon", "a1")
    bench.load()
    bench.made._start_due()
    lines(capsys)
    bench.made._wait()
    assert len(bench.doors) == 1
    for name in ("agents", "logs", "run"):
        shutil.rmtree(bench.folder / name)
    bench.made._wait()
    assert [(bench.folder / name).is_dir() for name in ("agents", "logs", "run")] == [True] * 3
    assert [door.closed for door in bench.doors] == [True, False]
    assert len(lines(capsys)) == 2
    assert not bench.made._stop


def test_a_directory_that_was_moved_is_left_to_those_in_it_and_one_that_was_removed_ends_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.wish("daemon", "a1")
    bench.load()
    bench.made._start_due()
    moved = bench.folder.with_name(f"{bench.folder.name}-moved")
    bench.folder.rename(moved)
    bench.made._wait()
    assert not bench.made._stop
    assert not bench.folder.exists()
    shutil.rmtree(moved)
    bench.made._wait()
    assert bench.made._stop
    ran: list[list[str]] = []
    monkeypatch.setattr(keeper.subprocess, "run", lambda words, **more: ran.append(words))
    words = ("python", "-P", "-m", files.AGENT_MODULE)
    agent = ChildSpec("a1", files.AGENT_MODULE, "/d/a1", (*words, "--name", "a1"))
    bench.made._children["a1"] = Child(agent, bench.folder / "a1.log")
    bench.made._shut_down()
    assert ran == [[*words, "--state-dir", "/d/a1", "--terminate-all"]]
    bench.folder.mkdir()
