"""What a plan remembers of its looks beside promises changes nothing: it makes the plan that looks at all."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from plan_worlds import NOW, USD, clusters
from tests.property.test_openings_agree import QUARTER_US, kept

from bursar.model import DeviceShare
from bursar.model.allocation import FREE
from bursar.resources import MILLI
from bursar_policies.decision import BudgetRoom, JobColumns, PendingQueue, Placement, Promised, Snapshot
from bursard.scheduler import dearer, plan
from bursard.scheduler.saved import plan_bytes
from bursard.scheduler.testing import Node, columns, job_class, request, snapshot


@st.composite
def promised_queues(draw: st.DrawFn) -> Snapshot:
    """Few classes, of which each job has a time limit of its own, and most a place to come."""
    some = draw(clusters())
    some += [Node(name=f"d{one}", gpus=2, rates=(0, 0, one * USD)) for one in range(1, 4)]
    nodes = columns(some)
    queues, promises, order = list[PendingQueue](), list[Promised](), 0
    for index in range(draw(st.integers(1, 3))):
        gpus = draw(st.sampled_from([1, 1, 2]))
        wanted = job_class(
            request(gpus=gpus, cpus=0.5),
            nodes=draw(st.sampled_from([1, 1, 1, 2])),
            budgets=draw(st.sampled_from([(), (), ("x",)])),
        )
        rows = []
        for _ in range(draw(st.integers(1, 12))):
            order += 1
            limit_us = draw(st.integers(1, 20)) * QUARTER_US
            rows.append((order, f"j{order}", limit_us))
            if draw(st.integers(0, 4)) == 0:
                continue
            start = NOW + draw(st.integers(-1, 16)) * QUARTER_US
            on = draw(st.lists(st.integers(0, len(some) - 1), min_size=1, max_size=2, unique=True))
            shares = tuple(DeviceShare(device, MILLI) for device in range(gpus))
            members = tuple(
                Placement(row, shares if some[row].gpus >= gpus else (), 500, 0, FREE) for row in on
            )
            rate = draw(st.sampled_from([-1, 0, USD, 2 * USD]))
            until = start + limit_us
            promises.append(
                Promised(f"j{order}", index, until, start, until, 0, members, rate, 0, wanted.budgets)
            )
        queues.append(
            PendingQueue(wanted.without_limit(), draw(st.sampled_from([25, 50])), JobColumns.of(rows))
        )
    world = snapshot(nodes, *queues, budgets=[BudgetRoom("x", draw(st.integers(0, 40 * USD)), 0, 0, "USD")])
    others = draw(kept(world)) if draw(st.booleans()) else ()
    return replace(world, promises=(*promises, *others))


def looks_at_all(world: Snapshot) -> bytes:
    def nothing(*_: object) -> None:
        return None

    before = dearer.Known.note
    dearer.Known.note = nothing  # type: ignore[method-assign,assignment]
    try:
        return plan_bytes(plan(world, NOW))
    finally:
        dearer.Known.note = before  # type: ignore[method-assign]


@settings(max_examples=250, deadline=None)
@given(promised_queues())
def test_a_plan_that_remembers_is_the_plan_that_looks_at_all(world: Snapshot) -> None:
    assert plan_bytes(plan(world, NOW)) == looks_at_all(world)


def test_what_lies_between_two_looks_is_known_where_both_found_the_same() -> None:
    known, ask = dearer.Known(), (3, 1)
    known.note(7, ask, 2, 100)
    known.note(7, ask, 9, 100)
    known.note(7, ask, 12, 300)
    known.note(7, ask, 20, None)
    assert [known.rate(7, ask, met) for met in (1, 2, 5, 9, 10, 12, 13)] == [
        None,
        100,
        100,
        100,
        None,
        300,
        None,
    ]
    assert [known.is_full(7, ask, met) for met in (19, 20, 21)] == [False, True, True]
    assert known.rate(7, (3, 2), 5) is None
    assert (known.rate(8, ask, 5), known.is_full(8, ask, 21)) == (None, False)  # something has started since
