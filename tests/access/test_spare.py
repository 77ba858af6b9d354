"""What refused deadlines say beside no takes a bounded time of each caller, and what is left out is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from whole_site import Site, play

from bursar.clock import HOUR_US, SECOND_US
from bursar.codec.spec import spec_to_wire
from bursar.model import JobSpec
from bursar.resources import ResourceRequest
from bursar.v1 import jobs_pb2
from bursard.access.spare import BURST_NS, CALLERS_MAX, PART, Spares
from bursard.services import jobs

MS = 1_000_000


class Work:
    """Each costs so much."""

    def __init__(self, ms: int) -> None:
        self.ns = self.done = 0
        self.ms = ms

    def meter(self) -> int:
        return self.ns

    def __call__(self) -> str:
        self.ns += self.ms * MS
        self.done += 1
        return "done"


def test_a_burst_may_be_used_at_once_and_then_a_part_of_the_time() -> None:
    now_us, work = [0], Work(100)
    spares = Spares(lambda: now_us[0], work.meter)
    ann, bob = spares.of("ann"), spares.of("bob")
    while not ann.wait_s():
        assert ann.take(work) == "done"
    assert work.done == BURST_NS // (100 * MS)
    assert bob.wait_s() == 0  # whatever others used
    before = work.done
    for _ in range(3_600):
        now_us[0] += SECOND_US
        if not ann.wait_s():
            ann.take(work)
    assert 0.9 <= (work.done - before) * work.ms / (3_600_000 / PART) <= 1.1


def test_it_says_when_there_is_some_again_and_then_there_is() -> None:
    now_us, work = [0], Work(2_000)
    spares = Spares(lambda: now_us[0], work.meter)
    spares.take("ann", work)
    wait_s = spares.wait_s("ann")
    now_us[0] += (wait_s - 1) * SECOND_US
    assert spares.wait_s("ann") == 1
    now_us[0] += SECOND_US
    assert spares.wait_s("ann") == 0


def test_work_that_fails_is_counted_and_those_who_owe_nothing_are_forgotten() -> None:
    now_us, work = [0], Work(600)
    spares = Spares(lambda: now_us[0], work.meter)

    def fails() -> None:
        work()
        raise ValueError

    with pytest.raises(ValueError):  # it has no words
        spares.take("ann", fails)
    assert spares.wait_s("ann") > 0
    work.ms = 0
    for number in range(CALLERS_MAX + 5):
        spares.take(f"u{number}", work)
    assert len(spares._used) < CALLERS_MAX
    assert spares.wait_s("ann") > 0


def refused(site: Site) -> jobs_pb2.SubmitRequest:
    """By sooner than it may run."""
    spec = JobSpec(
        command=("true",),
        project="p",
        options=tuple(ResourceRequest(None, 1_000 + number, 1 << 20) for number in range(8)),
        time_limit_us=HOUR_US,
        deadline_at=site.engine.now() + 60 * SECOND_US,
    )
    return jobs_pb2.SubmitRequest(spec=spec_to_wire(spec), terse=True)


def test_of_a_batch_of_refused_deadlines_the_first_have_alternatives_and_the_rest_say_that_they_have_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks = iter(range(0, 1 << 60, 100 * MS))
    made: Callable[..., Spares] = lambda now_us: Spares(now_us, lambda: next(ticks))  # noqa: E731
    monkeypatch.setattr(jobs, "Spares", made)

    async def batch(site: Site, user: str) -> list[Any]:
        request = jobs_pb2.SubmitBatch(jobs=[refused(site) for _ in range(64)])
        (status, said), messages = await site.ask(
            "Jobs.SubmitBatches", request, token=site.token(user, "submitter")
        )
        assert status == "OK", said
        return [answer for message in messages for answer in message.answers]

    async def story(site: Site) -> None:
        answers = await batch(site, "ann")
        assert {one.error for one in answers} == {"DeadlineRefused"}
        told = ["earliest_deadline" in one.facts for one in answers]
        assert told == [True] * 5 + [False] * 59  # each takes 100 ms, and half a second is hers
        short = answers[5]
        assert short.facts["alternatives"] == "not computed"
        assert "alternatives not computed: ann has been told so many of late" in short.message
        assert f"in {short.facts['wait_s']} s" in short.message
        assert "earliest_deadline" in (await batch(site, "bob"))[0].facts
        assert "earliest_deadline" not in (await batch(site, "ann"))[0].facts
        site.clock.advance(int(short.facts["wait_s"]) * SECOND_US)
        assert "earliest_deadline" in (await batch(site, "ann"))[0].facts

    play(story)
