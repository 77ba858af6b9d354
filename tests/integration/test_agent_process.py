"""The agent as a real process with real jobs, against a daemon that only listens and answers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bursar.codec.launch import launch_to_bytes
from bursar.model import Launch
from bursar.v1 import agents_pb2 as pb
from bursar.v1 import types_pb2 as types
from bursar_agent import mps
from bursar_agent.link.fake import FakeDaemon
from bursar_agent.probes import recorded, recorded_mps
from bursar_agent.probes.machine import boot_id

ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
SECOND_US = 1_000_000
HALF = [types.DeviceShare(index=0, milli=500)]


class World:
    """One daemon, one state directory, and agents on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemon = FakeDaemon(folder)
        self.daemon.welcome.meter_interval_us = 200_000
        self.state = folder / "agent"

    async def agent(self, *more: str) -> asyncio.subprocess.Process:
        """Start one and wait until it is welcomed."""
        count = len(self.daemon.hellos)
        process = await self.spawn(*more)
        await self.daemon.until(lambda: len(self.daemon.hellos) > count)
        return process

    async def spawn(self, *more: str) -> asyncio.subprocess.Process:
        arguments = ["--server", self.daemon.address, "--name", "n1"]
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bursar_agent", *arguments, "--state-dir", str(self.state), *more,
            env=ENV, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    def assign(self, script: str, attempt_id: str = "att_a", **more: Any) -> None:
        values = {"job_id": "job_a", "grace_us": 5 * SECOND_US, **more}
        one = assignment(attempt_id, script=script, env=values.pop("env", {}), **values)
        self.daemon.send(pb.DaemonMessage(assign=pb.AssignBatch(epoch=1, assignments=[one])))

    def stop(self, cause: str, grace_us: int = 0, attempt_id: str = "att_a") -> None:
        order = pb.Stop(epoch=1, attempt_id=attempt_id, cause=cause, grace_us=grace_us)
        self.daemon.send(pb.DaemonMessage(stop=order))

    async def exited(self, attempt_id: str = "att_a") -> pb.Exited:
        found: list[pb.Exited] = []

        def told() -> bool:
            ends = self.daemon.bodies("exited")
            found[:] = [e for e in ends if e.attempt_id == attempt_id]
            return bool(found)

        await self.daemon.until(told)
        return found[0]

    async def log(self, **more: int) -> pb.LogReply:
        count = len(self.daemon.bodies("log"))
        request = pb.LogRequest(request_id=count + 1, attempt_id="att_a", **more)
        self.daemon.send(pb.DaemonMessage(log=request))
        await self.daemon.until(lambda: len(self.daemon.bodies("log")) > count)
        reply: pb.LogReply = self.daemon.bodies("log")[-1]
        return reply

    async def terminate_all(self) -> int | None:
        process = await self.spawn("--terminate-all")
        return await process.wait()


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    made = World(folder)
    agents: list[asyncio.subprocess.Process] = []
    spawn = made.spawn

    async def recording(*more: str) -> asyncio.subprocess.Process:
        agents.append(await spawn(*more))
        return agents[-1]

    made.spawn = recording  # type: ignore[method-assign]
    await made.daemon.start()
    try:
        yield made
    finally:
        for process in agents:
            if process.returncode is None:
                process.kill()
            # Reads its messages to the end too, so that nothing is left open.
            await process.communicate()
        process = await spawn("--terminate-all")
        await process.communicate()
        await made.daemon.kill()


def play(folder: Path, story: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with world(folder) as made:
            await story(made)

    asyncio.run(main())


def assignment(
    attempt_id: str,
    *,
    script: str = "",
    command: tuple[str, ...] = (),
    workdir: str = "/",
    env: dict[str, str] | None = None,
    **more: Any,
) -> pb.Assignment:
    launch = launch_to_bytes(Launch(script=script, command=command, workdir=workdir, env=env or {}))
    return pb.Assignment(attempt_id=attempt_id, boot_id=boot_id(), launch=launch, **more)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not holds():  # noqa: ASYNC110  other processes have no event
            await asyncio.sleep(0.01)


def test_job_runs_is_metered_logged_and_told(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        await w.agent("--simulate-gpus", "H100:2", "--labels", "a=b")
        facts = w.daemon.hellos[0].facts
        assert [(d.type, d.simulated) for d in facts.devices] == [("H100", True)] * 2
        assert dict(facts.labels)["a"] == "b"
        w.assign(
            f"cd $BURSAR_CHECKPOINT_DIR && pwd; while [ ! -e {tmp_path}/go ]; do :; done; exit 3",
            env={"BURSAR_CHECKPOINT_DIR": "@checkpoint"},
        )
        await w.daemon.until(lambda: any(u.counters for u in w.daemon.bodies("usage")))
        await w.daemon.until(lambda: any(t.samples[0].attempts for t in w.daemon.bodies("telemetry")))
        (tmp_path / "go").touch()
        end = await w.exited()
        assert (end.cause, end.exit_code, end.started) == ("failed", 3, True)
        counted = [c for u in w.daemon.bodies("usage") for c in u.counters]
        held = [c.held_us for c in counted]
        assert held == sorted(held)
        assert end.held_us >= held[-1] > 0
        assert end.cpu_us > 0
        assert [s.attempt_id for s in w.daemon.bodies("started")] == ["att_a"]
        reply = await w.log()
        assert reply.data == f"{w.state}/checkpoints/job_a\n".encode()
        assert reply.ended
        tail = await w.log(tail_bytes=3)
        assert (tail.data, tail.offset) == (reply.data[-3:], len(reply.data) - 3)

    play(tmp_path, story)


def test_killed_agent_is_replaced_under_a_running_job(tmp_path: Path) -> None:
    """
    1. A job runs; its agent is killed with -9, three times.
    2. Each new agent says in Hello that it runs, and keeps metering it.
    3. Assigned again by a daemon in doubt, it does not start a second time.
    4. Its end is told with the time of the whole run.
    """

    async def story(w: World) -> None:
        agent = await w.agent()
        w.assign(f"echo started >> {tmp_path}/starts; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done")
        await w.daemon.until(lambda: bool(w.daemon.bodies("started")))
        first = w.daemon.bodies("started")[0]
        for _ in range(3):
            agent.kill()
            await agent.wait()
            agent = await w.agent()
            (truth,) = w.daemon.hellos[-1].attempts
            assert (truth.running, truth.pid) == (True, first.pid)
            w.assign(f"echo started >> {tmp_path}/starts")
            count = len(w.daemon.bodies("usage"))
            await w.daemon.until(lambda count=count: len(w.daemon.bodies("usage")) > count)
        (tmp_path / "go").touch()
        end = await w.exited()
        assert end.cause == "completed"
        assert end.started_boot_us == first.boot_us
        assert (tmp_path / "starts").read_text() == "started\n"

    play(tmp_path, story)


def test_end_while_everything_is_down_is_told_afterwards(tmp_path: Path) -> None:
    """
    1. A job runs; agent and daemon are killed; it ends.
    2. Both come back: the end is in Hello, and told until it is forgotten, not longer.
    """

    async def story(w: World) -> None:
        agent = await w.agent()
        w.assign(f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; touch {tmp_path}/gone; exit 7")
        await w.daemon.until(lambda: bool(w.daemon.bodies("started")))
        agent.kill()
        await agent.wait()
        await w.daemon.kill()
        (tmp_path / "go").touch()
        await until((tmp_path / "gone").exists)
        await until(lambda: bool(list(w.state.glob("run/attempts/*/exit.json"))))
        await w.daemon.start()
        agent = await w.agent()
        (truth,) = w.daemon.hellos[-1].attempts
        assert (truth.running, truth.exited.exit_code) == (False, 7)
        assert (await w.exited()).exit_code == 7
        await until(lambda: not list(w.state.glob("run/attempts/*")))
        agent.kill()
        await agent.wait()
        await w.agent()
        assert not w.daemon.hellos[-1].attempts

    play(tmp_path, story)


def test_usage_not_acknowledged_comes_again_from_the_spool_of_a_killed_agent(
    tmp_path: Path,
) -> None:
    async def story(w: World) -> None:
        w.daemon.acks = False
        agent = await w.agent()
        w.assign("sleep 600")
        await w.daemon.until(lambda: len(w.daemon.bodies("usage")) >= 3)
        agent.kill()
        await agent.wait()
        before = [u.seq for u in w.daemon.bodies("usage")]
        await w.agent()
        at = len(before)
        await w.daemon.until(lambda: len(w.daemon.bodies("usage")) >= 2 * at + 1)
        after = [u.seq for u in w.daemon.bodies("usage")][at:]
        assert after[: len(before)] == before
        assert max(after) > max(before)

    play(tmp_path, story)


def test_meter_now_is_answered_at_once(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        w.daemon.welcome.meter_interval_us = 3600 * SECOND_US
        await w.agent()
        w.daemon.send(pb.DaemonMessage(meter_now=pb.MeterNow()))
        await w.daemon.until(lambda: bool(w.daemon.bodies("usage")))

    play(tmp_path, story)


def test_stop_with_grace_lets_a_job_write_its_checkpoint(tmp_path: Path) -> None:
    """The agent that stops it is not the one that started it: the signal's name was remembered."""

    async def story(w: World) -> None:
        agent = await w.agent()
        w.assign(
            f"trap 'echo saved > {tmp_path}/checkpoint; exit 0' USR1; touch {tmp_path}/ready; "
            "while :; do sleep 0.05; done",
            checkpoint_signal="USR1",
        )
        await until((tmp_path / "ready").exists)
        agent.kill()
        await agent.wait()
        await w.agent()
        w.stop("preempted", grace_us=10 * SECOND_US)
        end = await w.exited()
        assert end.cause == "preempted"
        assert (tmp_path / "checkpoint").read_text() == "saved\n"

    play(tmp_path, story)


def test_what_cannot_start_says_why_and_the_others_run(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        await w.agent()
        batch = pb.AssignBatch(epoch=1)
        for name, more in {
            "att_a": {"script": "true", "workdir": "/does/not/exist"},
            "att_b": {"command": ("no-such-command",)},
            "att_c": {"script": "true", "checkpoint_signal": "KILL"},
            "att_d": {},
            "att_e": {"script": "true"},
        }.items():
            batch.assignments.append(assignment(name, **more))
        batch.assignments.append(assignment("../x", script="true"))
        w.daemon.send(pb.DaemonMessage(assign=batch))
        await w.daemon.until(lambda: len(w.daemon.bodies("exited")) == 6)
        ends = {e.attempt_id: e for e in w.daemon.bodies("exited")}
        assert (ends["att_a"].cause, ends["att_a"].exit_code) == ("failed", 126)
        assert "/does/not/exist" in ends["att_a"].message
        assert (ends["att_b"].cause, ends["att_b"].exit_code) == ("failed", 127)
        assert "no-such-command" in ends["att_b"].message
        assert "KILL" in ends["att_c"].message
        assert (ends["att_d"].cause, ends["att_d"].exit_code) == ("failed", 126)
        assert ends["att_e"].cause == "completed"
        assert "../x" in ends["../x"].message
        assert ends["att_d"].message == "give either a command (not empty) or a script"
        assert [ends[n].started for n in ("att_c", "att_d", "att_e", "../x")] == [
            False, True, True, False,
        ]  # fmt: skip

    play(tmp_path, story)


def test_sigterm_ends_the_agent_and_not_its_jobs(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        agent = await w.agent()
        w.assign("sleep 600")
        await w.daemon.until(lambda: bool(w.daemon.bodies("started")))
        pid = w.daemon.bodies("started")[0].pid
        agent.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(agent.wait(), 120) == 0
        os.kill(pid, 0)
        idle = await w.spawn("--terminate-idle")
        assert await idle.wait() == 0
        os.kill(pid, 0)
        assert await w.terminate_all() == 0
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        reports = list(w.state.glob("run/attempts/*/exit.json"))
        assert [json.loads(r.read_text())["end_cause"] for r in reports] == ["cancelled"]

    play(tmp_path, story)


def test_a_cluster_whose_books_are_gone_is_forsaken_by_one_command(tmp_path: Path) -> None:
    """A daemon with other books ends nothing and starts nothing until somebody says the first is gone."""

    async def story(w: World) -> None:
        agent = await w.agent()
        w.assign("sleep 300")
        await w.daemon.until(lambda: bool(w.daemon.bodies("started")))
        await w.daemon.kill()
        w.daemon.welcome.cluster_id = "other"
        await w.daemon.start()
        await w.daemon.until(lambda: bool(w.daemon.bodies("condition")))
        assert "--forsake test" in w.daemon.bodies("condition")[-1].trouble
        w.stop("cancelled")
        w.assign("true", "att_b")
        assert "its jobs are of cluster test" in (await w.exited("att_b")).message
        assert not [end for end in w.daemon.bodies("exited") if end.attempt_id == "att_a"]
        agent.terminate()
        await agent.wait()
        wrong = await w.spawn("--forsake", "other")
        assert b"is of cluster test, not of other; nothing was done" in (await wrong.communicate())[1]
        assert wrong.returncode == 2
        right = await w.spawn("--forsake", "test")
        assert b"ended 1 member of test" in (await right.communicate())[1]
        await w.agent()
        assert (len(w.daemon.hellos[-1].attempts), w.daemon.hellos[-1].log_cluster_id) == (0, "")
        w.assign("true", "att_c")
        assert (await w.exited("att_c")).cause == "completed"

    play(tmp_path, story)


def test_second_agent_on_one_directory_is_refused(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        agent = await w.agent()
        second = await w.spawn()
        _, told = await second.communicate()
        assert second.returncode == 2
        assert f"another agent (pid {agent.pid})" in told.decode()

    play(tmp_path, story)


def test_refused_agent_exits_2_with_the_daemons_words(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        w.daemon.refuse = ("DuplicateName", "node n1 is connected from elsewhere")
        agent = await w.spawn()
        _, told = await agent.communicate()
        assert agent.returncode == 2
        assert "node n1 is connected from elsewhere" in told.decode()
        assert "Traceback" not in told.decode()

    play(tmp_path, story)


def test_damaged_state_is_set_aside_and_the_node_comes(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        w.state.mkdir()
        for name in ("agent.json", "instance", "forgotten", "spool"):
            (w.state / name).write_bytes(b"garbage\xff\n\0")
        agent = await w.agent()
        w.assign("exit 3")
        assert (await w.exited()).exit_code == 3
        agent.terminate()
        _, told = await agent.communicate()
        for name in ("agent.json", "instance", "forgotten", "spool"):
            assert [path.read_bytes() for path in w.state.glob(f"{name}.damaged-*")] == [b"garbage\xff\n\0"]
            assert f"as={name}.damaged-" in told.decode()
        assert "Traceback" not in told.decode()

    play(tmp_path, story)


@pytest.fixture
def shared_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """With a device and MPS, both of which only answer. Its path is short, as those of sockets must be."""
    made = Path(tempfile.mkdtemp(prefix="half"))
    recorded.install(made)
    recorded_mps.install(made)
    env = {
        **ENV,
        "PATH": f"{made}:{os.environ['PATH']}",
        "PYTHONPATH": f"{made}:{ENV['PYTHONPATH']}",
    }
    monkeypatch.setitem(globals(), "ENV", env)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_halves_share_a_server_that_outlives_the_agent_and_ends_with_the_last(
    shared_gpu: Path,
) -> None:
    async def story(w: World) -> None:
        folder = w.folder
        first = await w.agent()
        assert "gpu" in w.daemon.hellos[0].facts.limits
        script = (
            f"cd {folder}; env | grep -E '^(CUDA_MPS|CUDA_V)' | sort > new-$BURSAR_ATTEMPT;"
            " mv new-$BURSAR_ATTEMPT $BURSAR_ATTEMPT;"
            " while [ ! -e go-$BURSAR_ATTEMPT ]; do :; done"
        )
        for attempt in ("att_a", "att_b"):
            w.assign(script, attempt, devices=HALF, env={"CUDA_VISIBLE_DEVICES": "0", mps.MEMORY: "0=1000G"})
        await until(lambda: (folder / "att_b").exists() and (folder / "att_a").exists())
        server = w.state / "mps" / "0-own-1"
        size = recorded.TOTAL_BYTES // 2 >> 20
        assert (folder / "att_a").read_text().splitlines() == [
            "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=50",
            f"CUDA_MPS_LOG_DIRECTORY={server}/log",
            f"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0={size}M",
            f"CUDA_MPS_PIPE_DIRECTORY={server}/pipe",
            "CUDA_VISIBLE_DEVICES=GPU-0",
        ]
        (pid,) = mps.processes(server)
        first.kill()
        await first.wait()
        await w.agent()
        assert mps.processes(server) == [pid]
        (folder / "go-att_a").touch()
        assert (await w.exited("att_a")).cause == "completed"
        assert mps.processes(server) == [pid]
        (folder / "go-att_b").touch()
        assert (await w.exited("att_b")).cause == "completed"
        assert mps.processes(server) == []
        w.assign(f"touch {folder}/third; while :; do :; done", "att_c", devices=HALF)
        await until(lambda: (folder / "third").exists())
        (pid,) = mps.processes(server)

    play(shared_gpu, story)
    assert mps.processes(shared_gpu / "agent" / "mps" / "0-own-1") == []
