"""Slurm's commands inside a job: what they print, and what they ask of `bursar`, word by word."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bursar.cli.main import run
from bursar.client.fake import FakeServer
from bursar.steps import install, listing, names, queue, scontrol, shims
from bursar.steps.hosts import compress_hosts, counts_by_node, expand_hosts
from bursar.steps.patterns import empty, file_name, of_a_task, task_environment
from bursar.v1 import jobs_pb2, types_pb2


def test_a_question_that_bursar_refuses_ends_with_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []

    def run(command: list[str], stdout: int) -> Any:
        ran.append((command, stdout))
        return subprocess.CompletedProcess(command, len(ran) - 1, b'{"a": 1}')

    monkeypatch.setattr(listing.subprocess, "run", run)
    monkeypatch.setenv(names.DIRECTORY, "/steps")
    assert listing.ask("show", "1") == {"a": 1}
    assert ran == [(["/steps/bin/bursar", "show", "1", "-o", "json"], subprocess.PIPE)]
    with pytest.raises(SystemExit) as ended:
        listing.ask("show", "1")
    assert ended.value.code == 1


# --- what is asked of the queue


class Ran:
    """Each command of `bursar` that was run, and the files it was given."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.scripts: list[str] = []
        self.stdout = "77\n"
        self.stderr = b""
        self.code = 0

    def __call__(self, command: list[str], **kwargs: Any) -> Any:
        self.scripts += [
            Path(word).read_text() for word in command if "/tmp" in word and Path(word).is_file()
        ]
        self.commands.append([Path(word).name if Path(word).is_file() else word for word in command])
        return subprocess.CompletedProcess(command, self.code, self.stdout, self.stderr)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    made = Ran()
    monkeypatch.setattr(queue.subprocess, "run", made)
    monkeypatch.setenv(names.DIRECTORY, "/steps")
    return made


BURSAR = "/steps/bin/bursar"


def test_a_copy_that_sbatch_made_is_named_as_the_script_that_it_is_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy" / "s.sh"
    copy.parent.mkdir()
    copy.write_text("#!/bin/bash\n#SBATCH --time=60\necho $1\n")
    monkeypatch.setenv(names.SUBMITTED_AS, "/home/ann/s.sh")
    with FakeServer(tmp_path / "run") as server:
        monkeypatch.setenv("BURSAR_SERVER", server.url)
        server.answers["Jobs/Submit"] = jobs_pb2.SubmitResponse(job=types_pb2.Job(id="job_1", number=1))
        assert run(["submit", "--parsable", str(copy)]) == 0
        [request] = server.calls("Jobs/Submit")
    assert capsys.readouterr().err.startswith("s.sh: your shell's variables are not copied")
    assert (request.spec.name, request.spec.env["SLURM_SUBMIT_SCRIPT"]) == ("s.sh", "/home/ann/s.sh")


@pytest.mark.parametrize("name", [*install.SLURM])
@pytest.mark.parametrize("word", ["--version", "-V"])
def test_each_command_says_its_version(name: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert shims.main(name, [word]) == 0
    assert capsys.readouterr().out == "slurm-bursar 0.1\n"


def test_the_program_is_that_of_the_node_or_the_one_this_came_with() -> None:
    assert queue.program({names.DIRECTORY: "/s"}) == ["/s/bin/bursar"]
    assert queue.program({}) == [sys.executable, "-EP", "-c", "from bursar.cli.start import main; main()"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("12", "12"), ("12_3", "12[3]"), ("12_[1-3]", "12[1-3]"), ("12_", "12[]"), ("job_x", "job[x]"),
        ("last", "last"), (str(names.TASK_FACTOR - 1), str(names.TASK_FACTOR - 1)),
        (str(names.TASK_FACTOR), "1[0]"), (str(5 * names.TASK_FACTOR + 4_000_000), "5[4000000]"),
        (str(5 * names.TASK_FACTOR + 4_000_001), str(5 * names.TASK_FACTOR + 4_000_001)),
        ("9" * 15, f"{(10**15 - 1) // names.TASK_FACTOR}[{(10**15 - 1) % names.TASK_FACTOR}]"),
        ("9" * 16, "9" * 16), ("\u0663", "\u0663"),
    ],
)  # fmt: skip
def test_numbers_of_jobs_and_tasks_are_written_as_bursar_writes_them(text: str, word: str) -> None:
    assert queue.job_word(text) == word


def test_verbs_go_to_bursar_with_each_job(ran: Ran) -> None:
    ran.code = 3
    assert queue.verb("hold", ["1,2_3", "4"]) == 3
    assert ran.commands == [[BURSAR, "hold", "1", "2[3]", "4"]]


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["1,2_3", "-Q", "--verbose", "4"], ["1", "2[3]", "4"]),
        (["7_[1-3,5]", "8_[2-3%1]", "9"], ["7[1]", "7[2]", "7[3]", "7[5]", "8[2]", "8[3]", "9"]),
        (["7_[x]"], ["7[x]"]),
        (["--me"], ["--yes", "--user", "ann"]),
        (["-nx", "--state=PENDING", "-u", "bob"],
         ["--yes", "--name", "x", "--state", "pending", "--user", "bob"]),
        (["-t", "PD"], ["--yes", "--state", "pending"]),
        (["--state=R,pending"], ["--yes", "--state", "running,pending"]),
        (["--account", "P", "--jobname=Y", "-tRUNNING"],
         ["--yes", "--project", "P", "--name", "Y", "--state", "running"]),
    ],
)  # fmt: skip
def test_scancel_names_jobs_or_filters(
    ran: Ran, monkeypatch: pytest.MonkeyPatch, words: list[str], command: list[str]
) -> None:
    monkeypatch.setenv("USER", "ann")
    ran.code = 3
    assert queue.main("scancel", words) == 3
    assert ran.commands == [[BURSAR, "cancel", *command]]


def test_filters_that_find_no_job_are_no_mistake_and_an_id_of_none_is(
    ran: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    ran.code, ran.stderr = 4, b"error: no job named 'x'\n"
    assert queue.scancel(["-n", "x"]) == 0
    assert capsys.readouterr() == ("", "")
    assert queue.scancel(["12"]) == 1
    assert capsys.readouterr() == ("", "error: no job named 'x'\n")
    ran.code, ran.stderr = 0, b"2 jobs to cancel\n"
    assert queue.scancel(["-u", "ann"]) == 0
    assert capsys.readouterr() == ("", "")


def test_whoever_asks_is_known_without_a_variable(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("USER", raising=False)
    monkeypatch.delenv("LOGNAME", raising=False)
    assert queue.scancel(["--me"]) == 0
    assert ran.commands == [[BURSAR, "cancel", "--yes", "--user", pwd.getpwuid(os.getuid()).pw_name]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no job is named"),
        (["-Q"], "no job is named"),
        (["1", "--me"], "ids and filters together cannot be done here"),
        (["--signal=9", "1"], "--signal=9 cannot be done here: ids, --name, --user, --state, --account"),
        (["--name"], "--name cannot be done here: ids, --name, --user, --state, --account"),
    ],
)
def test_scancel_refuses_what_it_cannot_do(
    ran: Ran, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert queue.scancel(words) == 2
    assert (capsys.readouterr().err, ran.commands) == (f"scancel: error: {said}\n", [])


@pytest.mark.parametrize("word", ["--help", "--usage"])
def test_help_names_the_page_of_options(capsys: pytest.CaptureFixture[str], word: str) -> None:
    assert queue.main("squeue", [word]) == 0
    assert capsys.readouterr().out == (
        "squeue of bursar: the options are Slurm's, as far as docs/from-slurm.md lists them\n"
    )


# --- scontrol

JOB = {
    "SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2", "SLURM_JOB_NAME": "n",
    "SLURM_JOB_USER": "ann", "SLURM_JOB_ACCOUNT": "nlp", "SLURM_JOB_QOS": "q", "SLURM_RESTART_COUNT": "1",
    "SLURM_JOB_START_TIME": "1000000000", "SLURM_JOB_END_TIME": "1000093784", "SLURM_JOB_PARTITION": "p",
    "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "4",
    "SLURM_CPUS_PER_TASK": "3", "SLURM_SUBMIT_DIR": "/w", names.SCRIPT_FILE: "/w/run.sh",
    names.OUTPUT_FILE: "/w/9.out",
}  # fmt: skip
LINES = (
    "JobId=9 JobName=n",
    f"UserId=ann({os.getuid()}) Account=nlp QOS=q",
    "JobState=RUNNING Reason=None Requeue=1 Restarts=1",
    "TimeLimit=26:03:04",
    "StartTime=2001-09-09T01:46:40 EndTime=2001-09-10T03:49:44",
    "Partition=p",
    "NodeList=n[1-2]",
    "NumNodes=2 NumTasks=4 CPUs/Task=3",
    "Command=/w/run.sh",
    "WorkDir=/w",
    "StdErr=/w/9.out",
    "StdIn=/dev/null",
    "StdOut=/w/9.out",
)


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**JOB, "TZ": "UTC"}.items():
        monkeypatch.setenv(name, value)
    time.tzset()


@pytest.mark.parametrize("words", [["show", "job"], ["show", "job", "9"], ["SHOW", "jobs", "7_2"]])
def test_scontrol_shows_the_running_job(
    inside: None, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert scontrol.main(words) == 0
    assert capsys.readouterr().out == "\n   ".join(LINES) + "\n"
    assert scontrol.main(["-o", *words]) == 0
    assert capsys.readouterr().out == " ".join(LINES) + "\n"
    assert scontrol.main([*words, "-d"]) == 0
    assert capsys.readouterr().out == "\n   ".join(LINES) + "\n"


def test_scontrol_writes_lists_of_hosts_both_ways(inside: None, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["show", "hostnames"], ["show", "hostname", "n[1-2]"]):
        assert scontrol.main(words) == 0
        assert capsys.readouterr().out == "n1\nn2\n"
    assert scontrol.main(["show", "hostlist", "n1,n2,m"]) == 0
    assert capsys.readouterr().out == "n[1-2],m\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            [],
            "without words cannot be done here; show hostnames, show job, show node, show partition, update,",
        ),
        (["getaddrs", "n3"], "getaddrs n3: n3 is no node of this job\n"),
        (["getaddrs", "n[x]"], "getaddrs n[x]: 'x' is no range\n"),
        (["show", "config"], "show config cannot be done here; show hostnames, show job, show node, show "),
        (["show", "hostlist"], "show hostlist cannot be done here;"),
        (["hold"], "hold cannot be done here;"),
        (["update", "JobId=1"], "update: name a job with JobId=, and what to change\n"),
        (["show", "hostnames", "n[x]"], "show hostnames n[x]: 'x' is no range\n"),
    ],
)
def test_scontrol_refuses_what_an_administrator_does(
    inside: None, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert scontrol.main(words) == 2
    assert capsys.readouterr().err.startswith(f"scontrol: error: {said}")


def test_scontrol_says_addresses_as_slurm_does(
    inside: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(names.NODE_NAMES, "n1,n2")
    monkeypatch.setenv("BURSAR_NODE_ADDRESSES", "10.0.0.1,10.0.0.2")
    assert scontrol.main(["getaddrs", "n[1-2]"]) == 0
    assert scontrol.main(["getaddrs"]) == 0
    assert capsys.readouterr().out == "n1: 10.0.0.1:6818\nn2: 10.0.0.2:6818\n" * 2


def test_what_a_job_without_a_start_says_of_its_times(capsys: pytest.CaptureFixture[str]) -> None:
    assert scontrol._job({"SLURM_JOB_ID": "1", "SLURM_JOB_START_TIME": "-5"}, True) == 0
    assert "TimeLimit=00:00:05 StartTime=Unknown EndTime=Unknown Partition= " in capsys.readouterr().out


def test_scontrol_hands_verbs_on(ran: Ran) -> None:
    assert scontrol.main(["Requeue", "9,7_2"]) == 0
    assert ran.commands == [[BURSAR, "requeue", "9", "7[2]"]]


# --- hosts, files and variables of tasks


@pytest.mark.parametrize(
    ("hosts", "text"),
    [
        (["n1", "n2", "n3", "m"], "n[1-3],m"), (["n1", "n3", "n4"], "n[1,3-4]"), (["n09", "n10"], "n[09-10]"),
        (["n9", "n10"], "n[9-10]"), (["n9", "n010"], "n[9,010]"), (["a", "b"], "a,b"), (["n1"], "n1"),
        (["n1", "m1", "n2"], "n1,m1,n2"), (["n2", "n1"], "n[2,1]"), ([], ""),
    ],
)  # fmt: skip
def test_names_of_hosts_are_written_short_and_read_again(hosts: list[str], text: str) -> None:
    assert compress_hosts(hosts) == text
    if hosts:
        assert expand_hosts(text) == hosts


@pytest.mark.parametrize(
    ("text", "found"),
    [("a[01-02]b[1,3]", ["a01b1", "a01b3", "a02b1", "a02b3"]), ("n1, n2,n1", ["n1", "n2"]), ("x[5]", ["x5"])],
)
def test_lists_of_hosts_have_every_name_once(text: str, found: list[str]) -> None:
    assert expand_hosts(text) == found


@pytest.mark.parametrize("text", ["", "n[1-2", "n[]", "n[2-1]", "n[1-20000]", "a[0-9999],b[0-9999]"])
def test_what_is_no_list_of_hosts_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no list|no range|more than 10000 names"):
        expand_hosts(text)


def test_the_most_names_that_a_list_may_have_are_read() -> None:
    assert len(expand_hosts("n[1-10000]")) == 10_000


def test_counts_stand_together_where_neighbours_are_equal() -> None:
    assert [counts_by_node(each) for each in ([2, 2, 2, 1], [1], [], [1, 2, 1])] == [
        "2(x3),1",
        "1",
        "",
        "1,2,1",
    ]


SPEC: dict[str, Any] = {
    "tasks": 8, "slurm": True, "distributed": True, "gpus_per_task": 0, "gpus_per_node": 0, "step": 3,
    "node": "n2", "node_index": 1, "append": False, "output": "", "error": "", "cwd": "/", "ranks": [4, 5],
}  # fmt: skip


def test_a_task_has_its_ranks_under_every_name() -> None:
    assert task_environment(SPEC, {}, 1, 5) == {
        "BURSAR_STEP_RANK": "5", "BURSAR_STEP_LOCAL_RANK": "1", "BURSAR_STEP_TASKS": "8", "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1", "RANK": "5", "LOCAL_RANK": "1",
    }  # fmt: skip
    plain = task_environment({**SPEC, "slurm": False, "distributed": False}, {}, 0, 4)
    assert plain == {"BURSAR_STEP_RANK": "4", "BURSAR_STEP_LOCAL_RANK": "0", "BURSAR_STEP_TASKS": "8"}


@pytest.mark.parametrize(
    ("per_task", "per_node", "seen"), [(0, 0, None), (2, 0, "g2,g3"), (0, 3, "g0,g1,g2"), (1, 3, "g1")]
)
def test_a_task_sees_its_devices(per_task: int, per_node: int, seen: str | None) -> None:
    spec = {**SPEC, "gpus_per_task": per_task, "gpus_per_node": per_node}
    found = task_environment(spec, {"CUDA_VISIBLE_DEVICES": "g0,g1,g2,g3"}, 1, 5)
    assert found.get("CUDA_VISIBLE_DEVICES") == seen


@pytest.mark.parametrize(
    ("per_task", "per_node", "places", "seen"),
    [(1, 0, [2, 3], "g3"), (0, 2, [1, 3], "g1,g3"), (1, 0, [0, 9], ""), (0, 0, [], None)],
)
def test_a_task_sees_the_devices_that_are_its_steps_alone(
    per_task: int, per_node: int, places: list[int], seen: str | None
) -> None:
    spec = {**SPEC, "gpus_per_task": per_task, "gpus_per_node": per_node, "gpu_places": places}
    found = task_environment(spec, {"CUDA_VISIBLE_DEVICES": "g0,g1,g2,g3"}, 1, 5)
    assert found.get("CUDA_VISIBLE_DEVICES") == seen


@pytest.mark.parametrize(
    ("shared", "places", "seen"),
    [(1, [], "01230"), (2, [], "00112"), (0, [3, 1], "31313")],
)
def test_tasks_are_bound_to_devices_in_turn(shared: int, places: list[int], seen: str) -> None:
    spec = {**SPEC, "tasks_per_gpu": shared, "gpu_map": places}
    env = {"CUDA_VISIBLE_DEVICES": "g0,g1,g2,g3"}
    found = [task_environment(spec, env, local, local)["CUDA_VISIBLE_DEVICES"] for local in range(5)]
    assert found == [f"g{one}" for one in seen]


def test_names_of_files_are_filled_as_slurm_fills_them() -> None:
    env = {"SLURM_JOB_ID": "7", "USER": "ann", "SLURM_JOB_NAME": "tr", "SLURM_ARRAY_JOB_ID": "6"}
    pattern = "%A %a %J %j %N %h %n %s %t %u %x %% %4t %3j %2u %z"
    found = "6 4294967294 7.3 7 n2 n2 1 3 5 ann tr % 0005 007 ann %z"
    assert file_name(pattern, SPEC, env, 1, 5) == found
    own = {"BURSAR_JOB_NUMBER": "8", "BURSAR_ARRAY_INDEX": "2"}
    assert file_name("%A %a %j", SPEC, own, 0, 4) == "8 2 8"
    assert file_name("%a", SPEC, {**own, "SLURM_ARRAY_TASK_ID": "1"}, 0, 4) == "1"


@pytest.mark.parametrize(
    ("pattern", "own"),
    [("a_%j", False), ("%t", True), ("%4n", True), ("%N", True), ("%h", True), ("%%t", False)],
)
def test_a_name_that_differs_from_task_to_task_is_opened_there(pattern: str, own: bool) -> None:
    assert of_a_task(pattern) is own


@pytest.mark.parametrize("append", [False, True])
def test_files_of_tasks_are_made_empty_unless_the_step_appends(tmp_path: Path, append: bool) -> None:
    (tmp_path / "o4").write_text("before")
    spec = {**SPEC, "cwd": str(tmp_path), "append": append, "output": "o%t", "error": "none"}
    empty(spec, {})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "o4": "before" if append else "", "o5": "",
    }  # fmt: skip
    empty({**spec, "cwd": str(tmp_path / "none")}, {})
