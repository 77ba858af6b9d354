"""Who may call what: every method of the contract, by role, by where the role is held, by whose job it is.

The table is the specification, in literal verdicts; each cell is a call through the real server. A method of
the contract without a row, a right given too widely, and a check taken out each fail here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import pytest
from whole_site import METHODS, Site, play

from bursar.v1 import access_pb2, events_pb2, jobs_pb2, money_pb2, nodes_pb2, services_pb2, types_pb2
from bursard.access.rules import METHODS as RULES

ROLES: Final = {
    "V": "viewer", "F": "finance", "S": "submitter", "P": "project-admin",
    "O": "operator", "A": "admin", "U": "auditor", "G": "agent",
}  # fmt: skip

SITUATIONS: Final = {
    "site, own": ("", "ann", "nlp"),
    "site, other's": ("", "bob", "vision"),
    "nlp, own of nlp": ("nlp", "ann", "nlp"),
    "nlp, other's of nlp": ("nlp", "bob", "nlp/deep"),
    "nlp, own of vision": ("nlp", "ann", "vision"),
    "nlp, other's of vision": ("nlp", "bob", "vision"),
    "nlp, other's of nlp-two": ("nlp", "bob", "nlp-two"),
}
"""Where the role is held, who submitted the job, and its project. The caller is ann, in each role."""

EVERYBODY = "VFSPOAU"
Row = tuple[str, str, str, str, str, str, str]


def everywhere(roles: str) -> Row:
    return (roles, roles, roles, roles, roles, roles, roles)


def of_the_site(roles: str) -> Row:
    """Held over a project it gives nothing: nodes and policies are of no project."""
    return (roles, roles, "", "", "", "", "")


SEEN: Row = (EVERYBODY, EVERYBODY, EVERYBODY, EVERYBODY, "", "", "")
STEERED: Row = ("SPOA", "POA", "SPOA", "POA", "", "", "")
SUBMITTED: Row = ("SPOA", "SPOA", "SPOA", "SPOA", "", "", "")
GIVEN: Row = ("PA", "PA", "PA", "PA", "", "", "")
KEPT: Row = ("POA", "POA", "POA", "POA", "", "", "")
REPORTED: Row = ("FPOAU", "FPOAU", "FPOAU", "FPOAU", "", "", "")

# In the order of `SITUATIONS`.
TABLE: Final[dict[str, Row]] = {
    "Jobs.Submit": SUBMITTED,
    "Jobs.SubmitMany": SUBMITTED,
    "Jobs.SubmitBatches": SUBMITTED,
    "Jobs.Plan": SUBMITTED,
    "Jobs.Get": SEEN,
    "Jobs.List": everywhere(EVERYBODY),
    "Jobs.List tasks": SEEN,
    "Jobs.Watch": SEEN,
    "Jobs.Explain": SEEN,
    "Jobs.Profile": SEEN,
    "Jobs.Logs": STEERED,
    "Jobs.Attach": ("SPOA", "OA", "SPOA", "OA", "", "", ""),
    "Jobs.Cancel": STEERED,
    "Jobs.Hold": STEERED,
    "Jobs.Release": STEERED,
    "Jobs.Requeue": STEERED,
    "Jobs.Update": STEERED,
    "Nodes.List": everywhere(EVERYBODY),
    "Nodes.Get": everywhere(EVERYBODY),
    "Nodes.Top": everywhere(EVERYBODY),
    "Nodes.SlurmNames": everywhere(EVERYBODY),
    "Nodes.Reservations": everywhere(EVERYBODY),
    "Nodes.Machines": everywhere(EVERYBODY),
    "Nodes.GetMachine": everywhere(EVERYBODY),
    "Nodes.CheckClouds": of_the_site("OA"),
    "Nodes.EndMachine": of_the_site("OA"),
    "Nodes.ReleaseMachine": of_the_site("OA"),
    "Nodes.Drain": of_the_site("OA"),
    "Nodes.Cordon": of_the_site("OA"),
    "Nodes.Resume": of_the_site("OA"),
    "Nodes.Calibrate": of_the_site("OA"),
    "Nodes.Remove": of_the_site("OA"),
    "Nodes.Token": of_the_site("A"),
    "Nodes.Tokens": of_the_site("A"),
    "Nodes.RevokeTokens": of_the_site("A"),
    "Money.Cost": everywhere(EVERYBODY),
    "Money.Cost of a job": SEEN,
    "Money.Cost with idle": of_the_site("FPOAU"),
    "Money.Budgets": everywhere(EVERYBODY),
    "Money.Budgets by name": SEEN,
    "Money.Prices": everywhere(EVERYBODY),
    "Money.ExplainPrice": of_the_site("FPOAU"),
    "Money.Report": REPORTED,
    "Money.Correct": ("FA", "FA", "FA", "FA", "", "", ""),
    "Money.ClosePeriod": of_the_site("FA"),
    "Money.KeepBill": of_the_site("FA"),
    "Money.Periods": of_the_site("FPOAU"),
    "Money.GrantBudget": ("FOA", "FOA", "FOA", "FOA", "", "", ""),
    "Money.TransferBudget": ("FOA", "FOA", "FOA", "FOA", "", "", ""),
    "Money.ApproveBudget": ("POA", "POA", "POA", "POA", "", "", ""),
    "Money.Report of all": of_the_site("FPOAU"),
    "Policies.Apply": of_the_site("OA"),
    "Policies.Check": of_the_site(EVERYBODY),
    "Policies.List": of_the_site(EVERYBODY),
    "Policies.Get": of_the_site(EVERYBODY),
    "Policies.Delete": of_the_site("OA"),
    "Events.List": everywhere(EVERYBODY),
    "Events.List of a job": SEEN,
    "Events.Server": everywhere(EVERYBODY),
    "Events.Doctor": everywhere(EVERYBODY),
    "Events.Doctor full": of_the_site("OAU"),
    "Events.SaveSnapshot": of_the_site("OA"),
    "Access.Grant": GIVEN,
    "Access.Grant of the site": of_the_site("A"),
    "Access.Revoke": GIVEN,
    "Access.Revoke of the site": of_the_site("A"),
    "Access.Grants": everywhere("POAU"),
    "Access.SetSecret": KEPT,
    "Access.SetSecret of the site": of_the_site("POA"),
    "Access.RemoveSecret": KEPT,
    "Access.Secrets": everywhere("SPOA"),
    "Services.List": everywhere(EVERYBODY),
    "Services.Scale": STEERED,
    "Services.Update": ("SPOA", "OA", "SPOA", "OA", "", "", ""),
    "Services.Rollback": STEERED,
    "Services.Sync": of_the_site("OA"),
    "Services.NewKey": KEPT,
    "Services.Keys": everywhere("POA"),
    "Services.RevokeKey": everywhere("POA"),
    "Agents.Connect": of_the_site("G"),
}


class Thing(NamedTuple):
    """What a call is about."""

    job: str
    project: str


def spec(thing: Thing) -> types_pb2.JobSpec:
    wire = types_pb2.JobSpec(project=thing.project, priority=50, nodes=1, command=["true"], on_exceed="stop")
    wire.options.add(cpu_milli=1000)
    wire.spot_policy = "auto"
    return wire


def one(thing: Thing) -> Any:
    return jobs_pb2.JobsRequest(jobs=[thing.job])


ONE_NANO: Final = types_pb2.Amount(nanos="1")


def budget_of(thing: Thing) -> str:
    return thing.project.replace("/", ".")


REQUESTS: Final[dict[str, Callable[[Thing], Any]]] = {
    "Jobs.Submit": lambda t: jobs_pb2.SubmitRequest(spec=spec(t)),
    "Jobs.SubmitMany": lambda t: jobs_pb2.SubmitRequest(spec=spec(t)),
    "Jobs.SubmitBatches": lambda t: jobs_pb2.SubmitBatch(jobs=[jobs_pb2.SubmitRequest(spec=spec(t))]),
    "Jobs.Plan": lambda t: jobs_pb2.PlanRequest(spec=spec(t)),
    "Jobs.Get": lambda t: jobs_pb2.GetJobRequest(job=t.job),
    "Jobs.List tasks": lambda t: jobs_pb2.ListJobsRequest(tasks_of=t.job),
    "Jobs.Watch": lambda t: jobs_pb2.WatchJobsRequest(jobs=[t.job]),
    "Jobs.Explain": lambda t: jobs_pb2.ExplainRequest(job=t.job),
    "Jobs.Profile": lambda t: jobs_pb2.ProfileRequest(job=t.job),
    "Jobs.Logs": lambda t: jobs_pb2.LogsRequest(job=t.job),
    "Jobs.Attach": lambda t: jobs_pb2.AttachRequest(open=jobs_pb2.AttachOpen(job=t.job)),
    "Jobs.Cancel": lambda t: jobs_pb2.CancelRequest(jobs=[t.job]),
    "Jobs.Hold": one,
    "Jobs.Release": one,
    "Jobs.Requeue": one,
    "Jobs.Update": lambda t: jobs_pb2.UpdateRequest(job=t.job, priority=49),
    "Nodes.Get": lambda t: nodes_pb2.NodeRequest(node="n1"),
    "Nodes.Drain": lambda t: nodes_pb2.DrainRequest(node="n1"),
    "Nodes.Cordon": lambda t: nodes_pb2.NodeModeRequest(node="n1"),
    "Nodes.Resume": lambda t: nodes_pb2.NodeModeRequest(node="n1"),
    "Nodes.Remove": lambda t: nodes_pb2.NodeRequest(node="n1"),
    "Nodes.Token": lambda t: nodes_pb2.TokenRequest(node="n2", ttl_us=1_000_000),
    "Nodes.Tokens": lambda t: nodes_pb2.TokensRequest(node="n2"),
    "Nodes.RevokeTokens": lambda t: nodes_pb2.RevokeTokensRequest(node="n2"),
    "Money.Cost of a job": lambda t: money_pb2.CostRequest(job=t.job),
    "Money.Cost with idle": lambda t: money_pb2.CostRequest(include_idle=True),
    "Money.Budgets by name": lambda t: money_pb2.BudgetsRequest(name=budget_of(t)),
    "Money.ExplainPrice": lambda t: money_pb2.ExplainPriceRequest(name="local"),
    "Money.Correct": lambda t: money_pb2.CorrectRequest(job=t.job, to_ppm=0, reason="r"),
    "Money.ClosePeriod": lambda t: money_pb2.ClosePeriodRequest(period="2026-01"),
    "Money.GrantBudget": lambda t: money_pb2.GrantBudgetRequest(
        budget=budget_of(t), amount=ONE_NANO, currency="USD", reason="r"
    ),
    "Money.ApproveBudget": lambda t: money_pb2.ApproveBudgetRequest(budget=budget_of(t), reason="r"),
    "Money.TransferBudget": lambda t: money_pb2.TransferBudgetRequest(
        budget=budget_of(t), to=f"{budget_of(t)}.more", amount=ONE_NANO, currency="USD", reason="r"
    ),
    "Money.Report": lambda t: money_pb2.ReportRequest(kind="focus", period="2026-11", project=t.project),
    "Money.Report of all": lambda t: money_pb2.ReportRequest(kind="focus", period="2026-11"),
    "Policies.Get": lambda t: money_pb2.PolicyRequest(kind="Budget", name="nlp"),
    "Policies.Delete": lambda t: money_pb2.PolicyRequest(kind="Budget", name="absent"),
    "Events.List of a job": lambda t: events_pb2.ListEventsRequest(job=t.job),
    "Access.Grant": lambda t: access_pb2.GrantRequest(user="eve", role="viewer", project=t.project),
    "Access.Grant of the site": lambda t: access_pb2.GrantRequest(user="eve", role="operator", project="nlp"),
    "Access.Revoke": lambda t: access_pb2.GrantRequest(user="eve", role="submitter", project=t.project),
    "Access.Revoke of the site": lambda t: access_pb2.GrantRequest(user="eve", role="admin", project="nlp"),
    "Access.SetSecret": lambda t: access_pb2.SetSecretRequest(name="K", project=t.project, value=b"v"),
    "Access.SetSecret of the site": lambda t: access_pb2.SetSecretRequest(name="K", value=b"v"),
    "Access.RemoveSecret": lambda t: access_pb2.SecretRequest(name="K", project=t.project),
    "Services.Scale": lambda t: services_pb2.ScaleServiceRequest(service=t.job, replicas_max=1),
    "Services.Update": lambda t: services_pb2.UpdateServiceRequest(service=t.job, spec=spec(t)),
    "Services.Rollback": lambda t: services_pb2.RollbackServiceRequest(service=t.job),
    "Services.Sync": lambda t: services_pb2.SyncRequest(gateway="g"),
    "Services.NewKey": lambda t: services_pb2.NewKeyRequest(service=t.job),
    "Services.RevokeKey": lambda t: services_pb2.RevokeKeyRequest(key="key_missing"),
    "Events.Doctor full": lambda t: events_pb2.DoctorRequest(full=True),
}


def cells(row: str) -> list[tuple[str, str, str, str, bool]]:
    """(role, held over, owner, project, allowed) of each cell of one row."""
    return [
        (role, held, owner, project, letter in allowed)
        for (held, owner, project), allowed in zip(SITUATIONS.values(), TABLE[row], strict=True)
        for letter, role in ROLES.items()
    ]


def covers(held: str, project: str) -> bool:
    return not held or f"{project}/".startswith(f"{held}/")


async def budgets(site: Site) -> None:
    texts = [
        f"kind: Budget\nname: {name.replace('/', '.')}{more}\nspec:\n  scope: {{project: {name}}}\n"
        "  limit: 100000 USD\n  period: month\n"
        for name in ("nlp", "nlp/deep", "nlp-two", "vision")
        for more in ("", ".more")
    ]
    request = money_pb2.ApplyRequest(sources=[money_pb2.PolicySource(name="b", text="---\n".join(texts))])
    assert (await site.call("Policies.Apply", request, token=site.token("root", "admin")))[0] == "OK"


async def verdict(site: Site, row: str, request: Any, token: str) -> str:
    (status, details), answers = await site.ask(row.split(" ")[0], request, token=token, answers_max=1)
    jobs = [job for answer in answers for job in getattr(answer, "answers", [answer])]
    if jobs and getattr(jobs[0], "error", "") == "Forbidden":  # SubmitMany refuses one by one
        return "PERMISSION_DENIED"
    assert status not in ("UNKNOWN", "INTERNAL", "UNAUTHENTICATED"), details
    return status


OF_A_PROJECT: Final = {
    "Jobs.Get", "Jobs.List tasks", "Jobs.Watch", "Jobs.Explain", "Jobs.Profile", "Jobs.Logs",
    "Jobs.Attach", "Jobs.Cancel",
    "Jobs.Hold",
    "Jobs.Release", "Jobs.Requeue", "Jobs.Update", "Money.Cost of a job", "Events.List of a job",
    "Money.Budgets by name", "Money.Correct", "Money.GrantBudget", "Money.TransferBudget",
    "Money.ApproveBudget", "Services.Scale", "Services.Update", "Services.Rollback", "Services.NewKey",
}  # fmt: skip


@pytest.mark.parametrize("row", TABLE)
def test_a_role_may_what_the_table_says_and_nothing_else(row: str) -> None:
    async def story(site: Site) -> None:
        await budgets(site)
        wrong = []
        for role, held, owner, project, allowed in cells(row):
            thing = Thing(site.job(owner, project), project)
            request = REQUESTS[row](thing) if row in REQUESTS else None
            token = site.token("ann", role, held)
            status = await verdict(site, row, request, token)
            if row in OF_A_PROJECT and not covers(held, project):
                # What may not be seen is as unknown as what is not there.
                missing = await verdict(site, row, REQUESTS[row](Thing("job_missing", "missing")), token)
                wrong += [f"{role}: {status} is not {missing}"] if status != missing or allowed else []
                assert missing in ("PERMISSION_DENIED", "NOT_FOUND")
            elif (status != "PERMISSION_DENIED") is not allowed:
                wrong.append(f"{role} of {held or 'the site'}, {owner}'s job of {project}: {status}")
        assert not wrong

    play(story)


def test_who_gives_of_one_project_gives_to_no_other_and_sees_no_other_ends_name() -> None:
    async def story(site: Site) -> None:
        await budgets(site)
        fin, of_nlp = site.token("fin", "finance"), site.token("ned", "finance", "nlp")
        request = money_pb2.TransferBudgetRequest(
            budget="nlp", to="vision", amount=ONE_NANO, currency="USD", reason="r"
        )
        assert (await site.call("Money.TransferBudget", request, token=of_nlp))[0] == "NOT_FOUND"
        (status, _), [answer] = await site.ask("Money.TransferBudget", request, token=fin)
        assert (status, [one.name for one in answer.budgets]) == ("OK", ["nlp", "vision"])
        for token, other in ((fin, "vision"), (of_nlp, "")):
            _, [found] = await site.ask("Money.Budgets", money_pb2.BudgetsRequest(name="nlp"), token=token)
            [posting] = found.budgets[0].postings
            assert (posting.kind, posting.by, posting.amount.nanos) == ("transfer", "fin", "-1")
            assert posting.other == other

    play(story)


def test_every_method_of_the_contract_has_a_row_and_a_rule() -> None:
    assert {row.split(" ")[0] for row in TABLE} == set(METHODS)
    assert {name.removeprefix("/bursar.v1.").replace("/", ".") for name in RULES} == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_a_stranger_gets_through_no_method(method: str) -> None:
    async def story(site: Site) -> None:
        for token in ("", "x", "ann:admin:"):
            assert (await site.call(method, token=token))[0] == "UNAUTHENTICATED"
        # Known, but without any role: the same doors, another reason.
        status = (await site.call(method, token=site.token("ann", "none")))[0]
        assert status == "PERMISSION_DENIED"

    play(story)
