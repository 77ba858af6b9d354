"""What stands behind the machines of provider `local`: an agent each, as a process of its own.

Why     a machine must outlive the daemon that rented it, and end with all that runs on it. So its agent has a
        session and a state directory of its own, is found again by that directory, and is ended as a machine
        that is switched off: first the agent, then whatever it had started.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from bursar.clock import SECOND_US
from bursar.local import processes
from bursar.local.child import child_env
from bursar.local.files import write_json
from bursar.local.processes import Process
from bursar.resources import MILLI
from bursard.machines.local import Handle
from bursard.machines.localfile import LocalType
from bursard.machines.provider import Join, Place

END_S: Final = 5.0
TERMINATE_S: Final = 20.0
TOKEN: Final = "join-token"
LOG: Final = "agent.log"
NOTICE: Final = "notice.json"


class AgentProcesses:
    """See `local.Runs`. `folder`: of the state directories of their agents, one for each machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, provider_id: str, join: Join, place: Place, kind: LocalType) -> Handle:
        """Start its agent. One that a daemon started which died at once is taken over."""
        directory = self._folder / provider_id
        running = processes.running_with(directory)
        if running is not None:
            return Handle(*running)
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        token = directory / TOKEN
        token.touch(mode=0o600)
        token.write_text(join.token + "\n")
        with (directory / LOG).open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "bursar_agent", *_options(directory, join, place, kind)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=directory,
                env=child_env(),
                start_new_session=True,
            )
        self._children.append(child)
        found = processes.noted(child.pid) or Process(child.pid, 0)
        return Handle(*found)

    def notify(self, provider_id: str, said: str, left_us: int) -> None:
        """Its agent looks at this file."""
        write_json(self._folder / provider_id / NOTICE, {"said": said, "left_s": left_us / SECOND_US})

    def end(self, provider_id: str, handle: Handle | None) -> None:
        """The agent, also one whose start was never noted, then its jobs; its directory last.

        Raises `OSError` when something does not end.
        """
        directory = self._folder / provider_id
        noted = Process(handle.pid, handle.start) if handle is not None else None
        if noted is not None and directory.exists() and not processes.works_in(noted.pid, directory):
            noted = None  # these books are a copy, and it is the original's
        running = noted or processes.running_with(directory)
        processes.end_all([running], END_S)
        if not directory.exists():
            return
        command = [
            sys.executable,
            "-P",
            "-m",
            "bursar_agent",
            "--state-dir",
            str(directory),
            "--terminate-all",
        ]
        try:
            ended = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=child_env(),
                timeout=TERMINATE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise OSError(f"what runs on {provider_id} does not end") from None
        if ended.returncode:
            raise OSError(f"what runs on {provider_id} does not end (exit code {ended.returncode})")
        shutil.rmtree(directory, ignore_errors=True)

    def alive(self, handle: Handle) -> bool:
        """Does its agent run?"""
        self._children = [child for child in self._children if child.poll() is None]
        return processes.alive(Process(handle.pid, handle.start))


def _options(directory: Path, join: Join, place: Place, kind: LocalType) -> list[str]:
    options = {
        "server": join.server,
        "token-file": str(directory / TOKEN),
        "notice-file": str(directory / NOTICE),
        "name": join.name,
        "pool": join.pool,
        "state-dir": str(directory),
        "cpus": f"{kind.cpu_milli // MILLI}.{kind.cpu_milli % MILLI:03d}",
        "memory-bytes": str(kind.memory_bytes),
        "provider": "local",
        "region": place.region,
        "zone": place.zone,
        "instance-type": place.instance_type,
        "market": place.market,
    }
    if kind.gpu_count:
        options["simulate-gpus"] = f"{kind.gpu_type}:{kind.gpu_count}"
    return [word for name, value in options.items() for word in (f"--{name}", value)]
