"""`srun` inside a running job: its options, read as Slurm reads them.

Owns    the table of options. Output: a request, or an error that names what cannot be done.
Why     most scripts start what matters with it. An option that would change what runs, where or with what is
        done or refused; one that changes comfort alone is taken and does nothing.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bursar.steps import elf, login, records, terminal
from bursar.steps.hosts import expand_hosts
from bursar.steps.names import NODE_NAMES, VERSION
from bursar.steps.request import Refused, Request

PROGRAM: Final = "srun"
NO_TERMINAL: Final = "--pty cannot be done: a job has no terminal; in one of `bursar attach JOB` it can"


class Option(NamedTuple):
    """One option. `takes`: 0 no value, 1 a value, 2 one after `=` alone. `fate`: done, idle or refused."""

    name: str
    short: str
    takes: int
    fate: str = "done"
    text: str = ""


def _many(fate: str, takes: int, text: str, *names: str) -> list[Option]:
    found = []
    for each in names:
        name, _, short = each.partition("/")
        found.append(Option(name, short, takes, fate, text))
    return found


_IMAGES: Final = "steps in a container are not built; a job file has `image`"
TABLE: Final = (
    *_many("done", 1, "", "nodes/N", "ntasks/n", "ntasks-per-node", "tasks-per-node", "cpus-per-task/c"),
    *_many("done", 1, "", "nodelist/w", "exclude/x", "output/o", "error/e", "input/i", "wait/W", "chdir/D"),
    *_many("done", 1, "", "export", "open-mode", "distribution/m", "jobid", "gpus-per-task", "time/t", "mpi"),
    *_many("done", 1, "", "gpus-per-node", "gres", "gpu-bind", "gpus/G"),
    *_many("done", 0, "", "label/l", "unbuffered/u", "quiet/Q", "exact", "overlap", "help/h", "version/V"),
    *_many("done", 0, "", "usage"),
    *_many("done", 0, "", "multi-prog"),
    *_many("done", 2, "", "kill-on-bad-exit/K", "exclusive"),
    *_many("idle", 0, "", "verbose/v", "no-kill/k", "overcommit/O", "oversubscribe/s"),
    *_many("idle", 0, "", "disable-status/X"),
    *_many("idle", 0, "", "contiguous", "use-min-nodes", "spread-job", "no-allocate/Z"),
    *_many("idle", 0, "", "quit-on-interrupt", "preserve-env/E", "whole", "send-libs"),
    *_many("idle", 1, "", "job-name/J", "account/A", "partition/p", "qos/q", "comment", "mem", "mem-per-cpu"),
    *_many("idle", 1, "", "mem-per-gpu", "mem-bind", "cpu-freq", "hint", "threads-per-core"),
    *_many("idle", 1, "", "accel-bind", "cpus-per-gpu", "ntasks-per-core", "ntasks-per-socket", "profile"),
    *_many("idle", 1, "", "gpu-freq", "constraint/C", "slurmd-debug", "msg-timeout", "tmp"),
    *_many("idle", 1, "", "max-exit-timeout", "acctg-freq", "core-spec/S", "delay-boot", "extra"),
    *_many("idle", 1, "", "extra-node-info/B", "gres-flags", "mail-type", "mail-user", "mcs-label", "prefer"),
    *_many("idle", 1, "", "thread-spec", "threads/T", "time-min", "tres-bind", "treewidth", "wckey"),
    *_many("idle", 1, "", "cores-per-socket", "sockets-per-node", "mincpus", "switches", "power", "priority"),
    *_many("idle", 1, "", "network", "cpu-bind", "signal", "reservation", "licenses/L"),
    *_many("idle", 2, "", "propagate", "compress", "nice", "immediate/I", "resv-ports"),
    *_many("refused", 1, "jobs of several parts are not built; submit one job for each", "het-group"),
    *_many("done", 2, "", "pty"),
    *_many("refused", 2, "a job has no display", "x11"),
    *_many("refused", 1, "give the GPUs of each task: --gpus-per-task", "gpus-per-socket"),
    *_many("refused", 1, "it is decided where it is submitted", "begin/b", "dependency/d", "deadline"),
    *_many("refused", 1, "it is decided where it is submitted", "uid", "gid"),
    *_many("refused", 0, "it is decided where it is submitted", "hold/H", "reboot", "test-only"),
    *_many("refused", 1, "a job goes to the server it is submitted to", "clusters/M", "cluster-constraint"),
    *_many("refused", 1, "give the tasks of a node: --ntasks-per-node", "ntasks-per-gpu"),
    *_many("refused", 1, "use --cpus-per-task and --gpus-per-task", "tres-per-task"),
    *_many("refused", 1, "there are no burst buffers; copy in the script", "bb", "bbf"),
    *_many("refused", 0, "processes outside of a step are started as such: no srun", "external"),
    *_many("refused", 1, "write it into the command", "prolog", "epilog", "task-prolog", "task-epilog"),
    *_many("refused", 2, "copy to a directory that all nodes share", "bcast"),
    *_many("refused", 1, _IMAGES, "container", "container-env", "container-id", "container-image"),
    *_many("refused", 1, _IMAGES, "container-mounts", "container-name", "container-save"),
    *_many("refused", 1, _IMAGES, "container-workdir"),
    *_many("refused", 0, _IMAGES, "container-mount-home", "container-writable", "no-container-mount-home"),
    *_many("refused", 0, _IMAGES, "container-remap-root", "container-entrypoint", "container-readonly"),
    *_many("refused", 0, _IMAGES, "no-container-remap-root", "no-container-entrypoint"),
    *_many("done", 1, "", "relative/r"),
    *_many("refused", 1, "ranks are spread in blocks or in turn: --distribution", "arbitrary"),
)  # fmt: skip
_BY_NAME: Final = {option.name: option for option in TABLE}
_BY_SHORT: Final = {option.short: option for option in TABLE if option.short}
VARIABLES: Final = {
    "SLURM_DISTRIBUTION": "distribution", "SLURM_EXPORT_ENV": "export",
    "SLURM_KILL_BAD_EXIT": "kill-on-bad-exit", "SLURM_LABELIO": "label", "SLURM_MPI_TYPE": "mpi",
    "SLURM_OPEN_MODE": "open-mode",
    "SLURM_STDERRMODE": "error", "SLURM_STDINMODE": "input", "SLURM_STDOUTMODE": "output",
    "SLURM_UNBUFFEREDIO": "unbuffered", "SLURM_WAIT": "wait",
}  # fmt: skip
"""Of the script, each with the option that it stands for."""
HELP: Final = """\
srun of bursar: start tasks on the nodes of the running job.
usage: srun [-N nodes] [-n tasks] [--ntasks-per-node n] [-w nodes] [-o file] [-e file] [-l] [-K] [-W s] cmd...
docs/from-slurm.md lists every option. Outside of a job: srun --pty, bursar run, bursar submit.
"""


def parse(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Options by long name, and the command. Raises `Refused`."""
    found, argv = _parse(arguments)
    if ":" in argv[1:-1]:
        raise Refused(
            "':' begins another program of the same step, which cannot be done: list them in a file for "
            "--multi-prog, or start one srun for each in the background"
        )
    return found, argv


def refusal_of(words: Sequence[str]) -> str:
    """Why `srun` will not do what these words ask, so far as words alone say; empty where they may be done.

    Args:
        words: with `$` for what only a shell knows. A word that begins so may be anything, so it is read as
            the command, behind which nothing is looked at.
    """
    try:
        found, _ = parse(words)
        if "pty" in found:
            raise Refused(NO_TERMINAL)
        if "$" not in found.get("mpi", ""):
            _check_mpi(found)
    except Refused as refused:
        return str(refused)
    return ""


def _parse(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    found: dict[str, str] = {}
    at = 0
    while at < len(arguments):
        word = arguments[at]
        at += 1
        if word == "--":
            break
        if word.startswith("--"):
            name, mark, value = word[2:].partition("=")
            option = _named(name)
            at = _take(found, option, f"--{name}", value if mark else None, arguments, at)
        elif word.startswith("-") and len(word) > 1:
            at = _shorts(found, word[1:], arguments, at)
        else:
            at -= 1
            break
    return found, list(arguments[at:])


def _named(name: str) -> Option:
    name = name.replace("_", "-")  # as Slurm once wrote them
    option = _BY_NAME.get(name)
    near = [name] if option else [each for each in _BY_NAME if each.startswith(name)]
    if len(near) != 1 or not name:
        words = (
            f"is one of {', '.join('--' + each for each in near)}"
            if near
            else "is not an option of srun here"
        )
        raise Refused(f"--{name} {words}")
    return _BY_NAME[near[0]]


def _shorts(found: dict[str, str], letters: str, arguments: Sequence[str], at: int) -> int:
    while letters:
        option = _BY_SHORT.get(letters[0])
        if option is None:
            raise Refused(f"-{letters[0]} is not an option of srun here")
        word, letters = f"-{letters[0]}", letters[1:]
        if option.takes == 1:
            return _take(found, option, word, letters.removeprefix("=") or None, arguments, at)
        value = None
        if option.takes == 2 and letters[:1].isdigit():
            rest = letters.lstrip("0123456789")
            value, letters = letters[: len(letters) - len(rest)], rest
        at = _take(found, option, word, value, arguments, at)
    return at


def _take(
    found: dict[str, str], option: Option, word: str, value: str | None, arguments: Sequence[str], at: int
) -> int:
    if option.fate == "refused":
        raise Refused(f"{word} cannot be done: {option.text}")
    if option.takes == 1 and value is None:
        if at == len(arguments):
            raise Refused(f"{word} needs a value")
        value, at = arguments[at], at + 1
    if option.takes == 0 and value is not None:
        raise Refused(f"{word} takes no value")
    if option.fate == "done":
        found[option.name] = value or ""
    return at


def request_of(arguments: Sequence[str], env: Mapping[str, str]) -> tuple[Request, dict[str, str]]:
    """What words ask for in a job with this environment, and what tasks inherit. Raises `Refused`."""
    found, argv = parse(arguments)
    if not argv:
        raise Refused("no command is given")
    found = {**_of_the_shell(env), **found}
    request = Request(argv, program=PROGRAM, slurm=True, recorded=True)
    _sizes(request, found, env)
    request.node = _hosts(found, "nodelist")
    request.exclude = _hosts(found, "exclude")
    if "nodelist" in found and "nodes" not in found and "ntasks" not in found:
        request.nodes = len(request.node)
        request.tasks = request.nodes * (request.tasks_per_node or _number(env, "SLURM_NTASKS_PER_NODE", 1))
    if "relative" in found:
        _relative(request, found, env)
    for key in ("output", "error", "input"):
        _stream(request, key, found.get(key, ""))
    request.label, request.unbuffered = "label" in found, "unbuffered" in found
    request.quiet = "quiet" in found
    request.append = found.get("open-mode", "truncate")[:1] == "a"
    request.kill_on_bad_exit = "kill-on-bad-exit" in found and found["kill-on-bad-exit"] != "0"
    request.wait_s = _number(found, "wait", 0)
    if "pty" in found:
        _at_terminal(request, found)
    request.exclusive = "exclusive" in found or "exact" in found
    request.time_s = _seconds(found["time"]) if "time" in found else 0
    request.cwd = os.path.join(os.getcwd(), found["chdir"]) if "chdir" in found else ""
    request.cyclic = _cyclic(found.get("distribution", ""))
    bind(request, found.get("gpu-bind") or env.get("SLURM_GPU_BIND", ""))
    request.gpu_claim = _claim(request, found)
    if "multi-prog" in found:
        _programs(request)
    _check_mpi(found)
    if "mpi" not in found and "multi-prog" not in found:
        _refuse_worlds(request, env)
    own = env.get("SLURM_JOB_ID", "")
    if "jobid" in found and found["jobid"] not in (own, ""):
        raise Refused(f"--jobid {found['jobid']} is another job; steps are started inside their own, {own}")
    return request, _exported(found.get("export", "ALL"), env)


def _relative(request: Request, found: Mapping[str, str], env: Mapping[str, str]) -> None:
    """`--relative N`: nodes of the job from its Nth on, counted from 0. Raises `Refused`."""
    if "nodelist" in found:
        raise Refused("--relative and --nodelist both say which nodes; keep one of them")
    word, known = found["relative"], env.get(NODE_NAMES, "").split(",")
    if not word.isascii() or not word.isdigit() or int(word) >= len(known):
        raise Refused(f"--relative {word}: the nodes of this job are 0 to {len(known) - 1}")
    at = int(word)
    many = request.nodes or min(len(known) - at, request.tasks or len(known))
    if at + many > len(known):
        raise Refused(
            f"--relative {word}: {many} nodes from there on are asked for; the job has {len(known)}"
        )
    request.node, request.nodes = known[at : at + many], many


def _of_the_shell(env: Mapping[str, str]) -> dict[str, str]:
    """Options that variables stand for, below those that are typed."""
    given = {option: env[name] for name, option in VARIABLES.items() if env.get(name)}
    return {
        name: "" if _BY_NAME[name].takes == 0 else value
        for name, value in given.items()
        if _BY_NAME[name].takes == 1 or value != "0"
    }


def _stream(request: Request, key: str, said: str) -> None:
    """A file, `none`, `all` as where nothing is said, or the rank of one task. Raises `Refused`."""
    word = "" if said.lower() == "all" else "none" if said.lower() == "none" else said
    if key == "input":
        request.broadcast = not word
        word = "" if word == "0" else word
    if word.isdigit():
        only = "0 (the first task) or all" if key == "input" else "all, none or a file"
        raise Refused(f"--{key}={said}: the stream of one task by its rank cannot be told apart here: {only}")
    setattr(request, key, word)


def _at_terminal(request: Request, found: Mapping[str, str]) -> None:
    """`--pty`: one task, at the terminal of whoever asks. Raises `Refused`."""
    if not (os.isatty(0) and os.isatty(1)):
        raise Refused(NO_TERMINAL)
    if ("ntasks" in found and request.tasks > 1) or "multi-prog" in found:
        raise Refused("--pty is for one task; leave out --ntasks, or start the others by another srun")
    if any(name in found for name in ("output", "error", "input", "label")):
        raise Refused("--pty has the terminal; leave out --output, --error, --input and --label")
    request.tasks, request.nodes, request.tasks_per_node = 1, min(request.nodes, 1), 0
    request.terminal, request.broadcast = terminal.size(), False


def _refuse_worlds(request: Request, env: Mapping[str, str]) -> None:
    """Raise `Refused` for a program of MPI that has several tasks: each would be a world of its own."""
    nodes = request.nodes or _number(env, "SLURM_JOB_NUM_NODES", 1)
    tasks = request.tasks or nodes * (request.tasks_per_node or 1)
    library = elf.mpi_of(request.argv[0], env) if tasks > 1 else ""
    if library:
        command = " ".join(map(shlex.quote, request.argv))
        raise Refused(
            f"{request.argv[0]} is a program of MPI ({library}), and srun starts no MPI world: each of its"
            f" {tasks} tasks would be one of its own; write `mpirun -n {tasks} {command}`, or say --mpi=none"
        )


def _check_mpi(found: Mapping[str, str]) -> None:
    mpi = found.get("mpi", "none")
    if mpi not in ("none", "openmpi"):
        raise Refused(f"--mpi={mpi} is not there, so each process would be a world of its own; use mpirun")


def _sizes(request: Request, found: Mapping[str, str], env: Mapping[str, str]) -> None:
    least, _, most = found.get("nodes", "").partition("-")
    request.nodes = _count({"nodes": most or least}, "nodes", 0)
    request.tasks = _count(found, "ntasks", 0)
    per_node = found.get("ntasks-per-node") or found.get("tasks-per-node") or ""
    request.tasks_per_node = _count({"ntasks-per-node": per_node}, "ntasks-per-node", 0)
    if not request.tasks and not request.tasks_per_node:
        if request.nodes:
            request.tasks = request.nodes * _number(env, "SLURM_NTASKS_PER_NODE", 1)
        else:
            request.tasks = _number(env, "SLURM_NTASKS", 1)
    if request.tasks and request.nodes > request.tasks:
        request.nodes = request.tasks  # as Slurm does, which warns
    request.cpus_per_task = _count(found, "cpus-per-task", _number(env, "SRUN_CPUS_PER_TASK", 0))
    asked = {"gpus-per-task": found.get("gpus-per-task") or env.get("SLURM_GPUS_PER_TASK", "")}
    request.gpus_per_task = _gpus(asked, "gpus-per-task")
    request.gpus_per_node = (
        _gpus(found, "gpus-per-node") or _gpus(found, "gres") or _share(request, found, env)
    )


def _share(request: Request, found: Mapping[str, str], env: Mapping[str, str]) -> int:
    """Of `--gpus`, which counts the whole step, the part of each node."""
    wanted = _gpus(found, "gpus")
    if not wanted:
        return 0
    nodes = request.nodes or (1 if request.tasks == 1 else _number(env, "SLURM_JOB_NUM_NODES", 1))
    if wanted % nodes:
        raise Refused(f"--gpus {found['gpus']}: they do not divide over {nodes} nodes; give --gpus-per-task")
    request.nodes = nodes
    return wanted // nodes


_NAMES_GPUS: Final = ("gpus", "gpus-per-task", "gpus-per-node", "gres")


def _claim(request: Request, found: Mapping[str, str]) -> str:
    """Its devices are its own, as in Slurm, unless it says otherwise or names them by their places."""
    if "overlap" in found or request.tasks_per_gpu or request.gpu_map:
        return ""
    if not request.gpus_per_task and not request.gpus_per_node:
        return ""
    return "wait" if request.exclusive or any(name in found for name in _NAMES_GPUS) else "free"


def bind(request: Request, text: str) -> None:
    """`--gpu-bind`: which devices of its node a task sees; without it those of `--gpus-per-task`.

    Raises `Refused`.
    """
    word = text.removeprefix("verbose,").removeprefix("v,")
    kind, _, value = word.partition(":")
    if kind in ("none", "closest"):
        request.gpus_per_task = 0  # which device is near is not known: a task sees all of its node
    elif kind == "per_task":
        request.gpus_per_task = _number({"gpu-bind": value}, "gpu-bind", 0)
    elif kind == "single":
        request.gpus_per_task, request.tasks_per_gpu = 0, _number({"gpu-bind": value}, "gpu-bind", 1) or 1
    elif kind == "map_gpu" and value and all(one.isascii() and one.isdigit() for one in value.split(",")):
        request.gpus_per_task, request.gpu_map = 0, [int(one) for one in value.split(",")]
    elif word:
        known = "none, closest, single:N, per_task:N, map_gpu:N,N"
        raise Refused(f"--gpu-bind {text} cannot be done; {known} can")


def _programs(request: Request) -> None:
    """`--multi-prog FILE`: lines of `ranks program words`; %t is the rank, %o its place among its line's."""
    try:
        lines = Path(request.argv[0]).read_text(errors="surrogateescape").replace("\\\n", " ").split("\n")
    except OSError as problem:
        raise Refused(f"--multi-prog {request.argv[0]}: {problem.strerror}") from None
    for number, line in enumerate(lines, 1):
        try:
            words = shlex.split(line, comments=True)
            ranks = expand_ranks(words[0], request.tasks) if words else []
        except ValueError as problem:
            raise Refused(f"--multi-prog {request.argv[0]}:{number}: {problem}") from None
        if words and not words[1:]:
            raise Refused(f"--multi-prog {request.argv[0]}:{number}: no program is named")
        for offset, rank in enumerate(ranks):
            filled = [word.replace("%t", str(rank)).replace("%o", str(offset)) for word in words[1:]]
            request.programs.setdefault(rank, filled)  # as in Slurm the first line counts: `*` is the rest
    missing = [rank for rank in range(request.tasks) if rank not in request.programs]
    if missing or not request.tasks:
        raise Refused(f"--multi-prog {request.argv[0]}: task {missing[0] if missing else 0} has no program")


def expand_ranks(text: str, tasks: int) -> list[int]:
    """`0`, `1-3,5`, `*` (all). Raises `ValueError`."""
    if text == "*":
        return list(range(tasks))
    found: list[int] = []
    for part in text.split(","):
        first, mark, last = part.partition("-")
        ends = [first, last] if mark else [first]
        if not all(end.isascii() and end.isdigit() and len(end) < 6 for end in ends):
            raise ValueError(f"{part} is no range of tasks")
        found += range(int(first), int(ends[-1]) + 1)
    if any(rank >= tasks for rank in found):
        raise ValueError(f"{text} names tasks above {tasks - 1}, the last")
    return found


def _number(values: Mapping[str, str], name: str, default: int) -> int:
    text = values.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 8):
        raise Refused(f"--{name} {text} is not a number")
    return int(text)


def _count(values: Mapping[str, str], name: str, default: int) -> int:
    """Of what there must be one at least: 0 is no way to say nothing of it."""
    number = _number(values, name, default)
    if values.get(name) and not number:
        raise Refused(f"--{name} {values[name]} is not a number above 0")
    return number


def _gpus(found: Mapping[str, str], name: str) -> int:
    """`2`, `a100:2`, `gpu:2`, `gpu:a100:2`."""
    text = found.get(name, "")
    if not text or text == "none":
        return 0
    words = text.split(":")
    if name == "gres" and words[0] != "gpu":
        raise Refused(f"--gres {text}: only gpu is known")
    count = words[-1] if words[-1].isdigit() else "1"
    return _number({name: count}, name, 0)


def _hosts(found: Mapping[str, str], name: str) -> list[str]:
    try:
        return expand_hosts(found[name]) if found.get(name) else []
    except ValueError as problem:
        raise Refused(f"--{name} {found[name]}: {problem}") from None


def _cyclic(text: str) -> bool:
    word = text.partition(":")[0].partition(",")[0]
    if word not in ("", "*", "block", "cyclic"):
        raise Refused(f"--distribution {word} cannot be done: block and cyclic can")
    return word == "cyclic"


def _seconds(text: str) -> int:
    """Slurm's times: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S."""
    days, mark, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isascii() and part.isdigit() for part in [*parts, days or "0"]) or len(parts) > 3:
        raise Refused(f"--time {text} is no time")
    numbers = [int(part) for part in parts]
    units = (3600, 60, 1) if mark or len(numbers) == 3 else (60, 1)
    return int(days or 0) * 86_400 + sum(n * unit for n, unit in zip(numbers, units, strict=False))


def _exported(text: str, env: Mapping[str, str]) -> dict[str, str]:
    parts = text.split(",")
    kept = dict(env)
    if not any(part in ("ALL", "") for part in parts):
        prefixes = ("SLURM", "BURSAR", "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "CUDA")
        names = {part for part in parts if "=" not in part}
        kept = {key: value for key, value in env.items() if key.startswith(prefixes) or key in names}
    for part in parts:
        name, mark, value = part.partition("=")
        if mark:
            kept[name] = value
    return kept


def main(arguments: Sequence[str]) -> int:
    """`srun`; its exit code."""
    if arguments and arguments[0] in ("-h", "--help", "--usage", "-V", "--version"):
        sys.stdout.write(VERSION if "V" in arguments[0].upper()[:3] else HELP)
        return 0
    try:
        if "BURSAR_ATTEMPT_MEMBER" not in os.environ:
            if "pty" in parse(arguments)[0]:
                return login.srun_pty(arguments)
            raise Refused("not inside a running job; use bursar run, or submit a script that calls srun")
        request, env = request_of(arguments, os.environ)
    except Refused as refused:
        sys.stderr.write(f"srun: error: {refused}\n")
        records.refused(os.environ, PROGRAM, refused.code)
        return refused.code
    from bursar.steps.client import run

    return run(request, env)
