"""What happens in a project that a caller may not see is counted, never named, in any answer of any method.

Why     a job is spoken of in many places: a reading of its node, a reason, a finding. Each method of the wire
        is asked here as everybody who has a role in another project, and all that it says is searched.
"""

from __future__ import annotations

import re
from typing import Any, Final

import pytest
from google.protobuf.message_factory import GetMessageClass
from msgspec.structs import replace
from whole_site import METHODS, Site, play

from bursar.clock import HOUR_US, Instant, format_instant
from bursar.codec import view
from bursar.model import ArraySpec, EndCause
from bursar.resources import ResourceRequest
from bursar.v1 import access_pb2, events_pb2, jobs_pb2, money_pb2, nodes_pb2, types_pb2
from bursar_policies.document import parse_documents
from bursard.access.identity import Grant, Identity, Role
from bursard.doctor import Finding, check_planning
from bursard.events import NodeQuarantined, StopRequested, decode
from bursard.events.deadlines import DeadlineBroken
from bursard.events.public import unnamed
from bursard.services import reserved
from bursard.services.sight import Sight
from bursard.state.decide import nodes, overdue, policies
from bursard.store import EventFilter

CANARY: Final = "canary7731"
HIDDEN: Final[dict[str, Any]] = {
    "name": f"{CANARY}-name",
    "labels": (("k", f"{CANARY}-label"),),
    "experiment": f"{CANARY}-experiment",
    "model": f"{CANARY}-model",
    "comment": f"{CANARY} comment",
    "env": (("X", f"{CANARY}-env"),),
    "command": ("echo", f"{CANARY}-command"),
}
USER: Final = f"{CANARY}-user"
STEP: Final = 432_100_567
ROLES: Final = ("viewer", "finance", "submitter", "project-admin", "operator", "auditor")
FOLLOWS: Final = ("Jobs.Watch", "Jobs.SubmitMany", "Jobs.SubmitBatches")
CHANGES: Final = ("Nodes.Remove", "Nodes.Resume", "Policies.Delete", "Agents.Connect")


MONEY: Final = f"""\
kind: CostModel
name: rack
spec: {{pool: p, node_capex: 400000 USD, useful_life: 5y}}
---
kind: Budget
name: {CANARY}-budget
spec:
  scope: {{project: p}}
  limit: 77314 USD
  period: month
  enforcement: hard
  thresholds: [{{at: 80%, do: [checkpoint-stop]}}]
---
kind: Budget
name: {CANARY}-of-a
spec: {{scope: {{project: p/a}}, limit: 77315 USD, period: month}}
---
kind: Quota
name: {CANARY}-quota
spec: {{scope: {{project: p}}, max: {{cpus: 8}}, guaranteed: {{cpus: 4}}}}
"""
"""Above both projects, and of the hidden one."""
SUMS: Final = ("77314", "77,314", "77315", "77,315")


class World:
    """A project p/a with a job in each situation, and p/b, whose people ask. `words`: what they never see."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.words = [CANARY, str(STEP), "p/a", *SUMS]
        state, now = site.engine.state, site.engine.now()
        site.engine.commit(policies.apply_documents(state, parse_documents(MONEY, "t"), now), "root")
        site.engine.commit(nodes.reprice(state, site.engine.prices, now), "root")
        self.stopped = self._stopped()
        self.jobs = [self._job() for _ in range(4)]
        running, late, ended, _ = self.jobs
        self._job(array=ArraySpec((0, 1, 2)))
        own = site.job("ann", "p/b", name="own")
        self.own = site.engine.state.jobs[own]
        self.attempts = [site.place(job) for job in (running, late, own)]
        site.run(ended)
        self._late()
        self.waiting = site.job("ann", "p/b", name="waits", options=(ResourceRequest(None, 8_000, 1 << 30),))
        for job in self.jobs:
            record = site.engine.state.job(job)
            self.words += [job] if record is None else [job, *(attempt.id for attempt in record.attempts)]
        self._read()
        reserve(site)

    def _job(self, **spec: Any) -> str:
        return self.site.job(USER, "p/a", priority=90, **(HIDDEN | spec))

    def _late(self) -> None:
        """One of them was not started in time, so its node is in quarantine."""
        state, attempt = self.site.engine.state, self.attempts[1]
        self.site.engine.commit(overdue.overdue(state, attempt, attempt.members[0], "start"), "bursard")

    def _stopped(self) -> str:
        """One's own, which the budget above the project has stopped, and which was corrected since."""
        site = self.site
        job = site.job("ann", "p/b", options=(ResourceRequest(None, 10, 0),))
        attempt = site.place(job)
        site.start(attempt)
        why = f"budget {CANARY}-budget stops what runs: it passed 80 % of its limit {SUMS[1]} USD on settled"
        stop = StopRequested(attempt.id, EndCause.BUDGET, 0, why)
        site.engine.commit([stop], "bursard")
        site.end(attempt, EndCause.BUDGET)
        assert site.engine.state.job(job).message == why
        return job

    def _read(self) -> None:
        """What the node says of all that it runs."""
        sample = types_pb2.Sample(at=7, cpu_utilization_ratio=0.5)
        for attempt in self.attempts:
            one = sample.attempts.add(attempt_id=attempt.id, processes=3, progress_problem=f"{CANARY} line")
            one.progress.step = STEP
        sample.attempts[-1].progress.step = 5
        sample.attempts[-1].progress_problem = ""
        self.site.telemetry.add("n1", sample)

    def requests(self, name: str) -> list[Any]:
        """What is asked of a method: about everything, about what is one's own, about what is hidden."""
        own, number = self.own.id, str(self.site.engine.state.jobs[self.jobs[0]].number)
        spec = types_pb2.JobSpec(project="p/b", priority=50, nodes=1, command=["true"], on_exceed="stop")
        spec.options.add(cpu_milli=9_000)
        spec.spot_policy = "auto"
        asked: dict[str, list[Any]] = {
            "Jobs.Submit": [jobs_pb2.SubmitRequest(spec=spec)],
            "Jobs.Plan": [jobs_pb2.PlanRequest(spec=spec)],
            "Jobs.List": [jobs_pb2.ListJobsRequest(states=["all"])],
            "Jobs.Explain": [
                jobs_pb2.ExplainRequest(job=job) for job in (own, self.waiting, self.stopped, number)
            ],
            "Events.List": [events_pb2.ListEventsRequest(), events_pb2.ListEventsRequest(node="n1")],
            "Events.Doctor": [events_pb2.DoctorRequest(), events_pb2.DoctorRequest(full=True)],
            "Money.Cost": [money_pb2.CostRequest(by=[by]) for by in ("job", "user", "node", "experiment")],
            "Money.Report": [
                money_pb2.ReportRequest(kind="focus", period="2026-11", format="csv", project="p/b"),
                money_pb2.ReportRequest(kind="statement", period="2026-11", format="text", project="p/b"),
            ],
            "Money.Correct": [
                money_pb2.CorrectRequest(job=number, to_ppm=0, reason="r", dry_run=True),
                money_pb2.CorrectRequest(job=self.stopped, to_ppm=0, reason="r"),
                money_pb2.CorrectRequest(job=self.stopped, to_ppm=1_000_000_000, reason="r"),
                correct_to(self.stopped, 10**14),
            ],
            "Access.Grant": [access_pb2.GrantRequest(user="eve", role="viewer", project="p/b")],
        }
        if name in asked:
            return asked[name]
        kind = GetMessageClass(METHODS[name].input_type)
        fields = kind.DESCRIPTOR.fields_by_name
        if "job" in fields:
            return [kind(job=job) for job in (own, self.stopped, number, "last")]
        if "jobs" in fields and name != "Jobs.SubmitBatches":
            return [kind(jobs=[job]) for job in (own, number)]
        return [kind(node="n1")] if "node" in fields else [kind()]

    def seen_in(self, text: str) -> list[str]:
        """What of the hidden project is named there."""
        numbers = [self.site.engine.state.jobs[job].number for job in self.jobs[:2]]
        named = [f"job {number}" for number in numbers if re.search(rf"\bjob {number}\b", text)]
        return [word for word in self.words if word in text] + named


def correct_to(job: str, nanos: int) -> Any:
    """To an amount that no budget has."""
    request = money_pb2.CorrectRequest(job=job, reason="r")
    request.amount.nanos = str(nanos)
    return request


def reserve(site: Site) -> None:
    """The node is kept for the hidden project in an hour."""
    state, now = site.engine.state, site.engine.now()
    start = format_instant(Instant(now + HOUR_US))
    text = (
        f"kind: Reservation\nname: night\nspec: {{nodes: [n1], start: {start}, running: leave,"
        f" duration: 9h, for: {{projects: [p/a], users: [{USER}]}}, reason: {CANARY}-reason}}\n"
    )
    site.engine.commit(policies.apply_documents(state, parse_documents(text, "t"), now), "root")


@pytest.mark.parametrize("name", [name for name in METHODS if name not in CHANGES])
def test_no_answer_names_anything_of_a_project_that_the_caller_may_not_see(name: str) -> None:
    async def story(site: Site) -> None:
        world = World(site)
        for role in ROLES:
            token = site.token("ann", role, "p/b")
            for request in world.requests(name):
                most = 1 if name in FOLLOWS else 1_000_000
                (_, details), answers = await site.ask(name, request, token=token, answers_max=most)
                about = str(request)
                said = "".join(str(answer) for answer in answers) + details
                assert world.seen_in(said) == [], (role, about, said)

    play(story)


@pytest.mark.parametrize("method", ["Nodes.Get", "Nodes.List", "Nodes.Top"])
def test_a_reading_has_the_attempts_that_its_reader_may_see(method: str) -> None:
    async def story(site: Site) -> None:
        world = World(site)
        request = nodes_pb2.NodeRequest(node="n1") if method == "Nodes.Get" else None
        hidden, late, own = (attempt.id for attempt in world.attempts)
        for who, wanted in (
            (("ann", "viewer", "p/b"), {own: 5}),
            (("ann", "viewer", "p"), {hidden: STEP, late: STEP, own: 5}),
            (("vic", "viewer", ""), {hidden: STEP, late: STEP, own: 5}),
            (("vic", "viewer", "q"), {}),
        ):
            _, (answer,) = await site.ask(method, request, token=site.token(*who))
            (node,) = [answer] if method == "Nodes.Get" else answer.nodes
            assert {one.attempt_id: one.progress.step for one in node.sample.attempts} == wanted
            assert node.sample.cpu_utilization_ratio == 0.5
            assert node.jobs == 3

    play(story)


def test_a_reservation_says_whose_it_is_and_why_to_those_alone_who_may_see_its_projects() -> None:
    async def story(site: Site) -> None:
        reserve(site)
        waiting = site.job("ann", "p/b", time_limit_us=20 * HOUR_US)
        whole = (["p/a"], [USER], f"{CANARY}-reason")
        for who, wanted, called in (
            (("ann", "viewer", "p/b"), ([], [], ""), "others"),
            (("ann", "viewer", "p"), whole, f"project p/a, user {USER}"),
            (("vic", "viewer", ""), whole, f"project p/a, user {USER}"),
        ):
            token = site.token(*who)
            _, (answer,) = await site.ask("Nodes.Reservations", token=token)
            (one,) = answer.reservations
            assert (one.projects, one.users, one.reason) == wanted
            assert (one.name, list(one.nodes), one.maintenance) == ("night", ["n1"], False)
            assert view.reservation(one)["whose"] == called
            _, (told,) = await site.ask("Jobs.Explain", jobs_pb2.ExplainRequest(job=waiting), token=token)
            assert f"it is reserved by night for {called} from" in told.nodes[0].why_not
            assert f"that is reserved by night for {called} from" in told.reason.message
        spec = site.engine.state.reservations.specs["night"]
        words = "it is reserved by night for others from now"
        for identity, said in (
            (Identity(USER, None, grants=(Grant(Role.VIEWER, "p/b"),)), f"user {USER} and others"),
            (Identity("ann", None, grants=(Grant(Role.VIEWER, "p/b"),)), "others"),
        ):
            told = reserved.named(words, site.engine.state, identity)
            assert told == words.replace("others", said, 1)
            assert reserved.public(spec, identity).reason == ""

    play(story)


def test_lists_have_so_many_attempts_of_those_that_may_be_seen() -> None:
    async def story(site: Site) -> None:
        made = [site.place(site.job(USER, "p/a", options=(ResourceRequest(None, 10, 0),))) for _ in range(70)]
        own = site.place(site.job("ann", "p/b", options=(ResourceRequest(None, 10, 0),)))
        sample = types_pb2.Sample(at=7)
        for attempt in (*made, own):
            sample.attempts.add(attempt_id=attempt.id)
        site.telemetry.add("n1", sample)
        counts = {}
        for project in ("p/b", ""):
            token = site.token("ann", "viewer", project)
            _, (listed,) = await site.ask("Nodes.List", token=token)
            counts[project] = [one.attempt_id for one in listed.nodes[0].sample.attempts]
        assert counts == {"p/b": [own.id], "": [attempt.id for attempt in made[:64]]}

    play(story)


def test_the_doctor_names_what_is_overdue_to_those_who_may_see_it() -> None:
    async def story(site: Site) -> None:
        world = World(site)
        late = site.engine.state.jobs[world.jobs[1]].number
        what = "node n1 is in contact and has not started it within 2m00s"
        for who, called in (
            (("ann", "viewer", "p/b"), "another job"),
            (("ann", "viewer", "p/a"), f"job {late}"),
            (("vic", "viewer", ""), f"job {late}"),
        ):
            _, (answer,) = await site.ask("Events.Doctor", token=site.token(*who))
            found = {finding.check: finding for finding in answer.findings}
            assert found["overdue"].message == f"rank 0 of {called}: {what}"
            assert found["overdue"].remedy.startswith("look at n1: its agent's log")
            quarantined = "n1 is quarantined: it has not started in time what it was given"
            assert found["nodes"].message == quarantined

    play(story)


def test_a_finding_that_may_name_work_is_counted_for_who_may_not_see_all_of_it() -> None:
    found = check_planning("", ["job_1", "job_2"])
    assert found.for_one(True) == found
    assert "job_1" in found.message
    assert found.for_one(False).message == "2 problems; `bursar doctor` of an operator says which"
    assert found.for_one(False).remedy == found.remedy
    assert check_planning("job_1 broke", []).for_one(False).message == "nothing is planned"
    fine = Finding("disk", True, "9 GB are free")
    assert fine.for_one(False) == fine


def test_one_that_starts_when_a_hidden_one_ends_does_not_say_which() -> None:
    async def story(site: Site) -> None:
        hidden = site.place(site.job(USER, "p/a"))
        own = site.place(site.job("ann", "p/b"))
        placed = site.engine.state.jobs[own.job_id]
        number = site.engine.state.jobs[hidden.job_id].number
        own.why = f"ahead of need: it starts on n1 when job {number} ends there"
        stop = StopRequested(own.id, "preempted", 0, f"makes room for job {number}", hidden.job_id)  # type: ignore[arg-type]
        site.engine.commit([stop], "bursard")
        await site.engine.durable()
        request = jobs_pb2.ExplainRequest(job=placed.id)
        for who, called in (
            (("ann", "viewer", "p/b"), "another job"),
            (("vic", "viewer", ""), f"job {number}"),
        ):
            token = site.token(*who)
            _, (told,) = await site.ask("Jobs.Explain", request, token=token)
            why = f"ahead of need: it starts on n1 when {called} ends there"
            assert told.placed_because == told.job.attempts[0].why == why
            _, events = await site.ask("Events.List", token=token)
            (stopped,) = [event.json for event in events if event.kind == "stop-requested"]
            assert f"makes room for {called}" in stopped
            assert (hidden.job_id in stopped) is (called != "another job")

    play(story)


def test_an_event_of_one_that_waits_for_a_hidden_share_does_not_say_whose() -> None:
    async def story(site: Site) -> None:
        hidden = site.place(site.job(USER, "p/a"))
        own = site.place(site.job("ann", "p/b"))
        await site.engine.durable()
        views = site.engine.views
        rows = views.events(0, 10, EventFilter(kinds=("attempt-placed",)))
        placed = next(event for row in rows if (event := decode(row.payload)).attempt_id == own.id)  # type: ignore[union-attr]
        why = "ahead of need: it starts on n1 when job 1 ends there"
        for after in (hidden.id, "att_of_which_nobody_knows"):
            event = replace(placed, after=after, why=why)
            for role in (Grant(Role.VIEWER, "p/b"), Grant(Role.ADMIN, "p/b")):
                told = Sight(Identity("ann", None, grants=(role,)), site.engine.state).told(event, views)
                assert told == replace(event, after="", why=why.replace("job 1", "another job"))
            for role in (Grant(Role.VIEWER, "p"), Grant(Role.VIEWER, "")):
                told = Sight(Identity("ann", None, grants=(role,)), site.engine.state).told(event, views)
                assert told == event or (after != hidden.id and role.project)
        behind_own = replace(placed, after=own.id, why=why)
        sight = Sight(Identity("ann", None, grants=(Grant(Role.VIEWER, "p/b"),)), site.engine.state)
        assert sight.told(behind_own, views) == behind_own

    play(story)


def test_a_broken_promise_quotes_no_node_s_reason_that_names_a_hidden_job() -> None:
    async def story(site: Site) -> None:
        job = site.job("ann", "p/b")
        event = DeadlineBroken(job, 7, "node", "n1 takes no work (it speaks for rank 7 of att_01ab)")
        for project, named in (("p/b", False), ("", True)):
            identity = Identity("ann", None, grants=(Grant(Role.VIEWER, project),))
            told = Sight(identity, site.engine.state).told(event, site.engine.views)
            assert ("att_01ab" in str(told)) == named
            assert "n1 takes no work" in str(told)

    play(story)


def test_an_older_log_s_reason_of_a_quarantine_names_no_hidden_job() -> None:
    async def story(site: Site) -> None:
        world = World(site)
        node = site.engine.state.nodes[world.attempts[0].members[0].alloc.node_id]
        old = f"it speaks for rank 7 of {world.attempts[0].id}, which is not its own"
        site.engine.commit([NodeQuarantined(node.id, old)], "bursard")
        reasons = {}
        for project in ("p/b", ""):
            token = site.token("ann", "viewer", project)
            _, (shown,) = await site.ask("Nodes.Get", nodes_pb2.NodeRequest(node="n1"), token=token)
            reasons[project] = shown.reason
            _, (doctor,) = await site.ask("Events.Doctor", token=token)
            (found,) = [one for one in doctor.findings if one.check == "nodes"]
            assert found.message == f"n1 is quarantined: {shown.reason}"
            ask = jobs_pb2.ExplainRequest(job=world.waiting)
            _, (told,) = await site.ask("Jobs.Explain", ask, token=token)
            assert shown.reason in told.nodes[0].why_not
        assert reasons == {"p/b": "it speaks for another job, which is not its own", "": old}

    play(story)


def test_words_that_name_no_job_stay_as_they_are() -> None:
    assert unnamed("cheapest place: n1, 2 jobs wait") == "cheapest place: n1, 2 jobs wait"
    assert unnamed("rank 3 of job 12[7] in time") == "another job in time"
    assert unnamed("it ran att_01ab before") == "it ran another job before"
