"""Allocators believe what jobs say of their speed; nobody has to pay for what others say."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bursar_policies import allocators
from bursar_policies.allocators import ONE, Contender, Problem, Room, Size, Supply
from bursar_policies.allocators.fair import PATIENCE, believed, equal_shares
from bursard.rounds import _Shares
from bursard.scheduler import targets

ROUND_US = 360_000_000
ROUNDS = 240
FAIR = 0.25
TYPES = {"A100": ((8, 2),), "K80": ((4, 2),)}
SUPPLY = tuple(Supply(kind, nodes) for kind, nodes in TYPES.items())
GPUS = sum(one.gpus for one in SUPPLY)
ONE_A100 = Size("A100")
LIES = st.sampled_from((1, ONE // 1000, ONE, 40 * ONE, 10**6 * ONE))


class Job(NamedTuple):
    """One that never ends."""

    sizes: tuple[Size, ...]
    lies: bool


@st.composite
def honest(draw: st.DrawFn) -> Job:
    """Of 1, 2 or 4 GPUs, or of a range of them; more GPUs bring less each."""
    counts = draw(st.sampled_from(((1,), (2,), (4,), (1, 2, 4))))
    kinds = draw(st.sampled_from((("A100",), ("K80",), ("A100", "K80"))))
    old, bent = draw(st.floats(0.1, 1)), draw(st.floats(0.3, 1))
    speeds = {"A100": 1.0, "K80": old}
    return Job(
        tuple(Size(kind, 1, n, int(ONE * speeds[kind] * n**bent)) for kind in kinds for n in counts), False
    )


@st.composite
def liar(draw: st.DrawFn) -> Job:
    """Says of every size what it likes."""
    keys = [(kind, 1, n) for kind, ((most, _),) in TYPES.items() for n in (1, 2, 4, 8) if n <= most]
    keys += [(kind, many, gpus) for kind, ((gpus, many),) in TYPES.items()]
    some = draw(st.lists(st.sampled_from(keys), min_size=1, unique=True))
    return Job(tuple(Size(*key, draw(LIES)) for key in some), True)


def lived(name: str, jobs: list[Job], **weights: float) -> tuple[list[int], list[int]]:
    """What each held, and what an equal share of it would have been, after many rounds; microseconds."""
    allocator, shares = allocators.find(name), _Shares()
    told = {key: one.default for key, one in allocator.weights.items()} | weights
    held, work, equal = [0] * len(jobs), [0] * len(jobs), [0] * len(jobs)
    holds: dict[str, Size] = {}
    for at in range(ROUNDS):
        now = at * ROUND_US

        def contender(order: int, now: int = now, holds: dict[str, Size] = holds) -> Contender:
            return Contender(
                job_id=str(order), order=order, sizes=jobs[order].sizes, holds=holds.get(str(order)),
                age_us=now, work_us=work[order], held_us=held[order], owed_us=shares.owed_us(str(order)),
                restart_us=300_000_000,
            )  # fmt: skip

        shares.count([contender(order) for order in range(len(jobs))], told["fair"], now, 2 * ROUND_US)
        asked = tuple(contender(order) for order in range(len(jobs)))
        shares.begin(asked, SUPPLY, now)
        found = targets.ask(
            allocator, Problem(contenders=asked, supply=SUPPLY, round_us=ROUND_US, weights=told)
        )
        assert not found.refused
        for order, milli in enumerate(equal_shares(asked, SUPPLY)):
            equal[order] += milli * ROUND_US // 1000
        holds = dict(found.given)
        room = Room(SUPPLY)
        assert all(room.take(size) for size in sorted(holds.values(), key=lambda size: -size.gpus))
        for job_id, size in holds.items():
            held[int(job_id)] += size.gpus_in_all * ROUND_US
            work[int(job_id)] += size.speed * ROUND_US // ONE
    return held, equal


def slack_us(job: Job) -> int:
    """What a job may be short of at any time: it waits until it is owed some rounds, and for its turn."""
    largest = max(size.gpus_in_all for size in job.sizes)
    return (PATIENCE + 2) * largest * ROUND_US + 8 * ROUND_US


def short(name: str, jobs: list[Job], **weights: float) -> list[tuple[int, int, int]]:
    """(job, rounds of a GPU that it had, and that it is sure of) of honest jobs that had too little."""
    held, equal = lived(name, jobs, **weights)
    sure = [int(FAIR * share) for share in equal]
    return [
        (at, held[at] // ROUND_US, sure[at] // ROUND_US)
        for at, job in enumerate(jobs)
        if not job.lies and held[at] < sure[at] - slack_us(job)
    ]


crowd = st.lists(honest(), min_size=1, max_size=10).flatmap(
    lambda some: st.lists(liar(), min_size=1, max_size=4).map(lambda lying: [*some, *lying])
)


@settings(max_examples=12, deadline=None)
@given(jobs=crowd)
def test_liars_leave_everybody_a_quarter_of_an_equal_share_by_relative_speed(jobs: list[Job]):
    assert short("relative-speed", jobs) == []


@settings(max_examples=12, deadline=None)
@given(jobs=crowd, power=st.sampled_from((-0.5, 0.0, 1.0)), waiting=st.sampled_from((0.0, 1.0)))
def test_liars_leave_everybody_a_quarter_of_an_equal_share_by_goodput(
    jobs: list[Job], power: float, waiting: float
):
    assert short("goodput", jobs, power=power, waiting=waiting) == []


def everything(gpus: int) -> Job:
    """Says that it is a million times as fast on a whole node."""
    sizes = [Size(kind, 1, n, ONE) for kind in TYPES for n in (1, 2, 4)]
    whole = [Size(kind, many, gpus, gpus * 10**6 * ONE) for kind, ((gpus, many),) in TYPES.items()]
    return Job((*sizes, *whole), True)


def test_two_that_say_they_gain_everywhere_have_no_more_than_their_turn_by_relative_speed():
    """Without `fair` they leave others less than that, since all are said to gain as much."""
    ways = tuple(Size(kind, 1, 1, ONE if kind == "A100" else ONE // 50) for kind in TYPES)
    jobs = [*[Job(ways, False)] * 40, everything(8), everything(8)]
    assert short("relative-speed", jobs) == []
    assert short("relative-speed", jobs, fair=0.0) != []


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_two_that_say_they_gain_everywhere_have_no_more_than_their_turn_by_goodput(power: float):
    ways = tuple(Size(kind, 1, 1, ONE) for kind in TYPES)
    jobs = [*[Job(ways, False)] * 10, everything(8), everything(8)]
    assert short("goodput", jobs, power=power, waiting=0.0) == []
    assert short("goodput", jobs, power=power, waiting=0.0, fair=0.0) != []


def test_no_size_counts_more_than_its_gpus_however_fast_it_is_said_to_be():
    """One of two GPUs waits with eight times the words of two that run: nobody is moved for it."""
    runs = [Contender(job_id=f"r{n}", order=n, sizes=(ONE_A100,), holds=ONE_A100) for n in range(2)]
    loud = Contender(
        job_id="loud", order=9, sizes=(ONE_A100, Size("A100", 1, 2, 1_000_000 * ONE)), age_us=ROUND_US
    )
    allocator = allocators.find("relative-speed")
    told = {key: one.default for key, one in allocator.weights.items()}
    asked = Problem(
        contenders=(*runs, loud), supply=(Supply("A100", ((2, 1),)),), round_us=ROUND_US, weights=told
    )
    assert targets.ask(allocator, asked).moves == {}


def test_a_speed_is_believed_that_grows_as_the_gpus_and_types_that_are_not_worlds_apart():
    told = (Size("A100", 1, 1, ONE), Size("A100", 1, 2, 5 * ONE), Size("A100", 1, 4, 3 * ONE))
    slow = Size("K80", 1, 1, 1)
    assert believed((*told, slow)) == [100, 200, 400, 1]
    assert believed(told) == [ONE, 2 * ONE, 3 * ONE]


def test_who_was_owed_runs_for_some_rounds_before_others_have_their_turn_again():
    """Its start costs it something: it is not stopped again after one round."""
    owed = Contender(
        job_id="small",
        order=1,
        sizes=(Size("A100", 1, 1, ONE // 10), Size("K80")),
        owed_us=PATIENCE * ROUND_US,
    )
    allocator = allocators.find("relative-speed")
    told = {key: one.default for key, one in allocator.weights.items()}
    large = [Contender(job_id=f"x{n}", order=2 + n, sizes=(ONE_A100,), holds=ONE_A100) for n in range(2)]
    asked = Problem(
        contenders=(owed, *large), supply=(Supply("A100", ((2, 1),)),), round_us=ROUND_US, weights=told
    )
    assert "small" in targets.ask(allocator, asked).given
    less = replace(owed, owed_us=PATIENCE * ROUND_US - 1)
    assert "small" not in targets.ask(allocator, replace(asked, contenders=(less, *large))).given
    runs = replace(owed, owed_us=1, holds=owed.sizes[0])
    asked = replace(asked, contenders=(runs, replace(large[0], holds=None), large[1]))
    assert "small" in targets.ask(allocator, asked).given
    again = replace(runs, owed_us=0)
    asked = replace(asked, contenders=(again, replace(large[0], holds=None), large[1]))
    assert "small" not in targets.ask(allocator, asked).given
