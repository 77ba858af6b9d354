"""Typical requests are learned from submissions, forgotten slowly, and survive an image to the byte."""

from __future__ import annotations

from itertools import pairwise

import msgspec

from bursar.model import ArraySpec, JobSpec
from bursar.resources import GpuRequest, ResourceRequest
from bursard.events import JobSubmitted
from bursard.state import Applied, State, image
from bursard.state.typical import COVERED_PERCENT, STEP_MAX, WEIGHT_MAX, TypicalRequests


def asks(cpu: int, **rest: object) -> JobSpec:
    return JobSpec(options=(ResourceRequest(GpuRequest(1), cpu),), **rest)  # type: ignore[arg-type]


def test_the_most_frequent_requests_come_first_and_cover_nearly_all():
    typical = TypicalRequests()
    for n in range(1024):
        typical.add(asks(1 if n % 4 else 2))
    for n in range(8):
        typical.add(asks(100 + n))
    assert [request.cpu_milli for request, _ in typical.requests] == [1, 2]
    covered = sum(many for _, many in typical.requests)
    assert covered * 100 >= COVERED_PERCENT * 1024


def test_every_member_of_every_task_counts():
    typical = TypicalRequests()
    typical.add(asks(1, nodes=3, array=ArraySpec((0, 1))))
    assert typical.requests == ((asks(1).options[0], 6),)


def test_the_list_is_made_anew_seldom_and_stays_the_same_object_between():
    typical = TypicalRequests()
    lists = []
    for _ in range(5000):
        typical.add(asks(1))
        lists.append(typical.requests)
    changes = sum(a is not b for a, b in pairwise(lists))
    assert changes <= 14


def test_what_was_usual_long_ago_fades():
    typical = TypicalRequests()
    for cpu in (1, 2):
        for _ in range(WEIGHT_MAX + STEP_MAX):
            typical.add(asks(cpu))
    assert typical.requests[0][0].cpu_milli == 2
    assert sum(many for _, many in typical.requests) <= WEIGHT_MAX


def test_an_image_goes_on_exactly_as_the_state_it_was_taken_of():
    live, ignored = State(), Applied()
    for n in range(70):
        live.apply(JobSubmitted(f"job_{n}", n + 1, "ann", asks(n % 5)), n, ignored)
    again = image.decode(image.encode(live, 100))
    assert again.snapshot().typical == live.snapshot().typical != ()
    for n in range(70, 200):
        for state in (live, again):
            state.apply(JobSubmitted(f"job_{n}", n + 1, "ann", asks(n % 7)), n, ignored)
    assert again.typical.image() == live.typical.image()


def test_an_image_from_before_requests_were_learned_is_read():
    old = msgspec.json.decode(image.encode(State(), 0))
    del old["typical"]
    assert image.decode(msgspec.json.encode(old)).snapshot().typical == ()
