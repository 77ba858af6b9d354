"""The verbs against a fake server: what they send, print and exit with."""

import ast
import json
import os
import subprocess
import sys

import pytest

from bursar import errors
from bursar.cli import money
from bursar.cli.main import run
from bursar.client.fake import FakeServer
from bursar.codec.spec import spec_to_wire
from bursar.model import JobSpec
from bursar.resources import GpuRequest, ResourceRequest
from bursar.v1 import events_pb2, jobs_pb2, money_pb2, nodes_pb2, types_pb2

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


# ------------------------------------------------------------------ submit and run


def test_run_shows_the_price_before_it_submits_and_prints_the_id(fake, capsys):
    assert run(["run", "--nodes", "2", "--gpus", "H100:2", "--", "echo", "--gpus", "x"]) == 0
    shown = capsys.readouterr()
    assert "job_7h2k9m3n4p5q6r7s" in shown.out
    for part in ("gpu-01", "3.00 USD/h", "1.00 USD", "2.00 USD", "0.5000 USD left of 5.00", "now"):
        assert part in shown.err
    assert "next: bursar" in shown.err
    assert list(submitted(fake).command) == ["echo", "--gpus", "x"]
    assert submitted(fake).nodes == 2
    assert [name for name, _ in fake.requests] == ["Jobs/Plan", "Jobs/Submit"]


def test_quiet_submit_prints_the_id_alone_and_skips_the_plan(fake, capsys):
    assert run(["run", "-q", "--", "true"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "job_7h2k9m3n4p5q6r7s\n"
    assert shown.err == ""
    assert not fake.calls("Jobs/Plan")


def test_json_submit_prints_the_job_object_alone(fake, capsys):
    assert run(["run", "-o", "json", "--", "true"]) == 0
    assert json.loads(capsys.readouterr().out)["number"] == 12


def test_job_file_and_standard_input_are_read(fake, capsys, tmp_path, monkeypatch):
    (tmp_path / "job.yaml").write_text("name: a\nresources: {cpus: 2}\nrun: echo hi\n")
    assert run(["submit", "job.yaml", "--idempotency-key", "k"]) == 0
    assert submitted(fake).name == "a"
    assert submitted(fake).workdir == str(tmp_path)
    assert fake.calls("Jobs/Submit")[-1].idempotency_key == "k"
    with (tmp_path / "job.yaml").open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        assert run(["submit", "-"]) == 0
    assert submitted(fake).name == "a"


def test_flags_stand_above_the_file_wherever_they_are_written(fake, tmp_path):
    (tmp_path / "job.yaml").write_text("name: a\ntime_limit: 1h\nrun: echo hi\n")
    for words in (["--time-limit", "2m", "job.yaml"], ["job.yaml", "--time-limit", "2m"]):
        assert run(["submit", *words]) == 0
        assert submitted(fake).time_limit_us == 120 * 10**6
    (tmp_path / "s.sh").write_text("#!/bin/bash\n#SBATCH --time=60\necho $1\n")
    words = ["--time-limit", "2m", "--array", "0-3", "--after", "12", "--env", "LR=1e-4", "s.sh"]
    assert run(["submit", *words]) == 0
    spec = submitted(fake)
    assert (spec.time_limit_us, spec.array.ranges[0].stop, spec.env["LR"]) == (120 * 10**6, 4, "1e-4")
    assert spec.depends_on[0].job == "12"


def test_words_behind_a_script_are_its_own(fake, capsys, tmp_path):
    (tmp_path / "s.sh").write_text("#!/bin/bash\n#SBATCH --time=60\necho $1\n")
    assert run(["submit", "s.sh", "--lr", "0.1", "42"]) == 0
    assert "\nset -- --lr 0.1 42\n" in submitted(fake).script
    assert run(["submit", "s.sh", "--follow"]) == 0
    assert "\nset -- --follow\n" in submitted(fake).script
    assert "--follow stands behind the script, so it goes to the script" in capsys.readouterr().err
    assert run(["submit", "s.sh", "--name", "x", "--", "--follow"]) == 0
    assert (submitted(fake).name, "set -- --follow" in submitted(fake).script) == ("x", True)


def test_a_script_on_standard_input_is_read_once(fake, tmp_path, monkeypatch):
    (tmp_path / "s.sh").write_text("#!/bin/bash\necho $1\n")
    with (tmp_path / "s.sh").open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        assert run(["submit", "-", "--lr"]) == 0
    assert "set -- --lr" in submitted(fake).script


def test_a_job_file_takes_no_words(fake, capsys, tmp_path):
    (tmp_path / "job.yaml").write_text("run: echo hi\n")
    assert run(["submit", "job.yaml", "extra"]) == 2
    assert "takes no words of its own; put 'extra' into its `run`" in capsys.readouterr().err


def test_what_is_not_copied_is_said_at_each_submission(fake, capsys, tmp_path):
    (tmp_path / "s.sh").write_text("#!/bin/bash\n#SBATCH --time=60\necho $1\n")
    assert run(["submit", "s.sh"]) == 0
    assert "your shell's variables are not copied, as with --export=NONE" in capsys.readouterr().err
    assert submitted(fake).env["SLURM_SUBMIT_HOST"]


def test_a_variable_without_a_value_has_that_of_the_shell(fake, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "s3cret")
    assert run(["run", "--env", "HF_TOKEN", "--env", "A=", "--", "true"]) == 0
    assert dict(submitted(fake).env) == {"HF_TOKEN": "s3cret", "A": ""}
    assert run(["run", "--env", "NO_SUCH_THING", "--", "true"]) == 2
    assert "your shell has no variable of that name" in capsys.readouterr().err


def test_parsable_prints_the_number_alone(fake, capsys):
    assert run(["run", "--parsable", "--", "true"]) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("12\n", "")


def test_script_with_directives_is_submitted_with_its_words(fake, capsys, tmp_path):
    (tmp_path / "s.sh").write_text("#!/bin/bash\n#SBATCH --job-name=sl --mem=2G\necho $1\n")
    assert run(["submit", "s.sh", "--", "one"]) == 0
    assert submitted(fake).name == "sl"
    assert "one" in submitted(fake).script or "one" in list(submitted(fake).command)


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"nmae: a\nrun: x\n", "name"),
        (b"\xff\xfe", "UTF-8"),
        (b"run: x\n" + b"#" * 70_000, "64 kB"),
        (b"run: [1\n", "job.yaml:"),
    ],
)
def test_wrong_job_file_exits_2_and_sends_nothing(fake, capsys, tmp_path, content, hint):
    (tmp_path / "job.yaml").write_bytes(content)
    assert run(["submit", "job.yaml"]) == 2
    assert hint in capsys.readouterr().err
    assert not fake.requests


def test_missing_job_file_exits_2(fake, capsys):
    assert run(["submit", "nope.yaml"]) == 2
    assert "nope.yaml" in capsys.readouterr().err


def test_budget_refusal_exits_3_with_numbers_and_remedy(fake, capsys):
    fake.answers["Jobs/Submit"] = errors.BudgetExceeded(
        "budget nlp can never pay for this",
        {"limit": "5.00 USD", "settled": "4.00 USD", "needed": "2.00 USD", "remedy": "ask for less"},
    )
    assert run(["run", "--", "true"]) == 3
    shown = capsys.readouterr()
    for part in (
        "budget nlp",
        "limit: 5.00 USD",
        "settled: 4.00 USD",
        "needed: 2.00 USD",
        "remedy: ask for less",
    ):
        assert part in shown.err
    assert shown.out == ""


def test_key_with_another_body_exits_2(fake):
    fake.answers["Jobs/Submit"] = errors.KeyConflict("key k was used for another job")
    assert run(["run", "--idempotency-key", "k", "--", "true"]) == 2


def test_dry_run_is_plan_and_submits_nothing(fake, capsys, tmp_path):
    (tmp_path / "job.yaml").write_text("run: echo hi\n")
    assert run(["run", "--dry-run", "-o", "json", "--", "true"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert run(["plan", "job.yaml", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert first["worst_case_cost"] == {"amount": "2.000000000", "currency": "USD"}
    assert first["budgets"][0]["available_after"]["amount"] == "0.500000000"
    assert [node["node"] for node in first["nodes"]] == ["gpu-01", "gpu-02"]
    assert not fake.calls("Jobs/Submit")


def test_unknown_price_is_never_shown_as_zero(fake, capsys):
    fake.answers["Jobs/Plan"] = jobs_pb2.PlanResponse(rate_nanos_per_hour=-1)
    assert run(["run", "--dry-run", "--", "true"]) == 0
    text = capsys.readouterr().out
    assert text.count("unknown") >= 3
    assert "0.00" not in text


@pytest.mark.parametrize(("state", "code"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELLED", 1)])
def test_submit_wait_exits_1_unless_the_job_succeeded(fake, capsys, state, code):
    fake.answers["Jobs/Watch"] = [make_job(state="RUNNING"), make_ended(state)]
    assert run(["run", "--wait", "-o", "json", "--", "true"]) == code
    assert json.loads(capsys.readouterr().out)["state"] == state


def test_follow_prints_the_log_and_exits_as_the_job_did(fake, capsysbinary):
    fake.answers["Jobs/Watch"] = [make_ended("FAILED", exit_code=7)]
    fake.answers["Jobs/Logs"] = [
        jobs_pb2.LogChunk(data=b"one\n"),
        jobs_pb2.LogChunk(data=b"\x1b[0mtwo\n", offset=4, dropped_bytes=3),
    ]
    assert run(["run", "--follow", "--", "false"]) == 7
    shown = capsysbinary.readouterr()
    assert shown.out == b"one\n\x1b[0mtwo\n"
    assert b"3 bytes dropped" in shown.err


def test_follow_goes_on_with_the_next_attempt(fake, capsysbinary):
    """1. Attempt 1 ends. 2. The job waits again. 3. Attempt 2 runs and succeeds."""
    first = make_ended("PENDING")
    second = make_ended()
    second.attempts.add().CopyFrom(second.attempts[0])
    second.attempts[1].number = 2
    rounds = iter([[first], [first, second], [second]])
    fake.answers["Jobs/Watch"] = lambda _: next(rounds)
    fake.answers["Jobs/Logs"] = lambda r: [jobs_pb2.LogChunk(data=b"log %d\n" % r.attempt)]
    assert run(["run", "--follow", "--", "true"]) == 0
    assert capsysbinary.readouterr().out == b"log 1\nlog 2\n"


def test_follow_repeats_nothing_after_a_restart_of_the_server(fake, capsysbinary, monkeypatch):
    """1. The stream breaks after four bytes. 2. It is opened again from the fourth on."""
    monkeypatch.setattr("bursar.cli.follow.PAUSE_S", 0)

    def logs(request):
        if request.offset == 0:
            yield jobs_pb2.LogChunk(data=b"one\n")
            raise errors.ServerUnavailable("restarting")
        yield jobs_pb2.LogChunk(data=b"two\n", offset=request.offset)

    fake.answers["Jobs/Watch"] = [make_ended()]
    fake.answers["Jobs/Logs"] = logs
    assert run(["logs", "-f", "last"]) == 0
    assert capsysbinary.readouterr().out == b"one\ntwo\n"
    assert [request.offset for request in fake.calls("Jobs/Logs")] == [0, 4]


def test_follow_does_not_go_with_json(fake, capsys):
    assert run(["run", "--follow", "-o", "json", "--", "true"]) == 2
    assert not fake.requests


# ------------------------------------------------------------------ jobs


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
        "expected start: any moment",
    ):
        assert part in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert run(["explain", "12", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["reason"]["code"] == "BudgetCommitted"


# ------------------------------------------------------------------ cluster, money, policy


def test_nodes_mark_simulated_devices(fake, capsys):
    device = types_pb2.Device(index=0, type="H100", uuid="SIM-0", simulated=True)
    node = types_pb2.Node(
        id="node_1",
        state="up",
        rate_nanos_per_hour=-1,
        facts=types_pb2.NodeFacts(name="local-1", cpu_milli=2000, devices=[device]),
        devices_free=[types_pb2.DeviceShare(index=0, milli=500)],
    )
    fake.answers["Nodes/List"] = nodes_pb2.ListNodesResponse(nodes=[node])
    fake.answers["Nodes/Get"] = node
    assert run(["nodes"]) == 0
    text = capsys.readouterr().out
    assert "0.5/1 H100 (simulated)" in text
    assert "unknown" in text
    assert run(["nodes", "-o", "json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert row["rate_per_hour"] is None
    assert row["simulated"] is True
    assert row["gpus_free"] == 0.5
    assert run(["node", "show", "local-1"]) == 0


def test_drain_sends_what_the_operator_vouches_for(fake, capsys):
    assert run(["node", "drain", "a", "--reason", "fan", "--stop", "--confirm-dead"]) == 0
    request = fake.calls("Nodes/Drain")[0]
    assert (request.node, request.reason, request.stop, request.confirm_dead) == ("a", "fan", True, True)


def test_cost_rows_carry_their_keys_and_a_total(fake, capsys):
    row = money_pb2.CostRow(keys=["nlp", "anna"], nanos=1_000_000_001, unknown_us=5_000_000)
    fake.answers["Money/Cost"] = money_pb2.CostResponse(rows=[row], total=row, currency="USD")
    assert run(["cost", "--by", "project,user", "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["rows"][0]["project"] == "nlp"
    assert document["rows"][0]["user"] == "anna"
    assert document["total"]["cost"] == {"amount": "1.000000001", "currency": "USD"}
    assert document["total"]["unknown_price_s"] == 5
    assert run(["cost", "--by", "project,user"]) == 0
    assert "5s at an unknown price" in capsys.readouterr().out
    assert list(fake.calls("Money/Cost")[0].by) == ["project", "user"]


def test_budget_shows_what_is_available(fake, capsys):
    fake.answers["Money/Budgets"] = money_pb2.BudgetsResponse(
        budgets=[
            money_pb2.Budget(
                id="bud_1",
                name="nlp",
                period="month",
                enforcement="hard",
                limit_nanos=5 * 10**9,
                settled_nanos=1,
                held_nanos=10**9,
                currency="USD",
                period_start=AT,
            )
        ]
    )
    assert run(["budget", "ls", "-o", "json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert row["available"]["amount"] == "3.999999999"
    assert row["period_end"] is None
    assert run(["budget", "show", "nlp"]) == 0
    fake.answers["Money/Budgets"] = money_pb2.BudgetsResponse()
    assert run(["budget", "show", "nlp"]) == 4


def test_report_is_written_whole_or_not_at_all(fake, capsys, tmp_path):
    fake.answers["Money/Report"] = [money_pb2.ReportChunk(data=d) for d in (b"a,b\n", b"1,2\n")]
    assert run(["report", "focus", "--period", "2026-11", "--out", "f.csv"]) == 0
    assert (tmp_path / "f.csv").read_bytes() == b"a,b\n1,2\n"
    request = fake.calls("Money/Report")[0]
    assert (request.kind, request.format, request.focus_version) == ("focus", "csv", "1.4")

    def breaks(_):
        yield money_pb2.ReportChunk(data=b"a")
        raise errors.NotBuilt("that version")

    fake.answers["Money/Report"] = breaks
    assert run(["report", "focus", "--period", "2026-11", "--out", "g.csv"]) == 2
    assert sorted(p.name for p in tmp_path.glob("*.csv*")) == ["f.csv"]
    assert not list(tmp_path.glob(".*.part"))


def test_policy_apply_sends_each_file_of_a_folder(fake, capsys, tmp_path):
    (tmp_path / "p").mkdir()
    for name in ("a.yaml", "b.yml", "c.txt"):
        (tmp_path / "p" / name).write_text(f"kind: Budget # {name}\n")
    fake.answers["Policies/Apply"] = money_pb2.ApplyResponse(
        policies=[money_pb2.Policy(kind="Budget", name="x", version=1, change="created")]
    )
    assert run(["policy", "apply", "p", "-q"]) == 0
    assert capsys.readouterr().out == "x\n"
    assert [s.name for s in fake.calls("Policies/Apply")[0].sources] == ["p/a.yaml", "p/b.yml"]
    (tmp_path / "empty").mkdir()
    assert run(["policy", "apply", "empty"]) == 2


def test_policy_diff_exits_1_only_when_something_changes(fake, capsys, tmp_path):
    (tmp_path / "a.yaml").write_text("kind: Budget\nname: x\nlimit: 2\n")
    text = "kind: Budget\nname: x\nlimit: 2\n"
    fresh = money_pb2.Policy(kind="Budget", name="x", change="changed", text=text)
    fake.answers["Policies/Check"] = money_pb2.ApplyResponse(policies=[fresh])
    fake.answers["Policies/Get"] = money_pb2.Policy(text="kind: Budget\nname: x\nlimit: 1\n")
    assert run(["policy", "diff", "a.yaml"]) == 1
    text = capsys.readouterr().out
    assert "-limit: 1" in text
    assert "+limit: 2" in text
    fresh.change = "unchanged"
    fake.answers["Policies/Check"] = money_pb2.ApplyResponse(policies=[fresh])
    assert run(["policy", "diff", "a.yaml"]) == 0
    fake.answers["Policies/Check"] = errors.PolicyInvalid("a.yaml:3: limit: no currency")
    assert run(["policy", "check", "a.yaml"]) == 2


def test_doctor_exits_1_when_an_invariant_is_broken(fake, capsys):
    good = events_pb2.Finding(check="L1", ok=True, message="sums to zero")
    fake.answers["Events/Doctor"] = events_pb2.DoctorResponse(findings=[good])
    assert run(["doctor"]) == 0
    bad = events_pb2.Finding(check="B1", message="passed by 1", remedy="tell us")
    fake.answers["Events/Doctor"] = events_pb2.DoctorResponse(findings=[good, bad])
    assert run(["doctor", "-o", "json"]) == 1
    shown = capsys.readouterr()
    assert [row["ok"] for row in json.loads(shown.out[shown.out.index("[") :])] == [True, False]
    assert "tell us" in shown.err


def test_events_follow_prints_each_as_it_comes(fake, capsys):
    fake.answers["Events/List"] = [
        events_pb2.Event(seq=1, at=AT, kind="JobSubmitted", subject="job_1", json='{"a": 1}'),
        events_pb2.Event(seq=2, at=AT, kind="JobEnded", subject="job_1", json="not json\x1b"),
    ]
    assert run(["events", "-f", "-o", "jsonl"]) == 0
    assert [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()] == [1, 2]
    assert run(["events", "-f", "--job", "1"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_top_prints_once_into_a_pipe(fake, capsys):
    fake.answers["Nodes/Top"] = [
        nodes_pb2.TopResponse(jobs=[make_job(state="RUNNING")]),
        nodes_pb2.TopResponse(),
    ]
    assert run(["top"]) == 0
    assert capsys.readouterr().out.count("live job") == 1
    assert not fake.calls("Nodes/Top")[0].follow


def test_top_says_when_more_jobs_are_live_than_it_shows(fake, capsys):
    job = make_job(state="RUNNING")
    for total, said in ((1, "1 live job\n"), (7, "1 live job of 7\n")):
        fake.answers["Nodes/Top"] = [nodes_pb2.TopResponse(jobs=[job], jobs_total=total)]
        assert run(["top"]) == 0
        assert capsys.readouterr().out.startswith(f"0 nodes, {said}")


@pytest.mark.parametrize("words", [
    ["offers", "--gpus", "H100:8"], ["prices", "ls"], ["prices", "history"], ["policy", "ls"],
    ["nodes"], ["ls"], ["budget", "ls"], ["events"], ["cost"], ["doctor"], ["config"], ["version"],
], ids=" ".join)  # fmt: skip
@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv", "yaml"])
def test_every_listing_speaks_every_format_also_when_empty(fake, capsys, words, form):
    assert run([*words, "-o", form]) == 0
    out = capsys.readouterr().out
    if form == "json":
        json.loads(out)


# ------------------------------------------------------------------ as a process


def test_reader_that_goes_away_is_no_error(fake):
    fake.answers["Jobs/List"] = jobs_pb2.ListJobsResponse(jobs=[make_job()] * 400)
    command = f"{sys.executable} -m bursar.cli.main ls | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("NUMBER")


def test_interrupt_exits_130(fake, monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("bursar.client.sync.WireClient.get", lambda *_: interrupted(_))
    assert run(["show", "1"]) == 130


HEAVY = (
    "asyncio", "asyncio.events", "ssl", "grpc", "grpc.aio", "google.protobuf", "msgspec", "yaml",
    "yaml.reader", "google.protobuf.internal.python_message", "google.protobuf.text_format", "pickle", "bz2",
    "bursar.jobfile", "bursar.jobfile.flags", "bursar.jobfile.slurm",
    "bursar.codec.spec", "bursar.model.check",
    *(f"bursar.v1.{name}_pb2" for name in ("access", "events", "money", "nodes")),
)  # fmt: skip
"""What costs a command milliseconds of processor time each; gRPC brings asyncio and ssl unless put off."""

WIRE = {"grpc", "google.protobuf", "msgspec"}
JOB = WIRE | {"bursar.codec.spec", "bursar.model.check", "bursar.jobfile"}


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        ("--help", set()),
        ("version", {"msgspec"}),
        ("status --state-dir /nonexistent -o json", {"msgspec"}),
        ("ls", WIRE),
        ("logs 1", WIRE),
        ("wait 1", WIRE),
        ("nodes", WIRE | {"bursar.v1.nodes_pb2"}),
        ("cost", WIRE | {"bursar.v1.money_pb2"}),
        ("submit -q -", JOB | {"yaml", "yaml.reader"}),
        ("run -q -- true", JOB | {"bursar.jobfile.flags"}),
    ],
)
def test_command_loads_no_more_than_it_uses(fake, words, needed):
    """Not timed: machines differ, modules do not. One that waits for its first use is not loaded."""
    probe = (
        "import sys; from bursar.cli import start\ntry:\n start.main()\nexcept SystemExit: pass\n"
        f"print([n for n in {HEAVY!r} if type(sys.modules.get(n)).__name__ == 'module'])"
    )
    command = [sys.executable, "-c", probe, *words.split()]
    job = "# as #sbatch would have it\nrun: 'true'\n"
    done = subprocess.run(command, input=job, capture_output=True, text=True, check=True, env=os.environ)
    loaded = set(ast.literal_eval(done.stdout.splitlines()[-1]))
    assert loaded - needed == set()


def test_with_two_clusters_here_a_verb_says_which_one_it_means(fake, tmp_path, monkeypatch, capsys):
    from bursar.client import address

    for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    fake.answers["Nodes/List"] = nodes_pb2.ListNodesResponse()
    with FakeServer(tmp_path / "other") as other:
        other.answers["Nodes/List"] = nodes_pb2.ListNodesResponse()
        address.note_cluster(fake.url, "/first")
        address.note_cluster(other.url, "/second")
        assert run(["nodes", "-o", "json"]) == 0
        assert capsys.readouterr().err == "", "BURSAR_SERVER names one"
        monkeypatch.delenv("BURSAR_SERVER")
        assert run(["nodes", "-o", "json", "--server", fake.url]) == 0
        assert capsys.readouterr().err == ""
        assert run(["nodes", "-o", "json"]) == 0
        said = capsys.readouterr().err
        assert said.startswith("note: 2 clusters run here; this is the newest, /second (--server or ")
    assert run(["nodes", "-o", "json"]) == 0
    assert capsys.readouterr().err == "", "one of them is gone"


@pytest.mark.parametrize("kind", ["statement", "focus", "waste"])
def test_a_report_without_a_period_is_of_this_month_and_says_so(fake, capsys, monkeypatch, kind):
    monkeypatch.setattr(money, "now", lambda: 1_795_233_600_000_000)
    fake.answers["Money/Report"] = [money_pb2.ReportChunk(data=b"x")]
    assert run(["report", kind]) == 0
    assert fake.calls("Money/Report")[0].period == "2026-11"
    assert capsys.readouterr().err == "--period 2026-11, which has not ended\n"
