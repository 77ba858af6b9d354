"""`srun --pty` and `salloc` on a login machine: a job for one program at this terminal.

Why     it is how people who come from Slurm get a shell on a GPU. What its options mean is decided where
        those of `sbatch` are, so the words go there as they are.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from bursar.steps import names, sbatch
from bursar.steps.queue import program

_SHELL: Final = "/bin/sh"


def srun_pty(arguments: Sequence[str]) -> int:
    """Become it; an exit code where its words cannot be read."""
    try:
        _, words, command = sbatch.split(_without_pty(arguments))
        if not command:
            raise ValueError("no command is given; a shell is `srun --pty bash`")
    except ValueError as problem:
        sys.stderr.write(f"srun: error: {problem}\n")
        return 2
    _become(words, command)


def salloc(arguments: Sequence[str]) -> int:
    """A shell in a job of its own: on its first node, where Slurm's is on the machine that asks; there `srun`
    starts tasks on all of them, as under Slurm. An exit code where that cannot be.
    """
    try:
        _, words, command = sbatch.split(arguments)
        if "BURSAR_ATTEMPT_MEMBER" in os.environ:
            raise ValueError("this is inside of a job already: `srun` starts tasks on its nodes")
        if command:
            raise ValueError(
                "a command would run here under Slurm, and there under bursar: write `srun --pty` and it, or"
                " leave it out for a shell there"
            )
    except ValueError as problem:
        sys.stderr.write(f"salloc: error: {problem}\n")
        return 2
    sys.stderr.write("salloc: the shell is on the job's first node; srun starts tasks on all of them\n")
    _become(words, [_SHELL, "-c", 'exec "${SHELL:-/bin/sh}"'])


def _become(words: Sequence[str], command: Sequence[str]) -> NoReturn:
    argv = [*program(os.environ), "run", "--pty", "--", *command]
    env = {**os.environ, names.SBATCH_WORDS: shlex.join([*sbatch.of_the_shell(os.environ), *words])}
    sys.stdout.flush()
    os.execvpe(argv[0], argv, env)


def _without_pty(arguments: Sequence[str]) -> list[str]:
    """Its options, without the one that says that it is at a terminal; the command as it is."""
    kept, rest = list[str](), list(arguments)
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        name = word.partition("=")[0]
        if len(name) > 3 and "--pty".startswith(name):
            continue
        kept.append(word)
        if word == "--":
            break
        known = word[2:] if word.startswith("--") else sbatch.SHORT.get(word[1:], "")
        if known in sbatch.VALUES and rest:
            kept.append(rest.pop(0))
    return [*kept, *rest]
