"""Small turns that other tests pass by: each one condition, with what is seen if it is not there."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bursar import aside
from bursar.model import Device, JobState, NodeFacts
from bursar.model.ranges import compress
from bursar.resources import GpuRequest, ResourceRequest
from bursar.steps.request import Request
from bursar.steps.srun import _share
from bursar.v1 import agents_pb2 as pb
from bursar_agent.runner import truth
from bursard.events import TasksEnded
from bursard.fleet import AgentLink, Agents
from bursard.fleet.testing import FACTS, World
from bursard.machines.choose import Coming
from bursard.services.agents import AgentsService
from bursard.services.watching import WatchHub
from bursard.telemetry import LiveTelemetry


@pytest.mark.parametrize(
    ("indices", "ranges"),
    [
        ((4, 5), ((4, 6, 1),)),
        ((4, 6), ((4, 5, 1), (6, 7, 1))),
        ((4, 5, 9), ((4, 6, 1), (9, 10, 1))),
        ((4, 6, 7), ((4, 5, 1), (6, 8, 1))),
        ((0, 1, 2, 5), ((0, 3, 1), (5, 6, 1))),
        ((1, 4, 7, 8), ((1, 8, 3), (8, 9, 1))),
    ],
)
def test_two_neighbours_are_one_range_and_two_with_a_gap_are_two(
    indices: tuple[int, ...], ranges: tuple[tuple[int, int, int], ...]
) -> None:
    assert compress(indices) == ranges


@pytest.mark.parametrize(
    ("nodes", "tasks", "of_the_job", "gpus", "expected"),
    [(0, 1, "2", "4", (4, 1)), (0, 4, "2", "4", (2, 2)), (4, 1, "2", "4", (1, 4)), (0, 2, "", "4", (4, 1))],
)
def test_gpus_of_a_whole_step_are_shared_by_its_nodes_and_one_task_has_one(
    nodes: int, tasks: int, of_the_job: str, gpus: str, expected: tuple[int, int]
) -> None:
    request = Request(["true"], nodes=nodes, tasks=tasks)
    env = {"SLURM_JOB_NUM_NODES": of_the_job} if of_the_job else {}
    assert (_share(request, {"gpus": gpus}, env), request.nodes) == expected


def test_a_machine_that_comes_is_promised_to_the_last_thousandth_of_its_devices_and_no_further() -> None:
    world = World()
    device = Device(0, "g", "L4", 1 << 30)
    facts = NodeFacts(name="m", cpu_milli=8_000, memory_bytes=1 << 34, devices=(device,))
    later = Coming([])
    later.add(facts)
    for coming in (Coming([SimpleNamespace(facts=facts, node_id="")]), later):  # type: ignore[list-item]

        def takes(milli: int, coming: Coming = coming) -> bool:
            one = ResourceRequest(GpuRequest(1, ("L4",), milli=milli), 1, 1)
            return coming.takes(world.state.class_of(world.submit(options=(one,))))

        assert [takes(500), takes(499), takes(2), takes(1), takes(1)] == [True, True, False, True, False]


def test_pieces_of_steps_that_an_agent_sends_are_carried_on(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    hub = Agents(world.engine, world.fleet)
    carried: list[tuple[AgentLink, Any]] = []
    monkeypatch.setattr(hub, "carry", lambda link, frame: carried.append((link, frame)))
    node = world.backend.connect(FACTS)
    link = AgentLink(node.id, FACTS.name, "boot-1", instance="agent_1")

    async def said() -> AsyncIterator[pb.AgentMessage]:
        frame = pb.StepFrame(attempt_id="att_1", from_rank=1, to_rank=2, channel=3, kind="data", data=b"x")
        yield pb.AgentMessage(step=frame)

    asyncio.run(AgentsService(hub, LiveTelemetry(), mqtt_url="")._read(said(), link))
    ((found, frame),) = carried
    assert found is link
    assert (frame.attempt_id, frame.from_rank, frame.to_rank, frame.channel, frame.kind, frame.data) == (
        "att_1", 1, 2, 3, "data", b"x"
    )  # fmt: skip


def test_who_watches_a_job_hears_of_it_its_tasks_and_its_attempts_until_he_stops() -> None:
    world = World()
    hub = WatchHub(world.engine)
    job, array, task = hub.add(["job_1"]), hub.add(["job_2"]), hub.add(["job_2.3", "job_1"])

    def heard() -> list[set[str]]:
        found = [set(one.changed) for one in (job, array, task)]
        assert [one.ready.is_set() for one in (job, array, task)] == [bool(each) for each in found]
        for one in (job, array, task):
            one.changed.clear()
            one.ready.clear()
        return found

    def happens(event: Any) -> list[set[str]]:
        hub._on_event(1, event, 1, "ann")
        return heard()

    assert happens(SimpleNamespace(job_id="job_1")) == [{"job_1"}, set(), {"job_1"}]
    assert happens(SimpleNamespace(job_id="job_2.3")) == [set(), {"job_2"}, {"job_2.3"}]
    assert happens(SimpleNamespace(job_id="job_2.4")) == [set(), {"job_2"}, set()]
    assert happens(SimpleNamespace(job_id="job_9")) == [set(), set(), set()]
    assert happens(TasksEnded("job_2", JobState.CANCELLED)) == [set(), {"job_2"}, {"job_2.3"}]
    hub.remove(task, ["job_2.3", "job_1"])
    assert happens(SimpleNamespace(job_id="job_1")) == [{"job_1"}, set(), set()]
    hub.remove(job, ["job_1"])
    hub.remove(array, ["job_2"])
    assert hub._watchers == {}


def test_a_file_of_our_own_that_lost_its_rights_gets_them_back_and_stays_and_another_goes_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside.os, "access", lambda path, how: False)  # as for an account without rights
    own = tmp_path / "own"
    own.write_text("kept")
    own.chmod(0)
    aside.clear_for_file(own)
    assert (own.read_text(), stat.S_IMODE(own.stat().st_mode)) == ("kept", 0o600)
    folder = tmp_path / "folder"
    folder.mkdir()
    aside.clear_for_file(folder)
    assert not folder.exists()
    assert len(list(tmp_path.iterdir())) == 2


def test_records_of_a_member_that_lost_their_rights_get_them_back(tmp_path: Path) -> None:
    run_fd = os.open(tmp_path, os.O_RDONLY)
    member = tmp_path / "m"
    member.mkdir()
    record = member / truth.STOP
    record.write_text("{}")
    record.chmod(0o040)
    dir_fd = os.open(member, os.O_RDONLY)
    try:
        assert truth.mend_member(run_fd, dir_fd, "att_a.0") == []
    finally:
        os.close(dir_fd)
        os.close(run_fd)
    assert stat.S_IMODE(record.stat().st_mode) == 0o640
