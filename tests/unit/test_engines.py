"""What each engine of `launch:` is started with: its words, for a member of a job that is described here."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from bursar.codec.launch import launch_to_bytes
from bursar.model import JobSpec, Launch, holds_its_place, launch_of, runs_once
from bursar.model.check import check
from bursar.steps import cluster, engines, names
from bursar.steps.request import Refused
from bursar_agent.runner import spawning

NODES = {"BURSAR_NODE_NAMES": "a,b", "BURSAR_NODE_ADDRESSES": "10.0.0.1,10.0.0.2", "MASTER_PORT": "29000"}

PATIENCE = ["env", "RAY_raylet_start_wait_time_s=180", "RAY_agent_register_timeout_ms=180000"]


def member(
    tmp_path: Path, rank: int = 0, programs: dict[str, str] | None = None, **more: str
) -> dict[str, str]:
    """The environment of a member whose PATH has these programs, by what they print."""
    for name, said in (programs or {}).items():
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\necho '{said}'\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    own = {"BURSAR_ATTEMPT_MEMBER": f"att_1.{rank}@x", "BURSAR_STEPS": "/steps", "PATH": str(tmp_path)}
    return {**NODES, **own, **more}


def problems(**fields: object) -> list[str]:
    return [str(each.message) for each in check(JobSpec(**fields))]  # type: ignore[arg-type]


def test_torchrun_joins_the_world_of_all_nodes_with_a_process_for_each_gpu(tmp_path: Path) -> None:
    env = member(tmp_path, 1, {"torchrun": ""}, CUDA_VISIBLE_DEVICES="0,1,2")
    assert engines._torchrun(engines.job_of(env, ["python", "train.py"])) == [
        f"{tmp_path}/torchrun",
        "--nnodes=2",
        "--node-rank=1",
        "--master-addr=10.0.0.1",
        "--master-port=29000",
        "--nproc-per-node=3",
        "--no-python",
        "python",
        "train.py",
    ]


def test_torchrun_on_one_node_needs_no_port_and_runs_a_python_file_itself(tmp_path: Path) -> None:
    one = {"BURSAR_NODE_NAMES": "a", "BURSAR_NODE_ADDRESSES": "10.0.0.1"}
    env = member(
        tmp_path, programs={"torchrun": ""}, BURSAR_TASKS_PER_NODE="4", CUDA_VISIBLE_DEVICES="0", **one
    )
    found = engines._torchrun(engines.job_of(env, ["train.py", "--lr=1"]))
    assert found == [f"{tmp_path}/torchrun", "--standalone", "--nproc-per-node=4", "train.py", "--lr=1"]


def test_torch_without_its_program_is_started_as_a_module(tmp_path: Path) -> None:
    env = member(tmp_path, programs={"python3": ""})
    found = engines._torchrun(engines.job_of(env, ["./a"]))
    assert found[:3] == [f"{tmp_path}/python3", "-m", "torch.distributed.run"]
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\nexit 1\n")  # as it answers when it is asked for a module that it has not
    python.chmod(0o755)
    with pytest.raises(Refused, match=r"launch: torchrun needs torch: .*python3 no torch") as refused:
        engines._torchrun(engines.job_of(env, ["./a"]))
    assert refused.value.code == 127


def test_open_mpi_gets_hosts_with_slots_and_steps_for_its_daemons(tmp_path: Path) -> None:
    env = member(tmp_path, programs={"mpirun": "mpirun (Open MPI) 4.1.4"}, BURSAR_CPUS="2.5")
    found, more = engines._mpi(engines.job_of(env, ["./solve"]))
    assert found == [f"{tmp_path}/mpirun", "--host", "a:2,b:2", "-np", "4", "./solve"]
    assert more["OMPI_MCA_plm_rsh_agent"] == more["PRTE_MCA_plm_ssh_agent"] == "/steps/bin/bursar-rsh"
    assert ("OMPI_ALLOW_RUN_AS_ROOT" in more) == (os.getuid() == 0)
    env[names.SCRIPT_TEXT] = "true"
    found, _ = engines._mpi(engines.job_of(env, ["sh"]))
    assert found[-3:] == ["-x", names.SCRIPT_TEXT, "sh"]


def test_hydra_gets_its_own_words(tmp_path: Path) -> None:
    env = member(tmp_path, programs={"mpirun": "HYDRA build details:"}, BURSAR_TASKS_PER_NODE="3")
    found, more = engines._mpi(engines.job_of(env, ["./solve"]))
    words = "-launcher ssh -launcher-exec /steps/bin/bursar-rsh -hosts a,b -ppn 3 -n 6 ./solve"
    assert (found, more) == ([f"{tmp_path}/mpirun", *words.split()], {})


def test_workers_are_told_what_the_job_has_of_their_node(tmp_path: Path) -> None:
    sizes = {"BURSAR_CPUS": "4", "BURSAR_MEMORY_BYTES": str(8 * 1024**3), "CUDA_VISIBLE_DEVICES": "2,5"}
    env = member(tmp_path, 1, {"dask": "", "ray": "", "spark-class": ""}, TMPDIR="/scratch", **sizes)
    job = engines.job_of(env, ())
    ray = engines._ray_worker(job, "10.0.0.1:7")
    assert {"--address=10.0.0.1:7", "--node-ip-address=10.0.0.2", "--num-cpus=4", "--num-gpus=2"} <= set(ray)
    assert f"--object-store-memory={8 * 1024**3 * 3 // 10}" in ray
    dask = " ".join(engines._dask_worker(job, "tcp://10.0.0.1:7"))
    assert f"--nworkers 2 --nthreads 2 --memory-limit {4 * 1024**3} --local-directory /scratch" in dask
    spark = " ".join(engines._spark_worker(job, "spark://10.0.0.1:7"))
    assert "--host 10.0.0.2 --webui-port 0 --cores 4 --memory 8192M --work-dir /scratch spark://" in spark


def test_each_engine_of_a_cluster_is_started_with_these_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads on the first member; workers with the head's address, and what the job has of their node."""
    monkeypatch.setattr(engines, "_free_port", lambda: 7_001)
    sizes = {"BURSAR_CPUS": "3", "BURSAR_MEMORY_BYTES": str(1024**3), "CUDA_VISIBLE_DEVICES": "2"}
    job = engines.job_of(member(tmp_path, programs={"dask": "", "ray": "", "spark-class": ""}, **sizes), ())
    here, head = str(tmp_path), "10.0.0.1:7001"
    of_ray = [
        "--block", "--node-ip-address=10.0.0.1", "--num-cpus=3", "--num-gpus=1", "--min-worker-port=0",
        "--max-worker-port=0", "--dashboard-agent-listen-port=0",
        f"--object-store-memory={1024**3 * 3 // 10}",
    ]  # fmt: skip
    assert engines._ray(job) == cluster.Plan(
        head=[*PATIENCE, f"{here}/ray", "start", "--head", "--port=7001", *of_ray,
              "--include-dashboard=false", "--disable-usage-stats", "--ray-client-server-port=7001"],
        head_is_up="Ray runtime started",
        workers=["--workers", "ray", head, "--without-first"],
        worker_is_up="Ray runtime started",
        worker_count=1,
        env={"RAY_ADDRESS": head},
    )  # fmt: skip
    assert engines._ray_worker(job, head) == [*PATIENCE, f"{here}/ray", "start", f"--address={head}", *of_ray]
    assert engines._dask(job) == cluster.Plan(
        head=[f"{here}/dask", "scheduler", "--host", f"tcp://{head}", "--no-dashboard", "--no-show"],
        head_is_up="Scheduler at:",
        workers=["--workers", "dask", f"tcp://{head}"],
        worker_is_up="Registered to:",
        worker_count=2,
        env={"DASK_SCHEDULER_ADDRESS": f"tcp://{head}"},
    )
    assert engines._dask_worker(job, "H") == [
        f"{here}/dask", "worker", "H", "--host", "10.0.0.1", "--no-dashboard", "--nworkers", "1",
        "--nthreads", "3", "--memory-limit", str(1024**3), "--local-directory", "/tmp",
    ]  # fmt: skip
    assert engines._spark(job) == cluster.Plan(
        head=["env", "SPARK_MASTER_OPTS=-Dspark.master.rest.enabled=false", f"{here}/spark-class",
              "org.apache.spark.deploy.master.Master", "--host", "10.0.0.1", "--port", "7001",
              "--webui-port", "0"],
        head_is_up="New state: ALIVE",
        workers=["--workers", "spark", f"spark://{head}"],
        worker_is_up="Successfully registered with master",
        worker_count=2,
        env={
            "MASTER": f"spark://{head}",
            "PYSPARK_SUBMIT_ARGS": f"--master spark://{head} --conf spark.driver.host=10.0.0.1 pyspark-shell",
        },
    )  # fmt: skip
    assert engines._spark_worker(job, "H") == [
        f"{here}/spark-class", "org.apache.spark.deploy.worker.Worker", "--host", "10.0.0.1", "--webui-port",
        "0", "--cores", "3", "--memory", "1024M", "--work-dir", "/tmp", "H",
    ]  # fmt: skip


def test_where_no_memory_was_asked_for_none_is_named(tmp_path: Path) -> None:
    env = member(tmp_path, programs={"dask": "", "ray": ""}, SPARK_HOME="/spark", BURSAR_CPUS="0.5")
    job = engines.job_of(env, ())
    assert (job.cpus, job.gpus, job.memory_bytes, job.tasks_per_node) == (1, 0, 0, 0)
    assert not [word for word in engines._ray_worker(job, "H") if "object-store" in word]
    assert engines._dask_worker(job, "H")[-3:] == ["0", "--local-directory", "/tmp"]
    assert engines._spark_worker(job, "H")[0] == "/spark/bin/spark-class"
    assert "--memory" not in engines._spark_worker(job, "H")
    small = engines.job_of({**env, "BURSAR_MEMORY_BYTES": "1000"}, ())
    assert engines._ray_worker(small, "H")[-1] == f"--object-store-memory={80 * 1024**2}"
    assert engines._spark_worker(small, "H")[-5:] == ["--memory", "1M", "--work-dir", "/tmp", "H"]


def test_ray_waits_as_long_as_we_do_for_it_unless_the_job_says_otherwise(tmp_path: Path) -> None:
    own = member(tmp_path, programs={"ray": ""}, RAY_raylet_start_wait_time_s="7")
    assert engines._patient(engines.job_of(own, ())) == [PATIENCE[0], PATIENCE[2]]


def test_a_cluster_waits_for_a_worker_on_every_node_and_ray_has_its_head_on_the_first(tmp_path: Path) -> None:
    job = engines.job_of(member(tmp_path, programs={"dask": "", "ray": "", "spark-class": ""}), ())
    counts = {name: made(job).worker_count for name, made in engines.CLUSTERS.items()}
    assert counts == {"ray": 1, "dask": 2, "spark": 2}


def test_what_is_missing_is_named_with_its_package(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"ray is not on the job's PATH; install ray on the node") as refused:
        engines._ray(engines.job_of(member(tmp_path), ()))
    assert refused.value.code == 127


@pytest.mark.parametrize(
    "script",
    [
        "#!/usr/bin/env python3\nimport sys, os\nprint(sys.argv[1:], 'BURSAR_SCRIPT_TEXT' in os.environ)",
        "#!/bin/bash -e\nprintf '[%s, %s] ' \"'$1'\" \"'$2'\"\nenv | grep -c ^BURSAR_SCRIPT_ || echo False\n",
        "# é\ncat <<E\n['$1', '$2'] ${BURSAR_SCRIPT_TEXT:-False}\nE\nexit 0\n}",
    ],
)
def test_the_text_of_a_script_stands_in_no_argument_and_its_program_finds_none_of_it(script: str) -> None:
    env = {"PATH": os.environ["PATH"]}
    words = engines._script(script, ["a b", ""], env)
    assert not [word for word in words if len(set(script.split()) & set(word.split())) > 3]
    assert env[names.SCRIPT_TEXT] == script
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.replace("0\n", "") == "['a b', ''] False\n"


def test_a_script_in_a_file_is_run_from_there_and_goes_in_a_variable_where_other_nodes_have_no_such_file(
    tmp_path: Path,
) -> None:
    file, env = tmp_path / "script", {"PATH": "/nowhere"}
    for text, program in (
        ("#!/usr/bin/env python3\n\xe9", ["/usr/bin/env", "python3"]),
        ("a\n", ["/bin/sh"]),
    ):
        file.write_bytes(text.encode("latin-1"))
        assert engines._script_in(str(file), ["b c"], env, everywhere=False) == [*program, str(file), "b c"]
    assert names.SCRIPT_TEXT not in env
    words = engines._script_in(str(file), ["b"], env, everywhere=True)
    assert (words[:2], words[3:], env[names.SCRIPT_TEXT]) == (["/bin/sh", "-c"], ["/bin/sh", "b"], "a\n")


def test_a_supervisor_knows_the_text_of_an_engine_and_gives_it_by_a_file() -> None:
    assert spawning.ENGINE_PROGRAM == names.LAUNCH
    spec = JobSpec(launch="torchrun", nodes=2, script="echo secret\n", arguments=("a", "b c"))
    job = opened(launch_of(spec, {}))
    assert job.engine_script == "echo secret\n"
    assert job.words("/f")[4:] == ["torchrun", "--script-file", "/f", "a", "b c"]
    plain = opened(launch_of(JobSpec(launch="torchrun", nodes=2, command=("x", "--script", "y")), {}))
    assert (plain.engine_script, plain.words("/f")) == ("", plain.argv)


def opened(launch: Launch) -> spawning.Job:
    request = {"attempt_id": "att_1", "rank": 0, "env": {}, "home": "/", "checkpoint_dir": "", "uid": None}
    return spawning.Job({**request, "gid": None, "launch": launch_to_bytes(launch).decode()})


def test_the_words_of_a_script_go_with_it_to_an_engine() -> None:
    spec = JobSpec(launch="mpi", nodes=2, script="true\n", arguments=("a", "b c"))
    launch = launch_of(spec, {})
    assert launch.command[-4:] == ("--script", "true\n", "a", "b c")
    assert (launch.script, launch.arguments) == ("", ())
    assert launch_of(spec, {}, rank=1).arguments == ()
    assert launch_of(JobSpec(script="true\n", arguments=("a",)), {}).arguments == ("a",)


def test_the_programs_beside_the_commands_own_come_first() -> None:
    assert engines._path("/venv/bin/python", {"PATH": "/usr/bin"}) == "/venv/bin:/usr/bin"
    assert engines._path("python", {"PATH": "/usr/bin"}) == "/usr/bin"
    for shell in ("/bin/sh", "/usr/bin/bash", "/usr/bin/env"):
        assert engines._path(shell, {"PATH": "/venv/bin:/usr/bin"}) == "/venv/bin:/usr/bin"


@pytest.mark.parametrize("engine", ["mpi", "ray", "dask", "spark", "once"])
def test_the_first_member_starts_the_engine_and_the_others_hold_their_place(engine: str) -> None:
    spec = JobSpec(launch=engine, nodes=2, command=("a", "b c"))
    assert runs_once(spec)
    assert (holds_its_place(spec, 0), holds_its_place(spec, 1)) == (False, True)


def test_torchrun_is_started_by_every_member() -> None:
    spec = JobSpec(launch="torchrun", nodes=2, command=("a", "b c"))
    assert not holds_its_place(spec, 1)
    assert launch_of(spec, {}, 1).command[3:] == ("bursar-launch", "torchrun", "--", "a", "b c")


def test_a_script_travels_as_one_word_and_is_no_file_of_the_member() -> None:
    launch = launch_of(JobSpec(launch="mpi", script="echo $RANK\n", setup="true"), {"A": "1"})
    assert launch.command[3:] == ("bursar-launch", "mpi", "--script", "echo $RANK\n")
    assert (launch.script, launch.setup, launch.env) == ("", "true", {"A": "1"})


def test_what_would_start_its_processes_twice_is_refused() -> None:
    assert problems(launch="torchrun", script="torchrun train.py") == [
        "begins with torchrun, but launch: torchrun starts its processes itself; "
        "write what each of them is to run"
    ]
    assert problems(launch="mpi", command=("/opt/bin/mpirun", "a"))[0].startswith("begins with mpirun")
    assert problems(launch="ray", command=("mpirun", "a")) == []


def test_tasks_per_node_is_refused_where_nothing_counts_them() -> None:
    said = "means something with launch: torchrun | mpi | dask alone; see launch"
    assert problems(launch="ray", command=("a",), tasks_per_node=2) == [said]
    assert problems(launch="mpi", command=("a",), tasks_per_node=1024) == []
    assert problems(launch="mpi", command=("a",), tasks_per_node=1025) == ["is 1025; at most 1024 is allowed"]
    assert problems(launch="mpi", command=("a",), tasks_per_node=-1) == ["is -1; at least 0 is needed"]


@pytest.mark.parametrize("first", ["#!/usr/bin/perl", "#!/usr/bin/env Rscript", "#!/bin/tcsh -f"])
def test_a_script_for_what_takes_no_text_is_refused(first: str) -> None:
    assert "write shell or python with launch: mpi" in problems(launch="mpi", script=f"{first}\n1\n")[0]


@pytest.mark.parametrize(
    "first", ["#!/bin/bash", "#!/bin/bash -e", "#!/usr/bin/env python3.12", "#! /bin/sh"]
)
def test_shell_and_python_text_is_taken(first: str) -> None:
    assert problems(launch="mpi", script=f"{first}\ntrue\n") == []


def test_a_script_that_is_no_argument_for_linux_is_refused() -> None:
    assert problems(launch="mpi", script="é" * 50_000) == []
    assert problems(launch="mpi", script="é" * 50_001)[0].startswith("is too long: at most 100000 bytes")


# --- the cluster around a command


def serve(head: str, workers: str, command: str, tmp_path: Path) -> int:
    plan = cluster.Plan(
        head=["sh", "-c", head],
        head_is_up="head up",
        workers=["-c", workers],
        worker_is_up="worker up",
        worker_count=2,
        env={"WHERE": "there"},
    )
    return cluster.serve(plan, "/bin/sh", ["sh", "-c", command], dict(os.environ, OUT=str(tmp_path)), "x")


STAYS = "while :; do sleep 0.02; done"


def test_the_command_starts_after_the_head_and_all_workers_and_finds_them(tmp_path: Path) -> None:
    head = f"touch $OUT/head; echo head up; {STAYS}"
    workers = f"test -e $OUT/head && touch $OUT/workers; echo worker up; echo worker up; {STAYS}"
    assert serve(head, workers, "test -e $OUT/workers && test $WHERE = there && exit 9", tmp_path) == 9


def test_a_command_that_a_signal_ends_has_the_shells_code(tmp_path: Path) -> None:
    up = f"echo head up; {STAYS}"
    assert serve(up, f"echo worker up; echo worker up; {STAYS}", "kill -KILL $$", tmp_path) == 137


def test_a_worker_that_ends_before_all_are_up_is_shown(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        serve(f"echo head up; {STAYS}", "echo worker up; echo no room >&2; exit 4", "true", tmp_path)
    assert str(refused.value).splitlines() == [
        "the workers ended with exit code 4 before all was up; its last words:",
        "  worker up",
        "  no room",
    ]


def test_what_is_not_up_in_time_is_named_with_how_many_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "UP_WITHIN_S", 0.0)
    with pytest.raises(Refused) as refused:
        serve(STAYS, "true", "true", tmp_path)
    assert str(refused.value) == "the head: 1 not up within 0 s; its last words:"


def test_a_service_that_ends_under_the_command_ends_it_and_fails(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    head = f"echo head up; {STAYS}"
    workers = "echo worker up; echo worker up; until test -e $OUT/go; do sleep 0.02; done; exit 5"
    assert serve(head, workers, "touch $OUT/go; exec sleep 600", tmp_path) == 1
    assert "x: error: the workers ended while the command ran (exit code 5)" in capfd.readouterr().err
