"""Idle policies from their YAML nodes.

Owns    the form of `kind: IdlePolicy` (contract section 6); its keys are those of a job's `idle_policy`.
Why     a policy that judges nothing, or acts before it warns, is refused with its line.
"""

from __future__ import annotations

from typing import Final

from bursar.clock import DAY_US, SECOND_US
from bursar.model.check import IDLE_ACTIONS
from bursar.yamlfile import Faults, Fields, Node, read_enum
from bursar_policies.read_budget import read_scope
from bursar_policies.specs import IDLE_TYPES, IdlePolicySpec, Scope

_KEYS: Final = (
    "scope", "types", "min_gpu_utilization", "min_cpu_utilization", "time_window", "warn_after", "action",
    "detached", "snooze", "snoozes",
)  # fmt: skip
_DEFAULT: Final = IdlePolicySpec()
SNOOZES_MAX: Final = 1_000


def read_idle_policy(node: Node, faults: Faults) -> IdlePolicySpec | None:
    """The spec of an IdlePolicy, or None with its faults reported."""
    before = len(faults.found)
    fields = Fields(node, faults, _KEYS)
    given = fields.get("scope")
    scope = read_scope(given, faults) if given is not None else Scope()
    below = fields.integer("min_gpu_utilization", minimum=1, maximum=100)
    cpu_below = fields.integer("min_cpu_utilization", minimum=1, maximum=100)
    window, detached = _span(fields, "time_window"), _span(fields, "detached")
    warn = _warning(fields, window)
    action = fields.enum("action", IDLE_ACTIONS) or _DEFAULT.action
    snooze = _put_off(fields)
    snoozes = fields.integer("snoozes", minimum=0, maximum=SNOOZES_MAX)
    types = _types(fields)
    if len(faults.found) > before or scope is None:
        return None
    if not window and not detached:
        faults.add(node, "judges nothing; give `time_window`, for how long a job may be idle, or `detached`")
        return None
    return IdlePolicySpec(
        scope,
        types,
        _DEFAULT.below_percent if below is None else below,
        cpu_below or 0,
        window,
        warn,
        action,
        detached,
        snooze,
        snoozes,
    )


def _span(fields: Fields, key: str) -> int:
    node, span_us = fields.get(key), fields.duration(key)
    if node is not None and span_us is not None and not 60 * SECOND_US <= span_us <= 7 * DAY_US:
        fields.faults.add(node, "must be from 1m to 7d")
    return span_us or 0


def _warning(fields: Fields, window_us: int) -> int:
    node, warn_us = fields.get("warn_after"), fields.duration("warn_after")
    if node is None or warn_us is None:
        return window_us // 2
    if not 0 < warn_us <= window_us:
        fields.faults.add(node, "must be more than 0 and at most `time_window`")
    return warn_us


def _put_off(fields: Fields) -> int:
    node, snooze_us = fields.get("snooze"), fields.duration("snooze")
    if node is not None and snooze_us is not None and not 60 * SECOND_US <= snooze_us <= 7 * DAY_US:
        fields.faults.add(node, "must be from 1m to 7d; with `snoozes: 0` nobody puts it off")
    return _DEFAULT.snooze_us if snooze_us is None else snooze_us


def _types(fields: Fields) -> tuple[str, ...]:
    found = []
    for node in fields.items("types"):
        word = read_enum(node, fields.faults, IDLE_TYPES)
        if word is not None and word not in found:
            found.append(word)
    return tuple(found) or _DEFAULT.types
