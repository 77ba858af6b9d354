"""An agent that stays in contact and does not do what it was told is noticed, and costs nobody a second run.

The clock is moved by hand; 120 s are tolerated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.clock import SECOND_US
from bursar.errors import WrongState
from bursar.model import EndCause, JobState, NodeFacts, RetrySpec
from bursar.money import cumulative
from bursard import doctor
from bursard.cycle import reason_of
from bursard.events import MemberOverdue, NodeQuarantined, StopRequested
from bursard.fleet import Assign, Started, Stop
from bursard.fleet.deadlines import LATE_MAX, PUT_OFF_MAX
from bursard.fleet.memory import MemoryBackend
from bursard.fleet.testing import FACTS, World
from bursard.services.views import node_state
from bursard.state import HOLD_MARGIN_US, Applied, AttemptRecord, JobRecord, Limits, State, image
from bursard.state.decide import jobs, nodes

TOLERANCE_S = 120
LIMIT_S, GRACE_S, MARGIN_S = 600, 5, HOLD_MARGIN_US // SECOND_US
LIMIT_US = LIMIT_S * SECOND_US
BUDGET = """\
kind: Budget
name: plenty
spec: {scope: {project: p}, limit: 1000 USD, period: year}
"""
SPARE = NodeFacts(name="n-2", cpu_milli=8_000, memory_bytes=1 << 34)


class Idle(MemoryBackend):
    """An agent that stays in contact, takes every order and carries none of them out."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.orders: list[Assign | Stop] = []
        self.deaf: set[type] = {Assign, Stop}

    def assign(self, node_id: str, order: Assign) -> None:
        self.orders.append(order)
        if Assign not in self.deaf:
            super().assign(node_id, order)

    def stop(self, node_id: str, order: Stop) -> None:
        self.orders.append(order)
        if Stop not in self.deaf:
            super().stop(node_id, order)

    def stops(self) -> list[tuple[str, int]]:
        return [(order.cause, order.grace_us) for order in self.orders if isinstance(order, Stop)]


class Site(World):
    """One node that is idle in the worst sense."""

    def __init__(self, ahead: int = 0) -> None:
        super().__init__(ahead=ahead)
        self.idle = self.backend = Idle(self.clock, ahead=ahead)
        self.backend.serve(self.fleet)
        self.backend.connect(FACTS)

    def pass_s(self, seconds: int) -> None:
        """Time passes, and a look is taken every few seconds and at the end."""
        while seconds > 0:
            step, seconds = min(seconds, 25), seconds - 25
            self.clock.advance(step * SECOND_US)
            while self.fleet.look():
                pass
            self.writer.flush()

    def late(self) -> list[MemberOverdue]:
        return [event for event in self.events if isinstance(event, MemberOverdue)]

    def placed(self, **spec: Any) -> tuple[JobRecord, AttemptRecord]:
        job = self.submit(time_limit_us=LIMIT_US, **spec)
        self.cycle()
        assert job.attempt is not None
        return job, job.attempt

    def running(self, **spec: Any) -> tuple[JobRecord, AttemptRecord]:
        """One that runs, and of which its agent says nothing from now on."""
        self.idle.deaf = {Stop}
        job, attempt = self.placed(**spec)
        self.backend.report()
        self.writer.flush()
        assert attempt.state == "RUNNING"
        return job, attempt


def test_what_is_not_started_in_time_is_told_once_stopped_and_its_node_gets_no_new_work() -> None:
    site = Site()
    _, attempt = site.placed()
    site.pass_s(TOLERANCE_S - 1)
    assert site.late() == []
    site.pass_s(1)
    what = "node n-1 is in contact and has not started it within 2m00s"
    assert site.late() == [MemberOverdue(attempt.id, 0, "start", what)]
    assert site.events[-3:] == [
        MemberOverdue(attempt.id, 0, "start", what),
        StopRequested(attempt.id, EndCause.PREEMPTED, GRACE_S * SECOND_US, what),
        NodeQuarantined(site.node().id, "it has not started in time what it was given"),
    ]
    assert node_state(site.node()) == "quarantined"
    assert site.idle.stops() == [("preempted", GRACE_S * SECOND_US)]
    site.pass_s(3 * TOLERANCE_S)
    assert len(site.late()) == 1
    assert len(site.idle.stops()) >= 3


def test_nothing_of_an_overdue_job_runs_elsewhere_while_its_node_is_in_contact() -> None:
    site = Site()
    site.apply(BUDGET)
    job, attempt = site.placed()
    site.backend.connect(SPARE)
    site.pass_s(10 * TOLERANCE_S)
    site.cycle()
    assert job.state is JobState.STOPPING
    assert job.attempt is attempt
    assert site.node().live == {attempt.id: 0}
    assert site.state.ledger.open_holds(attempt.id)
    assert doctor.check_state(site.state)[4].ok


def test_explain_and_doctor_name_the_node_and_what_to_do() -> None:
    site = Site()
    job, _ = site.placed()
    assert reason_of(site.state, None, job, site.engine.now()) is None
    site.pass_s(TOLERANCE_S)
    reason = reason_of(site.state, None, job, site.engine.now())
    assert reason is not None
    assert reason.message == (
        "rank 0: node n-1 is in contact and has not started it within 2m00s."
        " Its processes may still run, so it runs nowhere else"
    )
    assert reason.remedy.endswith("`bursar node drain n-1 --confirm-dead`")
    assert reason.facts == (("node", "n-1"), ("rank", "0"))
    findings = {one.check: one for one in doctor.check_state(site.state)}
    assert not findings["overdue"].ok
    assert findings["overdue"].message == (
        f"rank 0 of job {job.number}: node n-1 is in contact and has not started it within 2m00s"
    )
    assert findings["overdue"].remedy == reason.remedy
    assert "has not started in time" in findings["nodes"].message


def test_doctor_has_no_finding_where_nothing_is_overdue() -> None:
    site = Site()
    site.placed()
    (finding,) = [one for one in doctor.check_state(site.state) if one.check == "overdue"]
    assert finding == doctor.Finding(
        "overdue", True, "what was to start has started, and what was to end has ended"
    )


def never_had_it(site: Site) -> None:
    """The agent is asked again, and has no trace of it."""
    site.backend.disconnect("n-1")
    site.backend.connect(FACTS)
    site.writer.flush()


def answers_the_stop(site: Site) -> None:
    """It answers the next order, which is given again and again."""
    site.idle.deaf = set()
    site.pass_s(2 * TOLERANCE_S)
    site.backend.report()
    site.writer.flush()


def operator_vouches(site: Site) -> None:
    site.engine.commit(nodes.confirm_dead(site.state, site.node()), "root")
    site.writer.flush()


def machine_rebooted(site: Site) -> None:
    site.backend.disconnect("n-1")
    site.backend.connect(FACTS, "boot-2")
    site.writer.flush()


@pytest.mark.parametrize("never", [False, True])
@pytest.mark.parametrize(
    "free", [never_had_it, answers_the_stop, operator_vouches, machine_rebooted], ids=lambda one: one.__name__
)
def test_one_that_was_never_started_runs_elsewhere_once_nothing_of_it_can_live(
    free: Callable[[Site], None], never: bool
) -> None:
    site = Site()
    job, attempt = site.placed(retry=RetrySpec(never=never))
    site.backend.connect(SPARE)
    site.pass_s(TOLERANCE_S)
    free(site)
    assert attempt.state == "ENDED"
    assert attempt.overdue == {}
    assert job.state is JobState.PENDING
    site.idle.deaf = {Stop}
    site.cycle()
    assert job.attempt is not None
    assert job.attempt.members[0].node == "n-2"
    assert site.settled_nanos() == 0


def test_a_running_job_whose_limit_and_grace_passed_unheard_is_overdue_and_billed_no_longer() -> None:
    site = Site()
    job, attempt = site.running()
    rate, last_s = attempt.rate, LIMIT_S + GRACE_S + MARGIN_S
    site.pass_s(last_s + TOLERANCE_S - 1)
    assert site.late() == []
    site.pass_s(1)
    what = "node n-1 is in contact and has not ended it 2m00s after its time limit and grace"
    assert site.events[-3:] == [
        MemberOverdue(attempt.id, 0, "limit", what),
        StopRequested(attempt.id, EndCause.TIME_LIMIT, 0, what),
        NodeQuarantined(site.node().id, "it has not ended in time what it was given"),
    ]
    site.pass_s(3600)
    site.backend.report()
    assert site.settled_nanos() <= cumulative(rate, last_s * SECOND_US)
    site.idle.deaf = set()
    site.pass_s(2 * TOLERANCE_S)
    site.backend.report()
    site.writer.flush()
    assert job.state is JobState.FAILED
    assert job.attempts[-1].cause is EndCause.TIME_LIMIT
    assert site.settled_nanos() <= cumulative(rate, last_s * SECOND_US)
    assert len(site.late()) == 1


@pytest.mark.parametrize("free", [operator_vouches, machine_rebooted], ids=lambda one: one.__name__)
def test_a_job_past_its_limit_of_which_nothing_is_left_has_run_its_time(
    free: Callable[[Site], None],
) -> None:
    site = Site()
    job, attempt = site.running()
    site.pass_s(LIMIT_S + GRACE_S + MARGIN_S + TOLERANCE_S)
    free(site)
    assert job.state is JobState.FAILED
    assert attempt.cause is EndCause.TIME_LIMIT


@pytest.mark.parametrize("runs", [False, True])
def test_a_stop_that_nobody_obeys_is_overdue_after_its_grace(runs: bool) -> None:
    site = Site()
    job, attempt = site.running() if runs else site.placed()
    site.pass_s(10)
    site.engine.commit(jobs.cancel(site.state, job, None, "no more"), "ann")
    site.writer.flush()
    site.pass_s(GRACE_S + MARGIN_S + TOLERANCE_S - 1)
    assert site.late() == []
    site.pass_s(1)
    what = "node n-1 is in contact and has not ended it 2m00s after a stop and its grace"
    assert site.late() == [MemberOverdue(attempt.id, 0, "stop", what)]
    assert site.idle.stops()[-1] == ("cancelled", 0)
    operator_vouches(site)
    assert job.state is JobState.CANCELLED


def test_a_later_stop_counts_anew() -> None:
    site = Site()
    job, attempt = site.running()
    site.engine.commit([StopRequested(attempt.id, EndCause.PREEMPTED, 60 * SECOND_US, "")], "ann")
    site.writer.flush()
    site.pass_s(100)
    site.engine.commit(jobs.cancel(site.state, job, 0), "ann")
    site.writer.flush()
    site.pass_s(MARGIN_S + TOLERANCE_S - 1)
    assert site.late() == []
    site.pass_s(1)
    assert [event.phase for event in site.late()] == ["stop"]


def test_a_job_that_waits_for_the_share_of_another_is_in_no_hurry_before_its_turn() -> None:
    site = Site(ahead=4)
    site.idle.deaf = {Stop}
    for _ in range(8):
        _, attempt = site.placed(options=_half())
        site.clock.advance(3_000)
        site.backend.finish(attempt.id, 0)
        site.backend.report()
        site.writer.flush()
    first, second = site.placed(options=_half()), site.placed(options=_half())
    waiting = site.submit(time_limit_us=LIMIT_US, options=_half())
    site.cycle()
    assert waiting.attempt is not None
    assert waiting.attempt.after
    site.backend.report()
    site.idle.deaf = {Assign, Stop}
    site.pass_s(3 * TOLERANCE_S)
    assert site.late() == []
    before = next(one for _, one in (first, second) if one.id == waiting.attempt.after)
    machine = next(iter(site.backend._machines.values()))
    machine.members = {key: one for key, one in machine.members.items() if not one.after}
    site.backend.finish(before.id, 0)
    site.backend.report()
    site.writer.flush()
    assert not waiting.attempt.after
    site.pass_s(TOLERANCE_S - 1)
    assert site.late() == []
    site.pass_s(TOLERANCE_S + 1)
    assert [(event.attempt_id, event.phase) for event in site.late()] == [(waiting.attempt.id, "start")]


def _half() -> Any:
    from bursar.resources import ResourceRequest

    return (ResourceRequest(None, 4_000, 1 << 20),)


def test_a_place_that_is_held_for_a_program_elsewhere_has_a_deadline_too() -> None:
    site = Site()
    site.idle.deaf = {Stop}
    site.backend.connect(SPARE)
    job, attempt = site.placed(launch="once", nodes=2)
    site.backend.report()
    site.writer.flush()
    site.exited_of(attempt, EndCause.COMPLETED, exit_code=0, started=True, started_boot_us=1)
    assert attempt.stop_cause is EndCause.COMPLETED
    site.pass_s(MARGIN_S + TOLERANCE_S)
    assert [(event.rank, event.phase) for event in site.late()] == [(1, "stop")]
    assert site.node("n-2").mode == "quarantine"
    assert site.node("n-1").mode == "open"
    site.engine.commit(nodes.confirm_dead(site.state, site.node("n-2")), "root")
    assert job.state is JobState.SUCCEEDED


def test_an_operator_vouches_for_what_is_overdue_and_for_nothing_else_of_a_node_in_contact() -> None:
    site = Site()
    good, _ = site.running()
    site.idle.deaf = {Assign, Stop}
    bad, _ = site.placed()
    with pytest.raises(WrongState, match="n-1 is in contact, and nothing on it is overdue"):
        nodes.confirm_dead(site.state, site.node())
    site.pass_s(TOLERANCE_S)
    operator_vouches(site)
    assert good.state is JobState.RUNNING
    assert bad.state is JobState.PENDING


def test_a_restart_of_the_daemon_accuses_nobody_and_forgets_nobody_who_was() -> None:
    site = Site()
    _, told = site.placed()
    site.pass_s(TOLERANCE_S)
    _resumed(site)
    _, other = site.placed()
    site.pass_s(TOLERANCE_S - 1)
    site.restart()
    site.clock.advance(SECOND_US)
    site.backend.serve(site.fleet)
    site.fleet.look()
    assert told.overdue
    site.idle.deaf = {Assign, Stop}
    site.events.clear()
    site.engine.listeners.append(lambda seq, event, at, actor: site.events.append(event))
    site.backend.connect(FACTS)
    site.pass_s(TOLERANCE_S - 1)
    assert site.late() == []
    site.pass_s(1)
    assert {event.attempt_id for event in site.late()} == {other.id}


def _resumed(site: Site) -> None:
    site.engine.commit(nodes.scheduling(site.node(), "open", ""), "root")


def test_the_limit_of_a_job_counts_from_its_start_whoever_was_restarted_meanwhile() -> None:
    site = Site()
    site.running()
    site.pass_s(300)
    site.restart()
    site.backend.connect(FACTS)
    site.events.clear()
    site.pass_s(LIMIT_S + GRACE_S + MARGIN_S + TOLERANCE_S - 301)
    assert site.late() == []
    site.pass_s(1)
    assert {event.phase for event in site.late()} == {"limit"}


def test_after_a_reboot_of_the_daemons_machine_the_limit_counts_from_the_join() -> None:
    site = Site()
    site.running()
    site.pass_s(300)
    site.restart("another-boot")
    site.backend.connect(FACTS)
    site.events.clear()
    site.pass_s(LIMIT_S + GRACE_S + MARGIN_S + TOLERANCE_S - 1)
    assert site.late() == []
    site.pass_s(1)
    assert {event.phase for event in site.late()} == {"limit"}


def test_a_daemon_that_stood_still_listens_before_it_accuses() -> None:
    site = Site()
    site.placed()
    site.pass_s(10)
    site.clock.advance(3600 * SECOND_US)
    site.fleet.look()
    site.pass_s(TOLERANCE_S - 1)
    assert site.late() == []
    site.pass_s(1)
    assert len(site.late()) == 1


def test_an_agent_that_reconnects_for_ever_must_answer_in_the_end() -> None:
    site = Site()
    site.placed()
    for _ in range(PUT_OFF_MAX):
        site.pass_s(TOLERANCE_S - 20)
        never_had_it(site)
    assert site.late() == []
    site.pass_s(TOLERANCE_S - 20)
    never_had_it(site)
    site.pass_s(20)
    assert [event.phase for event in site.late()] == ["start"]


def test_what_is_on_a_node_out_of_contact_is_nobodys_fault() -> None:
    site = Site()
    site.placed()
    site.backend.disconnect("n-1")
    site.pass_s(10 * TOLERANCE_S)
    assert site.late() == []


def test_a_start_that_comes_late_is_taken_and_the_job_goes_on_to_its_stop() -> None:
    site = Site()
    job, attempt = site.placed()
    site.pass_s(TOLERANCE_S)
    site.fleet.started(site.node(), Started(attempt.id, 0, 9, site.clock.boot_us()))
    site.writer.flush()
    assert attempt.overdue == {}
    assert attempt.state == "STOPPING"
    site.exited_of(attempt, EndCause.COMPLETED, exit_code=0)
    assert job.state is JobState.SUCCEEDED


def test_many_that_are_overdue_at_once_are_told_in_pieces() -> None:
    site = Site()
    wide = NodeFacts(name="n-9", cpu_milli=1_000_000, memory_bytes=1 << 40)
    site.backend.connect(wide)
    for _ in range(LATE_MAX + 5):
        site.submit(time_limit_us=LIMIT_US)
    site.cycle()
    assert len(site.state.attempts) == LATE_MAX + 5
    site.pass_s(TOLERANCE_S - 1)
    site.clock.advance(SECOND_US)
    assert site.fleet.look()
    site.writer.flush()
    assert len(site.late()) == LATE_MAX
    assert not site.fleet.look()
    site.writer.flush()
    assert len(site.late()) == LATE_MAX + 5


def test_the_log_gives_the_same_again_and_an_image_keeps_what_is_overdue() -> None:
    site = Site()
    _, attempt = site.placed()
    site.pass_s(TOLERANCE_S)
    assert attempt.overdue
    again = image.decode(image.encode(site.state, site.engine.now()))
    assert again.attempts[attempt.id].overdue == attempt.overdue
    replayed = State(Limits())
    for seq, event in enumerate(site.events):
        replayed.apply(event, seq, Applied())
    assert replayed.attempts[attempt.id].overdue == attempt.overdue


# --- honest agents


class Slow(MemoryBackend):
    """An honest agent that does and tells everything late, by less than is tolerated."""

    def __init__(self, site: Site, start_s: int, runs_s: int, tell_s: int) -> None:
        super().__init__(site.clock)
        self.start_us, self.runs_us, self.tell_us = (each * SECOND_US for each in (start_s, runs_s, tell_s))
        self.site = site
        self.told: list[tuple[int, str, Assign]] = []
        self.tell_at: int | None = None
        self.serve(site.fleet)

    def assign(self, node_id: str, order: Assign) -> None:
        self.told.append((self.site.clock.boot_us() + self.start_us, node_id, order))

    def stop(self, node_id: str, order: Stop) -> None:
        super().stop(node_id, order)
        self._happened()

    def disconnect(self, name: str) -> None:
        self.told.clear()  # with the connection went what was on its way
        super().disconnect(name)

    def _happened(self) -> None:
        if self.tell_at is None:
            self.tell_at = self.site.clock.boot_us() + self.tell_us

    def turn(self) -> None:
        """What is due by now is done, and told."""
        now_us = self.site.clock.boot_us()
        for due in [one for one in self.told if one[0] <= now_us]:
            self.told.remove(due)
            super().assign(due[1], due[2])
            self._happened()
        for attempt_id, rank in self.running("n-1"):
            member = self._machines["n-1"].members[attempt_id, rank]
            if now_us - member.started_boot_us >= self.runs_us:
                self.finish(attempt_id, rank)
                self._happened()
        if self.tell_at is not None and now_us >= self.tell_at:
            self.tell_at = None
            self.report()
            self.site.writer.flush()


STEP_S = 5


def times(longest_s: int) -> st.SearchStrategy[int]:
    """Multiples of a step, in seconds."""
    return st.integers(0, longest_s // STEP_S).map(lambda steps: steps * STEP_S)


@settings(max_examples=30, deadline=None)
@given(
    start_s=times(TOLERANCE_S - STEP_S),
    runs_s=times(LIMIT_S + GRACE_S),
    tell_s=times(TOLERANCE_S - STEP_S),
    cancel_s=st.none() | times(800),
    drops=st.sets(times(900), max_size=3),
    restarts=st.sets(times(900), max_size=2),
    stands_still=st.none() | st.tuples(times(900), st.integers(31, 7200)),
)
def test_no_deadline_ever_passes_for_an_agent_that_is_late_by_less_than_is_tolerated(
    start_s: int,
    runs_s: int,
    tell_s: int,
    cancel_s: int | None,
    drops: set[int],
    restarts: set[int],
    stands_still: tuple[int, int] | None,
) -> None:
    """Words come late, streams break, the daemon is killed or stands still, jobs are cancelled."""
    start_s = min(
        start_s, TOLERANCE_S - STEP_S - tell_s
    )  # from the order to the word, less than is tolerated
    site = Site()
    site.backend = agent = Slow(site, start_s, runs_s, tell_s)
    agent.connect(FACTS)
    job, _ = site.placed()
    seconds = 0
    while not job.state.terminal:
        assert seconds < 5_000, job
        agent.turn()
        if stands_still is not None and seconds == stands_still[0]:
            site.clock.advance(stands_still[1] * SECOND_US)
        if seconds in drops:
            agent.disconnect("n-1")
            agent.connect(FACTS)
        if seconds in restarts:
            site.restart()
            agent.connect(FACTS)
        if seconds == cancel_s and not job.state.terminal:
            site.engine.commit(jobs.cancel(site.state, job, None), "ann")
        site.writer.flush()
        site.fleet.look()
        if job.state is JobState.PENDING:
            site.cycle()
        site.clock.advance(STEP_S * SECOND_US)
        seconds += STEP_S
    assert site.late() == []
    assert site.node().mode == "open"
