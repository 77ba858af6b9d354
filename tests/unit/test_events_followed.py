"""Events that are followed go on over restarts of the daemon: none is lost, none comes twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar import errors
from bursar.cli.main import run
from bursar.client import AsyncWireClient, WireClient, aio, sync
from bursar.client.fake import FakeServer
from bursar.v1 import events_pb2 as pb
from bursar.v1 import types_pb2

Follow = Callable[..., list[int]]
Asked = tuple[int, int, int, bool]
"""after_seq, limit, tail, follow."""


def waiting(url: str, **filters: Any) -> list[int]:
    with WireClient(url) as client:
        return [event.seq for event in client.events(follow=True, **filters)]


def awaiting(url: str, **filters: Any) -> list[int]:
    async def story() -> list[int]:
        async with AsyncWireClient(url) as client:
            return [event.seq async for event in client.events(follow=True, **filters)]

    return asyncio.run(story())


@pytest.fixture(params=[waiting, awaiting])
def follow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Follow:
    for module in (aio, sync):
        monkeypatch.setattr(module, "RETRY_S", 0.0)
    found: Follow = request.param
    return found


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeServer]:
    with FakeServer(tmp_path / "run") as server:
        yield server


def gone() -> errors.ServerUnavailable:
    return errors.ServerUnavailable("the daemon was killed")


def serve(fake: FakeServer, *lives: tuple[list[int], int | None], began: int = 0) -> None:
    """What matches in the log at each opening, and after how many events the daemon dies (None: it stays)."""
    left = iter(lives)

    def stream(request: pb.ListEventsRequest) -> Iterator[pb.Event]:
        log, dies_after = next(left)
        found = [seq for seq in log if seq > request.after_seq]
        if request.tail:
            found = found[-request.tail :]
        if request.limit:
            found = found[: request.limit]
        yield from (pb.Event(seq=seq) for seq in found[:dies_after])
        if dies_after is not None:
            raise gone()

    fake.answers |= {"Events/List": stream, "Events/Server": pb.ServerResponse(last_seq=began)}


def asked(fake: FakeServer) -> list[Asked]:
    return [(r.after_seq, r.limit, r.tail, r.follow) for r in fake.calls("Events/List")]


def test_it_goes_on_after_the_last_event_without_the_tail(fake: FakeServer, follow: Follow) -> None:
    serve(fake, ([1, 2, 3], 2), ([1, 2, 3, 4], 1), ([1, 2, 3, 4, 9], None), began=3)
    assert follow(fake.url, tail=2, node="n", kinds=["job-held"]) == [2, 3, 4, 9]
    assert asked(fake) == [(0, 0, 2, True), (3, 0, 0, True), (4, 0, 0, True)]
    assert {(r.node, *r.kinds) for r in fake.calls("Events/List")} == {("n", "job-held")}


def test_before_the_first_event_the_same_is_asked_again(fake: FakeServer, follow: Follow) -> None:
    serve(fake, ([4], 0), ([4], 0), ([4, 7], None), began=6)
    assert follow(fake.url, after_seq=3) == [4, 7]
    assert asked(fake) == [(3, 0, 0, True)] * 3


def test_a_tail_of_which_none_had_come_is_whole_with_all_that_came_meanwhile(
    fake: FakeServer, follow: Follow
) -> None:
    log = [1, 2, 5, 7, 8, 9]
    serve(fake, ([1, 2, 5], 0), (log, None), (log, None), began=6)
    assert follow(fake.url, tail=4) == [5, 7, 8, 9]
    assert asked(fake) == [(0, 0, 4, True), (0, 0, 4, False), (6, 0, 0, True)]


def test_what_came_meanwhile_may_be_more_than_the_tail(fake: FakeServer, follow: Follow) -> None:
    serve(fake, ([], 0), ([7, 8, 9], None), ([7, 8, 9], 0), ([7, 8, 9, 11], None), began=6)
    assert follow(fake.url, tail=1, after_seq=2) == [7, 8, 9, 11]
    assert asked(fake) == [(2, 0, 1, True), (2, 0, 1, False), (6, 0, 0, True), (6, 0, 0, True)]


def test_a_tail_may_break_again_in_its_middle(fake: FakeServer, follow: Follow) -> None:
    serve(fake, ([1, 2, 3], 0), ([1, 2, 3], 1), ([1, 2, 3, 8], None), began=6)
    assert follow(fake.url, tail=2) == [2, 3, 8]
    assert asked(fake) == [(0, 0, 2, True), (0, 0, 2, False), (2, 0, 0, True)]


def test_a_limit_counts_over_restarts(fake: FakeServer, follow: Follow) -> None:
    serve(fake, ([1, 2, 3, 4], 2), ([1, 2, 3, 4], None))
    assert follow(fake.url, limit=3) == [1, 2, 3]
    assert asked(fake) == [(0, 3, 0, True), (2, 1, 0, True)]


def test_a_daemon_that_dies_after_the_last_of_the_limit_is_not_asked_for_all(
    fake: FakeServer, follow: Follow
) -> None:
    serve(fake, ([1, 2, 3], 2))
    assert follow(fake.url, limit=2) == [1, 2]
    assert asked(fake) == [(0, 2, 0, True)]


def test_the_last_job_stays_the_one_it_was(fake: FakeServer, follow: Follow) -> None:
    jobs = iter([types_pb2.Job(id="job_1"), types_pb2.Job(id="job_2")])
    fake.answers["Jobs/Get"] = lambda request: next(jobs)
    serve(fake, ([1], 1), ([1, 2], None))
    assert follow(fake.url, job="last") == [1, 2]
    assert [request.job for request in fake.calls("Events/List")] == ["job_1", "job_1"]


def test_a_server_that_was_never_reached_is_an_error_at_once(tmp_path: Path, follow: Follow) -> None:
    with pytest.raises(errors.ServerUnavailable, match="there is no such socket"):
        follow(f"unix://{tmp_path}/nobody.sock")


def test_a_server_that_stays_away_is_given_up(
    fake: FakeServer, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (aio, sync):
        monkeypatch.setattr(module, "PATIENCE_S", -1.0)
    serve(fake, ([1], 1))
    with pytest.raises(errors.ServerUnavailable, match="the daemon was killed"):
        follow(fake.url)
    assert len(asked(fake)) == 1


def test_patience_begins_again_once_the_server_answers(
    fake: FakeServer, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long ago the restart before was, and though no event has come since."""
    now = iter(range(0, 10_000, 50))
    for module in (aio, sync):
        monkeypatch.setattr(module, "time", Clock(lambda: float(next(now))))
    serve(fake, ([], 0), ([], 0), ([], 0), ([5], None))
    assert follow(fake.url) == [5]


class Clock:
    """The module `time` of a client whose clock is told. It does not sleep."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.monotonic = monotonic

    def sleep(self, seconds: float) -> None:
        pass


@pytest.mark.parametrize("refusal", [errors.RateLimited("you fell behind"), errors.Forbidden("no longer")])
def test_a_stream_that_the_daemon_ends_with_a_reason_stays_ended(
    fake: FakeServer, follow: Follow, refusal: errors.BursarError
) -> None:
    def stream(request: pb.ListEventsRequest) -> Iterator[pb.Event]:
        yield pb.Event(seq=1)
        raise refusal

    fake.answers["Events/List"] = stream
    with pytest.raises(type(refusal), match=refusal.message):
        follow(fake.url)
    assert len(asked(fake)) == 1


def test_a_client_that_was_closed_follows_no_more(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "RETRY_S", 0.0)
    serve(fake, ([1, 2], 1), ([1, 2], None))
    client = WireClient(fake.url)
    found = client.events(follow=True)
    assert next(found).seq == 1
    client.close()
    with pytest.raises(errors.ServerUnavailable):
        next(found)
    assert len(asked(fake)) == 1


def test_without_follow_a_lost_server_is_an_error(fake: FakeServer) -> None:
    serve(fake, ([1], 1))
    with WireClient(fake.url) as client, pytest.raises(errors.ServerUnavailable, match="was killed"):
        list(client.events())
    assert fake.calls("Events/Server") == []


def test_the_command_goes_on_as_its_client_does(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sync, "RETRY_S", 0.0)
    monkeypatch.setenv("BURSAR_SERVER", fake.url)
    serve(fake, ([1, 2], 1), ([1, 2], None))
    assert run(["events", "-f", "-o", "jsonl"]) == 0
    assert [line.count('"seq"') for line in capsys.readouterr().out.splitlines()] == [1, 1]
