"""`sbatch`: a script for the queue, with what the command line says above its directives.

Owns    where its options end and the script begins. What they mean is said where directives are read.
Why     the script goes on as it is, and its options beside it: a message about its ninth line says 9, before
        it is submitted and when it runs.
Rule    of two that say the same the command line counts, then variables such as `SBATCH_ACCOUNT`, then the
        script: as in Slurm.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bursar.steps import names
from bursar.steps.queue import program, refuse

FLAGS: Final = frozenset(
    (
        "contiguous", "container-entrypoint", "container-entrypoint-log", "container-mount-home",
        "container-readonly", "container-remap-root", "container-writable", "exclusive", "get-user-env",
        "hold", "ignore-pbs", "nice", "no-container-entrypoint", "no-container-entrypoint-log",
        "no-container-mount-home", "no-container-readonly", "no-container-remap-root",
        "no-container-writable", "no-kill", "no-requeue", "overcommit", "oversubscribe", "parsable",
        "propagate", "quiet", "reboot", "requeue", "resv-ports", "share", "spread-job", "stepmgr",
        "test-only", "use-min-nodes", "verbose", "wait",
    )
)  # fmt: skip
"""Options whose next word is not their value."""
VALUES: Final = frozenset(
    (
        "account", "acctg-freq", "array", "batch", "bb", "bbf", "begin", "chdir", "cluster-constraint",
        "clusters", "comment", "constraint", "container", "container-env", "container-id", "container-image",
        "container-mounts", "container-name", "container-save", "container-workdir", "core-spec",
        "cores-per-socket", "cpu-bind", "cpu-freq", "cpus-per-gpu", "cpus-per-task", "deadline", "delay-boot",
        "dependency", "distribution", "error", "exclude", "export", "export-file", "extra", "extra-node-info",
        "gid", "gpu-bind", "gpu-freq", "gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task", "gres",
        "gres-flags", "hint", "input", "job-name", "kill-on-invalid-dep", "licences", "licenses", "mail-type",
        "mail-user", "mcs-label", "mem", "mem-bind", "mem-per-cpu", "mem-per-gpu", "mincpus", "network",
        "nodefile", "nodelist", "nodes", "ntasks", "ntasks-per-core", "ntasks-per-gpu", "ntasks-per-node",
        "ntasks-per-socket", "open-mode", "output", "partition", "power", "prefer", "priority", "profile",
        "qos", "reservation", "segment", "signal", "sockets-per-node", "switches", "tasks-per-node",
        "thread-spec", "threads-per-core", "time", "time-min", "tmp", "tres-bind", "tres-per-task", "uid",
        "wait-all-nodes", "wckey", "workdir", "wrap",
    )
)  # fmt: skip
SHORT: Final = {
    "A": "account", "a": "array", "B": "extra-node-info", "b": "begin", "C": "constraint",
    "c": "cpus-per-task", "D": "chdir", "d": "dependency", "e": "error", "F": "nodefile", "G": "gpus",
    "H": "hold", "i": "input", "J": "job-name", "k": "no-kill", "L": "licenses", "M": "clusters",
    "m": "distribution", "N": "nodes", "n": "ntasks", "O": "overcommit", "o": "output", "p": "partition",
    "Q": "quiet", "q": "qos", "S": "core-spec", "s": "oversubscribe", "t": "time", "v": "verbose",
    "W": "wait", "w": "nodelist", "x": "exclude",
}  # fmt: skip
VARIABLES: Final = {
    "SBATCH_ACCOUNT": "account", "SBATCH_ARRAY_INX": "array", "SBATCH_CLUSTERS": "clusters",
    "SBATCH_CONSTRAINT": "constraint", "SBATCH_EXCLUSIVE": "exclusive", "SBATCH_EXPORT": "export",
    "SBATCH_GPUS": "gpus", "SBATCH_GPUS_PER_NODE": "gpus-per-node", "SBATCH_GPUS_PER_TASK": "gpus-per-task",
    "SBATCH_GRES": "gres", "SBATCH_JOB_NAME": "job-name", "SBATCH_MEM_PER_CPU": "mem-per-cpu",
    "SBATCH_MEM_PER_GPU": "mem-per-gpu", "SBATCH_MEM_PER_NODE": "mem", "SBATCH_NO_REQUEUE": "no-requeue",
    "SBATCH_OPEN_MODE": "open-mode", "SBATCH_OUTPUT": "output", "SBATCH_ERROR": "error",
    "SBATCH_PARTITION": "partition", "SBATCH_QOS": "qos", "SBATCH_REQUEUE": "requeue",
    "SBATCH_RESERVATION": "reservation", "SBATCH_SIGNAL": "signal", "SBATCH_TIMELIMIT": "time",
    "SBATCH_WCKEY": "wckey",
}  # fmt: skip
"""Of the shell, each with the option that it stands for."""
_OWN: Final = frozenset(("parsable", "quiet", "wait", "test-only", "verbose", "wrap"))
"""Options that say how it is submitted, and nothing of the job."""
_SLURM: Final = re.compile(r"^#SBATCH(?=[\s-]|$)", re.MULTILINE)


def sbatch(arguments: Sequence[str]) -> int:
    """Submit a script; the exit code."""
    try:
        own, words, rest = split(arguments)
    except ValueError as problem:
        return refuse("sbatch", str(problem))
    wrapped = own.get("wrap")
    try:
        name, text = _script(wrapped, rest)
    except OSError as problem:
        return refuse("sbatch", f"{problem.filename}: {problem.strerror}")
    plan = "test-only" in own
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(text, errors="surrogateescape")
        words_of = ["plan"] if plan else ["submit", "--parsable"]
        command = [*program(os.environ), *words_of, str(path), *([] if plan else rest[1:])]
        env = {
            **os.environ,
            names.SUBMITTED_AS: os.path.abspath(rest[0]) if wrapped is None and rest else "",
            names.SBATCH_WORDS: shlex.join([*of_the_shell(os.environ), *words]),
        }
        if plan:  # Slurm says on standard error when it would start
            return subprocess.run(command, stdout=sys.stderr, env=env).returncode
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=env)
    number = done.stdout.strip()
    if number and "quiet" not in own:
        sys.stdout.write(f"{number}\n" if "parsable" in own else f"Submitted batch job {number}\n")
        sys.stdout.flush()
    return _ended(number) if "wait" in own and number and not done.returncode else done.returncode


def _ended(number: str) -> int:
    """Wait for the end of a job; its exit code, of an array the highest of its tasks'."""
    waited = subprocess.run([*program(os.environ), "wait", "-q", number], stdout=subprocess.DEVNULL)
    if waited.returncode != 1:
        return waited.returncode
    found = 0
    for words in (["show", number], ["ls", "--state", "all", "--tasks", number]):
        asked = [*program(os.environ), *words, "-o", "json"]
        done = subprocess.run(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        told = json.loads(done.stdout) if not done.returncode else []
        codes = [one.get("exit_code") for one in (told if isinstance(told, list) else [told])]
        found = max([found, *(code for code in codes if code)])
    return found or 1


def split(arguments: Sequence[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Its own options with their values, words that say something of the job, the script with its words.

    Raises `ValueError`.
    """
    own: dict[str, str] = {}
    words: list[str] = []
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        name, value = _named(word)
        if value is None and name in VALUES:
            if not rest:
                raise ValueError(f"{word} needs a value")
            value = rest.pop(0)
        if name in _OWN:
            own[name] = value or ""
        else:
            words.append(f"--{name}" if value is None else f"--{name}={value}")
    return own, words, rest


def _named(word: str) -> tuple[str, str | None]:
    """The whole name of an option, and what is written behind it. Raises `ValueError`."""
    if not word.startswith("--"):
        name = SHORT.get(word[1], "")
        if not name:
            raise ValueError(f"{word} is not an option of sbatch here")
        # `-vv`, `-HQ`: letters of more flags, of which none changes what the first one says.
        return name, None if name in FLAGS else word[2:].removeprefix("=") or None
    asked, mark, value = word[2:].partition("=")
    asked = asked.replace("_", "-")  # as Slurm once wrote them
    known = [asked] if asked in FLAGS | VALUES else [one for one in FLAGS | VALUES if one.startswith(asked)]
    if len(known) > 1:
        raise ValueError(f"--{asked} may be {', '.join(f'--{one}' for one in sorted(known))}; write it whole")
    # What is not known may have its value behind it: whoever reads the option says what is wrong with it.
    return (known or [asked])[0], value if mark else None


def of_the_shell(environ: Mapping[str, str]) -> list[str]:
    """Options that variables of the shell stand for."""
    given = ((option, environ[name]) for name, option in VARIABLES.items() if environ.get(name))
    return [f"--{option}" if option in FLAGS else f"--{option}={value}" for option, value in given]


def _script(wrapped: str | None, rest: Sequence[str]) -> tuple[str, str]:
    """Name and text. Raises `OSError`."""
    if wrapped is not None:
        return "wrap", f"#!/bin/sh\n{wrapped}\n"
    if not rest or rest[0] == "-":
        return "sbatch", sys.stdin.read()
    path = Path(rest[0])
    return path.name, path.read_text(errors="surrogateescape")
