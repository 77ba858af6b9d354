"""Fractions of a device through MPS: one server for each device and user, from the first member to the last.

The control program is a stand-in with its grammar, and really a program (`bursar_agent.probes.recorded_mps`).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from bursar.errors import InvalidRequest
from bursar.model import Device, EndCause, Exit
from bursar_agent import mps
from bursar_agent.mps import Owner
from bursar_agent.probes import recorded_mps
from bursar_agent.sharing import Sharing

A, B, C = ("att_a", 0), ("att_b", 0), ("att_c", 1)
GIB = 1 << 30
DEVICES = (Device(0, "GPU-zero", "H100", 80 * GIB), Device(1, "GPU-one", "H100", 80 * GIB))
HALF, THIRD, OTHER_HALF = ((0, 500),), ((0, 333),), ((1, 500),)
FAILED = Exit(cause=EndCause.FAILED, exit_code=1, message="exit code 1")


class Node:
    """A folder, and agents that come and go on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "mps"
        self.program = str(recorded_mps.install(folder))
        self.agents: list[Sharing] = []

    def agent(self, devices: tuple[Device, ...] = DEVICES, program: str | None = "double") -> Sharing:
        one = Sharing(self.folder, devices, self.program if program == "double" else program)
        one.trial()
        one.resume()
        self.agents.append(one)
        return one

    def servers(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def pids(self) -> dict[str, int]:
        return {name: mps.processes(self.folder / name)[0] for name in self.servers()}

    def kill(self, server: str) -> None:
        pid = self.pids()[server]
        os.kill(pid, signal.SIGKILL)
        while mps.started_at(pid):
            pass

    def end(self) -> None:
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            for pid in mps.processes(folder):
                os.kill(pid, signal.SIGKILL)
        for one in self.agents:
            one.close()


@pytest.fixture
def node() -> Iterator[Node]:
    # Sockets have short paths, which pytest's own folders do not.
    folder = Path(tempfile.mkdtemp(prefix="mps"))
    folder.chmod(0o755)
    one = Node(folder)
    yield one
    one.end()
    shutil.rmtree(folder, ignore_errors=True)


def play(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(story())  # type: ignore[arg-type]


def test_a_half_is_held_to_half_of_the_memory_and_half_of_the_multiprocessors(node: Node) -> None:
    async def story() -> None:
        one = node.agent()
        assert one.limits
        assert await one.take(A, HALF, Owner()) == {
            "CUDA_MPS_PIPE_DIRECTORY": f"{node.folder}/0-own-1/pipe",
            "CUDA_MPS_LOG_DIRECTORY": f"{node.folder}/0-own-1/log",
            "CUDA_VISIBLE_DEVICES": "GPU-zero",
            "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "50",
            "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={40 * 1024}M",
        }
        assert one.serves(A)

    play(story)


@pytest.mark.parametrize(("milli", "threads", "mebibytes"), [(1, 1, 81), (333, 33, 27279), (999, 99, 81838)])
def test_nobody_gets_more_than_was_granted(milli: int, threads: int, mebibytes: int) -> None:
    found = mps.limits("GPU-x", 80 * GIB, milli)
    assert (found[mps.THREADS], found[mps.MEMORY]) == (str(threads), f"0={mebibytes}M")


def test_one_server_for_a_device_and_user_from_the_first_fraction_to_the_last(node: Node) -> None:
    async def story() -> None:
        one = node.agent()
        assert node.servers() == []
        await one.take(A, HALF, Owner())
        pids = node.pids()
        await one.take(B, THIRD, Owner())
        await one.take(C, OTHER_HALF, Owner())
        assert node.servers() == ["0-own-1", "1-own-2"]
        assert node.pids()["0-own-1"] == pids["0-own-1"]
        await one.leave(A)
        assert node.servers() == ["0-own-1", "1-own-2"]
        assert not one.serves(A)
        await one.leave(B)
        assert node.servers() == ["1-own-2"]
        await one.leave(C)
        assert node.servers() == []

    play(story)


def test_whole_devices_and_those_that_do_not_exist_see_no_server(node: Node) -> None:
    one = node.agent()
    simulated = node.agent((Device(0, "SIM-0", "H100", 80 * GIB, simulated=True),))
    assert one.wanted(HALF)
    assert not any(one.wanted(shares) for shares in (((0, 1000),), (), ((7, 500),)))
    assert not simulated.wanted(HALF)
    assert not simulated.limits


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_each_user_has_a_server_of_its_own_that_the_others_cannot_look_into(node: Node) -> None:
    async def story() -> None:
        one = node.agent()
        await one.take(A, HALF, Owner())
        given = await one.take(B, HALF, Owner(65534, 65534))
        assert node.servers() == ["0-65534-2", "0-own-1"]
        pipe = os.stat(given[mps.PIPE])
        assert (pipe.st_uid, pipe.st_mode & 0o777) == (65534, 0o700)
        assert os.stat(f"/proc/{node.pids()['0-65534-2']}").st_uid == 65534
        await one.leave(B)
        await one.leave(A)
        assert node.servers() == []

    play(story)


def test_the_next_agent_knows_who_uses_which_server_and_ends_what_nobody_needs(node: Node) -> None:
    async def story() -> None:
        first = node.agent()
        await first.take(A, HALF, Owner())
        await first.take(B, HALF, Owner())
        await first.take(C, OTHER_HALF, Owner())
        pids = node.pids()
        second = node.agent()
        await second.keep({A})
        assert node.pids() == {"0-own-1": pids["0-own-1"]}
        assert [second.serves(key) for key in (A, B, C)] == [True, False, False]
        await second.take(B, THIRD, Owner())
        assert node.pids() == {"0-own-1": pids["0-own-1"]}
        third = node.agent()
        await third.keep(set())
        assert node.servers() == []

    play(story)


def test_with_mps_taken_from_the_node_what_ran_through_it_ends_in_order(node: Node) -> None:
    async def story() -> None:
        await node.agent().take(A, HALF, Owner())
        (pid,) = node.pids().values()
        off = node.agent(program=None)
        assert not off.limits
        assert not off.wanted(HALF)
        await off.keep({A})
        assert off.serves(A)
        await off.leave(A)
        assert node.servers() == []
        assert mps.started_at(pid) == 0

    play(story)


def test_a_server_that_shows_no_environment_any_more_is_waited_for_until_it_is_gone(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that is about to be gone: the folder is its own until then."""
    folder = node.folder / "0-own-1"
    folder.parent.mkdir()
    pid = mps.Mps(node.program).start(folder, "GPU-zero", Owner())
    shown = iter([[pid]])
    monkeypatch.setattr(mps, "processes", lambda _: next(shown, []))
    mps.Mps("/bin/false").quit(folder, Owner())
    assert mps.started_at(pid) == 0


def test_a_server_that_died_is_said_at_the_ends_of_its_members_and_the_next_gets_another(node: Node) -> None:
    async def story() -> None:
        one = node.agent()
        await one.take(A, HALF, Owner())
        node.kill("0-own-1")
        told = await one.leave(A, FAILED)
        assert told is not None
        assert told.message == "exit code 1; the MPS server of device 0 has died, and its clients end with it"
        await one.take(B, HALF, Owner())
        assert [*node.pids()] == ["0-own-1"]
        await one.take(A, HALF, Owner())
        node.kill("0-own-1")
        assert (await one.take(C, HALF, Owner()))[mps.PIPE] == f"{node.folder}/0-own-2/pipe"
        fine = Exit(cause=EndCause.COMPLETED, exit_code=0)
        assert await one.leave(C, fine) == fine

    play(story)


def test_a_fault_in_a_server_is_said_and_one_that_is_well_says_nothing(node: Node) -> None:
    async def story() -> None:
        one = node.agent()
        pipe = Path((await one.take(A, HALF, Owner()))[mps.PIPE])
        await one.take(B, HALF, Owner())
        control = mps.Mps(node.program)
        control._run(pipe.parent, Owner(), [], {}, 5.0, "start_server -uid 0\n")
        assert await one.leave(A, FAILED) == FAILED
        (pipe / "fault").touch()
        told = await one.leave(B, FAILED)
        assert told is not None
        why = "the MPS server of device 0 is in state FAULT, and its clients end with it"
        assert told.message == f"exit code 1; {why}"
        assert node.servers() == []

    play(story)


@pytest.mark.parametrize("switch", ["refuse", "mute"])
def test_where_it_cannot_start_no_limit_is_claimed(
    node: Node, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    monkeypatch.setenv(recorded_mps.SWITCH, switch)
    monkeypatch.setattr(mps, "_INHERITED", (*mps._INHERITED, recorded_mps.SWITCH))
    monkeypatch.setattr(mps, "ANSWER_S", 0.2)
    monkeypatch.setattr(mps, "START_S", 0.5)
    monkeypatch.setattr(mps, "QUIT_S", 0)
    one = node.agent()
    words = {"refuse": "no device can be used", "mute": "does not answer in 0.2 s"}
    assert words[switch] in one.problem
    assert not one.limits
    assert not one.wanted(HALF)
    assert node.servers() == []


def test_a_path_too_long_for_its_sockets_is_found_before_a_job_starts(node: Node) -> None:
    one = Sharing(node.folder.parent / ("x" * 60), DEVICES, node.program)
    one.trial()
    assert "too long a path for MPS; give a shorter --state-dir" in one.problem


def test_one_that_starts_no_more_keeps_a_member_from_starting(node: Node) -> None:
    async def story() -> None:
        one = node.agent()
        os.unlink(node.program)
        with pytest.raises(InvalidRequest, match=r"device 0 cannot be shared: .*No such file.*mps = \"off\""):
            await one.take(A, HALF, Owner())
        assert not one.serves(A)
        assert node.servers() == []

    play(story)


def test_a_file_where_its_folder_should_be_is_set_aside_and_keeps_no_node_away(tmp_path: Path) -> None:
    (tmp_path / "mps").write_text("not a folder")
    sharing = Sharing(tmp_path / "mps", DEVICES, None)
    sharing.trial()
    sharing.resume()
    assert (tmp_path / "mps").is_dir()
    assert [path.read_text() for path in tmp_path.glob("mps.damaged-*")] == ["not a folder"]
