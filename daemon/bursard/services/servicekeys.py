"""Keys as gateways know them, and which keys a service has ever had.

Owns    the list that every gateway gets, made once for each change of it, and the tag by which it knows that
        nothing changed.
Why     a gateway asks once a second. And what it says that a key used is believed of keys of that service
        alone: those of now, and those that were void before it told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from bursar.clock import SECOND_US
from bursar.v1 import services_pb2 as pb
from bursard.engine import Engine
from bursard.events import Event, KeyIssued, KeyRevoked, KeyUse, decode
from bursard.services.serviceviews import fallback_of
from bursard.state.records import ServiceKey
from bursard.store import EventFilter, Views

AHEAD_US: Final = 120 * SECOND_US
"""A gateway's clock may be so far before the daemon's."""
_PAGE: Final = 1_000


class Keys:
    """The keys of one daemon. Belongs to the event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._listed: tuple[list[pb.GatewayKey], str] | None = None
        self._many = 0
        self._ever: dict[str, dict[str, str]] = {}
        """By job, all keys that it ever had, where that was asked, with the budgets they name."""
        engine.listeners.append(self._on_event)

    def _on_event(self, seq: int, event: Event, at: int, actor: str) -> None:
        if isinstance(event, KeyIssued | KeyRevoked):
            self._listed = None
            if event.job_id in self._ever:
                named = event.budget if isinstance(event, KeyIssued) else ""
                self._ever[event.job_id].setdefault(event.key_id, named)

    def listed(self) -> tuple[list[pb.GatewayKey], str]:
        """All keys, and a tag that is another one when they are others."""
        # Those of a service that is gone go without an event.
        if self._listed is None or self._many != len(self._engine.state.service_keys):
            keys = [_wire(key) for key in self._engine.state.service_keys.values()]
            digest = hashlib.sha256(b"".join(one.SerializeToString(deterministic=True) for one in keys))
            self._listed, self._many = (keys, digest.hexdigest()[:32]), len(keys)
        return self._listed

    async def learn(self, told: Iterable[pb.ServiceMinute]) -> None:
        """Read of the log whatever keys are named that are none now: a void key may have used something."""
        jobs = self._engine.state.jobs
        self._ever = {job_id: known for job_id, known in self._ever.items() if job_id in jobs}
        for one in told:
            await self.know(one.job_id, [use.key_id for use in one.uses])

    async def know(self, job_id: str, key_ids: Iterable[str]) -> None:
        """Read of the log which keys a service has had, if any of these is none now."""
        keys, jobs = self._engine.state.service_keys, self._engine.state.jobs
        if job_id in self._ever or job_id not in jobs or not any(one and one not in keys for one in key_ids):
            return
        found = await self._engine.read(lambda views: _ever(views, job_id))
        self._ever[job_id] = {**found, **self._ever.get(job_id, {})}

    def budget_of(self, job_id: str, key_id: str) -> str:
        """The budget that a key names, or that one named which is void; empty: none, or not known."""
        key = self._engine.state.service_keys.get(key_id)
        return key.budget if key is not None else self._ever.get(job_id, {}).get(key_id, "")

    def budgets_ever(self, job_id: str) -> set[str]:
        """All that keys of a service ever named, as far as is known."""
        return set(self._ever.get(job_id, {}).values()) - {""}

    def own(self, job_id: str, uses: Iterable[pb.KeyUse]) -> tuple[list[KeyUse], int]:
        """What keys of a service used. What is told of any other key is of none; that often it was."""
        found, strange = [], 0
        for use in uses:
            if use.key_id and not self._is_of(job_id, use.key_id):
                strange += 1
                use.key_id = ""
            found.append(KeyUse(*(getattr(use, name) for name in KeyUse.__struct_fields__)))
        return found, strange

    def _is_of(self, job_id: str, key_id: str) -> bool:
        state = self._engine.state
        key = state.service_keys.get(key_id)
        if key is None:
            return key_id in self._ever.get(job_id, ())
        if key.job_id == job_id:
            return True
        other = state.jobs.get(key.job_id)
        answers = fallback_of(state, other) if other is not None else None
        return answers is not None and answers.id == job_id


def _ever(views: Views, job_id: str) -> dict[str, str]:
    found: dict[str, str] = {}
    after, asked = 0, EventFilter(kinds=("key-issued",), about=job_id)
    while rows := views.events(after, _PAGE, asked):
        events = (decode(row.payload) for row in rows)
        found |= {event.key_id: event.budget for event in events if isinstance(event, KeyIssued)}
        after = rows[-1].seq
        if len(rows) < _PAGE:
            break
    return found


def _wire(key: ServiceKey) -> pb.GatewayKey:
    return pb.GatewayKey(
        id=key.id,
        sha256=key.sha256,
        job_id=key.job_id,
        requests_per_minute=key.requests_per_minute,
        concurrency=key.concurrency,
        expires_at=key.expires_at,
        budget=key.budget,
    )
