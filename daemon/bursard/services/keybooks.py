"""What keys are charged, told to the budgets that they name; and what gateways may still let them spend.

Owns    when services are divided among their keys for this, and what was told of them and is not divided yet.
Why     the bill is the one division there is (`reports.serving`): a budget is told what the bill says, again
        whenever that may have changed, so both say the same to the nano. Between two such looks the budget
        does not know of the last minute or two: of these, what keys had in hand counts at the price of a
        place, at the daemon once it was told and at the gateway until then.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Final

from bursar.clock import HOUR_US, SECOND_US
from bursar.errors import BursarError
from bursar.v1 import services_pb2 as pb
from bursard.engine import Engine
from bursard.events import ChargesCorrected, Event, KeyUse, PolicyApplied, PolicyRemoved
from bursard.reports.serving import keys_by_hour
from bursard.services.servicekeys import Keys
from bursard.serving.board import Gateway
from bursard.serving.keeper import Keeper
from bursard.state import JobRecord
from bursard.state.counted_keys import LATE_US
from bursard.state.decide import services as decide

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0
AGAIN_US: Final = 60 * SECOND_US
"""What was charged of the minutes that were told last comes later than they do: they are divided again."""
WARM_US: Final = 2 * HOUR_US
"""So long after the last minute that was told: until the hour that it was in is closed."""
SLICE_US: Final = 600 * SECOND_US
"""A gateway has its part of what is left for so long after it asked last, as it knows itself."""


class KeyBooks:
    """Of one daemon. Belongs to the event loop."""

    def __init__(self, engine: Engine, keeper: Keeper, keys: Keys) -> None:
        self._engine, self._keeper, self._keys = engine, keeper, keys
        self._due: dict[str, int] = {}
        """By job, from when on it is to be divided again."""
        self._warm: dict[str, tuple[int, int]] = {}
        """By job, until when it is looked at by itself, and when that was last."""
        self._told: dict[str, Counter[str]] = {}
        """By job, by budget: nanos of what was told since it was divided last, at the price of a place."""
        self._jobs: dict[str, JobRecord] = {}
        self._named: dict[str, dict[str, str]] = {}
        """By job, what was told of lately, and the budgets of its keys: also of a service that has ended."""
        self._asked: dict[str, int] = {}
        """By gateway, when it was given its part."""
        self._all()
        engine.listeners.append(self._on_event)

    def _on_event(self, seq: int, event: Event, at: int, actor: str) -> None:
        if isinstance(event, ChargesCorrected):
            job_id = event.job_id.partition(".")[0]
            if job_id in self._keeper.services:
                self._due[job_id] = min(self._due.get(job_id, at), at)
        elif isinstance(event, PolicyRemoved) or (
            isinstance(event, PolicyApplied) and any(one.kind == "Budget" for one in event.documents)
        ):
            self._all()

    def _all(self) -> None:
        """Of every service: a budget may be new, or count something else than before."""
        self._due = dict.fromkeys([*self._keeper.services, *self._due], 0)

    def told(
        self, job: JobRecord, minute: int, busy_us: int, capacity_us: int, uses: Iterable[KeyUse]
    ) -> None:
        """A gateway told what keys used in a minute."""
        now, rates = self._engine.now(), [attempt.rate for _, attempt in self._keeper.live(job)]
        self._due[job.id] = min(self._due.get(job.id, minute), minute)
        self._warm[job.id] = now + WARM_US, now
        self._jobs[job.id] = job
        service = job.spec.service
        places = len(rates) * service.target if service is not None else 0
        counter = self._told.setdefault(job.id, Counter())
        for use in uses:
            name = self._keys.budget_of(job.id, use.key_id)
            if name:
                self._named.setdefault(job.id, {})[use.key_id] = name
            if name and places and decide.keys_budget(self._engine.state, job, name) is not None:
                used_us = use.busy_us * min(capacity_us, busy_us) // max(busy_us, 1)
                counter[name] += used_us * sum(rates) // (places * HOUR_US)

    # --- dividing

    async def run(self) -> None:
        """For ever."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Divide again what may be another."""
        now = self._engine.now()
        for job_id, (until, last) in list(self._warm.items()):
            if now - last >= AGAIN_US:
                self._due.setdefault(job_id, now)
                self._warm[job_id] = until, now
            if now >= until:
                for known in (self._warm, self._jobs, self._named):
                    known.pop(job_id, None)
        for job_id, since in list(self._due.items()):
            job = self._engine.state.jobs.get(job_id) or self._jobs.get(job_id)
            try:
                if job is not None:
                    await self._divide(job, since)
            except BursarError as error:  # the next look tries again
                log.warning(
                    "what keys were charged could not be told", extra={"job": job_id, "error": error.message}
                )
            else:
                if self._due.get(job_id) == since:
                    del self._due[job_id]

    async def _divide(self, job: JobRecord, since: int) -> None:
        """One service, from the hour before on, or from an earlier instant."""
        state, service = self._engine.state, job.spec.service
        names = self._budgets_of(job)
        windows = [one.window()[0] for name in names if (one := state.budgets.records.get(name)) is not None]
        if not windows or service is None:
            self._told.pop(job.id, None)
            return
        earliest = min(windows) - LATE_US
        hour = self._engine.now() // HOUR_US * HOUR_US
        since = max(min(since // HOUR_US * HOUR_US, hour - HOUR_US), earliest // HOUR_US * HOUR_US)
        counted = Counter(self._told.get(job.id, {}))
        books = await self._engine.books()
        question = partial(keys_by_hour, self._engine.views, job.id, job.number, service.target, since, books)
        found = await self._engine.aside(question)
        await self._keys.know(job.id, found)
        self._engine.commit_each(
            [
                partial(decide.charged, state, job, name, self._of_budget(job.id, name, found), since)
                for name in names
            ],
            "bursard",
        )
        left = self._told.get(job.id, Counter()) - counted
        if left:
            self._told[job.id] = left
        else:
            self._told.pop(job.id, None)

    def _budgets_of(self, job: JobRecord) -> list[str]:
        """That keys of it name, or named while it was told to them."""
        state = self._engine.state
        live = {key.budget for key in state.service_keys.values() if key.budget}
        known = {name for name in state.budgets.records if state.keys_charged.of(name, job.id)}
        named = self._named.get(job.id, {}).values()
        return sorted(live.union(known, named, self._keys.budgets_ever(job.id)))

    def _of_budget(self, job_id: str, name: str, found: Mapping[str, Mapping[int, int]]) -> Counter[int]:
        hours, named = Counter[int](), self._named.get(job_id, {})
        for key_id, mine in found.items():
            if (self._keys.budget_of(job_id, key_id) or named.get(key_id)) == name:
                hours.update(mine)
        return hours

    # --- what gateways may let them spend

    def parts(self, gateway: Gateway) -> Iterator[pb.KeyBudget]:
        """Of each budget that keys name and that is in force, this gateway's part."""
        state, now = self._engine.state, self._engine.now()
        self._asked[gateway.name] = now
        self._asked = {name: at for name, at in self._asked.items() if now - at < SLICE_US}
        told = Counter[str]()
        for one in self._told.values():
            told.update(one)
        for name in sorted(
            {key.budget for key in state.service_keys.values()} & state.budgets.records.keys()
        ):
            record = state.budgets.records[name]
            room = state.budgets.room(record, state.ledger)
            wire = pb.KeyBudget(name=name, renews_at=record.period_end)
            wire.limit.nanos, wire.held.nanos = str(room.limit_nanos), str(room.held_nanos)
            wire.settled.nanos = str(room.settled_nanos + told[name])
            if record.hard:
                left = room.room_nanos + self._for_replicas(name) - told[name]
                wire.left.nanos = str(left // len(self._asked) if left > 0 else left)
            yield wire

    def _for_replicas(self, name: str) -> int:
        """What a budget holds for replicas of services whose keys name it: it pays for these already."""
        state, found = self._engine.state, 0
        for job_id in {key.job_id for key in state.service_keys.values() if key.budget == name}:
            job = state.jobs.get(job_id)
            if job is not None and name in job.budgets:
                holds = (
                    hold for _, one in self._keeper.live(job) for hold in state.ledger.open_holds(one.id)
                )
                found += sum(hold.nanos for hold in holds if hold.budget == name)
        return found
