"""`submit` and `run` against a fake server: what they send, print, follow and exit with."""

import json

import pytest
from verbs_server import make_ended, make_job, submitted

from bursar import errors
from bursar.cli.main import run
from bursar.v1 import jobs_pb2, types_pb2


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


def test_times_without_a_zone_are_told_by_line_to_be_of_utc(fake, capsys, tmp_path):
    (tmp_path / "a.yaml").write_text("begin_after: 2026-10-01T08:00\nrun: echo\n")
    (tmp_path / "b.sh").write_text("#!/bin/bash\n#BURSAR --begin-after 2026-10-01T08:00\necho\n")
    for file, place in (("a.yaml", "a.yaml:1: begin_after: "), ("b.sh", "b.sh:2: --begin-after: ")):
        assert run(["submit", file]) == 0
        said = f"{place}'2026-10-01T08:00' names no zone and is taken as UTC, 2026-10-01T08:00:00Z"
        assert said in capsys.readouterr().err
        assert submitted(fake).begin_after == 1_790_841_600_000_000
        assert run(["submit", "--begin-after", "2026-10-01T08:00:00Z", file]) == 0


def test_a_file_whose_times_have_zones_says_nothing_of_them(fake, capsys, tmp_path):
    (tmp_path / "a.yaml").write_text("begin_after: 2026-10-01T08:00:00+02:00\nrun: echo\n")
    assert run(["submit", "a.yaml"]) == 0
    assert "names no zone" not in capsys.readouterr().err


def test_words_behind_a_script_are_its_own(fake, capsys, tmp_path):
    (tmp_path / "s.sh").write_text("#!/bin/bash\n#SBATCH --time=60\necho $1\n")
    assert run(["submit", "s.sh", "--lr", "0.1", "42"]) == 0
    assert list(submitted(fake).arguments) == ["--lr", "0.1", "42"]
    assert submitted(fake).script == (tmp_path / "s.sh").read_text()
    assert run(["submit", "s.sh", "--follow"]) == 0
    assert list(submitted(fake).arguments) == ["--follow"]
    assert "--follow stands behind the script, so it goes to the script" in capsys.readouterr().err
    assert run(["submit", "s.sh", "--name", "x", "--", "--follow"]) == 0
    assert (submitted(fake).name, list(submitted(fake).arguments)) == ("x", ["--follow"])


def test_a_script_on_standard_input_is_read_once(fake, tmp_path, monkeypatch):
    (tmp_path / "s.sh").write_text("#!/bin/bash\necho $1\n")
    with (tmp_path / "s.sh").open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        assert run(["submit", "-", "--lr"]) == 0
    assert list(submitted(fake).arguments) == ["--lr"]


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


@pytest.mark.parametrize("flag", ["--parsable", "-q"])
def test_who_is_shown_no_plan_hears_that_a_job_can_never_start(fake, capsys, flag):
    job = types_pb2.Job(id="job_1", number=12, state="PENDING")
    job.reason.code, job.reason.message = "ExceedsNodeCapacity", "the cluster has 1 node, you ask 3"
    job.reason.remedy = "lower --nodes"
    fake.answers["Jobs/Submit"] = jobs_pb2.SubmitResponse(job=job)
    assert run(["run", flag, "--nodes", "3", "--", "true"]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 1
    assert (
        shown.err == "job 12 cannot start as things are: the cluster has 1 node, you ask 3; lower --nodes\n"
    )
    job.reason.code = "WaitingForResources"
    fake.answers["Jobs/Submit"] = jobs_pb2.SubmitResponse(job=job)
    assert run(["run", flag, "--", "true"]) == 0
    assert capsys.readouterr().err == ""


def test_script_with_directives_is_submitted_with_its_words(fake, capsys, tmp_path):
    (tmp_path / "s.sh").write_text("#!/bin/bash\n#SBATCH --job-name=sl --mem=2G\necho $1\n")
    assert run(["submit", "s.sh", "--", "one"]) == 0
    assert submitted(fake).name == "sl"
    assert list(submitted(fake).arguments) == ["one"]


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
