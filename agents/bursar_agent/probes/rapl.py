"""Power of the CPU packages from the energy counters of RAPL, where the kernel lets us read them.

Owns    /sys/class/powercap. Input: its root and a clock.
Why     energy of a node belongs into its reports; where it is not readable we say 0, never a guess.
"""

from __future__ import annotations

from pathlib import Path

from bursar.clock import Clock

POWERCAP = Path("/sys/class/powercap")


class RaplPower:
    """Watts of all packages, as the mean since the last call. Counters wrap; deltas survive it."""

    def __init__(self, clock: Clock, root: Path = POWERCAP) -> None:
        self._clock = clock
        self._zones: list[tuple[Path, int]] = []
        # Only whole packages (intel-rapl:0); their parts (intel-rapl:0:1) are inside them.
        for zone in sorted(root.glob("*-rapl:*")) if root.is_dir() else ():
            if zone.name.count(":") != 1:
                continue
            energy, wrap = _read(zone / "energy_uj"), _read(zone / "max_energy_range_uj")
            if energy is not None:
                self._zones.append((zone / "energy_uj", wrap or 0))
        self._last = self._energies()
        self._last_at = clock.boot_us()

    def watts(self) -> float:
        """0.0 when nothing can be read."""
        if not self._zones:
            return 0.0
        now, energies = self._clock.boot_us(), self._energies()
        span_us = now - self._last_at
        total_uj = 0
        for (_, wrap), before, after in zip(self._zones, self._last, energies, strict=True):
            if before is None or after is None:
                continue
            delta = after - before
            if delta < 0:
                delta += wrap
            total_uj += max(delta, 0)
        self._last, self._last_at = energies, now
        return total_uj / span_us if span_us > 0 else 0.0

    def _energies(self) -> list[int | None]:
        return [_read(path) for path, _ in self._zones]


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
