"""Looks for what costs more than its like, and has each of it told once.

Why     a report that somebody must ask for is read after the month. What is found is an event, so that a
        restart tells nothing twice; whoever hears of it is the courier's business.
Limits  a day is told when its cost so far is beyond the usual, and again when it has come to twice what was
        told last: so a day that goes on rising is told a few times, and one that stands still once. The next
        day is another one. Of one look no more than `PER_LOOK` are told, of 24 hours `PER_DAY`: the dearest
        first, and what was left out says `report anomalies`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from bursar.clock import DAY_US
from bursar.errors import BursarError
from bursar_policies.specs import AlertChannelSpec
from bursard.engine import Engine
from bursard.events import AnomalyFound, decode
from bursard.reports.anomalies import Anomaly, unusual
from bursard.reports.period import Period
from bursard.store import EventFilter, Views

log = logging.getLogger(__name__)

EVERY_S: Final = 900.0
PER_LOOK: Final = 20
PER_DAY: Final = 100
TIMES: Final = 2
"""What has come to so many times what was told is told again."""
_KEPT_US: Final = 3 * DAY_US
_KIND: Final = "anomaly-found"
_PAGE: Final = 500

Key = tuple[str, str, int]
"""day | run, the project, and the day or the number of the job."""


class AnomalyWatch:
    """One for the daemon; it looks only while a channel wants to hear."""

    def __init__(self, engine: Engine, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._engine = engine
        self._sleep = sleep
        self._told: dict[Key, tuple[int, int]] | None = None
        """When each was told last, and at what cost; None until the log was read."""

    async def run(self) -> None:
        """Look for ever. What goes wrong in one look is left to the next."""
        while True:
            try:
                await self.look()
            except (BursarError, OSError) as error:
                log.warning("anomalies were not looked for", extra={"why": str(error)})
            await self._sleep(EVERY_S)

    async def look(self) -> int:
        """One look at yesterday and today, of UTC; how many are told now."""
        if not self._wanted():
            return 0
        engine, now = self._engine, self._engine.now()
        today = now - now % DAY_US
        period = Period("", today - DAY_US, today + DAY_US)
        books = await engine.books()
        found, _ = await engine.read(lambda views: unusual(views, period, books, ""))
        if self._told is None:
            self._told = await engine.read(lambda views: _told_since(views, now - _KEPT_US))
        told = {key: said for key, said in self._told.items() if said[0] > now - _KEPT_US}
        left = min(PER_LOOK, PER_DAY - sum(at > now - DAY_US for at, _ in told.values()))
        news = [one for one in found if _is_news(one, told)][: max(left, 0)]
        if news:
            told |= {_key(one): (now, one.nanos) for one in news}
            engine.commit([_event(one) for one in news], "bursard")
        self._told = told
        return len(news)

    def _wanted(self) -> bool:
        specs = (document.spec for document in self._engine.state.policies.values())
        return any(isinstance(spec, AlertChannelSpec) and spec.anomalies for spec in specs)


def _is_news(one: Anomaly, told: dict[Key, tuple[int, int]]) -> bool:
    said = told.get(_key(one))
    return said is None or one.nanos >= TIMES * said[1]


def _key(one: Anomaly) -> Key:
    return one.what, one.project, one.number if one.what == "run" else one.day


def _event(one: Anomaly) -> AnomalyFound:
    return AnomalyFound(
        name=one.project,
        what=one.what,
        day=one.day,
        nanos=one.nanos,
        usual_nanos=one.usual,
        lines=one.causes,
        job_number=one.number,
        run=one.run,
    )


def _told_since(views: Views, since: int) -> dict[Key, tuple[int, int]]:
    """What the log says was told, by the newest of each."""
    found: dict[Key, tuple[int, int]] = {}
    after, query = 0, EventFilter(kinds=(_KIND,), since=since)
    while rows := views.events(after, _PAGE, query):
        for row in rows:
            event = decode(row.payload)
            if isinstance(event, AnomalyFound):
                subject = event.job_number if event.what == "run" else event.day
                found[event.what, event.name, subject] = (row.at, event.nanos)
        after = rows[-1].seq
    return found
