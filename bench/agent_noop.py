"""How fast one agent runs no-op attempts, and what each costs it, against a daemon that only answers.

Run     python bench/agent_noop.py [COUNT] [IN_FLIGHT]
Why     the whole system cannot be faster than this; the daemon's own cost is measured elsewhere. The
        machine's own limit, posix_spawn of /bin/true, is measured in the same run.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

import psutil

from bursar.codec.launch import launch_to_bytes
from bursar.model import Launch
from bursar.v1 import agents_pb2 as pb
from bursar_agent.link.fake import FakeDaemon
from bursar_agent.probes.machine import boot_id

SPAWNS = 500


def spawns_per_s() -> float:
    began = time.perf_counter()
    for _ in range(SPAWNS):
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
    return SPAWNS / (time.perf_counter() - began)


class Feeder:
    """Keeps `in_flight` attempts assigned until `count` have ended."""

    def __init__(self, daemon: FakeDaemon, count: int, in_flight: int) -> None:
        self.daemon, self.count, self.in_flight = daemon, count, in_flight
        self.assigned = self.ended = 0
        self.boot_id = boot_id()
        self._owed = 0
        env = {f"BURSAR_VARIABLE_{i}": "value" for i in range(12)}
        self._launch = launch_to_bytes(Launch(command=("/bin/true",), workdir="/", env=env))

    def take(self, message: pb.AgentMessage) -> None:
        """Count ends and assign as many anew."""
        if message.WhichOneof("body") == "exited":
            assert message.exited.cause == "completed", message
            self.ended += 1
            self._owed += 1
            if self._owed >= 16 or self.ended + self._owed >= self.count:
                self.feed(self._owed)
                self._owed = 0

    def feed(self, number: int) -> None:
        """Assign up to `number` more."""
        number = min(number, self.count - self.assigned)
        batch = pb.AssignBatch(epoch=1)
        for _ in range(number):
            self.assigned += 1
            batch.assignments.add(
                attempt_id=f"att_{self.assigned:016d}",
                job_id=f"job_{self.assigned:016d}",
                boot_id=self.boot_id,
                launch=self._launch,
                time_limit_us=3_600_000_000,
                grace_us=30_000_000,
            )
        if number:
            self.daemon.send(pb.DaemonMessage(assign=batch))


async def main(count: int, in_flight: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        limit = spawns_per_s()
        daemon = FakeDaemon(Path(folder))
        await daemon.start()
        state = Path(folder) / "agent"
        arguments = ("-m", "bursar_agent", "--server", daemon.address, "--name", "bench")
        agent = await asyncio.create_subprocess_exec(sys.executable, *arguments, "--state-dir", str(state))
        try:
            await daemon.until(lambda: bool(daemon.hellos))
            feeder = Feeder(daemon, count, in_flight)
            daemon.on_message = feeder.take
            process = psutil.Process(agent.pid)
            before, began = process.cpu_times(), time.perf_counter()
            feeder.feed(in_flight)
            await daemon.until(lambda: feeder.ended >= count, timeout_s=300)
            seconds, after = time.perf_counter() - began, process.cpu_times()
        finally:
            agent.terminate()
            await agent.wait()
            ending = await asyncio.create_subprocess_exec(
                sys.executable, *arguments, "--state-dir", str(state), "--terminate-all"
            )
            await ending.wait()
            await daemon.kill()
    cpu_ms = 1000 * (after.user + after.system - before.user - before.system) / count
    rate = count / seconds
    print(f"{rate:.0f} no-op attempts/s, {cpu_ms:.2f} ms of agent CPU each")
    print(f"{len(daemon.bodies('started'))} of {count} lived long enough to be told as started")
    print(f"{limit:.0f} posix_spawn/s on this machine now: ratio {rate / limit:.2f}")


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    asyncio.run(main(*(numbers + [1000, 64][len(numbers) :])))
