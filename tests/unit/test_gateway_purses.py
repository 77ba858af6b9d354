"""Budgets of keys at the gateway: who is let in, by what is left and by what is in hand (G5, G10, G12)."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from gateway_site import Replica, Site, play

from bursar.v1 import services_pb2 as pb
from bursar_gateway.core import Core, Key, Route
from bursar_gateway.link import KEEN_S, Link, Spool
from bursar_gateway.meters import Kept, Meter, Use
from bursar_gateway.purses import HOUR_US, LAPSE_US, Place, Purse, Purses

S = 1_000_000
T0 = 100 * 60 * S
NANOS = 3_600 * 10**9
"""A place of a replica costs a unit of money a second: that of 8 costs eight."""
ONE = 10**9


def core(left: int | None, total_s: int = 1, **more: int) -> tuple[Core, Key, Meter]:
    """One replica with 50 places, and a key that names a budget."""
    meter = Meter(Kept(), T0)
    made = Core(Purses(lambda key_id: meter.untold.get(key_id, {})))
    key = Key(id="key_1", job_id="job_1", budget="b", **more)
    learn(made, key, left, total_s)
    meter.room("job_1", 50, T0)
    return made, key, meter


def learn(made: Core, key: Key, left: int | None, total_s: int = 1, now: int = T0, budget: str = "b") -> None:
    route = Route(
        job_id="job_1", name="chat", api="openai", target=50, replicas={"a": 1}, queue_us=S, cold_us=S,
        first_byte_us=S, idle_us=S, total_us=total_s * S, rates={"a": 50 * NANOS},
    )  # fmt: skip
    purse = Purse(name=budget, left=left, facts={"budget": budget, "limit": "100"}, renews_at=T0 + 90 * S)
    made.learn([route], {hashlib.sha256(b"x").hexdigest(): key}, now, [purse])


def asked_by(threads: int, made: Core, key: Key, meter: Meter, each_us: int, until: int) -> tuple[int, int]:
    """Each thread asks again once it is answered, or 100 ms after it was refused. How many were let in, and
    how often they were refused.
    """
    turns, let_in, refused = [(T0 + n, n, 0) for n in range(threads)], 0, 0
    while turns:
        now, thread, began = heapq.heappop(turns)
        meter.roll(now)
        if began:
            meter.end("job_1", key.id, Use(requests=1), now)
            made.leave(key, now - began)
        if now >= until:
            continue
        if made.admit(key, now) is None:
            let_in += 1
            meter.begin("job_1", key.id, now)
            heapq.heappush(turns, (now + each_us, thread, now))
        else:
            refused += 1
            heapq.heappush(turns, (now + 100_000, thread, 0))
    return let_in, refused


def test_fifty_threads_with_money_for_a_hundred_requests_get_no_more_and_cost_no_more() -> None:
    made, key, meter = core(100 * ONE)
    let_in, refused = asked_by(50, made, key, meter, S, T0 + 20 * S)
    assert 95 <= let_in <= 100
    assert refused
    left = made.purses.left("b")
    assert left is not None
    assert 0 <= left == (100 - let_in) * ONE


def test_what_takes_longer_than_it_was_expected_to_passes_the_budget_by_what_is_in_hand_alone() -> None:
    made, key, meter = core(100 * ONE)
    asked_by(1, made, key, meter, S // 10, T0 + S)  # ten requests that took a tenth of a second each
    learn(made, key, 100 * ONE)
    let_in, _ = asked_by(50, made, key, meter, 10 * S, T0 + 100 * S)
    left = made.purses.left("b")
    assert left is not None
    assert let_in <= 50
    assert left >= 100 * ONE - ONE - 50 * 10 * ONE


def test_of_a_request_of_which_nobody_knows_how_long_it_takes_one_is_let_in() -> None:
    made, key, _ = core(ONE, total_s=1_800)
    assert made.admit(key, T0) is None
    refused = made.admit(key, T0)
    assert refused is not None
    assert (refused.status, refused.type, refused.code, refused.retry_s) == (
        429, "rate_limit_error", "budget_committed", 1,
    )  # fmt: skip


def test_what_is_spent_is_refused_with_the_numbers_and_when_it_renews_and_more_of_it_lets_in() -> None:
    made, key, _ = core(0)
    refused = made.admit(key, T0)
    assert refused is not None
    assert (refused.status, refused.type, refused.code) == (429, "insufficient_quota", "budget_exhausted")
    assert (refused.facts["limit"], refused.retry_s) == ("100", 91)
    learn(made, key, 5 * ONE)
    assert made.admit(key, T0) is None


def test_a_soft_budget_refuses_nobody_and_one_that_is_not_in_force_everybody() -> None:
    made, key, _ = core(None)
    assert made.admit(key, T0) is None
    learn(made, key, ONE, budget="other")
    refused = made.admit(key, T0)
    assert refused is not None
    assert (refused.code, refused.message) == ("budget_unknown", "budget b of this key is not in force")


def test_while_the_daemon_is_away_keys_spend_what_they_were_left_until_that_lapses() -> None:
    """G12."""
    made, key, meter = core(10**15)
    assert made.admit(key, T0 + LAPSE_US - 1) is None
    refused = made.admit(key, T0 + LAPSE_US)
    assert refused is not None
    assert refused.code == "budget_unknown"
    poor, key, meter = core(3 * ONE)
    let_in, _ = asked_by(1, poor, key, meter, S, T0 + 60 * S)
    assert let_in == 3


def test_what_the_daemon_was_told_is_no_longer_counted_here() -> None:
    made, key, meter = core(100 * ONE)
    asked_by(1, made, key, meter, S, T0 + 10 * S)
    assert made.purses.left("b") == 90 * ONE
    meter.roll(T0 + 60 * S)
    meter.acknowledged(meter.seq)
    assert made.purses.left("b") == 100 * ONE  # less what the daemon says the next time


def test_who_waits_where_there_is_no_room_spends_nothing() -> None:
    made, key, meter = core(100 * ONE)
    meter.room("job_1", 1, T0)
    for _ in range(4):
        meter.begin("job_1", key.id, T0)
    meter.roll(T0 + 8 * S)
    assert made.purses.left("b") == 92 * ONE


def test_a_running_stream_ends_well_where_the_next_request_is_refused_and_more_money_lets_in() -> None:
    """G10, of a key's budget."""

    async def long(request: web.BaseRequest) -> web.StreamResponse:
        made = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await made.prepare(request)
        for part in (b"data: one\n\n", b"data: two\n\n"):
            await made.write(part)
            await gate.wait()
        return made

    gate = asyncio.Event()

    async def story() -> None:
        async with Site(Replica(long), api="http", rates={"att_0": NANOS}, currency="USD") as site:
            site.purses = [Purse(name="nlp", left=ONE, facts={"budget": "nlp", "limit": "1.0"})]
            site.learn(site.ports)
            async with site.client.post(site.url) as first:
                assert first.headers["x-bursar-budget-left"] == "1.000000000 USD"
                await first.content.readany()
                site.purses = [Purse(name="nlp", left=0, facts={"budget": "nlp", "limit": "1.0"})]
                site.learn(site.ports)
                async with site.client.post(site.url) as second:
                    error = (await second.json())["error"]
                    assert (second.status, error["code"]) == (429, "budget_exhausted")
                    assert (error["budget"], error["limit"]) == ("nlp", "1.0")
                    assert second.headers["x-should-retry"] == "false"
                gate.set()
                assert (await first.read()).endswith(b"data: two\n\n")
            site.purses = [Purse(name="nlp", left=10**15)]
            site.learn(site.ports)
            async with site.client.post(site.url) as third:
                assert third.status == 200

    play(story)


class _Daemon:
    """Answers as it is told."""

    async def sync_gateway(self, request: pb.SyncRequest) -> pb.SyncResponse:
        answer = pb.SyncResponse(keys_tag="t")
        answer.keys.add(id="key_1", sha256=hashlib.sha256(b"bsk_a").hexdigest(), job_id="job_1", budget="b")
        answer.routes.add(job_id="job_1", name="chat", target=1, currency="USD")
        for name, hard in (("b", True), ("soft", False)):
            one = answer.budgets.add(name=name, renews_at=1_793_494_800 * S)
            one.limit.nanos, one.settled.nanos, one.held.nanos = "5000000000", "5000000000", "0"
            if hard:
                one.left.nanos = "0"
        return answer


def test_a_gateway_asks_more_often_while_it_refuses_for_want_of_money(tmp_path: Path) -> None:
    meter, made = Meter(Kept(), T0), Core()
    client: Any = _Daemon()
    link = Link(client, "g", "boot", "", made, meter, Spool(tmp_path), lambda: T0)
    asyncio.run(link.sync())
    assert link._pause(False) > KEEN_S
    key = made.key_of({"x-api-key": "bsk_a"}, T0)
    assert isinstance(key, Key)
    refused = made.admit(key, T0)
    assert refused is not None
    assert refused.facts == {
        "budget": "b", "limit": "5.000000000", "settled": "5.000000000", "held": "0.000000000",
        "currency": "USD", "renews_at": "2026-11-01T01:00:00Z", "unsettled": "0.000000000",
    }  # fmt: skip
    assert link._pause(False) == KEEN_S
    assert made.purses.left("soft") is None


@pytest.mark.parametrize(
    ("nanos", "held_us", "cost"), [(3_600, S, 1), (1, 1, 1), (0, S, 0), (7_200, HOUR_US, 7_200)]
)
def test_a_place_costs_its_part_of_an_hour_rounded_up(nanos: int, held_us: int, cost: int) -> None:
    assert Place(nanos, 1, S).cost(held_us) == cost
