"""Where a script loses the end of what it starts: before a pipe, and in the background.

Output  notes by line, with what to write.
Why     a shell goes on after what fails there, to a last line that goes well; its job has then SUCCEEDED, and
        nothing was done. The script is run as it is, so it is said before it starts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from bursar.jobfile import shell

LAUNCHERS: Final = (
    "srun",
    "mpirun",
    "mpiexec",
    "mpiexec.hydra",
    "orterun",
    "torchrun",
    "horovodrun",
    "deepspeed",
    "accelerate",
)
"""What starts the work of a job."""
_LOOKS: Final = frozenset((
    "hostname", "nvidia-smi", "echo", "printf", "env", "printenv", "cat", "ls", "date", "whoami", "uname",
    "which", "true", "ip", "free", "df", "lscpu", "ps", "id", "pwd",
))  # fmt: skip
"""Programs that look at something: nobody minds how they end."""
_PIPES: Final = ("|", "|&")


def lost_ends(content: str, found: shell.Found) -> Iterator[tuple[int, str]]:
    """(offset, sentence): of the first launcher before a pipe, and of the first that nothing waits for."""
    piped, left = _piped(content, found), _left_behind(found)
    bash = not re.match(r"#!.*\b(?:sh|dash|ash)\b", content) or "bash" in content.partition("\n")[0]
    if piped:
        command, after = piped[0]
        remedy = (
            "write `set -o pipefail` above it"
            if bash
            else ("begin with #!/bin/bash, and write `set -o pipefail` above it")
        )
        yield (
            command.offset,
            f"{_name(command)} stands before a pipe, which ends as `{after}` does: the job can end SUCCEEDED "
            f"though it failed; {remedy}{_more(piped)}",
        )
    if left:
        yield (
            left[0].offset,
            f"{_name(left[0])} runs in the background and nothing waits for it: it is ended with the script; "
            f"write `wait` below it, unless that is meant{_more(left)}",
        )


def _more(found: Sequence[object]) -> str:
    more = len(found) - 1
    return f" (and for {more} more below)" if more else ""


def _name(command: shell.Command) -> str:
    return next((name for name in LAUNCHERS if command.words_of(name) is not None), command.words[0])


def _launches(command: shell.Command) -> bool:
    """Does it start work?"""
    for name in LAUNCHERS:
        words = command.words_of(name)
        if words is not None:
            return _LOOKS.isdisjoint(words)
    return False


def _piped(content: str, found: shell.Found) -> list[tuple[shell.Command, str]]:
    """Those before a pipe whose end nobody asks for, each with what stands behind it."""
    if re.match(r"#!.*\bpipefail\b", content):
        return []
    sets = [
        one.offset for one in found.commands if one.words[0] in ("set", "shopt") and "pipefail" in one.words
    ]
    asked = [read.offset for read in found.reads if read.name in ("PIPESTATUS", "pipestatus")]
    since, until = min(sets, default=len(content)), max(asked, default=-1)
    return [
        (command, _next(found.commands, at))
        for at, command in enumerate(found.commands)
        if command.then in _PIPES
        and not command.captured
        and until < command.offset < since
        and _launches(command)
    ]


def _next(commands: Sequence[shell.Command], at: int) -> str:
    """The command behind a pipe; what it is made of was read before it."""
    behind = [one for one in commands[at + 1 :] if one.offset > commands[at].end and not one.captured]
    return behind[0].words[0] if behind else "what follows"


def _left_behind(found: shell.Found) -> list[shell.Command]:
    """Those in the background of a script that never waits: what starts work, and whatever is its last."""
    if any(one.words_of("wait") is not None for one in found.commands):
        return []
    last = max((one for one in found.commands if not one.captured), key=lambda one: one.offset, default=None)
    return [
        one
        for one in found.commands
        if one.then == "&" and (_launches(one) or (one is last and _LOOKS.isdisjoint(one.words)))
    ]
