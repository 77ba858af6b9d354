"""`max_cost` of an array caps all of its tasks together, unless it says `per: task`; a cap that pays
for nothing is refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from released import unpacked

from bursar.codec.spec import spec_from_wire, spec_to_wire
from bursar.errors import BudgetExceeded, InvalidRequest
from bursar.jobfile import parse_job
from bursar.jobfile.flags import RunFlags, spec_from_flags
from bursar.jobfile.render import spec_to_yaml
from bursar.model import ArraySpec, CheckpointSpec, EndCause, JobSpec, NodeFacts, ReasonCode
from bursar.money import parse_money
from bursar.resources import ResourceRequest
from bursar.v1 import jobs_pb2 as pb
from bursar_policies.document import parse_documents
from bursard import doctor
from bursard.cycle import Cycle, reason_of
from bursard.fleet.testing import World
from bursard.replay import restore
from bursard.state import JobRecord, Limits, image
from bursard.state.decide import jobs, nodes, policies
from bursard.state.fold.jobs import first_pending
from bursard.state.tables import still_to_cost
from bursard.store import SqliteStore

HOUR_US = 3_600_000_000
SECOND_US = 1_000_000
LONG_GRACE = CheckpointSpec(grace_us=HOUR_US)
USD = 10**9


class Site(World):
    """One node of 8 CPUs, priced."""

    def __init__(self) -> None:
        super().__init__()
        facts = NodeFacts(name="n-1", cpu_milli=8_000, memory_bytes=1 << 34, pool="local")
        hello = nodes.hello(
            self.state, self.ids, self.engine.prices, facts=facts, boot_id="boot", boot_us=0,
            now=self.engine.now(),
        )  # fmt: skip
        self.engine.commit(hello, "test")
        probe = self.submit()
        self.cycle()
        assert probe.attempt is not None
        self.task_nanos = still_to_cost(probe.attempt)
        """What one task of an hour costs at most."""
        self.exited_of(probe.attempt, EndCause.COMPLETED)

    def array(self, tasks: int, max_cost: int, per: str = "job", **spec: object) -> JobRecord:
        return self.submit(
            array=ArraySpec(((0, tasks, 1),)),
            max_cost_nanos=max_cost,
            max_cost_per=per,
            currency="USD",
            **spec,
        )

    def tasks(self, array: JobRecord, state: str = "") -> list[JobRecord]:
        found = self.state.tasks[array.id].values()
        return [task for task in found if not state or task.state.value == state]

    def why(self, job: JobRecord) -> tuple[ReasonCode, str, str]:
        cycle = Cycle(self.engine)
        cycle.once()
        task = first_pending(self.state, job) if job.array is not None else job
        assert task is not None
        reason = reason_of(self.state, cycle, task, self.engine.now())
        assert reason is not None
        return reason.code, reason.message, reason.remedy


def advised(message: str) -> int:
    found = re.search(r"set(?: it to)? (\S+ USD) or more", message)
    assert found is not None, message
    return parse_money(found.group(1)).nanos


@pytest.fixture
def site() -> Site:
    return Site()


def test_as_many_tasks_start_as_the_cap_of_the_whole_array_pays_for(site: Site) -> None:
    array = site.array(6, 3 * site.task_nanos + 1)
    site.cycle()
    assert len(site.tasks(array, "STARTING")) == 3
    money = site.state.array_money[array.id]
    assert (money.settled_nanos, money.held_nanos) == (0, 3 * site.task_nanos)
    assert [finding.message for finding in doctor.check_state(site.state) if not finding.ok] == []


def test_a_cap_per_task_is_each_tasks_own(site: Site) -> None:
    array = site.array(6, site.task_nanos, per="task")
    site.cycle()
    assert len(site.tasks(array, "STARTING")) == 6


def test_what_a_task_gives_back_lets_the_next_one_start(site: Site) -> None:
    array = site.array(6, 2 * site.task_nanos)
    site.cycle()
    first, second = site.tasks(array, "STARTING")
    assert site.why(array)[0] is ReasonCode.BUDGET_COMMITTED
    assert first.attempt is not None
    site.exited_of(first.attempt, EndCause.COMPLETED)
    site.cycle()
    assert len(site.tasks(array, "STARTING")) == 2
    assert second in site.tasks(array, "STARTING")


def test_the_reason_has_the_numbers_and_says_when_no_more_can_start(site: Site) -> None:
    array = site.array(6, 2 * site.task_nanos)
    site.cycle()
    code, message, remedy = site.why(array)
    assert code is ReasonCode.BUDGET_COMMITTED
    assert message.startswith(f"array {array.number} has 0.00 USD left of its max_cost")
    assert "0.00 USD settled" in message
    assert "so no more" not in message
    assert remedy.startswith("wait until its running tasks give back")
    assert f"bursar update {array.number} --max-cost" in remedy
    site.state.array_money[array.id].settled_nanos = 2 * site.task_nanos - 1
    site.state.array_money[array.id].held_nanos = 0
    code, message, remedy = site.why(array)
    assert code is ReasonCode.BUDGET_EXHAUSTED
    assert message.endswith("so no more of it can start")
    assert remedy.startswith("raise it to ")


def test_the_reason_tells_programs_each_of_its_numbers(site: Site) -> None:
    array = site.array(6, 2 * site.task_nanos + 5)
    site.cycle()
    site.state.array_money[array.id].settled_nanos = 7
    site.state.array_money[array.id].held_nanos -= 7
    cycle = Cycle(site.engine)
    cycle.once()
    task = first_pending(site.state, array)
    assert task is not None
    reason = reason_of(site.state, cycle, task, site.engine.now())
    assert reason is not None
    facts = dict(reason.facts)
    rate = int(facts.pop("rate_nanos_per_hour"))
    assert rate > 0
    assert facts == {
        "array": str(array.number),
        "currency": "USD",
        "max_cost": str(2 * site.task_nanos + 5),
        "settled": "7",
        "held": str(2 * site.task_nanos - 7),
        "room": "5",
        "needed": str(site.task_nanos),
    }


def test_an_array_of_which_no_task_could_be_paid_is_refused_with_the_numbers(site: Site) -> None:
    with pytest.raises(BudgetExceeded) as refused:
        site.array(6, site.task_nanos - 1)
    assert refused.value.facts["max_cost"] == f"{(site.task_nanos - 1) / USD:.9f}"
    assert refused.value.facts["needed"] == f"{site.task_nanos / USD:.9f}"
    assert "say `per: task`" in refused.value.message
    site.array(6, site.task_nanos)
    site.array(6, site.task_nanos - 1, per="task")


@pytest.mark.parametrize("hours", [7, 11, 23, 37, 91])
def test_a_cap_set_to_what_the_refusal_says_is_enough(site: Site, hours: int) -> None:
    limit: dict[str, object] = {"time_limit_us": hours * HOUR_US + 1_000_003}
    with pytest.raises(BudgetExceeded) as refused:
        site.array(2, 1, **limit)
    array = site.array(2, advised(refused.value.message), **limit)
    site.cycle()
    assert len(site.tasks(array, "STARTING")) == 1
    with pytest.raises(BudgetExceeded) as refused:
        jobs.update(site.state, array, {"max_cost_nanos": 1, "time_limit_us": SECOND_US})
    changes = {"max_cost_nanos": advised(refused.value.message), "time_limit_us": SECOND_US}
    assert jobs.update(site.state, array, changes)


@pytest.mark.parametrize("cpus", [1, 3, 7])
def test_a_cap_of_a_job_set_to_what_the_refusal_says_starts_it(site: Site, cpus: int) -> None:
    wanted = {"options": (ResourceRequest(None, cpus * 1_000, 1 << 20),), "currency": "USD"}
    with pytest.raises(BudgetExceeded) as refused:
        site.submit(**wanted, max_cost_nanos=1, checkpoint=LONG_GRACE)
    job = site.submit(**wanted, max_cost_nanos=advised(refused.value.message), checkpoint=LONG_GRACE)
    site.cycle()
    assert job.attempt is not None


def test_a_cap_that_is_passed_already_says_what_it_lacks_in_all(site: Site) -> None:
    spec = JobSpec(max_cost_nanos=USD, currency="USD", options=(ResourceRequest(None, 1_000, 1 << 20),))
    classes = [site.state.class_of_spec(spec, (), HOUR_US, settled) for settled in (0, USD, 3 * USD)]
    assert [each.max_cost_nanos for each in classes] == [USD, -1, -2 * USD]


def test_a_cap_is_not_lowered_below_what_is_committed(site: Site) -> None:
    array = site.array(6, 3 * site.task_nanos)
    site.cycle()
    with pytest.raises(BudgetExceeded, match="held by its running tasks"):
        jobs.update(site.state, array, {"max_cost_nanos": 3 * site.task_nanos - 1})
    with pytest.raises(BudgetExceeded, match="can never pay"):
        jobs.update(
            site.state, array, {"max_cost_nanos": 3 * site.task_nanos, "time_limit_us": 100 * HOUR_US}
        )
    site.engine.commit(jobs.update(site.state, array, {"max_cost_nanos": 5 * site.task_nanos}), "ann")
    site.cycle()
    assert len(site.tasks(array, "STARTING")) == 5


def test_a_cap_set_later_is_for_the_whole_array_and_counts_what_runs(site: Site) -> None:
    array = site.submit(array=ArraySpec(((0, 20, 1),)))
    site.cycle()
    assert len(site.tasks(array, "STARTING")) == 8
    change = {"max_cost_nanos": 8 * site.task_nanos, "currency": "USD"}
    site.engine.commit(jobs.update(site.state, array, change), "ann")
    assert array.spec.caps_array
    first = site.tasks(array, "STARTING")[0].attempt
    assert first is not None
    site.exited_of(first, EndCause.FAILED)
    site.cycle()
    assert len(site.tasks(array, "STARTING")) == 8
    assert site.why(array)[0] is ReasonCode.BUDGET_COMMITTED


def test_the_committed_money_of_an_array_is_the_same_from_an_image(site: Site) -> None:
    array = site.array(20, 7 * site.task_nanos)
    site.cycle()
    first = site.tasks(array, "STARTING")[0].attempt
    assert first is not None
    site.exited_of(first, EndCause.COMPLETED)
    again = image.decode(image.encode(site.state, site.engine.now()), Limits())
    assert again.array_money == site.state.array_money


def test_doctor_names_an_array_that_is_over_its_cap(site: Site) -> None:
    array = site.array(6, 3 * site.task_nanos)
    site.state.array_money[array.id].settled_nanos = 3 * site.task_nanos + 7
    found = [finding.message for finding in doctor.check_state(site.state) if not finding.ok]
    assert found == [f"B4: array {array.number} is over its max_cost by 7 nanos"]


# --- how it is said


@pytest.mark.parametrize(
    ("budget", "per", "whole"),
    [
        ("max_cost: 5 USD", "job", True),
        ("max_cost: 5 USD, per: job", "job", True),
        ("max_cost: 5 USD, per: task", "task", False),
    ],
)
def test_a_job_file_says_what_its_max_cost_is_for(budget: str, per: str, whole: bool) -> None:
    spec = parse_job(f"run: x\narray: 0-9\nbudget: {{{budget}}}\n", "f", "/")
    assert (spec.max_cost_per, spec.caps_array) == (per, whole)
    assert parse_job(spec_to_yaml(spec), "f", "/") == spec
    assert spec_from_wire(spec_to_wire(spec)) == spec


def test_what_is_no_array_is_written_down_as_before_there_was_a_choice() -> None:
    for text in ("run: x\nbudget: {max_cost: 5 USD, per: job}", "run: x\narray: 0-9\n"):
        spec = parse_job(text, "f", "/")
        assert (spec.max_cost_per, spec.caps_array) == ("task", False)
        assert b"max_cost_per" not in msgspec.json.encode(spec)


def test_per_needs_a_max_cost_and_is_one_of_two_words() -> None:
    with pytest.raises(InvalidRequest, match="write max_cost beside it"):
        parse_job("run: x\nbudget: {per: task}", "f", "/")
    with pytest.raises(InvalidRequest, match="per"):
        parse_job("run: x\nbudget: {max_cost: 5 USD, per: tsak}", "f", "/")
    wire = spec_to_wire(parse_job("run: x\narray: 0-9\nbudget: {max_cost: 5 USD}", "f", "/"))
    wire.max_cost_per = "node"
    with pytest.raises(InvalidRequest, match=r"budget\.per"):
        spec_from_wire(wire)


def test_flags_say_it_and_a_client_that_knows_no_choice_means_the_whole() -> None:
    flags = RunFlags(command=("true",), array="0-9", max_cost="5 USD")
    assert spec_from_flags(flags).caps_array
    flags = RunFlags(command=("true",), array="0-9", max_cost="5 USD", max_cost_per="task")
    assert spec_from_flags(flags).max_cost_per == "task"
    wire = spec_to_wire(spec_from_flags(flags))
    wire.max_cost_per = ""
    assert spec_from_wire(wire).caps_array
    wire.ClearField("array")
    assert spec_from_wire(wire).max_cost_per == "task"


# --- what was written before there was a choice


@pytest.mark.parametrize("name", ["killed", "stopped"])
def test_an_array_of_before_keeps_its_cap_for_each_task(name: str, tmp_path: Path) -> None:
    store = SqliteStore(unpacked(2, name, tmp_path))
    state = restore(store, Limits())
    array = next(job for job in state.jobs.values() if job.number == 10)
    assert array.spec.max_cost_nanos == USD // 2
    assert (array.spec.max_cost_per, array.spec.caps_array) == ("task", False)
    store.close()


def test_the_default_of_the_model_is_the_old_meaning() -> None:
    assert JobSpec().max_cost_per == "task"


# --- what plan and explain say


MODEL = "kind: CostModel\nname: m\nspec: {pool: p, node_capex: 400003 USD, useful_life: 5y}\n"


def test_plan_tells_the_whole_and_each_task_and_explain_the_room_of_the_cap(at_a_desk: Any) -> None:
    async def story(desk: Any) -> None:
        documents = parse_documents(MODEL, "m.yaml")
        desk.engine.commit(policies.apply_documents(desk.state, documents, desk.engine.now()), "ann")
        desk.plan()
        spec = JobSpec(array=ArraySpec(((0, 12, 1),)), command=("true",), time_limit_us=HOUR_US)
        free = await desk.service.Plan(pb.SubmitRequest(spec=spec_to_wire(spec)), None)
        task = free.task_worst_case_nanos
        assert (free.tasks, free.worst_case_nanos) == (12, 12 * task)
        capped = replace(spec, max_cost_nanos=2 * task + 1, max_cost_per="job", currency="USD")
        wire = await desk.service.Plan(pb.SubmitRequest(spec=spec_to_wire(capped)), None)
        assert (wire.tasks, wire.task_worst_case_nanos, wire.worst_case_nanos) == (12, task, 2 * task + 1)
        assert (wire.expected_nanos, wire.task_expected_nanos) == (-1, -1)
        each = replace(capped, max_cost_per="task", max_cost_nanos=2 * task)
        wire = await desk.service.Plan(pb.SubmitRequest(spec=spec_to_wire(each)), None)
        assert wire.worst_case_nanos == 12 * task
        answer = await desk.service.Submit(pb.SubmitRequest(spec=spec_to_wire(capped)), None)
        desk.plan()
        desk.plan()
        ref = str(answer.job.number)
        told = await desk.service.Explain(pb.ExplainRequest(job=ref), None)
        assert told.reason.code == "BudgetCommitted"
        assert told.reason.message.startswith(f"array {ref} has 0.000000001 USD left of its max_cost")
        (cap,) = told.budgets
        assert (cap.budget, cap.limit_nanos, cap.hard) == (f"max_cost of array {ref}", 2 * task + 1, True)
        assert (cap.settled_nanos, cap.held_nanos, cap.room_after_nanos) == (0, 2 * task, 1)

    at_a_desk(story)


def capped(site: Site, nanos: int) -> JobRecord:
    return site.submit(max_cost_nanos=nanos, currency="USD")


def least_of(site: Site) -> int:
    """What the refusal of a cap of 1 nano says would do."""
    with pytest.raises(BudgetExceeded) as refused:
        capped(site, 1)
    return parse_money(f"{refused.value.facts['needed']} USD").nanos


def test_the_least_that_is_told_is_accepted_and_starts_and_one_nano_less_is_refused(site: Site) -> None:
    least = least_of(site)
    with pytest.raises(BudgetExceeded, match="can never pay for this: one second of it") as no:
        capped(site, least - 1)
    assert no.value.exit_code == 3
    assert no.value.facts["max_cost"] == f"{(least - 1) / 10**9:.9f}"
    assert no.value.facts["currency"] == "USD"
    job = capped(site, least)
    site.cycle()
    assert job.attempt is not None


def test_a_cap_is_not_refused_while_nothing_is_there_that_could_run_the_job(site: Site) -> None:
    job = site.submit(max_cost_nanos=1, currency="USD", nodes=2)
    assert site.why(job)[0] is ReasonCode.EXCEEDS_NODE_CAPACITY


def test_a_cap_is_not_lowered_to_what_never_pays(site: Site) -> None:
    blocker = site.submit(options=(ResourceRequest(cpu_milli=8_000),))
    site.cycle()
    assert blocker.attempt is not None
    job = capped(site, site.task_nanos)
    site.cycle()
    assert job.attempt is None
    with pytest.raises(BudgetExceeded, match="can never pay"):
        jobs.update(site.state, job, {"max_cost_nanos": 1})


def test_what_prices_say_no_to_is_told_in_the_currency_of_the_books(site: Site) -> None:
    job = site.submit(max_price_nanos_per_hour=1, currency="USD")
    code, message, remedy = site.why(job)
    assert code is ReasonCode.PRICE_CAP_EXCEEDED
    assert message.count(" USD/h") == 2
    assert " USD/h" in remedy
