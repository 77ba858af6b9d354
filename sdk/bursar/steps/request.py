"""What is asked of a step, and what each node is told of it.

Owns    the request, which members get how many tasks, the variables that all tasks of a node share.
Input   the environment of whoever asks: it says which members there are.
Why     `bursar step`, `srun` and the remote agent of MPI launchers ask in other words for the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bursar.steps import names
from bursar.steps.hosts import compress_hosts, counts_by_node
from bursar.steps.names import STEP_TASKS_MAX
from bursar.words import plural


class Refused(Exception):
    """A step that cannot be; the words say why and what helps. `code`: of the program."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Request:
    """One step as it was asked for; 0 and empty: not said.

    Attributes:
        node: names of nodes, or their addresses; tasks go to these alone.
        time_s: seconds after which it is ended.
        wait_s: seconds after the first end of a task at which the others are ended.
        program: how it calls itself in messages.
        slurm: tasks find Slurm's names too.
        gpu_claim: whether its GPUs are its own: `wait` until others have given some back, `free` ones where
            there are enough; empty: it shares them.
        tasks_per_gpu: each task sees one device of its node, which so many share. gpu_map: places of the
            devices that tasks see one each, in turn.
        programs: what a rank runs in place of `argv`.
        terminal: rows << 16 | columns of the one that its task has; 0: it has pipes.
        broadcast: every task gets standard input, as with `srun`; else the first alone.
        recorded: the job's record tells of it: it is no part of a launcher that tells of itself.
    """

    argv: list[str]
    program: str = "bursar step"
    nodes: int = 0
    tasks: int = 0
    tasks_per_node: int = 0
    node: list[str] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)
    cyclic: bool = False
    output: str = ""
    error: str = ""
    input: str = ""
    append: bool = False
    label: bool = False
    unbuffered: bool = False
    kill_on_bad_exit: bool = False
    wait_s: int = 0
    exclusive: bool = False
    cpus_per_task: int = 0
    gpus_per_task: int = 0
    gpus_per_node: int = 0
    gpu_claim: str = ""
    tasks_per_gpu: int = 0
    gpu_map: list[int] = field(default_factory=list)
    programs: dict[int, list[str]] = field(default_factory=dict)
    time_s: int = 0
    cwd: str = ""
    quiet: bool = False
    slurm: bool = False
    terminal: int = 0
    broadcast: bool = False
    recorded: bool = False
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Member:
    """One node of the attempt."""

    rank: int
    name: str
    address: str


@dataclass(frozen=True)
class Place:
    """The tasks of one member, by rank; `gpus`: places of the devices that are theirs, None for all there."""

    member: Member
    ranks: list[int]
    gpus: list[int] | None = None


def members(env: Mapping[str, str]) -> tuple[str, int, list[Member]]:
    """(attempt id, own rank, all members). Raises `Refused` outside a job."""
    attempt, mark, rank = env.get(names.MEMBER, "").partition("@")[0].rpartition(".")
    if not mark or not rank.isdigit() or names.DIRECTORY not in env:
        raise Refused("not inside a running job of bursar; steps are started by a job's own processes")
    found = env.get(names.NODE_NAMES, "").split(",")
    addresses = env.get("BURSAR_NODE_ADDRESSES", "").split(",")
    if len(found) != len(addresses) or int(rank) >= len(found):
        raise Refused(f"{names.NODE_NAMES} does not name the nodes of this job; a script has changed it")
    pairs = enumerate(zip(found, addresses, strict=True))
    return attempt, int(rank), [Member(at, name, address) for at, (name, address) in pairs]


def places(request: Request, all_members: Sequence[Member]) -> list[Place]:
    """Which member has which tasks. Raises `Refused` for more nodes than there are, or unknown ones."""
    chosen = _chosen(request, all_members)
    if request.nodes > len(chosen):
        raise Refused(f"{plural(request.nodes, 'node')} are asked for; there are {len(chosen)} in this job")
    tasks = request.tasks
    if not tasks:
        tasks = (request.nodes or len(chosen)) * (request.tasks_per_node or 1)
    if tasks > STEP_TASKS_MAX:
        raise Refused(f"{tasks} tasks are asked for; at most {STEP_TASKS_MAX} run in one step")
    count = request.nodes or len(chosen)
    if request.tasks_per_node and not request.nodes and not request.node:
        count = min(count, -(-tasks // request.tasks_per_node))
    count = min(count, tasks)
    if request.tasks_per_node and tasks > count * request.tasks_per_node:
        raise Refused(
            f"{tasks} tasks are asked for, but {plural(count, 'node')} take {request.tasks_per_node} each"
        )
    counts = [len(range(at, tasks, count)) for at in range(count)]
    found, first = [], 0
    for at, one in enumerate(chosen[:count]):
        ranks = list(range(at, tasks, count)) if request.cyclic else list(range(first, first + counts[at]))
        first += counts[at]
        found.append(Place(one, ranks))
    return found


def named(request: Request, all_members: Sequence[Member]) -> list[Member]:
    """Those it names, or all, but for those that it excludes; in the job's order. Raises `Refused`."""
    wanted, out = _ranks(request.node, all_members), _ranks(request.exclude, all_members)
    return [one for one in all_members if one.rank not in out and (not wanted or one.rank in wanted)]


def _ranks(words: Sequence[str], all_members: Sequence[Member]) -> list[int]:
    known = {key: one for one in reversed(all_members) for key in (one.address, one.name)}
    for name in words:
        if name not in known:
            here = compress_hosts(one.name for one in all_members)
            raise Refused(f"{name} is no node of this job; these are: {here}")
    return list(dict.fromkeys(known[name].rank for name in words))


def _chosen(request: Request, all_members: Sequence[Member]) -> list[Member]:
    wanted, out = _ranks(request.node, all_members), _ranks(request.exclude, all_members)
    chosen = [all_members[rank] for rank in wanted or range(len(all_members))]
    if wanted and not request.nodes:
        request.nodes = len(wanted)
    if request.nodes > len(wanted) > 0:
        chosen += [one for one in all_members if one.rank not in wanted]
    return [one for one in chosen if one.rank not in out]


def specs(
    request: Request, found: Sequence[Place], env: Mapping[str, str], step: int
) -> list[dict[str, Any]]:
    """What each node is told, in the order of the places."""
    tasks = sum(len(place.ranks) for place in found)
    common = {name: value for name, value in env.items() if name not in names.OF_THE_NODE} | request.env
    distributed = tasks > 1 and _is_ours(env, "RANK")
    if distributed:
        common |= _world(env, found, tasks)
    if request.slurm:
        common |= _slurm(request, found, tasks, step)
    told = []
    for index, place in enumerate(found):
        node_env: dict[str, str] = {}
        if request.slurm:
            ranks = ",".join(map(str, place.ranks))
            node_env = {
                "SLURM_NODEID": str(index),
                "SLURM_GTIDS": ranks,
                "SLURMD_NODENAME": place.member.name,
                "SLURM_TOPOLOGY_ADDR": place.member.name,
            }
        if distributed:
            node_env["LOCAL_WORLD_SIZE"] = str(len(place.ranks))
        told.append(
            {
                "argv": request.argv,
                "program": request.program,
                "env": common,
                "node_env": node_env,
                "node": place.member.name,
                "node_index": index,
                "ranks": place.ranks,
                "tasks": tasks,
                "step": step,
                "cwd": request.cwd,
                "terminal": request.terminal,
                "slurm": request.slurm,
                "distributed": distributed,
                "gpus_per_task": request.gpus_per_task,
                "gpus_per_node": request.gpus_per_node,
                "tasks_per_gpu": request.tasks_per_gpu,
                "gpu_map": request.gpu_map,
                "gpu_places": place.gpus,
                "programs": {str(at): request.programs[at] for at in place.ranks if at in request.programs},
                "steps": env[names.DIRECTORY],
                "secrets": env.get(names.SECRETS, ""),
                "append": request.append,
                **{key: getattr(request, key) for key in ("output", "error", "input")},
                "stdin": False,
            }
        )
    return told


def gpus_held(env: Mapping[str, str]) -> int | None:
    """Devices of the job on each of its nodes; None where the job itself says otherwise than it was told."""
    try:
        return math.ceil(float(env.get("BURSAR_GPUS", "")))
    except (ValueError, OverflowError):
        return None


def refuse_more_gpus(request: Request, env: Mapping[str, str], found: Sequence[Place]) -> None:
    """Raise `Refused` for more devices on a node than the job holds there: it holds the same on each."""
    have = gpus_held(env)
    if have is None:
        return  # each node gives what it has
    most = max(len(place.ranks) for place in found)
    if request.gpus_per_node > have:
        asked = plural(request.gpus_per_node, "GPU")
        raise Refused(f"--gpus-per-node: {asked} asked for; the job holds {have} on a node")
    if request.gpu_map and max(request.gpu_map) >= have:
        most_named = max(request.gpu_map)
        raise Refused(f"--gpu-bind: GPU {most_named} is named; the job holds {have} on a node, from 0")
    if request.gpus_per_task * most > have:
        raise Refused(
            f"--gpus-per-task: {plural(most, 'task')} on a node with {request.gpus_per_task} each need"
            f" {request.gpus_per_task * most} GPUs; the job holds {have} on a node"
        )


def _is_ours(env: Mapping[str, str], name: str) -> bool:
    return name not in env or names.STEP_RANK in env


def _world(env: Mapping[str, str], found: Sequence[Place], tasks: int) -> dict[str, str]:
    """What torch reads to find its world, unless the script has set it up by itself."""
    world = {}
    if env.get("WORLD_SIZE") in (None, env.get("BURSAR_NODES")) or names.STEP_RANK in env:
        world["WORLD_SIZE"] = str(tasks)
    if "MASTER_ADDR" not in env:
        world["MASTER_ADDR"] = "127.0.0.1" if len(found) == 1 else found[0].member.address
    if "MASTER_PORT" not in env:
        number = env.get("BURSAR_JOB_NUMBER", "0")
        world["MASTER_PORT"] = str(20_000 + int(number) % 10_000 if number.isdigit() else 29_500)
    return world


def _slurm(request: Request, found: Sequence[Place], tasks: int, step: int) -> dict[str, str]:
    hosts = compress_hosts(place.member.name for place in found)
    spread = counts_by_node(len(place.ranks) for place in found)
    env = dict.fromkeys(("SLURM_STEP_ID", "SLURM_STEPID"), str(step))
    env |= dict.fromkeys(("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_STEP_NUM_TASKS"), str(tasks))
    env |= dict.fromkeys(("SLURM_NNODES", "SLURM_STEP_NUM_NODES"), str(len(found)))
    env |= dict.fromkeys(("SLURM_TASKS_PER_NODE", "SLURM_STEP_TASKS_PER_NODE"), spread)
    env |= {"SLURM_STEP_NODELIST": hosts, "SLURM_NODELIST": hosts}
    if request.tasks_per_node:
        env["SLURM_NTASKS_PER_NODE"] = str(request.tasks_per_node)
    if request.cpus_per_task:
        env["SLURM_CPUS_PER_TASK"] = str(request.cpus_per_task)
    if request.gpus_per_task:
        env["SLURM_GPUS_PER_TASK"] = str(request.gpus_per_task)
    return env
