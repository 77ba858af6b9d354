"""The verbs for jobs against a fake server: what they send, print and exit with."""

import json

import pytest
from verbs_server import AT, make_ended, make_job

from bursar import errors
from bursar.cli.main import run
from bursar.v1 import jobs_pb2, types_pb2


def test_job_object_has_the_fields_and_types_of_the_contract(fake, capsys):
    assert run(["show", "last", "-o", "json"]) == 0
    job = json.loads(capsys.readouterr().out)
    wanted = (
        "id number name type state reason project user experiment model model_version labels "
        "priority nodes resources time_limit_s deadline submitted_at started_at finished_at "
        "exit_code attempts cost rate_per_hour budgets lineage"
    )
    assert not set(wanted.split()) - job.keys()
    assert job["cost"]["settled"] == {"amount": "12.345678900", "currency": "USD"}
    assert job["cost"].keys() >= {"settled", "held", "estimate_expected", "estimate_max", "currency"}
    assert job["submitted_at"] == "2026-11-21T04:00:00Z"
    assert job["time_limit_s"] == 90.5
    assert job["resources"]["gpus"] == 2
    assert job["resources"]["cpus"] == 16
    assert job["resources"]["memory_bytes"] == 128_000_000_000
    assert job["labels"] == {"team": "a"}
    assert job["reason"] is None
    assert job["array"] is None
    attempt = job["attempts"][0]
    assert attempt["end_cause"] == "completed"
    assert [(n["node"], n["devices"], n["address"]) for n in attempt["nodes"]] == [
        ("gpu-01", [0, 1], "10.0.0.1"),
        ("gpu-02", [0, 1], "10.0.0.1"),
    ]


def test_show_reads_well(fake, capsys):
    assert run(["show", "12"]) == 0
    text = capsys.readouterr().out
    for part in ("job 12", "SUCCEEDED", "nlp/finetune", "12.35 USD", "1m30s", "gpu-01[gpu 0,1]"):
        assert part in text


def test_ls_sends_its_filters(fake, capsys):
    fake.answers["Jobs/List"] = jobs_pb2.ListJobsResponse(jobs=[make_job()])
    words = "ls --state pending,RUNNING --project nlp --user anna --experiment e --model m"
    assert run([*words.split(), "--label", "a=b", "--since", "2026-11-01", "--limit", "7"]) == 0
    request = fake.calls("Jobs/List")[0]
    assert list(request.states) == ["PENDING", "RUNNING"]
    assert (request.project, request.user, request.experiment, request.model) == ("nlp", "anna", "e", "m")
    assert dict(request.labels) == {"a": "b"}
    assert request.since == 1_793_491_200_000_000
    assert request.page_size == 7
    assert run(["ls", "--state", "all", "--tasks", "12"]) == 0
    assert len(fake.calls("Jobs/List")[1].states) == 7
    assert fake.calls("Jobs/List")[1].tasks_of == "12"
    assert run(["ls"]) == 0
    assert not fake.calls("Jobs/List")[2].states


@pytest.mark.parametrize(
    "words",
    [
        ["ls", "--state", "runing"],
        ["ls", "--label", "x"],
        ["ls", "--since", "yesterdayish"],
        ["update", "12"],
        ["update", "12", "--priority", "101"],
        ["update", "12", "--max-cost", "5"],
        ["update", "12", "--time-limit", "5"],
        ["wait", "12", "--timeout", "soon"],
        ["cost", "--by", "projct"],
        ["cost", "--by", "user,user"],
        ["report", "waist"],
        ["report", "focus", "--period", "2026-11", "--out", "x.xls"],
        ["events", "-f", "-o", "json"],
        ["ls", "-o", "xml"],
        ["ls", "--nope"],
        ["shw", "1"],
        ["show"],
        ["completion", "tcsh"],
        ["attach", "1"],
        ["forecast", "--by", "x"],
        ["backup"],
    ],
    ids=" ".join,
)
def test_wrong_command_line_exits_2_with_a_message_and_sends_nothing(fake, capsys, words):
    assert run(words) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert shown.out == ""
    assert not fake.requests


def test_update_sends_only_what_changes(fake, capsys):
    fake.answers["Jobs/Update"] = make_job()
    assert run(["update", "12", "--priority", "high", "--max-cost", "5.5 USD"]) == 0
    request = fake.calls("Jobs/Update")[0]
    assert request.priority == 75
    assert request.max_cost_nanos == 5_500_000_000
    assert not request.HasField("name")
    assert not request.HasField("time_limit_us")


@pytest.mark.parametrize("verb", ["hold", "release", "requeue", "cancel"])
def test_change_verbs_take_many_jobs(fake, capsys, verb):
    answer = jobs_pb2.JobsResponse(jobs=[make_job(state="CANCELLED")])
    fake.answers[f"Jobs/{verb.capitalize()}"] = answer
    assert run([verb, "1", "last"]) == 0
    assert list(fake.calls(f"Jobs/{verb.capitalize()}")[0].jobs) == ["1", "last"]
    assert capsys.readouterr().out == "job 12 job_7h2k9m3n4p5q6r7s CANCELLED\n"


def test_cancel_by_filter_says_how_many_before_it_acts(fake, capsys):
    fake.answers["Jobs/List"] = jobs_pb2.ListJobsResponse(jobs=[make_job(), make_job(id="job_b", number=13)])
    fake.answers["Jobs/Cancel"] = jobs_pb2.JobsResponse(jobs=[make_job(state="CANCELLED")])
    words = ["--user", "anna", "--project", "nlp", "--name", "ft", "--state", "pending"]
    assert run(["cancel", *words]) == 0
    asked = fake.calls("Jobs/List")[-1]
    assert (asked.user, asked.project, asked.name, list(asked.states)) == ("anna", "nlp", "ft", ["PENDING"])
    assert list(fake.calls("Jobs/Cancel")[-1].jobs) == ["job_7h2k9m3n4p5q6r7s", "job_b"]
    assert capsys.readouterr().err == "2 jobs to cancel\n"
    assert run(["cancel", "--name", "ft"]) == 0
    assert list(fake.calls("Jobs/List")[-1].states) == ["PENDING", "STARTING", "RUNNING", "STOPPING"]


def test_cancel_by_filter_ends_nothing_where_nothing_is_found(fake, capsys):
    fake.answers["Jobs/List"] = jobs_pb2.ListJobsResponse()
    assert run(["cancel", "--user", "ann"]) == 0
    assert capsys.readouterr().err == "0 jobs to cancel\n"
    assert run(["cancel", "--name", "none"]) == 4
    assert "no job named 'none' matches that has not ended" in capsys.readouterr().err
    assert not fake.calls("Jobs/Cancel")


def test_why_a_job_is_cancelled_goes_with_the_request(fake):
    fake.answers["Jobs/Cancel"] = jobs_pb2.JobsResponse(jobs=[make_job(state="CANCELLED")])
    assert run(["cancel", "1", "--reason", "wrong data"]) == 0
    assert fake.calls("Jobs/Cancel")[-1].reason == "wrong data"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name the jobs, or choose them by --name"),
        (["12", "--name", "a"], "give either jobs (12) or filters, not both"),
        (["--state", "failed"], "a job that is failed has ended already"),
    ],
)
def test_cancel_needs_jobs_or_filters_and_not_both(fake, capsys, words, said):
    assert run(["cancel", *words]) == 2
    assert said in capsys.readouterr().err


def test_wait_exits_1_when_one_failed_and_0_when_all_succeeded(fake, capsys):
    assert run(["wait", "12"]) == 0
    fake.answers["Jobs/Watch"] = [make_ended(), make_ended("CANCELLED", id="job_b")]
    assert run(["wait", "12", "13"]) == 1


def test_wait_past_its_timeout_exits_124(fake, capsys):
    import threading

    done = threading.Event()

    def never(_):
        yield make_job()
        done.wait(20)

    fake.answers["Jobs/Watch"] = never
    assert run(["wait", "12", "--timeout", "0.2"]) == 124
    done.set()


def test_not_found_exits_4(fake, capsys):
    fake.answers["Jobs/Get"] = errors.NotFound("there is no job 'x'")
    assert run(["show", "x"]) == 4
    assert capsys.readouterr().err == "error: there is no job 'x'\n"


def test_unreachable_server_exits_5_with_the_remedy(tmp_path, capsys):
    assert run(["ls", "--server", f"unix://{tmp_path}/no.sock"]) == 5
    assert "bursar up" in capsys.readouterr().err
    assert run(["--server", f"unix://{tmp_path}/no.sock", "ls"]) == 5


def test_explain_tells_reason_nodes_budgets_and_the_way_out(fake, capsys):
    job = make_job()
    fake.answers["Jobs/Explain"] = jobs_pb2.ExplainResponse(
        job=job,
        reason=types_pb2.Reason(code="BudgetCommitted", message="12 USD left", remedy="wait"),
        nodes=[jobs_pb2.NodeVerdict(node="gpu-01", why_not="0 of 2 GPUs free")],
        ahead=["job_a"],
        ahead_total=3,
        suggestion="--time-limit 1h",
        suggestion_rate_nanos_per_hour=2_000_000_000,
        expected_start_at=AT,
    )
    assert run(["explain", "12"]) == 0
    text = capsys.readouterr().out
    for part in (
        "BudgetCommitted: 12 USD left",
        "remedy: wait",
        "0 of 2 GPUs free",
        "job_a and 2 more",
        "--time-limit 1h (2.00 USD/h)",
        "expected start: not before the 3 jobs ahead of it; room for it any moment",
    ):
        assert part in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert run(["explain", "12", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["reason"]["code"] == "BudgetCommitted"
