"""What Slurm's commands ask of the queue, asked of `bursar` in its words.

Owns    `sbatch`, `scancel`, and the verbs of `scontrol`; `tables` and `sinfo` have what only lists.
Why     these are rare in a script, so they may cost a whole command line; its errors are ours.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bursar.steps import names

_NO_VALUE: Final = frozenset(
    (
        "contiguous", "exclusive", "hold", "ignore-pbs", "kill-on-invalid-dep", "no-kill", "no-requeue",
        "overcommit", "oversubscribe", "parsable", "quiet", "reboot", "requeue", "spread-job", "test-only",
        "use-min-nodes", "verbose", "wait",
    )
)  # fmt: skip
_SHORT: Final = {
    "A": "account", "a": "array", "b": "begin", "C": "constraint", "c": "cpus-per-task", "D": "chdir",
    "d": "dependency", "e": "error", "G": "gpus", "H": "hold", "i": "input", "J": "job-name", "k": "no-kill",
    "m": "distribution", "N": "nodes", "n": "ntasks", "o": "output", "O": "overcommit", "p": "partition",
    "q": "qos", "Q": "quiet", "s": "oversubscribe", "t": "time", "v": "verbose", "W": "wait", "w": "nodelist",
    "x": "exclude",
}  # fmt: skip
_DIRECTIVE: Final = re.compile(r"^#SBATCH(?=[\s-]|$)")
_HELP: Final = "the options are Slurm's, as far as docs/from-slurm.md lists them\n"


def program(env: Mapping[str, str]) -> list[str]:
    """The `bursar` to run: of the job's node, else the one that this program came with."""
    if names.DIRECTORY in env:
        return [f"{env[names.DIRECTORY]}/{names.TOOLS}/bursar"]
    return [sys.executable, "-EP", "-c", "from bursar.cli.start import main; main()"]


def job_word(text: str) -> str:
    """`12`, `12_3` and the whole number of a task as `bursar` writes them: `12`, `12[3]`."""
    number, mark, task = text.partition("_")
    if mark:
        return f"{number}[{task.strip('[]')}]"
    if text.isascii() and text.isdigit() and len(text) < 16:
        array, index = divmod(int(text), names.TASK_FACTOR)
        return f"{array}[{index}]" if array and index <= names.TASK_INDEX_MAX else text
    return text


def verb(name: str, ids: Sequence[str]) -> int:
    """`requeue`, `hold`, `release` of jobs; the exit code."""
    words = [job_word(each) for one in ids for each in one.split(",")]
    return subprocess.run([*program(os.environ), name, *words], stdout=subprocess.DEVNULL).returncode


def refuse(name: str, text: str) -> int:
    """Say what cannot be done; the exit code."""
    sys.stderr.write(f"{name}: error: {text}\n")
    return 2


# --- sbatch ---------------------------------------------------------------------------------------


def sbatch(arguments: Sequence[str]) -> int:
    """Submit a script, with what the command line says above its directives; the exit code."""
    try:
        options, rest = _options(arguments)
    except ValueError as problem:
        return refuse("sbatch", str(problem))
    own = {name: name in options for name in ("parsable", "quiet", "wait", "test-only", "verbose")}
    options = {name: value for name, value in options.items() if name not in own}
    plan, words = own["test-only"], ["--wait"] if own["wait"] else []
    wrapped = options.pop("wrap", None)
    try:
        name, text = _script(wrapped, rest)
    except OSError as problem:
        return refuse("sbatch", f"{problem.filename}: {problem.strerror}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(_with_options(text, options), errors="surrogateescape")
        command = [*program(os.environ), "plan" if plan else "submit", *words]
        command += [str(path)] if plan else ["--parsable", str(path), *rest[1:]]
        file = os.path.abspath(rest[0]) if wrapped is None and rest else ""
        env = {**os.environ, names.SUBMITTED_AS: file}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=env)
    number = done.stdout.strip()
    if number and not own["quiet"] and not plan:
        sys.stdout.write(f"{number}\n" if own["parsable"] else f"Submitted batch job {number}\n")
    return done.returncode


def _options(arguments: Sequence[str]) -> tuple[dict[str, str | None], list[str]]:
    """Options by long name (None: no value), and the script with its words. Raises `ValueError`."""
    found: dict[str, str | None] = {}
    words = list(arguments)
    while words and words[0].startswith("-") and words[0] != "-":
        word = words.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            name, mark, value = word[2:].partition("=")
        else:
            name, mark, value = _SHORT.get(word[1], ""), word[2:3], word[2:].removeprefix("=")
        if not name:
            raise ValueError(f"{word} is not an option of sbatch here")
        if mark:
            found[name] = value
        elif name in _NO_VALUE:
            found[name] = None
        elif words:
            found[name] = words.pop(0)
        else:
            raise ValueError(f"{word} needs a value")
    return found, words


def _script(wrapped: str | None, rest: Sequence[str]) -> tuple[str, str]:
    """Name and text. Raises `OSError`."""
    if wrapped is not None:
        return "wrap", f"#!/bin/sh\n#SBATCH --job-name=wrap\n{wrapped}\n"
    if not rest or rest[0] == "-":
        return "sbatch", sys.stdin.read()
    path = Path(rest[0])
    return path.name, path.read_text(errors="surrogateescape")


def _with_options(text: str, options: Mapping[str, str | None]) -> str:
    """The script with these options below its own directives, where the last one of a name counts."""
    lines = text.splitlines(keepends=True)
    last = max((at for at, line in enumerate(lines) if _DIRECTIVE.match(line)), default=-1)
    if last < 0:
        last = 0 if lines and lines[0].startswith("#!") else -1
    more = [f"#SBATCH --{name}" + ("" if value is None else f"={_quoted(value)}") + "\n"
            for name, value in options.items()]  # fmt: skip
    if not more and last <= 0 and not any(map(_DIRECTIVE.match, lines)):
        more = ["#SBATCH --requeue\n"]  # it is a Slurm script whatever it says: it finds Slurm's names
    return "".join([*lines[: last + 1], *more, *lines[last + 1 :]])


def _quoted(value: str) -> str:
    return f'"{value}"' if re.search(r"[\s#]", value) else value


# --- scancel --------------------------------------------------------------------------------------

_CANCEL: Final = {
    "name": "--name", "jobname": "--name", "user": "--user", "state": "--state", "account": "--project",
    "n": "--name", "u": "--user", "t": "--state", "A": "--project",
}  # fmt: skip
_CANCEL_IDLE: Final = frozenset(("Q", "v", "quiet", "verbose", "f", "full"))


def scancel(arguments: Sequence[str]) -> int:
    """End jobs by id or by filter; the exit code."""
    words, ids = [], []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            ids += [job_word(each) for each in word.split(",")]
            continue
        name, mark, value = word.lstrip("-").partition("=")
        if not word.startswith("--") and len(name) > 1:
            name, mark, value = name[0], "=", name[1:]
        if name in _CANCEL_IDLE:
            continue
        if name == "me":
            words += ["--user", os.environ.get("USER") or os.environ.get("LOGNAME", "")]
        elif name in _CANCEL and (mark or rest):
            value = value if mark else rest.pop(0)
            words += [_CANCEL[name], value.lower() if _CANCEL[name] == "--state" else value]
        else:
            return refuse("scancel", f"{word} cannot be done here: ids, --name, --user, --state, --account")
    if not ids and not words:
        return refuse("scancel", "no job is named")
    if ids and words:
        return refuse("scancel", "ids and filters together cannot be done here")
    more = ["--yes"] if words else []
    return subprocess.run(
        [*program(os.environ), "cancel", *more, *words, *ids], stdout=subprocess.DEVNULL
    ).returncode


def main(name: str, arguments: Sequence[str]) -> int:
    """One of them by name; its exit code."""
    if list(arguments) in (["--help"], ["--usage"]):
        sys.stdout.write(f"{name} of bursar: {_HELP}")
        return 0
    if name == "sbatch":
        return sbatch(arguments)
    if name == "scancel":
        return scancel(arguments)
    from bursar.steps import sacct, sinfo, tables

    lists = {"squeue": tables.squeue, "sacct": sacct.sacct, "sinfo": sinfo.sinfo}
    try:
        return lists[name](arguments)
    except ValueError as problem:
        return refuse(name, str(problem))
