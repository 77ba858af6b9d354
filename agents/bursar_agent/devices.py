"""The thread in which devices are asked, and what must outlive the agent of what they said.

Owns    one thread, the `DeviceMeter` in it, and the files that remember a member's devices and energy.
Why     a driver whose device fell off the bus may never answer. Then readings stop and energy is told as it
        was known last; the metering of time, the ends of jobs and everything else goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from bursar.clock import Clock
from bursar.model import DeviceUse, Energy
from bursar_agent.probes.devicemeter import DeviceMeter
from bursar_agent.probes.energy import Held, Share
from bursar_agent.probes.process import TreeReading
from bursar_agent.probes.readings import GpuProbe, Reading
from bursar_agent.statedir import HeldDevices, StateDir
from bursar_agent.stimuli import Key

log = logging.getLogger(__name__)

T = TypeVar("T")

ANSWER_S_MAX = 2.0
"""So long may an end wait for the energy of its devices, and a reading for what devices say."""


class Devices:
    """What the agent knows of its devices. All methods are called in the loop's thread."""

    def __init__(
        self,
        probe: GpuProbe,
        state: StateDir,
        clock: Clock,
        boot_id: str,
        answer_s_max: float = ANSWER_S_MAX,
        served: Callable[[Key], bool] = lambda _: False,
    ) -> None:
        """`served`: whether a member uses its device through a server, which hides what it does there."""
        self._probe = probe
        self._state = state
        self._clock = clock
        self._boot_id = boot_id
        self._answer_s_max = answer_s_max
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="devices")
        self._meter = DeviceMeter(probe, clock.boot_us, served)
        self._there = bool(probe.devices())
        self._shares: dict[Key, tuple[Share, ...]] = {}
        self._ended: dict[Key, Energy] = {}
        self._used: dict[Key, DeviceUse] = {}
        self._hung: asyncio.Future[Any] | None = None

    def resume(self) -> None:
        """Go on where an earlier agent's files end. Blocking, before the loop has anything else to do."""
        held = []
        for key, known in self._state.held_devices().items():
            self._shares[key] = known.shares
            energy = Energy(millijoules=known.millijoules, source=known.source)
            if known.use is not None:
                self._used[key] = known.use
            if known.ended:
                self._ended[key] = energy
            elif known.boot_id == self._boot_id:
                held.append(Held(key, known.shares, energy, known.counters))
            else:
                # The machine went down: what was drawn after the last reading is not known.
                self._ended[key] = Energy(
                    millijoules=known.millijoules, source="modelled" if known.source else ""
                )
        self._meter.energy.resume(held, self._clock.boot_us())
        for one in held:
            self._meter.use.begin(one.key, self._clock.boot_us(), self._used.get(one.key))

    def keep(self, known: Collection[Key]) -> None:
        """Forget all others: a file that outlived its member must not be given energy that is not its own."""
        for key in self._shares.keys() - set(known):
            self.forget(key)

    def assigned(self, key: Key, shares: tuple[Share, ...]) -> None:
        """A member is about to start with these devices."""
        if shares:
            self._shares[key] = shares

    def started(self, key: Key) -> None:
        """It runs: its energy counts from here."""
        if key in self._shares and key not in self._ended:
            self._thread.submit(self._begin, key, self._shares[key])

    def holds(self, key: Key) -> bool:
        """Whether it has devices of this node."""
        return key in self._shares

    async def ended(self, key: Key) -> Energy | None:
        """What its devices drew for it; the same at each call. None when that is not known.

        Waits for the driver, but not for long: then it is what was known last, and not said to be measured.
        """
        if key not in self._shares:
            return None
        if key not in self._ended:
            energy = await self._ask(lambda: self._end(key))
            if energy is None:
                known = self._meter.energy.so_far(key)
                energy = known and Energy(
                    millijoules=known.millijoules, source="modelled" if known.source else ""
                )
            self._ended[key] = energy or Energy(millijoules=0, source="")
        return self._ended[key]

    def used(self, key: Key) -> DeviceUse | None:
        """What one that has ended made of its devices, as far as it was heard; None: nothing was."""
        return self._used.get(key)

    def forget(self, key: Key) -> None:
        """Its end is in the ledger."""
        self._ended.pop(key, None)
        self._used.pop(key, None)
        if self._shares.pop(key, None) is not None:
            self._thread.submit(self._drop, key)

    async def read(self, reading: Reading, trees: Mapping[Key, TreeReading]) -> Reading:
        """The reading with its devices; without them where the driver does not answer in time."""
        if not self._there:
            return reading
        found = await self._ask(lambda: self._read(reading, trees))
        return reading if found is None else found

    def close(self) -> None:
        """Let go of the driver, unless it hangs."""
        self._thread.submit(self._probe.close)
        self._thread.shutdown(wait=False)

    # --- in the thread ---

    def _begin(self, key: Key, shares: Sequence[Share]) -> None:
        if not self._meter.energy.shares(key):  # a second process of the same member is no new start
            self._meter.energy.begin(key, shares, self._clock.boot_us())
            self._meter.use.begin(key, self._clock.boot_us())
            self._remember(key)

    def _end(self, key: Key) -> Energy | None:
        energy = self._meter.energy.end(key, self._clock.boot_us())
        use = self._meter.use.end(key)
        if use is not None:
            self._used[key] = use
        if energy is not None:
            self._keep(key, energy, {}, ended=True)
        return energy

    def _read(self, reading: Reading, trees: Mapping[Key, TreeReading]) -> Reading:
        found, looked = self._meter.read(reading, trees)
        if looked:
            for key in self._meter.energy.members():
                self._remember(key)
        return found

    def _drop(self, key: Key) -> None:
        self._meter.energy.end(key, self._clock.boot_us())
        self._meter.use.end(key)
        self._state.forget_devices(key)

    def _remember(self, key: Key) -> None:
        energy = self._meter.energy.so_far(key)
        if energy is not None:
            self._keep(key, energy, self._meter.energy.counters(key), ended=False)

    def _keep(self, key: Key, energy: Energy, counters: Mapping[int, int], ended: bool) -> None:
        held = HeldDevices(
            boot_id=self._boot_id,
            shares=self._shares.get(key, ()),
            counters=dict(counters),
            millijoules=energy.millijoules,
            source=energy.source,
            ended=ended,
            use=self._used.get(key) if ended else self._meter.use.so_far(key),
        )
        try:
            self._state.remember_devices(key, held)
        except OSError as problem:
            log.warning("energy is not kept", extra={"attempt_id": key[0], "problem": problem.strerror})

    async def _ask(self, question: Callable[[], T]) -> T | None:
        """Its answer; None when it does not come in time, or fails, or an earlier one has not come yet."""
        if self._hung is not None and not self._hung.done():
            return None
        work = asyncio.get_running_loop().run_in_executor(self._thread, question)
        done, _ = await asyncio.wait((work,), timeout=self._answer_s_max)
        if not done:
            log.error("devices do not answer", extra={"waited_s": self._answer_s_max})
            work.add_done_callback(_look_at)
            self._hung = work
            return None
        if work.exception() is not None:
            log.error("devices cannot be read", exc_info=work.exception())
            return None
        return work.result()


def _look_at(work: asyncio.Future[T]) -> None:
    """An answer that came too late; a failure is said, not left to the loop."""
    if not work.cancelled() and work.exception() is not None:
        log.error("devices cannot be read", exc_info=work.exception())
