"""A whole cluster of real processes, and the command line to speak to it.

Owns    starting and stopping clusters in short directories, `ask` (the JSON of a verb) and `until`.
Why     what judges from outside (tests/acceptance, bench/chaos.py, bench/damage.py) knows the CLI, exit codes
        and the process table, nothing else.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from bursar.cli import main as program
from bursar.client import WireClient
from bursar.errors import BursarError

T = TypeVar("T")
BIN = Path(sys.executable).parent
TERMINAL = ("SUCCEEDED", "FAILED", "CANCELLED")
CALL_S = 180


def processes(*words: str) -> list[int]:
    """Living processes whose command line holds each of these words."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                line = Path(f"/proc/{entry.name}/cmdline").read_bytes().replace(b"\0", b" ")
                state = Path(f"/proc/{entry.name}/stat").read_text(errors="replace").rpartition(") ")[2][0]
            except OSError:
                continue
            if state not in "ZX" and all(os.fsencode(word) in line for word in words):
                found.append(int(entry.name))
    return found


def until(probe: Callable[[], T], what: str, limit_s: float = 120, every_s: float = 0.1) -> T:
    """Ask until the answer is true, and give it; a test fails when it never is."""
    deadline = time.monotonic() + limit_s
    while True:
        if found := probe():
            return found
        assert time.monotonic() < deadline, f"after {limit_s:g} s still not so: {what}"
        time.sleep(every_s)


def _judged(done: subprocess.CompletedProcess[str], code: int | None) -> subprocess.CompletedProcess[str]:
    """A command that ended as a test expects, and never by a defect."""
    said = f"`bursar {' '.join(done.args)}` ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, said
    assert code is None or done.returncode == code, said
    return done


class Gate:
    """What a job of a test waits for, so that no test has to be faster than a clock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.wait = f"until test -e {path}; do sleep 0.05; done"
        """Shell text that ends when the gate is open."""
        self.words = ("sh", "-c", self.wait)

    def open(self) -> None:
        self._path.touch()


class Cluster:
    """One `bursar up`, seen from outside."""

    def __init__(self, agents: int, *flags: str) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="bac", dir="/tmp"))
        self.state = self.home / "s"
        self.work = self.home / "w"
        self.work.mkdir()
        self.agents, self.flags = agents, flags
        self.gates: list[Gate] = []
        self.before: tuple[str, ...] = ()
        """Words before each command, such as those of `setpriv`."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("BURSAR") and k != "NO_COLOR"}
        self.env = {**kept, "HOME": str(self.home), "XDG_STATE_HOME": str(self.home)}
        self.server = f"unix://{self.state}/run/bursar.sock"
        self._gates = count()

    # -- the command line

    def start(self, *words: str, **kwargs: Any) -> subprocess.Popen[str]:
        """A command, running."""
        env = {**self.env, "BURSAR_SERVER": self.server, **kwargs.pop("env", {})}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs}
        command = [*self.before, BIN / "bursar", *words]
        return subprocess.Popen(command, env=env, cwd=self.work, text=True, **pipes)

    def run(
        self, *words: str, code: int | None = 0, stdin: str = "", **kwargs: Any
    ) -> subprocess.CompletedProcess[str]:
        """A command, ended with the exit code the test expects (None: any)."""
        with self.start(*words, stdin=subprocess.PIPE, **kwargs) as process:
            try:
                out, err = process.communicate(stdin, timeout=CALL_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return _judged(subprocess.CompletedProcess(words, process.returncode, out, err), code)

    def call(
        self, *words: str, code: int | None = 0, stdin: str = "", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """As `run`, by the same program without the price of a process: for what is refused or has ended.

        It has the directory, the environment and the streams of this process meanwhile: for one thread.
        """
        if self.before:
            return self.run(*words, code=code, stdin=stdin, env=dict(env or {}))
        given, out, err = (
            io.TextIOWrapper(io.BytesIO(held), encoding="utf-8", errors="backslashreplace")
            for held in (stdin.encode(), b"", b"")
        )
        with (
            mock.patch.dict(
                os.environ, {**self.env, "BURSAR_SERVER": self.server, **(env or {})}, clear=True
            ),
            contextlib.chdir(self.work),
            mock.patch("sys.stdin", given),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            ended = program.run(words)
        said = []
        for stream in (out, err):
            stream.seek(0)
            said.append(stream.read())
        return _judged(subprocess.CompletedProcess(words, ended, *said), code)

    def ask(self, *words: str, code: int | None = 0, stdin: str = "") -> Any:
        """The JSON of a command: the whole of its standard output."""
        end = words.index("--") if "--" in words else len(words)
        return json.loads(self.run(*words[:end], "-o", "json", *words[end:], code=code, stdin=stdin).stdout)

    def job(self, *flags: str) -> str:
        """`bursar run`: the id of the new job."""
        return self.run("run", "-q", *flags).stdout.strip()

    def submit(self, text: str, *flags: str, code: int = 0) -> str:
        """`bursar submit -` of this text: the id of the new job."""
        return self.run("submit", "-q", *flags, "-", stdin=text, code=code).stdout.strip()

    def refused(self, text: str, *flags: str, code: int = 2) -> str:
        """What `bursar submit -` says as it refuses this text."""
        return self.call("submit", *flags, "-", stdin=text, code=code).stderr

    def apply(self, text: str, code: int = 0) -> str:
        """`bursar policy apply` of one text: what it said."""
        file = self.work / f"policy-{time.monotonic_ns()}.yaml"
        file.write_text(text)
        done = self.run("policy", "apply", str(file), code=code)
        return done.stderr

    # -- jobs

    def gate(self) -> Gate:
        """A new gate, closed."""
        made = Gate(self.home / f"gate-{next(self._gates)}")
        self.gates.append(made)
        return made

    def show(self, job: str) -> Any:
        return self.ask("show", job)

    def looks(self, question: Callable[[WireClient], T]) -> T | None:
        """One question without the price of a process, for what is asked again and again; None: no answer."""
        try:
            with WireClient(self.server) as client:
                return question(client)
        except BursarError:
            return None

    def until_state(self, job: str, *states: str, limit_s: float = 120) -> Any:
        """Wait until a job is in one of these states."""
        seen: list[str] = []

        def probe() -> bool:
            found = self.looks(lambda client: client.get(job))
            seen[:] = [found.state, found.reason.message] if found is not None else ["no answer"]
            return seen[0] in states

        try:
            until(probe, f"{job} in {states}", limit_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {seen}") from None
        return self.show(job)

    def until_attempt(self, job: str, number: int, state: str, limit_s: float = 120) -> None:
        """Wait until the newest attempt is this one, in this state."""

        def probe() -> bool:
            found = self.looks(lambda client: client.get(job))
            newest = found.attempts[-1] if found is not None and found.attempts else None
            return newest is not None and (newest.number, newest.state) == (number, state)

        until(probe, f"attempt {number} of {job} is {state}", limit_s)

    def ended(self, job: str, limit_s: float = 120) -> Any:
        """Wait until a job has ended; the job."""
        self.call("wait", "-q", job, "--timeout", str(limit_s), code=None)
        found = json.loads(self.call("show", job, "-o", "json").stdout)
        assert found["state"] in TERMINAL, found
        return found

    def log(self, job: str) -> str:
        return self.call("logs", job).stdout

    def doctor_is_content(self) -> None:
        """Every invariant holds, over the whole log."""
        self.call("doctor", "--full")

    # -- processes

    def up(self) -> None:
        flags = ("--agents", str(self.agents), "--state-dir", str(self.state), "--detach", *self.flags)
        self.run("up", *flags)

    def down(self) -> None:
        self.run("down", "--state-dir", str(self.state))

    def status(self) -> Any:
        return self.ask("status", "--state-dir", str(self.state), code=None)

    def daemon_pid(self) -> int:
        """Of the daemon that runs now; a restarted one is waited for."""
        return until(lambda: processes("-m bursard ", f"{self.state}/daemon"), "a daemon runs")[0]

    def pids(self, *words: str) -> list[int]:
        """Of this cluster's processes whose command line holds these words."""
        return processes(str(self.state), *words)

    def children(self, pid: int) -> list[int]:
        """The processes below this one."""
        try:
            return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            return []

    def kill(self, *words: str) -> int:
        """kill -9 of the processes of this cluster whose command line holds these words."""
        pids = self.pids(*words)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return len(pids)

    def ready(self, limit_s: float = 120) -> None:
        """Wait until the daemon answers and every agent is up."""

        def probe() -> bool:
            nodes = self.looks(lambda client: list(client.nodes())) or []
            return sum(node.state == "up" for node in nodes) >= self.agents

        until(probe, "every node is up", limit_s)

    def remove(self) -> list[int]:
        """Stop it and everything of it; the processes that `down` left, which should be none."""
        self.run("down", "--state-dir", str(self.state), code=None)
        left = processes(str(self.state))
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.home, ignore_errors=True)
        return left
