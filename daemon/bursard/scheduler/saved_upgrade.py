"""Saved snapshots of earlier formats, brought into the newest one.

Why     a file that was kept to find out why something was done must open in every later version. Format 1 had
        a queue for each time limit, with the limit in its class. Format 2 did not say of jobs since when they
        wait and of which project they are: plans did not go by it. Format 3 knew no deadlines, and format 4
        not whose jobs are.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import numpy as np


def upgrade(document: Any, version: int) -> None:
    """Change a document of an older format where it stands. Raises `ValueError` when it is damaged."""
    try:
        if version < 2:
            limits = [_queue(queue) for queue in document["snapshot"]["queues"]]
            if document.get("plan") is not None:
                _plan(document["plan"], limits)
        for queue in document["snapshot"]["queues"]:
            nothing = [0] * len(queue["jobs"]["ids"])
            if version < 3:
                queue["jobs"] |= {"since_us": _column(nothing), "projects": _column(nothing)}
            if version < 4:
                queue["jobs"]["deadlines_us"] = _column(nothing)
            queue["jobs"]["users"] = _column(nothing)
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError) as problem:
        raise ValueError(f"{type(problem).__name__}: {problem}") from None


def _queue(queue: dict[str, Any]) -> int:
    """Its jobs as columns, the limit in them. Returns the limit."""
    wanted, jobs = queue["job_class"], queue["jobs"]
    limit_us = int(wanted["time_limit_us"])
    wanted["hold_us"] -= limit_us
    wanted["time_limit_us"] = 0
    queue["jobs"] = {
        "orders": _column([order for order, _ in jobs]),
        "limits_us": _column([limit_us] * len(jobs)),
        "ids": [job_id for _, job_id in jobs],
    }
    del queue["total"]
    return limit_us


def _column(values: list[int]) -> tuple[str, tuple[int, ...], str]:
    column = np.array(values, dtype=np.int64)
    return column.dtype.str, column.shape, b64encode(column.tobytes()).decode()


def _plan(plan: dict[str, Any], limits: list[int]) -> None:
    """What a start was asked for, and which job of its queue each verdict stopped: the first not started."""
    started = [0] * len(limits)
    for group in plan["groups"]:
        for action in group:
            if action["type"] == "start" and action.get("queue", -1) >= 0:
                started[action["queue"]] += 1
                action["asked_us"] = limits[action["queue"]]
    for index, verdict in plan["verdicts"].items():
        verdict["position"] = started[int(index)]
