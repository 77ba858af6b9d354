"""Budgets from their YAML nodes.

Owns    the form of `kind: Budget` (contract section 6).
Why     a key this version cannot honour is refused by name: a budget whose `hold` is
        silently ignored would be enforced wrongly, and nobody would know.
"""

from __future__ import annotations

from decimal import Decimal

from bursar.clock import HOUR_US
from bursar.errors import InvalidRequest
from bursar.money import Money
from bursar.yamlfile import (
    Faults,
    Fields,
    Node,
    read_entries,
    read_enum,
    read_items,
    read_percent,
    read_project,
    read_string,
    read_text,
)
from bursar_policies.periods import PERIODS, ROLLING_EXAMPLE, ROLLING_MAX, find_timezone, rolling_days
from bursar_policies.specs import (
    ACTIONS,
    FORECAST,
    HOLDS,
    LEASE_MAX_US,
    LEASE_MIN_US,
    LEASE_US,
    ON,
    PPM,
    BudgetSpec,
    CarryOver,
    Scope,
    Threshold,
)

_BUDGET_KEYS = (
    "scope", "limit", "period", "timezone", "enforcement", "hold", "carry_over", "thresholds",
    "counts_from", "lease",
)  # fmt: skip
_SCOPE_KEYS = ("project", "user", "experiment", "model", "label")
_WORD = r"[^\s\x00-\x1f/=][^\x00-\x1f]{0,127}"
_LABEL_KEY = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}"


def read_budget(node: Node, faults: Faults) -> BudgetSpec | None:
    """The spec of a Budget, or None with its faults reported."""
    fields = Fields(node, faults, _BUDGET_KEYS)
    scope_node = fields.get("scope", required=True)
    scope = None if scope_node is None else read_scope(scope_node, faults)
    limit = fields.money("limit", required=True, positive=True)
    period = _period(fields)
    enforcement = fields.enum("enforcement", ("hard", "soft")) or "hard"
    hold = fields.enum("hold", HOLDS) or "worst-case"
    lease_us = _lease(fields, hold, enforcement)
    thresholds = _thresholds(fields, faults, period)
    timezone = _timezone(fields, faults)
    counts_from = _counts_from(fields, faults)
    carry_over = _carry_over(fields, limit, period)
    if scope is None or limit is None:
        return None
    return BudgetSpec(
        scope, limit, period, timezone, enforcement, hold, thresholds, counts_from, carry_over, lease_us
    )


def _period(fields: Fields) -> str:
    """A word of the calendar, or `rolling-30d`."""
    node = fields.get("period")
    text = None if node is None else read_text(node, fields.faults)
    if node is None or text is None:
        return "month"
    if text.startswith("rolling"):
        if not rolling_days(text):
            fields.faults.add(
                node, f"{text[:60]!r} is no rolling period; write rolling-1d to rolling-{ROLLING_MAX}d"
            )
        return text
    return read_enum(node, fields.faults, (*PERIODS, ROLLING_EXAMPLE)) or "month"


def _lease(fields: Fields, hold: str, enforcement: str) -> int:
    """How long each lease is, of a budget that gives any."""
    node, lease_us = fields.get("lease"), fields.duration("lease")
    if node is not None and lease_us is not None and not LEASE_MIN_US <= lease_us <= LEASE_MAX_US:
        fields.faults.add(node, "must be from 10s to 7d")
    if hold == "worst-case":
        if node is not None:
            fields.faults.add(
                node, "goes with `hold: lease` and `hold: expected`; say one of them, or leave it out"
            )
        return 0
    hold_node = fields.get("hold")
    if hold_node is not None and enforcement != "hard":
        fields.faults.add(
            hold_node, f"{hold} is of hard budgets: a soft one keeps no job from going on; leave `hold` out"
        )
    return lease_us or LEASE_US


def _carry_over(fields: Fields, limit: Money | None, period: str) -> CarryOver | None:
    """`20%` of what is left, or all of it up to `500 USD`."""
    node = fields.get("carry_over")
    text = None if node is None else read_text(node, fields.faults)
    if node is None or text is None:
        return None
    if period == "one-time":
        fields.faults.add(
            node, "nothing of a one-time budget is carried over, as it never renews; leave it out"
        )
        return None
    if rolling_days(period):
        fields.faults.add(
            node,
            f"nothing of {period} is carried over: each day, what is older than its window is free again by"
            " itself; leave it out",
        )
        return None
    if text.strip().endswith("%"):
        share = read_percent(node, fields.faults, minimum=Decimal("0.0001"), maximum=Decimal(100))
        return None if share is None else CarryOver(int(share * PPM))
    amount = fields.money("carry_over", positive=True)
    if amount is not None and limit is not None and amount.currency != limit.currency:
        fields.faults.add(node, f"is in {amount.currency}, the limit in {limit.currency}; use one currency")
        return None
    return None if amount is None else CarryOver(limit=amount)


def _counts_from(fields: Fields, faults: Faults) -> int:
    """A full hour, since the books are kept by hours."""
    node, at = fields.get("counts_from"), fields.instant("counts_from")
    if node is None or at is None:
        return 0
    if at <= 0 or at % HOUR_US:
        faults.add(node, "must be a full hour of UTC, as in 2026-11-15T08:00:00Z: costs are kept by the hour")
    return at


def read_scope(node: Node, faults: Faults) -> Scope | None:
    """Whose jobs a document is about, or None with its faults reported."""
    before = len(faults.found)
    fields = Fields(node, faults, _SCOPE_KEYS)
    project_node = fields.get("project")
    project = None if project_node is None else read_project(project_node, faults)
    words = {
        key: fields.string(key, pattern=_WORD, expected="a name of at most 128 characters") or ""
        for key in ("user", "experiment", "model")
    }
    label_node = fields.get("label")
    labels = () if label_node is None else _labels(label_node, faults)
    if len(faults.found) > before:
        return None
    if not (project or labels or any(words.values())):
        faults.add(node, f"covers nothing; give at least one of {', '.join(_SCOPE_KEYS)}")
        return None
    return Scope(project or "", words["user"], words["experiment"], words["model"], labels)


def _labels(node: Node, faults: Faults) -> tuple[tuple[str, str], ...]:
    """`label: team=vision` or `label: {team: vision, tier: gold}`."""
    found: dict[str, str] = {}
    if node.kind == "scalar":
        form = f"{_LABEL_KEY}=.{{1,128}}"
        text = read_string(node, faults, pattern=form, expected="key=value, as in team=vision")
        if text is not None:
            key, _, value = text.partition("=")
            found[key] = value
        return tuple(found.items())
    entries = read_entries(node, faults)
    if not entries and node.kind == "mapping":
        faults.add(node, "names no label")
    for key, child in entries.items():
        checked = read_string(child, faults, length_max=128)
        if checked is not None:
            found[key] = checked
    return tuple(sorted(found.items()))


def _timezone(fields: Fields, faults: Faults) -> str:
    node = fields.get("timezone")
    name = None if node is None else read_text(node, faults)
    if node is None or name is None:
        return "UTC"
    try:
        find_timezone(name)
    except InvalidRequest as error:
        faults.add(node, error.message)
    return name


def _thresholds(fields: Fields, faults: Faults, period: str) -> tuple[Threshold, ...]:
    found: dict[tuple[int, str], Threshold] = {}
    for node in fields.items("thresholds"):
        threshold = _threshold(node, faults)
        if threshold is None:
            continue
        if threshold.on == FORECAST and (rolling_days(period) or period == "one-time"):
            faults.add(
                node,
                f"on: forecast is of what a period costs in the end, and {period} has no end; use on: settled"
                " or on: settled+held",
            )
        key = (threshold.at_ppm, threshold.on)
        if key in found:
            faults.add(node, "the same threshold is given twice; put its actions into one `do`")
        found[key] = threshold
    return tuple(found[key] for key in sorted(found))


def _threshold(node: Node, faults: Faults) -> Threshold | None:
    fields = Fields(node, faults, ("at", "on", "do"))
    at_node = fields.get("at", required=True)
    ratio = None
    if at_node is not None:
        ratio = read_percent(at_node, faults, minimum=Decimal("0.0001"), maximum=Decimal(1000))
    on = fields.enum("on", ON) or "settled"
    do_node = fields.get("do", required=True)
    actions: list[str] = []
    for child in read_items(do_node, faults) if do_node is not None else ():
        action = read_enum(child, faults, ACTIONS)
        if action is not None and action in actions:
            faults.add(child, f"{action} is named twice")
        elif action is not None:
            actions.append(action)
    if do_node is not None and do_node.kind == "sequence" and not do_node.items:
        faults.add(do_node, "names no action; use [notify]")
    return None if ratio is None else Threshold(int(ratio * PPM), on, tuple(actions))
