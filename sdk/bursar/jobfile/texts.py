"""What a shell's text would do in silence, in a script and in the `run` and `setup` of a job file alike.

Input   the text as `shell.scan` read it, and its job. Output: faults by place, notes by line.
Why     the same words are as dangerous in a job file as in a script that came from Slurm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from bursar.errors import InvalidRequest
from bursar.jobfile import shell
from bursar.jobfile.endings import lost_ends
from bursar.jobfile.grammar import blocks
from bursar.jobfile.removals import given_to, removals
from bursar.model import JobSpec
from bursar.yamlfile import Faults, raise_if_any

SHOWN_MAX: Final = 20


class Body(NamedTuple):
    """A text that a shell runs.

    Attributes:
        environ: of the shell it is submitted from. tmpdir: the job has a private TMPDIR.
    """

    text: str
    found: shell.Found
    spec: JobSpec
    environ: Mapping[str, str]
    tmpdir: bool = False


def speaks_shell(first: str) -> bool:
    """Is a text with this first line read by a shell?"""
    return not first.startswith("#!") or any(re.search(rf"\b{name}\b", first) for name in shell.SHELLS)


def place_of(content: str, offset: int) -> tuple[int, int]:
    """Line and column, from 1."""
    return content.count("\n", 0, offset) + 1, offset - content.rfind("\n", 0, offset)


def check_text(body: Body, faults: Faults) -> list[tuple[int, str]]:
    """Refuse what is dangerous, by place; returns notes by line."""
    return [*_removals(body, faults), *_losses(body)]


def notes_of_texts(text: str, source: str, spec: JobSpec) -> list[str]:
    """The same of a job file. Raises `InvalidRequest`."""
    faults, notes = Faults(source), []
    for block in blocks(text, {"run": spec.script, "setup": spec.setup}):
        if not speaks_shell(block.text.partition("\n")[0]):
            continue
        own = Faults(source)
        said = check_text(Body(block.text, shell.scan(block.text), spec, {}), own)
        for fault in own.found:
            line, of = block.place(fault.line)
            faults.add_at(line, fault.column if block.above is not None else 1, of + fault.message)
        for number, sentence in said:
            line, of = block.place(number)
            notes.append(f"{source}:{line}: {of}{sentence}")
    raise_if_any(faults, error=InvalidRequest)
    return notes


def _removals(body: Body, faults: Faults) -> Iterator[tuple[int, str]]:
    given = given_to(body.spec) | ({"TMPDIR"} if body.tmpdir else frozenset())
    for one in removals(body.text, body.found, given, image=bool(body.spec.image)):
        place = place_of(body.text, one.offset)
        if not one.certain:
            yield place[0], one.sentence
        elif len(faults.found) < SHOWN_MAX:
            yours = (
                f"; that of your shell is not copied: --env {one.name}" if one.name in body.environ else ""
            )
            faults.add_at(*place, one.sentence + yours)


def _losses(body: Body) -> Iterator[tuple[int, str]]:
    for offset, sentence in lost_ends(body.text, body.found):
        yield place_of(body.text, offset)[0], sentence
