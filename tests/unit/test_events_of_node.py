"""`events --node` tells of the node and of every attempt with a member there, in the log's order."""

from __future__ import annotations

from typing import Any

import pytest
from whole_site import Site, play

from bursar.model import EndCause
from bursar.v1 import events_pb2
from bursard.events import AttemptEnded, NodeMisbehaved, StopRequested, decode
from bursard.services import trail
from bursard.state.decide import nodes


async def listed(site: Site, **asked: Any) -> list[tuple[str, str]]:
    """Kind and subject of each event that an operator is told, without what metering says."""
    request = events_pb2.ListEventsRequest(**asked)
    (status, details), answers = await site.ask("Events.List", request, token=site.token("oz", "operator"))
    assert status == "OK", details
    return [(event.kind, event.subject) for event in answers if event.kind != "node-metered"]


async def run(site: Site, node: str, **spec: Any) -> tuple[str, str]:
    """A job that ran on this node: its id, and its attempt's."""
    job_id = site.job("ann", "nlp", constraints=(("node", node),), **spec)
    site.run(job_id)
    await site.engine.durable()
    events = [decode(row.payload) for row in site.store.load().events(0)]
    return job_id, [event.attempt_id for event in events if isinstance(event, AttemptEnded)][-1]


def of_attempt(job_id: str, attempt_id: str) -> list[tuple[str, str]]:
    return [
        ("attempt-placed", job_id),
        ("member-started", attempt_id),
        ("member-ended", attempt_id),
        ("attempt-ended", attempt_id),
    ]


def test_attempts_placed_on_the_node_are_listed_from_their_placing_to_their_end() -> None:
    async def story(site: Site) -> None:
        site.node("n2")
        first, second = await run(site, "n1"), await run(site, "n2")
        node = site.engine.state.node_by_name("n2")
        assert node is not None
        told = await listed(site, node="n2")
        assert told[:4] == [
            ("node-registered", node.id),
            ("node-priced", node.id),
            ("node-booted", node.id),
            ("node-connected", node.id),
        ]
        assert told[4:] == of_attempt(*second)
        assert first[0] not in {subject for _, subject in told}

    play(story)


def test_every_member_of_a_gang_has_its_events_on_its_own_node() -> None:
    async def story(site: Site) -> None:
        site.node("n2")
        job_id = site.job("ann", "nlp", nodes=2)
        attempt = site.place(job_id)
        for name in ("n1", "n2"):
            assert ("attempt-placed", job_id) in await listed(site, node=name)
        assert len(attempt.members) == 2

    play(story)


@pytest.mark.parametrize("page", [1, 2, 3, 5, 200])
def test_no_event_is_lost_or_doubled_between_pages(page: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(site: Site) -> None:
        monkeypatch.setattr(trail, "PAGE", page)
        expected = [line for _ in range(4) for line in of_attempt(*await run(site, "n1"))]
        told = await listed(site, node="n1")
        assert [line for line in told if not line[0].startswith("node-")] == expected
        assert await listed(site, node="n1", tail=5) == told[-5:]

    play(story)


@pytest.mark.parametrize("page", [1, 200])
def test_going_on_after_a_sequence_knows_the_attempts_that_were_live_there(
    page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(site: Site) -> None:
        monkeypatch.setattr(trail, "PAGE", page)
        await run(site, "n1")
        job_id = site.job("ann", "nlp")
        attempt = site.place(job_id)
        after = site.engine.state.version
        node = site.engine.state.nodes[attempt.members[0].alloc.node_id]
        stop = nodes.scheduling(node, "cordon", "a test")
        site.engine.commit(stop, "oz")
        site.engine.commit([StopRequested(attempt.id, EndCause.CANCELLED, 0)], "oz")
        told = await listed(site, node="n1", after_seq=after)
        assert told == [("node-scheduling", node.id), ("stop-requested", attempt.id)]

    play(story)


def test_kinds_narrow_what_is_shown_of_the_attempts_too() -> None:
    async def story(site: Site) -> None:
        runs = [await run(site, "n1") for _ in range(3)]
        told = await listed(site, node="n1", kinds=["attempt-ended"])
        assert told == [("attempt-ended", attempt_id) for _, attempt_id in runs]

    play(story)


def test_a_node_that_left_is_found_by_its_name() -> None:
    async def story(site: Site) -> None:
        ran = await run(site, "n1")
        state = site.engine.state
        node = state.node_by_name("n1")
        assert node is not None
        site.engine.commit(nodes.silent(state, node), "bursard")
        site.engine.commit(nodes.remove(state, site.engine.prices, node, node.through), "oz")
        told = await listed(site, node="n1")
        assert told[-1] == ("node-removed", node.id)
        assert ("attempt-placed", ran[0]) in told
        assert await listed(site, node=node.id) == told

    play(story)


def test_a_node_that_never_was_is_not_found() -> None:
    async def story(site: Site) -> None:
        request = events_pb2.ListEventsRequest(node="n9")
        verdict = await site.call("Events.List", request, token=site.token("oz", "operator"))
        assert verdict[0] == "NOT_FOUND"
        assert "there is no node 'n9'" in verdict[1]

    play(story)


def test_an_event_that_names_the_node_beside_a_job_is_listed_once() -> None:
    async def story(site: Site) -> None:
        node = site.engine.state.node_by_name("n1")
        assert node is not None
        job_id = site.job("ann", "nlp")
        site.engine.commit([NodeMisbehaved(node.id, "a start failed", job_id)], "bursard")
        site.engine.commit([NodeMisbehaved(node.id, "it was slow")], "bursard")
        told = await listed(site, node="n1")
        assert told[-2:] == [("node-misbehaved", job_id), ("node-misbehaved", node.id)]
        assert len(set(told)) == len(told)

    play(story)


def test_the_last_of_some_events_are_found_without_keeping_them(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(site: Site) -> None:
        site.node("n1")
        for _ in range(3):
            await run(site, "n1")
        ended = await listed(site, kinds=["attempt-ended"])
        assert await listed(site, kinds=["attempt-ended"], tail=2) == ended[-2:]
        assert await listed(site, kinds=["attempt-ended"], tail=50) == ended
        request = events_pb2.ListEventsRequest(kinds=["attempt-ended"], tail=2**32 - 1)
        (status, details), _ = await site.ask("Events.List", request, token=site.token("oz", "operator"))
        assert (status, details) == (
            "INVALID_ARGUMENT", "tail of some events is at most 100000; take all of them without it",
        )  # fmt: skip

    play(story)
