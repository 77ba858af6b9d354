"""Probes: what is really there, read from files that a test can bring itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bursar.clock import VirtualClock
from bursar_agent.probes import machine, process
from bursar_agent.probes.nvml import canonical_type
from bursar_agent.probes.process import ProcessTrees
from bursar_agent.probes.rapl import RaplPower
from bursar_agent.probes.sampler import Sampler
from bursar_agent.stimuli import Live


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_quota_of_an_outer_cgroup_limits_cpus(tmp_path: Path) -> None:
    proc = tree(tmp_path / "proc", {"self/cgroup": "0::/a/b\n"})
    group = tree(tmp_path / "cg", {"a/cpu.max": "50000 100000\n", "a/b/cpu.max": "max 100000\n"})
    assert machine.cpu_milli(proc, group) == 500


def test_cpus_without_quota_are_those_of_the_affinity(tmp_path: Path) -> None:
    proc = tree(tmp_path / "proc", {"self/cgroup": "0::/\n"})
    assert machine.cpu_milli(proc, tmp_path / "none") == len(os.sched_getaffinity(0)) * 1000


def test_old_cgroups_limit_cpus_and_memory_too(tmp_path: Path) -> None:
    proc = tree(
        tmp_path / "proc",
        {"self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/x\n", "meminfo": "MemTotal: 1000000 kB\n"},
    )
    group = tree(
        tmp_path / "cg",
        {
            "cpu/x/cpu.cfs_quota_us": "25000\n",
            "cpu/x/cpu.cfs_period_us": "100000\n",
            "memory/x/memory.limit_in_bytes": "4096\n",
        },
    )
    assert machine.cpu_milli(proc, group) == 250
    assert machine.memory_bytes(proc, group) == 4096


def test_memory_is_the_machines_when_no_cgroup_limits_it(tmp_path: Path) -> None:
    proc = tree(tmp_path / "proc", {"self/cgroup": "0::/a\n", "meminfo": "MemTotal: 10 kB\n"})
    group = tree(tmp_path / "cg", {"a/memory.max": "max\n"})
    assert machine.memory_bytes(proc, group) == 10240


def test_load_is_the_share_of_busy_time_since_the_last_reading(tmp_path: Path) -> None:
    meminfo = "MemTotal: 100 kB\nMemAvailable: 40 kB\n"
    proc = tree(tmp_path, {"stat": "cpu 10 0 10 80 0 0 0 0 0 0\n", "meminfo": meminfo})
    load = machine.MachineLoad(proc)
    tree(tmp_path, {"stat": "cpu 30 0 20 150 0 0 0 0 0 0\n"})
    ratio, used = load.read()
    assert ratio == pytest.approx(0.3)
    assert used == 60 * 1024


def test_rapl_watts_are_energy_over_boot_time_and_survive_the_wrap(tmp_path: Path) -> None:
    clock = VirtualClock()
    files = {"intel-rapl:0/energy_uj": "900", "intel-rapl:0/max_energy_range_uj": "1000000"}
    root = tree(tmp_path, {**files, "intel-rapl:0:0/energy_uj": "999999"})
    power = RaplPower(clock, root)
    tree(root, {"intel-rapl:0/energy_uj": "500900"})
    clock.advance(10_000)
    clock.step_wall(-(10**12))
    assert power.watts() == 50.0
    tree(root, {"intel-rapl:0/energy_uj": "900"})
    clock.advance(10_000)
    assert power.watts() == 50.0


def test_power_is_0_where_it_cannot_be_read(tmp_path: Path) -> None:
    assert RaplPower(VirtualClock(), tmp_path / "none").watts() == 0.0


def test_process_tree_of_a_dead_pid_reads_as_nothing() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    assert ProcessTrees().read(pid, 0) is None


class Processes:
    """/proc as a table: of each pid its parent, its start, its CPU ticks and its pages."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known: dict[int, tuple[int, int, int, int]] = {}
        monkeypatch.setattr(process, "_stat", self.stat)
        monkeypatch.setattr(process, "_children", self.children)

    def stat(self, pid: int) -> list[bytes] | None:
        if pid not in self.known:
            return None
        parent, start, ticks, pages = self.known[pid]
        fields = [b"0"] * 22
        fields[1], fields[19], fields[21] = (b"%d" % number for number in (parent, start, pages))
        fields[11:15] = [b"%d" % ticks] * 4
        return fields

    def children(self, pid: int) -> list[int]:
        return [child for child, (parent, *_) in self.known.items() if parent == pid]


def test_a_job_whose_main_process_has_ended_is_read_below_its_supervisor_until_that_is_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine, trees = Processes(monkeypatch), ProcessTrees()
    tick_us, page_bytes = 1_000_000 // os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    machine.known = {5: (1, 100, 3, 7), 10: (5, 101, 20, 2), 11: (10, 102, 300, 4)}
    reading = trees.read(10, 0)
    assert reading is not None
    assert (set(reading.pids), reading.processes) == ({10, 11}, 2)
    assert reading.cpu_us == (2 * 3 + 4 * 20 + 4 * 300) * tick_us, "of the supervisor what it has waited for"
    assert reading.memory_bytes == 6 * page_bytes
    machine.known = {5: (1, 100, 3, 7), 11: (5, 102, 300, 4)}
    reading = trees.read(10, 0)
    assert reading is not None
    assert reading.pids == (11,)
    trees.keep({10})
    assert trees.read(10, 0) is not None
    machine.known = {5: (1, 999, 3, 7), 10: (6, 101, 20, 2), 6: (1, 1, 1, 1)}
    assert trees.read(10, 0) is None, "5 is another process by now"
    trees.keep(set())
    reading = trees.read(10, 0)
    assert reading is not None
    assert reading.pids == (10,)
    machine.known = {10: (1, 101, 20, 2)}
    trees.keep(set())
    assert trees.read(10, 0) is None, "nobody watches over it"


@pytest.mark.parametrize(
    ("before_ticks", "of_the_supervisor"), [(0, 600), (599, 1), (600, 0), (601, 0), (None, 0)]
)
def test_what_a_supervisor_waited_for_before_the_attempt_is_not_the_jobs(
    monkeypatch: pytest.MonkeyPatch, before_ticks: int | None, of_the_supervisor: int
) -> None:
    """Where nobody knows what that was (an earlier version's supervisor) nothing of it is counted."""
    machine, sampler = Processes(monkeypatch), Sampler(VirtualClock())
    tick_us = 1_000_000 // os.sysconf("SC_CLK_TCK")
    machine.known = {5: (1, 100, 300, 7), 10: (5, 101, 2, 2), 11: (10, 102, 1, 4)}
    before_us = None if before_ticks is None else before_ticks * tick_us
    live = (Live(("att_a", 0), 10, before_us),)
    _, cpu_us = sampler.cpu_us(live)
    assert cpu_us == {("att_a", 0): (of_the_supervisor + 4 * 2 + 4 * 1) * tick_us}
    _, trees = sampler.sample(live)
    assert trees[("att_a", 0)].cpu_us == cpu_us[("att_a", 0)]


def test_process_tree_counts_everything_below_the_parent() -> None:
    """We are the main process here, whoever started pytest plays the supervisor."""
    reading = ProcessTrees().read(os.getpid(), 0)
    assert reading is not None
    assert reading.processes >= 1
    assert reading.memory_bytes > 1_000_000
    assert reading.cpu_us > 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("Tesla T4", "T4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("Quantum Thing", "QUANTUM-THING"),
        ("", "GPU"),
    ],
)
def test_marketing_names_become_canonical_types(name: str, kind: str) -> None:
    assert canonical_type(name) == kind


def test_sampler_reads_this_machine_and_a_live_member() -> None:
    clock = VirtualClock()
    sampler = Sampler(clock)
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    key = ("att_a", 0)
    try:
        reading, trees = sampler.sample((Live(key, pid, 0),))
        at, cpu = sampler.cpu_us((Live(key, pid, 0), Live(("att_gone", 0), 2**22 + 1, 0)))
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert reading.memory_used_bytes > 0
    assert [a.attempt_id for a in reading.attempts] == ["att_a"]
    assert reading.gpus == ()
    assert pid in trees[key].pids
    assert reading.attempts[0].processes == trees[key].processes == len(trees[key].pids)
    assert at == clock.boot_us()
    assert list(cpu) == [key]
