"""The agent's pure core: every race told as a numbered story, played as a list of events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from bursar.model import EndCause, Exit
from bursar_agent import stimuli as s
from bursar_agent.agent import Agent

BOOT = "boot-1"
A = ("att_a", 0)
SECOND = 1_000_000
T = TypeVar("T")


def agent(**given: int) -> Agent:
    return Agent(BOOT, **given)


def connected(**given: int) -> Agent:
    core = agent(**given)
    core.handle(s.Connected(0))
    core.handle(s.Welcomed(now_boot_us=0, epoch=1))
    return core


def assignment(key: s.Key = A, boot_id: str = BOOT, **more: object) -> s.Assignment:
    return s.Assignment(attempt_id=key[0], rank=key[1], boot_id=boot_id, **more)


def assigned(key: s.Key = A, epoch: int = 1, boot_id: str = BOOT, **more: object) -> s.Assigned:
    return s.Assigned(epoch, (assignment(key, boot_id, **more),))


def started(key: s.Key = A, at: int = 10 * SECOND) -> s.MemberStarted:
    return s.MemberStarted(attempt_id=key[0], rank=key[1], pid=77, boot_us=at)


def ended(key: s.Key = A, **more: object) -> s.MemberEnded:
    values = {"cause": EndCause.COMPLETED, "exit_code": 0, "held_us": 5 * SECOND, **more}
    return s.MemberEnded(*key, Exit(**values))


def of(kind: type[T], instructions: Sequence[s.Instruction]) -> list[T]:
    return [i for i in instructions if isinstance(i, kind)]


def play(core: Agent, *events: s.Event) -> list[s.Instruction]:
    """All instructions of all events."""
    return [instruction for event in events for instruction in core.handle(event)]


# --- starting -----------------------------------------------------------------------------------


def test_assignment_is_started_and_told() -> None:
    core = connected()
    out = play(core, assigned(), started(), ended())
    assert [type(i) for i in out] == [s.StartMembers, s.SendStarted, s.SendExited]


def test_a_node_is_busy_from_eight_members_on() -> None:
    core = connected()
    keys = [(f"att_{number}", 0) for number in range(8)]
    for key in keys[:7]:
        play(core, assigned(key), started(key))
    assert not core.busy
    play(core, assigned(keys[7]))
    assert core.busy
    play(core, ended(keys[0]))
    assert not core.busy


def test_same_assignment_twice_starts_once() -> None:
    """
    1. The daemon assigns, and the stream breaks before it hears of the start.
    2. It assigns again, twice: while starting, and while running.
    3. Only the first one starts something; the second time the truth is told.
    """
    core = connected()
    assert len(of(s.StartMembers, play(core, assigned()))) == 1
    assert play(core, assigned()) == []
    play(core, started())
    assert [type(i) for i in play(core, assigned())] == [s.SendStarted]


def test_assignment_of_an_ended_attempt_tells_its_end_again() -> None:
    core = connected()
    play(core, assigned(), started(), ended(exit_code=3, cause=EndCause.FAILED))
    (told,) = play(core, assigned())
    assert isinstance(told, s.SendExited)
    assert told.exit.exit_code == 3


def test_late_duplicate_after_forget_still_does_not_start() -> None:
    """
    1. An attempt ran, ended, and is forgotten.
    2. A duplicate of its assignment arrives late.
    3. It is answered with the end it had.
    """
    core = connected()
    play(core, assigned(), started(), ended(exit_code=4, cause=EndCause.FAILED))
    assert of(s.ForgetMember, play(core, s.ForgetReceived(*A)))
    (told,) = play(core, assigned())
    assert isinstance(told, s.SendExited)
    assert told.exit.exit_code == 4


def test_one_batch_with_a_duplicate_inside_starts_it_once() -> None:
    core = connected()
    out = core.handle(s.Assigned(1, (assignment(), assignment(("att_b", 0)), assignment())))
    (start,) = of(s.StartMembers, out)
    assert [a.attempt_id for a in start.assignments] == ["att_a", "att_b"]


def test_assignment_of_another_boot_is_refused_and_stays_refused() -> None:
    """
    1. The daemon assigns for the boot it knows; the machine has restarted meanwhile.
    2. The agent refuses: the old boot may have started it.
    3. The same attempt for the right boot does not start either: its end was told.
    """
    core = connected()
    (told,) = play(core, assigned(boot_id="boot-0"))
    assert isinstance(told, s.SendExited)
    assert told.exit.cause == "start_failed"
    assert not told.exit.started
    assert "boot-0" in told.exit.message
    assert [type(i) for i in play(core, assigned())] == [s.SendExited]


def test_lower_epoch_is_refused_but_the_ruling_daemon_may_assign_it() -> None:
    """
    1. Epoch 5 was obeyed. A daemon of epoch 4 that lost its lease assigns: refused.
    2. The ruling daemon assigns the same attempt: it starts.
    """
    core = connected(epoch=5)
    (told,) = play(core, assigned(epoch=4))
    assert isinstance(told, s.SendExited)
    assert told.exit.cause == "start_failed"
    assert "epoch 4" in told.exit.message
    assert told.fenced_epoch == 5
    assert of(s.StartMembers, play(core, assigned(epoch=5)))


def test_lower_epoch_about_a_running_attempt_tells_the_truth_not_a_failure() -> None:
    core = connected(epoch=5)
    play(core, assigned(epoch=5), started())
    assert [type(i) for i in play(core, assigned(epoch=4))] == [s.SendStarted]


def test_higher_epoch_is_persisted_before_it_is_obeyed() -> None:
    core = connected()
    out = play(core, assigned(epoch=9))
    assert [type(i) for i in out] == [s.PersistEpoch, s.StartMembers]


def test_stop_of_a_lower_epoch_is_not_obeyed() -> None:
    core = connected(epoch=5)
    play(core, assigned(epoch=5), started())
    stop = s.StopAsked(epoch=4, attempt_id=A[0], rank=0, cause="cancelled")
    assert [type(i) for i in core.handle(stop)] == [s.Note]


def test_failed_start_is_told_as_never_started() -> None:
    core = connected()
    out = play(core, assigned(), ended(cause=EndCause.START_FAILED, started=False, held_us=0))
    (told,) = of(s.SendExited, out)
    assert not told.exit.started


def test_lost_start_report_is_looked_up_in_the_files() -> None:
    """
    1. The supervisor's datagram about a start is lost.
    2. Some seconds later the agent reads the files and goes on from there.
    """
    core = connected()
    play(core, assigned(), s.Tick(1 * SECOND))
    assert of(s.ReadTruth, play(core, s.Tick(7 * SECOND)))
    truth = s.Truth(
        attempt_id=A[0],
        rank=0,
        running=True,
        boot_id=BOOT,
        pid=5,
        started_boot_us=2 * SECOND,
        reaped_before_us=30,
    )
    (told,) = play(core, s.TruthRead((truth,)))
    assert told == s.SendStarted(attempt_id=A[0], rank=0, pid=5, boot_us=2 * SECOND)
    assert core.live() == ((A, 5, 30),)


# --- stopping -----------------------------------------------------------------------------------


def stop(cause: str = "cancelled", grace_us: int = 7) -> s.StopAsked:
    return s.StopAsked(epoch=1, attempt_id=A[0], rank=0, cause=cause, grace_us=grace_us)


def test_stop_carries_cause_grace_and_checkpoint_signal() -> None:
    core = connected()
    play(core, assigned(checkpoint_signal="USR1"), started())
    (told,) = play(core, stop("preempted", 9))
    assert told == s.StopMember(attempt_id=A[0], rank=0, cause="preempted", grace_us=9, signal="USR1")


def test_stop_that_overtakes_the_start_waits_for_the_supervisor() -> None:
    """
    1. Assigned, and stopped before its supervisor exists.
    2. Nothing can be stopped yet; the moment it has started, it is.
    """
    core = connected()
    play(core, assigned())
    assert play(core, stop()) == []
    assert [type(i) for i in play(core, started())] == [s.SendStarted, s.StopMember]


def test_stop_of_an_unknown_attempt_ends_it_before_it_began() -> None:
    """
    1. The daemon stops an attempt whose assignment never arrived.
    2. The agent says that it never started, and refuses to start it from now on.
    """
    core = connected()
    (told,) = play(core, stop())
    assert isinstance(told, s.SendExited)
    assert not told.exit.started
    assert not of(s.StartMembers, play(core, assigned()))


def test_stop_of_an_ended_attempt_tells_its_end() -> None:
    core = connected()
    play(core, assigned(), started(), ended())
    assert [type(i) for i in play(core, stop())] == [s.SendExited]


# --- connection ---------------------------------------------------------------------------------


def test_exit_while_disconnected_is_told_at_every_connection_until_forgotten() -> None:
    """
    1. The stream breaks; the job ends.
    2. Hello carries the end, and it is reported, at each reconnection.
    3. After Forget it is gone.
    """
    core = connected()
    play(core, assigned(), started(), s.Disconnected())
    assert play(core, ended()) == []
    for _ in range(2):
        (hello,) = play(core, s.Connected(0))
        assert isinstance(hello, s.SendHello)
        assert [(t.running, t.exit is not None) for t in hello.truths] == [(False, True)]
        assert of(s.SendExited, play(core, s.Welcomed(now_boot_us=0, epoch=1)))
        play(core, s.Disconnected())
    play(core, s.Connected(0), s.Welcomed(now_boot_us=0, epoch=1), s.ForgetReceived(*A))
    (hello,) = play(core, s.Connected(0))
    assert isinstance(hello, s.SendHello)
    assert hello.truths == ()


def test_start_in_progress_counts_as_running_in_hello() -> None:
    core = connected()
    play(core, assigned(), s.Disconnected())
    (hello,) = play(core, s.Connected(0))
    assert isinstance(hello, s.SendHello)
    assert hello.truths[0].running


def test_forget_of_a_running_attempt_is_not_obeyed() -> None:
    core = connected()
    play(core, assigned(), started())
    assert not of(s.ForgetMember, play(core, s.ForgetReceived(*A)))
    assert core.live() == ((A, 77, None),)


def test_restarted_agent_goes_on_with_what_the_files_say() -> None:
    """
    1. The agent is killed while one member runs and one has ended untold.
    2. The next agent adopts both: one is metered, the other is told.
    3. Assigned again, neither starts.
    """
    core = agent(epoch=3)
    done = Exit(cause=EndCause.FAILED, exit_code=1)
    play(
        core,
        s.Adopted(
            (
                s.Truth(attempt_id=A[0], rank=0, running=True, boot_id=BOOT, pid=7, reaped_before_us=12),
                s.Truth(attempt_id="att_b", rank=0, running=False, boot_id=BOOT, exit=done),
            )
        ),
        s.Connected(0),
    )
    out = play(core, s.Welcomed(now_boot_us=0, epoch=3))
    assert [i.attempt_id for i in of(s.SendExited, out)] == ["att_b"]
    assert core.live() == ((A, 7, 12),)
    again = play(core, assigned(epoch=3), assigned(("att_b", 0), epoch=3))
    assert [type(i) for i in again] == [s.SendStarted, s.SendExited]


def test_reboot_ends_what_ran_at_its_last_reported_counter() -> None:
    """
    1. Usage of 90 s was spooled; then the power went.
    2. In the next boot nothing of it runs: node_lost, held for the 90 s that were told.
    """
    core = agent()
    truth = s.Truth(attempt_id=A[0], rank=0, running=True, boot_id="boot-0", pid=7)
    core.handle(s.Adopted((truth,), (s.Counter(A[0], 0, 90 * SECOND, 4 * SECOND),)))
    (told,) = core.truths()
    assert told.exit is not None
    assert (told.exit.cause, told.exit.held_us, told.exit.cpu_us) == (
        "node_lost", 90 * SECOND, 4 * SECOND,
    )  # fmt: skip
    assert core.live() == ()


# --- metering -----------------------------------------------------------------------------------


def meter(core: Agent, at: int, **cpu: int) -> s.Usage:
    """Read the meters and let the spool succeed; the usage that was sent."""
    out = play(core, s.MeterAsked(), s.MeterRead(at, {A: cpu.get("cpu_us", 0)}))
    (append,) = of(s.SpoolAppend, out)
    assert not of(s.SendUsage, out), "nothing may be sent before it is on disk"
    assert of(s.SendUsage, core.handle(s.Spooled(append.usage))) == [s.SendUsage(append.usage)]
    return append.usage


def test_usage_reads_every_live_member_at_one_instant() -> None:
    core = connected()
    play(core, assigned(), started(at=10 * SECOND), assigned(("att_b", 1)))
    play(core, started(("att_b", 1), at=12 * SECOND))
    usage = meter(core, 20 * SECOND, cpu_us=3)
    assert usage.at_boot_us == 20 * SECOND
    assert usage.counters == (
        s.Counter("att_a", 0, 10 * SECOND, 3),
        s.Counter("att_b", 1, 8 * SECOND, 0),
    )


def test_what_has_ended_and_cannot_be_told_yet_is_metered_until_it_had() -> None:
    core = connected()
    play(core, assigned(), started(at=10 * SECOND))
    out = play(core, s.MeterAsked(), s.MeterRead(60 * SECOND, {}, {A: 25 * SECOND}))
    (append,) = of(s.SpoolAppend, out)
    assert append.usage.counters == (s.Counter("att_a", 0, 15 * SECOND, 0),)


def test_meters_are_read_at_the_interval_the_daemon_set() -> None:
    core = agent()
    core.handle(s.Connected(0))
    core.handle(s.Welcomed(now_boot_us=0, epoch=1, meter_interval_us=10 * SECOND))
    play(core, assigned(), started(at=1))
    assert not of(s.ReadMeters, core.handle(s.Tick(9 * SECOND)))
    assert of(s.ReadMeters, core.handle(s.Tick(10 * SECOND)))
    assert not of(s.ReadMeters, core.handle(s.Tick(11 * SECOND)))
    assert of(s.ReadMeters, core.handle(s.Tick(20 * SECOND)))


def test_nothing_live_means_no_usage_unless_somebody_waits_for_it() -> None:
    core = connected()
    assert core.handle(s.MeterRead(5, {})) == []
    assert meter(core, 6).counters == ()
    assert core.handle(s.MeterRead(7, {})) == [], "whoever waited has been answered"


def test_lost_ack_makes_the_usage_come_again_under_its_number() -> None:
    """
    1. Usage 1 and 2 are sent; only 1 is acknowledged, then the stream breaks.
    2. At the next connection everything above 1 is sent from the spool, under the old numbers.
    3. New usage gets a new number.
    """
    core = connected()
    play(core, assigned(), started())
    meter(core, 20 * SECOND)
    meter(core, 21 * SECOND)
    assert core.handle(s.AckReceived(0, 1)) == [s.SpoolTrim(1)]
    play(core, s.Disconnected(), s.Connected(0))
    out = play(core, s.Welcomed(now_boot_us=0, epoch=1))
    assert of(s.ResendUsage, out) == [s.ResendUsage(after_seq=1)]
    assert meter(core, 22 * SECOND).seq == 3


def test_usage_is_spooled_but_not_sent_without_a_connection() -> None:
    core = agent()
    truth = s.Truth(attempt_id=A[0], rank=0, running=True, boot_id=BOOT, pid=1)
    core.handle(s.Adopted((truth,)))
    (append,) = of(s.SpoolAppend, core.handle(s.MeterRead(60 * SECOND, {})))
    assert core.handle(s.Spooled(append.usage)) == []


def test_usage_that_cannot_be_spooled_is_told_all_the_same() -> None:
    core = connected()
    play(core, assigned(), started())
    (append,) = of(s.SpoolAppend, core.handle(s.MeterRead(60 * SECOND, {})))
    out = core.handle(s.SpoolFailed(append.usage, "No space left on device"))
    assert of(s.SendUsage, out)
    assert "No space" in of(s.Note, out)[0].message


def test_counters_never_fall_not_even_at_the_end() -> None:
    """
    1. 12 s held and 5 s of CPU were reported.
    2. The supervisor, whose clock reading came earlier, reports 11.9 s and 4 s at the end.
    3. The end says 12 and 5: what was charged stays charged.
    """
    core = connected()
    play(core, assigned(), started(at=0))
    meter(core, 12 * SECOND, cpu_us=5 * SECOND)
    out = play(core, ended(held_us=11_900_000, cpu_us=4 * SECOND))
    (told,) = of(s.SendExited, out)
    assert (told.exit.held_us, told.exit.cpu_us) == (12 * SECOND, 5 * SECOND)


def test_ack_of_a_number_never_given_out_is_ignored() -> None:
    core = connected()
    assert [type(i) for i in core.handle(s.AckReceived(0, 99))] == [s.Note]


# --- spend lease --------------------------------------------------------------------------------


def leased() -> Agent:
    core = agent()
    core.handle(s.Connected(0))
    core.handle(s.Welcomed(now_boot_us=0, epoch=1, spend_lease_us=100 * SECOND))
    play(core, assigned(grace_us=3 * SECOND), started(at=1))
    return core


def test_spend_lease_ends_members_when_the_daemon_stays_away() -> None:
    """
    1. The daemon dies; its lease is 100 s.
    2. After it, members are stopped for their budget, once, with their grace.
    """
    core = leased()
    core.handle(s.Tick(50 * SECOND))
    core.handle(s.Disconnected())
    assert not of(s.StopMember, core.handle(s.Tick(150 * SECOND)))
    (told,) = of(s.StopMember, core.handle(s.Tick(151 * SECOND)))
    assert (told.cause, told.grace_us) == ("budget", 3 * SECOND)
    assert not of(s.StopMember, core.handle(s.Tick(152 * SECOND)))


def test_spend_lease_is_renewed_by_a_living_daemon() -> None:
    core = leased()
    for second in range(1, 500):
        assert not of(s.StopMember, core.handle(s.Tick(second * SECOND)))


def test_spend_lease_runs_when_a_connected_daemon_charges_nothing() -> None:
    """
    1. The stream is open, but usage is never acknowledged: nobody writes the ledger.
    2. The lease ends all the same.
    """
    core = leased()
    meter(core, 10 * SECOND)
    assert not of(s.StopMember, core.handle(s.Tick(90 * SECOND)))
    assert of(s.StopMember, core.handle(s.Tick(111 * SECOND)))


def test_spend_lease_outlives_a_restart_of_the_agent() -> None:
    core = agent(spend_lease_us=100 * SECOND, now_boot_us=1000 * SECOND)
    truth = s.Truth(attempt_id=A[0], rank=0, running=True, boot_id=BOOT, pid=1)
    core.handle(s.Adopted((truth,)))
    assert not of(s.StopMember, core.handle(s.Tick(1100 * SECOND)))
    assert of(s.StopMember, core.handle(s.Tick(1101 * SECOND)))


# --- whatever happens ---------------------------------------------------------------------------

keys = st.sampled_from([("att_a", 0), ("att_a", 1), ("att_b", 0)])
events = st.one_of(
    st.builds(assigned, keys, st.integers(1, 3), st.sampled_from([BOOT, BOOT, "boot-0"])),
    st.builds(started, keys, st.integers(1, 50)),
    st.builds(lambda k, n, m: ended(k, held_us=n, cpu_us=m), keys, st.integers(0, 99), st.integers(0, 99)),
    st.builds(lambda k: s.ForgetReceived(*k), keys),
    st.builds(lambda k: s.StopAsked(epoch=2, attempt_id=k[0], rank=k[1], cause="cancelled"), keys),
    st.just(s.Disconnected()),
    st.just(s.Connected(0)),
    st.builds(lambda e: s.Welcomed(now_boot_us=0, epoch=e), st.integers(1, 3)),
    st.builds(lambda at, cpu: s.MeterRead(at, {A: cpu}), st.integers(0, 200), st.integers(0, 99)),
    st.builds(s.Tick, st.integers(0, 10**9)),
    st.builds(lambda n: s.AckReceived(0, n), st.integers(0, 9)),
)  # fmt: skip


@given(st.lists(events, max_size=60))
def test_no_order_of_events_starts_twice_or_lets_a_counter_fall(history: list[s.Event]) -> None:
    core = agent()
    starts: set[s.Key] = set()
    counters: dict[s.Key, tuple[int, int]] = {}
    ends: dict[s.Key, Exit] = {}
    epoch = seq = 0
    for event in history:
        for told in core.handle(event):
            match told:
                case s.StartMembers(members, _):
                    for member in members:
                        assert member.key not in starts
                        assert member.boot_id == BOOT
                        starts.add(member.key)
                case s.SpoolAppend(usage):
                    assert usage.seq == seq + 1
                    seq = usage.seq
                    for c in usage.counters:
                        key = (c.attempt_id, c.rank)
                        assert key not in ends
                        held, cpu = counters.get(key, (0, 0))
                        assert c.held_us >= held
                        assert c.cpu_us >= cpu
                        counters[key] = (c.held_us, c.cpu_us)
                case s.SendExited(attempt_id, rank, exit) if "epoch" not in exit.message:
                    key = (attempt_id, rank)
                    assert ends.setdefault(key, exit) == exit, "an end never changes"
                    held, cpu = counters.get(key, (0, 0))
                    assert exit.held_us >= held
                    assert exit.cpu_us >= cpu
                case s.PersistEpoch(new, _):
                    assert new >= epoch
                    epoch = new
                case _:
                    pass


# --- another limit ------------------------------------------------------------------------------


def limited(order: int = 1, limit_us: int = 7 * SECOND, epoch: int = 1, key: s.Key = A) -> s.LimitAsked:
    return s.LimitAsked(epoch=epoch, attempt_id=key[0], rank=key[1], order=order, time_limit_us=limit_us)


def test_a_running_member_is_given_another_limit_and_its_answer_is_told() -> None:
    core = connected()
    play(core, assigned(), started())
    assert core.handle(limited()) == [s.LimitMember(*A, 1, 7 * SECOND)]
    assert core.handle(s.LimitSet(*A, 1)) == [s.SendLimitTaken(*A, 1)]
    assert core.handle(s.LimitSet(*A, 2, "full disk")) == [s.SendLimitTaken(*A, 2, "full disk")]


def test_one_that_starts_is_given_the_newest_limit_once_it_runs_and_before_a_stop() -> None:
    core = connected()
    play(core, assigned())
    assert play(core, limited(1), limited(2, 9 * SECOND)) == []
    core.handle(s.StopAsked(epoch=1, attempt_id=A[0], rank=0, cause="cancelled", grace_us=0))
    told = core.handle(started())
    assert [type(one) for one in told] == [s.SendStarted, s.LimitMember, s.StopMember]
    assert told[1] == s.LimitMember(*A, 2, 9 * SECOND)


def test_one_that_waits_for_anothers_share_begins_with_it() -> None:
    core, heir = connected(), ("att_b", 0)
    play(core, assigned(), started(), assigned(heir, after=A[0], time_limit_us=SECOND))
    assert core.handle(limited(key=heir)) == [s.SendLimitTaken(*heir, 1)]
    (start,) = of(s.StartMembers, core.handle(ended()))
    assert [one.time_limit_us for one in start.assignments] == [7 * SECOND]


def test_a_limit_for_what_has_ended_or_is_not_here_is_answered_by_its_end_alone() -> None:
    core = connected()
    assert core.handle(limited()) == []
    play(core, assigned(), started(), ended())
    assert core.handle(limited()) == []


def test_a_limit_of_a_daemon_that_was_replaced_is_not_obeyed() -> None:
    core = connected()
    play(core, assigned(epoch=3), started())
    (note,) = core.handle(limited(epoch=2))
    assert note == s.Note("limit of epoch 2 refused: obeyed is 3", *A)


# --- directories that cannot be written ---------------------------------------------------------


def test_a_node_that_cannot_write_says_so_first_and_starts_nothing_until_it_can() -> None:
    """
    1. A member is assigned while nothing is known: it is started. Then the directories are found unwritable.
    2. What comes now is refused with the reason, never tried; what runs goes on.
    3. Once they can be written again that is told, and the next is started.
    """
    core = connected()
    play(core, assigned(), started())
    full = "its agent cannot write spool of its state directory: No space left on device"
    assert play(core, s.Probed(SECOND, full)) == [s.SendCondition(full), s.Note(full)]
    assert play(core, s.Probed(SECOND, full)) == []
    (told,) = of(s.SendExited, play(core, assigned(("att_b", 0))))
    assert told.exit == Exit(cause=EndCause.START_FAILED, message=full, started=False)
    assert core.live() == ((A, 77, None),)
    well = s.Note("members can be started again")
    assert play(core, s.Probed(2 * SECOND, "")) == [s.SendCondition(""), well]
    assert [type(i) for i in play(core, assigned(("att_c", 0)))] == [s.StartMembers]


def test_what_waits_its_turn_goes_back_when_nothing_can_be_started() -> None:
    core = connected()
    play(core, assigned(), started(), assigned(("att_b", 0), after="att_a"))
    (told,) = of(s.SendExited, play(core, s.Probed(SECOND, "full")))
    assert (told.attempt_id, told.exit.cause, told.exit.message) == ("att_b", EndCause.PREEMPTED, "full")
    assert of(s.StartMembers, play(core, ended())) == []


def test_directories_are_tried_again_every_five_seconds_while_they_cannot_be_written() -> None:
    core = connected()
    assert of(s.Probe, play(core, s.Tick(100 * SECOND))) == []
    play(core, s.Probed(100 * SECOND, "full"))
    assert of(s.Probe, play(core, s.Tick(105 * SECOND - 1))) == []
    assert of(s.Probe, play(core, s.Tick(105 * SECOND))) == [s.Probe()]
    assert of(s.Probe, play(core, s.Tick(106 * SECOND))) == [], "the answer is awaited"
    play(core, s.Probed(107 * SECOND, ""))
    assert of(s.Probe, play(core, s.Tick(200 * SECOND))) == []


def test_usage_that_cannot_be_spooled_has_the_directories_tried() -> None:
    usage = s.Usage(1, BOOT, 5)
    for core, told in ((agent(), []), (connected(), [s.SendUsage(usage)])):
        out = play(core, s.SpoolFailed(usage, "No space left on device"))
        assert out == [s.Note("usage 1 not spooled: No space left on device"), s.Probe(), *told]


def test_a_hello_says_what_keeps_members_from_being_started() -> None:
    core = agent()
    assert play(core, s.Probed(0, "full")) == [s.Note("full")]
    assert play(core, s.Connected(3)) == [s.SendHello(0, (), 3, "full")]
