"""Random lives of a rented machine: whatever happens, its node cost what its provider bills, to the nano."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from rented_books import a_second_book_says_the_same, cost, what_the_facts_say
from rented_site import CLOUD, POOL, Site

from bursar.clock import HOUR_US, SECOND_US, Instant, format_instant
from bursar.resources import ResourceRequest
from bursar_policies.compile import PriceTable
from bursard.events import (
    MachineGone,
    MachineIntended,
    MachineUp,
    NodePriced,
)
from bursard.ledger import PAID, node_account
from bursard.machines.provider import Billing, Capabilities
from bursard.state.decide.nodes import reprice

BUDGET = "kind: Budget\nname: b\nspec: {scope: {user: ann}, limit: 90 USD, period: day}\n"
FREE_US = 60 * SECOND_US
LIMIT_S = 600


class Life(Site):
    """One machine on which jobs run for so many seconds each, one after the other or beside each other, and a
    budget that pays for them.
    """

    def __init__(self, folder: Path, vanish_s: int, free: bool, opens_at: int) -> None:
        fault = f"faults: [{{call: vanish, after: {vanish_s}s}}]\n" if vanish_s else ""
        text = CLOUD.replace("boot: 20s", "boot: 3s").replace("ending: 10s", "ending: 3s") + fault
        super().__init__(folder, POOL.replace("keep_alive: 1m", "keep_alive: 20s"), text)
        billing = Billing(least_us=60 * SECOND_US, interrupted_free_us=FREE_US if free else 0)
        self.provider.capabilities = Capabilities(billing=billing, notice_us=0)
        self.opens_at = opens_at
        self.looks_every = 0
        """At prices, so many seconds; 0: never, but for those who charge something."""

    def live(self, jobs: list[tuple[int, int, int]]) -> None:
        """`jobs`: (submitted at, CPUs, seconds) of each; until no machine is left."""
        todo, ends = sorted(jobs), dict[str, int]()
        self.world.clock.advance(HOUR_US - 30 * SECOND_US)  # so that many a life crosses an hour
        for now in range(LIMIT_S):
            if now == self.opens_at:
                spent = sum(row.nanos for row in self.rows() if row.kind in PAID)
                self.world.apply(BUDGET, {"b": spent})
            if self.looks_every and now % self.looks_every == 0:
                engine = self.world.engine
                engine.commit(reprice(engine.state, engine.prices, engine.now()), "bursard")
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


def dated_cost(prices: PriceTable, market: str, start: int, end: int) -> int:
    """Of a machine, at the price that is in force in each part of the time."""
    owed, at = 0, start
    while at < end:
        until = min(prices.next_change(at), end)
        quote = prices.lookup_machine("local", "home", "cpu.small", market, Instant(at))
        assert quote is not None
        owed, at = owed + cost(quote.cost, at, until), until
    return owed


JOBS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 4), st.integers(1, 40)), min_size=1, max_size=3)


@settings(max_examples=15)
@given(
    jobs=JOBS,
    vanish_s=st.sampled_from([0, 0, 5, 30, 61, 90]),
    free=st.booleans(),
    opens_at=st.integers(0, 20),
)
def test_a_node_cost_what_its_machine_is_billed_whatever_happens(
    jobs: list[tuple[int, int, int]], vanish_s: int, free: bool, opens_at: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        site = Life(Path(folder), vanish_s, free, opens_at)
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
    by_facts = what_the_facts_say(site)
    assert (sum(by_facts.nanos.values()), by_facts.left_out) == (owed, set())
    balances = site.world.state.ledger.balances
    nodes = {row.node_id for row in rows}
    assert -sum(balances.get(node_account(one), 0) for one in nodes) == owed
    assert sum(balances.values()) + site.world.state.ledger.closed_nanos == 0
    a_second_book_says_the_same(site, rows)
    by_job = {row.job_id for row in rows if row.kind in PAID}
    for job in site.world.state.jobs.values():
        mine = [row.nanos for row in rows if row.job_id == job.id]
        assert job.settled_nanos == sum(mine)
    assert "" not in by_job
    assert all(row.job_id == "" for row in rows if row.kind not in PAID)


@settings(max_examples=25)
@given(
    jobs=JOBS,
    vanish_s=st.sampled_from([0, 0, 5, 30, 61, 90]),
    free=st.booleans(),
    changes=st.dictionaries(st.integers(1, 140), st.integers(1, 20), min_size=1, max_size=5),
    looks_every=st.integers(1, 200),
)
def test_a_node_costs_each_price_for_as_long_as_that_was_in_force_however_seldom_anybody_looks(
    jobs: list[tuple[int, int, int]],
    vanish_s: int,
    free: bool,
    changes: dict[int, int],
    looks_every: int,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        site = Life(Path(folder), vanish_s, free, LIMIT_S)
        since = site.world.engine.now() + HOUR_US - 30 * SECOND_US
        rows = "".join(
            "    - {provider: local, region: home, instance_type: cpu.small, market: spot,"
            f" price: {price}.000000007 USD/h,"
            f" valid_from: {format_instant(Instant(since + at * SECOND_US - 700_000))}}}\n"
            for at, price in changes.items()
        )
        site.world.apply(
            f"kind: PriceBook\nname: mine\nspec:\n  source: t\n  currency: USD\n  prices:\n{rows}"
        )
        site.looks_every = looks_every
        site.live(jobs)
    events, prices, owed = site.world.events, site.world.engine.prices, 0
    up = {one.machine_id: one.billed_from for one in events if isinstance(one, MachineUp)}
    markets = {one.machine_id: one.market for one in events if isinstance(one, MachineIntended)}
    for gone in site.gone():
        if not gone.refund:
            market = markets[gone.machine_id]
            owed += dated_cost(prices, market, up[gone.machine_id], gone.billed_until)
    assert sum(row.nanos for row in site.rows()) == owed
    assert sum(site.world.state.ledger.balances.values()) + site.world.state.ledger.closed_nanos == 0
