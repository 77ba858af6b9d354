"""`execute` of both clients: a program inside a job, its input, its output and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attached_there import There, ends

import bursar
from bursar.client.fake import FakeServer
from bursar.errors import InvalidRequest, RateLimited, ServerUnavailable, WrongState
from bursar.results import Executed
from bursar.steps import frames

Ask = Callable[..., Executed]


def waiting(**words: Any) -> Executed:
    with bursar.Client() as client:
        return client.execute(**words)


def awaiting(**words: Any) -> Executed:
    async def ask() -> Executed:
        async with bursar.AsyncClient() as client:
            return await client.execute(**words)

    return asyncio.run(ask())


@pytest.fixture(params=[waiting, awaiting])
def execute(request: pytest.FixtureRequest) -> Ask:
    found: Ask = request.param
    return found


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with FakeServer(tmp_path / "run") as made:
        monkeypatch.setenv("BURSAR_SERVER", made.url)
        yield made


def there(server: FakeServer, *says: tuple[int, int, bytes]) -> There:
    made = There(*says)
    server.answers["Jobs/Attach"] = made
    return made


def test_it_says_what_to_run_and_answers_what_came(server: FakeServer, execute: Ask) -> None:
    out, err = (frames.OUT, 0, b"a\n"), (frames.ERR, 0, b"oh\n")
    member = there(server, out, err, (frames.OUT, 0, b"b\n"), *ends(3))
    found = execute(job="9", command=["echo", "a b"], rank=2)
    assert found == Executed(exit_code=3, stdout=b"a\nb\n", stderr=b"oh\n")
    assert (member.opened.job, member.opened.rank, member.opened.kind) == ("9", 2, "program")
    told = member.spec()
    assert (told["argv"], told["stdin"], told["terminal"]) == (["echo", "a b"], False, 0)


def test_its_input_goes_there_and_ends(server: FakeServer, execute: Ask) -> None:
    member = there(server, *ends(0))
    given = b"x" * 100_000
    member.says = []
    done: list[bytes] = []

    def answers(request: Any) -> Any:
        if any(kind == frames.STDIN_END for kind, _, _ in member.heard):
            member.says = list(ends(0))
        return There.__call__(member, request)

    server.answers["Jobs/Attach"] = answers
    assert execute(job="9", command=["cat"], stdin=given).exit_code == 0
    done += [data for kind, _, data in member.heard if kind == frames.STDIN]
    assert b"".join(done) == given
    assert member.spec()["stdin"] is True


def test_a_signal_is_told_as_a_shell_tells_it(server: FakeServer, execute: Ask) -> None:
    there(server, *ends(0, 9))
    assert execute(job="9", command=["true"]).exit_code == 137


def test_what_writes_too_much_is_ended_and_said(server: FakeServer, execute: Ask) -> None:
    there(server, (frames.OUT, 0, b"x" * 101), *ends(0))
    with pytest.raises(RateLimited, match="more than 100 bytes"):
        execute(job="9", command=["yes"], output_bytes_max=100)


def test_what_ends_with_its_job_has_no_exit_code(server: FakeServer, execute: Ask) -> None:
    member = there(server)
    member.closes = "the job's attempt has ended"
    with pytest.raises(ServerUnavailable, match="the job's attempt has ended; the program there was ended"):
        execute(job="9", command=["true"])


def test_what_cannot_be_is_refused(server: FakeServer, execute: Ask) -> None:
    with pytest.raises(InvalidRequest, match="command: is empty"):
        execute(job="9", command=[])
    server.answers["Jobs/Attach"] = WrongState("job 9 does not run")
    with pytest.raises(WrongState, match="job 9 does not run"):
        execute(job="9", command=["true"])


def test_it_waits_no_longer_than_it_is_told(server: FakeServer, execute: Ask) -> None:
    there(server)
    with pytest.raises(TimeoutError):
        execute(job="9", command=["sleep", "9"], timeout_s=0.3)
