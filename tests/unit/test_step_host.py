"""The tasks of a step on one node, as its host hears, feeds, reads and tells them: nothing is forked."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from bursar.steps import frames, host, kernel, patterns
from bursar.steps.host import OUTBOX_BYTES_MAX, Host, _Task, kill_below


class Bench:
    """A host, and the client's end of its stream."""

    def __init__(self) -> None:
        self.client, theirs = socket.socketpair()
        self.host = Host(theirs)
        self.fds: list[int] = []
        self.reader = frames.Reader()

    def pipe(self) -> tuple[int, int]:
        made = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.fds += made
        return made

    def task(self, rank: int, pid: int) -> _Task:
        """A task whose pidfd is a pipe of ours."""
        task = _Task.__new__(_Task)
        task.rank, task.pid, task.status = rank, pid, None
        task.pidfd = self.pipe()[0]
        self.host._tasks[task.pidfd] = task
        self.host._poll.register(task.pidfd, select.EPOLLIN)
        return task

    def output(self, rank: int, kind: int = frames.OUT) -> tuple[int, int]:
        """A pipe that a task writes to: the host's end, and the task's."""
        ours, theirs = self.pipe()
        self.host._pipes[ours] = (kind, rank)
        self.host._poll.register(ours, select.EPOLLIN)
        return ours, theirs

    def close(self, fd: int) -> None:
        os.close(fd)
        self.fds.remove(fd)

    def said(self) -> list[tuple[int, int, bytes]]:
        """What the client would read next."""
        found = list(self.reader.feed(bytes(self.host._outbox)))
        self.host._outbox.clear()
        return found

    def hears(self, *sent: bytes) -> None:
        self.client.sendall(b"".join(sent))
        self.host._hear()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.client.close()
    made.host._channel.close()
    made.host._poll.close()
    for fd in made.fds:
        os.close(fd)


# --- the client


def test_a_step_begins_once_it_is_described(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """1. Paths and secrets are those of this node. 2. What only this node knows stands above the step's."""
    spawned: list[tuple[dict[str, str], int, int]] = []
    emptied: list[Any] = []
    monkeypatch.setattr(
        Host, "_spawn", lambda self, spec, env, local, rank: spawned.append((env, local, rank))
    )
    monkeypatch.setattr(patterns, "empty", lambda spec, env: emptied.append(env))
    for name in ("BURSAR_CPUS", "BURSAR_SECRETS_DIR", "BURSAR_STEPS", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BURSAR_CPUS", "4")
    monkeypatch.setenv("BURSAR_STEPS", "/here")
    monkeypatch.setenv("BURSAR_SECRETS_DIR", "/own")
    spec = (
        b'{"env": {"PATH": "/theirs/bin:/usr/bin", "BASH_ENV": "/theirs/bash-env", "BURSAR_CPUS": "9",'
        b' "KEY": "/secret/key", "OTHER": "/secretly"},'
        b' "node_env": {"SLURM_NODEID": "1"}, "steps": "/theirs", "secrets": "/secret", "ranks": [4, 7]}'
    )
    bench.hears(frames.encode(frames.SPEC, 0, spec))
    assert bench.host._begun
    assert [(local, rank) for _, local, rank in spawned] == [(0, 4), (1, 7)]
    found = {name: spawned[0][0][name] for name in ("PATH", "BASH_ENV", "BURSAR_CPUS", "SLURM_NODEID", "KEY")}
    assert found == {
        "PATH": "/here/bin:/usr/bin", "BASH_ENV": "/here/bash-env", "BURSAR_CPUS": "4", "SLURM_NODEID": "1",
        "KEY": "/own/key",
    }  # fmt: skip
    assert spawned[0][0]["OTHER"] == "/secretly"
    assert len(emptied) == 1


@pytest.mark.parametrize(
    ("env", "theirs", "expected"),
    [
        ({"BURSAR_SECRETS_DIR": "/o", "A": "/t/a", "B": "/tt"}, "/t", {"A": "/o/a", "B": "/tt"}),
        ({"A": "/t/a"}, "/t", {"A": "/t/a"}),
        ({"BURSAR_SECRETS_DIR": "/o", "A": "/a"}, "", {"A": "/a"}),
    ],
)
def test_paths_of_secrets_become_those_of_this_node(env: Any, theirs: str, expected: Any) -> None:
    host._own_secrets(env, theirs)
    assert {name: value for name, value in env.items() if name != "BURSAR_SECRETS_DIR"} == expected


@pytest.mark.parametrize("goes", ["end", "closed"])
def test_a_client_that_ends_or_is_gone_ends_the_step(bench: Bench, goes: str) -> None:
    if goes == "end":
        bench.hears(frames.encode(frames.END))
    else:
        bench.client.close()
        bench.host._hear()
    assert not bench.host._client


def test_nothing_to_hear_is_no_end(bench: Bench) -> None:
    bench.host._hear()
    assert bench.host._client


def test_a_client_that_takes_nothing_more_stops_the_reading_until_it_does(bench: Bench) -> None:
    """1. What is due waits here. 2. Past a bound no task is read. 3. Once there is room, all are again."""
    ours, theirs = bench.output(0)
    os.write(theirs, b"x")
    bench.host._outbox += bytes(4 * OUTBOX_BYTES_MAX)
    bench.host._flow()
    assert (bench.host._paused, len(bench.host._outbox) >= OUTBOX_BYTES_MAX) == (True, True)
    assert ours not in [fd for fd, _ in bench.host._poll.poll(0)]
    while bench.host._outbox:
        bench.client.recv(1 << 20)
        bench.host._flow()
    assert not bench.host._paused
    assert ours in [fd for fd, _ in bench.host._poll.poll(0)]


def test_a_client_that_hung_up_is_noticed_when_something_is_sent(bench: Bench) -> None:
    bench.client.close()
    bench.host._say(frames.CREDIT, 1)
    bench.host._flow()
    assert not bench.host._client


# --- tasks


def test_what_a_task_writes_is_told_as_its_own_and_its_pipe_closed_at_its_end(bench: Bench) -> None:
    ours, theirs = bench.output(3, frames.ERR)
    os.write(theirs, b"word")
    assert bench.host._read(ours) is True
    assert bench.host._read(ours) is False
    assert ours in bench.host._pipes
    bench.close(theirs)
    assert bench.host._read(ours) is False
    bench.fds.remove(ours)
    assert bench.said() == [(frames.ERR, 3, b"word")]
    assert bench.host._pipes == {}


def test_without_a_task_that_reads_input_is_taken_and_dropped(bench: Bench) -> None:
    bench.hears(frames.encode(frames.STDIN, 0, b"abc"))
    bench.hears(frames.encode(frames.STDIN_END))
    assert bench.said() == [(frames.CREDIT, 3, b"")]
    assert bench.host._stdin_ends


def test_input_is_given_as_the_task_takes_it_and_ends_behind_its_last_byte(bench: Bench) -> None:
    ours, theirs = bench.pipe()
    bench.host._stdin = theirs
    bench.fds.remove(theirs)
    bench.hears(frames.encode(frames.STDIN, 0, b"abc"))
    assert (os.read(ours, 9), bench.said()) == (b"abc", [(frames.CREDIT, 3, b"")])
    bench.hears(frames.encode(frames.STDIN, 0, b"de"), frames.encode(frames.STDIN_END))
    assert bench.said() == [(frames.CREDIT, 2, b"")]
    assert bench.host._stdin == -1
    assert os.read(ours, 9) + os.read(ours, 9) == b"de"


def test_input_that_a_task_does_not_take_waits_for_it(bench: Bench) -> None:
    ours, theirs = bench.pipe()
    bench.host._stdin = theirs
    bench.fds.remove(theirs)
    while True:
        try:
            os.write(theirs, bytes(1 << 16))
        except BlockingIOError:
            break
    bench.hears(frames.encode(frames.STDIN, 0, b"abc"), frames.encode(frames.STDIN_END))
    assert (bench.said(), bytes(bench.host._stdin_left), bench.host._stdin) == ([], b"abc", theirs)
    assert theirs not in [fd for fd, _ in bench.host._poll.poll(0)]
    os.read(ours, 1 << 20)
    assert theirs in [fd for fd, _ in bench.host._poll.poll(0)]  # it is told when there is room
    bench.host._on(theirs, select.EPOLLOUT)
    assert (bench.said(), bench.host._stdin) == ([(frames.CREDIT, 3, b"")], -1)


def test_input_for_a_task_that_reads_no_more_is_dropped(bench: Bench) -> None:
    ours, theirs = bench.pipe()
    bench.host._stdin = theirs
    bench.fds.remove(theirs)
    bench.close(ours)
    bench.hears(frames.encode(frames.STDIN, 0, b"abc"))
    assert (bench.said(), bench.host._stdin) == ([(frames.CREDIT, 3, b"")], -1)


@pytest.mark.parametrize(("status", "told"), [(0, b"\0\0"), (3 << 8, b"\x03\0"), (9, b"\0\x09")])
def test_the_end_of_a_task_comes_behind_all_it_wrote(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, status: int, told: bytes
) -> None:
    monkeypatch.setattr(os, "waitpid", lambda pid, how: (pid, status))
    task = bench.task(2, 77)
    own, other = bench.output(2), bench.output(1)
    for _, theirs in (own, other):
        os.write(theirs, b"last words")
    bench.host._on(task.pidfd, select.EPOLLIN)
    bench.fds.remove(task.pidfd)
    assert bench.said() == [(frames.OUT, 2, b"last words"), (frames.EXIT, 2, told)]
    assert bench.host._tasks == {}


def test_a_signal_goes_to_the_group_of_each_task_or_to_who_heeds_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, int, int]] = []

    def to_group(pid: int, number: int) -> None:
        sent.append(("group", pid, number))
        if pid == 71:
            raise ProcessLookupError

    monkeypatch.setattr(os, "killpg", to_group)
    bench.task(0, 71)
    bench.task(1, 72)
    bench.hears(frames.encode(frames.SIGNAL, 15))
    assert sent == [("group", 71, 15), ("group", 72, 15)]


class Heedful:
    """Processes below the host, by parent; who has a handler; what was sent to whom."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.below = {os.getpid(): [71, 72, 79], 71: [81], 81: [82]}
        self.heeds: set[int] = set()
        self.sent: list[tuple[int, int]] = []
        self.now, self.ticks = 5.0, 400
        self.began: dict[int, int] = {}
        monkeypatch.setattr(kernel, "began", lambda pid: self.began.get(pid, pid))
        monkeypatch.setattr(kernel, "now_ticks", lambda: self.ticks)
        monkeypatch.setattr(kernel, "children", lambda: self.below)
        monkeypatch.setattr(kernel, "heeds", lambda pid, number: number == 10 and pid in self.heeds)
        monkeypatch.setattr(os, "kill", lambda pid, number: self.sent.append((pid, number)))
        monkeypatch.setattr(host, "time", SimpleNamespace(monotonic=lambda: self.now))

    def told(self) -> list[tuple[int, int]]:
        found, self.sent = self.sent, []
        return found


def test_a_warning_goes_to_each_process_once_as_soon_as_it_heeds_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Heedful(monkeypatch)
    first, second = bench.task(0, 71), bench.task(1, 72)
    world.heeds = {82, 79}  # a program deep in the first task, and one that a task has left
    bench.hears(frames.encode(frames.SIGNAL, 10 | frames.HEEDED))
    assert world.told() == [(79, 10), (82, 10)]
    assert bench.host._tell_at == 5.0 + host.WARN_AGAIN_S
    bench.host._tell_again()
    assert world.told() == []
    world.heeds |= {71, 72}  # though a program of the first task was told before
    bench.host._tell_again()
    assert world.told() == [(71, 10), (72, 10)]
    bench.host._tell_again()
    assert world.told() == []
    world.began[72] = 500  # another process of that number
    bench.host._tell_again()
    assert world.told() == [(72, 10)]
    bench.hears(frames.encode(frames.SIGNAL, 10 | frames.HEEDED))  # another warning
    assert len(world.told()) == 4
    assert {first.pid, second.pid} == {71, 72}


def test_what_a_process_that_was_told_starts_then_is_its_own_to_tell(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Heedful(monkeypatch)
    bench.task(0, 71)
    world.heeds, world.ticks = {71}, 300
    bench.hears(frames.encode(frames.SIGNAL, 10 | frames.HEEDED))
    assert world.told() == [(71, 10)]
    world.below |= {71: [81, 83], 83: [84]}
    world.began |= {83: 300, 84: 301}  # a writer of checkpoints and what that starts; 81 was there before
    world.heeds |= {81, 82, 83, 84}
    bench.host._tell_again()
    assert world.told() == [(81, 10), (82, 10)]


def test_on_its_own_node_the_supervisor_tells(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    world = Heedful(monkeypatch)
    bench.task(0, 71)
    world.heeds = {71}
    bench.hears(frames.encode(frames.SIGNAL, 10 | frames.HEEDED | frames.LATE))
    assert (world.told(), bench.host._telling) == ([], {})


def test_who_does_not_heed_a_warning_yet_is_looked_at_when_it_is_due_and_not_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Heedful(monkeypatch)
    bench.task(0, 71)
    bench.host._begun = True
    bench.hears(frames.encode(frames.SIGNAL, 10 | frames.HEEDED))
    waits: list[float | None] = []
    monkeypatch.setattr(kernel, "inherit_orphans", lambda: None)
    monkeypatch.setattr(kernel, "raise_file_limit", lambda: None)
    monkeypatch.setattr(host, "kill_below", lambda pid: None)

    class Poll:
        def poll(self, timeout: float | None) -> list[Any]:
            waits.append(timeout)
            if len(waits) == 2:
                world.now += host.WARN_AGAIN_S
                world.heeds = {81}
            if len(waits) == 3:
                bench.host._client = False
            return []

        def modify(self, *_: int) -> None: ...

    monkeypatch.setattr(bench.host, "_poll", Poll())
    bench.host.run()
    assert (waits, world.told()) == ([host.WARN_AGAIN_S] * 3, [(81, 10)])


# --- ends


def test_at_the_end_the_rest_is_told_and_then_that_it_is_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(host, "kill_below", killed.append)
    _, theirs = bench.output(5)
    os.write(theirs, b"left over")
    bench.close(theirs)
    bench.host._say(frames.EXIT, 5, b"\0\0")
    bench.host._leave()
    assert killed == [os.getpid()]
    found = list(bench.reader.feed(bench.client.recv(1 << 16)))
    assert found == [(frames.EXIT, 5, b"\0\0"), (frames.OUT, 5, b"left over"), (frames.DONE, 0, b"")]


@pytest.mark.parametrize("client", [True, False])
def test_it_lives_until_its_tasks_are_over_or_its_client_is_gone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, client: bool
) -> None:
    did: list[str] = []
    monkeypatch.setattr(kernel, "inherit_orphans", lambda: did.append("inherit"))
    monkeypatch.setattr(kernel, "raise_file_limit", lambda: did.append("files"))
    monkeypatch.setattr(host, "kill_below", lambda pid: did.append(f"kill {pid == os.getpid()}"))
    monkeypatch.setattr(Host, "_leave", lambda self: did.append("leave"))
    if client:
        bench.host._begun = True
        bench.client.sendall(frames.encode(frames.STDIN, 0, b"x"))
    else:
        bench.client.sendall(frames.encode(frames.END))
    bench.host.run()
    assert did == ["inherit", "files", "leave" if client else "kill True"]


def test_everything_below_is_killed_until_nothing_is(monkeypatch: pytest.MonkeyPatch) -> None:
    below = [[5, 6], [7], []]
    waits = [(5, 0), (6, 0), (0, 0), (7, 0), (0, 0)]
    sent: list[tuple[int, int]] = []

    def kill(pid: int, number: int) -> None:
        sent.append((pid, number))
        if pid == 5:
            raise ProcessLookupError

    monkeypatch.setattr(kernel, "descendants", lambda pid: below.pop(0))
    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(os, "waitpid", lambda pid, how: waits.pop(0))
    kill_below(99)
    assert sent == [(5, signal.SIGKILL), (6, signal.SIGKILL), (7, signal.SIGKILL)]
    assert (below, waits) == ([], [])


def test_what_keeps_a_task_from_starting_is_said_in_the_words_of_its_program(
    capfd: pytest.CaptureFixture[str],
) -> None:
    host._tell({"program": "srun", "node": "n-1"}, "./caf\udcc3\udca9: no such file or command")
    assert capfd.readouterr().err == "srun: error: n-1: ./café: no such file or command\n"
