"""The hub of the agents' streams: which stream is heard, what waits in it, and who is told of its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from bursar.errors import Forbidden, InvalidRequest, ServerUnavailable
from bursar.model import EndCause
from bursard.events import NodeMisbehaved
from bursard.fleet import AgentLink, Agents, Assign, Hello, Started, StepFrame
from bursard.fleet import link as link_module
from bursard.fleet.fleet import STRANGERS_A_TURN
from bursard.fleet.link import (
    LAZY_MAX,
    LOG_ANSWER_S,
    STEP_BYTES_MAX,
    WORDS_BURST,
    WORDS_PER_S,
    MeterNow,
    UsageAck,
)
from bursard.fleet.testing import FACTS, World
from bursard.fleet.words import Exited, Forget, Heartbeat, LogAnswer, LogRange, MemberTruth, Usage

HELLO = Hello(facts=FACTS, boot_id="boot-1", boot_us=1_000_000_000, instance="agent_1")


class Site(World):
    """One agent's streams, whose messages a test reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.hub = Agents(self.engine, self.fleet)

    async def admitted(self, **changes: object) -> AgentLink:
        """A stream whose hello was taken; its node is served by nobody yet."""
        hello = msgspec.structs.replace(HELLO, boot_us=self.clock.boot_us(), **changes)
        node = await self.hub.admit(hello)
        return AgentLink(node.id, FACTS.name, "boot-1", instance="agent_1")

    async def connect(self, truths: tuple[MemberTruth, ...] = (), **changes: object) -> AgentLink:
        link = await self.admitted(truths=truths, **changes)
        self.hub.join(link, truths)
        return link


def play(story: Callable[[Site], Awaitable[None]]) -> None:
    async def whole() -> None:
        await story(Site())

    asyncio.run(whole())


def test_what_comes_over_a_stream_that_was_replaced_is_not_heard() -> None:
    async def story(site: Site) -> None:
        old = await site.connect()
        site.submit()
        site.cycle()
        (attempt,) = site.state.attempts.values()
        new = await site.connect()
        assert (old.closed, new.closed) == (True, False)
        seen_at = old.last_seen_at
        site.clock.advance(1_000_000)
        site.writer.flush()
        said_before = len(site.events)
        site.hub.take(old, Started(attempt.id, 0, 7, site.clock.boot_us()))
        site.hub.take(old, Exited(attempt_id=attempt.id, rank=0, cause=EndCause.COMPLETED, exit_code=0))
        site.hub.take(old, Usage(seq=1, boot_id="boot-1", at_boot_us=site.clock.boot_us(), counters=()))
        site.hub.take(old, Heartbeat(-1))
        site.hub.carry(old, StepFrame(attempt_id="", from_rank=-1, to_rank=-1, channel=0, kind="?"))
        site.writer.flush()
        assert len(site.events) == said_before
        assert (old.last_seen_at, old.tasks) == (seen_at, set())
        site.hub.take(new, Started(attempt.id, 0, 7, site.clock.boot_us()))
        site.writer.flush()
        assert len(site.events) == said_before + 1
        assert new.last_seen_at == site.engine.now()

    play(story)


def test_leaving_a_replaced_stream_leaves_the_newer_one_in_its_place() -> None:
    async def story(site: Site) -> None:
        old = await site.connect()
        new = await site.connect()
        assert site.hub.leave(old) is False
        assert site.node().connected
        assert site.hub.links == {new.node_id: new}
        assert site.hub.leave(new) is True
        assert (site.hub.links, site.node().connected, new.closed) == ({}, False, True)
        assert site.hub.leave(new) is False

    play(story)


def test_a_stream_that_ends_before_it_joined_leaves_its_node_silent_unless_another_serves_it() -> None:
    async def story(site: Site) -> None:
        first, second = [await site.admitted() for _ in range(2)]
        assert site.node().connected
        assert site.hub.leave(first) is False
        assert site.node().connected  # the second is about to serve it
        assert site.hub.leave(second) is True
        assert not site.node().connected
        served = await site.connect()
        assert site.hub.leave(await site.admitted()) is False
        assert site.node().connected
        assert site.hub.links == {served.node_id: served}

    play(story)


def test_a_stream_that_ends_while_its_successor_is_on_its_way_says_nothing_of_the_node() -> None:
    async def story(site: Site) -> None:
        old = await site.connect()
        new = await site.admitted()
        assert old.closed
        assert site.hub.leave(old) is False
        site.hub.join(new, ())
        assert site.node().connected
        assert site.hub.leave(new) is True
        assert not site.node().connected

    play(story)


def test_what_a_node_tells_of_that_is_not_of_these_books_is_ended_so_many_a_turn() -> None:
    async def story(site: Site) -> None:
        count = 2 * STRANGERS_A_TURN + 1
        truths = tuple(
            MemberTruth(attempt_id=f"att_{number}", rank=0, running=True) for number in range(count)
        )
        link = await site.connect(truths=truths)
        assert [len(await link.take()) for _ in range(3)] == [STRANGERS_A_TURN, STRANGERS_A_TURN, 1]

    play(story)


@pytest.mark.parametrize("change", [{"boot_id": "boot-2"}, {"instance": "agent_2"}, {"instance": ""}])
def test_another_agent_of_the_name_of_one_that_is_connected_is_refused(change: dict[str, object]) -> None:
    async def story(site: Site) -> None:
        link = await site.connect()
        with pytest.raises(Forbidden, match="a node named n-1 is connected already"):
            await site.connect(**change)
        assert not link.closed

    play(story)


def test_orders_go_to_the_stream_of_their_node_and_nowhere_without_one() -> None:
    async def story(site: Site) -> None:
        link = await site.connect()
        site.submit()
        site.cycle()
        await asyncio.sleep(0)
        found = await link.take()
        assert [type(one) for one in found] == [Assign]
        site.hub.leave(link)
        site.hub.assign(link.node_id, found[0])  # type: ignore[arg-type]
        assert await link.take() == []
        assert site.hub.ahead(link.node_id) == 0

    play(story)


def test_how_many_wait_at_a_node_is_what_its_agent_said() -> None:
    async def story(site: Site) -> None:
        link = await site.connect()
        assert site.hub.ahead(link.node_id) == 0
        link.ahead = 5
        assert site.hub.ahead(link.node_id) == 5

    play(story)


def test_what_an_agent_told_is_adopted_once_and_forgotten_with_its_stream() -> None:
    async def story(site: Site) -> None:
        link = await site.connect()
        told = (MemberTruth(attempt_id="att_9", rank=0, running=False, boot_id="boot-1"),)
        site.hub._truths[link.node_id] = told
        assert site.hub.adopt(link.node_id) == told
        assert site.hub.adopt(link.node_id) == ()
        site.hub._truths[link.node_id] = told
        site.hub.leave(link)
        assert site.hub.adopt(link.node_id) == ()

    play(story)


def test_a_heart_that_beats_backwards_is_refused_and_one_that_stands_is_not() -> None:
    async def story(site: Site) -> None:
        link = await site.connect()
        now_us = site.clock.boot_us()
        site.hub.take(link, Heartbeat(now_us))
        site.hub.take(link, Heartbeat(now_us))
        assert link.heard_boot_us == now_us
        with pytest.raises(
            InvalidRequest, match=f"heartbeat.boot_us: {now_us - 1}, after {now_us} on the same"
        ):
            site.hub.take(link, Heartbeat(now_us - 1))

    play(story)


def test_usage_is_acknowledged_with_the_end_of_the_log_once_it_is_durable() -> None:
    async def story(site: Site) -> None:
        link = await site.connect()
        site.hub.take(link, Usage(seq=41, boot_id="boot-1", at_boot_us=site.clock.boot_us(), counters=()))
        assert len(link.tasks) == 1
        assert not link.metered.is_set()
        await asyncio.gather(*link.tasks)
        assert await link.take() == [UsageAck(41, 0, b"")]
        assert link.metered.is_set()
        assert link.tasks == set()

    play(story)


@pytest.mark.parametrize(("whole", "asked"), [(False, 0), (True, 1)])
def test_only_nodes_that_hold_something_are_asked_for_their_usage_unless_all_are(
    whole: bool, asked: int
) -> None:
    async def story(site: Site) -> None:
        link = await site.connect()
        link.metered.set()
        await site.hub.settle(whole, timeout_s=0)
        link.send(MeterNow())
        assert await link.take() == [MeterNow()] * (asked + 1)
        assert link.metered.is_set() is not whole
        site.submit()
        site.cycle()
        await link.take()
        await site.hub.settle(timeout_s=0)
        assert await link.take() == [MeterNow()]

    play(story)


# --- one stream


def link() -> AgentLink:
    return AgentLink("node_1", "n-1", "boot-1", instance="agent_1", version="1.2")


def test_a_new_stream_has_said_and_promised_nothing() -> None:
    made = link()
    assert (made.node_id, made.name, made.boot_id, made.instance, made.version) == (
        "node_1", "n-1", "boot-1", "agent_1", "1.2",
    )  # fmt: skip
    assert (made.closed, made.last_seen_at, made.heard_boot_us, made.ahead) == (False, 0, 0, 0)
    assert (made.token_sha256, made.fenced, made.tasks, made.metered.is_set()) == ("", {}, set(), False)


def test_ends_wait_for_company_or_for_a_moment_and_go_after_what_came_first() -> None:
    async def story() -> None:
        made = link()
        for number in range(LAZY_MAX - 1):
            made.send(Forget(f"att_{number}", 0))
        timer = made._lazy
        assert timer is not None
        made.send(MeterNow())
        assert await made.take() == [MeterNow()]
        made.send(Forget("att_last", 0))
        assert timer.cancelled()
        found = await made.take()
        assert found == [
            *(Forget(f"att_{number}", 0) for number in range(LAZY_MAX - 1)),
            Forget("att_last", 0),
        ]
        made.send(Forget("att_alone", 0))
        later = made._lazy
        assert later is not None
        assert later is not timer
        assert later.when() - asyncio.get_running_loop().time() <= link_module.LAZY_S
        made._tell_forgets()  # as the timer does
        assert await made.take() == [Forget("att_alone", 0)]
        assert made._lazy is None

    asyncio.run(story())


def test_a_closed_stream_takes_nothing_and_ends_all_that_wait() -> None:
    async def story() -> None:
        made = link()
        waiting = asyncio.create_task(made.take())
        reading = asyncio.create_task(made.read_log(LogRange("att_1", 0, 0, 10)))
        await asyncio.sleep(0)
        assert [type(one).__name__ for one in await waiting] == ["LogAsk"]
        again = asyncio.create_task(made.take())
        await asyncio.sleep(0)
        made.close()
        assert await again == []
        with pytest.raises(ServerUnavailable, match="node n-1 went out of contact"):
            await reading
        made.send(MeterNow())
        made.send(Forget("att_1", 0))
        assert (await made.take(), made.metered.is_set(), made._lazy) == ([], True, None)

    asyncio.run(story())


def test_questions_for_logs_are_numbered_and_their_answers_given_to_who_asked() -> None:
    async def story() -> None:
        made = link()
        asked = [asyncio.create_task(made.read_log(LogRange("att_1", rank, 0, 10))) for rank in (0, 1)]
        await asyncio.sleep(0)
        first, second = await made.take()
        assert (first.request_id, second.request_id) == (1, 2)  # type: ignore[union-attr]
        answers = [
            LogAnswer(data=b"abc"[:n], offset=0, next_offset=n, ended=True, dropped_bytes=0) for n in (1, 2)
        ]
        made.answer_log(2, answers[1])
        made.answer_log(2, answers[0])  # said twice: the first is the answer
        made.answer_log(1, answers[0])
        made.answer_log(99, answers[0])
        assert [await one for one in asked] == answers
        made.answer_log(1, answers[1])
        assert made._logs == {}

    asyncio.run(story())


def test_a_node_that_answers_no_question_for_a_log_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LOG_ANSWER_S == 10
    monkeypatch.setattr(link_module, "LOG_ANSWER_S", 0)

    async def story() -> None:
        made = link()
        with pytest.raises(ServerUnavailable, match="node n-1 did not answer within 0 s"):
            await made.read_log(LogRange("att_1", 0, 0, 10))
        assert made._logs == {}

    asyncio.run(story())


def test_an_answer_that_is_none_ends_the_call_that_asked_and_no_stream() -> None:
    """It counts against its node, which gets no new work once it was too often, and then no more events."""

    async def story(site: Site) -> None:
        link = await site.connect()
        for number in range(1, 10):
            reading = asyncio.create_task(link.read_log(LogRange("att_1", 0, 5, 10)))
            await asyncio.sleep(0)
            assert link.owes_log(number)
            site.hub.answer_log(link, number, LogAnswer(b"x" * 11, 5, 16, False, 0))
            with pytest.raises(ServerUnavailable, match=f"node {FACTS.name} gave no usable log: log.data: "):
                await reading
            assert (link.closed, link.owes_log(number)) == (False, False)
        node = site.hub.node_on(link)
        assert node is not None
        assert (node.mode, node.reason) == ("quarantine", "it gave no usable log 6 times in 10 minutes")
        site.writer.flush()
        assert sum(isinstance(event, NodeMisbehaved) for event in site.events) == 6

    play(story)


def test_a_good_answer_or_one_that_nobody_waits_for_counts_against_nobody() -> None:
    async def story(site: Site) -> None:
        link = await site.connect()
        reading = asyncio.create_task(link.read_log(LogRange("att_1", 0, 5, 10)))
        await asyncio.sleep(0)
        site.hub.answer_log(link, 1, LogAnswer(b"", 5, 5, False, 0))
        site.hub.answer_log(link, 2, LogAnswer(b"x" * 11, 5, 16, False, 0))
        assert (await reading).data == b""
        node = site.hub.node_on(link)
        assert node is not None
        assert node.misbehaved == {}

    play(story)


def test_words_beyond_a_burst_wait_by_their_rate_and_time_gives_them_back() -> None:
    made = link()
    assert made.wait_s(1_000_000, WORDS_BURST) == 0
    assert made.wait_s(1_000_000) == pytest.approx(1 / WORDS_PER_S)
    assert made.wait_s(1_000_000, 0) == pytest.approx(1 / WORDS_PER_S)
    assert made.wait_s(1_000_000 + 1_000_000 // WORDS_PER_S, 0) == 0
    assert made.wait_s(3_000_000, 0) == 0
    assert made.wait_s(3_000_000, WORDS_PER_S * 2) == pytest.approx(1 / WORDS_PER_S, abs=1e-6)
    assert made.wait_s(10**15, WORDS_BURST) == 0
    assert made.wait_s(10**15) == pytest.approx(1 / WORDS_PER_S)


def test_pieces_of_steps_that_nobody_fetches_are_dropped_and_room_comes_back() -> None:
    async def story() -> None:
        made = link()
        small = StepFrame(attempt_id="att_1", from_rank=0, to_rank=1, channel=7, kind="data", data=b"x")
        half = msgspec.structs.replace(small, data=bytes(STEP_BYTES_MAX // 2 - 100))
        for sent in (half, small, half, small):
            made.carry(sent)
        assert await made.take() == [half, small, half]
        made.carry(small)
        assert await made.take() == [small]

    asyncio.run(story())
