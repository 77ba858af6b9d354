"""After a restore: the daemon speaks above every epoch that was obeyed; a fenced order fails no job."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bursar.model import EndCause, JobState
from bursar_agent.statedir import LogEnd, StateDir
from bursard.fleet import AgentLink, Agents, Assign, Exited, Forget, Heartbeat, Hello, LogGrew, MeterNow
from bursard.fleet.agents import FENCED_MAX, FENCED_STEP_MAX, LogBehind
from bursard.fleet.believe import EPOCH_STEP_MAX
from bursard.fleet.door import EPOCH_MAX
from bursard.fleet.link import WORDS_BURST, WORDS_PER_S
from bursard.fleet.testing import FACTS, World
from bursard.services.agents import AgentsService
from bursard.store import LogHead
from bursard.telemetry import LiveTelemetry

HELLO = Hello(facts=FACTS, boot_id="boot-1", boot_us=1_000_000_000, instance="agent_1")


class Site(World):
    """One agent's stream, whose messages a test reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.hub = Agents(self.engine, self.fleet)

    async def connect(self, **changes: object) -> AgentLink:
        hello = msgspec.structs.replace(HELLO, boot_us=self.clock.boot_us(), **changes)
        node = await self.hub.admit(hello)
        link = AgentLink(node.id, FACTS.name, "boot-1", instance="agent_1")
        self.hub.join(link, hello.truths)
        return link

    async def fence(self, link: AgentLink, order: Assign, epoch: int) -> None:
        """The agent refuses an order, and everything that follows from it happens."""
        word = Exited(
            attempt_id=order.attempt_id,
            rank=order.rank,
            cause=EndCause.START_FAILED,
            message="assignment refused",
            started=False,
            fenced_epoch=epoch,
        )
        self.hub.take(link, word)
        await asyncio.gather(*link.tasks)
        self.writer.flush()


def play(story: Callable[[Site], Awaitable[None]]) -> None:
    async def whole() -> None:
        await story(Site())

    asyncio.run(whole())


def test_a_hello_of_a_later_epoch_lifts_the_daemon_above_it_before_anything_is_told() -> None:
    async def story(site: Site) -> None:
        await site.connect(epoch=7)
        assert site.log.epoch == 8
        assert site.node().mode == "open"

    play(story)


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_epoch_that_is_ours_or_older_changes_nothing(epoch: int) -> None:
    async def story(site: Site) -> None:
        await site.connect(epoch=epoch)
        assert site.log.epoch == 1

    play(story)


def test_an_epoch_out_of_all_reach_is_not_followed_and_its_node_gets_no_work() -> None:
    async def story(site: Site) -> None:
        await site.connect(epoch=2**40)
        assert site.log.epoch == 1
        assert site.node().mode == "quarantine"
        assert str(2**40) in site.node().reason

    play(story)


def test_an_order_that_was_fenced_is_given_again_for_a_higher_epoch_and_the_job_knows_nothing() -> None:
    async def story(site: Site) -> None:
        link = await site.connect()
        job = site.submit()
        site.cycle()
        (order,) = await link.take()
        assert isinstance(order, Assign)
        await site.fence(link, order, 5)
        assert site.log.epoch == 6
        assert await link.take() == [order]
        assert (job.state, job.retries, len(job.attempts)) == (JobState.STARTING, 0, 1)

    play(story)


def test_an_agent_that_refuses_for_ever_is_not_asked_for_ever() -> None:
    async def story(site: Site) -> None:
        link = await site.connect()
        job = site.submit()
        site.cycle()
        (order,) = await link.take()
        assert isinstance(order, Assign)
        for _ in range(FENCED_MAX):
            await site.fence(link, order, 0xFFFF)
            assert await link.take() == [order]
        await site.fence(link, order, 0xFFFF)
        assert job.state is JobState.FAILED
        assert site.node().mode == "quarantine"
        assert "refuses every order" in site.node().reason

    play(story)


def test_a_refusal_of_what_is_not_its_own_or_out_of_reach_moves_no_epoch() -> None:
    async def story(site: Site) -> None:
        link = await site.connect()
        job = site.submit()
        site.cycle()
        (order,) = await link.take()
        assert isinstance(order, Assign)
        for number in range(100):
            other = msgspec.structs.replace(order, attempt_id=f"att_{number}")
            await site.fence(link, other, 2 + number)
        await site.fence(link, msgspec.structs.replace(order, rank=1), 2)
        assert (site.log.epoch, len(link.fenced)) == (1, 0)
        await site.fence(link, order, 1 + FENCED_STEP_MAX + 1)
        assert (site.log.epoch, job.state) == (1, JobState.STARTING)
        await site.fence(link, order, 1 + FENCED_STEP_MAX)
        assert site.log.epoch == FENCED_STEP_MAX + 2

    play(story)


def test_a_node_that_is_put_aside_moves_no_epoch() -> None:
    async def story(site: Site) -> None:
        link = await site.connect()
        site.submit()
        site.cycle()
        (order,) = await link.take()
        assert isinstance(order, Assign)
        site.fleet.suspect(site.node(), "it lies")
        await site.fence(link, order, 5)
        assert site.log.epoch == 1

    play(story)


def test_epochs_end_far_from_what_can_be_written() -> None:
    async def story(site: Site) -> None:
        top = EPOCH_MAX - EPOCH_STEP_MAX
        site.log.epoch = top - 1
        await site.hub.raise_epoch(top + 1)
        assert site.log.epoch == top - 1
        await asyncio.gather(*(site.hub.raise_epoch(top) for _ in range(5)))
        assert site.log.epoch == top + 1

    play(story)


def test_a_flood_waits_unread_and_an_honest_burst_does_not() -> None:
    link = AgentLink("node_1", "n-1", "boot-1")
    assert link.wait_s(1_000_000, WORDS_BURST) == 0
    assert link.wait_s(1_000_000, WORDS_PER_S) == 1.0
    assert link.wait_s(2_000_000, WORDS_PER_S) == 1.0
    assert link.wait_s(10**12, WORDS_BURST) == 0
    assert link.wait_s(10**12) == 1 / WORDS_PER_S


def test_a_fenced_order_of_a_job_that_was_cancelled_meanwhile_ends_it() -> None:
    async def story(site: Site) -> None:
        link = await site.connect()
        job = site.submit()
        site.cycle()
        (order,) = await link.take()
        assert isinstance(order, Assign)
        assert job.attempt is not None
        site.stop(job.attempt)
        await link.take()
        await site.fence(link, order, 5)
        assert job.state is JobState.CANCELLED

    play(story)


def test_a_log_that_lacks_what_an_agent_was_told_serves_it_not() -> None:
    async def story(site: Site) -> None:
        lost = {"log_seq": 99, "log_hash": b"x" * 32}
        with pytest.raises(LogBehind, match="accept-loss"):
            await site.connect(**lost, log_cluster_id="c")
        assert site.state.node_by_name("n-1") is None
        await site.connect(**lost, log_cluster_id="another")

    play(story)


def test_the_end_of_the_log_outlives_the_agent_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "a")
    assert state.log_end() is None
    state.remember_log_end(LogEnd("c", 5, b"h" * 32))
    state.close()
    state = StateDir(tmp_path / "a")
    assert state.log_end() == LogEnd("c", 5, b"h" * 32)
    flipped = (tmp_path / "a" / "log-end.json").read_bytes().replace(b'"seq":5', b'"seq":7')
    older = b'{"cluster_id":"c","seq":7,"digest":"aGg="}'
    (tmp_path / "a" / "log-end.json").write_bytes(older)
    assert state.log_end() == LogEnd("c", 7, b"hh"), "an older release wrote no checksum"
    for damage in (b"", b"{", b"\xff" * 50, b'{"cluster_id":1}', flipped):
        (tmp_path / "a" / "log-end.json").write_bytes(damage)
        assert state.log_end() is None
    state.close()


def test_an_agent_is_told_on_its_heartbeat_that_the_log_grew_by_whatever_and_once() -> None:
    async def story(site: Site) -> None:
        link = await site.connect()

        async def heard() -> list[Any]:
            site.hub.take(link, Heartbeat(boot_us=site.clock.boot_us()))
            link.send(MeterNow())  # so that there is something to be taken
            return [one for one in await link.take() if not isinstance(one, MeterNow)]

        assert await heard() == []
        site.log.head = LogHead(5, b"h" * 32)
        assert await heard() == [LogGrew()]
        assert await heard() == []

    play(story)


def test_ends_are_acknowledged_with_the_end_of_the_log_that_they_are_in() -> None:
    async def story(site: Site) -> None:
        made = AgentsService(site.hub, LiveTelemetry(), mqtt_url="")
        head = site.log.head = LogHead(5, b"h" * 32)
        (told,) = made._pack([LogGrew(), Forget("att_1", 0), Forget("att_2", 1)])
        assert [one.attempt_id for one in told.forget.members] == ["att_1", "att_2"]
        assert (told.forget.log_seq, told.forget.log_hash) == (head.seq, head.hash)
        (alone,) = made._pack([LogGrew()])
        assert (len(alone.forget.members), alone.forget.log_seq) == (0, head.seq)

    play(story)
