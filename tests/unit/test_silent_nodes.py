"""A job whose node does not answer says so wherever somebody looks at it, and what can be done about it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar.cli.main import run
from bursar.client.fake import FakeServer
from bursar.clock import SECOND_US
from bursar.model import ArraySpec, JobState, NodeFacts, Reason, ReasonCode
from bursar.resources import ResourceRequest
from bursar.v1 import jobs_pb2 as pb
from bursar.v1 import types_pb2 as types
from bursard.access.identity import Identity, Role
from bursard.cycle import reason_of
from bursard.fleet import Condition
from bursard.fleet.testing import FACTS, World
from bursard.services.views import node_view, reason_view
from bursard.state import JobRecord
from bursard.state.decide import jobs, nodes

OTHER = NodeFacts(name="n-2", cpu_milli=FACTS.cpu_milli, memory_bytes=FACTS.memory_bytes)
DRAIN = "if that machine is off: `bursar node drain n-2 --confirm-dead`"
WHOLE = (ResourceRequest(None, FACTS.cpu_milli, 1 << 20),)


def world_with(**spec: Any) -> tuple[World, JobRecord]:
    """Two nodes, and a job that runs on both."""
    world = World()
    world.backend.connect(FACTS)
    world.backend.connect(OTHER)
    job = world.submit(options=WHOLE, **({"nodes": 2} | spec))
    world.cycle()
    world.backend.report()
    world.writer.flush()
    assert job.array is not None or job.state is JobState.RUNNING
    return world, job


def why(world: World, job: JobRecord) -> Reason | None:
    return reason_of(world.state, None, job, world.engine.now())


def test_a_job_says_which_rank_is_on_a_node_that_does_not_answer_and_since_when() -> None:
    world, job = world_with()
    assert why(world, job) is None
    world.backend.disconnect("n-2")
    since = world.engine.now()
    world.clock.advance(10 * SECOND_US - 1)
    assert why(world, job) is None  # an agent that is started again is back before
    world.clock.advance(1)
    found = why(world, job)
    assert found is not None
    assert found.message == (
        "rank 1 is on n-2, which has not answered for 10s; the job goes on if it comes back"
    )
    assert (found.code, found.remedy) == (ReasonCode.NODE_SILENT, DRAIN)
    assert found.facts == (("node", "n-2"), ("rank", "1"), ("since", str(since)))
    world.clock.advance(230 * SECOND_US)
    assert "has not answered for 4m00s;" in (why(world, job) or found).message
    world.backend.connect(OTHER)
    assert why(world, job) is None


def test_all_silent_ranks_are_counted_and_one_that_has_ended_is_told() -> None:
    world, job = world_with()
    assert job.attempt is not None
    world.backend.finish(job.attempt.id, 0)
    world.backend.report()
    world.writer.flush()
    world.backend.disconnect("n-2")
    world.clock.advance(60 * SECOND_US)
    found = why(world, job)
    assert found is not None
    assert found.message.endswith("; the job goes on if it comes back; rank 0 has ended (completed)")
    world, job = world_with()
    for name in ("n-1", "n-2"):
        world.backend.disconnect(name)
    world.clock.advance(60 * SECOND_US)
    found = why(world, job)
    assert found is not None
    assert found.message.startswith("rank 0 is on n-1, which has not answered for 1m00s (and 1 more rank on")
    assert found.facts[-1] == ("ranks", "0,1")


def test_a_job_on_one_node_and_one_that_is_to_end_say_it_in_their_words() -> None:
    world, job = world_with(nodes=1)
    world.engine.commit(jobs.cancel(world.state, job, None), "ann")
    world.backend.disconnect("n-1")
    world.clock.advance(10 * SECOND_US)
    found = why(world, job)
    assert found is not None
    assert found.message == (
        "it is on n-1, which has not answered for 10s; the job ends once that node tells so"
    )


def test_a_job_on_a_node_that_is_unwell_says_what_is_wrong_there() -> None:
    world, job = world_with()
    world.fleet.condition(world.node("n-2"), Condition("its disk is full"))
    found = why(world, job)
    assert found is not None
    assert (found.code, found.message) == (
        ReasonCode.NODE_UNWELL,
        "rank 1 is on n-2, which is unwell: its disk is full; what runs there goes on",
    )
    assert found.remedy == "mend that on n-2; it takes work again by itself then"


def test_an_array_names_the_first_of_its_tasks_and_counts_the_others() -> None:
    world, job = world_with(nodes=1, array=ArraySpec(((0, 4, 1),)))
    for name in ("n-1", "n-2"):
        world.backend.disconnect(name)
    world.clock.advance(10 * SECOND_US)
    found = why(world, job)
    assert found is not None
    assert found.message == (
        "task 0: it is on n-1, which has not answered for 10s; the job goes on if it comes back"
        " (so do 1 other task)"
    )
    assert found.facts[-2:] == (("task", "0"), ("tasks", "2"))


def test_who_may_not_drain_a_node_is_told_to_ask_an_operator() -> None:
    world, job = world_with()
    world.backend.disconnect("n-2")
    world.clock.advance(10 * SECOND_US)
    found = why(world, job)
    assert found is not None
    for role, said in ((Role.OPERATOR, DRAIN), (Role.SUBMITTER, f"ask an operator: {DRAIN}")):
        assert reason_view(found, world.state, Identity("ann", role)).remedy == said


def test_a_silent_node_says_since_when_and_what_its_jobs_wait_for() -> None:
    world, _ = world_with()

    def told(name: str) -> str:
        node, seen_by = world.node(name), Identity("op", Role.OPERATOR)
        return node_view(world.state, node, None, 0, seen_by, world.engine.now()).reason

    assert told("n-2") == ""
    world.backend.disconnect("n-2")
    world.clock.advance(240 * SECOND_US)
    assert told("n-2") == (
        "its agent has not answered for 4m00s; 1 job there may still run. If the machine is off:"
        " `bursar node drain n-2 --confirm-dead`"
    )
    world.engine.commit(nodes.confirm_dead(world.state, world.node("n-2")), "root")
    world.engine.commit(nodes.scheduling(world.node("n-2"), "cordon", "a new disk"), "root")
    assert told("n-2") == "its agent has not answered for 4m00s; nothing of a job is left there; a new disk"


def test_who_watches_a_job_hears_once_that_its_node_fell_silent_and_once_that_it_is_back(
    at_a_desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bursard.services.jobs.REASONS_S", 0.001)

    async def story(desk: Any) -> None:
        ref = await desk.submit()
        desk.plan()
        desk.start_all()
        heard: asyncio.Queue[str] = asyncio.Queue()
        told: list[str] = []

        async def watch() -> None:
            async for job in desk.service.Watch(pb.WatchJobsRequest(jobs=[ref], until_terminal=True), None):
                heard.put_nowait(job.reason.code or job.state)

        async def until(word: str) -> None:
            while not told or told[-1] != word:
                told.append(await heard.get())

        watching = asyncio.create_task(watch())
        await until("RUNNING")
        [node] = desk.state.nodes.values()
        desk.engine.commit(nodes.silent(desk.state, node), "bursard")
        desk.clock.advance(10 * SECOND_US)
        await until("NodeSilent")
        known = desk.service._waits_for(desk.job(ref))
        desk.clock.advance(100 * SECOND_US)
        assert desk.service._waits_for(desk.job(ref)) == known  # another number is no news
        desk.hello("n1")
        await until("RUNNING")
        desk.end_all()
        await until("SUCCEEDED")
        await watching
        assert told.count("NodeSilent") == 1

    at_a_desk(story)


# --- at a terminal

SILENT = types.Reason(
    code="NodeSilent", message="rank 1 is on n-2, which has not answered for 10s", remedy=DRAIN,
    facts={"node": "n-2", "rank": "1"},
)  # fmt: skip
LATER = types.Reason(code="NodeSilent", message="… for 11s", remedy=DRAIN, facts=SILENT.facts)


def running(**more: Any) -> types.Job:
    member = types.Member(rank=0, node="n-1", started_at=5)
    attempt = types.Attempt(id="att_1", number=1, state="RUNNING", members=[member], started_at=5)
    return types.Job(**({"id": "job_1", "number": 12, "state": "RUNNING", "attempts": [attempt]} | more))


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    with FakeServer(tmp_path / "run") as server:
        monkeypatch.setenv("BURSAR_SERVER", server.url)
        yield server


@pytest.mark.parametrize("words", ["run --wait -- true", "wait 12", "logs -f --rank all 12"])
def test_whoever_waits_hears_it_once_and_once_that_it_is_over(
    words: str, fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = running(state="SUCCEEDED", exit_code=0)
    fake.answers |= {
        "Jobs/Get": running(), "Jobs/Logs": [],
        "Jobs/Submit": pb.SubmitResponse(job=running()),
        "Jobs/Watch": [running(), running(reason=SILENT), running(reason=LATER), running(), ended],
    }  # fmt: skip
    assert run(words.split()) == 0
    told = capsys.readouterr().err
    assert told.count(f"job 12: rank 1 is on n-2, which has not answered for 10s; {DRAIN}\n") == 1
    assert "for 11s" not in told
    assert told.count("job 12: node n-2 answers and is well again\n") == 1


def test_a_follower_hears_it_beside_a_log_of_which_nothing_comes(
    fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = iter([[running()], [running(state="SUCCEEDED", exit_code=0)]])
    chunks = [pb.LogChunk(data=b"one\n", offset=5), *(pb.LogChunk(trouble=one) for one in (SILENT, LATER))]
    fake.answers |= {
        "Jobs/Get": running(), "Jobs/Watch": lambda _: next(rounds),
        "Jobs/Logs": [*chunks, pb.LogChunk(trouble=types.Reason()), pb.LogChunk(data=b"two\n", offset=9)],
    }  # fmt: skip
    assert run(["logs", "-f", "12"]) == 0
    said = capsys.readouterr()
    assert said.out == "one\ntwo\n"
    assert said.err == (
        f"job 12: rank 1 is on n-2, which has not answered for 10s; {DRAIN}\n"
        "job 12: node n-2 answers and is well again\n"
    )


def test_show_explain_and_ls_say_it(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    job = running(reason=SILENT)
    array = running(array=types.ArrayStatus(size=2, counts={"RUNNING": 2}), reason=SILENT)
    fake.answers |= {
        "Jobs/Get": job,
        "Jobs/Explain": pb.ExplainResponse(job=job, reason=SILENT),
        "Jobs/List": pb.ListJobsResponse(jobs=[job, array]),
    }
    for verb in ("show", "explain"):
        assert run([verb, "12"]) == 0
        told = " ".join(capsys.readouterr().out.split())
        assert f"NodeSilent: rank 1 is on n-2, which has not answered for 10s remedy: {DRAIN}" in told
    assert run(["ls"]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[-1] for row in rows] == ["NodeSilent", "NodeSilent"]
    assert "2 running NodeSilent" in rows[1]
