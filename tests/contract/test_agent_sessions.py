"""Agents that work as they should for a while, then lie: stateful sessions of several nodes, over the wire.

Why     a single wrong message is refused by its form. What a book-keeper has to fear is a right one at the
        wrong moment: an end of somebody else's member, a counter of yesterday, a truth at reconnection that
        was never so.

Each agent does what it is told (starts, holds what waits behind another, meters, ends, answers for logs,
carries pieces of steps), and now and then changes one field of what it says, says it twice, says something
old again, hangs up, or comes back as another boot. Whatever it says, the daemon answers, its state holds,
hard budgets hold, nobody is billed more than the daemon's own clock saw pass (A1), and the log gives the
same books again. BURSAR_FUZZ_ROUNDS=1000 makes a night of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from grpc import aio
from whole_site import Site, play
from wire_values import values

from bursar.clock import SECOND_US
from bursar.money import cumulative
from bursar.resources import ResourceRequest
from bursar.v1 import agents_pb2 as pb
from bursar.v1 import jobs_pb2, money_pb2, nodes_pb2, types_pb2
from bursard import doctor
from bursard.cycle import Cycle
from bursard.fleet.believe import DRIFT
from bursard.replay import restore
from bursard.services.agents import PROTOCOL
from bursard.state import AttemptRecord

ROUNDS = int(os.environ.get("BURSAR_FUZZ_ROUNDS", "4")) * 2
TURNS = 40
LIE = 0.08
"""How many of all words are changed; most are right, or nothing would be believed long enough to matter."""
LIMIT_NANOS = 40_000_000_000
RACK = "kind: CostModel\nname: rack\nspec: {pool: p, node_capex: 400003 USD, useful_life: 5y}\n"
BUDGET = f"""kind: Budget
name: tight
spec: {{scope: {{project: p}}, limit: {LIMIT_NANOS / 1e9:.2f} USD, period: year, enforcement: hard}}
"""
NAMES = ("n2", "n3", "n4")


class Agent:
    """One node's side of a stream."""

    def __init__(self, site: Site, name: str, random: Random, said: list[Message]) -> None:
        self.site, self.name, self.random, self.said = site, name, random, said
        self.boot = 1
        self.stream: Any = None
        self.heard: list[Any] = []
        self.began: dict[tuple[str, int], int] = {}
        """What it runs, and since when."""
        self.ended: dict[tuple[str, int], pb.Exited] = {}
        self.waiting: dict[tuple[str, int], tuple[str, int]] = {}
        """What starts when another has ended, and which."""
        self.waited = self.carried = 0
        """How many did so, and how many pieces of steps came from elsewhere."""
        self.seq = 0
        self._reader: asyncio.Task[None] | None = None

    # --- the stream

    async def connect(self) -> None:
        await self.hang_up()
        self.stream = self.site.channel.stream_stream(
            "/bursar.v1.Agents/Connect",
            request_serializer=pb.AgentMessage.SerializeToString,
            response_deserializer=pb.DaemonMessage.FromString,
        )(metadata=(("authorization", f"Bearer {self.site.token(self.name, 'agent')}"),), timeout=120)
        self._reader = asyncio.create_task(self._listen(self.stream))
        await self.say(pb.AgentMessage(hello=self._hello()))

    async def hang_up(self) -> None:
        if self.stream is not None:
            self.stream.cancel()
            self.stream = None
        self.waiting.clear()  # forgotten with the connection: it is given again
        if self._reader is not None:
            await asyncio.gather(self._reader, return_exceptions=True)

    async def _listen(self, stream: Any) -> None:
        with contextlib.suppress(aio.AioRpcError, asyncio.CancelledError):
            while (message := await stream.read()) is not aio.EOF:
                self.heard.append(message)
        if self.stream is stream:
            self.stream = None

    async def say(self, message: pb.AgentMessage) -> None:
        """Say it, or something like it."""
        if self.stream is None:
            return
        self.said.append(message)
        if self.random.random() < LIE:
            changed = pb.AgentMessage()
            changed.CopyFrom(message)
            lie(changed, self.random, self.said)
            message = changed
        for _ in range(2 if self.random.random() < LIE / 2 else 1):
            stream = self.stream
            if stream is None:
                return  # the daemon hung up after the first of two
            with contextlib.suppress(aio.AioRpcError, asyncio.InvalidStateError):
                await stream.write(message)

    # --- what an honest agent says

    def _hello(self) -> pb.Hello:
        facts = types_pb2.NodeFacts(
            name=self.name, cpu_milli=8_000, memory_bytes=1 << 34, pool="p", market="on-demand"
        )
        boot_id = f"{self.name}-boot-{self.boot}"
        truths = [
            pb.AttemptTruth(
                attempt_id=id, rank=rank, running=True, pid=9, started_boot_us=us, boot_id=boot_id
            )
            for (id, rank), us in self.began.items()
        ]
        truths += [
            pb.AttemptTruth(attempt_id=id, rank=rank, exited=end, boot_id=boot_id)
            for (id, rank), end in self.ended.items()
        ]
        now_us = self.site.clock.boot_us()
        return pb.Hello(
            protocol=PROTOCOL, facts=facts, boot_id=boot_id, boot_us=now_us, attempts=truths,
            instance=f"instance-{self.name}", ahead=8,
        )  # fmt: skip

    async def turn(self) -> None:
        """Do what was ordered, and say what is to be said."""
        if self.stream is None:
            if self.random.random() < 0.5:
                await self.connect()
            return
        while self.heard:
            await self._obey(self.heard.pop(0))
        now_us = self.site.clock.boot_us()
        match self.random.choice(
            ("usage", "usage", "end", "end", "end", "heart", "telemetry", "step", "old", "gone", "boot")
        ):
            case "usage":
                await self.say(pb.AgentMessage(usage=self._usage(now_us)))
            case "end":
                ends = [self._end(member, now_us) for member in list(self.began)[: self.random.randint(0, 3)]]
                if len(ends) == 1:
                    await self.say(pb.AgentMessage(exited=ends[0]))
                elif ends:
                    await self.say(pb.AgentMessage(exits=pb.ExitedBatch(members=ends)))
                for end in ends:
                    await self._next((end.attempt_id, end.rank), now_us)
            case "heart":
                await self.say(pb.AgentMessage(heartbeat=pb.Heartbeat(boot_us=now_us)))
            case "telemetry":
                await self.say(pb.AgentMessage(telemetry=self._telemetry()))
            case "step" if self.began:
                await self.say(pb.AgentMessage(step=self._step()))
            case "old" if self.random.random() < 3 * LIE:
                await self.say(self.random.choice([*self.said, pb.AgentMessage()]))
            case "gone" if self.random.random() < 0.3:
                await self.hang_up()
            case "boot" if self.random.random() < 0.05:
                await self.hang_up()
                self.boot += 1
                self.began.clear()

    def _usage(self, now_us: int) -> pb.Usage:
        self.seq += 1
        counters = [
            pb.Counter(attempt_id=id, rank=rank, held_us=now_us - since_us, cpu_us=(now_us - since_us) // 2)
            for (id, rank), since_us in self.began.items()
        ]
        boot_id = f"{self.name}-boot-{self.boot}"
        return pb.Usage(seq=self.seq, boot_id=boot_id, at_boot_us=now_us, counters=counters)

    def _end(self, member: tuple[str, int], now_us: int) -> pb.Exited:
        since_us = self.began.pop(member)
        cause, code = self.random.choice((("completed", 0), ("failed", 1), ("time_limit", -1)))
        self.ended[member] = pb.Exited(
            attempt_id=member[0], rank=member[1], cause=cause, exit_code=code, started=True,
            started_boot_us=since_us, held_us=now_us - since_us, cpu_us=1, max_rss_bytes=1 << 20, log_bytes=3,
        )  # fmt: skip
        return self.ended[member]

    def _step(self) -> pb.StepFrame:
        """A piece of a step for another member, or for this one."""
        member = self.random.choice(list(self.began))
        return pb.StepFrame(
            attempt_id=member[0], from_rank=member[1], to_rank=self.random.choice((0, 1)),
            channel=self.random.choice((1, 2)), kind=self.random.choice(("open", "resume", "data", "close")),
            data=b"abc", to_client=self.random.choice((False, True)),
        )  # fmt: skip

    async def _next(self, over: tuple[str, int], now_us: int) -> None:
        """Nothing is left of this one: what waited for it begins."""
        for member in [each for each, before in self.waiting.items() if before == over]:
            del self.waiting[member]
            self.waited += 1
            await self._begin(member, now_us)

    async def _begin(self, member: tuple[str, int], now_us: int) -> None:
        self.began[member] = now_us
        started = pb.Started(attempt_id=member[0], rank=member[1], pid=7, boot_us=now_us)
        await self.say(pb.AgentMessage(started=started))

    async def _give_back(self, member: tuple[str, int], now_us: int) -> None:
        """It has not had its turn: what waits for it waits for what it waited for."""
        before = self.waiting.pop(member)
        for other, awaited in self.waiting.items():
            if awaited == member:
                self.waiting[other] = before
        back = pb.Exited(attempt_id=member[0], rank=member[1], cause="preempted")
        await self.say(pb.AgentMessage(exited=back))

    def _telemetry(self) -> Any:
        """Whatever a sample has, at its bounds: it is shown, never billed."""
        batch = pb.AgentMessage().telemetry
        fill(batch, self.random)
        return batch

    async def _obey(self, message: Any) -> None:
        now_us = self.site.clock.boot_us()
        for order in message.assign.assignments:
            member, before = (order.attempt_id, order.rank), (order.after, 0)
            if before in self.began or before in self.waiting:
                self.waiting.setdefault(member, before)
            elif member not in self.began and member not in self.ended:
                await self._begin(member, now_us)
        for forget in message.forget.members:
            self.ended.pop((forget.attempt_id, forget.rank), None)
        match message.WhichOneof("body"):
            case "stop" if (member := (message.stop.attempt_id, message.stop.rank)) in self.waiting:
                await self._give_back(member, now_us)
            case "stop" if member in self.began and not message.stop.only_waiting:
                end = self._end(member, now_us)
                end.cause, end.exit_code = message.stop.cause, -1
                await self.say(pb.AgentMessage(exited=end))
                await self._next(member, now_us)
            case "step":
                self.carried += message.step.kind != "close"
            case "meter_now":
                await self.say(pb.AgentMessage(usage=self._usage(now_us)))
            case "log":
                asked = message.log
                reply = pb.LogReply(
                    request_id=asked.request_id, data=b"abc", offset=asked.offset,
                    next_offset=asked.offset + 3, ended=True,
                )  # fmt: skip
                await self.say(pb.AgentMessage(log=reply))


# --- lies


def leaves(message: Message) -> Iterator[tuple[Message, FieldDescriptor]]:
    """Every scalar that is set, wherever it is in a message."""
    for field, held in message.ListFields():
        if field.message_type is None:
            yield message, field
        elif not field.message_type.GetOptions().map_entry:
            for each in held if field.is_repeated else (held,):
                yield from leaves(each)


def lie(message: Message, random: Random, said: list[Message]) -> None:
    """Change one field: to a bound, to a neighbour's value of that name, or by a little or a lot."""
    choices = list(leaves(message))
    if not choices:
        return
    owner, field = random.choice(choices)
    held = getattr(owner, field.name)
    if field.is_repeated:
        held.append(random.choice(values(field)))
        return
    others = [
        getattr(other, same.name)
        for old in random.sample(said, min(len(said), 10))
        for other, same in leaves(old)
        if same.name == field.name and same.type == field.type and not same.is_repeated
    ]
    kinds = [lambda: random.choice(values(field))]
    if others:
        kinds += [lambda: random.choice(others)] * 3
    if isinstance(held, int) and not isinstance(held, bool):
        kinds += [lambda: held + random.choice((-SECOND_US, -1, 1, SECOND_US, 3_600 * SECOND_US))] * 3
    with contextlib.suppress(ValueError):  # a number that this field cannot hold
        setattr(owner, field.name, random.choice(kinds)())


def fill(message: Message, random: Random, depth: int = 0) -> None:
    for field in message.DESCRIPTOR.fields:
        if random.random() < 0.4:
            continue
        if field.message_type is None and not field.is_repeated:
            setattr(message, field.name, random.choice(values(field)))
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry and depth < 4:
            held = getattr(message, field.name)
            fill(held.add() if field.is_repeated else held, random, depth + 1)


# --- the daemon's side


class Bill:
    """What each attempt may cost at most, by the daemon's own clock."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.seen: dict[str, tuple[str, int, int]] = {}
        """Attempt -> (job, its rate, ordered at)."""
        self.over: dict[str, int] = {}

    def look(self) -> None:
        now_us = self.site.clock.boot_us()
        live: dict[str, AttemptRecord] = self.site.engine.state.attempts
        for id, attempt in live.items():
            job_id = next(job.id for job in self.site.engine.state.jobs.values() if job.attempt is attempt)
            self.seen.setdefault(id, (job_id, attempt.rate, now_us))
        for id in self.seen.keys() - live.keys():
            self.over.setdefault(id, now_us)

    def most_nanos(self) -> int:
        """All that may have been settled: each attempt's rate times what passed, and the tolerance of A1."""
        now_us, most = self.site.clock.boot_us(), 0
        for id, (_, rate, since_us) in self.seen.items():
            passed_us = self.over.get(id, now_us) - since_us
            most += cumulative(rate, passed_us + passed_us // DRIFT) + 100
        return most


async def books(site: Site, token: str) -> tuple[int, int]:
    """(settled, held) of the hard budget."""
    _, (answer,) = await site.ask("Money.Budgets", money_pb2.BudgetsRequest(name="tight"), token=token)
    return answer.budgets[0].settled_nanos, answer.budgets[0].held_nanos


async def one_turn(
    site: Site, random: Random, cycle: Cycle, agents: list[Agent], bill: Bill, root: str, short: bool
) -> None:
    """Users submit and cancel, the daemon places, agents say something, and time passes.

    Args:
        short: many jobs of one class that take milliseconds, so that others wait behind them.
    """
    if short:
        for _ in range(4):
            site.job(
                "ann", "p", options=(ResourceRequest(None, 4_000, 1 << 30),), time_limit_us=60 * SECOND_US
            )
    elif random.random() < 0.5:
        site.job(random.choice(("ann", "bob")), "p", nodes=random.choice((1, 1, 2)))
    if random.random() < 0.15 and site.engine.state.jobs:
        job = random.choice(sorted(site.engine.state.jobs))
        await site.call("Jobs.Cancel", jobs_pb2.CancelRequest(jobs=[job]), token=root)
    if random.random() < 0.1 and site.engine.state.jobs:
        job = random.choice(sorted(site.engine.state.jobs))
        await site.call("Jobs.Logs", jobs_pb2.LogsRequest(job=job), token=root, wait_s=1)
    if random.random() < 0.2:  # a liar gets no work, and without work it has little to lie about
        await site.call("Nodes.Resume", nodes_pb2.NodeModeRequest(node=random.choice(NAMES)), token=root)
    cycle.once()
    await site.engine.durable()
    bill.look()
    for agent in agents:
        await agent.turn()
    for _ in range(3):  # what was said arrives
        await site.call("Events.Server", None, token=root)
    bill.look()
    site.clock.advance(random.choice((0, 1_000, 20_000) if short else (0, 1_000, SECOND_US, 60 * SECOND_US)))


async def problems(site: Site, bill: Bill, root: str) -> list[str]:
    """What is not as it must be, now."""
    findings = [found for found in doctor.check_state(site.engine.state) if not found.ok]
    wrong = [
        f"{found.check}: {found.message}" for found in findings if found.check not in ("nodes", "prices")
    ]
    settled, held = await books(site, root)
    if settled + held > LIMIT_NANOS:
        wrong.append(f"the budget was passed: {settled} settled, {held} held")
    if settled > bill.most_nanos():
        wrong.append(f"settled {settled}, while at most {bill.most_nanos()} passed by the daemon's clock")
    return wrong


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_no_session_of_lying_agents_breaks_a_promise(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    wrong: list[str] = []

    async def story(site: Site) -> None:
        random, root = Random(2_000_000 + seed), site.token("root", "admin")
        sources = [
            money_pb2.PolicySource(name=name, text=text) for name, text in (("b", BUDGET), ("r", RACK))
        ]
        status = await site.call("Policies.Apply", money_pb2.ApplyRequest(sources=sources), token=root)
        assert status[0] == "OK", status
        said: list[Message] = []
        agents = [Agent(site, name, random, said) for name in NAMES]
        cycle, bill, short = Cycle(site.engine, hands=site.fleet), Bill(site), seed % 2 == 1
        for agent in agents:
            await agent.connect()
        for turn in range(TURNS):
            await one_turn(site, random, cycle, agents, bill, root, short)
            if found := await problems(site, bill, root):
                wrong.extend(f"turn {turn}: {each}" for each in found)
                break
        for agent in agents:
            await agent.hang_up()
        assert (await site.call("Events.Server", None, token=root))[0] == "OK"
        await site.engine.durable()
        again = restore(site.store, site.engine.state.limits)
        assert again.version == site.engine.state.version
        assert again.ledger.balances == site.engine.state.ledger.balances
        assert bill.seen, "nothing was ever placed"

    play(story)
    wrong += [f"logged: {record.getMessage()} {record.exc_text or ''}"[:600] for record in caplog.records]
    assert wrong == [], f"seed {seed}"
