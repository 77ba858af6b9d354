"""A server that plays its part for the verbs: one job of two nodes, what it costs, and how it ends."""

import pytest

from bursar.client.fake import FakeServer
from bursar.codec.spec import spec_to_wire
from bursar.model import JobSpec
from bursar.resources import GpuRequest, ResourceRequest
from bursar.v1 import jobs_pb2, types_pb2

AT = 1_795_233_600_000_000
MEMBERS = [
    types_pb2.Member(
        rank=rank,
        node=f"gpu-0{rank + 1}",
        devices=[types_pb2.DeviceShare(index=i, milli=1000) for i in range(2)],
        address="10.0.0.1",
        cpu_milli=16_000,
        memory_bytes=128_000_000_000,
        rate_nanos_per_hour=1_500_000_000,
        price_id="p1",
    )
    for rank in (1, 0)
]


def make_job(**fields):
    spec = JobSpec(
        name="ft",
        project="nlp/finetune",
        labels=(("team", "a"),),
        nodes=2,
        options=(ResourceRequest(GpuRequest(2, ("H100",)), 16_000, 128_000_000_000),),
        time_limit_us=90_500_000,
        command=("python", "train.py"),
    )
    given = {
        "id": "job_7h2k9m3n4p5q6r7s",
        "number": 12,
        "user": "anna",
        "state": "PENDING",
        "spec": spec_to_wire(spec),
        "submitted_at": AT,
        "currency": "USD",
        "settled_nanos": 12_345_678_900,
        "estimate_max_nanos": 20_000_000_000,
    }
    return types_pb2.Job(**(given | fields))


def make_ended(state="SUCCEEDED", **fields):
    attempt = types_pb2.Attempt(
        id="att_1",
        number=1,
        state="ENDED",
        members=MEMBERS,
        started_at=AT,
        finished_at=AT + 10**6,
        exit_code=fields.get("exit_code", 0),
        end_cause="completed",
    )
    given = {"started_at": AT, "finished_at": AT + 10**6, "attempts": [attempt]}
    return make_job(state=state, **(given | fields))


@pytest.fixture
def fake(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with FakeServer(tmp_path / "run") as server:
        monkeypatch.setenv("BURSAR_SERVER", server.url)
        server.answers["Jobs/Plan"] = jobs_pb2.PlanResponse(
            starts_now=True,
            members=MEMBERS,
            rate_nanos_per_hour=3_000_000_000,
            currency="USD",
            expected_nanos=1_000_000_000,
            worst_case_nanos=2_000_000_000,
            time_limit_us=90_000_000,
            budgets=[
                jobs_pb2.BudgetAfter(
                    budget="nlp", limit_nanos=5_000_000_000, room_after_nanos=500_000_000, hard=True
                )
            ],
        )
        server.answers["Jobs/Submit"] = jobs_pb2.SubmitResponse(job=make_job())
        server.answers["Jobs/Get"] = make_ended()
        server.answers["Jobs/Watch"] = [make_job(state="RUNNING"), make_ended()]
        yield server


def submitted(fake):
    return fake.calls("Jobs/Submit")[-1].spec
