"""What a service would cost for what it does, and what its cold start takes: by what it did before.

Owns    how much one replica does with all in hand that it may have, learned from the newest minutes in which
        gateways counted; what a million tokens cost at some loads.
Why     a price by the hour says little beside a price by the token, and the two meet in the load alone: at a
        third of it a token costs three times as much.

What is done is taken to grow with what is in hand. A model that works on many requests at once does less for
each, so what was measured at little load is more than it will do at full load: the load at which it was
measured is told beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from bursar.clock import HOUR_US
from bursar.codec.amounts import exact
from bursar.model import JobSpec
from bursar.v1 import jobs_pb2 as pb
from bursard.access.authorize import Action, allowed
from bursard.access.identity import Identity
from bursard.engine import Engine
from bursard.events import ServiceMetered, decode
from bursard.reports.replicas import Room
from bursard.reports.serving import Minute, minutes_of
from bursard.services.views import record_of
from bursard.state import JobRecord
from bursard.store import EventFilter, Views

LOADS: Final = (30, 60, 100)
"""In percent of what its replicas may have in hand."""
EVENTS_MAX: Final = 1_000
"""The newest of what gateways told; of one gateway that is most of a day in which it was asked all along."""
_NAMED_MAX: Final = 20


class Learned(NamedTuple):
    """What a replica does in an hour with all in hand that it may; by what minutes and load."""

    tokens: int
    requests: int
    minutes: int
    load_percent: int


def learned(minutes: Iterable[Minute], target: int) -> Learned | None:
    """What minutes say; None where nothing was in hand in any of them.

    Args:
        target: requests that one replica has in hand at most.
    """
    busy_us = capacity_us = tokens = requests = many = 0
    for minute in minutes:
        if not minute.busy_us:
            continue
        many += 1
        capacity_us += max(minute.capacity_us, minute.busy_us)
        busy_us += minute.busy_us
        for use in minute.uses.values():
            requests += use.requests - use.failed
            tokens += use.tokens_in + use.tokens_out
    if not busy_us or requests <= 0:
        return None
    in_hour = target * HOUR_US
    return Learned(
        tokens * in_hour // busy_us, requests * in_hour // busy_us, many, 100 * busy_us // capacity_us
    )


async def expect(
    engine: Engine, wire: pb.PlanResponse, spec: JobSpec, seen_by: Identity, cold_us: Callable[[str], int]
) -> None:
    """Add what is known of a service like this one to its plan.

    Args:
        cold_us: how long the last cold start of a service took, by its id; 0: not known.
    """
    known = await _before(engine, spec, seen_by)
    if known is None or known.spec.service is None:
        return
    job_id, each, plan = known.id, exact(wire, "rate_nanos_per_hour"), wire.service
    plan.measured_job = known.display
    plan.measured_elsewhere = known.spec.options != spec.options
    plan.cold_us = cold_us(job_id)
    if plan.cold_us and each >= 0:
        plan.cold_cost.nanos = str(_nearest(each * plan.cold_us, HOUR_US))
    target, number, unposted = known.spec.service.target, known.number, await engine.books()

    def read(views: Views) -> list[Minute]:
        room = Room(views, job_id, target, unposted)
        return _newest(views, job_id, engine.writer.durable_seq, room, number)

    found = learned(await engine.read(read), target)
    if found is None:
        return
    plan.measured_minutes, plan.measured_load_percent = found.minutes, found.load_percent
    plan.tokens_per_hour, plan.requests_per_hour = found.tokens, found.requests
    for load in LOADS if each >= 0 else ():
        cost = plan.loads.add(load_percent=load)
        if found.tokens:
            cost.per_million_tokens.nanos = str(_nearest(each * 100 * 10**6, found.tokens * load))
        if found.requests:
            cost.per_thousand_requests.nanos = str(_nearest(each * 100 * 1_000, found.requests * load))


async def _before(engine: Engine, spec: JobSpec, seen_by: Identity) -> JobRecord | None:
    """The service of this name and project that lives, or lived last, if the caller may see its cost."""

    def is_it(job: JobRecord) -> bool:
        return job.spec.service is not None and not job.parent_id and job.spec.project == spec.project

    state = engine.state
    live = [state.jobs[job_id] for job_id in state.names.get(spec.name, ()) if job_id in state.jobs]
    found = max(filter(is_it, live), key=lambda job: job.number, default=None)
    if found is None and spec.name:
        rows = await engine.read(lambda views: views.jobs_named(spec.name, _NAMED_MAX))
        found = next((job for row in rows if is_it(job := record_of(row))), None)
    if found is None or not allowed(seen_by, Action.SEE_COST, found.spec.project, found.user):
        return None
    return found


def _newest(views: Views, job_id: str, durable_seq: int, room: Room, number: int) -> list[Minute]:
    """The newest minutes, with what its replicas could have had in hand: as bills have it, since several
    gateways before one replica each tell of all of it.
    """
    asked = EventFilter(kinds=("service-metered",), about=job_id)
    rows = views.events_before(durable_seq + 1, EVENTS_MAX, asked)
    told = minutes_of(event for row in rows if isinstance(event := decode(row.payload), ServiceMetered))
    most = room.of(told, number, min(told, default=0))
    return [one._replace(capacity_us=most.get(at, one.capacity_us)) for at, one in told.items()]


def _nearest(amount: int, parts: int) -> int:
    """An amount divided, to the next whole one."""
    return (2 * amount + parts) // (2 * parts)
