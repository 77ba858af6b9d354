"""Idle policies in words: of a plan, of a job, and of what was seen and done."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from bursar.cli.output import Row
from bursar.cli.terminal import clean, seconds_text, time_text
from bursar.clock import format_duration

_GROUNDS: Final = {
    "gpu": "all GPUs below {below_percent} % of activity",
    "cpu": "below {below_percent} % of its CPUs",
    "attendance": "nobody uses it",
}
_ACTIONS: Final = {
    "notify": "told alone",
    "stop": "stopped",
    "hold": "stopped and held",
    "requeue": "stopped and queued again",
    "cancel": "cancelled",
}
_SEEN: Final = {
    "gpu": "all GPUs of {attempt_id} do nothing",
    "cpu": "{attempt_id} does not use its CPUs",
    "attendance": "nobody uses {attempt_id}",
}


def idle_text(row: Row) -> str:
    """The idle policies that a job is under, a line each, and how far they are with it."""
    found = row.get("idleness")
    if not found:
        return ""
    lines = []
    for rule in found["rules"]:
        what = _GROUNDS.get(rule["ground"], clean(rule["ground"])).format_map(rule)
        told = f"told after {seconds_text(rule['warn_after_s'])}"
        if rule["action"] != "notify":
            told += f", {_done(rule['action'])} after {seconds_text(rule['time_window_s'])}"
        whose = f" (policy {clean(rule['policy'])})" if rule["policy"] else ""
        so_far = f"; so for {seconds_text(rule['idle_s'])}" if rule["idle_s"] else ""
        lines.append(f"{what}: {told}{whose}{so_far}")
    if found["snoozed_until"]:
        lines.append(f"put off until {time_text(found['snoozed_until'])}")
    return "\n".join(lines)


def _done(action: str) -> str:
    return _ACTIONS.get(action, clean(action))


def idle_words(data: Mapping[str, Any], cost: str) -> str:
    """Of an event: what is not used, for how long, what that cost, and what follows.

    Args:
        data: of `attempt-idle` or `attempt-idle-acted`. cost: as it is to be written; empty: not known.
    """
    ground = data.get("ground", "gpu")
    words = [_SEEN.get(ground, "{attempt_id} is idle").format_map({"attempt_id": data.get("attempt_id", "")})]
    words.append(f", for {format_duration(data.get('idle_us', 0))} so far")
    details = [*_evidence(data, ground), f"it cost {cost} meanwhile" if cost else ""]
    if said := ", ".join(filter(None, details)):
        words.append(f" ({said})")
    left, action = data.get("ends_in_us", 0), _done(data.get("action", "stop"))
    if left:
        words.append(f"; it is {action} in {format_duration(left)} unless that changes")
    return "".join(words)


def acted_words(data: Mapping[str, Any], cost: str) -> str:
    """Of `attempt-idle-acted`."""
    policy = data.get("policy")
    whose = f"as idle policy {policy} says" if policy else "as its idle_policy says"
    return (
        f"{idle_words({**data, 'ends_in_us': 0}, cost)}: it is {_done(data.get('action', 'stop'))}, {whose}"
    )


def _evidence(data: Mapping[str, Any], ground: str) -> list[str]:
    if ground == "attendance" or not data.get("by"):
        return []
    most = f"{Decimal(data.get('most_ppm', 0)) / 10_000:.2g} %"
    of = {"sm": "of multiprocessors", "utilization": "by utilization", "cpu": "of its CPUs"}
    words = [f"{most} {of.get(data['by'], '')} at most".replace("  ", " ")]
    held = data.get("memory_bytes", -1)
    if held is not None and held > 0:
        words.append(f"{Decimal(held) / 10**9:.1f} GB of their memory held")
    return words
