"""The Agents service: one stream per node, its wire turned into words of the fleet, our words into the wire.

Why     what an agent may say, and what follows from it, is decided in `bursard.fleet`; here nothing is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec

from bursar.codec.launch import exit_from_wire
from bursar.codec.spec import facts_from_wire, shares_to_wire
from bursar.errors import BursarError, InvalidRequest
from bursar.model.service import Way
from bursar.v1 import agents_pb2 as pb
from bursar.v1 import agents_pb2_grpc
from bursard.access.identity import Identity, Role, caller
from bursard.fleet import (
    AgentLink,
    Agents,
    Assign,
    Condition,
    Counter,
    Exited,
    Forget,
    Heartbeat,
    Hello,
    Limit,
    LimitTaken,
    LogAnswer,
    LogAsk,
    LogGrew,
    MemberTruth,
    MeterNow,
    Notice,
    Outgoing,
    Probe,
    Readiness,
    Started,
    StepFrame,
    Stop,
    Usage,
    UsageAck,
)
from bursard.fleet.agents import TRUTHS_A_TURN, Report
from bursard.fleet.door import TRUTHS_MAX
from bursard.state import NodeRecord
from bursard.store import LogHead
from bursard.telemetry import LiveTelemetry

PROTOCOL = 2
PROTOCOL_PAGED = 3
"""Of a hello of several messages."""
HEARTBEAT_US = 5_000_000
ENDS_A_TURN = 128
"""Of one message, before others have their turn of the loop: an end costs up to 0.3 ms."""
ENTRIES_A_WORD = 16
TRUTHS_A_WORD = 4
BYTES_A_WORD = 4_096
_OWED = frozenset(("exits", "exited", "started", "step"))
"""What a node has to tell however much it is, or carries for others."""
HELLO_BYTES_MAX = 32 << 20
"""Of all messages of one hello."""
HELLO_S = 30.0
"""Within which all of them come."""


class AgentsService(agents_pb2_grpc.AgentsServicer):
    """Serves every agent's stream."""

    def __init__(self, hub: Agents, telemetry: LiveTelemetry, *, mqtt_url: str) -> None:
        self.hub = hub
        self.engine = hub.engine
        self.telemetry = telemetry
        self._mqtt_url = mqtt_url

    async def Connect(
        self, requests: AsyncIterator[pb.AgentMessage], context: Any
    ) -> AsyncIterator[pb.DaemonMessage]:
        """Hello, Welcome, then both ways until one side goes."""
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("body") != "hello":
            raise InvalidRequest("the first message of an agent must be Hello")
        try:
            await _rest(first.hello, requests)
            hello, node, link = await self._admit(first.hello, caller())
        except BursarError as error:
            if error.transient:
                raise
            yield pb.DaemonMessage(refused=pb.Refused(reason=error.reason, message=error.message))
            return
        try:  # from here on the node counts as connected: whatever comes, it is left again
            await self.engine.durable()
            yield self._welcome(node, link)
            self.hub.join(link, hello.truths)
            reader = asyncio.create_task(self._read(requests, link), name=f"agent-{link.name}")
            reader.add_done_callback(lambda _: link.close())
            watch = asyncio.create_task(self.hub.watch(link), name=f"watch-{link.name}")
            try:
                while messages := await link.take():
                    for message in self._pack(messages):
                        yield message
                if reader.done() and not reader.cancelled():
                    reader.result()
            finally:
                reader.cancel()
                watch.cancel()
        finally:
            if self.hub.leave(link):
                self.telemetry.drop(link.name)

    async def _admit(self, wire: pb.Hello, identity: Identity) -> tuple[Hello, NodeRecord, AgentLink]:
        wait_s = self.hub.hello_wait_s(hello_weight(wire))
        if wait_s:
            await asyncio.sleep(wait_s)
        hello = await _hello(wire)
        bound_to = identity.name if identity.role is Role.AGENT else ""
        node = await self.hub.admit(hello, bound_to=bound_to, token_sha256=identity.token_sha256)
        link = AgentLink(
            node.id, node.facts.name, hello.boot_id, instance=hello.instance, version=hello.version
        )
        link.token_sha256 = identity.token_sha256
        link.ahead = hello.ahead
        link.takes_limits = hello.takes_limits
        link.attaches = hello.attaches
        link.parked = self.hub.parks(hello)
        return hello, node, link

    def _welcome(self, node: NodeRecord, link: AgentLink) -> pb.DaemonMessage:
        state = self.engine.state
        # Who is of another cluster is to remember the end of that one's log.
        head = self.engine.log.head if not link.parked else LogHead(0, b"")
        return pb.DaemonMessage(
            welcome=pb.Welcome(
                node_id=node.id,
                epoch=self.engine.log.epoch,
                cluster_id=state.cluster_id,
                meter_interval_us=state.limits.meter_interval_us,
                heartbeat_interval_us=HEARTBEAT_US,
                mqtt_url=self._mqtt_url,
                log_seq=head.seq,
                log_hash=head.hash,
            )
        )

    # --- in

    async def _read(self, requests: AsyncIterator[pb.AgentMessage], link: AgentLink) -> None:
        async for message in requests:
            kind = str(message.WhichOneof("body"))
            words, owed = weight(kind, message), kind in _OWED
            if kind == "log" and link.owes_log(message.log.request_id):
                words, owed = 0, True  # of whoever asked, who has a bound of his own
            wait_s = self.hub.wait_s(link, words, owed=owed)
            if wait_s:
                await asyncio.sleep(wait_s)
            reading = _READ.get(kind)
            if reading is not None:
                self.hub.take(link, reading(getattr(message, kind)))
            elif kind == "exits":
                for start in range(0, len(message.exits.members), ENDS_A_TURN):
                    for one in message.exits.members[start : start + ENDS_A_TURN]:
                        self.hub.take(link, _exited(one))
                    await asyncio.sleep(0)
            elif kind == "telemetry":
                node = self.hub.node_on(link)
                if node is not None:
                    now, batch = self.engine.now(), message.telemetry
                    for _ in self.telemetry.pieces(link.name, batch, node.live, node.facts, now):
                        await asyncio.sleep(0)
            elif kind == "step":
                self.hub.carry(link, _step(message.step))
            elif kind == "log":
                self.hub.answer_log(link, message.log.request_id, _log_answer(message.log))

    # --- out

    def _pack(self, messages: list[Outgoing]) -> list[pb.DaemonMessage]:
        """In order, neighbouring assignments together; acknowledged ends last, all in one, with where the log
        ends that they are in.
        """
        packed: list[pb.DaemonMessage] = []
        grew = False
        forgotten = pb.ForgetBatch()
        for message in messages:
            if isinstance(message, Assign):
                last = packed[-1] if packed else None
                if last is None or last.WhichOneof("body") != "assign" or len(last.assign.assignments) >= 64:
                    last = pb.DaemonMessage(assign=pb.AssignBatch(epoch=self.engine.log.epoch))
                    packed.append(last)
                last.assign.assignments.append(_assignment(message))
            elif isinstance(message, Forget):
                forgotten.members.append(pb.Forget(attempt_id=message.attempt_id, rank=message.rank))
            elif isinstance(message, LogGrew):
                grew = True
            else:
                packed.append(self._word(message))
        if forgotten.members or grew:
            head = self.engine.log.head
            forgotten.log_seq, forgotten.log_hash = head.seq, head.hash
            packed.append(pb.DaemonMessage(forget=forgotten))
        return packed

    def _word(
        self, message: Stop | Limit | Probe | UsageAck | MeterNow | LogAsk | StepFrame
    ) -> pb.DaemonMessage:
        if isinstance(message, StepFrame):
            return pb.DaemonMessage(step=pb.StepFrame(**msgspec.structs.asdict(message)))
        if isinstance(message, Stop):
            stop = pb.Stop(
                epoch=self.engine.log.epoch,
                attempt_id=message.attempt_id,
                rank=message.rank,
                cause=message.cause,
                grace_us=message.grace_us,
                only_waiting=message.only_waiting,
            )
            return pb.DaemonMessage(stop=stop)
        if isinstance(message, Limit):
            told = msgspec.structs.asdict(message)
            return pb.DaemonMessage(limit=pb.Limit(epoch=self.engine.log.epoch, **told))
        if isinstance(message, Probe):
            return pb.DaemonMessage(probe=pb.Probe(**msgspec.structs.asdict(message)))
        if isinstance(message, UsageAck):
            ack = pb.Ack(usage_seq=message.usage_seq, log_seq=message.log_seq, log_hash=message.log_hash)
            return pb.DaemonMessage(ack=ack)
        if isinstance(message, MeterNow):
            return pb.DaemonMessage(meter_now=pb.MeterNow())
        ask = pb.LogRequest(
            request_id=message.request_id,
            attempt_id=message.wanted.attempt_id,
            rank=message.wanted.rank,
            offset=message.wanted.offset,
            limit_bytes=message.wanted.limit_bytes,
            tail_bytes=message.wanted.tail_bytes,
            since_us=message.wanted.since_us,
            times=message.wanted.times,
        )
        return pb.DaemonMessage(log=ask)


async def _rest(hello: pb.Hello, requests: AsyncIterator[pb.AgentMessage]) -> None:
    """Complete a hello with the pages that follow it. Raises `InvalidRequest`."""
    if hello.protocol != (PROTOCOL_PAGED if hello.attempts_follow else PROTOCOL):
        raise InvalidRequest(
            f"this daemon speaks agent protocol {PROTOCOL}, the agent {hello.protocol}; install the same"
            " release on both, and restart the older one (jobs go on meanwhile)"
        )
    left, size = hello.attempts_follow, hello.ByteSize()
    if len(hello.attempts) + left > TRUTHS_MAX:
        raise InvalidRequest(f"attempts: at most {TRUTHS_MAX}")
    try:
        async with asyncio.timeout(HELLO_S):
            while left:
                message = await anext(requests, None)
                page = message.truths.attempts if message is not None else ()
                size += message.ByteSize() if message is not None else 0
                if not 0 < len(page) <= left:
                    raise InvalidRequest(f"attempts_follow: {left} more were to follow, {len(page)} did")
                if size > HELLO_BYTES_MAX:
                    raise InvalidRequest(f"attempts: all of a hello is at most {HELLO_BYTES_MAX} bytes")
                hello.attempts.extend(page)
                left -= len(page)
    except TimeoutError:
        raise InvalidRequest(f"attempts_follow: {left} did not come within {HELLO_S:g} s") from None


def weight(kind: str, message: pb.AgentMessage) -> int:
    """What a message costs of what its node may say: a word, one for each end in it, and of all else one for
    so many entries and bytes, by which it is read before anybody can look at it.
    """
    if kind == "exits":
        return max(len(message.exits.members), 1)
    if kind == "step":
        return 1  # carried unopened, and bounded where it waits
    entries = 0
    if kind == "telemetry":
        samples = message.telemetry.samples
        entries = sum(1 + len(sample.gpus) + len(sample.attempts) for sample in samples)
    elif kind == "usage":
        entries = len(message.usage.counters)
    return 1 + entries // ENTRIES_A_WORD + message.ByteSize() // BYTES_A_WORD


def hello_weight(wire: pb.Hello) -> int:
    """The same of a hello, each of whose truths is looked at closely."""
    return 1 + len(wire.attempts) // TRUTHS_A_WORD + wire.ByteSize() // BYTES_A_WORD


def _step(wire: pb.StepFrame) -> StepFrame:
    return StepFrame(
        attempt_id=wire.attempt_id,
        from_rank=wire.from_rank,
        to_rank=wire.to_rank,
        channel=wire.channel,
        kind=wire.kind,
        data=wire.data,
        to_client=wire.to_client,
    )


def _assignment(message: Assign) -> pb.Assignment:
    return pb.Assignment(
        attempt_id=message.attempt_id,
        rank=message.rank,
        boot_id=message.boot_id,
        job_id=message.job_id,
        time_limit_us=message.time_limit_us,
        grace_us=message.grace_us,
        checkpoint_signal=message.checkpoint_signal,
        user=message.user,
        memory_limit_bytes=message.memory_bytes,
        cpu_limit_milli=message.cpu_milli,
        log_cap_bytes=message.log_cap_bytes,
        launch=message.launch,
        devices=shares_to_wire(message.devices),
        after=message.after,
    )


async def _hello(wire: pb.Hello) -> Hello:
    truths: list[MemberTruth] = []
    for start in range(0, len(wire.attempts), TRUTHS_A_TURN):
        truths += map(_truth, wire.attempts[start : start + TRUTHS_A_TURN])
        await asyncio.sleep(0)
    return Hello(
        facts=facts_from_wire(wire.facts),
        boot_id=wire.boot_id,
        boot_us=wire.boot_us,
        truths=tuple(truths),
        instance=wire.instance,
        version=wire.agent_version,
        epoch=wire.epoch,
        log_seq=wire.log_seq,
        log_hash=wire.log_hash,
        log_cluster_id=wire.log_cluster_id,
        ahead=wire.ahead,
        takes_limits=wire.takes_limits,
        attaches=wire.attaches,
        trouble=wire.trouble,
    )


def _truth(wire: pb.AttemptTruth) -> MemberTruth:
    return MemberTruth(
        attempt_id=wire.attempt_id,
        rank=wire.rank,
        running=wire.running,
        pid=wire.pid,
        started_boot_us=wire.started_boot_us or wire.exited.started_boot_us,
        boot_id=wire.boot_id,
        exit=_exited(wire.exited) if wire.HasField("exited") else None,
    )


def _exited(wire: pb.Exited) -> Exited:
    exit = msgspec.structs.asdict(exit_from_wire(wire))
    return Exited(attempt_id=wire.attempt_id, rank=wire.rank, fenced_epoch=wire.fenced_epoch, **exit)


def _started(wire: pb.Started) -> Started:
    return Started(wire.attempt_id, wire.rank, wire.pid, wire.boot_us)


def _limit_taken(wire: pb.LimitTaken) -> LimitTaken:
    return LimitTaken(wire.attempt_id, wire.rank, wire.order, wire.problem)


def _usage(wire: pb.Usage) -> Usage:
    counters = tuple(Counter(c.attempt_id, c.rank, c.held_us, c.cpu_us) for c in wire.counters)
    return Usage(wire.seq, wire.boot_id, wire.at_boot_us, counters)


def _heartbeat(wire: pb.Heartbeat) -> Heartbeat:
    return Heartbeat(wire.boot_us, wire.wall_at)


def _condition(wire: pb.Condition) -> Condition:
    return Condition(wire.trouble)


def _notice(wire: pb.Notice) -> Notice:
    return Notice(wire.said, wire.left_us, wire.advice)


def _readiness(wire: pb.Readiness) -> Readiness:
    way = Way(wire.forward_port, wire.certificate, tuple(wire.admits))
    return Readiness(wire.attempt_id, wire.rank, wire.ready, wire.message, way)


def _log_answer(wire: pb.LogReply) -> LogAnswer:
    marks = tuple((mark.offset, mark.after_us) for mark in wire.marks)
    return LogAnswer(
        wire.data, wire.offset, wire.next_offset, wire.ended, wire.dropped_bytes, wire.error, marks
    )


_READ: Mapping[str, Callable[[Any], Report]] = {
    "started": _started,
    "limit_taken": _limit_taken,
    "exited": _exited,
    "usage": _usage,
    "heartbeat": _heartbeat,
    "condition": _condition,
    "notice": _notice,
    "readiness": _readiness,
}
