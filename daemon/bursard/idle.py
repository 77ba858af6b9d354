"""Attempts that do not use what they hold: told, then acted on, as the idle policies that they are under say.

Owns    looking at them every few seconds. Input: the newest readings of their nodes, and who is attached.
Why     what is held costs the same whether it is used or not, and utilization hides it: a device is judged by
        its multiprocessors wherever they are told (`bursar.model.activity`). The rule itself is
        `bursar_policies.idleness`; here is what was seen, what it cost, and the events that follow.

What is not known is not idle: a node whose readings stopped, a device that tells nothing, a member that has
not started. Time counts only between looks at which all was seen idle, so neither a daemon that was off, a
machine that slept nor a clock that jumped ends a job. How far a spell is stands in the log, so a restart goes
on with it, and tells nothing twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Final

from bursar.clock import SECOND_US
from bursar_policies.idleness import (
    ATTENDANCE,
    CPU,
    GPU,
    Rule,
    Sight,
    Spell,
    look,
    resumed,
)
from bursard.engine import Engine
from bursard.events import (
    Event,
    IdleOver,
    IdleSeen,
)
from bursard.state import AttemptRecord
from bursard.state.decide import idle as decide
from bursard.state.idling import rules_of, snoozed_until

LOOK_EVERY_S: Final = 5.0
STEP_US_MAX: Final = 15 * SECOND_US
"""Between two looks no more counts than this."""
AT_ONCE: Final = 100
"""Attempts that are looked at in one turn of the loop: some milliseconds."""
STALE_US: Final = 30 * SECOND_US
"""A node that has told nothing new for so long is not known."""


class IdleWatch:
    """All attempts that an idle policy is about.

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
        self._spells: dict[str, dict[str, Spell]] = {}
        self._readings: dict[str, tuple[Any, int]] = {}
        self._looked_us: int | None = None
        self._under: dict[str, tuple[object, object, tuple[Rule, ...]]] = {}
        """By attempt, its rules, with the spec and the documents that they are of."""

    async def run(self) -> None:
        """Look for ever; others have their turn between some attempts and the next."""
        while True:
            for _ in self._looks():
                await asyncio.sleep(0)
            await asyncio.sleep(LOOK_EVERY_S)

    def look(self) -> None:
        """One look at every attempt that a policy is about."""
        for _ in self._looks():
            pass

    def _looks(self) -> Iterator[None]:
        now_us = self._engine.clock.boot_us()
        step_us = 0 if self._looked_us is None else min(max(now_us - self._looked_us, 0), STEP_US_MAX)
        self._looked_us = now_us
        state, watched = self._engine.state, set[str]()
        live = list(state.live_attempts())
        for number, attempt in enumerate(live, 1):
            if number % AT_ONCE == 0:
                yield
            rules = self._rules(attempt) if attempt.id in state.attempts else ()
            if rules:
                watched.add(attempt.id)
                events = self._judge(attempt, rules, now_us, step_us)
                if events:
                    self._engine.commit(events, "bursard")
        for attempt_id in self._spells.keys() - watched:
            del self._spells[attempt_id]
        for attempt_id in self._under.keys() - {attempt.id for attempt in live}:
            del self._under[attempt_id]
        if not watched:
            self._readings.clear()

    def _rules(self, attempt: AttemptRecord) -> tuple[Rule, ...]:
        if attempt.stop_cause is not None:
            return ()
        state = self._engine.state
        job, documents = state.jobs[attempt.job_id], state.idle_documents
        known = self._under.get(attempt.id)
        if known is not None and known[0] is job.spec and known[1] is documents:
            return known[2]
        gpus = any(member.alloc.devices for member in attempt.members)
        found = rules_of(state, job.user, job.spec, gpus)
        self._under[attempt.id] = job.spec, documents, found
        return found

    def _judge(
        self, attempt: AttemptRecord, rules: tuple[Rule, ...], now_us: int, step_us: int
    ) -> list[Event]:
        state, now = self._engine.state, self._engine.now()
        put_off = now < snoozed_until(state, state.jobs[attempt.job_id])
        spells = self._spells.get(attempt.id)
        if spells is None:
            spells = self._spells[attempt.id] = {
                rule.key: resumed(rule, attempt.idle[rule.key], now)
                for rule in rules
                if rule.key in attempt.idle
            }
        events: list[Event] = []
        for rule in rules:
            sight = self._sight(attempt, rule, now_us)
            before = spells.get(rule.key, Spell())
            spell, said = look(rule, before, sight, step_us, put_off=put_off)
            if said == "act":
                return decide.acted(state, attempt, rule, spell, sight)
            spells[rule.key] = spell
            if said == "seen":
                events.append(
                    IdleSeen(attempt.id, rule.policy, rule.ground, spell.idle_us, decide.most_ppm(spell))
                )
            elif said == "over":
                why = "snoozed" if put_off else "unknown" if sight.share is None else "busy"
                events.append(IdleOver(attempt.id, rule.policy, rule.ground, why))
            elif said == "warn":
                events.append(decide.warned(attempt, rule, spell, sight))
        # What was kept under a policy that is no longer about it, or under another ground of it.
        kept = attempt.idle.keys() - {rule.key for rule in rules}
        for key in sorted(kept):
            ground, _, policy = key.partition("/")
            spells.pop(key, None)
            events.append(IdleOver(attempt.id, policy, ground, "policy"))
        return events

    # --- what was seen

    def _sight(self, attempt: AttemptRecord, rule: Rule, now_us: int) -> Sight:
        if rule.ground == ATTENDANCE:
            return self._users(attempt, now_us)
        if not all(member.started_at for member in attempt.members):
            return Sight(None)
        return self._devices(attempt, rule, now_us) if rule.ground == GPU else self._cpus(attempt, now_us)

    def _users(self, attempt: AttemptRecord, now_us: int) -> Sight:
        if attempt.state != "RUNNING":
            return Sight(None, "attached")
        if self._attached(attempt.id):
            return Sight(1.0, "attached")
        told = self._told(attempt, 0, now_us)
        if told is None:
            return Sight(None, "attached")
        _, own = told
        working = own is not None and own.HasField("progress") and own.progress.attended
        return Sight(1.0 if working else 0.0, "attached")

    def _cpus(self, attempt: AttemptRecord, now_us: int) -> Sight:
        used, granted = 0.0, 0
        for place, member in enumerate(attempt.members):
            told = self._told(attempt, place, now_us)
            if told is None or told[1] is None:
                return Sight(None, CPU)
            own = told[1]
            if own.HasField("progress") and own.progress.attended:
                return Sight(1.0, CPU)
            used += own.cpu_utilization_ratio
            granted += member.alloc.cpu_milli
        return Sight(min(used * 1000 / granted, 1.0) if granted else None, CPU)

    def _devices(self, attempt: AttemptRecord, rule: Rule, now_us: int) -> Sight:
        """The busiest of all devices of all members; not known where one of them is not."""
        most, by, held = 0.0, "sm", 0
        known = True
        for place in range(len(attempt.members)):
            found = self._devices_of(attempt, place, now_us)
            if found.share is None:
                known = False
                continue
            most, by = max(most, found.share), found.by if found.by != "sm" else by
            held = -1 if found.memory_bytes is None or held < 0 else held + found.memory_bytes
        if not known:
            # One that works is enough to say that it is used, whatever is known of the others.
            return Sight(most if most >= rule.below else None, by)
        return Sight(most, by, None if held < 0 else held)

    def _devices_of(self, attempt: AttemptRecord, place: int, now_us: int) -> Sight:
        member = attempt.members[place]
        told = self._told(attempt, place, now_us)
        if told is None or not member.alloc.devices:
            return Sight(None)
        sample, own = told
        held = (
            own.gpu_memory_used_bytes if own is not None and own.HasField("gpu_memory_used_bytes") else None
        )
        if own is not None and own.HasField("gpu_sm_ratio"):
            return Sight(float(own.gpu_sm_ratio), "sm", held)
        # What it does itself is not told, as behind an MPS server: then all of its devices must do nothing.
        known = {gpu.index: gpu for gpu in sample.gpus}
        most, by = 0.0, "sm"
        for share in member.alloc.devices:
            gpu = known.get(share.index)
            name = next(
                (one for one in ("sm_ratio", "utilization_ratio") if gpu is not None and gpu.HasField(one)),
                "",
            )
            if not name:
                return Sight(None)
            most = max(most, getattr(gpu, name))
            by = by if name == "sm_ratio" else "utilization"
        return Sight(most, by, held)

    def _told(self, attempt: AttemptRecord, place: int, now_us: int) -> tuple[Any, Any | None] | None:
        """The fresh reading of a member's node, and what of it is the member's; None: it is not known."""
        member = attempt.members[place]
        node = self._engine.state.nodes.get(member.alloc.node_id)
        sample = None if node is None else self._fresh(node.facts.name, now_us)
        if sample is None:
            return None
        rank = member.alloc.rank
        mine = [one for one in sample.attempts if one.attempt_id == attempt.id]
        return sample, next((one for one in mine if one.rank == rank), None)

    def _fresh(self, node: str, now_us: int) -> Any | None:
        sample = self._newest(node)
        known, since_us = self._readings.get(node, (None, now_us))
        if sample is None:
            return None
        if sample is not known:
            self._readings[node] = (sample, now_us)
            return sample
        return sample if now_us - since_us <= STALE_US else None
