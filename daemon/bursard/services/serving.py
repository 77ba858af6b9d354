"""The Services service: services and their keys for people, routes and counters for gateways."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from functools import partial
from typing import Any, Final

from bursar.clock import DAY_US, HOUR_US
from bursar.codec.spec import refuse, spec_from_wire
from bursar.errors import InvalidRequest, NotFound, RateLimited
from bursar.model import JobSpec
from bursar.model.check import check
from bursar.pinned import is_certificate
from bursar.projects import is_within, problem_of
from bursar.v1 import services_pb2 as pb
from bursar.v1 import services_pb2_grpc
from bursard.access.authorize import Action, allowed, authorize
from bursard.access.identity import caller
from bursard.access.outranking import refuse_outranking
from bursard.cycle import Cycle
from bursard.engine import Engine
from bursard.events import KeyIssued
from bursard.ledger import PAID
from bursard.reports.cost import Use
from bursard.reports.serving import service_table
from bursard.services.asked_cost import use_view
from bursard.services.keybooks import KeyBooks
from bursard.services.kinds import refuse_unknown_gpus
from bursard.services.lookup import find_job
from bursard.services.pushback import after_room
from bursard.services.servicekeys import AHEAD_US, Keys
from bursard.services.serviceviews import key_view, route_view, service_view
from bursard.services.unseen import may_see
from bursard.serving.board import GATEWAYS_MAX, Gateway, Load
from bursard.serving.canary import Answers
from bursard.serving.keeper import Keeper
from bursard.state import JobRecord
from bursard.state.decide import services as decide
from bursard.store import ChargeFilter

log = logging.getLogger(__name__)

USE_US: Final = 30 * DAY_US
"""How far back it is told what a service was asked, and at what cost."""
SECRET_BYTES: Final = 20
"""Of a key: 160 bits."""
NAME_MAX: Final = 100
RATE_MAX: Final = 1_000_000
MINUTE_US: Final = 60_000_000
DIGITS_MAX: Final = 2**53
"""Of a counter: a gateway that says more cannot have seen it."""
_GATEWAY: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class ServicesService(services_pb2_grpc.ServicesServicer):
    """What `bursar service` and `bursar key` ask, and what gateways live by."""

    def __init__(self, engine: Engine, cycle: Cycle, keeper: Keeper) -> None:
        self.engine = engine
        self.cycle = cycle
        self.keeper = keeper
        self.keys = Keys(engine)
        self.books = KeyBooks(engine, keeper, self.keys)

    # --- services

    async def List(self, request: pb.ListServicesRequest, context: Any) -> pb.ListServicesResponse:
        """Services that the caller may see, those that have ended not among them."""
        await self.engine.durable()
        if request.service:
            job = await self._find(request.service)
            found = self._view(job)
            await self._add_use(found, job)
            return pb.ListServicesResponse(services=[found])
        identity, state = caller(), self.engine.state
        jobs = [state.jobs[job_id] for job_id in self.keeper.services if job_id in state.jobs]
        return pb.ListServicesResponse(
            services=[
                self._view(job)
                for job in jobs
                if not job.state.terminal
                and (not request.project or is_within(job.spec.project, request.project))
                and allowed(identity, Action.SEE_JOBS, job.spec.project, job.user)
            ]
        )

    @after_room
    async def Scale(self, request: pb.ScaleServiceRequest, context: Any) -> pb.Service:
        """Other bounds."""
        job = await self._find(request.service, Action.STEER_JOBS)
        events = decide.scale(self.engine.state, job, request.replicas_min, request.replicas_max)
        return await self._changed(job, events)

    @after_room
    async def Update(self, request: pb.UpdateServiceRequest, context: Any) -> pb.Service:
        """Another revision: what it runs, it runs in its owner's name."""
        job = await self._find(request.service, Action.CHANGE_PROGRAM)
        spec = spec_from_wire(request.spec)
        refuse_unknown_gpus(self.engine, spec.options)
        return await self._changed(job, decide.update(self.engine.state, job, spec))

    @after_room
    async def Rollback(self, request: pb.RollbackServiceRequest, context: Any) -> pb.Service:
        """The revision before."""
        job = await self._find(request.service, Action.STEER_JOBS)
        return await self._changed(job, decide.rollback(self.engine.state, job))

    async def _changed(self, job: JobRecord, events: list[Any]) -> pb.Service:
        for event in events:
            spec = decide.changed_spec(job, event)
            if spec is None:
                continue
            if problems := check(spec):
                refuse(problems)
            # Of a service the project stays.
            refuse_outranking(self.engine.state.priority, spec.project, spec.priority, job.spec.priority)
        seq = self.engine.commit(events, caller().name)
        self.keeper.look_at(job)
        await self.engine.durable(seq)
        return self._view(job)

    async def _find(self, ref: str, action: Action = Action.SEE_JOBS) -> JobRecord:
        live = decide.named(self.engine.state, ref)
        try:
            job = await find_job(self.engine, live.id if live is not None else ref, action)
        except NotFound:
            raise NotFound(f"there is no service {ref!r}; `bursar service ls` lists them") from None
        if job.spec.service is None or job.parent_id:
            raise NotFound(f"job {job.display} is no service; `bursar service ls` lists them")
        return job

    def _view(self, job: JobRecord) -> pb.Service:
        return service_view(self.engine, self.cycle, self.keeper, job, caller())

    async def _add_use(self, wire: pb.Service, job: JobRecord) -> None:
        """What it was asked lately and what that cost, for whoever may see costs."""
        if not allowed(caller(), Action.SEE_COST, job.spec.project, job.user):
            return
        since = max(self.engine.now() - USE_US, 0)
        query = ChargeFilter(since=since - since % HOUR_US, kinds=PAID, job_number=job.number)
        unposted = await self.engine.books()
        name, target = job.spec.name, job.spec.service.target if job.spec.service is not None else 0
        table = await self.engine.aside(
            partial(
                service_table,
                self.engine.views,
                ("service",),
                query,
                unposted,
                lambda _: name,
                lambda _: target,
            )
        )
        wire.use_since = max(query.since, job.submitted_at)
        wire.use_cost.nanos = str(table.total.nanos)
        use = next((row.use for row in table.rows if row.use is not None), None)
        wire.use.CopyFrom(use_view(use if use is not None else Use()))

    # --- keys

    @after_room
    async def NewKey(self, request: pb.NewKeyRequest, context: Any) -> pb.ServiceKey:
        """A key; its secret is in this answer and nowhere else."""
        job = await self._find(request.service, Action.SET_SECRETS)
        project = request.project.lower() or job.spec.project
        if problem := problem_of(project):
            raise InvalidRequest(f"project: {problem}", {"field": "project"})
        if project != job.spec.project:  # what is asked with it is told of that project
            authorize(Action.SUBMIT, project)
        if len(request.name) > NAME_MAX:
            raise InvalidRequest(f"name: at most {NAME_MAX} characters", {"field": "name"})
        for field in ("requests_per_minute", "concurrency"):
            if getattr(request, field) > RATE_MAX:
                raise InvalidRequest(f"{field}: at most {RATE_MAX}", {"field": field})
        user = authorize(Action.SET_SECRETS, job.spec.project, what=f"service {job.spec.name}").name
        secret = "bsk_" + secrets.token_hex(SECRET_BYTES)
        events = decide.new_key(
            self.engine.state,
            self.engine.ids,
            job,
            sha256=hashlib.sha256(secret.encode()).hexdigest(),
            user=user,
            name=request.name,
            project=project,
            requests_per_minute=request.requests_per_minute,
            concurrency=request.concurrency,
            expires_at=self.engine.now() + request.valid_us if request.valid_us else 0,
            budget=self._budget(request.budget, project, job.spec),
            now=self.engine.now(),
        )
        await self.engine.durable(self.engine.commit(events, user))
        issued = events[0]
        assert isinstance(issued, KeyIssued)
        return key_view(
            self.engine.state, self.engine.state.service_keys[issued.key_id], caller(), secret, "created"
        )

    def _budget(self, name: str, project: str, spec: JobSpec) -> str:
        """A budget that a key may name: one that the caller may see, and that work of its project, and with
        the marks of its service, counts against.
        """
        if not name:
            return ""
        record = self.engine.state.budgets.records.get(name)
        if record is None or not may_see(self.engine.state, name, caller()):
            raise NotFound(f"there is no budget {name!r}; `bursar budget ls` lists them", {"field": "budget"})
        scope = record.spec.scope
        if not is_within(project, scope.project) or scope.user not in ("", caller().name):
            raise InvalidRequest(
                f"budget: {name} is of {scope}, and this key's project is {project}; name a budget that"
                " covers it, or another --project",
                {"field": "budget"},
            )
        if not scope.covers(project, caller().name, spec.experiment, spec.model, dict(spec.labels)):
            raise InvalidRequest(
                f"budget: {name} is of {scope}, and service {spec.name} is not of that experiment or model,"
                " or has not those labels; name a budget that covers it",
                {"field": "budget"},
            )
        return name

    async def Keys(self, request: pb.KeysRequest, context: Any) -> pb.KeysResponse:
        """Keys of the projects whose secrets the caller keeps."""
        job = await self._find(request.service, Action.SET_SECRETS) if request.service else None
        await self.engine.durable()
        identity, state, now = caller(), self.engine.state, self.engine.now()
        return pb.KeysResponse(
            keys=[
                key_view(state, key, identity)
                for key in state.service_keys.values()
                if (job is None or key.job_id == job.id)
                and not key.lapsed(now)
                and allowed(identity, Action.SET_SECRETS, state.jobs[key.job_id].spec.project)
            ]
        )

    @after_room
    async def RevokeKey(self, request: pb.RevokeKeyRequest, context: Any) -> pb.ServiceKey:
        """A key is good for nothing any more, once gateways have asked again."""
        state = self.engine.state
        key = state.service_keys.get(request.key)
        project = state.jobs[key.job_id].spec.project if key is not None else ""
        if key is not None and not allowed(caller(), Action.SET_SECRETS, project):
            key = None  # who may not see it is told no more than that of one that is not there
        if key is None:
            raise NotFound(f"there is no key {request.key!r}; `bursar key ls` lists them")
        user = authorize(Action.SET_SECRETS, project).name
        key, events = decide.revoke_key(state, key.id)
        answer = key_view(state, key, caller(), change="revoked")
        await self.engine.durable(self.engine.commit(events, user))
        return answer

    # --- gateways

    @after_room
    async def Sync(self, request: pb.SyncRequest, context: Any) -> pb.SyncResponse:
        """Take what a gateway saw, give it what it serves by."""
        authorize(Action.STEER_NODES)
        await self.keys.learn(request.minutes)
        state, board, now = self.engine.state, self.keeper.board, self.engine.now()
        if _GATEWAY.fullmatch(request.gateway) is None:
            raise InvalidRequest("gateway: a name of 1 to 64 letters, digits, '.', '_', '-'")
        known = {one.name for one in board.live_gateways(now)}
        if request.gateway not in known and len(known) >= GATEWAYS_MAX:
            raise InvalidRequest(f"gateway: {GATEWAYS_MAX} others ask already")
        _sane(request)
        gateway = Gateway(
            name=request.gateway,
            boot_id=request.boot_id,
            url=request.url,
            at=now,
            outstanding={r.attempt_id: r.outstanding for load in request.loads for r in load.replicas},
            waiting={load.job_id: load.waiting for load in request.loads},
            certificate=request.certificate,
        )
        for name in [one.name for one in board.gateways.values() if one.name not in known]:
            del board.gateways[name]
        seq = self._meter(request)
        self.keeper.heard(gateway, list(map(_load, request.loads)))
        keys, tag = self.keys.listed()
        jobs = [state.jobs[job_id] for job_id in self.keeper.services if job_id in state.jobs]
        answer = pb.SyncResponse(
            routes=[
                route_view(self.engine, self.cycle, self.keeper, job, gateway)
                for job in jobs
                if not job.state.terminal
            ],
            keys=keys if request.keys_tag != tag else (),
            keys_tag=tag,
            acknowledged_seq=seq,
            now=now,
            budgets=self.books.parts(gateway),
        )
        await self.engine.durable()
        return answer

    def _meter(self, request: pb.SyncRequest) -> int:
        """Keep what keys used; of a service that is gone it is told for nothing. Returns the last number."""
        state, seq = self.engine.state, 0
        for minute in request.minutes:
            seq = max(seq, minute.seq)
            job = state.jobs.get(minute.job_id)
            if job is None or job.spec.service is None or job.parent_id:
                continue
            began = minute.minute - minute.minute % MINUTE_US
            if problem := self._out_of_time(job, began):
                self._not_kept(request.gateway, job, problem)
                continue
            uses, strange = self.keys.own(job.id, minute.uses)
            if strange:
                self._not_kept(request.gateway, job, f"of {strange} keys that are none of it")
            try:
                events = decide.metered(
                    state, job, request.gateway, minute.seq, began, minute.busy_us, minute.capacity_us, uses
                )
            except RateLimited as error:  # told again it would stop its gateway again
                self._not_kept(request.gateway, job, error.message)
                continue
            if events:
                self.engine.commit(events, f"gateway:{request.gateway}")
                self.books.told(job, began, minute.busy_us, minute.capacity_us, uses)
        return seq

    def _out_of_time(self, job: JobRecord, began: int) -> str:
        """Why a minute can be none of a service; empty: it can."""
        if began > self.engine.now() + AHEAD_US:
            return "it is of a minute that has not come: is its clock right?"
        if began < job.submitted_at - MINUTE_US:
            return "it is of a minute before the service was there: is its clock right?"
        return ""

    def _not_kept(self, gateway: str, job: JobRecord, why: str) -> None:
        facts = {"gateway": gateway, "service": job.display, "why": why}
        log.warning("what a gateway counted is not kept as it was told", extra=facts)


def _sane(request: pb.SyncRequest) -> None:
    if request.certificate and not is_certificate(request.certificate):
        raise InvalidRequest("certificate: one certificate, DER in base64")
    for load in request.loads:
        if any(one.waited_us > DIGITS_MAX for one in load.replicas):
            raise InvalidRequest(f"loads.replicas: no answers took more than {DIGITS_MAX} microseconds")
        if max(load.elapsed_us, load.busy_us, load.p50_us, load.p95_us) > DIGITS_MAX:
            raise InvalidRequest(f"loads: no gateway has seen more than {DIGITS_MAX} microseconds")
    for minute in request.minutes:
        if minute.minute < 0 or max(minute.seq, minute.busy_us, minute.capacity_us) > DIGITS_MAX:
            raise InvalidRequest(f"minutes: no gateway has counted more than {DIGITS_MAX}")
        for use in minute.uses:
            if (
                max((value for _, value in use.ListFields() if isinstance(value, int)), default=0)
                > DIGITS_MAX
            ):
                raise InvalidRequest(f"minutes.uses: no gateway has counted more than {DIGITS_MAX}")


def _load(wire: pb.ServiceLoad) -> Load:
    return Load(
        job_id=wire.job_id,
        elapsed_us=wire.elapsed_us,
        busy_us=wire.busy_us,
        waiting=wire.waiting,
        asked=wire.asked,
        p50_us=wire.p50_us,
        p95_us=wire.p95_us,
        outstanding={one.attempt_id: one.outstanding for one in wire.replicas},
        answers={
            one.attempt_id: Answers(one.answered, min(one.failed, one.answered), one.waited_us)
            for one in wire.replicas
            if one.answered
        },
    )
