"""A snapshot is frozen: whatever happens to the state afterwards, the plan made of it is the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.ids import SequentialIds
from bursar.model import Device, EndCause, JobSpec, JobState, NodeFacts, ShareRates
from bursar.resources import GpuRequest, ResourceRequest
from bursar_policies.compile import PriceTable
from bursar_policies.decision import MemberColumns, NodeColumns, Snapshot
from bursar_policies.document import parse_documents
from bursard.events import ClusterCreated, Event, ExitReport, NodePriced
from bursard.place import one_pass
from bursard.scheduler import plan, reason_of
from bursard.state import Applied, State
from bursard.state.decide import attempts, jobs, nodes, policies

START = 1_767_225_600_000_000
HOUR_US = 3_600_000_000
GIB = 1 << 30
RATES = ShareRates(gpu=8_000_000_000, cpu=1_000_000_000, memory=1_000_000_000)
BUDGET = """\
kind: Budget
name: b
spec: {scope: {project: p}, limit: 40 USD, period: month, enforcement: hard}
"""


class Site:
    """A state of three nodes under a budget, with jobs that run and jobs that wait."""

    def __init__(self) -> None:
        self.state, self.ids, self.now = State(), SequentialIds(), START
        self.boots = 0
        self.apply([ClusterCreated("c", "USD")])
        self.apply(policies.apply_documents(self.state, parse_documents(BUDGET, "b"), self.now))
        for name in "abc":
            self.join(name)

    def apply(self, events: Sequence[Event]) -> bool:
        for event in events:
            self.state.apply(event, self.now, Applied())
        return True

    def join(self, name: str, gpus: int = 2, zone: str = "z") -> None:
        devices = tuple(Device(i, f"{name}{i}", "H100", 80 * GIB) for i in range(gpus))
        facts = NodeFacts(name=name, cpu_milli=8_000, memory_bytes=64 * GIB, devices=devices, zone=zone)
        known = self.state.node_by_name(name)
        boot = known.boot_id if known is not None else f"boot-{name}"
        self.apply(
            nodes.hello(
                self.state, self.ids, PriceTable(), facts=facts, boot_id=boot, boot_us=0, now=self.now
            )
        )
        self.apply([NodePriced(self.state.node_names[name], "test", RATES)])

    def submit(self, gpus: int, nodes: int, project: str, priority: int = 50) -> None:
        wanted = GpuRequest(gpus) if gpus else None
        spec = JobSpec(
            command=("x",), project=project, nodes=nodes, priority=priority, time_limit_us=HOUR_US,
            options=(ResourceRequest(wanted, 1_000, GIB),),
        )  # fmt: skip
        self.apply(jobs.submit(self.state, self.ids, user="ann", spec=spec))

    def cycle(self) -> None:
        one_pass(self.state, self.ids, self.now, lambda _, events: self.apply(events))

    def start_some(self) -> None:
        for attempt in list(self.state.attempts.values()):
            for member in attempt.members:
                node = self.state.nodes[member.alloc.node_id]
                self.apply(attempts.started(self.state, node, attempt.id, member.alloc.rank, 5, 1))

    def end_one(self) -> None:
        attempt = next(iter(self.state.attempts.values()), None)
        for member in attempt.live() if attempt is not None else []:
            report = ExitReport(cause=EndCause.COMPLETED, exit_code=0, held_us=3)
            node = self.state.nodes[member.alloc.node_id]
            rank = member.alloc.rank
            self.apply(attempts.exited(self.state, node, attempt.id, rank, report, 0))  # type: ignore[union-attr]

    def hold_one(self) -> None:
        for job in list(self.state.jobs.values()):
            if job.state is JobState.PENDING and not job.held:
                self.apply(jobs.hold(self.state, job))
                return

    def silence(self) -> None:
        for node in self.state.nodes.values():
            self.apply(nodes.silent(self.state, node))

    def leave_and_reuse(self) -> None:
        """The nodes on which nothing is live go for good; another takes the row of the first of them."""
        for node in list(self.state.nodes.values()):
            if not node.live:
                self.apply(nodes.silent(self.state, node))
                self.apply(nodes.remove(self.state, PriceTable(), node, self.now))
        self.join(f"x{self.state.version}", gpus=1)

    def reprice(self) -> None:
        for node in self.state.nodes.values():
            self.apply([NodePriced(node.id, "other", ShareRates(gpu=1))])

    def cut_budget(self) -> None:
        text = BUDGET.replace("40 USD", "39 USD")
        self.apply(policies.apply_documents(self.state, parse_documents(text, "b"), self.now))

    def spread(self) -> None:
        text = "kind: PlacementPolicy\nname: s\nspec: {strategy: spread}\n"
        self.apply(policies.apply_documents(self.state, parse_documents(text, "s"), self.now))


MUTATIONS: dict[str, Callable[[Site], None]] = {
    "submit": lambda site: site.submit(1, 1, "q"),
    "urgent": lambda site: site.submit(0, 1, "q", 90),
    "cycle": Site.cycle,
    "start": Site.start_some,
    "end": Site.end_one,
    "hold": Site.hold_one,
    "silence": Site.silence,
    "drain": lambda site: site.apply(
        [event for node in site.state.nodes.values() for event in nodes.scheduling(node, "drain", "x")]
    ),
    "join": lambda site: site.join(f"n{len(site.state.nodes)}"),
    "grow": lambda site: [site.join(f"n{len(site.state.nodes)}") for _ in range(12)] and None,
    "describe": lambda site: site.join("a", gpus=4, zone="y"),
    "reprice": Site.reprice,
    "leave": Site.leave_and_reuse,
    "budget": Site.cut_budget,
    "strategy": Site.spread,
}


def all_bytes(shot: Snapshot) -> bytes:
    """Everything a snapshot holds, and what is made of it."""
    answer = plan(shot, START)
    reasons = [reason_of(shot, answer, index) for index in answer.verdicts]
    arrays = [
        getattr(part, name).tobytes()
        for part in (shot.nodes, shot.running)
        for name in part.__struct_fields__
        if isinstance(getattr(part, name), np.ndarray)
    ]
    lists = [shot.nodes.ids, shot.nodes.names, shot.nodes.attributes, shot.nodes.gpu_types]
    rest = [shot.nodes.price_ids, shot.running.attempt_ids, shot.queues, shot.budgets, shot.typical]
    names = [shot.version, shot.strategy, shot.facts_version, shot.prices, shot.policies]
    return msgspec.msgpack.encode([answer, reasons, arrays, lists, rest, names], enc_hook=np.ndarray.tolist)


JOBS = st.tuples(st.integers(0, 2), st.integers(1, 3), st.sampled_from("pq"), st.sampled_from([25, 50, 75]))


@given(
    st.lists(JOBS, min_size=1, max_size=6),
    st.lists(JOBS, max_size=4),
    st.lists(st.sampled_from(sorted(MUTATIONS)), min_size=1, max_size=8),
)
def test_nothing_that_happens_later_reaches_a_snapshot(running, waiting, mutations):
    site = Site()
    for job in running:
        site.submit(*job)
    site.cycle()
    site.start_some()
    for job in waiting:
        site.submit(*job)
    shot = site.state.snapshot()
    before = all_bytes(shot)
    for name in mutations:
        MUTATIONS[name](site)
        assert all_bytes(shot) == before, name


@pytest.mark.parametrize("name", sorted(MUTATIONS))
def test_every_mutation_is_seen_by_the_next_snapshot(name):
    """The property above proves nothing about a mutation that changes nothing."""
    site = Site()
    site.submit(1, 1, "p")
    site.cycle()
    site.submit(2, 2, "p")
    before = all_bytes(site.state.snapshot())
    MUTATIONS[name](site)
    assert all_bytes(site.state.snapshot()) != before


def test_nobody_can_write_into_a_snapshot():
    site = Site()
    site.submit(1, 1, "p")
    site.cycle()
    shot = site.state.snapshot()
    for part, kind in ((shot.nodes, NodeColumns), (shot.running, MemberColumns)):
        for name in kind.__struct_fields__:
            column = getattr(part, name)
            if isinstance(column, np.ndarray):
                with pytest.raises(ValueError, match="read-only"):
                    column[0] = 0
            else:
                assert isinstance(column, tuple)


def test_a_snapshot_of_an_unchanged_state_shares_every_column():
    site = Site()
    first, second = site.state.snapshot(), site.state.snapshot()
    assert first.nodes is second.nodes
    assert first.running is second.running


def test_an_allocation_copies_what_is_free_and_leaves_the_facts_shared():
    site = Site()
    first = site.state.snapshot()
    site.submit(1, 1, "p")
    site.cycle()
    second = site.state.snapshot()
    assert np.shares_memory(first.nodes.rate, second.nodes.rate)
    assert first.nodes.names is second.nodes.names
    assert not np.shares_memory(first.nodes.gpu_free, second.nodes.gpu_free)
    assert first.facts_version == second.facts_version


def members(shot: Snapshot) -> list[tuple[str, int, int, int, list[int]]]:
    running = shot.running
    return sorted(
        (attempt, int(running.node[i]), int(running.ends_at[i]), int(running.cpu_milli[i]), gpus)
        for i, (attempt, gpus) in enumerate(zip(running.attempt_ids, running.gpu_milli.tolist(), strict=True))
    )


@given(
    st.lists(JOBS, min_size=1, max_size=8), st.lists(st.sampled_from(["cycle", "start", "end"]), max_size=12)
)
def test_columns_of_what_runs_equal_the_records(wanted, steps):
    """Dense rows that move when others end: each still says what its attempt says."""
    site = Site()
    for job in wanted:
        site.submit(*job)
    for name in ["cycle", *steps]:
        MUTATIONS[name](site)
    expected = []
    for attempt in site.state.attempts.values():
        since = attempt.started_at or attempt.placed_at
        ends_at = since + attempt.time_limit_us + attempt.grace_us + 5_000_000
        for member in attempt.live():
            gpus = [0] * 16
            for share in member.alloc.devices:
                gpus[share.index] = share.milli
            row = site.state.nodes[member.alloc.node_id].row
            expected.append((attempt.id, row, ends_at, member.alloc.cpu_milli, gpus))
    assert members(site.state.snapshot()) == sorted(expected)
