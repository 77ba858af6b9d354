"""A budget above one's project refuses, and tells neither its name nor what others have spent."""

from __future__ import annotations

from typing import Any

import pytest
from whole_site import Site, play

from bursar.v1 import jobs_pb2, types_pb2
from bursar_policies.document import parse_documents
from bursard.access.identity import Identity, Role
from bursard.services.unseen import unname
from bursard.state.decide import nodes, policies
from bursard.state.rights import Grant

BUDGETS = """\
kind: CostModel
name: rack
spec: {pool: p, node_capex: 400000 USD, useful_life: 5y}
---
kind: Budget
name: canary-budget
spec: {scope: {project: p}, limit: 0.000123 USD, period: month, enforcement: hard}
"""


def spec(**more: Any) -> types_pb2.JobSpec:
    made = types_pb2.JobSpec(
        project="p/b", nodes=1, priority=50, command=["true"], spot_policy="auto", on_exceed="stop", **more
    )
    made.options.add(cpu_milli=1_000)
    return made


def test_a_reason_that_names_a_second_budget_is_told_to_those_alone_who_may_see_both() -> None:
    async def story(site: Site) -> None:
        state, now = site.engine.state, site.engine.now()
        site.engine.commit(policies.apply_documents(state, parse_documents(BUDGETS, "t"), now), "root")
        for project, seen in (("p/b", False), ("p", True)):
            facts = {"budget": "own", "also_short": "canary-budget"}
            reason = types_pb2.Reason(remedy="raise canary-budget", facts=facts)
            unname(reason, state, Identity("ann", None, grants=(Grant(Role.SUBMITTER, project),)))
            assert ("canary-budget" in str(reason)) == seen

    play(story)


@pytest.mark.parametrize("project", ["p/b", "p"])
def test_submit_plan_and_update_name_a_budget_to_those_alone_who_may_see_it(project: str) -> None:
    async def story(site: Site) -> None:
        job = site.job("ann", "p/b", time_limit_us=1_000_000)
        state, now = site.engine.state, site.engine.now()
        site.engine.commit(policies.apply_documents(state, parse_documents(BUDGETS, "t"), now), "root")
        site.engine.commit(nodes.reprice(state, site.engine.prices, now), "root")
        token = site.token("ann", "submitter", project)
        asked = {
            "Jobs.Submit": jobs_pb2.SubmitRequest(spec=spec()),
            "Jobs.Plan": jobs_pb2.PlanRequest(spec=spec()),
            "Jobs.Update": jobs_pb2.UpdateRequest(job=job, time_limit_us=3_600_000_000),
            "Jobs.Explain": jobs_pb2.ExplainRequest(job=job),
            "Jobs.Get": jobs_pb2.GetJobRequest(job=job),
        }
        for method, request in asked.items():
            status, answers = await site.ask(method, request, token=token)
            said = f"{status} {answers}"
            if method in ("Jobs.Submit", "Jobs.Plan", "Jobs.Update"):
                assert status[0] == "RESOURCE_EXHAUSTED", said
                assert ("a budget above the project has no room for this: it may cost up to" in said) == (
                    project == "p/b"
                )
            assert ("canary-budget" in said) == (project == "p"), said
            assert project == "p" or "0.000123" not in said

    play(story)
