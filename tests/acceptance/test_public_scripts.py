"""Scripts as people write them for Slurm: each runs as it is meant, or is refused with its line.

Why     the kinds are those of public repositories (chains, generated scripts, launchers, requeueing loops);
        the texts are ours. Programs that are not there are stood for by a line of shell.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import until
from step_cluster import StepCluster, two_nodes


@pytest.fixture(scope="module")
def cluster() -> Iterator[StepCluster]:
    yield from two_nodes()


class Site:
    """A directory of one test, with what its scripts find there."""

    def __init__(self, cluster: StepCluster, name: str) -> None:
        self.cluster = cluster
        self.work = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=cluster.work))  # its own if tried again

    def write(self, name: str, text: str, shell: str = "/bin/bash") -> str:
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!{shell}\n{text}")
        path.chmod(0o755)
        return str(path)

    def submit(self, text: str, *words: str, flags: tuple[str, ...] = ()) -> str:
        path = self.write("run.sh", text)
        return self.cluster.run(
            "submit", "-q", "--workdir", str(self.work), *flags, path, *words
        ).stdout.strip()

    def output(self, text: str, *words: str) -> list[str]:
        """What a script printed, which succeeded."""
        job = self.submit(text, *words)
        ended = self.cluster.ended(job)
        said = self.cluster.log(job)
        assert ended["state"] == "SUCCEEDED", (ended, said)
        return said.splitlines()

    def read(self, name: str) -> list[str]:
        return (self.work / name).read_text().splitlines()

    def warn(self, job: str, *ready: str) -> None:
        """Warn a job of its limit, which is 50 minutes away then, when these files are there."""
        until(lambda: all((self.work / name).exists() for name in ready), f"{ready} are there")
        self.cluster.run("update", job, "--time-limit", "3001s")


@pytest.fixture
def site(cluster: StepCluster, request: pytest.FixtureRequest) -> Site:
    return Site(cluster, request.node.name.partition("[")[0])


# ------------------------------------------------------------------ arrays, chains, files of output


def test_an_array_reads_its_line_and_names_its_files(site: Site) -> None:
    (site.work / "params.txt").write_text("lr=0.1\nlr=0.2\nlr=0.3\n")
    (site.work / "logs").mkdir()
    job = site.submit(
        "#SBATCH --job-name=sweep --array=1-3%2\n"
        "#SBATCH --output=logs/%x_%A_%a.out --error=logs/%x_%A_%3a.err\n"
        'LINE=$(sed -n "${SLURM_ARRAY_TASK_ID}p" params.txt)\n'
        'echo "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT $LINE $((SLURM_ARRAY_TASK_ID * 10))"\n'
        'echo "warn $LINE" >&2\n'
    )
    number = site.cluster.ended(job)["number"]
    for task in (1, 2, 3):
        assert site.read(f"logs/sweep_{number}_{task}.out") == [f"{task}/3 lr=0.{task} {task}0"]
        assert site.read(f"logs/sweep_{number}_{task:03}.err") == [f"warn lr=0.{task}"]
    assert len([*(site.work / "logs").iterdir()]) == 6


def test_files_of_output_are_opened_as_the_script_says(site: Site) -> None:
    text = "#SBATCH -J named -w n1 -o %x.%u.%N.txt -e /dev/null {}\necho line $1; echo lost >&2\n"
    for word, mode in (("a", ""), ("b", "--open-mode=append"), ("c", "--open-mode=append")):
        site.output(text.format(mode), word)
    user = site.cluster.show("last")["user"]
    assert site.read(f"named.{user}.n1.txt") == ["line a", "line b", "line c"]
    site.output(text.format(""), "d")
    assert site.read(f"named.{user}.n1.txt") == ["line d"]


def test_a_script_writes_others_and_chains_them(site: Site) -> None:
    told = site.output(
        "#SBATCH -J chain\n"
        "set -euo pipefail\n"
        "for i in 1 2; do\n"
        "cat > job_$i.sbatch <<EOF\n"
        "#!/bin/bash\n"
        "#SBATCH -J part$i -o part$i.out\n"
        "echo part $i of \\$SLURM_JOB_NAME by ${SLURM_JOB_NAME}\n"
        "EOF\n"
        "done\n"
        "FIRST=$(sbatch --parsable job_1.sbatch)\n"
        "SECOND=$(sbatch --parsable --dependency=afterok:$FIRST job_2.sbatch)\n"
        "WRAPPED=$(sbatch --parsable --array=1-2 -o el_%a.out -d afterany:$SECOND"
        " --wrap 'echo element $SLURM_ARRAY_TASK_ID')\n"
        "LAST=$(sbatch -W --dependency=afterok:${FIRST}:${WRAPPED} 2>said <<EOF | awk '{print $4}'\n"
        "#!/bin/bash\n"
        "#SBATCH --job-name=collect --output=collect.out\n"
        "cat part*.out el_*.out\n"
        "EOF\n"
        ")\n"
        "cat collect.out; grep -c /tmp/ said || true\n"
    )
    assert told[-5:] == [
        "part 1 of part1 by chain", "part 2 of part2 by chain", "element 1", "element 2", "0",
    ]  # fmt: skip


def test_a_script_submits_itself_again(site: Site) -> None:
    job = site.submit(
        "#SBATCH -J again -o again.out --open-mode=append\n"
        "N=${1:-0}; echo round $N $TAG ${LR:-none}; export LR=0.$((N + 1)) TAG\n"
        "SELF=$(scontrol show job $SLURM_JOB_ID | awk -F= '/Command=/{print $2}')\n"
        '[ "$N" -ge 2 ] || sbatch -d afterany:$SLURM_JOB_ID "$SELF" $((N + 1)) >/dev/null 2>&1\n'
        '[ "$N" -lt 2 ] || touch done\n',
        flags=("--env", "TAG=a"),
    )
    site.cluster.ended(job)
    until((site.work / "done").exists, "the last round is over")
    assert site.read("again.out") == ["round 0 a none", "round 1 a 0.1", "round 2 a 0.2"]


def test_what_a_script_submits_is_checked_as_what_a_person_does(site: Site) -> None:
    site.write("bad.sh", "#SBATCH -J bad\nif true; then\necho never\n")
    site.write("other.sh", "#SBATCH --licenses=matlab\ntrue\n")
    told = site.output("#SBATCH -J head\nfor f in bad other; do sbatch $f.sh 2>&1; echo code $?; done\n")
    assert told == [
        "error: bad.sh:5:1: syntax error: unexpected end of file; something above is not closed"
        " (as bash says, after it has run all that stands above)",
        "code 2",
        "error: other.sh:2:9: --licenses: licences are not counted; limit an array by %N, or use a Quota",
        "code 2",
    ]


def test_a_workflow_engine_submits_a_task_and_asks_the_queue_for_it(site: Site) -> None:
    site.write(
        ".command.run",
        "#SBATCH -J nf-PROC_1 -o .command.log --no-requeue --signal B:USR2@30\n"
        "#SBATCH -c 2 -t 00:05:00 --mem 200M\n"
        "on_exit() { echo $? > .exitcode; }\n"
        "trap on_exit EXIT\ntrap 'exit 1' USR1 USR2 TERM\necho proc\n",
    )
    told = site.output(
        "#SBATCH -J head\n"
        "jid=$(sbatch .command.run 2>/dev/null | grep -oE '[0-9]+')\n"
        "while :; do\n"
        "st=$(squeue --noheader -o '%i %t' -t all -u $USER | awk -v j=$jid '$1==j{print $2}')\n"
        "case $st in ''|CD|F|CA) break;; esac; sleep 0.3; done\n"
        "echo $st; cat .exitcode .command.log\n"
    )
    assert told == ["CD", "0", "proc"]


def test_a_submitter_watches_the_tasks_of_an_array_and_ends_the_rest(site: Site) -> None:
    """As tools do that submit arrays: each task is looked for by its number."""
    site.write(
        "one.sh", "#SBATCH --time=5\nuntil [ -e go ]; do sleep 0.05; done\n[ $SLURM_ARRAY_TASK_ID = 1 ]\n"
    )
    told = site.output(
        "#SBATCH -J head\n"
        "unset USER LOGNAME\n"
        "id=$(SBATCH_JOB_NAME=many sbatch --nice --parsable -a 0-4%2 one.sh 2>/dev/null)\n"
        "until [ $(squeue -h -t R -j $id -o %i | wc -l) = 2 ]; do sleep 0.1; done\n"
        "squeue -h -n many -o '%i %t' | sed s/^$id/A/ | sort\n"
        "scancel ${id}_[3-4]; touch go\n"
        "until sacct -nPX -j $id -o State | grep -vcE 'PENDING|RUNNING|COMPL.*ING|CONF' | grep -q 5; do"
        " sleep 0.1; done\n"
        "sacct -nPX -j $id -o JobID,JobName,State | sed s/^$id/A/ | sort\n"
        "scontrol getaddrs $SLURM_JOB_NODELIST | cut -d: -f1,3\n"
    )
    assert told == [
        "A_0 R", "A_1 R", "A_[2-4%2] PD",
        "A_0|many|FAILED", "A_1|many|COMPLETED", "A_2|many|FAILED", "A_3|many|CANCELLED",
        "A_4|many|CANCELLED", "n1:6818",
    ]  # fmt: skip


# ------------------------------------------------------------------ launchers over two nodes


def test_a_launcher_runs_through_srun_in_a_pipe_with_a_host_file(site: Site) -> None:
    told = site.output(
        "#SBATCH --nodes=2 --ntasks-per-node=1 --cpus-per-task=2\n"
        "set -eo pipefail\n"
        "export SLOTS=2 NCCL_DEBUG=WARN NCCL_SOCKET_IFNAME=^lo,docker\n"
        'scontrol show hostnames $SLURM_JOB_NODELIST | sed "s/$/ slots=$SLOTS/" > hostfile\n'
        "export MASTER_ADDR=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)\n"
        "export MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))\n"
        'LAUNCHER="echo $NCCL_DEBUG --nnodes $SLURM_NNODES --rdzv $MASTER_ADDR --rank \\$SLURM_PROCID"\n'
        'srun --jobid $SLURM_JOBID --wait=60 --kill-on-bad-exit=1 bash -c "$LAUNCHER" 2>&1'
        " | tee -a main.log\n"
        "cat hostfile; wc -l < main.log\n"
    )
    assert sorted(told[:2]) == [f"WARN --nnodes 2 --rdzv n1 --rank {rank}" for rank in (0, 1)]
    assert told[2:] == ["n1 slots=2", "n2 slots=2", "2"]


def test_one_step_runs_programs_of_several_kinds(site: Site) -> None:
    told = site.output(
        "#SBATCH -N2 -n4\n"
        "cat > multi.conf <<EOF\n"
        "0      echo master %t of group %o\n"
        "1-2    bash -c 'echo worker %o rank \\$SLURM_PROCID'\n"
        "3      echo tail %t\n"
        "EOF\n"
        "srun -l --multi-prog multi.conf | sort\n"
    )
    assert told == ["0: master 0 of group 0", "1: worker 0 rank 1", "2: worker 1 rank 2", "3: tail 3"]


def test_a_head_and_its_workers_are_started_one_by_one(site: Site) -> None:
    told = site.output(
        "#SBATCH -N2 --ntasks-per-node=1\n"
        'nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))\n'
        'head_ip=$(srun --nodes=1 --ntasks=1 -w "${nodes[0]}" echo 10.0.0.1)\n'
        'srun --nodes=1 --ntasks=1 -w "${nodes[0]}" sleep 1000 &\n'
        "for ((i = 1; i < SLURM_JOB_NUM_NODES; i++)); do\n"
        'srun --nodes=1 --ntasks=1 -w "${nodes[$i]}" bash -c "echo worker \\$SLURMD_NODENAME of $head_ip" &\n'
        "wait $!; done\n"
        "kill %1; wait; echo over\n"
    )
    assert [line for line in told if not line.startswith("srun: ")] == ["worker n2 of 10.0.0.1", "over"]


def test_many_small_steps_share_the_job(site: Site) -> None:
    told = site.output(
        "#SBATCH -N2 --ntasks-per-node=2\n"
        "seq 1 5 | xargs -P $SLURM_NTASKS -I{} srun -N1 -n1 --exact bash -c 'echo job {}' | sort\n"
    )
    assert told == [f"job {number}" for number in range(1, 6)]


def test_a_python_script_carries_directives_and_starts_steps(site: Site) -> None:
    text = (
        "#SBATCH --job-name=pyjob --ntasks=2\n"
        "import os, subprocess\n"
        'print(os.environ["SLURM_JOB_NAME"], os.environ["SLURM_NTASKS"])\n'
        'told = subprocess.check_output(["srun", "printenv", "SLURM_PROCID"], text=True)\n'
        "print(*sorted(told.split()))\n"
    )
    job = site.cluster.run("submit", "-q", site.write("run.py", text, "/usr/bin/env python3")).stdout.strip()
    assert site.cluster.ended(job)["state"] == "SUCCEEDED"
    assert site.cluster.log(job).splitlines() == ["pyjob 2", "0 1"]


SOLVER = 'echo "${OMPI_COMM_WORLD_RANK:-$SLURM_PROCID} threads $OMP_NUM_THREADS on $SLURMD_NODENAME: $*"\n'


@pytest.mark.parametrize(
    "launcher",
    [
        "srun --cpu_bind=cores --distribution=block:block",
        pytest.param(
            "mpirun -np $SLURM_NTASKS",
            marks=pytest.mark.skipif(shutil.which("mpirun") is None, reason="no Open MPI: openmpi-bin"),
        ),
    ],
)
def test_a_solver_runs_on_all_tasks(cluster: StepCluster, launcher: str) -> None:
    site = Site(cluster, f"solver-{launcher.split()[0]}")
    site.write("bin/solver", SOLVER)
    told = site.output(
        "#SBATCH --nodes=2 --ntasks-per-node=2 --cpus-per-task=1 --hint=nomultithread\n"
        "export PATH=$SLURM_SUBMIT_DIR/bin:$PWD/bin:$PATH OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}\n"
        "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1\n"
        "HOURS=$(( (SLURM_JOB_END_TIME - SLURM_JOB_START_TIME) / 3600 ))\n"
        f"{launcher} solver -in in.lj -maxh $HOURS | sort\n"
    )
    assert told == [f"{rank} threads 1 on n{rank // 2 + 1}: -in in.lj -maxh 24" for rank in range(4)]


# ------------------------------------------------------------------ around the program


def test_a_container_an_environment_and_a_cleaning_trap(site: Site) -> None:
    site.write(
        "bin/apptainer",
        'shift; while [[ $1 == --* ]]; do [ $1 = --bind ] && shift; shift; done; shift; "$@"\n',
    )
    site.write("conda/etc/profile.d/conda.sh", "conda() { export CONDA_DEFAULT_ENV=$2; }\n")
    told = site.output(
        "#SBATCH --cpus-per-task=2 --mem-per-cpu=100M --export=ALL,DATA=in\n"
        "ulimit -s unlimited || true; ulimit -n 512\n"
        "HERE=$PWD; export PATH=$HERE/bin:$PATH\n"
        "source $HERE/conda/etc/profile.d/conda.sh; conda activate train\n"
        "WORK=${SLURM_TMPDIR:-/tmp/$USER}\n"
        'cleanup() { cp "$WORK"/result "$HERE" && rm -rf "$SLURM_TMPDIR"/*; ls "$WORK" | wc -l; }\n'
        "trap cleanup EXIT\n"
        'cd "$WORK"\n'
        "echo $DATA $(ulimit -n) > result\n"
        "apptainer exec --nv --bind $SLURM_TMPDIR:/scratch image.sif"
        " bash -c 'echo $SLURM_CPUS_PER_TASK $SLURM_MEM_PER_CPU $CONDA_DEFAULT_ENV'\n"
    )
    assert told == ["2 100 train", "0"]
    assert site.read("result") == ["in 512"]


def test_a_script_that_requeues_itself_when_it_is_warned_does_so_once(site: Site) -> None:
    job = site.submit(
        "#SBATCH --time=100 --signal=B:USR1@3000 --requeue\n"
        "echo begin ${SLURM_RESTART_COUNT:-0} >> trail\n"
        "[ ${SLURM_RESTART_COUNT:-0} = 0 ] || exit 0\n"
        "again() { echo told >> trail; scontrol requeue $SLURM_JOB_ID; echo requeued $? >> trail; }\n"
        "trap again USR1\n"
        "sleep 1000 & touch ready; wait\n"
    )
    site.warn(job, "ready")
    assert site.cluster.ended(job)["state"] == "SUCCEEDED"
    assert site.read("trail") == ["begin 0", "told", "requeued 0", "begin 1"]


def test_tasks_that_save_and_requeue_their_job_when_they_are_warned_do_so_once(site: Site) -> None:
    (site.work / "train.py").write_text(
        "import os, pathlib, signal, subprocess, sys, time\n"
        "rank = os.environ['SLURM_PROCID']\n"
        "if 'SLURM_RESTART_COUNT' in os.environ:\n"
        "    sys.exit(print('resumed', rank, flush=True))\n"
        "def save(number, frame):\n"
        "    with open('saved', 'a') as file:\n"
        "        file.write(rank)\n"
        "    if rank == '0':\n"
        "        sys.exit(subprocess.call(['scontrol', 'requeue', os.environ['SLURM_JOB_ID']]))\n"
        "signal.signal(signal.SIGUSR1, save)\n"
        "pathlib.Path('ready' + rank).touch()\n"
        "while not os.path.exists('saved') or len(open('saved').read()) < 2:\n"
        "    time.sleep(0.05)\n"
    )
    job = site.submit(
        "#SBATCH --nodes=2 --ntasks-per-node=1 --time=100 --signal=SIGUSR1@3000 --requeue\n"
        "srun python3 train.py\n"
    )
    site.warn(job, "ready0", "ready1")
    assert site.cluster.ended(job)["state"] == "SUCCEEDED"
    assert sorted((site.work / "saved").read_text()) == ["0", "1"]
    assert sorted(site.cluster.log(job).splitlines()) == ["resumed 0", "resumed 1"]


def test_tasks_that_still_start_when_they_are_warned_are_told_when_they_are_ready(site: Site) -> None:
    task = (
        "touch up$SLURM_PROCID; until test -e told; do sleep 0.05; done;"
        ' trap "echo saved $SLURM_PROCID; exit 0" USR1; while :; do sleep 0.05; done'
    )
    # Not at the very moment of the warning: whoever comes to heed it between the supervisor's look and that
    # of the step's host is taken for told. A step of its own takes longer than that, on a busy machine too.
    job = site.submit(
        "#SBATCH --nodes=2 --ntasks-per-node=1 --time=100 --signal=USR1@3000\n"
        f"trap 'srun -n1 --overlap true; touch told' USR1\nsrun bash -c '{task}' &\nwait; wait\n"
    )
    site.warn(job, "up0", "up1")
    assert site.cluster.ended(job)["state"] == "SUCCEEDED"
    assert sorted(site.cluster.log(job).splitlines()) == ["saved 0", "saved 1"]


def test_a_loop_of_steps_gives_each_its_own_gpu(site: Site) -> None:
    told = site.output(
        "#SBATCH --nodes=1 --ntasks=4 --gres=gpu:h100:4\n"
        "held='until [ -e gone ]; do sleep 0.05; done'\n"
        "for i in 0 1 2 3; do\n"
        'srun -N1 -n1 --gpus-per-task=1 --exclusive bash -c "echo \\$CUDA_VISIBLE_DEVICES; $held" &\n'
        "done >seen\n"
        "until [ $(wc -l < seen) = 4 ]; do sleep 0.05; done\n"
        "srun -n1 --gpus-per-task=1 --overlap bash -c 'echo $CUDA_VISIBLE_DEVICES' | wc -l\n"
        "touch gone; wait; sort -u seen\n"
    )
    assert told == ["1", "0", "1", "2", "3"]


# ------------------------------------------------------------------ what is refused


def test_what_cannot_be_done_is_refused_with_its_line(cluster: StepCluster) -> None:
    said = cluster.refused(
        "#!/bin/bash\n"
        "#SBATCH -L SCRATCH,cfs\n"
        "#SBATCH -q regular -C 'a100|h100&ib'\n"
        "#SBATCH -d expand:1\n"
        "#SBATCH hetjob\n"
        "srun hostname\n"
    )
    for why in (
        ":2:9: -L: licences are not counted",
        ":3:9: -q: there is no QOS 'regular' here; these are: high, low, normal (",
        ":3:20: -C: 'a100|h100' is not the name of a feature",
        ":4:9: -d: 'expand:1' is not supported",
        ":5:9: #SBATCH: jobs of unequal parts are not supported",
    ):
        assert f"<stdin>{why}" in said
    said = cluster.refused("#!/bin/bash\n#SBATCH -J a\nsrun --pty bash\nsbcast a b\necho $SLURM_JOB_GPUS\n")
    for why in (
        ":3:1: srun cannot do this: --pty cannot be done",
        ":4:1: sbcast cannot run",
        ":5:6: $SLURM_JOB_GPUS",
    ):
        assert f"<stdin>{why}" in said


def test_names_of_another_site_stand_for_what_a_policy_says(site: Site) -> None:
    site.cluster.apply(
        "kind: SlurmNames\nname: old\nspec:\n"
        "  partitions: {gpu_p13: {constraints: {node: n2}}}\n"
        "  qos: {qos_dev: {time_limit: 20m, priority: high}}\n"
        "  accounts: {abc@v100: {project: research/abc}}\n"
    )
    path = site.write(
        "run.sh",
        "#SBATCH --partition=gpu_p13\n#SBATCH --qos=qos_dev -A abc@v100\n"
        "echo $SLURMD_NODENAME $SLURM_JOB_PARTITION $SLURM_JOB_QOS $SLURM_JOB_ACCOUNT\n",
    )
    said = site.cluster.run("submit", "--parsable", path)
    for line in (
        "2: --partition stands for nodes whose node is n2 (policy SlurmNames/old)",
        "3: --qos stands for priority 75, at most 20m00s (policy SlurmNames/old)",
        "3: -A stands for project research/abc (policy SlurmNames/old)",
    ):
        assert f"{path}:{line}\n" in said.stderr
    job = site.cluster.ended(said.stdout.strip())
    assert (job["project"], job["priority"], job["time_limit_s"]) == ("research/abc", 75, 1200)
    assert site.cluster.log(str(job["number"])) == "n2 gpu_p13 qos_dev research/abc\n"
    site.cluster.run("policy", "rm", "SlurmNames/old")
    assert "there is no QOS 'qos_dev' here" in site.cluster.run("submit", path, code=2).stderr
