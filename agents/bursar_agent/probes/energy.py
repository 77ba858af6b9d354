"""Whose energy it was: the counters of devices, shared out among the members that hold them.

Owns    the energy of each member so far, and the last reading of each counter. Blocking; one thread.
Why     energy comes from the counter, never from adding up power, which lags by seconds. Processes that
        share a device are told apart by what they did there. Their price never is: what was granted
        decides that.

A counter is read when a member begins and ends and every ten seconds between, so between two readings the
holders of a device are always the same. Nobody's energy is what a device draws while nobody holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bursar.model import Device, Energy, EnergySource
from bursar_agent.probes.readings import GpuProbe
from bursar_agent.stimuli import Key

Share = tuple[int, int]
"""Index of a device, and thousandths of it."""

_IDLE_AND_FULL_WATTS = {
    "H200": (85, 700), "H100": (70, 700), "B200": (140, 1000), "A100": (55, 400), "A100-80GB": (60, 400),
    "A10": (20, 150), "A10G": (20, 300), "A30": (30, 165), "A40": (30, 300), "L4": (16, 72),
    "L40": (30, 300), "L40S": (35, 350), "T4": (10, 70), "V100": (40, 300), "P100": (30, 250),
}  # fmt: skip
_OTHERWISE_WATTS = (30, 300)


@dataclass(slots=True)
class _Holder:
    shares: tuple[Share, ...]
    millijoules: int = 0
    source: EnergySource = ""


@dataclass(slots=True)
class _Meter:
    """One device: its counter when it was read last, and what was seen since."""

    kind: str
    simulated: bool
    counter: int | None = None
    read_us: int = 0
    activity: dict[Key, float] = field(default_factory=dict)
    unbound: bool = False
    watts: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Held:
    """What an earlier agent knew of a member: its energy so far, and what the counters said then."""

    key: Key
    shares: tuple[Share, ...]
    energy: Energy
    counters: Mapping[int, int]


class EnergyMeter:
    """The energy of every member that holds devices."""

    def __init__(
        self,
        probe: GpuProbe,
        devices: Sequence[Device],
        served: Callable[[Key], bool] = lambda _: False,
    ) -> None:
        """`served`: whether a member uses its device through a server that works for several."""
        self._probe = probe
        self._served = served
        self._meters = {device.index: _Meter(device.type, device.simulated) for device in devices}
        self._holders: dict[Key, _Holder] = {}
        self._owners: dict[int, Key] = {}

    def begin(self, key: Key, shares: Sequence[Share], now_us: int) -> None:
        """A member holds these from now on."""
        held = self._known(shares)
        for index, _ in held:
            if self.holders(index):
                self.settle(now_us, (index,))
            else:
                self._read(index, now_us)
                self._forget_window(index)
        self._holders[key] = _Holder(held)

    def resume(self, held: Sequence[Held], now_us: int) -> None:
        """Members that an earlier agent metered go on from its last readings: nothing between is lost."""
        for one in held:
            self._holders[one.key] = _Holder(
                self._known(one.shares), one.energy.millijoules, one.energy.source
            )
            for index, _ in self._holders[one.key].shares:
                meter = self._meters[index]
                known = [meter.counter, one.counters.get(index)]
                meter.counter = max((each for each in known if each is not None), default=None)
                meter.read_us = now_us

    def end(self, key: Key, now_us: int) -> Energy | None:
        """What it used in all; None for one that holds no device."""
        holder = self._holders.get(key)
        if holder is None or not holder.shares:
            self._holders.pop(key, None)
            return None
        self.settle(now_us, [index for index, _ in holder.shares])
        del self._holders[key]
        self._owners = {pid: owner for pid, owner in self._owners.items() if owner != key}
        return Energy(millijoules=holder.millijoules, source=holder.source)

    def so_far(self, key: Key) -> Energy | None:
        """As of the last reading of its counters; None for one that holds no device."""
        holder = self._holders.get(key)
        if holder is None or not holder.shares:
            return None
        return Energy(millijoules=holder.millijoules, source=holder.source)

    def counters(self, key: Key) -> dict[int, int]:
        """What the counters of its devices said when they were read last."""
        shares = self._holders[key].shares
        found = {index: self._meters[index].counter for index, _ in shares}
        return {index: counter for index, counter in found.items() if counter is not None}

    def members(self) -> list[Key]:
        """Members that hold devices."""
        return [key for key, holder in self._holders.items() if holder.shares]

    def shares(self, key: Key) -> tuple[Share, ...]:
        """The devices of a member; none of one that is not known."""
        holder = self._holders.get(key)
        return holder.shares if holder is not None else ()

    def holders(self, index: int) -> dict[Key, int]:
        """Who holds a device, and how much of it."""
        return {
            key: sum(milli for at, milli in holder.shares if at == index)
            for key, holder in self._holders.items()
            if any(at == index for at, _ in holder.shares)
        }

    def bind(self, pids: Iterable[int], key: Key) -> None:
        """These processes are of this member, until it ends."""
        self._owners.update(dict.fromkeys(pids, key))

    def owner(self, pid: int) -> Key | None:
        """The member a process is of."""
        return self._owners.get(pid)

    def weigh(self, index: int) -> dict[Key, float] | None:
        """Ask what each process did on a device, and keep it for the next sharing out.

        Answers with the activity of each holder now; None where it cannot be told apart.
        """
        meter = self._meters[index]
        holders = self.holders(index)
        # All that works there is the server's: the question costs 3 ms and tells nothing.
        served = any(self._served(key) for key in holders)
        told = None if served else self._probe.process_activity(index)
        if told is None:
            meter.unbound = True
            return None
        now: dict[Key, float] = {}
        for pid, ratio in told.items():
            key = self._owners.get(pid)
            if key not in holders:
                # A process of nobody, or of a server that works for several: its work has no owner.
                meter.unbound = True
                continue
            now[key] = now.get(key, 0.0) + ratio
            meter.activity[key] = meter.activity.get(key, 0.0) + ratio
        return now

    def saw(self, index: int, power_watts: float | None, utilization_ratio: float | None) -> None:
        """A reading of a second, from which energy is modelled where there is no counter."""
        if self.holders(index):
            meter = self._meters[index]
            modelled = modelled_watts(meter.kind, utilization_ratio)
            meter.watts.append(modelled if power_watts is None else power_watts)

    def settle(self, now_us: int, indexes: Iterable[int]) -> None:
        """Read these counters, and share out what they counted since they were read last."""
        for index in indexes:
            holders = self.holders(index)
            if not holders:
                continue
            if len(holders) > 1:
                self.weigh(index)
            meter = self._meters[index]
            total, counted = self._read(index, now_us)
            told = None if meter.unbound else meter.activity
            parts, measured = split(total, holders, told)
            source = _source(counted and measured, meter.simulated)
            for key, millijoules in parts.items():
                holder = self._holders[key]
                holder.millijoules += millijoules
                holder.source = source if holder.source in ("", source) else "modelled"
            self._forget_window(index)

    def _known(self, shares: Sequence[Share]) -> tuple[Share, ...]:
        return tuple((index, milli) for index, milli in shares if index in self._meters)

    def _forget_window(self, index: int) -> None:
        meter = self._meters[index]
        meter.activity, meter.unbound, meter.watts = {}, False, []

    def _read(self, index: int, now_us: int) -> tuple[int, bool]:
        """Millijoules since the last reading, and whether the counter told them."""
        meter = self._meters[index]
        last, last_us = meter.counter, meter.read_us
        meter.counter, meter.read_us = self._probe.energy_millijoules(index), now_us
        # A counter that fell is of a driver that was loaded anew.
        if last is not None and meter.counter is not None and meter.counter >= last:
            return meter.counter - last, True
        watts = sum(meter.watts) / len(meter.watts) if meter.watts else modelled_watts(meter.kind, None)
        return round(watts * (now_us - last_us) / 1000), False


def split(
    total: int, grants: Mapping[Key, int], activity: Mapping[Key, float] | None
) -> tuple[dict[Key, int], bool]:
    """`total` in whole parts that sum to it, and whether they follow what was measured.

    By activity; where that is not known (None), or nobody did anything, by what each was granted.
    """
    if len(grants) == 1:
        return dict.fromkeys(grants, total), True
    known = activity is not None
    weights = {key: (activity or {}).get(key, 0.0) for key in grants}
    whole = sum(weights.values())
    if not known or whole <= 0:
        weights, whole = {key: float(milli) for key, milli in grants.items()}, float(sum(grants.values()))
    parts = {key: int(total * weight / whole) for key, weight in weights.items()}
    rest = total - sum(parts.values())
    largest = max(weights, key=lambda key: (weights[key], key))
    parts[largest] += rest
    return parts, known


def modelled_watts(kind: str, utilization_ratio: float | None) -> float:
    """What a device of a type draws at some utilization; half of all it can, where that is unknown."""
    idle, full = _IDLE_AND_FULL_WATTS.get(kind, _OTHERWISE_WATTS)
    return idle + (full - idle) * (0.5 if utilization_ratio is None else utilization_ratio)


def _source(measured: bool, simulated: bool) -> EnergySource:
    if simulated:
        return "simulated"
    return "measured" if measured else "modelled"
