"""A site that has lived for weeks: a simulated workload, made true by the daemon's own engine and served.

Why     pages that show weeks of money can only be looked at where weeks have passed. Everything is decided by
        the daemon's own code under a virtual clock, so the same seed is the same site to the nano.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any
from unittest import mock

import msgspec
import whole_site
from whole_site import Site

from bursar.clock import DAY_US, HOUR_US, SECOND_US
from bursar.model import JobSpec
from bursar.resources import GpuRequest, ResourceRequest
from bursar_policies.document import parse_documents
from bursard.events import Event
from bursard.sim.rows import JobRow, NodeRow
from bursard.sim.simulation import START_AT, Simulation
from bursard.state import State

TEAMS = (
    ("nlp/chat", "ann", "chat-7b"), ("nlp/chat", "bob", "chat-7b"), ("nlp/search", "cid", "rerank"),
    ("vision", "dora", "detector"), ("vision", "eve", "segment"), ("speech", "fay", "asr-2"),
    ("ops", "gus", "nightly"),
)  # fmt: skip
POLICIES = """\
kind: CostModel
name: a100
spec: {pool: a100, node_capex: 140000 USD, useful_life: 4y}
---
kind: CostModel
name: h100
spec: {pool: h100, node_capex: 290000 USD, useful_life: 4y}
---
kind: Budget
name: nlp
spec:
  {scope: {project: nlp}, limit: 8000 USD, period: month, enforcement: soft,
   thresholds: [{at: 80%, do: [notify]}]}
---
kind: Budget
name: vision
spec: {scope: {project: vision}, limit: 6000 USD, period: month, thresholds: [{at: 90%, do: [notify]}]}
---
kind: Budget
name: speech
spec: {scope: {project: speech}, limit: 2500 USD, period: month, enforcement: soft}
"""


class _Lived(Simulation):
    """The simulation, whose events the engine of a site makes true."""

    site: Site

    @property
    def state(self) -> State:  # type: ignore[override]
        return self.site.engine.state

    @state.setter
    def state(self, _: State) -> None:
        """It has one."""

    def _commit(self, events: Sequence[Event]) -> None:
        if not events or type(events[0]).__name__ == "ClusterCreated":
            return
        clock = self.site.clock
        clock.advance(max(self._now - clock.now(), 0))
        self.site.engine.commit(events, "bursard")
        for job_id in [one for one in self._by_id if self.state.jobs[one].state.terminal]:
            self._ended(self.state.jobs[job_id])

    def _spec(self, row: JobRow) -> JobSpec:
        return msgspec.structs.replace(super()._spec(row), name=row.job_id)

    def _finish(self) -> None:
        self._meter_all()


def workload(days: int, jobs: int, seed: int = 7) -> list[JobRow]:
    """Jobs of several teams, more of them by day than at night and on workdays than at weekends."""
    dice, rows = random.Random(seed), list[JobRow]()
    while len(rows) < jobs:
        at = dice.random() * days
        awake = 1.0 if int(at) % 7 not in (2, 3) else 0.35
        if dice.random() > awake * (1.0 if 0.3 < at % 1 < 0.8 else 0.3):
            continue
        project, user, experiment = dice.choice(TEAMS)
        gpus = dice.choice((1, 1, 2, 4, 8))
        nodes = 2 if gpus == 8 and dice.random() < 0.3 else 1
        request = ResourceRequest(GpuRequest(gpus), 4_000 * gpus, gpus << 33)
        hours = min(dice.lognormvariate(0.9, 0.9), 30.0)
        rows.append(
            JobRow(
                job_id=f"{experiment}-{len(rows)}", submit_us=int(at * DAY_US), nodes=nodes,
                duration_us=int(hours * HOUR_US), request=request, priority=50, project=project, user=user,
                experiment=experiment, deadline_us=None, deadline_policy="best-effort", preemptible=True,
                max_cost_nanos=0, checkpoint_us=0, throughput={},
                time_limit_us=int((hours if dice.random() < 0.06 else hours * 1.5) * 3_600) * SECOND_US,
            )
        )  # fmt: skip
    return sorted(rows, key=lambda row: row.submit_us)


def machines(count: int) -> list[NodeRow]:
    """Half of them with A100, half with H100; one comes in the second week."""
    return [
        NodeRow(
            node_id=f"{pool}-{number:02}", cpu_milli=96_000, memory_bytes=1 << 40, gpus=8,
            gpu_type=pool.upper(), gpu_memory_bytes=80 << 30, pool=pool, rack=f"r{number // 4}",
            rate_nanos=None, from_us=9 * DAY_US if (pool, number) == ("h100", 1) else 0, until_us=None,
        )
        for pool in ("a100", "h100")
        for number in range(1, count // 2 + 1)
    ]  # fmt: skip


def live(
    folder: str, days: float, jobs: int, nodes: int = 8, policies: str = POLICIES, **options: Any
) -> Site:
    """A site where so many days have passed, and so many jobs have come, one day's worth of them excepted."""
    with mock.patch.object(whole_site, "START", START_AT), mock.patch.object(Site, "node"):
        site = Site(folder, **options)
    made = type("_Here", (_Lived,), {"site": site})(
        workload(int(days) + 1, jobs), machines(nodes), parse_documents(policies, "site"),
        until_us=int(days * DAY_US),
    )  # fmt: skip
    made.run()
    return site
