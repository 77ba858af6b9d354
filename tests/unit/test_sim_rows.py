"""The rows of `sim --out-jobs`, which people open in spreadsheets."""

from __future__ import annotations

import csv
import io
from types import SimpleNamespace
from typing import Any

from bursard.sim.summary import jobs_csv


def test_no_cell_of_the_jobs_is_run_by_a_spreadsheet() -> None:
    row = SimpleNamespace(job_id="=cmd|' /C calc'!A0", submit_us=0)
    run: Any = SimpleNamespace(
        row=row, state="DONE", start_us=0, end_us=1, nodes=("@n", "m"), cost_nanos=-5, priced=True, attempts=1
    )
    (found,) = csv.DictReader(io.StringIO(jobs_csv([run])))
    assert found["job_id"] == "'=cmd|' /C calc'!A0"
    assert found["nodes"] == "'@n|m"
    assert found["cost"].startswith("-")
