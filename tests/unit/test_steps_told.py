"""Steps that a job started and how they ended: from the records of its processes to what people read."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.cli.stepped import step_lines
from bursar.codec import view
from bursar.codec.steps import steps_from_wire, steps_to_wire
from bursar.errors import InvalidRequest, NotFound
from bursar.model import ArraySpec, EndCause, EndFacts, Exit, Step, Steps, kind_of, remedy_of, sentence_of
from bursar.model.steps import STEPS_TOLD_MAX, failures_of, together, told_of
from bursar.steps import records
from bursar.steps.records import Record
from bursar.v1 import types_pb2 as pb
from bursar_agent.runner import progressfile
from bursar_agent.runner.layout import STEP_RECORDS
from bursar_agent.steptold import told_steps
from bursard.access.identity import Identity, Role
from bursard.fleet import Exited
from bursard.fleet.testing import FACTS, World
from bursard.services import views
from bursard.services.ends import end_view

EXIT = Exit(cause=EndCause.COMPLETED, exit_code=0, started_boot_us=1_000_000, held_us=9_000_000)


def env_of(folder: Path) -> dict[str, str]:
    return {records.VARIABLE: str(folder / "progress")}


def step(number: int, state: Any = "completed", **more: Any) -> Step:
    code = {"completed": 0, "failed": 1}.get(state, -1)
    return Step(**{"number": number, "state": state, "name": "train", "exit_code": code} | more)


# --- records


def test_a_record_is_begun_with_its_step_and_told_whole_at_its_end(tmp_path: Path) -> None:
    env = env_of(tmp_path)
    first, second, third = (Record(env, f"/bin/p{at}", 4, 2) for at in range(3))
    assert [one.number for one in (first, second, third)] == [0, 1, 2]
    second.end(records.FAILED, 3, 0, 2)
    first.end(records.FAILED, 137, 9, 1)
    second.end(records.COMPLETED, 0, 0, None)  # it has been told
    found = list(records.read((tmp_path / records.FILE).read_bytes()))
    shown = [(one.number, one.name, one.state, one.exit_code, one.signal, one.rank) for one in found]
    assert shown == [
        (0, "p0", "failed", -1, 9, 1),
        (1, "p1", "failed", 3, 0, 2),
        (2, "p2", "cut_off", -1, 0, None),
    ]
    assert [(one.tasks, one.nodes, bool(one.ended_us)) for one in found] == [
        (4, 2, True),
        (4, 2, True),
        (4, 2, False),
    ]
    assert all(one.ended_us >= one.begun_us > 0 for one in found[:2])


def test_records_of_processes_at_once_are_each_their_own(tmp_path: Path) -> None:
    env = env_of(tmp_path)
    children = []
    for _ in range(6):
        pid = os.fork()
        if pid == 0:
            Record(env, str(os.getpid()), 1, 1).end(records.FAILED, 1, 0, 0)
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    found = list(records.read((tmp_path / records.FILE).read_bytes()))
    assert {one.name for one in found} == {str(pid) for pid in children}
    assert {one.state for one in found} == {"failed"}


def test_where_no_record_can_be_left_the_step_runs_all_the_same(tmp_path: Path) -> None:
    for env in ({}, {records.VARIABLE: ""}, env_of(tmp_path / "gone")):
        made = Record(env, "a", 1, 1)
        made.end(records.FAILED, 1, 0, 0)
        assert made.number == 0
    other = tmp_path / "other"
    (tmp_path / records.FILE).symlink_to(other)
    Record(env_of(tmp_path), "a", 1, 1).end(records.FAILED, 1, 0, 0)
    assert not other.exists()


@given(st.binary(max_size=640))
def test_whatever_is_in_the_file_what_is_read_of_it_can_be(data: bytes) -> None:
    for one in records.read(data):
        assert one.state in records.STATES
        assert 0 < one.nodes <= one.tasks <= 4096
        assert one.rank is None or one.rank < one.tasks
        assert -1 <= one.exit_code <= 255
        assert one.name.isprintable()
        assert not one.ended_us or one.ended_us >= one.begun_us


def test_of_a_file_without_end_so_many_records_are_read(tmp_path: Path) -> None:
    Record(env_of(tmp_path), "a", 1, 1)
    one = (tmp_path / records.FILE).read_bytes()
    assert len(one) == records.BYTES == 64
    assert sum(1 for _ in records.read(one * (records.RECORDS_MAX + 5) + b"half")) == records.RECORDS_MAX
    assert progressfile.STEPS_BYTES_MAX == records.RECORDS_MAX * records.BYTES
    assert records.FILE == STEP_RECORDS


def test_what_another_users_job_left_is_kept_as_far_as_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    Record(env_of(there), "a", 1, 1)
    (there / "progress").write_text('{"step": 1}')
    progressfile.keep(str(there), progressfile.identity(str(there)))
    assert (here / STEP_RECORDS).read_bytes() == (there / records.FILE).read_bytes()
    assert (here / "progress").read_text() == '{"step": 1}'


# --- at the agent


class Runner:
    def __init__(self, data: bytes | Exception | None) -> None:
        self.data = data

    def read_steps(self, attempt_id: str, rank: int) -> bytes | None:
        if isinstance(self.data, Exception):
            raise self.data
        return self.data


def packed(state: int, begun_us: int, ended_us: int, code: int = 0) -> bytes:
    return struct.pack("<BBBBIIIqq28sI", 1, state, code, 0, 0xFFFF_FFFF, 1, 1, begun_us, ended_us, b"a", 0)


def test_an_agent_tells_of_steps_within_the_time_of_their_member() -> None:
    failed = records.STATES.index("failed")
    data = packed(failed, 3_000_000, 4_000_000, 3) + packed(0, 5_000_000, 0) + packed(failed, 5, 2**62, 1)
    found = told_steps(Runner(data), ("att_1", 0), EXIT)
    assert found is not None
    assert (found.total, found.failed, found.cut_off) == (3, 2, 1)
    assert [(one.after_us, one.elapsed_us) for one in found.told] == [
        (2_000_000, 1_000_000), (4_000_000, 5_000_000), (0, 9_000_000),
    ]  # fmt: skip
    for nothing in (None, b"", b"x" * 63, NotFound("gone"), OSError()):
        assert told_steps(Runner(nothing), ("att_1", 0), EXIT) is None
    unstarted = msgspec.structs.replace(EXIT, started_boot_us=0, held_us=0)
    again = told_steps(Runner(data), ("att_1", 0), unstarted)
    assert again is not None
    assert {(one.after_us, one.elapsed_us) for one in again.told} == {(0, 0)}


def test_of_many_steps_those_that_failed_are_told_before_others() -> None:
    steps = [step(at, "failed" if at % 100 == 99 else "completed") for at in range(1_000)]
    found = told_of(steps)
    assert found is not None
    assert (found.total, found.failed, len(found.told)) == (1_000, 10, STEPS_TOLD_MAX)
    assert [one.number for one in found.told if one.state == "failed"] == list(range(99, 1_000, 100))
    assert [one.number for one in found.told] == sorted(one.number for one in found.told)
    assert told_of([]) is None


def test_steps_travel_as_they_are_and_a_state_that_is_none_is_refused() -> None:
    steps = Steps(
        total=3, failed=1, cut_off=1, told=(step(1, "failed", rank=0, signal=9), step(2, "cut_off"))
    )
    assert steps_from_wire(steps_to_wire(steps)) == steps
    with pytest.raises(InvalidRequest, match=r"steps.told.state: one of completed, .*; not 'done'"):
        steps_from_wire(pb.Steps(total=1, told=[pb.Step(state="done")]))


# --- what is said of them


@pytest.mark.parametrize(
    ("steps", "well", "said"),
    [
        (None, True, ""),
        (Steps(total=2, told=(step(0), step(1))), True, ""),
        (Steps(total=1, failed=1, told=(step(0, "failed"),)), True,
         "the only step failed: step 0 (train) with exit code 1"),
        (Steps(total=3, failed=1, told=(step(1, "failed", exit_code=-1, signal=11, name=""),)), False,
         "1 of 3 steps failed: step 1 by signal 11"),
        (Steps(total=9, failed=5, told=tuple(step(at, "failed", name="") for at in range(5))), True,
         "5 of 9 steps failed: step 0 with exit code 1, step 1 with exit code 1, step 2 with exit code 1,"
         " and 2 more"),
        (Steps(total=2, cut_off=1, told=(step(0), step(1, "cut_off"))), True,
         "1 of 2 steps still ran when the script ended: step 1 (train)"),
        (Steps(total=2, cut_off=1, told=(step(0), step(1, "cut_off"))), False, ""),
        (Steps(total=2, cut_off=1, told=(step(0), step(1, "cut_off", elapsed_us=31_000_000))), True, ""),
        (Steps(total=2, failed=1, told=(step(0, "time_limit", member=2),)), True,
         "1 of 2 steps failed: step 0 of rank 2 (train) at its time limit"),
        (Steps(total=1, told=(step(0, "cancelled"),)), True, ""),
    ],
)  # fmt: skip
def test_the_steps_that_failed_are_named(steps: Steps | None, well: bool, said: str) -> None:
    assert failures_of(steps, ended_well=well) == said


def test_a_job_that_ended_well_over_a_failed_step_says_so_and_what_helps() -> None:
    bad = Steps(total=2, failed=1, told=(step(1, "failed"),))
    end = EndFacts(job="12", cause=EndCause.COMPLETED, exit_code=0, steps=bad)
    assert kind_of(end) == "step_failed"
    assert sentence_of(end) == "completed, but 1 of 2 steps failed: step 1 (train) with exit code 1"
    assert "set -o pipefail" in remedy_of(end)
    assert "`bursar logs 12`" in remedy_of(end)
    failed = EndFacts(job="12", cause=EndCause.FAILED, exit_code=1, steps=bad)
    assert kind_of(failed) == "exit_code"
    assert sentence_of(failed).endswith("exit code 1; 1 of 2 steps failed: step 1 (train) with exit code 1")
    lost = Steps(total=1, cut_off=1, told=(step(0, "cut_off"),))
    stopped = EndFacts(job="12", cause=EndCause.CANCELLED, detail="by ann", steps=lost)
    assert sentence_of(stopped) == "cancelled by ann"


def test_steps_of_members_are_one_list_that_says_whose_they_are() -> None:
    mine, theirs = Steps(total=1, told=(step(0),)), Steps(total=2, failed=1, told=(step(0, "failed"),))
    found = together([(0, mine), (1, None), (2, theirs)])
    assert found is not None
    assert (found.total, found.failed, [one.member for one in found.told]) == (3, 1, [0, 2])
    assert together([(0, None)]) is None


def test_show_names_those_that_did_not_go_well_and_else_the_first() -> None:
    wire = pb.Attempt(number=2, members=[pb.Member(rank=0, started_at=1_000_000)])
    good = [step(at, after_us=at * 1_000_000, elapsed_us=2_000_000) for at in range(10)]
    wire.steps.CopyFrom(steps_to_wire(Steps(total=20, told=tuple(good))))
    shown = view.attempt(wire, "USD")
    lines = list(step_lines(shown))
    assert lines[0] == "attempt 2: 20 steps"
    assert lines[1] == "  step 0 (train), 1 task: completed, after 2s"
    assert lines[-1] == "  and 12 more"
    assert shown["steps"][3]["started_at"] == "1970-01-01T00:00:04Z"
    bad = step(4, "failed", tasks=4, nodes=2, rank=3, elapsed_us=1_000_000)
    wire.steps.CopyFrom(steps_to_wire(Steps(total=20, failed=1, told=(good[0], bad))))
    assert list(step_lines(view.attempt(wire, "USD"))) == [
        "attempt 2: 20 steps, 1 failed",
        "  step 4 (train), 4 tasks on 2 nodes: failed, exit code 1, task 3 first, after 1s",
    ]
    assert list(step_lines(view.attempt(pb.Attempt(number=1), "USD"))) == []


# --- at the daemon


def test_the_end_of_a_job_tells_its_steps_to_those_who_may_see_what_it_runs() -> None:
    world = World()
    for name in ("n-1", "n-2"):
        world.backend.connect(msgspec.structs.replace(FACTS, name=name))
    job = world.submit(nodes=2)
    world.cycle()
    world.backend.report()
    attempt = job.attempt
    assert attempt is not None
    bad = Steps(total=2, failed=1, told=(step(0), step(1, "failed", after_us=5)))
    for member, steps in zip(attempt.members, (bad, None), strict=True):
        word = Exited(
            attempt_id=attempt.id, rank=member.alloc.rank, cause=EndCause.COMPLETED, exit_code=0, steps=steps
        )
        world.fleet.exited(world.state.nodes[member.alloc.node_id], word)
    world.writer.flush()
    mine, theirs = (
        views.job_view(world.state, job, seen_by=Identity(user, role), now=world.clock.now())
        for user, role in (("ann", Role.SUBMITTER), ("bob", Role.VIEWER))
    )
    assert mine.state == "SUCCEEDED"
    assert [one.name for one in mine.attempts[0].steps.told] == ["train", "train"]
    said = "completed, all 2 ranks, but 1 of 2 steps failed: step 1"
    assert mine.end.message == f"{said} (train) with exit code 1"
    assert [one.name for one in theirs.attempts[0].steps.told] == ["", ""]
    assert theirs.end.message == f"{said} with exit code 1"


def test_an_array_says_how_many_of_its_tasks_completed_over_a_step_that_failed() -> None:
    world = World()
    world.backend.connect(msgspec.structs.replace(FACTS, name="n-1"))
    job = world.submit(array=ArraySpec(((0, 3, 1),), 0))
    bad = Steps(total=1, failed=1, told=(step(0, "failed"),))
    done = 0
    while not job.state.terminal:
        world.cycle()
        world.backend.report()
        for task in list(world.state.tasks.get(job.id, {}).values()):
            if task.attempt is None:
                continue
            word = Exited(
                attempt_id=task.attempt.id, rank=0, cause=EndCause.COMPLETED, exit_code=0,
                steps=bad if done < 2 else Steps(total=1, told=(step(0),)),
            )  # fmt: skip
            done += 1
            world.fleet.exited(world.state.nodes[task.attempt.members[0].alloc.node_id], word)
        world.writer.flush()
    end = end_view(job, private=False)
    assert end is not None
    assert end.message == "completed, all of 3 tasks, but steps of 2 tasks failed"
    assert "bursar show" in end.remedy
