"""Priority policies from their YAML nodes.

Owns    the form of `kind: PriorityPolicy` (contract section 6).
Why     an order that nobody meant is found weeks later, by whoever waited: a factor that is not known, or
        that nothing feeds yet, is refused with its line.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from bursar.clock import DAY_US
from bursar.projects import problem_of
from bursar.resources import MILLI
from bursar.yamlfile import Faults, Fields, Node, nearest, read_decimal, read_int
from bursar_policies.specs import (
    ADMIN_ASKED_MAX,
    ASKED_MAX,
    FACTORS,
    PPM,
    PREEMPT_MAX,
    PROMISE_HORIZON_US,
    PROMISE_USER_MAX,
    PROMISES_MAX,
    PriorityPolicySpec,
)

WEIGHT_MAX: Final = 1_000
SHARES_MAX: Final = 1_000
AGE_MAX_US: Final = 365 * DAY_US
AGE_POWER_MAX: Final = 4
SHARE_DAYS_MAX: Final = 365
PRIORITY_MAX: Final = 100
PER_HOUR_MAX: Final = 1_000
KEEP_MAX: Final = Decimal(90)
RESTART_US: Final = 300_000_000
_KEYS = (
    *("weights", "max_wait", "age_full", "age_power", "share_days", "shares"),
    *("short_jobs", "preempt", "promises", "max_priority"),
)


def read_priority(node: Node, faults: Faults) -> PriorityPolicySpec | None:
    """The spec of a PriorityPolicy, or None with its faults reported."""
    before = len(faults.found)
    fields = Fields(node, faults, _KEYS)
    weights = _weights(fields, faults)
    shares = _shares(fields, faults)
    max_wait_us = _duration(fields, "max_wait", 0)
    age_full_us = _duration(fields, "age_full", 7 * DAY_US)
    age_power = fields.integer("age_power", minimum=1, maximum=AGE_POWER_MAX) or 1
    share_days = fields.integer("share_days", minimum=1, maximum=SHARE_DAYS_MAX) or 30
    short_limit_us, kept_ppm = _short_jobs(fields)
    preempt_gap, restart_us, preempt_max, preempt_user_max = _preempt(fields)
    horizon_us, share_ppm, user_max, user_ppm = _promises(fields)
    asked_max, admin_asked_max, asked_in = _asked(fields, faults)
    if len(faults.found) > before:
        return None
    bounds = fields.get("promises") is not None or fields.get("max_priority") is not None
    if not (weights or max_wait_us or preempt_gap or bounds):
        faults.add(node, "orders nothing; give `weights` above 0, `max_wait`, or both")
        return None
    factors = {factor for factor, _ in weights}
    for keys, factor in ((("age_full", "age_power"), "age"), (("share_days", "shares"), "fair_share")):
        for key in keys:
            if factor not in factors and (given := fields.get(key)) is not None:
                faults.add_key(given, f"{key} does nothing without a weight for {factor}")
    if kept_ppm and not max_wait_us and (given := fields.get("short_jobs")) is not None:
        faults.add_key(given, "short_jobs needs a max_wait, or a long job might wait for ever")
        return None
    return PriorityPolicySpec(
        weights=weights,
        max_wait_us=max_wait_us,
        age_full_us=age_full_us,
        age_power=age_power,
        share_days=share_days,
        shares=shares,
        short_limit_us=short_limit_us,
        kept_ppm=kept_ppm,
        preempt_gap=preempt_gap,
        restart_us=restart_us,
        preempt_max=preempt_max,
        preempt_user_max=preempt_user_max,
        promise_horizon_us=horizon_us,
        promise_share_ppm=share_ppm,
        promise_user_max=user_max,
        promise_user_ppm=user_ppm,
        asked_max=asked_max,
        admin_asked_max=admin_asked_max,
        asked_in=asked_in,
    )


def _asked(fields: Fields, faults: Faults) -> tuple[int, int, tuple[tuple[str, int], ...]]:
    """The highest priority that submitters and project-admins may ask for, and submitters by project."""
    inner = fields.fields("max_priority", ("submitter", "project_admin", "projects"))
    if inner is None:
        return ASKED_MAX, ADMIN_ASKED_MAX, ()
    own = inner.integer("submitter", minimum=0, maximum=PRIORITY_MAX)
    submitter = ASKED_MAX if own is None else own
    admin = inner.integer("project_admin", minimum=submitter, maximum=PRIORITY_MAX)
    found: dict[str, int] = {}
    entries = inner.entries("projects")
    if len(entries) > SHARES_MAX and (node := inner.get("projects")) is not None:
        faults.add(node, f"names {len(entries)} projects; at most {SHARES_MAX}")
        return ASKED_MAX, ADMIN_ASKED_MAX, ()
    for key, child in entries.items():
        most, problem = read_int(child, faults, minimum=0, maximum=PRIORITY_MAX), problem_of(key)
        if problem:
            faults.add_key(child, f"{key[:60]!r} is not a project: {problem}")
        elif key.lower() in found:
            faults.add_key(child, f"the project {key.lower()} is given twice: capitals make no difference")
        elif most is not None:
            found[key.lower()] = most
    return (
        submitter,
        max(submitter, ADMIN_ASKED_MAX) if admin is None else admin,
        tuple(sorted(found.items())),
    )


def _promises(fields: Fields) -> tuple[int, int, int, int]:
    """How far ahead, of what part of the cluster, how many of a user, and of what part of that part deadlines
    are promised.
    """
    inner = fields.fields("promises", ("horizon", "share", "per_user", "user_share"))
    if inner is None:
        return PROMISE_HORIZON_US, PPM, PROMISE_USER_MAX, PPM
    horizon_us = _duration(inner, "horizon", PROMISE_HORIZON_US)
    if horizon_us > PROMISE_HORIZON_US and (node := inner.get("horizon")) is not None:
        inner.faults.add(node, f"must be at most {PROMISE_HORIZON_US // DAY_US}d")
    share = inner.percent("share", minimum=Decimal("0.0001"), maximum=Decimal(100))
    user_max = inner.integer("per_user", minimum=0, maximum=PROMISES_MAX)
    user_share = inner.percent("user_share", minimum=Decimal("0.0001"), maximum=Decimal(100))
    return (
        horizon_us,
        PPM if share is None else int(share * PPM),
        PROMISE_USER_MAX if user_max is None else user_max,
        PPM if user_share is None else int(user_share * PPM),
    )


def _preempt(fields: Fields) -> tuple[int, int, int, int]:
    """How far below a job's priority that of what is stopped for it must be, what a restart takes, and how
    often within an hour a project and a user may.
    """
    inner = fields.fields("preempt", ("gap", "restart", "per_project", "per_user"))
    if inner is None:
        return 0, 0, PREEMPT_MAX, 0
    gap = inner.integer("gap", required=True, minimum=1, maximum=100) or 0
    most = inner.integer("per_project", minimum=1, maximum=PER_HOUR_MAX)
    of_user = inner.integer("per_user", minimum=1, maximum=PER_HOUR_MAX)
    restart_us = _duration(inner, "restart", RESTART_US)
    return gap, restart_us, PREEMPT_MAX if most is None else most, of_user or 0


def _short_jobs(fields: Fields) -> tuple[int, int]:
    """Up to which time limit a job is short, and what part of the cluster is kept for such, per million."""
    inner = fields.fields("short_jobs", ("limit", "keep"))
    if inner is None:
        return 0, 0
    inner.get("limit", required=True)
    keep = inner.percent("keep", required=True, minimum=Decimal("0.0001"), maximum=KEEP_MAX)
    return _duration(inner, "limit", 0), int(keep * PPM) if keep is not None else 0


def _duration(fields: Fields, key: str, default: int) -> int:
    node, found = fields.get(key), fields.duration(key)
    if node is None or found is None:
        return default
    if not 0 < found <= AGE_MAX_US:
        fields.faults.add(node, "must be more than 0 and at most 365d")
    return found


def _weights(fields: Fields, faults: Faults) -> tuple[tuple[str, int], ...]:
    found = []
    for key, child in fields.entries("weights").items():
        weight = _milli(child, faults, minimum=Decimal(0))
        if key not in FACTORS:
            near, known = nearest(key, FACTORS), ", ".join(FACTORS)
            faults.add_key(child, f"{key[:60]!r} is not a factor; known: {known}", nearest=near)
        elif weight:
            found.append((key, weight))
    return tuple(sorted(found))


def _shares(fields: Fields, faults: Faults) -> tuple[tuple[str, int], ...]:
    found: dict[str, int] = {}
    entries = fields.entries("shares")
    if len(entries) > SHARES_MAX and (node := fields.get("shares")) is not None:
        faults.add(node, f"names {len(entries)} projects; at most {SHARES_MAX}")
        return ()
    for key, child in entries.items():
        share, problem = _milli(child, faults, minimum=Decimal("0.001")), problem_of(key)
        project = key.lower()
        if problem:
            faults.add_key(child, f"{key[:60]!r} is not a project: {problem}")
        elif project in found:
            faults.add_key(child, f"the project {project} is given twice: capitals make no difference")
        elif share is not None:
            found[project] = share
    return tuple(sorted(found.items()))


def _milli(node: Node, faults: Faults, minimum: Decimal) -> int | None:
    """Thousandths, exactly."""
    value = read_decimal(node, faults, minimum=minimum, maximum=Decimal(WEIGHT_MAX))
    if value is None:
        return None
    if value * MILLI != int(value * MILLI):
        faults.add(node, "has more than three digits behind the point")
        return None
    return int(value * MILLI)
