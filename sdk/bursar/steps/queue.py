"""What Slurm's commands ask of the queue, asked of `bursar` in its words.

Owns    `scancel`, and the verbs of `scontrol`; `tables` and `sinfo` have what only lists.
Why     these are rare in a script, so they may cost a whole command line; its errors are ours.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from bursar.steps import names
from bursar.steps.hosts import expand_hosts

_MOST_AT_ONCE: Final = re.compile(r"%\d+(?=\])")
NOT_FOUND: Final = 4
"""The exit code of `bursar` for what it does not know."""
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


def job_words(text: str) -> list[str]:
    """All that a word of ids names: `12,13`, `12_[1-3,7]`, and as `squeue` has it `12_[4-9%2]`."""
    try:
        ids = expand_hosts(_MOST_AT_ONCE.sub("", text)) if "[" in text else text.split(",")
    except ValueError:
        ids = [text]  # bursar says that there is no such job
    return [job_word(each) for each in ids]


def me(env: Mapping[str, str]) -> str:
    """The name of whoever asks; where no variable has it, that of the account."""
    try:
        return env.get("USER") or env.get("LOGNAME") or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def verb(name: str, ids: Sequence[str]) -> int:
    """`requeue`, `hold`, `release` of jobs; the exit code."""
    words = [each for one in ids for each in job_words(one)]
    return subprocess.run([*program(os.environ), name, *words], stdout=subprocess.DEVNULL).returncode


def refuse(name: str, text: str) -> int:
    """Say what cannot be done; the exit code."""
    sys.stderr.write(f"{name}: error: {text}\n")
    return 2


# --- scancel --------------------------------------------------------------------------------------

_CANCEL: Final = {
    "name": "--name", "jobname": "--name", "user": "--user", "state": "--state", "account": "--project",
    "n": "--name", "u": "--user", "t": "--state", "A": "--project",
}  # fmt: skip
_STATES: Final = {"PD": "pending", "R": "running"}
_CANCEL_IDLE: Final = frozenset(("Q", "v", "quiet", "verbose", "f", "full"))


def scancel(arguments: Sequence[str]) -> int:
    """End jobs by id or by filter; the exit code."""
    words, ids = [], []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            ids += job_words(word)
            continue
        name, mark, value = word.lstrip("-").partition("=")
        if not word.startswith("--") and len(name) > 1:
            name, mark, value = name[0], "=", name[1:]
        if name in _CANCEL_IDLE:
            continue
        if name == "me":
            words += ["--user", me(os.environ)]
        elif name in _CANCEL and (mark or rest):
            value = value if mark else rest.pop(0)
            if _CANCEL[name] == "--state":
                value = ",".join(_STATES.get(one, one.lower()) for one in value.upper().split(","))
            words += [_CANCEL[name], value]
        else:
            return refuse("scancel", f"{word} cannot be done here: ids, --name, --user, --state, --account")
    if not ids and not words:
        return refuse("scancel", "no job is named")
    if ids and words:
        return refuse("scancel", "ids and filters together cannot be done here")
    return _cancel(words, ids)


def _cancel(words: Sequence[str], ids: Sequence[str]) -> int:
    """As `scancel` ends: without words where it could; filters that let nothing through are no mistake."""
    more = ["--yes"] if words else []
    command = [*program(os.environ), "cancel", *more, *words, *ids]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if not done.returncode or (words and done.returncode == NOT_FOUND):
        return 0
    sys.stderr.write(done.stderr.decode(errors="replace"))
    return 1 if done.returncode == NOT_FOUND else done.returncode


def main(name: str, arguments: Sequence[str]) -> int:
    """One of them by name; its exit code."""
    if list(arguments) in (["--help"], ["--usage"]):
        sys.stdout.write(f"{name} of bursar: {_HELP}")
        return 0
    if name == "sbatch":
        from bursar.steps import sbatch

        return sbatch.sbatch(arguments)
    if name == "scancel":
        return scancel(arguments)
    from bursar.steps import sacct, sinfo, tables

    lists = {"squeue": tables.squeue, "sacct": sacct.sacct, "sinfo": sinfo.sinfo}
    try:
        return lists[name](arguments)
    except ValueError as problem:
        return refuse(name, str(problem))
