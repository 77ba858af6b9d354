"""Jobs whose devices do nothing: told, then stopped; never for what is not known."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from money_daemon import COST_MODEL, Daemon, in_a_daemon

from bursar import jobfile
from bursar.cli.happenings import sentence
from bursar.cli.idletext import idle_text
from bursar.clock import HOUR_US, SECOND_US, format_duration
from bursar.codec import view
from bursar.codec.spec import spec_from_wire, spec_to_wire
from bursar.errors import InvalidRequest
from bursar.model import EndCause, IdleSpec, JobSpec
from bursar.model.check import check
from bursar.resources import GpuRequest, ResourceRequest
from bursar.v1 import money_pb2, types_pb2
from bursar_policies.document import parse_documents
from bursard.cycle import reason_of
from bursard.events import (
    AttemptIdle,
    Event,
    ExitReport,
    IdleActed,
    IdleOver,
    IdleSeen,
    JobHeld,
    JobRequeued,
    StopRequested,
)
from bursard.idle import STALE_US, STEP_US_MAX, IdleWatch
from bursard.services.idling import idleness_of, snoozed
from bursard.state import State, image
from bursard.state.decide import attempts, jobs
from bursard.state.idling import SNOOZE_US_MAX

MINUTE_US = 60 * SECOND_US
POLICY = IdleSpec(5, 10 * MINUTE_US, 4 * MINUTE_US, "stop")
STEP_US = 10 * SECOND_US


class Site:
    """One running job of two devices, its node's readings, and somebody who looks every ten seconds."""

    def __init__(self, daemon: Daemon, policy: IdleSpec = POLICY, **spec: Any) -> None:
        self.daemon = daemon
        self.gpus: dict[int, dict[str, float]] = {0: {"sm_ratio": 0.01}, 1: {"sm_ratio": 0.0}}
        self.own: float | None = None
        self.tells = True
        self._sample: Any = None
        daemon.node("n")
        self.job = daemon.submit(
            **{
                "project": "p", "command": ("true",), "idle_policy": policy,
                "interactive": policy.detached_us > 0,
                "options": (ResourceRequest(GpuRequest(2), 1_000, 1 << 30),),
            } | spec,
        )  # fmt: skip
        self.cpu, self.working, self.memory = 0.0, False, None
        (self.attempt,) = daemon.engine.state.attempts.values()
        self.told: list[Event] = []
        self.attached = 0
        self.begin()

    def begin(self) -> None:
        """The watch of a daemon that has just started."""
        engine = self.daemon.engine

        def commit(events: list[Any], actor: str) -> int:
            self.told += events
            return engine.commit(events, actor)

        heard = SimpleNamespace(clock=engine.clock, state=engine.state, now=engine.now, commit=commit)
        self.watch = IdleWatch(heard, lambda name: self._sample, lambda attempt: self.attached)  # type: ignore[arg-type]
        self.watch.look()

    def passes(self, minutes: float, step_us: int = STEP_US) -> list[Any]:
        """What was told meanwhile; what is only kept for a restart is not."""
        return [
            one for one in self.all(minutes, step_us) if not isinstance(one, IdleSeen | IdleOver | IdleActed)
        ]

    def all(self, minutes: float, step_us: int = STEP_US) -> list[Any]:
        """The same with what is kept."""
        self.told.clear()
        for _ in range(round(minutes * MINUTE_US / step_us)):
            self.daemon.clock.advance(step_us)
            if self.tells:
                self._sample = self._read()
            self.watch.look()
        return list(self.told)

    def _read(self) -> types_pb2.Sample:
        own = types_pb2.AttemptSample(attempt_id=self.attempt.id, cpu_utilization_ratio=self.cpu)
        if self.own is not None:
            own.gpu_sm_ratio = self.own
        if self.memory is not None:
            own.gpu_memory_used_bytes = self.memory
        if self.working:
            own.progress.attended = True
        gpus = [types_pb2.GpuSample(index=index, **told) for index, told in self.gpus.items()]
        return types_pb2.Sample(gpus=gpus, attempts=[own])


def story(play: Callable[[Site], None], policy: IdleSpec = POLICY, documents: str = "", **spec: Any) -> None:
    async def whole(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL, *([documents] if documents else []))
        play(Site(daemon, policy, **spec))

    in_a_daemon(whole)


def warned(site: Site, minutes: int, left: int) -> AttemptIdle:
    """As it is told of the devices that a site begins with."""
    idle_us, action = minutes * MINUTE_US, "stop" if left else "notify"
    cost = site.attempt.rate * idle_us // HOUR_US
    worked = [gpu.get("sm_ratio", gpu.get("utilization_ratio", 0.0)) for gpu in site.gpus.values()]
    most = round(1e6 * max(worked))
    by = "utilization" if any("sm_ratio" not in gpu for gpu in site.gpus.values()) else "sm"
    most = most if site.own is None else round(1e6 * site.own)
    return AttemptIdle(site.attempt.id, idle_us, left * MINUTE_US, "", "gpu", action, by, most, -1, cost)


def test_it_is_told_then_stopped_with_its_grace_as_idle() -> None:
    def play(site: Site) -> None:
        assert site.passes(3.5) == []
        assert site.passes(1) == [warned(site, 4, 6)]
        assert site.passes(5) == []
        (stop,) = site.passes(1)
        assert isinstance(stop, StopRequested)
        assert (stop.attempt_id, stop.cause) == (site.attempt.id, EndCause.IDLE)
        assert stop.message == (
            "all its GPUs were below 5 % of their multiprocessors for 10m00s, 1 % at most"
        )
        assert site.passes(30) == []

    story(play)


def test_a_policy_that_only_tells_stops_nothing() -> None:
    def play(site: Site) -> None:
        assert site.passes(60) == [warned(site, 4, 0)]

    story(play, IdleSpec(5, 10 * MINUTE_US, 4 * MINUTE_US, "notify"))


@pytest.mark.parametrize(
    "work",
    [
        {"gpus": {0: {"sm_ratio": 0.05}, 1: {"sm_ratio": 0.0}}},
        {"gpus": {0: {"utilization_ratio": 0.18}, 1: {"sm_ratio": 0.0}}},
        {"own": 0.06},
    ],
)
def test_one_device_that_works_begins_the_time_anew(work: dict[str, Any]) -> None:
    def play(site: Site) -> None:
        idle = {name: getattr(site, name) for name in work}
        assert site.passes(9) == [warned(site, 4, 6)]
        vars(site).update(work)
        assert site.all(0.5) == [IdleOver(site.attempt.id, "", "gpu", "busy")]
        vars(site).update(idle)
        assert site.passes(3.5) == []
        assert site.passes(1) == [warned(site, 4, 6)]

    story(play)


@pytest.mark.parametrize(
    "unknown", [{"gpus": {0: {"sm_ratio": 0.0}}}, {"gpus": {0: {"sm_ratio": 0.0}, 1: {}}}]
)
def test_what_is_not_known_does_not_count_and_ends_it_when_it_lasts(unknown: dict[str, Any]) -> None:
    def play(site: Site) -> None:
        idle = {name: getattr(site, name) for name in unknown}
        assert site.passes(4) == [warned(site, 4, 6)]
        vars(site).update(unknown)
        assert site.all(0.5) == []
        vars(site).update(idle)
        assert site.passes(5.3) == []  # of ten minutes, half a one was not seen
        vars(site).update(unknown)
        assert site.all(10) == [IdleOver(site.attempt.id, "", "gpu", "unknown")]
        vars(site).update(idle)
        assert site.passes(3.9) == []
        assert site.passes(0.2) == [warned(site, 4, 6)]

    story(play)


def test_its_own_activity_counts_before_that_of_its_devices() -> None:
    def play(site: Site) -> None:
        site.gpus = {0: {"sm_ratio": 0.9}, 1: {"sm_ratio": 0.9}}
        site.own = 0.01
        assert site.passes(4) == [warned(site, 4, 6)]

    story(play)


def test_utilization_without_work_is_idle() -> None:
    def play(site: Site) -> None:
        site.gpus = {index: {"sm_ratio": 0.0003, "utilization_ratio": 0.18} for index in (0, 1)}
        assert site.passes(4) == [warned(site, 4, 6)]

    story(play)


def test_readings_that_stopped_end_nothing() -> None:
    def play(site: Site) -> None:
        assert site.passes(9) == [warned(site, 4, 6)]
        site.tells = False
        assert site.passes(STALE_US / MINUTE_US + 60) == []

    story(play)


def test_a_daemon_that_stood_still_counts_none_of_that() -> None:
    def play(site: Site) -> None:
        assert site.passes(3) == []
        site.daemon.clock.advance(3_600 * SECOND_US)
        assert site.passes(0.5) == []
        assert STEP_US_MAX < MINUTE_US

    story(play)


def test_a_snooze_holds_off_both_until_it_is_over() -> None:
    def play(site: Site) -> None:
        policy = put_off(site, 30 * MINUTE_US)
        assert policy.snoozed_until == site.daemon.engine.now() + 30 * MINUTE_US
        assert site.passes(29) == []
        assert site.passes(6) == [warned(site, 4, 6)]

    story(play)


@pytest.mark.parametrize(
    ("spec", "snooze_us", "why"),
    [
        (JobSpec(), 1, "the job has no idle_policy"),
        (JobSpec(idle_policy=POLICY), SNOOZE_US_MAX + 1, "at most 7d"),
    ],
)
def test_what_cannot_be_snoozed_is_said(spec: JobSpec, snooze_us: int, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        snoozed(State(), "ann", spec, snooze_us, 0)


def put_off(site: Site, snooze_us: int) -> IdleSpec:
    """As `bursar snooze` does."""
    state, now = site.daemon.engine.state, site.daemon.engine.now()
    record = state.jobs[site.job]
    policy = snoozed(state, record.user, record.spec, snooze_us, now)
    site.daemon.engine.commit(jobs.update(state, record, {"idle_policy": policy}, now), "ann")
    return policy


FILE = """\
run: python train.py
resources: {{gpus: 1}}
idle_policy: {policy}
"""


def read(policy: str) -> JobSpec:
    return jobfile.parse_job(FILE.format(policy=policy), "j.yaml", "/w")


def test_a_job_file_says_it_and_is_written_back_as_it_was() -> None:
    spec = read("{min_gpu_utilization: 7, time_window: 30m, action: notify, warn_after: 15m}")
    assert spec.idle_policy == IdleSpec(7, 30 * MINUTE_US, 15 * MINUTE_US, "notify")
    assert read("{time_window: 30m}").idle_policy == IdleSpec(5, 30 * MINUTE_US, 15 * MINUTE_US, "stop")
    assert spec_from_wire(spec_to_wire(spec)) == spec
    assert jobfile.parse_job(jobfile.spec_to_yaml(spec), "j.yaml", "/w") == spec


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ({}, "is needed"),
        ({"window_us": 59 * SECOND_US, "warn_after_us": 1}, "from 1m to 7d"),
        ({"window_us": MINUTE_US, "warn_after_us": 2 * MINUTE_US}, "at most time_window"),
        ({"window_us": MINUTE_US, "warn_after_us": 1, "below_percent": 0}, "1"),
        ({"window_us": MINUTE_US, "warn_after_us": 1, "action": "nap"}, "nap"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(policy: dict[str, Any], why: str) -> None:
    idle = IdleSpec(**({"below_percent": 6} | policy))
    gpus = (ResourceRequest(GpuRequest(1)),)
    (problem,) = check(JobSpec(command=("true",), options=gpus, idle_policy=idle))
    assert problem.path[0] == "idle_policy"
    assert why in problem.message


def test_a_job_without_gpus_cannot_be_judged() -> None:
    (problem,) = check(JobSpec(command=("true",), options=(ResourceRequest(),), idle_policy=POLICY))
    assert problem.message.startswith("needs GPUs in every alternative: it is judged by what they do")


def test_the_event_is_a_sentence() -> None:
    event = {
        "kind": "attempt-idle", "subject": "att_1", "actor": "bursard", "names": {},
        "data": {"attempt_id": "att_1", "idle_us": 4 * MINUTE_US, "ends_in_us": 6 * MINUTE_US},
    }  # fmt: skip
    said = (
        "all GPUs of attempt att_1 do nothing, for 4m00s so far; it is stopped in 6m00s unless that changes"
    )
    assert sentence(event) == said


def test_what_nobody_is_attached_to_is_stopped() -> None:
    def play(site: Site) -> None:
        (warning,) = site.passes(2.5)
        assert (warning.ground, warning.ends_in_us) == ("attendance", 90 * SECOND_US)
        site.attached = 1
        assert site.passes(30) == []
        site.attached = 0
        assert len(site.passes(2.5)) == 1
        (stop,) = site.passes(1)
        assert (stop.cause, stop.message) == (EndCause.IDLE, "nobody used it for 3m00s")

    story(play, IdleSpec(detached_us=3 * MINUTE_US))


def test_an_owner_can_put_off_the_end_of_a_job_that_nobody_is_attached_to() -> None:
    def play(site: Site) -> None:
        policy = IdleSpec(detached_us=3 * MINUTE_US, snoozed_until=site.daemon.engine.now() + 20 * MINUTE_US)
        job = site.daemon.engine.state.jobs[site.attempt.job_id]
        job.spec = msgspec.structs.replace(job.spec, idle_policy=policy)
        assert site.passes(19) == []
        assert len(site.passes(6)) == 2

    story(play, IdleSpec(detached_us=3 * MINUTE_US))


SITE = """\
kind: IdlePolicy
name: gpus
spec:
  time_window: 20m
  warn_after: 5m
  action: {action}
  snooze: 30m
  snoozes: 1
---
kind: IdlePolicy
name: calm
spec: {{scope: {{project: p/calm}}, time_window: 1h, action: notify}}
"""
NONE = IdleSpec()


@pytest.mark.parametrize(
    ("action", "then"),
    [
        ("stop", [StopRequested]),
        ("requeue", [JobRequeued, StopRequested]),
        ("hold", [JobRequeued, JobHeld, StopRequested]),
        ("cancel", [StopRequested]),
    ],
)
def test_a_policy_of_the_site_warns_waits_and_acts_with_evidence_and_money(
    action: str, then: list[type]
) -> None:
    def play(site: Site) -> None:
        site.gpus = {index: {"sm_ratio": 0.0003, "utilization_ratio": 0.18} for index in (0, 1)}
        site.own, site.memory = 0.0003, 40 * 10**9
        per_minute = site.attempt.rate * MINUTE_US // HOUR_US
        (warning,) = site.passes(6)
        assert (warning.policy, warning.action, warning.by, warning.most_ppm) == ("gpus", action, "sm", 300)
        assert (warning.memory_bytes, warning.cost_nanos // per_minute) == (40 * 10**9, 5)
        acted, *followed = [one for one in site.all(15) if not isinstance(one, IdleSeen)]
        assert isinstance(acted, IdleActed)
        assert acted.cost_nanos // per_minute == 20
        assert list(map(type, followed)) == then
        assert followed[-1].cause is (EndCause.CANCELLED if action == "cancel" else EndCause.IDLE)
        assert followed[-1].message.endswith("(idle policy gpus)")
        assert site.all(30) == []

    story(play, NONE, SITE.format(action=action))


@pytest.mark.parametrize("action", ["hold", "requeue"])
def test_a_job_that_is_put_back_waits_on_hold_or_runs_again(action: str) -> None:
    def play(site: Site) -> None:
        site.passes(21)
        member, daemon = site.attempt.members[0], site.daemon
        state = daemon.engine.state
        node = state.nodes[member.alloc.node_id]
        report = ExitReport(cause=EndCause.CANCELLED, signal=15, held_us=20 * MINUTE_US)
        daemon.engine.commit(attempts.exited(state, node, site.attempt.id, 0, report, 0), "node")
        job = state.jobs[site.job]
        assert (job.state.value, job.held) == ("PENDING", action == "hold")
        assert site.attempt.cause is EndCause.IDLE
        if action == "hold":
            assert job.id not in state.pending
            reason = reason_of(state, None, job, daemon.engine.now() + 5 * MINUTE_US)
            assert reason is not None
            assert reason.message.startswith("an idle policy put the job on hold 5m00s ago: all its GPUs")
            assert reason.message.endswith("(idle policy gpus)")
            assert reason.remedy == (
                f"release it with `bursar release {job.display}`; once it runs, `bursar snooze"
                f" {job.display} 2h` puts the policy off"
            )
            daemon.engine.commit(jobs.release(state, job), "ann")
        assert job.id in state.pending

    story(play, NONE, SITE.format(action=action))


def test_the_most_particular_policy_is_about_a_job() -> None:
    def play(site: Site) -> None:
        (warning,) = site.passes(61)
        assert (warning.policy, warning.idle_us, warning.ends_in_us) == ("calm", 30 * MINUTE_US, 0)

    story(play, NONE, SITE.format(action="stop"), project="p/calm/deep")


def test_its_own_policy_stands_beside_that_of_the_site() -> None:
    def play(site: Site) -> None:
        told = [type(one) for one in site.passes(11)]
        assert told == [AttemptIdle, AttemptIdle, StopRequested]

    story(play, POLICY, SITE.format(action="stop"))


def test_a_policy_of_the_site_bounds_how_often_and_how_long_it_is_put_off() -> None:
    def play(site: Site) -> None:
        with pytest.raises(InvalidRequest, match="at most 30m00s at once, says the idle policy gpus"):
            put_off(site, 31 * MINUTE_US)
        put_off(site, 30 * MINUTE_US)
        assert site.passes(29) == []
        with pytest.raises(InvalidRequest, match="it was put off 1 times"):
            put_off(site, MINUTE_US)
        put_off(site, 0)
        assert len(site.passes(6)) == 1

    story(play, NONE, SITE.format(action="stop"))


def test_a_job_cannot_come_put_off() -> None:
    def play(site: Site) -> None:
        with pytest.raises(InvalidRequest, match="bursar snooze"):
            site.daemon.submit(idle_policy=IdleSpec(snoozed_until=1 << 60))

    story(play, NONE, SITE.format(action="stop"))


def test_a_restart_goes_on_where_the_log_stands_and_warns_once() -> None:
    def play(site: Site) -> None:
        assert len(site.passes(12)) == 1
        site.daemon.clock.advance(MINUTE_US)
        site.begin()
        assert site.passes(6) == []
        (stop,) = site.passes(4)
        assert isinstance(stop, StopRequested)

    story(play, NONE, SITE.format(action="stop"))


def test_a_daemon_that_was_off_for_long_begins_anew() -> None:
    def play(site: Site) -> None:
        assert len(site.passes(19)) == 1
        site.daemon.clock.advance(HOUR_US)
        site.begin()
        assert site.passes(4.5) == []
        assert [type(one) for one in site.passes(14)] == [AttemptIdle]

    story(play, NONE, SITE.format(action="stop"))


def test_what_the_log_has_is_in_an_image_and_in_a_replay() -> None:
    def play(site: Site) -> None:
        site.passes(12)
        state = site.daemon.engine.state
        kept = state.attempts[site.attempt.id].idle
        assert kept["gpu/gpus"].warned_us == 5 * MINUTE_US
        again = image.decode(image.encode(state, site.daemon.engine.now()))
        assert again.attempts[site.attempt.id].idle == kept
        assert again.idle_documents == state.idle_documents

    story(play, NONE, SITE.format(action="stop"))


def test_a_policy_that_is_removed_is_about_nobody() -> None:
    async def whole(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL, SITE.format(action="stop"))
        site = Site(daemon, NONE)
        assert len(site.passes(6)) == 1
        await daemon.policies.Delete(money_pb2.PolicyRequest(name="gpus"), None)
        assert site.all(1) == []
        assert not daemon.engine.state.attempts[site.attempt.id].idle or site.all(30) == []

    in_a_daemon(whole)


CPUS = """\
kind: IdlePolicy
name: desks
spec: {types: [interactive], min_cpu_utilization: 2, time_window: 20m, detached: 10m}
"""
DESK = {
    "interactive": True,
    "launch": "once",
    "command": (),
    "options": (ResourceRequest(None, 4_000, 1 << 30),),
}


def test_a_job_without_gpus_is_judged_by_its_cpus() -> None:
    def play(site: Site) -> None:
        site.attached = 1
        site.cpu = 0.2  # of four
        assert site.passes(30) == []
        site.cpu = 0.04
        assert [type(one) for one in site.passes(21)] == [AttemptIdle, StopRequested]

    story(play, NONE, CPUS, **DESK)


def test_a_kernel_that_works_is_used_though_nobody_is_there() -> None:
    def play(site: Site) -> None:
        site.working = True
        assert site.passes(60) == []
        site.working = False
        (warning, stop) = site.passes(11)
        assert (warning.ground, warning.policy) == ("attendance", "desks")
        assert stop.message == "nobody used it for 10m00s (idle policy desks)"

    story(play, NONE, CPUS, **DESK)


def test_of_other_types_it_says_nothing() -> None:
    def play(site: Site) -> None:
        assert site.passes(60) == []

    story(play, NONE, CPUS, options=DESK["options"])


def test_show_says_what_it_is_under_and_how_far_that_is() -> None:
    def play(site: Site) -> None:
        site.passes(7)
        state, now = site.daemon.engine.state, site.daemon.engine.now()
        told = idleness_of(state, state.jobs[site.job], now)
        assert told is not None
        (rule,) = told.rules
        assert (rule.policy, rule.ground, rule.below_percent, rule.action) == ("gpus", "gpu", 5, "stop")
        assert 5 * MINUTE_US <= rule.idle_us <= 7 * MINUTE_US
        assert rule.told_at
        assert told.snoozes_left == 1
        assert idle_text({"idleness": view.idleness(told)}) == (
            "all GPUs below 5 % of activity: told after 5m00s, stopped after 20m00s (policy gpus); so for"
            f" {format_duration(rule.idle_us)}"
        )

    story(play, NONE, SITE.format(action="stop"))


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("{}", "judges nothing"),
        ("{time_window: 30s}", "from 1m to 7d"),
        ("{time_window: 30m, warn_after: 31m}", "at most `time_window`"),
        ("{time_window: 30m, action: nap}", "'nap' is not one of"),
        ("{time_window: 30m, types: [service]}", "'service' is not one of"),
        ("{time_window: 30m, snooze: 8d}", "from 1m to 7d"),
        ("{time_window: 30m, min_gpu_utilization: 0}", "at least 1"),
        ("{time_window: 30m, scope: {}}", "covers nothing"),
    ],
)
def test_a_document_that_makes_no_sense_is_refused(spec: str, why: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_documents(f"kind: IdlePolicy\nname: x\nspec: {spec}\n", "p.yaml")
    assert why in str(refused.value.faults)


def test_what_was_done_is_a_sentence_with_its_money() -> None:
    event = {
        "kind": "attempt-idle-acted", "subject": "att_1", "actor": "bursard", "names": {}, "currency": "USD",
        "data": {
            "attempt_id": "att_1", "idle_us": 20 * MINUTE_US, "policy": "gpus", "ground": "gpu",
            "action": "hold", "by": "sm", "most_ppm": 300, "memory_bytes": 40 * 10**9,
            "cost_nanos": 1_250_000_000,
        },
    }  # fmt: skip
    assert sentence(event) == (
        "all GPUs of attempt att_1 do nothing, for 20m00s so far (0.03 % of multiprocessors at most, 40.0 GB"
        " of their memory held, it cost 1.250000000 USD meanwhile): it is stopped and held, as idle policy"
        " gpus says"
    )


def test_others_have_their_turn_between_some_attempts_and_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def play(site: Site) -> None:
        monkeypatch.setattr("bursard.idle.AT_ONCE", 1)
        looks = site.watch._looks()
        next(looks)  # one attempt is there, and it ends before it is looked at
        site.daemon.engine.state.attempts.pop(site.attempt.id)
        assert list(looks) == []

    story(play, NONE, SITE.format(action="stop"))
