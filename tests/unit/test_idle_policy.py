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
from bursar.clock import SECOND_US
from bursar.codec.spec import spec_from_wire, spec_to_wire
from bursar.model import EndCause, IdleSpec, JobSpec
from bursar.model.check import check
from bursar.resources import GpuRequest, ResourceRequest
from bursar.v1 import jobs_pb2, types_pb2
from bursard.events import AttemptIdle, StopRequested
from bursard.idle import STALE_US, STEP_US_MAX, IdleWatch
from bursard.services.jobs import SNOOZE_US_MAX, _changes

MINUTE_US = 60 * SECOND_US
POLICY = IdleSpec(5, 10 * MINUTE_US, 4 * MINUTE_US, "stop")
STEP_US = 10 * SECOND_US


class Site:
    """One running job of two devices, its node's readings, and somebody who looks every ten seconds."""

    def __init__(self, daemon: Daemon, policy: IdleSpec = POLICY) -> None:
        self.daemon = daemon
        self.gpus: dict[int, dict[str, float]] = {0: {"sm_ratio": 0.01}, 1: {"sm_ratio": 0.0}}
        self.own: float | None = None
        self.tells = True
        self._sample: Any = None
        daemon.node("n")
        self.job = daemon.submit(
            project="p", command=("true",), idle_policy=policy, interactive=policy.detached_us > 0,
            options=(ResourceRequest(GpuRequest(2), 1_000, 1 << 30),),
        )  # fmt: skip
        (self.attempt,) = daemon.engine.state.attempts.values()
        self.told: list[Any] = []
        engine = daemon.engine

        def commit(events: list[Any], actor: str) -> int:
            self.told += events
            return engine.commit(events, actor)

        heard = SimpleNamespace(clock=engine.clock, state=engine.state, now=engine.now, commit=commit)
        self.attached = 0
        self.watch = IdleWatch(heard, lambda name: self._sample, lambda attempt: self.attached)  # type: ignore[arg-type]
        self.watch.look()

    def passes(self, minutes: float, step_us: int = STEP_US) -> list[Any]:
        """What was told meanwhile."""
        self.told.clear()
        for _ in range(round(minutes * MINUTE_US / step_us)):
            self.daemon.clock.advance(step_us)
            if self.tells:
                self._sample = self._read()
            self.watch.look()
        return list(self.told)

    def _read(self) -> types_pb2.Sample:
        own = types_pb2.AttemptSample(attempt_id=self.attempt.id)
        if self.own is not None:
            own.gpu_sm_ratio = self.own
        gpus = [types_pb2.GpuSample(index=index, **told) for index, told in self.gpus.items()]
        return types_pb2.Sample(gpus=gpus, attempts=[own])


def story(play: Callable[[Site], None], policy: IdleSpec = POLICY) -> None:
    async def whole(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        play(Site(daemon, policy))

    in_a_daemon(whole)


def warned(site: Site, minutes: int, left: int) -> AttemptIdle:
    return AttemptIdle(site.attempt.id, minutes * MINUTE_US, left * MINUTE_US)


def test_it_is_told_then_stopped_with_its_grace_as_idle() -> None:
    def play(site: Site) -> None:
        assert site.passes(3.5) == []
        assert site.passes(1) == [warned(site, 4, 6)]
        assert site.passes(5) == []
        (stop,) = site.passes(1)
        assert isinstance(stop, StopRequested)
        assert (stop.attempt_id, stop.cause) == (site.attempt.id, EndCause.IDLE)
        assert stop.message == "all its GPUs were below 5 % of activity for 10m00s"
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
        {"gpus": {0: {"sm_ratio": 0.0}}},
        {"gpus": {0: {"sm_ratio": 0.0}, 1: {}}},
        {"gpus": {0: {"utilization_ratio": 0.18}, 1: {"sm_ratio": 0.0}}},
        {"own": 0.06},
    ],
)
def test_one_device_that_works_or_is_not_known_begins_the_time_anew(work: dict[str, Any]) -> None:
    def play(site: Site) -> None:
        idle = {name: getattr(site, name) for name in work}
        assert site.passes(9) == [warned(site, 4, 6)]
        vars(site).update(work)
        assert site.passes(0.5) == []
        vars(site).update(idle)
        assert site.passes(3.5) == []
        assert site.passes(1) == [warned(site, 4, 6)]

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
        record = site.daemon.engine.state.jobs[site.job]
        request = jobs_pb2.UpdateRequest(job="1", idle_snooze_us=30 * MINUTE_US)
        now = site.daemon.engine.now()
        snoozed = _changes(request, record.spec, now)["idle_policy"]
        assert isinstance(snoozed, IdleSpec)
        assert snoozed.snoozed_until == now + 30 * MINUTE_US
        from bursard.state.decide import jobs

        events = jobs.update(site.daemon.engine.state, record, {"idle_policy": snoozed}, now)
        site.daemon.engine.commit(events, "ann")
        assert site.passes(29) == []
        assert site.passes(6) == [warned(site, 4, 6)]

    story(play)


@pytest.mark.parametrize(
    ("spec", "snooze_us", "why"),
    [
        (JobSpec(), 1, "the job has no idle_policy"),
        (JobSpec(idle_policy=POLICY), SNOOZE_US_MAX + 1, "at most 7 days"),
    ],
)
def test_what_cannot_be_snoozed_is_said(spec: JobSpec, snooze_us: int, why: str) -> None:
    with pytest.raises(Exception, match=why):
        _changes(jobs_pb2.UpdateRequest(idle_snooze_us=snooze_us), spec, 0)


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
    assert problem.message == "needs GPUs in every alternative: it is judged by what they do"


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
        assert site.passes(2.5) == []
        site.attached = 1
        assert site.passes(30) == []
        site.attached = 0
        assert site.passes(2.5) == []
        (stop,) = site.passes(1)
        assert (stop.cause, stop.message) == (EndCause.IDLE, "nobody was attached to it for 3m00s")

    story(play, IdleSpec(detached_us=3 * MINUTE_US))


def test_an_owner_can_put_off_the_end_of_a_job_that_nobody_is_attached_to() -> None:
    def play(site: Site) -> None:
        policy = IdleSpec(detached_us=3 * MINUTE_US, snoozed_until=site.daemon.engine.now() + 20 * MINUTE_US)
        job = site.daemon.engine.state.jobs[site.attempt.job_id]
        job.spec = msgspec.structs.replace(job.spec, idle_policy=policy)
        assert site.passes(19) == []
        assert len(site.passes(6)) == 1

    story(play, IdleSpec(detached_us=3 * MINUTE_US))
