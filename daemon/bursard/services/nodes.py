"""The Nodes service: what operators see and do."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

from bursar.clock import DAY_US
from bursar.codec.slurm_names import names_to_wire
from bursar.codec.spec import CALIBRATED, calibration_from_wire
from bursar.errors import InvalidRequest, NotFound, ServerUnavailable
from bursar.model import EndCause
from bursar.model.slurm_names import SlurmName, SlurmNames
from bursar.v1 import nodes_pb2 as pb
from bursar.v1 import nodes_pb2_grpc, types_pb2
from bursar_policies.specs import ReservationSpec
from bursard.access.authorize import Action, allowed
from bursard.access.identity import caller
from bursard.cycle import Cycle, reason_of
from bursard.engine import Engine
from bursard.events import Event, NodeCalibrated, NodeTokenIssued, NodeTokenRevoked, StopRequested
from bursard.fleet import Agents
from bursard.fleet.door import NODE_NAME
from bursard.machines.provider import CloudError
from bursard.services import clouds, reserved
from bursard.services.profiles import hours_of
from bursard.services.pushback import after_room
from bursard.services.views import (
    SAMPLE_ATTEMPTS_IN_ROW,
    Form,
    fitting_in_turns,
    job_view,
    node_view,
    sample_view,
)
from bursard.state import MachineRecord, NodeRecord, NodeToken, State
from bursard.state.decide import nodes as decide
from bursard.state.decide.machines import Decision
from bursard.state.decide.names import in_force
from bursard.state.decide.reservations import seen
from bursard.state.decide.why import of_each, read_reason
from bursard.telemetry import LiveTelemetry

TOKEN_TTL_MAX_US = 7 * DAY_US
TOKEN_VALID_MAX_US = 3660 * DAY_US
TOKEN_ID_CHARS = 12
TOP_PERIOD_S = 1.0
TOP_JOBS_MAX = 1000
JOB_ID_CHARS_MAX = 64
TORCH_CHARS_MAX = 64
RATE_MAX = 10**18
"""A thousand times what the fastest device does: FLOP or bytes a second."""
PAGE_MAX = 1000


def _token_view(token: NodeToken) -> pb.NodeToken:
    return pb.NodeToken(
        id=token.sha256[:TOKEN_ID_CHARS],
        node=token.name,
        state="bound" if token.instance else "unused",
        issued_at=token.issued_at,
        expires_at=token.valid_until if token.instance else token.expires_at,
    )


def _reservation(state: State, name: str, spec: ReservationSpec, now: int) -> pb.Reservation:
    """As the caller may see it."""
    own, others, until = seen(state, spec)
    maintenance, spec = spec.maintenance, reserved.public(spec, caller())
    return pb.Reservation(
        name=name,
        state="active" if spec.starts_at <= now else "coming",
        nodes=spec.nodes,
        starts_at=spec.starts_at,
        ends_at=spec.ends_at,
        projects=spec.projects,
        users=spec.users,
        maintenance=maintenance,
        running=spec.running,
        reason=spec.reason,
        version=state.policies["Reservation", name].version,
        own=own,
        others=others,
        others_until=until,
    )


def _by_name(nodes: Iterable[NodeRecord]) -> list[NodeRecord]:
    return sorted(nodes, key=lambda node: node.facts.name)


class NodesService(nodes_pb2_grpc.NodesServicer):
    """Reads and steers nodes."""

    def __init__(self, engine: Engine, cycle: Cycle, agents: Agents, telemetry: LiveTelemetry) -> None:
        self.engine = engine
        self.cycle = cycle
        self.agents = agents
        self.telemetry = telemetry

    async def List(self, request: pb.ListNodesRequest, context: Any) -> pb.ListNodesResponse:
        """All nodes, or one pool, by page. A page goes on after a name, so nodes that come and go between two
        pages make no other one appear twice or be missing.
        """
        if request.page_size > PAGE_MAX:
            raise InvalidRequest(f"page_size: at most {PAGE_MAX}")
        if request.page_token and NODE_NAME.fullmatch(request.page_token) is None:
            raise InvalidRequest("page_token is not one this server gave out; start again without it")
        await self.engine.durable()
        nodes = [
            node
            for node in _by_name(self.engine.state.nodes.values())
            if (not request.pool or node.facts.pool == request.pool) and node.facts.name > request.page_token
        ]
        rows = self._rows(nodes[: request.page_size or PAGE_MAX])
        shown = await fitting_in_turns(map(self._with_hours, rows) if request.activity else rows)
        more = shown[-1].facts.name if shown and len(shown) < len(nodes) else ""
        return pb.ListNodesResponse(nodes=shown, next_page_token=more)

    async def Get(self, request: pb.NodeRequest, context: Any) -> types_pb2.Node:
        """One node."""
        await self.engine.durable()
        return self._view(self._find(request.node))

    async def SlurmNames(self, request: pb.SlurmNamesRequest, context: Any) -> pb.SlurmNamesResponse:
        """What names in scripts stand for here, but of projects that the caller may not see."""
        await self.engine.durable()
        identity = caller()

        def told(names: tuple[SlurmName, ...]) -> tuple[SlurmName, ...]:
            return tuple(
                name for name in names if not name.project or allowed(identity, Action.SEE_JOBS, name.project)
            )

        return pb.SlurmNamesResponse(
            documents=[
                names_to_wire(
                    SlurmNames(one.document, told(one.partitions), told(one.qos), told(one.accounts))
                )
                for one in in_force(self.engine.state)
            ]
        )

    async def Reservations(self, request: pb.ReservationsRequest, context: Any) -> pb.ReservationsResponse:
        """Those in force or to come, and how many attempts run on their nodes; for whom they are, and why, to
        those who may see that.
        """
        await self.engine.durable()
        state, now = self.engine.state, self.engine.now()
        left = [item for item in state.reservations.specs.items() if item[1].ends_at > now]
        left.sort(key=lambda item: (item[1].starts_at, item[0]))
        return pb.ReservationsResponse(reservations=[_reservation(state, *one, now) for one in left])

    @after_room
    async def Drain(self, request: pb.DrainRequest, context: Any) -> types_pb2.Node:
        """No new work; optionally stop what runs."""
        user = caller().name
        node, reason = self._find(request.node), read_reason(request.reason)
        state = self.engine.state
        events: list[Event] = decide.scheduling(node, "drain", reason)
        if request.confirm_dead:
            events += decide.confirm_dead(state, node)
        elif request.stop:
            message = f"node {node.facts.name} is drained: {of_each(reason)}".rstrip(": ")
            for attempt_id in node.live:
                attempt = state.attempts[attempt_id]
                if attempt.stop_cause is None:
                    cause = EndCause.PREEMPTED
                    events.append(StopRequested(attempt_id, cause, attempt.grace_us, message))
        return await self._commit(node, events, user)

    @after_room
    async def Cordon(self, request: pb.NodeModeRequest, context: Any) -> types_pb2.Node:
        """No new work."""
        user = caller().name
        node, reason = self._find(request.node), read_reason(request.reason)
        return await self._commit(node, decide.scheduling(node, "cordon", reason), user)

    @after_room
    async def Resume(self, request: pb.NodeModeRequest, context: Any) -> types_pb2.Node:
        """Open for work; the reason is kept with the event."""
        user = caller().name
        node, reason = self._find(request.node), read_reason(request.reason)
        return await self._commit(node, decide.scheduling(node, "open", reason), user)

    @after_room
    async def Calibrate(self, request: pb.CalibrateRequest, context: Any) -> types_pb2.Node:
        """Keep what a node delivered."""
        user, node, found = caller().name, self._find(request.node), request.found
        if not found.job.startswith("job_") or len(found.job) > JOB_ID_CHARS_MAX:
            raise InvalidRequest("found.job: the id of the job that measured it")
        if len(found.torch) > TORCH_CHARS_MAX or not found.torch.isprintable():
            raise InvalidRequest(f"found.torch: a version, at most {TORCH_CHARS_MAX} characters")
        if found.devices > len(node.facts.devices):
            raise InvalidRequest(f"found.devices: {node.facts.name} has {len(node.facts.devices)}")
        rates = [getattr(found, name) for name in CALIBRATED if name.endswith("_per_second")]
        if not any(rates) or max(rates) > RATE_MAX:
            raise InvalidRequest(f"found: rates a second, at least one of them, each at most {RATE_MAX}")
        calibration = calibration_from_wire(found, self.engine.now())
        return await self._commit(node, [NodeCalibrated(node.id, calibration)], user)

    @after_room
    async def Remove(self, request: pb.NodeRequest, context: Any) -> pb.RemoveNodeResponse:
        """Forget a node that is gone for good."""
        node = self._find(request.node)
        events = self.agents.fleet.remove(node)
        await self.engine.durable(self.engine.commit(events, caller().name))
        return pb.RemoveNodeResponse(id=node.id, name=node.facts.name)

    @after_room
    async def Token(self, request: pb.TokenRequest, context: Any) -> pb.TokenResponse:
        """A secret with which a node of this name may connect; only its hash is kept."""
        if NODE_NAME.fullmatch(request.node) is None:
            raise InvalidRequest("node: a host name of at most 63 characters")
        if not 0 < request.ttl_us <= TOKEN_TTL_MAX_US:
            raise InvalidRequest("ttl: more than 0 and at most 7 days, such as 15m")
        if request.valid_us and not request.ttl_us <= request.valid_us <= TOKEN_VALID_MAX_US:
            raise InvalidRequest("expires: not before the ttl ends, and at most 10 years, such as 90d")
        token = "node_" + secrets.token_urlsafe(32)
        now = self.engine.now()
        expires_at = now + request.ttl_us
        digest = hashlib.sha256(token.encode()).hexdigest()
        until = now + request.valid_us if request.valid_us else 0
        seq = self.engine.commit([NodeTokenIssued(request.node, digest, expires_at, until)], caller().name)
        await self.engine.durable(seq)
        return pb.TokenResponse(token=token, expires_at=expires_at)

    async def Tokens(self, request: pb.TokensRequest, context: Any) -> pb.TokensResponse:
        """The secrets that are good now: which node's, since and until when, never the secret."""
        await self.engine.durable()
        return pb.TokensResponse(tokens=[_token_view(token) for token in self._tokens(request.node, "")])

    @after_room
    async def RevokeTokens(self, request: pb.RevokeTokensRequest, context: Any) -> pb.RevokeTokensResponse:
        """Void one secret of a node, or all."""
        if not request.node:
            raise InvalidRequest("node: whose secrets")
        found = self._tokens(request.node, request.id)
        if not found:
            which = f"no secret {request.id!r}" if request.id else "no secret"
            raise NotFound(
                f"node {request.node} has {which} that is good; `bursar node token --list` shows them"
            )
        events = [NodeTokenRevoked(token.name, token.sha256) for token in found]
        await self.engine.durable(self.engine.commit(events, caller().name))
        return pb.RevokeTokensResponse(revoked=[_token_view(token) for token in found])

    def _tokens(self, node: str, id: str) -> list[NodeToken]:
        now = self.engine.now()
        return [
            token
            for token in self.engine.state.node_tokens.values()
            if token.good(now)
            and (not node or token.name == node)
            and (not id or token.sha256[:TOKEN_ID_CHARS] == id)
        ]

    async def Machines(self, request: pb.MachinesRequest, context: Any) -> pb.MachinesResponse:
        """Rented machines, by name."""
        await self.engine.durable()
        state, now, identity = self.engine.state, self.engine.now(), caller()
        found = sorted(state.machines.values(), key=lambda one: (one.name, one.id))
        rows = await fitting_in_turns(clouds.machine_view(state, one, identity, now) for one in found)
        return pb.MachinesResponse(machines=rows, currency=state.currency)

    async def GetMachine(self, request: pb.GetMachineRequest, context: Any) -> pb.Machine:
        """One machine, also one that is gone."""
        await self.engine.durable()
        state, identity = self.engine.state, caller()
        try:
            machine = clouds.find(state, request.machine)
        except NotFound:
            return await clouds.past_view(self.engine, request.machine, identity)
        return clouds.machine_view(state, machine, identity, self.engine.now())

    async def CheckClouds(self, request: pb.CheckCloudsRequest, context: Any) -> pb.CheckCloudsResponse:
        """What must be right before machines can be rented."""
        try:
            return await clouds.checks(self.cycle.rents)
        except CloudError as error:
            raise ServerUnavailable(f"the provider does not answer: {error}") from None

    @after_room
    async def EndMachine(self, request: pb.EndMachineRequest, context: Any) -> pb.Machine:
        """End a machine and all that runs on it; rent no other."""
        if request.close:
            if self.cycle.rents is not None:
                self.cycle.rents.is_closed = True
            if not request.machine:
                return pb.Machine()
        return await self._given_back(request.machine, request.reason, "ended it", clouds.end)

    @after_room
    async def ReleaseMachine(self, request: pb.ReleaseMachineRequest, context: Any) -> pb.Machine:
        """Give a machine back once nothing runs there."""
        return await self._given_back(request.machine, request.reason, "released it", clouds.release)

    async def _given_back(
        self,
        name: str,
        reason: str,
        did: str,
        decided: Callable[[State, MachineRecord, str], list[Decision]],
    ) -> pb.Machine:
        user, words = caller(), of_each(read_reason(reason))
        machine = clouds.find(self.engine.state, name)
        why = f"{user.name} {did}: {words}" if words else f"{user.name} {did}"
        seq = self.engine.commit_each(decided(self.engine.state, machine, why), user.name)
        await self.engine.durable(seq)
        return clouds.machine_view(self.engine.state, machine, user, self.engine.now())

    async def Top(self, request: pb.TopRequest, context: Any) -> AsyncIterator[pb.TopResponse]:
        """Newest readings, once or every second."""
        identity = caller()
        while True:
            state, now = self.engine.state, self.engine.now()
            live = [state.jobs[attempt.job_id] for attempt in state.attempts.values()]
            seen = [job for job in live if allowed(identity, Action.SEE_JOBS, job.spec.project)]
            yield pb.TopResponse(
                nodes=await fitting_in_turns(self._rows(_by_name(state.nodes.values())[:PAGE_MAX])),
                nodes_total=len(state.nodes),
                jobs=await fitting_in_turns(
                    job_view(
                        state,
                        job,
                        reason_of(state, self.cycle, job, now),
                        seen_by=identity,
                        now=now,
                        form=Form.ROW,
                    )
                    for job in seen[:TOP_JOBS_MAX]
                ),
                jobs_total=len(seen),
            )
            if not request.follow:
                return
            await asyncio.sleep(TOP_PERIOD_S)

    def _find(self, name: str) -> NodeRecord:
        node = self.engine.state.node_by_name(name)
        if node is None:
            raise NotFound(f"there is no node {name!r}; `bursar nodes` lists them")
        return node

    async def _commit(self, node: NodeRecord, events: list[Event], user: str) -> types_pb2.Node:
        await self.engine.durable(self.engine.commit(events, user))
        return self._view(node)

    def _row(self, node: NodeRecord) -> types_pb2.Node:
        """As in lists: an agent's reading may be as large as a message, and a list has many."""
        return self._view(node, SAMPLE_ATTEMPTS_IN_ROW)

    def _rows(self, nodes: Iterable[NodeRecord]) -> Iterator[types_pb2.Node]:
        """Of those that are still there when it is their turn."""
        for node in nodes:
            if self.engine.state.nodes.get(node.id) is node:
                yield self._row(node)

    def _with_hours(self, node: types_pb2.Node) -> types_pb2.Node:
        indexes = range(len(node.facts.devices))
        node.hours.extend(
            hours_of(self.telemetry.history, node.facts.name, indexes, self.engine.now()) if indexes else ()
        )
        return node

    def _view(self, node: NodeRecord, attempts_max: int | None = None) -> types_pb2.Node:
        """As the caller may see it."""
        state, identity, link = self.engine.state, caller(), self.agents.links.get(node.id)
        sample = self._sample(node)
        shown = None if sample is None else sample_view(state, node, sample, identity, attempts_max)
        seen_at = link.last_seen_at if link is not None else 0
        wire = node_view(state, node, shown, seen_at, identity, self.engine.now())
        wire.agent_version = link.version if link is not None else ""
        return wire

    def _sample(self, node: NodeRecord) -> types_pb2.Sample | None:
        sample = self.telemetry.newest(node.facts.name)
        assert sample is None or isinstance(sample, types_pb2.Sample)
        return sample
