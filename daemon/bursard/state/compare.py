"""Is an image of the state what the log makes of it? Field by field, for an audit.

Why     a start takes an image for the events before it, so a value that was changed in one is believed. Both
        sides are brought into one form: an image leaves out jobs that have ended, whose money a state still
        remembers until it forgets them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from bursard.state import image
from bursard.state.core import State
from bursard.state.tables import Limits

DIFFERENCES_MAX = 5


class _Head(msgspec.Struct):
    format: int
    recorded_at: int


def differences(data: bytes, state: State) -> list[str]:
    """Where an image differs from a state, as paths with both values; of another format nothing is said.

    Raises whatever a damaged image leads to.
    """
    head = msgspec.json.decode(data, type=_Head)
    if head.format < image.FORMAT:
        return []
    found = _form(data, head.recorded_at)
    expected = _form(image.encode(state, head.recorded_at), head.recorded_at)
    _forget_what_it_never_said(msgspec.json.decode(data), expected, found)
    every = _walk(expected, found, "")
    return [line for line, _ in zip(every, range(DIFFERENCES_MAX), strict=False)]


def _form(data: bytes, recorded_at: int) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.json.decode(image.encode(image.decode(data, Limits()), recorded_at))
    document["jobs"] = {job["id"]: job for job in document["jobs"]}
    return document


def _forget_what_it_never_said(written: Any, *forms: dict[str, Any]) -> None:
    """Dated prices, what ended members held, rates of open hours, of which limit a threshold was, what
    projects and budgets cost by day, how long runs took, what budgets counted of a job and when the last
    task of an array ended, and when nodes were reserved by what is in force no more, came into images later:
    without them the newest holds. How often an attempt was asked to end is a bound and no fact: one that was
    being ended when images began to say it was counted from then on. Since when a job waits for what it asks
    for now orders jobs alone: of one whose image says nothing, its submission does. Whose a machine is, is
    known of one whose job is still there.
    """
    undated = {job["id"] for job in written["jobs"] if "ended_at" not in job.get("array", {"ended_at": 0})}
    waiting_anew = {job["id"] for job in written["jobs"] if "waits_since" in job}
    for form in forms:
        if "rooms_by_user" not in written:
            form.pop("rooms_by_user", None)
        if "rooms_made" not in written:  # it orders jobs alone, and for minutes
            for name in ("made", "rooms_made"):
                form.pop(name, None)
            for job in form["jobs"].values():
                job.pop("room_until", None)
        for job_id in form["jobs"].keys() - waiting_anew:
            form["jobs"][job_id].pop("waits_since", None)
        if "reserved" not in written:
            form.pop("reserved", None)
        if "announced" not in written:
            form.pop("announced", None)
        if not written.get("costs_whole"):
            form.pop("costs", None)
            form.pop("costs_whole", None)
        ledger = form["ledger"]
        if not (written["ledger"].get("days_whole") and written["ledger"].get("days_corrected")):
            for name in ("days", "days_whole", "days_corrected"):
                ledger.pop(name, None)
        if not written.get("runs_whole"):
            for name in ("runs", "runs_whole"):
                form.pop(name, None)
            for job in form["jobs"].values():
                job.pop("likely_us", None)
        if not written.get("counted_whole"):
            for name in ("shifted", "counted_whole"):
                form.pop(name, None)
            for job in form["jobs"].values():
                job.pop("counted_from", None)
                job.pop("uncounted", None)
        for attempt in (one for job in form["jobs"].values() for one in job.get("attempts", ())):
            attempt.pop("stops", None)
        for job_id in undated & form["jobs"].keys():
            form["jobs"][job_id].get("array", {}).pop("ended_at", None)
        for machine, known in zip(written.get("machines", ()), form.get("machines", ()), strict=False):
            if "user" not in machine:
                for name in ("user", "project"):
                    known.pop(name, None)
        for node, known in zip(written["nodes"], form["nodes"], strict=False):
            if "prices" not in node:
                known.pop("prices", None)
            for usage, kept in zip(node.get("ended", ()), known.get("ended", ()), strict=False):
                if "alloc" not in usage:
                    kept.pop("alloc", None)
            for kind, hour in node.get("open", {}).items():
                if "rates" not in hour:
                    known.get("open", {}).get(kind, {}).pop("rates", None)


def _walk(expected: Any, found: Any, path: str) -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted({*expected, *found}):
            yield from _walk(expected.get(key), found.get(key), f"{path}.{key}" if path else key)
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for position, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from _walk(one, other, f"{path}[{position}]")
    elif expected != found or type(expected) is not type(found):
        yield f"{path} is {_short(found)}, the log says {_short(expected)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
