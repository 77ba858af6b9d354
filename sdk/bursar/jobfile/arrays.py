"""Array expressions: `0-99`, `1,3,5-9:2`, `0-99%10`, both ways.

Why     a range is written in ten characters and expands to ten thousand tasks, so it is counted
        before it is expanded; and a spec shown again must fit the file it came from.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from bursar.errors import InvalidRequest
from bursar.model import ArraySpec
from bursar.model.check import INDEX_MAX, TASKS_MAX, quote

TEXT_MAX: Final = 60_000

_PART = re.compile(r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?", re.ASCII)
_FORM = "write it as 0-99, 1,3,5-9:2 or 0-99%10"


def parse_array(text: str) -> ArraySpec:
    """Read an array expression. Raises `InvalidRequest`."""
    compact = "".join(text.split())
    body, mark, limit = compact.partition("%")
    if len(compact) > TEXT_MAX:
        raise InvalidRequest(f"{quote(text)} is too long; {_FORM}")
    if mark and (re.fullmatch(r"\d{1,9}", limit, re.ASCII) is None or int(limit) == 0):
        raise InvalidRequest(f"{quote(text)}: after % stands how many tasks may run at once, 1 or more")
    indices: set[int] = set()
    count = 0
    for part in body.split(","):
        span = _span(part, text)
        count += len(span)
        if count > TASKS_MAX:
            raise InvalidRequest(f"{quote(text)} has more than {TASKS_MAX} tasks; split it into several jobs")
        indices.update(span)
        if len(indices) < count:
            raise InvalidRequest(f"{quote(text)} names a task twice (in {quote(part)})")
    return ArraySpec(tuple(sorted(indices)), int(limit or 0))


def _span(part: str, text: str) -> range:
    match = _PART.fullmatch(part)
    if match is None:
        raise InvalidRequest(f"{quote(text)} is not a range of tasks; {_FORM}")
    first = int(match.group(1))
    last = first if match.group(2) is None else int(match.group(2))
    step = int(match.group(3) or 1)
    if step == 0:
        raise InvalidRequest(f"{quote(part)} has step 0; a step is 1 or more")
    if last < first:
        raise InvalidRequest(f"{quote(part)} runs backwards; write {last}-{first}")
    if last > INDEX_MAX:
        raise InvalidRequest(f"{quote(part)} goes past the largest task index, {INDEX_MAX}")
    return range(first, last + 1, step)


def format_indices(indices: Sequence[int]) -> str:
    """The shortest plain form of ascending indices: `0-9,20,30-50:10`."""
    parts: list[str] = []
    start = 0
    while start < len(indices):
        end = _run_end(indices, start)
        step = indices[start + 1] - indices[start] if end > start else 1
        # Two indices with a gap are shorter as they are than as a range with a step.
        if end == start + 1 and step > 1:
            end, step = start, 1
        tail = f"-{indices[end]}" if end > start else ""
        parts.append(f"{indices[start]}{tail}" + (f":{step}" if step > 1 else ""))
        start = end + 1
    return ",".join(parts)


def _run_end(indices: Sequence[int], start: int) -> int:
    """Where the even spacing that begins at `start` ends."""
    end = start + 1
    if end >= len(indices):
        return start
    step = indices[end] - indices[start]
    while end + 1 < len(indices) and indices[end + 1] - indices[end] == step:
        end += 1
    return end
