"""`attach`: a program with a terminal on a member of a running job.

Owns    the terminal of whoever sits here: raw while the program runs, as it was afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from bursar.cli.attached import RANK_MAX, Attached
from bursar.cli.common import changing, fail
from bursar.cli.output import say
from bursar.errors import InvalidRequest, ServerUnavailable
from bursar.steps import frames
from bursar.steps.far import program

if TYPE_CHECKING:
    from bursar.client import WireClient

LEAVE: Final = 0x1D
"""ctrl-]: three of them within a second leave."""
LEAVE_TIMES, LEAVE_S = 3, 1.0
PATIENCE_S: Final = 600.0
"""How long a daemon may be away before what has no terminal gives up: a script has nobody to leave."""
_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--rank", type=click.IntRange(0, RANK_MAX), default=0, help="Which member of a gang.")
@click.option(
    "--tty/--no-tty",
    "terminal",
    default=None,
    help="With a terminal or pipes.  [a terminal where both ends are]",
)
@click.argument("job")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD...]")
@changing
def attach(client: WireClient, rank: int, terminal: bool | None, job: str, command: tuple[str, ...]) -> None:
    """Run a program, or else a shell, inside a running job; exits as it did.

    It has the job's environment, devices and limits, is metered with it and ends with it. ctrl-] three times
    leaves, and ends it. A job's owner, operators and administrators may.

    Example: bursar attach last -- nvidia-smi
    """
    at_terminal = os.isatty(0) and os.isatty(1)
    if terminal and not at_terminal:
        raise InvalidRequest("--tty: standard input and output are no terminal")
    wanted = at_terminal if terminal is None else terminal
    if command and command[0].startswith("-") and command[0] != "--":
        raise InvalidRequest(f"{command[0]}: options go before the job, and a program after `--`")
    argv = command[1:] if command[:1] == ("--",) else command
    if not wanted and not argv:
        raise InvalidRequest("without a terminal name a program: bursar attach JOB -- CMD")
    with Attached(client, job, rank, "program") as stream:
        there = Program(stream, argv, wanted)
        code = there.run()
    if there.left:
        say("left; what ran there is ended, the job goes on")
    if code:
        raise fail(code)


class Program:
    """One program there, with standard input and output of this one. `left`: by the keys for it."""

    def __init__(self, stream: Attached, command: tuple[str, ...], terminal: bool) -> None:
        self._stream = stream
        self._command = command
        self._terminal = terminal
        self._input_left = 0
        self._leave = Leave()
        self._signals: list[int] = []
        self._code: int | None = None
        self._begun = False
        self._over = False
        self._away_since: float | None = None
        self.left = False

    def run(self) -> int:
        """To its end; its exit code."""
        with self._listening():
            while not self._over and self._stream.closed is None:
                self._turn()
        if self._code is None:
            why = self._stream.closed or "the way to it is gone"
            raise ServerUnavailable(f"{why}; the program there was ended")
        return self._code

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Signals wake the loop; a terminal is as it was afterwards, whatever happens."""
        caught = (signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP) if self._terminal else _FORWARDED
        before = {number: signal.signal(number, self._on_signal) for number in caught}
        woken = signal.set_wakeup_fd(self._stream.wake_fd, warn_on_full_buffer=False)
        kept = termios.tcgetattr(0) if self._terminal else None
        try:
            yield
        finally:
            if kept is not None:
                termios.tcsetattr(0, termios.TCSADRAIN, kept)
            signal.set_wakeup_fd(woken)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _: Any) -> None:
        self._signals.append(number)

    def _turn(self) -> None:
        poll = select.poll()
        poll.register(self._stream.fd, select.POLLIN)
        if self._input_left > 0 and not self._stream.far.full:
            poll.register(0, select.POLLIN)
        for fd, _ in poll.poll(self._stream.flush()):
            if fd == 0:
                self._read()
        self._heed()
        for kind, _, data in self._stream.frames():
            self._hear(kind, _, data)
        self._tell_way()
        if self._stream.opened is not None and not self._begun:
            self._begin()

    def _tell_way(self) -> None:
        """Say once that the daemon is lost, and that it is back."""
        if self._stream.lost and self._away_since is None:
            self._away_since = time.monotonic()
            leaves = "ctrl-] three times leaves" if self._terminal else "ctrl-C leaves"
            self._say(f"the daemon does not answer; the job and what runs here go on. Trying again; {leaves}")
        elif not self._stream.lost and self._away_since is not None:
            self._say(f"back after {time.monotonic() - self._away_since:.0f} s")
            self._away_since = None
        elif not self._terminal and time.monotonic() - (self._away_since or time.monotonic()) > PATIENCE_S:
            raise ServerUnavailable(
                f"the daemon did not answer for {PATIENCE_S:.0f} s; what runs there is ended once it is back"
            )

    def _say(self, text: str) -> None:
        """A line of ours, also at a terminal that is raw."""
        if self._terminal and self._begun:
            _write(2, f"\r\n{text}\r\n".encode())
        else:
            say(text)

    def _begin(self) -> None:
        """The member is there: say what is to run."""
        self._begun = True
        self._input_left = frames.INPUT_BYTES_MAX
        env, size = {}, 0
        if self._terminal:
            env["TERM"] = os.environ.get("TERM") or "xterm"
            size = _size()
            say(f"attached to job {self._stream.opened.number}; ctrl-] three times leaves")
            tty.setraw(0, termios.TCSADRAIN)  # what was typed ahead is kept
        told = program(self._command, env, node=self._stream.opened.node, size=size)
        data = json.dumps(told, ensure_ascii=False).encode("utf-8", "surrogateescape")
        if len(data) > frames.FRAME_BYTES_MAX:
            raise InvalidRequest(f"the command has {len(data)} bytes; at most {frames.FRAME_BYTES_MAX} go")
        self._stream.far.say(frames.SPEC, 0, data)

    def _read(self) -> None:
        try:
            data = os.read(0, min(self._input_left, frames.CHUNK_BYTES))
        except OSError:
            data = b""
        if not data:
            self._stream.far.say(frames.STDIN_END)
            self._input_left = -1
            return
        if self._terminal and self._leave.typed(data, time.monotonic()):
            self._over, self._code, self.left = True, 0, True
            return
        self._stream.far.say(frames.STDIN, 0, data)
        self._input_left -= len(data)

    def _heed(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number == signal.SIGWINCH:
                self._stream.far.say(frames.SIZE, _size())
            elif self._terminal or not self._begun or self._stream.lost:  # who sits here is gone
                self._over, self._code = True, 128 + number
            else:
                self._stream.far.say(frames.SIGNAL, number)

    def _hear(self, kind: int, number: int, data: bytes) -> None:
        if kind in (frames.OUT, frames.ERR):
            _write(2 if kind == frames.ERR else 1, data)
        elif kind == frames.CREDIT and self._input_left >= 0:
            self._input_left += number
        elif kind == frames.EXIT and len(data) == 2:
            self._code = data[0] or (128 + data[1] if data[1] else 0)
        elif kind == frames.DONE:
            self._over = True


class Leave:
    """Notices the keys that leave."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def typed(self, data: bytes, now: float) -> bool:
        """Were they typed? Any other key between them begins anew."""
        for byte in data:
            if byte != LEAVE:
                self._times.clear()
                continue
            self._times = [at for at in self._times if now - at <= LEAVE_S] + [now]
            if len(self._times) >= LEAVE_TIMES:
                return True
        return False


def _size() -> int:
    """Of the terminal here, as `frames.SIZE` has it."""
    try:
        columns, rows = os.get_terminal_size(0)
    except OSError:
        columns, rows = 0, 0
    return (rows or 24) << 16 | (columns or 80)


def _write(fd: int, data: bytes) -> None:
    """All of it: while nobody reads here, nothing more is taken from there. Raises `BrokenPipeError`."""
    sys.stdout.flush()
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
