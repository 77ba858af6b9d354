"""What `squeue`, `sinfo` and `sacct` share: their options, their columns, and whom they ask.

Why     all three take options by a beginning, print a `--format`, and know what `bursar` says as JSON.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from bursar.steps.queue import program

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
            self.found[name] = value


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


def filled(form: str, text_of: Callable[[str], str]) -> str:
    """One line of a `--format`."""

    def fill(match: re.Match[str]) -> str:
        text, width = text_of(match.group(3)), int(match.group(2) or 0)
        text = text[:width] if width else text
        return text.rjust(width) if match.group(1) else text.ljust(width)

    return _FIELD.sub(fill, form).rstrip() + "\n"


def known_letters(form: str, columns: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a letter that is not known."""
    unknown = [letter for _, _, letter in _FIELD.findall(form) if letter not in columns]
    if unknown:
        raise ValueError(f"the column %{unknown[0]} is not known here; these are: {' '.join(columns)}")
