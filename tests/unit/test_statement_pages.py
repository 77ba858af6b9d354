"""The statement in its three forms, to the letter, of a site and of one project."""

from __future__ import annotations

import json
import re

import msgspec
import pytest

from bursar.clock import HOUR_US
from bursar.errors import InvalidRequest
from bursard.reports.adjusted import Adjusted
from bursard.reports.cost import CostRow, CostTable
from bursard.reports.period import Period
from bursard.reports.statement import DayCost, Group, Statement, read_by
from bursard.reports.statement_forms import FORMATS

ROWS = (
    CostRow(("nlp/finetune",), nanos=1_500_000_000, held_us=3 * HOUR_US // 2, jobs=12, before=2_000_000_000),
    CostRow(("",), nanos=7, held_us=1, jobs=1),
)
KINDS = (
    CostRow(("usage",), nanos=1_500_000_007), CostRow(("idle",), nanos=30), CostRow(("overhead",), nanos=-2),
)  # fmt: skip
PROJECTS = CostTable(
    (), ROWS, CostRow((), nanos=1_500_000_007, held_us=3 * HOUR_US // 2 + 1, jobs=13, before=2_000_000_000)
)
SITE = Statement(
    Period("2026-11", 0, 1), "EUR", "",
    PROJECTS,
    CostTable((), KINDS, CostRow((), nanos=1_500_000_035, unknown_us=HOUR_US // 4)),
    node_nanos=1_500_000_035,
    checked_nanos=1_500_000_035,
    facts_nanos=1_500_000_035,
    groups=(Group("project", PROJECTS),),
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
        "project       jobs  hours held         cost       before     change    covered\n"
        "nlp/finetune    12       1.500  1.500000000  2.000000000  -25.0000%  100.0000%\n"
        "(none)           1       0.000  0.000000007  0.000000000        new  100.0000%\n"
        "total           13       1.500  1.500000007  2.000000000  -25.0000%  100.0000%\n"
        "\n"
        "jobs                   1.500000007  what jobs pay for their shares\n"
        "idle                   0.000000030  held by no job\n"
        "down                   0.000000000  while the machine was down\n"
        "unknown                0.000000000  while nobody knew what the machine did\n"
        "overhead              -0.000000002  rounding between shares and node cost\n"
        "variance               0.000000000  at prices in force, less at the prices that\n"
        "                                    jobs were placed at\n"
        "absorption             0.000000000  cost of shares, less what they are to pay;\n"
        "                                    below zero: jobs paid more\n"
        "node cost              1.500000035  the sum of the above\n"
        "by facts               1.500000035  what nodes must have cost by their boots and\n"
        "                                    prices alone\n"
        "difference             0.000000000  of what the facts tell of: 0, or the books\n"
        "                                    are wrong\n"
        "\n"
        "0.250 hours of shares and nodes have no known price; what they cost is unknown,\n"
        "not 0, and in no sum above.\n"
    )


def test_the_page_of_a_site_says_of_how_many_nodes_and_node_hours_the_facts_do_not_tell() -> None:
    found = msgspec.structs.replace(SITE, left_out=2, unpriced_us=5 * HOUR_US // 2)
    assert page("text", found).partition("are wrong\n")[2].splitlines()[:4] == [
        "",
        "Of 2 nodes the facts do not tell: no price at any time, or gone.",
        "",
        "2.500 node-hours at no known price are left out of the last two.",
    ]
    assert page("csv", found).splitlines()[-2] == (
        "left_out,,0,9000.000000,9000.000000,0.000000000,EUR,"
        "2.500 node-hours at no known price are not checked,,,,"
    )
    document = json.loads(page("json", found))
    assert (document["nodes_left_out"], document["node_s_left_out"]) == (2, 9000.0)


def test_the_page_of_a_project_names_it_and_nothing_of_others() -> None:
    assert page("text", ONE) == (
        "Statement 2026-11 for nlp, in EUR, days of UTC: provisional\n"
        "\n"
        "project       jobs  hours held         cost       before     change    covered\n"
        "nlp/finetune    12       1.500  1.500000000  2.000000000  -25.0000%  100.0000%\n"
        "(none)           1       0.000  0.000000007  0.000000000        new  100.0000%\n"
        "total           13       1.500  1.500000007  2.000000000  -25.0000%  100.0000%\n"
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
    table = CostTable((), (row,), msgspec.structs.replace(row, keys=()))
    found = msgspec.structs.replace(ONE, groups=(Group("project", table),))
    lines = [line.split() for line in page("text", found).splitlines()[3:]]
    assert [line[2] for line in lines] == [shown, shown]


def test_a_project_that_ran_at_no_known_price_is_marked() -> None:
    row = CostRow(("a",), nanos=1, held_us=2, unknown_us=1, jobs=1)
    table = CostTable((), (row,), CostRow((), nanos=1, held_us=2, unknown_us=1))
    found = msgspec.structs.replace(ONE, groups=(Group("project", table),))
    assert "A part at no known price: a." in page("text", found).splitlines()
    assert page("text", found).count(" 50.0000%") == 2  # its own line and the total's


def test_a_statement_is_no_wider_than_a_terminal_and_says_what_it_had_no_room_for() -> None:
    long = "a/project/with/a/name/that/is/much/longer/than/there/is/room/for"
    row = CostRow((long,), nanos=123_456_789 * 10**9, held_us=9 * HOUR_US, jobs=7, before=10**18)
    table = CostTable((), (row,), msgspec.structs.replace(row, keys=()))
    reason = "node-3 was throttled by its power supply from Monday on, and nobody had noticed until Friday"
    found = msgspec.structs.replace(
        SITE,
        groups=(Group("project", table),),
        published_at=1,
        adjusted=(Adjusted("correction", "nlp", 3, "2026-10", -(10**18), 2, reason),),
    )
    lines = page("text", found).splitlines()
    assert max(map(len, lines)) <= 80
    assert "(no room here for hours held, before: CSV and JSON have all)" in lines
    said = " ".join(line.strip() for line in lines)
    assert "nobody had noticed until Friday" in " ".join(said.split()), "a reason is never cut"


def test_what_is_by_other_things_has_its_own_tables_in_the_order_that_was_asked_for() -> None:
    row = CostRow(("R-1",), nanos=7, held_us=1, jobs=1)
    table = CostTable((), (row,), CostRow((), nanos=7, held_us=1, jobs=1))
    groups = (Group("cost-center", table), Group("user", table))
    found = msgspec.structs.replace(ONE, groups=groups)
    heads = [line.split()[0] for line in page("text", found).splitlines() if " hours held" in line]
    assert heads == ["cost-center", "user"]
    lines = [line.split(",") for line in page("csv", found).splitlines()]
    assert [(line[0], line[5]) for line in lines if line[8] == "R-1"] == [
        ("by_cost-center", "0.000000007"), ("by_user", "0.000000007")
    ]  # fmt: skip
    told = json.loads(page("json", found))["groups"]
    assert [(one["by"], one["rows"][0]["name"]) for one in told] == [
        ("cost-center", "R-1"), ("user", "R-1")
    ]  # fmt: skip
    assert "<h2>By cost-center</h2>" in page("html", found)


def test_a_name_of_a_user_is_text_in_every_form() -> None:
    row = CostRow(('=1+1"<script>\x1b',), nanos=7, held_us=1, jobs=1)
    table = CostTable((), (row,), CostRow((), nanos=7, held_us=1, jobs=1))
    found = msgspec.structs.replace(
        ONE, groups=(Group("user", table),), days=(DayCost("1970-01-01", "<b>\x1b", 7),)
    )
    html = page("html", found)
    assert "<script" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;?" in html
    assert "\x1b" not in page("text", found) + html
    assert "'=1+1" in page("csv", found)


def test_html_is_one_file_that_names_nothing_to_fetch_and_prints_its_heads_on_every_sheet() -> None:
    days = (DayCost("1970-01-01", "nlp", 3), DayCost("1970-01-01", "x", 4))
    found = msgspec.structs.replace(SITE, days=days)
    html = page("html", found)
    assert not re.search(r"(src|href|url\(|@import|<script|<link)", html)
    assert "thead { display: table-header-group; }" in html
    assert html.count('<svg viewBox="0 0 1000') == 2  # by day, and what the nodes cost
    assert html == page("html", found)
    assert "1.500000035" in html


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ("project", "cost-center", "user", "model")),
        ("user", ("user",)),
        (" cost-center , label:team,", ("cost-center", "label:team")),
    ],
)
def test_what_a_statement_is_by_is_said_in_the_words_of_cost(text: str, found: tuple[str, ...]) -> None:
    assert read_by(text) == found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("node", "by: a statement is not by 'node'; known: project"),
        ("label:", "by: a statement is not by 'label:'"),
        ("user,user", "by: names the same twice"),
        ("cost-center,cost-center", "by: names the same twice"),
        (",".join(f"label:{at}" for at in range(9)), "by: names 9 parts, more than 8"),
    ],
)
def test_what_a_statement_cannot_be_by_is_refused(text: str, told: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{re.escape(told)}"):
        read_by(text)


@pytest.mark.parametrize("found", [SITE, ONE], ids=["site", "project"])
def test_json_is_the_same_page_for_programs(found: Statement) -> None:
    def money(text: str) -> dict[str, str]:
        return {"amount": text, "currency": "EUR"}

    projects = [
        {
            "project": name, "jobs": jobs, "held_s": held_s, "gpu_s": 0.0, "unknown_price_s": 0.0,
            "cost": money(cost), "before": money(before), "change_percent": change, "covered_percent": 100.0,
        }
        for name, jobs, held_s, cost, before, change in (
            ("nlp/finetune", 12, 5400.0, "1.500000000", "2.000000000", -25.0),
            ("", 1, 1e-06, "0.000000007", "0.000000000", None),
        )
    ]  # fmt: skip
    expected: dict[str, object] = {
        "period": "2026-11", "timezone": "UTC", "status": "provisional", "project": found.project,
        "currency": "EUR", "projects": projects, "budgets": [], "compared_with": None,
        "groups": [{"by": "project", "rows": [
            {"name": one["project"], **{key: value for key, value in one.items() if key != "project"}}
            for one in projects
        ]}],
        "before": money("2.000000000"), "change_percent": -25.0, "covered_percent": 100.0,
        "total": money("1.500000007"), "unknown_price_s": 900.0 if found is SITE else 0.0,
        "published_at": "1970-01-01T00:00:00Z", "corrections": money("0.000000000"),
        "late": money("0.000000000"), "adjusted": [], "reattributed": [],
    }  # fmt: skip
    if found is SITE:
        expected |= {
            "idle": money("0.000000030"), "reserved": money("0.000000000"),
            "keep_alive": money("0.000000000"),
            "refund": money("0.000000000"), "down": money("0.000000000"),
            "unknown": money("0.000000000"), "overhead": money("-0.000000002"),
                "variance": money("0.000000000"), "absorption": money("0.000000000"),
            "node_cost": money("1.500000035"),
            "facts_cost": money("1.500000035"), "nodes_left_out": 0, "node_s_left_out": 0.0,
            "difference": money("0.000000000"),
        }  # fmt: skip
    assert json.loads(page("json", found)) == expected


def test_csv_has_the_projects_their_total_and_then_what_no_project_owes_up_to_the_node_cost() -> None:
    head = (
        "line,project,jobs,held_s,unknown_price_s,cost,currency,about,"
        "name,before,change_percent,covered_percent\n"
    )
    projects = (
        "status,,0,0.000000,0.000000,0.000000000,EUR,provisional,,,,\n"
        "project,nlp/finetune,12,5400.000000,0.000000,1.500000000,EUR,,"
        "nlp/finetune,2.000000000,-25.0000,100.0000\n"
        "project,,1,0.000001,0.000000,0.000000007,EUR,,,0.000000000,,100.0000\n"
    )
    kinds = (
        "idle,,0,0.000000,0.000000,0.000000030,EUR,\n"
        "reserved,,0,0.000000,0.000000,0.000000000,EUR,\n"
        "keep-alive,,0,0.000000,0.000000,0.000000000,EUR,\ndown,,0,0.000000,0.000000,0.000000000,EUR,\n"
        "unknown,,0,0.000000,0.000000,0.000000000,EUR,\n"
        "overhead,,0,0.000000,0.000000,-0.000000002,EUR,\n"
        "variance,,0,0.000000,0.000000,0.000000000,EUR,\n"
        "absorption,,0,0.000000,0.000000,0.000000000,EUR,\n"
        "refund,,0,0.000000,0.000000,0.000000000,EUR,\n"
    )
    not_checked = "0.000 node-hours at no known price are not checked"
    kinds += f"left_out,,0,0.000000,0.000000,0.000000000,EUR,{not_checked}\n"
    total = "total,,13,5400.000001,0.000000,1.500000007,EUR,,,2.000000000,-25.0000,100.0000\n"
    kinds = kinds.replace("\n", ",,,,\n")
    node = "node_cost,,0,0.000000,900.000000,1.500000035,EUR,,,,,\n"
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
        "  job 3 of nlp, 2026-10                -0.000000005  2 charges: =throttled\n"
        "late                   0.000000007  posted after the month was published\n"
        "                                    (2026-12-02T00:00:00Z), or told when the\n"
        "                                    month it is of was closed\n"
        "  job 4 of (none), 2026-11              0.000000007  1 charge\n"
    )
    assert page("csv", ADJUSTED).splitlines()[-2:] == [
        "of_which_correction,nlp,1,0.000000,0.000000,-0.000000005,EUR,"
        '"job 3, 2026-10, 2 charges: =throttled",,,,',
        'of_which_late,,1,0.000000,0.000000,0.000000007,EUR,"job 4, 2026-11, 1 charge",,,,',
    ]
    found = json.loads(page("json", ADJUSTED))
    assert (found["corrections"]["amount"], found["late"]["amount"]) == ("-0.000000005", "0.000000007")
    assert found["published_at"] == "2026-12-02T00:00:00Z"
    assert [(one["kind"], one["job"], one["cost"]["amount"]) for one in found["adjusted"]] == [
        ("correction", 3, "-0.000000005"), ("late", 4, "0.000000007")
    ]  # fmt: skip
