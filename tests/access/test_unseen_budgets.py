"""A budget above one's project refuses, and tells neither its name nor what others have spent."""

from __future__ import annotations

from typing import Any

import pytest
from whole_site import Site, play

from bursar.errors import QuotaExceeded
from bursar.model import Reason, ReasonCode
from bursar.v1 import jobs_pb2, types_pb2
from bursar_policies.document import parse_documents
from bursard.access.identity import Identity, Role
from bursard.services.unseen import told as told_to
from bursard.services.unseen import unname, words
from bursard.services.views import reason_view
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


QUOTAS = """\
kind: Quota
name: canary-quota
spec: {scope: {project: p}, max: {cpus: 6}}
---
kind: Quota
name: of-ann
spec: {scope: {user: ann}, max: {cpus: 6}}
"""


def test_ids_in_a_reason_are_of_work_that_its_reader_may_see_whatever_the_fact_is_called() -> None:
    async def story(site: Site) -> None:
        hidden = site.place(site.job("bob", "p/a"))
        own = site.place(site.job("ann", "p/b"))
        numbers = {one.id: site.engine.state.jobs[one.job_id].number for one in (hidden, own)}
        reason = Reason(
            ReasonCode.WAITING_FOR_RESOURCES,
            f"behind job {hidden.job_id} and job {own.job_id}: {hidden.id} ends",
            "wait",
            (
                ("stopped", f"{hidden.id},{own.id}"),
                ("for_job", hidden.job_id),
                ("a_fact_to_come", f"{own.job_id},{hidden.job_id}"),
                ("nodes", "n1,n2"),
            ),
        )
        for project, seen in (("p/b", False), ("", True)):
            told = reason_view(
                reason, site.engine.state, Identity("ann", None, grants=(Grant(Role.VIEWER, project),))
            )
            if seen:
                assert dict(told.facts) == dict(reason.facts)
                said = f"behind job {numbers[hidden.id]} and job {numbers[own.id]}: {hidden.id} ends"
            else:
                assert dict(told.facts) == {
                    "stopped": own.id, "for_job": "", "a_fact_to_come": own.job_id, "nodes": "n1,n2",
                }  # fmt: skip
                said = f"behind another job and job {numbers[own.id]}: another job ends"
            assert told.message == said

    play(story)


@pytest.mark.parametrize(
    ("quota", "project", "seen"),
    [("canary-quota", "p/b", False), ("canary-quota", "p", True), ("of-ann", "p/b", True)],
)
def test_a_quota_above_the_project_is_not_told_of_nor_what_others_hold_of_it(
    quota: str, project: str, seen: bool
) -> None:
    async def story(site: Site) -> None:
        state, now = site.engine.state, site.engine.now()
        site.engine.commit(policies.apply_documents(state, parse_documents(QUOTAS, "t"), now), "root")
        other = site.place(site.job("bob", "p/a"))
        identity = Identity("ann", None, grants=(Grant(Role.SUBMITTER, project),))
        facts = (("quota", quota), ("resource", "cpus"), ("used", "4"), ("asked", "2"), ("max", "6"),
                 ("for_job", other.job_id))  # fmt: skip
        for code in (ReasonCode.WAITING_FOR_QUOTA, ReasonCode.EXCEEDS_MAX_QUOTA):
            reason = Reason(code, f"4 of at most 6 CPUs of quota {quota} (project p) are used", "wait", facts)
            told = reason_view(reason, state, identity)
            assert (quota in str(told)) == ("4 of at most" in told.message) == ("used" in told.facts) == seen
            assert (told.facts["for_job"] == "") == (project == "p/b")
            assert told.facts["asked"] == "2"
        stops = Reason(
            ReasonCode.PREEMPTION_PENDING,
            f"1 attempt that borrowed what quota {quota} guarantees to it is asked to end for it",
            "wait",
            (("stopped", other.id), ("quota", quota)),
        )
        assert (quota in str(reason_view(stops, state, identity))) == seen
        error = told_to(
            QuotaExceeded(f"quota {quota} (project p) never allows 9", dict(facts)), state, identity
        )
        assert (quota in f"{error.message} {error.facts}") == ("6" in str(error.facts)) == seen
        assert isinstance(error, QuotaExceeded)

    play(story)


def test_sentences_lose_the_names_and_sums_of_unseen_budgets_also_of_those_that_are_gone() -> None:
    async def story(site: Site) -> None:
        state, now = site.engine.state, site.engine.now()
        site.engine.commit(policies.apply_documents(state, parse_documents(BUDGETS, "t"), now), "root")
        ann = Identity("ann", None, grants=(Grant(Role.SUBMITTER, "p/b"),))
        passed = "it passed 1 % of its limit 43.20 USD on settled (1.03 USD settled, 1.01 USD held)"
        for name in ("canary-budget", "removed-since"):
            stops = f"budget: stopped: budget {name} stops what runs: {passed}"
            said = words(stops, state, ann)
            assert said == "budget: stopped: a budget above the project stops what runs"
            waits = f"waits; budget {name} uses spot alone since {passed}; and so on"
            assert words(waits, state, ann) == "waits; a budget above the project uses spot alone; and so on"
            assert words(stops, state, Identity("root", None, grants=(Grant(Role.VIEWER, ""),))) == stops
        assert words("cancelled: budget cuts", state, ann) == "cancelled: budget cuts"

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
            "Jobs.SubmitMany": jobs_pb2.SubmitRequest(spec=spec(), idempotency_key="k"),
            "Jobs.Plan": jobs_pb2.PlanRequest(spec=spec()),
            "Jobs.Update": jobs_pb2.UpdateRequest(job=job, time_limit_us=3_600_000_000),
            "Jobs.Explain": jobs_pb2.ExplainRequest(job=job),
            "Jobs.Get": jobs_pb2.GetJobRequest(job=job),
        }
        for method, request in asked.items():
            many = method == "Jobs.SubmitMany"
            status, answers = await site.ask(method, request, token=token, answers_max=1 if many else 10)
            said = f"{status} {answers}"
            if method in ("Jobs.Submit", "Jobs.Plan", "Jobs.Update"):
                assert status[0] == "RESOURCE_EXHAUSTED", said
                assert ("a budget above the project has no room for this: it may cost up to" in said) == (
                    project == "p/b"
                )
            if many:
                assert answers[0].error == "BudgetExceeded", said
            assert ("canary-budget" in said) == (project == "p"), said
            assert project == "p" or "0.000123" not in said

    play(story)
