"""Whoever hands in a table of very many columns is told so at once, whichever table it is."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bursar.cli import pricefile, reconcile
from bursar.errors import InvalidRequest
from bursar.smallfile import COLUMNS_MAX, check_columns
from bursard.machines.localfile import parse_trace
from bursard.sim import csvfile

MANY = 600_000


def prices(path: Path) -> object:
    return pricefile.read_table(str(path), {}, {}, source="s", skip_unpriced=False)


def bill(path: Path) -> object:
    return reconcile.read_bill(str(path), io.StringIO(path.read_text()), "EffectiveCost", 0, 2**60)


def trace(path: Path) -> object:
    return csvfile.Table(str(path), ("job_id", "gpus"), ("job_id",))


READERS: dict[str, Callable[[Path], object]] = {"prices": prices, "bill": bill, "trace": trace}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("same", [True, False], ids=["all alike", "all different"])
def test_a_table_of_six_hundred_thousand_columns_is_refused_at_once(
    tmp_path: Path, read: Callable[[Path], object], same: bool
) -> None:
    """Each of them was compared with all others, or with all names that are known: a minute of work."""
    file = tmp_path / "wide.csv"
    file.write_text(",".join("a" if same else f"c{number}" for number in range(MANY)) + "\n1,2\n")
    before = time.process_time()
    with pytest.raises(InvalidRequest, match=r"wide\.csv.* has 600,000 columns, a table has at most 2,000"):
        read(file)
    assert time.process_time() - before < 10, "CPU time; it takes a tenth of a second"


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_as_many_columns_as_a_table_may_have_are_read(tmp_path: Path, read: Callable[[Path], object]) -> None:
    file = tmp_path / "wide.csv"
    file.write_text(",".join(f"c{number}" for number in range(COLUMNS_MAX)) + "\n")
    with pytest.raises(InvalidRequest) as refused:
        read(file)
    assert "at most 2,000" not in str(refused.value)
    check_columns([""] * COLUMNS_MAX)


def test_rows_that_are_all_wrong_are_not_all_remembered(tmp_path: Path) -> None:
    file = tmp_path / "wrong.csv"
    file.write_text("job_id,gpus\n" + "x\n" * (3 * csvfile.FAULTS_MAX))
    table = csvfile.Table(str(file), ("job_id", "gpus"), ("job_id",))
    with pytest.raises(InvalidRequest, match=f"and {csvfile.FAULTS_MAX - csvfile.FAULTS_SHOWN} more"):
        for _ in table.rows():
            pass


@pytest.mark.parametrize("line", [",".join("1" * MANY), "1" * 200_000 + ",2", '"1,2'])
def test_a_trace_of_spot_machines_with_a_line_that_is_none_is_refused(line: str) -> None:
    with pytest.raises(InvalidRequest, match=r"t\.csv:"):
        parse_trace(f"from_s,to_s\n{line}\n", "t.csv")
