"""Since when a job runs, and where: as the agents measured it, and nowhere while it waits again."""

from __future__ import annotations

import re

import pytest
from whole_site import Site, play

from bursar.cli.jobs import JOB_COLUMNS
from bursar.cli.texts import explain_text, job_text
from bursar.clock import SECOND_US
from bursar.codec import view
from bursar.model import EndCause
from bursar.v1 import jobs_pb2 as pb
from bursard.events import ExitReport, NodeScheduling
from bursard.state.decide import attempts


def ran(site: Site, job: str, *, late_us: int, held_us: int, told_of_start: bool) -> None:
    """A job whose agent is heard `late_us` after its start."""
    state, attempt = site.engine.state, site.place(job)
    node, began = state.nodes[attempt.members[0].alloc.node_id], site.clock.boot_us()
    site.clock.advance(late_us)
    if told_of_start:
        site.engine.commit(attempts.started(state, node, attempt.id, 0, began, 1), "node:n1")
    site.clock.advance(max(held_us - late_us, 0))
    report = ExitReport(cause=EndCause.COMPLETED, exit_code=0, held_us=held_us)
    site.engine.commit(attempts.exited(state, node, attempt.id, 0, report, began), "node:n1")


@pytest.mark.parametrize("told_of_start", [True, False])
@pytest.mark.parametrize(("late_us", "held_us"), [(60_000, 3 * SECOND_US), (3_700, 3_700)])
def test_a_job_ran_as_long_as_it_is_charged_for(told_of_start: bool, late_us: int, held_us: int) -> None:
    async def story(site: Site) -> None:
        job, began = site.job("ann", "p"), site.engine.now()
        ran(site, job, late_us=late_us, held_us=held_us, told_of_start=told_of_start)
        _, [wire] = await site.ask("Jobs.Get", pb.GetJobRequest(job=job), token=site.token("ann", "admin"))
        assert wire.started_at == wire.attempts[0].started_at == began
        assert wire.finished_at - wire.started_at == held_us

    play(story)


def test_a_start_is_neither_before_its_placement_nor_after_it_was_told() -> None:
    async def story(site: Site) -> None:
        state, now = site.engine.state, site.engine.now()
        for off_us in (-SECOND_US, SECOND_US):
            job = site.job("ann", "p")
            attempt = site.place(job)
            node = state.nodes[attempt.members[0].alloc.node_id]
            boot_us = site.clock.boot_us() + off_us
            site.engine.commit(attempts.started(state, node, attempt.id, 0, boot_us, 1), "node:n1")
            assert state.jobs[job].started_at == attempt.started_at == now

    play(story)


def test_a_job_that_waits_again_runs_nowhere_and_its_node_is_called_what_it_is() -> None:
    async def story(site: Site) -> None:
        job, state = site.job("ann", "p"), site.engine.state
        attempt = site.place(job)
        node = state.nodes[attempt.members[0].alloc.node_id]
        site.engine.commit(attempts.started(state, node, attempt.id, 0, site.clock.boot_us(), 1), "node:n1")
        site.engine.commit([NodeScheduling(node.id, "cordon", "a fan")], "root")
        report = ExitReport(cause=EndCause.NODE_LOST, held_us=SECOND_US)
        site.engine.commit(attempts.exited(state, node, attempt.id, 0, report, 0), "node:n1")
        ask, token = pb.ExplainRequest(job=job), site.token("ann", "admin")
        _, [wire] = await site.ask("Jobs.Explain", ask, token=token)
        told = view.explain(wire)
        row = told["job"]
        assert (row["state"], len(row["attempts"])) == ("PENDING", 1)
        shown = {
            column.name: column.show(row) for column in JOB_COLUMNS if column.name in ("where", "elapsed")
        }
        assert shown == {"where": "-", "elapsed": "1s"}
        values = {
            column.name: column.of(row) for column in JOB_COLUMNS if column.name in ("where", "elapsed")
        }
        assert values == {"where": [], "elapsed": 1}
        assert re.search(r"^  elapsed +1s$", job_text(row), re.MULTILINE)  # as its attempt was held
        assert told["placed_because"] is None
        assert "placed: " not in explain_text(told, site.engine.now())
        assert [one["why_not"] for one in told["nodes"]] == [
            "cordoned (a fan); `bursar node resume n1` takes it back"
        ]

    play(story)
