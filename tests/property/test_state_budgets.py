"""Any history of a whole cluster keeps its budgets, its books and its promises to jobs.

The machine is the daemon without its shells (`cluster_model`, `cluster_rules`, `cluster_promises` of the
support folder); hypothesis finds the shortest story that breaks a promise, long random walks meet the long
ones, and planted faults prove that the promises can be broken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

import pytest
from cluster_model import BUDGETS, NODES, PROJECTS, SCOPES, USERS
from cluster_promises import ClusterMachine
from hypothesis import HealthCheck, settings

from bursar.clock import HOUR_US, SECOND_US, Instant
from bursar.model import (
    ArraySpec,
    EndCause,
    RetrySpec,
)
from bursar_policies.periods import period_bounds
from bursar_policies.specs import BudgetSpec
from bursard import engine
from bursard.engine import charge_row
from bursard.events import (
    Charge,
    StopRequested,
)
from bursard.ledger import HourCharge, Ledger, PriceInForce, Span, Transaction, spans
from bursard.ledger import ownership as ledger_ownership
from bursard.state import Applied, NodeRecord, State, core, records
from bursard.state import image as state_image
from bursard.state.budgets import BudgetRecord, BudgetTable
from bursard.state.decide import jobs, ownership, policies
from bursard.state.decide.corrections import Target
from bursard.state.fold import attempts as attempts_fold
from bursard.state.fold import nodes as nodes_fold
from bursard.store import ChargeRow

# ------------------------------------------------------------------ long walks

STEPS: dict[str, tuple[int, dict[str, list[Any]]]] = {
    "submit": (
        14,
        {
            "user": list(USERS),
            "project": list(PROJECTS),
            "labels": [(), (("team", "x"),)],
            "gpus": [0, 0, 300, 500, 1000, 2000],
            "gang": [1, 1, 1, 2],
            "limit_us": [0, 90 * SECOND_US, HOUR_US + 1, 30 * HOUR_US],
            "max_cost": [0, 0, 0, 200_000_003],
            "retry": [RetrySpec(), RetrySpec(on=("failed", "time_limit"), max=2)],
            "array": [None, None, None, ArraySpec((0, 1, 2, 3), 2), ArraySpec((1, 5), 1)],
            "after": [None, None, (0, "finished"), (5, "succeeded"), (2, "failed")],
            "held": [False, False, False, True],
            "begin_in_us": [0, 0, 0, 2 * HOUR_US],
            "then_plan": [True, True, False],
        },
    ),
    "advance": (
        16,
        {
            "us": [1, 999_983, 37 * SECOND_US, 601 * SECOND_US + 123_457, HOUR_US - 1, HOUR_US, 25 * HOUR_US],
            "report": [True, False],
            "then_plan": [True, False],
        },
    ),
    "wall_clock_jumps": (1, {"us": [-40 * SECOND_US, SECOND_US, 3 * HOUR_US]}),
    "cycle": (4, {}),
    "correct": (3, {"pick": list(range(12)), "aim": [Target(ppm=0), Target(1_000_000_007), Target(3)]}),
    "cancel": (3, {"pick": list(range(12)), "grace_us": [None, 0, SECOND_US]}),
    "act": (6, {"pick": list(range(12)), "verb": [jobs.hold, jobs.release, jobs.requeue, jobs.requeue]}),
    "update": (1, {"pick": list(range(12)), "changes": [{"project": "ops"}, {"time_limit_us": HOUR_US}]}),
    "apply_budget": (
        3,
        {
            "name": list(BUDGETS),
            "scope": list(SCOPES),
            "cents": [400, 1_500, 9_000],
            "period": ["day", "day", "week", "month", "one-time"],
            "zone": ["UTC", "Europe/Berlin", "Asia/Kathmandu"],
            "enforcement": ["hard", "hard", "soft"],
            "counts_from": [None, None, 0, 3],
        },
    ),
    "change_limit": (
        5,
        {"name": list(BUDGETS), "cents": [400, 1_500, 9_000], "wait_us": [0, 11 * HOUR_US]},
    ),
    "remove_budget": (1, {"name": list(BUDGETS)}),
    "change_price": (1, {"capex": [100_003, 250_001, 60_000, None]}),
    "change_strategy": (1, {"strategy": ["pack", "spread", "spread", None], "name": ["x", "y"]}),
    "schedule_node": (2, {"name": list(NODES), "mode": ["open", "open", "cordon", "drain"]}),
    "restart_from_a_snapshot": (3, {}),
    "meter_out_of_order": (1, {"name": list(NODES)}),
    "repeat_a_report": (1, {"name": list(NODES)}),
    "member_exits": (
        10,
        {
            "pick": list(range(9)),
            "cause": [EndCause.COMPLETED, EndCause.COMPLETED, EndCause.FAILED],
            "tell": [True, False],
        },
    ),
    "contact_is_lost_or_found": (3, {"name": list(NODES)}),
    "reboot": (2, {"name": list(NODES), "tell": [True, False]}),
    "confirm_dead": (1, {"name": list(NODES)}),
}
"""Weights and choices: hypothesis finds the shortest story, these walk far enough to meet a long one."""


GIFTS: dict[str, list[Any]] = {
    "name": list(BUDGETS),
    "to": [None, None, *BUDGETS],
    "cents": [30, 500, -30, 2_000],
    "key": ["", "", "k1", "k2"],
}


HOLDS = ("worst-case", "lease\n  lease: 10m", "lease\n  lease: 1h", "expected")


def walk(seed: int, steps: int) -> ClusterMachine:
    """One random history. A failure is told again by its seed. In every other one budgets are given money and
    carry it over, drawn beside the rest, so that the others stay as they are.
    """
    random, gifts = Random(seed), Random(f"gifts {seed}")
    machine = ClusterMachine()
    machine.start(capex=100_003)
    names, weights = list(STEPS), [weight for weight, _ in STEPS.values()]
    checks = [getattr(machine, name) for name in CHECKS]
    # Prices that change and reports out of order excuse the checks of hours: not in every history.
    left_out = {name for name in ("change_price", "meter_out_of_order") if random.random() < 0.6}
    for _ in range(steps):
        name = random.choices(names, weights)[0]
        if name not in left_out:
            choices = {key: random.choice(values) for key, values in STEPS[name][1].items()}
            if seed % 2 and name == "apply_budget":
                choices["carry_over"] = gifts.choice([None, "20%", "100%", "3 USD"])
                choices["hold"] = gifts.choice(HOLDS)
            getattr(machine, name)(**choices)
            if seed % 2 and gifts.random() < 0.08:
                machine.give(**{key: gifts.choice(values) for key, values in GIFTS.items()})
            if seed % 2 and gifts.random() < 0.3:
                machine.take_limit(gifts.randrange(30))
            for check in checks:
                check()
    machine.teardown()
    return machine


def walks(first: int, stop: int) -> None:
    """Histories by their seeds."""
    for seed in range(first, stop):
        walk(seed, 120)


CHECKS = (
    "books_are_sound",
    "b1_no_hard_budget_is_passed",
    "b3_only_live_attempts_hold_money",
    "b5_a_budget_says_what_cost_says",
    "attempts_and_jobs_end_once",
    "j4_one_attempt_of_a_job_at_a_time",
    "r1_free_is_what_nobody_holds",
    "counts_and_slots_are_true",
    "usage_is_what_was_held",
    "every_hour_costs_its_rate",
)


@pytest.mark.parametrize("seed", range(0, 100, 10))
def test_long_histories_keep_every_promise(seed: int) -> None:
    for one in range(seed, seed + 10):
        try:
            walk(one, 120)
        except BaseException as fault:
            fault.add_note(f"walk({one}, 120)")
            raise


TestCluster = ClusterMachine.TestCase
TestCluster.settings = settings(
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


# ------------------------------------------------------------------ the machine can fail


def put_moves_the_period(self: BudgetTable, name: str, spec: BudgetSpec, version: int, now: int) -> None:
    start, end = period_bounds(spec.period, spec.timezone, Instant(now))
    self.records[name] = BudgetRecord(name, spec, version, start, end or 0)


def first_stop_stands(state: State, event: StopRequested, at: int, applied: Applied) -> None:
    attempt = state.attempts[event.attempt_id]
    if attempt.stop_cause is None:
        attempts_fold.stop_requested(state, event, at, applied)


def the_newest_price(prices: Sequence[PriceInForce], from_at: int, to_at: int) -> list[Span]:
    return spans(prices[-1:], from_at, to_at)


def no_step_of(left_out: str) -> Callable[..., Iterator[Charge]]:
    step = ledger_ownership._step
    return lambda kind, *rest: iter(()) if kind == left_out else step(kind, *rest)


def of_nobody(state: State, seq: int, hour: HourCharge, node: NodeRecord, *posted_at: int) -> ChargeRow:
    return charge_row(state, seq, hour, node, *posted_at)._replace(project="")


def nobody_leaves(self: Ledger, budget: str, but: object = ()) -> list[Transaction]:
    return []


def gives_to_nobody(
    self: Ledger, budget: str, period_start: int, to: str, to_period: int, nanos: int
) -> Transaction:
    return self.grant(budget, period_start, -nanos)


FAULTS = [
    pytest.param(Ledger, "transfer", gives_to_nobody, "second book: what was given|B7", id="a gift is lost"),
    pytest.param(Ledger, "close", nobody_leaves, "B5|B1", id="who is covered no more pays on"),
    pytest.param(policies, "by_marks", lambda state: {}, "B5", id="who runs does not pay"),
    pytest.param(BudgetTable, "put", put_moves_the_period, "B1", id="a document leaves holds behind"),
    pytest.param(engine, "charge_row", of_nobody, "second book", id="a row forgets whose it is"),
    pytest.param(core, "_APPLY", {**core._APPLY, StopRequested: first_stop_stands}, "lost", id="no cancel"),
    pytest.param(ownership, "_ended", lambda node, to_at: [], "L8", id="what ended is idle as well"),
    pytest.param(records, "spans", the_newest_price, "L8", id="the past is valued by the price of now"),
    pytest.param(ledger_ownership, "_step", no_step_of("variance"), "L8", id="a frozen price leaves a gap"),
    pytest.param(ledger_ownership, "_step", no_step_of("absorption"), "L8", id="jobs pay what nodes cost"),
    pytest.param(nodes_fold, "_unmetered", lambda node: [], "L8|B5", id="a cut forgets what ended"),
    pytest.param(state_image, "place_by", lambda state: None, "L10", id="no strategy"),
    pytest.param(policies, "_last_priced_version", lambda *_: 0, "instead of", id="a price id comes back"),
]


RARE = {"a cut forgets what ended": 100}
"""Faults that few histories meet: from which on to look, a little before the first that does."""


@pytest.mark.parametrize(("where", "name", "fault", "complaint"), FAULTS)
def test_a_planted_fault_is_found(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    where: object,
    name: str,
    fault: object,
    complaint: str,
) -> None:
    monkeypatch.setattr(where, name, fault)
    with pytest.raises(AssertionError, match=complaint):
        walks(RARE.get(request.node.callspec.id, 0), 300)
