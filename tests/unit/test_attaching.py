"""`Jobs.Attach`: who is let into a running job, what is on record of it, and what is carried to and fro."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from grpc import aio
from whole_site import Site, play

from bursar.errors import ServerUnavailable, WrongState
from bursar.steps.far import Far
from bursar.v1 import jobs_pb2 as pb
from bursard.events import AttemptAttached
from bursard.fleet import AgentLink, StepFrame
from bursard.fleet.attachments import (
    OF_ATTEMPT_MAX,
    PACKET_BYTES_MAX,
    RESUME_S,
    WAITING_BYTES_MAX,
    Attachment,
    Attachments,
)
from bursard.services import attaching
from bursard.state import AttemptRecord

Story = Callable[["Running"], Awaitable[None]]


class Running:
    """A job of ann's that runs on a node whose agent is this test."""

    def __init__(self, site: Site, attaches: bool = True) -> None:
        self.site = site
        self.job = site.job("ann", "nlp")
        self.attempt: AttemptRecord = site.place(self.job)
        site.start(self.attempt)
        self.node_id = self.attempt.members[0].alloc.node_id
        self.link = AgentLink(self.node_id, "n1", "b", instance="i")
        self.link.attaches = attaches
        site.hub.links[self.node_id] = self.link

    async def told(self) -> StepFrame:
        """The next piece for its node."""
        while True:
            for one in await self.link.take():
                if isinstance(one, StepFrame):
                    return one

    def says(self, to: StepFrame, kind: str, data: bytes = b"", **changes: Any) -> None:
        """Its node says this for the host that was asked for."""
        words = {"attempt_id": to.attempt_id, "from_rank": 0, "to_rank": 0, "channel": to.channel} | changes
        self.site.hub.carry(self.link, StepFrame(**words, kind=kind, data=data, to_client=True))

    def records(self) -> list[tuple[str, AttemptAttached]]:
        return [(who, event) for event, who in self._seen if isinstance(event, AttemptAttached)]

    _seen: list[tuple[Any, str]]


class Caller:
    """One stream of Attach."""

    def __init__(self, site: Site, token: str, job: str, channel: Any = None, **words: Any) -> None:
        self.requests: asyncio.Queue[pb.AttachRequest | None] = asyncio.Queue()
        self.requests.put_nowait(pb.AttachRequest(open=pb.AttachOpen(job=job, **words)))
        make: Any = (channel or site.channel).stream_stream(
            "/bursar.v1.Jobs/Attach",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=pb.AttachAnswer.FromString,
        )
        self.stream = make(self._asked(), metadata=(("authorization", f"Bearer {token}"),), timeout=20)
        self.answers = aiter(self.stream)

    async def _asked(self) -> AsyncIterator[pb.AttachRequest]:
        while (one := await self.requests.get()) is not None:
            yield one

    def says(self, packet: bytes) -> None:
        self.requests.put_nowait(pb.AttachRequest(packet=packet))

    async def hears(self) -> pb.AttachAnswer:
        return await anext(self.answers)

    async def all(self) -> list[pb.AttachAnswer]:
        return [answer async for answer in self.answers]

    async def refused(self) -> str:
        """Why the call failed."""
        with pytest.raises(aio.AioRpcError) as error:
            await self.all()
        return f"{error.value.code().name}: {error.value.details()}"


def story(told: Story, attaches: bool = True) -> None:
    async def whole(site: Site) -> None:
        running = Running(site, attaches)
        running._seen = []
        site.engine.listeners.append(lambda seq, event, at, who: running._seen.append((event, who)))
        await told(running)

    play(whole)


def test_what_is_said_goes_to_the_member_and_its_answers_come_back_unopened() -> None:
    async def told(at: Running) -> None:
        caller = Caller(at.site, at.site.token("ann", "submitter", "nlp"), at.job)
        opened = (await caller.hears()).opened
        assert (opened.job_id, opened.attempt_id, opened.node) == (at.job, at.attempt.id, "n1")
        first = await at.told()
        assert (first.kind, first.data, first.from_rank, first.to_rank) == ("open", b"program", 0, 0)
        assert not first.to_client
        caller.says(b"packet")
        assert ((await at.told()).kind, (first.attempt_id)) == ("data", at.attempt.id)
        at.says(first, "data", b"answer")
        assert (await caller.hears()).packet == b"answer"
        at.says(first, "close", b"its process has ended")
        assert (await caller.hears()).closed == "its process has ended"

    story(told)


def test_a_frame_of_a_program_comes_whole_though_packets_are_lost() -> None:
    """What nobody keeps on the way, its ends send again."""

    async def told(at: Running) -> None:
        caller = Caller(at.site, at.site.token("ann", "submitter", "nlp"), at.job)
        await caller.hears()
        first = await at.told()
        ours, theirs = Far(0), Far(0)
        ours.say(1, 7, b"x" * 50_000)
        lost, *rest = ours.packets(0)
        for packet in rest:
            caller.says(packet)
        assert lost
        at_us, found = 0, []
        while not found:
            at_us += 1_000_000
            for packet in ours.packets(at_us):
                caller.says(packet)
            data = (await at.told()).data
            found = theirs.take(data, at_us)
            for packet in theirs.packets(at_us):
                at.says(first, "data", packet)
                ours.take((await caller.hears()).packet, at_us)
        assert found == [(1, 7, b"x" * 50_000)]

    story(told)


def test_who_attached_to_what_and_as_what_is_on_record_before_anything_is_carried() -> None:
    async def told(at: Running) -> None:
        caller = Caller(at.site, at.site.token("olga", "operator"), at.job)
        await caller.hears()
        assert at.records() == [("olga", AttemptAttached(at.attempt.id, 0, "program"))]

    story(told)


def test_the_member_is_told_when_who_asked_has_left() -> None:
    async def told(at: Running) -> None:
        caller = Caller(at.site, at.site.token("ann", "submitter", "nlp"), at.job)
        await caller.hears()
        first = await at.told()
        at.says(first, "data", b"x")
        await caller.hears()
        caller.requests.put_nowait(None)
        last = await at.told()
        assert (last.kind, last.data, last.channel) == ("close", b"who asked for it has left", first.channel)
        assert at.site.hub.attachments.of(at.attempt.id) == 0
        at.says(first, "data", b"late")
        answer = await at.told()
        assert (answer.kind, answer.to_client) == ("close", False)

    story(told)


def test_a_stream_ends_with_its_attempt_and_says_how() -> None:
    async def told(at: Running) -> None:
        caller = Caller(at.site, at.site.token("ann", "submitter", "nlp"), at.job)
        await caller.hears()
        at.site.end(at.attempt)
        assert (await caller.hears()).closed == "the job's attempt has ended (completed)"

    story(told)


@pytest.mark.parametrize(
    ("user", "role", "words", "why"),
    [
        ("bob", "submitter", {}, "PERMISSION_DENIED: bob (submitter) may not attach to jobs of job 1"),
        ("pia", "project-admin", {}, "PERMISSION_DENIED: pia (project-admin) may not attach to jobs"),
        ("olga", "operator", {"kind": "ports"}, "PERMISSION_DENIED: olga may not connect to ports of job 1"),
        ("ann", "submitter", {"kind": "root"}, "INVALID_ARGUMENT: kind: is 'root'; one of program, ports"),
        ("ann", "submitter", {"rank": 4}, "NOT_FOUND: job 1 has ranks 0 to 0, not 4"),
    ],
)  # fmt: skip
def test_who_may_not_is_refused_and_nothing_is_said_to_the_node(
    user: str, role: str, words: dict[str, Any], why: str
) -> None:
    async def told(at: Running) -> None:
        caller = Caller(at.site, at.site.token(user, role), at.job, **words)
        assert (await caller.refused()).startswith(why)
        assert at.records() == []
        assert at.link._outbox == type(at.link._outbox)()

    story(told)


def test_ports_are_of_the_owner() -> None:
    async def told(at: Running) -> None:
        caller = Caller(at.site, at.site.token("ann", "submitter", "nlp"), at.job, kind="ports")
        await caller.hears()
        assert (await at.told()).data == b"ports"

    story(told)


def test_what_does_not_run_cannot_be_attached_to() -> None:
    async def told(at: Running) -> None:
        token = at.site.token("ann", "submitter", "nlp")
        waiting = at.site.job("ann", "nlp")
        assert "does not run yet (pending)" in await Caller(at.site, token, waiting).refused()
        at.site.end(at.attempt)
        assert "has ended (succeeded)" in await Caller(at.site, token, at.job).refused()

    story(told)


def test_an_agent_that_does_not_know_of_it_gets_none_and_the_caller_hears_what_helps() -> None:
    async def told(at: Running) -> None:
        token = at.site.token("ann", "submitter", "nlp")
        assert "install this release there" in await Caller(at.site, token, at.job).refused()
        at.site.hub.links.clear()
        assert "n1 is out of contact" in await Caller(at.site, token, at.job).refused()

    story(told, attaches=False)


def test_a_packet_that_is_too_long_ends_the_call() -> None:
    async def told(at: Running) -> None:
        caller = Caller(at.site, at.site.token("ann", "submitter", "nlp"), at.job)
        await caller.hears()
        caller.says(bytes(PACKET_BYTES_MAX + 1))
        assert "packet: at most 65536 bytes" in await caller.refused()

    story(told)


def test_a_node_that_never_answers_is_asked_again_and_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attaching, "ASK_AGAIN_S", 0.01)
    monkeypatch.setattr(attaching, "OPEN_S", 0.03)

    async def told(at: Running) -> None:
        caller = Caller(at.site, at.site.token("ann", "submitter", "nlp"), at.job)
        assert "did not answer" in await caller.refused()
        frames = [one for one in await at.link.take() if isinstance(one, StepFrame)]
        assert [one.kind for one in frames] == ["open", "open", "open"]

    story(told)


# --- bounds


def test_only_so_many_are_open_to_one_attempt() -> None:
    async def told(at: Running) -> None:
        open_to = at.site.hub.attachments
        for _ in range(OF_ATTEMPT_MAX):
            open_to.begin(at.attempt, 0, "program")
        token = at.site.token("ann", "submitter", "nlp")
        assert "64 are attached to this attempt already" in await Caller(at.site, token, at.job).refused()

    story(told)


def test_what_a_caller_does_not_read_is_dropped_beyond_a_bound() -> None:
    async def told(at: Running) -> None:
        one = at.site.hub.attachments.begin(at.attempt, 0, "program")
        piece = StepFrame(
            attempt_id=at.attempt.id, from_rank=0, to_rank=0, channel=one.channel, kind="data",
            data=bytes(1 << 16), to_client=True,
        )  # fmt: skip
        for _ in range(100):
            at.site.hub.carry(at.link, piece)
        one.close("over")
        got = 0
        while (packet := await one.packet()) is not None:
            got += len(packet)
        assert WAITING_BYTES_MAX <= got < WAITING_BYTES_MAX + (1 << 16)

    story(told)


@pytest.mark.parametrize(
    "changes", [{"attempt_id": "att_other"}, {"from_rank": 1}, {"channel": (1 << 62) + 5}]
)
def test_nobody_else_speaks_to_a_caller(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bursard.fleet.attachments.RESUME_S", 0.0)

    async def told(at: Running) -> None:
        one = at.site.hub.attachments.begin(at.attempt, 0, "program")
        words = {"attempt_id": at.attempt.id, "from_rank": 0, "channel": one.channel} | changes
        at.site.hub.carry(at.link, StepFrame(**words, to_rank=0, kind="data", data=b"x", to_client=True))
        assert not one.heard
        assert (await at.told()).kind == "close"

    story(told)


def test_a_number_is_never_given_twice() -> None:
    async def told(at: Running) -> None:
        drawn = iter([7, 7, 7, 9])
        open_to = Attachments(at.site.hub.links.get, lambda bits: next(drawn))
        channels = [open_to.begin(at.attempt, 0, "program").channel & 0xFF for _ in range(2)]
        assert channels == [7, 9]

    story(told)


# --- a daemon that was lost

EARLIER = (1 << 62) + 5
"""The number of a stream of a daemon before this one."""


def test_who_lost_the_daemon_goes_on_with_what_it_had_started() -> None:
    async def told(at: Running) -> None:
        before = StepFrame(
            attempt_id=at.attempt.id, from_rank=0, to_rank=0, channel=EARLIER, kind="data", to_client=False
        )  # fmt: skip
        at.says(before, "data", b"said while nobody was there")
        caller = Caller(at.site, at.site.token("ann", "submitter", "nlp"), at.job, resume=EARLIER)
        assert (await caller.hears()).opened.channel == EARLIER
        caller.says(b"again")
        first = await at.told()
        assert (first.kind, first.data, first.channel) == ("data", b"again", EARLIER), (
            "no other host is asked for"
        )
        at.says(first, "data", b"answer")
        assert (await caller.hears()).packet == b"answer"

    story(told)


def test_who_does_not_come_back_in_time_has_ended_what_was_started() -> None:
    async def told(at: Running) -> None:
        now = 0.0
        streams = Attachments(at.site.hub.links.get, steady_s=lambda: now)
        piece = StepFrame(
            attempt_id=at.attempt.id, from_rank=0, to_rank=0, channel=EARLIER, kind="data", to_client=True
        )  # fmt: skip
        assert streams.carry(piece, at.node_id) is None
        now = RESUME_S
        assert streams.carry(piece, at.node_id) == "who asked for it has left"
        with pytest.raises(WrongState, match="what was started there is ended"):
            streams.begin(at.attempt, 0, "program", resume=EARLIER)

    story(told)


@pytest.mark.parametrize("number", [5, 1 << 63])
def test_streams_of_steps_are_nobodys_to_go_on_with(number: int) -> None:
    async def told(at: Running) -> None:
        with pytest.raises(WrongState):
            at.site.hub.attachments.begin(at.attempt, 0, "program", resume=number)

    story(told)


def test_a_stream_that_is_open_is_not_taken_from_its_caller() -> None:
    async def told(at: Running) -> None:
        streams = at.site.hub.attachments
        one = streams.begin(at.attempt, 0, "program")
        with pytest.raises(WrongState):
            streams.begin(at.attempt, 0, "program", resume=one.channel)

    story(told)


def test_a_node_that_is_not_back_yet_is_waited_for() -> None:
    async def told(at: Running) -> None:
        at.site.hub.links.clear()
        with pytest.raises(ServerUnavailable, match="n1 is not back yet"):
            at.site.hub.attachments.begin(at.attempt, 0, "program", resume=EARLIER)

    story(told)


def test_a_daemon_that_is_stopped_ends_nothing_of_what_is_open() -> None:
    async def told(at: Running) -> None:
        streams = at.site.hub.attachments
        one, other = (streams.begin(at.attempt, 0, "program") for _ in range(2))
        streams.end(other)
        assert (await at.told()).kind == "close"
        streams.stop()
        streams.end(one)
        streams.say(other, "data", b"the next that is said")
        assert (await at.told()).kind == "data"

    story(told)


# --- a connection that was lost, while the daemon lives


class Proxy:
    """A way to the daemon that resets connections."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.ends: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self.path)
        self.ends |= {writer, far_writer}
        await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()

    def cut(self) -> None:
        """Reset each connection, to both sides."""
        for one in self.ends:
            one.transport.abort()
        self.ends.clear()


async def cut_caller(at: Running, **words: Any) -> tuple[int, StepFrame]:
    """A caller whose connection was reset, as the daemon knows by now: its number, and who was asked."""
    noticed = asyncio.Event()
    streams: Any = at.site.hub.attachments
    for name in ("lose", "end"):
        streams.__dict__[name] = _and_then(getattr(streams, name), noticed)
    async with (
        Proxy(at.site.address.removeprefix("unix:")) as proxy,
        aio.insecure_channel(f"127.0.0.1:{proxy.port}") as channel,
    ):
        token = at.site.token("ann", "submitter", "nlp")
        caller = Caller(at.site, token, at.job, channel=channel, **words)
        number = (await caller.hears()).opened.channel
        first = await at.told()
        at.says(first, "data", b"prompt")
        assert (await caller.hears()).packet == b"prompt"
        proxy.cut()
        assert (await caller.refused()).startswith("UNAVAILABLE")
        await noticed.wait()
    return number, first


def _and_then(does: Callable[[Attachment], None], noticed: asyncio.Event) -> Callable[[Attachment], None]:
    def done(one: Attachment) -> None:
        does(one)
        noticed.set()

    return done


def test_who_lost_its_connection_goes_on_with_what_it_had_started() -> None:
    async def told(at: Running) -> None:
        number, first = await cut_caller(at, resumes=True)
        at.says(first, "data", b"said while nobody was there")
        again = Caller(at.site, at.site.token("ann", "submitter", "nlp"), at.job, resume=number, resumes=True)
        assert (await again.hears()).opened.channel == number
        assert (await again.hears()).packet == b"said while nobody was there"
        again.says(b"again")
        answer = await at.told()
        assert (answer.kind, answer.data, answer.channel) == ("data", b"again", number), (
            "none was told to end"
        )
        again.requests.put_nowait(pb.AttachRequest(leave=True))
        assert (await at.told()).data == b"who asked for it has left"

    story(told)


def test_who_does_not_say_that_it_comes_back_has_ended_what_it_started_with_its_connection() -> None:
    async def told(at: Running) -> None:
        await cut_caller(at)
        assert (await at.told()).data == b"who asked for it has left"

    story(told)


def test_what_nobody_comes_back_for_is_ended_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bursard.fleet.attachments.RESUME_S", 0.0)

    async def told(at: Running) -> None:
        await cut_caller(at, resumes=True)
        assert (await at.told()).data == b"who asked for it has left"
        assert at.site.hub.attachments.of(at.attempt.id) == 0

    story(told)


def test_whose_right_ended_comes_back_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attaching, "cut_off", lambda: True)

    async def told(at: Running) -> None:
        await cut_caller(at, resumes=True)
        assert (await at.told()).data == b"who asked for it has left"

    story(told)


def test_a_call_that_nobody_knows_to_be_lost_is_taken_over_by_its_own_caller_alone() -> None:
    async def told(at: Running) -> None:
        streams = at.site.hub.attachments
        one = streams.begin(at.attempt, 0, "program", of="ann")
        for of, kind in (("", "program"), ("olga", "program"), ("ann", "ports")):
            with pytest.raises(WrongState):
                streams.begin(at.attempt, 0, kind, resume=one.channel, of=of)
        other = streams.begin(at.attempt, 0, "program", resume=one.channel, of="ann")
        assert await one.packet() is None
        streams.end(one)
        streams.say(other, "data", b"the first that is said")
        assert (await at.told()).data == b"the first that is said"
        assert streams.of(at.attempt.id) == 1

    story(told)
