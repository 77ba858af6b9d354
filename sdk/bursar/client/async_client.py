"""The client for asyncio programs: typed arguments in, frozen results out, streams as async iterators.

Owns    the methods of both clients. `sync_client.py` is written from this file by `make clients`, so that
        they cannot drift: edit this file alone.
Why     nobody should have to know protobuf or microseconds to submit a job and to learn what it cost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack

from bursar import results
from bursar.client import asked
from bursar.client.address import Address, parse
from bursar.client.aio import AsyncWireClient
from bursar.client.arguments import (
    CostFilters,
    Count,
    Dimension,
    EventFilters,
    JobChanges,
    JobFields,
    JobFilters,
    JobRef,
    Position,
    PriceFilters,
    WrongArgument,
    checked,
)
from bursar.client.calls import OUTPUT_BYTES_MAX
from bursar.codec import results as made
from bursar.codec.slurm_names import names_from_wire
from bursar.codec.spec import calibration_to_wire
from bursar.jobfile.site import Site
from bursar.model import Calibration, JobSpec
from bursar.money import Money


class AsyncClient:
    """A connection to one server.

    Every method raises a class of `bursar.errors`: `WrongArgument` (also a `TypeError`) before anything is
    sent, else what the server says; calls that answer once have 30 s to do so. A job is an id, a number, an
    unambiguous name, `"last"`, `"JOB[7]"` for one task of an array, or a `Job` of an earlier answer.
    One event loop may use it; not to be used in a process forked after its first call.
    """

    def __init__(
        self, server: str | None = None, token: str | None = None, *, patience_s: float = 0.0
    ) -> None:
        """Choose a server; nothing is sent yet.

        Args:
            server: `unix:///path` or `grpcs://host:7443`; else `BURSAR_SERVER`, the socket of a running
                `bursar up`, or `/run/bursar/bursar.sock`.
            token: sent instead of the identity found otherwise (the caller's uid on a unix socket,
                `BURSAR_TOKEN` or the token file over TLS).
            patience_s: how long the first call waits for a daemon that restarts.
        """
        _check_connection(self, server, token, patience_s=patience_s)
        named = parse(server, "server") if server else None
        self._wire = AsyncWireClient(named, token, patience_s=patience_s)

    @property
    def address(self) -> Address:
        """The server, and who named it."""
        return self._wire.address

    async def __aenter__(self) -> AsyncClient:
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
        await self._wire.close()

    # -------------------------------------------------------------- jobs

    @checked
    async def submit(
        self,
        job: str | Path | JobSpec | None = None,
        *,
        command: Sequence[str] | None = None,
        arguments: Sequence[str] = (),
        idempotency_key: str = "",
        **fields: Unpack[JobFields],
    ) -> results.Job:
        """Submit one job; durable when this returns.

        Args:
            job: path of a job file or of a script with `#BURSAR` or `#SBATCH` lines; or a `JobSpec`.
            command: in place of a file, the words of a program: `["python", "train.py"]`.
            arguments: words for a script.
            idempotency_key: the same key and the same job give the first answer again, so that a broken
                connection is tried again for some seconds. Without one, a lost server leaves open whether the
                job was accepted.
            **fields: what the job asks for, as in the job file; they stand above what a file says.

        Raises:
            InvalidRequest: with one line for each fault.
            BudgetExceeded, QuotaExceeded: a hard budget can never pay for it, a quota never allows it.
        """
        file = asked.opened(job, command)
        spec = asked.wanted("submit", file or job, command, arguments, fields, await self._site(file))
        return made.job((await self._wire.submit(spec, idempotency_key=idempotency_key)).job)

    @checked
    async def submit_many(
        self, specs: Iterable[JobSpec | tuple[JobSpec, str]]
    ) -> AsyncIterator[results.Submitted]:
        """Submit many jobs over one call; answers come in order, each durable when yielded.

        A pair carries an idempotency key. A refused job is an answer with `error`; the others go on.
        """
        async for answer in self._wire.submit_many(specs):
            yield made.submitted(answer)

    @checked
    async def plan(
        self,
        job: str | Path | JobSpec | None = None,
        *,
        command: Sequence[str] | None = None,
        arguments: Sequence[str] = (),
        **fields: Unpack[JobFields],
    ) -> results.Plan:
        """What a submit would do now, with its price; changes nothing. Arguments as of `submit`."""
        file = asked.opened(job, command)
        spec = asked.wanted("plan", file or job, command, arguments, fields, await self._site(file))
        return made.plan(await self._wire.plan(spec))

    async def _site(self, file: asked.File | None) -> Site | None:
        """What a script may speak of, asked for where it does."""
        if file is None or file.asks is None:
            return None
        nodes = asked.site_nodes(await self._wire.nodes()) if file.asks.nodes else None
        return Site(nodes, names_from_wire(await self._wire.slurm_names()) if file.asks.names else ())

    @checked
    async def get(self, job: JobRef) -> results.Job:
        """One job, whole."""
        return made.job(await self._wire.get(asked.reference(job)))

    @checked
    def list(self, *, limit: Count = 0, **filters: Unpack[JobFilters]) -> AsyncIterator[results.Job]:
        """Jobs, newest first; pages are fetched as they are needed. Rows lack what their `left_out` names.

        Args:
            limit: at most so many; 0 means all.
            **filters: as `bursar ls` has them.
        """
        return self._listed(limit, asked.filters(filters))

    async def _listed(self, limit: int, filters: Mapping[str, Any]) -> AsyncIterator[results.Job]:
        async for job in self._wire.list(limit=limit, **filters):
            yield made.job(job)

    @checked
    async def watch(
        self,
        jobs: JobRef | Sequence[JobRef],
        *,
        until_terminal: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncIterator[results.Job]:
        """Jobs as they change: the current state of each first, then every change. Each as in `list`.

        Raises:
            TimeoutError: `timeout_s` have passed.
        """
        found = self._wire.watch(asked.references(jobs), until_terminal=until_terminal, timeout_s=timeout_s)
        async for job in found:
            yield made.job(job)

    @checked
    async def wait(self, job: JobRef, *, timeout_s: float | None = None) -> results.Job:
        """Wait until a job has ended, and answer it whole. Outlives a restart of the server.

        Raises:
            TimeoutError: `timeout_s` have passed; 0 asks once. The job goes on.
        """
        ended = await self._wire.wait([asked.reference(job)], timeout_s=timeout_s)
        return made.job(await self._wire.get(next(iter(ended))))

    @checked
    async def wait_all(
        self,
        jobs: Sequence[JobRef],
        *,
        timeout_s: float | None = None,
        seen: Callable[[results.Job], None] | None = None,
    ) -> dict[str, results.Job]:
        """Wait until all of `jobs` have ended; their last states by id, as in `list`.

        Args:
            jobs: what to wait for.
            timeout_s: raises `TimeoutError` when so much time has passed; None waits for ever. 0 asks once.
            seen: told of each change.
        """
        tell = None if seen is None else lambda job: seen(made.job(job))
        ended = await self._wire.wait(asked.references(jobs), timeout_s=timeout_s, seen=tell)
        return {job_id: made.job(job) for job_id, job in ended.items()}

    @checked
    async def explain(self, job: JobRef) -> results.Explanation:
        """Why a job is where it is, and what would change it."""
        return made.explanation(await self._wire.explain(asked.reference(job)))

    @checked
    async def cancel(
        self, jobs: JobRef | Sequence[JobRef], *, grace_s: float | None = None, reason: str = ""
    ) -> tuple[results.Job, ...]:
        """Stop and end jobs, within `grace_s` seconds; None takes each job's own. `reason` is told at their
        end, beside who cancelled them.
        """
        grace_us = None if grace_s is None else _duration("cancel", "grace_s", grace_s)
        found = await self._wire.cancel(asked.references(jobs), grace_us=grace_us, reason=reason)
        return tuple(made.job(job) for job in found)

    @checked
    async def hold(self, jobs: JobRef | Sequence[JobRef]) -> tuple[results.Job, ...]:
        """Keep pending jobs from starting."""
        found = await self._wire.hold(asked.references(jobs))
        return tuple(made.job(job) for job in found)

    @checked
    async def release(self, jobs: JobRef | Sequence[JobRef]) -> tuple[results.Job, ...]:
        """Let held jobs start."""
        found = await self._wire.release(asked.references(jobs))
        return tuple(made.job(job) for job in found)

    @checked
    async def requeue(self, jobs: JobRef | Sequence[JobRef]) -> tuple[results.Job, ...]:
        """End the live attempt and run the job again."""
        found = await self._wire.requeue(asked.references(jobs))
        return tuple(made.job(job) for job in found)

    @checked
    async def update(self, job: JobRef, **changes: Unpack[JobChanges]) -> results.Job:
        """Change a pending job, which keeps its place in the queue; of a running one priority and comment."""
        found = await self._wire.update(asked.reference(job), **asked.changes_of(changes))
        return made.job(found)

    @checked
    async def logs(
        self,
        job: JobRef,
        *,
        rank: Count = 0,
        attempt: Count = 0,
        follow: bool = False,
        offset: Position = 0,
        tail_lines: Count = 0,
    ) -> AsyncIterator[results.LogChunk]:
        """What a rank wrote, as bytes with their offset.

        Args:
            job: which.
            rank: which process of a gang.
            attempt: number of the try; 0 is the newest.
            follow: then what it writes, until it ends.
            offset: first byte wanted. tail_lines: only the last so many; 0: from `offset`.
        """
        found = self._wire.logs(
            asked.reference(job),
            rank=rank,
            attempt=attempt,
            follow=follow,
            offset=offset,
            tail_lines=tail_lines,
        )
        async for chunk in found:
            if not chunk.HasField("trouble"):
                yield made.log_chunk(chunk)

    @checked
    async def logs_text(
        self, job: JobRef, *, rank: Count = 0, attempt: Count = 0, tail_lines: Count = 0
    ) -> str:
        """What a rank has written by now, or its last lines, as text; what is no UTF-8 becomes U+FFFD."""
        found = self._wire.logs(
            asked.reference(job), rank=rank, attempt=attempt, follow=False, offset=0, tail_lines=tail_lines
        )
        return b"".join([chunk.data async for chunk in found]).decode("utf-8", "replace")

    @checked
    async def execute(
        self,
        job: JobRef,
        command: Sequence[str],
        *,
        rank: Count = 0,
        stdin: bytes = b"",
        timeout_s: float | None = None,
        output_bytes_max: Position = OUTPUT_BYTES_MAX,
    ) -> results.Executed:
        """Run a program inside a running job, to its end: its exit code and what it wrote.

        It has the job's environment, devices and limits, is metered with it and ends with it. For the job's
        owner, operators and administrators.

        Args:
            job: which. rank: which member of a gang.
            command: the program and its words; no shell is in between.
            stdin: its standard input.
            timeout_s: raises `TimeoutError` when so much time has passed; the program is ended then.
            output_bytes_max: of both streams together; raises `RateLimited` for more, and ends the program.
        """
        return await self._wire.execute(
            asked.reference(job),
            list(command),
            rank=rank,
            given=stdin,
            timeout_s=timeout_s,
            output_bytes_max=output_bytes_max,
        )

    # -------------------------------------------------------------- nodes

    @checked
    async def nodes(self, *, pool: str = "") -> tuple[results.Node, ...]:
        """Every node, or those of a pool, by name."""
        return tuple(made.node(node) for node in await self._wire.nodes(pool=pool))

    @checked
    async def node(self, name: str) -> results.Node:
        """One node by name or id."""
        return made.node(await self._wire.node(name))

    @checked
    async def drain(
        self, node: str, *, reason: str = "", stop: bool = False, confirm_dead: bool = False
    ) -> results.Node:
        """No new work; running jobs finish, or are stopped with their grace when `stop`.

        `confirm_dead`: the caller vouches that the processes of a silent node are gone.
        """
        found = await self._wire.drain(node, reason=reason, stop=stop, confirm_dead=confirm_dead)
        return made.node(found)

    @checked
    async def cordon(self, node: str, *, reason: str = "") -> results.Node:
        """No new work; running jobs finish."""
        return made.node(await self._wire.cordon(node, reason=reason))

    @checked
    async def resume(self, node: str, *, reason: str = "") -> results.Node:
        """Take work again."""
        return made.node(await self._wire.resume(node, reason=reason))

    @checked
    async def calibrate(self, node: str, found: Calibration) -> results.Node:
        """Keep what a node delivered, as a job measured it there; `found.at` is set by the server."""
        return made.node(await self._wire.calibrate(node, calibration_to_wire(found)))

    @checked
    async def remove_node(self, node: str) -> results.RemovedNode:
        """Forget a node that is gone for good. Raises `WrongState` while anything of it is live."""
        return made.removed_node(await self._wire.remove_node(node))

    @checked
    async def node_token(
        self, node: str, *, first_use_within_s: float = 0.0, valid_s: float = 0.0
    ) -> results.NewToken:
        """A one-time secret with which a new node enrols.

        Args:
            node: its name.
            first_use_within_s: seconds until it is void unless it was used, at most 7 days; 0: the daemon's
                own choice.
            valid_s: seconds until it is void in any case; 0: no end.
        """
        ttl_us = _duration("node_token", "first_use_within_s", first_use_within_s)
        valid_us = _duration("node_token", "valid_s", valid_s)
        return made.new_token(await self._wire.node_token(node, ttl_us=ttl_us, valid_us=valid_us))

    @checked
    async def node_tokens(self, node: str = "") -> tuple[results.NodeToken, ...]:
        """The secrets of one node or all that are good now, without the secrets."""
        return tuple(made.node_token(token) for token in (await self._wire.node_tokens(node)).tokens)

    @checked
    async def revoke_node_tokens(self, node: str, id: str = "") -> tuple[results.NodeToken, ...]:
        """Void one secret of a node, or all. Streams that were admitted with them are cut."""
        found = await self._wire.revoke_node_tokens(node, id)
        return tuple(made.node_token(token) for token in found.revoked)

    @checked
    async def reservations(self) -> tuple[results.Reservation, ...]:
        """Reservations of nodes that are in force or to come, the first to begin first. They are policy
        documents of kind Reservation: `apply_policies` makes one, `delete_policy` cancels it.
        """
        return tuple(made.reservation(one) for one in (await self._wire.reservations()).reservations)

    @checked
    async def machines(self) -> tuple[results.Machine, ...]:
        """Rented machines, each from its intent until its provider lists it as gone."""
        return tuple(made.machine(one) for one in (await self._wire.machines()).machines)

    @checked
    async def machine(self, name: str) -> results.Machine:
        """One rented machine, by name or id, also one that is gone. Raises `NotFound`."""
        return made.machine(await self._wire.machine(name))

    @checked
    async def release_machine(self, machine: str, *, reason: str = "") -> results.Machine:
        """Give a rented machine back once nothing runs there; nothing new starts there. Raises `WrongState`
        when it is to end already, or comes up for a job.
        """
        return made.machine(await self._wire.release_machine(machine, reason=reason))

    @checked
    async def check_clouds(self) -> tuple[results.CloudCheck, ...]:
        """What must be right before machines can be rented; nothing is rented."""
        return tuple(made.cloud_check(one) for one in (await self._wire.check_clouds()).checks)

    @checked
    async def end_machine(self, machine: str, *, reason: str = "") -> results.Machine:
        """End a rented machine and all that runs on it. Raises `WrongState` when it is to end already."""
        return made.machine(await self._wire.end_machine(machine, reason=reason))

    @checked
    async def top(self, *, follow: bool = False) -> AsyncIterator[results.Top]:
        """The newest live picture of nodes and jobs, once or as it changes."""
        async for picture in self._wire.top(follow=follow):
            yield made.top(picture)

    # -------------------------------------------------------------- rights and secrets

    @checked
    async def grant(self, user: str, role: str, *, project: str = "") -> results.Grant:
        """Give a user a role over a project and all below it, or over the site."""
        return made.grant(await self._wire.grant(user, role, project=project))

    @checked
    async def revoke(self, user: str, role: str, *, project: str = "") -> results.Grant:
        """Take such a grant away."""
        return made.grant(await self._wire.revoke(user, role, project=project))

    @checked
    async def grants(self, *, user: str = "", project: str = "") -> tuple[results.Grant, ...]:
        """Grants that the caller may see."""
        return tuple(made.grant(grant) for grant in await self._wire.grants(user=user, project=project))

    @checked
    async def set_secret(self, name: str, value: str, *, project: str = "") -> results.Secret:
        """Keep a secret of a project, or of the site; it is shown to nobody again."""
        return made.secret(await self._wire.set_secret(name, value, project=project))

    @checked
    async def remove_secret(self, name: str, *, project: str = "") -> results.Secret:
        """Give this secret to no job any more."""
        return made.secret(await self._wire.remove_secret(name, project=project))

    @checked
    async def secrets(self, *, project: str = "") -> tuple[results.Secret, ...]:
        """Names of the secrets that the caller's jobs may use."""
        return tuple(made.secret(secret) for secret in await self._wire.secrets(project=project))

    # -------------------------------------------------------------- policies and money

    @checked
    async def apply_policies(self, sources: Sequence[tuple[str, str]]) -> tuple[results.Policy, ...]:
        """Apply (file name, YAML text) pairs: all documents or none."""
        return tuple(made.policy(policy) for policy in await self._wire.apply_policies(sources))

    @checked
    async def check_policies(self, sources: Sequence[tuple[str, str]]) -> tuple[results.Policy, ...]:
        """Validate without applying; `change` says what applying would do."""
        return tuple(made.policy(policy) for policy in await self._wire.check_policies(sources))

    @checked
    async def policies(self, *, kind: str = "") -> tuple[results.Policy, ...]:
        """The documents in force, without their texts: `policy` has one."""
        return tuple(made.policy(policy) for policy in await self._wire.policies(kind=kind))

    @checked
    async def policy(self, name: str, *, kind: str = "", version: Position = 0) -> results.Policy:
        """One document; `version` 0 is the newest."""
        return made.policy(await self._wire.policy(name, kind=kind, version=version))

    @checked
    async def delete_policy(self, name: str, *, kind: str = "") -> results.Policy:
        """Take a document out of force; its history stays."""
        return made.policy(await self._wire.delete_policy(name, kind=kind))

    @checked
    async def cost(
        self, *, by: Dimension | Sequence[Dimension] = (), **filters: Unpack[CostFilters]
    ) -> results.Cost:
        """Cost grouped by dimensions; live work is settled first, so the totals tie."""
        dimensions = [by] if isinstance(by, str) else [*by]
        return made.cost(await self._wire.cost(by=dimensions, **asked.filters(filters)), dimensions)

    @checked
    async def budgets(self) -> tuple[results.Budget, ...]:
        """Every budget."""
        return tuple(made.budget(budget) for budget in await self._wire.budgets())

    @checked
    async def budget(self, name: str) -> results.Budget:
        """The budget of that name, with its live jobs."""
        [found] = await self._wire.budgets(name=name)
        return made.budget(found)

    @checked
    async def forecasts(self) -> tuple[results.Budget, ...]:
        """Every budget, with what is expected of it in its `forecast`."""
        return tuple(made.budget(budget) for budget in await self._wire.forecasts())

    @checked
    async def forecast(self, name: str) -> results.Budget:
        """The budget of that name, with what is expected of it in its `forecast`."""
        [found] = await self._wire.forecasts(name=name)
        return made.budget(found)

    @checked
    async def budget_history(self, name: str) -> tuple[results.Budget, ...]:
        """The budget of that name in each of its periods, the newest first."""
        return tuple(made.budget(budget) for budget in await self._wire.budget_history(name))

    @checked
    async def grant_budget(
        self, name: str, amount: Money | str, *, reason: str, key: str = ""
    ) -> results.Budget:
        """Give a budget more in its current period, beside the limit of its document.

        Args:
            amount: such as `500 USD`; below zero: so much of what it was granted is taken back.
            reason: kept with the budget. key: said again with it, nothing more is given.
        """
        found = await self._wire.grant_budget(name, asked.money(amount), reason=reason, key=key)
        return made.budget(found.budgets[0])

    @checked
    async def approve_budget(
        self,
        name: str,
        *,
        reason: str,
        until: datetime | None = None,
        amount: Money | str | None = None,
        key: str = "",
    ) -> results.Budget:
        """Let jobs start that a threshold of a budget keeps waiting (project-admins, operators).

        Args:
            until: it ends then; without, with the period, or when the limit becomes another.
            amount: such as `500 USD`: so much more may be settled and held; without, what the limit has.
            reason: kept with the budget. key: said again with it, nothing more is approved.
        """
        found = await self._wire.approve_budget(name, reason=reason, key=key, **asked.approval(until, amount))
        return made.budget(found.budgets[0])

    @checked
    async def transfer_budget(
        self, name: str, to: str, amount: Money | str, *, reason: str, key: str = ""
    ) -> tuple[results.Budget, results.Budget]:
        """Let one budget have in its current period what another one gives of its own.

        Args:
            name, to: who gives, and who gets. amount: such as `500 USD`.
            reason: kept with both. key: said again with it, nothing more is transferred.
        """
        found = await self._wire.transfer_budget(name, to, asked.money(amount), reason=reason, key=key)
        source, target = found.budgets
        return made.budget(source), made.budget(target)

    @checked
    async def prices(self, **filters: Unpack[PriceFilters]) -> tuple[results.Price, ...]:
        """Prices and offers."""
        return tuple(made.price(price) for price in await self._wire.prices(**filters))

    @checked
    async def correct(
        self,
        job: JobRef,
        *,
        reason: str,
        amount: Money | str | None = None,
        percent: float | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        dry_run: bool = False,
    ) -> results.Correction:
        """Correct what an ended job was charged: its charges are reversed and posted anew, as of now.

        Args:
            amount: what the charges of that time are to be in all, such as `12.50 USD`; or
            percent: of what was metered. Either said twice changes nothing more.
            since, until: only charges of that time. dry_run: say what would be.
            reason: kept for ever, and shown in the statement.
        """
        asked_for = asked.correction(amount, percent, since, until)
        found = await self._wire.correct(asked.reference(job), reason=reason, dry_run=dry_run, **asked_for)
        return made.correction(found)

    @checked
    async def retag(
        self,
        job: JobRef,
        *,
        reason: str,
        project: str | None = None,
        user: str | None = None,
        experiment: str | None = None,
        model: str | None = None,
        model_version: str | None = None,
        labels: Mapping[str, str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        dry_run: bool = False,
    ) -> results.Correction:
        """Have what an ended job was charged be for somebody else from now on, as of now.

        Args:
            project, user, experiment, model, model_version: whom and what for; None stays as it was.
            labels: merged; an empty value takes a label away.
            since, until: only charges of that time. dry_run: say what would be.
            reason: kept for ever, and shown in the statement.
        """
        named = {
            "project": project, "user": user, "experiment": experiment, "model": model,
            "model_version": model_version,
        }  # fmt: skip
        found = await self._wire.retag(
            asked.reference(job),
            reason=reason,
            marks={key: value for key, value in named.items() if value is not None},
            labels=labels or {},
            dry_run=dry_run,
            **asked.stretch(since, until),
        )
        return made.correction(found)

    @checked
    async def close_period(
        self, period: str, *, force: bool = False, dry_run: bool = False
    ) -> results.BookPeriod:
        """Close a month of the books: nothing enters it any more, and it is signed as what it is.

        Args:
            period: a month of UTC, such as `2026-10` or `last-month`.
            force: in spite of what is missing, which is kept by name. dry_run: say what would be.
        """
        return made.book_period(await self._wire.close_period(period, force=force, dry_run=dry_run))

    @checked
    async def periods(self, period: str = "") -> tuple[results.BookPeriod, ...]:
        """Months of the books that have charges or are closed, oldest first; or one."""
        return tuple(made.book_period(one) for one in await self._wire.periods(period))

    @checked
    async def explain_price(self, name: str) -> tuple[results.PriceExplanation, ...]:
        """Every part of the price of a node, a pool, a cost model or a machine type."""
        found = await self._wire.explain_price(name)
        return tuple(made.price_explanation(one) for one in found.explanations)

    @checked
    async def report(
        self,
        kind: str,
        period: str,
        *,
        format: str = "csv",
        focus_version: str = "",
        project: str = "",
        timezone: str = "",
        by: str = "",
    ) -> bytes:
        """A report as the bytes of one file: `focus`, `statement`, `budgets`, `idle`, `utilization`, `waste`.

        Args:
            period: `2026-11`, `last-month`, a day; a quarter or a year too, but for `focus` and `statement`.
            format: `csv`, `json` or `text`; of `focus` `csv` or `parquet`, of `statement` `html` too.
            timezone: of the last four. by: of `statement`, such as `project,cost-center,label:team`.
        """
        found = self._wire.report(
            kind,
            period,
            format=format,
            focus_version=focus_version,
            project=project,
            timezone=timezone,
            by=by,
        )
        return b"".join([chunk.data async for chunk in found])

    @checked
    async def what_if(
        self,
        period: str,
        sources: Sequence[tuple[str, str]],
        *,
        by: str = "project",
        format: str = "csv",
        project: str = "",
        timezone: str = "",
    ) -> bytes:
        """What jobs would have paid at other prices, as the bytes of one file. Nothing is changed.

        Args:
            sources: (file name, YAML text) pairs of price books and cost models.
            by: `project`, `user`, `experiment`, `model`, `pool` or `node`. format: `csv`, `json` or `text`.
        """
        found = self._wire.what_if(period, sources, by=by, format=format, project=project, timezone=timezone)
        return b"".join([chunk.data async for chunk in found])

    # -------------------------------------------------------------- events and the server

    @checked
    async def events(self, **filters: Unpack[EventFilters]) -> AsyncIterator[results.Event]:
        """Events, oldest first. With `follow` it outlives a restart of the server: each event comes once."""
        async for event in self._wire.events(**asked.filters(filters)):
            yield made.event(event)

    @checked
    async def server(self, *, timeout_s: float = 30.0) -> results.Server:
        """Who serves, since when, and whether it is ready."""
        return made.server(await self._wire.server(timeout_s=timeout_s))

    @checked
    async def doctor(self, *, full: bool = False) -> tuple[results.Finding, ...]:
        """Run the invariant checks now; `full` verifies the whole log as well."""
        return tuple(made.finding(finding) for finding in await self._wire.doctor(full=full))

    @checked
    async def save_snapshot(self) -> bytes:
        """What the newest plan was made of, with the plan: a file for `bursar sim --replay` (operators)."""
        return b"".join([chunk.data async for chunk in self._wire.save_snapshot()])


@checked
def _check_connection(
    client: AsyncClient, server: str | None, token: str | None, *, patience_s: float
) -> None:
    """The arguments of a new client."""


def _duration(method: str, name: str, seconds: float) -> int:
    """Seconds as microseconds. Raises `WrongArgument` for what is no duration."""
    if not 0 <= seconds <= 100 * 365 * 86_400:
        raise WrongArgument(f"{method}(): {name} must be 0 or more seconds, not {seconds}")
    return round(seconds * 1_000_000)
