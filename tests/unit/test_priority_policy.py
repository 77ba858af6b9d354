"""PriorityPolicy: what it may say, what each factor gives, and who comes first by it."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from bursar.errors import PolicyInvalid
from bursar_policies.decision import BudgetRoom, JobColumns, PendingQueue, Snapshot
from bursar_policies.document import parse_documents
from bursar_policies.rankers import ONE, OVERDUE, SHARE_ONE, STRIDE, scores, standings, terms
from bursar_policies.rankers.doublings import doublings
from bursar_policies.specs import FACTORS, PriorityPolicySpec
from bursard.scheduler import explain, plan
from bursard.scheduler.explain import what_if
from bursard.scheduler.order import Sizes, waiting_of
from bursard.scheduler.testing import Node, columns, job_class, request, snapshot

NOW = 1_767_225_600_000_000
SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
DAY_US = 24 * HOUR_US


def spec(text: str) -> PriorityPolicySpec:
    (document,) = parse_documents(f"kind: PriorityPolicy\nname: p\nspec:\n{text}", "p.yaml")
    assert isinstance(document.spec, PriorityPolicySpec)
    return document.spec


def test_a_document_is_read_exactly():
    found = spec(
        "  weights: {run_time: 1, age: 0.25, fair_share: 2.5, size: 0}\n"
        "  max_wait: 7d\n  age_full: 36h\n  age_power: 2\n  share_days: 14\n"
        "  shares: {Research: 3, research/vision: 0.5}\n"
    )
    assert found.weights == (("age", 250), ("fair_share", 2_500), ("run_time", 1_000))
    assert (found.max_wait_us, found.age_full_us, found.age_power) == (7 * DAY_US, 36 * HOUR_US, 2)
    assert (found.share_days, found.shares) == (14, (("research", 3_000), ("research/vision", 500)))
    assert spec("  max_wait: 1h\n") == PriorityPolicySpec(max_wait_us=HOUR_US)
    assert spec("  preempt: {gap: 20}\n") == PriorityPolicySpec(preempt_gap=20, restart_us=HOUR_US // 12)
    stops = spec("  max_wait: 1h\n  preempt: {gap: 100, restart: 30s}\n")
    assert (stops.preempt_gap, stops.restart_us) == (100, 30 * SECOND_US)
    kept = spec("  max_wait: 1h\n  short_jobs: {limit: 30m, keep: 12.5%}\n")
    assert kept == PriorityPolicySpec(max_wait_us=HOUR_US, short_limit_us=HOUR_US // 2, kept_ppm=125_000)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (
            "  weights: {aeg: 1}\n",
            4,
            "'aeg' is not a factor; known: age, fair_share, size, run_time, deadline, budget, qos",
        ),
        ("  weights: {aeg: 1}\n", 4, "did you mean 'age'"),
        ("  weights: {age: -1}\n", 4, "at least 0"),
        ("  weights: {age: 1001}\n", 4, "at most 1000"),
        ("  weights: {age: 0.0001}\n", 4, "more than three digits behind the point"),
        ("  weights: {age: fast}\n", 4, "is not a number"),
        ("  weights: {age: 0}\n", 4, "orders nothing; give `weights` above 0, `max_wait`, or both"),
        ("  weights: {age: 1}\n  max_wait: 0s\n", 5, "more than 0 and at most 365d"),
        ("  weights: {age: 1}\n  age_full: 366d\n", 5, "more than 0 and at most 365d"),
        ("  weights: {age: 1}\n  age_power: 5\n", 5, "at most 4"),
        ("  weights: {fair_share: 1}\n  share_days: 0\n", 5, "at least 1"),
        ("  weights: {fair_share: 1}\n  shares: {a: 0}\n", 5, "at least 0.001"),
        ("  weights: {fair_share: 1}\n  shares: {a b: 1}\n", 5, "'a b' is not a project: it holds a space"),
        ("  weights: {fair_share: 1}\n  shares: {a: 1, A: 2}\n", 5, "the project a is given twice"),
        (
            "  weights: {size: 1}\n  shares: {a: 1}\n",
            5,
            "shares does nothing without a weight for fair_share",
        ),
        (
            "  weights: {size: 1}\n  short_jobs: {limit: 1h, keep: 25%}\n",
            5,
            "short_jobs needs a max_wait, or a long job might wait for ever",
        ),
        ("  max_wait: 1d\n  short_jobs: {limit: 1h}\n", 5, "the key 'keep' is missing"),
        ("  max_wait: 1d\n  short_jobs: {keep: 25%}\n", 5, "the key 'limit' is missing"),
        ("  max_wait: 1d\n  short_jobs: {limit: 0s, keep: 25%}\n", 5, "more than 0 and at most 365d"),
        ("  max_wait: 1d\n  short_jobs: {limit: 1h, keep: 0.25}\n", 5, "is not a percentage, such as 10%"),
        ("  max_wait: 1d\n  short_jobs: {limit: 1h, keep: 0%}\n", 5, "at least 0.0001%"),
        ("  max_wait: 1d\n  short_jobs: {limit: 1h, keep: 91%}\n", 5, "at most 90%"),
        ("  max_wait: 1d\n  short_jobs: 25%\n", 5, "expected a mapping (key: value)"),
        ("  max_wait: 1d\n  short_jobs: {limit: 1h, keeps: 25%}\n", 5, "did you mean 'keep'"),
        ("  preempt: {}\n", 4, "the key 'gap' is missing"),
        ("  preempt: {gap: 0}\n", 4, "at least 1"),
        ("  preempt: {gap: 101}\n", 4, "at most 100"),
        ("  preempt: {gap: 1.5}\n", 4, "whole number"),
        ("  preempt: {gap: 1, restart: 0s}\n", 4, "more than 0 and at most 365d"),
        ("  preempt: {gap: 1, restarts: 1m}\n", 4, "did you mean 'restart'"),
        ("  preempt: yes\n", 4, "expected a mapping (key: value)"),
        ("  weights: {size: 1}\n  age_full: 1d\n", 5, "age_full does nothing without a weight for age"),
        ("  weight: {size: 1}\n", 4, "unknown key 'weight'; did you mean 'weights'"),
    ],
)
def test_what_a_document_cannot_mean_is_refused_with_its_line(text, line, said):
    with pytest.raises(PolicyInvalid) as caught:
        spec(text)
    assert any(said in str(fault) and fault.line == line for fault in caught.value.faults), caught.value


# ------------------------------------------------------------------ factors


def test_doublings_count_how_often_one_is_doubled():
    values = np.array([-5, 0, 1, 2, 3, 4, 256, 257, 1_000, 2**40, 2**62 + 2**61], dtype=np.int64)
    found = [
        0,
        0,
        0,
        1_000_000,
        1_584_962,
        2_000_000,
        8_000_000,
        8_005_624,
        9_965_784,
        40_000_000,
        62_584_962,
    ]
    assert doublings(values).tolist() == found
    rising = doublings(np.arange(1, 5_000, dtype=np.int64))
    assert (np.diff(rising) >= 0).all()


def test_standing_is_half_at_the_share_and_all_without_costs():
    assert standings(["a", "b"], {}, ()) == [ONE, ONE]
    assert standings(["a", "b"], {"a": 50, "b": 50}, ()) == [ONE // 2, ONE // 2]
    # a has three of four shares and spent three of four.
    assert standings(["a", "b"], {"a": 75, "b": 25}, (("a", 3_000),)) == [ONE // 2, ONE // 2]
    assert standings(["a", "b"], {"a": 100}, ()) == [ONE // 3, ONE]
    assert standings([], {}, ()) == []


def test_a_project_counts_with_the_nearest_that_has_a_share_else_with_its_top():
    shares = (("r", 2_000), ("r/v", 1_000))
    found = standings(["r/x", "r/v/y", "o/1", "o/2"], {"r": 10, "r/v": 10, "o/1": 20}, shares)
    # Of four shares r has 2, r/v 1, o 1; of 40 spent r has 10, r/v 10, o 20.
    assert found == [ONE * 2 // 3, ONE // 2, ONE // 3, ONE // 3]


def waiting(*jobs: tuple[int, str, int, int, int], rules: PriorityPolicySpec, **more: object) -> Snapshot:
    """Jobs (order, id, limit, since, project) that each ask for one GPU of eight."""
    nodes = columns([Node(name="n", gpus=8, cpu_milli=64_000)])
    wanted = job_class(request(1, cpus=1), **more)  # type: ignore[arg-type]
    queue = PendingQueue(wanted.without_limit(), 50, JobColumns.of(jobs))
    return replace(snapshot(nodes, queue), priority=rules, projects=("p", "q"))


def factors(world: Snapshot, name: str) -> list[int]:
    assert world.priority is not None
    rules = replace(world.priority, weights=((name, 1_000),))
    columns_ = waiting_of(world, rules, Sizes(world.nodes), NOW)
    return [terms(rules, columns_, row)[0].factor for row in range(len(columns_.limits_us))]


def test_age_rises_to_its_full_and_stays_there():
    ages = [-HOUR_US, 0, HOUR_US, 5 * HOUR_US, 10 * HOUR_US, 99 * HOUR_US]
    jobs = [(n, f"j{n}", HOUR_US, NOW - age, 0) for n, age in enumerate(ages)]
    rules = PriorityPolicySpec((("age", 1),), age_full_us=10 * HOUR_US)
    assert factors(waiting(*jobs, rules=rules), "age") == [0, 0, 100_000, 500_000, ONE, ONE]
    squared = replace(rules, age_power=2)
    assert factors(waiting(*jobs, rules=squared), "age") == [0, 0, 10_000, 250_000, ONE, ONE]


def test_run_time_loses_a_twentieth_with_every_doubling():
    limits = [1, 10, 20, 40, 10 << 19, 10 << 20, 10 << 24]
    jobs = [(n, f"j{n}", limit * SECOND_US, NOW, 0) for n, limit in enumerate(limits)]
    found = factors(waiting(*jobs, rules=PriorityPolicySpec()), "run_time")
    assert found == [ONE, ONE, 950_000, 900_000, 50_000, 0, 0]


def test_run_time_counts_how_long_the_place_may_be_held_after_the_limit():
    job = (1, "j", 10 * SECOND_US, NOW, 0)
    rules, limit_us = PriorityPolicySpec(), HOUR_US

    def points_with(grace_us: int) -> list[int]:
        hold_us = limit_us + grace_us + 5 * SECOND_US
        return factors(waiting(job, rules=rules, time_limit_us=limit_us, hold_us=hold_us), "run_time")

    assert points_with(60 * SECOND_US) == [ONE]
    assert points_with(70 * SECOND_US) == [950_000], "20 s in all"


def test_a_deadline_counts_all_without_slack_half_with_as_much_again_and_nothing_where_there_is_none():
    left = [-HOUR_US, 0, HOUR_US, 2 * HOUR_US, 10 * HOUR_US]
    jobs = [(n, f"j{n}", HOUR_US, NOW, 0, NOW + one) for n, one in enumerate(left)]
    jobs.append((9, "none", HOUR_US, NOW, 0, 0))
    found = factors(waiting(*jobs, rules=PriorityPolicySpec()), "deadline")
    assert found == [ONE, ONE, ONE, 500_000, 100_000, 0]


def test_of_two_jobs_the_one_with_less_slack_comes_first():
    calm = (1, "calm", HOUR_US, NOW, 0, NOW + 9 * HOUR_US)
    urgent = (2, "urgent", HOUR_US, NOW, 0, NOW + 2 * HOUR_US)
    assert first(None, asking(calm, urgent)) == "calm"
    assert first(PriorityPolicySpec((("deadline", 1),)), asking(calm, urgent)) == "urgent"


def test_size_is_the_largest_share_by_the_smallest_alternative():
    nodes = columns([Node(name="a", gpus=4, cpu_milli=8_000), Node(name="b", gpus=4, cpu_milli=8_000)])
    sizes = Sizes(nodes)
    assert sizes.of(job_class(request(1, cpus=1))) == SHARE_ONE // 8
    assert sizes.of(job_class(request(1, cpus=4))) == SHARE_ONE // 4
    assert sizes.of(job_class(request(1, cpus=4), request(0, cpus=1))) == SHARE_ONE // 16
    assert sizes.of(job_class(request(4, cpus=1), nodes=2)) == SHARE_ONE
    assert sizes.of(job_class(request(4, cpus=1), nodes=3)) == SHARE_ONE
    assert sizes.of(job_class(request(0, cpus=0))) == 1
    assert Sizes(columns([Node(name="c")])).of(job_class(request(1))) == SHARE_ONE
    one = waiting((1, "j", HOUR_US, NOW, 0), rules=PriorityPolicySpec())
    assert factors(one, "size") == [150_000]  # an eighth: three doublings below all of it


def test_budget_is_what_is_left_of_the_scarcest_and_qos_the_priority():
    rooms = [BudgetRoom("x", 100, 20, 30, "USD"), BudgetRoom("y", 100, 0, 25, "USD")]
    world = waiting((1, "j", HOUR_US, NOW, 0), rules=PriorityPolicySpec(), budgets=("x", "y"))
    world = replace(world, budgets={room.name: room for room in rooms})
    assert factors(world, "budget") == [500_000]
    assert factors(replace(world, budgets={}), "budget") == [0]
    assert factors(waiting((1, "j", HOUR_US, NOW, 0), rules=PriorityPolicySpec()), "budget") == [ONE]
    assert factors(world, "qos") == [500_000]


def test_no_weights_bring_a_job_past_a_higher_priority_or_an_overdue_one():
    assert len(FACTORS) * 1_000 * 1_000 * ONE < STRIDE
    assert 100 * STRIDE + STRIDE < OVERDUE < 2**63
    rules = PriorityPolicySpec(tuple((name, 10**6) for name in FACTORS if name != "qos"), max_wait_us=HOUR_US)
    world = waiting((1, "j", HOUR_US, NOW - HOUR_US, 0), (2, "k", HOUR_US, NOW - HOUR_US + 1, 0), rules=rules)
    found = scores(rules, waiting_of(world, rules, Sizes(world.nodes), NOW)).tolist()
    assert found[0] == OVERDUE
    assert 50 * STRIDE < found[1] < 51 * STRIDE


# ------------------------------------------------------------------ who comes first


def first(
    rules: PriorityPolicySpec | None, *queues: PendingQueue, spent: dict[str, int] | None = None
) -> str:
    """Who gets the one GPU there is."""
    nodes = columns([Node(name="n", gpus=1, cpu_milli=4_000)])
    world = replace(snapshot(nodes, *queues), priority=rules, projects=("p", "q"), spent=spent or {})
    (start,) = plan(world, NOW).starts
    return start.job_id


def asking(*jobs: tuple[int, str, int, int, int], gpus: float = 1, priority: int = 50) -> PendingQueue:
    return PendingQueue(job_class(request(gpus)).without_limit(), priority, JobColumns.of(jobs))


OLD, SHORT = (1, "old", 8 * HOUR_US, NOW - 3 * HOUR_US, 0), (2, "short", HOUR_US, NOW - HOUR_US, 1)


@pytest.mark.parametrize(
    ("rules", "who"),
    [
        (None, "old"),
        (PriorityPolicySpec((("age", 1),)), "old"),
        (PriorityPolicySpec((("run_time", 1),)), "short"),
        (PriorityPolicySpec((("run_time", 1),), max_wait_us=3 * HOUR_US), "old"),
        (PriorityPolicySpec((("run_time", 1),), max_wait_us=HOUR_US), "old"),
        (PriorityPolicySpec((("run_time", 1),), max_wait_us=3 * HOUR_US + 1), "short"),
        (PriorityPolicySpec((("fair_share", 1),)), "short"),
        (PriorityPolicySpec((("fair_share", 1),), shares=(("p", 50_000),)), "old"),
        (PriorityPolicySpec((("size", 1),)), "old"),
    ],
)
def test_the_policy_says_who_comes_first(rules, who):
    spent = {"p": 9 * 10**9, "q": 10**9}
    assert first(rules, asking(OLD, SHORT), spent=spent) == who
    assert first(rules, asking(SHORT), asking(OLD), spent=spent) == who


def test_priority_stands_above_weights_until_it_is_weighed_and_below_max_wait():
    low, high = asking(SHORT, priority=25), asking(OLD, priority=75)
    by_time = PriorityPolicySpec((("run_time", 1_000),))
    assert first(by_time, low, high) == "old"
    assert first(PriorityPolicySpec((("qos", 1), ("run_time", 1_000))), low, high) == "short"
    assert first(PriorityPolicySpec((("qos", 1_000), ("run_time", 1))), low, high) == "old"
    aged = asking((2, "short", HOUR_US, NOW - 9 * HOUR_US, 1), priority=0)
    assert first(PriorityPolicySpec(max_wait_us=9 * HOUR_US), aged, high) == "short"


def test_explain_names_those_ahead_by_the_policy():
    nodes = columns([Node(name="n", gpus=4, cpu_milli=4_000, ready=False)])
    world = replace(snapshot(nodes, asking(OLD, SHORT)), projects=("p", "q"))
    assert explain(world, 0, NOW, "short").ahead == (("old", "submitted first"),)
    ranked = replace(world, priority=PriorityPolicySpec((("run_time", 1_000),)))
    assert explain(ranked, 0, NOW, "short").ahead == ()
    # 3,600 s are 8.49 doublings of 10 s, of twenty
    assert explain(ranked, 0, NOW, "old").ahead == (("short", "0.575 points"),)


def test_explain_says_what_puts_another_first_and_what_the_score_is_made_of():
    nodes = columns([Node(name="n", gpus=4, cpu_milli=4_000, ready=False)])
    urgent = asking((3, "urgent", HOUR_US, NOW, 0), priority=80)
    world = replace(snapshot(nodes, asking(OLD, SHORT), urgent), projects=("p", "q"))
    assert explain(world, 0, NOW, "old").ahead == (("urgent", "priority 80"),)
    rules = PriorityPolicySpec((("age", 2_000), ("run_time", 500)), max_wait_us=2 * HOUR_US)
    told = explain(replace(world, priority=rules), 0, NOW, "short")
    assert told.ahead == (("old", "waited past max_wait"), ("urgent", "priority 80"))
    assert [(each.name, each.weight) for each in told.terms] == [("run_time", 500), ("age", 2_000)]
    assert all(each.points == each.weight * each.factor // 1_000 for each in told.terms)
    assert not told.overdue
    assert explain(replace(world, priority=rules), 0, NOW, "old").overdue
    assert explain(world, 0, NOW, "old").terms == ()


def test_what_if_ranks_the_job_that_is_not_there_yet_as_of_its_project():
    nodes = columns([Node(name="n", gpus=1, cpu_milli=4_000)])
    world = replace(
        snapshot(nodes, asking(OLD)),
        projects=("p",),
        spent={"p": 10**9},
        priority=PriorityPolicySpec((("fair_share", 1_000),)),
    )
    assert what_if(world, job_class(request(1)), NOW, project="q").start is not None
    assert what_if(world, job_class(request(1)), NOW, project="p").start is None


# ------------------------------------------------------------------ room kept for short jobs

KEEPS = PriorityPolicySpec(max_wait_us=5 * HOUR_US, short_limit_us=HOUR_US, kept_ppm=250_000)


def keeping(
    *jobs: tuple[int, str, int, int, int], free: int = 8, rules: PriorityPolicySpec = KEEPS, **more: object
) -> Snapshot:
    """Jobs that each ask for one CPU of eight, of which so many are free."""
    nodes = columns([Node(name="n", cpu_milli=8_000)])
    nodes = replace(nodes, cpu_free=np.array([free * 1_000]))
    wanted = job_class(request(0, cpus=1), **more)  # type: ignore[arg-type]
    queue = PendingQueue(wanted.without_limit(), 50, JobColumns.of(jobs))
    return replace(snapshot(nodes, queue), priority=rules, projects=("p",))


def begun(world: Snapshot) -> list[str]:
    return [start.job_id for start in plan(world, NOW).starts]


LONGS = [(n, f"long{n}", HOUR_US + 1, NOW, 0) for n in range(8)]
SHORTS = [(n, f"short{n}", HOUR_US, NOW, 0) for n in range(8, 16)]


def test_long_jobs_leave_the_room_that_is_kept_and_short_ones_take_it():
    assert begun(keeping(*LONGS)) == [f"long{n}" for n in range(6)]
    assert begun(keeping(*LONGS, *SHORTS)) == [*(f"long{n}" for n in range(6)), "short8", "short9"]
    assert begun(keeping(*LONGS, free=3)) == ["long0"], "whoever holds the rest"
    assert begun(keeping(*LONGS, free=2)) == []
    assert len(begun(keeping(*LONGS, rules=replace(KEEPS, kept_ppm=0)))) == 8
    # a quarter and a bit of eight CPUs are more than two
    assert len(begun(keeping(*LONGS, rules=replace(KEEPS, kept_ppm=250_001)))) == 5


def test_a_job_that_may_hold_its_place_for_a_day_after_its_limit_is_no_short_one():
    short = [(n, f"short{n}", 10 * SECOND_US, NOW, 0) for n in range(8)]

    def with_grace(grace_us: int) -> list[str]:
        return begun(keeping(*short, hold_us=HOUR_US + grace_us + 5 * SECOND_US, time_limit_us=HOUR_US))

    assert len(with_grace(60 * SECOND_US)) == 8, "a minute does not count"
    assert len(with_grace(24 * HOUR_US)) == 6
    assert len(with_grace(HOUR_US + 50 * SECOND_US)) == 8, "limit and the rest of the grace are an hour"
    assert len(with_grace(HOUR_US + 51 * SECOND_US)) == 6


def test_what_has_waited_too_long_or_fits_on_no_smaller_cluster_need_not_leave_it():
    old = (1, "old", 9 * HOUR_US, NOW - 5 * HOUR_US, 0)
    assert begun(keeping(old, *LONGS, free=1)) == ["old"]
    assert begun(keeping((1, "new", 9 * HOUR_US, NOW - 5 * HOUR_US + 1, 0), free=1)) == []
    wide = (1, "wide", 9 * HOUR_US, NOW, 0)
    nodes = columns([Node(name="n", cpu_milli=8_000)])

    def of(cpus: int) -> Snapshot:
        jobs = PendingQueue(job_class(request(0, cpus=cpus)).without_limit(), 50, JobColumns.of([wide]))
        return replace(snapshot(nodes, jobs), priority=KEEPS, projects=("p",))

    assert begun(of(7)) == ["wide"]
    assert begun(of(6)) == ["wide"]
    busy = replace(of(6), nodes=replace(nodes, cpu_free=np.array([7_999])))
    assert begun(busy) == []


def test_only_ready_nodes_count_and_only_what_is_asked_for():
    nodes = [Node(name="n", cpu_milli=8_000, gpus=4), Node(name="away", cpu_milli=64_000, ready=False)]
    asked = PendingQueue(job_class(request(1, cpus=1)).without_limit(), 50, JobColumns.of(LONGS))
    world = replace(snapshot(columns(nodes), asked), priority=KEEPS, projects=("p",))
    assert len(begun(world)) == 3, "one of four GPUs is kept; of CPUs two of eight"
    cpus = PendingQueue(job_class(request(0, cpus=1)).without_limit(), 50, JobColumns.of(LONGS))
    taken = replace(columns(nodes), gpu_free=np.zeros_like(columns(nodes).gpu_free))
    assert len(begun(replace(world, queues=(cpus,), nodes=taken))) == 6


def test_a_job_that_must_leave_room_has_no_claim_and_a_short_one_behind_it_has():
    short = (9, "short", HOUR_US, NOW, 0)
    assert plan(keeping(*LONGS, free=0), NOW).reserved_job == ""
    answer = plan(keeping(*LONGS, short, free=0), NOW)
    assert answer.reserved_job == "short"


def test_explain_says_what_is_kept_and_that_a_shorter_limit_starts_now():
    told = explain(keeping(*LONGS, free=2), 0, NOW, "long0")
    assert told.reason.code.value == "ReservedForOther"
    assert told.reason.message == (
        "fits now, but would leave 1 of the cluster's 8 CPUs free, and 2 are kept for jobs of at most 1h"
    )
    assert told.reason.remedy == (
        "set --time-limit 1h or less, or wait until more is free; what has waited for 5h need not leave it"
    )
    assert told.reason.facts == (
        ("kept_for_limit_us", str(HOUR_US)),
        ("resource", "CPUs"),
        ("kept", "2000"),
    )
    assert [one.change for one in told.alternatives] == ["set --time-limit 1h"]


def test_the_room_that_lacks_most_is_the_one_that_is_told():
    nodes = replace(
        columns([Node(name="n", cpu_milli=8_000, gpus=4)]),
        memory_free=np.array([8 << 30]),
        cpu_free=np.array([3_000]),
    )
    total = int(nodes.memory_total[0])
    asked = PendingQueue(
        job_class(request(1, cpus=2, memory_bytes=7 << 30)).without_limit(), 50, JobColumns.of(LONGS[:1])
    )
    world = replace(snapshot(nodes, asked), priority=KEEPS, projects=("p",))
    told = explain(world, 0, NOW)
    assert total == 64 << 30
    assert "would leave 1 of the cluster's 8 CPUs free, and 2 are kept" in told.reason.message


def test_an_alternative_that_leaves_the_room_is_taken_in_place_of_one_that_does_not():
    nodes = columns([Node(name="n", cpu_milli=8_000, gpus=4)])
    nodes = replace(nodes, cpu_free=np.array([3_000]))
    both = job_class(request(1, cpus=2), request(1, cpus=1))
    asked = PendingQueue(both.without_limit(), 50, JobColumns.of(LONGS[:2]))
    (start,) = plan(replace(snapshot(nodes, asked), priority=KEEPS, projects=("p",)), NOW).starts
    assert (start.job_id, start.option) == ("long0", 1)
