"""The door: room for everybody, streams that end with their rights, bytes that mean nothing, the log."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from hypothesis import given, settings
from hypothesis import strategies as st
from whole_site import METHODS, Site, play

from bursar.clock import SECOND_US, VirtualClock
from bursar.errors import Forbidden, NotFound, RateLimited, Unauthenticated
from bursar.v1 import access_pb2, events_pb2, jobs_pb2, nodes_pb2
from bursard import app
from bursard.access import tokens
from bursard.access.admission import ROOMS, Admission, Kind, Room, Ticket
from bursard.access.authorize import Action
from bursard.access.identity import Grant, Identity, Role
from bursard.access.refusals import FAULTS_PER_WINDOW, WINDOW_US, Refusals
from bursard.access.sessions import STALLED_US
from bursard.services import interceptors
from bursard.services.wirefault import unreadable
from bursard.settings import Settings as Configuration

FOLLOW = events_pb2.ListEventsRequest(follow=True)


def user(name: str, role: Role = Role.SUBMITTER) -> Identity:
    return Identity(name, role)


# ------------------------------------------------------------------ room, counted


def open_all(
    admission: Admission, identity: Identity, count: int, action: Action = Action.SEE_JOBS
) -> list[Ticket]:
    """Streams that were let in, of so many asked for."""
    found = []
    for _ in range(count):
        with contextlib.suppress(RateLimited):
            found.append(admission.enter(identity, action, is_stream=True))
    return found


def test_thousands_of_followers_leave_room_for_everybody_else() -> None:
    admission = Admission()
    for number in range(100):
        open_all(admission, user(f"crowd-{number}"), 200)
    open_all(admission, user("crowd-0"), 5_000)
    calls = [admission.enter(user("sue"), Action.SUBMIT, is_stream=False) for _ in range(200)]
    assert len(calls) == 200
    assert len(open_all(admission, user("oz", Role.OPERATOR), 1_000)) == 500
    node = Identity("n1", Role.AGENT, token_sha256="x")
    assert len(open_all(admission, node, 10, Action.CONNECT)) == 4
    assert len(open_all(admission, Identity("root", Role.ADMIN, local=True), 2_000, Action.CONNECT)) == 2_000


def test_one_identity_has_its_limit_and_what_it_closes_it_may_open_again() -> None:
    admission = Admission()
    opened = open_all(admission, user("ann"), 300)
    assert len(opened) == 100
    with pytest.raises(RateLimited) as error:
        admission.enter(user("ann"), Action.SEE_JOBS, is_stream=True)
    assert error.value.facts == {"open": "100", "limit": "100", "what": "streams"}
    assert "ann already have 100 streams open, the limit is 100; close some" in error.value.message
    assert len(open_all(admission, user("bob"), 300)) == 100
    admission.leave(opened[0])
    assert len(open_all(admission, user("ann"), 2)) == 1


def test_streams_are_calls_too_and_calls_have_a_limit_of_their_own() -> None:
    admission = Admission()
    open_all(admission, user("ann"), 100)
    for _ in range(100):
        admission.enter(user("ann"), Action.SUBMIT, is_stream=False)
    with pytest.raises(RateLimited, match="200 calls open, the limit is 200"):
        admission.enter(user("ann"), Action.SUBMIT, is_stream=False)


def test_a_kind_is_full_for_its_own_and_says_so() -> None:
    admission = Admission()
    assert sum(len(open_all(admission, user(f"u{i}"), 100)) for i in range(11)) == 1_000
    with pytest.raises(RateLimited, match="users have 1000 streams open, the limit is 1000; try again"):
        admission.enter(user("late"), Action.SEE_JOBS, is_stream=True)
    admission.enter(user("late"), Action.SEE_JOBS, is_stream=False)
    admission.enter(user("oz", Role.OPERATOR), Action.SEE_JOBS, is_stream=True)


def test_an_operator_of_one_project_has_no_place_among_those_of_the_site() -> None:
    admission = Admission()
    part = Identity("pat", None, grants=(Grant(Role.OPERATOR, "nlp"),))
    assert admission.enter(part, Action.SEE_JOBS, is_stream=True).kind is Kind.USER
    assert admission.enter(None, None, is_stream=True).kind is Kind.STRANGER


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans()), max_size=60))
def test_counts_are_those_of_what_is_open(steps: list[tuple[str, bool, bool]]) -> None:
    room = Room(calls=6, streams=4, calls_each=3, streams_each=2)
    admission = Admission(ROOMS | {Kind.USER: room})
    inside: list[Ticket] = []
    for name, is_stream, goes in steps:
        if goes and inside:
            admission.leave(inside.pop(0))
            continue
        own = [t for t in inside if t.name == name]
        streams = [t for t in inside if t.is_stream]
        full = len(own) >= 3 or len(inside) >= 6
        if is_stream:
            full = full or len([t for t in own if t.is_stream]) >= 2 or len(streams) >= 4
        try:
            inside.append(admission.enter(user(name), Action.SUBMIT, is_stream=is_stream))
            assert not full
        except RateLimited:
            assert full
    for ticket in inside:
        admission.leave(ticket)
    assert not admission._calls
    assert not admission._streams


# ------------------------------------------------------------------ room, through the server


def follow(site: Site, token: str, method: str = "Events.List", request: Any = FOLLOW) -> Any:
    about = METHODS[method]
    multi = site.channel.unary_stream(
        f"/{about.containing_service.full_name}/{about.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=lambda data: data,
    )
    return multi(request, metadata=(("authorization", f"Bearer {token}"),))


async def until(holds: Callable[[], bool]) -> None:
    """Let the server run until something holds; the test's own time limit ends what never does."""
    while not holds():  # noqa: ASYNC110  # the door tells nobody
        await asyncio.sleep(0.001)


async def first(stream: Any) -> str:
    """OK once a stream has said its first word, else its status."""
    try:
        await stream.read()
    except aio.AioRpcError as error:
        return str(error.code().name)
    return "OK" if not stream.done() else str((await stream.code()).name)


def test_three_hundred_followers_of_one_user_keep_nobody_out() -> None:
    async def story(site: Site) -> None:
        crowd = site.token("crowd", "submitter")
        streams = [follow(site, crowd) for _ in range(300)]
        said = await asyncio.gather(*(first(stream) for stream in streams))
        assert (said.count("OK"), said.count("RESOURCE_EXHAUSTED")) == (100, 200)
        for name, role in [("oz", "operator"), ("sue", "submitter")]:
            token = site.token(name, role)
            assert await first(follow(site, token)) == "OK"
            assert (await site.call("Events.Server", token=token))[0] == "OK"
        assert (await site.call("Jobs.List", token=crowd))[0] == "OK"
        # An agent gets as far as its first word, which here is none.
        status, details = await site.call("Agents.Connect", token=site.token("n9", "agent"))
        assert (status, "Hello" in details) == ("INVALID_ARGUMENT", True)
        for stream in streams:
            stream.cancel()
        await until(lambda: all(s.identity.name != "crowd" for s in site.door.sessions.open))
        assert await first(follow(site, crowd)) == "OK"

    play(story)


def test_calls_that_keep_their_request_back_are_counted_and_strangers_are_sent_away_at_once() -> None:
    async def story(site: Site) -> None:
        path = "/bursar.v1.Jobs/Get"
        multi = site.channel.stream_stream(path, lambda m: m.SerializeToString(), lambda data: data)

        async def never() -> Any:
            await asyncio.Event().wait()
            yield None

        ann = (("authorization", f"Bearer {site.token('ann', 'submitter')}"),)
        held = [multi(never(), metadata=ann) for _ in range(2)]
        await until(lambda: len(site.door._admission._calls) == 2)  # hers and the sum
        stranger = multi(never())
        assert (await stranger.code()) is grpc.StatusCode.UNAUTHENTICATED
        for call in held:
            call.cancel()

    play(story)


def test_who_keeps_its_request_back_is_told_so_and_leaves_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(site: Site) -> None:
        async def never() -> Any:
            await asyncio.Event().wait()
            yield None

        monkeypatch.setattr(interceptors, "REQUEST_S", 0.0)
        multi = site.channel.stream_stream("/bursar.v1.Jobs/Get", None, None)
        metadata = (("authorization", f"Bearer {site.token('ann', 'submitter')}"),)
        assert await status_of(multi(never(), metadata=metadata)) == (
            "INVALID_ARGUMENT",
            "no request came within 0 s of the call",
        )
        await until(lambda: not site.door._admission._calls)

    play(story)


def test_a_local_caller_is_looked_up_when_its_token_is_made_and_when_its_stream_is_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(site: Site) -> None:
        asked: list[int] = []

        def name_of(uid: int) -> str:
            asked.append(uid)
            return "maria"

        monkeypatch.setattr(tokens, "_user_name", name_of)
        local, _ = site.authority.issue_local(0)
        who = [site.authority.identify(f"Bearer {local}") for _ in range(3)]
        assert {(one.name, one.role, one.local, one.uid) for one in who} == {("maria", Role.ADMIN, True, 0)}
        assert asked == [0]
        monkeypatch.setattr(tokens, "_user_name", lambda uid: f"renamed-{uid}")
        assert site.authority.renew(who[0], f"Bearer {local}").name == "renamed-0"

    play(story)


# ------------------------------------------------------------------ streams end with their rights


async def status_of(stream: Any) -> tuple[str, str]:
    try:
        while await stream.read() is not aio.EOF:
            pass
    except aio.AioRpcError as error:
        return error.code().name, str(error.details())
    return (await stream.code()).name, str(await stream.details())


def test_a_stream_ends_when_the_role_it_rests_on_is_taken_away() -> None:
    async def story(site: Site) -> None:
        root, ana = site.token("root", "admin"), site.token("ana", "none")
        job_id = site.job("bob", "nlp")
        for project in ("nlp", "vision"):
            request = access_pb2.GrantRequest(user="ana", role="viewer", project=project)
            assert (await site.call("Access.Grant", request, token=root))[0] == "OK"
        streams = [
            follow(site, ana),
            follow(site, ana, "Jobs.Watch", jobs_pb2.WatchJobsRequest(jobs=[job_id])),
            follow(site, ana, "Nodes.Top", nodes_pb2.TopRequest(follow=True)),
        ]
        assert [await first(stream) for stream in streams] == ["OK"] * 3
        other = follow(site, site.token("vic", "viewer"))
        assert await first(other) == "OK"
        # One role more ends nothing.
        request = access_pb2.GrantRequest(user="ana", role="submitter", project="nlp")
        assert (await site.call("Access.Grant", request, token=root))[0] == "OK"
        assert len(site.door.sessions.open) == 4
        request = access_pb2.GrantRequest(user="ana", role="viewer", project="nlp")
        assert (await site.call("Access.Revoke", request, token=root))[0] == "OK"
        for stream in streams:
            status, details = await status_of(stream)
            assert (status, "role was taken away" in details) == ("PERMISSION_DENIED", True)
        await until(lambda: [session.identity.name for session in site.door.sessions.open] == ["vic"])
        assert not other.done()

    play(story)


def test_a_stream_ends_when_its_token_does_and_a_local_one_lives_on_with_its_account() -> None:
    async def story(site: Site) -> None:
        site.engine.commit([issued("n2", "hash-of-n2", site.clock.now() + SECOND_US)], "root")
        local, _ = site.authority.issue_local(0)
        stream = follow(site, local)
        assert await first(stream) == "OK"
        site.clock.advance(3600 * SECOND_US)
        assert (await site.call("Events.Server", token=local))[0] == "UNAUTHENTICATED"
        site.door.sessions.recheck()
        assert len(site.door.sessions.open) == 1
        ann = site.token("ann", "viewer")
        taken = follow(site, ann)
        assert await first(taken) == "OK"
        site.authority.replace(())
        site.door.sessions.recheck()
        assert (await status_of(taken))[0] == "UNAUTHENTICATED"
        assert not stream.done()

    play(story)


def issued(name: str, sha256: str, expires_at: int) -> Any:
    from bursard.events import NodeTokenIssued

    return NodeTokenIssued(name, sha256, expires_at)


def test_a_reader_that_stopped_is_told_where_to_go_on_and_leaves_its_place() -> None:
    async def story(site: Site) -> None:
        for number in range(400):
            site.job("bob", "nlp", name=f"j-{number}", labels=(("k", "x" * 200),))
        await site.engine.durable()
        stream = follow(site, site.token("ann", "viewer"))
        assert await first(stream) == "OK"
        (session,) = site.door.sessions.open
        session.sending_since = site.clock.boot_us() + 1
        site.clock.advance(STALLED_US)
        site.door.sessions.recheck()
        assert session.error is None
        session.sending_since -= 1
        site.door.sessions.recheck()
        status, details = await status_of(stream)
        assert status == "RESOURCE_EXHAUSTED"
        assert "you fell behind: a message waited 60 s" in details
        assert "go on with `bursar events --after " in details
        await until(
            lambda: not site.door.sessions.open
        )  # its caller may hear of the end before it is all over

    play(story)


# ------------------------------------------------------------------ bytes that mean nothing


def raw(site: Site, path: str, data: bytes, token: str) -> Any:
    multi = site.channel.stream_stream(path, None, None)
    return multi(iter([data]), metadata=(("authorization", f"Bearer {token}"),))


@pytest.mark.parametrize("method", METHODS)
def test_undecodable_bytes_have_a_status_and_leave_no_line(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(site: Site) -> None:
        about = METHODS[method]
        path = f"/{about.containing_service.full_name}/{about.name}"
        token = site.token("root", "agent" if method == "Agents.Connect" else "admin")
        for data in (b"\xff", b"\x0a\x05ab", b"\x0f"):
            status, details = await status_of(raw(site, path, data, token))
            assert status == "INVALID_ARGUMENT", details
            assert details

    with caplog.at_level(logging.INFO):
        play(story)
    assert "Traceback" not in caplog.text
    assert len([record for record in caplog.records if record.levelno >= logging.INFO]) <= 1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x0a\x02\xff\xfe", "job: byte 0 of the text is not UTF-8"),
        (b"\x0a\x05ab", "job: the bytes end in the middle of it"),
        (b"\x0a", "job: the bytes end in the middle of a number"),
        (b"\xff", "bytes cannot be read"),
        (b"\x0f", "job: the bytes here are of no kind that there is"),
    ],
)
def test_the_field_that_breaks_is_named(data: bytes, said: str) -> None:
    assert said in unreadable(jobs_pb2.GetJobRequest.DESCRIPTOR, data).message


def test_the_field_is_named_by_its_path() -> None:
    inner = b"\x12\x03a\xffb"  # spec.project
    error = unreadable(jobs_pb2.SubmitRequest.DESCRIPTOR, b"\x0a" + bytes([len(inner)]) + inner)
    assert error.message == "spec.project: byte 1 of the text is not UTF-8"
    assert error.facts == {"field": "spec.project"}


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_no_bytes_break_what_says_how_they_are_broken(data: bytes) -> None:
    assert unreadable(jobs_pb2.SubmitRequest.DESCRIPTOR, data).message


def test_a_wrong_method_and_metadata_of_any_size_have_a_proper_status() -> None:
    async def story(site: Site) -> None:
        token = site.token("root", "admin")
        assert (await status_of(raw(site, "/bursar.v1.Jobs/Nope", b"", token)))[0] == "UNIMPLEMENTED"
        assert (await status_of(raw(site, "/x", b"", token)))[0] == "UNIMPLEMENTED"
        multi = site.channel.stream_stream("/bursar.v1.Jobs/List", None, None)
        for metadata, expected in [
            ((("authorization", "Bearer " + "x" * 60_000),), ("RESOURCE_EXHAUSTED", "UNAVAILABLE")),
            ((("authorization", "Bearer"),), ("UNAUTHENTICATED",)),
            ((("authorization", "Basic x"),), ("UNAUTHENTICATED",)),
        ]:
            assert (await status_of(multi(iter([b""]), metadata=metadata)))[0] in expected
        assert (await site.call("Jobs.List", token=token))[0] == "OK"

    play(story)


def test_a_call_without_a_request_is_told_so() -> None:
    async def story(site: Site) -> None:
        multi = site.channel.stream_stream("/bursar.v1.Jobs/Get", None, None)
        metadata = (("authorization", f"Bearer {site.token('ann', 'viewer')}"),)
        assert await status_of(multi(iter([]), metadata=metadata)) == (
            "INVALID_ARGUMENT",
            "the call carries no request",
        )

    play(story)


# ------------------------------------------------------------------ the log


def test_refusals_are_counted_and_told_in_one_line_each_ten_seconds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = VirtualClock(0)
    refusals = Refusals(clock)
    with caplog.at_level(logging.INFO):
        for _ in range(1_000):
            refusals.note("/bursar.v1.Jobs/Get", "", Unauthenticated("no"))
            refusals.note("/bursar.v1.Jobs/Get", "eve", Forbidden("no"))
            refusals.note("/bursar.v1.Jobs/Get", "eve", NotFound("no"))
    assert len(caplog.records) == 1
    assert refusals.counts == {"UNAUTHENTICATED": 1_000, "PERMISSION_DENIED": 1_000}
    clock.advance(WINDOW_US)
    with caplog.at_level(logging.INFO):
        refusals.note("/bursar.v1.Jobs/Get", "eve", Forbidden("no"))
    assert len(caplog.records) == 2
    assert caplog.records[1].counts == {"UNAUTHENTICATED": 999, "PERMISSION_DENIED": 1_001}  # type: ignore[attr-defined]


def test_the_server_says_how_many_calls_it_refused() -> None:
    async def story(site: Site) -> None:
        for _ in range(3):
            await site.call("Jobs.List")
        await site.call("Nodes.Drain", token=site.token("ann", "submitter"))
        _, (said,) = await site.ask("Events.Server", token=site.token("ann", "submitter"))
        assert said.counters["refused_unauthenticated"] == 3
        assert said.counters["refused_permission_denied"] == 1

    play(story)


def test_defects_are_told_with_their_traceback_but_not_at_will(caplog: pytest.LogCaptureFixture) -> None:
    clock = VirtualClock(0)
    refusals = Refusals(clock)
    for number in range(100):
        refusals.fault(f"fault_{number}", "/m", ValueError("x"))
    assert len(caplog.records) == FAULTS_PER_WINDOW
    assert refusals.counts == {"INTERNAL": 100}
    clock.advance(WINDOW_US)
    refusals.fault("fault_x", "/m", ValueError("x"))
    assert len(caplog.records) == FAULTS_PER_WINDOW + 1


def test_a_tokens_file_is_read_again_and_a_wrong_one_changes_nothing(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        path = tmp_path / "tokens.toml"
        path.touch(mode=0o600)
        digest = hashlib.sha256(b"word").hexdigest()
        path.write_text(f'[[token]]\nuser = "eve"\nrole = "viewer"\nsha256 = "{digest}"\n')
        configured = Configuration(tokens_file=path)
        app._reread(configured, site.authority, site.door)
        assert (await site.call("Jobs.List", token="word"))[0] == "OK"
        stream = follow(site, "word")
        assert await first(stream) == "OK"
        for wrong in ("[[token]]\n", "\xff", '[[token]]\nuser = "a"\nrole = "king"\nsha256 = "x"\n'):
            path.write_text(wrong, encoding="latin-1")
            app._reread(configured, site.authority, site.door)
            assert (await site.call("Jobs.List", token="word"))[0] == "OK"
        path.write_text("")
        app._reread(configured, site.authority, site.door)
        assert (await site.call("Jobs.List", token="word"))[0] == "UNAUTHENTICATED"
        assert (await status_of(stream))[0] == "UNAUTHENTICATED"

    play(story)
