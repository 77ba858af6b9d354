"""Whoever asks for a step: starts its hosts, brings input, signals and output across, and ends as it ends.

Owns    one step, from its request to its exit code; its own death ends the step.
Why     plain blocking code in one thread: it is started for each step, and holds no more than it can write.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

from bursar.steps import bridge, frames, host, kernel, names, patterns, reach, records, terminal
from bursar.steps.hosts import compress_hosts
from bursar.steps.request import Place, Refused, Request, members, specs
from bursar.steps.sinks import Lines, Sink
from bursar.steps.slots import take_places

FORWARDED: Final = tuple(
    getattr(signal, f"SIG{name}") for name in ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "ALRM", "CONT")
)
_ENDING: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""With which somebody ends a step: that is not its own failure."""
KILL_AFTER_S: Final = 5.0
"""Tasks that a bad exit ends get TERM, and so much later KILL."""
_SUPERVISOR: Final = "bursar-attempt"


class _Node:
    """The host of one member, as its client sees it."""

    def __init__(self, place: Place, channel: socket.socket, local: bool) -> None:
        channel.setblocking(False)
        self.place = place
        self.channel = channel
        self.local = local
        self.reader = frames.Reader()
        self.outbox = bytearray()
        self.left = set(place.ranks)
        self.done = False
        self.input_left = frames.INPUT_BYTES_MAX
        """Bytes of standard input that it may be sent."""

    def say(self, kind: int, number: int = 0, data: bytes = b"") -> None:
        self.outbox += frames.encode(kind, number, data)


class Step:
    """One running step."""

    def __init__(self, request: Request, env: Mapping[str, str]) -> None:
        """Start it. Raises `Refused`."""
        self._request = request
        self._env = env
        attempt, own, everybody = members(env)
        request.cwd = request.cwd or os.getcwd()
        env = reach.with_addresses(request, env, everybody)
        found = take_places(request, env, everybody)
        number = self._recorded(found)
        kernel.raise_file_limit()
        heard = (*FORWARDED, signal.SIGWINCH) if request.terminal else FORWARDED
        signal.pthread_sigmask(signal.SIG_BLOCK, heard)
        self._signals = kernel.signal_fd(heard)
        self._poll = select.poll()
        self._poll.register(self._signals, select.POLLIN)
        self._open_files(found)
        told = specs(request, found, env, number)
        self._nodes: dict[int, _Node] = {}
        self._stdin_open = _may_read_stdin()
        for place, spec in zip(found, told, strict=True):
            self._begin(place, spec, attempt, own)
        if any(not node.local for node in self._nodes.values()):
            _be_heedful()
        self._code = 0
        self._failed: tuple[int, int] | None = None
        """Rank and signal of the task that failed first."""
        self._end_state = ""
        self._limit_at = time.monotonic() + request.time_s if request.time_s else None
        self._end_at: float | None = None
        self._kill_at: float | None = None
        self._killed = False

    def _recorded(self, found: list[Place]) -> int:
        """The step's number in its member."""
        request = self._request
        self._record = records.Record(
            self._env if request.recorded else {},
            request.argv[0],
            sum(len(place.ranks) for place in found),
            len(found),
        )
        return self._record.number

    def _open_files(self, found: list[Place]) -> None:
        """Files of the whole step are written here; those of a task or a node where it runs."""
        request = self._request
        request.error = request.error or (request.output if _elsewhere(request.output) else "")
        out = self._open("output", 1)
        err = out if out != 1 and not request.error else self._open("error", 2)
        self._sinks = {fd: Sink(fd) for fd in {2, out, err}}
        ranks = [rank for place in found for rank in place.ranks]
        whole = request.label or (len(ranks) > 1 and not request.unbuffered)
        width = len(str(max(ranks))) if request.label else 0
        self._out, self._err = (Lines(self._sinks[fd], whole, width) for fd in (out, err))

    def _open(self, key: str, default: int) -> int:
        """The descriptor of a file of the whole step. Raises `Refused`."""
        request = self._request
        pattern: str = getattr(request, key)
        if not pattern or _elsewhere(pattern):
            return default
        setattr(request, key, "")
        name = patterns.file_name(pattern, _NO_TASK, self._env, 0, 0)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (0 if request.append else os.O_TRUNC)
        try:
            return os.open(os.path.join(request.cwd, name), flags | os.O_CLOEXEC, 0o666)
        except OSError as problem:
            raise Refused(f"--{key} {name}: {problem.strerror}", 1) from None

    def _begin(self, place: Place, spec: dict[str, Any], attempt: str, own: int) -> None:
        local = place.member.rank == own
        if local:
            channel = host.fork_host()
        else:
            directory = self._env[names.DIRECTORY]
            channel = bridge.fork_to_member(directory, attempt, own, place.member.rank)
        node = _Node(place, channel, local)
        if not self._request.input and (self._request.broadcast or 0 in place.ranks):
            spec["stdin"] = frames.TO_ALL if self._request.broadcast else True
        node.say(frames.SPEC, 0, _encoded(spec))
        if spec["stdin"] and not self._stdin_open:
            node.say(frames.STDIN_END)
        self._nodes[channel.fileno()] = node
        self._poll.register(channel.fileno(), select.POLLIN | select.POLLOUT)

    # --- the loop

    def run(self) -> int:
        """Stay with it to its end; its exit code, the highest of its tasks."""
        self._stay()
        rank, number = self._failed or (None, 0)
        state = self._end_state or (records.FAILED if self._code else records.COMPLETED)
        told = number if number and self._code == 128 + number else 0
        if state == records.COMPLETED and self._code:  # nobody reads what it says: as in any pipe
            told = signal.SIGPIPE
        self._record.end(state, self._code, told, rank)
        return self._code

    def _stay(self) -> None:
        while any(not node.done for node in self._nodes.values()) or any(
            sink.waits for sink in self._sinks.values()
        ):
            self._watch()
            for fd, event in self._poll.poll(self._timeout_ms()):
                self._on(fd, event)
            self._act_on_time(time.monotonic())

    def _watch(self) -> None:
        """Ask for what can be used: no more output than can be written, no more input than is taken."""
        full = any(sink.full for sink in self._sinks.values())
        for fd, node in self._nodes.items():
            wanted = (0 if full else select.POLLIN) | (select.POLLOUT if node.outbox else 0)
            if node.done:
                wanted = 0
            self._set(fd, wanted)
        self._set(0, select.POLLIN if self._room() else 0)
        for fd, sink in self._sinks.items():
            self._set(fd, select.POLLOUT if sink.waits else 0)

    def _set(self, fd: int, wanted: int) -> None:
        if wanted:
            self._poll.register(fd, wanted)
        else:
            with contextlib.suppress(KeyError):
                self._poll.unregister(fd)

    def _fed(self) -> list[_Node]:
        """Those whose tasks get what comes on standard input."""
        if self._request.broadcast:
            return [node for node in self._nodes.values() if node.left and not node.done]
        first = self._first()
        return [] if first is None else [first]

    def _room(self) -> int:
        """Bytes of standard input that can be read now."""
        fed = self._fed() if self._stdin_open and not self._request.input else []
        if any(len(node.outbox) >= frames.INPUT_BYTES_MAX for node in fed):
            return 0
        return max(min((node.input_left for node in fed), default=0), 0)

    def _first(self) -> _Node | None:
        return next((node for node in self._nodes.values() if 0 in node.left and not node.done), None)

    def _timeout_ms(self) -> int | None:
        due = [at for at in (self._end_at, self._kill_at, self._limit_at) if at is not None]
        return max(int((min(due) - time.monotonic()) * 1000) + 1, 0) if due else None

    def _on(self, fd: int, event: int) -> None:
        if fd == self._signals:
            for number, sender in kernel.read_signals(fd):
                if number == signal.SIGWINCH:
                    self._resize()
                else:
                    self._forward(number, sender)
        elif fd in self._nodes:
            self._on_node(self._nodes[fd], event)
        elif fd == 0:
            self._read_stdin()
        elif fd in self._sinks and not self._sinks[fd].flush():
            self._kill()  # nobody reads: as a command in a pipe ends

    def _on_node(self, node: _Node, event: int) -> None:
        if event & select.POLLOUT and node.outbox:
            with contextlib.suppress(OSError):
                del node.outbox[: node.channel.send(node.outbox[: frames.CHUNK_BYTES])]
        if event & ~select.POLLOUT:
            try:
                data = node.channel.recv(frames.CHUNK_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._lost(node)
                return
            for kind, rank, body in node.reader.feed(data):
                self._heard(node, kind, rank, body)

    def _heard(self, node: _Node, kind: int, rank: int, body: bytes) -> None:
        if kind == frames.OUT:
            self._out.take(rank, body)
        elif kind == frames.ERR:
            self._err.take(rank, body)
        elif kind == frames.EXIT:
            self._ended(node, rank, body[0], body[1])
        elif kind == frames.CREDIT:
            node.input_left += rank
        elif kind == frames.DONE:
            self._finish(node)
        elif kind == bridge.GONE:
            if node.left:  # else it is the way that closes behind what has ended: nothing is lost
                self._say(body.decode("utf-8", "replace"))
            self._lost(node, told=True)

    def _finish(self, node: _Node) -> None:
        node.done = True
        for rank in node.place.ranks:
            self._out.end(rank)
            self._err.end(rank)
        self._set(node.channel.fileno(), 0)

    def _lost(self, node: _Node, told: bool = False) -> None:
        """Its host is gone, and its tasks with it."""
        if node.left:
            ranks = compress_hosts(map(str, sorted(node.left))).strip("[]")
            if not told:
                self._say(f"{node.place.member.name}: lost; its tasks {ranks} are killed")
            self._code = max(self._code, 128 + signal.SIGKILL)
            self._failed = self._failed or (min(node.left), signal.SIGKILL)
            self._bad()
        node.left.clear()
        self._finish(node)

    # --- ends

    def _ended(self, node: _Node, rank: int, code: int, number: int) -> None:
        node.left.discard(rank)
        if (code or number) and not self._killed:  # what we end has no word in it
            self._code = max(self._code, code or 128 + number)
            self._failed = self._failed or (rank, number)
            word = f"Exited with exit code {code}" if code else _signal_words(number)
            self._say(f"{node.place.member.name}: task {rank}: {word}")
            if self._request.kill_on_bad_exit:
                self._bad()
        if self._request.wait_s and self._end_at is None:
            self._end_at = time.monotonic() + self._request.wait_s

    def _bad(self) -> None:
        """End the others, once."""
        if self._kill_at is None and not self._killed:
            self._killed = True
            self._signal_all(signal.SIGTERM)
            self._kill_at = time.monotonic() + KILL_AFTER_S

    def _act_on_time(self, now: float) -> None:
        if self._end_at is not None and now >= self._end_at:
            self._end_at = None
            if any(node.left for node in self._nodes.values()):
                self._say(f"ending the tasks that run {self._request.wait_s} s after the first ended")
                self._bad()
        if self._limit_at is not None and now >= self._limit_at:
            self._limit_at = None
            self._say("ended at its time limit")
            self._end_state = records.TIME_LIMIT
            self._code = max(self._code, 128 + signal.SIGTERM)
            self._bad()
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            self._signal_all(signal.SIGKILL)

    def _kill(self) -> None:
        self._killed = True
        self._end_state = self._end_state or records.COMPLETED
        self._signal_all(signal.SIGKILL)
        self._code = max(self._code, 128 + signal.SIGPIPE)

    def _signal_all(self, number: int, here: int = 0) -> None:
        """To every node. `here`: added to the number on this one."""
        for node in self._nodes.values():
            if not node.done:
                node.say(frames.SIGNAL, number | here if node.local else number)

    def _forward(self, number: int, sender: int) -> None:
        """To all tasks. What the supervisor sends but for TERM asks for a checkpoint: it has told those on
        this node that heed it itself, and to others it would be their end. We heed it, so it does not look
        again: a task that is not ready yet is told by its host.
        """
        try:
            with open(f"/proc/{sender}/comm") as file:
                supervisor = file.read().strip() == _SUPERVISOR
        except OSError:
            supervisor = False
        if number in _ENDING and not self._end_state:
            self._end_state = records.CANCELLED
        if supervisor and number != signal.SIGTERM:
            self._signal_all(number | frames.HEEDED, here=frames.LATE)
        else:
            self._signal_all(number)

    def _resize(self) -> None:
        first = self._first()
        if first is not None:
            first.say(frames.SIZE, terminal.size())

    # --- input

    def _read_stdin(self) -> None:
        room = self._room()
        if not room:
            return
        try:
            data = os.read(0, min(room, frames.CHUNK_BYTES))
        except OSError:
            data = b""
        for node in self._fed():
            node.say(frames.STDIN if data else frames.STDIN_END, 0, data)
            node.input_left -= len(data)
        self._stdin_open = bool(data)

    def _say(self, text: str) -> None:
        if not self._request.quiet:
            self._sinks[2].put(f"{self._request.program}: error: {text}\n".encode())


def _encoded(spec: Mapping[str, Any]) -> bytes:
    """As it goes to a host. Raises `Refused`."""
    found = json.dumps(spec, ensure_ascii=False).encode("utf-8", "surrogateescape")
    if len(found) > frames.FRAME_BYTES_MAX:
        raise Refused(
            f"environment and command have {len(found)} bytes, at most {frames.FRAME_BYTES_MAX} go", 1
        )
    return found


def _be_heedful() -> None:
    """Have a handler for what is read elsewhere: a supervisor tells those alone that have one, and the tasks
    on other nodes learn of it through us.
    """
    for number in FORWARDED:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda *_: None)


def _elsewhere(pattern: str) -> bool:
    """Is it opened where a task runs?"""
    return pattern == "none" or patterns.of_a_task(pattern)


_NO_TASK: Final = {"step": 0, "node": "", "node_index": 0}


def _signal_words(number: int) -> str:
    return "Killed" if number == signal.SIGKILL else signal.strsignal(number) or f"Signal {number}"


def _may_read_stdin() -> bool:
    """Not where reading would stop us (a background job of a terminal), nor where there is nothing."""
    try:
        return not os.isatty(0) or os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def run(request: Request, env: Mapping[str, str]) -> int:
    """One step of the calling job, to its end; the exit code.

    Args:
        env: what its tasks inherit.
    """
    try:
        with terminal.raw() if request.terminal else contextlib.nullcontext():
            return Step(request, env).run()
    except Refused as refused:
        sys.stderr.write(f"{request.program}: error: {refused}\n")
        if request.recorded:
            records.refused(env, request.argv[0], refused.code)
        return refused.code
