"""The JSON objects of the contract, from wire messages."""

import json

import pytest

from bursar.codec import results, view
from bursar.v1 import events_pb2, jobs_pb2, money_pb2, nodes_pb2, types_pb2

MESSAGES = [
    (view.job, types_pb2.Job()),
    (view.node, types_pb2.Node()),
    (view.plan, jobs_pb2.PlanResponse()),
    (view.explain, jobs_pb2.ExplainResponse()),
    (view.budget, money_pb2.Budget()),
    (view.price, money_pb2.Price()),
    (view.policy, money_pb2.Policy()),
]


@pytest.mark.parametrize(("show", "message"), MESSAGES, ids=lambda value: getattr(value, "__name__", ""))
def test_empty_message_is_shown_without_a_guess(show, message):
    shown = show(message)
    assert json.loads(json.dumps(shown)) == shown
    assert "1970" not in json.dumps(shown)


def test_fraction_of_a_gpu_is_a_number_and_whole_ones_are_whole():
    half = types_pb2.ResourceRequest(gpus=types_pb2.GpuRequest(count=1, milli=500), cpu_milli=1500)
    whole = types_pb2.ResourceRequest(gpus=types_pb2.GpuRequest(count=8, milli=1000, types=["H100"]))
    shown = view.resources([half, whole])
    assert (shown["gpus"], shown["cpus"]) == (0.5, 1.5)
    assert shown["any_of"][1]["gpus"] == 8
    assert isinstance(shown["any_of"][1]["gpus"], int)
    assert view.resources([])["gpus"] == 0


def test_array_and_its_task_name_each_other():
    job = types_pb2.Job(id="job_1")
    job.array.size = 100
    job.array.max_parallel = 10
    job.array.counts["RUNNING"] = 10
    assert view.job(job)["array"] == {"size": 100, "max_parallel": 10, "counts": {"RUNNING": 10}}
    task = types_pb2.Job(id="job_2", parent_id="job_1", array_index=7)
    assert view.job(task)["lineage"] == {"array_job": "job_1", "array_index": 7}
    assert view.job(task)["array"] is None


def test_unknown_price_is_null_never_zero():
    member = types_pb2.Member(node="a")
    job = types_pb2.Job(cost_unknown=True, attempts=[types_pb2.Attempt(members=[member])])
    shown = view.job(job)
    assert shown["rate_per_hour"] is None
    assert shown["cost"]["unknown"] is True
    assert shown["attempts"][0]["nodes"][0]["rate_per_hour"] is None
    plan = view.plan(jobs_pb2.PlanResponse(rate_nanos_per_hour=-1))
    assert plan["rate_per_hour"] is plan["expected_cost"] is plan["worst_case_cost"] is None


@pytest.mark.parametrize("state", ["PENDING", "SUCCEEDED", "FAILED", "CANCELLED"])
def test_what_does_not_run_has_no_price_also_by_the_word_of_an_older_server(state):
    for nanos in (0, -1):
        job = types_pb2.Job(state=state, rate_nanos_per_hour=nanos)
        assert view.job(job)["rate_per_hour"] is None
        assert results.job(job).rate_per_hour is None


def test_of_what_runs_0_is_a_price_and_minus_1_is_none():
    array = types_pb2.ArrayStatus(counts={"RUNNING": 1})
    for job in (types_pb2.Job(state="RUNNING"), types_pb2.Job(state="PENDING", array=array)):
        assert view.job(job)["rate_per_hour"]["amount"] == "0.000000000"
        assert results.job(job).rate_per_hour.nanos == 0
        job.rate_nanos_per_hour = -1
        assert view.job(job)["rate_per_hour"] is results.job(job).rate_per_hour is None
    ended = types_pb2.ArrayStatus(counts={"SUCCEEDED": 3, "RUNNING": 0})
    assert view.job(types_pb2.Job(state="PENDING", array=ended))["rate_per_hour"] is None


def test_exit_code_zero_is_not_unknown():
    assert view.job(types_pb2.Job(exit_code=0))["exit_code"] == 0
    assert view.job(types_pb2.Job())["exit_code"] is None


def test_money_keeps_its_last_nano_at_any_size():
    assert view.money(2**63 - 1, "USD")["amount"] == "9223372036.854775807"
    assert view.money(-1, "EUR") == {"amount": "-0.000000001", "currency": "EUR"}


def test_durations_are_seconds_and_whole_when_they_are():
    assert view.seconds(1_500_000) == 1.5
    assert repr(view.seconds(2_000_000)) == "2"


def test_a_row_says_what_it_lacks_and_how_many_there_are_in_all():
    row = types_pb2.Job(budgets_total=40, left_out=["command", "env"])
    row.budgets.add(budget="b")
    shown = view.job(row)
    assert (shown["budgets_total"], len(shown["budgets"])) == (40, 1)
    assert shown["left_out"] == ["command", "env"]
    assert view.job(types_pb2.Job())["left_out"] == []
    assert view.top(nodes_pb2.TopResponse(jobs=[row], jobs_total=7))["jobs_total"] == 7
    assert view.policy(money_pb2.Policy(text="kind: Budget"))["text"] == "kind: Budget"
    assert view.policy(money_pb2.Policy())["text"] is None


def test_a_code_or_a_message_alone_is_a_reason_and_a_finding_has_four_words():
    assert view.reason(types_pb2.Reason(code="Held"))["code"] == "Held"
    assert view.reason(types_pb2.Reason(message="held"))["message"] == "held"
    found = [events_pb2.Finding(check="a", ok=True, message="m", remedy="r"), events_pb2.Finding(check="b")]
    assert view.findings(found) == [
        {"check": "a", "ok": True, "message": "m", "remedy": "r"},
        {"check": "b", "ok": False, "message": "", "remedy": None},
    ]


def test_what_costs_nothing_says_so_and_what_has_no_price_says_nothing():
    free = money_pb2.Price(gpus=8)
    assert view.price(free)["rate_per_gpu_hour"] == {"amount": "0.000000000", "currency": "USD"}
    assert view.rate(-1, "EUR") is None
    assert view.rate(0, "EUR") == {"amount": "0.000000000", "currency": "EUR"}
    unknown = money_pb2.Price(gpus=8, rate_per_gpu_nanos_per_hour=-1)
    assert view.price(unknown)["rate_per_gpu_hour"] is None
    assert view.seconds(3_000_000) == 3
    assert isinstance(view.seconds(3_000_000), int)
    assert isinstance(view.count(2_000), int)
    job = types_pb2.Job(cost_unknown=True, rate_nanos_per_hour=5)
    assert view.job(job)["rate_per_hour"]["amount"] == "0.000000005"
