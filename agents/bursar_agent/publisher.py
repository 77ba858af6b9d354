"""Live readings over MQTT, when the daemon names a broker.

Owns    the connection to the broker, the retained status and its last will.
Input   telemetry as bytes (protobuf `TelemetryBatch`), offered once a second.
Why     many may watch a cluster without asking the daemon, which takes nothing from there: it has the same
        readings over the agent's stream. Lossy by contract: what cannot be sent is dropped and counted, and
        nothing here ever makes the agent wait.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import aiomqtt

from bursar.broker import BrokerAddress, read_broker

log = logging.getLogger(__name__)

BUFFER_MAX = 60
"""A minute of readings; older ones are dropped while the broker is away."""

BACKOFF_S_MIN, BACKOFF_S_MAX = 0.5, 15.0
_TIMEOUT_S = 5.0
_KEEPALIVE_S = 15
_ONLINE, _OFFLINE = json.dumps({"state": "online"}), json.dumps({"state": "offline"})


@dataclass(frozen=True, slots=True, repr=False)
class Broker(BrokerAddress):
    """Where to publish. `repr` hides the password."""

    @classmethod
    def parse(cls, url: str) -> Broker:
        """`mqtt://[user:password@]host[:port]` or `mqtts://…`. Raises `InvalidRequest`."""
        found = read_broker(url)
        return cls(found.host, found.port, found.tls, found.username, found.password)

    def client(self, will: aiomqtt.Will, identifier: str) -> aiomqtt.Client:
        """A fresh client."""
        return aiomqtt.Client(
            self.host,
            self.port,
            username=self.username,
            password=self.password,
            identifier=identifier,
            will=will,
            keepalive=_KEEPALIVE_S,
            timeout=_TIMEOUT_S,
            tls_context=ssl.create_default_context() if self.tls else None,
            logger=_QUIET,
        )


class Publisher:
    """Publishes to `bursar/v1/CLUSTER/NODE/telemetry` and `…/status` until it is closed."""

    def __init__(
        self, broker: Broker, cluster_id: str, node: str, uniform: Callable[[float, float], float]
    ) -> None:
        base = f"bursar/v1/{cluster_id}/{node}"
        self._telemetry_topic = f"{base}/telemetry"
        self._status_topic = f"{base}/status"
        self._identifier = f"bursar-agent-{node}"
        self._broker = broker
        self._uniform = uniform
        self._buffer: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self.dropped = 0
        self.published = 0

    def offer(self, payload: bytes) -> None:
        """Take one batch; the oldest goes when the buffer is full."""
        if len(self._buffer) >= BUFFER_MAX:
            self._buffer.popleft()
            self.dropped += 1
        self._buffer.append(payload)
        self._wake.set()

    def close(self) -> None:
        """Let `run` say goodbye and return.

        Not by cancelling it: the library waits with `asyncio.wait_for`, which in Python 3.11 loses a
        cancellation that comes together with the answer.
        """
        self._closing.set()
        self._wake.set()

    async def run(self) -> None:
        """Connect, publish, connect again, until `close`."""
        backoff_s, told = BACKOFF_S_MIN, ""
        while not self._closing.is_set():
            published = self.published
            try:
                await self._once()
            except (aiomqtt.MqttError, OSError) as problem:
                if str(problem) != told:
                    told = str(problem)
                    log.warning("no broker", extra={"broker": repr(self._broker), "problem": told})
            if self.published != published:
                backoff_s, told = BACKOFF_S_MIN, ""
            try:
                async with asyncio.timeout(self._uniform(BACKOFF_S_MIN, backoff_s)):
                    await self._closing.wait()
            except TimeoutError:
                backoff_s = min(2 * backoff_s, BACKOFF_S_MAX)

    async def _once(self) -> None:
        will = aiomqtt.Will(self._status_topic, _OFFLINE, qos=1, retain=True)
        async with self._broker.client(will, self._identifier) as client:
            await client.publish(self._status_topic, _ONLINE, qos=1, retain=True)
            while not self._closing.is_set():
                self._wake.clear()
                while self._buffer:
                    await client.publish(self._telemetry_topic, self._buffer.popleft(), qos=0)
                    self.published += 1
                await self._wake.wait()
            # A clean end sends no last will, so we say it ourselves.
            await client.publish(self._status_topic, _OFFLINE, qos=1, retain=True)


_QUIET = logging.getLogger(f"{__name__}.mqtt")
_QUIET.setLevel(logging.CRITICAL)
"""The library logs each lost connection; we say it once, in our own words."""
