"""What a second of profiling costs a node with eight devices and eight jobs, and how much it sends.

Run     python bench/profiling.py
Prints  CPU of the agent at one reading a second, as a part of a core, bytes a second, and the goals.
Why     a job must not pay for being looked at. The devices are recorded ones whose questions burn as much
        CPU as they did on a real device (docs/metering.md); the processes are real.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import time

from bursar.clock import SystemClock, VirtualClock
from bursar_agent.link import wire
from bursar_agent.probes import recorded
from bursar_agent.probes.devicemeter import DeviceMeter
from bursar_agent.probes.energy import Share
from bursar_agent.probes.nvml import NvmlGpus
from bursar_agent.probes.sampler import Sampler

DEVICES = 8
SECONDS = 60
GOAL_PERCENT, GOAL_BYTES = 1.0, 2000


def spend(us: int) -> None:
    """Burn so much CPU."""
    end = time.process_time() + us / 1e6
    while time.process_time() < end:
        pass


def supervised() -> tuple[subprocess.Popen[str], int]:
    """A process below one of its own, as a job's is below its supervisor: that is the tree which is read."""
    shell = subprocess.Popen(
        ["/bin/sh", "-c", "sleep 600 >/dev/null & echo $!; wait"], stdout=subprocess.PIPE, text=True
    )
    assert shell.stdout is not None
    return shell, int(shell.stdout.readline())


def measure(label: str, shares: list[tuple[Share, ...]]) -> None:
    """One member for each of `shares`, each with a process of its own."""
    supervisors = [supervised() for _ in shares]
    pids = [pid for _, pid in supervisors]
    try:
        nvml = recorded.RecordedNvml(DEVICES, spend)
        clock = VirtualClock()
        meter = DeviceMeter(NvmlGpus(lambda: nvml), clock.boot_us)
        sampler = Sampler(SystemClock())
        live = [((f"att_{place:026d}", 0), pid) for place, pid in enumerate(pids)]
        for (key, pid), held in zip(live, shares, strict=True):
            meter.energy.begin(key, held, clock.boot_us())
            for index, _ in held:
                nvml.devices[index].load = recorded.SHARED
                nvml.devices[index].processes[pid] = 4 << 30
                nvml.devices[index].sm[pid] = 50
        costs, sizes = [], []
        for _ in range(SECONDS):
            clock.advance(1_000_000)
            nvml.advance(1_000_000)
            began = time.process_time()
            reading, trees = sampler.sample(live)
            reading, _ = meter.read(reading, trees)
            batch = wire.telemetry("cluster", "node", (reading,)).SerializeToString()
            costs.append(time.process_time() - began)
            sizes.append(len(batch))
    finally:
        for supervisor, pid in supervisors:
            os.kill(pid, signal.SIGKILL)
            supervisor.wait()
    percent, size = 100 * statistics.mean(costs), statistics.mean(sizes)
    print(
        f"profiling  {label}: {percent:.2f} % of a core (goal {GOAL_PERCENT} %), most in one second"
        f" {1000 * max(costs):.0f} ms; {size:.0f} bytes/s (goal {GOAL_BYTES})"
    )


def main() -> None:
    measure(
        f"{DEVICES} devices, {DEVICES} jobs, a device each", [((index, 1000),) for index in range(DEVICES)]
    )
    halves = [((index // 2, 500),) for index in range(2 * DEVICES)]
    measure(f"{DEVICES} devices, {len(halves)} jobs, half a device each", halves)


if __name__ == "__main__":
    main()
