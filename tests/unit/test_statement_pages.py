"""The statement in its three forms, to the letter, of a site and of one project."""

from __future__ import annotations

import json

import msgspec
import pytest

from bursar.clock import HOUR_US
from bursard.reports.adjusted import Adjusted
from bursard.reports.cost import CostRow, CostTable
from bursard.reports.period import Period
from bursard.reports.statement import FORMATS, Statement

ROWS = (
    CostRow(("nlp/finetune",), nanos=1_500_000_000, held_us=3 * HOUR_US // 2, jobs=12),
    CostRow(("",), nanos=7, held_us=1, jobs=1),
)
KINDS = (
    CostRow(("usage",), nanos=1_500_000_007), CostRow(("idle",), nanos=30), CostRow(("overhead",), nanos=-2),
)  # fmt: skip
SITE = Statement(
    Period("2026-11", 0, 1), "EUR", "",
    CostTable((), ROWS, CostRow((), nanos=1_500_000_007, held_us=3 * HOUR_US // 2 + 1, jobs=13)),
    CostTable((), KINDS, CostRow((), nanos=1_500_000_035, unknown_us=HOUR_US // 4)),
    node_nanos=1_500_000_035,
    checked_nanos=1_500_000_035,
    facts_nanos=1_500_000_035,
)  # fmt: skip
ONE = msgspec.structs.replace(
    SITE, project="nlp", kinds=CostTable((), (), CostRow((), nanos=1_500_000_007)), node_nanos=9
)


def page(form: str, found: Statement) -> str:
    return b"".join(FORMATS[form](found)).decode()


def test_the_page_of_a_site_shows_all_kinds_and_that_they_add_up() -> None:
    assert page("text", SITE) == (
        "Statement 2026-11, in EUR, days of UTC: provisional\n"
        "\n"
        "project          jobs    hours held                    cost\n"
        "nlp/finetune       12         1.500             1.500000000\n"
        "(none)              1         0.000             0.000000007\n"
        "total              13         1.500             1.500000007\n"
        "\n"
        "jobs                   1.500000007  what jobs pay for their shares\n"
        "idle                   0.000000030  held by no job\n"
        "down                   0.000000000  while the machine was down\n"
        "unknown                0.000000000  while nobody knew what the machine did\n"
        "overhead              -0.000000002  rounding between shares and node cost\n"
        "variance               0.000000000  "
        "at prices in force, less at the prices that jobs were placed at\n"
        "absorption             0.000000000  "
        "cost of shares, less what they are to pay; below zero: jobs paid more\n"
        "node cost              1.500000035  the sum of the above\n"
        "by facts               1.500000035  what nodes must have cost by their boots and prices alone\n"
        "difference             0.000000000  of what the facts tell of: 0, or the books are wrong\n"
        "\n"
        "0.250 hours of shares and nodes have no known price; what they cost is unknown, not 0, "
        "and in no sum above.\n"
    )


def test_the_page_of_a_site_says_of_how_many_nodes_and_node_hours_the_facts_do_not_tell() -> None:
    found = msgspec.structs.replace(SITE, left_out=2, unpriced_us=5 * HOUR_US // 2)
    assert page("text", found).partition("books are wrong\n")[2].splitlines()[:4] == [
        "",
        "Of 2 nodes the facts do not tell: no price at any time, or gone.",
        "",
        "2.500 node-hours at no known price are left out of the last two.",
    ]
    assert page("csv", found).splitlines()[-2] == (
        "left_out,,0,9000.000000,9000.000000,0.000000000,EUR,"
        "2.500 node-hours at no known price are not checked"
    )
    document = json.loads(page("json", found))
    assert (document["nodes_left_out"], document["node_s_left_out"]) == (2, 9000.0)


def test_the_page_of_a_project_names_it_and_nothing_of_others() -> None:
    assert page("text", ONE) == (
        "Statement 2026-11 for nlp, in EUR, days of UTC: provisional\n"
        "\n"
        "project          jobs    hours held                    cost\n"
        "nlp/finetune       12         1.500             1.500000000\n"
        "(none)              1         0.000             0.000000007\n"
        "total              13         1.500             1.500000007\n"
    )


@pytest.mark.parametrize(
    ("held_us", "shown"),
    [
        (2_310_755_000, "0.642"),  # 0.64187...
        (1_799_999, "0.000"),
        (1_800_000, "0.001"),
        (3_598_199_999, "0.999"),
        (3_598_200_000, "1.000"),
        (720 * HOUR_US, "720.000"),
    ],
)
def test_hours_are_rounded_half_up_to_thousandths(held_us: int, shown: str) -> None:
    row = CostRow(("a",), nanos=1, held_us=held_us, jobs=1)
    found = msgspec.structs.replace(ONE, projects=CostTable((), (row,), row))
    lines = [line.split() for line in page("text", found).splitlines()[3:]]
    assert [line[2] for line in lines] == [shown, shown]


def test_a_project_that_ran_at_no_known_price_is_marked() -> None:
    row = CostRow(("a",), nanos=1, held_us=2, unknown_us=1, jobs=1)
    found = msgspec.structs.replace(ONE, projects=CostTable((), (row,), CostRow((), nanos=1)))
    marked = [line for line in page("text", found).splitlines() if "part of it at no known price" in line]
    assert [line.split()[0] for line in marked] == ["a"]


@pytest.mark.parametrize("found", [SITE, ONE], ids=["site", "project"])
def test_json_is_the_same_page_for_programs(found: Statement) -> None:
    def money(text: str) -> dict[str, str]:
        return {"amount": text, "currency": "EUR"}

    projects = [
        {"project": name, "jobs": jobs, "held_s": held_s, "unknown_price_s": 0.0, "cost": money(cost)}
        for name, jobs, held_s, cost in (
            ("nlp/finetune", 12, 5400.0, "1.500000000"), ("", 1, 1e-06, "0.000000007"),
        )
    ]  # fmt: skip
    expected: dict[str, object] = {
        "period": "2026-11", "timezone": "UTC", "status": "provisional", "project": found.project,
        "currency": "EUR", "projects": projects,
        "total": money("1.500000007"), "unknown_price_s": 900.0 if found is SITE else 0.0,
        "published_at": "1970-01-01T00:00:00Z", "corrections": money("0.000000000"),
        "late": money("0.000000000"), "adjusted": [],
    }  # fmt: skip
    if found is SITE:
        expected |= {
            "idle": money("0.000000030"), "keep_alive": money("0.000000000"),
            "refund": money("0.000000000"), "down": money("0.000000000"),
            "unknown": money("0.000000000"), "overhead": money("-0.000000002"),
                "variance": money("0.000000000"), "absorption": money("0.000000000"),
            "node_cost": money("1.500000035"),
            "facts_cost": money("1.500000035"), "nodes_left_out": 0, "node_s_left_out": 0.0,
            "difference": money("0.000000000"),
        }  # fmt: skip
    assert json.loads(page("json", found)) == expected


def test_csv_has_the_projects_their_total_and_then_what_no_project_owes_up_to_the_node_cost() -> None:
    head = "line,project,jobs,held_s,unknown_price_s,cost,currency,about\n"
    projects = (
        "status,,0,0.000000,0.000000,0.000000000,EUR,provisional\n"
        "project,nlp/finetune,12,5400.000000,0.000000,1.500000000,EUR,\n"
        "project,,1,0.000001,0.000000,0.000000007,EUR,\n"
    )
    kinds = (
        "idle,,0,0.000000,0.000000,0.000000030,EUR,\n"
        "keep-alive,,0,0.000000,0.000000,0.000000000,EUR,\ndown,,0,0.000000,0.000000,0.000000000,EUR,\n"
        "unknown,,0,0.000000,0.000000,0.000000000,EUR,\n"
        "overhead,,0,0.000000,0.000000,-0.000000002,EUR,\n"
        "variance,,0,0.000000,0.000000,0.000000000,EUR,\n"
        "absorption,,0,0.000000,0.000000,0.000000000,EUR,\n"
        "refund,,0,0.000000,0.000000,0.000000000,EUR,\n"
    )
    not_checked = "0.000 node-hours at no known price are not checked"
    kinds += f"left_out,,0,0.000000,0.000000,0.000000000,EUR,{not_checked}\n"
    total = "total,,13,5400.000001,0.000000,1.500000007,EUR,\n"
    node = "node_cost,,0,0.000000,900.000000,1.500000035,EUR,\n"
    assert page("csv", SITE).replace("\r\n", "\n") == head + projects + total + kinds + node
    assert page("csv", ONE).replace("\r\n", "\n") == (head + projects + total)


ADJUSTED = msgspec.structs.replace(
    ONE,
    published_at=1_796_169_600_000_000,
    adjusted=(
        Adjusted("correction", "nlp", 3, "2026-10", -5, 2, "=throttled"),
        Adjusted("late", "", 4, "2026-11", 7, 1),
    ),
)


def test_what_is_of_other_times_is_told_by_job_month_and_reason() -> None:
    assert page("text", ADJUSTED).partition("Of what jobs pay")[2] == (
        ", in the sums above:\n"
        "correction            -0.000000005  of charges of before, booked in this period\n"
        "  job 3 of nlp, 2026-10                      -0.000000005  2 charges: =throttled\n"
        "late                   0.000000007  posted after the month was published (2026-12-02T00:00:00Z),"
        " or told when the month it is of was closed\n"
        "  job 4 of (none), 2026-11                    0.000000007  1 charge\n"
    )
    assert page("csv", ADJUSTED).splitlines()[-2:] == [
        "of_which_correction,nlp,1,0.000000,0.000000,-0.000000005,EUR,"
        '"job 3, 2026-10, 2 charges: =throttled"',
        'of_which_late,,1,0.000000,0.000000,0.000000007,EUR,"job 4, 2026-11, 1 charge"',
    ]
    found = json.loads(page("json", ADJUSTED))
    assert (found["corrections"]["amount"], found["late"]["amount"]) == ("-0.000000005", "0.000000007")
    assert found["published_at"] == "2026-12-02T00:00:00Z"
    assert [(one["kind"], one["job"], one["cost"]["amount"]) for one in found["adjusted"]] == [
        ("correction", 3, "-0.000000005"), ("late", 4, "0.000000007")
    ]  # fmt: skip
