"""`bursar logs`: of one member, of all ranks, of all tasks, by time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bursar.cli.main import run
from bursar.client.fake import FakeServer
from bursar.clock import SECOND_US
from bursar.errors import NotFound
from bursar.v1 import jobs_pb2 as pb
from bursar.v1 import types_pb2 as types

START = 1_793_494_800 * SECOND_US  # 2026-11-01T01:00:00Z


def piece(data: str, *times: tuple[int, float], offset: int = 0) -> pb.LogChunk:
    marks = [pb.LogTime(offset=at, at=START + int(s * SECOND_US)) for at, s in times]
    return pb.LogChunk(data=data.encode(), offset=offset, times=marks)


LOGS: dict[tuple[str, int], Any] = {
    ("job_1", 0): [piece("a1\na2\n", (0, 1), (3, 4))],
    ("job_1", 1): [piece("b1\nb", (0, 2)), piece("2\nb3", (4, 9), (6, 3), offset=4)],
    ("job_2.0", 0): [piece("x\n", (0, 5))],
    ("job_2.7", 0): [piece("y\n", (0, 1))],
}


def members(*ranks: int) -> list[types.Member]:
    return [types.Member(rank=rank, node=f"n{rank}", started_at=START) for rank in ranks]


GANG = types.Job(
    id="job_1", number=1, state="SUCCEEDED",
    attempts=[types.Attempt(id="att_1", number=1, state="ENDED", members=members(0, 1))],
)  # fmt: skip
TASKS = [
    types.Job(
        id=f"job_2.{index}", number=2, array_index=index, state="SUCCEEDED", started_at=START,
        attempts=[types.Attempt(id=f"att_{index}", number=1, state="ENDED", members=members(0))],
    )
    for index in (0, 7)
]  # fmt: skip
SWEEP = types.Job(
    id="job_2", number=2, state="SUCCEEDED", array=types.ArrayStatus(size=2, counts={"SUCCEEDED": 2})
)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    with FakeServer(tmp_path / "run") as server:
        monkeypatch.setenv("BURSAR_SERVER", server.url)
        server.answers |= {
            "Jobs/Get": lambda request: GANG if request.job in ("1", "job_1") else SWEEP,
            "Jobs/List": pb.ListJobsResponse(jobs=TASKS),
            "Jobs/Logs": lambda request: LOGS[request.job, request.rank],
            "Jobs/Watch": lambda request: [GANG if request.jobs[0] == "job_1" else SWEEP],
        }
        yield server


def said(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert run(["logs", *words]) == 0
    return capsys.readouterr().out.splitlines()


def asked(fake: Any) -> list[Any]:
    return [request for name, request in fake.requests if name == "Jobs/Logs"]


def test_all_ranks_are_merged_by_time_each_line_under_its_rank(
    fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    # b2 came when its first byte did, and b3 is a line though nothing ends it.
    assert said(capsys, "--rank", "all", "1") == ["0: a1", "1: b1", "1: b2", "1: b3", "0: a2"]
    assert all(request.timestamps for request in asked(fake))


def test_timestamps_stand_before_the_line_also_of_one_rank(
    fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, "--timestamps", "1") == ["2026-11-01T01:00:01.000Z a1", "2026-11-01T01:00:04.000Z a2"]


def test_all_tasks_of_an_array_are_merged_by_time(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "sweep[*]") == ["[7] y", "[0] x"]
    [listed] = [request for name, request in fake.requests if name == "Jobs/List"]
    assert listed.tasks_of == "job_2"


def test_the_last_lines_of_several_logs_are_those_of_all_together(
    fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, "-n", "1", "sweep[*]") == ["[0] x"]
    assert {request.tail_lines for request in asked(fake)} == {1}


def test_one_log_that_is_gone_leaves_the_others(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(request: Any) -> Any:
        return NotFound("it is gone") if request.job == "job_2.7" else LOGS[request.job, 0]

    fake.answers["Jobs/Logs"] = answer
    assert run(["logs", "sweep[*]"]) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("[0] x\n", "[7] it is gone\n")


def gang_that_failed(**changed: Any) -> types.Job:
    job = types.Job(end=types.End(cause="failed", rank=1, message="rank 1 of 2 failed"))
    job.MergeFrom(GANG)
    job.MergeFrom(types.Job(state="FAILED", **changed))
    return job


@pytest.mark.parametrize("words", ["job_1", "-f job_1", "-n 9 job_1"])
def test_of_a_gang_that_failed_the_log_is_that_of_whoever_failed_first(
    words: str, fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers["Jobs/Get"] = gang_that_failed()
    fake.answers["Jobs/Watch"] = [gang_that_failed()]
    assert run(["logs", *words.split()]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines() == ["b1", "b2", "b3"]
    assert shown.err == "rank 1, which failed first; --rank 0 or --rank all for others\n"


def test_a_rank_that_is_asked_for_is_shown_without_a_word(
    fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers["Jobs/Get"] = gang_that_failed()
    assert run(["logs", "--rank", "0", "job_1"]) == 0
    assert capsys.readouterr() == ("a1\na2\n", "")
    assert run(["logs", "--attempt", "1", "job_1"]) == 0  # the end is that of the newest attempt
    assert capsys.readouterr() == ("a1\na2\n", "")


def test_of_a_task_that_is_a_gang_the_log_is_that_of_whoever_failed_first(
    fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    task = gang_that_failed(parent_id="job_2", array_index=3)
    fake.answers["Jobs/List"] = pb.ListJobsResponse(jobs=[task])
    assert said(capsys, "sweep[*]") == ["[3] b1", "[3] b2", "[3] b3"]


@pytest.mark.parametrize("words", ["-f job_1", "-f --timestamps job_1", "-f sweep[*]"])
def test_following_what_can_never_start_ends_with_the_reason_unless_it_is_queued(
    words: str, fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = types.Reason(code="ExceedsNodeCapacity", message="no node has GPUs", remedy="add one")
    stuck = types.Job(id="job_1", number=1, state="PENDING", reason=reason)
    fake.answers["Jobs/Get"] = stuck
    fake.answers["Jobs/Watch"] = [stuck, GANG]
    assert run(["logs", *words.split()]) == 1
    assert "job 1 cannot start: ExceedsNodeCapacity: no node has GPUs" in capsys.readouterr().err
    assert run(["logs", "--queue", *words.split()]) == 0


def test_following_several_shows_every_line_of_each(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(said(capsys, "-f", "--rank", "all", "1")) == ["0: a1", "0: a2", "1: b1", "1: b2", "1: b3"]
    assert sorted(said(capsys, "-f", "sweep[*]")) == ["[0] x", "[7] y"]


def test_a_single_log_is_asked_for_as_it_is_wanted(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "-n", "5", "--since", "2026-11-01", "--rank", "1", "--attempt", "1", "job_1") == [
        "b1", "b2", "b3",
    ]  # fmt: skip
    [request] = asked(fake)
    assert (request.tail_lines, request.rank, request.attempt, request.timestamps) == (5, 1, 1, False)
    assert request.since == 1_793_491_200 * SECOND_US


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--rank two 1", "--rank: 'two' is neither a number from 0 to 999999999 nor all"),
        ("--rank 1 sweep[*]", "--rank and --attempt are of one task: sweep[0]"),
        ("--attempt 1 sweep[*]", "--rank and --attempt are of one task: sweep[0]"),
        ("--since noon 1", "--since: 'noon' is neither a time"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    words: str, told: str, fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["logs", *words.split()]) == 2
    assert told in capsys.readouterr().err
