"""`show` of a job: of each of its budgets, what that budget's account got of its cost."""

from __future__ import annotations

from bursar.model import EndCause, RetrySpec
from bursard.access.identity import Identity, Role
from bursard.fleet.testing import FACTS, World
from bursard.services.views import job_view
from bursard.state import JobRecord

ANN = Identity("ann", Role.ADMIN)
BUDGET = "kind: Budget\nname: {name}\nspec: {{scope: {{project: {scope}}}, limit: 9000 USD, period: month}}\n"
HOUR_US = 3_600_000_000


def run(world: World, job: JobRecord, cause: EndCause) -> int:
    """A quarter of an hour of it, until it ends so; what that cost, in nanos."""
    before = job.settled_nanos
    world.cycle()
    assert job.attempt is not None
    attempt = job.attempt
    world.backend.report()
    world.clock.advance(HOUR_US // 4)
    world.exited_of(attempt, cause, held_us=HOUR_US // 4, exit_code=int(cause is EndCause.FAILED))
    return job.settled_nanos - before


def shown(world: World, job: JobRecord) -> dict[str, int]:
    wire = job_view(world.state, job, seen_by=ANN, now=world.engine.now())
    return {one.budget: one.settled_nanos for one in wire.budgets}


def test_a_budget_that_came_later_counts_what_its_account_began_with() -> None:
    """1. The first attempt runs under one budget, the others under two.
    2. What is told of each is what its account says.
    """
    world = World()
    world.backend.connect(FACTS)
    world.apply(BUDGET.format(name="first", scope="p"))
    job = world.submit(retry=RetrySpec(("failed",), 5))
    one = run(world, job, EndCause.FAILED)
    world.apply(BUDGET.format(name="later", scope="p"), spent={"later": one})
    assert shown(world, job) == {"first": one, "later": one}
    two = run(world, job, EndCause.FAILED)
    assert min(one, two) > 0
    assert shown(world, job) == {"first": one + two, "later": one + two}
    three = run(world, job, EndCause.COMPLETED)
    assert shown(world, job) == {"first": one + two + three, "later": one + two + three}
    for name, nanos in shown(world, job).items():
        record = world.state.budgets.records[name]
        assert world.state.ledger.settled(name, record.period_start) == nanos
