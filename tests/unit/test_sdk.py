"""What programs meet: typed arguments in, frozen results out, and a sentence for whatever is wrong."""

import asyncio
import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

import bursar
from bursar import errors, results
from bursar.cli.money import DIMENSIONS
from bursar.client import arguments, asked
from bursar.client.arguments import checked
from bursar.client.fake import FakeServer
from bursar.model import EndCause, JobSpec, JobState
from bursar.money import Money
from bursar.v1 import access_pb2, events_pb2, jobs_pb2, money_pb2, nodes_pb2, types_pb2

USD = "USD"


@pytest.fixture
def fake(tmp_path):
    with FakeServer(tmp_path / "run") as server:
        server.answers["Jobs/Submit"] = jobs_pb2.SubmitResponse(job=types_pb2.Job(id="job_1", number=1))
        yield server


@pytest.fixture
def client(fake):
    with bursar.Client(fake.url) as made:
        yield made


def asked_spec(fake):
    """The spec of the one submission so far."""
    [request] = fake.calls("Jobs/Submit")
    return request.spec


# ------------------------------------------------------------------ submitting


def test_submit_takes_a_command_and_keywords_as_the_job_file_names_them(fake, client):
    job = client.submit(
        command=["python", "train.py"],
        gpus="H100:2",
        cpus=1.5,
        memory="64GB",
        nodes=2,
        time_limit=timedelta(hours=1, minutes=30),
        max_cost=Money(2_500_000_000, USD),
        env={"SEED": 7, "LR": 1e-4, "MODE": "fast"},
        labels={"team": "x"},
        after=12,
        secrets=["HF_TOKEN"],
        project="nlp",
        priority="high",
        spot=True,
        workdir=Path("/data"),
    )
    assert (job.id, job.number) == ("job_1", 1)
    spec = asked_spec(fake)
    assert list(spec.command) == ["python", "train.py"]
    [option] = spec.options
    assert (list(option.gpus.types), option.gpus.count, option.cpu_milli) == (["H100"], 2, 1500)
    assert (option.memory_bytes, spec.nodes) == (64 * 10**9, 2)
    assert spec.time_limit_us == 5_400_000_000
    assert (spec.max_cost_nanos, spec.currency, spec.spot_policy) == (2_500_000_000, USD, "spot")
    assert dict(spec.env) == {"SEED": "7", "LR": "0.0001", "MODE": "fast"}
    assert [(each.job, each.when) for each in spec.depends_on] == [("12", "succeeded")]
    assert (list(spec.secrets), spec.project, spec.priority) == (["HF_TOKEN"], "nlp", 75)
    assert (dict(spec.labels), spec.workdir) == ({"team": "x"}, "/data")


def test_submit_takes_a_file_and_keywords_stand_above_it(fake, client, tmp_path):
    file = tmp_path / "train.yaml"
    file.write_text("name: a\ntime_limit: 1h\nrun: python train.py\n")
    client.submit(file, name="b")
    assert (asked_spec(fake).name, asked_spec(fake).time_limit_us) == ("b", 3_600_000_000)


def test_submit_takes_a_script_with_its_words_and_warns_of_what_it_does_not_honour(fake, client, tmp_path):
    file = tmp_path / "train.sh"
    file.write_text("#!/bin/bash\n#SBATCH --time=10\n#SBATCH --mail-type=END\npython train.py $1\n")
    with pytest.warns(bursar.BursarWarning) as said:
        client.submit(str(file), arguments=["data.bin"])
    assert asked_spec(fake).time_limit_us == 600_000_000
    texts = [str(each.message) for each in said]
    assert any(f"{file}:3" in text for text in texts)
    assert any("your shell's variables are not copied" in text for text in texts)
    assert {each.filename for each in said} == {__file__}


def test_a_script_is_read_once_and_the_site_is_asked_for_what_it_speaks_of(
    fake, client, tmp_path, monkeypatch
):
    read, real = [], asked.read_small_file
    monkeypatch.setattr(asked, "read_small_file", lambda path: read.append(path) or real(path))
    meaning = nodes_pb2.SlurmName(name="gpu", constraints={"pool": "dgx"})
    names = nodes_pb2.SlurmNames(document="old", partitions=[meaning])
    fake.answers["Nodes/SlurmNames"] = nodes_pb2.SlurmNamesResponse(documents=[names])
    file = tmp_path / "train.sh"
    for line, told in (("-p gpu", (1, 1)), ("-A me", (0, 1)), ("--exclude=n1", (0, 0))):
        file.write_text(f"#!/bin/bash\n#SBATCH {line}\ntrue\n")
        fake.requests.clear()
        read.clear()
        with pytest.warns(bursar.BursarWarning) as said:
            client.submit(file)
        assert (len(fake.calls("Nodes/List")), len(fake.calls("Nodes/SlurmNames"))) == told, line
        assert read == [str(file)]
        if line == "-p gpu":
            assert dict(asked_spec(fake).constraints) == {"pool": "dgx"}
            meant = f"{file}:2: -p stands for nodes whose pool is dgx (policy SlurmNames/old)"
            assert meant in [str(one.message) for one in said]


def test_submit_takes_a_spec_as_it_is(fake, client):
    client.submit(JobSpec(command=("true",), name="mine"), idempotency_key="k")
    [request] = fake.calls("Jobs/Submit")
    assert (request.spec.name, request.idempotency_key) == ("mine", "k")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "neither was given"),
        ({"command": "python train.py"}, "command must be a list, each a text or None, not str 'python"),
        ({"command": ["true"], "gpu": 1}, "takes no argument 'gpu'; did you mean 'gpus'?"),
        ({"command": ["true"], "zzz": 1}, "takes no argument 'zzz'; it takes job, command, "),
        ({"command": ["true"], "gpus": [1]}, "gpus must be a whole number or a number or a text, not list"),
        ({"command": ["true"], "nodes": True}, "nodes must be a whole number or a text, not bool True"),
        ({"command": ["true"], "cpus": float("nan")}, "cpus must be a finite number, not nan"),
        ({"command": ["true"], "name": "\udc80"}, "name has characters that are no text"),
        ({"command": ["true"], "time_limit": 60}, "time_limit must be a timedelta or a text, not int 60"),
        ({"command": ["true"], "env": {"A": None}}, "env must be a dictionary from a text to a text or"),
        ({"command": ["true"], "max_cost_per": "day"}, "max_cost_per must be one of job, task, not str"),
        ({"command": ["true"], "job": "a.yaml"}, "both were given"),
        ({"job": JobSpec(command=("true",)), "name": "x"}, "name cannot be set beside a JobSpec"),
        ({"command": ["true"], "arguments": ["x"]}, "arguments are the words of a script"),
        ({"job": "no/such.yaml"}, "no/such.yaml cannot be read: No such file"),
        ({"command": ["true"], "gpus": -1}, "gpus: "),
        ({"command": ["true"], "time_limit": "soon"}, "time_limit: "),
        ({"command": ["true"], "labels": {"a b": "c"}}, "labels: "),
        ({"command": []}, "is empty"),
    ],
)
def test_what_is_wrong_with_a_submission_is_said_by_its_argument(fake, client, arguments, said):
    with pytest.raises(errors.InvalidRequest) as raised:
        client.submit(**arguments)
    assert said in raised.value.message
    assert "--" not in raised.value.message
    assert not fake.requests


def test_a_wrong_argument_is_a_type_error_too(client):
    with pytest.raises(TypeError, match=r"did you mean 'states'"):
        list(client.list(state="RUNNING"))


def test_plan_takes_what_submit_takes(fake, client):
    fake.answers["Jobs/Plan"] = jobs_pb2.PlanResponse(
        starts_now=True,
        rate_nanos_per_hour=2_000_000_000,
        currency="EUR",
        expected_nanos=-1,
        worst_case_nanos=4_000_000_000,
        time_limit_us=7_200_000_000,
        budgets=[jobs_pb2.BudgetAfter(budget="b", limit_nanos=5, room_after_nanos=1, hard=True)],
    )
    plan = client.plan(command=["true"], gpus=1)
    assert plan.starts_now
    assert plan.rate_per_hour == Money(2_000_000_000, "EUR")
    assert (plan.cost_expected, plan.cost_at_most) == (None, Money(4_000_000_000, "EUR"))
    assert plan.time_limit == timedelta(hours=2)
    assert [(b.name, b.enforcement, b.available_after) for b in plan.budgets] == [
        ("b", results.Enforcement.HARD, Money(1, "EUR"))
    ]
    assert plan.tasks == 1
    assert plan.task_cost_at_most is None


# ------------------------------------------------------------------ results


WHOLE = types_pb2.Job(
    id="job_7",
    number=7,
    user="ann",
    state="FAILED",
    reason=types_pb2.Reason(code="Held", message="m", remedy="r", facts={"a": "1"}),
    spec=types_pb2.JobSpec(
        name="n", project="p", nodes=1, max_cost_nanos=9, currency=USD, time_limit_us=1_500_000
    ),
    submitted_at=1_767_225_600_000_001,
    exit_code=0,
    currency=USD,
    settled_nanos=3,
    accrued_nanos=5,
    estimate_expected_nanos=-1,
    estimate_max_nanos=8,
    rate_nanos_per_hour=-1,
    attempts=[
        types_pb2.Attempt(
            id="att_1",
            number=1,
            state="ENDED",
            end_cause="node_lost",
            members=[
                types_pb2.Member(rank=1, node="b"),
                types_pb2.Member(
                    rank=0,
                    node="a",
                    devices=[types_pb2.DeviceShare(index=3, milli=500)],
                    rate_nanos_per_hour=4,
                    price_id="pr",
                    held_us=2_000_000,
                ),
            ],
        )
    ],
    end=types_pb2.End(
        cause="node_lost",
        exit_code=0,
        message="its node was lost",
        failed_tasks=[types_pb2.FailedTask(index=2, cause="failed", signal=9)],
        failed_total=1,
    ),
    array=types_pb2.ArrayStatus(size=2, counts={"RUNNING": 2}),
    parent_id="job_1",
    array_index=4,
)


def test_a_job_has_money_instants_enums_and_none_for_what_is_not_known(fake, client):
    fake.answers["Jobs/Get"] = WHOLE
    job = client.get(7)
    assert [request.job for request in fake.calls("Jobs/Get")] == ["7"]
    assert job.state is JobState.FAILED
    assert (job.ended, job.succeeded) == (True, False)
    assert (job.cost, job.cost_settled) == (Money(5, USD), Money(3, USD))
    assert (job.cost_expected, job.cost_at_most, job.max_cost) == (None, Money(8, USD), Money(9, USD))
    assert job.rate_per_hour is None
    assert job.submitted_at == datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    assert (job.started_at, job.exit_code, job.time_limit) == (None, 0, timedelta(seconds=1.5))
    assert (job.reason.code, job.reason.facts) == ("Held", {"a": "1"})
    [attempt] = job.attempts
    assert (attempt.end_cause, attempt.exit_code) == (EndCause.NODE_LOST, None)
    assert [(p.rank, p.node, p.rate_per_hour) for p in attempt.places] == [
        (0, "a", Money(4, USD)),
        (1, "b", None),
    ]
    assert (attempt.places[0].devices, attempt.places[0].gpus) == ((3,), 0.5)
    assert attempt.places[0].held == timedelta(seconds=2)
    assert (job.end.cause, job.end.rank, job.end.exit_code, job.end.signal) == ("node_lost", None, 0, None)
    assert [(task.index, task.signal, task.exit_code) for task in job.end.failed_tasks] == [(2, 9, None)]
    assert job.array.counts == {JobState.RUNNING: 2}
    assert (job.array_job, job.array_index) == ("job_1", 4)


def test_results_are_frozen_and_compare_by_value(fake, client):
    fake.answers["Jobs/Get"] = WHOLE
    job = client.get("last")
    assert job == client.get(job)
    with pytest.raises(AttributeError):
        job.name = "other"


def test_a_word_of_a_newer_server_is_a_sentence(fake, client):
    fake.answers["Jobs/Get"] = types_pb2.Job(id="job_1", state="DREAMING")
    with pytest.raises(errors.NotBuilt, match=r"'DREAMING'.*install a newer one"):
        client.get("1")


def test_wait_answers_the_whole_job_and_wait_all_each_by_id(fake, client):
    fake.answers["Jobs/Watch"] = [types_pb2.Job(id="job_7", state="SUCCEEDED", left_out=["attempts"])]
    fake.answers["Jobs/Get"] = WHOLE
    assert len(client.wait("last").attempts) == 1
    seen = []
    ended = client.wait_all(["7"], seen=seen.append)
    assert [job.state for job in ended.values()] == [JobState.SUCCEEDED]
    assert [job.id for job in seen] == ["job_7"]


def test_async_wait_is_the_same(fake):
    fake.answers["Jobs/Watch"] = [types_pb2.Job(id="job_7", state="SUCCEEDED")]
    fake.answers["Jobs/Get"] = WHOLE

    async def use():
        async with bursar.AsyncClient(fake.url) as client:
            with pytest.raises(
                bursar.WrongArgument, match=r"wait\(\) takes no argument 'timeout'.*timeout_s"
            ):
                await client.wait(7, timeout=3)
            return await client.wait(7), [job.id async for job in client.watch(7)]

    job, watched = asyncio.run(use())
    assert (job.id, watched) == ("job_7", ["job_7"])


def test_logs_text_is_the_whole_log_with_what_is_no_text_replaced(fake, client):
    fake.answers["Jobs/Logs"] = [jobs_pb2.LogChunk(data=b"a\xc3"), jobs_pb2.LogChunk(data=b"\xa9\xff\n")]
    assert client.logs_text("7", rank=1) == "aé\ufffd\n"
    assert [request.rank for request in fake.calls("Jobs/Logs")] == [1]


def test_submit_many_says_of_each_what_became_of_it(fake, client):
    answers = iter(
        [
            jobs_pb2.SubmitResponse(job=types_pb2.Job(id="job_1", number=1), existed=True),
            jobs_pb2.SubmitResponse(error="BudgetExceeded", message="too dear", facts={"limit": "5"}),
        ]
    )
    fake.answers["Jobs/SubmitMany"] = lambda request: next(answers)
    first, second = client.submit_many([JobSpec(command=("true",)), (JobSpec(command=("true",)), "k")])
    assert (first.id, first.existed, first.error) == ("job_1", True, None)
    assert isinstance(second.error, errors.BudgetExceeded)
    assert (second.error.message, second.error.facts) == ("too dear", {"limit": "5"})


def test_filters_are_checked_and_take_instants_results_and_any_case(fake, client):
    since = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    assert list(client.list(states="running", since=since, project="nlp", limit=5)) == []
    [request] = fake.calls("Jobs/List")
    assert (list(request.states), request.since) == (["RUNNING"], 1_767_225_600_000_000)
    with pytest.raises(bursar.WrongArgument, match=r"since must be a datetime, not str '2026"):
        list(client.list(since="2026-01-01"))
    with pytest.raises(bursar.WrongArgument, match=r"limit must be 0 to 4294967295, not -1"):
        list(client.list(limit=-1))
    with pytest.raises(bursar.WrongArgument, match=r"by must be one of project, user, .* not str 'projects'"):
        client.cost(by="projects")
    with pytest.raises(bursar.WrongArgument, match=r"events.. takes no .*did you mean 'kinds'"):
        list(client.events(kind="x"))


def test_update_reads_its_changes_by_the_rules_of_the_job_file(fake, client):
    client.update(7, gpus="A100:2", time_limit=timedelta(hours=2), max_cost="3 USD", labels={"a": "b"})
    [request] = fake.calls("Jobs/Update")
    assert (request.job, request.gpus.count, request.time_limit_us) == ("7", 2, 7_200_000_000)
    assert (request.max_cost_nanos, request.currency, dict(request.labels)) == (
        3_000_000_000,
        USD,
        {"a": "b"},
    )
    with pytest.raises(errors.InvalidRequest, match=r"^priority: "):
        client.update(7, priority="urgent")
    with pytest.raises(bursar.WrongArgument, match=r"nothing to change"):
        client.update(7)


def test_cost_has_its_dimensions_by_name(fake, client):
    fake.answers["Money/Cost"] = money_pb2.CostResponse(
        rows=[money_pb2.CostRow(keys=["nlp", "ann"], nanos=7, held_us=1_000_000, unknown_us=5, jobs=2)],
        total=money_pb2.CostRow(nanos=7),
        currency="EUR",
    )
    cost = client.cost(by=["project", "user"])
    [row] = cost.rows
    assert (row.keys, row.cost, row.held) == (
        {"project": "nlp", "user": "ann"},
        Money(7, "EUR"),
        timedelta(seconds=1),
    )
    assert (row.unknown, cost.total.cost) == (timedelta(microseconds=5), Money(7, "EUR"))


# ------------------------------------------------------------------ every method, every message


def methods():
    return [
        (name, method)
        for name, method in vars(bursar.Client).items()
        if not name.startswith("_") and name not in ("close", "address")
    ]


def test_no_argument_of_any_method_is_taken_unseen(fake):
    """Each argument of each method, given something that nothing takes."""
    with bursar.Client(fake.url) as client:
        for name, method in methods():
            for parameter in list(inspect.signature(method).parameters.values())[1:]:
                if parameter.kind is parameter.VAR_KEYWORD:
                    given = {"no_such_argument": 1}
                else:
                    given = {parameter.name: object()}
                with pytest.raises(bursar.WrongArgument) as raised:
                    getattr(client, name)(**given)
                assert f"{name}()" in raised.value.message, (name, parameter)
            with pytest.raises(bursar.WrongArgument, match=r"by place"):
                getattr(client, name)(*["x"] * 9)
    assert not fake.requests


@pytest.mark.parametrize(
    "given", [{"server": 7}, {"token": b"x"}, {"patience_s": "long"}, {"sever": "unix:///x"}]
)
def test_a_client_of_wrong_arguments_is_refused_with_a_sentence(given):
    with pytest.raises(TypeError):
        bursar.Client(**given)


def test_a_required_argument_that_is_missing_is_named(client):
    with pytest.raises(bursar.WrongArgument, match=r"get\(\) needs job: a text or a whole number or a job"):
        client.get()


def test_checked_does_not_look_into_what_is_made_on_the_way():
    class Door:
        @checked
        def take(self, *, things: Mapping[str, int]) -> int:
            return len(things)

    assert Door().take(things={"a": 1}) == 1
    with pytest.raises(bursar.WrongArgument, match=r"a dictionary from a text to a whole number"):
        Door().take(things={"a": "1"})


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        ("nodes", nodes_pb2.ListNodesResponse(nodes=[types_pb2.Node(state="up")])),
        ("node", types_pb2.Node(state="quarantined", rate_nanos_per_hour=-1)),
    ],
)
def test_nodes_have_states_and_unknown_prices(fake, client, call, answer):
    fake.answers["Nodes/List" if call == "nodes" else "Nodes/Get"] = answer
    found = client.nodes() if call == "nodes" else (client.node("a"),)
    assert [node.state.value for node in found] == ["up" if call == "nodes" else "quarantined"]
    assert [node.rate_per_hour for node in found] == [Money(0, USD) if call == "nodes" else None]


def test_each_remaining_method_answers_its_result(fake, client):
    fake.answers["Events/Server"] = events_pb2.ServerResponse(version="1", ready=True, counters={"a": 2})
    fake.answers["Events/Doctor"] = events_pb2.DoctorResponse(
        findings=[events_pb2.Finding(check="L1", ok=True)]
    )
    fake.answers["Events/List"] = [events_pb2.Event(seq=3, json='{"a": 1}'), events_pb2.Event(json="no json")]
    fake.answers["Events/SaveSnapshot"] = [
        events_pb2.SnapshotChunk(data=b"a"),
        events_pb2.SnapshotChunk(data=b"b"),
    ]
    fake.answers["Money/Report"] = [money_pb2.ReportChunk(data=b"x"), money_pb2.ReportChunk(data=b"y")]
    fake.answers["Money/Budgets"] = money_pb2.BudgetsResponse(
        budgets=[money_pb2.Budget(name="b", enforcement="soft", limit_nanos=9, settled_nanos=4, held_nanos=2)]
    )
    fake.answers["Money/Prices"] = money_pb2.PricesResponse(
        prices=[money_pb2.Price(gpus=0, rate_nanos_per_hour=5)]
    )
    fake.answers["Policies/List"] = money_pb2.ListPoliciesResponse(policies=[money_pb2.Policy(kind="Budget")])
    fake.answers["Access/Grants"] = access_pb2.GrantsResponse(grants=[access_pb2.RoleGrant(user="ann")])
    fake.answers["Access/Secrets"] = access_pb2.SecretsResponse(secrets=[access_pb2.Secret(name="s")])
    fake.answers["Nodes/Tokens"] = nodes_pb2.TokensResponse(tokens=[nodes_pb2.NodeToken(id="t")])
    fake.answers["Nodes/Token"] = nodes_pb2.TokenResponse(token="secret")
    fake.answers["Nodes/Top"] = [nodes_pb2.TopResponse(nodes_total=4)]
    fake.answers["Jobs/Hold"] = jobs_pb2.JobsResponse(jobs=[types_pb2.Job(id="job_1")])
    fake.answers["Jobs/Explain"] = jobs_pb2.ExplainResponse(ahead_total=3, suggestion="")
    assert (client.server().ready, client.server().counters) == (True, {"a": 2})
    assert [finding.check for finding in client.doctor()] == ["L1"]
    assert [event.data for event in client.events(limit=2)] == [{"a": 1}, "no json"]
    assert (client.save_snapshot(), client.report("focus", "2026-11")) == (b"ab", b"xy")
    assert client.budget("b").available == Money(3, USD)
    assert client.budgets()[0].enforcement is results.Enforcement.SOFT
    assert client.prices(gpus="H100:8")[0].rate_per_gpu_hour is None
    assert (client.policies()[0].kind, client.grants()[0].user, client.secrets()[0].name) == (
        "Budget",
        "ann",
        "s",
    )
    assert client.node_tokens("n")[0].expires_at is None
    assert client.node_token("n", first_use_within_s=60).token == "secret"
    assert fake.calls("Nodes/Token")[0].ttl_us == 60_000_000
    assert [picture.nodes_total for picture in client.top()] == [4]
    assert [job.id for job in client.hold("1")] == ["job_1"]
    assert client.explain("1").suggestion_rate_per_hour is None
    with pytest.raises(bursar.WrongArgument, match=r"grace_s must be 0 or more seconds, not -1"):
        client.cancel("1", grace_s=-1)
    client.cancel(["1", 2], grace_s=1.5)
    assert (list(fake.calls("Jobs/Cancel")[0].jobs), fake.calls("Jobs/Cancel")[0].grace_us) == (
        ["1", "2"],
        1_500_000,
    )


NOT_CARRIED = {
    "Job.spec": "its public parts are fields of the result",
    "Job.gpu_energy_source": "gpu_energy_joules is None without one",
    "Job.budgets_total": "left_out names what a list lacks",
    "Member.sample": "live readings are `top`'s",
    "Member.gpus": "likewise",
    "Member.gpu_memory_share_bytes": "likewise",
    "Member.device_use": "`advise` and `report waste` say what it means",
    "Attempt.pull_us": "a part of the time before it began, of images",
    "Node.currency": "in each amount",
    "Job.currency": "likewise",
}
"""Fields of the wire that no result carries, and why."""


@pytest.mark.parametrize(
    ("message", "result", "renamed"),
    [
        (
            types_pb2.Job,
            results.Job,
            {
                "settled_nanos": "cost_settled",
                "held_nanos": "cost_held",
                "accrued_nanos": "cost",
                "estimate_expected_nanos": "cost_expected",
                "estimate_max_nanos": "cost_at_most",
                "rate_nanos_per_hour": "rate_per_hour",
                "parent_id": "array_job",
                "cpu_us": "cpu_time",
                "elapsed_us": "elapsed",
                "gpu_energy_millijoules": "gpu_energy_joules",
            },
        ),
        (
            types_pb2.Attempt,
            results.Attempt,
            {
                "members": "places",
                "time_limit_us": "time_limit",
                "wanted_time_limit_us": "wanted_time_limit",
                "leased_us": "leased",
                "elapsed_us": "elapsed",
                "why": "placed_because",
            },
        ),
        (
            types_pb2.Member,
            results.Place,
            {"cpu_milli": "cpus", "rate_nanos_per_hour": "rate_per_hour", "held_us": "held"},
        ),
    ],
)
def test_a_field_of_the_wire_is_carried_or_left_out_for_a_reason(message, result, renamed):
    names = set(result.__struct_fields__)
    lost = {
        field.name
        for field in message.DESCRIPTOR.fields
        if renamed.get(narrow := field.name.removesuffix("_wide"), narrow) not in names
        and f"{message.DESCRIPTOR.name}.{field.name}" not in NOT_CARRIED
    }
    assert lost == set()


# ------------------------------------------------------------------ for users


EXAMPLE = """
from datetime import timedelta

import bursar
from bursar import Job, JobState, Money


def spend(job: Job) -> Money | None:
    return job.cost


with bursar.Client() as client:
    job = client.submit(command=["python", "train.py"], gpus=1, time_limit=timedelta(hours=2))
    done = client.wait(job, timeout_s=3600.0)
    if done.state is JobState.SUCCEEDED:
        print(spend(done), client.logs_text(done))
    for each in client.list(states=["RUNNING"], project="nlp"):
        print(each.number, each.rate_per_hour)


async def main() -> None:
    async with bursar.AsyncClient() as other:
        job = await other.submit("train.yaml", nodes=2)
        async for change in other.watch(job, until_terminal=True):
            print(change.state.value)
"""
WRONG = """
import bursar

client = bursar.Client()
client.submit(command=["x"], gpu=1)
client.get("1").name = "x"
client.list(states=3)
reveal: int = client.get("1").cost
"""


def type_check(tmp_path, text):
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(text))
    root = Path(__file__).parents[2]
    settings = tmp_path / "mypy.ini"
    settings.write_text("[mypy]\nstrict = true\n[mypy-bursar.v1.*]\nignore_errors = true\n")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(settings),
        "--cache-dir",
        str(tmp_path / "c"),
    ]
    environ = {**os.environ, "MYPYPATH": str(root / "sdk")}
    done = subprocess.run(
        [*command, "--explicit-package-bases", "--follow-imports=silent", str(file)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environ,
        cwd=tmp_path,
    )
    return done.stdout


def test_a_users_program_passes_mypy_strict_and_its_mistakes_do_not(tmp_path):
    assert "Success" in type_check(tmp_path, EXAMPLE)
    wrong = type_check(tmp_path, WRONG)
    for line, said in ((5, "gpu"), (6, "read-only"), (7, "states"), (8, "Money")):
        assert any(f":{line}: error" in each and said in each for each in wrong.splitlines()), (line, wrong)


def test_import_bursar_loads_neither_grpc_nor_protobuf_nor_msgspec():
    heavy = ("grpc", "google.protobuf", "msgspec", "click")
    probe = f"import sys, bursar; print([each for each in {heavy!r} if each in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_the_command_line_does_not_load_the_clients_for_programs():
    """Results and checks of arguments are for those who import bursar."""
    ours = ("bursar.results", "bursar.codec.results", "bursar.client.arguments")
    probe = (
        "import sys, bursar.cli.main, bursar.client.sync;"
        f"print([each for each in {ours!r} if each in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_everything_that_bursar_offers_is_there():
    assert [name for name in bursar.__all__ if getattr(bursar, name, None) is None] == []
    with pytest.raises(AttributeError, match=r"no attribute 'Cleint'"):
        bursar.Cleint  # noqa: B018


def test_a_wrong_state_is_refused_at_the_call_before_anything_is_sent(fake, client):
    with pytest.raises(bursar.WrongArgument, match=r"states: 'RUNING' is no state; did you mean 'RUNNING'\?"):
        client.list(states="RUNING")
    with pytest.raises(bursar.WrongArgument, match=r"states: 'x' is no state; there are: ALL, PENDING"):
        client.list(states=["pending", "x"])
    assert not fake.requests
    fake.answers["Jobs/List"] = jobs_pb2.ListJobsResponse()
    assert list(client.list(states=["pending", "Running"])) == []
    assert list(client.list(states="all")) == []
    assert list(fake.calls("Jobs/List")[0].states) == ["PENDING", "RUNNING"]


@pytest.mark.parametrize(
    ("unknown", "settled", "cost"), [(True, 0, None), (True, 5, Money(5, USD)), (False, 0, Money(0, USD))]
)
def test_what_ran_at_an_unknown_price_alone_has_no_cost(fake, client, unknown, settled, cost):
    fake.answers["Jobs/Get"] = types_pb2.Job(
        id="job_1", state="SUCCEEDED", cost_unknown=unknown, settled_nanos=settled, currency=USD
    )
    assert client.get(1).cost == cost


def test_cost_takes_the_dimensions_of_the_command_line_and_says_them_once() -> None:
    """What `bursar cost --by` groups by, the client does too."""
    said = " or ".join(["one of " + ", ".join(DIMENSIONS), "label:NAME", "a list of them"])
    assert arguments._words(arguments.Dimension | Sequence[arguments.Dimension]) == said
