"""Wrong words, files and numbers: each gets its exit code, its place and its remedy, and nothing breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

RUN = "run: 'true'\n"

# text of a job file, and what the refusal must say
WRONG_JOBS = {
    "unknown key": (RUN + "nmae: x\n", ["2:1", "nmae", "name"]),
    "unknown key below": (RUN + "resources: {gpu: 1}\n", ["resources", "gpu", "gpus"]),
    "wrong size unit": (RUN + "resources: {memory: 12XB}\n", ["2:", "memory", "GB"]),
    "wrong duration unit": (RUN + "time_limit: 3 parsecs\n", ["2:", "time_limit", "24h"]),
    "bare duration": (RUN + "time_limit: later\n", ["time_limit"]),
    "negative cost": (RUN + "budget: {max_cost: -5 USD}\n", ["2:", "max_cost", "more than 0"]),
    "cost without currency": (RUN + "budget: {max_cost: 5}\n", ["max_cost", "USD"]),
    "price per what": (RUN + "budget: {max_price: 5 USD}\n", ["max_price", "/h"]),
    "negative cpus": (RUN + "resources: {cpus: -1}\n", ["cpus"]),
    "no gpus of that kind": (RUN + "resources: {gpus: 'H100:eight'}\n", ["gpus"]),
    "fraction above one": (RUN + "resources: {gpus: 1.5}\n", ["gpus"]),
    "anchor": ("env: &a {X: '1'}\n" + RUN, ["1:6", "anchor"]),
    "alias": ("env: &a {X: '1'}\nlabels: *a\n" + RUN, ["alias"]),
    "too long": (RUN + "comment: " + "x" * 66_000 + "\n", ["64"]),
    "empty": ("", ["empty"]),
    "no yaml": ("run: [\n", ["2:1", "not YAML"]),
    "a list": ("- run: x\n", ["1:1"]),
    "two documents": (RUN + "---\n" + RUN, ["second document"]),
    "duplicate key": (RUN + RUN, ["2:1", "run", "twice"]),
    "no command": ("name: x\n", ["run"]),
    "malformed project": (RUN + "project: a//b\n", ["2:", "project"]),
    "project upward": (RUN + "project: ../x\n", ["project"]),
    "priority out of range": (RUN + "priority: 101\n", ["priority", "100"]),
    "priority word": (RUN + "priority: highest\n", ["priority", "high"]),
    "no nodes": (RUN + "nodes: 0\n", ["nodes"]),
    "bad array": (RUN + "array: 9-0\n", ["array"]),
    "array of millions": (RUN + "array: 0-99999999\n", ["array"]),
    "bad signal": (RUN + "checkpoint: {signal: BANG}\n", ["signal"]),
    "bad retry cause": (RUN + "retry: {on: [rain]}\n", ["retry", "rain"]),
    "bad env name": (RUN + "env: {'A B': x}\n", ["env"]),
    "bad time": (RUN + "begin_after: tomorrow\n", ["begin_after"]),
    "bad spot": (RUN + "spot_policy: cheap\n", ["spot_policy", "spot"]),
    "bad type": (RUN + "type: batch\n", ["type", "job"]),
    "idle policy without GPUs": (RUN + "idle_policy: {time_window: 30m}\n", ["idle_policy", "GPUs"]),
    "service without a name": (RUN + "type: service\n", ["name", "service"]),
    "control character": ("run: 'a\x01'\n", ["1:"]),
}
NOT_BUILT = {
    "mig": "resources: {gpus: {count: 1, mig: 1g.10gb}}",
}


@pytest.mark.parametrize("what", WRONG_JOBS)
def test_a_wrong_job_file_is_refused_with_place_and_remedy(shared_cluster: Any, what: str) -> None:
    text, fragments = WRONG_JOBS[what]
    said = shared_cluster.refused(text)
    for fragment in fragments:
        assert fragment.lower() in said.lower(), said
    assert "<stdin>" in said, said
    assert len(said) < 2_000, "a refusal is for reading"


@pytest.mark.parametrize("what", NOT_BUILT)
def test_what_is_not_built_is_refused_and_never_ignored(shared_cluster: Any, what: str) -> None:
    said = shared_cluster.refused(RUN + NOT_BUILT[what] + "\n")
    assert "not built" in said, said


def test_a_secret_that_nobody_keeps_is_refused_with_the_way_to_keep_it(shared_cluster: Any) -> None:
    said = shared_cluster.refused(RUN + "secrets: [HF_TOKEN]\n")
    assert "project default has no secret HF_TOKEN" in said
    assert "bursar secret set HF_TOKEN --project default" in said


def test_a_column_that_does_not_exist_is_refused_with_the_nearest(shared_cluster: Any) -> None:
    shared_cluster.ended(shared_cluster.job("--cpus", "0.1", "--", "true"))
    assert "number" in shared_cluster.run("ls", "--columns", "numbre", code=2).stderr


def test_a_binary_file_is_refused(shared_cluster: Any, make_file: Callable[..., str]) -> None:
    for content in (bytes(range(256)) * 8, b"\x7fELF\x02\x01\x01" + bytes(90), b"run: \xff\xfe\n"):
        said = shared_cluster.run("submit", make_file("b.yaml", content), code=2).stderr
        assert "b.yaml" in said
        assert "utf-8" in said.lower() or "text" in said.lower(), said


def test_files_that_cannot_be_read_are_named(shared_cluster: Any) -> None:
    assert "No such file" in shared_cluster.run("submit", "absent.yaml", code=2).stderr
    assert "directory" in shared_cluster.run("submit", "/", code=2).stderr.lower()


WRONG_FLAGS = {
    ("run", "--gpsu", "1", "--", "true"): "--gpus",
    ("run", "--time-limit", "soon", "--", "true"): "24h",
    ("run", "--cpus", "many", "--", "true"): "--cpus",
    ("run", "--memory", "4QB", "--", "true"): "GB",
    ("run", "--nodes", "-1", "--", "true"): "--nodes",
    ("run", "--array", "x", "--", "true"): "--array",
    ("run", "--env", "NOEQ", "--", "true"): "=",
    ("run", "--max-cost", "-1 USD", "--", "true"): "more than 0",
    ("run", "--max-cost", "5 EUR", "--", "true"): "USD",
    ("run", "--deadline", "tomorow", "--", "true"): "deadline",
    ("run",): "CMD",
    ("ls", "--state", "sleeping"): "stopping",
    ("ls", "-o", "xml"): "json",
    ("ls", "--since", "yesterdayish"): "since",
    ("wait", "1", "--timeout", "eternity"): "timeout",
    ("cost", "--by", "projet"): "project",
    ("report", "focus", "--period", "2026-13"): "2026",
    ("report", "focus", "--period", "2026-11", "--focus-version", "9"): "1.4",
    ("offers", "--gpus", "H100:-1"): "gpus",
    ("submti", "x"): "submit",
    ("attach", "1"): "name a program",
    ("report", "waste", "--period", "2026-13"): "2026-13",
    ("up", "--agents", "-1"): "agents",
    ("up", "--agents", "1", "--simulate-gpus", "H100:x"): "H100",
}


@pytest.mark.parametrize("words", WRONG_FLAGS, ids=" ".join)
def test_a_wrong_command_line_ends_with_2_and_says_what_is_right(
    shared_cluster: Any, words: tuple[str, ...]
) -> None:
    said = shared_cluster.call(*words, code=2)
    assert WRONG_FLAGS[words].lower() in said.stderr.lower(), said.stderr
    assert said.stdout == ""


BUDGET = """\
kind: Budget
name: b
spec:
  scope: {project: p}
  limit: 5 USD
  period: month
  enforcement: hard
"""
WRONG_POLICIES = {
    "unknown kind": ("kind: Bugdet\nname: b\nspec: {}\n", ["Budget"]),
    "unknown key": (BUDGET.replace("limit:", "limt:"), ["limt", "limit", ":5:"]),
    "negative limit": (BUDGET.replace("5 USD", "-5 USD"), ["limit", "more than 0"]),
    "another currency": (BUDGET.replace("5 USD", "5 EUR"), ["EUR", "USD"]),
    "no currency": (BUDGET.replace("5 USD", "5"), ["limit", "USD"]),
    "bad period": (BUDGET.replace("month", "fortnight"), ["period", "month"]),
    "bad enforcement": (BUDGET.replace("hard", "firm"), ["enforcement", "hard"]),
    "malformed project": (BUDGET.replace("project: p", "project: /p/"), ["project"]),
    "wrong action": (BUDGET + "  thresholds: [{at: 80%, do: [hold-que]}]\n", ["hold-que", "hold-queue"]),
    "no market": (BUDGET + "  thresholds: [{at: 80%, do: [spot-only]}]\n", ["spot-only", "hold-queue"]),
    "bad percent": (BUDGET + "  thresholds: [{at: half, do: [notify]}]\n", ["at"]),
    "carry over": (BUDGET + "  carry_over: 120%\n", ["carry_over", "100"]),
    "no name": (BUDGET.replace("name: b\n", ""), ["name"]),
    "anchor": (BUDGET.replace("name: b", "name: &x b"), ["anchor"]),
    "negative price": (
        "kind: PriceBook\nname: pb\nspec:\n  source: test\n  currency: USD\n  prices:\n"
        "    - {provider: x, region: r, instance_type: t, market: on-demand, price: -1 USD/h,"
        " valid_from: 2026-07-13T00:00:00Z}\n",
        ["price", "more than 0"],
    ),
    "quota": ("kind: Quota\nname: q\nspec: {}\n", ["scope"]),
}


@pytest.mark.parametrize("what", WRONG_POLICIES)
def test_a_wrong_policy_is_refused_whole(
    shared_cluster: Any, make_file: Callable[..., str], what: str
) -> None:
    text, fragments = WRONG_POLICIES[what]
    file = make_file("wrong.yaml", text)
    good = make_file("good.yaml", BUDGET.replace("name: b", "name: fine"))
    for words in (("policy", "check", file), ("policy", "apply", good, file)):
        said = shared_cluster.call(*words, code=2).stderr
        for fragment in fragments:
            assert fragment.lower() in said.lower(), said
        assert "wrong.yaml" in said
    assert [each["name"] for each in shared_cluster.ask("budget", "ls")] == [], "applying is atomic"


@pytest.mark.parametrize(
    "verb", ["show", "logs", "explain", "wait", "cancel", "hold", "release", "requeue", "cost"]
)
@pytest.mark.parametrize("name", ["999999", "job_0000000000000000", "nobody"])
def test_an_unknown_job_ends_with_4(shared_cluster: Any, verb: str, name: str) -> None:
    said = shared_cluster.call(verb, name, code=4)
    assert name in said.stderr
    assert said.stdout == ""


@pytest.mark.parametrize(
    "words",
    [
        ("node", "show", "nobody"),
        ("node", "drain", "nobody"),
        ("budget", "show", "nobody"),
        ("policy", "show", "nobody"),
    ],
)
def test_other_unknown_things_end_with_4(shared_cluster: Any, words: tuple[str, ...]) -> None:
    assert "nobody" in shared_cluster.run(*words, code=4).stderr


def test_wait_past_its_timeout_ends_with_124(shared_cluster: Any) -> None:
    job = shared_cluster.job("--cpus", "0.1", "--time-limit", "1m", "--", "sleep", "60")
    shared_cluster.run("wait", job, "--timeout", "0.2", code=124)
    shared_cluster.run("cancel", job)


def test_a_job_no_node_can_hold_is_accepted_and_says_so(shared_cluster: Any) -> None:
    plan = shared_cluster.ask("run", "--dry-run", "--memory", "90TB", "--", "true")
    assert plan["reason"]["code"] == "ExceedsNodeCapacity"
    job = shared_cluster.job("--memory", "90TB", "--", "true")
    reason = shared_cluster.show(job)["reason"]
    assert reason["code"] == "ExceedsNodeCapacity"
    assert reason["remedy"]
    shown = shared_cluster.run("explain", job).stdout
    assert "ExceedsNodeCapacity" in shown
    assert "local-1" in shown
    shared_cluster.run("cancel", job)
    assert shared_cluster.show(job)["state"] == "CANCELLED"


def test_a_missing_workdir_fails_the_job_with_the_directory_named(shared_cluster: Any) -> None:
    job = shared_cluster.ended(shared_cluster.job("--workdir", "/no/such/dir", "--", "true"))
    assert job["state"] == "FAILED"
    assert (job["attempts"][0]["end_cause"], job["exit_code"]) == ("failed", 126)
    assert "/no/such/dir" in shared_cluster.run("show", job["id"]).stdout


def test_a_command_that_does_not_exist_ends_with_127_and_is_named(shared_cluster: Any) -> None:
    job = shared_cluster.ended(shared_cluster.job("--", "no-such-command-here"))
    assert (job["state"], job["exit_code"]) == ("FAILED", 127)
    assert "no-such-command-here" in shared_cluster.run("show", job["id"]).stdout
    assert "  : " not in shared_cluster.run("show", job["id"]).stdout


def test_the_same_key_with_another_job_is_refused(shared_cluster: Any) -> None:
    first = shared_cluster.job("--idempotency-key", "k-1", "--", "true")
    assert shared_cluster.job("--idempotency-key", "k-1", "--", "true") == first
    said = shared_cluster.run("run", "--idempotency-key", "k-1", "--", "false", code=2).stderr
    assert "k-1" in said


LISTINGS = [
    ("ls",), ("ls", "--state", "all"), ("nodes",), ("offers", "--gpus", "H100:8"), ("events", "--tail", "20"),
    ("doctor",), ("cost",), ("cost", "--by", "project,user,node,pool,day"), ("budget", "ls"),
    ("prices", "ls"), ("policy", "ls"), ("top",), ("show", "last"), ("explain", "last"),
    ("node", "show", "local-1"), ("version",), ("config",),
]  # fmt: skip


@pytest.mark.parametrize("words", LISTINGS, ids=" ".join)
def test_every_listing_is_pure_on_standard_output(shared_cluster: Any, words: tuple[str, ...]) -> None:
    import csv
    import io
    import json

    import yaml

    if words[-1] == "last":
        shared_cluster.ended(shared_cluster.job("--name", "listed", "--", "true"))
    json.loads(shared_cluster.call(*words, "-o", "json").stdout)
    for line in shared_cluster.call(*words, "-o", "jsonl").stdout.splitlines():
        json.loads(line)
    yaml.load(shared_cluster.call(*words, "-o", "yaml").stdout, yaml.CSafeLoader)
    rows = list(csv.reader(io.StringIO(shared_cluster.call(*words, "-o", "csv").stdout)))
    assert all(len(row) == len(rows[0]) for row in rows)
    plain = shared_cluster.call(*words, env={"NO_COLOR": "1"}).stdout
    assert "\x1b" not in plain
    assert "…" not in plain, "nothing is cut short in a pipe"


def test_an_unreachable_server_ends_with_5(shared_cluster: Any) -> None:
    for server in ("unix:///tmp/no-such-dir/bursar.sock", "grpcs://127.0.0.1:1"):
        for words in (("ls",), ("run", "--", "true"), ("doctor",)):
            said = shared_cluster.run(
                *words, code=5, env={"BURSAR_SERVER": server, "BURSAR_TOKEN": "t"}
            ).stderr
            assert server.split("//")[1].split("/")[0] in said or server in said


def test_a_malformed_server_address_ends_with_2(shared_cluster: Any) -> None:
    for server in ("http://localhost:1", "nonsense", "grpcs://host"):
        said = shared_cluster.run("ls", "--server", server, code=2).stderr
        assert "unix:///path" in said or "grpcs://host:7443" in said, said


def test_a_job_in_another_currency_is_refused_by_plan_and_submit(shared_cluster: Any) -> None:
    for verb in ("plan", "submit"):
        said = shared_cluster.run(verb, "-", stdin=RUN + "budget: {max_cost: 5 EUR}\n", code=2)
        assert "EUR" in said.stderr
        assert "USD" in said.stderr
        assert "worst case" not in said.stderr + said.stdout, "no price is shown for what is refused"
