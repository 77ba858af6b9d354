"""How a node behaves over time: what is no lie once, and no accident when it comes again and again. PURE.

Owns    how often each node came with a new boot or another kind of device, lost members, or failed to start
        one job after another.
Input   what happened, and the daemon's boot clock. Output: why the node should get no new work, or empty.
Why     each of these is free for the node and costs its jobs a try. It is kept in memory alone: a restarted
        daemon begins to count anew, as does an operator who resumes a node.
"""

from __future__ import annotations

from collections import deque

from bursar.clock import SECOND_US

WINDOW_US = 600 * SECOND_US
BOOTS_MAX = 5
LOST_MAX = 5
KINDS_MAX = 3
"""So often within `WINDOW_US`, and not once more."""
START_FAILURES_MAX = 5
"""Jobs in a row that could not be started, with none in between that was."""


class Conduct:
    """One node's."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[int]] = {}
        self._not_started: set[str] = set()

    def booted(self, now_us: int) -> str:
        """It says that it was booted again."""
        return self._often("was booted", BOOTS_MAX, now_us)

    def kind_changed(self, now_us: int) -> str:
        """It has another kind of devices than before."""
        return self._often("changed its kind of devices", KINDS_MAX, now_us)

    def lost(self, now_us: int) -> str:
        """It has no trace of something that ran there."""
        return self._often("lost what ran there", LOST_MAX, now_us)

    def started(self) -> None:
        """Something runs there."""
        self._not_started.clear()

    def start_failed(self, job_id: str) -> str:
        """It could not start a member of this job."""
        self._not_started.add(job_id)
        if len(self._not_started) < START_FAILURES_MAX:
            return ""
        return f"it could not start any of {len(self._not_started)} jobs in a row"

    def _often(self, what: str, most: int, now_us: int) -> str:
        times = self._seen.setdefault(what, deque(maxlen=most + 1))
        times.append(now_us)
        if len(times) <= most or now_us - times[0] > WINDOW_US:
            return ""
        return f"it {what} {len(times)} times in {WINDOW_US // (60 * SECOND_US)} minutes"
