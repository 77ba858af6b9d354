"""What one caller may write into the log: every method has its bound, and a loop of any verb ends there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message_factory import GetMessageClass
from whole_site import METHODS, Site, play

from bursar.clock import DAY_US, SECOND_US, VirtualClock
from bursar.errors import RateLimited, WrongState
from bursar.model import EndCause, JobSpec, JobState, ShareRates
from bursar.v1 import access_pb2, agents_pb2, jobs_pb2, types_pb2
from bursard.access.allowances import ROW_BYTES, Allowances
from bursard.access.rules import METHODS as RULES
from bursard.access.rules import Writes
from bursard.events import JobEnded, JobHeld, JobSubmitted, NodePriced, StopRequested, TasksEnded
from bursard.fleet.testing import FACTS, World
from bursard.state import Limits, compare, image
from bursard.state.decide import jobs
from bursard.state.decide.why import of_each

WRITES = {name.removeprefix("/bursar.v1.").replace("/", "."): rule.writes for name, rule in RULES.items()}
SECURITY = (Path(__file__).parents[2] / "docs" / "security.md").read_text()


# ------------------------------------------------------------------ the table


def rows_of(head: str) -> dict[str, str]:
    """By what stands in the first column, in backticks, the second of the table with this head."""
    _, _, rest = SECURITY.partition(head)
    table = rest.partition("\n\n")[0]
    found: dict[str, str] = {}
    for line in table.splitlines():
        if line.startswith("| `"):
            first, second = line.strip("| ").split(" | ")
            names = re.findall(r"`([\w.]+)`", first)
            assert not set(names) & set(found)
            found |= dict.fromkeys(names, second)
    return found


def test_every_method_and_every_word_of_a_node_is_in_the_table_of_what_it_may_write() -> None:
    told = rows_of("| method | bound |")
    assert told == {name: WRITES[name].value for name in METHODS}
    bounds = set(re.findall(r"(?m)^\| (\w+) \|", SECURITY.partition("## What a call may write")[2]))
    assert bounds >= {one.value for one in Writes}
    words = rows_of("| what a node says | what it may become in the log |")
    assert set(words) == {one.name for one in agents_pb2.AgentMessage.DESCRIPTOR.fields}


def test_a_question_writes_nothing() -> None:
    async def story(site: Site) -> None:
        job = site.job("ann", "nlp")
        token = site.token("root", "admin")
        before = site.engine.state.version
        asked = 0
        for name, about in METHODS.items():
            if WRITES[name] is not Writes.NOTHING:
                continue
            request: Any = GetMessageClass(about.input_type)()
            if "job" in about.input_type.fields_by_name and name.startswith("Jobs."):
                request.job = job
            if name == "Jobs.Watch":
                request.jobs.append(job)
            await site.call(name, request, token=token)
            asked += 1
        assert (site.engine.state.version, asked) == (
            before,
            sum(one.writes == "nothing" for one in RULES.values()),
        )

    play(story)


# ------------------------------------------------------------------ at the door


def changes(job: str) -> list[tuple[str, Any]]:
    """Calls of which each changes something, over and over."""
    one = jobs_pb2.JobsRequest(jobs=[job])
    return [
        ("Jobs.Hold", one),
        ("Jobs.Release", one),
        ("Jobs.Update", jobs_pb2.UpdateRequest(job=job, priority=7)),
        ("Jobs.Update", jobs_pb2.UpdateRequest(job=job, priority=8)),
    ]


def test_a_loop_of_any_verb_ends_at_the_limit_and_goes_on_when_there_is_room() -> None:
    async def story(site: Site) -> None:
        job, token = site.job("ann", "nlp"), site.token("ann", "submitter")
        for _ in range(2):
            for method, request in changes(job):
                assert await site.call(method, request, token=token) == ("OK", "")
        before = site.engine.state.version
        for method, request in changes(job):
            assert await site.call(method, request, token=token) == (
                "RESOURCE_EXHAUSTED",
                "ann has written the 8 changes (of jobs, nodes, policies, rights) of one caller in a day;"
                " there is room again in 3h00m. Look for a loop that changes the same things over and over,"
                " or have `user_changes_max` of the daemon raised; `bursar cancel` works all the same",
            )
        assert site.engine.state.version == before
        assert (await site.call("Jobs.Get", jobs_pb2.GetJobRequest(job=job), token=token))[0] == "OK"
        other = site.token("pat", "project-admin", "nlp")
        assert (await site.call(*changes(job)[0], token=other))[0] == "OK"
        site.clock.advance(DAY_US // 8)
        assert (await site.call(*changes(job)[1], token=token))[0] == "OK"
        assert (await site.call(*changes(job)[2], token=token))[0] == "RESOURCE_EXHAUSTED"
        cancel = jobs_pb2.CancelRequest(jobs=[job])
        assert (await site.call("Jobs.Cancel", cancel, token=token))[0] == "OK"

    play(story, limits=Limits(user_changes_a_day=8))


def test_an_administrator_is_counted_like_everybody() -> None:
    async def story(site: Site) -> None:
        token = site.token("root", "admin")
        grant = access_pb2.GrantRequest(user="eve", role="viewer", project="nlp")
        verdicts = [
            (await site.call(f"Access.{verb}", grant, token=token))[0]
            for verb in ("Grant", "Revoke", "Grant", "Revoke")
        ]
        assert verdicts == ["OK", "OK", "OK", "RESOURCE_EXHAUSTED"]

    play(story, limits=Limits(user_changes_a_day=3))


def test_submissions_count_by_their_bytes_and_a_job_that_is_known_is_no_new_one() -> None:
    def ask(key: str) -> jobs_pb2.SubmitRequest:
        spec = types_pb2.JobSpec(project="nlp", script="x" * 3_000, nodes=1)
        spec.options.add(cpu_milli=100)
        return jobs_pb2.SubmitRequest(spec=spec, idempotency_key=key)

    async def story(site: Site) -> None:
        token = site.token("ann", "submitter")
        verdicts = [await site.call("Jobs.Submit", ask(key), token=token) for key in "abcd"]
        assert [verdict for verdict, _ in verdicts] == ["OK", "OK", "OK", "RESOURCE_EXHAUSTED"]
        assert "have `user_log_max` of the daemon raised" in verdicts[3][1]
        _, (answer,) = await site.ask("Jobs.SubmitMany", ask("d"), token=token)
        assert answer.error == "RateLimited"
        assert (await site.call("Jobs.Submit", ask("a"), token=token))[0] == "OK"
        assert (await site.call("Jobs.Submit", ask("e"), token=site.token("bob", "submitter")))[0] == "OK"

    play(story, limits=Limits(user_log_bytes_a_day=9_000))


# ------------------------------------------------------------------ counted


def made(**limits: int) -> tuple[Allowances, VirtualClock]:
    clock = VirtualClock()
    return Allowances(clock.boot_us, Limits(**limits)), clock


def test_what_ends_once_or_waits_is_counted_by_bytes_alone() -> None:
    allowances, _ = made(user_changes_a_day=1, user_log_bytes_a_day=6 * (ROW_BYTES + 10))
    by_bytes = (
        JobSubmitted("job_1", 1, "ann", JobSpec()),
        JobEnded("job_1", JobState.CANCELLED),
        TasksEnded("job_1", JobState.CANCELLED),
        StopRequested("att_1", EndCause.CANCELLED, 0, ""),
        NodePriced("node_1", "price_1", ShareRates()),
    )
    for event in by_bytes:
        allowances.charge("ann", [event], 10)
        allowances.check("ann", Writes.CHANGES)
    allowances.charge("ann", [JobHeld("job_1")], 10)
    for writes, setting in ((Writes.CHANGES, "user_changes_max"), (Writes.JOBS, "user_log_max")):
        with pytest.raises(RateLimited) as refused:
            allowances.check("ann", writes)
        assert refused.value.facts["setting"] == setting


def test_what_the_daemon_and_its_nodes_write_is_nobody_s() -> None:
    allowances, _ = made(user_changes_a_day=1)
    for actor in ("bursard", "node:n1"):
        allowances.charge(actor, [JobHeld("job_1")] * 5, 500)
        allowances.check(actor, Writes.CHANGES)


def test_more_at_once_than_a_day_has_is_waited_for_to_the_second_and_no_longer() -> None:
    allowances, clock = made(user_changes_a_day=100)
    allowances.charge("ann", [JobHeld("job_1")] * 150, 0)
    with pytest.raises(RateLimited) as refused:
        allowances.check("ann", Writes.CHANGES)
    wait_s = int(refused.value.facts["wait_s"])
    assert wait_s == 51 * 864
    clock.advance(wait_s * SECOND_US - 1)
    with pytest.raises(RateLimited):
        allowances.check("ann", Writes.CHANGES)
    clock.advance(1)
    allowances.check("ann", Writes.CHANGES)
    clock.advance(30 * DAY_US)
    allowances.charge("ann", [JobHeld("job_1")] * 99, 0)
    allowances.check("ann", Writes.CHANGES)


def test_whatever_a_caller_has_ended_there_is_room_again_within_a_day() -> None:
    allowances, clock = made(user_log_bytes_a_day=1_000)
    for _ in range(20):
        allowances.charge("ann", [JobEnded("job_1", JobState.CANCELLED)], 5_000)
    with pytest.raises(RateLimited, match=r"there is room again in 1d00h"):
        allowances.check("ann", Writes.JOBS)
    assert not allowances.spares("ann")
    clock.advance(DAY_US - 1)
    assert not allowances.spares("ann")
    clock.advance(1)
    assert allowances.spares("ann")
    allowances.check("ann", Writes.JOBS)
    assert allowances.spares("bob")


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("", ""),
        ("a" * 200, "a" * 200),
        ("a" * 201, "a" * 200 + "…"),
        ("😀" * 51, "😀" * 50 + "…"),
        ("a" + "😀" * 50, "a" + "😀" * 49 + "…"),
        ("a" * 199 + " b" * 9, "a" * 199 + "…"),
    ],
)
def test_of_a_reason_for_several_things_each_keeps_so_many_bytes(reason: str, kept: str) -> None:
    assert of_each(reason) == kept


def test_a_reason_is_kept_whole_with_one_job_short_with_each_of_several_and_not_over_the_limit() -> None:
    async def story(site: Site) -> None:
        token, reason = site.token("ann", "submitter"), "😀" * 500
        ends: list[str] = []
        site.engine.listeners.append(
            lambda seq, event, at, actor: ends.append(event.message) if isinstance(event, JobEnded) else None
        )
        jobs_of_ann = [site.job("ann", "nlp") for _ in range(4)]

        async def cancel(*refs: str) -> list[str]:
            request = jobs_pb2.CancelRequest(jobs=refs, reason=reason)
            before = len(ends)
            assert (await site.call("Jobs.Cancel", request, token=token))[0] == "OK"
            return ends[before:]

        assert await cancel(*jobs_of_ann[:2]) == [f"by ann: {'😀' * 50}…"] * 2
        assert await cancel(jobs_of_ann[2]) == [f"by ann: {reason}"]
        assert await cancel(jobs_of_ann[3]) == ["by ann"]

    play(story, limits=Limits(user_log_bytes_a_day=3_000))


def test_a_refusal_is_told_with_who_was_refused_whatever_for(caplog: pytest.LogCaptureFixture) -> None:
    async def story(site: Site) -> None:
        job = site.job("ann", "nlp")
        token, viewer = site.token("ann", "submitter"), site.token("vic", "viewer")
        caplog.set_level("INFO", logger="bursard.access.refusals")
        for _ in range(2):
            await site.call("Jobs.Update", jobs_pb2.UpdateRequest(job=job, priority=7), token=token)
        site.clock.advance(60 * SECOND_US)
        await site.call("Jobs.Hold", jobs_pb2.JobsRequest(jobs=[job]), token=viewer)
        site.clock.advance(60 * SECOND_US)
        await site.call("Jobs.Get", jobs_pb2.GetJobRequest(job=job), token="no token")
        assert [vars(one)["last_user"] for one in caplog.records] == ["ann", "vic", "unknown"]

    play(story, limits=Limits(user_changes_a_day=1))


def test_an_attempt_is_asked_to_end_sooner_sixteen_times_and_then_at_once_alone() -> None:
    world = World()
    world.backend.connect(FACTS)
    job = world.submit()
    world.cycle()
    attempt = job.attempt
    assert attempt is not None
    for number in range(16):
        events = jobs.cancel(world.state, job, attempt.grace_us - number)
        assert len(events) == 1
        world.engine.commit(events, "ann")
    assert jobs.cancel(world.state, job, attempt.stop_grace_us) == []
    with pytest.raises(WrongState, match=r"job 1 was asked to end 16 times, .* `bursar cancel 1 --grace 0s`"):
        jobs.cancel(world.state, job, attempt.stop_grace_us - 1)
    [last] = jobs.cancel(world.state, job, 0)
    assert last == StopRequested(attempt.id, EndCause.CANCELLED, 0, "")


def test_an_image_of_before_an_attempt_s_requests_were_counted_is_what_the_log_says() -> None:
    world = World()
    world.backend.connect(FACTS)
    job = world.submit()
    world.cycle()
    world.engine.commit(jobs.cancel(world.state, job, None), "ann")
    said = image.encode(world.state, world.engine.now())
    assert said.count(b'"stops":1') == 1
    older = said.replace(b',"stops":1', b"")
    assert compare.differences(older, world.state) == []
    assert compare.differences(said.replace(b'"stop_cause"', b'"stop_reason"'), world.state) != []
