"""A supervisor whose processes, clock, agent and folders are at hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar_agent.runner import spawning, supervisor, tree
from bursar_agent.runner.supervisor import Supervisor

NOW = 1_000_000
MAIN = 70


class Job:
    """What was opened of a launch."""

    def __init__(self, **fields: Any) -> None:
        self.argv: list[str] = ["true"]
        self.arguments: list[str] = []
        self.checkpoint_dir = "/ck"
        self.uid: int | None = None
        self.gid: int | None = None
        self.setup = self.script = self.scratch_dir = self.secrets_dir = self.progress_dir = ""
        self.progress_made = (-1, -1)
        self.steps_dir = self.output_path = self.error_path = ""
        self.secret_files: dict[str, str] = {"A": "b"}
        self.image = self.engine_script = ""
        self.script_only = False
        self.warn_us = 0
        for name, value in fields.items():
            assert hasattr(self, name)
            setattr(self, name, value)

    def words(self, script: str) -> list[str]:
        return [*self.argv[:-1], script]


class Folders:
    def __init__(self) -> None:
        self.did: list[tuple[Any, ...]] = []
        self.problem: OSError | None = None

    def enter(self, *words: Any) -> None:
        self.did.append(("enter", *words))
        if self.problem is not None:
            raise self.problem

    def leave(self, *words: Any) -> None:
        self.did.append(("leave", *words))


class Door:
    """The agent's end: what was sent, or why it could not be."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, str]] = []
        self.problems: list[int] = []

    def sendto(self, data: bytes, address: str) -> None:
        if self.problems:
            raise OSError(self.problems.pop(0), "no")
        self.sent.append((data, address))


class Cgroup:
    memory_limited = True

    def __init__(self, out_of_memory: bool = False) -> None:
        self.out_of_memory = out_of_memory

    def close(self) -> bool:
        return self.out_of_memory


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = NOW
        self.heeds: set[int] = set()
        self.sent: list[tuple[int, int]] = []
        self.folders, self.door = Folders(), Door()
        self.spawned: list[tuple[Any, ...]] = []
        self.made: list[Supervisor] = []

    def send(self, pids: list[int], number: int) -> int:
        self.sent += [(pid, number) for pid in pids]
        return len(pids)

    def spawn(self, job: Any, argv: list[str], out: int, folder: int, host: Any, cgroup: Any) -> int:
        self.spawned.append((tuple(argv), cgroup))
        return MAIN

    def job(self, job: Job | None = None, **request: Any) -> Supervisor:
        made = Supervisor(
            {"attempt_id": "att_1", "rank": 2, "epoch": 5, "boot_id": "b", "log_cap_bytes": 1000, **request},
            spawning.Host(), self.door, self.folders, 33, -1,  # type: ignore[arg-type]
        )  # fmt: skip
        made._main_pid = MAIN
        made._job = job  # type: ignore[assignment]
        made._attempt_dir_fd = -1
        self.made.append(made)
        return made

    def at(self, made: Supervisor, now: int) -> None:
        self.now = now
        made._act_on_time(now)


def worlds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[World]:
    """A world that is cleaned up behind a test."""
    made = World(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(supervisor, "boot_us", lambda: made.now)
    monkeypatch.setattr(supervisor, "start_ticks", lambda pid: pid + 1)
    monkeypatch.setattr(tree, "descendants", lambda pid: [MAIN, 71])
    monkeypatch.setattr(tree, "catches", lambda pid, number: pid in made.heeds)
    monkeypatch.setattr(tree, "lineage", lambda pid, root: [(pid, pid + 1)])
    monkeypatch.setattr(tree, "send", made.send)
    monkeypatch.setattr(spawning, "spawn", made.spawn)
    monkeypatch.setattr(os, "killpg", lambda pid, number: made.sent.append((-pid, number)))
    monkeypatch.setattr(os, "pwrite", lambda *_: 1)
    monkeypatch.setattr(Supervisor, "_ends_at_once", lambda self: False)
    yield made
    for each in made.made:
        for fd in (each._log_read, each._log_write):
            if fd >= 0:
                os.close(fd)
