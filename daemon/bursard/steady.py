"""The daemon's time: the wall clock, as far as it can be believed.

Owns    the rule by which a jump of the wall clock is doubted, and when it is believed after all (ADR-0013).
Why     periods of budgets, begin times and prices in force hang on the date. A clock that is forty days ahead
        for an hour must not spend next year's budget; a daemon that was off for two months must find out by
        itself. While a jump is in doubt, time goes on from where the log was, by the boot clock.
Input   a clock, and where the log left off. Output: `now`, never doubted; `doubt`, for `doctor`; the steps
        that were believed, to be recorded.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from bursar.clock import DAY_US, HOUR_US, SECOND_US, Clock, Instant, format_instant

log = logging.getLogger(__name__)

TOLERANCE_US = 600 * SECOND_US
"""A step of the wall clock up to this is a correction, and is followed; and so much a day of them, since many
small steps are a jump too. What is followed is forgotten at that rate."""
BELIEVED_US = 7 * DAY_US
"""How far ahead of the log the clock of another boot may be and be believed at once: the daemon was off."""
PROOF_US = HOUR_US
"""How long a clock that nothing speaks against must run on before it is believed."""
CONTRADICTED_PROOF_US = DAY_US
"""The same for a clock that the boot clock, or the log, speaks against."""


class Anchor(NamedTuple):
    """What time it was at one reading of the boot clock of one boot."""

    boot_id: str
    boot_us: int
    at: int


class Doubt(NamedTuple):
    """A wall clock that is not believed.

    Attributes:
        wall, steady: what it says, and what is gone by instead.
        believed_in_us: after so much more time it is; 0: never by itself.
    """

    wall: Instant
    steady: Instant
    believed_in_us: int


class Step(NamedTuple):
    """A jump that was believed, and why.

    `passed`: the machine was off meanwhile, so that time may have passed; else its boot clock saw that none
    has.
    """

    was: Instant
    became: Instant
    why: str
    passed: bool = False


class SteadyClock:
    """A `Clock` whose `now` does not follow jumps until they are proven."""

    def __init__(
        self, clock: Clock, boot_id: str, anchor: Anchor | None = None, first_at: int = 0, last_at: int = 0
    ) -> None:
        """Start where the log left off.

        Args:
            boot_id: of this machine's present boot.
            anchor: what an earlier run of the daemon went by.
            first_at, last_at: of the first and the last event in the log; 0: it is empty.
        """
        self._clock = clock
        self._boot_id = boot_id
        self._first_at = first_at
        self._doubted_since_us: int | None = None
        self._doubted_by_us = 0
        self._drift_us = 0
        self._proof_us = CONTRADICTED_PROOF_US
        self._steps: list[Step] = []
        self._told = False
        self._told_at: int | None = None
        wall, boot = clock.now(), clock.boot_us()
        self._at, self._boot = self._start(wall, boot, anchor, last_at), boot
        self._drift_at = boot
        self.now()

    def _start(self, wall: Instant, boot: int, anchor: Anchor | None, last_at: int) -> int:
        if not last_at:
            return wall
        if anchor is not None and anchor.boot_id == self._boot_id and boot >= anchor.boot_us:
            # The boot clock saw all the time that has passed: what differs from it is a jump.
            return max(anchor.at + boot - anchor.boot_us, last_at)
        ahead = wall - last_at
        if -TOLERANCE_US <= ahead <= BELIEVED_US:
            return wall
        self._proof_us = PROOF_US if ahead > 0 else CONTRADICTED_PROOF_US
        return last_at

    @property
    def boot_id(self) -> str:
        """Of this machine's present boot."""
        return self._boot_id

    def boot_us(self) -> int:
        """Microseconds since boot."""
        return self._clock.boot_us()

    def now(self) -> Instant:
        """The time to go by."""
        wall, boot = self._clock.now(), self._clock.boot_us()
        steady = Instant(self._at + boot - self._boot)
        off = wall - steady
        drift = self._drift(boot) + off
        if abs(off) <= TOLERANCE_US and abs(drift) <= TOLERANCE_US:
            if self._doubted_since_us is not None:
                log.info("the clock is right again", extra={"now": format_instant(wall)})
            self._follow(wall, boot)
            self._drift_us = drift
            return wall
        if self._doubted_since_us is None:
            log.warning(
                "the clock has jumped; going on from the log's time until that is proven",
                extra={"clock": format_instant(wall), "going_by": format_instant(steady)},
            )
        if self._doubted_since_us is None or abs(off - self._doubted_by_us) > TOLERANCE_US:
            # One that jumps again, or runs fast, has proven nothing yet.
            self._doubted_since_us, self._doubted_by_us = boot, off
        if wall >= self._first_at and boot - self._doubted_since_us >= self._proof_us:
            self._believe(steady, wall, boot, f"it went on for {self._proof_us // HOUR_US} h")
            return wall
        return steady

    def _drift(self, boot: int) -> int:
        """How far the corrections that were followed have led, less what is forgotten of it by now."""
        if boot - self._drift_at >= SECOND_US:
            forgotten = (boot - self._drift_at) * TOLERANCE_US // DAY_US
            left = max(abs(self._drift_us) - forgotten, 0)
            self._drift_us, self._drift_at = left if self._drift_us > 0 else -left, boot
        return self._drift_us

    def _follow(self, wall: int, boot: int) -> None:
        self._at, self._boot = wall, boot
        self._doubted_since_us, self._proof_us = None, CONTRADICTED_PROOF_US

    def _believe(self, was: Instant, wall: Instant, boot: int, why: str) -> None:
        self._steps.append(Step(was, wall, why, self._proof_us == PROOF_US))
        self._first_at = min(self._first_at, wall)
        log.warning(
            "the clock is believed",
            extra={"was": format_instant(was), "now": format_instant(wall), "why": why},
        )
        self._follow(wall, boot)
        self._drift_us = 0

    def trust(self, why: str) -> None:
        """Somebody who knows says that the wall clock is right."""
        was, wall = self.now(), self._clock.now()
        if self._doubted_since_us is not None:
            self._believe(was, wall, self._clock.boot_us(), why)

    def doubt(self) -> Doubt | None:
        """The jump that is not believed now."""
        steady, wall = self.now(), self._clock.now()
        if self._doubted_since_us is None:
            return None
        left = self._doubted_since_us + self._proof_us - self._clock.boot_us()
        return Doubt(wall, steady, max(left, 1) if wall >= self._first_at else 0)

    def take_doubt(self) -> Doubt | None:
        """A jump that has come to be doubted since the last call; no more than one an hour."""
        found, boot = self.doubt(), self._clock.boot_us()
        if found is None:
            self._told = False
            return None
        if self._told or (self._told_at is not None and boot - self._told_at < HOUR_US):
            return None
        self._told, self._told_at = True, boot
        return found

    def anchor(self) -> Anchor:
        """For the next run of the daemon in this boot."""
        self.now()
        return Anchor(self._boot_id, self._boot, self._at)

    def take_steps(self) -> list[Step]:
        """The jumps believed since the last call."""
        steps, self._steps = self._steps, []
        return steps
