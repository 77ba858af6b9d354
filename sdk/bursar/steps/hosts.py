"""Slurm's short forms: `n[1-3]` for names of nodes, `2(x3)` for numbers by node.

Why     the daemon writes them, and small programs inside jobs read them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_NUMBERED = re.compile(r"(.*?)(\d{1,18})", re.ASCII)
_EXPANDED_MAX = 10_000


def compress_hosts(names: Iterable[str]) -> str:
    """Slurm's short form, in the order given: `n1 n2 n3 m` is `n[1-3],m`."""
    groups: list[tuple[str, list[list[str]]]] = []
    for name in names:
        match = _NUMBERED.fullmatch(name)
        prefix, digits = (match.group(1), match.group(2)) if match is not None else (name, "")
        if not digits or not groups or groups[-1][0] != prefix or not groups[-1][1]:
            groups.append((prefix, [[digits, digits]] if digits else []))
        elif _follows(groups[-1][1][-1][1], digits):
            groups[-1][1][-1][1] = digits
        else:
            groups[-1][1].append([digits, digits])
    return ",".join(_group(prefix, runs) for prefix, runs in groups)


def _follows(one: str, other: str) -> bool:
    same_form = len(one) == len(other) or not (one.startswith("0") or other.startswith("0"))
    return same_form and int(other) == int(one) + 1


def _group(prefix: str, runs: list[list[str]]) -> str:
    if not runs or (len(runs) == 1 and runs[0][0] == runs[0][1]):
        return prefix + (runs[0][0] if runs else "")
    parts = (first if first == last else f"{first}-{last}" for first, last in runs)
    return f"{prefix}[{','.join(parts)}]"


def expand_hosts(text: str) -> list[str]:
    """The names of `n[1-3,07],m`. Raises `ValueError` for what is no such list."""
    found: list[str] = []
    for part in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text):
        found += _expand(part.strip())
        if len(found) > _EXPANDED_MAX:
            raise ValueError(f"more than {_EXPANDED_MAX} names")
    if not found or text.count("[") != text.count("]"):
        raise ValueError("no list of names")
    return list(dict.fromkeys(found))


def _expand(part: str) -> list[str]:
    head, mark, rest = part.partition("[")
    if not mark:
        return [part] if part else []
    inside, _, tail = rest.partition("]")
    names: list[str] = []
    for span in inside.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", span.strip(), re.ASCII)
        if match is None:
            raise ValueError(f"{span!r} is no range")
        first, last = match.group(1), match.group(2) or match.group(1)
        if not 0 <= int(last) - int(first) <= _EXPANDED_MAX:
            raise ValueError(f"{span!r} is no range")
        numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
        names += [f"{head}{number}{end}" for number in numbers for end in (_expand(tail) or [""])]
    return names


def counts_by_node(counts: Iterable[int]) -> str:
    """`2(x3),1`: one number for each node, equal neighbours together."""
    runs: list[list[int]] = []
    for each in counts:
        if runs and runs[-1][0] == each:
            runs[-1][1] += 1
        else:
            runs.append([each, 1])
    return ",".join(str(value) if times == 1 else f"{value}(x{times})" for value, times in runs)
