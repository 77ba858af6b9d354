"""What came and went leaves nothing behind: jobs of every kind that ended, nodes that left, users, projects.

Why     a daemon lives for months. What is counted, cached or waited for is taken back in a hundred places,
        each a line that nothing misses at once. The same round of everything is lived again and again, and
        whatever has more in it, or another sum, after twice as many rounds is told with its place. What is
        to stay is named below, with the reason.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from bursar.clock import SECOND_US
from bursar.model import ArraySpec, Dependency, Device, NodeFacts, RetrySpec
from bursar.resources import GpuRequest, ResourceRequest
from bursard.cycle import Cycle
from bursard.fleet.testing import World
from bursard.housekeeping import Housekeeping
from bursard.state.decide import jobs, nodes

DOCUMENTS = """\
kind: Budget
name: lab
spec:
  scope: {project: lab}
  limit: 9000 USD
  period: month
  thresholds: [{at: 90%, do: [lower-priority]}]
---
kind: Budget
name: lease
spec: {scope: {project: ops}, limit: 900 USD, period: day, hold: lease}
---
kind: Quota
name: lab
spec: {scope: {project: lab}, guaranteed: {gpus: 1}, max: {gpus: 6, cpus: 20}}
---
kind: Quota
name: each
spec: {scope: {user: "*"}, max: {gpus: 5}}
---
kind: PriorityPolicy
name: order
spec: {weights: {run_time: 1, fair_share: 2, age: 1}, max_wait: 1h, preempt: {gap: 20, restart: 30s}}
"""
SMALL = (ResourceRequest(None, 1_000, 1 << 30),)
ONE_GPU = (ResourceRequest(GpuRequest(1), 1_000, 1 << 30),)
HALF = (ResourceRequest(GpuRequest(1, milli=500), 1_000, 1 << 30),)
PRODUCT = re.compile(r"burs")
STAYS = {
    r"engine\.entries": "the books",
    r"state\.(ledger|costs)\.": "the books, by day and account",
    r"state\.(next_number|next_order|version|cluster\.facts_version)$": "no number is given twice",
    r"state\.cluster\._(lists|prices)\[\]$": "versions of a row that others use again",
    r"state\.last_of_user ": "`@last` of each user",
    r"state\.quotas\.(specs|used(\[\])? entries)": "what bounds each user bounds this one from now on",
    r"state\.quotas\._known|state\.cluster\.cheapest_rates|ahead\._paces": "asked again, and bounded",
    r"state\.typical\.": "what was asked for lately, of which there is a most",
    r"housekeeping\._looked_at$|fleet\._deadlines\._looked_us$": "an instant",
}
"""Places of what may be more after twice as many rounds, as the beginning of a path, and why."""


def machine(name: str) -> NodeFacts:
    devices = tuple(Device(at, f"{name}-{at}", "H100", 80 << 30, simulated=True) for at in range(2))
    return NodeFacts(
        name=name, cpu_milli=8_000, memory_bytes=64 << 30, pool="local", rack=f"rack-{name}", devices=devices,
        labels=(("of", name),),
    )  # fmt: skip


class Rounds:
    """One daemon; a round brings nodes and jobs of every kind and sees the last of them."""

    def __init__(self) -> None:
        self.world = World()
        self.world.apply(DOCUMENTS)
        engine = self.world.engine
        self.cycle = Cycle(engine)
        self.housekeeping = Housekeeping(self.world.state, lambda: engine.prices, self.world._commit)
        self.number = 0

    def turn(self, seconds: int = 10) -> None:
        world = self.world
        world.clock.advance(seconds * SECOND_US)
        world.backend.report()
        self.housekeeping.turn(world.engine.now())
        world.cycle()
        world.backend.report()
        world.writer.flush()

    def say(self, events: Any) -> None:
        self.world.engine.commit(events, "ann")
        self.world.writer.flush()

    def once(self) -> None:
        world, number = self.world, self.number
        self.number += 1
        state, user = world.state, f"user-{number}"
        names = [f"n{number}-{at}" for at in range(2)]
        for name in names:
            world.backend.connect(machine(name))
        made = [
            world.submit(user, project=f"lab/p{number}", name=f"single-{number}", options=ONE_GPU),
            world.submit(user, project="ops", name=f"leased-{number}"),
            world.submit(user, project="lab", nodes=2, options=ONE_GPU),
            world.submit(user, project=f"free/{number}", options=HALF, labels=(("k", f"v{number}"),)),
            world.submit(user, project="lab", array=ArraySpec(((0, 3, 1),), 2)),
            world.submit(user, project="lab", retry=RetrySpec(on=("failed",), max=1)),
            world.submit(user, project="lab", preemptible=False, experiment=f"e{number}", model=f"m{number}"),
            world.submit(user, project="lab", held=True),
            world.submit(user, project="lab", begin_after=world.engine.now() + 30 * SECOND_US),
            world.submit(user, project="lab", constraints=(("rack", "none"),)),
            world.submit(user, project="lab", nodes=5, options=ONE_GPU),
        ]
        for kind in ("succeeded", "failed", "finished", "started"):
            made.append(world.submit(user, project="lab", depends_on=(Dependency(made[0].id, kind),)))
        made.append(world.submit(user, project="lab", depends_on=(Dependency(made[5].id, "succeeded"),)))
        made.append(
            world.submit(user, project="lab", array=ArraySpec(((0, 4, 1),), 0),
                         depends_on=(Dependency(made[4].id, "task-succeeded"),))
        )  # fmt: skip
        self.turn()
        self.say(jobs.release(state, made[7]))
        self.say(jobs.update(state, made[9], {"priority": 60}, world.engine.now()))
        self.say(nodes.scheduling(world.node(names[1]), "cordoned", "look"))
        self.turn()
        self.say(nodes.scheduling(world.node(names[1]), "open", ""))
        self.say(jobs.cancel(state, made[6], None, "no"))
        for _ in range(40):
            self.finish()
            self.turn(20)
        for job in made:
            if job.id in state.jobs and not job.state.terminal:
                self.say(jobs.cancel(state, job, 0, "the end"))
        for _ in range(5):
            self.turn()
        for name in names:
            world.backend.disconnect(name)
            node = world.node(name)
            self.turn()
            self.say(nodes.remove(state, world.engine.prices, node, node.through))
            machine_left = world.backend._machines.pop(name)
            world.backend._by_id.pop(machine_left.node_id)
        self.turn(2 * 3_600)
        world.fleet.look()
        self.turn()

    def finish(self) -> None:
        """Whatever runs ends; what may be tried again fails."""
        for name in sorted(self.world.backend._machines):
            for attempt_id, rank in self.world.backend.running(name):
                job = self.world.state.jobs[self.world.state.attempts[attempt_id].job_id]
                self.world.backend.finish(attempt_id, rank, 3 if job.spec.retry else 0)


def held(thing: Any, path: str, seen: set[int], found: Counter[str]) -> None:
    """How much there is at each place: entries of what holds several, and the sum of numbers."""
    waiting = [(thing, path)]
    while waiting:
        thing, path = waiting.pop()
        if isinstance(thing, bool) or thing is None or isinstance(thing, str | bytes):
            continue
        if isinstance(thing, int):
            found[path] += thing
            continue
        if id(thing) in seen or isinstance(thing, type):
            continue
        seen.add(id(thing))
        if isinstance(thing, dict):
            found[path + " entries"] += len(thing)
            waiting += [(value, path + "[]") for value in thing.values()]
            waiting += [(key, path + "{}") for key in thing if isinstance(key, tuple)]
        elif isinstance(thing, list | tuple | set | frozenset | deque):
            found[path + " entries"] += len(thing)
            waiting += [(value, path + "[]") for value in thing]
        elif isinstance(thing, np.ndarray):
            found[path + " entries"] += thing.size
        elif PRODUCT.match(type(thing).__module__):
            waiting += [(value, f"{path}.{name}") for name, value in fields(thing)]


def fields(thing: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, msgspec.Struct):
        yield from ((name, getattr(thing, name)) for name in thing.__struct_fields__)
    yield from vars(thing).items() if hasattr(thing, "__dict__") else ()
    for kind in type(thing).__mro__:
        for name in getattr(kind, "__slots__", ()):
            if hasattr(thing, name) and name != "__dict__":
                yield name, getattr(thing, name)


def all_of(rounds: Rounds) -> Counter[str]:
    found, seen, world = Counter[str](), set[int](), rounds.world
    for left_out in (world.writer, world.log, world.backend, world.clock, world.ids):
        seen.add(id(left_out))
    for name, thing in (("state", world.state), ("engine", world.engine), ("fleet", world.fleet),
                        ("ahead", world.ahead), ("housekeeping", rounds.housekeeping)):  # fmt: skip
        held(thing, name, seen, found)
    return found


def test_whatever_came_and_went_left_nothing() -> None:
    rounds = Rounds()
    for _ in range(2):
        rounds.once()
    before = all_of(rounds)
    for _ in range(2):
        rounds.once()
    after = all_of(rounds)
    more = {path: after[path] - before[path] for path in {*before, *after} if after[path] != before[path]}
    left = {path: much for path, much in more.items() if not any(re.match(each, path) for each in STAYS)}
    assert left == {}
    assert len(after) > 300
