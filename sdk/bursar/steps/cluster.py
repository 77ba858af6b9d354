"""A cluster of services inside a job: a head, workers, then the command that uses them; all end with it.

Owns    the order, the wait until all of it is up, what is said when it is not, and the end.
Why     a command that starts before its workers are there computes on a part of what the job pays for.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from bursar.steps.request import Refused

UP_WITHIN_S: Final = 180.0
END_WITHIN_S: Final = 10.0
_TAIL_LINES: Final = 30
_LINE_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """What an engine consists of.

    Attributes:
        head: argv of its first process. workers: words of this program's own that start the others, each with
            one line of output that has `worker_is_up` in it when it has joined.
        env: by which the command finds the head.
    """

    head: Sequence[str]
    head_is_up: str
    workers: Sequence[str]
    worker_is_up: str
    worker_count: int
    env: Mapping[str, str] = field(default_factory=dict)


class _Service:
    """One process whose output is read for the word that it is up, and kept for when it fails."""

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str], word: str, count: int) -> None:
        self.name, self._word, self.missing = name, word.encode(), count
        self.tail: deque[bytes] = deque(maxlen=_TAIL_LINES)
        self._part = b""
        self.process = subprocess.Popen(
            list(argv),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.process.stdout is not None
        self.output = self.process.stdout.fileno()
        os.set_blocking(self.output, False)

    def close(self) -> None:
        """Stop reading."""
        assert self.process.stdout is not None
        self.process.stdout.close()

    def read(self) -> bool:
        """Take what it has said; False: it will say nothing more."""
        try:
            data = os.read(self.output, _LINE_BYTES_MAX)
        except BlockingIOError:
            return True
        *lines, self._part = (self._part + data).split(b"\n")
        if len(self._part) > _LINE_BYTES_MAX:
            lines, self._part = [*lines, self._part], b""
        for line in lines:
            self.tail.append(line)
            self.missing -= self._word in line
        return bool(data)


class _Cluster:
    """The services that run, and the command beside them."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._poll = select.poll()
        self._services: list[_Service] = []
        self._ends: dict[int, subprocess.Popen[bytes]] = {}
        self._asked_to_end = False
        # For the command, which has got it too and ends as it likes.
        ends = (signal.SIGTERM, signal.SIGINT)
        self._handlers = {number: signal.signal(number, self._on_signal) for number in ends}

    def _on_signal(self, number: int, frame: object) -> None:
        self._asked_to_end = True

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str], word: str, count: int) -> None:
        """Start a service and wait until it is up. Raises `Refused` when it is not, with its last words."""
        service = _Service(name, argv, env, word, count)
        self._services.append(service)
        self._poll.register(service.output, select.POLLIN)
        self._watch(service.process)
        until = time.monotonic() + UP_WITHIN_S
        while service.missing > 0:
            if self._ended() is not None or self._asked_to_end or time.monotonic() > until:
                raise Refused(self._why_not(service), 1)
            self._turn(until - time.monotonic())

    def run(self, argv: Sequence[str], env: Mapping[str, str]) -> int:
        """The command, to its end; its exit code. The end of a service ends it."""
        try:
            command = subprocess.Popen(list(argv), env=dict(env))
        except OSError as problem:
            raise Refused(f"cannot start {argv[0]}: {problem.strerror}", 127) from None
        self._watch(command)
        told = False
        while command.poll() is None:
            gone = self._ended()
            if gone is not None and not self._asked_to_end and not told:
                told = True
                self._say(
                    f"{gone.name} ended while the command ran (exit code {gone.process.returncode})", gone
                )
                command.terminate()
            self._turn(None if gone is None else 1.0)
        code = command.returncode
        return 1 if told else code if code >= 0 else 128 - code

    def end(self) -> None:
        """End all services, the workers before the head."""
        for service in reversed(self._services):
            with contextlib.suppress(ProcessLookupError):
                service.process.terminate()
        until = time.monotonic() + END_WITHIN_S
        while any(each.process.poll() is None for each in self._services) and time.monotonic() < until:
            self._turn(until - time.monotonic())
        for service in self._services:
            service.process.kill()
            service.process.wait()
            service.close()
        for end in self._ends:
            os.close(end)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        end = os.pidfd_open(process.pid)
        self._ends[end] = process
        self._poll.register(end, select.POLLIN)

    def _turn(self, timeout_s: float | None) -> None:
        for fd, _ in self._poll.poll(None if timeout_s is None else max(timeout_s, 0.0) * 1000):
            service = next((each for each in self._services if each.output == fd), None)
            if service is None or not service.read():
                self._poll.unregister(fd)

    def _ended(self) -> _Service | None:
        return next((each for each in self._services if each.process.poll() is not None), None)

    def _why_not(self, service: _Service) -> str:
        gone = self._ended()
        if self._asked_to_end:
            return f"asked to end before {service.name} was up"
        if gone is not None:
            self._drain(gone)
            why = f"{gone.name} ended with exit code {gone.process.returncode} before all was up"
        else:
            why = f"{service.name}: {service.missing} not up within {UP_WITHIN_S:g} s"
        return "\n".join([f"{why}; its last words:", *_text((gone or service).tail)])

    def _drain(self, service: _Service) -> None:
        with contextlib.suppress(OSError):
            while service.read():
                if not select.select([service.output], [], [], 0.2)[0]:
                    return

    def _say(self, text: str, service: _Service) -> None:
        lines = "\n".join([f"{self._program}: error: {text}; its last words:", *_text(service.tail)])
        sys.stderr.write(lines + "\n")


def _text(lines: Sequence[bytes] | deque[bytes]) -> list[str]:
    return [f"  {line.decode('utf-8', 'replace')}" for line in lines]


def serve(plan: Plan, own: str, argv: Sequence[str], env: Mapping[str, str], program: str) -> int:
    """Bring a cluster up, run the command in it, end it; the command's exit code.

    Args:
        own: path of the program whose words `plan.workers` are.
        program: how it calls itself in what it says.
    """
    cluster = _Cluster(program)
    try:
        cluster.start("the head", plan.head, env, plan.head_is_up, 1)
        if plan.worker_count:
            cluster.start("the workers", [own, *plan.workers], env, plan.worker_is_up, plan.worker_count)
        return cluster.run(argv, {**env, **plan.env})
    finally:
        cluster.end()
