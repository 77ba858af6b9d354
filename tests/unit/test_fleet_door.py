"""The door: every field of every word at its bounds, and the field's name in every refusal."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bursar.codec.spec import facts_from_wire
from bursar.errors import InvalidRequest
from bursar.model import Device, EndCause, NodeFacts
from bursar.v1 import types_pb2
from bursar.v1.types_pb2 import AttemptSample, Sample, TelemetryBatch
from bursard.fleet import (
    Counter,
    Exited,
    Heartbeat,
    Hello,
    LogAnswer,
    LogRange,
    MemberTruth,
    Started,
    Usage,
    door,
)
from bursard.telemetry import LiveTelemetry

BOOT_MAX = 100 * 366 * 86_400 * 1_000_000
HUGE = (2**62 + 1, 2**63 - 1, 2**63, 2**64 - 1)
GPU = Device(0, "GPU-1", "H100", 80 << 30)
FACTS = NodeFacts(name="n-1", cpu_milli=8_000, memory_bytes=1 << 30, devices=(GPU,), labels=(("rack", "r1"),))
END = Exited(attempt_id="att_1", rank=0, cause=EndCause.FAILED, exit_code=3, started_boot_us=5, held_us=7)
TRUTH = MemberTruth(attempt_id="att_1", rank=0, running=True, pid=9, started_boot_us=5, boot_id="b-1")
HELLO = Hello(facts=FACTS, boot_id="b-1", boot_us=10, truths=(TRUTH,), instance="agent_1", version="0.1.0")
USAGE = Usage(1, "b-1", 10, (Counter("att_1", 0, 5),))
SAMPLE: dict[str, Any] = {
    "at": 1,
    "cpu_utilization_ratio": 0.5,
    "memory_used_bytes": 1,
    "power_watts": 100.0,
    "gpus": [],
    "attempts": [],
}
GPU_SAMPLE = {
    "index": 0,
    "utilization_ratio": 1.0,
    "memory_used_bytes": 1,
    "power_watts": 1.0,
    "temperature_celsius": 30.0,
}


def but(word: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(word, **changes)


def refused(check: Any, word: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        check(word)
    return caught.value.message.partition(":")[0]


def test_what_an_honest_agent_says_passes() -> None:
    door.hello(HELLO)
    door.hello(but(HELLO, truths=(but(TRUTH, running=False, exit=END),)))
    door.started(Started("att_1", 0, 1, 5))
    door.usage(USAGE)
    door.heartbeat(Heartbeat(0))
    report = door.exited(END)
    assert (report.cause, report.exit_code, report.held_us) == (EndCause.FAILED, 3, 7)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("cpu_milli", (0, -1, 10**8 + 1, *HUGE)),
        ("memory_bytes", (0, -1, 2**60 + 1, *HUGE)),
        ("name", ("", "-x", "a b", "a/b", "ü", "x" * 64, "a\n")),
        ("address", ("", "a b", "a;rm", "x" * 254, "10.0.0.1\n")),
        ("pool", ("x" * 201, "a\nb", "a\x1b[31m")),
        ("region", ("x" * 201, "\0")),
        ("market", ("x" * 201, "\r")),
    ],
)
def test_every_fact_has_its_range_and_form(field: str, values: tuple[Any, ...]) -> None:
    for value in values:
        assert refused(door.facts, but(FACTS, **{field: value})) == f"facts.{field}", value


@pytest.mark.parametrize(
    ("devices", "field"),
    [
        (tuple(but(GPU, index=i, uuid="") for i in range(17)), "facts.devices"),
        ((GPU, but(GPU, uuid="GPU-2")), "facts.devices.index"),
        ((but(GPU, index=1),), "facts.devices.index"),
        ((GPU, but(GPU, index=1)), "facts.devices.uuid"),
        ((GPU, but(GPU, index=1, uuid="x", type="A100")), "facts.devices.type"),
        ((but(GPU, type="x" * 201),), "facts.devices.type"),
        ((but(GPU, uuid="a\nb"),), "facts.devices.uuid"),
        ((but(GPU, memory_bytes=2**60 + 1),), "facts.devices.memory_bytes"),
        ((but(GPU, memory_bytes=-1),), "facts.devices.memory_bytes"),
    ],
)
def test_devices_are_counted_indexed_and_told_apart(devices: tuple[Device, ...], field: str) -> None:
    assert refused(door.facts, but(FACTS, devices=devices)) == field


def test_there_is_an_end_to_new_kinds_of_devices_but_not_to_known_ones() -> None:
    many = [f"T{number}" for number in range(1_000)]
    assert refused(lambda word: door.known_kind(word, many), FACTS) == "facts.devices.type"
    door.known_kind(FACTS, many[1:])
    door.known_kind(FACTS, [*many, "H100"])


@pytest.mark.parametrize(
    "labels",
    [
        tuple((f"k{i}", "v") for i in range(65)),
        (("a", "1"), ("a", "2")),
        (("", "v"),),
        (("a b", "v"),),
        (("a", "x" * 201),),
        (("a", "x\n"),),
    ],
)
def test_labels_are_few_short_and_named_once(labels: tuple[tuple[str, str], ...]) -> None:
    assert refused(door.facts, but(FACTS, labels=labels)) == "facts.labels"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        *(({"boot_id": text}, "boot_id") for text in ("", "x" * 101, "a b", "a\n")),
        *(({"boot_us": value}, "boot_us") for value in (-1, BOOT_MAX + 1, *HUGE)),
        *(({"epoch": value}, "epoch") for value in (-1, 2**48 + 1, *HUGE)),
        *(({"log_seq": value}, "log_seq") for value in (-1, 2**63)),
        *(({"log_hash": value}, "log_hash") for value in (b"x", b"x" * 32, b"x" * 33)),
        *(({"log_hash": value, "log_seq": 1}, "log_hash") for value in (b"", b"x", b"x" * 33)),
        ({"log_cluster_id": "a b"}, "log_cluster_id"),
        ({"instance": "x" * 101}, "instance"),
        ({"version": "x" * 201}, "agent_version"),
        ({"version": "1\n2"}, "agent_version"),
        ({"truths": (TRUTH, TRUTH)}, "attempts"),
        ({"truths": (TRUTH,) * 50_001}, "attempts"),
        ({"truths": (but(TRUTH, started_boot_us=11),)}, "attempts.started_boot_us"),
        ({"truths": (but(TRUTH, boot_id="b-0", started_boot_us=BOOT_MAX + 1),)}, "attempts.started_boot_us"),
        ({"truths": (but(TRUTH, pid=2**31),)}, "attempts.pid"),
        ({"truths": (but(TRUTH, rank=65_536),)}, "attempts.rank"),
        ({"truths": (but(TRUTH, attempt_id=""),)}, "attempts.attempt_id"),
        ({"truths": (but(TRUTH, boot_id="a b"),)}, "attempts.boot_id"),
        ({"truths": (but(TRUTH, running=False),)}, "attempts.exited"),
        ({"truths": (but(TRUTH, running=False, exit=but(END, attempt_id="att_2")),)}, "attempts.exited"),
        ({"truths": (but(TRUTH, running=False, exit=but(END, held_us=2**63)),)}, "exited.held_us"),
    ],
)
def test_a_hello_names_the_field_it_is_refused_for(changes: dict[str, Any], field: str) -> None:
    assert refused(door.hello, but(HELLO, **changes)) == field


def test_a_member_of_an_earlier_boot_may_have_started_later_than_this_boots_clock() -> None:
    door.hello(but(HELLO, truths=(but(TRUTH, boot_id="b-0", started_boot_us=10**12),)))


@pytest.mark.parametrize(
    ("word", "field"),
    [
        (Started("", 0, 1, 1), "started.attempt_id"),
        (Started("att 1", 0, 1, 1), "started.attempt_id"),
        (Started("att_1", -1, 1, 1), "started.rank"),
        (Started("att_1", 65_536, 1, 1), "started.rank"),
        (Started("att_1", 0, 0, 1), "started.pid"),
        (Started("att_1", 0, 2**31, 1), "started.pid"),
        (Started("att_1", 0, 1, -1), "started.boot_us"),
        *((Started("att_1", 0, 1, value), "started.boot_us") for value in (BOOT_MAX + 1, *HUGE)),
    ],
)
def test_a_start_names_the_field_it_is_refused_for(word: Started, field: str) -> None:
    assert refused(door.started, word) == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        *(({"exit_code": value}, "exited.exit_code") for value in (-2, 256, 2**31)),
        ({"cause": EndCause.COMPLETED, "exit_code": 1}, "exited.exit_code"),
        *(({"signal": value}, "exited.signal") for value in (-1, 65, 2**32 - 1)),
        ({"message": "x" * 4001}, "exited.message"),
        *(
            ({name: value}, f"exited.{name}")
            for name in ("held_us", "started_boot_us")
            for value in (-1, BOOT_MAX + 1, *HUGE)
        ),
        *(({name: 2**60 + 1}, f"exited.{name}") for name in ("max_rss_bytes", "log_bytes")),
        (
            {"gpu_energy_millijoules": 10**15 + 1, "gpu_energy_source": "measured"},
            "exited.gpu_energy_millijoules",
        ),
        ({"gpu_energy_millijoules": 1}, "exited.gpu_energy_source"),
        ({"cpu_us": BOOT_MAX * 1024 + 1}, "exited.cpu_us"),
        ({"fenced_epoch": 2**48 + 1}, "exited.fenced_epoch"),
        ({"rank": 2**32 - 1}, "exited.rank"),
        ({"attempt_id": "x" * 101}, "exited.attempt_id"),
    ],
)
def test_an_end_names_the_field_it_is_refused_for(changes: dict[str, Any], field: str) -> None:
    assert refused(door.exited, but(END, **changes)) == field


def test_the_message_of_an_end_cannot_write_on_a_terminal() -> None:
    report = door.exited(but(END, message="  out of\x1b[31m luck\r\n" + "x" * 600))
    assert report.message.startswith("out of [31m luck")
    assert report.message.isprintable()
    assert len(report.message) <= 500


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"seq": -1}, "usage.seq"),
        ({"seq": 2**63}, "usage.seq"),
        ({"boot_id": ""}, "usage.boot_id"),
        *(({"at_boot_us": value}, "usage.at_boot_us") for value in (-1, BOOT_MAX + 1, *HUGE)),
        *(
            ({"counters": (Counter("att_1", 0, value),)}, "usage.counters.held_us")
            for value in (-1, BOOT_MAX + 1, *HUGE)
        ),
        ({"counters": (Counter("att_1", 0, 1, BOOT_MAX * 1024 + 1),)}, "usage.counters.cpu_us"),
        ({"counters": (Counter("att_1", 65_536, 1),)}, "usage.counters.rank"),
        ({"counters": (Counter("a", 0, 1), Counter("a", 0, 2))}, "usage.counters"),
        ({"counters": (Counter("a", 0, 1),) * 10_001}, "usage.counters"),
    ],
)
def test_usage_names_the_field_it_is_refused_for(changes: dict[str, Any], field: str) -> None:
    assert refused(door.usage, but(USAGE, **changes)) == field


@pytest.mark.parametrize("value", [-1, BOOT_MAX + 1, *HUGE])
def test_a_heartbeat_is_a_reading_that_can_be(value: int) -> None:
    assert refused(door.heartbeat, Heartbeat(value)) == "heartbeat.boot_us"


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        (LogAnswer(b"x" * 11, 5, 16, False, 0), "log.data"),
        (LogAnswer(b"ab", 5, 8, False, 0), "log.next_offset"),
        (LogAnswer(b"ab", 5, 5, False, 0), "log.next_offset"),
        (LogAnswer(b"ab", 4, 6, False, 0), "log.offset"),
        (LogAnswer(b"", 2**63, 2**63, False, 0), "log.offset"),
        (LogAnswer(b"", 5, 5, False, 2**63), "log.dropped_bytes"),
        (LogAnswer(b"", 5, 5, False, 1), "log.dropped_bytes"),
        (LogAnswer(b"", 5, 5, False, 0, "x" * 4001), "log.error"),
    ],
)
def test_a_log_answer_gets_its_reader_further(answer: LogAnswer, field: str) -> None:
    wanted = LogRange("att_1", 0, 5, 10)
    assert refused(lambda word: door.log_answer(wanted, word), answer) == field


def test_log_answers_that_are_fine_pass() -> None:
    wanted = LogRange("att_1", 0, 5, 10)
    door.log_answer(wanted, LogAnswer(b"", 5, 5, True, 0))
    door.log_answer(wanted, LogAnswer(b"abc", 9, 12, False, 4))
    door.log_answer(wanted, LogAnswer(b"", 0, 0, False, 0, "nothing is left of it"))
    door.log_answer(LogRange("att_1", 0, 0, 10, tail_bytes=3), LogAnswer(b"abc", 90, 93, False, 0))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        *(({"cpu_utilization_ratio": v}, "sample.cpu_utilization_ratio") for v in (NAN, INF, -0.1, 2e6)),
        *(({"power_watts": v}, "sample.power_watts") for v in (NAN, INF, -1.0, 2e6)),
        ({"memory_used_bytes": 2**63}, "sample.memory_used_bytes"),
        ({"at": -1}, "sample.at"),
        ({"gpus": [GPU_SAMPLE, GPU_SAMPLE]}, "sample.gpus.index"),
        ({"gpus": [{**GPU_SAMPLE, "index": 16}]}, "sample.gpus.index"),
        ({"gpus": [{**GPU_SAMPLE, "index": i} for i in range(17)]}, "sample.gpus"),
        *(
            ({"gpus": [{**GPU_SAMPLE, "utilization_ratio": v}]}, "sample.gpus.utilization_ratio")
            for v in (NAN, -0.01, 1.01)
        ),
        ({"gpus": [{**GPU_SAMPLE, "temperature_celsius": NAN}]}, "sample.gpus.temperature_celsius"),
        ({"attempts": [{"attempt_id": "", "rank": 0}]}, "sample.attempts.attempt_id"),
        *(
            ({"gpus": [{**GPU_SAMPLE, name: value}]}, f"sample.gpus.{name}")
            for name in (
                "sm_ratio",
                "sm_occupancy_ratio",
                "tensor_ratio",
                "dram_ratio",
                "fp64_ratio",
                "fp32_ratio",
                "fp16_ratio",
            )
            for value in (NAN, -0.01, 1.01)
        ),
        *(
            ({"gpus": [{**GPU_SAMPLE, name: 2**60 + 1}]}, f"sample.gpus.{name}")
            for name in ("memory_used_bytes", "ecc_corrected", "ecc_uncorrected")
        ),
        ({"gpus": [{**GPU_SAMPLE, "sm_clock_mhz": 1_000_001}]}, "sample.gpus.sm_clock_mhz"),
        *(
            ({"gpus": [{**GPU_SAMPLE, "summary": {name: {"p95": value}}}]}, f"sample.gpus.summary.{name}.p95")
            for name, value in (
                ("utilization_ratio", 1.01),
                ("power_watts", NAN),
                ("sm_clock_mhz", -1.0),
                ("temperature_celsius", -274.0),
                ("memory_used_bytes", INF),
            )
        ),
        (
            {"gpus": [{**GPU_SAMPLE, "summary": {"window_us": 86_400_000_001}}]},
            "sample.gpus.summary.window_us",
        ),
        *(
            ({"attempts": [{"attempt_id": "att_1", **wrong}]}, f"sample.attempts.{next(iter(wrong))}")
            for wrong in (
                {"gpu_sm_ratio": 1.01},
                {"gpu_memory_used_bytes": 2**60 + 1},
                {"gpu_energy_millijoules": 10**15 + 1},
                {"gpu_energy_source": "guessed"},
            )
        ),
    ],
)
def test_a_reading_is_finite_and_of_devices_that_can_be(changes: dict[str, Any], field: str) -> None:
    door.sample(Sample(**SAMPLE | {"gpus": [GPU_SAMPLE]}))
    assert refused(door.sample, Sample(**SAMPLE | changes)) == field


def test_readings_are_of_the_node_that_gives_them() -> None:
    door.telemetry("n-1", "n-1", [], 0)
    with pytest.raises(InvalidRequest, match=r"telemetry\.node"):
        door.telemetry("n-1", "n-2", [], 0)
    with pytest.raises(InvalidRequest, match=r"telemetry\.samples"):
        door.telemetry("n-1", "n-1", [None] * 601, 0)


def test_telemetry_keeps_what_its_node_holds_and_nothing_that_is_too_large() -> None:
    live = LiveTelemetry()
    attempts = [AttemptSample(attempt_id=f"att_{one}", rank=one) for one in range(200)]
    batch = TelemetryBatch(samples=[Sample(at=1, attempts=attempts)])
    live.take("n-1", batch, {"att_7": 7, "att_8": 9}, FACTS, 1)
    kept = live.newest("n-1")
    assert isinstance(kept, Sample)
    assert [one.attempt_id for one in kept.attempts] == ["att_7"]
    held = {f"att_{'x' * 90}_{one}": one for one in range(2000)}
    many = [AttemptSample(attempt_id=name, rank=rank) for name, rank in held.items()]
    live.take("n-1", TelemetryBatch(samples=[Sample(at=2, attempts=many)]), held, FACTS, 2)
    assert (live.newest("n-1"), live.refused) == (kept, 1)


def test_the_wire_s_reader_judges_nothing_so_that_the_door_is_the_one_place() -> None:
    wire = types_pb2.NodeFacts(
        name="not a name", memory_bytes=2**63 - 1, labels={"?": "x" * 300}, pool="p" * 300, address="a b"
    )
    wire.devices.add(index=7, uuid="u" * 300, type="h" * 300)
    read = facts_from_wire(wire)
    assert (read.name, len(read.pool), read.labels) == ("not a name", 300, (("?", "x" * 300),))
    assert [(d.index, len(d.uuid), d.type) for d in read.devices] == [(7, 300, "H" * 300)]
    with pytest.raises(InvalidRequest):
        door.facts(read)
