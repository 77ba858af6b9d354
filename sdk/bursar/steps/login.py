"""`srun --pty` on a login machine: a job for one program at this terminal, as `bursar run --pty` makes it.

Why     it is how people who come from Slurm get a shell on a GPU. What its options mean is decided where
        those of `sbatch` are, so the words go there as they are.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

from bursar.steps import names, sbatch
from bursar.steps.queue import program


def srun_pty(arguments: Sequence[str]) -> int:
    """Become it; an exit code where its words cannot be read."""
    try:
        _, words, command = sbatch.split(_without_pty(arguments))
    except ValueError as problem:
        sys.stderr.write(f"srun: error: {problem}\n")
        return 2
    if not command:
        sys.stderr.write("srun: error: no command is given; a shell is `srun --pty bash`\n")
        return 2
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
