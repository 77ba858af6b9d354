"""What `squeue`, `sinfo` and `sacct` share: their options, their columns, and whom they ask.

Why     all three take options by a beginning, print a `--format`, and know what `bursar` says as JSON.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from bursar.steps.queue import NOT_FOUND, program

Row = Mapping[str, Any]
_FIELD: Final = re.compile(r"%(\.?)(\d*)([A-Za-z])")


class Words:
    """Options of one command: flags, values, and a list of what is not known."""

    def __init__(self, arguments: Sequence[str], flags: str, values: str) -> None:
        """`flags`, `values`: names by space, `long/s`. Raises `ValueError` for another option."""
        known = {}
        for text, takes in ((flags, False), (values, True)):
            for each in text.split():
                name, _, short = each.partition("/")
                known[f"--{name}"] = known[f"-{short}" if short else f"--{name}"] = (name, takes)
        self.found: dict[str, str] = {}
        rest = list(arguments)
        while rest:
            word = rest.pop(0)
            head, mark, value = word.partition("=")
            if not word.startswith("--") and len(word) > 2 and word[:2] in known:
                head, mark, value = word[:2], "=", word[2:].removeprefix("=")
                if not known[head][1]:
                    rest.insert(0, f"-{value}")
                    mark = value = ""
            if head not in known:
                head = _whole(head, known)
            if head not in known:
                raise ValueError(f"{word} cannot be done here")
            name, takes = known[head]
            if mark and not takes:
                raise ValueError(f"{head} takes no value")
            if takes and not mark:
                if not rest:
                    raise ValueError(f"{word} needs a value")
                value = rest.pop(0)
            more = name == "jobs" and name in self.found  # each -j adds to those before it
            self.found[name] = f"{self.found[name]},{value}" if more else value


def _whole(head: str, known: Iterable[str]) -> str:
    """The one option that begins so, as Slurm takes it."""
    begun = [name for name in known if head.startswith("--") and len(head) > 2 and name.startswith(head)]
    return begun[0] if len(begun) == 1 else head


def ask(*words: str) -> Any:
    """JSON of a command of bursar. Raises `SystemExit` with its code, its words are said."""
    done = subprocess.run([*program(os.environ), *words, "-o", "json"], stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(done.returncode)
    return json.loads(done.stdout)


def job_of(word: str) -> Row | None:
    """One job by bursar's word for it; None where there is no such job. Raises `SystemExit` as `ask` does."""
    command = [*program(os.environ), "show", word, "-o", "json"]
    done = subprocess.run(command, capture_output=True)
    if done.returncode == NOT_FOUND:
        return None
    if done.returncode:
        sys.stderr.write(done.stderr.decode(errors="replace"))
        raise SystemExit(done.returncode)
    found: Row = json.loads(done.stdout)
    return found


def filled(form: str, text_of: Callable[[str], str]) -> str:
    """One line of a `--format`."""

    def fill(match: re.Match[str]) -> str:
        text, width = text_of(match.group(3)), int(match.group(2) or 0)
        text = text[:width] if width else text
        return text.rjust(width) if match.group(1) else text.ljust(width)

    return _FIELD.sub(fill, form).rstrip() + "\n"


def letters_of(form: str) -> list[str]:
    """The columns that a `--format` prints."""
    return [letter for _, _, letter in _FIELD.findall(form)]


def long_form(text: str, names: Mapping[str, str]) -> str:
    """`--Format=JobID:10,State` as letters; 20 wide, as in Slurm, unless it says otherwise.

    Raises `ValueError` for a column that is not in `names`.
    """
    known = {name.lower(): letter for name, letter in names.items()}
    letters = []
    for each in text.split(","):
        name, _, width = each.strip().partition(":")
        if name.lower() not in known:
            raise ValueError(f"the column {name} is not known here; these are: {' '.join(names)}")
        right = "." if width.startswith(".") else ""
        letters.append(f"%{right}{width.strip('.') or 20}{known[name.lower()]}")
    return "".join(letters)


def known_letters(form: str, columns: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a letter that is not known."""
    unknown = [letter for letter in letters_of(form) if letter not in columns]
    if unknown:
        raise ValueError(f"the column %{unknown[0]} is not known here; these are: {' '.join(columns)}")
