"""The Agents service: one stream per node, its words turned into commands, our messages into words."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from bursar.codec.spec import facts_from_wire, shares_to_wire
from bursar.errors import BursarError, Forbidden, InvalidRequest
from bursar.model import EndCause
from bursar.v1 import agents_pb2 as pb
from bursar.v1 import agents_pb2_grpc
from bursard.access.identity import Identity, Role, caller
from bursard.engine import Engine
from bursard.events import ExitReport, NodeEnrolled
from bursard.fleet import (
    AgentLink,
    Assign,
    Fleet,
    Forget,
    LogAnswer,
    LogAsk,
    MeterNow,
    Outgoing,
    Stop,
    UsageAck,
)
from bursard.fleet.fleet import MemberTruth
from bursard.state import NodeRecord
from bursard.state.decide import attempts, nodes
from bursard.telemetry import LiveTelemetry

log = logging.getLogger(__name__)

PROTOCOL = 1
HEARTBEAT_US = 5_000_000
_CAUSES = {cause.value: cause for cause in EndCause}


class AgentsService(agents_pb2_grpc.AgentsServicer):
    """Serves every agent's stream."""

    def __init__(
        self, engine: Engine, fleet: Fleet, telemetry: LiveTelemetry, *, epoch: int, mqtt_url: str
    ) -> None:
        self.engine = engine
        self.fleet = fleet
        self.telemetry = telemetry
        self._epoch = epoch
        self._mqtt_url = mqtt_url

    async def Connect(
        self, requests: AsyncIterator[pb.AgentMessage], context: Any
    ) -> AsyncIterator[pb.DaemonMessage]:
        """Hello, Welcome, then both ways until one side goes."""
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("body") != "hello":
            raise InvalidRequest("the first message of an agent must be Hello")
        try:
            link = self._admit(first.hello, caller())
        except BursarError as error:
            yield pb.DaemonMessage(refused=pb.Refused(reason=error.reason, message=error.message))
            return
        node = self.engine.state.nodes[link.node_id]
        await self.engine.durable()
        yield self._welcome(node)
        self.fleet.attach(link, [_truth(one) for one in first.hello.attempts])
        reader = asyncio.create_task(self._read(requests, link, node), name=f"agent-{link.name}")
        reader.add_done_callback(lambda _: link.close())
        watch = asyncio.create_task(self._watch(link), name=f"watch-{link.name}")
        try:
            while messages := await link.take():
                for message in self._pack(messages):
                    yield message
            if reader.done() and not reader.cancelled():
                reader.result()
        finally:
            reader.cancel()
            watch.cancel()
            if self.fleet.detach(link):
                self.telemetry.drop(link.name)
                self._silent(node)

    # --- hello

    def _admit(self, hello: pb.Hello, identity: Identity) -> AgentLink:
        if hello.protocol != PROTOCOL:
            raise InvalidRequest(f"this daemon speaks agent protocol {PROTOCOL}, not {hello.protocol}")
        facts = facts_from_wire(hello.facts)
        if identity.role is Role.AGENT and identity.name != facts.name:
            raise Forbidden(f"this token is for node {identity.name}, not {facts.name}")
        state = self.engine.state
        known = state.node_by_name(facts.name)
        live = self.fleet.links.get(known.id) if known is not None else None
        if live is not None and (live.boot_id != hello.boot_id or not _same_agent(live, hello)):
            raise Forbidden(f"a node named {facts.name} is connected already; give this one another --name")
        events = nodes.hello(
            state,
            self.engine.ids,
            self.engine.prices,
            facts=facts,
            boot_id=hello.boot_id,
            boot_us=hello.boot_us,
            now=self.engine.now(),
            spooled={(one.attempt_id, one.rank): one.exited.held_us for one in hello.attempts},
        )
        self.engine.commit([*self._enrol(identity, hello), *events], f"node:{facts.name}")
        node = state.node_by_name(facts.name)
        assert node is not None
        link = AgentLink(node.id, facts.name, hello.boot_id)
        link.instance = hello.instance
        link.version = hello.agent_version
        link.last_seen_at = self.engine.now()
        if live is not None:
            live.close()
        return link

    def _enrol(self, identity: Identity, hello: pb.Hello) -> list[NodeEnrolled]:
        """The first use of a secret binds it to this agent; nobody else may use it after that."""
        token = self.engine.state.node_tokens.get(identity.token_sha256)
        if token is None:
            return []
        if not token.instance:
            return [NodeEnrolled(token.name, token.sha256, hello.instance)]
        if token.instance != hello.instance:
            raise Forbidden(
                f"this token was already used by another agent; `bursar node token {token.name}` makes"
                " a new one"
            )
        return []

    def _welcome(self, node: NodeRecord) -> pb.DaemonMessage:
        state = self.engine.state
        return pb.DaemonMessage(
            welcome=pb.Welcome(
                node_id=node.id,
                epoch=self._epoch,
                cluster_id=state.cluster_id,
                meter_interval_us=state.limits.meter_interval_us,
                heartbeat_interval_us=HEARTBEAT_US,
                mqtt_url=self._mqtt_url,
            )
        )

    def _silent(self, node: NodeRecord) -> None:
        self.engine.commit(nodes.silent(self.engine.state, node), "bursard")

    async def _watch(self, link: AgentLink) -> None:
        """A hung agent keeps its connection open, so it is told from a living one by its heartbeat."""
        limit_us = self.engine.state.limits.silent_after_us
        left_us = limit_us
        while left_us > 0:
            await asyncio.sleep(left_us / 1_000_000)
            left_us = min(link.last_seen_at + limit_us - self.engine.now(), limit_us)
        link.close()

    # --- in

    async def _read(
        self, requests: AsyncIterator[pb.AgentMessage], link: AgentLink, node: NodeRecord
    ) -> None:
        handlers: dict[str | None, Callable[[Any, AgentLink, NodeRecord], None]] = {
            "started": self._started,
            "exited": self._exited,
            "usage": self._usage,
            "telemetry": self._telemetry,
            "log": self._log,
        }
        async for message in requests:
            kind = message.WhichOneof("body")
            link.last_seen_at = self.engine.now()
            handler = handlers.get(kind)
            if handler is not None:
                handler(getattr(message, str(kind)), link, node)

    def _started(self, wire: pb.Started, link: AgentLink, node: NodeRecord) -> None:
        events = attempts.started(self.engine.state, node, wire.attempt_id, wire.rank, wire.boot_us, wire.pid)
        self.engine.commit(events, f"node:{link.name}")

    def _exited(self, wire: pb.Exited, link: AgentLink, node: NodeRecord) -> None:
        started_boot_us = wire.started_boot_us if wire.started else 0
        self.fleet.exited(
            node, wire.attempt_id, wire.rank, _report(wire), started_boot_us, f"node:{link.name}"
        )

    def _usage(self, wire: pb.Usage, link: AgentLink, node: NodeRecord) -> None:
        events = nodes.usage(
            self.engine.state,
            node,
            boot_id=wire.boot_id,
            at_boot_us=wire.at_boot_us,
            counters=[(c.attempt_id, c.rank, c.held_us) for c in wire.counters],
        )
        seq = self.engine.commit(events, f"node:{link.name}")
        task = asyncio.create_task(self._acknowledge(link, wire.seq, seq), name="usage-ack")
        link.tasks.add(task)
        task.add_done_callback(link.tasks.discard)

    async def _acknowledge(self, link: AgentLink, usage_seq: int, seq: int) -> None:
        await self.engine.durable(seq)
        link.send(UsageAck(usage_seq))
        link.metered.set()

    def _telemetry(self, wire: Any, link: AgentLink, node: NodeRecord) -> None:
        for sample in wire.samples:
            self.telemetry.add(link.name, sample)

    def _log(self, wire: pb.LogReply, link: AgentLink, node: NodeRecord) -> None:
        answer = LogAnswer(
            wire.data, wire.offset, wire.next_offset, wire.ended, wire.dropped_bytes, wire.error
        )
        link.answer_log(wire.request_id, answer)

    # --- out

    def _pack(self, messages: list[Outgoing]) -> list[pb.DaemonMessage]:
        """In order, neighbouring assignments together; acknowledged ends last, all in one."""
        packed: list[pb.DaemonMessage] = []
        forgotten = pb.ForgetBatch()
        for message in messages:
            if isinstance(message, Assign):
                last = packed[-1] if packed else None
                if last is None or last.WhichOneof("body") != "assign" or len(last.assign.assignments) >= 64:
                    last = pb.DaemonMessage(assign=pb.AssignBatch(epoch=self._epoch))
                    packed.append(last)
                last.assign.assignments.append(_assignment(message))
            elif isinstance(message, Forget):
                forgotten.members.append(pb.Forget(attempt_id=message.attempt_id, rank=message.rank))
            else:
                packed.append(self._word(message))
        if forgotten.members:
            packed.append(pb.DaemonMessage(forget=forgotten))
        return packed

    def _word(self, message: Stop | UsageAck | MeterNow | LogAsk) -> pb.DaemonMessage:
        if isinstance(message, Stop):
            stop = pb.Stop(
                epoch=self._epoch,
                attempt_id=message.attempt_id,
                rank=message.rank,
                cause=message.cause,
                grace_us=message.grace_us,
            )
            return pb.DaemonMessage(stop=stop)
        if isinstance(message, UsageAck):
            return pb.DaemonMessage(ack=pb.Ack(usage_seq=message.usage_seq))
        if isinstance(message, MeterNow):
            return pb.DaemonMessage(meter_now=pb.MeterNow())
        ask = pb.LogRequest(
            request_id=message.request_id,
            attempt_id=message.attempt_id,
            rank=message.rank,
            offset=message.offset,
            limit_bytes=message.limit_bytes,
            tail_bytes=message.tail_bytes,
        )
        return pb.DaemonMessage(log=ask)


def _same_agent(live: AgentLink, hello: pb.Hello) -> bool:
    return bool(hello.instance) and live.instance == hello.instance


def _assignment(message: Assign) -> pb.Assignment:
    return pb.Assignment(
        attempt_id=message.attempt_id,
        rank=message.rank,
        boot_id=message.boot_id,
        job_id=message.job_id,
        time_limit_us=message.time_limit_us,
        grace_us=message.grace_us,
        checkpoint_signal=message.checkpoint_signal,
        command=message.command,
        script=message.script,
        setup=message.setup,
        workdir=message.workdir,
        env=message.env,
        devices=shares_to_wire(message.devices),
        user=message.user,
        memory_limit_bytes=message.memory_bytes,
        log_cap_bytes=message.log_cap_bytes,
    )


def _truth(wire: pb.AttemptTruth) -> MemberTruth:
    return MemberTruth(
        attempt_id=wire.attempt_id,
        rank=wire.rank,
        running=wire.running,
        pid=wire.pid,
        started_boot_us=wire.started_boot_us or wire.exited.started_boot_us,
        report=None if wire.running else _report(wire.exited),
    )


def _report(wire: pb.Exited) -> ExitReport:
    return ExitReport(
        cause=_CAUSES.get(wire.cause, EndCause.FAILED),
        exit_code=wire.exit_code if wire.HasField("exit_code") else -1,
        signal=wire.signal,
        message=wire.message[:500],
        held_us=wire.held_us,
        cpu_us=wire.cpu_us,
        max_rss_bytes=wire.max_rss_bytes,
        log_bytes=wire.log_bytes,
    )
