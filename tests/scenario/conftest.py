"""The scenario language: a cluster, jobs and what must happen, one line each.

Why     a scheduling rule is read best as a story. A scenario whose expectations were never checked
        fails, so a story cannot silently prove nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import pytest

from bursar.model import ReasonCode
from bursar.money import parse_money
from bursar_policies.decision import BudgetRoom, Plan, RunningMember
from bursard.scheduler import plan, reason_of
from bursard.scheduler.testing import (
    Node,
    columns,
    job_class,
    occupy,
    queue,
    request,
    snapshot,
)

NOW = 1_767_225_600_000_000
HOUR_US = 3_600_000_000


class Scenario:
    """Build with node/budget/running/job, then expect/expect_waits."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._running: list[tuple[str, int, float, float]] = []
        self._queues = []
        self._budgets: list[BudgetRoom] = []
        self._order = 0
        self._plan: Plan | None = None
        self.checked = False

    def node(self, name: str, gpus: int = 0, price: str = "", **facts: object) -> Self:
        """A node; `price` such as `8 USD`, an hour of it, all on its GPUs (or CPUs without)."""
        if price:
            nanos = parse_money(price).nanos
            facts["rates"] = (nanos, 0, 0) if gpus else (0, nanos, 0)
        self._nodes.append(Node(name=name, gpus=gpus, **facts))
        return self

    def budget(self, name: str, limit: str, settled: str = "0 USD", held: str = "0 USD") -> Self:
        """A hard budget."""
        amounts = [parse_money(text).nanos for text in (limit, settled, held)]
        self._budgets.append(BudgetRoom(name, *amounts, "USD"))
        return self

    def running(self, on: str, gpus: int = 0, cpus: float = 1, ends_h: float = 1) -> Self:
        """Something already running there."""
        self._running.append((on, gpus, cpus, ends_h))
        return self

    def job(
        self,
        name: str,
        gpus: float = 0,
        cpus: float = 1,
        types: str = "",
        priority: int = 50,
        any_of: tuple[object, ...] = (),
        **rest: object,
    ) -> Self:
        """A pending job, in the order of the calls. `max_cost`, `max_price`: such as `3 USD`."""
        for key, field in (("max_cost", "max_cost_nanos"), ("max_price", "max_price_nanos_per_hour")):
            if key in rest:
                rest[field] = parse_money(str(rest.pop(key))).nanos
        options = any_of or (request(gpus, cpus, types=types),)
        self._order += 1
        self._queues.append(queue(job_class(*options, **rest), (self._order, name), priority=priority))
        return self

    @property
    def plan(self) -> Plan:
        """The plan, made once."""
        if self._plan is None:
            nodes = columns(self._nodes)
            names = [node.name for node in self._nodes]
            members: list[RunningMember] = []
            for on, gpus, cpus, ends_h in self._running:
                base = snapshot(
                    nodes, queue(job_class(request(gpus, cpus), constraints=(("node", on),)), (0, on))
                )
                start = plan(base, NOW).starts[0]
                members += occupy(nodes, start, NOW + int(ends_h * HOUR_US))
            self._names = names
            self._snapshot = snapshot(nodes, *self._queues, running=members, budgets=self._budgets)
            self._plan = plan(self._snapshot, NOW)
        return self._plan

    def expect(self, job: str, on: str = "", time_limit_h: float = 0) -> Self:
        """It starts now, on these nodes (comma separated, any order)."""
        start = next((s for s in self.plan.starts if s.job_id == job), None)
        assert start is not None, f"{job} waits: {self.plan.verdicts}"
        if on:
            assert sorted(self._names[m.node] for m in start.members) == sorted(on.split(","))
        if time_limit_h:
            assert start.time_limit_us == int(time_limit_h * HOUR_US)
        self.checked = True
        return self

    def expect_waits(self, job: str, code: ReasonCode, *words: str) -> Self:
        """It waits for this reason, whose sentence or remedy says these words."""
        index = next(i for i, q in enumerate(self._queues) if q.jobs[0][1] == job)
        assert job not in {s.job_id for s in self.plan.starts}, f"{job} started"
        reason = reason_of(self._snapshot, self.plan, index)
        assert reason.code == code, reason
        for word in words:
            assert word in f"{reason.message} | {reason.remedy}", reason
        self.checked = True
        return self


@pytest.fixture
def scenario() -> Iterator[Scenario]:
    """A scenario that must be checked."""
    made = Scenario()
    yield made
    assert made.checked, "the scenario expects nothing: it proves nothing"
