"""Places beside promises, found by columns, are those that the plain way finds, node by node."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from plan_worlds import HOUR_US, NOW, worlds
from slow_openings import Future as SlowFuture
from slow_openings import Search as SlowSearch
from tests.property.test_reservations_hold import windows

from bursar.model import DeviceShare
from bursar.model.allocation import FREE
from bursar.resources import MILLI
from bursar_policies.decision import Placement, Promised, Snapshot
from bursard.scheduler import PlanCache
from bursard.scheduler.candidates import asks_of
from bursard.scheduler.openings import Future, Search
from bursard.scheduler.promises import Guard
from bursard.scheduler.releases import Releases

QUARTER_US = HOUR_US // 4


@st.composite
def kept(draw: st.DrawFn, world: Snapshot) -> tuple[Promised, ...]:
    """Promises of any kind, due or to come, also more than there is room for."""
    found = []
    for number in range(draw(st.integers(1, 8))):
        members = []
        for row in draw(
            st.lists(st.integers(0, len(world.nodes.ids) - 1), min_size=1, max_size=3, unique=True)
        ):
            total = int(world.nodes.gpu_total[row])
            some = draw(st.lists(st.integers(0, total - 1), unique=True, max_size=3)) if total else []
            milli = draw(st.sampled_from([300, MILLI]))
            shares = tuple(DeviceShare(index, milli) for index in sorted(some))
            members.append(Placement(row, shares, draw(st.sampled_from([0, 500, 4_000])), 1 << 30, FREE))
        start = NOW + draw(st.integers(-2, 20)) * QUARTER_US
        until = start + draw(st.integers(1, 8)) * QUARTER_US
        found.append(Promised(f"p{number}", -1, until, start, until, 0, tuple(members), -1, 0, ()))
    return tuple(found)


@st.composite
def sites(draw: st.DrawFn) -> tuple[Snapshot, tuple[Promised, ...]]:
    world = draw(worlds())
    if draw(st.integers(0, 3)) == 0:
        world = replace(world, reservations=draw(windows(world.nodes)))
    return world, draw(kept(world))


@settings(max_examples=100, deadline=None)
@given(sites(), st.integers(0, 6), st.integers(0, 24), st.sampled_from([10**12, 2 * 10**9, -1]))
def test_both_find_the_same_places(site, since, latest, pays_for):
    snapshot, promises = site
    with PlanCache().world(snapshot) as world:
        releases = Releases(snapshot.running, world.free)
        for but in ("", "p0"):
            fast = Future(world, releases, promises, NOW, but=but)
            slow = SlowFuture(world, releases, promises, NOW, but=but)
            assert sorted(slow.rows) == fast.rows
            for lane in snapshot.queues:
                wanted = lane.class_at(0)
                for ask in asks_of(wanted):
                    table = world.table(ask)
                    one = Search(fast, table, wanted, NOW + since * QUARTER_US)
                    other = SlowSearch(slow, table, wanted, NOW + since * QUARTER_US)

                    def pays(rate: int) -> bool:
                        return rate <= pays_for

                    assert one.first(pays) == other.first(pays)
                    by = NOW + latest * QUARTER_US
                    place = one.cheapest_by(by, pays)
                    assert place == other.cheapest_by(by, pays)
                    if place is not None:
                        assert list(one.held(place)) == list(other.held(place))


@settings(max_examples=100, deadline=None)
@given(sites(), st.lists(st.integers(0, 40), min_size=1, max_size=4), st.data())
def test_both_leave_others_the_same(site, holds, data):
    snapshot, promises = site
    with PlanCache().world(snapshot) as world:
        releases = Releases(snapshot.running, world.free)
        guard, open_ = Guard(world, promises, lambda: releases, NOW), {one.job_id: one for one in promises}
        for hold in holds:
            change = data.draw(st.sampled_from(["", "", "begun", "took"]))
            if change == "begun" and open_:
                job_id = data.draw(st.sampled_from(sorted(open_)))
                guard.begun(job_id)
                del open_[job_id]
            if change == "took":
                row = data.draw(st.integers(0, world.count - 1))
                member = Placement(row, (), min(500, world.free.cpu.item(row)), 0, FREE)
                world.take((member,))
                releases.add(member, NOW + data.draw(st.integers(1, 20)) * QUARTER_US)
                guard.took((member,))
            until = NOW + hold * QUARTER_US + 1
            for job_id in ("", *open_):
                slow = SlowFuture(world, releases, open_.values(), NOW, but=job_id)
                rows = [row for row in slow.rows if slow.begins(row, until)]
                plain = {row: slow.least(row, NOW, until) for row in rows}
                limits = guard.limits(until - NOW, job_id)
                assert dict(limits) == plain
                assert len(limits) == len(plain)
                for row in range(world.count):
                    assert (row in limits) is (row in plain)
                for instant in (NOW, until, until + 3 * QUARTER_US):
                    fast = guard.future(job_id)
                    assert [fast.at(row, instant) for row in rows] == [slow.at(row, instant) for row in rows]
