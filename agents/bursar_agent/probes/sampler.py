"""All probes of one node but its devices, read together.

Owns    one `Reading` from them, and the CPU counters for metering. Runs in the probe thread.
Why     telemetry is cheap and lossy, metering is neither; both look at the same trees only once here. Devices
        have a thread of their own (`bursar_agent.devices`): a driver that hangs must not stop the metering.
"""

from __future__ import annotations

from collections.abc import Sequence

from bursar.clock import Clock
from bursar_agent.probes.machine import MachineLoad
from bursar_agent.probes.process import ProcessTrees, TreeReading
from bursar_agent.probes.rapl import RaplPower
from bursar_agent.probes.readings import AttemptReading, Reading
from bursar_agent.stimuli import Key, Live


class Sampler:
    """Reads everything at once. Not for two threads at a time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._load = MachineLoad()
        self._power = RaplPower(clock)
        self._trees = ProcessTrees()
        self._last: dict[Key, tuple[int, int]] = {}  # boot time, cumulative CPU

    def sample(self, live: Sequence[Live]) -> tuple[Reading, dict[Key, TreeReading]]:
        """One reading of node and `live` members, and the processes of each of them."""
        at = self._clock.now()
        cpu, memory = self._load.read()
        attempts, trees = self._attempts(live)
        reading = Reading(
            at=at,
            cpu_utilization_ratio=cpu,
            memory_used_bytes=memory,
            power_watts=self._power.watts(),
            attempts=attempts,
        )
        return reading, trees

    def cpu_us(self, live: Sequence[Live]) -> tuple[int, dict[Key, int]]:
        """The instant of boot time, and the cumulative CPU time of each member that can be read."""
        readings = ((key, self._trees.read(pid, before_us)) for key, pid, before_us in live)
        found = {key: reading.cpu_us for key, reading in readings if reading is not None}
        return self._clock.boot_us(), found

    def _attempts(self, live: Sequence[Live]) -> tuple[tuple[AttemptReading, ...], dict[Key, TreeReading]]:
        self._trees.keep({member.pid for member in live})
        readings = []
        trees: dict[Key, TreeReading] = {}
        last: dict[Key, tuple[int, int]] = {}
        for key, pid, before_us in live:
            tree = self._trees.read(pid, before_us)
            if tree is None:
                continue
            trees[key] = tree
            now = self._clock.boot_us()
            before_at, before_cpu = self._last.get(key, (now, tree.cpu_us))
            span_us = now - before_at
            last[key] = (now, tree.cpu_us)
            readings.append(
                AttemptReading(
                    attempt_id=key[0],
                    rank=key[1],
                    cpu_utilization_ratio=max(tree.cpu_us - before_cpu, 0) / span_us if span_us else 0.0,
                    memory_used_bytes=tree.memory_bytes,
                    processes=tree.processes,
                )
            )
        self._last = last
        return tuple(readings), trees
