"""Which members a step gets, and what srun's words mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from bursar.steps import names, srun
from bursar.steps.patterns import file_name, of_a_task
from bursar.steps.request import Member, Refused, Request, members, places, refuse_more_gpus, specs
from bursar.steps.slots import refuse_more_tasks

FOUR = [Member(rank, f"n{rank}", f"10.0.0.{rank}") for rank in range(4)]
JOB = {
    names.MEMBER: "att_x.0@1f-2e",
    names.DIRECTORY: "/steps",
    names.NODE_NAMES: "n0,n1,n2,n3",
    "BURSAR_NODE_ADDRESSES": "10.0.0.0,10.0.0.1,10.0.0.2,10.0.0.3",
    "BURSAR_NODES": "4",
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "8",
    "SLURM_NNODES": "4",
    "SLURM_NTASKS_PER_NODE": "2",
}


def spread(request: Request) -> dict[int, list[int]]:
    return {place.member.rank: place.ranks for place in places(request, FOUR)}


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, {0: [0], 1: [1], 2: [2], 3: [3]}),
        ({"tasks": 1}, {0: [0]}),
        ({"tasks": 6}, {0: [0, 1], 1: [2, 3], 2: [4], 3: [5]}),
        ({"tasks": 6, "cyclic": True}, {0: [0, 4], 1: [1, 5], 2: [2], 3: [3]}),
        ({"nodes": 2, "tasks_per_node": 2}, {0: [0, 1], 1: [2, 3]}),
        ({"tasks": 4, "tasks_per_node": 2}, {0: [0, 1], 1: [2, 3]}),
        ({"node": ["n2"]}, {2: [0]}),
        ({"node": ["10.0.0.3", "n1"], "tasks": 2}, {3: [0], 1: [1]}),
        ({"node": ["n3"], "nodes": 2, "tasks": 2}, {3: [0], 0: [1]}),
        ({"exclude": ["n0", "n1"]}, {2: [0], 3: [1]}),
    ],
)
def test_tasks_go_to_members_in_blocks_or_in_turn(asked: dict, found: dict[int, list[int]]) -> None:
    assert spread(Request(["true"], **asked)) == found


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"nodes": 5}, "5 nodes are asked for; there are 4"),
        ({"node": ["n9"]}, "n9 is no node of this job; these are: n[0-3]"),
        ({"tasks": 5000}, "at most 4096"),
        ({"tasks": 9, "nodes": 2, "tasks_per_node": 4}, "2 nodes take 4 each"),
    ],
)
def test_what_the_job_does_not_have_is_refused(asked: dict, words: str) -> None:
    with pytest.raises(Refused) as caught:
        places(Request(["true"], **asked), FOUR)
    assert words in str(caught.value)
    assert caught.value.code == 2


def test_a_process_knows_its_attempt_and_all_members() -> None:
    assert members(JOB) == ("att_x", 0, FOUR)
    assert members({**JOB, names.MEMBER: "att_y.3"})[:2] == ("att_y", 3)


def test_outside_of_a_job_there_are_no_steps() -> None:
    with pytest.raises(Refused, match="not inside a running job"):
        members({"PATH": "/bin"})


def of_srun(*words: str, env: dict[str, str] = JOB) -> Request:
    return srun.request_of(words, env)[0]


def test_srun_takes_what_the_job_asked_for_unless_it_says_otherwise() -> None:
    assert spread(of_srun("a")) == {0: [0, 1], 1: [2, 3], 2: [4, 5], 3: [6, 7]}
    assert spread(of_srun("-N1", "a")) == {0: [0, 1]}
    assert spread(of_srun("-n", "2", "a")) == {0: [0], 1: [1]}
    assert spread(of_srun("-w", "n[2-3]", "a")) == {2: [0, 1], 3: [2, 3]}
    assert spread(of_srun("--nodes=1", "--ntasks=1", "-wn3", "a")) == {3: [0]}
    assert spread(of_srun("-N", "4", "-n1", "a")) == {0: [0]}


def test_words_behind_the_command_are_its_own() -> None:
    request = of_srun("-lu", "--kill", "--output", "o.%t", "python", "-N", "3", "--", "-l")
    assert request.argv == ["python", "-N", "3", "--", "-l"]
    assert (request.label, request.unbuffered, request.kill_on_bad_exit) == (True, True, True)
    assert request.output == "o.%t"
    assert of_srun("--", "-x").argv == ["-x"]
    assert of_srun("-K0", "a").kill_on_bad_exit is False
    assert of_srun("-K", "-W", "60", "a").wait_s == 60


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 300), ("1:30", 90), ("1:0:1", 3601), ("1-0", 86400), ("1-1:1", 90060), ("0:30", 30)],
)
def test_times_are_slurms(text: str, seconds: int) -> None:
    assert of_srun("-t", text, "a").time_s == seconds


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--het-group=0", "a"), "--het-group cannot be done: jobs of several parts"),
        (("--pty", "bash"), "--pty cannot be done: a job has no terminal"),
        (("--mpi=pmix", "a"), "use mpirun"),
        (("--jobid=9", "a"), "--jobid 9 is another job"),
        (("--nt", "2", "a"), "is one of --ntasks, --ntasks-per-node"),
        (("--nonsense", "a"), "--nonsense is not an option of srun here"),
        (("-N", "two", "a"), "--nodes two is not a number"),
        (("-n", "0", "a"), "--ntasks 0 is not a number above 0"),
        (("-N0", "a"), "--nodes 0 is not a number above 0"),
        (("-N", "0-00", "a"), "--nodes 00 is not a number above 0"),
        (("--ntasks-per-node=0", "a"), "--ntasks-per-node 0 is not a number above 0"),
        (("--tasks-per-node=0", "a"), "--ntasks-per-node 0 is not a number above 0"),
        (("-c", "0", "a"), "--cpus-per-task 0 is not a number above 0"),
        (("--distribution=plane", "a"), "block and cyclic can"),
        (("-n",), "-n needs a value"),
        (("--label=x", "a"), "--label takes no value"),
        ((), "no command is given"),
    ],
)
def test_what_srun_cannot_do_is_refused_by_name(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(Refused) as caught:
        of_srun(*words)
    assert said in str(caught.value)
    assert caught.value.code == 2


def test_export_says_what_tasks_inherit() -> None:
    env = {**JOB, "OWN": "1", "PATH": "/bin"}
    assert srun.request_of(["--export=ALL,A=2", "a"], env)[1] == {**env, "A": "2"}
    kept = srun.request_of(["--export=A=2", "a"], env)[1]
    assert kept["A"] == "2"
    assert "OWN" not in kept
    assert kept["SLURM_JOB_ID"] == "7"
    assert kept["PATH"] == "/bin"
    assert srun.request_of(["--export=OWN", "a"], env)[1]["OWN"] == "1"


def told(asked: Request, env: dict[str, str]) -> list[dict]:
    return specs(asked, places(asked, FOUR), env, 3)


def test_each_node_is_told_its_place_and_the_step_its_size() -> None:
    first, second = told(of_srun("-N2", "--ntasks-per-node=2", "a"), JOB)
    assert first["env"]["SLURM_NTASKS"] == "4"
    assert first["env"]["SLURM_STEP_ID"] == "3"
    assert first["env"]["SLURM_STEP_NODELIST"] == "n[0-1]"
    assert first["env"]["SLURM_NNODES"] == "2"
    assert first["env"]["SLURM_TASKS_PER_NODE"] == "2(x2)"
    assert (second["node_env"]["SLURM_NODEID"], second["node_env"]["SLURM_GTIDS"]) == ("1", "2,3")
    assert second["node_env"]["SLURMD_NODENAME"] == "n1"


def test_torch_finds_its_world_unless_the_script_made_one() -> None:
    ours = told(Request(["a"], tasks=8), {**JOB, "WORLD_SIZE": "4"})[0]
    assert ours["distributed"]
    assert ours["env"]["WORLD_SIZE"] == "8"
    assert ours["env"]["MASTER_ADDR"] == "10.0.0.0"
    assert ours["env"]["MASTER_PORT"].isdigit()
    theirs = told(Request(["a"], tasks=8), {**JOB, "WORLD_SIZE": "32", "MASTER_PORT": "1"})[0]
    assert theirs["env"]["WORLD_SIZE"] == "32"
    assert theirs["env"]["MASTER_PORT"] == "1"
    assert not told(Request(["a"], tasks=1), JOB)[0]["distributed"]


def test_what_is_of_the_node_does_not_travel() -> None:
    env = {**JOB, "CUDA_VISIBLE_DEVICES": "0", "TMPDIR": "/scratch", "OWN": "1"}
    sent = told(Request(["a"]), env)[1]["env"]
    assert sent["OWN"] == "1"
    assert not sent.keys() & names.OF_THE_NODE


def test_names_of_files_are_slurms() -> None:
    spec = {"step": 2, "node": "n1", "node_index": 1}
    env = {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "4", "USER": "ann"}
    assert file_name("%j_%A_%a_%t_%3n_%N_%s_%J_%u_%%", spec, env, 0, 7) == "12_9_4_7_001_n1_2_12.2_ann_%"
    assert of_a_task("o.%2t")
    assert of_a_task("o.%N")
    assert not of_a_task("o.%j%%t")


@pytest.mark.parametrize(
    ("words", "gpus", "refused"),
    [
        ("--gpus-per-node=3", "2", "--gpus-per-node: 3 GPUs asked for; the job holds 2 on a node"),
        ("--gres=gpu:a100:1", "0", "--gpus-per-node: 1 GPU asked for; the job holds 0 on a node"),
        (
            "-n 8 --gpus-per-task 2",
            "3",
            "--gpus-per-task: 2 tasks on a node with 2 each need 4 GPUs; the job holds 3",
        ),
        ("-n 4 --gpus-per-task 2", "2", ""),
        ("--gpus-per-node=2", "2", ""),
        ("--gpus-per-node=1", "0.5", ""),
        ("--gpus-per-node=2", "0.5", "--gpus-per-node: 2 GPUs asked for; the job holds 1 on a node"),
        ("--gpus-per-node=9", "", ""),
        ("-N4 --gpus 8", "2", ""),
        ("-N2 -n4 --gpus=2", "1", ""),
        ("-n1 -G3", "2", "--gpus-per-node: 3 GPUs asked for; the job holds 2 on a node"),
        ("-N4 --gpus 3", "2", "--gpus 3: they do not divide over 4 nodes; give --gpus-per-task"),
    ],
)
def test_more_devices_than_the_job_holds_on_a_node_are_refused_by_name(
    words: str, gpus: str, refused: str
) -> None:
    env = JOB | ({"BURSAR_GPUS": gpus} if gpus else {})

    def ask() -> None:
        request, _ = srun.request_of([*words.split(), "true"], env)
        refuse_more_gpus(request, env, places(request, FOUR))

    if not refused:
        ask()
        return
    with pytest.raises(Refused) as found:
        ask()
    assert (str(found.value).startswith(refused), found.value.code) == (True, 2)


GPUS = {**JOB, "BURSAR_GPUS": "4"}


@pytest.mark.parametrize(
    ("words", "env", "bound"),
    [
        ((), {}, (0, 0, [])),
        (("--gpus-per-task=2",), {}, (2, 0, [])),
        ((), {"SLURM_GPUS_PER_TASK": "a100:1"}, (1, 0, [])),
        (("--gpus-per-task=2",), {"SLURM_GPUS_PER_TASK": "1"}, (2, 0, [])),
        (("--gpu-bind=none",), {"SLURM_GPUS_PER_TASK": "1"}, (0, 0, [])),
        ((), {"SLURM_GPUS_PER_TASK": "1", "SLURM_GPU_BIND": "verbose,closest"}, (0, 0, [])),
        (("--gpu-bind=per_task:2",), {}, (2, 0, [])),
        (("--gpu-bind=single:2",), {"SLURM_GPUS_PER_TASK": "1"}, (0, 2, [])),
        (("--gpu-bind=v,single",), {}, (0, 1, [])),
        (("--gpu-bind=map_gpu:3,0",), {}, (0, 0, [3, 0])),
    ],
)
def test_tasks_are_bound_to_gpus_as_the_job_or_the_step_says(
    words: tuple[str, ...], env: dict[str, str], bound: tuple[int, int, list[int]]
) -> None:
    request = of_srun(*words, "a", env={**GPUS, **env})
    assert (request.gpus_per_task, request.tasks_per_gpu, request.gpu_map) == bound


@pytest.mark.parametrize(
    ("words", "env", "claim"),
    [
        (("--gpus-per-task=1",), {}, "wait"), (("--gres=gpu:1",), {}, "wait"), (("-N4", "-G4"), {}, "wait"),
        ((), {"SLURM_GPUS_PER_TASK": "1"}, "free"), (("--exact",), {"SLURM_GPUS_PER_TASK": "1"}, "wait"),
        (("--overlap", "--gpus-per-task=1"), {}, ""), (("--gpus-per-task=1", "--gpu-bind=single:2"), {}, ""),
        (("--gpu-bind=map_gpu:0,1",), {}, ""), (("--exclusive",), {}, ""), (("--gres=none",), {}, ""),
    ],
)  # fmt: skip
def test_gpus_of_a_step_are_its_own_unless_it_says_otherwise(
    words: tuple[str, ...], env: dict[str, str], claim: str
) -> None:
    assert of_srun(*words, "a", env={**GPUS, **env}).gpu_claim == claim


@pytest.mark.parametrize("text", ["mask_gpu:0x1", "map_gpu:", "map_gpu:a", "per_task:x", "odd"])
def test_a_binding_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="--gpu-bind"):
        of_srun(f"--gpu-bind={text}", "a", env=GPUS)


def test_a_gpu_that_the_job_does_not_hold_is_not_mapped() -> None:
    request = of_srun("--gpu-bind=map_gpu:0,4", "a", env=GPUS)
    with pytest.raises(Refused, match="GPU 4 is named; the job holds 4 on a node, from 0"):
        refuse_more_gpus(request, GPUS, places(request, FOUR))


def test_each_rank_of_a_step_may_have_its_own_program(tmp_path: Path) -> None:
    listed = tmp_path / "programs"
    listed.write_text("# who runs what\n0 server --at %t\n1-2,3 worker \\\n  'a b' %o # its place\n")
    request = of_srun("-n4", "--multi-prog", str(listed))
    assert request.programs == {
        0: ["server", "--at", "0"], 1: ["worker", "a b", "0"], 2: ["worker", "a b", "1"],
        3: ["worker", "a b", "2"],
    }  # fmt: skip
    told = specs(request, places(request, FOUR), JOB, 0)
    assert [one["programs"] for one in told][:2] == [
        {"0": ["server", "--at", "0"]}, {"1": ["worker", "a b", "0"]},
    ]  # fmt: skip
    listed.write_text("0 head\n1-2 some %o\n* rest %t\n")
    assert of_srun("-n4", "--multi-prog", str(listed)).programs == {
        0: ["head"], 1: ["some", "0"], 2: ["some", "1"], 3: ["rest", "3"],
    }  # fmt: skip
    listed.write_text("* all %t\n")
    assert of_srun("-n2", "--multi-prog", str(listed)).programs == {0: ["all", "0"], 1: ["all", "1"]}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0 a\n", "task 1 has no program"),
        ("0-2 a\n", ":1: 0-2 names tasks above 1, the last"),
        ("\n0 a\n1\n", ":3: no program is named"),
        ("0,x a\n", ":1: x is no range of tasks"),
        ("0 'a\n", ":1: No closing quotation"),
        (None, "No such file or directory"),
    ],
)
def test_a_list_of_programs_that_leaves_a_task_out_is_refused(
    tmp_path: Path, text: str | None, why: str
) -> None:
    if text is not None:
        (tmp_path / "programs").write_text(text)
    with pytest.raises(Refused) as caught:
        of_srun("-n2", "--multi-prog", str(tmp_path / "programs"))
    assert str(caught.value).startswith("--multi-prog ")
    assert str(caught.value).endswith(why)


@pytest.mark.parametrize(
    ("tasks", "cpus", "asked", "most"),
    [
        (256, "1", 0, 64),
        (257, "1", 65, 64),
        (257, "0.5", 65, 64),
        (257, "9", 0, 72),
        (288, "9", 0, 72),
        (289, "9", 73, 72),
        (257, "8.5", 0, 68),
        (273, "8.5", 69, 68),
        (257, "nan", 65, 64),
        (257, "", 65, 64),
    ],
)
def test_more_tasks_of_a_node_than_its_cpus_can_start_are_refused_with_the_number(
    tasks: int, cpus: str, asked: int, most: int
) -> None:
    found = places(Request(["true"], tasks=tasks), FOUR)
    if not asked:
        refuse_more_tasks({"BURSAR_CPUS": cpus}, found)
        return
    with pytest.raises(Refused) as refused:
        refuse_more_tasks({"BURSAR_CPUS": cpus}, found)
    assert str(refused.value) == (
        f"{asked} tasks are asked for on node n0; at most {most} run there in one step: 8 for each CPU that"
        " the job holds there, and 64 in any case. Give the job more CPUs or nodes, or start fewer"
        " tasks at a time"
    )


@pytest.mark.parametrize(
    ("words", "file", "to_all"),
    [
        ([], "", True),
        (["--input=all"], "", True),
        (["--input=none"], "none", False),
        (["--input=0"], "", False),
        (["-i", "in.%t"], "in.%t", False),
    ],
)
def test_srun_gives_its_input_to_every_task_unless_it_says_otherwise(
    words: list[str], file: str, to_all: bool
) -> None:
    asked, _ = srun.request_of([*words, "cat"], {"SLURM_JOB_ID": "1"})
    assert (asked.input, asked.broadcast) == (file, to_all)


def test_srun_takes_variables_of_the_script_for_options_and_what_is_typed_above_them() -> None:
    env = {
        "SLURM_JOB_ID": "1", "SLURM_KILL_BAD_EXIT": "1", "SLURM_LABELIO": "yes", "SLURM_UNBUFFEREDIO": "0",
        "SLURM_WAIT": "30", "SLURM_STDOUTMODE": "out.%t", "SLURM_EXPORT_ENV": "NONE,A=1", "B": "2",
    }  # fmt: skip
    asked, told = srun.request_of(["--wait=5", "cat"], env)
    assert (asked.kill_on_bad_exit, asked.label, asked.unbuffered) == (True, True, False)
    assert (asked.wait_s, asked.output) == (5, "out.%t")
    assert (told.get("A"), told.get("B")) == ("1", None)
    with pytest.raises(Refused, match="--mpi=pmi2"):
        srun.request_of(["cat"], {"SLURM_JOB_ID": "1", "SLURM_MPI_TYPE": "pmi2"})
    assert not srun.request_of(["cat"], {**env, "SLURM_KILL_BAD_EXIT": "0"})[0].kill_on_bad_exit


@pytest.mark.parametrize(
    ("words", "nodes", "tasks"),
    [
        (["-r1", "-N1", "-n2"], ["b"], 2),
        (["--relative=1", "-N2"], ["b", "c"], 2),
        (["--relative", "2"], ["c"], 4),
        (["-r", "0", "-n2"], ["a", "b"], 2),
    ],
)
def test_relative_counts_the_jobs_nodes_from_its_first(
    words: list[str], nodes: list[str], tasks: int
) -> None:
    env = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", names.NODE_NAMES: "a,b,c"}
    asked, _ = srun.request_of([*words, "hostname"], env)
    assert (asked.node, asked.nodes, asked.tasks) == (nodes, len(nodes), tasks)
    all_members = [Member(at, name, f"10.0.0.{at}") for at, name in enumerate("abc")]
    assert [place.member.name for place in places(asked, all_members)] == nodes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-r3"], "--relative 3: the nodes of this job are 0 to 2"),
        (["-r", "x"], "--relative x: the nodes"),
        (["-r2", "-N2"], "2 nodes from there on are asked for; the job has 3"),
        (["-r1", "-w", "a"], "both say which nodes"),
    ],
)
def test_nodes_that_a_job_does_not_have_are_refused(words: list[str], said: str) -> None:
    env = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", names.NODE_NAMES: "a,b,c"}
    with pytest.raises(Refused, match=said):
        srun.request_of([*words, "hostname"], env)


@pytest.mark.parametrize("word", ["--input=1", "--output=0", "--error=2"])
def test_the_stream_of_one_task_by_its_rank_is_refused(word: str) -> None:
    with pytest.raises(Refused, match="by its rank cannot be told apart here"):
        srun.request_of([word, "cat"], {"SLURM_JOB_ID": "1"})
