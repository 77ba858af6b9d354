"""What cannot be computed, or cannot be, is the trouble of whoever brought it: sums, quotients, products."""

from __future__ import annotations

from typing import Any

import pytest

from bursar.clock import HOUR_US
from bursar.errors import InvalidRequest
from bursar.model import Device, NodeFacts, ReasonCode
from bursar.money import AMOUNT_MAX, NANOS_MAX
from bursar_policies.decision import UNCOMPUTABLE
from bursard import doctor
from bursard.cycle import Cycle
from bursard.fleet import door
from bursard.fleet.testing import World
from bursard.scheduler import PlanCache, plan, reason_of
from bursard.scheduler.kinds import Kinds
from bursard.scheduler.plan import Planner
from bursard.scheduler.pricing import share_rates
from bursard.scheduler.table import Table
from bursard.scheduler.testing import Node, columns, job_class, queue, request, snapshot
from bursard.state.decide import nodes

NOW = 1_767_225_600_000_000
P5 = (0, 49_000_000_000, 49_000_000_000)
"""Nanos per hour of an ordinary machine of a cloud."""
MOST = (0, NANOS_MAX, 0)


def test_a_node_of_one_byte_stops_nobody_elses_job() -> None:
    """Its memory rate times two terabytes, over one byte, has no column."""
    rows = columns([Node(name="tiny", memory_bytes=1, rates=P5), Node(name="good")])
    large, small = job_class(request(memory_bytes=2 << 40)), job_class(request(memory_bytes=1 << 30))
    shot = snapshot(rows, queue(large, (1, "large")), queue(small, (2, "small")))
    made = plan(shot, NOW)
    assert [(start.job_id, start.members[0].node) for start in made.starts] == [("small", 1)]
    assert made.verdicts[0].blocked_by == "fault"
    assert reason_of(shot, made, 0).code is ReasonCode.EXCEEDS_NODE_CAPACITY


@pytest.mark.parametrize(
    ("wanted", "rate"),
    [
        (request(cpus=17, memory_bytes=1), -1),
        (request(cpus=16, memory_bytes=(64 << 30) + 1), -1),
        (request(gpus=3, cpus=1), -1),
        (request(gpus=2, cpus=16, memory_bytes=64 << 30), 111),
        (request(gpus=1, cpus=8, memory_bytes=32 << 30), 55),
    ],
)
def test_a_share_has_a_price_only_where_it_fits(wanted: Any, rate: int) -> None:
    rows = columns([Node(name="a", gpus=2, rates=(100, 10, 1))])
    assert Kinds(rows).member_rates(wanted) == [rate]
    whole = share_rates(rows, 0, (), 16_000, 64 << 30)
    assert whole.total == 11


def test_a_worst_case_beyond_any_amount_is_refused_with_the_numbers_and_others_go_on() -> None:
    rows = columns([Node(name="gold", rates=MOST)])
    long, short = job_class(request(cpus=16), hours=120_000), job_class(request(cpus=16), hours=1_000)
    shot = snapshot(rows, queue(long, (1, "long")), queue(short, (2, "short")))
    made = plan(shot, NOW)
    assert [start.job_id for start in made.starts] == ["short"]
    reason = reason_of(shot, made, 0)
    assert reason.code is ReasonCode.MISCONFIGURED
    assert reason.message.startswith("its worst case is 1106804")
    assert "the largest amount there is, is 1000000000000000.00" in reason.message
    assert int(dict(reason.facts)["needed"]) == NANOS_MAX * long.hold_us // HOUR_US > AMOUNT_MAX


def test_the_least_a_gang_costs_is_a_sum_that_does_not_wrap() -> None:
    rows = columns([Node(name=f"n{k}", rates=MOST) for k in range(3)])
    wide = job_class(request(cpus=16), nodes=3, hours=40_000)
    shot = snapshot(rows, queue(wide, (1, "wide")))
    made = plan(shot, NOW)
    assert made.starts == ()
    assert made.verdicts[0].code is ReasonCode.MISCONFIGURED
    assert made.verdicts[0].rate_nanos_per_hour == 3 * NANOS_MAX


def test_a_class_that_cannot_be_computed_waits_alone_and_says_so(monkeypatch: Any) -> None:
    built = Table.__init__

    def breaks(self: Any, ask: Any, *rest: Any) -> None:
        if ask.request.memory_bytes == 5:
            raise OverflowError("Python int too large to convert to C long")
        built(self, ask, *rest)

    monkeypatch.setattr(Table, "__init__", breaks)
    odd, good = job_class(request(memory_bytes=5)), job_class(request())
    shot = snapshot(columns([Node(name="a")]), queue(odd, (1, "odd"), (2, "odder")), queue(good, (3, "good")))
    made = plan(shot, NOW, PlanCache())
    assert [start.job_id for start in made.starts] == ["good"]
    assert made.verdicts[0].blocked_by == UNCOMPUTABLE
    reason = reason_of(shot, made, 0)
    assert (reason.code, reason.message.split(":")[0]) == (
        ReasonCode.MISCONFIGURED,
        "its place cannot be computed",
    )


def facts(**changes: Any) -> NodeFacts:
    return NodeFacts(**{"name": "n-1", "cpu_milli": 8_000, "memory_bytes": 1 << 30, **changes})


def test_a_node_has_at_least_what_a_machine_has() -> None:
    door.facts(facts(memory_bytes=16 << 20))
    with pytest.raises(InvalidRequest, match=r"facts\.memory_bytes: 16777216 to"):
        door.facts(facts(memory_bytes=(16 << 20) - 1))


def test_the_devices_of_a_node_together_have_no_more_memory_than_one_figure_holds() -> None:
    def devices(each: int) -> tuple[Device, ...]:
        return tuple(Device(index, "", "H100", each) for index in range(16))

    door.facts(facts(devices=devices(2**56)))
    with pytest.raises(InvalidRequest, match=r"facts\.devices\.memory_bytes of all devices"):
        door.facts(facts(devices=devices(2**56 + 1)))


def test_doctor_says_whom_the_newest_plan_left_out_and_that_nothing_is_planned(monkeypatch: Any) -> None:
    world = World()
    cycle = Cycle(world.engine)
    world.engine.commit(
        nodes.hello(
            world.state,
            world.ids,
            world.engine.prices,
            facts=facts(),
            boot_id="b",
            boot_us=0,
            now=world.engine.now(),
        ),
        "test",
    )
    job = world.submit(options=(request(cpus=9),))
    cycle.once()
    fine = doctor.check_planning(cycle.failing, cycle.left_out())
    assert (fine.ok, fine.check) == (True, "scheduling")

    def breaks(*_: Any) -> Any:
        raise OverflowError

    monkeypatch.setattr(Planner, "attempt", breaks)
    cycle.once()
    assert cycle.left_out() == [job.id]
    found = doctor.check_planning(cycle.failing, cycle.left_out())
    assert (found.ok, found.message) == (False, f"the place of {job.id} cannot be computed")

    cycle = Cycle(world.engine, planner=breaks)
    cycle.once()
    found = doctor.check_planning(cycle.failing, cycle.left_out())
    assert (found.ok, found.message) == (False, "nothing is planned: OverflowError in the scheduler")
