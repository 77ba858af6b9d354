"""Quotas in a plan: what stops a job, who comes first, and from whom what is guaranteed is taken back."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from bursar.errors import PolicyInvalid
from bursar.model import DeviceShare, EndCause, ReasonCode
from bursar_policies.decision import Holder, Holding, JobClass, Plan, RunningMember, Snapshot, Stop
from bursar_policies.document import parse_documents
from bursar_policies.specs import PriorityPolicySpec, QuotaSpec
from bursard.scheduler import explain, plan, reason_of, what_if
from bursard.scheduler.testing import Node, columns, job_class, queue, request, snapshot

NOW = 1_767_225_600_000_000
HOUR_US = 3_600_000_000
USD = 10**9
ONE = request(1, cpus=0.001)
NLP = QuotaSpec(project="nlp", guaranteed=(("gpus", 4_000),), max=(("gpus", 6_000),))


def spec(text: str) -> QuotaSpec:
    found = parse_documents(f"kind: Quota\nname: q\nspec: {text}\n", "q.yaml")[0].spec
    assert isinstance(found, QuotaSpec)
    return found


class Site:
    """One node of eight H100, quotas, and what runs there."""

    def __init__(self, gpus: int = 8, **quotas: QuotaSpec) -> None:
        self.nodes = columns([Node(name="n0", gpus=gpus, rates=(gpus * USD, 0, 0))])
        self.quotas = quotas
        self.running: list[RunningMember] = []
        self.holders: dict[str, Holder] = {}
        self.holdings: dict[str, Holding] = {}
        self._next = 0

    def runs(
        self, name: str, *quotas: str, gpus: int = 1, since: int = 0, ends_h: int = 10, **fields: object
    ):
        first, self._next = self._next, self._next + gpus
        shares = tuple(DeviceShare(index, 1_000) for index in range(first, self._next))
        self.nodes.gpu_free[0, first : self._next] = 0
        self.running.append(RunningMember(0, NOW + ends_h * HOUR_US, 1, 0, shares, name))
        pinned = bool(fields.pop("pinned", False))
        holder = {"priority": 50, "rate": gpus * USD, "unsaved_since": NOW - HOUR_US, "exempt": pinned}
        self.holders[name] = Holder(**{**holder, **fields})  # type: ignore[arg-type]
        uses = (("cpus", 1), ("gpus", gpus * 1_000), ("gpus/H100", gpus * 1_000), ("spend_rate", gpus * USD))
        self.holdings[name] = Holding(quotas, uses, since, pinned)
        return self

    def seen(self, *queues, priority: PriorityPolicySpec | None = None) -> Snapshot:
        world = snapshot(self.nodes, *queues, running=self.running)
        rest = {"holders": self.holders, "quotas": self.quotas, "holdings": self.holdings}
        return replace(world, priority=priority, **rest)


def of(*quotas: str, gpus: int = 1, hours: float = 1, **rest: object) -> JobClass:
    return job_class(request(gpus, cpus=0.001), hours=hours, quotas=quotas, **rest)


def started(answer: Plan) -> list[str]:
    return [start.job_id for start in answer.starts]


def stops(answer: Plan) -> list[str]:
    return [one.attempt_id for one in answer.actions if isinstance(one, Stop)]


def test_a_quota_says_who_and_how_much_of_what():
    assert spec("{scope: {project: NLP/Ft}, guaranteed: {gpus: {h100: 16}, cpus: 2.5}, max: {gpus: 32}}") == (
        QuotaSpec("nlp/ft", "", (("cpus", 2_500), ("gpus/H100", 16_000)), (("gpus", 32_000),))
    )
    assert spec("{scope: {user: ann}, max: {memory: 2TB, spend_rate: 40 USD/h}}") == (
        QuotaSpec(user="ann", max=(("memory", 2 * 10**12), ("spend_rate", 40 * USD)), currency="USD")
    )
    assert spec("{scope: {user: ann}, max: {gpus: 0}}").max == (("gpus", 0),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{scope: {project: a}}", "bounds nothing"),
        ("{scope: {project: a}, guaranteed: {gpus: 0}, max: {}}", "bounds nothing"),
        ("{scope: {}, max: {gpus: 1}}", "names nobody"),
        ("{scope: {project: a, user: b}, max: {gpus: 1}}", "names a project and a user"),
        ("{scope: {project: a}, guaranteed: {gpus: 4}, max: {gpus: 1}}", "gpus: 4 guaranteed, at most 1"),
        (
            "{scope: {project: a}, guaranteed: {gpus: {A: 2, B: 2}}, max: {gpus: 3}}",
            "4 guaranteed, at most 3",
        ),
        ('{scope: {user: "*"}, guaranteed: {gpus: 1}}', "nothing can be guaranteed to each user"),
        ("{scope: {project: a}, max: {gpu: 1}}", "did you mean 'gpus'"),
        ("{scope: {project: a}, max: {gpus: {1x: 1}}}", "is not a GPU type"),
        ("{scope: {project: a}, max: {gpus: {h100: 1, H100: 2}}}", "given twice"),
        ("{scope: {project: a}, max: {cpus: 0.0001}}", "three digits"),
        (
            "{scope: {project: a}, max: {spend_rate: 1 USD/h}, guaranteed: {spend_rate: 1 EUR/h}}",
            "one currency",
        ),
    ],
)
def test_what_bounds_nothing_or_contradicts_itself_is_refused(text, said):
    with pytest.raises(PolicyInvalid, match=said):
        spec(text)


def test_no_plan_starts_more_than_max_and_the_rest_is_told_the_numbers():
    site = Site(nlp=NLP).runs("a", "nlp", gpus=3)
    world = site.seen(queue(of("nlp"), *((n, f"j{n}") for n in range(5))))
    answer = plan(world, NOW)
    assert started(answer) == ["j0", "j1", "j2"]
    why = reason_of(world, answer, 0)
    assert why.code is ReasonCode.WAITING_FOR_QUOTA
    assert why.message == "6 of at most 6 GPUs of quota nlp (project nlp) are used, this asks for 1"
    facts = dict(why.facts)
    assert (facts["used"], facts["asked"], facts["max"]) == ("6", "1", "6"), "no thousandths"


def test_what_asks_for_more_than_max_is_told_so_and_holds_up_nobody():
    world = Site(nlp=NLP).seen(queue(of("nlp", gpus=7), (1, "large")), queue(of("nlp"), (2, "small")))
    answer = plan(world, NOW)
    assert started(answer) == ["small"]
    why = reason_of(world, answer, 0)
    assert (why.code, why.remedy.partition(",")[0]) == (ReasonCode.EXCEEDS_MAX_QUOTA, "ask for 6 or less")


def test_a_quota_that_is_used_up_neither_claims_nodes_nor_keeps_others_from_them():
    site = Site(nlp=NLP).runs("a", "nlp", gpus=6)
    world = site.seen(queue(of("nlp"), (1, "full"), priority=90), queue(of(), (2, "free"), (3, "free2")))
    answer = plan(world, NOW)
    assert started(answer) == ["free", "free2"]
    assert answer.reserved_job == ""


def test_the_first_that_waits_for_a_quota_is_not_passed_by_those_that_would_delay_it():
    site = Site(nlp=NLP).runs("a", "nlp", gpus=4, ends_h=2)
    large, long, short = of("nlp", gpus=4), of("nlp", gpus=1, hours=5), of("nlp", gpus=1, hours=1)
    world = site.seen(queue(large, (1, "large")), queue(long, (2, "l2"), (3, "l3")), queue(short, (4, "s4")))
    answer = plan(world, NOW)
    # When `a` ends, six are free of which the first takes four: two that run longer fit beside it.
    assert started(answer) == ["l2", "l3"]
    site = Site(nlp=NLP).runs("a", "nlp", gpus=4, ends_h=2)
    large = of("nlp", gpus=6)
    world = site.seen(queue(large, (1, "large")), queue(long, (2, "l2")), queue(short, (4, "s4")))
    answer = plan(world, NOW)
    assert started(answer) == ["s4"]
    why = reason_of(world, answer, 1)
    assert "another job that waits for it comes first" in why.message
    assert dict(why.facts)["for_job"] == "large"


def test_nested_quotas_and_that_of_the_user_bound_together():
    quotas = {
        "nlp": NLP,
        "ft": QuotaSpec(project="nlp/ft", max=(("gpus", 2_000),)),
        "ann": QuotaSpec(user="ann", max=(("gpus", 1_000),)),
    }
    world = Site(**quotas).seen(
        queue(of("ft", "nlp"), *((n, f"f{n}") for n in range(9))),
        queue(of("nlp", "ann"), *((n + 10, f"a{n}") for n in range(9))),
        queue(of("nlp"), *((n + 20, f"n{n}") for n in range(9))),
    )
    assert started(plan(world, NOW)) == ["f0", "f1", "a0", "n0", "n1", "n2"]


def test_types_and_spending_are_bounded_by_what_the_job_really_gets():
    nodes = columns(
        [
            Node(name="a", gpus=4, gpu_type="A100", rates=(4 * USD, 0, 0)),
            Node(name="h", gpus=4, gpu_type="H100", rates=(12 * USD, 0, 0)),
        ]
    )
    typed = QuotaSpec(project="nlp", max=(("gpus/A100", 1_000),))
    any_of_two = job_class(request(1, cpus=0.001, types="A100|H100"), quotas=("q",))
    waits = queue(any_of_two, *((n, f"j{n}") for n in range(8)))
    answer = plan(replace(snapshot(nodes, waits), quotas={"q": typed}), NOW)
    assert [start.members[0].node for start in answer.starts] == [0, 1, 1, 1, 1]
    dear = QuotaSpec(project="nlp", max=(("spend_rate", 5 * USD),), currency="USD")
    rated = queue(replace(waits.job_class, rated=True), *((n, f"j{n}") for n in range(8)))
    world = replace(snapshot(nodes, rated), quotas={"q": dear})
    answer = plan(world, NOW)
    assert [start.members[0].node for start in answer.starts] == [0, 0, 0, 0]
    assert "spends 4 USD/h of at most 5 USD/h" in reason_of(world, answer, 0).message


def test_what_is_within_a_guarantee_comes_first_whatever_its_priority():
    site = Site(gpus=4, nlp=NLP).runs("a", "nlp", gpus=2)
    free, mine = queue(of(), *((n, f"f{n}") for n in range(4)), priority=90), of("nlp")
    world = site.seen(free, queue(mine, (9, "m9"), (10, "m10"), (11, "m11"), priority=10))
    answer = plan(world, NOW)
    assert started(answer) == ["m9", "m10"]
    rules = PriorityPolicySpec(weights=(("age", 1_000),), max_wait_us=1)
    assert started(plan(replace(world, priority=rules), NOW)) == ["m9", "m10"]


@pytest.mark.parametrize(
    ("guaranteed", "first"),
    [
        ((("gpus", 1_000),), 0),
        ((("gpus", 2_000),), 2),
        ((("cpus", 0.5), ("gpus", 2_000)), 2),
        ((("memory", 1 << 20),), 0),
        ((("spend_rate", 100 * USD),), 2),
    ],
    ids=str,
)
def test_of_what_a_guarantee_does_not_name_it_puts_first_no_more_than_its_part_of_the_site(guaranteed, first):
    site = Site(gpus=8)
    whole = site.nodes.cpu_total.item(0)
    named = tuple((name, int(n * whole) if name == "cpus" else n) for name, n in guaranteed)
    site.quotas = {"nlp": QuotaSpec(project="nlp", guaranteed=named)}
    quarter = request(1, cpus=whole / 4_000)
    quarter = replace(quarter, memory_bytes=1 << 18)
    rated = "spend_rate" in dict(guaranteed)
    mine = queue(job_class(quarter, quotas=("nlp",), rated=rated), (9, "m9"), (10, "m10"), priority=10)
    others = queue(job_class(quarter), *((n, f"f{n}") for n in range(4)), priority=90)
    found = started(plan(site.seen(others, mine), NOW))
    assert found == [*["m9", "m10"][:first], *(f"f{n}" for n in range(4 - first))]


def test_what_others_borrowed_is_taken_back_at_the_least_cost_without_any_policy():
    site = Site(gpus=4, nlp=NLP)
    site.runs("dear", unsaved_since=NOW - 9 * HOUR_US).runs("b").runs("c").runs("cheap", unsaved_since=0)
    answer = plan(site.seen(queue(of("nlp"), (1, "mine"))), NOW)
    assert list(answer.actions) == [
        Stop("cheap", EndCause.PREEMPTED, "mine", "gives back what quota nlp guarantees", "nlp")
    ]
    assert answer.making_room_for == "mine"
    assert answer.making_room_by == "nlp"


def test_who_is_within_a_guarantee_is_told_who_gives_back_and_starts_when_their_grace_is_over():
    site = Site(gpus=2, nlp=NLP).runs("a", grace_us=90_000_000).runs("b", gpus=1, grace_us=30_000_000)
    world = site.seen(queue(of("nlp", gpus=2), (1, "mine"), priority=1))
    found = explain(world, 0, NOW)
    assert found.reason.code is ReasonCode.PREEMPTION_PENDING
    assert found.reason.message == (
        "2 attempts that borrowed what quota nlp guarantees to it are asked to end for it, and may take the"
        " grace to save"
    )
    assert dict(found.reason.facts) == {"stopped": "a,b", "quota": "nlp"}
    assert found.expected_start_at == NOW + 90_000_000, "not when what runs has taken its whole limit"
    answer = what_if(site.seen(), of("nlp", gpus=2), NOW, priority=1)
    assert answer.reason.message.startswith(
        "2 attempts that borrowed what quota nlp guarantees to it would be"
    )
    assert answer.expected_start_at == NOW + 90_000_000
    low = site.seen(queue(of(gpus=2, hours=8), (1, "high"), priority=100))
    told = explain(replace(low, priority=PriorityPolicySpec(preempt_gap=10)), 0, NOW)
    assert "of lower priority" in told.reason.message
    assert told.expected_start_at == NOW + 90_000_000


def test_nothing_is_taken_back_for_what_is_borrowed_itself():
    site = Site(gpus=8, nlp=NLP).runs("a", "nlp", gpus=4).runs("b", gpus=4)
    assert stops(plan(site.seen(queue(of("nlp"), (1, "more"))), NOW)) == []
    assert stops(plan(site.seen(queue(of(), (1, "more"))), NOW)) == []


def test_what_its_own_guarantee_pays_for_is_taken_from_nobody():
    vision = QuotaSpec(project="vision", guaranteed=(("gpus", 4_000),))
    site = Site(gpus=8, nlp=NLP, vision=vision)
    site.runs("v1", "vision", gpus=2, since=1).runs("v2", "vision", gpus=2, since=2)
    site.runs("v3", "vision", gpus=4, since=3)
    assert stops(plan(site.seen(queue(of("nlp"), (1, "mine"))), NOW)) == ["v3"]
    # By priority neither: only what goes beyond its guarantee.
    rules = PriorityPolicySpec(preempt_gap=10)
    world = site.seen(queue(of(gpus=4, hours=8), (1, "high"), priority=100), priority=rules)
    assert stops(plan(world, NOW)) == ["v3"]
    world = site.seen(queue(of(gpus=6, hours=8), (1, "high"), priority=100), priority=rules)
    assert stops(plan(world, NOW)) == []


def test_inside_a_project_the_guarantee_of_a_part_of_it_holds_against_its_siblings():
    ft = QuotaSpec(project="nlp/ft", guaranteed=(("gpus", 2_000),))
    site = Site(gpus=6, nlp=replace(NLP, guaranteed=(("gpus", 6_000),)), ft=ft)
    site.runs("s1", "nlp", gpus=4, since=1).runs("s2", "nlp", gpus=2, since=2)
    answer = plan(site.seen(queue(of("ft", "nlp", gpus=2), (1, "part"))), NOW)
    assert stops(answer) == []  # the project's own max is used up by its other jobs
    site = Site(gpus=6, nlp=replace(NLP, max=()), ft=ft)
    site.runs("s1", "nlp", gpus=4, since=1).runs("s2", "nlp", gpus=2, since=2)
    assert stops(plan(site.seen(queue(of("ft", "nlp", gpus=2), (1, "part"))), NOW)) == ["s2"]


def test_what_may_not_be_stopped_borrows_nothing_that_is_guaranteed():
    site = Site(gpus=8, nlp=NLP)
    stays = job_class(ONE, pinned=True)
    world = site.seen(queue(stays, *((n, f"p{n}") for n in range(8))))
    answer = plan(world, NOW)
    assert started(answer) == ["p0", "p1", "p2", "p3"]
    why = reason_of(world, answer, 0)
    assert why.code is ReasonCode.WAITING_FOR_QUOTA
    assert "of 8 GPUs all but 0 are guaranteed or held by such jobs" in why.message
    own = replace(stays, quotas=("nlp",))
    answer = plan(site.seen(queue(own, *((n, f"p{n}") for n in range(8)))), NOW)
    assert started(answer) == [f"p{n}" for n in range(6)], "its own guarantee, then as far as max goes"


def test_what_stays_counts_for_its_guarantee_before_what_does_not():
    vision = QuotaSpec(project="vision", guaranteed=(("gpus", 4_000),))
    site = Site(gpus=8, nlp=NLP, vision=vision)
    site.runs("old", "vision", gpus=4, since=1).runs("stays", "vision", gpus=4, since=2, pinned=True)
    assert stops(plan(site.seen(queue(of("nlp"), (1, "mine"))), NOW)) == ["old"]


def test_who_is_ahead_is_told_that_it_is_within_its_guarantee():
    site = Site(gpus=1, nlp=NLP).runs("x", "nlp", pinned=True)
    world = site.seen(queue(of("nlp"), (2, "mine"), priority=1), queue(of(), (1, "other"), priority=99))
    index = next(i for i, one in enumerate(world.queues) if one.jobs[0][1] == "other")
    assert [(one.job_id, one.why) for one in explain(world, index, NOW).ahead] == [
        ("mine", "within its guarantee")
    ]


def test_the_expected_start_of_what_waits_for_a_quota_is_when_enough_of_it_has_ended():
    site = Site(nlp=NLP).runs("a", "nlp", gpus=3, ends_h=5).runs("b", "nlp", gpus=3, ends_h=2)
    world = site.seen(queue(of("nlp", gpus=2, hours=1), (1, "first")), queue(of("nlp", gpus=2), (2, "next")))
    index = next(i for i, one in enumerate(world.queues) if one.jobs[0][1] == "next")
    found = explain(world, index, NOW)
    # `b` gives three back, of which the first takes two, and gives those back when its whole hold is over.
    assert found.expected_start_at == NOW + 3 * HOUR_US + 60_000_000
    assert explain(world, 1 - index, NOW).expected_start_at == NOW + 2 * HOUR_US
