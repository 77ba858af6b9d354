"""A first start by a wrong clock is put right: nodes, budgets and prices are dated by the true time again,
and every nano that was charged stays charged.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
from dated_world import BUDGET, MINUTE_US, MODEL, TRUE, Dated
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.clock import DAY_US, HOUR_US, SECOND_US, Instant, VirtualClock
from bursar.errors import BudgetExceeded, InvalidRequest, StoreUnavailable
from bursar_policies.periods import period_bounds
from bursard import doctor, startup
from bursard.events import ClockDoubted, ClockStepped, HoldsRolled, NodeRedated, decode
from bursard.fleet import Heartbeat, clocks, door
from bursard.fleet.testing import FACTS
from bursard.state.decide import nodes, periods
from bursard.steady import PROOF_US, SteadyClock
from bursard.store import Store


def november() -> int:
    return period_bounds("month", "UTC", TRUE)[0]


@pytest.mark.parametrize("days", [45, -45])
def test_where_no_job_began_the_next_clock_is_believed_at_once(days: int, tmp_path: Path) -> None:
    world = Dated(days * DAY_US, tmp_path)
    world.submit()
    world.meter(5)
    assert world.period != november()
    world.set_clock()
    assert not doctor.check_clock(world.steady).ok
    assert world.settle()
    now = world.engine.now()
    assert (now, doctor.check_clock(world.steady).ok) == (world.clock.now(), True)
    assert world.period == november()
    assert world.node().axis(world.clock.boot_us()) == now
    (step,) = [event for event in world.events if isinstance(event, ClockStepped)]
    assert step.why == "nothing was charged to any job yet"
    world.run()
    assert {row.start_at // DAY_US for row in world.rows_of("usage")} == {TRUE // DAY_US}
    assert world.state.ledger.settled("p", november()) == world.settled_nanos() > 0
    assert not world.rows_of("down"), "no machine was off"
    world.check_books()


@pytest.mark.parametrize("days", [45, -45])
def test_what_runs_goes_on_by_the_true_time_and_costs_what_it_would_have(days: int, tmp_path: Path) -> None:
    world = Dated(days * DAY_US, tmp_path)
    world.run(time_limit_us=2 * HOUR_US)
    waiting = world.submit(options=world.job.spec.options[:1], begin_after=0)
    wrong, charged = world.period, world.settled_nanos()
    world.set_clock()
    assert not world.settle(), "there are charges: no clock is believed without proof"
    found = doctor.check_clock(world.steady)
    assert not found.ok
    assert "bursar audit trust-clock" in found.remedy
    assert world.settle(trusted=True)
    now, attempt = world.engine.now(), world.job.attempt
    assert attempt is not None
    assert now == world.clock.now()
    assert world.node().axis(world.clock.boot_us()) == now
    assert now - attempt.members[0].started_at == now - attempt.started_at == 10 * MINUTE_US
    assert waiting.submitted_at <= now
    assert world.period == november()
    assert HoldsRolled("p", wrong, november(), anew=days > 0) in world.events, "what is moved is told"
    held = world.state.ledger.held("p", november())
    world.meter(20)
    total = world.settled_nanos()
    right = Dated(0, tmp_path)
    right.run(time_limit_us=2 * HOUR_US)
    right.meter(20)
    assert total == right.settled_nanos(), "to the nano what it would have cost"
    assert world.state.ledger.settled("p", wrong) == charged, "what was booked keeps its date"
    assert world.state.ledger.settled("p", november()) == total - charged
    assert world.state.ledger.held("p", november()) == held - (total - charged)
    of_rows = {row.start_at // DAY_US: row.nanos for row in world.rows_of("usage")}
    assert of_rows == {(TRUE + days * DAY_US) // DAY_US: charged, TRUE // DAY_US: total - charged}
    assert not world.rows_of("down")
    world.backend.finish(attempt.id, 0)
    world.meter(90)
    world.check_books()


@pytest.mark.parametrize("days", [45, -45])
def test_a_price_that_came_since_the_last_report_values_what_comes_after_it(
    days: int, tmp_path: Path
) -> None:
    world = Dated(days * DAY_US, tmp_path)
    world.run()
    before = world.node().cost_rates
    world.clock.advance(MINUTE_US // 2)
    world.apply(MODEL.replace("300007", "900007"))
    world.engine.commit(nodes.reprice(world.state, world.engine.prices, world.engine.now()), "bursard")
    world.set_clock()
    world.settle(trusted=True)
    world.meter(90)
    assert world.node().cost_rates.total > 2 * before.total
    world.check_books()


def test_what_was_in_force_stays_in_force_when_the_clock_goes_back(tmp_path: Path) -> None:
    world = Dated(45 * DAY_US, tmp_path)
    world.run()
    before = world.engine.prices.lookup(FACTS, world.engine.now())
    world.set_clock()
    world.settle(trusted=True)
    now = world.engine.now()
    assert before is not None
    after = world.engine.prices.lookup(FACTS, now)
    assert after is not None
    assert after.price_id == before.price_id
    assert all(one.effective_at <= now for one in world.state.policies.values())
    (found,) = [one for one in doctor.check_state(world.state, now=now) if one.check == "policies"]
    assert "effective later" not in found.message


def test_a_daemon_that_dies_while_it_follows_a_step_has_followed_all_of_it_or_nothing(tmp_path: Path) -> None:
    world = Dated(45 * DAY_US, tmp_path)
    world.run()
    world.set_clock()
    batches = len(world.writer.rows)
    world.settle(trusted=True)
    kinds = [type(decode(row.payload)) for row in world.writer.rows[batches:]]
    assert kinds[:3] == [ClockStepped, NodeRedated, HoldsRolled]
    assert world.commits[-1] == len(kinds), "in one commit"


def test_a_job_that_waits_to_be_tried_again_waits_no_longer(tmp_path: Path) -> None:
    world = Dated(45 * DAY_US, tmp_path)
    world.run()
    world.job.retry_at = world.engine.now() + MINUTE_US
    world.set_clock()
    world.settle(trusted=True)
    assert world.job.retry_at == world.engine.now() + MINUTE_US


def test_a_node_in_step_with_the_clock_keeps_its_axis(tmp_path: Path) -> None:
    """One that came while the clock was right is not moved with the others."""
    world = Dated(0, tmp_path)
    world.run()
    world.clock.step_wall(3 * DAY_US)
    world.settle(trusted=True)
    world.clock.step_wall(-3 * DAY_US)
    world.settle(trusted=True)
    assert world.node().axis(world.clock.boot_us()) == world.clock.now()
    assert [one.to_at - one.from_at for one in world.events if isinstance(one, NodeRedated)] == [
        3 * DAY_US,
        -3 * DAY_US,
    ]
    world.settle(trusted=True)
    assert sum(isinstance(one, NodeRedated) for one in world.events) == 2
    world.meter(5)
    world.check_books()


def test_time_that_passed_while_the_machine_was_off_is_the_nodes_own(tmp_path: Path) -> None:
    """Another boot, two months later: for the first hour the daemon doubts, and dates by its doubt."""
    world = Dated(0, tmp_path)
    world.run()
    last = world.engine.now()
    world.clock.step_wall(60 * DAY_US)
    world.engine.clock = world.steady = SteadyClock(world.clock, "daemon-boot-2", None, TRUE, last)
    world.restart("daemon-boot-2")
    world.backend.disconnect("n-1")
    world.backend.connect(FACTS, "boot-2")
    world.meter(1)
    world.clock.advance(PROOF_US)
    assert world.settle()
    assert world.node().axis(world.clock.boot_us()) == world.clock.now()
    down = sum(row.held_us for row in world.rows_of("down"))
    assert abs(down - 60 * DAY_US) <= HOUR_US
    world.meter(5)
    world.check_books()


@pytest.mark.parametrize("dearer", [False, True])
def test_what_a_machine_costs_while_it_is_off_follows_its_prices_and_so_does_what_comes_after(
    dearer: bool, tmp_path: Path
) -> None:
    """Another boot, two months later, at a tariff that changes within hours of UTC."""
    world = Dated(0, tmp_path)
    text = (
        MODEL.rstrip().removesuffix("}")
        + ", power: {max_watts: 10200, load_factor: 0.6, pue: 1.54, timezone: Asia/Kolkata,"
        " tariff: [{price: 3 USD/kWh}, {hours: 7-21, price: 0.10 USD/kWh}]}}\n"
    )
    world.apply(text)
    world.run()
    last = world.engine.now()
    world.clock.step_wall(60 * DAY_US)
    world.engine.clock = world.steady = SteadyClock(world.clock, "daemon-boot-2", None, TRUE, last)
    world.restart("daemon-boot-2")
    world.backend.disconnect("n-1")
    world.backend.connect(FACTS, "boot-2")
    world.meter(1)
    if dearer:
        world.apply(text.replace("300007", "900007"))
        world.engine.commit(nodes.reprice(world.state, world.engine.prices, world.engine.now()), "bursard")
    world.clock.advance(PROOF_US)
    assert world.settle()
    assert any(isinstance(one, NodeRedated) and one.charges for one in world.events)
    world.meter(1_500)
    rows = [row for kind in ("usage", "idle", "down") for row in world.rows_of(kind)]
    assert len({row.rate for row in rows if row.kind == "down"}) == 2
    for row in rows:
        if row.kind != "usage" and row.price_id != "costmodel/own@1":
            quote = world.engine.prices.lookup(FACTS, Instant(row.start_at))
            assert quote is not None
            assert row.rate == quote.cost.total, f"{row.kind} of {row.start_at}"
    world.check_books()


def test_a_first_start_by_a_clock_older_than_the_program_is_refused_with_what_to_do(tmp_path: Path) -> None:
    empty, begun = (cast(Store, SimpleNamespace(last_seq=seq)) for seq in (0, 7))
    clock = VirtualClock(TRUE - startup.OLDER_US - 1)
    with pytest.raises(StoreUnavailable, match=r"set the clock.*bursar audit trust-clock --state-dir"):
        startup.refuse_a_clock_before(TRUE, empty, clock, tmp_path)
    startup.refuse_a_clock_before(TRUE, begun, clock, tmp_path)
    (tmp_path / startup.TRUST).touch()
    startup.refuse_a_clock_before(TRUE, empty, clock, tmp_path)
    assert not (tmp_path / startup.TRUST).exists(), "it is meant for this start"
    startup.refuse_a_clock_before(TRUE, empty, VirtualClock(TRUE - startup.OLDER_US), tmp_path)


def test_the_program_is_no_younger_than_the_files_it_was_read_from() -> None:
    newest = max(path.stat().st_mtime_ns // 1000 for path in Path(startup.__file__).parent.glob("*.py"))
    assert newest <= startup.program_written_at() < Instant(4_000_000_000 * SECOND_US)


def test_a_doubt_is_an_event_once_and_at_most_every_hour(tmp_path: Path) -> None:
    world = Dated(45 * DAY_US, tmp_path)
    world.run()
    for _ in range(3):
        world.set_clock()
        world.settle()
        world.settle()
        world.clock.step_wall(45 * DAY_US)
        world.settle()
    (told,) = [one for one in world.events if isinstance(one, ClockDoubted)]
    assert (told.going_by - told.wall) == 45 * DAY_US
    world.clock.advance(HOUR_US)
    world.set_clock()
    world.settle()
    assert sum(isinstance(one, ClockDoubted) for one in world.events) == 2


def test_doctor_says_what_was_booked_ahead_and_where_it_counts(tmp_path: Path) -> None:
    world = Dated(45 * DAY_US, tmp_path)
    world.run()
    world.set_clock()
    world.settle(trusted=True)
    found = doctor.check_clock(world.steady, world.fleet.clocks, world.state)
    assert found.ok
    assert "booked while the clock was ahead, and count in the period from 2026-12-01" in found.message
    assert found.for_one(False).message == (
        "the clock and the log agree on the time; what was booked while it was ahead counts later in 1 budget"
    )


def test_what_is_used_in_a_month_that_a_clock_ahead_closed_is_spent_of_the_budgets_of_the_next(
    tmp_path: Path,
) -> None:
    world = Dated(0, tmp_path)
    world.apply(BUDGET.replace("900 USD", "0.6 USD, enforcement: hard"))
    world.run(time_limit_us=45 * MINUTE_US)
    world.clock.step_wall(45 * DAY_US)
    world.settle(trusted=True)
    world.meter(5)
    since, until = period_bounds("month", "UTC", TRUE)
    assert until is not None
    now = world.engine.now()
    closing = {"by": "ann", "now": now, "earlier": [], "lacking": [], "force": False}
    world.engine.commit(periods.close(world.state, "2026-11", since, until, **closing), "ann")
    world.clock.step_wall(-45 * DAY_US)
    world.settle(trusted=True)
    assert world.period == until, "nothing is charged in November any more"
    world.meter(20)
    cost = Counter[int]()
    for row in world.rows_of("usage"):
        cost[period_bounds("month", "UTC", row.start_at)[0]] += row.nanos
    assert cost == {start: world.state.ledger.settled("p", start) for start in (since, until)}
    assert min(cost.values()) > 0
    found = doctor.check_clock(world.steady, world.fleet.clocks, world.state)
    assert found.ok
    assert "2026-11 was closed by a clock that was ahead" in found.message
    assert "what is used until 2026-12-01T00:00:00Z counts from then on" in found.message
    for attempt_id, rank in world.backend.running("n-1"):
        world.backend.finish(attempt_id, rank)
    world.meter(1)
    world.clock.advance(until - world.engine.now() + HOUR_US)
    world.backend.report()
    with pytest.raises(BudgetExceeded):
        world.submit(time_limit_us=60 * MINUTE_US)
    world.check_books()


def test_nodes_whose_clocks_are_not_the_daemons_are_told(tmp_path: Path) -> None:
    world = Dated(0, tmp_path)
    world.backend.connect(msgspec.structs.replace(FACTS, name="n-2"))

    def say(name: str, us: int) -> doctor.Finding:
        boot, now = world.clock.boot_us(), world.engine.now()
        world.fleet.heartbeat(world.node(name), boot, now + us if us else 0)
        world.writer.flush()
        return doctor.check_clock(world.steady, world.fleet.clocks, world.state)

    assert say("n-1", 1).ok
    assert say("n-2", -clocks.TOLERANCE_US).ok
    found = say("n-2", -clocks.TOLERANCE_US - 1)
    assert (found.ok, found.message) == (False, "the clock of n-2 is 10m00s behind the daemon's time")
    assert "set the clock that is wrong" in found.remedy
    found = say("n-1", 45 * DAY_US)
    assert "the clocks of all 2 nodes in contact" in found.message
    assert "daemon's machine is probably wrong" in found.message
    world.clock.step_wall(45 * DAY_US)
    world.run()
    found = doctor.check_clock(world.steady, world.fleet.clocks, world.state)
    assert "1 of 2 nodes say what the machine's clock says" in found.message
    world.settle(trusted=True)
    for name in ("n-1", "n-2"):
        world.backend.disconnect(name)
    world.writer.flush()
    assert doctor.check_clock(world.steady, world.fleet.clocks, world.state).ok, (
        "who is not here says nothing"
    )


def test_a_node_that_says_no_time_is_not_held_against_any(tmp_path: Path) -> None:
    world = Dated(0, tmp_path)
    world.fleet.heartbeat(world.node(), world.clock.boot_us())
    assert world.fleet.clocks.problems(world.state.nodes) == []
    with pytest.raises(InvalidRequest, match=r"heartbeat\.wall_at"):
        door.heartbeat(Heartbeat(1, 2**62))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("step"), st.sampled_from((-200, -45, -3, -1, 1, 3, 45, 200))),
            st.tuples(st.just("meter"), st.sampled_from((1, 7, 70))),
            st.tuples(st.just("finish"), st.just(0)),
            st.tuples(st.just("submit"), st.just(0)),
            st.tuples(st.just("reboot"), st.just(0)),
            st.tuples(st.just("price"), st.integers(100_000, 900_000)),
        ),
        max_size=14,
    )
)
def test_no_history_of_steps_loses_a_nano_or_dates_a_node_otherwise_than_the_clock(
    steps: list[tuple[str, int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = Dated(0, Path(folder))
        world.run(time_limit_us=100 * HOUR_US)
        boots = 1
        for what, how in steps:
            if what == "step":
                world.clock.step_wall(how * DAY_US)
                world.settle(trusted=True)
                assert world.node().axis(world.clock.boot_us()) == world.clock.now() == world.engine.now()
                assert world.period == period_bounds("month", "UTC", world.engine.now())[0]
            elif what == "meter":
                world.meter(how)
            elif what == "finish":
                for attempt_id, rank in world.backend.running("n-1"):
                    world.backend.finish(attempt_id, rank)
                world.meter(1)
            elif what == "submit":
                world.submit()
                world.cycle()
            elif what == "price":
                world.apply(MODEL.replace("300007", str(how)))
                events = nodes.reprice(world.state, world.engine.prices, world.engine.now())
                world.engine.commit(events, "bursard")
            else:
                boots += 1
                world.backend.disconnect("n-1")
                world.backend.connect(FACTS, f"boot-{boots}")
            world.writer.flush()
        world.check_books()
