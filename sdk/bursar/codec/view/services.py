"""Services, their replicas and keys, as they are shown (contract section 12)."""

from __future__ import annotations

from bursar.codec.amounts import amount
from bursar.codec.view.books import service_use
from bursar.codec.view.scalars import View, instant, money
from bursar.v1 import services_pb2 as pb

MILLION = 1_000_000


def service(wire: pb.Service) -> View:
    """One service. What no gateway told is null; so is what would be divided by nothing."""
    told = bool(wire.url)
    return {
        "name": wire.name,
        "state": wire.state,
        "revision": wire.revision,
        "replicas": [_replica(one, wire.currency) for one in wire.replicas],
        "replicas_min": wire.replicas_min,
        "replicas_max": wire.replicas_max,
        "target": wire.target,
        "ready": wire.ready,
        "reason": {
            "code": wire.reason.code,
            "message": wire.reason.message,
            "remedy": wire.reason.remedy,
            "facts": dict(sorted(wire.reason.facts.items())),
        }
        if wire.HasField("reason")
        else None,
        "rps": wire.requests_per_second_milli / 1_000 if told else None,
        "concurrency": wire.concurrency_milli / 1_000 if told else None,
        "p50_ms": wire.p50_us / 1_000 if told else None,
        "p95_ms": wire.p95_us / 1_000 if told else None,
        "rate_per_hour": money(amount(wire, "rate"), wire.currency),
        **_use(wire),
        "api": wire.api,
        "balance": wire.balance or None,
        "fallback": wire.fallback or None,
        "fallback_state": wire.fallback_state or None,
        "url": wire.url or None,
        "update": wire.update or None,
        "rolled_back": wire.rolled_back or None,
        "id": wire.job_id,
        "number": wire.number,
        "project": wire.project,
        "user": wire.user,
    }


def _use(wire: pb.Service) -> View:
    """What it was asked since `since`, and at what cost; only of a service that is shown alone."""
    cash = wire.currency
    settled = {"settled": money(amount(wire, "settled"), cash)}
    if not wire.HasField("use"):
        return {"requests": None, "tokens_in": None, "tokens_out": None, "cost": settled}
    told = service_use(wire.use, amount(wire, "use_cost"), cash)
    return {
        "requests": wire.use.requests,
        "tokens_in": wire.use.tokens_in,
        "tokens_out": wire.use.tokens_out,
        "cost": {
            **settled,
            "idle": money(amount(wire.use, "idle"), cash),
            "per_request": told["cost_per_request"],
            "per_million_tokens": told["cost_per_million_tokens"],
            "coverage": told["coverage"],
            "since": instant(wire.use_since),
            "charged": money(amount(wire, "use_cost"), cash),
        },
    }


def _replica(wire: pb.Replica, currency: str) -> View:
    """One replica, or a place that waits for one."""
    return {
        "id": wire.attempt_id or None,
        "slot": wire.slot,
        "state": wire.state,
        "node": wire.node or None,
        "outstanding": wire.outstanding,
        "rate_per_hour": money(amount(wire, "rate"), currency),
        "revision": wire.revision,
        "message": wire.message or None,
        "since": instant(wire.since),
        "port": wire.port or None,
    }


def service_key(wire: pb.ServiceKey) -> View:
    """A key; `secret` in the answer that made it alone."""
    shown: View = {
        "id": wire.id,
        "name": wire.name,
        "service": wire.service,
        "project": wire.project,
        "user": wire.user,
        "issued_at": instant(wire.issued_at),
        "expires_at": instant(wire.expires_at),
        "rpm": wire.requests_per_minute or None,
        "concurrency": wire.concurrency or None,
        "budget": wire.budget or None,
    }
    if wire.change:
        shown["change"] = wire.change
    if wire.secret:
        shown["secret"] = wire.secret
    return shown
