"""Followers of events share what is kept in memory, and hear what the log says all the same."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from whole_site import Site, play

from bursar.v1 import events_pb2 as pb
from bursard.events import AttemptPlaced, Event, JobHeld, encode
from bursard.events.subject import _Head, head_of
from bursard.services import tail
from bursard.services.tail import Heard
from bursard.store import Views


def reads(site: Site) -> list[str]:
    """What is asked of the store from now on."""
    found: list[str] = []
    ask = site.engine.read

    async def read(question: Callable[[Views], Any]) -> Any:
        found.append(question.__qualname__)
        return await ask(question)

    site.engine.read = read  # type: ignore[method-assign]
    return found


class Follower:
    """A stream of events and what it has told so far."""

    def __init__(self, site: Site, token: str, **asked: Any) -> None:
        self.seen: list[pb.Event] = []
        self._more = asyncio.Event()
        self._task = asyncio.create_task(
            self._follow(site, token, pb.ListEventsRequest(follow=True, **asked))
        )

    async def _follow(self, site: Site, token: str, request: pb.ListEventsRequest) -> None:
        call: Any = site.channel.unary_stream(
            "/bursar.v1.Events/List", lambda message: message.SerializeToString(), pb.Event.FromString
        )
        stream: AsyncIterator[pb.Event] = call(request, metadata=(("authorization", f"Bearer {token}"),))
        async for event in stream:
            self.seen.append(event)
            self._more.set()

    async def has(self, seq: int) -> list[pb.Event]:
        """What it was told, once that is all up to an event."""
        async with asyncio.timeout(20):
            while not self.seen or self.seen[-1].seq < seq:
                self._more.clear()
                await self._more.wait()
        return self.seen

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def listed(site: Site, token: str, **asked: Any) -> list[pb.Event]:
    (status, said), answers = await site.ask("Events.List", pb.ListEventsRequest(**asked), token=token)
    assert status == "OK", said
    return answers


def test_many_followers_of_one_caller_cost_one_look_for_each_commit() -> None:
    async def story(site: Site) -> None:
        token = site.token("oz", "operator")
        await site.engine.durable()
        start = site.engine.state.version
        followers = [Follower(site, token, after_seq=start) for _ in range(12)]
        site.job("ann", "p")
        await site.engine.durable()
        for one in followers:
            await one.has(start + 1)
        asked = reads(site)
        for _ in range(5):
            site.job("ann", "p")
            await site.engine.durable()
            for one in followers:
                await one.has(site.engine.state.version)
        assert len(asked) == 5, asked
        log = await listed(site, token, after_seq=start)
        for one in followers:
            assert one.seen == log
            await one.end()

    play(story)


def test_followers_of_one_caller_that_come_at_a_time_read_the_log_once_for_all() -> None:
    async def story(site: Site) -> None:
        token, other = site.token("oz", "operator"), site.token("pat", "submitter", "q")
        for _ in range(tail.KEPT_MAX // 2):
            site.job("ann", "p")
            site.job("ann", "q")
        await site.engine.durable()
        last = site.engine.state.version
        log = await listed(site, token)
        asked, ask, gate, waiting = reads(site), site.engine.read, asyncio.Event(), asyncio.Event()

        async def slow(question: Callable[[Views], Any]) -> Any:
            waiting.set()
            await gate.wait()
            return await ask(question)

        site.engine.read = slow  # type: ignore[method-assign]
        first = Follower(site, token)
        await waiting.wait()
        followers = [Follower(site, token) for _ in range(8)]
        pat = Follower(site, other)
        async with asyncio.timeout(20):
            while len(site.door.sessions.open) < 10:  # noqa: ASYNC110  (nothing says so)
                await asyncio.sleep(0)
        await first.end()  # what it asked for first is for the others all the same
        gate.set()
        for one in followers:
            assert await one.has(last) == log
        seen = [event for event in await pat.has(last) if event.kind == "job-submitted"]
        assert len(seen) == tail.KEPT_MAX // 2
        pages = sum(name.endswith("_page.<locals>.read") for name in asked)
        # What lies before the newest events that are kept, and pat's own.
        assert pages <= 3 * (1 + (last - tail.KEPT_MAX) // 200) + 2, asked
        for one in [*followers, pat]:
            await one.end()

    play(story)


def test_each_caller_hears_what_its_rights_show_and_each_kind_what_it_asked_for() -> None:
    async def story(site: Site) -> None:
        await site.engine.durable()
        start = site.engine.state.version
        tokens = {
            "oz": site.token("oz", "operator"),
            "pat": site.token("pat", "submitter", "p"),
            "quin": site.token("quin", "submitter", "q"),
        }
        kinds = ([], ["job-submitted"], ["attempt-placed", "job-ended"])
        followers = {
            (who, tuple(some)): Follower(site, token, after_seq=start, kinds=some)
            for who, token in tokens.items()
            for some in kinds
        }
        await asyncio.sleep(0)
        for project in ("p", "q", "p"):
            site.run(site.job("ann", project))
        last = [site.job("ann", one) for one in ("p", "q")]
        for one in last:
            site.run(one)
        await site.engine.durable()
        for (who, some), follower in followers.items():
            log = await listed(site, tokens[who], after_seq=start, kinds=list(some))
            assert log, (who, some)
            assert await follower.has(log[-1].seq) == log, (who, some)
            await follower.end()

    play(story)


@pytest.mark.parametrize("kept", [1, 3, 512])
def test_who_is_behind_reads_the_log_and_misses_nothing(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "KEPT_MAX", kept)

    async def story(site: Site) -> None:
        token = site.token("oz", "operator")
        for _ in range(4):
            site.job("ann", "p")
        await site.engine.durable()
        follower = Follower(site, token)
        job = Follower(site, token, job="1")
        for _ in range(4):
            for _ in range(5):
                site.job("ann", "p")
            await site.engine.durable()
            log = await listed(site, token)
            assert await follower.has(log[-1].seq) == log
        await follower.end()
        await job.end()

    play(story)


def test_a_follower_of_one_job_reads_the_log_for_what_is_its_own_alone() -> None:
    async def story(site: Site) -> None:
        token = site.token("oz", "operator")
        mine = site.job("ann", "p")
        await site.engine.durable()
        follower = Follower(site, token, job=mine)
        await follower.has(1)
        beside = Follower(site, token, after_seq=site.engine.state.version)
        asked = reads(site)
        for _ in range(5):
            site.job("ann", "p")
            await site.engine.durable()
            await beside.has(site.engine.state.version)
        assert not [name for name in asked if "_page" in name]
        await beside.end()
        attempt = site.place(mine)
        await site.engine.durable()
        assert (await follower.has(site.engine.state.version))[-1].kind == "attempt-placed"
        site.start(attempt)  # of which the event says the attempt alone
        await site.engine.durable()
        assert (await follower.has(site.engine.state.version))[-1].kind == "member-started"
        site.end(attempt)
        await site.engine.durable()
        log = await listed(site, token, job=mine)
        assert {event.subject for event in log} == {mine, attempt.id}
        assert await follower.has(log[-1].seq) == log
        await follower.end()

    play(story)


def test_scripts_in_memory_are_bounded_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "KEPT_BYTES_MAX", 1_000)

    async def story(site: Site) -> None:
        await site.engine.durable()
        kept = tail.Tail(site.engine)
        start = site.engine.state.version
        for _ in range(10):
            site.job("ann", "p", script="#" * 300, command=())
        await site.engine.durable()
        end = site.engine.state.version
        assert (kept.covers(start), kept.covers(end - 3), kept.covers(end)) == (False, True, True)
        assert [one.seq for one in kept.since(end - 3, 10)] == [end - 2, end - 1, end]
        assert kept.since(end, 10) == []
        site.job("ann", "p", script="#" * 5_000, command=())  # one is kept, however large
        await site.engine.durable()
        assert [one.seq for one in kept.since(end, 10)] == [end + 1]

    play(story)


def test_a_follower_that_leaves_while_it_waits_leaves_nothing_behind() -> None:
    async def story(site: Site) -> None:
        await site.engine.durable()
        kept, end = tail.Tail(site.engine), site.engine.state.version
        waiting = [asyncio.create_task(kept.beyond(end)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting[0]
        site.job("ann", "p")
        await site.engine.durable()
        await asyncio.gather(*waiting[1:])
        assert kept._news is None

    play(story)


def test_a_gap_empties_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(site: Site) -> None:
        await site.engine.durable()
        kept, end = tail.Tail(site.engine), site.engine.state.version
        kept._heard(end + 1, JobHeld("job_1"), 1, "ann")
        kept._heard(end + 5, JobHeld("job_1"), 1, "ann")
        assert (kept.covers(end), kept.covers(end + 3), kept.covers(end + 4)) == (False, False, True)

    play(story)


def test_what_an_event_is_about_is_said_as_of_its_bytes() -> None:
    assert ("type", *tail._SUBJECTS) == _Head.__struct_fields__

    async def story(site: Site) -> None:
        heard: list[Event] = []
        site.engine.listeners.append(lambda seq, event, at, actor: heard.append(event))
        site.run(site.job("ann", "p"))
        site.node("n2")
        await site.engine.durable()
        assert any(isinstance(event, AttemptPlaced) for event in heard)
        for event in heard:
            one = Heard(1, 1, "ann", event)
            assert (one.kind, one.subject) == head_of(encode(event))

    play(story)
