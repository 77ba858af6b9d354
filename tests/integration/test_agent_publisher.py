"""MQTT against a real mosquitto, which is killed and started again under the publisher."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt
import pytest

from bursar.errors import InvalidRequest
from bursar.v1.types_pb2 import TelemetryBatch
from bursar_agent.link import wire
from bursar_agent.probes.readings import GpuReading, Reading
from bursar_agent.publisher import BUFFER_MAX, Broker, Publisher

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
BASE = "bursar/v1/c1/n1"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Mosquitto:
    """One broker on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n")
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        assert MOSQUITTO is not None, "mosquitto is needed: apt-get install mosquitto"
        self._process = await asyncio.create_subprocess_exec(
            MOSQUITTO, "-c", str(self._config), stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(120):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                except OSError:
                    await asyncio.sleep(0.02)

    async def kill(self) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Mosquitto]:
    broker = Mosquitto(folder)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.kill()


@asynccontextmanager
async def listening(port: int) -> AsyncIterator[asyncio.Queue[aiomqtt.Message]]:
    """Everything under the base topic, as it comes."""
    found: asyncio.Queue[aiomqtt.Message] = asyncio.Queue()
    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.subscribe(f"{BASE}/#", qos=1)

        async def listen() -> None:
            async for message in client.messages:
                found.put_nowait(message)

        task = asyncio.create_task(listen())
        try:
            yield found
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def batch(at: int) -> bytes:
    gpus = (GpuReading(index=0, utilization_ratio=0.5, simulated=True),)
    return wire.telemetry("c1", "n1", (Reading(at=at, gpus=gpus),)).SerializeToString()


async def next_of(
    queue: asyncio.Queue[aiomqtt.Message], topic: str, publisher: Publisher | None = None
) -> aiomqtt.Message:
    """The next message of one topic, offering fresh telemetry meanwhile as an agent does."""
    async with asyncio.timeout(120):
        while True:
            if publisher is not None:
                publisher.offer(batch(2))
            try:
                message = await asyncio.wait_for(queue.get(), 0.2)
            except TimeoutError:
                continue
            if str(message.topic) == f"{BASE}/{topic}":
                return message


def state_of(message: aiomqtt.Message) -> str:
    assert isinstance(message.payload, bytes)
    return str(json.loads(message.payload)["state"])


def test_telemetry_survives_a_broker_that_is_killed_midway(tmp_path: Path) -> None:
    """
    1. Telemetry flows; a subscriber reads it as protobuf, simulated devices marked.
    2. The broker is killed and comes back with nothing remembered.
    3. The publisher finds it again: online once more, telemetry flows.
    4. It ends cleanly: the retained status says offline.
    """

    async def main() -> None:
        async with running(tmp_path) as broker:
            await story(broker)

    async def story(broker: Mosquitto) -> None:
        publisher = Publisher(Broker.parse(f"mqtt://127.0.0.1:{broker.port}"), "c1", "n1", lambda a, b: 0.05)
        publishing = asyncio.create_task(publisher.run())
        try:
            async with listening(broker.port) as heard:
                publisher.offer(batch(1))
                message = await next_of(heard, "telemetry")
                assert isinstance(message.payload, bytes)
                told = TelemetryBatch.FromString(message.payload)
                assert (told.cluster_id, told.node, told.samples[0].at) == ("c1", "n1", 1)
                assert told.samples[0].gpus[0].simulated
                assert message.qos == 0
                await broker.kill()
                for _ in range(3 * BUFFER_MAX):
                    publisher.offer(batch(2))  # never blocks, with nobody there
                assert publisher.dropped > 0
        except aiomqtt.MqttError:
            pass  # our own subscriber lost the broker too
        await broker.start()
        async with listening(broker.port) as heard:
            await next_of(heard, "telemetry", publisher)
            publisher.close()
            await publishing
            message = await next_of(heard, "status")
            while state_of(message) != "offline":
                message = await next_of(heard, "status")
        async with listening(broker.port) as heard:
            message = await next_of(heard, "status")
            assert message.retain
            assert state_of(message) == "offline"

    asyncio.run(main())


PUBLISHING = """
import asyncio, sys
from bursar_agent.publisher import Broker, Publisher
broker = Broker.parse(f"mqtt://127.0.0.1:{sys.argv[1]}")
asyncio.run(Publisher(broker, "c1", "n1", lambda a, b: 0.05).run())
"""


def test_last_will_says_offline_when_the_agent_is_killed(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as broker, listening(broker.port) as heard:
            agent = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                PUBLISHING,
                str(broker.port),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            try:
                assert state_of(await next_of(heard, "status")) == "online"
            finally:
                agent.kill()
                await agent.wait()
            assert state_of(await next_of(heard, "status")) == "offline"

    asyncio.run(main())


@pytest.mark.parametrize("url", ["http://h", "mqtt://", "mqtt://h:port", "h:1883", "mqtt://h:99999"])
def test_wrong_broker_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(InvalidRequest, match="url"):
        Broker.parse(url)


def test_password_is_read_and_never_shown() -> None:
    broker = Broker.parse("mqtts://me:s%40cret@h")
    assert (broker.host, broker.port, broker.tls, broker.username) == ("h", 8883, True, "me")
    assert "cret" not in repr(broker)
