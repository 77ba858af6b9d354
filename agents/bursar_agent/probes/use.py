"""What each member makes of its devices, added up look by look.

Owns    the sums of every member that holds devices (`bursar.model.DeviceUse`).
Why     a member's end is told with them: whether what it was charged for was used is then known for good.
        What was not heard is in no sum, so it is never taken for idle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bursar.model import BEYOND_THE_CAP, DeviceUse, use_of
from bursar_agent.probes.readings import Activity, GpuReading, Health
from bursar_agent.stimuli import Key


class Seen(NamedTuple):
    """One device of one member between two looks.

    Attributes:
        readings: of each second. alone: nobody else holds the device, so all that it did is the member's.
        sm_ratio: what worked for the member. present: whether a process of it was there; None: not told.
    """

    device: int
    readings: Sequence[GpuReading]
    activity: Activity | None
    health: Health | None
    alone: bool
    sm_ratio: float | None
    present: bool | None


@dataclass(slots=True)
class _Sums:
    """Of one member."""

    since_us: int
    figures: dict[str, int] = field(default_factory=dict)
    worked: dict[int, bool] = field(default_factory=dict)
    faults: dict[int, Health] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.figures[name] = self.figures.get(name, 0) + round(value)


class UseMeter:
    """All members of a node."""

    def __init__(self) -> None:
        self._sums: dict[Key, _Sums] = {}
        self._kept: dict[Key, DeviceUse] = {}

    def begin(self, key: Key, now_us: int, before: DeviceUse | None = None) -> None:
        """A member holds devices from now on; `before`: what an earlier agent has of it."""
        self._sums[key] = _Sums(now_us)
        if before is not None:
            self._kept[key] = before

    def end(self, key: Key) -> DeviceUse | None:
        """All of it; None where nothing was heard."""
        found = self.so_far(key)
        self._sums.pop(key, None)
        self._kept.pop(key, None)
        return found

    def look(
        self,
        now_us: int,
        window_us: int,
        seen: Mapping[Key, Sequence[Seen]],
        memory: Mapping[Key, int | None],
    ) -> None:
        """What was seen since the look before. `memory`: bytes on all devices of a member; None: not told."""
        for key, devices in seen.items():
            sums = self._sums.get(key)
            if sums is None:
                continue
            span_us = max(min(window_us, now_us - sums.since_us), 0)
            for one in devices:
                _add(sums, one, span_us)
            held = memory.get(key)
            if held is not None:
                sums.figures["memory_bytes"] = max(sums.figures.get("memory_bytes", 0), held)

    def so_far(self, key: Key) -> DeviceUse | None:
        """As of the last look; None where nothing was heard."""
        sums, before = self._sums.get(key), self._kept.get(key)
        if sums is None or not (sums.worked or sums.figures):
            return before
        found = dict(sums.figures)
        found["devices"] = len(sums.worked)
        found["unused_devices"] = sum(not worked for worked in sums.worked.values())
        return DeviceUse(**_with(found, before))


def _with(found: dict[str, int], before: DeviceUse | None) -> dict[str, int]:
    """Two stretches of one member. A device that worked in either was used."""
    if before is None:
        return found
    whole = {}
    for name in DeviceUse.__struct_fields__:
        one, other = found.get(name, 0), int(getattr(before, name))
        if name in ("devices", "memory_bytes"):
            whole[name] = max(one, other)
        elif name == "unused_devices":
            whole[name] = min(one, other) if before.devices else one
        elif name == "xid":
            whole[name] = one or other
        else:
            whole[name] = one + other
    return whole


def _add(sums: _Sums, one: Seen, span_us: int) -> None:
    utilization = _mean([r.utilization_ratio for r in one.readings]) if one.alone else None
    activity = one.activity if one.alone else None
    tensor, dram = (activity.tensor_ratio, activity.dram_ratio) if activity is not None else (None, None)
    _faults(sums, one)
    kind = use_of(one.sm_ratio, utilization, tensor, dram, present=one.present)
    if kind is None:
        return
    sums.add("heard_us", span_us)
    if kind != "working":
        sums.add(f"{kind}_us", span_us)
    busy = kind in ("working", "memory", "partial")
    sums.worked[one.device] = sums.worked.get(one.device, False) or busy or kind == "launch"
    if one.sm_ratio is not None:
        sums.add("sm_us", one.sm_ratio * span_us)
    if tensor is not None and dram is not None:
        sums.add("units_us", span_us)
        sums.add("tensor_us", tensor * span_us)
        sums.add("dram_us", dram * span_us)
    reasons = [r.clock_reasons for r in one.readings if r.clock_reasons is not None]
    if reasons:
        low = sum(bool(mask & BEYOND_THE_CAP) for mask in reasons)
        sums.add("throttled_us", span_us * low / len(reasons))
    clock = _mean([None if r.sm_clock_mhz is None else float(r.sm_clock_mhz) for r in one.readings])
    if busy and clock is not None:
        sums.add("busy_us", span_us)
        sums.add("clock_mhz_us", clock * span_us)


def _faults(sums: _Sums, one: Seen) -> None:
    """What came since the member was first seen there: the driver counts over the life of the device."""
    if one.health is None:
        return
    before = sums.faults.setdefault(one.device, one.health)
    for name in ("ecc_uncorrected", "remapped_rows"):
        now, then = getattr(one.health, name), getattr(before, name)
        if now is not None and then is not None and now > then:
            sums.add(name, now - then)
    if one.health.xid and one.health.xid != before.xid:
        sums.figures["xid"] = one.health.xid
    sums.faults[one.device] = one.health


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
