"""A deadline that was promised is met, whatever else is submitted, and none is refused that could be met.

Random clusters, jobs and deadlines go through the simulator, which takes the own way of the daemon. Jobs run
for no longer than their limits, and no node goes away: so nothing may break a promise.
"""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.resources import MILLI, GpuRequest, ResourceRequest
from bursar_policies.document import parse_documents
from bursard.scheduler.portion import Portion, Span
from bursard.scheduler.testing import Node, columns
from bursard.sim.rows import JobRow, NodeRow
from bursard.sim.simulation import Simulation

SECOND = 1_000_000
OVERHEAD_S = 15
"""Grace, margin and slack of a job that asks for nothing else."""


BUDGET = """kind: Budget
name: cap
spec: {{scope: {{project: p}}, limit: {limit} USD, period: one-time, enforcement: hard, hold: worst-case}}
"""


def node(name: str, gpus: int = 4, rate: int | None = 10**9) -> NodeRow:
    return NodeRow(
        node_id=name,
        cpu_milli=16 * MILLI,
        memory_bytes=64 << 30,
        gpus=gpus,
        gpu_type="H100",
        gpu_memory_bytes=0,
        pool="",
        rack="",
        rate_nanos=rate,
        from_us=0,
        until_us=None,
    )


def job(
    name: str,
    submit_s: int,
    lasts_s: int,
    limit_s: int,
    *,
    gpus: int = 1,
    milli: int = MILLI,
    nodes: int = 1,
    priority: int = 50,
    deadline_s: int | None = None,
    policy: str = "promise",
) -> JobRow:
    return JobRow(
        job_id=name,
        submit_us=submit_s * SECOND,
        duration_us=lasts_s * SECOND,
        nodes=nodes,
        request=ResourceRequest(GpuRequest(gpus, (), milli) if gpus else None, MILLI, 0),
        priority=priority,
        project="p",
        user="u",
        experiment="",
        deadline_us=None if deadline_s is None else deadline_s * SECOND,
        deadline_policy=policy,
        time_limit_us=limit_s * SECOND,
        preemptible=True,
        max_cost_nanos=0,
        checkpoint_us=0,
        throughput={},
    )


def elastic(name: str, submit_s: int, limit_s: int, deadline_s: int | None) -> JobRow:
    """Of one to four GPUs of a node, or two nodes; it runs for the whole of its time limit at speed 1."""
    row = job(name, submit_s, limit_s, limit_s, gpus=4, deadline_s=deadline_s)
    row.least_gpus, row.max_nodes = 1, 2
    speeds = {1: "1", 2: "1.7", 4: "2.9", 8: "4.3"}
    row.throughput = {("H100", gpus): Fraction(speed) for gpus, speed in speeds.items()}
    return row


@st.composite
def rows(draw: st.DrawFn) -> list[JobRow]:
    found = []
    at = 0
    for number in range(draw(st.integers(1, 24))):
        at += draw(st.integers(0, 200))
        limit = draw(st.integers(10, 900))
        share = draw(st.sampled_from([MILLI, MILLI, MILLI, 500, 250]))
        nodes = draw(st.sampled_from([1, 1, 1, 2]))
        deadline = None
        if draw(st.booleans()):
            deadline = at + limit + draw(st.integers(0, 2_000))
        if draw(st.integers(0, 3)) == 0:
            found.append(elastic(f"j{number}", at, limit, deadline))
            continue
        found.append(
            job(
                f"j{number}",
                at,
                draw(st.integers(1, limit)),
                limit,
                gpus=1 if share < MILLI else draw(st.sampled_from([1, 1, 2, 4])),
                milli=share,
                nodes=nodes,
                priority=draw(st.sampled_from([25, 50, 75])),
                deadline_s=deadline,
            )
        )
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows(), st.integers(1, 3), st.sampled_from([None, None, "0.300000000", "2.000000000"]))
def test_no_promise_is_broken_where_the_world_breaks_none(
    jobs: list[JobRow], nodes: int, limit: str | None
) -> None:
    documents = parse_documents(BUDGET.format(limit=limit), "test") if limit is not None else []
    simulation = Simulation(jobs, [node(f"n{number}") for number in range(nodes)], documents)
    simulation.run()
    assert simulation.checks.found == []
    for run in simulation.runs:
        if run.row.deadline_us is not None and run.state != "REFUSED":
            assert run.state == "SUCCEEDED"
            assert run.end_us <= run.row.deadline_us


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 900), st.integers(1, 900))
def test_on_an_empty_cluster_the_smallest_size_that_is_fast_enough_is_promised(limit: int, has: int) -> None:
    simulation = Simulation([elastic("one", 5, limit, 5 + has)], [node("a", rate=None), node("b", rate=None)])
    simulation.run()
    [run] = simulation.runs
    speeds = {1: 1.0, 2: 1.7, 4: 2.9, 8: 4.3}
    fast = [gpus for gpus, speed in speeds.items() if limit / speed + OVERHEAD_S <= has]
    assert (run.state == "SUCCEEDED") is bool(fast)
    if fast:
        assert len(run.nodes) == (2 if fast[0] == 8 else 1)
        held_s = (run.end_us - run.start_us) / SECOND
        assert held_s == pytest.approx(limit / speeds[fast[0]], abs=0.001)
    assert simulation.checks.found == []


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 900), st.integers(0, 300), st.integers(1, 3), st.sampled_from([1, 2, 4]))
def test_on_an_empty_cluster_a_deadline_is_refused_only_where_it_leaves_no_time(
    limit: int, spare: int, nodes: int, gpus: int
) -> None:
    rows = [job("one", 5, limit, limit, gpus=gpus, nodes=nodes, deadline_s=5 + limit + spare)]
    simulation = Simulation(rows, [node("a"), node("b")])
    simulation.run()
    [run] = simulation.runs
    feasible = nodes <= 2 and spare >= OVERHEAD_S
    assert (run.state == "SUCCEEDED") is feasible
    assert simulation.checks.found == []


AMOUNTS = st.tuples(st.integers(0, 8 * MILLI), st.integers(0, 8 << 30), st.integers(0, 4 * MILLI))
SPANS = st.builds(
    lambda since, lasts, amounts: Span(since, since + lasts, amounts),
    st.integers(-5, 30),
    st.integers(1, 12),
    AMOUNTS,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(SPANS, max_size=6), st.integers(1, 2), st.integers(100_000, 1_000_000))
def test_a_job_is_beyond_what_may_be_promised_exactly_where_the_sum_is(
    spans: list[Span], nodes: int, ppm: int
) -> None:
    there = columns([Node(name="a", gpus=4), Node(name="b", gpus=4)])
    portion = Portion(ppm, there, spans)
    asks = ResourceRequest(GpuRequest(1, (), MILLI), MILLI, 1 << 30)
    asked = (nodes * MILLI, nodes << 30, nodes * MILLI)
    totals = (there.cpu_total, there.memory_total, there.gpu_total * MILLI)
    most = [int(total.sum()) * ppm // 1_000_000 for total in totals]
    over = any(wants > bound for wants, bound in zip(asked, most, strict=True))
    assert (portion.beyond(asks, nodes) is not None) is over
    if over:
        return
    closed = portion.closed(asks, nodes, 0)
    late = [Span(max(one.since, 0), max(one.until, one.until - one.since), one.amounts) for one in spans]
    for at in range(50):
        sums = [sum(one.amounts[which] for one in late if one.since <= at < one.until) for which in range(3)]
        beyond = any(have + wants > bound for have, wants, bound in zip(sums, asked, most, strict=True))
        assert beyond is any(since <= at < until for since, until in closed)
