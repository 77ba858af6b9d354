"""`offers --job`: what each offer of each pool is to a job, by the look that chooses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from rented_site import CLOUD, LARGE, POOL, Site

from bursar.errors import InvalidRequest, WrongState
from bursar.model import ArraySpec
from bursar.resources import GpuRequest, ResourceRequest
from bursar.v1 import money_pb2 as pb
from bursard.machines import choose, renting
from bursard.machines.errors import error_of
from bursard.machines.provider import Place
from bursard.services.offers import offers_for
from bursard.state import JobRecord

Answer = TypeVar("Answer")
TWO_ZONES = CLOUD.replace("[home-a]", "[home-a, home-b]")


def told(site: Site, job: JobRecord, **asked: object) -> list[tuple[str, str, str, str]]:
    request = pb.PricesRequest(job=job.id, **asked)  # type: ignore[arg-type]
    found = asyncio.run(offers_for(site.world.engine, site.renting, job, request)).prices
    return [(one.instance_type, one.market, one.zone, one.says) for one in found]


def test_the_first_of_the_list_is_the_one_that_is_rented(tmp_path: Path) -> None:
    site = Site(tmp_path, cloud=TWO_ZONES)
    job = site.large()
    site.pass_time(1)
    found = told(site, job)
    assert found == [
        ("cpu.small", "spot", "home-a", "the first to be rented"),
        ("cpu.small", "spot", "home-b", "would do"),
        ("cpu.small", "on-demand", "home-a", "would do"),
        ("cpu.small", "on-demand", "home-b", "would do"),
        ("gpu.small", "on-demand", "home-a", "would do"),
        ("gpu.small", "on-demand", "home-b", "would do"),
    ]
    assert told(site, job, market="on-demand", limit=1) == [
        ("cpu.small", "on-demand", "home-a", "the first to be rented")
    ]
    site.pass_time(3)
    (machine,) = site.machines
    assert (machine.instance_type, machine.market, machine.zone) == found[0][:3]


def test_what_an_offer_lacks_is_said_of_each(tmp_path: Path) -> None:
    site = Site(tmp_path)
    gpu = (ResourceRequest(GpuRequest(count=1, types=("L4",)), 1_000, 1 << 20),)
    job, dear = site.world.submit(options=gpu), site.large(max_price_nanos_per_hour=1_000_000_000)
    site.pass_time(1)
    blocked = error_of(
        "local", "NoCapacity", "none left", Place("home", "home-a", "cpu.small", market="spot")
    )
    site.renting.houses["local"].keeper.blocks.add(blocked, site.world.engine.now())
    assert {(kind, market): says for kind, market, _, says in told(site, job)} == {
        ("gpu.small", "on-demand"): "the first to be rented",
        ("cpu.small", "spot"): "it has no GPUs, you ask L4",
        ("cpu.small", "on-demand"): "it has no GPUs, you ask L4",
    }
    says = {(kind, market): says for kind, market, _, says in told(site, dear)}
    assert says["gpu.small", "on-demand"] == "the first to be rented", "of which it takes a small share"
    assert says["cpu.small", "on-demand"].endswith(" an hour, above max_price")
    assert "none left" in says["cpu.small", "spot"]


def test_of_a_gang_it_says_how_many(tmp_path: Path) -> None:
    site = Site(tmp_path, POOL.replace("machines: 2", "machines: 3"))
    gang, large = site.world.submit(options=LARGE, nodes=3), site.world.submit(options=LARGE, nodes=4)
    site.pass_time(1)
    assert told(site, gang)[0][3] == "the first to be rented: 3 of them"
    assert told(site, large)[0][3] == "has 0 machines, its limit is 3, and 4 more are wanted together"


def test_what_cannot_be_asked_is_refused_with_why(tmp_path: Path) -> None:
    site = Site(tmp_path)
    job, array = site.large(), site.large(array=ArraySpec((0, 1)))
    site.pass_time(1)
    with pytest.raises(WrongState, match=rf"is an array: .* such as {array.display}\[0\]"):
        told(site, array)
    with pytest.raises(InvalidRequest, match=r"^job: goes with provider"):
        told(site, job, gpus="L4:1")
    with pytest.raises(InvalidRequest, match="this daemon rents no machines"):
        asyncio.run(offers_for(site.world.engine, None, job, pb.PricesRequest(job=job.id)))
    site.pass_time(40)
    with pytest.raises(WrongState, match="nothing is rented for what does not wait"):
        told(site, job)


async def beside(work: Coroutine[Any, Any, Answer], each: Callable[[], object]) -> Answer:
    """Its answer, while something else has the loop as often as it is let."""
    task = asyncio.ensure_future(work)
    while not task.done():
        each()
        await asyncio.sleep(0)
    return task.result()


def test_the_loop_goes_on_between_a_few_offers_and_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, cloud=TWO_ZONES)
    job = site.large()
    site.pass_time(1)
    whole = told(site, job)
    most, looked = 0, 0
    real = choose.looks

    def counted(*given: Any) -> Iterator[choose.Look]:
        nonlocal looked
        looked += len(given[1].offers)
        return real(*given)

    def turn() -> None:
        nonlocal most, looked
        most, looked = max(most, looked), 0

    monkeypatch.setattr(renting, "looks", counted)
    monkeypatch.setattr(renting, "LOOKS_AT_ONCE", 2)
    asked = pb.PricesRequest(job=job.id)
    found = asyncio.run(beside(offers_for(site.world.engine, site.renting, job, asked), turn))
    assert [(one.instance_type, one.market, one.zone, one.says) for one in found.prices] == whole
    assert most == 2
    looked = 0
    assert len(told(site, job, instance_type="gpu.small")) == 2
    assert looked == 2, "no other offer is looked at"


def test_a_job_that_starts_meanwhile_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path)
    job = site.large()
    site.pass_time(1)
    monkeypatch.setattr(renting, "LOOKS_AT_ONCE", 1)
    turns = iter((lambda: None, lambda: site.pass_time(40)))
    asked = offers_for(site.world.engine, site.renting, job, pb.PricesRequest(job=job.id))
    with pytest.raises(WrongState, match="nothing is rented for what does not wait"):
        asyncio.run(beside(asked, lambda: next(turns, lambda: None)()))
