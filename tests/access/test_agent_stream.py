"""An agent's stream from the wire: whatever its messages hold, the answer names a field and is no fault."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from random import Random
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from grpc import aio
from hypothesis import given, settings
from hypothesis import strategies as st
from whole_site import Site, play

from bursar.model import EndCause, Exit, NodeFacts
from bursar.v1 import agents_pb2 as pb
from bursar.v1 import jobs_pb2, nodes_pb2, types_pb2
from bursar_agent import stimuli as s
from bursar_agent.link import wire
from bursard.app import MESSAGE_BYTES_MAX
from bursard.events import NodeConnected, decode
from bursard.fleet.door import TRUTHS_MAX
from bursard.fleet.hellos import BURST
from bursard.services.agents import PROTOCOL, PROTOCOL_PAGED

FACTS = types_pb2.NodeFacts(name="n2", cpu_milli=8_000, memory_bytes=1 << 30)
HELLO = pb.Hello(protocol=PROTOCOL, facts=FACTS, boot_id="b-1", boot_us=5_000_000, instance="agent_1")
HOUR_US = 3_600_000_000


async def secret(site: Site, node: str = "n2") -> str:
    request = nodes_pb2.TokenRequest(node=node, ttl_us=HOUR_US)
    _, answers = await site.ask("Nodes.Token", request, token=site.token("root", "admin"))
    return str(answers[0].token)


async def say(site: Site, *messages: pb.AgentMessage, token: str = "") -> tuple[str, str, list[Any]]:
    """What one stream comes to: (status, details, answers). The agent hangs up after its last word."""
    token = token or await secret(site)
    stream = site.channel.stream_stream(
        "/bursar.v1.Agents/Connect",
        request_serializer=pb.AgentMessage.SerializeToString,
        response_deserializer=pb.DaemonMessage.FromString,
    )(metadata=(("authorization", f"Bearer {token}"),), timeout=120)
    answers: list[Any] = []
    with contextlib.suppress(aio.AioRpcError):  # its status says why, below
        await stream.write(messages[0])
        answers.append(await stream.read())
    if not answers or answers == [aio.EOF] or answers[0].WhichOneof("body") == "refused":
        return (await stream.code()).name, str(await stream.details()), answers
    for message in messages[1:]:
        with contextlib.suppress(asyncio.InvalidStateError):  # it has ended meanwhile: the status says why
            await stream.write(message)
    with contextlib.suppress(asyncio.InvalidStateError):
        await stream.done_writing()
    with contextlib.suppress(aio.AioRpcError):
        while (answer := await stream.read()) is not aio.EOF:
            answers.append(answer)
    return (await stream.code()).name, str(await stream.details()), answers


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.AgentMessage(usage=pb.Usage(boot_id="b-1", at_boot_us=2**63)), "usage.at_boot_us"),
        (pb.AgentMessage(usage=pb.Usage(boot_id="b-1", at_boot_us=2**64 - 1)), "usage.at_boot_us"),
        (pb.AgentMessage(started=pb.Started(attempt_id="a", rank=2**32 - 1, pid=1)), "started.rank"),
        (pb.AgentMessage(exited=pb.Exited(attempt_id="a", cause="won")), "exited.cause"),
        (pb.AgentMessage(exited=pb.Exited(attempt_id="a", cause="failed", held_us=2**63)), "exited.held_us"),
        (pb.AgentMessage(heartbeat=pb.Heartbeat(boot_us=2**64 - 1)), "heartbeat.boot_us"),
    ],
)
def test_a_malformed_message_ends_its_stream_with_the_fields_name(
    message: pb.AgentMessage, field: str
) -> None:
    async def story(site: Site) -> None:
        status, details, answers = await say(site, pb.AgentMessage(hello=HELLO), message)
        assert answers[0].WhichOneof("body") == "welcome"
        assert status == "INVALID_ARGUMENT"
        assert field in details
        node = site.engine.state.node_by_name("n2")
        assert node is not None
        assert (node.mode, node.connected) == ("open", False)

    play(story)


def test_a_heartbeat_that_falls_on_one_stream_is_refused() -> None:
    async def story(site: Site) -> None:
        beats = [pb.AgentMessage(heartbeat=pb.Heartbeat(boot_us=us)) for us in (6_000_000, 5_999_999)]
        status, details, _ = await say(site, pb.AgentMessage(hello=HELLO), *beats)
        assert (status, details.partition(":")[0]) == ("INVALID_ARGUMENT", "heartbeat.boot_us")

    play(story)


def test_a_malformed_hello_is_refused_in_words_the_agent_shows() -> None:
    async def story(site: Site) -> None:
        hello = pb.Hello()
        hello.CopyFrom(HELLO)
        hello.boot_us = 2**63
        _, _, answers = await say(site, pb.AgentMessage(hello=hello))
        assert [answer.WhichOneof("body") for answer in answers] == ["refused"]
        assert answers[0].refused.message.startswith("boot_us:")
        assert site.engine.state.node_by_name("n2") is None

    play(story)


def test_a_lying_node_is_shown_as_what_it_is_until_somebody_resumes_it() -> None:
    async def story(site: Site) -> None:
        usage = pb.AgentMessage(usage=pb.Usage(boot_id="b-1", at_boot_us=6_000_000))
        lie = pb.AgentMessage(usage=pb.Usage(boot_id="b-1", at_boot_us=10**15))
        status, _, answers = await say(site, pb.AgentMessage(hello=HELLO), usage, lie)
        assert (status, answers[0].WhichOneof("body")) == ("OK", "welcome")
        admin = site.token("root", "admin")
        reason = "its boot clock is 999999995 s ahead of the daemon's clock"
        _, (node,) = await site.ask("Nodes.Get", nodes_pb2.NodeRequest(node="n2"), token=admin)
        assert (node.state, node.reason) == ("quarantined", reason)
        job = site.job("ann", "nlp", constraints=(("node", "n2"),))
        _, (told,) = await site.ask("Jobs.Explain", jobs_pb2.ExplainRequest(job=job), token=admin)
        assert [one.why_not for one in told.nodes if one.node == "n2"] == [
            f"quarantined: {reason}; `bursar node resume n2` once that is understood"
        ]
        _, (node,) = await site.ask("Nodes.Resume", nodes_pb2.NodeModeRequest(node="n2"), token=admin)
        assert (node.state, node.reason) == ("silent", "")

    play(story)


def told(count: int) -> list[pb.AgentMessage]:
    """What an agent says that knows so many ends which were never forgotten."""
    end = Exit(cause=EndCause.COMPLETED, exit_code=0, message="m" * 60)
    truths = tuple(
        s.Truth(attempt_id=f"att_{n}", rank=0, running=False, boot_id="b-0", exit=end) for n in range(count)
    )
    facts = NodeFacts(name="n2", cpu_milli=8_000, memory_bytes=1 << 30)
    return wire.hello(s.SendHello(1, truths, 5_000_000), facts, "b-1", "1", "agent_1")


def test_a_hello_of_all_that_may_be_told_is_taken_in_pages_that_pass() -> None:
    """At the very bound: nothing smaller shows that it can be reached, so this takes its seconds."""
    messages = told(TRUTHS_MAX)
    assert len(messages) > 2
    assert max(message.ByteSize() for message in messages) < MESSAGE_BYTES_MAX
    assert messages[0].hello.protocol == PROTOCOL_PAGED

    async def story(site: Site) -> None:
        stream = site.channel.stream_stream(
            "/bursar.v1.Agents/Connect",
            request_serializer=pb.AgentMessage.SerializeToString,
            response_deserializer=pb.DaemonMessage.FromString,
        )(metadata=(("authorization", f"Bearer {await secret(site)}"),), timeout=120)
        for message in messages:
            await stream.write(message)
        assert (await stream.read()).WhichOneof("body") == "welcome"
        forgotten = 0
        while forgotten < TRUTHS_MAX:
            forgotten += len((await stream.read()).forget.members)
        await stream.done_writing()

    play(story)


def test_a_hello_that_one_message_holds_is_one_message_as_before() -> None:
    (message,) = told(3)
    assert (message.hello.protocol, message.hello.attempts_follow) == (PROTOCOL, 0)
    assert len(message.hello.attempts) == 3


@pytest.mark.parametrize(
    ("follow", "pages", "said"),
    [
        (TRUTHS_MAX + 1, (), f"attempts: at most {TRUTHS_MAX}"),
        (2, (), "attempts_follow: 2 more were to follow, 0 did"),
        (2, (1,), "attempts_follow: 1 more were to follow, 0 did"),
        (2, (3,), "attempts_follow: 2 more were to follow, 3 did"),
        (2, (0,), "attempts_follow: 2 more were to follow, 0 did"),
    ],
)
def test_pages_that_are_not_what_the_hello_says_are_refused(
    follow: int, pages: tuple[int, ...], said: str
) -> None:
    async def story(site: Site) -> None:
        hello = pb.Hello()
        hello.CopyFrom(HELLO)
        hello.protocol, hello.attempts_follow = PROTOCOL_PAGED, follow
        messages = [pb.AgentMessage(hello=hello)]
        for count in pages:
            one = pb.AttemptTruth(attempt_id="a", running=True, pid=1)
            messages.append(pb.AgentMessage(truths=pb.AttemptTruths(attempts=[one] * count)))
        answer = await first_answer(site, messages)
        assert answer.refused.message == said
        assert site.engine.state.node_by_name("n2") is None

    play(story)


async def first_answer(site: Site, messages: list[pb.AgentMessage]) -> Any:
    """To an agent that says all of this and then no more."""
    stream = site.channel.stream_stream(
        "/bursar.v1.Agents/Connect",
        request_serializer=pb.AgentMessage.SerializeToString,
        response_deserializer=pb.DaemonMessage.FromString,
    )(metadata=(("authorization", f"Bearer {await secret(site)}"),), timeout=120)
    with contextlib.suppress(asyncio.InvalidStateError):  # it was refused meanwhile
        for message in messages:
            await stream.write(message)
        await stream.done_writing()
    return await stream.read()


@pytest.mark.parametrize(("protocol", "follow"), [(PROTOCOL, 1), (PROTOCOL_PAGED, 0), (4, 0), (1, 0)])
def test_a_protocol_that_is_not_spoken_is_refused_with_what_to_do(protocol: int, follow: int) -> None:
    async def story(site: Site) -> None:
        hello = pb.Hello()
        hello.CopyFrom(HELLO)
        hello.protocol, hello.attempts_follow = protocol, follow
        answer = await first_answer(site, [pb.AgentMessage(hello=hello)])
        assert answer.refused.message.startswith(
            f"this daemon speaks agent protocol {PROTOCOL}, the agent {protocol}; install the same release"
        )

    play(story)


def test_an_agent_that_reconnects_without_end_is_told_to_wait_and_writes_no_events() -> None:
    async def story(site: Site) -> None:
        token = await secret(site)
        before = site.engine.state.version
        verdicts = [await say(site, pb.AgentMessage(hello=HELLO), token=token) for _ in range(BURST + 7)]
        assert [status for status, _, _ in verdicts] == ["OK"] * BURST + ["RESOURCE_EXHAUSTED"] * 7
        assert "come again in 10 s; `bursar events --node n2`" in verdicts[-1][1]
        await site.engine.durable()
        written = site.engine.state.version
        assert written - before < 3 * BURST
        site.clock.advance(10_000_000)
        status, _, _ = await say(site, pb.AgentMessage(hello=HELLO), token=token)
        assert status == "OK"
        await site.engine.durable()
        rows = [decode(row.payload) for row in site.store.events(written, 100)]
        node = site.engine.state.node_by_name("n2")
        assert node is not None
        assert NodeConnected(node.id, refused=7) in rows

    play(story)


TEXTS = ("", "n2", "b-1", "att_1", "completed", "failed", "\0", "x" * 5000, "ü\n", "a b")
NUMBERS = (0, 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
WHOLE = (FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_INT64,
         FieldDescriptor.TYPE_INT32)  # fmt: skip


def fill(draw: Random, message: Any, depth: int = 0) -> Any:
    """Some fields of a message at the edges of what its types can hold."""
    for field in message.DESCRIPTOR.fields:
        if draw.random() < 0.5:
            continue
        repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
        if field.type == field.TYPE_MESSAGE:
            if field.message_type.GetOptions().map_entry:
                getattr(message, field.name)["k" * draw.choice([1, 300])] = "v\n"
            elif depth < 3:
                inner = getattr(message, field.name)
                for _ in range(draw.randint(1, 2)):
                    fill(draw, inner.add() if repeated else inner, depth + 1)
            continue
        value = _value(draw, field)
        if repeated:
            getattr(message, field.name).extend([value, value])
        else:
            setattr(message, field.name, value)
    return message


def _value(draw: Random, field: Any) -> Any:
    if field.type in WHOLE:
        bits = 32 if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else 64
        signed = field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_INT64)
        top = 2 ** (bits - signed) - 1
        return draw.choice([n for n in NUMBERS if n <= top] + ([-1, -top - 1] if signed else []))
    if field.type == field.TYPE_BOOL:
        return True
    if field.type == field.TYPE_BYTES:
        return draw.choice([b"", b"x" * 32, b"\xff" * 1000])
    if field.type in (field.TYPE_DOUBLE, field.TYPE_FLOAT):
        return draw.choice([0.0, float("nan"), float("inf"), -1.0, 1e300])
    return draw.choice(TEXTS)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_message_whatever_it_holds_is_a_fault_of_the_daemon(seed: int) -> None:
    draw = Random(seed)
    hellos = [pb.AgentMessage(hello=HELLO)]
    for _ in range(3):
        broken = pb.Hello()
        broken.CopyFrom(HELLO)
        hellos.append(pb.AgentMessage(hello=fill(draw, broken)))
    words = [fill(draw, pb.AgentMessage()) for _ in range(12)]

    async def story(site: Site) -> None:
        token = await secret(site)
        for hello in hellos:
            status, details, _ = await say(site, hello, token=token)
            assert status not in ("INTERNAL", "UNKNOWN"), (hello, details)
        for word in words:
            status, details, _ = await say(site, hellos[0], word, token=token)
            assert status not in ("INTERNAL", "UNKNOWN"), (word, details)
        await asyncio.wait_for(site.engine.durable(), 120)

    log = logging.getLogger("bursard.services")
    log.setLevel(logging.CRITICAL)
    try:
        play(story)
    finally:
        log.setLevel(logging.NOTSET)


def test_an_agents_stream_ends_with_the_secret_it_was_admitted_on() -> None:
    """
    1. An agent is served on a secret of its node.
    2. The secret is revoked. The stream ends, without a further word of the agent.
    3. It does not come in again.

    An agent that the kernel vouches for, on the unix socket, runs as root or as the daemon's own account:
    what it rests on cannot be taken away while the daemon runs.
    """

    async def story(site: Site) -> None:
        token = await secret(site)
        stream = site.channel.stream_stream(
            "/bursar.v1.Agents/Connect",
            request_serializer=pb.AgentMessage.SerializeToString,
            response_deserializer=pb.DaemonMessage.FromString,
        )(metadata=(("authorization", f"Bearer {token}"),), timeout=120)
        await stream.write(pb.AgentMessage(hello=HELLO))
        assert (await stream.read()).WhichOneof("body") == "welcome"
        node = site.engine.state.node_by_name("n2")
        assert node is not None
        assert node.connected
        request = nodes_pb2.RevokeTokensRequest(node="n2")
        root = site.token("root", "admin")
        assert (await site.call("Nodes.RevokeTokens", request, token=root))[0] == "OK"
        with contextlib.suppress(aio.AioRpcError):
            while await stream.read() is not aio.EOF:
                pass
        await stream.code()
        status, _, _ = await say(site, pb.AgentMessage(hello=HELLO), token=token)
        assert status == "UNAUTHENTICATED"

    play(story)
