"""The thread of devices: energy of each end, whatever the driver does and whenever the agent dies."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bursar.clock import VirtualClock
from bursar.model import EndCause, Energy, Exit
from bursar_agent import stimuli as s
from bursar_agent.devices import Devices
from bursar_agent.effects import Members, with_energy
from bursar_agent.probes import recorded
from bursar_agent.probes.nvml import NvmlGpus
from bursar_agent.probes.process import TreeReading
from bursar_agent.probes.readings import AttemptReading, NoGpus, Reading
from bursar_agent.probes.recorded import RecordedNvml
from bursar_agent.runner.model import Ended, ExitReport, Started
from bursar_agent.sharing import Sharing
from bursar_agent.statedir import HeldDevices, StateDir

A, B = ("att_a", 0), ("att_b", 1)
HELD_WATTS = recorded.HELD.watts


class Node:
    """A state directory and recorded devices that outlive the agents on them."""

    def __init__(self, path: Path) -> None:
        self.state = StateDir(path)
        self.nvml = RecordedNvml(2)
        self.clock = VirtualClock()
        self.agents: list[Devices] = []
        for device in self.nvml.devices:
            device.load = recorded.HELD

    def agent(self, boot_id: str = "boot", answer_s_max: float = 20.0, probe: Any = None) -> Devices:
        found = Devices(
            probe or NvmlGpus(lambda: self.nvml), self.state, self.clock, boot_id, answer_s_max=answer_s_max
        )
        found.resume()
        self.agents.append(found)
        return found

    def passes(self, seconds: int) -> None:
        self.clock.advance(seconds * 1_000_000)
        self.nvml.advance(seconds * 1_000_000)

    async def settled(self, devices: Devices) -> None:
        """Everything that was handed to the thread is done."""
        await devices.read(Reading(at=1), {})


@pytest.fixture
def node(tmp_path: Path) -> Any:
    one = Node(tmp_path / "state")
    yield one
    for devices in one.agents:
        devices.close()
    one.state.close()


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(work())


def measured(seconds: int) -> Energy:
    return Energy(millijoules=seconds * HELD_WATTS * 1000, source="measured")


def test_energy_is_from_the_start_to_the_end_and_the_same_however_often_it_is_asked(node: Node) -> None:
    async def work() -> None:
        devices = node.agent()
        devices.assigned(A, ((1, 1000),))
        node.passes(100)
        devices.started(A)
        await node.settled(devices)
        node.passes(7)
        devices.started(A)  # after its setup comes its run
        await node.settled(devices)
        node.passes(3)
        assert await devices.ended(A) == measured(10)
        node.passes(50)
        assert await devices.ended(A) == measured(10)

    run(work)


def test_a_member_without_devices_waits_for_nothing(node: Node) -> None:
    async def work() -> None:
        devices = node.agent()
        devices.assigned(A, ())
        devices.started(A)
        assert not devices.holds(A)
        assert await devices.ended(A) is None
        assert node.nvml.asked["nvmlDeviceGetTotalEnergyConsumption"] == 0

    run(work)


def test_a_member_that_never_started_has_no_energy(node: Node) -> None:
    async def work() -> None:
        devices = node.agent()
        devices.assigned(A, ((0, 1000),))
        assert await devices.ended(A) == Energy(millijoules=0, source="")

    run(work)


def test_the_next_agent_goes_on_and_loses_nothing(node: Node) -> None:
    async def work() -> None:
        first = node.agent()
        first.assigned(A, ((0, 1000),))
        first.started(A)
        await node.settled(first)
        node.passes(40)
        second = node.agent()
        node.passes(2)
        assert await second.ended(A) == measured(42)
        third = node.agent()
        node.passes(9)
        assert await third.ended(A) == measured(42), "an end that was told is told the same"

    run(work)


def test_a_look_is_remembered_so_that_sharing_goes_on_as_it_was(node: Node) -> None:
    async def work() -> None:
        first = node.agent()
        for key, pid in ((A, 7), (B, 8)):
            first.assigned(key, ((0, 500),))
            first.started(key)
            reading = Reading(at=1, attempts=(AttemptReading(attempt_id=key[0], rank=key[1]),))
            await first.read(reading, {key: TreeReading(0, 0, (pid,))})
        node.nvml.devices[0].sm = {7: 100}
        node.passes(10)
        await node.settled(first)
        node.nvml.devices[0].sm = {}
        second = node.agent()
        node.passes(4)
        assert await second.ended(A) == measured(12)
        assert await second.ended(B) == measured(2)

    run(work)


def test_after_a_reboot_what_was_known_is_told_but_not_as_measured(node: Node) -> None:
    async def work() -> None:
        first = node.agent()
        first.assigned(A, ((0, 1000),))
        first.started(A)
        await node.settled(first)
        node.passes(10)
        await node.settled(first)
        node.passes(5)
        second = node.agent(boot_id="another")
        assert await second.ended(A) == Energy(millijoules=measured(10).millijoules, source="modelled")

    run(work)


def test_what_is_forgotten_leaves_no_file(node: Node) -> None:
    async def work() -> None:
        devices = node.agent()
        devices.assigned(A, ((0, 1000),))
        devices.started(A)
        await node.settled(devices)
        assert list(node.state.held_devices()) == [A]
        await devices.ended(A)
        devices.forget(A)
        await node.settled(devices)
        assert node.state.held_devices() == {}
        assert await devices.ended(A) is None

    run(work)


def test_a_file_that_outlived_its_member_takes_no_energy_from_others(node: Node) -> None:
    async def work() -> None:
        first = node.agent()
        for key in (A, B):
            first.assigned(key, ((0, 500),))
            first.started(key)
        await node.settled(first)
        second = node.agent()
        second.keep({B})
        await node.settled(second)
        assert list(node.state.held_devices()) == [B]
        node.passes(10)
        assert await second.ended(B) == measured(10)
        assert await second.ended(A) is None

    run(work)


class Hanging(NoGpus):
    """A driver that answers nothing once it hangs."""

    def __init__(self, node: Node) -> None:
        self._inner = NvmlGpus(lambda: node.nvml)
        self.free = threading.Event()
        self.free.set()

    def devices(self) -> Any:
        return self._inner.devices()

    def read(self, now: int, loads: Any) -> Any:
        self.free.wait()
        return self._inner.read(now, loads)

    def energy_millijoules(self, index: int) -> int | None:
        self.free.wait()
        return self._inner.energy_millijoules(index)

    def close(self) -> None:
        self._inner.close()


def test_a_driver_that_hangs_delays_an_end_once_and_it_is_told_with_what_was_known(node: Node) -> None:
    async def work() -> None:
        probe = Hanging(node)
        devices = node.agent(probe=probe)
        for key in (A, B):
            devices.assigned(key, ((key[1], 1000),))
            devices.started(key)
        await node.settled(devices)
        node.passes(10)
        await node.settled(devices)
        probe.free.clear()
        devices._answer_s_max = 0.05
        known = Energy(millijoules=measured(10).millijoules, source="modelled")
        reading = Reading(at=1, power_watts=3.0)
        assert await devices.read(reading, {}) == reading
        devices._answer_s_max = 3600  # nobody waits for it a second time
        assert await devices.ended(A) == known
        assert await devices.read(reading, {}) == reading
        assert devices._hung is not None
        probe.free.set()
        await devices._hung
        assert len((await devices.read(reading, {})).gpus) == 2
        assert await devices.ended(A) == known
        node.passes(1)
        assert await devices.ended(B) == measured(11)

    run(work)


def test_a_damaged_file_of_a_member_is_set_aside(node: Node) -> None:
    folder = node.state.path / "devices"
    folder.mkdir()
    (folder / "att_a.0").write_text('{"boot_id": 5}')
    (folder / "../odd").write_text("")
    good = HeldDevices(
        boot_id="boot", shares=((0, 1000),), counters={0: 5}, millijoules=7, source="measured", ended=False
    )
    node.state.remember_devices(B, good)
    assert node.state.held_devices() == {B: good}
    assert sorted(path.name.partition(".damaged")[0] for path in folder.iterdir()) == ["att_a.0", "att_b.1"]
    node.state.forget_devices(B)
    node.state.forget_devices(B)
    assert node.state.held_devices() == {}


def report(key: tuple[str, int]) -> ExitReport:
    return ExitReport(
        attempt_id=key[0], rank=key[1], epoch=1, end_cause="completed", exit_code=0, signal=None, message="",
        phase="run", boot_id="boot", start_boot_us=1, end_boot_us=2, held_us=1, cpu_user_us=0,
        cpu_system_us=0, max_rss_bytes=0, log_bytes=0, log_dropped_bytes=0,
    )  # fmt: skip


def test_an_end_is_told_with_the_energy_of_its_devices_and_at_once_without_any(node: Node) -> None:
    async def work() -> None:
        devices = node.agent()
        told: list[s.Event] = []
        runner = SimpleNamespace(read_last_progress=lambda *key: None, read_steps=lambda *key: None)

        async def look() -> None:
            """Not for an end that was the job's own."""
            raise AssertionError

        sharing = Sharing(node.state.mps_dir, (), None)
        members = Members(
            runner,  # type: ignore[arg-type]
            node.state,
            None,  # type: ignore[arg-type]
            "boot",
            told.append,
            devices,
            look,
            sharing,
        )
        devices.assigned(A, ((0, 1000),))
        members.heard(Started(*A, pid=5, start_boot_us=1))
        members.heard(Started(*B, pid=6, start_boot_us=1))
        await node.settled(devices)
        node.passes(3)
        members.heard(Ended(report(B)))
        assert [type(event) for event in told] == [s.MemberStarted, s.MemberStarted, s.MemberEnded]
        members.heard(Ended(report(A)))
        await asyncio.gather(*members.tasks._tasks)
        end = told[-1]
        assert isinstance(end, s.MemberEnded)
        assert (end.exit.gpu_energy_millijoules, end.exit.gpu_energy_source) == (3 * 131_000, "measured")
        await members.tasks.close()

    run(work)


def test_an_end_without_known_energy_stays_as_it_is() -> None:
    exit = Exit(cause=EndCause.COMPLETED)
    assert with_energy(exit, None) is exit
    assert with_energy(exit, Energy(millijoules=5, source="modelled")) == Exit(
        cause=EndCause.COMPLETED, gpu_energy_millijoules=5, gpu_energy_source="modelled"
    )
