"""Results of the clients from messages of the wire, one function per message.

Input   messages of `bursar.v1`. Output: frozen structs of `bursar.results`. Pure.
Why     the one place where nanos become `Money`, microseconds `datetime`, and -1 or 0 "not known": both
        clients show the same, and a field of the wire that no result carries is noticed by a test.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from bursar import errors, results
from bursar.codec import view
from bursar.codec.amounts import amount, exact, rate_now
from bursar.codec.parts import calibration, idleness, promise, step
from bursar.model import EndCause, JobState
from bursar.money import Money, parse_amount
from bursar.resources import MICRO, MILLI, throughput_key
from bursar.v1 import access_pb2, events_pb2, jobs_pb2, money_pb2, nodes_pb2, types_pb2

DEFAULT_CURRENCY = "USD"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_Kind = TypeVar("_Kind", bound=StrEnum)


def instant(at: int) -> datetime | None:
    """0 is "not yet" or "never"."""
    return _EPOCH + timedelta(microseconds=at) if at else None


def span(us: int) -> timedelta:
    """A duration."""
    return timedelta(microseconds=us)


def _limit(us: int) -> timedelta | None:
    return span(us) if us else None


def _rate(nanos: int, currency: str) -> Money | None:
    """Negative is "not known"."""
    return None if nanos < 0 else Money(nanos, currency)


def _count(milli: int) -> float:
    return milli / MILLI


def _known(wire: Any, name: str) -> Any:
    return getattr(wire, name) if wire.HasField(name) else None


def _word(kind: type[_Kind], text: str) -> _Kind:
    """A word of a closed list. Raises `NotBuilt` for one that only a newer server knows."""
    try:
        return kind(text)
    except ValueError:
        raise errors.NotBuilt(
            f"the server says {text!r}, which bursar of this version does not know; install a newer one"
        ) from None


# ------------------------------------------------------------------ jobs


def job(wire: types_pb2.Job) -> results.Job:
    """A job."""
    spec, cash = wire.spec, wire.currency or DEFAULT_CURRENCY
    spent = max(exact(wire, "accrued_nanos"), exact(wire, "settled_nanos"))
    return results.Job(
        id=wire.id,
        number=wire.number,
        name=spec.name,
        user=wire.user,
        state=_word(JobState, wire.state or "PENDING"),
        reason=why(wire.reason),
        project=spec.project,
        experiment=spec.experiment,
        model=spec.model,
        model_version=spec.model_version,
        labels=dict(sorted(spec.labels.items())),
        priority=spec.priority,
        preemptible=spec.preemptible,
        nodes=spec.nodes,
        max_nodes=spec.max_nodes or None,
        throughput={throughput_key(one.gpu_type, one.gpus): one.micro / MICRO for one in spec.throughput},
        partition=wire.partition,
        resources=tuple(_resources(option) for option in spec.options),
        time_limit=_limit(spec.time_limit_us),
        begin_after=instant(spec.begin_after),
        deadline=instant(spec.deadline_at),
        promise=promise(wire, cash, instant),
        submitted_at=instant(wire.submitted_at),
        started_at=instant(wire.started_at),
        finished_at=instant(wire.finished_at),
        elapsed=span(wire.elapsed_us) if wire.HasField("elapsed_us") else None,
        exit_code=_known(wire, "exit_code"),
        end=_end(wire.end) if wire.HasField("end") else None,
        attempts=tuple(attempt(each, cash) for each in wire.attempts),
        cost=None if wire.cost_unknown and not spent else Money(spent, cash),
        cost_settled=Money(exact(wire, "settled_nanos"), cash),
        cost_held=Money(exact(wire, "held_nanos"), cash),
        cost_expected=_rate(exact(wire, "estimate_expected_nanos"), cash),
        cost_at_most=_rate(exact(wire, "estimate_max_nanos"), cash),
        cost_unknown=wire.cost_unknown,
        max_cost=Money(exact(spec, "max_cost_nanos"), spec.currency) if spec.max_cost_nanos else None,
        rate_per_hour=_rate(rate_now(wire), cash),
        budgets=tuple(
            results.JobBudget(
                name=each.budget,
                held=Money(exact(each, "held_nanos"), cash),
                settled=Money(exact(each, "settled_nanos"), cash),
            )
            for each in wire.budgets
        ),
        array=_array(wire.array) if wire.HasField("array") else None,
        array_job=wire.parent_id,
        array_index=wire.array_index if wire.parent_id else None,
        command=tuple(spec.command),
        workdir=spec.workdir,
        output_file=spec.output_file,
        error_file=spec.error_file,
        image=spec.image,
        mounts=tuple(spec.mounts),
        comment=spec.comment,
        cpu_time=span(wire.cpu_us),
        max_rss_bytes=wire.max_rss_bytes,
        gpu_energy_joules=wire.gpu_energy_millijoules / 1000 if wire.gpu_energy_source else None,
        progress=_progress(wire, cash),
        progress_problem=wire.progress_problem,
        idleness=idleness(wire, instant),
        simulated=wire.simulated,
        redacted=wire.redacted,
        left_out=tuple(wire.left_out),
    )


def _progress(wire: types_pb2.Job, currency: str) -> results.Progress | None:
    told = view.job_progress(wire, currency)
    if told is None:
        return None
    fields: dict[str, Any] = {}
    for name, value in told.items():
        if name.startswith("cost_"):
            fields[name] = _money_of(value)
        elif name.endswith("_s"):
            fields[name.removesuffix("_s")] = None if value is None else timedelta(seconds=value)
        else:
            fields[name] = value
    return results.Progress(**fields)


def _money_of(shown: view.View | None) -> Money | None:
    return None if shown is None else Money(parse_amount(shown["amount"]), shown["currency"])


def why(wire: types_pb2.Reason) -> results.Why | None:
    """The dominant reason; None when there is nothing to say."""
    if not wire.code and not wire.message:
        return None
    return results.Why(code=wire.code, message=wire.message, remedy=wire.remedy, facts=dict(wire.facts))


def _resources(wire: types_pb2.ResourceRequest) -> results.Resources:
    gpus = wire.gpus
    return results.Resources(
        cpus=_count(wire.cpu_milli),
        memory_bytes=wire.memory_bytes,
        gpus=results.Gpus(
            count=_count(gpus.count * (gpus.milli or MILLI)),
            types=tuple(gpus.types),
            memory_bytes=gpus.memory_bytes,
        )
        if wire.HasField("gpus")
        else None,
    )


def _end(wire: types_pb2.End) -> results.End:
    return results.End(
        cause=wire.cause,
        rank=_known(wire, "rank"),
        exit_code=_known(wire, "exit_code"),
        signal=wire.signal or None,
        message=wire.message,
        remedy=wire.remedy,
        failed_tasks=tuple(
            results.FailedTask(
                index=task.index,
                cause=task.cause,
                exit_code=_known(task, "exit_code"),
                signal=task.signal or None,
                message=task.message,
            )
            for task in wire.failed_tasks
        ),
        failed_total=wire.failed_total,
    )


def _array(wire: types_pb2.ArrayStatus) -> results.ArrayProgress:
    counts = {_word(JobState, state): count for state, count in sorted(wire.counts.items())}
    return results.ArrayProgress(size=wire.size, max_parallel=wire.max_parallel, counts=counts)


def attempt(wire: types_pb2.Attempt, currency: str) -> results.Attempt:
    """One attempt with the places it holds or held."""
    return results.Attempt(
        id=wire.id,
        number=wire.number,
        state=_word(results.AttemptState, wire.state),
        places=_places(wire.members, currency),
        started_at=instant(wire.started_at),
        finished_at=instant(wire.finished_at),
        elapsed=span(wire.elapsed_us) if wire.HasField("elapsed_us") else None,
        exit_code=_known(wire, "exit_code"),
        end_cause=_word(EndCause, wire.end_cause) if wire.end_cause else None,
        message=wire.message,
        time_limit=_limit(wire.time_limit_us),
        placed_because=wire.why,
        wanted_time_limit=_limit(wire.wanted_time_limit_us),
        limit_waits_for=tuple(wire.limit_waits_for),
        leased=_limit(wire.leased_us),
        steps=tuple(
            step(wire, each, _word(results.StepState, each.state), instant) for each in wire.steps.told
        ),
        steps_total=wire.steps.total,
        steps_failed=wire.steps.failed,
        steps_cut_off=wire.steps.cut_off,
        image_digest=wire.image_digest,
        pull_time=_limit(wire.pull_us),
    )


def _places(members: Sequence[types_pb2.Member], currency: str) -> tuple[results.Place, ...]:
    return tuple(_place(each, currency) for each in sorted(members, key=lambda member: member.rank))


def _place(wire: types_pb2.Member, currency: str) -> results.Place:
    return results.Place(
        rank=wire.rank,
        node=wire.node,
        address=wire.address,
        devices=tuple(share.index for share in wire.devices),
        gpus=_count(sum(share.milli for share in wire.devices)),
        cpus=_count(wire.cpu_milli),
        memory_bytes=wire.memory_bytes,
        rate_per_hour=Money(wire.rate_nanos_per_hour, currency) if wire.price_id else None,
        price_id=wire.price_id,
        held=span(wire.held_us),
        started_at=instant(wire.started_at),
        gpu_limited=wire.gpu_limited,
    )


def submitted(wire: jobs_pb2.SubmitResponse) -> results.Submitted:
    """What became of one of many."""
    error = None
    if wire.error:
        error = errors.by_reason(wire.error)(wire.message, dict(wire.facts))
    return results.Submitted(id=wire.job.id, number=wire.job.number, existed=wire.existed, error=error)


def plan(wire: jobs_pb2.PlanResponse) -> results.Plan:
    """What a submit would do now."""
    cash = wire.currency or DEFAULT_CURRENCY
    priced = wire.rate_nanos_per_hour >= 0
    return results.Plan(
        starts_now=wire.starts_now,
        promise=promise(wire, cash, instant),
        idleness=idleness(wire, instant),
        places=_places(wire.members, cash),
        rate_per_hour=_rate(exact(wire, "rate_nanos_per_hour"), cash),
        cost_expected=_rate(exact(wire, "expected_nanos"), cash) if priced else None,
        expected_basis=wire.expected_basis,
        cost_at_most=_rate(exact(wire, "worst_case_nanos"), cash) if priced else None,
        task_cost_at_most=_rate(exact(wire, "task_worst_case_nanos"), cash)
        if priced and wire.tasks
        else None,
        tasks=max(wire.tasks, 1),
        time_limit=_limit(wire.time_limit_us),
        worst_case_time=_limit(wire.worst_case_us),
        cost_expected_p90=_rate(exact(wire, "expected_p90_nanos"), cash)
        if priced and wire.expected_runs
        else None,
        expected_runs=wire.expected_runs or None,
        hold_at_start=_rate(exact(wire, "hold_nanos"), cash) if priced and wire.lease_us else None,
        lease=_limit(wire.lease_us),
        tasks_paid=wire.tasks_paid if wire.tasks else None,
        budgets=tuple(_budget_after(each, cash, wire.tasks) for each in wire.budgets),
        reason=why(wire.reason),
        expected_start_at=instant(wire.expected_start_at),
        ahead_counted=wire.ahead_counted,
        ahead_total=wire.ahead_total,
        placed_because=wire.why,
        limits_not_held=tuple(wire.limits_not_held),
        worst_case_nodes=wire.worst_case_nodes or None,
    )


def _budget_after(wire: jobs_pb2.BudgetAfter, currency: str, tasks: int = 0) -> results.BudgetAfter:
    return results.BudgetAfter(
        name=wire.budget,
        enforcement=results.Enforcement.HARD if wire.hard else results.Enforcement.SOFT,
        limit=Money(exact(wire, "limit_nanos"), currency),
        settled=Money(exact(wire, "settled_nanos"), currency),
        held=Money(exact(wire, "held_nanos"), currency),
        available_after=Money(exact(wire, "room_after_nanos"), currency),
        renews_at=instant(wire.renews_at),
        stages=tuple(wire.stages),
        tasks_paid=wire.tasks_paid if tasks and wire.hard else None,
    )


def explanation(wire: jobs_pb2.ExplainResponse) -> results.Explanation:
    """Why a job is where it is."""
    cash = wire.job.currency or DEFAULT_CURRENCY
    return results.Explanation(
        job=job(wire.job),
        reason=why(wire.reason),
        nodes=tuple(
            results.NodeVerdict(node=each.node, fits=each.fits, why_not=each.why_not) for each in wire.nodes
        ),
        ahead=tuple(wire.ahead),
        ahead_jobs=tuple(
            results.NamedJob(id=each.id, number=each.number, name=each.name, why=each.why)
            for each in wire.ahead_jobs
        ),
        terms=tuple(
            results.ScoreTerm(
                factor=each.factor,
                weight=each.weight_milli / MILLI,
                value=each.factor_micro / MICRO,
                points=each.points_micro / MICRO,
            )
            for each in wire.terms
        ),
        overdue=wire.overdue,
        ahead_total=wire.ahead_total,
        budgets=tuple(_budget_after(each, cash) for each in wire.budgets),
        expected_start_at=instant(wire.expected_start_at),
        ahead_counted=wire.ahead_counted,
        suggestion=wire.suggestion,
        suggestion_rate_per_hour=_rate(exact(wire, "suggestion_rate_nanos_per_hour"), cash)
        if wire.suggestion
        else None,
        placed_because=wire.placed_because,
    )


def log_chunk(wire: jobs_pb2.LogChunk) -> results.LogChunk:
    """A piece of a log."""
    return results.LogChunk(data=wire.data, offset=wire.offset, dropped_bytes=wire.dropped_bytes)


# ------------------------------------------------------------------ nodes


def node(wire: types_pb2.Node) -> results.Node:
    """A node."""
    facts = wire.facts
    free = {share.index: share.milli for share in wire.devices_free}
    return results.Node(
        id=wire.id,
        name=facts.name,
        state=_word(results.NodeState, wire.state),
        reason=wire.reason,
        pool=facts.pool,
        provider=facts.provider,
        region=facts.region,
        zone=facts.zone,
        rack=facts.rack,
        instance_type=facts.instance_type,
        market=facts.market,
        labels=dict(sorted(facts.labels.items())),
        address=facts.address,
        limits=tuple(facts.limits),
        cpus=_count(facts.cpu_milli),
        cpus_free=_count(wire.cpu_free_milli),
        memory_bytes=facts.memory_bytes,
        memory_free_bytes=wire.memory_free_bytes,
        devices=tuple(
            results.Device(
                index=device.index,
                uuid=device.uuid,
                type=device.type,
                memory_bytes=device.memory_bytes,
                simulated=device.simulated,
                free=_count(free.get(device.index, 0)),
            )
            for device in facts.devices
        ),
        rate_per_hour=_rate(wire.rate_nanos_per_hour, wire.currency or DEFAULT_CURRENCY),
        price_id=wire.price_id,
        jobs=wire.jobs,
        last_seen_at=instant(wire.last_seen_at),
        agent_version=wire.agent_version,
        calibration=calibration(wire.calibration, instant) if wire.HasField("calibration") else None,
        reading=_reading(wire.sample) if wire.HasField("sample") else None,
    )


def _reading(wire: types_pb2.Sample) -> results.Reading:
    return results.Reading(
        at=instant(wire.at),
        cpu_utilization_ratio=wire.cpu_utilization_ratio,
        memory_used_bytes=wire.memory_used_bytes,
        power_watts=wire.power_watts or None,
        gpus=tuple(_gpu_reading(gpu) for gpu in wire.gpus),
    )


def _gpu_reading(wire: types_pb2.GpuSample) -> results.GpuReading:
    ratio = _known(wire, "sm_ratio")
    return results.GpuReading(
        index=wire.index,
        utilization_ratio=_known(wire, "utilization_ratio"),
        sm_ratio=None if ratio is None else float(f"{ratio:.7g}"),  # it travelled with seven digits
        memory_used_bytes=_known(wire, "memory_used_bytes"),
        power_watts=_known(wire, "power_watts"),
        temperature_celsius=_known(wire, "temperature_celsius"),
        simulated=wire.simulated,
    )


def top(wire: nodes_pb2.TopResponse) -> results.Top:
    """The live picture."""
    return results.Top(
        nodes=tuple(node(each) for each in wire.nodes),
        jobs=tuple(job(each) for each in wire.jobs),
        nodes_total=wire.nodes_total,
        jobs_total=wire.jobs_total,
    )


def reservation(wire: nodes_pb2.Reservation) -> results.Reservation:
    """A reservation of nodes."""
    return results.Reservation(
        name=wire.name,
        state=wire.state,
        nodes=tuple(wire.nodes),
        starts_at=instant(wire.starts_at),
        ends_at=instant(wire.ends_at),
        projects=tuple(wire.projects),
        users=tuple(wire.users),
        maintenance=wire.maintenance,
        running=wire.running,
        reason=wire.reason,
        version=wire.version,
        own=wire.own,
        others=wire.others,
        others_until=instant(wire.others_until),
    )


def machine(wire: nodes_pb2.Machine) -> results.Machine:
    """A rented machine."""
    return results.Machine(
        id=wire.id,
        name=wire.name,
        pool=wire.pool,
        provider=wire.provider,
        provider_id=wire.provider_id,
        region=wire.region,
        zone=wire.zone,
        instance_type=wire.instance_type,
        market=wire.market,
        state=wire.state,
        job=wire.job,
        attempt=wire.attempt,
        why=wire.why,
        reason=wire.reason,
        launched_at=instant(wire.intended_at),
        billed_from=instant(wire.billed_from),
        billed_until=instant(wire.billed_until),
        ends_at=instant(wire.ends_at),
        rate_per_hour=Money(wire.rate_nanos_per_hour, wire.currency or DEFAULT_CURRENCY),
        cost=Money(exact(wire, "cost_nanos"), wire.currency or DEFAULT_CURRENCY),
    )


def cloud_check(wire: nodes_pb2.CloudCheck) -> results.CloudCheck:
    """One thing that must be right before machines can be rented."""
    return results.CloudCheck(name=wire.name, good=wire.good, says=wire.says, remedy=wire.remedy)


def new_token(wire: nodes_pb2.TokenResponse) -> results.NewToken:
    """A fresh secret of a node."""
    return results.NewToken(token=wire.token, expires_at=instant(wire.expires_at))


def node_token(wire: nodes_pb2.NodeToken) -> results.NodeToken:
    """A secret that is good now."""
    return results.NodeToken(
        id=wire.id,
        node=wire.node,
        state=wire.state,
        issued_at=instant(wire.issued_at),
        expires_at=instant(wire.expires_at),
    )


def removed_node(wire: nodes_pb2.RemoveNodeResponse) -> results.RemovedNode:
    """A node that is forgotten."""
    return results.RemovedNode(id=wire.id, name=wire.name)


# ------------------------------------------------------------------ money and policies


def budget(wire: money_pb2.Budget) -> results.Budget:
    """A budget in its current period."""
    cash = wire.currency or DEFAULT_CURRENCY
    limit, settled, held = (exact(wire, f"{name}_nanos") for name in ("limit", "settled", "held"))
    return results.Budget(
        id=wire.id,
        name=wire.name,
        scope=wire.scope,
        period=wire.period,
        enforcement=_word(results.Enforcement, wire.enforcement),
        hold=wire.hold,
        limit=Money(limit, cash),
        settled=Money(settled, cash),
        held=Money(held, cash),
        available=Money(limit - settled - held, cash),
        base_limit=Money(amount(wire, "base_limit"), cash),
        granted=Money(amount(wire, "granted"), cash),
        transferred=Money(amount(wire, "transferred"), cash),
        carried_over=Money(amount(wire, "carried_over"), cash),
        carry_over=wire.carry_over,
        postings=tuple(
            results.BudgetPosting(
                kind=one.kind,
                amount=Money(amount(one, "amount"), cash),
                at=instant(one.at),
                by=one.by,
                reason=one.reason,
                other=one.other,
                other_since=instant(one.other_period),
            )
            for one in wire.postings
        ),
        period_start=instant(wire.period_start),
        period_end=instant(wire.period_end),
        crossed_percent=tuple(wire.crossed_percent),
        crossed=tuple(
            results.BudgetThreshold(on=one.on, at_percent=one.at_ppm / 10_000) for one in wire.crossed
        ),
        live_jobs=tuple(wire.live_jobs),
        version=wire.version,
        stages=tuple(
            results.BudgetStage(
                action=one.action,
                on=one.on,
                at_percent=one.at_ppm / 10_000,
                since=one.since,
                remedy=one.remedy,
            )
            for one in wire.stages
        ),
        approval=_approval(wire.approval, cash) if wire.HasField("approval") else None,
        forecast=_forecast(wire.forecast, cash) if wire.HasField("forecast") else None,
    )


def _forecast(wire: money_pb2.BudgetForecast, currency: str) -> results.BudgetForecast:
    def three(amounts: Iterable[int]) -> results.Quantiles:
        return results.Quantiles(*(Money(nanos, currency) for nanos in amounts))

    return results.BudgetForecast(
        at=instant(wire.at),
        ends_at=instant(wire.ends_at),
        learned_days=wire.learned_days,
        burn_rate=Money(amount(wire, "burn_rate"), currency),
        run_rate=Money(amount(wire, "run_rate"), currency),
        running=Money(amount(wire, "running"), currency),
        queued=Money(amount(wire, "queued"), currency),
        end=three(amount(wire, f"end_{name}") for name in ("p10", "p50", "p90")),
        exhausted_p10_at=instant(wire.exhausted_p10_at),
        exhausted_p50_at=instant(wire.exhausted_p50_at),
        exhausted_p90_at=instant(wire.exhausted_p90_at),
        unpriced_jobs=wire.unpriced_jobs,
    )


def _approval(wire: money_pb2.BudgetApproval, currency: str) -> results.BudgetApproval:
    return results.BudgetApproval(
        at=instant(wire.at),
        by=wire.by,
        reason=wire.reason,
        until=instant(wire.until),
        ceiling=Money(amount(wire, "ceiling"), currency) if wire.HasField("ceiling") else None,
    )


def cost(wire: money_pb2.CostResponse, by: Sequence[str]) -> results.Cost:
    """Cost by dimensions."""
    cash, compared = wire.currency or DEFAULT_CURRENCY, bool(wire.before_until)
    return results.Cost(
        rows=tuple(_cost_row(row, by, cash, compared) for row in wire.rows),
        total=_cost_row(wire.total, (), cash, compared),
        since=instant(wire.since),
        until=instant(wire.until),
        period=wire.period,
        timezone=wire.timezone or "UTC",
        before_since=instant(wire.before_since),
        before_until=instant(wire.before_until),
        before_period=wire.before_period,
    )


def _cost_row(wire: money_pb2.CostRow, by: Sequence[str], currency: str, compared: bool) -> results.CostRow:
    nanos, before = exact(wire, "nanos"), exact(wire, "before_nanos")
    return results.CostRow(
        keys=dict(zip(by, wire.keys, strict=False)),
        cost=Money(exact(wire, "nanos"), currency),
        gpu_cost=Money(exact(wire, "gpu_nanos"), currency),
        cpu_cost=Money(exact(wire, "cpu_nanos"), currency),
        memory_cost=Money(exact(wire, "memory_nanos"), currency),
        held=span(wire.held_us),
        gpu_time=span(wire.gpu_us),
        cpu_time=span(wire.cpu_us),
        unknown=span(wire.unknown_us),
        jobs=wire.jobs,
        percent=wire.share_ppm / 10_000 if wire.HasField("share_ppm") else None,
        others=wire.others,
        before=Money(before, currency) if compared else None,
        change=Money(nanos - before, currency) if compared else None,
        change_percent=wire.change_ppm / 10_000 if wire.HasField("change_ppm") else None,
        called=wire.called,
    )


def correction(wire: money_pb2.CorrectResponse) -> results.Correction:
    """What became of a correction."""
    cash = wire.currency or DEFAULT_CURRENCY
    return results.Correction(
        job=wire.job_id,
        charges=wire.charges,
        before=Money(exact(wire, "before_nanos"), cash),
        after=Money(exact(wire, "after_nanos"), cash),
        booked_at=instant(wire.booked_at),
        budgets=tuple(
            results.BudgetShift(
                budget=one.budget, since=instant(one.period_start), amount=Money(exact(one, "nanos"), cash)
            )
            for one in wire.budgets
        ),
    )


def book_period(wire: money_pb2.BookPeriod) -> results.BookPeriod:
    """A month of the books."""
    cash = wire.currency or DEFAULT_CURRENCY
    return results.BookPeriod(
        period=wire.period,
        since=instant(wire.since),
        until=instant(wire.until),
        state=wire.state,
        closed_at=instant(wire.closed_at),
        closed_by=wire.closed_by,
        hash=wire.hash,
        missing=tuple(wire.missing),
        totals={one.kind: Money(exact(one, "nanos"), cash) for one in wire.totals},
        total=Money(exact(wire, "total_nanos"), cash),
        charges=wire.charges,
    )


def price_explanation(wire: money_pb2.PriceExplanation) -> results.PriceExplanation:
    """Every part of a price."""
    cash = wire.currency or DEFAULT_CURRENCY
    return results.PriceExplanation(
        name=wire.name,
        pool=wire.pool,
        nodes=wire.nodes,
        gpus=wire.gpus,
        gpu_type=wire.gpu_type,
        parts={part.name: Money(part.rate_nanos_per_hour, cash) for part in wire.parts},
        cost=Money(wire.cost_nanos_per_hour, cash),
        charge=Money(wire.charge_nanos_per_hour, cash),
        listed=_rate(wire.list_nanos_per_hour, cash),
        effective=Money(wire.effective_nanos_per_hour, cash),
        marginal=Money(wire.marginal_nanos_per_hour, cash),
        sold=wire.sold_ppm / 1_000_000 if wire.sold_ppm >= 0 else None,
        full_absorption=_rate(wire.full_absorption_nanos_per_hour, cash),
        valid_from=instant(wire.valid_from),
        valid_until=instant(wire.valid_until),
        source=wire.source,
        price_id=wire.price_id,
        stable_id=wire.stable_id,
    )


def price(wire: money_pb2.Price) -> results.Price:
    """A price, and the machine it buys."""
    cash = wire.currency or DEFAULT_CURRENCY
    return results.Price(
        provider=wire.provider,
        region=wire.region,
        pool=wire.pool,
        instance_type=wire.instance_type,
        market=wire.market,
        rate_per_hour=_rate(wire.rate_nanos_per_hour, cash),
        rate_per_gpu_hour=_rate(wire.rate_per_gpu_nanos_per_hour, cash) if wire.gpus else None,
        gpus=wire.gpus,
        gpu_type=wire.gpu_type,
        gpu_memory_bytes=wire.gpu_memory_bytes,
        cpus=_count(wire.cpu_milli),
        memory_bytes=wire.memory_bytes,
        valid_from=instant(wire.valid_from),
        valid_until=instant(wire.valid_until),
        source=wire.source,
        price_id=wire.price_id,
    )


def policy(wire: money_pb2.Policy) -> results.Policy:
    """One document."""
    return results.Policy(
        kind=wire.kind,
        name=wire.name,
        version=wire.version,
        change=wire.change,
        applied_at=instant(wire.applied_at),
        applied_by=wire.applied_by,
        effective_at=instant(wire.effective_at),
        problem=wire.problem,
        notes=tuple(wire.notes),
        text=wire.text,
        opening=_opening(wire.opening) if wire.HasField("opening") else None,
    )


def _opening(wire: money_pb2.BudgetOpening) -> results.BudgetOpening:
    return results.BudgetOpening(
        since=instant(wire.since),
        settled=Money(exact(wire, "settled_nanos"), wire.currency),
        held=Money(exact(wire, "held_nanos"), wire.currency),
        attempts=wire.attempts,
    )


# ------------------------------------------------------------------ events, the server, rights


def event(wire: events_pb2.Event) -> results.Event:
    """One event. A payload of a newer server that is no JSON is shown as it came."""
    try:
        data = json.loads(wire.json) if wire.json else {}
    except ValueError:
        data = wire.json
    return results.Event(
        seq=wire.seq, at=instant(wire.at), actor=wire.actor, kind=wire.kind, subject=wire.subject, data=data
    )


def server(wire: events_pb2.ServerResponse) -> results.Server:
    """Who serves."""
    return results.Server(
        version=wire.version,
        cluster_id=wire.cluster_id,
        epoch=wire.epoch,
        started_at=instant(wire.started_at),
        ready=wire.ready,
        pid=wire.pid,
        state_dir=wire.state_dir,
        pending=wire.pending,
        running=wire.running,
        nodes_up=wire.nodes_up,
        nodes_silent=wire.nodes_silent,
        last_seq=wire.last_seq,
        user=wire.user,
        role=wire.role,
        trouble=wire.trouble,
        counters=dict(sorted(wire.counters.items())),
    )


def finding(wire: events_pb2.Finding) -> results.Finding:
    """One check of `doctor`."""
    return results.Finding(check=wire.check, ok=wire.ok, message=wire.message, remedy=wire.remedy)


def grant(wire: access_pb2.RoleGrant) -> results.Grant:
    """A role of a user."""
    return results.Grant(user=wire.user, role=wire.role, project=wire.project, change=wire.change)


def secret(wire: access_pb2.Secret) -> results.Secret:
    """A secret, without its value."""
    return results.Secret(
        name=wire.name, project=wire.project, set_at=instant(wire.set_at), change=wire.change
    )
