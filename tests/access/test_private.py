"""What is private stays private: a canary in a job's environment or program reaches nobody else."""

from __future__ import annotations

from typing import Any

import pytest
from whole_site import Site, play

from bursar.codec import view
from bursar.model import ArraySpec, ServiceSpec
from bursar.resources import ResourceRequest
from bursar.v1 import events_pb2, jobs_pb2, money_pb2, types_pb2
from bursard.services.views import PRIVATE_FIELDS, START_FAILED_TEXT

CANARY = "canary-4e1b"
PRIVATE = {
    "env": (("HF_TOKEN", CANARY),),
    "command": ("echo", CANARY),
    "setup": f"export X={CANARY}",
    "name": "train",
}
SCRIPT = {
    "env": (("HF_TOKEN", CANARY),),
    "command": (),
    "script": f"echo {CANARY}",
    "arguments": (CANARY,),
    "name": "script",
}
SERVICE = {
    "name": "chat",
    "time_limit_us": 0,
    "service": ServiceSpec(probe_path=f"/health?token={CANARY}"),
    "array": ArraySpec((0, 1), 1),
}


def reads(job_id: str) -> list[tuple[str, Any]]:
    """Every method that shows a job or an event."""
    return [
        ("Jobs.Get", jobs_pb2.GetJobRequest(job=job_id)),
        ("Jobs.List", jobs_pb2.ListJobsRequest(states=["all"])),
        ("Jobs.Watch", jobs_pb2.WatchJobsRequest(jobs=[job_id])),
        ("Jobs.Explain", jobs_pb2.ExplainRequest(job=job_id)),
        ("Nodes.Top", None),
        ("Events.List", events_pb2.ListEventsRequest()),
        ("Events.List", events_pb2.ListEventsRequest(job=job_id)),
        ("Events.List", events_pb2.ListEventsRequest(tail=50, kinds=["job-submitted", "job-updated"])),
        ("Money.Cost", money_pb2.CostRequest(by=["job"])),
    ]


async def told(site: Site, token: str, job_id: str) -> bytes:
    """All that a caller is told, as bytes."""
    said = b""
    for method, request in reads(job_id):
        limit = 1 if method == "Jobs.Watch" else 1_000_000
        (status, details), answers = await site.ask(method, request, token=token, answers_max=limit)
        assert status in ("OK", "PERMISSION_DENIED", "NOT_FOUND"), details
        said += b"".join(answer.SerializeToString() for answer in answers) + details.encode()
    return said


@pytest.mark.parametrize("private", [PRIVATE, SCRIPT, SERVICE], ids=["command", "script", "service"])
@pytest.mark.parametrize(
    ("user", "role", "project", "may"),
    [
        ("ann", "submitter", "", True),
        ("ann", "viewer", "nlp", True),
        ("pat", "project-admin", "nlp", True),
        ("oz", "operator", "", True),
        ("root", "admin", "", True),
        ("vic", "viewer", "", False),
        ("fin", "finance", "", False),
        ("sue", "submitter", "", False),
        ("aud", "auditor", "", False),
        ("pat", "project-admin", "vision", False),
        ("oz", "operator", "vision", False),
    ],
)
def test_env_and_program_are_for_the_owner_project_admins_and_operators(
    user: str, role: str, project: str, may: bool, private: dict[str, Any]
) -> None:
    async def story(site: Site) -> None:
        job_id = site.job("ann", "nlp/deep", **private)
        request = jobs_pb2.UpdateRequest(job=job_id, priority=45)  # an event with the whole spec once more
        assert (await site.call("Jobs.Update", request, token=site.token("ann", "submitter")))[0] == "OK"
        said = await told(site, site.token(user, role, project), job_id)
        assert (CANARY.encode() in said) is may

    play(story)


def test_a_field_of_a_job_is_its_owners_until_it_is_named_as_shown() -> None:
    assert {"env", "command", "script", "arguments", "setup"} == PRIVATE_FIELDS


def test_events_keep_env_and_program_even_from_an_admin() -> None:
    async def story(site: Site) -> None:
        site.job("ann", "nlp", **PRIVATE)
        _, events = await site.ask("Events.List", token=site.token("root", "admin"))
        assert any(event.kind == "job-submitted" for event in events)
        assert not any(CANARY in str(event) for event in events)

    play(story)


def test_a_redacted_job_says_that_it_is() -> None:
    async def story(site: Site) -> None:
        job_id = site.job("ann", "nlp", **PRIVATE)
        shown = {}
        for user in ("ann", "vic"):
            token = site.token(user, "submitter")
            _, (job,) = await site.ask("Jobs.Get", jobs_pb2.GetJobRequest(job=job_id), token=token)
            shown[user] = view.job(job)
        assert shown["ann"]["redacted"] is False
        assert shown["ann"]["command"] == ["echo", CANARY]
        assert shown["vic"]["redacted"] is True
        assert shown["vic"]["command"] == []
        assert shown["vic"]["name"] == "train"

    play(story)


def test_why_a_program_could_not_start_is_private_too() -> None:
    async def story(site: Site) -> None:
        job_id = site.job("ann", "nlp", command=(CANARY,))
        site.fail_to_start(job_id, f"there is no program {CANARY!r}")
        assert CANARY.encode() not in await told(site, site.token("vic", "viewer"), job_id)
        request = jobs_pb2.GetJobRequest(job=job_id)
        _, (seen,) = await site.ask("Jobs.Get", request, token=site.token("vic", "viewer"))
        assert seen.reason.message == seen.attempts[-1].message == START_FAILED_TEXT
        _, (own,) = await site.ask("Jobs.Get", request, token=site.token("ann", "submitter"))
        assert CANARY in own.reason.message

    play(story)


def test_lists_costs_and_events_hold_what_the_roles_cover_and_no_more() -> None:
    async def story(site: Site) -> None:
        projects = ("nlp", "nlp/deep", "vision", "nlp-two")
        ids = {project: site.job("bob", project, name=project) for project in projects}
        token = site.token("ann", "viewer", "nlp")
        _, (listed,) = await site.ask("Jobs.List", token=token)
        assert {job.spec.project for job in listed.jobs} == {"nlp", "nlp/deep"}
        _, events = await site.ask("Events.List", token=token)
        assert {event.subject for event in events} == {ids["nlp"], ids["nlp/deep"]}
        _, events = await site.ask("Events.List", token=site.token("vic", "viewer"))
        assert {"node-registered", "job-submitted"} <= {event.kind for event in events}
        named = jobs_pb2.GetJobRequest(job="vision")
        assert (await site.call("Jobs.Get", named, token=token))[0] == "NOT_FOUND"

    play(story)


def test_of_jobs_with_one_name_those_that_may_be_seen_are_meant() -> None:
    async def story(site: Site) -> None:
        site.job("bob", "vision", name="train")
        mine = site.job("bob", "nlp", name="train")
        request = jobs_pb2.GetJobRequest(job="train")
        _, (job,) = await site.ask("Jobs.Get", request, token=site.token("ann", "viewer", "nlp"))
        assert job.id == mine
        (status, details), _ = await site.ask("Jobs.Get", request, token=site.token("vic", "viewer"))
        assert (status, "2 or more jobs" in details) == ("INVALID_ARGUMENT", True)

    play(story)


def test_costs_and_budgets_of_other_projects_are_left_out() -> None:
    async def story(site: Site) -> None:
        for project in ("nlp/deep", "vision", "nlp-two"):
            site.run(site.job("bob", project))
        text = "---\n".join(
            f"kind: Budget\nname: {name}\nspec:\n  scope: {scope}\n  limit: 100 USD\n  period: month\n"
            for name, scope in [
                ("of-nlp", "{project: nlp}"), ("of-vision", "{project: vision}"), ("of-bob", "{user: bob}"),
            ]
        )  # fmt: skip
        request = money_pb2.ApplyRequest(sources=[money_pb2.PolicySource(name="b", text=text)])
        assert (await site.call("Policies.Apply", request, token=site.token("root", "admin")))[0] == "OK"
        shown = {}
        for role, project in [("viewer", "nlp"), ("viewer", "")]:
            token = site.token("ann", role, project)
            _, (budgets,) = await site.ask("Money.Budgets", token=token)
            _, (cost,) = await site.ask("Money.Cost", money_pb2.CostRequest(by=["project"]), token=token)
            shown[project] = (
                {budget.name for budget in budgets.budgets},
                {row.keys[0] for row in cost.rows},
                cost.total.jobs,
            )
        assert shown["nlp"] == ({"of-nlp"}, {"nlp/deep"}, 1)
        assert shown[""] == ({"of-nlp", "of-vision", "of-bob"}, {"nlp/deep", "vision", "nlp-two"}, 3)

    play(story)


def test_ended_and_running_jobs_of_other_projects_are_left_out() -> None:
    async def story(site: Site) -> None:
        for project in ("nlp/deep", "vision"):
            site.run(site.job("bob", project))
            site.place(site.job("bob", project))
        await site.engine.durable()
        request = jobs_pb2.ListJobsRequest(states=["succeeded"])
        for held, expected in [("nlp", {"nlp/deep"}), ("", {"nlp/deep", "vision"})]:
            token = site.token("ann", "viewer", held)
            _, (listed,) = await site.ask("Jobs.List", request, token=token)
            assert {job.spec.project for job in listed.jobs} == expected
            _, (top,) = await site.ask("Nodes.Top", token=token)
            assert {job.spec.project for job in top.jobs} == expected

    play(story)


def test_a_job_in_a_project_that_one_may_not_see_is_as_unknown_as_any() -> None:
    async def story(site: Site) -> None:
        job = site.job("bob", "vision", name="train")
        token = site.token("ann", "submitter", "nlp")

        async def after(ref: str) -> tuple[str, str]:
            spec = types_pb2.JobSpec(project="nlp", command=["true"], nodes=1)
            spec.options.add(cpu_milli=100)
            spec.depends_on.add(job=ref, when="succeeded")
            return await site.call("Jobs.Submit", jobs_pb2.SubmitRequest(spec=spec), token=token)

        unknown = await after("trein")
        assert unknown[0] == "NOT_FOUND"
        assert await after("train") == ("NOT_FOUND", unknown[1].replace("trein", "train"))
        assert await after(job) == ("NOT_FOUND", unknown[1].replace("trein", job))
        assert await after("1") == ("NOT_FOUND", unknown[1].replace("trein", "1"))
        assert await after(f"{job}[0]") == ("NOT_FOUND", unknown[1].replace("trein", f"{job}[0]"))
        site.run(job)
        await site.engine.durable()
        assert await after("train") == ("NOT_FOUND", unknown[1].replace("trein", "train"))
        for ref in (job, "1", f"{job}.0"):
            assert await after(ref) == ("NOT_FOUND", unknown[1].replace("trein", ref))

    play(story)


def test_jobs_ahead_are_counted_for_all_and_named_to_those_who_may_see_them() -> None:
    async def story(site: Site) -> None:
        whole = (ResourceRequest(None, 8_000, 1 << 30),)
        hers = [site.job("ann", "vision", options=whole, priority=90) for _ in range(2)]
        own = site.job("bob", "nlp", options=whole, priority=80)
        job = site.job("bob", "nlp", options=whole, priority=10)
        told = {}
        for who in (("bob", "submitter", "nlp"), ("root", "admin", "")):
            request = jobs_pb2.ExplainRequest(job=job)
            _, (told[who[0]],) = await site.ask("Jobs.Explain", request, token=site.token(*who))
        assert list(told["root"].ahead) == [hers[1], own]
        assert list(told["bob"].ahead) == [own]
        assert told["root"].ahead_total == told["bob"].ahead_total == 2
        start = "1 job of higher priority took the place just now: "
        assert told["root"].reason.message == start + "1"
        called = {who: [(one.id, one.number, one.why) for one in told[who].ahead_jobs] for who in told}
        assert called == {
            "root": [(hers[1], "2", "priority 90"), (own, "3", "priority 80")],
            "bob": [(own, "3", "priority 80")],
        }
        assert told["bob"].reason.message == start + "another"
        assert dict(told["root"].reason.facts) == {"ahead": hers[0], "ahead_count": "1"}
        assert dict(told["bob"].reason.facts) == {"ahead": "", "ahead_count": "1"}
        for one in hers:
            assert one not in str(told["bob"])

    play(story)
