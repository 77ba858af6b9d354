"""A stand-in for `nvidia-cuda-mps-control`, with its grammar and without a device: for tests and benches.

Run     nvidia-cuda-mps-control -d | nvidia-cuda-mps-control (commands on standard input)
Owns    the commands that NVIDIA's documentation names, answers included; `install` writes it into a folder.
Why     what is spoken to must be a program: how it daemonises, what it leaves open and how it dies matter.

`refuse` in MPS_DOUBLE: it does not start. `mute`: it starts and answers nothing. A file `fault` in the folder
of pipes: its servers are in the state FAULT.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

SWITCH = "MPS_DOUBLE"


def install(folder: Path) -> Path:
    """The program, in this folder."""
    path = folder / "nvidia-cuda-mps-control"
    body = Path(__file__).read_text()
    # Of the system where there is one: other users may not reach the one that runs this.
    system = "/usr/bin/python3"
    python = system if os.access(system, os.X_OK) else os.path.realpath(sys.executable)
    path.write_text(f"#!{python} -IS\n{body}")
    path.chmod(0o755)
    return path


class Daemon:
    """The control process: its servers are processes that sleep."""

    def __init__(self, pipe: Path) -> None:
        self._pipe = pipe
        self._servers: list[int] = []
        self._threads = "100.0"
        self._memory: dict[str, str] = {}

    def serve(self, listening: socket.socket) -> None:
        """Until it is told to quit."""
        while True:
            asked, _ = listening.accept()
            with asked:
                line = asked.recv(4096).decode().strip()
                if os.environ.get(SWITCH) == "mute":
                    time.sleep(60)
                answer, ends = self.answer(line.split())
                asked.sendall(answer.encode())
            if ends:
                return

    def answer(self, words: list[str]) -> tuple[str, bool]:
        """To one command, and whether it was the last."""
        match words:
            case ["get_server_list"]:
                return "".join(f"{pid}\n" for pid in self._servers), False
            case ["get_server_status", pid] if int(pid) in self._servers:
                return ("FAULT\n" if (self._pipe / "fault").exists() else "ACTIVE\n"), False
            case ["get_client_list", _]:
                return "", False
            case ["start_server", "-uid", _]:
                self._servers.append(self._server())
                return "", False
            case ["set_default_active_thread_percentage", percent]:
                self._threads = f"{float(percent):.1f}"
                return f"{self._threads}\n", False
            case ["get_default_active_thread_percentage"]:
                return f"{self._threads}\n", False
            case ["set_default_device_pinned_mem_limit", device, size]:
                self._memory[device] = size
                return "", False
            case ["get_default_device_pinned_mem_limit", device]:
                return f"{self._memory.get(device, 'Default')}\n", False
            case ["shutdown_server", pid, *_] if int(pid) in self._servers:
                self._end(int(pid))
                return "", False
            case ["quit"] | ["quit", "-t", _]:
                for server in list(self._servers):
                    self._end(server)
                return "", True
        return f"Unknown command: {' '.join(words)}\n", False

    def _server(self) -> int:
        pid = os.fork()
        if pid == 0:
            os.closerange(3, 256)
            while True:
                time.sleep(60)
        return pid

    def _end(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self._servers.remove(pid)


def _daemonise(pipe: Path) -> int:
    if os.environ.get(SWITCH) == "refuse":
        sys.stdout.write("Failed to start: no device can be used\n")
        return 1
    listening = socket.socket(socket.AF_UNIX)
    try:
        listening.bind(str(pipe / "control"))
    except OSError:
        sys.stdout.write("An instance of this daemon is already running\n")
        return 1
    listening.listen()
    if os.fork():
        return 0
    os.setsid()
    (pipe / "nvidia-cuda-mps-control.pid").write_text(f"{os.getpid()}\n")
    Daemon(pipe).serve(listening)
    for name in ("control", "nvidia-cuda-mps-control.pid"):
        (pipe / name).unlink(missing_ok=True)
    return 0


def main() -> int:
    """As the program it stands for."""
    pipe = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))
    if sys.argv[1:] == ["-d"]:
        return _daemonise(pipe)
    for line in sys.stdin:
        with socket.socket(socket.AF_UNIX) as asking:
            try:
                asking.connect(str(pipe / "control"))
            except OSError:
                sys.stdout.write("Cannot find MPS control daemon process\n")
                return 1
            asking.sendall(line.encode())
            sys.stdout.write(asking.makefile().read())
    return 0


if __name__ == "__main__":
    sys.exit(main())
