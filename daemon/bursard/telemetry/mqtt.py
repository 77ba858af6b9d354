"""MQTT: gives out events. Lossy by contract.

Why     a broker can lose acknowledged messages (it did, in our trials), so nothing of money passes here; it
        may be down for a day and only those who listen notice. Nothing is taken from it either: whoever may
        publish there (every agent may) could say of any node that it is idle. What agents read comes over
        their own streams.
"""

from __future__ import annotations

import asyncio
import logging

import aiomqtt

from bursar.broker import read_broker

log = logging.getLogger(__name__)

BUFFER_MAX = 10_000
RETRY_S = 2.0


class MqttBridge:
    """One connection to the broker, kept up for ever."""

    def __init__(self, url: str, cluster_id: str) -> None:
        self._broker = read_broker(url)
        self._cluster_id = cluster_id
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
            self._broker.host,
            self._broker.port,
            username=self._broker.username,
            password=self._broker.password,
            identifier=f"bursard-{self._cluster_id}",
            tls_params=aiomqtt.TLSParameters() if self._broker.tls else None,
        )
        async with client:
            self.connected.set()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._away(client), name="mqtt-away")
                group.create_task(self._send(client), name="mqtt-send")

    async def _away(self, client: aiomqtt.Client) -> None:
        """Raises when the broker goes. Nothing is subscribed to, and what comes all the same is unread."""
        async for _ in client.messages:
            pass
        raise aiomqtt.MqttError("the connection ended")

    async def _send(self, client: aiomqtt.Client) -> None:
        while True:
            kind, payload = await self._events.get()
            await client.publish(f"bursar/v1/{self._cluster_id}/events/{kind}", payload, qos=0)
