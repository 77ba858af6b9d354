"""Every call of the wire as a value: path, request, answer. Both clients send the same ones.

Owns    how plain arguments become request messages.
Why     a sync and an async client that each build requests drift apart; here neither builds any.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from google.protobuf.message import Message

from bursar.codec import spec as spec_codec
from bursar.codec.amounts import put_amounts
from bursar.errors import InvalidRequest
from bursar.model import JobSpec
from bursar.money import Money
from bursar.v1 import access_pb2, events_pb2, jobs_pb2, money_pb2, nodes_pb2, services_pb2, types_pb2

OUTPUT_BYTES_MAX: Final = 16 << 20
"""Of a program that is run inside a job, both streams together: what a caller is handed is in memory."""
UNARY_TIMEOUT_S: Final = 30.0
"""Deadline of every call that answers once."""
PAGE_SIZE: Final = 500
"""Jobs asked for at a time; a page may end before, at its bytes."""
BATCH_JOBS: Final = 64
"""Jobs of one message: more would not be quicker, and the first answers later."""
BATCH_BYTES: Final = 512 * 1024
REFERENCES_MAX: Final = 1000
"""Jobs one Watch may name."""

Answer = TypeVar("Answer", bound=Message)


class Call(NamedTuple, Generic[Answer]):
    """One request on its way.

    Attributes:
        path: `/bursar.v1.Jobs/Get`.
        answer: type of the reply, or of each reply of a stream.
    """

    path: str
    request: Message
    answer: type[Answer]


# ------------------------------------------------------------------ jobs


def submit(spec: JobSpec, key: str, terse: bool = False) -> Call[jobs_pb2.SubmitResponse]:
    """Accept one job."""
    return Call("/bursar.v1.Jobs/Submit", submit_request(spec, key, terse), jobs_pb2.SubmitResponse)


def submit_request(spec: JobSpec, key: str, terse: bool) -> jobs_pb2.SubmitRequest:
    """The message of one job, also among many. `key` is bounded here so that the place is named."""
    if len(key) > 200:
        raise InvalidRequest(f"the idempotency key has {len(key)} characters; at most 200 are kept")
    return jobs_pb2.SubmitRequest(spec=spec_codec.spec_to_wire(spec), idempotency_key=key, terse=terse)


def submit_batches(
    specs: Sequence[JobSpec | tuple[JobSpec, str]], terse: bool
) -> Iterator[jobs_pb2.SubmitBatch]:
    """The messages of SubmitBatches: as many jobs in each as fit."""
    batch, size = jobs_pb2.SubmitBatch(), 0
    for item in specs:
        spec, key = (item, "") if isinstance(item, JobSpec) else item
        request = submit_request(spec, key, terse)
        request_bytes = request.ByteSize()
        if batch.jobs and (len(batch.jobs) == BATCH_JOBS or size + request_bytes > BATCH_BYTES):
            yield batch
            batch, size = jobs_pb2.SubmitBatch(), 0
        batch.jobs.append(request)
        size += request_bytes
    if batch.jobs:
        yield batch


def get_job(job: str) -> Call[types_pb2.Job]:
    """One job, whole."""
    return Call("/bursar.v1.Jobs/Get", jobs_pb2.GetJobRequest(job=job), types_pb2.Job)


def list_jobs(
    *,
    states: Sequence[str] = (),
    project: str = "",
    user: str = "",
    experiment: str = "",
    model: str = "",
    labels: Mapping[str, str] | None = None,
    since: int = 0,
    tasks_of: str = "",
    name: str = "",
) -> jobs_pb2.ListJobsRequest:
    """The filter of a listing; the client adds the page."""
    return jobs_pb2.ListJobsRequest(
        states=states,
        project=project,
        user=user,
        experiment=experiment,
        model=model,
        labels=dict(labels or {}),
        since=since,
        tasks_of=tasks_of,
        name=name,
    )


def job_page(
    filters: jobs_pb2.ListJobsRequest, page_size: int, token: str
) -> Call[jobs_pb2.ListJobsResponse]:
    """One page of a listing."""
    request = jobs_pb2.ListJobsRequest()
    request.CopyFrom(filters)
    request.page_size = page_size
    request.page_token = token
    return Call("/bursar.v1.Jobs/List", request, jobs_pb2.ListJobsResponse)


def watch(jobs: Sequence[str], until_terminal: bool) -> Call[types_pb2.Job]:
    """Jobs as they change."""
    if len(jobs) > REFERENCES_MAX:
        raise InvalidRequest(f"{len(jobs)} jobs named; at most {REFERENCES_MAX} at a time")
    request = jobs_pb2.WatchJobsRequest(jobs=jobs, until_terminal=until_terminal)
    return Call("/bursar.v1.Jobs/Watch", request, types_pb2.Job)


def plan(spec: JobSpec) -> Call[jobs_pb2.PlanResponse]:
    """What a submit would do now."""
    request = jobs_pb2.PlanRequest(spec=spec_codec.spec_to_wire(spec))
    return Call("/bursar.v1.Jobs/Plan", request, jobs_pb2.PlanResponse)


def explain(job: str) -> Call[jobs_pb2.ExplainResponse]:
    """Why a job is where it is."""
    request = jobs_pb2.ExplainRequest(job=job)
    return Call("/bursar.v1.Jobs/Explain", request, jobs_pb2.ExplainResponse)


def profile(job: str, attempt: int) -> Call[jobs_pb2.ProfileResponse]:
    """Curves of an attempt."""
    request = jobs_pb2.ProfileRequest(job=job, attempt=attempt)
    return Call("/bursar.v1.Jobs/Profile", request, jobs_pb2.ProfileResponse)


def cancel(jobs: Sequence[str], grace_us: int | None, reason: str) -> Call[jobs_pb2.JobsResponse]:
    """Stop and end jobs."""
    request = jobs_pb2.CancelRequest(jobs=jobs, grace_us=grace_us, reason=reason)
    return Call("/bursar.v1.Jobs/Cancel", request, jobs_pb2.JobsResponse)


def change_jobs(verb: str, jobs: Sequence[str]) -> Call[jobs_pb2.JobsResponse]:
    """`Hold`, `Release` or `Requeue`."""
    request = jobs_pb2.JobsRequest(jobs=jobs)
    return Call(f"/bursar.v1.Jobs/{verb}", request, jobs_pb2.JobsResponse)


def update(
    job: str,
    *,
    priority: int | None = None,
    time_limit_us: int | None = None,
    name: str | None = None,
    experiment: str | None = None,
    model: str | None = None,
    labels: Mapping[str, str] | None = None,
    max_cost_nanos: int | None = None,
    currency: str | None = None,
    project: str | None = None,
    model_version: str | None = None,
    nodes: int | None = None,
    gpus: types_pb2.GpuRequest | None = None,
    cpu_milli: int | None = None,
    memory_bytes: int | None = None,
    max_price_nanos_per_hour: int | None = None,
    spot_policy: str | None = None,
    preemptible: bool | None = None,
    comment: str | None = None,
    idle_snooze_us: int | None = None,
    deadline_at: int | None = None,
    deadline_policy: str | None = None,
) -> Call[types_pb2.Job]:
    """Change a pending job; of a running one its priority and comment."""
    request = jobs_pb2.UpdateRequest(
        job=job,
        priority=priority,
        time_limit_us=time_limit_us,
        name=name,
        experiment=experiment,
        model=model,
        labels=dict(labels or {}),
        currency=currency,
        project=project,
        model_version=model_version,
        nodes=nodes,
        gpus=gpus,
        cpu_milli=cpu_milli,
        memory_bytes=memory_bytes,
        max_price_nanos_per_hour=max_price_nanos_per_hour,
        spot_policy=spot_policy,
        preemptible=preemptible,
        comment=comment,
        idle_snooze_us=idle_snooze_us,
        deadline_at=deadline_at,
        deadline_policy=deadline_policy,
    )
    if max_cost_nanos is not None:
        put_amounts(request, max_cost_nanos=max_cost_nanos)
    return Call("/bursar.v1.Jobs/Update", request, types_pb2.Job)


def logs(
    job: str,
    *,
    rank: int,
    attempt: int,
    follow: bool,
    offset: int,
    tail_bytes: int,
    tail_lines: int,
    since: int,
    timestamps: bool,
) -> Call[jobs_pb2.LogChunk]:
    """What a member wrote."""
    request = jobs_pb2.LogsRequest(
        job=job,
        rank=rank,
        attempt=attempt,
        follow=follow,
        offset=offset,
        tail_bytes=tail_bytes,
        tail_lines=tail_lines,
        since=since,
        timestamps=timestamps,
    )
    return Call("/bursar.v1.Jobs/Logs", request, jobs_pb2.LogChunk)


# ------------------------------------------------------------------ nodes


def list_nodes(pool: str, token: str = "", activity: bool = False) -> Call[nodes_pb2.ListNodesResponse]:
    """Every node, or those of a pool."""
    request = nodes_pb2.ListNodesRequest(pool=pool, page_token=token, activity=activity)
    return Call("/bursar.v1.Nodes/List", request, nodes_pb2.ListNodesResponse)


def slurm_names() -> Call[nodes_pb2.SlurmNamesResponse]:
    """What names in scripts stand for."""
    return Call("/bursar.v1.Nodes/SlurmNames", nodes_pb2.SlurmNamesRequest(), nodes_pb2.SlurmNamesResponse)


def get_node(node: str) -> Call[types_pb2.Node]:
    """One node."""
    return Call("/bursar.v1.Nodes/Get", nodes_pb2.NodeRequest(node=node), types_pb2.Node)


def drain(node: str, reason: str, stop: bool, confirm_dead: bool) -> Call[types_pb2.Node]:
    """No new work; with `stop`, running jobs are stopped with their grace."""
    request = nodes_pb2.DrainRequest(node=node, reason=reason, stop=stop, confirm_dead=confirm_dead)
    return Call("/bursar.v1.Nodes/Drain", request, types_pb2.Node)


def node_mode(verb: str, node: str, reason: str) -> Call[types_pb2.Node]:
    """`Cordon` or `Resume`."""
    request = nodes_pb2.NodeModeRequest(node=node, reason=reason)
    return Call(f"/bursar.v1.Nodes/{verb}", request, types_pb2.Node)


def calibrate(node: str, found: types_pb2.Calibration) -> Call[types_pb2.Node]:
    """What a node delivered."""
    request = nodes_pb2.CalibrateRequest(node=node, found=found)
    return Call("/bursar.v1.Nodes/Calibrate", request, types_pb2.Node)


def remove_node(node: str) -> Call[nodes_pb2.RemoveNodeResponse]:
    """Forget a node that is gone for good."""
    return Call("/bursar.v1.Nodes/Remove", nodes_pb2.NodeRequest(node=node), nodes_pb2.RemoveNodeResponse)


def node_token(node: str, ttl_us: int, valid_us: int) -> Call[nodes_pb2.TokenResponse]:
    """A one-time secret for a new node."""
    request = nodes_pb2.TokenRequest(node=node, ttl_us=ttl_us, valid_us=valid_us)
    return Call("/bursar.v1.Nodes/Token", request, nodes_pb2.TokenResponse)


def node_tokens(node: str) -> Call[nodes_pb2.TokensResponse]:
    """The secrets that are good now."""
    return Call("/bursar.v1.Nodes/Tokens", nodes_pb2.TokensRequest(node=node), nodes_pb2.TokensResponse)


def revoke_node_tokens(node: str, id: str) -> Call[nodes_pb2.RevokeTokensResponse]:
    """Void one secret of a node, or all."""
    request = nodes_pb2.RevokeTokensRequest(node=node, id=id)
    return Call("/bursar.v1.Nodes/RevokeTokens", request, nodes_pb2.RevokeTokensResponse)


def reservations() -> Call[nodes_pb2.ReservationsResponse]:
    """Reservations of nodes."""
    return Call(
        "/bursar.v1.Nodes/Reservations", nodes_pb2.ReservationsRequest(), nodes_pb2.ReservationsResponse
    )


def machines() -> Call[nodes_pb2.MachinesResponse]:
    """Rented machines."""
    return Call("/bursar.v1.Nodes/Machines", nodes_pb2.MachinesRequest(), nodes_pb2.MachinesResponse)


def machine(name: str) -> Call[nodes_pb2.Machine]:
    """One rented machine, also one that is gone."""
    return Call("/bursar.v1.Nodes/GetMachine", nodes_pb2.GetMachineRequest(machine=name), nodes_pb2.Machine)


def release_machine(machine: str, reason: str) -> Call[nodes_pb2.Machine]:
    """Give a rented machine back once nothing runs there."""
    request = nodes_pb2.ReleaseMachineRequest(machine=machine, reason=reason)
    return Call("/bursar.v1.Nodes/ReleaseMachine", request, nodes_pb2.Machine)


def check_clouds() -> Call[nodes_pb2.CheckCloudsResponse]:
    """What must be right before machines can be rented."""
    return Call("/bursar.v1.Nodes/CheckClouds", nodes_pb2.CheckCloudsRequest(), nodes_pb2.CheckCloudsResponse)


def end_machine(machine: str, reason: str, close: bool = False) -> Call[nodes_pb2.Machine]:
    """End a rented machine; rent none any more."""
    request = nodes_pb2.EndMachineRequest(machine=machine, reason=reason, close=close)
    return Call("/bursar.v1.Nodes/EndMachine", request, nodes_pb2.Machine)


def top(follow: bool) -> Call[nodes_pb2.TopResponse]:
    """Newest live samples."""
    return Call("/bursar.v1.Nodes/Top", nodes_pb2.TopRequest(follow=follow), nodes_pb2.TopResponse)


# ------------------------------------------------------------------ policies and money


def apply_policies(verb: str, sources: Iterable[tuple[str, str]]) -> Call[money_pb2.ApplyResponse]:
    """`Apply` or `Check` of (file name, YAML text) pairs."""
    request = money_pb2.ApplyRequest(
        sources=[money_pb2.PolicySource(name=name, text=text) for name, text in sources]
    )
    return Call(f"/bursar.v1.Policies/{verb}", request, money_pb2.ApplyResponse)


def list_policies(kind: str) -> Call[money_pb2.ListPoliciesResponse]:
    """The documents in force."""
    request = money_pb2.ListPoliciesRequest(kind=kind)
    return Call("/bursar.v1.Policies/List", request, money_pb2.ListPoliciesResponse)


def one_policy(verb: str, name: str, kind: str, version: int) -> Call[money_pb2.Policy]:
    """`Get` or `Delete` of one document."""
    request = money_pb2.PolicyRequest(kind=kind, name=name, version=version)
    return Call(f"/bursar.v1.Policies/{verb}", request, money_pb2.Policy)


def cost(
    *,
    by: Sequence[str] = (),
    since: int = 0,
    until: int = 0,
    job: str = "",
    project: str = "",
    user: str = "",
    experiment: str = "",
    model: str = "",
    include_idle: bool = False,
    period: str = "",
    timezone: str = "",
    depth: int = 0,
    top: int = 0,
    compare: str = "",
) -> Call[money_pb2.CostResponse]:
    """Cost grouped by dimensions."""
    request = money_pb2.CostRequest(
        by=by,
        since=since,
        until=until,
        job=job,
        project=project,
        user=user,
        experiment=experiment,
        model=model,
        include_idle=include_idle,
        period=period,
        timezone=timezone,
        depth=depth,
        top=top,
        compare=compare,
    )
    return Call("/bursar.v1.Money/Cost", request, money_pb2.CostResponse)


def budgets(name: str, history: bool = False, forecast: bool = False) -> Call[money_pb2.BudgetsResponse]:
    """One budget by name, or in each of its periods, or all; with what is expected of them."""
    request = money_pb2.BudgetsRequest(name=name, history=history, forecast=forecast)
    return Call("/bursar.v1.Money/Budgets", request, money_pb2.BudgetsResponse)


def prices(
    *,
    provider: str = "",
    region: str = "",
    instance_type: str = "",
    market: str = "",
    gpus: str = "",
    sort: str = "",
    limit: int = 0,
    history: bool = False,
    job: str = "",
) -> Call[money_pb2.PricesResponse]:
    """Prices and offers."""
    request = money_pb2.PricesRequest(
        provider=provider,
        region=region,
        instance_type=instance_type,
        market=market,
        gpus=gpus,
        sort=sort,
        limit=limit,
        history=history,
        job=job,
    )
    return Call("/bursar.v1.Money/Prices", request, money_pb2.PricesResponse)


def explain_price(name: str) -> Call[money_pb2.ExplainPriceResponse]:
    """Every part of a price."""
    request = money_pb2.ExplainPriceRequest(name=name)
    return Call("/bursar.v1.Money/ExplainPrice", request, money_pb2.ExplainPriceResponse)


def correct(
    job: str,
    *,
    reason: str,
    amount: Money | None,
    to_ppm: int | None,
    since: int,
    until: int,
    dry_run: bool,
) -> Call[money_pb2.CorrectResponse]:
    """What an ended job was charged, corrected."""
    request = money_pb2.CorrectRequest(
        job=job, since=since, until=until, reason=reason, dry_run=dry_run, to_ppm=to_ppm
    )
    if amount is not None:
        request.amount.nanos, request.currency = str(amount.nanos), amount.currency
    return Call("/bursar.v1.Money/Correct", request, money_pb2.CorrectResponse)


def retag(
    job: str,
    *,
    reason: str,
    marks: Mapping[str, str],
    labels: Mapping[str, str],
    since: int,
    until: int,
    dry_run: bool,
) -> Call[money_pb2.CorrectResponse]:
    """What an ended job was charged, for somebody else."""
    request = money_pb2.CorrectRequest(job=job, since=since, until=until, reason=reason, dry_run=dry_run)
    request.retag.CopyFrom(money_pb2.Retag(**marks, labels=labels))
    return Call("/bursar.v1.Money/Correct", request, money_pb2.CorrectResponse)


def close_period(period: str, *, force: bool, dry_run: bool) -> Call[money_pb2.BookPeriod]:
    """A month of the books, closed."""
    request = money_pb2.ClosePeriodRequest(period=period, force=force, dry_run=dry_run)
    return Call("/bursar.v1.Money/ClosePeriod", request, money_pb2.BookPeriod)


def keep_bill(request: money_pb2.KeepBillRequest) -> Call[money_pb2.KeepBillResponse]:
    """A part of a provider's bill, kept."""
    return Call("/bursar.v1.Money/KeepBill", request, money_pb2.KeepBillResponse)


def periods(period: str) -> Call[money_pb2.PeriodsResponse]:
    """Months of the books, or one."""
    request = money_pb2.PeriodsRequest(period=period)
    return Call("/bursar.v1.Money/Periods", request, money_pb2.PeriodsResponse)


def grant_budget(name: str, amount: Money, *, reason: str, key: str) -> Call[money_pb2.BudgetPostingResponse]:
    """A budget gets more."""
    request = money_pb2.GrantBudgetRequest(budget=name, currency=amount.currency, reason=reason, key=key)
    request.amount.nanos = str(amount.nanos)
    return Call("/bursar.v1.Money/GrantBudget", request, money_pb2.BudgetPostingResponse)


def approve_budget(
    name: str, *, reason: str, until: int, amount: Money | None, key: str
) -> Call[money_pb2.BudgetPostingResponse]:
    """What a threshold of a budget asks for is approved."""
    request = money_pb2.ApproveBudgetRequest(budget=name, reason=reason, until=until, key=key)
    if amount is not None:
        request.amount.nanos, request.currency = str(amount.nanos), amount.currency
    return Call("/bursar.v1.Money/ApproveBudget", request, money_pb2.BudgetPostingResponse)


def transfer_budget(
    name: str, to: str, amount: Money, *, reason: str, key: str
) -> Call[money_pb2.BudgetPostingResponse]:
    """A budget gives to another one."""
    request = money_pb2.TransferBudgetRequest(
        budget=name, to=to, currency=amount.currency, reason=reason, key=key
    )
    request.amount.nanos = str(amount.nanos)
    return Call("/bursar.v1.Money/TransferBudget", request, money_pb2.BudgetPostingResponse)


def report(
    kind: str, period: str, *, format: str, focus_version: str, project: str, timezone: str, by: str
) -> Call[money_pb2.ReportChunk]:
    """A report as a stream of bytes."""
    request = money_pb2.ReportRequest(
        kind=kind,
        period=period,
        format=format,
        focus_version=focus_version,
        project=project,
        timezone=timezone,
        by=by,
    )
    return Call("/bursar.v1.Money/Report", request, money_pb2.ReportChunk)


def what_if(
    period: str,
    sources: Iterable[tuple[str, str]],
    *,
    by: str,
    format: str,
    project: str,
    timezone: str,
) -> Call[money_pb2.ReportChunk]:
    """What jobs would have paid at the prices of (file name, YAML text) pairs, as a stream of bytes."""
    request = money_pb2.ReportRequest(
        kind="whatif",
        period=period,
        format=format,
        project=project,
        timezone=timezone,
        by=by,
        sources=[money_pb2.PolicySource(name=name, text=text) for name, text in sources],
    )
    return Call("/bursar.v1.Money/Report", request, money_pb2.ReportChunk)


# ------------------------------------------------------------------ events and the server


def list_events(
    *,
    after_seq: int = 0,
    limit: int = 0,
    follow: bool = False,
    job: str = "",
    node: str = "",
    kinds: Sequence[str] = (),
    tail: int = 0,
) -> Call[events_pb2.Event]:
    """Events, oldest first."""
    request = events_pb2.ListEventsRequest(
        after_seq=after_seq, limit=limit, follow=follow, job=job, node=node, kinds=kinds, tail=tail
    )
    return Call("/bursar.v1.Events/List", request, events_pb2.Event)


def server(census: bool = False) -> Call[events_pb2.ServerResponse]:
    """Who serves, since when; `census`: and how many jobs of each kind have not ended."""
    request = events_pb2.ServerRequest(census=census)
    return Call("/bursar.v1.Events/Server", request, events_pb2.ServerResponse)


def save_snapshot() -> Call[events_pb2.SnapshotChunk]:
    """What the newest plan was made of, as a stream of bytes."""
    request = events_pb2.SaveSnapshotRequest()
    return Call("/bursar.v1.Events/SaveSnapshot", request, events_pb2.SnapshotChunk)


def doctor(full: bool) -> Call[events_pb2.DoctorResponse]:
    """Run the invariant checks."""
    request = events_pb2.DoctorRequest(full=full)
    return Call("/bursar.v1.Events/Doctor", request, events_pb2.DoctorResponse)


# ------------------------------------------------------------------ rights and secrets


def grant(method: str, user: str, role: str, project: str) -> Call[access_pb2.RoleGrant]:
    """Give or take a role: `Grant` or `Revoke`."""
    request = access_pb2.GrantRequest(user=user, role=role, project=project)
    return Call(f"/bursar.v1.Access/{method}", request, access_pb2.RoleGrant)


def grants(user: str, project: str) -> Call[access_pb2.GrantsResponse]:
    """Who holds what."""
    request = access_pb2.GrantsRequest(user=user, project=project)
    return Call("/bursar.v1.Access/Grants", request, access_pb2.GrantsResponse)


def set_secret(name: str, value: str, project: str) -> Call[access_pb2.Secret]:
    """Keep a secret."""
    request = access_pb2.SetSecretRequest(name=name, project=project, value=value.encode())
    return Call("/bursar.v1.Access/SetSecret", request, access_pb2.Secret)


def remove_secret(name: str, project: str) -> Call[access_pb2.Secret]:
    """Forget a secret."""
    request = access_pb2.SecretRequest(name=name, project=project)
    return Call("/bursar.v1.Access/RemoveSecret", request, access_pb2.Secret)


def secrets(project: str) -> Call[access_pb2.SecretsResponse]:
    """Names of secrets."""
    request = access_pb2.SecretsRequest(project=project)
    return Call("/bursar.v1.Access/Secrets", request, access_pb2.SecretsResponse)


# ------------------------------------------------------------------ services and their keys


def services(service: str, project: str) -> Call[services_pb2.ListServicesResponse]:
    """Services that the caller may see."""
    request = services_pb2.ListServicesRequest(service=service, project=project)
    return Call("/bursar.v1.Services/List", request, services_pb2.ListServicesResponse)


def scale_service(service: str, least: int, most: int) -> Call[services_pb2.Service]:
    """Other bounds of its replicas."""
    request = services_pb2.ScaleServiceRequest(service=service, replicas_min=least, replicas_max=most)
    return Call("/bursar.v1.Services/Scale", request, services_pb2.Service)


def update_service(service: str, spec: JobSpec) -> Call[services_pb2.Service]:
    """Another revision."""
    request = services_pb2.UpdateServiceRequest(service=service, spec=spec_codec.spec_to_wire(spec))
    return Call("/bursar.v1.Services/Update", request, services_pb2.Service)


def rollback_service(service: str) -> Call[services_pb2.Service]:
    """The revision before."""
    request = services_pb2.RollbackServiceRequest(service=service)
    return Call("/bursar.v1.Services/Rollback", request, services_pb2.Service)


def sync_gateway(request: services_pb2.SyncRequest) -> Call[services_pb2.SyncResponse]:
    """What a gateway saw, for what it serves by."""
    return Call("/bursar.v1.Services/Sync", request, services_pb2.SyncResponse)


def new_key(
    service: str,
    name: str,
    project: str,
    requests_per_minute: int,
    concurrency: int,
    valid_us: int,
    budget: str,
) -> Call[services_pb2.ServiceKey]:
    """A key to a service."""
    request = services_pb2.NewKeyRequest(
        service=service,
        name=name,
        project=project,
        requests_per_minute=requests_per_minute,
        concurrency=concurrency,
        valid_us=valid_us,
        budget=budget,
    )
    return Call("/bursar.v1.Services/NewKey", request, services_pb2.ServiceKey)


def service_keys(service: str) -> Call[services_pb2.KeysResponse]:
    """Keys, without their secrets."""
    return Call(
        "/bursar.v1.Services/Keys", services_pb2.KeysRequest(service=service), services_pb2.KeysResponse
    )


def revoke_key(key: str) -> Call[services_pb2.ServiceKey]:
    """A key is good for nothing any more."""
    return Call(
        "/bursar.v1.Services/RevokeKey", services_pb2.RevokeKeyRequest(key=key), services_pb2.ServiceKey
    )
