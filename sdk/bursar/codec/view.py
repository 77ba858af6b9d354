"""What is shown: wire messages as the JSON objects of the contract (section 4 and beside it).

Owns    names, order and types of every field that programs read: money as decimal strings of nine
        places, times as RFC 3339 with `Z`, durations as seconds in `*_s`, `null` for what is not known.
Input   messages of `bursar.v1`. Output: plain dicts and lists that `json.dumps` takes. Pure.
Why     the CLI, reports and other programs show the same thing in the same words, in one place.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from bursar.clock import SECOND_US, format_instant
from bursar.codec.amounts import amount, exact
from bursar.model import clock_reasons, is_idle
from bursar.money import format_nanos
from bursar.resources import MILLI
from bursar.v1 import access_pb2, events_pb2, jobs_pb2, money_pb2, nodes_pb2, types_pb2

View = dict[str, Any]
"""One JSON object."""

DEFAULT_CURRENCY: Final = "USD"
"""Shown where the server named none: nothing has been priced yet, so every amount is zero."""


# ------------------------------------------------------------------ scalars


def money(nanos: int, currency: str) -> View:
    """`{"amount": "12.345678900", "currency": "USD"}`."""
    return {"amount": format_nanos(nanos), "currency": currency or DEFAULT_CURRENCY}


def rate(nanos_per_hour: int, currency: str) -> View | None:
    """Money per hour; None when the price is unknown (-1), which is never shown as 0."""
    return None if nanos_per_hour < 0 else money(nanos_per_hour, currency)


def instant(at: int) -> str | None:
    """RFC 3339 with `Z`; None for "not yet" or "never"."""
    return format_instant(at) if at else None


def seconds(us: int) -> int | float:
    """Seconds, whole when they are."""
    whole, rest = divmod(us, SECOND_US)
    return us / SECOND_US if rest else whole


def count(milli: int) -> int | float:
    """CPUs or GPUs, whole when they are."""
    whole, rest = divmod(milli, MILLI)
    return milli / MILLI if rest else whole


# ------------------------------------------------------------------ jobs


def job(wire: types_pb2.Job) -> View:
    """The job object of contract section 4."""
    spec = wire.spec
    cash = wire.currency or DEFAULT_CURRENCY
    unpriced = wire.cost_unknown and not wire.rate_nanos_per_hour
    return {
        "id": wire.id,
        "number": wire.number,
        "name": spec.name,
        "type": "job",
        "state": wire.state,
        "reason": reason(wire.reason),
        "project": spec.project,
        "user": wire.user,
        "experiment": spec.experiment,
        "model": spec.model,
        "model_version": spec.model_version,
        "labels": dict(sorted(spec.labels.items())),
        "priority": spec.priority,
        "preemptible": spec.preemptible,
        "nodes": spec.nodes,
        "launch": spec.launch or "per-node",
        "resources": resources(spec.options),
        "time_limit_s": seconds(spec.time_limit_us) if spec.time_limit_us else None,
        "deadline": None,
        "begin_after": instant(spec.begin_after),
        "submitted_at": instant(wire.submitted_at),
        "started_at": instant(wire.started_at),
        "finished_at": instant(wire.finished_at),
        "elapsed_s": _elapsed_s(wire),
        "exit_code": wire.exit_code if wire.HasField("exit_code") else None,
        "end": end(wire.end) if wire.HasField("end") else None,
        "attempts": [attempt(each, cash) for each in wire.attempts],
        "cost": {
            "settled": money(exact(wire, "settled_nanos"), cash),
            "accrued": money(max(exact(wire, "accrued_nanos"), exact(wire, "settled_nanos")), cash),
            "held": money(exact(wire, "held_nanos"), cash),
            "estimate_expected": rate(exact(wire, "estimate_expected_nanos"), cash),
            "estimate_max": rate(exact(wire, "estimate_max_nanos"), cash),
            "currency": cash,
            "unknown": wire.cost_unknown,
        },
        "rate_per_hour": None if unpriced else rate(exact(wire, "rate_nanos_per_hour"), cash),
        "max_cost": money(exact(spec, "max_cost_nanos"), spec.currency) if spec.max_cost_nanos else None,
        "max_cost_per": spec.max_cost_per if spec.max_cost_nanos and spec.HasField("array") else None,
        "budgets": [
            {
                "name": each.budget,
                "held": money(exact(each, "held_nanos"), cash),
                "settled": money(exact(each, "settled_nanos"), cash),
            }
            for each in wire.budgets
        ],
        "budgets_total": wire.budgets_total,
        "array": _array(wire),
        "depends_on": [{"job": each.job, "when": each.when} for each in spec.depends_on],
        "lineage": _lineage(wire),
        "command": list(spec.command),
        "redacted": wire.redacted,
        "left_out": list(wire.left_out),
        "secrets": list(spec.secrets),
        "secret_files": list(spec.secret_files),
        "workdir": spec.workdir,
        "output_file": spec.output_file,
        "error_file": spec.error_file,
        "comment": spec.comment,
        "simulated": wire.simulated,
        "max_rss_bytes": wire.max_rss_bytes,
        "cpu_s": seconds(wire.cpu_us),
        "gpu_energy_joules": _joules(wire.gpu_energy_millijoules, wire.gpu_energy_source),
        "gpu_energy_source": wire.gpu_energy_source or None,
        "progress": job_progress(wire, cash),
        "progress_problem": wire.progress_problem or None,
    }


def job_progress(wire: types_pb2.Job, currency: str) -> View | None:
    """How far the job says it has come, and what that has cost: of all attempts, lost work included."""
    if not wire.HasField("progress"):
        return None
    told = wire.progress
    cost = None if wire.cost_unknown else max(exact(wire, "accrued_nanos"), exact(wire, "settled_nanos"))
    return {
        **progress(told),
        "cost_per_step": _per(cost, 1, told.step, currency),
        "cost_per_million_samples": _per(cost, 1_000_000, told.samples, currency),
        "cost_per_million_tokens": _per(cost, 1_000_000, told.tokens, currency),
    }


def progress(wire: types_pb2.Progress) -> View:
    """What a job told last. What it did not tell, or is not known, is None."""
    speed = wire.steps_per_second if wire.HasField("steps_per_second") else None
    left = max(wire.total - wire.step, 0) if wire.total else None
    useful_us = wire.compute_us + wire.communication_us
    spans = {f"{name}_s": getattr(wire, f"{name}_us") / 1_000_000 for name in _SPANS}
    return {
        "step": wire.step,
        "total": wire.total or None,
        "samples": wire.samples or None,
        "tokens": wire.tokens or None,
        "steps_per_second": speed,
        "samples_per_second": _known(wire, "samples_per_second"),
        "tokens_per_second": _known(wire, "tokens_per_second"),
        "left_s": round(left / speed, 3) if left is not None and speed else None,
        **(spans if wire.elapsed_us else dict.fromkeys(spans)),
        "goodput_ratio": min(useful_us / wire.elapsed_us, 1.0) if useful_us and wire.elapsed_us else None,
        "mfu_ratio": wire.mfu_ppm / 1_000_000 if wire.mfu_ppm else None,
    }


_SPANS = ("elapsed", "data_wait", "compute", "communication", "checkpoint")


def _per(cost_nanos: int | None, amount: int, done: int, currency: str) -> View | None:
    """Of so many steps, samples or tokens, at what all that were done have cost."""
    return None if cost_nanos is None or not done else money(cost_nanos * amount // done, currency)


def end(wire: types_pb2.End) -> View:
    """How a job ended: contract section 10. `failed_tasks` is filled where one array is shown."""
    return {
        "cause": wire.cause,
        "rank": wire.rank if wire.HasField("rank") else None,
        **_status(wire),
        "message": wire.message,
        "remedy": wire.remedy or None,
        "failed_tasks": [
            {"index": each.index, "cause": each.cause, **_status(each), "message": each.message}
            for each in wire.failed_tasks
        ],
        "failed_total": wire.failed_total,
    }


def _status(wire: types_pb2.End | types_pb2.FailedTask) -> View:
    return {
        "exit_code": wire.exit_code if wire.HasField("exit_code") else None,
        "signal": wire.signal or None,
    }


def reason(wire: types_pb2.Reason) -> View | None:
    """The dominant reason; None when there is nothing to say."""
    if not wire.code and not wire.message:
        return None
    return {
        "code": wire.code,
        "message": wire.message,
        "remedy": wire.remedy,
        "facts": dict(sorted(wire.facts.items())),
    }


def resources(options: Sequence[types_pb2.ResourceRequest]) -> View:
    """What each node must give: the first alternative, and all of them when there are several."""
    shown = [_option(each) for each in options] or [_option(types_pb2.ResourceRequest())]
    return {**shown[0], "any_of": shown} if len(shown) > 1 else shown[0]


def _option(wire: types_pb2.ResourceRequest) -> View:
    gpus = wire.gpus
    view: View = {
        "gpus": count(gpus.count * (gpus.milli or MILLI)) if wire.HasField("gpus") else 0,
        "cpus": count(wire.cpu_milli),
        "memory_bytes": wire.memory_bytes,
    }
    if wire.HasField("gpus"):
        view["gpu_types"] = list(gpus.types)
        view["gpu_memory_bytes"] = gpus.memory_bytes
    return view


def attempt(wire: types_pb2.Attempt, currency: str) -> View:
    """One attempt with the nodes it holds or held, in rank order."""
    return {
        "id": wire.id,
        "number": wire.number,
        "state": wire.state,
        "nodes": [{**_member(each, currency), **_live(each)} for each in sorted(wire.members, key=_rank)],
        "started_at": instant(wire.started_at),
        "finished_at": instant(wire.finished_at),
        "elapsed_s": _elapsed_s(wire),
        "exit_code": wire.exit_code if wire.HasField("exit_code") else None,
        "end_cause": wire.end_cause or None,
        "message": wire.message,
        "time_limit_s": seconds(wire.time_limit_us) if wire.time_limit_us else None,
        "placed_because": wire.why,
        "wanted_time_limit_s": seconds(wire.wanted_time_limit_us) if wire.wanted_time_limit_us else None,
        "limit_waits_for": list(wire.limit_waits_for),
    }


def _elapsed_s(wire: types_pb2.Job | types_pb2.Attempt) -> int | float | None:
    """Seconds that were held and charged; None of what never began."""
    return seconds(wire.elapsed_us) if wire.HasField("elapsed_us") else None


def _rank(member: types_pb2.Member) -> int:
    return member.rank


def _member(wire: types_pb2.Member, currency: str) -> View:
    return {
        "node": wire.node,
        "rank": wire.rank,
        "devices": [share.index for share in wire.devices],
        "gpus": count(sum(share.milli for share in wire.devices)),
        "address": wire.address,
        "cpus": count(wire.cpu_milli),
        "memory_bytes": wire.memory_bytes,
        "rate_per_hour": money(wire.rate_nanos_per_hour, currency) if wire.price_id else None,
        "price_id": wire.price_id or None,
        "held_s": seconds(wire.held_us),
    }


def _live(wire: types_pb2.Member) -> View:
    """Since when a member runs, and what it does now: nothing of that where it does not run, or in lists."""
    return {
        "started_at": instant(wire.started_at),
        "gpu_memory_share_bytes": wire.gpu_memory_share_bytes or None,
        "sample": _attempt_sample(wire.sample) if wire.HasField("sample") else None,
        "gpu_samples": [_gpu_sample(gpu) for gpu in wire.gpus],
    }


def _array(wire: types_pb2.Job) -> View | None:
    if not wire.HasField("array"):
        return None
    return {
        "size": wire.array.size,
        "max_parallel": wire.array.max_parallel,
        "counts": dict(sorted(wire.array.counts.items())),
    }


def _lineage(wire: types_pb2.Job) -> View:
    if not wire.parent_id:
        return {}
    return {"array_job": wire.parent_id, "array_index": wire.array_index}


def plan(wire: jobs_pb2.PlanResponse) -> View:
    """Where it would go, what it would cost, what is left of the budgets, and when."""
    cash = wire.currency or DEFAULT_CURRENCY
    known = wire.rate_nanos_per_hour >= 0
    return {
        "starts_now": wire.starts_now,
        "nodes": [_member(each, cash) for each in sorted(wire.members, key=_rank)],
        "rate_per_hour": rate(exact(wire, "rate_nanos_per_hour"), cash),
        "expected_cost": rate(exact(wire, "expected_nanos"), cash) if known else None,
        "expected_basis": wire.expected_basis,
        "worst_case_cost": money(exact(wire, "worst_case_nanos"), cash) if known else None,
        "tasks": max(wire.tasks, 1),
        "expected_cost_per_task": rate(exact(wire, "task_expected_nanos"), cash)
        if known and wire.tasks
        else None,
        "worst_case_cost_per_task": money(exact(wire, "task_worst_case_nanos"), cash)
        if known and wire.tasks
        else None,
        "time_limit_s": seconds(wire.time_limit_us) if wire.time_limit_us else None,
        "budgets": [budget_after(each, cash) for each in wire.budgets],
        "reason": reason(wire.reason),
        "expected_start_at": instant(wire.expected_start_at),
        "placed_because": wire.why,
        "limits_not_held": list(wire.limits_not_held),
    }


def budget_after(wire: jobs_pb2.BudgetAfter, currency: str) -> View:
    """One budget and what would be left of it after the start; what is, where it does not start now."""
    return _budget(wire, currency, "available_after")


def _budget(wire: jobs_pb2.BudgetAfter, currency: str, left: str) -> View:
    return {
        "name": wire.budget,
        "enforcement": "hard" if wire.hard else "soft",
        "limit": money(exact(wire, "limit_nanos"), currency),
        "settled": money(exact(wire, "settled_nanos"), currency),
        "held": money(exact(wire, "held_nanos"), currency),
        left: money(exact(wire, "room_after_nanos"), currency),
        "renews_at": instant(wire.renews_at),
    }


def explain(wire: jobs_pb2.ExplainResponse) -> View:
    """Why a job is where it is, and what would change it; budgets as they are before it takes any."""
    cash = wire.job.currency or DEFAULT_CURRENCY
    return {
        "job": job(wire.job),
        "reason": reason(wire.reason),
        "nodes": [
            {"node": each.node, "fits": each.fits, "why_not": each.why_not or None} for each in wire.nodes
        ],
        "ahead": list(wire.ahead),
        "ahead_jobs": [{"id": each.id, "number": each.number, "name": each.name} for each in wire.ahead_jobs],
        "ahead_total": wire.ahead_total,
        "budgets": [_budget(each, cash, "available") for each in wire.budgets],
        "expected_start_at": instant(wire.expected_start_at),
        "suggestion": wire.suggestion or None,
        "suggestion_rate_per_hour": rate(exact(wire, "suggestion_rate_nanos_per_hour"), cash)
        if wire.suggestion
        else None,
        "placed_because": wire.placed_because or None,
    }


# ------------------------------------------------------------------ nodes


def node(wire: types_pb2.Node) -> View:
    """A node: what it has, what is free, what it costs, how it is."""
    facts = wire.facts
    cash = wire.currency or DEFAULT_CURRENCY
    free = {share.index: share.milli for share in wire.devices_free}
    return {
        "id": wire.id,
        "name": facts.name,
        "state": wire.state,
        "reason": wire.reason or None,
        "pool": facts.pool,
        "provider": facts.provider,
        "region": facts.region,
        "zone": facts.zone,
        "rack": facts.rack,
        "instance_type": facts.instance_type,
        "market": facts.market,
        "labels": dict(sorted(facts.labels.items())),
        "address": facts.address,
        "limits": list(facts.limits),
        "cpus": count(facts.cpu_milli),
        "cpus_free": count(wire.cpu_free_milli),
        "memory_bytes": facts.memory_bytes,
        "memory_free_bytes": wire.memory_free_bytes,
        "gpus": len(facts.devices),
        "gpus_free": count(sum(free.values())),
        "gpu_types": sorted({device.type for device in facts.devices}),
        "simulated": any(device.simulated for device in facts.devices),
        "devices": [
            {
                "index": device.index,
                "uuid": device.uuid,
                "type": device.type,
                "memory_bytes": device.memory_bytes,
                "simulated": device.simulated,
                "free": count(free.get(device.index, 0)),
            }
            for device in facts.devices
        ],
        "rate_per_hour": rate(wire.rate_nanos_per_hour, cash),
        "price_id": wire.price_id or None,
        "jobs": wire.jobs,
        "last_seen_at": instant(wire.last_seen_at),
        "agent_version": wire.agent_version,
        "sample": sample(wire.sample) if wire.HasField("sample") else None,
    }


def sample(wire: types_pb2.Sample) -> View:
    """One live reading; no money depends on it."""
    return {
        "at": instant(wire.at),
        "cpu_utilization_ratio": wire.cpu_utilization_ratio,
        "memory_used_bytes": wire.memory_used_bytes,
        "power_watts": wire.power_watts or None,
        "gpus": [_gpu_sample(gpu) for gpu in wire.gpus],
        "attempts": [_attempt_sample(each) for each in wire.attempts],
    }


def _attempt_sample(wire: types_pb2.AttemptSample) -> View:
    return {
        "attempt_id": wire.attempt_id,
        "rank": wire.rank,
        "cpu_utilization_ratio": wire.cpu_utilization_ratio,
        "memory_used_bytes": wire.memory_used_bytes,
        "processes": wire.processes,
        "gpu_memory_used_bytes": _known(wire, "gpu_memory_used_bytes"),
        "gpu_sm_ratio": _ratio(wire, "gpu_sm_ratio"),
        "gpu_energy_joules": _joules(wire.gpu_energy_millijoules, wire.gpu_energy_source),
        "gpu_energy_source": wire.gpu_energy_source or None,
        "progress": progress(wire.progress) if wire.HasField("progress") else None,
        "progress_problem": wire.progress_problem or None,
    }


def _gpu_sample(wire: types_pb2.GpuSample) -> View:
    """One device. What is not known is None, never 0."""
    idle = is_idle(_known(wire, "sm_ratio"), _known(wire, "utilization_ratio"))
    return {
        "index": wire.index,
        "utilization_ratio": _known(wire, "utilization_ratio"),
        "memory_used_bytes": _known(wire, "memory_used_bytes"),
        "power_watts": _known(wire, "power_watts"),
        "temperature_celsius": _known(wire, "temperature_celsius"),
        "sm_clock_mhz": _known(wire, "sm_clock_mhz"),
        "clocks_low_because": clock_reasons(wire.clock_reasons),
        "idle": idle,
        **{name: _ratio(wire, name) for name in _GPU_RATIOS},
        **{name: _known(wire, name) for name in ("ecc_corrected", "ecc_uncorrected", "remapped_rows", "xid")},
        "summary": _gpu_summary(wire.summary) if wire.HasField("summary") else None,
        "simulated": wire.simulated,
    }


_GPU_RATIOS = (
    "sm_ratio",
    "sm_occupancy_ratio",
    "tensor_ratio",
    "dram_ratio",
    "fp64_ratio",
    "fp32_ratio",
    "fp16_ratio",
)


def _gpu_summary(wire: types_pb2.GpuSummary) -> View:
    names = ("utilization_ratio", "memory_used_bytes", "power_watts", "temperature_celsius", "sm_clock_mhz")
    return {"window_s": seconds(wire.window_us), **{name: _stat(wire, name) for name in names}}


def _stat(wire: types_pb2.GpuSummary, name: str) -> View | None:
    if not wire.HasField(name):  # type: ignore[arg-type]
        return None
    figures = getattr(wire, name)
    return {each: _short(getattr(figures, each)) for each in ("mean", "p50", "p95", "max")}


def _known(wire: Any, name: str) -> Any:
    return getattr(wire, name) if wire.HasField(name) else None


def _ratio(wire: Any, name: str) -> float | None:
    value = _known(wire, name)
    return None if value is None else _short(value)


def _short(value: float) -> float:
    """What travelled as a 32 bit float has seven digits; the others are noise."""
    return float(f"{value:.7g}")


def _joules(millijoules: int, source: str) -> float | None:
    return millijoules / 1000 if source else None


def top(wire: nodes_pb2.TopResponse) -> View:
    """The live picture: nodes and live jobs."""
    return {
        "nodes": [node(each) for each in wire.nodes],
        "jobs": [job(each) for each in wire.jobs],
        "jobs_total": wire.jobs_total,
        "nodes_total": wire.nodes_total,
    }


def node_token(wire: nodes_pb2.TokenResponse, name: str) -> View:
    """A fresh enrolment secret."""
    return {"node": name, "token": wire.token, "expires_at": instant(wire.expires_at)}


def known_token(wire: nodes_pb2.NodeToken) -> View:
    """A secret that is good now, without the secret."""
    return {
        "id": wire.id,
        "node": wire.node,
        "state": wire.state,
        "issued_at": instant(wire.issued_at),
        "expires_at": instant(wire.expires_at),
    }


# ------------------------------------------------------------------ money and policies


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
        "currency": cash,
        **{name: instant(getattr(wire, name)) for name in ("period_start", "period_end")},
        **{name: list(getattr(wire, name)) for name in ("crossed_percent", "live_jobs")},
        "version": wire.version,
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
    if wire.others:
        found["others"] = wire.others
    if compared:
        nanos, before = exact(wire, "nanos"), exact(wire, "before_nanos")
        found["before"] = money(before, currency)
        found["change"] = money(nanos - before, currency)
        found["change_percent"] = wire.change_ppm / 10_000 if wire.HasField("change_ppm") else None
    return found


def price(wire: money_pb2.Price) -> View:
    """A price with its dates and source, and the machine it buys."""
    cash = wire.currency or DEFAULT_CURRENCY
    per_gpu = wire.rate_per_gpu_nanos_per_hour
    return {
        "provider": wire.provider,
        "region": wire.region,
        "pool": wire.pool,
        "instance_type": wire.instance_type,
        "market": wire.market,
        "rate_per_hour": rate(wire.rate_nanos_per_hour, cash),
        "rate_per_gpu_hour": money(per_gpu, cash) if wire.gpus and per_gpu >= 0 else None,
        "gpus": wire.gpus,
        "gpu_type": wire.gpu_type,
        "gpu_memory_bytes": wire.gpu_memory_bytes,
        "cpus": count(wire.cpu_milli),
        "memory_bytes": wire.memory_bytes,
        "valid_from": instant(wire.valid_from),
        "valid_until": instant(wire.valid_until),
        "source": wire.source,
        "price_id": wire.price_id,
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


# ------------------------------------------------------------------ events and the server


def event(wire: events_pb2.Event) -> View:
    """One event; `data` is its payload, as it was recorded."""
    return {
        "seq": wire.seq,
        "at": instant(wire.at),
        "actor": wire.actor,
        "kind": wire.kind,
        "subject": wire.subject,
        "names": dict(wire.names),
        "currency": wire.currency or None,
        "data": _payload(wire.json),
    }


def _payload(text: str) -> Any:
    if not text:
        return {}
    try:
        return json.loads(text)
    except ValueError:  # a server newer than this client: show it as it came
        return text


def server(wire: events_pb2.ServerResponse) -> View:
    """Who serves, since when, how it is doing, and who it takes the caller for."""
    return {
        "version": wire.version,
        "cluster_id": wire.cluster_id,
        "epoch": wire.epoch,
        "started_at": instant(wire.started_at),
        "ready": wire.ready,
        "pid": wire.pid,
        "state_dir": wire.state_dir,
        "pending": wire.pending,
        "running": wire.running,
        "nodes_up": wire.nodes_up,
        "nodes_silent": wire.nodes_silent,
        "last_seq": wire.last_seq,
        "user": wire.user,
        "role": wire.role,
        "counters": dict(sorted(wire.counters.items())),
    }


def findings(wires: Iterable[events_pb2.Finding]) -> list[View]:
    """What `doctor` found."""
    return [
        {"check": each.check, "ok": each.ok, "message": each.message, "remedy": each.remedy or None}
        for each in wires
    ]


# ------------------------------------------------------------------ rights and secrets


def grant(wire: access_pb2.RoleGrant) -> View:
    """One grant; `project` null is the whole site, `change` null in lists."""
    return {
        "user": wire.user,
        "role": wire.role,
        "project": wire.project or None,
        "change": wire.change or None,
    }


def secret(wire: access_pb2.Secret) -> View:
    """A secret without its value."""
    return {
        "name": wire.name,
        "project": wire.project or None,
        "set_at": instant(wire.set_at),
        "change": wire.change or None,
    }
