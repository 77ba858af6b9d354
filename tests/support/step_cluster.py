"""A cluster whose nodes have 4 CPUs each, for jobs that start steps.

Why     `bursar up` divides the machine among its agents; a step wants several tasks on a node anyway.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from cluster import BIN, Cluster, until


class StepCluster(Cluster):
    """Nodes `n1`, `n2`, … beside the one of `bursar up`, which takes no work."""

    def __init__(self, nodes: int) -> None:
        super().__init__(1)
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self._agents: dict[str, subprocess.Popen[bytes]] = {}

    def up(self) -> None:
        super().up()
        self.ready()
        self.run("node", "cordon", "local-1")
        for name in self.nodes:
            self.start_agent(name)
        self.wait_up()

    def start_agent(self, name: str) -> None:
        """One more agent, or a killed one again."""
        command = [BIN / "bursar-agent", "--server", self.server, "--name", name, "--cpus", "4"]
        command += ["--simulate-gpus", "H100:4"]
        with (self.home / f"{name}.log").open("ab") as log:
            self._agents[name] = subprocess.Popen(
                [*command, "--state-dir", self.state / name], stderr=log, env=self.env, cwd="/"
            )

    def kill_agent(self, name: str) -> None:
        agent = self._agents.pop(name)
        agent.send_signal(signal.SIGKILL)
        agent.wait()

    def wait_up(self) -> None:
        def probe() -> bool:
            nodes = self.looks(lambda client: list(client.nodes())) or []
            return sum(node.state == "up" for node in nodes) >= len(self.nodes)

        until(probe, "every node is up")

    def remove(self) -> list[int]:
        for name in list(self._agents):
            self.kill_agent(name)
        self.kill("runner.launcher")  # it outlives its agent, as do the jobs that it starts
        return super().remove()

    # -- scripts

    def script(self, body: str, *lines: str) -> str:
        """`bursar submit` of a script with `#SBATCH` lines; the id of the job."""
        head = "".join(f"#SBATCH {line}\n" for line in ("--time=5", *lines))
        return self.submit(f"#!/bin/bash\n{head}{body}\n")

    def output(self, body: str, *lines: str, code: int = 0) -> list[str]:
        """What a script printed, which ended with this exit code."""
        job = self.script(body, *lines)
        ended = self.ended(job)
        said = self.log(job)
        assert ended["exit_code"] == code, (ended["state"], ended["exit_code"], said)
        return said.splitlines()

    def appears(self, name: str) -> str:
        """The text of a file in the working directory, once a task has written it."""
        path = self.work / name
        return until(lambda: path.is_file() and path.read_text().strip(), f"{name} is written")

    def gone(self, *pids: str) -> None:
        """Wait until these processes are no more."""
        until(lambda: not any(_lives(pid) for pid in pids), f"{pids} are gone")


def two_nodes() -> Iterator[StepCluster]:
    """For a fixture: up, then content with what the tests made of it, and nothing of it is left."""
    found = StepCluster(2)
    try:
        found.up()
        yield found
        found.doctor_is_content()
    finally:
        left = found.remove()
    assert not left


def _lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def kill(pid: str) -> None:
    os.kill(int(pid), signal.SIGKILL)
