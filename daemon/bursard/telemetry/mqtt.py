"""MQTT: takes in what agents publish, gives out events. Lossy by contract on both ways.

Why     a broker can lose acknowledged messages (it did, in our trials), so nothing of money passes here;
        it may be down for a day and only `top` and dashboards notice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from urllib.parse import urlsplit

import aiomqtt

log = logging.getLogger(__name__)

BUFFER_MAX = 10_000
RETRY_S = 2.0

OnTelemetry = Callable[[str, bytes], None]
"""Called with (node name, payload) for each batch."""


class MqttBridge:
    """One connection to the broker, kept up for ever."""

    def __init__(self, url: str, cluster_id: str, on_telemetry: OnTelemetry) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
            raise ValueError(f"telemetry.mqtt.url {url!r} is not of the form mqtt://host:1883")
        self._host = parts.hostname
        self._port = parts.port or (8883 if parts.scheme == "mqtts" else 1883)
        self._username, self._password = parts.username, parts.password
        self._tls = parts.scheme == "mqtts"
        self._cluster_id = cluster_id
        self._on_telemetry = on_telemetry
        self._events: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(BUFFER_MAX)
        self.dropped = 0
        self.connected = asyncio.Event()

    def publish_event(self, kind: str, payload: bytes) -> None:
        """Send an event when there is a broker; drop it, counted, when the buffer is full."""
        try:
            self._events.put_nowait((kind, payload))
        except asyncio.QueueFull:
            self.dropped += 1

    async def run(self) -> None:
        """Stay connected; never raises for a broker that is away."""
        while True:
            try:
                await self._session()
            except* aiomqtt.MqttError as errors:
                log.info("mqtt broker is away", extra={"error": str(errors.exceptions[0])})
            self.connected.clear()
            await asyncio.sleep(RETRY_S)

    async def _session(self) -> None:
        client = aiomqtt.Client(
            self._host,
            self._port,
            username=self._username,
            password=self._password,
            identifier=f"bursard-{self._cluster_id}",
            tls_params=aiomqtt.TLSParameters() if self._tls else None,
        )
        async with client:
            await client.subscribe(f"bursar/v1/{self._cluster_id}/+/telemetry", qos=0)
            self.connected.set()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._receive(client), name="mqtt-receive")
                group.create_task(self._send(client), name="mqtt-send")

    async def _receive(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            node = message.topic.value.split("/")[3]
            if isinstance(message.payload, bytes):
                self._on_telemetry(node, message.payload)
        raise aiomqtt.MqttError("the message stream ended")

    async def _send(self, client: aiomqtt.Client) -> None:
        while True:
            kind, payload = await self._events.get()
            await client.publish(f"bursar/v1/{self._cluster_id}/events/{kind}", payload, qos=0)
