"""Scripts of other batch systems, and scripts without a first line: what they are, and what to write.

Why     a `#PBS` line is a comment to bash. Read in silence, its job would run with the defaults in place of
        what its author asked for.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

_SIZE: Final = "--nodes, --cpus, --gpus, --memory or --time-limit"
_NOTHING: Final = ""
"""For what needs no flag."""
_WORDS: Final = (
    (re.compile(r"walltime|h_rt|s_rt|rscgrp|elapse"), "--time-limit"),
    (re.compile(r"ngpus|gpu"), "--gpus"),
    (re.compile(r"select|nodes|ncpus|ppn"), "--nodes and --cpus"),
    (re.compile(r"mem|h_vmem|rusage"), "--memory"),
)
"""What a value with several words in it asks for."""


class _System(NamedTuple):
    """`line`: the directive and its text. `flags`: by the option's letters; else `_SIZE` may be meant."""

    name: str
    line: re.Pattern[str]
    flags: Mapping[str, str]


_SYSTEMS: Final = (
    _System("PBS", re.compile(r"#(PBS)(?=[\s-]|$)\s*(.*)"), {
        "-N": "--name", "-o": "--output-file", "-e": "--error-file", "-A": "--project", "-P": "--project",
        "-J": "--array", "-t": "--array", "-v": "--env", "-V": "--env", "-W": "--after", "-p": "--priority",
        "-d": "--workdir", "-j": _NOTHING, "-m": _NOTHING, "-M": _NOTHING, "-q": _NOTHING, "-S": _NOTHING,
    }),
    _System("LSF", re.compile(r"#(BSUB)(?=[\s-]|$)\s*(.*)"), {
        "-J": "--name, or --array", "-W": "--time-limit", "-n": "--cpus", "-M": "--memory",
        "-o": "--output-file", "-e": "--error-file", "-P": "--project", "-gpu": "--gpus", "-w": "--after",
        "-cwd": "--workdir",
        "-nnodes": "--nodes", "-q": _NOTHING, "-N": _NOTHING, "-B": _NOTHING, "-u": _NOTHING, "-L": _NOTHING,
    }),
    _System("Grid Engine", re.compile(r"#(\$)\s*(-.*)"), {
        "-N": "--name", "-pe": "--cpus or --nodes", "-t": "--array", "-o": "--output-file", "-P": "--project",
        "-e": "--error-file", "-v": "--env", "-V": "--env", "-hold_jid": "--after", "-p": "--priority",
        "-wd": "--workdir", "-cwd": _NOTHING, "-j": _NOTHING, "-m": _NOTHING, "-M": _NOTHING,
        "-q": _NOTHING, "-S": _NOTHING,
    }),
    _System("OAR", re.compile(r"#(OAR)(?=[\s-]|$)\s*(.*)"), {
        "-n": "--name", "-t": _NOTHING, "-p": "--label", "-O": "--output-file", "-E": "--error-file",
        "--name": "--name", "--array": "--array", "--project": "--project",
    }),
    _System("Cobalt", re.compile(r"#(COBALT)(?=[\s-]|$)\s*(.*)"), {
        "-t": "--time-limit", "-n": "--nodes", "-A": "--project", "-o": "--output-file", "-e": "--error-file",
        "-q": _NOTHING,
    }),
    _System("the Fujitsu job manager", re.compile(r"#(PJM)(?=[\s-]|$)\s*(.*)"), {
        "-N": "--name", "-o": "--output-file", "-e": "--error-file", "-g": "--project",
    }),
    _System("Flux", re.compile(r"#\s*(flux):\s*(.*)"), {
        "-N": "--nodes", "-n": "--cpus", "-c": "--cpus", "-g": "--gpus", "-t": "--time-limit", "-q": _NOTHING,
        "--nodes": "--nodes", "--time-limit": "--time-limit", "--job-name": "--name",
    }),
)  # fmt: skip
_ENDS: Final = {
    ".sh": "bash", ".bash": "bash", ".slurm": "bash", ".sbatch": "bash", ".pbs": "bash", ".zsh": "zsh",
    ".ksh": "ksh", ".py": "python3", ".pl": "perl", ".rb": "ruby", ".R": "Rscript", ".r": "Rscript",
    ".jl": "julia", ".lua": "lua",
}  # fmt: skip
"""Of names of scripts, each with its interpreter."""


def foreign_lines(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Of (number, line) those that are directives of another system, each with what to write."""
    for number, line in lines:
        for system in _SYSTEMS:
            match = system.line.fullmatch(line)
            if match is not None:
                yield number, _sentence(system, match.group(1), match.group(2))


def _sentence(system: _System, word: str, text: str) -> str:
    option, _, value = text.strip().partition(" ")
    option, mark, joined = option.partition("=") if option.startswith("--") else (option, "", "")
    wanted = system.flags.get(option) if option else None
    if wanted is None and not mark and len(option) > 2 and not option.startswith("--"):
        wanted = system.flags.get(option[:2])  # -N4
    if wanted is None:
        wanted = next((flag for asks, flag in _WORDS if asks.search(value or joined or option)), _SIZE)
    says = f"write #BURSAR with {wanted}" if wanted else "nothing here needs it: leave it out"
    return f"#{word} is a directive of {system.name}, which is not read here; {says}"


def script_without_line(source: str, *, plain: bool) -> str | None:
    """What to do with a file that is a script by its name, or no more than `plain` text to YAML; None: it is
    neither.
    """
    by_name = _ENDS.get(posixpath.splitext(source)[1])
    if by_name is None and not plain:
        return None
    interpreter = by_name or "bash"
    line = "#!/bin/bash" if interpreter == "bash" else f"#!/usr/bin/env {interpreter}"
    name = "FILE" if source.startswith("<") else shlex.quote(source)
    return (
        f"looks like a script, not a job file; begin it with `{line}`, or run it:"
        f" `bursar run -- {interpreter} {name}`"
    )
