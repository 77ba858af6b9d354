"""Random histories of places that go from one job to the next: whatever happens, nothing is held twice, run
twice, billed for longer than passed or lost, and the log gives the same state again.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.errors import BursarError
from bursar.model import ArraySpec, EndCause, JobState, NodeFacts
from bursar.resources import ResourceRequest
from bursard import ahead
from bursard.doctor import check_state
from bursard.events import AttemptPlaced, MemberEnded, MemberStarted
from bursard.fleet.testing import World
from bursard.state import Applied, JobRecord, Limits, State
from bursard.state import image as state_image
from bursard.state.decide import jobs, nodes

NODES = {name: NodeFacts(name=name, cpu_milli=2_000, memory_bytes=1 << 30) for name in ("n-1", "n-2")}
BUDGET = """\
kind: Budget
name: tight
spec: {scope: {project: p}, limit: 36 USD, period: month, enforcement: hard}
"""
STEPS = [
    *("submit", "urgent", "array", "cycle", "end", "fail", "report", "advance", "late"),
    *("cancel", "requeue", "drop", "restart", "reboot", "drain", "open", "flush"),
]


class History:
    """Two nodes of two places each, a hard budget, and jobs of a class that is known to be short."""

    def __init__(self) -> None:
        self.world = World(ahead=3)
        self.boots: Counter[str] = Counter()
        self.jobs: list[JobRecord] = []
        self.world.apply(BUDGET)
        for facts in NODES.values():
            self.world.backend.connect(facts, "boot-0")
        for _ in range(ahead.SHORT_ENDS_MIN):
            self.submit()
            self.world.cycle()
            self.end(0)
            self.report()
        self.jobs.clear()
        self.began_us = self.world.clock.boot_us()

    # --- steps

    def submit(self, **spec: Any) -> None:
        try:
            wanted = {"options": (ResourceRequest(None, 1_000, 1 << 20),), **spec}
            job = self.world.submit(**wanted)
        except BursarError:
            return
        self.jobs.append(job)

    def urgent(self) -> None:
        self.submit(priority=90, options=(ResourceRequest(None, 2_000, 1 << 20),))

    def array(self) -> None:
        self.submit(array=ArraySpec(tuple(range(4)), max_parallel=2))

    def running(self) -> list[tuple[str, str]]:
        return [(name, key[0]) for name in NODES for key in self.world.backend.running(name)]

    def end(self, number: int, code: int = 0) -> None:
        running = self.running()
        if running:
            self.world.clock.advance(3_000)
            self.world.backend.finish(running[number % len(running)][1], 0, code)

    def report(self) -> None:
        self.world.backend.report()
        self.world.writer.flush()

    def drop(self, name: str, boot: bool = False) -> None:
        if self.world.node(name).connected:
            self.world.backend.disconnect(name)
        self.boots[name] += boot
        self.world.backend.connect(NODES[name], f"boot-{self.boots[name]}")

    def restart(self) -> None:
        self.world.restart()
        for name, facts in NODES.items():
            self.world.backend.connect(facts, f"boot-{self.boots[name]}")

    def verb(self, number: int, cancel: bool) -> None:
        live = [job for job in self.jobs if not job.state.terminal and job.id in self.world.state.jobs]
        if not live:
            return
        job = live[number % len(live)]
        state = self.world.state
        try:
            events = jobs.cancel(state, job, None) if cancel else jobs.requeue(state, job)
        except BursarError:
            return
        self.world.engine.commit(events, "ann")

    def mode(self, name: str, mode: str) -> None:
        events = nodes.scheduling(self.world.node(name), mode, "")
        self.world.engine.commit(events, "ann")

    def do(self, step: str, number: int) -> None:
        name = ("n-1", "n-2")[number % 2]
        match step:
            case "submit" | "urgent" | "array" | "report" | "restart":
                getattr(self, step)()
            case "cycle":
                self.world.cycle()
            case "flush":
                self.world.writer.flush()
            case "end" | "fail":
                self.end(number, int(step == "fail"))
            case "advance" | "late":
                self.world.clock.advance(1_000 if step == "advance" else 1_100_000)
            case "cancel" | "requeue":
                self.verb(number, step == "cancel")
            case "drop" | "reboot":
                self.drop(name, step == "reboot")
            case "drain" | "open":
                self.mode(name, step)

    # --- what must hold

    def holds(self) -> None:
        state = self.world.state
        bad = [f.message for f in check_state(state) if not f.ok and f.check not in ("nodes", "prices")]
        assert not bad, bad
        for name, facts in NODES.items():
            assert len(self.world.backend.running(name)) * 1_000 <= facts.cpu_milli * 1, name
        for array in (job for job in state.jobs.values() if job.array is not None):
            assert sum(task.attempt is not None for task in state.tasks[array.id].values()) <= 2

    def settle(self) -> None:
        """Everything comes to its end once nodes are open and jobs end."""
        for name in NODES:
            self.mode(name, "open")
            if not self.world.node(name).connected:
                self.drop(name)
        for _ in range(400):
            self.world.clock.advance(100_000)
            self.world.cycle()
            for _, attempt_id in self.running():
                self.world.backend.finish(attempt_id, 0)
            self.report()
            self.holds()
            if not self.world.state.pending and not self.world.state.attempts:
                return
            self.world.clock.advance(60_000_000)
            self.world.state.wake(self.world.engine.now())
        raise AssertionError([job.state for job in self.jobs])

    def events_tell_the_same(self) -> None:
        """R1 after every event; each attempt has one start; nothing is billed twice; replay is equal."""
        world = self.world
        world.writer.flush()
        again, applied = State(Limits()), Applied()
        starts: Counter[str] = Counter()
        held: Counter[str] = Counter()
        node_of: dict[str, str] = {}
        for event in world.events:
            again.apply(event, 0, applied)
            assert (again.cluster.cpu_free[: len(again.nodes)] >= 0).all()
            if isinstance(event, AttemptPlaced):
                node_of[event.attempt_id] = event.members[0].node_id
            if isinstance(event, MemberStarted):
                starts[event.attempt_id] += 1
            if isinstance(event, MemberEnded):
                held[node_of[event.attempt_id]] += event.report.held_us
        assert all(many == 1 for many in starts.values())
        passed_us = world.clock.boot_us()
        for node_id, held_us in held.items():
            assert held_us <= 2 * passed_us * 1.001, node_id
        assert again.behind == world.state.behind
        assert {a.id: a.after for a in again.attempts.values()} == {
            a.id: a.after for a in world.state.attempts.values()
        }
        decoded = state_image.decode(state_image.encode(world.state, world.engine.now()))
        assert decoded.behind == world.state.behind
        assert decoded.cluster.cpu_free[:2].tolist() == world.state.cluster.cpu_free[:2].tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 7)), min_size=5, max_size=60))
def test_places_are_handed_over_and_taken_back_whatever_happens(steps: list[tuple[str, int]]) -> None:
    history = History()
    for step, number in steps:
        history.do(step, number)
        history.holds()
    history.events_tell_the_same()
    history.settle()
    history.events_tell_the_same()
    for node in history.world.state.nodes.values():
        assert node.mode != "quarantine", node.reason
    for job in history.jobs:
        assert job.state in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED), job.state
        assert len(job.attempts) <= 1 + job.retries or any(
            one.cause in (EndCause.NODE_LOST, EndCause.PREEMPTED) for one in job.attempts
        )


def test_such_histories_do_place_jobs_ahead() -> None:
    history = History()
    for _ in range(12):
        history.submit()
    history.do("cycle", 0)
    waiting = len(history.world.state.behind)
    history.holds()
    assert waiting == 5, "nine holds of five are all that the budget has room for"
