"""A daemon that only listens and answers: for tests and benches of a real agent.

Owns    an `Agents` service on a unix socket, with `auth.sock` beside it, and what agents told it.
Why     an agent must be provable without bursard; killing and reviving this one plays every outage.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc

from bursar.v1 import agents_pb2 as pb
from bursar.v1.agents_pb2_grpc import AgentsServicer, add_AgentsServicer_to_server

TOKEN = "fake-token"


class FakeDaemon(AgentsServicer):
    """Answers Hello with Welcome, Exited with Forget, Usage with Ack, as far as the switches say.

    Attributes:
        received: every message of every agent, in order. hellos: the Hello of each connection.
        forgets, acks: answer at once? refuse: (reason, message) to say instead of Welcome.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.received: list[pb.AgentMessage] = []
        self.hellos: list[pb.Hello] = []
        self.tokens: list[str] = []
        self.forgets = True
        self.acks = True
        self.refuse: tuple[str, str] | None = None
        self.welcome = pb.Welcome(
            node_id="node_1",
            epoch=1,
            cluster_id="test",
            meter_interval_us=60_000_000,
            heartbeat_interval_us=1_000_000,
        )
        self.on_message: Callable[[pb.AgentMessage], None] = lambda _: None
        self._outgoing: asyncio.Queue[pb.DaemonMessage] | None = None
        self._server: Any = None
        self._auth: asyncio.Server | None = None
        self._news = asyncio.Event()

    @property
    def address(self) -> str:
        """For `--server`."""
        return f"unix://{self.folder / 'bursar.sock'}"

    async def start(self) -> None:
        """Listen."""
        self._auth = await asyncio.start_unix_server(self._authenticate, str(self.folder / "auth.sock"))
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_AgentsServicer_to_server(self, self._server)
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def kill(self) -> None:
        """Drop every connection at once, as kill -9 would."""
        await self._server.stop(None)
        if self._auth is not None:
            self._auth.close()
            await self._auth.wait_closed()
        for name in ("bursar.sock", "auth.sock"):
            (self.folder / name).unlink(missing_ok=True)

    def send(self, message: pb.DaemonMessage) -> None:
        """To the agent that connected last."""
        assert self._outgoing is not None, "no agent has connected"
        self._outgoing.put_nowait(message)

    async def until(self, holds: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Wait until something is true; looked at after every message."""
        async with asyncio.timeout(timeout_s):
            while not holds():
                self._news.clear()
                await self._news.wait()

    def bodies(self, kind: str) -> list[Any]:
        """What was received of one kind: `exited`, `usage`, `started` and so on."""
        return [getattr(m, kind) for m in self.received if m.WhichOneof("body") == kind]

    async def Connect(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.AgentMessage], context: Any
    ) -> None:
        """One agent's stream."""
        self.tokens.append(dict(context.invocation_metadata()).get("authorization", ""))
        outgoing: asyncio.Queue[pb.DaemonMessage] = asyncio.Queue()
        self._outgoing = outgoing
        writer = asyncio.create_task(self._write(outgoing, context))
        try:
            async for message in request_iterator:
                self._take(message, outgoing)
        finally:
            writer.cancel()

    def _take(self, message: pb.AgentMessage, outgoing: asyncio.Queue[pb.DaemonMessage]) -> None:
        if message.WhichOneof("body") == "exits":
            for end in message.exits.members:
                self._take(pb.AgentMessage(exited=end), outgoing)
            return
        self.received.append(message)
        match message.WhichOneof("body"):
            case "hello" if self.refuse:
                reason, text = self.refuse
                outgoing.put_nowait(pb.DaemonMessage(refused=pb.Refused(reason=reason, message=text)))
            case "hello":
                self.hellos.append(message.hello)
                outgoing.put_nowait(pb.DaemonMessage(welcome=self.welcome))
            case "exited" if self.forgets:
                end = message.exited
                outgoing.put_nowait(
                    pb.DaemonMessage(
                        forget=pb.ForgetBatch(members=[pb.Forget(attempt_id=end.attempt_id, rank=end.rank)])
                    )
                )
            case "usage" if self.acks:
                outgoing.put_nowait(pb.DaemonMessage(ack=pb.Ack(usage_seq=message.usage.seq)))
        self.on_message(message)
        self._news.set()

    async def _write(self, outgoing: asyncio.Queue[pb.DaemonMessage], context: Any) -> None:
        while True:
            await context.write(await outgoing.get())

    async def _authenticate(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps({"token": TOKEN, "expires_s": 60}).encode() + b"\n")
        await writer.drain()
        writer.close()
