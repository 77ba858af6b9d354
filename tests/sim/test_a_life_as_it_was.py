"""What a site of a bit of everything did: its events, what its agents heard and did, and its plans.

Why     a scheduler, a ledger and an agent that keep every promise may still decide otherwise than before. A
        life under faults, quotas, ranks and budgets that act goes through most of their lines; any of them
        that means something else is seen as a difference in tests/golden/lives.txt. Written anew by
        `BURSAR_GOLDEN=write pytest tests/sim/test_a_life_as_it_was.py`, and read before it is kept.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from tests.sim.test_whole_system import GIB, MINUTE_US, Host, World

from bursar.clock import DAY_US, SECOND_US
from bursar.errors import BursarError
from bursar.model import ArraySpec, CheckpointSpec, Dependency, Device, JobSpec, RetrySpec
from bursar.resources import GpuRequest, ResourceRequest
from bursar_agent import stimuli as s
from bursard.events import Event, encode
from bursard.housekeeping import Housekeeping
from bursard.place import one_pass
from bursard.scheduler import explain, reason_of
from bursard.state import JobRecord, NodeRecord
from bursard.state.decide import approving, giving, jobs, nodes

GOLDEN = Path(__file__).parents[1] / "golden/lives.txt"
POLICIES = """\
kind: Budget
name: research
spec:
  scope: {project: research}
  limit: 9 USD
  period: day
  thresholds: [{at: 30%, on: settled, do: [lower-priority]}, {at: 70%, do: [hold-queue]}]
---
kind: Budget
name: vision
spec:
  scope: {project: research/vision}
  limit: 4 USD
  period: month
  timezone: Europe/Berlin
  thresholds: [{at: 50%, do: [approval]}, {at: 90%, on: settled, do: [checkpoint-stop]}]
---
kind: Budget
name: ops
spec: {scope: {project: ops}, limit: 30 USD, period: day, hold: lease}
---
kind: Budget
name: soft
spec:
  scope: {user: bob}
  limit: 1 USD
  period: day
  enforcement: soft
  thresholds: [{at: 50%, do: [lower-priority]}]
---
kind: PriorityPolicy
name: order
spec: {weights: {run_time: 1, fair_share: 2, age: 1}, max_wait: 1h, preempt: {gap: 20, restart: 30s}}
---
kind: Quota
name: lab
spec: {scope: {project: research}, guaranteed: {gpus: 2}, max: {gpus: 6, cpus: 20}}
---
kind: Quota
name: each
spec: {scope: {user: "*"}, max: {gpus: 5}}
---
kind: Quota
name: ops
spec: {scope: {project: ops}, max: {spend_rate: 20 USD/h}}
"""
BY_HAND = "for a while"
"""Why a node is closed by people, and not for what it said."""
SHOWN = 170
"""Characters of one line; of what is longer, its end is a digest."""


def line(text: str) -> str:
    if len(text) <= SHOWN:
        return text
    return f"{text[: SHOWN - 12]}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def words(thing: object) -> str:
    """What a thing is and what is in it."""
    try:
        return f"{type(thing).__name__} {msgspec.json.encode(thing).decode()}"
    except TypeError:  # keys of several parts
        return repr(thing)


class LivedHost(Host):
    """A machine that says what its agent was told and what it made of it."""

    world: Life

    def emit(self, event: s.Event) -> None:
        if not isinstance(event, s.Tick | s.MeterRead | s.Spooled):
            self.world.say(f"  {self.name} hears {words(event)}")
        super().emit(event)

    def carry_out(self, instruction: s.Instruction) -> None:
        if not isinstance(instruction, s.SendHeartbeat | s.ReadMeters | s.SpoolAppend):
            self.world.say(f"  {self.name} does {words(instruction)}")
        super().carry_out(instruction)


class Life(World):
    """The whole system with more of everything in it, written down."""

    documents = POLICIES
    meddling = 0.3
    jumps_us = (-40 * DAY_US, 40 * DAY_US, -90 * SECOND_US, 3 * MINUTE_US)  # of ten years each hour is a line

    def __init__(self, seed: int) -> None:
        self.told: list[str] = []
        self.waited: dict[str, str] = {}
        super().__init__(seed)

    def say(self, text: str) -> None:
        self.told.append(line(text))

    def new_hosts(self) -> list[Host]:
        found: list[Host] = [LivedHost(self, name, gpus) for name, gpus in (("a", 4), ("b", 4), ("c", 0))]
        for host, kind, market, rack in zip(
            found, ("H100", "A100", ""), ("on-demand", "spot", "on-demand"), "rrs", strict=True
        ):
            devices = tuple(
                Device(each.index, each.uuid, kind, 40 * GIB, simulated=True) for each in host.facts.devices
            )
            host.facts = msgspec.structs.replace(host.facts, devices=devices, market=market, rack=rack)
        return found

    def durable(self, seq: int, event: Event, at: int, actor: str) -> None:
        super().durable(seq, event, at, actor)
        self.say(f"{seq} {at - self.right_at:+d} {actor} {encode(event).decode()}")

    def check_budgets(self) -> None:
        """B1, of the hard ones, with what they were given."""
        ledger = self.state.ledger
        for record in self.state.budgets.records.values():
            left = record.spec.limit.nanos + ledger.available(record.name, record.period_start)
            assert not record.hard or left >= 0, f"B1: {record.name}: {left}"

    def trust(self, node: NodeRecord) -> None:
        if node.reason != BY_HAND:
            super().trust(node)

    def cycle(self) -> None:
        now = self.engine.now()

        def commit(_what: str, events: Sequence[Event]) -> bool:
            return bool(self.engine.commit(events, "bursard"))

        Housekeeping(self.state, lambda: self.engine.prices, commit).turn(now)
        seen, answer, outcome = one_pass(self.state, self.ids, now, commit)
        for one in outcome.dropped:
            self.say(f"  dropped {words(one.action)}: {words(one.reason)}")
        for index in sorted(answer.verdicts):
            _, job_id = seen.queues[index].jobs[0]
            why = words(reason_of(seen, answer, index))
            if self.waited.get(job_id) != why:
                self.waited[job_id] = why
                self.say(f"  {job_id} waits: {why}")
            if self.random.random() < 0.008:
                self.say(f"  {job_id} explained: {words(explain(seen, index, now, job_id))}")

    def submit(self) -> None:
        draw = self.random
        kinds = draw.choice([(), (), ("H100",), ("A100",), ("A100", "H100")])
        gpus = draw.choice([0, 0, 300, 500, 1000, 1000, 2000, 4000])
        first = GpuRequest(max(gpus // 1000, 1), kinds, min(gpus, 1000)) if gpus else None
        options = [ResourceRequest(first, draw.choice([500, 2_000, 6_000]), draw.choice([1, 30]) * GIB)]
        if draw.random() < 0.2:
            options.append(ResourceRequest(GpuRequest(1, ("H100",)), 1_000, GIB))
        alive = [job.id for job in self.state.jobs.values() if not job.state.terminal and not job.parent_id]
        after = draw.choice(["succeeded", "failed", "finished", "started"])
        priced, capped = draw.random() < 0.15, draw.random() < 0.2
        spec = JobSpec(
            name=draw.choice(["train", "eval", ""]),
            project=draw.choice(["research", "research/vision", "ops", "ops/night", "free"]),
            priority=draw.choice([10, 50, 50, 90]),
            preemptible=draw.random() < 0.8,
            nodes=draw.choice([1, 1, 1, 1, 1, 2]),
            options=tuple(options),
            ordered=draw.random() < 0.5,
            constraints=draw.choice([()] * 9 + [(("rack", "r"),), (("node", "!a"),), (("pool", "q"),)]),
            spot_policy=draw.choice(["auto", "auto", "auto", "spot", "on-demand"]),
            time_limit_us=draw.choice([0, 90 * SECOND_US, 8 * MINUTE_US, 40 * MINUTE_US]),
            begin_after=self.engine.now() + MINUTE_US if draw.random() < 0.1 else 0,
            depends_on=(Dependency(draw.choice(alive), after),) if alive and draw.random() < 0.15 else (),
            max_cost_nanos=300_000_003 if capped else 0,
            max_price_nanos_per_hour=4_000_000_000 if priced else 0,
            currency="USD" if capped or priced else "",
            on_exceed=draw.choice(["stop", "checkpoint-stop"]),
            retry=RetrySpec(on=("failed",), max=1) if draw.random() < 0.3 else RetrySpec(),
            array=draw.choice([None, None, None, ArraySpec((0, 1, 2, 3), 2)]),
            checkpoint=draw.choice([CheckpointSpec(), CheckpointSpec("USR1", 20 * SECOND_US)]),
            held=draw.random() < 0.05,
            command=("true",),
        )
        self.try_to(
            "submit", lambda: jobs.submit(self.state, self.ids, user=draw.choice(["ann", "bob"]), spec=spec)
        )

    def try_to(self, what: str, events: Callable[[], Sequence[Event]]) -> None:
        """What somebody asks, or the words in which it is refused."""
        try:
            made = events()
            seq = self.engine.commit(made, "ann") if made else 0
        except BursarError as refused:
            self.say(f"  {what} refused: {refused.reason} {refused.message}")
            return
        if what == "submit":
            self.submitted.append((seq, made[0].job_id))  # type: ignore[attr-defined]

    def meddle(self) -> None:
        draw, state, now = self.random, self.state, self.engine.now()
        job = self.pick()
        node = draw.choice(list(state.nodes.values())) if state.nodes else None
        mode = draw.choice(["open", "cordoned", "draining"])
        limit_us, priority = draw.choice([MINUTE_US, 30 * MINUTE_US]), draw.choice([1, 60, 100])
        nanos = draw.choice([-(10**9), 10**9, 3 * 10**9])
        asked: dict[str, Callable[[], Sequence[Event]]] = {
            "grant": lambda: giving.grant(state, "research", nanos, "eve", "more", ""),
            "transfer": lambda: giving.transfer(state, "ops", "vision", abs(nanos), "eve", "moved", ""),
            "approve": lambda: approving.approve(state, "vision", "eve", "agreed", now, nanos=abs(nanos)),
        }
        if node is not None:
            asked["node"] = lambda: nodes.scheduling(node, mode, BY_HAND if mode != "open" else "")
        if job is not None:
            asked |= {
                "hold": lambda: jobs.hold(state, job),
                "release": lambda: jobs.release(state, job),
                "requeue": lambda: jobs.requeue(state, job),
                "cancel": lambda: jobs.cancel(state, job, None, "not needed"),
                "limit": lambda: jobs.update(state, job, {"time_limit_us": limit_us}, now),
                "priority": lambda: jobs.update(state, job, {"priority": priority}, now),
                "cap": lambda: jobs.update(state, job, {"max_cost_nanos": 10**9, "currency": "USD"}, now),
            }
        what = draw.choice(sorted(asked))
        self.try_to(what, asked[what])

    def spent(self) -> list[JobRecord]:
        """Once nothing runs, whatever waits still can only be given up."""
        found = super().spent()
        if not self.state.attempts:
            found += [job for job in self.state.jobs.values() if not job.state.terminal and not job.parent_id]
        return found

    def settle(self) -> None:
        """Its books, once no more faults come."""
        for node in list(self.state.nodes.values()):
            if node.mode != "open":
                self.engine.commit(nodes.scheduling(node, "open", ""), "ann")
        super().settle()
        for record in self.state.budgets.records.values():
            given = self.state.ledger.available(record.name, record.period_start)
            self.say(f"budget {record.name}: {given} of {record.spec.limit.nanos}")
        for (attempt_id, rank), us in sorted(self.writer.billed.items()):
            self.say(f"billed {attempt_id}/{rank} {us}")
        for node_id, nanos in sorted(self.writer.paid.items()):
            self.say(f"paid {node_id} {nanos}")


def check(name: str, found: str) -> None:
    parts = re.split(r"^=== (.*)\n", GOLDEN.read_text() if GOLDEN.exists() else "", flags=re.MULTILINE)
    kept = dict(zip(parts[1::2], parts[2::2], strict=True))
    if os.environ.get("BURSAR_GOLDEN") == "write":
        kept[name] = found
        GOLDEN.write_text("".join(f"=== {each}\n{kept[each]}" for each in sorted(kept)))
    assert found.splitlines() == kept.get(name, "").splitlines(), "see the head of this file"


@pytest.mark.parametrize("seed", [14, 15])
def test_a_life_is_lived_as_before(seed: int) -> None:
    life = Life(seed)
    try:
        life.play()
        life.settle()
    except BaseException as problem:
        problem.add_note("\n".join(life.told[-40:]))
        raise
    check(f"life {seed}", "\n".join(life.told) + "\n")
