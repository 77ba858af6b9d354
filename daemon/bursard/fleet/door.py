"""The door: the form of everything a backend may say. PURE. What has it can still be a lie: `believe` asks.

Owns    ranges, lengths and forms of every field of hello, started, exited, usage, heartbeats, log answers and
        telemetry.
Input   words (`bursard.fleet.words`), telemetry samples by their attributes. Output: nothing, or
        `InvalidRequest` naming the field.
Why     an agent is a program on somebody else's machine. A number from it may become the length of a loop, a
        price or a line on a terminal, so it is looked at here, once, before anybody uses it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, get_args

from bursar.clock import DAY_US, INSTANT_MAX, INSTANT_MIN, SECOND_US
from bursar.errors import InvalidRequest
from bursar.model import COUNT_MAX, SECONDS_MAX, DeviceUse, EndCause, EnergySource, Exit, NodeFacts
from bursar.model.constraints import PLACE_FIELDS
from bursar.model.steps import NAME_CHARS_MAX, STEP_STATES, STEPS_COUNTED_MAX, STEPS_TOLD_MAX
from bursar.pinned import is_certificate
from bursar.steps.names import STEP_TASKS_MAX
from bursar.words import on_one_line
from bursard.events import ExitReport
from bursard.fleet.words import (
    Condition,
    Exited,
    Heartbeat,
    Hello,
    LimitTaken,
    LogAnswer,
    LogRange,
    MemberTruth,
    Notice,
    Readiness,
    Started,
    StepFrame,
    Usage,
)

BOOT_US_MAX = 100 * 366 * DAY_US
"""No machine has been up for a century: also the end of every duration and counter of one boot."""
EPOCH_MAX = 2**48
BYTES_MAX = 2**60
"""Of one figure, and of all devices of a node together."""
MEMORY_BYTES_MIN = 16 << 20
"""No machine that runs an agent has less: a share of a node is never divided by next to nothing."""
RANK_MAX = 65_535
PID_MAX = 2**31 - 1
SEQ_MAX = 2**63 - 1
ORDER_MAX = 2**32 - 1
TRUTHS_MAX = 50_000
COUNTERS_MAX = 10_000
MESSAGE_CHARS_MAX = 4_000
MESSAGE_CHARS_KEPT = 500
TEXT_CHARS_MAX = 200
DEVICES_MAX = 16
GPU_TYPES_MAX = 1_000
LABELS_MAX = 64
SAMPLES_MAX = 600
MEMBERS_SLACK = 256
STEP_BYTES_MAX = 1 << 16
PORT_MAX = 65_535
ADMITS_MAX = 64
STEP_KINDS: Final = frozenset(("open", "resume", "data", "close"))
SAMPLE_ATTEMPTS_MAX = 10_000
ENERGY_MILLIJOULES_MAX = 10**15
"""What a hundred devices of a kilowatt draw in four months."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_GPU_RATIOS: Final = (
    "utilization_ratio", "sm_ratio", "sm_occupancy_ratio", "tensor_ratio", "dram_ratio", "fp64_ratio",
    "fp32_ratio", "fp16_ratio",
)  # fmt: skip
_SUMMARY_MOST: Final = {
    "utilization_ratio": 1.0,
    "memory_used_bytes": float(BYTES_MAX),
    "power_watts": 1.0e6,
    "temperature_celsius": 1.0e3,
    "sm_clock_mhz": 1.0e6,
}

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_OPTIONAL_ID = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,99})?")
NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ADDRESS = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9.:%_\[\]-]{0,252}")
_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")


def hello(word: Hello) -> None:
    """A node presents itself."""
    hello_itself(word)
    hello_truths(word, word.truths)


def hello_itself(word: Hello) -> None:
    """All of a hello but each of its truths, of which there may be thousands."""
    facts(word.facts)
    _form(_ID, word.boot_id, "boot_id", "1 to 100 letters, digits, dots, dashes")
    _within(word.boot_us, 0, BOOT_US_MAX, "boot_us")
    _form(_OPTIONAL_ID, word.instance, "instance", "at most 100 letters, digits, dots, dashes")
    _text(word.version, "agent_version")
    _within(word.epoch, 0, EPOCH_MAX, "epoch")
    _within(word.log_seq, 0, SEQ_MAX, "log_seq")
    _require(
        len(word.log_hash) == (32 if word.log_seq else 0), "log_hash", "32 bytes with a log_seq, else none"
    )
    _form(_OPTIONAL_ID, word.log_cluster_id, "log_cluster_id", "a cluster's id")
    condition(Condition(word.trouble), "trouble")
    _require(len(word.truths) <= TRUTHS_MAX, "attempts", f"at most {TRUTHS_MAX}")
    _once(((truth.attempt_id, truth.rank) for truth in word.truths), "attempts")


def hello_truths(word: Hello, truths: Sequence[MemberTruth]) -> None:
    """Some of its truths."""
    for truth in truths:
        member_truth(truth)
        same_boot = truth.boot_id in ("", word.boot_id)
        _require(
            not same_boot or truth.started_boot_us <= word.boot_us,
            "attempts.started_boot_us",
            "not after the hello's own boot_us",
        )


def facts(found: NodeFacts) -> None:
    """What a node says it has."""
    _form(NODE_NAME, found.name, "facts.name", "a host name of at most 63 characters")
    _within(found.cpu_milli, 1, 10**8, "facts.cpu_milli")
    _within(found.memory_bytes, MEMORY_BYTES_MIN, BYTES_MAX, "facts.memory_bytes")
    for field in PLACE_FIELDS:
        _text(getattr(found, field), f"facts.{field}")
    _form(_ADDRESS, found.address, "facts.address", "a host name or an address")
    _require(len(found.devices) <= DEVICES_MAX, "facts.devices", f"at most {DEVICES_MAX}")
    _require(
        [device.index for device in found.devices] == list(range(len(found.devices))),
        "facts.devices.index",
        "0, 1, 2 and so on, each once",
    )
    _require(
        len({device.type for device in found.devices}) <= 1, "facts.devices.type", "one for a whole node"
    )
    for device in found.devices:
        _text(device.type, "facts.devices.type")
        _text(device.uuid, "facts.devices.uuid")
        _within(device.memory_bytes, 0, BYTES_MAX, "facts.devices.memory_bytes")
    whole = sum(device.memory_bytes for device in found.devices)
    _within(whole, 0, BYTES_MAX, "facts.devices.memory_bytes of all devices")
    named = [device.uuid for device in found.devices if device.uuid]
    _once(named, "facts.devices.uuid")
    _require(len(found.labels) <= LABELS_MAX, "facts.labels", f"at most {LABELS_MAX}")
    _once((key for key, _ in found.labels), "facts.labels")
    for key, value in found.labels:
        _form(_LABEL_KEY, key, "facts.labels", "keys of letters, digits, dots, dashes, slashes")
        _text(value, "facts.labels")


def known_kind(found: NodeFacts, known: Collection[str]) -> None:
    """Every plan looks at every kind that some node has, so there is an end to new ones."""
    new = {device.type for device in found.devices} - set(known)
    _require(
        not new or len(known) < GPU_TYPES_MAX,
        "facts.devices.type",
        f"one of {GPU_TYPES_MAX} kinds known here",
    )


def member_truth(truth: MemberTruth) -> None:
    """One member of a hello: it runs, or it has ended and says how."""
    _member(truth.attempt_id, truth.rank, "attempts")
    _form(_OPTIONAL_ID, truth.boot_id, "attempts.boot_id", "a boot id")
    _within(truth.pid, 0, PID_MAX, "attempts.pid")
    _within(truth.started_boot_us, 0, BOOT_US_MAX, "attempts.started_boot_us")
    if truth.running:
        return
    end = truth.exit
    _require(end is not None, "attempts.exited", "how it ended, since it does not run")
    if end is not None:
        of_it = (end.attempt_id, end.rank) == (truth.attempt_id, truth.rank)
        _require(of_it, "attempts.exited", "of the same attempt and rank")
        exit_report(end)


def started(word: Started) -> None:
    """A start."""
    _member(word.attempt_id, word.rank, "started")
    _within(word.pid, 1, PID_MAX, "started.pid")
    _within(word.boot_us, 0, BOOT_US_MAX, "started.boot_us")


def limit_taken(word: LimitTaken) -> str:
    """The answer to an order for another limit. Returns its problem fit to be kept: one line, cut."""
    _member(word.attempt_id, word.rank, "limit_taken")
    _within(word.order, 1, ORDER_MAX, "limit_taken.order")
    longest = f"at most {MESSAGE_CHARS_MAX} characters"
    _require(len(word.problem) <= MESSAGE_CHARS_MAX, "limit_taken.problem", longest)
    return _kept(word.problem) or ("it does not say why" if word.problem else "")


def condition(word: Condition, field: str = "condition.trouble") -> str:
    """What keeps a node from starting anything, fit to be kept: one line, cut; empty for nothing."""
    _require(len(word.trouble) <= MESSAGE_CHARS_MAX, field, f"at most {MESSAGE_CHARS_MAX} characters")
    return _kept(word.trouble) or ("it does not say why" if word.trouble else "")


def readiness(word: Readiness) -> str:
    """Whether a replica is ready. Returns why it is not fit to be shown: one line, cut."""
    _member(word.attempt_id, word.rank, "readiness")
    longest = f"at most {MESSAGE_CHARS_MAX} characters"
    _require(len(word.message) <= MESSAGE_CHARS_MAX, "readiness.message", longest)
    way = word.way
    _within(way.port, 0, PORT_MAX, "readiness.forward_port")
    given = bool(way.port) == bool(way.certificate)
    _require(given, "readiness.certificate", "given where forward_port is, and nowhere else")
    good = not way.certificate or is_certificate(way.certificate)
    _require(good, "readiness.certificate", "one certificate, DER in base64")
    _require(len(way.admits) <= ADMITS_MAX, "readiness.admits", f"at most {ADMITS_MAX}")
    digests = all(_SHA256.fullmatch(one) for one in way.admits)
    _require(digests, "readiness.admits", "digests of 64 hexadecimal digits")
    return _kept(word.message)


def notice(word: Notice) -> str:
    """What its provider says, fit to be kept: one line, cut."""
    _require(len(word.said) <= MESSAGE_CHARS_MAX, "notice.said", f"at most {MESSAGE_CHARS_MAX} characters")
    _within(word.left_us, 0, DAY_US, "notice.left_us")
    return _kept(word.said) or "it does not say why"


def exited(word: Exited) -> ExitReport:
    """An end."""
    _member(word.attempt_id, word.rank, "exited")
    _within(word.fenced_epoch, 0, EPOCH_MAX, "exited.fenced_epoch")
    return exit_report(word)


def exit_report(word: Exit) -> ExitReport:
    """How a member ended, fit to be kept: the message on one line, cut, without control characters."""
    _within(word.exit_code, -1, 255, "exited.exit_code")
    _within(word.signal, 0, 64, "exited.signal")
    _require(
        len(word.message) <= MESSAGE_CHARS_MAX, "exited.message", f"at most {MESSAGE_CHARS_MAX} characters"
    )
    _within(word.started_boot_us, 0, BOOT_US_MAX, "exited.started_boot_us")
    _within(word.held_us, 0, BOOT_US_MAX, "exited.held_us")
    _within(word.ran_us, 0, BOOT_US_MAX, "exited.ran_us")
    _within(word.cpu_us, 0, BOOT_US_MAX * 1024, "exited.cpu_us")
    _within(word.max_rss_bytes, 0, BYTES_MAX, "exited.max_rss_bytes")
    _within(word.log_bytes, 0, BYTES_MAX, "exited.log_bytes")
    _within(word.gpu_energy_millijoules, 0, ENERGY_MILLIJOULES_MAX, "exited.gpu_energy_millijoules")
    _require(
        bool(word.gpu_energy_source) or not word.gpu_energy_millijoules,
        "exited.gpu_energy_source",
        "measured, modelled or simulated, where there is energy",
    )
    _require(
        word.cause is not EndCause.COMPLETED or word.exit_code in (-1, 0),
        "exited.exit_code",
        "0 when it has completed",
    )
    _within(word.pull_us, 0, BOOT_US_MAX, "exited.pull_us")
    _require(
        not word.image_digest or _DIGEST.fullmatch(word.image_digest) is not None,
        "exited.image_digest",
        "sha256: and 64 digits of 0-9a-f",
    )
    if word.progress is not None:
        _progress(word.progress, "exited.progress")
    if word.device_use is not None:
        _device_use(word.device_use)
    if word.steps is not None:
        _steps(word.steps)
    message = _kept(word.message)
    return ExitReport(
        cause=word.cause,
        exit_code=word.exit_code,
        signal=word.signal,
        message=message,
        held_us=word.held_us,
        cpu_us=word.cpu_us,
        max_rss_bytes=word.max_rss_bytes,
        log_bytes=word.log_bytes,
        gpu_energy_millijoules=word.gpu_energy_millijoules,
        gpu_energy_source=word.gpu_energy_source,
        ran_us=word.ran_us,
        stopped=word.stopped,
        progress=word.progress,
        device_use=word.device_use,
        steps=word.steps,
        image_digest=word.image_digest,
        pull_us=word.pull_us,
    )


_USE_MAX: Final = {
    "memory_bytes": BYTES_MAX,
    "devices": DEVICES_MAX,
    "unused_devices": DEVICES_MAX,
    "ecc_uncorrected": COUNT_MAX,
    "remapped_rows": COUNT_MAX,
    "xid": 1 << 16,
}


def _device_use(use: DeviceUse) -> None:
    """Times of so many devices, each part within what was heard; counts that can be."""
    for name in DeviceUse.__struct_fields__:
        _within(getattr(use, name), 0, _USE_MAX.get(name, 2**62), f"exited.device_use.{name}")
    apart = use.empty_us + use.idle_us + use.launch_us + use.memory_us + use.partial_us
    parts = (apart, use.busy_us, use.throttled_us, use.sm_us, use.units_us)
    _require(max(parts) <= use.heard_us, "exited.device_use.heard_us", "no less than its parts")
    units = max(use.tensor_us, use.dram_us) <= use.units_us
    _require(units, "exited.device_use.units_us", "no less than its parts")
    _require(use.unused_devices <= use.devices, "exited.device_use.unused_devices", "at most all of them")


def usage(word: Usage) -> None:
    """Counters."""
    _within(word.seq, 0, SEQ_MAX, "usage.seq")
    _form(_ID, word.boot_id, "usage.boot_id", "a boot id")
    _within(word.at_boot_us, 0, BOOT_US_MAX, "usage.at_boot_us")
    _require(len(word.counters) <= COUNTERS_MAX, "usage.counters", f"at most {COUNTERS_MAX}")
    for counter in word.counters:
        _member(counter.attempt_id, counter.rank, "usage.counters")
        _within(counter.held_us, 0, BOOT_US_MAX, "usage.counters.held_us")
        _within(counter.cpu_us, 0, BOOT_US_MAX * 1024, "usage.counters.cpu_us")
    _once(((counter.attempt_id, counter.rank) for counter in word.counters), "usage.counters")


def heartbeat(word: Heartbeat) -> None:
    """A sign of life."""
    _within(word.boot_us, 0, BOOT_US_MAX, "heartbeat.boot_us")
    _within(word.wall_at, INSTANT_MIN, INSTANT_MAX, "heartbeat.wall_at")


def log_answer(wanted: LogRange, answer: LogAnswer) -> None:
    """A piece of a log, against what was asked for: a reader that goes on from it must get further."""
    _require(
        len(answer.data) <= wanted.limit_bytes, "log.data", f"at most the {wanted.limit_bytes} bytes asked"
    )
    _require(len(answer.error) <= MESSAGE_CHARS_MAX, "log.error", f"at most {MESSAGE_CHARS_MAX} characters")
    _within(answer.offset, 0, BYTES_MAX, "log.offset")
    _within(answer.dropped_bytes, 0, BYTES_MAX, "log.dropped_bytes")
    _require(wanted.times or not answer.marks, "log.marks", "none where none were asked for")
    _require(len(answer.marks) <= len(answer.data) + 1, "log.marks", "no more than there is data")
    before = (0, 0)
    for mark in answer.marks:
        _require(before[0] <= mark[0] <= BYTES_MAX, "log.marks.offset", "ascending")
        _require(before[1] <= mark[1] <= BOOT_US_MAX, "log.marks.after_us", "ascending")
        before = mark
    if answer.error:
        return
    _require(answer.next_offset == answer.offset + len(answer.data), "log.next_offset", "where the data ends")
    _require(
        wanted.tail_bytes > 0 or answer.offset >= wanted.offset, "log.offset", "not before what was asked"
    )
    moved = wanted.tail_bytes > 0 or answer.offset > wanted.offset or wanted.since_us > 0
    _require(
        bool(answer.data) or moved or not answer.dropped_bytes, "log.dropped_bytes", "0 where nothing moved"
    )


def step_frame(frame: StepFrame) -> None:
    """A piece of a step, which is carried unopened."""
    _member(frame.attempt_id, frame.from_rank, "step")
    _within(frame.to_rank, 0, RANK_MAX, "step.to_rank")
    _require(frame.kind in STEP_KINDS, "step.kind", "open, resume, data or close")
    _require(len(frame.data) <= STEP_BYTES_MAX, "step.data", f"at most {STEP_BYTES_MAX} bytes")


def sample(reading: Any) -> None:
    """One live reading (`bursar.v1.Sample`, by its attributes): finite, in range, of devices that can be."""
    _within(reading.at, 0, 2**62, "sample.at")
    _finite(reading.cpu_utilization_ratio, 1.0e6, "sample.cpu_utilization_ratio")
    _within(reading.memory_used_bytes, 0, BYTES_MAX, "sample.memory_used_bytes")
    _finite(reading.power_watts, 1.0e6, "sample.power_watts")
    _require(len(reading.gpus) <= DEVICES_MAX, "sample.gpus", f"at most {DEVICES_MAX}")
    _once((gpu.index for gpu in reading.gpus), "sample.gpus.index")
    for gpu in reading.gpus:
        _gpu(gpu)
    _require(
        len(reading.attempts) <= SAMPLE_ATTEMPTS_MAX, "sample.attempts", f"at most {SAMPLE_ATTEMPTS_MAX}"
    )
    for attempt in reading.attempts:
        _member(attempt.attempt_id, attempt.rank, "sample.attempts")
        _finite(attempt.cpu_utilization_ratio, 1.0e6, "sample.attempts.cpu_utilization_ratio")
        _within(attempt.memory_used_bytes, 0, BYTES_MAX, "sample.attempts.memory_used_bytes")
        _within(attempt.gpu_memory_used_bytes, 0, BYTES_MAX, "sample.attempts.gpu_memory_used_bytes")
        _finite(attempt.gpu_sm_ratio, 1.0, "sample.attempts.gpu_sm_ratio")
        _within(
            attempt.gpu_energy_millijoules,
            0,
            ENERGY_MILLIJOULES_MAX,
            "sample.attempts.gpu_energy_millijoules",
        )
        _require(
            attempt.gpu_energy_source in get_args(EnergySource),
            "sample.attempts.gpu_energy_source",
            "measured, modelled, simulated or empty",
        )
        _text(attempt.progress_problem, "sample.attempts.progress_problem")
        if attempt.HasField("progress"):
            _progress(attempt.progress, "sample.attempts.progress")
            for name in ("steps_per_second", "samples_per_second", "tokens_per_second"):
                _finite(getattr(attempt.progress, name), COUNT_MAX, f"sample.attempts.progress.{name}")
        if attempt.HasField("steps"):
            _running_steps(attempt.steps, "sample.attempts.steps")


def _progress(told: Any, field: str) -> None:
    """What a job told of itself (`bursar.model.Progress`, by its attributes), as its agent may pass it on."""
    for name in ("step", "total", "samples", "tokens"):
        _within(getattr(told, name), 0, COUNT_MAX, f"{field}.{name}")
    for name in ("elapsed_us", "data_wait_us", "compute_us", "communication_us", "checkpoint_us"):
        _within(getattr(told, name), 0, SECONDS_MAX * SECOND_US, f"{field}.{name}")
    _within(told.mfu_ppm, 0, 1_000_000, f"{field}.mfu_ppm")


def _running_steps(told: Any, field: str) -> None:
    """What a member that runs has started (`types_pb2.Steps`)."""
    _steps(told, field)
    states = (*STEP_STATES, "running")
    for step in told.told:
        _require(step.state in states, f"{field}.told.state", f"one of {', '.join(states)}")


def _steps(told: Any, field: str = "exited.steps") -> None:
    """What a member started, as its own processes say (`bursar.model.Steps`, by its attributes)."""
    _within(told.total, 1, STEPS_COUNTED_MAX, f"{field}.total")
    _within(told.failed, 0, told.total, f"{field}.failed")
    _within(told.cut_off, 0, told.total - told.failed, f"{field}.cut_off")
    most = min(told.total, STEPS_TOLD_MAX)
    _require(len(told.told) <= most, f"{field}.told", f"at most {most}")
    _once((step.number for step in told.told), f"{field}.told.number")
    for step in told.told:
        _within(step.number, 0, STEPS_COUNTED_MAX - 1, f"{field}.told.number")
        _within(step.tasks, 1, STEP_TASKS_MAX, f"{field}.told.tasks")
        _within(step.nodes, 1, step.tasks, f"{field}.told.nodes")
        _within(step.exit_code, -1, 255, f"{field}.told.exit_code")
        _within(step.signal, 0, 64, f"{field}.told.signal")
        _within(step.rank or 0, 0, step.tasks - 1, f"{field}.told.rank")
        _within(step.after_us, 0, BOOT_US_MAX, f"{field}.told.after_us")
        _within(step.elapsed_us, 0, BOOT_US_MAX, f"{field}.told.elapsed_us")
        _require(
            len(step.name) <= NAME_CHARS_MAX and step.name.isprintable(),
            f"{field}.told.name",
            f"at most {NAME_CHARS_MAX} characters that can be printed",
        )
        _require(step.member == 0, f"{field}.told.member", "0: its member says whose they are")


def _gpu(gpu: Any) -> None:
    _within(gpu.index, 0, DEVICES_MAX - 1, "sample.gpus.index")
    for name in _GPU_RATIOS:
        _finite(getattr(gpu, name), 1.0, f"sample.gpus.{name}")
    for name in ("memory_used_bytes", "ecc_corrected", "ecc_uncorrected"):
        _within(getattr(gpu, name), 0, BYTES_MAX, f"sample.gpus.{name}")
    _finite(gpu.power_watts, 1.0e6, "sample.gpus.power_watts")
    _finite(gpu.temperature_celsius, 1.0e3, "sample.gpus.temperature_celsius", least=-273.15)
    _within(gpu.sm_clock_mhz, 0, 1_000_000, "sample.gpus.sm_clock_mhz")
    _summary(gpu.summary)


def _summary(summary: Any) -> None:
    _within(summary.window_us, 0, DAY_US, "sample.gpus.summary.window_us")
    for name, most in _SUMMARY_MOST.items():
        one = getattr(summary, name)
        for figure in ("mean", "p50", "p95", "max"):
            least = -273.15 if name == "temperature_celsius" else 0.0
            _finite(getattr(one, figure), most, f"sample.gpus.summary.{name}.{figure}", least=least)


def telemetry(node: str, batch_node: str, samples: Any, live: int) -> None:
    """A batch of readings of one node, and no other's, by its size alone: where it has readings of more
    members than the node can have, or of more devices, none of it is read.

    Args:
        live: how many members the node holds.
    """
    _require(batch_node in ("", node), "telemetry.node", f"{node}, whose readings these are")
    _require(len(samples) <= SAMPLES_MAX, "telemetry.samples", f"at most {SAMPLES_MAX}")
    most = members_said_max(live)
    for reading in samples:
        _require(len(reading.gpus) <= DEVICES_MAX, "sample.gpus", f"at most {DEVICES_MAX}")
        _require(len(reading.attempts) <= most, "sample.attempts", f"at most {most} of a node with {live}")


def members_said_max(live: int) -> int:
    """How many members a node that holds so many may speak of: some have just ended, or will begin."""
    return 2 * live + MEMBERS_SLACK


def known_counters(word: Usage, live: int, known: Mapping[str, object]) -> Usage:
    """Usage of a node that holds so many members. What it counts beyond what it can have is left out unread,
    but for attempts that are live somewhere: its spool may be of before thousands of ends.
    """
    _require(len(word.counters) <= COUNTERS_MAX, "usage.counters", f"at most {COUNTERS_MAX}")
    if len(word.counters) <= members_said_max(live):
        return word
    left = tuple(counter for counter in word.counters if counter.attempt_id in known)
    return Usage(word.seq, word.boot_id, word.at_boot_us, left)


# --- the few forms there are


def _require(holds: bool, field: str, wanted: str) -> None:
    if not holds:
        raise InvalidRequest(f"{field}: {wanted}", {"field": field})


def _within(value: int, least: int, most: int, field: str) -> None:
    if not least <= value <= most:
        raise InvalidRequest(f"{field}: {least} to {most}, not {value}", {"field": field})


def _finite(value: float, most: float, field: str, least: float = 0.0) -> None:
    if not (math.isfinite(value) and least <= value <= most):
        raise InvalidRequest(f"{field}: a number from {least:g} to {most:g}, not {value}", {"field": field})


def _form(form: re.Pattern[str], text: str, field: str, wanted: str) -> None:
    if form.fullmatch(text) is None:
        raise InvalidRequest(f"{field}: {wanted}", {"field": field})


def _text(text: str, field: str) -> None:
    _require(len(text) <= TEXT_CHARS_MAX, field, f"at most {TEXT_CHARS_MAX} characters")
    _require(text.isprintable(), field, "no control characters")


def _kept(message: str) -> str:
    return on_one_line(message, MESSAGE_CHARS_KEPT)


def _member(attempt_id: str, rank: int, field: str) -> None:
    _form(_ID, attempt_id, f"{field}.attempt_id", "an attempt's id")
    _within(rank, 0, RANK_MAX, f"{field}.rank")


def _once(values: Iterable[Hashable], field: str) -> None:
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            raise InvalidRequest(f"{field}: {value} is there twice", {"field": field})
        seen.add(value)
