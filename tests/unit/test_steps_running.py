"""Steps of a job that runs: from the records of its processes through a reading to what its owner sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bursar.cli.stepped import step_lines
from bursar.codec import view
from bursar.errors import InvalidRequest, NotFound
from bursar.steps import records
from bursar.steps.records import Record
from bursar.v1 import types_pb2 as pb
from bursar_agent.link.wire import leave_out_steps, telemetry
from bursar_agent.probes.readings import AttemptReading, Reading, StepsNow
from bursar_agent.runningsteps import TOLD_MAX, RunningSteps
from bursar_agent.stimuli import Key
from bursard.fleet import door
from bursard.services.views import add_samples
from bursard.telemetry.live import LiveTelemetry

ONE: Key = ("att_1", 0)
RUNS = records.Told(1, "train", records.CUT_OFF, -1, 0, None, 4, 2, 3_000_000, 0)
ENDED = records.Told(0, "prep", records.FAILED, 3, 0, 1, 2, 1, 1_000_000, 2_500_000)


class Site:
    """Records of members by key, and a clock that stands until it is moved."""

    def __init__(self) -> None:
        self.files: dict[Key, bytes | Exception] = {}
        self.reads = 0
        self.now_us = 10_000_000
        self.steps = RunningSteps(self._read, lambda: self.now_us)

    def _read(self, attempt_id: str, rank: int) -> bytes | None:
        self.reads += 1
        found = self.files.get((attempt_id, rank))
        if isinstance(found, Exception):
            raise found
        return found


def recorded(folder: Path, states: list[str]) -> bytes:
    env = {records.VARIABLE: str(folder / "progress")}
    made = [Record(env, f"/bin/p{at}", 1, 1) for at in range(len(states))]
    for one, state in zip(made, states, strict=True):
        if state != "running":
            one.end(state, int(state == "failed"), 0, None)
    return (folder / records.FILE).read_bytes()


def test_what_a_member_has_started_is_told_those_that_run_before_others(tmp_path: Path) -> None:
    site = Site()
    site.files[ONE] = recorded(tmp_path, ["running", "failed", *["completed"] * 20, "running"])
    found = site.steps.look([ONE, ("att_2", 0)])
    assert list(found) == [ONE]
    now = found[ONE]
    assert (now.total, now.failed, len(now.told)) == (23, 1, 16)
    assert [one.number for one in now.told] == [0, 1, *range(9, 23)]


def test_records_are_read_again_the_more_seldom_the_larger_they_are(tmp_path: Path) -> None:
    site = Site()
    site.files[ONE] = recorded(tmp_path, ["completed"]) * 4096  # 256 KiB: each four seconds
    for at_s, reads in ((0, 1), (1, 1), (3, 1), (4, 2), (5, 2)):
        site.now_us = 10_000_000 + at_s * 1_000_000
        assert site.steps.look([ONE])[ONE].total == 4096
        assert site.reads == reads
    site.steps.look([])
    assert not site.steps._seen


@pytest.mark.parametrize("problem", [NotFound("it ended"), OSError("gone"), b"", b"no record"])
def test_what_cannot_be_read_is_nothing(problem: bytes | Exception) -> None:
    site = Site()
    site.files[ONE] = problem
    assert site.steps.look([ONE]) == {}


def test_a_reading_of_many_members_tells_of_some_steps_and_counts_all(tmp_path: Path) -> None:
    site = Site()
    data = recorded(tmp_path, ["completed"] * 20)
    keys: list[Key] = [(f"att_{at}", 0) for at in range(10)]
    site.files = dict.fromkeys(keys, data)
    found = site.steps.look(keys)
    assert sum(len(one.told) for one in found.values()) == TOLD_MAX
    assert [one.total for one in found.values()] == [20] * 10


# --- the reading


def sample(*told: records.Told, boot_us: int = 4_500_000) -> pb.Sample:
    steps = StepsNow(len(told), sum(one.state == "failed" for one in told), told)
    reading = Reading(at=1, attempts=(AttemptReading(attempt_id="att_1", rank=0, steps=steps),))
    return telemetry("c", "n", (reading,), boot_us).samples[0]


def test_a_reading_says_how_long_ago_each_began_and_how_long_it_ran() -> None:
    made = sample(ENDED, RUNS)
    door.sample(made)
    told = made.attempts[0].steps.told
    assert [(one.state, one.after_us, one.elapsed_us) for one in told] == [
        ("failed", 3_500_000, 1_500_000),
        ("running", 1_500_000, 1_500_000),
    ]
    assert (told[0].exit_code, told[0].rank, told[1].HasField("exit_code")) == (3, 1, False)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("state", "sleeping"),
        ("number", 20_000),
        ("tasks", 0),
        ("nodes", 5),
        ("name", "\x1b[2J"),
        ("member", 1),
    ],
)
def test_a_reading_with_steps_that_cannot_be_is_refused(field: str, value: Any) -> None:
    made = sample(RUNS)
    setattr(made.attempts[0].steps.told[0], field, value)
    with pytest.raises(InvalidRequest, match=r"sample\.attempts\.steps"):
        door.sample(made)


def test_a_broker_is_told_of_no_step() -> None:
    batch = pb.TelemetryBatch(samples=[sample(RUNS)])
    leave_out_steps(batch)
    assert not batch.samples[0].attempts[0].HasField("steps")


def test_steps_are_kept_of_the_newest_reading_alone() -> None:
    live = LiveTelemetry()
    live.add("n", sample(RUNS))
    live.add("n", sample(ENDED, RUNS))
    before, now = live._windows["n"]
    assert (before.attempts[0].HasField("steps"), now.attempts[0].steps.total) == (False, 2)


# --- what its owner sees


def shown(*, redacted: bool = False, state: str = "RUNNING") -> pb.Job:
    wire = pb.Job(redacted=redacted)
    members = [pb.Member(rank=rank, node=f"n{rank}") for rank in range(2)]
    wire.attempts.add(id="att_1", number=1, state=state, elapsed_us=5_000_000, members=members)
    other = sample(RUNS)
    other.attempts[0].rank = 1
    add_samples(wire, {"n0": sample(ENDED, RUNS), "n1": other}.get)
    return wire


def test_the_attempt_tells_of_the_steps_of_all_its_members_and_their_readings_do_not() -> None:
    (attempt,) = shown().attempts
    assert (attempt.steps.total, attempt.steps.failed) == (3, 1)
    assert [(one.member, one.number, one.name, one.after_us) for one in attempt.steps.told] == [
        (0, 0, "prep", 1_500_000),
        (0, 1, "train", 3_500_000),
        (1, 1, "train", 3_500_000),
    ]
    assert not any(member.sample.HasField("steps") for member in attempt.members)
    assert list(step_lines(view.attempt(attempt, "USD"))) == [
        "attempt 1: 3 steps, 1 failed, 2 running",
        "  step 0 (prep), 2 tasks: failed, exit code 3, task 1 first, after 1s",
        "  step 1 (train), 4 tasks on 2 nodes: runs, since 1s",
        "  step 1 of rank 1 (train), 4 tasks on 2 nodes: runs, since 1s",
    ]


def test_names_of_programs_are_for_those_who_may_see_what_the_job_runs() -> None:
    assert {one.name for one in shown(redacted=True).attempts[0].steps.told} == {""}


def test_an_attempt_that_has_ended_tells_what_its_end_told() -> None:
    assert not shown(state="ENDED").attempts[0].HasField("steps")
