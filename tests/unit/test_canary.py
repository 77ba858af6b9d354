"""A canary: a part of the requests for the new revision, then more, and back where it is no good."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from aiohttp import web
from gateway_site import Replica, play
from gateway_site import Site as GatewaySite
from hypothesis import given
from hypothesis import strategies as st
from service_site import Site

from bursar.clock import SECOND_US
from bursar.errors import InvalidRequest
from bursar.jobfile import parse_job
from bursar.model import EndCause, ServiceSpec
from bursar.v1 import services_pb2 as pb
from bursar_gateway.core import Core, Route, Waiter
from bursar_gateway.link import Link, Spool
from bursard.access.identity import Identity, Role
from bursard.services.serviceviews import route_view, service_view
from bursard.serving.autoscale import Memory, Seen, Standing, scale
from bursard.serving.board import Gateway, Load
from bursard.serving.canary import NONE, Answers, Trial, problem
from bursard.state import image
from bursard.state.decide import services as decide

S = SECOND_US
CANARY: dict[str, Any] = {"strategy": "canary", "steps": (25, 50, 100), "hold_us": 60 * S}


def site(many: int = 4, **more: Any) -> Site:
    """So many replicas of revision 1, ready, and revision 2 that is to be tried."""
    made = Site(replicas_min=many, replicas_max=many, **(CANARY | more))
    made.turn(ready=True)
    spec = msgspec.structs.replace(made.job.spec, command=("true", "2"))
    made.world.engine.commit(decide.update(made.world.state, made.job, spec), "ann")
    return made


def by_revision(made: Site) -> list[int]:
    live = [
        (task, one) for task, one in made.keeper.live(made.job) if one.id not in made.keeper.board.draining
    ]
    return sorted(task.spec.service.revision for task, _ in live if task.spec.service)


def turns(made: Site, many: int) -> None:
    for _ in range(many):
        tells(made)
        made.turn(1)
        made.turn(0, ready=True)


def tells(made: Site, **answers: Answers) -> None:
    """A gateway tells what replicas of `old` and `new` answered since it asked last."""
    now, told = made.world.engine.now(), dict[str, Answers]()
    for task, attempt in made.keeper.live(made.job):
        assert task.spec.service is not None
        found = answers.pop("new" if task.spec.service.revision == 2 else "old", None)
        if found is not None:
            told[attempt.id] = found
    load = Load(
        job_id=made.job.id, elapsed_us=S, busy_us=0, waiting=0, asked=1, p50_us=0, p95_us=0, outstanding={},
        answers=told,
    )  # fmt: skip
    made.keeper.heard(Gateway("g", "boot", "", now), [load])
    made.world.writer.flush()


def route(made: Site) -> pb.Route:
    cycle: Any = SimpleNamespace(last=None, rents=None)
    boot_id = next(iter(made.world.state.nodes.values())).boot_id
    return route_view(made.world.engine, cycle, made.keeper, made.job, Gateway("g", boot_id, "", 0))


def shown(made: Site) -> pb.Service:
    cycle: Any = SimpleNamespace(last=None, rents=None)
    return service_view(made.world.engine, cycle, made.keeper, made.job, Identity("ann", Role.ADMIN))


def test_it_goes_step_by_step_and_never_has_fewer_ready_than_before() -> None:
    made = site()
    turns(made, 3)
    assert by_revision(made) == [1, 1, 1, 1, 2]
    assert [one.canary for one in route(made).replicas].count(True) == 1
    assert route(made).canary_percent == 25
    assert shown(made).update.startswith("revision 2 gets 25 % of the requests for ")
    turns(made, 30)
    assert by_revision(made) == [1, 1, 1, 1, 2]
    turns(made, 40)
    assert by_revision(made) == [1, 1, 1, 1, 2, 2]
    assert route(made).canary_percent == 50
    turns(made, 90)
    assert by_revision(made) == [2, 2, 2, 2]
    assert (route(made).canary_percent, shown(made).update, shown(made).state) == (0, "", "ready")
    assert made.findings() == []


def test_replicas_that_are_not_enough_for_a_step_are_asked_nothing() -> None:
    made = site(steps=(50, 100))
    made.turn(1)
    made.turn(1)
    [first, second] = [one for task, one in made.keeper.live(made.job) if task.spec.service.revision == 2]  # type: ignore[union-attr]
    made.world.backend.ready(first.id)
    made.turn(1)
    assert len(route(made).replicas) == 4
    assert "no requests yet; 50 % once its replicas are ready" in shown(made).update
    made.world.backend.ready(second.id)
    made.turn(1)
    assert len(route(made).replicas) == 6


def test_a_revision_whose_answers_fail_is_rolled_back_and_the_old_replicas_stay_as_they_were() -> None:
    made = site()
    before = {one.id for one in made.live()}
    turns(made, 3)
    tells(made, new=Answers(40, 10, 40_000), old=Answers(120, 1, 120_000))
    turns(made, 3)
    assert {one.id for one in made.live()} == before
    assert made.job.spec.service is not None
    assert (made.job.spec.service.revision, made.job.spec.command) == (3, ("true",))
    assert made.job.back is not None
    failed = "10 of 40 answers failed, and 1 of 120 of the old revision"
    why = f"revision 2 was rolled back: {failed}; at most 5 % may"
    assert (made.job.back.why, shown(made).rolled_back, shown(made).state) == (why, why, "ready")
    turns(made, 200)
    assert {one.id for one in made.live()} == before
    again = image.decode(image.encode(made.world.state, made.world.engine.now()))
    assert again.jobs[made.job.id].back == made.job.back
    spec = msgspec.structs.replace(made.job.spec, command=("true", "4"))
    made.world.engine.commit(decide.update(made.world.state, made.job, spec), "ann")
    assert made.job.back is None
    turns(made, 3)
    assert by_revision(made).count(4) == 1


def test_what_answered_before_a_step_does_not_count_in_it() -> None:
    made = site()
    turns(made, 3)
    tells(made, new=Answers(40, 2, 0))
    turns(made, 65)
    assert by_revision(made).count(2) == 2
    tells(made, new=Answers(40, 2, 0))
    turns(made, 3)
    assert made.job.back is None


def test_a_revision_whose_replica_crashes_again_and_again_is_rolled_back() -> None:
    made = site()
    for _ in range(600):
        tells(made)
        made.turn(1)
        for task, attempt in list(made.keeper.live(made.job)):
            if task.spec.service is not None and task.spec.service.revision == 2:
                made.world.exited_of(
                    attempt, EndCause.FAILED, started=True, started_boot_us=attempt.members[0].started_at
                )
        if made.job.back is not None:
            break
    assert made.job.back is not None
    assert "its replica ended 5 times in a row" in made.job.back.why
    assert by_revision(made) == [1, 1, 1, 1]
    turns(made, 10)
    assert by_revision(made) == [1, 1, 1, 1]


def test_one_replica_is_tried_with_one_beside_it() -> None:
    made = site(1, steps=(5, 100))
    turns(made, 5)
    assert by_revision(made) == [1, 2]
    assert route(made).canary_percent == 5


SPEC = ServiceSpec(strategy="canary")


@pytest.mark.parametrize(("new", "old", "bad"), [
    (Answers(2, 2, 0), NONE, ""),
    (Answers(3, 3, 0), NONE, "3 of 3 answers failed; at most 5 % may"),
    (Answers(100, 5, 0), Answers(100, 0, 0), ""),
    (Answers(100, 6, 0), Answers(100, 6, 0), ""),
    (Answers(100, 6, 0), Answers(100, 5, 0), "6 of 100 answers failed, and 5 of 100 of the old revision"),
    (Answers(19, 0, 10**9), Answers(100, 0, 10**6), ""),
    (Answers(20, 0, 20 * 30_000), Answers(20, 0, 20 * 10_000), "after 30 ms in the mean, and after 10 ms"),
    (Answers(20, 0, 20 * 20_000), Answers(20, 0, 20 * 10_000), ""),
    (Answers(20, 0, 20 * 9_000), Answers(20, 0, 20 * 100), ""),
])  # fmt: skip
def test_a_revision_is_judged_beside_the_old_one(new: Answers, old: Answers, bad: str) -> None:
    found = problem(SPEC, new, old, 0)
    assert bool(found) == bool(bad)
    assert bad in found


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), max_size=12), st.integers(1, 6), st.integers(0, 2),
    st.integers(0, 100),
)  # fmt: skip
def test_of_old_ones_no_more_go_than_there_are_too_many_before_the_last_step(
    rows: list[tuple[bool, bool]], target: int, step: int, waited_s: int
) -> None:
    spec = ServiceSpec(replicas_min=target, replicas_max=target, revision=2, **CANARY)
    standing = [Standing(attempt_id=f"a{n}", ready=ready, old=old) for n, (ready, old) in enumerate(rows)]
    now = 10**12
    memory = Memory(target=target, trial=Trial(2, step, now - waited_s * S))
    scaled, after = scale(spec, Seen(now=now, replicas=standing), memory)
    ready = {one.attempt_id for one in standing if one.ready}
    assert len(ready - set(scaled.drain)) >= min(len(ready), target)
    assert set(scaled.drain) <= ready
    if after.trial is not None and not after.trial.last(spec):
        old = [one for one in standing if one.ready and one.old]
        assert len(scaled.drain) == max(len(old) - target, 0)
        assert scaled.places == target + after.trial.replicas(spec, target)
        assert scaled.places <= spec.slots


# --- the gateway


def split(percent: int, **more: Any) -> tuple[Core, Route]:
    made = Core()
    one = Route(
        job_id="job_1", name="chat", api="openai", target=50, replicas={"old": 1, "new": 2}, queue_us=S,
        cold_us=S, first_byte_us=S, idle_us=S, total_us=S, tried=frozenset(("new",)), percent=percent, **more,
    )  # fmt: skip
    made.learn([one], {}, 0)
    return made, one


@pytest.mark.parametrize("percent", [5, 25, 33, 100])
def test_the_part_of_the_requests_is_what_was_said(percent: int) -> None:
    made, one = split(percent)
    got = []
    for _ in range(1_000):
        got.append(made.pick(one, 0))
        made.take(got[-1], one)
        made.give(one, got[-1], 0)
    assert got.count("new") == percent * 10


def test_those_that_wait_have_their_part_too() -> None:
    made, one = split(25)
    none = msgspec.structs.replace(one, replicas={})
    got: list[Any] = []
    for _ in range(40):
        assert made.wait(none, Waiter("k", 1, got.append)) is None
    made.serve(one, 0)
    assert sorted(got) == ["new"] * 10 + ["old"] * 30


def test_a_session_stays_with_one_revision() -> None:
    made, one = split(25, session_header="x-s")
    for n in range(50):
        like = str(n).encode()
        assert len({made.pick(one, 0, like=like) for _ in range(5)}) == 1
    share = sum(made.pick(one, 0, like=str(n).encode()) == "new" for n in range(2_000))
    assert 400 < share < 600


def test_where_those_of_its_revision_are_full_or_gone_the_others_answer() -> None:
    made, one = split(100)
    for _ in range(100):
        made.take("new", one)
    assert made.pick(one, 0) == "old"
    assert made.pick(one, 0, without=["new"]) == "old"


def test_a_gateway_tells_what_each_replica_answered_and_how_often_it_failed(tmp_path: Path) -> None:
    async def broken(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=500)

    async def cut(request: web.BaseRequest) -> web.StreamResponse:
        made = web.StreamResponse(headers={"Content-Length": "100"})
        await made.prepare(request)
        await made.write(b"x")
        assert request.transport is not None
        request.transport.abort()
        return made

    class Daemon:
        async def sync_gateway(self, request: pb.SyncRequest) -> pb.SyncResponse:
            told.append(request)
            return pb.SyncResponse()

    told: list[pb.SyncRequest] = []

    async def story() -> None:
        for answer, failed in ((None, 0), (broken, 1), (cut, 1)):
            async with GatewaySite(Replica(answer)) as one:
                client: Any = Daemon()
                link = Link(client, "g", "b", "", one.core, one.meter, Spool(tmp_path), lambda: 60 * S)
                link.gateway = one.gateway
                try:
                    async with one.client.get(one.url) as response:
                        await response.read()
                except Exception:
                    assert answer is cut
                await link.sync()
                [replica] = told[-1].loads[0].replicas
                assert (replica.attempt_id, replica.answered, replica.failed) == ("att_0", 1, failed)
                assert (replica.waited_us > 0, replica.outstanding) == (True, 0)
                await link.sync()
                assert not told[-1].loads

    play(story)


# --- the file


def test_a_file_says_its_steps_and_what_is_too_bad() -> None:
    text = (
        "type: service\nname: chat\nrun: serve\nupdate:\n  strategy: canary\n  steps: [10, 100]\n  hold: 5m\n"
        "  max_errors: 2%\n  max_latency: 150%\n"
    )
    service = parse_job(text, "f", "/").service
    assert service is not None
    assert (service.steps, service.hold_us, service.max_errors, service.max_latency) == (
        (10, 100), 300 * S, 2, 150,
    )  # fmt: skip
    for bad, why in (
        ("steps: [10, 5, 100]", "do not rise"), ("steps: [10]", "do not rise"),
        ("steps: 10", "a list of percents"), ("max_errors: 2.5%", "no whole percentage"),
        ("max_latency: 50%", "100 to 10000"),
    ):  # fmt: skip
        with pytest.raises(InvalidRequest, match=why):
            parse_job(
                f"type: service\nname: chat\nrun: serve\nupdate:\n  strategy: canary\n  {bad}\n", "f", "/"
            )
