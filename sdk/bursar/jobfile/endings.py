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
_STAY: Final = ("nohup", "setsid")
"""What is meant to outlive who starts it, and does not outlive its job."""
_NO_WORK: Final = frozenset((
    "exit", "cd", "set", "export", "sleep", "trap", "unset", "ulimit", "umask", "return",
    "shopt", "disown", ":",
    "[", "[[", "test", "mkdir", "module", "source", ".",
))  # fmt: skip
_PIPES: Final = ("|", "|&")


def lost_ends(content: str, found: shell.Found) -> Iterator[tuple[int, str]]:
    """(offset, sentence): of the first whose end a pipe hides, and of the first that nothing waits for."""
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
            left[0][0],
            f"{left[0][1]} runs in the background and nothing waits for it: it is ended with the script; "
            f"write `wait` below it, unless that is meant{_more(left)}",
        )


def started_on_all(found: shell.Found) -> bool:
    """Does the text start work by steps, or go to the other nodes itself?"""
    others = ("srun", "mpirun", "mpiexec", "ssh", "pdsh", "clush", "horovodrun")
    return any(
        any((words := one.words_of(name)) is not None and _LOOKS.isdisjoint(words) for name in others)
        for one in found.commands
    )


def _more(found: Sequence[object]) -> str:
    more = len(found) - 1
    return f" (and for {more} more below)" if more else ""


def _name(command: shell.Command) -> str:
    own = command.words[0] if "$" not in command.words[0] else "what this line starts"
    return next((name for name in LAUNCHERS if command.words_of(name) is not None), own)


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
        and (_launches(command) or (_works(command) and _next(found.commands, at) == "tee"))
    ]


def _next(commands: Sequence[shell.Command], at: int) -> str:
    """The command behind a pipe; what it is made of was read before it."""
    for place in range(at + 1, len(commands)):
        one = commands[place]
        if one.offset > commands[at].end and not one.captured:
            return one.words[0]
    return "what follows"


def _left_behind(found: shell.Found) -> list[tuple[int, str]]:
    """(offset, what) in the background of a script that never waits: what starts work, and all below which
    nothing works any more.
    """
    if any(one.words_of("wait") is not None for one in found.commands):
        return []
    works = [one.offset for one in found.commands if not one.captured and one.then != "&" and _works(one)]
    last = max(works, default=-1)
    left = [
        (one.offset, _name(one))
        for one in found.commands
        if one.then == "&"
        and (_launches(one) or one.words[0] in _STAY or (one.offset > last and _works(one)))
    ]
    if not left:
        left = [(at, "what stands before this `&`") for at in found.groups if at > last]
    return sorted(left)


def _works(command: shell.Command) -> bool:
    """Does it do more than look, set or end?"""
    return _LOOKS.isdisjoint(command.words) and command.words[0] not in _NO_WORK
