"""Jobs, attempts, plans and explanations, as they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bursar.codec.amounts import amount, exact, rate_now
from bursar.codec.view.readings import attempt_sample, gpu_sample, joules, progress
from bursar.codec.view.scalars import DEFAULT_CURRENCY, View, count, instant, money, rate, seconds
from bursar.resources import MICRO, MILLI, throughput_key
from bursar.steps.names import SCRIPT_FILE
from bursar.v1 import jobs_pb2, types_pb2


def job(wire: types_pb2.Job) -> View:
    """The job object of contract section 4."""
    spec = wire.spec
    cash = wire.currency or DEFAULT_CURRENCY
    return {
        "id": wire.id,
        "number": wire.number,
        "name": spec.name,
        "type": "service" if spec.HasField("service") else "interactive" if spec.interactive else "job",
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
        "max_nodes": spec.max_nodes or None,
        "launch": spec.launch or "per-node",
        "resources": resources(spec.options, spec.ordered),
        "throughput": {throughput_key(one.gpu_type, one.gpus): one.micro / MICRO for one in spec.throughput},
        "partition": wire.partition or None,
        "time_limit_s": seconds(spec.time_limit_us) if spec.time_limit_us else None,
        "deadline": instant(spec.deadline_at),
        "deadline_policy": (spec.deadline_policy or "promise") if spec.deadline_at else None,
        "promise": promise(wire.promise, cash) if wire.HasField("promise") else None,
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
        "rate_per_hour": rate(rate_now(wire), cash),
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
        "service": _service(spec.service) if spec.HasField("service") else None,
        "depends_on": [{"job": each.job, "when": each.when} for each in spec.depends_on],
        "lineage": _lineage(wire),
        "command": list(spec.command),
        "script_file": spec.env.get(SCRIPT_FILE) or None,
        "redacted": wire.redacted,
        "left_out": list(wire.left_out),
        "secrets": list(spec.secrets),
        "secret_files": list(spec.secret_files),
        "workdir": spec.workdir,
        "output_file": spec.output_file,
        "error_file": spec.error_file,
        "image": spec.image,
        "mounts": list(spec.mounts),
        "comment": spec.comment,
        "simulated": wire.simulated,
        "max_rss_bytes": wire.max_rss_bytes or None,  # told at the end: until then nothing was measured
        "cpu_s": seconds(wire.cpu_us) if wire.cpu_us else None,
        "gpu_energy_joules": joules(wire.gpu_energy_millijoules, wire.gpu_energy_source),
        "gpu_energy_source": wire.gpu_energy_source or None,
        "progress": job_progress(wire, cash),
        "progress_problem": wire.progress_problem or None,
        "idleness": idleness(wire.idleness) if wire.HasField("idleness") else None,
    }


def idleness(wire: types_pb2.Idleness) -> View:
    """The idle policies that a job is under, and how far they are with it."""
    return {
        "rules": [
            {
                "policy": rule.policy or None,
                "ground": rule.ground,
                "below_percent": rule.below_percent or None,
                "time_window_s": seconds(rule.window_us),
                "warn_after_s": seconds(rule.warn_after_us),
                "action": rule.action,
                "idle_s": seconds(rule.idle_us),
                "told_at": instant(rule.told_at),
            }
            for rule in wire.rules
        ],
        "snoozed_until": instant(wire.snoozed_until),
        "snooze_s": seconds(wire.snooze_us),
        "snoozes_left": wire.snoozes_left if wire.HasField("snoozes_left") else None,
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


def resources(options: Sequence[types_pb2.ResourceRequest], ordered: bool = False) -> View:
    """What each node must give: the first alternative, and all of them when there are several, with whether
    they are tried in their order.
    """
    shown = [_option(each) for each in options] or [_option(types_pb2.ResourceRequest())]
    return {**shown[0], "any_of": shown, "ordered": ordered} if len(shown) > 1 else shown[0]


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
        "leased_s": seconds(wire.leased_us) if wire.leased_us else None,
        "steps_total": wire.steps.total,
        "steps_failed": wire.steps.failed,
        "steps_cut_off": wire.steps.cut_off,
        "steps": [_step(wire, each) for each in wire.steps.told],
        "image_digest": wire.image_digest or None,
        "pull_s": seconds(wire.pull_us) if wire.pull_us else None,
    }


def _step(attempt: types_pb2.Attempt, wire: types_pb2.Step) -> View:
    """One that a member started. Its start is of that member's, and the time between as its node measured."""
    return {
        "number": wire.number,
        "rank": wire.member,
        "name": wire.name or None,
        "state": wire.state,
        "nodes": wire.nodes,
        "tasks": wire.tasks,
        "exit_code": wire.exit_code if wire.HasField("exit_code") else None,
        "signal": wire.signal or None,
        "failed_task": wire.rank if wire.HasField("rank") else None,
        "started_at": instant(step_started_at(attempt, wire)),
        "elapsed_s": seconds(wire.elapsed_us),
    }


def step_started_at(attempt: types_pb2.Attempt, wire: types_pb2.Step) -> int:
    """When it began, on the daemon's clock; 0: not known."""
    began = next((each.started_at for each in attempt.members if each.rank == wire.member), 0)
    return began + wire.after_us if began else 0


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
        "device_use": device_use(wire.device_use) if wire.HasField("device_use") else None,
    }


def device_use(wire: types_pb2.DeviceUse) -> View:
    """What a member made of its devices: seconds of devices, and means while that was heard."""

    def share(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    return {
        "heard_s": seconds(wire.heard_us),
        "empty_s": seconds(wire.empty_us),
        "idle_s": seconds(wire.idle_us),
        "launch_bound_s": seconds(wire.launch_us),
        "memory_bound_s": seconds(wire.memory_us),
        "partial_s": seconds(wire.partial_us),
        "busy_s": seconds(wire.busy_us),
        "throttled_s": seconds(wire.throttled_us),
        "sm_ratio": share(wire.sm_us, wire.heard_us),
        "tensor_ratio": share(wire.tensor_us, wire.units_us),
        "dram_ratio": share(wire.dram_us, wire.units_us),
        "busy_clock_mhz": share(wire.clock_mhz_us, wire.busy_us),
        "devices": wire.devices,
        "unused_devices": wire.unused_devices,
        "memory_bytes": wire.memory_bytes,
        "ecc_uncorrected": wire.ecc_uncorrected,
        "remapped_rows": wire.remapped_rows,
        "xid": wire.xid or None,
    }


def _live(wire: types_pb2.Member) -> View:
    """Since when a member runs, and what it does now: nothing of that where it does not run, or in lists."""
    return {
        "started_at": instant(wire.started_at),
        "gpu_memory_share_bytes": wire.gpu_memory_share_bytes or None,
        "gpu_limited": wire.gpu_limited if any(each.milli < 1000 for each in wire.devices) else None,
        "sample": attempt_sample(wire.sample) if wire.HasField("sample") else None,
        "gpu_samples": [gpu_sample(gpu) for gpu in wire.gpus],
    }


def _array(wire: types_pb2.Job) -> View | None:
    if not wire.HasField("array"):
        return None
    return {
        "size": wire.array.size,
        "max_parallel": wire.array.max_parallel,
        "counts": dict(sorted(wire.array.counts.items())),
    }


def _service(wire: types_pb2.ServiceSpec) -> View:
    """What `service show` has more of. `array` beside it counts its places."""
    return {
        "revision": wire.revision,
        "replicas_min": wire.replicas_min,
        "replicas_max": wire.replicas_max,
    }


def _lineage(wire: types_pb2.Job) -> View:
    if not wire.parent_id:
        return {}
    return {"array_job": wire.parent_id, "array_index": wire.array_index}


def promise(wire: types_pb2.DeadlinePromise, currency: str) -> View:
    """What was promised of a deadline, and what became of it."""
    cost = wire.cost_at_most
    return {
        "by": instant(wire.by),
        "given_at": instant(wire.given_at),
        "starts_by": instant(wire.starts_by),
        "cost_at_most": money(int(cost.nanos or 0), currency) if wire.HasField("cost_at_most") else None,
        "state": wire.state,
        "broken_at": instant(wire.broken_at),
        "cause": wire.cause or None,
        "message": wire.message,
    }


def plan(wire: jobs_pb2.PlanResponse) -> View:
    """Where it would go, what it would cost, what is left of the budgets, and when."""
    cash = wire.currency or DEFAULT_CURRENCY
    known = wire.rate_nanos_per_hour >= 0
    return {
        "starts_now": wire.starts_now,
        "promise": promise(wire.promise, cash) if wire.HasField("promise") else None,
        "nodes": [_member(each, cash) for each in sorted(wire.members, key=_rank)],
        "rate_per_hour": rate(exact(wire, "rate_nanos_per_hour"), cash),
        "expected_cost": rate(exact(wire, "expected_nanos"), cash) if known else None,
        "expected_basis": wire.expected_basis,
        "expected_cost_p90": money(exact(wire, "expected_p90_nanos"), cash)
        if known and wire.expected_runs
        else None,
        "expected_runs": wire.expected_runs or None,
        "worst_case_cost": rate(exact(wire, "worst_case_nanos"), cash) if known else None,
        "tasks": max(wire.tasks, 1),
        "expected_cost_per_task": rate(exact(wire, "task_expected_nanos"), cash)
        if known and wire.tasks
        else None,
        "worst_case_cost_per_task": money(exact(wire, "task_worst_case_nanos"), cash)
        if known and wire.tasks
        else None,
        "time_limit_s": seconds(wire.time_limit_us) if wire.time_limit_us else None,
        "worst_case_nodes": wire.worst_case_nodes or None,
        "worst_case_gpus": wire.worst_case_gpus if wire.worst_case_nodes else None,
        "worst_case_s": seconds(wire.worst_case_us) if wire.worst_case_us else None,
        "tasks_paid": wire.tasks_paid if wire.tasks else None,
        "hold_at_start": money(exact(wire, "hold_nanos"), cash) if known and wire.lease_us else None,
        "lease_s": seconds(wire.lease_us) if wire.lease_us else None,
        "budgets": [
            budget_after(each, cash) | {"tasks_paid": each.tasks_paid if wire.tasks and each.hard else None}
            for each in wire.budgets
        ],
        "reason": reason(wire.reason),
        "expected_start_at": instant(wire.expected_start_at),
        "ahead_counted": wire.ahead_counted,
        "ahead_total": wire.ahead_total,
        "placed_because": wire.why,
        "limits_not_held": list(wire.limits_not_held),
        "service": _service_plan(wire.service, cash) if wire.HasField("service") else None,
        "idleness": idleness(wire.idleness) if wire.HasField("idleness") else None,
    }


def _service_plan(wire: jobs_pb2.ServicePlan, cash: str) -> View:
    """What a service costs by the hour, of as few and as many replicas as it may have; and by what it did
    before, for tokens and requests, and for a cold start.
    """

    def cost(of: Any, name: str) -> View | None:
        return money(amount(of, name), cash) if of.HasField(name) else None

    return {
        "replicas_min": wire.replicas_min,
        "replicas_max": wire.replicas_max,
        "rate_min_per_hour": cost(wire, "rate_min"),
        "rate_max_per_hour": cost(wire, "rate_max"),
        "measured": {
            "job": wire.measured_job,
            "minutes": wire.measured_minutes,
            "load_percent": wire.measured_load_percent,
            "other_resources": wire.measured_elsewhere,
            "tokens_per_hour": wire.tokens_per_hour or None,
            "requests_per_hour": wire.requests_per_hour or None,
        }
        if wire.measured_job
        else None,
        "loads": [
            {
                "load_percent": one.load_percent,
                "per_million_tokens": cost(one, "per_million_tokens"),
                "per_thousand_requests": cost(one, "per_thousand_requests"),
            }
            for one in wire.loads
        ],
        "cold_start_s": seconds(wire.cold_us) if wire.cold_us else None,
        "cold_start_cost": cost(wire, "cold_cost"),
    }


def budget_after(wire: jobs_pb2.BudgetAfter, currency: str) -> View:
    """One budget and what would be left of it when all of the job is placed that its budgets pay for."""
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
        "stages": list(wire.stages),
    }


def _term(wire: jobs_pb2.ScoreTerm) -> View:
    return {
        "factor": wire.factor,
        "weight": wire.weight_milli / MILLI,
        "value": wire.factor_micro / MICRO,
        "points": wire.points_micro / MICRO,
    }


def profile(wire: jobs_pb2.ProfileResponse) -> View:
    """What the members of an attempt did: `rows` has their points, by member and time. Null: not heard."""
    return {
        "job": wire.job_id,
        "attempt": wire.attempt or None,
        "since": instant(wire.since),
        "until": instant(wire.until),
        "step_s": seconds(wire.step_us),
        "members_total": wire.members_total,
        "members": [
            {"rank": each.rank, "node": each.node, "gpus": each.gpus, "shared": each.shared}
            for each in wire.members
        ],
        "rows": [
            {"rank": each.rank, "node": each.node, "at": instant(point.at), **_point(point)}
            for each in wire.members
            for point in each.points
        ],
    }


_POINT_DIGITS = {
    "cpu_cores": 3,
    "memory_used_bytes": None,
    "gpu_utilization_ratio": 4,
    "sm_ratio": 4,
    "tensor_ratio": 4,
    "gpu_memory_used_bytes": None,
    "gpu_power_watts": 1,
}


def _point(wire: Any) -> View:
    return {
        name: round(getattr(wire, name), digits) if wire.HasField(name) else None
        for name, digits in _POINT_DIGITS.items()
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
        "ahead_jobs": [
            {"id": each.id, "number": each.number, "name": each.name, "why": each.why or None}
            for each in wire.ahead_jobs
        ],
        "ahead_total": wire.ahead_total,
        "terms": [_term(each) for each in wire.terms],
        "overdue": wire.overdue,
        "budgets": [_budget(each, cash, "available") for each in wire.budgets],
        "expected_start_at": instant(wire.expected_start_at),
        "ahead_counted": wire.ahead_counted,
        "suggestion": wire.suggestion or None,
        "suggestion_rate_per_hour": rate(exact(wire, "suggestion_rate_nanos_per_hour"), cash)
        if wire.suggestion
        else None,
        "placed_because": wire.placed_because or None,
    }
