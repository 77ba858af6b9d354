"""The waterfall of commitments: the vendors' own examples, and that no nano is lost or made."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.clock import HOUR_US, parse_instant
from bursar.errors import PolicyInvalid
from bursar_policies.commitments import Usage, waterfall
from bursar_policies.document import parse_documents
from bursar_policies.specs import CommitmentSpec, PlanRate

USD = 10**9
HOUR = parse_instant("2026-11-01T00:00:00Z")


def plan(hourly: int = 25, **more: object) -> CommitmentSpec:
    rates = {"c5.9xlarge": 2, "c5.24xlarge": 8, "fargate-vcpu": 1, "fargate-gb": 1}
    made = tuple(PlanRate(name, rate * USD) for name, rate in rates.items())
    asked = {
        "provider": "aws", "of_type": "savings-plan", "currency": "USD", "start": HOUR,
        "end": HOUR + 8760 * HOUR_US,
        "hourly_nanos": hourly * USD, "rates": made,
    }  # fmt: skip
    return CommitmentSpec(**(asked | more))  # type: ignore[arg-type]


def reservation(quantity: int = 1, **more: object) -> CommitmentSpec:
    asked = {
        "provider": "azure", "of_type": "reservation", "currency": "USD", "start": HOUR,
        "end": HOUR + 8760 * HOUR_US, "upfront_nanos": 8760 * USD + 1, "region": "eastus",
        "instance_type": "D4", "quantity": quantity,
    }  # fmt: skip
    return CommitmentSpec(**(asked | more))  # type: ignore[arg-type]


AWS = [
    Usage("a", "aws", "r", "c5.9xlarge", 4 * USD, 4 * USD),
    Usage("b", "aws", "r", "c5.24xlarge", 10 * USD, 10 * USD),
    Usage("c", "aws", "r", "fargate-vcpu", 10 * USD * 3 // 2, USD * 3 // 2),
    Usage("d", "aws", "r", "fargate-gb", 5 * 2 * USD, 2 * USD),
]


def test_the_example_of_aws_a_compute_savings_plan_of_25_dollars_covers_all_of_it() -> None:
    found = waterfall(AWS, [("sp", plan())], HOUR)
    assert {piece.key: piece.effective // USD for piece in found.pieces} == {"a": 2, "b": 8, "c": 10, "d": 5}
    assert [(one.used, one.unused) for one in found.spent] == [(25 * USD, 0)]
    assert sum(piece.nanos for piece in found.pieces) == 39 * USD  # its list value
    assert sum(one.fee for one in found.spent) == 25 * USD  # what the hour costs


def test_the_plan_goes_first_where_it_saves_the_most_and_of_equal_savings_where_the_rate_is_lowest() -> None:
    found = waterfall(AWS, [("sp", plan(6))], HOUR)
    # Half off: Fargate memory (1 of 2), then the machine (2 of 4); neither the third off nor the fifth.
    assert [(piece.key, piece.effective // USD, piece.nanos // USD) for piece in found.pieces] == [
        ("d", 5, 10), ("a", 1, 2)
    ]  # fmt: skip
    assert found.spent[0].unused == 0


def test_a_plan_of_one_family_comes_before_one_of_all_types() -> None:
    family = plan(
        1, family="c5", region="r", rates=(PlanRate("c5.9xlarge", USD), PlanRate("c5.24xlarge", 6 * USD))
    )
    found = waterfall(AWS, [("all", plan()), ("family", family)], HOUR)
    assert [(piece.commitment, piece.key) for piece in found.pieces if piece.key == "a"] == [("family", "a")]
    assert {one.commitment: one.unused // USD for one in found.spent} == {"family": 0, "all": 2}


@pytest.mark.parametrize(
    ("first", "second", "at_list"), [("0.75", "0.5", "0.25"), ("1", "1", "1"), ("0.5", "1", "0.5")]
)
def test_the_example_of_azure_one_reservation_two_machines(first: str, second: str, at_list: str) -> None:
    usages = [
        Usage(key, "azure", "eastus", "D4", int(Fraction(hours) * 3 * USD), 3 * USD)
        for key, hours in (("x", first), ("y", second))
    ]
    found = waterfall(usages, [("ri", reservation())], HOUR)
    covered = sum(piece.nanos for piece in found.pieces)
    assert sum(one.nanos for one in usages) - covered == Fraction(at_list) * 3 * USD
    assert sum(piece.effective for piece in found.pieces) + found.spent[0].unused == found.spent[0].fee


def test_what_is_not_used_of_an_hour_is_lost() -> None:
    usage = Usage("x", "azure", "eastus", "D4", 3 * USD // 4, 3 * USD)
    [spent] = waterfall([usage], [("ri", reservation())], HOUR).spent
    assert (spent.used, spent.unused, spent.unused_hours) == (USD // 4, USD - USD // 4, Fraction(3, 4))


def test_nothing_foreign_is_covered_and_nothing_outside_of_the_term() -> None:
    foreign = [
        Usage("x", "azure", "westeurope", "D4", USD, USD), Usage("y", "aws", "eastus", "D4", USD, USD),
        Usage("z", "azure", "eastus", "D8", USD, USD), Usage("none", "azure", "eastus", "D4", 0, USD),
    ]  # fmt: skip
    found = waterfall(foreign, [("ri", reservation())], HOUR)
    assert (found.pieces, found.spent[0].unused) == ((), found.spent[0].fee)
    for hour in (HOUR - HOUR_US, HOUR + 8760 * HOUR_US):
        assert waterfall(foreign, [("ri", reservation())], hour).spent == ()


def test_the_hours_of_a_term_cost_exactly_what_was_promised() -> None:
    spec = reservation(hourly_nanos=7)
    fees = [spec.fee_nanos(HOUR + number * HOUR_US) for number in range(-1, 8761)]
    assert sum(fees) == 8760 * USD + 1 + 7 * 8760
    assert (fees[0], fees[-1]) == (0, 0)


USAGES = st.lists(
    st.builds(
        lambda key, kind, nanos, rate: Usage(key, "aws", "r", kind, nanos, rate),
        st.text("abc", min_size=1, max_size=4), st.sampled_from(["c5.9xlarge", "c5.24xlarge", "g6.x"]),
        st.integers(0, 10**14), st.integers(1, 10**12),
    ),
    max_size=8, unique_by=lambda one: one.key,
)  # fmt: skip


@given(USAGES, st.integers(1, 40), st.integers(1, 5), st.randoms())
def test_used_and_unused_are_the_fee_and_no_machine_is_covered_twice(
    usages: list[Usage], hourly: int, quantity: int, chance: object
) -> None:
    held = reservation(quantity, provider="aws", region="r", instance_type="c5.9xlarge")
    commitments = [("b", plan(hourly)), ("a", held), ("c", plan(3, family="c5", region="r"))]
    found = waterfall(usages, commitments, HOUR)
    again = list(usages), list(commitments)
    for each in again:
        chance.shuffle(each)  # type: ignore[attr-defined]
    assert waterfall(*again, HOUR) == found
    covered, effective = Counter[str](), Counter[str]()
    for piece in found.pieces:
        assert piece.nanos >= 0 <= piece.effective
        covered[piece.key] += piece.nanos
        effective[piece.commitment] += piece.effective
    for usage in usages:
        assert covered[usage.key] <= usage.nanos
    for spent in found.spent:
        assert spent.used == effective[spent.commitment]
        assert spent.used + spent.unused == spent.fee
        assert spent.unused >= 0


# ------------------------------------------------------------------ documents

GOOD = """kind: Commitment
name: c
spec:
  provider: aws
  type: reservation
  region: us-east-1
  instance_type: p5.48xlarge
  quantity: 4
  hourly: 80 USD/h
  upfront: 100000 USD
  start: 2026-01-01T00:00:00Z
  end: 2027-01-01T00:00:00Z
"""
PLAN = """kind: Commitment
name: c
spec:
  provider: azure
  type: savings-plan
  hourly: 25 USD/h
  rates:
    - {instance_type: Standard_D4, rate: 0.1 USD/h}
  start: 2026-01-01T00:00:00Z
  end: 2027-01-01T00:00:00Z
"""


def test_documents_of_each_form_are_read() -> None:
    [found] = parse_documents(GOOD, "c.yaml")
    assert isinstance(found.spec, CommitmentSpec)
    assert (found.spec.quantity, found.spec.hours, found.spec.upfront_nanos) == (4, 8760, 100_000 * USD)
    [money] = parse_documents(PLAN, "p.yaml")
    assert money.spec.rates == (PlanRate("Standard_D4", USD // 10),)  # type: ignore[union-attr]
    for text in (
        GOOD.replace("aws", "gcp").replace("reservation", "committed-use"),
        PLAN.replace("azure", "gcp").replace("savings-plan", "committed-use"),
        PLAN.replace("azure", "aws").replace("hourly", "family: c5\n  region: r\n  hourly"),
    ):
        assert parse_documents(text, "x.yaml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD.replace("aws", "awz"), "c.yaml:4:13: spec.provider: 'awz' is not one of"),
        (GOOD.replace("type: reservation", "type: committed-use"), "aws sells no committed-use; it sells"),
        (GOOD.replace("  quantity: 4\n", ""), "the key 'quantity' is missing"),
        (GOOD.replace("quantity: 4", "quantity: 0"), "quantity"),
        (GOOD.replace("quantity", "quantitty"), "unknown key 'quantitty'"),
        (GOOD.replace("hourly: 80 USD/h", "hourly: 80 USD"), "hourly"),
        (GOOD.replace("hourly: 80 USD/h", "hourly: 0 USD/h"), "hourly"),
        (GOOD.replace("100000 USD", "100000 EUR"), "is in EUR and in USD; use one currency"),
        (GOOD.replace("  hourly: 80 USD/h\n  upfront: 100000 USD\n", ""), "costs nothing; give hourly"),
        (GOOD.replace("2027-01-01T00:00:00Z", "2025-01-01T00:00:00Z"), "end is not after start"),
        (GOOD.replace("2027-01-01T00:00:00Z", "2047-01-01T00:00:00Z"), "more than 10 years"),
        (GOOD.replace("2026-01-01T00:00:00Z", "2026-01-01T00:30:00Z"), "must be a full hour of UTC"),
        (GOOD + "  family: p5\n", "family is nothing that a reservation of machines has"),
        (PLAN + "  quantity: 2\n", "quantity is nothing that a savings-plan of money has"),
        (PLAN + "  family: c5\n", "give both family and region, or neither"),
        (PLAN.replace("    - {instance_type: Standard_D4, rate: 0.1 USD/h}\n", "    []\n"), "names no rate"),
        (PLAN.replace("0.1 USD/h}", "0.1 EUR/h}"), "is in EUR and in USD; use one currency"),
        (
            PLAN.replace("  start", "    - {instance_type: Standard_D4, rate: 1 USD/h}\n  start"),
            "the rate of Standard_D4 is given twice",
        ),
        (PLAN.replace("rate: 0.1", "rate: -1"), "rate"),
        (PLAN.replace("{instance_type: Standard_D4, rate: 0.1 USD/h}", "7"), "c.yaml:8"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_document_is_said_with_its_line(text: str, told: str) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        parse_documents(text, "c.yaml")
    assert told in str(caught.value)
    assert "c.yaml:" in str(caught.value)


def test_every_fault_is_told_at_once() -> None:
    text = GOOD.replace("aws", "x").replace("80 USD/h", "80").replace("quantity: 4", "quantity: -4")
    with pytest.raises(PolicyInvalid) as caught:
        parse_documents(text, "c.yaml")
    assert len(caught.value.faults) == 3
