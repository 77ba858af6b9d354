"""How much of each figure, text and list of an agent's words the door takes: found by asking it.

Why     a bound that is one off, or of which no test stands at the bound itself, breaks nothing that a test of
        nonsense sees. For every field of every word the door is asked for the least and the greatest that it
        takes. What it says stands in tests/golden/door.txt; written anew by `BURSAR_GOLDEN=write pytest
        tests/unit/test_bounds_of_agents_words.py`, and read before it is kept.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf.message import Message

from bursar.errors import InvalidRequest
from bursar.model import Device, DeviceUse, EndCause, NodeFacts, Progress, Step, Steps
from bursar.v1 import types_pb2 as pb
from bursard.fleet import Counter, Exited, Heartbeat, Hello, MemberTruth, Started, Usage, door
from bursard.fleet.words import Condition, LimitTaken, LogAnswer, LogRange, Notice, StepFrame

GOLDEN = Path(__file__).parents[1] / "golden/door.txt"
GPU = Device(0, "GPU-1", "H100", 80 << 30)
FACTS = NodeFacts(
    name="n-1", cpu_milli=8_000, memory_bytes=1 << 30, devices=(GPU,), labels=(("rack", "r1"),), address="h",
    pool="p", provider="onprem", region="r", zone="z", rack="k", instance_type="i",
)  # fmt: skip
USE = DeviceUse(
    heard_us=1000, empty_us=1, idle_us=2, launch_us=3, memory_us=4, partial_us=5, busy_us=6, throttled_us=7,
    sm_us=8, tensor_us=9, dram_us=10, units_us=11, clock_mhz_us=12, devices=2, unused_devices=1,
    memory_bytes=13, ecc_uncorrected=14, remapped_rows=15, xid=16,
)  # fmt: skip
TOLD = Progress(step=1, total=2, samples=3, tokens=4, elapsed_us=5, data_wait_us=6, compute_us=7, mfu_ppm=8)
STEP = Step(
    number=1, state="failed", name="p", tasks=4, nodes=2, exit_code=3, rank=2, after_us=4, elapsed_us=5
)
END = Exited(
    attempt_id="att_1", rank=0, cause=EndCause.FAILED, exit_code=3, started_boot_us=5, held_us=7, message="m",
    gpu_energy_millijoules=5, gpu_energy_source="measured", progress=TOLD, device_use=USE,
    steps=Steps(total=3, failed=1, cut_off=1, told=(STEP,)),
)  # fmt: skip
DONE = msgspec.structs.replace(END, attempt_id="att_2", cause=EndCause.COMPLETED, exit_code=0)
TRUTH = MemberTruth(attempt_id="att_1", rank=0, running=True, pid=9, started_boot_us=5, boot_id="b-1")
OVER = MemberTruth(attempt_id="att_2", rank=0, running=False, pid=9, boot_id="b-0", exit=DONE)
WANTED = LogRange("att_1", 0, 100, 4_096)
TAIL = LogRange("att_1", 0, 0, 4_096, 100, times=True)


def sample() -> pb.Sample:
    """A reading in which everything is told."""
    read = pb.Sample(at=5, cpu_utilization_ratio=0.5, memory_used_bytes=6, power_watts=7)
    gpu = read.gpus.add(
        index=1, memory_used_bytes=1, power_watts=2, temperature_celsius=30, sm_clock_mhz=3, ecc_corrected=4,
        ecc_uncorrected=5, **dict.fromkeys(door._GPU_RATIOS, 0.5),
    )  # fmt: skip
    gpu.summary.window_us = 9
    for name in door._SUMMARY_MOST:
        stat = getattr(gpu.summary, name)
        stat.mean, stat.p50, stat.p95, stat.max = 0.25, 0.25, 0.5, 0.5
    one = read.attempts.add(
        attempt_id="att_1", rank=0, cpu_utilization_ratio=1, memory_used_bytes=1, gpu_memory_used_bytes=2,
        gpu_sm_ratio=0.5, gpu_energy_millijoules=3, progress_problem="p",
    )  # fmt: skip
    one.progress.CopyFrom(pb.Progress(step=1, total=2, samples=3, tokens=4, elapsed_us=5, steps_per_second=1))
    for name in ("data_wait_us", "compute_us", "communication_us", "checkpoint_us", "mfu_ppm"):
        setattr(one.progress, name, 6)
    one.progress.samples_per_second = one.progress.tokens_per_second = 1
    return read


WORDS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "hello": (
        door.hello,
        Hello(
            facts=FACTS, boot_id="b-1", boot_us=10, truths=(TRUTH, OVER), instance="agent_1", version="0.1.0",
            epoch=3, log_seq=4, log_hash=bytes(32), log_cluster_id="c1", trouble="t",
        ),
    ),
    "started": (door.started, Started("att_1", 0, 9, 5)),
    "limit_taken": (door.limit_taken, LimitTaken("att_1", 0, 4, "p")),
    "condition": (door.condition, Condition("t")),
    "notice": (door.notice, Notice("s", 5, advice=False)),
    "exited": (door.exited, END),
    "completed": (door.exited, DONE),
    "usage": (door.usage, Usage(1, "b-1", 10, (Counter("att_1", 0, 5, 6),))),
    "heartbeat": (door.heartbeat, Heartbeat(5)),
    "log": (lambda word: door.log_answer(WANTED, word), LogAnswer(b"abc", 100, 103, False, 0)),
    "log skipped": (lambda word: door.log_answer(WANTED, word), LogAnswer(b"abc", 105, 108, True, 5)),
    "log tail": (
        lambda word: door.log_answer(TAIL, word),
        LogAnswer(b"abc", 7, 10, True, 0, marks=((7, 1), (9, 2))),
    ),
    "log failed": (lambda word: door.log_answer(WANTED, word), LogAnswer(b"", 0, 0, True, 0, error="gone")),
    "step": (door.step_frame, StepFrame(attempt_id="att_1", from_rank=0, to_rank=1, channel=2, kind="data")),
    "sample": (door.sample, sample()),
}  # fmt: skip


def fields(word: Any, path: str = "") -> Iterator[tuple[str, Any, Callable[[Any], Any]]]:
    """(path, value, the word with another value there) of all that is in a word, lists themselves too."""
    if isinstance(word, Message):
        yield from _of_message(word, path)
    elif isinstance(word, msgspec.Struct):
        for name in word.__struct_fields__:
            for here, value, made in fields(getattr(word, name), f"{path}.{name}"):
                yield (
                    here,
                    value,
                    lambda new, made=made, name=name: msgspec.structs.replace(  # type: ignore[misc]
                        word, **{name: made(new)}
                    ),
                )
    elif isinstance(word, tuple):
        if not word or isinstance(word[0], tuple | msgspec.Struct):
            yield f"{path} many", word, lambda new: new
        for at, one in enumerate(word):
            for here, value, made in fields(one, f"{path}{at}"):
                yield here, value, lambda new, made=made, at=at: (*word[:at], made(new), *word[at + 1 :])  # type: ignore[misc]
    else:
        yield path, word, lambda new: new


def _of_message(word: Message, path: str) -> Iterator[tuple[str, Any, Callable[[Any], Any]]]:
    for field, value in word.ListFields():

        def put(new: Any, name: str = field.name) -> Any:
            other = type(word)()
            other.CopyFrom(word)
            if isinstance(new, Message):
                getattr(other, name).CopyFrom(new)
            elif isinstance(new, list):
                other.ClearField(name)  # type: ignore[arg-type]
                getattr(other, name).extend(new)
            else:
                setattr(other, name, new)
            return other

        if field.is_repeated:
            for at, one in enumerate(value):
                for here, inner, made in fields(one, f"{path}.{field.name}{at}"):
                    kept = list(value)
                    yield (
                        here,
                        inner,
                        lambda new, made=made, at=at, put=put, kept=kept: put(  # type: ignore[misc]
                            [*kept[:at], made(new), *kept[at + 1 :]]
                        ),
                    )
        elif isinstance(value, Message):
            for here, inner, made in fields(value, f"{path}.{field.name}"):
                yield here, inner, lambda new, made=made, put=put: put(made(new))  # type: ignore[misc]
        else:
            yield f"{path}.{field.name}", value, put


def takes(check: Callable[[Any], Any], made: Callable[[Any], Any], value: Any) -> bool:
    try:
        check(made(value))
    except (InvalidRequest, ValueError, OverflowError, TypeError):  # of the wire itself: no such number
        return False
    return True


def edge(taken: Callable[[int], bool], inside: int, outside: int) -> int:
    """The last number on the way from one that is taken to one that is not, which is taken."""
    while abs(outside - inside) > 1:
        middle = (inside + outside) // 2
        inside, outside = (middle, outside) if taken(middle) else (inside, middle)
    return inside


def bounds(value: Any, taken: Callable[[Any], bool]) -> str:
    """What is taken in the place of a value: of figures and lengths the ends, found by halving."""
    if isinstance(value, bool) or value is None or isinstance(value, EndCause):
        return ", ".join(f"{each}" for each in (True, False) if taken(each)) or "nothing else"
    if isinstance(value, int):
        most, least = edge(taken, value, 2**70), edge(taken, value, -(2**70))
        return f"{least} to {most}"
    if isinstance(value, float):
        odd = [word for word in ("nan", "inf", "-inf") if taken(float(word))]
        most, least = (
            edge(lambda part: taken(part / 64), round(value * 64), far) for far in (2**90, -(2**90))
        )
        return f"{least / 64:g} to {most / 64:g} {' '.join(odd)}".rstrip()
    if isinstance(value, str):
        longest = edge(lambda length: taken("a" * length), 1 if taken("a") else 0, 10_000)
        odd = [repr(char) for char in ("", "a b", "a\nb", "ü", "-a", "a/b", "a:b", "1") if taken(char)]
        return f"up to {longest} letters; {' '.join(odd)}"
    if isinstance(value, bytes):
        lengths = (0, 1, 2, 3, 4, 31, 32, 33, 4_096, 4_097, 1 << 16, (1 << 16) + 1)
        return f"bytes: {[length for length in lengths if taken(bytes(length))]}"
    twice, none = taken((*value, *value)), taken(())
    return f"{'twice, ' if twice else ''}{'none' if none else ''}"


@pytest.mark.parametrize("name", WORDS)
def test_the_door_takes_of_each_field_what_it_took(name: str) -> None:
    check, word = WORDS[name]
    check(word)
    found = [
        f"{name}{path}: {bounds(value, lambda new, made=made: takes(check, made, new))}"  # type: ignore[misc]
        for path, value, made in fields(word)
    ]
    kept = GOLDEN.read_text().splitlines() if GOLDEN.exists() else []
    if os.environ.get("BURSAR_GOLDEN") == "write":
        others = [line for line in kept if line.partition(":")[0].partition(".")[0] != name]
        GOLDEN.write_text("\n".join(sorted([*others, *found])) + "\n")
        kept = GOLDEN.read_text().splitlines()
    assert sorted(found) == [line for line in kept if line.partition(":")[0].partition(".")[0] == name]


@pytest.mark.parametrize(
    ("length", "taken"),
    [(door.DEVICES_MAX, True), (door.DEVICES_MAX + 1, False)],
)
def test_a_node_has_so_many_devices_and_no_more(length: int, taken: bool) -> None:
    devices = tuple(Device(at, f"GPU-{at}", "H100", 1 << 30) for at in range(length))
    made: Callable[[Any], Any] = lambda new: msgspec.structs.replace(FACTS, devices=new)  # noqa: E731
    assert takes(door.facts, made, devices) is taken


@pytest.mark.parametrize(("length", "taken"), [(door.LABELS_MAX, True), (door.LABELS_MAX + 1, False)])
def test_a_node_has_so_many_labels_and_no_more(length: int, taken: bool) -> None:
    labels = tuple((f"k{at}", "v") for at in range(length))
    made: Callable[[Any], Any] = lambda new: msgspec.structs.replace(FACTS, labels=new)  # noqa: E731
    assert takes(door.facts, made, labels) is taken


def test_one_node_has_one_kind_of_devices_each_once_in_their_order() -> None:
    def with_devices(*found: Device) -> bool:
        made: Callable[[Any], Any] = lambda new: msgspec.structs.replace(FACTS, devices=new)  # noqa: E731
        return takes(door.facts, made, found)

    second = Device(1, "GPU-2", "H100", 1 << 30)
    assert with_devices(GPU, second)
    assert with_devices(GPU, msgspec.structs.replace(second, uuid=""))
    assert not with_devices(GPU, msgspec.structs.replace(second, uuid="GPU-1"))
    assert not with_devices(GPU, msgspec.structs.replace(second, type="A100"))
    assert not with_devices(GPU, msgspec.structs.replace(second, index=2))
    assert not with_devices(second, GPU)
    whole = door.BYTES_MAX
    assert with_devices(*(Device(at, f"G{at}", "H100", whole // 2) for at in range(2)))
    assert not with_devices(*(Device(at, f"G{at}", "H100", whole // 2 + 1) for at in range(2)))


def test_batches_of_readings_are_of_their_node_and_so_long() -> None:
    readings = [sample()] * door.SAMPLES_MAX
    door.telemetry("n", "n", readings, 1)
    door.telemetry("n", "", readings, 1)
    with pytest.raises(InvalidRequest):
        door.telemetry("n", "m", readings, 1)
    with pytest.raises(InvalidRequest):
        door.telemetry("n", "n", [*readings, sample()], 1)


def test_kinds_of_devices_are_new_until_there_are_too_many() -> None:
    others = {f"K{at}" for at in range(door.GPU_TYPES_MAX)}
    door.known_kind(FACTS, others | {"H100"})
    door.known_kind(FACTS, set(list(others)[1:]))
    with pytest.raises(InvalidRequest, match="one of 1000 kinds known here"):
        door.known_kind(FACTS, others)


def test_infinity_is_no_figure() -> None:
    assert math.isinf(float("inf"))
    for name in door._GPU_RATIOS:
        read = sample()
        setattr(read.gpus[0], name, math.inf)
        with pytest.raises(InvalidRequest, match=name):
            door.sample(read)
