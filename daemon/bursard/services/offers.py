"""Offers for a job: the machines that may be rented for it, as the daemon looks at them when it rents.

Why     "why that machine, and what of the others?" is answered by the look that chooses, not by another one.
"""

from __future__ import annotations

from functools import partial

from bursar.errors import InvalidRequest, WrongState
from bursar.model import JobState
from bursar.v1 import money_pb2 as pb
from bursard.engine import Engine
from bursard.machines.choose import Look, Pool
from bursard.machines.provider import Place
from bursard.machines.renting import Renting
from bursard.state import JobRecord
from bursard.turns import breathe

OFFERS_MAX = 1_000
"""Of one answer."""


async def offers_for(
    engine: Engine, rents: Renting | None, job: JobRecord, request: pb.PricesRequest
) -> pb.PricesResponse:
    """Every offer of every pool, the cheapest first of those that would do, then those that would not.

    The loop goes on between a few of them and the next: there may be tens of thousands.

    Raises:
        InvalidRequest: beside filters that are of prices. WrongState: it does not wait, or is many tasks.
    """
    if request.gpus or request.history or request.sort:
        raise InvalidRequest("job: goes with provider, region, instance_type, market and limit alone")
    _refuse_started(job)
    if job.array is not None:
        raise WrongState(f"job {job.display} is an array: ask for one of its tasks, such as {job.display}[0]")
    if rents is None:
        raise InvalidRequest(
            "this daemon rents no machines: apply a CloudPool, or start bursard with --local-cloud FILE"
        )
    found: list[tuple[Pool, Look]] = []
    job_class = engine.state.class_of(job)
    for some in rents.offers_for(job, job_class, lambda pool, place: _wanted(pool, place, request)):
        found += some
        await breathe()
        _refuse_started(job)
    return await engine.aside(partial(_answer, found, request, engine.state.currency))


def _refuse_started(job: JobRecord) -> None:
    if job.state is not JobState.PENDING:
        raise WrongState(f"job {job.display} is {job.state.value}: nothing is rented for what does not wait")


def _answer(found: list[tuple[Pool, Look]], request: pb.PricesRequest, currency: str) -> pb.PricesResponse:
    found.sort(key=_rank)
    chosen = next((look for _, look in found if look.choice is not None), None)
    most = min(request.limit or OFFERS_MAX, OFFERS_MAX)
    return pb.PricesResponse(prices=[_price(pool, look, chosen, currency) for pool, look in found[:most]])


def _wanted(pool: Pool, place: Place, request: pb.PricesRequest) -> bool:
    wants = (request.provider, request.region, request.instance_type, request.market)
    has = (pool.provider, place.region, place.instance_type, place.market)
    return all(not want or want == value for want, value in zip(wants, has, strict=True))


def _rank(one: tuple[Pool, Look]) -> tuple[bool, int, str, str, str, str, str]:
    pool, look = one
    place = look.offer.place
    machines = look.choice.machines if look.choice is not None else 1
    return (
        look.choice is None,
        look.offer.rate_nanos_per_hour * machines,
        pool.name,
        place.zone,
        place.region,
        place.instance_type,
        place.market,
    )


def _price(pool: Pool, look: Look, chosen: Look | None, currency: str) -> pb.Price:
    offer, place = look.offer, look.offer.place
    per_gpu = offer.rate_nanos_per_hour // offer.gpu_count if offer.gpu_count else 0
    return pb.Price(
        provider=pool.provider,
        region=place.region,
        zone=place.zone,
        pool=pool.name,
        instance_type=place.instance_type,
        market=place.market,
        rate_nanos_per_hour=offer.rate_nanos_per_hour,
        rate_per_gpu_nanos_per_hour=per_gpu,
        currency=currency,
        source=offer.source,
        cpu_milli=offer.cpu_milli,
        memory_bytes=offer.memory_bytes,
        gpu_type=offer.gpu_type,
        gpus=offer.gpu_count,
        gpu_memory_bytes=offer.gpu_memory_bytes,
        says=_says(look, look is chosen),
    )


def _says(look: Look, chosen: bool) -> str:
    if look.choice is None:
        return look.why
    many = look.choice.machines
    return f"{'the first to be rented' if chosen else 'would do'}{f': {many} of them' if many > 1 else ''}"
