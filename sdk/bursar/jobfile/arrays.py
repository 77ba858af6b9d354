"""Array expressions: `0-99`, `1,3,5-9:2`, `0-99%10`, both ways.

Why     a range is written in ten characters and expands to ten thousand tasks, so it is counted
        before it is expanded; and a spec shown again must fit the file it came from.
"""

from __future__ import annotations

import re
from typing import Final

from bursar.errors import InvalidRequest
from bursar.model import ArraySpec
from bursar.model.check import ARRAY_TASKS_MAX, INDEX_MAX, RANGES_MAX, quote
from bursar.model.ranges import Ranges, compress

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
        if count > ARRAY_TASKS_MAX:
            raise InvalidRequest(
                f"{quote(text)} has more than {ARRAY_TASKS_MAX} tasks; split it into several jobs"
            )
        indices.update(span)
        if len(indices) < count:
            raise InvalidRequest(f"{quote(text)} names a task twice (in {quote(part)})")
    ranges = compress(sorted(indices))
    if len(ranges) > RANGES_MAX:
        raise InvalidRequest(f"{quote(text)} has more than {RANGES_MAX} ranges; split it into several jobs")
    return ArraySpec(ranges, int(limit or 0))


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


def format_ranges(ranges: Ranges) -> str:
    """The shortest plain form: `0-9,20,30-50:10`."""
    return ",".join(_format(*one) for one in ranges)


def _format(start: int, stop: int, step: int) -> str:
    if stop == start + 1:
        return str(start)
    return f"{start}-{stop - 1}" + (f":{step}" if step > 1 else "")
