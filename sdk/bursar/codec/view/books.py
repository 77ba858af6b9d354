"""Budgets, costs, prices, corrections and policies, as they are shown."""

from __future__ import annotations

from collections.abc import Sequence

from bursar.codec.amounts import amount, exact
from bursar.codec.view.scalars import DEFAULT_CURRENCY, View, count, instant, money, rate, seconds
from bursar.model.peaks import peak_pflop_day
from bursar.v1 import money_pb2, types_pb2


def budget(wire: money_pb2.Budget) -> View:
    """A budget in its current period. `available` is negative when real spend passed a soft limit."""
    cash = wire.currency or DEFAULT_CURRENCY
    sums = {name: exact(wire, f"{name}_nanos") for name in ("limit", "settled", "held")}
    sums["available"] = sums["limit"] - sums["settled"] - sums["held"]
    parts = ("base_limit", "granted", "transferred", "carried_over")
    return {
        **{name: getattr(wire, name) for name in ("id", "name", "scope", "period", "enforcement", "hold")},
        **{name: money(nanos, cash) for name, nanos in sums.items()},
        **{name: money(amount(wire, name), cash) for name in parts},
        "carry_over": wire.carry_over or None,
        "postings": [_posting(one, cash) for one in wire.postings],
        "stages": [_stage(one) for one in wire.stages],
        "approval": _approval(wire.approval, cash) if wire.HasField("approval") else None,
        "currency": cash,
        **{name: instant(getattr(wire, name)) for name in ("period_start", "period_end")},
        **{name: list(getattr(wire, name)) for name in ("crossed_percent", "live_jobs")},
        "crossed": [{"on": one.on, "at_percent": one.at_ppm / 10_000} for one in wire.crossed],
        "version": wire.version,
        "forecast": _forecast(wire.forecast, cash) if wire.HasField("forecast") else None,
    }


def _forecast(wire: money_pb2.BudgetForecast, currency: str) -> View:
    """What is expected of a budget; of an end that is not reached, None."""
    amounts = ("burn_rate", "run_rate", "running", "queued", "end_p10", "end_p50", "end_p90")
    return {
        **{name: instant(getattr(wire, name)) for name in ("at", "ends_at")},
        "learned_days": wire.learned_days,
        **{name: money(amount(wire, name), currency) for name in amounts},
        **{
            name: instant(getattr(wire, name))
            for name in ("exhausted_p10_at", "exhausted_p50_at", "exhausted_p90_at")
        },
        "unpriced_jobs": wire.unpriced_jobs,
    }


def _stage(wire: money_pb2.BudgetStage) -> View:
    return {
        "action": wire.action,
        "on": wire.on,
        "at_percent": wire.at_ppm / 10_000,
        "since": wire.since,
        "remedy": wire.remedy,
    }


def _approval(wire: money_pb2.BudgetApproval, currency: str) -> View:
    return {
        "at": instant(wire.at),
        "by": wire.by,
        "reason": wire.reason,
        "until": instant(wire.until),
        "ceiling": money(amount(wire, "ceiling"), currency) if wire.HasField("ceiling") else None,
    }


def _posting(wire: money_pb2.BudgetPosting, currency: str) -> View:
    return {
        "kind": wire.kind,
        "amount": money(amount(wire, "amount"), currency),
        "at": instant(wire.at),
        **{name: getattr(wire, name) or None for name in ("by", "reason", "other")},
        "other_period": instant(wire.other_period),
    }


def cost(wire: money_pb2.CostResponse, by: Sequence[str]) -> View:
    """Cost rows with one field per dimension, and their total."""
    cash, compared = wire.currency or DEFAULT_CURRENCY, bool(wire.before_until)
    found: View = {
        "by": list(by),
        "period": wire.period,
        "timezone": wire.timezone or "UTC",
        "since": instant(wire.since),
        "until": instant(wire.until),
        "rows": [cost_row(row, by, cash, compared) for row in wire.rows],
        "total": cost_row(wire.total, (), cash, compared),
        "currency": cash,
    }
    if compared:
        since, until = instant(wire.before_since), instant(wire.before_until)
        found["compared_with"] = {"period": wire.before_period, "since": since, "until": until}
    return found


def cost_row(wire: money_pb2.CostRow, by: Sequence[str], currency: str, compared: bool = False) -> View:
    """One row: `cost` and its components; time without a known price is counted, not priced at 0.

    `percent` is of the total; where a comparison was asked for, `change` is what the row is more than before.
    """
    found: View = {
        **dict(zip(by, wire.keys, strict=False)),
        "cost": money(exact(wire, "nanos"), currency),
        "gpu_cost": money(exact(wire, "gpu_nanos"), currency),
        "cpu_cost": money(exact(wire, "cpu_nanos"), currency),
        "memory_cost": money(exact(wire, "memory_nanos"), currency),
        "held_s": seconds(wire.held_us),
        "gpu_s": seconds(wire.gpu_us),
        "cpu_s": seconds(wire.cpu_us),
        "unknown_price_s": seconds(wire.unknown_us),
        "jobs": wire.jobs,
        "percent": wire.share_ppm / 10_000 if wire.HasField("share_ppm") else None,
    }
    if "job" in by:
        found["called"] = wire.called or None
    if tuple(by[:1]) == ("service",):
        found |= service_use(wire.use if wire.HasField("use") else None, exact(wire, "nanos"), currency)
    if wire.others:
        found["others"] = wire.others
    if compared:
        nanos, before = exact(wire, "nanos"), exact(wire, "before_nanos")
        found["before"] = money(before, currency)
        found["change"] = money(nanos - before, currency)
        found["change_percent"] = wire.change_ppm / 10_000 if wire.HasField("change_ppm") else None
    return found


def service_use(wire: types_pb2.ServiceUse | None, nanos: int, currency: str) -> View:
    """What was asked of a service, or with a key, and what it cost by that; null where nothing was.

    Args:
        nanos: what replicas were charged for it, its idle time included.
    """
    if wire is None or not (wire.requests or wire.tokens_in or wire.tokens_out):
        none = (
            "requests",
            "failed",
            "tokens_in",
            "tokens_out",
            "cost_per_request",
            "cost_per_million_tokens",
            "coverage",
        )
        idle = None if wire is None else money(amount(wire, "idle"), currency)
        return {**dict.fromkeys(none), "idle": idle}
    tokens, answered = wire.tokens_in + wire.tokens_out, wire.requests - wire.failed
    told = wire.counted + wire.estimated
    return {
        "requests": wire.requests,
        "failed": wire.failed,
        "tokens_in": wire.tokens_in,
        "tokens_out": wire.tokens_out,
        "cost_per_request": money(nanos // answered, currency) if answered > 0 else None,
        "cost_per_million_tokens": money(nanos * 1_000_000 // tokens, currency) if tokens else None,
        "coverage": wire.counted / told if told else None,
        "idle": money(amount(wire, "idle"), currency),
    }


def price(wire: money_pb2.Price) -> View:
    """A price with its dates and source, and the machine it buys."""
    cash = wire.currency or DEFAULT_CURRENCY
    per_gpu = wire.rate_per_gpu_nanos_per_hour
    work = peak_pflop_day(wire.gpu_type, per_gpu) if wire.gpus else None
    return {
        "provider": wire.provider,
        "region": wire.region,
        "pool": wire.pool,
        "instance_type": wire.instance_type,
        "market": wire.market,
        "zone": wire.zone,
        "rate_per_hour": rate(wire.rate_nanos_per_hour, cash),
        "rate_per_gpu_hour": money(per_gpu, cash) if wire.gpus and per_gpu >= 0 else None,
        "cost_per_peak_pflop_day": money(work, cash) if work is not None else None,
        "gpus": wire.gpus,
        "gpu_type": wire.gpu_type,
        "gpu_memory_bytes": wire.gpu_memory_bytes,
        "cpus": count(wire.cpu_milli),
        "memory_bytes": wire.memory_bytes,
        "valid_from": instant(wire.valid_from),
        "valid_until": instant(wire.valid_until),
        "source": wire.source,
        "price_id": wire.price_id,
        "says": wire.says,
    }


def correction(wire: money_pb2.CorrectResponse) -> View:
    """What became of a correction, and which budgets follow."""
    cash = wire.currency or DEFAULT_CURRENCY
    before, after = exact(wire, "before_nanos"), exact(wire, "after_nanos")
    return {
        "job": wire.job_id,
        "charges": wire.charges,
        "before": money(before, cash),
        "after": money(after, cash),
        "difference": money(after - before, cash),
        "booked_at": instant(wire.booked_at),
        "budgets": [
            {
                "budget": one.budget,
                "period_start": instant(one.period_start),
                "amount": money(exact(one, "nanos"), cash),
            }
            for one in wire.budgets
        ],
    }


def price_explanation(wire: money_pb2.PriceExplanation) -> View:
    """Every part of a price: rates of the whole machine, and of each GPU where it has some."""
    cash = wire.currency or DEFAULT_CURRENCY
    rates = {
        **{part.name: part.rate_nanos_per_hour for part in wire.parts},
        "cost": wire.cost_nanos_per_hour,
        "charge": wire.charge_nanos_per_hour,
        "full_absorption": wire.full_absorption_nanos_per_hour,
        "list": wire.list_nanos_per_hour,
        "effective": wire.effective_nanos_per_hour,
        "marginal": wire.marginal_nanos_per_hour,
        "charge_gpu": wire.gpu_nanos_per_hour,
        "charge_cpu": wire.cpu_nanos_per_hour,
        "charge_memory": wire.memory_nanos_per_hour,
    }
    return {
        "name": wire.name,
        "pool": wire.pool,
        "nodes": wire.nodes,
        "gpus": wire.gpus,
        "gpu_type": wire.gpu_type,
        "rates": [
            {
                "rate": name,
                "per_hour": rate(nanos, cash),
                "per_gpu_hour": money(nanos // wire.gpus, cash) if wire.gpus and nanos >= 0 else None,
            }
            for name, nanos in rates.items()
        ],
        "sold": wire.sold_ppm / 1_000_000 if wire.sold_ppm >= 0 else None,
        "price_id": wire.price_id,
        "stable_id": wire.stable_id,
        "source": wire.source,
        "valid_from": instant(wire.valid_from),
        "valid_until": instant(wire.valid_until),
    }


def policy(wire: money_pb2.Policy) -> View:
    """One document with who applied it and when; `text` is null in lists, `opening` unless it opens one."""
    opening = wire.opening
    return {
        "kind": wire.kind,
        "name": wire.name,
        "version": wire.version,
        "change": wire.change or None,
        "applied_at": instant(wire.applied_at),
        "applied_by": wire.applied_by,
        "effective_at": instant(wire.effective_at),
        "problem": wire.problem or None,
        "notes": list(wire.notes),
        "opening": {
            "since": instant(opening.since),
            "settled": money(exact(opening, "settled_nanos"), opening.currency),
            "held": money(exact(opening, "held_nanos"), opening.currency),
            "attempts": opening.attempts,
        }
        if wire.HasField("opening")
        else None,
        "text": wire.text or None,
    }
