"""However tasks of arrays start, run, end and come back: settled + held <= `max_cost` at every commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.clock import SECOND_US
from bursar.errors import BudgetExceeded, WrongState
from bursar.model import ArraySpec, EndCause, NodeFacts, RetrySpec
from bursar.resources import ResourceRequest
from bursard.events import ExitReport
from bursard.fleet.testing import World
from bursard.place import one_pass
from bursard.state import Limits, image
from bursard.state.decide import attempts, jobs, nodes
from bursard.state.tables import still_to_cost

CAUSES = (EndCause.COMPLETED, EndCause.FAILED, EndCause.NODE_LOST, EndCause.TIME_LIMIT)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["place", "start", "wait", "usage", "end", "raise", "lower", "cancel"]),
        st.integers(0, 9),
        st.integers(1, 4_000),
    ),
    min_size=5,
    max_size=40,
)


class Site(World):
    """Two nodes, an array with a cap of its own and one without; every commit is checked."""

    def __init__(self, cap: int, tasks: int, parallel: int) -> None:
        super().__init__()
        for name in ("n-1", "n-2"):
            facts = NodeFacts(name=name, cpu_milli=4_000, memory_bytes=1 << 34, pool="local")
            self.commit(
                nodes.hello(
                    self.state, self.ids, self.engine.prices, facts=facts, boot_id="boot",
                    boot_us=self.clock.boot_us(), now=self.engine.now(),
                )
            )  # fmt: skip
        retry = RetrySpec(("failed",), 2)
        both: dict[str, Any] = {"array": ArraySpec(((0, tasks, 1),), parallel), "retry": retry}
        both["options"] = (ResourceRequest(None, 900, 1 << 20),)
        self.capped = self.submit(**both, max_cost_nanos=cap, max_cost_per="job", currency="USD")
        self.free = self.submit(**both)

    def commit(self, events: Sequence[Any]) -> None:
        if events:
            self.engine.commit(events, "test")
        self.check()

    def check(self) -> None:
        for array_id, money in self.state.array_money.items():
            array = self.state.jobs[array_id]
            live = [one for one in self.state.attempts.values() if one.job_id.startswith(f"{array_id}.")]
            tasks = [task for task in self.state.tasks[array_id].values() if not task.state.terminal]
            assert money.held_nanos == sum(map(still_to_cost, live))
            assert money.settled_nanos == array.settled_nanos + sum(task.settled_nanos for task in tasks)
            if array.spec.caps_array:
                assert money.committed_nanos <= array.spec.max_cost_nanos

    def place(self) -> None:

        def commit(_what: str, events: Sequence[Any]) -> bool:
            self.commit(events)
            return True

        one_pass(self.state, self.ids, self.engine.now(), commit)

    def step(self, what: str, which: int, many: int) -> None:
        state = self.state
        if what == "place":
            return self.place()
        if what == "wait":
            return self.clock.advance(many * SECOND_US // 4)
        array = state.jobs.get(self.capped.id)
        if what in ("raise", "lower") and array is not None and array.spec.max_cost_nanos:
            changed = array.spec.max_cost_nanos * (100 + (which if what == "raise" else -which)) // 100
            try:
                return self.commit(jobs.update(state, array, {"max_cost_nanos": changed}))
            except (BudgetExceeded, WrongState):
                return None
        found = sorted(state.attempts.values(), key=lambda one: one.id)
        if not found:
            return None
        attempt = found[which % len(found)]
        node = state.nodes[attempt.members[0].alloc.node_id]
        boot_us = self.clock.boot_us()
        member = attempt.members[0]
        ran_us = max(node.axis(boot_us) - member.started_at, 0) if member.started_at else 0
        held_us = min(ran_us, attempt.time_limit_us + attempt.grace_us)
        if what == "start" and not member.started_at:
            self.commit(attempts.started(state, node, attempt.id, 0, boot_us, 4_000_000))
        elif what == "usage" and member.started_at:
            said = [(attempt.id, 0, held_us)]
            self.commit(nodes.usage(state, node, boot_id="boot", at_boot_us=boot_us, counters=said))
        elif what == "cancel":
            self.commit(jobs.cancel(state, state.jobs[attempt.job_id], 0))
        elif what == "end":
            report = ExitReport(cause=CAUSES[many % len(CAUSES)], exit_code=0, held_us=held_us)
            self.commit(attempts.exited(state, node, attempt.id, 0, report, boot_us))
        return None


@settings(max_examples=25, deadline=None)
@given(STEPS, st.integers(100, 900), st.integers(1, 12), st.integers(0, 5))
def test_no_commit_takes_an_array_over_its_max_cost(
    steps: list[tuple[str, int, int]], percent: int, tasks: int, parallel: int
) -> None:
    probe = Site(10**15, 1, 0)
    probe.place()
    (one, *_) = probe.state.attempts.values()
    site = Site(still_to_cost(one) * percent // 100, tasks, parallel)
    for what, which, many in steps:
        site.step(what, which, many)
    again = image.decode(image.encode(site.state, site.engine.now()), Limits())
    live = {array_id for array_id in site.state.array_money if not site.state.jobs[array_id].state.terminal}
    assert again.array_money == {array_id: site.state.array_money[array_id] for array_id in live}
