"""The agent's words to and from `bursar.v1`.

Owns    every conversion between stimuli, readings and protobuf. Pure.
Why     the core and the probes stay free of generated code, and a changed proto breaks here alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from bursar.codec.launch import MESSAGE_CHARS_MAX, exit_to_wire
from bursar.codec.progress import progress_to_wire
from bursar.model import NodeFacts
from bursar.model.service import NOWHERE, Way
from bursar.model.steps import HELD_US_MAX
from bursar.pinned import is_certificate
from bursar.steps import records
from bursar.v1 import agents_pb2 as pb
from bursar.v1 import types_pb2 as types
from bursar_agent import stimuli as s
from bursar_agent.agent import WAITING_MAX
from bursar_agent.probes.readings import (
    Activity,
    AttemptReading,
    GpuReading,
    Health,
    Reading,
    StepsNow,
    Summary,
)
from bursar_agent.readiness import Probe
from bursar_agent.statedir import LogEnd

PROTOCOL = 2
"""Raised when an older daemon could misread us; it answers with `Refused` then."""
PROTOCOL_PAGED = 3
"""Of a hello that one message does not hold: an older daemon would take the rest for lost."""
PAGE_BYTES = 512 << 10
"""Of the attempts in one message: a daemon takes messages of a megabyte."""


class Welcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon says to the shell rather than to the core."""

    node_id: str
    cluster_id: str
    mqtt_url: str


class Refusal(msgspec.Struct, frozen=True):
    """The daemon will not have this agent."""

    reason: str
    message: str


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of what two members of one attempt say to each other; carried unopened.

    Attributes:
        kind: open, resume, data or close.
        to_client: goes to who asked for the step, else to its host.
    """

    attempt_id: str
    from_rank: int
    to_rank: int
    channel: int
    kind: str
    data: bytes = b""
    to_client: bool = False


# --- out ----------------------------------------------------------------------------------------


STEPS_NAMED_MAX = 10_000
"""Members of one hello whose steps are named: with 16 of each it would pass what a daemon takes."""


def hello(
    instruction: s.SendHello,
    facts: NodeFacts,
    boot_id: str,
    version: str,
    instance: str = "",
    log_end: LogEnd | None = None,
) -> list[pb.AgentMessage]:
    """The full truth, in as many messages as it takes."""
    first, *others = _pages(instruction.truths)
    follow = sum(map(len, others))
    hello = pb.AgentMessage(
        hello=pb.Hello(
            protocol=PROTOCOL_PAGED if follow else PROTOCOL,
            agent_version=version,
            facts=_facts(facts),
            boot_id=boot_id,
            boot_us=instruction.boot_us,
            attempts=first,
            attempts_follow=follow,
            epoch=instruction.epoch,
            instance=instance,
            log_seq=log_end.seq if log_end is not None else 0,
            log_hash=log_end.digest if log_end is not None else b"",
            log_cluster_id=log_end.cluster_id if log_end is not None else "",
            ahead=WAITING_MAX,
            takes_limits=True,
            attaches=True,
            trouble=instruction.trouble[:MESSAGE_CHARS_MAX],
        )
    )
    return [hello, *(pb.AgentMessage(truths=pb.AttemptTruths(attempts=page)) for page in others)]


def _pages(truths: Iterable[s.Truth]) -> list[list[pb.AttemptTruth]]:
    """At least one, if empty. Of very many the steps are counted and not named."""
    pages: list[list[pb.AttemptTruth]] = [[]]
    size = 0
    found = list(truths)
    for truth in map(_truth, map(_brief, found) if len(found) > STEPS_NAMED_MAX else found):
        size += truth.ByteSize() + 8
        if pages[-1] and size > PAGE_BYTES:
            pages.append([])
            size = truth.ByteSize()
        pages[-1].append(truth)
    return pages


def started(instruction: s.SendStarted) -> pb.AgentMessage:
    """A start."""
    return pb.AgentMessage(
        started=pb.Started(
            attempt_id=instruction.attempt_id,
            rank=instruction.rank,
            pid=instruction.pid,
            boot_us=instruction.boot_us,
        )
    )


def limit_taken(instruction: s.SendLimitTaken) -> pb.AgentMessage:
    """What became of an order for another time limit."""
    return pb.AgentMessage(
        limit_taken=pb.LimitTaken(
            attempt_id=instruction.attempt_id,
            rank=instruction.rank,
            order=instruction.order,
            problem=instruction.problem[:MESSAGE_CHARS_MAX],
        )
    )


def notice(instruction: s.SendNotice, now_boot_us: int) -> pb.AgentMessage:
    """What the provider of this machine is about to do with it."""
    found = instruction.notice
    left_us = max(found.until_boot_us - now_boot_us, 0)
    said = found.said[:MESSAGE_CHARS_MAX]
    return pb.AgentMessage(notice=pb.Notice(said=said, left_us=left_us, advice=found.advice))


def condition(instruction: s.SendCondition) -> pb.AgentMessage:
    """What keeps members from being started here."""
    return pb.AgentMessage(condition=pb.Condition(trouble=instruction.trouble[:MESSAGE_CHARS_MAX]))


def exited(instruction: s.SendExited) -> pb.Exited:
    """An end."""
    wire = exit_to_wire(instruction.attempt_id, instruction.rank, instruction.exit)
    wire.fenced_epoch = instruction.fenced_epoch
    return wire


def exits(ends: Sequence[pb.Exited]) -> pb.AgentMessage:
    """One end or several."""
    if len(ends) == 1:
        return pb.AgentMessage(exited=ends[0])
    return pb.AgentMessage(exits=pb.ExitedBatch(members=ends))


def usage(record: s.Usage) -> pb.AgentMessage:
    """Counters."""
    return pb.AgentMessage(
        usage=pb.Usage(
            seq=record.seq,
            boot_id=record.boot_id,
            at_boot_us=record.at_boot_us,
            counters=[
                pb.Counter(attempt_id=c.attempt_id, rank=c.rank, held_us=c.held_us, cpu_us=c.cpu_us)
                for c in record.counters
            ],
        )
    )


def heartbeat(boot_us: int, wall_at: int) -> pb.AgentMessage:
    """A sign of life, and what the machine's wall clock says."""
    return pb.AgentMessage(heartbeat=pb.Heartbeat(boot_us=boot_us, wall_at=wall_at))


def log_reply(
    request_id: int,
    *,
    data: bytes = b"",
    offset: int = 0,
    next_offset: int = 0,
    ended: bool = False,
    error: str = "",
    dropped_bytes: int = 0,
    marks: Iterable[tuple[int, int]] = (),
) -> pb.AgentMessage:
    """Part of a log, or why there is none."""
    return pb.AgentMessage(
        log=pb.LogReply(
            request_id=request_id,
            data=data,
            offset=offset,
            next_offset=next_offset,
            ended=ended,
            error=error[:MESSAGE_CHARS_MAX],
            dropped_bytes=dropped_bytes,
            marks=[pb.LogMark(offset=offset, after_us=after_us) for offset, after_us in marks],
        )
    )


def telemetry(
    cluster_id: str, node: str, readings: Sequence[Reading], boot_us: int = 0
) -> types.TelemetryBatch:
    """Live readings. `boot_us`: now, which steps are told from."""
    return types.TelemetryBatch(
        cluster_id=cluster_id, node=node, samples=[_sample(reading, boot_us) for reading in readings]
    )


def telemetry_message(batch: types.TelemetryBatch) -> pb.AgentMessage:
    """Live readings over the stream."""
    return pb.AgentMessage(telemetry=batch)


def readiness(attempt_id: str, rank: int, ready: bool, message: str, way: Way = NOWHERE) -> pb.AgentMessage:
    """Whether a replica is ready, and how gateways on other machines come to it."""
    told = pb.Readiness(
        attempt_id=attempt_id,
        rank=rank,
        ready=ready,
        message=message[:MESSAGE_CHARS_MAX],
        forward_port=way.port,
        certificate=way.certificate,
        admits=way.admits,
    )
    return pb.AgentMessage(readiness=told)


def probe(message: pb.Probe) -> Probe:
    """An order to look at a replica."""
    return Probe(
        key=(message.attempt_id, message.rank),
        port=message.port,
        path=message.path,
        interval_us=message.interval_us,
        timeout_us=message.timeout_us,
        failures=message.failures,
        gateways=tuple(one for one in message.gateways if is_certificate(one)),
    )


def step(frame: Frame) -> pb.AgentMessage:
    """A piece of a step."""
    return pb.AgentMessage(step=pb.StepFrame(**msgspec.structs.asdict(frame)))


# --- in -----------------------------------------------------------------------------------------


def event(
    message: pb.DaemonMessage, now_boot_us: int
) -> s.Event | tuple[s.ForgetReceived, ...] | Refusal | None:
    """What a message from the daemon means to the core; None for one a newer daemon invented."""
    match message.WhichOneof("body"):
        case "assign":
            batch = message.assign
            return s.Assigned(batch.epoch, tuple(map(_assignment, batch.assignments)))
        case "forget":
            return tuple(s.ForgetReceived(one.attempt_id, one.rank) for one in message.forget.members)
        case "ack":
            return s.AckReceived(now_boot_us, message.ack.usage_seq)
        case "stop":
            stop = message.stop
            return s.StopAsked(
                epoch=stop.epoch,
                attempt_id=stop.attempt_id,
                rank=stop.rank,
                cause=stop.cause,
                grace_us=stop.grace_us,
                only_waiting=stop.only_waiting,
            )
        case "limit":
            limit = message.limit
            return s.LimitAsked(
                epoch=limit.epoch,
                attempt_id=limit.attempt_id,
                rank=limit.rank,
                order=limit.order,
                time_limit_us=limit.time_limit_us,
            )
        case "meter_now":
            return s.MeterAsked()
        case "log":
            return s.LogAsked(_log_range(message.log))
        case "welcome":
            welcome = message.welcome
            return s.Welcomed(
                now_boot_us=now_boot_us,
                epoch=welcome.epoch,
                cluster_id=welcome.cluster_id,
                meter_interval_us=welcome.meter_interval_us,
                heartbeat_interval_us=welcome.heartbeat_interval_us,
                spend_lease_us=welcome.spend_lease_us,
            )
        case "refused":
            return Refusal(message.refused.reason, message.refused.message)
        case _:
            return None


def welcome(message: pb.DaemonMessage) -> Welcome:
    """The part of a Welcome that concerns the shell."""
    body = message.welcome
    return Welcome(node_id=body.node_id, cluster_id=body.cluster_id, mqtt_url=body.mqtt_url)


def step_frame(message: pb.StepFrame) -> Frame:
    """A piece of a step."""
    return Frame(
        attempt_id=message.attempt_id,
        from_rank=message.from_rank,
        to_rank=message.to_rank,
        channel=message.channel,
        kind=message.kind,
        data=message.data,
        to_client=message.to_client,
    )


def log_end(message: pb.DaemonMessage) -> tuple[int, bytes] | None:
    """Sequence and hash of the end of the daemon's log, where a message tells them."""
    match message.WhichOneof("body"):
        case "welcome":
            end = (message.welcome.log_seq, message.welcome.log_hash)
        case "ack":
            end = (message.ack.log_seq, message.ack.log_hash)
        case "forget":
            end = (message.forget.log_seq, message.forget.log_hash)
        case _:
            return None
    return end if end[0] else None


# --- helpers ------------------------------------------------------------------------------------


def _brief(truth: s.Truth) -> s.Truth:
    """Without the names of its steps."""
    if truth.exit is None or truth.exit.steps is None:
        return truth
    steps = msgspec.structs.replace(truth.exit.steps, told=())
    return msgspec.structs.replace(truth, exit=msgspec.structs.replace(truth.exit, steps=steps))


def _truth(truth: s.Truth) -> pb.AttemptTruth:
    return pb.AttemptTruth(
        attempt_id=truth.attempt_id,
        rank=truth.rank,
        running=truth.running,
        pid=truth.pid,
        started_boot_us=truth.started_boot_us,
        exited=None if truth.exit is None else exit_to_wire(truth.attempt_id, truth.rank, truth.exit),
        boot_id=truth.boot_id,
    )


def _facts(facts: NodeFacts) -> types.NodeFacts:
    return types.NodeFacts(
        name=facts.name,
        cpu_milli=facts.cpu_milli,
        memory_bytes=facts.memory_bytes,
        devices=[
            types.Device(
                index=device.index,
                uuid=device.uuid,
                type=device.type,
                memory_bytes=device.memory_bytes,
                simulated=device.simulated,
            )
            for device in facts.devices
        ],
        pool=facts.pool,
        provider=facts.provider,
        region=facts.region,
        zone=facts.zone,
        rack=facts.rack,
        instance_type=facts.instance_type,
        market=facts.market,
        labels=dict(facts.labels),
        address=facts.address,
        limits=facts.limits,
    )


def _assignment(message: pb.Assignment) -> s.Assignment:
    return s.Assignment(
        attempt_id=message.attempt_id,
        rank=message.rank,
        boot_id=message.boot_id,
        job_id=message.job_id,
        time_limit_us=message.time_limit_us,
        grace_us=message.grace_us,
        checkpoint_signal=message.checkpoint_signal,
        user=message.user,
        memory_limit_bytes=message.memory_limit_bytes,
        cpu_limit_milli=message.cpu_limit_milli,
        log_cap_bytes=message.log_cap_bytes,
        launch=message.launch,
        devices=tuple((share.index, share.milli) for share in message.devices),
        after=message.after,
    )


def _log_range(message: pb.LogRequest) -> s.LogRange:
    return s.LogRange(
        request_id=message.request_id,
        attempt_id=message.attempt_id,
        rank=message.rank,
        offset=message.offset,
        limit_bytes=message.limit_bytes,
        tail_bytes=message.tail_bytes,
        since_us=message.since_us,
        times=message.times,
    )


def leave_out_steps(batch: types.TelemetryBatch) -> None:
    """Of every member."""
    for sample in batch.samples:
        for attempt in sample.attempts:
            attempt.ClearField("steps")


def _steps(now: StepsNow | None, boot_us: int) -> types.Steps | None:
    if now is None:
        return None
    wire = types.Steps(total=now.total, failed=now.failed)
    for one in now.told:
        runs = one.state == records.CUT_OFF
        ago_us = min(max(boot_us - one.begun_us, 0), HELD_US_MAX)
        step = wire.told.add(
            number=one.number,
            state="running" if runs else one.state,
            name=one.name,
            tasks=one.tasks,
            nodes=one.nodes,
            signal=one.signal,
            after_us=ago_us,
            elapsed_us=ago_us if runs else min(max(one.ended_us - one.begun_us, 0), ago_us),
        )
        if one.exit_code >= 0:
            step.exit_code = one.exit_code
        if one.rank is not None:
            step.rank = one.rank
    return wire


def _sample(reading: Reading, boot_us: int) -> types.Sample:
    return types.Sample(
        at=reading.at,
        cpu_utilization_ratio=reading.cpu_utilization_ratio,
        memory_used_bytes=reading.memory_used_bytes,
        power_watts=reading.power_watts,
        gpus=[_gpu(gpu) for gpu in reading.gpus],
        attempts=[
            types.AttemptSample(
                attempt_id=attempt.attempt_id,
                rank=attempt.rank,
                cpu_utilization_ratio=attempt.cpu_utilization_ratio,
                memory_used_bytes=attempt.memory_used_bytes,
                processes=attempt.processes,
                gpu_memory_used_bytes=attempt.gpu_memory_used_bytes,
                gpu_sm_ratio=attempt.gpu_sm_ratio,
                gpu_energy_millijoules=attempt.gpu_energy_millijoules,
                gpu_energy_source=attempt.gpu_energy_source,
                progress=_progress(attempt),
                progress_problem=attempt.progress_problem,
                steps=_steps(attempt.steps, boot_us),
            )
            for attempt in reading.attempts
        ],
    )


def _progress(attempt: AttemptReading) -> types.Progress | None:
    """Of samples and tokens there is a rate only where they are told."""
    told, rates = attempt.progress, attempt.progress_rates
    if told is None:
        return None
    wire = progress_to_wire(told)
    if rates is not None:
        wire.steps_per_second = rates.steps_per_second
        if told.samples:
            wire.samples_per_second = rates.samples_per_second
        if told.tokens:
            wire.tokens_per_second = rates.tokens_per_second
    return wire


def _gpu(gpu: GpuReading) -> types.GpuSample:
    """What is not known is left out: a None sets no field."""
    activity, health = gpu.activity or Activity(), gpu.health or Health()
    return types.GpuSample(
        index=gpu.index,
        utilization_ratio=gpu.utilization_ratio,
        memory_used_bytes=gpu.memory_used_bytes,
        power_watts=gpu.power_watts,
        temperature_celsius=gpu.temperature_celsius,
        sm_clock_mhz=gpu.sm_clock_mhz,
        clock_reasons=gpu.clock_reasons,
        **msgspec.structs.asdict(activity),
        **msgspec.structs.asdict(health),
        summary=None if gpu.summary is None else _summary(gpu.summary),
        simulated=gpu.simulated,
    )


def _summary(summary: Summary) -> types.GpuSummary:
    figures = msgspec.structs.asdict(summary)
    window_us = figures.pop("window_us")
    return types.GpuSummary(
        window_us=window_us,
        **{
            name: types.Stat(mean=one.mean, p50=one.p50, p95=one.p95, max=one.max)
            for name, one in figures.items()
            if one is not None
        },
    )
