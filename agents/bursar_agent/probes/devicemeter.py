"""Everything that is asked of devices, at the pace that each question can bear.

Owns    one second's readings of all devices and of the members on them, the looks every ten seconds, and
        the summaries over them. Blocking; one thread.
Why     a counter of energy costs four milliseconds and a profile one, so at eight devices they must not be
        asked each second; what is asked rarely is shown until it is asked again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from bursar_agent.probes.energy import EnergyMeter
from bursar_agent.probes.process import TreeReading
from bursar_agent.probes.readings import (
    Activity,
    AttemptReading,
    GpuProbe,
    GpuReading,
    Health,
    Reading,
    Summary,
    stat,
)
from bursar_agent.probes.use import Seen, UseMeter
from bursar_agent.stimuli import Key

LOOK_US = 10_000_000
"""Between two looks: energy, activity, faults, summaries."""

_EARLY_US = 500_000
"""A look that would be due before the next second's reading comes now."""

_SUMMARISED = (
    "utilization_ratio",
    "memory_used_bytes",
    "power_watts",
    "temperature_celsius",
    "sm_clock_mhz",
)


class DeviceMeter:
    """All devices of a node."""

    def __init__(
        self,
        probe: GpuProbe,
        boot_us: Callable[[], int],
        served: Callable[[Key], bool] = lambda _: False,
    ) -> None:
        """`served`: as in `EnergyMeter`."""
        self._probe = probe
        self._boot_us = boot_us
        self._served = served
        self._devices = probe.devices()
        self.energy = EnergyMeter(probe, self._devices, served)
        self._looked_us = boot_us()
        self._looks: Mapping[int, tuple[Activity, Health]] = probe.look()
        self._window: dict[int, list[GpuReading]] = defaultdict(list)
        self._asked = -1
        self._workers: dict[int, dict[Key, float] | None] = {}
        self.use = UseMeter()

    def read(self, reading: Reading, trees: Mapping[Key, TreeReading]) -> tuple[Reading, bool]:
        """The reading with its devices, and with what its members do there; whether this was a look.

        Args:
            trees: of the members that `reading` has.
        """
        for key, tree in trees.items():
            if self.energy.shares(key):
                self.energy.bind(tree.pids, key)
        gpus = self._probe.read(reading.at, self._loads(reading.attempts))
        for gpu in gpus:
            self._window[gpu.index].append(gpu)
            self.energy.saw(gpu.index, gpu.power_watts, gpu.utilization_ratio)
        held = sorted({index for key in self.energy.members() for index, _ in self.energy.shares(key)})
        self._ask_who_works(held)
        memory = {index: self._probe.process_memory(index) for index in held}
        now_us = self._boot_us()
        summaries: dict[int, Summary] = {}
        look = now_us - self._looked_us >= LOOK_US - _EARLY_US
        if look:
            summaries = self._look(now_us, held, memory)
        return msgspec.structs.replace(
            reading,
            gpus=tuple(self._with_look(gpu, summaries.get(gpu.index)) for gpu in gpus),
            attempts=tuple(self._member(one, memory) for one in reading.attempts),
        ), look

    def _ask_who_works(self, held: Sequence[int]) -> None:
        """Of one shared device, each in turn, for it costs 3 ms. Who holds one alone does all its work."""
        shared = [index for index in held if len(self.energy.holders(index)) > 1]
        if shared:
            index = next((each for each in shared if each > self._asked), shared[0])
            self._asked, self._workers[index] = index, self.energy.weigh(index)
        for index in self._workers.keys() - set(shared):
            del self._workers[index]

    def _look(
        self, now_us: int, held: Sequence[int], memory: Mapping[int, Mapping[int, int | None] | None]
    ) -> dict[int, Summary]:
        self._looks = self._probe.look()
        self.energy.settle(now_us, held)
        window_us, self._looked_us = now_us - self._looked_us, now_us
        members = self.energy.members()
        seen = {
            key: [self._seen(key, index, memory) for index, _ in self.energy.shares(key)] for key in members
        }
        self.use.look(now_us, window_us, seen, {key: self._bytes_on_all(key, memory) for key in members})
        found = {index: _summary(window_us, readings) for index, readings in self._window.items()}
        self._window.clear()
        return found

    def _seen(self, key: Key, index: int, memory: Mapping[int, Mapping[int, int | None] | None]) -> Seen:
        processes = memory.get(index)
        activity, health = self._looks.get(index, (None, None))
        # Behind a server its processes are the server's, and whether one is there is not known.
        told = processes is not None and not self._served(key)
        return Seen(
            index,
            self._window.get(index, ()),
            activity,
            health,
            len(self.energy.holders(index)) == 1,
            self._work_of(key, index),
            any(self.energy.owner(pid) == key for pid in processes or ()) if told else None,
        )

    def _bytes_on_all(self, key: Key, memory: Mapping[int, Mapping[int, int | None] | None]) -> int | None:
        sizes = [self._bytes_of(key, memory.get(index)) for index, _ in self.energy.shares(key)]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def _with_look(self, gpu: GpuReading, summary: Summary | None) -> GpuReading:
        activity, health = self._looks.get(gpu.index, (None, None))
        return msgspec.structs.replace(gpu, activity=activity, health=health, summary=summary)

    def _loads(self, attempts: Sequence[AttemptReading]) -> dict[int, float]:
        """How busy the CPUs of each device's holders are: one core for each device is all of it."""
        loads: dict[int, float] = {}
        cpus = {(one.attempt_id, one.rank): one.cpu_utilization_ratio for one in attempts}
        for key in self.energy.members():
            shares = self.energy.shares(key)
            for index, _ in shares:
                loads[index] = loads.get(index, 0.0) + cpus.get(key, 0.0) / len(shares)
        return {index: min(load, 1.0) for index, load in loads.items()}

    def _member(
        self,
        one: AttemptReading,
        memory: Mapping[int, Mapping[int, int | None] | None],
    ) -> AttemptReading:
        key = (one.attempt_id, one.rank)
        indexes = [index for index, _ in self.energy.shares(key)]
        energy = self.energy.so_far(key)
        if energy is None:
            return one
        told = [ratio for index in indexes if (ratio := self._work_of(key, index)) is not None]
        whole = self._bytes_on_all(key, memory)
        return msgspec.structs.replace(
            one,
            gpu_memory_used_bytes=whole,
            gpu_sm_ratio=min(sum(told) / len(told), 1.0) if len(told) == len(indexes) else None,
            gpu_energy_millijoules=energy.millijoules,
            gpu_energy_source=energy.source,
        )

    def _work_of(self, key: Key, index: int) -> float | None:
        """Its share of a device's multiprocessors; what the device itself says where nobody else holds it."""
        if index in self._workers:
            workers = self._workers[index]
            return None if workers is None else workers.get(key, 0.0)
        if len(self.energy.holders(index)) > 1:
            return None
        return self._looks[index][0].sm_ratio if index in self._looks else None

    def _bytes_of(self, key: Key, processes: Mapping[int, int | None] | None) -> int | None:
        if processes is None:
            return None
        own = [size for pid, size in processes.items() if self.energy.owner(pid) == key]
        return None if None in own else sum(size or 0 for size in own)


def _summary(window_us: int, readings: Sequence[GpuReading]) -> Summary:
    figures: dict[str, Any] = {}
    for name in _SUMMARISED:
        values = (getattr(reading, name) for reading in readings)
        figures[name] = stat([float(value) for value in values if value is not None])
    return Summary(window_us=window_us, **figures)
