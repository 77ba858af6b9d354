"""`bursar-launch ENGINE ...`: starts an engine over a job's members, runs its command in it, and ends it.

Owns    what each engine of `launch:` is started with on each member.
Why     a job file says what is to run; hosts, ports, counts and order are the same for everybody.
Limits  no site packages: it starts the engine's programs from the job's own PATH, of whatever Python.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bursar.steps import names
from bursar.steps.cluster import UP_WITHIN_S, Plan, serve
from bursar.steps.request import Refused, Request, members

_HERE: Final = f"$BURSAR_STEPS/{names.TOOLS}/{names.LAUNCH}"


@dataclass(frozen=True, slots=True)
class Job:
    """The member that this process runs on, and the members beside it.

    Attributes:
        argv: what is to run. host_names, addresses: of all members, rank 0 first.
        tasks_per_node: what was asked for; 0: as the engine does it.
        cpus: whole cores of the member, at least 1. memory_bytes: 0 where none was asked for.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    rank: int
    host_names: tuple[str, ...]
    addresses: tuple[str, ...]
    tasks_per_node: int
    cpus: int
    gpus: int
    memory_bytes: int

    @property
    def address(self) -> str:
        """Of this member."""
        return self.addresses[self.rank]

    def tasks(self, without_gpus: int) -> int:
        """Processes on each node: as asked for, else one for each GPU, else `without_gpus`."""
        return self.tasks_per_node or self.gpus or without_gpus


def job_of(env: Mapping[str, str], argv: Sequence[str]) -> Job:
    """The job that the calling process is of. Raises `Refused` outside one."""
    _, rank, found = members(env)
    devices = [each for each in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    return Job(
        argv=tuple(argv),
        env=env,
        rank=rank,
        host_names=tuple(each.name for each in found),
        addresses=tuple(each.address for each in found),
        tasks_per_node=int(env.get(names.TASKS_PER_NODE) or env.get("SLURM_NTASKS_PER_NODE") or 0),
        cpus=max(int(float(env.get(names.CPUS) or 1)), 1),
        gpus=len(devices),
        memory_bytes=int(env.get(names.MEMORY_BYTES) or 0),
    )


# --- engines that start all processes themselves


def _torchrun(job: Job) -> list[str]:
    """One torchrun on each member; all find each other at the first one's port."""
    tasks = job.tasks(without_gpus=1)
    world = ["--standalone"]
    if len(job.addresses) > 1:
        world = [
            f"--nnodes={len(job.addresses)}",
            f"--node-rank={job.rank}",
            f"--master-addr={job.addresses[0]}",
            f"--master-port={job.env['MASTER_PORT']}",
        ]
    found = shutil.which("torchrun", path=job.env.get("PATH"))
    program = [found] if found else [_python_with_torch(job), "-m", "torch.distributed.run"]
    script = job.argv[0].endswith(".py")
    return [*program, *world, f"--nproc-per-node={tasks}", *([] if script else ["--no-python"]), *job.argv]


def _python_with_torch(job: Job) -> str:
    """The job's python3. Raises `Refused` where that has no torch: what it says of itself helps nobody."""
    program = _needs(job, "python3", "torch")
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    if subprocess.run([program, "-c", look], env=dict(job.env), stderr=subprocess.DEVNULL).returncode:
        raise Refused(
            f"launch: torchrun needs torch: the job's PATH has no torchrun, and {program} no torch; activate "
            "the environment that has it, install it in `setup`, or name its directory in env: {PATH: ...}",
            127,
        )
    return program


def _mpi(job: Job) -> tuple[list[str], dict[str, str]]:
    """One mpirun on the first member, with steps as its way to the others."""
    program = _needs(job, "mpirun", "MPI")
    tasks = job.tasks(without_gpus=job.cpus)
    count = tasks * len(job.host_names)
    agent = f"{job.env[names.DIRECTORY]}/{names.TOOLS}/bursar-rsh"
    said = subprocess.run([program, "--version"], capture_output=True, text=True, env=dict(job.env)).stdout
    if "Open MPI" in said or "open-mpi" in said:
        hosts = ",".join(f"{name}:{tasks}" for name in job.host_names)
        told = ["-x", names.SCRIPT_TEXT] if names.SCRIPT_TEXT in job.env else []
        env = {
            "OMPI_MCA_plm": "rsh",  # also in a script of Slurm's, whose names would lead it to srun
            "OMPI_MCA_plm_rsh_agent": agent,
            "PRTE_MCA_plm": "ssh",
            "PRTE_MCA_plm_ssh_agent": agent,
        }
        if os.getuid() == 0:
            env |= dict.fromkeys(("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"), "1")
        return [program, "--host", hosts, "-np", str(count), *told, *job.argv], env
    hosts = ",".join(job.host_names)
    rsh = ["-launcher", "ssh", "-launcher-exec", agent]
    return [program, *rsh, "-hosts", hosts, "-ppn", str(tasks), "-n", str(count), *job.argv], {}


# --- engines that are a cluster of their own: a head on the first member, workers, then the command


def _ray(job: Job) -> Plan:
    program = _needs(job, "ray", "ray")
    port = _free_port()
    return Plan(
        head=[*_patient(job), program, "start", "--head", f"--port={port}", *_ray_sizes(job),
              "--include-dashboard=false", "--disable-usage-stats",
              f"--ray-client-server-port={_free_port()}"],
        head_is_up="Ray runtime started",
        workers=_workers("ray", f"{job.address}:{port}", without_first=True),
        worker_is_up="Ray runtime started",
        worker_count=len(job.addresses) - 1,
        env={"RAY_ADDRESS": f"{job.address}:{port}"},
    )  # fmt: skip


def _ray_worker(job: Job, head: str) -> list[str]:
    return [*_patient(job), _needs(job, "ray", "ray"), "start", f"--address={head}", *_ray_sizes(job)]


def _patient(job: Job) -> list[str]:
    """Ray waits 10 to 30 s for its own processes, too short on a busy node: as long as we wait for all of it,
    unless the job says otherwise.
    """
    waits = {"RAY_raylet_start_wait_time_s": UP_WITHIN_S, "RAY_agent_register_timeout_ms": UP_WITHIN_S * 1000}
    return ["env", *(f"{name}={value:.0f}" for name, value in waits.items() if name not in job.env)]


def _ray_sizes(job: Job) -> list[str]:
    words = [
        "--block",
        f"--node-ip-address={job.address}",
        f"--num-cpus={job.cpus}",
        f"--num-gpus={job.gpus}",
    ]
    words += [
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--dashboard-agent-listen-port=0",
    ]  # any free ones: other jobs have clusters too
    if job.memory_bytes:  # what ray takes of the machine by itself, of the job's memory
        words += [f"--object-store-memory={max(job.memory_bytes * 3 // 10, 80 * 1024**2)}"]
    return words


def _dask(job: Job) -> Plan:
    program = _needs(job, "dask", "dask[distributed]")
    head = f"tcp://{job.address}:{_free_port()}"
    return Plan(
        head=[program, "scheduler", "--host", head, "--no-dashboard", "--no-show"],
        head_is_up="Scheduler at:",
        workers=_workers("dask", head),
        worker_is_up="Registered to:",
        worker_count=len(job.addresses),
        env={"DASK_SCHEDULER_ADDRESS": head},
    )


def _dask_worker(job: Job, head: str) -> list[str]:
    count = job.tasks(without_gpus=1)
    memory = str(job.memory_bytes // count) if job.memory_bytes else "0"
    return [
        _needs(job, "dask", "dask[distributed]"), "worker", head, "--host", job.address, "--no-dashboard",
        "--nworkers", str(count), "--nthreads", str(max(job.cpus // count, 1)), "--memory-limit", memory,
        "--local-directory", job.env.get("TMPDIR") or "/tmp",
    ]  # fmt: skip


def _spark(job: Job) -> Plan:
    port = str(_free_port())
    head = f"spark://{job.address}:{port}"
    # Without its second door, by which anybody who reaches it could submit.
    master = ["env", "SPARK_MASTER_OPTS=-Dspark.master.rest.enabled=false", *_spark_class(job)]
    master.append("org.apache.spark.deploy.master.Master")
    return Plan(
        head=[*master, "--host", job.address, "--port", port, "--webui-port", "0"],
        head_is_up="New state: ALIVE",
        workers=_workers("spark", head),
        worker_is_up="Successfully registered with master",
        worker_count=len(job.addresses),
        env={
            "MASTER": head,  # spark-submit reads this, a script that python runs the next
            "PYSPARK_SUBMIT_ARGS": f"--master {head} --conf spark.driver.host={job.address} pyspark-shell",
        },
    )


def _spark_worker(job: Job, head: str) -> list[str]:
    words = [*_spark_class(job), "org.apache.spark.deploy.worker.Worker", "--host", job.address]
    words += ["--webui-port", "0", "--cores", str(job.cpus)]
    if job.memory_bytes:
        words += ["--memory", f"{max(job.memory_bytes // 1024**2, 1)}M"]
    return [*words, "--work-dir", job.env.get("TMPDIR") or "/tmp", head]


def _spark_class(job: Job) -> list[str]:
    home = job.env.get("SPARK_HOME", "")
    return [f"{home}/bin/spark-class"] if home else [_needs(job, "spark-class", "pyspark")]


def _needs(job: Job, program: str, package: str) -> str:
    """Where a program is. Raises `Refused` where it is not."""
    found = shutil.which(program, path=job.env.get("PATH"))
    if found is None:
        raise Refused(
            f"{program} is not on the job's PATH; install {package} on the node, or name the directory "
            "that has it in env: {PATH: ...}",
            127,
        )
    return found


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        return int(found.getsockname()[1])


def _workers(engine: str, head: str, without_first: bool = False) -> list[str]:
    return ["--workers", engine, head, *(["--without-first"] if without_first else [])]


CLUSTERS: Final = {"ray": _ray, "dask": _dask, "spark": _spark}
_WORKERS: Final = {"ray": _ray_worker, "dask": _dask_worker, "spark": _spark_worker}


# --- the program


def main(arguments: Sequence[str]) -> int:
    """Start an engine with a command: `ENGINE -- CMD...`, `ENGINE --script-file FILE WORD...`; its exit code.

    Supervisors of before give `--script TEXT`.

    By itself it is called again as `--workers ENGINE HEAD` (a step over the members) and, on each of them, as
    `--worker ENGINE HEAD`.
    """
    try:
        return _main(list(arguments))
    except Refused as refused:
        sys.stderr.write(f"{names.LAUNCH}: error: {refused}\n")
        return refused.code


def _main(words: list[str]) -> int:
    env = dict(os.environ)
    if words[:1] == ["--workers"]:
        return _run_workers(words[1], words[2], "--without-first" in words, env)
    if words[:1] == ["--worker"]:
        return _become(_WORKERS[words[1]](job_of(env, ()), words[2]), env)
    engine, how, *rest = words
    argv = rest
    if how == "--script":
        argv = _script(rest[0], rest[1:], env)
    elif how == "--script-file":
        elsewhere = engine == "mpi" and len(job_of(env, ()).host_names) > 1
        argv = _script_in(rest[0], rest[1:], env, elsewhere)
    env["PATH"] = _path(argv[0], env)
    job = job_of(env, argv)
    if engine == "torchrun":
        return _become(_torchrun(job), env)
    if engine == "mpi":
        found, more = _mpi(job)
        return _become(found, env | more)
    plan = CLUSTERS[engine](job)
    own = f"{env[names.DIRECTORY]}/{names.TOOLS}/{names.LAUNCH}"
    return serve(plan, own, job.argv, env, program=f"{names.LAUNCH} {engine}")


def _run_workers(engine: str, head: str, without_first: bool, env: Mapping[str, str]) -> int:
    from bursar.steps.client import run

    shell = ["/bin/sh", "-c", f'exec "{_HERE}" --worker "$@"', names.LAUNCH, engine, head]
    request = Request(
        shell, program=names.LAUNCH, tasks_per_node=1, kill_on_bad_exit=True, quiet=True, unbuffered=True
    )
    request.input = "none"
    if without_first:
        request.exclude = [job_of(env, ()).host_names[0]]
    return run(request, env)


def _script_in(file: str, arguments: Sequence[str], env: dict[str, str], everywhere: bool) -> list[str]:
    """The words that run a script by its file, whose text no other account of the node then sees.

    `everywhere`: ranks on other nodes are started with the same words, and have no such file: the text goes
    to them in a variable then.
    """
    with open(file, encoding="utf-8", errors="surrogateescape") as script:
        text = script.read()
    if everywhere:
        return _script(text, arguments, env)
    return [*_program_of(text, env), file, *arguments]


def _program_of(text: str, env: Mapping[str, str]) -> list[str]:
    first = text.partition("\n")[0]
    words = first[2:].split() if first.startswith("#!") else []
    return words or [shutil.which("bash", path=env.get("PATH")) or "/bin/sh"]


def _script(text: str, arguments: Sequence[str], env: dict[str, str]) -> list[str]:
    """The words that run a script's text without a file of it, which other members do not have. The text is a
    variable in `env`, which no other account sees; what runs it takes the variable away first.
    """
    words = _program_of(text, env)
    env[names.SCRIPT_TEXT] = text
    if "python" in words[-1]:
        take = f"exec(__import__('os').environb.pop(b'{names.SCRIPT_TEXT}'))"
        return [*words, "-c", take, *arguments]
    # Of what stands behind the text a shell takes the first word for its own name, Python none.
    named = [words[0]] if arguments else []
    take = f'eval "unset {names.SCRIPT_TEXT}; ${names.SCRIPT_TEXT}"'
    return [*words, "-c", take, *named, *arguments]


_SHELLS: Final = frozenset(("sh", "bash", "dash", "ksh", "zsh", "env"))


def _path(program: str, env: Mapping[str, str]) -> str:
    """PATH with the directory of the command's own interpreter first: the engine beside it is meant. Beside a
    shell lies the system's, which would be meant by whatever the shell starts.
    """
    path = env.get("PATH", "/usr/local/bin:/usr/bin:/bin")
    if not program.startswith("/") or os.path.basename(program) in _SHELLS:
        return path
    return f"{os.path.dirname(program)}:{path}"


def _become(argv: list[str], env: Mapping[str, str]) -> int:
    try:
        os.execvpe(argv[0], argv, env)
    except OSError as problem:
        raise Refused(f"cannot start {argv[0]}: {problem.strerror}", 127) from None
