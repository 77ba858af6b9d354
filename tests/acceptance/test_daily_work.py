"""A day's work through the command line: scripts, arrays, dependencies, priorities, limits, GPUs, nodes."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from cluster import until

SMALL = ("--cpus", "0.1")


@pytest.fixture(scope="module")
def gpu_cluster(make_cluster: Callable[..., Any]) -> Any:
    return make_cluster(1, "--simulate-gpus", "H100:8")


# ------------------------------------------------------------------ scripts, arrays, dependencies


def test_slurm_and_bursar_directives_are_honoured_or_named_by_line(
    shared_cluster: Any, make_file: Callable[..., str]
) -> None:
    script = make_file(
        "train.sh",
        "#!/bin/bash\n#SBATCH --job-name=from-slurm --time=00:10:00\n#SBATCH --cpus-per-task=1\n"
        "#SBATCH --partition=fast\n#BURSAR --experiment exp-7 --model net\n"
        'echo words $1 $BURSAR_JOB_NUMBER\necho \'{"step": 3, "total": 4}\' > $BURSAR_PROGRESS_FILE\n',
    )
    submitted = shared_cluster.run("submit", script, "-o", "json", "--", "hello")
    job = json.loads(submitted.stdout)
    assert "train.sh:4" in submitted.stderr
    assert "--partition" in submitted.stderr
    assert (job["name"], job["time_limit_s"]) == ("from-slurm", 600)
    assert (job["experiment"], job["model"]) == ("exp-7", "net")
    done = shared_cluster.ended(job["id"])
    assert (done["state"], done["progress"]["step"], done["progress"]["total"]) == ("SUCCEEDED", 3, 4)
    assert shared_cluster.log(job["id"]) == f"words hello {job['number']}\n"


def test_an_array_runs_every_index_and_never_more_at_once_than_asked(shared_cluster: Any) -> None:
    out = shared_cluster.work / "array"
    out.mkdir()
    script = f"mkdir {out}/$BURSAR_ARRAY_INDEX; ls {out}/*.on 2>/dev/null | wc -l; sleep 0.2"
    counted = f"touch {out}/$BURSAR_ARRAY_INDEX.on; {script}; rm {out}/$BURSAR_ARRAY_INDEX.on"
    job = shared_cluster.job(*SMALL, "--array", "0-5%2", "--", "sh", "-c", counted)
    done = shared_cluster.ended(job)
    assert done["state"] == "SUCCEEDED"
    assert done["array"] == {"size": 6, "max_parallel": 2, "counts": {"SUCCEEDED": 6}}
    assert {path.name for path in out.iterdir()} == set("012345")
    seen = [int(shared_cluster.log(f"{done['number']}[{n}]")) for n in range(6)]
    assert max(seen) <= 2
    assert shared_cluster.show(f"{job}[3]")["state"] == "SUCCEEDED"


def test_a_failed_task_fails_its_array_and_the_others_still_run(shared_cluster: Any) -> None:
    job = shared_cluster.job(*SMALL, "--array", "0-3", "--", "sh", "-c", "test $BURSAR_ARRAY_INDEX != 2")
    done = shared_cluster.ended(job)
    assert done["state"] == "FAILED"
    assert done["array"]["counts"] == {"SUCCEEDED": 3, "FAILED": 1}
    shared_cluster.run("wait", job, code=1)


def test_dependencies_wait_run_or_are_cancelled_with_the_reason(shared_cluster: Any) -> None:
    gate = shared_cluster.gate()
    bad = shared_cluster.job(*SMALL, "--name", "bad", "--", "sh", "-c", f"{gate.wait}; exit 3")
    needs_ok = shared_cluster.job(*SMALL, "--after", bad, "--", "true")
    assert shared_cluster.show(needs_ok)["reason"]["code"] == "Dependency"
    text = f"resources: {{cpus: 0.1}}\ndepends_on: [{{job: {bad}, when: %s}}]\nrun: 'true'\n"
    needs_failure = shared_cluster.submit(text % "failed")
    needs_end = shared_cluster.submit(text % "finished")
    gate.open()
    assert shared_cluster.ended(needs_failure)["state"] == "SUCCEEDED"
    assert shared_cluster.ended(needs_end)["state"] == "SUCCEEDED"
    cancelled = shared_cluster.ended(needs_ok)
    assert cancelled["state"] == "CANCELLED"
    assert "ended FAILED" in cancelled["reason"]["message"]
    assert "ended FAILED" in " ".join(shared_cluster.run("explain", needs_ok).stdout.split())
    assert "no job" in shared_cluster.refused(text.replace(bad, "nobody") % "failed", code=4)


# ------------------------------------------------------------------ steering


def test_hold_update_release_requeue_cancel(shared_cluster: Any) -> None:
    job = shared_cluster.submit("held: true\nname: held-one\nresources: {cpus: 0.1}\nrun: sleep 30\n")
    assert shared_cluster.show("held-one")["reason"]["code"] == "Held"
    shared_cluster.run("update", job, "--priority", "high", "--label", "a=b")
    assert (shared_cluster.show(job)["priority"], shared_cluster.show(job)["labels"]) == (75, {"a": "b"})
    shared_cluster.run("release", job)
    shared_cluster.until_state(job, "RUNNING")
    shared_cluster.run("hold", job, code=1)
    shared_cluster.run("requeue", job)

    shared_cluster.until_attempt(job, 2, "RUNNING")
    shared_cluster.run("cancel", job)
    done = shared_cluster.ended(job)
    assert done["state"] == "CANCELLED"
    assert done["attempts"][1]["end_cause"] == "cancelled"
    shared_cluster.run("cancel", job)


def test_a_time_limit_sends_the_checkpoint_signal_first(shared_cluster: Any) -> None:
    job = shared_cluster.submit(
        "time_limit: 3s\nresources: {cpus: 0.1}\ncheckpoint: {signal: USR1, grace: 10s}\n"
        "run: |\n  trap 'echo saved; exit 9' USR1\n  echo begin\n  while true; do sleep 0.05; done\n"
    )
    done = shared_cluster.ended(job)
    assert done["state"] == "FAILED"
    assert done["attempts"][0]["end_cause"] == "time_limit"
    assert shared_cluster.log(job) == "begin\nsaved\n"


RESUMES = """
saved=$BURSAR_CHECKPOINT_DIR/step
step=$(cat "$saved" 2>/dev/null || echo 0)
trap 'echo $((step + 3)) > "$saved"; exit 1' USR1
echo "attempt $BURSAR_ATTEMPT from step $step"
[ "$step" = 0 ] || exit 0
while true; do sleep 0.05; done
"""


@pytest.mark.parametrize("stopped_by", ["requeue", "time limit"])
def test_a_job_that_is_stopped_saves_itself_and_its_next_attempt_goes_on_there(
    shared_cluster: Any, stopped_by: str
) -> None:
    limit = ["--time-limit", "2s", "--retry-on", "time-limit", "--retry-max", "1"]
    asked = ["--checkpoint-signal", "USR1", "--checkpoint-grace", "10s"]
    asked += [] if stopped_by == "requeue" else limit
    job = shared_cluster.job(*SMALL, *asked, "--", "sh", "-c", RESUMES)
    if stopped_by == "requeue":
        until(lambda: "from step 0" in shared_cluster.log(job), "it runs and heeds the signal")
        shared_cluster.run("requeue", job)
    done = shared_cluster.ended(job)
    assert (done["state"], len(done["attempts"])) == ("SUCCEEDED", 2)
    assert shared_cluster.log(job).endswith("attempt 2 from step 3\n")


def test_a_job_that_ignores_signals_is_killed_with_all_it_started(shared_cluster: Any) -> None:
    job = shared_cluster.job(
        *SMALL, "--", "sh", "-c", "trap '' TERM; setsid sleep 987 & setsid sleep 987; sleep 987"
    )
    shared_cluster.until_state(job, "RUNNING")
    shared_cluster.run("cancel", "--grace", "0s", job)
    assert shared_cluster.ended(job)["state"] == "CANCELLED"
    import subprocess

    assert subprocess.run(["pgrep", "-f", "^sleep 987"], check=False).returncode == 1, "nothing is left"


def test_the_higher_priority_goes_first_and_backfill_does_not_delay_it(shared_cluster: Any) -> None:
    gate = shared_cluster.gate()
    blocker = shared_cluster.job("--nodes", "2", "--cpus", "1", "--time-limit", "5m", "--", *gate.words)
    shared_cluster.until_state(blocker, "RUNNING")
    low = shared_cluster.job(
        "--nodes", "2", "--cpus", "1", "--priority", "low", "--time-limit", "9s", "--", "sleep", "0.1"
    )
    high = shared_cluster.job(
        "--nodes", "2", "--cpus", "1", "--priority", "high", "--time-limit", "9s", "--", "sleep", "0.1"
    )
    assert shared_cluster.show(low)["reason"]["code"] in ("BehindHigherPriority", "WaitingForResources")
    number = shared_cluster.show(high)["number"]
    assert f"ahead of it: {number} (" in shared_cluster.run("explain", low).stdout, "who is ahead, and why"
    gate.open()
    first, second = shared_cluster.ended(high), shared_cluster.ended(low)
    assert first["started_at"] < second["started_at"]


# ------------------------------------------------------------------ logs, plan, events, prices


def test_logs_follow_a_job_to_its_end_and_follow_ends_as_the_job_did(shared_cluster: Any) -> None:
    job = shared_cluster.job(*SMALL, "--", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done")
    assert shared_cluster.run("logs", "-f", job).stdout == "1\n2\n3\n"
    followed = shared_cluster.run("run", *SMALL, "--follow", "--", "sh", "-c", "echo out; exit 4", code=4)
    assert followed.stdout == "out\n"
    shared_cluster.run("run", *SMALL, "--wait", "--", "false", code=1)


def test_a_plan_shows_place_price_and_start_and_changes_nothing(
    shared_cluster: Any, make_file: Callable[..., str]
) -> None:
    before = len(shared_cluster.ask("ls", "--state", "all"))
    file = make_file("job.yaml", "time_limit: 1h\nresources: {cpus: 1}\nrun: 'true'\n")
    plan = shared_cluster.ask("plan", file)
    assert plan["starts_now"] is True
    assert plan["expected_cost"] is None
    assert float(plan["worst_case_cost"]["amount"]) > 0
    for word in ("where", "price", "worst case", "budget", "start"):
        assert word in shared_cluster.run("plan", file).stdout
    assert len(shared_cluster.ask("ls", "--state", "all")) == before


def test_events_top_offers_prices_and_statement_answer(shared_cluster: Any) -> None:
    job = shared_cluster.ended(shared_cluster.job(*SMALL, "--", "true"))
    kinds = [event["kind"] for event in shared_cluster.ask("events", "--job", job["id"])]
    assert [kind for kind in kinds if kind in ("job-submitted", "attempt-placed", "attempt-ended")] == [
        "job-submitted", "attempt-placed", "attempt-ended",
    ]  # fmt: skip
    assert {node["name"] for node in shared_cluster.ask("top")["nodes"]} == {"local-1", "local-2"}
    offers = shared_cluster.ask("offers", "--gpus", "H100:8")
    assert {offer["provider"] for offer in offers} >= {"aws", "gcp", "azure"}
    assert any(price["provider"] == "onprem" for price in shared_cluster.ask("prices", "ls"))
    text = shared_cluster.run("report", "statement", "--period", time.strftime("%Y-%m", time.gmtime())).stdout
    assert "node cost" in text
    assert [node["name"] for node in shared_cluster.ask("nodes")] == ["local-1", "local-2"]


def test_a_drained_node_takes_nothing_new_until_it_is_resumed(shared_cluster: Any) -> None:
    shared_cluster.run("node", "drain", "local-2", "--reason", "a new fan")
    shown = shared_cluster.run("node", "show", "local-2").stdout
    assert "a new fan" in shown
    job = shared_cluster.job("--nodes", "2", *SMALL, "--", "true")
    shared_cluster.until_state(job, "PENDING")
    assert "local-2" in shared_cluster.run("explain", job).stdout
    shared_cluster.run("node", "resume", "local-2")
    assert shared_cluster.ended(job)["state"] == "SUCCEEDED"


# ------------------------------------------------------------------ simulated GPUs


def test_two_halves_share_one_gpu_and_everything_says_simulated(gpu_cluster: Any) -> None:
    gate = gpu_cluster.gate()
    half = ("--gpus", "0.5", "--cpus", "0.1", "--time-limit", "5m", "--", *gate.words)
    jobs = [gpu_cluster.job(*half) for _ in range(2)]
    nodes = [gpu_cluster.until_state(job, "RUNNING")["attempts"][0]["nodes"] for job in jobs]
    devices = [[str(device) for device in node[0]["devices"]] for node in nodes]
    assert devices[0] == devices[1]
    assert len(devices[0]) == 1
    whole = gpu_cluster.ask(
        "run", "--gpus", "H100:7", "--cpus", "0.1", "--wait", "--", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES"
    )
    used = whole["attempts"][0]["nodes"][0]["devices"]
    assert len(used) == 7
    assert not set(map(str, used)) & set(devices[0])
    assert gpu_cluster.log(whole["id"]).strip() == ",".join(map(str, used))
    assert whole["simulated"] is True
    assert gpu_cluster.ask("nodes")[0]["simulated"] is True
    assert "simulated" in gpu_cluster.run("nodes").stdout.lower()
    assert "simulated" in gpu_cluster.run("show", whole["id"]).stdout
    gate.open()
    for job in jobs:
        gpu_cluster.ended(job)
    out = gpu_cluster.work / "f.csv"
    gpu_cluster.run("report", "focus", "--period", time.strftime("%Y-%m", time.gmtime()), "--out", str(out))
    with out.open(newline="") as file:
        assert {row["x_Simulated"] for row in csv.DictReader(file) if row["x_JobId"]} == {"true"}
    gpu_cluster.doctor_is_content()


def test_more_gpus_than_a_node_has_says_what_there_is(gpu_cluster: Any) -> None:
    job = gpu_cluster.job("--gpus", "H100:9", "--", "true")
    reason = gpu_cluster.show(job)["reason"]
    assert reason["code"] == "ExceedsNodeCapacity"
    assert "8" in reason["message"]
    other = gpu_cluster.job("--gpus", "A100:1", "--", "true")
    assert "H100" in gpu_cluster.show(other)["reason"]["remedy"]
    gpu_cluster.run("cancel", job, other)
