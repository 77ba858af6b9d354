"""Reservations as plans see them: who is kept out, who is let in first, what is said, and what would help."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from bursar.model import ReasonCode
from bursar.resources import MILLI
from bursar_policies.decision import Holder, JobColumns, PendingQueue, Snapshot
from bursar_policies.specs import PriorityPolicySpec, ReservationSpec
from bursard.scheduler import plan, reason_of
from bursard.scheduler.alternatives import WINDOWS_TRIED, candidates
from bursard.scheduler.explain import explain, what_if
from bursard.scheduler.plan import Planner
from bursard.scheduler.testing import Node, columns, job_class, occupy, queue, request, snapshot
from bursard.scheduler.windows import Windows
from bursard.scheduler.world import World

NOW = 1_767_225_600_000_000
HOUR_US = 3_600_000_000
MINUTE_US = 60_000_000
USD = 10**9


def window(*nodes: str, begins_h: float, lasts_h: float = 4, **whose: tuple[str, ...]) -> ReservationSpec:
    starts_at = NOW + int(begins_h * HOUR_US)
    return ReservationSpec(tuple(sorted(nodes)), starts_at, starts_at + int(lasts_h * HOUR_US), **whose)


def world(*queues: object, nodes: str = "ab", gpus: int = 1, **reserved: ReservationSpec) -> Snapshot:
    machines = [Node(name=name, gpus=gpus, rates=(USD, 0, 0)) for name in nodes]
    return replace(snapshot(columns(machines), *queues), reservations=reserved)  # type: ignore[arg-type]


def placed(seen: Snapshot, now: int = NOW) -> Mapping[str, list[str]]:
    starts = plan(seen, now).starts
    return {one.job_id: [seen.nodes.names[member.node] for member in one.members] for one in starts}


def test_a_job_that_may_still_run_when_a_window_begins_goes_elsewhere_or_waits():
    hour = job_class(request(1), hours=1)
    jobs = queue(hour, (1, "j1"), (2, "j2"))
    assert placed(world(jobs, maint=window("a", begins_h=0.5))) == {"j1": ["b"]}
    assert placed(world(jobs, maint=window("a", begins_h=-1, lasts_h=2))) == {"j1": ["b"]}
    assert placed(world(jobs, maint=window("a", begins_h=2))) == {"j1": ["a"], "j2": ["b"]}
    assert placed(world(jobs, maint=window("a", begins_h=-4, lasts_h=4))) == {"j1": ["a"], "j2": ["b"]}


def test_it_may_end_at_the_very_start_with_its_grace_and_margin_and_no_later():
    hour = job_class(request(1), hours=1)  # and a minute beyond its limit
    jobs = queue(hour, (1, "j1"))
    exact = (hour.hold_us / HOUR_US, (hour.hold_us - 1) / HOUR_US)
    at, before = (replace(window("a", begins_h=9), starts_at=NOW + int(h * HOUR_US)) for h in exact)
    at = replace(at, starts_at=NOW + hour.hold_us)
    before = replace(at, starts_at=NOW + hour.hold_us - 1)
    assert placed(world(jobs, nodes="a", maint=at)) == {"j1": ["a"]}
    assert placed(world(jobs, nodes="a", maint=before)) == {}


def test_gaps_before_a_window_are_filled_by_jobs_that_are_short_enough():
    long, short = job_class(request(1), hours=3), job_class(request(1), hours=0.5)
    seen = world(
        queue(long, (1, "long")), queue(short, (2, "short")), nodes="a", maint=window("a", begins_h=1)
    )
    assert placed(seen) == {"short": ["a"]}


def test_of_one_queue_a_shorter_job_behind_a_long_one_starts():
    wanted = job_class(request(1)).without_limit()
    rows = JobColumns.of([(1, "long", 3 * HOUR_US), (2, "short", HOUR_US // 2)])
    seen = world(PendingQueue(wanted, 50, rows), nodes="a", maint=window("a", begins_h=1))
    made = plan(seen, NOW)
    assert [one.job_id for one in made.starts] == ["short"]
    assert reason_of(seen, made, 0, 0).code is ReasonCode.RESERVED_FOR_OTHER


def test_a_job_of_theirs_that_would_stay_beyond_the_window_stays_behind_who_waits_for_that():
    """Then the node is for all: the one that was submitted first has a claim on it."""
    mine = job_class(request(1), hours=9, reservations=("big",))
    other = queue(job_class(request(1), hours=9), (1, "other"), (2, "more"))
    seen = world(other, queue(mine, (3, "mine")), big=window("a", begins_h=-1, users=("u",)))
    made = plan(seen, NOW)
    assert [one.job_id for one in made.starts] == ["other"]
    assert (made.reserved_job, made.reserved_at) == ("more", NOW + 3 * HOUR_US)


def test_those_for_whom_nodes_are_reserved_get_them_first_and_others_do_not():
    mine = job_class(request(1), hours=2, reservations=("big",))
    other = job_class(request(1), hours=9)
    seen = world(
        queue(other, (1, "other"), (2, "more")),
        queue(mine, (3, "mine")),
        big=window("a", begins_h=-1, users=("u",)),
    )
    assert placed(seen) == {"other": ["b"], "mine": ["a"]}
    alone = world(queue(mine, (1, "mine")), nodes="ba", big=window("b", begins_h=-1, users=("u",)))
    assert placed(alone) == {"mine": ["b"]}, "though a comes first by its name"


def test_where_maintenance_meets_a_reservation_nobody_gets_in():
    mine = job_class(request(1), hours=1, reservations=("big",))
    seen = world(
        queue(mine, (1, "mine")),
        nodes="a",
        big=window("a", begins_h=-1, users=("u",)),
        fix=window("a", begins_h=0.1),
    )
    assert placed(seen) == {}


def test_a_gang_needs_all_its_nodes_open_at_once():
    pair = job_class(request(1), hours=2, nodes=2)
    seen = world(queue(pair, (1, "pair")), maint=window("b", begins_h=1))
    assert placed(seen) == {}
    assert placed(seen, NOW + 5 * HOUR_US) == {"pair": ["a", "b"]}


def test_the_reason_names_the_reservation_its_window_and_a_limit_that_helps():
    jobs = queue(job_class(request(1), hours=3), (1, "j1"))
    seen = world(jobs, nodes="a", fix=window("a", begins_h=2))
    made = plan(seen, NOW)
    why = reason_of(seen, made, 0)
    assert why.code is ReasonCode.RESERVED_FOR_OTHER
    assert why.message == (
        "fits now, but on 1 node (a) that is reserved by fix for maintenance from 2026-01-01 02:00 UTC to"
        " 2026-01-01 06:00 UTC, and it may run until 2026-01-01 03:01 UTC"
    )
    assert (
        why.remedy
        == "set --time-limit 1h59m or less to end before it begins, or wait until 2026-01-01 06:00 UTC"
    )
    assert dict(why.facts)["reservation"] == "fix"
    within = queue(job_class(request(1), hours=119 / 60), (1, "j1"))
    assert placed(replace(seen, queues=(within,))) == {"j1": ["a"]}


def test_of_one_that_has_begun_it_says_until_when():
    jobs = queue(job_class(request(1), hours=1), (1, "j1"))
    seen = world(jobs, nodes="a", big=window("a", begins_h=-1, projects=("nlp",)))
    why = reason_of(seen, plan(seen, NOW), 0)
    assert why.message == (
        "fits now, but on 1 node (a) that is reserved by big for others from 2025-12-31 23:00 UTC to"
        " 2026-01-01 03:00 UTC"
    )
    assert "from 2026-01-01 03:00 UTC on" in why.remedy


def test_who_would_wait_anyway_is_told_what_is_short_of_what_is_left():
    nodes = columns([Node(name=name, gpus=1, rates=(USD, 0, 0)) for name in "abc"])
    seen = replace(
        snapshot(nodes, queue(job_class(request(1), hours=3, nodes=2), (1, "j1"))),
        reservations={"fix": window("a", begins_h=1)},
    )
    nodes.gpu_free[1, 0] = 0
    nodes.gpu_free[0, 0] = 0
    why = reason_of(seen, plan(seen, NOW), 0)
    assert why.code is ReasonCode.WAITING_FOR_RESOURCES
    assert "1 of 2 that could hold it has that now" in why.message


def test_explain_tells_each_node_the_time_and_what_would_start_it_now():
    jobs = queue(job_class(request(1), hours=3), (1, "j1"))
    seen = world(jobs, nodes="a", fix=window("a", begins_h=2))
    told = explain(seen, 0, NOW)
    assert not told.starts_now
    assert told.expected_start_at == NOW + 6 * HOUR_US
    (node,) = told.nodes
    assert (node.fits, node.check) == (False, "reserved")
    assert node.detail.startswith("it is reserved by fix for maintenance from 2026-01-01 02:00 UTC")
    assert ("reserved", 1) in told.counts
    assert told.alternatives[0].change == "set --time-limit 1h59m"


def test_a_plan_of_a_job_to_come_says_when_it_would_start():
    seen = world(nodes="a", fix=window("a", begins_h=2))
    answer = what_if(seen, job_class(request(1), hours=3), NOW)
    assert answer.start is None
    assert answer.reason.code is ReasonCode.RESERVED_FOR_OTHER
    assert answer.expected_start_at == NOW + 6 * HOUR_US


def test_a_claim_lies_between_the_windows():
    """Its node is free in an hour; two hours from then a window begins: it is too long for that gap."""
    busy = columns([Node(name="a", gpus=1, rates=(USD, 0, 0)), Node(name="b", gpus=0, rates=(USD, 0, 0))])
    first = plan(snapshot(busy, queue(job_class(request(1)), (0, "r"))), NOW).starts
    running = occupy(busy, first[0], NOW + HOUR_US)
    for hours, at in ((1.5, NOW + HOUR_US), (3, NOW + 7 * HOUR_US)):
        wanted = queue(job_class(request(1), hours=hours), (1, "head"))
        seen = replace(snapshot(busy, wanted, running=running), reservations={"fix": window("a", begins_h=3)})
        assert explain(seen, 0, NOW).expected_start_at == at


def test_nobody_is_stopped_for_a_job_that_the_node_is_closed_to():
    nodes = columns([Node(name="a", gpus=1, rates=(USD, 0, 0))])
    low = plan(snapshot(nodes, queue(job_class(request(1)), (0, "low"))), NOW).starts[0]
    running = [replace(one, attempt_id="low") for one in occupy(nodes, low, NOW + 9 * HOUR_US)]
    urgent = queue(job_class(request(1), hours=3), (1, "urgent"), priority=90)
    rules = PriorityPolicySpec(preempt_gap=10)
    seen = replace(
        snapshot(nodes, urgent, running=running),
        priority=rules,
        holders={"low": Holder(10, MILLI, NOW)},
    )
    assert plan(seen, NOW).making_room_for == "urgent"
    closed = replace(seen, reservations={"fix": window("a", begins_h=2)})
    made = plan(closed, NOW)
    assert made.groups == ()
    assert made.making_room_for == ""


def test_however_many_windows_there_are_a_bounded_number_of_shorter_limits_is_tried():
    long = job_class(request(1), hours=24 * 300)
    many = {f"w{i}": window("a", begins_h=2 + 5 * i) for i in range(500)}
    seen = world(queue(long, (1, "j1")), nodes="a", **many)
    one = Planner(seen, NOW, World(seen))
    one.run()
    assert [change for change, _ in candidates(one, long)] == ["set --time-limit 1h59m"]
    each = {f"w{i}": window(f"n{i:03}", begins_h=2 + i) for i in range(500)}
    machines = [Node(name=f"n{i:03}", gpus=1, rates=(USD, 0, 0)) for i in range(500)]
    seen = replace(snapshot(columns(machines), queue(long, (1, "j1"))), reservations=each)
    told = explain(seen, 0, NOW)
    assert len(told.alternatives) == WINDOWS_TRIED
    assert told.alternatives[0].change == "set --time-limit 20d20h"
    assert told.alternatives[-1].change == "set --time-limit 1h59m"


def test_what_is_closed_changes_with_each_window_that_begins_or_ends():
    seen = world(
        nodes="ab", x=window("a", begins_h=2), y=window("a", "b", begins_h=4), z=window("b", begins_h=-9)
    )
    windows = Windows(seen.nodes, seen.reservations)
    hour = job_class(request(1), hours=1)
    found = list(windows.segments(hour, NOW))
    assert [one.start for one in found][1:] == [one.end for one in found][:-1]
    for one in found:
        for at in (one.start, min(one.end, NOW + 30 * HOUR_US) - 1):
            assert one.closed.tolist() == windows.mask(windows.closing(hour, at, hour.hold_us)).tolist()
    assert any(one.closed.any() for one in found)
    assert not found[-1].closed.any()
