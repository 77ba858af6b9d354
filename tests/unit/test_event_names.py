"""Events name nodes, jobs and attempts as people do, also those that are not in memory any more."""

from __future__ import annotations

from typing import Any

import pytest
from whole_site import Site, play

from bursar.v1 import events_pb2
from bursard.events import AttemptEnded, NodeRemoved, NodeSilent, decode
from bursard.services import names


async def told(site: Site, **asked: Any) -> dict[str, dict[str, str]]:
    """The names in each event, the newest of each kind."""
    request = events_pb2.ListEventsRequest(**asked)
    (status, details), answers = await site.ask("Events.List", request, token=site.token("oz", "operator"))
    assert status == "OK", details
    return {event.kind: dict(event.names) for event in answers}


async def ended(site: Site) -> tuple[str, str, str]:
    """A job that ran on n1 and ended: its id, its attempt's, and its node's."""
    job_id = site.job("ann", "nlp")
    site.run(job_id)
    await site.engine.durable()
    events = [decode(row.payload) for row in site.store.load().events(0)]
    attempt_id = [event.attempt_id for event in events if isinstance(event, AttemptEnded)][-1]
    node = site.engine.state.node_by_name("n1")
    assert node is not None
    return job_id, attempt_id, node.id


def test_each_id_of_an_event_has_the_name_that_people_use() -> None:
    async def story(site: Site) -> None:
        await ended(site)
        job_id, attempt_id, node_id = await ended(site)
        found = await told(site)
        assert found["job-submitted"] == {job_id: "2"}
        assert found["attempt-placed"] == {job_id: "2", attempt_id: "attempt 1 of job 2", node_id: "n1"}
        assert found["attempt-ended"] == {attempt_id: "attempt 1 of job 2"}
        assert found["node-registered"] == {node_id: "n1"}

    play(story)


def test_who_joins_late_is_told_the_attempt_too() -> None:
    async def story(site: Site) -> None:
        _, attempt_id, _ = await ended(site)
        assert await told(site, tail=1) == {"attempt-ended": {attempt_id: "attempt 1 of job 1"}}

    play(story)


def test_an_attempt_placed_too_long_ago_keeps_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "LOOK_BACK", 1)

    async def story(site: Site) -> None:
        await ended(site)
        assert await told(site, tail=1) == {"attempt-ended": {}}

    play(story)


def test_a_node_that_is_gone_keeps_its_name() -> None:
    async def story(site: Site) -> None:
        _, _, node_id = await ended(site)
        site.engine.commit([NodeSilent(node_id), NodeRemoved(node_id, "n1")], "oz")
        assert not site.engine.state.nodes
        assert await told(site, kinds=["node-connected"]) == {"node-connected": {node_id: "n1"}}
        assert (await told(site, kinds=["attempt-placed"]))["attempt-placed"][node_id] == "n1"
        assert (await told(site, kinds=["node-removed"])) == {"node-removed": {node_id: "n1"}}

    play(story)
