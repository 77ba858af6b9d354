"""Priority is given, by roles and by a policy, and not taken: it goes before everybody else's jobs."""

from __future__ import annotations

import pytest
from whole_site import Site, play

from bursar.errors import InvalidRequest
from bursar.v1 import jobs_pb2, money_pb2, services_pb2, types_pb2
from bursar_policies.document import parse_documents

POLICY = """kind: PriorityPolicy
name: p
spec:
  max_wait: 7d
  max_priority: {submitter: 40, project_admin: 60, projects: {nlp/urgent: 90, nlp/urgent/not: 10}}
"""


def spec(project: str, priority: int) -> types_pb2.JobSpec:
    wire = types_pb2.JobSpec(project=project, priority=priority, nodes=1, command=["true"], on_exceed="stop")
    wire.options.add(cpu_milli=1000)
    wire.spot_policy = "auto"
    return wire


async def submits(site: Site, role: str, project: str, priority: int, held: str = "") -> tuple[str, str]:
    request = jobs_pb2.SubmitRequest(spec=spec(project, priority))
    return await site.call("Jobs.Submit", request, token=site.token("ann", role, held))


async def most(site: Site, role: str, project: str, held: str = "") -> int:
    """The highest priority that is accepted; all below it are, and none above."""
    answers = [(await submits(site, role, project, one, held))[0] for one in range(0, 101, 5)]
    found = answers.count("OK")
    assert answers == ["OK"] * found + ["PERMISSION_DENIED"] * (len(answers) - found)
    return 5 * (found - 1)


@pytest.mark.parametrize(("role", "highest"), [("submitter", 50), ("project-admin", 75), ("operator", 100)])
def test_without_a_policy_a_role_says_how_high_a_priority_may_be(role: str, highest: int) -> None:
    async def story(site: Site) -> None:
        assert await most(site, role, "nlp") == highest
        assert await most(site, role, "nlp", "nlp") == highest

    play(story)


def test_a_policy_says_it_by_role_and_by_project_and_the_innermost_counts() -> None:
    async def story(site: Site) -> None:
        request = money_pb2.ApplyRequest(sources=[money_pb2.PolicySource(name="p", text=POLICY)])
        assert (await site.call("Policies.Apply", request, token=site.token("root", "admin")))[0] == "OK"
        found = {
            (role, project): await most(site, role, project)
            for role in ("submitter", "project-admin", "operator")
            for project in ("nlp", "nlp/urgent", "nlp/urgent/not")
        }
        assert list(found.values()) == [40, 90, 10, 60, 90, 60, 100, 100, 100]

    play(story)


def test_who_is_refused_is_told_how_high_he_may_go_and_who_may_higher() -> None:
    async def story(site: Site) -> None:
        status, said = await submits(site, "submitter", "nlp", 80, "nlp")
        assert status == "PERMISSION_DENIED"
        assert "80 is more than the 50 that ann (submitter of nlp) may ask for in project nlp;" in said
        assert "a project-admin or an operator" in said
        plan = jobs_pb2.PlanRequest(spec=spec("nlp", 80))
        status, asked = await site.call("Jobs.Plan", plan, token=site.token("ann", "submitter", "nlp"))
        assert (status, asked) == ("PERMISSION_DENIED", said), "a plan says what a submit would"

    play(story)


def test_an_update_raises_it_no_further_and_keeps_what_somebody_gave() -> None:
    async def story(site: Site) -> None:
        job = site.job("ann", "nlp")
        record = site.engine.state.jobs[job]

        async def asked(role: str, held: str = "nlp", **changes: object) -> str:
            request = jobs_pb2.UpdateRequest(job=job, **changes)  # type: ignore[arg-type]
            return (await site.call("Jobs.Update", request, token=site.token("ann", role, held)))[0]

        assert await asked("submitter", priority=51) == "PERMISSION_DENIED"
        assert await asked("operator", "", priority=90) == "OK"
        assert await asked("submitter", name="called") == "OK"
        assert await asked("submitter", priority=90) == "OK"
        assert await asked("submitter", "", project="vision") == "PERMISSION_DENIED", "it was given there"
        assert await asked("submitter", priority=85) == "OK", "less than was given"
        assert await asked("submitter", priority=90) == "PERMISSION_DENIED"
        assert (record.spec.priority, record.spec.project) == (85, "nlp")

    play(story)


def test_another_revision_of_a_service_is_bounded_as_its_submit_was() -> None:
    async def story(site: Site) -> None:
        wire = spec("nlp", 50)
        wire.name, wire.service.port = "chat", 8000
        wire.service.replicas_min = wire.service.replicas_max = 1
        token = site.token("ann", "submitter", "nlp")
        status, said = await site.call("Jobs.Submit", jobs_pb2.SubmitRequest(spec=wire), token=token)
        assert status == "OK", said
        wire.priority = 60
        request = services_pb2.UpdateServiceRequest(service="chat", spec=wire)
        status, said = await site.call("Services.Update", request, token=token)
        assert (status, "the 50 that ann" in said) == ("PERMISSION_DENIED", True)

    play(story)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{submitter: 101}", "at most 100"),
        ("{submitter: 60, project_admin: 50}", "at least 60"),
        ("{projects: {a//b: 5}}", "is not a project"),
        ("{projects: {a: 5, A: 6}}", "is given twice"),
        ("{projects: {a: -1}}", "at least 0"),
        ("{everybody: 5}", "everybody"),
    ],
)
def test_a_bound_that_means_nothing_is_refused(text: str, said: str) -> None:
    policy = f"kind: PriorityPolicy\nname: p\nspec: {{max_priority: {text}}}\n"
    with pytest.raises(InvalidRequest) as found:
        parse_documents(policy, "p")
    assert said in str(found.value)
