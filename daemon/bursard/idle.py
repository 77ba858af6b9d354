"""Attempts whose devices do nothing: told, then stopped, as their jobs' idle policies say.

Owns    for how long every device of an attempt has been seen idle. Input: the newest readings of its nodes.
Why     what is held costs the same whether it is used or not, and utilization hides it: a device is judged by
        its multiprocessors wherever they are told (`bursar.model.activity`).

What is not known is not idle: a node whose readings stopped, a device that tells nothing, a member that has
not started. Time counts only between looks at which all was seen idle, so neither a daemon that was off, a
machine that slept nor a clock that jumped ends a job. It begins anew with the daemon.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from bursar.clock import SECOND_US, format_duration
from bursar.model import EndCause, IdleSpec
from bursard.engine import Engine
from bursard.events import AttemptIdle, Event, StopRequested
from bursard.state import AttemptRecord

LOOK_EVERY_S: Final = 5.0
STEP_US_MAX: Final = 15 * SECOND_US
"""Between two looks no more counts than this."""
STALE_US: Final = 30 * SECOND_US
"""A node that has told nothing new for so long is not known."""


@dataclass(slots=True)
class _Seen:
    idle_us: int = 0
    told: bool = False
    detached_us: int = 0


class IdleWatch:
    """All attempts with an idle policy.

    Args:
        newest: a node's last reading (`bursar.v1.Sample`), by its name.
        attached: how many are attached to an attempt now, by its id.
    """

    def __init__(
        self,
        engine: Engine,
        newest: Callable[[str], Any | None],
        attached: Callable[[str], int] = lambda _: 0,
    ) -> None:
        self._attached = attached
        self._engine = engine
        self._newest = newest
        self._seen: dict[str, _Seen] = {}
        self._readings: dict[str, tuple[Any, int]] = {}
        self._looked_us: int | None = None

    async def run(self) -> None:
        """Look for ever."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    def look(self) -> None:
        """One look at every attempt that has a policy."""
        now_us = self._engine.clock.boot_us()
        step_us = 0 if self._looked_us is None else min(max(now_us - self._looked_us, 0), STEP_US_MAX)
        self._looked_us = now_us
        state, watched = self._engine.state, set()
        for attempt in list(state.live_attempts()):
            idle = state.jobs[attempt.job_id].spec.idle_policy
            if idle.window_us or idle.detached_us:
                watched.add(attempt.id)
                events = self._left_alone(attempt, idle, step_us) if idle.detached_us else []
                if idle.window_us and not events:
                    events = self._judge(attempt, idle, now_us, step_us)
                if events:
                    self._engine.commit(events, "bursard")
        for attempt_id in self._seen.keys() - watched:
            del self._seen[attempt_id]
        if not watched:
            self._readings.clear()

    def _left_alone(self, attempt: AttemptRecord, idle: IdleSpec, step_us: int) -> list[Event]:
        """Nobody has been attached to it for too long."""
        seen = self._seen.setdefault(attempt.id, _Seen())
        snoozed = self._engine.now() < idle.snoozed_until
        begun = attempt.state == "RUNNING"
        if snoozed or attempt.stop_cause is not None or not begun or self._attached(attempt.id):
            seen.detached_us = 0
            return []
        seen.detached_us += step_us
        if seen.detached_us < idle.detached_us:
            return []
        seen.detached_us = 0
        why = f"nobody was attached to it for {format_duration(idle.detached_us)}"
        return [StopRequested(attempt.id, EndCause.IDLE, attempt.grace_us, why)]

    def _judge(self, attempt: AttemptRecord, idle: IdleSpec, now_us: int, step_us: int) -> list[Event]:
        seen = self._seen.setdefault(attempt.id, _Seen())
        snoozed = self._engine.now() < idle.snoozed_until
        all_idle = all(self._idle(attempt, place, idle, now_us) for place in range(len(attempt.members)))
        if snoozed or attempt.stop_cause is not None or not all_idle:
            seen.idle_us, seen.told = 0, False
            return []
        seen.idle_us += step_us
        stops = idle.action == "stop"
        if seen.idle_us >= idle.window_us and stops:
            held = format_duration(seen.idle_us // SECOND_US * SECOND_US)
            why = f"all its GPUs were below {idle.below_percent} % of activity for {held}"
            seen.idle_us, seen.told = 0, False
            return [StopRequested(attempt.id, EndCause.IDLE, attempt.grace_us, why)]
        if seen.idle_us >= idle.warn_after_us and not seen.told:
            seen.told = True
            left_us = max(idle.window_us - seen.idle_us, SECOND_US) if stops else 0
            return [AttemptIdle(attempt.id, seen.idle_us, left_us)]
        return []

    def _idle(self, attempt: AttemptRecord, place: int, idle: IdleSpec, now_us: int) -> bool:
        """Whether one member is known to do nothing on any of its devices."""
        member = attempt.members[place]
        node = self._engine.state.nodes.get(member.alloc.node_id)
        sample = None if node is None else self._fresh(node.facts.name, now_us)
        if sample is None or not member.started_at or not member.alloc.devices:
            return False
        below = idle.below_percent / 100
        own = next((one for one in sample.attempts if one.attempt_id == attempt.id), None)
        if own is not None and own.HasField("gpu_sm_ratio"):
            return bool(own.gpu_sm_ratio < below)
        # What it does itself is not told, as behind an MPS server: then all of its devices must do nothing.
        ratios = _activity(sample.gpus, {share.index for share in member.alloc.devices})
        return all(ratio is not None and ratio < below for ratio in ratios)

    def _fresh(self, node: str, now_us: int) -> Any | None:
        sample = self._newest(node)
        known, since_us = self._readings.get(node, (None, now_us))
        if sample is None:
            return None
        if sample is not known:
            self._readings[node] = (sample, now_us)
            return sample
        return sample if now_us - since_us <= STALE_US else None


def _activity(gpus: Iterable[Any], indexes: set[int]) -> list[float | None]:
    """Of each of these devices its multiprocessors at work; by utilization where that is not told."""
    known = {gpu.index: gpu for gpu in gpus}
    found: list[float | None] = []
    for index in sorted(indexes):
        gpu = known.get(index)
        names = ("sm_ratio", "utilization_ratio")
        told = [getattr(gpu, name) for name in names if gpu is not None and gpu.HasField(name)]
        found.append(told[0] if told else None)
    return found
