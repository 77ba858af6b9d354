"""A program that is asked for outside of its job: its terminal, its environment, its end with who asked."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar.steps import far, frames, host

SIZE = 24 << 16 | 80


class There:
    """A host, forked, and the end of its stream."""

    def __init__(self, argv: list[str], *, size: int = SIZE, env: dict[str, str] | None = None) -> None:
        self.channel = host.fork_host()
        self.channel.settimeout(20)
        self.reader = frames.Reader()
        self.came: list[tuple[int, int, bytes]] = []
        told = far.program(argv, env or {}, node="n1", size=size)
        self.say(frames.SPEC, 0, json.dumps(told).encode())

    def say(self, kind: int, number: int = 0, data: bytes = b"") -> None:
        self.channel.sendall(frames.encode(kind, number, data))

    def output(self) -> bytes:
        return b"".join(data for kind, _, data in self.came if kind in (frames.OUT, frames.ERR))

    def until(self, wanted: bytes) -> None:
        """Until it has said that."""
        while wanted not in self.output():
            self._hear()

    def end(self) -> tuple[bytes, int, int]:
        """All that it says to its end: output, exit code, signal."""
        while not any(kind == frames.DONE for kind, _, _ in self.came):
            self._hear()
        (code,) = (data for kind, _, data in self.came if kind == frames.EXIT)
        return self.output(), code[0], code[1]

    def _hear(self) -> None:
        data = self.channel.recv(1 << 16)
        assert data, f"the host is gone; it said {self.output()!r}"
        self.came += self.reader.feed(data)


@pytest.fixture
def there() -> Iterator[Any]:
    made: list[There] = []

    def make(*argv: str, **words: Any) -> There:
        made.append(There(list(argv), **words))
        return made[-1]

    yield make
    for each in made:
        each.channel.close()
    for _ in made:
        os.waitpid(-1, 0)


def test_it_has_a_terminal_of_the_size_that_was_asked_for_and_learns_of_another(there: Any) -> None:
    program = there("sh", "-c", "stty size; read x; stty size; exit 3")
    program.until(b"24 80\r\n")
    program.say(frames.SIZE, 50 << 16 | 132)
    program.say(frames.STDIN, 0, b"\n")
    said, code, number = program.end()
    assert said.endswith(b"50 132\r\n")
    assert (code, number) == (3, 0)


def test_ctrl_c_interrupts_what_runs_at_the_terminal(there: Any) -> None:
    program = there("cat")
    program.say(frames.STDIN, 0, b"hi\n")
    program.until(b"hi\r\nhi\r\n")
    program.say(frames.STDIN, 0, b"\x03")
    assert program.end()[1:] == (0, signal.SIGINT)


def test_the_end_of_input_ends_what_reads_the_terminal(there: Any) -> None:
    program = there("sh", "-c", "cat >/dev/null; echo over")
    program.say(frames.STDIN_END)
    assert program.end()[:2] == (b"over\r\n", 0)


def test_without_a_terminal_output_and_errors_are_apart(there: Any) -> None:
    program = there("sh", "-c", "cat; echo bad >&2", size=0)
    program.say(frames.STDIN, 0, b"abc")
    program.say(frames.STDIN_END)
    program.end()
    told = {kind: data for kind, _, data in program.came if kind in (frames.OUT, frames.ERR)}
    assert told == {frames.OUT: b"abc", frames.ERR: b"bad\n"}


def test_all_that_it_has_is_the_members_own_but_for_what_was_said(there: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("BURSAR_JOB_ID", "job_1")
    monkeypatch.setenv("TERM", "dumb")
    program = there("sh", "-c", "echo $BURSAR_JOB_ID $TERM $PWD", env={"TERM": "xterm"})
    assert program.end()[0].split() == [b"job_1", b"xterm", os.getcwd().encode()]


def test_who_names_no_program_gets_the_shell_of_the_account(there: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("SHELL", "/bin/sh")
    program = there()
    program.say(frames.STDIN, 0, b"echo it is $0; exit 4\n")
    said, code, _ = program.end()
    assert b"it is /bin/sh" in said
    assert code == 4


def test_what_is_no_program_is_told_with_its_node(there: Any) -> None:
    said, code, _ = there("no-such-program").end()
    assert said == b"bursar attach: error: n1: no-such-program: no such file or command\r\n"
    assert code == 127


def test_its_programs_are_told_when_who_looked_is_gone_and_then_nothing_is_left(
    there: Any, tmp_path: Path
) -> None:
    told, pid = tmp_path / "told", tmp_path / "pid"
    program = there(
        "sh", "-c", f"trap 'echo gone >{told}; exit 1' HUP; sleep 600 & echo $! >{pid}; echo ready; wait"
    )
    program.until(b"ready")
    program.channel.shutdown(socket.SHUT_WR)
    while program.channel.recv(1 << 16):
        pass
    assert told.read_text() == "gone\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_signal_of_a_size_that_there_is_no_terminal_for_is_nothing(there: Any) -> None:
    program = there("sh", "-c", "read x; echo $x", size=0)
    program.say(frames.SIZE, SIZE)
    program.say(frames.STDIN, 0, b"still here\n")
    assert program.end()[0] == b"still here\n"


def test_a_program_that_a_signal_ended_says_which(there: Any) -> None:
    program = there("sh", "-c", "kill -9 $$")
    assert program.end()[1:] == (0, signal.SIGKILL)
