"""What is shown: wire messages as the JSON objects of the contract (section 4 and beside it).

Owns    names, order and types of every field that programs read: money as decimal strings of nine
        places, times as RFC 3339 with `Z`, durations as seconds in `*_s`, `null` for what is not known.
Input   messages of `bursar.v1`. Output: plain dicts and lists that `json.dumps` takes. Pure.
Why     the CLI, reports and other programs show the same thing in the same words, in one place.
"""

from __future__ import annotations

from bursar.codec.view.books import budget, correction, cost, cost_row, policy, price, price_explanation
from bursar.codec.view.jobs import (
    attempt,
    budget_after,
    end,
    explain,
    idleness,
    job,
    job_progress,
    plan,
    profile,
    reason,
    resources,
)
from bursar.codec.view.nodes import (
    PRECISIONS,
    cloud_check,
    known_token,
    machine,
    node,
    node_hours,
    node_token,
    reservation,
    top,
)
from bursar.codec.view.readings import progress, sample
from bursar.codec.view.scalars import DEFAULT_CURRENCY, View, count, instant, money, rate, seconds
from bursar.codec.view.server import event, findings, grant, secret, server
from bursar.codec.view.services import service, service_key

__all__ = [
    "DEFAULT_CURRENCY",
    "PRECISIONS",
    "View",
    "attempt",
    "budget",
    "budget_after",
    "cloud_check",
    "correction",
    "cost",
    "cost_row",
    "count",
    "end",
    "event",
    "explain",
    "findings",
    "grant",
    "idleness",
    "instant",
    "job",
    "job_progress",
    "known_token",
    "machine",
    "money",
    "node",
    "node_hours",
    "node_token",
    "plan",
    "policy",
    "price",
    "price_explanation",
    "profile",
    "progress",
    "rate",
    "reason",
    "reservation",
    "resources",
    "sample",
    "seconds",
    "secret",
    "server",
    "service",
    "service_key",
    "top",
]
