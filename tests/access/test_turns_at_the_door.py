"""The door has users and operators take turns, whatever they call, and charges those whom it refuses."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from whole_site import Site, play

from bursar.v1 import events_pb2, jobs_pb2
from bursard.access.admission import ROOMS, Admission, Kind, Room
from bursard.turns import STAFF, USER, Call


def charged(site: Site, *, waited: bool = False) -> Counter[tuple[str, Any]]:
    """How many pieces of whom are measured from now on; `waited`: of those that had waited for their turn."""
    found: Counter[tuple[str, Any]] = Counter()
    turns, whose = site.door.turns, dict[int, Call]()
    call_of, ran = turns.call_of, turns.ran

    def called(kind: str, name: Any) -> Call:
        call = call_of(kind, name)
        whose[id(call.share)] = call
        return call

    def counted(share: Any, cost_ns: int, counted_ns: int) -> None:
        call = whose[id(share)]
        found[call.kind, call.name] += not waited or counted_ns > 0
        ran(share, cost_ns, counted_ns)

    turns.call_of = called  # type: ignore[method-assign]
    turns.ran = counted  # type: ignore[method-assign]
    return found


def test_each_call_of_users_and_operators_is_measured_and_agents_and_health_are_not() -> None:
    async def story(site: Site) -> None:
        found = charged(site)
        ann, oz = site.token("ann", "submitter"), site.token("oz", "operator")
        assert (await site.call("Jobs.List", token=ann))[0] == "OK"
        unary = found[USER, "ann"]
        batch = jobs_pb2.SubmitBatch(jobs=[jobs_pb2.SubmitRequest() for _ in range(3)])
        assert (await site.call("Jobs.SubmitBatches", batch, token=ann))[0] == "OK"
        assert unary >= 2
        assert found[USER, "ann"] >= unary + 4  # the stream, and the task that takes in what it asks for
        assert (await site.call("Events.Server", token=oz))[0] == "OK"
        assert found[STAFF, "oz"] >= 2
        before = found.total()
        await site.call("Agents.Connect", token=site.token("n1", "agent"))
        health = site.channel.unary_unary("/grpc.health.v1.Health/Check")
        await health(b"")
        assert found.total() == before

    play(story)


def test_who_is_refused_is_charged_and_keeps_no_place() -> None:
    async def story(site: Site) -> None:
        found = charged(site)
        viewer = site.token("vic", "viewer")
        assert (await site.call("Policies.Apply", token=viewer))[0] == "PERMISSION_DENIED"
        assert found[USER, "vic"] >= 1
        ann = site.token("ann", "submitter")
        call: Any = site.channel.unary_stream("/bursar.v1.Events/List", lambda one: one.SerializeToString())
        follow = call(
            events_pb2.ListEventsRequest(follow=True), metadata=(("authorization", f"Bearer {ann}"),)
        )
        await follow.read()
        before = found[USER, "ann"]
        assert (await site.call("Jobs.List", token=ann))[0] == "RESOURCE_EXHAUSTED"
        assert found[USER, "ann"] > before
        follow.cancel()

    play(story, Admission(ROOMS | {Kind.USER: Room(10, 10, 1, 1)}))


def test_pieces_wait_for_their_turn_and_those_of_a_refusal_do_not() -> None:
    async def story(site: Site) -> None:
        site.door.turns.quantum_ns = 1  # after every piece others go on first
        found, waited = charged(site), charged(site, waited=True)
        assert (await site.call("Jobs.List", token=site.token("ann", "submitter")))[0] == "OK"
        assert (await site.call("Policies.Apply", token=site.token("vic", "viewer")))[0] != "OK"
        assert found[USER, "ann"] > waited[USER, "ann"] > 0
        assert (found[USER, "vic"] > 0, waited[USER, "vic"]) == (True, 0)

    play(story)


def test_a_caller_who_hangs_up_while_its_calls_wait_frees_their_places() -> None:
    async def story(site: Site) -> None:
        for _ in range(300):
            site.job("ann", "p")
        site.door.turns.quantum_ns = 1  # every piece has others go on first
        ann, bob = site.token("ann", "submitter"), site.token("bob", "submitter")
        request = jobs_pb2.ListJobsRequest(page_size=300)
        calls = [asyncio.create_task(site.call("Jobs.List", request, token=ann)) for _ in range(20)]
        assert (await site.call("Jobs.List", request, token=bob))[0] == "OK"
        for one in calls:
            one.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert (await site.call("Jobs.List", request, token=bob))[0] == "OK"
        async with asyncio.timeout(10):
            while site.door._admission._calls:  # noqa: ASYNC110  # the door tells nobody
                await asyncio.sleep(0)
        assert not site.door.turns.shares.root.queued

    play(story)
