"""A signal that asks a job to save itself reaches each process once, whenever it comes to handle it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from bursar_agent.runner import tree
from bursar_agent.runner.told_once import ToldOnce

TICKS = os.sysconf("SC_CLK_TCK")


class Tree:
    """Processes by pid: parent, start in ticks; who has a handler; who got what."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parents: dict[int, int] = {}
        self.began: dict[int, int] = {}
        self.catching: set[int] = set()
        self.sent: list[int] = []
        monkeypatch.setattr(tree, "catches", lambda pid, number: pid in self.catching)
        monkeypatch.setattr(tree, "lineage", self.lineage)
        monkeypatch.setattr(tree, "send", lambda pids, number: self.sent.extend(pids) or len(pids))

    def add(self, pid: int, parent: int, began: int) -> None:
        self.parents[pid], self.began[pid] = parent, began

    def lineage(self, pid: int, root: int) -> list[tuple[int, int]]:
        found = []
        while pid in self.parents:
            found.append((pid, self.began[pid]))
            pid = self.parents[pid]
        return found

    def told(self) -> list[int]:
        found, self.sent = self.sent, []
        return found


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Tree:
    made = Tree(monkeypatch)
    for pid, parent, began in ((11, 1, 100), (12, 11, 110), (13, 12, 120)):
        made.add(pid, parent, began)
    return made


def at(ticks: int) -> int:
    return ticks * 1_000_000 // TICKS


def test_each_process_is_told_when_it_comes_to_handle_it_and_never_again(job: Tree) -> None:
    once, pids = ToldOnce(), [11, 12, 13]
    assert not once.tell(pids, 10, at(200))
    assert not once
    job.catching = {11}
    assert once.tell(pids, 10, at(250))
    job.catching = {11, 13}  # the trainer below a script that was told before
    assert once.tell(pids, 10, at(300))
    assert not once.tell(pids, 10, at(350))
    assert (job.told(), bool(once)) == ([11, 13], True)
    once.clear()
    assert once.tell(pids, 10, at(400))
    assert job.told() == [11, 13]


def test_what_a_process_that_was_told_starts_then_is_its_own_to_tell(job: Tree) -> None:
    once = ToldOnce()
    job.catching = {13}
    once.tell([11, 12, 13], 10, at(200))
    job.add(14, 13, 200)  # a writer of checkpoints, and what it starts
    job.add(15, 14, 205)
    job.add(16, 12, 210)  # started by one that was not told
    job.catching = {13, 14, 15, 16}
    once.tell([11, 12, 13, 14, 15, 16], 10, at(250))
    assert job.told() == [13, 16]


def test_another_process_of_the_same_number_is_told(job: Tree) -> None:
    once = ToldOnce()
    job.catching = {12}
    once.tell([12], 10, at(200))
    job.began[12] = 220
    once.tell([12], 10, at(250))
    assert job.told() == [12, 12]


def test_one_that_is_gone_meanwhile_is_not_told(job: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    job.catching = {11, 99}
    once = ToldOnce()
    assert not once.tell([99], 10, at(200))  # nothing is known of it
    monkeypatch.setattr(tree, "send", lambda pids, number: 0)
    assert not once.tell([11], 10, at(200))
    assert not once


def test_of_real_processes_the_line_is_known_up_to_the_root() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        ((pid, began),) = tree.lineage(child.pid, os.getpid())
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME) * TICKS // 1_000_000_000
        assert (pid, began) == (child.pid, tree.lineage(child.pid, 1)[0][1])
        assert now - 600 * TICKS < began <= now
    finally:
        child.kill()
        child.communicate()
    assert tree.lineage(child.pid, os.getpid()) == []
    assert signal.SIGUSR1
