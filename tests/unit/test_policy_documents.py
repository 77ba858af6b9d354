"""Policy documents: what is read, what is refused, and that every refusal names its line."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.clock import parse_instant
from bursar.errors import Fault, InvalidRequest, PolicyInvalid
from bursar.money import Money
from bursar_policies.document import parse_documents, parse_files
from bursar_policies.specs import (
    ACTIONS,
    BudgetSpec,
    CostModelSpec,
    Document,
    PlacementPolicySpec,
    PriceBookSpec,
    Scope,
    Threshold,
)

BUDGET = """\
kind: Budget
name: vision-monthly
spec:
  scope: {project: Research/vision}
  limit: 5000 USD
  timezone: Europe/Berlin
  thresholds:
    - {at: 80%, on: settled+held, do: [notify]}
    - {at: 50%, do: [notify]}
"""
BOOK = """\
kind: PriceBook
name: aws-us-east-1
version: 3
effective_at: 2026-07-14T00:00:00Z
spec:
  source: snapshot 2026-07-13
  currency: USD
  defaults: {provider: aws, region: us-east-1, market: on-demand}
  prices:
    - {instance_type: p5.48xlarge, price: 55.04 USD/h, valid_from: 2026-07-13T00:00:00Z,
       cpus: 192, memory: 2TiB, gpus: h100:8, gpu_memory: 80GB}
    - {instance_type: p5.48xlarge, price: 20 USD/h, market: spot, source: elsewhere}
"""
MODEL = """\
kind: CostModel
name: rack-a
spec:
  pool: onprem-a
  node_capex: 300000 USD
  useful_life: 5y
"""


def one(text: str) -> Document:
    (document,) = parse_documents(text, "p.yaml")
    return document


def faults(text: str | bytes) -> list[Fault]:
    with pytest.raises(InvalidRequest) as caught:
        parse_documents(text, "p.yaml")
    assert all(len(line) < 400 for line in caught.value.message.splitlines())
    return list(caught.value.faults)


def test_a_budget_is_read_with_its_defaults() -> None:
    document = one(BUDGET)
    assert (document.kind, document.name, document.version) == ("Budget", "vision-monthly", None)
    assert document.spec == BudgetSpec(
        scope=Scope(project="research/vision"),
        limit=Money(5000 * 10**9, "USD"),
        period="month",
        timezone="Europe/Berlin",
        enforcement="hard",
        hold="worst-case",
        thresholds=(Threshold(500_000), Threshold(800_000, "settled+held")),
    )


def test_a_price_book_is_read_with_shapes_defaults_and_dates() -> None:
    document = one(BOOK)
    assert isinstance(document.spec, PriceBookSpec)
    assert (document.version, document.effective_at) == (3, parse_instant("2026-07-14"))
    demand, spot = document.spec.prices
    assert (demand.provider, demand.region, demand.market) == ("aws", "us-east-1", "on-demand")
    assert demand.rate_nanos_per_hour == 55_040_000_000
    assert (demand.cpu_milli, demand.memory_bytes) == (192_000, 2 * 2**40)
    assert (demand.gpu_type, demand.gpu_count, demand.gpu_memory_bytes) == ("H100", 8, 80 * 10**9)
    assert demand.valid_from == parse_instant("2026-07-13")
    assert (spot.market, spot.valid_from, spot.source) == ("spot", 0, "elsewhere")


def test_several_documents_in_one_file_keep_their_own_text() -> None:
    text = f"# ours\n--- # first\n{BUDGET}# tail\n---\n{BOOK}---\n{MODEL}...\n"
    documents = parse_documents(text, "all.yaml")
    assert [d.kind for d in documents] == ["Budget", "PriceBook", "CostModel"]
    assert [d.line for d in documents] == [3, 14, 27]
    for document in documents:
        again = one(document.text)
        assert (again.spec, again.name) == (document.spec, document.name)


def test_a_flow_document_on_the_marker_line_keeps_its_own_text() -> None:
    text = "--- {kind: PlacementPolicy, name: d, spec: {strategy: pack, weights: {best_fit: 2}}}\n"
    document = one(text)
    assert document.spec == PlacementPolicySpec("pack", (("best_fit", Decimal(2)),))
    assert one(document.text).spec == document.spec


@pytest.mark.parametrize("text", [BUDGET, BOOK, MODEL])
def test_documents_survive_json(text: str) -> None:
    document = one(text)
    assert msgspec.json.decode(msgspec.json.encode(document), type=Document) == document


def test_all_faults_of_all_files_come_at_once() -> None:
    bad_budget = BUDGET.replace("limit:", "limt:").replace("80%", "80")
    bad_book = BOOK.replace("55.04 USD/h", "-1 USD/h")
    with pytest.raises(PolicyInvalid) as caught:
        parse_files([("a.yaml", bad_budget), ("b.yaml", bad_book), ("c.yaml", MODEL)])
    found = [(f.file, f.line, f.field) for f in caught.value.faults]
    assert found == [
        ("a.yaml", 4, "spec.limit"),
        ("a.yaml", 5, "spec.limt"),
        ("a.yaml", 8, "spec.thresholds[0].at"),
        ("b.yaml", 10, "spec.prices[0].price"),
    ]
    assert caught.value.faults[1].nearest == "limit"


def test_the_same_name_twice_is_refused_across_files() -> None:
    with pytest.raises(PolicyInvalid, match=r"Budget vision-monthly is given twice: a\.yaml:1"):
        parse_files([("a.yaml", BUDGET), ("b.yaml", BUDGET)])
    with pytest.raises(PolicyInvalid, match=r"Budget vision-monthly is given twice: line 1$"):
        parse_files([("a.yaml", f"{BUDGET}\n---\n{BUDGET}")])


@pytest.mark.parametrize(
    ("do", "said"),
    [
        ("[notify, hold-que]", "'hold-que' is not"),
        ("[hold-queue, hold-queue]", "hold-queue is named twice"),
        ("[stop]", "'stop' is not"),
        ("[]", "names no action"),
    ],
)
def test_a_threshold_does_each_of_the_actions_once_or_is_refused(do: str, said: str) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        parse_documents(BUDGET.replace("{at: 50%, do: [notify]}", f"{{at: 50%, do: {do}}}"), "p.yaml")
    (fault,) = caught.value.faults
    assert said in fault.message


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("hold: lease\n  lease: 9s", "spec.lease: must be from 10s to 7d"),
        ("hold: lease\n  lease: 8d", "spec.lease: must be from 10s to 7d"),
        ("hold: lease\n  lease: 15", "spec.lease: "),
        (
            "lease: 15m",
            "spec.lease: goes with `hold: lease` and `hold: expected`; say one of them, or leave it out",
        ),
        ("hold: worst-case\n  lease: 15m", "spec.lease: goes with `hold: lease` and `hold: expected`"),
        (
            "hold: lease\n  enforcement: soft",
            "spec.hold: lease is of hard budgets: a soft one keeps no job from going on; leave `hold` out",
        ),
    ],
)
def test_a_lease_is_of_a_hard_budget_that_gives_them_and_neither_too_short_nor_too_long(
    lines: str, problem: str
) -> None:
    text = f"kind: Budget\nname: b\nspec:\n  scope: {{project: p}}\n  limit: 5 USD\n  {lines}\n"
    with pytest.raises(InvalidRequest) as caught:
        parse_documents(text, "p.yaml")
    assert problem in caught.value.message


@pytest.mark.parametrize(
    ("lines", "lease_us"),
    [
        ("hold: lease", 900),
        ("hold: expected", 900),
        ("hold: lease\n  lease: 10s", 10),
        ("hold: lease\n  lease: 7d", 604_800),
        ("", 0),
    ],
)
def test_a_lease_is_fifteen_minutes_unless_its_document_says_how_long(lines: str, lease_us: int) -> None:
    text = f"kind: Budget\nname: b\nspec:\n  scope: {{project: p}}\n  limit: 5 USD\n  {lines}\n"
    [document] = parse_documents(text, "p.yaml")
    assert isinstance(document.spec, BudgetSpec)
    assert document.spec.lease_us == lease_us * 1_000_000


def test_a_threshold_may_do_all_that_there_is() -> None:
    text = BUDGET.replace("held, do: [notify]", f"held, do: [{', '.join(ACTIONS)}]")
    [document] = parse_documents(text, "p.yaml")
    assert isinstance(document.spec, BudgetSpec)
    assert [one.do for one in document.spec.thresholds] == [("notify",), ACTIONS]


def test_a_budget_may_roll_and_go_by_its_forecast() -> None:
    rolling = BUDGET.replace("  timezone: Europe/Berlin", "  period: rolling-30d")
    expected = BUDGET.replace("on: settled+held", "on: forecast")
    [one], [other] = parse_documents(rolling, "p.yaml"), parse_documents(expected, "p.yaml")
    assert isinstance(one.spec, BudgetSpec)
    assert isinstance(other.spec, BudgetSpec)
    assert one.spec.period == "rolling-30d"
    assert other.spec.thresholds[-1].on == "forecast"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("period: rolling-30d\n  carry_over: 20%", "nothing of rolling-30d is carried over"),
        (
            "period: rolling-7d\n  thresholds: [{at: 90%, on: forecast, do: [notify]}]",
            "on: forecast is of what a period costs in the end, and rolling-7d has no end",
        ),
        (
            "period: one-time\n  thresholds: [{at: 90%, on: forecast, do: [notify]}]",
            "on: forecast is of what a period costs in the end, and one-time has no end",
        ),
    ],
)
def test_what_a_period_makes_no_sense_of_is_refused_with_the_reason(lines: str, message: str) -> None:
    document = f"kind: Budget\nname: b\nspec:\n  scope: {{project: p}}\n  limit: 9 USD\n  {lines}\n"
    with pytest.raises(InvalidRequest) as caught:
        parse_documents(document, "p.yaml")
    (fault,) = caught.value.faults
    assert fault.message.startswith(message)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("period: rolling-0d", "'rolling-0d' is no rolling period; write rolling-1d to rolling-366d"),
        ("period: rolling-367d", "'rolling-367d' is no rolling period; write rolling-1d to rolling-366d"),
        ("period: rolling", "'rolling' is no rolling period; write rolling-1d to rolling-366d"),
        (
            "period: monthly",
            "'monthly' is not one of day, week, month, quarter, year, one-time, rolling-30d; did you mean"
            " 'month'?",
        ),
        ("hold: leases", "'leases' is not one of worst-case, expected, lease; did you mean 'lease'?"),
    ],
)
def test_a_wrong_word_is_not_answered_with_one_that_is_refused(line: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_documents(BUDGET.replace("  timezone: Europe/Berlin", f"  {line}"), "p.yaml")
    (fault,) = caught.value.faults
    assert fault.message == message


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("5000 USD", "0 USD", "more than 0"),
        ("5000 USD", "-5 USD", "more than 0"),
        ("5000 USD", "5000", "not an amount of money"),
        ("5000 USD", "5000 USD/h", "not an amount of money"),
        ("{project: Research/vision}", "{}", "covers nothing"),
        ("{project: Research/vision}", "{projekt: x}", "did you mean 'project'"),
        ("{project: Research/vision}", "{label: team}", "key=value"),
        ("{project: Research/vision}", "research", "expected a mapping"),
        ("Europe/Berlin", "Europe/Belrin", "did you mean 'Europe/Berlin'"),
        ("80%", "0%", "at least"),
        ("80%, on: settled+held", "50%", "given twice"),
        ("do: [notify]}\n    - {at: 50%", "do: []}\n    - {at: 50%", "names no action"),
        ("do: [notify]}\n    - {at: 50%", "do: [notfy]}\n    - {at: 50%", "did you mean 'notify'"),
        ("kind: Budget", "kind: Bugdet", "did you mean 'Budget'"),
        ("kind: Budget", "knd: Budget", "did you mean 'kind'"),
        ("name: vision-monthly", "name: 'a b'", "is not a name"),
        ("name: vision-monthly", "name: [a]", "found a sequence"),
        ("name: vision-monthly", "name: x\nversion: -1", "at least 0"),
        ("name: vision-monthly", "name: x\neffective_at: soon", "is not a time"),
    ],
)
def test_wrong_budgets_are_refused_in_words(old: str, new: str, word: str) -> None:
    assert old in BUDGET
    assert any(word in fault.message for fault in faults(BUDGET.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("55.04 USD/h", "0 USD/h", "more than 0"),
        ("55.04 USD/h", "-55 USD/h", "more than 0"),
        ("55.04 USD/h", "55.04 USD", "not money per h"),
        ("55.04 USD/h", "55.04 USD/month", "not money per h"),
        ("55.04 USD/h", "55.04 EUR/h", "price book is in USD"),
        ("55.04 USD/h", "1e400 USD/h", "not an amount of money"),
        ("55.04 USD/h", "999999999999 USD/h", "out of range"),
        ("55.04 USD/h", "0.0000000001 USD/h", "has more than 9 decimal places"),
        ("h100:8", "h100", "type and count"),
        ("h100:8", "h100:0", "type and count"),
        ("market: spot", "market: sopt", "did you mean 'spot'"),
        ("market: spot, source: elsewhere", "valid_from: 2026-07-13T00:00:00Z", "given twice"),
        ("source: elsewhere", "valid_from: 2026-07-13, valid_until: 2026-07-13", "not after"),
        ("region: us-east-1, ", "", "'region' is missing"),
        ("currency: USD", "currency: usd", "currency code"),
    ],
)
def test_wrong_prices_are_refused_with_their_line(old: str, new: str, word: str) -> None:
    assert old in BOOK
    found = faults(BOOK.replace(old, new))
    assert any(word in fault.message for fault in found)
    assert all(fault.line >= 7 for fault in found)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("practical_capacity: 0%", "at least 1"),
        ("practical_capacity: 120%", "at most 100"),
        ("residual: 101%", "at most 100"),
        ("support: 5%", "such as 10%/y"),
        ("colo: 184 USD/kW-month", "give power.max_watts"),
        ("power: {max_watts: 100, tariff: 0.1 EUR/kWh}", "mixes EUR with USD"),
        ("power: {max_watts: 100, tariff: 0.1 USD/h}", "money per kWh"),
        ("power: {max_watts: 100, tariff: [1, 2]}", "expected a mapping"),
        ("power: {max_watts: 9, tariff: 1 USD/kWh, carbon: 381}", "grams of CO2e per kWh, such as 381 g/kWh"),
        ("power: {max_watts: 9, tariff: 1 USD/kWh, carbon: 0.3 kg/kWh}", "grams of CO2e per kWh"),
        ("power: {watts: 100}", "did you mean 'max_watts'"),
        ("staff: {salary: 1 USD/y}", "'nodes_per_fte' is missing"),
        ("component_weights: {gpu: 0}", "at least one weight"),
        ("component_weights: {gpu: -1}", "at least 0"),
        ("gpus: {'a b': {capex: 1 USD}}", "not a GPU type"),
    ],
)
def test_wrong_cost_models_are_refused(line: str, word: str) -> None:
    assert any(word in fault.message for fault in faults(f"{MODEL}  {line}\n"))


def test_a_cost_model_has_sound_defaults() -> None:
    spec = one(MODEL).spec
    assert isinstance(spec, CostModelSpec)
    assert spec.practical_capacity == Decimal("0.8")
    assert spec.useful_life_us == 5 * 8760 * 3_600_000_000


@pytest.mark.parametrize("text", ["", "# nothing\n", "42\n", "- a\n", "null\n", b"\xff\xfe", "{}"])
def test_what_is_no_policy_is_refused(text: str | bytes) -> None:
    assert faults(text)


@pytest.mark.parametrize(
    ("scope", "covers"),
    [
        (Scope(project="research"), True),
        (Scope(project="research/vision"), True),
        (Scope(project="research/vis"), False),
        (Scope(user="ada"), True),
        (Scope(project="research", user="bob"), False),
        (Scope(labels=(("team", "v"),)), True),
        (Scope(labels=(("team", "v"), ("tier", "x"))), False),
        (Scope(model="m", experiment="e"), True),
    ],
)
def test_a_scope_covers_a_subtree_and_all_its_marks(scope: Scope, covers: bool) -> None:
    assert scope.covers("Research/Vision", "ada", "e", "m", {"team": "v"}) is covers


@given(
    st.sampled_from([BUDGET, BOOK, MODEL]),
    st.lists(
        st.tuples(
            st.floats(0, 1),
            st.integers(0, 9),
            st.text(max_size=6)
            | st.sampled_from(["{", "[", "&a ", "*a", "- ", "!!x ", "null", "\n", "---\n", "%"]),
        ),
        max_size=4,
    ),
)
def test_a_damaged_document_is_read_or_refused_and_never_crashes(
    text: str, cuts: list[tuple[float, int, str]]
) -> None:
    for place, length, put in cuts:
        at = int(place * len(text))
        text = text[:at] + put + text[at + length :]
    documents: tuple[Document, ...] = ()
    found: tuple[Fault, ...] = ()
    try:
        documents = parse_documents(text, "x.yaml")
    except InvalidRequest as error:
        found = error.faults
    assert documents or found
    for document in documents:
        assert parse_documents(document.text, "y.yaml")[0].spec == document.spec


def test_a_job_file_is_named_as_one_in_one_line() -> None:
    with pytest.raises(PolicyInvalid) as refused:
        parse_documents("name: a\nresources: {gpus: 1}\nrun: hostname\nzone: x\n", "job.yaml")
    assert [str(fault) for fault in refused.value.faults] == [
        "job.yaml:1:1: this is a job file, not a policy; `bursar submit job.yaml` takes it"
    ]
