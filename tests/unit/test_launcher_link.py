"""The agent's side of its launcher: answers in order, one that gives none, and trees of processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bursar.errors import ServerUnavailable
from bursar_agent.runner import client, tree
from bursar_agent.runner.client import LauncherConnection
from bursar_agent.runner.layout import stat_fields


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.aborted = False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.written.append(data)

    def abort(self) -> None:
        self.aborted = True


def frame(message: Any) -> bytes:
    data = json.dumps(message).encode()
    return len(data).to_bytes(4, "little") + data


Story = Callable[[LauncherConnection, Transport], Awaitable[None]]


def play(story: Story) -> None:
    async def whole() -> None:
        made, transport = LauncherConnection(7, 60.0), Transport()
        made.connection_made(transport)
        await story(made, transport)

    asyncio.run(whole())


def test_answers_come_in_the_order_of_the_questions_however_they_are_cut() -> None:
    async def story(made: LauncherConnection, transport: Transport) -> None:
        asked = [asyncio.create_task(made.request(body)) for body in (b"{1}", b"{22}")]
        await asyncio.sleep(0)
        assert transport.written == [b"\x03\0\0\0{1}", b"\x04\0\0\0{22}"]
        data = frame({"protocol": 2}) + frame({"a": 1}) + frame({"a": 2})
        for at in range(0, len(data), 5):
            made.data_received(data[at : at + 5])
        assert await made.hello == {"protocol": 2}
        assert [await one for one in asked] == [{"a": 1}, {"a": 2}]
        assert len(made._buffer) == 0

    play(story)


def test_who_waits_for_a_launcher_that_is_gone_is_told() -> None:
    async def story(made: LauncherConnection, transport: Transport) -> None:
        asked = asyncio.create_task(made.request(b"{}"))
        await asyncio.sleep(0)
        made.connection_lost(None)
        for waiting in (asked, made.hello, made.request(b"{}")):
            with pytest.raises(ConnectionResetError, match="the launcher closed the connection"):
                await waiting
        assert made.lost
        assert len(transport.written) == 1

    play(story)


@pytest.mark.parametrize("wakes", [True, False])
def test_a_launcher_that_does_not_answer_is_woken_and_then_killed(
    wakes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, signal.Signals]] = []

    async def story(made: LauncherConnection, transport: Transport) -> None:
        future: Any = asyncio.get_running_loop().create_future()

        async def remedy(run_fd: int, number: signal.Signals) -> None:
            sent.append((run_fd, number))
            if wakes:
                future.set_result({"late": True})

        monkeypatch.setattr(client, "_signal_launcher", remedy)
        made._answer_s = 0
        if wakes:
            assert await made.answer(future) == {"late": True}
            await asyncio.gather(*made._remedies)
        else:
            with pytest.raises(ConnectionResetError, match="the launcher did not answer"):
                await made.answer(future)
        assert (transport.aborted, made.lost) == (not wakes, not wakes)

    play(story)
    assert sent == [(7, signal.SIGCONT)] if wakes else [(7, signal.SIGCONT), (7, signal.SIGKILL)]


class Launchers:
    """What there is to connect to, one try after another; None: nothing listens."""

    def __init__(self, patch: pytest.MonkeyPatch, *protocols: int | None) -> None:
        self.protocols = list(protocols)
        self.statuses: list[int] = []
        self.waited = self.spawned = 0
        self.asked: list[bytes] = []
        self.closed = 0
        patch.setattr(client, "connect_running", self._connect)
        patch.setattr(client, "_spawn_launcher", self._spawn)
        patch.setattr(client, "_until_it_listens", self._wait)

    async def _connect(self, run_fd: int, answer_s: float) -> Any:
        protocol = self.protocols.pop(0)
        if protocol is None:
            return None
        hello: Any = asyncio.get_running_loop().create_future()
        hello.set_result({"protocol": protocol})
        made = type("Connection", (), {"hello": hello, "request": self._request, "close": self._close})
        return made()

    async def _request(self, body: bytes) -> None:
        self.asked.append(body)

    def _close(self) -> None:
        self.closed += 1

    async def _spawn(self, run_fd: int, run_dir: str, cgroup_root: str | None) -> int:
        assert (run_fd, run_dir, cgroup_root) == (7, "/run", "/cg")
        self.spawned += 1
        return self.statuses.pop(0)

    async def _wait(self, run_fd: int, answer_s: float) -> None:
        self.waited += 1


def test_a_launcher_that_runs_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    launchers = Launchers(monkeypatch, 2)
    assert asyncio.run(client.connect(7, "/run", "/cg")) is not None
    assert (launchers.spawned, launchers.waited, launchers.closed) == (0, 0, 0)


def test_without_one_it_is_started_and_one_that_starts_beside_us_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launchers = Launchers(monkeypatch, None, None, 2)
    launchers.statuses = [3, 0]
    assert asyncio.run(client.connect(7, "/run", "/cg")) is not None
    assert (launchers.spawned, launchers.waited) == (2, 1)


def test_one_that_cannot_start_says_where_its_reason_is(monkeypatch: pytest.MonkeyPatch) -> None:
    launchers = Launchers(monkeypatch, None, 2)
    launchers.statuses = [1]
    with pytest.raises(
        ServerUnavailable, match=r"the launcher of /run does not start; its reason is in /run/launcher\.log"
    ):
        asyncio.run(client.connect(7, "/run", "/cg"))
    assert launchers.spawned == 1


@pytest.mark.parametrize("goes", [True, False])
def test_a_launcher_that_was_told_to_go_is_waited_for_and_killed_if_it_stays(
    goes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive, killed = [4711, 4711], list[tuple[int, signal.Signals]]()

    def holder(run_fd: int) -> int | None:
        assert run_fd == 7
        return alive.pop() if alive else None

    async def kill(run_fd: int, number: signal.Signals) -> None:
        killed.append((run_fd, number))

    monkeypatch.setattr(client.pulse, "launcher_pid", holder if goes else lambda _: 4711)
    monkeypatch.setattr(client, "_signal_launcher", kill)
    asyncio.run(client.await_end(7, 60.0 if goes else 0.0))
    assert alive == ([] if goes else [4711, 4711])
    assert killed == ([] if goes else [(7, signal.SIGKILL)])


def test_an_agent_that_ends_while_its_launcher_starts_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could tell it to go: it does not listen yet, and has what it started below it."""
    started = tmp_path / "started"
    monkeypatch.setattr(
        client,
        "_BOOTSTRAP",
        "import os, subprocess, sys\n"
        "below = subprocess.Popen(['sleep', 'infinity'])\n"
        f"open('{started}.new', 'w').write(f'{{os.getpid()}} {{below.pid}}')\n"
        f"os.rename('{started}.new', '{started}')\n"
        "below.wait()",
    )

    async def story() -> list[int]:
        run_fd = os.open(tmp_path, os.O_RDONLY)
        try:
            spawning = asyncio.create_task(client._spawn_launcher(run_fd, str(tmp_path), None))
            while not started.exists():  # noqa: ASYNC110  another process makes it
                await asyncio.sleep(0.01)
            spawning.cancel()
            with pytest.raises(asyncio.CancelledError):
                await spawning
        finally:
            os.close(run_fd)
        return [int(pid) for pid in started.read_text().split()]

    launcher, below = asyncio.run(story())
    assert (tmp_path / "launcher.log").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ChildProcessError):
        os.waitpid(launcher, 0)
    assert (stat_fields(below) or "Z")[0] == "Z"  # whoever takes orphans may not have reaped it yet


# --- trees


def test_a_process_and_what_it_started_are_found_parents_first(monkeypatch: pytest.MonkeyPatch) -> None:
    below = {1: [2, 3], 2: [4], 3: [], 4: [5], 5: []}
    monkeypatch.setattr(tree, "children", lambda pid: below[pid])
    assert tree.descendants(1) == [2, 3, 4, 5]
    assert tree.descendants(3) == []


def test_children_are_those_of_all_threads_and_of_who_is_gone_there_are_none() -> None:
    with subprocess.Popen(["sleep", "infinity"]) as child:
        try:
            assert child.pid in tree.children(os.getpid())
            assert tree.parents()[child.pid] == os.getpid()
            assert tree.children(child.pid) == []
        finally:
            child.kill()
    assert tree.children(child.pid) == []


def test_a_signal_with_a_handler_is_caught_and_one_without_is_not() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    other = signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    try:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        assert not tree.catches(os.getpid(), signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, lambda *_: None)
        assert tree.catches(os.getpid(), signal.SIGUSR1)
        assert not tree.catches(os.getpid(), signal.SIGUSR2)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        assert not tree.catches(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.signal(signal.SIGUSR2, other)
    assert not tree.catches(2**22 + 1, signal.SIGUSR1)


def test_signals_are_counted_by_those_who_got_them() -> None:
    assert tree.send([os.getpid(), 2**22 + 1, os.getpid()], 0) == 2
    assert tree.send([], 0) == 0
