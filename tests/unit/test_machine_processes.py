"""Processes behind the machines of provider `local`: what their agents are told, and how they end."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bursar.local.processes import Process
from bursar_agent.settings import load
from bursard.machines import processes
from bursard.machines.local import Handle
from bursard.machines.localfile import LocalType, parse_cloud
from bursard.machines.processes import AgentProcesses
from bursard.machines.provider import Join, Place

CLOUD = """\
regions: {home: [home-a]}
types:
  gpu.small: {cpus: 4.5, memory: 8GiB, gpus: "L4:2", prices: {spot: 0.40 USD/h}}
  cpu.small: {cpus: 4, memory: 1GiB, prices: {on-demand: 0.40 USD/h}}
"""
JOIN = Join(server="unix:///s", name="rented-1", pool="rented", token="node_secret")
AGENT = (sys.executable, "-P", "-m", "bursar_agent")


class Started(NamedTuple):
    words: tuple[str, ...]
    how: dict[str, Any]


class Child:
    """A child that runs until `over`."""

    def __init__(self, pid: int) -> None:
        self.pid, self.over, self.reaped = pid, False, 0

    def poll(self) -> int | None:
        self.reaped += self.over
        return 0 if self.over else None


class Machine:
    """Processes as numbers: 100 and on, each with start time 7; `running`: agents by state directory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[Started] = []
        self.children: list[Child] = []
        self.running: dict[Path, Process] = {}
        self.ended: list[Process] = []
        self.asked: list[Started] = []
        self.exit_code = 0
        self.late = False
        monkeypatch.setattr(subprocess, "Popen", self._popen)
        monkeypatch.setattr(subprocess, "run", self._run)
        monkeypatch.setattr(processes.processes, "running_with", self.running.get)
        self.elsewhere: set[int] = set()
        monkeypatch.setattr(processes.processes, "works_in", lambda pid, _: pid not in self.elsewhere)
        monkeypatch.setattr(processes.processes, "noted", lambda pid: Process(pid, 7))
        monkeypatch.setattr(processes.processes, "alive", lambda one: one in self.running.values())
        monkeypatch.setattr(
            processes.processes, "end_all", lambda all_of, _: self.ended.extend(filter(None, all_of))
        )

    def _popen(self, words: list[str], **how: Any) -> Child:
        self.started.append(Started(tuple(words), how))
        self.children.append(Child(100 + len(self.children)))
        return self.children[-1]

    def _run(self, words: list[str], *, timeout: float, check: bool, **how: Any) -> Any:
        self.asked.append(Started(tuple(words), how))
        if self.late:
            raise subprocess.TimeoutExpired(words, timeout)
        return subprocess.CompletedProcess(words, self.exit_code)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def kind_of(place: Place) -> LocalType:
    return next(
        kind for _, kind, _ in parse_cloud(CLOUD, "cloud.yaml").places() if kind.name == place.instance_type
    )


@pytest.mark.parametrize(
    ("place", "cpu_milli", "memory_bytes", "gpus"),
    [
        (Place("home", "home-a", "gpu", "gpu.small", "spot"), 4_500, 8 << 30, "L4:2"),
        (Place("home", "home-a", "cpu", "cpu.small", "on-demand"), 4_000, 1 << 30, ""),
    ],
)
def test_an_agent_is_told_what_its_machine_is_and_reads_its_token_from_a_file_of_its_own(
    machine: Machine, tmp_path: Path, place: Place, cpu_milli: int, memory_bytes: int, gpus: str
) -> None:
    agents = AgentProcesses(tmp_path / "agents")
    assert agents.start("local-000001", JOIN, place, kind_of(place)) == Handle(100, 7)
    (started,) = machine.started
    assert started.words[:4] == AGENT
    told = load(started.words[4:], {}).settings
    directory = tmp_path / "agents/local-000001"
    assert (told.server, told.name, told.pool) == ("unix:///s", "rented-1", "rented")
    assert (told.cpu_milli, told.memory_limit, told.simulate_gpus) == (cpu_milli, memory_bytes, gpus)
    assert (told.provider, told.region, told.zone) == ("local", "home", "home-a")
    assert (told.instance_type, told.market, told.state_dir) == (place.instance_type, place.market, directory)
    assert told.token_file.read_text() == "node_secret\n"
    assert stat.S_IMODE(told.token_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o711
    assert "node_secret" not in str(started.words)


def test_an_agent_outlives_its_daemon_and_writes_its_log_beside_its_state(
    machine: Machine, tmp_path: Path
) -> None:
    place = Place("home", "home-a", "cpu", "cpu.small", "on-demand")
    (tmp_path / "local-000001").mkdir()
    (tmp_path / "local-000001/agent.log").write_text("before\n")
    AgentProcesses(tmp_path).start("local-000001", JOIN, place, kind_of(place))
    how = machine.started[0].how
    assert how["start_new_session"] is True
    assert how["stdin"] == subprocess.DEVNULL
    assert how["stdout"].name == how["stderr"].name == str(tmp_path / "local-000001/agent.log")
    assert (tmp_path / "local-000001/agent.log").read_text() == "before\n", "what an earlier one said stays"


def test_an_agent_that_runs_already_is_taken_over_and_not_started_twice(
    machine: Machine, tmp_path: Path
) -> None:
    machine.running[tmp_path / "local-000001"] = Process(55, 3)
    place = Place("home", "home-a", "cpu", "cpu.small", "on-demand")
    assert AgentProcesses(tmp_path).start("local-000001", JOIN, place, kind_of(place)) == Handle(55, 3)
    assert machine.started == []
    assert list(tmp_path.iterdir()) == []


def test_an_agent_is_alive_by_its_pid_and_start_and_the_dead_are_reaped(
    machine: Machine, tmp_path: Path
) -> None:
    place = Place("home", "home-a", "cpu", "cpu.small", "on-demand")
    agents = AgentProcesses(tmp_path)
    first, second = (agents.start(f"local-{number}", JOIN, place, kind_of(place)) for number in (1, 2))
    machine.running[tmp_path / "local-1"] = Process(100, 7)
    assert agents.alive(first)
    assert not agents.alive(second)
    assert not agents.alive(Handle(100, 8)), "another process that got its number"
    machine.children[0].over = True
    for _ in range(2):
        agents.alive(first)
    assert [child.reaped for child in machine.children] == [1, 0]


def test_a_machine_ends_with_its_agent_then_its_jobs_then_its_directory(
    machine: Machine, tmp_path: Path
) -> None:
    directory = tmp_path / "local-1"
    directory.mkdir()
    (directory / "agent.log").write_text("x")
    AgentProcesses(tmp_path).end("local-1", Handle(100, 7))
    assert machine.ended == [Process(100, 7)]
    assert [one.words for one in machine.asked] == [
        (*AGENT, "--state-dir", str(directory), "--terminate-all")
    ]
    assert load(machine.asked[0].words[4:], {}).terminate_all
    assert not directory.exists()


def test_the_agent_of_the_original_is_not_ended_by_a_copy_of_its_books(
    machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "local-1").mkdir()
    machine.elsewhere.add(100)
    AgentProcesses(tmp_path).end("local-1", Handle(100, 7))
    assert machine.ended == []


def test_a_machine_that_never_had_a_process_has_none_to_end(machine: Machine, tmp_path: Path) -> None:
    AgentProcesses(tmp_path).end("local-1", None)
    assert (machine.ended, machine.asked) == ([], [])
    (tmp_path / "local-1").mkdir()
    AgentProcesses(tmp_path).end("local-1", None)
    assert (machine.ended, len(machine.asked)) == ([], 1)


def test_an_agent_whose_daemon_died_before_it_noted_it_is_ended_all_the_same(
    machine: Machine, tmp_path: Path
) -> None:
    machine.running[tmp_path / "local-1"] = Process(55, 3)
    AgentProcesses(tmp_path).end("local-1", None)
    assert machine.ended == [Process(55, 3)]


@pytest.mark.parametrize(
    ("exit_code", "late", "said"),
    [
        (3, False, "what runs on local-1 does not end (exit code 3)"),
        (0, True, "what runs on local-1 does not end"),
    ],
)
def test_what_does_not_end_is_said_and_its_directory_is_kept_for_the_next_try(
    machine: Machine, tmp_path: Path, exit_code: int, late: bool, said: str
) -> None:
    machine.exit_code, machine.late = exit_code, late
    (tmp_path / "local-1").mkdir()
    with pytest.raises(OSError) as caught:
        AgentProcesses(tmp_path).end("local-1", None)
    assert str(caught.value) == said
    assert (tmp_path / "local-1").exists()
