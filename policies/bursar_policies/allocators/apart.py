"""An allocator of a site's own, in a process of its own.

Owns    the child process: how it is asked, how long it is waited for, how much it may say, and its end.
Why     what an installed package does is not ours: it may hang, or end its interpreter. None of it may reach
        the daemon, and a daemon that was killed for it must not meet it again for ever. The child dies with
        the daemon, and with the thread that started it.
Input   a `Problem` as msgpack, four bytes of length before it. Output: the same of a list of `Allotment`s.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from importlib.metadata import EntryPoint
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread, Timer
from typing import IO, Any, Final

import msgspec

from bursar_policies.allocators.api import SPARE_MAX, Allotment, Problem, Weight, words_of

LOAD_S: Final = 20.0
"""How long a package may take to be imported. Nobody waits for it but who applies a policy."""
ASK_S: Final = 1.0
"""How long an answer may take: the daemon does nothing else meanwhile."""
HELLO_MAX: Final = 1 << 16
ANSWER_MAX: Final = 512
"""Bytes of an answer, for each contender, and for some more."""
_PARENT_DIES: Final = 1
"""PR_SET_PDEATHSIG of prctl(2)."""
_OURS: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_CHILD: Final = "from bursar_policies.allocators.apart import serve; serve()"


class Failed(Exception):
    """The child has not answered as it should: why, in words."""


class Said(msgspec.Struct, omit_defaults=True):
    """What the child says: first its weights, then what it allots; or what failed."""

    failed: str = ""
    weights: dict[str, tuple[float, float, float]] = {}
    allotted: list[Allotment] = []


class _Child:
    """One process and the thread that talks with it; after `kill`, or any failure, it is of no more use."""

    def __init__(self, name: str, value: str) -> None:
        self.hello: Future[Said] = Future()
        self.ended = False
        self._command = [sys.executable, "-P", "-c", _CHILD, name, value]
        self._asked: SimpleQueue[tuple[bytes, int, Future[Said]] | None] = SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = Lock()
        Thread(target=self._run, name="allocator", daemon=True).start()

    def ask(self, text: bytes, most: int) -> Future[Said]:
        """Send a question; the answer may have `most` bytes."""
        found: Future[Said] = Future()
        self._asked.put((text, most, found))
        if self.ended:
            _fail(found, "it has ended")
        return found

    def kill(self) -> None:
        """End it and all that it started, now."""
        with self._lock:
            self.ended = True
            self._asked.put(None)
            if self._process is not None and self._process.returncode is None:
                with contextlib.suppress(OSError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def _run(self) -> None:
        environ = {"OPENBLAS_NUM_THREADS": "1", **os.environ}  # a thread for each core is too many
        try:
            with self._lock:
                process = self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={one: value for one, value in environ.items() if one not in _OURS},
                    start_new_session=True,
                )
        except OSError as error:
            self.ended = True
            _fail(self.hello, f"no process could be started: {error}")
            return
        late = Timer(LOAD_S, self.kill)
        late.daemon = True
        late.start()
        self._answer(process, b"", HELLO_MAX, self.hello, f"it was not loaded within {LOAD_S:.0f} s")
        late.cancel()
        while not self.ended and (asked := self._asked.get()) is not None:
            self._answer(process, *asked, "it was too late")
        self.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()

    def _answer(
        self, process: subprocess.Popen[bytes], text: bytes, most: int, found: Future[Said], late: str
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if text:
                _write(process.stdin, text)
            said = _read(process.stdout, most)
            answer = msgspec.msgpack.decode(said, type=Said) if said is not None else None
        except Exception as error:  # a pipe that broke, a length that is too much, bytes that are no answer
            why, answer = late if self.ended else words_of(error), None
        else:
            why = late if self.ended else "its process ended"
        if answer is None:
            self.kill()
            _fail(found, why)
            return
        with contextlib.suppress(InvalidStateError):
            found.set_result(answer)


def _fail(found: Future[Said], why: str) -> None:
    with contextlib.suppress(InvalidStateError):
        found.set_exception(Failed(why))


class Apart:
    """An `Allocator` that an installed package brings, as an entry point of this value names it."""

    def __init__(self, name: str, value: str) -> None:
        self.name = name
        self.value = value
        self._weights: dict[str, Weight] = {}
        self._child = _Child(name, value)

    @property
    def weights(self) -> Mapping[str, Weight]:
        """As it declares them; none before it is loaded."""
        return self._weights

    @property
    def loading(self) -> bool:
        """Is it not known yet whether it can be used?"""
        return not self._child.hello.done()

    @property
    def unusable(self) -> bool:
        """Was it tried, and cannot be used?"""
        hello = self._child.hello
        return hello.done() and (hello.exception() is not None or bool(hello.result().failed))

    def load(self, wait_s: float = 2 * LOAD_S) -> None:
        """Wait until it is loaded. Raises `Failed` with the reason why it cannot be used."""
        try:
            said = self._child.hello.result(wait_s)
        except TimeoutError:
            raise Failed("it is still being loaded") from None
        if said.failed:
            self._child.kill()
            raise Failed(said.failed)
        self._weights = {name: Weight(*numbers) for name, numbers in said.weights.items()}

    def allot(self, problem: Problem) -> list[Allotment]:
        """Ask it. Raises `Failed`; one that is late is killed, and a new one is there for the next time."""
        try:
            self.load(ASK_S)
            most = ANSWER_MAX * (len(problem.contenders) + SPARE_MAX)
            said = self._child.ask(msgspec.msgpack.encode(problem), most).result(ASK_S)
        except TimeoutError:
            self._again()
            raise Failed(f"it gave no answer within {ASK_S:.0f} s, and its process was ended") from None
        except Failed:
            if self._child.ended:
                self._again()
            raise
        if said.failed:
            raise Failed(said.failed)
        return said.allotted

    def close(self) -> None:
        """End its process."""
        self._child.kill()

    def _again(self) -> None:
        self._child.kill()
        self._child = _Child(self.name, self.value)


# --- the child


def serve() -> None:
    """What the child does: load what it was told, say so, and answer until the daemon hangs up."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DIES, signal.SIGKILL)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")  # sooner than the daemon
    from bursar_policies.allocators import registry  # it imports this module

    asked, said = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what a package prints is no answer
    name, value = sys.argv[1:]
    found: list[Any] = []

    def load() -> Said:
        made = registry.loaded(name, [EntryPoint(name, value, registry.GROUP)])
        found.append(made)
        return Said(weights={one: tuple(map(float, made.weights[one])) for one in made.weights})  # type: ignore[misc]

    _say(said, load)
    while found and (text := _read(asked, 1 << 31)) is not None:
        problem = msgspec.msgpack.decode(text, type=Problem)
        _say(said, lambda problem=problem: _allot(found[0], problem))  # type: ignore[misc]


def _allot(allocator: Any, problem: Problem) -> Said:
    most = len(problem.contenders) + SPARE_MAX
    return Said(
        allotted=[
            Allotment(one.job_id, one.gpu_type, one.nodes, one.gpus)
            for one in islice(allocator.allot(problem), most)
        ]
    )


def _say(said: IO[bytes], do: Callable[[], Said]) -> None:
    try:
        text = msgspec.msgpack.encode(do())
    except BaseException as error:  # whatever it is, it is the package's
        text = msgspec.msgpack.encode(Said(failed=words_of(error)))
    _write(said, text)


def _write(pipe: IO[bytes], text: bytes) -> None:
    pipe.write(len(text).to_bytes(4, "big") + text)
    pipe.flush()


def _read(pipe: IO[bytes], most: int) -> bytes | None:
    """None: the other end is gone. Raises `ValueError` for more than `most` bytes."""
    head = pipe.read(4)
    if len(head) < 4:
        return None
    if (count := int.from_bytes(head, "big")) > most:
        raise ValueError(f"an answer of {count} bytes is too long")
    text = pipe.read(count)
    return text if len(text) == count else None
