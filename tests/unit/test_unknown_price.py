"""What ran where no price is known is told as unknown, never as 0."""

from __future__ import annotations

import pytest

from bursar.cli.jobs import JOB_COLUMNS
from bursar.cli.money import _total_text, cost_columns
from bursar.cli.output import table_text, write_csv
from bursar.cli.submit import _end_text
from bursar.cli.texts import _money_pairs
from bursar.codec import view
from bursar.v1 import money_pb2, types_pb2

SOME = money_pb2.CostRow(keys=["nlp"], nanos=10**9, cpu_nanos=10**9, unknown_us=5_000_000)
NONE = money_pb2.CostRow(keys=["cv"], unknown_us=3_000_000, held_us=3_000_000)
FREE = money_pb2.CostRow(keys=["web"], held_us=1_000_000)


def test_a_sum_of_an_unknown_price_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [view.cost_row(row, ["project"], "USD") for row in (SOME, NONE, FREE)]
    lines = table_text(rows, cost_columns(["project"]), None).splitlines()
    titles = "PROJECT COST GPU_COST CPU_COST MEMORY_COST TIME GPU_HOURS JOBS UNPRICED".replace("_", " ")
    assert " ".join(lines[0].split()) == titles
    assert [line.split() for line in lines[1:]] == [
        ["nlp", "1.00", "USD", "0.00", "USD", "1.00", "USD", "0.00", "USD", "0s", "-", "0", "5s"],
        ["cv", "unknown", "unknown", "unknown", "unknown", "3s", "-", "0", "3s"],
        ["web", "0.00", "USD", "0.00", "USD", "0.00", "USD", "0.00", "USD", "1s", "-", "0", "-"],
    ]
    assert _total_text(rows[1]) == "total unknown, with 3s at an unknown price"
    assert _total_text(rows[2]) == "total 0.00 USD"
    write_csv(rows, cost_columns(["project"]))
    assert capsys.readouterr().out.splitlines()[2].startswith("cv,,,,,3,")


@pytest.mark.parametrize(
    ("settled", "unknown", "cell", "text"),
    [
        (0, True, "unknown", "unknown  (it ran at an unknown price)"),
        (10**9, True, "1.00 USD", "1.00 USD and an unknown part  (part of it ran at an unknown price)"),
        (0, False, "0.00 USD", "0.00 USD"),
    ],
)
def test_a_job_of_an_unknown_price_has_an_unknown_cost(
    settled: int, unknown: bool, cell: str, text: str
) -> None:
    wire = types_pb2.Job(
        state="SUCCEEDED", settled_nanos=settled, cost_unknown=unknown, currency="USD", exit_code=0
    )
    row = view.job(wire)
    columns = [column for column in JOB_COLUMNS if column.name == "cost"]
    assert table_text([row], columns, None).splitlines()[1] == cell
    assert dict(_money_pairs(row))["cost"] == text
    assert _end_text(wire) == f"cost {text.partition('  ')[0]}, exit code 0"
