"""Until when an agent in contact may take its time: to start a member, and to end one.

Owns    since when nothing has kept each node from what it was told, and the instants at which to look again.
Input   durable placements and stops, joins, the daemon's boot clock. Output: members that are overdue.
Why     an agent that stays in contact and does nothing is noticed by nobody else. All that is counted here is
        counted in favour of the node: from the later of the order and its last join, from a member's turn if
        it waits for another's share, and anew after a time in which the daemon itself did not look.

A look costs only what is due by then: each member is in the queue once, and what is due later by what
became true meanwhile goes back into it.
"""

from __future__ import annotations

import heapq
from collections.abc import Container
from typing import Literal, NamedTuple

from bursar.clock import SECOND_US
from bursard.fleet import believe
from bursard.state import HOLD_MARGIN_US, AttemptRecord, MemberRecord, NodeRecord, State
from bursard.state.decide.nodes import Reading
from bursard.state.decide.overdue import Phase

Key = tuple[str, int]

LOOK_EVERY_S = 5.0
ASLEEP_US = 30 * SECOND_US
"""A look that comes so late was kept by a machine or a daemon that stood still: words wait unread."""
PUT_OFF_MAX = 30
"""So often a join puts a member off: an agent that reconnects for ever must answer in the end."""
LATE_MAX = 250
"""Members told as overdue by one look; the others follow with the next."""


class _Wait:
    """One live member.

    Attributes:
        since_us: since when nothing has kept its node from it. joins: how often that was put off.
        stop_us: when it was last told to stop. runs_us: when it was first seen to run.
        look_us: its only valid entry in the queue. waited: it had no turn when it was looked at.
    """

    __slots__ = ("joins", "look_us", "runs_us", "since_us", "stop_us", "waited")

    def __init__(self, since_us: int, waited: bool) -> None:
        self.since_us = since_us
        self.joins = 0
        self.stop_us = since_us
        self.runs_us = 0
        self.look_us = 0
        self.waited = waited


class Due(NamedTuple):
    """When something should have happened at the latest, by the daemon's boot clock, and what."""

    at_us: int
    phase: Phase | Literal["turn"]


class Late(NamedTuple):
    """A member that is overdue, or still is: then it was told before."""

    attempt: AttemptRecord
    member: MemberRecord
    phase: Phase
    known: bool


class Deadlines:
    """Belongs to one fleet. In memory: after a restart of the daemon all counts from the next joins."""

    def __init__(self, state: State, now_us: int) -> None:
        self._state = state
        self._waits: dict[str, dict[int, _Wait]] = {}
        """By attempt and rank."""
        self._queue: list[tuple[int, Key]] = []
        self._looked_us = now_us

    def ordered(self, attempt: AttemptRecord, now_us: int) -> None:
        """Its placement is durable, and its nodes are told."""
        waits = self._waits[attempt.id] = {}
        for member in attempt.live():
            wait = waits[member.alloc.rank] = _Wait(now_us, bool(attempt.after))
            key = (attempt.id, member.alloc.rank)
            self._look_at(key, wait, now_us + self._state.limits.overdue_after_us)

    def joined(self, node: NodeRecord, now_us: int) -> None:
        """A node is served again, and told all that it may not have heard."""
        for attempt_id, rank in node.live.items():
            waits = self._waits.setdefault(attempt_id, {})
            wait = waits.get(rank)
            if wait is None:
                attempt = self._state.attempts[attempt_id]
                wait = waits[rank] = _Wait(now_us, bool(attempt.after))
                wait.runs_us = now_us if attempt.members[rank].started_at else 0
            elif wait.joins < PUT_OFF_MAX:
                wait.joins += 1
                wait.since_us = now_us
            self._look_at((attempt_id, rank), wait, now_us + self._state.limits.overdue_after_us)

    def stopped(self, attempt_id: str, now_us: int) -> None:
        """It was told to stop."""
        for rank, wait in self._waits.get(attempt_id, {}).items():
            wait.stop_us = now_us
            self._look_at((attempt_id, rank), wait, now_us)

    def limited(self, attempt_id: str, now_us: int) -> None:
        """An earlier time limit is in force: it may be passed sooner than was looked for."""
        for rank, wait in self._waits.get(attempt_id, {}).items():
            self._look_at((attempt_id, rank), wait, now_us)

    def ended(self, attempt_id: str) -> None:
        """Nothing of it is left."""
        self._waits.pop(attempt_id, None)

    def look(self, now: Reading, served: Container[str]) -> list[Late]:
        """Members of served nodes that are overdue now, at most `LATE_MAX`: ask again until there are less.

        Args:
            served: the nodes in contact, by id. What is on others is looked at once they join.
        """
        if now.boot_us - self._looked_us > ASLEEP_US:
            for wait in (one for waits in self._waits.values() for one in waits.values()):
                wait.since_us = wait.stop_us = now.boot_us
        self._looked_us = now.boot_us
        late: list[Late] = []
        while self._queue and self._queue[0][0] <= now.boot_us and len(late) < LATE_MAX:
            at_us, key = heapq.heappop(self._queue)
            found = self._waits.get(key[0], {}).get(key[1])
            if found is not None and found.look_us == at_us:
                found.look_us = 0
                late += self._look(key, found, now, served)
        return late

    def _look(self, key: Key, wait: _Wait, now: Reading, served: Container[str]) -> list[Late]:
        attempt = self._state.attempts.get(key[0])
        if attempt is None or attempt.members[key[1]].report is not None:
            del self._waits[key[0]][key[1]]
            return []
        member = attempt.members[key[1]]
        if member.alloc.node_id not in served:
            return []
        due = self._due(attempt, member, wait, now)
        if due is None:
            return []
        if due.at_us > now.boot_us or due.phase == "turn":
            self._look_at(key, wait, max(due.at_us, now.boot_us + 1))
            return []
        self._look_at(key, wait, now.boot_us + self._state.limits.overdue_after_us)
        return [Late(attempt, member, due.phase, key[1] in attempt.overdue)]

    def _due(self, attempt: AttemptRecord, member: MemberRecord, wait: _Wait, now: Reading) -> Due | None:
        """What comes first of what its node owes; None when that is nothing."""
        tolerance_us = self._state.limits.overdue_after_us
        known = member.alloc.rank in attempt.overdue
        dues: list[Due] = []
        if attempt.stop_cause is not None:
            told_us = max(wait.stop_us, wait.since_us)
            last_us = told_us + attempt.stop_grace_us + HOLD_MARGIN_US
            dues.append(Due(last_us + tolerance_us, "stop"))
        elif attempt.after:
            wait.waited = True
            return Due(now.boot_us + tolerance_us, "turn")
        elif not member.started_at and not known:
            if wait.waited:
                wait.waited, wait.since_us = False, now.boot_us
            dues.append(Due(wait.since_us + tolerance_us, "start"))
        if member.started_at and attempt.time_limit_us and not known:
            most_us = attempt.time_limit_us + attempt.grace_us + HOLD_MARGIN_US
            left_us = most_us - self._ran_us(member, wait, now)
            dues.append(Due(max(now.boot_us + left_us, wait.since_us) + tolerance_us, "limit"))
        return min(dues, default=None)

    def _ran_us(self, member: MemberRecord, wait: _Wait, now: Reading) -> int:
        """How long it has run at least, by the daemon's own boot clock."""
        wait.runs_us = wait.runs_us or now.boot_us
        node = self._state.nodes[member.alloc.node_id]
        if node.seen_boot_id != now.boot_id:
            # The daemon's machine has been booted since: what it knows of before is wall time.
            return now.boot_us - wait.runs_us
        return believe.bounds(node, now).latest_us - believe.boot_of(node, member.started_at)

    def _look_at(self, key: Key, wait: _Wait, at_us: int) -> None:
        if not wait.look_us or at_us < wait.look_us:
            wait.look_us = at_us
            heapq.heappush(self._queue, (at_us, key))
