"""The wire for asyncio programs: one method per call, messages of `bursar.v1` as they come.

Owns    one `grpc.aio` channel of the running loop, the second try after a token ran out, pages and `wait`.
Why     `AsyncClient` makes results of its answers. `sync.py` is written from this file by `make clients`, so
        that the wire has one definition: edit this file alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from bursar.client import calls
from bursar.client.address import Address, is_expected, reachable, resolve
from bursar.client.calls import Answer, Call
from bursar.client.link import (
    OPTIONS,
    UNIX_OPTIONS,
    Identity,
    error_from,
    not_ended,
    restarted,
    timed_out,
    tls_credentials,
    unavailable,
)
from bursar.errors import ServerUnavailable, Unauthenticated
from bursar.model import JobSpec, JobState
from bursar.money import Money
from bursar.v1 import access_pb2, events_pb2, jobs_pb2, money_pb2, nodes_pb2, services_pb2, types_pb2

if TYPE_CHECKING:
    from bursar.results import Executed

RETRIES: Final = 6
"""Further tries of a submit that carries an idempotency key."""
RETRY_S: Final = 0.2
PATIENCE_S: Final = 60.0
"""How long `wait`, and events that are followed, outlive a server that is gone, as during its restart."""
Seen = Callable[[types_pb2.Job], None]


class AsyncWireClient:
    """A connection to one server.

    Every method raises a class of `bursar.errors`; calls that answer once have 30 s to do so.
    A JOB is an id, a number, an unambiguous name, `last`, or `JOB[7]` for one task of an array.
    One event loop may use it; not to be used in a process forked after its first call.
    """

    def __init__(
        self, server: str | Address | None = None, token: str | None = None, *, patience_s: float = 0.0
    ) -> None:
        """Choose a server; nothing is sent yet.

        Args:
            server: `unix:///path` or `grpcs://host:7443`; else `BURSAR_SERVER`, the socket of a
                running `bursar up`, or `/run/bursar/bursar.sock`.
            token: sent instead of the identity found otherwise (the caller's uid on a unix socket,
                `BURSAR_TOKEN` or the token file over TLS).
            patience_s: how long the first call waits for a unix socket that is there but not
                listened on, as while a daemon restarts. Nothing has been sent by then, so even a
                submit is safe.
        """
        self.address: Address = resolve(server)
        self._patience_s = patience_s
        self._identity = Identity(self.address, token)
        self._socket: reachable | None = None
        self._channel: Any = None
        self._callables: dict[str, Callable[..., Any]] = {}

    async def __aenter__(self) -> AsyncWireClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel; live streams end with an error."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = None
            self._callables.clear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def use_token(self, token: str) -> None:
        """From the next call on, this token is sent in place of the one that was given."""
        self._identity.replace(token)

    # -------------------------------------------------------------- jobs

    async def submit(
        self, spec: JobSpec, *, idempotency_key: str = "", terse: bool = False
    ) -> jobs_pb2.SubmitResponse:
        """Submit one job; durable when this returns.

        With `idempotency_key` a broken connection is tried again for a few seconds: the same key
        and the same spec give the first answer again, `existed` set. Without one, an unavailable
        server leaves open whether the job was accepted.
        """
        call = calls.submit(spec, idempotency_key, terse)
        for _ in range(RETRIES if idempotency_key else 0):
            try:
                return await self._unary(call)
            except ServerUnavailable:
                await asyncio.sleep(RETRY_S)
        return await self._unary(call)

    async def submit_many(
        self, specs: Iterable[JobSpec | tuple[JobSpec, str]], *, terse: bool = True
    ) -> AsyncIterator[jobs_pb2.SubmitResponse]:
        """Submit many jobs over one call; answers come in order, each durable when yielded.

        A pair carries an idempotency key. A refused job is an answer with `error` set to its reason;
        the others go on. `terse` answers hold the id and number alone. A list travels in messages of many
        jobs; what is made on the way goes one by one, as soon as it is there.
        """
        if isinstance(specs, Sequence):
            batches = calls.submit_batches(specs, terse)
            multi = await self._callable(
                "stream_stream", "/bursar.v1.Jobs/SubmitBatches", jobs_pb2.SubmitAnswers
            )
            async for message in self._guard(multi, batches):
                for answer in message.answers:
                    yield answer
            return
        pairs = ((item, "") if isinstance(item, JobSpec) else item for item in specs)
        requests = (calls.submit_request(spec, key, terse) for spec, key in pairs)
        multi = await self._callable("stream_stream", "/bursar.v1.Jobs/SubmitMany", jobs_pb2.SubmitResponse)
        async for answer in self._guard(multi, requests):
            yield answer

    async def get(self, job: str) -> types_pb2.Job:
        """One job, whole."""
        return await self._unary(calls.get_job(job))

    async def list(self, *, limit: int = 0, **filters: Any) -> AsyncIterator[types_pb2.Job]:
        """Jobs, newest first; pages are fetched as they are needed. Rows lack what their `left_out` names.

        Args:
            limit: at most so many; 0 means all.
            **filters: states, project (subtree), user, experiment, model, labels, since (instant),
                tasks_of (an array), name. No `states`: active ones and what ended in the last day.
        """
        wanted, token, left = calls.list_jobs(**filters), "", limit or -1
        while True:
            size = min(calls.PAGE_SIZE, left) if left > 0 else calls.PAGE_SIZE
            page = await self._unary(calls.job_page(wanted, size, token))
            for job in page.jobs:
                yield job
                left -= 1
                if left == 0:
                    return
            token = page.next_page_token
            if not token:
                return

    async def job_page(
        self, *, size: int, token: str = "", **filters: Any
    ) -> tuple[Sequence[types_pb2.Job], str]:
        """One page of `list`, and the token of the next one: empty after the last. Filters as of `list`."""
        page = await self._unary(calls.job_page(calls.list_jobs(**filters), size, token))
        return page.jobs, page.next_page_token

    def watch(
        self, jobs: Sequence[str], *, until_terminal: bool = False, timeout_s: float | None = None
    ) -> AsyncIterator[types_pb2.Job]:
        """Jobs as they change: the current state of each first, then every change. Each as in `list`.

        Raises:
            TimeoutError: `timeout_s` have passed.
        """
        return self._stream(calls.watch(jobs, until_terminal), timeout_s)

    async def wait(
        self, jobs: Sequence[str], *, timeout_s: float | None = None, seen: Seen | None = None
    ) -> dict[str, types_pb2.Job]:
        """Wait until all `jobs` have ended, over restarts of the server; their last states by id.

        Args:
            timeout_s: raises `TimeoutError` when so much time has passed; None waits for ever. 0 asks once.
            seen: told of each change.
        """
        stop_at = None if timeout_s is None else time.monotonic() + timeout_s
        ended: dict[str, types_pb2.Job] = {}
        for i in range(0, len(jobs), calls.REFERENCES_MAX):
            ended |= await self._wait_for(jobs[i : i + calls.REFERENCES_MAX], stop_at, seen)
        return ended

    async def _wait_for(
        self, jobs: Sequence[str], stop_at: float | None, seen: Seen | None
    ) -> dict[str, types_pb2.Job]:
        last: dict[str, types_pb2.Job] = {}
        lost_at: float | None = None
        names = list(jobs)
        while True:
            try:
                left = None if stop_at is None else max(stop_at - time.monotonic(), 0.0)
                async for job in self.watch(names, until_terminal=True, timeout_s=left):
                    lost_at = None
                    last[job.id] = job
                    if seen is not None:
                        seen(job)
                if last and all(JobState(job.state).terminal for job in last.values()):
                    return last
                raise ServerUnavailable(f"the server at {self.address.url} ended the watch")
            except TimeoutError:
                for name in names if len(last) < len(set(names)) else ():  # no time to hear of all: ask once
                    job = await self.get(name)
                    last[job.id] = job
                    if seen is not None:
                        seen(job)
                if any(not JobState(job.state).terminal for job in last.values()):
                    raise not_ended(last.values()) from None
                return last
            except ServerUnavailable:
                now = time.monotonic()
                lost_at = now if lost_at is None else lost_at
                if not last or now - lost_at > PATIENCE_S:
                    raise
                if len(last) == len(set(names)):  # `last` may mean another job by now
                    names = list(last)
                await asyncio.sleep(RETRY_S)

    async def plan(self, spec: JobSpec) -> jobs_pb2.PlanResponse:
        """What a submit would do now, with its price; changes nothing."""
        return await self._unary(calls.plan(spec))

    async def explain(self, job: str) -> jobs_pb2.ExplainResponse:
        """Why a job is where it is."""
        return await self._unary(calls.explain(job))

    async def profile(self, job: str, *, attempt: int = 0) -> jobs_pb2.ProfileResponse:
        """What the members and devices of an attempt did over time; 0 is the newest."""
        return await self._unary(calls.profile(job, attempt))

    async def cancel(
        self, jobs: Sequence[str], *, grace_us: int | None = None, reason: str = ""
    ) -> Sequence[types_pb2.Job]:
        """Stop and end jobs; `grace_us` None takes each job's own, `reason` is told at their end."""
        return (await self._unary(calls.cancel(jobs, grace_us, reason))).jobs

    async def hold(self, jobs: Sequence[str]) -> Sequence[types_pb2.Job]:
        """Keep pending jobs from starting."""
        return (await self._unary(calls.change_jobs("Hold", jobs))).jobs

    async def release(self, jobs: Sequence[str]) -> Sequence[types_pb2.Job]:
        """Let held jobs start."""
        return (await self._unary(calls.change_jobs("Release", jobs))).jobs

    async def requeue(self, jobs: Sequence[str]) -> Sequence[types_pb2.Job]:
        """End the live attempt and run the job again."""
        return (await self._unary(calls.change_jobs("Requeue", jobs))).jobs

    async def update(self, job: str, **changes: Any) -> types_pb2.Job:
        """Change a pending job, which keeps its place in the queue; of a running one priority and comment.

        Args:
            job: which.
            **changes: priority, time_limit_us, name, project, experiment, model, model_version, labels
                (merged), nodes, gpus (a message; count 0 for none), cpu_milli, memory_bytes, preemptible,
                spot_policy, comment, deadline_at, deadline_policy; max_cost_nanos and
                max_price_nanos_per_hour with currency.
        """
        return await self._unary(calls.update(job, **changes))

    def logs(
        self,
        job: str,
        *,
        rank: int = 0,
        attempt: int = 0,
        follow: bool = False,
        offset: int = 0,
        tail_bytes: int = 0,
        tail_lines: int = 0,
        since: int = 0,
        timestamps: bool = False,
    ) -> AsyncIterator[jobs_pb2.LogChunk]:
        """What a member wrote, as bytes with their offset; `attempt` 0 is the newest."""
        call = calls.logs(
            job,
            rank=rank,
            attempt=attempt,
            follow=follow,
            offset=offset,
            tail_bytes=tail_bytes,
            tail_lines=tail_lines,
            since=since,
            timestamps=timestamps,
        )
        return self._stream(call)

    async def attach(
        self, requests: AsyncIterator[jobs_pb2.AttachRequest], *, timeout_s: float | None = None
    ) -> AsyncIterator[jobs_pb2.AttachAnswer]:
        """One stream to a member of a running job; the first request opens it.

        What goes to and fro are packets of `bursar.steps.far`, which sends again what was lost.
        """
        multi = await self._callable("stream_stream", "/bursar.v1.Jobs/Attach", jobs_pb2.AttachAnswer)
        async for answer in self._guard(multi, requests, timeout_s):
            yield answer

    async def execute(
        self,
        job: str,
        command: Sequence[str],
        *,
        rank: int = 0,
        given: bytes = b"",
        timeout_s: float | None = None,
        output_bytes_max: int = calls.OUTPUT_BYTES_MAX,
    ) -> Executed:
        """Run a program inside a running job, to its end; `given`: its input. What takes longer is ended,
        with `TimeoutError`, and what writes more, with `RateLimited`.
        """
        from bursar.client.aexecution import AsyncPump
        from bursar.client.execution import Execution

        pump = AsyncPump(Execution(job, command, rank, given, output_bytes_max))
        try:
            stream: Any = self.attach(pump.requests(), timeout_s=timeout_s)
            async with aclosing(stream):
                async for answer in stream:
                    pump.take(answer)
                    if pump.over:
                        break
        finally:
            pump.end()
        return pump.result()

    # -------------------------------------------------------------- nodes

    async def nodes(self, *, pool: str = "", activity: bool = False) -> Sequence[types_pb2.Node]:
        """Every node, or those of a pool, by name; with `activity` what its devices did in the last day."""
        found: list[types_pb2.Node] = []
        token = ""
        while True:
            page = await self._unary(calls.list_nodes(pool, token, activity))
            found += page.nodes
            token = page.next_page_token
            if not token:
                return found

    async def slurm_names(self) -> Sequence[nodes_pb2.SlurmNames]:
        """What partitions, QOS and accounts of scripts stand for, by the document that says so."""
        return (await self._unary(calls.slurm_names())).documents

    async def node(self, name: str) -> types_pb2.Node:
        """One node by name or id."""
        return await self._unary(calls.get_node(name))

    async def drain(
        self, node: str, *, reason: str = "", stop: bool = False, confirm_dead: bool = False
    ) -> types_pb2.Node:
        """No new work; running jobs finish, or are stopped with their grace when `stop`."""
        return await self._unary(calls.drain(node, reason, stop, confirm_dead))

    async def cordon(self, node: str, *, reason: str = "") -> types_pb2.Node:
        """No new work; running jobs finish."""
        return await self._unary(calls.node_mode("Cordon", node, reason))

    async def resume(self, node: str, *, reason: str = "") -> types_pb2.Node:
        """Take work again."""
        return await self._unary(calls.node_mode("Resume", node, reason))

    async def calibrate(self, node: str, found: types_pb2.Calibration) -> types_pb2.Node:
        """Keep what a node delivered, as a job measured it there."""
        return await self._unary(calls.calibrate(node, found))

    async def remove_node(self, node: str) -> nodes_pb2.RemoveNodeResponse:
        """Forget a node that is gone for good. Raises `WrongState` while anything of it is live."""
        return await self._unary(calls.remove_node(node))

    async def node_token(self, node: str, *, ttl_us: int = 0, valid_us: int = 0) -> nodes_pb2.TokenResponse:
        """A one-time secret with which a new node enrols, good for `valid_us` in all (0: no end)."""
        return await self._unary(calls.node_token(node, ttl_us, valid_us))

    async def node_tokens(self, node: str = "") -> nodes_pb2.TokensResponse:
        """The secrets of one node or all that are good now, without the secrets."""
        return await self._unary(calls.node_tokens(node))

    async def revoke_node_tokens(self, node: str, id: str = "") -> nodes_pb2.RevokeTokensResponse:
        """Void one secret of a node, or all. Streams that were admitted with them are cut."""
        return await self._unary(calls.revoke_node_tokens(node, id))

    async def reservations(self) -> nodes_pb2.ReservationsResponse:
        """Reservations of nodes that are in force or to come, the first to begin first."""
        return await self._unary(calls.reservations())

    async def machines(self) -> nodes_pb2.MachinesResponse:
        """Rented machines, each from its intent until its provider lists it as gone."""
        return await self._unary(calls.machines())

    async def machine(self, name: str) -> nodes_pb2.Machine:
        """One rented machine, by name or id, also one that is gone."""
        return await self._unary(calls.machine(name))

    async def release_machine(self, machine: str, *, reason: str = "") -> nodes_pb2.Machine:
        """Give a rented machine back once nothing runs there; nothing new starts there."""
        return await self._unary(calls.release_machine(machine, reason))

    async def check_clouds(self) -> nodes_pb2.CheckCloudsResponse:
        """What must be right before machines can be rented; nothing is rented."""
        return await self._unary(calls.check_clouds())

    async def end_machine(self, machine: str, *, reason: str = "", close: bool = False) -> nodes_pb2.Machine:
        """End a rented machine and all on it. `close`: none is rented until the next start of the daemon."""
        return await self._unary(calls.end_machine(machine, reason, close))

    def top(self, *, follow: bool = False) -> AsyncIterator[nodes_pb2.TopResponse]:
        """The newest live samples of nodes and jobs, once or as they come."""
        return self._stream(calls.top(follow))

    # -------------------------------------------------------------- rights and secrets

    async def grant(self, user: str, role: str, *, project: str = "") -> access_pb2.RoleGrant:
        """Give a user a role over a project and all below it, or over the site."""
        return await self._unary(calls.grant("Grant", user, role, project))

    async def revoke(self, user: str, role: str, *, project: str = "") -> access_pb2.RoleGrant:
        """Take such a grant away."""
        return await self._unary(calls.grant("Revoke", user, role, project))

    async def grants(self, *, user: str = "", project: str = "") -> Sequence[access_pb2.RoleGrant]:
        """Grants that the caller may see."""
        return (await self._unary(calls.grants(user, project))).grants

    async def set_secret(self, name: str, value: str, *, project: str = "") -> access_pb2.Secret:
        """Keep a secret of a project, or of the site; it is shown to nobody again."""
        return await self._unary(calls.set_secret(name, value, project))

    async def remove_secret(self, name: str, *, project: str = "") -> access_pb2.Secret:
        """Give this secret to no job any more."""
        return await self._unary(calls.remove_secret(name, project))

    async def secrets(self, *, project: str = "") -> Sequence[access_pb2.Secret]:
        """Names of the secrets that the caller's jobs may use."""
        return (await self._unary(calls.secrets(project))).secrets

    # -------------------------------------------------------------- services and their keys

    async def services(self, service: str = "", *, project: str = "") -> Sequence[services_pb2.Service]:
        """Services that the caller may see, or one."""
        return (await self._unary(calls.services(service, project))).services

    async def scale_service(self, service: str, least: int, most: int) -> services_pb2.Service:
        """Between how many replicas it may have."""
        return await self._unary(calls.scale_service(service, least, most))

    async def update_service(self, service: str, spec: JobSpec) -> services_pb2.Service:
        """Another revision of it."""
        return await self._unary(calls.update_service(service, spec))

    async def rollback_service(self, service: str) -> services_pb2.Service:
        """The revision before, as a new one."""
        return await self._unary(calls.rollback_service(service))

    async def sync_gateway(self, request: services_pb2.SyncRequest) -> services_pb2.SyncResponse:
        """What a gateway saw, for what it serves by (operators)."""
        return await self._unary(calls.sync_gateway(request))

    async def new_key(
        self,
        service: str,
        *,
        name: str = "",
        project: str = "",
        requests_per_minute: int = 0,
        concurrency: int = 0,
        valid_us: int = 0,
        budget: str = "",
    ) -> services_pb2.ServiceKey:
        """A key to a service; its secret is shown to nobody again."""
        call = calls.new_key(service, name, project, requests_per_minute, concurrency, valid_us, budget)
        return await self._unary(call)

    async def service_keys(self, service: str = "") -> Sequence[services_pb2.ServiceKey]:
        """Keys of one service or all, without their secrets."""
        return (await self._unary(calls.service_keys(service))).keys

    async def revoke_key(self, key: str) -> services_pb2.ServiceKey:
        """Void a key."""
        return await self._unary(calls.revoke_key(key))

    # -------------------------------------------------------------- policies and money

    async def apply_policies(self, sources: Iterable[tuple[str, str]]) -> Sequence[money_pb2.Policy]:
        """Apply (file name, YAML text) pairs: all documents or none."""
        return (await self._unary(calls.apply_policies("Apply", sources))).policies

    async def check_policies(self, sources: Iterable[tuple[str, str]]) -> Sequence[money_pb2.Policy]:
        """Validate without applying; `change` says what applying would do."""
        return (await self._unary(calls.apply_policies("Check", sources))).policies

    async def policies(self, *, kind: str = "") -> Sequence[money_pb2.Policy]:
        """The documents in force, without their texts: `policy` has one."""
        return (await self._unary(calls.list_policies(kind))).policies

    async def policy(self, name: str, *, kind: str = "", version: int = 0) -> money_pb2.Policy:
        """One document; `version` 0 is the newest."""
        return await self._unary(calls.one_policy("Get", name, kind, version))

    async def delete_policy(self, name: str, *, kind: str = "") -> money_pb2.Policy:
        """Take a document out of force; its history stays."""
        return await self._unary(calls.one_policy("Delete", name, kind, 0))

    async def cost(self, **filters: Any) -> money_pb2.CostResponse:
        """Cost grouped by dimensions; live work is settled first, so the totals tie.

        Args:
            **filters: by (project user experiment model model_version node pool day job kind), since
                and until (instants), job, project, user, experiment, model, include_idle.
        """
        return await self._unary(calls.cost(**filters))

    async def budgets(self, *, name: str = "") -> Sequence[money_pb2.Budget]:
        """Every budget, or the one of that name with its live jobs."""
        return (await self._unary(calls.budgets(name))).budgets

    async def forecasts(self, *, name: str = "") -> Sequence[money_pb2.Budget]:
        """Every budget, or the one of that name, with what is expected of it."""
        return (await self._unary(calls.budgets(name, forecast=True))).budgets

    async def budget_history(self, name: str) -> Sequence[money_pb2.Budget]:
        """The budget of that name in each of its periods, the newest first."""
        return (await self._unary(calls.budgets(name, history=True))).budgets

    async def prices(self, **filters: Any) -> Sequence[money_pb2.Price]:
        """Prices and offers.

        Args:
            **filters: provider, region, instance_type, market, gpus (`H100:8`), sort
                (`price`, `gpu-price` or `pflop-day`), limit, history.
        """
        return (await self._unary(calls.prices(**filters))).prices

    async def correct(
        self,
        job: str,
        *,
        reason: str,
        amount: Money | None = None,
        to_ppm: int | None = None,
        since: int = 0,
        until: int = 0,
        dry_run: bool = False,
    ) -> money_pb2.CorrectResponse:
        """Correct what an ended job was charged; see `Client.correct`."""
        call = calls.correct(
            job,
            reason=reason,
            amount=amount,
            to_ppm=to_ppm,
            since=since,
            until=until,
            dry_run=dry_run,
        )
        return await self._unary(call)

    async def retag(
        self,
        job: str,
        *,
        reason: str,
        marks: Mapping[str, str],
        labels: Mapping[str, str],
        since: int = 0,
        until: int = 0,
        dry_run: bool = False,
    ) -> money_pb2.CorrectResponse:
        """What an ended job was charged is for somebody else; see `Client.retag`."""
        call = calls.retag(
            job, reason=reason, marks=marks, labels=labels, since=since, until=until, dry_run=dry_run
        )
        return await self._unary(call)

    async def close_period(
        self, period: str, *, force: bool = False, dry_run: bool = False
    ) -> money_pb2.BookPeriod:
        """Close a month of the books; see `Client.close_period`."""
        return await self._unary(calls.close_period(period, force=force, dry_run=dry_run))

    async def keep_bill(self, request: money_pb2.KeepBillRequest) -> bool:
        """Keep a part of a provider's bill beside what the books said; False: it was kept before."""
        return (await self._unary(calls.keep_bill(request))).kept

    async def periods(self, period: str = "") -> Sequence[money_pb2.BookPeriod]:
        """Months of the books, oldest first; or one."""
        return (await self._unary(calls.periods(period))).periods

    async def grant_budget(
        self, name: str, amount: Money, *, reason: str, key: str = ""
    ) -> money_pb2.BudgetPostingResponse:
        """Give a budget more in its period; see `Client.grant_budget`."""
        return await self._unary(calls.grant_budget(name, amount, reason=reason, key=key))

    async def approve_budget(
        self, name: str, *, reason: str, until: int = 0, amount: Money | None = None, key: str = ""
    ) -> money_pb2.BudgetPostingResponse:
        """Approve what a threshold of a budget asks for; see `Client.approve_budget`."""
        call = calls.approve_budget(name, reason=reason, until=until, amount=amount, key=key)
        return await self._unary(call)

    async def transfer_budget(
        self, name: str, to: str, amount: Money, *, reason: str, key: str = ""
    ) -> money_pb2.BudgetPostingResponse:
        """Let one budget have what another one gives; see `Client.transfer_budget`."""
        return await self._unary(calls.transfer_budget(name, to, amount, reason=reason, key=key))

    async def explain_price(self, name: str) -> money_pb2.ExplainPriceResponse:
        """Every part of the price of a node, a pool, a cost model or a machine type."""
        return await self._unary(calls.explain_price(name))

    def report(
        self,
        kind: str,
        period: str,
        *,
        format: str = "csv",
        focus_version: str = "",
        project: str = "",
        timezone: str = "",
        by: str = "",
    ) -> AsyncIterator[money_pb2.ReportChunk]:
        """A report (`focus`, `statement`, `waste` and so on) over `2026-11`, as chunks of one file."""
        call = calls.report(
            kind,
            period,
            format=format,
            focus_version=focus_version,
            project=project,
            timezone=timezone,
            by=by,
        )
        return self._stream(call)

    def what_if(
        self,
        period: str,
        sources: Iterable[tuple[str, str]],
        *,
        by: str = "",
        format: str = "csv",
        project: str = "",
        timezone: str = "",
    ) -> AsyncIterator[money_pb2.ReportChunk]:
        """What jobs would have paid at the prices of (file name, YAML text) pairs, as chunks of one file."""
        call = calls.what_if(period, sources, by=by, format=format, project=project, timezone=timezone)
        return self._stream(call)

    # -------------------------------------------------------------- events and the server

    def events(self, **filters: Any) -> AsyncIterator[events_pb2.Event]:
        """Events, oldest first. With `follow` it outlives a restart of the server: each event comes once.

        Args:
            **filters: after_seq, limit, follow, job, node, kinds, tail (the last so many).
        """
        if filters.get("follow"):
            return self._follow(**filters)
        return self._stream(calls.list_events(**filters))

    async def _follow(
        self, *, after_seq: int = 0, limit: int = 0, job: str = "", tail: int = 0, **filters: Any
    ) -> AsyncIterator[events_pb2.Event]:
        # Asked first: a server that was never reached is not waited for, and here is where a tail ends.
        began = (await self.server()).last_seq
        if job:  # `last` may mean another job when it is asked for again
            job = (await self.get(job)).id
        channel = self._channel
        left = limit or -1
        lost_at: float | None = None
        while True:
            try:
                if lost_at is not None:
                    await self.server()
                    lost_at = None
                wanted = filters | {"after_seq": after_seq, "limit": max(left, 0), "job": job, "tail": tail}
                async for event in self._stream(calls.list_events(**wanted)):
                    if not filters["follow"] and event.seq > began:
                        continue
                    after_seq, tail, left = event.seq, 0, left - 1
                    yield event
                if filters["follow"]:
                    return
                after_seq, tail = max(after_seq, began), 0
            except ServerUnavailable:
                now = time.monotonic()
                lost_at = now if lost_at is None else lost_at
                await asyncio.sleep(RETRY_S)
                if self._channel is not channel or now - lost_at > PATIENCE_S:
                    raise
            if left == 0:
                return
            # A tail of which none has come is asked for up to the beginning, and apart from what followed:
            # that would take the places of what was, and could itself be more than the tail.
            filters["follow"] = not tail

    async def server(
        self, *, census: bool = False, timeout_s: float = calls.UNARY_TIMEOUT_S
    ) -> events_pb2.ServerResponse:
        """Who serves, since when, and whether it is ready; `census`: and counts of its jobs."""
        return await self._unary(calls.server(census), timeout_s)

    async def doctor(self, *, full: bool = False) -> Sequence[events_pb2.Finding]:
        """Run the invariant checks now; `full` verifies the whole log as well."""
        return (await self._unary(calls.doctor(full), None if full else calls.UNARY_TIMEOUT_S)).findings

    def save_snapshot(self) -> AsyncIterator[events_pb2.SnapshotChunk]:
        """What the newest plan was made of, with the plan, as chunks of one file (operators)."""
        return self._stream(calls.save_snapshot())

    # -------------------------------------------------------------- the machinery

    async def _unary(self, call: Call[Answer], timeout_s: float | None = calls.UNARY_TIMEOUT_S) -> Answer:
        multi = await self._callable("unary_unary", call.path, call.answer)
        for last in (False, True):
            metadata = await self._identity.obtain()
            try:
                answer: Answer = await multi(call.request, timeout=timeout_s, metadata=metadata)
            except grpc.RpcError as error:
                mapped = error_from(error, self.address)
                stale = isinstance(mapped, Unauthenticated) and self._identity.renew()
                if last or not stale:
                    raise mapped from None
            else:
                return answer
        raise AssertionError("unreachable")

    async def _stream(self, call: Call[Answer], timeout_s: float | None = None) -> AsyncIterator[Answer]:
        multi = await self._callable("unary_stream", call.path, call.answer)
        async for answer in self._guard(multi, call.request, timeout_s):
            yield answer

    async def _guard(
        self, multi: Callable[..., Any], request: Any, timeout_s: float | None = None
    ) -> AsyncIterator[Any]:
        metadata = await self._identity.obtain()
        began_s, answered = time.monotonic(), False
        stream = multi(request, timeout=timeout_s, metadata=metadata)
        try:
            async for answer in stream:
                answered = True
                yield answer
        except grpc.RpcError as error:
            mapped = error_from(error, self.address)
            if timeout_s is not None and timed_out(error, time.monotonic() - began_s, timeout_s):
                raise TimeoutError(f"{timeout_s:g} s have passed") from None
            if isinstance(mapped, Unauthenticated) and self._identity.renew() and not answered:
                mapped = restarted(self.address)
            raise mapped from None
        finally:
            stream.cancel()

    async def _callable(self, kind: str, path: str, answer: type[Any]) -> Callable[..., Any]:
        if path not in self._callables:
            make = getattr(await self._open(), kind)
            self._callables[path] = make(
                path,
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=answer.FromString,
            )
        return self._callables[path]

    async def _open(self) -> Any:
        if self._channel is None and self.address.socket is not None:
            await self._await_listener()
        if self._channel is None:  # nor opened while this call waited
            if self.address.socket is None:
                credentials = tls_credentials()
                self._channel = grpc.aio.secure_channel(self.address.target, credentials, OPTIONS)
            else:
                self._socket = reachable(self.address.socket)
                try:
                    short = self._socket.__enter__()
                except OSError:
                    raise unavailable(self.address) from None
                self._channel = grpc.aio.insecure_channel(f"unix:{short}", UNIX_OPTIONS)
        return self._channel

    async def _await_listener(self) -> None:
        stop_at = time.monotonic() + self._patience_s
        while time.monotonic() < stop_at and is_expected(self.address):  # noqa: ASYNC110 (another process)
            await asyncio.sleep(0.05)
