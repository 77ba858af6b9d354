"""A daemon's whole door in this process: the real gRPC server and services on a unix socket.

`Site.call` speaks as anybody: a token is made for each (user, role, project) when it is first used.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc import aio

from bursar.clock import HOUR_US, SECOND_US, VirtualClock
from bursar.ids import SequentialIds
from bursar.model import EndCause, JobSpec, NodeFacts
from bursar.resources import ResourceRequest
from bursar.v1 import access_pb2, agents_pb2, events_pb2, jobs_pb2, money_pb2, nodes_pb2, services_pb2
from bursard import app
from bursard.access.admission import Admission
from bursard.access.allowances import Allowances
from bursard.access.identity import Role
from bursard.access.tokens import Authority, UserToken
from bursard.access.vault import Vault
from bursard.cycle import Cycle
from bursard.engine import Engine
from bursard.events import ClusterCreated, ExitReport
from bursard.fleet import Agents, Fleet
from bursard.place import verify
from bursard.scheduler import plan
from bursard.services.interceptors import Door
from bursard.settings import Settings
from bursard.state import AttemptRecord, Limits, State
from bursard.state.decide import attempts, jobs, nodes
from bursard.store import ScratchStore
from bursard.telemetry import LiveTelemetry
from bursard.writer import Writer

START = 1_793_494_800 * SECOND_US  # 2026-11-01T01:00:00Z
FILES = (access_pb2, agents_pb2, events_pb2, jobs_pb2, money_pb2, nodes_pb2, services_pb2)
METHODS: dict[str, MethodDescriptor] = {
    f"{service.name}.{method.name}": method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Every method of the contract, by `Service.Method`."""
Verdict = tuple[str, str]
"""(status name, details)."""


REFUSED_WHILE_WRITING: Verdict = ("INTERNAL", "Internal error from Core")
"""What the client's own library says when it writes into a stream that was refused meanwhile: the daemon's
status is lost, so the call is made again.
"""


class Site:
    """One daemon, one node, and a token for whoever is asked for."""

    def __init__(
        self,
        folder: str,
        admission: Admission | None = None,
        limits: Limits | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self.clock = VirtualClock(START)
        self.store = ScratchStore()
        self.engine = Engine(State(limits), self.store, Writer(self.store), self.clock, SequentialIds())
        self.engine.commit([ClusterCreated("c1", "USD")], "bursard")
        self.authority = Authority(self.engine.state, self.clock, local_role=Role.SUBMITTER)
        self._tokens: dict[str, UserToken] = {}
        self.vault = Vault(bytes(32))
        self.allowances = Allowances(self.clock.boot_us, self.engine.state.limits)
        self.engine.on_written = self.allowances.charge
        self.door = Door(self.authority, SequentialIds(), self.clock, self.allowances, admission)
        self.engine.listeners.append(self.door.on_event)
        self.server = aio.server(interceptors=[self.door], options=options)
        self.cycle = cycle = Cycle(self.engine)
        self.telemetry = LiveTelemetry()
        self.fleet = Fleet(self.engine, log_cap_bytes=1 << 20, run_as_submitter=False)
        self.hub = Agents(self.engine, self.fleet)
        app.add_services(
            self.server,
            self.engine,
            cycle,
            self.hub,
            self.telemetry,
            self.vault,
            self.door.refusals,
            self.allowances,
            Settings(),
        )
        self.fleet.secrets = partial(self.vault.values, self.engine.state)
        self.address = f"unix:{folder}/s"
        self.server.add_insecure_port(self.address)
        self.node("n1")

    # --- the world

    def node(self, name: str) -> None:
        """A node that is up."""
        facts = NodeFacts(name=name, cpu_milli=8_000, memory_bytes=64 << 30, pool="p")
        events = nodes.hello(
            self.engine.state, self.engine.ids, self.engine.prices, facts=facts, boot_id="b",
            boot_us=self.clock.boot_us(), now=self.engine.now(),
        )  # fmt: skip
        self.engine.commit(events, f"node:{name}")

    def job(self, user: str, project: str, **spec: Any) -> str:
        """A pending job."""
        asked = {"options": (ResourceRequest(None, 1_000, 1 << 30),), "time_limit_us": HOUR_US} | spec
        made = JobSpec(project=project, **({"command": ("true",)} | asked))
        events = jobs.submit(self.engine.state, self.engine.ids, user=user, spec=made)
        self.engine.commit(events, user)
        return str(events[0].job_id)  # type: ignore[union-attr]

    def place(self, job_id: str) -> AttemptRecord:
        """Start a pending job: it is placed, and its agent is told when there is one."""
        state = self.engine.state
        shot = state.snapshot()
        start = next(one for one in plan(shot, self.engine.now()).starts if one.job_id == job_id)
        placed = verify(state, self.engine.ids, shot, (start,))
        assert isinstance(placed, list)
        self.engine.commit(placed, "bursard")
        attempt = state.jobs[job_id].attempt
        assert attempt is not None
        return attempt

    def fail_to_start(self, job_id: str, message: str) -> None:
        """Its agent says that no process could be started."""
        state, attempt = self.engine.state, self.place(job_id)
        node = state.nodes[attempt.members[0].alloc.node_id]
        report = ExitReport(cause=EndCause.START_FAILED, message=message)
        self.engine.commit(attempts.exited(state, node, attempt.id, 0, report, 0), "node:n1")

    def run(self, job_id: str) -> None:
        """The job starts, runs for a minute, and succeeds."""
        self.end(self.place(job_id))

    def start(self, attempt: AttemptRecord) -> None:
        """What was placed starts."""
        state, began = self.engine.state, self.clock.boot_us()
        node = state.nodes[attempt.members[0].alloc.node_id]
        self.engine.commit(attempts.started(state, node, attempt.id, 0, began, 1), "node:n1")

    def end(self, attempt: AttemptRecord, cause: EndCause = EndCause.COMPLETED) -> None:
        """What was placed starts, unless it has, runs for a minute, and succeeds or ends as is said."""
        state = self.engine.state
        node = state.nodes[attempt.members[0].alloc.node_id]
        began = self.clock.boot_us()
        if not attempt.members[0].started_at:
            self.start(attempt)
        self.clock.advance(60 * SECOND_US)
        code = 0 if cause is EndCause.COMPLETED else -1
        report = ExitReport(cause=cause, exit_code=code, held_us=60 * SECOND_US)
        self.engine.commit(attempts.exited(state, node, attempt.id, 0, report, began), "node:n1")

    def token(self, user: str, role: str, project: str = "") -> str:
        """A secret that proves this; the same one for the same words."""
        secret = f"{user}:{role}:{project}"
        digest = hashlib.sha256(secret.encode()).hexdigest()
        one = UserToken(user, None if role == "none" else Role(role), digest, project)
        self._tokens[digest] = one
        self.authority.replace(tuple(self._tokens.values()))
        return secret

    # --- the caller

    async def call(self, method: str, request: Any = None, *, token: str = "", wait_s: float = 10) -> Verdict:
        """The status of one call: OK as soon as a stream has said its first word."""
        return (await self.ask(method, request, token=token, wait_s=wait_s, answers_max=1))[0]

    async def ask(
        self,
        method: str,
        request: Any = None,
        *,
        token: str = "",
        wait_s: float = 10,
        answers_max: int = 1_000_000,
    ) -> tuple[Verdict, list[Any]]:
        """The status of one call, and what it answered until its end, or until so many answers."""
        about = METHODS[method]
        first = request if request is not None else GetMessageClass(about.input_type)()
        while True:
            verdict, answers = await self._converse(about, [first], token, wait_s, answers_max)
            if verdict != REFUSED_WHILE_WRITING:
                return verdict, answers

    async def talk(self, messages: Sequence[Any], *, token: str, wait_s: float = 20) -> Verdict:
        """The status of an agent's stream that says all of this and hangs up."""
        return (await self._converse(METHODS["Agents.Connect"], messages, token, wait_s, 1_000_000))[0]

    async def _converse(
        self, about: MethodDescriptor, requests: Sequence[Any], token: str, wait_s: float, answers_max: int
    ) -> tuple[Verdict, list[Any]]:
        kind = self.channel.stream_stream if about.client_streaming else self.channel.unary_stream
        call: Any = kind(
            f"/{about.containing_service.full_name}/{about.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(about.output_type).FromString,
        )
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        given = iter(requests) if about.client_streaming else requests[0]
        stream = call(given, metadata=metadata, timeout=wait_s)
        answers = []
        try:
            async for answer in stream:
                answers.append(answer)
                if len(answers) >= answers_max:
                    stream.cancel()
                    break
        except aio.AioRpcError as error:
            return (error.code().name, str(error.details())), []
        return (grpc.StatusCode.OK.name, ""), answers

    async def __aenter__(self) -> Site:
        await self.server.start()
        self.channel = aio.insecure_channel(self.address, options=[("grpc.default_authority", "localhost")])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()
        await self.server.stop(0)
        await self.engine.writer.close()
        self.store.close()


Story = Callable[[Site], Awaitable[None]]


def play(
    story: Story,
    admission: Admission | None = None,
    limits: Limits | None = None,
    options: Sequence[tuple[str, Any]] = (),
) -> None:
    """Run a story at a new site."""

    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="b") as folder:
            async with Site(folder, admission, limits, options) as site:
                await story(site)

    asyncio.run(main())
