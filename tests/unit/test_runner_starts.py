"""Starts on their way to the launcher: one that is asked for again finds the mark of the first."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bursar.errors import WrongState
from bursar_agent.runner import starts
from bursar_agent.runner.handle import ProcessRunner
from bursar_agent.runner.model import Ended, ExitReport, StartRequest

KEY = ("att_1", 0)


class Bench:
    """A runner whose launchers are ours: each of `turns` is what one of them does with a request."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[Any] = []
        self.began: list[str] = []
        self.turns: list[Callable[[], None]] = []
        self.made = ProcessRunner(folder, self.events.append)
        self.made._launcher = self._launcher  # type: ignore[method-assign]

    async def _launcher(self) -> Any:
        return self

    async def request(self, body: bytes) -> dict[str, Any]:
        """Mark as a launcher does, and run a job that has ended at once."""
        results = []
        for asked in json.loads(body)["requests"]:
            member = f"{asked['attempt_id']}.{asked['rank']}"
            try:
                (self.folder / "attempts" / member).mkdir()
            except FileExistsError:
                results.append({"state": "already", "message": f"{member} was started before"})
                continue
            self.began.append(member)
            self.end(asked["attempt_id"], asked["rank"])
            results.append({"state": "starting", "supervisor_pid": os.getpid()})
        self.turns.pop(0)()
        return {"results": results}

    def end(self, attempt_id: str, rank: int) -> None:
        report = ExitReport(attempt_id, rank, 5, "completed", 0, None, "", "run", "b", 5, 9, 4, 1, 1, 1, 0, 0)
        told = report.to_json()
        where = self.folder / "attempts" / f"{attempt_id}.{rank}"
        (where / "starting").write_text('{"taken": 2}')
        (where / "start.json").write_text(json.dumps({"supervisor_pid": os.getpid()}))
        (where / "exit.json").write_text(json.dumps(told))
        self.made._hear({"kind": "ended", **told})

    def free(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "free").glob("*"))


def play(bench: Bench, story: Callable[[], Any]) -> None:
    async def whole() -> None:
        await bench.made.open()
        try:
            await story()
        finally:
            await bench.made.close()

    asyncio.run(whole())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def request(rank: int = 0) -> StartRequest:
    return StartRequest(attempt_id="att_1", rank=rank, epoch=5)


def dies() -> None:
    raise ConnectionResetError("the launcher closed the connection")


def test_a_member_that_ended_before_its_launcher_died_unheard_is_not_started_again(bench: Bench) -> None:
    """Its end was in the daemon's books, and forgotten by the agent, before the launcher's answer."""
    found: list[bool] = []

    def recorded_and_killed() -> None:
        found.append(bench.made.release(*KEY))
        dies()

    async def story() -> None:
        bench.turns = [recorded_and_killed, lambda: None]
        (answer,) = await bench.made.start([request()])
        assert answer.state == "already"
        assert bench.began == ["att_1.0"]
        assert found == [True]
        assert [event.report.attempt_id for event in bench.events if isinstance(event, Ended)] == ["att_1"]
        assert bench.free() == ["att_1.0"], "once it is answered, the directory can be used again"
        assert list((bench.folder / "attempts").glob("*")) == []

    play(bench, story)


def test_a_mark_goes_at_once_where_the_start_was_answered_and_at_the_answer_where_it_was_not(
    bench: Bench,
) -> None:
    seen: list[Any] = []

    def recorded() -> None:
        seen.append((bench.made.release("att_1", 0), bench.made.release("att_1", 1)))
        with pytest.raises(WrongState, match="the start of attempt att_1 rank 1 is not answered yet"):
            bench.made.forget("att_1", 1)
        seen.append(bench.free())

    async def story() -> None:
        bench.turns = [lambda: None, recorded]
        await bench.made.start([request()])
        assert bench.free() == []
        await bench.made.start([request(1)])
        assert seen == [(True, True), ["att_1.0"]]
        assert bench.free() == ["att_1.0", "att_1.1"]

    play(bench, story)


def test_a_start_that_no_launcher_answers_lets_go_of_the_mark_too(bench: Bench) -> None:
    def recorded_and_killed() -> None:
        bench.made.release(*KEY)
        dies()

    async def story() -> None:
        bench.turns = [recorded_and_killed, dies, dies, dies]
        with pytest.raises(ConnectionResetError):
            await bench.made.start([request()])
        assert (bench.began, bench.turns) == (["att_1.0"], [])
        assert bench.free() == ["att_1.0"]

    play(bench, story)


def test_one_that_is_asked_for_twice_at_once_waits_for_both_answers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    given: list[tuple[str, int]] = []

    def give_up(attempt_id: str, rank: int) -> None:
        given.append((attempt_id, rank))
        if rank == 1:
            raise FileNotFoundError(2, "no such directory")

    made = starts.Unanswered(give_up)
    other = ("att_1", 1)
    with made.asking([KEY, other]):
        with made.asking([KEY]):
            made.over(*KEY)
            made.over(*other)
            assert (KEY in made, other in made, given) == (True, True, [])
        assert (KEY in made, given) == (True, [])
    assert (KEY in made, sorted(given)) == (False, [KEY, other])
    assert [record.getMessage() for record in caplog.records] == ["cannot release"]
    with made.asking([KEY]):
        pass
    assert len(given) == 2, "once"


def test_starts_leave_in_messages_of_sixteen_and_of_a_megabyte() -> None:
    assert [len(batch) for batch in starts.batches([b"x"] * 33)] == [16, 16, 1]
    half = b"x" * (1 << 19)
    assert starts.batches([half, half, b"y", half]) == [[half, half], [b"y", half]]
    assert starts.batches([]) == []


def test_a_request_that_is_no_utf_8_is_sent_as_it_is() -> None:
    assert starts.encoded({"a": "é"}) == '{"a":"é"}'.encode()
    assert json.loads(starts.encoded({"a": "\udcff"})) == {"a": "\udcff"}
