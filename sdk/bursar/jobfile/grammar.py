"""What a shell itself says of a script that it cannot read, before the job is submitted.

Input   the text of a script, or the `run` and `setup` of a job file. Output: faults and notes by line.
Why     a shell runs what stands above a quote or an `if` that is never closed, for hours, before it finds
        that out; to ask it costs milliseconds.
Rule    the shell only reads (`-n`): it runs nothing, no startup file either. It is one of this machine's
        PATH, never the file that the `#!` line names. Where there is none, or no answer in time, nothing
        is said.
Limits  what stands below an `exit` or `exec` of the script itself is no part of it. What `bash` reads only
        with `extglob` is right, as the script may set that. Other languages, and other shells, are not read.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Final, NamedTuple

from bursar.errors import InvalidRequest
from bursar.yamlfile import Faults, raise_if_any

READ_WITHIN_S: Final = 5.0
_EXITS_LOOKED_AT_MAX: Final = 5

_SHEBANG = re.compile(r"#!\s*(?:\S*/)?(?:env\s+(?:-S\s+)?(?:\S*/)?)?(bash|sh)(?:\s+-\S+)*\s*")
_SAID = re.compile(r"[^\n]*?: (?:line )?(\d+): (.*)")
_LEAVES = re.compile(r"""[\s'":;]*(?:exit\b|exec\s+[^\s<>&\d{-])""")
_UNENDED = re.compile(r"here-document at line (\d+) delimited by end-of-file \(wanted `(.*)'\)")
_BLOCK = re.compile(r"(run|setup):[ \t]*(\|?)[^\n]*")


class Said(NamedTuple):
    """The first thing that is wrong with a text.

    Attributes:
        mild: the shell reads the text all the same.
        own: in our words, not the shell's.
    """

    line: int
    words: str
    mild: bool
    own: bool = False


class Block(NamedTuple):
    """`run` or `setup` of a job file.

    Attributes:
        above: lines of the file above the text; None where it is folded or quoted: its lines are
            not the file's.
        line: that of the key.
    """

    key: str
    text: str
    above: int | None
    line: int

    def place(self, line: int) -> tuple[int, str]:
        """The line of the file for one of the text, and words that say more of it."""
        if self.above is not None:
            return line + self.above, f"`{self.key}`: "
        return self.line, f"`{self.key}`: " + (f"line {line} of it: " if line > 1 else "")


def blocks(text: str, parts: dict[str, str]) -> Iterator[Block]:
    """Where in a job file its `run` and `setup` stand, which `parts` has."""
    for number, line in enumerate(text.split("\n"), 1):
        begins = _BLOCK.match(line)
        part = parts.get(begins[1], "") if begins is not None else ""
        if begins is not None and part:
            yield Block(begins[1], part, number if begins[2] else None, number)


def notes_of_script(text: str, source: str) -> list[str]:
    """Refuse a script that its shell cannot read; what is doubtful in it, by line.

    Raises:
        InvalidRequest: with the line that the shell names.
    """
    faults = Faults(source)
    notes = list(_notes(text, source, 0, faults, ""))
    raise_if_any(faults, error=InvalidRequest)
    return notes


def notes_of_file(text: str, source: str, parts: dict[str, str]) -> list[str]:
    """The same of the `run` and `setup` of a job file, which `parts` has; lines are those of the file.

    Raises:
        InvalidRequest: with the line that the shell names.
    """
    faults = Faults(source)
    notes: list[str] = []
    for one in blocks(text, parts):
        notes += _notes(one.text, source, one.above, faults, f"`{one.key}`: ", one.line)
    raise_if_any(faults, error=InvalidRequest)
    return notes


def _notes(
    text: str, source: str, above: int | None, faults: Faults, of: str, key_line: int = 1
) -> Iterator[str]:
    """Notes of one text; faults go where faults go. `above`: lines of the file above it, if there are."""
    first = text.partition("\n")[0]
    matched = _SHEBANG.fullmatch(first)
    if first.startswith("#!") and matched is None:
        return
    shell = matched[1] if matched is not None else "bash"
    said = _asked(shell, text)
    if said is None:
        return
    line = key_line if above is None else said.line + above
    words = f"{of}{said.words}" if above is not None else f"{of}line {said.line} of it: {said.words}"
    if said.mild:
        yield f"{source}:{line}: {words}"
    elif shell == "sh" and _reads(_asked("bash", text)):
        remedy = "as the sh of this machine says; bash reads it: begin with #!/bin/bash"
        yield f"{source}:{line}: {words}, {remedy}"
    else:
        tail = "" if said.own else f" (as {shell} says, after it has run all that stands above)"
        faults.add_at(line, 1, words + tail)


def _reads(said: Said | None) -> bool:
    return said is None or said.mild


def _asked(shell: str, text: str) -> Said | None:
    """What this shell says first of a text, if it says anything of what it would run."""
    program = shutil.which(shell)
    if program is None:
        return None
    said = _read(program, text)
    if said is None or said.mild:
        return said
    if shell == "bash" and _read(program, text, "-O", "extglob") is None:
        return None
    lines = text.split("\n")
    leaves = [at for at, line in enumerate(lines[: said.line], 1) if _LEAVES.match(line)]
    for at in leaves[-_EXITS_LOOKED_AT_MAX:]:
        if _read(program, "\n".join(lines[:at]) + "\n") is None:
            return None
    return said


def _read(program: str, text: str, *options: str) -> Said | None:
    """Have a shell read a text. It is a file of nobody's: of a pipe bash tells no lines."""
    fd = os.memfd_create("script", os.MFD_CLOEXEC)
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(text.encode("utf-8", "surrogateescape"))
        done = subprocess.run(
            [program, *options, "-n", f"/proc/self/fd/{fd}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env={"LC_ALL": "C", "PATH": os.defpath}, pass_fds=(fd,), timeout=READ_WITHIN_S,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    finally:
        os.close(fd)
    found = _SAID.match(done.stderr.decode("utf-8", "replace"))
    if found is None or done.returncode < 0:
        return None
    words = found[2].removeprefix("warning: ")
    unended = _UNENDED.fullmatch(words)
    if unended is not None:
        return _unended(text, int(unended[1]), unended[2])
    if "unexpected end of file" in words or "end of file unexpected" in words:
        words += "; something above is not closed"
    line = min(int(found[1]), text.count("\n") + 1)
    return Said(line, words[:1].lower() + words[1:], not done.returncode)


def _unended(text: str, line: int, mark: str) -> Said:
    """A here-document up to the end of the script: meant so, unless its mark stands there with blanks."""
    below = text.split("\n")[line:]
    near = next((line + at for at, each in enumerate(below, 1) if each.strip() == mark), 0)
    if near:
        why = f"the here-document {mark} is not ended by line {near}: blanks stand beside the mark there"
        return Said(line, f"{why}, so all below is its text and nothing of it runs", False, True)
    return Said(line, f"the here-document {mark} is not ended: all below is its text", True, True)
