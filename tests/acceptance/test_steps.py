"""Steps of running jobs: processes on all nodes of an attempt, with one voice, and none left in any end."""

from __future__ import annotations

import os
import pty
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import until
from step_cluster import StepCluster, kill, two_nodes

TWO = "--nodes=2"


@pytest.fixture(scope="module")
def cluster() -> Iterator[StepCluster]:
    yield from two_nodes()


def test_each_task_knows_its_place_under_the_names_of_slurm_torch_and_bursar(cluster: StepCluster) -> None:
    told = cluster.output(
        "srun bash -c 'echo $SLURM_PROCID/$SLURM_NTASKS $SLURM_LOCALID $SLURM_NODEID $SLURMD_NODENAME"
        " $RANK/$WORLD_SIZE $LOCAL_RANK $BURSAR_STEP_RANK/$BURSAR_STEP_TASKS $BURSAR_STEP_LOCAL_RANK'",
        TWO,
        "--ntasks-per-node=2",
    )
    assert sorted(told) == [
        "0/4 0 0 n1 0/4 0 0/4 0",
        "1/4 1 0 n1 1/4 1 1/4 1",
        "2/4 0 1 n2 2/4 0 2/4 0",
        "3/4 1 1 n2 3/4 1 3/4 1",
    ]


def test_the_script_runs_once_and_its_exports_and_directory_reach_every_node(cluster: StepCluster) -> None:
    told = cluster.output("export LR=0.1; echo script; srun bash -c 'echo $LR $PWD'", TWO)
    assert told == ["script", *[f"0.1 {cluster.work}"] * 2]


def test_a_step_in_a_pipe_is_waited_for_and_its_failure_is_the_pipes(cluster: StepCluster) -> None:
    told = cluster.output(
        "set -o pipefail; clear 2>/dev/null; srun -l bash -c 'echo on $SLURM_NODEID; exit $SLURM_PROCID' 2>&1"
        " | tee step.log; echo ended ${PIPESTATUS[0]}; sort step.log",
        TWO,
    )
    assert "ended 1" in told
    assert {"0: on 0", "1: on 1", "srun: error: n2: task 1: Exited with exit code 1"} <= set(told)


def test_a_job_that_goes_on_after_a_failed_step_ends_well_and_names_it(cluster: StepCluster) -> None:
    ended = cluster.ended(cluster.script("srun true; srun bash -c 'exit $SLURM_PROCID' | cat; echo on", TWO))
    assert (ended["state"], ended["exit_code"]) == ("SUCCEEDED", 0)
    said = "completed, all 2 ranks, but 1 of 2 steps failed: step 1 (bash) with exit code 1"
    assert ended["end"]["message"] == said
    steps = ended["attempts"][-1]["steps"]
    told = [(one["name"], one["state"], one["exit_code"], one["failed_task"], one["nodes"]) for one in steps]
    assert told == [
        ("true", "completed", 0, None, 2), ("bash", "failed", 1, 1, 2),
    ]  # fmt: skip


def test_the_first_bad_exit_ends_the_others_and_is_the_jobs(cluster: StepCluster) -> None:
    body = "srun --wait=60 --kill-on-bad-exit=1 bash -c '[ $SLURM_PROCID = 1 ] && exit 3; exec sleep 400'"
    told = cluster.output(body, TWO, code=3)
    assert told == ["srun: error: n2: task 1: Exited with exit code 3"]


def test_input_of_srun_goes_to_every_task_and_that_of_a_step_to_the_first(cluster: StepCluster) -> None:
    body = (
        "head -c 3000000 /dev/zero | srun wc -c\n"
        "echo a | srun --input=0 wc -c\n"
        "echo ab | bursar step -- wc -c"
    )
    assert sorted(cluster.output(body, TWO)) == sorted(["3000000", "3000000", "2", "0", "3", "0"])


def test_steps_run_beside_each_other_and_on_named_nodes(cluster: StepCluster) -> None:
    told = cluster.output(
        'hosts=( $(scontrol show hostnames "$SLURM_JOB_NODELIST") )\n'
        "for h in ${hosts[@]}; do\n"
        "srun -N1 -n1 -w $h bash -c 'echo $SLURMD_NODENAME > at-$SLURMD_NODENAME' & done\n"
        "wait; cat at-n1 at-n2",
        TWO,
    )
    assert told == ["n1", "n2"]


def test_files_are_named_by_task_and_job(cluster: StepCluster) -> None:
    told = cluster.output(
        "srun --output out_%j_%t.log --error err_%t.log bash -c 'echo in $SLURM_PROCID; echo e >&2'\n"
        "srun --output all_%j.log echo both\n"
        "cat out_${SLURM_JOB_ID}_0.log out_${SLURM_JOB_ID}_1.log err_1.log all_${SLURM_JOB_ID}.log",
        TWO,
    )
    assert told == ["in 0", "in 1", "e", "both", "both"]


def test_exclusive_steps_wait_for_each_others_cpus(cluster: StepCluster) -> None:
    told = cluster.output(
        "work='mkdir one || echo both at once; cat gate; rmdir one'\n"
        'mkfifo gate; for i in 1 2 3; do srun --exclusive -N1 -n1 sh -c "$work" & done\n'
        "for i in 1 2 3; do echo $i > gate; until ! test -d one; do sleep 0.02; done; done; wait",
        "--cpus-per-task=1",
    )
    assert sorted(told) == ["1", "2", "3"]


def test_signals_to_srun_reach_tasks_on_every_node(cluster: StepCluster) -> None:
    task = '(trap "" USR1; exec sleep 1000) & trap "echo got; exit 0" USR1; touch ready-$SLURM_PROCID; wait'
    told = cluster.output(
        f"srun bash -c '{task}' &\n"
        "until test -e ready-0 -a -e ready-1; do sleep 0.05; done; kill -USR1 $!; wait $!; echo code $?",
        TWO,
    )
    assert sorted(told) == ["code 0", "got", "got"]


def test_a_job_file_starts_steps_with_its_own_command(cluster: StepCluster) -> None:
    text = (
        "name: own\nnodes: 2\nresources: {cpus: 1}\ntime_limit: 5m\nlaunch: once\n"
        "run: bursar step --ntasks 4 --label -- sh -c 'echo $BURSAR_NODE_RANK $RANK'\n"
    )
    job = cluster.submit(text)
    assert cluster.ended(job)["state"] == "SUCCEEDED"
    assert sorted(cluster.log(job).splitlines()) == ["0: 0 0", "1: 0 1", "2: 1 2", "3: 1 3"]


def start_sleepers(cluster: StepCluster, name: str) -> tuple[str, list[str]]:
    """A job whose step sleeps on both nodes; its id, the pids of the tasks and of srun."""
    body = (
        f"srun bash -c 'sleep 1000 & echo $! > {name}-$SLURM_PROCID; wait' &\n"
        f"echo $! > {name}-srun; wait $!; echo srun ended $?"
    )
    job = cluster.script(body, TWO)
    return job, [cluster.appears(f"{name}-{what}") for what in ("0", "1", "srun")]


def test_when_srun_is_killed_its_tasks_end_on_every_node(cluster: StepCluster) -> None:
    job, (first, second, client) = start_sleepers(cluster, "killed")
    kill(client)
    cluster.gone(first, second)
    assert "srun ended 137" in (cluster.ended(job), cluster.log(job))[1]


def test_a_cancelled_job_leaves_no_task_anywhere(cluster: StepCluster) -> None:
    job, pids = start_sleepers(cluster, "cancelled")

    def running() -> list[tuple[str, int, int]]:
        steps = cluster.show(job)["attempts"][-1]["steps"]
        return [(one["name"], one["nodes"], one["tasks"]) for one in steps if one["state"] == "running"]

    until(running, "its step is told of while it runs")
    assert running() == [("bash", 2, 2)]
    cluster.run("cancel", job)
    assert cluster.ended(job)["state"] == "CANCELLED"
    cluster.gone(*pids)


def test_tasks_on_every_node_are_asked_for_their_checkpoint(cluster: StepCluster) -> None:
    """Each task is on a node of its own, and heeds the signal."""
    task = (
        'trap "echo saved $BURSAR_STEP_RANK; exit 0" USR1; touch asked-$BURSAR_STEP_RANK;'
        " while :; do sleep 0.05; done"
    )
    job = cluster.submit(
        "name: ck\nnodes: 2\nresources: {cpus: 1}\ntime_limit: 5m\nlaunch: once\n"
        f"checkpoint: {{signal: USR1, grace: 60s}}\nrun: |\n  bursar step --ntasks 2 -- bash -c '{task}'\n"
    )
    for rank in (0, 1):
        until((cluster.work / f"asked-{rank}").exists, "both tasks run")
    cluster.run("cancel", job)
    assert cluster.ended(job)["state"] == "CANCELLED"
    assert sorted(cluster.log(job).splitlines()) == ["saved 0", "saved 1"]


def test_a_script_that_ends_takes_its_steps_along(cluster: StepCluster) -> None:
    body = (
        "srun bash -c 'sleep 1000 & echo $! > left-$SLURM_PROCID; wait' &\n"
        "until test -e left-0 -a -e left-1; do sleep 0.05; done"
    )
    job = cluster.script(body, TWO)
    assert cluster.ended(job)["state"] == "SUCCEEDED"
    cluster.gone(cluster.appears("left-0"), cluster.appears("left-1"))


@pytest.mark.parametrize("victim", ["n1", "n2", "daemon"])
def test_steps_go_on_while_an_agent_or_the_daemon_is_killed_and_comes_back(
    cluster: StepCluster, victim: str
) -> None:
    gate = cluster.gate()
    body = f"srun -l bash -c 'touch {victim}-$SLURM_PROCID; {gate.wait}; seq 20000 | tail -1'"
    job = cluster.script(body, TWO)
    for rank in (0, 1):
        until((cluster.work / f"{victim}-{rank}").exists, "both tasks run")
    if victim == "daemon":
        os.kill(cluster.daemon_pid(), 9)
    else:
        cluster.kill_agent(victim)
        cluster.start_agent(victim)
    gate.open()
    cluster.wait_up()
    assert cluster.ended(job, limit_s=60)["state"] == "SUCCEEDED"
    assert sorted(cluster.log(job).splitlines()) == ["0: 20000", "1: 20000"]


def test_a_slow_reader_holds_its_tasks_back_and_not_their_output_in_memory(cluster: StepCluster) -> None:
    gate = cluster.gate()
    body = (
        "srun -N1 -n1 -w n2 bash -c 'echo $$ > slow-task; exec head -c 50000000 /dev/zero'"
        f" > >({gate.wait}; wc -c) &\n"
        "echo $! > slow-srun; wait"
    )
    job = cluster.script(body, TWO)
    client, task = cluster.appears("slow-srun"), cluster.appears("slow-task")
    written = [-1]

    def it_is_held() -> bool:
        written.append(int(Path(f"/proc/{task}/io").read_text().split("wchar: ")[1].split()[0]))
        return written[-1] == written[-2] > 100_000

    until(it_is_held, "the task writes no more", every_s=0.5)
    assert written[-1] < 5_000_000
    status = Path(f"/proc/{client}/status").read_text()
    assert int(status.split("VmHWM:")[1].split()[0]) < 40_000
    gate.open()
    assert cluster.ended(job)["state"] == "SUCCEEDED"
    assert cluster.log(job).split() == ["50000000"]


def test_who_is_no_process_of_a_job_is_refused_by_the_agent(cluster: StepCluster) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.settimeout(20)
        stranger.connect(str(cluster.state / "n1/steps/sock"))
        stranger.send(b'C{"attempt":"att_x","from":0,"to":1,"channel":1}')
        assert stranger.recv(1000).startswith(b"X")
        assert stranger.recv(1000) == b""


def test_a_process_of_one_job_cannot_speak_for_another(cluster: StepCluster) -> None:
    told = cluster.output("BURSAR_ATTEMPT_MEMBER=att_other.0 srun -N1 -n1 -w n2 true; echo $?", TWO)
    assert told[-1] == "137"
    assert "not att_other" in told[0]


# ------------------------------------------------------------------ Slurm's other commands


def test_a_script_submits_lists_and_cancels_others(cluster: StepCluster) -> None:
    (cluster.work / "next.sh").write_text("#!/bin/bash\n#SBATCH --time=9\nsleep 1000\n")
    told = cluster.output(
        "exec 2>/dev/null\nid=$(sbatch --parsable --begin=now+1hour -J follow next.sh word)\n"
        "squeue -h -j $id -o '%j %t %u %D'\n"
        "scancel $id; sacct -n -P -j $id -o JobName,State,NNodes\n"
        "sbatch --hold --wrap 'echo hi' | cut -d' ' -f1-3; scancel -n wrap\n"
        "squeue -h -o %i | wc -l; sinfo -h | wc -l; squeue -o %X 2>&1; echo $?"
    )
    assert told[:4] == ["follow PD root 1", "follow|CANCELLED|1", "Submitted batch job", "1"]
    assert int(told[4]) >= 1
    assert "the column %X is not known here" in told[5]
    assert told[6] == "2"


def test_a_script_puts_itself_back_into_the_queue(cluster: StepCluster) -> None:
    job = cluster.script(
        "echo restart ${SLURM_RESTART_COUNT:-0}\n"
        '[ "${SLURM_RESTART_COUNT:-0}" = 0 ] && scontrol requeue $SLURM_JOB_ID && sleep 1000\n'
        "true",
        "--requeue",
    )
    assert cluster.ended(job)["state"] == "SUCCEEDED"
    assert cluster.log(job).strip() == "restart 1"


def test_a_script_is_told_about_its_job(cluster: StepCluster) -> None:
    told = cluster.output(
        "scontrol show job $SLURM_JOB_ID | grep -o 'JobName=.*'; scontrol show hostlist n1,n2,n3\n"
        "scontrol show hostnames 'a[08-10],b'; scontrol show reservations; echo $?",
        "--job-name=known",
    )
    assert told[:6] == ["JobName=known", "n[1-3]", "a08", "a09", "a10", "b"]
    assert told[-1] == "2"


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no Open MPI; apt-get install openmpi-bin")
@pytest.mark.parametrize("agent", ["", "--mca plm rsh --mca plm_rsh_agent $BURSAR_STEPS/bin/bursar-rsh"])
def test_mpirun_makes_one_world_over_all_nodes(cluster: StepCluster, agent: str) -> None:
    told = cluster.output(
        "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1\n"
        f"mpirun {agent} -np 2 --map-by node"
        " bash -c 'echo $OMPI_COMM_WORLD_RANK/$OMPI_COMM_WORLD_SIZE $SLURMD_NODENAME'",
        TWO,
    )
    # The far end may say that its tree was taken down before it was asked: after all work is done.
    assert sorted(line for line in told if "/2 " in line) == ["0/2 n1", "1/2 n2"]


def test_whoever_attaches_has_a_terminal_inside_of_the_job_and_leaves_nothing(cluster: StepCluster) -> None:
    """On the second node of a gang; its shell is a process of the attempt, and ends with who looked."""
    job = cluster.script("export LR=0.1; sleep 400", TWO)
    cluster.until_state(job, "RUNNING")
    told = cluster.run(
        "attach", job, "--", "sh", "-c", "echo $BURSAR_JOB_ID; cat; exit 5", stdin="in", code=5
    )
    assert told.stdout == f"{job}\nin"
    ours, theirs = pty.openpty()
    shell = f"echo $$ >{cluster.work}/pid; tty; read x; echo said $x; exec sleep 400"
    seen = cluster.start(
        "attach", "--rank", "1", job, "--", "sh", "-c", shell, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    pid = cluster.appears("pid")
    os.write(ours, b"hello\r")
    said = b""
    while b"said hello" not in said:
        said += os.read(ours, 1 << 16)
    assert b"/dev/pts/" in said
    os.write(ours, b"\x1d\x1d\x1d")
    assert seen.wait(20) == 0
    os.close(ours)
    cluster.gone(pid)
    cluster.run("cancel", job)
    cluster.ended(job)
