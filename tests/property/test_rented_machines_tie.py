"""Random lives of a rented machine: whatever happens, its node cost what its provider bills, to the nano."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from rented_site import CLOUD, POOL, Site

from bursar.clock import HOUR_US, SECOND_US
from bursar.model import ShareRates
from bursar.money import charge
from bursar.resources import ResourceRequest
from bursard.events import MachineGone, MachineUp, NodePriced
from bursard.ledger import PAID, hour_segments, node_account
from bursard.machines.provider import Billing, Capabilities

FREE_US = 60 * SECOND_US
LIMIT_S = 600


class Life(Site):
    """One machine on which jobs run for so many seconds each, one after the other or beside each other."""

    def __init__(self, folder: Path, vanish_s: int, free: bool) -> None:
        fault = f"faults: [{{call: vanish, after: {vanish_s}s}}]\n" if vanish_s else ""
        text = CLOUD.replace("boot: 20s", "boot: 3s").replace("ending: 10s", "ending: 3s") + fault
        super().__init__(folder, POOL.replace("keep_alive: 1m", "keep_alive: 20s"), text)
        billing = Billing(least_us=60 * SECOND_US, interrupted_free_us=FREE_US if free else 0)
        self.provider.capabilities = Capabilities(billing=billing, notice_us=0)

    def live(self, jobs: list[tuple[int, int, int]]) -> None:
        """`jobs`: (submitted at, CPUs, seconds) of each; until no machine is left."""
        todo, ends = sorted(jobs), dict[str, int]()
        self.world.clock.advance(HOUR_US - 30 * SECOND_US)  # so that many a life crosses an hour
        for now in range(LIMIT_S):
            while todo and todo[0][0] <= now:
                _, cpus, seconds = todo.pop(0)
                ask = (ResourceRequest(None, cpus * 1_000, 1 << 20),)
                ends[self.world.submit(options=ask).id] = seconds * SECOND_US
            self.second()
            for attempt in list(self.world.state.live_attempts()):
                started = attempt.members[0].started_at
                if started and self.world.engine.now() - started >= ends[attempt.job_id]:
                    self.world.backend.finish(attempt.id, 0)
            if self.gone() and not self.machines:
                return
        raise AssertionError("it never ended")


def cost(rates: ShareRates, start: int, end: int) -> int:
    """By component, counted from full hours."""
    return sum(
        charge(rate, a % HOUR_US, a % HOUR_US + b - a)
        for rate in (rates.gpu, rates.cpu, rates.memory)
        for a, b in hour_segments(start, end)
    )


JOBS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 4), st.integers(1, 40)), min_size=1, max_size=3)


@settings(max_examples=15)
@given(jobs=JOBS, vanish_s=st.sampled_from([0, 0, 5, 30, 61, 90]), free=st.booleans())
def test_a_node_cost_what_its_machine_is_billed_whatever_happens(
    jobs: list[tuple[int, int, int]], vanish_s: int, free: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        site = Life(Path(folder), vanish_s, free)
        site.live(jobs)
    events = site.world.events
    (priced,) = {one.rates for one in events if isinstance(one, NodePriced)}
    rows = site.rows()
    up = {one.machine_id: one.billed_from for one in events if isinstance(one, MachineUp)}
    owed = 0
    for gone in [one for one in events if isinstance(one, MachineGone)]:
        if not gone.refund:
            owed += cost(priced, up[gone.machine_id], gone.billed_until)
    assert sum(row.nanos for row in rows) == owed
    balances = site.world.state.ledger.balances
    nodes = {row.node_id for row in rows}
    assert -sum(balances.get(node_account(one), 0) for one in nodes) == owed
    assert sum(balances.values()) + site.world.state.ledger.closed_nanos == 0
    by_job = {row.job_id for row in rows if row.kind in PAID}
    for job in site.world.state.jobs.values():
        mine = [row.nanos for row in rows if row.job_id == job.id]
        assert job.settled_nanos == sum(mine)
    assert "" not in by_job
    assert all(row.job_id == "" for row in rows if row.kind not in PAID)
