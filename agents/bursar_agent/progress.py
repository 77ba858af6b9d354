"""What jobs tell of their progress, read about once a second, and how fast it grows.

Owns    one thread that reads the members' files, and the last minute of counts of each.
Input   a way to read a member's file. Output: readings with progress in them; the last word of an end.
Why     a file may lie where its job has put a file system that never answers. Then progress is not told, and
        all else of the node goes on. Rates are counted here, by our clock: the job's own would be its claim.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from bursar.errors import BursarError, InvalidRequest
from bursar.model import Progress, read_progress
from bursar_agent.probes.readings import AttemptReading, ProgressRates, Reading, StepsNow
from bursar_agent.runningsteps import RunningSteps
from bursar_agent.stimuli import Key

log = logging.getLogger(__name__)

WINDOW = 61
"""Readings that rates rest on: a minute of steps that come every second, an hour of those of a minute."""

ANSWER_S_MAX = 1.0
"""So long may a reading wait for the files."""

Found = dict[Key, tuple[Progress | str | None, StepsNow | None]]


class Pace:
    """The counts of one member as they grew."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, Progress]] = deque(maxlen=WINDOW)

    def take(self, at_us: int, told: Progress) -> None:
        """What was read at this boot time. Counts that fell are a new beginning."""
        if self._seen:
            before = self._seen[-1][1]
            if min(told.step - before.step, told.samples - before.samples, told.tokens - before.tokens) < 0:
                self._seen.clear()
            elif told.step == before.step:
                return
        self._seen.append((at_us, told))

    def rates(self, now_us: int) -> ProgressRates | None:
        """Per second; None before it has grown. What stands still gets slower the longer it does."""
        if len(self._seen) < 2:
            return None
        (first_us, first), (last_us, last) = self._seen[0], self._seen[-1]
        span_us = last_us - first_us
        usual_us = span_us // (len(self._seen) - 1)
        span_us = max(span_us, now_us - first_us - usual_us)
        if span_us <= 0:
            return None
        return ProgressRates(
            steps_per_second=(last.step - first.step) * 1_000_000 / span_us,
            samples_per_second=(last.samples - first.samples) * 1_000_000 / span_us,
            tokens_per_second=(last.tokens - first.tokens) * 1_000_000 / span_us,
        )


class ProgressFiles:
    """Progress of this node's members. All methods are called in the loop's thread."""

    def __init__(
        self,
        read: Callable[[str, int], bytes | None],
        boot_us: Callable[[], int],
        answer_s_max: float = ANSWER_S_MAX,
        read_steps: Callable[[str, int], bytes | None] = lambda attempt_id, rank: None,
    ) -> None:
        """`read`, `read_steps`: the file of a member and its records of steps, None where there is none.
        Both are called in a thread of its own.
        """
        self._steps = RunningSteps(read_steps, boot_us)
        self._read = read
        self._boot_us = boot_us
        self._answer_s_max = answer_s_max
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="progress")
        self._paces: dict[Key, Pace] = {}
        self._reads: asyncio.Future[Found] | None = None

    async def look(self, reading: Reading) -> Reading:
        """The reading with what its members tell; without it while a file does not answer."""
        keys = [(one.attempt_id, one.rank) for one in reading.attempts]
        for gone in self._paces.keys() - set(keys):
            del self._paces[gone]
        found = await self._found(keys) if keys else None
        if not found:
            return reading
        now = self._boot_us()
        attempts = (self._with(one, found.get((one.attempt_id, one.rank)), now) for one in reading.attempts)
        return msgspec.structs.replace(reading, attempts=tuple(attempts))

    def close(self) -> None:
        """Let go of the thread, unless it hangs."""
        self._thread.shutdown(wait=False)

    def _with(
        self, one: AttemptReading, found: tuple[Progress | str | None, StepsNow | None] | None, now: int
    ) -> AttemptReading:
        if found is None:
            return one
        told, steps = found
        if steps is not None:
            one = msgspec.structs.replace(one, steps=steps)
        if told is None:
            return one
        if isinstance(told, str):
            return msgspec.structs.replace(one, progress_problem=told)
        pace = self._paces.setdefault((one.attempt_id, one.rank), Pace())
        pace.take(now, told)
        return msgspec.structs.replace(one, progress=told, progress_rates=pace.rates(now))

    async def _found(self, keys: Sequence[Key]) -> Found | None:
        if self._reads is not None and not self._reads.done():
            return None
        self._reads = asyncio.get_running_loop().run_in_executor(self._thread, self._read_all, keys)
        done, _ = await asyncio.wait((self._reads,), timeout=self._answer_s_max)
        if not done:
            log.warning("a progress file does not answer", extra={"waited_s": self._answer_s_max})
            return None
        return self._reads.result()

    def _read_all(self, keys: Sequence[Key]) -> Found:
        steps = self._steps.look(keys)
        found: Found = {}
        for key in keys:
            told = self._told(key)
            if told is not None or key in steps:
                found[key] = told, steps.get(key)
        return found

    def _told(self, key: Key) -> Progress | str | None:
        try:
            data = self._read(*key)
            return None if data is None else read_progress(data)
        except InvalidRequest as problem:
            return problem.message
        except (BursarError, OSError):
            return None  # it ended meanwhile, or its directory is damaged: the end tells


def last_told(read: Callable[[str, int], bytes | None], key: Key) -> Progress | None:
    """What a member that has ended told last; None for nothing that can be."""
    try:
        data = read(*key)
        return None if data is None else read_progress(data)
    except (BursarError, OSError):
        return None
