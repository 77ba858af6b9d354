"""Small tables of answers, each with both sides of its boundary. Found by mutants."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import pytest

from bursar.cli import main as cli
from bursar.cli.cluster import PRICE_COLUMNS
from bursar.cli.output import table_text
from bursar.cli.texts import members_text
from bursar.errors import InvalidRequest
from bursar.model import DeviceShare
from bursar.model.allocation import FREE
from bursar.steps.request import Member, Place, Request, _world, specs
from bursar.tables import Head, fit, render
from bursar.v1 import jobs_pb2, money_pb2, types_pb2
from bursar_agent.runner import truth
from bursar_policies.decision import MemberColumns, NodeColumns, Placement, RunningMember, Start
from bursar_policies.scorers import NodeState
from bursard.scheduler import alternatives
from bursard.scheduler.free import Free
from bursard.scheduler.releases import NEVER, Releases
from bursard.scheduler.testing import Node, columns, occupy, request
from bursard.services.wirefault import unreadable
from bursard.store import eventfile

# --- bytes that are no message


def string(number: int, data: bytes) -> bytes:
    return bytes((number << 3 | 2, len(data))) + data


@pytest.mark.parametrize(
    ("data", "path", "what"),
    [
        (string(1, b"\xff"), "jobs", "byte 0 of the text is not UTF-8"),
        (string(1, b"ab\xff"), "jobs", "byte 2 of the text is not UTF-8"),
        (b"\x0a\x05ab", "jobs", "the bytes end in the middle of it"),
        (b"\x0a", "jobs", "the bytes end in the middle of a number"),
        (b"\x0a\x80", "jobs", "the bytes end in the middle of a number"),
        (b"\x0b", "jobs", "the bytes here are of no kind that there is"),
        (b"\x09\x01", "jobs", "the bytes end in the middle of it"),
        (b"\x0d\x01\x02\x03", "jobs", "the bytes end in the middle of it"),
    ],
)
def test_the_field_in_which_bytes_break_is_named(data: bytes, path: str, what: str) -> None:
    found = unreadable(jobs_pb2.JobsRequest.DESCRIPTOR, data)
    assert (found.message, found.facts) == (f"{path}: {what}", {"field": path})


def test_a_break_within_a_part_is_named_by_its_whole_path() -> None:
    inner = string(types_pb2.JobSpec.DESCRIPTOR.fields_by_name["name"].number, b"\xff")
    spec = jobs_pb2.SubmitRequest.DESCRIPTOR.fields_by_name["spec"].number
    found = unreadable(jobs_pb2.SubmitRequest.DESCRIPTOR, string(spec, inner))
    assert found.facts == {"field": "spec.name"}


@pytest.mark.parametrize(
    "data", [b"", b"\x78" + b"\x80" * 10 + b"\x01", b"\x7a\x05ab", string(15, b"\xff"), b"\x79" + b"\x00" * 8]
)
def test_bytes_that_break_in_no_field_are_said_to_be_no_message(data: bytes) -> None:
    found = unreadable(money_pb2.BudgetsRequest.DESCRIPTOR, data)
    assert found.message == "the request is no bursar.v1.BudgetsRequest message: its bytes cannot be read"


def test_a_number_of_ten_bytes_is_one_and_of_eleven_is_none() -> None:
    name, number = next(
        (field.name, field.number)
        for field in jobs_pb2.ListJobsRequest.DESCRIPTOR.fields
        if field.message_type is None and not field.is_repeated and field.cpp_type in (1, 2, 3, 4)
    )
    head = bytes((number << 3,))
    assert (
        "cannot be read"
        in unreadable(jobs_pb2.ListJobsRequest.DESCRIPTOR, head + b"\x80" * 9 + b"\x01").message
    )
    found = unreadable(jobs_pb2.ListJobsRequest.DESCRIPTOR, head + b"\x80" * 10 + b"\x01")
    assert found.message == f"{name}: a number here is longer than any that there is"


# --- exit codes of the command line


@pytest.mark.parametrize(
    ("problem", "code", "said"),
    [
        (OSError(28, "No space left on device", "/f"), 1, "error: /f: No space left on device\n"),
        (OSError("odd"), 1, "error: odd\n"),
        (BrokenPipeError(), 141, ""),
        (KeyboardInterrupt(), 130, "\n"),
        (click.Abort(), 130, "\n"),
        (click.UsageError("which?"), 2, "error: which?\n"),
        (InvalidRequest("no", {}), 2, "error: no\n"),
        (
            ZeroDivisionError("x"),
            1,
            "error: a defect of bursar itself: ZeroDivisionError: x\n"
            "Set BURSAR_DEBUG=1 to see where, and please report it.\n",
        ),
    ],
)
def test_each_way_to_fail_has_its_code_and_its_words(
    problem: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise problem

    monkeypatch.setattr(cli, "_hush", lambda: None)
    monkeypatch.setattr(cli.cli, "main", fail)
    assert cli.run(["ls"]) == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("within", ["a verb", "the last flush"])
def test_to_a_reader_that_went_away_nothing_more_is_said(
    within: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even by the interpreter at its end, which flushes what is buffered still."""
    hushed: list[int] = []

    def fail(*_: Any, **__: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(cli, "_hush", lambda: hushed.append(1))
    if within == "a verb":
        monkeypatch.setattr(click.Group, "invoke", fail)
    else:
        monkeypatch.setattr(cli.cli, "main", fail)
    assert cli.run(["ls"]) == 141
    assert hushed == [1]


@pytest.mark.parametrize(("result", "code"), [(None, 0), (7, 7), ("x", 0)])
def test_a_command_that_ends_well_has_the_code_that_it_says(
    result: Any, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli.cli, "main", lambda *_, **__: result)
    assert cli.run(["ls"]) == code


def test_a_defect_is_shown_whole_to_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli.cli, "main", fail)
    monkeypatch.setenv("BURSAR_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.run(["ls"])


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("日本", 4, "日本"), ("日本語", 4, "日…"), ("日本語", 5, "日本…"),
     ("abc", 1, "…"), ("e\u0301e\u0301e", 2, "e\u0301…")],
)  # fmt: skip
def test_a_text_is_cut_to_the_cells_it_may_take(text: str, width: int, shown: str) -> None:
    assert fit(text, width) == shown


# --- what ends when


def test_ends_bring_room_soonest_first_those_of_this_plan_among_them() -> None:
    """Node 0 has 2 of 4 GPUs free, node 1 none of 2, node 2 is empty of jobs and has too few."""
    nodes = columns([Node(name=name, gpus=gpus) for name, gpus in (("a", 4), ("b", 2), ("c", 1))])
    running = [
        *occupied(nodes, 0, (2, 3), ends_at=50),
        *occupied(nodes, 1, (0,), ends_at=30),
        *occupied(nodes, 1, (1,), ends_at=10),
    ]
    made = Releases(MemberColumns.of(running), Free(nodes))
    assert made.first_fit(request(1), 5).tolist() == [5, 10, 5]
    assert made.first_fit(request(2), 20).tolist() == [20, 30, NEVER]
    assert made.first_fit(request(2), 40).tolist() == [40, 41, NEVER], "what is late has not ended by now"
    assert made.first_fit(request(3), 5).tolist() == [50, NEVER, NEVER]
    assert [one.gpus for one in made.states_at([1], 9)] == [[0, 0, -1, -1]]
    assert [one.gpus for one in made.states_at([1, 0], 10)] == [[0, 1000, -1, -1], [1000, 1000, 0, 0]]
    assert made.states_at([1], 30) == [NodeState(1, 16_000, 64 << 30, [1000, 1000, -1, -1])]
    free = Free(nodes)
    made = Releases(MemberColumns.of(running), free)
    given = placement(0, (0, 1))
    free.take(given)
    made.add(given, 20)
    assert made.first_fit(request(2), 5).tolist() == [20, 30, NEVER]
    assert [one.gpus for one in made.states_at([0], 20)] == [[1000, 1000, 0, 0]]
    assert [one.cpu_milli for one in made.states_at([0], 19)] == [14_000]


def occupied(nodes: NodeColumns, row: int, devices: tuple[int, ...], ends_at: int) -> list[RunningMember]:
    """One that runs there."""
    start = Start("r", 0, (placement(row, devices),), 1, 0, ())
    return occupy(nodes, start, ends_at)


def placement(row: int, devices: tuple[int, ...]) -> Placement:
    return Placement(row, tuple(DeviceShare(index, 1000) for index in devices), 1_000, 0, FREE)


@pytest.mark.parametrize(
    ("asked_s", "given_s"),
    [(59, 59), (599, 599), (600, 600), (659, 600), (86_399, 86_340), (86_400, 86_400), (89_999, 86_400),
     (90_000, 90_000)],
)  # fmt: skip
def test_a_shorter_limit_is_the_one_that_its_sentence_says(asked_s: int, given_s: int) -> None:
    from bursar_policies.decision import JobClass

    made = alternatives._exactly(_job_class(JobClass), asked_s * 1_000_000 + 999_999, 5_000_000)
    assert (made.time_limit_us, made.hold_us) == (given_s * 1_000_000, given_s * 1_000_000 + 5_000_000)


def _job_class(kind: Any) -> Any:
    import msgspec

    required = {
        field.name: () if "tuple" in str(field.type) else 0
        for field in msgspec.structs.fields(kind)
        if field.required
    }
    return kind(**required)


# --- directories of members


@pytest.fixture
def run_fd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "attempts/att_1.0").mkdir(parents=True)
    for name in ("exit.json", "starting", "start.json", "log", "aaa", "zzz"):
        (tmp_path / "attempts/att_1.0" / name).write_text("xx")
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_of_a_member_that_is_removed_the_end_goes_last(
    run_fd: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: list[str] = []
    real = os.unlink
    monkeypatch.setattr(
        truth.os, "unlink", lambda name, dir_fd: (gone.append(name), real(name, dir_fd=dir_fd))
    )
    truth.remove_member(run_fd, "att_1", 0)
    assert sorted(gone) == ["aaa", "exit.json", "log", "start.json", "starting", "zzz"]
    assert gone[-1] == "exit.json"
    assert list((tmp_path / "attempts").iterdir()) == []


def test_a_member_that_left_nothing_is_kept_for_the_next_while_there_is_room(
    run_fd: int, tmp_path: Path
) -> None:
    assert truth.free_room(run_fd) == truth.FREE_MAX
    assert (tmp_path / "free").stat().st_mode & 0o777 == 0o700
    truth.release_member(run_fd, "att_1", 0)
    assert [path.name for path in (tmp_path / "free").iterdir()] == ["att_1.0"]
    assert list((tmp_path / "attempts").iterdir()) == []
    assert truth.free_room(run_fd) == truth.FREE_MAX - 1


def test_only_a_member_with_its_records_alone_and_a_written_end_left_nothing(
    run_fd: int, tmp_path: Path
) -> None:
    folder = tmp_path / "attempts/att_1.0"
    fd = os.open(folder, os.O_RDONLY)
    try:
        assert not truth.left_nothing(fd)
        for name in ("log", "aaa", "zzz"):
            (folder / name).unlink()
        assert truth.left_nothing(fd)
        (folder / "exit.json").write_text("x")
        assert not truth.left_nothing(fd)
    finally:
        os.close(fd)


# --- rows of before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"digest": "other"}, "; their digest is another"),
        ({"nanos": 1}, ""),
    ],
)
def test_rows_that_are_not_as_they_were_are_told_with_what_differs(
    change: dict[str, Any], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import msgspec

    required = {field.name: 9 for field in msgspec.structs.fields(eventfile.Rows)} | {"digest": "d"}
    then = eventfile.Rows(**required)
    monkeypatch.setattr(
        eventfile,
        "rows_of",
        lambda connection, upto, jobs_upto, columns: msgspec.structs.replace(then, **change),
    )
    found = list(eventfile.check_rows(None, then))  # type: ignore[arg-type]
    head = "charges, entries and jobs of before the events up to 9 were archived are not as they were: "
    counts = f"9, 9 and 9 rows, {change.get('nanos', 9)} nanos; then 9, 9 and 9 rows, 9 nanos"
    assert found == ([] if said is None else [head + counts + said])


# --- what each node of a step is told


def step_env(**more: str) -> dict[str, str]:
    return {"BURSAR_STEPS": "/steps", "BURSAR_NODES": "2", "BURSAR_JOB_NUMBER": "12345", "A": "1", **more}


def test_each_node_is_told_the_whole_step_and_its_own_part() -> None:
    there = [Place(Member(0, "n1", "10.0.0.1"), [0, 1]), Place(Member(1, "n2", "10.0.0.2"), [2])]
    asked = Request(
        ["a"], program="srun", tasks_per_node=2, cpus_per_task=3, gpus_per_task=4, gpus_per_node=5,
        slurm=True, output="o", error="e", input="i", append=True, cwd="/w",
    )  # fmt: skip
    first, second = specs(asked, there, step_env(BURSAR_SECRETS_DIR="S"), 7)
    same = {
        "argv": ["a"], "program": "srun", "tasks": 3, "step": 7, "cwd": "/w", "slurm": True, "terminal": 0,
        "distributed": True, "gpus_per_task": 4, "gpus_per_node": 5, "steps": "/steps", "append": True,
        "output": "o", "error": "e", "input": "i", "stdin": False, "secrets": "S", "tasks_per_gpu": 0,
        "gpu_map": [], "gpu_places": None, "programs": {},
    }  # fmt: skip
    own = ("node", "node_index", "ranks", "node_env")
    for told in (first, second):
        assert {key: value for key, value in told.items() if key not in (*own, "env")} == same
    assert [first[key] for key in own] == [
        "n1", 0, [0, 1],
        {"SLURM_NODEID": "0", "SLURM_GTIDS": "0,1", "SLURMD_NODENAME": "n1", "SLURM_TOPOLOGY_ADDR": "n1",
         "LOCAL_WORLD_SIZE": "2"},
    ]  # fmt: skip
    assert (second["node"], second["node_index"], second["ranks"]) == ("n2", 1, [2])
    env = first["env"]
    assert env is second["env"]
    assert {name: env[name] for name in ("A", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")} == {
        "A": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "22345",
    }  # fmt: skip
    slurm = {
        "SLURM_STEP_ID": "7", "SLURM_STEPID": "7", "SLURM_NTASKS": "3", "SLURM_NPROCS": "3",
        "SLURM_STEP_NUM_TASKS": "3", "SLURM_NNODES": "2", "SLURM_STEP_NUM_NODES": "2",
        "SLURM_TASKS_PER_NODE": "2,1", "SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_STEP_NODELIST": "n[1-2]",
        "SLURM_NODELIST": "n[1-2]", "SLURM_NTASKS_PER_NODE": "2", "SLURM_CPUS_PER_TASK": "3",
    }  # fmt: skip
    assert {name: env[name] for name in slurm} == slurm


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ({}, {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "22345"}),
        ({"WORLD_SIZE": "2"}, {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "22345"}),
        ({"WORLD_SIZE": "9"}, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "22345"}),
        (
            {"WORLD_SIZE": "9", "BURSAR_STEP_RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"},
            {"WORLD_SIZE": "3"},
        ),
        ({"BURSAR_JOB_NUMBER": "x"}, {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}),
    ],
)
def test_torch_finds_its_world_unless_the_script_made_one(env: dict[str, str], found: dict[str, str]) -> None:
    alone = [Place(Member(0, "n1", "10.0.0.1"), [0, 1, 2])]
    assert _world(step_env(**env), alone, 3) == found


@pytest.mark.parametrize(("count", "lines"), [(8, 8), (9, 9), (10, 9)])
def test_of_many_nodes_the_first_eight_are_named(count: int, lines: int) -> None:
    nodes = [{"node": f"n{at}", "cpus": 2, "memory_bytes": 0, "gpus": 0.5} for at in range(count)]
    said = members_text(nodes).splitlines()
    assert len(said) == lines
    assert said[0].startswith("n0 (0.5 gpu, ")
    assert said[7].startswith("n7 (")
    if count > 8:
        assert said[8] == f"and {count - 8} more nodes"


# --- names in tables


@pytest.mark.parametrize("width", [80, 90, 100, 120, 140, 200])
def test_names_of_machines_are_neither_cut_nor_broken(width: int) -> None:
    row = {
        "provider": "azure", "region": "europe-west4", "pool": "", "market": "committed-3y", "gpus": 8,
        "instance_type": "Standard_ND96isr_H100_v5", "gpu_type": "H100", "cpus": 208, "memory_bytes": 1 << 41,
        "rate_per_hour": {"amount": "50.610000000", "currency": "USD"}, "valid_from": "2026-01-01T00:00:00Z",
        "rate_per_gpu_hour": {"amount": "6.320000000", "currency": "USD"}, "source": "a list of prices",
    }  # fmt: skip
    text = table_text([row], PRICE_COLUMNS, width)
    assert "Standard_ND96isr_H100_v5" in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_a_name_is_broken_only_where_no_column_is_left_to_go() -> None:
    heads = [Head("NAME", whole=True), Head("STATE", drop=1)]
    assert render(heads, [["a-long-name-of-a-node", "up"]], 24)[1:] == [["a-long-name-of-a-node"]]
    assert render(heads, [["a-long-name-of-a-node", "up"]], 12)[1:] == [["a-long-name-"], ["of-a-node"]]
