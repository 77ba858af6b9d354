"""NVIDIA's MPS, by its own control program: one server for one device and one user, in a folder of its own.

Owns    starting it, asking it, ending it and finding its processes. Blocking; one thread asks.
Why     without it several jobs on one device share it in time, and nothing limits their memory. A server is
        one user's, since clients of one server are hardly kept from each other, and one device's, since the
        limits of a client are counted by the devices that its server sees.

The server itself comes with its first client; until then only the control process is there, which holds
nothing of the device. It outlives the agent, as jobs do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bursar_agent.runner import become

PROGRAM: Final = "nvidia-cuda-mps-control"
PIPE, LOG = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
THREADS, MEMORY = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"
VISIBLE: Final = "CUDA_VISIBLE_DEVICES"

SOCKET_PATH_MAX: Final = 85
"""Characters of the folder of pipes: its sockets have names of up to 20 below it, and 107 is all there is."""
START_S: Final = 15.0
ANSWER_S: Final = 5.0
QUIT_S: Final = 2
_COMM: Final = PROGRAM[:15]
_INHERITED: Final = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
_POLL_S: Final = 0.05
_SAID_MAX: Final = 300


class MpsFailed(Exception):
    """It does not start or answer; `message` has what it said."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Owner(NamedTuple):
    """Whose server it is; None: the agent's own account."""

    uid: int | None = None
    gid: int | None = None


class Mps:
    """The control program of this machine."""

    def __init__(self, program: str) -> None:
        self._program = program

    def start(self, folder: Path, device_uuid: str, owner: Owner) -> int:
        """Start the control process of a server in `folder`, which is made; its pid. Raises `MpsFailed`."""
        try:
            folder.mkdir()
            folder.chmod(0o711)
            for name in ("pipe", "log"):
                (folder / name).mkdir(mode=0o700)
                if owner.uid is not None:
                    os.chown(folder / name, owner.uid, -1 if owner.gid is None else owner.gid)
        except OSError as problem:
            raise MpsFailed(f"{folder}: {problem.strerror}") from None
        self._run(folder, owner, ["-d"], {VISIBLE: device_uuid}, START_S)
        end = time.monotonic() + START_S
        while True:
            pids = processes(folder)
            if pids:
                try:
                    self.servers(folder, owner)
                    return pids[0]
                except MpsFailed:
                    if time.monotonic() > end:
                        raise
            elif time.monotonic() > end:
                raise MpsFailed("its control process is gone at once")
            time.sleep(_POLL_S)

    def servers(self, folder: Path, owner: Owner) -> dict[int, str]:
        """Its servers and how they are: ACTIVE, INITIALIZING or FAULT; none before the first client.

        Raises `MpsFailed` when the control process does not answer.
        """
        words = self._run(folder, owner, [], {}, ANSWER_S, "get_server_list\n").split()
        found = {}
        for word in words:
            if word.isdigit():
                status = self._run(folder, owner, [], {}, ANSWER_S, f"get_server_status {word}\n")
                found[int(word)] = status.strip()[:_SAID_MAX]
        return found

    def quit(self, folder: Path, owner: Owner) -> None:
        """End it, and whatever is left of it, and remove the folder. Raises nothing."""
        known = {pid: started_at(pid) for pid in processes(folder)}
        if known:
            with contextlib.suppress(MpsFailed):
                self._run(folder, owner, [], {}, QUIT_S + ANSWER_S, f"quit -t {QUIT_S}\n")
        _wait_gone(folder, known)
        for pid in _left(folder, known):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        _wait_gone(folder, known)
        if owner.uid is not None:
            # What lies in another user's private folders can be removed by that user alone.
            inside = [str(folder / name) for name in ("pipe", "log")]
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                subprocess.run(
                    [*_become(owner), "find", *inside, "-mindepth", "1", "-delete"],
                    stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=ANSWER_S, check=False,
                )  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)

    def _run(
        self,
        folder: Path,
        owner: Owner,
        words: Sequence[str],
        env: Mapping[str, str],
        timeout_s: float,
        said: str = "",
    ) -> str:
        """What the program answers. Raises `MpsFailed`."""
        own = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        # To a file and not a pipe: what it starts keeps it open, and nobody would ever read its end.
        with open(folder / "answer", "w+b") as answer:
            try:
                done = subprocess.run(
                    [*_become(owner), self._program, *words],
                    env={**own, **variables(folder), **env},
                    input=said.encode() if said else None,
                    stdin=None if said else subprocess.DEVNULL,
                    stdout=answer,
                    stderr=answer,
                    cwd="/",
                    start_new_session=True,
                    timeout=timeout_s,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise MpsFailed(f"{PROGRAM} does not answer in {timeout_s:g} s") from None
            except OSError as problem:
                raise MpsFailed(f"{self._program}: {problem.strerror}") from None
            answer.seek(0)
            text = answer.read(1 << 16).decode("utf-8", "replace")
        if done.returncode:
            words_said = " ".join(text.split())[:_SAID_MAX]
            raise MpsFailed(words_said or f"{PROGRAM} exited with {done.returncode}")
        return text


def _wait_gone(folder: Path, known: Mapping[int, int]) -> None:
    end = time.monotonic() + QUIT_S
    while _left(folder, known) and time.monotonic() < end:
        time.sleep(_POLL_S)


def _left(folder: Path, known: Mapping[int, int]) -> set[int]:
    """Those in `folder`, and those that were there when they began: one that ends shows no environment any
    more before it is gone.
    """
    return {*processes(folder), *(pid for pid, started in known.items() if alive(pid, started))}


def variables(folder: Path) -> dict[str, str]:
    """By which a control program and the clients of a server find it."""
    return {PIPE: str(folder / "pipe"), LOG: str(folder / "log")}


def limits(device_uuid: str, memory_bytes: int, milli: int) -> dict[str, str]:
    """What holds a client to so many thousandths of a device, the only one that it sees.

    Its memory in whole MiB and its multiprocessors in whole percent, never more than was granted, except that
    1 % is the least there is.
    """
    return {
        VISIBLE: device_uuid,
        THREADS: str(max(milli // 10, 1)),
        MEMORY: f"0={max(memory_bytes * milli // 1000 >> 20, 1)}M",
    }


def processes(folder: Path) -> list[int]:
    """The control process of the server in `folder`, the oldest first, and its servers."""
    mark = f"{PIPE}={folder / 'pipe'}".encode()
    ours: dict[int, int] = {}
    others: dict[int, tuple[int, int]] = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            with open(f"/proc/{entry.name}/comm") as file:
                if file.read().strip() != _COMM:
                    continue
            parent, started = _origin(int(entry.name))
            with open(f"/proc/{entry.name}/environ", "rb") as file:
                marked = mark in file.read().split(b"\0")
        except OSError:
            continue
        if marked and started:
            ours[int(entry.name)] = started
        elif started:
            others[int(entry.name)] = (parent, started)
    # A server may be given an environment without the mark; then its parent tells whose it is.
    ours.update({pid: started for pid, (parent, started) in others.items() if parent in ours})
    return sorted(ours, key=lambda pid: (ours[pid], pid))


def alive(pid: int, started: int) -> bool:
    """Whether this process still is the one that was started then (clock ticks since boot)."""
    return bool(started) and started_at(pid) == started


def started_at(pid: int) -> int:
    """When a process was started, in clock ticks since boot; 0: it is gone."""
    return _origin(pid)[1]


def _origin(pid: int) -> tuple[int, int]:
    """Its parent, and when it was started; 0: it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0, 0
    return int(fields[1]), 0 if fields[0] in "ZX" else int(fields[19])


def _become(owner: Owner) -> list[str]:
    if owner.uid is None:
        return []
    return [sys.executable, "-I", "-S", become.__file__, str(owner.uid), str(owner.gid or owner.uid)]
