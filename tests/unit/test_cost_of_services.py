"""What services cost: whole hours, of requests and of what they cost, and by what a replica took then."""

from __future__ import annotations

import msgspec
import pytest
from money_daemon import COST_MODEL, START, Daemon, in_a_daemon

from bursar.clock import HOUR_US, SECOND_US
from bursar.errors import InvalidRequest
from bursar.model import ServiceSpec
from bursar.v1 import money_pb2 as pb
from bursard.events import KeyUse, ServiceMetered
from bursard.state.decide import services

MINUTE_US = 60 * SECOND_US


async def _of(daemon: Daemon, *by: str, since: int = 0, until: int = 0) -> tuple[int, int, int, int]:
    request = pb.CostRequest(by=by or ("service",), since=since, until=until)
    answer = await daemon.money.Cost(request, None)
    asked = sum(row.use.requests for row in answer.rows)
    return int(answer.total.nanos), asked, answer.since, answer.until


def test_a_time_that_begins_or_ends_inside_an_hour_is_told_of_whole_hours_and_says_so() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a")
        chat = ServiceSpec(replicas_min=1, replicas_max=1)
        job_id = daemon.submit(name="chat", project="p", time_limit_us=0, service=chat)
        for minute in range(180):
            at = daemon.clock.now()
            daemon.clock.advance(MINUTE_US)
            daemon.meter()
            uses = (KeyUse("k1", requests=10, tokens_out=10),)
            told = ServiceMetered(job_id, "g", minute + 1, at, MINUTE_US, MINUTE_US, uses)
            daemon.engine.commit([told], "g")
        half = HOUR_US // 2
        nanos, asked, _, _ = await _of(daemon)
        assert asked == 1_800
        for first, last in ((1, 3), (1, 4), (2, 3), (2, 5), (3, 4)):
            since, until = START + first * half, START + last * half
            begins, ends = first // 2, -(-last // 2)
            whole = await _of(daemon, since=START + begins * HOUR_US, until=START + ends * HOUR_US)
            assert whole[1:] == (600 * (ends - begins), START + begins * HOUR_US, START + ends * HOUR_US)
            assert whole[0] == pytest.approx(nanos * (ends - begins) / 3, rel=1e-6)
            assert await _of(daemon, "service", "key", since=since, until=until) == whole
        assert (await _of(daemon, "project", since=START + half))[2] == START + half

    in_a_daemon(story)


def test_a_month_of_a_place_whose_midnights_are_inside_an_hour_of_utc_is_refused() -> None:
    async def story(daemon: Daemon) -> None:
        request = pb.CostRequest(by=["service"], period="2026-10", timezone="Asia/Kolkata")
        with pytest.raises(InvalidRequest, match="2026-10 of Asia/Kolkata begins or ends inside one; ask"):
            await daemon.money.Cost(request, None)
        for by, zone in (("service", "Europe/Berlin"), ("project", "Asia/Kolkata")):
            found = await daemon.money.Cost(pb.CostRequest(by=[by], period="2026-10", timezone=zone), None)
            assert found.period == "2026-10"

    in_a_daemon(story)


def test_the_busy_part_is_of_what_a_replica_took_at_the_time() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a")
        state = daemon.engine.state
        chat = ServiceSpec(replicas_min=1, replicas_max=1, target=2)
        job_id = daemon.submit(name="chat", project="p", time_limit_us=0, service=chat)
        for minute in range(120):
            if minute == 60:
                job = state.jobs[job_id]
                other = msgspec.structs.replace(chat, target=8)
                changed = services.update(state, job, msgspec.structs.replace(job.spec, service=other))
                daemon.engine.commit(changed, "ann")
            at = daemon.clock.now()
            daemon.clock.advance(MINUTE_US)
            daemon.meter()
            uses = (KeyUse("k1", requests=1),)
            daemon.engine.commit([ServiceMetered(job_id, "g", minute + 1, at, MINUTE_US, 0, uses)], "g")
        for hour, part in ((0, 1 / 2), (1, 1 / 8)):
            since = START + hour * HOUR_US
            request = pb.CostRequest(by=["service", "key"], since=since, until=since + HOUR_US)
            answer = await daemon.money.Cost(request, None)
            of = {row.keys[1]: int(row.nanos) for row in answer.rows}
            assert of["k1"] / int(answer.total.nanos) == pytest.approx(part, rel=1e-6)

    in_a_daemon(story)
