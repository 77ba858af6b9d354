"""An amount of money may be of any size: every field of 64 bits that says one has a wide one beside it."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from whole_site import FILES, Site, play

from bursar.codec import results, view
from bursar.codec.amounts import exact, put_amounts
from bursar.codec.spec import spec_from_wire, spec_to_wire
from bursar.errors import InvalidRequest
from bursar.jobfile import RunFlags, parse_job, spec_from_flags, spec_to_yaml
from bursar.model import JobSpec
from bursar.money import AMOUNT_MAX, Money
from bursar.v1 import jobs_pb2 as pb
from bursar.v1 import types_pb2
from bursar_policies.document import parse_documents
from bursar_policies.specs import BudgetSpec

INTEGERS = (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_SINT64, FieldDescriptor.TYPE_UINT64)
BOUNDED = {
    "JobSpec.max_price_nanos_per_hour", "UpdateRequest.max_price_nanos_per_hour",
    "Member.rate_nanos_per_hour", "Machine.rate_nanos_per_hour",
    "Node.rate_nanos_per_hour", "Price.rate_nanos_per_hour", "Price.rate_per_gpu_nanos_per_hour",
    "PricePart.rate_nanos_per_hour",
    *(f"PriceExplanation.{name}_nanos_per_hour" for name in (
        "cost", "charge", "list", "effective", "marginal", "gpu", "cpu", "memory", "full_absorption")),
}  # fmt: skip
"""Rates of one machine or a part of one, and the cap on a rate: documents that say more are refused."""
LARGE = (12 * 10**18, 10**21, AMOUNT_MAX)
"""12 billion units, 10^12 and the largest."""


def messages() -> list[Descriptor]:
    """Every message of the wire."""
    files = {file.DESCRIPTOR.name: file.DESCRIPTOR for file in FILES}
    for file in list(files.values()):
        files |= {one.name: one for one in file.dependencies}
    return [kind for file in files.values() for kind in file.message_types_by_name.values()]


def amounts() -> set[tuple[str, bool]]:
    """Every integer that says money, and whether a wide one stands beside it."""
    return {
        (f"{kind.name}.{field.name}", f"{field.name}_wide" in kind.fields_by_name)
        for kind in messages()
        for field in kind.fields
        if field.type in INTEGERS and "nanos" in field.name
    }


def test_every_amount_on_the_wire_has_a_wide_one_but_for_rates_that_are_bounded() -> None:
    found = amounts()
    assert {name for name, wide in found if not wide} == BOUNDED
    assert len(found) > len(BOUNDED) + 30


@pytest.mark.parametrize("nanos", LARGE)
def test_a_max_cost_of_any_size_goes_over_the_wire_and_back(nanos: int) -> None:
    spec = JobSpec(command=("true",), max_cost_nanos=nanos, currency="KRW")
    again = spec_from_wire(types_pb2.JobSpec.FromString(spec_to_wire(spec).SerializeToString()))
    assert (again.max_cost_nanos, again.currency) == (nanos, "KRW")
    text = spec_to_yaml(spec)
    assert f"max_cost: {nanos // 10**9} KRW" in text


@pytest.mark.parametrize("digits", ["", "x", "1.5", "1e9", " 1", "٣", "9" * 5_000])
def test_a_wide_amount_that_is_no_whole_number_is_refused_by_its_name(digits: str) -> None:
    wire = spec_to_wire(JobSpec(command=("true",), currency="USD"))
    wire.max_cost_nanos_wide.nanos = digits
    with pytest.raises(InvalidRequest, match="max_cost_nanos_wide: is not a whole number of nanos"):
        spec_from_wire(wire)


def test_a_wide_max_cost_beyond_every_amount_is_refused_with_the_bound() -> None:
    wire = spec_to_wire(JobSpec(command=("true",), currency="USD"))
    for nanos in (AMOUNT_MAX + 1, -1):
        wire.max_cost_nanos_wide.nanos = str(nanos)
        with pytest.raises(InvalidRequest, match=rf"is {nanos} nanos; 0 \(none\) to {AMOUNT_MAX}"):
            spec_from_wire(wire)


def test_an_amount_that_became_small_again_is_wide_no_more() -> None:
    wire = types_pb2.JobBudget()
    put_amounts(wire, held_nanos=10**21)
    put_amounts(wire, held_nanos=7)
    assert (exact(wire, "held_nanos"), wire.HasField("held_nanos_wide")) == (7, False)


@pytest.mark.parametrize("nanos", LARGE)
def test_a_job_is_submitted_updated_and_shown_with_a_max_cost_of_any_size(nanos: int) -> None:
    async def story(site: Site) -> None:
        token = site.token("ann", "admin")

        async def ask(method: str, request: Any) -> Any:
            status, [answer] = await site.ask(f"Jobs.{method}", request, token=token)
            assert status[0] == "OK", status
            return answer

        spec = JobSpec(command=("true",), max_cost_nanos=nanos, currency="USD")
        made = await ask("Submit", pb.SubmitRequest(spec=spec_to_wire(spec)))
        job = await ask("Get", pb.GetJobRequest(job=made.job.id))
        assert results.job(job).max_cost == Money(nanos, "USD")
        change = pb.UpdateRequest(job=made.job.id, currency="USD")
        put_amounts(change, max_cost_nanos=nanos - 1)
        updated = view.job(await ask("Update", change))
        assert updated["max_cost"]["amount"] == f"{(nanos - 1) // 10**9}.999999999"
        assert site.engine.state.jobs[made.job.id].spec.max_cost_nanos == nanos - 1

    play(story)


@pytest.mark.parametrize("nanos", LARGE)
def test_a_job_file_a_flag_and_a_budget_may_say_an_amount_of_any_size(nanos: int) -> None:
    text = f"{nanos // 10**9} KRW"
    assert spec_from_flags(RunFlags(command=("true",), max_cost=text)).max_cost_nanos == nanos
    written = spec_to_yaml(JobSpec(command=("true",), max_cost_nanos=nanos, currency="KRW"))
    assert parse_job(written, "job.yaml", "/").max_cost_nanos == nanos
    [budget] = parse_documents(
        f"kind: Budget\nname: b\nspec: {{scope: {{project: p}}, limit: {text}, period: month}}\n", "b.yaml"
    )
    assert isinstance(budget.spec, BudgetSpec)
    assert budget.spec.limit == Money(nanos, "KRW")
