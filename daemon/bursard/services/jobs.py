"""The Jobs service: requests in, commands to the engine, answers once they are durable."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

import msgspec

from bursar.codec.amounts import exact
from bursar.codec.spec import options_with, refuse, spec_from_wire, throughput_from_wire
from bursar.errors import (
    BursarError,
    DeadlineRefused,
    InvalidRequest,
    RateLimited,
    StoreUnavailable,
    WrongState,
)
from bursar.model import Dependency, JobSpec, JobState, Reason
from bursar.model.check import GPUS_MAX, check
from bursar.model.ends import BY
from bursar.resources import ResourceRequest, least_gpus, sizes_of
from bursar.v1 import jobs_pb2 as pb
from bursar.v1 import jobs_pb2_grpc, types_pb2
from bursard.access.allowances import Allowances
from bursard.access.authorize import Action, authorize
from bursard.access.identity import caller
from bursard.access.outranking import refuse_outranking
from bursard.access.rules import Writes
from bursard.access.spare import Spares
from bursard.cycle import Cycle, reason_of
from bursard.engine import Engine, spec_bytes
from bursard.events import DeadlinePromised, Event, JobSubmitted, LimitChanged
from bursard.fleet import Fleet
from bursard.fleet.attachments import Attachments
from bursard.scheduler.explain import WHAT_IF_ID
from bursard.services import attaching, joblist, logs, planning, profiles, serviceplan
from bursard.services.ends import named_ranges
from bursard.services.failures import add_failed_tasks
from bursard.services.fates import fates_of
from bursard.services.history import add_expected
from bursard.services.idling import snoozed
from bursard.services.keys import KeyGate
from bursard.services.kinds import refuse_unknown_gpus
from bursard.services.lookup import find_job
from bursard.services.pushback import after_room
from bursard.services.serviceviews import fallback_for
from bursard.services.unseen import told as told_to
from bursard.services.views import (
    ROWS_BYTES_MAX,
    Form,
    add_samples,
    job_terse,
    job_view,
    promised_view,
    reason_view,
)
from bursard.services.watching import Watcher, WatchHub
from bursard.state import JobRecord, State
from bursard.state.budgets import promises as asks
from bursard.state.decide import jobs as decide
from bursard.state.decide.following import Fates, without_own
from bursard.state.decide.services import second
from bursard.state.decide.why import of_each, read_reason
from bursard.state.tables import TASK_SUCCEEDED
from bursard.store import KeyRow
from bursard.telemetry.history import History
from bursard.turns import breathe, in_turn

REFS_MAX = 1000
KEY_MAX = 200
FREE_BYTES_MIN = 64 * 1024 * 1024
"""Below this new work is refused, so that what was accepted can still be settled."""
REASONS_S = 1.0
"""How often a watch looks whether a job now waits for something else, or runs where nobody answers."""
REASONS_WATCHED = 16
"""Of the jobs of one watch."""
_DIGITS = re.compile(r"\d+")
_IN_FLIGHT_MAX = 4096
_BATCH_MAX = 256
"""Submits of one stream whose keys are looked up together."""
_PIECE = 32
"""Submits of one message, or jobs of one command, that are decided in one go: a few milliseconds."""
_PIECES_IN_FLIGHT = 128

_UPDATABLE = (
    "name", "project", "experiment", "model", "model_version", "priority", "preemptible", "nodes",
    "max_nodes",
    "spot_policy", "time_limit_us", "max_price_nanos_per_hour", "currency", "comment", "deadline_at",
    "deadline_policy",
)  # fmt: skip
"""Plain fields that an update may change; labels and resources are merged into those that are there, and an
amount may be wide.
"""


class _Others(NamedTuple):
    """What is known of the jobs that one waits for, by id: the final states of those that have ended, what
    each was called, and what became of the tasks that its own are to follow.
    """

    ended: dict[str, JobState]
    called: dict[str, str]
    fates: dict[str, Fates]


class JobsService(jobs_pb2_grpc.JobsServicer):
    """Everything a submitter does."""

    def __init__(
        self,
        engine: Engine,
        cycle: Cycle,
        fleet: Fleet,
        newest: Callable[[str], types_pb2.Sample | None] = lambda _: None,
        allowances: Allowances | None = None,
        attachments: Attachments | None = None,
        history: History | None = None,
        cold_us: Callable[[str], int] = lambda _: 0,
    ) -> None:
        self.engine = engine
        self.cycle = cycle
        self.fleet = fleet
        self.newest = newest
        self.history = history or History()
        self._cold_us = cold_us
        self._attachments = attachments or Attachments(lambda _: None)
        self._allowances = allowances or Allowances(engine.clock.boot_us, engine.state.limits)
        self._spares = Spares(engine.clock.boot_us)
        self.hub = WatchHub(engine)
        self._space_checked_at = 0
        self._keys = KeyGate(engine)

    # --- submit

    @after_room
    async def Submit(self, request: pb.SubmitRequest, context: Any) -> pb.SubmitResponse:
        """Accept one job."""
        user = caller().name
        async with self._keys.asking(user, [request.idempotency_key]) as known:
            response, seq = await self._submit(request, user, known)
        await self.engine.durable(seq)
        return response

    async def SubmitMany(
        self, requests: AsyncIterator[pb.SubmitRequest], context: Any
    ) -> AsyncIterator[pb.SubmitResponse]:
        """Accept many; answers in order, each once durable. A refusal does not end the stream."""
        user = caller().name
        asked: asyncio.Queue[pb.SubmitRequest | None] = asyncio.Queue(_BATCH_MAX)
        accepted: asyncio.Queue[tuple[pb.SubmitResponse, int] | None] = asyncio.Queue(_IN_FLIGHT_MAX)

        async def read() -> None:
            async for request in requests:
                await asked.put(request)

        async def accept() -> None:
            while batch := await _waiting(asked):
                for answer in await self._submit_batch(batch, user):
                    await accepted.put(answer)

        tasks = [
            asyncio.create_task(in_turn(_ending(accept(), accepted)), name="submit-accept"),
            asyncio.create_task(in_turn(_ending(read(), asked)), name="submit-read"),
        ]
        try:
            while (item := await accepted.get()) is not None:
                response, seq = item
                await self.engine.durable(seq)
                yield response
            for task in tasks:
                await task
        finally:
            for task in tasks:
                task.cancel()

    async def SubmitBatches(
        self, requests: AsyncIterator[pb.SubmitBatch], context: Any
    ) -> AsyncIterator[pb.SubmitAnswers]:
        """Accept many, in messages of many."""
        user = caller().name
        accepted: asyncio.Queue[list[tuple[pb.SubmitResponse, int]] | None] = asyncio.Queue(_PIECES_IN_FLIGHT)

        async def accept() -> None:
            async for batch in requests:
                jobs = batch.jobs
                if len(jobs) > _BATCH_MAX:
                    raise InvalidRequest(f"jobs: {len(jobs)} in one message; at most {_BATCH_MAX}")
                for at in range(0, len(jobs), _PIECE):
                    await accepted.put(await self._submit_batch(jobs[at : at + _PIECE], user))
                    await asyncio.sleep(0)  # the writer begins with this piece

        task = asyncio.create_task(in_turn(_ending(accept(), accepted)), name="submit-accept")
        try:
            while (piece := await accepted.get()) is not None:
                await self.engine.durable(max(seq for _, seq in piece))
                for message in _answers(response for response, _ in piece):
                    yield message
            await task
        finally:
            task.cancel()

    async def _submit_batch(
        self, batch: Sequence[pb.SubmitRequest], user: str
    ) -> list[tuple[pb.SubmitResponse, int]]:
        """Requests that came together, or while others were decided: one look at the store for all keys."""
        answers: list[tuple[pb.SubmitResponse, int]] = []
        async with self._keys.asking(user, [request.idempotency_key for request in batch]) as known:
            for request in batch:
                await self.engine.writer.room()
                try:
                    answers.append(await self._submit(request, user, known))
                except BursarError as error:
                    answers.append((_refusal(told_to(error, self.engine.state, caller())), 0))
                await breathe()
        return answers

    async def _submit(
        self, request: pb.SubmitRequest, user: str, known: Mapping[str, KeyRow]
    ) -> tuple[pb.SubmitResponse, int]:
        state, engine = self.engine.state, self.engine
        key = request.idempotency_key
        if len(key) > KEY_MAX:
            raise InvalidRequest(f"idempotency_key: at most {KEY_MAX} characters")
        await self._check_space()
        asked = spec_from_wire(request.spec)
        authorize(Action.SUBMIT, asked.project)
        if key in known:
            return await self._known(request, asked, known[key]), state.version
        self._allowances.check(user, Writes.JOBS)
        refuse_outranking(state.priority, asked.project, asked.priority)
        refuse_unknown_gpus(engine, asked.options)
        spec, others = await self._resolve_dependencies(asked)
        digest = spec_bytes(asked) if key and asked.depends_on != spec.depends_on else b""
        # From here to the commit nothing waits: what was checked is what becomes true.
        events = decide.submit(
            state, engine.ids, user=user, spec=spec, key=key, digest=digest, **others._asdict()
        )
        if events:
            events += self._promise(user, spec, events[0])
        if not events:
            return self._answer(state.jobs[state.keys[user, key]], request, True), state.version
        seq = engine.commit(events, user)
        submitted = events[0]
        assert isinstance(submitted, JobSubmitted)
        return self._answer(state.jobs[submitted.job_id], request, False), seq

    def _promise(self, user: str, spec: JobSpec, submitted: Event) -> list[Event]:
        assert isinstance(submitted, JobSubmitted)
        now, spare = self.engine.now(), self._spares.of(user)
        return self.cycle.promising.for_new(user, spec, submitted.job_id, now, spare=spare)

    async def _known(self, request: pb.SubmitRequest, asked: JobSpec, row: KeyRow) -> pb.SubmitResponse:
        """The job that this key made, whatever it and the names in its `depends_on` have become since."""
        if row.digest != spec_bytes(asked):
            # Earlier versions bound a key to the ids behind the names.
            spec, _ = await self._resolve_dependencies(asked)
            if spec == asked or row.digest != spec_bytes(spec):
                raise decide.key_conflict(request.idempotency_key, row.job_id)
        return self._answer(await find_job(self.engine, row.job_id), request, True)

    def _answer(self, job: JobRecord, request: pb.SubmitRequest, existed: bool) -> pb.SubmitResponse:
        if request.terse:
            wire = types_pb2.Job(id=job.id, number=job.number, state=job.state.value)
            return pb.SubmitResponse(job=wire, existed=existed)
        return pb.SubmitResponse(job=self._view(job), existed=existed)

    async def _resolve_dependencies(self, spec: JobSpec) -> tuple[JobSpec, _Others]:
        """The spec with ids, and what is known of the jobs that it waits for."""
        if not spec.depends_on:
            return spec, _Others({}, {}, {})
        # A singleton names no job but all of a name: which these are is decided when it enters.
        named = [one for one in spec.depends_on if one.when != "singleton"]
        jobs = [await find_job(self.engine, one.job) for one in named]
        followed = [
            job
            for job, one in zip(jobs, named, strict=True)
            if one.when == TASK_SUCCEEDED and job.array is not None
        ]
        fates = await fates_of(self.engine, followed) if followed and spec.array is not None else {}
        # Only now, when nothing waits any more: a job found first may have ended meanwhile.
        ended = {job.id: job.state for job in jobs if job.state.terminal}
        found = [Dependency(job.id, one.when) for job, one in zip(jobs, named, strict=True)]
        found += [one for one in spec.depends_on if one.when == "singleton"]
        called = {job.id: one.job for job, one in zip(jobs, named, strict=True)}
        return replace_spec(spec, {"depends_on": tuple(found)}), _Others(ended, called, fates)

    async def _check_space(self) -> None:
        now = self.engine.clock.boot_us()
        if now - self._space_checked_at < 1_000_000:
            return
        free = await asyncio.to_thread(self.engine.log.free_bytes)
        if free < FREE_BYTES_MIN:
            raise StoreUnavailable(
                f"the disk under the daemon's state has {free >> 20} MiB left, less than the"
                f" {FREE_BYTES_MIN >> 20} MiB kept for what is already accepted; free some space",
                {"free_bytes": str(free)},
            )
        self._space_checked_at = now

    # --- reads

    async def Get(self, request: pb.GetJobRequest, context: Any) -> types_pb2.Job:
        """One job, with what its processes and devices do now."""
        job = await find_job(self.engine, request.job)
        await self.engine.durable()
        wire = self._view(job)
        add_samples(wire, self.newest)
        await add_failed_tasks(self.engine, wire, job)
        await add_expected(self.engine, wire, job)
        return wire

    async def List(self, request: pb.ListJobsRequest, context: Any) -> pb.ListJobsResponse:
        """Jobs by page."""
        await self.engine.durable()
        return await joblist.page(self.engine, self.cycle, request)

    async def Watch(self, request: pb.WatchJobsRequest, context: Any) -> AsyncIterator[types_pb2.Job]:
        """Jobs as they change."""
        jobs = await self._find_all(request.jobs, Action.SEE_JOBS)
        ids = [job.id for job in jobs]
        watcher = self.hub.add(ids)
        open_ids = set(ids)
        told: dict[str, str] = {}
        try:
            watcher.changed.update(ids)
            while open_ids or not request.until_terminal:
                changed, watcher.changed = watcher.changed, set()
                watcher.ready.clear()
                await self.engine.durable()
                for job_id in sorted(changed):
                    job = await find_job(self.engine, job_id)
                    if job.state.terminal:
                        open_ids.discard(job_id)
                    row = self._view(job, Form.ROW)
                    told.pop(job_id, None)
                    if not job.state.terminal:
                        told[job_id] = self._waits_for(job)
                    yield row
                if open_ids or not request.until_terminal:
                    await self._change(watcher, told)
        finally:
            self.hub.remove(watcher, ids)

    async def _change(self, watcher: Watcher, told: Mapping[str, str]) -> None:
        """Until a watched job changes. That another reason keeps it waiting, or that a node of it does not
        answer, is no event of the job: it is looked for.
        """
        while not watcher.ready.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REASONS_S if told else None):
                    await watcher.ready.wait()
            for job_id in islice(told, REASONS_WATCHED):
                job = self.engine.state.jobs.get(job_id)
                if job is not None and self._waits_for(job) != told[job_id]:
                    watcher.changed.add(job_id)
                    watcher.ready.set()

    def _waits_for(self, job: JobRecord) -> str:
        """The reason without its numbers, which may change each second."""
        reason = self._reason(job)
        if reason is None:
            return ""
        told = _DIGITS.sub("", reason.message) if job.state is JobState.PENDING else str(reason.facts)
        return reason.code.value + told

    async def Plan(self, request: pb.PlanRequest, context: Any) -> pb.PlanResponse:
        """What would happen now."""
        user = caller().name
        spec = spec_from_wire(request.spec)
        authorize(Action.SUBMIT, spec.project)
        refuse_outranking(self.engine.state.priority, spec.project, spec.priority)
        refuse_unknown_gpus(self.engine, spec.options)
        spec, others = await self._resolve_dependencies(spec)
        other = second(self.engine.state, spec)
        updates = other is not None and other.spec.project == spec.project
        waits = decide.admit(self.engine.state, user, spec, **others._asdict(), updates=updates)
        promised = self.cycle.promising.for_new(
            user, spec, WHAT_IF_ID, self.engine.now(), spare=self._spares.of(user)
        )
        note = "; ".join(
            f"{named_ranges(alone)} of it: job {called} has none of that index, so all of it must come first"
            for called, alone in without_own(spec, others.fates)
        )
        promise = next((one for one in promised if isinstance(one, DeadlinePromised)), None)
        if other is not None:
            told = (
                f"service {spec.name} runs already (job {other.display}): `bursar service update {spec.name}"
                " FILE` would change it to this"
            )
            note = "; ".join(filter(None, (note, told)))
        service = spec.service
        if service is not None and service.fallback and fallback_for(self.engine.state, user, spec) is None:
            told = f"fallback: no service {service.fallback} of {user} in project {spec.project} is there now"
            note = "; ".join(filter(None, (note, told)))
        first, rents = waits.first(spec), self.cycle.rents
        wire = await planning.plan_view(self.engine, user, spec, first, rents, note, promise)
        if spec.service is not None:
            await serviceplan.expect(self.engine, wire, spec, caller(), self._cold_us)
        if promise is not None:
            wire.promise.CopyFrom(promised_view(promise))
        return wire

    async def Explain(self, request: pb.ExplainRequest, context: Any) -> pb.ExplainResponse:
        """Why a job is where it is."""
        job = await find_job(self.engine, request.job)
        await self.engine.durable()
        return await planning.explain_view(self.engine, self.cycle, job)

    async def Profile(self, request: pb.ProfileRequest, context: Any) -> pb.ProfileResponse:
        """What the members and devices of an attempt did over time."""
        job = await find_job(self.engine, request.job)
        await self.engine.durable()
        return profiles.profile(self.history, self._view(job), request.attempt, self.engine.now())

    async def Logs(self, request: pb.LogsRequest, context: Any) -> AsyncIterator[pb.LogChunk]:
        """What a member wrote."""
        job = await find_job(self.engine, request.job, Action.READ_LOGS)
        seen_by = caller()

        def trouble() -> types_pb2.Reason | None:
            found = self._reason(job) if job.state is not JobState.PENDING else None
            return None if found is None else reason_view(found, self.engine.state, seen_by)

        async for chunk in logs.stream(self.fleet, self.hub, job, request, trouble):
            yield chunk

    async def Attach(
        self, requests: AsyncIterator[pb.AttachRequest], context: Any
    ) -> AsyncIterator[pb.AttachAnswer]:
        """Into a member that runs."""
        async with contextlib.aclosing(attaching.serve(self.engine, self._attachments, requests)) as answers:
            async for answer in answers:
                yield answer

    # --- changes

    @after_room
    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.JobsResponse:
        """Stop and end jobs."""
        grace = request.grace_us if request.HasField("grace_us") else None
        state, user, why = self.engine.state, caller().name, read_reason(request.reason)
        if not self._allowances.spares(user):
            why = ""  # who has filled the log may end jobs all the same, and write no more than that
        alone = len(request.jobs) == 1

        def cancel(job: JobRecord) -> list[Event]:
            told = why if alone and job.array is None else of_each(why)
            return decide.cancel(state, job, grace, _cancelled_by(user, told))

        return await self._each(request.jobs, cancel)

    @after_room
    async def Hold(self, request: pb.JobsRequest, context: Any) -> pb.JobsResponse:
        """Keep pending jobs from starting."""
        return await self._each(request.jobs, lambda job: decide.hold(self.engine.state, job))

    @after_room
    async def Release(self, request: pb.JobsRequest, context: Any) -> pb.JobsResponse:
        """Let held jobs start."""
        state, made = self.engine.state, dict[str, list[Event]]()

        def release(job: JobRecord) -> list[Event]:
            """With the promise that it asked for: a job on hold has none. That is asked once, beside those
            of the same call, before any is released: a refusal changes nothing.
            """
            events: list[Event] = decide.release(state, job)
            live = state.jobs.get(job.id)
            if live is not None and job.id not in made and asks(live.spec):
                made[job.id] = self._promise_again(live, chain.from_iterable(made.values()))
            return [*events, *made.get(job.id, ())]

        return await self._each(request.jobs, release)

    def _promise_again(self, job: JobRecord, beside: Iterable[Event]) -> list[Event]:
        """The promise of a job that is released; of several the refusal says of which."""
        told = [one for one in beside if isinstance(one, DeadlinePromised)]
        try:
            now, spare = self.engine.now(), self._spares.of(caller().name)
            return self.cycle.promising.for_changed(job, job.spec, now, told, spare)
        except (DeadlineRefused, RateLimited) as error:
            raise type(error)(f"job {job.display}: {error.message}", error.facts) from None

    @after_room
    async def Requeue(self, request: pb.JobsRequest, context: Any) -> pb.JobsResponse:
        """Run jobs again."""
        return await self._each(
            request.jobs, lambda job: decide.requeue(self.engine.state, job, self.engine.now())
        )

    @after_room
    async def Update(self, request: pb.UpdateRequest, context: Any) -> types_pb2.Job:
        """Change a pending job, or of a running one what can still be changed. Its owner may lower its limit;
        rules of order and room looked at what it had when it started, so who raises it steers others' jobs.
        """
        user = caller().name
        job = await find_job(self.engine, request.job, Action.STEER_JOBS)
        changes = _changes(request, job.spec)
        if request.HasField("idle_snooze_us"):
            policy = snoozed(self.engine.state, job.user, job.spec, request.idle_snooze_us, self.engine.now())
            changes["idle_policy"] = policy
        if "project" in changes:
            authorize(Action.SUBMIT, str(changes["project"]))
        # An update has the bounds of a submit; what an older version accepted is not this call's fault.
        known = check(job.spec)
        problems = [one for one in check(replace_spec(job.spec, changes)) if one not in known]
        if problems:
            refuse(problems)
        _refuse_outranking(self.engine.state, job.spec, replace_spec(job.spec, changes))
        if "options" in changes:
            refuse_unknown_gpus(self.engine, replace_spec(job.spec, changes).options)
        events = decide.update(self.engine.state, job, changes, self.engine.now())
        events = self._repromised(job, replace_spec(job.spec, changes), events)
        for event in events:
            if isinstance(event, LimitChanged):
                attempt = self.engine.state.attempts[event.attempt_id]
                if max(event.time_limit_us, event.full_limit_us) > attempt.longest_us:
                    authorize(Action.EXTEND_JOBS, job.spec.project, job.user, f"job {job.display}")
                self.fleet.refuse_deaf(attempt)
        await self.engine.durable(self.engine.commit(events, user))
        return self._view(job)

    def _repromised(self, job: JobRecord, spec: JobSpec, events: list[Event]) -> list[Event]:
        """A job that waits is promised its deadline as it asks from now on, or nothing of it changes."""
        live = self.engine.state.jobs.get(job.id)
        if not events or live is None or live.held or {*_differing(live.spec, spec)} <= _UNPROMISED:
            return events
        spare = self._spares.of(caller().name)
        return [*events, *self.cycle.promising.for_changed(live, spec, self.engine.now(), spare=spare)]

    async def _each(
        self, refs: Sequence[str], command: Callable[[JobRecord], list[Event]]
    ) -> pb.JobsResponse:
        """One command on several jobs: all are found and decided before any changes, then each is decided
        again on what those before it made true.
        """
        user = caller().name
        jobs = await self._find_all(refs, Action.STEER_JOBS)
        # What is promised beside each other holds at one instant alone; of a user there is only so much.
        at_once = any(asks(job.spec) for job in jobs)
        for job in jobs:
            command(job)
            if not at_once:
                await breathe()
        unfinished = jobs
        while unfinished:
            # A long command goes on in pieces, and others get their turn in between.
            more: list[JobRecord] = []
            for piece in [unfinished] if at_once else _pieces(unfinished):
                self.engine.commit_each([partial(_again, command, job, more) for job in piece], user)
                await self.engine.writer.room()
                await breathe()
            unfinished = more
        await self.engine.durable()
        return await self._answer_all(jobs)

    async def _answer_all(self, jobs: Sequence[JobRecord]) -> pb.JobsResponse:
        """All of them: what was done to a job must never be lost to an answer that is too large."""
        answer = pb.JobsResponse()
        size = 0
        for job in jobs:
            row = self._view(job, Form.BRIEF) if size < ROWS_BYTES_MAX else job_terse(job, self._reason(job))
            size += row.ByteSize()
            answer.jobs.append(row)
            await breathe()
        return answer

    async def _find_all(self, refs: Sequence[str], action: Action) -> list[JobRecord]:
        if not 1 <= len(refs) <= REFS_MAX:
            raise InvalidRequest(f"name 1 to {REFS_MAX} jobs, not {len(refs)}")
        found = [await find_job(self.engine, ref, action) for ref in refs]
        return list({job.id: job for job in found}.values())

    def _view(self, job: JobRecord, form: Form = Form.WHOLE) -> types_pb2.Job:
        now = self.engine.now()
        return job_view(self.engine.state, job, self._reason(job), seen_by=caller(), now=now, form=form)

    def _reason(self, job: JobRecord) -> Reason | None:
        return reason_of(self.engine.state, self.cycle, job, self.engine.now())


def _pieces(jobs: Sequence[JobRecord]) -> Iterator[list[JobRecord]]:
    """So many as are steered in one go, of arrays one: each may be a thousand events."""
    piece: list[JobRecord] = []
    for job in jobs:
        if piece and (len(piece) == _PIECE or job.array is not None):
            yield piece
            piece = []
        piece.append(job)
        if job.array is not None:
            yield piece
            piece = []
    if piece:
        yield piece


async def _ending(work: Coroutine[Any, Any, None], queue: asyncio.Queue[Any]) -> None:
    """Work whose end, also by a fault, is told to the reader of its queue. Not when it is cancelled:
    then nobody reads any more.
    """
    try:
        await work
    except Exception:
        await queue.put(None)
        raise
    await queue.put(None)


async def _waiting(asked: asyncio.Queue[pb.SubmitRequest | None]) -> list[pb.SubmitRequest]:
    """What has been asked for so far, at least one; empty at the end of the stream."""
    batch: list[pb.SubmitRequest] = []
    request = await asked.get()
    while request is not None:
        batch.append(request)
        if asked.empty() or len(batch) == _BATCH_MAX:
            return batch
        request = asked.get_nowait()
    if batch:
        asked.put_nowait(None)
    return batch


def _refuse_outranking(state: State, before: JobSpec, now: JobSpec) -> None:
    """What a job has it keeps, in its project."""
    had = before.priority if now.project == before.project else -1
    refuse_outranking(state.priority, now.project, now.priority, had)


def _cancelled_by(user: str, why: str) -> str:
    """What the end of a cancelled job says."""
    return f"{BY}{user}" + (f": {why}" if why else "")


_UNPROMISED = frozenset(("name", "comment", "idle_policy", "priority", "model_version"))
"""Fields that no promise rests on."""


def _differing(old: JobSpec, new: JobSpec) -> list[str]:
    return [name for name in JobSpec.__struct_fields__ if getattr(old, name) != getattr(new, name)]


def _changes(request: pb.UpdateRequest, spec: JobSpec) -> dict[str, object]:
    """What a request wants to be different, by field of the spec."""
    changes: dict[str, object] = {
        field: getattr(request, field)
        for field in _UPDATABLE
        if request.HasField(field)  # type: ignore[arg-type]  # a name of ours
    }
    if request.HasField("max_cost_nanos") or request.HasField("max_cost_nanos_wide"):
        changes["max_cost_nanos"] = exact(request, "max_cost_nanos")
    if "project" in changes:
        changes["project"] = request.project.lower() or "default"
    if request.labels:
        changes["labels"] = tuple(sorted({**dict(spec.labels), **request.labels}.items()))
    if "nodes" in changes:
        changes.setdefault("max_nodes", 0)
    if request.throughput:
        changes["throughput"] = throughput_from_wire(request.throughput)
    options = options_with(
        spec.options,
        gpus=request.gpus if request.HasField("gpus") else None,
        cpu_milli=request.cpu_milli if request.HasField("cpu_milli") else None,
        memory_bytes=request.memory_bytes if request.HasField("memory_bytes") else None,
    )
    if request.HasField("gpus_least"):
        options, changes["ordered"] = _range_of_gpus(options, request.gpus_least), True
    elif request.HasField("gpus") and least_gpus(spec.options, spec.ordered):
        changes["ordered"] = False
    if options != spec.options:
        changes["options"] = options
    return changes


def _range_of_gpus(options: Sequence[ResourceRequest], least: int) -> tuple[ResourceRequest, ...]:
    """The sizes of a range. Raises `InvalidRequest`."""
    gpus = options[0].gpus
    if len(options) > 1 or gpus is None or not 0 < least < min(gpus.count, GPUS_MAX + 1):
        raise InvalidRequest(
            "gpus: a range has both ends, the least first, as in 2..8, and is of a job without alternatives",
            {"field": "gpus"},
        )
    return sizes_of(options[0], least)


def _answers(responses: Iterable[pb.SubmitResponse]) -> Iterator[pb.SubmitAnswers]:
    """Answers as messages that are not too large, whatever the jobs of old keys have become."""
    message, size = pb.SubmitAnswers(), 0
    for response in responses:
        size += response.ByteSize()
        if message.answers and size > ROWS_BYTES_MAX:
            yield message
            message, size = pb.SubmitAnswers(), response.ByteSize()
        message.answers.append(response)
    yield message


def replace_spec(spec: JobSpec, changes: dict[str, Any]) -> JobSpec:
    """A spec with some fields changed."""
    return msgspec.structs.replace(spec, **changes)


def _again(command: Callable[[JobRecord], list[Event]], job: JobRecord, more: list[JobRecord]) -> list[Event]:
    """What a command still means: nothing, when one before it in the same call has done its work. A job
    with more to do than one commit should hold is noted in `more`.
    """
    try:
        events = command(job)
    except WrongState:
        return []
    if len(events) >= decide.EVENTS_MAX:
        more.append(job)
    return events


def _refusal(error: BursarError) -> pb.SubmitResponse:
    return pb.SubmitResponse(error=error.reason, message=error.message, facts=error.facts)
