"""What an agent says costs nobody more than the daemon's own clock saw pass (A1), and a liar is put aside.

The node costs 12 USD an hour or so; what matters is always rate x time by the daemon's clock.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.clock import DAY_US, HOUR_US, SECOND_US
from bursar.errors import BursarError, InvalidRequest, ServerUnavailable
from bursar.model import Device, EndCause, JobState, NodeFacts, RetrySpec
from bursar.money import cumulative
from bursard import doctor
from bursard.cycle import reason_of
from bursard.events import ClusterCreated, MemberEnded, NodeMetered, NodeQuarantined
from bursard.fleet import Condition, Counter, Exited, Hello, MemberTruth, Started, Usage
from bursard.fleet.believe import DRIFT, MEMBER_SLACK_US, SLACK_US, TOLD_US
from bursard.fleet.testing import FACTS, World
from bursard.services.views import node_state
from bursard.state import Limits, State
from bursard.state.decide import nodes
from bursard.state.tables import Applied

YEAR_US = 365 * DAY_US
BUDGET = """\
kind: Budget
name: tight
spec: {scope: {project: p}, limit: 1 USD, period: year}
"""


class Running(World):
    """A node with one job that runs on it."""

    def __init__(self, **spec: Any) -> None:
        super().__init__()
        self.backend.connect(FACTS)
        self.job = self.submit(**spec)
        self.cycle()
        assert self.job.attempt is not None
        self.attempt = self.job.attempt
        self.backend.report()
        self.writer.flush()
        self.rate = self.attempt.rate
        assert self.rate > 0

    def exited(self, **changes: Any) -> None:
        word = Exited(attempt_id=self.attempt.id, rank=0, cause=EndCause.COMPLETED, exit_code=0)
        self.fleet.exited(self.node(), msgspec.structs.replace(word, **changes))
        self.writer.flush()

    def metered(self, at_boot_us: int, *counters: Counter) -> None:
        self.fleet.usage(self.node(), Usage(1, "boot-1", at_boot_us, counters))
        self.writer.flush()

    def cost_of(self, us: int) -> int:
        """What this long costs, less the rounding of each component."""
        return cumulative(self.rate, us)

    def lie(self) -> str:
        return self.node().reason if self.node().mode == "quarantine" else ""


def test_an_end_that_claims_a_year_is_billed_by_the_daemons_clock_and_quarantines_its_node() -> None:
    world = Running(time_limit_us=20 * 60 * SECOND_US)
    world.apply(BUDGET)
    world.clock.advance(300_000)
    world.exited(held_us=YEAR_US)
    assert world.job.state is JobState.SUCCEEDED
    assert world.settled_nanos() <= world.cost_of(300_000)
    assert "could hold for 0 s" in world.lie()
    assert node_state(world.node()) == "quarantined"
    assert any(isinstance(event, NodeQuarantined) for event in world.events)


def test_a_reading_of_the_boot_clock_far_ahead_makes_no_hours() -> None:
    world = Running()
    world.clock.advance(10 * SECOND_US)
    world.metered(world.clock.boot_us() + 50 * YEAR_US, Counter(world.attempt.id, 0, 50 * YEAR_US))
    (event,) = [event for event in world.events if isinstance(event, NodeMetered)][-1:]
    assert len(event.used) + len(event.rest) <= 3
    assert world.settled_nanos() <= world.cost_of(10 * SECOND_US)
    assert "ahead of the daemon's clock" in world.lie()


@pytest.mark.parametrize("value", [2**63, 2**64 - 1, 2**62])
def test_a_number_no_clock_can_show_is_refused_by_its_name_and_blames_nobody(value: int) -> None:
    world = Running()
    with pytest.raises(InvalidRequest, match=r"usage\.at_boot_us"):
        world.metered(value)
    assert world.lie() == ""


def test_a_liars_work_goes_on_is_metered_and_gets_no_company_until_somebody_resumes_it() -> None:
    world = Running()
    world.clock.advance(60 * SECOND_US)
    world.metered(world.clock.boot_us() + YEAR_US)
    world.submit()
    world.cycle()
    assert world.attempt.state == "RUNNING"
    assert len(world.state.attempts) == 1
    world.clock.advance(60 * SECOND_US)
    world.backend.report()
    assert world.attempt.members[0].charged_us == 120 * SECOND_US
    world.engine.commit(nodes.scheduling(world.node(), "open", ""), "root")
    world.cycle()
    assert len(world.state.attempts) == 2


def test_doctor_names_the_liar_its_lie_and_the_verb() -> None:
    world = Running()
    world.metered(world.clock.boot_us() + YEAR_US)
    (finding,) = [found for found in doctor.check_state(world.state) if found.check == "nodes"]
    assert not finding.ok
    assert "n-1 is quarantined: its boot clock is" in finding.message
    assert "bursar node resume" in finding.remedy


def test_a_liar_is_quarantined_once_however_often_it_lies() -> None:
    world = Running()
    for _ in range(5):
        world.metered(world.clock.boot_us() + YEAR_US)
    assert sum(isinstance(event, NodeQuarantined) for event in world.events) == 1


def test_a_start_before_its_order_counts_from_the_order() -> None:
    world = World()
    world.backend.connect(FACTS)
    world.clock.advance(HOUR_US)
    world.fleet.heartbeat(world.node(), world.clock.boot_us())
    job = world.submit()
    world.cycle()
    assert job.attempt is not None
    attempt = job.attempt
    world.fleet.started(world.node(), Started(attempt.id, 0, 9, world.clock.boot_us() - HOUR_US))
    world.clock.advance(SECOND_US)
    word = Exited(attempt_id=attempt.id, rank=0, cause=EndCause.COMPLETED, exit_code=0, held_us=HOUR_US)
    world.fleet.exited(world.node(), word)
    assert world.settled_nanos() <= cumulative(attempt.rate, SECOND_US)
    assert "before that was placed" in world.node().reason


def test_an_hour_without_a_heartbeat_before_the_order_is_not_the_members() -> None:
    """Its node was heard an hour ago, so it may have started then; what it holds counts from the order."""
    world = World()
    world.backend.connect(FACTS)
    heard_us = world.clock.boot_us()
    world.clock.advance(HOUR_US)
    job = world.submit(time_limit_us=2 * HOUR_US)
    world.cycle()
    assert job.attempt is not None
    attempt = job.attempt
    world.fleet.started(world.node(), Started(attempt.id, 0, 9, heard_us))
    world.clock.advance(SECOND_US)
    word = Exited(attempt_id=attempt.id, rank=0, cause=EndCause.COMPLETED, exit_code=0, held_us=HOUR_US)
    world.fleet.exited(world.node(), word)
    assert attempt.members[0].charged_us == SECOND_US
    assert "could hold for 1 s" in world.node().reason


@pytest.mark.parametrize(("extra_us", "lies"), [(0, False), (1, True)])
def test_the_tolerance_of_a_member_is_a_second_and_not_a_microsecond_more(extra_us: int, lies: bool) -> None:
    world = Running()
    world.exited(held_us=MEMBER_SLACK_US + extra_us)
    assert bool(world.lie()) is lies
    assert world.attempt.members[0].charged_us == 0


@pytest.mark.parametrize("restarted", [False, True])
def test_attempts_that_claim_too_much_are_billed_no_longer_than_passed(restarted: bool) -> None:
    """1. A node ends each of 40 members 50 ms after its order, says 900 ms. 2. 2 s pass, 2 s are billed"""
    world = Running()
    for _ in range(40):
        attempt = world.job.attempt
        assert attempt is not None
        since_us = world.clock.boot_us()
        world.fleet.started(world.node(), Started(attempt.id, 0, 9, since_us))
        world.clock.advance(50_000)
        if restarted:
            world.restart()
            world.fleet.hello(Hello(facts=FACTS, boot_id="boot-1", boot_us=world.clock.boot_us()))
        word = Exited(attempt_id=attempt.id, rank=0, cause=EndCause.COMPLETED, exit_code=0, held_us=900_000)
        world.fleet.exited(world.node(), word)
        world.writer.flush()
        world.job = world.submit()
        world.cycle()
    world.cycle()
    passed_us = 40 * 50_000
    assert world.cost_of(passed_us) - 120 <= world.settled_nanos()
    assert world.settled_nanos() <= world.cost_of(passed_us + passed_us // DRIFT)
    assert world.lie() == ""


def test_a_clock_that_leads_its_anchor_is_one_tolerance_of_its_node_and_no_more() -> None:
    """The hello that anchored it was on its way for 400 ms, as a reading shows: an end is believed so far."""
    world = Running()
    world.clock.advance(10 * SECOND_US)
    world.restart()
    ahead_us = world.clock.boot_us() + 400_000
    world.fleet.hello(Hello(facts=FACTS, boot_id="boot-1", boot_us=ahead_us))
    world.exited(held_us=11 * SECOND_US)
    assert world.attempt.members[0].charged_us == 10_400_000 + 10_400
    assert world.lie() == ""


def test_what_is_told_again_of_one_rank_while_its_gang_runs_changes_nothing() -> None:
    world = World()
    for name in ("n-1", "n-2"):
        world.backend.connect(msgspec.structs.replace(FACTS, name=name))
    job = world.submit(nodes=2)
    world.cycle()
    world.backend.report()
    assert job.attempt is not None
    node = world.state.nodes[job.attempt.members[0].alloc.node_id]
    end = Exited(attempt_id=job.attempt.id, rank=0, cause=EndCause.COMPLETED, exit_code=0)
    world.fleet.exited(node, end)
    before = world.state.version
    world.fleet.exited(node, msgspec.structs.replace(end, held_us=YEAR_US, started_boot_us=YEAR_US))
    world.fleet.started(node, Started(job.attempt.id, 0, 9, world.clock.boot_us() + YEAR_US))
    assert (world.state.version, node.mode) == (before, "open")


def test_a_member_of_another_node_is_none_of_its_business() -> None:
    world = Running()
    world.backend.connect(msgspec.structs.replace(FACTS, name="n-2"))
    other = world.node("n-2")
    end = Exited(attempt_id=world.attempt.id, rank=0, cause=EndCause.FAILED, exit_code=1, held_us=1)
    world.fleet.exited(other, end)
    world.fleet.started(other, Started(world.attempt.id, 0, 9, world.clock.boot_us()))
    world.fleet.usage(other, Usage(1, "boot-1", world.clock.boot_us(), (Counter(world.attempt.id, 0, 5),)))
    assert world.attempt.state == "RUNNING"
    assert world.attempt.members[0].charged_us == 0
    assert other.mode == "quarantine"
    assert other.reason == "it speaks for an attempt that is not its own"
    assert world.lie() == ""


def test_a_rank_that_is_not_there_is_nobodys() -> None:
    world = Running()
    world.exited(rank=7)
    assert world.attempt.state == "RUNNING"
    assert world.lie() == "it speaks for an attempt that is not its own"


def test_what_is_told_twice_or_late_changes_nothing_and_is_no_lie() -> None:
    world = Running()
    start = Started(world.attempt.id, 0, 1, world.clock.boot_us())
    world.clock.advance(60 * SECOND_US)
    world.backend.report()
    early = Usage(1, "boot-1", world.clock.boot_us() - 30 * SECOND_US, (Counter(world.attempt.id, 0, 1),))
    before = world.state.version
    world.fleet.usage(world.node(), early)
    world.fleet.started(world.node(), start)
    assert world.state.version == before
    world.exited(held_us=60 * SECOND_US)
    after = world.state.version
    world.exited(held_us=60 * SECOND_US)
    world.exited(held_us=YEAR_US)
    world.fleet.started(world.node(), start)
    assert (world.state.version, world.lie()) == (after, "")
    assert sum(isinstance(event, MemberEnded) for event in world.events) == 1


def test_a_counter_that_falls_is_a_lie_and_takes_nothing_back() -> None:
    world = Running()
    world.clock.advance(600 * SECOND_US)
    world.backend.report()
    settled = world.settled_nanos()
    world.clock.advance(60 * SECOND_US)
    world.metered(world.clock.boot_us(), Counter(world.attempt.id, 0, 5 * SECOND_US))
    assert world.settled_nanos() == settled
    assert "fell" in world.lie()


def test_usage_of_an_earlier_boot_is_ignored() -> None:
    world = Running()
    before = world.state.version
    word = Usage(1, "boot-0", 10**12, (Counter(world.attempt.id, 0, 10**12),))
    world.fleet.usage(world.node(), word)
    assert (world.state.version, world.lie()) == (before, "")


@pytest.mark.parametrize("cause", ["cancelled", "preempted", "idle", "budget"])
def test_an_end_that_only_the_daemon_orders_is_a_failure_when_it_did_not(cause: str) -> None:
    world = Running()
    asked = "the daemon for:" if cause == "cancelled" else "for:"
    world.exited(cause=EndCause(cause), exit_code=-1, signal=15, message="so it says")
    assert world.job.state is JobState.FAILED
    assert world.job.message == f"ended as {cause}, which nobody asked {asked} so it says"
    world = Running()
    world.stop(world.attempt)
    world.exited(cause=EndCause(cause), exit_code=-1, signal=15)
    assert world.job.state is JobState.CANCELLED


def test_a_boot_is_anchored_again_a_few_times_and_then_called_ahead_of_its_time() -> None:
    world = World()
    world.backend.connect(FACTS)
    before, ahead_us = world.state.version, world.clock.boot_us()
    for _ in range(1000):
        ahead_us += 2 * SECOND_US
        world.fleet.heartbeat(world.node(), ahead_us)
    assert "ahead of the daemon's clock" in world.node().reason
    assert world.state.version == before + 3 + 1
    world.backend.connect(FACTS, "boot-2")
    booted = world.state.version
    world.fleet.heartbeat(world.node(), world.clock.boot_us() + 2 * SECOND_US)
    assert world.state.version == booted + 1


def test_usage_that_adds_next_to_nothing_is_acknowledged_and_not_booked() -> None:
    world = Running()
    before, since_us = world.state.version, world.clock.boot_us()
    for number in range(1, 1000):
        world.clock.advance(100)
        world.metered(since_us + number * 100)
    assert world.state.version == before
    world.clock.advance(100)
    world.metered(since_us + 100_000, Counter(world.attempt.id, 0, 100_000))
    assert (world.state.version, world.attempt.members[0].charged_us) == (before + 1, 100_000)


def test_a_lost_node_is_the_daemons_verdict_and_from_an_agent_a_failure() -> None:
    world = World()
    world.backend.connect(FACTS)
    job = world.submit()
    world.cycle()
    assert job.attempt is not None
    word = Exited(attempt_id=job.attempt.id, rank=0, cause=EndCause.NODE_LOST, message="gone")
    start_us = world.clock.boot_us()
    world.fleet.exited(world.node(), msgspec.structs.replace(word, started=True, started_boot_us=start_us))
    assert (job.state, job.attempts[0].cause) == (JobState.FAILED, EndCause.FAILED)
    assert job.message == "ended as node_lost, in a boot that goes on: gone"


def test_a_node_that_says_again_and_again_that_it_was_lost_gets_no_more_work() -> None:
    world = World()
    world.backend.connect(FACTS)
    jobs = [world.submit(retry=RetrySpec(("failed",), 20)) for _ in range(3)]
    for _ in range(20):
        world.cycle()
        for attempt in list(world.state.attempts.values()):
            now_us = world.clock.boot_us()
            word = Exited(attempt_id=attempt.id, rank=0, cause=EndCause.NODE_LOST, started_boot_us=now_us)
            world.fleet.exited(world.node(), word)
        world.clock.advance(SECOND_US)
    assert world.node().reason == "it lost what ran there 6 times in 10 minutes"
    assert sum(len(job.attempts) for job in jobs) == 6


def test_a_node_that_boots_again_and_again_gets_no_more_work_until_it_is_resumed() -> None:
    world = World()
    for boot in range(6):
        world.backend.connect(FACTS, f"boot-{boot}")
        world.clock.advance(60 * SECOND_US)
        assert world.node().mode == "open"
    world.backend.connect(FACTS, "boot-6")
    assert world.node().reason == "it was booted 6 times in 10 minutes"
    world.engine.commit(nodes.scheduling(world.node(), "open", ""), "root")
    world.writer.flush()
    world.backend.connect(FACTS, "boot-7")
    assert world.node().mode == "open"


def gpus(name: str, kind: str) -> NodeFacts:
    return msgspec.structs.replace(FACTS, name=name, devices=(Device(0, "u", kind, 1 << 36),))


def test_kinds_of_devices_are_those_of_nodes_that_are_there() -> None:
    """1. A node says 1,200 kinds, an hour apart. 2. Each is gone with the next; an honest kind is taken."""
    world = World()
    world.backend.connect(gpus("n-1", "A100"))
    for number in range(1_200):
        world.clock.advance(HOUR_US)
        world.backend.connect(gpus("n-2", f"FAKE{number}"))
    world.backend.connect(gpus("n-3", "H100"))
    assert world.state.cluster.kinds() == {"A100", "FAKE1199", "H100"}
    assert len(world.state.cluster.gpu_types) <= 4
    columns = world.state.cluster.columns()
    found = {name: columns.gpu_types[k] for name, k in zip(columns.names, columns.gpu_type, strict=True)}
    assert found == {"n-1": "A100", "n-2": "FAKE1199", "n-3": "H100"}
    assert world.node("n-2").mode == "open"


def test_a_place_that_another_kind_has_taken_is_not_the_same_node_to_a_plan() -> None:
    world = World()
    world.backend.connect(gpus("n-1", "A"))
    row, planned = world.node().row, world.state.cluster.columns()
    world.backend.connect(gpus("n-1", "B"))
    world.backend.connect(gpus("n-1", "C"))
    assert world.state.cluster.gpu_type[row] == planned.gpu_type[row]
    assert not world.state.cluster.same(row, planned)
    world.backend.connect(gpus("n-1", "D"))
    world.backend.connect(gpus("n-1", "A"))
    assert world.state.cluster.same(row, planned)


def test_a_node_that_changes_its_kind_again_and_again_gets_no_more_work() -> None:
    world = World()
    for number in range(4):
        world.backend.connect(gpus("n-1", f"FAKE{number}"))
        assert world.node().mode == "open"
    world.backend.connect(gpus("n-1", "FAKE4"))
    assert world.node().reason == "it changed its kind of devices 4 times in 10 minutes"


def test_boots_that_are_far_apart_are_a_machines_life() -> None:
    world = World()
    for boot in range(30):
        world.backend.connect(FACTS, f"boot-{boot}")
        world.clock.advance(121 * SECOND_US)
    assert world.node().mode == "open"


@pytest.mark.parametrize("how", ["boots", "kinds", "starts"])
def test_a_restart_of_the_daemon_forgives_nothing_and_replay_gives_the_same(how: str) -> None:
    """Half of it before the restart, half after it."""
    world, replayed = World(), State(Limits())
    heard: list[tuple[Any, int]] = []
    world.engine.listeners.append(lambda seq, event, at, actor: heard.append((event, at)))
    world.backend.connect(FACTS)
    for step in range(12):
        if step == 3:
            world.restart()
            world.backend.connect(FACTS if how != "kinds" else gpus("n-1", f"FAKE{step - 1}"))
        if how == "boots":
            world.backend.connect(FACTS, f"boot-{step}x")
        elif how == "kinds":
            world.backend.connect(gpus("n-1", f"FAKE{step}"))
        else:
            world.submit()
            world.cycle()
            world.fail_to_start()
    assert world.node().mode == "quarantine"
    world.writer.flush()
    for event, at in [(ClusterCreated("c", "USD"), 0), *heard]:
        replayed.apply(event, at, Applied())
    again = replayed.nodes[world.node().id]
    assert (again.mode, again.reason, again.misbehaved, again.not_started) == (
        "quarantine",
        world.node().reason,
        world.node().misbehaved,
        world.node().not_started,
    )


def test_free_retries_in_a_row_wait_twice_as_long_each_time_and_say_so() -> None:
    """1. A job's node is lost at once, ten times. 2. The next try waits 0, 2, 4, 8 ... and at most 60 s."""
    world = World()
    world.backend.connect(FACTS)
    job, waits = world.submit(), []
    for boot in range(10):
        world.cycle()
        world.backend.report()
        world.backend.connect(FACTS, f"lost-{boot}")
        waits.append(max(job.retry_at - world.engine.now(), 0) // SECOND_US)
        world.engine.commit(nodes.scheduling(world.node(), "open", ""), "root")
        world.cycle()
        if waits[-1]:
            assert job.state is JobState.PENDING
            reason = reason_of(world.state, None, job, world.engine.now())
            assert reason is not None
            assert f"it is tried again in {waits[-1]} s" in reason.message
            world.clock.advance(waits[-1] * SECOND_US)
            world.state.wake(world.engine.now())
    assert waits == [0, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert job.retries == 0
    world.cycle()
    world.backend.report()
    world.clock.advance(60 * SECOND_US)
    world.backend.connect(FACTS, "boot-last")
    assert (job.free_retries, job.retry_at) == (1, 0)


def test_a_hello_from_the_past_is_refused_and_changes_nothing() -> None:
    world = Running()
    world.clock.advance(HOUR_US)
    world.fleet.heartbeat(world.node(), world.clock.boot_us())
    before = world.state.version
    with pytest.raises(ServerUnavailable, match="from the past"):
        world.fleet.hello(Hello(facts=FACTS, boot_id="boot-1", boot_us=world.clock.boot_us() - HOUR_US))
    assert (world.state.version, world.lie()) == (before, "")


def test_a_reboot_bills_no_more_than_passed_for_what_was_spooled() -> None:
    world = Running()
    world.clock.advance(100 * SECOND_US)
    end = Exited(attempt_id=world.attempt.id, rank=0, cause=EndCause.NODE_LOST, held_us=YEAR_US)
    truth = MemberTruth(attempt_id=world.attempt.id, rank=0, running=False, boot_id="boot-1", exit=end)
    world.fleet.hello(Hello(facts=FACTS, boot_id="boot-2", boot_us=5, truths=(truth,)))
    assert world.settled_nanos() <= world.cost_of(100 * SECOND_US)
    assert world.job.state is JobState.PENDING
    assert world.lie()


def test_nothing_is_billed_beyond_limit_grace_and_margin_though_the_clock_allows_it() -> None:
    """A machine that slept for three days with a job of an hour: nobody could end it, nobody held more."""
    world = Running()
    world.clock.advance(3 * DAY_US)
    world.backend.report()
    most_us = HOUR_US + world.attempt.grace_us + 5 * SECOND_US
    assert world.attempt.members[0].charged_us == most_us
    world.backend.finish(world.attempt.id, 0)
    world.backend.report()
    assert world.cost_of(most_us) - 3 <= world.settled_nanos() <= world.cost_of(most_us)
    assert world.lie() == ""


# --- the honest


@pytest.mark.parametrize("daemon_boot", ["daemon-boot", "another boot"])
def test_a_job_whose_daemon_was_down_for_a_week_is_billed_for_all_of_it(daemon_boot: str) -> None:
    world = Running(time_limit_us=14 * DAY_US)
    world.backend.disconnect("n-1")
    world.clock.advance(7 * DAY_US)
    world.restart(daemon_boot)
    world.backend.connect(FACTS)
    world.backend.report()
    assert world.attempt.members[0].charged_us == 7 * DAY_US
    world.backend.finish(world.attempt.id, 0)
    world.backend.report()
    assert world.cost_of(7 * DAY_US) - 3 <= world.settled_nanos() <= world.cost_of(7 * DAY_US)
    assert (world.lie(), world.job.state) == ("", JobState.SUCCEEDED)


@pytest.mark.parametrize("step_us", [-40 * DAY_US, 40 * DAY_US])
def test_a_step_of_the_daemons_wall_clock_makes_no_liar_and_moves_no_bill(step_us: int) -> None:
    world = Running(time_limit_us=14 * DAY_US)
    world.clock.step_wall(step_us)
    world.clock.advance(HOUR_US)
    world.restart()
    world.backend.connect(FACTS)
    world.backend.report()
    assert world.attempt.members[0].charged_us == HOUR_US
    assert world.lie() == ""


def test_a_wall_clock_set_back_across_a_reboot_of_the_daemons_machine_is_the_daemons_own_doubt() -> None:
    world = Running(time_limit_us=14 * DAY_US)
    world.clock.step_wall(-400 * DAY_US)
    world.clock.advance(HOUR_US)
    world.restart("another boot")
    world.backend.connect(FACTS)
    world.backend.report()
    assert world.lie() == ""
    world.clock.step_wall(400 * DAY_US)
    world.clock.advance(SECOND_US)
    world.backend.report()
    assert (world.attempt.members[0].charged_us, world.lie()) == (HOUR_US + SECOND_US, "")


def test_a_hello_that_was_long_on_its_way_makes_no_liar_of_its_node() -> None:
    """1. An agent says hello. 2. The daemon sleeps for an hour and then hears it. 3. All else is prompt."""
    world = World()
    hello = Hello(facts=FACTS, boot_id="boot-1", boot_us=world.clock.boot_us())
    world.clock.advance(HOUR_US)
    world.fleet.hello(hello)
    world.backend.connect(FACTS)
    job = world.submit()
    world.cycle()
    world.backend.report()
    world.clock.advance(60 * SECOND_US)
    world.backend.report()
    assert job.attempt is not None
    assert job.attempt.members[0].charged_us == 60 * SECOND_US
    assert world.node().mode == "open"


def test_a_clock_that_runs_fast_by_what_clocks_may_is_believed() -> None:
    world = Running(time_limit_us=40 * DAY_US)
    world.clock.advance(30 * DAY_US)
    fast_us = 30 * DAY_US + 30 * DAY_US // 2_000
    start = world.clock.boot_us() - 30 * DAY_US
    world.metered(start + fast_us, Counter(world.attempt.id, 0, fast_us))
    assert (world.attempt.members[0].charged_us, world.lie()) == (fast_us, "")


# --- and everybody


WHEN = st.sampled_from(
    [0, 1, SECOND_US, 59 * SECOND_US, HOUR_US, DAY_US, YEAR_US, 99 * YEAR_US, 2**63, 2**64 - 1]
)
OFFSET = st.tuples(WHEN, st.sampled_from([-1, 0, 1]))
WORDS = st.lists(
    st.tuples(
        st.sampled_from(["start", "usage", "end", "hello", "reboot", "beat", "pass", "cycle", "restart"]),
        OFFSET,
        WHEN,
        st.integers(0, 2),
        st.sampled_from(["completed", "failed", "node_lost", "preempted", "time_limit", "idle"]),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(words=WORDS)
def test_no_liar_settles_more_than_time_passed_nor_passes_a_hard_budget(words: list[Any]) -> None:
    world = World()
    world.apply(BUDGET)
    world.backend.connect(FACTS)
    placed: dict[str, tuple[int, int]] = {}
    world.submit(time_limit_us=60 * SECOND_US)
    world.submit(time_limit_us=120 * SECOND_US)
    boots = 1
    for kind, (far_us, sign), held_us, which, cause in words:
        world.cycle()
        for attempt in world.state.attempts.values():
            placed.setdefault(attempt.id, (world.clock.boot_us(), attempt.rate))
        names = [*placed, "att_unknown", "att_unknown"]
        attempt_id, boot_us = names[min(which, len(names) - 1)], world.clock.boot_us() + sign * far_us
        node, boot_id = world.node(), f"boot-{boots}"
        try:
            match kind:
                case "start":
                    world.fleet.started(node, Started(attempt_id, 0, 1, boot_us))
                case "usage":
                    world.fleet.usage(node, Usage(1, boot_id, boot_us, (Counter(attempt_id, 0, held_us),)))
                case "end":
                    word = Exited(attempt_id=attempt_id, rank=0, cause=EndCause(cause), held_us=held_us)
                    world.fleet.exited(node, msgspec.structs.replace(word, started_boot_us=boot_us))
                case "hello" | "reboot":
                    boots += kind == "reboot"
                    end = Exited(attempt_id=attempt_id, rank=0, cause=EndCause.NODE_LOST, held_us=held_us)
                    truth = MemberTruth(
                        attempt_id=attempt_id, rank=0, running=False, boot_id=boot_id, exit=end
                    )
                    word = Hello(facts=FACTS, boot_id=f"boot-{boots}", boot_us=boot_us, truths=(truth,))
                    world.fleet.hello(word)
                case "beat":
                    world.fleet.heartbeat(node, boot_us)
                case "pass":
                    world.clock.advance(min(far_us, HOUR_US))
                case "restart":
                    world.restart()
                case "cycle":
                    world.engine.commit(nodes.scheduling(node, "open", ""), "root")
        except BursarError:
            continue
    slack_us = SLACK_US if any(kind == "restart" for kind, *_ in words) else 0
    most = 0
    for since_us, rate in placed.values():
        passed_us = world.clock.boot_us() - since_us
        most += math.ceil(rate * (passed_us + passed_us // DRIFT + slack_us) / HOUR_US)
    assert world.settled_nanos() <= most
    assert len(world.writer.charges) < 30 * (len(words) + 2)
    record = world.state.budgets.records["tight"]
    assert world.state.ledger.room(record.name, record.period_start, record.spec.limit.nanos) >= 0
    assert world.state.ledger.violations() == []


# --- too little


def beats(world: Running, us: int, every_us: int = 5 * SECOND_US) -> None:
    """Its node is heard for so long, and tells no end."""
    for _ in range(us // every_us):
        world.clock.advance(every_us)
        world.fleet.heartbeat(world.node(), world.clock.boot_us())


def test_an_end_after_an_hour_of_heartbeats_that_counts_nothing_is_billed_for_what_was_seen() -> None:
    """1. For what is certain, and no more than real time. 2. It is said to be doubtful. 3. The node is put
    aside. 4. The job has ended as it says.
    """
    world = Running(time_limit_us=2 * HOUR_US)
    beats(world, HOUR_US)
    world.exited(held_us=0)
    sure_us = HOUR_US - TOLD_US
    assert world.cost_of(sure_us) - 3 <= world.settled_nanos() <= world.cost_of(sure_us)
    assert world.job.state is JobState.SUCCEEDED
    (ended,) = [event for event in world.events if isinstance(event, MemberEnded)]
    assert ended.report.message == "doubtful: its node says that it held for 0 s."
    assert world.lie() == "it counts 0 s for an attempt that it let run for 3480 s"


@pytest.mark.parametrize(
    ("counted_us", "so"),
    [(HOUR_US, "all of it"), (HOUR_US - TOLD_US, "told two minutes late"), (HOUR_US - SECOND_US, "at once")],
)
def test_an_end_that_is_told_soon_is_believed(counted_us: int, so: str) -> None:
    world = Running(time_limit_us=2 * HOUR_US)
    beats(world, HOUR_US)
    world.exited(held_us=counted_us)
    assert world.lie() == ""
    assert world.cost_of(counted_us) - 3 <= world.settled_nanos() <= world.cost_of(counted_us)


def test_no_more_is_billed_than_the_attempt_might_live() -> None:
    world = Running(time_limit_us=10 * 60 * SECOND_US)
    beats(world, HOUR_US)
    world.exited(held_us=0)
    assert world.settled_nanos() <= world.cost_of(10 * 60 * SECOND_US)
    assert world.lie()


def test_what_ended_while_nobody_was_connected_is_believed() -> None:
    """Its agent comes back after an hour and tells how it ended after a minute, before anything else."""
    world = Running(time_limit_us=2 * HOUR_US)
    beats(world, 60 * SECOND_US)
    world.clock.advance(HOUR_US)
    world.fleet.hello(Hello(facts=FACTS, boot_id="boot-1", boot_us=world.clock.boot_us()))
    world.exited(held_us=60 * SECOND_US)
    assert world.lie() == ""
    assert world.settled_nanos() <= world.cost_of(60 * SECOND_US)


@pytest.mark.parametrize("well_again", [False, True])
def test_a_node_whose_disk_takes_nothing_tells_ends_late_and_is_believed(well_again: bool) -> None:
    world = Running(time_limit_us=2 * HOUR_US)
    world.fleet.condition(world.node(), Condition("its agent cannot write run: No space left on device"))
    beats(world, HOUR_US)
    if well_again:
        world.fleet.condition(world.node(), Condition(""))
        beats(world, 5 * SECOND_US)
    world.exited(held_us=60 * SECOND_US)
    assert world.lie() == ""
    assert world.settled_nanos() <= world.cost_of(60 * SECOND_US)


def test_what_never_began_costs_nothing_however_long_its_node_was_heard() -> None:
    world = World()
    world.backend.connect(FACTS)
    job = world.submit()
    world.cycle()
    assert job.attempt is not None
    for _ in range(100):
        world.clock.advance(5 * SECOND_US)
        world.fleet.heartbeat(world.node(), world.clock.boot_us())
    word = Exited(attempt_id=job.attempt.id, rank=0, cause=EndCause.START_FAILED, started=False)
    world.fleet.exited(world.node(), word)
    world.writer.flush()
    assert (world.settled_nanos(), world.node().mode) == (0, "open")
