"""A snapshot in a file: what was written is read, the same plan comes out, and damage is told."""

from __future__ import annotations

import asyncio
import json
import zlib
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from bursar.cli.main import run as bursar
from bursar.client.fake import FakeServer
from bursar.errors import InvalidRequest
from bursar.model import NodeFacts
from bursar.resources import ResourceRequest
from bursar.v1 import events_pb2 as pb
from bursar_policies.decision import BudgetRoom, Holder, NodeColumns
from bursar_policies.specs import PriorityPolicySpec
from bursard.access.refusals import Refusals
from bursard.access.vault import Vault
from bursard.cycle import Cycle
from bursard.fleet.testing import World
from bursard.scheduler import plan, reason_of
from bursard.scheduler.saved import MAGIC, Saved, dump, load, plan_bytes
from bursard.scheduler.testing import Node, columns, job_class, occupy, queue, request, snapshot
from bursard.services.events import EventsService
from bursard.state.decide import nodes

FIXTURES = Path(__file__).parents[1] / "fixtures"
RELEASED = FIXTURES / "snapshot-1/site.snapshot"
"""Written by the version that made format 1. It is never written again."""
NOW = 1_767_225_600_000_000
HUGE = 10**24
"""Nanos that pass 64 bits."""


def site() -> Saved:
    """Something of everything: fractions, gangs, types, budgets, what runs, what waits and why."""
    cluster = columns(
        [
            Node(name="a", gpus=4, rates=(8 * 10**9, 10**9, 10**9), labels={"zone": "z"}),
            Node(name="b", gpus=2, gpu_type="A100", rates=(4 * 10**9, 10**9, 10**9)),
            Node(name="c", ready=False),
        ]
    )
    first = plan(snapshot(cluster, queue(job_class(request(0.5)), (0, "r"))), NOW).starts
    running = [member for start in first for member in occupy(cluster, start, NOW + 5_000_000)]
    shot = snapshot(
        cluster,
        queue(job_class(request(4), hours=2), (1, "head"), (5, "head2"), priority=75),
        queue(job_class(request(1, types="A100"), budgets=("x",)), (2, "poor")),
        queue(job_class(request(1), request(cpus=2), constraints=(("zone", "z"),)), (3, "fits"), (4, "too")),
        queue(job_class(request(9)), (6, "never")),
        running=running,
        budgets=[BudgetRoom("x", HUGE, HUGE - 1, 0, "USD", NOW)],
        typical=[(request(1), 7)],
    )
    holders = {running[0].attempt_id: Holder(30, 10**9, NOW - 1, 2, exempt=True)}
    shot = replace(shot, priority=PriorityPolicySpec(preempt_gap=20), holders=holders)
    return Saved(NOW, shot, plan(shot, NOW))


def packed(saved: Saved) -> bytes:
    return b"".join(dump(saved))


def unpacked(data: bytes) -> dict[str, object]:
    return json.loads(zlib.decompress(data.partition(b"\n")[2]))


def forged(change: object) -> bytes:
    """A good file with one thing changed in it."""
    document = unpacked(packed(site()))
    change(document)  # type: ignore[operator]
    return MAGIC + b"4\n" + zlib.compress(json.dumps(document).encode())


def test_what_was_saved_is_read_and_makes_the_same_plan_and_sentences():
    saved = site()
    read = load(packed(saved))
    assert saved.plan is not None
    assert saved.plan.starts
    assert {one.blocked_by for one in saved.plan.verdicts.values()} == {"room", "money", "fault"}
    assert read.plan == saved.plan
    assert read.at == NOW
    assert plan_bytes(read.again()) == plan_bytes(saved.plan)
    for index in saved.plan.verdicts:
        assert reason_of(read.snapshot, read.again(), index) == reason_of(saved.snapshot, saved.plan, index)
    assert read.snapshot.budgets == saved.snapshot.budgets


def test_a_snapshot_without_a_plan_can_be_saved_too():
    assert load(packed(replace(site(), plan=None))).plan is None


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_a_snapshot_of_a_released_format_opens_and_makes_its_plan(version):
    read = load((FIXTURES / f"snapshot-{version}/site.snapshot").read_bytes())
    assert read.plan is not None
    assert [start.job_id for start in read.plan.starts] == [start.job_id for start in site().plan.starts]
    assert plan_bytes(read.again()) == plan_bytes(read.plan)


def test_a_file_that_was_read_is_as_frozen_as_the_state_gives_it():
    nodes_read = load(packed(site())).snapshot.nodes
    for name in NodeColumns.__struct_fields__:
        column = getattr(nodes_read, name)
        assert isinstance(column, tuple) or not column.flags.writeable


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is not a saved snapshot"),
        (b"PK\x03\x04 something else", "is not a saved snapshot"),
        (MAGIC + b"6\n" + packed(site()).partition(b"\n")[2], "is of format '6', this version reads 5"),
        (MAGIC + b"5\nnoise", "is damaged"),
        (MAGIC + b"1\n" + zlib.compress(b"{}"), "is damaged"),
        (MAGIC + b"2\n" + zlib.compress(b"{}"), "is damaged"),
        (MAGIC + b"1\n" + zlib.compress(b"[" * 100_000), "is damaged"),
        (MAGIC + b"1\n", "is cut off"),
    ],
    ids=["empty", "other", "version", "noise", "fields", "fields of 2", "nested", "headless"],
)
def test_what_is_no_snapshot_is_refused_with_what_it_is(data, said):
    with pytest.raises(InvalidRequest, match=r"^f\.snapshot: .*" + said):
        load(data, "f.snapshot")


def test_a_file_cut_off_anywhere_is_refused():
    whole = packed(site())
    for length in range(0, len(whole), 37):
        with pytest.raises(InvalidRequest):
            load(whole[:length])


def test_a_file_with_any_byte_changed_is_refused_or_makes_some_plan():
    """Deflate has a checksum: nothing gets through it."""
    whole = packed(site())
    for at in range(len(MAGIC) + 2, len(whole), 41):
        with pytest.raises(InvalidRequest):
            load(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])


def test_a_file_that_unpacks_to_too_much_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr("bursard.scheduler.saved.UNPACKED_MAX", 1 << 20)
    with pytest.raises(InvalidRequest, match="unpacks to more than 1 MiB"):
        load(MAGIC + b"1\n" + zlib.compress(b" " * (64 << 20)))


@pytest.mark.parametrize(
    ("part", "column", "value", "said"),
    [
        ("nodes", "names", ["a"], "names has 1 rows, not 3"),
        ("nodes", "cpu_free", ["<i8", [2], "A" * 24], "is damaged"),
        ("nodes", "cpu_free", ["<i2", [3], "AAAAAAAA"], "cpu_free is not what it should be"),
        ("nodes", "cpu_free", ["|O", [3], "AAAA"], "a column of type"),
        ("nodes", "gpu_free", ["<i2", [3], "AAAAAAAA"], "gpu_free is not what it should be"),
        ("nodes", "gpu_type", ["<i2", [3], "AAAAAP9/"], "GPUs of a type that is not named"),
        ("running", "node", ["<i8", [1], "CQAAAAAAAAA="], "a node that is not there"),
        ("running", "attempt_ids", [], "has 1 rows, not 0"),
    ],
)
def test_columns_that_do_not_agree_are_refused(part, column, value, said):
    def change(document: dict[str, dict[str, dict[str, object]]]) -> None:
        document["snapshot"][part][column] = value

    with pytest.raises(InvalidRequest, match=said):
        load(forged(change))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        pytest.param("ids", ["only one"], id="rows"),
        pytest.param("ids", [1, 2], id="no names"),
        pytest.param("limits_us", ["<i8", [2], "A" * 22 + "=="], id="no limit"),
        pytest.param("orders", ["<i8", [1], "AAAAAAAAAAA="], id="orders"),
        pytest.param("since_us", ["<i8", [1], "AAAAAAAAAAA="], id="since"),
        pytest.param("deadlines_us", ["<i8", [1], "AAAAAAAAAAA="], id="deadlines"),
        pytest.param("projects", ["<i8", [1], "AAAAAAAAAAA="], id="projects"),
        pytest.param("projects", ["<i8", [2], "AQAAAAAAAAAAAAAAAAAAAA=="], id="no project"),
        pytest.param("projects", ["<i8", [2], "AAAAAAAAAAD//////////w=="], id="before the first"),
    ],
)
def test_queues_whose_columns_do_not_agree_are_refused(column, value):
    def change(document: dict[str, dict[str, list[dict[str, dict[str, object]]]]]) -> None:
        document["snapshot"]["queues"][0]["jobs"][column] = value

    with pytest.raises(InvalidRequest, match="is damaged"):
        load(forged(change))


@pytest.mark.parametrize("part", ["job_class", "jobs", "total"])
def test_a_damaged_file_of_the_released_format_is_refused(part):
    document = unpacked(RELEASED.read_bytes())
    del document["snapshot"]["queues"][0][part]  # type: ignore[index]
    with pytest.raises(InvalidRequest, match="is damaged"):
        load(MAGIC + b"1\n" + zlib.compress(json.dumps(document).encode()))


# ------------------------------------------------------------------ bursar sim --replay


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "s.snapshot"
    path.write_bytes(packed(site()))
    return path


def test_replay_makes_the_same_plan_and_says_so(file, capsys):
    assert bursar(["sim", "--replay", str(file)]) == 0
    out = capsys.readouterr().out
    assert "3 nodes, 1 live member, 6 waiting jobs in 4 queues" in out
    assert "start fits on a" in out
    assert "wait head and 1 more: WaitingForResources: needs 1 node with gpu any:4" in out
    assert out.splitlines()[-1] == "the same plan as the file holds"
    assert bursar(["sim", "--replay", str(file), "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["same"] is True
    assert msgspec.json.encode(site().plan) == msgspec.json.encode(
        msgspec.convert(document["plan"], type(site().plan), strict=False)
    )
    assert [(one["first"], one["jobs"]) for one in document["waiting"]] == [
        ("head", 2), ("poor", 1), ("never", 1)
    ]  # fmt: skip


def test_replay_of_another_plan_ends_in_exit_code_1(file, capsys):
    saved = site()
    file.write_bytes(packed(replace(saved, plan=replace(saved.plan, groups=()))))
    assert bursar(["sim", "--replay", str(file)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "another plan than the file holds"
    file.write_bytes(packed(replace(saved, plan=None)))
    assert bursar(["sim", "--replay", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "the file holds no plan to compare with"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--jobs", "j.csv"), "leave out --jobs"),
        (("--drop-unplaced", "--seed", "0"), "leave out --drop-unplaced, --seed"),
        ((), "No such file"),
    ],
)
def test_replay_refuses_what_it_would_ignore_and_what_is_not_there(file, capsys, flags, said):
    path = file if flags else file.with_name("absent")
    assert bursar(["sim", "--replay", str(path), *flags]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("output", ["table", "json"])
def test_replay_of_nodes_that_cannot_be_blames_the_file(file, capsys, output):
    saved = site()
    nodes = saved.snapshot.nodes
    nodes = replace(nodes, cpu_free=nodes.cpu_free * 0 - (1 << 62))
    file.write_bytes(packed(replace(saved, snapshot=replace(saved.snapshot, nodes=nodes))))
    assert bursar(["sim", "--replay", str(file), "-o", output]) == 2
    said = capsys.readouterr()
    assert f"--replay {file}: no plan can be made of it (OverflowError" in said.err
    assert said.out == ""


def test_whatever_goes_wrong_in_a_plan_of_a_file_is_said_of_the_file(file, capsys, monkeypatch):
    def fails(self: Saved) -> None:
        raise IndexError("row 7\x1b[2J")

    monkeypatch.setattr(Saved, "again", fails)
    assert bursar(["sim", "--replay", str(file)]) == 2
    said = capsys.readouterr().err
    assert "no plan can be made of it (IndexError: row 7 [2J)" in said
    assert "defect of bursar" not in said


def test_names_of_a_file_put_nothing_on_the_terminal_but_text(file, capsys):
    saved = site()
    names = saved.snapshot.nodes.names
    shown = names.copy()
    shown[:] = [f"{name}\x1b[2J\nstart x on y" for name in names]
    nodes = replace(saved.snapshot.nodes, names=shown)
    file.write_bytes(packed(replace(saved, snapshot=replace(saved.snapshot, nodes=nodes))))
    bursar(["sim", "--replay", str(file)])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\nstart x on y" not in out
    assert "start fits on a [2J start x on y" in out


def test_a_simulation_needs_a_workload_and_a_cluster(capsys):
    assert bursar(["sim", "--jobs", "j.csv"]) == 2
    assert "--jobs and --nodes are needed" in capsys.readouterr().err


# ------------------------------------------------------------------ the daemon's side


def served(cycle: Cycle) -> Saved:
    async def story() -> bytes:
        service = EventsService(
            cycle.engine, cycle, Refusals(cycle.engine.clock), Vault(None), started_at=0, state_dir=Path("/s")
        )
        chunks = [chunk async for chunk in service.SaveSnapshot(pb.SaveSnapshotRequest(), None)]
        assert max(len(chunk.data) for chunk in chunks) < 1 << 20
        return b"".join(chunk.data for chunk in chunks)

    return load(asyncio.run(story()))


def test_the_daemon_gives_out_its_newest_plan_and_what_it_was_made_of():
    world = World()
    engine, cycle = world.engine, Cycle(world.engine)
    facts = NodeFacts(name="n-1", cpu_milli=8_000, memory_bytes=1 << 34, pool="local")
    hello = nodes.hello(
        world.state, world.ids, engine.prices, facts=facts, boot_id="b", boot_us=0, now=engine.now()
    )
    engine.commit(hello, "test")
    assert served(cycle).plan is None
    started = world.submit(options=(ResourceRequest(None, 8_000, 0),))
    waiting = world.submit(options=(ResourceRequest(None, 7_000, 0),))
    cycle.once()
    saved = served(cycle)
    assert saved.plan is not None
    assert [start.job_id for start in saved.plan.starts] == [started.id]
    assert plan_bytes(saved.again()) == plan_bytes(saved.plan)
    assert saved.snapshot.version < world.state.version, "of before the plan was done"
    assert waiting.id in {job for queue in saved.snapshot.queues for _, job in queue.jobs}


def test_doctor_saves_the_snapshot_whole_or_not_at_all(tmp_path, monkeypatch, capsys):
    path = tmp_path / "s.snapshot"
    with FakeServer(tmp_path / "run") as server:
        monkeypatch.setenv("BURSAR_SERVER", server.url)
        server.answers["Events/SaveSnapshot"] = [pb.SnapshotChunk(data=part) for part in (b"one ", b"two")]
        assert bursar(["doctor", "--save-snapshot", str(path)]) == 0
        assert path.read_bytes() == b"one two"
        assert f"wrote {path}, 7 bytes" in capsys.readouterr().err
        server.answers["Events/SaveSnapshot"] = InvalidRequest("no")
        assert bursar(["doctor", "--save-snapshot", str(path)]) == 2
        assert path.read_bytes() == b"one two"
