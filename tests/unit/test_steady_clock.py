"""A jump of the wall clock is doubted until it is proven; meanwhile time goes on by the boot clock."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bursar.clock import DAY_US, HOUR_US, SECOND_US, Instant, VirtualClock
from bursar.ids import SequentialIds
from bursar.model import NodeFacts
from bursar_policies.document import parse_documents
from bursar_policies.periods import period_bounds
from bursard import doctor, startup
from bursard.engine import Engine
from bursard.events import ClockStepped, HoldsRolled, RestCarried, decode
from bursard.ledger import Ledger
from bursard.replay import restore
from bursard.state import Limits, State
from bursard.state.decide import policies
from bursard.state.given import BROUGHT_BACK
from bursard.state.records import NodeRecord
from bursard.steady import (
    BELIEVED_US,
    CONTRADICTED_PROOF_US,
    PROOF_US,
    TOLERANCE_US,
    Anchor,
    SteadyClock,
    Step,
)
from bursard.store import SqliteStore
from bursard.writer import Writer

FIRST = Instant(1_790_000_000 * SECOND_US)
LAST = Instant(FIRST + 60 * DAY_US)
MONTHLY = "kind: Budget\nname: vision\nspec: {scope: {project: v}, limit: 5 USD, period: month}\n"


def made(clock: VirtualClock, anchor: Anchor | None = None, last_at: int = LAST) -> SteadyClock:
    return SteadyClock(clock, "boot-1", anchor, FIRST if last_at else 0, last_at)


def off_by(us: int) -> VirtualClock:
    """A machine whose clock is so far from the log's end."""
    return VirtualClock(LAST + us)


def test_an_empty_log_believes_any_clock() -> None:
    clock = VirtualClock(5)
    steady = made(clock, last_at=0)
    assert (steady.now(), steady.doubt()) == (5, None)


@pytest.mark.parametrize("us", [-TOLERANCE_US, 0, TOLERANCE_US, TOLERANCE_US + 1, DAY_US, BELIEVED_US])
def test_a_daemon_that_was_off_for_up_to_a_week_believes_at_once(us: int) -> None:
    steady = made(off_by(us))
    assert (steady.now(), steady.doubt(), steady.take_steps()) == (LAST + us, None, [])


@pytest.mark.parametrize("us", [BELIEVED_US + 1, 40 * DAY_US, -TOLERANCE_US - 1, -40 * DAY_US])
def test_a_larger_gap_is_doubted_and_time_goes_on_from_the_log(us: int) -> None:
    clock = off_by(us)
    steady = made(clock)
    assert steady.now() == LAST
    clock.advance(7 * SECOND_US)
    assert steady.now() == LAST + 7 * SECOND_US
    found = steady.doubt()
    assert found is not None
    assert (found.wall, found.steady) == (LAST + us + 7 * SECOND_US, LAST + 7 * SECOND_US)


def test_a_daemon_that_was_off_for_two_months_believes_after_an_hour_without_a_human() -> None:
    clock = off_by(60 * DAY_US)
    steady = made(clock)
    clock.advance(PROOF_US - 1)
    found = steady.doubt()
    assert found is not None
    assert (found.believed_in_us, steady.now()) == (1, LAST + PROOF_US - 1)
    clock.advance(1)
    assert steady.now() == LAST + 60 * DAY_US + PROOF_US
    assert steady.doubt() is None
    assert steady.take_steps() == [
        Step(
            Instant(LAST + PROOF_US),
            Instant(LAST + 60 * DAY_US + PROOF_US),
            "it went on for 1 h",
            passed=True,
        )
    ]
    assert steady.take_steps() == []


def test_within_one_boot_the_boot_clock_knows_better() -> None:
    clock = off_by(0)
    anchor = Anchor("boot-1", clock.boot_us(), LAST)
    clock.advance(3 * HOUR_US)
    clock.step_wall(2 * DAY_US)  # less than a week, and yet no two days have passed
    steady = made(clock, anchor)
    assert steady.now() == LAST + 3 * HOUR_US
    clock.advance(PROOF_US)
    assert steady.now() == LAST + 4 * HOUR_US
    clock.advance(CONTRADICTED_PROOF_US - PROOF_US)
    assert steady.now() == clock.now()


def test_two_months_off_within_one_boot_are_believed_at_once() -> None:
    clock = off_by(0)
    anchor = Anchor("boot-1", clock.boot_us(), LAST)
    clock.advance(60 * DAY_US)
    steady = made(clock, anchor)
    assert (steady.now(), steady.doubt()) == (clock.now(), None)


@pytest.mark.parametrize("boot_id", ["boot-0", "boot-1"])
def test_an_anchor_of_another_boot_says_nothing(boot_id: str) -> None:
    clock = off_by(2 * DAY_US)
    ahead = clock.boot_us() + (1 if boot_id == "boot-1" else -5)  # a boot clock never falls
    assert made(clock, Anchor(boot_id, ahead, LAST)).now() == LAST + 2 * DAY_US


def test_an_anchor_never_takes_time_back_before_the_log() -> None:
    clock = off_by(0)
    assert made(clock, Anchor("boot-1", clock.boot_us(), LAST - DAY_US)).now() == LAST


def test_a_jump_of_a_running_daemon_is_doubted_and_heals_when_it_goes_back() -> None:
    clock = off_by(0)
    steady = made(clock)
    clock.step_wall(40 * DAY_US)
    clock.advance(HOUR_US)
    assert steady.now() == LAST + HOUR_US
    clock.step_wall(-40 * DAY_US)
    assert (steady.now(), steady.doubt(), steady.take_steps()) == (LAST + HOUR_US, None, [])
    clock.step_wall(40 * DAY_US)  # and the next one is doubted anew, from its own beginning
    assert steady.now() == LAST + HOUR_US
    clock.advance(CONTRADICTED_PROOF_US - 1)
    assert steady.now() == LAST + HOUR_US + CONTRADICTED_PROOF_US - 1
    clock.advance(1)
    assert steady.now() == clock.now()


def test_small_steps_are_followed_either_way() -> None:
    clock = off_by(0)
    steady = made(clock)
    for us in (TOLERANCE_US, -TOLERANCE_US, -TOLERANCE_US):
        clock.step_wall(us)
        assert steady.now() == clock.now()
    clock.step_wall(TOLERANCE_US + 1)
    assert steady.now() == clock.now() - TOLERANCE_US - 1


def test_a_clock_before_the_first_event_is_never_believed() -> None:
    clock = VirtualClock(0)
    steady = made(clock)
    clock.advance(10 * CONTRADICTED_PROOF_US)
    assert steady.now() == LAST + 10 * CONTRADICTED_PROOF_US
    found = steady.doubt()
    assert found is not None
    assert found.believed_in_us == 0
    assert "is believed never" in doctor.check_clock(steady).message


def test_an_operator_who_trusts_the_clock_ends_the_doubt() -> None:
    clock = off_by(40 * DAY_US)
    steady = made(clock)
    steady.trust("ann says so")
    assert steady.now() == LAST + 40 * DAY_US
    assert steady.take_steps() == [Step(LAST, Instant(LAST + 40 * DAY_US), "ann says so", passed=True)]
    steady.trust("again")
    assert steady.take_steps() == []


def test_the_anchor_is_what_the_daemon_goes_by() -> None:
    clock = off_by(40 * DAY_US)
    steady = made(clock)
    clock.advance(HOUR_US - 1)
    anchor = steady.anchor()
    later = SteadyClock(clock, "boot-1", anchor, FIRST, LAST)
    assert later.now() == LAST + HOUR_US - 1


def test_doctor_tells_both_times_and_what_to_do() -> None:
    steady = made(off_by(40 * DAY_US))
    found = doctor.check_clock(steady)
    assert not found.ok
    assert found.message == (
        "the machine's clock says 2026-12-30T14:13:20Z, but by the log it is 2026-11-20T14:13:20Z: the daemon"
        " goes by the log; the clock is believed at the latest in 1 h"
    )
    assert "bursar audit trust-clock" in found.remedy
    assert doctor.check_clock(made(off_by(0))).ok
    assert doctor.check_clock(VirtualClock()).ok


# --- a daemon's starts


def started(directory: Path, clock: VirtualClock, boot_id: str = "boot-1") -> tuple[State, int]:
    """One run of a daemon: its first events, and the note of its time. The state, and when it was at."""

    async def run() -> tuple[State, int]:
        store = SqliteStore(directory)
        steady = startup.steady_clock(store, clock, boot_id)
        state = restore(store, Limits())
        writer = Writer(store)
        engine = Engine(state, store, writer, steady, SequentialIds())
        startup.first_events(engine, "USD", parse_documents(MONTHLY, "shipped"))
        await startup.note_time(engine, steady)
        await startup.tend_time(engine, steady, directory)
        await writer.close()
        store.close()
        return state, engine.now()

    return asyncio.run(run())


def test_a_start_with_the_clock_forty_days_ahead_moves_no_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "nothing_began", lambda state: False)
    clock = VirtualClock(LAST)
    start, end = period_bounds("month", "UTC", LAST)
    before, _ = started(tmp_path / "d", clock)
    assert before.budgets.records["vision"].period_start == start
    for boot_id in ("boot-1", "boot-2"):
        clock.step_wall(40 * DAY_US)
        ahead, at = started(tmp_path / "d", clock, boot_id)
        record = ahead.budgets.records["vision"]
        assert (record.period_start, record.period_end, at) == (start, end, LAST)
        clock.step_wall(-40 * DAY_US)
        healed, at = started(tmp_path / "d", clock, boot_id)
        assert (healed.budgets.records["vision"].period_start, at) == (start, LAST)
    store = SqliteStore(tmp_path / "d")
    assert not any(isinstance(decode(row.payload), HoldsRolled) for row in store.events())
    store.close()


def test_a_note_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    clock = VirtualClock(LAST)
    started(tmp_path / "d", clock)
    store = SqliteStore(tmp_path / "d")
    store.set_meta(startup.ANCHOR, "noise")
    store.close()
    store = SqliteStore(tmp_path / "d")
    assert startup.steady_clock(store, clock, "boot-1").now() == LAST
    store.close()


def test_an_operators_word_is_obeyed_once_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "nothing_began", lambda state: False)

    async def run() -> list[object]:
        clock = VirtualClock(LAST)
        store = SqliteStore(tmp_path / "d")
        steady = startup.steady_clock(store, clock, "boot-1")
        writer = Writer(store)
        engine = Engine(restore(store, Limits()), store, writer, steady, SequentialIds())
        startup.first_events(engine, "USD", ())
        clock.step_wall(40 * DAY_US)
        assert steady.now() == LAST
        (tmp_path / "d" / startup.TRUST).touch()
        before = engine.state.version
        for _ in range(2):
            await startup.tend_time(engine, steady, tmp_path / "d")
        await writer.close()
        found = [decode(row.payload) for row in store.events(before)]
        store.close()
        return found

    expected = ClockStepped(LAST, LAST + 40 * DAY_US, "an operator trusts it", redates=True)
    assert asyncio.run(run()) == [expected]
    assert not (tmp_path / "d" / startup.TRUST).exists()


# --- budgets that a clock ahead had taken along


def budgeted(at: int) -> State:
    state = State()
    state.budgets.put("vision", parse_documents(MONTHLY, "x")[0].spec, 1, at)  # type: ignore[arg-type]
    return state


def test_a_budget_in_a_period_that_has_not_begun_comes_back() -> None:
    here, there = (
        period_bounds("month", "UTC", LAST)[0],
        period_bounds("month", "UTC", Instant(LAST + 40 * DAY_US))[0],
    )
    state = budgeted(LAST + 40 * DAY_US)
    assert policies.roll_periods(state, LAST) == [HoldsRolled("vision", there, here, anew=True)]
    assert policies.roll_periods(state, LAST + 40 * DAY_US) == []
    state.budgets.roll("vision", here, LAST)
    assert policies.roll_periods(state, LAST) == []


def test_what_its_jobs_hold_beyond_a_hard_limit_comes_back_with_their_money(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The limit is 5 USD, 4 are spent, and jobs hold a nano more than the fifth."""
    here = period_bounds("month", "UTC", LAST)[0]
    state = budgeted(LAST + 40 * DAY_US)
    there = state.budgets.records["vision"].period_start
    spent = {here: 4_000_000_000}
    monkeypatch.setattr(Ledger, "settled", lambda self, name, period: spent.get(period, 0))
    held = {here: 0}
    monkeypatch.setattr(Ledger, "held", lambda self, name, period: held.get(period, 1_000_000_001))
    assert policies.roll_periods(state, LAST) == [
        HoldsRolled("vision", there, here, anew=True),
        RestCarried("vision", there, here, 1, BROUGHT_BACK),
    ]
    monkeypatch.setattr(Ledger, "held", lambda self, name, period: held.get(period, 1_000_000_000))
    assert policies.roll_periods(state, LAST) == [HoldsRolled("vision", there, here, anew=True)]


def test_a_clock_behind_the_charges_takes_no_budget_back() -> None:
    _, end = period_bounds("month", "UTC", LAST)
    state = budgeted(LAST + 40 * DAY_US)
    facts = NodeFacts(name="n", cpu_milli=1000, memory_bytes=1 << 30)
    state.nodes["n"] = NodeRecord(id="n", facts=facts, row=0, through=end or 0)
    assert policies.roll_periods(state, LAST) == []
    state.nodes["n"].through -= 1
    assert len(policies.roll_periods(state, LAST)) == 1


def test_many_small_steps_are_a_jump_too() -> None:
    clock = off_by(0)
    steady = made(clock)
    for _ in range(20):
        clock.advance(30 * SECOND_US)
        clock.step_wall(500 * SECOND_US)
        steady.now()
    assert steady.now() == LAST + 600 * SECOND_US + 500 * SECOND_US, "the first alone is followed"
    assert steady.doubt() is not None
    assert steady.take_steps() == []


def test_a_clock_that_runs_fast_is_never_proven() -> None:
    clock = off_by(0)
    steady = made(clock)
    for _ in range(4 * 24):
        clock.advance(HOUR_US)
        clock.step_wall(HOUR_US)
        steady.now()
    assert steady.now() <= LAST + 4 * DAY_US + TOLERANCE_US
    assert steady.take_steps() == []


def test_what_is_corrected_a_little_each_day_is_followed_for_ever() -> None:
    clock = off_by(0)
    steady = made(clock)
    for _ in range(50):
        clock.advance(DAY_US)
        clock.step_wall(500 * SECOND_US)
        assert steady.now() == clock.now()
    assert steady.doubt() is None


def test_readings_that_jitter_lead_nowhere() -> None:
    clock = off_by(0)
    steady = made(clock)
    for turn in range(400):
        clock.advance(1)
        clock.step_wall(400 * SECOND_US if turn % 2 else -400 * SECOND_US)
        assert steady.now() == clock.now()
    assert steady.doubt() is None
