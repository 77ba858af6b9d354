"""What the cycle says of itself and of why a job waits, word by word."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from bursar.errors import NotApplied
from bursar.model import ArraySpec, Dependency, JobState, ReasonCode
from bursar.resources import ResourceRequest
from bursard import cycle as room
from bursard.cycle import LEFT_ALONE_US, Cycle, begins, depends, reason_of
from bursard.fleet.testing import FACTS, World


class Site(World):
    def __init__(self, cpus: int = 1) -> None:
        super().__init__(ahead=8)
        self.backend.connect(msgspec.structs.replace(FACTS, cpu_milli=cpus * 1_000))

    def ask(self, **spec: Any) -> Any:
        return self.submit(**({"options": (ResourceRequest(None, 1_000, 1 << 20),)} | spec))


def play(story: Callable[[Site], Awaitable[None]]) -> None:
    async def whole() -> None:
        await story(Site())

    asyncio.run(whole())


def test_a_pass_counts_what_it_placed_and_how_long_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(site: Site) -> None:
        made = Cycle(site.engine)
        times = iter((1_000_000, 6_000_000, 10_000_000, 12_000_000, 0, 0))
        monkeypatch.setattr(room.time, "perf_counter_ns", lambda: next(times))
        site.ask()
        made.once()
        assert made.stats == type(made.stats)(0, 1, 1, 0, 0, 5_000, 5_000, 5_000, [0, 0, 1, *[0] * 10])
        site.ask()
        made.once()
        assert made.stats == type(made.stats)(0, 2, 1, 0, 0, 2_000, 5_000, 7_000, [0, 1, 1, *[0] * 10])

    play(story)


def test_only_a_cycle_with_hands_learns_how_long_jobs_take() -> None:
    async def story(site: Site) -> None:
        before = list(site.engine.listeners)
        Cycle(site.engine)
        assert site.engine.listeners == before
        made = Cycle(site.engine, hands=site.fleet)
        assert site.engine.listeners == [*before, made._ahead.on_event]

    play(story)


def test_what_cannot_be_applied_is_left_alone_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(site: Site) -> None:
        made = Cycle(site.engine)
        tried: list[str] = []
        broken = True

        def commit(events: Any, actor: str) -> None:
            tried.append(actor)
            if broken:
                raise NotApplied("no", {})

        monkeypatch.setattr(site.engine, "commit", commit)
        assert made._commit("rolls", []) is False
        assert made._commit("rolls", []) is False
        assert made._commit("meters", []) is False
        assert tried == ["bursard"] * 2
        site.clock.advance(LEFT_ALONE_US - 1)
        assert made._commit("rolls", []) is False
        assert len(tried) == 2
        site.clock.advance(1)
        assert made._commit("rolls", []) is False
        assert set(made._left_alone) == {"rolls"}
        broken = False
        assert made._commit("meters", []) is True
        assert len(tried) == 4

    play(story)


def test_a_planner_that_fails_is_told_and_the_next_plan_forgets_it() -> None:
    async def story(site: Site) -> None:
        def fail(*_: Any) -> Any:
            raise ZeroDivisionError

        made = Cycle(site.engine, planner=fail)
        site.ask()
        assert made.once() is False
        assert (made.failing, made.last, made.left_out()) == ("ZeroDivisionError in the scheduler", None, [])
        made._planner = room.plan
        made.once()
        assert made.failing == ""
        assert made.last is not None
        saved = made.saved()
        assert (saved.at, saved.snapshot, saved.plan) == (
            made.last.plan.at,
            made.last.snapshot,
            made.last.plan,
        )
        made.once()
        assert made.last is None
        assert (made.saved().at, made.saved().plan) == (site.engine.now(), None)

    play(story)


def test_the_first_job_of_each_queue_that_could_not_be_computed_is_named() -> None:
    async def story(site: Site) -> None:
        made = Cycle(site.engine)
        verdicts = {
            0: SimpleNamespace(blocked_by="room", position=0),
            1: SimpleNamespace(blocked_by=room.UNCOMPUTABLE, position=1),
        }
        queues = [SimpleNamespace(jobs=[(1, "z")]), SimpleNamespace(jobs=[(2, "a"), (3, "b"), (4, "c")])]
        snapshot, plan = SimpleNamespace(queues=queues), SimpleNamespace(verdicts=verdicts)
        made.last = SimpleNamespace(snapshot=snapshot, plan=plan)  # type: ignore[assignment]
        assert made.left_out() == ["b"]

    play(story)


# --- why a job waits


def why(site: Site, job: Any, made: Cycle | None = None) -> tuple[str, str, str]:
    found = reason_of(site.state, made, job, site.engine.now())
    assert found is not None
    return found.code.value, found.message, found.remedy


def test_a_job_that_runs_waits_for_nothing() -> None:
    async def story(site: Site) -> None:
        job = site.ask()
        site.cycle()
        assert reason_of(site.state, None, job, site.engine.now()) is None

    play(story)


def test_a_job_on_hold_says_how_it_is_released_before_all_else() -> None:
    async def story(site: Site) -> None:
        first = site.ask()
        held = site.ask(held=True, depends_on=(Dependency(first.id, "finished"),))
        assert why(site, held) == (
            "Held",
            "the job is on hold",
            f"release it with `bursar release {held.display}`",
        )

    play(story)


def test_what_a_job_waits_for_is_named_in_order() -> None:
    async def story(site: Site) -> None:
        first, second = site.ask(), site.ask()
        job = site.ask(depends_on=(Dependency(second.id, "succeeded"), Dependency(first.id, "finished")))
        assert why(site, job) == (
            "Dependency",
            f"waits for job {first.display} (finished), {second.display} (succeeded)",
            "it starts by itself once they have ended",
        )
        assert depends(site.state, [("job_gone", "failed")]).message == "waits for job job_gone (failed)"

    play(story)


def test_a_job_that_may_not_begin_yet_says_when() -> None:
    async def story(site: Site) -> None:
        now = site.engine.now()
        job = site.ask(begin_after=now + 90_000_000)
        found = reason_of(site.state, None, job, now)
        assert found == begins(now + 90_000_000, now)
        assert found.code is ReasonCode.BEGIN_TIME
        assert reason_of(site.state, None, job, now + 90_000_000) != found

    play(story)


def test_a_job_that_lost_its_nodes_often_says_when_it_is_tried_again() -> None:
    async def story(site: Site) -> None:
        job = site.ask()
        now = site.engine.now()
        job.retry_at, job.free_retries = now + 8_000_000, 3
        found = reason_of(site.state, None, job, now)
        assert found is not None
        assert found.message == "lost its node or was preempted 3 times in a row: it is tried again in 8 s"
        assert found.remedy == "it starts by itself then; `bursar nodes` says whether a node is in trouble"
        assert found.facts == (("retry_at", str(now + 8_000_000)), ("free_retries", "3"))
        assert reason_of(site.state, None, job, now + 8_000_000) != found

    play(story)


def test_a_job_that_was_not_looked_at_yet_says_so_and_one_that_was_what_it_lacks() -> None:
    async def story(site: Site) -> None:
        made = Cycle(site.engine)
        site.ask()
        job = site.ask()
        waits = ("WaitingForResources", "is about to be looked at by the scheduler", "wait a moment")
        assert why(site, job) == why(site, job, made) == waits
        made.once()
        assert why(site, job, made)[1] == (
            "needs 1 node with 1 cpu, 1.05MB free; 0 of 1 that could hold it have that now"
            " (1 lacks free CPUs)"
        )

    play(story)


def test_a_task_beyond_the_width_of_its_array_says_how_wide_it_is() -> None:
    async def story(site: Site) -> None:
        parent = site.ask(array=ArraySpec((0, 1, 2), 1))
        site.cycle()
        tasks = [job for job in site.state.jobs.values() if job.parent_id == parent.id]
        assert tasks
        assert parent.array is not None
        assert parent.array.open_slots == 0
        same = ("id", "parent_id", "held", "waiting_on", "retry_at", "spec")
        waiting = SimpleNamespace(
            **{name: getattr(tasks[0], name) for name in same},
            state=JobState.PENDING,
            array=None,
            has_slot=False,
        )
        assert why(site, waiting) == (
            "WaitingForQuota",
            "its array runs at most 1 task at once",
            "the next one starts when one of them ends; a larger N in `--array RANGE%N` runs more at once",
        )

    play(story)
