"""Plans of jobs that ask for the same beside places that are kept: who starts, and what stops the others."""

from __future__ import annotations

from msgspec.structs import replace

from bursar.model import DeviceShare, ReasonCode
from bursar.model.allocation import FREE
from bursar.resources import MILLI
from bursar_policies.decision import JobColumns, PendingQueue, Placement, Promised, RunningMember, Snapshot
from bursard.scheduler import plan, reason_of
from bursard.scheduler.saved import plan_bytes
from bursard.scheduler.testing import Node, columns, job_class, queue, request, snapshot

NOW = 1_767_225_600_000_000
MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
USD = 10**9
ONE = job_class(request(gpus=1))


def node(name: str, rate: int = 0) -> Node:
    return Node(name=name, gpus=1, rates=(rate, 0, 0))


def kept(
    job_id: str, row: int, start_h: float, hours: float = 1, rate: int = -1, index: int = -1
) -> Promised:
    """A whole GPU of a node from so many hours from now on."""
    start = NOW + int(start_h * HOUR_US)
    until = start + int(hours * HOUR_US)
    members = (Placement(row, (DeviceShare(0, MILLI),), 1_000, 0, FREE),)
    return Promised(job_id, index, until, start, until, 0, members, rate, 0, ())


def waiting(*jobs: tuple[str, float], priority: int = 50) -> PendingQueue:
    """Jobs that ask for one GPU, with time limits in hours, in this order."""
    rows = [(order, job_id, int(hours * HOUR_US)) for order, (job_id, hours) in enumerate(jobs)]
    return PendingQueue(ONE.without_limit(), priority, JobColumns.of(rows))


def beside(world: Snapshot, *promises: Promised) -> Snapshot:
    return replace(world, promises=promises)


def started(world: Snapshot) -> list[tuple[str, int]]:
    return [(start.job_id, start.members[0].node) for start in plan(world, NOW).starts]


def test_behind_a_job_that_is_too_long_one_starts_that_ends_before_the_later_of_two_places() -> None:
    world = snapshot(columns([node("a"), node("b")]), waiting(("long", 9), ("middle", 3), ("short", 0.5)))
    assert started(beside(world, kept("p", 0, 1), kept("q", 1, 5))) == [("middle", 1), ("short", 0)]


def test_behind_a_promised_job_without_room_one_starts_that_ends_before_others_places() -> None:
    world = snapshot(columns([node("a")]), waiting(("promised", 6), ("other", 2)))
    made = beside(world, kept("q", 0, 3), kept("promised", 0, 5, hours=6, index=0))
    assert started(made) == [("other", 0)]


def test_behind_a_job_that_is_too_long_a_promised_one_begins_on_the_node_of_its_own_place() -> None:
    world = snapshot(columns([node("a")]), waiting(("long", 4), ("promised", 2)))
    assert started(beside(world, kept("promised", 0, 1, hours=2, index=0))) == [("promised", 0)]


def test_a_promised_job_that_would_meet_anothers_place_is_told_of_that_one() -> None:
    world = beside(
        snapshot(columns([node("a")]), waiting(("promised", 6))),
        kept("q", 0, 3),
        kept("promised", 0, 2, hours=0.5, index=0),
    )
    why = reason_of(world, plan(world, NOW), 0)
    assert why.code is ReasonCode.RESERVED_FOR_OTHER
    assert dict(why.facts)["promised"] == "q"


def test_a_promised_job_begins_early_on_its_own_node_where_that_has_room_until_it_ends() -> None:
    jobs = waiting(("promised", 1))
    world = snapshot(columns([node("a", USD), node("b", 2 * USD)]), jobs)
    own = kept("promised", 0, 2, rate=USD, index=0)
    assert started(beside(world, own)) == [("promised", 0)]
    assert (
        started(beside(world, own, kept("q", 0, 0.5, hours=0.25))) == []
    )  # there is b alone, which is dearer
    assert started(beside(world, own, kept("q", 0, 1.5, hours=0.25))) == [("promised", 0)]


def test_what_stops_many_promised_jobs_alike_is_said_once() -> None:
    names = [f"p{number}" for number in range(3_000)]
    world = snapshot(
        columns([node("a", USD), node("b", 9 * USD)]),
        waiting(*((name, 1) for name in names)),
        running=[RunningMember(0, NOW + HOUR_US, 1_000, 0, (DeviceShare(0, MILLI),), "r")],
    )
    world.nodes.gpu_free[0, 0] = 0
    made = plan(
        beside(world, *(kept(name, 0, 2 + at, rate=USD, index=0) for at, name in enumerate(names))), NOW
    )
    assert made.starts == ()
    assert made.verdicts[0].blocked_by == "dearer"
    assert made.verdicts[0].shorter is None
    assert len(plan_bytes(made)) < 1_000


def test_what_waits_first_has_its_claim_before_a_promised_job_is_told_to_wait_for_a_cheaper_place() -> None:
    """The claim takes the node that the promised job would be offered, so room is what it lacks."""
    both = job_class(request(gpus=1), nodes=2)
    held = RunningMember(0, NOW + 2 * HOUR_US, 1_000, 0, (DeviceShare(0, MILLI),), "r")
    nodes = columns([node("a", USD), node("b", 9 * USD)])
    nodes.gpu_free[0, 0] = 0
    world = snapshot(nodes, queue(both, (1, "gang"), priority=75), waiting(("promised", 6)), running=[held])
    made = plan(beside(world, kept("promised", 0, 20, hours=6, rate=USD, index=1)), NOW)
    assert made.reserved_job == "gang"
    assert made.reserved_at == NOW + 2 * HOUR_US
    assert made.verdicts[1].blocked_by == "claim"
