"""Small judgements of many rooms, each with what would pass if it were not made. Found by mutants."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import msgspec
import pytest

from bursar import errors, jobfile
from bursar.aside import Damaged
from bursar.cli import backup
from bursar.cli.main import run
from bursar.cli.terminal import LogPrinter
from bursar.client import address
from bursar.client.link import error_from
from bursar.errors import InvalidRequest, RateLimited
from bursar.local import files, heartbeat, processes
from bursar.local.child import Child
from bursar.local.cluster import LocalCluster
from bursar.model import JobSpec
from bursar.resources import ResourceRequest
from bursar.yamlfile import Faults, load_yaml, read_string
from bursar_agent import stimuli as s
from bursar_agent.agent import Agent
from bursar_agent.effects import exit_of, truth_of
from bursar_agent.runner.logcap import LogCap
from bursar_agent.runner.model import AttemptTruth, ExitReport
from bursard import doctor, replay
from bursard.access.identity import Role
from bursard.fleet.testing import FACTS, World
from bursard.sim.main import _placement
from bursard.state import Limits, State, image
from bursard.state.decide import nodes, rights
from bursard.state.rights import Grant
from bursard.store import LogHead
from bursard.store.headfile import HeadFile


def test_doctor_names_the_nodes_that_are_away_and_no_others() -> None:
    world = World()
    (found,) = [each for each in doctor.check_state(world.state) if each.check == "nodes"]
    assert (found.ok, found.message) == (False, "no node has ever connected")
    for name in ("n-1", "n-2"):
        world.backend.connect(msgspec.structs.replace(FACTS, name=name))
    (found,) = [each for each in doctor.check_state(world.state) if each.check == "nodes"]
    assert (found.ok, found.message) == (True, "all 2 are in contact")
    world.engine.commit(nodes.silent(world.state, world.node("n-2")), "bursard")
    (found,) = [each for each in doctor.check_state(world.state) if each.check == "nodes"]
    assert (found.ok, found.message) == (False, "n-2 is out of contact")


def test_an_image_that_can_be_used_is_used_and_only_what_came_after_it_is_read() -> None:
    state = State(Limits())
    asked: list[int] = []

    def events(after: int) -> Iterator[Any]:
        asked.append(after)
        return iter(())

    loaded = SimpleNamespace(
        images=[(0, image.encode(state, 1)), (0, b"older")], events=events, passed_over=[]
    )
    replay.restore(SimpleNamespace(load=lambda: loaded), Limits())  # type: ignore[arg-type]
    assert len(asked) == 1
    loaded.images = [(0, b"noise"), (0, image.encode(state, 1))]
    asked.clear()
    replay.restore(SimpleNamespace(load=lambda: loaded), Limits())  # type: ignore[arg-type]
    assert len(asked) == 1


@pytest.mark.parametrize("bound", ["GRANTS_MAX", "GRANTS_OF_ONE_MAX"])
def test_the_last_grant_that_there_is_room_for_is_given_and_the_next_refused(
    bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rights, bound, 2)
    world = World()
    for project in ("a", "b"):
        world.engine.commit(rights.grant(world.state, "ann", Grant(Role.VIEWER, project)), "root")
    with pytest.raises(RateLimited, match="ann holds 2 grants, there are 2"):
        rights.grant(world.state, "ann", Grant(Role.VIEWER, "c"))
    assert rights.grant(world.state, "ann", Grant(Role.VIEWER, "a")) == []
    if bound == "GRANTS_OF_ONE_MAX":
        assert rights.grant(world.state, "bob", Grant(Role.VIEWER, "a"))


def test_the_head_is_synced_when_it_is_asked_for_and_once_in_many_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    head = HeadFile(tmp_path)
    head.write(LogHead(1, b"a" * 32))
    assert synced == []
    head.write(LogHead(2, b"a" * 32), sync=True)
    assert len(synced) == 1
    head.write(LogHead(3, b"a" * 32))
    assert len(synced) == 1
    head.write(LogHead(100_000, b"a" * 32))
    assert len(synced) == 2
    head.close()


def test_what_a_policy_is_called_is_a_policy_a_strategy_or_refused_by_name() -> None:
    assert _placement((), "spread").name == "spread"
    with pytest.raises(InvalidRequest, match="'sprad' is not a PlacementPolicy or a strategy; did you mean"):
        _placement((), "sprad")
    with pytest.raises(InvalidRequest, match="is not a PlacementPolicy or a strategy; known: "):
        _placement((), "zzzzzzzzzz")


def test_a_daemon_of_up_is_started_with_the_policies_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    made = LocalCluster(tmp_path / "state")
    with made.starting():
        made.prepare()
        daemon, agent = made.desire(1, "/policies", "H100:8").children
    assert list(daemon.command)[-2:] == ["--policies", "/policies"]
    assert list(agent.command)[-2:] == ["--simulate-gpus", "H100:8"]


def test_an_agent_that_is_not_connected_tells_a_start_when_it_is() -> None:
    core = Agent("boot-1")
    core.handle(s.Connected(0))
    core.handle(s.Welcomed(now_boot_us=0, epoch=1))
    core.handle(s.Assigned(1, (s.Assignment(attempt_id="att_1", rank=0, boot_id="boot-1"),)))
    core.handle(s.Disconnected())
    out = core.handle(s.MemberStarted(attempt_id="att_1", rank=0, pid=7, boot_us=10))
    assert [each for each in out if isinstance(each, s.SendStarted)] == []


def test_an_end_of_what_never_started_has_no_start_no_signal_and_no_code() -> None:
    report = ExitReport(
        "att_1",
        0,
        1,
        "start_failed",
        None,
        None,
        "no such file",
        "setup",
        "boot-1",
        None,
        None,
        None,
        0,
        0,
        0,
        0,
        0,
    )
    found = exit_of(report)
    assert (found.started_boot_us, found.signal, found.exit_code) == (0, 0, -1)


def test_a_control_character_in_a_text_is_a_fault_where_it_stands() -> None:
    faults = Faults("f.yaml")
    (root,) = load_yaml('name: "a\\nb"\n', faults)
    assert read_string(root.entries["name"], faults) is None
    (fault,) = faults.found
    assert "'a\\nb' holds a line break or control character" in str(fault)


def test_log_bytes_are_shown_at_once_and_behind_what_was_written_before() -> None:
    raw = io.BytesIO()
    raw.close = lambda: None  # type: ignore[method-assign]
    stream = io.TextIOWrapper(io.BufferedWriter(raw), "utf-8")  # type: ignore[arg-type]
    stream.write("a")
    LogPrinter(stream).write(b"b\xff")
    assert raw.getvalue() == b"ab\xff"
    stream.detach()


def test_a_log_keeps_its_head_and_its_last_two_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    cap = LogCap(reading, 64 << 10)
    said = b"".join(b"%07d\n" % number for number in range(40_000))
    for at in range(0, len(said), 4096):
        os.write(writing, said[at : at + 4096])
        cap.pump()
    files = sorted(tmp_path.iterdir(), key=lambda path: (len(path.name), path.name))
    head, *tail = files
    assert len(tail) == 2
    kept = b"".join(path.read_bytes() for path in tail)
    assert said.endswith(kept)
    assert cap.total_bytes == len(said)
    whole_head = head.read_bytes()[: 32 << 10]
    assert said.startswith(whole_head)
    assert cap.dropped_bytes == len(said) - len(kept) - len(whole_head)
    os.close(writing)
    os.close(reading)


@pytest.mark.parametrize(
    ("code", "text", "kind", "said"),
    [
        ("CANCELLED", "bye", errors.ServerUnavailable, "the server at unix:///x closed the call: bye"),
        ("DEADLINE_EXCEEDED", "", errors.ServerUnavailable, "the server at unix:///x did not answer in time"),
        ("UNIMPLEMENTED", "no", errors.NotBuilt, "the server at unix:///x is older and cannot do this: no"),
        ("RESOURCE_EXHAUSTED", "larger than max (9)", errors.InvalidRequest, "one message is too large"),
        ("RESOURCE_EXHAUSTED", "slower", errors.RateLimited, "slower"),
        ("INTERNAL", "", errors.BursarError, "the server failed (INTERNAL)"),
    ],
)
def test_what_goes_wrong_on_the_way_is_said_in_words(
    code: str, text: str, kind: type[errors.BursarError], said: str
) -> None:
    failure = SimpleNamespace(
        code=lambda: grpc.StatusCode[code], details=lambda: text, trailing_metadata=lambda: ()
    )
    found = error_from(failure, address.parse("unix:///x", "a test"))  # type: ignore[arg-type]
    assert type(found) is kind
    assert found.message.startswith(said)


def test_a_wish_whose_child_is_no_table_is_damaged_and_says_so(tmp_path: Path) -> None:
    made = LocalCluster(tmp_path)
    with made.starting():
        made.prepare()
        wish = made.desire(1, "/policies", "").to_json()
    file = tmp_path / files.DESIRED
    files.write_json(file, wish)
    assert files.read_desired(tmp_path) is not None
    files.write_json(file, wish | {"children": [wish["children"][0], "x"]})
    with pytest.raises(Damaged, match="a child is no table"):
        files.read_desired(tmp_path)


def test_a_process_that_lives_is_adopted_and_one_that_is_gone_is_not(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "infinity"]) as popen, contextlib.ExitStack() as ended:
        ended.callback(popen.kill)
        before = processes.noted(popen.pid)
        kept = Child(files.ChildSpec("daemon", "bursard", str(tmp_path), ("true",)), tmp_path / "log")
        assert kept.adopt(before, ready=True)
        assert (kept.process, kept.ready) == (before, True)
        popen.kill()
        popen.wait()
        other = Child(files.ChildSpec("daemon", "bursard", str(tmp_path), ("true",)), tmp_path / "log")
        assert not other.adopt(before, ready=True)
        assert not other.adopt(None, ready=True)
        os.close(kept.pidfd)


def test_archive_says_what_it_moved_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = SimpleNamespace(
        cluster_id="c1", before=SimpleNamespace(seq=4, hash="aa"), last_seq=9, last_hash="bb"
    )
    room = SimpleNamespace(archive_months=lambda directory, before, out, clock: moved)
    monkeypatch.setattr(backup, "_room", lambda: room)
    monkeypatch.setattr(backup, "_directory", lambda given: tmp_path)
    words = ["archive", "--before", "2026-10", "--out", "f.archive", "--state-dir", str(tmp_path)]
    assert run([*words, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "file": "f.archive", "state_dir": str(tmp_path), "cluster_id": "c1", "first_seq": 5, "last_seq": 9,
        "previous_hash": "aa", "last_hash": "bb",
    }  # fmt: skip
    assert run(words) == 0
    assert capsys.readouterr().out == "f.archive: events 5 to 9 of c1, verified\n"


def test_what_a_directory_does_not_say_of_a_start_is_not_made_up() -> None:
    silent = AttemptTruth("att_1", 2, 1, "starting", None, None, None)
    found = truth_of(silent, "boot-1")
    assert (found.running, found.boot_id, found.pid, found.started_boot_us) == (True, "boot-1", 0, 0)
    told = truth_of(AttemptTruth("att_1", 2, 1, "running", 7, 9, None), "boot-1")
    assert (told.rank, told.pid, told.started_boot_us, told.exit) == (2, 7, 9, None)


def test_a_keeper_that_does_not_beat_while_one_looks_does_not_respond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "keeper.lock"
    lock.touch()
    os.utime(lock, (1, 1))
    looks = iter((0.0, 0.1, 0.2, heartbeat.BEAT_LATE_S + 1))
    slept: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: next(looks), sleep=slept.append)
    monkeypatch.setattr(heartbeat, "time", clock)
    me = processes.noted(os.getpid())
    assert me is not None
    assert not heartbeat.responds(me, lock)
    assert len(slept) == 2


def test_a_job_file_that_says_one_thing_leaves_everything_else_at_its_default() -> None:
    expected = JobSpec(script="x", workdir="/data", options=(ResourceRequest(cpu_milli=1_000),))
    assert jobfile.parse_job("run: x", "f.yaml", "/data") == expected
    chosen = jobfile.parse_job("run: x\nresources: {cpus: 2}", "f.yaml", "/data")
    assert chosen == msgspec.structs.replace(expected, options=(ResourceRequest(cpu_milli=2_000),))
