"""The steps of members that run, from the records that their processes leave: which there are, and which run.

Owns    what was read of each member's records, and when it is looked at again.
Input   a way to read them. Output: `StepsNow` by member, for its reading.
Why     records grow with a script's steps, to a MiB: they are taken apart anew only once they have changed,
        and the larger they are the more seldom. What they say is a job's own word: nothing rests on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from bursar.errors import BursarError
from bursar.model.steps import FAILED_STATES, STEPS_TOLD_MAX
from bursar.steps import records
from bursar_agent.probes.readings import StepsNow
from bursar_agent.stimuli import Key

TOLD_MAX: Final = 64
"""Steps that one reading tells of, of all members together; of others it has the counts."""
_PAUSE_US: Final = 1_000_000
_BYTES_A_SECOND: Final = 1 << 16


class _Seen(NamedTuple):
    """Records as they were read, what they say, and from when on they are read again."""

    data: bytes
    now: StepsNow | None
    due_us: int


class RunningSteps:
    """Called in one thread, which may wait for a file."""

    def __init__(self, read: Callable[[str, int], bytes | None], boot_us: Callable[[], int]) -> None:
        """`read`: the records of a member that runs, None where there are none."""
        self._read = read
        self._boot_us = boot_us
        self._seen: dict[Key, _Seen] = {}

    def look(self, keys: Sequence[Key]) -> dict[Key, StepsNow]:
        """What these members have started; those that have started nothing are not in it."""
        for gone in self._seen.keys() - set(keys):
            del self._seen[gone]
        found: dict[Key, StepsNow] = {}
        room = TOLD_MAX
        for key in keys:
            now = self._of(key)
            if now is not None:
                found[key] = now if len(now.told) <= room else now._replace(told=())
                room -= len(found[key].told)
        return found

    def _of(self, key: Key) -> StepsNow | None:
        at_us, seen = self._boot_us(), self._seen.get(key)
        if seen is not None and at_us < seen.due_us:
            return seen.now
        try:
            data = self._read(*key) or b""
        except (BursarError, OSError):
            return None  # it ended meanwhile, or its directory is damaged: the end tells
        now = seen.now if seen is not None and seen.data == data else _told(data)
        if data:
            due_us = at_us + _PAUSE_US * len(data) // _BYTES_A_SECOND
            self._seen[key] = _Seen(data, now, due_us)
        return now


def _told(data: bytes) -> StepsNow | None:
    """Those that run before those that failed, and these before others; of each the newest."""
    found = list(records.read(data))
    if not found:
        return None
    first = sorted(found, key=lambda one: (_rank(one), -one.number))[:STEPS_TOLD_MAX]
    return StepsNow(
        total=len(found),
        failed=sum(one.state in FAILED_STATES for one in found),
        told=tuple(sorted(first, key=lambda one: one.number)),
    )


def _rank(one: records.Told) -> int:
    return 0 if one.state == records.CUT_OFF else 1 if one.state in FAILED_STATES else 2
