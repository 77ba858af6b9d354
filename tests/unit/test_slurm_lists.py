"""`squeue`, `sacct`, `sinfo` and what `scontrol` shows of others: each column, each filter."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from bursar.steps import listing, names, queue, sacct, scontrol, shown

RUNNING = {
    "number": 12, "name": "train", "user": "ann", "project": "nlp", "state": "RUNNING", "nodes": 2,
    "attempts": [
        {
            "nodes": [{"node": "old"}], "started_at": "2026-11-27T10:00:00Z", "elapsed_s": 60,
            "time_limit_s": 60,
        },
        {
            "nodes": [{"node": "n1"}, {"node": "n2"}], "started_at": "2026-11-27T12:00:00Z",
            "elapsed_s": 3601.9, "time_limit_s": 90_061,
        },
    ],
    "elapsed_s": 3661.9, "started_at": "2026-11-27T10:00:00Z", "finished_at": None, "time_limit_s": 90_061,
    "submitted_at": "2026-11-27T09:00:00Z", "priority": 50, "reason": {"code": ""}, "exit_code": None,
    "resources": {"cpus": 4, "gpus": 2, "memory_bytes": 4_000_000}, "max_rss_bytes": 5_000_000,
    "id": "job_a", "cpu_s": 61.5, "partition": "gpu", "end": None, "depends_on": [],
    "workdir": "/w", "comment": "note", "script_file": "/w/run.sh", "command": [],
}  # fmt: skip
WAITING = {
    **RUNNING, "number": 13, "id": "job_b", "partition": None, "cpu_s": 0, "name": "a-long-name",
    "state": "PENDING", "attempts": [],
    "started_at": None, "finished_at": None, "elapsed_s": None, "time_limit_s": None, "nodes": 1,
    "reason": {"code": "budget"}, "max_rss_bytes": None, "resources": {"cpus": 0.5}, "workdir": None,
    "comment": None,
}  # fmt: skip
ENDED = {
    **RUNNING,
    "number": 14,
    "id": "job_c",
    "state": "FAILED",
    "exit_code": 3,
    "finished_at": "2026-11-29T10:00:05Z",
}


LIVE = "pending,starting,running,stopping"


class Asked:
    """Answers for `bursar`, and the words of each question."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.words: list[tuple[str, ...]] = []

    def __call__(self, *words: str) -> Any:
        self.words.append(words)
        answer = self.answers[words[0]]
        return next(answer) if isinstance(answer, Iterator) else answer


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    made = Asked(
        ls=[RUNNING, WAITING],
        show=ENDED,
        nodes=[
            {"name": "n1", "pool": "a", "state": "up", "jobs": 1},
            {"name": "n2", "pool": "a", "state": "up", "jobs": 0},
            {"name": "n3", "pool": "a", "state": "up", "jobs": 0},
            {"name": "m1", "pool": "b", "state": "silent", "jobs": 1},
            {"name": "m2", "pool": "b", "state": "draining", "jobs": 1},
            {"name": "m3", "pool": "b", "state": "drained"},
            {"name": "m4", "pool": "b", "state": "cordoned"},
        ],
    )
    monkeypatch.setattr(listing, "ask", made)
    monkeypatch.setattr(listing, "job_of", lambda word: made("show", word))
    monkeypatch.delenv("SQUEUE_FORMAT", raising=False)
    monkeypatch.setenv("USER", "ann")
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    return made


Printed = Callable[..., str]


@pytest.fixture
def printed(asked: Asked, capsys: pytest.CaptureFixture[str]) -> Printed:
    def run(*words: str, code: int = 0) -> str:
        assert queue.main(words[0], words[1:]) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    return run


def test_squeue_prints_the_columns_of_slurm(printed: Printed, asked: Asked) -> None:
    assert printed("squeue") == (
        "             JOBID PARTITION     NAME     USER ST       TIME  NODES NODELIST(REASON)\n"
        "                12       gpu    train      ann  R    1:01:01      2 n[1-2]\n"
        "                13       any a-long-n      ann PD       0:00      1 (budget)\n"
    )
    assert asked.words == [("ls", "--state", "pending,starting,running,stopping")]


def test_each_column_of_squeue_is_its_own(printed: Printed) -> None:
    form = "%i|%A|%P|%j|%u|%a|%t|%T|%M|%l|%D|%R|%N|%r|%V|%S|%Q"
    head, running, waiting = printed("squeue", "-o", form).splitlines()
    assert head == (
        "JOBID|JOBID|PARTITION|NAME|USER|ACCOUNT|ST|STATE|TIME|TIME_LIMIT|NODES|NODELIST(REASON)|NODELIST|REASON"
        "|SUBMIT_TIME|START_TIME|PRIORITY"
    )
    assert running == (
        "12|12|gpu|train|ann|nlp|R|RUNNING|1:01:01|1-01:01:01|2|n[1-2]|n[1-2]|None|2026-11-27T09:00:00"
        "|2026-11-27T10:00:00|50"
    )
    assert waiting == (
        "13|13|any|a-long-name|ann|nlp|PD|PENDING|0:00|0:00|1|(budget)||budget|2026-11-27T09:00:00|N/A|50"
    )


def test_squeue_fills_its_widths_and_leaves_out_its_head(
    printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert printed("squeue", "-h", "--format=%.4i %6j<%3u>") == "  12 train <ann>\n  13 a-long<ann>\n"
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    assert printed("squeue", "--noheader") == "12\n13\n"


def test_squeue_tells_what_is_left_and_what_is_held(printed: Printed, asked: Asked) -> None:
    ended = {**RUNNING, "reason": None, "finished_at": "2026-11-27T14:00:00Z", "time_limit_s": 4000}
    asked.answers["ls"] = [{**RUNNING, "reason": None}, ended, {**WAITING, "reason": None}]
    assert printed("squeue", "-h", "-o", "%e|%C|%m|%b|%k|%Z|%r|%F|%K").splitlines() == [
        "2026-11-28T13:01:01|8|3M|gres/gpu:2|note|/w|None|12|N/A",
        "2026-11-27T14:00:00|8|3M|gres/gpu:2|note|/w|None|12|N/A",
        "N/A|1|0M|N/A|(null)|(null)|None|13|N/A",
    ]
    assert printed("squeue", "-h", "-o", "%L").splitlines() == ["1-00:01:00", "1-00:01:00", "UNLIMITED"]
    assert printed("squeue", "-h", "-o", "%R").splitlines()[2] == "(None)"
    asked.answers["ls"] = [{**RUNNING, "state": "PENDING"}, {**RUNNING, "attempts": [], "state": "STARTING"}]
    assert printed("squeue", "-h", "-o", "%e|%L|%M").splitlines() == ["N/A|1-01:01:01|1:01:01"] * 2


def test_squeue_has_the_long_names_of_its_columns(printed: Printed, asked: Asked) -> None:
    assert printed("squeue", "-O", "JobID:6,name,State:.9").splitlines() == [
        "JOBID NAME                    STATE",
        "12    train                 RUNNING",
        "13    a-long-name           PENDING",
    ]


def test_squeue_shows_each_task_of_an_array_where_it_is_asked_to(
    printed: Printed, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = ((3, "RUNNING"), (4, "FAILED"))
    tasks = [{**RUNNING, "id": f"job_a.{index}", "state": state} for index, state in states]
    calls = iter(([{**RUNNING, "array": {"size": 2, "max_parallel": None}}, WAITING], tasks))

    def answer(*words: str) -> Any:
        asked.words.append(words)
        return next(calls)

    monkeypatch.setattr(listing, "ask", answer)
    assert printed("squeue", "-r", "-h", "-o", "%i %F %K").splitlines() == ["12_3 12 3", "13 13 N/A"]
    live = "pending,starting,running,stopping"
    assert asked.words == [("ls", "--state", live), ("ls", "--state", live, "--tasks=job_a")]


def test_squeue_asks_for_the_jobs_it_is_asked_for(printed: Printed, asked: Asked) -> None:
    assert printed("squeue", "-h", "-o%i", "-j", "14") == ""
    printed("squeue", "--jobs=12_3,4000049")
    printed("squeue", "--me", "-t", "PD,running,CG", "-n", "x", "-A", "p", "-u", "bob")
    printed("squeue", "-a", "-tCONFIGURING", "--acc=q")
    assert asked.words == [
        ("show", "14"), ("show", "12[3]"), ("show", "1[12]"),
        ("ls", "--state", LIVE, "--user", "bob", "--name", "x", "--project", "p"),
        ("ls", "--state", LIVE, "--project", "q"),
    ]  # fmt: skip


def test_squeue_leaves_out_what_a_filter_does_not_let_through(printed: Printed, asked: Asked) -> None:
    other = {
        **RUNNING,
        "number": 15,
        "user": "bob",
        "name": "eval",
        "project": "vision",
        "partition": "cpu,debug",
    }
    asked.answers["ls"] = [RUNNING, WAITING, other]
    for words, numbers in (
        (("-p", "gpu"), "12 13"),  # what may run anywhere may come to run there
        (("--partition=debug,gpu",), "12 13 15"),
        (("-p", "nosuch"), "13"),
        (("-u", "bob,eve"), "15"),
        (("-n", "train,a-long-name"), "12 13"),
        (("-A", "vision,x"), "15"),
        (("-w", "n[2-4]"), "12 15"),
        (("-w", "n9"), ""),
        (("-t", "PENDING"), "13"),
        (("-t", "S,RQ,CF"), ""),
        (("-t", "all"), "12 13 15"),
        (("--start",), "13"),
        (("-S", "-i"), "15 13 12"),
        (("--sort", "u,-Q,+i"), "12 13 15"),
        (("--sort", "-j"), "12 15 13"),
    ):
        assert printed("squeue", "-h", "-o%i", *words).split() == numbers.split(), words
    assert asked.words[3] == ("ls", "--state", "pending,starting,running,stopping")
    assert asked.words[10] == ("ls", "--state", "all")
    assert asked.words[9] == ("ls", "--state", f"{LIVE},failed,cancelled")


def test_squeue_has_a_longer_form_and_one_of_starts(printed: Printed) -> None:
    assert [line[18:] for line in printed("squeue", "-l", "-t", "R").splitlines()] == [
        " PARTITION     NAME     USER    STATE       TIME TIME_LIMI  NODES NODELIST(REASON)",
        "       gpu    train      ann  RUNNING    1:01:01 1-01:01:0      2 n[1-2]",
    ]
    assert printed("squeue", "--start") == (
        "             JOBID PARTITION     NAME     USER ST          START_TIME  NODES NODELIST(REASON)\n"
        "                13       any a-long-n      ann PD                 N/A      1 (budget)\n"
    )


def test_squeue_says_that_no_such_job_is_there_as_slurm_says_it(
    printed: Printed, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"12": RUNNING, "14": ENDED}
    monkeypatch.setattr(listing, "job_of", found.get)
    assert printed("squeue", "-j", "99", code=1) == "slurm_load_jobs error: Invalid job id specified\n"
    assert printed("squeue", "-h", "-o%i", "-j", "99,12,14") == "12\n"
    assert printed("squeue", "-h", "-o%i", "-j12", "-j", "14", "-tall") == "12\n14\n"
    assert printed("sacct", "-n", "-P", "-oJobID", "-j", "99") == ""


@pytest.mark.parametrize(
    ("cause", "code", "state"),
    [
        ("time_limit", "TO", "TIMEOUT"), ("out_of_memory", "OOM", "OUT_OF_MEMORY"),
        ("node_lost", "NF", "NODE_FAIL"), ("preempted", "PR", "PREEMPTED"), ("failed", "F", "FAILED"),
    ],
)  # fmt: skip
def test_an_end_has_slurms_name_for_its_cause(
    printed: Printed, asked: Asked, cause: str, code: str, state: str
) -> None:
    asked.answers["show"] = {**ENDED, "end": {"cause": cause, "signal": 15}}
    assert printed("squeue", "-h", "-j14", "-tall", "-o", "%t %T") == f"{code} {state}\n"
    assert printed("squeue", "-h", "-j14", "-t", code, "-o%i") == "14\n"
    assert printed("sacct", "-nXP", "-j14", "-o", "State,ExitCode") == f"{state}|0:15\n"


def test_sacct_prints_ended_jobs_too_in_its_columns(printed: Printed, asked: Asked) -> None:
    assert printed("sacct", "-X", "-S", "2026-11-27", "-E", "2026-11-28T09:00") == (
        "       JobID    JobName  Partition    Account  AllocCPUS      State ExitCode \n"
        "------------ ---------- ---------- ---------- ---------- ---------- -------- \n"
        "          12      train        gpu        nlp          8    RUNNING      0:0 \n"
        "          13 a-long-na+        any        nlp          0    PENDING      0:0 \n"
    )
    assert asked.words == [
        ("ls", "--state", "all", "--since", "2026-11-27T00:00:00+00:00"),
        ("ls", "--state", "pending,starting,running,stopping"),
    ]
    assert printed("sacct", "-nXj14", "-o", "JobID%20,jobname%-7,exitcode%8") == (
        "                  14 train        3:0 \n"
    )
    assert printed("sacct", "-bnXj14") == "          14     FAILED      3:0 \n"


def test_sacct_leaves_out_what_had_ended_before_though_that_was_heard_later(
    printed: Printed, asked: Asked
) -> None:
    asked.answers["ls"] = [ENDED]
    for since, shown_rows in (("2026-11-29T10:00:06", ""), ("2026-11-29T10:00:05", "14\n")):
        assert printed("sacct", "-nPXoJobID", "-S", since, "-E", "2026-11-30") == shown_rows


def test_sacct_asks_for_states_and_times(printed: Printed, asked: Asked) -> None:
    words = ("sacct", "-nPXo", "JobID", "-s", "F,CA", "-S", "2026-11-27", "-r", "gpu", "-E", "2027-01-01")
    asked.answers["ls"] = [ENDED, {**ENDED, "number": 9, "id": "job_d"}]
    assert printed(*words).split() == ["9", "14"]
    assert asked.words == [("ls", "--state", "failed,cancelled", "--since", "2026-11-27T00:00:00+00:00")]
    assert printed(*words, "-E", "2026-11-27T08:59:59") == ""
    assert printed("sacct", "-S", "soon", code=2) == (
        "sacct: error: --starttime soon is not a time: 2026-11-01, 2026-11-01T08:00:00, now-7days, today\n"
    )


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("today", "2026-11-28T00:00:00"), ("midnight", "2026-11-28T00:00:00"), ("now", "2026-11-28T12:30:00"),
        ("now-2hours", "2026-11-28T10:30:00"), ("now-7days", "2026-11-21T12:30:00"),
        ("08:00", "2026-11-28T08:00:00"), ("16:00", "2026-11-27T16:00:00"), ("noon", "2026-11-28T12:00:00"),
        ("2026-11-01", "2026-11-01T00:00:00"), ("11/02/26", "2026-11-02T00:00:00"),
        ("2027-01-01", "2027-01-01T00:00:00"),
    ],
)  # fmt: skip
def test_a_moment_of_sacct_is_one_that_has_been(text: str, at: str) -> None:
    now = datetime(2026, 11, 28, 12, 30, tzinfo=UTC)
    assert sacct.moment_named("starttime", text, now) == datetime.fromisoformat(f"{at}+00:00")


def test_sacct_tells_of_each_task_what_it_held_and_used(printed: Printed, asked: Asked) -> None:
    """As workflow engines read it, which look for the number of a task: the array's line says of none."""
    array = {**ENDED, "array": {"size": 6, "max_parallel": 2}, "nodes": 1}
    task = {**array, "array": None, "elapsed_s": 4.02, "resources": {"cpus": 2}}
    tasks = [{**task, "id": f"job_c.{at}", "cpu_s": 1.5, "max_rss_bytes": 1024 * at} for at in range(1, 4)]
    waits = {**task, "state": "PENDING", "started_at": None, "finished_at": None, "elapsed_s": None}
    tasks += [{**waits, "id": f"job_c.{at}", "max_rss_bytes": None} for at in (4, 5, 7)]
    asked.answers.update(show=array, ls=tasks)
    assert printed("sacct", "-nXPj14", "-o", "JobID,State,CPUTimeRAW,MaxRSS") == (
        "14_1|FAILED|8|1K\n14_2|FAILED|8|2K\n14_3|FAILED|8|3K\n14_[4-5,7%2]|PENDING|0|\n"
    )
    assert asked.words == [("show", "14"), ("ls", "--state", "all", "--tasks=job_c")]


STEP = {
    "number": 0, "rank": 0, "name": "train", "state": "completed", "nodes": 2, "tasks": 4, "exit_code": 0,
    "signal": None, "failed_task": None, "started_at": "2026-11-29T10:00:00Z", "elapsed_s": 3.5,
}  # fmt: skip
STEPPED = {
    **ENDED,
    "state": "SUCCEEDED",
    "exit_code": 0,
    "attempts": [
        {
            **RUNNING["attempts"][-1],  # type: ignore[index]
            "steps": [
                STEP,
                {
                    **STEP,
                    "number": 1,
                    "name": None,
                    "state": "failed",
                    "exit_code": 3,
                    "nodes": 1,
                    "tasks": 1,
                },
                {**STEP, "number": 2, "state": "failed", "exit_code": None, "signal": 9},
                {**STEP, "number": 3, "state": "cut_off", "exit_code": None, "started_at": None},
                {**STEP, "number": 4, "rank": 1, "state": "time_limit", "exit_code": 143},
            ],
        }
    ],
}


def test_sacct_has_a_row_for_the_script_and_for_each_step(printed: Printed, asked: Asked) -> None:
    asked.answers["show"] = STEPPED
    form = "JobID,JobName,State,ExitCode,ElapsedRaw,NTasks,Partition,End"
    assert printed("sacct", "-nPj14", "-o", form).splitlines() == [
        "14|train|COMPLETED|0:0|3661||gpu|2026-11-29T10:00:05",
        "14.batch|batch|COMPLETED|0:0|3661|1||2026-11-29T10:00:05",
        "14.0|train|COMPLETED|0:0|3|4||2026-11-29T10:00:03",
        "14.1||FAILED|3:0|3|1||2026-11-29T10:00:03",
        "14.2|train|FAILED|0:9|3|4||2026-11-29T10:00:03",
        "14.3|train|CANCELLED|0:0|3|4||Unknown",
        "14.4+1|train|TIMEOUT|143:0|3|4||2026-11-29T10:00:03",
    ]
    assert printed("sacct", "-nXPj14", "-o", "JobID,DerivedExitCode") == "14|143:0\n"


def test_sacct_tells_of_a_step_alone_where_that_is_named(printed: Printed, asked: Asked) -> None:
    asked.answers["show"] = STEPPED
    for words, rows in (
        ("14.1", ["14.1|FAILED"]),
        ("14.batch", ["14.batch|COMPLETED"]),
        ("14.0,14.2", ["14.0|COMPLETED", "14.2|FAILED"]),
        ("14.7", []),
        ("14.extern", []),
    ):
        assert printed("sacct", "-nPj", words, "-o", "JobID,State").splitlines() == rows
        assert asked.words[-1] == ("show", "14")
    asked.answers["show"] = {**STEPPED, "state": "FAILED", "end": {"cause": "time_limit", "signal": 15}}
    assert printed("sacct", "-nPj14.batch", "-o", "State,ExitCode") == "CANCELLED|0:15\n"


def test_what_has_not_begun_has_no_step(printed: Printed, asked: Asked) -> None:
    asked.answers["show"] = WAITING
    assert printed("sacct", "-nPj13", "-o", "JobID").split() == ["13"]


def test_squeue_shows_tasks_that_wait_as_one_line(printed: Printed, asked: Asked) -> None:
    array = {**RUNNING, "array": {"size": 9, "max_parallel": 1}}
    rows = [{**RUNNING, "id": "job_a.1"}, *({**WAITING, "number": 12, "id": f"job_a.{at}"} for at in (2, 3))]
    answers = iter([[array, WAITING], rows, [array], rows, [array], rows])
    asked.answers["ls"] = answers
    said = printed("squeue", "-h", "-o", "%i %K %t").splitlines()
    assert said == ["12_1 1 R", "12_[2-3%1] [2-3%1] PD", "13 N/A PD"]
    assert printed("squeue", "-h", "-o", "%i", "-t", "PD").splitlines() == ["12_[2-3%1]"]
    assert printed("squeue", "-h", "-o", "%i", "-t", "R").splitlines() == ["12_1"]


def test_each_field_of_sacct_is_its_own(printed: Printed, asked: Asked) -> None:
    fields = ",".join(sacct.PAST)
    asked.answers["ls"] = [
        {**RUNNING, "resources": {**RUNNING["resources"], "memory_bytes": 4 * 2**30}},
        WAITING,
    ]
    assert printed("sacct", "-XPn", "-S2026-11-27", "-E2027-01-01", "--format", fields).splitlines() == [
        "12|12|train|ann|nlp|gpu|RUNNING|0:0|0:0|None|01:01:01|3661|2026-11-27T09:00:00|2026-11-27T10:00:00"
        "|N/A|2|2||2|n[1-2]|8|8|8|cpu=8,gres/gpu=4,mem=8192M,node=2|cpu=8,gres/gpu=4,mem=8192M,node=2|4096M"
        "|1-01:01:01|1501|08:08:08|29288|00:01:01|50|/w|note|4882K",
        "13|13|a-long-name|ann|nlp|any|PENDING|0:0|0:0|budget|00:00:00|0|2026-11-27T09:00:00|N/A|N/A|1|1||1||0|0|1"
        "||cpu=1,node=1|0M|00:00:00|0|00:00:00|0|00:00:00|50|||",
    ]
    ends = (
        {"exit_code": None, "elapsed_s": 172_805.2},
        {"exit_code": 0, "state": "SUCCEEDED", "elapsed_s": 172_805},
        {"state": "STARTING", "elapsed_s": None, "exit_code": None},
    )
    asked.answers["ls"] = [{**ENDED, "id": f"job_{at}", **end} for at, end in enumerate(ends)]
    assert printed("sacct", "-pX", "-S2026-11-27", "-E2027-01-01", "-o", "State,ExitCode,Elapsed") == (
        "State|ExitCode|Elapsed|\nFAILED|1:0|2-00:00:05|\nCOMPLETED|0:0|2-00:00:05|\nCONFIGURING|0:0|00:00:00|\n"
    )
    told = printed("sacct", "-PX", "-j14", "--delimiter", ",", "-o", "State,JobID")
    assert told.splitlines() == ["State,JobID", "FAILED,14"]


NODE = {
    "name": "n1", "pool": "a", "state": "up", "cpus": 8, "cpus_free": 2, "memory_bytes": 2**36,
    "memory_free_bytes": 2**35, "gpu_types": ["A100"], "gpus": 4, "gpus_free": 1, "jobs": 1,
    "labels": {"partition": "gpu", "ib": "yes"}, "address": "10.0.0.1", "reason": None,
}  # fmt: skip
PLAIN = {
    **NODE, "name": "n3", "cpus": 4, "gpus": 0, "gpu_types": [], "gpus_free": 0, "jobs": 0, "cpus_free": 4,
    "labels": {}, "memory_free_bytes": 2**36,
}  # fmt: skip


def test_sinfo_groups_nodes_by_pool_and_state(printed: Printed) -> None:
    assert printed("sinfo") == (
        "PARTITION AVAIL  TIMELIMIT  NODES  STATE NODELIST\n"
        "a            up   infinite      1  alloc n1\n"
        "a            up   infinite      2   idle n[2-3]\n"
        "b            up   infinite      1   down m1\n"
        "b            up   infinite      3  drain m[2-4]\n"
    )
    assert printed("sinfo", "-s") == (
        "PARTITION AVAIL  TIMELIMIT   NODES(A/I/O/T) NODELIST\n"
        "a            up   infinite          1/2/0/3 n[1-3]\n"
        "b            up   infinite          0/0/4/4 m[1-4]\n"
    )
    assert printed("sinfo", "-hl", "-p", "a", "-t", "alloc") == (
        "a            up   infinite 1-infinite       NO        all      1   allocated n1\n"
    )
    for word, nodes in (("-r", "n[1-3],m[2-4]"), ("-d", "m1"), ("-tall", "n[1-3],m[1-4]"), ("-tmaint", "")):
        assert printed("sinfo", "-ho%N", word).strip() == nodes


def test_sinfo_has_a_line_for_each_value_that_it_prints(printed: Printed, asked: Asked) -> None:
    asked.answers["nodes"] = [NODE, {**NODE, "name": "n2", "gpus_free": 0, "cpus": 16}, PLAIN]
    for form, lines in (
        ("%D", ["3"]),
        ("%P %D %G", ["a 1 (null)", "gpu 2 gpu:a100:4"]),
        ("%f|%b", ["(null)|(null)", "a100,ib|a100,ib"]),
        ("%R %c %m %e", ["a 4 65536 65536", "gpu 8+ 65536 32768"]),
        ("%A %F %E", ["2/1 2/1/0/3 none"]),
        ("%e", ["32768-65536"]),
        ("%n %o", ["n1 10.0.0.1", "n2 10.0.0.1", "n3 10.0.0.1"]),
        ("%s %h %g %l %a", ["1-infinite NO all infinite up"]),
    ):
        assert printed("sinfo", "-h", "-o", form).splitlines() == lines, form
    assert printed("sinfo", "-he", "-o", "%c %N").splitlines() == ["16 n2", "4 n3", "8 n1"]
    assert printed("sinfo", "-O", "nodelist:8,Gres:.12").splitlines() == [
        "NODELIST        GRES", "n3            (null)", "n[1-2]    gpu:a100:4",
    ]  # fmt: skip
    assert printed("sinfo", "-Nlh", "-p", "gpu").splitlines() == [
        "n1              1       gpu       mixed    8    65536  a100,ib none",
        "n2              1       gpu   allocated   16    65536  a100,ib none",
    ]


def test_sinfo_knows_a_partition_by_its_label_or_pool_and_no_other(printed: Printed, asked: Asked) -> None:
    asked.answers["nodes"] = [NODE, PLAIN]
    assert printed("sinfo", "-ho%N", "-p", "a") == "n[1,3]\n"
    assert printed("sinfo", "-ho%N", "-p", "gpu,a") == "n[1,3]\n"
    assert printed("sinfo", "-p", "x", code=2) == "sinfo: error: there is no partition x; these are: a gpu\n"
    assert printed("sinfo", "-t", "busy", code=2) == (
        "sinfo: error: busy is no state of nodes; these are: idle alloc mix drain down\n"
    )


def test_sinfo_lists_node_by_node_in_the_columns_it_is_asked_for(printed: Printed, asked: Asked) -> None:
    asked.answers["nodes"] = [
        {**NODE, "labels": {}, "name": "n1"},
        {**NODE, "labels": {}, "name": "n2", "gpus_free": 0},
        PLAIN,
        {**NODE, "labels": {}, "name": "n4", "state": "drained", "cpus_free": 8, "gpus_free": 4},
    ]
    assert printed("sinfo", "-N").splitlines() == [
        "NODELIST    NODES PARTITION STATE",
        "n1              1         a   mix",
        "n2              1         a alloc",
        "n3              1         a  idle",
        "n4              1         a drain",
    ]
    assert printed("sinfo", "-h", "--format=%P|%T|%c|%m|%G|%n").splitlines() == [
        "a|allocated|8|65536|gpu:a100:4|n2",
        "a|drained|8|65536|gpu:a100:4|n4",
        "a|idle|4|65536|(null)|n3",
        "a|mixed|8|65536|gpu:a100:4|n1",
    ]
    assert printed("sinfo", "-h", "-t", "idle,mixed", "-o", "%t %N %C").splitlines() == [
        "idle n3 0/4/0/4", "mix n1 6/2/0/8",
    ]  # fmt: skip
    assert printed("sinfo", "-hN", "-n", "n[2-3]", "-o%n") == "n2\nn3\n"


# --- what scontrol shows of others


@pytest.fixture
def shows(asked: Asked, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Printed:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(listing, "job_of", {"12": RUNNING, "13": WAITING, "12[3]": TASK}.get)
    asked.answers["nodes"] = [NODE, PLAIN, {**NODE, "name": "n2", "state": "drained", "reason": "disk"}]

    def run(*words: str, code: int = 0) -> str:
        assert scontrol.main(words) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    return run


TASK = {
    **ENDED, "number": 12, "id": "job_a.3", "output_file": "o_%A_%a.txt", "error_file": "/e/%j.txt",
    "end": {"cause": "time_limit", "signal": 15}, "depends_on": [{"job": "7", "when": "succeeded"}],
}  # fmt: skip


def test_scontrol_says_what_a_job_still_waits_for(shows: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = [("12", "task-succeeded"), ("12_3", "finished"), ("13", "failed"), ("me", "singleton")]
    job = {**WAITING, "number": 15, "depends_on": [{"job": one, "when": when} for one, when in waits]}
    known = {"12": RUNNING, "13": WAITING, "12_3": TASK, "15": job}
    monkeypatch.setattr(listing, "job_of", known.get)
    said = shows("show", "job", "15").splitlines()
    after = "aftercorr:12_*(unfulfilled),afternotok:13(unfulfilled),singleton(unfulfilled)"
    assert f"   Dependency={after}" in said


def test_scontrol_shows_any_job(shows: Printed) -> None:
    assert shows("show", "job", "12") == "\n   ".join((
        "JobId=12 JobName=train",
        "UserId=ann Account=nlp Priority=50",
        "JobState=RUNNING Reason=None Restarts=1 ExitCode=0:0",
        "Dependency=(null)",
        "RunTime=01:01:01 TimeLimit=1-01:01:01",
        "SubmitTime=2026-11-27T09:00:00",
        "StartTime=2026-11-27T10:00:00 EndTime=2026-11-28T13:01:01",
        "Partition=gpu",
        "NodeList=n[1-2] BatchHost=n1",
        "NumNodes=2 NumCPUs=8",
        "TresPerNode=gres/gpu:2",
        "Comment=note",
        "Command=/w/run.sh",
        "WorkDir=/w",
        "StdErr=(null)",
        "StdOut=(null)",
    )) + "\n\n"  # fmt: skip
    assert shows("-o", "show", "jobid=13") == (
        "JobId=13 JobName=a-long-name UserId=ann Account=nlp Priority=50 JobState=PENDING Reason=budget"
        " Restarts=0 ExitCode=0:0 Dependency=(null) RunTime=00:00:00 TimeLimit=UNLIMITED"
        " SubmitTime=2026-11-27T09:00:00 StartTime=Unknown EndTime=Unknown Partition=any NodeList=(null)"
        " NumNodes=1 NumCPUs=1"
        " Command=/w/run.sh WorkDir=(null) StdErr=(null) StdOut=(null)\n"
    )
    told = shows("show", "-dd", "job", "12_3")
    for line in (
        "JobId=12 ArrayJobId=12 ArrayTaskId=3 JobName=train", "Dependency=(null)",
        "StdOut=/w/o_12_3.txt",
        "JobState=TIMEOUT Reason=None Restarts=1 ExitCode=0:15", "StdErr=/e/12.txt",
    ):  # fmt: skip
        assert line in told
    assert shows("show", "job", "9", code=1) == "slurm_load_jobs error: Invalid job id specified\n"
    assert [line for line in shows("show", "jobs").splitlines() if "JobId" in line] == [
        "JobId=12 JobName=train", "JobId=13 JobName=a-long-name",
    ]  # fmt: skip


def test_scontrol_shows_nodes(shows: Printed) -> None:
    assert shows("show", "node=n1") == "\n   ".join((
        "NodeName=n1",
        "CPUAlloc=6 CPUTot=8",
        "AvailableFeatures=a100,ib",
        "ActiveFeatures=a100,ib",
        "Gres=gpu:a100:4",
        "NodeAddr=10.0.0.1 NodeHostName=n1",
        "RealMemory=65536 AllocMem=32768 FreeMem=32768",
        "State=MIXED",
        "Partitions=gpu",
        "CfgTRES=cpu=8,mem=65536M,gres/gpu=4",
        "AllocTRES=cpu=6,mem=32768M,gres/gpu=3",
    )) + "\n\n"  # fmt: skip
    told = shows("-o", "show", "nodes").splitlines()
    assert [line.split()[0] for line in told] == ["NodeName=n1", "NodeName=n3", "NodeName=n2"]
    assert told[1].endswith("State=IDLE Partitions=a CfgTRES=cpu=4,mem=65536M AllocTRES=cpu=0,mem=0M")
    assert told[2].endswith(" Reason=disk")
    assert " State=DRAINED " in told[2]
    assert shows("show", "node", "n[1-9]", code=1) == "Node n4 not found\n"


def test_scontrol_shows_partitions(shows: Printed) -> None:
    assert shows("show", "partition", "gpu") == "\n   ".join((
        "PartitionName=gpu",
        "MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=0",
        "Nodes=n[1-2]",
        "State=UP TotalCPUs=16 TotalNodes=2",
        "TRES=cpu=16,mem=131072M,node=2,gres/gpu=8",
    )) + "\n\n"  # fmt: skip
    assert shows("-o", "show", "partitions").startswith("PartitionName=a MaxNodes")
    assert shows("show", "partition", "x", code=1) == "Partition x not found\n"


def test_scontrol_changes_a_job_as_far_as_bursar_can(shows: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    codes = iter((0, 0, 3))

    def run(command: list[str], stdout: int) -> Any:
        ran.append(command[1:])
        return subprocess.CompletedProcess(command, next(codes))

    monkeypatch.setattr(shown.subprocess, "run", run)
    monkeypatch.setenv(names.DIRECTORY, "/steps")
    assert shows("update", "JobId=12_3,13", "TimeLimit=1-00:00:30", "jobname=b", "NumNodes=2") == ""
    flags = ["--name", "b", "--nodes", "2", "--time-limit", "86430s"]
    assert ran == [["update", "12[3]", *flags], ["update", "13", *flags]]
    assert shows("update", "job=12", "Comment=x", code=3) == ""
    for words, said in (
        (
            ("JobId=1", "TimeLimit=soon"),
            "update TimeLimit=soon: it is no time such as 30, 2:00:00, 1-12:00:00 or +10:00",
        ),
        (
            ("JobId=1", "Partition=x"),
            "update Partition cannot be done here; these can: JobId, TimeLimit, JobName, ",
        ),
        (("NodeName=n1", "State=drain"), "update NodeName cannot be done here;"),
        (("JobId",), "update JobId: it is not of the form NAME=VALUE"),
        (("JobId=1",), "update: name a job with JobId=, and what to change"),
    ):
        assert shows("update", *words, code=2).startswith(f"scontrol: error: {said}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("squeue", "-o", "%i %z"),
            "squeue: error: the column %z is not known here; these are: i A F K P j u a t T M",
        ),
        (("squeue", "--xyz"), "squeue: error: --xyz cannot be done here\n"),
        (("squeue", "--nohe=x"), "squeue: error: --noheader takes no value\n"),
        (("squeue", "-O", "JobID,Foo"), "squeue: error: the column Foo is not known here; these are: JobID "),
        (("sinfo", "-o", "%z"), "sinfo: error: the column %z is not known here; these are: P R a l D t T"),
        (
            ("squeue", "-t", "busy"),
            "squeue: error: BUSY is no state; these are: PENDING CONFIGURING RUNNING ",
        ),
        (
            ("squeue", "-S", "i,%z"),
            "squeue: error: --sort %z cannot be done; i A M l D Q P j u a t T N R r V S",
        ),
        (("squeue", "-hz"), "squeue: error: -z cannot be done here\n"),
        (("squeue", "-j"), "squeue: error: -j needs a value\n"),
        (
            ("sacct", "-o", "JobID,Foo"),
            "sacct: error: the field Foo is not known here; these are: JobID, JobIDRaw",
        ),
        (("sinfo", "extra"), "sinfo: error: extra cannot be done here\n"),
    ],
)
def test_what_a_list_does_not_have_is_refused_by_name(
    printed: Printed, words: tuple[str, ...], said: str
) -> None:
    assert printed(*words, code=2)[: len(said)] == said


def test_a_time_limit_is_changed_by_so_much(
    shows: Callable[..., str], asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], stdout: int) -> Any:
        ran.append(command[1:])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(shown.subprocess, "run", run)
    monkeypatch.setenv(names.DIRECTORY, "/steps")
    monkeypatch.setattr(listing, "job_of", lambda word: {**RUNNING, "time_limit_s": 3600})
    assert shows("update", "JobId=12", "TimeLimit=+10:00") == ""
    assert shows("update", "JobId=12_3", "timelimit=-30") == ""
    assert ran == [["update", "12", "--time-limit", "4200s"], ["update", "12[3]", "--time-limit", "1800s"]]
    for value, said in (
        ("-1:00:00", "is 3600 s, from which 3600 s cannot go"),
        ("-2:00:00", "from which 7200 s"),
    ):
        assert said in shows("update", "JobId=12", f"TimeLimit={value}", code=2)
    monkeypatch.setattr(listing, "job_of", lambda word: {**RUNNING, "time_limit_s": None})
    assert "has no time limit to change" in shows("update", "JobId=12", "TimeLimit=+10", code=2)
    monkeypatch.setattr(listing, "job_of", lambda word: None)
    assert "there is no job 12" in shows("update", "JobId=12", "TimeLimit=+10", code=2)
    assert len(ran) == 2


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ({"code": "WaitingForResources"}, "Resources"),
        ({"code": "BehindHigherPriority"}, "Priority"),
        ({"code": "Held"}, "JobHeldUser"),
        ({"code": "Held", "facts": {"requeues": "16"}}, "JobHoldMaxRequeue"),
        ({"code": "BeginTime", "facts": {"requeues": "3"}}, "BeginTime"),
        ({"code": "Dependency"}, "Dependency"),
        ({"code": "WaitingForQuota", "facts": {"max_parallel": "2"}}, "JobArrayTaskLimit"),
        ({"code": "ReservedForOther", "facts": {"ahead": "job_1"}}, "Priority"),
        ({"code": "ReservedForOther", "facts": {"reservation": "talk"}}, "ReqNodeNotAvail"),
        ({"code": "WaitingForQuota"}, "AssocGrpLimit"),
        ({"code": "BudgetCommitted"}, "AssocGrpBillingMinutes"),
        ({"code": "PriceCapExceeded"}, "PriceCapExceeded"),
        (None, "None"),
    ],
)
def test_a_reason_is_told_in_slurms_word_where_it_has_one(
    printed: Printed, asked: Asked, reason: dict[str, Any] | None, word: str
) -> None:
    asked.answers["ls"] = [{**WAITING, "reason": reason}]
    assert printed("squeue", "-h", "-o", "%r %R") == f"{word} ({word})\n"
