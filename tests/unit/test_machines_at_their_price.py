"""A rented machine whose price changes: each part of its time costs what was in force in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from rented_site import Site

from bursar.clock import HOUR_US, SECOND_US, Instant, format_instant
from bursard.access.identity import Identity, Role
from bursard.events import NodePriced
from bursard.services import clouds
from bursard.state.decide import nodes

DEARER = """\
kind: PriceBook
name: mine
spec:
  source: t
  currency: USD
  prices:
    - {{provider: local, region: home, instance_type: cpu.small, market: spot, price: 18 USD/h,
       valid_from: {}}}
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_machine_whose_price_changes_is_listed_with_what_the_books_have_second_after_second(
    site: Site,
) -> None:
    """1. It comes up. 2. Its price is tenfold from then on. 3. Its job runs, and ends. 4. It is kept."""
    state, engine, ann = site.world.state, site.world.engine, Identity("ann", Role.ADMIN)
    changes_at = engine.now() + 50 * SECOND_US
    site.world.apply(DEARER.format(format_instant(Instant(changes_at))))
    job = site.large()
    site.pass_time(30)
    (machine,) = site.machines
    rates, before = set[int](), 0
    for second in range(60):
        site.second()
        engine.commit(nodes.reprice(state, engine.prices, engine.now()), "bursard")
        if second == 40:
            assert job.attempt is not None
            site.world.backend.finish(job.attempt.id, 0)
        shown = clouds.machine_view(state, machine, ann, engine.now())
        node = site.world.node(machine.name)
        if node.through == engine.now():
            assert shown.cost_nanos == sum(row.nanos for row in site.rows())
        assert shown.cost_nanos > before
        rates.add(shown.rate_nanos_per_hour)
        assert shown.rate_nanos_per_hour == (18 if engine.now() >= changes_at else 1.8) * 10**9
        before = shown.cost_nanos
        later = clouds.machine_view(state, machine, ann, engine.now() + HOUR_US)
        if engine.now() >= changes_at:
            assert abs(later.cost_nanos - before - 18 * 10**9) < 20, "what was not told of yet, at its price"
    assert rates == {1_800_000_000, 18_000_000_000}


def test_a_machine_is_paid_for_at_the_price_of_when_it_came_up_however_late_that_was_seen(site: Site) -> None:
    engine = site.world.engine
    at = engine.now() + 50 * SECOND_US
    site.world.apply(DEARER.format(format_instant(Instant(at))))
    site.large()
    site.pass_time(4)
    (machine,) = site.machines
    assert machine.facts is not None
    for since, rate in ((at - 1, 1_800_000_000), (at, 18_000_000_000)):
        events = nodes.paid_for(engine.ids, engine.prices, machine.facts, since, at + SECOND_US)
        (priced,) = [one for one in events if isinstance(one, NodePriced)]
        assert (priced.since, priced.rates.total) == (since, rate)


def test_a_price_that_is_in_force_is_not_undone_by_a_look_at_an_instant_before_it(site: Site) -> None:
    engine = site.world.engine
    at = engine.now() + 50 * SECOND_US
    site.world.apply(DEARER.format(format_instant(Instant(at))))
    site.large()
    site.pass_time(30)
    (node,) = site.world.state.nodes.values()
    site.world.clock.advance(60 * SECOND_US)
    engine.commit(nodes.reprice(site.world.state, engine.prices, engine.now()), "bursard")
    assert node.through < at
    assert nodes.came(node, engine.prices, at - 1) == []
