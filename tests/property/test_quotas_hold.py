"""What quotas promise, whatever runs and waits: never above `max`, guarantees within reach, and nothing taken
back that need not be, or that a guarantee pays for.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bursar_policies.decision import (
    Holder,
    Holding,
    JobClass,
    MemberColumns,
    RunningMember,
    Snapshot,
    Start,
    Stop,
)
from bursar_policies.specs import QuotaSpec
from bursard.scheduler import PlanCache, plan
from bursard.scheduler.testing import Node, columns, job_class, occupy, queue, request, snapshot, vacate

NOW = 1_767_225_600_000_000
HOUR_US = 3_600_000_000
PATHS = (("ft", "nlp"), ("nlp",), ("vision",), ("vision", "ann"), ("ann",), ())
"""Whose a job is, by the quotas that count it."""


class Site:
    """A cluster whose plans are carried out, and nothing ends but what is stopped."""

    def __init__(self, sizes: list[int], quotas: dict[str, QuotaSpec]) -> None:
        machines = [
            Node(name=f"n{row}", gpus=gpus, cpu_milli=64_000, rates=(gpus, 0, 0))
            for row, gpus in enumerate(sizes)
        ]
        self.nodes = columns(machines)
        self.quotas = quotas
        self.running: dict[str, tuple[JobClass, list[RunningMember], int]] = {}
        self.waiting: list[tuple[int, str, JobClass, int]] = []
        self.submitted = 0

    def submit(self, wanted: JobClass, priority: int) -> str:
        self.submitted += 1
        name = f"j{self.submitted:03}"
        self.waiting.append((self.submitted, name, wanted, priority))
        return name

    def gpus_of(self, name: str) -> int:
        return sum(share.milli for member in self.running[name][1] for share in member.devices)

    def used(self, quota: str) -> int:
        return sum(self.gpus_of(name) for name, (one, _, _) in self.running.items() if quota in one.quotas)

    def seen(self, without_holders: bool = False) -> Snapshot:
        queues = [queue(one, (order, name), priority=priority) for order, name, one, priority in self.waiting]
        members = [member for _, found, _ in self.running.values() for member in found]
        world = snapshot(self.nodes, *queues, running=members)
        holders, holdings = {}, {}
        for name, (one, found, since) in self.running.items():
            holders[name] = Holder(50, len(found), NOW - HOUR_US, exempt=one.pinned)
            gpus = self.gpus_of(name)
            uses = (("cpus", sum(m.cpu_milli for m in found)), ("gpus", gpus), ("gpus/H100", gpus))
            holdings[name] = Holding(one.quotas, uses, since, one.pinned)
        held = {} if without_holders else holders
        return replace(world, holders=held, quotas=self.quotas, holdings=holdings)

    def starts(self, start: Start, at: int) -> None:
        _, name, wanted, _ = next(one for one in self.waiting if one[1] == start.job_id)
        members = [replace(one, attempt_id=name) for one in occupy(self.nodes, start, NOW + 100 * HOUR_US)]
        self.running[name] = (wanted, members, at)
        self.waiting = [one for one in self.waiting if one[1] != name]

    def ends(self, name: str) -> None:
        for member in self.running.pop(name)[1]:
            vacate(self.nodes, member)

    def owed(self, quota: str) -> int:
        return dict(self.quotas[quota].guaranteed).get("gpus", 0)


@st.composite
def sites(draw: st.DrawFn, whole_gpus: bool = False) -> Site:
    """Quotas that guarantee no more than there is, and jobs that came in any order."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    total = sum(sizes)
    nlp, vision, ann = (draw(st.integers(0, total)) for _ in range(3))
    nlp = min(nlp, total)
    vision = min(vision, total - nlp)
    ann = min(ann, total - nlp - vision)
    ft = draw(st.integers(0, nlp))

    def of(owed: int, **scope: str) -> QuotaSpec:
        most = draw(st.one_of(st.none(), st.integers(owed, total)))
        if not owed and most is None:
            most = total
        bound = (("gpus", most * 1_000),) if most is not None else ()
        return QuotaSpec(**scope, guaranteed=(("gpus", owed * 1_000),) if owed else (), max=bound)

    quotas = {
        "nlp": of(nlp, project="nlp"),
        "ft": of(ft, project="nlp/ft"),
        "vision": of(vision, project="vision"),
        "ann": of(ann, user="ann"),
    }
    site = Site(sizes, quotas)
    for _ in range(draw(st.integers(1, 4))):
        for _ in range(draw(st.integers(1, 8))):
            gpus = 1 if whole_gpus else draw(st.sampled_from([1, 1, 1, 2, 0.5]))
            wanted = job_class(
                request(gpus, cpus=0.001),
                hours=draw(st.sampled_from([1, 20])),
                nodes=1 if whole_gpus else draw(st.sampled_from([1, 1, 1, 2])),
                quotas=draw(st.sampled_from(PATHS)),
                pinned=draw(st.sampled_from([False, False, True])),
            )
            site.submit(wanted, draw(st.sampled_from([10, 50, 90])))
        turn(site)
        for name in sorted(site.running):
            if draw(st.sampled_from([False, False, True])):
                site.ends(name)
    return site


def turn(site: Site) -> bool:
    """One plan, looked at and carried out. False: it did nothing."""
    world = site.seen()
    answer = plan(world, NOW)
    assert answer == plan(world, NOW, PlanCache())
    stops = [one for one in answer.actions if isinstance(one, Stop)]
    for start in answer.starts:
        site.starts(start, site.submitted)
        for quota, spec in site.quotas.items():
            counted = site.running[start.job_id][0].quotas
            for _, most in spec.max if quota in counted else ():
                assert site.used(quota) <= most, f"{quota} is above its max"
    if stops:
        look_at(site, site.seen(), stops)
    for stop in stops:
        site.ends(stop.attempt_id)
    return bool(answer.groups)


def look_at(site: Site, world: Snapshot, stops: list[Stop]) -> None:
    """Whom it takes from, and whether it must."""
    (name,) = {stop.for_job for stop in stops}
    wanted = next(one for _, job, one, _ in site.waiting if job == name)
    victims = {stop.attempt_id for stop in stops}
    sheltered = shelters(site)
    for victim in victims:
        theirs = site.running[victim][0]
        assert not theirs.pinned
        for quota in theirs.quotas:
            assert quota in wanted.quotas or victim not in sheltered[quota], f"{victim} is within {quota}"
    for spared in [None, *sorted(victims)]:
        gone = victims - {spared} if spared is not None else set()
        assert not starts_when_gone(world, name, gone), "less would have been enough"
    assert starts_when_gone(world, name, victims), "and what is stopped is"


def starts_when_gone(world: Snapshot, name: str, gone: set[str]) -> bool:
    """Would the job start were it alone and these not there?"""
    nodes = replace(
        world.nodes,
        cpu_free=world.nodes.cpu_free.copy(),
        memory_free=world.nodes.memory_free.copy(),
        gpu_free=world.nodes.gpu_free.copy(),
    )
    running = world.running
    rest = []
    for row, attempt_id in enumerate(running.attempt_ids):
        if attempt_id in gone:
            nodes.cpu_free[running.node[row]] += running.cpu_milli[row]
            nodes.gpu_free[running.node[row]][: running.gpu_milli.shape[1]] += running.gpu_milli[row]
        else:
            rest.append(row)
    left = MemberColumns(
        running.node[rest],
        running.ends_at[rest],
        running.cpu_milli[rest],
        running.memory_bytes[rest],
        running.gpu_milli[rest],
        tuple(running.attempt_ids[row] for row in rest),
    )
    mine = tuple(one for one in world.queues if one.jobs[0][1] == name)
    holdings = {one: held for one, held in world.holdings.items() if one not in gone}
    alone = replace(world, nodes=nodes, queues=mine, running=left, holdings=holdings, holders={})
    return bool(plan(alone, NOW).starts)


def shelters(site: Site) -> dict[str, set[str]]:
    """By quota, what its guarantee pays for, worked out from what is written of it."""
    found: dict[str, set[str]] = {}
    for quota in ("ft", "nlp", "vision", "ann"):
        inner = found.get("ft", set()) if quota == "nlp" else set()
        mine = [name for name, (one, _, _) in site.running.items() if quota in one.quotas]
        inner |= (
            found["vision"] | found.get("nlp", set()) | found.get("ft", set()) if quota == "ann" else set()
        )
        mine.sort(key=lambda n: (n not in inner, not site.running[n][0].pinned, site.running[n][2], n))
        left, found[quota] = site.owed(quota), set()
        for name in mine:
            if site.gpus_of(name) <= left:
                left -= site.gpus_of(name)
                found[quota].add(name)
    return found


@settings(max_examples=150, deadline=None)
@given(sites())
def test_no_quota_is_passed_and_only_what_is_borrowed_and_needed_is_taken_back(site):
    for _ in range(12):
        if not turn(site):
            break


@settings(max_examples=100, deadline=None)
@given(sites(whole_gpus=True), st.sampled_from(["nlp", "vision"]))
def test_what_is_guaranteed_is_there_when_it_is_asked_for(site, quota):
    for _ in range(40):
        if not turn(site):
            break
    site.waiting = [one for one in site.waiting if quota not in one[2].quotas]
    missing = max(site.owed(quota) - site.used(quota), 0) // 1_000
    asked = [site.submit(job_class(request(1, cpus=0.001), quotas=(quota,)), 10) for _ in range(missing)]
    for _ in range(len(asked) + 3):
        turn(site)
    assert [name for name in asked if name not in site.running] == []
